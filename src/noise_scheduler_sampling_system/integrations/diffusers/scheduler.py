"""Our samplers in diffusers' pipelines: ``pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, ...)``.

What a pipeline does to a scheduler, it does to a compiled plan here. The state of a run belongs to the run:
``timesteps`` is a new tensor at every ``set_timesteps``, the entries that a loop takes from it say which one
they come from by their place in memory, and the tensor that ``step`` returned says which run it belongs to.
So pipelines may share a scheduler, from one thread or several, and whatever is ambiguous is an error.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef as _StorageWeakRef

from ...config import SAMPLERS
from ...errors import ConfigurationError, ModelOutputError
from ...factory import NoiseSchedulerFactory, SamplerFactory
from ...grids import checked_steps, make_grid
from ...names import Resolved, resolve
from ...plan import SamplingPlan
from ...registry import Registry, did_you_mean
from ...run import Noise, State
from ...schedules.path import NoisePath
from .program import Program
from .reading import Preconditioning, Reading, named_by, read, scheduler_class
from .trace import trace
from .visited import made, visited

__all__ = ["PlanScheduler", "PlanSchedulerOutput"]

#: Tells whether a tensor's memory is still held by somebody.
StorageWeakRef: Any = _StorageWeakRef
Plans = SamplingPlan | Mapping[Any, Any]
Generators = torch.Generator | list[torch.Generator]

#: Where a config of diffusers keeps what is ours.
_OURS = "_plan_scheduler"
#: Samplers whose η diffusers hands to ``step``.
_TOLD_ETA = frozenset({"ddim", "tcd"})
_KEPT_PROGRAMS = 64
_KEPT_THREADS = 64
#: η and ``use_clipped_model_output``, where ``step`` is told.
_Told = tuple[float | None, bool | None]
_HALF = (torch.float16, torch.bfloat16)


class PlanSchedulerOutput(Sequence[Tensor]):
    """What a step gives, as an object or as the pair (prev_sample, pred_original_sample).

    Attributes:
        prev_sample: the next state, of the sample's shape and type.
        pred_original_sample: the clean sample that the network predicts, computed when it is asked for.
    """

    __slots__ = ("_call", "_output", "_program", "_x", "prev_sample")

    def __init__(self, prev_sample: Tensor, program: Program, call: int, x: Tensor, output: Tensor) -> None:
        self.prev_sample = prev_sample
        self._program, self._call, self._x, self._output = program, call, x, output

    @property
    def pred_original_sample(self) -> Tensor:
        clean = self._program.clean(self._call, self._x, self._output)
        return clean.to(self.prev_sample.dtype)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        if index == 0:
            return self.prev_sample
        if index == "prev_sample" or index == "pred_original_sample":
            return getattr(self, index)
        return (self.prev_sample, self.pred_original_sample)[index]

    def __iter__(self) -> Iterator[Tensor]:
        yield self.prev_sample
        yield self.pred_original_sample


def _nobody() -> None:
    """A reference to nothing."""


class _Run:
    """One run between two model calls.

    Attributes:
        program: what it follows; not the table's where it began in the middle.
        call: the model call to come.
        history: predictions that are still to be read.
        drawn: noises that are still to be read.
        handed: the state that was handed out, as a weak reference.
    """

    __slots__ = ("call", "drawn", "handed", "history", "program")

    def __init__(self, program: Program, call: int) -> None:
        self.program, self.call = program, call
        self.history: Mapping[int, Tensor] = {}
        self.drawn: dict[tuple[int, int], Tensor] = {}
        self.handed: Callable[[], Tensor | None] = _nobody


class _Table:
    """What one ``set_timesteps`` made: a program, its timesteps on a device, and the runs through them."""

    __slots__ = ("begin", "last", "lost", "program", "request", "runs", "size", "start", "stop", "timesteps", "told")

    def __init__(self, program: Program, request: Mapping[str, Any], device: Any) -> None:
        self.program, self.request = program, request
        #: η and ``use_clipped_model_output``, as the steps were told.
        self.told: _Told = (None, None)
        source = program.timesteps
        made = source.to(device) if device is not None else source
        self.timesteps = made.clone() if made is source else made
        self.size = self.timesteps.element_size()
        self.start = self.timesteps.data_ptr()
        self.stop = self.start + len(source) * self.size
        self.runs: list[_Run] = []
        self.begin: int | None = None
        #: The call to come of the run that moved last.
        self.last: int | None = None
        #: Whether a run was given up whose state nobody holds: it may yet go on with another tensor.
        self.lost = False

    def call_at(self, timestep: Any) -> int | None:
        """Which call's time this is, if it is a part of these timesteps."""
        if isinstance(timestep, Tensor):
            place: int = timestep.data_ptr()  # host and device share one space of addresses
            if self.start <= place < self.stop:
                return (place - self.start) // self.size
        return None

    def calls_at(self, time: float) -> list[int]:
        return [i for i, call in enumerate(self.program.calls) if call.time == time]

    def level_of(self, timestep: Any) -> tuple[float, float] | None:
        """α and σ of the call with this time; of several, of the one to come."""
        calls = self.program.calls
        exact = self.call_at(timestep)
        if exact is None:
            found = self.calls_at(float(timestep))
            if not found:
                return None
            exact = next((i for i in (self.last, self.begin) if i in found), found[0])
        return calls[exact].alpha, calls[exact].sigma

    def run_of(self, call: int, sample: Tensor) -> _Run:
        """The run that a sample belongs to.

        Raises:
            ConfigurationError: a call out of turn, or a sample that may be of several runs.
        """
        runs = self.runs
        for run in runs:
            if run.handed() is sample:
                if run.call != call:
                    raise self._out_of_turn(call, run.call)
                return run
        if call == (self.begin or 0) or not runs:
            return self._begun(call)
        waiting = [run for run in runs if run.call == call]
        if len(waiting) == 1 and len(runs) == 1 and not self.lost:
            return waiting[0]  # the state was edited on the way
        remembers = self.program.remembers[call]
        if waiting and not remembers and not self.lost:
            return waiting[0]  # whichever: nothing of it is read but its place
        if not waiting:
            raise self._out_of_turn(call, runs[-1].call)
        raise ConfigurationError(
            f"the sample of model call {call + 1} may belong to several runs that are under way",
            where="step",
            why="it is not the tensor that step() returned, and these runs share one set_timesteps()",
            suggestion="call set_timesteps() before every run, and take its timesteps; or hand prev_sample back",
        )

    def step(self, call: int, output: Tensor, sample: Tensor, generator: Generators | None) -> PlanSchedulerOutput:
        """From a model call to the next; arguments as for :attr:`PlanScheduler.step`."""
        run = self.run_of(call, sample)
        program, kind = run.program, sample.dtype
        if output.shape != sample.shape and not program.splits:
            self.runs.remove(run)
            raise _wrong_shape(output, sample)
        x = sample.float() if kind in _HALF else sample
        now = program.calls[call]
        noise = _noise(run, output, sample, generator) if program.stochastic else _no_noise
        state = program.step(State(now.row, x, run.history), now, output, noise)
        if program.draws_in_vain is not None and program.draws_in_vain[call]:
            noise(-1, call)
        after = state.x if state.x.dtype == kind else state.x.to(kind)
        call += 1
        if call == len(program.calls):
            self.runs.remove(run)
            self.last = None
        else:
            self.last = run.call = call
            run.history, run.handed = state.history, weakref.ref(after)
        return PlanSchedulerOutput(after, program, call - 1, x, output)

    def _begun(self, call: int) -> _Run:
        forgotten = [run for run in self.runs if run.handed() is None]
        if forgotten:
            self.lost = True
            self.runs = [run for run in self.runs if run not in forgotten]
        program = self.program if call == 0 else self.program.entered(call)
        run = _Run(program, call)
        self.runs.append(run)
        return run

    def _out_of_turn(self, call: int, due: int) -> ConfigurationError:
        calls = self.program.calls
        return ConfigurationError(
            f"model call {call + 1} of {len(calls)} (t = {calls[call].time:g}), and the run is due to make call "
            f"{due + 1} (t = {calls[due].time:g})",
            where="step",
            why="every entry of timesteps is one model call, in order",
            suggestion="loop over scheduler.timesteps as they are; call set_timesteps() to start anew",
        )


def _noise(run: _Run, output: Tensor, sample: Tensor, generator: Generators | None) -> Noise:
    """Unit noise as diffusers draws it; what a later row reads again is kept."""
    kept = run.drawn if run.program.shares_noise else None

    def draw(step: int, stage: int) -> Tensor:
        noise = None if kept is None else kept.get((step, stage))
        if noise is None:
            noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=output.dtype)
            if kept is not None:
                kept[step, stage] = noise
        return noise

    return draw


def _no_noise(step: int, stage: int) -> Tensor:
    raise AssertionError("a deterministic plan draws no noise")


class PlanScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Any sampler of this library as a scheduler of diffusers.

    ``PlanScheduler.from_config(pipe.scheduler.config)`` does what the pipeline's own scheduler does;
    ``method=`` chooses another sampler on the same levels, ``timestep_spacing=`` other levels.

    The levels are those that the config's own class visits, with the ``timesteps``, ``sigmas`` and ``mu`` that
    a pipeline gives, unless a spacing is chosen. Then ``mu`` still shifts the schedule, and ``timesteps``
    and ``sigmas`` still hold, except for the evenly spaced σ that pipelines of flow models give by themselves.

    x = α·x₀ + σ·ε everywhere, so :meth:`scale_model_input` returns what it is given (but for EDM networks, whose
    conversions diffusers leaves to the scheduler). Half-precision states are stepped in float32.

    Args:
        config: a scheduler of diffusers or its config; with that of a ``PlanScheduler``, its choices are kept
            where no others are given.
        method: a sampler's name (:func:`~..names.resolve`); None: the one that the class is.
        timestep_spacing, spacing_options: as in :class:`NoiseSchedulerConfig`.
        plan: fixed plans in place of a sampler: one, or a mapping from numbers of steps.
        options: the sampler's options, or fields of the config to set differently.

    Raises:
        ConfigurationError: a config that cannot be read, an unknown name or option, or a sampler that needs more
            than a scheduler of diffusers is given.
    """

    _compatibles = [
        *(each.name for each in KarrasDiffusionSchedulers),
        "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler", "LCMScheduler",
        "TCDScheduler", "SASolverScheduler", "EDMDPMSolverMultistepScheduler",
    ]  # fmt: skip

    def __init__(
        self, config: Any = None, *, method: Any = None, timestep_spacing: str | None = None,
        spacing_options: Mapping[str, Any] | None = None, plan: Plans | None = None, **options: Any,
    ) -> None:  # fmt: skip
        if config is None:
            raise ConfigurationError(
                "no config", where="PlanScheduler", suggestion="PlanScheduler.from_config(pipe.scheduler.config)"
            )
        base = dict(config if isinstance(config, Mapping) else config.config)
        choice = dict(base.pop(_OURS, {}))
        name = choice.get("scheduler") or _class_of(config, method is not None or plan is not None)
        base.pop("_class_name", None)
        if method is not None or plan is not None:
            choice |= {"method": None, "options": {}, "plans": None}
        chosen = Registry.key(method) if method is not None else choice.get("method")
        fields = _changed_fields(name, chosen, options)
        given = {k: v for k, v in options.items() if k not in fields}
        if timestep_spacing is not None:
            choice |= {"timestep_spacing": timestep_spacing, "spacing_options": {}}
        if spacing_options is not None:
            choice["spacing_options"] = dict(spacing_options)
        choice |= {"scheduler": name, "method": chosen, "options": {**choice.get("options", {}), **given}}
        choice["plans"] = _plain_plans(plan) if plan is not None else choice.get("plans")
        defaulted = [key for key in base.get("_use_default_values", ()) if key not in fields]
        register: Any = self.register_to_config
        register(**{**base, "_use_default_values": defaulted, **fields, _OURS: choice})
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        """Read the config, which some pipelines replace."""
        self._read_from: Any = self.config
        self._choice: Mapping[str, Any] = self.config[_OURS]
        self._programs: dict[Any, Program] = {}
        self._paths: dict[float | None, tuple[Reading, NoisePath]] = {}
        self._tables: dict[int, _Table] = {}
        self._latest: _Table | None = None
        self._old: list[tuple[_Table, Any]] = []
        self._plans = {int(k): SamplingPlan.from_dict(v) for k, v in (self._choice.get("plans") or {}).items()}
        self._meant = self._resolved()
        reading, path = self._on_path(None)
        options = self._sampler_options(reading, 1)
        if self._meant is not None:
            sampler = SamplerFactory.create(self._meant.sampler, path, **options)
            if not sampler.writes_plans:
                raise ConfigurationError(
                    f"{self._meant.sampler!r} has no plan",
                    where="method",
                    why="a scheduler of diffusers says beforehand when the model is asked",
                    suggestion="use a sampler with a fixed number of steps",
                )
            self.order = sampler.calls_per_step
        elif self._plans:
            orders = {_order(plan) for plan in self._plans.values()}
            self.order = orders.pop() if len(orders) == 1 else 1
        else:
            self.order = int(getattr(scheduler_class(reading.class_name), "order", 1))
        given = any(plan.input_scale is not None for plan in self._plans.values())
        self._scales = given or reading.preconditioning is not None
        told = self._meant is not None and self._meant.sampler in _TOLD_ETA
        self._told_eta = told and "eta" not in self._choice.get("options", {})

    def _resolved(self) -> Resolved | None:
        """The sampler; None for given plans, and for classes whose plan is traced."""
        if self._plans:
            return None
        name = self._choice.get("method")
        if name is not None:
            return resolve(name)
        reading = read(self.config)
        if reading.sampler is not None:
            return Resolved(reading.sampler, reading.options)
        if reading.traceable and self._choice.get("timestep_spacing") is None:
            return None
        raise ConfigurationError(
            f"{reading.class_name} is no sampler here: {reading.refusal}",
            where="method",
            suggestion="choose one: from_config(config, method='dpmpp_2m')",
        )

    @classmethod
    def from_config(
        cls, config: Any = None, return_unused_kwargs: bool = False, **options: Any
    ) -> PlanScheduler | tuple[PlanScheduler, dict[str, Any]]:
        """A scheduler in the place of another one; arguments as for the class."""
        made = cls(config, **options)
        return (made, {}) if return_unused_kwargs else made

    @classmethod
    def from_plan(cls, plan: Plans, config: Any) -> PlanScheduler:
        """A scheduler that follows given plans, e.g. calibrated ones.

        Args:
            plan: one, or a mapping from numbers of steps; pipelines are to ask for just these numbers.
            config: of the scheduler in whose place it is: what the network was trained for.

        Raises:
            ConfigurationError: a plan of another noise schedule.
        """
        return cls(config, plan=plan)

    # what pipelines ask

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Compile the plan of a run, or take the one that was compiled before.

        Args:
            num_inference_steps: N, intervals; ``timesteps`` has one entry for every model call.
            device: of ``timesteps``.
            timesteps, sigmas: where the model is to be asked, in place of N.
            mu: of the shift by resolution.

        Raises:
            ConfigurationError: what the class of the config, the spacing or the sampler cannot do.
        """
        request = {
            "num_inference_steps": None if num_inference_steps is None else checked_steps(num_inference_steps),
            "timesteps": _numbers(timesteps), "sigmas": _numbers(sigmas), "mu": None if mu is None else float(mu),
        }  # fmt: skip
        if self._read_from is not self.config:
            self._start()
        table = _Table(self._program(request, (None, None)), request, device)
        with self._lock:
            before = self._tables.get(threading.get_ident())
            if before is not None:
                self._old = [(t, held) for t, held in self._old if not held.expired()]
                self._old.append((before, StorageWeakRef(before.timesteps.untyped_storage())))
                before.timesteps = before.timesteps[:0].clone()  # its memory is now the loop's alone
            if len(self._tables) > _KEPT_THREADS:
                alive = {thread.ident for thread in threading.enumerate()}
                self._tables = {ident: kept for ident, kept in self._tables.items() if ident in alive}
            self._tables[threading.get_ident()] = self._latest = table

    @property
    def timesteps(self) -> Tensor:
        """The times to ask the model at, one for every call: of this thread's last ``set_timesteps``."""
        table = self._table()
        if table is not None:
            return table.timesteps
        path = self._on_path(None)[1]
        if path.discrete:
            return torch.arange(len(self) - 1, -1, -1)
        return torch.linspace(path.t_max, path.t_min, len(self))

    @property
    def sigmas(self) -> Tensor:
        """σ of every call and of the end: σ/α, or σ on the straight path."""
        return self._needed().program.sigmas

    @property
    def num_inference_steps(self) -> int | None:
        """N of the last ``set_timesteps``."""
        table = self._table()
        return None if table is None else table.program.plan.steps

    @property
    def init_noise_sigma(self) -> float:
        """What unit noise is multiplied by to be the first state."""
        table = self._table()
        return self._on_path(None)[1].prior_std if table is None else table.program.scale

    @property
    def plan(self) -> SamplingPlan:
        """The plan of the last ``set_timesteps``."""
        return self._needed().program.plan

    @property
    def begin_index(self) -> int | None:
        table = self._table()
        return None if table is None else table.begin

    @property
    def step_index(self) -> int | None:
        """The number of the model call to come, in the run that moved last."""
        table = self._table()
        return None if table is None else table.last

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say that the run begins at this entry of ``timesteps``: image-to-image."""
        self._needed().begin = int(begin_index)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the network is to see: the sample, but for networks that expect another scale."""
        if not self._scales:
            return sample
        table = self._needed()
        call = table.call_at(timestep)
        if call is None:
            table, call = self._found(timestep, None)
        return sample * table.program.calls[call].input_scale

    @property
    def step(self) -> Any:
        """``step(model_output, timestep, sample, generator=None, return_dict=True)``: from one model call to the next.

        DDIM and TCD take ``eta``, too, and DDIM ``use_clipped_model_output``, unless ``eta`` was given as an option:
        pipelines look for it in the signature.

        Args:
            model_output: what the network returned, guided; shape (B, ...).
            timestep: the entry of ``timesteps``.
            sample: the state that it was asked about; what the last step returned, or what became of it.
            generator: one, or one a sample; noise is drawn as diffusers draws it.
            return_dict: nothing depends on it: the output is an object and a pair.

        Raises:
            ConfigurationError: out of turn, or a sample that may be of several runs.
        """
        return self._step_eta if self._told_eta else self._step

    def _step_eta(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float | None = None,
        use_clipped_model_output: bool | None = None,
        generator: Generators | None = None,
        return_dict: bool = True,
    ) -> PlanSchedulerOutput:
        table, call = self._found(timestep, sample)
        told = None if eta is None else float(eta), use_clipped_model_output
        if told != table.told and told != (None, None):
            if table.runs:
                raise ConfigurationError(
                    f"got {told} in the middle of a run",
                    where="eta, use_clipped_model_output",
                    suggestion="give every step the same",
                )
            table.program, table.told = self._program(table.request, told), told
        return table.step(call, model_output, sample, generator)

    def _step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generators | None = None,
        return_dict: bool = True,
        **told: Any,
    ) -> PlanSchedulerOutput:
        if told:
            _refuse_told(told)
        table = self._tables.get(threading.get_ident(), self._latest)
        call = None if table is None else table.call_at(timestep)
        if table is None or call is None:
            table, call = self._found(timestep, sample)
        return table.step(call, model_output, sample, generator)

    # what they do to images

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Any) -> Tensor:
        """α·x₀ + σ·ε at these times, one or one a sample: at the levels of the run where they are its times."""
        alpha, sigma = self._factors(original_samples, timesteps)
        noisy: Tensor = alpha * original_samples + sigma * noise
        return noisy

    def scale_noise(self, sample: Tensor, timestep: Any, noise: Tensor | None = None) -> Tensor:
        """:meth:`add_noise` with the arguments of diffusers' flow schedulers."""
        if noise is None:
            raise ConfigurationError("is missing", where="noise", suggestion="give unit noise of the sample's shape")
        return self.add_noise(sample, noise, timestep)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Any) -> Tensor:
        """v = α·ε − σ·x₀ at these times."""
        alpha, sigma = self._factors(sample, timesteps)
        velocity: Tensor = alpha * noise - sigma * sample
        return velocity

    def _factors(self, like: Tensor, timesteps: Any) -> tuple[Tensor, Tensor]:
        times = list(timesteps.reshape(-1)) if isinstance(timesteps, Tensor) else [timesteps]
        table, path = self._table(), self._on_path(None)[1]
        pairs = []
        for t in times:
            level = None if table is None else table.level_of(t)
            pairs.append(path.level(float(t))[1:] if level is None else level)
        both = torch.tensor(pairs, dtype=torch.float64).to(like.device, like.dtype)
        shape = (-1, *[1] * (like.ndim - 1))
        return both[:, 0].reshape(shape), both[:, 1].reshape(shape)

    # EDM

    def precondition_inputs(self, sample: Tensor, sigma: float | Tensor) -> Tensor:
        """c_in(σ)·x, for EDM networks."""
        scaled: Tensor = sample * self._conversion().c_in(float(sigma))
        return scaled

    def precondition_outputs(self, sample: Tensor, model_output: Tensor, sigma: float | Tensor) -> Tensor:
        """The clean sample that an EDM network's output stands for."""
        of, at = self._conversion(), float(sigma)
        clean: Tensor = of.c_skip(at) * sample + of.c_out(at) * model_output
        return clean

    def _conversion(self) -> Preconditioning:
        reading = self._on_path(None)[0]
        if reading.preconditioning is None:
            raise ConfigurationError(
                f"{reading.class_name} has no preconditioning",
                where="scheduler",
                suggestion="it is for networks of EDM: EDMEulerScheduler and its like",
            )
        return reading.preconditioning

    # tables that some pipelines look into

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ of the training timesteps, where there are betas."""
        path = self._on_path(None)[1]
        if not hasattr(path, "alphas_cumprod"):
            raise AttributeError(f"{path!r} has no betas")
        made: Tensor = path.alphas_cumprod.float()
        return made

    def __len__(self) -> int:
        return int(self.config.get("num_train_timesteps", 1000))

    def __reduce__(self) -> tuple[Any, ...]:
        table = self._table()
        return _again, (type(self), dict(self.config), None if table is None else dict(table.request))

    # within

    def _table(self) -> _Table | None:
        return self._tables.get(threading.get_ident(), self._latest)

    def _needed(self) -> _Table:
        table = self._table()
        if table is None:
            raise ConfigurationError(
                "there are no timesteps yet",
                where="PlanScheduler",
                suggestion="call set_timesteps(num_inference_steps) first",
            )
        return table

    def _found(self, timestep: Any, sample: Tensor | None) -> tuple[_Table, int]:
        """The table and the call that a timestep is of: by its memory, else by the sample, else by its value.

        Raises:
            ConfigurationError: no such time.
        """
        table = self._needed()
        call = table.call_at(timestep)
        if call is not None:
            return table, call
        for other in [*self._tables.values(), *(old for old, held in self._old if not held.expired())]:
            call = other.call_at(timestep)
            if call is not None:
                return other, call
        time = float(timestep.reshape(-1)[0] if isinstance(timestep, Tensor) else timestep)
        for run in table.runs:
            if sample is not None and run.handed() is sample and table.program.calls[run.call].time == time:
                return table, run.call
        found = table.calls_at(time)
        if not found:
            raise ConfigurationError(
                f"t = {time:g} is none of the times of the run",
                where="timestep",
                suggestion="give step() the entries of scheduler.timesteps, after set_timesteps()",
            )
        waiting = [run.call for run in table.runs if run.call in found]
        begin = table.begin or 0
        return table, waiting[0] if waiting else (begin if begin in found else found[0])

    def _on_path(self, mu: float | None) -> tuple[Reading, NoisePath]:
        """The config read, and its path with the spacing that was chosen."""
        if mu not in self._paths:
            reading = read(self.config, mu=mu)
            config = reading.config
            if self._meant is not None:
                config = reading.config_for(self._meant.sampler)
            elif config.variance_type.startswith("fixed"):
                config = config.replace(variance_type="fixed_small", use_clipped_model_output=True)
            spacing, options = self._spacing()
            if spacing is not None:
                config = config.replace(timestep_spacing=spacing, spacing_options=dict(options))
            self._paths[mu] = reading, NoiseSchedulerFactory.create(config)
        return self._paths[mu]

    def _spacing(self) -> tuple[str | None, Mapping[str, Any]]:
        """The spacing that was chosen, by itself or by the sampler's name ("DPM++ 2M Karras")."""
        spacing, options = self._choice.get("timestep_spacing"), self._choice.get("spacing_options") or {}
        meant = self._meant
        if meant is not None and meant.firm and spacing is None:
            return meant.spacing, {**meant.spacing_options, **options}
        if options and spacing is None:
            raise ConfigurationError(
                "are given without a spacing", where="spacing_options", suggestion="give timestep_spacing, too"
            )
        return spacing, options

    def _sampler_options(self, reading: Reading, steps: int) -> dict[str, Any]:
        given = dict(self._choice.get("options", {}))
        if self._meant is None:
            return given
        own = self._choice.get("method") is None
        return {**(reading.options_for(steps) if own else self._meant.options), **given}

    def _program(self, request: Mapping[str, Any], told: _Told) -> Program:
        key = (*request.values(), *told)
        known = self._programs.get(key)
        if known is None:
            known = self._compiled(request, told)
            if len(self._programs) >= _KEPT_PROGRAMS:
                self._programs.clear()
            self._programs[key] = known
        return known

    def _compiled(self, request: Mapping[str, Any], told: _Told) -> Program:
        reading, path = self._on_path(request["mu"])
        more: dict[str, Any] = {"preconditioning": reading.preconditioning, "clock": reading.clock}
        if self._plans:
            return Program.of(self._given_plan(request, path), path.config, **more)
        spacing, _ = self._spacing()
        steps, times, sigmas = (request[name] for name in ("num_inference_steps", "timesteps", "sigmas"))
        default = sigmas is not None and _is_pipelines_own(sigmas)
        if self._meant is None:
            return Program.of(self._traced(reading, request), path.config, **more)
        if spacing is not None and times is None and (sigmas is None or default):
            grid, scale, kind = make_grid(path, len(sigmas) if steps is None and sigmas else steps), None, None
            stays = False
        else:
            seen = visited(reading, path, request)
            grid, scale, kind, stays = seen.grid, seen.scale, seen.dtype, seen.stays
        options, (eta, clipped) = self._sampler_options(reading, grid.steps), told
        if stays and options.get("lower_order_final") and self._choice.get("method") is None:
            options["lower_order_final"] = False  # the step that was lowered is the one that went nowhere
        if eta is not None:
            options["eta"] = eta
        if clipped is not None:
            path = path.with_config(path.config.replace(use_clipped_model_output=clipped))
        sampler = SamplerFactory.create(self._meant.sampler, path, **options)
        return Program.of(
            sampler.plan(grid=grid), path.config, scale=scale, dtype=kind, sampler=sampler, grid=grid, **more
        )

    def _traced(self, reading: Reading, request: Mapping[str, Any]) -> SamplingPlan:
        """The plan of a class that no sampler is the same as, without its clipping, which the program does."""
        linear = {name: False for name in ("clip_sample", "thresholding") if reading.fields.get(name)}
        given = {name: value for name, value in request.items() if value is not None}
        return trace(made(reading, **linear), given.pop("num_inference_steps", None), **given)

    def _given_plan(self, request: Mapping[str, Any], path: NoisePath) -> SamplingPlan:
        steps, sigmas = request["num_inference_steps"], request["sigmas"]
        if request["timesteps"] is not None or (sigmas is not None and not _is_pipelines_own(sigmas)):
            raise ConfigurationError(
                "are given beside fixed plans",
                where="timesteps" if request["timesteps"] is not None else "sigmas",
                suggestion="leave them out: a plan has its own levels",
            )
        count = steps if steps is not None else len(sigmas or ())
        plan = self._plans.get(count)
        if plan is None:
            raise ConfigurationError(
                f"there is no plan for {count} steps",
                where="num_inference_steps",
                suggestion=f"ask for one of {sorted(self._plans)}",
            )
        _refuse_foreign(plan, path)
        return plan


def _refuse_told(told: Mapping[str, Any]) -> None:
    """Raise for what a step is told and would ignore. DDIMPipeline does not look whether it is taken."""
    for name, value in told.items():
        if name not in ("eta", "use_clipped_model_output"):
            raise TypeError(f"step() got an unexpected keyword argument {name!r}")
        if value:
            raise ConfigurationError(
                f"got {value!r}, which this sampler would ignore",
                where=name,
                suggestion="give it as an option of the sampler, where it has it: from_config(..., eta=0.5)",
            )


def _again(cls: type[PlanScheduler], config: dict[str, Any], request: dict[str, Any] | None) -> PlanScheduler:
    made = cls(config)
    if request is not None:
        made.set_timesteps(**request)
    return made


def _class_of(config: Any, chosen: bool) -> str:
    """The class in whose place the scheduler is."""
    if not isinstance(config, Mapping):
        return read(config).class_name
    names = named_by(config)
    if not names:
        return read(config).class_name  # which says what is wrong
    readings = [read({**config, "_class_name": name}) for name in names]
    if not chosen and any((r.sampler, r.options) != (readings[0].sampler, readings[0].options) for r in readings):
        raise ConfigurationError(
            f"the config names no class, and may be that of {', '.join(names)}",
            where="config._class_name",
            suggestion="give the scheduler itself, from_config(pipe.scheduler), or a method",
        )
    return names[0]


def _changed_fields(name: str, method: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that are fields of the class, and no options of the sampler.

    Raises:
        ConfigurationError: neither.
    """
    fields = set(read({"_class_name": name}).fields)
    own: set[str] = {"afs"}
    sampler = resolve(method).sampler if method is not None else read({"_class_name": name}).sampler
    if sampler is not None:
        own |= set(SAMPLERS.get(sampler).option_defaults)
    for option in options:
        if option not in own | fields:
            raise ConfigurationError(
                f"neither the sampler {sampler!r} nor {name} has it", where=option,
                suggestion=did_you_mean(option, sorted(own | fields)),
            )  # fmt: skip
    return {k: v for k, v in options.items() if k in fields and k not in own}


def _plain_plans(plan: Plans) -> dict[str, Any]:
    """Plans by their number of steps, as plain data."""
    if isinstance(plan, SamplingPlan):
        return {str(plan.steps): plan.to_dict()}
    if "space" in plan:  # the dictionary of one
        return _plain_plans(SamplingPlan.from_dict(plan))
    found: dict[str, Any] = {}
    for steps, one in plan.items():
        made = one if isinstance(one, SamplingPlan) else SamplingPlan.from_dict(one)
        found[str(checked_steps(int(steps), "plan"))] = made.to_dict()
    if not found:
        raise ConfigurationError("there is none", where="plan", suggestion="give a SamplingPlan, or {steps: plan}")
    return found


def _order(plan: SamplingPlan) -> int:
    """The model calls of every step, where all but the last make the same number; 1 otherwise."""
    counts = [sum(bool(a) for a, s in zip(plan.asked, plan.step, strict=True) if s == k) for k in range(plan.steps)]
    return counts[0] if len(set(counts[:-1])) == 1 and counts[0] >= counts[-1] > 0 else 1


def _refuse_foreign(plan: SamplingPlan, path: NoisePath) -> None:
    """A plan's levels must be the path's, but for the rounding of other libraries' tables."""
    for i, t in enumerate(plan.time):
        if not plan.asked[i] or not path.t_min <= t <= path.t_max:
            continue
        level = path.level(float(t))
        angle = abs(torch.atan2(torch.tensor(level.sigma), torch.tensor(level.alpha))
                    - torch.atan2(torch.tensor(plan.sigma[i]), torch.tensor(plan.alpha[i])))  # fmt: skip
        if float(angle) > 1e-2:
            raise ConfigurationError(
                f"its noise level at t = {t:g} is not that of {path!r}",
                where="plan",
                why="it was made on another noise schedule",
                suggestion="make it on NoiseSchedulerConfig.from_diffusers(pipe.scheduler)",
            )


def _numbers(values: Any) -> tuple[float, ...] | None:
    if values is None:
        return None
    plain = values.tolist() if hasattr(values, "tolist") else values
    return tuple(v.item() if hasattr(v, "item") else v for v in plain)


def _is_pipelines_own(sigmas: Sequence[float]) -> bool:
    """Whether these are 1, ..., 1/N, which pipelines of flow models give where their user gives none."""
    count = len(sigmas)
    return all(abs(s - (1.0 - i * (1.0 - 1.0 / count) / max(count - 1, 1))) < 1e-6 for i, s in enumerate(sigmas))


def _wrong_shape(output: Tensor, sample: Tensor) -> ModelOutputError:
    return ModelOutputError(
        f"has shape {tuple(output.shape)}, the sample {tuple(sample.shape)}",
        where="model_output",
        suggestion="give the prediction alone; variance_type='learned_range' is for networks that return a variance",
    )
