"""The warning that a calibrated plan runs at another guidance scale than its own."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Final

from ..plans.base import Plan

__all__ = ["warn_of_other_scale"]

logger = logging.getLogger(__name__)

#: An error that grows by more than this factor is worth a warning inside the measured range, too.
_GROWTH: Final = 1.5


def warn_of_other_scale(plan: Plan, scale: float) -> None:
    """Warn where a plan is used at a guidance scale at which it was not measured, or where its error is much larger.

    The provenance of a calibrated plan holds its own scale and what was measured at others (docs/calibration.md).
    """
    tuned = plan.provenance.get("guidance_scale")
    if isinstance(tuned, bool) or not isinstance(tuned, int | float) or math.isclose(tuned, scale):
        return
    errors = _measured(plan.provenance)
    if tuned not in errors or len(errors) < 2:
        logger.warning(
            "the plan was calibrated at guidance_scale=%g, this run has %g: its errors are larger, and some samples "
            "may diverge; give guidance_scale=%g, or calibrate at %g",
            tuned, scale, tuned, scale,
        )  # fmt: skip
    elif not min(errors) <= scale <= max(errors):
        logger.warning(
            "the plan was calibrated at guidance_scale=%g and measured from %g to %g, this run has %g: its errors are "
            "not known there, and some samples may diverge; give a scale of this range, or calibrate at %g",
            tuned, min(errors), max(errors), scale, scale,
        )  # fmt: skip
    elif (growth := _between(errors, scale) / errors[tuned]) > _GROWTH:
        logger.warning(
            "the plan was calibrated at guidance_scale=%g, this run has %g, where its error is about %.1f times as "
            "large; give guidance_scale=%g, or calibrate at %g",
            tuned, scale, growth, tuned, scale,
        )  # fmt: skip


def _measured(provenance: Mapping[str, Any]) -> dict[float, float]:
    """The root mean square errors of a plan by guidance scale; empty where the provenance holds none."""
    measured = provenance.get("measured")
    entries = measured.get("guidance") if isinstance(measured, Mapping) else None
    found: dict[float, float] = {}
    for entry in entries if isinstance(entries, list | tuple) else ():
        if isinstance(entry, Mapping) and _positive(entry.get("rms")) and _positive(entry.get("guidance_scale")):
            found[float(entry["guidance_scale"])] = float(entry["rms"])
    return found


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 < value < math.inf


def _between(errors: Mapping[float, float], scale: float) -> float:
    """The error at a scale between two measured ones, on a logarithmic axis."""
    below, above = max(s for s in errors if s <= scale), min(s for s in errors if s >= scale)
    share = 0.0 if above == below else (scale - below) / (above - below)
    return math.exp((1.0 - share) * math.log(errors[below]) + share * math.log(errors[above]))
