"""Flow networks whose time runs from noise at 0 to data at 1, as networks of the library's convention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from ..support.errors import ConfigurationError

__all__ = ["TowardsData"]


@final
class TowardsData(torch.nn.Module):
    """A network that is told 1 − σ and returns x₀ − ε, the velocity towards the data, as one that is told σ.

    Z-Image, Ideogram 4 and MiniMax-H3 have such networks. The result is a model of
    ``prediction_type="flow_prediction"`` for the schedule "flow" with ``time_scale=1``, as in their presets.

    Args:
        network: (x, t, **condition) → a tensor like x, with t = 1 − σ of the kind and shape of the time that it gets.

    Raises:
        ConfigurationError: ``network`` is not callable.
    """

    #: What it returns. A run compares it with its config.
    prediction_type = "flow_prediction"

    def __init__(self, network: Callable[..., Tensor]) -> None:
        super().__init__()
        if not callable(network):
            raise ConfigurationError(
                f"got {type(network).__name__}", where="network", suggestion="give a function of (x, t)"
            )
        self.network = network

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """ε − x₀.

        Args:
            x: (1 − σ)·x₀ + σ·ε, shape (B, ...).
            sigma: σ from 0 to 1, a number or a tensor.
            condition: keywords for the network.
        """
        return -self.network(x, 1.0 - sigma, **condition)
