"""The arguments of ``step`` and ``set_timesteps`` of diffusers' classes, by name and by position."""

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
from ..reading.diffusers_classes import scheduler_class

__all__ = ["FOLLOWING", "ClassSignature", "signature_of"]

_STATE = ("model_output", "timestep", "sample")
#: Arguments that say where a step goes: of unCLIP's and Kandinsky's classes, and of flow maps.
FOLLOWING = ("prev_timestep", "r_timestep")
#: Arguments of every class's step, with their defaults.
_STEP = {"generator": None, "return_dict": True}
#: Arguments of the step of samplers whose η the pipeline gives.
_ETA = {"eta": None, "use_clipped_model_output": None}
#: Arguments of some classes' steps, with the values that change nothing.
_WITHOUT_EFFECT: Mapping[str, Any] = {
    "eta": 0.0, "use_clipped_model_output": False, "variance_noise": None, "s_churn": 0.0, "s_tmin": 0.0,
    "s_tmax": math.inf, "s_noise": 1.0, "per_token_timesteps": None, "prev_timestep": None,
    "pred_original_sample": None,
}  # fmt: skip
_SET_TIMESTEPS = {"num_inference_steps": None, "device": None, "timesteps": None, "sigmas": None, "mu": None}


@final
@dataclasses.dataclass(frozen=True)
class ClassSignature:
    """The arguments of a class of diffusers, and what its step returns.

    Attributes:
        class_name: the class.
        step: the arguments of its ``step`` after output, time and sample, with their defaults.
        set_timesteps: the arguments of its ``set_timesteps``, and those of other classes', with their defaults.
        returned: the keys of what a step returns beside the next state.
    """

    class_name: str
    step: Mapping[str, Any]
    set_timesteps: Mapping[str, Any]
    returned: tuple[str, ...]

    def by_name(
        self, parameters: Mapping[str, Any], positional: Sequence[Any], named: Mapping[str, Any]
    ) -> dict[str, Any]:
        """All values by their names, the positional ones included.

        Args:
            parameters: the parameters, in order.
            positional, named: the values.

        Raises:
            ConfigurationError: too many values, or one given twice.
        """
        order = ", ".join(parameters)
        if len(positional) > len(parameters):
            raise ConfigurationError(
                f"{len(positional)} positional values are given, and {self.class_name} takes {len(parameters)}: "
                f"{order}",
                where="PlanScheduler",
                suggestion="give them by name",
            )
        found = dict(zip(parameters, positional, strict=False))
        twice = found.keys() & named.keys()
        if twice:
            raise ConfigurationError(
                "is given by position and by name",
                where=", ".join(sorted(twice)),
                suggestion=f"give it once; the positional values are {order}",
            )
        return {**found, **named}

    def own_arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that only this class's ``set_timesteps`` takes, without those that equal the default.

        Raises:
            ConfigurationError: the class does not take such an argument.
        """
        for name, value in given.items():
            if name not in self.set_timesteps and value is not None:
                raise ConfigurationError(
                    f"{self.class_name}.set_timesteps takes no {name!r}", where=name,
                    suggestion=did_you_mean(name, self.set_timesteps),
                )  # fmt: skip
        defaults = self.set_timesteps
        known = {name: value for name, value in given.items() if name in defaults}
        return {name: value for name, value in known.items() if value is not defaults[name] and value != defaults[name]}

    def step_signature(self, takes_eta: bool) -> inspect.Signature:
        """The signature of ``step``; pipelines inspect it for the arguments that they may give.

        Args:
            takes_eta: whether the pipeline gives η to the sampler.
        """
        others = {name: value for name, value in self.step.items() if name not in _ETA or takes_eta}
        parameters = {**others, **{name: value for name, value in _ETA.items() if takes_eta and name not in others}}
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        defaults = {**dict.fromkeys(_STATE, inspect.Parameter.empty), **parameters}
        return inspect.Signature([inspect.Parameter(name, kind, default=value) for name, value in defaults.items()])

    def refuse_ignored(self, given: Mapping[str, Any]) -> None:
        """Raise for arguments of a step that would be ignored.

        Args:
            given: the arguments that nothing has read.

        Raises:
            ConfigurationError: an unknown argument, or a known one whose value changes something.
        """
        known = {**_WITHOUT_EFFECT, **self.step}
        for name, value in given.items():
            if name not in known:
                raise ConfigurationError(f"no step takes {name!r}", where=name, suggestion=did_you_mean(name, known))
            nothing = value is None or value is False or (isinstance(value, int | float) and value in (0, known[name]))
            churns = name in ("s_tmin", "s_tmax") or (name == "s_noise" and "s_churn" in self.step)
            if not nothing and not (churns and not given.get("s_churn")):
                raise ConfigurationError(
                    f"got {value!r}" if isinstance(value, int | float | str) else f"got a {type(value).__name__}",
                    where=name,
                    why="this argument is for other samplers; this sampler would ignore it",
                    suggestion='method="edm", corrector=False, s_churn=... is Euler with that noise'
                    if name.startswith("s_")
                    else f"give it as an option of the sampler, if it has that option: from_config(..., {name}=...)",
                )


@functools.cache
def signature_of(class_name: str) -> ClassSignature:
    """The signature of a class of diffusers. A class whose step takes another kind of state has the usual arguments."""
    cls = scheduler_class(class_name)
    step = _parameters(getattr(cls, "step", None))
    own = tuple(step)[:3] == _STATE
    further = {name: value for name, value in step.items() if name not in _STATE} if own else {}
    set_timesteps = _parameters(getattr(cls, "set_timesteps", None))
    if tuple(set_timesteps)[:1] != tuple(_SET_TIMESTEPS)[:1]:
        set_timesteps = {}
    return ClassSignature(
        class_name,
        {**further, **{name: value for name, value in _STEP.items() if name not in further}},
        {**set_timesteps, **{name: value for name, value in _SET_TIMESTEPS.items() if name not in set_timesteps}},
        _returned(cls) if own else (),
    )


def _parameters(function: Any) -> dict[str, Any]:
    if function is None:
        return {}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return {p.name: None if p.default is p.empty else p.default for p in parameters if p.kind not in variadic}


def _returned(cls: Any) -> tuple[str, ...]:
    """The keys of a class's output after the first, from the return annotation of its step."""
    annotation = inspect.signature(cls.step).return_annotation
    for kind in (annotation, *typing.get_args(annotation)):
        if dataclasses.is_dataclass(kind):
            return tuple(field.name for field in dataclasses.fields(kind))[1:]
    return ()
