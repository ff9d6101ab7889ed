"""CFG++ against its published loop."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from guided_mixture import (
    BATCH,
    CONDITION,
    FROM,
    LABELS,
    SIZE,
    START,
    STEPS,
    Counting,
    mixture,
    pipeline,
)
from noise_scheduler_sampling_system import (
    BaseSampler,
    DiffusionPipeline,
)
from noise_scheduler_sampling_system.config.prediction import PREDICTION_TYPES
from noise_scheduler_sampling_system.guidance import (
    ClassifierFree,
)


class PlusPlus(BaseSampler):
    """DDIM whose noise is the unconditional branch's (Chung et al. 2024, arXiv 2406.08070, Alg. 2)."""

    def write(self, build, grid):
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            build.advance(after.alpha * p.sample + after.sigma * p.null_epsilon)


def plus_plus(run: DiffusionPipeline, model: Any, scale: float, limit: float = math.inf) -> Tensor:
    """CFG++ as a loop."""
    levels = run.grid(STEPS).levels
    x = START * math.hypot(levels[0].alpha, levels[0].sigma)
    for now, after in itertools.pairwise(levels):
        t = torch.full((BATCH,), now.t)
        c, u = model.denoise(x, t, class_labels=LABELS), model.denoise(x, t)
        clean = (u + scale * (c - u)).clamp(-limit, limit)
        x = after.alpha * clean + after.sigma * (x - now.alpha * u) / now.sigma
    return x


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("scale", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("clip", [False, True])
def test_cfg_plus_plus_is_its_loop(kind, scale, clip):
    run = pipeline(kind, method=PlusPlus, clip_sample=clip, clip_sample_range=0.5)
    model = Counting(mixture(run))
    seen: list[Tensor] = []
    result = run.sample(
        model, **FROM, **CONDITION, guidance_scale=scale, return_result=True,
        callback=lambda step: seen.append(step.pred_original_sample),
    )  # fmt: skip
    expected = plus_plus(run, model.model, scale, 0.5 if clip else math.inf)
    torch.testing.assert_close(result.samples, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(seen[-1], result.samples, rtol=1e-7, atol=1e-7)
    assert result.evaluations == sum(model.counts)
    assert model.counts[0] == (1 if scale == 0.0 else 2)
    for name, more in {"settled": {"early_stopping": 1e-12}, "parts": {"max_batch_size": 1}}.items():
        got = run.sample(model.model, **FROM, **CONDITION, guidance=ClassifierFree(scale), **more)
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7, msg=name)


def test_cfg_plus_plus_without_a_condition_is_ddim():
    run, plain = pipeline("epsilon", method=PlusPlus), pipeline("epsilon")
    model = Counting(mixture(run))
    torch.testing.assert_close(run.sample(model, **FROM), plain.sample(model.model, **FROM))
    assert model.counts == [1] * STEPS
    both = {**FROM, **CONDITION, "classifier_free_guidance": False}
    torch.testing.assert_close(run.sample(model, **both), plain.sample(model.model, **both))
    assert model.counts == [1] * 2 * STEPS


def test_cfg_plus_plus_with_a_learned_variance_and_reused_memory():
    run = pipeline("epsilon", method=PlusPlus, variance_type="learned_range")
    model, buffer = mixture(run), torch.empty(2 * BATCH, 2 * SIZE, dtype=torch.float64)

    def doubled(x, t, class_labels):
        return buffer.copy_(torch.cat([model(x, t, class_labels=class_labels), torch.sin(x)], dim=1))

    got = run.sample(doubled, **FROM, **CONDITION, null_condition={"class_labels": 3}, guidance_scale=0.6)
    torch.testing.assert_close(got, plus_plus(run, model, 0.6), rtol=1e-7, atol=1e-7)
