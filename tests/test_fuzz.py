"""Hostile input of every kind ends in success or in the library's own refusal: a small part of benchmarks/fuzz.py."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import fuzz
import numpy as np
import pytest
import torch
from fuzzing import judge
from fuzzing.case import Case
from fuzzing.kinds import KINDS, cases_of
from fuzzing.strategies import bodies, written_settings
from hypothesis import HealthCheck, given, settings

from noise_scheduler_sampling_system import AdvancedDiffusionSystem, DiffusionPipeline, NoiseSamplingError, SamplingPlan
from noise_scheduler_sampling_system.guidance import AdaptiveProjected, ClassifierFree, evaluate
from noise_scheduler_sampling_system.guidance.conditions import joined
from noise_scheduler_sampling_system.serving.http.body import read_body
from noise_scheduler_sampling_system.serving.http.limits import Limits
from noise_scheduler_sampling_system.support import FileError

#: Cases of each kind, and the least number of them that succeed.
COUNTS = {
    "config": (120, 8), "plan": (100, 1), "frame plan": (40, 0), "state": (40, 1), "checkpoint": (40, 0),
    "calibration": (30, 1), "scheduler": (15, 5), "manifest": (15, 1), "journal": (15, 15), "shard": (15, 15),
    "command": (25, 0), "serving": (50, 1), "playground": (40, 1), "setting": (120, 30),
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", COUNTS)
def test_every_kind_of_hostile_input_succeeds_or_is_refused(name: str, tmp_path: Path) -> None:
    cases, least = COUNTS[name]
    kind = KINDS[name]()
    try:
        tally = fuzz.run(kind, range(cases), 7, tmp_path / "work")
    finally:
        kind.close()
    assert tally.faults == []
    assert tally.words["succeeded"] >= least
    assert tally.words.total() == cases


def test_the_cases_are_spread_over_the_kinds() -> None:
    spread = cases_of(20_000, list(KINDS))
    assert set(spread) == set(KINDS)
    assert abs(sum(spread.values()) - 20_000) <= len(KINDS)
    assert cases_of(1, list(KINDS)) == dict.fromkeys(KINDS, 1)


def _hangs(_: Path) -> None:
    while True:
        pass


FAULTS = {
    "ZeroDivisionError": lambda _: 1 / 0,
    "RuntimeWarning": lambda _: np.array([np.inf]).astype(np.int64),
    "partial file": lambda folder: (folder / ".half.tmp").write_text("x"),
    "code or a file elsewhere": lambda folder: (folder.parent / "elsewhere").write_text("x"),
    "memory": lambda _: np.ones(judge.MEMORY // 6),
    "hangs": _hangs,
    "slow": lambda _: sum(range(10_000_000)),
}


@pytest.mark.parametrize("by", FAULTS)
def test_the_judge_sees_every_kind_of_fault(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "HANGS", 0.2 if by == "hangs" else 60.0)
    ended = judge.judged(Case({}, FAULTS[by], seconds=0.01 if by == "slow" else 10.0), tmp_path / "work")
    assert (ended.word, ended.by) == ("FAULT", by)


def test_the_input_of_a_fault_is_kept(tmp_path: Path) -> None:
    class Broken(fuzz.Kind):
        name = "broken"

        def valid(self) -> list[Case]:
            return []

        def drawn(self, draw: object) -> Case:
            return Case({"input.json": b"{}"}, lambda folder: 1 / 0)

    tally = fuzz.run(Broken(), range(2), 0, tmp_path / "work", tmp_path / "kept")
    assert len(tally.faults) == 2
    assert (tmp_path / "kept" / "broken-1" / "input.json").read_bytes() == b"{}"
    assert "ZeroDivisionError" in (tmp_path / "kept" / "broken-1" / "FAULT.txt").read_text()


@pytest.mark.parametrize("number", [1e308, -1e300, float("inf"), float("nan"), 2.0**63])
def test_a_count_beyond_whole_numbers_is_refused_without_a_warning_of_numpy(number: float) -> None:
    data = DiffusionPipeline(None, "dpmpp_2m").plan(4).to_dict()
    data.pop("content_hash")
    data["step"][2] = number
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((NoiseSamplingError, FileError), match="whole numbers"):
            SamplingPlan.from_dict(data)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(fields=written_settings())
def test_settings_of_any_kind_are_read_or_refused(fields: dict, tmp_path: Path) -> None:
    path = tmp_path / "system.json"
    path.write_text(json.dumps({"main_ddim": fields}))
    _read_or_refused(lambda: AdvancedDiffusionSystem(path))


def test_guidance_with_a_scale_for_each_row_joins_the_conditions_once(monkeypatch: pytest.MonkeyPatch) -> None:
    joins = []

    def counted(*given: object) -> object:
        joins.append(given)
        return joined(*given)

    monkeypatch.setattr(evaluate, "joined", counted)
    labels = {"class_labels": torch.arange(2)}
    for guidance in (ClassifierFree(("linear", 1.5, 7.0)), AdaptiveProjected(("linear", 1.5, 7.0))):
        joins.clear()
        DiffusionPipeline(None, "ddim").sample(None, (2, 1, 8, 8), 9, condition=labels, guidance=guidance, seed=0)
        assert len(joins) == 1


def test_long_advice_is_given_once() -> None:
    with pytest.raises(NoiseSamplingError) as raised:
        AdvancedDiffusionSystem().create_pipeline("p", {f"k{i}": i for i in range(300)}, "ddim")
    text = str(raised.value)
    assert text.count("one of: beta_end") == 1
    assert text.count("try: the same") == 29
    assert len(text) < 5000


def _read_or_refused(attempt: Callable[[], object]) -> None:
    refusal = None
    try:
        attempt()
    except NoiseSamplingError as error:
        refusal = error
    assert refusal is None or (refusal.suggestion and len(str(refusal)) < judge.MESSAGE)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=bodies())
def test_bodies_of_any_kind_are_read_or_refused(body: dict) -> None:
    _read_or_refused(lambda: read_body(json.dumps(body).encode(), Limits()))
