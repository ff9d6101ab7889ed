"""What a plan may spend: a number of model calls, or of evaluations with guidance as a part of the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from ..plans.branch_mask import with_folded_guidance
from ..plans.plan import SamplingPlan
from .branches import folded
from .table import Table

__all__ = ["Goal"]


@final
@dataclass(frozen=True)
class Goal:
    """The budget of a plan.

    Attributes:
        budget: the number of model calls; with ``scale``, the number of evaluations for each sample.
        scale: the guidance scale that the plan holds, or None.
    """

    budget: int
    scale: float | None = None

    @property
    def calls(self) -> int:
        """The number of calls of built-in samplers, each with both branches under guidance."""
        return self.budget if self.scale is None else self.budget // 2

    @property
    def guidance(self) -> float:
        """The scale of a goal that has one."""
        assert self.scale is not None
        return self.scale

    @property
    def levels(self) -> tuple[int, ...]:
        """The numbers of queries that plans may have: with guidance, both branches are evaluated in some of them."""
        return (self.budget,) if self.scale is None else tuple(range(self.calls, self.budget, 1 + self.calls // 9))

    def folded(self, table: Table) -> Table:
        """The table with the goal's guidance in it, if there is one."""
        return table if self.scale is None else folded(table, self.scale)

    def holding(self, plan: SamplingPlan) -> SamplingPlan:
        """The plan with the goal's guidance in it, if there is one."""
        if self.scale is None or plan.scale is not None:
            return plan
        return with_folded_guidance(plan, self.scale, [True] * plan.nfe)

    def __str__(self) -> str:
        return f"{self.budget} {'calls' if self.scale is None else 'evaluations'}"
