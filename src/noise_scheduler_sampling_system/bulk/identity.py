"""What makes two sets the same: what a resumed run must share with the run that began."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch

from ..pipeline.finite_samples import job_of
from ..running.digests import OTHER_PROCESSOR, digest
from ..running.model_fingerprint import fingerprint
from ..support.errors import ConfigurationError
from ..support.version import __version__
from .worker import Task, arguments_of

__all__ = ["facts_of_run", "identity_of", "refuse_other_set", "versions"]

#: Arguments of a run that the plan holds, or that do not change samples.
_ELSEWHERE: Final = ("num_inference_steps", "plan", "timesteps", "grid", "device", "max_batch_size", "noise_ahead")
#: What a user calls the parts of an identity.
_WORDS: Final[Mapping[str, str]] = {
    "plan": "the sampler's plan",
    "pipeline": "the noise schedule or the sampler",
    "run": "the guidance, the null condition, the dtype or the kind of noise",
}


def facts_of_run(task: Task, model: Any, count: int) -> tuple[str, dict[str, Any]]:
    """The hash of the plan, and what identifies the run; every argument of it is checked.

    Args:
        task: its facts have no plan hash yet.
        model: the model itself.
        count: samples of the first batch.

    Raises:
        NoiseSamplingError: an argument that cannot work, as ``sample`` raises it.
    """
    indices = np.arange(count, dtype=np.int64)
    job = job_of(task.pipeline, **arguments_of(task, model, indices, task.conditions.rows(indices)))
    plan = job.run.plan.content_hash
    return plan, {"plan": plan, "pipeline": digest(job.settings), "model": job.fingerprint}


def identity_of(task: Task, of_run: Mapping[str, Any], num_samples: int) -> dict[str, Any]:
    """What a run must share with the one that began the set."""
    run = {name: value for name, value in task.run.items() if name not in _ELSEWHERE}
    return {
        **of_run,
        "seed": task.facts.seed,
        "shape": None if task.shape is None else list(task.shape),
        "format": task.format,
        "condition": task.conditions.identity(num_samples),
        "decode": None if task.decode is None else fingerprint(task.decode),
        "run": digest(run),
    }


def refuse_other_set(there: Mapping[str, Any], here: Mapping[str, Any], folder: str) -> None:
    """Raise where a run would mix other samples into a set.

    Args:
        there: the identity of the set.
        here: that of the run.
        folder: of the set.

    Raises:
        ConfigurationError: they differ; the message names the parts.
    """
    other = [name for name in here if there.get(name) != here[name]]
    if not other:
        return
    first = other[0]
    raise ConfigurationError(
        f"the set in {folder} has another {', '.join(other)}",
        where=first,
        why=f"it was begun with {_told(there.get(first))}; this is {_told(here[first])}"
        + "".join(f"; {name} is {_WORDS[name]}" for name in other if name in _WORDS),
        suggestion="go on with the arguments that it was begun with, or name a new folder"
        + (OTHER_PROCESSOR if "plan" in other else ""),
    )


def _told(value: Any) -> str:
    return str(value) if not isinstance(value, str) or len(value) <= 100 else f"{value[:100]}..."


def versions() -> dict[str, str]:
    """The versions of what makes the samples."""
    return {
        "noise_scheduler_sampling_system": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
