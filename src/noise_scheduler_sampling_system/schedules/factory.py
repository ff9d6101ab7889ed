"""Noise schedules by name."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, final

from ..config.registries import SCHEDULES
from ..config.settings import NoiseSchedulerConfig
from ..support.class_factory import ClassFactory
from ..support.errors import ConfigurationError
from .path import NoisePath

__all__ = ["NoiseSchedulerFactory"]


@final
class NoiseSchedulerFactory(ClassFactory):
    """Makes noise schedules by name; :meth:`register` adds one.

    Examples:
        >>> from noise_scheduler_sampling_system import NoiseSchedulerFactory
        >>> schedule = NoiseSchedulerFactory.create("cosine", num_train_timesteps=500)
        >>> schedule.t_max
        499.0
    """

    registry = SCHEDULES
    base = NoisePath

    @classmethod
    def create(
        cls,
        config: NoiseSchedulerConfig | Mapping[str, Any] | str | Enum | None = None,
        settings: NoiseSchedulerConfig | Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> NoisePath:
        """The schedule of a config: ``create(config)``, ``create("cosine")`` or ``create("cosine", config)``.

        Args:
            config: a config, a mapping of its fields, or a schedule's name.
            settings: beside a name, the config of all other fields.
            fields: further fields of the config.

        Raises:
            ConfigurationError: an unknown name or a bad field.
        """
        if isinstance(config, str | Enum):
            fields, config = {"beta_schedule": config, **fields}, settings
        elif settings is not None:
            raise ConfigurationError(
                "two configs are given",
                where="settings",
                suggestion="create(config), or create(name, config) with a schedule's name",
            )
        if isinstance(config, Mapping):
            config = NoiseSchedulerConfig.from_dict(config)
        whole = (config or NoiseSchedulerConfig()).replace(**fields) if fields or config is None else config
        scheduler: NoisePath = SCHEDULES.get(whole.beta_schedule, "beta_schedule")(whole)
        return scheduler
