"""Real diffusers pipelines of small random weights, made here: nothing is downloaded.

Every builder returns a new pipeline object around components that are made once a process, from a
seed of their own. Images are 16×16, latents 8×8; videos are as small. ``arguments(kind)`` says what to call each with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

__all__ = ["BUILDERS", "CHAT", "FLOW", "LATENT", "SIDE", "arguments", "build", "image", "mask"]

#: Height and width of images; latents have half of it.
SIDE = 16
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!'"
#: Settings of Stable Diffusion's noise schedule.
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
#: Settings of SD3's.
FLOW = {"shift": 3.0}
_PROMPT = "a red cat"


def _seeded(function: Callable[[], Any]) -> Callable[[], Any]:
    """Make once a process, from a seed that is the function's own; the global generator is left as it was."""

    @functools.cache
    def made() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sum(map(ord, function.__name__)))
            result = function()
        return result.eval().requires_grad_(False) if isinstance(result, torch.nn.Module) else result

    return made


@_seeded
def clip_tokenizer() -> CLIPTokenizer:
    tokens = [*_LETTERS, *(letter + "</w>" for letter in _LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=16)


@_seeded
def t5_tokenizer() -> T5Tokenizer:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=[*special, *((letter, -3.0) for letter in _LETTERS)], extra_ids=0, model_max_length=16)


def _clip(projected: bool) -> CLIPTextConfig:
    count = len(clip_tokenizer())
    return CLIPTextConfig(
        vocab_size=count, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=16, projection_dim=32, hidden_act="gelu" if projected else "quick_gelu",
        bos_token_id=count - 2, eos_token_id=count - 1, pad_token_id=count - 1,
    )  # fmt: skip


@_seeded
def clip() -> CLIPTextModel:
    return CLIPTextModel(_clip(False))


@_seeded
def clip_projected() -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(_clip(True))


@_seeded
def t5() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer()),
            d_model=64,
            d_kv=8,
            d_ff=37,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
    )


def _vae(channels: int, **more: Any) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(16, 16), norm_num_groups=8, latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **more,
    )  # fmt: skip


@_seeded
def vae() -> diffusers.AutoencoderKL:
    return _vae(4)


@_seeded
def flow_vae() -> diffusers.AutoencoderKL:
    return _vae(4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5)


def _unet(**more: Any) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(**{
        "sample_size": SIDE // 2, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
        "cross_attention_dim": 32, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), **more,
    })  # fmt: skip


@_seeded
def unet() -> diffusers.UNet2DConditionModel:
    return _unet()


@_seeded
def inpaint_unet() -> diffusers.UNet2DConditionModel:
    return _unet(in_channels=9)


@_seeded
def xl_unet() -> diffusers.UNet2DConditionModel:
    return _unet(
        cross_attention_dim=64, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 32,
    )  # fmt: skip


@_seeded
def image_unet() -> diffusers.UNet2DModel:
    return diffusers.UNet2DModel(
        sample_size=SIDE // 2, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


@_seeded
def sd3_transformer() -> diffusers.SD3Transformer2DModel:
    return diffusers.SD3Transformer2DModel(
        sample_size=SIDE // 2, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64,
    )  # fmt: skip


@_seeded
def flux_transformer() -> diffusers.FluxTransformer2DModel:
    return diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=64, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip


@_seeded
def pixart_transformer() -> diffusers.PixArtTransformer2DModel:
    return diffusers.PixArtTransformer2DModel(
        sample_size=SIDE // 2, patch_size=2, in_channels=4, out_channels=8, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, cross_attention_dim=32, caption_channels=64, num_embeds_ada_norm=1000,
        use_additional_conditions=False,
    )  # fmt: skip


@_seeded
def auraflow_transformer() -> diffusers.AuraFlowTransformer2DModel:
    return diffusers.AuraFlowTransformer2DModel(
        sample_size=SIDE // 2, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1,
        attention_head_dim=8, num_attention_heads=4, joint_attention_dim=64, caption_projection_dim=32,
        pos_embed_max_size=64,
    )  # fmt: skip


@_seeded
def cogvideox_transformer() -> diffusers.CogVideoXTransformer3DModel:
    return diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=2,
        text_embed_dim=64, num_layers=1, sample_width=4, sample_height=4, sample_frames=9, max_text_seq_length=16,
    )  # fmt: skip


@_seeded
def cogvideox_vae() -> diffusers.AutoencoderKLCogVideoX:
    return diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=2,
    )  # fmt: skip


@_seeded
def ltx_transformer() -> diffusers.LTXVideoTransformer3DModel:
    return diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32,
        num_layers=1, caption_channels=64,
    )  # fmt: skip


@_seeded
def ltx_vae() -> diffusers.AutoencoderKLLTXVideo:
    return diffusers.AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5, patch_size=1,
    )  # fmt: skip


@_seeded
def wan_transformer() -> diffusers.WanTransformer3DModel:
    return diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=64, freq_dim=32,
        ffn_dim=32, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip


@_seeded
def wan_vae() -> diffusers.AutoencoderKLWan:
    return diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1] * 4, num_res_blocks=1, temperal_downsample=[False, True, True]
    )


@_seeded
def chat_tokenizer() -> T5Tokenizer:
    """A tokenizer with a template for chats, as those of language models have."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    made = T5Tokenizer(vocab=[*special, *((letter, -3.0) for letter in _LETTERS)], extra_ids=0, model_max_length=512)
    made.chat_template = (
        "{% set said = messages[-1].content %}{% if said is string %}{{ said }}{% else %}{{ said[0].text }}{% endif %}"
    )
    return made


@_seeded
def language_model() -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(t5_tokenizer()), hidden_size=16, intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, head_dim=8,
        )
    )  # fmt: skip


@_seeded
def flux2_transformer() -> diffusers.Flux2Transformer2DModel:
    return _flux2_transformer(guidance_embeds=True)


@_seeded
def klein_transformer() -> diffusers.Flux2Transformer2DModel:
    return _flux2_transformer(guidance_embeds=False)


def _flux2_transformer(**more: Any) -> diffusers.Flux2Transformer2DModel:
    return diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), **more,
    )  # fmt: skip


@_seeded
def flux2_vae() -> diffusers.AutoencoderKLFlux2:
    made = diffusers.AutoencoderKLFlux2(
        block_out_channels=(16, 16), norm_num_groups=8, latent_channels=4, sample_size=SIDE,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    made.bn.running_mean.uniform_(-1.0, 1.0)
    made.bn.running_var.uniform_(0.5, 2.0)
    return made


@_seeded
def qwen_transformer() -> diffusers.QwenImageTransformer2DModel:
    return diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip


@_seeded
def qwen_vae() -> diffusers.AutoencoderKLQwenImage:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=3, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5],
    )  # fmt: skip


def _beta_scheduler(scheduler: Any) -> Any:
    return diffusers.DDIMScheduler(**LATENT, clip_sample=False) if scheduler is None else scheduler


def _flow_scheduler(scheduler: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**FLOW) if scheduler is None else scheduler


def _stable_diffusion(cls: Any, network: Any, scheduler: Any) -> Any:
    return cls(
        vae=vae(), text_encoder=clip(), tokenizer=clip_tokenizer(), unet=network,
        scheduler=_beta_scheduler(scheduler), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def stable_diffusion(scheduler: Any = None) -> diffusers.StableDiffusionPipeline:
    return _stable_diffusion(diffusers.StableDiffusionPipeline, unet(), scheduler)


def stable_diffusion_img2img(scheduler: Any = None) -> diffusers.StableDiffusionImg2ImgPipeline:
    return _stable_diffusion(diffusers.StableDiffusionImg2ImgPipeline, unet(), scheduler)


def stable_diffusion_inpaint(scheduler: Any = None) -> diffusers.StableDiffusionInpaintPipeline:
    """With the text-to-image network, whose known region is blended in after every step."""
    return _stable_diffusion(diffusers.StableDiffusionInpaintPipeline, unet(), scheduler)


def stable_diffusion_inpaint_9(scheduler: Any = None) -> diffusers.StableDiffusionInpaintPipeline:
    """With a network that is given mask and masked image as further channels."""
    return _stable_diffusion(diffusers.StableDiffusionInpaintPipeline, inpaint_unet(), scheduler)


def stable_diffusion_xl(scheduler: Any = None) -> diffusers.StableDiffusionXLPipeline:
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(), text_encoder=clip(), text_encoder_2=clip_projected(), tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(), unet=xl_unet(), scheduler=_beta_scheduler(scheduler), add_watermarker=False,
    )  # fmt: skip


def stable_diffusion_3(scheduler: Any = None) -> diffusers.StableDiffusion3Pipeline:
    return diffusers.StableDiffusion3Pipeline(
        transformer=sd3_transformer(), scheduler=_flow_scheduler(scheduler), vae=flow_vae(),
        text_encoder=clip_projected(), tokenizer=clip_tokenizer(), text_encoder_2=clip_projected(),
        tokenizer_2=clip_tokenizer(), text_encoder_3=t5(), tokenizer_3=t5_tokenizer(),
    )  # fmt: skip


def flux(scheduler: Any = None) -> diffusers.FluxPipeline:
    scheduler = scheduler or diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return diffusers.FluxPipeline(
        scheduler=scheduler, vae=flow_vae(), text_encoder=clip(), tokenizer=clip_tokenizer(), text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(), transformer=flux_transformer(),
    )  # fmt: skip


def pixart(scheduler: Any = None) -> diffusers.PixArtAlphaPipeline:
    return diffusers.PixArtAlphaPipeline(
        tokenizer=t5_tokenizer(), text_encoder=t5(), vae=vae(), transformer=pixart_transformer(),
        scheduler=_beta_scheduler(scheduler),
    )  # fmt: skip


def ddpm(scheduler: Any = None) -> diffusers.DDPMPipeline:
    return diffusers.DDPMPipeline(unet=image_unet(), scheduler=scheduler or diffusers.DDPMScheduler())


def ddim(scheduler: Any = None) -> diffusers.DDIMPipeline:
    return diffusers.DDIMPipeline(unet=image_unet(), scheduler=scheduler or diffusers.DDIMScheduler())


def _t5_parts() -> dict[str, Any]:
    return {"tokenizer": t5_tokenizer(), "text_encoder": t5()}


def auraflow(scheduler: Any = None) -> diffusers.AuraFlowPipeline:
    return diffusers.AuraFlowPipeline(
        **_t5_parts(), vae=vae(), transformer=auraflow_transformer(), scheduler=_flow_scheduler(scheduler)
    )


def cogvideox(scheduler: Any = None) -> diffusers.CogVideoXPipeline:
    usual = diffusers.CogVideoXDDIMScheduler(
        beta_start=0.00085, beta_end=0.012, prediction_type="v_prediction", rescale_betas_zero_snr=True,
        snr_shift_scale=3.0, timestep_spacing="trailing",
    )  # fmt: skip
    return diffusers.CogVideoXPipeline(
        **_t5_parts(), vae=cogvideox_vae(), transformer=cogvideox_transformer(), scheduler=scheduler or usual
    )


def ltx(scheduler: Any = None) -> diffusers.LTXPipeline:
    usual = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, shift_terminal=0.1, base_shift=0.95, max_shift=2.05
    )
    return diffusers.LTXPipeline(
        **_t5_parts(), vae=ltx_vae(), transformer=ltx_transformer(), scheduler=scheduler or usual
    )


def wan(scheduler: Any = None) -> diffusers.WanPipeline:
    usual = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return diffusers.WanPipeline(
        **_t5_parts(), vae=wan_vae(), transformer=wan_transformer(), scheduler=scheduler or usual
    )


def _chat_parts() -> dict[str, Any]:
    return {"tokenizer": chat_tokenizer(), "text_encoder": language_model()}


def _dynamic(scheduler: Any) -> Any:
    return scheduler or diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def flux2(scheduler: Any = None) -> diffusers.Flux2Pipeline:
    return diffusers.Flux2Pipeline(
        **_chat_parts(), vae=flux2_vae(), transformer=flux2_transformer(), scheduler=_dynamic(scheduler)
    )


def flux2_klein(scheduler: Any = None) -> diffusers.Flux2KleinPipeline:
    return diffusers.Flux2KleinPipeline(
        **_chat_parts(), vae=flux2_vae(), transformer=klein_transformer(), scheduler=_dynamic(scheduler)
    )


def qwen_image(scheduler: Any = None) -> diffusers.QwenImagePipeline:
    made = diffusers.QwenImagePipeline(
        **_chat_parts(), vae=qwen_vae(), transformer=qwen_transformer(), scheduler=_dynamic(scheduler)
    )
    made.prompt_template_encode, made.prompt_template_encode_start_idx = "{}", 0  # the letters of the prompt alone
    return made


#: Pipelines by kind; each builder takes a scheduler, or uses the one that is usual for the kind.
BUILDERS: dict[str, Callable[..., Any]] = {
    "sd": stable_diffusion,
    "sd_img2img": stable_diffusion_img2img,
    "sd_inpaint": stable_diffusion_inpaint,
    "sd_inpaint_9": stable_diffusion_inpaint_9,
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "flux": flux,
    "pixart": pixart,
    "ddpm": ddpm,
    "ddim": ddim,
    "auraflow": auraflow,
    "cogvideox": cogvideox,
    "ltx": ltx,
    "wan": wan,
    "flux2": flux2,
    "flux2_klein": flux2_klein,
    "qwen": qwen_image,
}
#: What every encode_prompt of the language models is told.
CHAT: dict[str, dict[str, Any]] = {
    **{kind: {"max_sequence_length": 16, "text_encoder_out_layers": (0, 1)} for kind in ("flux2", "flux2_klein")},
    "qwen": {"max_sequence_length": 16},
}
#: Height and width in pixels and the number of frames, of those that make videos.
_FRAMES = {"cogvideox": (16, 9), "ltx": (32, 9), "wan": (16, 5)}


def build(kind: str, scheduler: Any = None) -> Any:
    """A pipeline of this kind, with no progress bar."""
    pipeline = BUILDERS[kind](scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def image(batch: int = 1, seed: int = 11) -> torch.Tensor:
    """An image in [0, 1], shape (B, 3, 16, 16)."""
    return torch.rand((batch, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))


def mask(batch: int = 1) -> torch.Tensor:
    """1 in the right half, shape (B, 1, 16, 16)."""
    return (torch.arange(SIDE) >= SIDE // 2).float().expand(batch, 1, SIDE, SIDE).clone()


def arguments(kind: str, *, steps: int = 5, seed: int | None = 0, batch: int = 1, **more: Any) -> dict[str, Any]:
    """What to call a pipeline of this kind with; the result's first value is a tensor or an array.

    Latents come back where the pipeline can return them, so that no decoder is between them and a comparison.
    """
    given: dict[str, Any] = {"num_inference_steps": steps}
    if seed is not None:
        given["generator"] = torch.Generator().manual_seed(seed)
    if kind in ("ddpm", "ddim"):
        return {**given, "batch_size": batch, "output_type": "np", **more}
    given |= {
        "prompt": [_PROMPT] * batch, "guidance_scale": 3.0, "output_type": "latent", "height": SIDE, "width": SIDE,
    }  # fmt: skip
    if kind == "pixart":
        given |= {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 16}
    if kind in ("sd3", "flux", "auraflow", *_FRAMES):
        given["max_sequence_length"] = 16
    if kind == "qwen":
        given["true_cfg_scale"] = given.pop("guidance_scale")
    given |= CHAT.get(kind, {})
    if kind in _FRAMES:
        size, frames = _FRAMES[kind]
        given |= {"height": size, "width": size, "num_frames": frames}
    if "img2img" in kind or "inpaint" in kind:
        given |= {"image": image(batch), "strength": 0.7}
        if "inpaint" in kind:
            given["mask_image"] = mask(batch)
        else:
            del given["height"], given["width"]
    return {**given, **more}
