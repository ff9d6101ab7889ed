"""What the arguments of a call decide, whatever its tensors and its seed are: made once for equal ones."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, final

import torch

from ..grids.image_start import grid_of_start
from ..grids.time_grid import refuse_clean_start
from ..guidance.cached import CachedGuidance
from ..guidance.compile import CompiledGuidance
from ..guidance.directions import ClassifierFree
from ..plans.frame_plan import FramePlan
from ..plans.plan import SamplingPlan
from ..plans.plan_set import PlanSet
from ..running.bound_plan import BoundPlan
from ..running.loop import Run
from ..running.stated_prediction import Statement, refuse_other_statement
from ..schedules.path import Level, NoisePath
from ..support.argument_checks import checked_dtype, refuse_too_large
from ..support.errors import ConfigurationError
from ..support.kept import Same
from .calibrated_scale import warn_of_other_scale
from .compiled import Setup
from .frames_of_request import refuse_start_of_frames
from .guidance_of_request import compiled_guidance, refuse_scale_beside_guidance
from .network_calls import ToldTimes
from .request import Request

__all__ = ["Facts", "PreparedRun", "prepared_run"]

#: The types of a start, and of a dtype, that a key may hold.
_NUMBERS: Final = frozenset({type(None), int, float, Level})
_TYPES: Final = frozenset({type(None), torch.dtype})


class Facts(NamedTuple):
    """What a prepared run depends on beside the setup and the arguments that are compared by their value.

    Attributes:
        shape: of the batch.
        device: of the run.
        model_dtype: the type of the model's parameters.
        stated: what the model states as its prediction type.
        conditional: whether there is a condition.
    """

    shape: tuple[int, ...]
    device: torch.device
    model_dtype: torch.dtype | None
    stated: Statement | None
    conditional: bool


@final
@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A run of every model, noise and condition with the same :class:`Facts`. It holds no tensors and no model.

    Attributes:
        run: what is executed.
        dtype: of the state.
        guidance: of each row, for every condition.
        told: the times that networks are told.
        brownian: whether the noise is that of Brownian motions.
        looks: whether the first output of a model is compared with the config.
        frames: whether the frames of a sample have noise levels of their own.
    """

    run: Run
    dtype: torch.dtype
    guidance: CompiledGuidance
    told: ToldTimes
    brownian: bool
    looks: bool
    frames: bool


def prepared_run(setup: Setup, request: Request, facts: Facts) -> PreparedRun:
    """The run of a request, after every check that reads no tensor; equal requests get the same one.

    Args:
        setup: the noise schedule and the sampler.
        request: the arguments.
        facts: what its tensors and its model say.

    Raises:
        ConfigurationError: arguments that do not go together, or not with the setup or the model.
        OutOfMemoryError: the device cannot hold the samples.
    """
    key = _key(request)
    if key is None:
        return _made(setup, request, facts)
    found: PreparedRun = setup.prepared.get((facts, key), lambda: _made(setup, request, facts))
    return found


def _key(request: Request) -> Hashable | None:
    """The arguments that decide a run and are not in :class:`Facts`; None for a run that is prepared in every call.

    Numbers are compared by value and type, because True and 10.0 are not numbers of steps. Plans and grids are
    immutable, and compared by identity.
    """
    given = request.guidance
    guidance = tuple(given) if isinstance(given, list | tuple) else (given,)
    if given is not None and not all(map(_is_constant, guidance)):
        return None
    if not (request.timesteps is None and request.context is None and request.resume is None):
        return None
    numbers = (request.num_inference_steps, request.start, request.strength)
    types = tuple(map(type, numbers))
    if not (types[0] is int and {*types[1:]} <= _NUMBERS and type(request.dtype) in _TYPES):
        return None
    return (
        numbers, types, request.guidance_scale, request.scale_given, request.classifier_free_guidance, guidance,
        request.null_condition is None, request.initial_noise is None, request.initial_sample is None,
        None if request.plan is None else Same(request.plan), None if request.grid is None else Same(request.grid),
        request.dtype, request.noise, request.noise_device, request.round_timesteps,
    )  # fmt: skip


def _is_constant(guidance: object) -> bool:
    """Whether guidance is made of numbers; other guidance may write another formula the next time."""
    return type(guidance) is CachedGuidance or (type(guidance) is ClassifierFree and guidance.uniform)


def _made(setup: Setup, request: Request, facts: Facts) -> PreparedRun:
    path, kind = setup.scheduler, setup.scheduler.config.prediction_type
    refuse_other_statement(facts.stated, kind)
    refuse_scale_beside_guidance(request)
    run, request = _with_guidance_in_plan(setup, request, _run(setup, request))
    plan, dtype = run.plan, checked_dtype(request.dtype, facts.model_dtype)
    refuse_too_large(facts.shape, dtype, facts.device)
    _refuse_overflow(run, dtype)
    brownian = request.noise == "brownian" and isinstance(plan, SamplingPlan)
    if brownian and request.noise_device != "cpu":
        raise ConfigurationError(
            f"got {request.noise_device!r} beside noise='brownian'",
            where="noise_device",
            why="a Brownian path is made on the host",
            suggestion="leave one of them out",
        )
    frames = isinstance(plan, FramePlan)
    one_level = not isinstance(plan, FramePlan) or plan.lockstep
    return PreparedRun(
        run=run,
        dtype=dtype,
        guidance=compiled_guidance(
            request, run, facts.shape, (dtype, facts.model_dtype or dtype), kind, conditional=facts.conditional
        ),
        told=ToldTimes(
            plan,
            integral=path.discrete and run.planned,
            last_timestep=_last_timestep(path) if request.round_timesteps else None,
            wide=(facts.model_dtype or dtype) == torch.float64,
        ),
        brownian=brownian,
        looks=facts.stated is None and one_level and not plan.two_times,
        frames=frames,
    )


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
        ConfigurationError: the run has no plan, or one that holds other guidance.
    """
    sequence = request.guidance if isinstance(request.guidance, list | tuple) else (request.guidance,)
    if len(sequence) != 1 or not isinstance(sequence[0], CachedGuidance):
        return run, request
    (cached,) = sequence
    request = replace(request, guidance=None, guidance_scale=cached.scale)
    if isinstance(run.plan, SamplingPlan) and run.plan.scale is not None:  # given by the user, or of a resumed run
        cached.refuse_other(run.plan)
        return run, request
    if request.resume is not None:
        raise ConfigurationError(
            "the plan of the run to resume holds no guidance",
            where="guidance",
            suggestion="give the guidance that the run began with",
        )
    if not isinstance(run, BoundPlan):
        raise ConfigurationError(
            f"needs a sampler that writes plans with one level a row, and a run of {run.plan.sampler!r} has none here",
            where="guidance",
            suggestion="use another sampler or grid, or ClassifierFree(scale)",
        )
    warn_of_other_scale(run.plan, cached.scale)
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
