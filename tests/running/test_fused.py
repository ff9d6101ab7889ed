"""One pass a step: the kernel against the eager path, and where it stays out."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import DiffusionPipeline, SamplingMethod
from noise_scheduler_sampling_system.config.prediction import IDENTITY, Affine
from noise_scheduler_sampling_system.running import fused, kernels
from sampler_names import TWO_TIMES

#: Also sizes that are no multiple of the kernel's block.
SIZES = [fused.WORTH_FUSING, fused.WORTH_FUSING + 1, (1 << 21) + 4097]


def tensors(count: int, size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(size)
    return [torch.randn(size, generator=generator) for _ in range(count)]


@pytest.fixture(scope="module", autouse=True)
def _needs_a_compiler():
    if fused.kernel() is None:
        pytest.fail("this machine has no C compiler; the tests of the kernel need one (apt-get install gcc)")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("terms", [0, 1, 2, 3, fused.MOST_TERMS])
@pytest.mark.parametrize("keep", [None, IDENTITY, Affine(0.3, -1.7)])
def test_the_kernel_computes_what_a_step_says(size, terms, keep):
    x, y, *others = tensors(2 + terms, size)
    factors = [0.9, -1.3, *(0.7 / (k + 1) for k in range(terms))]
    after, kept = kernels.combine(x, *factors[:1], y, factors[1], list(zip(others, factors[2:], strict=True)), keep)
    exact = sum(c * h.double() for c, h in zip(factors, [x, y, *others], strict=True))
    torch.testing.assert_close(after.double(), exact, atol=2e-6, rtol=1e-6)
    if keep is None:
        assert kept is None
    elif keep is IDENTITY:
        assert kept is y
    else:
        assert kept is not None
        torch.testing.assert_close(kept.double(), 0.3 * x.double() - 1.7 * y.double(), atol=1e-6, rtol=1e-6)


def test_more_terms_than_the_kernel_has_take_the_eager_path():
    x, y, *others = tensors(3 + fused.MOST_TERMS, SIZES[0])
    assert fused.fused_combination(x, 1.0, y, 1.0, [(h, 1.0) for h in others], None) is None
    after, _ = kernels.combine(x, 1.0, y, 1.0, [(h, 1.0) for h in others], None)
    torch.testing.assert_close(after, torch.stack([x, y, *others]).sum(0), atol=1e-5, rtol=1e-5)


def test_nan_and_infinity_pass_through():
    x, y, h = tensors(3, SIZES[0])
    h[17], y[-1] = torch.nan, torch.inf
    after, kept = kernels.combine(x, 1.0, y, 2.0, [(h, 3.0)], Affine(1.0, 1.0))
    assert after[17].isnan()
    assert after[-1] == torch.inf
    assert kept is not None
    assert kept[-1] == torch.inf
    assert int(after.isfinite().sum()) == SIZES[0] - 2


def test_what_the_kernel_cannot_read_takes_the_eager_path():
    x, y, h = tensors(3, SIZES[0])
    strided = torch.stack([y, y], dim=1)[:, 0]
    tracked = y.clone().requires_grad_()
    for other in (y.double(), y.bfloat16(), strided, tracked):
        assert fused.fused_combination(x, 1.0, other, 1.0, [(h, 1.0)], None) is None
    with torch.no_grad():  # without a graph to record, a tensor that requires a gradient is plain
        assert fused.fused_combination(x, 1.0, tracked, 1.0, [(h, 1.0)], None) is not None
    after, _ = kernels.combine(x, 1.0, tracked, 2.0, [(h, 1.0)], None)
    (gradient,) = torch.autograd.grad(after.sum(), tracked)
    assert torch.equal(gradient, torch.full_like(y, 2.0))
    vmapped = torch.vmap(lambda x, y, h: kernels.combine(x, 1.0, y, 2.0, [(h, 3.0)], None)[0])
    stacked = vmapped(*(torch.stack([each, each]) for each in (x, y, h)))
    torch.testing.assert_close(stacked[1], x + 2.0 * y + 3.0 * h)


@pytest.mark.parametrize("method", [m for m in SamplingMethod if m.value != "adaptive"])
def test_samples_with_and_without_the_kernel_agree(method, monkeypatch):
    """Large states, through the real loop."""
    pipeline = DiffusionPipeline(None, method)
    if not pipeline.sampler.writes_plans:
        pytest.skip("it has no plan")
    run = {"shape": (64, 1, 32, 32), "num_inference_steps": 5, "seed": 0}

    def at_one_time(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x) * 0.5

    def at_two_times(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return torch.tanh(x) * 0.5

    model = at_two_times if method.value in TWO_TIMES else at_one_time
    with_kernel = pipeline.sample(model, **run)
    monkeypatch.setattr(kernels, "WORTH_FUSING", 1 << 60)
    without = pipeline.sample(model, **run)
    scale = float(without.abs().max())
    np.testing.assert_allclose(with_kernel / scale, without / scale, atol=5e-6)


def test_it_is_left_out_with_one_line_where_it_cannot_be_made(monkeypatch, caplog):
    monkeypatch.setenv("CC", "/bin/false")
    fused.kernel.cache_clear()
    try:
        x, y, h = tensors(3, SIZES[0])
        with caplog.at_level(logging.INFO, logger=fused.__name__):
            for _ in range(2):
                after, _ = kernels.combine(x, 1.0, y, 2.0, [(h, 3.0)], None)
        assert len(caplog.records) == 1
        torch.testing.assert_close(after, x + 2.0 * y + 3.0 * h)
        monkeypatch.setenv("NOISE_SAMPLING_KERNELS", "off")
        fused.kernel.cache_clear()
        assert fused.kernel() is None
    finally:
        monkeypatch.undo()
        fused.kernel.cache_clear()
