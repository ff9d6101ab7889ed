"""The pipelines that the options of a command stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..support.errors import ConfigurationError
from .parsing import key_values

if TYPE_CHECKING:
    from ..pipeline.pipeline import DiffusionPipeline
    from ..pipeline.system import AdvancedDiffusionSystem

__all__ = ["CONFIG_ENDINGS", "pipeline_in", "pipeline_of", "schedule_of", "system_of"]

#: The endings of configuration files.
CONFIG_ENDINGS: Final = (".yaml", ".yml", ".json")


def pipeline_of(method: str | None, settings: dict[str, Any], options: list[str] | None) -> DiffusionPipeline:
    """A pipeline from the options of a command; ``settings`` as :func:`~.parsing.settings_of` returns them."""
    from ..config.settings import NoiseSchedulerConfig
    from ..pipeline.pipeline import DiffusionPipeline

    fields = {name: value for name, value in settings.items() if name != "preset"}
    preset = settings.get("preset")
    config = NoiseSchedulerConfig.preset(preset, **fields) if preset else NoiseSchedulerConfig(**fields)
    return DiffusionPipeline(config, method or "ddim", **key_values(options or []))


def system_of(file: Path, **others: Any) -> AdvancedDiffusionSystem:
    """The pipelines of a configuration file.

    Args:
        file: the file.
        others: options that the file sets itself, so that they must not be given.
    """
    from ..pipeline.system import AdvancedDiffusionSystem

    for where, value in others.items():
        if value:
            raise ConfigurationError("is set by the file", where=where, suggestion=f"change it in {file}")
    return AdvancedDiffusionSystem(file)


def pipeline_in(file: Path, name: str | None, **others: Any) -> DiffusionPipeline:
    """The pipeline of a configuration file.

    Args:
        file: the file.
        name: of the pipeline; None: the only one in the file.
        others: as for :func:`system_of`.
    """
    system = system_of(file, **others)
    names = system.list_pipelines()
    if name is None and len(names) != 1:
        raise ConfigurationError(
            f"{file} has {len(names)} pipelines", where="pipeline", suggestion=f"choose one of: {', '.join(names)}"
        )
    return system.get_pipeline(names[0] if name is None else name)


def schedule_of(pipeline: DiffusionPipeline) -> str:
    """The name of a pipeline's noise schedule."""
    return str(pipeline.config.to_dict()["beta_schedule"])
