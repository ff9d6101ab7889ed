"""How objects show themselves in a notebook: the figure of each kind of object, and its HTML."""

from __future__ import annotations

import base64
import functools
import html
import io
from importlib.util import find_spec
from typing import Any

from ..grids.frame_grid import FrameGrid
from ..grids.time_grid import TimeGrid
from ..pipeline.pipeline import DiffusionPipeline
from ..plans.frame_plan import FramePlan
from ..plans.plan import SamplingPlan
from ..plans.plan_set import PlanSet
from ..running.results import SamplingResult
from ..schedules.path import NoisePath
from ..support.drawn import HTML, PLOT
from ..support.errors import ConfigurationError, NoiseSamplingError, shown
from ..support.figures import mosaic
from .frames import plot_frames
from .levels import plot_grids, plot_schedules
from .plans import plot_plan
from .style import new_axes

__all__ = ["html_of", "plot"]

#: Steps of the plan that stands for a pipeline.
_STEPS = 10
#: Samples of a result that are drawn.
_SAMPLES = 20


@functools.singledispatch
def plot(value: Any) -> Any:
    """The figure of an object: a noise schedule, grid, plan, plan set, pipeline or result.

    Raises:
        ConfigurationError: matplotlib is not installed, or there is nothing to draw.
    """
    raise ConfigurationError(f"got {shown(value)}", where="plot", suggestion="give an object of this library")


PLOT.provide(plot)
plot.register(NoisePath)(plot_schedules)
plot.register(TimeGrid)(plot_grids)
plot.register(SamplingPlan)(plot_plan)
plot.register(FrameGrid)(plot_frames)
plot.register(FramePlan)(plot_frames)


@plot.register(PlanSet)
def _plan_set(plans: PlanSet) -> Any:
    return plot_grids({f"{number} {plans.counts_in_words}": plan for number, plan in plans.items()})


@plot.register(DiffusionPipeline)
def _pipeline(pipeline: DiffusionPipeline) -> Any:
    """The levels at which runs of a few numbers of steps evaluate the model."""
    made = {f"{steps} steps": _run_of(pipeline, steps) for steps in (_STEPS // 2, _STEPS, 2 * _STEPS)}
    return plot_grids({name: run for name, run in made.items() if run is not None} or pipeline.grid())


def _run_of(pipeline: DiffusionPipeline, steps: int) -> SamplingPlan | TimeGrid | None:
    """The plan of a number of steps, or the grid of a sampler without plans; None: the pipeline has no such run."""
    try:
        return pipeline.plan(steps) if pipeline.sampler.writes_plans else pipeline.grid(steps)
    except NoiseSamplingError:
        return None


@plot.register(SamplingResult)
def _result(result: SamplingResult) -> Any:
    """The first samples, where they are pictures; else the plan."""
    try:
        picture = mosaic(result.samples[:_SAMPLES], min(10, len(result.samples)), paper=result.white_on_black)
    except ConfigurationError:
        return plot(result.plan)
    height, width = picture.shape[:2]
    figure, (axes,) = new_axes(8.0, max(1.2, 8.0 * height / width))
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()
    return figure


@HTML.provide
def html_of(value: Any) -> str:
    """An object as HTML: its text, and its figure where matplotlib is installed."""
    text = f"<pre>{html.escape(_words(value))}</pre>"
    if find_spec("matplotlib") is None:
        return text
    try:
        figure = plot(value)
    except NoiseSamplingError:
        return text
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    picture = base64.b64encode(buffer.getvalue()).decode()
    alt = html.escape(repr(value)[:200], quote=True)
    return f"{text}<img alt='{alt}' style='max-width: 100%' src='data:image/png;base64,{picture}'>"


@functools.singledispatch
def _words(value: Any) -> str:
    return str(value)


@_words.register(TimeGrid)
def _(grid: TimeGrid) -> str:
    first, last = grid.levels[0], grid.levels[-1]
    return (
        f"grid of {grid.steps} intervals, from t = {first.t:g} (α = {first.alpha:.4g}, σ = {first.sigma:.4g}) "
        f"to α = {last.alpha:.4g}, σ = {last.sigma:.4g}"
    )


@_words.register(DiffusionPipeline)
def _(pipeline: DiffusionPipeline) -> str:
    sampler, options = pipeline.sampler, pipeline.sampler_options
    rows = {
        "sampler": pipeline.method + "".join(f", {name}={value!r}" for name, value in options.items()),
        "order": str(sampler.order),
        "noise schedule": repr(pipeline.scheduler),
        "spacing": sampler.run_spacing,
        "prediction type": pipeline.config.prediction_type,
    }
    return "\n".join(f"{name:16} {value}" for name, value in rows.items())


@_words.register(SamplingResult)
def _(result: SamplingResult) -> str:
    shape = tuple(result.samples.shape)
    lines = [
        f"samples of shape {shape}: {result.steps} steps, {result.nfe} model calls, {result.evaluations} evaluations",
        repr(result.plan),
    ]
    return "\n".join(lines if result.profile is None else [*lines, str(result.profile)])
