"""The difference of two plans says what differs, and nothing where nothing does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline
from noise_scheduler_sampling_system.guidance import CachedGuidance


def plan(method, steps=5, **options):
    return DiffusionPipeline(None, method, **options).plan(steps)


def difference(one, other):
    return one.diff(other)


def test_a_plan_does_not_differ_from_itself():
    for method in ("ddim", "heun", "dpmpp_2m", "dpmpp_3m_sde", "pndm"):
        found = difference(plan(method), plan(method))
        assert not found
        assert str(found) == "the plans are the same"


def test_two_samplers_with_the_same_numbers_are_said_to_be_so():
    found = difference(plan("ddim"), plan("euler"))
    assert found.same_numbers
    assert ("sampler", "ddim", "euler") in found.settings
    assert "both compute the same result" in str(found)


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (plan("ddim"), plan("ddim", 6), "model calls: 5 and 6"),
        (plan("ddim"), plan("dpmpp_2m"), "levels differ in"),
        (plan("ddim"), plan("ddpm"), "noise added by a row, over σ: 0 and"),
        (plan("unipc"), plan("unipc", order=2), "option order: 3 and 2"),
    ],
)
def test_what_differs_is_said(one, other, words):
    found = difference(one, other)
    assert found
    assert not found.same_numbers
    assert words in str(found)


def guided(scale, calls=(0, 1)):
    return CachedGuidance(scale, calls=calls).folded_into(plan("unipc"))


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (guided(2.0), guided(7.0), "guidance scale: 2.0 and 7.0"),
        (guided(2.0), plan("unipc"), "guidance scale: 2.0 and none"),
        (guided(2.0), guided(2.0, (0, 2)), "calls that evaluate both branches: 0, 1 and 0, 2"),
        (plan("ddim"), plan("ddim_cfg_pp"), "coefficients differ"),  # which reads the unconditional prediction
    ],
)
def test_the_guidance_of_a_plan_is_a_difference(one, other, words):
    found = difference(one, other)
    assert found
    assert not found.same_numbers
    assert words in str(found)
    assert not difference(one, one)


def test_one_changed_factor_of_a_difference_is_found():
    one = guided(2.0)
    delta = one.delta.copy()
    delta[0, 0] *= 1.0 + 1e-6
    assert 1e-8 < difference(one, replace(one, delta=delta)).coefficients < 1e-5


def test_one_changed_number_is_found():
    one = plan("dpmpp_2m")
    b = one.b.copy()
    b[3, 0] *= 1.0 + 1e-6
    found = difference(one, replace(one, b=b, carries=()))
    assert found.levels == ()
    assert 1e-8 < found.coefficients < 1e-5
    assert "same levels" in str(found)


def test_moments_are_those_of_the_plans():
    one, other = plan("ddim"), plan("dpmpp_2m")
    for std, first, second in difference(one, other).moments:
        assert first == pytest.approx(float(one.gaussian_moments(np.array([std])).std[0]))
        assert second == pytest.approx(float(other.gaussian_moments(np.array([std])).std[0]))


def test_something_else_is_refused():
    with pytest.raises(ConfigurationError, match="give a SamplingPlan"):
        difference(plan("ddim"), 3)
