"""The settings of published models by name: ``NoiseSchedulerConfig.preset("sdxl")``.

docs/models-of-2026.md says which preset is for which of the newer models, and what else they need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from ..config.options import Options
from ..config.registries import PRESETS
from ..support.argument_checks import checked_count
from ..support.errors import ConfigurationError

__all__ = ["Preset", "add_preset"]


@final
@dataclass(frozen=True)
class Preset:
    """The published settings of a model.

    Attributes:
        fields: the fields of the config that differ from its defaults.
        sampler, steps: the sampler and the number of steps of its authors, where they state them.
        source: where the settings come from.
        note: what else a user must know.
        by_tokens: where the levels depend on the size of the image or video, the fields that do, of a number of tokens.
        tokens: the number of tokens that ``fields`` are for; None: they are for every size.
    """

    fields: Mapping[str, Any]
    source: str
    sampler: str | None = None
    steps: int | None = None
    note: str = ""
    by_tokens: Callable[[int], Mapping[str, Any]] | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", Options(self.fields))

    def fields_for(self, tokens: int | None) -> Mapping[str, Any]:
        """The fields for another number of tokens; None: that of the preset.

        Raises:
            ConfigurationError: no positive whole number, or the levels do not depend on it.
        """
        if tokens is None:
            return self.fields
        if self.by_tokens is None:
            raise ConfigurationError(
                "the levels of this preset are the same for every size", where="tokens", suggestion="leave it out"
            )
        return {**self.fields, **self.by_tokens(checked_count(tokens, "tokens"))}


_LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_SD = {**_LATENT, "timestep_spacing": "leading", "steps_offset": 1}
_COGVIDEO = {
    **_LATENT, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
}  # fmt: skip
_EDM = {"beta_schedule": "edm", "schedule_options": {"sigma_min": 0.002, "sigma_max": 80.0}}
_RAW_EDM = "for the raw network, wrap it in models.EDMPreconditioned"


def add_preset(name: str, fields: Mapping[str, Any], source: str, *aliases: str, **more: Any) -> None:
    """Register a preset and its aliases; ``more`` are further fields of :class:`Preset`."""
    PRESETS.register(name, Preset(fields, source, **more))
    PRESETS.alias(name, *aliases, of=name)


add_preset(
    "stable-diffusion-1.5", _SD, "scheduler config of runwayml/stable-diffusion-v1-5", "sd15", "sd-1.5", "sd1",
    "stable-diffusion-v1-5", "stable-diffusion-1.4", "stable-diffusion-v1-4", "sd14", sampler="pndm", steps=50,
)  # fmt: skip
add_preset(
    "stable-diffusion-2.1", {**_SD, "prediction_type": "v_prediction"},
    "scheduler config of stabilityai/stable-diffusion-2-1", "sd21", "sd2", "stable-diffusion-2", sampler="ddim",
    steps=50,
)  # fmt: skip
add_preset(
    "stable-diffusion-2.1-base", _SD, "scheduler config of stabilityai/stable-diffusion-2-1-base", "sd21-base",
    "sd2-base", "stable-diffusion-2-base", sampler="pndm", steps=50,
)  # fmt: skip
add_preset(
    "sdxl", _SD, "scheduler config of stabilityai/stable-diffusion-xl-base-1.0", "stable-diffusion-xl", "sdxl-base",
    "stable-diffusion-xl-base-1.0", sampler="euler", steps=50,
)  # fmt: skip
add_preset(
    "sdxl-turbo", {**_LATENT, "timestep_spacing": "trailing"}, "scheduler config of stabilityai/sdxl-turbo", "sd-turbo",
    sampler="ancestral", steps=1, note="trained without guidance: guidance_scale=1",
)  # fmt: skip
add_preset(
    "sdxl-lightning", {**_LATENT, "timestep_spacing": "trailing"}, "model card of ByteDance/SDXL-Lightning",
    sampler="euler", steps=4, note="trained without guidance: guidance_scale=1",
)  # fmt: skip
add_preset(
    "pixart-alpha", {"beta_start": 0.0001, "beta_end": 0.02, "timestep_spacing": "linspace",
                     "variance_type": "learned_range"},
    "scheduler config of PixArt-alpha/PixArt-XL-2-1024-MS; Chen et al. 2023, arXiv 2310.00426", "pixart",
    "pixart-sigma", sampler="dpmpp_2m", steps=20, note="the network returns the variance in a second half of channels",
)  # fmt: skip
add_preset(
    "dit-xl-2", {"beta_start": 0.0001, "beta_end": 0.02, "variance_type": "learned_range"},
    "Peebles & Xie 2022, arXiv 2212.09748", "dit", "dit-imagenet256", sampler="ddpm", steps=250,
)  # fmt: skip
add_preset(
    "ddpm-cifar10", {"variance_type": "fixed_large", "clip_sample": True}, "Ho et al. 2020, arXiv 2006.11239, §4",
    "ddpm", "ddpm-cifar10-32", sampler="ddpm", steps=1000,
)  # fmt: skip
add_preset(
    "iddpm-imagenet64",
    {"beta_schedule": "cosine", "num_train_timesteps": 4000, "variance_type": "learned_range", "clip_sample": True},
    "Nichol & Dhariwal 2021, arXiv 2102.09672", "iddpm", "improved-ddpm", sampler="ddpm", steps=250,
)  # fmt: skip
add_preset(
    "adm-imagenet256", {"variance_type": "learned_range", "clip_sample": True},
    "Dhariwal & Nichol 2021, arXiv 2105.05233", "adm", "guided-diffusion", sampler="ddpm", steps=250,
)  # fmt: skip
add_preset(
    "edm-cifar10", _EDM, "Karras et al. 2022, arXiv 2206.00364, Table 1", "edm", sampler="heun", steps=18,
    note=_RAW_EDM,
)  # fmt: skip
add_preset(
    "edm-imagenet64", _EDM, "Karras et al. 2022, arXiv 2206.00364, Table 1", "edm-ffhq", "edm-afhqv2",
    sampler="heun", steps=40, note=_RAW_EDM,
)  # fmt: skip
add_preset(
    "edm2-imagenet512", _EDM, "Karras et al. 2023, arXiv 2312.02696", "edm2", "edm2-imagenet64", sampler="heun",
    steps=32, note=_RAW_EDM,
)  # fmt: skip
add_preset(
    "cogvideox-2b", {**_COGVIDEO, "schedule_options": {"snr_shift": math.sqrt(3.0)}},
    "scheduler config of THUDM/CogVideoX-2b (snr_shift_scale 3)", "cogvideox", sampler="ddim", steps=50,
)  # fmt: skip
add_preset(
    "cogvideox-5b", _COGVIDEO, "scheduler config of THUDM/CogVideoX-5b (snr_shift_scale 1)", sampler="ddim", steps=50
)
add_preset(
    "stable-cascade", {"beta_schedule": "wuerstchen"}, "DDPMWuerstchenScheduler of diffusers", "wuerstchen",
    "wuerstchen-v2", sampler="ddpm", steps=20, note="larger images: ShiftedSNR(path, shift)",
)  # fmt: skip
