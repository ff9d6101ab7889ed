"""The state of a calibration in a file, so that an interrupted one goes on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ..errors import FileError, NoiseSamplingError
from ..files import read_bytes, write_atomic
from ..plan import SamplingPlan
from ..schedules.path import Level
from .fit import Fit
from .measure import Errors
from .table import Table

__all__ = ["Checkpoint"]

_FORMAT = "calibration 1"


@final
@dataclass
class Checkpoint:
    """What a calibration has come to, in memory and, where a file is named, there.

    Attributes:
        path: the file, or None.
        about: what was asked for; a file of something else is refused.
        solution, teacher_error: what the teacher found.
        plans: those that are done.
        fits: where the others stand.
    """

    path: Path | None
    about: Mapping[str, Any]
    solution: Tensor | None = None
    teacher_error: float = math.nan
    plans: dict[int, SamplingPlan] = field(default_factory=dict)
    fits: dict[int, dict[str, Any]] = field(default_factory=dict)

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
            return cls(target, about)
        from safetensors.torch import load

        try:
            data = read_bytes(target)
            size = int.from_bytes(data[:8], "little")
            stored = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["calibration"])
            if stored["format"] != _FORMAT:
                raise ValueError("of another format")
            plans = {int(nfe): SamplingPlan.from_dict(plan) for nfe, plan in stored["plans"].items()}
            fits = {int(nfe): fit for nfe, fit in stored["fits"].items()}
            made = cls(target, about, load(data)["solution"], float(stored["teacher_error"]), plans, fits)
        except (ValueError, KeyError, TypeError, NoiseSamplingError) as error:
            raise FileError(
                "is no checkpoint of a calibration", where=str(path), why=str(error), suggestion="give another name"
            ) from error
        wanted = json.loads(json.dumps(about))
        other = sorted(key for key in wanted if stored["about"].get(key) != wanted[key])
        if other:
            raise FileError(
                f"is of a calibration with other settings ({', '.join(other)})",
                where=str(path),
                suggestion="give another name, or delete the file",
            )
        return made

    def teach(self, solution: Tensor, error: float) -> None:
        """Keep what the teacher found."""
        self.solution, self.teacher_error = solution.cpu(), error
        self._write()

    def keep(self, nfe: int, fit: Fit) -> None:
        """Keep where a fit stands."""
        self.fits[nfe] = {
            "levels": [list(level) for level in fit.table.levels],
            "start": list(fit.table.start),
            "rows": fit.table.rows.tolist(),
            "history": fit.table.history,
            "loss": fit.loss,
            "errors": list(fit.errors),
            "damping": fit.damping,
            "threshold": fit.threshold if math.isfinite(fit.threshold) else None,
            "iterations": fit.iterations,
        }
        self._write()

    def resume(self, nfe: int) -> Fit | None:
        """Where the fit of so many calls stood."""
        kept = self.fits.get(nfe)
        if kept is None:
            return None
        levels = tuple(Level(*level) for level in kept["levels"])
        table = Table(Level(*kept["start"]), levels, np.array(kept["rows"]), history=kept["history"])
        return Fit(
            table, kept["loss"], Errors(*kept["errors"]), kept["damping"],
            math.inf if kept["threshold"] is None else kept["threshold"], kept["iterations"],
        )  # fmt: skip

    def finish(self, nfe: int, plan: SamplingPlan) -> None:
        """Keep a plan that is done."""
        self.plans[nfe] = plan
        self.fits.pop(nfe, None)
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
            "fits": {str(nfe): fit for nfe, fit in self.fits.items()},
        }
        tensors = {"solution": self.solution.contiguous().to(torch.float32)}
        write_atomic(self.path, save(tensors, metadata={"calibration": json.dumps(stored)}))
