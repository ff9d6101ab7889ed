"""The options of a sampler that a client may give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...config.options import checked_options
from ...config.registries import SAMPLERS
from ...config.sampler_aliases import resolve
from ...samplers.base import COMMON_OPTIONS
from ...support.errors import ConfigurationError

__all__ = ["refuse_options"]


def refuse_options(method: str | None, options: Mapping[str, Any]) -> None:
    """Raise for options that a client may not give, before anything reads them.

    Args:
        method: the sampler; None: that of a pipeline of diffusers, whose options are its own.
        options: values by name. They become keywords beside the server's settings, so only those that the sampler
            declares may pass.

    Raises:
        ConfigurationError: an option without a sampler, of another sampler, with a value that is not allowed, or one
            that names a file of the server.
    """
    if not options:
        return
    if method is None:
        raise ConfigurationError(
            "are those of a sampler, and none is named", where="options", suggestion="give sampler, too"
        )
    made = SAMPLERS.get(resolve(method).sampler, "sampler")
    declared = {**made.declared_options, **COMMON_OPTIONS}
    checked_options(options, declared, made.__name__)
    for name, value in options.items():
        if declared[name].names_file and isinstance(value, str):
            raise ConfigurationError(
                "names a file of the server", where=name, suggestion="leave it out; the server's own files are not read"
            )
