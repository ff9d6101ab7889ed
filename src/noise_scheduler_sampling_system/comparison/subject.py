"""What is sampled in a comparison: a model with the arguments of ``sample``, and how its samples are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

import torch
from torch import Tensor

from ..config.settings import NoiseSchedulerConfig
from ..guidance import CachedGuidance, ClassifierFree
from ..guidance.base import Guidance
from ..guidance.sequence import checked_sequence
from ..integrations.named_models import NamedModel, named_model
from ..models import DigitsModel
from ..pipeline.pipeline import PROMPT_KEYWORDS, DiffusionPipeline
from ..plans.plan import SamplingPlan
from ..schedules.path import NoisePath
from ..support.argument_checks import checked_shape
from ..support.errors import ConfigurationError, shown

__all__ = ["INPUTS", "SHOWN", "Subject", "guidance_of", "with_scale"]

#: Arguments of ``compare`` for pipelines of diffusers, which make the conditions and the shape of a batch.
INPUTS: Final = (*PROMPT_KEYWORDS, "num_images_per_prompt", "encode_options")
_DIGITS_SHAPE: Final = (64, 1, 8, 8)
_NAMED_BATCH: Final = 16
#: Samples of a cell that are kept as pictures.
SHOWN: Final = 10


@final
@dataclass(frozen=True)
class Subject:
    """A model, and the arguments that every entry is sampled with.

    Attributes:
        model: a callable; None: the embedded digits, or the network of each entry's pipeline of diffusers.
        named: the model of a name, or of a pipeline of diffusers, which makes the pipelines of entries; else None.
        shape: of a batch, (B, ...); None where a pipeline of diffusers says it.
        run: further arguments of ``sample``: condition, guidance, device, ...; without those that were not given.
        inputs: the prompts or classes of a pipeline of diffusers.
    """

    model: Callable[..., Any] | None
    named: NamedModel | None
    shape: tuple[int, ...] | None
    run: Mapping[str, Any]
    inputs: Mapping[str, Any]
    _made: dict[tuple[int, float | None], dict[str, Any]] = field(default_factory=dict)
    _models: list[tuple[NoisePath, DigitsModel]] = field(default_factory=list)

    @classmethod
    def of(
        cls, model: Any, shape: Any, run: Mapping[str, Any], inputs: Mapping[str, Any], labels: int | None
    ) -> Subject:
        """Check and sort the arguments of ``compare``.

        Args:
            model: a callable, the name of a model, a pipeline of diffusers, or None.
            shape: of a batch, or None.
            run: arguments of ``sample`` that were given.
            inputs: arguments of :data:`INPUTS` that were given.
            labels: the number of class labels in the condition; None where there are none.

        Raises:
            ConfigurationError: an unknown name, no shape, or arguments that do not go together.
        """
        named: NamedModel | None = None
        if isinstance(model, str):
            named = named_model(model)
        elif isinstance(model, NamedModel):
            named = model
        elif hasattr(model, "scheduler") and hasattr(model, "components"):
            named = NamedModel(type(model).__name__, pipe=model)
        elif model is not None and not callable(model):
            raise ConfigurationError(
                f"got {shown(model)}", where="model", suggestion="give a callable (x, t, **condition), or a name"
            )
        if named is not None:
            model = named.model
            if shape is None and named.shape is not None:
                shape = (labels or _NAMED_BATCH, *named.shape)
        if shape is None and model is not None:
            raise ConfigurationError(
                "is missing", where="shape", suggestion="give that of a batch, e.g. (64, 3, 32, 32)"
            )
        sizes = None if shape is None else checked_shape(shape)
        return cls(model, named, sizes, run, {name: value for name, value in inputs.items() if value is not None})

    def pipeline(self, method: Any, config: Any) -> DiffusionPipeline:
        """The pipeline of an entry that is given by its sampler."""
        named = self.named
        if named is None or isinstance(config, NoisePath):
            path = NoiseSchedulerConfig(**config) if isinstance(config, Mapping) else config
            return DiffusionPipeline(path, method)
        if isinstance(config, NoiseSchedulerConfig):
            if named.pipe is None:
                return DiffusionPipeline(config, method)
            raise ConfigurationError(
                "the pipeline of diffusers has a noise schedule of its own",
                where="config",
                suggestion='give the fields that shall differ, e.g. {"timestep_spacing": "karras"}',
            )
        return named.pipeline(method, settings=config)

    def arguments(self, pipeline: DiffusionPipeline, scale: float | None = None) -> dict[str, Any]:
        """The arguments of ``pipeline.sample``, ``model`` and ``shape`` included.

        Args:
            pipeline: of an entry.
            scale: the guidance scale that the entry's plans hold: its own where none was given, or the same.

        Raises:
            ConfigurationError: arguments that the pipeline does not take.
        """
        run = self._run_of(scale)
        if not self._is_own(pipeline):
            if self.inputs:
                raise ConfigurationError(
                    "is for pipelines of diffusers",
                    where=next(iter(self.inputs)),
                    suggestion="give condition={...} and shape, or pipelines made by DiffusionPipeline.from_diffusers",
                )
            unguided = {} if "guidance" in run else {"guidance_scale": 1.0}
            model = self._digits(pipeline.scheduler) if self.model is None else self.model
            return {"model": model, "shape": self.shape or _DIGITS_SHAPE, **unguided, **run}
        for name in ("condition", "null_condition", "device", "shape"):
            if (self.shape if name == "shape" else self.run.get(name)) is not None:
                raise ConfigurationError(
                    "comes from the pipeline of diffusers itself", where=name, suggestion=f"give {', '.join(INPUTS)}"
                )
        backbone = pipeline.backbone  # type: ignore[attr-defined]
        key = (id(backbone.pipe), scale)
        made = self._made.get(key)
        if made is None:  # prompts are encoded once for all entries of a pipeline
            given = {name: run[name] for name in ("guidance_scale", "guidance") if name in run}
            made = self._made[key] = pipeline.inputs(**self.inputs, **given)  # type: ignore[attr-defined]
        rest = {name: value for name, value in run.items() if name in ("dtype", "max_batch_size")}
        return {**made, **rest}

    def _run_of(self, scale: float | None) -> Mapping[str, Any]:
        """The further arguments for plans that hold guidance of a scale; other guidance that was given stays."""
        given = self.run.get("guidance")
        if scale is None or "guidance_scale" in self.run or (given and lone_scale(given) != scale):
            return self.run
        return with_scale(self.run, scale)

    def plan(self, pipeline: DiffusionPipeline, steps: int) -> SamplingPlan:
        """The plan of a run of N = ``steps``.

        Raises:
            ConfigurationError: the sampler has none.
        """
        if self._is_own(pipeline):
            sized: Any = pipeline.plan  # a pipeline of diffusers takes a size
            plan: SamplingPlan = sized(steps, **self.size)
            return plan
        return pipeline.sampler.plan(steps)

    def levels(self, pipeline: DiffusionPipeline, steps: int) -> dict[str, Any]:
        """The arguments of ``sample`` that choose the levels of a run of N = ``steps``."""
        if self._is_own(pipeline):
            made: dict[str, Any] = pipeline.level_arguments(steps, **self.size)  # type: ignore[attr-defined]
            return made
        return {"num_inference_steps": steps}

    @property
    def size(self) -> dict[str, int]:
        """Height and width of the images of a pipeline of diffusers, where they were given."""
        return {name: self.inputs[name] for name in ("height", "width") if name in self.inputs}

    def _is_own(self, pipeline: DiffusionPipeline) -> bool:
        """Whether a pipeline of diffusers runs its own network."""
        return pipeline.has_own_model and self.model is None

    def _digits(self, path: NoisePath) -> DigitsModel:
        """The embedded model of a path; paths that differ in their spacing alone share it."""
        alike = path.spaced("leading")
        for known, model in self._models:
            if known == alike:
                return model
        self._models.append((alike, DigitsModel(path)))
        return self._models[-1][1]

    def pictures(self, pipeline: DiffusionPipeline, samples: Tensor) -> Tensor | None:
        """Samples as images in [−1, 1], shape (B, 1 or 3, H, W), decoded where they are latents; None: no images."""
        backbone = getattr(pipeline, "backbone", None)
        if backbone is not None:
            with torch.no_grad():
                decoded: Tensor = backbone.images(backbone.decode(samples.to(backbone.device)), "pt")
            samples = decoded.detach().cpu() * 2.0 - 1.0
        return samples if samples.ndim == 4 and samples.shape[1] in (1, 3) else None

    def white_on_black(self, pipeline: DiffusionPipeline) -> bool:
        """Whether the images are white strokes on black, which figures draw dark on light."""
        if self.model is None:
            return not pipeline.has_own_model
        return bool(getattr(self.model, "white_on_black", False))


def guidance_of(arguments: Mapping[str, Any]) -> tuple[Guidance, ...]:
    """The guidance that acts in a run with these arguments of ``sample``.

    Raises:
        ConfigurationError: not guidance.
    """
    if arguments.get("guidance") is not None:
        return checked_sequence(arguments["guidance"])
    scale = arguments.get("guidance_scale", 1.0)
    return (ClassifierFree(scale),) if arguments.get("condition") else ()


def lone_scale(given: Any) -> Any:
    """The scale of classifier-free guidance that acts alone, in every call or in some; None for other guidance.

    Raises:
        ConfigurationError: not guidance.
    """
    sequence = checked_sequence(given)
    lone = len(sequence) == 1 and isinstance(sequence[0], ClassifierFree | CachedGuidance)
    return sequence[0].scale if lone else None  # type: ignore[attr-defined]


def with_scale(arguments: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Arguments of ``sample`` with classifier-free guidance in place of theirs."""
    return {**{name: value for name, value in arguments.items() if name != "guidance"}, "guidance_scale": scale}
