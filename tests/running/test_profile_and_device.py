"""Profiles, progress, the keys of a result, and devices."""

from __future__ import annotations

import json
import logging
import threading

import pytest
import torch

from noise_scheduler_sampling_system import (
    DeviceError,
    FileError,
)
from small_runs import LABELS, NULL, SHAPE, STEPS, Counting, conditional, network, pipeline


def test_profile_adds_up(caplog):
    def slow(x, t, label):
        threading.Event().wait(0.01)
        return conditional(x, t, label=label)

    with caplog.at_level(logging.INFO, logger="noise_scheduler_sampling_system"):
        labels = {"condition": {"label": LABELS}, "null_condition": {"label": NULL}}
        result = pipeline("ddpm").sample(slow, SHAPE, 5, **labels, profile=True, return_result=True)
    profile = result.profile
    assert 0.05 <= profile.model < profile.total
    parts = profile.model + profile.guidance + profile.noise + profile.sampler
    assert parts == pytest.approx(profile.total, rel=1e-9)
    assert min(profile.guidance, profile.noise, profile.sampler) >= 0
    assert profile.peak_memory > 2**20
    assert profile.device == "cpu"
    for part in ("model", "guidance", "noise", "sampler", "peak memory"):
        assert part in caplog.text


def test_profile_writes_a_trace(tmp_path):
    path = tmp_path / "trace.json"
    profiled = pipeline().sample(network, SHAPE, 3, seed=0, profile=path)
    events = json.loads(path.read_text())["traceEvents"]
    assert any("tanh" in str(event.get("name")) for event in events)
    assert torch.equal(profiled, pipeline().sample(network, SHAPE, 3, seed=0))


def test_a_trace_that_cannot_be_written_is_refused_before_the_run(tmp_path):
    model = Counting()
    with pytest.raises(FileError) as raised:
        pipeline().sample(model, SHAPE, 3, profile=tmp_path / "missing" / "trace.json")
    assert "trace.json" in raised.value.where
    assert model.calls == []


def test_a_result_can_be_drawn_again_from_its_keys():
    run = pipeline("ddpm")
    for kinds in ({}, {"generator": torch.Generator()}, {"generator": [torch.Generator() for _ in range(3)]}):
        result = run.sample(network, SHAPE, 3, **kinds, return_result=True)
        seeds = [seed for seed, _ in result.keys]
        seed = seeds[0] if [i for _, i in result.keys] == [0, 1, 2] else seeds
        assert torch.equal(run.sample(network, SHAPE, 3, seed=seed), result.samples)
        assert result.plan == run.plan(3)


def test_progress_counts_model_calls(capsys):
    pipeline("heun").sample(network, SHAPE, 4, progress=True)
    shown = capsys.readouterr()
    assert "7/7" in shown.err
    assert "calls/s" in shown.err
    assert shown.out == ""
    pipeline("heun").sample(network, (5, 1, 8, 8), 4, max_batch_size=2, progress=True)
    assert "21/21" in capsys.readouterr().err
    pipeline("heun").sample(network, SHAPE, 4)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is available")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu", "", None, 3, torch.device("cuda")])
def test_a_device_that_is_not_there_is_named(device):
    model = Counting()
    with pytest.raises(DeviceError) as raised:
        pipeline().sample(model, SHAPE, STEPS, device=device)
    assert raised.value.where == "device"
    assert "auto" in raised.value.suggestion
    assert model.calls == []


def test_torchs_default_device_and_type_play_no_part():
    run = pipeline("ddpm", clip_sample=True)
    expected = run.sample(network, SHAPE, STEPS, seed=0)
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        fresh = pipeline("ddpm", clip_sample=True).sample(network, SHAPE, STEPS, seed=0, device="cpu")
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(fresh, expected)
