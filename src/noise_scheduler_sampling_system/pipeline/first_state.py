"""What a run starts from: the shape of the batch, and given noise or a given sample."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from ..running.faults import is_finite
from ..support.argument_checks import as_tensor, checked_shape
from ..support.errors import ConfigurationError
from .request import Request

__all__ = ["GivenStart"]


class GivenStart(NamedTuple):
    """The tensor that a user gave for the first state.

    Attributes:
        name: "initial_noise" or "initial_sample".
        tensor: shape (B, ...); None: the seed determines the noise.
        context: the known frames of a run with a noise level per frame, shape (B, ...) with one entry for each in the
            dimension of frames; None: there are none.
        places: the numbers of these frames.
        frame_dim: the dimension of frames.
    """

    name: str
    tensor: Tensor | None
    context: Tensor | None = None
    places: tuple[int, ...] = ()
    frame_dim: int = 1

    @classmethod
    def of(cls, request: Request) -> GivenStart:
        """The start of a request.

        Raises:
            ConfigurationError: both are given, or what is given is not an array of numbers.
        """
        name, value = "initial_noise", request.initial_noise
        if request.initial_sample is not None:
            if value is not None:
                raise ConfigurationError(
                    "is given beside initial_noise", where="initial_sample", suggestion="give the one or the other"
                )
            name, value = "initial_sample", request.initial_sample
        return _OF_SEED if value is None else cls(name, as_tensor(value, name))

    def batch_shape(self, shape: Any) -> tuple[int, ...]:
        """The shape of the batch: as given, or that of the tensor.

        Raises:
            ConfigurationError: a wrong shape, none, or another one than the tensor's.
        """
        own = None if self.tensor is None else tuple(self.tensor.shape)
        if shape is None and own is None:
            raise ConfigurationError("is missing", where="shape", suggestion="give (batch, channels, height, width)")
        checked = checked_shape(own if shape is None else shape)
        if own is not None and own != checked:
            raise ConfigurationError(
                f"has shape {own}, the samples {checked}",
                where=self.name,
                suggestion="leave shape out, or make them the same",
            )
        return checked

    def placed(self, device: torch.device, dtype: torch.dtype) -> GivenStart:
        """The start on the device and in the type of the run.

        Raises:
            ConfigurationError: it is not finite there.
        """
        if self.tensor is None:
            return self
        placed = self.tensor
        if placed.dtype is not dtype or placed.device != device:
            placed = placed.to(device, dtype)
        if not is_finite(placed):
            finite = is_finite(self.tensor)
            raise ConfigurationError(
                f"holds values beyond {dtype}" if finite else "holds NaN or Inf",
                where=self.name,
                suggestion="give a wider dtype" if finite else "check how it was made",
            )
        return self if placed is self.tensor else self._replace(tensor=placed)

    def part(self, start: int, stop: int) -> GivenStart:
        """The start of samples start to stop alone."""
        tensor, context = (None if each is None else each[start:stop] for each in (self.tensor, self.context))
        return self._replace(tensor=tensor, context=context)

    def with_context(self, x: Tensor) -> Tensor:
        """The state with the known frames in their places, in a new tensor; x where there are none."""
        if self.context is None:
            return x
        places = torch.tensor(self.places, device=x.device)
        return x.index_copy(self.frame_dim, places, self.context)


#: The start of a run whose seed determines the noise.
_OF_SEED: Final = GivenStart("initial_noise", None)
