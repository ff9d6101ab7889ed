"""How many model calls a comparison has made, for a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

__all__ = ["Calls"]


@final
@dataclass
class Calls:
    """Counts the model calls of all runs, and reports them.

    Attributes:
        report: is called with (calls done, calls in all); None: nothing is reported.
        total: calls in all.
        done: calls so far.
    """

    report: Callable[[int, int], object] | None
    total: int = 0
    done: int = 0

    def callback(self) -> dict[str, Any]:
        """The argument of ``sample`` that reports the calls of a run."""
        if self.report is None:
            return {}
        before, report = self.done, self.report

        def stepped(step: Any) -> None:
            self.done = max(self.done, min(before + step.nfe, self.total))
            report(self.done, self.total)

        return {"callback": stepped}

    def finish(self, calls: int) -> None:
        """Count the calls up to ``calls`` as done."""
        self.done = min(calls, self.total)
        if self.report is not None:
            self.report(self.done, self.total)
