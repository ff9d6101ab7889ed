"""Configuration files of pipelines: every pipeline of a file, or all mistakes of the file."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from ..config.choices import SamplingMethod
from ..config.registries import SAMPLERS
from ..config.sampler_aliases import resolve
from ..config.settings import NoiseSchedulerConfig
from ..samplers.factory import SamplerFactory
from ..support.data_files import read_table
from ..support.errors import ConfigurationError, cut, shown
from ..support.mistakes import Mistakes
from .pipeline import DiffusionPipeline

__all__ = ["check_name", "pipeline_of", "read_pipelines"]

logger = logging.getLogger(__name__)

#: The most characters of a pipeline's name.
_NAME = 200


def read_pipelines(path: str | os.PathLike[str]) -> dict[str, DiffusionPipeline]:
    """The pipelines of a YAML or JSON file by name, in its order.

    Raises:
        FileError: the file is missing or malformed.
        ConfigurationError: settings are wrong; the error holds the mistakes of all pipelines, each with its path.
    """
    made: dict[str, DiffusionPipeline] = {}
    mistakes = Mistakes()
    for name, entry in read_table(path).items():
        with mistakes.collected(f"{path}: {cut(name, 60)}"):
            check_name(name, "")
            made[name] = pipeline_of(name, entry)
    mistakes.raise_all()
    return made


def pipeline_of(name: str, entry: Any) -> DiffusionPipeline:
    """The pipeline of one entry of a file.

    Raises:
        ConfigurationError: with all mistakes of the entry.
    """
    settings = dict(_table(entry, "", "settings"))
    method = settings.pop("method", None) or _method_of(name)
    given = settings.pop("sampler_options", None) or {}
    mistakes, config, options = Mistakes(), None, {}
    with mistakes.collected():
        options = {str(key): value for key, value in _table(given, "sampler_options", "options").items()}
    with mistakes.collected():
        config = NoiseSchedulerConfig.from_dict(settings)
    if not mistakes:
        return DiffusionPipeline(config, method, **options)
    try:  # what is wrong with the sampler, whatever its noise schedule
        SamplerFactory.create(method, config, **options)
    except ConfigurationError as error:
        if config is not None or error.where in ("method", *options):
            mistakes.add(error)
    raise mistakes.error()


def _table(value: Any, where: str, kind: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"expected a table of {kind}, got {type(value).__name__}",
            where=where,
            suggestion=f"write the {kind} as indented key: value lines",
        )
    return value


def check_name(name: Any, where: str) -> None:
    """Raise ConfigurationError unless a pipeline can have this name."""
    if not isinstance(name, str) or not 0 < len(name) <= _NAME:
        raise ConfigurationError(
            f"got {shown(name)} for a pipeline's name",
            where=where,
            suggestion=f"give a text of 1 to {_NAME} characters",
        )


def _is_known(name: str) -> bool:
    try:
        resolve(name)
    except ConfigurationError:
        return False
    return True


def _method_of(name: str) -> str:
    """The sampler whose name is the end of a pipeline's name."""
    ending = max((m for m in SAMPLERS if name == m or name.endswith(f"_{m}")), key=len, default=None)
    if ending is None:  # "mine_dpmpp_2m_karras": a sampler with its spacing
        parts = name.split("_")
        ending = next((e for e in ("_".join(parts[k:]) for k in range(len(parts))) if _is_known(e)), None)
    if ending is None:
        logger.warning(
            "the name of pipeline %r does not end in a sampler: using 'ddim'; write method: ... to choose", name
        )
    return ending or SamplingMethod.DDIM.value
