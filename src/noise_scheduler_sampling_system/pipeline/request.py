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

from ..grids.image_start import grid_of_start
from ..grids.time_grid import TimeGrid, refuse_clean_start
from ..guidance.base import Branch, Guidance
from ..guidance.compile import RowGuidance, checked_sequence, compile_guidance, guidance_of_rows
from ..guidance.conditions import merged, null_counterpart, numbers_as_rows, placed, refuse_foreign_labels
from ..guidance.directions import ClassifierFree
from ..guidance.evaluate import RunGuidance
from ..plans.plan import SamplingPlan
from ..plans.plan_set import PlanSet
from ..running.brownian import brownian
from ..running.loop import Run
from ..running.model_adapter import ModelAdapter, map_tensors, resolve_device
from ..running.noise import NoiseSource, Seed, resolve_keys
from ..running.output_check import Look
from ..running.stated_prediction import refuse_other_prediction
from ..schedules.path import Level, NoisePath
from ..support.argument_checks import (
    as_array,
    as_tensor,
    checked_dtype,
    checked_flag,
    checked_number,
    checked_shape,
    refuse_special,
    refuse_too_large,
)
from ..support.errors import ConfigurationError, shown
from .compiled import Setup
from .job import Job

__all__ = ["DEFAULT_SCALE", "as_rows", "prepare", "refuse_scale_without_condition"]

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
    initial_noise: Any,
    initial_sample: Any,
    timesteps: Sequence[float] | None,
    plan: SamplingPlan | PlanSet | None,
    device: str | torch.device,
    dtype: torch.dtype | None,
    guidance: Guidance | Sequence[Guidance] | None = None,
    classifier_free: bool = True,
    grid: TimeGrid | None = None,
    noise: str = "independent",
    round_timesteps: bool = False,
    resumed: bool = False,
    borrowed: bool = False,
    start: float | Level | None = None,
    strength: float | None = None,
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
    starts = {"initial_noise": initial_noise, "initial_sample": initial_sample}
    starts = {name: as_tensor(value, name) for name, value in starts.items() if value is not None}
    device = resolve_device(device, model, next(iter(starts.values()), None))
    shape = _shape_of(shape, starts)
    scale = asked_scale = checked_number(scale, "guidance_scale")
    classifier_free = checked_flag(classifier_free, "classifier_free_guidance")
    if model is None:
        from ..models import DigitsModel

        if config.variance_type.startswith("learned"):
            raise ConfigurationError(
                "no model is given, and the embedded one has no learned variance",
                where="variance_type",
                suggestion="give a model, or config.replace(variance_type='fixed_small')",
            )
        model = DigitsModel(scheduler)
    adapter = ModelAdapter(model)
    said = refuse_other_prediction(model, config.prediction_type, beside=not borrowed)
    if isinstance(plan, PlanSet):
        plan = plan.pick(num_inference_steps)
    for name, value in {"timesteps": timesteps, "grid": grid}.items():
        if plan is not None and value is not None:
            raise ConfigurationError("a plan has its own timesteps", where=name, suggestion="give one of the two")
    if not resumed:
        beside = {"timesteps": timesteps, "grid": grid, "plan": plan}
        begun = grid_of_start(
            scheduler, num_inference_steps, start=start, strength=strength, initial_sample=initial_sample, beside=beside
        )
        grid = grid if begun is None else begun
    run = setup.run_on(num_inference_steps, timesteps, grid) if plan is None else setup.following(plan)
    if run.plan.null is not None and guidance is None:  # CFG++: λ interpolates, so that it is at most 1
        if scale == DEFAULT_SCALE:
            scale = _CFG_PP_SCALE
        elif scale > 1.0:
            logger.warning("CFG++ takes guidance_scale as λ from 0 to 1; %g goes far beyond the condition", scale)
    if resumed:
        setup.refuse_to_resume()
    if initial_noise is None and initial_sample is None and not resumed:
        first = run.plan
        refuse_clean_start(first.time[0], first.alpha[0], first.sigma[0])
    dtype = checked_dtype(dtype, adapter.dtype)
    refuse_too_large(shape, dtype, device)
    starts = {name: _placed(start, device, dtype, name) for name, start in starts.items()}
    _refuse_overflow(run, dtype)
    keys = resolve_keys(seed, generator, shape[0])
    given = _fitted({} if condition is None else condition, shape[0], device, "condition")
    if guidance is None and classifier_free and not given:
        refuse_scale_without_condition(asked_scale)
    sequence = _checked_guidance(guidance, scale, classifier_free, bool(given))
    for each in sequence:
        each.refuse_shape(shape)
    if guidance is None and given:
        _warn_of_other_guidance(run.plan, scale if classifier_free else 1.0)
    further = next((condition for each in sequence for condition in each.conditions), None)
    if not given and null_condition is not None and further is None:
        raise ConfigurationError(
            "there is no condition to oppose it to", where="null_condition", suggestion="give condition={...}, too"
        )
    opposed = bool(given) and classifier_free
    branches, rows = compile_guidance(
        sequence,
        run.plan,
        config.prediction_type,
        opposed=opposed,
        learned=run.split,
    )
    _refuse_overflow_of_guidance(rows, dtype, adapter.dtype)
    again = partial(
        guidance_of_rows, sequence=sequence, prediction_type=config.prediction_type, branches=list(branches),
        opposed=opposed, learned=run.split,
    )  # fmt: skip
    asked = {i for row in set(rows) if row is not None for i in row.evaluated}
    if not run.planned:  # it evaluates the model at other levels, too
        asked |= {i for i in range(len(branches)) if i != 1 or opposed}
    conditions = _Conditions(adapter, shape[0], device)
    alone = not given and further is not None  # further conditions stand against the null one
    base = conditions.null(conditions.fitted(further), null_condition) if alone else conditions.completed(given)
    resolved = conditions.of(branches, asked, base, null_condition)
    return Job(
        run=run,
        guided=RunGuidance(resolved, rows, run.split, run.branches, again),
        noise=_noise(noise, run.plan, NoiseSource(keys, tuple(shape[1:]), dtype, device)),
        initial_noise=starts.get("initial_noise"),
        initial_sample=starts.get("initial_sample"),
        settings=setup.identity,
        integral=scheduler.discrete and run.planned,
        whole=_last_timestep(scheduler) if checked_flag(round_timesteps, "round_timesteps") else None,
        look=None if said else Look(model, config.prediction_type, scheduler.sigma_is_absolute),
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
    if not isinstance(kind, str) or kind not in ("independent", "brownian"):
        raise ConfigurationError(f"got {shown(kind)}", where="noise", suggestion="give 'independent' or 'brownian'")
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


def _last_timestep(scheduler: NoisePath) -> int:
    """The largest timestep that a network with a table of them knows."""
    if not scheduler.discrete:
        raise ConfigurationError(
            f"{scheduler!r} has no whole timesteps",
            where="round_timesteps",
            why="a rounded time would be another noise level",
            suggestion="leave it out; networks of such schedules take real times",
        )
    return scheduler.config.num_train_timesteps - 1


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
        """The null condition: as given, and the condition's where nothing is; or the counterpart of a condition."""
        null = null_counterpart(self.adapter.model, condition) if given is None else given
        fitted = _fitted(null, self.batch, self.device, "null_condition")
        return self.completed(fitted if given is None else merged(condition, fitted))

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
                continue
            if branch.condition is not None:
                conditions[i] = adapter.completed(self.fitted(branch.condition), self.batch, self.device)
            else:
                conditions[i] = self.null(base, null) if branch.null else dict(base)
            where = "null_condition" if branch.null else "condition"
            adapter.refuse_call(conditions[i], where)
            refuse_foreign_labels(adapter.model, conditions[i], where)
        own = {i: conditions[i] for i in sorted(asked) if adapters[i] is self.adapter}
        conditions |= numbers_as_rows(own, self.batch, self.device) if len(own) > 1 else {}
        return tuple((adapter, conditions[i]) for i, adapter in enumerate(adapters))


def _refuse_overflow(run: Run, dtype: torch.dtype) -> None:
    """Raise where a coefficient does not fit the state's type, as with a schedule that ends all but without signal."""
    if not run.largest_factor <= torch.finfo(dtype).max:  # NaN fails, too
        raise ConfigurationError(
            f"a coefficient of the plan, {run.largest_factor:.3g}, is beyond {dtype}",
            where="beta_schedule",
            why=f"the noisiest level has almost no signal (α = {run.plan.alpha.min():.3g}), and what the model "
            "predicts is divided by it",
            suggestion="use prediction_type='v_prediction' or 'sample', a schedule with less noise, or a wider dtype",
        )


def _refuse_overflow_of_guidance(
    rows: Sequence[RowGuidance | None], dtype: torch.dtype, model_dtype: torch.dtype | None
) -> None:
    """Raise where a coefficient of the guidance does not fit the state's type, or the model's."""
    least = min(torch.finfo(each).max for each in (dtype, model_dtype or dtype))
    for row in dict.fromkeys(rows):
        if row is not None and not row.largest_factor <= least:  # NaN fails, too
            raise ConfigurationError(
                f"a coefficient of the guidance, {row.largest_factor:.3g}, is beyond {dtype}",
                where="guidance_scale",
                suggestion="give a scale of ordinary size: 1 to 20",
            )


def refuse_scale_without_condition(scale: float) -> None:
    """Raise for a scale that was chosen and has no condition to act on; the default, and 1, stand for no choice.

    Raises:
        ConfigurationError: another scale.
    """
    if scale not in (DEFAULT_SCALE, 1.0):
        raise ConfigurationError(
            f"guidance needs a condition, and there is none for a scale of {scale:g}",
            where="guidance_scale",
            why="it would do nothing",
            suggestion='give condition={...}, e.g. {"class_labels": labels} (on the command line --labels), or leave '
            "the scale out",
        )


def _shape_of(shape: Any, starts: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The batch's shape; the tensors that a run may start from must have it."""
    if shape is None:
        if not starts:
            raise ConfigurationError("is missing", where="shape", suggestion="give (batch, channels, height, width)")
        shape = tuple(next(iter(starts.values())).shape)
    checked = checked_shape(shape)
    for name, start in starts.items():
        if tuple(start.shape) != checked:
            raise ConfigurationError(
                f"has shape {tuple(start.shape)}, the samples {checked}",
                where=name,
                suggestion="leave shape out, or make them the same",
            )
    return checked


def _placed(start: Tensor, device: torch.device, dtype: torch.dtype, where: str) -> Tensor:
    """A given start as a state of the run."""
    placed = start.to(device, dtype)
    if not torch.isfinite(placed.detach()).all():
        finite = bool(torch.isfinite(start.detach()).all())
        raise ConfigurationError(
            f"holds values beyond {dtype}" if finite else "holds NaN or Inf",
            where=where,
            suggestion="give a wider dtype" if finite else "check how it was made",
        )
    return placed


def _fitted(condition: Mapping[str, Any], batch: int, device: torch.device, where: str) -> dict[str, Any]:
    """The condition on the device, every tensor with one row a sample."""
    if not isinstance(condition, Mapping):
        raise ConfigurationError(
            f"got {type(condition).__name__}", where=where, suggestion="give a mapping of keywords for the model"
        )

    for name in condition:
        if not isinstance(name, str):
            raise ConfigurationError(
                f"has the key {shown(name)}",
                where=where,
                why="its keys are keywords of the model",
                suggestion="give a mapping of text, e.g. {'class_labels': labels}",
            )

    def fit(value: Tensor) -> Tensor:
        refuse_special(value, where)
        if value.ndim and value.shape[0] not in (1, batch):
            raise ConfigurationError(
                f"a tensor of shape {tuple(value.shape)} for a batch of {batch}",
                where=where,
                suggestion="give one row a sample, or one for all; if it has no batch dimension, "
                "noise_scheduler_sampling_system.Unbatched(tensor)",
            )
        value = value.to(device)
        return value.expand(batch, *value.shape[1:]) if value.ndim and value.shape[0] != batch else value

    rows = {name: as_rows(value, batch, f"{where}[{name!r}]") for name, value in condition.items()}
    return placed(map_tensors(fit, rows), device)


def as_rows(value: Any, batch: int | None = None, where: str = "condition") -> Any:
    """Arrays, and lists of one number a sample (of any length without ``batch``), as tensors with a row each.

    Raises:
        ConfigurationError: an array that no tensor can hold, or whole numbers beyond 64 bits.
    """
    if isinstance(value, np.ndarray):
        return as_array(value, where)
    fits = isinstance(value, list | tuple) and len(value) == (batch or len(value)) and bool(value)
    if fits and all(isinstance(v, int | float) for v in value):
        try:
            return torch.tensor(value, device="cpu")
        except (RuntimeError, ValueError, OverflowError) as error:
            raise ConfigurationError(
                f"got {shown(value)}", where=where, why=str(error), suggestion="give numbers of at most 64 bits"
            ) from error
    return value
