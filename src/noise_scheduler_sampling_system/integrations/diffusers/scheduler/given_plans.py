"""Fixed plans of a :class:`PlanScheduler`, by their number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from ....plans.plan import SamplingPlan
from ....schedules.foreign_levels import refuse_foreign_levels
from ....schedules.path import Level, NoisePath
from ....support.argument_checks import checked_count
from ....support.errors import ConfigurationError
from .compile_request import CompileRequest

__all__ = ["GivenPlans", "Plans", "are_evenly_spaced", "plans_as_data", "refuse_second_branch"]

#: A plan, or plans by their number of steps; as objects or as plain data.
Plans = SamplingPlan | Mapping[Any, Any]


def plans_as_data(plan: Plans) -> dict[str, Any]:
    """Plans by their number of steps, as plain data.

    Raises:
        ConfigurationError: an empty mapping, or plans that cannot be read.
    """
    if isinstance(plan, SamplingPlan):
        refuse_second_branch(plan)
        return {str(plan.steps): plan.to_dict()}
    if "space" in plan:  # the dictionary of one
        return plans_as_data(SamplingPlan.from_dict(plan))
    found: dict[str, Any] = {}
    for steps, one in plan.items():
        made = one if isinstance(one, SamplingPlan) else SamplingPlan.from_dict(one)
        refuse_second_branch(made)
        found[str(checked_count(int(steps), "plan"))] = made.to_dict()
    if not found:
        raise ConfigurationError("is empty", where="plan", suggestion="give a SamplingPlan, or {steps: plan}")
    return found


def refuse_second_branch(plan: SamplingPlan) -> None:
    """Raise for a plan that asks for more than pipelines of diffusers hand over.

    That is the unconditional prediction (CFG++, and plans that hold their guidance), and a second time.

    Raises:
        ConfigurationError: it does; the error says what to use instead.
    """
    if plan.two_times:
        raise ConfigurationError(
            f"{plan.sampler!r} asks a network of two times, and a pipeline chooses what its network is told",
            where="method",
            why="a scheduler cannot give the second time",
            suggestion="use method='euler': in pipelines for flow maps (AnyFlow) its step with the average velocity is "
            "the step of the flow map; or DiffusionPipeline.sample with a function of (x, t, r, **condition)",
        )
    if plan.scale is None and not any(plan.reads_null):
        return
    holds = "" if plan.scale is None else f", for the guidance of scale {plan.scale:g} that the plan holds"
    raise ConfigurationError(
        f"{plan.sampler!r} needs the unconditional prediction beside the guided one{holds}",
        where="method" if plan.scale is None else "plan",
        why="pipelines of diffusers evaluate both branches in every step, and hand over the guided one only",
        suggestion="use a sampler without CFG++, or DiffusionPipeline.from_diffusers(pipe).generate(...)",
    )


@final
class GivenPlans:
    """Plans by their number of steps.

    Args:
        data: what :func:`plans_as_data` returns.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._plans = {int(steps): SamplingPlan.from_dict(plan) for steps, plan in data.items()}

    def __bool__(self) -> bool:
        return bool(self._plans)

    @property
    def calls_per_step(self) -> int:
        """The model calls of a step, where all plans and steps make the same number; 1 otherwise."""
        counts = {_calls_per_step(plan) for plan in self._plans.values()}
        return counts.pop() if len(counts) == 1 else 1

    @property
    def scale_input(self) -> bool:
        """Whether any plan scales the network's input."""
        return any(plan.input_scale is not None for plan in self._plans.values())

    def plan_for(self, request: CompileRequest, path: NoisePath) -> SamplingPlan:
        """The plan with the number of steps that is wanted.

        Raises:
            ConfigurationError: timesteps or σ beside plans, a number of steps without a plan, or a plan of another
                noise schedule.
        """
        steps, sigmas = request.num_inference_steps, request.sigmas
        if request.timesteps is not None or (sigmas is not None and not are_evenly_spaced(sigmas)):
            raise ConfigurationError(
                "are given beside fixed plans",
                where="timesteps" if request.timesteps is not None else "sigmas",
                suggestion="leave them out: a plan has its own levels",
            )
        count = steps if steps is not None else len(sigmas or ())
        plan = self._plans.get(count)
        if plan is None:
            raise ConfigurationError(
                f"there is no plan for {count} steps",
                where="num_inference_steps",
                suggestion=f"give one of {sorted(self._plans)}",
            )
        _refuse_other_schedule(plan, path)
        return plan


def are_evenly_spaced(sigmas: Sequence[float]) -> bool:
    """Whether these are 1, ..., 1/N: pipelines of flow models give them where the user does not give any."""
    count = len(sigmas)
    return all(abs(s - (1.0 - i * (1.0 - 1.0 / count) / max(count - 1, 1))) < 1e-6 for i, s in enumerate(sigmas))


def _calls_per_step(plan: SamplingPlan) -> int:
    """The model calls of every step, where all but the last make the same number; 1 otherwise."""
    counts = [sum(bool(a) for a, s in zip(plan.asked, plan.step, strict=True) if s == k) for k in range(plan.steps)]
    return counts[0] if len(set(counts[:-1])) == 1 and counts[0] >= counts[-1] > 0 else 1


def _refuse_other_schedule(plan: SamplingPlan, path: NoisePath) -> None:
    """Raise unless the plan's levels are the path's. Times beyond the path's ends, as of rounded tables, are ignored.

    Raises:
        ConfigurationError: its levels are those of another path.
    """
    rows = zip(plan.time, plan.alpha, plan.sigma, plan.asked, strict=False)  # without the end
    levels = [Level(*level) for *level, called in rows if called and path.t_min <= level[0] <= path.t_max]
    suggestion = "make it on NoiseSchedulerConfig.from_diffusers(pipe.scheduler)"
    refuse_foreign_levels(path, levels, "plan", rounded=True, suggestion=suggestion)
