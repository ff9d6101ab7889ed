"""A model by the name that a command is given: embedded, importable, or the folder of a pipeline of diffusers."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor

from ..config.settings import NoiseSchedulerConfig
from ..models.mnist import mnist_unet
from ..pipeline.pipeline import DiffusionPipeline
from ..running.placement import resolve_device
from ..running.stated_prediction import stated_prediction
from ..support.errors import ConfigurationError, shown
from .named_objects import named_object

__all__ = ["EMBEDDED", "NamedModel", "named_model"]

#: The names of the embedded models, with the number of their classes.
EMBEDDED: Final[Mapping[str, int]] = {"digits": 10, "mnist": 10}
#: The file that says what a folder of diffusers holds.
_INDEX: Final = "model_index.json"


@final
@dataclass(frozen=True)
class NamedModel:
    """A model, and what its name tells about it.

    Attributes:
        name: as given.
        model: what ``sample`` takes as ``model``; None for the embedded digits, which each path makes for itself.
        shape: of one sample, without the batch; None where it is not known.
        num_classes: the model takes ``class_labels`` below it; None where it takes none, or it is not known.
        settings: the fields of a config that the model implies.
        pipe: the pipeline of diffusers that the model is a part of; None for other models.
    """

    name: str
    model: Any = None
    shape: tuple[int, ...] | None = None
    num_classes: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    pipe: Any = None

    def on(self, device: str | torch.device = "auto") -> NamedModel:
        """The model on a device.

        Args:
            device: "auto": a model that this module loaded goes to CUDA or MPS where there is one; an attribute of a
                module stays where its owner put it.

        Raises:
            DeviceError: the device is unknown or not available.
        """
        own = self.name in EMBEDDED or Path(self.name).is_dir()
        if device == "auto" and not own:
            return self
        place = resolve_device(device, None)
        if self.pipe is not None:
            return replace(self, pipe=self.pipe.to(place))
        if isinstance(self.model, torch.nn.Module):
            return replace(self, model=self.model.to(place))
        return self

    def pipeline(
        self,
        method: str | None = None,
        *,
        preset: str | None = None,
        settings: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> DiffusionPipeline:
        """A pipeline that fits the model.

        Args:
            method: the sampler; None: that of the pipeline of diffusers, else ddim.
            preset: the settings of a published model; not for a pipeline of diffusers, which has its own.
            settings: fields of the config, which replace what the model and the preset imply.
            options: of the sampler.

        Raises:
            ConfigurationError: a wrong setting or option.
        """
        fields, chosen = {**self.settings, **(settings or {})}, dict(options or {})
        if self.pipe is not None:
            if preset is not None:
                raise ConfigurationError(
                    f"{self.name} has its own settings", where="preset", suggestion="leave the preset out"
                )
            return DiffusionPipeline.from_diffusers(self.pipe, method, **fields, **chosen)
        config = NoiseSchedulerConfig(**fields) if preset is None else NoiseSchedulerConfig.preset(preset, **fields)
        return DiffusionPipeline(config, method or "ddim", **chosen)

    def arguments(
        self,
        pipeline: DiffusionPipeline,
        *,
        batch: int = 1,
        shape: Sequence[int] | None = None,
        labels: Sequence[int] | None = None,
        prompt: Sequence[str] | None = None,
        negative_prompt: Sequence[str] | None = None,
        guidance_scale: float | None = None,
        steps: int | None = None,
    ) -> dict[str, Any]:
        """The arguments ``model``, ``shape``, ``condition``, ... of ``pipeline.sample``.

        Args:
            pipeline: one that :meth:`pipeline` made.
            batch: the number of samples where neither labels nor prompts say it.
            shape: of one sample; default: the model's own.
            labels: ``class_labels``, one a sample.
            prompt, negative_prompt: texts for a pipeline of diffusers, one a sample.
            guidance_scale: as for ``sample``; None: the default there.
            steps: of the run. The arguments then hold ``num_inference_steps``, and the levels that a pipeline of
                diffusers visits in this number of steps.

        Raises:
            ConfigurationError: an argument that the model does not take, or no shape.
        """
        if self.pipe is not None:
            if shape is not None:
                raise ConfigurationError(f"{self.name} has its own shape", where="shape", suggestion="leave it out")
            given = {
                "prompt": prompt, "negative_prompt": negative_prompt, "class_labels": labels,
                "guidance_scale": guidance_scale, "num_inference_steps": steps,
            }  # fmt: skip
            count = batch if prompt is None and labels is None else 1
            return _own_inputs(pipeline, {k: v for k, v in given.items() if v is not None}, count)
        for name, value in (("prompt", prompt), ("negative_prompt", negative_prompt)):
            if value is not None:
                raise ConfigurationError(
                    f"{self.name} takes none", where=name, suggestion="give labels, or the folder of a pipeline"
                )
        size = self.shape if shape is None else tuple(shape)
        if size is None:
            raise ConfigurationError("is missing", where="shape", suggestion="give that of one sample, e.g. 3,64,64")
        condition = None if labels is None else {"class_labels": torch.tensor(list(labels))}
        scale = {} if guidance_scale is None or labels is None else {"guidance_scale": guidance_scale}
        count = batch if labels is None else len(labels)
        run = {} if steps is None else {"num_inference_steps": steps}
        return {"model": self.model, "shape": (count, *size), "condition": condition, **scale, **run}

    @property
    def white_on_black(self) -> bool:
        """Whether its images are white strokes on black, which figures draw dark on light."""
        return self.name in EMBEDDED or bool(getattr(self.model, "white_on_black", False))

    def pictures(self, pipeline: DiffusionPipeline, samples: Tensor) -> Tensor:
        """Samples as images in [−1, 1]: decoded where the pipeline samples latents.

        Args:
            pipeline: one that :meth:`pipeline` made.
            samples: shape (B, ...).
        """
        backbone = getattr(pipeline, "backbone", None)
        if backbone is None:
            return samples
        with torch.no_grad():
            decoded: Tensor = backbone.images(backbone.decode(samples), "pt")
        return decoded * 2.0 - 1.0


def _own_inputs(pipeline: Any, given: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The inputs of a pipeline of diffusers; ``count`` images of each prompt or class."""
    arguments: dict[str, Any] = pipeline.inputs(num_images_per_prompt=count, **given)
    return arguments


def named_model(name: str) -> NamedModel:
    """The model of a name: ``digits``, ``mnist``, ``module:attribute``, or a folder that diffusers saved.

    An attribute is a callable ``(x, t, **condition)``, or a pipeline of diffusers. Modules in the current folder are
    found, as by ``python -m``.

    Raises:
        ConfigurationError: no such model.
    """
    if name == "digits":
        return NamedModel(name, shape=(1, 8, 8), num_classes=EMBEDDED[name])
    if name == "mnist":
        return NamedModel(name, mnist_unet(), (1, 28, 28), EMBEDDED[name], {"prediction_type": "v_prediction"})
    if Path(name).is_dir():
        return _of_folder(Path(name))
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ConfigurationError(
            f"got {shown(name)}",
            where="model",
            suggestion="give digits, mnist, module:attribute (e.g. mymodels:unet), or a folder that diffusers saved",
        )
    return _of_module(name)


def _of_module(name: str) -> NamedModel:
    found = named_object(name, "model")
    if hasattr(found, "scheduler") and hasattr(found, "components"):
        return NamedModel(name, pipe=found)
    if not callable(found):
        raise ConfigurationError(
            f"{shown(name)} is of type {type(found).__name__}",
            where="model",
            suggestion="name a callable (x, t, **condition)",
        )
    stated = stated_prediction(found)
    settings = {} if stated is None else {"prediction_type": stated.prediction_type}
    shape, classes = getattr(found, "shape", None), getattr(found, "num_classes", None)
    return NamedModel(
        name, found,
        tuple(shape) if isinstance(shape, tuple | list | torch.Size) else None,
        classes if isinstance(classes, int) else None, settings,
    )  # fmt: skip


def _of_folder(folder: Path) -> NamedModel:
    if not (folder / _INDEX).is_file():
        raise ConfigurationError(
            f"{folder} has no {_INDEX}",
            where="model",
            suggestion="give a folder that save_pretrained of a pipeline made",
        )
    try:
        from diffusers import DiffusionPipeline as Pipe
    except ImportError:
        raise ConfigurationError(
            "diffusers is not installed",
            where="model",
            suggestion="pip install 'noise-scheduler-sampling-system[diffusers]'",
        ) from None
    try:
        with _without_bars():
            pipe = Pipe.from_pretrained(folder, local_files_only=True)  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever the parts of the folder raise
        raise ConfigurationError(
            f"diffusers cannot load {folder}",
            where="model",
            why=(str(error).splitlines() or [""])[0],
            suggestion="check that DiffusionPipeline.from_pretrained of diffusers loads it",
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return NamedModel(str(folder), pipe=pipe)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Load without the progress bars of diffusers and transformers, which they show in pipes, too."""
    names = [name for name in ("diffusers", "transformers") if find_spec(name) is not None]
    libraries = [importlib.import_module(f"{name}.utils.logging") for name in names]
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
