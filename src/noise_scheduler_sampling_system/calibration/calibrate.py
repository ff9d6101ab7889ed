"""calibrate(): the best few-step plan for one model, found by running the model."""

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
from tqdm.auto import tqdm

from ..config.keyword_advice import keywords_of, refuse_unknown
from ..guidance.base import Guidance
from ..guidance.sequence import checked_sequence
from ..pipeline.pipeline import CALIBRATE, DiffusionPipeline
from ..plans.plan_set import PlanSet
from ..running.noise import NoiseSource, calibration_keys
from ..running.placement import device_of, resolve_device
from ..support.argument_checks import checked_count
from ..support.errors import ConfigurationError
from ..support.version import __version__
from .arguments import (
    budgets_of,
    checked_history,
    folded_scale,
    in_turn,
    no_other_scales,
    pipeline_of,
    positive,
    refuse_guidance_along_a_run,
    request_of,
    scale_of,
    shape_of,
    stages_of,
    teacher_calls_of,
)
from .budget import Clock, Limits
from .checkpoint import Checkpoint
from .design import FIRST
from .goal import Goal
from .outlines.insight import Insight
from .progress import BAR, FitReport, WorkGauge
from .provenance import setting_facts
from .search.gate import Gate
from .search.search import Found, Learned, search
from .student import CallCounter, Student
from .trajectories import Errors, Trajectories, teach
from .trust.elsewhere import SHARE, elsewhere_of
from .trust.measurement import Measurement

if TYPE_CHECKING:
    from ..config.settings import NoiseSchedulerConfig
    from ..plans.plan import SamplingPlan
    from ..schedules.path import NoisePath

__all__ = ["calibrate"]

logger = logging.getLogger(__name__)

#: A plan whose error is less than this many times the teacher's may be fitted to the teacher's error.
_TAUGHT_ENOUGH = 3.0


@CALIBRATE.provide
def calibrate(
    model: Callable[..., Any] | None,
    scheduler: DiffusionPipeline | NoisePath | NoiseSchedulerConfig | Mapping[str, Any] | str | None = None,
    *,
    shape: Sequence[int],
    nfe: int | Iterable[int] | None = None,
    evaluations: int | Iterable[int] | None = None,
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
    round_timesteps: bool = False,
    scales: Sequence[float] | None = None,
    other_condition: Mapping[str, Any] | None = None,
    other_shape: Sequence[int] | None = None,
    **unknown: Any,
) -> Any:
    """Fit the levels and all coefficients of a few-step plan to a model, so that its runs end where fine runs end.

    Nothing is trained and no data is needed: the model is only run.

    1. The teacher follows trajectories from random noise with ``teacher_calls`` model calls and estimates its error.
    2. "design" makes the best table for Gaussian data with the spectrum of the teacher's samples, without a model call.
    3. "fit" records what the model predicts along a few fine trajectories. From that follow the levels of the queries
       that may do best, and where both branches are worth their cost; the most promising ones are tried with the model.
       Where the budget is too small or the queries too many for that, they are left out. The best of these, the design,
       built-in samplers and a plan of fewer calls with more queries is the start. Gauss-Newton steps
       (Levenberg-Marquardt) move levels and coefficients against the errors at the ends of the trajectories. If the fit
       converges, the next best start follows while the budget lasts.
    4. "refine", only if it is among ``stages``: Adam on the coefficients, with gradients through the model. The fit
       then gets 70 % of the budget.
    5. The plan that is best on held-out noise is returned. The best built-in samplers with N calls are among the
       candidates, so that the plan is not worse than they are there. Where the difference is less than two of its
       standard errors, the trajectories of the fit are counted, too.

    The budget is ``passes`` or ``budget_seconds``. The ranking of the built-in samplers ends after 10 % of it, but
    ranks at least twelve. A recording takes at most a quarter of it, and the starts are found within its first half.
    The fit makes one iteration, and further ones while the next one fits the budget; a fit of few iterations begins
    with a part of the trajectories. The final choice may exceed ``budget_seconds`` by about a tenth, and takes about
    ten ``passes`` more, or a tenth. The teacher is never cut short. Several ``nfe`` share the remaining seconds in
    proportion to N. An interrupt (Ctrl-C) after the teacher ends the search and returns the best plan so far; further
    ``nfe`` are left out. With a checkpoint the same call continues.

    Args:
        model: as for :meth:`DiffusionPipeline.sample`. None: the embedded digits.
        scheduler: a pipeline, a noise schedule, its config, or its name. The config says what the model predicts.
        shape: of one sample, without the batch.
        nfe: N ≥ 1, the number of model calls of the plan. Several numbers make a :class:`PlanSet` from the same
            trajectories.
        evaluations: in place of ``nfe``: the most evaluations of the network for each sample, ≥ 2, where a call under
            guidance counts as two. The plan then holds its guidance, ``plan.scale``, and evaluates the unconditional
            branch in some rows only, which pays for more levels. Several numbers make a set by evaluations.
        condition, null_condition: keywords for the model, tensors with any number of rows, which the trajectories
            take in turn. Give the ones that the plan is to be used with, e.g. all classes.
        guidance_scale, guidance: as for ``sample``; the plan is fitted to them. The guidance may depend on the noise
            level, but not on the step or on earlier calls, because the fit evaluates the model outside of a run.
            With ``evaluations`` it is classifier-free guidance of one scale.
        trajectories: the number to fit to, ≥ 1. With few of them, the ones that are about to end in another basin
            decide too much.
        held_out: the number to choose by, ≥ 1. The default is ``trajectories``.
        budget_seconds: the limit on the time, > 0, the teacher's included. The plan then depends on the machine's
            speed.
        passes: the limit on the runs of all trajectories, > 0, for each number of calls.
        stages: of "design", "fit" and "refine"; the default is the first two.
        history: the number of earlier predictions that a step may read, which is the memory of a run. None: all.
        first: "free", or "noisiest": the first query is at the noisiest level, which costs nearly one call.
        max_gain: the largest factor on errors of the model's predictions (:attr:`Table.gain`), > 0. It does not limit
            built-in samplers.
        teacher_calls: the model calls of a teacher's trajectory, at least 2·N.
        seed: of the noise, which no run of ``sample`` uses. The same seed gives the same plan, unless a run was limited
            in time or resumed.
        progress: whether to show a bar with the present held-out error.
        checkpoint: a ``.safetensors`` file that is written on the way. The same call continues from it.
        device, dtype, max_batch_size, round_timesteps: as for ``sample``.
        scales: other guidance scales at which the finished plans are measured, on up to 64 held-out trajectories.
            None: 1, (1 + s)/2, 1.5·s and 2·s for a scale s > 1, if 5 % of ``budget_seconds`` is enough for that;
            (): none.
        other_condition: a condition, e.g. other classes, under which the finished plans are measured, too.
        other_shape: the shape of samples of another size, on which they are measured, too.

    Returns:
        A plan for ``pipeline.sample(plan=...)``, or a :class:`PlanSet`. ``plan.provenance`` holds its errors, those of
        the teacher and of the best built-in samplers, the seed, settings, versions, and the model's fingerprint.
        ``provenance["all_trajectories"]`` holds the figures over the trajectories of the fit and the held-out ones
        where these decided between a table and a built-in sampler. ``provenance["measured"]`` holds standard errors
        and the share of trajectories that change their basin (:class:`Measurement`), also of the other places;
        :func:`verify_plan` measures a plan again.
        ``provenance["calibrated"]`` is False if a built-in sampler's plan is returned, which is logged as a warning.

    Raises:
        ConfigurationError: an argument is invalid; raised before the first model call.
        FileError: the checkpoint is invalid or belongs to another calibration.
        ModelOutputError: as for ``sample``.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline, calibrate, models
        >>> pipeline = DiffusionPipeline()
        >>> model = models.DigitsModel(pipeline.scheduler)
        >>> quick = {"trajectories": 16, "teacher_calls": 16, "stages": ("design",)}  # leave it out for real use
        >>> plan = calibrate(model, pipeline, shape=(1, 8, 8), nfe=3, **quick)
        >>> plan.nfe
        3
    """
    refuse_unknown(unknown, keywords_of(calibrate))
    pipeline = pipeline_of(model, scheduler)
    budgets = budgets_of(nfe, evaluations)
    size = shape_of(shape)
    stages = stages_of(stages, history)
    trajectories = checked_count(trajectories, "trajectories")
    count = trajectories + (trajectories if held_out is None else checked_count(held_out, "held_out"))
    keys = calibration_keys(seed, count)
    by_calls = evaluations is None
    teacher_calls = teacher_calls_of(teacher_calls, max(budgets) if by_calls else max(budgets) // 2)
    history = checked_history(history)
    passes, max_gain = positive(passes, "passes"), positive(max_gain, "max_gain")
    budget_seconds = None if budget_seconds is None else positive(budget_seconds, "budget_seconds")
    if first not in FIRST:
        raise ConfigurationError(f"got {first!r}", where="first", suggestion=f"give one of {', '.join(FIRST)}")
    if guidance is not None:
        refuse_guidance_along_a_run(checked_sequence(guidance), pipeline)
    guidance_scale = scale_of(guidance_scale, condition)
    folded = None
    if not by_calls:
        folded = guidance_scale = folded_scale(guidance_scale, guidance, condition, stages, pipeline)
        guidance, scales = None, no_other_scales(scales)
    began = time.monotonic()
    deadline = began + budget_seconds if budget_seconds is not None else math.inf
    request = request_of(
        guidance_scale, round_timesteps, guidance=guidance, device=device, dtype=dtype, max_batch_size=max_batch_size
    )
    student = Student(
        pipeline, model, in_turn(condition, trajectories, count),
        in_turn(null_condition, trajectories, count, "null_condition"), request, branches=1 if by_calls else 2,
    )  # fmt: skip
    place = resolve_device(device, device_of(model))
    noise = NoiseSource(keys, size, torch.float32, place).initial()
    elsewhere = elsewhere_of(student, scales, other_condition, other_shape, keys, trajectories, place, teacher_calls)
    if budget_seconds is not None and elsewhere and not elsewhere.asked:
        deadline -= SHARE * budget_seconds
    about = {
        **setting_facts(pipeline, model, size, condition, null_condition, guidance_scale, guidance),
        "config": pipeline.config.to_dict(), "seed": int(seed), "trajectories": trajectories,
        "held_out": count - trajectories, "dtype": None if dtype is None else str(dtype),
        "stages": list(stages), "history": history, "first": first, "max_gain": max_gain, "passes": passes,
        "teacher_calls": teacher_calls, **({"round_timesteps": True} if round_timesteps else {}),
        **({} if by_calls else {"counts": "evaluations"}),
    }  # fmt: skip
    clock = Clock(student, began, deadline)
    stored = Checkpoint.open(checkpoint, about)
    made: dict[int, SamplingPlan] = {}
    of_teacher = float(count * teacher_calls * student.branches)
    work = {} if stored.solution is not None else {0: of_teacher}  # part 0 is the teacher
    work |= {b: passes * trajectories * b for b in sorted(budgets) if not stored.done(b, budget_seconds)}
    with closing(tqdm(total=100, disable=not progress, bar_format=BAR)) as bar:
        gauge = WorkGauge(bar, student.calls, work, budget_seconds)
        if stored.solution is None:
            bar.set_description(f"teacher, {teacher_calls} calls")
            lesson, teacher_error = teach(student, noise, teacher_calls)
            stored.teach(lesson.solution, teacher_error)
            gauge.finish(0)
        assert stored.solution is not None
        solution = stored.solution.to(place)
        everything = Trajectories(noise, solution, torch.arange(count))
        taught, unseen = everything.part(0, trajectories), everything.part(trajectories, count)
        learned = Learned()
        for budget in sorted(budgets):
            if stored.done(budget, budget_seconds):
                continue
            left = [each for each in budgets if not stored.done(each, budget_seconds)]
            # the error that is shown costs model calls, which must not count: without the bar the plan is the same
            goal = Goal(budget, folded)
            shown = FitReport(bar, gauge, replace(student, calls=CallCounter()), unseen, goal, stored)
            smaller = stored.tables.get(max((n for n in stored.tables if n < budget), default=0))
            resume, before = stored.fits.get(budget), stored.before(budget)
            records = "fit" in stages and learned.insight is None and resume is None
            recording = clock.granted(Insight.cost(student, goal, taught)) if records else 0.0
            share = budget / sum(left)  # as many passes for each
            until = clock.search_ends(share, recording=recording, gate=Gate.cost(goal, taught, unseen))
            limits = Limits(passes, until, stages, history, first, max_gain, recording)
            try:
                found = search(student, goal, taught, unseen, limits, shown, resume, smaller, before, learned)
            except KeyboardInterrupt:  # before or after the fit, which handles it itself
                logger.warning("interrupted: returning the plans that are done")
                break
            learned = found.learned
            found, measured = _measured(student, found, unseen)
            facts = {**about, **_facts(found, stored.teacher_error), "measured": measured, "versions": _versions()}
            plan = replace(found.plan, provenance=facts)
            if found.held_out.median < _TAUGHT_ENOUGH * stored.teacher_error:
                logger.warning(
                    "%s: the plan's error %.2g is not much above the teacher's own %.2g; give more teacher_calls",
                    goal, found.held_out.median, stored.teacher_error,
                )  # fmt: skip
            _warn_of_built_in(goal, found)
            if found.interrupted:  # the file keeps it as unfinished
                made[budget] = plan
                break
            stored.finish(budget, plan, found.table, budget_seconds)
            logger.info("%s: %s", goal, _sentence(found))
            gauge.finish(budget)
        else:
            spare = math.inf
            if budget_seconds is not None and student.calls.samples:
                spare = SHARE * budget_seconds * student.calls.samples / (time.monotonic() - began)
            wanted = {n: plan for n, plan in stored.plans.items() if n in budgets}
            bar.set_description("other guidance, conditions or shapes" if elsewhere else "")
            for budget, plan in elsewhere.stated(wanted, unseen, spare).items():
                stored.finish(budget, plan, stored.tables.get(budget), budget_seconds)
    made = stored.plans | made
    if not any(budget in made for budget in budgets):
        raise KeyboardInterrupt
    kept = {budget: made[budget] for budget in budgets if budget in made}
    single = isinstance(nfe if by_calls else evaluations, int | np.integer)
    return kept[budgets[0]] if single else PlanSet(kept, "nfe" if by_calls else "evaluations")


def _measured(student: Student, found: Found, unseen: Trajectories) -> tuple[Found, dict[str, Any]]:
    """Measure the plan that was found on the held-out trajectories.

    Returns:
        What was found, interrupted if the user interrupts the measurement, and the figures as plain data.
    """
    try:
        ends = student.run(found.plan, unseen.noise, unseen.rows)
        return found, {"held_out": Measurement.of(ends, unseen.solution).to_dict()}
    except KeyboardInterrupt:
        logger.warning("interrupted: the plan is done, its uncertainty is not measured")
        return found._replace(interrupted=True), {}


def _facts(found: Found, teacher_error: float) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "training_error": found.training._asdict(),
        "held_out_error": found.held_out._asdict(),
        "all_trajectories": None if found.pooled is None else found.pooled._asdict(),
        "teacher_error": teacher_error,
        "calibrated": found.table is not None,
        "fitted": None
        if found.fitted is None
        else {"kind": found.fitted[0], "held_out_error": found.fitted[1]._asdict()},
        "built_in": [{"name": name, "held_out_error": errors._asdict()} for name, errors in found.built_in],
        "gain": None if found.table is None else found.table.gain,
        "student_passes": round(found.passes, 1),
        "iterations": found.iterations,
        "interrupted": found.interrupted,
    }


def _both(errors: Errors) -> str:
    return f"{errors.rms:.3g} (median {errors.median:.3g})"


def _sentence(found: Found) -> str:
    rivals = [f"best built-in {name} {_both(errors)}" for name, errors in found.built_in[:1]]
    return f"{found.kind}, held-out error {_both(found.held_out)}, {''.join(rivals) or 'no built-in sampler runs'}"


def _warn_of_built_in(goal: Goal, found: Found) -> None:
    """Warn that a built-in sampler is returned, and say why: the bar may have shown a smaller median."""
    if found.table is not None:
        return
    rival = "" if found.fitted is None else f"; the best table found, {found.fitted[0]}, has {_both(found.fitted[1])}"
    if found.pooled is not None:
        pooled = found.pooled
        rival += f"; over all {pooled.trajectories} trajectories the {pooled.kind} has {pooled.rms:.3g}, "
        rival += f"{pooled.built_in} {pooled.built_in_rms:.3g}"
    logger.warning(
        "%s: the built-in sampler %s is returned, nothing calibrated: its error on held-out noise, root mean "
        "square over trajectories, is %s%s. The root mean square decides: a few samples that end elsewhere do not "
        "show in the median; more trajectories, passes or teacher_calls may help",
        goal, found.kind, _both(found.held_out), rival,
    )  # fmt: skip


def _versions() -> dict[str, str]:
    ours = {"noise_scheduler_sampling_system": __version__}
    return {**ours, "torch": torch.__version__, "python": platform.python_version()}
