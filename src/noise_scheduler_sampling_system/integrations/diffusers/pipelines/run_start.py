"""Where a run of ``generate`` begins, and the levels that it visits."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

from ....grids.image_start import level_of_start, start_at
from ....grids.time_grid import TimeGrid, make_grid
from ....pipeline.pipeline import DiffusionPipeline
from ....plans.plan import SamplingPlan
from ....schedules.path import Level, NoisePath
from ....support.errors import ConfigurationError
from ..reading.scheduler_levels import levels_of
from ..reading.scheduler_reading import Reading
from .backbones import Backbone, Prompt
from .image_request import ImageRequest

__all__ = ["RunStart", "path_at", "start_of_run"]

#: How far from the image a run starts where ``strength`` is not given, as in diffusers.
_STRENGTH = 0.8


@final
@dataclass(frozen=True)
class RunStart:
    """The beginning of a run.

    Attributes:
        level: of the first state.
        arguments: of ``sample``: a grid, a plan, or nothing.
    """

    level: Level
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_plan(cls, plan: SamplingPlan) -> RunStart:
        """The beginning of a run of this plan."""
        return cls(_first_level(plan), {"plan": plan})


def path_at(path: NoisePath, reading: Reading, mu: float | None) -> NoisePath:
    """The path with the shift for the image's size; ``mu`` as :meth:`Backbone.mu` returns it."""
    if mu is None:
        return path
    linear = reading.fields.get("time_shift_type", "exponential") != "exponential"
    options = {**path.config.schedule_options, "shift": mu if linear else math.exp(mu)}
    return path.with_config(path.config.replace(schedule_options=options))


def start_of_run(
    runner: DiffusionPipeline, reading: Reading, backbone: Backbone, request: ImageRequest, prompt: Prompt,
    options: Mapping[str, Any], *, native: bool,
) -> RunStart:  # fmt: skip
    """Where a run begins: as the options say, or as the pipeline's own scheduler does, or by the config's spacing.

    Args:
        runner: the pipeline with the sampler of the run.
        reading: the scheduler of the pipeline.
        backbone, request, prompt: of the run, checked.
        options: of ``sample``, checked.
        native: whether the run follows the pipeline's own scheduler.

    Raises:
        ConfigurationError: two arguments that both say where the run begins, or a strength that leaves no step.
    """
    strength = None
    if request.image is not None:
        strength = _STRENGTH if request.strength is None else request.strength
    given = [name for name in ("plan", "grid", "timesteps", "start") if options.get(name) is not None]
    if given:
        if request.image is not None and request.strength is not None:
            raise ConfigurationError(
                f"is given beside {given[0]}, which begins somewhere",
                where="strength",
                suggestion="give one of the two",
            )
        return RunStart(_given_level(runner.scheduler, options))
    mu = backbone.mu(prompt)
    if native:
        return _native_start(runner, reading, backbone, request.num_inference_steps, strength, mu)
    return _spaced_start(runner, reading, request, strength, mu)


def _given_level(path: NoisePath, options: Mapping[str, Any]) -> Level:
    """The first level of the start, plan, grid or times that the user gave; earlier names take precedence."""
    if options.get("start") is not None:
        return level_of_start(path, options["start"])
    if options.get("plan") is not None:
        return _first_level(options["plan"])
    if options.get("grid") is not None:
        first: Level = options["grid"].levels[0]
        return first
    return path.level(float(options["timesteps"][0]))


def _spaced_start(
    runner: DiffusionPipeline, reading: Reading, request: ImageRequest, strength: float | None, mu: float | None
) -> RunStart:  # fmt: skip
    """The start with the config's spacing."""
    path, steps = runner.scheduler, request.num_inference_steps
    if mu is None and strength in (None, 1.0):
        plan = runner.sampler.plan(steps) if runner.sampler.writes_plans else None
        if request.image is None:
            return RunStart(path.level(path.t_max) if plan is None else _first_level(plan))
        if plan is not None:  # the state is given and is at the plan's first level
            return RunStart.of_plan(plan)
        grid = runner.grid(steps)
        return RunStart(grid.levels[0], {"grid": grid})
    path = path_at(path, reading, mu)
    begin = None if strength in (None, 1.0) else start_at(path, strength=strength)
    grid = make_grid(path, steps, start=begin, suits=runner.sampler.spacing)
    return RunStart(grid.levels[0], {"grid": grid})


def _native_start(
    runner: DiffusionPipeline, reading: Reading, backbone: Backbone, steps: int, strength: float | None,
    mu: float | None,
) -> RunStart:  # fmt: skip
    """The start and the levels of the scheduler in its own pipeline.

    Raises:
        ConfigurationError: a strength that leaves no step, or a scheduler that clips and has no sampler here.
    """
    path = runner.scheduler
    left = steps if strength is None else min(int(steps * strength), steps)
    if left < 1:
        raise ConfigurationError(
            f"{strength} of {steps} steps is none", where="strength", suggestion="give a larger one, or more steps"
        )
    arguments = {**backbone.set_timesteps_arguments(steps), "mu": mu}
    config, scheduler = path.config, backbone.pipe.scheduler
    if not (config.clip_sample or config.thresholding or config.variance_type.startswith("learned")):
        accepted = inspect.signature(scheduler.set_timesteps).parameters
        given = {k: v for k, v in arguments.items() if v is not None and k in accepted}
        return RunStart.of_plan(SamplingPlan.trace(scheduler, begin=(steps - left) * scheduler.order, **given))
    if reading.sampler is None:
        raise ConfigurationError(
            f"{reading.class_name} has no sampler here that clips",
            where="from_diffusers", why=reading.refusal, suggestion="from_diffusers(pipe, method=...)",
        )  # fmt: skip
    # a plan does not clip, so the sampler of the same name runs at the same levels
    theirs = levels_of(reading, path, arguments)
    levels = theirs.grid.levels[len(theirs.grid.levels) - 1 - left :]
    plan = replace(runner.sampler.plan(grid=TimeGrid(levels)), provenance={"scheduler": reading.class_name})
    if left == steps and strength is None:
        plan = replace(plan, prior_scale=theirs.scale)
    return RunStart(levels[0], {"plan": plan})


def _first_level(plan: SamplingPlan) -> Level:
    return Level(float(plan.time[0]), float(plan.alpha[0]), float(plan.sigma[0]))
