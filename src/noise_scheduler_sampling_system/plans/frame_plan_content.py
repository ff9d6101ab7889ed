"""The types, shapes and ranges of a frame plan's fields, the check of its rows, its hash, and its text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..support.errors import NumericsError, shown
from ..support.text_tables import few, text_table
from .plan import SamplingPlan
from .plan_rows import Array, Integers

__all__ = ["FrameRows", "checked_frame_fields", "frame_content_hash", "frame_plan_table", "refuse_other_rows"]

_INTEGER = ("plan_of", "row_of", "step")
_COLUMNS = (*_INTEGER, "time", "alpha", "sigma")


class FrameRows(Protocol):
    """A ``FramePlan``, whose module imports this one; the class describes each field."""

    @property
    def plans(self) -> tuple[SamplingPlan, ...]: ...
    @property
    def plan_of(self) -> Integers: ...
    @property
    def row_of(self) -> Integers: ...
    @property
    def step(self) -> Integers: ...
    @property
    def time(self) -> Array: ...
    @property
    def alpha(self) -> Array: ...
    @property
    def sigma(self) -> Array: ...


def checked_frame_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a frame plan in their types, immutable.

    Raises:
        NumericsError: a field is of another type, shape or range.
    """
    plans, frame_dim = values["plans"], values["frame_dim"]
    if not isinstance(plans, Sequence) or not plans or not all(isinstance(plan, SamplingPlan) for plan in plans):
        raise NumericsError(f"got {shown(plans)}", where="frame plan field 'plans'", suggestion="give SamplingPlans")
    if any(plan.input_scale is not None for plan in plans):
        raise NumericsError(
            "has an input_scale, which is one number for a whole sample",
            where="frame plan field 'plans'",
            suggestion="give plans of this library's samplers",
        )
    if any(plan.delta is not None or plan.both is not None for plan in plans):
        raise NumericsError(
            "holds its guidance, which acts on a whole sample",
            where="frame plan field 'plans'",
            suggestion="give plans without it, and the guidance as an argument of sample",
        )
    if isinstance(frame_dim, bool) or not isinstance(frame_dim, int | np.integer) or not 1 <= frame_dim <= 64:
        raise NumericsError(
            f"got {shown(frame_dim)}", where="frame plan field 'frame_dim'", suggestion="give the dimension of frames"
        )
    columns = {name: _column(name, values[name]) for name in _COLUMNS}
    frames, rows = len(columns["plan_of"]), len(columns["step"])
    shapes = {
        "plan_of": (frames,), "step": (rows,), "row_of": (rows, frames), "time": (rows, frames),
        "alpha": (rows + 1, frames), "sigma": (rows + 1, frames),
    }  # fmt: skip
    for name, shape in shapes.items():
        if columns[name].shape != shape or not frames or not rows:
            raise NumericsError(
                f"has shape {columns[name].shape}, expected {shape}",
                where=f"frame plan field {name!r}",
                suggestion="let plan_frames() make the table",
            )
    return {**columns, "plans": tuple(plans), "frame_dim": int(frame_dim)}


def _column(name: str, value: Any) -> Any:
    """A read-only array of finite numbers."""
    try:
        given = np.asarray(value)
        with np.errstate(invalid="ignore"):  # NaN has no whole number
            array = np.array(given, dtype=np.int64 if name in _INTEGER else np.float64)
        valid = given.dtype.kind in "iuf" and array.ndim >= 1 and bool((array == given).all())  # NaN fails, too
        valid = valid and bool(np.isfinite(array).all())
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        kind = "whole numbers" if name in _INTEGER else "finite numbers"
        raise NumericsError(
            f"got {shown(value)}", where=f"frame plan field {name!r}", suggestion=f"give an array of {kind}"
        )
    array.flags.writeable = False
    return array


def refuse_other_rows(plan: FrameRows) -> None:
    """Raise unless the frames execute their plans, row after row, at the levels of these.

    Raises:
        NumericsError: see :class:`FramePlan`.
    """
    for name, what, allowed in _faults(plan):
        raise NumericsError(what, where=f"frame plan field {name!r}", suggestion=allowed)


def _faults(plan: FrameRows) -> Iterator[tuple[str, str, str]]:
    """The faults of a frame plan: for each the field, the error, and what is allowed."""
    if plan.plan_of.min() < -1 or plan.plan_of.max() >= len(plan.plans) or plan.plan_of.max() < 0:
        yield "plan_of", f"runs from {plan.plan_of.min()} to {plan.plan_of.max()}", "give indices of plans, or −1"
        return
    steps = np.diff(plan.step)
    if plan.step[0] != 0 or (steps < 0).any() or plan.step[-1] >= 2**31:
        yield "step", "does not rise from 0", "steps rise from row to row"
    if not (plan.row_of >= 0).any(axis=1).all():
        yield "row_of", f"no frame moves in row {int(np.argmin((plan.row_of >= 0).any(axis=1)))}", "leave the row out"
    for frame, index in enumerate(plan.plan_of.tolist()):
        own = plan.row_of[:, frame]
        executed = own[own >= 0]
        expected = np.arange(0 if index < 0 else len(plan.plans[index]))
        if not np.array_equal(executed, expected) or own.min() < -1:
            yield (
                "row_of", f"frame {frame} executes rows {shown(executed.tolist())} of its plan",
                f"a frame executes its {len(expected)} rows in order, each once",
            )  # fmt: skip
            return
        done = np.concatenate([[0], np.cumsum(own >= 0)])
        for name in ("alpha", "sigma"):
            column = getattr(plan, name)[:, frame]
            levels = column[:1].repeat(len(done)) if index < 0 else getattr(plan.plans[index], name)[done]
            if not np.array_equal(column, levels):
                row = int(np.argmax(column != levels))
                yield name, f"frame {frame} has {column[row]:g} in row {row}, its plan {levels[row]:g}", "give the same"
    size = np.hypot(plan.alpha, plan.sigma)
    if (plan.alpha < 0.0).any() or (plan.sigma < 0.0).any() or (size == 0.0).any():
        yield "alpha", "a level has neither signal nor noise, or a negative factor", "α and σ are factors ≥ 0"
    for row, own in enumerate(plan.row_of.tolist()):
        told = [
            (frame, plan.plans[p].time[r])
            for frame, (p, r) in enumerate(zip(plan.plan_of.tolist(), own, strict=True))
            if r >= 0 and plan.plans[p].asked[r]
        ]
        for frame, time in told:
            if plan.time[row, frame] != time:
                yield "time", f"frame {frame} has {plan.time[row, frame]:g} in row {row}, its plan {time:g}", "give it"
        asks = {plan.plans[p].asked[r] for p, r in zip(plan.plan_of.tolist(), own, strict=True) if r >= 0}
        if len(asks) == 2:
            yield "row_of", f"some frames of row {row} need a model call, and others do not", "give them rows apart"


def frame_content_hash(fields: Mapping[str, Any]) -> str:
    """SHA-256 of a frame plan: the hashes of its plans and its dimension as JSON, then each column."""
    head = [[plan.content_hash for plan in fields["plans"]], fields["frame_dim"]]
    digest = hashlib.sha256(json.dumps(head).encode())
    for name in _COLUMNS:
        array = np.ascontiguousarray(fields[name], dtype="<i8" if name in _INTEGER else "<f8")
        digest.update(json.dumps([name, list(array.shape)]).encode())
        digest.update((array + np.array(0, dtype=array.dtype)).tobytes())
    return digest.hexdigest()


def frame_plan_table(plan: FrameRows, max_rows: int) -> str:
    """The time of every frame, one line a row, in brackets for frames that do not move."""
    count, keep = len(plan.step), max_rows // 2
    frames = few(len(plan.plan_of))
    lines = [["row", "step", *("..." if frame is None else f"f{frame}" for frame in frames)]]
    for i in range(count):
        if count > max_rows and keep <= i < count - keep:
            if i == keep:
                lines.append(["...", *[""] * (len(frames) + 1)])
            continue
        times, own = np.round(plan.time[i], 3).tolist(), plan.row_of[i].tolist()
        cells = ["" if f is None else f"{times[f]:g}" if own[f] >= 0 else f"({times[f]:g})" for f in frames]
        lines.append([str(i), str(plan.step[i]), *cells])
    return text_table(lines)
