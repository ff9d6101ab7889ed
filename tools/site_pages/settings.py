"""The page of every field of a config, and the JSON Schema for editors."""

from __future__ import annotations

import json
from typing import Any

from noise_scheduler_sampling_system import NoiseSchedulerConfig
from noise_scheduler_sampling_system.config.prediction import PREDICTION_TYPES
from noise_scheduler_sampling_system.config.registries import SCHEDULES, SPACINGS
from noise_scheduler_sampling_system.config.settings import VARIANCE_TYPES
from noise_scheduler_sampling_system.pipeline.config_schema import config_schema

from .tables import cell, code, section, table

#: The words that a field allows, where the schema only says that it is a text.
_WORDS: dict[str, tuple[str, ...]] = {"prediction_type": tuple(PREDICTION_TYPES), "variance_type": VARIANCE_TYPES}
#: The fields whose words are a table of names, with the page that lists it.
_NAMES = {"beta_schedule": (SCHEDULES, "schedule-options.md"), "timestep_spacing": (SPACINGS, "spacing-options.md")}
_BOUNDS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
_TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "word",
          "array": "list of numbers", "object": "table", "null": "none"}  # fmt: skip

_HEAD = """# Every setting

A `NoiseSchedulerConfig` has the fields below, in Python, YAML and JSON alike. The table is made from the schema that
checks them, so it is complete. [Configuration](../configuration.md) shows how to use them, and
[NoiseSchedulerConfig](config.md) is the class.

"""

_EDITOR = """
## In an editor

[config.schema.json](../config.schema.json) is the JSON Schema of a file of pipelines; `noise-sampling config schema`
prints it, too. An editor that knows it completes names, shows meanings, and marks mistakes. With the YAML extension of
Visual Studio Code, and with other editors that use the same language server, the first line of a file names it:

```yaml
# yaml-language-server: $schema=config.schema.json
cosine_ddim:
  beta_schedule: cosine
  timestep_spacing: trailing
```

A schema knows fields, types and ranges. It does not know which settings work together:
`noise-sampling config check FILE` checks that, too.
"""


def pages() -> dict[str, str]:
    """The page and the schema."""
    schema = NoiseSchedulerConfig.model_json_schema()
    said = section(NoiseSchedulerConfig, "Attributes")
    rows = []
    for name, field in schema["properties"].items():
        meaning = field.get("description") or said.get(name, "")
        rows.append([code(name), kind(name, field), _default(name), allowed(name, field), cell(meaning)])
    page = _HEAD + table(["field", "type", "default", "allowed", "meaning"], rows) + _EDITOR
    return {
        "reference/settings.md": page,
        "config.schema.json": json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n",
    }


def kind(name: str, field: dict[str, Any]) -> str:
    """The type of a field, in words."""
    if name in _NAMES:
        return "word"
    kinds = [option.get("type", "") for option in field.get("anyOf", [field])]
    return ", or ".join(_TYPES.get(each, each) for each in kinds if each)


def allowed(name: str, field: dict[str, Any]) -> str:
    """The range of a field, or its words."""
    if name in _NAMES:
        registry, page = _NAMES[name]
        also = ['"auto"'] if name == "timestep_spacing" else []
        return ", ".join([*also, f"[one of {len(list(registry))} names]({page})"])
    if name in _WORDS:
        return ", ".join(code(word) for word in _WORDS[name])
    if name.endswith("_options"):
        return "the options of the " + ("schedule" if name == "schedule_options" else "spacing")
    bounds = [f"{sign} {field[key]:,}".removesuffix(".0") for key, sign in _BOUNDS if key in field]
    return " and ".join(bounds)


def _default(name: str) -> str:
    value = getattr(NoiseSchedulerConfig(), name)
    value = getattr(value, "value", value)
    return "" if value is None else code(dict(value) if name.endswith("_options") else value)
