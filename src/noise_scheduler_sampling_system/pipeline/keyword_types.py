"""The keywords of the pipeline's methods as types, which their overloads share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from ..grids.frame_grid import FrameGrid
from ..grids.time_grid import TimeGrid
from ..guidance.base import Guidance
from ..plans.frame_plan import FramePlan
from ..plans.plan import SamplingPlan
from ..plans.plan_set import PlanSet
from ..running.callbacks import Callback
from ..running.noise import Seed
from ..schedules.path import Level

__all__ = ["GenerateKeywords", "RunKeywords"]


class _Common(TypedDict, total=False):
    """Keywords of every run, except ``return_result``."""

    guidance: Guidance | Sequence[Guidance] | None
    seed: Seed | None
    generator: torch.Generator | Sequence[torch.Generator] | None
    first_index: int
    initial_noise: Tensor | None
    initial_sample: Tensor | None
    start: float | Level | None
    strength: float | None
    timesteps: Sequence[float] | None
    grid: TimeGrid | FrameGrid | None
    plan: SamplingPlan | PlanSet | FramePlan | None
    dtype: torch.dtype | None
    noise: str
    noise_device: str
    noise_ahead: bool | None
    round_timesteps: bool
    callback: Callback | None
    progress: bool
    early_stopping: float | None
    profile: bool | str | os.PathLike[str]
    max_batch_size: int | None
    differentiable: bool
    checkpoint: str | os.PathLike[str] | None
    every: int | None


class RunKeywords(_Common, total=False):
    """Keywords of :meth:`DiffusionPipeline.sample`."""

    condition: Mapping[str, Any] | None
    null_condition: Mapping[str, Any] | None
    context: Tensor | None
    device: str | torch.device


class GenerateKeywords(_Common, total=False):
    """Keywords of :meth:`DiffusionPipeline.generate`."""

    negative_prompt: str | Sequence[str] | None
    class_labels: int | Sequence[int] | Tensor | None
    height: int | None
    width: int | None
    num_images_per_prompt: int
    num_inference_steps: int
    guidance_scale: float | None
    image: Any
    mask_image: Any
    keep_known: bool
    encode_options: Mapping[str, Any] | None
    classifier_free_guidance: bool
