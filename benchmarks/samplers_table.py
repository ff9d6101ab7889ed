"""Write docs/samplers.md: every registered sampler, what it declares, and what is measured.

    python benchmarks/samplers_table.py [--only NAME ... | --words | --check]

Order: the least slope over paths (VP, cosine, EDM, flow) and models (Gaussian, mixture, digits) of
log error over log steps, through the real loop. Weak order: of the variance of Gaussian data,
computed from the table, on EDM and flow. Error: RMS per pixel to the exact solution of the digits
(linear schedule, bandwidth 0.15, 64 starts) within N model calls, with the best of four spacings.
Everything is measured again, which takes about ten minutes on two cores. --only measures the samplers that are named,
in seconds, and keeps the rows of the others. --words measures nothing: it writes the sections of words again and keeps
the tables of numbers. --check
fails if a registered sampler is missing in the file, or if its sections of words are out of date.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import moments_table
import torch
from common import table
from measure import NFES, PROBLEMS, VARIANTS, error_at, measured_order, weak_order

from noise_scheduler_sampling_system import ConfigurationError, NumericsError, SamplerFactory
from noise_scheduler_sampling_system.config.registries import SAMPLERS
from noise_scheduler_sampling_system.config.sampler_aliases import NAMES

OUT = Path(__file__).parents[1] / "docs" / "samplers.md"
SPACINGS = ("trailing", "karras", "log_snr", "kl_optimal")
#: Further variants that are listed for comparison: what the peers ship.
PUBLISHED = [
    ("dpmpp_3m", {"solver_type": "as_published", "start": "plain"}),
    ("dpm_3m", {"solver_type": "as_published", "start": "plain"}),
    ("dpmpp_3m", {"start": "plain"}),
    ("ipndm_v", {"solver_type": "as_published", "order": 3, "start": "plain"}),
]

HEAD = """# Samplers

All samplers, with what each declares, its measured order, and its error at equal model calls. Made by
`python benchmarks/samplers_table.py`; do not edit.
{machine}

"""

INTRO = """Every sampler except `adaptive` writes a plan. The numbers are measured through the loop that runs plans.
[methods.md](methods.md) says how the families work.

- **order**: declared → least measured, over four paths (VP, cosine, EDM, flow) and three exact models (Gaussian,
  mixture, digits), between two levels with signal and noise. A test requires at least the declared order minus 0.2 on
  four of these twelve pairs. On some others fourth-order methods and SA-Solver have not converged to their order at the
  largest number of steps (128 and 320). For stochastic samplers it is the order of the deterministic limit, with the
  options named.
- **weak**: for stochastic samplers, the order of convergence of the variance of Gaussian data (EDM, flow).
- **calls**: model calls a step. A step to the clean sample, or from a level without signal, takes one call where the
  method is not defined there.
- **error**: RMS per pixel to the exact solution for the digits (linear schedule) within N model calls, with the best of
  the spacings {spacings}. A dash: the sampler is stochastic, or cannot use between 80 and 100 % of
  the calls.
- `flow_map` is for networks of two times, which make it exact ([two-times.md](two-times.md)). Here it runs one of one
  time, with which it is Euler's method.

"""


WORDS = "## What each one is"
ORDERS, ERRORS = "## Orders", "## Error at equal model calls"


def text(options: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v!r}" if not isinstance(v, dict) else f"{k}={{…}}" for k, v in options.items())


def order_row(case: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any], int, int, float]:
    torch.set_num_threads(1)
    name, options = case
    found = [measured_order(name, options, *place) for place in PROBLEMS]
    sampler = found[0][1]
    return name, options, sampler.order, sampler.calls_per_step, min(order for order, _ in found)


def error_row(case: tuple[str, dict[str, Any]]) -> list[str]:
    torch.set_num_threads(1)
    name, options = case
    cells = []
    for nfe in NFES:
        errors = {spacing: error_at(name, options, spacing, nfe) for spacing in SPACINGS}
        known = {spacing: e for spacing, e in errors.items() if e is not None and e < 10.0}
        best = min(known, key=lambda s: known[s]) if known else None
        cells.append("–" if best is None else f"{known[best]:.3g} {best}")
    return cells


def weak(name: str) -> str:
    try:
        return ", ".join(f"{weak_order(name, {}, path)[0]:.1f}" for path in ("edm", "flow"))
    except (ConfigurationError, NumericsError):
        return "–"


def source(name: str) -> str:
    """The first paragraph of a sampler's docstring as the cell of a table, roles of Sphinx as plain code."""
    first = inspect.cleandoc(SAMPLERS.get(name).__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
    return re.sub(r":\w+:`~?\.*(?:\w+\.)*(\w+)`", r"`\1`", first)


def written(names: Sequence[str], page: str = "") -> str:
    """The page's sections after its head.

    Args:
        names: the samplers to measure.
        page: the page as it is, whose rows of other samplers are kept.
    """
    cases = [(name, options) for name in names for options in VARIANTS.get(name, [{}]) or []]
    settled = [case for case in cases if not (SamplerFactory.create(case[0]).stochastic and not case[1])]
    defaults = [(name, {}) for name in names if not SamplerFactory.create(name).stochastic]
    published = [case for case in PUBLISHED if case[0] in names]
    with ProcessPoolExecutor(2) as pool:
        orders = list(pool.map(order_row, settled + published))
        errors = list(pool.map(error_row, [*defaults, *published]))
    rows: list[list[str]] = []
    done = set()
    for name, options, declared, calls, measured in orders:
        stochastic, first = SamplerFactory.create(name).stochastic, name not in done
        done.add(name)
        order = f"{declared} → {measured:.2f}"
        rows.append([label(name, options), str(calls), order, weak(name) if stochastic and first else ""])
    for name in names:
        if name not in done:
            sampler = SamplerFactory.create(name)
            rows.append([label(name, {}), str(sampler.calls_per_step), f"{sampler.order} (no limit)", weak(name)])
    body = [[label(*case), *cells] for case, cells in zip([*defaults, *published], errors, strict=True)]
    lines = [INTRO.format(spacings=", ".join(SPACINGS)), f"{ORDERS}\n\n"]
    lines.append(table(["sampler", "calls", "order", "weak"], _merged(rows, ORDERS, names, page)) + "\n\n")
    lines.append(moments_table.section())
    lines.append(f"{ERRORS}\n\n")
    lines.append(table(["sampler", *(f"N = {n}" for n in NFES)], _merged(body, ERRORS, names, page)) + "\n\n")
    lines.append(words_section())
    return "".join(lines)


def label(name: str, options: dict[str, Any]) -> str:
    """A sampler with its options, as the tables name it."""
    return f"`{name}({text(options)})`" if options else f"`{name}`"


def _merged(new: list[list[str]], heading: str, names: Sequence[str], page: str) -> list[list[str]]:
    """New rows, and the rows of other samplers that a section of the page has, by name."""
    section = page.split(f"{heading}\n")[1].split("\n## ")[0] if page else ""
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    kept = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    others = [row for row in kept if row[0].strip("`").split("(")[0] not in names]
    return sorted([*others, *new], key=lambda row: row[0].strip("`"))


def words_section() -> str:
    """What each sampler is, from its docstring, and its names in other libraries."""
    rows = [[f"`{n}`", source(n), f"`{dict(SAMPLERS.get(n).option_defaults)}`"] for n in sorted(SAMPLERS)]
    return f"{WORDS}\n\n{table(['name', 'what', 'options'], rows)}\n\n{names_section()}"


def with_words(page: str) -> str:
    """The page with its sections of words written again."""
    head, intro_and_numbers = page.split("\n\n", 2)[1], page[page.index("\n## Orders") + 1 :]
    numbers = intro_and_numbers[: intro_and_numbers.index(WORDS)]
    numbers = moments_table.with_intro(numbers)
    return f"# Samplers\n\n{head}\n\n{INTRO.format(spacings=', '.join(SPACINGS))}{numbers}{words_section()}"


def names_section() -> str:
    rows = []
    for name, meant in NAMES.items():
        options, more = text(dict(meant.options)), text(dict(meant.spacing_options))
        rows.append([f"`{name}`", f"`{meant.sampler}`", options, meant.spacing or "", more])
    head = (
        "## Names of other libraries\n\nThese names are accepted wherever a sampler's name is. Case, spaces and "
        'punctuation are ignored. A label may end with a spacing: "DPM++ 2M Karras".\n\n'
    )
    return head + table(["theirs", "ours", "options", "spacing", "spacing options"], rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[])
    parser.add_argument("--words", action="store_true")
    parser.add_argument("--check", action="store_true")
    chosen = parser.parse_args()
    if chosen.words or chosen.check:
        here = OUT.read_text(encoding="utf-8")
        missing = [name for name in SAMPLERS if f"`{name}`" not in here and f"`{name}(" not in here]
        if missing:
            sys.exit(f"{OUT.name} does not list {', '.join(missing)}: run {Path(__file__).name}")
        up_to_date = with_words(here)
        if chosen.check and here != up_to_date:
            sys.exit(f"{OUT.name} is out of date: run {Path(__file__).name} --words")
        if chosen.words:
            OUT.write_text(up_to_date, encoding="utf-8")
        return
    names = sorted(name for name in SAMPLERS if SamplerFactory.create(name).writes_plans)
    unknown = sorted(set(chosen.only) - set(names))
    if unknown:
        sys.exit(f"no registered sampler writes plans under {', '.join(unknown)}")
    page = OUT.read_text(encoding="utf-8") if chosen.only else ""
    measured = written(sorted(chosen.only) or names, page)
    OUT.write_text(HEAD.format(machine=f"PyTorch {torch.__version__}.") + measured, encoding="utf-8")
    print(f"wrote {OUT}")


if __name__ == "__main__":
    main()
