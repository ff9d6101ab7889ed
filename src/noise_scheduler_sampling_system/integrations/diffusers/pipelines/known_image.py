"""The image that a run starts from, and the part of it that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from ....support.errors import ConfigurationError
from .backbones import Backbone, Prompt
from .image_request import ImageRequest, refused_by_diffusers

__all__ = ["KnownImage"]

_FORMS = "give a PIL image, an array or a tensor of numbers in [0, 1]"


@final
@dataclass(frozen=True)
class KnownImage:
    """An encoded image.

    Attributes:
        clean: the image as clean x, shape (B, C, height, width).
        drawn_anew: a mask of 0 and 1, 1 where x is drawn anew and the rest is kept; None: nothing is kept.
        conditions: of networks for inpainting.
    """

    clean: Tensor
    drawn_anew: Tensor | None = None
    conditions: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, request: ImageRequest, prompt: Prompt, backbone: Backbone) -> KnownImage | None:
        """The image of a request; None: it does not have one.

        Raises:
            ConfigurationError: an image or a mask that diffusers cannot read, or a wrong number of images.
        """
        if request.image is None:
            return None
        with refused_by_diffusers("image", _FORMS):
            x = backbone.encode(request.image, prompt)
        if prompt.batch % len(x):
            raise ConfigurationError(
                f"{len(x)} images for {prompt.batch} samples", where="image", suggestion="give one, or one a prompt"
            )
        clean = x.repeat_interleave(prompt.batch // len(x), dim=0)
        if request.mask_image is None:
            return cls(clean)
        with refused_by_diffusers("mask_image", _FORMS):
            pixels, mask = backbone.mask(request.mask_image, prompt)
        conditions = backbone.inpainting(request.image, pixels, prompt)
        return cls(clean, mask if request.keep_known else None, conditions)

    def paste(self, x: Tensor) -> Tensor:
        """The result with the kept part of the image, to the last bit."""
        if self.drawn_anew is None:
            return x
        return torch.where(self.drawn_anew.expand_as(x) > 0, x, self.clean.to(x).expand_as(x))
