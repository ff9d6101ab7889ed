"""Tensors with plain data beside them, in safetensors files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .data_files import parse_json, to_json
from .errors import FileError, shown
from .files import cut, read_bytes, write_atomic

__all__ = ["read_tensors", "write_tensors"]

T = TypeVar("T")
_HASH = "content_hash"


def read_tensors(
    path: str | os.PathLike[str], name: str, load: Callable[[bytes], dict[str, T]]
) -> tuple[dict[str, T], Any]:
    """The tensors of a safetensors file, and the data that :func:`write_tensors` put beside them.

    Args:
        path: the file.
        name: what the data are called.
        load: ``safetensors.torch.load`` or ``safetensors.numpy.load``.

    Raises:
        FileError: missing, malformed, without these data, or changed since it was saved.
    """
    data = read_bytes(path)
    try:
        tensors = load(data)
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        metadata = header.pop("__metadata__", {})
        if name not in metadata:
            raise FileError(f"holds no {name}", where=str(path), suggestion="give a file that was saved for it")
        said, holds = metadata.get(_HASH), _hash(metadata[name], header, memoryview(data)[start:])
        about = parse_json(metadata[name])
    except FileError:
        raise
    except Exception as error:  # each library has its own for what is malformed
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
            why=f"it says content_hash {shown(said)}, and what it holds has '{holds}'",
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

    Raises:
        FileError: data that are not plain, or a file that cannot be written.
    """
    try:
        text = to_json(about)
    except ValueError as error:
        raise FileError(
            "cannot be written", where=str(path), why=cut(error), suggestion="use numbers, texts, lists and mappings"
        ) from error
    data = save(tensors)
    start = 8 + int.from_bytes(data[:8], "little")
    header, numbers = json.loads(data[8:start]), memoryview(data)[start:]
    header.pop("__metadata__", None)
    metadata = {name: text, _HASH: _hash(text, header, numbers)}
    encoded = json.dumps({"__metadata__": metadata, **header}).encode()
    encoded += b" " * (-len(encoded) % 8)  # so that the numbers are aligned
    write_atomic(path, b"".join([len(encoded).to_bytes(8, "little"), encoded, numbers]))


def _hash(text: str, header: Mapping[str, Any], numbers: memoryview) -> str:
    """SHA-256 of what is beside the tensors, of their names, types and shapes, and of their numbers."""
    digest = hashlib.sha256(json.dumps([text, header], sort_keys=True).encode())
    digest.update(numbers)
    return digest.hexdigest()
