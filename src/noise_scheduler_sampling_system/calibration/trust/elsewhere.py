"""The errors of calibrated plans at other guidance scales, under another condition and on another shape."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

import torch
from torch import Tensor

from ...analysis.solution import fine_plan
from ...pipeline.request import DEFAULT_SCALE
from ...plans.plan import SamplingPlan
from ...running.noise import NoiseSource
from ...running.noise_keys import Keys
from ...schedules.path import NoisePath
from ...support.argument_checks import checked_number
from ...support.errors import ConfigurationError, NoiseSamplingError
from ..arguments import in_turn, shape_of
from ..provenance import described
from ..search.built_in import named
from ..student import Student
from ..trajectories import Trajectories, errors_of
from .measurement import Measurement, measured_of

__all__ = ["SHARE", "Elsewhere", "Place", "best_built_in", "elsewhere_of", "scales_around"]

logger = logging.getLogger(__name__)

#: The trajectories of each place: as many of the held-out ones, where the time allows.
_MANY: Final = 64
#: With fewer, the figures would tell nothing.
_FEW: Final = 8
#: A reference takes this many model calls, or four times those of the plan, but not more than the teacher's.
_FINE: Final = 64
#: The share of a time budget for places that were not asked for.
SHARE: Final = 0.05


def scales_around(scale: float) -> tuple[float, ...]:
    """Return the guidance scales at which plans for a scale are measured by default.

    They are no guidance, half of it, one and a half times the scale, and twice. There are none for a scale of 1 and
    below, since the model may know no unconditional branch.
    """
    return () if scale <= 1.0 else (1.0, (1.0 + scale) / 2.0, 1.5 * scale, 2.0 * scale)


def elsewhere_of(
    student: Student,
    scales: Any,
    condition: Mapping[str, Any] | None,
    shape: Any,
    keys: Keys,
    fitted: int,
    device: torch.device,
    teacher_calls: int,
) -> Elsewhere:
    """Check the arguments of ``calibrate`` that say where else plans are measured.

    Args:
        student: the model, whose request holds the guidance.
        scales: other guidance scales; None: those around the plan's own.
        condition: another condition, whose rows the trajectories take in turn, or None.
        shape: of one sample of another shape, or None.
        keys: the noise keys of all trajectories.
        fitted: the number of trajectories of the fit, which come before the held-out ones.
        device: of the noise.
        teacher_calls: the model calls of the calibration's references.

    Raises:
        ConfigurationError: an argument is invalid, or the model has no guidance of a scale.
    """
    guided = student.condition is not None and student.request.get("guidance") is None
    if condition is not None and student.condition is None:
        raise ConfigurationError(
            "the plans are calibrated without a condition", where="other_condition", suggestion="give condition, too"
        )
    asked = scales is not None or condition is not None or shape is not None
    if scales is None:
        chosen = scales_around(_scale_of(student)) if guided else ()
    else:
        given = [scales] if isinstance(scales, int | float) and not isinstance(scales, bool) else scales
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ConfigurationError(f"got {given!r}", where="scales", suggestion="give numbers, e.g. (1.0, 3.0)")
        chosen = tuple(checked_number(scale, "scales") for scale in given)
        if chosen and not guided:
            raise ConfigurationError(
                "the plans have no guidance of a scale",
                where="scales",
                suggestion="leave it out, or give condition and guidance_scale",
            )
        own = _scale_of(student)
        chosen = tuple(dict.fromkeys(scale for scale in chosen if not math.isclose(scale, own)))
    noise = None
    if shape is not None:
        noise = NoiseSource(keys[fitted:], shape_of(shape, "other_shape"), device=device).initial()
    rows = in_turn(condition, fitted, len(keys), "other_condition")
    return Elsewhere(student, teacher_calls, chosen, rows, described(condition), noise, asked)


@final
@dataclass(frozen=True)
class Place:
    """A change of what a plan was calibrated for.

    Attributes:
        kind: "guidance", "condition" or "shape", the key in the provenance.
        facts: what is changed to, as plain data.
        student: the model with the change.
        noise: unit noise of the trajectories, shape (n, ...).
        rows: the row of the conditions for each trajectory, shape (n,).
        solution: the reference ends where they are known, else None.
    """

    kind: str
    facts: Mapping[str, Any]
    student: Student
    noise: Tensor
    rows: Tensor
    solution: Tensor | None = None

    def is_new_to(self, plan: SamplingPlan) -> bool:
        """Tell whether a plan's provenance has no measurement at this place."""
        entries = measured_of(plan).get(self.kind, ())
        return not any(entry | self.facts == entry for entry in entries)

    def first(self, count: int) -> Place:
        """Return the place with its first trajectories."""
        solution = None if self.solution is None else self.solution[:count]
        return replace(self, noise=self.noise[:count], rows=self.rows[:count], solution=solution)


@final
@dataclass(frozen=True)
class Elsewhere:
    """The places where the plans of a calibration are measured beside their own.

    Attributes:
        student: the model at the plans' own place.
        teacher_calls: the model calls of a reference at most.
        scales: other guidance scales.
        condition: another condition with one row for each trajectory, or None.
        described: this condition as plain data.
        noise: unit noise of another shape, shape (n, ...), or None.
        asked: whether the user asked for places; otherwise they may only take a share of a time budget.
    """

    student: Student
    teacher_calls: int
    scales: tuple[float, ...] = ()
    condition: Mapping[str, Any] | None = None
    described: Any = None
    noise: Tensor | None = None
    asked: bool = False

    def __bool__(self) -> bool:
        return bool(self.scales) or self.condition is not None or self.noise is not None

    def places(self, held_out: Trajectories) -> Iterator[Place]:
        """Yield the places, of all held-out trajectories. With other scales, the first place is the plan's own."""
        student = self.student
        if self.scales:
            own = _scale_of(student)
            yield Place("guidance", {"guidance_scale": own}, student, held_out.noise, held_out.rows, held_out.solution)
            for scale in self.scales:
                changed = replace(student, request={**student.request, "guidance_scale": scale})
                yield Place("guidance", {"guidance_scale": scale}, changed, held_out.noise, held_out.rows)
        if self.condition is not None:
            changed = replace(student, condition=self.condition)
            yield Place("condition", {"condition": self.described}, changed, held_out.noise, held_out.rows)
        if self.noise is not None:
            yield Place("shape", {"shape": list(self.noise.shape[1:])}, student, self.noise, held_out.rows)

    def stated(
        self, plans: Mapping[int, SamplingPlan], held_out: Trajectories, evaluations: float
    ) -> dict[int, SamplingPlan]:
        """Measure plans at all places, and return them with the measurements in their provenance.

        A place that a provenance has already is not measured again. Plans that have all are left out, and so are all
        plans where the user interrupts the measurement.

        Args:
            plans: by their budget; each with the best built-in sampler's name in its provenance.
            held_out: the trajectories.
            evaluations: the evaluations of single samples, as ``student.calls`` counts them, that may be spent, unless
                places were asked for.
        """
        places = list(self.places(held_out))
        left = {budget: plan for budget, plan in plans.items() if any(place.is_new_to(plan) for place in places)}
        if not left:
            return {}
        try:
            found = self._at_all_places(left, held_out, evaluations)
        except KeyboardInterrupt:
            logger.warning("interrupted: the plans are not measured at other guidance scales, conditions or shapes")
            return {}
        return {budget: _with_entries(plan, found[budget]) for budget, plan in left.items()}

    def _at_all_places(
        self, plans: Mapping[int, SamplingPlan], held_out: Trajectories, evaluations: float
    ) -> dict[int, dict[str, list[dict[str, Any]]]]:
        """Measure plans at all places that are new to them; arguments as for :meth:`stated`.

        Returns:
            For each plan, lists of plain data by the kind of place: the change, the figures of
            :meth:`Measurement.to_dict`, and those of the best built-in sampler there. A place where the model raised
            an error of this library holds the error's text as "failed".
        """
        found: dict[int, dict[str, list[dict[str, Any]]]] = {budget: {} for budget in plans}
        calls_of = [plan.nfe for plan in plans.values()]
        calls = min(self.teacher_calls, max(_FINE, 4 * max(calls_of)))
        places = [place for place in self.places(held_out) if any(map(place.is_new_to, plans.values()))]
        each = sum(calls * (place.solution is None) + 2 * sum(calls_of) for place in places)
        count = min(_MANY, len(held_out))
        if not self.asked:
            count = int(min(count, evaluations / (each * self.student.branches)))
            if count < min(_FEW, len(held_out)):
                logger.info("no time to measure the plans at other guidance scales; give scales=(...) to do it anyway")
                return found
        path = self.student.pipeline.scheduler
        rivals = {budget: best_built_in(path, plan)[1] for budget, plan in plans.items()}
        for place in (place.first(count) for place in places):
            lacking = {budget: plan for budget, plan in plans.items() if place.is_new_to(plan)}
            try:
                reference = fine_plan(path, calls)
                ends = (
                    place.student.run(reference, place.noise, place.rows) if place.solution is None else place.solution
                )
            except NoiseSamplingError as error:
                for budget in lacking:
                    found[budget].setdefault(place.kind, []).append({**place.facts, "failed": str(error)})
                continue
            for budget, plan in lacking.items():
                entry = {**place.facts, **_measured(place, plan, ends), **_rival(place, rivals[budget], ends)}
                found[budget].setdefault(place.kind, []).append(entry)
        return found


def _scale_of(student: Student) -> float:
    return float(student.request.get("guidance_scale", DEFAULT_SCALE))


def _with_entries(plan: SamplingPlan, entries: Mapping[str, Sequence[Mapping[str, Any]]]) -> SamplingPlan:
    """The plan with further measurements in its provenance, after those at places of the same kind."""
    measured = dict(measured_of(plan))
    measured |= {kind: [*measured.get(kind, ()), *added] for kind, added in entries.items()}
    return replace(plan, provenance={**plan.provenance, "measured": measured})


def _measured(place: Place, plan: SamplingPlan, ends: Tensor) -> dict[str, Any]:
    """The figures of a plan at a place. The plan runs without its provenance, which would warn of the other scale."""
    try:
        samples = place.student.run(replace(plan, provenance={}), place.noise, place.rows)
    except NoiseSamplingError as error:
        return {"failed": str(error)}
    return Measurement.of(samples, ends).to_dict()


def _rival(place: Place, plan: SamplingPlan | None, ends: Tensor) -> dict[str, Any]:
    """The errors of the best built-in sampler at a place."""
    if plan is None:
        return {}
    try:
        errors = errors_of(place.student.run(plan, place.noise, place.rows), ends)
    except NoiseSamplingError:
        return {}
    return {"built_in": errors._asdict()}


def best_built_in(path: NoisePath, plan: SamplingPlan) -> tuple[str, SamplingPlan | None]:
    """Return the name of the built-in sampler that a plan's provenance calls the best, and that sampler's plan.

    The plan is None where this version has no such sampler. A plan that holds its guidance stands against half as many
    guided calls as its evaluations.
    """
    entries = plan.provenance.get("built_in")
    first = entries[0] if isinstance(entries, list | tuple) and entries else None
    name = first.get("name") if isinstance(first, Mapping) else None
    if not isinstance(name, str):
        return "", None
    calls = plan.nfe if plan.scale is None else plan.evaluations // 2  # of samplers with both branches everywhere
    return name, named(path, name, calls, plan.scale)
