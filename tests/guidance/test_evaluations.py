"""The number of evaluations that a guidance takes, and the operations beside them."""

from __future__ import annotations

import pytest
import torch

from guided_mixture import (
    CONDITION,
    KINDS,
    OTHER,
    SHAPE,
    STEPS,
    Counting,
    energy,
    mixture,
    pipeline,
)
from noise_scheduler_sampling_system.guidance import (
    AdaptiveProjected,
    AutoGuidance,
    CachedGuidance,
    CFGZeroStar,
    ClassifierFree,
    Composed,
    DynamicThreshold,
    Energy,
    FrequencyDecoupled,
    Interval,
    MagnitudeAware,
    PerpNeg,
    Rescale,
    Tangential,
    evaluations,
)
from operations import HOST_READS, Count


@pytest.mark.parametrize(
    ("guidance", "counts"),
    [
        ([], [1, 1, 1, 1, 1]),
        (ClassifierFree(3.0), [2, 2, 2, 2, 2]),
        (ClassifierFree(1.0), [1, 1, 1, 1, 1]),
        (ClassifierFree(0.0), [1, 1, 1, 1, 1]),
        (ClassifierFree(("linear", 1.0, 3.0)), [1, 2, 2, 2, 2]),
        ([ClassifierFree(3.0), Interval(1, 2, "step")], [1, 2, 2, 1, 1]),
        ([AdaptiveProjected(3.0), Interval(0.5, 1.0, "fraction"), DynamicThreshold()], [1, 1, 2, 2, 2]),
        ([ClassifierFree(3.0), Rescale(0.5), Interval(3, 3, "step")], [1, 1, 1, 2, 1]),
        (CFGZeroStar(3.0, zero_steps=2), [0, 0, 2, 2, 2]),
        ([Tangential(3.0), Interval(2, 3, "step")], [1, 1, 2, 2, 1]),
        (Tangential(1.0), [1, 1, 1, 1, 1]),
        (MagnitudeAware(3.0), [2, 2, 2, 2, 2]),
        (MagnitudeAware(1.0), [1, 1, 1, 1, 1]),
        ([ClassifierFree(3.0), PerpNeg([(OTHER, 1.0)])], [3, 3, 3, 3, 3]),
        ([ClassifierFree(3.0), PerpNeg([(OTHER, 0.0)])], [2, 2, 2, 2, 2]),
        ([ClassifierFree(3.0), Composed([(OTHER, 1.0), (OTHER, -0.5)])], [3, 3, 3, 3, 3]),
        ([ClassifierFree(3.0), Composed([(OTHER, ("linear", 0.0, 1.0))])], [2, 3, 3, 3, 3]),
        (DynamicThreshold(), [1, 1, 1, 1, 1]),
        (Energy(energy), [1, 1, 1, 1, 1]),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_evaluations_are_told_counted_and_made(guidance, counts):
    run = pipeline("epsilon")
    model = Counting(mixture(run))
    result = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=guidance, return_result=True)
    assert model.counts == [n for n in counts if n]
    assert list(evaluations(guidance, run.plan(STEPS))) == counts
    assert result.evaluations == sum(counts)
    assert result.nfe == STEPS


def test_evaluations_of_the_weaker_model_count():
    run = pipeline("epsilon", method="heun")
    model, weaker = Counting(mixture(run)), Counting(mixture(run, width=0.5))
    result = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=AutoGuidance(weaker, 2.0), return_result=True)
    nfe = run.plan(STEPS).nfe
    assert model.counts == weaker.counts == [1] * nfe
    assert (result.nfe, result.evaluations) == (nfe, 2 * nfe)
    assert run.sample(model, SHAPE, **KINDS, return_result=True).evaluations == nfe
    assert run.sample(model, SHAPE, **KINDS, **CONDITION, return_result=True).evaluations == 2 * nfe


def test_a_plan_that_holds_its_guidance_says_its_evaluations():
    run = pipeline("epsilon")
    cached = CachedGuidance(3.0, calls=(0, 2))
    plan, model = cached.folded_into(run.plan(STEPS)), Counting(mixture(run))
    run.sample(model, SHAPE, plan=plan, **CONDITION)
    assert model.counts == [2, 1, 2, 1, 1]
    for guidance, given in ((cached, run.plan(STEPS)), (cached, plan), (ClassifierFree(3.0), plan), ([], plan)):
        assert list(evaluations(guidance, given)) == model.counts
    assert plan.evaluations == sum(plan.evaluations_by_row) == 7


def test_evaluations_end_where_a_run_ends_early():
    run = pipeline("epsilon")
    kinds = {**KINDS, "num_inference_steps": 50}
    model = Counting(mixture(run))
    result = run.sample(model, SHAPE, **kinds, **CONDITION, guidance_scale=1.5, early_stopping=0.05, return_result=True)
    assert result.stopped_early
    assert result.evaluations == sum(model.counts) == 2 * result.nfe < 100


@pytest.mark.parametrize(
    ("guidance", "expected"),
    [
        ([], 0),
        (ClassifierFree(3.0), 1),
        (AutoGuidance(lambda x, t, c: x, 2.0), 1),
        ([ClassifierFree(3.0), Interval(90, 91, "step")], 0),
        ([ClassifierFree(3.0), Composed([({"c": torch.ones(2, 3)}, 0.5)])], 2),
        ([ClassifierFree(3.0), Rescale(0.7, of="output")], 4),
        ([ClassifierFree(3.0), Rescale(0.7)], 7),
        (CFGZeroStar(3.0), 8),
        (Tangential(3.0), 15),
        (MagnitudeAware(3.0), 6),
        (FrequencyDecoupled(1.5, 3.0), 8),
        ([ClassifierFree(3.0), PerpNeg([({"c": torch.ones(2, 3)}, 0.5)])], 9),
        (AdaptiveProjected(3.0, norm_threshold=5.0), 10),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_full_size_operations_a_call(guidance, expected):
    """What guidance costs beyond the model and the step: linear guidance one pass for each term."""
    noise, steps = torch.randn(2, 4, 96, 96), 10
    run = pipeline("v_prediction")
    outputs = {count: torch.randn(count * 2, 4, 96, 96) for count in (1, 2, 3)}
    run.plan(steps)
    with Count() as count:
        run.sample(
            lambda x, t, c: outputs[len(x) // 2], num_inference_steps=steps, initial_noise=noise,
            condition={"c": torch.zeros(2, 3)}, guidance=guidance,
        )  # fmt: skip
    full = [n for n, size in zip(count.names, count.largest, strict=True) if size >= noise.numel() and n != "cat"]
    once = len(full) - (expected + 1) * steps  # beyond the step's own pass
    assert 0 <= once <= 8
    assert sum(name in HOST_READS for name in count.names) <= 3  # whether the start and the result are finite
