"""The Triton kernels without a GPU: results under the interpreter, code for GPUs, and where they stay out."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from noise_scheduler_sampling_system.running import kernels
from noise_scheduler_sampling_system.running.fused import triton_kernel

triton = pytest.importorskip("triton")


def test_results_under_the_interpreter():
    """In a process of its own, because the interpreter is chosen when Triton is imported."""
    file = Path(__file__).with_name("interpreted_kernels.py")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def code(kernel, signature, constants, capability) -> str:
    """The assembly of a kernel, which needs no GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, {**signature, **names}, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("loads", [False, True])
def test_a_step_is_compiled_for_gpus(capability, loads):
    from noise_scheduler_sampling_system.running.fused.triton_source import combine

    tensors = ["after", "kept", "x", "y", *(f"h{j}" for j in range(8))]
    factors = ["a", "b", *(f"c{j}" for j in range(8)), "u", "v"]
    signature = dict.fromkeys(tensors, "*bf16") | dict.fromkeys(factors, "*fp32" if loads else "fp32") | {"n": "i32"}
    text = code(combine, signature, {"TERMS": 2, "KEEPS": True, "LOADS": loads, "BLOCK": 1024}, capability)
    assert "fma.rn.f32" in text
    assert ".f64" not in text


@pytest.mark.parametrize("capability", [80, 90])
def test_noise_is_compiled_for_gpus(capability):
    from noise_scheduler_sampling_system.running.philox_kernel import draw_normal

    signature = {"out": "*fp32", "keys": "*i32", "place": "i32", "blocks": "i32", "size": "i32", "total": "i32"}
    text = code(draw_normal, signature, {"BLOCK": 256}, capability)
    assert "mul.wide.u32" in text  # a product of 32 bits by 32


def test_it_is_left_out_with_one_line_where_it_is_missing(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "noise_scheduler_sampling_system.running.fused.triton_source", None)
    triton_kernel._made.cache_clear()
    try:
        with caplog.at_level(logging.INFO, logger=triton_kernel.__name__):
            assert [triton_kernel._kernel() for _ in range(3)] == [None] * 3
        assert len(caplog.records) == 1
        assert "triton is not installed" in caplog.text
    finally:
        monkeypatch.undo()
        triton_kernel._made.cache_clear()
    monkeypatch.setenv("NOISE_SAMPLING_KERNELS", "off")
    assert triton_kernel._kernel() is None
    monkeypatch.undo()
    assert triton_kernel._kernel() is not None


def test_a_kernel_that_fails_is_left_out_with_one_line(monkeypatch, caplog):
    """Where the machine has Triton and lacks what it needs to launch, the eager path stays."""
    monkeypatch.setattr(triton_kernel, "_failed", [])
    monkeypatch.setattr(triton_kernel, "_fits", lambda y, x: True)
    x, y, h = (torch.ones(1 << 20) for _ in range(3))
    with caplog.at_level(logging.INFO, logger=triton_kernel.__name__):
        for _ in range(2):  # a tensor on the CPU makes the launch fail
            assert triton_kernel.combination(x, 1.0, y, 2.0, [(h, 3.0)], None) is None
    assert len(caplog.records) == 1
    after, _ = kernels.combine(x, 1.0, y, 2.0, [(h, 3.0)], None)
    torch.testing.assert_close(after, torch.full_like(x, 6.0))


def test_small_states_with_factors_on_the_host_take_the_eager_path(monkeypatch):
    monkeypatch.setattr(triton_kernel, "_kernel", lambda: pytest.fail("a launch costs more"))
    x = torch.ones(8)
    assert triton_kernel.combination(x, 1.0, x, 1.0, [], None) is None
