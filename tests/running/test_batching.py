"""Batches of any size give the same samples, also where memory runs out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import (
    ConfigurationError,
    OutOfMemoryError,
)
from noise_scheduler_sampling_system.running import InterruptedRunError
from small_runs import METHODS, NULL, SHAPE, STEPS, Counting, conditional, network, pipeline


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
def test_batches_of_any_size_give_the_same_samples(method, size):
    run, shape = pipeline(method), (5, 2, 4, 4)
    labels = {"condition": {"label": torch.arange(5)}, "null_condition": {"label": NULL}}
    model = Counting(conditional)
    got = run.sample(model, shape, STEPS, 2.0, seed=7, max_batch_size=size, **labels)
    assert max(len(x) for x, _, _ in model.calls) == 2 * min(size, 5)
    whole = run.sample(conditional, shape, STEPS, 2.0, seed=7, **labels)
    torch.testing.assert_close(got, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "4"])
def test_a_batch_size_that_means_nothing_is_refused(size):
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(network, SHAPE, STEPS, max_batch_size=size)
    assert raised.value.where == "max_batch_size"


SHORTAGES = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


@pytest.mark.parametrize("shortage", SHORTAGES, ids=lambda e: str(e)[:20])
@pytest.mark.parametrize("limit", [1, 2, 3, 6])
def test_when_memory_runs_out_smaller_batches_give_the_same_samples(shortage, limit, caplog):
    run, shape = pipeline("ddpm"), (7, 2, 4, 4)
    sizes = []

    def tight(x: Tensor, t: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(x) > limit and t[0] <= 500:  # late, when other steps are done already
            raise shortage
        return network(x, t)

    got = run.sample(tight, shape, 4, seed=7)
    torch.testing.assert_close(got, run.sample(network, shape, 4, seed=7), rtol=1e-6, atol=1e-6)
    assert sizes[0] == 7
    assert sizes[-1] <= limit
    assert "batches of" in caplog.text


def test_one_sample_that_does_not_fit_is_an_error_that_says_so():
    def never(x, t):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemoryError, match="single sample") as raised:
        pipeline().sample(never, SHAPE, STEPS)
    assert isinstance(raised.value, MemoryError)
    assert raised.value.suggestion


def test_other_errors_of_a_model_come_through_as_they_are():
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    def fails(x, t):
        raise error

    with pytest.raises(RuntimeError) as raised:
        pipeline().sample(fails, SHAPE, STEPS)
    assert raised.value is error


def test_a_failed_batch_frees_its_tensors_before_the_next_try():
    import weakref

    alive: list[Any] = []
    held = []

    def tight(x: Tensor, t: Tensor) -> Tensor:
        if len(x) > 2:
            output = network(x, t)
            alive.append(weakref.ref(x))
            if t[0] == 0:
                raise MemoryError
            return output
        held.append([ref() is not None for ref in alive])
        return network(x, t)

    pipeline().sample(tight, (4, 2, 4, 4), 4)
    assert len(alive) == 4
    assert not any(held[0])


def test_an_interrupt_keeps_the_parts_that_are_done():
    run, shape = pipeline("ddpm"), (7, 2, 4, 4)
    calls = 0

    def interrupted(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2 * 4 + 3:  # in the third part
            raise KeyboardInterrupt
        return network(x, t)

    with pytest.raises(KeyboardInterrupt) as caught:
        run.sample(interrupted, shape, 4, seed=7, max_batch_size=2)
    assert isinstance(caught.value, InterruptedRunError)
    whole = run.sample(network, shape, 4, seed=7, return_result=True)
    assert caught.value.result.keys == whole.keys[:4]
    torch.testing.assert_close(caught.value.result.samples, whole.samples[:4], rtol=1e-6, atol=1e-6)
    calls = 7
    with pytest.raises(KeyboardInterrupt) as caught:  # nothing is done
        run.sample(interrupted, shape, 4, seed=7)
    assert not isinstance(caught.value, InterruptedRunError)
