"""A scheduler of another library by name: a class of diffusers, an importable object, or a saved folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..support.data_files import read_json
from ..support.errors import ConfigurationError, cut, shown
from ..support.registry import did_you_mean
from .named_objects import named_object

__all__ = ["named_scheduler"]

_CONFIG: Final = "scheduler_config.json"


def named_scheduler(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """The scheduler of a name, for :meth:`SamplingPlan.trace`.

    Args:
        name: a class of diffusers ("EulerDiscreteScheduler"); ``module:attribute``, an object, or a class or a function
            that returns one; a folder with ``scheduler_config.json``, or that of a pipeline of diffusers.
        settings: keywords of the class or the function.

    Raises:
        ConfigurationError: no such scheduler, or settings that it does not take.
    """
    given = dict(settings or {})
    folder = Path(name)
    if folder.is_dir():
        return _of_folder(folder, given)
    if ":" in name:
        found = named_object(name, "scheduler")
        if callable(getattr(found, "step", None)) and not isinstance(found, type):
            if given:
                raise ConfigurationError("is made already", where="scheduler", suggestion="leave its settings out")
            return found
        make = found
    else:
        make = _class_of(name)
    try:
        return make(**given)
    except Exception as error:  # whatever the user's class raises
        raise ConfigurationError(
            f"{shown(name)} cannot be made", where="scheduler", why=cut(error), suggestion="check its settings"
        ) from error


def _class_of(name: str) -> Any:
    try:
        import diffusers
    except ImportError:
        raise ConfigurationError(
            "diffusers is not installed",
            where="scheduler",
            suggestion="pip install 'noise-scheduler-sampling-system[diffusers]'",
        ) from None
    known = [each for each in dir(diffusers) if each.endswith("Scheduler")]
    if name not in known:
        raise ConfigurationError(
            f"diffusers has no scheduler {shown(name)}",
            where="scheduler",
            suggestion=did_you_mean(name, known, listing="dir(diffusers) in Python") + "; or give module:attribute",
        )
    return getattr(diffusers, name)


def _of_folder(folder: Path, settings: Mapping[str, Any]) -> Any:
    file = next((f for f in (folder / _CONFIG, folder / "scheduler" / _CONFIG) if f.is_file()), None)
    if file is None:
        raise ConfigurationError(
            f"{folder} has no {_CONFIG}",
            where="scheduler",
            suggestion="give a folder that save_pretrained of a scheduler or a pipeline made",
        )
    config = read_json(file)
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise ConfigurationError(
            f"{file} names no class", where="scheduler", suggestion=f"write {json.dumps({'_class_name': '...'})}"
        )
    return _class_of(kind).from_config({**config, **settings})
