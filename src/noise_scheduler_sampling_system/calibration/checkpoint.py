"""The state of a calibration in a file, so that the same call can continue after an interrupt."""

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

from ..plans.plan import SamplingPlan
from ..schedules.path import Level
from ..support.errors import FileError, shown
from ..support.files import checked_path, of_file, refuse_missing_folder
from ..support.tensor_files import read_tensors, write_tensors
from .fit.fit import Fit
from .fit.robust_loss import CauchyLoss
from .table import Table
from .trajectories import Errors

__all__ = ["Checkpoint"]

_FORMAT = "calibration 3"


@final
@dataclass
class Checkpoint:
    """The results of a calibration so far, in memory and in a file if one is named.

    Attributes:
        path: the file, or None.
        about: the settings of the calibration. The file of another calibration is refused.
        solution: the samples of the teacher, shape (n, ...), or None.
        teacher_error: the estimated error of these samples.
        plans: the finished plans, by the number of calls.
        tables: the tables of the plans that are not built-in samplers'.
        seconds: the time budget of each plan that was made within one. A larger budget may improve such a plan.
        fits: the best fit for each number of calls.
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
        """Read the state from a file, or return a new one if there is no file.

        Raises:
            FileError: the name does not end in .safetensors, the file is invalid or of an unknown format, or it belongs
                to another calibration.
        """
        if path is None:
            return cls(None, about)
        target = checked_path(path)
        if target.suffix != ".safetensors":
            raise FileError("is not a name for a checkpoint", where=str(path), suggestion="use .safetensors")
        if not target.exists():
            refuse_missing_folder(target)
            return cls(target, about)
        from safetensors.torch import load

        with of_file(target, "is not a checkpoint of a calibration", "give another name"):
            tensors, stored = read_tensors(target, "calibration", load)
            made = cls(target, about, **_parts(stored, tensors))
        wanted = json.loads(json.dumps(about))
        theirs = stored["about"]
        other = sorted(key for key in {*wanted, *theirs} if theirs.get(key) != wanted.get(key))
        if other:
            raise FileError(
                f"is of a calibration with other settings ({', '.join(other)})",
                where=str(path),
                suggestion="give another name for this one, or call it as the file's was",
            )
        return made

    def teach(self, solution: Tensor, error: float) -> None:
        """Keep the samples of the teacher and their estimated error."""
        self.solution, self.teacher_error = solution.cpu(), error
        self._write()

    def keep(self, nfe: int, fit: Fit) -> None:
        """Keep a fit if it is better than the one that is kept. A fit to more trajectories is better."""
        kept = self.fits.get(nfe)
        if kept is None or (-fit.count, fit.score) <= (-kept.count, kept.score):
            self.fits[nfe] = fit
            self._write()

    def done(self, nfe: int, seconds: float | None) -> bool:
        """Return whether there is a plan, and the time budget is not larger than the one it was made within."""
        before = self.seconds.get(nfe, math.inf)
        return nfe in self.plans and before >= (math.inf if seconds is None else seconds)

    def before(self, nfe: int) -> tuple[str, Table] | None:
        """Return the kind and the table of the plan; None if there is no plan or it is a built-in sampler's."""
        table = self.tables.get(nfe)
        return None if table is None else (str(self.plans[nfe].provenance["kind"]), table)

    def finish(self, nfe: int, plan: SamplingPlan, table: Table | None, seconds: float | None) -> None:
        """Keep a finished plan, made within a time budget or without one."""
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
        write_tensors(self.path, "calibration", stored, save, {"solution": self.solution.contiguous()})


def _parts(stored: Any, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the content of a file as fields of a checkpoint.

    Raises:
        ValueError, NoiseSamplingError: the content is invalid.
    """
    if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
        raise ValueError("it is of another format")
    if not isinstance(stored.get("about"), dict) or not isinstance(tensors.get("solution"), Tensor):
        raise ValueError("it lacks the settings of its calibration, or the solution")
    _refuse_number(stored.get("teacher_error"), "teacher_error", may_be_nan=True)
    readers = {"plans": SamplingPlan.from_dict, "tables": _table_from, "fits": _fit_from, "seconds": _seconds_from}
    parts: dict[str, dict[int, Any]] = {}
    for name, read in readers.items():
        kept = stored.get(name)
        if not isinstance(kept, dict) or not all(key.isascii() and key.isdecimal() for key in kept):
            raise ValueError(f"{name!r} is not a mapping by number of calls")
        parts[name] = {int(nfe): read(value) for nfe, value in kept.items()}
    for name, of_calls in (("plans", parts["plans"]), ("tables", parts["tables"])):
        if any(nfe not in (each.nfe, each.evaluations, each.evaluations + 1) for nfe, each in of_calls.items()):
            raise ValueError(f"an entry of {name!r} has another number of calls than its key")
    if set(parts["tables"]) - set(parts["plans"]) or not all(
        isinstance(parts["plans"][nfe].provenance.get("kind"), str) for nfe in parts["tables"]
    ):
        raise ValueError("a table has no plan")
    return {**parts, "solution": tensors["solution"], "teacher_error": float(stored["teacher_error"])}


def _refuse_number(value: Any, name: str, *, may_be_nan: bool = False, whole: bool = False) -> None:
    fits = isinstance(value, int) or (isinstance(value, float) and not whole)
    if isinstance(value, bool) or not fits or not (may_be_nan or math.isfinite(value)):
        raise ValueError(f"{name!r} is {shown(value)}, not a {'whole ' if whole else ''}number")


def _seconds_from(value: Any) -> float:
    _refuse_number(value, "seconds")
    return float(value)


def _level_from(kept: Any) -> Level:
    if not isinstance(kept, list) or len(kept) != 3:
        raise ValueError(f"a level is {shown(kept)}, not three numbers")
    for value, may_be_nan in zip(kept, (True, False, False), strict=True):
        _refuse_number(value, "level", may_be_nan=may_be_nan)
    return Level.of(*map(float, kept))


def _table_to(table: Table) -> dict[str, Any]:
    return {
        "levels": [list(level) for level in table.levels],
        "start": list(table.start),
        "end": list(table.end),
        "rows": table.rows.tolist(),
        "history": table.history,
        **({} if table.scale is None else {"scale": table.scale, "both": list(table.both)}),
    }


def _table_from(kept: Any) -> Table:
    of_guidance = {"scale", "both"} & set(kept if isinstance(kept, dict) else ())
    if not isinstance(kept, dict) or set(kept) - of_guidance != {"levels", "start", "end", "rows", "history"}:
        raise ValueError(f"a table is {shown(kept)}")
    if not isinstance(kept["levels"], list) or not isinstance(kept["rows"], list):
        raise ValueError("a table lacks a list of levels or rows")
    levels = tuple(map(_level_from, kept["levels"]))
    try:
        rows = np.array(kept["rows"], dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("the rows of a table are not numbers") from None
    scale, both = kept.get("scale"), kept.get("both", [])
    if scale is not None:
        _refuse_number(scale, "scale")
    if not isinstance(both, list) or any(type(query) is not int for query in both):
        raise ValueError("'both' of a table is not a list of queries")
    return Table(
        _level_from(kept["start"]), levels, rows, _level_from(kept["end"]), kept["history"], scale, tuple(both)
    )


def _fit_to(fit: Fit) -> dict[str, Any]:
    numbers = {f.name: getattr(fit, f.name) for f in fields(fit) if f.name not in ("table", "errors", "robust")}
    scale = fit.robust.scale
    return {
        **numbers,
        "table": _table_to(fit.table),
        "errors": list(fit.errors),
        "scale": scale if math.isfinite(scale) else None,
    }


def _fit_from(kept: Any) -> Fit:
    names = {f.name: f for f in fields(Fit)}
    if not isinstance(kept, dict) or set(kept) != (set(names) - {"robust"}) | {"scale"}:
        raise ValueError(f"a fit is {shown(kept)}")
    if not isinstance(kept["errors"], list) or len(kept["errors"]) != 2:
        raise ValueError("the errors of a fit are not two numbers")
    for value in kept["errors"]:
        _refuse_number(value, "errors", may_be_nan=True)
    rest = {name: value for name, value in kept.items() if name not in ("table", "errors", "scale")}
    for name, value in rest.items():
        if name == "converged":
            if not isinstance(value, bool):
                raise ValueError(f"{name!r} is {shown(value)}, not true or false")
            continue
        _refuse_number(value, name, may_be_nan=name == "loss", whole=names[name].type == "int")
    if kept["scale"] is not None:
        _refuse_number(kept["scale"], "scale")
    robust = CauchyLoss() if kept["scale"] is None else CauchyLoss(kept["scale"])
    return Fit(table=_table_from(kept["table"]), errors=Errors(*kept["errors"]), robust=robust, **rest)
