"""The plans that the words of a command stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..support.errors import ConfigurationError
from .pipelines import pipeline_of

if TYPE_CHECKING:
    from ..plans.plan import SamplingPlan
    from ..plans.plan_set import PlanSet

__all__ = ["PLAN_ENDINGS", "in_file", "plan_of", "plans_in", "refuse_beside_plan"]

#: The endings of a plan's file.
PLAN_ENDINGS: Final = (".json", ".safetensors")


def in_file(name: str) -> bool:
    """Whether a word names the file of a plan, and not a sampler."""
    return Path(name).suffix in PLAN_ENDINGS


def plan_of(
    name: str, steps: int, settings: dict[str, Any], options: Sequence[str] | None, nfe: int | None
) -> SamplingPlan:
    """The plan of a sampler, or the one in a file."""
    if not in_file(name):
        if nfe is not None:
            raise ConfigurationError(f"{name} is no file", where="nfe", suggestion="give --steps")
        return pipeline_of(name, settings, list(options or [])).plan(steps)
    refuse_beside_plan(**settings, option=options)
    plans = plans_in(Path(name))
    if nfe is None and len(plans) > 1:
        raise ConfigurationError(
            f"{name} has plans of {', '.join(str(plan.nfe) for plan in plans.values())} model calls",
            where="nfe",
            suggestion="choose one: --nfe N",
        )
    return plans.pick(nfe) if nfe is not None else next(iter(plans.values()))


def refuse_beside_plan(**given: Any) -> None:
    """Refuse options that the plan of a file sets itself.

    Raises:
        ConfigurationError: one of them is given.
    """
    for where, value in given.items():
        if value:
            raise ConfigurationError("is set by the plan in the file", where=where, suggestion="leave it out")


def plans_in(file: Path) -> PlanSet:
    """The plans in a file, as a :class:`PlanSet`."""
    from ..plans.plan import SamplingPlan
    from ..plans.plan_set import PlanSet

    if file.suffix == ".safetensors":
        plan = SamplingPlan.load(file)
        return PlanSet({plan.nfe: plan})
    return PlanSet.load(file)
