"""What a run needs of a pipeline of diffusers: a network, conditions, the shape of x, the way from and to images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = ["Backbone", "Condition", "Prompt", "Wrapped"]

#: (condition, null condition); None where there is none.
Condition = tuple[dict[str, Any], dict[str, Any] | None]


@dataclass(frozen=True)
class Prompt:
    """What is asked for.

    Attributes:
        text: one prompt, one an image, or None.
        negative: the same for the unconditional branch.
        labels: classes, one an image.
        count: images a prompt.
        opposed: whether an unconditional branch is wanted.
        scale: the guidance scale, for networks that are told it.
        height, width: of the images, in pixels.
        options: further keywords of the pipeline's ``encode_prompt``.
    """

    text: str | Sequence[str] | None
    negative: str | Sequence[str] | None
    labels: Tensor | None
    count: int
    opposed: bool
    scale: float
    height: int
    width: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """The number of images."""
        if self.labels is not None:
            return len(self.labels) * self.count
        return (1 if self.text is None or isinstance(self.text, str) else len(self.text)) * self.count


class Wrapped(torch.nn.Module):
    """A network that is called in another way. As a module, so that its device and type are known."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.training = bool(inner.training)


class Backbone(ABC):
    """One family of pipelines.

    Args:
        pipe: the pipeline, whose parts are used where they are.

    Attributes:
        scale: the guidance scale where none is given, as in the pipeline.
        takes: what it is conditioned on, an argument of ``generate``: "prompt" or "class_labels".
        requires: whether that must be given.
        opposes: whether there is an unconditional branch to it.
        told_scale: whether the guidance scale is an input of the network, not that of two branches.
        drops_variance: whether the network returns a variance that is not used.
    """

    scale: ClassVar[float] = 1.0
    takes: ClassVar[str] = "prompt"
    requires: ClassVar[bool] = True
    opposes: ClassVar[bool] = True
    told_scale: ClassVar[bool] = False
    drops_variance: ClassVar[bool] = False

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.processor = self._processor()

    @property
    @abstractmethod
    def network(self) -> torch.nn.Module:
        """The model of the run: (x, t, **condition) ↦ prediction."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of x."""

    @abstractmethod
    def condition(self, prompt: Prompt) -> Condition:
        """The prompt as conditions of the network, one row an image."""

    @property
    def size(self) -> int:
        """Height and width of the images where none are given."""
        return int(self._sample_size) * self.factor

    @property
    def factor(self) -> int:
        """Pixels to one entry of x."""
        return int(self.pipe.vae_scale_factor)

    @property
    def multiple(self) -> int:
        """Height and width are multiples of this."""
        return self.factor

    @property
    def device(self) -> torch.device:
        """Where the network is run."""
        found = getattr(self.pipe, "_execution_device", self.pipe.device)
        return torch.device(found)

    def shape(self, prompt: Prompt) -> tuple[int, ...]:
        """The shape of x."""
        return prompt.batch, self.channels, prompt.height // self.factor, prompt.width // self.factor

    def mu(self, prompt: Prompt) -> float | None:
        """μ of the shift by resolution, for networks that have one."""
        return None

    def request(self, steps: int) -> dict[str, Any]:
        """What its pipeline asks the scheduler's ``set_timesteps``."""
        return {"num_inference_steps": steps}

    def encode(self, image: Any, prompt: Prompt) -> Tensor:
        """An image (PIL, array or tensor in [0, 1], or several) as clean x."""
        return self.latents(self.pixels(image, prompt))

    def pixels(self, image: Any, prompt: Prompt) -> Tensor:
        """An image of the size asked for, in [−1, 1]."""
        pixels: Tensor = self.processor.preprocess(image, height=prompt.height, width=prompt.width)
        return pixels.to(self.device)

    def latents(self, pixels: Tensor) -> Tensor:
        """Images in [−1, 1] as clean x, by the mean of the encoder."""
        vae = self.pipe.vae
        with torch.no_grad():
            mean: Tensor = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
        return (mean.float() - self._shift) * self._factor

    def decode(self, x: Tensor) -> Tensor:
        """Clean x as images in [−1, 1]."""
        vae = self.pipe.vae
        narrow = vae.dtype == torch.float16 and vae.config.get("force_upcast", False)
        if narrow:  # its activations leave half precision's range
            vae.to(torch.float32)
        with torch.no_grad():
            latents = x / self._factor + self._shift
            images: Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        if narrow:
            vae.to(torch.float16)
        return images

    def mask(self, mask: Any, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """A mask as 0 and 1, of the images' size and of x's; 1 is to be made."""
        from diffusers.image_processor import VaeImageProcessor

        processor = VaeImageProcessor(
            vae_scale_factor=self.factor, do_normalize=False, do_binarize=True, do_convert_grayscale=True
        )
        pixels = processor.preprocess(mask, height=prompt.height, width=prompt.width).to(self.device)
        return pixels, torch.nn.functional.interpolate(pixels, size=self.shape(prompt)[-2:])

    def inpainting(self, image: Any, mask: Tensor, prompt: Prompt) -> dict[str, Tensor]:
        """Conditions of networks made for inpainting, which see the mask and the rest of the image."""
        return {}

    def images(self, decoded: Tensor, output_type: str) -> Any:
        """Decoded images as PIL images, an array or a tensor in [0, 1]."""
        return self.processor.postprocess(decoded.float(), output_type=output_type)

    @property
    def _sample_size(self) -> int:
        return int(self._inner.config.sample_size)

    @property
    def _inner(self) -> Any:
        """The network of the pipeline."""
        return getattr(self.pipe, "unet", None) or self.pipe.transformer

    @property
    def _factor(self) -> float:
        return float(self.pipe.vae.config.scaling_factor)

    @property
    def _shift(self) -> float:
        return float(self.pipe.vae.config.get("shift_factor") or 0.0)

    def _processor(self) -> Any:
        found = getattr(self.pipe, "image_processor", None)
        if found is not None:
            return found
        from diffusers.image_processor import VaeImageProcessor

        return VaeImageProcessor(vae_scale_factor=self.factor)
