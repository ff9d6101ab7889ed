"""The errors of this library, by category. Each says what is wrong, where, why, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ConfigurationError",
    "DeadlineError",
    "DeviceError",
    "FileError",
    "ModelOutputError",
    "NoiseSamplingError",
    "NumericsError",
    "OutOfMemoryError",
    "RefusedError",
    "SeveralMistakesError",
    "StoppedError",
    "cut",
    "shown",
]

#: The most characters of a value that a message repeats.
_SHOWN = 120
#: The most characters of a part of a message: some values in it come from files.
_PART = 2000
#: The most characters of a message of another library that an error repeats.
_REASON = 400
#: The most mistakes that a message lists.
_LISTED = 30
#: Characters of advice that is given once.
_LONG_ADVICE = 200


def shown(value: object) -> str:
    """A value as a message repeats it: a short repr, or the type and shape of a tensor or an array."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and not isinstance(value, type):  # tensors and arrays
        kind = f"{type(value).__name__} of {getattr(value, 'dtype', 'unknown type')}"
        return f"{kind}, shape {tuple(shape)}" if shape else f"{kind}, a single value"
    try:
        text = repr(value[: _SHOWN + 1] if isinstance(value, str | bytes) else value)
    except Exception:  # a repr may raise anything; a whole number of thousands of digits has none
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({type(value).__name__})"


def cut(text: object, length: int = _REASON) -> str:
    """A text, or the message of another library, in at most about ``length`` characters."""
    whole = str(text)
    return whole if len(whole) <= length else f"{whole[:length]}..."


class NoiseSamplingError(Exception):
    """Base of every error that this library raises on purpose.

    Args:
        what: what is wrong, in one sentence.
        where: the field path, file, argument or step.
        suggestion: what to do.
        why: the reason, where ``what`` does not say it.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSamplingError
        >>> try:
        ...     DiffusionPipeline(None, "dimm")
        ... except NoiseSamplingError as error:
        ...     print(error.category, error.where)
        configuration method
    """

    category = "general"

    def __init__(self, what: str, *, where: str, suggestion: str, why: str = "") -> None:
        what, where, why, suggestion = (cut(part, _PART) for part in (what, where, why, suggestion))
        self.what, self.where, self.why, self.suggestion = what, where, why, suggestion
        lines = [f"{where}: {what}" if where else what]
        if why:
            lines.append(f"  why: {why}")
        if suggestion:
            lines.append(f"  try: {suggestion}")
        super().__init__("\n".join(lines))

    def under(self, prefix: str, separator: str = ".") -> Self:
        """The same error with a prefix before its ``where``: the file, the pipeline, the table it is in."""
        where = separator.join(part for part in (prefix, self.where) if part)
        return type(self)(self.what, where=where, why=self.why, suggestion=self.suggestion)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.why, self.suggestion))


def _rebuild(cls: type[NoiseSamplingError], what: str, where: str, why: str, suggestion: str) -> NoiseSamplingError:
    return cls(what, where=where, why=why, suggestion=suggestion)


class ConfigurationError(NoiseSamplingError, ValueError):
    """A setting, or a combination of settings, that cannot work.

    Examples:
        >>> from noise_scheduler_sampling_system import ConfigurationError, NoiseSchedulerConfig
        >>> try:
        ...     NoiseSchedulerConfig(beta_strat=0.001)
        ... except ConfigurationError as error:
        ...     print(error.where, "|", error.suggestion)
        beta_strat | did you mean 'beta_start'?
    """

    category = "configuration"


@final
class SeveralMistakesError(ConfigurationError):
    """Several mistakes that were found at once.

    ``what``, ``where``, ``why`` and ``suggestion`` are those of the first one; the text holds all of them.

    Args:
        errors: the mistakes, two or more.
    """

    errors: tuple[ConfigurationError, ...]

    def __init__(self, errors: Iterable[ConfigurationError]) -> None:
        self.errors = tuple(errors)
        first, count = self.errors[0], len(self.errors)
        super().__init__(
            f"{first.what} (and {count - 1} more)", where=first.where, why=first.why, suggestion=first.suggestion
        )
        lines = [f"{count} mistakes", *_texts(self.errors[:_LISTED])]
        if count > _LISTED:
            lines.append(f"... and {count - _LISTED} more")
        self.args = ("\n".join(lines),)

    def under(self, prefix: str, separator: str = ".") -> Self:
        return type(self)(error.under(prefix, separator) for error in self.errors)

    def __reduce__(self) -> tuple[object, ...]:
        return (SeveralMistakesError, (self.errors,))


def _texts(errors: Sequence[ConfigurationError]) -> Iterator[str]:
    """The texts of errors; long advice that an earlier one gave is not repeated."""
    given: set[str] = set()
    for error in errors:
        advice = f"\n  try: {error.suggestion}"
        yield str(error).replace(advice, "\n  try: the same") if advice in given else str(error)
        if len(advice) > _LONG_ADVICE:
            given.add(advice)


@final
class ModelOutputError(NoiseSamplingError, ValueError):
    """The model returned something of the wrong kind, shape or value."""

    category = "model output"


@final
class DeviceError(NoiseSamplingError, RuntimeError):
    """A device is missing, or a model and a tensor are on different devices."""

    category = "device"


@final
class OutOfMemoryError(NoiseSamplingError, MemoryError):
    """A batch of one sample does not fit into memory, or the samples of the whole batch do not."""

    category = "memory"


class NumericsError(NoiseSamplingError, ArithmeticError):
    """A value is not finite, or the table of a plan is not usable."""

    category = "numerics"


@final
class FileError(NoiseSamplingError, OSError):
    """A file is missing, unreadable or malformed, or cannot be written."""

    category = "file"

    def __str__(self) -> str:  # OSError would format its arguments
        return str(self.args[0])


@final
class RefusedError(NoiseSamplingError, RuntimeError):
    """A request is not taken now: the queue is full, or nothing new is taken any more. The request itself is valid."""

    category = "refused"


@final
class DeadlineError(NoiseSamplingError, TimeoutError):
    """Something did not end in the time that was given for it."""

    category = "deadline"

    def __str__(self) -> str:  # OSError would format its arguments
        return str(self.args[0])


@final
class StoppedError(NoiseSamplingError, RuntimeError):
    """A request was stopped before its end, by its owner or by a shutdown.

    Attributes:
        states: where it was handed back, the ``RunState`` of each part of its batch, in the order of the samples. Each
            goes on with ``resume=state``.
    """

    category = "stopped"
    states: tuple[object, ...] = ()


@final
class WorkerError(NoiseSamplingError, RuntimeError):
    """A part of a large job failed more often than it may be repeated."""

    category = "worker"
