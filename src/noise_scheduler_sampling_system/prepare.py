"""From what a user asks for to a run that is ready to start: every check, before the first model call."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from .brownian import brownian
from .errors import ConfigurationError
from .grids import TimeGrid, refuse_clean_start
from .guidance.base import Branch, Guidance
from .guidance.conditions import null_counterpart, numbers_as_rows
from .guidance.guided import Guided
from .guidance.program import checked_sequence, compiled, programs_of
from .guidance.sources import ClassifierFree
from .job import Job
from .model import ModelAdapter, map_tensors, resolve_device
from .noise import NoiseSource, Seed, resolve_keys
from .plan import SamplingPlan
from .plans import PlanSet
from .run import Course
from .setup import Setup
from .stated import refuse_other_prediction

__all__ = ["DEFAULT_SCALE", "as_rows", "checked_scale", "prepare"]

logger = logging.getLogger(__name__)

#: The scale of classifier-free guidance where nothing else is said.
DEFAULT_SCALE: Final = 7.5
#: λ of CFG++ where no scale is given (Chung et al. 2024 use 0.6 for 7.5 of ordinary guidance).
_CFG_PP_SCALE: Final = 0.6


def prepare(
    setup: Setup,
    *,
    model: Callable[..., Any] | None,
    shape: Any,
    num_inference_steps: int,
    scale: float,
    condition: Mapping[str, Any] | None,
    null_condition: Mapping[str, Any] | None,
    seed: Seed | None,
    generator: Any,
    initial_noise: Tensor | None,
    initial_sample: Tensor | None,
    timesteps: Sequence[float] | None,
    plan: SamplingPlan | PlanSet | None,
    device: str | torch.device,
    dtype: torch.dtype | None,
    guidance: Guidance | Sequence[Guidance] | None = None,
    classifier_free: bool = True,
    grid: TimeGrid | None = None,
    noise: str = "independent",
    resumed: bool = False,
    borrowed: bool = False,
) -> Job:
    """Check everything and prepare a run, before the first model call.

    The arguments are those of :meth:`DiffusionPipeline.sample`, and

    Args:
        resumed: the run goes on from a state.
        borrowed: the model is part of a pipeline of diffusers, whose scheduler at hand the config was read off.
    """
    scheduler, config = setup.scheduler, setup.scheduler.config
    if initial_noise is not None and initial_sample is not None:
        raise ConfigurationError(
            "is given beside initial_noise", where="initial_sample", suggestion="give the one or the other"
        )
    device = resolve_device(device, model, initial_noise if initial_sample is None else initial_sample)
    shape = _checked_shape(shape, initial_noise=initial_noise, initial_sample=initial_sample)
    scale = checked_scale(scale)
    if model is None:
        from .models import DigitsModel

        if config.variance_type.startswith("learned"):
            raise ConfigurationError(
                "no model is given, and the embedded one has no learned variance",
                where="variance_type",
                suggestion="give a model, or config.replace(variance_type='fixed_small')",
            )
        model = DigitsModel(scheduler)
    adapter = ModelAdapter(model)
    refuse_other_prediction(model, config.prediction_type, beside=not borrowed)
    if isinstance(plan, PlanSet):
        plan = plan.pick(num_inference_steps)
    for name, value in {"timesteps": timesteps, "grid": grid}.items():
        if plan is not None and value is not None:
            raise ConfigurationError("a plan has its own timesteps", where=name, suggestion="give one of the two")
    course = setup.course(num_inference_steps, timesteps, grid) if plan is None else setup.following(plan)
    if course.plan.null is not None and guidance is None:  # CFG++: λ interpolates, so that it is at most 1
        if scale == DEFAULT_SCALE:
            scale = _CFG_PP_SCALE
        elif scale > 1.0:
            logger.warning("CFG++ takes guidance_scale as λ from 0 to 1; %g goes far beyond the condition", scale)
    if resumed:
        setup.refuse_to_resume()
    if initial_noise is None and initial_sample is None and not resumed:
        first = course.plan
        refuse_clean_start(first.time[0], first.alpha[0], first.sigma[0])
    if dtype is None:
        dtype = torch.promote_types(torch.float32, adapter.dtype or torch.float32)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigurationError(
            f"{dtype!r} is not a floating-point type", where="dtype", suggestion="give e.g. torch.float32"
        )
    _refuse_overflow(course, dtype)
    keys = resolve_keys(seed, generator, shape[0])
    given = _fitted({} if condition is None else condition, shape[0], device, "condition")
    sequence = _checked_guidance(guidance, scale, classifier_free, bool(given))
    if guidance is None and given:
        _warn_of_other_guidance(course.plan, scale if classifier_free else 1.0)
    further = next((condition for each in sequence for condition in each.conditions), None)
    if not given and null_condition is not None and further is None:
        raise ConfigurationError(
            "there is no condition to oppose it to", where="null_condition", suggestion="give condition={...}, too"
        )
    opposed = bool(given) and classifier_free
    branches, programs = compiled(
        sequence,
        course.plan,
        config.prediction_type,
        opposed=opposed,
        learned=course.split,
    )
    again = partial(
        programs_of, sequence=sequence, prediction_type=config.prediction_type, branches=list(branches),
        opposed=opposed, learned=course.split,
    )  # fmt: skip
    asked = {i for program in set(programs) if program is not None for i in program.asked}
    if not course.planned:  # it will ask at other levels, too
        asked |= {i for i in range(len(branches)) if i != 1 or opposed}
    conditions = _Conditions(adapter, shape[0], device)
    alone = not given and further is not None  # further conditions stand against the null one
    base = conditions.null(conditions.fitted(further), null_condition) if alone else conditions.completed(given)
    resolved = conditions.of(branches, asked, base, null_condition)
    return Job(
        course=course,
        guided=Guided(resolved, programs, course.split, course.branches, again),
        noise=_noise(noise, course.plan, NoiseSource(keys, tuple(shape[1:]), dtype, device)),
        initial_noise=initial_noise,
        initial_sample=initial_sample,
        settings=setup.identity,
        integral=scheduler.discrete and course.planned,
    )


def _warn_of_other_guidance(plan: SamplingPlan, scale: float) -> None:
    """A calibrated plan is tuned to a scale; a much larger one makes some samples diverge (docs/calibration.md)."""
    tuned = plan.provenance.get("guidance_scale")
    if isinstance(tuned, int | float) and not math.isclose(tuned, scale):
        logger.warning(
            "the plan was calibrated at guidance_scale=%g, this run has %g: its errors are larger, and some samples "
            "may diverge; give guidance_scale=%g, or calibrate at %g",
            tuned, scale, tuned, scale,
        )  # fmt: skip


def _noise(kind: Any, plan: SamplingPlan, source: NoiseSource) -> NoiseSource:
    """The noise of a run, of the kind asked for."""
    if kind not in ("independent", "brownian"):
        raise ConfigurationError(f"got {kind!r}", where="noise", suggestion="give 'independent' or 'brownian'")
    return brownian(plan, source) if kind == "brownian" else source


def _checked_guidance(
    guidance: Guidance | Sequence[Guidance] | None, scale: float, classifier_free: bool, conditional: bool
) -> tuple[Guidance, ...]:
    """What acts on the predictions, from left to right."""
    if guidance is None:
        return (ClassifierFree(scale),) if conditional and classifier_free else ()
    sequence = checked_sequence(guidance)
    for name, given in {
        "guidance_scale": scale != DEFAULT_SCALE,
        "classifier_free_guidance": not classifier_free,
    }.items():
        if given:
            raise ConfigurationError(
                "is given beside guidance, which says everything",
                where=name,
                suggestion="leave it out, and put ClassifierFree(scale) into guidance",
            )
    for each in sequence:
        if each.contrasts and not conditional:
            raise ConfigurationError(
                f"{type(each).__name__} opposes the condition to its absence, and there is none",
                where="guidance",
                suggestion="give condition={...}, or guidance that needs none",
            )
    return sequence


@dataclass(frozen=True)
class _Conditions:
    """Makes what the user gave the conditions of a batch."""

    adapter: ModelAdapter
    batch: int
    device: torch.device

    def completed(self, condition: Mapping[str, Any]) -> dict[str, Any]:
        return self.adapter.completed(condition, self.batch, self.device)

    def fitted(self, condition: Mapping[str, Any] | None) -> dict[str, Any]:
        """A further condition that guidance brings."""
        return _fitted(condition or {}, self.batch, self.device, "guidance")

    def null(self, condition: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
        """The null condition: as given, or the counterpart of a condition."""
        null = null_counterpart(self.adapter.model, condition) if given is None else given
        return self.completed(_fitted(null, self.batch, self.device, "null_condition"))

    def of(
        self, branches: Sequence[Branch], asked: set[int], base: Mapping[str, Any], null: Mapping[str, Any] | None
    ) -> tuple[tuple[ModelAdapter, Mapping[str, Any]], ...]:
        """The model and the condition of each branch, as far as it is asked."""
        others: dict[int, ModelAdapter] = {}
        adapters: list[ModelAdapter] = []
        conditions: dict[int, dict[str, Any]] = {}
        for i, branch in enumerate(branches):
            adapter = self.adapter
            if branch.model is not None:
                resolve_device(self.device, branch.model)
                adapter = others.setdefault(id(branch.model), ModelAdapter(branch.model))
            adapters.append(adapter)
            if i not in asked:
                conditions[i] = {}
            elif branch.condition is not None:
                conditions[i] = adapter.completed(self.fitted(branch.condition), self.batch, self.device)
            else:
                conditions[i] = self.null(base, null) if branch.null else dict(base)
        own = {i: conditions[i] for i in sorted(asked) if adapters[i] is self.adapter}
        conditions |= numbers_as_rows(own, self.batch, self.device) if len(own) > 1 else {}
        return tuple((adapter, conditions[i]) for i, adapter in enumerate(adapters))


def _refuse_overflow(course: Course, dtype: torch.dtype) -> None:
    """Raise where a coefficient does not fit the state's type, as with a schedule that ends all but without signal."""
    if not course.largest_factor <= torch.finfo(dtype).max:  # NaN fails, too
        raise ConfigurationError(
            f"a coefficient of the plan, {course.largest_factor:.3g}, is beyond {dtype}",
            where="beta_schedule",
            why=f"the noisiest level has almost no signal (α = {course.plan.alpha.min():.3g}), and what the model "
            "predicts is divided by it",
            suggestion="use prediction_type='v_prediction' or 'sample', a schedule with less noise, or a wider dtype",
        )


def checked_scale(scale: Any) -> float:
    """A scale of guidance.

    Raises:
        ConfigurationError: not one finite number.
    """
    try:
        valid = not isinstance(scale, bool | str) and math.isfinite(scale)
    except (TypeError, ValueError, RuntimeError):
        valid = False
    if not valid:
        raise ConfigurationError(f"got {scale!r}", where="guidance_scale", suggestion="give a finite number")
    return float(scale)


def _checked_shape(shape: Any, **starts: Tensor | None) -> tuple[int, ...]:
    """The batch's shape; the tensors that a run may start from must have it and be finite."""
    given = {name: start for name, start in starts.items() if start is not None}
    if shape is None:
        if not given:
            raise ConfigurationError("is missing", where="shape", suggestion="give (batch, channels, height, width)")
        shape = next(iter(given.values())).shape
    try:
        checked = tuple(int(n) for n in shape)
        valid = len(checked) >= 2 and all(n >= 1 and n == m for n, m in zip(checked, shape, strict=True))
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ConfigurationError(
            f"got {shape!r}", where="shape", suggestion="give whole numbers ≥ 1: (batch, channels, height, width)"
        )
    for name, start in given.items():
        if tuple(start.shape) != checked:
            raise ConfigurationError(
                f"has shape {tuple(start.shape)}, the samples {checked}",
                where=name,
                suggestion="leave shape out, or make them the same",
            )
        if not torch.isfinite(start).all():
            raise ConfigurationError("holds NaN or Inf", where=name, suggestion="check how it was made")
    return checked


def _fitted(condition: Mapping[str, Any], batch: int, device: torch.device, where: str) -> dict[str, Any]:
    """The condition on the device, every tensor with one row a sample."""
    if not isinstance(condition, Mapping):
        raise ConfigurationError(
            f"got {type(condition).__name__}", where=where, suggestion="give a mapping of keywords for the model"
        )

    def fit(value: Tensor) -> Tensor:
        if value.ndim and value.shape[0] not in (1, batch):
            raise ConfigurationError(
                f"a tensor of shape {tuple(value.shape)} for a batch of {batch}",
                where=where,
                suggestion="give one row a sample, or one for all",
            )
        value = value.to(device)
        return value.expand(batch, *value.shape[1:]) if value.ndim and value.shape[0] != batch else value

    fitted: dict[str, Any] = map_tensors(fit, {name: as_rows(value, batch) for name, value in condition.items()})
    return fitted


def as_rows(value: Any, batch: int | None = None) -> Any:
    """Arrays, and lists of one number a sample (of any length without ``batch``), as tensors with a row each."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    fits = isinstance(value, list | tuple) and len(value) == (batch or len(value)) and bool(value)
    if fits and all(isinstance(v, int | float) for v in value):
        return torch.tensor(value, device="cpu")
    return value
