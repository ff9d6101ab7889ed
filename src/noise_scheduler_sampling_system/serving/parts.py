"""A part of a request: samples that advance together, row by row, with model calls that others make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import final

from torch import Tensor

from ..guidance.evaluate import Memory
from ..guidance.rows import RowGuidance
from ..pipeline.ending import Ending, Outcome
from ..pipeline.job import Job
from ..pipeline.request import Request
from ..pipeline.step_view import run_state, view
from ..running.faults import is_finite, left_range, refuse_not_finite
from ..running.loop import Model, PlannedRun, Reached, RowState, accepted, without_call
from ..running.output_check import Look
from ..running.results import RunState, SamplingStep
from .questions import Asked, Question

__all__ = ["OnStep", "Part", "PlannedPart"]

#: Is told a step that ended: the number of its samples, and what makes its view.
OnStep = Callable[["Part", Callable[[], SamplingStep]], None]


class Part(ABC):
    """Samples of one request that advance together.

    Attributes:
        job: of these samples.
        outcome: of the finished run, else None.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.outcome: Outcome | None = None

    @abstractmethod
    def questions(self) -> list[Question]:
        """The questions of the next model call; empty where the part is finished, or made its call itself."""

    @abstractmethod
    def answer(self, questions: Sequence[Question], outputs: Sequence[Tensor]) -> None:
        """Advance by one row, given the outputs of its questions.

        Raises:
            ModelOutputError: an output has a wrong shape, NaN or Inf.
            NumericsError: the state is not finite.
        """

    @abstractmethod
    def state(self) -> RunState | None:
        """The state to go on from; None for a run that cannot be resumed."""

    def abandon(self) -> None:
        """Free what the part holds besides memory; a part of a plan holds nothing else."""
        return


@final
class PlannedPart(Part):
    """Samples that follow a plan.

    Args:
        job: of the samples; its run is planned.
        request: its callback and its early stopping.
        on_step: is told each step that ended.
        keys: of the questions of each branch, :func:`.questions.sharing_key`.
        start: the state to go on from; None: the first one.
        memory: what the guidance remembers.
        inspects: whether ``on_step`` reads views of the steps.
    """

    def __init__(
        self,
        job: Job,
        request: Request,
        on_step: OnStep,
        keys: Mapping[int, Hashable],
        *,
        start: RowState | None = None,
        memory: Memory | None = None,
        inspects: bool = False,
    ) -> None:
        super().__init__(job)
        assert isinstance(job.run, PlannedRun)
        self._run: PlannedRun = job.run
        self._memory: Memory = {} if memory is None else memory
        self._ending = Ending.of(job, request, self._memory)
        self._inspects = inspects or self._ending.inspects
        self._on_step, self._keys = on_step, keys
        self._state = start
        self._inputs = job.calls.inputs(self._run.plan)
        self._times = self._inputs.times(job.batch)
        self._asked: dict[tuple[int, int], Asked] = {}
        self._tracking: Model | None = None
        self._look = job.calls.look

    @property
    def _now(self) -> RowState:
        if self._state is None:  # noise is drawn when the part starts, not when it is made
            self._state = self.job.first_state()
        return self._state

    def questions(self) -> list[Question]:
        state = self._now
        evaluates = self._run.plan.asked
        while state.row < len(self._run.plan) and not evaluates[state.row]:
            self._reach(without_call(self._run, state, self.job.noise, inspect=self._inspects))
            state = self._now
        if self.outcome is None and state.row == len(self._run.plan):  # a state that was finished
            self.outcome = self._ending.outcome(Reached(self._run, state))
        if self.outcome is not None:
            return []
        guidance = self._guidance(state.row)
        if guidance.tracks:
            self._advance_alone(state)
            return []
        return [self._question(branch, state) for branch in guidance.evaluated]

    def answer(self, questions: Sequence[Question], outputs: Sequence[Tensor]) -> None:
        state = self._now
        guidance = self._guidance(state.row)
        if self._look is not None:
            self._compare(self._look, state, guidance, outputs)
        by_branch = dict(zip(guidance.evaluated, outputs, strict=True))
        answer = self.job.guidance.combine(state.row, state.x, by_branch, self._memory)
        suspect = any(each.is_suspect for each in questions)
        del by_branch, outputs
        self._advance(state, answer, suspect)

    def state(self) -> RunState:
        return run_state(self.job, self._run, self._now, self._memory)

    def _guidance(self, row: int) -> RowGuidance:
        guidance = self.job.guidance.rows[row]
        assert guidance is not None
        return guidance

    def _question(self, branch: int, state: RowState) -> Question:
        calls, (model, condition) = self.job.calls, self.job.guidance.branches[branch]
        adapter = model.at(self._run.plan.time[state.row])  # one of two, for a model of two networks
        dtype = calls.dtype_of(adapter)
        asked = self._asked.get((branch, id(adapter)))
        if asked is None:
            key = self._keys[branch] if adapter is model else (self._keys[branch], id(adapter.model), dtype)
            asked = self._asked[branch, id(adapter)] = Asked(adapter, condition, key)
        x = self._inputs.state(state.x, state.row, dtype)
        return Question(asked, x, self._times[state.row], self._run.plan, state.row, owns_input=x is not state.x)

    def _advance_alone(self, state: RowState) -> None:
        """A row whose guidance differentiates the model, which cannot share its call."""
        if self._tracking is None:
            self._tracking = self.job.model_maker(self._memory)(self._run, None).model
        self._advance(state, self._tracking(state.x, state.row), suspect=True)

    def _advance(self, state: RowState, answer: object, suspect: bool) -> None:
        # the network may use its memory again, and other requests hold slices of the same tensor
        output = accepted(self._run, state, answer, copies=True)
        del answer
        if suspect:
            plan, row = self._run.plan, state.row
            if row and not is_finite(state.x):
                raise left_range(plan, row - 1, state.x.dtype)
            refuse_not_finite(output.guided if self._run.branches else output, plan, row)
        after = self._run.advance(state, output, self.job.noise)
        self._reach(after._replace(evaluated_x=state.x, output=output) if self._inspects else after)

    def _reach(self, after: RowState) -> None:
        self._state = after
        reached = Reached(self._run, after)
        is_last = after.row == len(self._run.plan)
        if is_last and not is_finite(after.x):
            raise left_range(self._run.plan, after.row - 1, after.x.dtype)
        if not reached.ends_step:
            return
        self._on_step(self, lambda: view(self.job, reached, self._memory))
        if self._ending.is_due(reached) or is_last:
            self.outcome = self._ending.outcome(reached)

    def _compare(self, look: Look, state: RowState, guidance: RowGuidance, outputs: Sequence[Tensor]) -> None:
        """Compare the first output of the model with the config, as every run does."""
        self._look = None
        branches = self.job.guidance.branches
        for branch, output in zip(guidance.evaluated, outputs, strict=True):
            if branches[branch][0] is self.job.calls.model and not look.is_done:
                x = self._inputs.state(state.x, state.row, output.dtype)
                look.at(x, output, self._run.plan.level(state.row))
