"""An entry of a comparison as code and settings to copy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from ..config.registries import SAMPLERS
from ..config.settings import NoiseSchedulerConfig
from .comparison import Entry, plain_option
from .entries import changed_options

__all__ = ["as_diffusers", "as_python", "as_yaml", "settings_of"]


def settings_of(entry: Entry) -> dict[str, Any]:
    """The fields of the entry's config that are not the defaults, with the spacing that ran."""
    pipeline = entry.pipeline
    default = NoiseSchedulerConfig().to_dict()
    fields = {name: value for name, value in pipeline.config.to_dict().items() if value != default[name]}
    return {**fields, "timestep_spacing": pipeline.sampler.run_spacing}


def as_python(entry: Entry, steps: int) -> str:
    """Lines of Python that run the entry.

    Args:
        entry: the entry.
        steps: num_inference_steps.
    """
    fields = _arguments(settings_of(entry))
    options = _arguments(changed_options(entry))
    return "\n".join([
        "from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig",
        "",
        f"config = NoiseSchedulerConfig({fields})",
        f"pipeline = DiffusionPipeline(config, {_name(entry)!r}{', ' if options else ''}{options})",
        f"samples = pipeline.sample(model, shape, num_inference_steps={steps}, seed=0)",
    ])  # fmt: skip


def as_yaml(entry: Entry) -> str:
    """The entry as a file of ``AdvancedDiffusionSystem`` has it."""
    options = {name: plain_option(value) for name, value in changed_options(entry).items()}
    table = {**settings_of(entry), "method": _name(entry), **({"sampler_options": options} if options else {})}
    text: str = yaml.safe_dump({"pipeline": json.loads(json.dumps(table))}, sort_keys=False, allow_unicode=True)
    return text


def as_diffusers(entry: Entry) -> str:
    """Lines of Python that put the entry's sampler into a pipeline of diffusers, which keeps its own noise schedule."""
    settings = {"method": _name(entry), "timestep_spacing": entry.pipeline.sampler.run_spacing}
    return "\n".join([
        "from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler",
        "",
        "pipe.scheduler = PlanScheduler.from_config(",
        f"    pipe.scheduler.config, {_arguments({**settings, **changed_options(entry)})}",
        ")",
    ])  # fmt: skip


def _name(entry: Entry) -> str:
    return SAMPLERS.name_of(type(entry.pipeline.sampler)) or entry.pipeline.method


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
