"""The spacing of a run: that of the config, or for "auto" the one that suits the sampler."""

from __future__ import annotations

from .registries import defaults_of_schedule
from .settings import NoiseSchedulerConfig

__all__ = ["default_spacing", "spacing_of"]


def default_spacing(config: NoiseSchedulerConfig) -> str:
    """The value of ``timestep_spacing`` that a config has where none is chosen."""
    own: str = defaults_of_schedule(config.beta_schedule).get("timestep_spacing", "auto")
    return own


def spacing_of(config: NoiseSchedulerConfig, suits: str = "leading") -> str:
    """The name of the spacing that a run has.

    Args:
        config: the settings.
        suits: the spacing that suits the sampler, for a config that leaves the choice open.
    """
    if config.timestep_spacing != "auto":
        return config.timestep_spacing
    return "leading" if config.steps_offset or config.spacing_options else suits
