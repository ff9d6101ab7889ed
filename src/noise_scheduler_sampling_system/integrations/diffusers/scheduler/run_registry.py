"""Runs through one list of timesteps, and which of them a state belongs to."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ....running.loop import Noise, RowState
from ....support.errors import ConfigurationError, ModelOutputError
from .compile_request import Told
from .handover import STOPPED, Run, may_be_inside, taken_on
from .output import Later
from .program import Program

__all__ = ["Generators", "Table"]

#: One generator, or one a sample.
Generators = torch.Generator | list[torch.Generator]
_HALF = (torch.float16, torch.bfloat16)


@final
class Table:
    """What one ``set_timesteps`` made: a program, its timesteps on a device, and the runs through them.

    Attributes:
        program: what runs from the beginning follow.
        request: the arguments of ``set_timesteps``.
        timesteps: one entry for every model call; a tensor of this table's own.
        told: η and ``use_clipped_model_output``, as the steps were told.
        begin: where runs begin, if that was said.
        last: the call to come of the run that moved last.
        noised: whether an image was noised to one of these times.
    """

    __slots__ = (
        "_lost", "_runs", "_size", "_start", "_stop", "begin", "last", "noised", "program", "request", "timesteps",
        "told",
    )  # fmt: skip

    def __init__(self, program: Program, request: Mapping[str, Any], device: Any) -> None:
        self.program, self.request = program, request
        self.told: Told = (None, None)
        source = program.timesteps
        moved = source.to(device) if device is not None else source
        self.timesteps = moved.clone() if moved is source else moved
        self._size = self.timesteps.element_size()
        self._start = self.timesteps.data_ptr()
        self._stop = self._start + len(source) * self._size
        self._runs: list[Run] = []
        self.noised = False
        self.begin: int | None = None
        self.last: int | None = None
        # whether a run was given up whose state nobody holds: it may yet go on with another tensor
        self._lost = False

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return bool(self._runs)

    def release(self) -> None:
        """Leave the memory of the timesteps to the loops that took entries from it."""
        self.timesteps = self.timesteps[:0].clone()

    def call_at(self, timestep: Any) -> int | None:
        """Which call's time this is, if it is a part of these timesteps."""
        if isinstance(timestep, Tensor):
            place: int = timestep.data_ptr()  # host and device share one space of addresses
            if self._start <= place < self._stop:
                return (place - self._start) // self._size
        return None

    def call_by_value(self, time: float, sample: Tensor | None) -> int | None:
        """The call with this time: of the run whose state the sample is, else one that is due, else the first."""
        for run in self._runs:
            if sample is not None and run.handed() is sample and run.call in self._calls_at(time):
                return run.call
        found = self._calls_at(time)
        due = next((run.call for run in self._runs if run.call in found), self.begin or 0)
        return due if due in found else next(iter(found), None)

    def level_of(self, timestep: Any) -> tuple[float, float] | None:
        """α and σ of the call with this time; of several, of the one to come."""
        calls, self.noised = self.program.calls, True
        exact = self.call_at(timestep)
        if exact is None:
            found = self._calls_at(float(timestep))
            if not found:
                return None
            exact = next((i for i in (self.last, self.begin) if i in found), found[0])
        return calls[exact].alpha, calls[exact].sigma

    def step(
        self, call: int, output: Tensor, sample: Tensor, generator: Generators | None = None, *,
        noise: Tensor | None = None, edit: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Later]:  # fmt: skip
        """From a model call to the next.

        Args:
            call: the number of the model call.
            output, sample, generator: as for :attr:`PlanScheduler.step`.
            noise: the unit noise of this step, in place of one that is drawn.
            edit: makes of the next state the one to hand out.

        Returns:
            The next state, and what makes the other values.
        """
        run = self._run_of(call, sample)
        program, kind = run.program, sample.dtype
        if output.shape != sample.shape and not program.splits:
            self._runs.remove(run)
            raise _wrong_shape(output, sample)
        x = sample.float() if kind in _HALF else sample
        now = program.calls[call]
        draw = _noise(run, output, sample, generator, noise) if program.stochastic else _no_noise
        state = program.step(RowState(now.row, x, run.history), now, output, draw)
        if program.draws_in_vain is not None and program.draws_in_vain[call]:
            randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=output.dtype)
        after = state.x if state.x.dtype == kind else state.x.to(kind)
        if edit is not None:
            after = edit(after)
        call += 1
        if call == len(program.calls):
            self._runs.remove(run)
            STOPPED.discard(run)
            self.last = call
        else:
            self.last = run.call = call
            run.history, run.handed, run.state = state.history, weakref.ref(after), after.detach()
        return after, Later(program, call - 1, x, output, kind)

    def step_back(self, index: int | None) -> None:
        """Make the last step undone, for pipelines that make it again; None: every run is given up.

        Raises:
            ConfigurationError: another number than that step's, or a run that goes on from what came before.
        """
        if index is None:
            self._runs, self.last, self._lost = [], None, False
            return
        made = [run for run in self._runs if run.call == self.last]  # none where that was the last step of its run
        if self.last is None or index != self.last - 1 or any(self.program.remembers[self.last :]):
            raise ConfigurationError(
                f"got {index}, and the run is due to make call {self.last}",
                where="_step_index",
                why="the place of a run can be set back by one step, in samplers without memory",
                suggestion="call set_timesteps() to start anew, set_begin_index() to begin elsewhere",
            )
        for run in made[-1:]:
            self._runs.remove(run)
        self.last = index

    def refuse_other_end(self, call: int, timestep: Any) -> None:
        """Raise unless this is the time of the next call: UnCLIP's and Kandinsky's pipelines say where a step goes.

        Raises:
            ConfigurationError: it is another one.
        """
        calls = self.program.calls
        due = calls[call + 1].time if call + 1 < len(calls) else None
        if self.call_at(timestep) != call + 1 and float(timestep) != due:
            raise ConfigurationError(
                f"got {float(timestep):g}, and the next time of the run is {due}",
                where="prev_timestep",
                suggestion="leave it out, or give the next entry of scheduler.timesteps",
            )

    def _run_of(self, call: int, sample: Tensor) -> Run:
        """The run that a sample belongs to.

        Raises:
            ConfigurationError: a call out of turn, or a sample that may be of several runs.
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
        # the state was edited on the way; where nothing of a run is read but its place, it does not matter which
        if not self._lost and (len(runs) == 1 or not self.program.remembers[call]):
            return waiting[0]
        raise ConfigurationError(
            f"the sample of model call {call + 1} may belong to several runs that are under way",
            where="step",
            why="it is not the tensor that step() returned, and these runs share one set_timesteps()",
            suggestion="call set_timesteps() before every run, and take its timesteps; or hand prev_sample back",
        )

    def _begun(self, call: int, sample: Tensor) -> Run:
        kept = [run for run in self._runs if run.handed() is not None]
        self._lost |= len(kept) < len(self._runs)
        self._runs = kept
        run = Run(self.program, 0) if call == 0 else self._entered(call, sample)
        self._runs.append(run)
        STOPPED.add(run)
        return run

    def _entered(self, call: int, sample: Tensor) -> Run:
        """A run from the middle: of a state that another run handed out, or of an image that was noised.

        Raises:
            ConfigurationError: neither, and it matters.
        """
        stopped = STOPPED.with_state(sample)
        if stopped is not None:
            return taken_on(stopped, self.program, call, len(sample))
        if not self.noised and may_be_inside(self.program, call):
            calls = self.program.calls
            raise ConfigurationError(
                f"the run begins at model call {call + 1} of {len(calls)} of {self.program.plan.sampler!r}, with a "
                "state that no run of this process handed out and add_noise() did not make",
                where="sample",
                why="if it comes from a run that stopped inside a step, its predictions are needed to go on",
                suggestion="hand over the latents as the other pipeline returned them, in the same process; noise an "
                "image by scheduler.add_noise(image, noise, timesteps[begin]); or use a sampler with one model call "
                "a step ('dpmpp_2m', 'unipc')",
            )
        return Run(self.program.entered(call), call)

    def _calls_at(self, time: float) -> list[int]:
        # as the plan has it, or as an entry of ``timesteps`` has it in single precision
        pairs = zip(self.program.calls, self.program.rounded_times, strict=True)
        return [i for i, (call, rounded) in enumerate(pairs) if time in (call.time, rounded)]

    def _out_of_turn(self, call: int, due: int) -> ConfigurationError:
        calls = self.program.calls
        return ConfigurationError(
            f"model call {call + 1} of {len(calls)} (t = {calls[call].time:g}), and the run is due to make call "
            f"{due + 1} (t = {calls[due].time:g})",
            where="step",
            why="every entry of timesteps is one model call, in order",
            suggestion="loop over scheduler.timesteps as they are; call set_timesteps() to start anew",
        )


def _noise(
    run: Run, output: Tensor, sample: Tensor, generator: Generators | None, given: Tensor | None
) -> Noise:  # fmt: skip
    """Unit noise as diffusers draws it, or as it is given; what a later row reads again is kept."""
    kept = run.drawn if run.program.shares_noise else None
    count = 0

    def draw(step: int, stage: int) -> Tensor:
        nonlocal count
        noise = None if kept is None else kept.get((step, stage))
        if noise is None and given is not None:
            count += 1
            if count > 1:
                raise ConfigurationError(
                    f"a step of {run.program.plan.sampler!r} draws more than one noise",
                    where="variance_noise",
                    suggestion="give a generator, or use a sampler with one noise a step",
                )
            noise = given.to(sample)
            if kept is not None:
                kept[step, stage] = noise
        if noise is None:
            noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=output.dtype)
            if kept is not None:
                kept[step, stage] = noise
        return noise

    return draw


def _no_noise(step: int, stage: int) -> Tensor:
    raise AssertionError("a deterministic plan draws no noise")


def _wrong_shape(output: Tensor, sample: Tensor) -> ModelOutputError:
    return ModelOutputError(
        f"has shape {tuple(output.shape)}, the sample {tuple(sample.shape)}",
        where="model_output",
        suggestion="give the prediction alone; variance_type='learned_range' is for networks that return a variance",
    )
