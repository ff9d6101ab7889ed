"""From a prompt to images: a pipeline of diffusers lends its parts, the run is ours."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ....config.registries import SAMPLERS
from ....config.settings import NoiseSchedulerConfig
from ....grids.image_start import level_of_start, start_at
from ....grids.time_grid import TimeGrid, make_grid
from ....guidance.base import Guidance
from ....guidance.directions import ClassifierFree
from ....guidance.known_region import KnownRegion
from ....guidance.sequence import checked_sequence
from ....pipeline.pipeline import DiffusionPipeline
from ....plans.plan import SamplingPlan
from ....plans.plan_set import PlanSet
from ....running.noise import NoiseSource, resolve_keys
from ....running.noise_keys import Keys
from ....schedules.path import Level, NoisePath
from ....support.argument_checks import checked_flag, refuse_too_large
from ....support.errors import ConfigurationError
from ..reading.reading import read
from ..reading.scheduler_levels import levels_of
from ..reading.scheduler_reading import Reading
from .backbones import Backbone, Prompt, backbone_of
from .backbones.base import Condition
from .image_request import Request, checked_run, refused_by_diffusers

__all__ = ["Borrowed", "Request", "borrowed"]


@dataclass(frozen=True)
class _Course:
    """Which way a run goes.

    Attributes:
        arguments: of ``sample``: a grid, a plan, or nothing.
        start: the level of the first state.
        scale: what unit noise is multiplied by there; None: the plan's own.
    """

    arguments: dict[str, Any]
    start: Level
    scale: float | None = None


@dataclass(frozen=True)
class Borrowed:
    """The parts of a pipeline of diffusers, and what its scheduler is here.

    Attributes:
        backbone: the parts.
        reading: the scheduler.
        config: the settings that were read off it; others mean that a change was made.
        native: whether its own sampler was asked for.
    """

    backbone: Backbone
    reading: Reading
    config: NoiseSchedulerConfig | None
    native: bool

    def of(self, pipeline: DiffusionPipeline) -> Borrowed:
        """The same for a pipeline, whose sampler may have settled its config."""
        return replace(self, config=pipeline.config)

    def generate(self, pipeline: DiffusionPipeline, request: Request, options: dict[str, Any]) -> Any:
        """Encode, guide, sample, decode."""
        request, options = request.checked(self.backbone), checked_run(options)
        backbone, steps = self.backbone, request.num_inference_steps
        if isinstance(options.get("plan"), PlanSet):
            options["plan"] = options["plan"].pick(steps)
        scale = backbone.scale if request.guidance_scale is None else request.guidance_scale
        prompt = self._prompt(request, scale)
        native = self.native and pipeline.config == self.config
        runner = self._runner(pipeline, steps) if native else pipeline
        dtype = options.pop("dtype", None) or torch.float32
        shape = backbone.shape(prompt)
        refuse_too_large(shape, dtype, backbone.device)
        known = self._known(request, prompt)
        course = self._course(runner, native, steps, prompt, request, options)
        condition, null = self._condition(prompt)
        if request.mask_image is not None:
            with refused_by_diffusers("mask_image", "give a PIL image, an array or a tensor of numbers in [0, 1]"):
                pixels, mask = backbone.mask(request.mask_image, prompt)
            further = backbone.inpainting(request.image, pixels, prompt)
            condition |= further
            null = None if null is None else {**null, **further}
        guidance: dict[str, Any] = {"guidance_scale": scale} if request.guidance is None else {}
        if request.guidance is not None:
            guidance = {"guidance": request.guidance}
        elif null is None:
            guidance = {"classifier_free_guidance": False}
        if "classifier_free_guidance" in options:
            wanted = checked_flag(options.pop("classifier_free_guidance"), "classifier_free_guidance")
            guidance.setdefault("classifier_free_guidance", wanted)
        if request.mask_image is not None and request.keep_known:
            assert known is not None
            guidance = {"guidance": [*self._sequence(request, scale, null is not None), KnownRegion(known, mask)]}
        with_start = self._start(course, known, options, shape, dtype)
        result = runner.sample(
            backbone.network, shape, steps, condition=condition or None, null_condition=null,
            device=backbone.device, dtype=dtype, **guidance, **course.arguments, **with_start, **options,
        )  # fmt: skip
        x = result.samples if options.get("return_result") else result
        if request.mask_image is not None and request.keep_known:
            assert known is not None
            x = torch.where(mask.expand_as(x) > 0, x, known.to(x).expand_as(x))  # to the last bit
        images = x if request.output_type == "latent" else self._images(x, request.output_type)
        if hasattr(backbone.pipe, "maybe_free_model_hooks"):
            backbone.pipe.maybe_free_model_hooks()
        return replace(result, samples=images) if options.get("return_result") else images

    def asked(self, request: Request) -> dict[str, Any]:
        """What a request asks of the network, as arguments of ``calibrate``: model, conditions, guidance, shape."""
        request = request.checked(self.backbone)
        scale = self.backbone.scale if request.guidance_scale is None else request.guidance_scale
        prompt = self._prompt(request, scale)
        condition, null = self._condition(prompt)
        guidance: dict[str, Any] = {"guidance_scale": scale} if request.guidance is None else {}
        if request.guidance is not None or null is None:
            guidance = {"guidance": request.guidance or ()}
        return {
            "model": self.backbone.network, "shape": self.backbone.shape(prompt)[1:], "device": self.backbone.device,
            "condition": condition or None, "null_condition": null, **guidance,
        }  # fmt: skip

    def _condition(self, prompt: Prompt) -> Condition:
        """The prompt as conditions of the network."""
        with torch.no_grad(), refused_by_diffusers(self.backbone.takes, "check it, and encode_options"):
            return self.backbone.condition(prompt)

    def _images(self, x: Tensor, output_type: str) -> Any:
        return self.backbone.images(self.backbone.decode(x), output_type)

    def _prompt(self, request: Request, scale: float) -> Prompt:
        """Everything that can be wrong with a request, before anything is encoded."""
        backbone = self.backbone
        labels: Any = request.class_labels  # a tensor by now
        given = {"prompt": request.prompt, "class_labels": labels, "negative_prompt": request.negative_prompt}
        for name, value in given.items():
            if value is not None and name.removeprefix("negative_") != backbone.takes:
                raise _refused(f"{type(backbone).__name__} takes no {name}", name, f"give {backbone.takes}")
        if backbone.requires and given[backbone.takes] is None:
            raise _refused("is missing", backbone.takes, "give one, or a list of them")
        if backbone.takes == "prompt" and (request.prompt is not None or request.negative_prompt is not None):
            _refuse_missing_parts(backbone.pipe)
        if request.image is None and (request.mask_image is not None or request.strength is not None):
            name = "strength" if request.mask_image is None else "mask_image"
            raise _refused("there is no image that it is about", name, "give image=..., too")
        if request.guidance is not None and request.guidance_scale is not None and not backbone.told_scale:
            raise _refused("is given beside guidance", "guidance_scale", "put ClassifierFree(scale) into guidance")
        height, width = request.height or backbone.size, request.width or backbone.size
        for name, pixels in {"height": height, "width": width}.items():
            if pixels % backbone.multiple:
                raise _refused(f"got {pixels}", name, f"give a multiple of {backbone.multiple}")
        texts = [request.prompt, request.negative_prompt]
        lengths = {len(text) for text in texts if text is not None and not isinstance(text, str)}
        if len(lengths) > 1:
            raise _refused("has another length than prompt", "negative_prompt", "give one text, or one a prompt")
        # a scale that the network is told makes no second branch
        opposed = backbone.opposes and (request.guidance is not None or (scale != 1.0 and not backbone.told_scale))
        return Prompt(
            request.prompt, request.negative_prompt, labels, request.num_images_per_prompt, opposed, scale, height,
            width, dict(request.encode_options or {}),
        )  # fmt: skip

    def _runner(self, pipeline: DiffusionPipeline, steps: int) -> DiffusionPipeline:
        """The pipeline with the options that its scheduler has for so many steps."""
        if self.reading.sampler is None or self.reading.options_for(steps) == dict(self.reading.options):
            return pipeline
        return type(pipeline)(pipeline.scheduler, self.reading.sampler, **self.reading.options_for(steps))

    def _known(self, request: Request, prompt: Prompt) -> Tensor | None:
        """The image as clean x, one row an image."""
        if request.image is None:
            return None
        with refused_by_diffusers("image", "give a PIL image, an array or a tensor of numbers in [0, 1]"):
            x = self.backbone.encode(request.image, prompt)
        if prompt.batch % len(x):
            raise _refused(f"{len(x)} images for {prompt.batch} samples", "image", "give one, or one a prompt")
        return x.repeat_interleave(prompt.batch // len(x), dim=0)

    def _course(
        self, runner: DiffusionPipeline, native: bool, steps: int, prompt: Prompt, request: Request,
        options: Mapping[str, Any],
    ) -> _Course:  # fmt: skip
        """Where the model is asked: what the options say; or as the scheduler's own; or the config's spacing."""
        path, mu = runner.scheduler, self.backbone.mu(prompt)
        strength = request.strength if request.image is not None else None
        strength = 0.8 if strength is None and request.image is not None else strength
        own = [name for name in ("plan", "grid", "timesteps", "start") if options.get(name) is not None]
        if own and request.image is not None and request.strength is not None:
            raise _refused(f"is given beside {own[0]}, which begins somewhere", "strength", "give one of the two")
        if own:
            grid = options.get("grid")
            level = grid.levels[0] if grid is not None else None
            if options.get("plan") is not None:
                level = _first(options["plan"])
            if options.get("start") is not None:
                return _Course({}, level_of_start(path, options["start"]))
            return _Course({}, level or path.level(float(options["timesteps"][0])))
        if native:
            return self._native(runner, steps, strength, mu)
        if mu is None and strength in (None, 1.0):
            plan = runner.plan(steps) if runner.sampler.writes_plans else None
            if request.image is None:
                return _Course({}, path.level(path.t_max) if plan is None else _first(plan))
            if plan is not None:  # a state is given, which begins where the plan does
                return _Course({"plan": plan}, _first(plan))
            grid = runner.grid(steps)
            return _Course({"grid": grid}, grid.levels[0])
        spaced = self._spaced(runner, mu)
        begin = None if strength in (None, 1.0) else start_at(spaced, strength=strength)
        grid = make_grid(spaced, steps, start=begin, suits=runner.sampler.spacing)
        return _Course({"grid": grid}, grid.levels[0])

    def _spaced(self, runner: DiffusionPipeline, mu: float | None) -> NoisePath:
        """The path, shifted for the image's size, with the spacing that is wanted."""
        if mu is None:
            return runner.scheduler
        linear = self.reading.fields.get("time_shift_type", "exponential") != "exponential"
        shift = mu if linear else math.exp(mu)
        options = {**runner.config.schedule_options, "shift": shift}
        return runner.scheduler.with_config(runner.config.replace(schedule_options=options))

    def _native(self, runner: DiffusionPipeline, steps: int, strength: float | None, mu: float | None) -> _Course:
        """Exactly as the scheduler goes in its own pipeline."""
        path = runner.scheduler
        left = steps if strength is None else min(int(steps * strength), steps)
        if left < 1:
            raise _refused(f"{strength} of {steps} steps is none", "strength", "give a larger one, or more steps")
        request = {**self.backbone.request(steps), "mu": mu}
        config, scheduler = path.config, self.backbone.pipe.scheduler
        if not (config.clip_sample or config.thresholding or config.variance_type.startswith("learned")):
            takes = inspect.signature(scheduler.set_timesteps).parameters
            given = {k: v for k, v in request.items() if v is not None and k in takes}
            plan = SamplingPlan.trace(scheduler, begin=(steps - left) * scheduler.order, **given)
            return _Course({"plan": plan}, _first(plan))
        if self.reading.sampler is None:
            raise ConfigurationError(
                f"{self.reading.class_name} has no sampler here that clips",
                where="from_diffusers", why=self.reading.refusal, suggestion="from_diffusers(pipe, method=...)",
            )  # fmt: skip
        # what clips is no plan alone: the same sampler at the same levels
        found = levels_of(self.reading, path, request)
        levels = found.grid.levels[len(found.grid.levels) - 1 - left :]
        plan = replace(runner.sampler.plan(grid=TimeGrid(levels)), provenance={"scheduler": self.reading.class_name})
        return _Course({"plan": plan}, levels[0], found.scale if left == steps and strength is None else None)

    def _start(
        self, course: _Course, known: Tensor | None, options: dict[str, Any], shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> dict[str, Any]:  # fmt: skip
        """The first state and the seeds of all noise, as arguments of ``sample``."""
        if options.get("initial_sample") is not None or (known is None and course.scale is None):
            return {}
        noise, seeds = options.pop("initial_noise", None), {}
        if noise is None:
            keys = resolve_keys(options.pop("seed", None), options.pop("generator", None), shape[0])
            numbered = keys == Keys.numbered(keys[0][0], shape[0])
            seeds = {"seed": keys[0][0] if numbered else [seed for seed, _ in keys]}
            noise = NoiseSource(keys, shape[1:], dtype, self.backbone.device).initial()
        noise = noise.to(self.backbone.device, dtype)
        if known is None:
            assert course.scale is not None
            return {"initial_sample": noise * course.scale, **seeds}
        return {"initial_sample": course.start.alpha * known.to(dtype) + course.start.sigma * noise, **seeds}

    @staticmethod
    def _sequence(request: Request, scale: float, opposed: bool) -> tuple[Guidance, ...]:
        if request.guidance is not None:
            return checked_sequence(request.guidance)
        return (ClassifierFree(scale),) if opposed else ()


def borrowed(pipe: Any, method: Any, options: Mapping[str, Any]) -> tuple[Borrowed, dict[str, Any]]:
    """A pipeline's parts, and the arguments of the :class:`DiffusionPipeline` that runs on them.

    Raises:
        ConfigurationError: a pipeline or a scheduler that is not known, or settings that do not go together.
    """
    backbone, reading = backbone_of(pipe), read(pipe.scheduler)
    if reading.preconditioning is not None or reading.clock is not None:
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
    native = method is None and not fields
    return Borrowed(backbone, reading, None, native), {
        "config": changed, "method": sampler, **own,
    }  # fmt: skip


def _refuse_missing_parts(pipe: Any) -> None:
    """Raise where a pipeline that reads text was loaded without all of what reads it; some may be left out."""
    for kind in ("tokenizer", "text_encoder"):
        parts = [name for name in (kind, f"{kind}_2", f"{kind}_3") if hasattr(pipe, name)]
        if parts and all(getattr(pipe, name) is None for name in parts):
            raise _refused(
                f"the pipeline has no {kind}, which reads the prompt",
                "prompt",
                f"load the pipeline with its {kind}, or give embeddings: "
                'sample(pipe.unet, shape, condition={"encoder_hidden_states": embeddings})',
            )


def _first(plan: SamplingPlan) -> Level:
    """The level at which a plan begins."""
    return Level(float(plan.time[0]), float(plan.alpha[0]), float(plan.sigma[0]))


def _refused(what: str, where: str, suggestion: str) -> ConfigurationError:
    return ConfigurationError(what, where=where, suggestion=suggestion)
