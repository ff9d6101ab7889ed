"""Answers: results, steps and errors as bytes with a status."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

from ...running.results import SamplingResult, SamplingStep
from ...support.errors import (
    ConfigurationError,
    DeadlineError,
    FileError,
    NoiseSamplingError,
    OutOfMemoryError,
    RefusedError,
    SeveralMistakesError,
    StoppedError,
    cut,
)
from .service import Service, numbers_of, safetensors_of

__all__ = ["Reply", "error_reply", "event", "result_reply", "step_fields"]

_JSON: Final = "application/json"
#: Seconds after which a client whose request was refused may try again.
_RETRY: Final = "1"


@final
@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        status: of HTTP.
        content: the body.
        kind: its media type.
        headers: further ones.
    """

    status: int
    content: bytes
    kind: str = _JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
        """Plain data as JSON."""
        return cls(status, json.dumps(data, allow_nan=False).encode(), headers=headers or {})

    @property
    def as_data(self) -> Any:
        """The body as plain data, for an event: JSON, or the bytes in base 64."""
        if self.kind == _JSON:
            return json.loads(self.content)
        return {"media_type": self.kind, "base64": base64.b64encode(self.content).decode(), **self.headers}


def result_reply(service: Service, result: SamplingResult, form: str) -> Reply:
    """The samples of a finished request."""
    seed = result.keys[0][0]
    about = {
        "seed": seed,
        "first_index": result.keys[0][1],
        "steps": result.steps,
        "nfe": result.nfe,
        "sampler": result.plan.sampler,
        "plan": result.plan.fingerprint,
        "shape": list(result.samples.shape),
    }
    headers = {f"x-{name.replace('_', '-')}": str(value) for name, value in about.items()}
    if form == "png":
        return Reply(200, service.pictures(result.samples), "image/png", headers)
    if form == "safetensors":
        return Reply(200, safetensors_of(result), "application/octet-stream", headers)
    return Reply.of({**about, "samples": numbers_of(result.samples)})


def step_fields(service: Service, step: SamplingStep, previews: bool) -> dict[str, Any]:
    """A step as plain data."""
    fields: dict[str, Any] = {
        "index": step.index,
        "steps": step.state.plan.steps,
        "first_sample": step.first_sample,
        "samples": len(step.x),
        "t": step.t if math.isfinite(step.t) else None,
        "sigma": step.sigma,
        "nfe": step.nfe,
    }
    if previews:
        fields["preview"] = base64.b64encode(service.pictures(step.pred_original_sample)).decode()
    return fields


def event(name: str, data: Any) -> bytes:
    """A server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n".encode()


def error_reply(error: BaseException, *, closing: bool, resume: list[str] | None = None) -> Reply:
    """An error as JSON, with the status that says whose it is.

    Args:
        error: any error of a request.
        closing: whether the server takes no more requests.
        resume: the names of states to go on from.
    """
    if not isinstance(error, NoiseSamplingError):  # of the user's model; its text may hold anything
        fields = {
            "category": "internal",
            "what": f"the model raised {type(error).__name__}",
            "where": "model",
            "why": cut(error),
            "suggestion": "the server's log has the traceback",
        }
        return Reply.of({"error": fields}, 500)
    status = _status(error, closing)
    fields = {
        "category": error.category, "what": error.what, "where": error.where, "why": error.why,
        "suggestion": error.suggestion,
    }  # fmt: skip
    data: dict[str, Any] = {"error": fields}
    if isinstance(error, SeveralMistakesError):
        data["all"] = [str(each) for each in error.errors]
    if resume is not None:
        fields["why"] = "the server stops" if closing else fields["why"]
        fields["suggestion"] = (
            'send it again with each of these names as "resume"; a name holds some of the samples, in this order'
            if resume else "send it again"
        )  # fmt: skip
        data["resume"] = resume
    return Reply.of(data, status, {"retry-after": _RETRY} if status in (429, 503) else {})


def _status(error: NoiseSamplingError, closing: bool) -> int:
    if isinstance(error, RefusedError):
        return 503 if closing else 429
    if isinstance(error, FileError):
        return 400 if error.where == "body" else 422
    if isinstance(error, StoppedError):
        return 503
    if isinstance(error, DeadlineError):
        return 408 if error.where == "body" else 504
    if isinstance(error, OutOfMemoryError):
        return 507
    return 422 if isinstance(error, ConfigurationError) else 500
