"""Two networks as one model: one for the noisy part of a run, and one for the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..plans.base import Plan
from ..plans.plan import SamplingPlan
from ..plans.plan_text import plan_table
from ..schedules.level import Level
from ..schedules.path import NoisePath
from ..support.argument_checks import checked_number
from ..support.errors import ConfigurationError, shown

__all__ = ["Experts", "ScaleOfExperts"]

#: What both networks may say of themselves.
_STATED = ("prediction_type", "config", "white_on_black")


class _AtLevel(Protocol):
    @property
    def level(self) -> Level: ...


@final
@dataclass(frozen=True)
class ScaleOfExperts:
    """A guidance scale for each of two networks, as a function of the moment of a run.

    Attributes:
        high, low: the scale of either network.
        switch_time: as :attr:`Experts.switch_time`.
    """

    high: float
    low: float
    switch_time: float

    def __call__(self, moment: _AtLevel) -> float:
        return self.high if moment.level.t >= self.switch_time else self.low


@final
class Experts(torch.nn.Module):
    """One model of two networks, as Wan 2.2 has them: ``high`` is called at times from the switch on, ``low`` below it.

    The switch is a time that the networks are told, so it is a noise level of the model. A shift, another grid or
    another number of steps moves the steps, and not the switch. A run chooses by the times of its plan, on the host.
    Multistep samplers go on with the predictions of both networks. Each stage of a single-step sampler is evaluated by
    the network of its own time.

    Args:
        high, low: networks of one prediction type, as for ``sample``; they get the same conditions.
        boundary: the time of the switch as a share of ``time_scale``; above 0 and below 1. On flow paths this is σ,
            after the shift. It is ``boundary_ratio`` of diffusers: 0.875 for Wan 2.2 from text, 0.9 from an image.
        time_scale: the largest time that the networks are told: 1000 for most, 1 where they are told σ.

    Attributes:
        switch_time: boundary·time_scale.

    Raises:
        ConfigurationError: a network that is not callable, networks that state other prediction types, or a number out
            of its range.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
        >>> from noise_scheduler_sampling_system.guidance import ClassifierFree
        >>> from noise_scheduler_sampling_system.models import Experts
        >>> experts = Experts(lambda x, t, label: 0.9 * x, lambda x, t, label: 0.8 * x, boundary=0.875)
        >>> pipeline = DiffusionPipeline(NoiseSchedulerConfig.preset("wan-2.2-t2v"), "unipc")
        >>> print(experts.described(pipeline.plan(40)))
        high: rows 0 to 25, t = 1000 to 878.334; low: rows 26 to 39, t = 866.31 to 242.431
        >>> samples = pipeline.sample(
        ...     experts, shape=(1, 2, 3, 4, 4), num_inference_steps=4, seed=0, condition={"label": torch.ones(1)},
        ...     guidance=ClassifierFree(experts.scale(high=4.0, low=3.0)),
        ... )
    """

    def __init__(
        self, high: Callable[..., Any], low: Callable[..., Any], *, boundary: float, time_scale: float = 1000.0
    ) -> None:
        super().__init__()
        for where, network in (("high", high), ("low", low)):
            if not callable(network) or isinstance(network, type):
                raise ConfigurationError(
                    f"got {shown(network)}", where=where, suggestion="give a network or a function of (x, t)"
                )
        share, scale = checked_number(boundary, "boundary"), checked_number(time_scale, "time_scale")
        if not 0.0 < share < 1.0:
            raise ConfigurationError(
                f"got {boundary!r}",
                where="boundary",
                suggestion="give a share of the largest time, above 0 and below 1: boundary_ratio of diffusers",
            )
        if not scale > 0.0:
            raise ConfigurationError(
                f"got {time_scale!r}", where="time_scale", suggestion="give the largest time: 1000 or 1"
            )
        first, second = (getattr(network, "prediction_type", None) for network in (high, low))
        if first is not None and second is not None and first != second:
            raise ConfigurationError(
                f"high predicts {first!r}, and low {second!r}",
                where="low",
                suggestion="convert the output of one of them, so that both predict the same",
            )
        self.high, self.low, self.switch_time = high, low, share * scale
        self.training = any(getattr(network, "training", False) for network in (high, low))

    @property
    def networks(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """(high, low)."""
        return self.high, self.low

    def __getattr__(self, name: str) -> Any:
        if name in _STATED:  # what the networks say of themselves holds for both
            return getattr(self.high, name)
        return super().__getattr__(name)

    def with_networks(self, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Experts:
        """A model of changed networks with the same switch, for example compiled ones."""
        other = Experts(change(self.high), change(self.low), boundary=0.5)
        other.switch_time = self.switch_time
        return other

    def is_high(self, time: float | npt.NDArray[np.float64] | Tensor) -> bool:
        """Whether ``high`` is called at a time, or at the times of the frames of a sample.

        Raises:
            ConfigurationError: times on both sides of the switch.
        """
        above = time >= self.switch_time
        if isinstance(above, bool | np.bool_):
            return bool(above)
        if bool(above.all()) or not bool(above.any()):
            return bool(above.all())
        raise ConfigurationError(
            f"a call has times on both sides of the switch, t = {self.switch_time:g}",
            where="model",
            why="one network answers a call, and the frames or samples of this one belong to different ones",
            suggestion="call each network for its own times, or run with one noise level for all frames",
        )

    def forward(self, x: Tensor, t: float | Tensor, *arguments: Any, **condition: Any) -> Any:
        """The output of the network of this time; a time on a device is read from it. Runs do not call this."""
        return (self.high if self.is_high(t) else self.low)(x, t, *arguments, **condition)

    def scale(self, *, high: float, low: float) -> ScaleOfExperts:
        """A guidance scale for each network: ``guidance=ClassifierFree(experts.scale(high=4.0, low=3.0))``.

        Raises:
            ConfigurationError: not numbers.
        """
        return ScaleOfExperts(checked_number(high, "high"), checked_number(low, "low"), self.switch_time)

    def refuse_path(self, path: NoisePath) -> None:
        """Raise where the switch is not among the times of a path.

        Raises:
            ConfigurationError: it is not.
        """
        if not path.t_min < self.switch_time <= path.t_max:
            raise ConfigurationError(
                f"the networks are switched at t = {self.switch_time:g}, and the times of the model are "
                f"{path.t_min:g} to {path.t_max:g}",
                where="Experts.boundary",
                suggestion=f"give time_scale={path.t_max:g} to Experts, the largest time of this noise schedule",
            )

    def rows(self, plan: Plan) -> tuple[str, ...]:
        """The network of each row of a plan: "high", "low", or "" for a row without a model call."""
        names = (
            ("high" if self.is_high(t) else "low") if asked else ""
            for t, asked in zip(plan.time, plan.asked, strict=True)
        )
        return tuple(names)

    def described(self, plan: Plan) -> str:
        """Which rows of a plan, and which times, belong to which network."""
        rows, texts = self.rows(plan), []
        for name in ("high", "low"):
            own = [i for i, row in enumerate(rows) if row == name]
            texts.append(
                f"{name}: rows {own[0]} to {own[-1]}, t = {plan.time[own[0]]:g} to {plan.time[own[-1]]:g}"
                if own
                else f"{name}: no row"
            )
        return "; ".join(texts)

    def table(self, plan: SamplingPlan, max_rows: int = 24) -> str:
        """The table of a plan with the network of each row."""
        return plan_table(plan, max_rows, {"network": self.rows(plan)})

    def extra_repr(self) -> str:
        return f"switch_time={self.switch_time:g}"
