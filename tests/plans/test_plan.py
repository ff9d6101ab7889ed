"""The plan as a value: its algebra, its two forms, its checks, its files; and the builder that writes it."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch

from noise_scheduler_sampling_system import (
    BaseSampler,
    DiffusionPipeline,
    FileError,
    NoiseSchedulerConfig,
    NumericsError,
    SamplerFactory,
    SamplingPlan,
)
from noise_scheduler_sampling_system.config.prediction import conversion
from noise_scheduler_sampling_system.guidance import CachedGuidance
from noise_scheduler_sampling_system.pipeline.plan_warnings import warn_of_amplification
from noise_scheduler_sampling_system.plans.builder import PlanBuilder
from noise_scheduler_sampling_system.plans.linear_form import Form
from noise_scheduler_sampling_system.samplers.steps import along
from noise_scheduler_sampling_system.schedules import CLEAN, Level
from noise_scheduler_sampling_system.support.errors import ConfigurationError

METHODS = [
    ("ddpm", {}), ("ddim", {}), ("ddim", {"eta": 0.7}), ("ancestral", {}), ("euler", {}), ("heun", {}), ("pndm", {}),
    ("pndm", {"skip_prk_steps": False}),
]  # fmt: skip


def plan_of(method, options, steps=8, **config):
    return SamplerFactory.create(method, NoiseSchedulerConfig(**config), **options).plan(steps)


def replay(plan: SamplingPlan, x, predict, noises):
    """The ten lines that replay a plan without this library; in float64."""
    ys, states = [], [x]
    for i in range(len(plan.time)):
        ys.append(predict(i, x))
        after = plan.a[i] * x + plan.raw[i] * ys[i]
        for k in range(min(i + 1, plan.b.shape[1])):
            after = after + plan.b[i, k] * ys[i - k]
        for k in range(min(i + 1, plan.c.shape[1])):
            after = after + plan.c[i, k] * noises[i - k]
        states.append(x := after)
    return states, ys


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_canonical_form_is_the_same_run(method, options):
    plan = plan_of(method, options)
    generator = np.random.default_rng(0)
    x, noises = generator.standard_normal(5), generator.standard_normal((plan.nfe, 5))
    states, ys = replay(plan, x, lambda i, x: np.sin(3 * x + i), noises)
    A, B, C = plan.canonical()
    for i, state in enumerate(states):
        np.testing.assert_allclose(A[i] * x + B[i] @ np.array(ys) + C[i] @ noises, state, atol=1e-11)


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_canonical_form_back_to_execution_form(method, options):
    plan = plan_of(method, options)
    again = plan.with_canonical(*plan.canonical())
    for ours, theirs in zip(again.canonical(), plan.canonical(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert again.b.shape[1] <= plan.b.shape[1]
    assert again.history <= plan.history


@pytest.mark.parametrize(("method", "options"), METHODS)
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_loop_computes_the_table(method, options, prediction):
    """run() against the ten-line replay, float64, for every kind of model."""
    config = NoiseSchedulerConfig(prediction_type=prediction)
    pipeline = DiffusionPipeline(config, method, **options)
    plan = pipeline.plan(8)
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = pipeline.sample(lambda x, t: torch.sin(3 * x), num_inference_steps=8, initial_noise=x, seed=5,
                             dtype=torch.float64)  # fmt: skip

    def predict(i, x):
        to_y = conversion(prediction, plan.space, plan.alpha[i], plan.sigma[i])
        return to_y.x_factor * x + to_y.y_factor * np.sin(3 * x)

    from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys

    source = NoiseSource(resolve_keys(5, None, 3), (4,), torch.float64)
    noises = [source(*map(int, key)).numpy() if key[0] >= 0 else np.zeros((3, 4)) for key in plan.noise_key]
    states, _ = replay(plan, x.numpy(), predict, noises)
    np.testing.assert_allclose(result.numpy(), states[-1], rtol=1e-9, atol=1e-9)


def test_plan_is_frozen_all_the_way_down():
    plan = plan_of("pndm", {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.a = plan.b
    for name in ("a", "b", "c", "alpha", "time", "step"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(plan, name)[0] = 1
    with pytest.raises(TypeError):
        plan.options["skip_prk_steps"] = False


@pytest.mark.parametrize(("method", "options"), METHODS)
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_save_and_load(method, options, suffix, tmp_path):
    variance = {"variance_type": "learned_range"} if method == "ddpm" else {}
    plan = plan_of(method, options, **variance)
    plan.save(tmp_path / f"plan{suffix}")
    again = SamplingPlan.load(tmp_path / f"plan{suffix}")
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.fingerprint == plan.fingerprint
    assert again.b.tobytes() == plan.b.tobytes()


def test_equality_is_by_value():
    assert plan_of("heun", {}) == plan_of("heun", {})
    assert plan_of("heun", {}) != plan_of("heun", {}, steps=9)
    assert plan_of("ddim", {"eta": 0.1}) != plan_of("ddim", {"eta": 0.2})
    assert len({plan_of("heun", {}), plan_of("heun", {}), plan_of("pndm", {})}) == 2
    plan = plan_of("ddim", {"eta": 0.1})
    assert copy.deepcopy(plan) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_bad_files(tmp_path):
    path = tmp_path / "plan.json"
    plan = plan_of("ddim", {})
    for text in ("{", "[]", '{"format": 7}', json.dumps({**plan.to_dict(), "extra": 1})):
        path.write_text(text)
        with pytest.raises(FileError, match=r"plan\.json"):
            SamplingPlan.load(path)
    with pytest.raises(FileError, match=r"\.json or \.safetensors"):
        plan.save(tmp_path / "plan.pkl")
    with pytest.raises(FileError, match="missing"):
        SamplingPlan.load(tmp_path / "missing.json")
    assert not list(tmp_path.glob(".*"))
    data = plan.to_dict()
    data["a"][0] = float("nan")
    path.write_text(json.dumps(data))
    with pytest.raises(FileError, match="not finite"):
        SamplingPlan.load(path)


def test_checks():
    plan = plan_of("heun", {})

    def changed(**columns):
        return dataclasses.replace(plan, **columns).checked()

    sample_plan = plan_of("ddim", {})
    with pytest.raises(NumericsError, match="constant data"):
        dataclasses.replace(sample_plan, b=sample_plan.b * 1.001).checked()
    with pytest.raises(NumericsError, match="constant data"):
        changed(a=plan.a * 1.001)
    with pytest.raises(NumericsError, match="not finite"):
        changed(a=plan.a * np.inf)
    with pytest.raises(NumericsError, match="expected"):
        changed(a=plan.a[:-1])
    early = plan.b.copy()
    early[0, 1] = 0.5
    with pytest.raises(NumericsError, match="before the"):
        changed(b=early)


def test_text():
    text = str(plan_of("ddim", {"eta": 0.5}, steps=50))
    assert "ddim, eta=0.5: 50 steps, 50 model calls, order 1, stochastic" in text
    assert "... 26 rows ..." in text
    assert "c[0]" in text
    assert "c[0]" not in str(plan_of("euler", {}))
    assert "nfe=15" in repr(plan_of("heun", {}))


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_the_input_scale_is_what_the_network_sees(suffix, tmp_path):
    """And nothing else changes: a network that undoes the scale gives the same samples."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "heun")
    plan, x = pipeline.plan(5), torch.randn(2, 4, dtype=torch.float64)
    scales = np.linspace(0.5, 2.0, plan.nfe)
    scaled = dataclasses.replace(plan, input_scale=scales).checked()
    assert scaled != plan
    scaled.save(tmp_path / f"plan{suffix}")
    assert SamplingPlan.load(tmp_path / f"plan{suffix}") == scaled
    undo = iter(scales)
    ours = pipeline.sample(lambda x, t: torch.sin(x / next(undo)), plan=scaled, initial_noise=x, dtype=torch.float64)
    plain = pipeline.sample(lambda x, t: torch.sin(x), plan=plan, initial_noise=x, dtype=torch.float64)
    torch.testing.assert_close(ours, plain)


def test_history_is_freed():
    assert plan_of("ddim", {}).history == 0
    assert plan_of("heun", {}).history == 1
    assert plan_of("pndm", {}).history == 3
    # the Runge-Kutta start needs four slopes at once and later the first of each of three steps
    assert plan_of("pndm", {"skip_prk_steps": False}, steps=20).history == 5


def test_steps_and_calls_are_two_numbers():
    calls = []
    for method, options in METHODS:
        pipeline = DiffusionPipeline(NoiseSchedulerConfig(), method, **options)
        calls.clear()
        pipeline.sample(lambda x, t: calls.append(t) or x, (1, 4), 8)
        assert len(calls) == pipeline.plan(8).nfe
        assert pipeline.plan(8).steps == 8
        assert [float(t[0]) for t in calls] == pipeline.plan(8).time.tolist()


def test_amplification(caplog):
    """A step over most of the noise range makes a second-order method multiply errors; the user is told."""
    wide = NoiseSchedulerConfig(beta_schedule="cosine", timestep_spacing="trailing")
    assert DiffusionPipeline(wide, "ddim").plan(5).amplification == pytest.approx(1.0)
    assert DiffusionPipeline(wide, "heun").plan(5).amplification < 50  # whose first step is DDIM's
    assert not caplog.records

    class Trapezoid(BaseSampler):
        order, space = 2, "epsilon"

        def write(self, build, grid):
            for i, now, after in grid.intervals():
                first = build.predict(now, i)
                x = build.x
                build.advance(along(x, first.epsilon, now, after))
                if after.sigma:
                    build.advance(along(x, (first.epsilon + build.predict(after, i).epsilon) / 2, now, after))

    plan = DiffusionPipeline(wide, Trapezoid).plan(5)
    assert "multiplies errors" in caplog.text
    # what the figure says: how much a unit error of one clean sample moves the next state
    moved = [
        abs(plan.b[i, 0] * conversion("sample", "epsilon", plan.alpha[i], plan.sigma[i]).y_factor)
        for i in range(plan.nfe)
    ]
    assert plan.amplification >= max(moved) > 500


def test_guidance_that_a_plan_holds_amplifies(caplog):
    plan = DiffusionPipeline(NoiseSchedulerConfig(), "unipc").plan(5)
    every = CachedGuidance(7.0, calls=range(5)).folded_into(plan)
    np.testing.assert_allclose(every.gains, 7.0 * plan.gains)
    kept, plain = (CachedGuidance(scale, calls=(0,)).folded_into(plan) for scale in (7.0, 1.0))
    np.testing.assert_allclose(plain.gains, plan.gains)
    assert (kept.gains > plain.gains).all()  # every row reads the difference of the first
    warn_of_amplification(plan)
    assert not caplog.records
    warn_of_amplification(CachedGuidance(100.0).folded_into(plan))
    assert "multiplies errors" in caplog.text


# The builder


def test_forms():
    x, y = Form({("x", 0): 2.0}), Form({("y", 0): 1.0})
    assert (3.0 * x - y / 4).terms == {("x", 0): 6.0, ("y", 0): -0.25}
    assert (x + y - x).terms[("x", 0)] == 0.0


def test_builder_recovers_older_states():
    """A step may be written with the state before the last ones; the rows then hold its equivalent."""
    levels = [Level(900.0, 0.1, 0.99), Level(500.0, 0.5, 0.87), Level(100.0, 0.9, 0.44), CLEAN]
    build = PlanBuilder("sample")
    first = build.predict(levels[0], 0)
    x0 = build.x
    build.advance(levels[1].alpha * first.sample + levels[1].sigma * first.epsilon)
    second = build.predict(levels[1], 0)
    build.advance(levels[2].alpha * second.sample + levels[2].sigma * second.epsilon)
    third = build.predict(levels[2], 0)
    build.advance(1.0 * third.sample + 0.25 * (x0 - levels[0].alpha * first.sample - levels[0].sigma * first.epsilon))
    plan = build.build(CLEAN, 1.0)
    np.testing.assert_allclose(plan.canonical()[0][-1], 0.0, atol=1e-12)
    np.testing.assert_allclose(plan.canonical()[1][-1], [0.0, 0.0, 1.0], atol=1e-12)
    assert plan.nfe == 3


def test_builder_refuses_what_cannot_be():
    level, after = Level(900.0, 0.1, 0.99), Level(500.0, 0.5, 0.87)
    build = PlanBuilder("sample")
    first = build.predict(level, 0)
    x = build.x
    build.advance(after.alpha * first.sample)  # drops the state
    build.predict(after, 1)
    with pytest.raises(NumericsError, match="cannot be recovered"):
        build.advance(x)


def test_without_signal_the_model_is_asked_for_the_clean_sample():
    build = PlanBuilder("epsilon")
    p = build.predict(Level(999.0, 0.0, 1.0), 0)
    assert p.sample.terms == {("y", 0): 1.0}
    assert p.epsilon.terms == {("x", 0): 1.0, ("y", 0): 0.0}
    build.advance(0.6 * p.sample + 0.8 * p.epsilon)
    build.advance(build.predict(Level(500.0, 0.6, 0.8), 1).sample)
    plan = build.build(CLEAN, 1.0)
    assert [plan.space_of(i) for i in range(2)] == ["sample", "epsilon"]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_conversions_are_exact_inverses(alpha):
    sigma = (1 - alpha**2) ** 0.5
    x0, epsilon = 1.7, -0.4
    x = alpha * x0 + sigma * epsilon
    values = {"sample": x0, "epsilon": epsilon, "v_prediction": alpha * epsilon - sigma * x0}
    for source, known in values.items():
        for target, wanted in values.items():
            blind = source != target and ((source == "epsilon" and alpha == 0) or (source == "sample" and sigma == 0))
            if blind:
                with pytest.raises(ConfigurationError, match="does not determine"):
                    conversion(source, target, alpha, sigma)
            else:
                factors = conversion(source, target, alpha, sigma)
                assert factors.x_factor * x + factors.y_factor * known == pytest.approx(wanted, abs=1e-12)
