"""calibrate(): the few-step plan that is best for one model, found by running it."""

from __future__ import annotations

import logging
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import ConfigurationError
from ..grids import checked_steps
from ..guidance.base import Guidance
from ..guidance.program import checked_sequence, follows_the_run
from ..model import map_tensors, resolve_device
from ..noise import NoiseSource, calibration_keys
from ..plans import PlanSet
from ..prepare import DEFAULT_SCALE, as_rows
from .checkpoint import Checkpoint
from .design import FIRST
from .fit import Fit
from .limits import Limits
from .measure import Errors, errors_of
from .record import described, fingerprint, guidance_named
from .search import STAGES, Found, search
from .student import Student, Tally, end_of
from .table import check_history
from .teacher import Trajectories, teach

if TYPE_CHECKING:
    from ..config import NoiseSchedulerConfig
    from ..pipeline import DiffusionPipeline
    from ..plan import SamplingPlan
    from ..schedules.path import NoisePath

__all__ = ["calibrate"]

logger = logging.getLogger(__name__)

#: How many of the teacher's trajectories are followed with half as many calls, too, to know its error.
_CHECKED = 32
_DEFAULT_STAGES = ("design", "fit")


def calibrate(
    model: Callable[..., Any] | None,
    scheduler: DiffusionPipeline | NoisePath | NoiseSchedulerConfig | Mapping[str, Any] | None = None,
    *,
    shape: Sequence[int],
    nfe: int | Iterable[int],
    condition: Mapping[str, Any] | None = None,
    null_condition: Mapping[str, Any] | None = None,
    guidance_scale: float | None = None,
    guidance: Guidance | Sequence[Guidance] | None = None,
    trajectories: int = 512,
    held_out: int | None = None,
    budget_seconds: float | None = None,
    passes: float = 300.0,
    stages: Sequence[str] | None = None,
    history: int | None = None,
    first: str = "free",
    max_gain: float = 30.0,
    teacher_calls: int = 128,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    max_batch_size: int | None = None,
) -> Any:
    """Fit a few-step plan to a model: its query levels and all its coefficients, against where fine runs end.

    Nothing is trained and no data is needed: the model is run. (1) A teacher of ``teacher_calls`` calls follows
    trajectories from random noise, and its own error is estimated. (2) "design": the best table for Gaussian data with
    the spectrum of the teacher's samples, without a model call. (3) "fit": starts are that and the best built-in
    samplers, each one's rows regressed on exact trajectories; and a table that was fitted for fewer calls, with one
    query more at a time where it helps most. From the best of them Gauss-Newton on levels and coefficients against
    the error at the end; nothing is differentiated through the model. (4) "refine", only if asked for: Adam through
    the model. (5) What is best on held-out noise is returned, of these and of the best built-in samplers, so that it
    is not worse than they are there. Every built-in sampler without noise that has exactly so many calls is ranked
    for that on a few trajectories (as many as a small budget allows).

    What runs follows from the budget: after the ranking and the regressions 15 % of ``budget_seconds`` or of
    ``passes`` may be gone, after the starts from below 30 %, after the trials of all starts 40 %; the fit makes
    iterations as long as the next one fits. So a budget below some ten passes leaves the design, the starts and the
    best built-in sampler. Several ``nfe`` share the seconds that are left by N^1.5. On top come the runs of the gate;
    at least twelve built-in samplers are ranked, and the teacher is not cut short. An interrupt (Ctrl-C) stops the
    fit, and returns the best so far; further numbers of calls are left out, and a checkpoint goes on from there.

    Args:
        model: as for :meth:`DiffusionPipeline.sample`; None: the embedded digits.
        scheduler: a pipeline, a noise schedule or its config. The config says what the model predicts.
        shape: of one sample, without the batch.
        nfe: model calls of the plan; several make a :class:`PlanSet`, from the same trajectories.
        condition, null_condition: keywords for the model; tensors with any number of rows, which the trajectories
            take in turn. Give those that the plan is to be used with, e.g. all classes.
        guidance_scale, guidance: as for ``sample``; the plan is tuned to them. What the guidance does may depend
            on the noise level, but not on the step or on earlier calls: the fit asks at levels alone.
        trajectories: how many to fit to. Many cost little beside the teacher, for a Jacobian is made of those that
            tell most; with few, those that are about to end in another basin decide too much.
        held_out: how many to choose by; default as many.
        budget_seconds: limit on the time, the teacher's included. Plans then depend on the machine's speed.
        passes: limit on the runs of all trajectories, for each number of calls.
        stages: of "design", "fit", "refine"; default the first two.
        history: the most earlier predictions that a step may read (the memory of a run); None: all.
        first: "free", or "noisiest": the model is asked at the noisiest level first, at the cost of a call.
        max_gain: limit on how much errors of the model's predictions are multiplied (:attr:`Table.gain`); built-in
            samplers are not asked.
        teacher_calls: model calls of a teacher's trajectory.
        seed: of the noise, which no run of ``sample`` has; the same seed gives the same plan, but for runs that were
            limited in time or resumed.
        progress: show a bar with the current held-out error.
        checkpoint: a ``.safetensors`` file that is written on the way and read again: an interrupted
            calibration goes on from there.
        device, dtype, max_batch_size: as for ``sample``.

    Returns:
        A plan for ``pipeline.sample(plan=...)``, or a :class:`PlanSet`. ``plan.provenance`` has its errors, those of
        the teacher and of the best built-in sampler, seeds, settings, versions, and the model's fingerprint.

    Raises:
        ConfigurationError: before the first model call, what cannot work.
        FileError: a checkpoint of another calibration.
        ModelOutputError: as for ``sample``.
    """
    pipeline = _pipeline(scheduler)
    budgets = _budgets(nfe)
    size = _shape(shape)
    stages = _stages(stages, history)
    trajectories = checked_steps(trajectories, "trajectories")
    teacher_calls = checked_steps(teacher_calls, "teacher_calls")
    if teacher_calls < 2 * max(budgets):
        raise ConfigurationError(
            f"{teacher_calls} calls are no teacher of {max(budgets)}",
            where="teacher_calls",
            suggestion=f"give at least {2 * max(budgets)}, better ten times as many as the plan has",
        )
    check_history(history)
    count = trajectories + (trajectories if held_out is None else checked_steps(held_out, "held_out"))
    keys = calibration_keys(seed, count)
    for name, number in {"budget_seconds": budget_seconds, "passes": passes, "max_gain": max_gain}.items():
        if number is not None and not (isinstance(number, int | float) and number > 0):
            raise ConfigurationError(f"got {number!r}", where=name, suggestion="give a number above 0")
    if first not in FIRST:
        raise ConfigurationError(f"got {first!r}", where="first", suggestion=f"give one of {', '.join(FIRST)}")
    if guidance is not None:
        _refuse_guidance_along_a_run(checked_sequence(guidance), pipeline)
    began = time.monotonic()
    deadline = began + budget_seconds if budget_seconds is not None else math.inf
    request: dict[str, Any] = {"device": device, "dtype": dtype, "max_batch_size": max_batch_size, "guidance": guidance}
    if guidance_scale is not None:
        request["guidance_scale"] = guidance_scale
    student = Student(
        pipeline, model, _in_turn(condition, count, "condition"), _in_turn(null_condition, count, "null_condition"),
        request,
    )  # fmt: skip
    place = resolve_device(device, model)
    noise = NoiseSource(keys, size, torch.float32, place).initial()
    by_default = condition is not None and guidance_scale is None and guidance is None
    about = {
        "seed": int(seed), "shape": list(size), "trajectories": trajectories, "held_out": count - trajectories,
        "guidance_scale": DEFAULT_SCALE if by_default else guidance_scale,
        "guidance": guidance_named(guidance),
        "condition": described(condition), "null_condition": described(null_condition),
        "config": pipeline.config.to_dict(), "schedule": repr(pipeline.scheduler), "model": fingerprint(model),
        "stages": list(stages), "history": history, "first": first, "max_gain": max_gain, "passes": passes,
        "teacher_calls": teacher_calls,
    }  # fmt: skip
    stored = Checkpoint.open(checkpoint, about)
    made: dict[int, SamplingPlan] = {}
    with closing(tqdm(total=None, disable=not progress, unit="iteration")) as bar:
        if stored.solution is None:
            bar.set_description(f"teacher, {teacher_calls} calls")
            lesson, teacher_error = teach(student, noise, teacher_calls, min(_CHECKED, count))
            stored.teach(lesson.solution, teacher_error)
        assert stored.solution is not None
        solution = stored.solution.to(place)
        everything = Trajectories(noise, solution, torch.arange(count))
        taught, unseen = everything.part(0, trajectories), everything.part(trajectories, count)
        for budget in sorted(budgets):
            if budget in stored.plans:
                continue
            left = [each for each in budgets if each not in stored.plans]
            # what is shown costs model calls, too, which must not count: the plan is the same without the bar
            shown = _Shown(bar, replace(student, tally=Tally()), unseen, budget, stored)
            now = time.monotonic()
            share = budget**1.5 / sum(each**1.5 for each in left)  # about what an iteration costs
            until = now + share * (deadline - now)
            limits = Limits(passes, until, stages, history, first, max_gain, teacher_calls)
            smaller = stored.tables.get(max((n for n in stored.tables if n < budget), default=0))
            try:
                found = search(student, budget, taught, unseen, limits, shown, stored.fits.get(budget), smaller)
            except KeyboardInterrupt:  # before or after the fit
                logger.warning("interrupted: returning the plans that are done")
                break
            facts = {**about, **_facts(found, stored.teacher_error), "versions": _versions()}
            plan = replace(found.plan, provenance=facts)
            if found.interrupted:  # in the file it is not done
                made[budget] = plan
                break
            stored.finish(budget, plan, found.table)
            logger.info("%d calls: %s", budget, _sentence(found))
    made |= stored.plans
    if not any(budget in made for budget in budgets):
        raise KeyboardInterrupt
    plans = PlanSet({budget: made[budget] for budget in budgets if budget in made})
    return plans[budgets[0]] if isinstance(nfe, int | np.integer) else plans


class _Shown:
    """Writes the state of a fit to the bar and to the checkpoint."""

    def __init__(self, bar: Any, student: Student, unseen: Trajectories, nfe: int, stored: Checkpoint) -> None:
        self._bar, self._student, self._unseen, self._nfe, self._stored = bar, student, unseen, nfe, stored

    def __call__(self, stage: str, fit: Fit) -> None:
        if stage != "climb":  # there it is of fewer calls
            self._stored.keep(self._nfe, fit)
        if not self._bar.disable:
            columns = self._student.columns(fit.table, self._unseen.noise, self._unseen.rows)
            errors = errors_of(end_of(fit.table, columns), self._unseen.solution)
            self._bar.set_description(f"{self._nfe} calls, {stage}")
            self._bar.set_postfix_str(f"held-out error {errors.rms:.4g} (median {errors.median:.4g})")
            self._bar.update()


def _facts(found: Found, teacher_error: float) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "training_error": found.training._asdict(),
        "held_out_error": found.held_out._asdict(),
        "teacher_error": teacher_error,
        "built_in": [{"name": name, "held_out_error": errors._asdict()} for name, errors in found.built_in],
        "gain": None if found.table is None else found.table.gain,
        "student_passes": round(found.passes, 1),
        "iterations": found.iterations,
    }


def _sentence(found: Found) -> str:
    name, of_baseline = found.built_in[0]

    def both(errors: Errors) -> str:
        return f"{errors.rms:.3g} (median {errors.median:.3g})"

    return f"{found.kind}, held-out error {both(found.held_out)}, best built-in {name} {both(of_baseline)}"


def _versions() -> dict[str, str]:
    from .. import __version__

    ours = {"noise_scheduler_sampling_system": __version__}
    return {**ours, "torch": torch.__version__, "python": platform.python_version()}


def _pipeline(given: Any) -> DiffusionPipeline:
    from ..pipeline import DiffusionPipeline

    return given if isinstance(given, DiffusionPipeline) else DiffusionPipeline(given, "ddim")


def _budgets(nfe: Any) -> tuple[int, ...]:
    given = [nfe] if isinstance(nfe, int | np.integer) else nfe
    try:
        budgets = tuple(checked_steps(each, "nfe") for each in given)
    except TypeError:
        budgets = ()
    if not budgets:
        raise ConfigurationError(f"got {nfe!r}", where="nfe", suggestion="give a whole number ≥ 1, or several")
    return tuple(dict.fromkeys(budgets))


def _shape(shape: Any) -> tuple[int, ...]:
    try:
        size = tuple(int(n) for n in shape)
        valid = bool(size) and all(n >= 1 and n == m for n, m in zip(size, shape, strict=True))
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ConfigurationError(
            f"got {shape!r}",
            where="shape",
            suggestion="give that of one sample without the batch, e.g. (3, 32, 32)",
        )
    return size


def _refuse_guidance_along_a_run(sequence: Sequence[Guidance], pipeline: DiffusionPipeline) -> None:
    path = pipeline.scheduler
    middle = path.level_at(0.0)
    if follows_the_run(sequence, middle, pipeline.config.prediction_type):
        raise ConfigurationError(
            f"{', '.join(map(repr, sequence))} depends on the step, or on earlier calls",
            where="guidance",
            why="the fit moves levels one by one and asks the model outside of a run",
            suggestion="give scales that depend on the level (a function of moment.sigma), and momentum=0",
        )


def _stages(stages: Sequence[str] | None, history: int | None) -> tuple[str, ...]:
    given = _DEFAULT_STAGES if stages is None else (stages,) if isinstance(stages, str) else tuple(stages)
    unknown = [stage for stage in given if stage not in STAGES]
    if unknown or not given:
        raise ConfigurationError(f"got {stages!r}", where="stages", suggestion=f"give some of {', '.join(STAGES)}")
    if history is not None and "refine" in given:
        raise ConfigurationError(
            "refines plans of full history only", where="stages", suggestion="leave out 'refine', or history"
        )
    return tuple(stage for stage in STAGES if stage in given)


def _in_turn(condition: Mapping[str, Any] | None, count: int, where: str) -> Mapping[str, Any] | None:
    """A condition with one row a trajectory: those given, again and again."""
    if condition is None:
        return None
    if not isinstance(condition, Mapping):
        raise ConfigurationError(
            f"got {type(condition).__name__}", where=where, suggestion="give a mapping of keywords for the model"
        )

    def repeat(value: Tensor) -> Tensor:
        many = value.ndim and value.shape[0] > 1
        return value[torch.arange(count, device=value.device) % value.shape[0]] if many else value

    repeated: Mapping[str, Any] = map_tensors(repeat, {key: as_rows(value) for key, value in condition.items()})
    return repeated
