"""Guidance: each kind against its formula on exact models, their relations, their cost, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from guided_mixture import (
    CONDITION,
    KINDS,
    LABELS,
    OTHER,
    SHAPE,
    STEPS,
    mixture,
    pipeline,
)
from noise_scheduler_sampling_system import (
    DiffusionPipeline,
)
from noise_scheduler_sampling_system.config.prediction import PREDICTION_TYPES
from noise_scheduler_sampling_system.guidance import (
    AdaptiveProjected,
    AutoGuidance,
    CFGZeroStar,
    ClassifierFree,
    Composed,
    DynamicThreshold,
    Formula,
    Guidance,
    Interval,
    MagnitudeAware,
    Moment,
    PerpNeg,
    Rescale,
    Tangential,
)
from noise_scheduler_sampling_system.models import GaussianMixtureModel


@dataclass
class At:
    """One model call as a formula sees it, everything as clean samples."""

    model: GaussianMixtureModel
    weaker: GaussianMixtureModel
    x: Tensor
    t: Tensor
    moment: Moment
    past: dict[str, Tensor]

    @property
    def c(self) -> Tensor:
        return self.model.denoise(self.x, self.t, class_labels=LABELS)

    @property
    def u(self) -> Tensor:
        return self.model.denoise(self.x, self.t)

    @property
    def other(self) -> Tensor:
        return self.model.denoise(self.x, self.t, **OTHER)

    @property
    def weak(self) -> Tensor:
        return self.weaker.denoise(self.x, self.t, class_labels=LABELS)

    def flow(self, clean: Tensor) -> Tensor:
        """ε − x₀."""
        _, alpha, sigma = self.moment.level
        return (self.x - alpha * clean) / sigma - clean

    def unflow(self, flow: Tensor) -> Tensor:
        _, alpha, sigma = self.moment.level
        return (self.x - sigma * flow) / (alpha + sigma)


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)


def rescaled(at: At) -> Tensor:
    value = at.u + 4.0 * (at.c - at.u)
    return 0.7 * value * at.c.std(1, keepdim=True) / value.std(1, keepdim=True) + 0.3 * value


def flow_rescaled(at: At) -> Tensor:
    value, c = at.flow(at.u + 4.0 * (at.c - at.u)), at.flow(at.c)
    return at.unflow(0.7 * value * c.std(1, keepdim=True) / value.std(1, keepdim=True) + 0.3 * value)


def apg(at: At) -> Tensor:
    delta = at.c - at.u
    if "delta" in at.past:
        delta = delta - 0.5 * at.past["delta"]
    at.past["delta"] = delta
    delta = delta * (0.3 / delta.norm(dim=1, keepdim=True)).clamp(max=1.0)
    parallel = dot(delta, at.c) / dot(at.c, at.c) * at.c
    return at.c + 3.0 * (delta - parallel + 0.2 * parallel)


def zero_star(at: At) -> Tensor:
    if at.moment.step == 0:
        return at.unflow(torch.zeros_like(at.x))
    c, u = at.flow(at.c), at.flow(at.u)
    best = dot(c, u) / dot(u, u) * u
    return at.unflow(best + 3.0 * (c - best))


def threshold(at: At) -> Tensor:
    value = at.u + 4.0 * (at.c - at.u)
    q = torch.quantile(value.abs(), 0.8, dim=1, keepdim=True).clamp(1.0, 1.5)
    return value.clamp(-q, q) / q


def tangential(at: At) -> Tensor:
    """By the singular value decomposition of the two rows."""
    c, u = at.flow(at.c), at.flow(at.u)
    first = torch.linalg.svd(torch.stack([c, u], dim=1), full_matrices=False).Vh[:, 0]
    shared = dot(u, first) * first
    return at.unflow(shared + 3.0 * (c - shared))


def magnitude_aware(at: At) -> Tensor:
    c, u = at.flow(at.c), at.flow(at.u)
    ratio = (c - u).norm(dim=1, keepdim=True) / u.norm(dim=1, keepdim=True)
    return at.unflow(c + 4.0 * torch.exp(-2.0 * ratio) * (c - u))


def perp_neg(at: At) -> Tensor:
    positive, negative = at.c - at.u, at.other - at.u
    length = dot(positive, positive).clamp_min(1e-300)  # c is u where the noise leaves no doubt
    rest = negative - dot(negative, positive) / length * positive
    return at.u + 3.0 * positive - 1.5 * rest


def linear_ramp(at: At) -> Tensor:
    return at.u + (1.0 + 4.0 * at.moment.step / (STEPS - 1)) * (at.c - at.u)


def cosine_ramp(at: At) -> Tensor:
    share = (1.0 - math.cos(math.pi * at.moment.step / (STEPS - 1))) / 2.0
    return at.u + (6.0 - 4.0 * share) * (at.c - at.u)


def inside(at: At) -> Tensor:
    return at.u + (4.0 if 0.2 <= at.moment.sigma <= 5.0 else 1.0) * (at.c - at.u)


#: A sequence of guidance, and the guided clean sample by its formula.
FORMULAS: dict[str, tuple[Any, Any]] = {
    "cfg": (ClassifierFree(4.0), lambda at: at.u + 4.0 * (at.c - at.u)),
    "interpolation": (ClassifierFree(0.3), lambda at: at.u + 0.3 * (at.c - at.u)),
    "linear": (ClassifierFree(("linear", 1.0, 5.0)), linear_ramp),
    "cosine": (ClassifierFree(("cosine", 6.0, 2.0)), cosine_ramp),
    "exponential": (
        ClassifierFree(("exponential", 1.0, 8.0)),
        lambda at: at.u + 8.0 ** (at.moment.step / (STEPS - 1)) * (at.c - at.u),
    ),
    "tangential": (Tangential(3.0), tangential),
    "magnitude": (MagnitudeAware(5.0, damping=2.0), magnitude_aware),
    "perp-neg": ([ClassifierFree(3.0), PerpNeg([(OTHER, 1.5)])], perp_neg),
    "function": (ClassifierFree(lambda m: 1.0 + m.flow_sigma), lambda at: at.c + at.moment.flow_sigma * (at.c - at.u)),
    "interval": ([ClassifierFree(4.0), Interval(0.2, 5.0)], inside),
    "rescale": ([ClassifierFree(4.0), Rescale(0.7)], rescaled),
    "rescale flow": ([ClassifierFree(4.0), Rescale(0.7, of="flow_prediction")], flow_rescaled),
    "apg": (AdaptiveProjected(4.0, eta=0.2, norm_threshold=0.3, momentum=-0.5), apg),
    "zero*": (CFGZeroStar(3.0, zero_steps=1), zero_star),
    "auto": (lambda weaker: AutoGuidance(weaker, 2.5), lambda at: at.weak + 2.5 * (at.c - at.weak)),
    "auto and cfg": (
        lambda weaker: [ClassifierFree(3.0), AutoGuidance(weaker, 2.5)],
        lambda at: at.c + 2.0 * (at.c - at.u) + 1.5 * (at.c - at.weak),
    ),
    "composed": (
        [ClassifierFree(3.0), Composed([(OTHER, -1.5)])],
        lambda at: at.u + 3.0 * (at.c - at.u) - 1.5 * (at.other - at.u),
    ),
    "threshold": ([ClassifierFree(4.0), DynamicThreshold(0.8, largest=1.5)], threshold),
}


def by_hand(run: DiffusionPipeline, formula: Any, plan: Any) -> Tensor:
    """The samples that a formula for the guided clean sample leads to."""
    run = pipeline("sample", run.config.beta_schedule, run.method)
    model, weaker, past, calls = mixture(run), mixture(run, width=0.5), {}, iter(range(len(plan)))

    def guided(x: Tensor, t: Tensor) -> Tensor:
        i = next(calls)
        level = run.scheduler.level(float(plan.time[i]))
        return formula(At(model, weaker, x, t, Moment(level, int(plan.step[i]), plan.steps), past))

    return run.sample(guided, SHAPE, **KINDS)


@pytest.mark.parametrize("schedule", ["linear", "flow"])
@pytest.mark.parametrize("name", FORMULAS)
def test_every_prediction_type_gives_what_the_formula_gives(name, schedule):
    guidance, formula = FORMULAS[name]
    for kind in PREDICTION_TYPES:
        if (schedule, kind) == ("flow", "epsilon"):
            continue  # the flow begins without signal, where ε determines nothing
        run = pipeline(kind, schedule)
        made = guidance(mixture(run, width=0.5)) if callable(guidance) else guidance
        result = run.sample(mixture(run), SHAPE, **KINDS, **CONDITION, guidance=made)
        expected = by_hand(run, formula, run.plan(STEPS))
        torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6, msg=lambda m, kind=kind: f"{kind}: {m}")


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_rescaling_the_output_is_what_other_libraries_do(kind):
    run, outputs = pipeline(kind), []
    model = mixture(run)

    def reference(x, t):
        c, u = model(x, t, class_labels=LABELS), model(x, t)
        value = u + 4.0 * (c - u)
        outputs.append(value)
        return 0.6 * value * c.std(1, keepdim=True) / value.std(1, keepdim=True) + 0.4 * value

    got = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=[ClassifierFree(4.0), Rescale(0.6, of="output")])
    torch.testing.assert_close(got, run.sample(reference, SHAPE, **KINDS), rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------- relations


@pytest.mark.parametrize("method", ["ddim", "heun", "pndm", "ddpm"])
@pytest.mark.parametrize(
    "same",
    [
        [ClassifierFree(4.0)],
        ClassifierFree(lambda moment: 4.0),
        ClassifierFree(("cosine", 4.0, 4.0)),
        [ClassifierFree(4.0), Rescale(0.0)],
        [ClassifierFree(4.0), Interval(0.0, math.inf)],
        [ClassifierFree(4.0), Interval(0, 100, unit="step")],
        [ClassifierFree(4.0), Interval(0, 1, unit="fraction")],
        AdaptiveProjected(4.0, eta=1.0, momentum=0.0),
        MagnitudeAware(4.0, damping=0.0),
        [ClassifierFree(4.0), PerpNeg([(OTHER, 0.0)])],
        [ClassifierFree(2.0), Composed([({"class_labels": LABELS}, 2.0)])],
        [ClassifierFree(4.0), DynamicThreshold(1.0, smallest=1.0, largest=math.inf), Interval(-2, -1, "step")],
    ],
    ids=lambda g: repr(g)[:60],
)
def test_special_cases_are_classifier_free_guidance(method, same):
    run = pipeline("epsilon", method=method)
    model = mixture(run)
    plain = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance_scale=4.0)
    if isinstance(same, list) and isinstance(same[-1], Interval) and same[-1].high < 0:  # nothing acts
        plain = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance_scale=1.0)
    torch.testing.assert_close(
        run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=same), plain, rtol=1e-9, atol=1e-9
    )


def test_guidance_by_the_same_model_is_none_and_an_empty_sequence_is_none():
    run = pipeline("v_prediction")
    model = mixture(run)
    plain = run.sample(model, SHAPE, **KINDS, **CONDITION, classifier_free_guidance=False)
    for guidance in (AutoGuidance(model, 3.0), AutoGuidance(mixture(run, "epsilon"), 3.0, "eps"), [], ()):
        got = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=guidance)
        torch.testing.assert_close(got, plain, rtol=1e-7, atol=1e-8)
    unconditional = run.sample(model, SHAPE, **KINDS)
    torch.testing.assert_close(run.sample(model, SHAPE, **KINDS, guidance=AutoGuidance(model, 3.0)), unconditional)


def test_composed_conditions_need_no_main_one():
    run = pipeline("epsilon")
    model = mixture(run)
    main = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=[ClassifierFree(3.0), Composed([(OTHER, 0.7)])])
    alone = Composed([({"class_labels": LABELS}, 3.0), (OTHER, 0.7)])
    torch.testing.assert_close(run.sample(model, SHAPE, **KINDS, guidance=alone), main)
    null = {"class_labels": torch.tensor(3)}
    torch.testing.assert_close(run.sample(model, SHAPE, **KINDS, guidance=alone, null_condition=null), main)


def test_a_sum_of_directions_does_not_depend_on_the_order():
    run = pipeline("epsilon")
    model, weaker = mixture(run), mixture(run, width=0.5)
    parts = [ClassifierFree(3.0), AutoGuidance(weaker, 1.5), Composed([(OTHER, 0.5)])]
    one = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=parts)
    torch.testing.assert_close(run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=parts[::-1]), one)


def test_a_guidance_of_ones_own():
    @dataclass(frozen=True)
    class Damped(Guidance):
        factor: float

        def write(self, formula: Formula) -> None:
            clean = formula.to("sample", formula.value)
            formula.value = formula.of("sample", formula.make(lambda c: self.factor * c, clean))

    run = pipeline("epsilon")
    model = mixture(run)

    def expected(x, t):
        level = run.scheduler.level(float(t[0]))
        return (x - level.alpha * 0.9 * model.denoise(x, t)) / level.sigma

    torch.testing.assert_close(
        run.sample(model, SHAPE, **KINDS, guidance=Damped(0.9)), run.sample(expected, SHAPE, **KINDS)
    )
