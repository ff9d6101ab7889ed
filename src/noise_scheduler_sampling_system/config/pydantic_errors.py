"""Pydantic's reports in the form of this library's own errors."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ..support.errors import ConfigurationError, cut, shown
from ..support.mistakes import Mistakes
from .keyword_advice import advice

__all__ = ["configuration_error"]


def configuration_error(error: ValidationError, fields: Mapping[str, FieldInfo]) -> ConfigurationError:
    """The problems that pydantic reports, in one error.

    Args:
        error: pydantic's report.
        fields: the fields of the model that was validated.
    """
    mistakes = Mistakes()
    for problem in error.errors():
        mistakes.add(_of_problem(problem, fields))
    return mistakes.error()


def _of_problem(problem: ErrorDetails, fields: Mapping[str, FieldInfo]) -> ConfigurationError:
    cause = problem.get("ctx", {}).get("error")
    where = ".".join(str(part) for part in problem["loc"])
    if isinstance(cause, ConfigurationError):
        return cause if cause.where else cause.under(where)
    if problem["type"] == "extra_forbidden":
        return ConfigurationError(
            f"unknown setting {shown(where)}", where=cut(where, 60), suggestion=advice(where, fields)
        )
    info = fields.get(where.split(".")[0])
    return ConfigurationError(
        f"{problem['msg']}, got {shown(problem['input'])}",
        where=where,
        suggestion=f"the default is {info.default!r}" if info is not None else "see NoiseSchedulerConfig",
    )
