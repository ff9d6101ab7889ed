"""Guided runs: one batched call a step, what stands for no condition, and conditions that are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import (
    ConfigurationError,
)
from small_runs import LABELS, METHODS, NULL, SHAPE, STEPS, Counting, conditional, network, pipeline


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [7.5, 2.0, 0.5, -1.0])
def test_guidance_is_one_batched_call_a_step_and_equals_the_formula(method, scale):
    model, run = Counting(conditional), pipeline(method)
    kinds = {"shape": SHAPE, "num_inference_steps": STEPS, "seed": 1}
    guided = run.sample(
        model, **kinds, guidance_scale=scale, condition={"label": LABELS}, null_condition={"label": NULL}
    )
    assert len(model.calls) == run.plan(STEPS).nfe
    for x, t, condition in model.calls:
        assert x.shape == (6, *SHAPE[1:])
        assert torch.equal(x[:3], x[3:])
        assert torch.equal(t[:3], t[3:])
        assert condition["label"].tolist() == [1, 2, 3, 9, 9, 9]

    def by_hand(x: Tensor, t: Tensor) -> Tensor:
        c, u = conditional(x, t, label=LABELS), conditional(x, t, label=NULL.expand(3))
        return u + scale * (c - u)

    torch.testing.assert_close(guided, run.sample(by_hand, **kinds), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "label"),
    [({"guidance_scale": 1.0}, LABELS), ({"classifier_free_guidance": False}, LABELS), ({"guidance_scale": 0.0}, NULL)],
)
def test_one_branch_alone_runs_unbatched(options, label):
    model = Counting(conditional)
    run = pipeline()
    got = run.sample(
        model, SHAPE, STEPS, seed=1, condition={"label": LABELS}, null_condition={"label": NULL}, **options
    )
    assert all(len(x) == 3 for x, _, _ in model.calls)
    only = run.sample(lambda x, t: conditional(x, t, label=label.expand(3)), SHAPE, STEPS, seed=1)
    assert torch.equal(got, only)


def test_without_a_condition_the_model_is_called_once_a_step_with_the_batch_itself():
    model = Counting()
    pipeline().sample(model, SHAPE, STEPS, guidance_scale=7.5)
    assert [len(x) for x, _, _ in model.calls] == [3] * STEPS
    assert all(condition == {} for _, _, condition in model.calls)


def test_embeddings_are_opposed_to_zeros_when_no_null_is_given():
    model = Counting(lambda x, t, text, added: network(x, t))
    text, pooled = torch.ones(3, 7, 5), torch.ones(1, 8)
    pipeline().sample(model, SHAPE, 2, seed=0, condition={"text": text, "added": {"pooled": pooled, "pair": [text]}})
    for _, _, condition in model.calls:
        assert torch.equal(condition["text"], torch.cat([text, torch.zeros_like(text)]))
        assert torch.equal(condition["added"]["pooled"], torch.cat([pooled.expand(3, 8), torch.zeros(3, 8)]))
        assert torch.equal(condition["added"]["pair"][0], torch.cat([text, torch.zeros_like(text)]))


@pytest.mark.parametrize("value", [LABELS, "a cat"])
def test_labels_without_a_null_class_are_refused_before_the_first_call(value):
    model = Counting(conditional)
    with pytest.raises(ConfigurationError, match="'label' does not have an evident null value") as raised:
        pipeline().sample(model, SHAPE, STEPS, condition={"label": value})
    assert "null_condition" in raised.value.suggestion
    assert model.calls == []


def test_a_model_may_say_what_its_null_condition_is():
    class Hooked(Counting):
        def null_condition(self, condition):
            return {"label": torch.full_like(condition["label"], 9)}

    model, run = Hooked(conditional), pipeline()
    got = run.sample(model, SHAPE, STEPS, seed=1, condition={"label": LABELS})
    given = run.sample(conditional, SHAPE, STEPS, seed=1, condition={"label": LABELS}, null_condition={"label": NULL})
    assert torch.equal(got, given)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"condition": {"label": torch.arange(2)}}, "condition"),
        ({"condition": torch.arange(3)}, "condition"),
        ({"condition": {"label": LABELS}, "null_condition": {"lable": NULL}}, "null_condition['lable']"),
        ({"condition": {"label": LABELS}, "null_condition": {"label": torch.ones(3, 2)}}, "condition['label']"),
        ({"null_condition": {"label": NULL}}, "null_condition"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"guidance_scale": "7.5"}, "guidance_scale"),
        ({"guidance_scale": True}, "guidance_scale"),
    ],
)
def test_conditions_that_cannot_work_are_refused(options, where):
    model = Counting(conditional)
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(model, SHAPE, STEPS, **options)
    assert raised.value.where == where
    assert model.calls == []


def test_guidance_of_the_digits_draws_the_class_that_is_asked_for():
    from noise_scheduler_sampling_system.models import load_digits

    images, labels = load_digits()
    wanted = torch.arange(10)
    samples = pipeline(timestep_spacing="trailing").sample(
        shape=(10, 1, 8, 8), num_inference_steps=20, seed=3, guidance_scale=1.5, condition={"class_labels": wanted}
    )
    nearest = torch.cdist(samples.flatten(1).double(), images.flatten(1)).argmin(dim=1)
    assert labels[nearest].tolist() == wanted.tolist()


@pytest.mark.parametrize("scale", [np.float32(3), np.int64(3), 3])
def test_numbers_of_any_kind_are_numbers(scale):
    labels = {"condition": {"label": LABELS}, "null_condition": {"label": NULL}}
    expected = pipeline().sample(conditional, SHAPE, STEPS, 3.0, seed=0, **labels)
    assert torch.equal(pipeline().sample(conditional, SHAPE, np.int64(STEPS), scale, seed=0, **labels), expected)
