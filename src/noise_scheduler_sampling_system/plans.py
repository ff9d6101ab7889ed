"""Plans for several budgets of model calls, in one file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

from .errors import ConfigurationError, FileError, NoiseSamplingError
from .files import read_bytes, write_atomic
from .plan import SamplingPlan

__all__ = ["PlanSet"]

_FORMAT = "sampling plans 1"


@final
@dataclass(frozen=True, eq=False)
class PlanSet(Mapping[int, SamplingPlan]):
    """Plans by their number of model calls; immutable.

    Give it to ``pipeline.sample(plan=...)``, which takes the one for ``num_inference_steps``.

    Attributes:
        plans: the plans by number of calls, in rising order.

    Raises:
        ConfigurationError: no plan, or one that makes another number of calls than its key says.
    """

    plans: Mapping[int, SamplingPlan]

    def __post_init__(self) -> None:
        given = dict(self.plans)
        wrong = [key for key, plan in given.items() if not isinstance(plan, SamplingPlan) or plan.nfe != key]
        if not given or wrong:
            raise ConfigurationError(
                f"the plan under {wrong[0]!r} is none of so many model calls" if wrong else "holds no plan",
                where="plans",
                suggestion="give {plan.nfe: plan, ...}",
            )
        object.__setattr__(self, "plans", MappingProxyType(dict(sorted(given.items()))))

    def __getitem__(self, nfe: int) -> SamplingPlan:
        return self.plans[nfe]

    def __iter__(self) -> Iterator[int]:
        return iter(self.plans)

    def __len__(self) -> int:
        return len(self.plans)

    def pick(self, num_inference_steps: int) -> SamplingPlan:
        """The plan of so many model calls.

        Raises:
            ConfigurationError: there is none; the message says which there are.
        """
        if num_inference_steps not in self.plans:
            raise ConfigurationError(
                f"there is no plan of {num_inference_steps!r} model calls",
                where="num_inference_steps",
                suggestion=f"give one of {', '.join(map(str, self.plans))}, or calibrate one",
            )
        return self.plans[num_inference_steps]

    def to_dict(self) -> dict[str, Any]:
        """All plans as plain data."""
        return {"format": _FORMAT, "plans": {str(nfe): plan.to_dict() for nfe, plan in self.plans.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PlanSet:
        """Plans from :meth:`to_dict`.

        Raises:
            FileError: something else.
        """
        if not isinstance(data, Mapping) or data.get("format") != _FORMAT or not isinstance(data.get("plans"), Mapping):
            raise FileError("holds no sampling plans", where="plans", suggestion="give a file of PlanSet.save")
        return cls({int(nfe): SamplingPlan.from_dict(plan) for nfe, plan in data["plans"].items()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all plans as ``.json``, whole or not at all.

        Raises:
            FileError: another ending, or a file that cannot be written.
        """
        if Path(path).suffix != ".json":
            raise FileError("is no name for plans", where=str(path), suggestion="use .json")
        write_atomic(path, (json.dumps(self.to_dict()) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PlanSet:
        """Read what :meth:`save` wrote; the file of a single plan is a set of one.

        Raises:
            FileError: missing, malformed, or something else.
        """
        try:
            data = json.loads(read_bytes(path))
            if isinstance(data, dict) and "plans" not in data:
                plan = SamplingPlan.from_dict(data)
                return cls({plan.nfe: plan})
            return cls.from_dict(data)
        except (NoiseSamplingError, ValueError, TypeError, KeyError) as error:
            if isinstance(error, FileError) and error.where == str(path):
                raise
            raise FileError(
                "holds no sampling plans", where=str(path), why=str(error), suggestion="give a file of PlanSet.save"
            ) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlanSet) and self.plans == other.plans

    def __hash__(self) -> int:
        return hash(tuple(self.plans.values()))

    def __reduce__(self) -> tuple[Any, ...]:
        return PlanSet, (dict(self.plans),)

    def __repr__(self) -> str:
        return f"PlanSet({', '.join(map(str, self.plans))} model calls)"
