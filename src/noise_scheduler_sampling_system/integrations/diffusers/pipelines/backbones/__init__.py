"""Pipelines of diffusers as parts: one class a family, by what its pipelines are called."""

from __future__ import annotations

from typing import Any

from .....support.errors import ConfigurationError
from .base import Backbone, Prompt
from .transformers import DiT, Flux, PixArt, StableDiffusion3
from .unets import StableDiffusion, StableDiffusionXL, Unconditional

__all__ = ["Backbone", "Prompt", "backbone_of"]

_FAMILIES: dict[str, type[Backbone]] = {
    **dict.fromkeys(
        ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"), StableDiffusion
    ),
    **dict.fromkeys(
        ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
        StableDiffusionXL,
    ),
    **dict.fromkeys(
        ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"),
        StableDiffusion3,
    ),
    **dict.fromkeys(("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"), Flux),
    **dict.fromkeys(("PixArtAlphaPipeline", "PixArtSigmaPipeline"), PixArt),
    **dict.fromkeys(("DDPMPipeline", "DDIMPipeline"), Unconditional),
    "DiTPipeline": DiT,
}


def backbone_of(pipe: Any) -> Backbone:
    """The parts of a pipeline.

    Raises:
        ConfigurationError: a pipeline that is not known here.
    """
    for cls in type(pipe).__mro__:
        if cls.__name__ in _FAMILIES:
            return _FAMILIES[cls.__name__](pipe)
    raise ConfigurationError(
        f"{type(pipe).__name__} is not known here",
        where="from_diffusers",
        why=f"known are {', '.join(_FAMILIES)}",
        suggestion="run our sampler inside it: pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, "
        "method=...), or call sample(model=...) with its network and condition",
    )
