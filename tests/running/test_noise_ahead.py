"""Noise that a thread draws while the model runs: the same numbers, errors that surface, and no thread left."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, SamplingMethod
from noise_scheduler_sampling_system.running.noise import NoiseSource
from noise_scheduler_sampling_system.running.noise_ahead import noises_of
from small_runs import SHAPE, network, pipeline

STOCHASTIC = ["ddpm", "ancestral", "dpm2_ancestral", "dpmpp_2m_sde", "sa_solver", "lcm", "stochastic_heun"]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("noise")]


@pytest.mark.parametrize("method", [m for m in STOCHASTIC if m in {each.value for each in SamplingMethod}])
@pytest.mark.parametrize("noise", ["independent", "brownian"])
def test_samples_and_streams_are_the_same(method, noise):
    run = {"seed": 3, "noise": noise}
    if noise == "brownian" and pipeline(method).plan(6).noise_span is None:
        pytest.skip("its noise is not an increment")
    expected = pipeline(method).sample(network, SHAPE, 6, **run)
    assert torch.equal(pipeline(method).sample(network, SHAPE, 6, noise_ahead=True, **run), expected)
    steps = list(pipeline(method).stream(network, SHAPE, 6, noise_ahead=True, **run))
    assert torch.equal(steps[-1].x, expected)
    (*_, last) = pipeline(method).stream(network, resume=steps[2].state, noise_ahead=True)
    assert torch.equal(last.x, expected)
    assert threads() == []


def test_the_next_noise_is_drawn_while_the_model_runs(monkeypatch):
    drawn: dict[tuple[int, int], str] = {}
    draw, seen = NoiseSource.on_host, []

    def noted(self, step, stage):
        drawn[step, stage] = threading.current_thread().name
        return draw(self, step, stage)

    def model(x, t):
        for _ in range(200):  # at most two seconds
            if len(drawn) > len(seen) + 1 or len(seen) == 4:
                break
            time.sleep(0.01)
        seen.append(len(drawn))
        return network(x, t)

    monkeypatch.setattr(NoiseSource, "on_host", noted)
    run = pipeline("ddpm")
    run.sample(model, SHAPE, 5, seed=0, noise_ahead=True)
    order = noises_of(run._setup.run_on(5), 0)
    assert list(drawn) == [(-1, 0), *order]
    assert all(drawn[key].startswith("noise") for key in order)
    assert seen[:4] == [2, 3, 4, 5]  # the initial noise, and one ahead in each call


def test_an_error_in_the_thread_is_that_of_the_run(monkeypatch):
    draw = NoiseSource.on_host

    def failing(self, step, stage):
        if step == 2:
            raise MemoryError("no memory for noise")
        return draw(self, step, stage)

    monkeypatch.setattr(NoiseSource, "on_host", failing)
    with pytest.raises(MemoryError, match="no memory for noise"):
        pipeline("ddpm").sample(network, SHAPE, 5, seed=0, noise_ahead=True)
    assert threads() == []


def test_runs_that_end_early_leave_no_thread():
    run = pipeline("ddpm")
    run.sample(network, SHAPE, 8, seed=0, noise_ahead=True, callback=lambda step: step.index == 2)
    assert threads() == []
    stream = run.stream(network, SHAPE, 8, seed=0, noise_ahead=True)
    next(stream)
    assert len(threads()) == 1
    stream.close()
    assert threads() == []
    for _ in run.stream(network, SHAPE, 8, seed=0, noise_ahead=True):
        break
    assert threads() == []

    def failing(x, t):
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        run.sample(failing, SHAPE, 8, seed=0, noise_ahead=True)
    assert threads() == []


def test_it_is_off_on_the_cpu_and_without_noise(monkeypatch):
    from noise_scheduler_sampling_system.running import noise_ahead

    monkeypatch.setattr(noise_ahead, "ThreadPoolExecutor", lambda *_, **__: pytest.fail("a thread is started"))
    pipeline("ddpm").sample(network, SHAPE, 3, seed=0)
    pipeline("ddim").sample(network, SHAPE, 3, seed=0, noise_ahead=True)
    pipeline("adaptive").sample(network, SHAPE, 3, seed=0, noise_ahead=True)


def test_arguments_are_checked():
    for arguments, where in (
        ({"noise_ahead": "yes"}, "noise_ahead"), ({"noise_device": "gpu"}, "noise_device"),
        ({"noise_device": "cuda"}, "noise_device"),
    ):  # fmt: skip
        with pytest.raises(ConfigurationError) as raised:
            pipeline("ddpm").sample(network, SHAPE, 3, seed=0, device="cpu", **arguments)
        assert raised.value.where == where
    with pytest.raises(ConfigurationError, match="other numbers"):
        DiffusionPipeline(None, "ddpm").compile(network, SHAPE, 3, device="cpu", noise_device="cuda")
