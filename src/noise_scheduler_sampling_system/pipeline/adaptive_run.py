"""A run that finds its steps on the way: each one is compiled to a little plan, tried, and taken or made shorter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from ..grids.time_grid import TimeGrid
from ..guidance.scales import Moment
from ..plans.plan import SamplingPlan
from ..running.bound_plan import BoundPlan, bind
from ..running.faults import StepControlError
from ..running.loop import Model, ModelMaker, Noise, Reached, RowState, Run, StepsFound, run_rows
from ..samplers.adaptive import AdaptiveSampler, coordinate, level_at_coordinate
from ..schedules.path import Level

__all__ = ["AdaptiveRun"]

#: Steps shorter than this share of the whole way have been made so by rounding.
_SHORTEST = 1e-9


class _Trial(NamedTuple):
    """A step that was tried.

    Attributes:
        first: what the model said about the state before it.
        memory: what the guidance remembered then.
        state: after it, with what was asked and answered last.
        other: the embedded result.
    """

    first: Any
    memory: Mapping[str, Tensor]
    state: RowState
    other: Tensor


@final
@dataclass(frozen=True)
class AdaptiveRun(Run):
    """The steps of an embedded pair, as long as its tolerance allows.

    A failed step costs its model calls but the first, whose answer stays right; so does one whose first answer the
    step before has had.

    Attributes:
        bound: the method with the steps of the grid: how the model's output is read.
        sampler: the pair, the tolerance and the controller.
        grid: its ends and its first interval count.
    """

    bound: BoundPlan
    sampler: AdaptiveSampler
    grid: TimeGrid
    planned = False

    @property
    def plan(self) -> SamplingPlan:  # type: ignore[override]
        return self.bound.plan

    @property
    def split(self) -> bool:  # type: ignore[override]
        return self.bound.split

    @property
    def largest_factor(self) -> float:
        return self.bound.largest_factor

    def plan_through(self, levels: Sequence[Level] | None) -> SamplingPlan:
        return self.plan if levels is None else self.sampler.on_grid(TimeGrid(tuple(levels)))

    def steps(
        self,
        make_model: ModelMaker,
        state: RowState,
        noise: Noise,
        memory: dict[str, Tensor],
        *,
        inspect: bool = False,  # always done: outputs are read again
        copy_outputs: bool = False,
        check_every_row: bool = False,
    ) -> Iterator[Reached]:
        sampler, levels = self.sampler, self.grid.levels
        frame = sampler.frame_on(self.grid)
        last = levels[-1] if levels[-1].sigma > 0.0 else levels[-2]
        start, end = coordinate(frame, levels[0]), coordinate(frame, last)
        length = (
            abs(sampler.options["first_step"] or coordinate(frame, levels[1]) - start) if last is not levels[0] else 0.0
        )
        x, now, known, previous = state.x, levels[0], None, 1.0
        found = StepsFound((now,), 0, 0, 0)
        while now is not levels[-1]:
            here = coordinate(frame, now)
            taken = min(length, abs(end - here))
            if now is last:
                after = levels[-1]
            elif taken >= abs(end - here) * (1.0 - _SHORTEST):
                after = last
            else:
                after = level_at_coordinate(sampler.scheduler, frame, here + math.copysign(taken, end - start))
            bound = bind(
                sampler.trial(len(found.levels) - 1, now, after, frame),
                sampler.config.prediction_type, self.bound.clip, learned_variance=self.split,
            )  # fmt: skip
            model, evaluations = make_model(bound, self._moments(bound.plan, frame))
            new = int(known is None)  # whether the first answer is
            found = found._replace(
                calls=found.calls + bound.plan.nfe - 1 + new,
                evaluations=found.evaluations + sum(evaluations[1:]) + evaluations[0] * new,
            )
            self._refuse_more(found, now, now is last or taken > _SHORTEST * abs(end - start))
            trial = _tried(bound, model, x, known, noise, memory, check_every_row)
            error = 0.0 if now is last else self._error(trial)
            length = taken * sampler.controller.factor(error, previous)
            if error > 1.0:
                memory.clear()
                memory.update(trial.memory)
                known = trial.first
                found = found._replace(rejected=found.rejected + 1)
                continue
            x, now, previous = trial.state.x, after, error
            known = trial.state.output if sampler.pair.reads_end else None
            found = found._replace(levels=(*found.levels, now))
            yield Reached(bound, trial.state, found)

    def _error(self, trial: _Trial) -> float:
        """The error over the tolerance, of the sample where it is largest."""
        options, result = self.sampler.options, trial.state.x.detach()
        # not of the state before, too: on EDM's path that may be 10,000 times as large
        tolerance = options["atol"] + options["rtol"] * _rms(result)
        least = torch.finfo(tolerance.dtype).tiny  # of a state that is 0
        return float((_rms(result - trial.other.detach()) / tolerance.clamp_min(least)).max())

    def _moments(self, plan: SamplingPlan, frame: str) -> list[Moment]:
        """What guidance is told of each row: steps are those of the grid, which are known before the run."""
        places = [coordinate(frame, level) for level in self.grid.levels[:-1]]
        rising = places[-1] >= places[0]
        moments = []
        for row in zip(plan.time.tolist(), plan.alpha.tolist(), plan.sigma.tolist(), strict=False):
            level = Level(*row)
            here = coordinate(frame, level)
            passed = sum(here >= each if rising else here <= each for each in places)
            moments.append(Moment(level, max(passed - 1, 0), self.grid.steps))
        return moments

    def _refuse_more(self, found: StepsFound, now: Level, long_enough: bool) -> None:
        """Raise where the run would come to no end."""
        most, options = self.sampler.options["max_calls"], self.sampler.options
        if found.calls <= most and long_enough:
            return
        raise StepControlError(
            f"the tolerance needs more than max_calls = {most} model calls" if long_enough else "the steps shrink to 0",
            where=f"t = {now.t:g}, σ = {now.sigma:.4g} (steps: {len(found.levels) - 1}, failed: {found.rejected})",
            why=f"rtol = {options['rtol']:g} and atol = {options['atol']:g} are below what this run allows",
            suggestion="raise rtol or max_calls, run in dtype=torch.float64, or take a fixed number of steps",
        )


def _tried(
    bound: BoundPlan,
    model: Model,
    x: Tensor,
    known: Any,
    noise: Noise,
    memory: dict[str, Tensor],
    check_every_row: bool,
) -> _Trial:
    """Run a little plan from a state, its first call answered by what is known."""

    def asked(x: Tensor, row: int) -> Any:
        return model(x, row) if row or known is None else known

    before, after = RowState(0, x, {}), None
    for state in run_rows(bound, asked, before, noise, inspect=True, check_every_row=check_every_row):
        if state.row == 1:
            first, remembered = state.output, dict(memory)
        before, after = after or before, state
    assert after is not None  # a plan has rows
    if len(bound.plan) == 1:  # the step to the clean sample
        return _Trial(first, remembered, after, after.x)
    return _Trial(first, remembered, after._replace(x=before.x, history={}), after.x)


def _rms(x: Tensor) -> Tensor:
    """Root mean square of each sample."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return x.flatten(1).to(wide).square().mean(dim=1).sqrt()
