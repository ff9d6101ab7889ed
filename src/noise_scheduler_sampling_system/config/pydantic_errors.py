"""Pydantic's reports in the form of this library's own errors."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ..support.errors import ConfigurationError, cut, shown
from .keyword_advice import advice

__all__ = ["configuration_error"]


def configuration_error(error: ValidationError, fields: Mapping[str, FieldInfo]) -> ConfigurationError:
    """The first problem that pydantic reports, and the number of further ones.

    Args:
        error: pydantic's report.
        fields: the fields of the model that was validated.
    """
    problems = error.errors()
    first = problems[0]
    cause = first.get("ctx", {}).get("error")
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if isinstance(cause, ConfigurationError):
        return ConfigurationError(
            cause.what + more, where=cause.where or where, why=cause.why, suggestion=cause.suggestion
        )
    if first["type"] == "extra_forbidden":
        return ConfigurationError(
            f"unknown setting {shown(where)}{more}", where=cut(where, 60), suggestion=advice(where, fields)
        )
    info = fields.get(where.split(".")[0])
    return ConfigurationError(
        f"{first['msg']}, got {shown(first['input'])}{more}",
        where=where,
        suggestion=f"the default is {info.default!r}" if info is not None else "see NoiseSchedulerConfig",
    )
