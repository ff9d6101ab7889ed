"""Clipping and dynamic thresholding against their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from noise_scheduler_sampling_system import NoiseSchedulerConfig
from noise_scheduler_sampling_system.running.clipping import clip_of, dynamic_threshold


def naive_threshold(clean: Tensor, config: NoiseSchedulerConfig) -> Tensor:
    """The definition, sample by sample: Imagen's rule, with padding left out and s limited."""
    out = []
    for sample in clean:
        magnitudes = sample.abs()[sample.abs() >= config.sample_padding_threshold]
        s = config.sample_padding_norm
        if magnitudes.numel():
            quantile = torch.quantile(magnitudes, config.dynamic_thresholding_ratio).item()
            s = min(max(quantile, config.sample_padding_norm), config.sample_max_value)
        out.append(sample.clamp(-s, s) / s)
    return torch.stack(out)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(1, 1), (3, 7), (2, 3, 4, 4), (4, 1, 1, 1)]),
    spread=st.floats(0.1, 20),
    ratio=st.floats(0.01, 1.0),
    norm=st.floats(0.05, 2.0),
    room=st.floats(0.01, 10),
    padding=st.sampled_from([0.0, 0.1, 1.0, 1e6]),
)
def test_dynamic_thresholding_is_its_definition(seed, shape, spread, ratio, norm, room, padding):
    config = NoiseSchedulerConfig(
        thresholding=True, dynamic_thresholding_ratio=ratio, sample_padding_norm=norm, sample_max_value=norm + room,
        sample_padding_threshold=padding,
    )  # fmt: skip
    clean = spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted = naive_threshold(clean, config)
    got = clip_of(config)(clean.clone())
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    assert got.abs().max() <= 1.0


def test_padding_is_left_out_of_the_quantile():
    """A sample of mostly zeros: with τ = 0 the quantile drowns in them."""
    clean = torch.zeros(1, 100)
    clean[0, :10] = torch.linspace(2, 3, 10)
    kinds = {"ratio": 0.5, "smallest": 1.0, "largest": 10.0}
    assert dynamic_threshold(clean.clone(), **kinds, padding=0.0).max() == 1.0
    assert dynamic_threshold(clean.clone(), **kinds, padding=0.0)[0, 0] == 1.0, "s is the norm: all ten are cut"
    kept = dynamic_threshold(clean.clone(), **kinds, padding=0.5)
    torch.testing.assert_close(kept[0, 0], torch.tensor(2.0 / 2.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_thresholding_in_half_precision_takes_its_quantile_in_full(dtype):
    clean = (3 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))).to(dtype)
    got = dynamic_threshold(clean.clone(), ratio=0.995)
    assert got.dtype == dtype
    wanted = dynamic_threshold(clean.double(), ratio=0.995)
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_clipping_is_a_clamp_to_the_range():
    clean = torch.tensor([[-3.0, -0.5, 0.2, 7.0]])
    assert clip_of(NoiseSchedulerConfig(clip_sample=True, clip_sample_range=0.4))(clean.clone()).tolist() == [
        pytest.approx([-0.4, -0.4, 0.2, 0.4])
    ]
    assert clip_of(NoiseSchedulerConfig()) is None
