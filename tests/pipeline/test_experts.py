"""Two networks in one run: against loops by hand, against diffusers, and through every way of running."""

from __future__ import annotations

import itertools
import pickle

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    FlowPath,
    NoiseSchedulerConfig,
    TimeGrid,
    models,
)
from noise_scheduler_sampling_system.grids import FrameGrid
from noise_scheduler_sampling_system.guidance import ClassifierFree
from noise_scheduler_sampling_system.integrations.diffusers import read
from noise_scheduler_sampling_system.models import Experts
from noise_scheduler_sampling_system.serving import Batcher

PATH = FlowPath(shift=5.0)
HIGH = models.GaussianModel(PATH, mean=0.8, covariance=0.5)
LOW = models.GaussianModel(PATH, mean=-0.4, covariance=0.2)
START = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
RUN = {"initial_noise": START, "dtype": torch.float64}
#: Rounding of float64 over the steps of a run.
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}


class Network(torch.nn.Module):
    """A network with a condition, whose unconditional output differs."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.eval()

    def forward(self, x: Tensor, t: Tensor, bias: Tensor | None = None) -> Tensor:
        own = torch.tanh(self.weight * x) + t.reshape(-1, 1) / 1000
        return own if bias is None else own + bias.reshape(-1, 1)


def experts(boundary: float = 0.875) -> Experts:
    return Experts(HIGH, LOW, boundary=boundary)


def pipeline(method: str = "euler", **options: object) -> DiffusionPipeline:
    return DiffusionPipeline(PATH, method, **options)


def by_hand(x: Tensor, t: Tensor) -> Tensor:
    return HIGH(x, t) if float(t.reshape(-1)[0]) >= 875.0 else LOW(x, t)


# ------------------------------------------------------------------------------- what a run is


def test_a_run_is_the_loop_by_hand():
    """Euler on flow: x falls by (σ − σ')·F, with the network of each step's time."""
    levels = pipeline().grid(12).levels
    x, seen = START, []
    for now, after in itertools.pairwise(levels):
        seen.append(now.t >= 875.0)
        network = HIGH if now.t >= 875.0 else LOW
        x = x + (after.sigma - now.sigma) * network(x, torch.tensor(now.t, dtype=torch.float64))
    assert 2 < sum(seen) < 11, "both networks have steps"
    torch.testing.assert_close(pipeline().sample(experts(), num_inference_steps=12, **RUN), x, **ROUNDING)


def test_each_network_has_its_guidance():
    high, low = Network(0.3), Network(0.7)
    model, bias = Experts(high, low, boundary=0.875), torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)
    scales = model.scale(high=4.0, low=1.5)
    x, levels = START, pipeline().grid(12).levels
    for now, after in itertools.pairwise(levels):
        network, scale = (high, 4.0) if now.t >= 875.0 else (low, 1.5)
        t = torch.full((3,), now.t, dtype=torch.float64)
        with torch.no_grad():
            null, own = network(x, t, torch.zeros(3, dtype=torch.float64)), network(x, t, bias)
        x = x + (after.sigma - now.sigma) * (null + scale * (own - null))
    made = pipeline().sample(
        model, num_inference_steps=12, condition={"bias": bias}, guidance=ClassifierFree(scales), **RUN
    )
    torch.testing.assert_close(made, x, **ROUNDING)


def test_a_scale_of_one_evaluates_one_branch_of_its_network():
    model = Experts(Network(0.3), Network(0.7), boundary=0.875)
    result = pipeline().sample(
        model, num_inference_steps=12, condition={"bias": torch.ones(3, dtype=torch.float64)}, return_result=True,
        guidance=ClassifierFree(model.scale(high=4.0, low=1.0)), **RUN,
    )  # fmt: skip
    high = sum(name == "high" for name in model.rows(pipeline().plan(12)))
    assert (result.nfe, result.evaluations) == (12, 12 + high)


@pytest.mark.parametrize("method", ["dpmpp_2m", "unipc", "heun", "ancestral", "adams", "lcm", "dpmpp_2s"])
@pytest.mark.parametrize("steps", [1, 4, 15])
def test_every_kind_of_sampler_calls_the_network_of_each_time(method, steps):
    """Also at the stages inside a step; a model that reads the time of the call makes the same samples."""
    run = {"shape": (3, 6), "seed": 5, "num_inference_steps": steps, "dtype": torch.float64}
    assert torch.equal(pipeline(method).sample(experts(), **run), pipeline(method).sample(by_hand, **run))


def test_the_history_goes_over_the_switch_as_in_the_pipeline_of_diffusers():
    """UniPC of diffusers in the loop of WanPipeline: t >= boundary_ratio · 1000 calls the first transformer."""
    scheduler = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=5.0, prediction_type="flow_prediction", num_train_timesteps=1000
    )
    scheduler.set_timesteps(14)
    x = START
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        network = HIGH if t >= 0.9 * 1000 else LOW
        x = scheduler.step(network(x, 1000 * sigma.double()), t, x, return_dict=False)[0]
    options = dict(read(scheduler).options)
    wan = DiffusionPipeline(NoiseSchedulerConfig.preset("wan-2.2-i2v"), "unipc", **options)
    made = wan.sample(experts(0.9), num_inference_steps=14, **RUN)
    torch.testing.assert_close(made, x, rtol=0, atol=2e-5)  # its σ are float32, and the first one is 1 − 1e-6


@pytest.mark.parametrize("shift", [1.0, 3.0, 12.0])
def test_the_switch_is_a_noise_level_whatever_the_shift_and_the_grid(shift):
    path = FlowPath(shift=shift)
    for steps in (8, 40):
        plan = DiffusionPipeline(path, "euler").plan(steps)
        assert [name == "high" for name in experts().rows(plan)] == (plan.time >= 875.0).tolist()
    grid = TimeGrid.from_sigmas(path, [1.0, 0.875, 0.8749, 0.3])
    assert experts().rows(DiffusionPipeline(path, "euler").plan(grid=grid)) == ("high", "high", "low", "low")


def test_a_run_may_lie_on_one_side_and_the_time_may_be_sigma():
    later = pipeline().sample(experts(), num_inference_steps=5, start=600.0, initial_sample=START, dtype=torch.float64)
    alone = pipeline().sample(LOW, num_inference_steps=5, start=600.0, initial_sample=START, dtype=torch.float64)
    assert torch.equal(later, alone)
    small = FlowPath(shift=5.0, time_scale=1.0)
    parts = [models.GaussianModel(small, mean=m, covariance=c) for m, c in ((0.8, 0.5), (-0.4, 0.2))]
    made = DiffusionPipeline(small, "euler").sample(
        Experts(*parts, boundary=0.875, time_scale=1.0), num_inference_steps=12, **RUN
    )
    torch.testing.assert_close(made, pipeline().sample(experts(), num_inference_steps=12, **RUN), **ROUNDING)


# ------------------------------------------------------------------------------- every way of running


def test_streams_stops_and_goes_on_bit_for_bit(tmp_path):
    whole = pipeline("dpmpp_2m").sample(experts(), num_inference_steps=12, **RUN)
    steps = list(pipeline("dpmpp_2m").stream(experts(), num_inference_steps=12, **RUN))
    assert torch.equal(steps[-1].x, whole)
    for step in (3, 8):  # on both sides of the switch
        steps[step].state.save(tmp_path / "run.safetensors")
        *_, last = pipeline("dpmpp_2m").stream(experts(), resume=tmp_path / "run.safetensors")
        assert torch.equal(last.x, whole)
    with pytest.raises(ConfigurationError, match="another model"):
        next(pipeline("dpmpp_2m").stream(experts(0.5), resume=steps[3].state))


def test_checkpoints_and_small_batches_make_the_same_samples(tmp_path):
    whole = pipeline("unipc").sample(experts(), shape=(4, 6), num_inference_steps=9, seed=2)
    parts = pipeline("unipc").sample(experts(), shape=(4, 6), num_inference_steps=9, seed=2, max_batch_size=3)
    kept = pipeline("unipc").sample(
        experts(), shape=(4, 6), num_inference_steps=9, seed=2, checkpoint=tmp_path / "a.safetensors", every=2
    )
    torch.testing.assert_close(parts, whole)
    assert torch.equal(kept, whole)


@pytest.mark.parametrize("backend", ["eager", "network"])
def test_prepared_runs_call_both_networks_and_refuse_a_plan_with_another_switch(backend):
    model = Experts(Network(0.3), Network(0.7), boundary=0.875)
    run = pipeline("dpmpp_2m").compile(
        model, shape=(3, 6), num_inference_steps=12, dtype=torch.float64, backend=backend,
        **({"options": {"backend": "eager"}} if backend == "network" else {}),
    )  # fmt: skip
    torch.testing.assert_close(
        run(seed=4),
        pipeline("dpmpp_2m").sample(model, shape=(3, 6), num_inference_steps=12, seed=4, dtype=torch.float64),
    )
    other = DiffusionPipeline(FlowPath(shift=1.0), "dpmpp_2m").plan(12)
    with pytest.raises(ConfigurationError, match="another form"):
        run(seed=4, plan=other)


def test_requests_at_different_times_share_a_batcher():
    model, sampler = Experts(Network(0.3), Network(0.7), boundary=0.875), pipeline("unipc")
    requests = [{"shape": (1, 6), "num_inference_steps": n, "seed": n, "dtype": torch.float64} for n in (5, 9, 12)]
    with Batcher(sampler, 8, model=model) as batcher:
        handles = [batcher.submit(**request) for request in requests]
        for handle, request in zip(handles, requests, strict=True):
            torch.testing.assert_close(handle.result(timeout=60), sampler.sample(model, **request), **ROUNDING)


def test_frames_of_one_level_run_and_frames_on_both_sides_are_refused():
    method = pipeline("euler")
    grid = FrameGrid.full_sequence(method.grid(6), 2)
    run = {"shape": (1, 2, 3), "seed": 0, "dtype": torch.float64}
    torch.testing.assert_close(
        method.sample(experts(), grid=grid, **run), method.sample(experts(), num_inference_steps=6, **run)
    )
    mixed = FrameGrid.from_times(PATH, np.array([[1000.0, 900.0], [880.0, 400.0], [300.0, 100.0]]))
    with pytest.raises(ConfigurationError, match="both sides of the switch"):
        method.sample(experts(), grid=mixed, initial_sample=torch.zeros(1, 2, 3, dtype=torch.float64))


def test_the_device_is_not_read_during_a_run(monkeypatch):
    """The networks are chosen by the plan: no comparison of a tensor's time."""
    model = experts()
    monkeypatch.setattr(type(model), "forward", lambda *_: pytest.fail("the model itself is called"))
    told = []
    kept = Experts.is_high
    monkeypatch.setattr(Experts, "is_high", lambda self, t: told.append(type(t)) or kept(self, t))
    pipeline().sample(model, num_inference_steps=6, **RUN)
    assert told
    assert not any(issubclass(kind, Tensor) for kind in told)


# ------------------------------------------------------------------------------- what is shown and refused


def test_the_table_of_a_plan_shows_the_switch():
    plan = pipeline().plan(12)
    lines = experts().table(plan).splitlines()
    assert lines[0].split()[:5] == ["row", "step", "t", "network", "α"]
    named = [line.split()[3] for line in lines[1:]]
    assert named == list(experts().rows(plan))
    first = named.index("low")
    assert experts().described(plan).startswith(f"high: rows 0 to {first - 1}, t = 1000 to ")
    assert experts(0.01).described(plan).endswith("low: no row")


def test_they_are_called_by_hand_described_and_copied():
    model = experts()
    for t in (900.0, torch.tensor([900.0, 880.0, 875.0])):
        assert torch.equal(model(START, t), HIGH(START, t))
    assert torch.equal(model(START, 874.9), LOW(START, 874.9))
    assert (model.prediction_type, model.switch_time) == ("flow_prediction", 875.0)
    assert "switch_time=875" in repr(model)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(START, 900.0), HIGH(START, 900.0))
    with pytest.raises(ConfigurationError, match="both sides of the switch"):
        model(START, torch.tensor([900.0, 100.0, 900.0]))
    scales = model.scale(high=4.0, low=3.0)
    assert pickle.loads(pickle.dumps(scales)) == scales


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"high": None}, "high"), ({"low": Network}, "low"), ({"boundary": 875.0}, "boundary"),
        ({"boundary": 0.0}, "boundary"), ({"boundary": "0.9"}, "boundary"), ({"time_scale": 0.0}, "time_scale"),
        ({"low": models.EDMPreconditioned(LOW)}, "low"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(arguments, where):
    given = {"high": HIGH, "low": LOW, "boundary": 0.875, **arguments}
    with pytest.raises(ConfigurationError) as caught:
        Experts(given.pop("high"), given.pop("low"), **given)
    assert caught.value.where == where


def test_a_switch_outside_the_times_and_a_wrong_condition_are_refused_before_the_first_call():
    never = Experts(lambda x, t: pytest.fail("called"), lambda x, t: pytest.fail("called"), boundary=0.9)
    with pytest.raises(ConfigurationError, match="time_scale=1 to Experts") as caught:
        DiffusionPipeline(FlowPath(time_scale=1.0), "euler").sample(never, shape=(1, 2))
    assert caught.value.where == "Experts.boundary"
    with pytest.raises(ConfigurationError, match="condition"):
        pipeline().sample(never, shape=(1, 2), condition={"label": torch.ones(1)})
