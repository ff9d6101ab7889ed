"""Image pipelines of 2025 and 2026: FLUX.2 and Qwen-Image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from .....guidance.base import Guidance
from .....guidance.directions import ClassifierFree
from .....guidance.formula import Formula
from .....schedules.continuous import flux2_shift
from .....support.errors import ConfigurationError
from .base import Conditions, Prompt, WrappedNetwork, register_backbone
from .token_images import FlowImages, TokenImages
from .tokens import from_tokens, places, to_tokens

__all__ = ["Flux2", "Flux2Klein", "QwenImage", "TokenLength"]


@final
class _Flux2Network(WrappedNetwork):
    """FLUX.2's network on x: an entry of x is a token, and the network's time runs from 0 to 1."""

    def forward(self, x: Tensor, t: Tensor, *, text: Tensor, scale: Tensor | None = None) -> Tensor:
        batch, channels, rows, columns = x.shape
        of_text = torch.zeros(text.shape[1], 4)
        of_text[:, 3] = torch.arange(text.shape[1])
        output: Tensor = self.inner(
            hidden_states=x.flatten(2).transpose(1, 2),
            timestep=(t / 1000).to(x.dtype),
            guidance=scale,
            encoder_hidden_states=text,
            txt_ids=of_text.to(x.device).expand(batch, -1, -1),
            img_ids=places(rows, columns, 4, 1).to(x.device).expand(batch, -1, -1),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).reshape(batch, channels, rows, columns)


class _Flux2(FlowImages):
    """x has the latents of 2×2 entries as channels, each with the mean and deviation that the VAE keeps."""

    default_scale = 4.0

    @property
    def network(self) -> torch.nn.Module:
        return _Flux2Network(self.pipe.transformer)

    @property
    def pixels_per_entry(self) -> int:
        return 2 * int(self.pipe.vae_scale_factor)

    def mu(self, prompt: Prompt) -> float | None:
        if not self.pipe.scheduler.config.get("use_dynamic_shifting"):
            return None
        return math.log(flux2_shift(self.tokens(prompt), prompt.steps))

    def latents(self, pixels: Tensor) -> Tensor:
        vae = self.pipe.vae
        with torch.no_grad():
            mean = vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float()
        middle, width = self._moments(mean)
        patches: Tensor = self.pipe._patchify_latents(mean)
        return (patches - middle) / width

    def decode(self, x: Tensor) -> Tensor:
        vae, (middle, width) = self.pipe.vae, self._moments(x)
        with torch.no_grad():
            latents = self.pipe._unpatchify_latents(x * width + middle)
            images: Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return images

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of each channel of x."""
        vae = self.pipe.vae
        variance = vae.bn.running_var + vae.config.batch_norm_eps
        middle, width = (v.view(1, -1, 1, 1).to(like) for v in (vae.bn.running_mean, variance.sqrt()))
        return middle, width

    def _text(self, text: Any, prompt: Prompt) -> dict[str, Any]:
        embedded, _ = self.pipe.encode_prompt(
            prompt=text, device=self.device, num_images_per_prompt=prompt.images_per_prompt, **prompt.encode_options
        )
        return {"text": embedded}


@final
@register_backbone("Flux2Pipeline")
class Flux2(_Flux2):
    """FLUX.2. Its network is told the guidance scale; an unconditional branch runs only with guidance=."""

    scale_is_input = True

    def conditions(self, prompt: Prompt) -> Conditions:
        def made(text: Any) -> dict[str, Any]:
            conditions = self._text(text, prompt)
            scale = torch.full((len(conditions["text"]),), prompt.scale, device=self.device)
            return {**conditions, "scale": scale}

        return made(prompt.text), made(prompt.negatives) if prompt.with_null else None


@final
@register_backbone("Flux2KleinPipeline")
class Flux2Klein(_Flux2):
    """FLUX.2 [klein], with an unconditional branch unless it is distilled."""

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        self.has_null_branch = not pipe.config.is_distilled  # type: ignore[misc]  # of this pipeline

    def conditions(self, prompt: Prompt) -> Conditions:
        return self._text(prompt.text, prompt), self._text(prompt.negatives, prompt) if prompt.with_null else None


@final
@dataclass(frozen=True)
class TokenLength(Guidance):
    """The guided prediction, each of its tokens as long as that of the conditional one (Qwen-Image's pipelines).

    A token is 2×2 entries of x, and its length is the norm over them and all channels. The quantity is the network's
    output.
    """

    follows: ClassVar[bool] = True

    def write(self, formula: Formula) -> None:
        if formula.untouched:
            formula.keep()
            return
        kind = formula.prediction_type
        value, reference = (formula.to(kind, form) for form in (formula.value, formula.conditional))
        formula.value = formula.of(kind, formula.make(_as_long, value, reference))


def _as_long(value: Tensor, reference: Tensor) -> Tensor:
    wanted, actual = (_lengths(tensor) for tensor in (reference, value))
    ratio = wanted / actual.clamp_min(torch.finfo(actual.dtype).tiny)
    return value * ratio.repeat_interleave(2, -2).repeat_interleave(2, -1)


def _lengths(x: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(to_tokens(x), dim=-1)
    return lengths.reshape(len(x), 1, x.shape[-2] // 2, x.shape[-1] // 2)


@final
class _QwenNetwork(WrappedNetwork):
    """Qwen-Image's network on images: 2×2 entries of x are one token, and its time runs from 0 to 1."""

    def forward(self, x: Tensor, t: Tensor, *, text: Tensor, text_mask: Tensor) -> Tensor:
        output: Tensor = self.inner(
            hidden_states=to_tokens(x),
            timestep=(t / 1000).to(x.dtype),
            encoder_hidden_states=text,
            encoder_hidden_states_mask=text_mask,
            img_shapes=[[(1, x.shape[-2] // 2, x.shape[-1] // 2)]] * len(x),
            return_dict=False,
        )[0]
        return from_tokens(output, x)


@final
@register_backbone("QwenImagePipeline")
class QwenImage(TokenImages):
    """Qwen-Image. Its pipeline has an unconditional branch only with a negative prompt, and so has this."""

    default_scale = 4.0
    needs_negative = True

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        if pipe.transformer.config.guidance_embeds:  # none is published, and the pipeline itself cannot call one
            raise ConfigurationError(
                "is a network that is told the guidance scale, which no published Qwen-Image is",
                where="pipe.transformer",
                suggestion="give a transformer with guidance_embeds=False",
            )

    @property
    def network(self) -> torch.nn.Module:
        return _QwenNetwork(self.pipe.transformer)

    def guidance(self, scale: float) -> Sequence[Guidance]:
        return ClassifierFree(scale), TokenLength()

    def conditions(self, prompt: Prompt) -> Conditions:
        texts = [prompt.text, prompt.negatives] if prompt.with_null else [prompt.text]
        found = [
            self.pipe.encode_prompt(
                prompt=text, device=self.device, num_images_per_prompt=prompt.images_per_prompt, **prompt.encode_options
            )
            for text in texts
        ]
        longest = max(embedded.shape[1] for embedded, _ in found)
        conditions = []
        for embedded, mask in found:  # the branches run as one batch
            mask = torch.ones(embedded.shape[:2], dtype=torch.long, device=self.device) if mask is None else mask
            missing = longest - embedded.shape[1]
            conditions.append({
                "text": torch.nn.functional.pad(embedded, (0, 0, 0, missing)),
                "text_mask": torch.nn.functional.pad(mask, (0, missing)),
            })  # fmt: skip
        return conditions[0], conditions[1] if prompt.with_null else None

    def latents(self, pixels: Tensor) -> Tensor:
        vae = self.pipe.vae
        with torch.no_grad():
            mean: Tensor = vae.encode(pixels.to(vae.dtype)[:, :, None]).latent_dist.mode().float()[:, :, 0]
        middle, width = self._moments(mean)
        return (mean - middle) / width

    def decode(self, x: Tensor) -> Tensor:
        vae, (middle, width) = self.pipe.vae, self._moments(x)
        with torch.no_grad():
            images: Tensor = vae.decode((x * width + middle).to(vae.dtype)[:, :, None], return_dict=False)[0]
        return images[:, :, 0]

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.pipe.vae.config
        middle, width = (like.new_tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
        return middle, width
