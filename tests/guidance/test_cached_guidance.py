"""Guidance that is a part of the plan: the runs that it equals, what it evaluates, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    NumericsError,
    SamplingMethod,
    SamplingPlan,
)
from noise_scheduler_sampling_system.guidance import CachedGuidance, ClassifierFree, Rescale, evaluations
from noise_scheduler_sampling_system.guidance.cached import default_calls
from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler
from noise_scheduler_sampling_system.models import DigitsModel
from noise_scheduler_sampling_system.plans.branch_mask import with_folded_guidance

SHAPE = (3, 1, 8, 8)
LABELS = {"class_labels": torch.tensor([1, 2, 7])}


def pipeline_of(method: Any = "dpmpp_2m", **settings: Any) -> DiffusionPipeline:
    return DiffusionPipeline(NoiseSchedulerConfig(**settings), method)


class Counting:
    """The digits, and the number of samples that were evaluated."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self._model, self.seen, self.batches = DigitsModel(pipeline.scheduler), 0, []
        self.null_condition = self._model.null_condition

    def __call__(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        self.seen += len(x)
        self.batches.append(len(x))
        return self._model(x, t, class_labels=class_labels)


@pytest.mark.parametrize("method", list(SamplingMethod))
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_with_both_branches_in_every_call_it_is_ordinary_guidance(method, prediction):
    pipeline = pipeline_of(method, prediction_type=prediction)
    scale = 0.7 if "cfg_pp" in method.value else 3.0
    run = {"shape": SHAPE, "num_inference_steps": 5, "condition": LABELS, "seed": 2}
    whole = CachedGuidance(scale, calls=range(99))
    if not pipeline.sampler.writes_plans or method.value == "adaptive":
        with pytest.raises(ConfigurationError, match="writes plans"):
            pipeline.sample(guidance=whole, **run)
        return
    whole = CachedGuidance(scale, calls=range(pipeline.plan(5).nfe))
    expected = pipeline.sample(guidance_scale=scale, **run)
    folded = pipeline.sample(guidance=whole, **run)
    width = float(expected.abs().max())
    torch.testing.assert_close(folded / width, expected / width, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("method", ["ddim", "heun", "unipc", "sa_solver"])
def test_evaluations_are_those_of_the_plan(method):
    pipeline = pipeline_of(method)
    model = Counting(pipeline)
    cached = CachedGuidance(3.0, calls=(0, 2))
    result = pipeline.sample(model, SHAPE, 4, guidance=cached, condition=LABELS, seed=0, return_result=True)
    plan = result.plan
    assert model.seen == 3 * plan.evaluations == 3 * result.evaluations == 3 * (plan.nfe + 2)
    assert model.batches[:3] == [6, 3, 6]
    assert sum(evaluations(cached, pipeline.plan(4))) == plan.evaluations
    assert f"({plan.evaluations} evaluations, guidance 3)" in str(plan)
    assert "c+u" in str(plan)


def test_a_kept_difference_is_that_of_epsilon():
    """By hand: two steps of DDIM, of which the second keeps ε_c − ε_u of the first."""
    pipeline = pipeline_of("ddim", timestep_spacing="linspace")
    model, scale = DigitsModel(pipeline.scheduler), 4.0
    x = pipeline.sample(model, SHAPE, 2, guidance=CachedGuidance(scale, calls=(0,)), condition=LABELS, seed=5)
    plan = pipeline.plan(2)
    null = model.null_condition(LABELS)
    state = next(iter(pipeline.stream(model, SHAPE, 2, condition=LABELS, guidance_scale=scale, seed=5))).x
    t = torch.full((3,), float(plan.time[1]))
    first = pipeline.sample(model, SHAPE, 2, condition=LABELS, guidance=(), seed=5)  # the same initial noise
    start = next(iter(pipeline.stream(lambda x, t, **k: x * 0.0, SHAPE, 2, condition=LABELS, guidance=(), seed=5))).x
    noise = start / (plan.alpha[1] / plan.alpha[0])
    t0 = torch.full((3,), float(plan.time[0]))
    difference = model(noise, t0, **LABELS) - model(noise, t0, **null)
    guided = model(state, t, **LABELS) + (scale - 1.0) * difference
    clean = (state - plan.sigma[1] * guided) / plan.alpha[1]
    expected = plan.alpha[2] * clean + plan.sigma[2] * guided
    torch.testing.assert_close(x, expected, atol=2e-5, rtol=1e-5)
    assert not torch.allclose(x, first, atol=1e-2)


def test_levels_are_worth_more_than_unconditional_evaluations():
    """Against a fine guided run at 16 evaluations: 8 calls of both branches, and 11 calls of which 5 evaluate both."""
    pipeline = pipeline_of("unipc")
    run = {"condition": {"class_labels": torch.arange(60) % 10}, "seed": 0}
    shape = (60, 1, 8, 8)
    exact = pipeline.sample(None, shape, 200, guidance_scale=2.0, **run)

    def error(x: Tensor) -> float:
        return float((x - exact).flatten(1).square().mean(1).sqrt().median())

    whole = pipeline.sample(None, shape, 8, guidance_scale=2.0, return_result=True, **run)
    kept = pipeline.sample(None, shape, 11, guidance=CachedGuidance(2.0, evaluations=16), return_result=True, **run)
    assert whole.evaluations == kept.evaluations == 16
    assert error(kept.samples) < 0.7 * error(whole.samples)


def test_files_streams_and_splits(tmp_path: Path):
    pipeline, cached = pipeline_of("dpmpp_2m"), CachedGuidance(2.5, calls=(0, 1, 3))
    plan = cached.folded_into(pipeline.plan(6))
    for name in ("plan.json", "plan.safetensors"):
        plan.save(tmp_path / name)
        loaded = SamplingPlan.load(tmp_path / name)
        assert loaded == plan
        assert loaded.content_hash == plan.content_hash
    run = {"condition": LABELS, "seed": 4}
    expected = pipeline.sample(None, SHAPE, 6, guidance=cached, **run)
    assert torch.equal(pipeline.sample(None, SHAPE, plan=plan, **run), expected)
    split = pipeline.sample(None, SHAPE, 6, guidance=cached, max_batch_size=1, **run)
    torch.testing.assert_close(split, expected, atol=1e-5, rtol=1e-5)
    for step in pipeline.stream(None, SHAPE, 6, guidance=cached, **run):
        if step.index == 3:  # δ of call 3 is in the state
            step.state.save(tmp_path / "half.safetensors")
    assert torch.equal(step.x, expected)
    *_, last = pipeline.stream(condition=LABELS, guidance=cached, resume=tmp_path / "half.safetensors")
    assert torch.equal(last.x, expected)
    fast = pipeline.compile(None, SHAPE, 6, guidance=cached, condition=LABELS, backend="eager")
    torch.testing.assert_close(fast(4), expected, atol=1e-5, rtol=1e-5)


def test_other_plans_have_the_hash_and_the_file_of_before():
    plan = pipeline_of().plan(4)
    assert not {"delta", "both", "scale"} & plan.to_dict().keys()
    assert plan.evaluations == plan.nfe == 4


def test_the_default_calls_are_dense_at_the_start():
    assert default_calls(8, 8) == tuple(range(8))
    for count in range(1, 40):
        for extra in range(1, count + 1):
            calls = default_calls(count, extra)
            assert len(set(calls)) == extra
            assert calls[0] == 0
            assert calls[-1] < count
            gaps = np.diff(calls)
            assert gaps.size == 0 or gaps[0] <= gaps[-1]


def test_plans_with_a_second_branch_are_refused_where_a_pipeline_guides():
    """At once, and not at the first call of the pipeline."""
    plans = [CachedGuidance(3.0).folded_into(pipeline_of().plan(4)), pipeline_of("ddim_cfg_pp").plan(4)]
    for plan in plans:
        for given in (plan, {4: plan}, {"4": plan.to_dict()}):
            with pytest.raises(ConfigurationError, match="unconditional"):
                PlanScheduler.from_plan(given, DDIMScheduler().config)


def test_what_cannot_be_is_refused():
    pipeline = pipeline_of()
    cached = CachedGuidance(3.0)
    folded = cached.folded_into(pipeline.plan(4))
    run: dict[str, Any] = {"shape": SHAPE, "num_inference_steps": 4, "condition": LABELS, "seed": 0}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"guidance": [cached, Rescale(0.5)]}, "stands alone"),
        ({"guidance": CachedGuidance(3.0, calls=(0, 4))}, "calls 0 to 3"),
        ({"guidance": CachedGuidance(3.0, evaluations=3)}, "5 to 8"),
        ({"guidance": CachedGuidance(3.0, evaluations=4)}, "5 to 8"),
        ({"guidance": cached, "condition": None}, "no condition"),
        ({"plan": folded, "guidance_scale": 5.0}, "scale 3"),
        ({"plan": folded, "guidance": ClassifierFree(3.0)}, "scale 3"),
        ({"plan": folded, "classifier_free_guidance": False}, "scale 3"),
        ({"plan": folded, "guidance": CachedGuidance(7.5)}, "scale 3"),
        ({"plan": folded, "guidance": CachedGuidance(3.0, calls=(0, 3))}, r"the calls \(0, 1\)"),
    ]
    for changes, what in cases:
        with pytest.raises(ConfigurationError, match=what):
            pipeline.sample(**{**run, **changes})
    with pytest.raises(ConfigurationError, match="clip"):
        pipeline_of(clip_sample=True).sample(guidance=cached, **run)
    with pytest.raises(ConfigurationError, match="one of them"):
        CachedGuidance(3.0, calls=(0,), evaluations=6)
    for empty in ((), range(0)):
        with pytest.raises(ConfigurationError, match="no guidance"):
            CachedGuidance(3.0, calls=empty)
    with pytest.raises(ConfigurationError, match="one for each call"):
        with_folded_guidance(pipeline.plan(4), 3.0, [True])
    data = folded.to_dict()
    data.pop("content_hash")
    with pytest.raises(NumericsError, match="evaluates one branch"):
        SamplingPlan.from_dict({**data, "both": [0, 0, 1, 0]})
    with pytest.raises(NumericsError, match="all three"):
        SamplingPlan.from_dict({**data, "scale": None})


@pytest.mark.parametrize("method", ["dpmpp_2m", "ddim_cfg_pp", "heun"])
def test_the_same_guidance_may_be_given_again_beside_a_plan_and_in_a_resumed_run(method):
    pipeline, cached = pipeline_of(method), CachedGuidance(0.8, calls=(0, 2))
    plan, run = cached.folded_into(pipeline.plan(4)), {"condition": LABELS, "guidance": cached}
    expected = pipeline.sample(None, SHAPE, plan=plan, condition=LABELS, seed=0)
    assert torch.equal(pipeline.sample(None, SHAPE, plan=plan, seed=0, **run), expected)
    first = next(iter(pipeline.stream(None, SHAPE, 4, seed=0, **run))).state
    assert torch.equal([*pipeline.stream(resume=first, **run)][-1].x, expected)
    for other in (CachedGuidance(7.5, calls=(0, 2)), CachedGuidance(0.8, calls=(0, 3))):
        with pytest.raises(ConfigurationError, match=r"scale 0.8, with both branches in the calls \(0, 2\)"):
            next(iter(pipeline.stream(resume=first, condition=LABELS, guidance=other)))
    plain = next(iter(pipeline.stream(None, SHAPE, 4, seed=0, condition=LABELS, guidance=()))).state
    with pytest.raises(ConfigurationError, match="the run to resume holds no guidance"):
        next(iter(pipeline.stream(resume=plain, **run)))


def test_a_call_without_signal_guides_itself_alone():
    """On a flow path the first difference of ε is 0: to keep it is to leave the next call without guidance."""
    plan = pipeline_of("euler", beta_schedule="flow").plan(4)
    assert plan.alpha[0] == 0.0
    folded = with_folded_guidance(plan, 3.0, [True, False, True, False])
    assert folded.delta is not None
    assert folded.delta[0, 0] != 0.0
    assert folded.delta[1].tolist() == [0.0] * folded.delta.shape[1]
    assert folded.delta[3, 1] != 0.0
