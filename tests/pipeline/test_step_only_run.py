"""Samplers that have only `step()`, in the pipeline and in a loop of the user's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from noise_scheduler_sampling_system import (
    BaseSampler,
    ConfigurationError,
    ModelOutputError,
    SamplerOutput,
)
from small_runs import METHODS, SHAPE, STEPS, draw, network, pipeline


def test_a_sampler_with_step_alone_runs_in_the_pipeline():
    """The seed's way to add one: here Euler's method, written by hand from the noise levels."""

    class ByHand(BaseSampler):
        def step(self, model_output, timestep, sample, next_timestep=None):
            now = self.scheduler.level(timestep)
            clean = (sample - now.sigma * model_output) / now.alpha
            if next_timestep is None:
                return SamplerOutput(clean, clean)
            after = self.scheduler.level(next_timestep)
            return SamplerOutput(after.alpha * clean + after.sigma * model_output, clean)

    got = pipeline(ByHand).sample(network, SHAPE, STEPS, seed=0)
    torch.testing.assert_close(got, pipeline("euler").sample(network, SHAPE, STEPS, seed=0), rtol=1e-4, atol=1e-5)
    streamed = list(pipeline(ByHand).stream(network, SHAPE, STEPS, seed=0))
    assert torch.equal(streamed[-1].x, got)
    assert [s.index for s in streamed] == list(range(STEPS))


def test_a_step_is_offered_what_its_signature_names():
    seen = []

    class Asking(BaseSampler):
        def step(self, model_output, timestep, sample, *, step_index, num_inference_steps, noise, next_timestep, eta=0):
            seen.append((timestep, next_timestep, step_index, num_inference_steps, eta, noise.clone()))
            return {"prev_sample": 1} if timestep == -1 else sample

    pipeline(Asking).sample(network, SHAPE, 3, seed=8)
    assert [s[:5] for s in seen] == [(666, 333, 0, 3, 0), (333, 0, 1, 3, 0), (0, None, 2, 3, 0)]
    assert all(isinstance(s[0], int) for s in seen), "tables are indexed by whole times"
    assert len({float(s[5].sum()) for s in seen}) == 3
    again = [s[5] for s in seen]
    seen.clear()
    pipeline(Asking).sample(network, SHAPE, 3, seed=8, max_batch_size=1)
    assert torch.equal(torch.cat([s[5] for s in seen if s[0] == 666]), again[0]), "noise is keyed by sample"


def test_a_step_that_demands_the_unknown_is_refused_before_the_run():
    class Greedy(BaseSampler):
        def step(self, model_output, timestep, sample, temperature):
            return sample

    with pytest.raises(ConfigurationError, match="temperature"):
        pipeline(Greedy).sample(network, SHAPE, 3)


@pytest.mark.parametrize("answer", [None, 3.0, torch.zeros(1), SimpleNamespace(prev_sample=None), (1, 2)])
def test_a_step_that_returns_no_sample_is_named(answer):
    class Wrong(BaseSampler):
        def step(self, model_output, timestep, sample):
            return answer

    with pytest.raises(ModelOutputError, match="step\\(\\) returned") as raised:
        pipeline(Wrong).sample(network, SHAPE, 3)
    assert raised.value.where == "Wrong.step, step 0"


def test_a_step_may_write_into_what_it_is_given():
    class InPlace(BaseSampler):
        def step(self, model_output, timestep, sample):
            return sample.mul_(0.5).add_(model_output, alpha=0.1)

    class Fresh(BaseSampler):
        def step(self, model_output, timestep, sample):
            return sample * 0.5 + 0.1 * model_output

    noise = draw()
    kept = noise.clone()
    got = pipeline(InPlace).sample(network, initial_noise=noise, num_inference_steps=4)
    torch.testing.assert_close(got, pipeline(Fresh).sample(network, initial_noise=kept, num_inference_steps=4))
    assert torch.equal(noise, kept)


def test_a_sampler_with_neither_step_nor_write_is_refused():
    class Empty(BaseSampler):
        pass

    with pytest.raises(ConfigurationError, match="neither write"):
        pipeline(Empty).sample(network, SHAPE, 3)


def test_a_step_only_sampler_has_no_plan_and_says_so():
    class Bare(BaseSampler):
        def step(self, model_output, timestep, sample):
            return sample

    with pytest.raises(ConfigurationError, match="cannot be compiled"):
        pipeline(Bare).plan(5)


@pytest.mark.parametrize("method", METHODS)
def test_a_hand_written_loop_over_step_equals_the_pipeline(method):
    run = pipeline(method, clip_sample=True)
    noise, generator = draw(), torch.Generator().manual_seed(3)
    state, x = run.sampler.start(STEPS, noise), noise
    draws = []
    for t in run.plan(STEPS).time:
        if method in ("ddpm", "ancestral"):
            draws.append(generator.get_state())
        out = run.sampler.step(network(x, torch.full((3,), t)), t, x, state=state, generator=generator)
        x, state = out.prev_sample, out.state
        assert out.pred_original_sample.abs().max() <= 1.0
    if method in ("ddpm", "ancestral"):
        assert not torch.equal(x, noise)
        assert len(draws) == STEPS
    else:
        torch.testing.assert_close(
            x, run.sample(network, initial_noise=noise, num_inference_steps=STEPS), rtol=1e-6, atol=1e-6
        )


def test_a_result_of_a_custom_step_is_replayed_by_its_plan():
    class Bare(BaseSampler):
        def step(self, model_output, timestep, sample):
            return 0.5 * sample + 0.1 * model_output

    result = pipeline(Bare).sample(network, SHAPE, STEPS, seed=0, return_result=True)
    assert torch.equal(pipeline(Bare).sample(network, SHAPE, seed=0, plan=result.plan), result.samples)
