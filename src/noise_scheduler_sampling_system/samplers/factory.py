"""Samplers by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import Any

from ..config.registries import SAMPLERS, SPACINGS
from ..config.sampler_aliases import Resolved, add_alias, resolve
from ..config.settings import NoiseSchedulerConfig
from ..config.spacing_choice import default_spacing, spacing_of
from ..schedules.factory import NoiseSchedulerFactory
from ..schedules.path import NoisePath
from ..support.class_factory import ClassFactory
from ..support.errors import ConfigurationError
from ..support.registry import Registry
from .base import BaseSampler

__all__ = ["SamplerFactory"]


class SamplerFactory(ClassFactory):
    """Creates samplers by name, and registers new ones.

    Examples:
        >>> from noise_scheduler_sampling_system import SamplerFactory
        >>> SamplerFactory.create("ddim", eta=0.5).plan(10).nfe
        10
    """

    registry = SAMPLERS
    base = BaseSampler

    @classmethod
    def create(
        cls,
        method: str | Enum | type[BaseSampler] | BaseSampler,
        scheduler: NoisePath | NoiseSchedulerConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> BaseSampler:
        """Create a sampler on a noise schedule.

        Args:
            method: an enum member, a registered name, a class, or a sampler, which keeps its options. Names of
                diffusers, k-diffusion, ComfyUI and web interfaces are also known (config/sampler_aliases.py). A name
                that implies a spacing ("DPM++ 2M Karras") sets it.
            scheduler: the noise schedule, or the config of one (default: linear).
            options: the sampler's own options, e.g. ``eta``.

        Raises:
            ConfigurationError: an unknown name or option, or a name whose spacing contradicts the config's.
        """
        if not isinstance(scheduler, NoisePath):
            scheduler = NoiseSchedulerFactory.create(scheduler)
        if isinstance(method, BaseSampler):
            return method.on(scheduler, **options)
        if isinstance(method, type):
            made: BaseSampler = cls._derived(method, "create")(scheduler, **options)
            return made
        meant = resolve(method)
        if meant.spacing is not None or meant.spacing_options:
            scheduler = _respaced(scheduler, meant, Registry.key(method))
        sampler: BaseSampler = SAMPLERS.get(meant.sampler)(scheduler, **{**meant.options, **options})
        return sampler

    @classmethod
    def alias(cls, *names: str, of: str, spacing: str | None = None, **options: Any) -> None:
        """Add names for a registered sampler, with options and a spacing that they imply.

        Case, spaces and punctuation of the names do not count.

        Args:
            names: the further names, such as labels of another program.
            of: the registered name of the sampler.
            spacing: the spacing that the names imply where the config chooses none.
            options: the options of the sampler that the names imply.

        Raises:
            ConfigurationError: a name stands for something else, or there is no such sampler, spacing or option.
        """
        SAMPLERS.get(of, "of")(NoiseSchedulerFactory.create("linear"), **options)  # its check of the options
        meant = Resolved(SAMPLERS.canonical(of), options, spacing and SPACINGS.canonical(spacing))
        if meant.spacing is not None:
            SPACINGS.get(meant.spacing, "spacing")
        for name in names:
            add_alias(name, meant)


def _respaced(scheduler: NoisePath, meant: Resolved, name: str) -> NoisePath:
    """The noise schedule with the spacing that a sampler's name implies."""
    config = scheduler.config
    given = config.timestep_spacing
    chosen_already = given not in ("auto", "leading", default_spacing(config), meant.spacing)
    if chosen_already and not meant.firm:
        meant = replace(meant, spacing=None)
    if chosen_already and meant.spacing is not None:
        raise ConfigurationError(
            f"the sampler {name!r} implies the spacing {meant.spacing!r}, and the config sets {given!r}",
            where="timestep_spacing",
            suggestion=f"name the sampler {meant.sampler!r}, or set timestep_spacing={meant.spacing!r} in the config",
        )
    chosen = meant.spacing or spacing_of(config, SAMPLERS.get(meant.sampler).spacing)
    options = {**meant.spacing_options, **config.spacing_options}
    return scheduler.spaced(chosen, options)
