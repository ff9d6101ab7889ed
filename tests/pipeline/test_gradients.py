"""Gradients through whole runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from small_runs import CLIPS, LABELS, METHODS, NULL, SHAPE, Plain, conditional, draw, network, pipeline


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("clip", ["open", "clip"])
def test_gradients_agree_with_finite_differences(method, clip):
    """With respect to a parameter of the model and to the initial noise, through the whole run."""
    run = pipeline(method, **CLIPS[clip])
    noise, direction = draw(seed=1, dtype=torch.float64), draw(seed=2, dtype=torch.float64)
    scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    noise.requires_grad_()

    def loss(scale: Tensor, noise: Tensor) -> Tensor:
        samples = run.sample(
            lambda x, t: scale * network(x, t), initial_noise=noise, num_inference_steps=4, seed=0,
            dtype=torch.float64, differentiable=True,
        )  # fmt: skip
        return samples.square().mean()

    by_scale, by_noise = torch.autograd.grad(loss(scale, noise), (scale, noise))
    h = 1e-6
    with torch.no_grad():
        wanted_scale = (loss(scale + h, noise) - loss(scale - h, noise)) / (2 * h)
        wanted_noise = (loss(scale, noise + h * direction) - loss(scale, noise - h * direction)) / (2 * h)
    torch.testing.assert_close(by_scale, wanted_scale, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close((by_noise * direction).sum(), wanted_noise, rtol=1e-4, atol=1e-6)


def test_gradients_pass_through_splits_guidance_and_checkpoint_style_models():
    weight = torch.tensor(0.5, requires_grad=True)
    samples = pipeline().sample(
        lambda x, t, label: weight * conditional(x, t, label=label), SHAPE, 3, 2.0, seed=0, max_batch_size=2,
        condition={"label": LABELS}, null_condition={"label": NULL}, differentiable=True,
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(samples.sum(), weight)
    assert gradient.abs() > 0


@pytest.mark.parametrize("how", ["sample", "stream"])
def test_no_graph_is_recorded_unless_asked_for(how):
    model = Plain().eval()
    if how == "sample":
        samples = pipeline().sample(model, SHAPE, 3, seed=0)
    else:
        for step in pipeline().stream(model, SHAPE, 3, seed=0):
            assert torch.is_grad_enabled(), "the caller's own setting is left alone between steps"
            samples = step.x
    assert not samples.requires_grad
    assert samples.grad_fn is None


def test_a_large_run_in_inference_mode_leaves_gradients_possible():
    """Nothing that is kept between runs is bound to the mode of the first one."""
    run, shape = pipeline(beta_schedule="sigmoid"), (2, 4, 64, 128)
    weight = torch.tensor(0.5, requires_grad=True)
    with torch.inference_mode():
        run.sample(network, shape, 3, seed=0)
    samples = run.sample(lambda x, t: weight * network(x, t), shape, 3, seed=0, differentiable=True)
    (gradient,) = torch.autograd.grad(samples.sum(), weight)
    assert gradient.isfinite()
    assert gradient != 0
