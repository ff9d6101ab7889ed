"""The only loop: model call, one step of whatever is run, next row.

For a bound plan (bind.py) a step is one fused linear combination with host numbers: nothing on
the way reads from the device, builds a scalar tensor, or allocates more than the new state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..plans.plan import SamplingPlan
from ..schedules.path import Level
from ..support.errors import ModelOutputError, NumericsError

__all__ = [
    "Branches", "Model", "ModelMaker", "ModelStoppedError", "Noise", "OutputReusedError", "PlannedRun", "Reached",
    "RowModel", "RowState", "Run", "StepControlError", "StepsFound", "explained", "run_rows",
]  # fmt: skip

#: (x, row) ↦ the network's output, guided, for the time of that row (:class:`Branches` where a plan wants both).
Model = Callable[[Tensor, int], Any]
#: (step, stage) ↦ unit noise.
Noise = Callable[[int, int], Tensor]


class Branches(NamedTuple):
    """A guided output with the unconditional one beside it, for plans that use both (CFG++)."""

    guided: Tensor
    unconditional: Tensor


class RowState(NamedTuple):
    """A run between two rows, as a value.

    Attributes:
        row: the row to come.
        x: the current state.
        history: the predictions of earlier rows that are still to be read, by row.
        evaluated_x, output: the state that the model was evaluated at last, and what it returned; kept only
            where the run inspects, and not needed to go on.
    """

    row: int
    x: Tensor
    history: Mapping[int, Tensor]
    evaluated_x: Tensor | None = None
    output: Tensor | None = None


#: The name of :class:`RowState` in pickles of earlier versions.
State = RowState


class RowModel(NamedTuple):
    """A model made ready for the rows of a plan.

    Attributes:
        model: (x, row) ↦ guided output.
        evaluations: how often a network is evaluated for each sample at each row.
    """

    model: Model
    evaluations: tuple[int, ...]


#: (what is run, for each row the moment that guidance is told; None: the plan's) ↦ the model for its rows.
ModelMaker = Callable[["PlannedRun", Sequence[Any] | None], RowModel]


class StepsFound(NamedTuple):
    """What a run has come to that finds its steps on the way.

    Attributes:
        levels: the noise levels that it went through.
        calls, evaluations: model calls, and evaluations of a network for each sample, those of failed steps included.
        rejected: how many steps failed.
    """

    levels: tuple[Level, ...]
    calls: int
    evaluations: int
    rejected: int


class Reached(NamedTuple):
    """Where a run is after a row.

    Attributes:
        run: what ``state.row`` counts the rows of.
        state: the state there.
        found: what its plan does not tell, where the steps are found on the way.
    """

    run: PlannedRun
    state: RowState
    found: StepsFound | None = None

    @property
    def ends_step(self) -> bool:
        """Whether a step of the grid is done."""
        row, step = self.state.row, self.run.plan.step
        return row == len(step) or bool(step[row] != step[row - 1])


class Run(ABC):
    """What takes noise to samples: a plan, or a rule that finds the steps of one.

    Attributes:
        plan: the table; where steps are found on the way, one through the grid from which the search begins.
        split: whether the model returns a variance in a second half of channels.
    """

    plan: SamplingPlan
    split: bool
    #: Whether the model is to return both branches of its guidance.
    branches: bool = False
    #: Whether ``plan`` is what will be run, so that its steps and calls are known.
    planned: bool = True

    @property
    @abstractmethod
    def largest_factor(self) -> float:
        """The largest number that a tensor is multiplied by; the state's type must hold it. NaN where none is."""

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
        """Go to the end, yielding after every row, or after every step found; arguments as for :func:`run_rows`.

        Args:
            make_model: makes the model.
            memory: what the guidance remembers from call to call.
        """

    def plan_through(self, levels: Sequence[Level] | None) -> SamplingPlan:
        """The plan that was run, given the levels of a :class:`StepsFound`."""
        return self.plan


class PlannedRun(Run):
    """What :func:`run_rows` runs: levels to ask the model at, and a way from one to the next.

    Attributes:
        plan: the levels; for a compiled sampler also the way.
        hides: for each row, what of it could be non-finite without the next state being so:
            the model's "output", the "state" before, or None.
    """

    hides: tuple[str | None, ...]

    def steps(
        self, make_model: ModelMaker, state: RowState, noise: Noise, memory: dict[str, Tensor], **checks: bool
    ) -> Iterator[Reached]:
        states = run_rows(self, make_model(self, None).model, state, noise, **checks)
        del state  # whose memory is the run's to free
        return (Reached(self, after) for after in states)

    @abstractmethod
    def advance(self, state: RowState, output: Tensor, noise: Noise) -> RowState:
        """The next state from this one and the model's output about it."""

    @abstractmethod
    def clean_sample(self, state: RowState) -> Tensor:
        """The clean sample that the call before an inspected state predicts, clipped. A new tensor."""


def run_rows(
    bound: PlannedRun,
    model: Model,
    state: RowState,
    noise: Noise,
    *,
    inspect: bool = False,
    copy_outputs: bool = False,
    check_every_row: bool = False,
) -> Iterator[RowState]:
    """Run a bound plan from a state to its end, yielding after every row.

    Values that are not finite are found at the end, at no cost on the way: a linear step
    passes them on. Where a step would hide them (clipping, a row that drops the state) a sum
    over what it hides is noted on the device and read at the end.

    Args:
        bound: the plan.
        model: (x, row) ↦ guided output.
        state: where to start: ``RowState(0, x_T, {})``, or one that an earlier run yielded.
        noise: (step, stage) ↦ unit noise.
        inspect: keep the model's input and output in the states, at the cost of their memory.
        copy_outputs: copy what the model returns, for models that return the same memory at
            every call; always done with ``inspect``.
        check_every_row: read back after every row, to name the first that is not finite.

    Raises:
        OutputReusedError: the model returned memory that still holds an earlier prediction
            (only without ``copy_outputs``).
        ModelOutputError: the output is of the wrong shape, the model wrote into its input,
            or (with ``check_every_row``) it is not finite.
        NumericsError: something was not finite.
        ModelStoppedError: the model raised StopIteration. Any other exception of the model's comes through as it is.
    """
    watch, hides, split = _Watch(), bound.hides, bound.split
    copies = inspect or copy_outputs

    def evaluate(state: RowState) -> Any:
        i, x, history, _, _ = state
        tracked = not x.is_inference()  # tensors of inference mode do not count their changes
        version = x._version if tracked else 0
        try:
            answer = model(x, i)
        except StopIteration as error:
            explained(error, f"raised by the model at {_where(bound.plan, i)}")
            raise ModelStoppedError(error) from error
        except Exception as error:
            explained(error, f"raised by the model at {_where(bound.plan, i)}")
            raise
        output = answer.guided if bound.branches else answer
        if tracked and x._version != version:
            raise ModelOutputError(
                "the model changed its input in place",
                where=_where(bound.plan, i),
                why="the sampler still needs that state",
                suggestion="clone x at the top of the model's forward, or avoid operations that end in _",
            )
        if split or output.shape != x.shape:
            _check_shape(output, x, bound, i)
        if check_every_row and not _is_finite(output):
            raise _not_finite(bound.plan, i, output)
        if hides[i] is not None:
            watch.note(output if hides[i] == "output" else x)
        if copies:
            return Branches(output.clone(), answer.unconditional.clone()) if bound.branches else output.clone()
        if history and any(past.data_ptr() == output.data_ptr() for past in history.values()):
            raise OutputReusedError(_where(bound.plan, i))
        return answer

    asked_rows = bound.plan.asked
    for i in range(state.row, len(bound.plan)):
        if not asked_rows[i]:
            known = (
                (state.x if state.evaluated_x is None else state.evaluated_x, state.output) if inspect else (None, None)
            )
            state = bound.advance(state, _NOTHING, noise)._replace(evaluated_x=known[0], output=known[1])
        elif inspect:
            x, output = state.x, evaluate(state)
            state = bound.advance(state, output, noise)._replace(evaluated_x=x, output=output)
        else:  # no name here holds the output, so that advance can free it
            state = bound.advance(state, evaluate(state), noise)
        if check_every_row and not _is_finite(state.x):
            raise NumericsError(
                f"the state after {_where(bound.plan, i)} is not finite, though the model's output is",
                where=_where(bound.plan, i),
                why=f"values left the range of {state.x.dtype}",
                suggestion="run with dtype=torch.float32, or clip the predicted clean sample",
            )
        yield state
    watch.note(state.x)
    if not watch.all_finite() and not (len(watch.sums) == 1 and _is_finite(state.x)):
        raise NumericsError(
            "the result is not finite",
            where=f"plan of {bound.plan.sampler!r}",
            suggestion="run with check_every_row=True to find where it began",
        )


#: What a row that does not ask the model is handed.
_NOTHING = torch.empty(0)


class OutputReusedError(Exception):
    """The model returns the same memory at every call; the run must copy its outputs."""


class ModelStoppedError(Exception):
    """The model raised StopIteration, which a generator must not pass on: it would turn into a RuntimeError.

    Args:
        error: what the model raised.
    """

    def __init__(self, error: StopIteration) -> None:
        super().__init__(error)
        self.error = error


def explained(error: BaseException, note: str) -> None:
    """Note on somebody else's exception, which goes on as it is, where it came up."""
    if hasattr(error, "add_note") and note not in getattr(error, "__notes__", ()):  # from Python 3.11 on
        error.add_note(note)


class StepControlError(NumericsError):
    """Steps of one's own choice came to no end. Another run would not, either."""


@dataclass
class _Watch:
    """Sums, kept on the device and read once: a sum is finite only if every entry is."""

    sums: list[Tensor] = field(default_factory=list)

    def note(self, value: Tensor) -> None:
        self.sums.append(_sum(value))

    def all_finite(self) -> bool:
        return bool(torch.isfinite(torch.stack([each.float() for each in self.sums])).all())


def _sum(value: Tensor) -> Tensor:
    """The sum, in float32 at least: many times faster than looking at each entry."""
    return value.detach().sum(dtype=torch.promote_types(value.dtype, torch.float32))


def _is_finite(value: Tensor) -> bool:
    # finite entries may add up to infinity: only then are they looked at one by one
    return bool(torch.isfinite(_sum(value))) or bool(torch.isfinite(value.detach()).all())


def _check_shape(output: Tensor, x: Tensor, bound: PlannedRun, i: int) -> None:
    if output.shape == x.shape and not bound.split:
        return
    expected = list(x.shape)
    if bound.split:
        expected[1] *= 2
        if list(output.shape) == expected:
            return
    doubled = output.ndim == x.ndim and x.ndim > 1 and output.shape[1] == 2 * x.shape[1]
    raise ModelOutputError(
        f"the model returned shape {tuple(output.shape)}, expected {tuple(expected)}",
        where=_where(bound.plan, i),
        why="it seems to predict a variance, too" if doubled else "",
        suggestion="set variance_type='learned_range'"
        if doubled
        else "return the prediction for every entry of x (or an object with .sample)",
    )


def _where(plan: SamplingPlan, i: int) -> str:
    call = f"model call {plan.calls_before(i) + 1} of {plan.nfe}" if plan.asked[i] else "no model call"
    return f"step {plan.step[i]}, t = {plan.time[i]:g}, σ = {plan.sigma[i]:.4g} ({call})"


def _not_finite(plan: SamplingPlan, i: int, output: Tensor) -> ModelOutputError:
    bad = ~torch.isfinite(output)
    samples = bad.flatten(1).any(dim=1).nonzero().flatten().tolist()
    return ModelOutputError(
        f"the model returned NaN or Inf in {int(bad.sum())} of {output.numel()} entries (samples {samples[:8]})",
        where=_where(plan, i),
        why="a network in half precision overflows easily; an untrained one may return anything",
        suggestion="run the model in float32 or bfloat16, check its inputs, or lower the guidance scale",
    )
