"""The entries of a comparison: what the user gave, as pipelines with names of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any

from ..pipeline.config_file import pipeline_of
from ..pipeline.pipeline import DiffusionPipeline
from ..plans.plan import SamplingPlan
from ..plans.plan_set import PlanSet
from ..samplers.base import BaseSampler
from ..support.errors import ConfigurationError, shown
from ..support.registry import Registry
from .comparison import Entry
from .subject import Subject

__all__ = ["changed_options", "entries_of"]

_ONE = (str, Enum, DiffusionPipeline, SamplingPlan, PlanSet)


def entries_of(samplers: Any, config: Any, subject: Subject) -> list[Entry]:
    """What is compared, each under a name of its own.

    Args:
        samplers: as for ``compare``.
        config: the settings of samplers that are given by name.
        subject: makes their pipelines.

    Raises:
        ConfigurationError: something that is no sampler, or a wrong name or setting.
    """
    if isinstance(samplers, _ONE) or not isinstance(samplers, Iterable):
        samplers = [samplers]
    named = list(samplers.items()) if isinstance(samplers, Mapping) else [(None, each) for each in samplers]
    entries = [_entry(each, config, subject, None if name is None else str(name)) for name, each in named]
    entries = [replace(each, white_on_black=subject.white_on_black(each.pipeline)) for each in entries]
    names = _described([each for each in entries if not each.name])
    taken: Counter[str] = Counter()
    made: list[Entry] = []
    for entry in entries:
        base = entry.name or next(names)
        taken[base] += 1
        made.append(replace(entry, name=base if taken[base] == 1 else f"{base} #{taken[base]}"))
    return made


def changed_options(entry: Entry) -> dict[str, Any]:
    """The options of the sampler that are not its defaults."""
    sampler = entry.pipeline.sampler
    defaults = type(sampler).option_defaults
    return {name: value for name, value in sampler.options.items() if value != defaults.get(name)}


def _described(entries: list[Entry]) -> Any:
    """Names for entries without one: sampler and spacing, and what else tells them apart."""
    paths = [each.pipeline.scheduler.spaced("leading") for each in entries]
    several = any(path != paths[0] for path in paths)
    names = [_plain_name(each) for each in entries]
    if several:
        names = [
            f"{name}, {Registry.key(each.pipeline.config.beta_schedule)}"
            for name, each in zip(names, entries, strict=True)
        ]
    counts = Counter(names)
    for name, each in zip(names, entries, strict=True):
        options = ", ".join(f"{key}={value}" for key, value in changed_options(each).items())
        yield f"{name} ({options})" if counts[name] > 1 and options and not each.plans else name


def _plain_name(entry: Entry) -> str:
    if entry.plans:
        return f"plan of {next(iter(entry.plans.values())).sampler}"
    return f"{entry.pipeline.method}, {entry.pipeline.sampler.run_spacing}"


def _entry(given: Any, config: Any, subject: Subject, name: str | None) -> Entry:
    if isinstance(given, DiffusionPipeline):
        return Entry(name or "", given)
    if isinstance(given, SamplingPlan | PlanSet):
        plans = {given.nfe: given} if isinstance(given, SamplingPlan) else {n: given[n] for n in given}
        if len({plan.scale for plan in plans.values()}) > 1:
            raise ConfigurationError(
                "has plans of several guidance scales", where=name or "samplers", suggestion="give a set for each scale"
            )
        return Entry(name or "", subject.pipeline("ddim", config), plans)
    if isinstance(given, Mapping):
        try:
            return Entry(name or "", pipeline_of(name or "ddim", given))
        except ConfigurationError as error:
            raise error.under(name or "samplers") from None
    if isinstance(given, str | Enum):
        return Entry(name or "", subject.pipeline(Registry.key(given), config))
    if isinstance(given, BaseSampler) or (isinstance(given, type) and issubclass(given, BaseSampler)):
        return Entry(name or "", subject.pipeline(given, config))
    raise ConfigurationError(
        f"got {shown(given)}",
        where="samplers",
        suggestion="give pipelines, samplers' names, plans, plan sets or tables of settings",
    )
