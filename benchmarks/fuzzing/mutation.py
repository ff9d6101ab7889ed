"""Valid content, changed: byte by byte, or in a value that it holds."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from typing import Any

import torch
import yaml
from safetensors.torch import load, save

from noise_scheduler_sampling_system.support.tensor_files import parts_of

__all__ = ["TOKENS", "WRONG", "changed", "changed_bytes", "edited"]

#: What a value is replaced by.
WRONG: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3.7, -0.0, 1e308, 5e-324, -1e300, math.nan, math.inf, -math.inf, 10**400, 2**64,
    2**63, -(2**63), "", "x", "1", "nan", "-1", "x" * 70_000, "\u00e9\u4e2d\U0001f600", [], [[]], {}, {"": 0},
    {"a": {"b": [None]}}, [None], [1, [2, [3]]], [1.0] * 4, [[0, 0]] * 4, ["data"], "data", "sample", "v_prediction",
    "custom", "heun", "cosine", [0] * 5000, {str(i): i for i in range(1500)}, "../../x", "a\0b",
)  # fmt: skip
TOKENS: tuple[bytes, ...] = (
    b"&a ", b"*a", b"<<: *b", b"!!int ", b"!!timestamp x", b"!!python/object:os.system ",
    b"!!python/object/apply:os.system [touch stranger]", b"- ", b"? ", b": ", b"[",
    b"]", b"{", b"}", b'"', b"'", b"|\n", b"\t", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"NaN", b"Infinity",
    b"-Infinity", b"1e999", b"0x", b"9" * 5000, b"[" * 2000, b'{"a":' * 2000, b"[[[" * 30, b"\\ud800", b"\\u0000",
    b"null", b"true", b"1_000", b"1:59:59", b"2024-01-01", b"#", b"%", b"---\n", b"...\n", b"\r\n", b",",
    b"x" * 100_000, b"&b [*b]", b"~",
)  # fmt: skip


def changed(data: bytes, draw: random.Random, ending: str, beside: str | None = None) -> bytes:
    """Content, changed in one to three places.

    Args:
        data: valid content.
        draw: the generator.
        ending: ".json", ".yaml" or ".safetensors".
        beside: of a safetensors file: the name of the JSON in its metadata, or "" where it has none.
    """
    by_value = draw.random() < 0.75
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        data = _changed_value(data, draw, ending, beside) if by_value else changed_bytes(data, draw)
    return data


def changed_bytes(data: bytes, draw: random.Random) -> bytes:
    """Bytes flipped, cut, doubled, or with other bytes put in."""
    start = draw.randrange(len(data) + 1)
    stop = min(len(data), start + draw.choice([1, 1, 2, 8, 64, 10_000]))
    part = data[start:stop]
    how = draw.randrange(7)
    if how == 0 and part:
        part = bytes([part[0] ^ (1 << draw.randrange(8))]) + part[1:]
    elif how == 1:
        part = b""
    elif how == 2:
        part = part * draw.choice([2, 2, 3, 100])
    elif how == 3:
        part = draw.randbytes(draw.choice([1, 4, 100]))
    elif how == 4:
        part = draw.choice(TOKENS) + part
    elif how == 5:
        part = draw.choice(TOKENS)
    else:
        return data[:start] if draw.random() < 0.7 else data[start:]
    return data[:start] + part + data[stop:]


def _changed_value(data: bytes, draw: random.Random, ending: str, beside: str | None) -> bytes:
    """What the content holds, changed; its bytes, where it holds nothing any more."""
    try:
        if ending == ".safetensors":
            return _changed_tensors(beside or "", data, draw)
        if ending == ".json":
            return json.dumps(edited(json.loads(data), draw)).encode()
        return yaml.safe_dump(edited(yaml.safe_load(data), draw)).encode()
    except Exception:  # an earlier change has made it unreadable
        return changed_bytes(data, draw)


def _changed_tensors(beside: str, data: bytes, draw: random.Random) -> bytes:
    metadata, tensors = parts_of(data)[0], load(data)
    how = draw.random()
    if beside and how < 0.6:
        metadata[beside] = json.dumps(edited(json.loads(metadata[beside]), draw))
    elif how < 0.85 and tensors:
        name = draw.choice(sorted(tensors))
        tensor = tensors.pop(name)
        shape = draw.choice([(0,), (1,), (3, 5), (*tensor.shape, 1), tensor.shape[:1]])
        other = draw.choice([
            tensor.double(), tensor.half(), tensor.bfloat16(), tensor.long(), tensor > 0, tensor * math.nan,
            tensor * 1e38, tensor * 1.001, _one_changed(tensor, draw), _one_changed(tensor, draw),
            -tensor, tensor + 1, tensor[:1] if tensor.ndim else tensor, tensor.flatten(),
            torch.zeros(shape), torch.full(shape, math.inf), None,
        ])  # fmt: skip
        place = draw.choice([name, name, name, "x", "history.0", "history.9", "memory.a", "last.output", "", "other"])
        tensors |= {} if other is None else {place: other.contiguous()}
    else:
        _edit(metadata, draw)
        metadata = {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    if draw.random() < 0.9:
        metadata.pop("content_hash", None)
    return save(tensors, metadata=metadata)


def _one_changed(tensor: torch.Tensor, draw: random.Random) -> torch.Tensor:
    """A copy with one number changed."""
    flat = tensor.flatten().clone()
    if flat.numel() and flat.is_floating_point():
        flat[draw.randrange(flat.numel())] *= draw.choice([0.0, -1.0, 1.001, 2.0, 1e30, math.nan, math.inf])
    return flat.reshape(tensor.shape)


def edited(data: Any, draw: random.Random) -> Any:
    """A copy with something else in one place; the hash of its content is taken out of most."""
    data = copy.deepcopy(data)
    if draw.random() < 0.9:
        for each in _mappings(data):
            each.pop("content_hash", None)
    if draw.random() < 0.02 or not isinstance(data, dict | list):
        return draw.choice(WRONG)
    _edit(data, draw)
    return data


def _mappings(data: Any) -> Iterator[dict[str, Any]]:
    if isinstance(data, dict):
        yield data
    for each in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _mappings(each)


def _edit(data: dict[str, Any] | list[Any], draw: random.Random) -> None:
    """Change one value, deep inside or not."""
    inside: Any = data
    while True:
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        if not keys:
            return
        key = draw.choice(keys)
        if not isinstance(inside[key], dict | list) or not inside[key] or draw.random() < 0.15:
            break
        inside = inside[key]
    how = draw.randrange(8)
    value = inside[key]
    if how == 0:
        del inside[key]
    elif how == 1 and isinstance(inside, dict):
        inside[draw.choice([f"{key}x", "", "format", "1" * 50, "plans", "x" * 300])] = inside.pop(key)
    elif how == 2 and isinstance(inside, list):
        inside.insert(draw.randrange(len(inside) + 1), value)
    elif how == 3:
        other = draw.choice(keys)
        inside[key], inside[other] = inside[other], value
    elif how == 4 and isinstance(value, int | float) and not isinstance(value, bool):
        inside[key] = draw.choice([
            value * 2, -value, value + 1, value * 1.001, value * (1 + 1e-12), value * 1e30, value * 1e300, float(value),
            str(value), int(value),
        ])  # fmt: skip
    elif how == 5:
        inside[key] = [value]
    elif how == 6 and draw.random() < 0.1:
        for _ in range(draw.choice([50, 100, 500])):
            inside[key] = [inside[key]]
    else:
        inside[key] = draw.choice(WRONG)
