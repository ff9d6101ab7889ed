"""From the keywords of ``submit`` to a request that is ready to run; every check happens here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, final

from ..config.keyword_advice import refuse_unknown
from ..guidance.evaluate import Memory
from ..pipeline.pipeline import DiffusionPipeline
from ..pipeline.prepare import embedded_model, prepare
from ..pipeline.request import Request
from ..pipeline.resume import continued
from ..pipeline.stream import resumed
from ..running.loop import PlannedRun, RowState
from ..schedules.path import NoisePath
from ..support.argument_checks import checked_flag, checked_number
from ..support.errors import ConfigurationError, shown
from .metrics import Meter
from .ticket import Ticket

__all__ = ["Intake", "checked_seconds"]

#: Embedded models that are kept for further requests.
_MOST_EMBEDDED: Final = 32
#: Keywords of ``sample`` that a shared call does not have, and why.
_REFUSED: Final = {
    "profile": "the time of a shared model call belongs to several requests; read batcher.metrics()",
    "differentiable": "requests of other owners share the model's calls; call pipeline.sample",
    "progress": "requests advance together; read handle.progress, or submit with stream=True",
    "max_batch_size": "it is the batcher's own; give it to Batcher",
    "checkpoint": "close(finish=False) hands a request back with its states; call pipeline.sample for a file",
    "every": "it belongs to checkpoint; call pipeline.sample",
}
_OWN: Final = ("pipeline", "priority", "deadline", "stream")


@final
@dataclass(frozen=True)
class Intake:
    """What a batcher serves, and how its requests are prepared; thread-safe.

    Attributes:
        pipeline: of requests that bring none.
        model: of requests that bring none; None: the pipeline's, or the embedded one.
        deadline: of requests that bring none, in seconds.
    """

    pipeline: DiffusionPipeline
    model: Callable[..., Any] | None
    deadline: float | None
    _embedded: list[tuple[NoisePath, Callable[..., Any]]] = field(default_factory=list)
    _making: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, served: Any, model: Callable[..., Any] | None, deadline: float | None) -> Intake:
        """The intake for what ``Batcher`` is given.

        Raises:
            ConfigurationError: neither a pipeline nor a model, or two models.
        """
        if isinstance(served, DiffusionPipeline):
            return cls(served, model, deadline)
        if not callable(served) or isinstance(served, type):
            raise ConfigurationError(f"got {shown(served)}", where="served", suggestion="give a pipeline or a model")
        if model is not None:
            raise ConfigurationError("two models are given", where="model", suggestion="give one of them")
        return cls(DiffusionPipeline(), served, deadline)

    def ticket(self, arguments: Mapping[str, Any], meter: Meter) -> Ticket:
        """The request with these keywords of ``submit``.

        Raises:
            ConfigurationError: a keyword that is unknown, or that cannot work.
        """
        own = {name: arguments[name] for name in _OWN if name in arguments}
        given = {name: value for name, value in arguments.items() if name not in own}
        known = [each.name for each in fields(Request)]
        refuse_unknown([name for name in given if name not in known], [*known, *_OWN])
        for name, why in _REFUSED.items():
            if given.get(name):
                raise ConfigurationError(
                    "is not for requests of a batcher", where=name, why=why, suggestion="leave it out"
                )
        pipeline = own.get("pipeline") or self.pipeline
        if not isinstance(pipeline, DiffusionPipeline):
            raise ConfigurationError(f"got {shown(pipeline)}", where="pipeline", suggestion="give a DiffusionPipeline")
        if given.get("model") is None:
            given["model"] = self._own_model(pipeline)
        priority = checked_number(own.get("priority", 0.0), "priority")
        deadline = checked_seconds(own.get("deadline")) or self.deadline
        stream = checked_flag(own.get("stream", False), "stream")
        request, saved = Request(**given), None
        if request.resume is not None:
            request, saved = continued(pipeline._setup, request)
        job = prepare(pipeline._setup, request, own_model=pipeline.has_own_model)
        start: RowState | None = None
        memory: Memory | None = None
        if saved is not None:
            job, start, memory = resumed(job, saved)
        if not isinstance(job.run, PlannedRun) and any(row is not None and row.tracks for row in job.guidance.rows):
            raise ConfigurationError(
                "differentiates the model, in a run with adaptive steps",
                where="guidance",
                why="such a run makes its model calls through the batch, which records no gradients",
                suggestion="take a sampler with a plan, or call pipeline.sample",
            )
        return Ticket(
            job, request, meter, start=start, memory=memory, priority=priority, deadline=deadline, stream=stream
        )  # fmt: skip

    def _own_model(self, pipeline: DiffusionPipeline) -> Callable[..., Any] | None:
        """The model of a request that brings none; requests on equal paths get the same embedded one."""
        if self.model is not None or pipeline.has_own_model:
            return self.model
        path = pipeline.scheduler
        with self._making:
            known = next((model for each, model in self._embedded if each == path), None)
            if known is None:
                known = embedded_model(path)
                self._embedded.append((path, known))
                del self._embedded[:-_MOST_EMBEDDED]
            return known


def checked_seconds(seconds: Any, where: str = "deadline") -> float | None:
    """A positive number of seconds, or None.

    Raises:
        ConfigurationError: another value.
    """
    if seconds is None:
        return None
    checked = checked_number(seconds, where)
    if not checked > 0.0:
        raise ConfigurationError(f"got {shown(seconds)}", where=where, suggestion="give a positive number of seconds")
    return checked
