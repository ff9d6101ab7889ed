"""One run of a pipeline: its model call, its steps, and what is done when something is not finite."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..guidance.base import Moment
from ..guidance.conditions import unwrapped
from ..guidance.evaluate import Caller, Memory, RunGuidance
from ..plans.plan import SamplingPlan
from ..running.brownian import BrownianNoise
from ..running.callbacks import Callback, Copies, asks_to_stop, refuse_changes
from ..running.early_stopping import EarlyStopping
from ..running.loop import (
    Branches,
    Model,
    ModelMaker,
    ModelStoppedError,
    OutputReusedError,
    PlannedRun,
    Reached,
    RowModel,
    RowState,
    Run,
    StepControlError,
    explained,
)
from ..running.model_adapter import ModelAdapter, map_tensors
from ..running.model_fingerprint import fingerprint
from ..running.noise import NoiseSource
from ..running.noise_keys import Keys
from ..running.output_check import Look
from ..running.profiling import Stopwatch
from ..running.results import RunState, SamplingStep
from ..schedules.path import Level
from ..support.errors import ModelOutputError, NumericsError

__all__ = ["Job", "Outcome"]

logger = logging.getLogger(__name__)


#: How PyTorch says that what it was given is no index of a table.
_OF_A_TABLE = ("scalar types: Long, Int", "must be long", "must be integers", "used as indices", "for embedding")


class Outcome(NamedTuple):
    """What one batch of a run came to.

    Attributes:
        saved: model calls that were left when it was stopped early; None where nobody knows how many.
        stopped: whether it was.
        rejected, levels: failed steps, and the levels of the others, where they were found on the way.
    """

    samples: Tensor
    steps: int
    nfe: int
    evaluations: int
    stopped: bool
    saved: int
    rejected: int = 0
    levels: tuple[Level, ...] | None = None


@dataclass(frozen=True)
class Job:
    """A run that is ready to start: every check is done.

    Attributes:
        run: what takes the noise to samples.
        guided: the model with its conditions and guidance.
        noise: where its noise comes from; knows device, dtype and keys.
        initial_noise, initial_sample: what it starts from, where that is given.
        settings: what a stopped run must find again.
        integral: whether the model is told whole times as integers.
        first: the number of the first sample in the whole batch.
        whole: times are rounded to whole timesteps up to this one; None: they are not.
    """

    run: Run
    guided: RunGuidance
    noise: NoiseSource
    initial_noise: Tensor | None
    initial_sample: Tensor | None
    settings: dict[str, Any]
    integral: bool
    look: Look | None = None
    first: int = 0
    whole: int | None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        """That of the model, made where a step is handed out."""
        return fingerprint(self.guided.branches[0][0].model)

    @property
    def batch(self) -> int:
        return len(self.noise.keys)

    def part(self, start: int, stop: int) -> Job:
        """The job for samples start to stop alone."""
        if (start, stop) == (0, self.batch):
            return self

        return replace(
            self,
            guided=self.guided.part(start, stop),
            noise=self.noise.part(start, stop),
            initial_noise=None if self.initial_noise is None else self.initial_noise[start:stop],
            initial_sample=None if self.initial_sample is None else self.initial_sample[start:stop],
            first=self.first + start,
        )

    def complete(
        self, callback: Callback | None, bar: Any, stopping: EarlyStopping | None, watch: Stopwatch | None
    ) -> Outcome:
        """Run to the end; when something is not finite, run again with checks to say where.

        Exceptions of the model and of the callback come through as they are.
        """
        try:
            return self._completed(callback, bar, stopping, watch)
        except ModelStoppedError as stopped:
            error = stopped.error
        raise error  # here, so that it has no other context than its own

    def _completed(
        self, callback: Callback | None, bar: Any, stopping: EarlyStopping | None, watch: Stopwatch | None
    ) -> Outcome:
        try:
            try:
                return self._complete(callback, bar, stopping, watch)
            except OutputReusedError:
                logger.info("the model returns the same memory at every call: starting again with copies")
                return self._complete(callback, bar, stopping, watch, copy_outputs=True)
        except StepControlError:
            raise
        except NumericsError as error:
            logger.warning("the result is not finite; running again with a check after every model call")
            with torch.no_grad():
                again: Memory = {}
                for _ in self.run.steps(
                    self._model_maker(None, again),
                    self._start(),
                    self.noise,
                    again,
                    copy_outputs=True,
                    check_every_row=True,
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
        inspect = callback is not None or stopping is not None
        noise = watch.wrap("noise", self.noise.__call__) if watch else self.noise
        settled = stopping.start() if stopping else None
        memory: Memory = {}
        steps = self.run.steps(
            self._model_maker(watch, memory), self._start(), noise, memory,
            inspect=inspect, copy_outputs=copy_outputs, check_every_row=stopping is not None,
        )  # fmt: skip
        stopped = False
        for reached in steps:
            if not reached.ends_step:
                continue
            bar.update(self.batch)
            ended = callback is not None and asks_to_stop(callback, self._view(reached, memory))
            if settled is not None:
                clean = reached.run.clean_sample(reached.state)
                stopped = settled.update(clean, reached.run.plan, reached.state.row)
            stopped = stopped or ended
            if stopped:
                break
        run, state, _ = reached
        calls, evaluations, rejected, levels = self._counts(reached)
        steps_made = int(run.plan.step[state.row - 1]) + 1
        saved = self.run.plan.nfe - calls if stopped and self.run.planned else 0
        if saved:
            logger.info(
                "stopped after step %d of %d: %d of %d model calls saved",
                steps_made, self.run.plan.steps, saved, self.run.plan.nfe,
            )  # fmt: skip
        elif stopped and not self.run.planned:
            logger.info("stopped after step %d and %d model calls", steps_made, calls)
        return Outcome(
            settled.result(state.x) if settled else state.x,
            steps_made,
            calls,
            evaluations,
            stopped,
            saved,
            rejected,
            levels,
        )

    def _counts(self, reached: Reached) -> tuple[int, int, int, tuple[Level, ...] | None]:
        """Calls, evaluations, rejected steps, and the levels where they were not known before."""
        found, row = reached.found, reached.state.row
        if found is None:
            return reached.run.plan.calls_before(row), sum(self.guided.evaluations[:row]), 0, None
        return found.calls, found.evaluations, found.rejected, found.levels

    def steps(self, resume: RunState | None = None) -> Iterator[SamplingStep]:
        """The run as an iterator, from its start or from a state; every step that is handed out is finite."""
        if resume is None:
            yield from self._steps(self._start(), {})
            return
        kept, memory = map_tensors(
            lambda y: y.to(self.noise.device, copy=True),  # the state is the caller's, and may be changed
            (tuple(resume.state), resume.memory),
        )
        job, state = replace(self, noise=replace(self.noise, keys=Keys.of(resume.keys))), RowState(*kept)
        if state.row == len(resume.plan) and isinstance(self.run, PlannedRun):  # nothing is left to do but hand it out
            yield job._view(Reached(self.run, state), memory)
            return
        yield from job._steps(RowState(state.row, state.x, state.history), memory)

    def _steps(self, state: RowState, memory: Memory) -> Iterator[SamplingStep]:
        with torch.no_grad():
            steps = self.run.steps(
                self._model_maker(None, memory), state, self.noise, memory, inspect=True, check_every_row=True
            )
        step = None
        while True:
            try:
                with torch.no_grad():  # not around the yield, where it would act on the caller's own work
                    reached = next(steps, None)
            except ModelStoppedError as stopped:  # of an iterator it would mean that the run is done
                raise ModelOutputError(
                    "the model raised StopIteration",
                    where="the model call after " + ("the start" if step is None else f"step {step.index}"),
                    suggestion="end a stream by not asking for more, and let the model return a prediction",
                ) from stopped.error
            if reached is None:
                return
            if step is not None:  # after the last step nothing is left that a change could be meant for
                refuse_changes(step, "stream")
            if reached.ends_step:
                step = self._view(reached, memory)
                yield step

    def _view(self, reached: Reached, memory: Memory) -> SamplingStep:
        """A step as it is handed out: with copies, so that nothing that is done to them changes the run."""
        run, state, found = reached
        plan, row = run.plan, state.row
        index = int(plan.step[row - 1])
        first_row = int((plan.step == index).argmax())
        x = state.x.clone()
        return SamplingStep(
            index=index,
            x=x,
            t=float(plan.time[first_row]),
            sigma=float(plan.sigma[row]),
            nfe=plan.calls_before(row) if found is None else found.calls,
            first_sample=self.first,
            state=RunState(
                plan,
                RowState(row, x, Copies(state.history), *(_last_call(state) if row == len(plan) else ())),
                self.noise.keys,
                self.settings,
                Copies(memory),
                "brownian" if isinstance(self.noise, BrownianNoise) else "independent",
                self.fingerprint,
            ),
            _clean=lambda: run.clean_sample(state),
        )

    def by_hand(self) -> tuple[RowState, Model]:
        """Where the run starts, and its model: for those who walk through its rows themselves."""
        return self._start(), self._model(self.run.plan, self.guided, None, {})

    def _start(self) -> RowState:
        if self.initial_sample is not None:
            # a copy: the state is handed out, and the caller's tensor is the caller's
            return RowState(0, self.initial_sample.to(self.noise.device, self.noise.dtype, copy=True), {})
        if self.initial_noise is None:
            noise = self.noise.initial()
        else:
            noise = self.initial_noise.to(self.noise.device, self.noise.dtype)
        return RowState(0, noise * self.run.plan.prior_scale, {})

    def _model_maker(self, watch: Stopwatch | None, memory: Memory) -> ModelMaker:
        """Makes the network's calls for the rows of whatever is run."""

        def make_model(run: PlannedRun, moments: Sequence[Moment] | None) -> RowModel:
            guided = self.guided if moments is None else self.guided.on(run.plan, moments)
            return RowModel(self._model(run.plan, guided, watch, memory), guided.evaluations)

        return make_model

    def _model(self, plan: SamplingPlan, guided: RunGuidance, watch: Stopwatch | None, memory: Memory) -> Model:
        """The network with its conditions, times and guidance, as a function of (x, row)."""
        model = guided.model(self._caller(plan, watch), memory)
        return watch.wrap("guided", model) if watch else model

    def _times(self, plan: SamplingPlan) -> Tensor:
        """What the model is told of each row's time."""
        if self.whole is not None:
            rounded = np.rint(np.nan_to_num(plan.time)).clip(0, self.whole)  # a row that asks nothing may have no time
            return torch.from_numpy(rounded).to(self.noise.device, torch.int64)
        kind = torch.int64 if self.integral and (plan.time % 1 == 0).all() else torch.float32
        return torch.from_numpy(plan.time.copy()).to(self.noise.device, kind)

    def _caller(self, plan: SamplingPlan, watch: Stopwatch | None) -> Caller:
        """Makes a network under a condition a function of (x, row), for some copies of the batch."""
        scales, times = plan.input_scale, self._times(plan)
        factors = None if scales is None else scales.tolist()

        @functools.cache
        def rows_of(size: int) -> tuple[Tensor, ...]:
            return times[:, None].expand(-1, size).unbind(0)

        def levels(row: int) -> Level:
            return Level(float(plan.time[row]), float(plan.alpha[row]), float(plan.sigma[row]))

        def looked(adapter: ModelAdapter, call: Model) -> Model:
            if self.look is None or adapter is not self.guided.branches[0][0]:
                return call
            return self.look.around(call, levels)

        def caller(adapter: ModelAdapter, condition: Mapping[str, Any], copies: int) -> Model:
            network = watch.wrap("model", adapter.__call__) if watch else adapter.__call__
            rows = rows_of(copies * self.batch)  # made once: guidance may ask for a caller for every row
            network = _hinting(network) if times.is_floating_point() else network
            condition = unwrapped(condition)
            wanted = adapter.dtype or self.noise.dtype

            if factors is None and wanted == self.noise.dtype:
                if copies == 1:
                    return looked(adapter, lambda x, row: network(x, rows[row], condition))
                return looked(adapter, lambda x, row: network(torch.cat([x] * copies), rows[row], condition))

            def call(x: Tensor, row: int) -> Tensor:
                x = (x if factors is None else x * factors[row]).to(wanted)
                return network(x if copies == 1 else torch.cat([x] * copies), rows[row], condition)

            return looked(adapter, call)

        return caller


def _hinting(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A network whose complaint about a real time comes with what to do about it."""

    def call(x: Tensor, t: Tensor, condition: Mapping[str, Any]) -> Tensor:
        try:
            return network(x, t, condition)
        except (RuntimeError, TypeError, IndexError) as error:
            if any(sign in str(error) for sign in _OF_A_TABLE):
                explained(
                    error,
                    f"t is real here ({float(t[0]):g}); for a network with a table of whole timesteps give "
                    "round_timesteps=True, or a spacing of whole timesteps ('leading', 'trailing')",
                )
            raise

    return call


def _last_call(state: RowState) -> tuple[Tensor | None, Tensor | None]:
    """What the last call was about and what it returned, so that the last step can be had again from its state.

    The run is over and needs neither, so that they are no copies.
    """
    return state.evaluated_x, state.output.guided if isinstance(state.output, Branches) else state.output
