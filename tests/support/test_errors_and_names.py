"""Errors carry what, where, why and what to do; registries name the nearest entry."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DeviceError,
    DiffusionPipeline,
    FileError,
    ModelOutputError,
    NoiseSamplingError,
    NoiseSchedulerConfig,
    NumericsError,
    OutOfMemoryError,
    SamplerFactory,
    SamplingMethod,
)
from noise_scheduler_sampling_system.config.registries import SPACINGS
from noise_scheduler_sampling_system.support.mistakes import Mistakes
from noise_scheduler_sampling_system.support.registry import Registry, did_you_mean


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ConfigurationError, ValueError), (ModelOutputError, ValueError), (DeviceError, RuntimeError),
        (OutOfMemoryError, MemoryError), (NumericsError, ArithmeticError), (FileError, OSError),
    ],
)  # fmt: skip
def test_errors_carry_their_parts_and_survive_pickling(kind, builtin):
    error = kind("the fact", where="place", why="reason", suggestion="way out")
    assert isinstance(error, NoiseSamplingError)
    assert isinstance(error, builtin)
    assert str(error) == "place: the fact\n  why: reason\n  try: way out"
    assert str(kind("the fact", where="", suggestion="")) == "the fact"
    with pytest.raises(TypeError, match="suggestion"):
        kind("the fact", where="place")  # no error without a way out
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert (again.what, again.where, again.why, again.suggestion) == ("the fact", "place", "reason", "way out")


def test_each_category_has_a_name_of_its_own():
    kinds = NoiseSamplingError.__subclasses__()
    assert {kind.category for kind in kinds} == {
        "configuration", "model output", "device", "memory", "numerics", "file", "refused", "deadline", "stopped",
        "worker",
    }  # fmt: skip


def test_did_you_mean_gives_the_nearest_or_all():
    assert did_you_mean("ETA", ["eta", "beta"]) == "did you mean 'eta' or 'beta'?"
    assert did_you_mean("zzz", ["b", "a"]) == "one of: a, b"
    assert did_you_mean("zzz", []) == "none is registered"


def test_of_a_long_table_three_names_are_suggested_and_what_lists_it():
    names = [f"name_{k}" for k in range(40)]
    for word in ("nam_7", "zzz"):
        said = did_you_mean(word, names, listing="a command")
        assert said.startswith("did you mean 'name_")
        assert said.count("name_") == 3
        assert said.endswith("a command lists all 40")
    with pytest.raises(ConfigurationError, match=r"'dpmpp_2m'.*'noise-sampling samplers'.* lists all \d+$") as caught:
        SamplerFactory.create("dpmpp_2n")
    assert len(str(caught.value)) < 300
    for fields in ({"beta_schedule": "x"}, {"timestep_spacing": "x"}):
        with pytest.raises(ConfigurationError, match="lists all"):
            NoiseSchedulerConfig(**fields)
    with pytest.raises(ConfigurationError, match="noise-sampling presets"):
        NoiseSchedulerConfig.preset("x")


def test_several_mistakes_are_one_error_that_names_each():
    mistakes = Mistakes()
    with mistakes.collected("file"):
        raise ConfigurationError("one", where="a", suggestion="x")
    with mistakes.collected("file"):
        NoiseSchedulerConfig(beta_start=5, thresholding=3)
    with pytest.raises(ConfigurationError) as caught:
        mistakes.raise_all()
    assert [each.where for each in caught.value.errors] == ["file.a", "file.beta_start", "file.thresholding"]
    assert all(f"file.{name}: " in str(caught.value) for name in ("a", "beta_start", "thresholding"))
    assert caught.value.where == "file.a"
    Mistakes().raise_all()


def test_a_registry_is_a_table_of_names():
    registry: Registry[Any] = Registry("thing")
    assert registry.register("one", 1) == 1
    assert registry.register(SamplingMethod.DDIM, 2) == 2
    assert list(registry) == ["one", "ddim"]
    assert "ddim" in registry
    assert 5 not in registry
    assert registry.get(SamplingMethod.DDIM) == 2
    with pytest.raises(ConfigurationError, match="thing 'two'"):
        registry.get("two")


def test_a_registered_spacing_is_accepted(registries):
    @SPACINGS.register("halving")
    def halving(scheduler, steps):
        return (scheduler.num_train_timesteps - 1) / 2.0 ** np.arange(steps)

    plan = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="halving"), "euler").plan(4)
    assert plan.time.tolist() == [999.0, 499.5, 249.75, 124.875]
    with pytest.raises(ConfigurationError) as refused:
        NoiseSchedulerConfig(timestep_spacing="halvin")
    assert "'halving'" in refused.value.suggestion
