"""Steps in which every token of a sample has a time of its own: LTX's pipelines with conditions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ....support.errors import ConfigurationError
from .program import Program

__all__ = ["moved_by_token"]


def moved_by_token(
    program: Program, call: int, output: Tensor, sample: Tensor, times: Tensor, total: int
) -> Callable[[Tensor], Tensor] | None:  # fmt: skip
    """What makes of the state after a plan's step the one in which tokens at other times moved by themselves.

    A token at σ moves to the largest σ of the run below its own, by Euler's step on the straight path.

    Args:
        program: what the run follows.
        call: the model call.
        output: ∂x/∂σ, shape (B, N, C).
        sample: the state, shape (B, N, C).
        times: of the tokens, shape (B, N).
        total: the number of training times.

    Returns:
        None where all tokens are at the time of the call.

    Raises:
        ConfigurationError: a path that is not straight, or a sampler other than Euler's.
    """
    if program.config.beta_schedule != "flow" or times.shape != sample.shape[:2]:
        raise ConfigurationError(
            f"is given for a state of shape {tuple(sample.shape)} on the path {program.config.beta_schedule!r}",
            where="per_token_timesteps",
            suggestion="give times of shape (B, N) and states of shape (B, N, C) of a flow model",
        )
    own = times.double() / total
    if bool(((own - program.calls[call].sigma).abs() < 1e-6).all()):
        return None
    if program.stochastic or any(program.remembers) or program.plan.nfe != program.plan.steps:
        raise ConfigurationError(
            "are not all the time of the step",
            where="per_token_timesteps",
            why=f"{program.plan.sampler!r} takes all tokens from level to level together",
            suggestion='use method="euler", the sampler of FlowMatchEulerDiscreteScheduler',
        )
    levels = program.sigmas.to(own)
    below = (levels * (levels < own[..., None] - 1e-6)).amax(-1)
    moved = sample + (below - own)[..., None].to(output.dtype) * output
    there = ((own - program.calls[call].sigma).abs() < 1e-6)[..., None]
    return lambda after: torch.where(there, after, moved.to(after.dtype))
