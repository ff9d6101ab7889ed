"""The keywords of ``Batcher.submit`` as types."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from ..pipeline.keyword_types import RunKeywords
from ..pipeline.pipeline import DiffusionPipeline
from ..running.results import RunState

__all__ = ["SubmitKeywords"]


class SubmitKeywords(RunKeywords, total=False):
    """Keywords of :meth:`Batcher.submit`."""

    model: Callable[..., Any] | None
    shape: Sequence[int] | None
    num_inference_steps: int
    guidance_scale: float
    classifier_free_guidance: bool
    return_result: bool
    resume: RunState | str | os.PathLike[str] | None
    pipeline: DiffusionPipeline | None
    priority: float
    deadline: float | None
    stream: bool
