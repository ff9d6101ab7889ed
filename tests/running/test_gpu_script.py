"""The script that measures a GPU works on a CPU with tiny sizes: every part runs, and its file has what tables need."""

from __future__ import annotations

import json
import math
from typing import Any

import gpu
import pytest
import torch


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict | list):
        return [n for each in (value.values() if isinstance(value, dict) else value) for n in numbers(each)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: run benchmarks/gpu.py")
def test_every_part_runs(tmp_path, capsys):
    assert gpu.main(["--dry", "--out", str(tmp_path / "gpu.json")]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["device"] == "cpu"
    assert found["dry"] is True
    assert set(gpu.PARTS) <= set(found)
    assert all(math.isfinite(n) for n in numbers(found))
    assert set(found["captured"]) == {"policy", "mnist", "latent"}
    for case in found["captured"].values():
        assert set(case["ms"]) == set(gpu.WAYS)
        assert min(case["ms"].values()) > 0
    for row in found["steps"]["rows"]:
        assert min(row["ours_us"], row["diffusers_us"], row["memory_bound_us"], row["launches"]) > 0
    assert set(found["waits"].values()) == {"none"}
    shown = capsys.readouterr().out
    for part in gpu.PARTS:
        assert f"## {part}" in shown


def test_the_networks_have_the_sizes_that_are_claimed():
    with torch.device("meta"):
        policy, latent = gpu.Policy(168), gpu.latent_network(dry=False)
    assert sum(p.numel() for p in policy.parameters()) == pytest.approx(5e6, rel=0.1)
    assert sum(p.numel() for p in latent.parameters()) == pytest.approx(860e6, rel=0.01)


def test_the_bytes_of_a_step_are_counted_by_hand():
    """DDIM reads the state and the output and writes a state; DPM-Solver++ also writes x₀ and reads an earlier one.

    Its first step has no earlier one, its last two keep none, and its last is of the first order.
    """
    from noise_scheduler_sampling_system import DiffusionPipeline

    assert gpu.bytes_of(DiffusionPipeline(None, "ddim").plan(10), 1) == 3 * 10
    assert gpu.bytes_of(DiffusionPipeline(None, "dpmpp_2m").plan(10), 1) == 4 + 7 * 5 + 4 + 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so(capsys):
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--dry" in capsys.readouterr().err
