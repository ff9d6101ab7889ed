"""Guidance that changes the difference of two branches: limit cases, and the functions of diffusers."""

from __future__ import annotations

import pytest
import torch
from diffusers.guiders.magnitude_aware_guidance import mambo_guidance
from diffusers.guiders.tangential_classifier_free_guidance import normalized_guidance

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.guidance import (
    AdaptiveProjected,
    CFGZeroStar,
    ClassifierFree,
    Composed,
    FrequencyDecoupled,
    Interval,
    MagnitudeAware,
    PerpNeg,
    Tangential,
    evaluations,
)
from noise_scheduler_sampling_system.guidance.differences import _coarse

FLOW = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="flow"), "ddim")
CONDITION = {"class_labels": [3, 8]}


def guided(guidance, steps=1, pipeline=FLOW, **more):
    """Samples; of one step from pure noise they are the guided clean sample."""
    request = {"shape": (2, 1, 8, 8), "num_inference_steps": steps, "seed": 0, "dtype": torch.float64}
    return pipeline.sample(guidance=guidance, condition=CONDITION, **request, **more)


def outputs(c, u):
    """The guided output of a model whose branches return c and u, in one step from pure noise: x − v."""

    def model(x, t, null):
        return torch.where(
            null[:, None, None, None], u.repeat(len(x) // len(u), 1, 1, 1), c.repeat(len(x) // len(c), 1, 1, 1)
        )

    x = torch.zeros_like(c)

    def of(guidance):
        return -FLOW.sample(
            model, num_inference_steps=1, initial_noise=x, guidance=guidance, dtype=c.dtype,
            condition={"null": torch.zeros(len(c), dtype=torch.bool)},
            null_condition={"null": torch.ones(len(c), dtype=torch.bool)},
        )  # fmt: skip

    return of


def test_tangential_and_magnitude_aware_are_those_of_diffusers():
    c, u = torch.randn(2, 3, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    of = outputs(c, u + 0.5 * c)
    u = u + 0.5 * c
    assert torch.allclose(of(Tangential(4.0)), normalized_guidance(c, u, 4.0).double(), atol=1e-5)  # theirs is float32
    assert torch.allclose(
        of(MagnitudeAware(4.0)), mambo_guidance(c.flatten(1), u.flatten(1), 4.0, 8.0).reshape(c.shape)
    )  # 2-D alone


@pytest.mark.parametrize(
    "guidance", [Tangential(4.0), MagnitudeAware(4.0), AdaptiveProjected(4.0), CFGZeroStar(4.0, zero_steps=0)]
)
def test_large_images_in_float16_do_not_overflow(guidance):
    """The squares of a latent image of 16×128×128 numbers add up to more than 65,504."""
    c, u = torch.randn(2, 1, 16, 128, 128, generator=torch.Generator().manual_seed(0))
    u = u + 0.5 * c
    half = outputs(c.half(), u.half())(guidance)
    exact = outputs(c, u)(guidance)
    assert float((half.float() - exact).norm() / exact.norm()) < 0.005


def test_tangential_limits():
    c = torch.randn(3, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(outputs(c, 0.4 * c)(Tangential(4.0)), 0.4 * c + 4.0 * 0.6 * c)  # parallel: classifier-free
    across = torch.randn(c.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    across = across - (across * c).sum((1, 2, 3), keepdim=True) / c.square().sum((1, 2, 3), keepdim=True) * c
    short = 0.1 * across  # shares nothing with c, so nothing of it is left
    assert torch.allclose(outputs(c, short)(Tangential(4.0)), 4.0 * c)
    assert torch.equal(guided(Tangential(1.0)), guided([]))


def test_magnitude_aware_limits():
    assert torch.allclose(guided(MagnitudeAware(4.0, damping=0.0), 5), guided(ClassifierFree(4.0), 5))
    assert torch.allclose(guided(MagnitudeAware(4.0, damping=1e4), 5), guided([], 5))


def test_equal_scales_of_all_frequencies_are_classifier_free_guidance():
    assert torch.equal(guided(FrequencyDecoupled(4.0, 4.0), 5), guided(ClassifierFree(4.0), 5))
    low, high = guided(FrequencyDecoupled(4.0, 1.0)), guided(FrequencyDecoupled(1.0, 4.0))
    assert torch.allclose(low + high - guided([]), guided(ClassifierFree(4.0)), atol=1e-10)
    assert not torch.allclose(low, high, atol=1e-2)


def test_the_two_bands():
    """The coarse band keeps a constant and drops a checkerboard, at odd sizes and in each channel, too."""
    for size in ((8, 8), (7, 5), (3, 4)):
        constant = torch.tensor([1.0, -2.0])[None, :, None, None].expand(2, 2, *size)
        assert torch.allclose(_coarse(constant), constant)
    board = torch.tensor([1.0, -1.0]).repeat(16)[None] * torch.tensor([1.0, -1.0]).repeat(16)[:, None]
    assert float(_coarse(board[None, None]).abs()[..., 4:-4, 4:-4].max()) < 1e-6
    smooth = torch.cos(torch.linspace(0, 3.0, 32))[None, None, :, None].expand(1, 1, 32, 32)
    assert float((_coarse(smooth) - smooth).abs()[..., 4:-4, 4:-4].max()) < 0.05


def test_perpendicular_negatives():
    """A negative condition that is the positive one changes nothing; Composed would undo the guidance."""
    same = {"class_labels": torch.tensor([3, 8])}
    plain = guided(ClassifierFree(4.0), 5)
    assert torch.allclose(guided([ClassifierFree(4.0), PerpNeg([(same, 2.0)])], 5), plain, atol=1e-9)
    assert not torch.allclose(guided([ClassifierFree(4.0), Composed([(same, -2.0)])], 5), plain, atol=1e-2)
    other = {"class_labels": torch.tensor([5, 5])}
    assert not torch.allclose(guided([ClassifierFree(4.0), PerpNeg([(other, 2.0)])], 5), plain, atol=1e-2)


def test_adaptive_guidance_is_an_interval_of_steps():
    """Both branches in the first steps, the conditional one alone after them."""
    both = [ClassifierFree(4.0), Interval(0, 2, unit="step")]
    assert evaluations(both, FLOW.plan(6)) == (2, 2, 2, 1, 1, 1)
    scale = ClassifierFree(lambda moment: 4.0 if moment.step <= 2 else 1.0)
    assert torch.allclose(guided(both, 6), guided(scale, 6))


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: FrequencyDecoupled("low", 2.0), "FrequencyDecoupled.low"),
        (lambda: FrequencyDecoupled(2.0, None), "FrequencyDecoupled.high"),
        (lambda: Tangential(2.0, of="flows"), "Tangential.of"),
        (lambda: Tangential("much"), "Tangential.scale"),
        (lambda: MagnitudeAware(2.0, damping=-1.0), "MagnitudeAware.damping"),
        (lambda: MagnitudeAware(2.0, of=3), "MagnitudeAware.of"),
        (lambda: PerpNeg([]), "PerpNeg.terms"),
        (lambda: PerpNeg([({}, 1.0)]), "PerpNeg.terms"),
        (lambda: ClassifierFree(("exponential", 0.0, 4.0)), "ClassifierFree.scale"),
        (
            lambda: FLOW.sample(
                lambda x, t, y: x, (2, 5), condition={"y": torch.ones(2)}, guidance=FrequencyDecoupled(1.0, 2.0)
            ),
            "FrequencyDecoupled",
        ),
    ],
)
def test_refused(make, where):
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert caught.value.where == where
