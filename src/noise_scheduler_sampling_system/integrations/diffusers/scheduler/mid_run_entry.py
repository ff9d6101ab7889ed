"""Plans that begin at a model call in the middle of another plan: image-to-image, and refiners."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ....grids.time_grid import TimeGrid
from ....plans.plan import SamplingPlan
from ....samplers.base import BaseSampler
from ....samplers.factory import SamplerFactory
from ....support.errors import ConfigurationError
from .call_plan import CallPlan
from .first_order_head import first_order_head

__all__ = ["entered_at"]


@functools.lru_cache(maxsize=128)
def entered_at(whole: CallPlan, call: int) -> CallPlan:
    """The plan that makes the calls from this one on, for a state that was noised to the call's level.

    Inside a step of several calls, the predictions of the first ones are unknown. First-order steps then replace what
    is left of that step.

    Args:
        whole: the plan of the whole run.
        call: the number of the call.

    Raises:
        ConfigurationError: no plan calls the model at these times without knowing what came before.
    """
    now = whole.calls[call]
    if now.row >= 0 and not whole.reads_past[call]:
        return whole
    if whole.retrace is not None and now.row >= 0:
        return _in_place(whole, call, _of_same_network(whole, whole.retrace(begin=call)))
    following = _next_step(whole, call)
    begins_step = call == 0 or whole.calls[call - 1].row < 0 or whole.step_of(call - 1) < whole.step_of(call)
    if now.row >= 0 and begins_step:
        found = _recompiled(whole, call)
        if found is None:
            raise _not_entered(whole, call)
        return found
    tail = whole if following == len(whole.calls) else entered_at(whole, following)
    return _with_first_order_head(whole, tail, call, following)


def _next_step(whole: CallPlan, call: int) -> int:
    """The first call after this one that belongs to a later step."""
    row = whole.calls[call].row
    for later in range(call + 1, len(whole.calls)):
        if row < 0 or whole.calls[later].row < 0 or whole.step_of(later) > whole.step_of(call):
            return later
    return len(whole.calls)


def _recompiled(whole: CallPlan, call: int) -> CallPlan | None:
    """The sampler on the rest of its grid; None where it then calls the model at other times."""
    if whole.sampler is None or whole.grid is None:
        return None
    now = whole.calls[call]
    rest = whole.grid.levels[whole.step_of(call) :]
    if (rest[0].alpha, rest[0].sigma) != (now.alpha, now.sigma):
        return None
    times = [c.time for c in whole.calls[call:] if c.row >= 0]
    for sampler in (whole.sampler, *_substitutes(whole.sampler, whole.plan)):
        other = _of_same_network(whole, sampler.plan(grid=TimeGrid(rest)), sampler=sampler, grid=TimeGrid(rest))
        if [c.time for c in other.calls] == times:
            return _in_place(whole, call, other)
    return None


def _substitutes(sampler: BaseSampler, plan: SamplingPlan) -> Sequence[BaseSampler]:
    """Samplers that continue as this one does and do not need its special start."""
    return (SamplerFactory.create("ipndm", sampler.scheduler),) if plan.sampler == "pndm" else ()


def _of_same_network(whole: CallPlan, plan: SamplingPlan, **made: Any) -> CallPlan:
    return CallPlan.of(plan, whole.config, scale=1.0, dtype=whole.dtype, terms=whole.terms, **made)


def _in_place(whole: CallPlan, call: int, other: CallPlan) -> CallPlan:
    """A plan of the calls from this one on, with its calls numbered as in the whole run."""
    calls = iter(other.calls)
    rest = [c if c.row < 0 else next(calls) for c in whole.calls[call:]]
    return replace(other, calls=(*whole.calls[:call], *rest))


def _with_first_order_head(whole: CallPlan, tail: CallPlan, call: int, following: int) -> CallPlan:
    """First-order steps for what is left of a step, and then a plan that begins with the next step.

    Raises:
        ConfigurationError: the noise rises on the way.
    """
    plan, calls, first_order = whole.plan, whole.calls, []
    end = len(calls) == following
    last = len(tail.plan) if end else tail.calls[following].row
    levels = [(c.alpha, c.sigma) for c in calls[call:following]]
    ends = [*levels[1:], (float(tail.plan.alpha[last]), float(tail.plan.sigma[last]))]
    for c, now, after in zip(calls[call:following], levels, ends, strict=True):
        angle = math.atan2(after[1], after[0]) - math.atan2(now[1], now[0])
        if angle > 1e-12:
            raise _not_entered(whole, call)
        if angle < -1e-12 and c.row >= 0:
            first_order.append((c.row, after))
    bound = tail.bound
    if first_order:
        bound = _of_same_network(whole, first_order_head(plan, first_order, None if end else tail.plan, last)).bound
    # a call at the level of the next one does not move the state
    rows = {row: number for number, (row, _) in enumerate(first_order)}
    shift = len(first_order) - last
    head = [c._replace(row=rows.get(c.row, -1)) for c in calls[call:following]]
    rest = [c if c.row < 0 else c._replace(row=c.row + (shift if first_order else 0)) for c in tail.calls[following:]]
    return replace(tail, bound=bound, calls=(*calls[:call], *head, *rest), sampler=None, grid=None, retrace=None)


def _not_entered(whole: CallPlan, call: int) -> ConfigurationError:
    return ConfigurationError(
        f"the run begins at model call {call + 1} of {len(whole.calls)} of {whole.plan.sampler!r}, which reads "
        "predictions from before it",
        where="timesteps",
        why="a given plan says nothing else of them, and a first-order step cannot raise the noise",
        suggestion="begin at the first call of a step, or use a sampler without memory ('ddim', 'heun')",
    )
