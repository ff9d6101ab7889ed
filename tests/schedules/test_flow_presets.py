"""The presets of flow models and of audio against the public schedulers, set up as their pipelines set them up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    FlowPath,
    NoiseSchedulerConfig,
    models,
)
from noise_scheduler_sampling_system.config.registries import PRESETS
from noise_scheduler_sampling_system.schedules import TrigFlowPath, flux2_shift

#: 512×512, 1024×1024 and 2048×1024.
TOKENS = (1024, 4096, 8192)
#: Rounding of diffusers' float32 tables; UniPC there also lowers a first σ of 1 by 1e-6.
ROUNDING = 1.2e-6
#: Here the law of Ideogram's levels is cut to the range, there its first quantile is clamped to it.
TOLERANCE = {"ideogram-4": 5e-6}


def even(steps: int) -> np.ndarray:
    """The σ that most pipelines hand over."""
    return np.linspace(1.0, 1.0 / steps, steps)


def flow_match(config: dict[str, Any], mu: Callable[[int, int], float] | None = None) -> Callable[..., Any]:
    def set_up(steps: int, tokens: int) -> Any:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**config)
        scheduler.set_timesteps(sigmas=even(steps), **({"mu": mu(tokens, steps)} if mu else {}))
        return scheduler

    return set_up


def linear_mu(base: float, most: float, short: int, long: int) -> Callable[[int, int], float]:
    """What QwenImagePipeline, LTX2Pipeline and Krea2Pipeline compute from the scheduler's config."""

    def mu(tokens: int, steps: int) -> float:
        from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

        return calculate_shift(tokens, short, long, base, most)

    return mu


def flux2_mu(tokens: int, steps: int) -> float:
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    return compute_empirical_mu(tokens, steps)


def dynamic(base: float, most: float, short: int, long: int, **more: Any) -> Callable[..., Any]:
    names = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")
    config = {"use_dynamic_shifting": True, **dict(zip(names, (base, most, short, long), strict=True)), **more}
    return flow_match(config, linear_mu(base, most, short, long))


def ideogram(steps: int, tokens: int) -> Any:
    from diffusers.pipelines.ideogram4.pipeline_ideogram4 import _logit_normal_sigmas, _resolution_aware_mu

    mu = _resolution_aware_mu(height=512, width=tokens // 2, base_mu=0.0)  # tokens are (height/16)·(width/16)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=_logit_normal_sigmas(steps, mu, std=1.5).tolist())
    return scheduler


def stable_audio_3(steps: int, tokens: int) -> Any:
    from diffusers.pipelines.stable_audio_3.pipeline_stable_audio_3 import logsnr_sigma_schedule

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=logsnr_sigma_schedule(steps, -6.2, 2.0))
    return scheduler


def unipc(shift: float) -> Callable[..., Any]:
    def set_up(steps: int, tokens: int) -> Any:
        scheduler = diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, flow_shift=shift, prediction_type="flow_prediction"
        )
        scheduler.set_timesteps(steps)
        return scheduler

    return set_up


def dpm(steps: int, tokens: int) -> Any:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    scheduler.set_timesteps(steps)
    return scheduler


def minimax(shift: float) -> Callable[..., Any]:
    def set_up(steps: int, tokens: int) -> Any:
        scheduler = diffusers.MiniMaxH3Scheduler(shift=shift)
        scheduler.set_timesteps(steps + 1)
        return scheduler

    return set_up


#: How the pipelines of diffusers make the σ of a run.
FLOW = {
    "sd3": flow_match({"shift": 3.0}),
    "flux-dev": dynamic(0.5, 1.15, 256, 4096),
    "flux-schnell": flow_match({"shift": 1.0}),
    "flux-2": flow_match({"shift": 3.0, "use_dynamic_shifting": True}, flux2_mu),
    "flux-2-klein": flow_match({"shift": 3.0, "use_dynamic_shifting": True}, flux2_mu),
    "qwen-image": dynamic(0.5, 0.9, 256, 8192, shift_terminal=0.02),
    "z-image": flow_match({"shift": 6.0}),
    "z-image-turbo": flow_match({"shift": 3.0}),
    "krea-2": dynamic(0.5, 1.15, 256, 6400),
    "krea-2-turbo": flow_match({"use_dynamic_shifting": True}, lambda tokens, steps: 1.15),
    "ideogram-4": ideogram,
    "sana": dpm,
    "wan-2.1-480p": unipc(3.0),
    "wan-2.1-720p": unipc(5.0),
    "wan-2.2-t2v": unipc(12.0),
    "wan-2.2-i2v": unipc(5.0),
    "wan-2.2-ti2v-5b": unipc(5.0),
    "ltx-2": dynamic(0.95, 2.05, 1024, 4096, shift_terminal=0.1),
    "hunyuan-video": flow_match({"shift": 7.0}),
    "hunyuan-video-1.5-480p": flow_match({"shift": 5.0}),
    "hunyuan-video-1.5-720p": flow_match({"shift": 9.0}),
    "hunyuan-video-1.5-720p-i2v": flow_match({"shift": 7.0}),
    "minimax-h3": minimax(12.0),
    "minimax-h3-audio": minimax(3.0),
    "stable-audio-3": stable_audio_3,
    "stable-audio-3-base": stable_audio_3,
}


@pytest.mark.parametrize("name", FLOW)
def test_the_levels_of_a_flow_preset_are_those_of_its_public_pipeline(name):
    """For the authors' number of steps and two others, and three sizes where the levels depend on it."""
    preset = PRESETS.get(name)
    for tokens in TOKENS if preset.by_tokens else (None,):
        pipeline = DiffusionPipeline(NoiseSchedulerConfig.preset(name, tokens=tokens), preset.sampler)
        for steps in (preset.steps or 49, 4, 33):
            theirs = FLOW[name](steps, tokens)
            grid = pipeline.grid(steps)
            np.testing.assert_allclose(
                [level.sigma for level in grid.levels], theirs.sigmas, rtol=0, atol=TOLERANCE.get(name, ROUNDING),
                err_msg=f"{name}, {steps} steps, {tokens} tokens",
            )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FLOW if PRESETS.get(name).by_tokens])
def test_the_fields_of_a_preset_are_those_of_its_number_of_tokens(name):
    preset = PRESETS.get(name)
    assert preset.fields == preset.by_tokens(preset.tokens)
    assert NoiseSchedulerConfig.preset(name) == NoiseSchedulerConfig.preset(name, tokens=preset.tokens)
    assert NoiseSchedulerConfig.preset(name) != NoiseSchedulerConfig.preset(name, tokens=preset.tokens // 2)


@pytest.mark.parametrize(("name", "tokens", "what"), [("sd3", 4096, "same for every size"), ("flux-2", 0, "got 0"),
                                                      ("flux-2", 40.5, "got 40.5")])  # fmt: skip
def test_wrong_numbers_of_tokens_are_refused(name, tokens, what):
    with pytest.raises(ConfigurationError, match=what) as caught:
        NoiseSchedulerConfig.preset(name, tokens=tokens)
    assert caught.value.where == "tokens"


def test_flux2_shift_is_the_published_fit():
    for tokens in (256, 4096, 4300, 4301, 16384):
        for steps in (1, 4, 10, 50, 200):
            assert flux2_shift(tokens, steps) == pytest.approx(math.exp(flux2_mu(tokens, steps)), rel=1e-6)
    with pytest.raises(ConfigurationError, match="tokens"):
        flux2_shift(0, 10)


# ------------------------------------------------------------------------------- other paths


@pytest.mark.parametrize(("name", "snr_shift"), [("cogvideox-2b", 3.0), ("cogvideox-5b", 1.0)])
def test_cogvideox_is_that_of_its_scheduler(name, snr_shift):
    theirs = diffusers.CogVideoXDDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type="v_prediction",
        rescale_betas_zero_snr=True, snr_shift_scale=snr_shift, timestep_spacing="trailing",
    )  # fmt: skip
    pipeline = DiffusionPipeline(NoiseSchedulerConfig.preset(name), "ddim")
    for steps in (50, 4, 33):
        theirs.set_timesteps(steps)
        levels = pipeline.grid(steps).levels[:-1]
        assert [level.t for level in levels] == theirs.timesteps.tolist()
        alpha = np.sqrt(theirs.alphas_cumprod.numpy()[theirs.timesteps])
        np.testing.assert_allclose([level.alpha for level in levels], alpha, rtol=0, atol=2e-6)


def test_stable_audio_is_that_of_its_scheduler():
    theirs = diffusers.CosineDPMSolverMultistepScheduler()
    pipeline = DiffusionPipeline(NoiseSchedulerConfig.preset("stable-audio"), "dpmpp_2m_sde")
    for steps in (100, 4, 33):
        theirs.set_timesteps(steps)
        levels = pipeline.grid(steps).levels[:-1]
        np.testing.assert_allclose([level.noise_to_signal for level in levels], theirs.sigmas[:-1], rtol=1e-6)
        np.testing.assert_allclose([level.t for level in levels], theirs.timesteps, rtol=0, atol=ROUNDING)


def test_sana_sprint_is_scm_on_the_straight_path():
    """The grid of SCM; and the pipeline's conversions make of a flow network the network of TrigFlow."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig.preset("sana-sprint"), "lcm")
    for steps in (2, 1, 4):
        theirs = diffusers.SCMScheduler()
        theirs.set_timesteps(steps, intermediate_timesteps=1.3 if steps == 2 else None)
        levels = pipeline.grid(steps).levels
        angles = [math.atan2(level.sigma, level.alpha) for level in levels]
        np.testing.assert_allclose(angles, theirs.timesteps, rtol=0, atol=4e-6)  # 1.5708 stands for π/2 there
    t, trig = 0.8, TrigFlowPath()
    x0, noise = torch.randn(2, 5, dtype=torch.float64)
    s = math.sin(t) / (math.sin(t) + math.cos(t))  # what SanaSprintPipeline tells the network, and shows it:
    norm = math.sqrt(s**2 + (1 - s) ** 2)
    shown = trig.add_noise(x0, noise, t) * norm
    straight = FlowPath(time_scale=1.0)
    torch.testing.assert_close(shown, straight.add_noise(x0, noise, s))
    flow = straight.target(x0, noise, s)
    torch.testing.assert_close(((1 - 2 * s) * shown + (1 - 2 * s + 2 * s**2) * flow) / norm, trig.target(x0, noise, t))


def test_towards_data_turns_time_and_sign():
    path = FlowPath(time_scale=1.0)
    exact = models.GaussianModel(path, mean=0.2, covariance=0.5)
    turned = models.TowardsData(lambda x, t, shift=0.0: -exact(x, 1.0 - t) + shift)
    x, sigma = torch.randn(3, 4, dtype=torch.float64), torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    torch.testing.assert_close(turned(x, sigma), exact(x, sigma))
    torch.testing.assert_close(turned(x, sigma, shift=1.0), exact(x, sigma) - 1.0)
    run = {"initial_noise": x, "num_inference_steps": 4, "dtype": torch.float64}
    pipeline = DiffusionPipeline(NoiseSchedulerConfig.preset("z-image"), "euler")
    torch.testing.assert_close(pipeline.sample(turned, **run), pipeline.sample(exact, **run))
    with pytest.raises(ConfigurationError, match="NoneType"):
        models.TowardsData(None)
