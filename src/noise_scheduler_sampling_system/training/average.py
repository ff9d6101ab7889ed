"""The exponential moving average of a network's weights, which is what one samples from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import nn

from ..support.argument_checks import checked_number
from ..support.errors import ConfigurationError

__all__ = ["WeightAverage"]


@final
class WeightAverage:
    """A copy of a network whose weights are an exponential moving average of those of the trained one.

    After n updates the next one keeps min(decay, (1 + n)/(10 + n)) of the average, so that the first weights are
    forgotten early. Buffers and whole-number tensors are copied.

    Args:
        network: the trained one.
        decay: the part that an update keeps, from 0 to below 1.

    Attributes:
        network: the averaged copy, in evaluation mode and without gradients.
        updates: n.

    Raises:
        ConfigurationError: not a network, or a decay out of range.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        if not isinstance(network, nn.Module):
            raise ConfigurationError(
                f"got {type(network).__name__}", where="network", suggestion="give the torch.nn.Module that is trained"
            )
        self.decay = checked_number(decay, "decay", 0.0, 1.0 - 1e-9)
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the weights of the trained network, after a step of its optimizer.

        Raises:
            ConfigurationError: a network with other weights.
        """
        ours, theirs = ([*each.parameters(), *each.buffers()] for each in (self.network, network))
        if [each.shape for each in ours] != [each.shape for each in theirs]:
            raise ConfigurationError(
                "does not have the weights of the averaged one",
                where="network",
                suggestion="give the network that the average was made of",
            )
        kept = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for mine, latest in zip(ours, theirs, strict=True):
            if isinstance(mine, nn.Parameter) and mine.is_floating_point():
                mine.lerp_(latest.to(mine.dtype), 1.0 - kept)
            else:
                mine.copy_(latest)

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of updates."""
        return {"updates": self.updates, "network": self.network.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        self.updates = int(state["updates"])
