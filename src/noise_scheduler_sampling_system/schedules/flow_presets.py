"""The presets of flow models: images and videos from SD3 and FLUX.1 to the models of 2026, and Stable Audio."""

from __future__ import annotations

import math
from typing import Any

from .continuous import resolution_shift
from .presets import add_preset

__all__: list[str] = []

_TOWARDS_DATA = "the network is told 1 − σ and returns x₀ − ε: wrap it in models.TowardsData"
_DISTILLED = "trained without guidance: guidance_scale=1"
#: The number of tokens of 1024×1024 and of 2048×2048.
_1024, _2048 = 4096, 16384


def _flow(shift: float, **options: float) -> dict[str, Any]:
    return {"beta_schedule": "flow", "schedule_options": {"shift": shift, **options}}


def _shifted(shift: float, sigma: float) -> float:
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


def _unipc(shift: float) -> dict[str, Any]:
    """The levels of UniPC with flow sigmas: the first N of N + 1 even σ from 1 to 1/1000, shifted."""
    return {**_flow(shift, sigma_min=_shifted(shift, 1e-3)), "timestep_spacing": "sgm_uniform"}


def _dpm(shift: float) -> dict[str, Any]:
    """The levels of DPM-Solver with flow sigmas: the first N of N + 1 even σ from 0.999 to 0, shifted."""
    return _flow(shift, sigma_max=_shifted(shift, 0.999))


def _stretched(shift: float, terminal: float, **options: float) -> dict[str, Any]:
    spacing = {"timestep_spacing": "trailing", "spacing_options": {"shift_terminal": terminal}}
    return {**_flow(shift, **options), **spacing}


def _flux(tokens: int) -> dict[str, Any]:
    return _flow(resolution_shift(tokens), time_scale=1.0)


def _flux2(tokens: int) -> dict[str, Any]:
    spacing = {"timestep_spacing": "flux2", "spacing_options": {"tokens": tokens}}
    return {**_flow(1.0, time_scale=1.0), **spacing}


def _qwen(tokens: int) -> dict[str, Any]:
    return _stretched(resolution_shift(tokens, max_tokens=8192, maximum=0.9), 0.02, time_scale=1.0)


def _ltx2(tokens: int) -> dict[str, Any]:
    return _stretched(resolution_shift(tokens, base_tokens=1024, base=0.95, maximum=2.05), 0.1)


def _krea2(tokens: int) -> dict[str, Any]:
    return _flow(resolution_shift(tokens, max_tokens=6400), time_scale=1.0)


def _ideogram4(tokens: int) -> dict[str, Any]:
    # μ is ½·log(pixels/512²), and 512×512 are 1,024 tokens
    spacing = {"mu": 0.5 * math.log(tokens / 1024), "std": 1.5, "log_snr_min": -18.0, "log_snr_max": 15.0}
    return {**_flow(1.0, time_scale=1.0), "timestep_spacing": "logit_normal", "spacing_options": spacing}


_STABLE_AUDIO_3 = {
    **_flow(1.0, time_scale=1.0), "timestep_spacing": "log_snr",
    "spacing_options": {"noisiest": -12.4, "log_snr_max": 4.0, "discard_penultimate": True},
}  # fmt: skip

add_preset(
    "sd3", _flow(3.0), "scheduler config of stabilityai/stable-diffusion-3-medium; Esser et al. 2024, arXiv 2403.03206",
    "stable-diffusion-3", "sd3.5", "stable-diffusion-3.5", "sd3-medium", "sd3.5-large", sampler="euler", steps=28,
)  # fmt: skip
add_preset(
    "flux-dev", _flux(_1024), "scheduler config of black-forest-labs/FLUX.1-dev", "flux", "flux.1-dev",
    sampler="euler", steps=50, by_tokens=_flux, tokens=_1024,
)  # fmt: skip
add_preset(
    "flux-schnell", _flow(1.0, time_scale=1.0), "scheduler config of black-forest-labs/FLUX.1-schnell",
    "flux.1-schnell", sampler="euler", steps=4, note=_DISTILLED,
)  # fmt: skip
add_preset(
    "flux-2", _flux2(_1024), "FLUX.2 of Black Forest Labs, compute_empirical_mu in Flux2Pipeline of diffusers",
    "flux.2-dev", sampler="euler", steps=50, note="guidance 4 is an input of the network",
    by_tokens=_flux2, tokens=_1024,
)  # fmt: skip
add_preset(
    "flux-2-klein", _flux2(_1024), "FLUX.2 klein of Black Forest Labs, Flux2KleinPipeline of diffusers",
    "flux.2-klein", sampler="euler", steps=4, note=_DISTILLED, by_tokens=_flux2, tokens=_1024,
)  # fmt: skip
add_preset(
    "qwen-image", _qwen(_1024), "scheduler config of Qwen/Qwen-Image, QwenImagePipeline of diffusers",
    "qwen-image-edit", "qwen-image-2.1", sampler="euler", steps=50, by_tokens=_qwen, tokens=_1024,
)  # fmt: skip
add_preset(
    "z-image", _flow(6.0, time_scale=1.0), "scheduler config of Tongyi-MAI/Z-Image", sampler="euler", steps=50,
    note=_TOWARDS_DATA,
)  # fmt: skip
add_preset(
    "z-image-turbo", _flow(3.0, time_scale=1.0), "scheduler config of Tongyi-MAI/Z-Image-Turbo", sampler="euler",
    steps=8, note=f"{_TOWARDS_DATA}; {_DISTILLED}",
)  # fmt: skip
add_preset(
    "krea-2", _krea2(_1024), "Krea2Pipeline of diffusers", sampler="euler", steps=28, by_tokens=_krea2, tokens=_1024
)
add_preset(
    "krea-2-turbo", _flow(math.exp(1.15), time_scale=1.0), "Krea2Pipeline of diffusers with is_distilled (μ = 1.15)",
    sampler="euler", steps=8, note=_DISTILLED,
)  # fmt: skip
add_preset(
    "ideogram-4", _ideogram4(_2048), "Ideogram4Pipeline of diffusers", sampler="euler", steps=48,
    note=f"{_TOWARDS_DATA}; guidance 7, and 3 in the last 3 of 48 steps", by_tokens=_ideogram4, tokens=_2048,
)  # fmt: skip
add_preset(
    "sana", _dpm(3.0), "scheduler config of Efficient-Large-Model/Sana_1600M_1024px_diffusers (flow_shift 3)",
    "sana-1.5", sampler="dpmpp_2m", steps=20, note="guidance 4.5",
)  # fmt: skip
add_preset(
    "sana-sprint", {**_flow(1.0, time_scale=1.0), "timestep_spacing": "scm"},
    "SanaSprintPipeline of diffusers; Chen et al. 2025, arXiv 2503.09641", "scm", sampler="lcm", steps=2,
    note="for the raw flow network; guidance is an input of it. A network of TrigFlow: beta_schedule='trigflow'",
)  # fmt: skip
add_preset(
    "wan-2.1-480p", _unipc(3.0), "documentation of Wan 2.1 in diffusers (flow_shift 3 for 480p)", "wan-480p",
    sampler="unipc", steps=50,
)  # fmt: skip
add_preset(
    "wan-2.1-720p", _unipc(5.0), "documentation of Wan 2.1 in diffusers (flow_shift 5 for 720p)", "wan", "wan-720p",
    "wan-2.1", sampler="unipc", steps=50,
)  # fmt: skip
add_preset(
    "wan-2.2-t2v", _unipc(12.0), "wan/configs/wan_t2v_A14B.py of Wan-Video/Wan2.2", "wan-2.2", "wan-2.2-t2v-a14b",
    sampler="unipc", steps=40, note="two networks, boundary 0.875; guidance 4 above it and 3 below",
)  # fmt: skip
add_preset(
    "wan-2.2-i2v", _unipc(5.0), "wan/configs/wan_i2v_A14B.py of Wan-Video/Wan2.2", "wan-2.2-i2v-a14b",
    sampler="unipc", steps=40, note="two networks, boundary 0.9; guidance 3.5 for both",
)  # fmt: skip
add_preset(
    "wan-2.2-ti2v-5b", _unipc(5.0), "wan/configs/wan_ti2v_5B.py of Wan-Video/Wan2.2", "wan-2.2-5b", sampler="unipc",
    steps=50, note="one network; guidance 5",
)  # fmt: skip
add_preset(
    "ltx-2", _ltx2(_1024), "scheduler config of Lightricks/LTX-2, LTX2Pipeline of diffusers", sampler="euler",
    steps=30, note="one token for each latent pixel of a frame", by_tokens=_ltx2, tokens=_1024,
)  # fmt: skip
add_preset(
    "hunyuan-video", _flow(7.0), "scheduler config of hunyuanvideo-community/HunyuanVideo", "hunyuanvideo",
    sampler="euler", steps=50, note="guidance 6 is an input of the network",
)  # fmt: skip
for _kind, _shift in (("480p", 5.0), ("720p-i2v", 7.0), ("720p", 9.0)):
    add_preset(
        f"hunyuan-video-1.5-{_kind}", _flow(_shift), "PIPELINE_CONFIGS of Tencent-Hunyuan/HunyuanVideo-1.5",
        sampler="euler", steps=50, note="guidance 6",
    )  # fmt: skip
add_preset(
    "minimax-h3", _flow(12.0, time_scale=1.0), "MiniMaxH3Scheduler of diffusers (video: shift 12)", sampler="euler",
    note=f"{_TOWARDS_DATA}; N steps are num_inference_steps=N + 1 there",
)  # fmt: skip
add_preset(
    "minimax-h3-audio", _flow(3.0, time_scale=1.0), "MiniMaxH3Scheduler of diffusers (audio: shift 3)",
    sampler="euler", note=f"{_TOWARDS_DATA}; N steps are num_inference_steps=N + 1 there",
)  # fmt: skip
add_preset(
    "stable-audio", {"beta_schedule": "v_diffusion", "timestep_spacing": "exponential",
                     "spacing_options": {"sigma_min": 0.3, "sigma_max": 500.0}},
    "scheduler config of stabilityai/stable-audio-open-1.0 (CosineDPMSolverMultistep)", "stable-audio-open",
    sampler="dpmpp_2m_sde", steps=100, note="guidance 7",
)  # fmt: skip
add_preset(
    "stable-audio-3", _STABLE_AUDIO_3, "StableAudio3Pipeline of diffusers", sampler="lcm", steps=8, note=_DISTILLED
)
add_preset(
    "stable-audio-3-base", _STABLE_AUDIO_3, "StableAudio3Pipeline of diffusers, for stable-audio-3-medium-base",
    sampler="euler", steps=100,
)  # fmt: skip
