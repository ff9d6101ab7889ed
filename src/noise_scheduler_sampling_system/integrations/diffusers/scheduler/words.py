"""The words of diffusers' classes: what pipelines tell ``step`` and ``set_timesteps``, by name or by place."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any, final

from ....support.errors import ConfigurationError
from ....support.registry import did_you_mean
from ..reading.reading import scheduler_class

__all__ = ["Words", "words_of"]

_STATE = ("model_output", "timestep", "sample")
#: What every step may be told.
_PLAIN = {"generator": None, "return_dict": True}
#: What samplers that are told η take.
_ETA = {"eta": None, "use_clipped_model_output": None}
#: Words of some classes' steps, with the values that change nothing.
_USUAL: Mapping[str, Any] = {
    "eta": 0.0, "use_clipped_model_output": False, "variance_noise": None, "s_churn": 0.0, "s_tmin": 0.0,
    "s_tmax": math.inf, "s_noise": 1.0, "per_token_timesteps": None, "prev_timestep": None,
    "pred_original_sample": None,
}  # fmt: skip
_RUN = {"num_inference_steps": None, "device": None, "timesteps": None, "sigmas": None, "mu": None}


@final
@dataclasses.dataclass(frozen=True)
class Words:
    """What a class of diffusers is told, and what it returns.

    Attributes:
        class_name: the class.
        step: the words of its ``step`` after the output, the time and the sample, with their defaults.
        run: those of its ``set_timesteps``, and of any other one's.
        returned: the keys of what a step returns beside the next state.
    """

    class_name: str
    step: Mapping[str, Any]
    run: Mapping[str, Any]
    returned: tuple[str, ...]

    def named(self, words: Mapping[str, Any], placed: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        """Values by their names, of which some were given by place.

        Raises:
            ConfigurationError: too many, or one twice.
        """
        order = ", ".join(words)
        if len(placed) > len(words):
            raise ConfigurationError(
                f"{len(placed)} values are given by place, and {self.class_name} takes {len(words)}: {order}",
                where="PlanScheduler",
                suggestion="give them by name",
            )
        found = dict(zip(words, placed, strict=False))
        twice = found.keys() & named.keys()
        if twice:
            raise ConfigurationError(
                "is given by place and by name",
                where=", ".join(sorted(twice)),
                suggestion=f"give it once; by place the values are {order}",
            )
        return {**found, **named}

    def further(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What only this class's ``set_timesteps`` takes, without what is its default.

        Raises:
            ConfigurationError: the class takes no such thing.
        """
        for name, value in given.items():
            if name not in self.run and value is not None:
                raise ConfigurationError(
                    f"{self.class_name}.set_timesteps takes no {name!r}", where=name,
                    suggestion=did_you_mean(name, self.run),
                )  # fmt: skip
        return {name: value for name, value in given.items() if value is not None and value != self.run[name]}

    def signature(self, told_eta: bool) -> inspect.Signature:
        """That of ``step``: pipelines look into it for what they may tell.

        Args:
            told_eta: whether the sampler is told η.
        """
        others = {name: value for name, value in self.step.items() if name not in _ETA or told_eta}
        words = {**others, **{name: value for name, value in _ETA.items() if told_eta and name not in others}}
        return _signature({**dict.fromkeys(_STATE, inspect.Parameter.empty), **words})

    def refuse(self, told: Mapping[str, Any]) -> None:
        """Raise for what a step is told and would ignore.

        Args:
            told: words and their values.

        Raises:
            ConfigurationError: an unknown word, or a known one, unless its value changes nothing.
        """
        known = {**_USUAL, **self.step}
        for name, value in told.items():
            if name not in known:
                raise ConfigurationError(f"no step is told {name!r}", where=name, suggestion=did_you_mean(name, known))
            nothing = value is None or value is False or (isinstance(value, int | float) and value in (0, known[name]))
            churns = name in ("s_tmin", "s_tmax") or (name == "s_noise" and "s_churn" in self.step)
            if not nothing and not (churns and not told.get("s_churn")):
                raise ConfigurationError(
                    f"got {value!r}" if isinstance(value, int | float | str) else f"got a {type(value).__name__}",
                    where=name,
                    why="this is a word of other samplers, which this sampler would ignore",
                    suggestion='method="edm", corrector=False, s_churn=... is Euler with that noise'
                    if name.startswith("s_")
                    else f"give it as an option of the sampler, where it has it: from_config(..., {name}=...)",
                )


@functools.cache
def words_of(class_name: str) -> Words:
    """The words of a class of diffusers. A class whose step is of another kind is told the usual ones."""
    cls = scheduler_class(class_name)
    step = _parameters(getattr(cls, "step", None))
    own = tuple(step)[:3] == _STATE
    further = {name: value for name, value in step.items() if name not in _STATE} if own else {}
    run = _parameters(getattr(cls, "set_timesteps", None))
    if tuple(run)[:2] != tuple(_RUN)[:2]:
        run = {}
    return Words(
        class_name,
        {**further, **{name: value for name, value in _PLAIN.items() if name not in further}},
        {**run, **{name: value for name, value in _RUN.items() if name not in run}},
        _returned(cls) if own else (),
    )


def _parameters(function: Any) -> dict[str, Any]:
    if function is None:
        return {}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return {p.name: None if p.default is p.empty else p.default for p in parameters if p.kind not in variadic}


def _returned(cls: Any) -> tuple[str, ...]:
    """The keys of a class's output after the first, by the type that its step says it returns."""
    annotation = inspect.signature(cls.step).return_annotation
    for kind in (annotation, *typing.get_args(annotation)):
        if dataclasses.is_dataclass(kind):
            return tuple(field.name for field in dataclasses.fields(kind))[1:]
    return ()


def _signature(words: Mapping[str, Any]) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind, default=value) for name, value in words.items()])
