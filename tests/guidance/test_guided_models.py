"""Guidance of models with learned variances, in half precision, and of text."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from guided_mixture import (
    APG,
    BATCH,
    CONDITION,
    FROM,
    LABELS,
    SHAPE,
    START,
    STEPS,
    energy,
    mixture,
    pipeline,
)
from noise_scheduler_sampling_system import (
    BaseSampler,
    DiffusionPipeline,
    RunState,
)
from noise_scheduler_sampling_system.guidance import (
    AdaptiveProjected,
    CFGZeroStar,
    ClassifierFree,
    Composed,
    Energy,
    Formula,
    Guidance,
    Interval,
    Rescale,
)
from noise_scheduler_sampling_system.running.loop import RowState


@pytest.mark.parametrize(
    "guidance",
    [
        [ClassifierFree(3.0), Rescale(0.7)],
        AdaptiveProjected(3.0, momentum=0.0),
        CFGZeroStar(3.0, 1),
        [ClassifierFree(3.0), Interval(1, 2, "step")],
        Energy(energy, 0.05),
    ],
    ids=lambda g: repr(g)[:40],
)
def test_learned_variances_are_the_conditional_branchs(guidance):
    """Each step equals the step on a model that returns the guided mean beside the conditional branch's variance."""
    run = pipeline("epsilon", method="ddpm", variance_type="learned_range")
    model = mixture(run)

    def doubled(x, t, class_labels):
        return torch.cat([model(x, t, class_labels=class_labels), torch.sin(class_labels.reshape(-1, 1) + x)], dim=1)

    with_null = {**CONDITION, "null_condition": {"class_labels": 3}, "guidance": guidance}
    states = list(run.stream(doubled, **FROM, seed=1, **with_null))
    first = next(run.stream(lambda x, t: torch.cat([x, x], 1), **FROM, seed=1)).state
    start = START * run.plan(STEPS).prior_scale
    state = RunState(first.plan, RowState(0, start, {}), first.keys, first.settings)
    for step in states:
        x = state.state.x
        guided = guided_once(pipeline("epsilon"), model, x, step.index, guidance)
        whole = torch.cat([guided, torch.sin(LABELS.reshape(-1, 1) + x)], dim=1)
        again = next(run.stream(lambda x, t, whole=whole: whole, resume=state))
        torch.testing.assert_close(again.x, step.x, rtol=1e-9, atol=1e-9)
        state = dataclasses.replace(step.state, model=None)  # another model on purpose


def guided_once(run: DiffusionPipeline, model: Any, x: Tensor, step: int, guidance: Any) -> Tensor:
    """The guided output about x at one step."""
    seen: list[Tensor] = []

    class Recorder(BaseSampler):
        def step(self, model_output, timestep, sample):
            seen.append(model_output)
            return torch.zeros_like(sample)

    levels = DiffusionPipeline(run.config, Recorder)
    grid = levels.grid(STEPS)
    outputs = levels.stream(model, initial_sample=x, dtype=torch.float64, grid=grid, guidance=guidance, **CONDITION)
    if step:
        first = next(levels.stream(lambda x, t: x, initial_sample=x, grid=grid, seed=0)).state
        there = RunState(first.plan, RowState(step, x, {}), first.keys, first.settings)
        outputs = levels.stream(model, resume=there, guidance=guidance, **CONDITION)
    seen.clear()
    next(outputs)
    return seen[-1]


@pytest.mark.parametrize("guidance", [[ClassifierFree(3.0), Rescale(0.7)], APG, CFGZeroStar(3.0), Energy(energy, 0.05)])
def test_half_precision_models_are_combined_in_the_states_precision(guidance):
    run = pipeline("v_prediction", "flow")
    exact = mixture(run)

    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.bfloat16))

        def forward(self, x, t, class_labels=None):
            assert x.dtype == torch.bfloat16
            wide = x.float()
            return (exact(wide, t) if class_labels is None else exact(wide, t, class_labels=class_labels)).bfloat16()

        def null_condition(self, condition):
            return exact.null_condition(condition)

    @dataclass(frozen=True)
    class InStatePrecision(Guidance):
        def write(self, formula: Formula) -> None:
            formula.value = formula.make(self.checked, formula.conditional, formula.value)

        @staticmethod
        def checked(conditional: Tensor, value: Tensor) -> Tensor:
            assert (conditional.dtype, value.dtype) == (torch.float32, torch.float32)
            return value

    sequence = [*(guidance if isinstance(guidance, list) else [guidance]), InStatePrecision()]
    kinds = {"num_inference_steps": STEPS, "seed": 3, "guidance": sequence, **CONDITION}
    got = run.sample(Half(), SHAPE, **kinds)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, run.sample(exact, SHAPE, **kinds), rtol=0.1, atol=0.1)


def test_conditions_of_text_may_be_composed():
    """Embeddings, whose null is zeros; nested, and expanded from one row."""
    run = pipeline("epsilon")
    a, b = torch.randn(1, 2), torch.randn(BATCH, 2)

    def model(x, t, text):
        return x * 0.5 + text["embeds"].sum(1, keepdim=True)

    def expected(x, t):
        return x * 0.5 + 2.0 * a.sum(1, keepdim=True).expand(BATCH, 1) - 0.5 * b.sum(1, keepdim=True)

    got = run.sample(
        model, SHAPE, STEPS, seed=1, condition={"text": {"embeds": a}},
        guidance=[ClassifierFree(2.0), Composed([({"text": {"embeds": b}}, -0.5)])],
    )  # fmt: skip
    torch.testing.assert_close(got, run.sample(expected, SHAPE, STEPS, seed=1), rtol=1e-5, atol=1e-5)
