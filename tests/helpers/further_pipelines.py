"""Pipelines whose schedulers have conventions of their own, and those that start from images; of random weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers.pipelines.stable_audio import StableAudioProjectionModel

from tiny_pipelines import (
    SIDE,
    arguments,
    build,
    chat_tokenizer,
    clip_projected,
    clip_tokenizer,
    image,
    image_unet,
    language_model,
    mask,
    t5,
    t5_tokenizer,
)

__all__ = ["FURTHER", "make"]

_PROMPT = ["a red cat"]
_LETTERS = {"prompt": _PROMPT, "max_sequence_length": 16, "output_type": "latent"}
_SQUARE = {"height": SIDE, "width": SIDE}
_T5 = {"tokenizer": t5_tokenizer, "text_encoder": t5}
#: A pipeline and the arguments of its call.
Made = tuple[Any, dict[str, Any]]


def _new(cls: Any, **settings: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(cls.__name__))
        return cls(**settings).eval().requires_grad_(False)


def _t5_parts() -> dict[str, Any]:
    return {name: part() for name, part in _T5.items()}


def sana_sprint() -> Made:
    transformer = _new(
        diffusers.SanaTransformer2DModel, in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8,
        num_layers=1, num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
        caption_channels=16, sample_size=SIDE // 2, patch_size=1, guidance_embeds=True, qk_norm="rms_norm_across_heads",
    )  # fmt: skip
    vae = _new(
        diffusers.AutoencoderDC, in_channels=3, latent_channels=4, attention_head_dim=2,
        encoder_block_types=("ResBlock",) * 2, decoder_block_types=("ResBlock",) * 2, encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()), downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_act_fns="silu", decoder_norm_types="rms_norm", scaling_factor=0.4,
    )  # fmt: skip
    pipe = diffusers.SanaSprintPipeline(
        tokenizer=chat_tokenizer(), text_encoder=language_model().model, vae=vae, transformer=transformer,
        scheduler=diffusers.SCMScheduler(),
    )  # fmt: skip
    more = {"use_resolution_binning": False, "complex_human_instruction": None, "intermediate_timesteps": None}
    return pipe, {**_LETTERS, "height": 32, "width": 32, **more}


def anyflow() -> Made:
    transformer = _new(
        diffusers.AnyFlowTransformer3DModel, num_attention_heads=2, attention_head_dim=12, text_dim=64, freq_dim=32,
        ffn_dim=32, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip
    pipe = diffusers.AnyFlowPipeline(
        **_t5_parts(), vae=build("wan").vae, transformer=transformer,
        scheduler=diffusers.FlowMapEulerDiscreteScheduler(shift=5.0),
    )  # fmt: skip
    return pipe, {**_LETTERS, **_SQUARE, "num_frames": 5}


def consistency() -> Made:
    pipe = diffusers.ConsistencyModelPipeline(
        unet=image_unet(), scheduler=diffusers.CMStochasticIterativeScheduler(clip_denoised=True)
    )
    return pipe, {"batch_size": 1, "output_type": "pt"}


def cogvideox_dpm() -> Made:
    scheduler = diffusers.CogVideoXDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=1.0, timestep_spacing="trailing"
    )
    return build("cogvideox", scheduler), {**_LETTERS, **_SQUARE, "num_frames": 9}


def mochi() -> Made:
    transformer = _new(
        diffusers.MochiTransformer3DModel, patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        pooled_projection_dim=16, in_channels=12, text_embed_dim=64, time_embed_dim=4, max_sequence_length=16,
    )  # fmt: skip
    vae = _new(
        diffusers.AutoencoderKLMochi, latent_channels=12, out_channels=3, encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32), layers_per_block=(1, 1, 1, 1, 1),
    )  # fmt: skip
    pipe = diffusers.MochiPipeline(
        **_t5_parts(), vae=vae, transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    )  # fmt: skip
    return pipe, {**_LETTERS, **_SQUARE, "num_frames": 7, "guidance_scale": 3.0}


def stable_audio() -> Made:
    transformer = _new(
        diffusers.StableAudioDiTModel, sample_size=8, in_channels=3, num_layers=1, attention_head_dim=8,
        num_attention_heads=4, num_key_value_attention_heads=2, out_channels=3, cross_attention_dim=16,
        time_proj_dim=8, global_states_input_dim=32, cross_attention_input_dim=16,
    )  # fmt: skip
    vae = _new(
        diffusers.AutoencoderOobleck, encoder_hidden_size=6, downsampling_ratios=[1, 2], decoder_channels=3,
        decoder_input_channels=3, audio_channels=2, channel_multiples=[2, 4], sampling_rate=4,
    )  # fmt: skip
    projection = _new(StableAudioProjectionModel, text_encoder_dim=64, conditioning_dim=16, min_value=0, max_value=32)
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(
        solver_order=2, prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential"
    )
    pipe = diffusers.StableAudioPipeline(
        **_t5_parts(), vae=vae, transformer=transformer, projection_model=projection, scheduler=scheduler
    )
    return pipe, {"prompt": _PROMPT, "output_type": "latent", "guidance_scale": 3.0}


def from_parts(name: str, kind: str, **more: Any) -> Callable[[], Made]:
    """A pipeline of another class with the parts of a tiny one."""

    def made() -> Made:
        base = build(kind)
        cls = getattr(diffusers, name)
        settings = {"requires_safety_checker": False} if kind == "sd" else {}
        accepted = cls.__init__.__annotations__
        pipe = cls(**{part: value for part, value in base.components.items() if part in accepted}, **settings)
        if kind == "qwen":
            pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = "{}", 0
        usual = {"prompt": _PROMPT, "output_type": "latent"}
        return pipe, {**usual, **more}

    return made


def text_to_image(kind: str) -> Made:
    given = arguments(kind)
    return build(kind), {k: v for k, v in given.items() if k not in ("generator", "num_inference_steps")}


def stable_cascade() -> Made:
    """Its first part, which asks whether the scheduler is Würstchen's."""
    prior = _new(
        diffusers.StableCascadeUNet, conditioning_dim=16, block_out_channels=(16, 16), num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1), clip_image_in_channels=16,
        switch_level=(False,), clip_text_in_channels=32, clip_text_pooled_in_channels=32,
    )  # fmt: skip
    pipe = diffusers.StableCascadePriorPipeline(
        tokenizer=clip_tokenizer(), text_encoder=clip_projected(), prior=prior,
        scheduler=diffusers.DDPMWuerstchenScheduler(),
    )  # fmt: skip
    return pipe, {"prompt": _PROMPT, "output_type": "pt", "height": 128, "width": 128, "guidance_scale": 2.0}


_VIDEO = [torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(9)]
_TEXT = {"max_sequence_length": 16}
_START = {"image": image(), "strength": 0.7}
_PAINT = {**_START, "mask_image": mask()}
#: Family → the pipeline and the arguments of its call.
FURTHER: dict[str, Callable[[], Made]] = {
    **{kind: functools.partial(text_to_image, kind) for kind in ("flux2", "flux2_klein", "qwen")},
    "stable_cascade": stable_cascade,
    "sana_sprint": sana_sprint,
    "anyflow": anyflow,
    "consistency": consistency,
    "cogvideox_dpm": cogvideox_dpm,
    "mochi": mochi,
    "stable_audio": stable_audio,
    "flux_img2img": from_parts("FluxImg2ImgPipeline", "flux", **_START, **_SQUARE, **_TEXT),
    "flux_inpaint": from_parts("FluxInpaintPipeline", "flux", **_PAINT, **_SQUARE, **_TEXT),
    "sd3_img2img": from_parts("StableDiffusion3Img2ImgPipeline", "sd3", **_START, **_SQUARE, **_TEXT),
    "sdxl_img2img": from_parts("StableDiffusionXLImg2ImgPipeline", "sdxl", **_START),
    "sdxl_inpaint": from_parts("StableDiffusionXLInpaintPipeline", "sdxl", **_PAINT, **_SQUARE),
    "qwen_img2img": from_parts("QwenImageImg2ImgPipeline", "qwen", **_START, **_SQUARE, **_TEXT),
    "qwen_inpaint": from_parts("QwenImageInpaintPipeline", "qwen", **_PAINT, **_SQUARE, **_TEXT),
    "ltx_image2video": from_parts(
        "LTXImageToVideoPipeline", "ltx", image=image(), height=32, width=32, num_frames=9, **_TEXT
    ),
    "cogvideox_video2video": from_parts(
        "CogVideoXVideoToVideoPipeline", "cogvideox", video=_VIDEO, strength=0.7, **_SQUARE, **_TEXT
    ),
}  # fmt: skip


def make(family: str) -> Made:
    """A pipeline of a family, with no progress bar, and the arguments of its call."""
    pipe, given = FURTHER[family]()
    pipe.set_progress_bar_config(disable=True)
    return pipe, given
