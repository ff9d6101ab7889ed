"""What a user asks of a :class:`PlanScheduler`, as plain data within a config of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....config.registries import SAMPLERS
from ....config.sampler_aliases import resolve
from ....grids.time_grid import checked_steps
from ....plans.plan import SamplingPlan
from ....support.errors import ConfigurationError
from ....support.registry import Registry, did_you_mean
from ..reading.reading import OURS, SIGMA_FLAGS, config_fields, named_by, read

__all__ = ["Plans", "chosen"]

#: A plan, or plans by their number of steps; as objects or as plain data.
Plans = SamplingPlan | Mapping[Any, Any]


def chosen(
    config: Any, method: Any, timestep_spacing: str | None, spacing_options: Mapping[str, Any] | None,
    plan: Plans | None, options: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The fields to register: those of the class in whose place the scheduler is, and what is ours under ``OURS``.

    Arguments as for :class:`PlanScheduler`.

    Raises:
        ConfigurationError: arguments that do not go together, or are nothing to the class and the sampler.
    """
    fields = config_fields(config)
    made_by = fields.pop("_class_name", "PlanScheduler")
    saved = fields.pop(OURS, {})
    if made_by != "PlanScheduler":  # a scheduler of diffusers was made of a config of ours: it is another choice
        saved = {}
    ours = {"method": None, "options": {}, "plans": None, **saved}
    name = ours["scheduler"] if "scheduler" in ours else _class_of(config, method is not None or plan is not None)
    if plan is not None:
        _refuse_beside_plan(method=method)
        ours = {"method": None, "options": {}, "plans": _plain_plans(plan)}
    elif method is not None:
        ours |= {"method": _method_name(method), "options": {}, "plans": None}
    if ours["plans"]:
        _refuse_beside_plan(timestep_spacing=timestep_spacing, spacing_options=spacing_options)
    changed = _changed_fields(name, ours, options)
    if timestep_spacing is not None:
        ours |= {"timestep_spacing": timestep_spacing, "spacing_options": {}}
    if spacing_options is not None:
        ours["spacing_options"] = dict(spacing_options)
    given = {k: v for k, v in options.items() if k not in changed}
    ours |= {"scheduler": name, "options": {**ours["options"], **given}}
    defaulted = [key for key in fields.get("_use_default_values", ()) if key not in changed]
    fields.pop("_use_default_values", None)
    more = {"_use_default_values": defaulted} if defaulted else {}
    return {**fields, **more, **changed, "_class_name": "PlanScheduler", OURS: ours}


def _refuse_beside_plan(**arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ConfigurationError(
                "is given beside a plan, which has its own",
                where=name,
                suggestion="leave it out; a method in place of the plan is from_config(config, method=...)",
            )


def _method_name(method: Any) -> str:
    """A sampler's name; of a class, the one that it is registered under: a config is plain data."""
    if isinstance(method, type):
        name = SAMPLERS.name_of(method)
        if name is None:
            raise ConfigurationError(
                f"{method.__name__} is not registered, and a config holds names",
                where="method",
                suggestion='SAMPLERS.register("name", cls), then method="name"',
            )
        return name
    return Registry.key(method)


def _class_of(config: Any, settled: bool) -> str:
    """The class in whose place the scheduler is; ``settled``: what it does is said by other arguments.

    Raises:
        ConfigurationError: the config may be that of several classes that do not do the same.
    """
    if not isinstance(config, Mapping):
        return read(config).class_name
    names = named_by(config)
    if not names:
        return read(config).class_name  # which says what is wrong
    readings = [read({**config, "_class_name": name}) for name in names]
    if not settled and any((r.sampler, r.options) != (readings[0].sampler, readings[0].options) for r in readings):
        raise ConfigurationError(
            f"the config names no class, and may be that of {', '.join(names)}",
            where="config._class_name",
            suggestion="give the scheduler itself, from_config(pipe.scheduler), or a method",
        )
    return names[0]


def _changed_fields(name: str, ours: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that are fields of the class, and no options of the sampler.

    Raises:
        ConfigurationError: neither.
    """
    reading, own = read({"_class_name": name}), set[str]()
    sampler = resolve(ours["method"]).sampler if ours["method"] is not None else reading.sampler
    if not ours["plans"] and sampler is not None:
        own = {"afs", *SAMPLERS.get(sampler).option_defaults}
    known = own | set(reading.fields)
    for option in options:
        if option not in known:
            does = "a plan" if ours["plans"] else f"the sampler {sampler!r}" if sampler else "a traced plan"
            spacing = SIGMA_FLAGS.get(option)
            raise ConfigurationError(
                f"neither {does} nor {name} has it",
                where=option,
                suggestion=f"timestep_spacing={spacing[0]!r}" if spacing else did_you_mean(option, known),
            )
    return {k: v for k, v in options.items() if k not in own}


def _plain_plans(plan: Plans) -> dict[str, Any]:
    """Plans by their number of steps, as plain data."""
    if isinstance(plan, SamplingPlan):
        return {str(plan.steps): plan.to_dict()}
    if "space" in plan:  # the dictionary of one
        return _plain_plans(SamplingPlan.from_dict(plan))
    found: dict[str, Any] = {}
    for steps, one in plan.items():
        made = one if isinstance(one, SamplingPlan) else SamplingPlan.from_dict(one)
        found[str(checked_steps(int(steps), "plan"))] = made.to_dict()
    if not found:
        raise ConfigurationError("there is none", where="plan", suggestion="give a SamplingPlan, or {steps: plan}")
    return found
