"""A plan whose rows have one noise level for each frame of a sample."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, final

import numpy as np

from ..schedules.level import Level
from ..support.data_files import read_json, write_json
from ..support.drawn import Drawn
from ..support.errors import FileError, NumericsError, shown
from ..support.files import checked_path, of_file
from .base import Plan
from .frame_plan_content import checked_frame_fields, frame_content_hash, frame_plan_table, refuse_other_rows
from .plan import SamplingPlan
from .plan_content import json_data
from .plan_rows import Array, Integers

__all__ = ["FramePlan"]

_FORMAT = "frame plan 1"


@final
@dataclass(frozen=True, eq=False)
class FramePlan(Plan, Drawn):
    """Ordinary plans, one for each frame (or token), on one clock. Immutable.

    In row i each frame executes the row ``row_of[i]`` of its own plan, or is left untouched (−1). The model is called
    with all T frames, and is told the time of each, shape (B, T). A multistep history is that of the frame: its lag
    counts the rows that the frame executed. :func:`~..samplers.frame_plans.plan_frames` makes it on a ``FrameGrid``.

    Attributes:
        plans: the different plans of frames.
        plan_of: the index of each frame's plan; −1 for a frame that never moves, as context. Shape (T,).
        row_of: the row of each frame's own plan; −1 where it is left untouched. Shape (M, T).
        step: the step of each row, shape (M,).
        time: the time that the model is told for each frame, shape (M, T).
        alpha, sigma: the level of each frame before the M rows, and after the last. Shape (M + 1, T).
        frame_dim: the dimension of a batch of samples that counts frames.

    Raises:
        NumericsError: a field is of another type, shape or range; a frame does not execute the rows of its plan in
            order, each once; a level is not that of the frame's plan; or frames that need a model call and frames that
            do not move in one row.
    """

    plans: tuple[SamplingPlan, ...]
    plan_of: Integers
    row_of: Integers
    step: Integers
    time: Array
    alpha: Array
    sigma: Array
    frame_dim: int = 1

    def __post_init__(self) -> None:
        for name, value in checked_frame_fields(self._fields()).items():
            object.__setattr__(self, name, value)
        refuse_other_rows(self)
        if any(plan.scale is not None for plan in self.plans):
            raise NumericsError(
                "the plan of a frame holds its guidance",
                where="plans",
                suggestion="guide the run of all frames, e.g. by ClassifierFree(scale)",
            )

    @property
    def frames(self) -> int:
        """T, the number of frames."""
        return len(self.plan_of)

    @property
    def context(self) -> tuple[int, ...]:
        """The frames that never move and hold more signal than noise; their content is given."""
        return tuple(np.flatnonzero((self.plan_of < 0) & (self.alpha[0] > self.sigma[0])).tolist())

    def plan_of_frame(self, frame: int) -> SamplingPlan | None:
        """The plan that one frame follows; None for a frame that never moves."""
        index = int(self.plan_of[frame])
        return None if index < 0 else self.plans[index]

    def finished(self, row: int) -> tuple[int, ...]:
        """The frames that have executed their last row before this row; those that never move are not among them.

        Args:
            row: from 0 to M; ``state.state.row`` of a :class:`SamplingStep`.
        """
        last = np.where(self.row_of >= 0, np.arange(len(self))[:, None], -1).max(axis=0)
        return tuple(np.flatnonzero((self.plan_of >= 0) & (last < row)).tolist())

    @functools.cached_property
    def lockstep(self) -> bool:
        """Whether all frames execute the rows of one plan together, as in an ordinary run."""
        return len(self.plans) == 1 and bool((self.row_of == np.arange(len(self))[:, None]).all())

    @property
    def sampler(self) -> str:  # type: ignore[override]
        return self.plans[0].sampler

    @property
    def provenance(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {}

    @property
    def scale(self) -> None:  # type: ignore[override]
        return None

    @property
    def stochastic(self) -> bool:
        """Whether any row adds noise."""
        return any(plan.stochastic for plan in self.plans)

    @property
    def prior_scale(self) -> Array:
        """The factor that turns unit noise into the first state of each frame, shape (T,)."""
        still = np.hypot(self.alpha[0], self.sigma[0]).tolist()
        plans = zip(self.plan_of.tolist(), still, strict=True)
        return np.array([scale if i < 0 else self.plans[i].prior_scale for i, scale in plans])

    @functools.cached_property
    def asked(self) -> tuple[bool, ...]:
        return tuple(
            any(self.plans[p].asked[r] for p, r in zip(self.plan_of.tolist(), row, strict=True) if r >= 0)
            for row in self.row_of.tolist()
        )

    @functools.cached_property
    def reads_null(self) -> tuple[bool, ...]:
        return tuple(
            any(self.plans[p].reads_null[r] for p, r in zip(self.plan_of.tolist(), row, strict=True) if r >= 0)
            for row in self.row_of.tolist()
        )

    @functools.cached_property
    def rows_of_frames(self) -> tuple[tuple[int, ...], ...]:
        """For each frame, the rows of this plan in which it moves, in order; own row k is executed in the k-th."""
        return tuple(tuple(np.flatnonzero(column >= 0).tolist()) for column in self.row_of.T)

    @functools.cached_property
    def last_use(self) -> tuple[int, ...]:
        last = list(range(len(self)))
        for p, rows in zip(self.plan_of.tolist(), self.rows_of_frames, strict=True):
            for own, row in enumerate(rows):
                last[row] = max(last[row], rows[self.plans[p].last_use[own]])
        return tuple(last)

    def level(self, row: int) -> Level:
        moves = np.flatnonzero(self.row_of[row] >= 0)
        with np.errstate(divide="ignore"):
            noisiest = int(moves[np.argmax(np.log(self.sigma[row, moves]) - np.log(self.alpha[row, moves]))])
        return Level(*(float(column[row, noisiest]) for column in (self.time, self.alpha, self.sigma)))

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, with the hash of its content."""
        content = {name: json_data(value) for name, value in self._fields().items() if name != "plans"}
        plans = [plan.to_dict() for plan in self.plans]
        return {"format": _FORMAT, "plans": plans, **content, "content_hash": self.content_hash}

    @staticmethod
    def is_data(data: Any) -> bool:
        """Whether data are those of a frame plan, and not of a :class:`SamplingPlan`."""
        return isinstance(data, Mapping) and str(data.get("format", "")).startswith("frame plan")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FramePlan:
        """Make a plan from the data of :meth:`to_dict`.

        Raises:
            FileError: a field is missing or unknown, this version does not know the format, or the content was
                changed.
            NumericsError: the fields are not those of a usable plan.
        """
        if not isinstance(data, Mapping) or data.get("format") != _FORMAT:
            raise FileError("is not a frame plan of this format", where="plan", suggestion="save it again")
        rest = {name: value for name, value in data.items() if name not in ("format", "content_hash")}
        if set(rest) != {each.name for each in fields(cls)} or not isinstance(rest["plans"], Sequence):
            raise FileError("missing or unknown fields", where="plan", suggestion="save it again")
        plan = cls(**{**rest, "plans": tuple(SamplingPlan.from_dict(each) for each in rest["plans"])})
        if data.get("content_hash") not in (None, plan.content_hash):
            raise FileError(
                "its content was changed after it was saved",
                where="plan",
                why=f"it says content_hash {shown(data['content_hash'])}, and what it holds has '{plan.content_hash}'",
                suggestion="restore the file",
            )
        return plan

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as ``.json``, whole or not at all.

        Raises:
            FileError: the name has another ending, or the file cannot be written.
        """
        if checked_path(path).suffix != ".json":
            raise FileError("is not a name for a frame plan", where=str(path), suggestion="use .json")
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FramePlan:
        """Read a plan that :meth:`save` wrote.

        Raises:
            FileError: the file is missing, malformed, was changed since it was saved, or has another format.
        """
        data = read_json(path)
        with of_file(path, "is not a frame plan", "give a file of FramePlan.save"):
            return cls.from_dict(data)

    @functools.cached_property
    def content_hash(self) -> str:
        return frame_content_hash(self._fields())

    def _fields(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._fields(),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FramePlan) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def table(self, max_rows: int = 24) -> str:
        """The time of every frame, one line a row; those of frames that do not move are in brackets."""
        return frame_plan_table(self, max_rows)

    def __str__(self) -> str:
        kind = "stochastic" if self.stochastic else "deterministic"
        context = f", context: {', '.join(map(str, self.context))}" if self.context else ""
        head = f"{self.sampler}: {self.frames} frames in dimension {self.frame_dim}{context}"
        return f"{head}; {self.steps} steps, {self.nfe} model calls, {kind}\n{self.table()}"

    def __repr__(self) -> str:
        return (
            f"FramePlan({self.sampler!r}, frames={self.frames}, steps={self.steps}, nfe={self.nfe}, "
            f"fingerprint={self.fingerprint!r})"
        )


def _restored(values: Mapping[str, Any]) -> FramePlan:
    return FramePlan(**values)
