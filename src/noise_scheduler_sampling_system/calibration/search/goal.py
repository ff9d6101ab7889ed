"""What a plan may spend: a number of model calls, or of evaluations with guidance as a part of the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from ...plans.branch_mask import with_folded_guidance
from ...plans.plan import SamplingPlan
from ..branches import folded
from ..table import Table

__all__ = ["Goal"]

#: The levels of a plan with guidance, as shares of its evaluations: the ones that are tried (docs/calibration.md).
_LEVELS: Final = (0.65, 0.75)


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
        """The numbers of levels, above :attr:`calls`, of plans that evaluate both branches in some of them."""
        if self.scale is None:
            return ()
        tried = (round(share * self.budget) for share in _LEVELS)
        return tuple(dict.fromkeys(count for count in tried if self.calls < count < self.budget))

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
