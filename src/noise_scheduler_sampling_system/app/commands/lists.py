"""The commands ``samplers``, ``schedules``, ``spacings`` and ``presets``: what is registered."""

from __future__ import annotations

import inspect
from typing import Any

from ..output import Json, Output, Quiet

__all__ = ["presets", "samplers", "schedules", "spacings"]


def samplers(as_json: Json = False, quiet: Quiet = False) -> None:
    """List the samplers: order, model calls a step, whether they add noise, options with their defaults."""
    from ...config.registries import SAMPLERS
    from ...samplers.factory import SamplerFactory

    output = Output(as_json, quiet)
    if output.names(sorted(SAMPLERS)):
        return
    made = {name: SamplerFactory.create(name) for name in sorted(SAMPLERS)}
    output.result([
        {
            "name": name, "order": each.order, "calls_per_step": each.calls_per_step, "stochastic": each.stochastic,
            "spacing": each.spacing, "options": dict(each.option_defaults), "aliases": SAMPLERS.names_of(name),
        }
        for name, each in made.items()
    ])  # fmt: skip
    rows = [("name", "order", "calls", "noise", "options")]
    rows += [
        (name, str(m.order), str(m.calls_per_step), "yes" if m.stochastic else "no", _options(m.option_defaults))
        for name, m in made.items()
    ]
    output.table(rows, numbers=(1, 2), folds=(4,))


def schedules(as_json: Json = False, quiet: Quiet = False) -> None:
    """List the noise schedules, with the noise-to-signal ratio σ/α at both ends."""
    from ...config.choices import BetaSchedule
    from ...config.registries import SCHEDULES
    from ...schedules.factory import NoiseSchedulerFactory

    output = Output(as_json, quiet)
    if output.names(sorted(SCHEDULES)):
        return
    data: list[dict[str, Any]] = []
    for name in sorted(SCHEDULES):
        ends: list[float | None] = [None, None]  # custom: those of the betas that are given
        if name != BetaSchedule.CUSTOM.value:
            path = NoiseSchedulerFactory.create(name)
            ends = [path.level(t).noise_to_signal for t in (path.t_min, path.t_max)]
        options = dict(SCHEDULES.get(name).option_defaults)
        data.append({"name": name, "cleanest": ends[0], "noisiest": ends[1], "options": options})
    output.result(data)
    rows = [("name", "σ/α, cleanest", "σ/α, noisiest", "options")]
    for each in data:
        cells = ("(trained_betas)", "") if each["cleanest"] is None else (f"{each[k]:.4g}" for k in _ENDS)
        rows.append((each["name"], *cells, _options(each["options"])))
    output.table(rows, numbers=(1, 2), folds=(3,))


_ENDS = ("cleanest", "noisiest")


def spacings(as_json: Json = False, quiet: Quiet = False) -> None:
    """List the timestep spacings: what each is, and its options."""
    from ...config.options import parameters_of
    from ...config.registries import SPACINGS

    output = Output(as_json, quiet)
    if output.names(sorted(SPACINGS)):
        return
    data: list[dict[str, Any]] = []
    for name in sorted(SPACINGS):
        function = SPACINGS.get(name)
        about = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ").replace("``", "")
        options = {key: option.default for key, option in parameters_of(function, 2).items()}
        data.append({"name": name, "about": about, "options": options})
    output.result(data)
    output.table(
        [("name", "options", "what it is"), *((d["name"], _options(d["options"]), d["about"]) for d in data)],
        folds=(1, 2),
    )


def presets(as_json: Json = False, quiet: Quiet = False) -> None:
    """List the settings of published models: --preset NAME uses them."""
    from ...config.registries import PRESETS
    from ...config.settings import NoiseSchedulerConfig

    output = Output(as_json, quiet)
    if output.names(sorted(PRESETS)):
        return
    data: list[dict[str, Any]] = []
    for name in sorted(PRESETS):
        preset, config = PRESETS.get(name), NoiseSchedulerConfig.preset(name).to_dict()
        data.append({
            "name": name, "schedule": config["beta_schedule"], "prediction": config["prediction_type"],
            "spacing": config["timestep_spacing"], "sampler": preset.sampler, "steps": preset.steps,
            "aliases": PRESETS.names_of(name), "source": preset.source, "note": preset.note,
            "tokens": preset.tokens, "settings": dict(preset.fields),
        })  # fmt: skip
    output.result(data)
    heads = ("name", "schedule", "prediction", "sampler", "steps", "note")
    output.table(
        [heads, *(tuple(str(d[key] or "") for key in heads) for d in data)], numbers=(4,), folds=(5,), drops=(2, 4)
    )


def _options(options: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items())
