"""A cell of a comparison as code and settings to copy, which make the very same plan."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from ..config.registries import SAMPLERS
from ..config.settings import NoiseSchedulerConfig
from ..pipeline.config_file import pipeline_of
from ..pipeline.pipeline import DiffusionPipeline
from ..support.errors import NoiseSamplingError
from .comparison import Cell, Entry
from .entries import changed_options

__all__ = ["as_diffusers", "as_python", "as_yaml", "settings_of"]

_ROOT = "noise_scheduler_sampling_system"


def as_python(entry: Entry, cell: Cell, about: Mapping[str, Any]) -> str:
    """Lines of Python that run the cell.

    Settings are written where they make the plan that ran; else the lines hold the plan itself.

    Args:
        entry: the entry.
        cell: one of its cells that ran.
        about: of the comparison.
    """
    run, size = _call(entry, cell, about), _size(about)
    backbone = getattr(entry.pipeline, "backbone", None)
    if cell.plan is None:
        return _without_plan(entry)
    if not entry.plans:
        steps = f"num_inference_steps={cell.steps}"
        if backbone is not None:
            chosen = _options_of_pipe(entry)
            given = None
            if _is_native(entry, cell, size):
                given = "pipe"
            elif _makes(lambda: _from_pipe(entry, chosen), cell, size):
                given = f"pipe, {_arguments({'method': _name(entry), **chosen})}"
            if given is not None:
                made = f"pipeline = DiffusionPipeline.from_diffusers({given})"
                return "\n".join([f"from {_ROOT} import DiffusionPipeline", "", made, run.format(how=steps)])
        else:
            fields = _fields(entry, cell)
            if fields is not None:
                options = _arguments(changed_options(entry))
                return "\n".join([
                    f"from {_ROOT} import DiffusionPipeline, NoiseSchedulerConfig",
                    "",
                    f"config = NoiseSchedulerConfig({_arguments(fields)})",
                    f"pipeline = DiffusionPipeline(config, {_name(entry)!r}{', ' if options else ''}{options})",
                    run.format(how=steps),
                ])  # fmt: skip
    made = "DiffusionPipeline.from_diffusers(pipe)"
    if backbone is None:
        made = f"DiffusionPipeline(NoiseSchedulerConfig({_arguments(settings_of(entry))}))"
    return "\n".join([
        "import json",
        "",
        f"from {_ROOT} import DiffusionPipeline, NoiseSchedulerConfig, SamplingPlan",
        "",
        *_plan_lines(cell),
        f"pipeline = {made}",
        run.format(how="plan=plan"),
    ])  # fmt: skip


def as_yaml(entry: Entry, cell: Cell) -> str:
    """The entry as a file of ``AdvancedDiffusionSystem`` has it, or a comment that says why it has no such form."""
    if cell.plan is None or entry.plans or cell.plan.scale is not None:
        return "# a plan or a sampler without a name is not set in a file: copy it as Python\n"
    fields = _fields(entry, cell)
    if fields is None:
        return "# its noise schedule or an option is an object, which a file does not hold: copy it as Python\n"
    text: str = yaml.safe_dump({"pipeline": _table(entry, fields)}, sort_keys=False, allow_unicode=True)
    return text


def as_diffusers(entry: Entry, cell: Cell, about: Mapping[str, Any]) -> str:
    """Lines of Python that put the entry's sampler into a pipeline of diffusers, which keeps its own noise schedule."""
    if cell.plan is None:
        return _without_plan(entry)
    head = f"from {_ROOT}.integrations.diffusers import PlanScheduler"
    if entry.pipeline.has_own_model and _is_native(entry, cell, _size(about)):
        return f"images = pipe(prompt, num_inference_steps={cell.steps}).images  # its own scheduler ran"
    if cell.plan.scale is not None or any(cell.plan.reads_null):
        return "# a pipeline of diffusers does not hand over the unconditional prediction: copy it as Python\n"
    options, spacing_options = changed_options(entry), dict(entry.pipeline.config.spacing_options)
    if entry.plans or not all(map(_is_plain, options.values())):
        return "\n".join([
            "import json",
            "",
            f"from {_ROOT} import SamplingPlan",
            head,
            "",
            *_plan_lines(cell),
            "pipe.scheduler = PlanScheduler.from_plan(plan, pipe.scheduler.config)",
        ])  # fmt: skip
    settings: dict[str, Any] = {"method": _name(entry), "timestep_spacing": entry.pipeline.sampler.run_spacing}
    if spacing_options:
        settings["spacing_options"] = spacing_options
    return "\n".join([
        head,
        "",
        "pipe.scheduler = PlanScheduler.from_config(",
        f"    pipe.scheduler.config, {_arguments({**settings, **options})}",
        ")",
        f"images = pipe(prompt, num_inference_steps={cell.steps}).images",
    ])  # fmt: skip


def settings_of(entry: Entry) -> dict[str, Any]:
    """The fields of the entry's config that are not the defaults of its noise schedule, with the spacing that ran."""
    pipeline = entry.pipeline
    own = pipeline.config.to_dict()
    kept = {name: own[name] for name in ("beta_schedule", "trained_betas") if own[name] is not None}
    default = NoiseSchedulerConfig(**kept).to_dict()
    plain = NoiseSchedulerConfig().to_dict()
    fields = {name: value for name, value in own.items() if value != (plain if name in kept else default)[name]}
    return {**fields, "timestep_spacing": pipeline.sampler.run_spacing}


def _fields(entry: Entry, cell: Cell) -> dict[str, Any] | None:
    """The fields of a config that make the plan of the cell; None: no config does."""
    if not all(map(_is_plain, changed_options(entry).values())):
        return None
    resolved = settings_of(entry)
    named = {**resolved, "timestep_spacing": entry.pipeline.config.timestep_spacing}
    for fields in (resolved, named):
        table = _table(entry, fields)
        if _makes(lambda table=table: pipeline_of("pipeline", table), cell):  # type: ignore[misc]
            return fields
    return None


def _makes(make: Callable[[], DiffusionPipeline], cell: Cell, size: Mapping[str, Any] | None = None) -> bool:
    """Whether a pipeline makes the plan of a cell; ``size``: of the images of a pipeline of diffusers."""
    try:
        made = make().plan(cell.steps, **(size or {}))
    except NoiseSamplingError:
        return False
    return cell.plan is not None and made.content_hash == cell.plan.content_hash


def _table(entry: Entry, fields: Mapping[str, Any]) -> dict[str, Any]:
    options = changed_options(entry)
    table = {**fields, "method": _name(entry), **({"sampler_options": options} if options else {})}
    plain: dict[str, Any] = json.loads(json.dumps(table))
    return plain


def _options_of_pipe(entry: Entry) -> dict[str, Any]:
    """The options of ``from_diffusers`` that make the entry's pipeline; not all where one is not plain."""
    own = entry.pipeline.config.to_dict()
    default = _from_pipe(entry, {}).config.to_dict()
    fields = {name: value for name, value in own.items() if value != default[name]}
    options = {**fields, "timestep_spacing": entry.pipeline.sampler.run_spacing, **changed_options(entry)}
    return {name: value for name, value in options.items() if _is_plain(value)}


def _is_native(entry: Entry, cell: Cell, size: Mapping[str, Any]) -> bool:
    """Whether the pipeline of diffusers makes the plan of a cell with its own scheduler."""
    pipe = entry.pipeline.backbone.pipe  # type: ignore[attr-defined]
    return not entry.plans and _makes(lambda: DiffusionPipeline.from_diffusers(pipe), cell, size)


def _size(about: Mapping[str, Any]) -> dict[str, Any]:
    """Height and width of the images of a pipeline of diffusers, where they were given."""
    return {name: about[name] for name in ("height", "width") if name in about}


def _from_pipe(entry: Entry, options: Mapping[str, Any]) -> DiffusionPipeline:
    backbone = entry.pipeline.backbone  # type: ignore[attr-defined]
    return DiffusionPipeline.from_diffusers(backbone.pipe, _name(entry), **options)


def _plan_lines(cell: Cell) -> list[str]:
    if cell.plan is None:
        raise ValueError("the cell has no plan")
    return [f"plan = SamplingPlan.from_dict(json.loads({json.dumps(cell.plan.to_dict())!r}))"]


def _call(entry: Entry, cell: Cell, about: Mapping[str, Any]) -> str:
    """The line that samples, with a place for the number of steps or the plan."""
    seed = f"seed={about['seeds'][0]}"
    held = None if cell.plan is None else cell.plan.scale
    scale = about.get("guidance_scale") if held is None else held
    if entry.pipeline.has_own_model:
        guided = "" if scale is None else f", guidance_scale={scale!r}"
        size = "".join(f", {name}={value}" for name, value in _size(about).items())
        return f"images = pipeline.generate(prompt, {{how}}{size}{guided}, {seed})"
    model = "" if "DigitsModel" in str(about["model"]) else "model, "
    condition = ", condition=condition" if about.get("condition") else ""
    if condition:
        condition += f", guidance=[{about['guidance']}]" if scale is None else f", guidance_scale={scale!r}"
    return f"samples = pipeline.sample({model}shape={tuple(about['shape'])}, {{how}}{condition}, {seed})"


def _without_plan(entry: Entry) -> str:
    return f"# {entry.pipeline.method} has only step(): give its class to DiffusionPipeline(config, {_name(entry)})\n"


def _name(entry: Entry) -> str:
    return SAMPLERS.name_of(type(entry.pipeline.sampler)) or entry.pipeline.method


def _is_plain(value: Any) -> bool:
    """Whether the repr of a value is Python for it."""
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError):
        return False


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
