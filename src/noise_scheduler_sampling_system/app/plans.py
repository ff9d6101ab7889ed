"""The plans that the words of a command stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..support.errors import ConfigurationError
from .parsing import integers
from .pipelines import pipeline_of

if TYPE_CHECKING:
    from ..plans.plan import SamplingPlan
    from ..plans.plan_set import PlanSet

__all__ = [
    "PLAN_ENDINGS", "chosen_plans", "in_file", "plan_of", "plans_for_run", "plans_in", "refuse_beside_plan",
    "refuse_both",
]  # fmt: skip

#: The endings of a plan's file.
PLAN_ENDINGS: Final = (".json", ".safetensors")


def in_file(name: str) -> bool:
    """Whether a word names the file of a plan, and not a sampler."""
    return Path(name).suffix in PLAN_ENDINGS


def plan_of(
    name: str,
    steps: int,
    settings: dict[str, Any],
    options: Sequence[str] | None,
    nfe: int | None = None,
    evaluations: int | None = None,
) -> SamplingPlan:
    """The plan of a sampler, or the one in a file, of several that with this number of model calls or evaluations."""
    if not in_file(name):
        for where, number in (("nfe", nfe), ("evaluations", evaluations)):
            if number is not None:
                raise ConfigurationError(f"{name} is no file", where=where, suggestion="give --steps")
        return pipeline_of(name, settings, list(options or [])).plan(steps)
    refuse_beside_plan(**settings, option=options)
    refuse_both(nfe, evaluations)
    plans = plans_in(Path(name))
    if evaluations is not None:
        return plans.pick_evaluations(evaluations)
    if nfe is not None:
        return plans.pick(nfe)
    if len(plans) > 1:
        raise ConfigurationError(
            f"{name} has plans of {plans.keys_in_words}",
            where=plans.counts,
            suggestion=f"choose one: --{plans.counts} N",
        )
    return next(iter(plans.values()))


def chosen_plans(file: Path, nfe: str | None, evaluations: str | None) -> PlanSet:
    """The plans in a file with the numbers of model calls, or of evaluations, that an option lists; else all."""
    from ..plans.plan_set import PlanSet

    refuse_both(nfe, evaluations)
    plans = plans_in(file)
    if evaluations is not None:
        numbers = integers(evaluations, "evaluations")
        return PlanSet({n: plans.pick_evaluations(n) for n in numbers}, "evaluations")
    return plans if nfe is None else PlanSet({n: plans.pick(n) for n in integers(nfe, "nfe")})


def plans_for_run(file: Path | None, evaluations: int | None) -> SamplingPlan | PlanSet | None:
    """The plan in a file, or of several that of this number of evaluations; without one the run chooses by its steps.

    Returns:
        None where no file is given.

    Raises:
        ConfigurationError: there is no such plan, or a number of evaluations and no file.
    """
    if file is None:
        if evaluations is not None:
            raise ConfigurationError("chooses a plan of a file", where="evaluations", suggestion="give --plan, too")
        return None
    plans = plans_in(file)
    if evaluations is not None:
        return plans.pick_evaluations(evaluations)
    return plans if len(plans) > 1 else next(iter(plans.values()))


def refuse_both(nfe: object, evaluations: object) -> None:
    """Refuse two numbers that each choose.

    Raises:
        ConfigurationError: both are given.
    """
    if nfe is not None and evaluations is not None:
        raise ConfigurationError(
            "--nfe and --evaluations are both given", where="evaluations", suggestion="give one of them"
        )


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
