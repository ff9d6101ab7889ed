"""One run of a pipeline, from its checks to its last step."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .early_stopping import EarlyStopping
from .errors import ConfigurationError, NumericsError
from .grids import refuse_clean_start
from .guidance import classifier_free, null_counterpart, plain
from .model import ModelAdapter, map_tensors, resolve_device
from .noise import NoiseSource, Seed, resolve_keys
from .plan import SamplingPlan
from .profiling import Stopwatch
from .results import RunState, SamplingStep
from .run import Model, OutputReusedError, Runnable, State, run
from .setup import Setup

__all__ = ["Callback", "Job", "prepare", "refuse_other_settings"]

logger = logging.getLogger(__name__)

Callback = Callable[[SamplingStep], object]


class Outcome(NamedTuple):
    """What one batch of a run came to."""

    samples: Tensor
    steps: int
    nfe: int


@dataclass(frozen=True)
class Job:
    """A run that is ready to start: every check is done."""

    runnable: Runnable
    adapter: ModelAdapter
    scale: float
    condition: Mapping[str, Any]
    null: Mapping[str, Any]
    noise: NoiseSource
    initial_noise: Tensor | None
    initial_sample: Tensor | None
    settings: dict[str, Any]
    integral: bool
    first: int = 0

    @property
    def batch(self) -> int:
        return len(self.noise.keys)

    def part(self, start: int, stop: int) -> Job:
        """The job for samples start to stop alone."""
        if (start, stop) == (0, self.batch):
            return self

        def rows(value: Tensor) -> Tensor:
            return value[start:stop] if value.ndim else value

        return replace(
            self,
            condition=map_tensors(rows, self.condition),
            null=map_tensors(rows, self.null),
            noise=self.noise.part(start, stop),
            initial_noise=None if self.initial_noise is None else self.initial_noise[start:stop],
            initial_sample=None if self.initial_sample is None else self.initial_sample[start:stop],
            first=self.first + start,
        )

    def complete(
        self, callback: Callback | None, bar: Any, stopping: EarlyStopping | None, watch: Stopwatch | None
    ) -> Outcome:
        """Run to the end; when something is not finite, run again with checks to say where."""
        try:
            try:
                return self._complete(callback, bar, stopping, watch)
            except OutputReusedError:
                logger.info("the model returns the same memory at every call: starting again with copies")
                return self._complete(callback, bar, stopping, watch, copy_outputs=True)
        except NumericsError as error:
            logger.warning("the result is not finite; running again with a check after every model call")
            with torch.no_grad():
                for _ in run(
                    self.runnable, self._model(None), self._start(), self.noise, copy_outputs=True, check_every_row=True
                ):
                    pass
            raise NumericsError(
                "the result was not finite, but a second run of the same noise was",
                where=error.where,
                why="the model does not return the same for the same input (dropout, or faulty hardware)",
                suggestion="call model.eval()",
            ) from None

    def _complete(
        self,
        callback: Callback | None,
        bar: Any,
        stopping: EarlyStopping | None,
        watch: Stopwatch | None,
        copy_outputs: bool = False,
    ) -> Outcome:
        plan, inspect = self.runnable.plan, callback is not None or stopping is not None
        noise = watch.wrap("noise", self.noise.__call__) if watch else self.noise
        settled = stopping.start() if stopping else None
        x, done = self._start().x, 0
        steps = run(
            self.runnable, self._model(watch), State(0, x, {}), noise,
            inspect=inspect, copy_outputs=copy_outputs, check_every_row=stopping is not None,
        )  # fmt: skip
        for state in steps:
            x, done = state.x, state.row
            if done < plan.nfe and plan.step[done] == plan.step[done - 1]:
                continue
            bar.update(self.batch)
            if callback is not None:
                callback(self._view(state))
            if settled is not None and settled.update(self.runnable.clean_sample(state), plan, done):
                logger.info(
                    "early stopping after step %d of %d: %d of %d model calls saved",
                    plan.step[done - 1] + 1, plan.steps, plan.nfe - done, plan.nfe,
                )  # fmt: skip
                break
        return Outcome(settled.result(x) if settled else x, int(plan.step[done - 1]) + 1, done)

    def steps(self, state: State | None = None, keys: Any = None) -> Iterator[SamplingStep]:
        """The run as an iterator, from its start or from a state; every step that is handed out is finite."""
        if state is not None:
            history = map_tensors(lambda y: y.to(self.noise.device), state.history)
            state = State(state.row, state.x.to(self.noise.device), history)
            yield from replace(self, noise=replace(self.noise, keys=keys))._steps(state)
        else:
            yield from self._steps(self._start())

    def _steps(self, state: State) -> Iterator[SamplingStep]:
        plan = self.runnable.plan
        with torch.no_grad():
            steps = run(self.runnable, self._model(None), state, self.noise, inspect=True, check_every_row=True)
        while True:
            with torch.no_grad():  # not around the yield, where it would act on the caller's own work
                after = next(steps, None)
            if after is None:
                return
            row = after.row
            if row == plan.nfe or plan.step[row] != plan.step[row - 1]:
                yield self._view(after)

    def _view(self, state: State) -> SamplingStep:
        plan, row = self.runnable.plan, state.row
        index = int(plan.step[row - 1])
        first_row = int((plan.step == index).argmax())
        return SamplingStep(
            index=index,
            x=state.x,
            t=float(plan.time[first_row]),
            sigma=float(plan.sigma[row]),
            nfe=row,
            first_sample=self.first,
            state=RunState(plan, State(row, state.x, state.history), self.noise.keys, self.settings),
            _clean=lambda: self.runnable.clean_sample(state),
        )

    def _start(self) -> State:
        if self.initial_sample is not None:
            # a copy: the state is handed out, and the caller's tensor is the caller's
            return State(0, self.initial_sample.to(self.noise.device, self.noise.dtype, copy=True), {})
        if self.initial_noise is None:
            noise = self.noise.initial()
        else:
            noise = self.initial_noise.to(self.noise.device, self.noise.dtype)
        return State(0, noise * self.runnable.plan.prior_scale, {})

    def _model(self, watch: Stopwatch | None) -> Model:
        """The network with its conditions, times and guidance, as a function of (x, row)."""
        plan, device = self.runnable.plan, self.noise.device
        network = watch.wrap("model", self.adapter.__call__) if watch else self.adapter.__call__
        split = self.runnable.split
        if self.scale == 1.0:
            predict = plain(network, self.condition)
        else:
            predict = classifier_free(network, self.condition, self.null, self.scale, learned_variance=split)
        if watch:
            predict = watch.wrap("guided", predict)
        kind = torch.int64 if self.integral and (plan.time % 1 == 0).all() else torch.float32
        times = torch.from_numpy(plan.time.copy()).to(kind).to(device)
        rows = times[:, None].expand(-1, self.batch).unbind(0)
        wanted = self.adapter.dtype
        if wanted is None or wanted == self.noise.dtype:
            return lambda x, row: predict(x, rows[row])
        return lambda x, row: predict(x.to(wanted), rows[row])


def prepare(
    setup: Setup,
    *,
    model: Callable[..., Any] | None,
    shape: Any,
    num_inference_steps: int,
    scale: float,
    condition: Mapping[str, Any] | None,
    null_condition: Mapping[str, Any] | None,
    seed: Seed | None,
    generator: Any,
    initial_noise: Tensor | None,
    initial_sample: Tensor | None,
    timesteps: Sequence[float] | None,
    plan: SamplingPlan | None,
    device: str | torch.device,
    dtype: torch.dtype | None,
    resumed: bool = False,
) -> Job:
    """Check everything and prepare a run, before the first model call.

    The arguments are those of :meth:`DiffusionPipeline.sample`.
    """
    scheduler, config = setup.scheduler, setup.scheduler.config
    if initial_noise is not None and initial_sample is not None:
        raise ConfigurationError(
            "is given beside initial_noise", where="initial_sample", suggestion="give the one or the other"
        )
    device = resolve_device(device, model, initial_noise if initial_sample is None else initial_sample)
    shape = _checked_shape(shape, initial_noise=initial_noise, initial_sample=initial_sample)
    scale = _checked_scale(scale)
    if model is None:
        from .models import DigitsModel

        model = DigitsModel(scheduler, prediction_type=config.prediction_type)
    adapter = ModelAdapter(model)
    if plan is not None and timesteps is not None:
        raise ConfigurationError("a plan has its own timesteps", where="timesteps", suggestion="give one of the two")
    runnable = setup.runnable(num_inference_steps, timesteps) if plan is None else setup.following(plan)
    if initial_noise is None and initial_sample is None and not resumed:
        first = runnable.plan
        refuse_clean_start(first.time[0], first.alpha[0], first.sigma[0])
    if dtype is None:
        dtype = torch.promote_types(torch.float32, adapter.dtype or torch.float32)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigurationError(
            f"{dtype!r} is not a floating-point type", where="dtype", suggestion="give e.g. torch.float32"
        )
    keys = resolve_keys(seed, generator, shape[0])
    given = _fitted({} if condition is None else condition, shape[0], device, "condition")
    if not given and null_condition is not None:
        raise ConfigurationError(
            "there is no condition to oppose it to", where="null_condition", suggestion="give condition={...}, too"
        )
    conditional = bool(given)
    given = adapter.completed(given, shape[0], device)
    null: Mapping[str, Any] = {}
    if conditional and scale != 1.0:
        null = null_counterpart(model, given) if null_condition is None else null_condition
        null = adapter.completed(_fitted(null, shape[0], device, "null_condition"), shape[0], device)
        given, null = _numbers_as_rows(given, null, shape[0], device)
    return Job(
        runnable=runnable,
        adapter=adapter,
        scale=scale if conditional else 1.0,
        condition=given,
        null=null,
        noise=NoiseSource(keys, tuple(shape[1:]), dtype, device),
        initial_noise=initial_noise,
        initial_sample=initial_sample,
        settings=setup.identity,
        integral=scheduler.discrete,
    )


def refuse_other_settings(saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise unless a stopped run's settings are the ones here."""
    if saved != here:
        fields = [k for k in here["config"] if saved.get("config", {}).get(k) != here["config"][k]]
        raise ConfigurationError(
            f"the run was started under other settings ({', '.join(fields) or 'another sampler'})",
            where="resume",
            suggestion="resume it on a pipeline with the same config and sampler",
        )


def _checked_scale(scale: Any) -> float:
    try:
        valid = not isinstance(scale, bool | str) and math.isfinite(scale)
    except (TypeError, ValueError, RuntimeError):
        valid = False
    if not valid:
        raise ConfigurationError(f"got {scale!r}", where="guidance_scale", suggestion="give a finite number")
    return float(scale)


def _checked_shape(shape: Any, **starts: Tensor | None) -> tuple[int, ...]:
    """The batch's shape; the tensors that a run may start from must have it and be finite."""
    given = {name: start for name, start in starts.items() if start is not None}
    if shape is None:
        if not given:
            raise ConfigurationError("is missing", where="shape", suggestion="give (batch, channels, height, width)")
        shape = next(iter(given.values())).shape
    try:
        checked = tuple(int(n) for n in shape)
        valid = len(checked) >= 2 and all(n >= 1 and n == m for n, m in zip(checked, shape, strict=True))
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ConfigurationError(
            f"got {shape!r}", where="shape", suggestion="give whole numbers ≥ 1: (batch, channels, height, width)"
        )
    for name, start in given.items():
        if tuple(start.shape) != checked:
            raise ConfigurationError(
                f"has shape {tuple(start.shape)}, the samples {checked}",
                where=name,
                suggestion="leave shape out, or make them the same",
            )
        if not torch.isfinite(start).all():
            raise ConfigurationError("holds NaN or Inf", where=name, suggestion="check how it was made")
    return checked


def _fitted(condition: Mapping[str, Any], batch: int, device: torch.device, where: str) -> dict[str, Any]:
    """The condition on the device, every tensor with one row a sample."""
    if not isinstance(condition, Mapping):
        raise ConfigurationError(
            f"got {type(condition).__name__}", where=where, suggestion="give a mapping of keywords for the model"
        )

    def fit(value: Tensor) -> Tensor:
        if value.ndim and value.shape[0] not in (1, batch):
            raise ConfigurationError(
                f"a tensor of shape {tuple(value.shape)} for a batch of {batch}",
                where=where,
                suggestion="give one row a sample, or one for all",
            )
        value = value.to(device)
        return value.expand(batch, *value.shape[1:]) if value.ndim and value.shape[0] != batch else value

    fitted: dict[str, Any] = map_tensors(fit, {name: _as_rows(value, batch) for name, value in condition.items()})
    return fitted


def _numbers_as_rows(
    given: Mapping[str, Any], null: Mapping[str, Any], batch: int, device: torch.device
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Numbers in which the two branches differ, as tensors of one row a sample."""
    first, second = dict(given), dict(null)
    for name in first.keys() & second.keys():
        pair = (first[name], second[name])
        numbers = [_is_number(v) for v in pair]
        if any(numbers) and (not all(numbers) or pair[0] != pair[1]):
            first[name], second[name] = (
                torch.as_tensor(v, device=device).expand(batch) if number else v
                for v, number in zip(pair, numbers, strict=True)
            )
    return first, second


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_rows(value: Any, batch: int) -> Any:
    """Arrays, and lists of one number a sample, as tensors, so that they are split with the batch."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, list | tuple) and len(value) == batch and all(isinstance(v, int | float) for v in value):
        return torch.tensor(value, device="cpu")
    return value
