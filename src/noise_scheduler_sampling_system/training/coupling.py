"""Which noise a sample is trained with: its own, or the one that minibatch optimal transport gives it."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from ..schedules.times import double
from ..support.errors import ConfigurationError

__all__ = ["COUPLINGS", "coupled_noise", "refuse_missing_scipy"]

COUPLINGS: Final = ("independent", "optimal")


def coupled_noise(x0: Tensor, noise: Tensor) -> Tensor:
    """The noises in the order that minimises Σ‖x₀ − ε‖² over the batch (Tong et al. 2023, arXiv 2302.00482;
    Pooladian et al. 2023, arXiv 2304.14775).

    Paths of flow matching then cross less, and the variance of the target is smaller. The noise of a sample depends on
    the rest of the batch. With conditions, the noise that a network sees in training depends on the condition, and
    that of a sampler does not; the larger the batch, the more.

    Args:
        x0: clean samples, shape (B, ...).
        noise: of the same shape.

    Raises:
        ConfigurationError: scipy is not installed, the shapes differ, or the distances are not finite.
    """
    if noise.shape != x0.shape:
        raise ConfigurationError(
            f"has the shape {tuple(noise.shape)}, and x0 {tuple(x0.shape)}",
            where="noise",
            suggestion="draw it with torch.randn_like(x0)",
        )
    assign = refuse_missing_scipy()
    distances = torch.cdist(double(x0.detach().flatten(1)), double(noise.flatten(1))).square()
    if not bool(torch.isfinite(distances).all()):
        raise ConfigurationError("holds values that are not finite", where="x0", suggestion="check the data")
    _, columns = assign(distances.cpu().numpy())
    return noise[torch.as_tensor(columns, device=noise.device)]


def refuse_missing_scipy() -> Any:
    """scipy's solver of assignment problems.

    Raises:
        ConfigurationError: scipy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise ConfigurationError(
            "optimal transport needs scipy, which is not installed",
            where="coupling",
            suggestion="pip install 'noise-scheduler-sampling-system[training]'",
        ) from None
    return linear_sum_assignment
