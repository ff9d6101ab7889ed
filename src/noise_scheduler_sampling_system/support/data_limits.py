"""The limits of data in files, so that a small file cannot take minutes or all memory."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["MOST_LEVELS", "MOST_VALUES", "TOO_DEEP", "refuse_unreadable", "too_many"]

#: The most values in a file. An alias in YAML counts as the values that it stands for.
MOST_VALUES = {"yaml": 20_000, "json": 1_200_000}
#: The most levels of nested lists and mappings.
MOST_LEVELS = 64
#: The most keys of one mapping.
_KEYS = 1_000
#: The most characters of one text.
_TEXT = 100_000
#: The most bits of a whole number. A larger one has no float.
_BITS = 1024

TOO_DEEP = f"lists and mappings are nested more than {MOST_LEVELS} levels deep"


def refuse_unreadable(data: Any, kind: str) -> None:
    """Raise ValueError for plain data beyond the limits of a kind of file. Works level by level, without recursion."""
    count, level = 0, [data]
    for _ in range(MOST_LEVELS + 1):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if len(value) > _KEYS:
                    raise ValueError(f"a mapping has {len(value)} keys, more than {_KEYS}")
                for key in value:
                    _refuse_scalar(key)
                count += len(value)
                inner.extend(value.values())
            elif isinstance(value, list | tuple):
                count += len(value)
                inner.extend(each for each in value if type(each) is not float)
            else:
                _refuse_scalar(value)
        if count > MOST_VALUES[kind]:
            raise ValueError(too_many(kind))
        if not inner:
            return
        level = inner
    raise ValueError(TOO_DEEP)


def too_many(kind: str) -> str:
    """The message for a file with too many values."""
    more = "; a .json file may have more" if kind == "yaml" else ""
    return f"there are more than {MOST_VALUES[kind]} values{more}"


def _refuse_scalar(value: Any) -> None:
    if isinstance(value, str):
        if len(value) > _TEXT:
            raise ValueError(f"a text has {len(value)} characters, more than {_TEXT}")
        if not value.isascii() and re.search("[\ud800-\udfff]", value):
            raise ValueError("a text holds half of a character (a lone surrogate)")
    elif isinstance(value, int) and value.bit_length() > _BITS:
        raise ValueError(f"a whole number has {value.bit_length()} bits, more than {_BITS}")
