"""Pipelines around a U-Net."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from .....support.errors import ConfigurationError
from .base import Backbone, Condition, Prompt, Wrapped

__all__ = ["StableDiffusion", "StableDiffusionXL", "Unconditional"]


class _WithChannels(Wrapped):
    """A network made for inpainting, given mask and masked image beside x."""

    def forward(self, x: Tensor, t: Tensor, *, mask: Tensor, masked: Tensor, **condition: Any) -> Tensor:
        given = torch.cat([x, mask.to(x.dtype), masked.to(x.dtype)], dim=1)
        output: Tensor = self.inner(given, t, **condition, return_dict=False)[0]
        return output


class _TextUNet(Backbone):
    """A latent model with a conditional U-Net."""

    @property
    def network(self) -> torch.nn.Module:
        unet: torch.nn.Module = self.pipe.unet
        return _WithChannels(unet) if self._sees_mask else unet

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
class StableDiffusion(_TextUNet):
    """Stable Diffusion 1 and 2."""

    scale = 7.5

    def condition(self, prompt: Prompt) -> Condition:
        own, null = self.pipe.encode_prompt(
            prompt.text, self.device, prompt.count, prompt.opposed, negative_prompt=prompt.negative, **prompt.options
        )
        return {"encoder_hidden_states": own}, {"encoder_hidden_states": null} if prompt.opposed else None


@final
class StableDiffusionXL(_TextUNet):
    """Stable Diffusion XL, with the sizes that its network is told: the image's own, not cropped."""

    scale = 5.0

    def condition(self, prompt: Prompt) -> Condition:
        own, null, pooled, null_pooled = self.pipe.encode_prompt(
            prompt.text,
            device=self.device,
            num_images_per_prompt=prompt.count,
            do_classifier_free_guidance=prompt.opposed,
            negative_prompt=prompt.negative,
            **prompt.options,
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

        return made(own, pooled), made(null, null_pooled) if prompt.opposed else None


@final
class Unconditional(Backbone):
    """A U-Net on pixels, with classes or without."""

    takes = "class_labels"
    requires = False
    opposes = False

    @property
    def network(self) -> torch.nn.Module:
        unet: torch.nn.Module = self.pipe.unet
        return unet

    @property
    def channels(self) -> int:
        return int(self.pipe.unet.config.in_channels)

    @property
    def factor(self) -> int:
        return 1

    @property
    def multiple(self) -> int:
        halvings = len(self.pipe.unet.config.down_block_types) - 1  # by each block but the last
        return int(2**halvings)

    def condition(self, prompt: Prompt) -> Condition:
        if prompt.labels is None:
            return {}, None
        if getattr(self.pipe.unet, "class_embedding", None) is None:
            raise ConfigurationError("the network knows no classes", where="class_labels", suggestion="leave it out")
        return {"class_labels": prompt.labels.to(self.device).repeat_interleave(prompt.count)}, None

    def latents(self, pixels: Tensor) -> Tensor:
        return pixels.float()

    def decode(self, x: Tensor) -> Tensor:
        return x
