"""Conditions: tensors without a batch dimension, null conditions in part, labels, and times of embedding tables."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    Unbatched,
    calibrate,
    models,
)
from noise_scheduler_sampling_system.guidance import AutoGuidance, ClassifierFree

SHAPE = (4, 1, 8, 8)
PIPELINE = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
IDS = torch.arange(24.0).reshape(8, 3)


class Network:
    """Reads a text embedding (one row a sample) and ids (none), and keeps what it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[torch.Size, Any]] = []

    def __call__(self, x: Tensor, t: Tensor, text: Tensor, ids: Any, more: Any = None) -> Tensor:
        self.seen.append((x.shape, ids))
        assert len(text) == len(x)
        return 0.1 * x + 0.01 * text[:, None, None, None] + 0.001 * torch.as_tensor(ids).mean()


def run(model: Any, condition: dict[str, Any], **more: Any) -> Tensor:
    samples: Tensor = PIPELINE.sample(model, SHAPE, 3, condition=condition, seed=0, **more)
    return samples


@pytest.mark.parametrize("rows", [8, 4])  # of ids; 4 is the batch itself
@pytest.mark.parametrize(
    "guided", [{}, {"guidance": AutoGuidance(Network(), 2.0)}, {"classifier_free_guidance": False}]
)
def test_what_has_no_batch_dimension_is_given_whole_to_every_batch(rows, guided):
    ids, text = IDS[:rows], torch.arange(4.0)
    model = Network()
    whole = run(model, {"text": text, "ids": Unbatched(ids)}, **guided)
    assert all(torch.equal(seen, ids) for _, seen in model.seen)
    parts = Network()
    assert torch.equal(run(parts, {"text": text, "ids": Unbatched(ids)}, max_batch_size=3, **guided), whole)
    assert {shape[0] for shape, _ in parts.seen} <= {3, 1, 6, 2}
    assert all(torch.equal(seen, ids) for _, seen in parts.seen)
    assert torch.equal(run(Network(), {"text": text, "ids": Unbatched(ids.numpy())}, **guided), whole)
    nested = Network()
    run(nested, {"text": text, "ids": Unbatched(ids), "more": {"a": Unbatched(ids), "b": [Unbatched(ids)]}}, **guided)


def test_without_the_mark_the_error_names_it():
    with pytest.raises(ConfigurationError, match=r"Unbatched\(tensor\)"):
        run(Network(), {"text": torch.arange(4.0), "ids": IDS})


def test_branches_must_have_the_same_unbatched_value():
    told = {"text": torch.arange(4.0), "ids": Unbatched(IDS)}
    same = run(Network(), told, null_condition={"text": torch.zeros(4), "ids": Unbatched(IDS.clone())})
    assert torch.equal(same, run(Network(), told))
    with pytest.raises(ConfigurationError, match="no batch dimension"):
        run(Network(), told, null_condition={"text": torch.zeros(4), "ids": Unbatched(IDS + 1)})


def test_an_unbatched_condition_is_calibrated_to():
    told = {"text": torch.arange(2.0), "ids": Unbatched(IDS)}
    plan = calibrate(
        Network(), PIPELINE, shape=SHAPE[1:], nfe=2, condition=told, trajectories=8, passes=4, teacher_calls=8,
        guidance_scale=1.0,
    )  # fmt: skip
    assert plan.nfe == 2


def test_a_null_condition_says_what_differs_and_the_rest_is_the_conditions():
    seen: list[dict[str, Any]] = []

    def model(x: Tensor, t: Tensor, **told: Any) -> Tensor:
        seen.append(told)
        return 0.1 * x + 0.01 * (told["text"] + told["added"]["ids"])[:, None, None, None]

    text, ids, pooled = torch.arange(4.0), torch.arange(4.0) + 10, torch.arange(4.0) + 20
    told = {"text": text, "added": {"ids": ids, "pooled": pooled}, "word": "same"}
    part = run(model, told, null_condition={"text": torch.zeros(4), "added": {"pooled": torch.zeros(1)}})
    both = seen[0]
    assert torch.equal(both["text"], torch.cat([text, torch.zeros(4)]))
    assert torch.equal(both["added"]["ids"], torch.cat([ids, ids]))
    assert torch.equal(both["added"]["pooled"], torch.cat([pooled, torch.zeros(4)]))
    assert both["word"] == "same"
    null = {"text": torch.zeros(4), "added": {"ids": ids, "pooled": torch.zeros(4)}, "word": "same"}
    assert torch.equal(run(model, told, null_condition=null), part)
    labels = torch.tensor([1, 2, 3, 4])  # and of the embedded model a number
    digits = {"condition": {"class_labels": labels}, "seed": 0, "guidance_scale": 2.0}
    whole = PIPELINE.sample(None, SHAPE, 3, **digits)
    assert torch.equal(PIPELINE.sample(None, SHAPE, 3, **digits, null_condition={"class_labels": 10}), whole)


@pytest.mark.parametrize(
    ("null", "where"), [({}, "null_condition"), ({"tekst": torch.zeros(4)}, "null_condition['tekst']")]
)
def test_a_null_condition_that_says_nothing_of_the_condition_is_refused(null, where):
    with pytest.raises(ConfigurationError) as raised:
        run(Network(), {"text": torch.arange(4.0), "ids": 0.0}, null_condition=null)
    assert raised.value.where == where


class Tabled(nn.Module):
    """A network with an embedding table of 1,000 timesteps, as many training codes have."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1000, 1)
        self.asked: list[int] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.asked += [int(v) for v in t[:1]]
        return 0.1 * x + self.table(t)[:, :, None, None]


@pytest.mark.parametrize("method", ["ddim", "heun", "dpmpp_2s"])
@pytest.mark.parametrize("spacing", ["karras", "linspace"])
def test_a_network_with_a_table_of_timesteps_runs_with_rounded_times(method, spacing):
    pipeline, model = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing=spacing), method), Tabled()
    model.eval()
    assert torch.isfinite(pipeline.sample(model, SHAPE, 7, seed=0, round_timesteps=True)).all()
    assert 0 <= min(model.asked) <= max(model.asked) <= 999
    plan = pipeline.plan(7)
    times = [round(t) for t, asked in zip(plan.time, plan.asked, strict=False) if asked]
    assert all(abs(told - real) <= 1 for told, real in zip(model.asked, times, strict=True))
    streamed = list(pipeline.stream(model, SHAPE, 7, seed=0, round_timesteps=True))
    assert torch.equal(streamed[-1].x, pipeline.sample(model, SHAPE, 7, seed=0, round_timesteps=True))


@pytest.mark.parametrize("lookup", ["embedding", "index"])
def test_a_table_that_is_asked_at_a_real_time_says_what_to_do(lookup):
    table = nn.Embedding(1000, 1)
    rows = torch.zeros(1000)

    def model(x: Tensor, t: Tensor) -> Tensor:
        return x * (table(t)[:, :, None, None] if lookup == "embedding" else rows[t][:, None, None, None])

    pipeline = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="karras"), "ddim")
    with pytest.raises((RuntimeError, IndexError, TypeError)) as raised:
        pipeline.sample(model, SHAPE, 3, seed=0)
    if hasattr(raised.value, "__notes__"):
        assert any("round_timesteps=True" in note for note in raised.value.__notes__)
    pipeline.sample(model, SHAPE, 3, seed=0, round_timesteps=True)


@pytest.mark.parametrize("schedule", ["flow", "edm"])
def test_schedules_of_real_times_refuse_to_round(schedule):
    with pytest.raises(ConfigurationError, match="no whole timesteps"):
        DiffusionPipeline(NoiseSchedulerConfig(beta_schedule=schedule)).sample(shape=SHAPE, round_timesteps=True)


@pytest.mark.parametrize("labels", [[11] * 4, [-1] * 4, [0, 1, 2, 99], 12])
@pytest.mark.parametrize("of", ["digits", "mnist"])
@pytest.mark.parametrize("where", ["condition", "null_condition"])
def test_labels_that_a_model_does_not_know_are_refused_before_it_is_called(labels, of, where):
    if of == "mnist":
        pytest.importorskip("diffusers")
    prediction = "v_prediction" if of == "mnist" else "epsilon"
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(prediction_type=prediction))
    model = models.mnist_unet() if of == "mnist" else models.DigitsModel(pipeline.scheduler)
    told = {"condition": {"class_labels": torch.arange(4)}, where: {"class_labels": torch.as_tensor(labels).expand(4)}}
    with pytest.raises(ConfigurationError, match="the model has the labels 0 to 10") as raised:
        pipeline.sample(model, (4, 1, 28, 28), 2, **told)
    assert raised.value.where == f"{where}['class_labels']"


@pytest.mark.parametrize("call", ["sample", "stream", "calibrate"])
def test_a_scale_without_a_condition_is_refused_but_for_the_default_and_none(call):
    def asked(**told: Any) -> Any:
        if call == "calibrate":
            return PIPELINE.calibrate(shape=SHAPE[1:], nfe=2, trajectories=4, passes=2, teacher_calls=4, **told)
        made = getattr(PIPELINE, call)(None, (2, *SHAPE[1:]), 2, seed=0, **told)
        return list(made)[-1].x if call == "stream" else made

    plain = asked()
    for scale in (7.5, 1.0, 1):
        same = asked(guidance_scale=scale)
        assert same == plain if call == "calibrate" else torch.equal(same, plain)
    for scale in (3.0, 0.0, 7.4):
        with pytest.raises(ConfigurationError, match="needs a condition") as raised:
            asked(guidance_scale=scale)
        assert raised.value.where == "guidance_scale"
    with pytest.raises(ConfigurationError, match="there is none"):
        PIPELINE.sample(None, SHAPE, 2, guidance=ClassifierFree(3.0))


@pytest.mark.parametrize("other", ["edm", "flow", "cosine", "vp", "linear"])
def test_a_plan_of_another_schedule_is_refused_as_a_plan(other):
    """Also where its times are not among those of this schedule."""
    schedules = {other, "linear" if other != "linear" else "edm"}
    one, two = (DiffusionPipeline(NoiseSchedulerConfig(beta_schedule=name)) for name in schedules)
    for here, there in ((one, two), (two, one)):
        with pytest.raises(ConfigurationError, match="made on another noise schedule") as raised:
            here.sample(shape=SHAPE, plan=there.plan(3))
        assert raised.value.where == "plan"


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder"])
def test_a_pipeline_without_what_reads_text_says_so(part):
    pytest.importorskip("diffusers")
    from tiny_pipelines import stable_diffusion

    pipe = stable_diffusion()
    setattr(pipe, part, None)
    with pytest.raises(ConfigurationError, match=f"has no {part}"):
        DiffusionPipeline.from_diffusers(pipe, "ddim").generate("a cat", num_inference_steps=2)
