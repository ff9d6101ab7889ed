"""The benchmark of masks: every sampler with one call a step, every share, both orders, and the default as it is."""

from __future__ import annotations

from dataclasses import replace

import guidance_cost
import masked_plans
import pytest

from noise_scheduler_sampling_system.calibration.search.built_in import baselines
from noise_scheduler_sampling_system.guidance import CachedGuidance

SCALE = 3.0


def tables(text: str) -> list[list[list[str]]]:
    """The rows of the tables in a text, without their heads."""
    found: list[list[list[str]]] = []
    for before, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
        if line.startswith("|-"):
            found.append([])
        elif before.startswith("|") and line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_the_table_of_masks_has_every_sampler_share_and_order(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(masked_plans, "CACHE", tmp_path)
    setting = replace(masked_plans.digits(0.15), samples=8, reference_calls=32)
    guidance_cost.cached(setting, SCALE, (6, 8), ("ddim", "euler", "heun", "unipc"))
    printed = capsys.readouterr().out
    assert "equal plans: ddim = euler\n" in printed
    by_sampler, by_share = tables(printed)
    assert [row[0] for row in by_sampler] == ["ddim", "unipc"]  # Heun makes two calls a step
    assert [row[1] for row in by_share if row[0] == "8"] == ["3 of 5", "2 of 6", "1 of 7"]
    assert [row[:3] for row in by_share if "default" in row[1]] == [
        ["6", "2 of 4, the default", "50%"], ["7", "2 of 5, the default", "40%"]
    ]  # fmt: skip
    solution = setting.solution(SCALE)

    def error(calls: int, guided) -> float:
        plans = baselines(setting.pipeline.scheduler, calls, [f"unipc, {grid}" for grid in guidance_cost.GRIDS])
        ends = [setting.sample(guided(each.plan), SCALE, slice(0, 8)) for each in plans]
        return min(float((end - solution).square().mean().sqrt()) for end in ends)

    every, default, best = by_sampler[1][4:]
    assert float(every) == pytest.approx(error(4, lambda plan: plan), rel=0.01)
    assert float(default) == pytest.approx(error(5, CachedGuidance(SCALE).folded_into), rel=0.01)
    ways = [(n, CachedGuidance(SCALE, evaluations=8, order=order)) for n in (5, 6, 7) for order in (0, 1)]
    ways += [(5, CachedGuidance(SCALE, order=order)) for order in (0, 1)]
    least = min(error(n, way.folded_into) for n, way in ways)
    assert float(best.split(":")[0]) == pytest.approx(least, rel=0.01)
