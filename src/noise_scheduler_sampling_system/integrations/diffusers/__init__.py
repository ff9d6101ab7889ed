"""diffusers: its schedulers as our settings, and our samplers in its pipelines. Imported when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .experts import experts_of
from .pipelines import Backbone, DiffusersPipeline, Prompt, WrappedNetwork, register_backbone
from .reading import Preconditioning, Reading, config_of, read
from .reading.diffusers_classes import require_diffusers

if TYPE_CHECKING:
    from .scheduler import PlanScheduler, PlanSchedulerOutput

__all__ = [
    "Backbone", "DiffusersPipeline", "PlanScheduler", "PlanSchedulerOutput", "Preconditioning", "Prompt", "Reading",
    "WrappedNetwork", "config_of", "experts_of", "read", "register_backbone",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("PlanScheduler", "PlanSchedulerOutput"):
        require_diffusers()  # whose classes they derive from
        from . import scheduler

        return getattr(scheduler, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
