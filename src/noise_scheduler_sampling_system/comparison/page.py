"""A comparison as a page in one file: pictures, errors, levels, weights and code, without any network."""

from __future__ import annotations

import base64
import html
import json
import math
from importlib import resources
from typing import Any

import numpy as np

from ..plans.plan import SamplingPlan
from ..schedules.path import Level, NoisePath
from ..support.errors import ConfigurationError
from ..support.figures import Pixels, difference_mosaic, enlarged, mosaic, png_of
from .comparison import PAGE, Cell, Comparison, Entry, note
from .snippets import as_diffusers, as_python, as_yaml

__all__ = ["page"]

#: Points of a schedule's curve.
_POINTS = 201
#: Pixels of a picture, about.
_WIDTH = 320


@PAGE.provide
def page(comparison: Comparison) -> str:
    """The page's HTML, about 5 MB: plotly's JavaScript is inlined.

    Raises:
        ConfigurationError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ConfigurationError(
            "plotly is not installed", where="page", suggestion="pip install 'noise-scheduler-sampling-system[report]'"
        ) from None
    files = resources.files(__package__).joinpath("data")
    texts = {name: files.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")}
    # "</" ends a script in HTML, also inside of a text
    data = json.dumps(_data(comparison), allow_nan=False).replace("</", "<\\/")
    parts = {
        "$style$": texts["page.css"],
        "$plotly$": get_plotlyjs(),
        "$script$": texts["page.js"],
        "$data$": data,
        "$grid$": _grid(comparison),
        "$about$": _about(comparison),
        "$table$": html.escape(str(comparison)),
    }
    text = texts["page.html"]
    for name, part in parts.items():
        text = text.replace(name, part)
    return text


def _data(comparison: Comparison) -> dict[str, Any]:
    """What the page's script draws, as plain data."""
    plans = {}
    for each in comparison.entries:
        for budget in comparison.budgets:
            cell = comparison.cell(each.name, budget)
            if cell.plan is not None:
                plans[f"{each.name} — {budget} calls"] = _plan(cell.plan, cell, each)
    return {
        "budgets": list(comparison.budgets),
        "entries": [_entry(comparison, each) for each in comparison.entries],
        "plans": plans,
        "paths": [_path(path) for path in _paths(comparison)],
        "references": list(dict.fromkeys(map(str, comparison.references.values()))),
    }


def _entry(comparison: Comparison, entry: Entry) -> dict[str, Any]:
    cells = [comparison.cell(entry.name, budget) for budget in comparison.budgets]
    measured = [cell for cell in cells if not math.isnan(cell.rms)]
    order = comparison.order_of(entry.name)
    return {
        "name": entry.name,
        "nfe": [cell.nfe for cell in measured],
        "evaluations": [cell.evaluations for cell in measured],
        "rms": [cell.rms for cell in measured],
        "standard_error": [_number(cell.standard_error) for cell in measured],
        "median": [cell.median for cell in measured],
        "order": _number(order),
        "stochastic": entry.stochastic,
        "seconds": [cell.seconds.get("total", 0.0) for cell in cells],
        "code": {
            str(cell.budget): {
                "python": as_python(entry, cell, comparison.about),
                "yaml": as_yaml(entry, cell),
                "diffusers": as_diffusers(entry, cell),
            }
            for cell in cells
            if not cell.problem
        },
    }


def _plan(plan: SamplingPlan, cell: Cell, entry: Entry) -> dict[str, Any]:
    """Levels, weights and evaluations of a plan, for the page."""
    b = np.abs(plan.b)
    width = int(np.max(np.nonzero(b.any(axis=0))[0], initial=0)) + 1
    return {
        "entry": entry.name,
        "budget": cell.budget,
        "hash": plan.content_hash,
        "log_snr": [_number(2.0 * level.half_log_snr) for level in _levels(plan)],
        "time": [_number(t) for t in plan.time],
        "step": plan.step.tolist(),
        "a": plan.a.tolist(),
        "b": plan.b[:, :width].tolist(),
        "noise": np.abs(plan.c).sum(axis=1).tolist(),
        "evaluations": list(cell.evaluations_by_row),
        "amplification": plan.amplification,
    }


def _levels(plan: SamplingPlan) -> list[Level]:
    """The levels of the rows of a plan, and of its end."""
    times = [*plan.time.tolist(), math.nan]
    return [Level(*each) for each in zip(times, plan.alpha.tolist(), plan.sigma.tolist(), strict=True)]


def _paths(comparison: Comparison) -> list[NoisePath]:
    paths: list[NoisePath] = []
    for each in comparison.entries:
        path = each.pipeline.scheduler.spaced("leading")
        if path not in paths:
            paths.append(path)
    return paths


def _path(path: NoisePath) -> dict[str, Any]:
    times = np.linspace(path.t_min, path.t_max, _POINTS)
    levels = path.levels(times)
    return {
        "name": repr(path),
        "fraction": np.linspace(0.0, 1.0, _POINTS).tolist(),
        "alpha": [level.alpha for level in levels],
        "sigma": [level.sigma for level in levels],
        "log_snr": [_number(2.0 * level.half_log_snr) for level in levels],
    }


def _grid(comparison: Comparison) -> str:
    """The table of pictures: one row for each entry; the difference to the reference shows under the pointer."""
    head = "".join(f"<th scope='col'>{budget} calls</th>" for budget in comparison.budgets)
    rows = []
    for each in comparison.entries:
        cells = "".join(_picture(comparison, each, budget) for budget in comparison.budgets)
        kind = "stochastic" if each.stochastic else ""
        rows.append(f"<tr><th scope='row'>{html.escape(each.name)}<small>{kind}</small></th>{cells}</tr>")
    return f"<table class='grid'><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _picture(comparison: Comparison, entry: Entry, budget: int) -> str:
    cell = comparison.cell(entry.name, budget)
    if cell.problem or cell.samples is None:
        return f"<td class='problem' title='{html.escape(cell.problem, quote=True)}'>cannot run</td>"
    caption = f"<figcaption>{html.escape(note(comparison, cell))}</figcaption>"
    if cell.pictures is None:
        return f"<td><figure>{caption}</figure></td>"
    name = html.escape(f"{entry.name}, {budget} calls", quote=True)
    columns = min(5, len(cell.pictures))
    images = f"<img alt='samples of {name}' src='{_png(mosaic(cell.pictures, columns, paper=entry.white_on_black))}'>"
    reference = comparison.references.get(entry.name)
    if reference is not None and reference.pictures is not None:
        # in ink: red where there is too much of it
        sign = -1.0 if entry.white_on_black else 1.0
        difference = difference_mosaic(sign * (cell.pictures.double() - reference.pictures.double()), columns)
        images += f"<img class='difference' alt='difference of {name} to the solution' src='{_png(difference)}'>"
    return f"<td><figure tabindex='0'>{images}{caption}</figure></td>"


def _png(picture: Pixels) -> str:
    """A picture as the address of a PNG."""
    return f"data:image/png;base64,{base64.b64encode(png_of(enlarged(picture, _WIDTH))).decode()}"


def _about(comparison: Comparison) -> str:
    rows = "".join(
        f"<dt>{html.escape(name.replace('_', ' '))}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in comparison.about.items()
        if value is not None
    )
    return f"<dl>{rows}</dl>"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
