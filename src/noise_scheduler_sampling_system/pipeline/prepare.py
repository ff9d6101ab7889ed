"""From a request to a job: every check that needs more than one argument, before the first model call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..grids.image_start import grid_of_start
from ..grids.time_grid import refuse_clean_start
from ..guidance.cached import CachedGuidance
from ..models.experts import Experts
from ..plans.base import Plan
from ..plans.frame_plan import FramePlan
from ..plans.plan import SamplingPlan
from ..plans.plan_set import PlanSet
from ..running.bound_plan import BoundPlan
from ..running.brownian import brownian
from ..running.device_noise import source_of
from ..running.loop import Run
from ..running.model_adapter import ModelAdapter
from ..running.noise import resolve_keys
from ..running.output_check import Look
from ..running.placement import resolve_device
from ..running.stated_prediction import refuse_other_prediction
from ..schedules.path import NoisePath
from ..support.argument_checks import checked_dtype, refuse_too_large
from ..support.errors import ConfigurationError
from .batch_conditions import BatchConditions
from .compiled import Setup
from .first_state import GivenStart
from .frames_of_request import refuse_start_of_frames, with_context_of
from .guidance_of_request import guidance_of
from .job import Job
from .network_calls import NetworkCalls
from .request import Request

__all__ = ["embedded_model", "prepare"]


def prepare(setup: Setup, request: Request, *, own_model: bool = False) -> Job:
    """Resolve a request.

    Args:
        setup: the noise schedule and the sampler.
        request: the arguments.
        own_model: whether the model belongs to a pipeline of diffusers; its config was then read off the scheduler
            in use, and a scheduler that lies beside the model's file says nothing.

    Raises:
        ConfigurationError: arguments that do not go together, or not with the setup.
        DeviceError, OutOfMemoryError: the device cannot run it.
    """
    path, kind = setup.scheduler, setup.scheduler.config.prediction_type
    given = GivenStart.of(request)
    shape = given.batch_shape(request.shape)
    model = ModelAdapter(embedded_model(path) if request.model is None else request.model)
    device = resolve_device(request.device, model.device, given.tensor)
    if isinstance(model.model, Experts):
        model.model.refuse_path(path)
    stated = refuse_other_prediction(model.model, kind, beside=not own_model)
    run, request = _with_guidance_in_plan(setup, request, _run(setup, request))
    model = replace(model, two_times=run.plan.two_times) if run.plan.two_times else model
    dtype = checked_dtype(request.dtype, model.dtype)
    refuse_too_large(shape, dtype, device)
    given = with_context_of(given.placed(device, dtype), request, run.plan, shape, dtype, device)
    _refuse_overflow(run, dtype)
    keys = resolve_keys(request.seed, request.generator, shape[0], request.first_index)
    noise = source_of(request.noise_device, keys, shape[1:], dtype, device)
    if request.noise == "brownian" and isinstance(run.plan, SamplingPlan):
        if request.noise_device != "cpu":
            raise ConfigurationError(
                f"got {request.noise_device!r} beside noise='brownian'",
                where="noise_device",
                why="a Brownian path is made on the host",
                suggestion="leave one of them out",
            )
        noise = brownian(run.plan, noise)
    return Job(
        setup=setup,
        run=run,
        guidance=guidance_of(request, setup, run, BatchConditions(model, shape[0], device), shape, dtype),
        calls=NetworkCalls(
            model,
            dtype,
            device,
            integral=path.discrete and run.planned,
            last_timestep=_last_timestep(path) if request.round_timesteps else None,
            look=None
            if stated or not _one_level(run.plan) or run.plan.two_times
            else Look(model.model, kind, path.sigma_is_absolute),
        ),
        noise=noise,
        given=given,
    )


def _one_level(plan: Plan) -> bool:
    """Whether all of a sample has the same noise level in every row."""
    return not isinstance(plan, FramePlan) or plan.lockstep


def embedded_model(path: NoisePath) -> Callable[..., Any]:
    """The exact model of handwritten digits.

    Raises:
        ConfigurationError: the config wants a model with a learned variance.
    """
    from ..models import DigitsModel

    if path.config.variance_type.startswith("learned"):
        raise ConfigurationError(
            "no model is given, and the embedded one has no learned variance",
            where="variance_type",
            suggestion="give a model, or config.replace(variance_type='fixed_small')",
        )
    return DigitsModel(path)


def _run(setup: Setup, request: Request) -> Run:
    """What is executed: the sampler on the levels that the request names, or the plan that it brings.

    Raises:
        ConfigurationError: several of ``plan``, ``timesteps``, ``grid`` and ``start``, or one that cannot run.
    """
    plan, grid, steps = request.plan, request.grid, request.num_inference_steps
    if isinstance(plan, PlanSet):
        plan = plan.pick(steps)
    if plan is not None:
        for name in ("timesteps", "grid"):
            if getattr(request, name) is not None:
                raise ConfigurationError("a plan has its own timesteps", where=name, suggestion="give one of the two")
    if request.resume is not None:
        setup.refuse_to_resume()
    else:
        beside = {"timesteps": request.timesteps, "grid": grid, "plan": plan}
        begun = grid_of_start(
            setup.scheduler, steps, start=request.start, strength=request.strength,
            initial_sample=request.initial_sample, beside=beside,
        )  # fmt: skip
        grid = grid if begun is None else begun
    run = setup.run_on(steps, request.timesteps, grid) if plan is None else setup.following(plan)
    if request.initial_noise is None and request.initial_sample is None and request.resume is None:
        if isinstance(run.plan, FramePlan):
            refuse_start_of_frames(run.plan)
        else:
            refuse_clean_start(*run.plan.level(0))
    return run


def _with_guidance_in_plan(setup: Setup, request: Request, run: Run) -> tuple[Run, Request]:
    """The run of the plan that holds a :class:`CachedGuidance`, and the request without it.

    Raises:
        ConfigurationError: the run has no plan.
    """
    sequence = request.guidance if isinstance(request.guidance, list | tuple) else (request.guidance,)
    if len(sequence) != 1 or not isinstance(sequence[0], CachedGuidance):
        return run, request
    (cached,) = sequence
    request = replace(request, guidance=None, guidance_scale=cached.scale)
    if run.plan.scale is not None:  # a resumed run
        return run, request
    if not isinstance(run, BoundPlan):
        raise ConfigurationError(
            f"needs a sampler that writes plans with one level a row, and a run of {run.plan.sampler!r} has none here",
            where="guidance",
            suggestion="use another sampler or grid, or ClassifierFree(scale)",
        )
    return setup.following_guided(run, cached), request


def _last_timestep(path: NoisePath) -> int:
    """The largest timestep that a network with a table of them knows."""
    if not path.discrete:
        raise ConfigurationError(
            f"{path!r} has no whole timesteps",
            where="round_timesteps",
            why="a rounded time would be another noise level",
            suggestion="leave it out; networks of such schedules take real times",
        )
    return path.config.num_train_timesteps - 1


def _refuse_overflow(run: Run, dtype: torch.dtype) -> None:
    """Raise where a coefficient does not fit the state's type, as with a schedule that ends nearly without signal."""
    if not run.largest_factor <= torch.finfo(dtype).max:  # NaN fails, too
        raise ConfigurationError(
            f"a coefficient of the plan, {run.largest_factor:.3g}, is beyond {dtype}",
            where="beta_schedule",
            why=f"the noisiest level has almost no signal (α = {run.plan.alpha.min():.3g}), and what the model "
            "predicts is divided by it",
            suggestion="use prediction_type='v_prediction' or 'sample', a schedule with less noise, or a wider dtype",
        )
