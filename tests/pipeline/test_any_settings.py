"""Whatever is asked for: a finite result, the same as the stream's, or a refusal that says where and what to do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from noise_scheduler_sampling_system import (
    BaseSampler,
    ConfigurationError,
    DiffusionPipeline,
    NoiseSamplingError,
    NoiseSchedulerConfig,
)


class Custom(BaseSampler):
    def step(self, model_output, timestep, sample, noise=None, pred_original_sample=None):
        return 0.7 * sample + 0.3 * pred_original_sample + 0.01 * noise


CONFIGS = st.fixed_dictionaries({
    "num_train_timesteps": st.sampled_from([2, 10, 50, 1000, 4000]),
    "beta_schedule": st.sampled_from(["linear", "cosine", "quadratic", "sigmoid", "exponential"]),
    "beta_end": st.sampled_from([0.0002, 0.02, 0.5, 0.999]),
    "prediction_type": st.sampled_from(["epsilon", "sample", "v_prediction"]),
    "timestep_spacing": st.sampled_from(["leading", "trailing", "linspace"]),
    "variance_type": st.sampled_from(["fixed_small", "fixed_large", "learned", "learned_range"]),
    "rescale_betas_zero_snr": st.booleans(),
    "use_clipped_model_output": st.booleans(),
})  # fmt: skip
CLIPPING = st.sampled_from([
    {}, {"clip_sample": True}, {"thresholding": True, "sample_max_value": 5.0, "sample_padding_threshold": 0.1},
])  # fmt: skip
METHODS = st.sampled_from([
    ("ddpm", {}), ("ddim", {}), ("ddim", {"eta": 0.5}), ("ddim", {"eta": 2.0}), ("pndm", {}), ("heun", {}),
    ("pndm", {"skip_prk_steps": False}), ("ancestral", {}), ("euler", {}), (Custom, {}),
])  # fmt: skip
RUNS = st.fixed_dictionaries({
    "num_inference_steps": st.sampled_from([1, 2, 4, 7, 20]),
    "guidance_scale": st.sampled_from([0.0, 1.0, 3.0, -1.0]),
    "dtype": st.sampled_from([None, torch.float64, torch.float16, torch.bfloat16]),
    "seed": st.integers(0, 99),
})  # fmt: skip


SHAPES = st.sampled_from([(3, 2, 8, 8), (1, 1, 9, 7), (3, 2, 5), (2, 3)])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    CONFIGS, CLIPPING, METHODS, RUNS, st.booleans(), st.sampled_from([(3, 2, 8, 8), (1, 1, 9, 7), (3, 2, 5), (2, 3)])
)
def test_finite_or_refused(config, clipping, method, run, conditional, shape):
    learned = config["variance_type"].startswith("learned")

    def model(x, t, c=None):
        output = 0.7 * torch.tanh(x)
        return torch.cat([output, torch.tanh(-x)], dim=1) if learned else output

    if conditional:
        run = {**run, "condition": {"c": torch.zeros(shape[0], 2)}}
    try:
        pipeline = DiffusionPipeline(NoiseSchedulerConfig(**config, **clipping), method[0], **method[1])
        samples = pipeline.sample(model, shape, max_batch_size=2, **run)
    except NoiseSamplingError as refusal:
        said = (refusal.what, refusal.where, refusal.suggestion)
    else:
        said = None
    if said is not None:
        assert all(said)
        assume(False)  # so that 400 examples run
    assert samples.shape == shape
    assert torch.isfinite(samples).all()
    streamed = list(pipeline.stream(model, shape, **run))[-1].x
    close = 2e-2 if run["dtype"] in (torch.float16, torch.bfloat16) else 1e-4
    torch.testing.assert_close(streamed, samples, rtol=close, atol=close)


def test_coefficients_beyond_the_type_are_refused_before_the_first_call():
    """Levels up to β = 0.5 leave a signal of 1e−67: ε says nothing of the sample there."""
    calls = []
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_end=0.5, timestep_spacing="trailing"))
    with pytest.raises(ConfigurationError, match="almost no signal"):
        pipeline.sample(lambda x, t: calls.append(t) or x, (1, 4), 5)
    assert calls == []
    DiffusionPipeline(
        NoiseSchedulerConfig(num_train_timesteps=4000, beta_end=0.5, prediction_type="v_prediction")
    ).sample(lambda x, t: x, (1, 4), 5)
