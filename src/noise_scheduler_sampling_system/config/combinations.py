"""Checks of settings that must fit together, for :class:`~.settings.NoiseSchedulerConfig`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..support.errors import ConfigurationError

__all__ = [
    "check_beta_range",
    "check_steps_offset",
    "check_threshold_range",
    "check_trained_betas",
    "evaluated_betas",
    "refuse_invalid_betas",
    "refuse_two_limits",
]


def check_beta_range(beta_start: float, beta_end: float) -> None:
    """Raise ConfigurationError where the betas would fall."""
    if beta_start > beta_end:
        raise ConfigurationError(
            f"beta_start ({beta_start}) is larger than beta_end ({beta_end})",
            where="beta_start",
            why="noise grows with the timestep",
            suggestion="swap the two",
        )


def check_trained_betas(betas: tuple[float, ...] | None, count: int, *, custom: bool) -> None:
    """Raise ConfigurationError unless there are ``count`` valid betas for a custom schedule, and none for another."""
    if custom != (betas is not None):
        raise ConfigurationError(
            "beta_schedule='custom' needs trained_betas"
            if custom
            else "trained_betas is given but beta_schedule is not 'custom'",
            where="trained_betas",
            why="the betas would be missing" if custom else "the betas would be ignored",
            suggestion="give both, or register a schedule class and use its name",
        )
    if betas is None:
        return
    if len(betas) != count:
        raise ConfigurationError(
            f"{len(betas)} betas for {count} training timesteps",
            where="trained_betas",
            suggestion=f"set num_train_timesteps={len(betas)} or give {count} betas",
        )
    refuse_invalid_betas(np.asarray(betas), "trained_betas", "check the function or the array")


def refuse_invalid_betas(betas: npt.NDArray[np.float64], where: str, suggestion: str) -> None:
    """Raise ConfigurationError unless all betas are in (0, 1), or 1 at the last index."""
    last_may_be_one = np.append(betas[:-1] < 1.0, betas[-1] <= 1.0)
    bad = np.flatnonzero(~((betas > 0.0) & last_may_be_one))  # NaN is bad, too
    if bad.size:
        raise ConfigurationError(
            f"beta {betas[bad[0]]} at index {bad[0]} is outside (0, 1)",
            where=where,
            why="each step must add some noise and keep some signal (1.0 is allowed at the last index only)",
            suggestion=suggestion,
        )


def evaluated_betas(function: Callable[[float], Any], count: int) -> list[float]:
    """β(u) at u = i/(T−1), i = 0 ... T−1, with T = ``count``.

    Raises:
        ConfigurationError: the function raises, or a β is not finite.
    """
    try:
        betas = [float(function(i / (count - 1))) for i in range(count)]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            "the beta function failed",
            where="trained_betas",
            why=str(error),
            suggestion="it is called with one number u = i/(T−1) at a time and must return one number β in (0, 1)",
        ) from None
    if not all(map(math.isfinite, betas)):
        raise ConfigurationError(
            "the beta function is not finite everywhere on [0, 1]",
            where="trained_betas",
            suggestion="it is called with u = i/(T−1) and must return β in (0, 1)",
        )
    return betas


def check_steps_offset(offset: int, spacing: str) -> None:
    """Raise ConfigurationError for an offset that the spacing ignores."""
    if offset and spacing not in ("auto", "leading", "leading_dpm"):
        raise ConfigurationError(
            f"steps_offset={offset} does nothing with timestep_spacing={spacing!r}",
            where="steps_offset",
            why="only the 'leading' spacings are shifted by it",
            suggestion="set steps_offset=0",
        )


def refuse_two_limits(clip_sample: bool, thresholding: bool) -> None:
    """Raise ConfigurationError where both would limit the predicted clean sample."""
    if clip_sample and thresholding:
        raise ConfigurationError(
            "clip_sample and thresholding are both on",
            where="thresholding",
            why="each limits the predicted clean sample in its own way, and only one can have the last word",
            suggestion="turn one off",
        )


def check_threshold_range(smallest: float, largest: float, *, thresholding: bool) -> None:
    """Raise ConfigurationError for an empty range of dynamic thresholds; warn of a range of one value."""
    if smallest > largest:
        raise ConfigurationError(
            f"sample_padding_norm ({smallest}) is above sample_max_value ({largest})",
            where="sample_padding_norm",
            why="they are the smallest and the largest dynamic threshold",
            suggestion="raise sample_max_value or lower sample_padding_norm",
        )
    if thresholding and smallest == largest:
        warnings.warn(
            f"dynamic thresholding is pinned to {largest}: sample_max_value and sample_padding_norm "
            "leave the quantile no room, so it is plain clipping; raise sample_max_value (Imagen has no limit)",
            stacklevel=5,  # where the config is made
        )
