"""Steps in which every token of a sample has its own time: LTX's pipelines with conditions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ....support.errors import ConfigurationError
from .call_plan import CallPlan

__all__ = ["step_of_each_token"]


def step_of_each_token(
    plan: CallPlan, call: int, output: Tensor, sample: Tensor, times: Tensor, total: int
) -> Callable[[Tensor], Tensor] | None:  # fmt: skip
    """A function of the state after the plan's step that replaces the tokens whose time is not that of the call.

    A token at σ moves to the largest σ of the run below its own, by Euler's step on the straight path.

    Args:
        plan: the plan of the run.
        call: the number of the model call.
        output: ∂x/∂σ, shape (B, N, C).
        sample: the state, shape (B, N, C).
        times: of the tokens, shape (B, N).
        total: the number of training times.

    Returns:
        None where all tokens have the time of the call.

    Raises:
        ConfigurationError: a path that is not straight, or a sampler other than Euler's.
    """
    if plan.config.beta_schedule != "flow" or times.shape != sample.shape[:2]:
        raise ConfigurationError(
            f"is given for a state of shape {tuple(sample.shape)} on the path {plan.config.beta_schedule!r}",
            where="per_token_timesteps",
            suggestion="give times of shape (B, N) and states of shape (B, N, C) of a flow model",
        )
    own = times.double() / total
    at_call = (own - plan.calls[call].sigma).abs() < 1e-6
    if bool(at_call.all()):
        return None
    if plan.stochastic or any(plan.reads_past) or plan.plan.nfe != plan.plan.steps:
        raise ConfigurationError(
            "some are not the time of the step",
            where="per_token_timesteps",
            why=f"{plan.plan.sampler!r} takes all tokens from level to level together",
            suggestion='use method="euler", the sampler of FlowMatchEulerDiscreteScheduler',
        )
    levels = plan.sigmas.to(own)
    below = (levels * (levels < own[..., None] - 1e-6)).amax(-1)
    moved = sample + (below - own)[..., None].to(output.dtype) * output
    return lambda after: torch.where(at_call[..., None], after, moved.to(after.dtype))
