"""From the config of a :class:`PlanScheduler` to the programs of its runs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, final

from ....config.sampler_aliases import Resolved, resolve
from ....grids.time_grid import TimeGrid, make_grid
from ....pipeline.compiled import warn_of_amplification
from ....plans.plan import SamplingPlan
from ....plans.tracing.trace import trace
from ....samplers.base import BaseSampler
from ....samplers.factory import SamplerFactory
from ....samplers.steps import from_noise, is_noise
from ....schedules.factory import NoiseSchedulerFactory
from ....schedules.foreign_levels import refuse_foreign_levels
from ....schedules.path import CLEAN, Level, NoisePath
from ....support.errors import ConfigurationError, NumericsError
from ..reading.reading import OURS, Reading, read, scheduler_class
from ..reading.scheduler_levels import Visited, made, visited
from .program import Program

__all__ = ["Recipe", "Told"]

#: η and ``use_clipped_model_output``, where ``step`` is told.
Told = tuple[float | None, bool | None]
#: Samplers whose η diffusers hands to ``step``.
_TOLD_ETA = frozenset({"ddim", "tcd"})
_KEPT_PROGRAMS = 64


@final
class Recipe:
    """What a config says, read once, and the programs that were made of it.

    Attributes:
        config: of the scheduler.
        order: model calls of a step.
        scales: whether the network expects another scale than the sample's.
        told_eta: whether ``step`` is told η.

    Raises:
        ConfigurationError: no sampler, or one that a scheduler of diffusers cannot stand for.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self._choice: Mapping[str, Any] = config[OURS]
        self._plans = {int(k): SamplingPlan.from_dict(v) for k, v in (self._choice.get("plans") or {}).items()}
        self._meant = self._resolved()
        self._programs: dict[Any, Program] = {}
        self._paths: dict[float | None, tuple[Reading, NoisePath]] = {}
        reading, path = self.on_path()
        if self._meant is not None:
            sampler = SamplerFactory.create(self._meant.sampler, path, **self._sampler_options(reading, 1))
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
        self.scales = given or reading.preconditioning is not None
        told = self._meant is not None and self._meant.sampler in _TOLD_ETA
        self.told_eta = told and "eta" not in self._choice.get("options", {})

    @functools.cached_property
    def reference(self) -> Any:
        """The scheduler of diffusers that the config is of, new: its tables of training are looked into."""
        return made(self.on_path()[0])

    @property
    def class_name(self) -> str:
        """The class in whose place the scheduler is."""
        return self.on_path()[0].class_name

    @property
    def is_own(self) -> bool:
        """Whether the scheduler does what that class does, at its levels."""
        choice = self._choice
        return not self._plans and choice.get("method") is None and choice.get("timestep_spacing") is None

    def refuse_ignored(self, request: Mapping[str, Any]) -> None:
        """Raise for what the class of the config is asked, where its levels are not taken.

        Raises:
            ConfigurationError: such a request.
        """
        usual = ("num_inference_steps", "timesteps", "sigmas", "mu")
        further = [name for name in request if name not in usual]
        if further and (self._plans or self._spacing()[0] is not None):
            raise ConfigurationError(
                "is for the levels of the config's own class, and others were chosen",
                where=", ".join(further),
                suggestion="leave it out, or leave out timestep_spacing and plan",
            )

    def on_path(self, mu: float | None = None) -> tuple[Reading, NoisePath]:
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

    def program(self, request: Mapping[str, Any], told: Told = (None, None)) -> Program:
        """The program of a run.

        Args:
            request: ``num_inference_steps``, ``timesteps``, ``sigmas`` and ``mu``, each a value or None.
            told: what its steps are told.

        Raises:
            ConfigurationError: what the class of the config, the spacing or the sampler cannot do.
        """
        key = (*request.values(), *told)
        known = self._programs.get(key)
        if known is None:
            known = self._compiled(request, told)
            if len(self._programs) >= _KEPT_PROGRAMS:
                self._programs.clear()
            self._programs[key] = known
        return known

    def from_anywhere(self, time: float, steps: int, told: Told) -> Program | None:
        """The program of one step from a training time that is not in the list: to t − ⌊T/N⌋, as DDIM does.

        Args:
            time: where the step begins.
            steps: N.
            told: what the step is told.

        Returns:
            None where the class steps through its list only, and where that is no training time.
        """
        reading, path = self.on_path()
        inside = time.is_integer() and path.discrete and path.t_min <= time <= path.t_max
        if not (self.is_own and self._meant is not None and self._meant.sampler == "ddim" and inside):
            return None
        after = time - reading.fields["num_train_timesteps"] // steps
        lowest = reading.config.spacing_options.get("end") == "lowest"
        end = path.level(max(after, path.t_min)) if after >= path.t_min or lowest else CLEAN
        key = "from anywhere", time, steps, told
        if key not in self._programs and time > after:
            grid, options = TimeGrid((path.level(time), end)), self._sampler_options(reading, 1)
            sampler, on = self._told_sampler(path, options, told)
            self._programs[key] = Program.of(sampler.plan(grid=grid), on.config, sampler=sampler, grid=grid)
        return self._programs.get(key)

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

    def _compiled(self, request: Mapping[str, Any], told: Told) -> Program:
        reading, path = self.on_path(request["mu"])
        more: dict[str, Any] = {"preconditioning": reading.preconditioning, "clock": reading.clock}
        if self._plans:
            return Program.of(self._given_plan(request, path), path.config, **more)
        if self._meant is None:
            again = functools.partial(self._traced, reading, request)
            return Program.of(again(), path.config, again=again, **more)
        own = self._choice.get("method") is None
        spacing, _ = self._spacing()
        steps, times, sigmas = (request[name] for name in ("num_inference_steps", "timesteps", "sigmas"))
        if spacing is not None and times is None and (sigmas is None or _is_pipelines_own(sigmas)):
            grid = make_grid(path, len(sigmas) if steps is None and sigmas else steps)
            seen = None
        else:
            seen = visited(reading, path, request, own=own)
            grid = seen.grid
            _refuse_unknowable(grid, path)
        options = self._sampler_options(reading, grid.steps)
        if seen is not None and own and seen.stays and options.get("lower_order_final"):
            options["lower_order_final"] = False  # the step that was lowered is the one that went nowhere
        sampler, path = self._told_sampler(path, options, told)
        plan = sampler.plan(grid=grid)
        idle: tuple[int, ...] = ()
        if own and seen is not None:
            theirs = self._own_plan(reading, request, seen, plan, bool(sampler.options.get("corrector")))
            if theirs is not None:
                plan = theirs
            elif plan.nfe + len(seen.idle) == len(seen.times):
                idle = seen.idle
        warn_of_amplification(plan)
        if seen is not None:
            more |= {"scale": seen.scale, "dtype": seen.dtype, "idle": idle}
        return Program.of(plan, path.config, sampler=sampler, grid=grid, **more)

    def _told_sampler(
        self, path: NoisePath, options: Mapping[str, Any], told: Told
    ) -> tuple[BaseSampler, NoisePath]:  # fmt: skip
        """The sampler with what the steps are told, and its path."""
        assert self._meant is not None
        eta, clipped = told
        if clipped is not None:
            path = path.with_config(path.config.replace(use_clipped_model_output=clipped))
        more = {} if eta is None else {"eta": eta}
        return SamplerFactory.create(self._meant.sampler, path, **{**options, **more}), path

    def _own_plan(
        self, reading: Reading, request: Mapping[str, Any], seen: Visited, plan: SamplingPlan, corrects: bool
    ) -> SamplingPlan | None:
        """The class's own plan, where the sampler's is another one and the class can be run."""
        times = tuple(float(t) for t, asks in zip(plan.time, plan.asked, strict=True) if asks)
        # of one step PNDM makes one call; next to pure noise Heun, KDPM2 and PNDM go on by their formulas
        other = len(times) > len(seen.times) or (from_noise(*seen.grid.levels[:2]) and times != seen.times)
        # the last call moves nothing, and corrects the step before
        if other or (corrects and seen.stays):
            # theirs may be not finite or out of range, or not know the prediction type
            with suppress(ConfigurationError, NumericsError):
                return self._traced(reading, request)
        return None

    def _traced(self, reading: Reading, request: Mapping[str, Any], begin: int = 0) -> SamplingPlan:
        """The plan of a class that no sampler is the same as, without its clipping, which the program does."""
        linear = {name: False for name in ("clip_sample", "thresholding") if reading.fields.get(name)}
        given = {name: value for name, value in request.items() if value is not None}
        return trace(made(reading, **linear), given.pop("num_inference_steps", None), begin=begin, **given)

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


def _refuse_unknowable(grid: TimeGrid, path: NoisePath) -> None:
    """Raise for a model of ε at a level that has no signal on the path, and next to none in diffusers' table."""
    without = path.level(path.t_max).alpha == 0.0
    if without and path.config.prediction_type == "epsilon" and is_noise(grid.levels[0]):
        raise ConfigurationError(
            f"the run begins at t = {grid.levels[0].t:g}, which has no signal, and the model predicts epsilon",
            where="set_timesteps",
            why="x is pure noise there, so ε says nothing of the clean sample: x₀ = (x − σ·ε)/0",
            suggestion="use timestep_spacing='leading', which does not visit that level, or a model of another "
            "prediction_type",
        )


def _order(plan: SamplingPlan) -> int:
    """The model calls of every step, where all but the last make the same number; 1 otherwise."""
    counts = [sum(bool(a) for a, s in zip(plan.asked, plan.step, strict=True) if s == k) for k in range(plan.steps)]
    return counts[0] if len(set(counts[:-1])) == 1 and counts[0] >= counts[-1] > 0 else 1


def _refuse_foreign(plan: SamplingPlan, path: NoisePath) -> None:
    """Raise unless a plan's levels are the path's. Times beyond its ends, which rounded tables have, do not count."""
    rows = zip(plan.time, plan.alpha, plan.sigma, plan.asked, strict=False)  # without the end
    levels = [Level(*level) for *level, asked in rows if asked and path.t_min <= level[0] <= path.t_max]
    suggestion = "make it on NoiseSchedulerConfig.from_diffusers(pipe.scheduler)"
    refuse_foreign_levels(path, levels, "plan", rounded=True, suggestion=suggestion)


def _is_pipelines_own(sigmas: Sequence[float]) -> bool:
    """Whether these are 1, ..., 1/N, which pipelines of flow models give where their user gives none."""
    count = len(sigmas)
    return all(abs(s - (1.0 - i * (1.0 - 1.0 / count) / max(count - 1, 1))) < 1e-6 for i, s in enumerate(sigmas))
