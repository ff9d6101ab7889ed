"""Compiled runs: the samples of ``sample``, one compilation for all calls, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig, SamplingMethod
from noise_scheduler_sampling_system.guidance import (
    AdaptiveProjected,
    AutoGuidance,
    ClassifierFree,
    Energy,
    Interval,
    Rescale,
)
from sampler_names import TWO_TIMES

SHAPE = (2, 1, 8, 8)
LABELS = {"class_labels": torch.tensor([1, 2])}
OTHERS = {"class_labels": torch.tensor([4, 0])}
#: Captures the whole run without Inductor, which takes seconds for each.
TRACED = {"backend": "unrolled", "options": {"backend": "eager"}}


class Network(nn.Module):
    """Small, with a time, a class and a null class; its answers keep the state finite."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1))
        self.classes = nn.Embedding(11, 1)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None, r: Tensor | None = None) -> Tensor:
        t = t if r is None else t + r
        shift = 0.0 if class_labels is None else self.classes(class_labels)[:, :, None, None]
        return 0.7 * torch.tanh(x) + 0.1 * self.layers(x) * torch.cos(t)[:, None, None, None] + 0.1 * shift

    def null_condition(self, condition: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"class_labels": torch.full_like(condition["class_labels"], 10)}


NETWORK = Network().eval()


def pipeline_of(method: Any, **settings: Any) -> DiffusionPipeline:
    return DiffusionPipeline(NoiseSchedulerConfig(**settings), method)


@pytest.mark.parametrize("method", list(SamplingMethod))
@pytest.mark.parametrize("clip", [False, True])
def test_every_sampler_that_writes_plans(method, clip):
    pipeline = pipeline_of(method, clip_sample=clip)
    if method.value in TWO_TIMES and clip:
        with pytest.raises(ConfigurationError, match="two times"):
            pipeline.compile(NETWORK, SHAPE, 4, backend="eager")
        return
    if not pipeline.sampler.writes_plans or not pipeline._setup.run_on(4, None, None).planned:
        with pytest.raises(ConfigurationError, match="cannot be compiled"):
            pipeline.compile(NETWORK, SHAPE, 4, backend="eager")
        return
    scale = 0.7 if "cfg_pp" in method.value else 2.0
    run = {"condition": LABELS, "guidance_scale": scale}
    fast = pipeline.compile(NETWORK, SHAPE, 4, backend="eager", **run)
    expected = pipeline.sample(NETWORK, SHAPE, 4, seed=3, **{**run, "condition": OTHERS})
    width = float(expected.abs().max())
    for _ in range(2):  # a call leaves nothing behind
        torch.testing.assert_close(fast(3, condition=OTHERS) / width, expected / width, atol=2e-6, rtol=0.0)
    expected = pipeline.sample(NETWORK, SHAPE, 4, seed=9, **run)
    width = float(expected.abs().max())
    torch.testing.assert_close(fast(9) / width, expected / width, atol=2e-6, rtol=0.0)


@pytest.mark.parametrize("method", ["ddim", "ddpm", "dpmpp_3m", "unipc", "heun", "sa_solver", "dpmpp_2m_cfg_pp"])
def test_the_whole_run_is_one_graph_that_serves_ten_plans(method):
    pipeline = pipeline_of(method, clip_sample=method == "ddim")
    run = {"condition": LABELS, "guidance_scale": 0.7 if "cfg_pp" in method else 2.0}
    torch._dynamo.reset()
    counters.clear()
    fast = pipeline.compile(NETWORK, SHAPE, 4, **run, **TRACED)
    plans = [fast.plan]
    for shift in range(9):
        times = [900.0 - 3.5 * shift, 600.0 - 2.5 * shift, 300.5 - shift, 50.5 + shift]
        plan = pipeline.plan(timesteps=times)
        if fast.fits(plan):
            plans.append(plan)
    for number, plan in enumerate(plans):
        expected = pipeline.sample(NETWORK, SHAPE, plan=plan, seed=number, **run)
        width = float(expected.abs().max())
        torch.testing.assert_close(fast(number, plan=plan) / width, expected / width, atol=5e-6, rtol=0.0)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    if method in ("dpmpp_3m", "unipc"):
        assert len(plans) == 10


def test_the_network_is_compiled_once_for_all_steps_and_seeds():
    pipeline = pipeline_of("dpmpp_2m")
    torch._dynamo.reset()
    counters.clear()
    fast = pipeline.compile(NETWORK, SHAPE, 6, backend="network", options={"backend": "eager"})
    for seed in range(3):
        expected = pipeline.sample(NETWORK, SHAPE, 6, seed=seed)
        torch.testing.assert_close(fast(seed), expected, atol=2e-5, rtol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert not fast.fits(pipeline.plan(5))


def test_inductor_compiles_a_whole_run():
    pipeline = pipeline_of("dpmpp_2m")
    fast = pipeline.compile(NETWORK, SHAPE, 3, backend="unrolled")
    torch.testing.assert_close(fast(0), pipeline.sample(NETWORK, SHAPE, 3, seed=0), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "guidance", [[ClassifierFree(3.0), Interval(0.3, 5.0)], [ClassifierFree(3.0), Rescale(0.7)], AdaptiveProjected(3.0)]
)
def test_guidance_by_rows_and_with_memory(guidance):
    pipeline = pipeline_of("dpmpp_2m", timestep_spacing="trailing")
    run = {"condition": LABELS, "guidance": guidance}
    for options in ({"backend": "eager"}, TRACED):
        fast = pipeline.compile(NETWORK, SHAPE, 5, **run, **options)
        expected = pipeline.sample(NETWORK, SHAPE, 5, seed=2, **run)
        for _ in range(2):
            torch.testing.assert_close(fast(2), expected, atol=1e-4, rtol=1e-4)


def test_half_precision_states_are_combined_in_float32():
    pipeline, network = pipeline_of("dpmpp_2m"), Network().eval().bfloat16()

    def run(call: Any) -> Tensor:
        return call(dtype=torch.bfloat16).double()

    fast = run(lambda **k: pipeline.compile(network, SHAPE, 5, backend="eager", **k)(1))
    exact = pipeline.sample(Network().eval().double(), SHAPE, 5, seed=1, dtype=torch.float64)
    eager = run(lambda **k: pipeline.sample(network, SHAPE, 5, seed=1, **k))
    assert (fast - exact).square().mean() <= 1.2 * (eager - exact).square().mean()


def test_noise_of_ones_own_and_threads():
    pipeline = pipeline_of("ddpm")
    fast = pipeline.compile(NETWORK, SHAPE, 4, backend="eager")
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4))
    expected = pipeline.sample(NETWORK, None, 4, initial_noise=noise, seed=0)
    for given in (noise, noise.numpy(), noise.tolist()):
        torch.testing.assert_close(fast(0, initial_noise=given), expected, atol=1e-5, rtol=1e-5)
    alone = [fast(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for seed, together in enumerate(pool.map(fast, range(8))):
            assert torch.equal(together, alone[seed])


def test_what_cannot_be_compiled_is_refused_with_the_reason():
    pipeline = pipeline_of("ddim")
    energy = Energy(lambda clean, t: clean.square().flatten(1).sum(1), scale=0.1, through_model=True)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"guidance": energy}, "differentiates"),
        ({"backend": "graph"}, "network"),
        ({"backend": "cuda_graph"}, "cpu"),
        ({"seed": 3}, "unknown keyword"),
    ]
    for arguments, what in cases:
        with pytest.raises(ConfigurationError, match=what):
            pipeline.compile(NETWORK, SHAPE, 4, **arguments)


class Zeroing(Network):
    """Changes its times in-place."""

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None, r: Tensor | None = None) -> Tensor:
        out = super().forward(x, t, class_labels, r)
        t.zero_()
        return out


@pytest.mark.parametrize(
    "options", [{"backend": "eager"}, TRACED, {"backend": "network", "options": {"backend": "eager"}}]
)
def test_a_network_that_changes_its_time_in_place_leaves_those_of_others_and_of_later_calls(options):
    pipeline, guided = pipeline_of("dpmpp_2m"), {"condition": LABELS, "guidance": AutoGuidance(NETWORK, 2.0)}
    expected = pipeline.sample(NETWORK, SHAPE, 3, seed=1, **guided)
    fast = pipeline.compile(Zeroing().eval(), SHAPE, 3, **options, **guided)
    for _ in range(2):
        torch.testing.assert_close(fast(1), expected, atol=1e-5, rtol=1e-5)


def test_a_call_of_another_form_is_refused():
    pipeline = pipeline_of("dpmpp_2m")
    fast = pipeline.compile(NETWORK, SHAPE, 4, condition=LABELS, backend="eager")
    one = torch.zeros(1, *SHAPE[1:])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"plan": pipeline.plan(5)}, "another form"),
        ({"condition": {"class_labels": torch.tensor([1.0, 2.0])}}, "class_labels"),
        ({"condition": {"labels": torch.tensor([1, 2])}}, "labels"),
        ({"initial_noise": one}, "shape"),
        ({"seed": -1}, "seed"),
    ]
    for arguments, what in cases:
        with pytest.raises(ConfigurationError, match=what):
            fast(**arguments)
    other = pipeline.plan(timesteps=[900.5, 600.0, 300.5, 50.5])
    assert fast.fits(other)
    with pytest.raises(ConfigurationError, match="class_labels"):  # refused after the other plan was written
        fast(0, plan=other, condition={"class_labels": torch.tensor([1.0, 2.0])})
    expected = pipeline.sample(NETWORK, SHAPE, 4, condition=LABELS, seed=0)  # refused calls changed nothing
    torch.testing.assert_close(fast(0), expected, atol=1e-5, rtol=1e-5)
