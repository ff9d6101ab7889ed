"""Tests of the Triton kernels under Triton's interpreter, on the CPU: test_triton_kernels.py runs them in a process.

The interpreter must be chosen before Triton is imported.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline
from noise_scheduler_sampling_system.pipeline import prepare
from noise_scheduler_sampling_system.running import device_noise
from noise_scheduler_sampling_system.running.device_noise import DeviceNoise
from noise_scheduler_sampling_system.running.fused import MOST_TERMS, triton_kernel

# ------------------------------------------------------------------------------- one pass a step


def combined(x, a, y, b, terms, keep) -> tuple[Tensor, Tensor | None]:
    after, kept = torch.empty_like(x), torch.empty_like(x) if keep else None
    triton_kernel.launch(triton_kernel._kernel(), after, kept, x, a, y, b, terms, keep)
    return after, kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("terms", [0, 1, 2, 3, MOST_TERMS])
@pytest.mark.parametrize("keep", [None, (0.3, -1.7)])
@pytest.mark.parametrize("on_device", [False, True])
def test_a_step(dtype, terms, keep, on_device):
    """Against float64, rounded once: a step in half precision loses nothing but its last rounding."""
    generator = torch.Generator().manual_seed(terms)
    x, y, *others = (torch.randn(3, 701, generator=generator).to(dtype) for _ in range(2 + terms))
    numbers = [0.9, -1.3, *(0.7 / (k + 1) for k in range(terms))]
    given = [torch.tensor(n) for n in numbers] if on_device else numbers
    pair = tuple(torch.tensor(n) for n in keep) if keep and on_device else keep
    after, kept = combined(x, given[0], y, given[1], list(zip(others, given[2:], strict=True)), pair)
    exact = sum(c * h.double() for c, h in zip(numbers, [x, y, *others], strict=True))
    near = {"atol": 3e-6, "rtol": torch.finfo(dtype).eps}
    torch.testing.assert_close(after.double(), exact, **near)
    if keep is None:
        assert kept is None
    else:
        torch.testing.assert_close(kept.double(), keep[0] * x.double() + keep[1] * y.double(), **near)


def test_nan_and_infinity_pass_through_and_types_mix():
    x, y, h = (torch.randn(2049) for _ in range(3))
    x[5], y[-1] = torch.nan, torch.inf
    after, kept = combined(x, 1.0, y.bfloat16(), 2.0, [(h.half(), 3.0)], (1.0, 1.0))
    assert after.dtype == kept.dtype == torch.float32
    assert after[5].isnan()
    assert after[-1] == kept[-1] == torch.inf
    assert int(after.isfinite().sum()) == 2047
    torch.testing.assert_close(after[:5], x[:5] + 2 * y.bfloat16().float()[:5] + 3 * h.half().float()[:5])


# ------------------------------------------------------------------------------- noise on the device


def block(counter: tuple[int, int, int, int], key: tuple[int, int]) -> list[int]:
    """Philox-4x32-10 in Python's whole numbers."""
    mask = 2**32 - 1
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & mask, (first >> 32) ^ c3 ^ k1, first & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return [c0, c1, c2, c3]


def test_the_reference_has_the_vectors_of_the_paper():
    """Random123, kat_vectors."""
    assert block((0,) * 4, (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = 2**32 - 1
    assert block((ones,) * 4, (ones, ones)) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert block(*pi) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def by_the_document(seed: int, index: int, step: int, stage: int, size: int) -> np.ndarray:
    low, numbers = 2**32, []
    for n in range(-(-size // 4)):
        words = block((n, index % low, index // low, 256 * (step + 1) + stage), (seed % low, seed // low))
        for u, v in (words[:2], words[2:]):
            radius = math.sqrt(-2.0 * math.log((u + 0.5) / 2**32))
            angle = math.pi * (v - 2**32 if v >= 2**31 else v) / 2**31
            numbers += [radius * math.cos(angle), radius * math.sin(angle)]
    return np.array(numbers[:size])


@pytest.mark.parametrize("shape", [(1,), (4,), (3, 7), (2, 3, 200)])
@pytest.mark.parametrize(("step", "stage"), [(-1, 0), (0, 0), (7, 2), (2**24 - 2, 255)])
def test_noise_is_the_documented_algorithm(shape, step, stage):
    keys = [(0, 0), (0, 1), (2**64 - 1, 2**40 - 1), (2**33 + 5, 7)]
    drawn = DeviceNoise(keys, shape)(step, stage)
    assert drawn.shape == (4, *shape)
    for i, key in enumerate(keys):
        exact = by_the_document(*key, step, stage, math.prod(shape))
        np.testing.assert_allclose(drawn[i].flatten().numpy(), exact, atol=2e-6, rtol=2e-6)


#: Of seed 17: the first four numbers of sample 0, initially and at step 5, stage 1.
VECTORS = {
    (-1, 0): [-0.51700486, -1.2335783, 1.67411438, 0.28482914],
    (5, 1): [0.53438109, 0.11607524, 0.3619899, 1.51495864],
}


@pytest.mark.parametrize("key", VECTORS)
def test_vectors(key):
    np.testing.assert_allclose(DeviceNoise([(17, 0)], (3, 4))(*key).flatten()[:4], VECTORS[key], atol=2e-6)
    np.testing.assert_allclose(by_the_document(17, 0, *key, 4), VECTORS[key], atol=1e-7)


def test_a_sample_does_not_depend_on_the_batch_it_is_drawn_in():
    source = DeviceNoise([(5, i) for i in range(9)], (3, 37))
    whole = source(3, 0)
    assert torch.equal(source.part(2, 6)(3, 0), whole[2:6])
    assert torch.equal(DeviceNoise([(5, 8), (5, 1)], (3, 37))(3, 0), whole[[8, 1]])
    assert torch.equal(source.initial(), source(-1, 0))
    for other in (source(3, 1), source(4, 0), DeviceNoise([(6, i) for i in range(9)], (3, 37))(3, 0)):
        assert (whole - other).abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_only_rounds_the_same_numbers(dtype):
    wide, keys = DeviceNoise([(1, 2), (3, 4)], (65,)), [(1, 2), (3, 4)]
    drawn = DeviceNoise(keys, (65,), dtype)(0, 0)
    assert drawn.dtype == dtype
    torch.testing.assert_close(drawn, wide(0, 0).to(dtype), atol=0.0, rtol=torch.finfo(dtype).eps)


def test_the_numbers_are_normal():
    """Over numbers, samples, steps and stages; p-values of single tests, with fixed seeds."""
    source = DeviceNoise([(11, i) for i in range(16)], (4096,))
    drawn = torch.stack([source(step, stage) for step in (0, 1) for stage in (0, 1)]).double()
    x = drawn.flatten().numpy()
    assert stats.kstest(x, "norm").pvalue > 0.01
    assert abs(x.mean()) < 4 / math.sqrt(len(x))
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / len(x))
    assert abs((x**3).mean()) < 4 * math.sqrt(15 / len(x))
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96 / len(x))
    assert np.abs(x).max() > 4
    rows = drawn.reshape(64, 4096).numpy()
    between = np.corrcoef(rows)[np.triu_indices(64, 1)]
    assert np.abs(between).max() < 5 / math.sqrt(4096)
    for lag in (1, 2, 4):
        assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 4 / math.sqrt(len(x))


def test_what_has_no_counter_is_refused():
    source = DeviceNoise([(1, 0)], (2,))
    for step, stage in ((2**24 - 1, 0), (0, 256), (-2, 0)):
        with pytest.raises(ConfigurationError, match="counter"):
            source(step, stage)
    assert DeviceNoise([], (3,))(0, 0).shape == (0, 3)
    assert DeviceNoise([(1, 0)], (0,))(0, 0).shape == (1, 0)


# ------------------------------------------------------------------------------- runs with noise of the device


@pytest.fixture
def on_cpu(monkeypatch):
    """Lets a run on the CPU have the noise of the device, which the interpreter makes."""
    real = device_noise.source_of

    def source_of(made_on, keys, shape, dtype, device):
        if made_on == "cpu":
            return real(made_on, keys, shape, dtype, device)
        return DeviceNoise(keys, shape, dtype, device)

    monkeypatch.setattr(prepare, "source_of", source_of)


def model(x: Tensor, t: Tensor) -> Tensor:
    return 0.5 * torch.tanh(x)


RUN = {"model": model, "shape": (3, 1, 8, 8), "num_inference_steps": 4}


@pytest.mark.usefixtures("on_cpu")
def test_a_run_has_the_stream_that_is_named():
    pipeline = DiffusionPipeline(None, "ddpm")
    samples = pipeline.sample(**RUN, seed=5, noise_device="cuda")
    assert not torch.allclose(samples, pipeline.sample(**RUN, seed=5))
    assert torch.equal(samples, pipeline.sample(**RUN, seed=5, noise_device="cuda", max_batch_size=2))
    alone = pipeline.sample(model, (1, 1, 8, 8), 4, seed=5, first_index=2, noise_device="cuda")
    assert torch.equal(samples[2:], alone)
    with pytest.raises(ConfigurationError, match="Brownian"):
        pipeline.sample(**RUN, seed=5, noise_device="cuda", noise="brownian")


@pytest.mark.usefixtures("on_cpu")
def test_a_run_is_resumed_with_its_stream(tmp_path):
    pipeline = DiffusionPipeline(None, "ddpm")
    steps = list(pipeline.stream(**RUN, seed=5, noise_device="cuda"))
    assert steps[1].state.noise_device == "cuda"
    steps[1].state.save(tmp_path / "state.safetensors")
    for given in ({}, {"noise_device": "cuda"}):
        (*_, last) = pipeline.stream(model, resume=tmp_path / "state.safetensors", **given)
        assert torch.equal(last.x, steps[-1].x)
    host = next(iter(pipeline.stream(**RUN, seed=5))).state
    assert host.noise_device == "cpu"
    with pytest.raises(ConfigurationError, match="'cpu' so far") as raised:
        next(iter(pipeline.stream(model, resume=host, noise_device="cuda")))
    assert raised.value.where == "noise_device"


def test_a_state_with_noise_of_the_device_is_not_resumed_on_a_cpu():
    pipeline = DiffusionPipeline(None, "ddpm")
    state = dataclasses.replace(next(iter(pipeline.stream(**RUN, seed=5))).state, noise_device="cuda")
    with pytest.raises(ConfigurationError, match="the run is on cpu"):
        next(iter(pipeline.stream(model, resume=state, device="cpu")))


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("method", ["ddpm", "dpm2_ancestral", "sa_solver"])
def test_a_captured_run_draws_from_the_keys_of_the_call(method):
    """The program holds no noise and no seed: a replay reads the keys that the call wrote."""
    pipeline = DiffusionPipeline(None, method)
    fast = pipeline.compile(**RUN, noise_device="cuda", backend="eager")
    assert fast._buffers.noises == {}
    for seed in (0, 2**63 + 1, [7, 5, 9]):
        expected = pipeline.sample(**RUN, seed=seed, noise_device="cuda")
        torch.testing.assert_close(fast(seed), expected, atol=1e-5, rtol=1e-5)
