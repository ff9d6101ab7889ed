"""Pipelines that make videos: Wan and LTX. x has the shape (B, C, frames, height, width)."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from ...experts import experts_of
from .base import Backbone, Conditions, Prompt, WrappedNetwork, register_backbone

__all__ = ["LTX", "Wan"]


class _Video(Backbone):
    """A family of videos; its pipelines from an image are of other classes."""

    starts_from_image = False

    def shape(self, prompt: Prompt) -> tuple[int, ...]:
        batch, channels, rows, columns = super().shape(prompt)
        return batch, channels, (prompt.frames - 1) // self.frames_per_entry + 1, rows, columns

    def images(self, decoded: Tensor, output_type: str) -> Any:
        return self.processor.postprocess_video(decoded.float(), output_type=output_type)

    def _processor(self) -> Any:
        return self.pipe.video_processor

    def _decoded(self, x: Tensor, mean: Any, std: Any, *times: Tensor) -> Tensor:
        """Clean x as videos, given the mean and the standard deviation of each channel of the latents."""
        vae = self.pipe.vae
        middle, width = (x.new_tensor(v).view(1, -1, 1, 1, 1) if isinstance(v, list) else v.view(1, -1, 1, 1, 1).to(x)
                         for v in (mean, std))  # fmt: skip
        with torch.no_grad():
            videos: Tensor = vae.decode((x * width + middle).to(vae.dtype), *times, return_dict=False)[0]
        return videos


@final
class _WanNetwork(WrappedNetwork):
    """One network of Wan on videos. ``token`` is the size of a token where each token is told the time, else None."""

    def __init__(self, inner: Any, token: tuple[int, int, int] | None) -> None:
        super().__init__(inner)
        self._token = token

    def forward(self, x: Tensor, t: Tensor, *, text: Tensor) -> Tensor:
        if self._token is not None:
            tokens = int(np.prod([size // patch for size, patch in zip(x.shape[2:], self._token, strict=True)]))
            t = t[:, None].expand(-1, tokens)
        output: Tensor = self.inner(hidden_states=x, timestep=t, encoder_hidden_states=text, return_dict=False)[0]
        return output


@final
@register_backbone("WanPipeline")
class Wan(_Video):
    """Wan 2.1 and 2.2 from text. The network of Wan 2.2 A14B is ``models.Experts``, whose ``scale`` makes
    guidance for each of the two."""

    default_scale = 5.0
    default_height, default_width, default_frames = 480, 832, 81

    @property
    def _inner(self) -> Any:
        return self.pipe.transformer if self.pipe.transformer is not None else self.pipe.transformer_2

    @property
    def network(self) -> torch.nn.Module:
        config = self.pipe.config
        token = tuple(self._inner.config.patch_size) if config.expand_timesteps else None

        def wrapped(network: Any) -> torch.nn.Module:
            return _WanNetwork(network, token)

        if not config.boundary_ratio or None in (self.pipe.transformer, self.pipe.transformer_2):
            return wrapped(self._inner)
        return experts_of(self.pipe).with_networks(wrapped)

    @property
    def pixels_per_entry(self) -> int:
        return int(self.pipe.vae_scale_factor_spatial)

    @property
    def frames_per_entry(self) -> int:
        return int(self.pipe.vae_scale_factor_temporal)

    @property
    def pixel_multiple(self) -> int:
        return self.pixels_per_entry * int(self._inner.config.patch_size[1])

    def conditions(self, prompt: Prompt) -> Conditions:
        own, null = self.pipe.encode_prompt(
            prompt=prompt.text, negative_prompt=prompt.negatives if prompt.with_null else None,
            do_classifier_free_guidance=prompt.with_null, num_videos_per_prompt=prompt.images_per_prompt,
            device=self.device, **{"max_sequence_length": 512, **prompt.encode_options},
        )  # fmt: skip
        dtype = self._inner.dtype
        return {"text": own.to(dtype)}, {"text": null.to(dtype)} if prompt.with_null else None

    def decode(self, x: Tensor) -> Tensor:
        config = self.pipe.vae.config
        return self._decoded(x, list(config.latents_mean), list(config.latents_std))


@final
class _LTXNetwork(WrappedNetwork):
    """LTX's network on videos, whose tokens are entries of x."""

    def __init__(self, inner: Any, patches: tuple[int, int], scale: tuple[float, int, int]) -> None:
        super().__init__(inner)
        self._patches, self._scale = patches, scale

    def forward(self, x: Tensor, t: Tensor, *, text: Tensor, text_mask: Tensor) -> Tensor:
        from diffusers import LTXPipeline

        frames, rows, columns = x.shape[2:]
        output = self.inner(
            hidden_states=LTXPipeline._pack_latents(x, *self._patches).to(text.dtype),
            encoder_hidden_states=text,
            timestep=t,
            encoder_attention_mask=text_mask,
            num_frames=frames,
            height=rows,
            width=columns,
            rope_interpolation_scale=self._scale,
            return_dict=False,
        )[0]
        unpacked: Tensor = LTXPipeline._unpack_latents(output.float(), frames, rows, columns, *self._patches)
        return unpacked


@final
@register_backbone("LTXPipeline")
class LTX(_Video):
    """LTX-Video from text, at 25 frames a second."""

    default_scale = 3.0
    even_sigmas = True
    default_height, default_width, default_frames = 512, 704, 161
    frame_rate: ClassVar[float] = 25.0

    @property
    def network(self) -> torch.nn.Module:
        patches = int(self.pipe.transformer_spatial_patch_size), int(self.pipe.transformer_temporal_patch_size)
        scale = self.frames_per_entry / self.frame_rate, self.pixels_per_entry, self.pixels_per_entry
        return _LTXNetwork(self.pipe.transformer, patches, scale)

    @property
    def pixels_per_entry(self) -> int:
        return int(self.pipe.vae_spatial_compression_ratio)

    @property
    def frames_per_entry(self) -> int:
        return int(self.pipe.vae_temporal_compression_ratio)

    def tokens(self, prompt: Prompt) -> int:
        return int(np.prod(self.shape(prompt)[2:]))

    def conditions(self, prompt: Prompt) -> Conditions:
        own, mask, null, null_mask = self.pipe.encode_prompt(
            prompt=prompt.text, negative_prompt=prompt.negatives if prompt.with_null else None,
            do_classifier_free_guidance=prompt.with_null, num_videos_per_prompt=prompt.images_per_prompt,
            device=self.device, **prompt.encode_options,
        )  # fmt: skip

        def made(text: Tensor, text_mask: Tensor) -> dict[str, Any]:
            return {"text": text, "text_mask": text_mask}

        return made(own, mask), made(null, null_mask) if prompt.with_null else None

    def decode(self, x: Tensor) -> Tensor:
        vae = self.pipe.vae
        times = (x.new_zeros(len(x)).to(vae.dtype),) if vae.config.timestep_conditioning else ()
        return self._decoded(x / vae.config.scaling_factor, vae.latents_mean, vae.latents_std, *times)
