"""Hostile input: every case ends in success or in the library's own refusal, and soon.

    python benchmarks/fuzz.py [--cases 20000] [--kind NAME] [--seed 0] [--keep FOLDER]

The cases are spread over the kinds. Prints a table of how they ended; the input of each fault is written to the
folder. ``--only KIND:NUMBER`` runs one case again. The exit code is 1 where there is a fault.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch
from fuzzing.case import Case, Kind
from fuzzing.judge import ADDRESSES, HANGS, MEMORY, Outcome, judged, limited_memory
from fuzzing.kinds import KINDS, cases_of

from noise_scheduler_sampling_system.support.text_tables import text_table


@final
@dataclass
class Tally:
    """How the cases of a kind ended."""

    kind: str
    words: Counter[str] = field(default_factory=Counter)
    by: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def row(self) -> tuple[str, ...]:
        refused = ", ".join(f"{name} {n:,}" for name, n in self.by.most_common(3))
        counts = (sum(self.words.values()), self.words["succeeded"], self.words["refused"], len(self.faults))
        return (self.kind, *(f"{n:,}" for n in counts), refused, f"{self.seconds:.0f}")


def run(kind: Kind, numbers: range, seed: int, work: Path, keep: Path | None = None) -> Tally:
    """Cases of these numbers: how they ended, and what is wrong with which.

    Args:
        kind: of the cases.
        numbers: each determines a case, with the seed.
        seed: of all.
        work: a folder for what the cases write.
        keep: a folder for the input of each fault.
    """
    tally, begin = Tally(kind.name), time.process_time()
    for at, case in enumerate(kind.valid()):
        judged(case, work, memory=False)  # imports are no memory of a case
        ended = judged(case, work)
        if ended.word != "succeeded":
            _note(tally, f"valid-{at}", case, ended, keep)
    for number in numbers:
        case = kind.drawn(random.Random(f"{seed}:{kind.name}:{number}"))
        ended = judged(case, work)
        tally.words[ended.word] += 1
        if ended.word == "refused":
            tally.by[ended.by] += 1
        elif ended.word == "FAULT":
            _note(tally, str(number), case, ended, keep)
    tally.seconds = time.process_time() - begin
    return tally


def _note(tally: Tally, number: str, case: Case, ended: Outcome, keep: Path | None) -> None:
    tally.faults.append(f"{tally.kind}:{number}: {ended.by} {ended.word}: {ended.told}")
    if keep is None:
        return
    place = keep / f"{tally.kind.replace(' ', '-')}-{number}"
    place.mkdir(parents=True, exist_ok=True)
    for name, data in case.parts.items():
        (place / name.replace("/", "-")).write_bytes(data)
    (place / "FAULT.txt").write_text(f"{ended.by}\n{ended.told}\n", errors="backslashreplace")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--cases", type=int, default=20_000, help="of all kinds together")
    parser.add_argument("--kind", choices=sorted(KINDS), action="append", help="repeatable; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="the number of the first case of each kind")
    parser.add_argument("--only", help="one case, as KIND:NUMBER")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"), help="a folder for the input of faults")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    names = given.kind or list(KINDS)
    counts = {name: range(given.start, given.start + n) for name, n in cases_of(given.cases, names).items()}
    if given.only is not None:
        name, _, number = given.only.rpartition(":")
        counts = {name: range(int(number), int(number) + 1)}
    tallies = []
    with tempfile.TemporaryDirectory() as folder:
        for name, numbers in counts.items():
            kind = KINDS[name]()
            if not tallies:
                limited_memory()
            try:
                tallies.append(run(kind, numbers, given.seed, Path(folder) / "work", given.keep.absolute()))
            finally:
                kind.close()
            for fault in tallies[-1].faults[:20]:
                print(fault, flush=True)
            print(" | ".join(tallies[-1].row()), file=sys.stderr, flush=True)
    head = ("kind", "cases", "succeeded", "refused", "faults", "refused by", "CPU s")
    print(text_table([head, *(each.row() for each in tallies)]))
    total, faults = sum(sum(each.words.values()) for each in tallies), sum(len(each.faults) for each in tallies)
    print(f"{total:,} cases, {faults} faults; limits: {HANGS:g} s, {MEMORY >> 20} MiB of memory a case, "
          f"{ADDRESSES >> 30} GiB of addresses")  # fmt: skip
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
