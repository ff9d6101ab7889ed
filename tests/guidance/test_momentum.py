"""The momentum of adaptive projected guidance is the run's own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from guided_mixture import (
    APG,
    CONDITION,
    KINDS,
    SHAPE,
    mixture,
    pipeline,
)
from noise_scheduler_sampling_system import (
    RunState,
)
from noise_scheduler_sampling_system.guidance import (
    AdaptiveProjected,
)


@pytest.mark.parametrize("method", ["ddim", "heun", "ddpm"])
def test_momentum_is_neither_shared_nor_mixed(method):
    run = pipeline("epsilon", method=method)
    model = mixture(run)

    def sample(**more: Any) -> Tensor:
        return run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=APG, **more)

    alone = sample()
    without = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=AdaptiveProjected(4.0, momentum=0.0))
    assert (alone - without).abs().max() > 1e-3
    assert torch.equal(sample(), alone)
    torch.testing.assert_close(sample(max_batch_size=2), alone)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(other, alone) for other in pool.map(lambda _: sample(), range(8)))


def test_momentum_survives_running_out_of_memory():
    run, seen = pipeline("epsilon"), []
    model = mixture(run)

    def small(x, t, **condition):
        seen.append(len(x))
        if len(x) > 4 and len(seen) > 2:  # after two steps have filled the memory of the whole batch
            raise torch.cuda.OutOfMemoryError("out of memory")
        return model(x, t, **condition)

    kinds = {**KINDS, **CONDITION, "null_condition": {"class_labels": 3}, "guidance": APG}
    torch.testing.assert_close(run.sample(small, SHAPE, **kinds), run.sample(model, SHAPE, **kinds))
    assert seen[:3] == [6, 6, 6]
    assert max(seen[3:]) == 4


def test_momentum_is_part_of_what_is_saved(tmp_path):
    run = pipeline("epsilon")
    model = mixture(run)
    kinds = {**CONDITION, "guidance": APG}
    whole = list(run.stream(model, SHAPE, **KINDS, **kinds))
    assert torch.equal(whole[-1].x, run.sample(model, SHAPE, **KINDS, **kinds))
    whole[1].state.save(tmp_path / "run.safetensors")
    saved = RunState.load(tmp_path / "run.safetensors")
    for state in (whole[1].state, saved):
        again = list(run.stream(model, resume=state, **kinds))
        assert [step.index for step in again] == [2, 3, 4]
        assert all(torch.equal(a.x, b.x) for a, b in zip(again, whole[2:], strict=True))
