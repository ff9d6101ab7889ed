"""What a run of a :class:`PlanScheduler` is compiled from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

__all__ = ["CompileRequest"]


@final
@dataclass(frozen=True)
class CompileRequest:
    """The arguments of ``set_timesteps``, and what steps are told that changes the plan. Hashable.

    Attributes:
        num_inference_steps: N.
        timesteps, sigmas: where the model is called, in place of N.
        mu: of the shift by resolution.
        further: arguments that only the replaced class's ``set_timesteps`` takes, as (name, value) pairs.
        eta, clips_output: what DDIM's and TCD's steps are told: η, and ``use_clipped_model_output``.
        start_time: the plan has one step, from this training time; None: a whole run.
    """

    num_inference_steps: int | None = None
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    mu: float | None = None
    further: tuple[tuple[str, Any], ...] = ()
    eta: float | None = None
    clips_output: bool | None = None
    start_time: float | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of ``set_timesteps`` that were given."""
        usual = {
            "num_inference_steps": self.num_inference_steps, "timesteps": self.timesteps, "sigmas": self.sigmas,
            "mu": self.mu,
        }  # fmt: skip
        given = {**{name: value for name, value in usual.items() if value is not None}, **dict(self.further)}
        # some classes take lists, and no tuples
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
