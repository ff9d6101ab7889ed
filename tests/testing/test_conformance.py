"""The conformance kit passes what the library has, and names what is wrong with an extension."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from noise_scheduler_sampling_system import (
    BaseNoiseScheduler,
    ConfigurationError,
    FlowPath,
    NoisePath,
    NoiseSamplingError,
    VPPath,
    guidance,
)
from noise_scheduler_sampling_system.config import SCHEDULES
from noise_scheduler_sampling_system.guidance import Guidance
from noise_scheduler_sampling_system.testing import check_guidance, check_sampler, check_schedule

OWN = [name for name in SCHEDULES if SCHEDULES.get(name).__module__.startswith("noise_scheduler_sampling_system")]


@pytest.mark.parametrize("name", [name for name in OWN if name != "custom"])
def test_every_schedule_of_the_library_conforms(name):
    report = check_schedule(name)
    assert report.grids > 50
    assert report.log_snr[0] < report.log_snr[1]
    assert str(report).startswith(report.schedule)


class Rooted(BaseNoiseScheduler):
    """√β linear in u."""

    def _get_beta_schedule(self):
        return (0.01 + 0.13 * self.grid_fractions) ** 2


def test_a_schedule_of_ones_own_is_measured():
    assert check_schedule(Rooted).spreads[1.0] == pytest.approx(1.0, abs=0.02)
    assert check_schedule(FlowPath(shift=3.0)).schedule == repr(FlowPath(shift=3.0))


class TooClean(BaseNoiseScheduler):
    """Its noisiest level is far from noise, so that a run that starts from noise leaves noise in."""

    def _get_beta_schedule(self):
        return 1e-6 + 1e-7 * self.grid_fractions


class OtherTarget(VPPath):
    """Trains on a target that is none of its prediction type."""

    def target(self, x0, noise, t):
        return super().target(x0, noise, t) * 1.01


class OtherNoise(VPPath):
    def add_noise(self, x0, noise, t):
        return super().add_noise(x0, noise, t) + 1e-3


class Forgetful(VPPath):
    """A pickle of it is another schedule."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.extra = object()


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (TooClean, "no spacing makes a grid"),
        (OtherTarget, "the target of"),
        (OtherNoise, "add_noise differs"),
        (Forgetful, "is not equal to it"),
        (3, "give a NoisePath"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_named(schedule, words):
    with pytest.raises(ConfigurationError, match=words):
        check_schedule(schedule)


ACTS = [
    guidance.ClassifierFree(3.0),
    guidance.CFGZeroStar(2.0),
    guidance.AdaptiveProjected(4.0),
    guidance.FrequencyDecoupled(1.5, 4.0),
    guidance.Tangential(3.0),
    guidance.MagnitudeAware(6.0),
    [guidance.ClassifierFree(3.0), guidance.Interval(0.3, 5.0)],
    [guidance.ClassifierFree(3.0), guidance.Rescale(0.7)],
]


@pytest.mark.parametrize("acts", ACTS, ids=repr)
def test_guidance_of_the_library_conforms(acts):
    report = check_guidance(acts)
    assert report.neutral
    assert report.change > 0.1
    assert sum(report.evaluations) == (10 if "Interval" in repr(acts) else 12)


@dataclass(frozen=True)
class MixesTypes(Guidance):
    """Shrinks the network's output, whatever it stands for."""

    def write(self, formula):
        formula.value = 0.9 * formula.value


@dataclass(frozen=True)
class MixesSamples(Guidance):
    """Takes the batch's mean off."""

    def write(self, formula):
        formula.value = formula.of(
            "sample",
            formula.make(lambda clean: clean - clean.mean(0, keepdim=True), formula.to("sample", formula.value)),
        )


class Compares(Guidance):
    """Not a dataclass: two objects with one scale are not equal."""

    def __init__(self, scale):
        self.function = lambda: scale

    def write(self, formula):
        formula.value = formula.conditional


@dataclass(frozen=True)
class Overflows(Guidance):
    def write(self, formula):
        formula.value = formula.make(lambda y: y * torch.inf, formula.value)


@pytest.mark.parametrize(
    ("acts", "words"),
    [
        (MixesTypes(), "a network that predicts"),
        (MixesSamples(), "sample 1 alone differs"),
        ([], "is empty"),
    ],
)
def test_what_is_wrong_with_guidance_is_named(acts, words):
    with pytest.raises(ConfigurationError, match=words):
        check_guidance(acts)


def test_guidance_that_cannot_be_pickled_is_refused():
    with pytest.raises(ConfigurationError, match="a pickle of it cannot be made"):
        check_guidance(Compares(2.0))


def test_guidance_that_overflows_is_refused():
    with pytest.raises(NoiseSamplingError, match=r"not finite|NaN|Inf"):
        check_guidance(Overflows())


def test_samplers_are_checked_from_here_too():
    assert check_sampler("ddim", [VPPath()]).order == pytest.approx(1.0, abs=0.1)
    assert issubclass(VPPath, NoisePath)
