"""The two networks of a pipeline of diffusers as one model: Wan 2.2."""

from __future__ import annotations

from typing import Any

from ...models.experts import Experts
from ...support.errors import ConfigurationError, shown

__all__ = ["experts_of"]


def experts_of(pipe: Any) -> Experts:
    """The model of a pipeline with ``transformer``, ``transformer_2`` and a ``boundary_ratio``, for ``sample``.

    The conditions are keywords of the transformers. ``guidance=ClassifierFree(experts.scale(high=..., low=...))`` has
    the meaning of the pipeline's ``guidance_scale`` and ``guidance_scale_2``. Inside the pipeline itself, every sampler
    of this library runs as a ``PlanScheduler``, and the pipeline switches.

    Args:
        pipe: for example a ``WanPipeline`` of Wan 2.2 A14B.

    Raises:
        ConfigurationError: a pipeline of one network.
    """
    high, low = (getattr(pipe, name, None) for name in ("transformer", "transformer_2"))
    ratio = getattr(getattr(pipe, "config", None), "boundary_ratio", None)
    if high is None or low is None or ratio is None:
        raise ConfigurationError(
            f"{shown(type(pipe).__name__)} has not two transformers and a boundary_ratio",
            where="pipe",
            suggestion="give Experts(high, low, boundary=...) the networks themselves, or sample with the one network",
        )
    scheduler = getattr(pipe, "scheduler", None)
    steps = getattr(getattr(scheduler, "config", None), "num_train_timesteps", None) or 1000
    return Experts(high, low, boundary=float(ratio), time_scale=float(steps))
