"""What each field of a config means: its lines in the docstring of the config."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping

from .settings import NoiseSchedulerConfig

__all__ = ["field_notes"]


@functools.cache
def field_notes() -> Mapping[str, str]:
    """Every field of :class:`NoiseSchedulerConfig` with its meaning, as one line of plain text."""
    text = (inspect.getdoc(NoiseSchedulerConfig) or "").split("Attributes:\n")[1].split("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text, re.MULTILINE)
    return {name: _plain(note) for name, note in entries}


def _plain(note: str) -> str:
    """A note of the docstring without its marks and line breaks."""
    joined = re.sub(r"\s+", " ", note)
    return re.sub(r":class:`~?([\w.]+)`", r"\1", joined).replace("``", "").strip()
