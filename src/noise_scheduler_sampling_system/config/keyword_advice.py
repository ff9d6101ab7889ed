"""Advice about an unknown keyword: what it is called here, and which function takes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final

from ..support.errors import ConfigurationError
from ..support.registry import did_you_mean, folded
from .keyword_table import ELSEWHERE, HOMES, KEYWORDS, OPTION_NAMES, Keyword
from .registries import SAMPLERS, SCHEDULES, SPACINGS

__all__ = ["advice", "keywords_of", "refuse_unknown"]


def _by_name() -> dict[str, list[Keyword]]:
    table: dict[str, list[Keyword]] = {}
    for entry in KEYWORDS:
        for name in dict.fromkeys(folded(name) for name in (entry.own, *entry.others)):
            table.setdefault(name, []).append(entry)
    return table


_BY_NAME: Final = _by_name()


def advice(name: str, known: Iterable[str]) -> str:
    """What to do about a keyword that a function does not have.

    Args:
        name: the keyword.
        known: the keywords of the function.

    Returns:
        The name of the keyword in that function, or the function that takes it.
    """
    known = list(known)
    entries = _BY_NAME.get(folded(name), [])
    here = next((entry for entry in entries if entry.own in known), None)
    if here is not None:
        return f"did you mean {here.own!r}? {here.give}"
    option = OPTION_NAMES.get(name.lower(), name)
    if option in known:
        return f"did you mean {option!r}?"
    owners = _owners(option)
    if entries and not (owners and all(entry.own != name for entry in entries)):
        home = min(entries, key=lambda entry: list(HOMES).index(entry.home))
        return f"{home.own} is {HOMES[home.home]}: {home.give}"
    if owners:
        return owners
    other = next((text for text, names in ELSEWHERE.items() if name in names.split()), None)
    return other or did_you_mean(name, known)


def _owners(option: str) -> str:
    """Which samplers, schedules or spacings have an option; empty: none."""
    samplers = [name for name in SAMPLERS if option in (*SAMPLERS.get(name).option_defaults, "afs")]
    samplers.sort(key=len)
    schedules = [name for name in SCHEDULES if option in SCHEDULES.get(name).option_defaults]
    spacings = [name for name in SPACINGS if option in list(inspect.signature(SPACINGS.get(name)).parameters)[2:]]
    if samplers:
        example = "ddim" if "ddim" in samplers else samplers[0]
        return (
            f"{option} is an option of the sampler, of {_listed(samplers)}: "
            f"DiffusionPipeline(config, {example!r}, {option}=...), in a file sampler_options: {{{option}: ...}}"
        )
    if schedules:
        return (
            f"{option} is an option of the schedule, of {_listed(schedules)}: "
            f"NoiseSchedulerConfig(beta_schedule={schedules[0]!r}, schedule_options={{{option!r}: ...}})"
        )
    if spacings:
        return (
            f"{option} is an option of the spacing, of {_listed(spacings)}: "
            f"NoiseSchedulerConfig(timestep_spacing={spacings[0]!r}, spacing_options={{{option!r}: ...}})"
        )
    return ""


def _listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names) if len(names) <= most else ", ".join(names[:most]) + ", ..."


def keywords_of(*functions: Callable[..., Any]) -> list[str]:
    """The names of the parameters of functions that can be given by keyword."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = (item for function in functions for item in inspect.signature(function).parameters.items())
    return [name for name, parameter in parameters if parameter.kind in kinds and name != "self"]


def refuse_unknown(unknown: Iterable[str], known: Iterable[str]) -> None:
    """Raise for keywords that a function does not have.

    Args:
        unknown: the keywords that it does not have.
        known: the keywords that it has.

    Raises:
        ConfigurationError: there is an unknown keyword; the message says what to give instead.
    """
    for name in unknown:
        raise ConfigurationError(
            "unknown keyword",
            where=name,
            why="it would be ignored; what the model needs goes into condition={...}",
            suggestion=advice(name, known),
        )
