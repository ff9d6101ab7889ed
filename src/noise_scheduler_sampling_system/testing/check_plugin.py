"""An installed plug-in: that it loads, and that what it registers conforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, final

from ..config.registries import DENSITIES, NOISES, PRESETS, SAMPLERS, SCHEDULES, SPACINGS, WEIGHTINGS
from ..config.settings import NoiseSchedulerConfig
from ..integrations.diffusers.pipelines.backbones import BACKBONES, Backbone
from ..pipeline.pipeline import DiffusionPipeline
from ..support.errors import ConfigurationError
from ..support.plugins import GROUP, Plugin, installed_plugins
from .check_sampler import check_sampler
from .check_schedule import check_schedule
from .check_spacing import check_spacing
from .check_training import check_density, check_weighting

__all__ = ["PluginReport", "check_plugin"]

#: Steps of a preset that states none.
_STEPS: Final = 10


@final
@dataclass(frozen=True)
class PluginReport:
    """What :func:`check_plugin` found.

    Attributes:
        plugin: the plug-in, with its package and the names that it registered.
        reports: what was measured, by (kind, name); a text where nothing is measured.
    """

    plugin: Plugin
    reports: dict[tuple[str, str], Any]

    def __str__(self) -> str:
        lines = [f"{self.plugin}"]
        for (kind, name), report in self.reports.items():
            lines += [f"{kind} {name!r}", *(f"  {line}" for line in str(report).splitlines())]
        return "\n".join(lines)


def check_plugin(name: str) -> PluginReport:
    """Load an installed plug-in and check everything that it registered.

    Samplers, noise schedules, spacings, densities and weightings are measured by :func:`check_sampler`,
    :func:`check_schedule`, :func:`check_spacing`, :func:`check_density` and :func:`check_weighting`. A preset
    must make a config and a plan of its sampler. A backbone must be derived from ``Backbone``. Names of samplers are
    only listed.

    Args:
        name: of the entry point.

    Raises:
        ConfigurationError: there is no such plug-in, it could not be loaded, it registered nothing, or something of it
            does not conform.
    """
    found = [plugin for plugin in installed_plugins() if plugin.name == name]
    if not found:
        names = ", ".join(repr(plugin.name) for plugin in installed_plugins()) or "none"
        raise ConfigurationError(
            f"no plug-in {name!r} is installed",
            where="check_plugin",
            why=f"installed are: {names}",
            suggestion=f"install the package, with an entry point of the group {GROUP!r}",
        )
    if len(found) > 1:
        raise ConfigurationError(
            " and ".join(map(str, found)) + " have one name", where="check_plugin", suggestion="rename one of them"
        )
    (plugin,) = found
    if plugin.problem:
        raise ConfigurationError(
            f"could not be loaded: {plugin.problem}", where=str(plugin), suggestion="see the cause"
        )
    if not plugin.names:
        raise ConfigurationError(
            "registers nothing",
            where=str(plugin),
            why="what was registered before the plug-ins were loaded is not counted",
            suggestion="let the entry point lead to the module or function that registers, and do not import it before",
        )
    return PluginReport(plugin, {(kind, entry): _report(kind, entry) for kind, entry in plugin.names})


def _report(kind: str, name: str) -> Any:
    if kind == SAMPLERS.kind and name in SAMPLERS:
        return check_sampler(name)
    if kind == SCHEDULES.kind and name in SCHEDULES:
        return check_schedule(name)
    if kind == SPACINGS.kind and name in SPACINGS:
        return check_spacing(name)
    if kind == DENSITIES.kind and name in DENSITIES:
        return check_density(name)
    if kind == WEIGHTINGS.kind and name in WEIGHTINGS:
        return check_weighting(name)
    if kind == NOISES.kind and name in NOISES:
        return NOISES.get(name).__name__
    if kind == PRESETS.kind and name in PRESETS:
        preset = PRESETS.get(name)
        pipeline = DiffusionPipeline(NoiseSchedulerConfig.preset(name), preset.sampler or "ddim")
        return f"{pipeline.plan(preset.steps or _STEPS).nfe} model calls, {preset.source}"
    if kind == BACKBONES.kind and name in BACKBONES:
        entry = BACKBONES.get(name)
        if not (isinstance(entry, type) and issubclass(entry, Backbone)):
            raise ConfigurationError(
                f"{entry!r} is not a class derived from Backbone", where=f"{kind} {name!r}", suggestion="derive it"
            )
        return entry.__name__
    return "another name"
