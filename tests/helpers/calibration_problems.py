"""Mixtures, noise and configs that plans are calibrated for in tests."""

from __future__ import annotations

import torch

from noise_scheduler_sampling_system import (
    NoiseSchedulerConfig,
    models,
)
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys

__all__ = ["CONFIGS", "SHAPE", "is_not_worse", "mixture", "noise_of"]

SHAPE = (4,)


def mixture(path, kind="epsilon", labels=None):
    means = torch.randn(6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return models.GaussianMixtureModel(path, means, 0.15, labels=labels, prediction_type=kind)


def noise_of(count, seed, shape=SHAPE):
    return NoiseSource(resolve_keys(seed, None, count), shape).initial().double()


CONFIGS = {
    "linear": NoiseSchedulerConfig(),
    "cosine v": NoiseSchedulerConfig(beta_schedule="cosine", prediction_type="v_prediction"),
    "edm": NoiseSchedulerConfig(beta_schedule="edm"),
    "flow": NoiseSchedulerConfig(beta_schedule="flow"),
    "zero snr v": NoiseSchedulerConfig(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
}


def is_not_worse(about):
    """Whether a plan's provenance says that it is not worse than the best built-in sampler."""
    pooled = about["all_trajectories"]
    if pooled is not None and about["calibrated"]:
        return pooled["rms"] <= pooled["built_in_rms"]
    return about["held_out_error"]["rms"] <= about["built_in"][0]["held_out_error"]["rms"]
