"""The JSON Schema of a configuration file, and a commented example of one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml

from ..config.field_notes import field_notes
from ..config.prediction import PREDICTION_TYPES, TWO_TIME_TYPES
from ..config.registries import SAMPLERS, SCHEDULES, SPACINGS
from ..config.settings import VARIANCE_TYPES, NoiseSchedulerConfig
from ..support.strict_yaml import StrictDumper

__all__ = ["commented_example", "config_schema"]

_METHOD: Final = "the sampler: a registered name, or a name of another library ('DPM++ 2M Karras')"
_OPTIONS: Final = "the sampler's own options by name, e.g. {eta: 0.5} of ddim"
#: The columns of the example.
_WIDTH: Final = 100


def config_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a configuration file, for editors that complete and check while one types.

    The names of samplers, schedules and spacings are those that are registered. Other texts are allowed there, too,
    because names of other libraries are understood.
    """
    entry = NoiseSchedulerConfig.model_json_schema()
    definitions = entry.pop("$defs", {})
    fields: dict[str, Any] = entry["properties"]
    for name, note in field_notes().items():
        fields[name]["description"] = note
    fields["beta_schedule"] = _name(SCHEDULES, fields["beta_schedule"])
    fields["timestep_spacing"] = _name(["auto", *SPACINGS], fields["timestep_spacing"])
    fields["prediction_type"] = _name((*PREDICTION_TYPES, *TWO_TIME_TYPES), fields["prediction_type"])
    fields["variance_type"] = {**fields["variance_type"], "enum": list(VARIANCE_TYPES)}
    fields["method"] = _name(SAMPLERS, {"description": _METHOD})
    fields["sampler_options"] = {"type": "object", "description": _OPTIONS}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Pipelines of noise-scheduler-sampling-system",
        "description": "Each key is the name of a pipeline; its value holds the pipeline's settings.",
        "type": "object",
        "additionalProperties": {**entry, "title": "Pipeline", "description": "The settings of a pipeline."},
        **({"$defs": definitions} if definitions else {}),
    }


def _name(names: Iterable[str], field: Mapping[str, Any]) -> dict[str, Any]:
    """A field that takes one of these names; an editor offers them."""
    kept = {key: field[key] for key in ("default", "description") if key in field}
    return {"anyOf": [{"enum": sorted(names)}, {"type": "string"}], **kept}


def commented_example(name: str, method: str, fields: Mapping[str, Any]) -> str:
    """A configuration file with one pipeline, whose other settings stand there as comments with their defaults.

    Args:
        name: of the pipeline.
        method: its sampler.
        fields: the settings that differ from the defaults.
    """
    lines = [
        "# Pipelines by name. 'noise-sampling config check FILE' checks the file;",
        "# 'noise-sampling sample --config FILE --out digits.png' draws with it.",
        f"{_text(name)}:",
        *_comment(_METHOD),
        f"  method: {_text(method)}",
        *_comment(_OPTIONS),
        "  # sampler_options: {}",
    ]
    for field, default in NoiseSchedulerConfig().to_dict().items():
        value = fields.get(field, default)
        mark = "" if field in fields else "# "
        lines += ["", *_comment(field_notes()[field]), f"  {mark}{field}: {_text(value)}"]
    return "\n".join(lines) + "\n"


def _comment(note: str) -> list[str]:
    return textwrap.wrap(note, _WIDTH, initial_indent="  # ", subsequent_indent="  # ", break_long_words=False)


def _text(value: Any) -> str:
    """A value in one line of YAML."""
    written: str = yaml.dump(
        value, Dumper=StrictDumper, default_flow_style=True, allow_unicode=True, width=10_000, explicit_end=False
    )
    return written.removesuffix("...\n").strip()
