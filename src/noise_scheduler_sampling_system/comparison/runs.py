"""The runs of a comparison: how many steps a budget allows, what they cost, and how far they end from the solution."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

import torch
from torch import Tensor

from ..analysis.recommend import plan_within
from ..analysis.solution import each_error
from ..guidance import evaluations
from ..guidance.compile import compile_guidance
from ..models import FeatureStatistics, frechet_distance
from ..plans.plan import SamplingPlan
from ..running.results import SamplingResult
from ..samplers.adaptive import AdaptiveSampler
from ..support.errors import ConfigurationError, NoiseSamplingError
from .calls import Calls
from .comparison import Cell, Entry
from .reference import Reference, root_mean_square
from .subject import SHOWN, Subject, guidance_of

__all__ = ["COUNTS", "Job", "Judge", "job_of", "run_cell"]

#: What the budgets count.
COUNTS: Final = ("calls", "evaluations")
#: Numbers of steps below it are tried to say how many calls the shortest plan makes.
_FEW: Final = 6


@final
@dataclass(frozen=True)
class Job:
    """One entry at one budget, resolved before any model call.

    Attributes:
        entry, budget: the place in the table.
        how: the arguments of ``sample`` that choose the plan.
        calls: model calls of one run.
        problem: why it cannot run; empty where it can.
    """

    entry: Entry
    budget: int
    how: Mapping[str, Any] = field(default_factory=dict)
    calls: int = 0
    problem: str = ""


def job_of(entry: Entry, budget: int, count: str, subject: Subject, arguments: Mapping[str, Any]) -> Job:
    """The largest run of an entry within a budget, or why there is none.

    Args:
        entry: the entry.
        budget: the most model calls, or evaluations of the network for a sample.
        count: "calls" or "evaluations".
        subject: what is sampled.
        arguments: of ``sample``.
    """
    try:
        how, calls = _within(entry, budget, count, subject, arguments)
    except NoiseSamplingError as error:
        return Job(entry, budget, problem=str(error))
    return Job(entry, budget, how, calls)


def run_cell(
    job: Job, subject: Subject, arguments: Mapping[str, Any], seeds: tuple[int, ...], reference: Reference | None,
    judge: Judge | None, calls: Calls,
) -> Cell:  # fmt: skip
    """Run a job once for each seed, and measure it."""
    entry, before = job.entry, calls.done
    cell = Cell(entry.name, job.budget, problem=job.problem)
    if job.problem:
        return cell
    results: list[SamplingResult] = []
    try:
        for k, seed in enumerate(seeds):
            keywords: dict[str, Any] = {**arguments, **job.how, **calls.callback()}
            results.append(entry.pipeline.sample(seed=seed, return_result=True, profile=k == 0, **keywords))
            calls.finish(before + (k + 1) * job.calls)
    except NoiseSamplingError as error:
        calls.finish(before + len(seeds) * job.calls)
        return replace(cell, problem=str(error))
    first = results[0]
    samples = [result.samples.detach().cpu() for result in results]
    pictures = subject.pictures(entry.pipeline, samples[0][:SHOWN])
    profile = first.profile
    planned = entry.pipeline.sampler.writes_plans or bool(entry.plans)
    plan = first.plan if planned and isinstance(first.plan, SamplingPlan) else None
    cell = replace(
        cell, nfe=first.nfe, steps=first.steps, evaluations=first.evaluations,
        frechet=math.nan if judge is None else judge.of(entry, subject, samples),
        seconds={} if profile is None else {
            part: getattr(profile, part) for part in ("model", "guidance", "noise", "sampler", "total")
        },
        peak_memory=0 if profile is None else profile.peak_memory,
        plan=plan, samples=samples[0], pictures=pictures,
        branches_by_row=() if plan is None else _branches(plan, arguments),
        evaluations_by_row=() if plan is None else _evaluations(plan, arguments),
    )  # fmt: skip
    if reference is None:
        return cell
    errors = [each_error(x, exact) for x, exact in zip(samples, reference.samples, strict=True)]
    rms, standard_error = root_mean_square(torch.cat(errors))
    by_seed = tuple(root_mean_square(each)[0] for each in errors)
    return replace(
        cell, rms=rms, standard_error=standard_error, median=torch.cat(errors).median().item(), by_seed=by_seed
    )


def _within(
    entry: Entry, budget: int, count: str, subject: Subject, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], int]:
    """The arguments of ``sample`` that keep to a budget, and the model calls of the run."""
    sampler = entry.pipeline.sampler

    def cost(plan: SamplingPlan) -> int:
        return plan.nfe if count == "calls" else sum(_evaluations(plan, arguments))

    if entry.plans:
        within = [plan for plan in entry.plans.values() if cost(plan) <= budget]
        plan = max(within, key=lambda plan: (cost(plan), plan.evaluations), default=None)
        if plan is None:
            costs = ", ".join(str(cost(each)) for each in entry.plans.values())
            what = "model calls" if count == "calls" else "evaluations"
            raise ConfigurationError(f"its plans make {costs} {what}", where="nfe", suggestion="allow more")
        return {"plan": plan}, plan.nfe
    if isinstance(sampler, AdaptiveSampler):
        raise ConfigurationError(
            "it chooses its number of model calls by its tolerance", where="nfe", suggestion="compare it by itself"
        )
    if not sampler.writes_plans:
        if count != "calls" and guidance_of(arguments):
            raise ConfigurationError(
                "a sampler that has only step() does not say its evaluations under guidance before the run",
                where="count",
                suggestion="compare it at equal model calls",
            )
        return subject.levels(entry.pipeline, budget), budget
    steps, plan = _plan_within(entry, budget, subject)
    while cost(plan) > budget:  # guidance evaluates several branches in a call
        steps = min(steps - 1, steps * budget // cost(plan))
        if steps < 1:
            raise ConfigurationError(
                f"its shortest plan makes {cost(plan)} evaluations", where="nfe", suggestion="allow more"
            )
        plan = subject.plan(entry.pipeline, steps)
    while count != "calls":  # the guess may have gone too far down
        further = _plan(entry, steps + 1, subject)
        if further is None or cost(further) > budget:
            break
        steps, plan = steps + 1, further
    return subject.levels(entry.pipeline, steps), plan.nfe


def _plan_within(entry: Entry, budget: int, subject: Subject) -> tuple[int, SamplingPlan]:
    """The largest number of steps within ``budget`` model calls, and its plan; an error says why there is none."""
    pipeline = entry.pipeline
    try:
        return plan_within(pipeline.sampler, budget, lambda steps: subject.plan(pipeline, steps))
    except ConfigurationError:
        least, why = _shortest(entry, subject)
        raise ConfigurationError(
            f"its shortest plan makes {least.nfe} model calls", where="nfe", why=why, suggestion="allow more"
        ) from None


def _shortest(entry: Entry, subject: Subject) -> tuple[SamplingPlan, str]:
    """The shortest plan of an entry, and why it has no plan of one step; empty where it has one.

    Raises:
        NoiseSamplingError: it has none of a few steps.
    """
    refusal: NoiseSamplingError | None = None
    for steps in range(1, _FEW):
        try:
            plan = subject.plan(entry.pipeline, steps)
        except NoiseSamplingError as error:
            refusal = refusal or error
            continue
        return plan, "" if refusal is None else f"in one step: {refusal.where}: {refusal.what}"
    assert refusal is not None
    raise refusal


def _plan(entry: Entry, steps: int, subject: Subject) -> SamplingPlan | None:
    try:
        return subject.plan(entry.pipeline, steps)
    except NoiseSamplingError:
        return None


def _evaluations(plan: SamplingPlan, arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """Evaluations of the network for one sample, by row of the plan."""
    guidance = guidance_of(arguments)
    return evaluations(guidance, plan) if guidance else plan.evaluations_by_row


def _branches(plan: SamplingPlan, arguments: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The branches of the network that each row evaluates."""
    guidance = guidance_of(arguments)
    if plan.scale is not None or not guidance:
        return tuple(("conditional", "unconditional")[:count] for count in plan.evaluations_by_row)
    compiled = compile_guidance(guidance, plan, "v_prediction", opposed=True)
    names = [
        "another" if b.model is not None or b.condition is not None else "unconditional" if b.null else "conditional"
        for b in compiled.branches
    ]
    return tuple(() if row is None else tuple(names[i] for i in row.evaluated) for row in compiled.rows)


@final
class Judge:
    """Fréchet distances to the data, by features of images.

    Args:
        features: images (B, ...) ↦ features (B, d).
        data: images of the data.

    Raises:
        ConfigurationError: features of another shape, or fewer than two images.
    """

    def __init__(self, features: Callable[[Tensor], Tensor], data: Tensor) -> None:
        self._features = features
        self._data = self._statistics(data)

    def of(self, entry: Entry, subject: Subject, samples: list[Tensor]) -> float:
        """The distance of samples, decoded where they are latents, to the data."""
        decodes = hasattr(entry.pipeline, "backbone")
        images = [(subject.pictures(entry.pipeline, each) if decodes else None) for each in samples]
        shown = [each if image is None else image for each, image in zip(samples, images, strict=True)]
        return frechet_distance(self._statistics(torch.cat(shown)), self._data)

    @torch.no_grad()
    def _statistics(self, images: Tensor) -> FeatureStatistics:
        features = self._features(images).double()
        if features.ndim != 2 or len(features) != len(images) or len(images) < 2:
            raise ConfigurationError(
                f"features have shape {tuple(features.shape)} for {len(images)} images",
                where="features",
                suggestion="return (B, d) for B ≥ 2 images",
            )
        return FeatureStatistics(features.mean(0), torch.cov(features.T))
