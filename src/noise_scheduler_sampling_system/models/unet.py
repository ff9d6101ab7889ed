"""The network class of :func:`~.mnist.mnist_unet`, in its own file because it imports diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from diffusers.models.unets.unet_2d import UNet2DModel

__all__ = ["MNISTUNet"]


@final
class MNISTUNet(UNet2DModel):
    """diffusers' UNet2DModel with a null class, which is the default class, and a stated prediction type."""

    prediction_type = "v_prediction"
    #: Its images are white strokes on black; figures draw them dark on light.
    white_on_black = True

    @property
    def null_class(self) -> int:
        """The label that means any class."""
        return int(self.config["num_class_embeds"]) - 1

    def forward(self, sample: Any, timestep: Any, class_labels: Any = None, return_dict: bool = True) -> Any:
        """The output of UNet2DModel; without labels the class is the null class."""
        if class_labels is None:
            class_labels = torch.full((len(sample),), self.null_class, device=sample.device)
        return super().forward(sample, timestep, class_labels, return_dict=return_dict)

    def null_condition(self, condition: Mapping[str, Any]) -> dict[str, Any]:
        """The null condition: every label becomes the null class."""
        return {name: torch.full_like(torch.as_tensor(value), self.null_class) for name, value in condition.items()}
