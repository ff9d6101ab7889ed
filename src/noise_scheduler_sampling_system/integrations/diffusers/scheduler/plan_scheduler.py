"""Our samplers in diffusers' pipelines: ``pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, ...)``.

The scheduler compiles a plan and runs it as the pipeline calls it. The state of a run belongs to the run, not to the
scheduler. ``timesteps`` is a new tensor after every ``set_timesteps``. The entries that a loop takes from it tell, by
their place in memory, which tensor they come from. The tensor that ``step`` returned tells which run it belongs to. So
pipelines can share a scheduler, from one thread or several. An ambiguous call raises an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from torch import Tensor

from ....plans.plan import SamplingPlan
from ....support.argument_checks import checked_count
from ....support.errors import ConfigurationError
from .class_signature import FOLLOWING, signature_of
from .compile_request import CompileRequest
from .given_plans import Plans
from .instance_classes import instance_class
from .per_token_times import step_of_each_token
from .plan_compiler import PlanCompiler
from .run_registry import RunRegistry
from .scheduler_attributes import SchedulerAttributes
from .step_output import PlanSchedulerOutput, StepTuple
from .timestep_list import TimestepList
from .user_choice import registered_fields

__all__ = ["PlanScheduler", "PlanSchedulerOutput"]


class PlanScheduler(SchedulerAttributes, SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Any sampler of this library as a scheduler of diffusers.

    ``PlanScheduler.from_config(pipe.scheduler.config)`` does what the pipeline's own scheduler does. ``method=``
    chooses another sampler on the same levels, ``timestep_spacing=`` chooses other levels.

    Unless a spacing is chosen, the levels are those that the replaced class visits, with the ``timesteps``, ``sigmas``
    and ``mu`` that a pipeline gives. With a chosen spacing, ``mu`` still shifts the schedule. ``timesteps`` and
    ``sigmas`` still hold, except for the evenly spaced σ that pipelines of flow models give by themselves.

    The state is x = α·x₀ + σ·ε everywhere, so :meth:`scale_model_input` returns its argument. EDM networks are the
    exception: diffusers leaves their conversions to the scheduler. Half-precision states are stepped in float32.

    Args:
        config: a scheduler of diffusers or its config. From the config of a ``PlanScheduler``, choices that other
            arguments do not replace are kept.
        method: a sampler's name (:func:`~.sampler_aliases.resolve`); None: the sampler that the class is.
        timestep_spacing, spacing_options: as in :class:`NoiseSchedulerConfig`.
        plan: fixed plans in place of a sampler: one, or a mapping from numbers of steps.
        options: the sampler's options, or fields of the config to change.

    Raises:
        ConfigurationError: a config that cannot be read, an unknown name or option, or a sampler that needs more
            than a scheduler of diffusers is given.
    """

    _compatibles = [
        *(each.name for each in KarrasDiffusionSchedulers),
        "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler", "LCMScheduler",
        "TCDScheduler", "SASolverScheduler", "EDMDPMSolverMultistepScheduler",
    ]  # fmt: skip

    #: The class that was called, where the object is of another one (instance_classes.py).
    _called_class: type[PlanScheduler] | None = None

    def __new__(cls, config: Any = None, **_: Any) -> PlanScheduler:
        """A scheduler that also is an instance of the replaced class, where pipelines ask for that."""
        made: PlanScheduler = super().__new__(instance_class(cls, config))
        return made

    def __init__(
        self, config: Any = None, *, method: Any = None, timestep_spacing: str | None = None,
        spacing_options: Mapping[str, Any] | None = None, plan: Plans | None = None, **options: Any,
    ) -> None:  # fmt: skip
        if config is None:
            raise ConfigurationError(
                "no config", where="PlanScheduler", suggestion="PlanScheduler.from_config(pipe.scheduler.config)"
            )
        register: Any = self.register_to_config
        register(**registered_fields(config, method, timestep_spacing, spacing_options, plan, options))
        self._start()

    def _start(self) -> None:
        """Read the config. Some pipelines replace it."""
        self._compiler, self._lists = PlanCompiler(self.config), RunRegistry(self._every_time)
        self.order = self._compiler.order
        self._class_signature = signature_of(self._compiler.class_name)
        self._step_signature = self._class_signature.step_signature(self._compiler.eta_by_step)

    @classmethod
    def from_config(
        cls, config: Any = None, return_unused_kwargs: bool = False, **options: Any
    ) -> PlanScheduler | tuple[PlanScheduler, dict[str, Any]]:
        """A scheduler that replaces another one; arguments as for the class."""
        made = cls(config, **options)
        return (made, {}) if return_unused_kwargs else made

    @classmethod
    def from_plan(cls, plan: Plans, config: Any) -> PlanScheduler:
        """A scheduler that follows given plans, e.g. calibrated ones.

        Args:
            plan: one, or a mapping from numbers of steps; pipelines can run these numbers only.
            config: of the replaced scheduler: what the network was trained for.

        Raises:
            ConfigurationError: a plan of another noise schedule.
        """
        return cls(config, plan=plan)

    # what pipelines call

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        *positional: Any,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        **further: Any,
    ) -> None:
        """Compile the plan of a run, or take the one that was compiled before.

        Args:
            num_inference_steps: N, intervals; ``timesteps`` has one entry for every model call.
            device: of ``timesteps``.
            positional: further arguments of the replaced class, in its order.
            timesteps, sigmas: where the model is called, in place of N.
            mu: of the shift by resolution.
            further: other arguments of that class (``original_inference_steps``, ``strength``).

        Raises:
            ConfigurationError: the replaced class, the spacing or the sampler cannot do what the arguments say.
        """
        signature = self._class_signature
        given = {"timesteps": timesteps, "sigmas": sigmas, "mu": mu, **further}
        # in some classes the device is not the second argument
        if positional or not isinstance(device, str | torch.device | int | None):
            named = {name: value for name, value in given.items() if value is not None}
            placed = (num_inference_steps, device, *positional)
            given |= signature.by_name(signature.set_timesteps, placed, named)
            num_inference_steps, device = given.pop("num_inference_steps"), given.pop("device", None)
        steps = None if num_inference_steps is None else checked_count(num_inference_steps)
        times, levels, mu = _numbers(given.pop("timesteps")), _numbers(given.pop("sigmas")), given.pop("mu")
        if steps is None and times is None and levels is None:
            raise ConfigurationError("is missing", where="num_inference_steps", suggestion="give the number of steps")
        if self._compiler.config is not self.config:
            self._start()
            signature = self._class_signature
        own = signature.own_arguments(given)
        if self._shift is not None:
            own["shift"] = self._shift
        request = CompileRequest(steps, times, levels, None if mu is None else float(mu), tuple(own.items()))
        self._compiler.refuse_ignored(request)
        self._lists.add(TimestepList(self._compiler.compiled(request), request, device))

    def _every_time(self) -> TimestepList:
        """The list that holds before the first ``set_timesteps``, as in diffusers: every training time.

        Raises:
            ConfigurationError: the sampler is not that of the replaced class, and may visit other times.
        """
        if not self._compiler.is_twin:
            raise ConfigurationError(
                "there are no timesteps yet",
                where="PlanScheduler",
                suggestion="call set_timesteps(num_inference_steps) first",
            )
        request = CompileRequest(num_inference_steps=len(self))
        return TimestepList(self._compiler.compiled(request), request, None)

    @property
    def sigmas(self) -> Tensor:
        """σ of every call and of the end: σ/α, or σ on the straight path. Before ``set_timesteps``, the class's."""
        theirs = getattr(self._compiler.reference, "sigmas", None) if self._lists.current is None else None
        return theirs if isinstance(theirs, Tensor) else self._lists.current_or_default.plan.sigmas

    @property
    def num_inference_steps(self) -> int | None:
        """N of the last ``set_timesteps``."""
        current = self._lists.current
        return None if current is None else current.plan.plan.steps

    @property
    def init_noise_sigma(self) -> float | Tensor:
        """The factor that makes unit noise the first state; a tensor where the replaced class has a tensor."""
        current = self._lists.current
        scale = self._compiler.path.prior_std if current is None else current.plan.scale
        tensor = isinstance(getattr(self._compiler.reference, "init_noise_sigma", None), Tensor)
        return torch.tensor(scale) if tensor else scale

    @property
    def plan(self) -> SamplingPlan:
        """The plan of the last ``set_timesteps``."""
        return self._lists.current_or_default.plan.plan

    @property
    def begin_index(self) -> int | None:
        current = self._lists.current
        return None if current is None else current.begin

    @property
    def step_index(self) -> int | None:
        """The number of the next model call, in the run that moved last."""
        current = self._lists.current
        return None if current is None else current.last

    @property
    def _step_index(self) -> int | None:
        """:attr:`step_index`; Cosmos' pipelines set it back by one, to repeat a step."""
        return self.step_index

    @_step_index.setter
    def _step_index(self, index: int | None) -> None:
        self._lists.current_or_default.step_back(index)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Set the entry of ``timesteps`` at which the run begins: image-to-image."""
        self._lists.current_or_default.begin = int(begin_index)

    def scale_model_input(self, sample: Tensor, timestep: Any = None, *_: Any, **__: Any) -> Tensor:
        """The input of the network: the sample, scaled for networks that expect another scale."""
        if not self._compiler.scales:
            return sample
        times, call = self._lists.find(timestep)
        return sample * times.plan.calls[call].input_scale

    @property
    def step(self) -> Any:
        """``step(model_output, timestep, sample, ..., generator=None, return_dict=True)``: from one call to the next.

        Further arguments are those of the replaced class, by position and by name. Pipelines inspect the signature for
        ``eta`` and ``generator``. DDIM and TCD take ``eta``, unless it was given as an option.

        Args:
            model_output: the network's output, guided; shape (B, ...).
            timestep: the entry of ``timesteps``.
            sample: the network's input state: the result of the last step, edited or not.
            generator: one, or one a sample; noise is drawn as diffusers draws it.
            variance_noise: unit noise that replaces a drawn one.
            return_dict: False: a tuple as long as that class's; else a :class:`PlanSchedulerOutput`.

        Raises:
            ConfigurationError: a call out of turn, a sample that may belong to several runs, or an argument that would
                be ignored.
        """
        return _Step(self)

    def _take_step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, positional: Sequence[Any], named: dict[str, Any]
    ) -> PlanSchedulerOutput | tuple[Tensor, ...]:
        """:attr:`step`, with the arguments after the state as positional and named ones."""
        if positional:
            named = self._class_signature.by_name(self._class_signature.step, positional, named)
        returns_output, generator = named.pop("return_dict", True), named.pop("generator", None)
        times, call = self._lists.find(timestep, sample, self._single_step)
        if self._compiler.eta_by_step:
            eta, clipped = named.pop("eta", None), named.pop("use_clipped_model_output", None)
            if (eta, clipped) != (None, None):
                self._set_eta(times, None if eta is None else float(eta), clipped)
        further: dict[str, Any] = {}
        if named:
            model_output, further = self._rare_arguments(times, call, model_output, sample, named)
        after, prediction = times.step(call, model_output, sample, generator, **further)
        names = self._class_signature.returned
        if returns_output:
            return PlanSchedulerOutput(after, prediction, names)
        return StepTuple.of(after, prediction, names[0]) if names else (after,)

    def _single_step(self, time: float) -> TimestepList | None:
        """A list of one step from a time that is in no list, where the replaced class takes such a step."""
        current = self._lists.current_or_default
        steps, told = current.plan.plan.steps, current.request
        if not self._compiler.steps_from(time, steps):
            return None
        request = CompileRequest(steps, eta=told.eta, clips_output=told.clips_output, start_time=time)
        return TimestepList(self._compiler.compiled(request), request, None)

    def _set_eta(self, times: TimestepList, eta: float | None, clips_output: bool | None) -> None:
        """Compile the plan again for what the first step of a run is told.

        Raises:
            ConfigurationError: a later step is told something else.
        """
        request = replace(times.request, eta=eta, clips_output=clips_output)
        if request != times.request:
            if times.busy:
                raise ConfigurationError(
                    f"got {(eta, clips_output)} in the middle of a run",
                    where="eta, use_clipped_model_output",
                    suggestion="give every step the same",
                )
            times.plan, times.request = self._compiler.compiled(request), request

    def _rare_arguments(
        self, times: TimestepList, call: int, output: Tensor, sample: Tensor, named: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
        """The output and the options of :meth:`TimestepList.step` for arguments that few pipelines give."""
        followings, noise = [named.pop(name, None) for name in FOLLOWING], named.pop("variance_noise", None)
        token_times, clean = named.pop("per_token_timesteps", None), named.pop("pred_original_sample", None)
        self._class_signature.refuse_ignored(named)
        for name, following in zip(FOLLOWING, followings, strict=True):
            if following is not None:
                times.refuse_other_end(call, following, name)
        if clean is not None:  # Cosmos hands over the denoised sample of an EDM network
            output = self._preconditioning().output_of(clean, sample, times.plan.calls[call].sigma)
        edit = None
        if token_times is not None:  # LTX hands over an output of the other sign
            output = -output
            edit = step_of_each_token(times.plan, call, output, sample, token_times, len(self))
        return output, {"noise": noise, "edit": edit}

    # noise on images

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Any) -> Tensor:
        """α·x₀ + σ·ε at these times, one or one a sample; times of the run have the levels of the run."""
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
        current, pairs = self._lists.current, []
        for t in times:
            level = None if current is None else current.level_of(t)
            pairs.append(self._compiler.level_told(float(t)) if level is None else level)
        both = torch.tensor(pairs, dtype=torch.float64).to(like.device, like.dtype)
        both[:, 1] *= self._compiler.reading.terms.state_scale
        shape = (-1, *[1] * (like.ndim - 1))
        return both[:, 0].reshape(shape), both[:, 1].reshape(shape)

    def __reduce__(self) -> tuple[Any, ...]:
        current = self._lists.current
        request = None if current is None else current.request.arguments
        return _again, (self._called_class or type(self), dict(self.config), request, self._shift)


@final
class _Step:
    """The step of a scheduler, with the signature of the replaced class."""

    __slots__ = ("__signature__", "_owner")

    def __init__(self, owner: PlanScheduler) -> None:
        self._owner, self.__signature__ = owner, owner._step_signature

    def __call__(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *positional: Any, **named: Any
    ) -> PlanSchedulerOutput | tuple[Tensor, ...]:
        return self._owner._take_step(model_output, timestep, sample, positional, named)


def _again(
    cls: type[PlanScheduler], config: dict[str, Any], request: dict[str, Any] | None, shift: float | None = None
) -> PlanScheduler:  # fmt: skip
    """Unpickles; pickles of version 1.3 hold this name and a request with every argument."""
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
