"""Guided runs on grids and plans that are given."""

from __future__ import annotations

import math

import pytest
import torch

from guided_mixture import (
    CONDITION,
    FROM,
    KINDS,
    LABELS,
    SHAPE,
    START,
    STEPS,
    Counting,
    mixture,
    never,
    pipeline,
)
from noise_scheduler_sampling_system import (
    BaseSampler,
    ConfigurationError,
    TimeGrid,
)
from noise_scheduler_sampling_system.guidance import (
    ClassifierFree,
    DynamicThreshold,
    evaluations,
)
from noise_scheduler_sampling_system.running.clipping import dynamic_threshold


def test_a_grid_is_run_as_it_is():
    run = pipeline("epsilon")
    model = mixture(run)
    whole = run.sample(model, **FROM)
    grid = run.grid(STEPS)
    start = {k: v for k, v in FROM.items() if k != "num_inference_steps"}
    assert torch.equal(run.sample(model, **start, grid=grid), whole)
    assert torch.equal(list(run.stream(model, **start, grid=grid))[-1].x, whole)
    assert run.plan(grid=grid) == run.plan(STEPS)
    assert run.plan(grid=grid) is run.plan(grid=grid)
    first, second = grid.split(2)
    middle = run.sample(model, **start, grid=first)
    joined = run.sample(model, initial_sample=middle, dtype=torch.float64, grid=second)
    assert torch.equal(joined, whole)
    sigmas = [14.0, 3.0, 0.5, 0.1]
    given = TimeGrid.from_sigmas(run.scheduler, sigmas)
    plan = run.plan(grid=given)
    assert [s / a for a, s in zip(plan.alpha, plan.sigma, strict=True)] == pytest.approx([*sigmas, 0.0])
    torch.testing.assert_close(run.sample(model, **start, grid=given), run.sample(model, **start, plan=plan))


def test_a_grid_may_start_in_the_middle():
    run = pipeline("epsilon")
    grid = run.grid(7, start=400.0)
    assert (grid.steps, grid.levels[0].t) == (7, 400.0)
    model = Counting(mixture(run))
    run.sample(model, initial_sample=START, grid=grid)
    assert len(model.counts) == 7


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"timesteps": [900, 500]}, "grid"),
        ({"plan": pipeline().plan(3)}, "grid"),
        ({"grid": [900, 500]}, "grid"),
        ({"grid": pipeline(schedule="cosine").grid(3)}, "grid"),
        ({"grid": pipeline().grid(3, start=100.0)}, "timestep_spacing"),  # from pure noise
    ],
)
def test_grids_that_cannot_be_are_refused(options, where):
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(never, SHAPE, **{"grid": pipeline().grid(3), **options})
    assert raised.value.where == where


def test_clipping_and_thresholding_still_act_behind_guidance():
    run = pipeline("epsilon", clip_sample=True, clip_sample_range=0.3)
    model = mixture(run)
    got = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=[ClassifierFree(4.0), DynamicThreshold(0.8)])
    assert got.abs().max() <= 0.3

    def expected(x, t):
        value = model.denoise(x, t) + 4.0 * (model.denoise(x, t, class_labels=LABELS) - model.denoise(x, t))
        return dynamic_threshold(value, ratio=0.8)

    clipped = pipeline("sample", clip_sample=True, clip_sample_range=0.3)
    torch.testing.assert_close(got, clipped.sample(expected, SHAPE, **KINDS))


class TwoNoises(BaseSampler):
    """Two noises a step: the second gets a row of its own, which asks no model."""

    stochastic = True

    def write(self, build, grid):
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            rest, half = after.sigma * math.sqrt(0.5), after.sigma * 0.5
            noises = half * build.noise(i) + half * build.noise(i) if after.sigma else 0.0 * build.x
            build.advance(after.alpha * p.sample + rest * p.epsilon + noises)


def test_rows_that_ask_no_model_have_no_evaluations_and_go_through_a_given_plan():
    run = pipeline("epsilon", method=TwoNoises)
    plan, model = run.plan(STEPS), Counting(mixture(run))
    assert plan.nfe == STEPS < len(plan)
    result = run.sample(model, SHAPE, seed=3, dtype=torch.float64, plan=plan, **CONDITION, return_result=True)
    assert torch.equal(result.samples, run.sample(model, SHAPE, **KINDS, **CONDITION))
    assert result.evaluations == sum(evaluations(ClassifierFree(2.0), plan)) == 2 * STEPS
    assert 0 in evaluations(ClassifierFree(2.0), plan)
