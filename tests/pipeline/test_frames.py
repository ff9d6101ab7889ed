"""Runs with a noise level per frame: against ordinary runs, and what is left untouched."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig, SamplingPlan
from noise_scheduler_sampling_system.bulk import generate_dataset
from noise_scheduler_sampling_system.grids import FrameGrid
from noise_scheduler_sampling_system.guidance import ClassifierFree, Interval
from noise_scheduler_sampling_system.models import GaussianModel
from noise_scheduler_sampling_system.plans import FramePlan
from noise_scheduler_sampling_system.running import RunState
from noise_scheduler_sampling_system.running.loop import RowModel, RowState
from noise_scheduler_sampling_system.serving import Batcher
from sampler_names import ONE_TIME

FRAMES, SHAPE = 4, (2, 4, 3)
WRITERS = [name for name in ONE_TIME if name != "adaptive"]


@functools.cache
def pipeline(method: str, **fields: Any) -> DiffusionPipeline:
    return DiffusionPipeline(NoiseSchedulerConfig(**fields), method)


def apart(x: Tensor, t: Tensor, **condition: Any) -> Tensor:
    """A network of frames that do not see each other; t has shape (B,) or (B, T)."""
    time = t.to(x.dtype).reshape(*t.shape, *[1] * (x.ndim - t.ndim)) / 1000
    shift = 0.0 if "shift" not in condition else 0.3 * condition["shift"].reshape(-1, *[1] * (x.ndim - 1))
    return torch.tanh(x) * (0.4 + 0.5 * time) + 0.1 * x.roll(1, -1) + shift


def together(x: Tensor, t: Tensor, **condition: Any) -> Tensor:
    """A network whose frames see each other."""
    return apart(x, t, **condition) + 0.1 * torch.tanh(x.mean(dim=1, keepdim=True))


def as_different_frames(plan: FramePlan) -> FramePlan:
    """The same plan, run with a factor for each frame though all frames move together."""
    other = dataclasses.replace(plan)  # the pipeline keeps the plan
    other.__dict__["lockstep"] = False
    return other


@pytest.mark.parametrize("method", WRITERS)
def test_where_all_levels_agree_the_run_is_the_ordinary_one(method: str) -> None:
    pipe = pipeline(method)
    grid = FrameGrid.full_sequence(pipe.grid(5), FRAMES)
    arguments = {"condition": {"shift": torch.tensor([0.5, -1.0])}, "null_condition": {"shift": torch.zeros(2)}}
    for extra in ({}, arguments):
        ordinary = pipe.sample(together, SHAPE, 5, seed=3, **extra)
        assert torch.equal(pipe.sample(together, SHAPE, grid=grid, seed=3, **extra), ordinary)
        plan = as_different_frames(pipe.plan(grid=FrameGrid.full_sequence(pipe.grid(5), FRAMES)))
        wide = pipe.sample(together, SHAPE, 5, seed=3, dtype=torch.float64, **extra)
        each = pipe.sample(together, SHAPE, plan=plan, seed=3, dtype=torch.float64, **extra)
        scale = max(1.0, wide.abs().max().item())
        assert (each - wide).abs().max().item() < 1e-9 * scale  # sums in another order; RK tables have large factors


@pytest.mark.parametrize("method", WRITERS)
def test_a_frame_that_sees_no_other_ends_as_in_its_own_run(method: str) -> None:
    """Histories, stages and noises are those of the frame, whatever the others do at the same time."""
    pipe = pipeline(method)
    x = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noises = torch.randn(3, 16, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def finished(grid: Any) -> Tensor:
        run = pipe._setup.run_on(50, grid=grid)

        def maker(run: Any, _: Any) -> RowModel:
            time = torch.from_numpy(run.plan.time.copy())
            return RowModel(lambda x, row: apart(x, time[row].expand(len(x), *time.shape[1:])), ())

        state = RowState(0, x.clone(), {})
        for reached in run.steps(maker, state, lambda step, stage: noises[0, stage], {}):
            state = reached.state
        return state.x

    if pipe.plan(6).null is not None:
        pytest.skip("CFG++ needs two branches; the test above covers it")
    alone = finished(pipe.grid(6))
    for grid in (
        FrameGrid.pyramid(pipe.grid(6), FRAMES, 1.5),
        FrameGrid.autoregressive(pipe.grid(6), FRAMES, chunk=2),
    ):
        assert (finished(grid) - alone).abs().max().item() < 1e-9 * max(1.0, alone.abs().max().item())


def test_every_frame_has_its_own_order_of_levels() -> None:
    """Frames of different grids, one of which rests in the middle: a multistep history counts its own rows."""
    pipe = pipeline("dpmpp_3m")
    fine, coarse = pipe.grid(6), pipe.grid(3)
    columns = [
        [*fine.levels],
        [coarse.levels[0], coarse.levels[0], *coarse.levels, coarse.levels[-1]],
        [coarse.levels[i] for i in (0, 1, 1, 1, 2, 3, 3)],
        [*fine.levels],
    ]
    grid = FrameGrid(tuple(zip(*columns, strict=True)))
    plan = pipe.plan(grid=grid)
    assert [len(pipe.plan(grid=grid).plan_of_frame(f)) for f in range(4)] == [6, 3, 3, 6]
    assert len(plan.plans) == 2
    result = pipe.sample(apart, SHAPE, grid=grid, seed=0, dtype=torch.float64)
    for frame, steps in enumerate((6, 3, 3, 6)):
        alone = pipe.sample(apart, SHAPE, steps, seed=0, dtype=torch.float64)
        assert torch.allclose(result[:, frame], alone[:, frame], atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", ["ddpm", "dpmpp_2m", "heun", "dpmpp_2s_ancestral", "edm"])
def test_frames_that_do_not_move_stay_bit_for_bit(method: str) -> None:
    pipe = pipeline(method, clip_sample=True)
    grid = FrameGrid.pyramid(pipe.grid(4), FRAMES, 2, context=[2], context_time=20.5)
    context = torch.randn(2, 1, 3)
    told: list[Tensor] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        told.append(t)
        assert t.shape == (2, FRAMES)
        assert torch.equal(x[:, 2:3], context)
        assert bool((t[:, 2] == 20.5).all())
        broken = together(x, t)
        clean = (t == 20.5)[..., None]  # a network may return anything for clean frames
        return torch.where(clean, torch.nan, broken)

    before = pipe.sample(apart, SHAPE, grid=grid, seed=0, context=context, callback=lambda step: True)
    start = next(iter(pipe.stream(together, SHAPE, grid=grid, seed=0, context=context))).x
    plan = pipe.plan(grid=grid)
    states = list(pipe.stream(network, SHAPE, grid=grid, seed=0, context=context))
    assert torch.equal(before[:, 3], start[:, 3])
    for earlier, later in itertools.pairwise(states):
        rows = slice(earlier.state.state.row, later.state.state.row)
        for frame in range(FRAMES):
            still = bool((plan.row_of[rows, frame] < 0).all())
            assert torch.equal(earlier.x[:, frame], later.x[:, frame]) == still
    assert [step.finished_frames for step in states][-1] == (0, 1, 3)
    assert [step.finished_frames for step in states][3] == (0,)
    sampled = pipe.sample(network, SHAPE, grid=grid, seed=0, context=context)
    assert torch.equal(sampled, states[-1].x)
    assert torch.equal(sampled[:, 2:3], context)
    assert len(told) == 2 * plan.nfe


def test_minus_zero_and_the_dtype_of_the_state() -> None:
    pipe = pipeline("dpmpp_2m")
    grid = FrameGrid.autoregressive(pipe.grid(4), FRAMES, context=1)
    context = torch.full((1, 1, 3), -0.0)
    assert pipe.sample(apart, SHAPE, grid=grid, seed=0, context=context)[:, 0].signbit().all()
    exact = pipe.sample(apart, SHAPE, grid=grid, seed=0, context=context, dtype=torch.float64)
    single = pipe.sample(apart, SHAPE, grid=grid, seed=0, context=context)
    half = pipe.sample(apart, SHAPE, grid=grid, seed=0, context=context, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    size = exact.abs().max()
    assert (single - exact).abs().max() < 1e-6 * size
    assert (half - exact).abs().max() < 0.03 * size  # bfloat16 has 8 bits, and a state is rounded in each of 4 steps


def test_video_has_its_frames_in_dimension_two() -> None:
    pipe = DiffusionPipeline(NoiseSchedulerConfig(variance_type="learned_range"), "ddpm")
    grid = FrameGrid.pyramid(pipe.grid(4), 3, frame_dim=2, context=1)
    shape, context = (2, 2, 3, 4, 4), torch.randn(1, 2, 1, 4, 4)

    def network(x: Tensor, t: Tensor) -> Tensor:
        noise = torch.tanh(x) * (0.4 + t[:, None, :, None, None] / 2000)
        return torch.cat([noise, 0.3 * noise], dim=1)

    result = pipe.sample(network, shape, grid=grid, context=context, seed=0)
    assert torch.equal(result[:, :, :1], context.expand(2, -1, -1, -1, -1))
    ordinary = pipe.sample(lambda x, t: network(x, t[:, None].expand(-1, 3)), shape, 4, seed=0, dtype=torch.float64)
    plan = as_different_frames(pipe.plan(grid=FrameGrid.full_sequence(pipe.grid(4), 3, frame_dim=2)))
    assert torch.allclose(pipe.sample(network, shape, plan=plan, seed=0, dtype=torch.float64), ordinary, atol=1e-10)
    with pytest.raises(ConfigurationError, match="learned variance"):
        pipe.sample(network, (2, 3, 2, 4), grid=FrameGrid.pyramid(pipe.grid(4), 3))


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Any) -> None:
    for method in ("dpmpp_3m", "dpmpp_2m_sde", "heun"):
        pipe = pipeline(method)
        grid = FrameGrid.pyramid(pipe.grid(5), FRAMES, 1.5, context=1)
        context = torch.randn(2, 1, 3)
        steps = list(pipe.stream(together, SHAPE, grid=grid, seed=5, context=context))
        for stop in (0, 3, len(steps) - 1):
            steps[stop].state.save(tmp_path / "run.safetensors")
            state = RunState.load(tmp_path / "run.safetensors")
            assert state.plan == pipe.plan(grid=grid)
            *_, last = pipe.stream(together, resume=state)
            assert torch.equal(last.x, steps[-1].x)
        with pytest.raises(ConfigurationError, match="part of the state"):
            next(iter(pipe.stream(together, resume=state, context=context)))


def test_batches_results_and_gradients() -> None:
    pipe = pipeline("dpmpp_2m_sde")
    grid = FrameGrid.pyramid(pipe.grid(4), FRAMES, context=[3])
    context = torch.randn(5, 1, 3, requires_grad=True)
    arguments = {"grid": grid, "context": context, "seed": 1}
    whole = pipe.sample(together, (5, 4, 3), return_result=True, progress=False, profile=True, **arguments)
    assert (whole.nfe, whole.steps) == (grid.steps, grid.steps)
    assert whole.plan == pipe.plan(grid=grid)
    parts = pipe.sample(together, (5, 4, 3), max_batch_size=2, **arguments)
    assert torch.allclose(parts, whole.samples, atol=1e-6)
    result = pipe.sample(together, (5, 4, 3), differentiable=True, **arguments)
    result[:, 0].sum().backward()
    assert context.grad is not None
    assert context.grad.abs().min() > 0


def test_guidance_acts_on_every_frame() -> None:
    pipe = pipeline("dpmpp_2m")
    grid = FrameGrid.pyramid(pipe.grid(4), FRAMES)
    request = {"condition": {"shift": torch.tensor([0.5, -1.0])}, "null_condition": {"shift": torch.zeros(2)}}
    guided = pipe.sample(apart, SHAPE, grid=grid, seed=0, guidance=ClassifierFree(3.0), dtype=torch.float64, **request)
    alone = pipe.sample(apart, SHAPE, 4, seed=0, guidance=ClassifierFree(3.0), dtype=torch.float64, **request)
    assert torch.allclose(guided, alone, atol=1e-10)
    plus = pipeline("dpmpp_2m_cfg_pp")
    guided = plus.sample(
        apart, SHAPE, grid=FrameGrid.pyramid(plus.grid(4), FRAMES), seed=0, dtype=torch.float64, **request
    )
    assert torch.allclose(guided, plus.sample(apart, SHAPE, 4, seed=0, dtype=torch.float64, **request), atol=1e-10)
    with pytest.raises(ConfigurationError, match="Interval depends on the noise level"):
        pipe.sample(apart, SHAPE, grid=grid, guidance=[ClassifierFree(3.0), Interval(0.1, 2.0)], **request)


def test_predicted_clean_frames() -> None:
    """The clean sample of a step: predicted for frames that moved, itself for clean ones, α·x/(α² + σ²) for noise."""
    pipe = pipeline("ddim")
    grid = FrameGrid.autoregressive(pipe.grid(3), FRAMES, context=1)
    context = torch.randn(2, 1, 3)
    step = next(iter(pipe.stream(apart, SHAPE, grid=grid, seed=0, context=context)))
    first = next(iter(pipe.stream(apart, SHAPE, 3, seed=0)))
    clean = step.pred_original_sample
    assert torch.equal(clean[:, :1], context)
    assert torch.allclose(clean[:, 1], first.pred_original_sample[:, 1], atol=1e-6)
    level = pipe.grid(3).levels[0]
    assert torch.allclose(clean[:, 2:], step.x[:, 2:] * level.alpha / (level.alpha**2 + level.sigma**2))


def test_a_given_plan_of_frames_runs(tmp_path: Any) -> None:
    pipe = pipeline("unipc")
    grid = FrameGrid.pyramid(pipe.grid(4), FRAMES, context=1, context_time=20.0)
    plan, context = pipe.plan(grid=grid), torch.randn(2, 1, 3)
    plan.save(tmp_path / "frames.json")
    loaded = FramePlan.load(tmp_path / "frames.json")
    assert loaded == plan
    assert hash(loaded) == hash(plan)
    assert (plan.time[:, 0] == 20.0).all()
    sampled = pipe.sample(together, SHAPE, plan=loaded, context=context, seed=2)
    assert torch.equal(sampled, pipe.sample(together, SHAPE, grid=grid, context=context, seed=2))
    with pytest.raises(ConfigurationError, match="made on another noise schedule"):
        DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="cosine")).sample(
            together, SHAPE, plan=plan, context=context
        )


def test_a_batcher_runs_frames_beside_ordinary_requests() -> None:
    pipe = pipeline("dpmpp_2m_sde")
    grid = FrameGrid.pyramid(pipe.grid(4), FRAMES, context=1, context_time=20.5)
    context = torch.randn(2, 1, 3)

    def network(x: Tensor, t: Tensor) -> Tensor:
        output = torch.tanh(x) * (0.4 + 0.5 * t.to(x.dtype).reshape(*t.shape, *[1] * (x.ndim - t.ndim)) / 1000)
        return torch.where((t == 20.5)[..., None], torch.nan, output) if t.ndim == 2 else output

    requests: list[dict[str, Any]] = [
        {"grid": grid, "context": context, "seed": 0},
        {"num_inference_steps": 3, "seed": 1},
        {"grid": FrameGrid.autoregressive(pipe.grid(2), FRAMES), "seed": 2},
        {"grid": FrameGrid.full_sequence(pipe.grid(3), FRAMES), "seed": 3},
    ]
    with Batcher(pipe, 8, model=network) as batcher:
        handles = [batcher.submit(shape=SHAPE, **each) for each in requests]
        for handle, each in zip(handles, requests, strict=True):
            assert torch.equal(handle.result(60), pipe.sample(network, SHAPE, **each))


def test_a_checkpoint_and_a_set_of_samples_hold_frames(tmp_path: Any) -> None:
    pipe = pipeline("dpmpp_3m")
    grid = FrameGrid.pyramid(pipe.grid(4), FRAMES, context=1)
    calls = 0

    def failing(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("lost")
        return together(x, t)

    request: dict[str, Any] = {"shape": SHAPE, "grid": grid, "seed": 0, "checkpoint": tmp_path / "run.safetensors"}
    one, other = torch.ones(1, 1, 3), torch.zeros(1, 1, 3)
    with pytest.raises(RuntimeError, match="lost"):
        pipe.sample(failing, context=one, every=1, **request)
    with pytest.raises(ConfigurationError, match="checkpoint"):
        pipe.sample(failing, context=other, every=1, **request)
    whole = pipe.sample(together, SHAPE, grid=grid, seed=0, context=one)
    assert torch.equal(pipe.sample(failing, context=one, every=1, **request), whole)
    assert calls == 1 + pipe.plan(grid=grid).nfe  # the call that failed is repeated, the three before it are not
    report = generate_dataset(
        pipe, together, num_samples=3, output=tmp_path / "set", shape=SHAPE[1:], seed=0, grid=grid, context=one
    )
    assert report.num_failed == 0
    with pytest.raises(ConfigurationError, match="another run"):
        generate_dataset(
            pipe, together, num_samples=3, output=tmp_path / "set", shape=SHAPE[1:], seed=0, grid=grid, context=other
        )


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "context is missing": ({"context": None}, "context: is missing"),
    "context of another shape": ({"context": torch.zeros(2, 2, 3)}, "context: has shape"),
    "context with NaN": ({"context": torch.full((2, 1, 3), torch.nan)}, "context: holds NaN"),
    "context that is text": ({"context": "frame"}, "context: got"),
    "another number of frames": ({"shape": (2, 5, 3)}, "shape: is"),
    "brownian noise": ({"noise": "brownian"}, "noise: a Brownian"),
    "early stopping": ({"early_stopping": 1e-3}, "early_stopping: the rule"),
    "beside timesteps": ({"timesteps": [500.0, 1.0]}, "beside timesteps"),
    "context without a place": ({"grid": FrameGrid.pyramid(pipeline("ddim").grid(4), 4)}, "no frame of the grid"),
    "context of an ordinary run": ({"grid": None}, "context: is given, and the run has no known frames"),
    "all frames and context": ({"initial_sample": torch.zeros(2, 4, 3)}, "initial_sample holds all"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_refused_before_the_first_call(name: str) -> None:
    changes, message = REFUSED[name]
    grid = FrameGrid.pyramid(pipeline("ddim").grid(4), 4, context=1)

    def never(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("the model was called")

    arguments = {"shape": SHAPE, "grid": grid, "context": torch.zeros(2, 1, 3), **changes}
    with pytest.raises(ConfigurationError, match=message):
        pipeline("ddim").sample(never, **arguments)


def test_samplers_and_settings_that_need_one_level_are_refused() -> None:
    grid = FrameGrid.pyramid(pipeline("ddim").grid(4), 4)
    with pytest.raises(ConfigurationError, match="writes no plan"):
        pipeline("adaptive").sample(apart, SHAPE, grid=grid)
    with pytest.raises(ConfigurationError, match="thresholding"):
        pipeline("ddim", thresholding=True).sample(apart, SHAPE, grid=grid)
    late = FrameGrid.pyramid(pipeline("ddim").grid(4).split(2)[1], 4)
    with pytest.raises(ConfigurationError, match="grid, frame 0"):
        pipeline("ddim").sample(apart, SHAPE, grid=late)
    started = pipeline("ddim").sample(apart, SHAPE, grid=late, initial_sample=torch.zeros(SHAPE))
    assert started.shape == SHAPE


def test_the_gaussian_model_takes_a_level_per_frame() -> None:
    pipe = pipeline("ddim")
    model = GaussianModel(pipe.scheduler, torch.zeros(4, 3), torch.eye(12))
    assert isinstance(pipe.plan(4), SamplingPlan)
    grid = FrameGrid.pyramid(pipe.grid(4), 4)
    assert np.array_equal(pipe.plan(grid=grid).time[0], [750.0] * 4)
    assert pipe.sample(model, SHAPE, grid=grid, seed=0).shape == SHAPE
