"""What one training step needs: the noisy samples, the times, the target and the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ..support.errors import ModelOutputError
from ..support.values import ByValue

__all__ = ["TrainingBatch"]


@final
@dataclass(frozen=True, eq=False)
class TrainingBatch(ByValue):
    """The parts of a training step.

    A loop of one's own calls ``network(batch.noisy, batch.t, **batch.condition)`` and ``batch.loss(output)``.

    Attributes:
        noisy: what the network sees, shape (B, ...), in the type of the clean samples.
        t: the times that it is told, shape (B,) or (B, T): whole numbers (int64) on a schedule with betas, else
            float32, or float64 for float64 samples.
        target: what it should return, shape (B, ...).
        weight: of the squared error, of the shape of ``t``, float32 (float64 for float64 samples). It holds the
            weighting and, where the loss is over another density than that of the draws, the ratio of the two.
        noise: the noise of the target, shape (B, ...).
        condition: the keywords of the network, with some samples dropped to the null condition.
        frame_dim: the dimension of the samples that counts the T frames.
    """

    noisy: Tensor
    t: Tensor
    target: Tensor
    weight: Tensor
    noise: Tensor
    condition: Mapping[str, Any]
    frame_dim: int = 1

    def errors(self, output: Tensor) -> Tensor:
        """The mean squared error of each sample, or of each frame, without weight; the shape of ``t``.

        Args:
            output: of the network, shape (B, ...).

        Raises:
            ModelOutputError: it does not have the shape of the target.
        """
        if output.shape != self.target.shape:
            raise ModelOutputError(
                f"the network returned shape {tuple(output.shape)}, and the target has {tuple(self.target.shape)}",
                where="output",
                suggestion="return one prediction for each entry of x; of a learned variance give the first half alone",
            )
        wide = torch.promote_types(torch.float32, output.dtype)
        squares = (output.to(wide) - self.target.to(wide)).square()
        kept = {0} if self.t.ndim < 2 else {0, self.frame_dim}
        rest = [dim for dim in range(squares.ndim) if dim not in kept]
        return squares.mean(rest) if rest else squares

    def losses(self, output: Tensor) -> Tensor:
        """The weighted loss of each sample, shape (B,)."""
        weighted = self.weight * self.errors(output)
        return weighted.mean(1) if weighted.ndim == 2 else weighted

    def loss(self, output: Tensor) -> Tensor:
        """The mean of :meth:`losses`, a single value."""
        return self.losses(output).mean()
