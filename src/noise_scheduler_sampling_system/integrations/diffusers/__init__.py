"""diffusers: its schedulers as our settings, and our samplers in its pipelines. Imported when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .reading import Preconditioning, Reading, read

if TYPE_CHECKING:
    from .scheduler import PlanScheduler, PlanSchedulerOutput

__all__ = ["PlanScheduler", "PlanSchedulerOutput", "Preconditioning", "Reading", "read"]


def __getattr__(name: str) -> Any:
    if name in ("PlanScheduler", "PlanSchedulerOutput"):  # which derive from its classes
        from . import scheduler

        return getattr(scheduler, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
