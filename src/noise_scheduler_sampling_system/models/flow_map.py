"""The exact flow map of the probability-flow ODE, as what a network of two times predicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ..config.prediction import SecondLevel, conversion
from ..schedules.path import Level, NoisePath
from ..support.errors import ConfigurationError

__all__ = ["two_time_prediction"]


class _Flowing(Protocol):
    """An exact model: its path, its type, its flow and its prediction at one time."""

    @property
    def path(self) -> NoisePath: ...
    @property
    def prediction_type(self) -> str: ...
    def flow(self, x: Tensor, start: Level, end: Level, **condition: Any) -> Tensor: ...
    def _predict(self, kind: str, x: Tensor, t: float | Tensor, condition: Mapping[str, Any]) -> Tensor: ...


@torch.no_grad()
def two_time_prediction(
    model: _Flowing, x: Tensor, t: float | Tensor, r: float | Tensor, condition: Mapping[str, Any]
) -> Tensor:
    """What a perfect network of two times predicts, of the model's type.

    With x_r the exact solution at r: "state" is x_r, "average_velocity" (x − x_r)/(t − r) in the path's own unit of
    time, and every other type is read off the x₀ and ε of the straight step, x = α·x₀ + σ·ε and x_r = α_r·x₀ + σ_r·ε.
    Where r = t these are the limits: the expected clean sample and noise, and dx/dt.

    Args:
        model: its path, type and flow.
        x: states (B, ...).
        t, r: the two times, each a number, or of shape (B,).
        condition: keywords of the model.

    Returns:
        A tensor of x's shape, dtype and device.

    Raises:
        ConfigurationError: times of another shape, or outside the path.
    """
    times = torch.stack([_each(t, len(x), "t"), _each(r, len(x), "r")], dim=1)
    result = torch.empty_like(x)
    for now, to in dict.fromkeys(map(tuple, times.tolist())):
        rows = ((times[:, 0] == now) & (times[:, 1] == to)).to(x.device)
        own = {name: _of_rows(value, rows) for name, value in condition.items()}
        result[rows] = _between(model, x[rows], now, to, own).to(x)
    return result


def _between(model: _Flowing, x: Tensor, t: float, r: float, condition: Mapping[str, Any]) -> Tensor:
    """The prediction for states of one pair of times."""
    path, kind = model.path, model.prediction_type
    now, to = _level(path, t), _level(path, r)
    wide = x.to(torch.float64) if x.device.type != "mps" else x
    if t == r:
        if kind == "state":
            return x
        if kind != "average_velocity":
            return model._predict(kind, wide, t, condition)
        clean, noise = (model._predict(each, wide, t, condition) for each in ("sample", "epsilon"))
        of_clean, of_noise = (path.time_unit * float(rate) for rate in path.rates(t))
        return of_clean * clean + of_noise * noise
    second: SecondLevel = path.second_level(now, to)
    state = model.flow(wide, now, to, **condition)
    return _mixed(conversion("state", kind, now.alpha, now.sigma, second), wide.to(state), state)


def _mixed(factors: tuple[float, float], x: Tensor, y: Tensor) -> Tensor:
    return y if factors == (0.0, 1.0) else factors[0] * x + factors[1] * y


def _level(path: NoisePath, t: float) -> Level:
    """The level at a time from ``t_clean`` on; a run gives times in single precision, which may lie just outside."""
    near = min(max(t, path.t_clean), path.t_max)
    if abs(near - t) > 1e-6 * path.t_max:
        path.log_snr(t)  # raises
    return Level(near, float(path.alpha(near)), float(path.sigma(near)))


def _each(time: float | Tensor, batch: int, where: str) -> Tensor:
    """A time of each sample, on the CPU in float64."""
    given = time.detach() if isinstance(time, Tensor) else torch.tensor(time, dtype=torch.float64)
    value = given.to("cpu", torch.float64)
    if value.ndim > 1 or value.numel() not in (1, batch):
        raise ConfigurationError(
            f"{where} has shape {tuple(value.shape)} for a batch of {batch}",
            where=where,
            suggestion="give one time, or one a sample: shape (B,)",
        )
    return value.reshape(-1).expand(batch)


def _of_rows(value: Any, rows: Tensor) -> Any:
    """The part of a condition that belongs to some samples."""
    value = torch.as_tensor(value) if isinstance(value, list | tuple) else value
    return value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == len(rows) else value
