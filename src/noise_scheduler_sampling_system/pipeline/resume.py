"""A request that goes on from a stopped run: what the state holds takes the place of what a user would give."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..running.model_fingerprint import refuse_other_model
from ..running.results import RunState
from ..support.argument_checks import checked_count, checked_dtype, checked_shape
from ..support.errors import ConfigurationError, shown
from .compiled import Setup
from .request import Request

__all__ = ["continued"]

#: Arguments that the state determines.
_PART_OF_THE_STATE = (
    "seed", "generator", "first_index", "initial_noise", "plan", "timesteps", "grid", "initial_sample", "start",
    "strength", "context",
)  # fmt: skip


def continued(setup: Setup, request: Request) -> tuple[Request, RunState]:
    """The request with the shape, plan, type and kind of noise of the state to resume; and that state.

    Args:
        setup: of the pipeline that goes on.
        request: ``resume``, and what the user gives again: the model, the condition, the guidance.

    Raises:
        ConfigurationError: not a state, another pipeline, another model, or an argument that contradicts the state.
        FileError: the file is missing or malformed.
    """
    for name in _PART_OF_THE_STATE:
        if getattr(request, name) is not getattr(Request, name):
            raise ConfigurationError("is part of the state to resume", where=name, suggestion="leave it out")
    resume = request.resume
    if not isinstance(resume, RunState | str | os.PathLike) or resume == "":
        raise ConfigurationError(
            f"got {shown(resume)}", where="resume", suggestion="give a step's state, or the file it is saved in"
        )
    saved = resume if isinstance(resume, RunState) else RunState.load(resume)
    _refuse_other_settings(saved.settings, setup.identity)
    refuse_other_model(saved.model, request.model, setup.scheduler)
    _refuse_other_run(request, saved)
    if request.noise not in ("independent", saved.noise):
        raise ConfigurationError(
            f"the run was started with {saved.noise} noise", where="noise", suggestion="leave it out"
        )
    if request.noise_device not in ("cpu", saved.noise_device):
        raise ConfigurationError(
            f"the numbers of the noise were made on {saved.noise_device!r} so far, and those of "
            f"{request.noise_device!r} are others",
            where="noise_device", suggestion="leave it out",
        )  # fmt: skip
    x = saved.state.x
    same = replace(request, shape=tuple(x.shape), plan=saved.plan, dtype=x.dtype)
    return replace(same, noise=saved.noise, noise_device=saved.noise_device), saved


def _refuse_other_run(request: Request, saved: RunState) -> None:
    """Raise where an argument that the state determines, too, differs from it."""
    plan, x = saved.plan, saved.state.x
    shape, dtype, steps = request.shape, request.dtype, checked_count(request.num_inference_steps)
    given = {
        "shape": (shape is not None and checked_shape(shape) != tuple(x.shape), shape, tuple(x.shape)),
        "dtype": (dtype is not None and checked_dtype(dtype, None) is not x.dtype, dtype, x.dtype),
        "num_inference_steps": (steps not in (50, plan.steps, plan.nfe), steps, plan.steps),
    }
    for name, (differs, here, there) in given.items():
        if differs:
            raise ConfigurationError(
                f"got {shown(here)}, and the state to resume has {there!r}",
                where=name, why="a run goes on as it was begun", suggestion="leave it out",
            )  # fmt: skip


def _refuse_other_settings(saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise unless the settings of a stopped run are those of the pipeline."""
    if saved != here:
        fields = [k for k in here["config"] if saved.get("config", {}).get(k) != here["config"][k]]
        raise ConfigurationError(
            f"the run was started under other settings ({', '.join(fields) or 'another sampler'})",
            where="resume",
            suggestion="resume it on a pipeline with the same config and sampler",
        )
