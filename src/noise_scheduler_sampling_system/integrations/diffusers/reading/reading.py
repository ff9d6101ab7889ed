"""Reads a scheduler of diffusers, or its config, as settings of this library.

Only the fields that the class itself reads are read. A config file may hold others; the class ignores them, and so does
:func:`read`. A field that changes results and cannot be expressed is refused. If it concerns only the choice of levels,
it is noted instead (:attr:`Reading.notes`).
"""

from __future__ import annotations

import warnings
from typing import Any

from ....config.settings import FROM_DIFFUSERS, NoiseSchedulerConfig
from ....support.errors import ConfigurationError
from ....support.registry import did_you_mean
from .class_table import READERS
from .diffusers_classes import default_fields
from .refusals import NO_PATH
from .scheduler_fields import class_and_fields
from .scheduler_reading import Reading

__all__ = ["config_of", "read"]


def read(scheduler: Any, *, mu: float | None = None) -> Reading:
    """Read a scheduler of diffusers.

    Args:
        scheduler: a scheduler object, its config, or the dictionary of a ``scheduler_config.json``.
        mu: the shift by resolution, for flow schedulers with ``use_dynamic_shifting``.

    Raises:
        ConfigurationError: the scheduler has no path in this library, a field cannot be honoured, or the config's
            class cannot be told.
    """
    name, given = class_and_fields(scheduler)
    if name not in READERS:
        known = NO_PATH.get(name)
        raise ConfigurationError(
            f"diffusers' {name} is not read: {known.reason if known else 'this library does not know it'}",
            where="scheduler",
            suggestion=known.instead if known else did_you_mean(name, READERS),
        )
    fields = {key: given.get(key, default) for key, default in default_fields(name).items()}
    return READERS[name](name, fields, mu)


@FROM_DIFFUSERS.provide
def config_of(scheduler: Any, mu: float | None = None) -> NoiseSchedulerConfig:
    """The settings that a scheduler's config stands for; this is ``NoiseSchedulerConfig.from_diffusers``.

    Args:
        scheduler, mu: as for :func:`read`.

    Raises:
        ConfigurationError: as :func:`read`; also a shift that depends on the image's size, without ``mu``.
    """
    reading = read(scheduler, mu=mu)
    if reading.needs_mu:
        raise ConfigurationError(
            "the shift depends on the image's size (use_dynamic_shifting)",
            where="mu",
            suggestion="give mu=math.log(resolution_shift(tokens)), or set use_dynamic_shifting=False and a shift",
        )
    for note in reading.notes:
        warnings.warn(f"{reading.class_name}: {note}", stacklevel=3)
    return reading.config.replace(use_clipped_model_output=True)
