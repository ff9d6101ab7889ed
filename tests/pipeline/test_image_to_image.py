"""Runs that begin at an image: where they begin is said, and what is known of it is kept."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    TimeGrid,
    models,
    start_at,
)
from noise_scheduler_sampling_system.config.registries import SAMPLERS
from noise_scheduler_sampling_system.guidance import ClassifierFree, KnownRegion, evaluations
from noise_scheduler_sampling_system.samplers.adaptive import AdaptiveSampler
from sampler_names import ONE_TIME

SHAPE = (2, 1, 8, 8)
KINDS = ["epsilon", "sample", "v_prediction", "flow_prediction"]
SCHEDULES = ["linear", "cosine", "edm", "flow", "vp", "v_diffusion"]


def images() -> torch.Tensor:
    return models.load_digits()[0][:2, None].float()


def noise(seed: int = 0) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def ends(pipeline: DiffusionPipeline, model=None, **arguments) -> tuple[torch.Tensor, torch.Tensor]:
    """By ``sample`` and by ``stream``."""
    return pipeline.sample(model, **arguments), list(pipeline.stream(model, **arguments))[-1].x


# ------------------------------------------------------------------------------- where it begins


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("method", ["ddim", "dpmpp_2m", "heun", "ancestral"])
def test_start_is_the_grid_from_there(schedule, method):
    """The time, its level, the share of the schedule and the grid from there are one; all N steps are taken."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule=schedule), method)
    path = pipeline.scheduler
    level = start_at(path, strength=0.4)
    x = path.add_noise(images(), noise(), level.t)
    run = {"initial_sample": x, "num_inference_steps": 5, "seed": 3}
    wanted = pipeline.sample(grid=pipeline.grid(5, start=level.t), **run)
    for where in ({"start": level.t}, {"start": level}, {"strength": 0.4}, {"start": np.float64(level.t)}):
        for end in ends(pipeline, **where, **run):
            assert torch.equal(end, wanted)
    result = pipeline.sample(start=level.t, return_result=True, **run)
    assert result.steps == 5
    assert float(result.plan.time[0]) == pytest.approx(level.t, rel=1e-9)


def test_the_image_comes_back_from_a_little_noise():
    """The issue's case: noised to t = 100, the run begins there and not at t = 950."""
    pipeline = DiffusionPipeline()
    x = pipeline.scheduler.add_noise(images(), noise(), 100)
    for end in ends(pipeline, initial_sample=x, start=100, num_inference_steps=20):
        assert float((end - images()).square().mean()) < 0.05


@pytest.mark.parametrize("run", ["sample", "stream"])
@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({}, "initial_sample"),
        ({"num_inference_steps": 20}, "initial_sample"),
        ({"start": 100, "strength": 0.5}, "start"),
        ({"start": 100, "timesteps": [100, 50]}, "start"),
        ({"strength": 0.5, "grid": "grid"}, "strength"),
        ({"strength": 0.5, "plan": "plan"}, "strength"),
        ({"start": 100, "initial_sample": None, "shape": SHAPE}, "start"),
        ({"strength": 0.5, "initial_sample": None, "shape": SHAPE}, "strength"),
        ({"start": 100, "initial_sample": None, "initial_noise": noise()}, "start"),
        *(({"strength": bad}, "strength") for bad in (0, 1.01, -1, "half", True, float("nan"), torch.tensor(0.5))),
        *(({"start": bad}, "start") for bad in (-1, 1000, "half", True, float("nan"), float("inf"), [100])),
    ],
)
def test_what_does_not_say_where_a_run_begins_is_refused(run, arguments, where):
    pipeline = DiffusionPipeline()
    made = {"grid": TimeGrid.from_times(pipeline.scheduler, [100, 50]), "plan": pipeline.plan(timesteps=[100, 50])}
    arguments = {
        name: made[value] if isinstance(value, str) and value in made else value for name, value in arguments.items()
    }
    calls = []
    with pytest.raises(ConfigurationError) as raised:
        getattr(pipeline, run)(lambda x, t: calls.append(t) or x, **{"initial_sample": noise()} | arguments)
    assert raised.value.where == where
    assert raised.value.suggestion
    assert not calls


def test_a_resumed_run_has_its_start():
    pipeline = DiffusionPipeline()
    run = {"initial_sample": noise(), "start": 300, "num_inference_steps": 4}
    steps = list(pipeline.stream(**run))
    assert torch.equal(list(pipeline.stream(resume=steps[1].state))[-1].x, steps[-1].x)
    for name in ("start", "strength"):
        with pytest.raises(ConfigurationError) as raised:
            pipeline.stream(resume=steps[1].state, **{name: 0.5})
        assert raised.value.where == name


# ------------------------------------------------------------------------------- what is known


def left_half() -> torch.Tensor:
    mask = torch.zeros(8, 8)
    mask[:, 4:] = 1.0
    return mask


@pytest.mark.parametrize("name", sorted(ONE_TIME))
def test_every_sampler_keeps_what_is_known(name):
    """To the rounding of the type; what is made depends on it."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="trailing"), name)
    known = images()[:1]
    end = pipeline.sample(
        shape=SHAPE, num_inference_steps=4, seed=0, guidance=KnownRegion(known, left_half()), dtype=torch.float64
    )
    if pipeline.plan(4).carries if pipeline.sampler.writes_plans else True:
        torch.testing.assert_close(end[..., :4], known.expand(SHAPE).double()[..., :4], rtol=0.0, atol=1e-6)
    assert float((end[..., 4:] - known[..., 4:]).abs().max()) > 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", ["linear", "edm", "flow"])
def test_the_known_region_with_any_model_and_path(schedule, kind, caplog):
    if (schedule, kind) == ("flow", "epsilon"):
        return  # which says nothing of the clean sample where there is no signal
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule=schedule, prediction_type=kind), "dpmpp_2m")
    known, region = images()[:1], KnownRegion(images()[:1].numpy(), left_half().bool().tolist())
    labels = {"class_labels": torch.tensor([3, 4])}
    with caplog.at_level(logging.WARNING, "noise_scheduler_sampling_system"):
        for more in (
            {"guidance": region},
            {"guidance": [ClassifierFree(2.0), region], "condition": labels},
            {"guidance": region, "condition": labels, "max_batch_size": 1},
            {"guidance": region, "initial_sample": pipeline.scheduler.add_noise(images(), noise(), 0.5), "start": 0.5},
        ):
            if "start" in more and schedule == "linear":
                more |= {"start": 400, "initial_sample": pipeline.scheduler.add_noise(images(), noise(), 400)}
            elif "start" in more and schedule == "flow":
                more |= {"start": 400.0, "initial_sample": pipeline.scheduler.add_noise(images(), noise(), 400.0)}
            result = pipeline.sample(shape=SHAPE, num_inference_steps=10, seed=0, return_result=True, **more)
            torch.testing.assert_close(result.samples[..., :4], known.expand(SHAPE)[..., :4], rtol=0.0, atol=2e-5)
            branches = 2 if "condition" in more and isinstance(more["guidance"], list) else 1
            assert result.evaluations == branches * result.nfe
    assert not [record for record in caplog.records if "training mode" in record.message]
    assert set(evaluations(region, pipeline.plan(10))) == {1}


def test_samples_of_a_split_batch_know_their_own_region():
    pipeline = DiffusionPipeline(method="ancestral")
    region = KnownRegion(images(), left_half())
    run = {"shape": SHAPE, "num_inference_steps": 6, "seed": 1, "guidance": region}
    whole = pipeline.sample(**run)
    torch.testing.assert_close(pipeline.sample(max_batch_size=1, **run), whole)
    torch.testing.assert_close(whole[..., :4], images()[..., :4], rtol=0.0, atol=1e-5)
    steps = list(pipeline.stream(**run))
    again = list(pipeline.stream(resume=steps[2].state, guidance=region))
    assert torch.equal(again[-1].x, steps[-1].x)


@pytest.mark.parametrize(
    ("known", "mask", "where"),
    [
        (images()[0], left_half(), "KnownRegion.known"),
        (images().repeat(2, 1, 1, 1)[:3], left_half(), "KnownRegion.known"),
        (images(), torch.ones(7, 8), "KnownRegion.mask"),
        (images(), torch.ones(1, 2, 1, 8, 8), "KnownRegion.mask"),
        (images(), 3 * left_half(), "KnownRegion.mask"),
        (images() * float("nan"), left_half(), "KnownRegion.known"),
        ("cat.png", left_half(), "KnownRegion.known"),
        (images(), [[1, None]], "KnownRegion.mask"),
    ],
)
def test_regions_that_do_not_fit_are_refused_before_the_first_call(known, mask, where):
    calls = []
    with pytest.raises(ConfigurationError) as raised:
        DiffusionPipeline().sample(lambda x, t: calls.append(t) or x, SHAPE, guidance=KnownRegion(known, mask))
    assert raised.value.where == where
    assert not calls


def test_models_without_a_mode_are_not_warned_of(caplog):
    class Plain(torch.nn.Module):
        def forward(self, x, t):
            return 0.5 * x

    class Dropping(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.drop = torch.nn.Dropout(0.1)

    class Learning(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

    for make, warned in ((Plain, False), (Dropping, True), (Learning, True), (lambda: Learning().eval(), False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "noise_scheduler_sampling_system"):
            DiffusionPipeline().sample(make(), (1, 2), 10, seed=0)
        assert bool([record for record in caplog.records if "training mode" in record.message]) == warned


def test_adaptive_samplers_begin_there_as_well():
    names = [name for name in SAMPLERS if issubclass(SAMPLERS.get(name), AdaptiveSampler)]
    for name in names:
        pipeline = DiffusionPipeline(method=name)
        x = pipeline.scheduler.add_noise(images(), noise(), 100)
        end = pipeline.sample(initial_sample=x, start=100, num_inference_steps=5)
        assert float((end - images()).square().mean()) < 0.05


@pytest.mark.parametrize(
    ("keyword", "said"),
    [
        ("image", ("initial_sample", "start=t", "strength=")),
        ("init_image", ("initial_sample", "start=t", "strength=")),
        ("denoising_strength", ("strength", "initial_sample")),
        ("mask_image", ("KnownRegion",)),
        ("mask", ("KnownRegion",)),
    ],
)
@pytest.mark.parametrize("run", ["sample", "stream"])
def test_other_libraries_words_are_answered(run, keyword, said):
    with pytest.raises(ConfigurationError) as raised:
        getattr(DiffusionPipeline(), run)(shape=SHAPE, **{keyword: images()})
    assert raised.value.where == keyword
    assert all(word in raised.value.suggestion for word in said)
