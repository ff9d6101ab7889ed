"""A value of every public class, and how two of them are compared."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    BaseNoiseScheduler,
    BaseSampler,
    ConfigurationError,
    DiffusionPipeline,
    FlowPath,
    Form,
    Level,
    ModelStatistics,
    NoisePath,
    NoiseSamplingError,
    NoiseSchedulerConfig,
    PlanBuilder,
    PlanSet,
    ReversibleRun,
    ShiftedSNR,
    Spectrum,
    ZeroTerminalSNR,
    guidance,
    log_likelihood,
    make_grid,
    models,
)
from noise_scheduler_sampling_system.analysis import recommend
from noise_scheduler_sampling_system.analysis.rollouts import rollout
from noise_scheduler_sampling_system.analysis.step_probabilities import StepDistribution
from noise_scheduler_sampling_system.bulk import GenerationReport, Progress, Verification
from noise_scheduler_sampling_system.calibration.trust import Measurement, PlanVerification, StatedFigure
from noise_scheduler_sampling_system.config import Option, Options
from noise_scheduler_sampling_system.config.registries import DENSITIES, NOISES, PRESETS, WEIGHTINGS
from noise_scheduler_sampling_system.grids import FrameGrid
from noise_scheduler_sampling_system.playground import Choice
from noise_scheduler_sampling_system.running import InterruptedRunError
from noise_scheduler_sampling_system.running.brownian import brownian
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys
from noise_scheduler_sampling_system.samplers import SamplerOutput
from noise_scheduler_sampling_system.support import Plugin, SeveralMistakesError
from noise_scheduler_sampling_system.support.values import ByValue, same
from noise_scheduler_sampling_system.testing import (
    PluginReport,
    check_density,
    check_guidance,
    check_sampler,
    check_schedule,
    check_spacing,
    check_weighting,
)
from noise_scheduler_sampling_system.training import TrainingObjective
from public_names import public_names

SHAPE = (2, 1, 8, 8)


def model(x: torch.Tensor, t: Any) -> torch.Tensor:
    return 0.1 * x


def used(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    pipeline.sample(model, SHAPE, 3, seed=0)
    pipeline.scheduler.add_noise(torch.zeros(SHAPE), torch.ones(SHAPE), torch.tensor([3, 5]))
    return pipeline


def made() -> dict[str, Any]:
    """A value of every public class, and of what public methods return."""
    values: dict[str, Any] = {}
    measured, stated = Measurement(0.1, 0.01, 0.05, 0.01, 0.0, 0.02, 64), StatedFigure("rms", 0.1, 0.01, 0.11, 0.01)
    path = NoiseSchedulerConfig()
    pipeline = DiffusionPipeline(path)
    linear = pipeline.scheduler
    custom = NoiseSchedulerConfig(beta_schedule="custom", trained_betas=(0.1, 0.2, 0.3))
    given = {"ShiftedSNR": (linear, 2.0), "ZeroTerminalSNR": (linear,), "CustomNoiseScheduler": (custom,)}
    for name, each in public_names().items():
        if not inspect.isclass(each) or inspect.isabstract(each):
            continue
        if issubclass(each, BaseSampler):
            values[name] = each(linear)
        elif each is SeveralMistakesError:
            values[name] = each([ConfigurationError(word, where=word, suggestion="that") for word in ("one", "two")])
        elif issubclass(each, NoiseSamplingError):
            values[name] = each("what", where="here", why="so", suggestion="that")
        elif issubclass(each, NoisePath) and each is not BaseNoiseScheduler:
            values[name] = each(*given.get(name, ()))
    steps = list(pipeline.stream(model, SHAPE, 3, seed=0))
    momentum = guidance.AdaptiveProjected(2.0)
    image, mask = torch.zeros(SHAPE), torch.ones(SHAPE)
    ode = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    exact = models.GaussianModel(linear)
    build = PlanBuilder("sample")
    source = NoiseSource(resolve_keys(0, None, 2), SHAPE[1:])
    values |= {
        "config": NoiseSchedulerConfig(beta_schedule="flow", schedule_options={"shift": 3.0}),
        "pipeline": used(DiffusionPipeline(None, "dpmpp_2m_sde")),
        "schedule in use": used(DiffusionPipeline()).scheduler,
        "shifted": ShiftedSNR(FlowPath(), 2.0),
        "rescaled": ZeroTerminalSNR(linear),
        "cut": linear.up_to(500.0),
        "plan": pipeline.plan(3),
        "frames": FrameGrid.pyramid(pipeline.grid(3), 3, context=1),
        "plan of frames": pipeline.plan(grid=FrameGrid.pyramid(pipeline.grid(3), 3, context=1)),
        "plans": PlanSet({3: pipeline.plan(3), 5: pipeline.plan(5)}),
        "traced options": DiffusionPipeline(None, "ddim", eta=0.5).plan(2),
        "grid": make_grid(linear, 3),
        "reversed grid": make_grid(linear, 3).reversed(),
        "level": linear.level(3.0),
        "read-only options": Options({"rho": 7.0}),
        "clean level": make_grid(linear, 3).levels[-1],
        "step": steps[1],
        "last step": steps[-1],
        "state": steps[1].state,
        "last state": steps[-1].state,
        "result": pipeline.sample(model, SHAPE, 3, seed=0, return_result=True, profile=True),
        "adaptive result": DiffusionPipeline(None, "adaptive").sample(model, SHAPE, 3, seed=0, return_result=True),
        "recommendation": recommend(pipeline, 10),
        "statistics": ModelStatistics.neutral(),
        "spectrum": Spectrum([1.0, 0.5], [1, 2]),
        "reversible": ReversibleRun(DiffusionPipeline(None, "bdia"), None, 3),
        "likelihood": log_likelihood(ode, exact, torch.zeros(2, 4), 3, seed=0),
        "distribution": StepDistribution(image, mask),
        "output": SamplerOutput(image, mask),
        "brownian": brownian(DiffusionPipeline(None, "ddpm").plan(3), source),
        "report": check_sampler("ddim", [linear]),
        "schedule report": check_schedule("flow"),
        "spacing report": check_spacing("karras", [linear]),
        "plug-in": Plugin("mine", "my-package 1.0", (("sampler", "mine"),)),
        "plug-in report": PluginReport(Plugin("mine", "my-package 1.0"), {("preset", "mine"): "10 model calls"}),
        "guidance report": check_guidance(guidance.ClassifierFree(2.0), [linear]),
        "form": Form({("x", 0): 1.0}),
        "prediction": build.predict(Level(900.0, 0.1, 0.99), 0),
        "option": Option(1.0, minimum=0.0),
        "unbatched": guidance.Unbatched(image),
        "adaptive projected": momentum,
        "free": guidance.ClassifierFree(2.0),
        "zero star": guidance.CFGZeroStar(2.0),
        "frequencies": guidance.FrequencyDecoupled(1.0, 2.0),
        "tangential": guidance.Tangential(2.0),
        "magnitude": guidance.MagnitudeAware(2.0),
        "perp neg": guidance.PerpNeg([({"y": 1}, 2.0)]),
        "composed": guidance.Composed([({"y": 1}, 2.0)]),
        "threshold": guidance.DynamicThreshold(),
        "interval": guidance.Interval(0.1, 0.5),
        "known": guidance.KnownRegion(image, mask),
        "rescale": guidance.Rescale(0.7),
        "cached": guidance.CachedGuidance(2.0, calls=(0, 2)),
        "plan with guidance": guidance.CachedGuidance(2.0, calls=(0, 2)).folded_into(pipeline.plan(3)),
        "rollout": rollout(DiffusionPipeline(FlowPath(), "cps"), model, SHAPE, 3, seed=0),
        "set of samples": GenerationReport(Path("set"), 8, 6, 2, 0, 1, 0, 1.5),
        "verification": Verification(8, 2, {1: "missing"}, 4, ((3, 3, "NaN"),), (), ()),
        "measurement": measured, "stated figure": stated,
        "verification of a plan": PlanVerification(3, "0" * 64, (stated,), (), "", None, measured, 1e-4, 64, 0),
        "progress of a set": Progress(3, 8, 0, 1.5, None),
        "choice": Choice(most_steps=3),
        "auto": guidance.AutoGuidance(model, 2.0),
        "energy": guidance.Energy(model),
        "moment": guidance.Moment(Level(900.0, 0.1, 0.99), 0, 3),
        "preset": PRESETS.get("sdxl"),
        "features": models.FeatureStatistics(torch.zeros(2), torch.eye(2)),
    }  # fmt: skip
    for table in (DENSITIES, WEIGHTINGS, NOISES):
        values |= {f"{table.kind} {name}": entry() for name, entry in table.entries.items()}
    objective = TrainingObjective(linear, density="log_normal", over="uniform", weighting="p2")
    values |= {
        "objective": objective, "levels": objective.levels, "axis": objective.levels.axis,
        "training batch": objective.prepare(image, seed=0, step=0), "terminal": objective.terminal,
        "density report": check_density("mode", [linear]), "weighting report": check_weighting("snr"),
    }  # fmt: skip
    values["interrupted"] = InterruptedRunError(values["result"])
    system = AdvancedDiffusionSystem()
    system.create_pipeline("mine", NoiseSchedulerConfig(), "heun")
    return {**values, "system": system}


VALUES = made()


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, BaseException):  # which Python compares by identity
        mine, theirs = ({**vars(each), "errors": 0} for each in (one, other))
        parts = zip(getattr(one, "errors", ()), getattr(other, "errors", ()), strict=True)
        return type(one) is type(other) and str(one) == str(other) and mine == theirs and all(equal(*p) for p in parts)
    return same(one, other) if isinstance(one, tuple) else bool(one == other)


#: By how much numbers of two processors may differ, in double precision.
_ROUNDING = 1e-10


def alike(one: Any, other: Any) -> bool:
    """Whether values of two machines are equal: the last digits of logarithms and products depend on the processor."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=_ROUNDING, abs_tol=_ROUNDING) or (math.isnan(one) and math.isnan(other))
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor | np.ndarray):
        there, here = (np.asarray(each) for each in (one, other))
        rounding = _ROUNDING if there.dtype.itemsize > 4 else 1e-6
        alike_types = one.dtype == other.dtype and there.shape == here.shape
        return alike_types and np.allclose(there, here, rtol=rounding, atol=rounding, equal_nan=True)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(alike(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if is_dataclass(one):
        return all(alike(getattr(one, each.name), getattr(other, each.name)) for each in fields(one) if each.compare)
    if isinstance(one, ByValue):
        return alike(one.__getstate__(), other.__getstate__())
    return equal(one, other)


def returned(value: Any) -> Any:
    return value
