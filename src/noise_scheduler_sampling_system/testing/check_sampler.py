"""A sampler held against what it declares: its order, constants, noise and calls, measured through the real loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.prediction import PREDICTION_TYPES
from ..config.settings import NoiseSchedulerConfig
from ..grids.time_grid import TimeGrid
from ..models.mixture import GaussianMixtureModel
from ..pipeline.pipeline import DiffusionPipeline
from ..samplers.adaptive import AdaptiveSampler
from ..samplers.base import BaseSampler
from ..samplers.factory import SamplerFactory
from ..schedules.continuous import EDMPath, FlowPath, VDiffusionPath, VPPath
from ..schedules.path import NoisePath
from ..support.errors import ConfigurationError, NoiseSamplingError

__all__ = ["OnPath", "SamplerReport", "check_sampler"]

#: Steps of the runs whose errors say the order, by the declared order; a higher order meets rounding earlier.
_COUNTS = {1: (20, 40, 80), 2: (40, 80, 160), 3: (80, 160, 320)}
_MOST_COUNTS = (24, 48, 96)
#: How far below its declared order a measured one may be: what smooth grids of so many steps leave.
_SLACK = 0.25
#: Options that turn the noise off where they are 0.
_SILENT = ("eta", "tau", "s_churn")
_DIMENSIONS, _BATCH, _SEED = 4, 6, 1


@dataclass(frozen=True)
class OnPath:
    """What was measured on one path.

    Attributes:
        path: the noise schedule.
        order: the measured order of the deterministic part; None where the sampler has none.
        errors: root mean square errors against the exact solution, for each number of steps.
        constants: the largest error in constant data that is carried to the clean sample.
        refused: numbers of steps from the path's noisiest level that the sampler refuses, with what it says.
    """

    path: str
    order: float | None
    errors: Mapping[int, float]
    constants: float
    refused: Mapping[int, str]


@dataclass(frozen=True)
class SamplerReport:
    """What :func:`check_sampler` found.

    Attributes:
        sampler: its name.
        declared_order, calls_per_step, stochastic: what it declares.
        calls: model calls a step that were counted; None without a plan.
        draws_noise: whether two seeds give two results from one start.
        silent: the options under which the order was measured.
        paths: what was measured on each path.
    """

    sampler: str
    declared_order: int
    calls_per_step: int
    stochastic: bool
    calls: float | None
    draws_noise: bool
    silent: Mapping[str, Any]
    paths: tuple[OnPath, ...]

    @property
    def order(self) -> float | None:
        """The least order that was measured on any path."""
        found = [each.order for each in self.paths if each.order is not None]
        return min(found) if found else None

    def __str__(self) -> str:
        lines = [
            f"{self.sampler}: declared order {self.declared_order}, {self.calls_per_step} calls a step, "
            f"{'with' if self.draws_noise else 'no'} noise"
        ]
        for each in self.paths:
            order = "no order" if each.order is None else f"order {each.order:.2f}"
            refused = f", refuses {list(each.refused)} steps" if each.refused else ""
            lines.append(f"  {each.path}: {order}, constants to {each.constants:.1e}{refused}")
        return "\n".join(lines)


def check_sampler(
    sampler: str | type[BaseSampler],
    paths: Sequence[NoisePath] | None = None,
    *,
    silent: Mapping[str, Any] | None = None,
    **options: Any,
) -> SamplerReport:
    """Measure a sampler on exact models, through the loop that every run goes through, and compare what it declares.

    Checked are, on each path: the order of the deterministic part, on a mixture of Gaussians whose solution is known;
    constant data, which is carried to the clean sample; the same result from the same seed, and from each sample
    alone; runs of 1, 2, 3 and 5 steps from the path's noisiest level, which end in finite samples or in the
    library's own error; and once the declarations themselves: ``calls_per_step`` and ``stochastic`` against the plan,
    ``space``, ``reads``, and every option's default against its own range.

    Args:
        sampler: its class or registered name.
        paths: noise schedules; default: "vp", "edm", "flow" and "v_diffusion". A sampler that has only ``step`` is
            given models that predict ε by default.
        silent: options that turn its noise off, under which the order is measured; default: those of
            ``eta``, ``tau`` and ``s_churn`` that it has, at 0.
        options: options of the sampler.

    Raises:
        ConfigurationError: a declaration that is false, with what was measured.
    """
    probe = SamplerFactory.create(sampler, VPPath(), **options)
    if isinstance(probe, AdaptiveSampler):
        raise ConfigurationError(
            "its steps depend on what the model says",
            where=type(probe).__name__,
            why="it has a tolerance, not an order in the number of steps",
            suggestion="compare its result with models.ExactModel.reference_solution",
        )
    _check_declarations(probe)
    made = type(probe)
    declared = made.declared_options
    quiet = {name: 0.0 for name in _SILENT if name in declared and name not in options} if silent is None else silent
    chosen = _default_paths(probe.writes_plans) if paths is None else list(paths)
    if not chosen or not all(isinstance(path, NoisePath) for path in chosen):
        raise ConfigurationError("got no noise schedules", where="paths", suggestion="give e.g. [VPPath(), FlowPath()]")
    measured = tuple(_on_path(sampler, path, options, {**options, **quiet}) for path in chosen)
    draws = _draws_noise(DiffusionPipeline(chosen[0], sampler, **options))
    if not options and draws != made.stochastic:
        raise _false(made, "stochastic", made.stochastic, f"two seeds give {'two' if draws else 'the same'} results")
    report = SamplerReport(
        sampler if isinstance(sampler, str) else sampler.__name__, probe.order, probe.calls_per_step, made.stochastic,
        _calls(probe), draws, quiet, measured,
    )  # fmt: skip
    for each in measured:
        if each.order is not None and each.order < probe.order - _SLACK:
            errors = ", ".join(f"{error:.2e} in {steps} steps" for steps, error in each.errors.items())
            raise _false(made, "order", probe.order, f"{each.order:.2f} was measured on {each.path}: {errors}")
    return report


def _default_paths(writes_plans: bool) -> list[NoisePath]:
    paths = (VPPath, EDMPath, FlowPath, VDiffusionPath)
    return [path() if writes_plans else path(prediction_type="epsilon") for path in paths]


def _false(made: type, name: str, value: object, measured: str) -> ConfigurationError:
    return ConfigurationError(
        f"declares {name} = {value!r}, and {measured}",
        where=f"{made.__name__}.{name}",
        suggestion="declare what it has, or mend the formula",
    )


def _check_declarations(sampler: BaseSampler) -> None:
    """What a class says of itself, as far as no run is needed."""
    made = type(sampler)
    for name in ("order", "calls_per_step"):
        value = getattr(sampler, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise _false(made, name, value, "it is a whole number ≥ 1")
    if sampler.space not in PREDICTION_TYPES:
        raise _false(made, "space", sampler.space, f"it is one of {', '.join(PREDICTION_TYPES)}")
    unknown = set(made.reads) - set(NoiseSchedulerConfig.model_fields)
    if unknown:
        raise _false(made, "reads", sorted(made.reads), f"the config has no {', '.join(sorted(unknown))}")
    for name, option in made.declared_options.items():
        option.checked(option.default, f"{made.__name__}.declared_options[{name!r}]")


def _on_path(sampler: Any, path: NoisePath, options: Mapping[str, Any], silent: Mapping[str, Any]) -> OnPath:
    """Everything that is measured on one path."""
    name = repr(path)
    quiet, pipeline = DiffusionPipeline(path, sampler, **silent), DiffusionPipeline(path, sampler, **options)
    refused = _limits(pipeline)
    constants = _constants(pipeline, name)
    _check_repeats(pipeline, name)
    if _draws_noise(quiet):
        return OnPath(name, None, {}, constants, refused)
    order = quiet.sampler.order
    errors = _errors(quiet, _COUNTS.get(order, _MOST_COUNTS))
    logs = np.log(np.maximum(list(errors.values()), 1e-300))
    # below this the errors are those of rounding, not of the method
    measured = math.inf if max(errors.values()) < 1e-11 else -float(np.polyfit(np.log(list(errors)), logs, 1)[0])
    return OnPath(name, measured, errors, constants, refused)


def _model(path: NoisePath) -> GaussianMixtureModel:
    means = torch.randn(5, _DIMENSIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(_SEED))
    return GaussianMixtureModel(path, means, 0.3)


def _noise() -> Tensor:
    generator = torch.Generator().manual_seed(_SEED + 1)
    return torch.randn(_BATCH, _DIMENSIONS, dtype=torch.float64, generator=generator)


def _times(path: NoisePath, steps: int) -> list[float]:
    """N + 1 times, smoothly from much noise to little, inside the path."""
    ends = [float(path.log_snr(t)) for t in (path.t_max, path.t_min)]
    first, last = max(ends[0], -2.0 * math.log(10.0)), min(ends[1], 2.0 * math.log(10.0))
    return [float(path.time(value)) for value in np.linspace(first, last, steps + 1)]


def _errors(pipeline: DiffusionPipeline, counts: Sequence[int]) -> dict[int, float]:
    """The error of runs of so many steps; of samplers that have only ``step``, whose runs end at the clean sample."""
    path, model = pipeline.scheduler, _model(pipeline.scheduler)
    plans = pipeline.sampler.writes_plans
    errors: dict[int, float] = {}
    exact: Tensor | None = None
    for steps in counts:
        times = _times(path, steps)
        grid = TimeGrid.from_times(path, times, end=None) if plans else TimeGrid.from_times(path, times)
        first = grid.levels[0]
        if exact is None:
            start = _noise() * math.hypot(first.alpha, first.sigma)
            exact = model.reference_solution(start, t=first.t, t_end=times[-1] if plans else None)
        result = _sampled(pipeline, model, initial_noise=_noise(), grid=grid, num_inference_steps=steps)
        errors[steps] = float((result - exact).square().mean().sqrt())
    return errors


def _sampled(pipeline: DiffusionPipeline, model: Callable[..., Any], **run: Any) -> Tensor:
    """Samples in float64; an exception of the sampler's own becomes an error that says where."""
    path = pipeline.scheduler
    try:
        samples: Tensor = pipeline.sample(model, dtype=torch.float64, **{"seed": 0, **run})
    except NoiseSamplingError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"raises {type(error).__name__} on {path!r}: {error}",
            where=type(pipeline.sampler).__name__,
            suggestion="mend it there, or raise ConfigurationError with what to do instead",
        ) from error
    if not torch.isfinite(samples).all():
        raise ConfigurationError(
            f"returns values that are not finite on {path!r}",
            where=type(pipeline.sampler).__name__,
            suggestion="check the formula at the path's ends, where α or σ is 0",
        )
    return samples


def _limits(pipeline: DiffusionPipeline) -> dict[int, str]:
    """Runs of few steps from the noisiest level; what the sampler refuses."""
    said = {steps: _refusal(pipeline, steps) for steps in (1, 2, 3, 5)}
    return {steps: text for steps, text in said.items() if text}


def _refusal(pipeline: DiffusionPipeline, steps: int) -> str:
    """What the sampler says against a run of so many steps from the noisiest level; empty: nothing."""
    path = pipeline.scheduler
    times = np.linspace(path.t_max, path.t_min, steps + 1)[:-1].tolist()
    try:
        _sampled(pipeline, _model(path), initial_noise=_noise(), timesteps=times)
    except NoiseSamplingError as error:
        if isinstance(error.__cause__, Exception) and not isinstance(error.__cause__, NoiseSamplingError):
            raise
        return str(error)
    return ""


def _constants(pipeline: DiffusionPipeline, name: str) -> float:
    """The largest error in constant data, of which the model knows everything."""
    path, constant = pipeline.scheduler, 0.7
    model = GaussianMixtureModel(path, torch.full((1, _DIMENSIONS), constant, dtype=torch.float64), 1e-6)
    times = _times(path, 8)
    grid = TimeGrid.from_times(path, times)
    first = grid.levels[0]
    start = (first.alpha * constant + first.sigma * _noise()) / math.hypot(first.alpha, first.sigma)
    result = _sampled(pipeline, model, initial_noise=start, grid=grid, num_inference_steps=8)
    error = float((result - constant).abs().max())
    if pipeline.sampler.carries_constants and error > 1e-3:
        made = type(pipeline.sampler)
        raise _false(
            made, "carries_constants", True, f"makes of constant data {constant} on {name} an error of {error:.2g}"
        )
    return error


def _check_repeats(pipeline: DiffusionPipeline, name: str) -> None:
    """The same from the same seed, and from each sample of a batch alone."""
    grid = TimeGrid.from_times(pipeline.scheduler, _times(pipeline.scheduler, 5))
    run = {"initial_noise": _noise(), "grid": grid, "num_inference_steps": 5}
    model = _model(pipeline.scheduler)
    once, again = (_sampled(pipeline, model, **run) for _ in range(2))
    alone = _sampled(pipeline, model, max_batch_size=1, **run)
    for other, what in ((again, "a second run with the same seed"), (alone, "a run of each sample alone")):
        if not torch.allclose(once, other, rtol=1e-9, atol=1e-9):
            raise ConfigurationError(
                f"{what} gives another result on {name}",
                where=type(pipeline.sampler).__name__,
                why="a sample depends on its own state, predictions and keyed noise alone",
                suggestion="keep nothing between steps or samples; draw noise by build.noise(i) or the noise of step()",
            )


def _draws_noise(pipeline: DiffusionPipeline) -> bool:
    """Whether two seeds give two results from one start."""
    grid = TimeGrid.from_times(pipeline.scheduler, _times(pipeline.scheduler, 5))
    run = {"initial_noise": _noise(), "grid": grid, "num_inference_steps": 5}
    one, two = (_sampled(pipeline, _model(pipeline.scheduler), seed=seed, **run) for seed in (0, 1))
    return not torch.equal(one, two)


def _calls(sampler: BaseSampler) -> float | None:
    """Model calls a step, checked."""
    if not sampler.writes_plans:
        return None
    steps, path = 40, sampler.scheduler
    plan = sampler.plan(grid=TimeGrid.from_times(path, _times(path, steps - 1)))
    declared = sampler.calls_per_step
    # a start or a restart may take a few more, the last step fewer
    if not declared * (steps - 2) <= plan.nfe <= declared * steps + 10:
        counted = f"{plan.nfe} calls were counted in {steps} steps"
        raise _false(type(sampler), "calls_per_step", declared, counted)
    return plan.nfe / steps
