"""The pages of every sampler, noise schedule, spacing and preset with its options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from noise_scheduler_sampling_system import SamplerFactory
from noise_scheduler_sampling_system.config import Option
from noise_scheduler_sampling_system.config.options import parameters_of
from noise_scheduler_sampling_system.config.registries import PRESETS, SAMPLERS, SCHEDULES, SPACINGS
from noise_scheduler_sampling_system.grids.time_grid import COMMON_OPTIONS

from .tables import cell, code, prose, section, table

_MADE = "This page is made from the library. "


def pages() -> dict[str, str]:
    """The four pages."""
    return {
        "reference/sampler-options.md": _samplers(),
        "reference/schedule-options.md": _schedules(),
        "reference/spacing-options.md": _spacings(),
        "reference/presets.md": _presets(),
    }


def _options(declared: Mapping[str, Option], said: Mapping[str, str]) -> str:
    rows = [
        [code(name), code(_default(option.default)), cell(option.allowed), cell(said.get(name, ""))]
        for name, option in declared.items()
    ]
    return table(["option", "default", "allowed", "meaning"], rows)


def _default(value: Any) -> str:
    return "inf" if isinstance(value, float) and value >= 1e9 else repr(value)


def _meanings(cls: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of its options."""
    found: dict[str, str] = {}
    for base in cls.__mro__[:-1]:
        found = {**section(base, "Options"), **found}
    return found


def _samplers() -> str:
    lines = [
        "# Every sampler with its options\n",
        'Give a sampler by its name, and its options as keywords: `DiffusionPipeline(config, "ddim", eta=0.5)`, or in '
        "a file `sampler_options: {eta: 0.5}`. " + _MADE + "[Samplers, measured](../samplers.md) has the orders and "
        "errors, [Choose a sampler](../choose.md) says which to take.\n",
        "Every sampler that writes plans but `flow_map` also has `afs=True`, the analytic first step, which saves the "
        "first model call. Every sampler whose order is above 1 has `guarded`: it lowers the order of a step that "
        "would widen or narrow the data ([methods](../methods.md)).\n",
    ]
    rows = [
        [f"[`{name}`](#{name})", str(cls.order), str(cls.calls_per_step), "yes" if cls.stochastic else "no",
         code(cls.spacing), ", ".join(code(option) for option in cls.declared_options)]
        for name, cls in _sorted(SAMPLERS)
    ]  # fmt: skip
    lines.append(table(["sampler", "order", "calls a step", "adds noise", "spacing", "options"], rows))
    for name, cls in _sorted(SAMPLERS):
        lines.append(f"\n## `{name}` {{ #{name} }}\n\n{prose(cls)}\n")
        if cls.declared_options:
            lines.append(_options(SamplerFactory.create(name).declared_options, _meanings(cls)))
    return "\n".join(lines)


def _schedules() -> str:
    lines = [
        "# Every noise schedule with its options\n",
        'Give a schedule by its name: `NoiseSchedulerConfig(beta_schedule="flow", schedule_options={"shift": 3.0})`. '
        + _MADE + "[Paths and grids](../paths-and-grids.md) compares them; [Paths](../concepts/paths.md) explains "
        "what a path is.\n",
    ]  # fmt: skip
    for name, cls in _sorted(SCHEDULES):
        lines.append(f"\n## `{name}` {{ #{name} }}\n\n{prose(cls)}\n")
        also = ", ".join(f"`{field}: {value}`" for field, value in cls.defaults.items())
        if also:
            lines.append(f"Its own defaults: {also}.\n")
        if cls.declared_options:
            lines.append(_options(cls.declared_options, _meanings(cls)))
    return "\n".join(lines)


def _spacings() -> str:
    lines = [
        "# Every spacing with its options\n",
        'Give a spacing by its name: `NoiseSchedulerConfig(timestep_spacing="karras", spacing_options={"rho": 5.0})`. '
        + _MADE + "[Grids](../concepts/grids.md) explains how to choose one.\n",
    ]  # fmt: skip
    for name, function in _sorted(SPACINGS):
        lines.append(f"\n## `{name}` {{ #{name} }}\n\n{prose(function)}\n")
        own = parameters_of(function, 2)
        if own:
            lines.append(_options(own, section(function, "Options")))
    lines.append("\n## Options of every spacing\n")
    said = {
        "discard_penultimate": "make one more level and leave out the last but one; N intervals remain",
        "end": 'where the run ends: at the clean sample, or at the cleanest level of the path ("lowest")',
    }
    lines.append(_options(COMMON_OPTIONS, said))
    return "\n".join(lines)


def _presets() -> str:
    rows = []
    for name in PRESETS:
        preset = PRESETS.get(name)
        fields = ", ".join(f"`{field}={_shown(value)}`" for field, value in preset.fields.items())
        rows.append([code(name), fields, code(preset.sampler or ""), str(preset.steps or ""), cell(preset.source),
                     cell(preset.note)])  # fmt: skip
    return (
        "# Every preset\n\nA preset holds the settings with which a model was published: "
        '`NoiseSchedulerConfig.preset("sdxl")`. ' + _MADE + "Fields that are not named have their "
        "[default](settings.md). Sampler and steps are those of the authors.\n\n"
        + table(["preset", "fields", "sampler", "steps", "source", "note"], rows)
    )


def _shown(value: Any) -> str:
    text = repr(dict(value)) if isinstance(value, Mapping) else repr(value)
    return re.sub(r"\d+\.\d{6,}", lambda found: f"{float(found[0]):.5g}", text).replace("|", "\\|")


def _sorted(registry: Any) -> list[tuple[str, Any]]:
    return [(name, registry.get(name)) for name in sorted(registry)]
