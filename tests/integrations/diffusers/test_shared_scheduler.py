"""Runs that share a PlanScheduler: interleaved, given up, in threads, or edited by callbacks."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import (
    ConfigurationError,
)
from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler
from tiny_pipelines import arguments, build
from twins import (
    TOLERANCE,
    images,
    loop,
    relative,
    scheduler_of,
    shared,
    start,
)


@pytest.mark.parametrize("method", ["unipc", "pndm", "dpmpp_3m", "heun", "ddim"])
def test_interleaved_runs_do_not_mix(method):
    scheduler, xs = shared(method), [start(1), start(2), start(3)]
    expected = [loop(shared(method), x, 7) for x in xs]
    scheduler.set_timesteps(7)
    for t in scheduler.timesteps:  # three runs through the same timesteps
        xs = [scheduler.step(torch.tanh(x) * 0.7, t, x).prev_sample for x in xs]
    for got, wanted in zip(xs, expected, strict=True):
        assert torch.equal(got, wanted)


def test_runs_with_timesteps_of_their_own_do_not_mix_even_when_edited():
    scheduler, a, b = shared(), start(1), start(2)
    edit = lambda x: (x * 0.99).clone()  # noqa: E731
    expected = loop(shared(), a, 7, edit), loop(shared(), b, 5, edit)
    scheduler.set_timesteps(7)
    first = list(scheduler.timesteps)
    scheduler.set_timesteps(5)
    second = list(scheduler.timesteps)
    for i in range(7):
        a = edit(scheduler.step(torch.tanh(a) * 0.7, first[i], a).prev_sample)
        if i < 5:
            b = edit(scheduler.step(torch.tanh(b) * 0.7, second[i], b).prev_sample)
    assert torch.equal(a, expected[0])
    assert torch.equal(b, expected[1])


def test_what_may_be_of_several_runs_is_an_error():
    scheduler, a, b = shared(), start(1), start(2)
    scheduler.set_timesteps(6)
    times = list(scheduler.timesteps)
    a = scheduler.step(a, times[0], a).prev_sample
    b = scheduler.step(b, times[0], b).prev_sample
    with pytest.raises(ConfigurationError, match="may belong to several runs"):
        scheduler.step(a, times[1], a.clone())
    a, b = (scheduler.step(x, times[1], x).prev_sample for x in (a, b))  # both may still go on
    del a
    with pytest.raises(ConfigurationError, match="may belong to several runs"):
        scheduler.step(b, times[2], b * 1.0)


def test_an_edited_run_does_not_take_the_predictions_of_one_that_began_after_it():
    scheduler, a, b = shared(), start(1), start(2)
    scheduler.set_timesteps(6)
    times = list(scheduler.timesteps)
    a = scheduler.step(a, times[0], a).prev_sample * 0.9  # nobody holds what was handed out
    b = scheduler.step(b, times[0], b).prev_sample
    with pytest.raises(ConfigurationError, match="may belong to several runs"):
        scheduler.step(a, times[1], a)
    scheduler.step(b, times[1], b)


def test_a_given_up_run_does_not_leave_its_predictions_to_another():
    scheduler, x = shared(), start(1)
    scheduler.set_timesteps(6)
    times = list(scheduler.timesteps)
    lost = start(9)
    for t in times[:3]:
        lost = scheduler.step(lost, t, lost).prev_sample
    del lost
    expected = loop(shared(), x, 6)
    for t in times:  # no set_timesteps: the run that begins at the first entry is new
        x = scheduler.step(torch.tanh(x) * 0.7, t, x).prev_sample
    assert torch.equal(x, expected)


def test_steps_out_of_turn_are_an_error():
    scheduler, x = shared(), start(1)
    with pytest.raises(ConfigurationError, match="no timesteps yet"):
        scheduler.step(x, torch.tensor(1), x)
    scheduler.set_timesteps(6)
    times = list(scheduler.timesteps)
    x = scheduler.step(x, times[0], x).prev_sample
    for wrong in (times[3], int(times[3])):
        with pytest.raises(ConfigurationError, match="due to make call 2"):
            scheduler.step(x, wrong, x)
    with pytest.raises(ConfigurationError, match="none of the times"):
        scheduler.step(x, 123456, x)
    with pytest.raises(ConfigurationError, match="due to make call 2"):
        scheduler.step(x.clone(), times[4], x.clone())
    scheduler.step(x, times[1], x)


@pytest.mark.parametrize("method", ["pndm", "unipc"])
def test_times_by_value(method):
    """Entries that are copied, moved or turned into numbers are found by value, the repeated ones of PNDM too."""
    expected = loop(shared(method), start(1), 6)
    for kind in (float, lambda t: t.clone(), lambda t: t.expand(4), lambda t: t.item()):
        scheduler, x = shared(method), start(1)
        scheduler.set_timesteps(6)
        for t in scheduler.timesteps:
            x = scheduler.step(torch.tanh(x) * 0.7, kind(t), x)[0]
        assert torch.equal(x, expected)


def test_repeated_runs_are_the_same():
    scheduler = shared()
    first = loop(scheduler, start(1), 6)
    assert torch.equal(loop(scheduler, start(1), None), first)
    assert torch.equal(loop(scheduler, start(1), 6), first)


def test_a_pipeline_called_from_a_callback_of_another_that_shares_the_scheduler():
    pipe = build("sd", PlanScheduler.from_config(scheduler_of("UniPCMultistepScheduler")))
    alone, other = images(pipe, "sd", steps=6), images(pipe, "sd", steps=4, seed=5)
    inner = []

    def nested(_: Any, step: int, __: Any, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == 2:
            inner.append(images(pipe, "sd", steps=4, seed=5))
        return {"latents": kept["latents"] * 1.0}  # an edited state, at that

    outer = images(pipe, "sd", steps=6, callback_on_step_end=nested)
    np.testing.assert_array_equal(inner[0], other)
    np.testing.assert_array_equal(outer, alone)


def test_threads_share_a_scheduler():
    pipe = build("sd", PlanScheduler.from_config(scheduler_of("UniPCMultistepScheduler", solver_order=3)))
    # a tokenizer is not thread-safe: every call sets its padding, which a call in another thread may then use
    prompt, negative = pipe.encode_prompt("a cat", "cpu", 1, True)
    told = {"prompt": None, "prompt_embeds": prompt, "negative_prompt_embeds": negative}
    jobs = [(4, 0), (6, 1), (6, 2), (5, 3)]
    expected = {job: images(pipe, "sd", steps=job[0], seed=job[1], **told) for job in jobs}
    found: dict[tuple[int, int], list[np.ndarray]] = {job: [] for job in jobs}

    def work(job: tuple[int, int]) -> None:
        for _ in range(2):
            found[job].append(np.asarray(pipe(**arguments("sd", steps=job[0], seed=job[1], **told)).images))

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job in jobs:
        assert len(found[job]) == 2
        for result in found[job]:
            np.testing.assert_array_equal(result, expected[job])


def test_a_callback_that_edits_latents_acts_the_same_in_both():
    seen = []

    def halved(_: Any, step: int, __: Any, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(step)
        return {"latents": kept["latents"] * 0.5 if step == 3 else kept["latents"]}

    # of schedulers that keep x/α a factor is a factor, too; call 3 is the end of a step of Heun's
    for name in ("DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"):
        pipe = build("sd", scheduler_of(name))
        expected = images(pipe, "sd", steps=6, callback_on_step_end=halved)
        pipe.scheduler = PlanScheduler.from_config(pipe.scheduler)
        seen.clear()
        got = images(pipe, "sd", steps=6, callback_on_step_end=halved)
        assert relative(got, expected) < TOLERANCE
        assert seen == list(range(len(pipe.scheduler.timesteps)))


def test_generators_one_a_sample():
    for name in ("EulerAncestralDiscreteScheduler", "DDPMScheduler"):
        pipe = build("sd", scheduler_of(name))
        expected = images(pipe, "sd", batch=2, generator=[torch.Generator().manual_seed(i) for i in (4, 5)])
        pipe.scheduler = PlanScheduler.from_config(pipe.scheduler)
        got = images(pipe, "sd", batch=2, generator=[torch.Generator().manual_seed(i) for i in (4, 5)])
        assert relative(got, expected) < TOLERANCE
        single = images(pipe, "sd", generator=[torch.Generator().manual_seed(5)])
        assert relative(got[1:], single) < TOLERANCE


def test_a_network_that_returns_the_same_memory_does_not_corrupt_the_history():
    def run(same: bool) -> Tensor:
        scheduler, x, memory = shared("lms"), start(1), torch.empty(1, 3, 4, 4)
        scheduler.set_timesteps(7)
        for t in scheduler.timesteps:
            output = torch.tanh(x) * 0.7
            x = scheduler.step(memory.copy_(output) if same else output, t, x).prev_sample
        return x

    assert torch.equal(run(True), run(False))
