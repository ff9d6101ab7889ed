"""One run of a pipeline: its model call, its steps, and what is done when something is not finite."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .early_stopping import EarlyStopping
from .errors import NumericsError
from .guidance import classifier_free, plain
from .model import ModelAdapter, map_tensors
from .noise import NoiseSource
from .profiling import Stopwatch
from .results import RunState, SamplingStep
from .run import Model, OutputReusedError, Runnable, State, run

__all__ = ["Callback", "Job", "Outcome"]

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
            if done < len(plan) and plan.step[done] == plan.step[done - 1]:
                continue
            bar.update(self.batch)
            if callback is not None:
                callback(self._view(state))
            if settled is not None and settled.update(self.runnable.clean_sample(state), plan, done):
                logger.info(
                    "early stopping after step %d of %d: %d of %d model calls saved",
                    plan.step[done - 1] + 1, plan.steps, plan.nfe - plan.calls_before(done), plan.nfe,
                )  # fmt: skip
                break
        return Outcome(settled.result(x) if settled else x, int(plan.step[done - 1]) + 1, plan.calls_before(done))

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
            if row == len(plan) or plan.step[row] != plan.step[row - 1]:
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
            nfe=plan.calls_before(row),
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
        wanted, scales = self.adapter.dtype, plan.input_scale
        if scales is not None:
            factors = scales.tolist()
            return lambda x, row: predict((x * factors[row]).to(wanted or x.dtype), rows[row])
        if wanted is None or wanted == self.noise.dtype:
            return lambda x, row: predict(x, rows[row])
        return lambda x, row: predict(x.to(wanted), rows[row])
