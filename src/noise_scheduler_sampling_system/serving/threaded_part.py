"""A part whose steps depend on the model: its loop runs in a thread of its own, and others make its model calls."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import Any, final

import torch
from torch import Tensor

from ..guidance.evaluate import Caller, Memory
from ..pipeline.ending import Ending, Outcome
from ..pipeline.job import Job
from ..pipeline.network_calls import by_row
from ..pipeline.request import Request
from ..pipeline.step_view import view
from ..plans.base import Plan
from ..running.loop import Model
from ..running.model_adapter import ModelAdapter
from ..running.results import RunState
from .parts import OnStep, Part
from .questions import Asked, Question, sharing_key

__all__ = ["ThreadedPart"]


class _AbandonedError(Exception):
    """The part is not needed any more."""


@final
class ThreadedPart(Part):
    """Samples whose run is not planned.

    Only one of the two threads works at a time: the run's, until it needs a model call, and then the batcher's.

    Args:
        job: of the samples.
        request: its callback and its early stopping.
        on_step: is told each step that ended.
        inspects: whether ``on_step`` reads views of the steps.
    """

    def __init__(self, job: Job, request: Request, on_step: OnStep, *, inspects: bool = False) -> None:
        super().__init__(job)
        self._memory: Memory = {}
        self._ending = Ending.of(job, request, self._memory)
        self._inspects = inspects or self._ending.inspects
        self._on_step = on_step
        self._asked: SimpleQueue[Question | Outcome | Exception] = SimpleQueue()
        self._answers: SimpleQueue[Tensor | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def questions(self) -> list[Question]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="batcher-adaptive", daemon=True)
            self._thread.start()
        said = self._asked.get()
        if isinstance(said, Question):
            return [said]
        self._thread.join()
        if isinstance(said, Exception):
            raise said
        self.outcome = said
        return []

    def answer(self, questions: Sequence[Question], outputs: Sequence[Tensor]) -> None:
        self._answers.put(outputs[0])

    def state(self) -> RunState | None:
        return None  # it would not hold the length of the next step

    def abandon(self) -> None:
        if self._thread is not None:
            self._answers.put(None)

    @torch.no_grad()
    def _work(self) -> None:
        job, memory = self.job, self._memory
        try:
            rows = job.run.steps(
                job.model_maker(memory, callers=self._caller),
                job.first_state(),
                job.noise,
                memory,
                inspect=self._inspects,
                copy_outputs=True,
                check_every_row=True,
            )
            for reached in rows:
                self._on_step(self, lambda now=reached: view(job, now, memory))  # type: ignore[misc]
                if self._ending.is_due(reached):
                    break
            self._asked.put(self._ending.outcome(reached))
        except _AbandonedError:
            pass
        except Exception as error:
            self._asked.put(error)

    def _caller(self, plan: Plan) -> Caller:
        """How the run calls networks at the rows of a plan: it asks, and waits for the answer."""
        calls, batch = self.job.calls, self.job.batch
        inputs = calls.inputs(plan)

        def caller(adapter: ModelAdapter, condition: Mapping[str, Any], copies: int) -> Model:
            return by_row(adapter, plan, lambda network: of_network(network, condition, copies))

        def of_network(adapter: ModelAdapter, condition: Mapping[str, Any], copies: int) -> Model:
            times, dtype = inputs.times(copies * batch), calls.dtype_of(adapter)
            asked: Asked | None = None

            def call(x: Tensor, row: int) -> Tensor:
                nonlocal asked
                x = inputs.state(x, row, dtype)
                x = x if copies == 1 else torch.cat([x] * copies)
                asked = asked or Asked(
                    adapter, condition, sharing_key(adapter, condition, x.shape[1:], dtype, x.device)
                )
                self._asked.put(Question(asked, x, times[row], plan, row))
                output = self._answers.get()
                if output is None:
                    raise _AbandonedError
                return output

            return call

        return caller
