"""The choices of a :class:`PlanScheduler`'s user, as plain data within a config of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....config.registries import SAMPLERS
from ....config.sampler_aliases import resolve
from ....support.errors import ConfigurationError
from ....support.registry import Registry, did_you_mean
from ..reading.field_settings import SIGMA_FLAGS
from ..reading.reading import read
from ..reading.scheduler_fields import OURS, config_fields, possible_classes
from .given_plans import Plans, plans_as_data

__all__ = ["registered_fields"]


def registered_fields(
    config: Any, method: Any, timestep_spacing: str | None, spacing_options: Mapping[str, Any] | None,
    plan: Plans | None, options: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The fields to register: those of the replaced class, and the user's choices under :data:`OURS`.

    Arguments as for :class:`PlanScheduler`.

    Raises:
        ConfigurationError: arguments that do not go together, or that neither the class nor the sampler has.
    """
    fields = config_fields(config)
    made_by = fields.pop("_class_name", "PlanScheduler")
    saved = fields.pop(OURS, {})
    if made_by != "PlanScheduler":  # a scheduler of diffusers was made of a config of ours, so our choices are void
        saved = {}
    ours = {"method": None, "options": {}, "plans": None, **saved}
    determined = method is not None or plan is not None
    name = ours["scheduler"] if "scheduler" in ours else _replaced_class(config, determined)
    if plan is not None:
        _refuse_beside_plan(method=method)
        ours = {"method": None, "options": {}, "plans": plans_as_data(plan)}
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
    """A sampler's name; of a class, the name that it is registered under, because a config is plain data."""
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


def _replaced_class(config: Any, determined: bool) -> str:
    """The class that the scheduler replaces.

    Args:
        config: as for :class:`PlanScheduler`.
        determined: whether other arguments determine the sampler.

    Raises:
        ConfigurationError: the config may be that of several classes that do different things.
    """
    if not isinstance(config, Mapping):
        return read(config).class_name
    names = possible_classes(config)
    if not names:
        return read(config).class_name  # raises, and says what is wrong
    readings = [read({**config, "_class_name": name}) for name in names]
    if not determined and any((r.sampler, r.options) != (readings[0].sampler, readings[0].options) for r in readings):
        raise ConfigurationError(
            f"the config does not name its class, and may be that of {', '.join(names)}",
            where="config._class_name",
            suggestion="give the scheduler itself, from_config(pipe.scheduler), or a method",
        )
    return names[0]


def _changed_fields(name: str, ours: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are fields of the class and not options of the sampler.

    Raises:
        ConfigurationError: an option that is neither.
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
