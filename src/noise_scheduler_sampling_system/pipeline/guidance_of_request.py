"""The guidance of a request: its scale, its condition and its guidance objects as the branches of one run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from ..guidance.base import Guidance
from ..guidance.compile import CompiledGuidance, compile_guidance
from ..guidance.directions import ClassifierFree
from ..guidance.evaluate import RunGuidance
from ..guidance.sequence import checked_sequence
from ..plans.base import Plan
from ..plans.frame_plan import FramePlan
from ..running.loop import Run
from ..support.errors import ConfigurationError
from .batch_conditions import BatchConditions
from .calibrated_scale import warn_of_other_scale
from .request import DEFAULT_SCALE, Request

__all__ = ["compiled_guidance", "refuse_scale_beside_guidance", "refuse_scale_without_condition", "run_guidance"]

logger = logging.getLogger(__name__)

#: λ of CFG++ where no scale is given (Chung et al. 2024 use 0.6 for 7.5 of ordinary guidance).
_CFG_PP_SCALE: Final = 0.6


def compiled_guidance(
    request: Request, run: Run, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...], kind: str, *, conditional: bool
) -> CompiledGuidance:
    """The guidance of a request for the rows of a run, for every condition.

    Args:
        request: the scale and the guidance of the user.
        run: whose rows are guided.
        shape: of the state.
        dtypes: of the state and of the model.
        kind: the prediction type of the model.
        conditional: whether there is a condition.

    Raises:
        ConfigurationError: guidance that cannot act, or would do nothing.
    """
    sequence = _sequence(request, run.plan, conditional)
    for each in sequence:
        each.refuse_shape(shape)
        if isinstance(run.plan, FramePlan) and not run.plan.lockstep and not each.uniform:
            raise ConfigurationError(
                f"{type(each).__name__} depends on the noise level, and the frames have different ones",
                where="guidance",
                suggestion="use guidance that is the same at every level (ClassifierFree with a number); known frames "
                "are the grid's context: FrameGrid.full_sequence(..., context=...), sample(context=...)",
            )
    opposed = conditional and request.classifier_free_guidance
    compiled = compile_guidance(sequence, run.plan, kind, opposed=opposed, learned=run.split)
    if not conditional and request.null_condition is not None and compiled.further is None:
        raise ConfigurationError(
            "there is no condition to oppose it to", where="null_condition", suggestion="give condition={...}, too"
        )
    if run.plan.two_times and compiled.acts_on_clean:
        raise ConfigurationError(
            f"[{', '.join(type(each).__name__ for each in sequence)}] acts on the expected clean sample",
            where="guidance",
            why="a network of two times predicts a step, not the expected clean sample",
            suggestion="use guidance_scale, or guidance=ClassifierFree(scale), which is linear",
        )
    _refuse_overflow(compiled, dtypes)
    return compiled


def run_guidance(
    compiled: CompiledGuidance, run: Run, conditions: BatchConditions, condition: dict[str, Any],
    null: Mapping[str, Any] | None,
) -> RunGuidance:  # fmt: skip
    """The guidance of a run under its conditions.

    Args:
        compiled: the guidance for every condition.
        run: whose rows are guided.
        conditions: the model and the batch.
        condition: of the user, fitted to the batch.
        null: the null condition, as the user gave it.

    Raises:
        ConfigurationError: a condition that the model or the batch does not fit.
    """
    evaluated = compiled.evaluated
    if not run.planned:  # further levels may evaluate further branches
        evaluated |= {i for i in range(len(compiled.branches)) if i != 1 or compiled.opposed}
    if condition or compiled.further is None:
        base = conditions.completed(condition)
    else:  # further conditions stand against the null one
        base = conditions.completed(conditions.null(conditions.fitted(compiled.further, "guidance"), null))
    of_branches = conditions.of_branches(compiled.branches, evaluated, base, null)
    return RunGuidance(of_branches, compiled, run.split, run.branches)


def _sequence(request: Request, plan: Plan, conditional: bool) -> tuple[Guidance, ...]:
    """The guidance objects of a request, from left to right; ``guidance_scale`` stands for :class:`ClassifierFree`."""
    if plan.scale is not None:
        _refuse_other_guidance(request, plan.scale, conditional)
        return ()
    if request.guidance is None:
        scale, classifier_free = _scale_for(plan, request), request.classifier_free_guidance
        if not conditional:
            if classifier_free:
                refuse_scale_without_condition(request.guidance_scale)
            return ()
        warn_of_other_scale(plan, scale if classifier_free else 1.0)
        return (ClassifierFree(scale),) if classifier_free else ()
    sequence = checked_sequence(request.guidance)
    for each in sequence:
        if each.contrasts and not conditional:
            raise ConfigurationError(
                f"{type(each).__name__} opposes the condition to its absence, and there is none",
                where="guidance",
                suggestion="give condition={...}, or guidance that needs none",
            )
    if conditional and (number := _number_of(sequence)) is not None:
        warn_of_other_scale(plan, number)
    return sequence


def _number_of(sequence: Sequence[Guidance]) -> float | None:
    """The scale of the guidance that opposes the condition to its absence, 1 without such guidance; None: no number."""
    scale = next((getattr(each, "scale", None) for each in sequence if each.contrasts), 1.0)
    return float(scale) if isinstance(scale, int | float) else None


def refuse_scale_beside_guidance(request: Request) -> None:
    """Raise where a request with guidance objects gives a scale, too, or ``classifier_free_guidance=False``.

    Raises:
        ConfigurationError: one of them is given.
    """
    for name, given in {
        "guidance_scale": request.scale_given,
        "classifier_free_guidance": not request.classifier_free_guidance,
    }.items():
        if given and request.guidance is not None:
            raise ConfigurationError(
                "is given beside guidance, which says everything",
                where=name,
                suggestion="leave it out, and put ClassifierFree(scale) into guidance",
            )


def _refuse_other_guidance(request: Request, scale: float, conditional: bool) -> None:
    """Raise where a plan that holds its guidance runs without a condition, or under other guidance."""
    if not conditional:
        raise ConfigurationError(
            f"the plan holds guidance of scale {scale:g}, and there is no condition",
            where="condition",
            suggestion="give condition={...}, or a plan without guidance",
        )
    for name, wrong in {
        "guidance": bool(request.guidance),
        "guidance_scale": request.scale_given and request.guidance_scale != scale,
        "classifier_free_guidance": not request.classifier_free_guidance,
    }.items():
        if wrong:
            raise ConfigurationError(
                f"the plan holds guidance of scale {scale:g}",
                where=name,
                suggestion="leave it out, or give a plan without guidance",
            )


def _scale_for(plan: Plan, request: Request) -> float:
    """The scale, or λ for a plan of CFG++, which interpolates: λ is at most 1."""
    scale = float(request.guidance_scale)
    if not any(plan.reads_null):
        return scale
    if not request.scale_given:
        return _CFG_PP_SCALE
    if scale > 1.0:
        logger.warning("CFG++ takes guidance_scale as λ from 0 to 1; %g goes far beyond the condition", scale)
    return scale


def _refuse_overflow(compiled: CompiledGuidance, dtypes: tuple[torch.dtype, ...]) -> None:
    """Raise where a coefficient of the guidance does not fit the state's type or the model's."""
    largest = min(torch.finfo(each).max for each in dtypes)
    if not compiled.largest_factor <= largest:  # NaN fails, too
        raise ConfigurationError(
            f"a coefficient of the guidance, {compiled.largest_factor:.3g}, is beyond {dtypes[0]}",
            where="guidance_scale",
            suggestion="give a scale of ordinary size: 1 to 20",
        )


def refuse_scale_without_condition(scale: float) -> None:
    """Raise for a chosen scale that has no condition to act on; the default and 1 count as not chosen.

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
