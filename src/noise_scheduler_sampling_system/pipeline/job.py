"""A request that is ready to run: every argument is checked and resolved."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from ..guidance.evaluate import Caller, Memory, RunGuidance
from ..guidance.scales import Moment
from ..plans.base import Plan
from ..running.loop import Model, ModelMaker, PlannedRun, RowModel, RowState, Run
from ..running.model_fingerprint import fingerprint
from ..running.noise import NoiseSource
from ..running.profiling import Stopwatch
from .compiled import Setup
from .first_state import GivenStart
from .network_calls import NetworkCalls

__all__ = ["Job"]


@final
@dataclass(frozen=True)
class Job:
    """One run of a batch, before it starts.

    Attributes:
        setup: of the pipeline.
        run: what is executed.
        guidance: the branches of the model and how they are combined.
        calls: how the networks are called.
        noise: the noise of the batch; it holds keys, shape, type and device.
        given: what the run starts from, if not from ``noise``.
        first: the number of the first sample in the whole batch.
    """

    setup: Setup
    run: Run
    guidance: RunGuidance
    calls: NetworkCalls
    noise: NoiseSource
    given: GivenStart
    first: int = 0

    @property
    def batch(self) -> int:
        """B, the number of samples."""
        return len(self.noise.keys)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What a pipeline must have to resume the run."""
        return self.setup.identity

    @functools.cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the model; it is made when a step is handed out."""
        return fingerprint(self.calls.model.model)

    @functools.cached_property
    def white_on_black(self) -> bool:
        """Whether the model says that its images are white strokes on black."""
        return bool(getattr(self.calls.model.model, "white_on_black", False))

    def part(self, start: int, stop: int) -> Job:
        """The job for samples start to stop alone."""
        if (start, stop) == (0, self.batch):
            return self
        return replace(
            self,
            guidance=self.guidance.part(start, stop),
            noise=self.noise.part(start, stop),
            given=self.given.part(start, stop),
            first=self.first + start,
        )

    def first_state(self) -> RowState:
        """The state before the first row."""
        given = self.given.tensor
        if given is None:
            return RowState(0, self.given.with_context(self.run.prior(self.noise.initial())), {})
        x = given if self.given.name == "initial_sample" else self.given.with_context(self.run.prior(given))
        # the state is handed out, and the user's tensor must not change with it
        return RowState(0, x.clone() if x is self.given.tensor else x, {})

    def model_maker(
        self, memory: Memory, watch: Stopwatch | None = None, callers: Callable[[Plan], Caller] | None = None
    ) -> ModelMaker:
        """The function that makes the model for the rows of a plan, under the guidance of the run.

        Args:
            memory: what the guidance remembers from call to call.
            watch: measures the time inside the model and the guidance.
            callers: plan ↦ how networks are called at its rows; None: directly.
        """

        def made(run: PlannedRun, moments: Sequence[Moment] | None) -> RowModel:
            guidance = self.guidance if moments is None else self.guidance.on(run.plan, moments)
            caller = self.calls.caller(run.plan, self.batch, watch) if callers is None else callers(run.plan)
            model: Model = guidance.model(caller, memory)
            return RowModel(watch.wrap("guided", model) if watch else model, guidance.compiled.evaluations)

        return made
