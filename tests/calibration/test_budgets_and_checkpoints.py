"""Calibrations that are stopped, gone on with, or share a budget of time."""

from __future__ import annotations

import importlib
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from calibration_problems import SHAPE, is_not_worse, mixture, noise_of
from noise_scheduler_sampling_system import (
    DiffusionPipeline,
    FileError,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    calibrate,
)
from noise_scheduler_sampling_system.calibration import LevelRange, Table
from noise_scheduler_sampling_system.calibration.budget import Budget, Clock, Limits
from noise_scheduler_sampling_system.calibration.checkpoint import Checkpoint
from noise_scheduler_sampling_system.calibration.fit.fit import Fit, fit
from noise_scheduler_sampling_system.calibration.fit.free_numbers import FreeNumbers
from noise_scheduler_sampling_system.calibration.fit.robust_loss import CauchyLoss
from noise_scheduler_sampling_system.calibration.goal import Goal
from noise_scheduler_sampling_system.calibration.outlines.insight import Insight
from noise_scheduler_sampling_system.calibration.search.built_in import WINNERS, _shelf, baselines, ranked
from noise_scheduler_sampling_system.calibration.search.gate import Gate
from noise_scheduler_sampling_system.calibration.search.search import search
from noise_scheduler_sampling_system.calibration.student import Student
from noise_scheduler_sampling_system.calibration.trajectories import Errors, teach
from noise_scheduler_sampling_system.config.registries import SAMPLERS
from noise_scheduler_sampling_system.samplers.base import BaseSampler

calibrate_module = importlib.import_module("noise_scheduler_sampling_system.calibration.calibrate")


def test_a_checkpoint_is_gone_on_with(tmp_path):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = mixture(pipeline.scheduler)
    asked = {"shape": SHAPE, "nfe": (3, 4), "trajectories": 64, "held_out": 32, "teacher_calls": 48, "passes": 60}
    file, calls, stop_at = tmp_path / "state.safetensors", [0], [0]

    class StopError(Exception):
        pass

    def limited(x, t):
        calls[0] += 1
        if calls[0] == stop_at[0]:
            raise StopError
        return model(x, t)

    whole = calibrate(limited, pipeline, **asked)
    total = calls[0]
    stop_at[0] = total + int(0.8 * total)
    with pytest.raises(StopError):
        calibrate(limited, pipeline, checkpoint=file, **asked)
    before = calls[0]
    resumed = calibrate(limited, pipeline, checkpoint=file, **asked)
    assert calls[0] - before < 0.6 * total  # the teacher, the first plan, and a part of the second are not asked again
    assert list(resumed) == [3, 4]
    for nfe in (3, 4):
        assert resumed[nfe].provenance["held_out_error"]["rms"] < 1.3 * whole[nfe].provenance["held_out_error"]["rms"]
    after = calls[0]
    assert calibrate(limited, pipeline, checkpoint=file, **asked) == resumed
    assert calls[0] == after  # all is in the file
    with pytest.raises(FileError, match="trajectories"):
        calibrate(limited, pipeline, checkpoint=file, **{**asked, "trajectories": 65})
    file.write_bytes(b"nonsense")
    with pytest.raises(FileError, match=r"state\.safetensors"):
        calibrate(limited, pipeline, checkpoint=file, **asked)


def test_an_interrupt_returns_the_best_so_far():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model, calls = mixture(pipeline.scheduler), [0]

    def impatient(x, t):
        calls[0] += 1
        if calls[0] == 1900:
            raise KeyboardInterrupt
        return model(x, t)

    plan = calibrate(impatient, pipeline, shape=SHAPE, nfe=4, trajectories=64, held_out=32, teacher_calls=32)
    assert calls[0] > 1900
    assert is_not_worse(plan.provenance)


def test_a_budget_of_time_is_kept():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = mixture(pipeline.scheduler)
    asked = {"shape": SHAPE, "nfe": 4, "trajectories": 64, "held_out": 32, "teacher_calls": 32}
    plan = calibrate(model, pipeline, budget_seconds=1e-3, **asked)
    assert plan.provenance["iterations"] <= 1


def test_several_budgets_share_the_time(monkeypatch):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model, calls = mixture(pipeline.scheduler), [0]

    def counted(x, t):
        calls[0] += 1
        return model(x, t)

    monkeypatch.setattr(time, "monotonic", lambda: 1e-3 * calls[0])  # a call takes a millisecond
    asked = {"shape": SHAPE, "trajectories": 64, "held_out": 64, "teacher_calls": 32, "passes": 1e4}
    shares = []

    def noted(*arguments):
        limits = next(each for each in arguments if isinstance(each, Limits))
        shares.append((limits.deadline - time.monotonic()) / (3.0 - time.monotonic()))
        return search(*arguments)

    monkeypatch.setattr(calibrate_module, "search", noted)
    plans = calibrate(counted, pipeline, nfe=(3, 5, 4), budget_seconds=3.0, **asked)
    assert list(plans) == [3, 4, 5]
    assert shares == pytest.approx([3 / 12, 4 / 9, 1.0], rel=0.12)  # less the choice, and with a recording for all
    assert all(plan.provenance["iterations"] > 3 for plan in plans.values())
    assert all(plan.provenance["kind"] in ("fit", "outline") for plan in plans.values())
    assert 1_500 < calls[0] <= 3_000
    errors = [plan.provenance["held_out_error"]["rms"] for plan in plans.values()]
    assert errors == sorted(errors, reverse=True)


def test_a_recording_serves_all_budgets_and_the_choice_has_time(monkeypatch):
    clock = [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    student = Student(DiffusionPipeline(NoiseSchedulerConfig()), None, None, None, {})
    watch = Clock(student, 10.0, 110.0)
    assert watch.granted(100.0) == 0.0  # the speed is not known
    assert watch.search_ends(0.5, recording=0.0, gate=50.0) == 60.0
    clock[0], student.calls.samples = 30.0, 200  # ten evaluations in a second, 80 seconds left
    assert (watch.granted(100.0), watch.granted(1e9)) == (100.0, 200.0)  # a quarter at most
    assert watch.search_ends(0.5, recording=100.0, gate=50.0) == 30.0 + 10.0 + 0.5 * 70.0 - 5.0
    assert watch.search_ends(0.5, recording=0.0, gate=50.0) == 30.0 + 0.5 * 80.0 - 5.0
    assert watch.search_ends(0.5, recording=200.0, gate=1e9) == 30.0 + 20.0 + 0.75 * 30.0
    assert watch.search_ends(0.5, recording=0.0, gate=0.0) == 30.0 + 0.9 * 0.5 * 80.0  # built-in samplers
    clock[0] = 200.0
    assert watch.search_ends(0.5, recording=watch.granted(100.0), gate=50.0) <= 200.0
    endless = Clock(student, 10.0, math.inf)
    assert (endless.granted(100.0), endless.search_ends(0.5, recording=0.0, gate=50.0)) == (0.0, math.inf)


@pytest.mark.parametrize(("granted", "recorded"), [(0.0, 11), (44.0 * 20, 20), (44.0 * 1000, 64)])
def test_a_recording_uses_the_time_that_was_granted(granted, recorded):
    """Beside a quarter of the search's own budget: 12 passes of 64 trajectories and 3 calls, 576 evaluations."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    student = Student(pipeline, mixture(pipeline.scheduler), None, None, {})
    lesson, _ = teach(student, noise_of(64, 1), 16)
    limits = Limits(10.4, math.inf, ("fit",), None, "free", 30.0, granted)
    budget = Budget.start(student, 3.0 * len(lesson), limits)
    insight = Insight.of(student, Goal(3), lesson, limits.levels(pipeline.scheduler), budget)
    assert len(insight.few) == recorded


def test_a_ranking_begins_with_the_leaders_of_smaller_budgets():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    student = Student(pipeline, mixture(pipeline.scheduler), None, None, {})
    lesson, _ = teach(student, noise_of(64, 1), 16)
    few = Limits(1e-9, math.inf, ("fit",), None, "free", 30.0)  # passes for the samplers that are always run only
    known, _ = ranked(student, 3, lesson, Budget.start(student, 3.0 * len(lesson), few))
    names = _shelf(pipeline.scheduler, 3, tuple(SAMPLERS)).names[-60:]
    last = [each.name for each in baselines(pipeline.scheduler, 3, names) if each.plan.nfe == 3][-12:]
    assert len(last) == 12
    found, _ = ranked(student, 3, lesson, Budget.start(student, 3.0 * len(lesson), few), last)
    assert {each.name for each in found} <= set(last)
    assert {each.name for each in known} <= set(WINNERS)
    assert set(WINNERS) == {each.name for each in baselines(pipeline.scheduler, 5, WINNERS)}


def test_a_short_ranking_compiles_few_plans(monkeypatch):
    """All of them take seconds, which a small budget needs for the fit."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_end=0.019), "ddim")  # no other test has its plans
    student = Student(pipeline, mixture(pipeline.scheduler), None, None, {})
    lesson, _ = teach(student, noise_of(64, 1), 16)
    compiled, plan = [], BaseSampler.plan

    def counted(self, *given, **named):
        compiled.append(self)
        return plan(self, *given, **named)

    monkeypatch.setattr(BaseSampler, "plan", counted)
    few = Limits(1e-9, math.inf, ("fit",), None, "free", 30.0)
    assert len(ranked(student, 3, lesson, Budget.start(student, 3.0 * len(lesson), few))[0]) >= 2
    assert 0 < len(compiled) < 60  # up to three for each of some 15 pairs of 680


def test_built_in_plans_do_not_depend_on_which_were_asked_for_before():
    """On this path, samplers of two calls have other steps on two grids with the same end."""
    path, asked = NoiseSchedulerFactory.create(NoiseSchedulerConfig(beta_schedule="flow")), 3
    name, first = "res_2s, kl_optimal end=lowest", "res_2s, leading_dpm end=lowest"
    _shelf.cache_clear()
    alone = baselines(path, asked, (name,))[0].plan
    _shelf.cache_clear()
    baselines(path, asked, (first,))
    assert baselines(path, asked, (name,))[0].plan == alone


def test_an_interrupted_ranking_names_only_samplers_that_are_allowed(monkeypatch):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    student = Student(pipeline, mixture(pipeline.scheduler), None, None, {})
    lesson, _ = teach(student, noise_of(64, 1), 16)

    def stopped(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(Student, "run", stopped)
    short = Limits(10.0, math.inf, ("fit",), 0, "free", 30.0)
    known, interrupted = ranked(student, 3, lesson, Budget.start(student, 3.0 * len(lesson), short))
    assert interrupted
    assert known
    assert all(each.plan.nfe == 3 and each.plan.history == 0 for each in known)


def test_the_gate_does_not_run_a_fit_again_on_the_trajectories_that_it_knows():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    student = Student(pipeline, mixture(pipeline.scheduler), None, None, {})
    taught, _ = teach(student, noise_of(64, 1), 16)
    table = Table.of_plan(DiffusionPipeline(pipeline.scheduler, "dpmpp_2m").plan(3))
    known = Errors.of(taught.errors(student, table))
    gate, spent = Gate(student, taught, taught.part(0, 16)), []
    for fitted in (None, Fit(table, 0.0, known, 32), Fit(table, 0.0, known, 64)):
        before = student.calls.samples
        training = gate.best([], gate.found([("fit", table, fitted)])).training
        spent.append(student.calls.samples - before)
        assert training == pytest.approx(known, rel=1e-4)
    assert spent == [3 * (16 + 64), 3 * (16 + 64), 3 * 16]


def test_the_total_of_a_budget_follows_the_speed(monkeypatch):
    """A limit on the passes that the time does not allow must not decide how thoroughly samplers are ranked."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    student = Student(DiffusionPipeline(NoiseSchedulerConfig()), None, None, None, {})
    of_passes, of_time = (
        Budget.start(student, 10.0, Limits(1e6, deadline, ("fit",), None, "free", 30.0)) for deadline in (math.inf, 8.0)
    )
    assert (of_passes.total, of_time.total) == (1e6, 0.0)
    clock[0], student.calls.samples = 2.0, 50  # five passes in two seconds
    assert (of_passes.total, of_time.total) == (1e6, 20.0)


@pytest.mark.parametrize(("deadline", "first"), [(math.inf, 32), (1e3, 4)])
def test_a_ranking_within_seconds_does_not_plan_with_the_passes(deadline, first, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model, sizes = mixture(pipeline.scheduler), []

    def counted(x, t):
        sizes.append(len(x))
        return model(x, t)

    student = Student(pipeline, counted, None, None, {})
    lesson, _ = teach(student, noise_of(64, 1), 16)
    sizes.clear()
    budget = Budget.start(student, 3.0 * len(lesson), Limits(1e6, deadline, ("fit",), None, "free", 30.0))
    assert ranked(student, 3, lesson, budget)[0]
    assert sizes[0] == first


def test_a_kept_fit_is_gone_on_with_even_if_it_had_converged(tmp_path):
    """It may have been a trial's, and what is not handed out again would be lost."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    path = pipeline.scheduler
    table = Table.of_plan(DiffusionPipeline(path.spaced("kl_optimal"), "adams").plan(3))
    table = FreeNumbers.of(LevelRange(path), table).table
    robust = CauchyLoss(3.0)
    trial = Fit(table, 0.5, Errors(0.4, 0.3), 96, 0.02, robust, phase=1, iterations=7, converged=True)
    state = Checkpoint.open(tmp_path / "state.safetensors", {"seed": 1})
    state.teach(torch.zeros(2, 4, dtype=torch.float64), 0.1)
    state.keep(3, trial)
    stored = Checkpoint.open(tmp_path / "state.safetensors", {"seed": 1})
    assert stored.solution.dtype == torch.float64
    again = stored.fits[3]
    assert np.array_equal(again.table.rows, table.rows)
    assert again.table.levels == table.levels
    assert replace(again, table=table) == trial

    student = Student(pipeline, mixture(path), None, None, {"dtype": torch.float64})
    taught, _ = teach(student, noise_of(16, seed=0), 32)
    first = next(fit(student, table, LevelRange(path), taught, max_gain=30.0, resume=again))
    assert (first.iterations, first.count, first.phase) == (8, 16, 1)

    worse = replace(trial, count=512, errors=Errors(0.8, 0.6))
    state.keep(3, worse)
    assert state.fits[3] is worse  # of more trajectories
    state.keep(3, replace(worse, errors=Errors(0.9, 0.6)))
    assert state.fits[3] is worse


def test_an_interrupt_is_gone_on_with_from_the_checkpoint(tmp_path, monkeypatch):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model, file = mixture(pipeline.scheduler), tmp_path / "state.safetensors"
    asked = {"shape": SHAPE, "nfe": (3, 4, 5), "trajectories": 32, "held_out": 32, "teacher_calls": 32, "passes": 80}
    whole = calibrate(model, pipeline, **asked)
    keep, kept = Checkpoint.keep, []

    def impatient(self, nfe, now):
        keep(self, nfe, now)
        kept.append(nfe)
        if kept.count(4) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "keep", impatient)
    cut = calibrate(model, pipeline, checkpoint=file, **asked)
    assert list(cut) == [3, 4]  # the best so far of what was interrupted; what comes after it is left out
    assert cut[3] == whole[3]
    monkeypatch.setattr(Checkpoint, "keep", keep)
    again = calibrate(model, pipeline, checkpoint=file, **asked)
    assert list(again) == [3, 4, 5]
    assert again[3] == whole[3]
    assert again[4].provenance["iterations"] > 5  # the interrupted one was not done
    for nfe, plan in again.items():
        assert plan.provenance["held_out_error"]["rms"] < 1.3 * whole[nfe].provenance["held_out_error"]["rms"]
