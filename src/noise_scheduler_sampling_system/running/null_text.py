"""Zeros for the text that networks of diffusers require."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

import torch

__all__ = ["null_text"]

#: The number of tokens of Stable Diffusion's text encoders.
_TEXT_LENGTH: Final = 77


def null_text(model: Any, parameters: Mapping[str, inspect.Parameter], batch: int) -> dict[str, Any]:
    """Zeros for each text input, of the shape in the model's config; nothing for models without one.

    Args:
        model: any model.
        parameters: of its call, by name.
        batch: B.

    Returns:
        Keywords of the model, float32 on the CPU.
    """
    config = getattr(model, "config", None)
    if config is None:
        return {}

    def size(*names: str) -> Any:
        values = (getattr(config, name, None) for name in names)
        value = next((v for v in values if v is not None), None)
        return max(value) if isinstance(value, list | tuple) else value

    def required(name: str) -> bool:
        return name in parameters and parameters[name].default in (inspect.Parameter.empty, None)

    result: dict[str, Any] = {}
    width = size("encoder_hid_dim", "joint_attention_dim", "caption_channels", "cross_attention_dim")
    # networks of diffusers need text, even where their signature has a default
    if width and "encoder_hidden_states" in parameters and isinstance(model, torch.nn.Module):
        result["encoder_hidden_states"] = torch.zeros(batch, _TEXT_LENGTH, width)
    pooled = size("pooled_projection_dim")
    if pooled and required("pooled_projections"):
        result["pooled_projections"] = torch.zeros(batch, pooled)
    if size("addition_embed_type") == "text_time" and required("added_cond_kwargs"):  # SDXL
        total, each = size("projection_class_embeddings_input_dim"), size("addition_time_embed_dim")
        if total and each:
            embeds, ids = torch.zeros(batch, total - 6 * each), torch.zeros(batch, 6)
            result["added_cond_kwargs"] = {"text_embeds": embeds, "time_ids": ids}
    return result
