"""A pipeline with the network, the encoders and the decoder of a pipeline of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, final

from torch import Tensor

from ....config.keyword_advice import keywords_of, refuse_unknown
from ....grids.frame_grid import FrameGrid
from ....grids.time_grid import TimeGrid
from ....guidance.base import Guidance
from ....pipeline.pipeline import CALIBRATE, FROM_DIFFUSERS, PROMPT_KEYWORDS, DiffusionPipeline
from ....plans.frame_plan import FramePlan
from ....plans.plan import SamplingPlan
from ....plans.plan_set import PlanSet
from ....samplers.base import BaseSampler
from ....schedules.path import NoisePath
from ....support.errors import ConfigurationError
from .backbones import Backbone
from .image_generator import ImageGenerator, generator_of
from .image_request import ImageRequest

if TYPE_CHECKING:
    from typing_extensions import Never

__all__ = ["DiffusersPipeline", "from_diffusers"]

#: The arguments of ``inputs``.
_INPUTS: Final = frozenset(each.name for each in fields(ImageRequest)) - {
    "image", "mask_image", "strength", "keep_known", "output_type"
}  # fmt: skip
#: What a plan is calibrated for.
_CALIBRATED_FOR: Final = (*PROMPT_KEYWORDS, "guidance_scale", "guidance")


@final
class DiffusersPipeline(DiffusionPipeline):
    """A :class:`DiffusionPipeline` that has its own network and reads prompts; :func:`from_diffusers` makes it."""

    _generator: ImageGenerator

    has_own_model = True

    @property
    def backbone(self) -> Backbone:
        """The network, the encoders and the decoder."""
        return self._generator.backbone

    @property
    def run_path(self) -> NoisePath:
        """The noise schedule of images of the size that the network was trained on."""
        return self._generator.run_path(self, ImageRequest())

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        class_labels: int | Sequence[int] | Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        guidance: Guidance | Sequence[Guidance] | None = None,
        image: Any = None,
        strength: float | None = None,
        mask_image: Any = None,
        keep_known: bool = True,
        output_type: str = "pil",
        encode_options: Mapping[str, Any] | None = None,
        num_frames: int | None = None,
        **options: Any,
    ) -> Any:
        """Draw images from a prompt, a class or an image, with the network and the encoders of the pipeline.

        Args:
            prompt: a text, or one for each image.
            negative_prompt: text of the unconditional branch, one or one an image; default: the empty text.
            class_labels: one label or several, for class-conditional models.
            height, width: in pixels; default: the size that the network was trained on.
            num_images_per_prompt: images for each prompt or class.
            num_inference_steps: N, as for :meth:`sample`.
            guidance_scale: default: the pipeline's. FLUX.1's networks are told it; two branches need
                ``guidance=ClassifierFree(...)`` there.
            guidance: replaces the scale, as for :meth:`sample`.
            image: the image to start from: PIL, an array or tensor in [0, 1], or several.
            strength: how far from the image the run starts, in (0, 1]; default 0.8. The pipeline's own sampler makes
                int(N·strength) of its N steps, as in diffusers; another sampler makes N.
            mask_image: 1 (white) where the image is drawn anew.
            keep_known: keep the rest of the image, to the last bit of the latents; see
                :class:`~.guidance.KnownRegion`. False leaves it to networks for inpainting.
            output_type: "pil", "np", "pt" (both in [0, 1]) or "latent".
            encode_options: further keywords of the pipeline's ``encode_prompt`` ("clip_skip", "prompt_2").
            num_frames: of each video, for Wan and LTX.
            options: further arguments of :meth:`sample`: ``seed``, ``generator``, ``initial_noise`` (diffusers calls
                it latents; unit variance), ``callback``, ``early_stopping``, ``max_batch_size``, ``return_result``, ...

        Returns:
            The images; with ``return_result`` a :class:`SamplingResult` that holds them as its samples.

        Raises:
            ConfigurationError: an argument that cannot work; raised before the first model call.
        """
        for name in ("model", "shape", "condition", "null_condition", "device"):
            if name in options:
                raise _of_the_pipeline(name, "give prompt or class_labels, height and width")
        known = keywords_of(DiffusersPipeline.generate, DiffusionPipeline.sample)
        refuse_unknown([name for name in options if name not in known], keywords_of(DiffusersPipeline.generate))
        request = ImageRequest(
            prompt, negative_prompt, class_labels, height, width, num_images_per_prompt, num_inference_steps,
            guidance_scale, guidance, image, mask_image, strength, keep_known, output_type, encode_options,
            num_frames,
        )  # fmt: skip
        return self._generator.generate(self, request, options)

    def inputs(self, **request: Any) -> dict[str, Any]:
        """What :meth:`generate` gives to :meth:`sample`: the network, its conditions, and the shape of the batch.

        Args:
            request: ``prompt``, ``negative_prompt``, ``class_labels``, ``height``, ``width``, ``guidance_scale``,
                ``guidance``, ``num_images_per_prompt``, ``encode_options`` and ``num_inference_steps`` as for
                :meth:`generate`.

        Returns:
            The arguments ``model``, ``shape`` (B, ...), ``condition``, ``null_condition``, ``device`` and
            ``guidance_scale`` or ``guidance``. With ``num_inference_steps`` also the levels of that run
            (:meth:`level_arguments`): ``sample(**inputs)`` then makes the latents of ``generate``.

        Raises:
            ConfigurationError: an argument that cannot work.
        """
        refuse_unknown([name for name in request if name not in _INPUTS], _INPUTS)
        given = ImageRequest(**request)
        levels: dict[str, Any] = {}
        if "num_inference_steps" in request:
            levels = self._generator.level_arguments(self, given)
        return {**self._generator.inputs(given), **levels}

    def level_arguments(
        self, num_inference_steps: int = 50, *, height: int | None = None, width: int | None = None,
        num_frames: int | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """The arguments of :meth:`sample` that make it visit the levels of :meth:`generate`.

        They are ``num_inference_steps``, and ``plan`` or ``grid`` where the levels are those of the pipeline's own
        scheduler, or depend on the size of the image.

        Args:
            num_inference_steps: N.
            height, width: in pixels; default: the size that the network was trained on.
            num_frames: of each video.

        Raises:
            ConfigurationError: an argument that cannot work.
        """
        request = ImageRequest(
            num_inference_steps=num_inference_steps, height=height, width=width, num_frames=num_frames
        )
        return self._generator.level_arguments(self, request)

    def plan(  # type: ignore[override]  # the base has the overloads
        self,
        num_inference_steps: int = 50,
        *,
        timesteps: Sequence[float] | None = None,
        grid: TimeGrid | FrameGrid | None = None,
        height: int | None = None,
        width: int | None = None,
        **unknown: Never,
    ) -> SamplingPlan | FramePlan:
        """The table that a run of N steps follows in :meth:`generate`.

        Args:
            num_inference_steps, timesteps, grid: as for :meth:`DiffusionPipeline.plan`.
            height, width: in pixels, as for :meth:`generate`; FLUX.1's levels depend on them.

        Raises:
            ConfigurationError: the sampler has only ``step`` or cannot run so, or an unknown keyword.
        """
        refuse_unknown(list(unknown), keywords_of(DiffusersPipeline.plan))
        if isinstance(grid, FrameGrid):
            return super().plan(num_inference_steps, grid=grid)
        if timesteps is not None or grid is not None:
            return super().plan(num_inference_steps, timesteps=timesteps, grid=grid)
        levels = self.level_arguments(num_inference_steps, height=height, width=width)
        own: SamplingPlan | None = levels.pop("plan", None)
        return super().plan(**levels) if own is None else own

    def calibrate(  # type: ignore[override]  # the base has the overloads
        self,
        model: Callable[..., Any] | None = None,
        *,
        nfe: int | Sequence[int] | None = None,
        evaluations: int | Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
        **settings: Any,
    ) -> SamplingPlan | PlanSet:
        """Fit the best few-step plan for the pipeline's network; see :func:`.calibration.calibrate`.

        Args:
            model: another network, with a ``shape``; default: the pipeline's own.
            nfe: model calls of the plan; several make a :class:`PlanSet`.
            evaluations: in place of ``nfe``, with guidance: the evaluations of both branches. Such plans run in
                ``sample`` and ``generate``; pipelines of diffusers evaluate both branches in every step.
            shape: of one sample, without the batch, for another network.
            settings: ``prompt``, ``negative_prompt``, ``class_labels``, ``height``, ``width``, ``guidance_scale`` and
                ``guidance`` as for :meth:`generate`; the trajectories take the prompts in turn. ``trajectories``,
                ``budget_seconds``, ... as for ``calibrate``; on flow pipelines ``first`` is "noisiest" by default.

        Returns:
            A plan or a :class:`PlanSet`, for ``sample``, ``generate`` or ``PlanScheduler.from_plan``.

        Raises:
            ConfigurationError: a setting that ``calibrate`` does not have, or refuses.
        """
        if model is not None:
            budgets: dict[str, Any] = {"nfe": nfe, "evaluations": evaluations}
            made: SamplingPlan | PlanSet = super().calibrate(model, **budgets, shape=shape, **settings)
            return made
        self._refuse_unknown_settings(settings)
        for name in ("condition", "null_condition", "device"):
            if settings.get(name) is not None:
                raise _of_the_pipeline(name, "give prompt or class_labels")
        if shape is not None:
            raise _of_the_pipeline("shape", "give height and width in pixels, or leave them out")
        given = {name: settings.pop(name, None) for name in _CALIBRATED_FOR}
        arguments = {**settings, **self.calibration_arguments(**given)}
        if self.config.beta_schedule == "flow":  # diffusers' flow pipelines cannot scale the noise to another level
            arguments.setdefault("first", "noisiest")
        found: SamplingPlan | PlanSet = CALIBRATE.function(
            arguments.pop("model"), nfe=nfe, evaluations=evaluations, **arguments
        )
        return found

    def calibration_arguments(self, **request: Any) -> dict[str, Any]:
        """A request as arguments of :func:`.calibration.calibrate` and :func:`.calibration.verify_plan`.

        Args:
            request: ``prompt``, ``negative_prompt``, ``class_labels``, ``height``, ``width``, ``guidance_scale`` and
                ``guidance`` as for :meth:`generate`.

        Returns:
            The arguments ``model``, ``scheduler``, ``shape`` (of one sample), ``condition``, ``null_condition``,
            ``device``, and ``guidance_scale`` or ``guidance``.

        Raises:
            ConfigurationError: an argument that cannot work.
        """
        refuse_unknown([name for name in request if name not in _CALIBRATED_FOR], _CALIBRATED_FOR)
        return self._generator.calibration_arguments(self, ImageRequest(**request))


@FROM_DIFFUSERS.provide
def from_diffusers(
    pipe: Any, method: Enum | str | type[BaseSampler] | None, options: Mapping[str, Any]
) -> DiffusersPipeline:
    """The pipeline of :meth:`DiffusionPipeline.from_diffusers`; arguments as there."""
    generator, arguments = generator_of(pipe, method, options)
    pipeline = DiffusersPipeline(**arguments)
    pipeline._generator = replace(generator, config=pipeline.config)  # the sampler may have changed the config
    return pipeline


def _of_the_pipeline(name: str, instead: str) -> ConfigurationError:
    return ConfigurationError("comes from the pipeline of diffusers itself", where=name, suggestion=instead)
