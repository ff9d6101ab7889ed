"""Families of images whose transformers see a sequence, and whose levels are those of flow matching."""

from __future__ import annotations

from .base import Backbone

__all__ = ["FlowImages", "TokenImages"]


class FlowImages(Backbone):
    """A family of flow matching, whose pipelines choose the size of the images by themselves."""

    even_sigmas = True

    @property
    def default_size(self) -> int:
        return int(self.pipe.default_sample_size) * int(self.pipe.vae_scale_factor)


class TokenImages(FlowImages):
    """A family whose network sees 2×2 entries of x as one token."""

    @property
    def channels(self) -> int:
        return super().channels // 4

    @property
    def pixel_multiple(self) -> int:
        return 2 * self.pixels_per_entry
