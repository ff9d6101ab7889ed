"""What is sampled: the model that an option names, with the arguments of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from .parsing import integers, key_values

if TYPE_CHECKING:
    from ..integrations.named_models import NamedModel
    from ..pipeline.pipeline import DiffusionPipeline

__all__ = ["Subject"]


@final
@dataclass(frozen=True)
class Subject:
    """A named model with what its samples show.

    Attributes:
        known: the model.
        batch: the number of samples.
        shape: of one sample; None: the model's own.
        labels: one a sample, or None.
        prompt, negative_prompt: one a sample, or None.
        guidance_scale: None for the default of ``sample``.
    """

    known: NamedModel
    batch: int
    shape: tuple[int, ...] | None = None
    labels: tuple[int, ...] | None = None
    prompt: tuple[str, ...] | None = None
    negative_prompt: tuple[str, ...] | None = None
    guidance_scale: float | None = None

    @classmethod
    def of(
        cls,
        model: str,
        count: int | None,
        shape: str | None,
        labels: Sequence[int] | None,
        prompt: Sequence[str] | None,
        negative_prompt: Sequence[str] | None,
        guidance_scale: float | None,
        *,
        default: int = 1,
        device: str = "auto",
    ) -> Subject:
        """The subject that options describe. Labels and prompts are taken in turn until there are ``count`` of them.

        Args:
            model: its name.
            count: the number of samples; None: one for each label or prompt, else ``default``.
            shape: of one sample.
            labels, prompt, negative_prompt: as they were given.
            guidance_scale: as it was given.
            default: the number of samples where nothing says it.
            device: where the model is moved to, as for :meth:`NamedModel.on`.

        Raises:
            ConfigurationError: an unknown model, or a number that is not ≥ 1.
        """
        from ..integrations.named_models import named_model
        from ..support.argument_checks import checked_count

        given = [len(each) for each in (labels, prompt) if each]
        batch = checked_count(count, "count") if count is not None else max(given, default=default)
        return cls(
            named_model(model).on(device), batch, None if shape is None else tuple(integers(shape, "shape")),
            _in_turn(labels, batch), _in_turn(prompt, batch), _in_turn(negative_prompt, batch), guidance_scale,
        )  # fmt: skip

    def pipeline(
        self, method: str | None, settings: dict[str, Any], options: list[str] | None = None
    ) -> DiffusionPipeline:
        """A pipeline that fits the model; ``settings`` as :func:`~.parsing.settings_of` returns them."""
        fields = {name: value for name, value in settings.items() if name != "preset"}
        return self.known.pipeline(
            method, preset=settings.get("preset"), settings=fields, options=key_values(options or [])
        )

    def arguments(self, pipeline: DiffusionPipeline, steps: int | None = None) -> dict[str, Any]:
        """The arguments of ``sample``: model, shape of the batch, conditions and guidance.

        Args:
            pipeline: one that :meth:`pipeline` made.
            steps: of the run, as for :meth:`NamedModel.arguments`.

        Raises:
            ConfigurationError: an argument that the model does not take.
        """
        made = self.known.arguments(
            pipeline, batch=self.batch, shape=self.shape, labels=self.labels, prompt=self.prompt,
            negative_prompt=self.negative_prompt, guidance_scale=self.guidance_scale, steps=steps,
        )  # fmt: skip
        if self.guidance_scale is not None and self.known.pipe is None:
            made["guidance_scale"] = self.guidance_scale  # which is refused without labels, as in Python
        return made

    def network(self, pipeline: DiffusionPipeline) -> Any:
        """The callable that the subject's runs call; the embedded digits are made for the pipeline's path."""
        from ..models import DigitsModel

        model = self.arguments(pipeline)["model"]
        return DigitsModel(pipeline.scheduler) if model is None else model


def _in_turn(given: Sequence[Any] | None, count: int) -> tuple[Any, ...] | None:
    return None if not given else tuple(given[i % len(given)] for i in range(count))
