"""A whole batch run to its end: in parts that fit into memory, measured, with a progress bar, and put together."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..grids.time_grid import TimeGrid
from ..running.batching import in_batches
from ..running.profiling import Profile, Stopwatch, measured
from ..running.results import InterruptedRunError, SamplingResult
from .checkpoint import Checkpoint
from .complete import complete
from .ending import Outcome
from .job import Job
from .request import Request

__all__ = ["execute", "result_of"]

logger = logging.getLogger(__name__)


def execute(job: Job, request: Request) -> Tensor | SamplingResult:
    """The samples of a job, shape (B, ...), or a :class:`SamplingResult` where the request wants one.

    Raises:
        InterruptedRunError: Ctrl-C, after a part of the batch was done; it holds the samples of this part.
    """
    job, checkpoint = Checkpoint.open(job, request)
    if checkpoint is None:
        return _executed(job, request, None)
    with checkpoint.naming():
        return _executed(job, request, checkpoint)


def _executed(job: Job, request: Request, checkpoint: Checkpoint | None) -> Tensor | SamplingResult:
    run, batch, device = job.run, job.batch, job.noise.device
    watch = Stopwatch(device) if request.profile else None
    size = batch if request.max_batch_size is None else min(request.max_batch_size, batch)
    outcomes: list[Outcome] = []

    def parts(bar: Any) -> Tensor:
        """The samples of all parts of the batch."""

        def part(start: int, stop: int) -> None:
            ran_out = stop - start < min(size, batch - start)  # of memory: there are more parts
            if bar is not None and run.planned and ran_out:
                bar.total = bar.n + run.plan.nfe * -(-(batch - start) // (stop - start))
            outcomes.append(complete(job.part(start, stop), request, bar, watch, checkpoint))

        try:
            in_batches(part, batch, size, device)
        except KeyboardInterrupt:
            if not outcomes:
                raise
            done = torch.cat([each.samples for each in outcomes])
            raise InterruptedRunError(result_of(job.part(0, len(done)), outcomes, done)) from None
        return outcomes[0].samples if len(outcomes) == 1 else torch.cat([each.samples for each in outcomes])

    began = time.perf_counter()
    with torch.set_grad_enabled(request.differentiable):
        if request.progress or watch is not None:
            total = run.plan.nfe * -(-batch // size) if run.planned else None
            shown = tqdm(total=total, unit=" calls") if request.progress else contextlib.nullcontext()
            with measured(request.profile, device), shown as bar:
                samples = parts(bar)
        else:
            samples = parts(None)
    report = watch.profile(watch.now() - began) if watch else None
    if report:
        logger.info("profile of %d samples:\n%s", batch, report)
    return result_of(job, outcomes, samples, report) if request.return_result else samples


def result_of(job: Job, outcomes: list[Outcome], samples: Tensor, report: Profile | None = None) -> SamplingResult:
    """The samples with what the longest of the parts took."""
    longest = max(outcomes, key=lambda each: each.nfe)
    return SamplingResult(
        samples=samples,
        keys=job.noise.keys,
        steps=longest.steps,
        nfe=longest.nfe,
        evaluations=longest.evaluations,
        stopped_early=longest.stopped and (longest.saved > 0 or not job.run.planned),
        calls_saved=longest.saved,
        profile=report,
        plan=job.run.plan_through(longest.levels),
        rejected=longest.rejected,
        grid=None if longest.levels is None else TimeGrid(longest.levels),
        white_on_black=job.white_on_black,
    )
