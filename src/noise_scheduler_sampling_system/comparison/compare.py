"""compare(): samplers at equal numbers of model calls, from the same noise."""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..analysis.recommend import steps_within
from ..analysis.solution import each_error
from ..config.settings import NoiseSchedulerConfig
from ..guidance import ClassifierFree, evaluations
from ..guidance.base import Guidance
from ..models import DigitsModel, FeatureStatistics, frechet_distance
from ..pipeline.pipeline import DiffusionPipeline
from ..plans.plan import SamplingPlan
from ..plans.plan_set import PlanSet
from ..running.model_fingerprint import fingerprint
from ..running.results import SamplingResult
from ..samplers.adaptive import AdaptiveSampler
from ..samplers.base import BaseSampler
from ..schedules.path import NoisePath
from ..support.argument_checks import checked_count, checked_shape
from ..support.errors import ConfigurationError, NoiseSamplingError, shown
from ..support.registry import Registry
from ..support.version import __version__
from .comparison import Cell, Comparison, Entry
from .reference import KINDS, Reference, References, root_mean_square

__all__ = ["compare"]

logger = logging.getLogger(__name__)

_DIGITS_SHAPE = (64, 1, 8, 8)


def compare(
    samplers: Mapping[str, Any] | Iterable[Any],
    model: Callable[..., Any] | None = None,
    *,
    nfe: int | Sequence[int] = (5, 8, 10, 20),
    shape: Sequence[int] | None = None,
    config: NoiseSchedulerConfig | NoisePath | Mapping[str, Any] | None = None,
    condition: Mapping[str, Any] | None = None,
    null_condition: Mapping[str, Any] | None = None,
    guidance_scale: float = 1.0,
    guidance: Guidance | Sequence[Guidance] | None = None,
    seed: int = 0,
    repeats: int = 1,
    reference: str | None = "auto",
    reference_calls: int = 128,
    features: Callable[[Tensor], Tensor] | None = None,
    data: Tensor | None = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    max_batch_size: int | None = None,
    progress: bool = False,
) -> Comparison:
    """Run samplers from the same noise at equal numbers of model calls, and measure how far they end from the ODE.

    Each cell runs the largest number of steps that makes at most its budget of model calls. The error is the
    root-mean-square difference per number to the solution of the probability-flow ODE from pure noise, so that a grid
    that starts below the noisiest level shows what this costs. Samplers that add noise do not follow the ODE: they
    have no error, and are compared by ``features``.

    Args:
        samplers: pipelines, samplers' names (those of other libraries, too), plans or plan sets; a mapping gives
            them names.
        model: as for :meth:`DiffusionPipeline.sample`; None: the embedded digits.
        nfe: the budgets of model calls.
        shape: of a batch, (B, ...); default for the digits: (64, 1, 8, 8).
        config: the settings of the samplers that are given by name.
        condition, null_condition, guidance_scale, guidance: as for ``sample``. The default scale is 1: no guidance.
        seed: of the first run's noise.
        repeats: runs of each cell, with seeds ``seed``, ``seed`` + 1, ...
        reference: "exact" (models that know their solution, without guidance), "fine" (a run of ``reference_calls``
            calls, whose own error is stated), "auto" (exact where it can be, else fine), or None for no error.
        reference_calls: model calls of a fine run.
        features: images (B, ...) ↦ features (B, d), for the Fréchet distance to ``data``.
        data: images of the data, for ``features``.
        device, dtype, max_batch_size: as for ``sample``.
        progress: show a progress bar.

    Returns:
        The comparison; print it, or ``save`` it as a page, JSON or CSV. An interrupt (Ctrl-C) after the first cell ends
        it: the other cells say so, and ``about["interrupted"]`` is True.

    Raises:
        ConfigurationError: before the first model call, for what no cell could run with. A single cell that cannot
            run says why in ``cell.problem``.
    """
    budgets = tuple(dict.fromkeys(checked_count(n, "nfe") for n in ([nfe] if isinstance(nfe, int) else nfe)))
    entries = _entries(samplers, config)
    if not budgets or not entries:
        raise ConfigurationError(
            "there is nothing to compare", where="nfe" if entries else "samplers", suggestion="give at least one"
        )
    if reference is not None and reference not in KINDS:
        raise ConfigurationError(
            f"got {shown(reference)}", where="reference", suggestion=f"give None or one of {', '.join(KINDS)}"
        )
    if (features is None) != (data is None):
        raise ConfigurationError("features and data go together", where="features", suggestion="give both, or neither")
    if shape is None and model is not None:
        raise ConfigurationError("is missing", where="shape", suggestion="give that of a batch, e.g. (64, 3, 32, 32)")
    shape = checked_shape(_DIGITS_SHAPE if shape is None else shape)
    repeats = checked_count(repeats, "repeats")
    seeds = tuple(range(seed, seed + repeats))
    run: dict[str, Any] = {
        "condition": condition, "null_condition": null_condition, "device": device, "dtype": dtype,
        "max_batch_size": max_batch_size,
    }  # fmt: skip
    run |= {"guidance_scale": guidance_scale} if guidance is None else {"guidance": guidance}
    guided = guidance is not None or (bool(condition) and guidance_scale != 1.0)
    references = References(
        reference or "auto", checked_count(reference_calls, "reference_calls"), seeds, shape, guided, run
    )
    judge = None if features is None or data is None else _Judge(features, data)
    cells: dict[tuple[str, int], Cell] = {}
    solutions: dict[str, Reference] = {}
    with tqdm(total=len(entries) * sum(budgets) * repeats, disable=not progress, unit=" calls") as bar:
        try:
            for entry in entries:
                network = DigitsModel(entry.pipeline.scheduler) if model is None else model
                if reference is not None and not entry.stochastic:
                    bar.set_postfix_str(f"reference of {entry.name}")
                    solutions[entry.name] = references.of(entry.pipeline.scheduler, network)
                for budget in budgets:
                    bar.set_postfix_str(f"{entry.name}, {budget} calls")
                    cells[entry.name, budget] = _cell(
                        entry, budget, network, shape, seeds, solutions.get(entry.name), judge, run
                    )
                    bar.update(budget * repeats)
        except KeyboardInterrupt:
            if not cells:
                raise
            logger.warning("interrupted: returning the %d cells that are done", len(cells))
    asked = [(entry.name, budget) for entry in entries for budget in budgets]
    interrupted = len(cells) < len(asked)
    cells |= {key: Cell(*key, problem="it was interrupted") for key in asked if key not in cells}
    about = {
        "model": fingerprint(DigitsModel(entries[0].pipeline.scheduler) if model is None else model),
        "shape": list(shape), "seeds": list(seeds), "guidance_scale": None if guidance is not None else guidance_scale,
        "guidance": repr(guidance) if guidance is not None else None,
        "device": str(device), "noise_scheduler_sampling_system": __version__, "torch": torch.__version__,
        "python": platform.python_version(), **({"interrupted": True} if interrupted else {}),
    }  # fmt: skip
    return Comparison(tuple(entries), budgets, cells, solutions, about)


def _entries(samplers: Any, config: Any) -> list[Entry]:
    """What is compared, each under a name of its own."""
    if isinstance(samplers, str | Enum | DiffusionPipeline | SamplingPlan | PlanSet) or not isinstance(
        samplers, Iterable
    ):
        samplers = [samplers]
    named = list(samplers.items()) if isinstance(samplers, Mapping) else [(None, each) for each in samplers]
    entries = [_entry(each, config) for _, each in named]
    paths = [each.pipeline.scheduler.spaced("leading") for each in entries]
    several = any(path != paths[0] for path in paths)
    made: list[Entry] = []
    for (name, _), entry in zip(named, entries, strict=True):
        own = f"{entry.name}, {Registry.key(entry.pipeline.config.beta_schedule)}" if several else entry.name
        base = own if name is None else str(name)
        number = sum(other.name.split(" #")[0] == base for other in made)
        made.append(replace(entry, name=f"{base} #{number + 1}" if number else base))
    return made


def _entry(given: Any, config: Any) -> Entry:
    if isinstance(given, DiffusionPipeline):
        return Entry(f"{given.method}, {given.sampler.run_spacing}", given)
    path = NoiseSchedulerConfig(**config) if isinstance(config, Mapping) else config
    if isinstance(given, SamplingPlan | PlanSet):
        plans = {given.nfe: given} if isinstance(given, SamplingPlan) else {n: given[n] for n in given}
        first = next(iter(plans.values()))
        return Entry(f"plan of {first.sampler}", DiffusionPipeline(path, "ddim"), plans)
    if isinstance(given, str | Enum) or (isinstance(given, type) and issubclass(given, BaseSampler)):
        pipeline = DiffusionPipeline(path, Registry.key(given) if isinstance(given, str | Enum) else given)
        return Entry(f"{pipeline.method}, {pipeline.sampler.run_spacing}", pipeline)
    raise ConfigurationError(
        f"got {shown(given)}",
        where="samplers",
        suggestion="give pipelines, samplers' names, plans or plan sets",
    )


def _cell(
    entry: Entry, budget: int, model: Callable[..., Any], shape: tuple[int, ...], seeds: tuple[int, ...],
    reference: Reference | None, judge: _Judge | None, run: Mapping[str, Any],
) -> Cell:  # fmt: skip
    """One entry at one budget."""
    try:
        how = _within(entry, budget)
        results: list[SamplingResult] = [
            entry.pipeline.sample(model, shape, seed=seed, return_result=True, profile=k == 0, **how, **run)
            for k, seed in enumerate(seeds)
        ]
    except NoiseSamplingError as error:
        return Cell(entry.name, budget, problem=str(error))
    first = results[0]
    samples = [result.samples.detach().cpu() for result in results]
    profile = first.profile
    cell = Cell(
        entry.name, budget, nfe=first.nfe, steps=first.steps, evaluations=first.evaluations,
        frechet=math.nan if judge is None else judge.distance(torch.cat(samples)),
        seconds={} if profile is None else {
            part: getattr(profile, part) for part in ("model", "guidance", "noise", "sampler", "total")
        },
        peak_memory=0 if profile is None else profile.peak_memory,
        plan=first.plan if entry.pipeline.sampler.writes_plans or entry.plans else None, samples=samples[0],
    )  # fmt: skip
    if cell.plan is not None:
        cell = replace(cell, evaluations_by_row=_evaluations(cell.plan, run))
    if reference is None:
        return cell
    errors = [each_error(x, exact) for x, exact in zip(samples, reference.samples, strict=True)]
    rms, standard_error = root_mean_square(torch.cat(errors))
    return replace(
        cell, rms=rms, standard_error=standard_error, median=torch.cat(errors).median().item(),
        by_seed=tuple(root_mean_square(each)[0] for each in errors),
    )  # fmt: skip


def _within(entry: Entry, budget: int) -> dict[str, Any]:
    """The arguments of ``sample`` that make at most ``budget`` model calls."""
    sampler = entry.pipeline.sampler
    if entry.plans:
        calls = max((n for n in entry.plans if n <= budget), default=None)
        if calls is None:
            raise ConfigurationError(
                f"its plans make {', '.join(map(str, entry.plans))} model calls", where="nfe", suggestion="allow more"
            )
        return {"plan": entry.plans[calls]}
    if isinstance(sampler, AdaptiveSampler):
        raise ConfigurationError(
            "it chooses its number of model calls by its tolerance", where="nfe", suggestion="compare it by itself"
        )
    return {"num_inference_steps": steps_within(sampler, budget) if sampler.writes_plans else budget}


def _evaluations(plan: SamplingPlan, run: Mapping[str, Any]) -> tuple[int, ...]:
    """Evaluations of the network for one sample, by row of the plan."""
    scale = run.get("guidance_scale", 1.0)
    guidance = run.get("guidance") or (ClassifierFree(scale) if run["condition"] and scale != 1.0 else None)
    if guidance is None:
        return tuple(int(asked) for asked in plan.asked)
    return evaluations(guidance, plan)


class _Judge:
    """Fréchet distances to the data, by features."""

    def __init__(self, features: Callable[[Tensor], Tensor], data: Tensor) -> None:
        self._features = features
        self._data = self._statistics(data)

    def distance(self, samples: Tensor) -> float:
        return frechet_distance(self._statistics(samples), self._data)

    @torch.no_grad()
    def _statistics(self, images: Tensor) -> FeatureStatistics:
        features = self._features(images).double()
        if features.ndim != 2 or len(features) != len(images) or len(images) < 2:
            raise ConfigurationError(
                f"features have shape {tuple(features.shape)} for {len(images)} images",
                where="features",
                suggestion="return (B, d) for B ≥ 2 images",
            )
        return FeatureStatistics(features.mean(0), torch.cov(features.T))
