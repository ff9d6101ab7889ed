"""Compiles the runs of a :class:`PlanScheduler` from its config."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, final

from ....config.sampler_aliases import Resolved, resolve
from ....grids.time_grid import TimeGrid, make_grid
from ....pipeline.plan_warnings import warn_of_amplification
from ....plans.plan import SamplingPlan
from ....plans.tracing.trace import trace
from ....samplers.base import BaseSampler
from ....samplers.factory import SamplerFactory
from ....samplers.steps import from_noise, is_noise
from ....schedules.factory import NoiseSchedulerFactory
from ....schedules.path import CLEAN, NoisePath
from ....support.errors import ConfigurationError, NumericsError
from ....support.kept import Kept
from ..reading.diffusers_classes import scheduler_class
from ..reading.reading import read
from ..reading.scheduler_fields import OURS
from ..reading.scheduler_levels import SchedulerLevels, levels_of, new_scheduler
from ..reading.scheduler_reading import Reading
from .call_plan import CallPlan
from .compile_request import CompileRequest
from .given_plans import GivenPlans, are_evenly_spaced

__all__ = ["PlanCompiler"]

#: Samplers whose η diffusers' pipelines give to ``step``.
_ETA_BY_STEP = frozenset({"ddim", "tcd"})


@final
class PlanCompiler:
    """What a config means, read once, and the plans that were compiled from it.

    Attributes:
        config: of the scheduler.
        order: model calls of a step.
        scales: whether the network expects another scale than the sample's.
        eta_by_step: whether ``step`` takes η.

    Raises:
        ConfigurationError: no sampler, or one that a scheduler of diffusers cannot stand for.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self._choice: Mapping[str, Any] = config[OURS]
        self._given = GivenPlans(self._choice.get("plans") or {})
        self._sampler = self._resolved()
        self._plans: Kept[CallPlan] = Kept()
        self._read: dict[float | None, tuple[Reading, NoisePath]] = {}
        self._read_with(None)  # raises here, not at the first run
        if self._sampler is not None:
            sampler = SamplerFactory.create(
                self._sampler.sampler, self.path, **self._sampler_options(self.reading, 1)
            )  # fmt: skip
            if not sampler.writes_plans:
                raise ConfigurationError(
                    f"{self._sampler.sampler!r} has no plan",
                    where="method",
                    why="a scheduler of diffusers lists the times of its model calls before the run",
                    suggestion="use a sampler with a fixed number of steps",
                )
            self.order = sampler.calls_per_step
        elif self._given:
            self.order = self._given.calls_per_step
        else:
            self.order = int(getattr(scheduler_class(self.class_name), "order", 1))
        self.scales = self._given.scale_input or self.reading.terms.preconditioning is not None
        by_step = self._sampler is not None and self._sampler.sampler in _ETA_BY_STEP
        self.eta_by_step = by_step and "eta" not in self._choice.get("options", {})

    @functools.cached_property
    def reference(self) -> Any:
        """A new scheduler of the replaced class, for its tables of training."""
        return new_scheduler(self.reading)

    @property
    def reading(self) -> Reading:
        """The config, read."""
        return self._read_with(None)[0]

    @property
    def path(self) -> NoisePath:
        """The path, with the spacing that was chosen."""
        return self._read_with(None)[1]

    @property
    def class_name(self) -> str:
        """The class that the scheduler replaces."""
        return self.reading.class_name

    @property
    def is_twin(self) -> bool:
        """Whether the scheduler does what the replaced class does, at its levels."""
        choice = self._choice
        return not self._given and choice.get("method") is None and choice.get("timestep_spacing") is None

    def level_told(self, time: float) -> tuple[float, float]:
        """α and σ at a time that the network is told."""
        ratio, path = self.reading.terms.noise_to_signal(time), self.path
        if ratio is None:
            return path.level(time)[1:]
        if ratio in (0.0, math.inf):
            return (1.0, 0.0) if ratio == 0.0 else path.level(path.t_max)[1:]
        return path.level_of_sigma(ratio / (1.0 + ratio) if path.sigma_is_absolute else ratio)[1:]

    def refuse_ignored(self, request: CompileRequest) -> None:
        """Raise for arguments about the levels of the replaced class where other levels are used.

        Raises:
            ConfigurationError: there is such an argument.
        """
        if request.further and (self._given or self._spacing()[0] is not None):
            raise ConfigurationError(
                "is for the levels of the config's own class, and others were chosen",
                where=", ".join(name for name, _ in request.further),
                suggestion="leave it out, or leave out timestep_spacing and plan",
            )

    def compiled(self, request: CompileRequest) -> CallPlan:
        """The plan of a run, compiled or taken from the plans that are kept.

        Raises:
            ConfigurationError: the replaced class, the spacing or the sampler cannot do what is requested.
        """
        make = self._compiled if request.start_time is None else self._single_step
        return self._plans.get(request, lambda: make(request))

    def steps_from(self, time: float, steps: int) -> bool:
        """Whether a step of a run of N = ``steps`` may begin at a time outside its list, as DDIM's may."""
        path, total = self.path, self.reading.fields["num_train_timesteps"]
        inside = time.is_integer() and path.discrete and path.t_min <= time <= path.t_max and total >= steps
        return self.is_twin and self._sampler is not None and self._sampler.sampler == "ddim" and inside

    def _single_step(self, request: CompileRequest) -> CallPlan:
        """The plan of one step of DDIM from a training time t to t − ⌊T/N⌋."""
        reading, path = self.reading, self.path
        assert request.start_time is not None
        assert request.num_inference_steps is not None
        after = request.start_time - reading.fields["num_train_timesteps"] // request.num_inference_steps
        lowest = reading.config.spacing_options.get("end") == "lowest"
        end = path.level(max(after, path.t_min)) if after >= path.t_min or lowest else CLEAN
        grid = TimeGrid((path.level(request.start_time), end))
        sampler, path = self._sampler_for(request, path, self._sampler_options(reading, 1))
        return CallPlan.of(sampler.plan(grid=grid), path.config, sampler=sampler, grid=grid)

    def _read_with(self, mu: float | None) -> tuple[Reading, NoisePath]:
        """The config read with this μ, and its path."""
        if mu not in self._read:
            reading = read(self.config, mu=mu)
            config = reading.config
            if self._sampler is not None:
                config = reading.config_for(self._sampler.sampler)
            elif config.variance_type.startswith("fixed"):
                config = config.replace(variance_type="fixed_small", use_clipped_model_output=True)
            spacing, options = self._spacing()
            if spacing is not None:
                config = config.replace(timestep_spacing=spacing, spacing_options=dict(options))
            self._read[mu] = reading, NoiseSchedulerFactory.create(config)
        return self._read[mu]

    def _resolved(self) -> Resolved | None:
        """The sampler; None for given plans, and for classes whose plan is traced."""
        if self._given:
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
            f"{reading.class_name} is not a sampler here: {reading.refusal}",
            where="method",
            suggestion="choose one: from_config(config, method='dpmpp_2m')",
        )

    def _spacing(self) -> tuple[str | None, Mapping[str, Any]]:
        """The spacing that was chosen, by itself or by the sampler's name ("DPM++ 2M Karras")."""
        spacing, options = self._choice.get("timestep_spacing"), self._choice.get("spacing_options") or {}
        sampler = self._sampler
        if sampler is not None and sampler.firm and spacing is None:
            return sampler.spacing, {**sampler.spacing_options, **options}
        if options and spacing is None:
            raise ConfigurationError(
                "are given without a spacing", where="spacing_options", suggestion="give timestep_spacing, too"
            )
        return spacing, options

    def _sampler_options(self, reading: Reading, steps: int) -> dict[str, Any]:
        given = dict(self._choice.get("options", {}))
        if self._sampler is None:
            return given
        own = self._choice.get("method") is None
        return {**(reading.options_for(steps) if own else self._sampler.options), **given}

    def _compiled(self, request: CompileRequest) -> CallPlan:
        reading, path = self._read_with(request.mu)
        # another sampler draws the noise that it uses
        foreign = replace(reading.terms, unused_noise=None)
        if self._given:
            return CallPlan.of(self._given.plan_for(request, path), path.config, terms=foreign)
        if self._sampler is None:
            retrace = functools.partial(self._traced, reading, request)
            return CallPlan.of(retrace(), path.config, terms=reading.terms, retrace=retrace)
        own = self._choice.get("method") is None
        more: dict[str, Any] = {"terms": reading.terms if own else foreign}
        grid, theirs = self._grid(request, reading, path, own)
        options = self._sampler_options(reading, grid.steps)
        if theirs is not None and own and theirs.last_is_idle and options.get("lower_order_final"):
            options["lower_order_final"] = False  # the class lowers the step that does not move
        sampler, path = self._sampler_for(request, path, options)
        plan = sampler.plan(grid=grid)
        if theirs is not None:
            more |= {"scale": theirs.scale, "dtype": theirs.dtype}
            if own:
                traced = self._traced_instead(reading, request, theirs, plan, bool(sampler.options.get("corrector")))
                if traced is not None:
                    plan = traced
                elif plan.nfe + len(theirs.idle) == len(theirs.times):
                    more["idle"] = theirs.idle
        warn_of_amplification(plan)
        return CallPlan.of(plan, path.config, sampler=sampler, grid=grid, **more)

    def _grid(
        self, request: CompileRequest, reading: Reading, path: NoisePath, own: bool
    ) -> tuple[TimeGrid, SchedulerLevels | None]:
        """The grid of a run, and the levels of the replaced class where the grid is theirs."""
        sigmas = request.sigmas
        pipelines_own = sigmas is None or are_evenly_spaced(sigmas)
        if self._spacing()[0] is not None and request.timesteps is None and pipelines_own:
            steps = request.num_inference_steps or len(sigmas or ())
            return make_grid(path, steps - 1 if reading.counts_end else steps), None
        theirs = levels_of(reading, path, request.arguments, own_sampler=own)
        _refuse_noise_prediction_without_signal(theirs.grid, path)
        return theirs.grid, theirs

    def _sampler_for(
        self, request: CompileRequest, path: NoisePath, options: Mapping[str, Any]
    ) -> tuple[BaseSampler, NoisePath]:
        """The sampler with what the steps are told, and its path."""
        assert self._sampler is not None
        if request.clips_output is not None:
            path = path.with_config(path.config.replace(use_clipped_model_output=request.clips_output))
        more = {} if request.eta is None else {"eta": request.eta}
        return SamplerFactory.create(self._sampler.sampler, path, **{**options, **more}), path

    def _traced_instead(
        self, reading: Reading, request: CompileRequest, theirs: SchedulerLevels, plan: SamplingPlan, corrects: bool
    ) -> SamplingPlan | None:
        """The traced plan of the class, where the sampler's differs from it and the class can be run."""
        times = tuple(float(t) for t, called in zip(plan.time, plan.asked, strict=True) if called)
        # PNDM makes one call in a run of one step; next to pure noise Heun, KDPM2 and PNDM use their formulas
        near_noise = from_noise(*theirs.grid.levels[:2])
        differs = len(times) > len(theirs.times) or (near_noise and times != theirs.times)
        # CogVideoX's class leaves the prediction of x₀ at a level without signal out of its second step
        extrapolates = (
            theirs.grid.levels[0].alpha == 0.0
            and plan.space == "sample"
            and plan.history > 0
            and bool(plan.b[1:, 1:].any())
        )
        # the last call does not move the state, it corrects the step before
        if differs or extrapolates or reading.departs or (corrects and theirs.last_is_idle):
            # the traced plan may be not finite or out of range, or the class may not know the prediction type
            with suppress(ConfigurationError, NumericsError):
                return self._traced(reading, request)
        return None

    def _traced(self, reading: Reading, request: CompileRequest, begin: int = 0) -> SamplingPlan:
        """The plan of a class without its clipping, which :class:`CallPlan` does."""
        clips = ("clip_sample", "thresholding", "clip_denoised")
        linear = {name: False for name in clips if reading.fields.get(name)}
        given = request.arguments
        return trace(new_scheduler(reading, **linear), given.pop("num_inference_steps", None), begin=begin, **given)


def _refuse_noise_prediction_without_signal(grid: TimeGrid, path: NoisePath) -> None:
    """Raise for a model of ε at a level without signal on the path, and with next to none in diffusers' table.

    Raises:
        ConfigurationError: the run begins at such a level.
    """
    without = path.level(path.t_max).alpha == 0.0
    if without and path.config.prediction_type == "epsilon" and is_noise(grid.levels[0]):
        raise ConfigurationError(
            f"the run begins at t = {grid.levels[0].t:g}, which has no signal, and the model predicts epsilon",
            where="set_timesteps",
            why="x is pure noise there, so ε says nothing of the clean sample: x₀ = (x − σ·ε)/0",
            suggestion="use timestep_spacing='leading', which does not visit that level, or a model of another "
            "prediction_type",
        )
