"""Networks of two times: the sampler flow_map against exact flow maps, its relations, and what is refused."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    NumericsError,
    SamplerFactory,
    SamplingPlan,
    TimeGrid,
)
from noise_scheduler_sampling_system.analysis import log_likelihood
from noise_scheduler_sampling_system.calibration.table import Table
from noise_scheduler_sampling_system.config.prediction import PREDICTION_TYPES, TWO_TIME_TYPES, SecondLevel, conversion
from noise_scheduler_sampling_system.grids import FrameGrid
from noise_scheduler_sampling_system.guidance import ClassifierFree, Rescale
from noise_scheduler_sampling_system.models import DigitsModel, Experts, GaussianMixtureModel, GaussianModel
from noise_scheduler_sampling_system.schedules import EDMPath, FlowPath, Level, NoisePath, VPPath
from noise_scheduler_sampling_system.schedules.factory import NoiseSchedulerFactory
from noise_scheduler_sampling_system.serving import Batcher

PATHS = ("flow", "edm", "vp", "sub_vp", "ve", "v_diffusion", "trigflow", "linear", "cosine")
#: Paths that begin without signal, where unit noise is the exact first state of any data.
NO_SIGNAL = ("flow", "v_diffusion", "trigflow")
KINDS = (*PREDICTION_TYPES, *TWO_TIME_TYPES)


def pipeline_of(schedule: str = "flow", kind: str = "v_prediction", method: str = "flow_map", **options: Any) -> Any:
    return DiffusionPipeline(NoiseSchedulerConfig(beta_schedule=schedule, prediction_type=kind), method, **options)


@functools.cache
def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def end_of(plan: SamplingPlan) -> Level:
    return Level(math.nan, float(plan.alpha[-1]), float(plan.sigma[-1]))


# -- exact maps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", PATHS)
def test_an_exact_map_is_exact_in_any_number_of_steps(schedule, kind):
    if kind == "epsilon" and schedule in NO_SIGNAL:
        with pytest.raises(ConfigurationError, match="does not determine"):
            pipeline_of(schedule, kind).sample(shape=(1, 1, 8, 8))
        return
    pipeline = pipeline_of(schedule, kind)
    model = GaussianModel(pipeline.scheduler, torch.tensor([0.3, -1.0, 0.0]), torch.tensor([0.2, 1.5, 0.01]))
    for steps in (1, 2, 5):
        plan = pipeline.plan(steps)
        assert plan.nfe == plan.steps == steps
        got = pipeline.sample(model, initial_noise=noise(4, 3), num_inference_steps=steps, dtype=torch.float64)
        exact = model.flow(plan.prior_scale * noise(4, 3), plan.level(0), end_of(plan))
        # the rounding of ε at the noisiest level is divided by its α, 5e-5 on the cosine schedule
        torch.testing.assert_close(got, exact, rtol=0.0, atol=1e-10 if kind == "epsilon" else 1e-12)


@pytest.mark.parametrize("schedule", ["flow", "edm", "linear"])
def test_an_exact_map_of_the_digits_is_exact(schedule):
    """To the tolerance of the integration: two steps end where one does."""
    pipeline = pipeline_of(schedule, "average_velocity")
    labels = torch.tensor([3, 8])
    run = {"initial_noise": noise(2, 1, 8, 8), "condition": {"class_labels": labels}, "dtype": torch.float64}
    one, two = (pipeline.sample(num_inference_steps=n, guidance_scale=1.0, **run) for n in (1, 2))
    plan, model = pipeline.plan(1), DigitsModel(pipeline.scheduler)
    exact = model.flow(plan.prior_scale * noise(2, 1, 8, 8), plan.level(0), end_of(plan), class_labels=labels)
    torch.testing.assert_close(one, exact, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(two, exact, rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("restart", ["ctm", "tcd"])
@pytest.mark.parametrize("gamma", [0.2, 0.7, 1.0])
@pytest.mark.parametrize("schedule", PATHS)
def test_restart_noise_keeps_the_marginal(schedule, gamma, restart):
    """The result of an exact map has the spread of the data at the end of the grid, whatever γ is."""
    plan = pipeline_of(schedule, gamma=gamma, restart=restart).plan(4)
    assert plan.stochastic
    # N(0, α² + σ²) is the exact first state of data of unit variance, and without signal of any data
    widths = np.array([0.1, 0.5, 1.0, 3.0]) if schedule in NO_SIGNAL else np.array([1.0])
    end = end_of(plan)
    moments = plan.gaussian_moments(widths, 0.4)
    np.testing.assert_allclose(moments.std, np.hypot(end.alpha * widths, end.sigma), rtol=1e-12)
    if schedule in NO_SIGNAL:
        np.testing.assert_allclose(moments.mean, end.alpha * 0.4, rtol=1e-12)


def test_the_moments_of_a_table_are_those_of_a_run():
    pipeline = pipeline_of("edm", gamma=0.6)
    model = GaussianModel(pipeline.scheduler, 0.5, 0.3**2)
    got = pipeline.sample(model, shape=(20_000, 1), num_inference_steps=3, seed=0, dtype=torch.float64)
    plan = pipeline.plan(3)
    moments = plan.gaussian_moments(0.3, 0.5)
    assert float(got.std()) == pytest.approx(float(moments.std), rel=0.02)  # 4 standard errors
    assert float(got.mean()) == pytest.approx(float(moments.mean), abs=4 * 0.3 / math.sqrt(20_000))


@pytest.mark.parametrize("schedule", PATHS)
def test_definitions_of_the_types(schedule):
    """What an exact model returns for each type, from its states x_t and x_r alone."""
    path = NoiseSchedulerFactory.create(schedule)
    t, r = (float(path.time_at(fraction)) for fraction in (0.7, 0.3))
    now, to = path.level(t), path.level(r)
    x = now.sigma * noise(4, 3)
    answers = {kind: GaussianModel(path, 0.2, 0.5, prediction_type=kind)(x, t, r) for kind in KINDS}
    after = answers["state"]
    torch.testing.assert_close(after, GaussianModel(path, 0.2, 0.5).reference_solution(x, t, r))
    clean, eps = answers["sample"], answers["epsilon"]
    torch.testing.assert_close(now.alpha * clean + now.sigma * eps, x)
    torch.testing.assert_close(to.alpha * clean + to.sigma * eps, after)
    torch.testing.assert_close(answers["v_prediction"], now.alpha * eps - now.sigma * clean)
    torch.testing.assert_close(answers["flow_prediction"], eps - clean)
    torch.testing.assert_close(answers["average_velocity"], path.time_unit * (x - after) / (t - r))


def test_the_average_velocity_is_that_of_the_time_that_papers_use():
    units = {"flow": 1000.0, "edm": 1.0, "vp": 1.0, "trigflow": 1.0, "linear": 1000.0}
    assert {name: NoiseSchedulerFactory.create(name).time_unit for name in units} == units
    x, path = noise(4, 3), FlowPath()
    a, b = (GaussianModel(path, 0.2, 0.5, prediction_type=kind) for kind in ("average_velocity", "flow_prediction"))
    torch.testing.assert_close(a(x, 800.0, 300.0), b(x, 800.0, 300.0))  # MeanFlow's u on the straight path
    x, path = 20.0 * noise(4, 3), EDMPath()
    a, b = (GaussianModel(path, 0.2, 0.5, prediction_type=kind) for kind in ("average_velocity", "epsilon"))
    torch.testing.assert_close(a(x, 20.0, 3.0), b(x, 20.0, 3.0))


@pytest.mark.parametrize("kind", KINDS)
def test_where_the_times_meet_the_types_are_those_of_one_time(kind):
    path = VPPath()
    model, x = GaussianMixtureModel(path, noise(5, 3), 0.3, prediction_type=kind), noise(4, 3)
    near, at = model(x, 0.5, 0.5 - 1e-6), model(x, 0.5, 0.5)
    torch.testing.assert_close(near, at, rtol=0.0, atol=2e-5)
    if kind in PREDICTION_TYPES:
        torch.testing.assert_close(at, model(x, 0.5))


def test_each_sample_has_its_own_times_and_label():
    path = FlowPath()
    model, x = DigitsModel(path), noise(3, 1, 8, 8)
    t, r = torch.tensor([1000.0, 600.0, 1000.0]), torch.tensor([0.0, 700.0, 0.0])
    labels = torch.tensor([1, 2, 3])
    together = model(x, t, r, class_labels=labels)
    for i in range(3):
        alone = model(x[i : i + 1], t[i], r[i], class_labels=labels[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0.0, atol=1e-8)
    with pytest.raises(ConfigurationError, match="r has shape"):
        model(x, t, r[:2], class_labels=labels)


# -- relations -------------------------------------------------------------------------------------------------------


def same_numbers(a: SamplingPlan, b: SamplingPlan) -> bool:
    pairs = zip((*a.canonical(), a.time, a.sigma), (*b.canonical(), b.time, b.sigma), strict=True)
    return all(x.shape == y.shape and np.allclose(x, y, rtol=0.0, atol=1e-12) for x, y in pairs)


@pytest.mark.parametrize("path", [FlowPath(), EDMPath(sigma_max=5.0), VPPath()])
def test_relations_to_samplers_of_one_time(path):
    grid = SamplerFactory.create("flow_map", path).grid(5)
    plans = {
        (name, *options.items()): SamplerFactory.create(name, path, **options).plan(grid=grid)
        for name, options in [
            ("flow_map", {}), ("flow_map", {"gamma": 1.0}), ("flow_map", {"gamma": 0.3, "restart": "tcd"}),
            ("flow_map", {"gamma": 0.0, "restart": "tcd"}), ("euler", {}), ("lcm", {}), ("tcd", {"eta": 0.3}),
        ]
    }  # fmt: skip
    no_noise, multistep, tcd, same, euler, lcm, published = plans.values()
    assert same_numbers(no_noise, euler)
    assert same_numbers(no_noise, same)
    assert same_numbers(multistep, lcm)
    assert same_numbers(tcd, published)
    assert not multistep.to[:, 0].any()
    assert euler.to is None


def test_a_network_that_does_not_read_r_is_eulers_method_of_first_order():
    path = VPPath()
    model, x = GaussianMixtureModel(path, noise(5, 3), 0.3), noise(4, 3)
    exact = model.reference_solution(x, t=0.9, t_end=0.1)
    pipeline = DiffusionPipeline(path, "flow_map")
    errors = []
    for steps in (40, 160):
        times = np.linspace(0.9, 0.1, steps + 1).tolist()
        plan = pipeline.plan(grid=TimeGrid.from_times(path, times, end=None))
        run = {"initial_noise": x / plan.prior_scale, "plan": plan, "dtype": torch.float64}
        result = pipeline.sample(lambda x, t, r: model(x, t), **run)
        torch.testing.assert_close(pipeline.sample(model, **run), exact, rtol=0.0, atol=1e-8)
        errors.append(float((result - exact).abs().max()))
    assert 0.8 < math.log(errors[0] / errors[1]) / math.log(4.0) < 1.2


def test_a_shortcut_model_is_a_flow_map():
    """Its time goes from noise at 0 to data at 1, it is told the step size d, and it predicts data minus noise."""
    pipeline = pipeline_of("flow", "flow_prediction")
    model = GaussianModel(pipeline.scheduler, 0.2, 0.5)

    def shortcut(x: Tensor, t: Tensor, d: Tensor) -> Tensor:
        return -model(x, 1000.0 * (1.0 - t), 1000.0 * (1.0 - t - d))

    def network(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return -shortcut(x, 1.0 - t / 1000.0, (t - r) / 1000.0)

    x = noise(4, 3)
    for steps in (1, 2, 4, 8):
        by_hand, d = x, 1.0 / steps
        for i in range(steps):
            by_hand = by_hand + d * shortcut(by_hand, torch.tensor(i * d), torch.tensor(d))
        got = pipeline.sample(network, initial_noise=x, num_inference_steps=steps, dtype=torch.float64)
        torch.testing.assert_close(got, by_hand, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_the_steps_are_those_of_diffusers(shift):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMapEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(4)
    config = NoiseSchedulerConfig(beta_schedule="flow", schedule_options={"shift": shift})
    pipeline = DiffusionPipeline(config, "flow_map")
    model = GaussianMixtureModel(pipeline.scheduler, noise(5, 3), 0.3)
    x = noise(4, 3)
    got = pipeline.sample(model, initial_noise=x, num_inference_steps=4, dtype=torch.float64)
    for i, t in enumerate(scheduler.timesteps):
        r = scheduler.sigmas[i + 1] * 1000.0
        x = scheduler.step(model(x, t, r), t, x, r, return_dict=False)[0]
    torch.testing.assert_close(got, x, rtol=0.0, atol=1e-9)


def test_gamma_sampling_by_hand():
    """Algorithm 3 of Kim et al. 2023: down to √(1 − γ²)·σ', then γ·σ' of noise, with x_s = (s/t)·x + (1 − s/t)·g."""
    plan = pipeline_of("edm", gamma=0.4).plan(3)
    t, after = plan.time[0], plan.time[1]
    s = math.sqrt(1 - 0.4**2) * after
    found = [plan.to[0, 0], plan.a[0], plan.b[0, 0], plan.c[0, 0]]
    np.testing.assert_allclose(found, [s, s / t, 1 - s / t, 0.4 * after], rtol=1e-12)
    np.testing.assert_allclose([plan.to[2, 0], plan.a[2], plan.b[2, 0], plan.c[2, 0]], [0.0, 0.0, 1.0, 0.0], atol=1e-12)


# -- grids and plans -------------------------------------------------------------------------------------------------


def test_the_last_step_goes_to_the_end_at_once():
    assert pipeline_of("edm").plan(3).to[-1].tolist() == [0.0, 1.0, 0.0, pytest.approx(0.47, abs=0.01)]
    discrete = pipeline_of("linear").plan(2)
    path = pipeline_of("linear").scheduler
    assert discrete.time.tolist() == [999.0, 499.0]
    assert discrete.to[:, 0].tolist() == [499.0, 0.0]
    assert discrete.level(0)[1:] != end_of(discrete)[1:] == path.level(0.0)[1:]
    given = TimeGrid.from_times(path, [900.0, 0.0])
    there = DiffusionPipeline(path, "flow_map").plan(grid=given)  # r = t at the smallest time
    assert there.to[:, 0].tolist() == [0.0, 0.0]
    assert there.sigma[-1] == 0.0
    with pytest.raises(ConfigurationError, match="from t to t"):
        DiffusionPipeline(path.predicting("state"), "flow_map").sample(shape=(1, 1, 8, 8), grid=given)
    rising = TimeGrid.from_times(path, [100.0, 500.0], end=None)
    assert DiffusionPipeline(path, "flow_map").plan(grid=rising).to[0, 0] == 500.0
    with pytest.raises(ConfigurationError, match="cannot raise"):
        DiffusionPipeline(path, "flow_map", gamma=0.5).plan(grid=rising)


def test_the_end_of_a_path():
    assert EDMPath().clean_level == (0.0, 1.0, 0.0)
    assert FlowPath().clean_level == (0.0, 1.0, 0.0)
    for name in ("linear", "ve"):
        assert NoiseSchedulerFactory.create(name).clean_level is None


def test_plans_keep_the_second_time(tmp_path):
    plan = pipeline_of("flow", gamma=0.5).plan(3)
    for name in ("plan.json", "plan.safetensors"):
        plan.save(tmp_path / name)
        assert SamplingPlan.load(tmp_path / name) == plan
        assert SamplingPlan.load(tmp_path / name).content_hash == plan.content_hash
    assert plan.content_hash != replace(plan, to=None).content_hash
    assert plan.second_level(0) == SecondLevel(*plan.to[0])
    lines = str(plan).splitlines()
    assert lines[0].endswith("for networks of two times")
    assert lines[1].split()[:4] == ["row", "step", "t", "r"]
    assert lines[4].split()[2:4] == ["333.333", "0"]
    assert "to" in plan.to_dict()


def test_plans_without_a_second_time_are_what_they_were():
    plan = DiffusionPipeline(NoiseSchedulerConfig(), "ddim").plan(3)
    assert plan.content_hash == "4c1c958f69942c3bcabffc325182645e578f9402ebc1368231addafb01a68804"
    assert "to" not in plan.to_dict()


def test_differences_say_what_a_network_is_asked():
    flow_map, euler, fast = pipeline_of("flow"), pipeline_of("flow", method="euler"), pipeline_of("flow", gamma=1.0)
    apart = flow_map.plan(3).diff(euler.plan(3))
    assert not apart.same_numbers
    assert "times of the network: 2 and 1" in str(apart)
    assert flow_map.plan(3).diff(flow_map.plan(3)).same_numbers
    assert flow_map.plan(3).diff(fast.plan(3)).levels == (0, 1)


def test_figures_name_both_times():
    pytest.importorskip("matplotlib")
    from noise_scheduler_sampling_system.plots import plot_plan

    figure = plot_plan(pipeline_of("flow", gamma=0.5).plan(2))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["1000 → 464.1", "500 → 0"]


@pytest.mark.parametrize(
    ("column", "change", "match"),
    [
        (0, 100.0, "other times"), (1, -1.0, "negative α"), (2, -1.0, "negative σ"), (3, 0.0, "other times"),
        (0, math.nan, "not finite"),
    ],
)  # fmt: skip
def test_a_wrong_second_level_is_refused(column, change, match):
    plan = pipeline_of("flow").plan(2)
    to = plan.to.copy()
    if (column, change) == (0, 100.0):
        to[:, 3] = 0.0
    to[0, column] = change
    with pytest.raises(NumericsError, match=match):
        replace(plan, to=to).checked()
    with pytest.raises(NumericsError, match="shape"):
        replace(plan, to=to[:, :3])


# -- runs ------------------------------------------------------------------------------------------------------------


class Network(torch.nn.Module):
    """Linear in x, with two times and a condition."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x: Tensor, t: Tensor, r: Tensor, c: Tensor | None = None) -> Tensor:
        both = torch.stack([t, r], 1).to(x.dtype) / 1000.0
        y = self.layer(x) + both.sum(1, keepdim=True)
        return y if c is None else y + c[:, None].to(x.dtype)


def test_streams_batches_and_compiled_runs_ask_at_both_times():
    pipeline, network = pipeline_of("flow", "average_velocity", gamma=0.5), Network().eval()
    run = {"shape": (3, 4), "num_inference_steps": 4, "condition": {"c": torch.tensor([0.0, 1.0, 2.0])}}
    run["null_condition"] = {"c": torch.zeros(3)}
    whole = pipeline.sample(network, seed=5, guidance_scale=2.0, **run)
    compiled = pipeline.compile(network, backend="eager", guidance_scale=2.0, **run)
    torch.testing.assert_close(compiled(5), whole, rtol=0.0, atol=1e-6)
    for step in pipeline.stream(network, seed=5, guidance_scale=2.0, **run):
        if step.index == 1:
            saved = step.state
            break
    resumed = [*pipeline.stream(network, resume=saved, guidance_scale=2.0, **run)][-1].x
    assert torch.equal(resumed, whole)
    alone = pipeline.sample(network, seed=6, shape=(1, 4), num_inference_steps=2)
    with Batcher(pipeline, model=network) as batcher:
        handles = [
            batcher.submit(seed=5, guidance_scale=2.0, **run),
            batcher.submit(seed=6, shape=(1, 4), num_inference_steps=2),
        ]
        results = [handle.result() for handle in handles]
    for got, wanted in zip(results, (whole, alone), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0.0, atol=1e-6)


def test_one_model_at_one_time_and_at_two_times_shares_no_call():
    model_pipeline, other = pipeline_of("flow"), pipeline_of("flow", method="ddim")
    run = {"shape": (2, 1, 8, 8), "num_inference_steps": 2, "seed": 3, "dtype": torch.float64}
    with Batcher(model_pipeline) as batcher:
        handles = [batcher.submit(**run), batcher.submit(pipeline=other, **run)]
        results = [handle.result() for handle in handles]
    for got, pipeline in zip(results, (model_pipeline, other), strict=True):
        torch.testing.assert_close(got, pipeline.sample(**run), rtol=0.0, atol=1e-7)


@pytest.mark.parametrize("kind", ["state", "average_velocity", "sample"])
def test_classifier_free_guidance_is_linear_in_the_prediction(kind):
    pipeline = pipeline_of("flow", kind)
    model = DigitsModel(pipeline.scheduler)
    labels = torch.tensor([3, 8])
    run = {"initial_noise": noise(2, 1, 8, 8), "num_inference_steps": 1, "dtype": torch.float64}
    guided, *sides = (
        pipeline.sample(model, condition={"class_labels": label}, guidance_scale=scale, **run)
        for label, scale in ((labels, 2.5), (labels, 1.0), (torch.full((2,), 10), 1.0))
    )
    torch.testing.assert_close(guided, sides[1] + 2.5 * (sides[0] - sides[1]), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("name", ["r", "s", "r_timestep"])
def test_names_of_the_second_time(name):
    told: list[tuple[float, float]] = []

    def seen(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        told.append((float(t[0]), float(r[0])))
        return x

    space: dict[str, Any] = {"seen": seen}
    exec(f"def network(hidden, encoder, timestep, {name}):\n    return seen(hidden, timestep, {name})", space)
    exec(f"def plain(x, t, {name}):\n    return seen(x, t, {name})", space)
    pipeline = pipeline_of("flow")
    pipeline.sample(space["plain"], shape=(2, 4), num_inference_steps=2)
    pipeline.sample(
        space["network"],
        shape=(2, 4),
        num_inference_steps=2,
        condition={"encoder": torch.zeros(2)},
        classifier_free_guidance=False,
    )
    assert told == [(1000.0, 500.0), (500.0, 0.0)] * 2


def one_time(x: Tensor, t: Tensor, **condition: Any) -> Tensor:
    raise AssertionError("called")


def two_times(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
    raise AssertionError("called")


@pytest.mark.parametrize(
    ("pipeline", "model", "run", "match"),
    [
        (pipeline_of("flow"), one_time, {}, "has one time.*\n.*\n.*for networks of one time"),
        (pipeline_of("flow"), two_times, {"condition": {"r": 1.0}}, "the plan gives"),
        (pipeline_of("flow", method="ddim"), two_times, {}, "has two times.*\n.*\n.*flow_map"),
        (pipeline_of("flow", "state", "ddim"), two_times, {}, "only one time is known.*\n.*flow_map"),
        (DiffusionPipeline(NoiseSchedulerConfig(clip_sample=True), "flow_map"), two_times, {}, "clipping"),
        (pipeline_of("flow"), None,
         {"condition": {"class_labels": 3}, "guidance": [ClassifierFree(2.0), Rescale(0.5)]}, "is linear"),
        (pipeline_of("flow"), two_times, {"grid": FrameGrid.full_sequence(pipeline_of("flow").grid(2), 1)},
         "frames have one time"),
    ],
    ids=["one-time network", "r as condition", "two-time network", "state", "clipping", "guidance", "frames"],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused_before_the_first_call(pipeline, model, run, match):
    with pytest.raises(ConfigurationError, match=match):
        pipeline.sample(model, **{"shape": (2, 1, 8, 8), "num_inference_steps": 2, **run})


def test_likelihoods_need_the_field_at_one_time():
    with pytest.raises(ConfigurationError, match=r"two times.*\n.*\n.*r=t"):
        log_likelihood(pipeline_of("flow"), two_times, noise(2, 3), 4)


def test_calibrations_hold_plans_for_one_time():
    with pytest.raises(ConfigurationError, match="asks at two times"):
        Table.of_plan(pipeline_of("flow").plan(2))


@pytest.mark.parametrize("backend", ["sample", "compile", "batcher"])
def test_two_networks_of_two_times_take_turns(backend):
    pipeline, model = pipeline_of("flow"), GaussianModel(FlowPath(), 0.2, 0.5, prediction_type="v_prediction")
    told: dict[str, list[float]] = {"high": [], "low": []}

    def network(name: str) -> Any:
        def asked(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
            told[name].append(float(r[0]))
            return model(x, t, r)

        return asked

    both = Experts(network("high"), network("low"), boundary=0.6)
    run = {"shape": (2, 3), "num_inference_steps": 4}
    if backend == "sample":
        got = pipeline.sample(both, seed=1, **run)
    elif backend == "compile":
        got = pipeline.compile(both, backend="eager", **run)(1)
    else:
        with Batcher(pipeline, model=both) as batcher:
            got = batcher.submit(seed=1, **run).result()
    torch.testing.assert_close(got, pipeline.sample(model, seed=1, **run), rtol=0.0, atol=1e-6)
    assert {name: sorted(set(times)) for name, times in told.items()} == {"high": [500.0, 750.0], "low": [0.0, 250.0]}
    with pytest.raises(ConfigurationError, match="has one time"):
        pipeline.sample(Experts(network("high"), one_time, boundary=0.6), **run)


def test_conversions_need_the_second_level():
    path: NoisePath = FlowPath()
    now = path.level(800.0)
    with pytest.raises(ConfigurationError, match="only one time"):
        conversion("state", "sample", now.alpha, now.sigma)
    with pytest.raises(ConfigurationError, match="from t to t"):
        conversion("state", "sample", now.alpha, now.sigma, path.second_level(now, now))
    with pytest.raises(ConfigurationError, match="has no option 'afs'"):
        SamplerFactory.create("flow_map", path, afs=True)


def test_pipelines_of_diffusers_choose_what_their_network_is_told():
    pytest.importorskip("diffusers")
    from diffusers import FlowMatchEulerDiscreteScheduler

    from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler

    scheduler = PlanScheduler.from_config(FlowMatchEulerDiscreteScheduler().config, method="flow_map")
    with pytest.raises(ConfigurationError, match="second time"):
        scheduler.set_timesteps(4)
