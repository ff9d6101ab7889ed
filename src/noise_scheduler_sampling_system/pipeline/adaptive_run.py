"""A run with adaptive steps: each step is compiled to a plan of its own, tried, and then taken or made shorter."""

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

#: A step shorter than this share of the whole run is due to rounding.
_SHORTEST = 1e-9


class _Trial(NamedTuple):
    """A step that was tried.

    Attributes:
        first: the model's output for the state before the step.
        memory: what the guidance remembered after that call.
        state: the state after the step, with the input and the output of the last call.
        other: the embedded result, shape (B, ...).
    """

    first: Any
    memory: Mapping[str, Tensor]
    state: RowState
    other: Tensor


@final
@dataclass(frozen=True)
class AdaptiveRun(Run):
    """The steps of an embedded pair, each as long as the tolerance allows.

    A step that is repeated, or that begins where the last call of the step before was, does not evaluate the model
    again for its first call.

    Attributes:
        bound: the method on the grid; it says how the model's output is read.
        sampler: the pair, the tolerance and the controller.
        grid: its ends are those of the run; its first interval is the first step to try.
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
        inspect: bool = False,  # always done, since outputs are used again
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
            new = int(known is None)  # model calls for the first output
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
        """The largest ratio of error to tolerance of any sample."""
        options, result = self.sampler.options, trial.state.x.detach()
        # relative to the result alone: on EDM's path the state before may be 10,000 times as large
        tolerance = options["atol"] + options["rtol"] * _rms(result)
        least = torch.finfo(tolerance.dtype).tiny  # for a state of zeros
        return float((_rms(result - trial.other.detach()) / tolerance.clamp_min(least)).max())

    def _moments(self, plan: SamplingPlan, frame: str) -> list[Moment]:
        """The moment of each row for the guidance; its step is that of the grid, which is known before the run."""
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
        """Raise where the run would not end."""
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
    """Run the plan of one step; ``known`` is the output of its first call, or None."""

    def evaluated(x: Tensor, row: int) -> Any:
        return model(x, row) if row or known is None else known

    before, after = RowState(0, x, {}), None
    for state in run_rows(bound, evaluated, before, noise, inspect=True, check_every_row=check_every_row):
        if state.row == 1:
            first, remembered = state.output, dict(memory)
        before, after = after or before, state
    assert after is not None  # a plan has rows
    if len(bound.plan) == 1:  # the step to the clean sample
        return _Trial(first, remembered, after, after.x)
    return _Trial(first, remembered, after._replace(x=before.x, history={}), after.x)


def _rms(x: Tensor) -> Tensor:
    """Root mean square of each sample, shape (B,)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return x.flatten(1).to(wide).square().mean(dim=1).sqrt()
