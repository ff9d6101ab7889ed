"""What is recommended is better than the usual choices, on models and starts that the table was not made from."""

from __future__ import annotations

import functools

import pytest
import torch

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    SamplerFactory,
)
from noise_scheduler_sampling_system.analysis import recommend
from noise_scheduler_sampling_system.analysis.recommend import family_of, steps_within
from noise_scheduler_sampling_system.models import DigitsModel, GaussianMixtureModel
from noise_scheduler_sampling_system.schedules import FlowPath, NoisePath, ShiftedSNR, VPPath


def error_of(pipeline: DiffusionPipeline, steps: int, model, x: torch.Tensor, exact: torch.Tensor) -> float:
    result = pipeline.sample(model, initial_noise=x, num_inference_steps=steps, dtype=torch.float64)
    return float((result - exact).square().mean().sqrt())


@functools.cache
def problem(schedule: str) -> tuple[NoisePath, DigitsModel, torch.Tensor, torch.Tensor]:
    """Digits of another bandwidth than the table's, other noise, and where the ODE takes it."""
    path = NoiseSchedulerFactory.create(schedule)
    model = DigitsModel(path, path.config.prediction_type, bandwidth=0.22)
    x = torch.randn(48, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(99))
    return path, model, x, model.reference_solution(x * path.prior_std)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "edm", "flow", "scaled_linear"])
@pytest.mark.parametrize("nfe", [6, 10, 20])
def test_better_than_the_usual_choices(schedule, nfe):
    """DPM-Solver++(2M) on Karras' grid, and DDIM on the default one."""
    path, model, x, exact = problem(schedule)
    best = recommend(path, nfe)
    assert best.pipeline(path).plan(best.steps).nfe <= nfe
    chosen = error_of(best.pipeline(path), best.steps, model, x, exact)
    usual = [error_of(DiffusionPipeline(path.spaced("karras"), "dpmpp_2m"), nfe, model, x, exact)]
    usual.append(error_of(DiffusionPipeline(path, "ddim"), nfe, model, x, exact))
    assert chosen < 0.9 * min(usual)


def test_measured_on_a_model():
    path = FlowPath(shift=3.0)
    means = 2.0 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    model = GaussianMixtureModel(path, means, 0.1, prediction_type="flow_prediction")
    best = recommend(path, 8, model=model, shape=(64, 5))
    assert len(best.tried) > 3
    assert [error for *_, error in best.tried] == sorted(error for *_, error in best.tried)
    assert best.error == best.tried[0][2]
    x = torch.randn(64, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    exact = model.reference_solution(x * path.prior_std)
    usual = error_of(DiffusionPipeline(path, "dpmpp_2m"), 8, model, x, exact)
    assert error_of(best.pipeline(path), best.steps, model, x, exact) < usual
    assert recommend(path, 8, model=model, shape=(64, 5)) == best


def test_kinds_of_schedule():
    names = (
        "linear",
        "scaled_linear",
        "cosine",
        "edm",
        "ve",
        "flow",
        "vp",
        "sub_vp",
        "v_diffusion",
        "trigflow",
        "wuerstchen",
    )
    families = {name: family_of(NoiseSchedulerFactory.create(name)) for name in names}
    assert families == {
        "linear": "linear", "scaled_linear": "linear", "cosine": "cosine", "edm": "edm", "ve": "edm", "flow": "flow",
        "vp": "linear", "sub_vp": "linear", "v_diffusion": "cosine", "trigflow": "cosine", "wuerstchen": "linear",
    }  # fmt: skip
    assert family_of(ShiftedSNR(VPPath(), 2.0)) == "linear"


def test_pipelines_configs_and_names_are_schedules():
    config = NoiseSchedulerConfig(beta_schedule="flow")
    assert recommend(config, 7) == recommend(DiffusionPipeline(config), 7) == recommend(FlowPath(), 7)
    assert recommend(None, 9) == recommend(NoiseSchedulerConfig(), 9)


def test_steps_within_counts_true_model_calls():
    for name, nfe, steps in (("heun", 9, 5), ("heun", 10, 5), ("pndm", 10, 9), ("ddim", 10, 10), ("dpmpp_3s", 10, 4)):
        sampler = SamplerFactory.create(name, NoiseSchedulerConfig(timestep_spacing="trailing"))
        assert steps_within(sampler, nfe) == steps
    assert steps_within(SamplerFactory.create("ddim", VPPath(), afs=True), 10) == 11


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"nfe": 0}, "nfe"), ({"nfe": 2.5}, "nfe"), ({"nfe": 8, "model": lambda x, t: x}, "shape"),
        ({"nfe": 8, "shape": (1, 2)}, "shape"),
    ],
)  # fmt: skip
def test_bad_requests(arguments, where):
    with pytest.raises(ConfigurationError) as caught:
        recommend(VPPath(), **arguments)
    assert caught.value.where == where


def test_a_pipeline_of_diffusers_is_advised_on_the_path_of_its_images():
    tiny_pipelines = pytest.importorskip("tiny_pipelines")
    flux = DiffusionPipeline.from_diffusers(tiny_pipelines.build("flux"))
    assert flux.scheduler.config.schedule_options["shift"] != flux.run_path.config.schedule_options["shift"]
    best = recommend(flux, 6)
    own = DiffusionPipeline.from_diffusers(
        flux.backbone.pipe, best.sampler, timestep_spacing=best.spacing, spacing_options=best.spacing_options,
        **best.options,
    )  # fmt: skip
    made = best.pipeline(flux.run_path).plan(best.steps)
    assert made.sigma == pytest.approx(own.plan(best.steps).sigma, abs=1e-12)
    inputs = flux.inputs(prompt=["a red cat"], guidance_scale=3.0, height=64, width=64)
    on_model, here = (recommend(path, 6, seed=0, **inputs) for path in (flux, flux.run_path))
    assert on_model == here
