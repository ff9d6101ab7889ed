"""Empirical model statistics: the facts about a model that DPM-Solver-v3 uses (Zheng et al. 2023, arXiv 2310.13268).

Over λ = log(α/σ) and with z = x/α, the diffusion ODE is dz/dλ = −l·z − f for any function l(λ), where
f = (σ·ε − l·x)/α = (1 − l)·(σ/α)·ε − l·x₀ is the part that needs the model (§3.1, eq. 5 to 8). The statistics are

    l = E tr(σ·∂ε/∂x)/d,  which minimises E‖σ·∂ε/∂x − l·I‖²,
    s = E⟨f, f'⟩/E‖f‖²,   the regression on f of its derivative f' over λ along the ODE.

With them e^(−∫s)·f, which the solver replaces by a polynomial in λ, changes as little as possible. l = 1 and s = 0 make
f = −x₀ (DPM-Solver++); l = 0 and s = −1 make e^(−∫s)·f proportional to ε (DPM-Solver).

The paper has a number for each pixel, and an intercept b in the regression. Here the statistics are scalars, so that
every step is linear in the state and the predictions. b, an image of constants, is left out for the same reason. As
functions of λ the statistics depend on the data and not on the path, because z has the same distribution on every path.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..grids.time_grid import TimeGrid
from ..running.noise import NoiseSource, resolve_keys
from ..schedules.path import CLEAN, NoisePath
from ..support.curves import Curve
from ..support.errors import ConfigurationError, FileError, cut
from ..support.files import checked_path, read_bytes, write_atomic

__all__ = ["ModelStatistics"]

Array = npt.NDArray[np.float64]
_FORMAT = "model statistics 1"
#: Half of the interval of λ of the central difference along the ODE.
_DELTA = 0.02
#: The widest range of λ in which statistics are measured.
_RANGE = (-5.0, 7.0)
#: The stage of the noise that is added to data; stages of runs are smaller.
_STAGE = 1 << 32


class SamplesModels(Protocol):
    """The methods of a :class:`DiffusionPipeline` that measuring a model needs."""

    def __init__(self, config: NoisePath, method: str) -> None: ...
    @property
    def scheduler(self) -> NoisePath: ...
    def sample(self, model: Any, shape: Sequence[int] | None = None, **run: Any) -> Any: ...


@final
@dataclass(frozen=True, eq=False)
class ModelStatistics:
    """l and s of a model at values of λ: cubic splines between these, constant outside.

    Attributes:
        half_log_snr: λ = log(α/σ), strictly rising, shape (K,), K ≥ 2.
        l: the factor of the linear term, shape (K,): near 1 where x is noise, near 0 where it is data.
        s: the growth rate of f, shape (K,).

    Raises:
        ConfigurationError: other shapes, numbers that are not finite, or λ that does not rise.
    """

    half_log_snr: Array
    l: Array  # noqa: E741 - the paper's name
    s: Array

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            array = np.array(getattr(self, name), dtype=np.float64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        lam = self.half_log_snr
        alike = lam.ndim == 1 and len(lam) > 1 and self.l.shape == self.s.shape == lam.shape
        if not (alike and all(np.isfinite(getattr(self, n)).all() for n in _ARRAYS) and (np.diff(lam) > 0.0).all()):
            raise ConfigurationError(
                f"half_log_snr, l and s have shapes {lam.shape}, {self.l.shape} and {self.s.shape}",
                where="ModelStatistics",
                why="three lists of one length ≥ 2 are needed, finite, and half_log_snr strictly rising",
                suggestion="let ModelStatistics.measure make them",
            )

    @classmethod
    def neutral(cls, quantity: str = "sample") -> ModelStatistics:
        """Statistics with which the solver uses x₀ only ("sample", as DPM-Solver++) or ε only ("epsilon")."""
        if quantity not in ("sample", "epsilon"):
            raise ConfigurationError(f"got {quantity!r}", where="quantity", suggestion="give 'sample' or 'epsilon'")
        of_x, growth = (1.0, 0.0) if quantity == "sample" else (0.0, -1.0)
        return cls(np.array([-1.0, 1.0]), np.full(2, of_x), np.full(2, growth))

    @classmethod
    def of(cls, given: Any) -> ModelStatistics:
        """Statistics, those of a file, or for None the neutral ones.

        Raises:
            ConfigurationError: anything else.
            FileError: the file is missing, or does not hold statistics.
        """
        if given is None or isinstance(given, ModelStatistics):
            return cls.neutral() if given is None else given
        if isinstance(given, str | os.PathLike):
            return cls.load(given)
        raise ConfigurationError(
            f"got {type(given).__name__}",
            where="statistics",
            suggestion="give ModelStatistics, or the path of a file that they were saved to",
        )

    @classmethod
    def measure(
        cls,
        pipeline: SamplesModels,
        model: Any = None,
        data: Tensor | None = None,
        *,
        shape: Sequence[int] | None = None,
        levels: int = 48,
        seed: int = 0,
        progress: bool = False,
        **request: Any,
    ) -> ModelStatistics:
        """Estimate l and s of a model under the condition and the guidance of its runs.

        The same noise n, and −n, is added to the data at every level, so that the estimates are smooth in λ. Gradients
        are not needed: E⟨n, ε⟩ = E tr(σ·∂ε/∂x) for Gaussian n, and f' is a central difference along the ODE. This takes
        6 model calls at each level on the whole batch.

        Args:
            pipeline: its noise schedule, clipping and prediction type are used.
            model: as for :meth:`DiffusionPipeline.sample`.
            data: clean samples (B, ...); 64 to 256 images suffice.
            shape: instead of ``data``: the shape of samples that the pipeline generates.
            levels: K, the number of values of λ, evenly over the path, between −5 and 7.
            seed: of the noise, and of generated data.
            progress: show a progress bar.
            request: ``condition``, ``guidance``, ``device``, ``dtype``, ``max_batch_size``, ... of ``sample``.
                16-bit types are too coarse for the differences.

        Raises:
            ConfigurationError: none or both of ``data`` and ``shape`` are given, or ``sample`` raises it.
            ModelOutputError: as for ``sample``.
        """
        if (data is None) == (shape is None):
            raise ConfigurationError(
                "none or both of data and shape are given", where="data", suggestion="give exactly one of the two"
            )
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 4:
            raise ConfigurationError(f"got {levels!r}", where="levels", suggestion="give a whole number ≥ 4")
        if data is None:
            data = pipeline.sample(model, shape, seed=seed, **request)
        path, one_step = pipeline.scheduler, type(pipeline)(pipeline.scheduler, "ddim")
        clean = data.detach().to("cpu", torch.float64)
        source = NoiseSource(resolve_keys(seed, None, len(clean)), tuple(clean.shape[1:]), torch.float64, clean.device)
        noise = source(0, _STAGE)

        def predicted(z: Tensor, lam: float) -> Tensor:
            """x₀, predicted from z = x/α."""
            level = path.level_at(2.0 * lam)
            x = (level.alpha * z).to(data.device, request.get("dtype") or data.dtype)
            clean_sample = one_step.sample(model, initial_sample=x, grid=TimeGrid((level, CLEAN)), seed=seed, **request)
            return torch.as_tensor(clean_sample).to("cpu", torch.float64)

        nodes = _nodes(path, levels)
        moments = np.zeros((levels, 6))
        for k, lam in enumerate(tqdm(nodes.tolist(), disable=not progress, unit="level")):
            for n in (noise, -noise):
                z = clean + math.exp(-lam) * n
                y = predicted(z, lam)
                later, sooner = (predicted(z + math.expm1(-d) * (z - y), lam + d) for d in (_DELTA, -_DELTA))
                change = (later - sooner) / (2.0 * _DELTA)
                pairs = (n, math.exp(lam) * (z - y)), (z, z), (z, y), (y, y), (z, change), (y, change)
                moments[k] += [float((a * b).mean()) for a, b in pairs]
        of_noise, zz, zy, yy, zd, yd = moments.T
        of_x = of_noise / (2.0 * float(noise.square().mean()))
        # f = a·z − y and, as dz/dλ = y − z, f' = c·z + a·y − dy/dλ
        a = 1.0 - of_x
        c = -Curve(nodes, of_x).slope(nodes) - a
        square = a * a * zz - 2.0 * a * zy + yy
        product = a * c * zz + (a * a - c) * zy - a * zd - a * yy + yd
        nothing = square <= 1e-12 * yy  # the linear term is the whole model
        return cls(nodes, of_x, np.divide(product, square, out=np.zeros(levels), where=~nothing))

    @functools.cached_property
    def linear(self) -> Curve:
        """l as a function of λ."""
        return Curve(self.half_log_snr, self.l)

    @functools.cached_property
    def growth(self) -> Curve:
        """s as a function of λ."""
        return Curve(self.half_log_snr, self.s)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hash of the content."""
        return hashlib.sha256(b"".join(getattr(self, name).tobytes() for name in _ARRAYS)).hexdigest()[:16]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics to a ``.safetensors`` file, whole or not at all.

        Raises:
            FileError: another ending, or the file cannot be written.
        """
        from safetensors.numpy import save

        if checked_path(path).suffix != ".safetensors":
            raise FileError("is not a file name of model statistics", where=str(path), suggestion="use .safetensors")
        write_atomic(path, save({name: getattr(self, name) for name in _ARRAYS}, metadata={"format": _FORMAT}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ModelStatistics:
        """Read a file that :meth:`save` wrote.

        Raises:
            FileError: the file is missing, malformed, or does not hold statistics.
        """
        data = read_bytes(path)
        try:
            from safetensors.numpy import load

            arrays = load(data)
            if set(arrays) != set(_ARRAYS):
                raise ValueError(f"it holds {', '.join(sorted(arrays))}")
            return cls(**arrays)
        except Exception as error:
            raise FileError(
                "does not hold model statistics",
                where=str(path),
                why=cut(error),
                suggestion="give a file of ModelStatistics.save",
            ) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelStatistics) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        low, high = self.half_log_snr[[0, -1]]
        return f"ModelStatistics({len(self.l)} levels, λ from {low:.3g} to {high:.3g}, {self.fingerprint})"


_ARRAYS = ("half_log_snr", "l", "s")


def _nodes(path: NoisePath, count: int) -> Array:
    """Values of λ over a path, with room for the central difference at both ends."""
    low, high = (path.level(t).half_log_snr for t in (path.t_max, path.t_min))
    low, high = max(low, _RANGE[0]), min(high, _RANGE[1])
    return np.linspace(low + 1.5 * _DELTA, high - 1.5 * _DELTA, count)
