"""Classifier-free guidance that evaluates the unconditional branch in some model calls only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

from ..plans.branch_mask import with_folded_guidance
from ..plans.plan import SamplingPlan
from ..support.argument_checks import checked_count, checked_number
from ..support.errors import ConfigurationError, shown
from .base import Guidance
from .formula import Formula

__all__ = ["CachedGuidance", "default_calls"]

#: The share of the model calls that evaluate both branches where nothing is said.
_SHARE: Final = 0.5
#: How much denser these calls are at the start of a run; 1 spreads them evenly.
_CROWDING: Final = 1.5


@final
@dataclass(frozen=True)
class CachedGuidance(Guidance):
    """u + s·(c − u), where the difference c − u is evaluated in some model calls and kept for the others.

    The difference changes slowly along a run, as predictions of ε. A call that keeps it costs one evaluation instead of
    two, so that a run of the same cost has more levels (docs/guidance.md has the measured errors). The guidance becomes
    a part of the plan (:func:`.plans.branch_mask.with_folded_guidance`); ``result.plan`` shows it.

    It works with every sampler that writes plans, without clipping, and stands alone in a run. Related published
    methods: Adaptive Guidance (Castillo et al. 2023, arXiv 2312.12487), which replaces the unconditional branch by an
    affine function of earlier ones.

    Args:
        scale: s.
        calls: the model calls that evaluate both branches, one or more, from 0. Before the first of them nothing is
            guided. A call without signal (α = 0, the start of flow paths) guides itself alone, since its difference of
            ε is 0.
        evaluations: instead of ``calls``: at most this number of evaluations for each sample in the whole run, more
            than its model calls. The default is three for every two model calls.
        order: 0 keeps the difference of the last such call; 1 extrapolates it from the last two.

    Raises:
        ConfigurationError: both ``calls`` and ``evaluations``, no call, or values out of range.
    """

    scale: float
    calls: Sequence[int] | None = None
    evaluations: int | None = None
    order: int = 0
    contrasts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        where = type(self).__name__
        object.__setattr__(self, "scale", checked_number(self.scale, f"{where}.scale"))
        if self.calls is not None and self.evaluations is not None:
            raise ConfigurationError(
                "are both given", where=f"{where}.calls and .evaluations", suggestion="give one of them"
            )
        if self.calls is not None:
            object.__setattr__(self, "calls", _checked_calls(self.calls, f"{where}.calls"))
        if self.evaluations is not None:
            checked_count(self.evaluations, f"{where}.evaluations")
        if self.order not in (0, 1):
            raise ConfigurationError(f"got {shown(self.order)}", where=f"{where}.order", suggestion="give 0 or 1")

    def write(self, formula: Formula) -> None:
        raise ConfigurationError(
            "CachedGuidance is a part of the plan, so it stands alone",
            where="guidance",
            suggestion="give it as the only guidance, to sample, stream, generate or compile",
        )

    def folded_into(self, plan: SamplingPlan) -> SamplingPlan:
        """The plan that holds this guidance.

        Raises:
            ConfigurationError: a call that the plan does not have, or no more evaluations than model calls.
        """
        chosen = self._calls_of(plan.nfe)
        return with_folded_guidance(plan, self.scale, [call in chosen for call in range(plan.nfe)], order=self.order)

    def refuse_other(self, plan: SamplingPlan) -> None:
        """Raise unless a plan that holds guidance has this scale, and evaluates both branches in the same calls.

        Raises:
            ConfigurationError: it has another scale, or other calls.
        """
        held = plan.calls_with_both
        if plan.scale != self.scale or held != self._calls_of(plan.nfe):
            raise ConfigurationError(
                f"the plan holds guidance of scale {plan.scale:g}, with both branches in the calls {held}",
                where="guidance",
                suggestion="leave it out, or give a plan without guidance",
            )

    def _calls_of(self, count: int) -> tuple[int, ...]:
        """The calls that evaluate both branches, of a plan with this number of model calls."""
        if self.calls is None:
            return default_calls(count, self._extra(count))
        if self.calls[-1] >= count:
            raise ConfigurationError(
                f"got {self.calls[-1]}, and the plan has the calls 0 to {count - 1}",
                where="CachedGuidance.calls",
                suggestion="give calls of the plan",
            )
        return tuple(self.calls)

    def _extra(self, count: int) -> int:
        """The number of calls that evaluate both branches."""
        if self.evaluations is None:
            return max(1, round(_SHARE * count))
        if self.evaluations <= count:
            raise ConfigurationError(
                f"allows {self.evaluations} evaluations, and the plan makes {count} model calls",
                where="CachedGuidance.evaluations",
                why="without a call that evaluates both branches there is no guidance",
                suggestion=f"give {count + 1} to {2 * count}, or take fewer steps",
            )
        return min(self.evaluations - count, count)


def _checked_calls(calls: Any, where: str) -> tuple[int, ...]:
    """Numbers of model calls, each once, in order."""
    if not isinstance(calls, list | tuple | range) or not all(type(call) is int and call >= 0 for call in calls):
        raise ConfigurationError(
            f"got {shown(calls)}", where=where, suggestion="give whole numbers ≥ 0, e.g. (0, 1, 3)"
        )
    if not calls:
        raise ConfigurationError(
            "is empty, which is no guidance", where=where, suggestion="give one call or more, or guidance=[]"
        )
    return tuple(sorted(set(calls)))


def default_calls(count: int, extra: int) -> tuple[int, ...]:
    """The calls that evaluate both branches: dense at the start of a run, where the noise is largest.

    Args:
        count: the number of model calls.
        extra: how many of them evaluate both.
    """
    if extra >= count:
        return tuple(range(count))
    # call k of m lies at count·(k/m)^p: p > 1 puts more of them at the start
    chosen: list[int] = []
    for k in range(extra):
        place = int(count * (k / extra) ** _CROWDING)
        chosen.append(max(place, chosen[-1] + 1) if chosen else place)
    return tuple(chosen)
