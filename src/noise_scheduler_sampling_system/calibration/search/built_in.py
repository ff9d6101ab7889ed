"""The plans that a calibrated plan must beat: the deterministic built-in samplers on the best spacings, ranked."""

from __future__ import annotations

import functools
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

from ...analysis.recommend import plan_within
from ...config.registries import SAMPLERS
from ...grids.time_grid import TimeGrid, make_grid
from ...guidance.cached import default_calls
from ...plans.branch_mask import with_folded_guidance
from ...plans.plan import SamplingPlan
from ...samplers.adaptive import AdaptiveSampler
from ...samplers.base import BaseSampler
from ...samplers.factory import SamplerFactory
from ...schedules.path import NoisePath
from ...support.errors import NoiseSamplingError
from ..budget import Budget, Limits
from ..goal import Goal
from ..student import Student
from ..table import Table
from ..trajectories import Errors, Trajectories, errors_of

__all__ = ["WINNERS", "Baseline", "baselines", "cached", "named", "ranked"]

logger = logging.getLogger(__name__)

#: Spacings and their options: the ones that win in docs/accuracy.md, and the most common ones.
_SPACINGS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("kl_optimal", {}),
    ("kl_optimal", {"end": "lowest"}),
    ("beta", {"a": 0.5, "b": 0.7}),
    ("trailing", {}),
    ("karras", {}),
    ("ays", {}),
    ("leading_dpm", {"end": "lowest"}),
    ("scm", {}),
)
#: The samplers that win with few calls (docs/accuracy.md). They come early, for budgets that end within the list.
_STRONG = ("res_2s", "gradient_estimation", "dpmpp_2m", "dpmpp_3m", "adams", "ipndm", "unipc", "sa_solver", "deis")
#: The pairs that win on the trained network and on exact models (docs/calibration.md). They come first, so that the
#: shortest ranking of a first budget sees those that exist with as many calls.
WINNERS = (
    "dpmpp_2m afs, leading_dpm end=lowest",
    "dpmpp_3m, ays",
    "gradient_estimation, scm",
    "adams, scm",
    "sa_solver afs, leading_dpm end=lowest",
    "deis afs, leading_dpm end=lowest",
    "dpmpp_2m, ays",
    "res_2s afs, leading_dpm end=lowest",
    "unipc, scm",
    "adams, kl_optimal",
    "dpmpp_2m afs, trailing",
    "unipc, beta a=0.5 b=0.7",
)
#: Options that make a sampler deterministic if they are 0.
_SILENT = ("eta", "tau", "s_churn")
#: The levels of built-in samplers under :class:`CachedGuidance`, as shares of the evaluations.
_LEVELS = (0.65, 0.75)


#: The name of a built-in sampler that :func:`cached` made.
_CACHED = re.compile(r"(?P<name>.+), both branches in (?P<both>\d+) of (?P<levels>\d+) calls")


class _Round(NamedTuple):
    """A round of the ranking of built-in samplers.

    Attributes:
        share: of the budget that it may spend, which decides on the number of trajectories.
        fewest, most: the least and the most trajectories.
        kept: the most samplers that stay.
        least: the samplers that are run whatever the budget.
    """

    share: float
    fewest: int
    most: int
    kept: int
    least: int


_ROUNDS = (_Round(0.06, 4, 32, 48, 12), _Round(0.04, 32, 256, 24, 4))


@final
@dataclass(frozen=True)
class Baseline:
    """A built-in sampler on a grid.

    Attributes:
        name: of the sampler and the spacing, to print.
        plan: its plan.
        table: the plan as a table; None if it cannot be one or has fewer than N calls.
    """

    name: str
    plan: SamplingPlan
    table: Table | None


def baselines(path: NoisePath, nfe: int, names: Sequence[str] = ()) -> list[Baseline]:
    """Return the plans of all deterministic built-in samplers with N model calls, or with fewer where N is impossible.

    Args:
        path: the noise schedule.
        nfe: N.
        names: the names of those that are wanted, in this order; empty: all.
    """
    shelf = _shelf(path, nfe, tuple(SAMPLERS))
    return list(shelf.compiled(names or shelf.names))


@final
class _Shelf:
    """The built-in samplers with N model calls. A plan is compiled when it is first asked for.

    All of them take seconds, and a short ranking sees only the first ones.

    Args:
        path: the noise schedule.
        nfe: N.
        registered: the names of the samplers.
    """

    def __init__(self, path: NoisePath, nfe: int, registered: tuple[str, ...]) -> None:
        self._nfe = nfe
        self._pairs = _pairs(path, registered)
        # of each sampler on the last grid with this end: most often the number for another grid, too
        self._steps: dict[tuple[str, Any], int] = {}
        self._known: dict[str, Baseline | None] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all pairs of a sampler and a spacing, strong samplers first."""
        return tuple(self._pairs)

    def compiled(self, names: Iterable[str]) -> Iterator[Baseline]:
        """Yield the samplers with these names, without those that are impossible and those whose plan came before."""
        seen: set[str] = set()
        for name in names:
            if name not in self._known:
                self._known[name] = self._compiled(name) if name in self._pairs else None
            found = self._known[name]
            if found is not None and found.plan.fingerprint not in seen:
                seen.add(found.plan.fingerprint)
                yield found

    def _compiled(self, name: str) -> Baseline | None:
        sampler, grid_of = self._pairs[name]
        alike = name.split(",")[0], sampler.scheduler.config.spacing_options.get("end")
        try:
            steps, plan = self._guessed(alike, sampler, grid_of) or plan_within(
                sampler, self._nfe, lambda count: sampler.plan(grid=grid_of(count))
            )
            self._steps[alike] = steps
            start = grid_of(steps).levels[0]
        except (NoiseSamplingError, ArithmeticError, ValueError):  # impossible on this path or with N calls
            return None
        if plan.stochastic or plan.two_times or plan.null is not None or plan.delta is not None:
            return None
        try:
            table = Table.of_plan(plan, start=start) if plan.nfe == self._nfe else None
        except NoiseSamplingError:  # it reads more than states and predictions
            table = None
        return Baseline(name, plan, table)

    def _guessed(
        self, alike: tuple[str, Any], sampler: BaseSampler, grid_of: Callable[[int], TimeGrid]
    ) -> tuple[int, SamplingPlan] | None:
        """Return the plan of as many steps as on the last such grid, if it has N calls: the order must not matter."""
        steps = self._steps.get(alike)
        if steps is None:
            return None
        try:
            plan = sampler.plan(grid=grid_of(steps))
        except (NoiseSamplingError, ArithmeticError, ValueError):
            return None
        return (steps, plan) if plan.nfe == self._nfe else None


@functools.lru_cache(maxsize=16)
def _shelf(path: NoisePath, nfe: int, registered: tuple[str, ...]) -> _Shelf:
    return _Shelf(path, nfe, registered)


@functools.lru_cache(maxsize=4)
def _pairs(path: NoisePath, registered: tuple[str, ...]) -> dict[str, tuple[BaseSampler, Callable[[int], TimeGrid]]]:
    """Return each sampler on each spacing, and a function from a number of steps to its grid, by their name.

    The samplers share the grids of a spacing.
    """
    places = []
    for spacing, chosen in _SPACINGS:
        place = path.spaced(spacing, chosen)
        settings = "".join(f" {k}={v}" for k, v in chosen.items())
        places.append((place, functools.cache(functools.partial(make_grid, place)), f"{spacing}{settings}"))
    found: dict[str, tuple[BaseSampler, Callable[[int], TimeGrid]]] = {}
    for name in (*_STRONG, *(name for name in registered if name not in _STRONG)):
        cls = SAMPLERS.get(name)
        if issubclass(cls, AdaptiveSampler):
            continue
        silent = {option: 0.0 for option in _SILENT if option in cls.option_defaults}
        for changes in ({}, {"afs": True}):
            options = {**silent, **changes}
            for place, grid_of, spacing in places:
                try:
                    sampler = SamplerFactory.create(name, place, **options)
                except NoiseSamplingError:
                    continue
                found[f"{name}{' afs' if changes else ''}, {spacing}"] = sampler, grid_of
    return found


def cached(known: Sequence[Baseline], student: Student, goal: Goal, limits: Limits) -> list[Baseline]:
    """Return the leading built-in samplers with more levels under :class:`CachedGuidance`, within budget and limits."""
    found: list[Baseline] = []
    for levels in () if goal.scale is None else dict.fromkeys(round(share * goal.budget) for share in _LEVELS):
        if not goal.calls < levels < goal.budget:
            continue
        calls = default_calls(levels, goal.budget - levels)
        for each in _with_calls(known[:1], student, levels):
            plan = with_folded_guidance(each.plan, goal.guidance, [call in calls for call in range(levels)])
            if limits.allow(plan, student.pipeline.scheduler):
                found.append(Baseline(f"{each.name}, both branches in {len(calls)} of {levels} calls", plan, None))
    return found


def named(path: NoisePath, name: str, calls: int, scale: float | None) -> SamplingPlan | None:
    """Return the plan of the built-in sampler with a name, also of one that :func:`cached` made; None if there is none.

    Args:
        path: the noise schedule.
        name: the :attr:`Baseline.name`.
        calls: the model calls of samplers with both branches in all of them.
        scale: the guidance scale of a plan that holds one.
    """
    found = _CACHED.fullmatch(name)
    if found is None or scale is None:
        return next((each.plan for each in baselines(path, calls, (name,))), None)
    levels, both = int(found["levels"]), default_calls(int(found["levels"]), int(found["both"]))
    alike = (each.plan for each in baselines(path, levels, (found["name"],)) if each.plan.nfe == levels)
    plan = next(alike, None)
    return None if plan is None else with_folded_guidance(plan, scale, [call in both for call in range(levels)])


def _with_calls(known: Sequence[Baseline], student: Student, calls: int) -> list[Baseline]:
    """Return the same samplers with another number of calls."""
    names = tuple(each.name for each in known)
    found = baselines(student.pipeline.scheduler, calls, names) if names else []
    return [each for each in found if each.plan.nfe == calls]


def ranked(
    student: Student, nfe: int, taught: Trajectories, budget: Budget, leaders: Sequence[str] = ()
) -> tuple[list[Baseline], bool]:
    """Rank the built-in samplers with N calls by their errors on a few trajectories.

    Args:
        student: the model.
        nfe: N.
        taught: the trajectories, of which the first ones are used.
        budget: ends the ranking after a share of it.
        leaders: the names of samplers that come first, before :data:`WINNERS`, for budgets that end within the list.

    Returns:
        The samplers, best first, and whether the user interrupted the ranking.
    """
    path = student.pipeline.scheduler

    def allowed(plan: SamplingPlan) -> bool:
        return plan.nfe == nfe and budget.limits.allow(plan, path)

    shelf = _shelf(path, nfe, tuple(SAMPLERS))
    order = dict.fromkeys((*leaders, *WINNERS, *shelf.names))

    def possible() -> Iterator[Baseline]:
        return (each for each in shelf.compiled(order) if allowed(each.plan))

    left: Iterable[Baseline] = possible()
    count, until, ahead = len(shelf.names), 0.0, list[Baseline]()
    try:
        for each in _ROUNDS:
            until += each.share
            room = each.share * budget.total * len(taught) / max(1, count)
            few = taught.part(0, int(min(max(room, each.fewest), each.most)))
            left = ahead = _ordered(student, left, few, budget, each.least, until)[: each.kept]
            count = len(ahead)
    except KeyboardInterrupt:
        logger.warning("interrupted: going on with the built-in samplers")
        return ahead or list(itertools.islice(possible(), _ROUNDS[0].least)), True
    return ahead, False


def _ordered(
    student: Student, known: Iterable[Baseline], few: Trajectories, budget: Budget, least: int, until: float
) -> list[Baseline]:
    """Return the samplers that do not overflow: the best by score and the best by root mean square, in turns.

    Few trajectories do not tell which of these is better on many. After a share ``until`` of the budget no further
    samplers than ``least`` are run.
    """
    scored: list[tuple[Errors, Baseline]] = []
    for baseline in known:
        if len(scored) >= least and budget.spent(until):
            break
        try:
            end = student.run(baseline.plan, few.noise, few.rows)
        except NoiseSamplingError:
            continue
        scored.append((errors_of(end, few.solution), baseline))
    by_score = sorted(scored, key=lambda pair: pair[0].score(len(few)))
    by_rms = sorted(scored, key=lambda pair: pair[0].rms)
    turns = (each for both in zip(by_score, by_rms, strict=True) for _, each in both)
    return list({id(each): each for each in turns}.values())
