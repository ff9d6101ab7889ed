"""Pipelines around a transformer."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from .....schedules import resolution_shift
from .base import Backbone, Condition, Prompt, Wrapped

__all__ = ["DiT", "Flux", "PixArt", "StableDiffusion3"]


class _Transformer(Backbone):
    """A latent model with a transformer."""

    @property
    def network(self) -> torch.nn.Module:
        transformer: torch.nn.Module = self.pipe.transformer
        return transformer

    @property
    def channels(self) -> int:
        return int(self.pipe.transformer.config.in_channels)

    @property
    def multiple(self) -> int:
        return self.factor * int(self.pipe.transformer.config.patch_size)

    def _shifted(self, tokens: int, maximum: float) -> float | None:
        """μ, linear in the number of tokens, with the constants of the scheduler's config."""
        config = self.pipe.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return None
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", maximum)
        return resolution_shift(tokens, base_tokens=few, max_tokens=many, base=low, maximum=high, kind="linear")


@final
class StableDiffusion3(_Transformer):
    """Stable Diffusion 3 and 3.5."""

    scale = 7.0

    def condition(self, prompt: Prompt) -> Condition:
        own, null, pooled, null_pooled = self.pipe.encode_prompt(
            **{"prompt_2": None, "prompt_3": None, **prompt.options},
            prompt=prompt.text,
            device=self.device,
            num_images_per_prompt=prompt.count,
            do_classifier_free_guidance=prompt.opposed,
            negative_prompt=prompt.negative,
        )

        def made(text: Tensor, pooled: Tensor) -> dict[str, Any]:
            return {"encoder_hidden_states": text, "pooled_projections": pooled}

        return made(own, pooled), made(null, null_pooled) if prompt.opposed else None

    def mu(self, prompt: Prompt) -> float | None:
        return self._shifted((prompt.height // self.multiple) * (prompt.width // self.multiple), 1.16)


class _Packed(Wrapped):
    """FLUX.1's network on images: 2×2 entries of x are one token, and its time runs from 0 to 1."""

    def forward(
        self, x: Tensor, t: Tensor, *, text: Tensor, pooled: Tensor, scale: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        batch, channels, rows, columns = x.shape[0], x.shape[1], x.shape[2] // 2, x.shape[3] // 2
        cells = x.reshape(batch, channels, rows, 2, columns, 2)
        tokens = cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, 4 * channels)
        grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        places = torch.stack([torch.zeros_like(grid[0]), *grid], dim=-1).reshape(-1, 3)
        output: Tensor = self.inner(
            hidden_states=tokens,
            timestep=(t / 1000).to(x.dtype),
            guidance=scale,
            pooled_projections=pooled,
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=x.device, dtype=text.dtype),
            img_ids=places.to(x.device, text.dtype),
            return_dict=False,
        )[0]
        cells = output.reshape(batch, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return cells.reshape(x.shape)


@final
class Flux(_Transformer):
    """FLUX.1, whose distilled networks are told the guidance scale; an unconditional branch only where asked for."""

    scale = 3.5
    told_scale = True

    @property
    def network(self) -> torch.nn.Module:
        return _Packed(self.pipe.transformer)

    @property
    def channels(self) -> int:
        return int(self.pipe.transformer.config.in_channels) // 4

    @property
    def multiple(self) -> int:
        return 2 * self.factor

    @property
    def size(self) -> int:
        return int(self.pipe.default_sample_size) * self.factor

    def condition(self, prompt: Prompt) -> Condition:
        def made(text: Any) -> dict[str, Any]:
            embedded, pooled, _ = self.pipe.encode_prompt(
                **{"prompt_2": None, **prompt.options},
                prompt=text,
                device=self.device,
                num_images_per_prompt=prompt.count,
            )
            condition = {"text": embedded, "pooled": pooled}
            if self.pipe.transformer.config.guidance_embeds:
                condition["scale"] = torch.full((len(embedded),), prompt.scale, device=self.device)
            return condition

        own = made(prompt.text)
        if not prompt.opposed:
            return own, None
        negative = prompt.negative if prompt.negative is not None else ""
        alone = isinstance(negative, str) and not isinstance(prompt.text, str) and prompt.text is not None
        return own, made([negative] * len(prompt.text) if alone and prompt.text is not None else negative)

    def mu(self, prompt: Prompt) -> float | None:
        return self._shifted((prompt.height // self.multiple) * (prompt.width // self.multiple), 1.15)

    def request(self, steps: int) -> dict[str, Any]:
        return {"num_inference_steps": steps, "sigmas": np.linspace(1.0, 1 / steps, steps)}


class _FirstHalf(Wrapped):
    """A transformer whose second half of channels, a variance, is not used."""

    def _mean(self, x: Tensor, output: Tensor) -> Tensor:
        return output[:, : x.shape[1]]


class _PixArtNetwork(_FirstHalf):
    def forward(self, x: Tensor, t: Tensor, *, text: Tensor, text_mask: Tensor, **sizes: Tensor) -> Tensor:
        output = self.inner(
            x,
            encoder_hidden_states=text,
            encoder_attention_mask=text_mask,
            timestep=t,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None, **sizes},
            return_dict=False,
        )[0]
        return self._mean(x, output)


@final
class PixArt(_Transformer):
    """PixArt-α and -Σ."""

    scale = 4.5
    drops_variance = True

    @property
    def network(self) -> torch.nn.Module:
        return _PixArtNetwork(self.pipe.transformer)

    def condition(self, prompt: Prompt) -> Condition:
        own, mask, null, null_mask = self.pipe.encode_prompt(
            prompt.text,
            prompt.opposed,
            negative_prompt="" if prompt.negative is None else prompt.negative,
            num_images_per_prompt=prompt.count,
            device=self.device,
            **prompt.options,
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

        return made(own, mask), made(null, null_mask) if prompt.opposed else None


class _DiTNetwork(_FirstHalf):
    def forward(self, x: Tensor, t: Tensor, *, class_labels: Tensor) -> Tensor:
        return self._mean(x, self.inner(x, timestep=t, class_labels=class_labels, return_dict=False)[0])


@final
class DiT(_Transformer):
    """DiT on the classes of ImageNet, the last of which is none."""

    scale = 4.0
    drops_variance = True
    takes = "class_labels"

    @property
    def factor(self) -> int:
        return int(2 ** (len(self.pipe.vae.config.block_out_channels) - 1))

    @property
    def network(self) -> torch.nn.Module:
        return _DiTNetwork(self.pipe.transformer)

    def condition(self, prompt: Prompt) -> Condition:
        assert prompt.labels is not None
        own = prompt.labels.to(self.device).repeat_interleave(prompt.count)
        null = torch.full_like(own, int(self.pipe.transformer.config.num_embeds_ada_norm))
        return {"class_labels": own}, {"class_labels": null} if prompt.opposed else None
