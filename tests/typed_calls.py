"""What type checkers say of the pipeline's methods: ``mypy tests/typed_calls.py`` checks it, nothing runs it."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from torch import Tensor
from typing_extensions import assert_type

from noise_scheduler_sampling_system import DiffusionPipeline, PlanSet, SamplingPlan, SamplingResult
from noise_scheduler_sampling_system.training import TrainingObjective


def sample(pipeline: DiffusionPipeline, model: Any, asked: bool) -> None:
    assert_type(pipeline.sample(model, (1, 4), 5, seed=0), Tensor)
    assert_type(pipeline.sample(model, (1, 4), return_result=False), Tensor)
    assert_type(pipeline.sample(model, (1, 4), return_result=True), SamplingResult)
    assert_type(pipeline.sample(model, (1, 4), return_result=asked), Tensor | SamplingResult)


def generate(pipeline: DiffusionPipeline, kind: str) -> None:
    assert_type(pipeline.generate("a cat", seed=0), list[Any])
    assert_type(pipeline.generate("a cat", output_type="latent"), Tensor)
    assert_type(pipeline.generate("a cat", output_type="pt", height=64), Tensor)
    assert_type(pipeline.generate("a cat", output_type="np"), npt.NDArray[Any])
    assert_type(pipeline.generate("a cat", return_result=True), SamplingResult)
    assert_type(pipeline.generate("a cat", output_type=kind), Any)


def calibrate(pipeline: DiffusionPipeline, model: Any) -> None:
    assert_type(pipeline.calibrate(model, nfe=5, shape=(4,)), SamplingPlan)
    assert_type(pipeline.calibrate(model, nfe=[5, 8], shape=(4,)), PlanSet)
    assert_type(pipeline.calibrate(model, evaluations=8, shape=(4,)), SamplingPlan)
    assert_type(pipeline.calibrate(model, evaluations=[8, 12], shape=(4,)), PlanSet)


def train(pipeline: DiffusionPipeline, model: Any, x0: Tensor) -> None:
    objective = TrainingObjective(pipeline.scheduler, density="mode", weighting={"name": "min_snr", "gamma": 5.0})
    assert_type(objective.loss(model, x0, {"labels": x0}, seed=0, step=1), Tensor)
    assert_type(objective.draw(4, seed=0), Tensor)
