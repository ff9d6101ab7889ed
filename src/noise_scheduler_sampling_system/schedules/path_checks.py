"""Checks of a user's path: that its formulas have the properties that the library relies on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NoReturn, Protocol

import torch
from torch import Tensor

from ..support.errors import ConfigurationError, NoiseSamplingError

__all__ = ["check_path"]

#: The formulas that a path may define.
_FORMULAS = ("_log_snr", "_time", "_alpha_sigma", "_time_of_sigma", "time_at", "fraction_at")
_PLACES = 33
_TOLERANCE = 1e-6


class CheckedPath(Protocol):
    """The checked formulas of a path; ``NoisePath`` documents each."""

    t_min: float
    t_max: float

    def _log_snr(self, t: Tensor) -> Tensor: ...
    def _time(self, log_snr: Tensor) -> Tensor: ...
    def _alpha_sigma(self, log_snr: Tensor) -> tuple[Tensor, Tensor]: ...
    def time_at(self, fraction: float) -> float: ...
    def fraction_at(self, t: float) -> float: ...


def is_foreign(path: CheckedPath) -> bool:
    """Whether a formula of the path is defined outside this library. Those inside have tests."""
    own = __name__.split(".", maxsplit=1)[0]
    modules = (getattr(getattr(type(path), name), "__module__", "") for name in _FORMULAS)
    return any(module != own and not module.startswith(f"{own}.") for module in modules)


def check_path(path: CheckedPath) -> None:
    """Check a path: its range, that noise rises with t, its inverse, its α and σ, and its derivative.

    A path with formulas from outside this library is checked when it is made. The check takes a millisecond.

    Raises:
        ConfigurationError: a check fails; the message has the formula, the time and the values.
    """
    low, high = getattr(path, "t_min", math.nan), getattr(path, "t_max", math.nan)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        _refuse(path, "t_min", f"the times are [{low}, {high}]", "set finite t_min < t_max in the class or __init__")
    t = torch.linspace(low, high, _PLACES, dtype=torch.float64)
    log_snr = _evaluated(path, "_log_snr", path._log_snr, t)
    _check_order(path, t, log_snr)
    inside = torch.isfinite(log_snr)
    t, log_snr = t[inside], log_snr[inside]
    _check_levels(path, t, log_snr)
    _check_inverse(path, t, log_snr)
    _check_derivative(path, t)
    _check_fractions(path)


def _refuse(path: CheckedPath, name: str, what: str, suggestion: str) -> NoReturn:
    raise ConfigurationError(what, where=f"{type(path).__name__}.{name}", suggestion=suggestion)


def _evaluated(path: CheckedPath, name: str, function: Callable[[Tensor], Tensor], argument: Tensor) -> Tensor:
    """The result of a formula of the path for a tensor, in float64."""
    try:
        result = function(argument)
    except NoiseSamplingError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"raises {type(error).__name__} for a tensor of {len(argument)} float64 numbers: {error}",
            where=f"{type(path).__name__}.{name}",
            suggestion="write it with operations on tensors",
        ) from error
    if not isinstance(result, Tensor) or result.shape != argument.shape:
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        _refuse(path, name, f"returns {got} for shape {tuple(argument.shape)}", "return a tensor of the same shape")
    return result.detach().to(torch.float64)


def _check_order(path: CheckedPath, t: Tensor, log_snr: Tensor) -> None:
    bad = torch.isnan(log_snr)
    bad[1:] |= torch.isposinf(log_snr[1:])  # +inf, no noise, is allowed at the cleanest level
    bad[:-1] |= torch.isneginf(log_snr[:-1])  # −inf, no signal, is allowed at the noisiest level
    if bad.any():
        i = int(bad.nonzero()[0])
        _refuse(
            path, "_log_snr", f"log SNR is {log_snr[i].item()} at t = {t[i].item():g}",
            "make it finite between t_min and t_max; +inf is allowed at t_min and −inf at t_max",
        )  # fmt: skip
    rises = (log_snr.diff() >= 0.0).nonzero()
    if len(rises):
        i = int(rises[0])
        _refuse(
            path, "_log_snr",
            f"log SNR does not fall from t = {t[i].item():g} ({log_snr[i].item():.6g}) "
            f"to t = {t[i + 1].item():g} ({log_snr[i + 1].item():.6g})",
            "noise rises with t: log SNR = log(α²/σ²) has to fall strictly",
        )  # fmt: skip


def _check_levels(path: CheckedPath, t: Tensor, log_snr: Tensor) -> None:
    try:
        alpha, sigma = (part.detach().to(torch.float64) for part in path._alpha_sigma(log_snr))
    except NoiseSamplingError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"raises {type(error).__name__} for a tensor of log SNRs: {error}",
            where=f"{type(path).__name__}._alpha_sigma",
            suggestion="return two tensors, α and σ, of the shape of log SNR",
        ) from error
    found = 2.0 * (alpha.log() - sigma.log())
    off = ~((found - log_snr).abs() <= _TOLERANCE * (1.0 + log_snr.abs()))
    if off.any():
        i = int(off.nonzero()[0])
        _refuse(
            path, "_alpha_sigma",
            f"α = {alpha[i].item():g} and σ = {sigma[i].item():g} have log SNR {found[i].item():.6g}, "
            f"not {log_snr[i].item():.6g} (t = {t[i].item():g})",
            "return α and σ with log(α²/σ²) equal to the log SNR that is given",
        )  # fmt: skip


def _check_inverse(path: CheckedPath, t: Tensor, log_snr: Tensor) -> None:
    back = _evaluated(path, "_time", path._time, log_snr)
    wrong = ~((back - t).abs() <= _TOLERANCE * (path.t_max - path.t_min))
    if wrong.any():  # where log SNR is nearly flat, it determines the time to fewer digits
        again = _evaluated(path, "_log_snr", path._log_snr, back.clamp(path.t_min, path.t_max))
        wrong &= ~((again - log_snr).abs() <= _TOLERANCE * (1.0 + log_snr.abs()))
    if wrong.any():
        i = int(wrong.nonzero()[0])
        _refuse(
            path, "_time",
            f"the time of log SNR {log_snr[i].item():.6g} is {back[i].item():.6g}, and log SNR is that at "
            f"t = {t[i].item():.6g}",
            "make it the inverse of _log_snr",
        )  # fmt: skip


def _check_derivative(path: CheckedPath, t: Tensor) -> None:
    """Check d(log SNR)/dt: finite at the ends, where ``rates`` needs it, and equal to differences between them."""
    with torch.inference_mode(False), torch.enable_grad():
        at = t.clone().requires_grad_()
        value = path._log_snr(at)
        slope = torch.autograd.grad(value.sum(), at)[0] if value.requires_grad else torch.full_like(t, math.nan)
    _check_derivative_inside(path, t[1:-1], slope[1:-1])
    for at, end in zip(t[[0, -1]].tolist(), slope[[0, -1]].tolist(), strict=True):
        if not math.isfinite(end):
            _refuse(
                path, "_log_snr",
                f"its derivative at t = {at:g} is {end:g}, and rates({at:g}) needs a finite one",
                "where only an end of the range has none, move t_min or t_max a little inside, and set t_origin to the "
                "time of clean data",
            )  # fmt: skip


def _check_derivative_inside(path: CheckedPath, t: Tensor, slope: Tensor) -> None:
    step = 1e-5 * (path.t_max - path.t_min)
    left, right = (_evaluated(path, "_log_snr", path._log_snr, t + sign * step) for sign in (-1.0, 1.0))
    numeric = (right - left) / (2.0 * step)
    wrong = ~((slope - numeric).abs() <= 1e-2 * (numeric.abs() + numeric.abs().mean()))
    if wrong.sum() > (len(t) // 8 if slope.isfinite().all() else 0):  # a few kinks are allowed
        i = int(wrong.nonzero()[0])
        _refuse(
            path, "_log_snr",
            f"its derivative at t = {t[i].item():g} is {slope[i].item():g} by autograd, and {numeric[i].item():g} by "
            "differences",
            "write it with differentiable operations of torch: no .item(), NumPy or detach()",
        )  # fmt: skip


def _check_fractions(path: CheckedPath) -> None:
    before = -math.inf
    for u in (0.25, 0.5, 0.75, 1.0):
        t = float(path.time_at(u))
        back = float(path.fraction_at(t))
        if not (abs(back - u) <= _TOLERANCE and t > before):
            _refuse(
                path, "fraction_at", f"time_at({u:g}) is {t:g}, and fraction_at of it is {back:g}",
                "make them rise, and one the inverse of the other",
            )  # fmt: skip
        before = t
