"""The state of a calibration in a file, so that an interrupted one goes on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor

from ..errors import FileError, NoiseSamplingError
from ..files import read_bytes, refuse_missing_folder, write_atomic
from ..plan import SamplingPlan
from ..schedules.path import Level
from .fit import Fit
from .measure import Errors
from .robust import Robust
from .table import Table

__all__ = ["Checkpoint"]

_FORMAT = "calibration 3"


@final
@dataclass
class Checkpoint:
    """What a calibration has come to, in memory and, where a file is named, there.

    Attributes:
        path: the file, or None.
        about: what was asked for; a file of something else is refused.
        solution, teacher_error: what the teacher found.
        plans: those that are done.
        tables: theirs, where they are no built-in sampler's.
        seconds: the budgets of those plans that were made within one: more may make them better.
        fits: where these and the others stand.
    """

    path: Path | None
    about: Mapping[str, Any]
    solution: Tensor | None = None
    teacher_error: float = math.nan
    plans: dict[int, SamplingPlan] = field(default_factory=dict)
    tables: dict[int, Table] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    fits: dict[int, Fit] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None, about: Mapping[str, Any]) -> Checkpoint:
        """The state in a file, or a new one.

        Raises:
            FileError: another ending, or the file of another calibration.
        """
        if path is None:
            return cls(None, about)
        target = Path(path)
        if target.suffix != ".safetensors":
            raise FileError("is no name for a checkpoint", where=str(path), suggestion="use .safetensors")
        if not target.exists():
            refuse_missing_folder(target)
            return cls(target, about)
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            data = read_bytes(target)
            size = int.from_bytes(data[:8], "little")
            stored = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["calibration"])
            if stored["format"] != _FORMAT:
                raise ValueError("of another format")
            plans = {int(nfe): SamplingPlan.from_dict(plan) for nfe, plan in stored["plans"].items()}
            tables = {int(nfe): _table_from(table) for nfe, table in stored["tables"].items()}
            fits = {int(nfe): _fit_from(fit) for nfe, fit in stored["fits"].items()}
            seconds = {int(nfe): float(budget) for nfe, budget in stored["seconds"].items()}
            solution, error = load(data)["solution"], float(stored["teacher_error"])
            made = cls(target, about, solution, error, plans, tables, seconds, fits)
        except (ValueError, KeyError, TypeError, NoiseSamplingError, SafetensorError) as error:
            raise FileError(
                "is no checkpoint of a calibration", where=str(path), why=str(error), suggestion="give another name"
            ) from error
        wanted = json.loads(json.dumps(about))
        other = sorted(key for key in wanted if stored["about"].get(key) != wanted[key])
        if other:
            raise FileError(
                f"is of a calibration with other settings ({', '.join(other)})",
                where=str(path),
                suggestion="give another name for this one, or call it as the file's was",
            )
        return made

    def teach(self, solution: Tensor, error: float) -> None:
        """Keep what the teacher found."""
        self.solution, self.teacher_error = solution.cpu(), error
        self._write()

    def keep(self, nfe: int, fit: Fit) -> None:
        """Keep where the best fit stands; one to all trajectories rather than one to a few."""
        kept = self.fits.get(nfe)
        if kept is None or (-fit.count, fit.score) <= (-kept.count, kept.score):
            self.fits[nfe] = fit
            self._write()

    def done(self, nfe: int, seconds: float | None) -> bool:
        """Whether there is a plan, and not a larger budget for it."""
        before = self.seconds.get(nfe, math.inf)
        return nfe in self.plans and before >= (math.inf if seconds is None else seconds)

    def before(self, nfe: int) -> tuple[str, Table] | None:
        """What a plan came of, and its table; None if there is none, or it is a built-in sampler's."""
        table = self.tables.get(nfe)
        return None if table is None else (str(self.plans[nfe].provenance["kind"]), table)

    def finish(self, nfe: int, plan: SamplingPlan, table: Table | None, seconds: float | None) -> None:
        """Keep a plan that is done, within a budget or without one."""
        self.plans[nfe] = plan
        self.tables.pop(nfe, None)
        if table is not None:
            self.tables[nfe] = table
        if seconds is None:
            self.fits.pop(nfe, None)
            self.seconds.pop(nfe, None)
        else:
            self.seconds[nfe] = seconds
        self._write()

    def _write(self) -> None:
        if self.path is None or self.solution is None:
            return
        from safetensors.torch import save

        stored = {
            "format": _FORMAT,
            "about": dict(self.about),
            "teacher_error": self.teacher_error,
            "plans": {str(nfe): plan.to_dict() for nfe, plan in self.plans.items()},
            "tables": {str(nfe): _table_to(table) for nfe, table in self.tables.items()},
            "seconds": {str(nfe): budget for nfe, budget in self.seconds.items()},
            "fits": {str(nfe): _fit_to(fit) for nfe, fit in self.fits.items()},
        }
        tensors = {"solution": self.solution.contiguous()}
        write_atomic(self.path, save(tensors, metadata={"calibration": json.dumps(stored)}))


def _table_to(table: Table) -> dict[str, Any]:
    return {
        "levels": [list(level) for level in table.levels],
        "start": list(table.start),
        "end": list(table.end),
        "rows": table.rows.tolist(),
        "history": table.history,
    }


def _table_from(kept: Mapping[str, Any]) -> Table:
    levels = tuple(Level(*level) for level in kept["levels"])
    start, end = Level(*kept["start"]), Level(*kept["end"])
    return Table(start, levels, np.array(kept["rows"]), end, kept["history"])


def _fit_to(fit: Fit) -> dict[str, Any]:
    numbers = {f.name: getattr(fit, f.name) for f in fields(fit) if f.name not in ("table", "errors", "robust")}
    scale = fit.robust.scale
    return {
        **numbers,
        "table": _table_to(fit.table),
        "errors": list(fit.errors),
        "scale": scale if math.isfinite(scale) else None,
    }


def _fit_from(kept: Mapping[str, Any]) -> Fit:
    rest = {name: value for name, value in kept.items() if name not in ("table", "errors", "scale")}
    robust = Robust() if kept["scale"] is None else Robust(kept["scale"])
    return Fit(table=_table_from(kept["table"]), errors=Errors(*kept["errors"]), robust=robust, **rest)
