"""The loop: one fused linear combination between two model calls, for every plan.

A plan is first bound: its table, the model's kind of prediction and the treatment of the
predicted clean sample become a short list of host numbers per row. Then nothing on the way
reads from the device, builds a scalar tensor, or allocates more than the new state.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, final

import torch
from torch import Tensor

from .errors import ConfigurationError, ModelOutputError, NumericsError
from .plan import SamplingPlan
from .prediction import IDENTITY, Affine, conversion

__all__ = ["BoundPlan", "Clip", "Model", "Noise", "Runnable", "State", "bind", "run"]

#: (x, row) ↦ the network's output, guided, for the time of that row.
Model = Callable[[Tensor, int], Tensor]
#: Limits a predicted clean sample; may overwrite what it is given.
Clip = Callable[[Tensor], Tensor]
#: (step, stage) ↦ unit noise.
Noise = Callable[[int, int], Tensor]
#: From so many numbers on, a pass over memory saved is worth three views of a tensor.
_WORTH_VIEWS = 1 << 15


class State(NamedTuple):
    """A run between two rows, as a value.

    Attributes:
        row: the row to come.
        x: the current state.
        history: the predictions of earlier rows that are still to be read, by row.
        asked, output: what the last call was about, and what the model returned; kept only
            where the run inspects, and not needed to go on.
    """

    row: int
    x: Tensor
    history: Mapping[int, Tensor]
    asked: Tensor | None = None
    output: Tensor | None = None


@dataclass(frozen=True)
class _Row:
    """x ← a·x + of_output·output + of_clean·clean + Σ history + Σ noise, as host numbers."""

    a: float
    of_output: float
    of_clean: float
    history: tuple[tuple[int, float], ...]
    noise: tuple[tuple[int, int, float], ...]
    to_clean: Affine  # clean sample from (x, output)
    to_y: Affine  # what is kept, from (x, clean) with clipping and from (x, output) without
    keep: bool
    forget: tuple[int, ...]
    log_variance: tuple[float, float] | None
    is_pair: bool  # nothing but x and the output


class Runnable(ABC):
    """What :func:`run` runs: levels to ask the model at, and a way from one to the next.

    Attributes:
        plan: the levels; for a compiled sampler also the way.
        split: whether the model returns a variance in a second half of channels.
        hides: for each row, what of it could be non-finite without the next state being so:
            the model's "output", the "state" before, or None.
    """

    plan: SamplingPlan
    split: bool
    hides: tuple[str | None, ...]

    @abstractmethod
    def advance(self, state: State, output: Tensor, noise: Noise) -> State:
        """The next state from this one and the model's output about it."""

    @abstractmethod
    def clean_sample(self, state: State) -> Tensor:
        """The clean sample that the call before an inspected state predicts, clipped. A new tensor."""


@final
@dataclass(frozen=True)
class BoundPlan(Runnable):
    """A plan that knows what kind of model it runs.

    Attributes:
        plan: the table.
        rows: the host numbers of each row.
        clip: limits the predicted clean sample, or None.
        split: whether the model returns a variance in a second half of channels.
    """

    plan: SamplingPlan
    rows: tuple[_Row, ...]
    clip: Clip | None
    split: bool

    @functools.cached_property
    def hides(self) -> tuple[str | None, ...]:  # type: ignore[override]
        # an infinite x makes an infinite output unless the model saturates, which a clipped row notices
        if self.clip is not None or self.plan.log_variance is not None:
            return ("output",) * len(self.rows)
        return tuple("state" if row.a == 0.0 else None for row in self.rows)

    def clean_sample(self, state: State) -> Tensor:
        if state.output is None or state.asked is None:
            raise ConfigurationError(
                "the run was not asked to keep its predictions", where="clean_sample", suggestion="run(inspect=True)"
            )
        return self._clean(self.rows[state.row - 1], state.asked, self._mean(state.output))

    def _clean(self, row: _Row, x: Tensor, output: Tensor) -> Tensor:
        clean = _affine(row.to_clean, x, output)
        return clean if self.clip is None else self.clip(clean)

    def _mean(self, output: Tensor) -> Tensor:
        return output.chunk(2, dim=1)[0] if self.split else output

    def advance(self, state: State, output: Tensor, noise: Noise) -> State:
        i, x, history, _, _ = state
        row = self.rows[i]
        if row.is_pair:
            return State(i + 1, _pair(x, row.a, output, row.of_output), history)
        variance = output.chunk(2, dim=1)[1] if row.log_variance else None
        main = mean = self._mean(output)
        factor, others = row.of_output, [(history[j], b) for j, b in row.history]
        if self.clip is not None:
            main, factor = self._clean(row, x, mean), row.of_clean
            others.append((mean, row.of_output))
        if self.clip is None or row.of_output == 0.0:
            del mean, output  # where the caller holds them no longer, their memory is free from here on
            others = others if self.clip is None else others[:-1]
        y = None
        if row.keep:
            y = main if row.to_y == IDENTITY else _affine(row.to_y, x, main)
        if self.clip is not None and y is not main:
            after = _pair_into(main, factor, x, row.a)
        else:
            after = _pair(x, row.a, main, factor)
        del main
        for term, b in others:
            after.add_(term, alpha=b)
        for step, stage, c in row.noise:
            after.add_(_scaled(noise(step, stage), variance, row.log_variance), alpha=c)
        if row.keep or row.forget:
            history = {j: past for j, past in history.items() if j not in row.forget}
            if y is not None:
                history[i] = y
        return State(i + 1, after, history)


def bind(
    plan: SamplingPlan, prediction_type: str, clip: Clip | None = None, *, learned_variance: bool = False
) -> BoundPlan:
    """Prepare a plan for a kind of model: everything that depends on neither data nor device.

    Args:
        plan: the table.
        prediction_type: what the network returns.
        clip: limits the predicted clean sample.
        learned_variance: the network returns a variance in a second half of channels.

    Raises:
        ConfigurationError: at some level the prediction does not determine what the plan
            needs (ε at zero signal), or the plan needs a variance that the model lacks.
    """
    if plan.log_variance is not None and not learned_variance:
        raise ConfigurationError(
            "the plan needs learned variances and the model has none",
            where="variance_type",
            suggestion="use variance_type='fixed_small', or a model with twice the channels",
        )
    rows = tuple(_bind_row(plan, i, prediction_type, clip is not None, learned_variance) for i in range(plan.nfe))
    return BoundPlan(plan, rows, clip, learned_variance)


def _bind_row(plan: SamplingPlan, i: int, prediction_type: str, clips: bool, learned: bool) -> _Row:
    alpha, sigma = float(plan.alpha[i]), float(plan.sigma[i])
    from_output = conversion(prediction_type, plan.space, alpha, sigma)
    from_clean = conversion("sample", plan.space, alpha, sigma) if clips else from_output
    b, raw = float(plan.b[i, 0]), float(plan.raw[i])
    # y is a combination of x and output (or clean): fold it in instead of computing it
    of_output, of_clean = (raw, b) if clips else (raw + b, 0.0)
    a = float(plan.a[i]) + of_output * from_output.x_factor + of_clean * from_clean.x_factor
    keep = plan.last_use[i] > i
    lags = range(1, min(i + 1, plan.b.shape[1]))
    noise_lags = range(min(i + 1, plan.c.shape[1]))
    return _Row(
        a=a,
        of_output=of_output * from_output.y_factor,
        of_clean=of_clean * from_clean.y_factor,
        history=tuple((i - k, float(plan.b[i, k])) for k in lags if plan.b[i, k]),
        noise=tuple(
            (int(plan.noise_key[i - k, 0]), int(plan.noise_key[i - k, 1]), float(plan.c[i, k]))
            for k in noise_lags
            if plan.c[i, k]
        ),
        to_clean=conversion(prediction_type, "sample", alpha, sigma),
        to_y=from_clean,
        keep=keep,
        forget=tuple(i - k for k in lags if plan.last_use[i - k] == i),
        log_variance=None if plan.log_variance is None else (plan.log_variance[i, 0], plan.log_variance[i, 1]),
        is_pair=not (clips or learned or keep or a == 0.0 or plan.b[i, 1:].any() or plan.c[i].any()),
    )


def run(
    bound: Runnable,
    model: Model,
    state: State,
    noise: Noise,
    *,
    inspect: bool = False,
    copy_outputs: bool = False,
    check_every_row: bool = False,
) -> Iterator[State]:
    """Run a bound plan from a state to its end, yielding after every row.

    Values that are not finite are found at the end, at no cost on the way: a linear step
    passes them on. Where a step would hide them (clipping, a row that drops the state) the
    largest magnitude is noted on the device and read at the end.

    Args:
        bound: the plan.
        model: (x, row) ↦ guided output.
        state: where to start: ``State(0, x_T, {})``, or one that an earlier run yielded.
        noise: (step, stage) ↦ unit noise.
        inspect: keep what was asked and answered in the states, at the cost of their memory.
        copy_outputs: copy what the model returns, for models that return the same memory at
            every call; always done with ``inspect``.
        check_every_row: read back after every row, to name the first that is not finite.

    Raises:
        OutputReusedError: the model returned memory that still holds an earlier prediction
            (only without ``copy_outputs``).
        ModelOutputError: the output is of the wrong shape, the model wrote into its input,
            or (with ``check_every_row``) it is not finite.
        NumericsError: something was not finite.
    """
    watch, hides, split = _Watch(), bound.hides, bound.split
    copies = inspect or copy_outputs

    def ask(state: State) -> Tensor:
        i, x, history, _, _ = state
        tracked = not x.is_inference()  # tensors of inference mode do not count their changes
        version = x._version if tracked else 0
        output = model(x, i)
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
            return output.clone()
        if history and any(past.data_ptr() == output.data_ptr() for past in history.values()):
            raise OutputReusedError(_where(bound.plan, i))
        return output

    for i in range(state.row, bound.plan.nfe):
        if inspect:
            asked, output = state.x, ask(state)
            state = bound.advance(state, output, noise)._replace(asked=asked, output=output)
        else:  # no name here holds the output, so that advance can free it
            state = bound.advance(state, ask(state), noise)
        if check_every_row and not _is_finite(state.x):
            raise NumericsError(
                f"the state after {_where(bound.plan, i)} is not finite, though the model's output is",
                where=_where(bound.plan, i),
                why=f"values left the range of {state.x.dtype}",
                suggestion="run with dtype=torch.float32, or clip the predicted clean sample",
            )
        yield state
    watch.note(state.x)
    if not watch.all_finite():
        raise NumericsError(
            "the result is not finite",
            where=f"plan of {bound.plan.sampler!r}",
            suggestion="run with check_every_row=True to find where it began",
        )


class OutputReusedError(Exception):
    """The model returns the same memory at every call; the run must copy its outputs."""


@dataclass
class _Watch:
    """Largest magnitudes, kept on the device and read once."""

    magnitudes: list[Tensor] = field(default_factory=list)

    def note(self, value: Tensor) -> None:
        self.magnitudes.append(_magnitude(value))

    def all_finite(self) -> bool:
        return bool(torch.isfinite(torch.stack([m.float() for m in self.magnitudes])).all())


def _magnitude(value: Tensor) -> Tensor:
    magnitude: Tensor = torch.linalg.vector_norm(value.detach(), ord=float("inf"))
    return magnitude


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value.detach()).all())


def _pair(x: Tensor, a: float, y: Tensor, b: float) -> Tensor:
    """a·x + b·y in a new tensor of x's kind; in a single pass where one operation does it."""
    if b == 0.0:
        return x * a
    if a == 0.0:
        return y.to(x.dtype) * b
    if a == 1.0 and x.dtype == y.dtype:
        return torch.add(x, y, alpha=b)
    if _fits_one_pass(x, y):
        return torch.addr(x.view(-1, 1), y.view(-1), _one(x.dtype, x.device), beta=a, alpha=b).view(x.shape)
    return (x * a).add_(y, alpha=b)


def _pair_into(x: Tensor, a: float, y: Tensor, b: float) -> Tensor:
    """a·x + b·y in the memory of x."""
    if b != 0.0 and _fits_one_pass(x, y):
        x.view(-1, 1).addr_(y.view(-1), _one(x.dtype, x.device), beta=a, alpha=b)
        return x
    if a != 1.0:
        x.mul_(a)
    return x.add_(y, alpha=b) if b != 0.0 else x


def _fits_one_pass(x: Tensor, y: Tensor) -> bool:
    """Whether ``addr`` (β·M + α·u⊗v, here with v = (1)) can and should do it.

    It is PyTorch's only elementwise kernel with two factors, and is worth its views for large tensors.
    """
    return (
        x.numel() >= _WORTH_VIEWS
        and x.dtype == y.dtype
        and x.is_contiguous()
        and y.is_contiguous()
        and not torch.is_autocast_enabled()  # which would compute it in half precision
    )


@functools.lru_cache(maxsize=32)
def _one(dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept, so it must be of use outside that mode, too
        return torch.ones(1, dtype=dtype, device=device)


def _affine(factors: Affine, x: Tensor, y: Tensor) -> Tensor:
    return _pair(x, factors.x_factor, y, factors.y_factor)


def _scaled(noise: Tensor, variance: Tensor | None, bounds: tuple[float, float] | None) -> Tensor:
    """Noise with the standard deviation that the model chose between two log-variances."""
    if bounds is None or variance is None:
        return noise
    low, high = bounds
    fraction = (variance.to(noise.dtype) + 1.0) / 2.0
    return noise * torch.exp(0.5 * (low + fraction * (high - low)))


def _check_shape(output: Tensor, x: Tensor, bound: Runnable, i: int) -> None:
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
    return f"step {plan.step[i]}, t = {plan.time[i]:g}, σ = {plan.sigma[i]:.4g} (model call {i + 1} of {plan.nfe})"


def _not_finite(plan: SamplingPlan, i: int, output: Tensor) -> ModelOutputError:
    bad = ~torch.isfinite(output)
    samples = bad.flatten(1).any(dim=1).nonzero().flatten().tolist()
    return ModelOutputError(
        f"the model returned NaN or Inf in {int(bad.sum())} of {output.numel()} entries (samples {samples[:8]})",
        where=_where(plan, i),
        why="a network in half precision overflows easily; an untrained one may return anything",
        suggestion="run the model in float32 or bfloat16, check its inputs, or lower the guidance scale",
    )
