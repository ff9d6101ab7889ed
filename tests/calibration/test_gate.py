"""The choice of the plan to return: never worse than the best built-in sampler, as far as the trajectories can tell."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from calibration_problems import mixture, noise_of
from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.calibration import LevelRange, Table
from noise_scheduler_sampling_system.calibration.search.gate import Candidate, Gate, Pooled
from noise_scheduler_sampling_system.calibration.search.starts import Start, best_first, worth_judging
from noise_scheduler_sampling_system.calibration.student import Student
from noise_scheduler_sampling_system.calibration.trajectories import Errors, Trajectories, teach
from noise_scheduler_sampling_system.support.errors import ModelOutputError

HELD_OUT, TAUGHT = 1024, 2048
GATE = Gate(None, range(TAUGHT), range(HELD_OUT))


def candidate(kind, usual, elsewhere, training=None, fitted=True, count=HELD_OUT, on_fit=None):
    """A plan whose samples have the error ``usual``, but some at fixed places end elsewhere, with the error 0.5.

    Args:
        training: its root mean square on the trajectories of the fit.
        on_fit: its median there.
    """
    each = torch.full((count,), usual, dtype=torch.float64)
    each[list(elsewhere)] = 0.5
    own = None if training is None else Errors(training, on_fit or usual)
    return Candidate(each, kind, SimpleNamespace(), SimpleNamespace() if fitted else None, own)


def over_all(plan, optimism=1.0):
    squares = HELD_OUT * plan.errors.rms**2 + TAUGHT * (optimism * plan.training.rms) ** 2
    return math.sqrt(squares / (HELD_OUT + TAUGHT))


BUILT_IN = candidate("unipc, scm", 0.002, (1, 2), training=0.02, fitted=False)


def test_a_sample_more_elsewhere_does_not_decide_where_all_trajectories_say_otherwise():
    fit = candidate("fit", 0.0002, (3, 4, 5), training=0.01)
    assert fit.errors.rms > BUILT_IN.errors.rms
    best, training, pooled = GATE.best([BUILT_IN], [fit])
    assert best is fit
    assert training == fit.training
    ours, theirs = over_all(fit), over_all(BUILT_IN)
    assert pooled == Pooled(HELD_OUT + TAUGHT, "fit", pytest.approx(ours), "unipc, scm", pytest.approx(theirs))
    assert ours < theirs


@pytest.mark.parametrize(
    ("fit", "compared"),
    [
        (candidate("worse on all", 0.0002, (3, 4, 5), training=0.03), True),
        (candidate("knows those of the fit too well", 0.0002, (3, 4, 5), training=0.01, on_fit=0.00005), True),
        (candidate("worse beyond two standard errors", 0.0002, range(3, 13), training=0.0), False),
        (candidate("where the same samples end elsewhere, and more", 0.0002, range(1, 9), training=0.0), False),
    ],
    ids=lambda each: getattr(each, "kind", None),
)
def test_a_worse_plan_is_not_returned_however_small_its_median(fit, compared):
    best, _, pooled = GATE.best([BUILT_IN], [fit])
    assert best is BUILT_IN
    assert (pooled is not None) is compared
    assert pooled is None or (pooled.kind == fit.kind and not pooled.holds)


def test_the_built_in_sampler_that_is_next_counts_too():
    """The least of several near ties looks worse on other trajectories."""
    following = candidate("adams, scm", 0.0021, (1, 2), training=0.002, fitted=False)
    fit = candidate("fit", 0.0002, (3, 4, 5), training=0.01)
    assert GATE.best([BUILT_IN], [fit]).best is fit
    best, _, pooled = GATE.best([BUILT_IN, following], [fit])
    assert best is BUILT_IN
    assert (pooled.built_in, pooled.built_in_rms) == ("adams, scm", pytest.approx(over_all(following)))


def test_every_candidate_runs_once_on_the_trajectories_of_the_fit(monkeypatch):
    ran = []

    def run(self, kind, plan, on):
        ran.append(kind)
        return torch.full((TAUGHT, 1), 0.02)

    monkeypatch.setattr(Gate, "_run", run)
    built_in = [candidate(name, 0.002 + 0.001 * i, (1, 2), fitted=False) for i, name in enumerate("abc")]
    fits = [candidate(f"fit {i}", 0.0002, (3, 4, 5), training=0.03) for i in range(4)]
    x = torch.zeros(TAUGHT, 1)
    gate = Gate(None, Trajectories(x, x, torch.arange(TAUGHT)), range(HELD_OUT))
    assert gate.best(built_in, fits).best is built_in[0]
    assert ran == ["a", "b"]


def test_a_built_in_sampler_that_overflows_on_other_trajectories_bars_nothing(monkeypatch):
    monkeypatch.setattr(Gate, "_run", lambda self, kind, plan, on: None)
    overflows = candidate("overflows", 0.001, (1,), fitted=False)
    fit = candidate("fit", 0.0002, (3, 4), training=0.01)
    assert GATE.best([overflows, BUILT_IN], [fit]).best is fit


def test_a_plan_that_is_better_on_held_out_noise_needs_no_other():
    fit = candidate("fit", 0.0002, (1,), training=9.0)  # however bad on the trajectories of the fit
    best, _, pooled = GATE.best([BUILT_IN], [fit])
    assert best is fit
    assert pooled is None


def test_with_three_trajectories_the_held_out_ones_decide():
    built_in = candidate("euler", 0.1, (), training=1.0, fitted=False, count=3)
    fit = candidate("fit", 0.0002, (0,), training=0.0, count=3)
    assert Gate(None, range(9), range(3)).best([built_in], [fit])[0] is built_in


def test_without_a_plan_that_runs_the_model_is_to_blame():
    with pytest.raises(ModelOutputError, match="overflows with every plan"):
        GATE.best([], [])


def start(kind, error=None):
    return Start(kind, None, None if error is None else Errors(error, error))


def test_what_is_judged_of_the_starts():
    ranked = [
        start("built-in", 0.1),
        start("outline", 0.1),
        start("outline", 0.2),
        start("grown", 0.3),
        start("design"),
    ]
    assert worth_judging(ranked, fitted=True) == [ranked[1], ranked[3]]
    assert worth_judging([*ranked[:3], start("grown"), ranked[4]], fitted=True) == [
        ranked[1]
    ]  # it is far from the best
    resumed = [start("design"), start("grown"), start("built-in")]
    assert worth_judging(resumed, fitted=True) == resumed[:2]
    # without a fit the best of each kind, whatever their order
    mixed = [start("design"), start("built-in"), start("outline", 0.2), start("outline", 0.1), start("grown")]
    assert {(each.kind, each.errors) for each in worth_judging(mixed, fitted=False)} == {
        ("design", None), ("outline", mixed[3].errors), ("grown", None)
    }  # fmt: skip
    assert worth_judging([start("built-in")], fitted=True) == []


def test_starts_far_from_the_best_run_on_a_quarter_of_the_trajectories_and_come_last():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    student = Student(pipeline, mixture(pipeline.scheduler), None, None, {})
    few, _ = teach(student, noise_of(64, 1), 64)
    span = LevelRange(pipeline.scheduler)
    poor, good = (
        Table.of_plan(DiffusionPipeline(pipeline.scheduler.spaced(spacing), name).plan(5))
        for name, spacing in (("ddim", "leading"), ("adams", "kl_optimal"))
    )
    before = student.calls.samples
    given = [Start("design", poor), Start("grown", good), Start("built-in", good)]
    starts = best_first(student, given, few, span, 30.0)
    assert [each.kind for each in starts] == ["grown", "built-in", "design"]
    assert student.calls.samples - before == 5 * (3 * 16 + 2 * 64)
    assert starts[0].errors.rms == pytest.approx(Errors.of(few.errors(student, starts[0].table)).rms)
    assert starts[2].errors is None
    # a start that was rehearsed needs no run but that of the quarter
    before = student.calls.samples
    rehearsed = starts[0]._replace(kind="outline")
    again = best_first(student, [Start("design", poor), rehearsed], few, span, 30.0)
    assert [each.kind for each in again] == ["outline", "design"]
    assert student.calls.samples - before == 5 * 2 * 16
