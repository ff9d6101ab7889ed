"""Pipelines of diffusers behind one interface: a class a family, found by the names of the pipelines' classes.

To add a family, derive from :class:`Backbone` and register it by :func:`register_backbone`.
"""

from __future__ import annotations

from typing import Any

from .....support.errors import ConfigurationError
from . import flow_images, transformers, unets, videos  # noqa: F401  # they register their classes
from .base import BACKBONES, Backbone, Conditions, Prompt, WrappedNetwork, register_backbone

__all__ = ["BACKBONES", "Backbone", "Conditions", "Prompt", "WrappedNetwork", "backbone_of", "register_backbone"]


def backbone_of(pipe: Any) -> Backbone:
    """A pipeline behind the interface of its family.

    Raises:
        ConfigurationError: no registered family has this pipeline.
    """
    for cls in type(pipe).__mro__:
        if cls.__name__ in BACKBONES:
            return BACKBONES.get(cls.__name__)(pipe)
    raise ConfigurationError(
        f"{type(pipe).__name__} is not known here",
        where="from_diffusers",
        why=f"known are {', '.join(BACKBONES)}",
        suggestion="run our sampler inside it: pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, "
        "method=...); call sample(model=...) with its network and condition; or register a Backbone for it",
    )
