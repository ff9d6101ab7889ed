"""No run on CUDA waits for the device before its final check: proven without a GPU, on tensors without memory.

PyTorch's fake tensors on a fake CUDA device raise where a value is read (``item``, ``bool``, ``nonzero``). A mode above
them sees each copy between host and device, which waits unless it is asked not to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, SamplingMethod
from noise_scheduler_sampling_system.guidance import (
    AdaptiveProjected,
    CachedGuidance,
    ClassifierFree,
    Interval,
    Rescale,
)
from noise_scheduler_sampling_system.pipeline import compiled, compiled_run, execute, prepare, prepared_run
from noise_scheduler_sampling_system.running import device_noise, fused, noise_keys
from noise_scheduler_sampling_system.running.faults import FiniteWatch
from noise_scheduler_sampling_system.running.fused import triton_kernel
from noise_scheduler_sampling_system.running.noise import NoiseSource
from noise_scheduler_sampling_system.running.output_check import Look
from sampler_names import ONE_TIME, TWO_TIMES

CUDA = torch.device("cuda:0")
SHAPE = (2, 3, 64, 64)


class Waits(TorchDispatchMode):
    """Raises at a copy between host and device that waits."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default:
            places = {args[0].device.type, torch.device(kwargs.get("device") or args[0].device).type}
            waits = not kwargs.get("non_blocking", False)
        elif function is torch.ops.aten.copy_.default:
            places, waits = {args[0].device.type, args[1].device.type}, not (len(args) > 2 and args[2])
        else:
            places, waits = set(), False
        if len(places) == 2 and waits:
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **kwargs)


class WithoutGuards(TorchFunctionMode):
    """Calls two functions by other names: PyTorch without CUDA refuses them on a fake CUDA device."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.__getitem__:
            return indexed(*args)
        if function is Tensor.copy_:
            return torch.ops.aten.copy_.default(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def indexed(x: Tensor, index: Any) -> Tensor:
    """x[index] for numbers, slices and None."""
    dim = 0
    for each in index if isinstance(index, tuple) else (index,):
        if isinstance(each, int):
            x = x.select(dim, each)
            continue
        if isinstance(each, slice):
            x = torch.ops.aten.slice.Tensor(x, dim, each.start, each.stop, each.step or 1)
        else:
            assert each is None
            x = x.unsqueeze(dim)
        dim += 1
    return x


@pytest.fixture
def on_cuda(monkeypatch) -> list[int]:
    """Runs go to a fake CUDA device; returns the number of elements of each final check."""
    checks: list[int] = []

    def all_finite(self: FiniteWatch, last: Tensor) -> bool:
        checks.append(last.numel())
        return True

    def on_host(self: NoiseSource, step: int, stage: int) -> Tensor:
        return torch.empty((len(self.keys), *self.shape))

    monkeypatch.setattr(FiniteWatch, "all_finite", all_finite)
    monkeypatch.setattr(NoiseSource, "on_host", on_host)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(prepare, "resolve_device", lambda *_: CUDA)
    monkeypatch.setattr(prepared_run, "refuse_too_large", lambda *_: None)
    monkeypatch.setattr(execute, "in_batches", lambda part, batch, size, device: part(0, batch))
    monkeypatch.setattr(compiled, "refuse_foreign_levels", lambda *_, **__: None)  # it reads numbers of the host
    monkeypatch.setattr(Look, "is_done", True)  # the first output of a model is read once, in its first run
    monkeypatch.setattr(noise_keys, "_draw", lambda _: 7)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: None)
    return checks


def network(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
    assert x.device == t.device == CUDA
    shift = 0.0 if label is None else label[:, None, None, None].to(x.dtype)
    return torch.tanh(x) * t.to(x.dtype)[:, None, None, None] + shift


def between(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
    assert r.device == CUDA
    return network(x, t, label) * r.to(x.dtype)[:, None, None, None]


def with_variance(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
    return torch.cat([network(x, t, label), torch.tanh(x)], dim=1)


def labels() -> dict[str, Any]:
    """A condition that is on the device already; copying a user's tensor there is the user's matter."""
    return {
        "condition": {"label": torch.ones(2, device=CUDA)},
        "null_condition": {"label": torch.zeros(2, device=CUDA)},
    }


@contextlib.contextmanager
def fake(pipeline: DiffusionPipeline) -> Iterator[None]:
    """Fake tensors for everything after the plan, which is made on the host before a run."""
    pipeline.plan(5)
    with FakeTensorMode(allow_non_fake_inputs=True), WithoutGuards():
        yield


def sample(pipeline: DiffusionPipeline, model: Any = network, *, labelled: bool = False, **run: Any) -> None:
    with fake(pipeline):
        run |= labels() if labelled else {}
        with Waits():
            made = pipeline.sample(model, SHAPE, 5, seed=0, **run)
    assert made.device == CUDA


PLANNED = [m for m in SamplingMethod if DiffusionPipeline(None, m).sampler.writes_plans and m.value != "adaptive"]


CLIPS = {"clip": {"clip_sample": True}, "quantile": {"thresholding": True, "sample_max_value": 5.0}}


@pytest.mark.parametrize(
    ("method", "clips"),
    [(m, c) for m in PLANNED for c in ("", *CLIPS) if not c or m.value in ONE_TIME],
)
def test_every_sampler(on_cuda, method, clips):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(**CLIPS.get(clips, {})), method)
    model = between if method.value in TWO_TIMES else network
    sample(pipeline, model, guidance_scale=0.7 if "cfg_pp" in method.value else 2.0, labelled=True)
    sample(pipeline, model, dtype=torch.bfloat16)
    assert len(on_cuda) == 2


def test_learned_variances(on_cuda):
    for method in ("ddpm", "ddim"):
        for clip in (False, True):
            config = NoiseSchedulerConfig(variance_type="learned_range", clip_sample=clip)
            sample(DiffusionPipeline(config, method), with_variance, guidance_scale=2.0, labelled=True)
    assert len(on_cuda) == 4


@pytest.mark.parametrize(
    "guidance",
    [[ClassifierFree(3.0), Interval(0.3, 5.0)], [ClassifierFree(3.0), Rescale(0.7)], AdaptiveProjected(3.0),
     CachedGuidance(2.0)],
)  # fmt: skip
@pytest.mark.parametrize("method", ["dpmpp_2m", "ddpm"])
def test_guidance(on_cuda, guidance, method):
    sample(DiffusionPipeline(None, method), guidance=guidance, labelled=True)
    assert len(on_cuda) == 1


def test_noise_of_the_device(on_cuda, monkeypatch):
    drawn: list[tuple[int, int]] = []

    def draw(words, shape, dtype, step, stage):
        drawn.append((step, stage))
        return torch.empty((len(words), *shape), dtype=dtype, device=words.device)

    monkeypatch.setattr(device_noise, "draw", draw)
    pipeline = DiffusionPipeline(None, "ddpm")
    sample(pipeline, noise_device="cuda")
    assert drawn == [(-1, 0), (0, 0), (1, 0), (2, 0), (3, 0)]
    assert len(on_cuda) == 1


@pytest.mark.parametrize("method", ["dpmpp_3m", "unipc", "ddpm", "dpmpp_2m_cfg_pp", "cached"])
@pytest.mark.parametrize("noise_device", ["cpu", "cuda"])
def test_a_captured_run_up_to_its_capture(on_cuda, monkeypatch, method, noise_device):
    """The program of a CUDA graph, and the writes of a call into its buffers."""
    inside: list[bool] = []

    def captured(program):
        def replay() -> Tensor:
            with Waits():
                inside.append(True)
                return program()

        return replay

    monkeypatch.setattr(compiled_run, "_cuda_graph", captured)
    monkeypatch.setattr(compiled_run, "is_finite", lambda _: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: 0)

    def draw(words, shape, dtype, step, stage):
        return torch.empty((len(words), *shape), dtype=dtype, device=words.device)

    monkeypatch.setattr(device_noise, "draw", draw)
    monkeypatch.setattr(compiled_run, "draw", draw)
    guided: dict[str, Any] = {"guidance_scale": 0.7 if "cfg_pp" in method else 2.0}
    if method == "cached":
        method, guided = "dpmpp_2m", {"guidance": CachedGuidance(2.0)}
    pipeline = DiffusionPipeline(None, method)
    with fake(pipeline):
        fast = pipeline.compile(network, SHAPE, 5, noise_device=noise_device, **guided, **labels())
        assert fast.backend == "cuda_graph"
        assert bool(fast._buffers.noises) == (method == "ddpm" and noise_device == "cpu")
        for seed in (1, 2):
            with Waits():
                assert fast(seed).device == CUDA
    assert len(inside) == 2


def test_what_waits_is_found(on_cuda):
    """The net has no holes: reads and copies in a network raise."""
    for read in (Tensor.item, bool, Tensor.cpu):

        def model(x: Tensor, t: Tensor, read: Any = read) -> Tensor:
            read(x.sum())
            return x

        with pytest.raises((DataDependentOutputException, AssertionError)):
            sample(DiffusionPipeline(None, "ddim"), model)


def test_the_kernel_of_one_pass_stays_out_of_traces(monkeypatch):
    monkeypatch.setattr(triton_kernel, "_kernel", lambda: pytest.fail("a fake tensor has no memory"))
    with FakeTensorMode():
        x = torch.empty(1 << 21, device=CUDA)
        assert fused.fused_combination(x, 1.0, x, 1.0, [(x, 1.0)], None) is None
