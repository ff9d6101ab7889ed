"""What ``generate`` is asked for: every argument made what the run needs, or refused before anything is encoded."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....grids.time_grid import TimeGrid, checked_steps, checked_times
from ....guidance.base import Guidance
from ....guidance.sequence import checked_sequence
from ....plans.plan import SamplingPlan
from ....plans.plan_set import PlanSet
from ....support.argument_checks import as_tensor, checked_dtype, checked_flag, checked_number
from ....support.errors import ConfigurationError, NoiseSamplingError, shown
from .backbones import Backbone

__all__ = ["Request", "checked_run", "refused_by_diffusers"]

_OUTPUTS = ("pil", "np", "pt", "latent")


@dataclass(frozen=True)
class Request:
    """What ``generate`` was asked for; see :meth:`DiffusionPipeline.generate`."""

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

    def checked(self, backbone: Backbone) -> Request:
        """The same, each argument looked at for itself.

        Raises:
            ConfigurationError: one that means nothing.
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
            num_images_per_prompt=checked_steps(self.num_images_per_prompt, "num_images_per_prompt"),
            num_inference_steps=checked_steps(self.num_inference_steps),
            guidance_scale=None if scale is None else checked_number(scale, "guidance_scale"),
            guidance=None if self.guidance is None else checked_sequence(self.guidance),
            image=_image(self.image, "image"),
            mask_image=_image(self.mask_image, "mask_image"),
            strength=None if strength is None else float(strength),
            keep_known=checked_flag(self.keep_known, "keep_known"),
            encode_options=_encode_options(self.encode_options, backbone),
        )


def checked_run(options: Mapping[str, Any]) -> dict[str, Any]:
    """What is passed on to ``sample``, as far as it is read before.

    Raises:
        ConfigurationError: a plan, a grid, times, a start or a type that is none.
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
    return given


_READ = ("plan", "grid", "timesteps", "initial_noise", "initial_sample", "seed", "generator", "dtype")


@contextlib.contextmanager
def refused_by_diffusers(where: str, suggestion: str) -> Iterator[None]:
    """Name the argument that diffusers' own code could not work with.

    Raises:
        ConfigurationError: from whatever it raised; memory that ran out is another matter.
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
    return ConfigurationError(f"got {shown(value)}", where=where, suggestion=suggestion)


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
    return None if value is None else checked_steps(value, where)


def _image(value: Any, where: str) -> Any:
    """A picture, or several, that diffusers may be asked to read."""
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
