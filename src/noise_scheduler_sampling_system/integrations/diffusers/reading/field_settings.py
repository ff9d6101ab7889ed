"""Fields that many scheduler classes share, as fields of :class:`NoiseSchedulerConfig`: path, model, spacing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ....support.errors import ConfigurationError
from ....support.registry import did_you_mean
from .scheduler_reading import Fields

__all__ = ["SIGMA_FLAGS", "beta_path", "flow_path", "has_sigma_flag", "model_settings", "spacing_settings"]

_BETAS: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear"},
    "squaredcos_cap_v2": {"beta_schedule": "cosine"},
    "sigmoid": {"beta_schedule": "sigmoid"},
    "exp": {"beta_schedule": "exp"},
    "laplace": {"beta_schedule": "laplace", "schedule_options": {"variant": "diffusers"}},
}

#: Flags that space the levels by σ → (spacing, options).
SIGMA_FLAGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "use_karras_sigmas": ("karras", {}),
    "use_exponential_sigmas": ("exponential", {}),
    "use_beta_sigmas": ("beta", {"of": "sigma"}),
    "use_lu_lambdas": ("log_snr", {}),
}


def has_sigma_flag(f: Fields) -> bool:
    """Whether any of :data:`SIGMA_FLAGS` is on."""
    return any(f.get(flag) for flag in SIGMA_FLAGS)


def beta_path(f: Fields) -> dict[str, Any]:
    """The path of a class with betas.

    Raises:
        ConfigurationError: an unknown ``beta_schedule``.
    """
    path: dict[str, Any] = {"num_train_timesteps": f["num_train_timesteps"]}
    if f.get("trained_betas") is not None:
        betas = f["trained_betas"]
        path |= {"beta_schedule": "custom", "trained_betas": betas, "num_train_timesteps": len(betas)}
    else:
        name = f["beta_schedule"]
        if name not in _BETAS:
            raise ConfigurationError(
                f"got {name!r}", where="scheduler.beta_schedule", suggestion=did_you_mean(name, _BETAS)
            )
        path |= _BETAS[name]
        if name in ("linear", "scaled_linear", "sigmoid"):
            path |= {"beta_start": f["beta_start"], "beta_end": f["beta_end"]}
    if f.get("rescale_betas_zero_snr"):
        path["rescale_betas_zero_snr"] = True
    if f.get("snr_shift_scale", 1.0) != 1.0:
        path["schedule_options"] = {**path.get("schedule_options", {}), "snr_shift": math.sqrt(f["snr_shift_scale"])}
    return path


def flow_path(f: Fields, shift: float, mu: float | None, *, shifts_twice: bool) -> tuple[dict[str, Any], bool]:
    """The straight path, and whether its shift depends on a ``mu`` that was not given.

    Args:
        f: the fields.
        shift: the shift where it does not depend on the image's size.
        mu: of the shift by resolution.
        shifts_twice: whether the class shifts its smallest σ, and then every σ again.
    """
    dynamic = bool(f.get("use_dynamic_shifting"))
    if dynamic and mu is not None:
        shift = math.exp(mu) if f.get("time_shift_type", "exponential") == "exponential" else mu
    elif dynamic:
        shift = 1.0
    total = f["num_train_timesteps"]
    lowest = 1.0 / total if total > 1 else 1e-3  # ACE-Step counts time as σ
    for _ in range(2 if shifts_twice and not dynamic else 1):
        lowest = shift * lowest / (1.0 + (shift - 1.0) * lowest)
    options = {"shift": float(shift), "sigma_min": lowest, "time_scale": float(total)}
    path = {"beta_schedule": "flow", "schedule_options": options, "prediction_type": "flow_prediction"}
    return path, dynamic and mu is None


def model_settings(f: Fields, clips: bool = True) -> dict[str, Any]:
    """What the network returns, and how the predicted clean sample is clipped.

    Args:
        f: the fields.
        clips: whether the class clips at all.
    """
    model: dict[str, Any] = {}
    kind = f.get("prediction_type", "epsilon")
    model["prediction_type"] = {"original_sample": "sample"}.get(kind, kind)
    if f.get("thresholding") and clips:
        model |= {
            "thresholding": True,
            "dynamic_thresholding_ratio": f["dynamic_thresholding_ratio"],
            "sample_max_value": f["sample_max_value"],
            # theirs is clamp(s, 1, sample_max_value), which returns sample_max_value where that is below 1
            **({"sample_padding_norm": f["sample_max_value"]} if 0.0 < f["sample_max_value"] < 1.0 else {}),
        }
    elif f.get("clip_sample") and clips:
        model |= {"clip_sample": True, "clip_sample_range": f.get("clip_sample_range", 1.0)}
    if f.get("variance_type"):
        model["variance_type"] = f["variance_type"]
    return model


def spacing_settings(f: Fields, *, dpm: bool, ends_lowest: bool) -> tuple[dict[str, Any], list[str]]:
    """The spacing, and notes on where it differs from that of the class.

    Args:
        f: the fields.
        dpm: whether the class is of the DPM-Solver family, whose names of spacings mean other timesteps.
        ends_lowest: whether the run ends at the path's lowest level, not at the clean sample.
    """
    notes = []
    options: dict[str, Any] = {}
    name = f.get("timestep_spacing", "linspace" if dpm else "leading")
    chosen = next((flag for flag in SIGMA_FLAGS if f.get(flag)), None)
    if chosen is not None:
        if not dpm and name != "trailing":
            notes.append(
                f"{chosen} of this class begins and ends where the {name!r} timesteps do; here, where the schedule does"
            )
        name, options = SIGMA_FLAGS[chosen][0], dict(SIGMA_FLAGS[chosen][1])
    elif dpm:
        name = {"leading": "leading_dpm", "linspace": "sgm_uniform"}.get(name, name)
    if f.get("lambda_min_clipped", -math.inf) > -math.inf:
        notes.append("lambda_min_clipped, which leaves out the noisiest levels, is not part of the spacing")
    for key in ("sigma_min", "sigma_max"):
        if f.get(key) is not None and name in ("karras", "exponential"):
            options[key] = f[key]
    if ends_lowest:
        options["end"] = "lowest"
    spacing: dict[str, Any] = {"timestep_spacing": name}
    if options:
        spacing["spacing_options"] = options
    if f.get("steps_offset") and name in ("leading", "leading_dpm"):
        spacing["steps_offset"] = f["steps_offset"]
    return spacing, notes
