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

from ....grids.time_grid import checked_steps
from ....plans.plan import SamplingPlan
from ....support.errors import ConfigurationError
from .compile_request import Recipe, Told
from .looks import Looks
from .output import PlanSchedulerOutput, StepTuple
from .run_registry import Table
from .run_tables import Tables
from .tokens import moved_by_token
from .user_choice import Plans, chosen
from .words import words_of

__all__ = ["PlanScheduler", "PlanSchedulerOutput"]


class PlanScheduler(Looks, SchedulerMixin, ConfigMixin):  # type: ignore[misc]
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
        self._recipe, self._tables = Recipe(self.config), Tables(self._every_time)
        self.order = self._recipe.order
        self._words = words_of(self._recipe.class_name)
        self._signature = self._words.signature(self._recipe.told_eta)

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
        *placed: Any,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        **further: Any,
    ) -> None:
        """Compile the plan of a run, or take the one that was compiled before.

        Args:
            num_inference_steps: N, intervals; ``timesteps`` has one entry for every model call.
            device: of ``timesteps``.
            placed: what the class of the config takes next, in its order.
            timesteps, sigmas: where the model is to be asked, in place of N.
            mu: of the shift by resolution.
            further: what else that class takes (``original_inference_steps``, ``strength``).

        Raises:
            ConfigurationError: what the class of the config, the spacing or the sampler cannot do.
        """
        words, known = self._words, (num_inference_steps, device)
        given = {"timesteps": timesteps, "sigmas": sigmas, "mu": mu, **further}
        if placed:
            named = {name: value for name, value in given.items() if value is not None}
            given |= dict(list(words.named(words.run, (*known, *placed), named).items())[2:])
        request = {
            "num_inference_steps": None if num_inference_steps is None else checked_steps(num_inference_steps),
            "timesteps": _numbers(given.pop("timesteps")), "sigmas": _numbers(given.pop("sigmas")),
            "mu": None if given["mu"] is None else float(given["mu"]),
        }  # fmt: skip
        del given["mu"]
        if all(request[name] is None for name in ("num_inference_steps", "timesteps", "sigmas")):
            raise ConfigurationError("is missing", where="num_inference_steps", suggestion="give the number of steps")
        if self._recipe.config is not self.config:
            self._start()
        request |= words.further(given)
        if self._shift is not None:
            request["shift"] = self._shift
        self._recipe.refuse_ignored(request)
        self._tables.add(Table(self._recipe.program(request), request, device))

    def _every_time(self) -> Table:
        """The table that holds before the first ``set_timesteps``, as in diffusers: all training times are visited.

        Raises:
            ConfigurationError: the sampler is another than the config's class, and so may be its times.
        """
        if not self._recipe.is_own:
            raise ConfigurationError(
                "there are no timesteps yet",
                where="PlanScheduler",
                suggestion="call set_timesteps(num_inference_steps) first",
            )
        request = {"num_inference_steps": len(self), "timesteps": None, "sigmas": None, "mu": None}
        return Table(self._recipe.program(request), request, None)

    @property
    def sigmas(self) -> Tensor:
        """σ of every call and of the end: σ/α, or σ on the straight path. Before ``set_timesteps``, the class's."""
        theirs = getattr(self._recipe.reference, "sigmas", None) if self._tables.current is None else None
        return theirs if isinstance(theirs, Tensor) else self._tables.needed.program.sigmas

    @property
    def num_inference_steps(self) -> int | None:
        """N of the last ``set_timesteps``."""
        table = self._tables.current
        return None if table is None else table.program.plan.steps

    @property
    def init_noise_sigma(self) -> float | Tensor:
        """What unit noise is multiplied by to be the first state; a tensor where it is one in the config's class."""
        table = self._tables.current
        scale = self._recipe.on_path()[1].prior_std if table is None else table.program.scale
        tensor = isinstance(getattr(self._recipe.reference, "init_noise_sigma", None), Tensor)
        return torch.tensor(scale) if tensor else scale

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

    @property
    def _step_index(self) -> int | None:
        """:attr:`step_index`; Cosmos' pipelines set it back by one, to make a step again."""
        return self.step_index

    @_step_index.setter
    def _step_index(self, index: int | None) -> None:
        self._tables.needed.step_back(index)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say that the run begins at this entry of ``timesteps``: image-to-image."""
        self._tables.needed.begin = int(begin_index)

    def scale_model_input(self, sample: Tensor, timestep: Any = None, *_: Any, **__: Any) -> Tensor:
        """What the network is to see: the sample, but for networks that expect another scale."""
        if not self._recipe.scales:
            return sample
        table, call = self._tables.found(timestep)
        return sample * table.program.calls[call].input_scale

    @property
    def step(self) -> Any:
        """``step(model_output, timestep, sample, ..., generator=None, return_dict=True)``: from one call to the next.

        Its further arguments are those of the config's class, by place and by name; pipelines look into the
        signature for ``eta`` and ``generator``. DDIM and TCD take ``eta``, unless it was given as an option.

        Args:
            model_output: what the network returned, guided; shape (B, ...).
            timestep: the entry of ``timesteps``.
            sample: the state that it was asked about; what the last step returned, or what became of it.
            generator: one, or one a sample; noise is drawn as diffusers draws it.
            variance_noise: unit noise in place of one that is drawn.
            return_dict: False: a tuple as long as that class's; else a :class:`PlanSchedulerOutput`.

        Raises:
            ConfigurationError: out of turn, a sample that may be of several runs, or an argument that would be
                ignored.
        """
        return _Step(self)

    def _take_step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, placed: Sequence[Any], told: dict[str, Any]
    ) -> PlanSchedulerOutput | tuple[Tensor, ...]:
        """:attr:`step`, given what it is told beside the state."""
        if placed:
            told = self._words.named(self._words.step, placed, told)
        returns_output, generator = told.pop("return_dict", True), told.pop("generator", None)
        table, call = self._tables.found(timestep, sample, self._from_anywhere)
        if self._recipe.told_eta:
            eta, clipped = told.pop("eta", None), told.pop("use_clipped_model_output", None)
            if (eta, clipped) != (None, None):
                self._tell(table, (None if eta is None else float(eta), clipped))
        further: dict[str, Any] = {}
        if told:
            model_output, further = self._told(table, call, model_output, sample, told)
        after, later = table.step(call, model_output, sample, generator, **further)
        names = self._words.returned
        if returns_output:
            return PlanSchedulerOutput(after, later, names)
        return StepTuple.of(after, later, names[0]) if names else (after,)

    def _from_anywhere(self, time: float) -> Table | None:
        """A table of one step from a time that is not in the list, as DDIM takes it."""
        table = self._tables.needed
        program = self._recipe.from_anywhere(time, table.program.plan.steps, table.told)
        return None if program is None else Table(program, {**table.request, "from": time}, None)

    def _tell(self, table: Table, told: Told) -> None:
        if told != table.told:
            if table.busy:
                raise ConfigurationError(
                    f"got {told} in the middle of a run",
                    where="eta, use_clipped_model_output",
                    suggestion="give every step the same",
                )
            begun = table.request.get("from")
            single = None if begun is None else self._recipe.from_anywhere(begun, self.plan.steps, told)
            table.program, table.told = single or self._recipe.program(table.request, told), told

    def _told(
        self, table: Table, call: int, output: Tensor, sample: Tensor, told: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
        """The output and the options of :meth:`Table.step` that follow from what few pipelines tell."""
        following, noise = told.pop("prev_timestep", None), told.pop("variance_noise", None)
        times, clean = told.pop("per_token_timesteps", None), told.pop("pred_original_sample", None)
        self._words.refuse(told)
        if following is not None:
            table.refuse_other_end(call, following)
        if clean is not None:  # Cosmos hands over the denoised sample of an EDM network
            output = self._conversion().output_of(clean, sample, table.program.calls[call].sigma)
        edit = None
        if times is not None:  # LTX, with an output of the other sign
            output = -output
            edit = moved_by_token(table.program, call, output, sample, times, len(self))
        return output, {"noise": noise, "edit": edit}

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

    def __reduce__(self) -> tuple[Any, ...]:
        table = self._tables.current
        return _again, (type(self), dict(self.config), None if table is None else dict(table.request), self._shift)


class _Step:
    """The step of a scheduler, with the signature of the class in whose place that is."""

    __slots__ = ("__signature__", "_owner")

    def __init__(self, owner: PlanScheduler) -> None:
        self._owner, self.__signature__ = owner, owner._signature

    def __call__(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *placed: Any, **told: Any
    ) -> PlanSchedulerOutput | tuple[Tensor, ...]:
        return self._owner._take_step(model_output, timestep, sample, placed, told)


def _again(
    cls: type[PlanScheduler], config: dict[str, Any], request: dict[str, Any] | None, shift: float | None = None
) -> PlanScheduler:  # fmt: skip
    made = cls(config)
    if request is not None:
        made._shift = request.pop("shift", None)
        made.set_timesteps(**request)
    made._shift = shift
    return made


def _numbers(values: Any) -> tuple[float, ...] | None:
    if values is None:
        return None
    plain = values.tolist() if hasattr(values, "tolist") else values
    return tuple(v.item() if hasattr(v, "item") else v for v in plain)
