"""Pipelines around a transformer."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from .base import Backbone, Conditions, Prompt, WrappedNetwork, register_backbone
from .token_images import TokenImages
from .tokens import from_tokens, places, to_tokens

__all__ = ["DiT", "Flux", "PixArt", "StableDiffusion3"]


@final
@register_backbone("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline")
class StableDiffusion3(Backbone):
    """Stable Diffusion 3 and 3.5."""

    default_scale = 7.0
    max_shift = 1.16

    def conditions(self, prompt: Prompt) -> Conditions:
        own, null, pooled, null_pooled = self.pipe.encode_prompt(
            **{"prompt_2": None, "prompt_3": None, **prompt.encode_options},
            prompt=prompt.text,
            device=self.device,
            num_images_per_prompt=prompt.images_per_prompt,
            do_classifier_free_guidance=prompt.with_null,
            negative_prompt=prompt.negative,
        )

        def made(text: Tensor, pooled: Tensor) -> dict[str, Any]:
            return {"encoder_hidden_states": text, "pooled_projections": pooled}

        return made(own, pooled), made(null, null_pooled) if prompt.with_null else None


@final
class _FluxNetwork(WrappedNetwork):
    """FLUX.1's network on images: 2×2 entries of x are one token, and its time runs from 0 to 1."""

    def forward(
        self, x: Tensor, t: Tensor, *, text: Tensor, pooled: Tensor, scale: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        output: Tensor = self.inner(
            hidden_states=to_tokens(x),
            timestep=(t / 1000).to(x.dtype),
            guidance=scale,
            pooled_projections=pooled,
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=x.device, dtype=text.dtype),
            img_ids=places(x.shape[-2] // 2, x.shape[-1] // 2, 3, 1).to(x.device, text.dtype),
            return_dict=False,
        )[0]
        return from_tokens(output, x)


@final
@register_backbone("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
class Flux(TokenImages):
    """FLUX.1. Its distilled networks are told the guidance scale; an unconditional branch runs only with guidance=."""

    default_scale = 3.5
    scale_is_input = True

    @property
    def network(self) -> torch.nn.Module:
        return _FluxNetwork(self.pipe.transformer)

    def conditions(self, prompt: Prompt) -> Conditions:
        def made(text: Any) -> dict[str, Any]:
            embedded, pooled, _ = self.pipe.encode_prompt(
                **{"prompt_2": None, **prompt.encode_options},
                prompt=text,
                device=self.device,
                num_images_per_prompt=prompt.images_per_prompt,
            )
            conditions = {"text": embedded, "pooled": pooled}
            if self.pipe.transformer.config.guidance_embeds:
                conditions["scale"] = torch.full((len(embedded),), prompt.scale, device=self.device)
            return conditions

        own = made(prompt.text)
        if not prompt.with_null:
            return own, None
        return own, made(prompt.negatives)


@final
class _PixArtNetwork(WrappedNetwork):
    def forward(self, x: Tensor, t: Tensor, *, text: Tensor, text_mask: Tensor, **sizes: Tensor) -> Tensor:
        output = self.inner(
            x,
            encoder_hidden_states=text,
            encoder_attention_mask=text_mask,
            timestep=t,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None, **sizes},
            return_dict=False,
        )[0]
        return _without_variance(x, output)


@final
@register_backbone("PixArtAlphaPipeline", "PixArtSigmaPipeline")
class PixArt(Backbone):
    """PixArt-α and -Σ."""

    default_scale = 4.5
    drops_variance = True

    @property
    def network(self) -> torch.nn.Module:
        return _PixArtNetwork(self.pipe.transformer)

    def conditions(self, prompt: Prompt) -> Conditions:
        own, mask, null, null_mask = self.pipe.encode_prompt(
            prompt.text,
            prompt.with_null,
            negative_prompt="" if prompt.negative is None else prompt.negative,
            num_images_per_prompt=prompt.images_per_prompt,
            device=self.device,
            **prompt.encode_options,
        )
        sizes: dict[str, Tensor] = {}
        if self.pipe.transformer.config.sample_size == 128 and type(self.pipe).__name__ == "PixArtAlphaPipeline":
            height, width = float(prompt.height), float(prompt.width)
            sizes = {
                "resolution": torch.tensor([[height, width]], dtype=own.dtype, device=self.device),
                "aspect_ratio": torch.tensor([[height / width]], dtype=own.dtype, device=self.device),
            }

        def made(text: Tensor, text_mask: Tensor) -> dict[str, Any]:
            return {"text": text, "text_mask": text_mask, **sizes}

        return made(own, mask), made(null, null_mask) if prompt.with_null else None


@final
class _DiTNetwork(WrappedNetwork):
    def forward(self, x: Tensor, t: Tensor, *, class_labels: Tensor) -> Tensor:
        return _without_variance(x, self.inner(x, timestep=t, class_labels=class_labels, return_dict=False)[0])


@final
@register_backbone("DiTPipeline")
class DiT(Backbone):
    """DiT on the classes of ImageNet; the last label stands for "no class"."""

    default_scale = 4.0
    drops_variance = True
    conditioned_on = "class_labels"

    @property
    def pixels_per_entry(self) -> int:
        return int(2 ** (len(self.pipe.vae.config.block_out_channels) - 1))

    @property
    def network(self) -> torch.nn.Module:
        return _DiTNetwork(self.pipe.transformer)

    def conditions(self, prompt: Prompt) -> Conditions:
        assert prompt.labels is not None
        own = prompt.labels.to(self.device).repeat_interleave(prompt.images_per_prompt)
        null = torch.full_like(own, int(self.pipe.transformer.config.num_embeds_ada_norm))
        return {"class_labels": own}, {"class_labels": null} if prompt.with_null else None


def _without_variance(x: Tensor, output: Tensor) -> Tensor:
    """The first half of the channels; the second is a variance that the pipelines do not use."""
    return output[:, : x.shape[1]]
