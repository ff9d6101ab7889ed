"""The arguments of ``generate``, checked before anything is encoded."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ....grids.time_grid import TimeGrid
from ....guidance.base import Guidance
from ....guidance.sequence import checked_sequence
from ....pipeline.request import DefaultScale
from ....plans.plan import SamplingPlan
from ....plans.plan_set import PlanSet
from ....support.argument_checks import (
    as_tensor,
    checked_count,
    checked_dtype,
    checked_flag,
    checked_number,
    checked_times,
)
from ....support.errors import ConfigurationError, NoiseSamplingError, shown
from .backbones import Backbone, Prompt

__all__ = ["ImageRequest", "checked_run_options", "frames_of", "prompt_of", "refused_by_diffusers", "size_of"]

_OUTPUTS = ("pil", "np", "pt", "latent")


@final
@dataclass(frozen=True)
class ImageRequest:
    """The arguments of :meth:`DiffusersPipeline.generate`."""

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None
    class_labels: int | Sequence[int] | Tensor | None = None
    height: int | None = None
    width: int | None = None
    num_images_per_prompt: int = 1
    num_inference_steps: int = 50
    guidance_scale: float | None = None
    guidance: Guidance | Sequence[Guidance] | None = None
    image: Any = None
    mask_image: Any = None
    strength: float | None = None
    keep_known: bool = True
    output_type: str = "pil"
    encode_options: Mapping[str, Any] | None = None
    num_frames: int | None = None

    def checked(self, backbone: Backbone) -> ImageRequest:
        """The request with every argument in the form that the run needs; each is checked on its own.

        Raises:
            ConfigurationError: an argument of a wrong type or out of range.
        """
        if not isinstance(self.output_type, str) or self.output_type not in _OUTPUTS:
            raise _wrong(self.output_type, "output_type", "give 'pil', 'np', 'pt' or 'latent'")
        scale, strength = self.guidance_scale, self.strength
        if strength is not None and checked_number(strength, "strength", 0.0, 1.0) == 0.0:
            raise _wrong(strength, "strength", "give a number in (0, 1]")
        return replace(
            self,
            prompt=_texts(self.prompt, "prompt"),
            negative_prompt=_texts(self.negative_prompt, "negative_prompt"),
            class_labels=_labels(self.class_labels),
            height=_pixels(self.height, "height"),
            width=_pixels(self.width, "width"),
            num_images_per_prompt=checked_count(self.num_images_per_prompt, "num_images_per_prompt"),
            num_inference_steps=checked_count(self.num_inference_steps),
            guidance_scale=None if scale is None else checked_number(scale, "guidance_scale"),
            guidance=None if self.guidance is None else checked_sequence(self.guidance),
            image=_image(self.image, "image"),
            mask_image=_image(self.mask_image, "mask_image"),
            strength=None if strength is None else float(strength),
            keep_known=checked_flag(self.keep_known, "keep_known"),
            encode_options=_encode_options(self.encode_options, backbone),
            num_frames=None if self.num_frames is None else checked_count(self.num_frames, "num_frames"),
        )


def prompt_of(request: ImageRequest, backbone: Backbone, plan: SamplingPlan | None = None) -> Prompt:
    """The prompt of a checked request; its arguments are checked against each other and against the pipeline.

    Args:
        request: what to draw.
        backbone: of the pipeline.
        plan: of the run, where it is given; one that holds guidance evaluates two branches.

    Raises:
        ConfigurationError: arguments that do not go together, or that the pipeline cannot use.
    """
    labels: Any = request.class_labels  # a tensor, once checked
    given = {"prompt": request.prompt, "class_labels": labels, "negative_prompt": request.negative_prompt}
    for name, value in given.items():
        if value is not None and name.removeprefix("negative_") != backbone.conditioned_on:
            raise _refused(f"{type(backbone).__name__} takes no {name}", name, f"give {backbone.conditioned_on}")
    if backbone.requires_condition and given[backbone.conditioned_on] is None:
        raise _refused("is missing", backbone.conditioned_on, "give one, or a list of them")
    if backbone.conditioned_on == "prompt" and (request.prompt is not None or request.negative_prompt is not None):
        _refuse_missing_parts(backbone.pipe)
    if request.image is None and (request.mask_image is not None or request.strength is not None):
        name = "strength" if request.mask_image is None else "mask_image"
        raise _refused("is given without an image", name, "give image=..., too")
    if request.guidance is not None and request.guidance_scale is not None and not backbone.scale_is_input:
        raise _refused("is given beside guidance", "guidance_scale", "put ClassifierFree(scale) into guidance")
    if request.image is not None and not backbone.starts_from_image:
        raise _refused(
            f"{type(backbone).__name__} starts from text here", "image",
            "run our sampler inside the pipeline that takes an image: PlanScheduler.from_config(pipe.scheduler)",
        )  # fmt: skip
    height, width = size_of(request, backbone)
    texts = [request.prompt, request.negative_prompt]
    lengths = {len(text) for text in texts if text is not None and not isinstance(text, str)}
    if len(lengths) > 1:
        raise _refused("has another length than prompt", "negative_prompt", "give one text, or one a prompt")
    scale = backbone.default_scale if request.guidance_scale is None else request.guidance_scale
    if request.guidance_scale is None or backbone.scale_is_input:  # it asks for no scale of two branches
        scale = DefaultScale(scale)
    guided = scale != 1.0 and not backbone.scale_is_input
    guided = guided and (request.negative_prompt is not None or not backbone.needs_negative)
    two_branches = request.guidance is not None or guided or (plan is not None and plan.scale is not None)
    return Prompt(
        request.prompt, request.negative_prompt, labels, request.num_images_per_prompt,
        backbone.has_null_branch and two_branches, scale, height, width, dict(request.encode_options or {}),
        frames_of(request, backbone), request.num_inference_steps,
    )  # fmt: skip


def size_of(request: ImageRequest, backbone: Backbone) -> tuple[int, int]:
    """Height and width of the images of a checked request, in pixels.

    Raises:
        ConfigurationError: one of them is no whole number of the network's patches.
    """
    height = request.height or backbone.default_height or backbone.default_size
    width = request.width or backbone.default_width or backbone.default_size
    for name, pixels in {"height": height, "width": width}.items():
        if pixels % backbone.pixel_multiple:
            raise _refused(f"got {pixels}", name, f"give a multiple of {backbone.pixel_multiple}")
    return height, width


def frames_of(request: ImageRequest, backbone: Backbone) -> int:
    """The number of frames of the videos of a checked request; 1 for images.

    Raises:
        ConfigurationError: frames of an image, or a number that entries of x do not make.
    """
    frames = backbone.default_frames if request.num_frames is None else request.num_frames
    if frames != 1 and backbone.default_frames == 1:
        raise _refused(f"{type(backbone).__name__} makes images", "num_frames", "leave it out")
    if (frames - 1) % backbone.frames_per_entry:
        lower = frames - 1 - (frames - 1) % backbone.frames_per_entry
        nearest = f"{lower + 1} or {lower + 1 + backbone.frames_per_entry}"
        raise _refused(
            f"got {frames}", "num_frames", f"give {nearest}: 1 and a multiple of {backbone.frames_per_entry}"
        )
    return frames


def _refuse_missing_parts(pipe: Any) -> None:
    """Raise for a pipeline that was loaded without any of the parts that read text; some of them may be left out.

    Raises:
        ConfigurationError: all tokenizers or all text encoders are missing.
    """
    for kind in ("tokenizer", "text_encoder"):
        parts = [name for name in (kind, f"{kind}_2", f"{kind}_3") if hasattr(pipe, name)]
        if parts and all(getattr(pipe, name) is None for name in parts):
            raise _refused(
                f"the pipeline has no {kind}, which reads the prompt",
                "prompt",
                f"load the pipeline with its {kind}, or give embeddings: "
                'sample(pipe.unet, shape, condition={"encoder_hidden_states": embeddings})',
            )


def checked_run_options(options: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The options that are passed on to ``sample``; those that ``generate`` itself reads are checked.

    Args:
        options: the options.
        steps: N, which picks a plan out of a :class:`PlanSet`.

    Raises:
        ConfigurationError: a wrong plan, grid, times, start or dtype.
    """
    given = {name: value for name, value in options.items() if value is not None or name not in _READ}
    for name, kinds in {"plan": (SamplingPlan, PlanSet), "grid": (TimeGrid,)}.items():
        if name in given and not isinstance(given[name], kinds):
            raise _wrong(given[name], name, f"give a {kinds[0].__name__}")
    for name in given.keys() & {"initial_noise", "initial_sample"}:
        given[name] = as_tensor(given[name], name)
    if "timesteps" in given:
        given["timesteps"] = checked_times(given["timesteps"])
    if "dtype" in given:
        given["dtype"] = checked_dtype(given["dtype"], None)
    if "classifier_free_guidance" in given:
        given["classifier_free_guidance"] = checked_flag(given["classifier_free_guidance"], "classifier_free_guidance")
    if isinstance(given.get("plan"), PlanSet):
        given["plan"] = given["plan"].pick(steps)
    return given


_READ = ("plan", "grid", "timesteps", "initial_noise", "initial_sample", "seed", "generator", "dtype")


@contextlib.contextmanager
def refused_by_diffusers(where: str, suggestion: str) -> Iterator[None]:
    """A context that names the argument on which diffusers' own code fails.

    Raises:
        ConfigurationError: from any exception inside, except those of this library and of exhausted memory.
    """
    try:
        yield
    except (NoiseSamplingError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ConfigurationError(
            f"diffusers cannot work with it ({type(error).__name__})",
            where=where,
            why=next(iter(str(error).splitlines()), "")[:300],
            suggestion=suggestion,
        ) from error


def _wrong(value: Any, where: str, suggestion: str) -> ConfigurationError:
    return _refused(f"got {shown(value)}", where, suggestion)


def _refused(what: str, where: str, suggestion: str) -> ConfigurationError:
    return ConfigurationError(what, where=where, suggestion=suggestion)


def _texts(value: Any, where: str) -> str | list[str] | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, list | tuple) or not value or not all(isinstance(text, str) for text in value):
        raise _wrong(value, where, "give a text, or a list of texts")
    return list(value)


def _labels(value: Any) -> Tensor | None:
    if value is None:
        return None
    try:
        labels = torch.as_tensor(value.tolist() if isinstance(value, np.ndarray | Tensor) else value)
    except (TypeError, ValueError, RuntimeError, NotImplementedError, OverflowError):
        labels = torch.empty(0)
    if labels.dtype is not torch.int64 or labels.ndim > 1 or not labels.numel() or int(labels.min()) < 0:
        raise _wrong(value, "class_labels", "give the number of a class, or a list of them")
    return labels.reshape(-1)


def _pixels(value: Any, where: str) -> int | None:
    return None if value is None else checked_count(value, where)


def _image(value: Any, where: str) -> Any:
    """An image, or several, of a type that diffusers reads."""
    if value is None:
        return None
    from PIL.Image import Image  # with diffusers

    several = isinstance(value, list | tuple)
    if several and not value:
        raise _wrong(value, where, "give an image, or several")
    for each in value if several else (value,):
        if isinstance(each, Image):
            continue
        if not isinstance(each, np.ndarray | Tensor):
            raise _wrong(each, where, "give PIL images, or arrays or tensors of numbers in [0, 1]")
        pixels = as_tensor(each, where)
        if not 2 <= pixels.ndim <= 4 or not pixels.numel():
            raise _wrong(each, where, "give (height, width, channels) arrays or (channels, height, width) tensors")
        if not bool(torch.isfinite(pixels).all()):
            raise ConfigurationError("holds NaN or Inf", where=where, suggestion="check how it was made")
    return list(value) if several else value


def _encode_options(value: Any, backbone: Backbone) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise _wrong(value, "encode_options", "give a mapping of keywords of the pipeline's encode_prompt")
    encode = getattr(backbone.pipe, "encode_prompt", None)
    known = list(inspect.signature(encode).parameters) if encode is not None else []
    for name in value:
        if name not in known:
            raise ConfigurationError(
                f"{type(backbone.pipe).__name__}.encode_prompt takes no {name!r}" if known else "there is no prompt",
                where=f"encode_options[{name!r}]",
                suggestion=f"it takes {', '.join(known)}" if known else "leave it out",
            )
    return dict(value)
