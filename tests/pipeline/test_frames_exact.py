"""Runs with a noise level per frame against the truth, for Gaussian data whose frames are correlated.

Each frame's noise has a clock of its own, so the joint law of the frames at any levels is known, and the exact model
gives its score. The probability-flow ODE and ancestral sampling must return the law of the data in the limit of many
steps, in whatever order the frames move, and the conditional law where some frames are known.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import DiffusionPipeline, FlowPath, TimeGrid
from noise_scheduler_sampling_system.grids import FrameGrid
from noise_scheduler_sampling_system.models import GaussianModel
from noise_scheduler_sampling_system.running.loop import RowModel, RowState

FRAMES, WIDTH = 3, 2
SIZE = FRAMES * WIDTH
PATH = FlowPath()  # it reaches both ends: no signal at t = 1000, no noise at t = 0
COVARIANCE = np.kron(
    0.8 ** np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES))), 0.36 * np.array([[1.0, 0.3], [0.3, 0.5]])
)
MEAN = np.linspace(-0.5, 0.5, SIZE)
MODEL = GaussianModel(PATH, torch.tensor(MEAN.reshape(FRAMES, WIDTH)), torch.tensor(COVARIANCE))
START = torch.randn(8, FRAMES, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@functools.cache
def pipeline(method: str) -> DiffusionPipeline:
    return DiffusionPipeline(PATH, method)


GRIDS: dict[str, Any] = {
    "full sequence": lambda grid: FrameGrid.full_sequence(grid, FRAMES),
    "pyramid": lambda grid: FrameGrid.pyramid(grid, FRAMES, grid.steps / 4),
    "autoregressive": lambda grid: FrameGrid.autoregressive(grid, FRAMES),
}


def between(method: str, kind: str, steps: int) -> Tensor:
    """A run of every frame from t = 900 to 100, where the ODE is smooth."""
    grid = TimeGrid.from_times(PATH, np.linspace(900, 100, steps + 1), end=None)
    return pipeline(method).sample(MODEL, initial_sample=START, grid=GRIDS[kind](grid), dtype=torch.float64)


@functools.cache
def solution(kind: str) -> Tensor:
    if kind == "full sequence":
        return MODEL.reference_solution(START, 900, 100)
    return between("dpmpp_3s", kind, 320)  # of order 2 or 3; its error is below 1e-5


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize(("method", "order"), [("ddim", 1), ("heun", 2), ("dpmpp_2m", 2), ("dpm_3s", 3)])
def test_the_order_of_convergence(method: str, order: int, kind: str) -> None:
    """A frame that begins or ends changes the slope of the others, which limits the order to 2 in a pyramid."""
    expected = min(order, 2) if kind == "pyramid" else order
    errors = [(between(method, kind, n) - solution(kind)).abs().max().item() for n in (16, 32)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(expected, abs=0.35)


def law(method: str, grid: FrameGrid, known: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a run's result, exactly: the run is linear in its noises, so unit noises show its map."""
    pipe = pipeline(method)
    plan = pipe.plan(grid=grid)
    keys = sorted(
        {(int(plan.step[row]), stage) for row in range(len(plan)) for stage in range(2)} if plan.stochastic else set()
    )
    count = 1 + SIZE * (1 + len(keys))

    def noise(step: int, stage: int) -> Tensor:
        drawn = torch.zeros(count, SIZE, dtype=torch.float64)
        first = 1 + SIZE * (1 + keys.index((step, stage)))
        drawn[first : first + SIZE] = torch.eye(SIZE, dtype=torch.float64)
        return drawn.reshape(count, FRAMES, WIDTH)

    first = torch.zeros(count, SIZE, dtype=torch.float64)
    first[1 : 1 + SIZE] = torch.eye(SIZE, dtype=torch.float64)
    x = first.reshape(count, FRAMES, WIDTH)
    if known is not None:
        x[:, list(grid.context)] = known
    result = _run(pipe, grid, x, noise).reshape(count, SIZE).numpy()
    mean, maps = result[0], result[1:] - result[0]
    return mean, maps.T @ maps


def _run(pipe: DiffusionPipeline, grid: FrameGrid, x: Tensor, noise: Any) -> Tensor:
    """The rows of a run in the real loop, with given noises."""
    run = pipe._setup.run_on(50, grid=grid)

    def maker(run: Any, _: Any) -> RowModel:
        time = torch.from_numpy(run.plan.time.copy())
        return RowModel(lambda x, row: MODEL(x, time[row].expand(len(x), -1)), ())

    state = RowState(0, run.prior(x), {})
    for reached in run.steps(maker, state, noise, {}):
        state = reached.state
    return state.x


def off(found: tuple[np.ndarray, np.ndarray], mean: np.ndarray, covariance: np.ndarray) -> float:
    return max(np.abs(found[0] - mean).max(), np.abs(found[1] - covariance).max())


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize(("method", "order"), [("ancestral", 1), ("ddim", 1), ("dpmpp_2m", 2)])
def test_the_law_of_the_samples_is_that_of_the_data(method: str, order: int, kind: str) -> None:
    grids = [GRIDS[kind](pipeline(method).grid(n)) for n in (32, 64)]
    errors = [off(law(method, grid), MEAN, COVARIANCE) for grid in grids]
    assert errors[1] < (2.5 / 64 if order == 1 else 10 / 64**2)
    assert errors[1] < 0.65 * errors[0]


@pytest.mark.parametrize("context", [[0], [0, 2], [1]])
@pytest.mark.parametrize("method", ["ancestral", "dpmpp_2m"])
def test_known_frames_give_the_conditional_law(method: str, context: list[int]) -> None:
    known = torch.tensor([[1.0, -0.7]], dtype=torch.float64).expand(len(context), WIDTH)
    given = [WIDTH * frame + i for frame in context for i in range(WIDTH)]
    rest = [i for i in range(SIZE) if i not in given]
    gain = COVARIANCE[np.ix_(rest, given)] @ np.linalg.inv(COVARIANCE[np.ix_(given, given)])
    mean = MEAN[rest] + gain @ (known.reshape(-1).numpy() - MEAN[given])
    covariance = COVARIANCE[np.ix_(rest, rest)] - gain @ COVARIANCE[np.ix_(given, rest)]
    for make in (FrameGrid.full_sequence, FrameGrid.autoregressive):
        grid = make(pipeline(method).grid(64), FRAMES, context=context)
        found = law(method, grid, known)
        assert off((found[0][rest], found[1][np.ix_(rest, rest)]), mean, covariance) < 2.5 / 64
        assert np.array_equal(found[0][given], known.reshape(-1).numpy())
        assert not found[1][given].any()
    if method == "ancestral":
        return
    sampled = pipeline(method).sample(MODEL, (2000, FRAMES, WIDTH), grid=grid, context=known[None], seed=0)
    assert torch.equal(sampled[:, context], known.float().expand(2000, -1, -1))
    flat = sampled.reshape(2000, SIZE)[:, rest].double()
    assert (flat.mean(0) - torch.tensor(mean)).abs().max() < 0.06  # 2,000 samples of deviation 0.6: 4 errors of a mean
    assert (flat.T.cov() - torch.tensor(covariance)).abs().max() < 0.05
