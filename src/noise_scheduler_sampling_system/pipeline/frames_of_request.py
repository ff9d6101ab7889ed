"""The checks of a request for a run with a noise level per frame, and its known frames."""

from __future__ import annotations

import torch

from ..grids.time_grid import refuse_clean_start
from ..plans.base import Plan
from ..plans.frame_plan import FramePlan
from ..support.argument_checks import as_tensor
from ..support.errors import ConfigurationError
from .first_state import GivenStart
from .request import Request

__all__ = ["refuse_start_of_frames", "with_context_of"]


def with_context_of(
    given: GivenStart, request: Request, plan: Plan, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> GivenStart:
    """The start of a run with the request's known frames.

    Args:
        given: the start without them.
        request: ``context``, and what does not go with a noise level per frame.
        plan: of the run.
        shape, dtype, device: of the state.

    Raises:
        ConfigurationError: known frames without a plan that has them, or the other way round; frames of another shape;
            a shape without the frames of the plan; an argument that needs one noise level a sample.
    """
    if not isinstance(plan, FramePlan):
        if request.context is not None:
            raise ConfigurationError(
                "is given, and the run has no known frames",
                where="context",
                suggestion="give grid=FrameGrid.full_sequence(pipeline.grid(20), frames, context=1), too",
            )
        return given
    _refuse_other_arguments(request, plan)
    dim, places = plan.frame_dim, plan.context
    if len(shape) <= dim or shape[dim] != plan.frames:
        raise ConfigurationError(
            f"is {shape}, and the plan has {plan.frames} frames in dimension {dim}",
            where="shape",
            suggestion=f"give {plan.frames} in place {dim} of the shape, or a grid with another frame_dim",
        )
    if request.context is None:
        if places and given.name != "initial_sample" and request.resume is None:
            raise ConfigurationError(
                f"is missing, and frames {', '.join(map(str, places))} of the grid are known",
                where="context",
                suggestion="give these frames, or initial_sample with all frames",
            )
        return given
    if not places or (given.name == "initial_sample" and given.tensor is not None):
        raise ConfigurationError(
            "is given, and " + ("initial_sample holds all frames" if places else "no frame of the grid is known"),
            where="context",
            suggestion="leave it out" if places else "give the grid its context: FrameGrid.pyramid(..., context=1)",
        )
    frames = as_tensor(request.context, "context")
    wanted = (*shape[:dim], len(places), *shape[dim + 1 :])
    if tuple(frames.shape) not in (wanted, (1, *wanted[1:])):
        raise ConfigurationError(
            f"has shape {tuple(frames.shape)}",
            where="context",
            why=f"the samples have shape {shape}, and frames {', '.join(map(str, places))} are known",
            suggestion=f"give shape {wanted}",
        )
    placed = frames.to(device, dtype)
    if not torch.isfinite(placed.detach()).all():
        raise ConfigurationError("holds NaN or Inf", where="context", suggestion="check how it was made")
    return given._replace(context=placed.expand(wanted), places=places, frame_dim=dim)


def _refuse_other_arguments(request: Request, plan: FramePlan) -> None:
    if request.noise == "brownian":
        raise ConfigurationError(
            "a Brownian motion runs through the levels of one sample, and the frames have their own",
            where="noise",
            suggestion="use noise='independent'",
        )
    if request.early_stopping is not None and not plan.lockstep:
        raise ConfigurationError(
            "the rule judges a whole sample at one noise level, and the frames have their own",
            where="early_stopping",
            suggestion="leave it out, or use a grid in which all frames move together",
        )


def refuse_start_of_frames(plan: FramePlan) -> None:
    """Raise where a frame would start from pure noise at a level where signal outweighs noise.

    Raises:
        ConfigurationError: such a frame.
    """
    for frame, index in enumerate(plan.plan_of.tolist()):
        if index >= 0:
            refuse_clean_start(
                float(plan.time[0, frame]), float(plan.alpha[0, frame]), float(plan.sigma[0, frame]),
                where=f"grid, frame {frame}", suggestion="begin the frame at noise, or give initial_sample",
            )  # fmt: skip
