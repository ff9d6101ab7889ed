"""One interface to the families of diffusers' pipelines: network, conditions, shape of x, encoder and decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from .....guidance.base import Guidance
from .....schedules.continuous import resolution_shift
from .....support.registry import Registry

__all__ = ["BACKBONES", "Backbone", "Conditions", "Prompt", "WrappedNetwork", "register_backbone"]

#: (conditions of the network, conditions of the unconditional branch or None).
Conditions = tuple[dict[str, Any], dict[str, Any] | None]


@final
@dataclass(frozen=True)
class Prompt:
    """What a pipeline is to draw, checked.

    Attributes:
        text: one prompt, one prompt an image, or None.
        negative: the same for the unconditional branch.
        labels: classes, one an image.
        images_per_prompt: the number of images of each prompt or class.
        with_null: whether the run evaluates an unconditional branch.
        scale: the guidance scale, for networks that are told it.
        height, width: of the images, in pixels.
        encode_options: further keywords of the pipeline's ``encode_prompt``.
        frames: of each video; 1 for images.
        steps: N of the run.
    """

    text: str | Sequence[str] | None
    negative: str | Sequence[str] | None
    labels: Tensor | None
    images_per_prompt: int
    with_null: bool
    scale: float
    height: int
    width: int
    encode_options: Mapping[str, Any] = field(default_factory=dict)
    frames: int = 1
    steps: int = 50

    @property
    def negatives(self) -> str | list[str]:
        """The text of the unconditional branch, one for each prompt where there are several; "" where none is given."""
        negative = self.negative if self.negative is not None else ""
        if isinstance(negative, str) and not isinstance(self.text, str) and self.text is not None:
            return [negative] * len(self.text)
        return negative if isinstance(negative, str) else list(negative)

    @property
    def batch(self) -> int:
        """The number of images."""
        if self.labels is not None:
            return len(self.labels) * self.images_per_prompt
        return (1 if self.text is None or isinstance(self.text, str) else len(self.text)) * self.images_per_prompt


class WrappedNetwork(torch.nn.Module):
    """A network that is called in another way. It is a module so that its device and dtype are known."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.training = bool(inner.training)


class Backbone(ABC):
    """One family of pipelines. A subclass says what its network is told; register it by :func:`register_backbone`.

    Args:
        pipe: the pipeline, whose parts are used where they are.

    Attributes:
        default_scale: the guidance scale where none is given, as in the pipeline.
        conditioned_on: the argument of ``generate`` that conditions the network: "prompt" or "class_labels".
        requires_condition: whether that argument must be given.
        has_null_branch: whether the network has an unconditional branch.
        scale_is_input: whether the network is told the guidance scale, which then does not make a second branch.
        needs_negative: whether the unconditional branch runs only with a negative prompt.
        drops_variance: whether the network returns a variance that is not used.
        starts_from_image: whether a run may start from an image.
        default_frames: frames of a video where no number is given; 1: the pipeline makes images.
        default_height, default_width: in pixels where none are given; None: :attr:`default_size`.
        max_shift: μ at the largest image size, where the scheduler's config does not say it.
        even_sigmas: whether its pipelines give N even σ from 1 to 1/N to the scheduler.
    """

    default_scale: ClassVar[float] = 1.0
    conditioned_on: ClassVar[str] = "prompt"
    requires_condition: ClassVar[bool] = True
    has_null_branch: ClassVar[bool] = True
    scale_is_input: ClassVar[bool] = False
    needs_negative: ClassVar[bool] = False
    drops_variance: ClassVar[bool] = False
    starts_from_image: ClassVar[bool] = True
    default_frames: ClassVar[int] = 1
    default_height: ClassVar[int | None] = None
    default_width: ClassVar[int | None] = None
    max_shift: ClassVar[float] = 1.15
    even_sigmas: ClassVar[bool] = False

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.processor = self._processor()

    @abstractmethod
    def conditions(self, prompt: Prompt) -> Conditions:
        """The prompt as conditions of the network, one row an image."""

    @property
    def network(self) -> torch.nn.Module:
        """The model of the run: (x, t, **conditions) ↦ prediction. Default: the pipeline's U-Net or transformer."""
        network: torch.nn.Module = self._inner
        return network

    @property
    def channels(self) -> int:
        """Channels of x. Default: the network's input channels."""
        return int(self._inner.config.in_channels)

    @property
    def default_size(self) -> int:
        """Height and width of the images where none are given, in pixels."""
        return int(self._inner.config.sample_size) * self.pixels_per_entry

    @property
    def pixels_per_entry(self) -> int:
        """The size in pixels of one entry of x."""
        return int(self.pipe.vae_scale_factor)

    @property
    def pixel_multiple(self) -> int:
        """Height and width are multiples of this. Default: whole patches of the network."""
        return self.pixels_per_entry * int(self._inner.config.get("patch_size") or 1)

    @property
    def frames_per_entry(self) -> int:
        """The number of frames of one entry of x, after the first frame."""
        return 1

    @property
    def device(self) -> torch.device:
        """The device of the run."""
        found = getattr(self.pipe, "_execution_device", self.pipe.device)
        return torch.device(found)

    def shape(self, prompt: Prompt) -> tuple[int, ...]:
        """The shape of x, (B, C, height, width)."""
        return (
            prompt.batch,
            self.channels,
            prompt.height // self.pixels_per_entry,
            prompt.width // self.pixels_per_entry,
        )

    def tokens(self, prompt: Prompt) -> int:
        """The length of the sequence that the network sees, on which a shift by resolution depends."""
        return (prompt.height // self.pixel_multiple) * (prompt.width // self.pixel_multiple)

    def guidance(self, scale: float) -> Sequence[Guidance]:
        """The guidance of this scale in its pipeline; empty: classifier-free guidance."""
        return ()

    def mu(self, prompt: Prompt) -> float | None:
        """μ of the shift by resolution, with the constants of the scheduler's config; None: it has no such shift."""
        config = self.pipe.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return None
        return resolution_shift(
            self.tokens(prompt),
            base_tokens=config.get("base_image_seq_len", 256),
            max_tokens=config.get("max_image_seq_len", 4096),
            base=config.get("base_shift", 0.5),
            maximum=config.get("max_shift", self.max_shift),
            kind="linear",
        )

    def set_timesteps_arguments(self, steps: int) -> dict[str, Any]:
        """The arguments that its pipeline gives to the scheduler's ``set_timesteps``."""
        sigmas = {"sigmas": np.linspace(1.0, 1 / steps, steps)} if self.even_sigmas else {}
        return {"num_inference_steps": steps, **sigmas}

    def encode(self, image: Any, prompt: Prompt) -> Tensor:
        """An image (PIL, array or tensor in [0, 1], or several) as clean x."""
        return self.latents(self.pixels(image, prompt))

    def pixels(self, image: Any, prompt: Prompt) -> Tensor:
        """An image of the prompt's size, in [−1, 1]."""
        pixels: Tensor = self.processor.preprocess(image, height=prompt.height, width=prompt.width)
        return pixels.to(self.device)

    def latents(self, pixels: Tensor) -> Tensor:
        """Images in [−1, 1] as clean x: the mean of the encoder's distribution."""
        vae = self.pipe.vae
        with torch.no_grad():
            mean: Tensor = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
        return (mean.float() - self._shift) * self._factor

    def decode(self, x: Tensor) -> Tensor:
        """Clean x as images in [−1, 1]."""
        vae = self.pipe.vae
        narrow = vae.dtype == torch.float16 and vae.config.get("force_upcast", False)
        if narrow:  # its activations exceed the range of half precision
            vae.to(torch.float32)
        with torch.no_grad():
            latents = x / self._factor + self._shift
            images: Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        if narrow:
            vae.to(torch.float16)
        return images

    def mask(self, mask: Any, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """A mask of 0 and 1, in the images' size and in x's; 1 is drawn anew."""
        from diffusers.image_processor import VaeImageProcessor

        processor = VaeImageProcessor(
            vae_scale_factor=self.pixels_per_entry, do_normalize=False, do_binarize=True, do_convert_grayscale=True
        )
        pixels = processor.preprocess(mask, height=prompt.height, width=prompt.width).to(self.device)
        return pixels, torch.nn.functional.interpolate(pixels, size=self.shape(prompt)[-2:])

    def inpainting(self, image: Any, mask: Tensor, prompt: Prompt) -> dict[str, Tensor]:
        """Conditions of networks for inpainting, which see the mask and the rest of the image."""
        return {}

    def images(self, decoded: Tensor, output_type: str) -> Any:
        """Decoded images as PIL images, an array or a tensor in [0, 1]."""
        return self.processor.postprocess(decoded.float(), output_type=output_type)

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

        return VaeImageProcessor(vae_scale_factor=self.pixels_per_entry)


#: Families by the class names of their pipelines.
BACKBONES: Registry[type[Backbone]] = Registry("pipeline of diffusers")
B = TypeVar("B", bound=type[Backbone])


def register_backbone(*pipelines: str) -> Callable[[B], B]:
    """A decorator that makes ``DiffusionPipeline.from_diffusers`` use a :class:`Backbone` for these pipelines.

    Args:
        pipelines: names of classes of diffusers; their subclasses are included.

    Raises:
        ConfigurationError: a name is taken by another class.
    """

    def register(backbone: B) -> B:
        for name in pipelines:
            BACKBONES.register(name, backbone)
        return backbone

    return register
