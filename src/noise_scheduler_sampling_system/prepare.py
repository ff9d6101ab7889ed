"""From what a user asks for to a run that is ready to start: every check, before the first model call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import ConfigurationError
from .grids import refuse_clean_start
from .guidance import null_counterpart
from .job import Job
from .model import ModelAdapter, map_tensors, resolve_device
from .noise import NoiseSource, Seed, resolve_keys
from .plan import SamplingPlan
from .run import Runnable
from .setup import Setup

__all__ = ["prepare"]


def prepare(
    setup: Setup,
    *,
    model: Callable[..., Any] | None,
    shape: Any,
    num_inference_steps: int,
    scale: float,
    condition: Mapping[str, Any] | None,
    null_condition: Mapping[str, Any] | None,
    seed: Seed | None,
    generator: Any,
    initial_noise: Tensor | None,
    initial_sample: Tensor | None,
    timesteps: Sequence[float] | None,
    plan: SamplingPlan | None,
    device: str | torch.device,
    dtype: torch.dtype | None,
    resumed: bool = False,
) -> Job:
    """Check everything and prepare a run, before the first model call.

    The arguments are those of :meth:`DiffusionPipeline.sample`.
    """
    scheduler, config = setup.scheduler, setup.scheduler.config
    if initial_noise is not None and initial_sample is not None:
        raise ConfigurationError(
            "is given beside initial_noise", where="initial_sample", suggestion="give the one or the other"
        )
    device = resolve_device(device, model, initial_noise if initial_sample is None else initial_sample)
    shape = _checked_shape(shape, initial_noise=initial_noise, initial_sample=initial_sample)
    scale = _checked_scale(scale)
    if model is None:
        from .models import DigitsModel

        model = DigitsModel(scheduler, prediction_type=config.prediction_type)
    adapter = ModelAdapter(model)
    if plan is not None and timesteps is not None:
        raise ConfigurationError("a plan has its own timesteps", where="timesteps", suggestion="give one of the two")
    runnable = setup.runnable(num_inference_steps, timesteps) if plan is None else setup.following(plan)
    if initial_noise is None and initial_sample is None and not resumed:
        first = runnable.plan
        refuse_clean_start(first.time[0], first.alpha[0], first.sigma[0])
    if dtype is None:
        dtype = torch.promote_types(torch.float32, adapter.dtype or torch.float32)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigurationError(
            f"{dtype!r} is not a floating-point type", where="dtype", suggestion="give e.g. torch.float32"
        )
    _refuse_overflow(runnable, dtype)
    keys = resolve_keys(seed, generator, shape[0])
    given = _fitted({} if condition is None else condition, shape[0], device, "condition")
    if not given and null_condition is not None:
        raise ConfigurationError(
            "there is no condition to oppose it to", where="null_condition", suggestion="give condition={...}, too"
        )
    conditional = bool(given)
    given = adapter.completed(given, shape[0], device)
    null: Mapping[str, Any] = {}
    if conditional and scale != 1.0:
        null = null_counterpart(model, given) if null_condition is None else null_condition
        null = adapter.completed(_fitted(null, shape[0], device, "null_condition"), shape[0], device)
        given, null = _numbers_as_rows(given, null, shape[0], device)
    return Job(
        runnable=runnable,
        adapter=adapter,
        scale=scale if conditional else 1.0,
        condition=given,
        null=null,
        noise=NoiseSource(keys, tuple(shape[1:]), dtype, device),
        initial_noise=initial_noise,
        initial_sample=initial_sample,
        settings=setup.identity,
        integral=scheduler.discrete,
    )


def _refuse_overflow(runnable: Runnable, dtype: torch.dtype) -> None:
    """Raise where a coefficient does not fit the state's type, as with a schedule that ends all but without signal."""
    if not runnable.largest_factor <= torch.finfo(dtype).max:  # NaN fails, too
        raise ConfigurationError(
            f"a coefficient of the plan, {runnable.largest_factor:.3g}, is beyond {dtype}",
            where="beta_schedule",
            why=f"the noisiest level has almost no signal (α = {runnable.plan.alpha.min():.3g}), and what the model "
            "predicts is divided by it",
            suggestion="use prediction_type='v_prediction' or 'sample', a schedule with less noise, or a wider dtype",
        )


def _checked_scale(scale: Any) -> float:
    try:
        valid = not isinstance(scale, bool | str) and math.isfinite(scale)
    except (TypeError, ValueError, RuntimeError):
        valid = False
    if not valid:
        raise ConfigurationError(f"got {scale!r}", where="guidance_scale", suggestion="give a finite number")
    return float(scale)


def _checked_shape(shape: Any, **starts: Tensor | None) -> tuple[int, ...]:
    """The batch's shape; the tensors that a run may start from must have it and be finite."""
    given = {name: start for name, start in starts.items() if start is not None}
    if shape is None:
        if not given:
            raise ConfigurationError("is missing", where="shape", suggestion="give (batch, channels, height, width)")
        shape = next(iter(given.values())).shape
    try:
        checked = tuple(int(n) for n in shape)
        valid = len(checked) >= 2 and all(n >= 1 and n == m for n, m in zip(checked, shape, strict=True))
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ConfigurationError(
            f"got {shape!r}", where="shape", suggestion="give whole numbers ≥ 1: (batch, channels, height, width)"
        )
    for name, start in given.items():
        if tuple(start.shape) != checked:
            raise ConfigurationError(
                f"has shape {tuple(start.shape)}, the samples {checked}",
                where=name,
                suggestion="leave shape out, or make them the same",
            )
        if not torch.isfinite(start).all():
            raise ConfigurationError("holds NaN or Inf", where=name, suggestion="check how it was made")
    return checked


def _fitted(condition: Mapping[str, Any], batch: int, device: torch.device, where: str) -> dict[str, Any]:
    """The condition on the device, every tensor with one row a sample."""
    if not isinstance(condition, Mapping):
        raise ConfigurationError(
            f"got {type(condition).__name__}", where=where, suggestion="give a mapping of keywords for the model"
        )

    def fit(value: Tensor) -> Tensor:
        if value.ndim and value.shape[0] not in (1, batch):
            raise ConfigurationError(
                f"a tensor of shape {tuple(value.shape)} for a batch of {batch}",
                where=where,
                suggestion="give one row a sample, or one for all",
            )
        value = value.to(device)
        return value.expand(batch, *value.shape[1:]) if value.ndim and value.shape[0] != batch else value

    fitted: dict[str, Any] = map_tensors(fit, {name: _as_rows(value, batch) for name, value in condition.items()})
    return fitted


def _numbers_as_rows(
    given: Mapping[str, Any], null: Mapping[str, Any], batch: int, device: torch.device
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Numbers in which the two branches differ, as tensors of one row a sample."""
    first, second = dict(given), dict(null)
    for name in first.keys() & second.keys():
        pair = (first[name], second[name])
        numbers = [_is_number(v) for v in pair]
        if any(numbers) and (not all(numbers) or pair[0] != pair[1]):
            first[name], second[name] = (
                torch.as_tensor(v, device=device).expand(batch) if number else v
                for v, number in zip(pair, numbers, strict=True)
            )
    return first, second


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_rows(value: Any, batch: int) -> Any:
    """Arrays, and lists of one number a sample, as tensors, so that they are split with the batch."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, list | tuple) and len(value) == batch and all(isinstance(v, int | float) for v in value):
        return torch.tensor(value, device="cpu")
    return value
