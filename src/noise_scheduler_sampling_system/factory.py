"""The two factories: objects by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any

from .config import NoiseSchedulerConfig, default_spacing, spacing_of
from .errors import ConfigurationError
from .names import Resolved, resolve
from .registries import SAMPLERS, SCHEDULES
from .registry import Registry
from .samplers.base import BaseSampler
from .schedules.path import NoisePath

__all__ = ["NoiseSchedulerFactory", "SamplerFactory"]


class _Factory:
    """What both factories share: a table of classes derived from one base."""

    registry: Registry[Any]
    base: type

    @classmethod
    def available(cls) -> list[str]:
        """Every registered name, sorted."""
        return sorted(cls.registry)

    @classmethod
    def register(cls, name: str | Enum, entry: type | None = None) -> Callable[[type], type] | type:
        """Make a class available by name: ``register("mine", Mine)``, or a decorator ``@register("mine")``.

        The name is then accepted wherever an enum member is.

        Raises:
            ConfigurationError: the name is taken, or the class has the wrong base.
        """

        def add(entry: type) -> type:
            cls.registry.register(name, cls._derived(entry, f"register({Registry.key(name)!r})"))
            return entry

        return add if entry is None else add(entry)

    @classmethod
    def _derived(cls, entry: Any, where: str) -> type:
        if isinstance(entry, type) and issubclass(entry, cls.base):
            return entry
        raise ConfigurationError(
            f"{entry!r} is not a class derived from {cls.base.__name__}",
            where=f"{cls.__name__}.{where}",
            suggestion=f"write class Mine({cls.base.__name__}) and give the class itself",
        )


class NoiseSchedulerFactory(_Factory):
    """Noise schedules by name."""

    registry = SCHEDULES
    base = NoisePath

    @classmethod
    def create(
        cls,
        config: NoiseSchedulerConfig | Mapping[str, Any] | str | Enum | None = None,
        settings: NoiseSchedulerConfig | Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> NoisePath:
        """The schedule that a config asks for: ``create(config)``, ``create("cosine")``, ``create("cosine", config)``.

        Args:
            config: a config, a mapping of its fields, or a schedule's name.
            settings: with a name, the config of everything else.
            fields: further fields of the config.

        Raises:
            ConfigurationError: an unknown name or a bad field.
        """
        if isinstance(config, str | Enum):
            fields, config = {"beta_schedule": config, **fields}, settings
        elif settings is not None:
            raise ConfigurationError(
                "two configs are given",
                where="settings",
                suggestion="create(config), or create(name, config) with a schedule's name",
            )
        if isinstance(config, Mapping):
            config = NoiseSchedulerConfig.from_dict(config)
        whole = (config or NoiseSchedulerConfig()).replace(**fields) if fields or config is None else config
        scheduler: NoisePath = SCHEDULES.get(whole.beta_schedule, "beta_schedule")(whole)
        return scheduler


class SamplerFactory(_Factory):
    """Samplers by name."""

    registry = SAMPLERS
    base = BaseSampler

    @classmethod
    def create(
        cls,
        method: str | Enum | type[BaseSampler] | BaseSampler,
        scheduler: NoisePath | NoiseSchedulerConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> BaseSampler:
        """A sampler by member, value, registered name, class or example, on a noise schedule.

        Args:
            method: which sampler; a sampler object keeps its options. Names of diffusers, k-diffusion,
                ComfyUI and web interfaces are understood (names.py); one that implies a spacing
                ("DPM++ 2M Karras") sets it.
            scheduler: the noise schedule, or the config of one (default: linear).
            options: the sampler's own options, e.g. ``eta``.

        Raises:
            ConfigurationError: an unknown name or option.
        """
        if not isinstance(scheduler, NoisePath):
            scheduler = NoiseSchedulerFactory.create(scheduler)
        if isinstance(method, BaseSampler):
            return method.on(scheduler, **options)
        if isinstance(method, type):
            made: BaseSampler = cls._derived(method, "create")(scheduler, **options)
            return made
        meant = resolve(method)
        if meant.spacing is not None or meant.spacing_options:
            scheduler = _respaced(scheduler, meant, Registry.key(method))
        sampler: BaseSampler = SAMPLERS.get(meant.sampler)(scheduler, **{**meant.options, **options})
        return sampler


def _respaced(scheduler: NoisePath, meant: Resolved, name: str) -> NoisePath:
    """The noise schedule with the spacing that a sampler's name implies."""
    config = scheduler.config
    given = config.timestep_spacing
    chosen_already = given not in ("auto", "leading", default_spacing(config), meant.spacing)
    if chosen_already and not meant.firm:
        meant = replace(meant, spacing=None)
    if chosen_already and meant.spacing is not None:
        raise ConfigurationError(
            f"the sampler {name!r} implies the spacing {meant.spacing!r}, and the config asks for {given!r}",
            where="timestep_spacing",
            suggestion=f"name the sampler {meant.sampler!r}, or set timestep_spacing={meant.spacing!r} in the config",
        )
    chosen = meant.spacing or spacing_of(config, SAMPLERS.get(meant.sampler).spacing)
    options = {**meant.spacing_options, **config.spacing_options}
    return scheduler.spaced(chosen, options)
