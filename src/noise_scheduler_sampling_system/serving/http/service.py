"""The model that is served: a request's fields to a handle of the batcher, and results to bytes."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import secrets
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor

from ...integrations.named_models import NamedModel
from ...pipeline.pipeline import DiffusionPipeline
from ...plans.plan import SamplingPlan
from ...running.results import RunState, SamplingResult
from ...support.errors import ConfigurationError, FileError, NoiseSamplingError, SeveralMistakesError, StoppedError
from ...support.figures import enlarged, mosaic, png_of
from ..batcher import Batcher
from ..handle import RequestHandle
from .body import SampleBody
from .client_options import refuse_options
from .limits import Limits

__all__ = ["Service", "numbers_of", "safetensors_of"]

logger = logging.getLogger(__name__)

#: The most pipelines that are kept for further requests.
_KEPT: Final = 32
#: Arguments of the library and the fields of a body that they come from.
_FIELDS: Final = {
    "method": "sampler", "timestep_spacing": "spacing", "prompt": "prompts", "negative_prompt": "negative_prompts",
    "class_labels": "labels",
}  # fmt: skip
#: The width of a preview, and of a picture of small images.
_WIDTH: Final = 320


@final
class Service:
    """A named model and its batcher.

    Args:
        model: what is served.
        limits: of requests.
        method: the sampler of requests that name none.
        preset, settings: of the pipelines, as for :meth:`NamedModel.pipeline`.
        states: the folder that the states of stopped requests are written to; None: they are dropped.

    Raises:
        ConfigurationError: settings that do not go with the model.
    """

    def __init__(
        self,
        model: NamedModel,
        limits: Limits,
        *,
        method: str | None = None,
        preset: str | None = None,
        settings: Mapping[str, Any] | None = None,
        states: Path | None = None,
    ) -> None:
        self.model, self.limits, self._states = model, limits, states
        self._method, self._preset, self._settings = method, preset, dict(settings or {})
        self._pipelines: dict[str, DiffusionPipeline] = {}
        self._making = threading.Lock()
        self._encoding = threading.Lock()  # encoders of a pipeline of diffusers are not thread-safe
        default = self._pipeline(SampleBody())
        self.batcher = Batcher(default, limits.batch, max_queue=limits.queue, deadline=limits.seconds)

    def submit(self, body: SampleBody) -> RequestHandle:
        """Queue what a client wants.

        Raises:
            NoiseSamplingError: it cannot run, or the queue is full.
        """
        pipeline = self._pipeline(body)
        arguments: dict[str, Any] = {
            "pipeline": pipeline,
            "return_result": True,
            "priority": body.priority,
            "deadline": None if body.deadline is None else min(body.deadline, self.limits.seconds),
            "stream": body.stream,
            **self._inputs(pipeline, body),
        }
        self._refuse_large(arguments["shape"])
        if body.resume is not None:
            for name in ("plan", "seed", "first_index", "shape"):
                if name in body.model_fields_set:
                    raise ConfigurationError("is part of the state to resume", where=name, suggestion="leave it out")
            arguments["resume"] = self._state(body.resume)
            del arguments["shape"]
            return self.batcher.submit(**arguments)
        arguments["seed"] = secrets.randbits(63) if body.seed is None else body.seed
        arguments["first_index"] = body.first_index
        if body.plan is not None:
            arguments["plan"] = self._plan(body.plan)
        else:
            self._refuse_calls(pipeline.sampler.calls_of(body.steps))
        return self.batcher.submit(**arguments)

    def pictures(self, samples: Tensor, *, width: int = _WIDTH) -> bytes:
        """Samples as one PNG; small images are enlarged.

        Raises:
            ConfigurationError: they are not images, or matplotlib is missing.
        """
        with self._encoding:  # decoding uses the pipeline's network, too
            images = self.model.pictures(self._pipeline(SampleBody()), samples)
        columns = math.ceil(math.sqrt(len(images)))
        return png_of(enlarged(mosaic(images, columns, paper=self.model.white_on_black), width))

    def hand_back(self, error: StoppedError) -> list[str]:
        """Write the states of a stopped request; their names, for ``resume``. None where one cannot be written."""
        if self._states is None:
            return []
        request = uuid.uuid4().hex
        files = [self._states / f"{request}-{i}.safetensors" for i in range(len(error.states))]
        try:
            for file, state in zip(files, error.states, strict=True):
                assert isinstance(state, RunState)
                state.save(file)
        except FileError:
            logger.exception("a state cannot be written: its request must start anew")
            for file in files:
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
            return []
        return [file.stem for file in files]

    def _pipeline(self, body: SampleBody) -> DiffusionPipeline:
        method = self._method if body.sampler is None else body.sampler
        settings = self._settings | ({} if body.spacing is None else {"timestep_spacing": body.spacing})
        key = json.dumps([method, body.spacing, sorted(body.options.items())])
        with self._making:
            made = self._pipelines.pop(key, None)
            if made is None:
                with _as_fields():
                    refuse_options(method or (None if self.model.pipe is not None else "ddim"), body.options)
                    made = self.model.pipeline(
                        preset=self._preset, method=method, settings=settings, options=dict(body.options)
                    )
            self._pipelines[key] = made  # the last used is the last
            while len(self._pipelines) > _KEPT:
                del self._pipelines[next(iter(self._pipelines))]
            return made

    def _inputs(self, pipeline: DiffusionPipeline, body: SampleBody) -> dict[str, Any]:
        """The model, its conditions and the shape of the batch."""
        labels, prompts, negatives = (
            _listed(each, body.num_samples) for each in (body.labels, body.prompts, body.negative_prompts)
        )
        if negatives is not None and prompts is None:
            raise ConfigurationError("is given without prompts", where="negative_prompts", suggestion="give prompts")
        if negatives is not None and prompts is not None and len(negatives) != len(prompts):
            negatives = negatives[:1] * len(prompts)
        if self.model.pipe is None and body.guidance_scale is not None and labels is None:
            raise ConfigurationError(
                "guidance needs a condition", where="guidance_scale", suggestion="give labels, or leave it out"
            )
        classes = self.model.num_classes
        if classes is not None and labels is not None and max(labels) >= classes:
            raise ConfigurationError(
                f"holds {max(labels)}", where="labels", suggestion=f"the model has the labels 0 to {classes - 1}"
            )
        with self._encoding, _as_fields():
            return self.model.arguments(
                pipeline, batch=body.num_samples, shape=body.shape, labels=labels, prompt=prompts,
                negative_prompt=negatives, guidance_scale=body.guidance_scale,
                steps=body.steps if body.plan is None and body.resume is None else None,
            )  # fmt: skip

    def _refuse_large(self, shape: Sequence[int]) -> None:
        if math.prod(shape) > self.limits.numbers:
            raise ConfigurationError(
                f"{math.prod(shape)} numbers in the samples, and this server allows {self.limits.numbers}",
                where="num_samples",
                suggestion="give less",
            )

    def _plan(self, data: Mapping[str, Any]) -> SamplingPlan:
        try:
            plan = SamplingPlan.from_dict(data)
        except NoiseSamplingError as error:
            raise ConfigurationError(
                error.what, where=f"plan: {error.where}", why=error.why, suggestion=error.suggestion
            ) from None
        if len(plan) > self.limits.calls:
            raise ConfigurationError(
                f"has {len(plan)} rows, and this server allows {self.limits.calls}",
                where="plan",
                suggestion="give a shorter one",
            )
        return plan

    def _refuse_calls(self, calls: int) -> None:
        """Raise before the plan is written: that takes longer than the run's deadline where it is very long."""
        if calls > self.limits.calls:
            raise ConfigurationError(
                f"{calls} model calls, and this server allows {self.limits.calls}",
                where="steps",
                suggestion="take fewer steps, or a sampler with fewer calls a step",
            )

    def _state(self, name: str) -> Path:
        """The file of a state; its name has only digits, letters and a hyphen."""
        if self._states is None or not (file := self._states / f"{name}.safetensors").is_file():
            raise FileError(
                "is not known here", where=f"resume {name}", suggestion="give a name that this server handed back"
            )
        return file


@contextlib.contextmanager
def _as_fields() -> Iterator[None]:
    """Errors under the names of the fields of a body."""
    try:
        yield
    except SeveralMistakesError:
        raise
    except ConfigurationError as error:
        where = _FIELDS.get(error.where, error.where)
        raise ConfigurationError(error.what, where=where, why=error.why, suggestion=error.suggestion) from None


def _listed(value: Any, copies: int) -> list[Any] | None:
    """One entry for each sample."""
    if value is None:
        return None
    return [each for each in (value if isinstance(value, list) else [value]) for _ in range(copies)]


def safetensors_of(result: SamplingResult) -> bytes:
    """Samples and noise keys as a safetensors file."""
    from safetensors.torch import save

    keys = torch.tensor([[seed - (1 << 64 if seed >= 1 << 63 else 0), index] for seed, index in result.keys])
    data: bytes = save({"samples": result.samples.cpu().contiguous(), "keys": keys})
    return data


def numbers_of(samples: Tensor) -> list[Any]:
    """Samples as nested lists of numbers, which float32 holds exactly."""
    listed: list[Any] = samples.to(torch.float64).tolist()
    return listed
