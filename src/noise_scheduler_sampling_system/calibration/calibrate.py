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
from tqdm.auto import tqdm

from ..config.keyword_advice import keywords_of, refuse_unknown
from ..grids.time_grid import checked_steps
from ..guidance.base import Guidance
from ..guidance.sequence import checked_sequence
from ..pipeline.pipeline import CALIBRATE, DiffusionPipeline
from ..pipeline.request import DEFAULT_SCALE
from ..plans.plan_set import PlanSet
from ..running.model_adapter import resolve_device
from ..running.noise import NoiseSource, calibration_keys
from ..support.errors import ConfigurationError
from ..support.version import __version__
from .checkpoint import Checkpoint
from .checks import (
    budgets_of,
    checked_history,
    in_turn,
    pipeline_of,
    positive,
    refuse_guidance_along_a_run,
    scale_of,
    shape_of,
    stages_of,
    teacher_calls_of,
)
from .design import FIRST
from .limits import Limits
from .measure import Errors
from .progress import BAR, Gauge, Shown
from .record import described, fingerprint, guidance_named
from .search import Found, search
from .student import Student, Tally
from .teacher import Trajectories, teach

if TYPE_CHECKING:
    from ..config.settings import NoiseSchedulerConfig
    from ..plans.plan import SamplingPlan
    from ..schedules.path import NoisePath

__all__ = ["calibrate"]

logger = logging.getLogger(__name__)

#: How many of the teacher's trajectories are followed with half as many calls, too, to know its error.
_CHECKED = 32
#: A plan whose error is less than so many times the teacher's may be fitted to that.
_TAUGHT_ENOUGH = 3.0


@CALIBRATE.provide
def calibrate(
    model: Callable[..., Any] | None,
    scheduler: DiffusionPipeline | NoisePath | NoiseSchedulerConfig | Mapping[str, Any] | str | None = None,
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
    round_timesteps: bool = False,
    **unknown: Any,
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
        scheduler: a pipeline, a noise schedule, its config, or its name. The config says what the model predicts.
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
        device, dtype, max_batch_size, round_timesteps: as for ``sample``.

    Returns:
        A plan for ``pipeline.sample(plan=...)``, or a :class:`PlanSet`. ``plan.provenance`` has its errors, those of
        the teacher and of the best built-in sampler, seeds, settings, versions, and the model's fingerprint;
        ``provenance["calibrated"]`` is False where that sampler's own plan is returned, which is logged as well.

    Raises:
        ConfigurationError: before the first model call, what cannot work.
        FileError: a checkpoint of another calibration.
        ModelOutputError: as for ``sample``.
    """
    refuse_unknown(unknown, keywords_of(calibrate))
    pipeline = pipeline_of(model, scheduler)
    budgets = budgets_of(nfe)
    size = shape_of(shape)
    stages = stages_of(stages, history)
    trajectories = checked_steps(trajectories, "trajectories")
    count = trajectories + (trajectories if held_out is None else checked_steps(held_out, "held_out"))
    keys = calibration_keys(seed, count)
    teacher_calls = teacher_calls_of(teacher_calls, max(budgets))
    history = checked_history(history)
    passes, max_gain = positive(passes, "passes"), positive(max_gain, "max_gain")
    budget_seconds = None if budget_seconds is None else positive(budget_seconds, "budget_seconds")
    if first not in FIRST:
        raise ConfigurationError(f"got {first!r}", where="first", suggestion=f"give one of {', '.join(FIRST)}")
    if guidance is not None:
        refuse_guidance_along_a_run(checked_sequence(guidance), pipeline)
    guidance_scale = scale_of(guidance_scale, condition)
    began = time.monotonic()
    deadline = began + budget_seconds if budget_seconds is not None else math.inf
    request: dict[str, Any] = {"device": device, "dtype": dtype, "max_batch_size": max_batch_size, "guidance": guidance}
    if round_timesteps:
        request["round_timesteps"] = round_timesteps
    if guidance_scale is not None:
        request["guidance_scale"] = guidance_scale
    student = Student(
        pipeline, model, in_turn(condition, trajectories, count),
        in_turn(null_condition, trajectories, count, "null_condition"), request,
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
        "dtype": None if dtype is None else str(dtype),
        "stages": list(stages), "history": history, "first": first, "max_gain": max_gain, "passes": passes,
        "teacher_calls": teacher_calls, **({"round_timesteps": True} if round_timesteps else {}),
    }  # fmt: skip
    stored = Checkpoint.open(checkpoint, about)
    made: dict[int, SamplingPlan] = {}
    work = {} if stored.solution is not None else {0: float(count * teacher_calls)}  # 0 calls: the teacher
    work |= {b: passes * trajectories * b for b in sorted(budgets) if not stored.done(b, budget_seconds)}
    with closing(tqdm(total=100, disable=not progress, bar_format=BAR)) as bar:
        gauge = Gauge(bar, student.tally, work, budget_seconds)
        if stored.solution is None:
            bar.set_description(f"teacher, {teacher_calls} calls")
            lesson, teacher_error = teach(student, noise, teacher_calls, min(_CHECKED, count))
            stored.teach(lesson.solution, teacher_error)
            gauge.finish(0)
        assert stored.solution is not None
        solution = stored.solution.to(place)
        everything = Trajectories(noise, solution, torch.arange(count))
        taught, unseen = everything.part(0, trajectories), everything.part(trajectories, count)
        for budget in sorted(budgets):
            if stored.done(budget, budget_seconds):
                continue
            left = [each for each in budgets if not stored.done(each, budget_seconds)]
            # what is shown costs model calls, too, which must not count: the plan is the same without the bar
            shown = Shown(bar, gauge, replace(student, tally=Tally()), unseen, budget, stored)
            now = time.monotonic()
            share = budget**1.5 / sum(each**1.5 for each in left)  # about what an iteration costs
            until = now + share * (deadline - now)
            limits = Limits(passes, until, stages, history, first, max_gain, teacher_calls)
            smaller = stored.tables.get(max((n for n in stored.tables if n < budget), default=0))
            resume, before = stored.fits.get(budget), stored.before(budget)
            try:
                found = search(student, budget, taught, unseen, limits, shown, resume, smaller, before)
            except KeyboardInterrupt:  # before or after the fit
                logger.warning("interrupted: returning the plans that are done")
                break
            facts = {**about, **_facts(found, stored.teacher_error), "versions": _versions()}
            plan = replace(found.plan, provenance=facts)
            if found.held_out.median < _TAUGHT_ENOUGH * stored.teacher_error:
                logger.warning(
                    "%d calls: the plan's error %.2g is not much above the teacher's own %.2g; give more teacher_calls",
                    budget, found.held_out.median, stored.teacher_error,
                )  # fmt: skip
            _warn_of_built_in(budget, found)
            if found.interrupted:  # in the file it is not done
                made[budget] = plan
                break
            stored.finish(budget, plan, found.table, budget_seconds)
            logger.info("%d calls: %s", budget, _sentence(found))
            gauge.finish(budget)
    made = stored.plans | made
    if not any(budget in made for budget in budgets):
        raise KeyboardInterrupt
    plans = PlanSet({budget: made[budget] for budget in budgets if budget in made})
    return plans[budgets[0]] if isinstance(nfe, int | np.integer) else plans


def _facts(found: Found, teacher_error: float) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "training_error": found.training._asdict(),
        "held_out_error": found.held_out._asdict(),
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
    name, of_baseline = found.built_in[0]
    return f"{found.kind}, held-out error {_both(found.held_out)}, best built-in {name} {_both(of_baseline)}"


def _warn_of_built_in(budget: int, found: Found) -> None:
    """Say that nothing that was found is returned, and why, where the bar has shown a smaller median."""
    if found.table is not None:
        return
    rival = (
        "" if found.fitted is None else f"; the best that was found, {found.fitted[0]}, has {_both(found.fitted[1])}"
    )
    logger.warning(
        "%d calls: the built-in sampler %s is returned, nothing calibrated: its error on held-out noise, root mean "
        "square over trajectories, is %s%s. The root mean square decides: a few samples that end elsewhere do not "
        "show in the median; more trajectories, passes or teacher_calls may help",
        budget, found.kind, _both(found.held_out), rival,
    )  # fmt: skip


def _versions() -> dict[str, str]:
    ours = {"noise_scheduler_sampling_system": __version__}
    return {**ours, "torch": torch.__version__, "python": platform.python_version()}
