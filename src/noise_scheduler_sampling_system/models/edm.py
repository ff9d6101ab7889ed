"""EDM's preconditioning, which makes a denoiser from a raw network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from ..config.prediction import Preconditioning
from ..support.argument_checks import checked_number
from ..support.errors import ConfigurationError

__all__ = ["EDMPreconditioned"]


@final
class EDMPreconditioned(torch.nn.Module):
    """D(x; σ) = c_skip·x + c_out·F(c_in·x, ¼·ln σ) (Karras et al. 2022, arXiv 2206.00364, Table 1).

    :class:`~..config.prediction.Preconditioning` gives c_skip, c_out and c_in. The result is a model of
    ``prediction_type="sample"`` for the "edm" schedule, whose time is σ.

    Args:
        network: F(x, c_noise, **condition) → a tensor like x, with c_noise of shape (B,) or (1,).
        sigma_data: s, the standard deviation of the training data.

    Raises:
        ConfigurationError: ``network`` is not callable, or ``sigma_data`` is not a positive number.
    """

    #: What it returns. A run compares it with its config.
    prediction_type = "sample"

    def __init__(self, network: Callable[..., Tensor], sigma_data: float = 0.5) -> None:
        super().__init__()
        if not callable(network):
            raise ConfigurationError(
                f"got {type(network).__name__}", where="network", suggestion="give a function of (x, c_noise)"
            )
        self.network, self.sigma_data = network, checked_number(sigma_data, "sigma_data")
        if self.sigma_data <= 0.0:
            raise ConfigurationError(
                f"got {sigma_data!r}", where="sigma_data", suggestion="give the data's standard deviation (EDM: 0.5)"
            )

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """The denoised x.

        Args:
            x: clean data plus σ times unit noise, shape (B, ...).
            sigma: σ above 0, a number or shape (B,).
            condition: keywords for the network.
        """
        wide = torch.promote_types(x.dtype, torch.float32)  # half precision has no room for σ = 300 squared
        noise = torch.as_tensor(sigma, dtype=wide, device=x.device).reshape(-1)
        level = noise.reshape(-1, *[1] * (x.ndim - 1))
        of = Preconditioning(self.sigma_data)
        output = self.network((of.c_in(level) * x).to(x.dtype), noise.log() / 4.0, **condition)
        return (of.c_skip(level) * x + of.c_out(level) * output).to(x.dtype)
