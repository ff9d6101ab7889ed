"""The tables of a comparison's page: pictures, every cell in numbers, and what ran."""

from __future__ import annotations

import base64
import html
import math
from typing import Any

from ..support.figures import Pixels, difference_mosaic, enlarged, mosaic, png_of
from .comparison import INTERRUPTED, Comparison, Entry, note
from .reference import Reference

__all__ = ["about_list", "cell_table", "picture_grid"]

#: Pixels of a picture, about.
_WIDTH = 320
_COLUMNS = 5


def picture_grid(comparison: Comparison) -> str:
    """One row for each entry, one column for each budget, and the solution; each picture with its difference."""
    target = any(reference.pictures is not None for reference in comparison.references.values())
    heads = [comparison.heading(budget) for budget in comparison.budgets] + (["solution"] if target else [])
    rows = []
    for i, entry in enumerate(comparison.entries):
        cells = [_picture(comparison, entry, budget) for budget in comparison.budgets]
        cells += [_solution(comparison.references.get(entry.name), entry)] if target else []
        rows.append(f"<tr><th scope='row'>{_row_head(comparison, entry, i)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th scope='col'>{text}</th>" for text in heads)
    return f"<table class='grid'><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _row_head(comparison: Comparison, entry: Entry, index: int) -> str:
    name = html.escape(entry.name, quote=True)
    if all(comparison.cell(entry.name, budget).problem for budget in comparison.budgets):
        return name
    kind = "<small>adds noise</small>" if entry.stochastic else ""
    buttons = "".join(
        f"<button type='button' class='pick' data-entry='{index}' data-format='{form}' "
        f"aria-label='Copy {name} as {text}'>{text}</button>"
        for form, text in (("python", "Python"), ("yaml", "YAML"), ("diffusers", "diffusers"))
    )
    return f"{name}{kind}<small class='copy'>copy as {buttons}</small>"


def _picture(comparison: Comparison, entry: Entry, budget: int) -> str:
    cell = comparison.cell(entry.name, budget)
    words = html.escape(note(comparison, cell))
    if cell.problem:
        if cell.problem == INTERRUPTED:
            return f"<td class='problem'>{words}</td>"
        why = html.escape(cell.problem)
        return f"<td class='problem'><details><summary>{words}</summary>{why}</details></td>"
    caption = f"<figcaption>{words}</figcaption>"
    if cell.pictures is None:
        return f"<td><figure>{caption}</figure></td>"
    name = html.escape(f"{entry.name}, {budget} {comparison.unit}", quote=True)
    columns = min(_COLUMNS, len(cell.pictures))
    images = f"<img alt='samples of {name}' src='{_png(mosaic(cell.pictures, columns, paper=entry.white_on_black))}'>"
    reference = comparison.references.get(entry.name)
    if reference is not None and reference.pictures is not None:
        # of white strokes on black, which are drawn as ink, red is where there is too much ink
        sign = 1.0 if entry.white_on_black else -1.0
        difference = difference_mosaic(sign * (cell.pictures.double() - reference.pictures.double()), columns)
        images += f"<img class='difference' alt='difference of {name} to the solution' src='{_png(difference)}'>"
    return f"<td><figure tabindex='0'>{images}{caption}</figure></td>"


def _solution(reference: Reference | None, entry: Entry) -> str:
    if reference is None or reference.pictures is None:
        return "<td></td>"
    columns = min(_COLUMNS, len(reference.pictures))
    picture = _png(mosaic(reference.pictures, columns, paper=entry.white_on_black))
    words = "exact" if reference.kind == "exact" else f"{reference.nfe} calls"
    alt = html.escape(f"solution for {entry.name}", quote=True)
    return f"<td><figure><img alt='{alt}' src='{picture}'><figcaption>{words}</figcaption></figure></td>"


def _png(picture: Pixels) -> str:
    """A picture as the address of a PNG."""
    return f"data:image/png;base64,{base64.b64encode(png_of(enlarged(picture, _WIDTH))).decode()}"


def cell_table(comparison: Comparison) -> str:
    """Every number of every cell, and the hash of its plan."""
    several = len(comparison.about["seeds"]) > 1
    heads = ["sampler", "budget", "steps", "calls", "evaluations", "error (RMS)", "± standard error"]
    heads += ["spread over seeds"] if several else []
    heads += ["median", "Fréchet distance", "seconds", "of it model", "guidance", "noise", "sampler"]
    heads += ["peak MiB", "plan"]
    rows = []
    for entry in comparison.entries:
        for budget in comparison.budgets:
            cell = comparison.cell(entry.name, budget)
            if cell.problem:
                start = f"<th scope='row'>{html.escape(entry.name)}</th><td>{budget}</td>"
                words = html.escape(cell.problem)
                rows.append(f"<tr>{start}<td class='words' colspan='{len(heads) - 2}'>{words}</td></tr>")
                continue
            parts = ("total", "model", "guidance", "noise", "sampler")
            seconds = [f"{cell.seconds[part]:.4f}" if part in cell.seconds else None for part in parts]
            values: list[Any] = [budget, cell.steps, cell.nfe, cell.evaluations, cell.rms, cell.standard_error]
            values += [cell.spread] if several else []
            values += [cell.median, cell.frechet, *seconds, cell.peak_memory / 2**20]
            texts = "".join(f"<td>{_text(value)}</td>" for value in values)
            plan = "" if cell.plan is None else f"<code title='{cell.plan.content_hash}'>{cell.plan.fingerprint}</code>"
            rows.append(f"<tr><th scope='row'>{html.escape(entry.name)}</th>{texts}<td>{plan}</td></tr>")
    head = "".join(f"<th scope='col'>{text}</th>" for text in heads)
    return f"<table class='numbers'><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3g}" if abs(value) < 100.0 else f"{value:.0f}"
    return "" if value is None else str(value)


def about_list(comparison: Comparison) -> str:
    """What ran: model, noise, guidance, versions."""
    rows = "".join(
        f"<dt>{html.escape(name.replace('_', ' '))}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in comparison.about.items()
        if value is not None
    )
    return f"<dl>{rows}</dl>"
