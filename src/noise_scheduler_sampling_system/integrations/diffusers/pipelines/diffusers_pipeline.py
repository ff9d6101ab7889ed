"""A pipeline with the network, the encoders and the decoder of a pipeline of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, final

from torch import Tensor

from ....config.keyword_advice import keywords_of, refuse_unknown
from ....guidance.base import Guidance
from ....pipeline.pipeline import CALIBRATE, FROM_DIFFUSERS, PROMPT_KEYWORDS, DiffusionPipeline
from ....plans.plan import SamplingPlan
from ....plans.plan_set import PlanSet
from ....samplers.base import BaseSampler
from ....support.errors import ConfigurationError
from .generate import Borrowed, Request, borrowed

__all__ = ["DiffusersPipeline", "from_diffusers"]


@final
class DiffusersPipeline(DiffusionPipeline):
    """A :class:`DiffusionPipeline` that has its own network and reads prompts; :func:`from_diffusers` makes it."""

    _borrowed: Borrowed

    has_own_model = True

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
        **options: Any,
    ) -> Any:
        """Images from a prompt, a class or an image, by the network and the encoders of the pipeline.

        Args:
            prompt: a text, or one for each image.
            negative_prompt: the same for the unconditional branch; default: the empty text.
            class_labels: of class-conditional models, a number or several.
            height, width: in pixels; default: what the network was trained on.
            num_images_per_prompt: images for each prompt or class.
            num_inference_steps: N, as for :meth:`sample`.
            guidance_scale: default: the pipeline's. FLUX.1's networks are told it; guidance by two branches is
                ``guidance=ClassifierFree(...)`` there.
            guidance: in its place, as for :meth:`sample`.
            image: where to start from: PIL, an array or tensor in [0, 1], or several.
            strength: how far from the image the run starts, in (0, 1]; default 0.8. With the pipeline's own
                sampler int(N·strength) of its N steps are taken, as in diffusers; with another, N.
            mask_image: 1 (white) where the image is to be made anew.
            keep_known: hold the rest of the image, to the last bit of the latents; see
                :class:`~.guidance.KnownRegion`. False leaves it to networks made
                for inpainting.
            output_type: "pil", "np", "pt" (both in [0, 1]) or "latent".
            encode_options: further keywords of the pipeline's ``encode_prompt`` ("clip_skip", "prompt_2").
            options: ``seed``, ``generator``, ``initial_noise`` (what diffusers calls latents, of unit
                variance), ``callback``, ``early_stopping``, ``max_batch_size``, ``return_result`` and all else
                that :meth:`sample` takes.

        Returns:
            The images, or a :class:`SamplingResult` whose samples they are.

        Raises:
            ConfigurationError: before the first model call, for anything that cannot work.
        """
        for name in ("model", "shape", "condition", "null_condition", "device"):
            if name in options:
                raise _of_the_pipeline(name, "give prompt or class_labels, height and width")
        known = keywords_of(DiffusersPipeline.generate, DiffusionPipeline.sample)
        refuse_unknown([name for name in options if name not in known], keywords_of(DiffusersPipeline.generate))
        request = Request(
            prompt, negative_prompt, class_labels, height, width, num_images_per_prompt, num_inference_steps,
            guidance_scale, guidance, image, mask_image, strength, keep_known, output_type, encode_options,
        )  # fmt: skip
        return self._borrowed.generate(self, request, options)

    def calibrate(  # type: ignore[override]  # the base has the overloads
        self,
        model: Callable[..., Any] | None = None,
        *,
        nfe: int | Sequence[int],
        shape: Sequence[int] | None = None,
        **settings: Any,
    ) -> SamplingPlan | PlanSet:
        """The few-step plan that is best for the pipeline's network; see :func:`.calibration.calibrate`.

        Args:
            model: another network, with a ``shape``; default: the pipeline's own.
            nfe: model calls of the plan; several make a :class:`PlanSet`.
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
            return super().calibrate(model, nfe=nfe, shape=shape, **settings)
        calibrate = CALIBRATE.function
        known = [*keywords_of(DiffusionPipeline.calibrate, calibrate), *PROMPT_KEYWORDS]
        refuse_unknown([name for name in settings if name not in known or name == "scheduler"], known)
        for name in ("condition", "null_condition", "device"):
            if settings.get(name) is not None:
                raise _of_the_pipeline(name, "give prompt or class_labels")
        if shape is not None:
            raise _of_the_pipeline("shape", "give height and width in pixels, or leave them out")
        asked = {name: settings.pop(name, None) for name in (*PROMPT_KEYWORDS, "guidance_scale", "guidance")}
        told = {**settings, **self._borrowed.asked(Request(**asked))}
        if self.config.beta_schedule == "flow":  # flow pipelines there cannot scale the noise to another level
            told.setdefault("first", "noisiest")
        found: SamplingPlan | PlanSet = calibrate(told.pop("model"), self, nfe=nfe, **told)
        return found


@FROM_DIFFUSERS.provide
def from_diffusers(
    pipe: Any, method: Enum | str | type[BaseSampler] | None, options: Mapping[str, Any]
) -> DiffusersPipeline:
    """The pipeline of :meth:`DiffusionPipeline.from_diffusers`, which says what the arguments are."""
    parts, arguments = borrowed(pipe, method, options)
    pipeline = DiffusersPipeline(**arguments)
    pipeline._borrowed = parts.of(pipeline)
    return pipeline


def _of_the_pipeline(name: str, instead: str) -> ConfigurationError:
    return ConfigurationError("comes from the pipeline of diffusers itself", where=name, suggestion=instead)
