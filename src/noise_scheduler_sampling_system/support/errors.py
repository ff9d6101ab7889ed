"""What can go wrong, by category: each error says what, where, why and what to do."""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "DeviceError",
    "FileError",
    "ModelOutputError",
    "NoiseSamplingError",
    "NumericsError",
    "OutOfMemoryError",
    "shown",
]

#: Characters of a value that a message repeats.
_SHOWN = 120
#: Characters of each part of a message.
_PART = 2000


def shown(value: object) -> str:
    """A value as a message repeats it: its repr, cut where it is long; kind and shape of what holds many numbers."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and not isinstance(value, type):  # tensors and arrays
        kind = f"{type(value).__name__} of {getattr(value, 'dtype', 'unknown type')}"
        return f"{kind}, shape {tuple(shape)}" if shape else f"{kind}, a single value"
    try:
        text = repr(value[: _SHOWN + 1] if isinstance(value, str | bytes) else value)
    except Exception:  # an object of the caller's, or a whole number of thousands of digits
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({type(value).__name__})"


def _cut(part: str) -> str:
    """A part of a message without what nobody reads: some values that it repeats come from files."""
    return part if len(part) <= _PART else f"{part[:_PART]}..."


class NoiseSamplingError(Exception):
    """Base of every error that this library raises on purpose.

    Args:
        what: the fact, one sentence.
        where: the field path, file, argument or step concerned.
        suggestion: what to do about it.
        why: the reason it cannot work, where the fact does not say it.
    """

    category = "general"

    def __init__(self, what: str, *, where: str, suggestion: str, why: str = "") -> None:
        what, where, why, suggestion = (_cut(part) for part in (what, where, why, suggestion))
        self.what, self.where, self.why, self.suggestion = what, where, why, suggestion
        lines = [f"{where}: {what}" if where else what]
        if why:
            lines.append(f"  why: {why}")
        if suggestion:
            lines.append(f"  try: {suggestion}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.why, self.suggestion))


def _rebuild(cls: type[NoiseSamplingError], what: str, where: str, why: str, suggestion: str) -> NoiseSamplingError:
    return cls(what, where=where, why=why, suggestion=suggestion)


class ConfigurationError(NoiseSamplingError, ValueError):
    """A setting, or a combination of settings, that cannot work."""

    category = "configuration"


class ModelOutputError(NoiseSamplingError, ValueError):
    """The model returned something of the wrong kind, shape or value."""

    category = "model output"


class DeviceError(NoiseSamplingError, RuntimeError):
    """A device that is missing, or a model and a tensor on different ones."""

    category = "device"


class OutOfMemoryError(NoiseSamplingError, MemoryError):
    """Not even a batch of one sample fits, or the samples of the whole batch do not."""

    category = "memory"


class NumericsError(NoiseSamplingError, ArithmeticError):
    """A value left the range of floating-point numbers, or a plan's table is not usable."""

    category = "numerics"


class FileError(NoiseSamplingError, OSError):
    """A file that is missing, unreadable, malformed or cannot be written."""

    category = "file"

    def __str__(self) -> str:  # OSError formats its arguments in its own way
        return str(self.args[0])
