"""One step of a single-step method, as numbers: exponential methods over log-SNR, and classical Runge-Kutta methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from ..plans.builder import PlanBuilder, Prediction
from ..plans.linear_form import Form
from ..schedules.path import Level, NoisePath
from .steps import straight_distance
from .tableaux import ButcherTableau, ExponentialTableau

__all__ = ["Scheme", "between", "exponential_scheme", "run_scheme", "runge_kutta_scheme"]


@final
@dataclass(frozen=True)
class Scheme:
    """One step: state k = of_x[k]·x + Σ_j weights[k][j]·prediction j, for k = 1, 2, ...; the last state is the result.

    Attributes:
        quantity: the prediction that is combined: "sample", "epsilon" or "flow_prediction".
        levels: where the model is evaluated after the first call.
        of_x, weights: of the states at these levels and of the result.
    """

    quantity: str
    levels: tuple[Level, ...]
    of_x: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]


def run_scheme(build: PlanBuilder, i: int, scheme: Scheme, p: Prediction) -> tuple[Form, list[Prediction]]:
    """Write the rows of a scheme after its first prediction.

    Returns:
        The state that the step ends with, and the predictions of all stages.
    """
    x, predictions = build.x, [p]
    for k, (of_x, weights) in enumerate(zip(scheme.of_x, scheme.weights, strict=True)):
        state = of_x * x
        for weight, prediction in zip(weights, predictions, strict=True):
            state = state + weight * prediction.of(scheme.quantity)
        if k < len(scheme.levels):
            build.advance(state)
            predictions.append(build.predict(scheme.levels[k], i))
    return state, predictions


def between(path: NoisePath, now: Level, after: Level, fraction: float) -> Level:
    """The level at a fraction of the interval of log-SNR."""
    lam = now.half_log_snr + fraction * (after.half_log_snr - now.half_log_snr)
    return path.level_at(2.0 * lam)


def exponential_scheme(path: NoisePath, tableau: ExponentialTableau, space: str, now: Level, after: Level) -> Scheme:
    """A step of an exponential Runge-Kutta method over λ = log(α/σ).

    With y = x/α for the space "sample", dy/dλ = −y + x₀; with y = x/σ for "epsilon", dy/dλ = y − ε. So L is −1 or 1,
    and N is x₀ or −ε.
    """
    h = after.half_log_snr - now.half_log_snr
    stages = [between(path, now, after, c) for c in tableau.c[1:]]
    of_x, rows = [], []
    for level, weights in zip([*stages, after], tableau.weights, strict=True):
        if space == "sample":
            factor, scale, total, z = level.sigma / now.sigma, level.alpha * h, 0.0, -h
            total = level.alpha - factor * now.alpha
        else:
            factor, scale, z = level.alpha / now.alpha, -level.sigma * h, h
            total = level.sigma - factor * now.sigma
        others = [scale * w for w in weights(z)]
        of_x.append(factor)
        rows.append((total - math.fsum(others), *others))
    return Scheme(space, tuple(stages), tuple(of_x), _padded(rows))


def _padded(rows: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    """Rows with one weight for each prediction made by then."""
    return tuple((*row, *[0.0] * (k + 1 - len(row))) for k, row in enumerate(rows))


def runge_kutta_scheme(path: NoisePath, tableau: ButcherTableau, frame: str, now: Level, after: Level) -> Scheme:
    """A step of a Runge-Kutta method in a form of the ODE without a linear term.

    Args:
        frame: the form. "sigma": d(x/α)/d(σ/α) = ε. "flow": d(x/w)/d(σ/w) = ε − x₀ with w = α + σ. "log_snr":
            d(z − z₁)/dλ = (α/σ)·(x₀ − x₀₁) with λ = log(α/σ) and z = x/σ, where z₁ is the exact solution for the
            step's first prediction x₀₁. Each form is exact for constants and keeps the order of the tableau.
    """
    if frame == "log_snr":
        return _log_snr_scheme(path, tableau, now, after)

    def scale(level: Level) -> float:
        """The divisor of x and σ in this form; σ over it is the variable of integration."""
        return level.alpha if frame == "sigma" else level.alpha + level.sigma

    # α over the scale is linear in that variable, too. Near pure noise it tells levels apart where σ over it is 1
    signal, noise = ((a / scale(now), b / scale(after)) for a, b in zip(now[1:], after[1:], strict=True))
    stages = []
    for c in tableau.c[1:]:
        alpha, sigma = (start + c * (end - start) for start, end in (signal, noise))
        stages.append(path.level_at(2.0 * math.log(alpha / sigma)))
    ends = [*stages, after]
    length = noise[1] - noise[0] if frame == "sigma" else straight_distance(now, after)
    return Scheme(
        "epsilon" if frame == "sigma" else "flow_prediction",
        tuple(stages),
        tuple(scale(level) / scale(now) for level in ends),
        tuple(
            tuple(scale(level) * length * w for w in row)
            for level, row in zip(ends, [*tableau.a[1:], tableau.b], strict=True)
        ),
    )


def _log_snr_scheme(path: NoisePath, tableau: ButcherTableau, now: Level, after: Level) -> Scheme:
    h = after.half_log_snr - now.half_log_snr
    stages = [between(path, now, after, c) for c in tableau.c[1:]]
    ends = [*stages, after]
    ratios = [math.exp(level.half_log_snr) for level in [now, *stages]]
    of_x = [level.sigma / now.sigma for level in ends]
    rows = []
    for level, factor, row in zip(ends, of_x, [*tableau.a[1:], tableau.b], strict=True):
        others = [level.sigma * h * w * r for w, r in zip(row[1:], ratios[1:], strict=False)]
        rows.append((level.alpha - factor * now.alpha - math.fsum(others), *others))
    return Scheme("sample", tuple(stages), tuple(of_x), tuple(rows))
