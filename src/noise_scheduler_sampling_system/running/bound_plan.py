"""Bound plans: the conversions of one kind of model are folded into the coefficients of each row."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ..config.prediction import IDENTITY, Affine, conversion
from ..config.settings import NoiseSchedulerConfig
from ..plans.plan import SamplingPlan
from ..support.errors import ConfigurationError
from .clipping import clip_of
from .kernels import add, affine, combine, pair, pair_into, scaled
from .loop import Branches, Noise, PlannedRun, RowState

__all__ = ["BoundPlan", "BoundRow", "Clip", "bind", "bind_for", "scaled_noise"]

#: Limits a predicted clean sample; it may overwrite its input.
Clip = Callable[[Tensor], Tensor]


@final
@dataclass(frozen=True)
class BoundRow:
    """x ← a·x + of_output·output + of_clean·clean + of_null·unconditional output + Σ history + Σ noise.

    Attributes:
        a, of_output, of_clean, of_null: the factors.
        history: (row, factor) of each earlier prediction.
        noise: (step, stage, factor) of each noise.
        to_clean: the clean sample from (x, output).
        to_y: the prediction that is kept, from (x, clean) with clipping and from (x, output) without.
        keep: whether a later row reads the prediction.
        forget: the rows whose predictions no later row reads.
        log_variance: bounds of a learned variance.
        asks: whether the row evaluates the model, as the plan's column ``asks``.
        is_linear: whether the row has neither clipping nor learned variance nor a second branch.
        is_pair: whether the next state is a·x + of_output·output alone.
        delta: (row, factor) of the difference of both branches' outputs in each row that this one reads, its own
            included.
        keep_delta: whether a later row reads this row's difference.
        forget_delta: the rows whose differences no later row reads.
        reads_raw, reads_null: whether the row reads the unclipped output, and the unconditional one.
    """

    a: float
    of_output: float
    of_clean: float
    history: tuple[tuple[int, float], ...]
    noise: tuple[tuple[int, int, float], ...]
    to_clean: Affine
    to_y: Affine
    keep: bool
    forget: tuple[int, ...]
    log_variance: tuple[float, float] | None
    of_null: float
    asks: bool
    is_linear: bool
    is_pair: bool
    reads_raw: bool
    reads_null: bool
    delta: tuple[tuple[int, float], ...] = ()
    keep_delta: bool = False
    forget_delta: tuple[int, ...] = ()


@final
@dataclass(frozen=True)
class BoundPlan(PlannedRun):
    """A plan for one kind of model.

    Attributes:
        plan: the table.
        rows: the numbers of each row, on the host.
        clip: limits the predicted clean sample, or None.
        split: whether the model returns a variance in a second half of channels.
    """

    plan: SamplingPlan
    rows: tuple[BoundRow, ...]
    clip: Clip | None
    split: bool

    @functools.cached_property
    def branches(self) -> bool:  # type: ignore[override]
        return self.plan.null is not None or self.plan.delta is not None

    @functools.cached_property
    def hides(self) -> tuple[str | None, ...]:  # type: ignore[override]
        # an infinite x gives an infinite output, unless the model saturates, which the check of the output finds
        if self.clip is not None or self.plan.log_variance is not None:
            return ("output",) * len(self.rows)
        return tuple("state" if row.a == 0.0 else None for row in self.rows)

    @functools.cached_property
    def largest_factor(self) -> float:
        factors = [
            abs(factor)
            for row in self.rows
            for factor in (
                row.a, row.of_output, row.of_clean, row.of_null, *row.to_clean, *row.to_y,
                *(b for _, b in row.history), *(c for *_, c in row.noise), *(d for _, d in row.delta),
            )
        ]  # fmt: skip
        return max(factors) if all(map(math.isfinite, factors)) else math.nan

    def clean_sample(self, state: RowState) -> Tensor:
        last = next((i for i in range(state.row - 1, -1, -1) if self.rows[i].asks), None)
        if last is None and state.evaluated_x is not None:  # an analytic first step
            alpha, sigma = float(self.plan.alpha[0]), float(self.plan.sigma[0])
            return state.evaluated_x * (alpha / (alpha**2 + sigma**2))
        if state.output is None or state.evaluated_x is None or last is None:
            raise ConfigurationError(
                "the run did not keep its model calls",
                where="clean_sample",
                suggestion="run_rows(inspect=True)",
            )
        return self._clean(self.rows[last], state.evaluated_x, self._mean(state.output))

    def _clean(self, row: BoundRow, x: Tensor, output: Tensor) -> Tensor:
        clean = affine(row.to_clean, x, output)
        return clean if self.clip is None else self.clip(clean)

    def _mean(self, output: Tensor) -> Tensor:
        output = output.guided if isinstance(output, Branches) else output
        return output.chunk(2, dim=1)[0] if self.split else output

    def advance(self, state: RowState, output: Any, noise: Noise) -> RowState:
        i, x, history, _, _ = state
        row = self.rows[i]
        if row.is_pair:
            return RowState(i + 1, pair(x, row.a, output, row.of_output), history)
        if row.is_linear:
            y, past = None, [(history[j], b) for j, b in row.history]
            past += [(history[self.plan.history_key(j, delta=True)], d) for j, d in row.delta]
            if row.asks:
                after, y = combine(x, row.a, output, row.of_output, past, row.to_y if row.keep else None)
            else:
                after = scaled(x, row.a)
                for term, b in past:
                    after = add(after, term, b)
            del output, past  # frees their memory, unless the model or the history holds it
            for step, stage, c in row.noise:
                after = add(after, noise(step, stage), c)
            if row.keep or row.forget or row.forget_delta:
                gone = {*row.forget, *(self.plan.history_key(j, delta=True) for j in row.forget_delta)}
                history = {j: past for j, past in history.items() if j not in gone}
                if y is not None:
                    history[i] = y
            return RowState(i + 1, after, history)
        # clipping, learned variances, both branches of a guidance
        unconditional = output.unconditional if isinstance(output, Branches) else None
        deltas = self._deltas(i, row, output, history)
        output = output.guided if isinstance(output, Branches) else output
        variance = output.chunk(2, dim=1)[1] if row.log_variance else None
        main = mean = self._mean(output)
        factor, others = row.of_output, [(history[j], b) for j, b in row.history]
        if self.clip is not None:
            main, factor = self._clean(row, x, mean), row.of_clean
            if row.reads_raw:
                others.append((mean, row.of_output))
        del mean, output  # frees the output's memory, unless the model holds it
        y = None
        if row.keep:
            y = main if row.to_y is IDENTITY else affine(row.to_y, x, main)
        if self.clip is not None and y is not main:
            after = pair_into(main, factor, x, row.a)
        else:
            after = pair(x, row.a, main, factor)
        del main
        for term, b in others:
            after = add(after, term, b)
        if unconditional is not None and row.reads_null:
            after = add(after, self._mean(unconditional), row.of_null)
        for j, d in row.delta:
            after = add(after, deltas[j], d)
        for step, stage, c in row.noise:
            after = add(after, scaled_noise(noise(step, stage), variance, row.log_variance), c)
        history = {j: past for j, past in history.items() if j not in row.forget}
        if y is not None:
            history[i] = y
        if row.keep_delta or row.forget_delta:
            gone = {self.plan.history_key(j, delta=True) for j in row.forget_delta}
            history = {j: past for j, past in history.items() if j not in gone}
            if row.keep_delta:
                history[self.plan.history_key(i, delta=True)] = deltas[i]
        return RowState(i + 1, after, history)

    def _deltas(self, i: int, row: BoundRow, output: Any, history: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The differences of both branches' outputs that a row reads or keeps, by row."""
        found = {j: history[self.plan.history_key(j, delta=True)] for j, _ in row.delta if j != i}
        if row.keep_delta or any(j == i for j, _ in row.delta):
            found[i] = self._mean(output.guided) - self._mean(output.unconditional)
        return found

    def noise_std(self, i: int, output: Tensor | Branches | None) -> Tensor | float:
        """The factor of the unit noise of row i; a tensor for a learned variance.

        Args:
            i: the row.
            output: the model's output at the row; needed for a learned variance only.
        """
        c, bounds = float(self.plan.c[i, 0]), self.rows[i].log_variance
        if bounds is None or output is None:
            return c
        variance = (output.guided if isinstance(output, Branches) else output).chunk(2, dim=1)[1]
        return c * scaled_noise(torch.ones_like(variance), variance, bounds)


def bind(
    plan: SamplingPlan, prediction_type: str, clip: Clip | None = None, *, learned_variance: bool = False
) -> BoundPlan:
    """Bind a plan to a kind of model. The result does not depend on data or device.

    Args:
        plan: the table.
        prediction_type: of the network's output.
        clip: limits the predicted clean sample.
        learned_variance: whether the network returns a variance in a second half of channels.

    Raises:
        ConfigurationError: at some level the prediction does not determine the quantity of the plan (ε without
            signal), or the plan needs a variance that the model lacks.
    """
    if plan.log_variance is not None and not learned_variance:
        raise ConfigurationError(
            "the plan needs learned variances and the model has none",
            where="variance_type",
            suggestion="use variance_type='fixed_small', or a model with twice the channels",
        )
    if plan.delta is not None and clip is not None:
        raise ConfigurationError(
            "the plan holds its guidance, and clipping acts on a guided prediction",
            where="clip_sample",
            suggestion="set clip_sample=False and thresholding=False, or guide the run by ClassifierFree",
        )
    if plan.to is not None and clip is not None:
        raise ConfigurationError(
            "the plan asks a network of two times, and clipping limits a predicted clean sample",
            where="clip_sample",
            why="such a network predicts a state between noise and data, whose values may lie outside any range",
            suggestion="set clip_sample=False and thresholding=False",
        )
    rows = tuple(_bind_row(plan, i, prediction_type, clip is not None, learned_variance) for i in range(len(plan)))
    return BoundPlan(plan, rows, clip, learned_variance)


def _bind_row(plan: SamplingPlan, i: int, prediction_type: str, clips: bool, learned: bool) -> BoundRow:
    lags = range(1, min(i + 1, plan.b.shape[1]))
    noise_lags = range(min(i + 1, plan.c.shape[1]))
    history = tuple((i - k, float(plan.b[i, k])) for k in lags if plan.b[i, k])
    noise = tuple(
        (int(plan.noise_key[i - k, 0]), int(plan.noise_key[i - k, 1]), float(plan.c[i, k]))
        for k in noise_lags
        if plan.c[i, k]
    )
    forget = tuple(i - k for k in lags if plan.last_use[i - k] == i)
    delta = _deltas_of(plan, i, prediction_type)
    used = plan.last_use_of_delta
    forget_delta = tuple(j for j in range(i) if used[j] == i)
    if not plan.asked[i]:
        a = float(plan.a[i])
        return BoundRow(
            a, 0.0, 0.0, history, noise, IDENTITY, IDENTITY, False, forget, None, 0.0, False, True, False, False,
            False, delta, False, forget_delta,
        )  # fmt: skip
    alpha, sigma = float(plan.alpha[i]), float(plan.sigma[i])
    space, keep = plan.space_of(i), plan.last_use[i] > i
    # without noise the clean sample is x: there is nothing to clip
    clips = clips and (sigma > 0.0 or keep)
    to = plan.second_level(i)
    from_output = conversion(prediction_type, space, alpha, sigma, to)
    from_clean = conversion("sample", space, alpha, sigma) if clips else from_output
    b, raw = float(plan.b[i, 0]), float(plan.raw[i])
    # y is a combination of x and output (or clean), so its coefficients are folded in
    of_output, of_clean = (raw, b) if clips else (raw + b, 0.0)
    null = 0.0 if plan.null is None else float(plan.null[i])
    a = float(plan.a[i]) + (of_output + null) * from_output.x_factor + of_clean * from_clean.x_factor
    linear = not clips and not learned and plan.null is None and plan.delta is None
    return BoundRow(
        a=a,
        of_output=of_output * from_output.y_factor,
        of_clean=of_clean * from_clean.y_factor,
        history=history,
        noise=noise,
        to_clean=conversion(prediction_type, "sample", alpha, sigma, to),
        to_y=from_clean,
        keep=keep,
        forget=forget,
        log_variance=None if plan.log_variance is None else (plan.log_variance[i, 0], plan.log_variance[i, 1]),
        of_null=null * from_output.y_factor,
        asks=True,
        is_linear=linear,
        is_pair=linear and not (keep or a == 0.0 or forget or history or noise),
        reads_raw=of_output != 0.0,
        reads_null=null != 0.0,
        delta=delta,
        keep_delta=used[i] > i,
        forget_delta=forget_delta,
    )


def _deltas_of(plan: SamplingPlan, i: int, prediction_type: str) -> tuple[tuple[int, float], ...]:
    """(row, factor) of each difference that a row reads, for differences of the network's raw outputs."""
    if plan.delta is None:
        return ()
    found = []
    for j in (i - k for k in range(min(i + 1, plan.delta.shape[1])) if plan.delta[i, k]):
        level = float(plan.alpha[j]), float(plan.sigma[j])
        to_y = conversion(prediction_type, plan.space_of(j), *level, plan.second_level(j))
        found.append((j, float(plan.delta[i, i - j]) * to_y.y_factor))
    return tuple(found)


def bind_for(plan: SamplingPlan, config: NoiseSchedulerConfig) -> BoundPlan:
    """Bind a plan to the kind of model that a config describes.

    Raises:
        ConfigurationError: as :func:`bind`.
    """
    learned = config.variance_type.startswith("learned")
    return bind(plan, config.prediction_type, clip_of(config), learned_variance=learned)


def scaled_noise(noise: Tensor, variance: Tensor | None, bounds: tuple[Any, Any] | None) -> Tensor:
    """Noise with the standard deviation that the model chose between the bounds of its log-variance."""
    if bounds is None or variance is None:
        return noise
    low, high = bounds
    fraction = (variance.to(noise.dtype) + 1.0) / 2.0
    return noise * torch.exp(0.5 * (low + fraction * (high - low)))
