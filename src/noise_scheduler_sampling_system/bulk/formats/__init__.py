"""The formats of shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ...support.errors import ConfigurationError, shown
from .base import Batch, SetFacts, ShardWriter
from .parquet import ParquetWriter
from .png import PngWriter
from .webdataset import WebDatasetWriter

__all__ = ["FORMATS", "Batch", "SetFacts", "ShardWriter", "format_of"]

FORMATS: Final[Mapping[str, type[ShardWriter]]] = {
    "parquet": ParquetWriter,
    "png": PngWriter,
    "webdataset": WebDatasetWriter,
}


def format_of(name: Any) -> type[ShardWriter]:
    """The writer of a format.

    Raises:
        ConfigurationError: an unknown format, or a package that it needs is missing.
    """
    if not isinstance(name, str) or name not in FORMATS:
        raise ConfigurationError(f"got {shown(name)}", where="format", suggestion=f"give one of: {', '.join(FORMATS)}")
    FORMATS[name].refuse_missing_packages()
    return FORMATS[name]
