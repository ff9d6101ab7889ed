"""Starts of fits: what is recorded of a model, forecasts of outlines without it, and rehearsals with it."""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import replace

import numpy as np
import outlines
import pytest
import torch
from calibration import figure
from masked_plans import digits

from calibration_problems import CONFIGS, mixture, noise_of
from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, calibrate, models
from noise_scheduler_sampling_system.calibration import LevelRange
from noise_scheduler_sampling_system.calibration.budget import Budget, Limits
from noise_scheduler_sampling_system.calibration.goal import Goal
from noise_scheduler_sampling_system.calibration.outlines import insight as insight_module
from noise_scheduler_sampling_system.calibration.outlines import recording as recordings
from noise_scheduler_sampling_system.calibration.outlines.forecast import Forecast, Outline
from noise_scheduler_sampling_system.calibration.outlines.insight import Insight
from noise_scheduler_sampling_system.calibration.outlines.recording import LEVELS, Recording
from noise_scheduler_sampling_system.calibration.outlines.rehearsal import rehearse
from noise_scheduler_sampling_system.calibration.outlines.response import Answer, Response
from noise_scheduler_sampling_system.calibration.search.built_in import WINNERS, baselines
from noise_scheduler_sampling_system.calibration.student import Student, end_of
from noise_scheduler_sampling_system.calibration.trajectories import Trajectories, errors_of, teach

SCALE = 3.0
LABELS = {"class_labels": torch.tensor([0, 1, 2]).repeat(100)}


def problem(config, count=64, *, model=None):
    """A student, trajectories that end at the exact solution, and the range of the levels."""
    pipeline = DiffusionPipeline(config, "ddim")
    path = pipeline.scheduler
    model = model or mixture(path, pipeline.config.prediction_type)
    student = Student(pipeline, model, None, None, {"dtype": torch.float64})
    x = noise_of(count, seed=0)
    exact = model.reference_solution(x * path.prior_std)
    return student, Trajectories(x, exact, torch.arange(count)), LevelRange(path)


def guided_problem(count=64):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = mixture(pipeline.scheduler, labels=torch.tensor([0, 0, 1, 1, 2, 2]))
    request = {"dtype": torch.float64, "guidance_scale": SCALE}
    student = Student(pipeline, model, LABELS, None, request, branches=2)
    return student, teach(student, noise_of(count, seed=4), 48)[0], LevelRange(pipeline.scheduler)


def begun(student, goal, taught, span, passes=math.inf, **limits):
    asked = {"history": None, "first": "free", "max_gain": 30.0, **limits}
    budget = Budget.start(student, len(taught) * goal.budget, Limits(passes, math.inf, ("fit",), **asked))
    return Insight.of(student, goal, taught, span, budget), budget


def explored(insight, goal, budget):
    told = []
    insight.explored(goal, budget, told.append)
    return [now.table for now in sorted(told, key=lambda now: now.score)]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_recording_holds_the_states_and_what_the_model_predicts_there(name):
    student, few, span = problem(CONFIGS[name], 6)
    recording = Recording.of(student, Goal(4), few, span)
    assert (len(recording), len(recording.differences)) == (LEVELS, 0)
    assert np.all(np.diff(recording.places) < 0)
    for at in (1, 15, 30, LEVELS - 1):
        level = recording.levels[at]
        radius = math.hypot(level.alpha, level.sigma)
        there = student.denoise(recording.states[at] * radius, level, few.rows)
        assert torch.allclose(there, recording.predictions[at], atol=1e-9)
    assert torch.equal(recording.states[-1], few.solution)
    # the fine run goes along the exact trajectories
    last = recording.levels[-1]
    ended = student.denoise(recording.states[LEVELS - 1] * math.hypot(last.alpha, last.sigma), last, few.rows)
    assert float((ended - few.solution).abs().median()) < 0.02
    product = (recording.states[7] * recording.predictions[9]).mean()
    assert recording.gram[recording.state(7), recording.prediction(9)] == pytest.approx(float(product))


def test_a_recording_of_large_samples_keeps_some_of_their_numbers(monkeypatch):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = models.GaussianModel(pipeline.scheduler, 0.3, 0.5)
    student = Student(pipeline, model, None, None, {"dtype": torch.float64})
    x = torch.randn(3, 2, 80, 80, generator=torch.Generator().manual_seed(0)).double()
    few, _ = teach(student, x, 32)
    recording = Recording.of(student, Goal(4), few, LevelRange(pipeline.scheduler))
    monkeypatch.setattr(recordings, "_HELD", 2 * 45 * 12800)  # two trajectories at a time
    again = Recording.of(student, Goal(4), few, LevelRange(pipeline.scheduler))
    assert torch.allclose(again.states, recording.states, atol=1e-9)
    assert torch.allclose(again.predictions, recording.predictions, atol=1e-9)
    assert recording.states.shape == (LEVELS + 1, 3, 4096)
    assert (int(recording.picked[0]), int(recording.picked[-1])) == (0, 12796)
    found = rehearse(student, recording, Outline((5, 15, 28), ()), few, LevelRange(pipeline.scheduler), scale=None,
                     history=None)  # fmt: skip
    assert float(found.each.max()) < 0.05


@pytest.mark.parametrize("numbers", [64, 20000])
def test_the_spread_is_that_of_the_directions_in_which_samples_vary(numbers):
    """Two directions of the variances 3·numbers and numbers: Σλ²/Σλ is 2.5·numbers, also from some of the numbers."""
    random = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(numbers, 2, generator=random, dtype=torch.float64))[0].T
    amounts = torch.randn(3000, 2, generator=random, dtype=torch.float64) * torch.tensor([3.0, 1.0]).sqrt()
    samples = 5.0 + numbers**0.5 * amounts @ directions
    picked = torch.arange(min(numbers, 4096)) * numbers // min(numbers, 4096)
    empty = torch.zeros(0)
    recording = Recording((), np.zeros(0), empty, samples[None, :, picked], empty, empty, numbers, picked)
    assert recording.spread == pytest.approx(2.5 * numbers, rel=0.1)


def exact_gaussian():
    """Gaussian data of one variance: the prediction is linear, so the answer to every error is the same multiple."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = models.GaussianModel(pipeline.scheduler, 0.0, 0.4)
    student, few, span = problem(NoiseSchedulerConfig(), 64, model=model)
    # a target that no combination of the columns is: the rows then miss it, and the answers matter
    odd = few.noise.sign() * 0.2
    few = replace(few, solution=few.solution + odd)
    recording = Recording.of(student, Goal(3), few, span)
    alpha = recording.signals[:-1]
    along = alpha * 0.4 / (alpha**2 * 0.4 + 1.0 - alpha**2)
    shift = (torch.linspace(0, 1, LEVELS + 1, dtype=torch.float64) ** 2)[:-1, None, None] * odd
    states = torch.cat([recording.states[:-1] + shift, few.solution[None]])
    predictions = recording.predictions + torch.from_numpy(along)[:, None, None] * shift
    recording = replace(recording, states=states, predictions=predictions)
    answers = [Answer(place, k, 0.0) for place, k in zip(recording.places, along, strict=True)]
    return student, few, span, Response(recording, tuple(answers * 100))


def test_a_forecast_equals_the_rehearsal_where_the_answers_are_known():
    student, few, span, response = exact_gaussian()
    forecast = Forecast(response.recording, response)
    for at in ((3, 20, 40), (10, 12, 30), (0, 1, 2), (25, 35, 43)):
        outline = Outline(at, ())
        found = rehearse(student, response.recording, outline, few, span, scale=None, history=None)
        assert float(forecast.errors([outline])[0]) ** 0.5 == pytest.approx(found.errors.rms, rel=0.02)
        # and the rehearsal measures these answers
        exact = [response.of_predictions[k].along for k in at][-len(found.predictions) :]
        assert np.allclose([answer.along for answer in found.predictions], exact, rtol=1e-4)
        assert np.allclose([answer.across for answer in found.predictions], 0.0, atol=1e-3)


def test_a_descent_finds_the_best_levels():
    student, few, span = problem(NoiseSchedulerConfig())
    recording = Recording.of(student, Goal(3), few, span)
    forecast = Forecast(recording, Response(recording))
    every = [Outline(at, ()) for at in itertools.combinations(range(LEVELS), 3)]
    errors = np.concatenate([forecast.errors(every[k : k + 500]) for k in range(0, len(every), 500)])
    least = float(errors.min()) ** 0.5
    start = Outline(forecast._even(3), ())
    assert float(forecast.errors([start])[0]) ** 0.5 > 1.3 * least  # it has to move
    (found, error), *_ = forecast.outlines((3,), 3).items()
    assert error <= 1.02 * least
    assert float(forecast.errors([found])[0]) ** 0.5 == pytest.approx(error)
    fixed = next(iter(replace(forecast, first_fixed=True).outlines((3,), 3)))
    assert fixed.at[0] == 0


def test_what_is_new_in_a_prediction_adds_to_the_error():
    _, _, _, response = exact_gaussian()
    recording = response.recording

    def error(across, at):
        answers = tuple(Answer(place, 0.0, across) for place in recording.places) * 1000
        return float(Forecast(recording, Response(recording, answers)).errors([Outline((at,), ())])[0])

    for at in (20, 30):
        products = recording.gram[:, recording.state(at)]
        miss = products[recording.state(at)] - products[0] ** 2 / recording.gram[0, 0]  # the state without its u_T
        assert error(0.5, at) - error(0.0, at) == pytest.approx(0.25 * miss, rel=0.05)


def test_outlines_in_one_batch_have_the_errors_that_they_have_alone():
    student, taught, span = guided_problem(16)
    recording = Recording.of(student, Goal(8, SCALE), taught, span)
    forecast = Forecast(recording, Response(recording))
    outlines = [Outline((2, 9, 17, 30), both) for both in ((), (0, 2), (1, 3), (0, 1, 2, 3))]
    outlines += [Outline((5, 6, 7, 43), (3,))]
    alone = [float(forecast.errors([outline])[0]) for outline in outlines]
    assert np.allclose(forecast.errors(outlines), alone, rtol=1e-8)
    assert len(set(np.round(alone, 12))) == len(alone)
    # a descent keeps the rows before the query that it moves
    first = outlines[2]
    run = forecast._begun([first])
    for query in range(4):
        moved = forecast._moved(first, query)
        kept = forecast._finished(run.on(forecast._begun(moved)), moved, query)
        assert np.allclose(kept, forecast.errors(moved), rtol=1e-8)
        run, _ = forecast._advanced(run, [first], query)


def test_masks_are_those_with_the_least_errors():
    student, taught, span = guided_problem()
    recording = Recording.of(student, Goal(8, SCALE), taught, span)
    forecast = Forecast(recording, Response(recording))
    whole = Outline((8, 14, 19, 24, 29), (0, 1, 2, 3, 4))
    every = [whole._replace(both=both) for both in itertools.combinations(range(5), 3)]
    ordered = [every[k] for k in np.argsort(forecast.errors(every))]
    assert forecast._masks(whole, 3) == ordered[:3]


@pytest.mark.parametrize(("spent", "rounds"), [(0.0, 4), (0.3, 2), (0.6, 2)])
def test_a_third_round_begins_only_early_in_the_budget(monkeypatch, spent, rounds):
    student, taught, span = guided_problem()
    goal, asked, outlines = Goal(7, SCALE), [], Forecast.outlines

    def counted(self, *given):
        asked.append(given)
        return outlines(self, *given)

    monkeypatch.setattr(Forecast, "outlines", counted)
    monkeypatch.setattr(Budget, "spent", lambda self, share=1.0: spent > share)
    insight, budget = begun(student, goal, taught, span)
    told = explored(insight, goal, budget)
    assert len(asked) == rounds
    assert bool(told) == (spent < 0.5)  # no rehearsal in the second half


def test_a_search_reports_its_rehearsals_within_the_gain_and_begins_a_round_where_the_last_one_ended(monkeypatch):
    student, taught, span = guided_problem()
    goal, asked, real = Goal(9, SCALE), [], Forecast.outlines

    def noted(self, counts, budget, starts=()):
        found = real(self, counts, budget, starts)
        asked.append((tuple(counts), list(starts), found))
        return found

    monkeypatch.setattr(Forecast, "outlines", noted)
    insight, budget = begun(student, goal, taught, span)
    every = list(insight.rehearsals(goal, budget))
    assert [each.round for each in every] == sorted(2 * [1, 2, 3, 4])
    assert len({each.outline for each in every}) == len(every)
    for each, (_, _, found) in zip(every, [given for given in asked for _ in range(2)], strict=True):
        assert each.promised == found[each.outline]
    for (_, _, before), (counts, starts, _) in itertools.pairwise(asked):
        assert starts == list(before)
        assert len(counts) <= 3
    assert len(asked[0][0]) > 3
    gains = sorted(each.found.table.gain for each in every)
    limited = Budget.start(student, budget.of_a_pass, replace(budget.limits, max_gain=gains[3]))
    told = explored(insight, goal, limited)
    assert sorted(table.gain for table in told) == gains[:4]


def test_the_benchmark_prints_every_rehearsal(monkeypatch, capsys):
    real, made = insight_module.rehearse, []
    monkeypatch.setattr(
        insight_module, "rehearse", lambda *given, **named: made.append(real(*given, **named)) or made[-1]
    )
    outlines.rounds(digits(0.15), Goal(6, SCALE), 16, 16)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row[4].strip() for row in rows[2:]] == [figure(each.errors) for each in made]
    assert len(made) == 8


def test_starts_with_guidance_hold_the_budget_and_tell_what_was_learned():
    student, taught, span = guided_problem()
    goal, told = Goal(7, SCALE), []
    insight, budget = begun(student, goal, taught, span)
    after = insight.explored(goal, budget, told.append)
    tables = [now.table for now in sorted(told, key=lambda now: now.score)]
    assert len(tables) >= 4
    assert all(table.evaluations <= 7 and table.scale == SCALE and table.is_consistent for table in tables)
    assert any(len(table.both) < table.nfe for table in tables)
    assert len(after.response.of_predictions) > len(after.response.of_differences) > 0
    assert insight.response.of_predictions == ()
    best = errors_of(end_of(tables[0], student.columns(tables[0], taught.noise, taught.rows)), taught.solution)
    scalar = [b.plan for b in baselines(student.pipeline.scheduler, 3, WINNERS) if b.plan.nfe == 3]
    assert len(scalar) >= 8
    ends = [student.run(plan, taught.noise, taught.rows) for plan in scalar]
    assert best.median < 0.7 * min(errors_of(end, taught.solution).median for end in ends)
    more = after.explored(goal, budget, lambda _: None)  # begins with the answers of before
    assert len(more.response.of_predictions) > len(after.response.of_predictions)


@pytest.mark.parametrize("name", CONFIGS)
def test_starts_are_better_than_built_in_samplers_before_any_fit(name):
    student, taught, span = problem(CONFIGS[name])
    goal = Goal(4)
    insight, budget = begun(student, goal, taught, span)
    tables = explored(insight, goal, budget)
    assert all(table.nfe == 4 and table.is_consistent for table in tables)
    x, rows = noise_of(512, seed=99), torch.arange(512)
    exact = student.model.reference_solution(x * span.path.prior_std)
    ours = errors_of(end_of(tables[0], student.columns(tables[0], x, rows)), exact)
    others = [student.run(b.plan, x, rows) for b in baselines(span.path, 4, WINNERS)]
    assert len(others) >= 8
    assert ours.median < 0.5 * min(errors_of(end, exact).median for end in others)


def test_starts_keep_the_limits(caplog):
    student, taught, span = problem(NoiseSchedulerConfig(), 32)
    goal = Goal(5)
    for limits in ({"history": 1}, {"first": "noisiest"}):
        range_ = replace(span, first_fixed="first" in limits)
        insight, budget = begun(student, goal, taught, range_, **limits)
        tables = explored(insight, goal, budget)
        assert tables
        for table in tables:
            assert table.history == limits.get("history")
            assert "history" not in limits or table.plan().history <= 2  # beside the newest
            assert (table.levels[0] == span.path.level(span.path.t_max)) or "first" not in limits
    insight, budget = begun(student, goal, taught, span, max_gain=1e-3)
    assert explored(insight, goal, budget) == []
    assert begun(student, Goal(23), taught, span)[0] is None  # more queries than a recording can choose between
    # where a recording would take more than its share, there is none
    assert begun(student, goal, taught, span, passes=4.0)[0] is None
    poor, _ = begun(student, goal, taught, span, passes=20.0)
    assert 8 <= len(poor.few) < 32
    with caplog.at_level(logging.INFO):
        broken = replace(student, model=lambda x, t: x * math.nan)
        assert begun(broken, goal, taught, span)[0] is None
    assert "no outlines" in caplog.text


def test_an_interrupt_while_outlines_are_rehearsed_returns_the_best_of_them(monkeypatch):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    real, made = insight_module.rehearse, []

    def second_fails(*arguments, **options):
        if made:
            raise KeyboardInterrupt
        made.append(real(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(insight_module, "rehearse", second_fails)
    told = {"shape": (4,), "nfe": 4, "trajectories": 64, "teacher_calls": 32, "passes": 200, "dtype": torch.float64}
    plan = calibrate(mixture(pipeline.scheduler), pipeline, **told)
    assert (plan.provenance["kind"], plan.provenance["interrupted"]) == ("outline", True)
    assert plan.nfe == 4
