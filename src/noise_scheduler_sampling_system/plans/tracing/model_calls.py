"""The model calls of a scheduler of diffusers: the noise level of each, and the quantity that the model predicts."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...config.prediction import PREDICTION_ALIASES, PREDICTION_TYPES
from ...schedules.path import Level
from ...support.errors import ConfigurationError

__all__ = ["ModelCall", "call_times", "end_of", "model_call_of", "setting"]


class ModelCall(NamedTuple):
    """One model call of a scheduler, in the terms of this library.

    Attributes:
        level: of the call, in the path's own coordinates.
        quantity: that the model predicts.
        state_factor: turns the scheduler's state into α·x₀ + σ·ε.
        output_of_state, output_of_quantity: the model's raw output is output_of_state·(the scheduler's state) +
            output_of_quantity·(the quantity). They are (0, 1), unless the scheduler preconditions.
    """

    level: Level
    quantity: str
    state_factor: float = 1.0
    output_of_state: float = 0.0
    output_of_quantity: float = 1.0


def call_times(scheduler: Any) -> Tensor:
    """The times of a scheduler's model calls, each as its pipeline gives it to ``step``."""
    times = torch.as_tensor(scheduler.timesteps)
    if setting(scheduler, "prediction_type") == "trigflow":
        return times[:-1]  # the last time is the end of the run
    if hasattr(scheduler, "_alpha_cumprod"):  # Würstchen: the same, and one time a sample
        return times[:-1, None]
    return times


def model_call_of(scheduler: Any, index: int, timestep: Tensor, input_scale: float) -> ModelCall:
    """Read a model call off a scheduler, after ``scale_model_input`` and before ``step``.

    Args:
        scheduler: a scheduler of diffusers, or an object with the same methods.
        index: the number of the model call.
        timestep: the time that the model is told.
        input_scale: the factor of the model's input.

    Raises:
        ConfigurationError: the scheduler does not show its noise levels.
    """
    quantity = _quantity(setting(scheduler, "prediction_type"))
    where = getattr(scheduler, "step_index", None)
    sigmas = getattr(scheduler, "sigmas", None)
    sigma = None if sigmas is None else float(sigmas[index if where is None else where])
    t = float(timestep)

    if hasattr(scheduler, "precondition_outputs") and sigma is not None:  # EDM: the quantity is the denoiser's D
        skip, out = _coefficients(lambda x, y: scheduler.precondition_outputs(x, y, torch.tensor(sigma)))
        return ModelCall(Level(sigma, 1.0, sigma), "sample", 1.0, -skip / out, 1.0 / out)
    betas_known = hasattr(scheduler, "alphas_cumprod")
    if hasattr(scheduler, "get_scalings_for_boundary_condition") and sigma is not None and not betas_known:
        skip, out = map(float, scheduler.get_scalings_for_boundary_condition(sigma))
        if out == 0.0:  # at σ_min the clean sample is x, whatever the network returns
            return ModelCall(Level(sigma, 1.0, sigma), "sample")
        return ModelCall(Level(sigma, 1.0, sigma), "sample", 1.0, -skip / out, 1.0 / out)
    if quantity == "trigflow":  # TrigFlow's v with the sign of Salimans & Ho
        return ModelCall(Level(t, math.cos(t), math.sin(t)), "v_prediction")
    if input_scale != 1.0:  # k-diffusion's coordinates: the state is x/α, and the model's input is x
        if not 0.0 < input_scale < 1.0:
            raise ConfigurationError(
                f"it scales the model's input by {input_scale:g}",
                where="scheduler.scale_model_input",
                suggestion="a factor between 0 and 1 is α of a variance-preserving path",
            )
        level = Level(t, input_scale, math.sqrt((1.0 - input_scale) * (1.0 + input_scale)))
        return ModelCall(level, quantity or "epsilon", input_scale)
    if sigma is not None and hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        alpha, noise = map(float, scheduler._sigma_to_alpha_sigma_t(torch.tensor(sigma)))
        return ModelCall(Level(t, alpha, noise), quantity or "epsilon")
    if hasattr(scheduler, "initial_alpha_cumprod"):  # DDIM from data to noise: it is told where its step goes
        before = round(t) - setting(scheduler, "num_train_timesteps") // scheduler.num_inference_steps
        cumulative = float(scheduler.alphas_cumprod[before] if before >= 0 else scheduler.initial_alpha_cumprod)
        return ModelCall(Level(t, math.sqrt(cumulative), math.sqrt(1.0 - cumulative)), quantity or "epsilon")
    if betas_known:
        cumulative = float(scheduler.alphas_cumprod[round(t)])
        return ModelCall(Level(t, math.sqrt(cumulative), math.sqrt(1.0 - cumulative)), quantity or "epsilon")
    if sigma is not None and setting(scheduler, "invert_sigmas"):  # its list has 1 − σ, and v runs to the data
        return ModelCall(Level(t, sigma, 1.0 - sigma), "flow_prediction", 1.0, 0.0, -1.0)
    if sigma is not None:
        return _flow(t, sigma, quantity)
    if hasattr(scheduler, "betas") and len(scheduler.betas) == len(scheduler.timesteps) + 1:  # IPNDM
        angle = t * math.pi / 2.0
        return ModelCall(Level(t, math.cos(angle), math.sin(angle)), quantity or "v_prediction")
    if hasattr(scheduler, "add_noise"):
        with suppress(Exception):  # it may work on something else, such as tokens
            alpha, noise = _coefficients(lambda x, y: scheduler.add_noise(x, y, timestep.reshape(1)))
            return ModelCall(Level(t, alpha, noise), quantity or "epsilon")
    raise ConfigurationError(
        "it does not show its noise levels",
        where=type(scheduler).__name__,
        why="it has neither sigmas nor alphas_cumprod, nor an add_noise of (x₀, ε, t); schedulers of tokens have none",
        suggestion="run it in its own loop",
    )


def _flow(t: float, sigma: float, quantity: str | None) -> ModelCall:
    if not 0.0 <= sigma <= 1.0:
        raise ConfigurationError(
            f"it has σ = {sigma:g}, does not scale the model's input, and has no alphas_cumprod",
            where="scheduler.sigmas",
            why="without these, σ is read as that of the straight path x = (1 − σ)·x₀ + σ·ε",
            suggestion="give it scale_model_input or alphas_cumprod",
        )
    if quantity is None and sigma > 0.0 and abs(t + sigma - 1.0) < 1e-6:  # time and v run from noise to data
        return ModelCall(Level(t, 1.0 - sigma, sigma), "flow_prediction", 1.0, 0.0, -1.0)
    return ModelCall(Level(t, 1.0 - sigma, sigma), quantity or "flow_prediction")


def _quantity(name: Any) -> str | None:
    """The name of a diffusers prediction type in this library."""
    if name is None:
        return None
    chosen = {"original_sample": "sample", "raw_phi": "sample"}.get(str(name), PREDICTION_ALIASES.get(name, name))
    if chosen in (*PREDICTION_TYPES, "trigflow"):
        return str(chosen)
    raise ConfigurationError(
        f"its prediction_type is {name!r}", where="scheduler.config", suggestion=f"one of {', '.join(PREDICTION_TYPES)}"
    )


def end_of(scheduler: Any, last: ModelCall) -> Level:
    """The last level of a scheduler's run, in the coordinates of its own state.

    Args:
        scheduler: after its run.
        last: its last model call.
    """
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is None and hasattr(scheduler, "initial_alpha_cumprod"):
        cumulative = float(scheduler.alphas_cumprod[int(scheduler.timesteps[-1])])
        return Level(float(scheduler.timesteps[-1]), math.sqrt(cumulative), math.sqrt(1.0 - cumulative))
    if sigmas is None:
        cumulative = float(getattr(scheduler, "final_alpha_cumprod", 1.0))
        return Level(math.nan, math.sqrt(cumulative), math.sqrt(1.0 - cumulative))
    sigma = float(sigmas[-1])
    if setting(scheduler, "invert_sigmas"):
        return Level(math.nan, sigma, 1.0 - sigma)
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t") and last.state_factor == 1.0:
        return Level(math.nan, *map(float, scheduler._sigma_to_alpha_sigma_t(torch.tensor(sigma))))
    straight = last.quantity == "flow_prediction" and last.level.alpha < 1.0
    return Level(math.nan, 1.0 - sigma if straight else 1.0, sigma)


def setting(scheduler: Any, name: str) -> Any:
    """An entry of a scheduler's config, or None."""
    config = getattr(scheduler, "config", {})
    return config.get(name) if hasattr(config, "get") else getattr(config, name, None)


def _coefficients(function: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """The coefficients (a, b) of a linear function a·x + b·y."""
    one, none = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    return float(function(one, none)), float(function(none, one))
