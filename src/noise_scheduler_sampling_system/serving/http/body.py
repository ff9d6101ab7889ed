"""The body of a request: JSON to checked fields, within the limits of the server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...config.pydantic_errors import configuration_error
from ...support.data_files import parse_json
from ...support.errors import ConfigurationError, FileError, cut
from .limits import Limits

__all__ = ["SampleBody", "read_body"]

Seed = Annotated[int, Field(ge=0, lt=2**64)]
Label = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(max_length=10_000)]
Name = Annotated[str, Field(min_length=1, max_length=100)]
Side = Annotated[int, Field(ge=1, le=1 << 20)]


@final
class SampleBody(BaseModel):
    """What a client wants.

    Attributes:
        num_samples: of an unconditional request, or of each label or prompt.
        labels, prompts, negative_prompts: one entry, or several.
        sampler, options, spacing: the method; default: that of the server.
        steps: N; with a plan it is the plan's.
        plan: a plan as ``SamplingPlan.to_dict`` writes it, in place of sampler and steps.
        seed, first_index: sample i of a seed is the same in every request; default: a random seed, which is returned.
        guidance_scale: of classifier-free guidance, for labels and prompts.
        shape: of one sample; only where the model does not say it.
        deadline: seconds from now.
        priority: higher starts earlier.
        format: of the samples: numbers in JSON, one PNG of all pictures, or a safetensors file.
        stream: send the steps as server-sent events.
        previews: put a PNG of the predicted clean sample into every step.
        resume: the name of a state that an earlier answer handed back.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    num_samples: Annotated[int, Field(ge=1)] = 1
    labels: Label | list[Label] | None = None
    prompts: Text | list[Text] | None = None
    negative_prompts: Text | list[Text] | None = None
    sampler: Name | None = None
    options: dict[Name, bool | int | float | str | None] = Field(default_factory=dict, max_length=32)
    spacing: Name | None = None
    steps: Annotated[int, Field(ge=1)] = 20
    plan: dict[str, Any] | None = None
    seed: Seed | None = None
    first_index: Annotated[int, Field(ge=0, lt=2**62)] = 0
    guidance_scale: Annotated[float, Field(ge=-1e4, le=1e4)] | None = None
    shape: Annotated[list[Side], Field(min_length=1, max_length=6)] | None = None
    deadline: Annotated[float, Field(gt=0.0, le=1e6)] | None = None
    priority: Annotated[float, Field(ge=-100.0, le=100.0)] = 0.0
    format: Literal["json", "png", "safetensors"] = "json"
    stream: bool = False
    previews: bool = False
    resume: Annotated[str, Field(pattern=r"^[0-9a-f]{32}-[0-9]{1,6}$")] | None = None

    @property
    def entries(self) -> int:
        """The number of labels or prompts; 1 where there are none."""
        return next((len(each) for each in (self.labels, self.prompts) if isinstance(each, list)), 1)

    def refuse(self, limits: Limits) -> None:
        """Raise for fields that do not go together, or that are beyond the limits of the server."""
        if self.plan is not None:
            for name in ("sampler", "spacing", "steps", "options"):
                if name in self.model_fields_set:
                    raise ConfigurationError("is given beside plan", where=name, suggestion="give one of the two")
        for name in ("labels", "prompts", "negative_prompts"):
            if getattr(self, name) == []:
                raise ConfigurationError("is empty", where=name, suggestion="give an entry, or leave it out")
        if self.labels is not None and self.prompts is not None:
            raise ConfigurationError("is given beside labels", where="prompts", suggestion="give one of the two")
        if isinstance(self.negative_prompts, list) and len(self.negative_prompts) != self.entries:
            raise ConfigurationError(
                f"has {len(self.negative_prompts)} entries for {self.entries} prompts",
                where="negative_prompts",
                suggestion="give one, or one for each prompt",
            )
        if self.previews and not self.stream:
            raise ConfigurationError("needs stream", where="previews", suggestion="give stream: true")
        count = self.num_samples * self.entries
        _refuse_more("num_samples", count, limits.samples, "samples")
        _refuse_more("steps", self.steps, limits.steps, "steps")
        if self.shape is not None:
            _refuse_more("shape", count * math.prod(self.shape), limits.numbers, "numbers in the samples")


def _refuse_more(where: str, count: int, most: int, what: str) -> None:
    if count > most:
        raise ConfigurationError(f"{count} {what}, and this server allows {most}", where=where, suggestion="give less")


def read_body(data: bytes, limits: Limits) -> SampleBody:
    """The fields of a body.

    Raises:
        FileError: it is not a JSON object.
        ConfigurationError: a field is unknown, of the wrong type, or beyond a limit.
    """
    try:
        fields = parse_json(data.decode("utf-8"))
        if not isinstance(fields, Mapping):
            raise ValueError(f"it is a {type(fields).__name__}")
    except (ValueError, ArithmeticError) as error:
        raise FileError(
            "is not a JSON object", where="body", why=cut(error), suggestion='send one, e.g. {"steps": 20, "seed": 7}'
        ) from None
    try:
        body = SampleBody.model_validate(fields)
    except ValidationError as error:
        raise configuration_error(error, SampleBody.model_fields) from None
    body.refuse(limits)
    return body
