"""The best sampler and spacing for a number of model calls: from a table of measurements, or measured on a model."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, final

from torch import Tensor

from ..config.settings import NoiseSchedulerConfig
from ..pipeline.pipeline import DiffusionPipeline
from ..plans.gaussian_moments import typical_spread
from ..plans.plan import SamplingPlan
from ..samplers.base import BaseSampler
from ..samplers.factory import SamplerFactory
from ..schedules.factory import NoiseSchedulerFactory
from ..schedules.path import NoisePath
from ..support.argument_checks import checked_count
from ..support.errors import ConfigurationError, NumericsError
from .solution import fine_plan

__all__ = ["Recommendation", "family_of", "plan_within", "recommend", "steps_within"]

#: A plan that leaves data wider than this is not recommended.
_WIDEST = 1.15
#: The number of the table's entries that are tried on a model.
_TRIED = 8
#: An entry that is not listed for a number of calls counts as this factor worse than the last one listed there.
_ABSENT = 1.5
#: Model calls of the run that is taken for the exact solution of a model.
_TEACHER_CALLS = 64


@final
@dataclass(frozen=True)
class Recommendation:
    """A sampler on a spacing for a number of model calls.

    Attributes:
        sampler, options: the sampler.
        spacing, spacing_options: the grid.
        nfe: the largest number of model calls.
        steps: the number of steps, whose plan makes at most ``nfe`` calls.
        error: the root mean square error per number by which it was chosen: against the exact solution of the
            table's models (geometric mean), or against a fine run of the given model.
        tried: the measurements on a model, best first: (sampler, spacing, error).
        spread: for Gaussian data of standard deviation 0.3, that of the result over 0.3; at most 1.15.
    """

    sampler: str
    options: Mapping[str, Any]
    spacing: str
    spacing_options: Mapping[str, Any]
    nfe: int
    steps: int
    error: float
    tried: tuple[tuple[str, str, float], ...] = field(default=(), repr=False)
    spread: float = math.nan

    def pipeline(self, config: NoiseSchedulerConfig | NoisePath | None = None) -> DiffusionPipeline:
        """The pipeline on a noise schedule; run it with ``num_inference_steps=recommendation.steps``."""
        path = config if isinstance(config, NoisePath) else NoiseSchedulerFactory.create(config)
        return DiffusionPipeline(path.spaced(self.spacing, self.spacing_options), self.sampler, **self.options)


def steps_within(sampler: BaseSampler, nfe: int) -> int:
    """The largest number of steps whose plan makes at most ``nfe`` model calls.

    Raises:
        ConfigurationError: every plan of the sampler makes more.
    """
    return plan_within(sampler, nfe)[0]


def plan_within(
    sampler: BaseSampler, nfe: int, plan_of: Callable[[int], SamplingPlan] | None = None
) -> tuple[int, SamplingPlan]:
    """The largest number of steps whose plan makes at most ``nfe`` model calls, and this plan.

    Args:
        sampler: a sampler that writes plans.
        nfe: model calls.
        plan_of: makes the plan of a number of steps; default: the sampler on its own grid.

    Raises:
        ConfigurationError: no plan of the sampler does.
    """
    for steps in range(nfe // sampler.calls_per_step + 2, 0, -1):
        try:
            plan = (plan_of or sampler.plan)(steps)
        except (ConfigurationError, NumericsError):  # the sampler has no plan of this number of steps
            continue
        if plan.nfe <= nfe:
            return steps, plan
    raise ConfigurationError(
        f"{sampler!r} has no plan of at most {nfe} calls", where="nfe", suggestion="allow more, or another sampler"
    )


def recommend(
    schedule: NoisePath | NoiseSchedulerConfig | DiffusionPipeline | Mapping[str, Any] | None,
    nfe: int,
    *,
    model: Callable[..., Any] | None = None,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Recommendation:
    """The deterministic sampler and spacing with the least error for a number of model calls.

    Without a model it is the best one on exact models of handwritten digits, for the kind of noise schedule
    (``benchmarks/recommendations.py`` makes the table). With a model, the best entries of the table run on it from
    the same noise, and are compared with a run of 64 calls.

    Args:
        schedule: the noise schedule, its config, or a pipeline, whose ``run_path`` is taken.
        nfe: model calls.
        model, shape: the network to measure on, and the shape of its batch.
        seed: of the batch's noise.
        settings: further arguments of ``pipeline.sample``: ``condition``, ``guidance_scale``, ...

    Raises:
        ConfigurationError: a number that is not ≥ 1, a model without a shape, or bad settings.

    Examples:
        >>> from noise_scheduler_sampling_system import NoiseSchedulerConfig, recommend
        >>> best = recommend(NoiseSchedulerConfig(), nfe=8)
        >>> best.sampler, best.spacing, best.steps
        ('adams', 'kl_optimal', 8)
    """
    nfe = checked_count(nfe, "nfe")
    if (model is None) != (shape is None):
        raise ConfigurationError("model and shape go together", where="shape", suggestion="give both or neither")
    path = _path_of(schedule)
    entries = _entries(family_of(path), nfe)
    ranked = []
    for entry in entries:
        try:
            sampler = SamplerFactory.create(
                entry["sampler"], path.spaced(entry["spacing"], entry["spacing_options"]), **entry["options"]
            )
            steps = steps_within(sampler, nfe)
            spread = typical_spread(sampler.plan(steps))
            if spread > _WIDEST:  # noise would be left in the samples
                continue
        except (ConfigurationError, NumericsError):  # it does not run on this schedule
            continue
        ranked.append(Recommendation(**{**entry, "nfe": nfe, "steps": steps, "spread": spread}))
        if model is None or len(ranked) == _TRIED:
            break
    if not ranked:
        raise ConfigurationError(
            f"no measured sampler runs on {path!r} with {nfe} model calls", where="nfe", suggestion="allow more calls"
        )
    if model is None or shape is None:
        return ranked[0]
    return _best_on(model, shape, path, ranked, seed, settings)


def family_of(path: NoisePath) -> str:
    """The kind of schedule in the table that is nearest to this one: "linear", "cosine", "edm" or "flow"."""
    top, middle = path.level(path.t_max), path.level(float(path.time_at(0.5)))
    if top.alpha == 1.0:
        return "edm"
    if math.isclose(middle.alpha + middle.sigma, 1.0, rel_tol=1e-6):
        return "flow"
    return "cosine" if top.noise_to_signal > 1000.0 else "linear"


def _path_of(schedule: Any) -> NoisePath:
    if isinstance(schedule, NoisePath):
        return schedule
    if isinstance(schedule, DiffusionPipeline):
        return schedule.run_path
    return NoiseSchedulerFactory.create(schedule)


@functools.cache
def _table() -> dict[str, dict[str, list[dict[str, Any]]]]:
    text = resources.files(__package__).joinpath("data", "recommendations.json").read_text()
    table: dict[str, dict[str, list[dict[str, Any]]]] = json.loads(text)["entries"]
    return table


def _entries(family: str, nfe: int) -> list[dict[str, Any]]:
    """The entries for the nearest number of calls in the table, best first.

    They are ranked by the error at this number and at the two beside it, relative to the best error there. With few
    calls one measurement is uncertain, since a trajectory may end at another digit.
    """
    rows = _table()[family]
    known = sorted(rows, key=int)
    k = min(range(len(known)), key=lambda i: abs(math.log(int(known[i]) / nfe)))
    beside = [rows[known[i]] for i in (k - 1, k, k + 1) if 0 <= i < len(known)]

    def score(entry: dict[str, Any]) -> float:
        total = 0.0
        for cell in beside:
            error = next((e["error"] for e in cell if _same(e, entry)), _ABSENT * cell[-1]["error"])
            total += math.log(error / cell[0]["error"])
        return total

    return sorted(rows[known[k]], key=score)


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return all(a[name] == b[name] for name in ("sampler", "options", "spacing", "spacing_options"))


def _best_on(
    model: Callable[..., Any],
    shape: tuple[int, ...],
    path: NoisePath,
    ranked: list[Recommendation],
    seed: int,
    settings: Mapping[str, Any],
) -> Recommendation:
    """The entry whose samples are nearest to those of a fine run of the model."""

    def sample(pipeline: DiffusionPipeline, **run: Any) -> Tensor:
        result: Tensor = pipeline.sample(model, shape, seed=seed, **run, **settings)
        return result.double()

    exact = sample(DiffusionPipeline(path, "ddim"), plan=fine_plan(path, _TEACHER_CALLS))
    runs = [sample(choice.pipeline(path), num_inference_steps=choice.steps) for choice in ranked]
    errors = [float((samples - exact).square().mean().sqrt()) for samples in runs]
    order = sorted(range(len(ranked)), key=errors.__getitem__)
    best = ranked[order[0]]
    tried = tuple((ranked[k].sampler, ranked[k].spacing, errors[k]) for k in order)
    return Recommendation(**{**vars(best), "error": errors[order[0]], "tried": tried})
