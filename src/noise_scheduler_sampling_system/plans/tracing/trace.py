"""Any linear scheduler as a plan: its own loop is run once on symbols, and the numbers are read off.

Schedulers act on every entry of a tensor alike. So the loop is run on a tensor whose entries are the symbols
x_T, the model's outputs and the noises, each as a unit vector: the states that come out are the canonical
rows of the plan (:meth:`SamplingPlan.canonical`).
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...config.prediction import PREDICTION_TYPES, conversion
from ...schedules.path import Level
from ...support.argument_checks import checked_count
from ...support.errors import ConfigurationError, NumericsError
from ...support.registry import did_you_mean
from ..plan import TRACE, SamplingPlan
from .queried_levels import Moment, asked_times, end_of, moment_of, setting
from .symbolic_tensors import Brownian, Watched, in_double

__all__ = ["trace"]

Array = npt.NDArray[np.float64]

#: A traced plan has the scheduler's states to this fraction of their largest coefficient.
_EXACT: Final = 1e-9
#: Coefficients below these fractions of a row's largest may be what should have cancelled, the boldest guess first.
_ROUNDING: Final = (1e-6, 1e-8, 1e-10, 1e-12, 0.0)
#: By how much a linear scheduler's states may differ from their canonical form.
_LINEAR: Final = 1e-6
#: What every step is told, in the words of diffusers.
_STATE: Final = ("model_output", "timestep", "sample")
_ANY: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
#: Settings that make a scheduler non-linear.
_NON_LINEAR: Final = ("clip_sample", "thresholding", "clip_denoised", "use_dynamic_thresholding")
#: What pipelines give some schedulers beside the output, the time and the state: of (times, index, last extra result).
_FURTHER: Final[Mapping[str, Callable[[Tensor, int, Any], Any]]] = {
    "prev_timestep": lambda times, i, _: times[i + 1] if i + 1 < len(times) else None,
    "timestep_back": lambda times, i, _: times[i - 1] if i > 0 else None,
    "old_pred_original_sample": lambda _, __, last: last,
}


@TRACE.provide
def trace(scheduler: Any, num_inference_steps: int | None = None, *, begin: int = 0, **options: Any) -> SamplingPlan:
    """The plan of a scheduler of diffusers, or of anything that is used like one.

    Args:
        scheduler: has ``set_timesteps``, ``timesteps`` and ``step``, and may have ``scale_model_input`` and
            ``init_noise_sigma``. It is copied, not changed.
        num_inference_steps: as for its ``set_timesteps``; ``None`` where an option says which steps.
        begin: the first of its ``timesteps`` that is run, for image-to-image.
        options: keywords of its ``set_timesteps`` ("mu", "sigmas", "timesteps") and of its ``step`` ("eta",
            "s_churn").

    Returns:
        A plan in the path's coordinates, α·x₀ + σ·ε, that ends where the scheduler ends. Its ``carries`` is
        empty, for tables in single precision carry constants to 1e-7 only.

    Raises:
        ConfigurationError: it is not linear (the message names the setting), it needs more than the model's
            output, the time and the state, or it does not tell its noise levels.
    """
    source = _Source.of(scheduler, num_inference_steps, begin, options)
    if isinstance(getattr(source.ready, "plan", None), SamplingPlan) and begin == 0:  # one of ours
        ready: SamplingPlan = source.ready.plan
        return replace(ready, provenance=source.origin)
    trial = _Trial()
    tried = source.run(trial.first, trial.output, trial.noise)
    drawn = tried.drawn
    symbols = torch.eye(1 + len(drawn) + sum(drawn), dtype=torch.float64)[:, None, None, None]
    passed = source.run(symbols[0], symbols[1:].__getitem__, iter(symbols[1 + len(drawn) :]).__next__)
    states = torch.stack(passed.states)[:, 0, 0, 0].numpy()
    source.refuse_non_linear(states, trial, tried.states)
    own = passed.moments[0].quantity
    best: SamplingPlan | None = None
    for space in dict.fromkeys((own, *PREDICTION_TYPES)):
        with suppress(ConfigurationError):  # at some level the output does not determine this quantity
            plan = _plan(source, passed, states, space)
            if best is None or _cost(plan) < _cost(best):  # of equals, the one that needs no conversion
                best = plan
        if best is not None and best.history == 0:
            break
    assert best is not None  # the own quantity is always determined
    return best


def _cost(plan: SamplingPlan) -> tuple[int, int]:
    """What a run has to remember, and how many terms it adds up."""
    return plan.history, int(np.count_nonzero(plan.b))


@dataclass(frozen=True)
class _Pass:
    """One run of a scheduler's loop.

    Attributes:
        states: before each model call, and the result.
        moments: what it knew at each call.
        drawn: how many noises it drew after each call.
        end: where it ends.
    """

    states: list[Tensor]
    moments: list[Moment]
    drawn: list[int]
    end: Level


class _Trial:
    """Random tensors for a run, and which they were: a batch of small ones, that show what is added, and of
    large ones, that show what is clipped."""

    sizes: Final = (1.0, 1e4)

    def __init__(self) -> None:
        self._generator = np.random.default_rng(0)  # torch's own is watched
        self.outputs: list[Tensor] = []
        self.noises: list[Tensor] = []
        self.first = self._tensor()

    def output(self, _: int) -> Tensor:
        """A model's output."""
        self.outputs.append(self._tensor())
        return self.outputs[-1]

    def noise(self) -> Tensor:
        """A noise."""
        self.noises.append(self._tensor())
        return self.noises[-1]

    def _tensor(self) -> Tensor:
        values = self._generator.standard_normal((2, 3, 4, 4)) * np.array(self.sizes)[:, None, None, None]
        return torch.from_numpy(values)


@dataclass(frozen=True)
class _Source:
    """A scheduler whose timesteps are set, and how its loop is run."""

    ready: Any
    steps: int | None
    begin: int
    options: Mapping[str, Any]
    step_options: Mapping[str, Any]
    parameters: tuple[str, ...]

    @classmethod
    def of(cls, scheduler: Any, steps: int | None, begin: int, options: Mapping[str, Any]) -> _Source:
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
                f"set_timesteps failed: {error}", where=name, suggestion="give what it asks for"
            ) from error
        in_double(ready)
        extra = {k: v for k, v in options.items() if k not in to_set}
        count = len(asked_times(ready))
        if not 0 <= begin < count:
            raise ConfigurationError(f"got {begin}", where="begin", suggestion=f"give a number from 0 to {count - 1}")
        if hasattr(ready, "set_begin_index"):
            ready.set_begin_index(begin)
        source = cls(ready, steps, begin, options, extra, tuple(to_step))
        for parameter in list(to_step.values())[3:]:
            known = (*_STATE, *_FURTHER, *extra)
            if parameter.default is parameter.empty and parameter.name not in known and parameter.kind not in _ANY:
                raise ConfigurationError(
                    f"its step needs {parameter.name!r}",
                    where=name,
                    why="a plan is told the model's output, the time and the state alone",
                    suggestion="run it in its own loop",
                )
        return source

    @property
    def name(self) -> str:
        """The scheduler's class."""
        return type(self.ready).__name__

    @property
    def origin(self) -> dict[str, Any]:
        """Where the plan is from."""
        name = f"{type(self.ready).__module__}.{self.name}"
        return {"scheduler": name, "num_inference_steps": self.steps, "begin": self.begin}

    def run(self, first: Tensor, answer: Callable[[int], Tensor], noise: Callable[[], Tensor]) -> _Pass:
        """Its own loop.

        Args:
            first: the state to start from.
            answer: number of the call ↦ the model's output.
            noise: makes the next noise.
        """
        scheduler, drawn = copy.deepcopy(self.ready), [0]

        def draw() -> Tensor:
            drawn[-1] += 1
            return noise()

        if hasattr(scheduler, "noise_sampler"):
            scheduler.noise_sampler = Brownian(draw)
        times = asked_times(scheduler)[self.begin :]
        states, moments, last = [first], [], None
        with Watched(draw):
            for i, t in enumerate(times):
                moments.append(moment_of(scheduler, self.begin + i, t, _input_scale(scheduler, t)))
                further = {k: make(times, i, last) for k, make in _FURTHER.items() if k in self.parameters}
                state, last = self._step(scheduler, answer(i), t, states[-1], further)
                states.append(state)
                drawn.append(0)
        return _Pass(states, moments, drawn[:-1], end_of(scheduler, moments[-1]))

    def _step(
        self, scheduler: Any, output: Tensor, t: Tensor, x: Tensor, further: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        """The next state, and whatever is returned beside it."""
        given = {**further, **self.step_options}
        if "return_dict" in self.parameters:
            given["return_dict"] = False
        named = set(_STATE) <= set(self.parameters)
        # it may work in place on what it is given
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

    def refuse_non_linear(self, states: Array, trial: _Trial, tried: Sequence[Tensor]) -> None:
        """Raise unless the loop makes of any tensors what its states on symbols say."""
        if not np.isfinite(states).all():
            raise ConfigurationError(
                f"its own result is not finite: state {int(np.argwhere(~np.isfinite(states))[0, 0])} is not",
                where=self.name,
                why="its formula divides by σ or by the length of an interval, and one is zero",
                suggestion="try another final_sigmas_type or timestep_spacing",
            )
        given = torch.stack([trial.first, *trial.outputs, *trial.noises]).numpy()
        for i, state in enumerate(tried):
            size = np.abs(states[i]).sum() * np.array(trial.sizes)[:, None, None, None]
            error = np.abs(state.numpy() - np.tensordot(states[i], given, 1))
            if not (error <= _LINEAR * size).all():  # NaN fails, too
                raise self._non_linear(i)

    def _non_linear(self, row: int) -> ConfigurationError:
        culprits = [name for name in _NON_LINEAR if setting(self.ready, name)]
        off = ", ".join(f"{name}=False" for name in culprits)
        return ConfigurationError(
            f"it is not linear: state {row} is no linear combination of the first state, outputs and noise",
            where=self.name,
            why=", ".join(f"{name}={setting(self.ready, name)!r}" for name in culprits),
            suggestion=f"trace {self.name}.from_config(scheduler.config, {off}), and set clip_sample or thresholding "
            "in the config of the pipeline that runs the plan, which clips the same"
            if culprits
            else "run it in its own loop: PlanScheduler and trace are for samplers that are tables of numbers",
        )


def _input_scale(scheduler: Any, t: Tensor) -> float:
    """What the model's input is multiplied by."""
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


def _plan(source: _Source, passed: _Pass, states: Array, space: str) -> SamplingPlan:
    """The plan whose predictions are one quantity, with the shortest history.

    Raises:
        ConfigurationError: at some level the model's output does not determine that quantity.
    """
    moments, count = passed.moments, len(passed.moments)
    factors = np.array([*(moment.state_factor for moment in moments), 1.0])
    table = _restated(states, moments, space) * factors[:, None]
    table[:, 0] /= factors[0]
    # a row brings in one noise: each further one has a row of its own, which asks nothing
    rows = [(i, k) for i in range(count) for k in range(max(passed.drawn[i], 1))]
    asking = [row for row, (_, k) in enumerate(rows) if k == 0]
    drawing = [row for row, (i, _) in enumerate(rows) if passed.drawn[i]]
    wide = np.zeros((count + 1, 1 + 2 * len(rows)))
    wide[:, [0, *(1 + row for row in asking), *(1 + len(rows) + row for row in drawing)]] = table
    canonical = np.stack([wide[0], *(wide[i + 1] for i, _ in rows)])
    for row in range(len(rows)):
        canonical[row + 1, 1 + len(rows) + row + 1 :] = 0.0

    order = int(getattr(source.ready, "order", 1))
    keys, stages = np.full((len(rows), 2), -1), Counter[int]()
    for row in drawing:
        step = rows[row][0] // order
        keys[row] = step, stages[step]
        stages[step] += 1
    path = [*(moment.level for moment in moments), passed.end]
    levels = [path[i] if k == 0 else path[i + 1]._replace(t=path[i].t) for i, k in rows]
    none = np.zeros(len(rows))
    blank = SamplingPlan(
        space=space,
        time=np.array([level.t for level in levels]),
        alpha=np.array([level.alpha for level in [*levels, passed.end]]),
        sigma=np.array([level.sigma for level in [*levels, passed.end]]),
        step=np.array([i // order for i, _ in rows]),
        a=none, b=none[:, None], raw=none, c=none[:, None],
        noise_key=keys,
        asks=None if len(asking) == len(rows) else np.array([k == 0 for _, k in rows]),
        prior_scale=factors[0] * float(getattr(source.ready, "init_noise_sigma", 1.0)),
        carries=(),
        sampler=source.name,
        order=max(order, int(setting(source.ready, "solver_order") or 1)),
        options=_plain(source.options),
        provenance=source.origin,
    )  # fmt: skip
    return _simplest(blank, canonical)


def _simplest(blank: SamplingPlan, canonical: Array) -> SamplingPlan:
    """The canonical form in as few terms as it takes to keep it."""
    count = len(blank)
    parts = canonical[:, 0], canonical[:, 1 : 1 + count], canonical[:, 1 + count :]
    largest = np.abs(canonical).max(axis=1, keepdims=True)
    for rounding in _ROUNDING:
        plan = blank.with_canonical(*parts, tolerance=rounding)
        again = np.concatenate([part.reshape(count + 1, -1) for part in plan.canonical()], axis=1)
        if (np.abs(again - canonical) <= _EXACT * largest).all():
            return plan
    raise NumericsError(
        "the steps cannot be told from its states without losing digits",
        where=blank.sampler,
        why=f"some state is smaller by {_EXACT:g} than what it is made of",
        suggestion="run it in its own loop",
    )


def _restated(states: Array, moments: Sequence[Moment], space: str) -> Array:
    """States in terms of outputs as states in terms of predictions in a plan's space."""
    count = len(moments)
    # output j = share[j]·x̃[j] + factor[j]·y[j], so that x̃ = rest + B·(share·x̃ + factor·y), and B is strictly lower
    share, factor = np.zeros(count + 1), np.zeros(count)
    for j, (level, quantity, of_path, of_state, of_quantity) in enumerate(moments):
        target = "sample" if space == "epsilon" and level.alpha == 0.0 else space
        of_x, of_y = conversion(target, quantity, level.alpha, level.sigma)
        share[j], factor[j] = of_state + of_quantity * of_x * of_path, of_quantity * of_y
    outputs = np.concatenate([states[:, 1 : 1 + count], np.zeros((count + 1, 1))], axis=1)
    known = states.copy()
    known[:, 1 : 1 + count] *= factor
    system = torch.from_numpy(np.eye(count + 1) - outputs * share)
    solved = torch.linalg.solve_triangular(system, torch.from_numpy(known), upper=False, unitriangular=True)
    result: Array = solved.numpy()
    return result


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as plain data."""
    return {k: v.tolist() if hasattr(v, "tolist") else v for k, v in options.items()}
