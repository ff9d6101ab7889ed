"""How the texts of options are read, and the checks of output files."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any, Final

import yaml

from ..support.errors import ConfigurationError, cut

__all__ = ["check_output", "integers", "key_values", "labels_of", "numbers", "preset_of", "settings_of"]

#: Characters of a text that an error quotes.
_QUOTED: Final = 300
#: The most numbers of a range.
_LONGEST: Final = 100_000


def settings_of(
    schedule: str | None,
    spacing: str | None,
    preset: str | None,
    schedule_options: list[str] | None,
    spacing_options: list[str] | None,
    prediction: str | None = None,
) -> dict[str, Any]:
    """The fields of the config that the options set, and the preset with its number of tokens."""
    chosen = preset_of(preset) if preset else {}
    given = {
        "beta_schedule": schedule,
        "timestep_spacing": spacing,
        "schedule_options": key_values(schedule_options or []),
        "spacing_options": key_values(spacing_options or []),
        "prediction_type": prediction,
    }
    return chosen | {key: value for key, value in given.items() if value}


def preset_of(text: str) -> dict[str, Any]:
    """NAME or NAME:TOKENS as arguments ``preset`` and ``tokens`` of :meth:`NoiseSchedulerConfig.preset`."""
    name, colon, tokens = text.partition(":")
    if not colon:
        return {"preset": name}
    if not (tokens.isdecimal() and len(tokens) < 10):
        raise ConfigurationError(
            f"got {cut(text)!r}", where="preset", suggestion="write NAME, or NAME:TOKENS, e.g. qwen-image:4096"
        )
    return {"preset": name, "tokens": int(tokens)}


def key_values(pairs: list[str]) -> dict[str, Any]:
    """Texts key=value as a table; values are read as YAML: 0.5, true, text."""
    table = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"got {pair!r}", where="option", suggestion="write key=value, e.g. eta=0.5")
        table[key] = value
        with contextlib.suppress(yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
            table[key] = yaml.safe_load(value)
    return table


def integers(text: str, where: str) -> list[int]:
    """Whole numbers with commas between; "2..5" stands for 2,3,4,5."""
    try:
        numbers: list[int] = []
        for part in text.split(","):
            first, dots, last = part.partition("..")
            span = range(int(first), int(last or first) + 1) if dots else range(int(part), int(part) + 1)
            if not span or len(span) > _LONGEST:
                raise ValueError
            numbers += span
        return numbers
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"got {text[:_QUOTED]!r}",
            where=where,
            suggestion="give whole numbers with commas between, e.g. 4,1,8,8; 0..9 is 0,1,2,3,4,5,6,7,8,9",
        ) from None


def numbers(text: str, where: str) -> list[float]:
    """Finite numbers with commas between."""
    try:
        found = [float(part) for part in text.split(",")]
        if not all(map(math.isfinite, found)):
            raise ValueError
    except ValueError:
        raise ConfigurationError(
            f"got {text[:_QUOTED]!r}", where=where, suggestion="give numbers with commas between, e.g. 1,2.5,4"
        ) from None
    return found


def labels_of(text: str | None) -> list[int] | None:
    """Class labels with commas between; None where none are given."""
    if text is None:
        return None
    numbers = integers(text, "labels")
    if not all(0 <= number < 1 << 63 for number in numbers):
        raise ConfigurationError(f"got {text[:_QUOTED]!r}", where="labels", suggestion="give whole numbers ≥ 0")
    return numbers


def check_output(path: Path, *endings: str) -> None:
    """Raise before any work where a file cannot be written: its ending, its folder, or a package is missing."""
    from ..support.files import refuse_missing_folder

    if path.suffix not in endings:
        raise ConfigurationError(
            f"the ending {path.suffix!r} is not known", where=str(path), suggestion=f"use {' or '.join(endings)}"
        )
    refuse_missing_folder(path)
    if path.suffix in (".png", ".html"):
        from ..support.figures import figure_class

        figure_class()
    if path.suffix == ".html":
        from ..comparison.page import plotly_javascript

        plotly_javascript()
