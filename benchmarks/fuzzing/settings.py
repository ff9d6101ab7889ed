"""Random settings, as nobody would choose them.

A setting is a noise schedule with its options, a modifier, a spacing with its options, a sampler with its options, a
number of steps, a prediction type, clipping and guidance; drawn inside the declared ranges, at their ends, far beyond
them, and of the wrong type.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from noise_scheduler_sampling_system import (
    BetaSchedule,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    Option,
    ShiftedSNR,
    ZeroTerminalSNR,
    guidance,
)
from noise_scheduler_sampling_system.config.options import parameters_of
from noise_scheduler_sampling_system.config.prediction import PREDICTION_TYPES
from noise_scheduler_sampling_system.config.registries import SAMPLERS, SCHEDULES, SPACINGS
from noise_scheduler_sampling_system.config.settings import VARIANCE_TYPES

from .case import Case, Kind

__all__ = ["SettingKind"]

SHAPE = (2, 4)
WRONG: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**400, -(10**400), 1e308, -1e308, 5e-324, 1e-300, math.nan, math.inf, -math.inf,
    "", "x" * 50, "1", b"1", [], [1.0], {}, {"a": 1}, (), 1j, object(), len, int, torch.tensor(1.0),
    torch.tensor([1.0, 2.0]), 0.5, 2, 1e30, 1e-30, 3.7,
)  # fmt: skip
STEPS = (1, 1, 2, 2, 3, 4, 5, 6, 7, 9, 10, 10, 10, 16, 20, 20, 25, 33, 50, 50, 100, 250)


def value_of(option: Option, draw: random.Random, wild: bool) -> Any:
    """A value for an option: inside its range or, if wild, anything."""
    if wild and draw.random() < 0.5:
        return draw.choice(WRONG)
    if option.choices is not None:
        return draw.choice(option.choices)
    if option.type is bool:
        return draw.random() < 0.5
    if option.type is int:
        low = 0 if option.minimum is None else int(option.minimum)
        high = low + 20 if option.maximum is None else int(option.maximum)
        return draw.choice([low, low + 1, min(low + 3, high), draw.randint(low, min(high, low + 10)), high])
    if option.type is float:
        return _number(option, draw)
    return option.default


def _number(option: Option, draw: random.Random) -> float:
    low = next((b for b in (option.minimum, option.above) if b is not None), -10.0)
    high = next((b for b in (option.maximum, option.below) if b is not None), max(10.0, 10.0 * low))
    kind = draw.random()
    if kind < 0.15:
        return draw.choice([low, high, math.nextafter(low, high), math.nextafter(high, low)])
    if kind < 0.4 and isinstance(option.default, float):
        return option.default * math.exp(draw.gauss(0.0, 0.7))
    if kind < 0.7 and low >= 0.0:
        least = max(low, high * 1e-12)
        return math.exp(draw.uniform(math.log(least), math.log(max(high, least))))
    return draw.uniform(low, high)


def some_of(declared: Mapping[str, Option], draw: random.Random, wild: bool) -> dict[str, Any]:
    """Values for some of the options."""
    chosen = [name for name in declared if draw.random() < (0.4 if wild else 0.25)]
    given = {name: value_of(declared[name], draw, wild) for name in chosen}
    return {**given, "nonsense": draw.choice(WRONG)} if wild and draw.random() < 0.05 else given


@dataclass(frozen=True)
class Setting:
    """One draw."""

    fields: Mapping[str, Any]
    modifiers: Sequence[tuple[str, Any]]
    sampler: str
    options: Mapping[str, Any]
    run: Mapping[str, Any]

    @classmethod
    def drawn(cls, draw: random.Random) -> Setting:
        wild = draw.random() < 0.25
        schedule = draw.choice(sorted(SCHEDULES))
        spacing = draw.choice(sorted(SPACINGS))
        fields: dict[str, Any] = {"beta_schedule": schedule}
        if draw.random() < 0.8:
            fields["timestep_spacing"] = spacing
            common = {"discard_penultimate": Option(False), "end": Option("clean", choices=("clean", "lowest"))}
            fields["spacing_options"] = some_of({**parameters_of(SPACINGS.get(spacing), 2), **common}, draw, wild)
        fields["schedule_options"] = some_of(SCHEDULES.get(schedule).declared_options, draw, wild)
        if issubclass(SCHEDULES.get(schedule), SCHEDULES.get("linear").__base__):
            fields |= _betas(schedule, draw, wild)
        if draw.random() < 0.8:
            usual = ["v_prediction", "sample", *PREDICTION_TYPES]
            fields["prediction_type"] = draw.choice(WRONG if wild and draw.random() < 0.1 else usual)
        fields |= _clipping(draw, wild)
        sampler = draw.choice(sorted(SAMPLERS))
        declared = {**SAMPLERS.get(sampler).declared_options, "afs": Option(False)}
        modifiers = [
            ("zero", None) if draw.random() < 0.5 else ("shift", value_of(_SHIFT, draw, wild))
            for _ in range(draw.choice([0, 0, 0, 0, 1, 2]))
        ]
        return cls(fields, modifiers, sampler, some_of(declared, draw, wild), _run(draw, wild))


_SHIFT = Option(1.0, minimum=1e-3, maximum=1e3)


def _betas(schedule: str, draw: random.Random, wild: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if draw.random() < 0.5:
        found["num_train_timesteps"] = draw.choice([2, 3, 5, 10, 50, 100, 1000, 4000])
    if schedule == BetaSchedule.CUSTOM.value:
        count = found.get("num_train_timesteps", 1000)
        found["trained_betas"] = [draw.uniform(1e-5, draw.choice([0.02, 0.5])) for _ in range(count)]
    elif draw.random() < 0.4:
        found["beta_start"] = draw.choice([1e-12, 1e-5, 1e-4, 0.01, 0.3])
        found["beta_end"] = draw.choice([1e-4, 0.02, 0.3, 0.9, 0.999999])
    if draw.random() < 0.2:
        found["rescale_betas_zero_snr"] = True
    if draw.random() < 0.1:
        found["steps_offset"], found["timestep_spacing"] = draw.choice([0, 1, 1, 5, 10**6]), "leading"
        found["spacing_options"] = {}
    if wild and draw.random() < 0.2:
        found[draw.choice(["beta_start", "beta_end", "num_train_timesteps", "steps_offset"])] = draw.choice(WRONG)
    return found


def _clipping(draw: random.Random, wild: bool) -> dict[str, Any]:
    kind = draw.random()
    found: dict[str, Any] = {}
    if kind < 0.15:
        found = {"clip_sample": True, "clip_sample_range": draw.choice([1.0, 1e-6, 1e6])}
    elif kind < 0.25:
        found = {"thresholding": True, "sample_max_value": draw.choice([1.5, 100.0]),
                 "dynamic_thresholding_ratio": draw.choice([0.995, 1e-9, 1.0])}  # fmt: skip
    if draw.random() < 0.03:
        found["use_clipped_model_output"] = False
    if draw.random() < 0.05:
        found["variance_type"] = draw.choice(VARIANCE_TYPES)
    if wild and draw.random() < 0.1:
        found[draw.choice(["clip_sample_range", "sample_max_value", "variance_type", "thresholding"])] = draw.choice(
            WRONG
        )
    return found


def _run(draw: random.Random, wild: bool) -> dict[str, Any]:
    steps = draw.choice([0, -3, 10**9, 1.5, *WRONG]) if wild and draw.random() < 0.1 else draw.choice(STEPS)
    found: dict[str, Any] = {"num_inference_steps": steps, "seed": draw.randrange(100)}
    kind = draw.random()
    if kind < 0.25:
        found["guidance_scale"] = draw.choice(WRONG) if wild else draw.choice([0.0, 1.0, 7.5, -2.0, 100.0])
        found["condition"] = {"label": torch.zeros(SHAPE[0])}
    elif kind < 0.5:
        made = [_guidance(draw, wild) for _ in range(draw.choice([1, 1, 2, 3]))]
        found["guidance"] = made
        if draw.random() < 0.85:
            found["condition"] = {"label": torch.ones(SHAPE[0])}
    return found


def _guidance(draw: random.Random, wild: bool) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """A guidance's name and arguments; it is made when the setting runs, for making it may be refused."""

    def number(*usual: Any) -> Any:
        return draw.choice(WRONG) if wild and draw.random() < 0.3 else draw.choice(usual)

    scale = number(0.0, 1.0, 3.0, -1.0, 50.0, ("linear", 1.0, 7.0), ("cosine", 7, 1))
    name = draw.choice(
        [
            "ClassifierFree",
            "CFGZeroStar",
            "AdaptiveProjected",
            "Composed",
            "Interval",
            "Rescale",
            "DynamicThreshold",
            "Tangential",
            "MagnitudeAware",
            "PerpNeg",
        ]
    )
    if name == "CFGZeroStar":
        return name, (scale,), {"zero_steps": number(0, 1, 3), "of": number("flow_prediction", "sample", "epsilon")}
    if name == "AdaptiveProjected":
        return name, (scale,), {
            "eta": number(0.0, 1.0, -1.0), "norm_threshold": number(2.5, 1e-6, math.inf), "momentum": number(0.0, -0.5),
        }  # fmt: skip
    if name in ("Tangential", "MagnitudeAware"):
        return name, (scale,), {"of": number("flow_prediction", "sample", "epsilon")}
    if name in ("Composed", "PerpNeg"):
        return name, ([({"label": torch.zeros(SHAPE[0])}, scale)],), {}
    if name == "Interval":
        return name, (number(0.0, 0.3), number(5.0, math.inf, 0.1)), {}
    return name, (number(0.0, 0.7, 0.995, 1.0),), {}


def _model(prediction_type: str, split: bool) -> Any:
    def model(x: torch.Tensor, t: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        output = 0.7 * torch.tanh(x if label is None else x + label.reshape(-1, *[1] * (x.ndim - 1)))
        return torch.cat([output, torch.tanh(-x)], dim=1) if split else output

    return model


def run_setting(setting: Setting) -> int:
    """Make everything and sample; returns the number of model calls.

    Raises:
        NoiseSamplingError: the library refuses it.
    """
    config = NoiseSchedulerConfig(**setting.fields)
    path = NoiseSchedulerFactory.create(config)
    for kind, value in setting.modifiers:
        path = ZeroTerminalSNR(path) if kind == "zero" else ShiftedSNR(path, value)
    pipeline = DiffusionPipeline(path, setting.sampler, **setting.options)
    run = dict(setting.run)
    if "guidance" in run:
        run["guidance"] = [getattr(guidance, name)(*args, **options) for name, args, options in run["guidance"]]
    split = config.variance_type.startswith("learned")
    result = pipeline.sample(_model(config.prediction_type, split), SHAPE, return_result=True, **run)
    samples = result.samples
    if tuple(samples.shape) != SHAPE or not torch.isfinite(samples).all():
        raise AssertionError(f"samples {samples}")
    return result.nfe


@final
class SettingKind(Kind):
    """Random settings, made and run."""

    name = "setting"

    def valid(self) -> list[Case]:
        return [self._case(Setting({}, [], "ddim", {}, {"num_inference_steps": 2, "seed": 0}))]

    def drawn(self, draw: random.Random) -> Case:
        return self._case(Setting.drawn(draw))

    def _case(self, setting: Setting) -> Case:
        text = repr(setting).encode(errors="backslashreplace")
        return Case({"setting.txt": text}, lambda folder: run_setting(setting), seconds=4.0)
