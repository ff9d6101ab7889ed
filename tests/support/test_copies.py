"""Every public value survives pickle, deepcopy and another process, equal to itself."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from noise_scheduler_sampling_system import (
    DiffusionPipeline,
    FlowPath,
    Recommendation,
    TimeGrid,
    comparison,
    models,
    presets,
    serving,
)
from public_names import public_names
from public_values import SHAPE, VALUES, equal, model, returned


@pytest.mark.parametrize("name", VALUES)
def test_a_value_survives_copies(name):
    value = VALUES[name]
    for again in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value), copy.copy(value)):
        assert type(again) is type(value)
        assert equal(value, again)
        assert repr(again) == repr(value) or " at 0x" in repr(value)
        if type(value).__hash__ is not None and not isinstance(value, BaseException | tuple):
            try:
                expected = hash(value)
            except TypeError:
                continue
            assert hash(again) == expected


def test_another_process_returns_what_it_was_given():
    names = [name for name in VALUES if name != "energy"]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for name, again in zip(names, pool.map(returned, [VALUES[name] for name in names]), strict=True):
            assert equal(VALUES[name], again), name


def test_every_public_class_is_among_the_values():
    classes = {type(value) for value in VALUES.values()}
    missing = []
    for name, each in {**public_names(), **{name: getattr(presets, name) for name in presets.__all__}}.items():
        abstract = inspect.isclass(each) and (inspect.isabstract(each) or any(issubclass(c, each) for c in classes))
        if inspect.isclass(each) and each not in classes and not abstract:
            missing.append(name)
    # names of choices, factories that are not instantiated, the builder, which is written into, models, what
    # samplers and calibration hold while they work, comparisons, which have tests of their files,
    # what runs in a thread, and an average that a training moves
    assert set(missing) <= {
        "BetaSchedule", "SamplingMethod", "NoiseSchedulerFactory", "SamplerFactory", "PlanBuilder", "Formula",
        *models.__all__, *comparison.__all__, *serving.__all__, "SamplerState", "Design", "LevelRange", "Table",
        "WeightAverage",
    }  # fmt: skip


def test_values_differ_where_something_differs():
    one, two = DiffusionPipeline(None, "ddim"), DiffusionPipeline(None, "ddim", eta=0.5)
    assert one != two
    assert one == DiffusionPipeline(None, "ddim")
    assert one.scheduler == DiffusionPipeline(None, "heun").scheduler
    assert FlowPath() != FlowPath(shift=2.0)
    steps = list(one.stream(model, SHAPE, 3, seed=0))
    assert steps[0] != steps[1]
    other = list(one.stream(model, SHAPE, 3, seed=1))
    assert steps[1].state != other[1].state
    assert isinstance(VALUES["recommendation"], Recommendation)


def test_a_copy_goes_on_as_the_original_does():
    """And the clean end of a grid is still told from a level that has no time."""
    step = VALUES["step"]
    again = pickle.loads(pickle.dumps(step))
    assert torch.equal(again.pred_original_sample, step.pred_original_sample)
    ends = [list(DiffusionPipeline().stream(model, resume=s.state))[-1].x for s in (step, again)]
    assert torch.equal(*ends)
    grid = pickle.loads(pickle.dumps(VALUES["grid"]))
    assert isinstance(grid, TimeGrid)
    assert math.isnan(grid.levels[-1].t)
    samples = [DiffusionPipeline().sample(model, SHAPE, grid=g, seed=0) for g in (grid, VALUES["grid"])]
    assert torch.equal(*samples)


@pytest.mark.parametrize(
    "make",
    [
        models.DigitsModel,
        models.GaussianModel,
        lambda path: models.GaussianMixtureModel(path, torch.eye(4), 0.1),
        lambda path: models.KernelDensityModel(path, torch.eye(4), 0.1),
    ],
)
def test_models_survive_copies(make):
    network = make(DiffusionPipeline().scheduler)
    x = torch.randn(SHAPE if isinstance(network, models.DigitsModel) else (2, 4))
    for again in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        assert torch.equal(again(x, 500), network(x, 500))
