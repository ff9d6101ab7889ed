"""The loop of every run: a model call, the step of the row, the next row.

The step of a bound plan is one fused linear combination with numbers on the host. The loop does not read from the
device, build scalar tensors, or allocate more than the new state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..plans.frame_plan import FramePlan
from ..plans.plan import SamplingPlan
from ..schedules.path import Level
from ..support.drawn import brief
from ..support.errors import NumericsError
from .faults import (
    FiniteWatch,
    ModelStoppedError,
    OutputReusedError,
    changed_input,
    explained,
    is_finite,
    left_range,
    place_of_row,
    refuse_not_finite,
    refuse_wrong_shape,
)

__all__ = [
    "Branches", "Model", "ModelMaker", "Noise", "PlannedRun", "Reached", "RowModel", "RowState", "Run", "StepsFound",
    "accepted", "run_rows", "without_call",
]  # fmt: skip

#: (x, row) ↦ the network's guided output at the row's time; :class:`Branches` for a plan that needs both.
Model = Callable[[Tensor, int], Any]
#: (step, stage) ↦ unit noise.
Noise = Callable[[int, int], Tensor]


class Branches(NamedTuple):
    """A guided output and the unconditional one, for plans that combine both (CFG++)."""

    guided: Tensor
    unconditional: Tensor


class RowState(NamedTuple):
    """A run between two rows, as a value.

    Attributes:
        row: the next row.
        x: the state, shape (B, ...).
        history: the predictions of earlier rows that later rows read, by row.
        evaluated_x, output: input and output of the last model call. They are kept only with ``inspect``, and are not
            needed to resume.
    """

    row: int
    x: Tensor
    history: Mapping[int, Tensor]
    evaluated_x: Tensor | None = None
    output: Tensor | None = None

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={brief(value)}" for name, value in self._asdict().items() if value is not None)
        return f"RowState({fields})"


class RowModel(NamedTuple):
    """A model, ready for the rows of a plan.

    Attributes:
        model: (x, row) ↦ guided output.
        evaluations: the evaluations of a network for each sample, by row.
    """

    model: Model
    evaluations: tuple[int, ...]


#: (run, moments) ↦ the model for its rows. The moments are those that guidance is told, by row; None: of the plan.
ModelMaker = Callable[["PlannedRun", Sequence[Any] | None], RowModel]


class StepsFound(NamedTuple):
    """The steps so far of a run with adaptive steps.

    Attributes:
        levels: the noise levels that it visited.
        calls, evaluations: model calls, and evaluations of a network for each sample, with those of failed steps.
        rejected: the number of failed steps.
    """

    levels: tuple[Level, ...]
    calls: int
    evaluations: int
    rejected: int


class Reached(NamedTuple):
    """The end of a row in a run.

    Attributes:
        run: the plan that the row belongs to.
        state: after the row.
        found: the steps so far of a run with adaptive steps; None for the run of a plan.
    """

    run: PlannedRun
    state: RowState
    found: StepsFound | None = None

    @property
    def ends_step(self) -> bool:
        """Whether a step of the grid ends here."""
        row, step = self.state.row, self.run.plan.step
        return row == len(step) or bool(step[row] != step[row - 1])


class Run(ABC):
    """What takes noise to samples: a plan, or a rule that chooses the steps while it runs.

    Attributes:
        plan: the table; for adaptive steps, one through the grid that the search starts from.
        split: whether the model returns a variance in a second half of channels.
    """

    plan: SamplingPlan | FramePlan
    split: bool
    #: Whether the model must return :class:`Branches`.
    branches: bool = False
    #: Whether the run executes ``plan``, so that its steps and calls are known before it.
    planned: bool = True

    @property
    @abstractmethod
    def largest_factor(self) -> float:
        """The largest factor of a tensor, which the state's type must hold; NaN where a factor is not finite."""

    @abstractmethod
    def steps(
        self,
        make_model: ModelMaker,
        state: RowState,
        noise: Noise,
        memory: dict[str, Tensor],
        *,
        inspect: bool = False,
        copy_outputs: bool = False,
        check_every_row: bool = False,
    ) -> Iterator[Reached]:
        """Run to the end, and yield after every row (with adaptive steps, after every step).

        Args:
            make_model: makes the model for the rows of a plan.
            memory: tensors that the guidance keeps from call to call.
            state, noise, inspect, copy_outputs, check_every_row: as for :func:`run_rows`.
        """

    def prior(self, noise: Tensor) -> Tensor:
        """The first state of a run from unit noise of its shape; it may be the noise itself."""
        scale = float(self.plan.prior_scale)
        return noise if scale == 1.0 else noise * scale

    def plan_through(self, levels: Sequence[Level] | None) -> SamplingPlan | FramePlan:
        """The plan that was executed, given the levels of a :class:`StepsFound`."""
        return self.plan


class PlannedRun(Run):
    """A run whose rows are known before it: :func:`run_rows` executes it.

    Attributes:
        plan: its levels; for a compiled sampler also its coefficients.
        hides: for each row, the tensor that may be NaN or Inf while the next state is finite: the model's "output",
            the "state" before, or None.
    """

    hides: tuple[str | None, ...]

    def steps(
        self, make_model: ModelMaker, state: RowState, noise: Noise, memory: dict[str, Tensor], **checks: bool
    ) -> Iterator[Reached]:
        states = run_rows(self, make_model(self, None).model, state, noise, **checks)
        del state  # otherwise this frame would keep its memory
        return (Reached(self, after) for after in states)

    def used(self, state: RowState, answer: Any) -> Any:
        """A model's answer of the right shape, without what the row does not read."""
        return answer

    @abstractmethod
    def advance(self, state: RowState, output: Tensor, noise: Noise) -> RowState:
        """The next state, from this one and the model's output at it."""

    @abstractmethod
    def clean_sample(self, state: RowState) -> Tensor:
        """The clean sample that the last model call predicts, clipped, as a new tensor; needs ``inspect``."""


def run_rows(
    run: PlannedRun,
    model: Model,
    state: RowState,
    noise: Noise,
    *,
    inspect: bool = False,
    copy_outputs: bool = False,
    check_every_row: bool = False,
) -> Iterator[RowState]:
    """Run the rows of a plan from a state to the end, and yield after every row.

    A linear step passes NaN and Inf on, so they are found at the end, at no cost before. Where a step would hide them
    (clipping, a row that drops the state), a sum over what it hides is kept on the device and read at the end.

    Args:
        run: whose rows are executed.
        model: (x, row) ↦ guided output.
        state: the first one: ``RowState(0, x_T, {})``, or a state that an earlier run yielded.
        noise: (step, stage) ↦ unit noise.
        inspect: keep the model's input and output in the states, which takes their memory.
        copy_outputs: copy the model's outputs, for models that return the same memory at every call; ``inspect``
            always copies.
        check_every_row: read from the device after every row, to name the first row that is not finite.

    Raises:
        OutputReusedError: the model returned memory that still holds an earlier prediction (only without
            ``copy_outputs``).
        ModelOutputError: the output has the wrong shape, the model changed its input in-place, or (with
            ``check_every_row``) the output is not finite.
        NumericsError: a state is not finite.
        ModelStoppedError: the model raised StopIteration. Other exceptions of the model come through unchanged.
    """
    watch, hides = FiniteWatch(), run.hides
    copies = inspect or copy_outputs

    def evaluate(state: RowState) -> Any:
        i, x, _, _, _ = state
        tracked = not x.is_inference()  # tensors of inference mode do not count their changes
        version = x._version if tracked else 0
        try:
            answer = model(x, i)
        except StopIteration as error:
            explained(error, f"raised by the model at {place_of_row(run.plan, i)}")
            raise ModelStoppedError(error) from error
        except Exception as error:
            explained(error, f"raised by the model at {place_of_row(run.plan, i)}")
            raise
        if tracked and x._version != version:
            raise changed_input(place_of_row(run.plan, i))
        answer = accepted(run, state, answer, copies=copies)
        output = answer.guided if run.branches else answer
        if check_every_row:
            refuse_not_finite(output, run.plan, i)
        if hides[i] is not None:
            watch.note(output if hides[i] == "output" else x)
        return answer

    evaluates = run.plan.asked
    for i in range(state.row, len(run.plan)):
        if not evaluates[i]:
            state = without_call(run, state, noise, inspect=inspect)
        elif inspect:
            x, output = state.x, evaluate(state)
            state = run.advance(state, output, noise)._replace(evaluated_x=x, output=output)
        else:  # no name holds the output, so that advance can free it
            state = run.advance(state, evaluate(state), noise)
        if check_every_row and not is_finite(state.x):
            raise left_range(run.plan, i, state.x.dtype)
        yield state
    watch.note(state.x)
    if not watch.all_finite(state.x):
        raise NumericsError(
            "the result is not finite",
            where=f"plan of {run.plan.sampler!r}",
            suggestion="run with check_every_row=True to find where it began",
        )


def accepted(run: PlannedRun, state: RowState, answer: Any, *, copies: bool) -> Any:
    """The guided output of a row after the checks that read nothing from the device.

    Args:
        run: whose row it is.
        state: before the row.
        answer: the guided output; :class:`Branches` for a run that needs both.
        copies: whether to return a copy, which later changes of the model's memory do not reach.

    Raises:
        ModelOutputError: it has the wrong shape.
        OutputReusedError: it is in memory that holds an earlier prediction (only without ``copies``).
    """
    i, x, history, _, _ = state
    output = answer.guided if run.branches else answer
    if run.split or output.shape != x.shape:
        refuse_wrong_shape(output, x, run.plan, i, split=run.split)
    answer = run.used(state, answer)
    output = answer.guided if run.branches else answer
    if copies:
        return Branches(output.clone(), answer.unconditional.clone()) if run.branches else output.clone()
    if history and any(past.data_ptr() == output.data_ptr() for past in history.values()):
        raise OutputReusedError(place_of_row(run.plan, i))
    return answer


def without_call(run: PlannedRun, state: RowState, noise: Noise, *, inspect: bool) -> RowState:
    """The state after a row without a model call; with ``inspect`` it holds the last model call."""
    last = _last_call(state) if inspect else (None, None)
    return run.advance(state, _NOTHING, noise)._replace(evaluated_x=last[0], output=last[1])


def _last_call(state: RowState) -> tuple[Tensor, Tensor | None]:
    """Input and output of the last model call; before the first one, the state itself as the input."""
    return state.x if state.evaluated_x is None else state.evaluated_x, state.output


#: The output of a row without a model call.
_NOTHING = torch.empty(0)
