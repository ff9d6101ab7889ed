"""Safetensors files that hold tensors, and plain data in their metadata."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .data_files import parse_json, to_json
from .errors import FileError, cut, shown
from .files import read_bytes, write_atomic

__all__ = ["parts_of", "read_tensors", "write_tensors"]

T = TypeVar("T")
_HASH = "content_hash"


def read_tensors(
    path: str | os.PathLike[str], name: str, load: Callable[[bytes], dict[str, T]]
) -> tuple[dict[str, T], Any]:
    """The tensors of a safetensors file, and the data that :func:`write_tensors` wrote with them.

    Args:
        path: the file.
        name: the key of the data in the file's metadata.
        load: ``safetensors.torch.load`` or ``safetensors.numpy.load``.

    Raises:
        FileError: missing, malformed, without these data, or changed since it was saved.
    """
    data = read_bytes(path)
    try:
        tensors = load(data)
        metadata, header, numbers = parts_of(data)
        if name not in metadata:
            raise FileError(f"holds no {name}", where=str(path), suggestion="give a file that was saved for it")
        said, holds = metadata.get(_HASH), _hash(metadata[name], header, numbers)
        about = parse_json(metadata[name])
    except FileError:
        raise
    except Exception as error:  # safetensors has its own exceptions for malformed files
        raise FileError(
            "is not a valid safetensors file",
            where=str(path),
            why=cut(error),
            suggestion="give a file that was saved for it",
        ) from error
    if said not in (None, holds):  # files of earlier versions have none
        raise FileError(
            "its content was changed after it was saved",
            where=str(path),
            why=f"its content_hash is {shown(said)}, and the hash of what it holds is '{holds}'",
            suggestion="restore the file",
        )
    return tensors, about


def write_tensors(
    path: str | os.PathLike[str],
    name: str,
    about: Mapping[str, Any],
    save: Callable[..., bytes],
    tensors: dict[str, Any],
) -> None:
    """Write tensors and plain data as a safetensors file, with the hash of both, whole or not at all.

    Args:
        path: the file.
        name: the key of the data in the file's metadata.
        about: the data.
        save: ``safetensors.torch.save`` or ``safetensors.numpy.save``.
        tensors: by name.

    Raises:
        FileError: data that are not plain, or a file that cannot be written.
    """
    try:
        text = to_json(about)
    except ValueError as error:
        raise FileError(
            "cannot be written", where=str(path), why=cut(error), suggestion="use numbers, texts, lists and mappings"
        ) from error
    _, header, numbers = parts_of(save(tensors))
    metadata = {name: text, _HASH: _hash(text, header, numbers)}
    encoded = json.dumps({"__metadata__": metadata, **header}).encode()
    encoded += b" " * (-len(encoded) % 8)  # so that the numbers are aligned
    write_atomic(path, b"".join([len(encoded).to_bytes(8, "little"), encoded, numbers]))


def parts_of(data: bytes) -> tuple[dict[str, str], dict[str, Any], memoryview]:
    """The parts of a safetensors file: its metadata, the table of its tensors, and their numbers.

    Raises:
        ValueError: the header is not valid.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    table = json.loads(data[8:start])
    return table.pop("__metadata__", {}), table, memoryview(data)[start:]


def _hash(text: str, header: Mapping[str, Any], numbers: memoryview) -> str:
    """SHA-256 of the data, of the names, types and shapes of the tensors, and of their numbers."""
    digest = hashlib.sha256(json.dumps([text, header], sort_keys=True).encode())
    digest.update(numbers)
    return digest.hexdigest()
