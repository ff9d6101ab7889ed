"""The parts of a fit: derivatives, levels, the robust loss, and tables that grow."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from calibration_problems import CONFIGS, mixture, noise_of
from noise_scheduler_sampling_system import (
    DiffusionPipeline,
    NoiseSchedulerConfig,
)
from noise_scheduler_sampling_system.calibration import LevelRange, Table
from noise_scheduler_sampling_system.calibration.budget import Budget, Limits
from noise_scheduler_sampling_system.calibration.fit.damped_steps import Bound, damped_step
from noise_scheduler_sampling_system.calibration.fit.fit import fit
from noise_scheduler_sampling_system.calibration.fit.free_numbers import FreeNumbers
from noise_scheduler_sampling_system.calibration.fit.normal_equations import derivatives
from noise_scheduler_sampling_system.calibration.fit.refine import refine
from noise_scheduler_sampling_system.calibration.fit.robust_loss import CauchyLoss, informative
from noise_scheduler_sampling_system.calibration.fit.units import units_of
from noise_scheduler_sampling_system.calibration.search.fits import fits
from noise_scheduler_sampling_system.calibration.search.starts import grown, with_query
from noise_scheduler_sampling_system.calibration.student import Student, combined, end_of
from noise_scheduler_sampling_system.calibration.trajectories import Errors, Trajectories, errors_of, teach
from noise_scheduler_sampling_system.support.errors import NumericsError


def test_derivatives_of_the_end():
    """Every column of the Jacobian against central differences of whole runs."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "adams")
    model = mixture(pipeline.scheduler)
    student = Student(pipeline, model, None, None, {"dtype": torch.float64})
    sampler = DiffusionPipeline(pipeline.scheduler.spaced("kl_optimal"), "adams").sampler
    for history in (None, 1):
        span = LevelRange(pipeline.scheduler)
        inside = [span.level(math.log(noise)) for noise in (20.0, 2.0, 0.7, 0.2)]
        table = Table.of_plan(sampler.plan(4), history=history).with_levels(inside)
        numbers = FreeNumbers.of(span, table)
        x = noise_of(8, seed=2)
        part = Trajectories(x, torch.zeros_like(x), torch.arange(8))

        def ended(table, part=part):
            columns = student.columns(table, part.noise, part.rows)
            return end_of(table, columns)

        base = student.columns(numbers.table, x, part.rows)
        end = end_of(numbers.table, base)
        for each in (numbers, replace(numbers, units=units_of(numbers.table, base))):
            found = derivatives(student, each, part, base, end, 1e-3)  # the model's time is told in float32
            for k, (stage, ours) in enumerate(zip(each.stages, found, strict=True)):
                up, change = each.nudged(stage, 3e-3)
                down, back = each.nudged(stage, -3e-3)
                central = (ended(up) - ended(down)) / (change - back)
                assert torch.allclose(ours, central, rtol=2e-2, atol=1e-2 * float(central.abs().max())), (history, k)


@pytest.mark.parametrize("history", [None, 2])
def test_a_unit_of_any_weight_moves_a_state_as_far_as_any_other(history):
    """Changes of one are orthonormal in the states, up to the share of the weights themselves."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    student = Student(pipeline, mixture(pipeline.scheduler), None, None, {"dtype": torch.float64})
    span = LevelRange(pipeline.scheduler)
    plan = DiffusionPipeline(pipeline.scheduler.spaced("kl_optimal"), "adams").sampler.plan(12)
    numbers = FreeNumbers.of(span, Table.of_plan(plan, history=history))
    table, x = numbers.table, noise_of(64, seed=2)
    columns = student.columns(table, x, torch.arange(64))
    numbers = replace(numbers, units=units_of(table, columns))
    size = float(columns[-1].square().mean())  # of a sample
    for i in range(1 + table.nfe):
        of_row = [stage for stage in numbers.stages if stage[0] == i and stage[1] >= 0]
        moved = [(numbers.nudged(stage, 1.0)[0].rows[i] - table.rows[i]) for stage in of_row]
        states = [combined(row, columns) for row in moved]
        for a, b in itertools.product(range(len(moved)), repeat=2):
            product = float((states[a] * states[b]).mean()) + 0.3**2 * size * float(moved[a] @ moved[b])
            assert product == pytest.approx(float(a == b), abs=1e-6), (i, a, b)


def test_a_bound_shortens_a_step_only_where_it_must():
    """(x + 1)² + ((y + 30)/100)² is least at (−1, −30), but y may move by 1 only. Damping would stop x as well."""
    square, slope = np.diag([1.0, 1e-4]), np.array([1.0, 1e-4 * 30.0])
    tried = []

    def attempt(step):
        tried.append(step)
        return step

    bound = Bound(np.diag([0.0, 1.0]), lambda step: abs(step[1]) <= 1.0)
    damped_step(square, slope, 1e-6, attempt, tries=4, bound=bound)
    damped_step(square, slope, 1e-6, attempt, tries=4)
    assert len(tried) == 2
    assert tried[0][0] == pytest.approx(-1.0, abs=1e-4)
    assert 0.1 < -tried[0][1] <= 1.0
    assert tried[1] == pytest.approx([-1.0, -30.0], rel=1e-4)


def test_a_fit_at_the_limit_of_the_gain_goes_on():
    """A step beyond the limit is bent until it is within, and not lost: refused steps would end the phase."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    student = Student(pipeline, mixture(pipeline.scheduler), None, None, {})
    taught, _ = teach(student, noise_of(128, seed=0), 64)
    table = Table.of_plan(DiffusionPipeline(pipeline.scheduler.spaced("karras"), "dpmpp_2m").sampler.plan(12))
    made = list(itertools.islice(fit(student, table, LevelRange(pipeline.scheduler), taught, max_gain=5.0), 10))
    assert all(now.table.gain <= 5.0 for now in made)
    assert max(now.table.gain for now in made) > 4.0
    assert made[-1].errors.median < 0.2 * made[0].errors.median  # without the bound 0.95


def test_a_fit_of_many_calls_gains_an_order_of_magnitude():
    """Columns are nearly parallel there, and derivatives hold for short steps only."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    student = Student(pipeline, mixture(pipeline.scheduler), None, None, {})
    taught, _ = teach(student, noise_of(128, seed=0), 64)
    table = Table.of_plan(DiffusionPipeline(pipeline.scheduler.spaced("kl_optimal"), "unipc").sampler.plan(12))
    before = Errors.of(taught.errors(student, table))
    made = list(itertools.islice(fit(student, table, LevelRange(pipeline.scheduler), taught, max_gain=30.0), 6))
    assert made[-1].errors.median < 0.05 * before.median
    assert made[-1].errors.rms < 0.05 * before.rms


def test_levels_stay_in_order_whatever_the_step():
    span = LevelRange(DiffusionPipeline(NoiseSchedulerConfig()).scheduler)
    sampler = DiffusionPipeline(span.path.spaced("kl_optimal"), "adams").sampler
    numbers = FreeNumbers.of(span, Table.of_plan(sampler.plan(6)))
    generator = np.random.default_rng(0)
    for size in (1e-3, 0.1, 3.0, 100.0):
        for _ in range(20):
            moved = numbers.moved(size * generator.standard_normal(len(numbers.stages)))
            noise = [level.noise_to_signal for level in moved.levels]
            assert all(a > b for a, b in itertools.pairwise(noise))
            top, bottom = span.ends
            assert math.exp(bottom) * (1 - 1e-9) <= noise[-1]
            assert noise[0] <= math.exp(top) * (1 + 1e-9)
            assert moved.is_consistent


def test_a_fit_that_begins_with_a_part_ends_with_all():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    student = Student(pipeline, mixture(pipeline.scheduler), None, None, {"dtype": torch.float64})
    taught, _ = teach(student, noise_of(64, seed=0), 64)
    table = Table.of_plan(DiffusionPipeline(pipeline.scheduler.spaced("kl_optimal"), "adams").sampler.plan(3))
    span = LevelRange(pipeline.scheduler)
    sizes = iter([16, 16, 16, 16, 40])
    growing = fit(student, table, span, taught, max_gain=30.0, counts=lambda known: next(sizes, known))
    states = list(growing)
    assert [now.count for now in states[:4]] == [16, 16, 16, 40]
    assert states[-1].count == 64  # it had converged on 40
    assert states[-1].converged
    assert [now.iterations for now in states] == list(range(1, len(states) + 1))
    for now in states:
        part = taught.part(0, now.count)
        assert now.errors == pytest.approx(errors_of(part.ends(student, now.table), part.solution), rel=1e-6)
    resumed = fit(student, table, span, taught, max_gain=30.0, resume=states[3], counts=lambda known: max(known, 16))
    assert next(resumed).count == 40


def fitted_within(passes, starts=1):
    """The numbers of starts and of trajectories of the iterations within some passes, and the passes that they took."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    student = Student(pipeline, mixture(pipeline.scheduler), None, None, {})
    taught, _ = teach(student, noise_of(512, seed=0), 16)
    table = Table.of_plan(DiffusionPipeline(pipeline.scheduler.spaced("kl_optimal"), "adams").sampler.plan(3))
    budget = Budget.start(student, 3.0 * len(taught), Limits(passes, math.inf, ("fit",), None, "free", 30.0))
    made = list(fits(student, [table] * starts, taught, LevelRange(pipeline.scheduler), budget, None))
    return [(number, now.count) for number, now in made], budget.passes


def test_a_fit_within_few_passes_begins_with_a_part_of_the_trajectories():
    made = {passes: fitted_within(passes) for passes in (9.0, 20.0, 100.0)}
    counts = {passes: [count for _, count in of_fit] for passes, (of_fit, _) in made.items()}
    assert counts[9.0][0] < counts[20.0][0] < 512
    assert counts[9.0][-1] == counts[20.0][-1] == 512
    assert set(counts[100.0]) == {512}
    assert all(spent <= passes + 0.5 for passes, (_, spent) in made.items())  # costs are estimates


@pytest.mark.parametrize("passes", [0.1, 0.7, 2.0, 4.0, 5.0])
def test_an_iteration_that_the_budget_does_not_hold_is_not_made(passes):
    """The first one is made whatever the budget, with few trajectories; a second start is not begun."""
    made, spent = fitted_within(passes, starts=2)
    assert made[0] == (0, 64)
    assert spent <= max(passes, 1.0) + 0.5


def test_a_fit_that_cannot_run_all_trajectories_goes_on_with_its_part(monkeypatch):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    student = Student(pipeline, mixture(pipeline.scheduler), None, None, {"dtype": torch.float64})
    taught, _ = teach(student, noise_of(64, seed=0), 64)
    table = Table.of_plan(DiffusionPipeline(pipeline.scheduler.spaced("kl_optimal"), "adams").sampler.plan(3))
    ends = Trajectories.ends

    def overflowing(self, student, table):
        if int(self.rows.max()) >= 40:
            raise NumericsError("overflows", where="x", suggestion="none")
        return ends(self, student, table)

    monkeypatch.setattr(Trajectories, "ends", overflowing)
    span = LevelRange(pipeline.scheduler)
    sizes = iter([16, 16, 64, 32])
    states = list(fit(student, table, span, taught, max_gain=30.0, counts=lambda known: next(sizes, known)))
    assert [now.count for now in states[:3]] == [16, 16, 32]
    assert states[-1].converged

    def infinite(self, student, table):
        found = ends(self, student, table)
        found[self.rows >= 40] = math.inf
        return found

    monkeypatch.setattr(Trajectories, "ends", infinite)
    sizes = iter([16, 16, 64])
    states = list(fit(student, table, span, taught, max_gain=30.0, counts=lambda known: next(sizes, known)))
    assert {now.count for now in states} == {16}


def test_fit_lowers_the_loss_every_time():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = mixture(pipeline.scheduler)
    student = Student(pipeline, model, None, None, {"dtype": torch.float64})
    taught, _ = teach(student, noise_of(64, seed=0), 64)
    sampler = DiffusionPipeline(pipeline.scheduler.spaced("kl_optimal"), "adams").sampler
    span = LevelRange(pipeline.scheduler)
    states = list(fit(student, Table.of_plan(sampler.plan(3)), span, taught, max_gain=30.0))
    for before, after in itertools.pairwise(states):
        if after.robust == before.robust:
            assert after.loss <= before.loss
    assert states[-1].converged
    assert states[-1].phase == 1
    assert states[-1].errors.rms < 0.5 * states[0].errors.rms


def test_informative_trajectories_stand_for_all():
    each = torch.linspace(0.1, 1.0, 400, dtype=torch.float64) ** 8
    each[:5] = 40.0
    robust = CauchyLoss(0.5)
    quantity = robust.weights(each) * each.square()  # what they are drawn for
    sums = []
    for seed in range(300):
        numbers, weights = informative(each, robust, 50, seed)
        assert len(numbers) <= 51
        assert (numbers.diff() > 0).all()
        sums.append(float((weights * quantity[numbers]).sum()))
    assert np.mean(sums) == pytest.approx(float(quantity.mean()), rel=0.01)
    assert np.std(sums) < 0.1 * np.mean(sums)  # evenly drawn ones scatter by half of it
    numbers, weights = informative(each, robust, 400, 0)
    assert numbers.tolist() == list(range(400))
    assert float(weights.sum()) == pytest.approx(1.0)


def test_the_robust_loss_and_its_weights():
    each = torch.tensor([1e-3, 0.3, 5.0], dtype=torch.float64)
    for robust in (CauchyLoss(0.3), CauchyLoss()):
        step = 1e-6
        for k in range(3):
            up = each.clone()
            up[k] += step
            slope = 3 * (robust.loss(up) - robust.loss(each)) / step
            assert slope == pytest.approx(float((robust.weights(each) * each)[k]), rel=1e-2)
    before = CauchyLoss(0.2)
    assert CauchyLoss.at(3.0, Errors(1.0, 0.1), before).scale == 0.2
    assert CauchyLoss.at(3.0, Errors(1.0, 0.01), before).scale == pytest.approx(0.03)
    assert CauchyLoss.at(3.0, Errors(1.0, 0.0), before).scale == pytest.approx(1e-3)


@pytest.mark.parametrize("history", [None, 1])
def test_runs_of_several_tables_in_one_batch(history):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    labels = torch.arange(6)
    model = mixture(pipeline.scheduler, labels=labels)
    student = Student(
        pipeline, model, {"class_labels": torch.arange(5) % 3}, None, {"dtype": torch.float64, "guidance_scale": 2.0}
    )
    path = pipeline.scheduler
    table = Table.of_plan(DiffusionPipeline(path.spaced("kl_optimal"), "adams").plan(4), history=history)
    x, rows = noise_of(5, seed=2), torch.arange(5)
    generator = np.random.default_rng(0)
    others = [table.with_weights(table.weights + 0.1 * generator.standard_normal(len(table.weights))) for _ in range(3)]
    together = student.ends(others, [x], rows)
    for one, ended in zip(others, together, strict=True):
        assert torch.allclose(end_of(one, student.columns(one, x, rows)), ended, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("count", [1, 4])
def test_a_grown_table_gives_the_same_samples(name, count):
    pipeline = DiffusionPipeline(CONFIGS[name], "ddim")
    path = pipeline.scheduler
    model = mixture(path, pipeline.config.prediction_type)
    student = Student(pipeline, model, None, None, {"dtype": torch.float64})
    span = LevelRange(path)
    levels = [span.level(math.log(noise)) for noise in (10.0, 3.0, 1.0, 0.3)[:count]]
    sampler = DiffusionPipeline(path.spaced("kl_optimal"), "adams").sampler
    table = FreeNumbers.of(span, Table.of_plan(sampler.plan(count))).table.with_levels(levels)
    x, rows = noise_of(5, seed=2), torch.arange(5)

    def end(each):
        return end_of(each, student.columns(each, x, rows))

    for at in range(count + 1):
        wide = with_query(table, at, span)
        assert wide.nfe == count + 1
        assert wide.is_consistent
        noise = [level.noise_to_signal for level in wide.levels]
        assert all(a > b for a, b in itertools.pairwise(noise))
        assert [level for k, level in enumerate(wide.levels) if k != at] == list(table.levels)
        if at:
            assert torch.allclose(end(wide), end(table), rtol=1e-9, atol=1e-9)
        else:  # the old first state was x_T scaled; now it knows the mean, to the share of data that x_T has
            assert torch.allclose(end(wide), end(table), rtol=0.2, atol=0.2)
        limited = with_query(table.limited(1), at, span)
        assert limited.is_consistent
        assert limited.plan().history <= 1 + 1  # beside the newest
    wide = grown(table, count + 3, span)
    assert wide.nfe == count + 3
    assert torch.allclose(end(wide), end(table), rtol=1e-9, atol=1e-9)


def test_refine_improves_on_a_designed_plan():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = mixture(pipeline.scheduler)
    student = Student(pipeline, model, None, None, {"dtype": torch.float64})
    taught, _ = teach(student, noise_of(128, seed=0), 64)
    sampler = DiffusionPipeline(pipeline.scheduler.spaced("kl_optimal"), "adams").sampler
    table = Table.of_plan(sampler.plan(4))
    before = errors_of(end_of(table, student.columns(table, taught.noise, taught.rows)), taught.solution)
    *_, best = refine(student, table, taught, max_gain=30.0, until=lambda: False)
    assert best.errors.median < 0.7 * before.median
    assert best.table.is_consistent
