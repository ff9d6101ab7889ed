"""The choice of the plan to return: never worse than the best built-in sampler, as far as the trajectories can tell."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from noise_scheduler_sampling_system.calibration.measurement import Measurement
from noise_scheduler_sampling_system.calibration.search.gate import Candidate, Gate, Pooled
from noise_scheduler_sampling_system.calibration.trajectories import Errors
from noise_scheduler_sampling_system.support.errors import ModelOutputError

HELD_OUT, TAUGHT = 1024, 2048
GATE = Gate(None, range(TAUGHT), range(HELD_OUT))


def candidate(kind, usual, elsewhere, training=None, fitted=True, count=HELD_OUT):
    """A plan whose samples have the error ``usual``, but some at fixed places end elsewhere, with the error 0.5."""
    each = torch.full((count,), usual, dtype=torch.float64)
    each[list(elsewhere)] = 0.5
    measured = Measurement(float(each.square().mean().sqrt()), 0.0, float(each.median()), 0.0, 0.0, 0.0, count)
    own = None if training is None else Errors(training, usual)
    return Candidate(each, measured, kind, SimpleNamespace(), SimpleNamespace() if fitted else None, own)


BUILT_IN = candidate("unipc, scm", 0.002, (1, 2), training=0.02, fitted=False)


def test_a_sample_more_elsewhere_does_not_decide_where_all_trajectories_say_otherwise():
    fit = candidate("fit", 0.0002, (3, 4, 5), training=0.01)
    assert fit.errors.rms > BUILT_IN.errors.rms
    best, training, pooled = GATE.best([BUILT_IN], [fit])
    assert best is fit
    assert training == fit.training
    ours, theirs = (
        math.sqrt((HELD_OUT * each.errors.rms**2 + TAUGHT * each.training.rms**2) / (HELD_OUT + TAUGHT))
        for each in (fit, BUILT_IN)
    )
    assert pooled == Pooled(HELD_OUT + TAUGHT, pytest.approx(ours), "unipc, scm", pytest.approx(theirs))
    assert ours < theirs


@pytest.mark.parametrize(
    "fit",
    [
        candidate("worse on all", 0.0002, (3, 4, 5), training=0.03),
        candidate("worse beyond a standard error", 0.0002, range(3, 13), training=0.0),
        candidate("where the same samples end elsewhere, and more", 0.0002, (1, 2, 3, 4), training=0.0),
    ],
    ids=lambda fit: fit.kind,
)
def test_a_worse_plan_is_not_returned_however_small_its_median(fit):
    best, _, pooled = GATE.best([BUILT_IN], [fit])
    assert best is BUILT_IN
    assert pooled is None


def test_a_plan_that_is_better_on_held_out_noise_needs_no_other():
    fit = candidate("fit", 0.0002, (1,), training=9.0)  # however bad on the trajectories of the fit
    best, _, pooled = GATE.best([BUILT_IN], [fit])
    assert best is fit
    assert pooled is None


def test_three_trajectories_tell_nothing():
    built_in = candidate("euler", 0.1, (), training=1.0, fitted=False, count=3)
    fit = candidate("fit", 0.0002, (0,), training=0.0, count=3)
    assert Gate(None, range(9), range(3)).best([built_in], [fit])[0] is built_in


def test_without_a_plan_that_runs_the_model_is_to_blame():
    with pytest.raises(ModelOutputError, match="overflows with every plan"):
        GATE.best([], [])
