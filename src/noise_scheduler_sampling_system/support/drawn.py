"""Objects that show themselves in a notebook: as a figure, and as HTML. The package ``plots`` draws them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .hooks import Hook

__all__ = ["HTML", "PLOT", "Drawn", "brief"]

#: Draws an object.
PLOT: Hook[Callable[[Any], Any]] = Hook("plot")
#: An object as HTML.
HTML: Hook[Callable[[Any], str]] = Hook("_repr_html_")


class Drawn:
    """Base of objects that a notebook shows as text and figure."""

    __slots__ = ()

    def plot(self) -> Any:
        """Draw the object; see :mod:`.plots`.

        Returns:
            A ``matplotlib.figure.Figure``.

        Raises:
            ConfigurationError: matplotlib is not installed, or there is nothing to draw.
        """
        return PLOT.function(self)

    def _repr_html_(self) -> str:
        return HTML.function(self)


def brief(value: Any) -> str:
    """The repr of a value, with shape and type in place of the numbers of a tensor."""
    if isinstance(value, Tensor):
        place = "" if value.device.type == "cpu" else f", {value.device}"
        return f"tensor(shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}{place})"
    if isinstance(value, Mapping):
        held = getattr(value, "originals", value)  # reading copies of tensors would make them
        return "{" + ", ".join(f"{name!r}: {brief(held[name])}" for name in held) + "}"
    return repr(value)
