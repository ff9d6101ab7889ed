"""From a request to images: the parts of a pipeline of diffusers, and the run of this library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch

from ....config.registries import SAMPLERS
from ....config.settings import NoiseSchedulerConfig
from ....guidance.directions import ClassifierFree
from ....guidance.known_region import KnownRegion
from ....guidance.sequence import checked_sequence
from ....pipeline.pipeline import DiffusionPipeline
from ....running.device_noise import source_of
from ....running.noise import resolve_keys
from ....running.noise_keys import Keys, checked_index
from ....schedules.path import NoisePath
from ....support.argument_checks import refuse_too_large
from ....support.errors import ConfigurationError
from ..reading.reading import read
from ..reading.scheduler_reading import Reading
from .backbones import Backbone, Conditions, Prompt, backbone_of
from .image_request import ImageRequest, checked_run_options, frames_of, prompt_of, refused_by_diffusers, size_of
from .known_image import KnownImage
from .run_start import RunStart, path_at, start_of_run

__all__ = ["ImageGenerator", "generator_of"]


@final
@dataclass(frozen=True)
class ImageGenerator:
    """A pipeline of diffusers behind one interface, with its scheduler read.

    Attributes:
        backbone: the network, the encoders and the decoder.
        reading: the scheduler.
        config: the settings that were read; a pipeline with other settings was changed by its user.
        native: whether the user wants the scheduler's own sampler.
    """

    backbone: Backbone
    reading: Reading
    config: NoiseSchedulerConfig | None
    native: bool

    def generate(self, pipeline: DiffusionPipeline, request: ImageRequest, options: Mapping[str, Any]) -> Any:
        """Check, encode, sample, decode; see :meth:`DiffusersPipeline.generate`.

        Args:
            pipeline: the settings and the sampler.
            request: what to draw.
            options: of ``sample``.
        """
        backbone = self.backbone
        request = request.checked(backbone)
        steps = request.num_inference_steps
        options = checked_run_options(options, steps)
        prompt = prompt_of(request, backbone, options.get("plan"))
        shape, dtype = backbone.shape(prompt), options.pop("dtype", None) or torch.float32
        refuse_too_large(shape, dtype, backbone.device)
        known = KnownImage.of(request, prompt, backbone)
        runner, start = self._start(pipeline, request, prompt, options)
        condition, null = self._conditions(prompt, known)
        wanted = options.pop("classifier_free_guidance", None)
        own = backbone.guidance(prompt.scale) if null is not None and wanted is not False else ()
        guided = replace(request, guidance=own) if request.guidance is None and own else request
        guidance = _guidance(guided, prompt, known, null is not None, wanted)
        first_state = _first_state(start, known, options, shape, dtype, backbone.device)
        result = runner.sample(
            backbone.network, shape, steps, condition=condition or None, null_condition=null, device=backbone.device,
            dtype=dtype, **guidance, **start.arguments, **first_state, **options,
        )  # fmt: skip
        x = result.samples if options.get("return_result") else result
        x = x if known is None else known.paste(x)
        images = x if request.output_type == "latent" else backbone.images(backbone.decode(x), request.output_type)
        if hasattr(backbone.pipe, "maybe_free_model_hooks"):
            backbone.pipe.maybe_free_model_hooks()
        return replace(result, samples=images) if options.get("return_result") else images

    def calibration_arguments(self, pipeline: DiffusionPipeline, request: ImageRequest) -> dict[str, Any]:
        """A request as arguments of ``calibrate``: those of :meth:`inputs`, with the shape of one sample.

        The noise schedule is the one of images of this size.
        """
        arguments = self.inputs(request)
        return {**arguments, "shape": arguments["shape"][1:], "scheduler": self.run_path(pipeline, request)}

    def run_path(self, pipeline: DiffusionPipeline, request: ImageRequest) -> NoisePath:
        """The noise schedule of images of the size of a request."""
        return path_at(pipeline.scheduler, self.reading, self.backbone.mu(self._without_text(request)))

    def level_arguments(self, pipeline: DiffusionPipeline, request: ImageRequest) -> dict[str, Any]:
        """The arguments of ``sample`` that make it visit the levels of :meth:`generate`; no text is encoded.

        Args:
            pipeline: the settings and the sampler.
            request: the number of steps, and the size of the images.

        Raises:
            ConfigurationError: a number of steps or a size that cannot be.
        """
        request = request.checked(self.backbone)
        start = self._start(pipeline, request, self._without_text(request), {})[1]
        return {"num_inference_steps": request.num_inference_steps, **start.arguments}

    def inputs(self, request: ImageRequest) -> dict[str, Any]:
        """A request as arguments of ``sample``: model, shape, device, conditions and guidance.

        Raises:
            ConfigurationError: a request that cannot work.
        """
        request = request.checked(self.backbone)
        prompt = prompt_of(request, self.backbone)
        condition, null = self._conditions(prompt, None)
        own = self.backbone.guidance(prompt.scale) if null is not None else ()
        guidance: dict[str, Any] = {"guidance_scale": prompt.scale}
        if request.guidance is not None or null is None or own:
            guidance = {"guidance": request.guidance or own}
        return {
            "model": self.backbone.network, "shape": self.backbone.shape(prompt), "device": self.backbone.device,
            "condition": condition or None, "null_condition": null, **guidance,
        }  # fmt: skip

    def _start(
        self, pipeline: DiffusionPipeline, request: ImageRequest, prompt: Prompt, options: Mapping[str, Any]
    ) -> tuple[DiffusionPipeline, RunStart]:
        """The pipeline with the sampler of a run, and where the run begins."""
        native = self.native and pipeline.config == self.config
        runner = self._with_options_for(pipeline, request.num_inference_steps) if native else pipeline
        return runner, start_of_run(runner, self.reading, self.backbone, request, prompt, options, native=native)

    def _without_text(self, request: ImageRequest) -> Prompt:
        """What a request says about the size of its images."""
        backbone = self.backbone
        return Prompt(
            None, None, None, 1, False, backbone.default_scale, *size_of(request, backbone),
            frames=frames_of(request, backbone), steps=request.num_inference_steps,
        )  # fmt: skip

    def _with_options_for(self, pipeline: DiffusionPipeline, steps: int) -> DiffusionPipeline:
        """The pipeline with the options that its scheduler has in a run of N = ``steps``."""
        reading = self.reading
        if reading.sampler is None or reading.options_for(steps) == dict(reading.options):
            return pipeline
        return type(pipeline)(pipeline.scheduler, reading.sampler, **reading.options_for(steps))

    def _conditions(self, prompt: Prompt, known: KnownImage | None) -> Conditions:
        """The conditions of the network, those of the image included."""
        backbone, of_image = self.backbone, {} if known is None else known.conditions
        with torch.no_grad(), refused_by_diffusers(backbone.conditioned_on, "check it, and encode_options"):
            condition, null = backbone.conditions(prompt)
        return {**condition, **of_image}, None if null is None else {**null, **of_image}


def _guidance(
    request: ImageRequest, prompt: Prompt, known: KnownImage | None, has_null: bool, wanted: bool | None
) -> dict[str, Any]:  # fmt: skip
    """The arguments of ``sample`` about guidance.

    Args:
        request, prompt, known: of the run.
        has_null: whether there are conditions of an unconditional branch.
        wanted: ``classifier_free_guidance``, if it was given.
    """
    arguments: dict[str, Any] = {"guidance_scale": prompt.scale}
    if request.guidance is not None:
        arguments = {"guidance": request.guidance}
    elif not has_null:
        arguments = {"classifier_free_guidance": False}
    if wanted is not None:
        arguments.setdefault("classifier_free_guidance", wanted)
    if known is None or known.drawn_anew is None:
        return arguments
    sequence = checked_sequence(request.guidance) if request.guidance is not None else ()
    if request.guidance is None and has_null:
        sequence = (ClassifierFree(prompt.scale),)
    return {"guidance": [*sequence, KnownRegion(known.clean, known.drawn_anew)]}


def _first_state(
    start: RunStart, known: KnownImage | None, options: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """The arguments of ``sample`` about the first state and the seeds of a run that starts from an image.

    Noise and seeds are taken out of ``options``, in-place, where the first state is made here.
    """
    if known is None or options.get("initial_sample") is not None:
        return {}
    noise = options.pop("initial_noise", None)
    seeds: dict[str, Any] = {}
    if noise is None:
        first = checked_index(options.pop("first_index", 0))
        keys = resolve_keys(options.pop("seed", None), options.pop("generator", None), shape[0], first)
        numbered = keys == Keys.numbered(keys[0][0], shape[0], first)
        seeds = {"seed": keys[0][0], "first_index": first} if numbered else {"seed": [seed for seed, _ in keys]}
        noise = source_of(options.get("noise_device", "cpu"), keys, shape[1:], dtype, device).initial()
    noise = noise.to(device, dtype)
    return {"initial_sample": start.level.alpha * known.clean.to(dtype) + start.level.sigma * noise, **seeds}


def generator_of(pipe: Any, method: Any, options: Mapping[str, Any]) -> tuple[ImageGenerator, dict[str, Any]]:
    """The generator of a pipeline of diffusers, and the arguments of the :class:`DiffusionPipeline` for its runs.

    Raises:
        ConfigurationError: an unknown pipeline or scheduler, or settings that do not go together.
    """
    backbone, reading = backbone_of(pipe), read(pipe.scheduler)
    if reading.terms.converts:
        raise ConfigurationError(
            f"{reading.class_name} converts what its network is told and returns",
            where="from_diffusers",
            why="pipelines with such schedulers have networks of other kinds",
            suggestion="use PlanScheduler inside its own pipeline",
        )
    sampler = reading.sampler or "ddim" if method is None else method
    known = isinstance(sampler, str) and sampler in SAMPLERS
    config = reading.config_for(sampler if known else "ddim").replace(
        **({} if known else {"use_clipped_model_output": True}),
        **({"variance_type": "fixed_small"} if backbone.drops_variance else {}),
    )
    fields = {k: v for k, v in options.items() if k in NoiseSchedulerConfig.model_fields}
    settings = {k: v for k, v in options.items() if k not in fields}
    if settings and method is None:
        raise ConfigurationError(
            "is an option of a sampler, and none is named",
            where=next(iter(settings)),
            suggestion="from_diffusers(pipe, method=...), or a field of NoiseSchedulerConfig",
        )
    own = dict(reading.options) if method is None and reading.sampler else settings
    changed = config.replace(**fields) if fields else config
    generator = ImageGenerator(backbone, reading, None, native=method is None and not fields)
    return generator, {"config": changed, "method": sampler, **own}
