"""Self-checks: what the installation computes, measured against what is known exactly, each with its limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, final

import torch

from ..models import DigitsModel
from ..pipeline.pipeline import DiffusionPipeline
from ..plans.plan import SamplingPlan
from ..support.errors import NoiseSamplingError

__all__ = ["Check", "checks", "devices", "versions"]

_SHAPE: Final = (32, 1, 8, 8)
_SAMPLER: Final = "unipc"
_CALLS: Final = 20
#: The median error of this sampler is 0.0032, the same to all digits on every device but for rounding.
_ERROR: Final = 0.004
#: Rounding of float32 over a run.
_ROUNDING: Final = 1e-4
#: Packages that some features need, with the extra that installs them.
_OPTIONAL: Final = {
    "matplotlib": "plot", "plotly": "report", "diffusers": "diffusers", "transformers": "diffusers",
    "fastapi": "playground", "uvicorn": "playground",
}  # fmt: skip
_REQUIRED: Final = ("torch", "numpy", "pydantic", "pyyaml", "safetensors", "tqdm", "typer", "rich")


@final
@dataclass(frozen=True)
class Check:
    """One measurement.

    Attributes:
        name: what is checked.
        measured: the error; infinite where the check raised.
        limit: the largest error that is right.
        problem: what was raised, else empty.
    """

    name: str
    measured: float
    limit: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the limit."""
        return self.measured <= self.limit


def versions() -> dict[str, tuple[str | None, str]]:
    """Every package with its version, None if it is not installed, and the extra that installs it."""
    return {name: (_version(name), extra) for name, extra in {**dict.fromkeys(_REQUIRED, ""), **_OPTIONAL}.items()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def devices() -> list[dict[str, Any]]:
    """The devices that a run can use; "auto" takes the first, unless the model is elsewhere."""
    found: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        found.append(
            {"device": f"cuda:{index}", "name": about.name, "memory_gib": round(about.total_memory / 2**30, 1)}
        )
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU", "memory_gib": None})
    found.append({"device": "cpu", "name": f"{torch.get_num_threads()} threads", "memory_gib": None})
    return found


def checks(device: str = "auto") -> Iterator[Check]:
    """Run every check, one by one.

    Args:
        device: as for ``sample``.
    """
    pipeline = DiffusionPipeline(None, _SAMPLER)
    model = DigitsModel(pipeline.scheduler)

    def run(**how: Any) -> torch.Tensor:
        shape = how.pop("shape", _SHAPE)
        samples: torch.Tensor = pipeline.sample(
            model, shape, _CALLS, **{"seed": 0, "device": device, "plan": pipeline.plan(_CALLS), **how}
        )
        return samples.cpu().double()

    def against_exact() -> float:
        from ..comparison import compare

        found = compare([pipeline], nfe=_CALLS, shape=_SHAPE, device=device)
        return float(next(iter(found.cells.values())).median)

    def saved() -> float:
        plan = pipeline.plan(_CALLS)
        again = SamplingPlan.from_dict(plan.to_dict())
        return float(again.content_hash != plan.content_hash)

    def largest(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).abs().max())

    yield _check(f"{_SAMPLER}, {_CALLS} calls, against the exact solution (median)", against_exact, _ERROR)
    yield _check("samples alone and in a batch", lambda: largest(run()[:4], run(shape=(4, *_SHAPE[1:]))), _ROUNDING)
    yield _check("the same seed on this device and the CPU", lambda: largest(run(), run(device="cpu")), _ROUNDING)
    yield _check("the same seed twice", lambda: largest(run(), run()), 0.0)
    yield _check("a plan saved and loaded", saved, 0.0)


def _check(name: str, measure: Callable[[], float], limit: float) -> Check:
    try:
        return Check(name, measure(), limit)
    except NoiseSamplingError as error:
        return Check(name, float("inf"), limit, str(error))
