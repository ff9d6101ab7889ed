"""A set compared with its journal: what is missing, what is corrupt, and which samples failed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from .folder import TEMPORARY, SetFolder

__all__ = ["Verification", "verify_dataset"]

#: Problems that the text of a verification lists.
_LISTED = 20


@final
@dataclass(frozen=True)
class Verification:
    """What a set lacks.

    Attributes:
        num_samples: of the set.
        shards: of the set.
        problems: what is wrong with a shard, by its number.
        affected: samples in these shards.
        failed: (first, last, reason) of samples that the model failed at; they are in no shard.
        strangers: names in the folder of shards that no line of the journal explains.
        damaged_lines: lines of the journal that are not valid; their shards are among the problems.
    """

    num_samples: int
    shards: int
    problems: dict[int, str]
    affected: int
    failed: tuple[tuple[int, int, str], ...]
    strangers: tuple[str, ...]
    damaged_lines: tuple[int, ...]

    @property
    def complete(self) -> bool:
        """Whether every shard is whole."""
        return not self.problems

    @property
    def num_failed(self) -> int:
        """The number of samples that failed."""
        return sum(last - first + 1 for first, last, _ in self.failed)

    def __str__(self) -> str:
        good = self.shards - len(self.problems)
        lines = [f"{good} of {self.shards} shards are whole ({self.num_samples - self.affected} samples)"]
        listed = list(self.problems.items())
        lines += [f"  shard {number}: {what}" for number, what in listed[:_LISTED]]
        if len(listed) > _LISTED:
            lines.append(f"  ... and {len(listed) - _LISTED} more")
        for first, last, reason in self.failed[:_LISTED]:
            lines.append(f"  sample {first} failed: {reason}" if first == last else
                         f"  samples {first} to {last} failed: {reason}")  # fmt: skip
        if len(self.failed) > _LISTED:
            lines.append(f"  ... {self.num_failed} samples failed")
        lines += [f"  {name} belongs to no finished shard" for name in self.strangers[:_LISTED]]
        if self.problems:
            lines.append("run the same command again to make what is missing")
        return "\n".join(lines)


def verify_dataset(
    output: str | os.PathLike[str], *, hashes: bool = True, progress: Callable[[int, int], object] | None = None
) -> Verification:
    """Compare a set with its journal. Nothing is changed, and the set may be read or written meanwhile.

    Args:
        output: the folder of the set.
        hashes: read every shard and compare its SHA-256; False compares sizes alone.
        progress: is called with the number of shards that are checked, and the number of all.

    Raises:
        FileError: the folder holds no set.
    """
    folder = SetFolder.reading(output)
    layout, journal = folder.layout, folder.journal
    problems: dict[int, str] = {}
    for number in range(len(layout)):
        what = folder.problem(number, hashes=hashes)
        if what is not None:
            problems[number] = what
        if progress is not None:
            progress(number + 1, len(layout))
    whole = [record for number, record in sorted(journal.records.items()) if number not in problems]
    known = {record.file for record in journal.records.values()}
    present = os.listdir(folder.shards) if folder.shards.is_dir() else []
    return Verification(
        num_samples=layout.num_samples,
        shards=len(layout),
        problems=problems,
        affected=sum(layout[number].count for number in problems),
        failed=tuple(entry for record in whole for entry in record.failed),
        strangers=tuple(sorted(name for name in present if name not in known and not name.startswith(TEMPORARY))),
        damaged_lines=tuple(journal.damaged),
    )
