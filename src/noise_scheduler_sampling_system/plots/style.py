"""What all figures share: colours, axes and the matplotlib class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..support.errors import ConfigurationError, shown
from ..support.figures import figure_class

__all__ = ["COLORS", "DASHES", "named", "new_axes"]

#: Distinct, also for readers who do not tell red from green.
COLORS: Final = ("#1f5fa8", "#c4431c", "#2a7f3f", "#8a3fa0", "#a8740a", "#0f8a8a", "#b0306a", "#5b6b1e")
#: Of more lines than colours.
DASHES: Final = ("-", "--", "-.", ":")


def new_axes(width: float, height: float, count: int = 1) -> tuple[Any, list[Any]]:
    """A white figure in inches with ``count`` axes side by side, without upper and right frame lines.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    figure = figure_class()(figsize=(width, height), dpi=120, facecolor="white", layout="constrained")
    axes = [figure.add_subplot(1, count, k + 1) for k in range(count)]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(True, color="#e6e6e6", linewidth=0.8)
        each.set_axisbelow(True)
    return figure, axes


def named(given: Any, kind: type, where: str) -> dict[str, Any]:
    """One object, a sequence or a mapping as a mapping with names.

    Raises:
        ConfigurationError: nothing, or an object of another type.
    """
    if isinstance(given, Mapping):
        items = {str(name): value for name, value in given.items()}
    else:
        values = list(given) if isinstance(given, Sequence) and not isinstance(given, kind) else [given]
        items = {}
        for value in values:
            name = repr(value)
            items[name if name not in items else f"{name} #{len(items) + 1}"] = value
    for value in items.values():
        if not isinstance(value, kind):
            raise ConfigurationError(
                f"got {shown(value)}", where=where, suggestion=f"give a {kind.__name__}, or several"
            )
    if not items:
        raise ConfigurationError("is empty", where=where, suggestion=f"give a {kind.__name__}")
    return items
