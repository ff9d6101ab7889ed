"""A scheduler of diffusers, PlanScheduler in its place, and how far their images are apart."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler
from tiny_pipelines import LATENT, arguments, build

__all__ = [
    "BETA",
    "EXPONENTIAL",
    "FLAT",
    "FLOW_SIGMAS",
    "KARRAS",
    "LEADING",
    "LINSPACE",
    "LOWEST",
    "NETWORKS",
    "SDE",
    "TOLERANCE",
    "TRAILING",
    "ZERO_SNR",
    "V",
    "compare",
    "images",
    "loop",
    "relative",
    "scheduler_of",
    "shared",
    "start",
]

TOLERANCE = 1e-4
NETWORKS = ("unet", "transformer")


def scheduler_of(name: str, **settings: Any) -> Any:
    cls = getattr(diffusers, name)
    accepted = inspect.signature(cls.__init__).parameters
    usual = {} if settings.pop("bare", False) else LATENT | {"clip_sample": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of DPM-Solver without ++, which is to go
        return cls(**{k: v for k, v in usual.items() if k in accepted} | settings)


def images(pipe: Any, kind: str, **more: Any) -> np.ndarray:
    torch.manual_seed(3)  # some pipelines hand no generator to their scheduler
    return np.asarray(pipe(**arguments(kind, **more)).images)


def relative(a: Any, b: Any) -> float:
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    assert np.isfinite(b).all()
    return float(np.abs(a - b).max() / np.abs(b).max())


def compare(kind: str, scheduler: Any, **more: Any) -> float:
    """How far the pipeline with our scheduler is from the pipeline with its own."""
    pipe = build(kind, scheduler)
    expected = images(pipe, kind, **more)
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler)
    return relative(images(pipe, kind, **more), expected)


KARRAS, EXPONENTIAL, BETA = ({f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta"))
LEADING, TRAILING, LINSPACE = ({"timestep_spacing": name} for name in ("leading", "trailing", "linspace"))
FLAT = {"steps_offset": 0}
V = {"prediction_type": "v_prediction"}
LOWEST = {"final_sigmas_type": "sigma_min"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
FLOW_SIGMAS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0, "bare": True}
ZERO_SNR = {"rescale_betas_zero_snr": True, **V, **TRAILING, **FLAT}


def loop(scheduler: Any, x: Tensor, steps: int | None, edit: Any = None) -> Tensor:
    if steps is not None:
        scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.tanh(x) * 0.7, t, x).prev_sample
        x = x if edit is None else edit(x)
    return x


def shared(method: str = "unipc") -> Any:
    return PlanScheduler.from_config(scheduler_of("DDIMScheduler"), method=method)


def start(seed: int) -> Tensor:
    return torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
