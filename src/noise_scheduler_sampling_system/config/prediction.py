"""Conversions between the quantities that a network may return. Each is affine in (x, x₀)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar, final

from torch import Tensor

from ..support.errors import ConfigurationError, shown
from ..support.registry import did_you_mean

__all__ = [
    "IDENTITY", "PREDICTION_ALIASES", "PREDICTION_TYPES", "TWO_TIME_TYPES", "Affine", "Preconditioning", "SecondLevel",
    "conversion", "prediction_named", "quantity", "row_space",
]  # fmt: skip


Real = TypeVar("Real", float, Tensor)


@final
class Affine(NamedTuple):
    """The map (x, y) ↦ x_factor·x + y_factor·y."""

    x_factor: float
    y_factor: float


@final
class SecondLevel(NamedTuple):
    """The level that a network of two times is asked for, beside the level of its input.

    Attributes:
        t: the second time r, as the network is told it.
        alpha, sigma: the level at r.
        elapsed: the time from r to the first time, in the path's own unit (``path.time_unit``).
    """

    t: float
    alpha: float
    sigma: float
    elapsed: float


#: The conversion of a quantity to itself.
IDENTITY = Affine(0.0, 1.0)

#: q = of_clean·x₀ + of_noise·ε for each quantity q that a network may predict, given α and σ.
_OF_CLEAN_AND_NOISE: Final[dict[str, Callable[[float, float], tuple[float, float]]]] = {
    "sample": lambda alpha, sigma: (1.0, 0.0),
    "epsilon": lambda alpha, sigma: (0.0, 1.0),
    "v_prediction": lambda alpha, sigma: (-sigma, alpha),
    "flow_prediction": lambda alpha, sigma: (-1.0, 1.0),
}


#: The same for quantities that only networks of two times predict, given the second level, too.
_OF_TWO_TIMES: Final[dict[str, Callable[[float, float, SecondLevel], tuple[float, float]]]] = {
    "state": lambda alpha, sigma, to: (to.alpha, to.sigma),
    "average_velocity": lambda alpha, sigma, to: ((alpha - to.alpha) / to.elapsed, (sigma - to.sigma) / to.elapsed),
}


#: What a network may predict. A network of two times predicts them for the straight step from x_t to x_r: x_t =
#: α·x₀ + σ·ε and x_r = α_r·x₀ + σ_r·ε have one solution x₀ and ε, and the others follow from these two.
PREDICTION_TYPES: Final = tuple(_OF_CLEAN_AND_NOISE)
#: What only a network of two times may predict: the state x_r, and (x_t − x_r)/(t − r).
TWO_TIME_TYPES: Final = tuple(_OF_TWO_TIMES)
#: Other names of these.
PREDICTION_ALIASES: Final = {
    "eps": "epsilon", "noise": "epsilon", "x0": "sample", "x_start": "sample", "denoised": "sample",
    "v": "v_prediction", "velocity": "v_prediction", "flow": "flow_prediction", "flow_matching": "flow_prediction",
    "mean_velocity": "average_velocity",
}  # fmt: skip


def prediction_named(name: Any, where: str = "prediction_type") -> str:
    """The prediction type with this name or alias.

    Raises:
        ConfigurationError: an unknown one.
    """
    kind = PREDICTION_ALIASES.get(name, name) if isinstance(name, str) else name
    if kind not in PREDICTION_TYPES:
        raise ConfigurationError(
            f"got {shown(name)}", where=where, suggestion=did_you_mean(str(name), PREDICTION_TYPES)
        )
    return str(kind)


def row_space(space: str, alpha: float, sigma: float) -> str:
    """The quantity that a plan in this space keeps at a level: ε says nothing without signal, and x₀ without noise."""
    if alpha == 0.0 and space == "epsilon":
        return "sample"
    return "epsilon" if sigma == 0.0 and space == "sample" else space


def quantity(name: str, alpha: float, sigma: float, to: SecondLevel | None = None) -> tuple[float, float]:
    """(of_clean, of_noise) with quantity = of_clean·x₀ + of_noise·ε.

    Args:
        name: of the quantity.
        alpha, sigma: the level.
        to: the level that a network of two times is asked for; None for other networks.

    Raises:
        ConfigurationError: an unknown quantity, or one that a network of one time does not predict.
    """
    if name in _OF_CLEAN_AND_NOISE:
        return _OF_CLEAN_AND_NOISE[name](alpha, sigma)
    if name not in _OF_TWO_TIMES:
        raise ConfigurationError(
            f"{name!r} is not a prediction type",
            where="prediction_type",
            suggestion=did_you_mean(name, (*PREDICTION_TYPES, *TWO_TIME_TYPES)),
        )
    if to is None:
        raise ConfigurationError(
            f"{name!r} is what a network of two times predicts, and only one time is known here",
            where="prediction_type",
            suggestion="use the sampler 'flow_map', with no guidance or ClassifierFree; networks of one time predict "
            f"{', '.join(PREDICTION_TYPES)}",
        )
    if to.elapsed == 0.0:
        raise ConfigurationError(
            f"{name!r} is asked from t to t",
            where="prediction_type",
            why="the state at t is the input itself, and the mean over an empty interval is not defined",
            suggestion="use a grid whose last time is above the path's smallest (timestep_spacing='trailing')",
        )
    return _OF_TWO_TIMES[name](alpha, sigma, to)


def conversion(source: str, target: str, alpha: float, sigma: float, to: SecondLevel | None = None) -> Affine:
    """The map from x = α·x₀ + σ·ε and a source quantity to a target quantity.

    With x and q = p·x₀ + r·ε known, x₀ and ε solve a 2×2 linear system of determinant
    α·r − σ·p. ("v_prediction" for "sample" gives x₀ = (α·x − σ·v)/(α² + σ²).)

    Args:
        source, target: names of quantities.
        alpha, sigma: the level of x.
        to: as for :func:`quantity`.

    Raises:
        ConfigurationError: the source does not determine the target at this level: ε does not determine x₀ where
            α = 0, and x₀ does not determine ε where σ = 0.
    """
    if source == target:
        return IDENTITY
    p, r = quantity(source, alpha, sigma, to)
    determinant = alpha * r - sigma * p
    if determinant == 0.0:
        raise ConfigurationError(
            f"{source!r} does not determine {target!r} at α = {alpha:g}, σ = {sigma:g}",
            where="prediction_type",
            why="x carries no signal there" if alpha == 0.0 else "x carries no noise there",
            suggestion="use a model with prediction_type='v_prediction' or 'sample', or a spacing that does not visit "
            "that level ('leading')"
            if alpha == 0.0
            else "use a model with prediction_type='v_prediction', or avoid that level",
        )
    of_clean, of_noise = quantity(target, alpha, sigma, to)
    return Affine((of_clean * r - of_noise * p) / determinant, (of_noise * alpha - of_clean * sigma) / determinant)


@final
@dataclass(frozen=True)
class Preconditioning:
    """EDM's preconditioning (Karras et al. 2022, arXiv 2206.00364, eq. 7): x₀ = c_skip·x + c_out·F(c_in·x, c_noise).

    With s the ``sigma_data``: c_skip = s²/(σ² + s²), c_out = σ·s/√(σ² + s²) and c_in = 1/√(σ² + s²) (Table 1). Each
    is a method of σ, a number or a tensor, and returns the same kind. Consistency models have σ − σ_min in place of σ
    in c_skip and in the numerator of c_out, so that x₀ = x at σ_min (Song et al. 2023, arXiv 2303.01469, appendix C).

    Attributes:
        sigma_data: s, the standard deviation of the data.
        sign: the sign of c_out; −1 for networks that predict v in the terms of diffusers.
        sigma_min: the σ at which x₀ = x.
    """

    sigma_data: float
    sign: float = 1.0
    sigma_min: float = 0.0

    def c_in(self, sigma: Real) -> Real:
        width: Real = (sigma**2 + self.sigma_data**2) ** 0.5
        return 1.0 / width

    def c_skip(self, sigma: Real) -> Real:
        return self.sigma_data**2 / ((sigma - self.sigma_min) ** 2 + self.sigma_data**2)

    def c_out(self, sigma: Real) -> Real:
        return self.sign * (sigma - self.sigma_min) * self.sigma_data * self.c_in(sigma)

    def output_of(self, clean: Any, x: Any, sigma: float) -> Any:
        """The network's output that stands for this clean sample."""
        return (clean - self.c_skip(sigma) * x) / self.c_out(sigma)
