"""Where the parameters of a model are, and where a run is."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch import Tensor

from ..support.errors import DeviceError, shown

__all__ = ["device_of", "device_of_parameter", "first_float_parameter", "resolve_device"]


def resolve_device(
    device: str | torch.device, owner: torch.device | None, tensor: Tensor | None = None
) -> torch.device:
    """The device of a run.

    Args:
        device: "auto" is the model's device where it has parameters, else the tensor's, else CUDA, else MPS, else
            the CPU.
        owner: the model's device (:func:`device_of`).
        tensor: what the run starts from, if given.

    Raises:
        DeviceError: the device is unknown, not available, "meta", or not the model's.
    """
    if isinstance(device, str) and device == "auto":
        if owner is not None:
            return owner
        if tensor is not None:
            return tensor.device
        return _of_machine()
    try:
        chosen = torch.device(device)
        chosen = torch.empty(0, device=chosen).device
    except Exception as error:  # each kind of device raises its own
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise DeviceError(
            f"{shown(device)} cannot be used", where="device", why=why, suggestion="device='auto'"
        ) from None
    if chosen.type == "meta":
        raise DeviceError(
            "tensors on the meta device have no values", where="device", suggestion="device='auto', or a real device"
        )
    if owner is not None and owner != chosen:
        raise DeviceError(
            f"the run is on {chosen}, the model on {owner}",
            where="device",
            suggestion=f"move the model: model.to({str(chosen)!r}), or leave device='auto'",
        )
    return chosen


@functools.cache
def _of_machine() -> torch.device:
    """The device of a run that nothing else decides."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def first_float_parameter(model: Any) -> Tensor | None:
    """The first floating-point parameter or buffer of a module; None for modules without, and for other callables."""
    if not isinstance(model, torch.nn.Module):
        return None
    held = itertools.chain(model.parameters(), model.buffers())  # lazily: a large network takes milliseconds to walk
    return next((p for p in held if p.is_floating_point()), None)


def device_of(model: Any) -> torch.device | None:
    """The device of a model; None where it has no parameters, or where they are loaded for each call.

    Raises:
        DeviceError: its parameters are on the meta device.
    """
    parameter = first_float_parameter(model)
    return None if parameter is None else device_of_parameter(model, parameter)


def device_of_parameter(model: Any, parameter: Tensor) -> torch.device | None:
    """As :func:`device_of`, from the model's first parameter."""
    if not parameter.is_meta:
        return parameter.device
    if any(hasattr(part, "_hf_hook") for part in model.modules()):  # offloaded: each call loads it
        return None
    raise DeviceError(
        "the model's parameters are on the meta device, where they have no values",
        where="model",
        suggestion="load its weights: model.to_empty(device='cpu'), then load_state_dict(...)",
    )
