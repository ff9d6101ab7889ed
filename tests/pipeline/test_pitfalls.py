"""What went wrong in reviews by users' eyes: each of these once gave a wrong result or a bare error."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from noise_scheduler_sampling_system import (
    BaseSampler,
    BetaSchedule,
    ConfigurationError,
    CosineNoiseScheduler,
    DDIMSampler,
    DiffusionPipeline,
    LinearNoiseScheduler,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    NumericsError,
    SamplerFactory,
)
from noise_scheduler_sampling_system.plans.builder import PlanBuilder
from noise_scheduler_sampling_system.running.clipping import dynamic_threshold
from noise_scheduler_sampling_system.running.kernels import pair
from noise_scheduler_sampling_system.schedules import CLEAN, Level

SHAPE = (2, 3, 8, 8)


def network(x, t, **_):
    return torch.tanh(0.5 * x) * 0.8


def start(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


class Plain(BaseSampler):
    """A step-only sampler as a newcomer writes it."""

    def step(self, model_output, timestep, sample):
        alpha_bar = self.scheduler.alphas_cumprod[timestep]
        clean = (sample - (1 - alpha_bar).sqrt() * model_output) / alpha_bar.sqrt()
        return (0.9 * sample + 0.1 * clean).float()


def test_a_step_must_be_told_where_to_go():
    """The loop that everyone from diffusers writes would jump to the clean sample at every call."""
    sampler, x = SamplerFactory.create("ddim"), start()
    with pytest.raises(ConfigurationError, match="neither next_timestep nor state"):
        sampler.step(network(x, 950), 950, x)
    ours = sampler.step(network(x, 950), 950, x, next_timestep=torch.tensor(900)).prev_sample
    (now, after) = sampler.scheduler.levels([950, 900])
    clean = (x - now.sigma * network(x, 950)) / now.alpha
    torch.testing.assert_close(ours, after.alpha * clean + after.sigma * network(x, 950))


def test_noise_before_the_first_call_is_a_row_without_one():
    now = Level(900.0, 0.1, 0.99)
    louder = Level(950.0, 0.1, 2.0)
    build = PlanBuilder("sample")
    build.advance(build.x + (louder.sigma**2 - now.sigma**2) ** 0.5 * build.noise(0))
    p = build.predict(louder, 0)
    build.advance(p.sample)
    plan = build.build(CLEAN, 1.0)
    assert (len(plan), plan.nfe, plan.asked) == (2, 1, (False, True))
    assert plan.c[0, 0] ** 2 + now.sigma**2 == pytest.approx(louder.sigma**2)


def test_each_noise_has_a_row():
    now, after = Level(900.0, 0.1, 0.995), Level(500.0, 0.6, 0.8)
    build = PlanBuilder("sample")
    p = build.predict(now, 0)
    first, second = build.noise(0), build.noise(0)
    build.advance(after.alpha * p.sample + 0.3 * first + 0.4 * second)
    last = build.predict(after, 1)
    build.advance(last.sample + 0.0 * second)
    plan = build.build(CLEAN, 1.0)
    assert plan.asked == (True, False, True)
    assert plan.noise_key.tolist() == [[0, 0], [0, 1], [-1, -1]]
    assert plan.c[:, 0].tolist() == [0.3, 0.4, 0.0]


def test_a_plan_that_makes_noise_is_refused():
    """Right for the data, wrong for the noise: five times too much of it is left."""
    now, after = Level(900.0, 0.1, 0.995), Level(500.0, 0.6, 0.8)
    build = PlanBuilder("sample")
    p = build.predict(now, 0)
    build.advance(after.alpha * p.sample + 5 * after.sigma * p.epsilon)
    with pytest.raises(NumericsError, match="constant noise"):
        build.build(after, 1.0)
    assert np.abs(SamplerFactory.create("pndm").plan(20).noise_residual).max() < 1e-12


@pytest.mark.parametrize("how", ["timesteps", "plan"])
def test_pure_noise_cannot_start_at_a_clean_level(how):
    pipeline = DiffusionPipeline()
    given = {"timesteps": [100, 50, 0]}
    if how == "plan":
        given = {"plan": pipeline.plan(**given)}
    with pytest.raises(ConfigurationError, match="signal outweighs noise"):
        pipeline.sample(network, SHAPE, **given)
    with pytest.raises(ConfigurationError, match="signal outweighs noise"):
        pipeline.stream(network, SHAPE, **given)


def test_image_to_image():
    """From a noised image, as it is; with a model that knows the image, the way leads back to it."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(prediction_type="sample"))
    image, noise = start(1).clamp(-1, 1), start(2)
    times = [400, 200, 0]
    x = pipeline.scheduler.add_noise(image, noise, times[0])
    kept = x.clone()
    for run in (
        lambda **k: pipeline.sample(lambda x, t: image, timesteps=times, **k),
        lambda **k: list(pipeline.stream(lambda x, t: image, timesteps=times, **k))[-1].x,
    ):
        torch.testing.assert_close(run(initial_sample=x), image)
        assert torch.equal(x, kept)
    first = next(pipeline.stream(lambda x, t: image, timesteps=times, initial_sample=x))
    after = pipeline.scheduler.level(200.0)
    torch.testing.assert_close(first.x, after.alpha * image + after.sigma * noise)
    halves = pipeline.sample(lambda x, t: torch.tanh(x), timesteps=times, initial_sample=x, max_batch_size=1)
    torch.testing.assert_close(halves, pipeline.sample(lambda x, t: torch.tanh(x), timesteps=times, initial_sample=x))
    with pytest.raises(ConfigurationError, match="beside initial_noise"):
        pipeline.sample(network, timesteps=times, initial_sample=x, initial_noise=x)


def test_a_custom_step_can_have_the_clipped_prediction(caplog):
    class Clipped(BaseSampler):
        def step(self, model_output, timestep, sample, *, pred_original_sample, epsilon, next_timestep):
            assert pred_original_sample.abs().max() <= 0.5
            if next_timestep is None:
                return {"prev_sample": pred_original_sample}
            after = self.scheduler.level(next_timestep)
            return (after.alpha * pred_original_sample + after.sigma * epsilon, "more")

    config = NoiseSchedulerConfig(clip_sample=True, clip_sample_range=0.5, prediction_type="v_prediction")
    custom = DiffusionPipeline(config, Clipped).sample(network, SHAPE, 10, seed=1)
    torch.testing.assert_close(custom, DiffusionPipeline(config, "ddim").sample(network, SHAPE, 10, seed=1))
    assert "clipping and thresholding" not in caplog.text
    DiffusionPipeline(config, Plain).sample(network, SHAPE, 10, seed=1)
    assert "clipping and thresholding do not act" in caplog.text


def test_a_custom_step_gets_the_mean_and_the_variance():
    class Learned(BaseSampler):
        def step(self, model_output, timestep, sample, learned_variance=None):
            assert model_output.shape == learned_variance.shape == sample.shape
            return sample + learned_variance

    def wide(x, t):
        return torch.cat([x, torch.ones_like(x)], dim=1)

    config = NoiseSchedulerConfig(variance_type="learned_range")
    x = start()
    result = DiffusionPipeline(config, Learned).sample(wide, num_inference_steps=4, initial_noise=x)
    torch.testing.assert_close(result, x + 4)


def test_a_custom_step_may_work_in_place():
    class InPlace(BaseSampler):
        def step(self, model_output, timestep, sample):
            sample -= 0.1 * model_output
            return sample

    steps = list(DiffusionPipeline(method=InPlace).stream(network, SHAPE, 4, seed=0))
    assert len({step.x.data_ptr() for step in steps}) == 4
    assert not torch.equal(steps[0].x, steps[3].x)


def test_resume_and_replay_know_the_sampler():
    class Scaled(BaseSampler):
        option_defaults = {"gamma": 0.1}

        def step(self, model_output, timestep, sample):
            return sample - self.options["gamma"] * model_output

    slow = DiffusionPipeline(None, Scaled, gamma=0.1)
    state = next(slow.stream(network, SHAPE, 4, seed=0)).state
    with pytest.raises(ConfigurationError, match="other settings"):
        DiffusionPipeline(None, Scaled, gamma=0.9).stream(network, resume=state)
    result = slow.sample(network, SHAPE, 4, seed=0, return_result=True)
    with pytest.raises(ConfigurationError, match="step-only sampler Scaled"):
        DiffusionPipeline(None, "ddim").sample(network, SHAPE, plan=result.plan)


def test_a_plan_of_another_schedule_is_refused():
    plan = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="cosine")).plan(5)
    with pytest.raises(ConfigurationError, match="another noise schedule"):
        DiffusionPipeline().sample(network, SHAPE, plan=plan)
    longer = DiffusionPipeline(NoiseSchedulerConfig(num_train_timesteps=500)).plan(5)
    with pytest.raises(ConfigurationError, match="another noise schedule"):
        DiffusionPipeline().sample(network, SHAPE, plan=longer)


def test_the_canonical_form_does_not_confuse_clipped_and_raw():
    config = NoiseSchedulerConfig(clip_sample=True, use_clipped_model_output=False)
    plan = DiffusionPipeline(config).plan(5)
    with pytest.raises(NumericsError, match="unclipped"):
        plan.with_canonical(*plan.canonical())


def test_the_gradient_of_dynamic_thresholding():
    x = (3 * torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: dynamic_threshold(v * 1.0, ratio=0.8, smallest=0.5, largest=9.0), x)


def test_a_scheduler_is_as_good_as_a_config():
    class Own(LinearNoiseScheduler.__base__):
        def _get_beta_schedule(self):
            return [0.001 + 0.01 * u**4 for u in self.grid_fractions]

    pipeline = DiffusionPipeline(Own(num_train_timesteps=100), "heun")
    assert pipeline.scheduler.betas[-1] == pytest.approx(0.011)
    pipeline.update_config(prediction_type="sample")
    assert isinstance(pipeline.scheduler, Own)
    assert pipeline.config.num_train_timesteps == 100
    with pytest.raises(ConfigurationError, match="got NoiseSchedulerConfig"):
        DDIMSampler(NoiseSchedulerConfig())


def test_objects_in_place_of_names():
    config = NoiseSchedulerConfig(beta_end=0.03)
    scheduler = NoiseSchedulerFactory.create(BetaSchedule.COSINE, config)
    assert type(scheduler) is CosineNoiseScheduler
    assert scheduler.config.beta_end == 0.03
    with pytest.raises(ConfigurationError, match="two configs"):
        NoiseSchedulerFactory.create(config, config)
    pipeline = DiffusionPipeline(scheduler, DDIMSampler(scheduler, eta=0.7))
    named = DiffusionPipeline(scheduler, "ddim", eta=0.7)
    assert pipeline.plan(5) == named.plan(5)
    assert (
        (pipeline.method, pipeline.sampler_options) == ("ddim", {"eta": 0.7}) == (named.method, named.sampler_options)
    )
    pipeline.update_config(beta_schedule="linear")
    assert pipeline.plan(5) == DiffusionPipeline(pipeline.config, "ddim", eta=0.7).plan(5) != named.plan(5)
    with pytest.raises(ConfigurationError, match="has its options already"):
        DiffusionPipeline(scheduler, DDIMSampler(scheduler), eta=0.7)
    assert DiffusionPipeline(scheduler, Plain).method == "Plain"


def test_add_noise_in_training_code():
    path, x0, noise = LinearNoiseScheduler(), start(1), start(2)
    expected = path.add_noise(x0, noise, torch.tensor([10, 700]))
    for t in ([10, 700], np.array([10, 700]), torch.tensor([10, 700], dtype=torch.int32)):
        assert torch.equal(path.add_noise(x0, noise, t), expected)
    mapped = torch.func.vmap(lambda x, n, t: path.add_noise(x[None], n[None], t)[0])(x0, noise, torch.tensor([10, 700]))
    torch.testing.assert_close(mapped, expected)
    compiled = torch.compile(path.add_noise, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x0, noise, torch.tensor([10, 700])), expected)


@pytest.mark.parametrize("label", [3, [3, 3], np.array([3, 3]), torch.tensor([3, 3])])
@pytest.mark.parametrize("null", [10, torch.tensor([10, 10]), None])
def test_labels_of_any_kind(label, null):
    pipeline = DiffusionPipeline()
    expected = pipeline.sample(
        shape=(2, 1, 8, 8), num_inference_steps=4, seed=0, guidance_scale=2.0,
        condition={"class_labels": torch.tensor([3, 3])},
    )  # fmt: skip
    null_condition = None if null is None else {"class_labels": null}
    samples = pipeline.sample(
        shape=(2, 1, 8, 8), num_inference_steps=4, seed=0, guidance_scale=2.0,
        condition={"class_labels": label}, null_condition=null_condition,
    )  # fmt: skip
    torch.testing.assert_close(samples, expected)


def test_autocast_does_not_touch_the_state():
    x, y = torch.randn(1 << 15), torch.randn(1 << 15)
    expected = pair(x, 0.9, y, 0.3)
    enabled = torch.is_autocast_enabled()
    torch.set_autocast_enabled(True)
    try:
        assert torch.equal(pair(x, 0.9, y, 0.3), (x * 0.9).add_(y, alpha=0.3))
    finally:
        torch.set_autocast_enabled(enabled)
    torch.testing.assert_close(expected, 0.9 * x + 0.3 * y)


def test_a_plan_in_hand_is_still_checked_when_changed():
    plan = SamplerFactory.create("euler").plan(5)
    with pytest.raises(NumericsError, match="constant"):
        dataclasses.replace(plan, a=plan.a * 1.001).checked()
    assert plan.alpha[-1] == CLEAN.alpha


def test_a_traced_run_leaves_nothing_behind():
    """A run under PyTorch's fake tensors works, and a real one after it does, too."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from noise_scheduler_sampling_system.running.kernels import _constants

    _constants.clear()
    for size in (1 << 10, 1 << 16):
        with FakeTensorMode():
            x, y = torch.randn(size), torch.randn(size)
            assert pair(x, 0.9, y, 0.3).shape == (size,)
        x, y = torch.randn(size), torch.randn(size)
        torch.testing.assert_close(pair(x, 0.9, y, 0.3), 0.9 * x + 0.3 * y)
    assert all(type(constant) is torch.Tensor for constant in _constants.values())
