"""Checks of the arguments of a calibration, before the first model call. All raise ConfigurationError."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from ..config.settings import NoiseSchedulerConfig
from ..guidance.base import Guidance
from ..guidance.directions import ClassifierFree
from ..guidance.sequence import checked_sequence, follows_the_run
from ..pipeline.batch_conditions import as_rows
from ..pipeline.guidance_of_request import refuse_scale_without_condition
from ..pipeline.pipeline import DiffusionPipeline
from ..pipeline.request import DEFAULT_SCALE
from ..running.model_adapter import map_tensors
from ..schedules.factory import NoiseSchedulerFactory
from ..schedules.path import NoisePath
from ..support.argument_checks import checked_condition, checked_count, checked_number
from ..support.errors import ConfigurationError
from .search.search import STAGES
from .student import PlanRunner
from .table import check_history

__all__ = [
    "budgets_of",
    "checked_history",
    "folded_scale",
    "in_turn",
    "no_other_scales",
    "pipeline_of",
    "positive",
    "refuse_guidance_along_a_run",
    "request_of",
    "scale_of",
    "shape_of",
    "stages_of",
    "teacher_calls_of",
]

logger = logging.getLogger(__name__)

#: The stages that run where none are given.
_DEFAULT_STAGES: Final = ("design", "fit")


def pipeline_of(model: Any, given: Any) -> PlanRunner:
    """Return the given pipeline, or a new one on the given schedule, config or name of a schedule."""
    if isinstance(model, DiffusionPipeline | NoisePath | NoiseSchedulerConfig):
        raise ConfigurationError(
            f"got a {type(model).__name__}",
            where="model",
            suggestion="give the model first, then the pipeline or schedule",
        )
    if not isinstance(given, DiffusionPipeline | NoisePath | NoiseSchedulerConfig | Mapping | str | None):
        raise ConfigurationError(
            f"got {type(given).__name__}",
            where="scheduler",
            suggestion="give a DiffusionPipeline (of a system: system.get_pipeline(name)), a schedule, or its config",
        )
    if not isinstance(given, DiffusionPipeline):
        path = given if isinstance(given, NoisePath) else NoiseSchedulerFactory.create(given)
        return DiffusionPipeline(path, "ddim")
    if model is None and given.has_own_model:
        raise ConfigurationError(
            "the pipeline has its own model, which takes prompts",
            where="model",
            suggestion="use pipeline.calibrate(nfe=..., prompt=...)",
        )
    return given


def positive(number: Any, where: str) -> float:
    """Return a number above 0."""
    if isinstance(number, bool) or not isinstance(number, int | float | np.integer | np.floating) or not number > 0:
        raise ConfigurationError(f"got {number!r}", where=where, suggestion="give a number above 0")
    return float(number)


def teacher_calls_of(calls: int, most: int) -> int:
    """Return the model calls of a teacher, which must be at least twice the most calls of a plan."""
    calls = checked_count(calls, "teacher_calls")
    if calls < 2 * most:
        raise ConfigurationError(
            f"{calls} calls are too few to teach a plan of {most}",
            where="teacher_calls",
            suggestion=f"give at least {2 * most}, better {10 * most}",
        )
    return calls


def checked_history(history: Any) -> int | None:
    """Return the number of earlier predictions that a step may read, or None for all."""
    history = int(history) if isinstance(history, np.integer) else history
    check_history(history)
    return history  # type: ignore[no-any-return]


def scale_of(scale: Any, condition: Any) -> float | None:
    """Return the guidance scale. None: the default, or there is no condition to guide by."""
    if scale is None:
        return None
    number = checked_number(scale, "guidance_scale")
    if not condition:
        refuse_scale_without_condition(number)
        return None
    return number


def budgets_of(nfe: Any, evaluations: Any) -> tuple[int, ...]:
    """Return the different numbers of model calls or of evaluations, in the given order."""
    if (nfe is None) == (evaluations is None):
        raise ConfigurationError(
            "are both missing" if nfe is None else "are both given", where="nfe and evaluations",
            suggestion="give one of them: nfe counts model calls, evaluations counts the branches of guidance, too",
        )  # fmt: skip
    where, number, least = ("nfe", nfe, 1) if evaluations is None else ("evaluations", evaluations, 2)
    given = [number] if isinstance(number, int | np.integer) else number
    try:
        budgets = tuple(checked_count(each, where) for each in given)
    except TypeError:
        budgets = ()
    if not budgets or min(budgets) < least:
        raise ConfigurationError(
            f"got {number!r}", where=where, suggestion=f"give a whole number ≥ {least}, or several"
        )
    return tuple(dict.fromkeys(budgets))


def folded_scale(
    scale: float | None, guidance: Any, condition: Any, stages: Sequence[str], pipeline: PlanRunner
) -> float:
    """Return the guidance scale of plans that count evaluations, which hold classifier-free guidance."""
    sequence = () if guidance is None else checked_sequence(guidance)
    if not condition:
        raise ConfigurationError(
            "counts the branches of guidance, and there is no condition", where="evaluations",
            suggestion="give condition={...}, or nfe instead",
        )  # fmt: skip
    if len(sequence) > 1 or not all(isinstance(each, ClassifierFree) for each in sequence):
        raise ConfigurationError(
            f"got {', '.join(map(repr, sequence))}", where="guidance",
            why="a plan that counts evaluations holds classifier-free guidance of one scale",
            suggestion="give guidance_scale, or nfe instead of evaluations",
        )  # fmt: skip
    if guidance is not None and not sequence:
        raise ConfigurationError(
            f"got {guidance!r}, which guides nothing", where="guidance",
            suggestion="give guidance_scale, or nfe instead of evaluations",
        )  # fmt: skip
    if sequence and scale is not None:
        raise ConfigurationError(
            f"got {scale:g} beside guidance, which says everything", where="guidance_scale",
            suggestion="give one of the two",
        )  # fmt: skip
    number = scale if scale is not None else DEFAULT_SCALE
    for each in sequence:
        number = checked_number(getattr(each, "scale", None), "guidance.scale")
    if number in (0.0, 1.0):
        raise ConfigurationError(
            f"a scale of {number:g} has one branch only", where="guidance_scale", suggestion="give nfe, not evaluations"
        )
    for name in ("clip_sample", "thresholding"):
        if getattr(pipeline.config, name):
            raise ConfigurationError(
                "clips guided predictions, which a plan that holds its guidance does not make", where=name,
                suggestion="give a pipeline without it, or nfe instead of evaluations",
            )  # fmt: skip
    if "refine" in stages:
        raise ConfigurationError(
            "refines plans that count calls only", where="stages", suggestion="leave out 'refine', or give nfe"
        )
    return number


def no_other_scales(scales: Any) -> tuple[float, ...]:
    """Return the other scales at which plans that hold their guidance are measured: none.

    Raises:
        ConfigurationError: scales are given.
    """
    if scales is not None and scales != ():
        raise ConfigurationError(
            f"got {scales!r}", where="scales",
            why="plans that count evaluations hold their guidance and run at no other scale",
            suggestion="leave it out, or give nfe instead of evaluations",
        )  # fmt: skip
    return ()


def shape_of(shape: Any, where: str = "shape") -> tuple[int, ...]:
    """Return the shape of one sample."""
    try:
        size = tuple(int(n) for n in shape)
        valid = bool(size) and all(n >= 1 and n == m for n, m in zip(size, shape, strict=True))
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ConfigurationError(
            f"got {shape!r}",
            where=where,
            suggestion="give the shape of one sample without the batch, e.g. (3, 32, 32)",
        )
    return size


def refuse_guidance_along_a_run(sequence: Sequence[Guidance], pipeline: PlanRunner) -> None:
    """Refuse guidance that depends on the step or on earlier calls of a run."""
    path = pipeline.scheduler
    middle = path.level_at(0.0)
    if follows_the_run(sequence, middle, pipeline.config.prediction_type):
        raise ConfigurationError(
            f"{', '.join(map(repr, sequence))} depends on the step, or on earlier calls",
            where="guidance",
            why="the fit moves levels one by one and evaluates the model outside of a run",
            suggestion="give scales that depend on the level (a function of moment.sigma), and momentum=0",
        )


def request_of(guidance_scale: float | None, round_timesteps: bool, **others: Any) -> dict[str, Any]:
    """Return arguments of ``sample`` (:attr:`Student.request`), without those that have their default."""
    scale = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
    return {**others, **scale, **({"round_timesteps": True} if round_timesteps else {})}


def stages_of(stages: Sequence[str] | None, history: int | None) -> tuple[str, ...]:
    """Return the stages in the order in which they run."""
    given = _DEFAULT_STAGES if stages is None else (stages,) if isinstance(stages, str) else tuple(stages)
    unknown = [stage for stage in given if stage not in STAGES]
    if unknown or not given:
        raise ConfigurationError(f"got {stages!r}", where="stages", suggestion=f"give some of {', '.join(STAGES)}")
    if history is not None and "refine" in given:
        raise ConfigurationError(
            "refines plans of full history only", where="stages", suggestion="leave out 'refine', or history"
        )
    return tuple(stage for stage in STAGES if stage in given)


def in_turn(
    condition: Mapping[str, Any] | None, fitted: int, count: int, where: str = "condition"
) -> Mapping[str, Any] | None:
    """Return a condition with one row for each trajectory, which repeats the given rows.

    Args:
        condition: the keywords of the model; tensors or arrays with any number of rows.
        fitted: the number of trajectories to fit to.
        count: the number of all trajectories.
        where: the argument's name, for messages.
    """
    if condition is None:
        return None
    keywords = checked_condition(condition, where)

    def repeat(value: Tensor) -> Tensor:
        many = value.ndim and value.shape[0] > 1
        if many and value.shape[0] > fitted:
            logger.warning("%s has %d rows, of which %d trajectories see the first", where, value.shape[0], fitted)
        return value[torch.arange(count, device=value.device) % value.shape[0]] if many else value

    repeated: Mapping[str, Any] = map_tensors(repeat, {key: as_rows(value) for key, value in keywords.items()})
    return repeated
