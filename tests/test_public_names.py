"""The public surface: the short list at the root, the rest in the subpackages, and the earlier names of the root."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import noise_scheduler_sampling_system as library
from public_names import PACKAGES, PACKAGES_WITH_NAMES, public_names

#: Every name that the root listed before the subpackages had their own lists.
EARLIER = [
    "AdaptiveSampler", "AdvancedDiffusionSystem", "AncestralSampler", "BaseNoiseScheduler", "BaseSampler",
    "BetaSchedule", "BrownianNoise", "ConfigurationError", "CosineNoiseScheduler", "CosinePath", "DDIMSampler",
    "DDPMSampler", "DeviceError", "DiffusionPipeline", "EDMPath", "EulerSampler", "ExpAlphaBarNoiseScheduler",
    "ExponentialNoiseScheduler", "FileError", "FlowPath", "Form", "HeunSampler", "LaplaceNoiseScheduler", "Level",
    "Likelihood", "LinearNoiseScheduler", "ModelOutputError", "ModelStatistics", "MultistepSampler", "NoisePath",
    "NoiseSamplingError", "NoiseSchedulerConfig", "NoiseSchedulerFactory", "NumericsError", "Option",
    "OutOfMemoryError", "PNDMSampler", "PlanBuilder", "PlanSet", "Prediction", "QuadraticNoiseScheduler",
    "Recommendation", "ReversibleRun", "RunState", "SamplerFactory", "SamplerOutput", "SamplerReport",
    "SamplingMethod", "SamplingPlan", "SamplingResult", "SamplingStep", "ScaledLinearNoiseScheduler", "ShiftedSNR",
    "SigmoidGammaNoiseScheduler", "SigmoidNoiseScheduler", "SingleStepSampler", "Spectrum", "StepDistribution",
    "SubVPPath", "TimeGrid", "Unbatched", "VDiffusionPath", "VEPath", "VPPath", "ZeroTerminalSNR", "along",
    "calibrate", "check_sampler", "design_plan", "from_noise", "guidance", "log_likelihood", "make_grid", "models",
    "presets", "recommend", "resolution_shift", "spacings", "start_at", "step_distribution", "trajectory_log_probs",
]  # fmt: skip


def test_every_subpackage_is_an_attribute_of_the_root():
    for name in PACKAGES:
        assert isinstance(getattr(library, name), ModuleType)
        assert f"``{name}``" in library.__doc__, "the root says what it holds"


@pytest.mark.parametrize("name", EARLIER)
def test_an_earlier_name_of_the_root_is_still_there_without_a_warning(name, recwarn):
    assert name in PACKAGES or getattr(library, name) is public_names()[name]
    assert not recwarn


def test_an_earlier_name_can_be_imported_where_warnings_are_errors():
    code = f"from noise_scheduler_sampling_system import {', '.join(EARLIER)}"
    subprocess.run([sys.executable, "-W", "error::DeprecationWarning:noise_scheduler", "-c", code], check=True)


def test_the_root_lists_what_is_used_every_day():
    assert set(library.__all__) <= set(EARLIER)
    assert len(library.__all__) < 32
    for name in library.__all__:
        assert name in PACKAGES or getattr(library, name) is public_names()[name]


def test_a_public_name_means_one_thing_and_is_listed_where_it_is_defined():
    for name, each in public_names().items():
        homes = [package for package in PACKAGES_WITH_NAMES if name in getattr(library, package).__all__]
        assert all(getattr(getattr(library, package), name) is each for package in homes)
        if inspect.isclass(each) or inspect.isfunction(each):
            assert each.__module__.removeprefix(f"{library.__name__}.").partition(".")[0] in homes, name


def test_everything_public_is_documented():
    undocumented = [name for name, each in public_names().items() if not inspect.getdoc(each)]
    assert undocumented == []
    for name in PACKAGES:
        assert importlib.import_module(f"{library.__name__}.{name}").__doc__
