"""The sampling plan: a sampler on a grid, compiled to a table of numbers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config.prediction import conversion, quantity
from ..support.data_files import read_json, write_json
from ..support.errors import FileError, NumericsError, shown
from ..support.files import checked_path, cut, of_file
from ..support.hooks import Hook
from ..support.tensor_files import read_tensors, write_tensors
from .gaussian_moments import GaussianMoments, gaussian_moments
from .plan_content import (
    COLUMNS,
    content_hash,
    plain,
    refuse_contradictions,
    refuse_other_scale,
    valid_column,
    valid_field,
)

__all__ = ["SamplingPlan"]

Array = npt.NDArray[np.float64]
#: Reads a scheduler's plan off the scheduler; the package ``tracing`` provides it.
TRACE: Hook[Callable[..., SamplingPlan]] = Hook("SamplingPlan.trace")
_FORMAT = 4


@dataclass(frozen=True, eq=False)
class SamplingPlan:
    """Everything that a run does between two model calls, as numbers. Immutable.

    Row i asks the model once, about the state x at the level (``alpha[i]``, ``sigma[i]``),
    which the model knows as ``time[i]``, and then computes the next state

        x ← a[i]·x + Σ_k b[i,k]·y[i−k] + raw[i]·y_raw[i] + null[i]·y_null[i] + Σ_k c[i,k]·ξ[i−k],

    where y[j] is row j's prediction, guided and clipped, converted to ``space``; y_raw is the
    same before clipping, y_null that of the unconditional branch; ξ[j] is the unit noise that
    row j brought in, keyed by ``noise_key[j]``. M rows in N ≤ M steps (intervals of the grid).
    A row need not ask the model (``asks``): one that only adds noise, or an analytic first step.

    Attributes:
        space: the quantity y: "sample", "epsilon", "v_prediction" or "flow_prediction"; where it is
            "epsilon", a row without signal (α = 0) has "sample" (``space_of``).
        time: model times, shape (M,).
        alpha, sigma: noise levels of the M queries and of the end, shape (M + 1,).
        step: the interval that each row belongs to, shape (M,).
        a: factor of the state, shape (M,).
        b: factors of this row's prediction and of earlier ones, shape (M, history).
        raw: factor of the unclipped prediction, shape (M,).
        c: factors of this row's noise and of earlier ones, shape (M, noise history).
        noise_key: (step, stage) of the noise that a row brings in, or (−1, −1), shape (M, 2).
        asks: 1 where the row asks the model, 0 where it does not, shape (M,); None: all do.
        null: factor of the unconditional branch's prediction, shape (M,), or None for 0 everywhere.
        noise_span: from where to where the row's noise is an increment of Brownian motion, in
            (2/π)·arctan(σ/α); (0, 0) where it is none. Shape (M, 2), or None.
        input_scale: the network is given input_scale·x instead of x (for networks that expect
            another scale than the path's); shape (M,), or None for 1 everywhere.
        log_variance: for learned variances, bounds (low, high): the row's noise is
            multiplied by exp(½·(low + (v + 1)/2·(high − low))), v the model's second half of
            channels. Shape (M, 2) or None.
        prior_scale: the factor that turns unit noise into the first state.
        carries: what constants the rows carry exactly, "data" and "noise", which is then checked. Neither
            where predictions are not of the data (an analytic first step, consistency models) or the
            numbers come from a table in single precision; "data" alone for calibrated plans.
        sampler, order, options: what the plan was made from.
        provenance: how it was found, where it was not written by a sampler: plain data.
    """

    space: str
    time: Array
    alpha: Array
    sigma: Array
    step: npt.NDArray[np.int64]
    a: Array
    b: Array
    raw: Array
    c: Array
    noise_key: npt.NDArray[np.int64]
    asks: npt.NDArray[np.int64] | None = None
    null: Array | None = None
    noise_span: Array | None = None
    input_scale: Array | None = None
    log_variance: Array | None = None
    prior_scale: float = 1.0
    carries: Sequence[str] = ("data", "noise")
    sampler: str = "custom"
    order: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = None
        for name in COLUMNS:  # "time" first, which says how many rows there are
            column = valid_column(name, getattr(self, name), rows)
            rows = len(self.time if column is None else column) if name == "time" else rows
            object.__setattr__(self, name, column)
        for each in fields(self):
            if each.name not in COLUMNS:
                valid_field(each.name, getattr(self, each.name))
        object.__setattr__(self, "prior_scale", float(self.prior_scale))
        object.__setattr__(self, "order", int(self.order))
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))
        object.__setattr__(self, "carries", tuple(self.carries))
        if not len(self) or not any(self.asked):
            raise NumericsError(
                "asks the model nothing", where="plan", suggestion="a plan asks the model at least once"
            )

    def __len__(self) -> int:
        """M, the number of rows."""
        return len(self.time)

    @property
    def nfe(self) -> int:
        """The number of model calls (guidance may double each one's work)."""
        return len(self) if self.asks is None else int(self.asks.sum())

    @functools.cached_property
    def asked(self) -> tuple[bool, ...]:
        """For each row, whether it asks the model."""
        return (True,) * len(self) if self.asks is None else tuple(bool(a) for a in self.asks)

    def space_of(self, row: int) -> str:
        """The quantity that y of this row is."""
        return "sample" if self.space == "epsilon" and self.alpha[row] == 0.0 else self.space

    def calls_before(self, row: int) -> int:
        """The number of model calls that the rows before this one make."""
        return row if self.asks is None else int(self.asks[:row].sum())

    @property
    def steps(self) -> int:
        """N, the number of intervals of the grid."""
        return int(self.step[-1]) + 1

    @property
    def stochastic(self) -> bool:
        """Whether any row adds noise."""
        return bool(np.any(self.c))

    @functools.cached_property
    def history(self) -> int:
        """The most predictions of earlier rows that are alive at any one time."""
        last = self.last_use
        return max(sum(j < i <= last[j] for j in range(max(0, i - self.b.shape[1]), i)) for i in range(len(self)))

    @functools.cached_property
    def last_use(self) -> tuple[int, ...]:
        """For each row, the last row that reads its prediction (itself, where none does later)."""
        last = list(range(len(self)))
        for i, k in zip(*np.nonzero(self.b), strict=True):
            last[i - k] = max(last[i - k], int(i))
        return tuple(last)

    @functools.cached_property
    def amplification(self) -> float:
        """The largest factor by which one row multiplies an error of the predicted clean sample."""
        per_clean = np.array(
            [
                abs(conversion("sample", self.space_of(i), self.alpha[i], self.sigma[i]).y_factor)
                for i in range(len(self))
            ]
        )
        factors = np.abs(self.raw) * per_clean
        for k in range(self.b.shape[1]):
            factors[k:] += np.abs(self.b[k:, k]) * per_clean[: len(self) - k]
        return float(factors.max())

    @functools.cached_property
    def constant_residual(self) -> Array:
        """By how much each row fails to reproduce constant data: x = α·k must stay α·k. Shape (M,)."""
        y = np.array([quantity(self.space_of(i), self.alpha[i], self.sigma[i])[0] for i in range(len(self))])
        return self._carried(self.alpha, y)

    @functools.cached_property
    def noise_residual(self) -> Array:
        """By how much each row of a deterministic plan fails to carry constant noise: x = σ·ε must stay σ·ε.

        Zero for a stochastic plan, whose variance is its own choice. Shape (M,).
        """
        if self.stochastic:
            return np.zeros(len(self))
        y = np.array([quantity(self.space_of(i), self.alpha[i], self.sigma[i])[1] for i in range(len(self))])
        return self._carried(self.sigma, y)

    def _carried(self, factor: Array, y: Array) -> Array:
        """What each row makes of x = factor and predictions y, less the factor of the next level."""
        now = self.raw if self.null is None else self.raw + self.null
        result: Array = self.a * factor[:-1] + now * y - factor[1:]
        for k in range(self.b.shape[1]):
            result[k:] += self.b[k:, k] * y[: len(self) - k]
        if not self.asked[
            0
        ]:  # an analytic first step knows the noise's law, not the data's, and later rows may read it
            return np.zeros(len(self))
        return result

    def checked(self) -> SamplingPlan:
        """This plan, if it is usable.

        Raises:
            NumericsError: a number that is not finite or out of range, columns that contradict each other (one
                noise brought in twice), a history that reaches before the start, or a row that does not reproduce
                constant data or constant noise.
        """
        refuse_contradictions(self)
        for name in ("b", "c"):
            table = getattr(self, name)
            if any(np.any(table[i, i + 1 :]) for i in range(min(len(self), table.shape[1]))):
                raise NumericsError(
                    "reads predictions or noise from before the start",
                    where=f"plan column {name!r}",
                    suggestion="row i can reach back i rows at most: set the rest to 0",
                )
        scale = np.abs(self.a) + np.abs(self.b).sum(axis=1) + np.abs(self.raw) + 1.0
        for what, residual in (("data", self.constant_residual), ("noise", self.noise_residual)):
            worst = int(np.argmax(np.abs(residual) / scale))
            if what not in self.carries or abs(residual[worst]) <= 1e-9 * scale[worst]:
                continue
            raise NumericsError(
                f"row {worst} does not reproduce constant {what} (off by {residual[worst]:.3g})",
                where=f"plan of {self.sampler!r}",
                why="the weights of the predictions do not add up to what the noise levels demand",
                suggestion="check the sampler's formula",
            )
        return self

    def gaussian_moments(self, std: Any, mean: Any = 0.0) -> GaussianMoments:
        """Mean and standard deviation of the plan's result for data N(mean, std²) and the exact model.

        A result wider than the data is noise that is left in; a narrower one is detail that is lost. Computed
        from the table; clipping and guidance are left out. See :func:`.moments.gaussian_moments`.

        Args:
            std: standard deviations of the data, > 0, a number or an array.
            mean: means of the data, broadcast against ``std``.

        Returns:
            ``mean`` and ``std`` of the result, arrays of the broadcast shape.

        Raises:
            ConfigurationError: a ``std`` that is not above 0, or numbers that are not finite.
        """
        return gaussian_moments(self, std, mean)

    def canonical(self) -> tuple[Array, Array, Array]:
        """Every state against what is independent: x[i] = A[i]·x_T + Σ B[i,j]·y[j] + Σ C[i,j]·ξ[j].

        Unique, so plans of different samplers can be compared. Unclipped and unconditional
        predictions count as predictions.

        Returns:
            A of shape (M + 1,), B and C of shape (M + 1, M); row i is the state before model
            call i, the last row the result.
        """
        count = len(self)
        table = np.zeros((count + 1, 1 + 2 * count))
        table[0, 0] = 1.0
        for i in range(count):
            table[i + 1] = self.a[i] * table[i]
            for k in range(min(i + 1, self.b.shape[1])):
                table[i + 1, 1 + i - k] += self.b[i, k]
            table[i + 1, 1 + i] += self.raw[i] + (0.0 if self.null is None else self.null[i])
            for k in range(min(i + 1, self.c.shape[1])):
                table[i + 1, 1 + count + i - k] += self.c[i, k]
        return table[:, 0], table[:, 1 : 1 + count], table[:, 1 + count :]

    def with_canonical(self, A: Array, B: Array, C: Array, tolerance: float = 1e-12) -> SamplingPlan:
        """This plan's levels with the coefficients of a canonical form, in execution form.

        The inverse of :meth:`canonical`: of the many execution forms the one that keeps the
        shortest history. Terms below ``tolerance`` of a row's largest are rounding.

        Raises:
            NumericsError: the plan reads unclipped predictions, which a canonical form does
                not tell from the clipped ones.
        """
        if self.raw.any() or self.null is not None:
            raise NumericsError(
                "reads unclipped or unconditional predictions",
                where="with_canonical",
                why="a canonical form does not tell them from the others",
                suggestion="make the plan with use_clipped_model_output=True and a sampler without CFG++",
            )
        count = len(self)
        table = np.concatenate([A[:, None], B, C], axis=1)
        a, b, c = np.zeros(count), np.zeros((count, count)), np.zeros((count, count))
        age = np.argsort(np.concatenate([[-1], np.arange(count), np.arange(count)]), kind="stable")
        for i in range(count):
            now, after = table[i], table[i + 1]
            oldest = age[np.argmax(np.abs(now[age]) > tolerance * np.abs(now).max())]
            a[i] = after[oldest] / now[oldest]
            rest = after - a[i] * now
            rest[np.abs(rest) <= tolerance * (np.abs(after) + np.abs(a[i] * now)).max()] = 0.0
            b[i, : i + 1], c[i, : i + 1] = rest[1 + i : 0 : -1], rest[1 + count + i : count : -1]
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        zero = np.zeros(count)
        return SamplingPlan(**{**values, "a": a, "b": _narrow(b), "c": _narrow(c), "raw": zero}).checked()

    @classmethod
    def trace(
        cls, scheduler: Any, num_inference_steps: int | None = None, *, begin: int = 0, **options: Any
    ) -> SamplingPlan:
        """The plan of a scheduler of diffusers, or of anything that is used like one, read off by unit impulses.

        It runs in this library's loop with the scheduler's own result, to rounding, on a pipeline of
        ``NoiseSchedulerConfig.from_diffusers(scheduler)``; see :func:`.integrations.diffusers.trace.trace`.

        Args:
            scheduler: copied, not changed.
            num_inference_steps: as for its ``set_timesteps``.
            begin: the first of its ``timesteps`` that is run, for image-to-image.
            options: further keywords of its ``set_timesteps`` ("mu", "sigmas") and ``step`` ("eta", "s_churn").

        Raises:
            ConfigurationError: it is not linear, for instance because it clips; the message names the setting.
        """
        return TRACE.function(scheduler, num_inference_steps, begin=begin, **options)

    def readout(self) -> SamplingPlan:
        """This plan's levels with rows that make the prediction itself, y, the next state."""
        none, one = np.zeros(len(self)), np.ones((len(self), 1))
        return replace(self, a=none, b=one, raw=none, c=0.0 * one, null=None, log_variance=None)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, with the hash of its content."""
        content = {f.name: plain(getattr(self, f.name)) for f in fields(self)}
        return {"format": _FORMAT, **content, "content_hash": content_hash(content)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SamplingPlan:
        """A plan from :meth:`to_dict`.

        A ``content_hash`` must be that of the content; without it, as in the data of earlier versions and in data made
        by hand, the fields are checked all the same, and ``to_dict`` of the plan has it.

        Raises:
            FileError: a missing or unknown column, a format this version does not know, or content that has been
                changed.
            NumericsError: fields that no plan can have; see :meth:`checked`.
        """
        if not isinstance(data, Mapping):
            raise FileError(f"is {type(data).__name__}, no mapping", where="plan", suggestion="give a plan's to_dict()")
        rest = dict(data)
        version, said = rest.pop("format", None), rest.pop("content_hash", None)
        if version == 2:  # of version 1.3
            rest = {
                "provenance": {},
                **rest,
                "carries": ("data", "noise") if rest.pop("carries_constants", True) else (),
            }
        elif version not in (3, _FORMAT) or isinstance(version, float | bool):
            raise FileError("is not a sampling plan of this format", where="plan", suggestion="save it again")
        names = {f.name for f in fields(cls)}
        if set(rest) != names:
            odd = cut(", ".join(sorted(map(str, set(rest) ^ names))), 200)
            raise FileError(f"missing or unknown columns: {odd}", where="plan", suggestion="save it again")
        plan = cls(**rest)
        if said is not None and said != plan.content_hash:
            try:
                refuse_other_scale(plan.checked())
                found = ""
            except NumericsError as error:
                found = f"; {error.where}: {error.what}"
            raise FileError(
                "its content was changed after it was saved",
                where="plan",
                why=f"it says content_hash {shown(said)}, and what it holds has '{plan.content_hash}'{found}",
                suggestion="restore the file; to make a plan by hand, change one with dataclasses.replace(plan, ...), "
                "or take content_hash out of the file, load it and save it again",
            )
        if said is None:  # made by hand, or by an earlier version
            refuse_other_scale(plan)
        return plan.checked()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan, whole or not at all: ``.json``, or ``.safetensors`` for large ones.

        Raises:
            FileError: another ending, options that are not plain data, or a file that cannot be written.
        """
        data = self.to_dict()
        if checked_path(path).suffix == ".safetensors":
            from safetensors.numpy import save

            arrays = {n: np.ascontiguousarray(getattr(self, n)) for n in COLUMNS if getattr(self, n) is not None}
            rest = {name: value for name, value in data.items() if name not in arrays}
            write_tensors(path, "plan", rest, save, arrays)
        elif checked_path(path).suffix == ".json":
            write_json(path, data)
        else:
            raise FileError("is no name for a plan", where=str(path), suggestion="use .json or .safetensors")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SamplingPlan:
        """Read a plan that :meth:`save` wrote, in this version or an earlier one.

        Raises:
            FileError: missing, malformed, changed since it was saved, or of another format.
        """
        if checked_path(path).suffix == ".safetensors":
            from safetensors.numpy import load

            arrays, rest = read_tensors(path, "plan", load)
            data = {**rest, **arrays} if isinstance(rest, dict) else rest
        else:
            data = read_json(path)
        with of_file(path, "is not a sampling plan", "give a file of SamplingPlan.save"):
            return cls.from_dict(data)

    @functools.cached_property
    def content_hash(self) -> str:
        """SHA-256 of all fields, as 64 hexadecimal digits: the same in every process and version of Python.

        Plans that are equal have the same one. It stands in every file, where it shows a change.
        """
        return content_hash({f.name: getattr(self, f.name) for f in fields(self)})

    @property
    def fingerprint(self) -> str:
        """The first 16 digits of :attr:`content_hash`."""
        return self.content_hash[:16]

    def __reduce__(self) -> tuple[Any, ...]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return _restored, ({**values, "options": dict(self.options), "provenance": dict(self.provenance)},)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SamplingPlan) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def table(self, max_rows: int = 24) -> str:
        """The plan as text, one line a row; long plans are cut in the middle."""
        extra = [("raw", self.raw)] if self.raw.any() else []
        extra += [] if self.null is None else [("null", self.null)]
        columns = [
            ("row", [str(i) for i in range(len(self))]),
            ("step", [str(i) for i in self.step]),
            ("t", [f"{t:g}" if asked else "-" for t, asked in zip(np.round(self.time, 3), self.asked, strict=True)]),
            *((name, _cells(values)) for name, values in (("α", self.alpha[:-1]), ("σ", self.sigma[:-1]))),
            ("a", _cells(self.a)),
            *((f"b[{k}]", _cells(self.b[:, k])) for k in range(self.b.shape[1])),
            *((name, _cells(values)) for name, values in extra),
            *((f"c[{k}]", _cells(self.c[:, k])) for k in range(self.c.shape[1]) if self.stochastic),
        ]
        widths = [max(len(name), *map(len, cells)) for name, cells in columns]
        lines = ["  ".join(name.rjust(w) for (name, _), w in zip(columns, widths, strict=True))]
        keep = max_rows // 2
        for i in range(len(self)):
            if len(self) > max_rows and keep <= i < len(self) - keep:
                if i == keep:
                    lines.append(f"... {len(self) - 2 * keep} rows ...".center(sum(widths)))
                continue
            lines.append("  ".join(cells[i].rjust(w) for (_, cells), w in zip(columns, widths, strict=True)))
        return "\n".join(lines)

    def __str__(self) -> str:
        kind = "stochastic" if self.stochastic else "deterministic"
        options = "".join(f", {k}={v}" for k, v in self.options.items())
        head = f"{self.sampler}{options}: {self.steps} steps, {self.nfe} model calls, order {self.order}, {kind}"
        return f"{head}, y = {self.space}\n{self.table()}"

    def __repr__(self) -> str:
        return f"SamplingPlan({self.sampler!r}, steps={self.steps}, nfe={self.nfe}, fingerprint={self.fingerprint!r})"


def _restored(values: Mapping[str, Any]) -> SamplingPlan:
    return SamplingPlan(**values)


def _narrow(table: Array) -> Array:
    """Without the columns on the right that hold nothing."""
    used = np.flatnonzero(table.any(axis=0))
    return table[:, : (int(used[-1]) + 1 if used.size else 1)]


def _cells(values: Array) -> list[str]:
    return [f"{v:.5g}" if v else "0" for v in values]
