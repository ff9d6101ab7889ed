"""The arguments of one call of ``sample`` or ``stream``, with their defaults; each one is checked by itself."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, final

import torch
from torch import Tensor

from ..grids.frame_grid import FrameGrid
from ..grids.time_grid import TimeGrid
from ..guidance.base import Guidance
from ..plans.frame_plan import FramePlan
from ..plans.plan import SamplingPlan
from ..plans.plan_set import PlanSet
from ..running.callbacks import Callback, checked_callback
from ..running.device_noise import STREAMS
from ..running.early_stopping import EarlyStopping
from ..running.noise import Seed
from ..running.noise_keys import checked_index
from ..running.results import RunState
from ..schedules.path import Level
from ..support.argument_checks import checked_count, checked_flag, checked_number
from ..support.errors import ConfigurationError, shown

__all__ = ["DEFAULT_SCALE", "DefaultScale", "Generators", "Request"]


@final
class DefaultScale(float):
    """A guidance scale that stands where the user gives none; the same number of the user is a plain float."""

    __slots__ = ()


#: The scale of classifier-free guidance where none is given.
DEFAULT_SCALE: Final = DefaultScale(7.5)

Generators = torch.Generator | Sequence[torch.Generator]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """The arguments of a user. :meth:`DiffusionPipeline.sample` says what each field means.

    Raises:
        ConfigurationError: a field that no run can have, whatever the other fields are.
    """

    model: Callable[..., Any] | None = None
    shape: Sequence[int] | None = None
    num_inference_steps: int = 50
    guidance_scale: float = DEFAULT_SCALE
    classifier_free_guidance: bool = True
    condition: Mapping[str, Any] | None = None
    null_condition: Mapping[str, Any] | None = None
    guidance: Guidance | Sequence[Guidance] | None = None
    seed: Seed | None = None
    generator: Generators | None = None
    first_index: int = 0
    initial_noise: Tensor | None = None
    initial_sample: Tensor | None = None
    start: float | Level | None = None
    strength: float | None = None
    timesteps: Sequence[float] | None = None
    grid: TimeGrid | FrameGrid | None = None
    plan: SamplingPlan | PlanSet | FramePlan | None = None
    context: Tensor | None = None
    device: str | torch.device = "auto"
    dtype: torch.dtype | None = None
    noise: str = "independent"
    noise_device: str = "cpu"
    noise_ahead: bool | None = None
    round_timesteps: bool = False
    callback: Callback | None = None
    progress: bool = False
    early_stopping: float | None = None
    profile: bool | str | os.PathLike[str] = False
    max_batch_size: int | None = None
    differentiable: bool = False
    checkpoint: str | os.PathLike[str] | None = None
    every: int | None = None
    return_result: bool = False
    resume: RunState | str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        vars(self).update(_checked(vars(self)))

    @property
    def scale_given(self) -> bool:
        """Whether the user gives a guidance scale."""
        return not isinstance(self.guidance_scale, DefaultScale)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Request:
        """The request among the local variables of a method whose arguments are fields of it."""
        request = object.__new__(cls)
        # the others have their defaults; the constructor would set all fields one by one, as long as a small step takes
        given = {name: value for name, value in arguments.items() if value is not _DEFAULTS.get(name, value)}
        vars(request).update(given, **_checked(given))
        return request


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are checked alone, in the form that a run needs; a default is valid."""
    return {
        name: _CHECKS[name](value, name)
        for name, value in given.items()
        if name in _CHECKS and value is not _DEFAULTS[name]
    }


def _checked_scale(scale: Any, where: str) -> float:
    return scale if isinstance(scale, DefaultScale) else checked_number(scale, where)


def _checked_noise(kind: Any, where: str) -> str:
    if not isinstance(kind, str) or kind not in ("independent", "brownian"):
        raise ConfigurationError(f"got {shown(kind)}", where=where, suggestion="give 'independent' or 'brownian'")
    return kind


def _checked_stream(made_on: Any, where: str) -> str:
    if not isinstance(made_on, str) or made_on not in STREAMS:
        raise ConfigurationError(
            f"got {shown(made_on)}", where=where, suggestion="give 'cpu', or 'cuda' for numbers that the GPU makes"
        )
    return made_on


def _checked_tolerance(tolerance: Any, _: str) -> float | None:
    rule = EarlyStopping.of(tolerance)
    return None if rule is None else rule.tolerance


def _checked_profile(profile: Any, where: str) -> bool | str | os.PathLike[str]:
    """Whether to measure, or the file for the trace."""
    if isinstance(profile, str | os.PathLike) and os.fspath(profile):
        return profile
    return checked_flag(profile, where)


def _checked_batch_size(size: Any, where: str) -> int | None:
    return None if size is None else checked_count(size, where, most=math.inf)


#: field ↦ (value, name of the field) ↦ the checked value.
_CHECKS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "guidance_scale": _checked_scale,
    "classifier_free_guidance": checked_flag,
    "round_timesteps": checked_flag,
    "progress": checked_flag,
    "differentiable": checked_flag,
    "return_result": checked_flag,
    "profile": _checked_profile,
    "noise": _checked_noise,
    "noise_device": _checked_stream,
    "noise_ahead": lambda ahead, where: None if ahead is None else checked_flag(ahead, where),
    "max_batch_size": _checked_batch_size,
    "first_index": checked_index,
    "callback": lambda callback, _: checked_callback(callback),
    "early_stopping": _checked_tolerance,
}
_DEFAULTS: Final = {field.name: field.default for field in fields(Request)}
