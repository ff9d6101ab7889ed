"""The state of a training in one file, so that it can stop and go on bit for bit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..support.errors import FileError, cut, shown
from ..support.tensor_files import read_tensors, write_tensors
from ..support.values import same

__all__ = ["HasState", "load_state", "save_state"]

_NAME = "noise_sampling_training"
_VERSION = 1


class HasState(Protocol):
    """A network, an optimizer, a learning-rate schedule, a :class:`.WeightAverage`."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...


def save_state(
    path: str | os.PathLike[str], step: int, objects: Mapping[str, HasState], facts: Mapping[str, Any] | None = None
) -> None:
    """Write the state of a training as a safetensors file with JSON in its header, whole or not at all.

    All draws of an objective are keyed by the seed and the step, so no state of a random generator is needed.

    Args:
        path: the file.
        step: the number of steps that are done.
        objects: by name: whatever has a ``state_dict`` of tensors, numbers and texts.
        facts: plain data that must be the same when the training goes on: the seed, the settings. Also the moments of
            a density "importance", as a list.

    Raises:
        FileError: a negative step, a state that holds something else, or a file that cannot be written.
    """
    if not isinstance(step, int | np.integer) or step < 0:
        raise FileError(f"got step={shown(step)}", where=str(path), suggestion="give the number of steps that are done")
    tensors: dict[str, Tensor] = {}
    states = {name: _packed(each.state_dict(), name, tensors, str(path)) for name, each in objects.items()}
    from safetensors.torch import save

    about = {"version": _VERSION, "step": int(step), "facts": dict(facts or {}), "states": states}
    write_tensors(path, _NAME, about, save, tensors)


def load_state(
    path: str | os.PathLike[str], objects: Mapping[str, HasState], facts: Mapping[str, Any] | None = None
) -> int:
    """Put the state of a file into objects.

    Args:
        path: the file.
        objects: of the same names as when it was saved, newly made.
        facts: as when it was saved.

    Returns:
        The number of steps that were done.

    Raises:
        FileError: missing or malformed; of other objects or other facts. Objects may then be filled in part.
    """
    from safetensors.torch import load

    tensors, about = read_tensors(path, _NAME, load)
    try:
        version, saved, states, step = (about[name] for name in ("version", "facts", "states", "step"))
        saved, states, step = dict(saved), dict(states), int(step)
    except (TypeError, KeyError, ValueError) as error:
        raise FileError(
            "holds no state of a training", where=str(path), why=cut(error), suggestion="give a file of save_state"
        ) from error
    if version != _VERSION:
        raise FileError(f"is of version {shown(version)}", where=str(path), suggestion="use a newer release to read it")
    wanted = dict(facts or {})
    for name in sorted({*saved, *wanted}):
        if not same(saved.get(name), _plain(wanted.get(name))):
            raise FileError(
                f"it has {name} = {shown(saved.get(name))}, and this training has {shown(wanted.get(name))}",
                where=str(path),
                suggestion="go on with the same settings, or begin a new training in another file",
            )
    if sorted(states) != sorted(objects):
        raise FileError(
            f"it holds {', '.join(sorted(states))}",
            where=str(path),
            suggestion=f"give objects of these names instead of {', '.join(sorted(objects))}",
        )
    for name, each in objects.items():
        _fill(each, states[name], tensors, name, str(path))
    return step


def _fill(each: HasState, packed: Any, tensors: Mapping[str, Tensor], name: str, path: str) -> None:
    try:
        each.load_state_dict(_unpacked(packed, tensors))
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"its {name!r} does not fit", where=path, why=cut(error), suggestion="make the same objects"
        ) from error


def _packed(value: Any, name: str, tensors: dict[str, Tensor], path: str) -> Any:
    """A state as plain data, with its tensors in ``tensors``."""
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
        while name in tensors:  # {"a/b": ..., "a": {"b": ...}}
            name += "'"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Mapping) and all(isinstance(key, int | str) for key in value):
        return {"map": [[key, _packed(item, f"{name}/{key}", tensors, path)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_packed(item, f"{name}/{i}", tensors, path) for i, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise FileError(
        f"the state of {name!r} holds {type(value).__name__}",
        where=path,
        suggestion="a state holds tensors, numbers, texts, lists, and mappings with texts or whole numbers as keys",
    )


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return torch.clone(tensors[content])
    if kind == "map":
        return {key: _unpacked(item, tensors) for key, item in content}
    items = [_unpacked(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def _plain(value: Any) -> Any:
    """A value as JSON returns it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
