"""Pipelines around a U-Net."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from .....support.errors import ConfigurationError
from .base import Backbone, Conditions, Prompt, WrappedNetwork, register_backbone

__all__ = ["StableDiffusion", "StableDiffusionXL", "Unconditional"]


@final
class _InpaintingNetwork(WrappedNetwork):
    """A network for inpainting, which sees mask and masked image as further channels of x."""

    def forward(self, x: Tensor, t: Tensor, *, mask: Tensor, masked: Tensor, **conditions: Any) -> Tensor:
        given = torch.cat([x, mask.to(x.dtype), masked.to(x.dtype)], dim=1)
        output: Tensor = self.inner(given, t, **conditions, return_dict=False)[0]
        return output


class _TextUNet(Backbone):
    """A latent model with a conditional U-Net."""

    @property
    def network(self) -> torch.nn.Module:
        unet: torch.nn.Module = self.pipe.unet
        return _InpaintingNetwork(unet) if self._sees_mask else unet

    @property
    def channels(self) -> int:
        return int(self.pipe.vae.config.latent_channels)

    @property
    def _sees_mask(self) -> bool:
        taken = int(self.pipe.unet.config.in_channels)
        if taken not in (self.channels, 2 * self.channels + 1):
            raise ConfigurationError(
                f"the network takes {taken} channels, x has {self.channels}",
                where="from_diffusers",
                suggestion="use PlanScheduler inside its own pipeline",
            )
        return taken != self.channels

    def inpainting(self, image: Any, mask: Tensor, prompt: Prompt) -> dict[str, Tensor]:
        if not self._sees_mask:
            return {}
        masked = self.latents(self.pixels(image, prompt) * (mask < 0.5))
        return {"mask": torch.nn.functional.interpolate(mask, size=masked.shape[-2:]), "masked": masked}


@final
@register_backbone("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")
class StableDiffusion(_TextUNet):
    """Stable Diffusion 1 and 2."""

    default_scale = 7.5

    def conditions(self, prompt: Prompt) -> Conditions:
        own, null = self.pipe.encode_prompt(
            prompt.text,
            self.device,
            prompt.images_per_prompt,
            prompt.with_null,
            negative_prompt=prompt.negative,
            **prompt.encode_options,
        )
        return {"encoder_hidden_states": own}, {"encoder_hidden_states": null} if prompt.with_null else None


@final
@register_backbone("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline")
class StableDiffusionXL(_TextUNet):
    """Stable Diffusion XL. Its network is told the image's size, and that nothing was cropped."""

    default_scale = 5.0

    def conditions(self, prompt: Prompt) -> Conditions:
        own, null, pooled, null_pooled = self.pipe.encode_prompt(
            prompt.text,
            device=self.device,
            num_images_per_prompt=prompt.images_per_prompt,
            do_classifier_free_guidance=prompt.with_null,
            negative_prompt=prompt.negative,
            **prompt.encode_options,
        )
        size = [prompt.height, prompt.width]
        if getattr(self.pipe.config, "requires_aesthetics_score", False):
            raise ConfigurationError(
                "the network is told an aesthetic score (an XL refiner)",
                where="from_diffusers",
                suggestion="use PlanScheduler inside its own pipeline",
            )
        ids = torch.tensor([[*size, 0, 0, *size]], dtype=own.dtype, device=self.device).expand(len(own), -1)

        def made(text: Tensor, pooled: Tensor) -> dict[str, Any]:
            return {"encoder_hidden_states": text, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}

        return made(own, pooled), made(null, null_pooled) if prompt.with_null else None


@final
@register_backbone("DDPMPipeline", "DDIMPipeline")
class Unconditional(Backbone):
    """A U-Net on pixels, with classes or without."""

    conditioned_on = "class_labels"
    requires_condition = False
    has_null_branch = False

    @property
    def pixels_per_entry(self) -> int:
        return 1

    @property
    def pixel_multiple(self) -> int:
        halvings = len(self.pipe.unet.config.down_block_types) - 1  # every block but the last halves the size
        return int(2**halvings)

    def conditions(self, prompt: Prompt) -> Conditions:
        if prompt.labels is None:
            return {}, None
        if getattr(self.pipe.unet, "class_embedding", None) is None:
            raise ConfigurationError("the network has no classes", where="class_labels", suggestion="leave it out")
        return {"class_labels": prompt.labels.to(self.device).repeat_interleave(prompt.images_per_prompt)}, None

    def latents(self, pixels: Tensor) -> Tensor:
        return pixels.float()

    def decode(self, x: Tensor) -> Tensor:
        return x
