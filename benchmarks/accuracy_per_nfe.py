"""Which sampler and grid come closest to the exact solution of the ODE, for a given number of model calls.

Every deterministic sampler of this library on every spacing, against every one of diffusers and
k-diffusion on each of their grids, from the same noise at t = 999 of linear betas. The model is
exact, so the error is the sampler's: root mean square per pixel to the exact solution.

    python benchmarks/accuracy_per_nfe.py [--quick] [--out results.json|results.csv]
    python benchmarks/accuracy_per_nfe.py --listed

The errors of few calls have heavy tails, for a trajectory may end at another digit: the geometric
mean over the samples is given, too. All candidates are measured on 16 of the digits' samples with 6,
12 and 30 calls. The best of them by number of calls, in either mean, and the best of every sampler,
go on to all numbers of calls; from there in the same way to all samples, and at last to MNIST. The
second command measures again what docs/accuracy.md lists of ours.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import multiprocessing
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from candidates import TOGETHER, Candidate, Ours, Problem, digits, mnist, ours, peers
from common import table
from peers import denoiser
from torch import Tensor

from noise_scheduler_sampling_system.support.errors import NoiseSamplingError

NFE = (5, 6, 8, 10, 12, 15, 20, 30, 50)
QUICK_NFE = (5, 10, 20)
PROBES = (6, 12, 30)


LISTED = Path(__file__).parents[1] / "docs" / "accuracy.md"


def listed(problem: Problem) -> Iterator[tuple[Candidate, int, float]]:
    """What docs/accuracy.md lists of ours for a problem: candidate, model calls and error."""
    known = {f"{each}, {each.grid}": each for each in ours(quick=False)}
    sections = LISTED.read_text().split("\n## ")
    section = next(text for text in sections if text.lower().startswith(problem.name))
    for line in section.splitlines():
        cells = [cell.strip(" ¹") for cell in line.strip("| ").split(" | ")]
        if len(cells) == 6 and cells[0].isdigit():
            yield known[cells[3]], int(cells[0]), float(cells[4].split()[0])


def report_listed(problem: Problem) -> str:
    """The listed errors beside those of today's code, and beside those with the guard where a row is without it."""
    rows = list(listed(problem))
    again = [r for _, r in measure(problem, [(candidate, nfe) for candidate, nfe, _ in rows])]
    free = [k for k, (candidate, _, _) in enumerate(rows) if ("guarded", False) in candidate.options]
    held = dict(zip(free, measure(problem, [(_guarded(rows[k][0]), rows[k][1]) for k in free]), strict=True))
    cells = [
        (r.nfe, _label(r), f"{error:.3g}", _figure(r), _figure(held[k][1]) if k in held else "")
        for k, ((_, _, error), r) in enumerate(zip(rows, again, strict=True))
    ]
    return f"\n{problem.name}\n\n" + table(("NFE", "ours", "listed", "measured again", "with the guard"), cells)


def _guarded(candidate: Candidate) -> Candidate:
    """The candidate without ``guarded=False``."""
    return Ours(candidate.sampler, tuple(o for o in candidate.options if o[0] != "guarded"), candidate.grid)


# measuring


@dataclass(frozen=True)
class Result:
    """One measurement; ``calls`` were made, at most ``nfe``.

    ``error`` is the root mean square over samples and pixels, ``typical`` the geometric mean over samples.
    """

    problem: str
    side: str
    nfe: int
    calls: int
    sampler: str
    candidate: str
    grid: str
    error: float
    typical: float
    failure: str = ""


_AT_WORK: tuple[Problem, list[tuple[Candidate, int]]]


def _measure(i: int) -> Result:
    problem, jobs = _AT_WORK
    candidate, nfe = jobs[i]
    ask, calls, failure = denoiser(problem.model), 0, ""

    def counted(x: Tensor, alpha: float, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return ask(x, alpha, sigma)

    sample = None
    try:
        sample = candidate.run(problem, counted, nfe)
    except (NoiseSamplingError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        failure = f"{type(error).__name__}: {error}"[:200]
    if calls > nfe:
        raise AssertionError(f"{candidate} made {calls} calls, not {nfe}")
    squares = torch.tensor([math.inf])
    if sample is not None and bool(torch.isfinite(sample).all()):
        squares = (sample - problem.solution).square().flatten(1).mean(1)
    return Result(
        problem.name, candidate.side, nfe, calls, candidate.sampler, str(candidate), candidate.grid,
        float(squares.mean().sqrt()), float(squares.sqrt().log().mean().exp()), failure,
    )  # fmt: skip


def measure(problem: Problem, jobs: Sequence[tuple[Candidate, int]]) -> list[tuple[Candidate, Result]]:
    """Every candidate at its number of calls, on all cores."""
    global _AT_WORK
    _AT_WORK = (problem, list(jobs))
    context = multiprocessing.get_context("fork")  # candidates hold functions
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        results = list(pool.map(_measure, range(len(jobs)), chunksize=16))
    return [(candidate, result) for (candidate, _), result in zip(jobs, results, strict=True)]


def best(measured: Sequence[tuple[Candidate, Result]], keep: int) -> list[tuple[Candidate, int]]:
    """By side and number of calls, the best ``keep`` in either mean, and the best of every sampler."""
    chosen: dict[tuple[Candidate, int], None] = {}
    for mean in ("error", "typical"):
        ranked = sorted(measured, key=lambda pair: getattr(pair[1], mean))
        for side, nfe in sorted({(r.side, r.nfe) for _, r in measured}):
            here = [c for c, r in ranked if (r.side, r.nfe) == (side, nfe) and math.isfinite(r.error)]
            leaders = {c.sampler: c for c in reversed(here)}.values()
            chosen.update(dict.fromkeys((c, nfe) for c in [*here[:keep], *leaders]))
    return list(chosen)


def report(problem: Problem, results: Sequence[Result]) -> str:
    rows = []
    for nfe in sorted({r.nfe for r in results}):
        peer, own = (
            min((r for r in results if (r.side, r.nfe) == (side, nfe)), key=lambda r: r.error)
            for side in ("peer", "ours")
        )
        ratio = f"{peer.error / own.error:.2f}"
        rows.append((nfe, *(f(r) for r in (peer, own) for f in (_label, _figure)), ratio))
    title = f"{problem.name}: {len(problem.x)} samples, linear betas, RMS error per pixel (geometric mean of samples)"
    return f"\n{title}\n\n" + table(("NFE", "best peer", "error", "ours", "error", "peer/ours"), rows)


def _label(r: Result) -> str:
    return f"{r.candidate}, {r.grid}" + ("" if r.calls == r.nfe else f" ({r.calls} calls)")


def _figure(r: Result) -> str:
    return f"{r.error:.3g} ({r.typical:.2g})"


def save(file: Path, results: Sequence[Result]) -> None:
    """All measurements, as a table of JSON objects or as CSV."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(r) for r in sorted(results, key=lambda r: (r.problem, r.nfe, r.error))]
    with file.open("w", newline="") as out:
        if file.suffix == ".json":
            json.dump(rows, out, indent=0)
        else:
            writer = csv.DictWriter(out, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three numbers of calls, default options only")
    parser.add_argument("--listed", action="store_true", help="measure again what docs/accuracy.md lists of ours")
    parser.add_argument("--out", type=Path, help="write all measurements to a .json or .csv file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # both sides have remarks on some of the grids
    torch.set_num_threads(1)  # two processes with a thread each
    if arguments.listed:
        print(report_listed(digits()), flush=True)
        print(report_listed(mnist()))
        return
    quick, began = arguments.quick, time.perf_counter()
    candidates = [*peers(), *ours(quick)]
    print(f"{len(candidates)} candidates", flush=True)
    small, budgets = digits(), QUICK_NFE if quick else NFE
    few, probes = small.first(16), QUICK_NFE if quick else PROBES
    trial = measure(few, [(c, n) for c in candidates for n in probes])
    if not quick:
        promising = dict.fromkeys(c for c, _ in best(trial, 120))
        trial += measure(few, [(c, n) for c in promising for n in budgets if n not in probes])
    closer = measure(small, best(trial, 15 if quick else 40))
    print(report(small, [r for _, r in closer]), flush=True)
    large = mnist()
    chosen = dict.fromkeys(best(closer, 2 if quick else 10))
    # what a peer has on its own grid goes on with it, whatever became of it on the digits
    twins = [c for c in candidates if c.side == "ours" and c.sampler in TOGETHER and c.grid == "leading_dpm end=lowest"]
    chosen.update(dict.fromkeys((c, n) for c in twins for n in budgets if n <= 10))
    final = measure(large, list(chosen))
    print(report(large, [r for _, r in final]))
    if arguments.out:
        save(arguments.out, [r for _, r in [*closer, *final]])
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
