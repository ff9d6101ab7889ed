"""A run prepared once for many calls: the network compiled, or the whole run captured as one program."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, final

import torch
from torch import Tensor

from ..guidance.conditions import unwrapped
from ..guidance.evaluate import Memory
from ..guidance.rows import RowGuidance
from ..models.experts import Experts
from ..plans.plan import SamplingPlan
from ..running.bound_plan import BoundPlan
from ..running.captured_loop import Buffers, run_captured
from ..running.device_noise import DeviceNoise, draw
from ..running.faults import is_finite
from ..running.frame_run import FrameRun
from ..running.host_copies import sent
from ..running.loop import Model
from ..running.model_adapter import ModelAdapter, map_tensors
from ..running.noise import Seed, resolve_keys
from ..running.tabled_plan import form_of, table_of
from ..support.errors import ConfigurationError, NumericsError, shown
from .first_state import GivenStart
from .job import Job
from .network_calls import RowInputs, by_row
from .request import Request

__all__ = ["BACKENDS", "CompiledRun", "compiled_run"]

#: How a run is prepared; "auto" is "cuda_graph" on CUDA and "network" elsewhere.
BACKENDS: Final = ("auto", "network", "cuda_graph", "unrolled", "eager")
#: Runs before a capture, in which libraries choose their kernels and allocate their workspaces.
_WARM_UP: Final = 3


@final
class CompiledRun:
    """Makes the samples of one plan, shape and guidance, with the least work for each call.

    ``pipeline.compile`` makes it. A call writes its noise and its condition into fixed memory and starts the prepared
    run. Calls are thread-safe, one after another. The samples are those of ``pipeline.sample`` up to rounding.

    Backends:

    - "network": ``torch.compile(fullgraph=True)`` of the network; the steps are those of ``sample``.
    - "cuda_graph": the whole run (network, guidance, steps) as one CUDA graph. Noise of the host is drawn before it
      starts; noise of ``noise_device="cuda"`` is drawn inside, from the keys of the call.
    - "unrolled": ``torch.compile(fullgraph=True)`` of the whole run, network calls included. The compilation takes
      time and memory in proportion to the number of model calls, so it suits small networks.
    - "eager": nothing is compiled; for tests.

    In "cuda_graph" and "unrolled" runs the coefficients are tensors: another plan of the same form (:meth:`fits`), for
    example of the same sampler on another grid of as many steps, needs no new capture.

    Args:
        job: the run, prepared.
        request: its arguments.
        remake: makes the job of changed arguments.
        backend: one of the above.
        options: of ``torch.compile``, for "unrolled".

    Raises:
        ConfigurationError: the run cannot be captured; the error says why.
    """

    def __init__(
        self,
        job: Job,
        request: Request,
        remake: Callable[[Request], Job],
        backend: str,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._bound = _capturable(job)
        self._job, self._request, self._remake = job, request, remake
        self.backend: Final = backend
        self._whole = backend in ("cuda_graph", "unrolled")
        self._lock = threading.Lock()
        self._conditions: list[Any] = []
        example = torch.empty((job.batch, *job.noise.shape), dtype=job.noise.dtype, device=job.noise.device)
        times = job.calls.times(self._bound.plan)
        programmed = backend in ("cuda_graph", "eager")
        #: The keys of the noise that the program draws itself; None: it is drawn before or between the rows.
        self._words = job.noise.words.clone() if programmed and isinstance(job.noise, DeviceNoise) else None
        draws = self._words is not None or not self._whole
        self._buffers = Buffers.of(self._bound, example, times, tabled=self._whole or backend == "eager", draws=draws)
        memory: Memory = {}
        guided = job.guidance.model(self._caller, memory)

        def model(x: Tensor, row: int) -> Tensor:
            if row == first:
                memory.clear()  # of the run before
            answer: Tensor = guided(x, row)
            return answer

        first = self._bound.plan.asked.index(True)
        self._model: Model = model if any(_remembers(row) for row in job.guidance.rows) else guided
        #: The job whose plan and conditions are in the buffers; None after a call that failed while it wrote them.
        self._written: Job | None = job
        #: Bytes that a CUDA graph holds for its tensors; 0 for other backends.
        self.pool_bytes = 0
        self._program = self._prepared(dict(options or {}))

    @property
    def plan(self) -> SamplingPlan:
        """The plan that calls follow where they bring none."""
        return self._bound.plan

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the samples, (B, ...)."""
        return tuple(self._buffers.x.shape)

    def fits(self, plan: SamplingPlan) -> bool:
        """Whether a call may bring this plan: it has the same form, and the backend takes coefficients as tensors."""
        return self._has_form_of(self._remake(replace(self._request, plan=plan, grid=None, timesteps=None, seed=0)))

    @torch.no_grad()
    def __call__(
        self,
        seed: Seed | None = None,
        *,
        initial_noise: Tensor | None = None,
        condition: Mapping[str, Any] | None = None,
        null_condition: Mapping[str, Any] | None = None,
        plan: SamplingPlan | None = None,
    ) -> Tensor:
        """The samples, shape (B, ...), a new tensor.

        Args:
            seed: as for ``sample``.
            initial_noise: unit-variance noise of the batch's shape in place of that of the seed.
            condition, null_condition: tensors of the shapes and types that ``compile`` was given; default: those.
            plan: another plan; see :meth:`fits`.

        Raises:
            ConfigurationError: an argument of another shape or structure than the prepared run.
            NumericsError: the samples are not finite.
        """
        if condition is None and null_condition is None and plan is None:
            job = self._job_of(seed, initial_noise)
        else:
            changes: dict[str, Any] = {"seed": seed, "initial_noise": initial_noise}
            if condition is not None:
                changes |= {"condition": condition, "null_condition": null_condition}
            elif null_condition is not None:
                changes["null_condition"] = null_condition
            if plan is not None:
                changes |= {"plan": plan, "grid": None, "timesteps": None}
            job = self._remake(replace(self._request, **changes))
            self._refuse_other_form(job)
        if (job.batch, *job.noise.shape) != self.shape:
            raise ConfigurationError(
                f"the noise has shape {(job.batch, *job.noise.shape)}, the prepared run {self.shape}",
                where="initial_noise",
                suggestion="give noise of the prepared shape, or compile a run for the other one",
            )
        with self._lock:
            self._write(job)
            samples = self._program(job).clone()
        if not is_finite(samples):
            raise NumericsError(
                "the result is not finite",
                where=f"plan of {self.plan.sampler!r}",
                suggestion="call pipeline.sample with the same arguments, which says where it began",
            )
        return samples

    def _job_of(self, seed: Seed | None, initial_noise: Tensor | None) -> Job:
        """The prepared job from another noise."""
        keys = resolve_keys(seed, None, self._job.batch)
        given = GivenStart.of(replace(self._request, initial_noise=initial_noise))
        if given.tensor is not None:
            given.batch_shape(self.shape)
        given = given.placed(self._job.noise.device, self._job.noise.dtype)
        return replace(self._job, noise=replace(self._job.noise, keys=keys), given=given)

    def _refuse_other_form(self, job: Job) -> None:
        if not self._has_form_of(job):
            raise ConfigurationError(
                f"has another form than the prepared one ({self.plan.sampler}, {self.plan.steps} steps)",
                where="plan",
                suggestion="compile a run for it, or give a plan of the same sampler with as many steps",
            )

    def _has_form_of(self, job: Job) -> bool:
        bound = _capturable(job)
        if bound.plan is self.plan:
            return True
        times = job.calls.times(bound.plan)
        return (
            self._buffers.table is not None
            and times.dtype == self._buffers.times.dtype
            and (bound.plan.input_scale is None) == (self._buffers.input_scales is None)
            and form_of(bound) == form_of(self._bound)
            and all(_networks(each, bound) == _networks(each, self._bound) for each, _ in job.guidance.branches)
        )

    def __repr__(self) -> str:
        return f"CompiledRun({self.plan.sampler}, {self.plan.nfe} model calls, {self.shape}, backend={self.backend!r})"

    def _write(self, job: Job) -> None:
        """Write the inputs of a call into the buffers, as far as they are not there already."""
        buffers, bound, before = self._buffers, _capturable(job), self._written
        self._written = None
        buffers.x.copy_(job.first_state().x)
        for key, noise in buffers.noises.items():
            noise.copy_(job.noise(*key))
        if self._words is not None and isinstance(job.noise, DeviceNoise):
            self._words.copy_(job.noise.words)
        if buffers.table is not None and (before is None or bound.plan is not before.run.plan):
            buffers.table.copy_(sent(table_of(bound), buffers.table.device))
            buffers.times.copy_(job.calls.times(bound.plan))
            if buffers.input_scales is not None and bound.plan.input_scale is not None:
                scales = torch.from_numpy(bound.plan.input_scale.copy())
                buffers.input_scales.copy_(sent(scales, buffers.input_scales.device))
        if before is None or job.guidance is not before.guidance:
            given: list[Any] = []

            def noted(_: ModelAdapter, condition: Mapping[str, Any], copies: int) -> Model:
                given.append(unwrapped(condition))
                return _never

            job.guidance.model(noted, {})
            for kept, new in zip(self._conditions, given, strict=True):
                _overwrite(kept, new, "condition")
        self._written = job

    def _caller(self, adapter: ModelAdapter, condition: Mapping[str, Any], copies: int) -> Model:
        """A network as a function of (x, row) that reads times and conditions from fixed memory."""
        kept = map_tensors(torch.clone, unwrapped(condition))
        self._conditions.append(kept)
        return by_row(adapter, self._bound.plan, lambda network: self._of_network(network, kept, copies))

    def _of_network(self, adapter: ModelAdapter, kept: Mapping[str, Any], copies: int) -> Model:
        inputs = RowInputs(self._buffers.input_scales, self._buffers.times)
        wanted, network = self._job.calls.dtype_of(adapter), adapter.unchecked()
        times = inputs.times(copies * self._job.batch)

        def call(x: Tensor, row: int) -> Tensor:
            x = inputs.state(x, row, wanted)
            t = times[row].clone()  # a network may change it in-place, and others and later calls read this memory
            return network(x if copies == 1 else torch.cat([x] * copies), t, kept)

        return call

    def _prepared(self, options: dict[str, Any]) -> Callable[[Job], Tensor]:
        """The run as a function of a job whose inputs are in the buffers."""
        bound, model, buffers = self._bound, self._model, self._buffers
        noise = None if self._words is None else functools.partial(draw, self._words, self.shape[1:], buffers.x.dtype)
        if not self._whole:
            return lambda job: run_captured(bound, model, buffers, job.noise if noise is None else noise)

        def program() -> Tensor:
            return run_captured(bound, model, buffers, noise)

        if self.backend == "unrolled":
            compiled = torch.compile(program, fullgraph=True, dynamic=False, **options)
            return lambda _: compiled()
        before = torch.cuda.memory_reserved()
        self._write(self._job)
        replay = _cuda_graph(program)
        self.pool_bytes = torch.cuda.memory_reserved() - before
        return lambda _: replay()


def compiled_run(
    setup_job: Callable[[Request], Job], request: Request, backend: str, options: Mapping[str, Any] | None
) -> CompiledRun:
    """Prepare a run; see :class:`CompiledRun`.

    Raises:
        ConfigurationError: an unknown backend, one that the device does not have, or a run that cannot be captured.
    """
    if backend not in BACKENDS:
        raise ConfigurationError(
            f"got {shown(backend)}", where="backend", suggestion=f"use one of {', '.join(BACKENDS)}"
        )
    job = setup_job(request)
    cuda = job.noise.device.type == "cuda"
    chosen = backend if backend != "auto" else ("cuda_graph" if cuda else "network")
    if chosen == "cuda_graph" and not cuda:
        raise ConfigurationError(
            f"the run is on {job.noise.device}", where="backend", suggestion="use 'network', or move the model to CUDA"
        )
    if chosen == "network":
        compiled = functools.partial(torch.compile, fullgraph=True, dynamic=False, **(options or {}))
        network = job.calls.model.model
        model = network.with_networks(compiled) if isinstance(network, Experts) else compiled(network)
        request = replace(request, model=model)
        job = setup_job(request)
    return CompiledRun(job, request, setup_job, chosen, options)


def _capturable(job: Job) -> BoundPlan:
    """The plan of a job, if its whole run can be a program.

    Raises:
        ConfigurationError: it cannot; the error says why.
    """
    run, why = job.run, ""
    if isinstance(run, FrameRun):
        why = "its frames have noise levels of their own"
    elif not isinstance(run, BoundPlan):
        why = "it has only step()" if run.planned else "its steps depend on the model"
    elif any(row is not None and row.tracks for row in job.guidance.rows):
        why = "its guidance differentiates the model"
    if why or not isinstance(run, BoundPlan):
        raise ConfigurationError(
            f"a run of {run.plan.sampler!r} cannot be compiled: {why}", where="compile", suggestion="call sample"
        )
    return run


def _cuda_graph(program: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The program captured as one CUDA graph; the function replays it and returns its output's fixed memory."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # a capture needs libraries that have already started
        for _ in range(_WARM_UP):
            program()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = program()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def _overwrite(kept: Any, new: Any, where: str) -> None:
    """Write the tensors of a condition into those of another of the same structure.

    Raises:
        ConfigurationError: another structure, shape or type, or another value that is not a tensor.
    """
    same = type(kept) is type(new)
    if same and isinstance(kept, Tensor):
        if kept.shape == new.shape and kept.dtype == new.dtype:
            kept.copy_(new)
            return
        same = False
    elif same and isinstance(kept, Mapping) and kept.keys() == new.keys():
        for name in kept:
            _overwrite(kept[name], new[name], f"{where}[{name!r}]")
        return
    elif same and isinstance(kept, list | tuple) and len(kept) == len(new):
        for i, (old, each) in enumerate(zip(kept, new, strict=True)):
            _overwrite(old, each, f"{where}[{i}]")
        return
    if not same or kept != new:
        raise ConfigurationError(
            f"got {_described(new)}, and the prepared run has {_described(kept)}",
            where=where,
            suggestion="give tensors of the same shapes and types, or compile a run for the other condition",
        )


def _described(value: Any) -> str:
    return f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else shown(value)


def _remembers(row: RowGuidance | None) -> bool:
    return row is not None and any(each.memory is not None for each in row.functions)


def _networks(adapter: ModelAdapter, bound: BoundPlan) -> list[int] | None:
    """The network of each row, for a model of two."""
    networks = adapter.of_rows(bound.plan.time)
    return None if networks is None else [id(network.model) for network in networks]


def _never(x: Tensor, row: int) -> Tensor:
    raise AssertionError("a network of the copied conditions is never called")
