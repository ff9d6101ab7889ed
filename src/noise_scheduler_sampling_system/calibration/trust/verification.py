"""What a second measurement of a plan found: figures beside the stated ones, and what was other than stated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, final

from ..trajectories import Errors
from .measurement import Measurement

__all__ = ["NAMES", "OtherSetting", "PlanVerification", "Rival", "StatedFigure", "with_error"]

#: A figure holds if it is within this many standard errors of the difference.
_WITHIN: Final = 3.0
_HOLD: Final = "the stated figures hold"
#: Rounding changes a figure by less than this share of it.
_ROUNDING: Final = 1e-3


@final
class OtherSetting(NamedTuple):
    """A setting that is another one than in the calibration.

    Attributes:
        name: of the setting.
        stated: in the provenance, as text.
        here: in this measurement, as text.
    """

    name: str
    stated: str
    here: str


@final
class StatedFigure(NamedTuple):
    """A stated figure and the measured one, each with its standard error (NaN where it is not known).

    Attributes:
        name: "rms", "median" or "basin_changes".
        stated, stated_error: from the provenance.
        measured, measured_error: from this measurement.
    """

    name: str
    stated: float
    stated_error: float
    measured: float
    measured_error: float

    @property
    def deviation(self) -> float:
        """The difference in standard errors of a difference; NaN where they are not known."""
        difference, spread = self.measured - self.stated, math.hypot(self.stated_error, self.measured_error)
        if spread == 0.0:
            return math.copysign(math.inf, difference) if difference else 0.0
        return difference / spread

    @property
    def holds(self) -> bool | None:
        """Whether both agree within three standard errors of the difference, or up to rounding.

        None: they differ, and their standard errors are not known, so that nothing follows.
        """
        near = abs(self.measured - self.stated) <= _ROUNDING * abs(self.stated)
        return near or (None if math.isnan(self.deviation) else abs(self.deviation) <= _WITHIN)


@final
class Rival(NamedTuple):
    """The best built-in sampler of the calibration, as stated and as measured here."""

    name: str
    stated: Errors
    measured: Errors


@final
@dataclass(frozen=True)
class PlanVerification:
    """The result of :func:`verify_plan` for one plan.

    Attributes:
        nfe: the number of model calls.
        plan: the plan's content hash.
        figures: root mean square, median, and the share of changed basins, where the provenance states it.
        changes: settings that are others than in the calibration.
        stated_for: the change for which the provenance states figures of its own, in words; "" for the calibration's
            own settings.
        rival: the best built-in sampler; None where it cannot be made again.
        measured: the figures of this measurement.
        teacher_error: the estimated error of the fine run.
        teacher_calls, seed: of the fine run and of the noise.
    """

    nfe: int
    plan: str
    figures: tuple[StatedFigure, ...]
    changes: tuple[OtherSetting, ...]
    stated_for: str
    rival: Rival | None
    measured: Measurement
    teacher_error: float
    teacher_calls: int
    seed: int

    @property
    def holds(self) -> bool:
        """Whether no stated figure is false. A figure that too few trajectories measured is not."""
        return all(figure.holds is not False for figure in self.figures)

    @property
    def verdict(self) -> str:
        """The result in one sentence, which begins with what is another than in the calibration."""
        off = [figure for figure in self.figures if figure.holds is False]
        unknown = [NAMES[figure.name] for figure in self.figures if figure.holds is None]
        said = [
            f"{NAMES[figure.name]} is {'larger' if figure.measured > figure.stated else 'smaller'} than stated, "
            f"by {abs(figure.deviation):.1f} standard errors"
            for figure in off
        ]
        if unknown:
            said.append(f"too few trajectories tell of {' and '.join(unknown)}")
        words = "; ".join(said) or _HOLD
        if self.stated_for:
            return f"{words} (stated for {self.stated_for})"
        if self.changes:
            others = " and another ".join(change.name for change in self.changes)
            return f"this is another {others} than in the calibration; {words}{' here, too' if words == _HOLD else ''}"
        return words

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        rival = None
        if self.rival is not None:
            rival = {
                "name": self.rival.name, "stated": self.rival.stated._asdict(),
                "measured": self.rival.measured._asdict(),
            }  # fmt: skip
        return {
            "nfe": self.nfe, "hash": self.plan, "holds": self.holds, "verdict": self.verdict,
            "figures": [
                {**figure._asdict(), "deviation": figure.deviation, "holds": figure.holds} for figure in self.figures
            ],
            "changes": [change._asdict() for change in self.changes], "stated_for": self.stated_for,
            "built_in": rival, "trajectories": self.measured.trajectories, "teacher_error": self.teacher_error,
            "teacher_calls": self.teacher_calls, "seed": self.seed,
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{self.nfe} calls: {self.verdict}"]
        lines += [
            f"  {NAMES[figure.name]}: stated {with_error(figure.stated, figure.stated_error)}, measured "
            f"{with_error(figure.measured, figure.measured_error)}{'' if figure.holds is not None else ': cannot tell'}"
            for figure in self.figures
        ]
        lines += [f"  another {each.name}: {each.stated} in the calibration, {each.here} here" for each in self.changes]
        return "\n".join(lines)


#: The figures in words.
NAMES: Final = {"rms": "the error", "median": "the median", "basin_changes": "the share of changed basins"}


def with_error(value: float, error: float) -> str:
    """A figure with its standard error, where that is known."""
    return f"{value:.3g}" if math.isnan(error) else f"{value:.3g} ± {error:.2g}"
