"""One list of timesteps, and the runs through it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any, final

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ....running.loop import Noise, RowState
from ....support.errors import ConfigurationError, ModelOutputError
from .call_plan import CallPlan
from .compile_request import CompileRequest
from .mid_run_entry import entered_at
from .step_output import LazyPrediction
from .unfinished_runs import UNFINISHED, SchedulerRun, may_be_inside_a_step, resumed

__all__ = ["Generators", "TimestepList"]

#: One generator, or one a sample.
Generators = torch.Generator | list[torch.Generator]
_HALF = (torch.float16, torch.bfloat16)


@final
class TimestepList:
    """What one ``set_timesteps`` makes: a plan, its timesteps on a device, and the runs through them.

    Attributes:
        plan: the plan of runs from the beginning.
        request: what it was compiled from.
        timesteps: the time of every model call; a tensor that only this list holds.
        begin: the call at which runs begin, if ``set_begin_index`` said so.
        last: the next call of the run that moved last.
        noised: whether an image was noised to one of these times.
    """

    __slots__ = (
        "_end_address", "_entry_size", "_lost", "_runs", "_start_address", "begin", "last", "noised", "plan",
        "request", "timesteps",
    )  # fmt: skip

    def __init__(self, plan: CallPlan, request: CompileRequest, device: Any) -> None:
        self.plan, self.request = plan, request
        source = plan.timesteps
        moved = source.to(device) if device is not None else source
        self.timesteps = moved.clone() if moved is source else moved
        self._entry_size = self.timesteps.element_size()
        self._start_address = self.timesteps.data_ptr()
        self._end_address = self._start_address + len(source) * self._entry_size
        self._runs: list[SchedulerRun] = []
        self.noised = False
        self.begin: int | None = None
        self.last: int | None = None
        # whether a run was removed because nobody holds its state; it may still continue with another tensor
        self._lost = False

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return bool(self._runs)

    def release(self) -> None:
        """Leave the memory of the timesteps to the loops that took entries from it."""
        self.timesteps = self.timesteps[:0].clone()

    def call_at(self, timestep: Any) -> int | None:
        """The call whose entry of ``timesteps`` this is, told by its memory; None: it is not an entry."""
        if isinstance(timestep, Tensor):
            place: int = timestep.data_ptr()  # host and device share one space of addresses
            if self._start_address <= place < self._end_address:
                return (place - self._start_address) // self._entry_size
        return None

    def call_by_value(self, time: float, sample: Tensor | None) -> int | None:
        """The call with this time: that of the run whose state the sample is, else one that is due, else the first."""
        for run in self._runs:
            if sample is not None and run.handed() is sample and run.call in self._calls_at(time):
                return run.call
        found = self._calls_at(time)
        due = next((run.call for run in self._runs if run.call in found), self.begin or 0)
        return due if due in found else next(iter(found), None)

    def level_of(self, timestep: Any) -> tuple[float, float] | None:
        """α and σ of the call with this time; of several, the next one; None: no call has it."""
        calls, self.noised = self.plan.calls, True
        exact = self.call_at(timestep)
        if exact is None:
            found = self._calls_at(float(timestep))
            if not found:
                return None
            exact = next((i for i in (self.last, self.begin) if i in found), found[0])
        if exact == len(calls):  # the end of the run
            return float(self.plan.plan.alpha[-1]), float(self.plan.plan.sigma[-1])
        return calls[exact].alpha, calls[exact].sigma

    def step(
        self, call: int, output: Tensor, sample: Tensor, generator: Generators | None = None, *,
        noise: Tensor | None = None, edit: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, LazyPrediction]:  # fmt: skip
        """From a model call to the next.

        Args:
            call: the number of the model call.
            output, sample, generator: as for :attr:`PlanScheduler.step`.
            noise: the unit noise of this step; None: noise is drawn.
            edit: a function from the next state to the one to return.

        Returns:
            The next state, and what computes the other values.

        Raises:
            ConfigurationError: a call out of turn, or a sample that may belong to several runs.
            ModelOutputError: an output of another shape than the sample.
        """
        run = self._run_of(call, sample)
        plan, kind = run.plan, sample.dtype
        if output.shape != sample.shape and not plan.splits_variance:
            self._runs.remove(run)
            raise _wrong_shape(output, sample)
        x = sample.float() if kind in _HALF else sample
        now = plan.calls[call]
        before, unused = (0, 0) if plan.unused_noises is None else plan.unused_noises[call]
        for _ in range(before):
            _unit_noise(output, sample, generator)
        draw = _noise(run, output, sample, generator, noise) if plan.stochastic else _no_noise
        state = plan.step(RowState(now.row, x, run.history), now, output, draw)
        for _ in range(unused):
            _unit_noise(output, sample, generator)
        after = state.x if state.x.dtype == kind else state.x.to(kind)
        if edit is not None:
            after = edit(after)
        call += 1
        if call == len(plan.calls):
            self._runs.remove(run)
            UNFINISHED.discard(run)
            self.last = call
        else:
            self.last = run.call = call
            run.history, run.handed, run.state = state.history, weakref.ref(after), after.detach()
        return after, LazyPrediction(plan, call - 1, x, output, kind)

    def step_back(self, index: int | None) -> None:
        """Undo the last step, for pipelines that make it again.

        Args:
            index: the number of that step's call; None: all runs are given up.

        Raises:
            ConfigurationError: another number, or a run that reads predictions from before the step.
        """
        if index is None:
            self._runs, self.last, self._lost = [], None, False
            return
        made = [run for run in self._runs if run.call == self.last]  # empty if that was the last step of its run
        if self.last is None or index != self.last - 1 or any(self.plan.reads_past[self.last :]):
            raise ConfigurationError(
                f"got {index}, and the run is due to make call {self.last}",
                where="_step_index",
                why="the place of a run can be set back by one step, in samplers without memory",
                suggestion="call set_timesteps() to start anew, set_begin_index() to begin elsewhere",
            )
        for run in made[-1:]:
            self._runs.remove(run)
        self.last = index

    def refuse_other_end(self, call: int, timestep: Any, name: str) -> None:
        """Raise unless this is the time of the next call, or 0 at the end: some pipelines say where a step goes.

        Args:
            call: the number of the call.
            timestep: where its step goes.
            name: of the argument.

        Raises:
            ConfigurationError: the time is another one.
        """
        calls = self.plan.calls
        due = calls[call + 1].time if call + 1 < len(calls) else 0.0
        if self.call_at(timestep) != call + 1 and not math.isclose(float(timestep), due, rel_tol=1e-6, abs_tol=1e-6):
            raise ConfigurationError(
                f"got {float(timestep):g}, and the next time of the run is {due:g}",
                where=name,
                why="the steps of a run are compiled before it begins",
                suggestion="leave it out, or give the next entry of scheduler.timesteps; a run through other times is "
                "set_timesteps(timesteps=[...])",
            )

    def _run_of(self, call: int, sample: Tensor) -> SchedulerRun:
        """The run that a sample belongs to.

        Raises:
            ConfigurationError: a call out of turn, or a sample that may belong to several runs.
        """
        runs = self._runs
        for run in runs:
            if run.handed() is sample:
                if run.call != call:
                    raise self._out_of_turn(call, run.call)
                return run
        if call == (self.begin or 0) or not runs:
            return self._begun(call, sample)
        waiting = [run for run in runs if run.call == call]
        if not waiting:
            raise self._out_of_turn(call, runs[-1].call)
        # the caller edited the state; if only the place of a run matters, any run at this place will do
        if not self._lost and (len(runs) == 1 or not self.plan.reads_past[call]):
            return waiting[0]
        raise ConfigurationError(
            f"the sample of model call {call + 1} may belong to several runs that are under way",
            where="step",
            why="it is not the tensor that step() returned, and these runs share one set_timesteps()",
            suggestion="call set_timesteps() before every run, and take its timesteps; or hand prev_sample back",
        )

    def _begun(self, call: int, sample: Tensor) -> SchedulerRun:
        kept = [run for run in self._runs if run.handed() is not None]
        self._lost |= len(kept) < len(self._runs)
        self._runs = kept
        run = SchedulerRun(self.plan, 0) if call == 0 else self._begun_in_the_middle(call, sample)
        self._runs.append(run)
        UNFINISHED.add(run)
        return run

    def _begun_in_the_middle(self, call: int, sample: Tensor) -> SchedulerRun:
        """A run from the state that another run returned, or from an image that was noised.

        Raises:
            ConfigurationError: the state is neither, and may come from inside a step.
        """
        unfinished = UNFINISHED.with_state(sample)
        if unfinished is not None:
            return resumed(unfinished, self.plan, call, len(sample))
        if not self.noised and may_be_inside_a_step(self.plan, call):
            calls = self.plan.calls
            raise ConfigurationError(
                f"the run begins at model call {call + 1} of {len(calls)} of {self.plan.plan.sampler!r}, with a "
                "state that no run of this process handed out and add_noise() did not make",
                where="sample",
                why="if it comes from a run that stopped inside a step, its predictions are needed to go on",
                suggestion="hand over the latents as the other pipeline returned them, in the same process; noise an "
                "image by scheduler.add_noise(image, noise, timesteps[begin]); or use a sampler with one model call "
                "a step ('dpmpp_2m', 'unipc')",
            )
        return SchedulerRun(entered_at(self.plan, call), call)

    def _calls_at(self, time: float) -> list[int]:
        # the time may be the plan's, or an entry of ``timesteps``, which is rounded to single precision
        pairs = zip(self.plan.calls, self.plan.rounded_times, strict=False)  # the end has a time and no call
        return [i for i, (call, rounded) in enumerate(pairs) if time in (call.time, rounded)]

    def _out_of_turn(self, call: int, due: int) -> ConfigurationError:
        calls = self.plan.calls
        return ConfigurationError(
            f"model call {call + 1} of {len(calls)} (t = {calls[call].time:g}), and the run is due to make call "
            f"{due + 1} (t = {calls[due].time:g})",
            where="step",
            why="every entry of timesteps is one model call, in order",
            suggestion="loop over scheduler.timesteps as they are; call set_timesteps() to start anew",
        )


def _noise(
    run: SchedulerRun, output: Tensor, sample: Tensor, generator: Generators | None, given: Tensor | None
) -> Noise:  # fmt: skip
    """Unit noise, drawn as diffusers draws it, or given. Noise that a later row reads is kept in the run."""
    kept, scale = run.drawn if run.plan.rereads_noise else None, run.plan.terms.state_scale
    count = 0

    def draw(step: int, stage: int) -> Tensor:
        nonlocal count
        noise = None if kept is None else kept.get((step, stage))
        if noise is not None:
            return noise
        if given is None:
            noise = _unit_noise(output, sample, generator)
        else:
            count += 1
            if count > 1:
                raise ConfigurationError(
                    f"a step of {run.plan.plan.sampler!r} draws more than one noise",
                    where="variance_noise",
                    suggestion="give a generator, or use a sampler with one noise a step",
                )
            noise = given.to(sample)
        if scale != 1.0:
            noise = noise * scale
        if kept is not None:
            kept[step, stage] = noise
        return noise

    return draw


def _unit_noise(output: Tensor, sample: Tensor, generator: Generators | None) -> Tensor:
    """Unit noise of the sample's shape, drawn as diffusers draws it."""
    drawn: Tensor = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=output.dtype)
    return drawn


def _no_noise(step: int, stage: int) -> Tensor:
    raise AssertionError("a deterministic plan draws no noise")


def _wrong_shape(output: Tensor, sample: Tensor) -> ModelOutputError:
    return ModelOutputError(
        f"has shape {tuple(output.shape)}, the sample {tuple(sample.shape)}",
        where="model_output",
        suggestion="give the prediction alone; variance_type='learned_range' is for networks that return a variance",
    )
