"""Brownian noise: increments of one path, whatever the steps; runs of more steps come closer to each other."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
import torch

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.models import GaussianMixtureModel
from noise_scheduler_sampling_system.running.bound_plan import bind_for
from noise_scheduler_sampling_system.running.brownian import BrownianNoise, brownian
from noise_scheduler_sampling_system.running.loop import RowState, run_rows
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys

WHOLE = 2**24


def increments(ends, keys=((0, 0),), shape=(4096,), dtype=torch.float64):
    """The noises of consecutive spans between these places, as (scaled) increments of the path."""
    spans = {(i, 0): (a, b) for i, (a, b) in enumerate(itertools.pairwise(ends))}
    noise = BrownianNoise(tuple(keys), shape, dtype, spans=spans)
    return [noise(i, 0) * (abs(b - a) / WHOLE) ** 0.5 for (i, _), (a, b) in spans.items()]


def test_increments_add_up_whatever_the_partition():
    places = sorted(np.random.default_rng(0).integers(1, WHOLE, 20).tolist())
    (whole,) = increments([places[0], places[-1]])
    assert torch.allclose(sum(increments(places)), whole, atol=1e-12)
    assert torch.allclose(sum(increments(places[::3] + places[-1:])), whole, atol=1e-12)
    backwards = increments(places[::-1])  # as a run goes, from noise to data
    assert torch.allclose(torch.stack(backwards[::-1]), -torch.stack(increments(places)), atol=1e-12)


def test_law_of_increments():
    """Unit variance after scaling, from the longest to the shortest span; disjoint ones independent; normal."""
    ends = [0, 1, 3, 1000, 1001, WHOLE // 3, WHOLE // 2, WHOLE // 2 + 5, WHOLE - 1, WHOLE]
    parts = increments(ends, shape=(40_000,))
    unit = torch.stack([p / (abs(b - a) / WHOLE) ** 0.5 for p, a, b in zip(parts, ends, ends[1:], strict=False)])[:, 0]
    assert torch.allclose(unit @ unit.T / 40_000, torch.eye(len(unit), dtype=torch.float64), atol=0.03)
    assert torch.allclose(unit.mean(1), torch.zeros(len(unit), dtype=torch.float64), atol=0.03)
    assert torch.allclose(unit.pow(4).mean(1), torch.full((len(unit),), 3.0, dtype=torch.float64), atol=0.25)


def test_depends_on_seed_and_sample_alone():
    ends = [WHOLE - 7, WHOLE // 3, 12345, 77]
    both = torch.stack(increments(ends, resolve_keys(5, None, 6), (3, 2)))
    alone = torch.stack(increments(ends, resolve_keys(5, None, 6)[4:5], (3, 2)))
    assert torch.equal(both[:, 4:5], alone)
    assert not torch.allclose(both, torch.stack(increments(ends, resolve_keys(6, None, 6), (3, 2))))
    noise = BrownianNoise(resolve_keys(5, None, 6), (3, 2), torch.float64, spans={(0, 0): (WHOLE - 7, 77)})
    assert torch.equal(noise.part(2, 5)(0, 0), noise(0, 0)[2:5])
    again = noise(0, 0)
    noise(0, 0)  # what is kept changes nothing
    assert torch.equal(again, noise(0, 0))


def test_other_noise_is_that_of_the_source():
    source = NoiseSource(resolve_keys(3, None, 2), (2, 2), torch.float32)
    noise = brownian(DiffusionPipeline(NoiseSchedulerConfig(), "ddpm").plan(5), source)
    assert torch.equal(noise(5, 0), source(5, 0))  # the plan says nothing of it
    assert torch.equal(noise.initial(), source.initial())
    assert not torch.equal(noise(2, 0), source(2, 0))
    assert noise(2, 0).dtype == source.dtype
    assert noise(2, 0).shape == (2, 2, 2)


@pytest.mark.parametrize(("config", "method"), [({}, "ddim"), ({"variance_type": "learned_range"}, "ddpm")])
def test_plans_without_brownian_noise_are_refused(config, method):
    plan = DiffusionPipeline(NoiseSchedulerConfig(**config), method).plan(5)
    with pytest.raises(ConfigurationError, match="Brownian"):
        brownian(plan, NoiseSource(((0, 0),), (2,)))


def final(method, steps, options, shared):
    """Samples of a two-dimensional mixture, with one path for all numbers of steps, or with independent noise."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="log_snr"), method, **options)
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.0], [0.0, -1.2]], dtype=torch.float64)
    model = GaussianMixtureModel(pipeline.scheduler, means, 0.2)
    plan = pipeline.plan(steps)
    source = NoiseSource(resolve_keys(1, None, 200), (2,), torch.float64)
    noise = brownian(plan, source) if shared else source
    start = RowState(0, source.initial() * plan.prior_scale, {})
    *_, last = run_rows(bind_for(plan, pipeline.config), lambda x, i: model(x, float(plan.time[i])), start, noise)
    return last.x


@pytest.mark.parametrize(("method", "options"), [("ancestral", {}), ("ddpm", {}), ("ddim", {"eta": 0.7})])
def test_samples_converge_along_one_path(method, options):
    """Strong convergence: more steps come closer to the finest run; with independent noise they do not."""

    def distances(shared):
        finest = final(method, 400, options, shared)
        return [float((final(method, n, options, shared) - finest).square().mean().sqrt()) for n in (8, 24, 72)]

    along, unrelated = distances(True), distances(False)
    assert along[0] > 2.0 * along[1] > 4.0 * along[2]
    assert along[2] < 0.12
    assert min(unrelated) > 0.6


def test_a_part_of_a_batch_frees_its_path_before_the_next_one():
    """A path holds up to 49 arrays of the size of its part."""
    paths = []

    def model(x, t):
        paths.append(sum(isinstance(each, BrownianNoise) and bool(each._last) for each in gc.get_objects()))
        return 0.1 * x

    gc.collect()
    pipeline = DiffusionPipeline(None, "dpmpp_sde")
    pipeline.sample(model, (8, 2), 2, seed=1, noise="brownian", max_batch_size=2, return_result=True)
    assert max(paths) == 1
