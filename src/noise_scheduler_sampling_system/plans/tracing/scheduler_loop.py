"""A scheduler's own loop, run on given model outputs and noises."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor

from ...schedules.path import Level
from ...support.argument_checks import checked_count
from ...support.errors import ConfigurationError
from ...support.registry import did_you_mean
from .foreign_arithmetic import BrownianIncrements, WatchedArithmetic, in_double
from .model_calls import ModelCall, call_times, end_of, model_call_of, setting

__all__ = ["LoopRecord", "SchedulerLoop"]

#: The arguments of every ``step``, by their names in diffusers.
_STATE: Final = ("model_output", "timestep", "sample")
_ANY: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
#: Further arguments of some schedulers' ``step``, from (times, index, the second result of the last step).
_FURTHER: Final[Mapping[str, Callable[[Tensor, int, Any], Any]]] = {
    "prev_timestep": lambda times, i, _: times[i + 1] if i + 1 < len(times) else None,
    "timestep_back": lambda times, i, _: times[i - 1] if i > 0 else None,
    "old_pred_original_sample": lambda _, __, last: last,
}


@final
@dataclass(frozen=True)
class LoopRecord:
    """One run of a scheduler's loop.

    Attributes:
        states: before each model call, and the result.
        calls: the model calls.
        drawn: the number of noises that the loop drew after each call.
        end: the last level.
    """

    states: list[Tensor]
    calls: list[ModelCall]
    drawn: list[int]
    end: Level


@final
@dataclass(frozen=True)
class SchedulerLoop:
    """A copy of a scheduler, with its timesteps set and in double precision.

    Attributes:
        ready: the copy.
        steps: the argument of ``set_timesteps``; None where another option determines the steps.
        begin: the index of the first timestep that is run.
        options: all options of the user.
        step_options: those that ``step`` takes.
        parameters: the names of all arguments of ``step``.
    """

    ready: Any
    steps: int | None
    begin: int
    options: Mapping[str, Any]
    step_options: Mapping[str, Any]
    parameters: tuple[str, ...]

    @classmethod
    def of(cls, scheduler: Any, steps: int | None, begin: int, options: Mapping[str, Any]) -> SchedulerLoop:
        """Copy a scheduler and set its timesteps.

        Raises:
            ConfigurationError: it is not a scheduler, an option is not its own, ``set_timesteps`` fails, ``begin`` is
                out of range, or its ``step`` needs an argument that a plan does not have.
        """
        name = type(scheduler).__name__
        for required in ("set_timesteps", "step"):
            if not callable(getattr(scheduler, required, None)):
                raise ConfigurationError(
                    f"{name} has no {required}()", where="scheduler", suggestion="give a scheduler of diffusers"
                )
        ready = copy.deepcopy(scheduler)
        to_set, to_step = (inspect.signature(f).parameters for f in (ready.set_timesteps, ready.step))
        for option in options:
            if option not in (*to_set, *to_step):
                raise ConfigurationError(
                    f"{name} takes no {option!r}", where=option, suggestion=did_you_mean(option, (*to_set, *to_step))
                )
        counted = {} if steps is None else {"num_inference_steps": checked_count(steps)}
        try:
            ready.set_timesteps(**counted, **{k: v for k, v in options.items() if k in to_set})
        except Exception as error:
            raise ConfigurationError(
                f"set_timesteps failed: {error}", where=name, suggestion="give the options that it needs"
            ) from error
        in_double(ready)
        extra = {k: v for k, v in options.items() if k not in to_set}
        count = len(call_times(ready))
        if not 0 <= begin < count:
            raise ConfigurationError(f"got {begin}", where="begin", suggestion=f"give a number from 0 to {count - 1}")
        if hasattr(ready, "set_begin_index"):
            ready.set_begin_index(begin)
        for parameter in list(to_step.values())[3:]:
            known = (*_STATE, *_FURTHER, *extra)
            if parameter.default is parameter.empty and parameter.name not in known and parameter.kind not in _ANY:
                raise ConfigurationError(
                    f"its step needs {parameter.name!r}",
                    where=name,
                    why="a plan has only the model's output, the time and the state",
                    suggestion="run it in its own loop",
                )
        return cls(ready, steps, begin, options, extra, tuple(to_step))

    @property
    def name(self) -> str:
        """The name of the scheduler's class."""
        return type(self.ready).__name__

    @property
    def origin(self) -> dict[str, Any]:
        """The provenance of the plan."""
        name = f"{type(self.ready).__module__}.{self.name}"
        return {"scheduler": name, "num_inference_steps": self.steps, "begin": self.begin}

    def run(self, first: Tensor, output: Callable[[int], Tensor], noise: Callable[[], Tensor]) -> LoopRecord:
        """Run the loop once.

        Args:
            first: the first state.
            output: number of the call ↦ the model's output.
            noise: returns the next noise.

        Raises:
            ConfigurationError: a step fails, draws random numbers that are not normal, or its noise depends on the
                model's output.
        """
        scheduler, drawn = copy.deepcopy(self.ready), [0]

        def draw() -> Tensor:
            drawn[-1] += 1
            return noise()

        if hasattr(scheduler, "noise_sampler"):
            scheduler.noise_sampler = BrownianIncrements(draw)
        times = call_times(scheduler)[self.begin :]
        states, calls, last = [first], [], None
        with WatchedArithmetic(draw):
            for i, t in enumerate(times):
                calls.append(model_call_of(scheduler, self.begin + i, t, _input_scale(scheduler, t)))
                further = {k: make(times, i, last) for k, make in _FURTHER.items() if k in self.parameters}
                state, last = self._step(scheduler, output(i), t, states[-1], further)
                states.append(state)
                drawn.append(0)
        return LoopRecord(states, calls, drawn[:-1], end_of(scheduler, calls[-1]))

    def _step(
        self, scheduler: Any, output: Tensor, t: Tensor, x: Tensor, further: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        """The next state, and the second result of ``step``."""
        given = {**further, **self.step_options}
        if "return_dict" in self.parameters:
            given["return_dict"] = False
        named = set(_STATE) <= set(self.parameters)
        # a step may change its arguments in-place
        values = output.clone(), t, x.clone()
        try:
            if named:
                result = scheduler.step(**dict(zip(_STATE, values, strict=True)), **given)
            else:
                result = scheduler.step(*values, **given)
        except ConfigurationError:
            raise
        except Exception as error:
            variance = setting(scheduler, "variance_type")
            learned = isinstance(variance, str) and variance.startswith("learned")
            raise ConfigurationError(
                f"its noise depends on the model's output (variance_type={variance!r})"
                if learned
                else f"its step failed: {type(error).__name__}: {error}",
                where=type(scheduler).__name__,
                why="a plan's noise is multiplied by numbers" if learned else "",
                suggestion="DiffusionPipeline(NoiseSchedulerConfig.from_diffusers(scheduler), 'ddpm')"
                if learned
                else "run it in its own loop",
            ) from error
        if not isinstance(result, tuple):
            return getattr(result, "prev_sample", result), getattr(result, "pred_original_sample", None)
        return result[0], (result[1] if len(result) > 1 else None)


def _input_scale(scheduler: Any, t: Tensor) -> float:
    """The factor of the model's input."""
    if not hasattr(scheduler, "scale_model_input"):
        return 1.0
    probe = torch.tensor([1.0, -2.0, 3e3, 0.0], dtype=torch.float64)[None, None, None]
    scaled = scheduler.scale_model_input(probe.clone(), t)
    factor = float(scaled[..., 0])
    if not torch.allclose(scaled, probe * factor, rtol=1e-9, atol=0.0):
        raise ConfigurationError(
            "it does not multiply the model's input by a number",
            where=f"{type(scheduler).__name__}.scale_model_input",
            suggestion="run it in its own loop",
        )
    return factor
