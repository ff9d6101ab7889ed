"""Tensors with plain data beside them, in safetensors files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .errors import FileError
from .files import cut, read_bytes, write_atomic
from .tables import parse_json, to_json

__all__ = ["read_tensors", "write_tensors"]

T = TypeVar("T")


def read_tensors(
    path: str | os.PathLike[str], name: str, load: Callable[[bytes], dict[str, T]]
) -> tuple[dict[str, T], Any]:
    """The tensors of a safetensors file, and the data that :func:`write_tensors` put beside them.

    Args:
        path: the file.
        name: what the data are called.
        load: ``safetensors.torch.load`` or ``safetensors.numpy.load``.

    Raises:
        FileError: missing, malformed, or without these data.
    """
    data = read_bytes(path)
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return tensors, parse_json(header["__metadata__"][name])
    except Exception as error:  # each library has its own for what is malformed
        missing = isinstance(error, KeyError)
        raise FileError(
            f"holds no {name}" if missing else "is not a valid safetensors file",
            where=str(path),
            why="" if missing else cut(error),
            suggestion="give a file that was saved for it",
        ) from error


def write_tensors(
    path: str | os.PathLike[str],
    name: str,
    about: Mapping[str, Any],
    save: Callable[..., bytes],
    tensors: dict[str, Any],
) -> None:
    """Write tensors and plain data as a safetensors file, whole or not at all.

    Raises:
        FileError: data that are not plain, or a file that cannot be written.
    """
    try:
        data = save(tensors, metadata={name: to_json(about)})
    except ValueError as error:
        raise FileError(
            "cannot be written", where=str(path), why=cut(error), suggestion="use numbers, texts, lists and mappings"
        ) from error
    write_atomic(path, data)
