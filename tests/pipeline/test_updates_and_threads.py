"""Updates of a pipeline's config, and threads that share a pipeline."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import (
    BaseSampler,
    ConfigurationError,
)
from small_runs import METHODS, SHAPE, STEPS, network, pipeline


def test_update_config_is_all_or_nothing():
    run = pipeline(beta_schedule="cosine")
    before, setup = run.config, run._setup
    for changes in ({"beta_end": 5.0, "clip_sample": True}, {"clip_sample": True, "clip_smaple": True}):
        with pytest.raises(ConfigurationError):
            run.update_config(**changes)
        assert run.config is before
        assert run._setup is setup
    after = run.update_config(prediction_type="sample", num_train_timesteps=500)
    assert after is run.config
    assert (after.beta_schedule, after.prediction_type, after.num_train_timesteps) == ("cosine", "sample", 500)
    assert run.plan(5).time.max() == 400


def test_an_update_that_the_sampler_would_ignore_is_refused():
    run = pipeline("euler")
    with pytest.raises(ConfigurationError, match="does not use variance_type"):
        run.update_config(variance_type="fixed_large")
    assert run.config.variance_type == "fixed_small"


def test_an_update_keeps_the_samplers_options():
    class Own(BaseSampler):
        def __init__(self, scheduler, strength=1.0):
            super().__init__(scheduler)
            self.strength = strength

        def step(self, model_output, timestep, sample):
            return self.strength * sample

    for run in (pipeline("ddim", {"eta": 0.5}), pipeline(Own, {"strength": 0.5})):
        before = run.sample(network, SHAPE, 2, seed=0)
        run.update_config(clip_sample_range=2.0)
        assert torch.equal(run.sample(network, SHAPE, 2, seed=0), before)


def test_concurrent_updates_are_all_kept():
    fields = {"beta_end": 0.03, "clip_sample_range": 2.0, "sample_max_value": 4.0, "clip_sample": True}
    for _ in range(10):
        run = pipeline()
        gate = threading.Barrier(len(fields))

        def change(item: tuple[str, Any], run: Any = run, gate: Any = gate) -> None:
            gate.wait()
            run.update_config(**dict([item]))

        with ThreadPoolExecutor(len(fields)) as pool:
            list(pool.map(change, fields.items()))
        assert {name: getattr(run.config, name) for name in fields} == fields


def test_a_run_sees_one_config_from_start_to_end():
    """Updates while threads sample: every result is that of one config or of the other, never a mixture."""
    run = pipeline("pndm")
    configs = [{"clip_sample": False, "beta_end": 0.02}, {"clip_sample": True, "beta_end": 0.05}]
    allowed = [pipeline("pndm", **fields).sample(network, SHAPE, STEPS, seed=0) for fields in configs]
    assert not torch.equal(*allowed)
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            for fields in configs:
                run.update_config(**fields)

    flipping = threading.Thread(target=flip)
    flipping.start()
    try:
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda _: run.sample(network, SHAPE, STEPS, seed=0), range(40)))
    finally:
        stop.set()
        flipping.join()
    assert all(any(torch.equal(result, one) for one in allowed) for result in results)


@pytest.mark.parametrize("method", METHODS)
def test_threads_share_a_pipeline(method):
    run = pipeline(method, clip_sample=True)
    jobs = [(seed, steps) for seed in range(4) for steps in (4, 5, 9)]

    def one(job: tuple[int, int]) -> Tensor:
        return run.sample(network, SHAPE, job[1], seed=job[0])

    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(one, jobs))
    assert all(torch.equal(a, one(job)) for a, job in zip(threaded, jobs, strict=True))
