"""Steps of the sampler's own choice: tolerance, cost, and everything that a pipeline does around them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from measure import problem

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    FlowPath,
    LinearNoiseScheduler,
    ModelOutputError,
    NumericsError,
    RunState,
    TimeGrid,
    VPPath,
)
from noise_scheduler_sampling_system.guidance import AdaptiveProjected, ClassifierFree, Interval, Moment
from noise_scheduler_sampling_system.models import DigitsModel, GaussianMixtureModel
from noise_scheduler_sampling_system.samplers.adaptive import Controller, Pair
from noise_scheduler_sampling_system.samplers.tableaux import BUTCHER, ButcherTableau

PAIRS = ["bogacki_shampine", "heun2", "dormand_prince", "dpm_solver_12", "dpm_solver_23"]


class Counting:
    """A model that counts its calls."""

    def __init__(self, model: Any) -> None:
        self.model, self.calls = model, 0

    def __call__(self, x, t, **condition):
        self.calls += 1
        return self.model(x, t, **condition)


def solved(p, *, end=None, method="adaptive", **options):
    """The result between the problem's two levels, its distance to the exact solution, and the calls counted."""
    model = Counting(p.model)
    grid = TimeGrid((p.path.level(p.high), p.path.level(p.low if end is None else end)))
    pipeline = DiffusionPipeline(
        p.path.with_config(p.path.config.replace(prediction_type=p.model.prediction_type)), method, **options
    )
    result = pipeline.sample(model, initial_sample=p.x, grid=grid, dtype=torch.float64, return_result=True)
    exact = p.model.reference_solution(p.x, t=p.high, t_end=grid.levels[-1].t)
    assert model.calls == result.nfe == result.evaluations
    return result, float((result.samples - exact).square().mean().sqrt())


@pytest.mark.parametrize("tableau", PAIRS)
@pytest.mark.parametrize("place", [("vp", "mixture"), ("edm", "mixture"), ("flow", "mixture"), ("vp", "digits")])
def test_the_error_follows_the_tolerance(place, tableau):
    p = problem(*place)
    errors = [solved(p, tableau=tableau, rtol=rtol, max_calls=10_000)[1] for rtol in (1e-3, 1e-5)]
    assert errors[0] < 0.02
    assert errors[1] < 2e-4
    assert 15 < errors[0] / errors[1] < 1500  # in proportion: 100


@pytest.mark.parametrize("frame", ["sigma", "flow"])
def test_every_form_of_the_ode(frame):
    for place in (("vp", "mixture"), ("edm", "mixture")):
        errors = [solved(problem(*place), frame=frame, rtol=rtol)[1] for rtol in (1e-3, 1e-6)]
        assert errors[1] < 3e-5
        assert errors[1] < errors[0] / 50


@pytest.mark.parametrize("tableau", ["bogacki_shampine", "dormand_prince"])
def test_from_zero_signal(tableau):
    path = FlowPath()
    model = GaussianMixtureModel(path, torch.tensor([[1.0, 0.5], [-1.0, 0.2]]), 0.3, prediction_type="flow_prediction")
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    exact, errors = model.reference_solution(x, t_end=path.t_min), []
    grid = TimeGrid((path.level(path.t_max), path.level(path.t_min)))  # the step to the clean sample has no tolerance
    for rtol in (1e-2, 1e-4, 1e-6):
        pipeline = DiffusionPipeline(path, "adaptive", tableau=tableau, rtol=rtol)
        found = pipeline.sample(model, initial_noise=x, grid=grid, dtype=torch.float64, return_result=True)
        assert found.grid.levels[0].alpha == 0.0
        errors.append(float((found.samples - exact).square().mean().sqrt()))
    assert errors[1] < errors[0] / 8
    assert errors[2] < errors[1] / 8
    with pytest.raises(ConfigurationError, match="without signal"):
        DiffusionPipeline(path, "adaptive", frame="log_snr").sample(model, initial_noise=x)


def test_fewer_calls_than_even_steps_where_it_is_stiff():
    """Narrow data: all happens in a short part of the way."""
    path = VPPath()
    model = GaussianMixtureModel(path, torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]]), 0.01)
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    grid = TimeGrid((path.level(1.0), path.level(path.t_min)))
    exact = model.reference_solution(x, t_end=path.t_min)
    run = {"initial_sample": x, "dtype": torch.float64}
    adaptive = DiffusionPipeline(path, "adaptive", rtol=1e-5)
    found = adaptive.sample(model, grid=grid, return_result=True, **run)
    error = (found.samples - exact).abs().max()
    even = TimeGrid.from_times(path, np.linspace(1.0, path.t_min, 1 + found.nfe), end=None)  # three times the calls
    fixed = DiffusionPipeline(path, "runge_kutta", tableau="ralston3").sample(model, grid=even, **run)
    assert error < (fixed - exact).abs().max() / 3


def test_rejected_steps_are_counted_and_cost_no_first_call():
    p = problem("vp", "mixture")
    for tableau, fresh in (("bogacki_shampine", 3), ("heun2", 2), ("dormand_prince", 6), ("dpm_solver_23", 3)):
        result, _ = solved(p, tableau=tableau, rtol=1e-4)  # begins with one step for the whole way
        assert result.rejected > 0
        reads_end = Pair.of(tableau).reads_end
        per_step, first = (fresh, 1) if reads_end else (fresh, 0)
        failed = fresh if reads_end else fresh - 1
        assert result.nfe == first + per_step * result.steps + failed * result.rejected


def test_the_plan_and_the_grid_that_were_found():
    p = problem("vp", "digits")
    result, _ = solved(p, rtol=1e-3)
    assert result.grid.steps == result.steps == result.plan.steps
    pipeline = DiffusionPipeline(p.path, "adaptive")
    run = {"initial_sample": p.x, "dtype": torch.float64}
    again = pipeline.sample(p.model, plan=result.plan, **run)
    torch.testing.assert_close(again, result.samples, rtol=1e-9, atol=1e-9)
    assert result.plan.nfe == 3 * result.steps < result.nfe
    other = DiffusionPipeline(p.path, "runge_kutta", tableau="ralston3").sample(p.model, grid=result.grid, **run)
    torch.testing.assert_close(other, result.samples, rtol=1e-9, atol=1e-9)
    with pytest.raises(ConfigurationError, match="not known before the run"):
        pipeline.plan(20)


def test_the_cap():
    model = Counting(problem("vp", "mixture").model)
    pipeline = DiffusionPipeline(VPPath(), "adaptive", rtol=1e-9, max_calls=40)
    with pytest.raises(NumericsError, match="max_calls = 40") as caught:
        pipeline.sample(model, (2, 4), seed=0)
    assert "rtol" in caught.value.suggestion
    assert 30 < model.calls <= 40  # and no second run to look for the cause


def test_a_bad_model_is_named():
    with pytest.raises(ModelOutputError, match="NaN or Inf"):
        DiffusionPipeline(VPPath(), "adaptive").sample(lambda x, t: x * float("nan"), (2, 4))


def test_callback_stream_progress_profile_and_the_number_of_steps():
    pipeline, seen = DiffusionPipeline(LinearNoiseScheduler(timestep_spacing="trailing"), "adaptive", rtol=1e-3), []
    model = Counting(DigitsModel(pipeline.scheduler, bandwidth=0.4))
    result = pipeline.sample(
        model, (3, 1, 8, 8), 20, seed=1, callback=seen.append, progress=True, profile=True, return_result=True
    )
    calls, model.calls = model.calls, 0
    assert calls == result.nfe == seen[-1].nfe
    assert [step.index for step in seen] == list(range(result.steps))
    assert [step.sigma for step in seen] == [level.sigma for level in result.grid.levels[1:]]
    assert [step.t for step in seen] == [level.t for level in result.grid.levels[:-1]]
    torch.testing.assert_close(seen[-1].pred_original_sample, result.samples)
    streamed = list(pipeline.stream(model, (3, 1, 8, 8), 20, seed=1))
    assert torch.equal(streamed[-1].x, result.samples)  # deterministic, too
    assert streamed[-1].nfe == model.calls == calls
    few = pipeline.sample(model, (3, 1, 8, 8), 2, seed=1, return_result=True)
    assert (few.samples - result.samples).abs().max() < 0.1  # N says where to begin, not how exact to be
    assert few.grid.levels[-2] == result.grid.levels[-2] == pipeline.scheduler.level(0.0)


def test_resume_is_refused(tmp_path):
    pipeline = DiffusionPipeline(VPPath(), "adaptive")
    step = next(iter(pipeline.stream(None, (1, 1, 8, 8), seed=0)))
    step.state.save(tmp_path / "run")
    for state in (step.state, RunState.load(tmp_path / "run")):
        with pytest.raises(ConfigurationError, match="cannot be resumed"):
            pipeline.stream(None, resume=state)


def test_guidance_at_levels_between():
    """Guided by a mixture's classes it is the ODE of the guided field, and steps are those of the grid."""
    path = VPPath()
    model, labels = DigitsModel(path, bandwidth=0.4), torch.tensor([3, 8])
    moments: list[Moment] = []

    def scale(moment: Moment) -> float:
        moments.append(moment)
        return 2.0 + moment.sigma / (1.0 + moment.sigma)

    run = {"shape": (2, 1, 8, 8), "condition": {"class_labels": labels}, "seed": 4, "dtype": torch.float64}
    run["guidance"] = [ClassifierFree(scale), Interval(0.05, 30.0)]
    counting = Counting(model)
    run["null_condition"] = {"class_labels": torch.full((2,), model.null_class)}
    result = DiffusionPipeline(path, "adaptive", rtol=1e-5).sample(counting, return_result=True, **run)
    assert result.nfe == counting.calls
    assert result.nfe < result.evaluations < 2 * result.nfe
    assert {m.steps for m in moments} == {51}
    assert max(m.step for m in moments) == 50
    reference = DiffusionPipeline(path, "runge_kutta").sample(model, num_inference_steps=400, **run)
    assert (result.samples - reference).abs().max() < 0.02


def test_failed_steps_leave_no_trace_in_the_memory_of_guidance():
    path = VPPath()
    run = {"shape": (2, 1, 8, 8), "condition": {"class_labels": torch.tensor([1, 2])}, "seed": 4}
    run |= {"guidance": AdaptiveProjected(3.0, momentum=-0.5), "dtype": torch.float64}
    run["grid"] = grid = TimeGrid((path.level(1.0), path.level(0.01)))
    model = DigitsModel(path)
    run["null_condition"] = {"class_labels": torch.full((2,), model.null_class)}
    options = {"tableau": "heun2", "rtol": 0.05}
    found = DiffusionPipeline(path, "adaptive", **options).sample(model, return_result=True, **run)
    length = found.grid.levels[1].half_log_snr - grid.levels[0].half_log_snr
    again = DiffusionPipeline(path, "adaptive", first_step=length, **options).sample(model, return_result=True, **run)
    assert 0 <= again.rejected < found.rejected  # those of the search for the first step
    torch.testing.assert_close(again.samples, found.samples, rtol=1e-9, atol=1e-9)


def test_clipping_batches_and_early_stopping():
    config = LinearNoiseScheduler(clip_sample=True).config
    pipeline = DiffusionPipeline(config, "adaptive", rtol=1e-2)
    run = {"shape": (4, 1, 8, 8), "num_inference_steps": 10, "seed": 2}
    whole = pipeline.sample(None, return_result=True, **run)
    assert whole.samples.abs().max() <= 1.0
    # samples of a batch share steps: alone they take others, within the tolerance
    parts = pipeline.sample(None, max_batch_size=1, return_result=True, **run)
    assert not torch.equal(parts.samples, whole.samples)
    assert (parts.samples - whole.samples).square().mean().sqrt() < 0.05
    assert parts.grid != whole.grid
    # each with steps of its own it is the same in every batch
    assert torch.equal(pipeline.sample(None, **run | {"shape": (3, 1, 8, 8)}, max_batch_size=1), parts.samples[:3])
    early = pipeline.sample(None, early_stopping=0.5, return_result=True, **run)
    assert early.stopped_early
    assert early.nfe < whole.nfe
    assert early.steps == early.plan.steps < whole.steps


def test_the_controller_by_hand():
    integral = Controller(0.0, 1.0, 0.9, 3)
    assert integral.factor(1 / 8, 1.0) == pytest.approx(1.8)
    assert integral.factor(8.0, 1.0) == pytest.approx(0.45)
    assert (integral.factor(0.0, 1.0), integral.factor(1e9, 1.0)) == (10.0, 0.2)
    both = Controller(0.4, 0.3, 0.9, 2)
    assert both.factor(0.25, 0.5) == pytest.approx(0.9 * 0.25**-0.35 * 0.5**0.2)
    assert both.factor(1.001, 1e-9) <= 0.9


def test_pairs_are_of_neighbouring_orders():
    orders = {name: (Pair.of(name).method.order, Pair.of(name).tableau.order) for name in PAIRS}
    assert orders == {
        "bogacki_shampine": (3, 2), "heun2": (2, 1), "dormand_prince": (4, 4), "dpm_solver_12": (2, 1),
        "dpm_solver_23": (3, 2),
    }  # fmt: skip
    own = ButcherTableau(((), (0.5,)), (0.0, 1.0), (1.0, 0.0))
    assert solved(problem("vp", "mixture"), tableau=own, rtol=1e-4)[1] < 1e-3


@pytest.mark.parametrize("options", [
    {"tableau": "rk4"}, {"tableau": BUTCHER["rk4"]}, {"tableau": 3}, {"rtol": 0.0}, {"icoeff": 0.0}, {"safety": 1.0},
    {"first_step": -1}, {"first_step": "long"}, {"max_calls": 0}, {"frame": "time"},
    {"frame": "sigma", "tableau": "dpm_solver_23"},
])  # fmt: skip
def test_bad_options(options):
    with pytest.raises(ConfigurationError) as caught:
        DiffusionPipeline(VPPath(), "adaptive", **options)
    assert caught.value.where in options


@pytest.mark.parametrize("name", ["dpm_adaptive", "sample_dpm_adaptive", "DPM adaptive", "adaptive"])
def test_names(name):
    pipeline = DiffusionPipeline(VPPath(), name)
    assert type(pipeline.sampler).__name__ == "AdaptiveSampler"
    assert not pipeline.sampler.writes_plans


def test_brownian_noise_by_name(tmp_path):
    path, model = VPPath(), problem("vp", "mixture").model
    run = {"shape": (64, 4), "seed": 0, "dtype": torch.float64}
    pipeline = DiffusionPipeline(path, "dpmpp_2m_sde")
    change = {
        kind: float((pipeline.sample(model, num_inference_steps=80, noise=kind, **run)
                     - pipeline.sample(model, num_inference_steps=160, noise=kind, **run)).square().mean().sqrt())
        for kind in ("independent", "brownian")
    }  # fmt: skip
    assert change["brownian"] < change["independent"] / 3
    steps = list(pipeline.stream(model, num_inference_steps=12, noise="brownian", **run))
    steps[5].state.save(tmp_path / "run")
    for state in (steps[5].state, RunState.load(tmp_path / "run")):
        assert state.noise == "brownian"
        assert torch.equal(list(pipeline.stream(model, resume=state))[-1].x, steps[-1].x)
    plain = next(iter(pipeline.stream(model, num_inference_steps=12, **run)))
    with pytest.raises(ConfigurationError, match="started with independent"):
        pipeline.stream(model, resume=plain.state, noise="brownian")
    with pytest.raises(ConfigurationError, match="noise"):
        pipeline.sample(model, noise="white", **run)
    for method in ("ddim", "adaptive"):
        with pytest.raises(ConfigurationError, match="adds no noise"):
            DiffusionPipeline(path, method).sample(model, noise="brownian", **run)
