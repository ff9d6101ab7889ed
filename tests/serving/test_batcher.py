"""Requests that share model calls: each has the samples that it has alone, and nothing of one reaches another."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from noise_scheduler_sampling_system import BaseSampler, DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.grids import FrameGrid
from noise_scheduler_sampling_system.guidance import (
    AdaptiveProjected,
    AutoGuidance,
    ClassifierFree,
    Energy,
    Interval,
    Unbatched,
)
from noise_scheduler_sampling_system.serving import Batcher
from noise_scheduler_sampling_system.support import (
    ConfigurationError,
    DeadlineError,
    ModelOutputError,
    NumericsError,
    OutOfMemoryError,
    RefusedError,
    StoppedError,
)

CONFIG = NoiseSchedulerConfig()
DDIM = DiffusionPipeline(CONFIG, "ddim")
SHAPE = (2, 1, 4, 4)
FRAMES = FrameGrid.pyramid(DDIM.grid(5), 6)


def network(x, t, class_labels=None, scale=1.0, ids=None):
    """A network whose output for a sample does not depend on the rest of the batch."""
    wide = [-1, *[1] * (x.ndim - 1)]
    out = torch.tanh(0.5 * x * scale + (t.to(x.dtype) / 1000).reshape(*t.shape, *[1] * (x.ndim - t.ndim)))
    if class_labels is not None:
        out = out + 0.1 * class_labels.to(x.dtype).reshape(wide)
    return out if ids is None else out + ids.sum()


class HandWritten(BaseSampler):
    """A sampler with only ``step``."""

    def step(self, model_output, timestep, sample, noise=None):
        return 0.98 * sample - 0.02 * model_output + 0.01 * noise


class Recording:
    """The network with a record of the sizes of its calls. ``gate`` holds calls up until it is set."""

    def __init__(self, gate=None):
        self.sizes, self.gate, self.entered = [], gate, threading.Event()

    def __call__(self, x, t, **condition):
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(30)
        self.sizes.append(len(x))
        return network(x, t, **condition)


def held(**arguments):
    """A batcher whose first call waits; the gate lets it and all later calls go."""
    gate = threading.Event()
    model = Recording(gate)
    batcher = Batcher(DDIM, model=model, **arguments)
    first = batcher.submit(shape=(1, 1, 4, 4), num_inference_steps=3, seed=0)
    assert model.entered.wait(10)
    return batcher, model, gate, first


def alone(request):
    arguments = {name: value for name, value in request.items() if name != "pipeline"}
    return request.get("pipeline", DDIM).sample(**arguments)


METHODS = ["ddim", "ddpm", "dpmpp_2m", "dpmpp_3m", "unipc", "pndm", "heun", "ancestral", "dpmpp_2m_sde", "ddim_cfg_pp",
           "sa_solver", "adaptive"]  # fmt: skip


def test_a_stream_of_unequal_requests_has_the_samples_of_each_alone():
    requests = [
        {"pipeline": DiffusionPipeline(CONFIG, method), "num_inference_steps": steps, "seed": 10 * steps, **condition}
        for method in METHODS
        for steps in (4, 9)
        for condition in (
            {},
            {
                "condition": {"class_labels": torch.tensor([1.0, 5.0])},
                "null_condition": {"class_labels": torch.zeros(2)},
            },
        )
        if condition or method != "ddim_cfg_pp"
    ]
    clipped = DiffusionPipeline(CONFIG.replace(clip_sample=True), "dpmpp_2m")
    labels = {"class_labels": torch.tensor([2.0, 3.0])}
    requests += [
        {"pipeline": DiffusionPipeline(CONFIG, HandWritten), "num_inference_steps": 6, "seed": 1},
        {"pipeline": clipped, "num_inference_steps": 6, "seed": 2},
        {"pipeline": DiffusionPipeline(CONFIG, "ancestral"), "noise": "brownian", "num_inference_steps": 6, "seed": 2},
        {"condition": labels, "guidance": [ClassifierFree(4.0), Interval(0.3, 5.0)], "seed": 3},
        {"condition": labels, "guidance": AdaptiveProjected(5.0), "num_inference_steps": 8, "seed": 4},
        {"guidance": AutoGuidance(lambda x, t: 0.9 * network(x, t), 2.0), "num_inference_steps": 8, "seed": 4},
        {
            "guidance": Energy(lambda x, moment: x.square().mean(), 0.3, through_model=True),
            "num_inference_steps": 5,
            "seed": 5,
        },
        {"condition": {"scale": 0.7}, "classifier_free_guidance": False, "num_inference_steps": 5, "seed": 6},
        {"condition": {"ids": Unbatched(torch.ones(3))}, "classifier_free_guidance": False, "seed": [6, 9]},
        {"initial_sample": torch.ones(SHAPE), "strength": 0.5, "num_inference_steps": 5, "seed": 7},
        {"early_stopping": 0.3, "num_inference_steps": 30, "seed": 8},
        {"dtype": torch.float64, "num_inference_steps": 5, "seed": 9},
        {"shape": (3, 7), "num_inference_steps": 5, "seed": 10},
        {"shape": (3, 6, 1, 4, 4), "grid": FRAMES, "seed": 13},
        {"shape": (11, 1, 4, 4), "num_inference_steps": 7, "seed": 11},  # larger than a call
    ]
    requests = [{"model": network, "shape": SHAPE, **request} for request in requests]
    expected = [alone(request) for request in requests]
    with Batcher(DDIM, 8) as batcher:
        handles = [batcher.submit(**request) for request in requests]
        for request, handle, samples in zip(requests, handles, expected, strict=True):
            assert torch.equal(handle.result(60), samples), request
        metrics = batcher.metrics()
    assert metrics.finished == len(requests)
    assert metrics.occupancy > 0.4


@pytest.mark.parametrize("method", ["ddim", HandWritten])
def test_a_network_that_changes_its_time_in_place_leaves_that_of_another_network(method):
    def zeroing(x, t):
        out = network(x, t)
        t.zero_()
        return out

    pipeline, guidance = DiffusionPipeline(CONFIG, method), AutoGuidance(lambda x, t: 0.9 * network(x, t), 2.0)
    request = {"shape": SHAPE, "num_inference_steps": 4, "seed": 4, "guidance": guidance}
    with Batcher(pipeline, 8) as batcher:
        given = batcher.submit(model=zeroing, **request).result(60)
    assert torch.equal(given, pipeline.sample(model=network, **request))


def test_a_new_request_joins_at_the_next_call():
    batcher, model, gate, first = held(max_batch_size=8)
    later = batcher.submit(shape=(3, 1, 4, 4), num_inference_steps=2, seed=1)
    gate.set()
    assert later.result(30).shape == (3, 1, 4, 4)
    assert first.result(30).shape == (1, 1, 4, 4)
    assert model.sizes == [1, 4, 4]
    batcher.close()


def test_a_call_never_has_more_rows_than_allowed():
    model = Recording()
    with Batcher(DDIM, 3, model=model) as batcher:
        labels = {"class_labels": torch.arange(5.0)}
        handles = [batcher.submit(shape=(5, 1, 4, 4), num_inference_steps=n, seed=n, condition=labels) for n in (2, 3)]
        for handle in handles:
            handle.result(30)
    assert max(model.sizes) <= 3
    assert sum(model.sizes) == 5 * 2 * (2 + 3)


def test_a_result_object_says_what_sample_says():
    request = {"model": network, "shape": (5, 1, 4, 4), "num_inference_steps": 6, "seed": 3, "return_result": True}
    expected = DDIM.sample(**request)
    with Batcher(DDIM, 2) as batcher:
        result = batcher.submit(**request).result(30)
    assert torch.equal(result.samples, expected.samples)
    assert (result.nfe, result.steps, result.evaluations, result.keys) == (
        expected.nfe, expected.steps, expected.evaluations, expected.keys,
    )  # fmt: skip


def test_whole_and_real_times_share_a_call():
    model = Recording()
    pipelines = [DDIM, DiffusionPipeline(CONFIG, "dpmpp_2m")]  # leading: whole times; beta57: real ones
    batcher, _, gate, _ = held(max_batch_size=8)
    handles = [
        batcher.submit(pipeline=pipeline, model=model, shape=(1, 1, 4, 4), num_inference_steps=4, seed=3)
        for pipeline in pipelines
    ]
    gate.set()
    results = [handle.result(30) for handle in handles]
    batcher.close()
    assert model.sizes == [2, 2, 2, 2]
    for pipeline, result in zip(pipelines, results, strict=True):
        assert torch.equal(result, pipeline.sample(network, (1, 1, 4, 4), 4, seed=3))


# --- the owner's hold on a request


def test_cancel_ends_a_request_and_frees_its_place_in_the_queue():
    batcher, model, gate, first = held(max_batch_size=1, max_queue=1)
    waiting = batcher.submit(shape=SHAPE, num_inference_steps=2)
    with pytest.raises(RefusedError, match="the queue is full: 1 requests wait"):
        batcher.submit(shape=SHAPE)
    assert waiting.cancel()
    assert not waiting.cancel()
    assert waiting.status == "cancelled"
    another = batcher.submit(shape=(1, 1, 4, 4), num_inference_steps=2)
    assert first.cancel()  # it runs: no call follows the one that is under way
    gate.set()
    another.result(30)
    with pytest.raises(StoppedError, match="cancelled"):
        first.result(1)
    batcher.close()
    assert len(model.sizes) == 1 + 2
    assert batcher.metrics().cancelled == 2


def test_a_deadline_ends_a_request_that_waits_or_runs():
    batcher, _, gate, first = held(max_batch_size=1)
    waiting = batcher.submit(shape=SHAPE, deadline=0.01)
    with pytest.raises(DeadlineError, match=r"did not end within 0\.02 s"):
        first.result(0.02)  # this one waits for the result; the request goes on
    gate.set()
    with pytest.raises(DeadlineError, match=r"within its 0\.01 s"):
        waiting.result(30)
    assert first.result(30) is not None

    def slow(x, t):
        time.sleep(0.02)
        return network(x, t)

    running = batcher.submit(model=slow, shape=SHAPE, num_inference_steps=500, deadline=0.1)
    assert isinstance(running.exception(30), DeadlineError)
    assert running.status == "expired"
    assert 0.0 < running.progress < 1.0
    batcher.close()


def test_requests_start_by_priority_and_by_age():
    batcher, _, gate, _ = held(max_batch_size=1)
    ended = []
    for name, priority in (("low", -1), ("first", 0), ("second", 0), ("high", 2)):
        handle = batcher.submit(shape=(1, 1, 4, 4), num_inference_steps=2, priority=priority)
        handle.add_done_callback(lambda _, name=name: ended.append(name))
    gate.set()
    batcher.close()
    assert ended == ["high", "first", "second", "low"]


def test_a_large_request_is_not_overtaken_for_ever():
    """A run that is resumed cannot be split; small requests that come behind it wait until it has started."""
    state = None
    for step in DDIM.stream(network, (3, 1, 4, 4), 6, seed=5):
        state = replace(step.state, model=None)
        if step.index == 2:
            break
    batcher, model, gate, _ = held(max_batch_size=3)
    large = batcher.submit(model=model, resume=state)
    small = [batcher.submit(shape=(1, 1, 4, 4), num_inference_steps=2, seed=i) for i in range(4)]
    gate.set()
    assert torch.equal(large.result(30), DDIM.sample(network, (3, 1, 4, 4), 6, seed=5))
    for handle in small:
        handle.result(30)
    batcher.close()
    assert model.sizes == [1, 1, 1, 3, 3, 3, 3, 3, 1, 1]


def test_requests_that_cannot_share_calls_take_turns():
    running = []

    def model(x, t, scale):
        running.append(batcher.metrics().running)
        return network(x, t, scale=scale)

    batcher, _, gate, _ = held(max_batch_size=8)
    handles = [
        batcher.submit(
            model=model, shape=SHAPE, num_inference_steps=4, seed=1, condition={"scale": 0.1 * i},
            classifier_free_guidance=False,
        )
        for i in range(7)
    ]  # fmt: skip
    gate.set()
    for handle in handles:
        handle.result(30)
    batcher.close()
    assert max(running) == 4


def test_steps_arrive_while_the_request_runs():
    with Batcher(DDIM, 8, model=network) as batcher:
        handle = batcher.submit(shape=SHAPE, num_inference_steps=5, seed=2, stream=True)
        steps = list(handle.steps())
        plain = batcher.submit(shape=SHAPE, num_inference_steps=2)
        with pytest.raises(ConfigurationError, match="stream=True"):
            plain.steps()
    expected = list(DDIM.stream(network, SHAPE, 5, seed=2))
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    for mine, theirs in zip(steps, expected, strict=True):
        assert torch.equal(mine.x, theirs.x)
        assert torch.equal(mine.pred_original_sample, theirs.pred_original_sample)
        assert (mine.t, mine.sigma, mine.nfe) == (theirs.t, theirs.sigma, theirs.nfe)
    assert handle.progress == 1.0


def test_the_callback_of_a_request_ends_it_alone():
    with Batcher(DDIM, 8, model=network) as batcher:
        stops = batcher.submit(shape=SHAPE, num_inference_steps=9, seed=2, callback=lambda step: step.index == 3)
        raises = batcher.submit(shape=SHAPE, num_inference_steps=9, seed=2, callback=lambda step: 1 / 0)
        other = batcher.submit(shape=SHAPE, num_inference_steps=9, seed=2)
    assert torch.equal(stops.result(), DDIM.sample(network, SHAPE, 9, seed=2, callback=lambda step: step.index == 3))
    assert isinstance(raises.exception(), ZeroDivisionError)
    assert torch.equal(other.result(), DDIM.sample(network, SHAPE, 9, seed=2))


def test_asyncio():
    problems = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        async with Batcher(DDIM, 4, model=network) as batcher:
            handle = await batcher.asubmit(shape=SHAPE, num_inference_steps=4, seed=1, stream=True)
            other = await batcher.asubmit(shape=SHAPE, num_inference_steps=7, seed=2)
            steps = [step.index async for step in handle]
            results = await asyncio.gather(handle, other)
            gate = threading.Event()
            late = await batcher.asubmit(model=Recording(gate), shape=SHAPE)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(late, 0.05)
            gate.set()
            await asyncio.sleep(0.01)
            gc.collect()  # asyncio reports errors that nobody read when their future is freed
            return steps, results, late.status

    steps, results, status = asyncio.run(main())
    assert steps == [0, 1, 2, 3]
    assert torch.equal(results[0], DDIM.sample(network, SHAPE, 4, seed=1))
    assert torch.equal(results[1], DDIM.sample(network, SHAPE, 7, seed=2))
    assert status == "cancelled"
    assert not problems


# --- faults stay with their request


def faulty(fault):
    """A network that is faulty where a label is 13."""

    def model(x, t, class_labels):
        out = network(x, t, class_labels)
        bad = class_labels == 13
        return fault(x, out, bad) if bad.any() else out

    return model


def _raise(error):
    def fault(*_):
        raise error

    return fault


FAULTS = {
    "raises": (_raise(KeyError("thirteen")), KeyError, "thirteen"),
    "stops": (_raise(StopIteration()), ModelOutputError, "raised StopIteration"),
    "NaN": (lambda x, out, bad: torch.where(bad.reshape(-1, 1, 1, 1), torch.nan, out), ModelOutputError, "NaN or Inf"),
    "overflows": (lambda x, out, bad: torch.where(bad.reshape(-1, 1, 1, 1), 3e38, out), NumericsError, "not finite"),
    "shape": (lambda x, out, bad: out[..., :2], ModelOutputError, "shape"),
    "batch": (lambda x, out, bad: out[:1] if len(x) > 2 else out[:0], ModelOutputError, "shape"),
    "type": (lambda x, out, bad: out.long(), ModelOutputError, "int64"),
    "in-place": (lambda x, out, bad: x.add_(1.0) if len(x) == 2 else 1 / 0, ModelOutputError, "in-place"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_one_request_leaves_the_others_alone(name):
    fault, kind, message = FAULTS[name]
    requests = [
        {"shape": SHAPE, "num_inference_steps": steps, "seed": steps, "classifier_free_guidance": False,
         "condition": {"class_labels": torch.tensor([1.0, label])}}
        for steps, label in ((4, 2.0), (6, 13.0), (8, 3.0))
    ]  # fmt: skip
    with Batcher(DDIM, 8, model=faulty(fault)) as batcher:
        handles = [batcher.submit(**request) for request in requests]
        with pytest.raises(kind, match=message):
            handles[1].result(30)
        for i in (0, 2):
            assert torch.equal(handles[i].result(30), DDIM.sample(network, **requests[i]))
    assert (batcher.metrics().failed, batcher.metrics().finished) == (1, 2)


def test_a_batch_that_does_not_fit_into_memory_is_halved():
    def small(x, t):
        if len(x) > 3:
            raise RuntimeError("CUDA out of memory")
        return network(x, t)

    def none(x, t):
        raise RuntimeError("CUDA out of memory")

    with Batcher(DDIM, 16, model=small) as batcher:
        handles = [batcher.submit(shape=(n, 1, 4, 4), num_inference_steps=n + 3, seed=n) for n in (1, 3, 5, 7)]
        for n, handle in zip((1, 3, 5, 7), handles, strict=True):
            assert torch.equal(handle.result(30), DDIM.sample(network, (n, 1, 4, 4), n + 3, seed=n))
        assert batcher.metrics().max_batch_size <= 3
        with pytest.raises(OutOfMemoryError, match="single row"):
            batcher.submit(model=none, shape=SHAPE).result(30)


@pytest.mark.parametrize("method", ["dpmpp_3m", "pndm"])  # the histories of the second are outputs themselves
def test_a_model_that_returns_the_same_memory_at_every_call(method):
    memory = torch.empty(64, 1, 4, 4)

    def reuses(x, t):
        return memory[: len(x)].copy_(network(x, t))

    pipeline = DiffusionPipeline(CONFIG, method)
    with Batcher(pipeline, 8, model=reuses) as batcher:
        handles = [batcher.submit(shape=SHAPE, num_inference_steps=n, seed=n) for n in (5, 9)]
    for n, handle in zip((5, 9), handles, strict=True):
        assert torch.equal(handle.result(), pipeline.sample(network, SHAPE, n, seed=n))


# --- the end


def test_close_finishes_what_it_took_and_takes_no_more():
    batcher, _, gate, first = held(max_batch_size=1)
    waiting = batcher.submit(shape=SHAPE, num_inference_steps=2)
    threading.Timer(0.05, gate.set).start()
    batcher.close()
    assert first.status == waiting.status == "finished"
    with pytest.raises(RefusedError, match="closed"):
        batcher.submit(shape=SHAPE)
    batcher.close()  # again


def test_a_model_that_hangs_holds_up_neither_deadlines_nor_the_end():
    async def steps_of(handle):
        return [step async for step in handle]

    batcher, _, gate, _ = held(max_batch_size=2)
    late = [batcher.submit(shape=SHAPE, deadline=0.1, stream=True) for _ in range(4)]
    began = time.monotonic()
    assert isinstance(late[0].exception(), DeadlineError)
    assert isinstance(late[1].exception(5), DeadlineError)
    assert list(late[2].steps()) == []
    assert asyncio.run(steps_of(late[3])) == []
    assert late[3].status == "expired"
    waits = batcher.submit(shape=SHAPE)
    batcher.close(finish=False, patience=0.1)
    assert isinstance(waits.exception(0.1), StoppedError)
    assert time.monotonic() - began < 5
    assert batcher.metrics().expired == 4
    gate.set()


@pytest.mark.parametrize("method", ["ddim", "dpmpp_3m", "ancestral"])
def test_a_request_that_is_handed_back_goes_on_bit_for_bit(method):
    pipeline, gate = DiffusionPipeline(CONFIG, method), threading.Event()
    calls = []

    def model(x, t):
        calls.append(len(x))
        if len(calls) == 10:
            assert gate.wait(30)
        return network(x, t)

    batcher = Batcher(pipeline, 3, model=model)
    # three samples end at their own time, two start late: their parts are at different rows
    handles = [batcher.submit(shape=(n, 1, 4, 4), num_inference_steps=8, seed=n) for n in (1, 5)]
    while len(calls) < 10:
        time.sleep(0.001)
    closing = threading.Thread(target=batcher.close, kwargs={"finish": False})
    closing.start()
    time.sleep(0.05)
    gate.set()
    closing.join(30)
    assert handles[0].status == "finished"
    assert handles[1].status == "handed_back"
    with pytest.raises(StoppedError, match="resume=state") as stopped:
        handles[1].result()
    states = stopped.value.states
    assert sum(len(state.state.x) for state in states) == 5
    assert len({state.state.row for state in states}) > 1
    with Batcher(pipeline, 8, model=model) as again:
        parts = [again.submit(resume=state) for state in states]
    samples = torch.cat([part.result() for part in parts])
    assert torch.equal(samples, pipeline.sample(network, (5, 1, 4, 4), 8, seed=5))


def test_close_with_a_timeout_hands_back_the_rest():
    def slow(x, t):
        time.sleep(0.01)
        return network(x, t)

    batcher = Batcher(DDIM, 4, model=slow)
    adaptive = DiffusionPipeline(CONFIG, "adaptive", rtol=1e-4)
    handles = [
        batcher.submit(shape=SHAPE, num_inference_steps=500),
        batcher.submit(pipeline=adaptive, shape=SHAPE, dtype=torch.float64),
    ]
    batcher.close(timeout=0.1)
    assert [handle.status for handle in handles] == ["handed_back"] * 2
    assert handles[1].exception().states == ()


def test_an_idle_batcher_has_no_thread(monkeypatch):
    monkeypatch.setattr("noise_scheduler_sampling_system.serving.batcher._IDLE_SECONDS", 0.01)
    before = set(threading.enumerate())  # threads of other tests may still end
    batcher = Batcher(DDIM, 4, model=network)
    for _ in range(2):
        assert batcher.submit(shape=SHAPE, num_inference_steps=2, seed=1).result(30) is not None
        for _ in range(200):
            if not set(threading.enumerate()) - before:
                break
            time.sleep(0.01)
        assert not set(threading.enumerate()) - before


# --- arguments


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"differentiable": True}, "differentiable"),
        ({"profile": True}, "profile"),
        ({"max_batch_size": 2}, "max_batch_size"),
        ({"progress": True}, "progress"),
        ({"checkpoint": "run.safetensors", "every": 5}, "checkpoint"),
        ({"num_steps": 5}, "num_steps"),
        ({"deadline": 0}, "deadline"),
        ({"deadline": float("nan")}, "deadline"),
        ({"priority": "high"}, "priority"),
        ({"stream": "yes"}, "stream"),
        ({"pipeline": "ddim"}, "pipeline"),
        ({"shape": None}, "shape"),
        ({"condition": {"labels": 3}}, "labels"),
    ],
)
def test_an_argument_that_cannot_work_is_refused_before_it_is_queued(arguments, where):
    with Batcher(DDIM, 4, model=network) as batcher:
        with pytest.raises(ConfigurationError, match=where):
            batcher.submit(**{"shape": SHAPE, **arguments})
        assert batcher.metrics().submitted == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"served": 3}, {"served": DDIM, "max_batch_size": 0}, {"served": DDIM, "max_queue": 1.5},
        {"served": DDIM, "deadline": -1}, {"served": network, "model": network}, {"served": torch.nn.Linear},
    ],
)  # fmt: skip
def test_a_batcher_that_cannot_work_is_refused(arguments):
    with pytest.raises(ConfigurationError):
        Batcher(**arguments)


def test_guidance_through_the_model_with_adaptive_steps_is_refused():
    energy = Energy(lambda x, moment: x.square().mean(), 0.3, through_model=True)
    batcher = Batcher(DiffusionPipeline(CONFIG, "adaptive"), 4, model=network)
    with pytest.raises(ConfigurationError, match="adaptive"):
        batcher.submit(shape=SHAPE, guidance=energy)


# --- under load


def test_64_threads_on_one_batcher_get_what_one_thread_gets():
    pipelines = [DiffusionPipeline(CONFIG, method) for method in ("ddim", "dpmpp_2m", "ancestral", "unipc")]

    def request(i):
        labels = {"class_labels": torch.tensor([float(i % 7), 1.0])}
        return {
            "pipeline": pipelines[i % 4], "model": network, "shape": SHAPE, "num_inference_steps": 3 + i % 11,
            "seed": i, **({"condition": labels, "guidance_scale": 1.0 + i % 5} if i % 3 else {}),
        }  # fmt: skip

    expected = [alone(request(i)) for i in range(256)]
    before = threading.active_count()
    with Batcher(DDIM, 16) as batcher, ThreadPoolExecutor(64) as pool:
        results = list(pool.map(lambda i: batcher.submit(**request(i)).result(60), range(256)))
        assert threading.active_count() <= before + 64 + 1
    for mine, theirs in zip(results, expected, strict=True):
        assert torch.equal(mine, theirs)
    assert batcher.metrics().finished == 256
