"""Runs that begin at a level with next to no signal, by every way into a run.

There a bounded network makes bounded samples: none of them is to be much larger than DDIM's on the same levels.
(A bounded network of ε does not: its clean sample is (x − σ·ε)/α, for DDIM, too.)
"""

from __future__ import annotations

import inspect
import math
import warnings
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    SamplingPlan,
    TimeGrid,
)
from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler
from sampler_names import IN_DIFFUSERS, ONE_TIME

KINDS = ("epsilon", "v_prediction", "sample")
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO = {**LATENT, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
#: As much as the largest entry may exceed DDIM's: for few long steps of high order. The fault is 20 to 3,000 times.
MOST = 6.0


def flow_config(name: str = "UniPCMultistepScheduler") -> Any:
    return getattr(diffusers, name)(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def their_configs() -> dict[str, Any]:
    made = {"flow": flow_config(), "flow dpm": flow_config("DPMSolverMultistepScheduler")}
    for kind in KINDS:
        if kind != "epsilon":
            made[f"zero SNR {kind}"] = diffusers.EulerDiscreteScheduler(prediction_type=kind, **ZERO)
        made[f"cosine {kind}"] = diffusers.DPMSolverMultistepScheduler(prediction_type=kind, **COSINE)
    made["zero SNR unipc"] = diffusers.UniPCMultistepScheduler(prediction_type="v_prediction", **ZERO)
    return made


THEIRS = their_configs()


def network(x: Tensor, t: Any) -> Tensor:
    return torch.tanh(x)


def noise() -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def options(method: str) -> dict[str, Any]:
    return {"t_min": 0.01, "t_max": 100.0} if method == "restart" else {}


def driven(scheduler: Any, steps: int) -> Tensor:
    """The loop of a pipeline of diffusers."""
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(1)
    x = noise() * scheduler.init_noise_sigma
    draws = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, return_dict=False, **draws)[0]
    return x


def size(x: Tensor) -> float:
    return float(x.abs().max())


@pytest.mark.parametrize("steps", [4])
@pytest.mark.parametrize("name", THEIRS)
def test_in_the_loop_of_diffusers(name, steps):
    usual = size(driven(PlanScheduler.from_config(THEIRS[name], method="ddim"), steps))
    for method in ONE_TIME:
        if method in IN_DIFFUSERS:
            scheduler = PlanScheduler.from_config(THEIRS[name], method=method, **options(method))
            assert size(driven(scheduler, steps)) < MOST * usual, method


def our_runs() -> dict[str, tuple[NoiseSchedulerConfig, str]]:
    """Configs, and how a run through them is asked for."""
    made = {
        f"{name}, read": (NoiseSchedulerConfig.from_diffusers(scheduler), "steps") for name, scheduler in THEIRS.items()
    }
    for kind in KINDS:
        cosine = NoiseSchedulerConfig(beta_schedule="cosine", prediction_type=kind, timestep_spacing="trailing")
        made |= {f"cosine {kind}, {way}": (cosine, way) for way in ("steps", "timesteps", "sigmas")}
    flow = NoiseSchedulerConfig(beta_schedule="flow", prediction_type="flow_prediction")
    made["flow from its σ"] = (flow, "sigmas")
    return made


OURS = our_runs()


@pytest.mark.parametrize("name", OURS)
def test_in_our_own_loop(name):
    config, way = OURS[name]
    path = NoiseSchedulerFactory.create(config)
    given: dict[str, Any] = {"num_inference_steps": 4}
    if way == "timesteps":
        given = {"timesteps": [999.0, 700.0, 400.0, 100.0]}
    elif way == "sigmas" and path.sigma_is_absolute:
        given = {"grid": TimeGrid.from_sigmas(path, [1.0 - 1e-6, 0.9, 0.75, 0.5])}
    elif way == "sigmas":
        given = {"grid": TimeGrid.from_sigmas(path, [19_000.0, 10.0, 4.0, 2.0, 1.0, 0.4])}

    def ours(method: str) -> float:
        pipeline = DiffusionPipeline(config, method, **options(method))
        return size(pipeline.sample(network, initial_noise=noise(), dtype=torch.float64, seed=1, **given))

    usual = ours("ddim")
    for method in ONE_TIME:
        assert ours(method) < MOST * usual, method


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        *((name, {**COSINE, "prediction_type": kind}) for kind in KINDS for name in (
            "LMSDiscreteScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
        )),
        *((name, "flow") for name in (
            "UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "DEISMultistepScheduler", "SASolverScheduler",
        )),
        *((name, {**ZERO, "prediction_type": "v_prediction"}) for name in (
            "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DDIMScheduler",
        )),
    ],
    ids=str,
)  # fmt: skip
def test_the_twin_of_a_class_does_what_the_class_does(name, flags, steps):
    theirs = flow_config(name) if flags == "flow" else getattr(diffusers, name)(**flags)
    ours = PlanScheduler.from_config(theirs)
    try:
        expected = driven(theirs, steps)
    except NotImplementedError:
        assert flags["prediction_type"] == "sample"
        return
    got = driven(ours, steps)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    # their tables are in single precision, and so is 1 − ᾱ, of which the first level's α is made
    assert size(got - expected) < 2e-3 * size(expected)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "PNDMScheduler"]
)
def test_the_twin_of_a_class_with_two_calls_there_makes_both(name, kind, steps):
    """As the class does, whatever it makes of errors: the numbers of its own loop."""
    more = {"timestep_spacing": "trailing", "skip_prk_steps": True} if name == "PNDMScheduler" else {}
    theirs = getattr(diffusers, name)(prediction_type=kind, **COSINE, **more)
    ours = PlanScheduler.from_config(theirs)
    try:
        runs = driven(theirs, steps).isfinite().all()
    except (NotImplementedError, ValueError):  # it does not know the prediction type
        runs = False
    if not runs:  # ours does
        assert driven(ours, steps).isfinite().all()
        return
    ours.set_timesteps(steps)
    theirs.set_timesteps(steps)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    if steps > 1:
        traced = SamplingPlan.trace(theirs, steps)
        assert all(np.array_equal(getattr(ours.plan, column), getattr(traced, column)) for column in "abc")


def test_what_such_a_twin_does_to_errors_is_said(caplog):
    PlanScheduler.from_config(diffusers.HeunDiscreteScheduler(**COSINE)).set_timesteps(4)
    assert "multiplies errors of the predicted clean sample" in caplog.text


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler",
             "UniPCMultistepScheduler", "EulerAncestralDiscreteScheduler"],
)  # fmt: skip
def test_without_signal_noise_predictions_are_refused_by_the_plan_alone(name):
    """Of models that predict ε, where the run begins at the level without signal; by every way in alike."""
    leading = getattr(diffusers, name)(**{**ZERO, "timestep_spacing": "leading"})
    scheduler = PlanScheduler.from_config(leading)
    scheduler.set_timesteps(30)
    assert scheduler.timesteps[0] < 999
    config = NoiseSchedulerConfig.from_diffusers(leading)
    assert DiffusionPipeline(config, "ddim").sample(network, (1, 3, 4, 4), 30).isfinite().all()
    trailing = getattr(diffusers, name)(**ZERO)
    for method in (None, "dpmpp_2m", "heun"):
        with pytest.raises(ConfigurationError, match="no signal"):
            PlanScheduler.from_config(trailing, method=method).set_timesteps(30)
    with pytest.raises(ConfigurationError, match="no signal"):
        DiffusionPipeline(NoiseSchedulerConfig.from_diffusers(trailing), "ddim").sample(network, (1, 3, 4, 4), 30)


def test_far_above_the_limit_a_fine_grid_keeps_second_order():
    """Not the level alone makes a DDIM step: σ/α must fall far in it."""
    config = NoiseSchedulerConfig(beta_schedule="ve", schedule_options={"sigma_min": 1.0, "sigma_max": 8_000.0})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = DiffusionPipeline(config, "heun")
    sigmas = [8_000.0 / 1.5**i for i in range(10)]
    plan = pipeline.sampler.plan(grid=TimeGrid.from_sigmas(pipeline.scheduler, sigmas))
    assert plan.nfe == 2 * len(sigmas) - 1
    assert math.isclose(plan.sigma[0], 8_000.0)
