"""Plans for several numbers of model calls or of evaluations, in one file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, final

from ..support.data_files import read_json, write_json
from ..support.drawn import Drawn
from ..support.errors import ConfigurationError, FileError, shown
from ..support.files import checked_path, of_file
from .plan import SamplingPlan

__all__ = ["PlanSet"]

_FORMAT = "sampling plans 1"
#: What the keys of a set may count.
_COUNTS: Final = ("nfe", "evaluations")


@final
@dataclass(frozen=True, eq=False)
class PlanSet(Mapping[int, SamplingPlan], Drawn):
    """Plans by their number of model calls, or by the evaluations that they may spend; immutable.

    ``pipeline.sample(plan=...)`` takes the plan with ``num_inference_steps`` model calls.

    Attributes:
        plans: the plans by number, in rising order.
        counts: what the numbers count: "nfe", the model calls of each plan, or "evaluations", the most evaluations for
            each sample of plans that hold their guidance.

    Raises:
        ConfigurationError: there is no plan, or a plan makes another number of calls than its key says, or more
            evaluations.
    """

    plans: Mapping[int, SamplingPlan]
    counts: str = "nfe"

    def __post_init__(self) -> None:
        given = dict(self.plans)
        if self.counts not in _COUNTS:
            raise ConfigurationError(
                f"got {self.counts!r}", where="counts", suggestion=f"give one of {', '.join(_COUNTS)}"
            )
        wrong = [key for key, plan in given.items() if not isinstance(plan, SamplingPlan) or not self._fits(key, plan)]
        if not given or wrong:
            number = f"does not make that number of {'model calls' if self.counts == 'nfe' else self.counts}"
            raise ConfigurationError(
                f"the plan under {wrong[0]!r} {number}" if wrong else "holds no plan",
                where="plans",
                suggestion=f"give {{plan.{self.counts}: plan, ...}}",
            )
        object.__setattr__(self, "plans", MappingProxyType(dict(sorted(given.items()))))

    def _fits(self, key: Any, plan: SamplingPlan) -> bool:
        if self.counts == "nfe":
            return bool(plan.nfe == key)
        return isinstance(key, int) and plan.scale is not None and plan.evaluations <= key

    def __getitem__(self, number: int) -> SamplingPlan:
        return self.plans[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self.plans)

    def __len__(self) -> int:
        return len(self.plans)

    @property
    def keys_in_words(self) -> str:
        """The numbers with what they count, for people: "4, 6 model calls" or "8, 12 evaluations"."""
        return f"{', '.join(map(str, self.plans))} {'model calls' if self.counts == 'nfe' else self.counts}"

    @property
    def counts_in_words(self) -> str:
        """What the numbers count, for people: "calls" or "evaluations"."""
        return "calls" if self.counts == "nfe" else self.counts

    def pick(self, num_inference_steps: int) -> SamplingPlan:
        """The plan with this number of model calls; of several, the one with the most evaluations.

        Raises:
            ConfigurationError: there is none; the message lists the numbers that there are.
        """
        found = [plan for plan in self.plans.values() if plan.nfe == num_inference_steps]
        if not found:
            calls = ", ".join(map(str, sorted({plan.nfe for plan in self.plans.values()})))
            keys = "" if self.counts == "nfe" else f" (those of {self.keys_in_words} are plans[N], or --evaluations N)"
            raise ConfigurationError(
                f"there is no plan with {num_inference_steps!r} model calls",
                where="num_inference_steps",
                suggestion=f"give one of {calls}{keys}, or calibrate one",
            )
        return max(found, key=lambda plan: plan.evaluations)

    def pick_evaluations(self, evaluations: int) -> SamplingPlan:
        """The plan for this number of evaluations; in a set by model calls, the one whose guidance makes it.

        Raises:
            ConfigurationError: there is none; the message lists the numbers that there are.
        """
        found = self.plans
        if self.counts == "nfe":
            found = {plan.evaluations: plan for plan in self.plans.values() if plan.scale is not None}
        if evaluations not in found:
            there = f"give one of {', '.join(map(str, sorted(found)))}, or calibrate one"
            raise ConfigurationError(
                f"there is no plan of {evaluations!r} evaluations",
                where="evaluations",
                suggestion=there if found else "choose by the number of model calls: the plans hold no guidance",
            )
        return found[evaluations]

    def to_dict(self) -> dict[str, Any]:
        """All plans as plain data."""
        counts = {} if self.counts == "nfe" else {"counts": self.counts}
        return {"format": _FORMAT, **counts, "plans": {str(key): plan.to_dict() for key, plan in self.plans.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PlanSet:
        """Make plans from the data of :meth:`to_dict`.

        Raises:
            FileError: the data are something else.
        """
        if not isinstance(data, Mapping) or data.get("format") != _FORMAT or not isinstance(data.get("plans"), Mapping):
            raise FileError("holds no sampling plans", where="plans", suggestion="give a file of PlanSet.save")
        plans = {_calls(key): SamplingPlan.from_dict(plan) for key, plan in data["plans"].items()}
        return cls(plans, data.get("counts", "nfe"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all plans as ``.json``, whole or not at all.

        Raises:
            FileError: the name has another ending, or the file cannot be written.
        """
        if checked_path(path).suffix != ".json":
            raise FileError("is not a name for plans", where=str(path), suggestion="use .json")
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PlanSet:
        """Read what :meth:`save` wrote; the file of a single plan becomes a set of one.

        Raises:
            FileError: the file is missing, malformed, or holds something else.
        """
        data = read_json(path)
        with of_file(path, "holds no sampling plans", "give a file of PlanSet.save"):
            if isinstance(data, dict) and "plans" not in data:
                plan = SamplingPlan.from_dict(data)
                return cls({plan.nfe: plan})
            return cls.from_dict(data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlanSet) and (self.plans, self.counts) == (other.plans, other.counts)

    def __hash__(self) -> int:
        return hash(tuple(self.plans.values()))

    def __reduce__(self) -> tuple[Any, ...]:
        return PlanSet, (dict(self.plans), self.counts)

    def __repr__(self) -> str:
        return f"PlanSet({', '.join(map(str, self.plans))} {self.counts_in_words})"


def _calls(key: Any) -> int:
    """The number of calls of a key in a file."""
    if not isinstance(key, str) or not key.isdecimal() or str(int(key)) != key:
        raise FileError(f"the key {shown(key)} is not a number of calls", where="plans", suggestion="write it as '8'")
    return int(key)
