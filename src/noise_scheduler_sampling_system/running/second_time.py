"""The second time of a network of two times: its name, its place in a call, and what does not fit together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import Tensor

from ..support.errors import ConfigurationError, shown

__all__ = ["SECOND_TIMES", "at_two_times", "refuse_one_time", "refuse_two_times"]

#: The names that a second time may have as a parameter of a network; it is passed by name.
SECOND_TIMES: Final = ("r", "r_timestep", "s")


def at_two_times(
    model: Callable[..., Any], name: str, *, time_by_name: bool
) -> Callable[[Tensor, Tensor, Mapping[str, Any]], Any]:
    """(x, times, condition) ↦ what a network of two times returns.

    Args:
        model: the network.
        name: of its second time.
        time_by_name: whether its first time is passed as ``timestep``.

    Returns:
        A function of times (t, r) of shape (B, 2).
    """
    if time_by_name:
        return lambda x, t, condition: model(x, timestep=t[:, 0], **{name: t[:, 1]}, **condition)
    return lambda x, t, condition: model(x, t[:, 0], **{name: t[:, 1]}, **condition)


def refuse_one_time(model: Any, name: str | None, condition: Mapping[str, Any], where: str) -> None:
    """Raise where a run asks at two times, and the network has one.

    Args:
        model: the network.
        name: of its second time, or None.
        condition: the keywords of the call.
        where: the name of the condition.

    Raises:
        ConfigurationError: the network names no second time, or the condition brings it.
    """
    if name is None:
        raise ConfigurationError(
            f"{shown(model)} has one time, and the sampler asks a network of two times",
            where="model",
            why=f"no parameter is named {', '.join(SECOND_TIMES[:-1])} or {SECOND_TIMES[-1]}",
            suggestion="use a sampler for networks of one time ('ddim', 'dpmpp_2m'; 'lcm' and 'tcd' for consistency "
            "models); give a network of two times as a function of (x, t, r, **condition)",
        )
    if name in condition:
        raise ConfigurationError(
            "is the second time, which the plan gives", where=f"{where}[{name!r}]", suggestion="leave it out"
        )


def refuse_two_times(model: Any, signature: inspect.Signature, condition: Mapping[str, Any]) -> None:
    """Raise where a run asks at one time, and the network requires two.

    Args:
        model: the network.
        signature: of the network.
        condition: the keywords of the call.

    Raises:
        ConfigurationError: the network has a parameter for a second time without a default.
    """
    required = {p.name for p in signature.parameters.values() if p.default is p.empty}
    name = next((name for name in SECOND_TIMES if name in required and name not in condition), None)
    if name is not None:
        raise ConfigurationError(
            f"{shown(model)} has two times, and the sampler asks at one",
            where="model",
            why=f"its parameter {name!r} has no default",
            suggestion="use the sampler 'flow_map', which asks at (t, r); to run it as a network of one time, give "
            f"lambda x, t, **condition: model(x, t, {name}=t, **condition)",
        )
