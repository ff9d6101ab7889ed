"""Our samplers in diffusers' pipelines: ``pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, ...)``.

What a pipeline does to a scheduler, it does to a compiled plan here. The state of a run belongs to the run:
``timesteps`` is a new tensor at every ``set_timesteps``, the entries that a loop takes from it say which one
they come from by their place in memory, and the tensor that ``step`` returned says which run it belongs to.
So pipelines may share a scheduler, from one thread or several, and whatever is ambiguous is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from torch import Tensor

from ...errors import ConfigurationError
from ...grids import checked_steps
from ...plan import SamplingPlan
from .choice import Plans, chosen
from .output import PlanSchedulerOutput
from .reading import Preconditioning
from .recipe import Recipe, Told
from .runs import Generators, Table
from .tables import Tables

__all__ = ["PlanScheduler", "PlanSchedulerOutput"]


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
        register: Any = self.register_to_config
        register(**chosen(config, method, timestep_spacing, spacing_options, plan, options))
        self._start()

    def _start(self) -> None:
        """Read the config, which some pipelines replace."""
        self._recipe, self._tables = Recipe(self.config), Tables()
        self.order = self._recipe.order

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
        if all(request[name] is None for name in ("num_inference_steps", "timesteps", "sigmas")):
            raise ConfigurationError("is missing", where="num_inference_steps", suggestion="give the number of steps")
        if self._recipe.config is not self.config:
            self._start()
        self._tables.add(Table(self._recipe.program(request), request, device))

    @property
    def timesteps(self) -> Tensor:
        """The times to ask the model at, one for every call: of this thread's last ``set_timesteps``."""
        table = self._tables.current
        if table is not None:
            return table.timesteps
        path = self._recipe.on_path()[1]
        if path.discrete:
            return torch.arange(len(self) - 1, -1, -1)
        return torch.linspace(path.t_max, path.t_min, len(self))

    @property
    def sigmas(self) -> Tensor:
        """σ of every call and of the end: σ/α, or σ on the straight path."""
        return self._tables.needed.program.sigmas

    @property
    def num_inference_steps(self) -> int | None:
        """N of the last ``set_timesteps``."""
        table = self._tables.current
        return None if table is None else table.program.plan.steps

    @property
    def init_noise_sigma(self) -> float:
        """What unit noise is multiplied by to be the first state."""
        table = self._tables.current
        return self._recipe.on_path()[1].prior_std if table is None else table.program.scale

    @property
    def plan(self) -> SamplingPlan:
        """The plan of the last ``set_timesteps``."""
        return self._tables.needed.program.plan

    @property
    def begin_index(self) -> int | None:
        table = self._tables.current
        return None if table is None else table.begin

    @property
    def step_index(self) -> int | None:
        """The number of the model call to come, in the run that moved last."""
        table = self._tables.current
        return None if table is None else table.last

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say that the run begins at this entry of ``timesteps``: image-to-image."""
        self._tables.needed.begin = int(begin_index)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the network is to see: the sample, but for networks that expect another scale."""
        if not self._recipe.scales:
            return sample
        table, call = self._tables.found(timestep)
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
        return self._step_eta if self._recipe.told_eta else self._step

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
        table, call = self._tables.found(timestep, sample)
        told: Told = None if eta is None else float(eta), use_clipped_model_output
        if told != table.told and told != (None, None):
            if table.busy:
                raise ConfigurationError(
                    f"got {told} in the middle of a run",
                    where="eta, use_clipped_model_output",
                    suggestion="give every step the same",
                )
            table.program, table.told = self._recipe.program(table.request, told), told
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
        table, call = self._tables.found(timestep, sample)
        if told:
            _refuse_told(told, table, call)
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
        table, path = self._tables.current, self._recipe.on_path()[1]
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
        reading = self._recipe.on_path()[0]
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
        path = self._recipe.on_path()[1]
        if not hasattr(path, "alphas_cumprod"):
            raise AttributeError(f"{path!r} has no betas")
        made: Tensor = path.alphas_cumprod.float()
        return made

    def __len__(self) -> int:
        return int(self.config.get("num_train_timesteps", 1000))

    def __reduce__(self) -> tuple[Any, ...]:
        table = self._tables.current
        return _again, (type(self), dict(self.config), None if table is None else dict(table.request))


def _refuse_told(told: Mapping[str, Any], table: Table, call: int) -> None:
    """Raise for what a step is told and would ignore. DDIMPipeline does not look whether it is taken."""
    for name, value in told.items():
        if name == "prev_timestep":  # UnCLIP's and Kandinsky's pipelines say where the step goes
            calls = table.program.calls
            due = calls[call + 1].time if call + 1 < len(calls) else None
            if value is not None and table.call_at(value) != call + 1 and float(value) != due:
                raise ConfigurationError(
                    f"got {float(value):g}, and the next time of the run is {due}",
                    where=name,
                    suggestion="leave it out, or give the next entry of scheduler.timesteps",
                )
        elif name not in ("eta", "use_clipped_model_output"):
            raise TypeError(f"step() got an unexpected keyword argument {name!r}")
        elif value:
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


def _numbers(values: Any) -> tuple[float, ...] | None:
    if values is None:
        return None
    plain = values.tolist() if hasattr(values, "tolist") else values
    return tuple(v.item() if hasattr(v, "item") else v for v in plain)
