"""The base of models whose denoiser is known in closed form."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from ..config.prediction import TWO_TIME_TYPES, quantity
from ..schedules.path import CLEAN, Level, NoisePath
from ..support.errors import ConfigurationError
from .constants import tensor_of, working_dtype
from .embedding import Embedding
from .flow_map import two_time_prediction
from .prior import Prior

__all__ = ["ExactModel"]

#: q²·prediction = of_x·x + of_center·m, for data z + √v·n with E[z | x] = m and q² = α²v + σ².
#: The formulas are simplified, so that no terms cancel at either end of the path.
_OF_X_AND_CENTER: Final[dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "sample": lambda a, s, v: (a * v, s * s),
    "epsilon": lambda a, s, v: (s, -a * s),
    "v_prediction": lambda a, s, v: (a * s * (1.0 - v), -s * (a * a + s * s)),
    "flow_prediction": lambda a, s, v: (s - a * v, -s * (a + s)),
}


class ExactModel(ABC):
    """A perfectly trained diffusion model of a known data distribution.

    It is called like a network and returns the exact conditional expectation. The error of a sampler against
    :meth:`reference_solution` is therefore the sampler's alone. Called with a second time it is a network of two times
    and returns the exact flow map of the probability-flow ODE (:mod:`.flow_map`). It computes in float64 (float32 on
    MPS), on the device of the samples, and is thread-safe.

    A subclass implements :meth:`_data`: the subspace of its data, and their distribution.

    Args:
        path: the forward process.
        prediction_type: what a call returns: "epsilon", "sample", "v_prediction" or "flow_prediction"; with a second
            time also "state" or "average_velocity". Default: the prediction type of the path's config.
        shape: the shape of one sample, or None where any is allowed.
        num_classes: number of classes, or None for an unconditional model.

    Attributes:
        null_class: the label that means "any class" (= ``num_classes``), or None.

    Raises:
        ConfigurationError: an unknown prediction type.
    """

    def __init__(
        self,
        path: NoisePath,
        prediction_type: str | None = None,
        *,
        shape: Sequence[int] | None = None,
        num_classes: int | None = None,
    ) -> None:
        self.path = path
        self.prediction_type = path.config.prediction_type if prediction_type is None else prediction_type
        if self.prediction_type not in TWO_TIME_TYPES:
            quantity(self.prediction_type, 1.0, 0.0)  # raises for unknown names
        self.shape = None if shape is None else torch.Size(shape)
        self.num_classes = num_classes
        self.null_class = num_classes

    @property
    def fingerprint(self) -> str:
        """A hash of its path, its prediction type and its data, which tells it from other models."""
        told = (repr(self.path), self.path.config.to_dict(), self.prediction_type, self.shape, self.num_classes)
        digest = hashlib.sha256(repr(told).encode())
        for tensor in self._data_tensors():
            flat = tensor.detach().cpu().reshape(-1)
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(flat[:: max(1, len(flat) // 4096)].double().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _data_tensors(self) -> tuple[Tensor, ...]:
        """The tensors that define its data, for :attr:`fingerprint`."""
        return ()

    @abstractmethod
    def _data(self, shape: torch.Size) -> tuple[Embedding, Prior]:
        """The subspace of the data among samples of a shape, and the law of the data in its coordinates."""

    def __call__(self, x: Tensor, t: float | Tensor, r: float | Tensor | None = None, **condition: Any) -> Tensor:
        """The prediction of type ``prediction_type``.

        Args:
            x: noisy samples (B, ...), any floating dtype.
            t: the time of all samples, or a tensor of B times; for a :class:`GaussianModel` also (B, T) times, one
                for each frame; integers or reals.
            r: the second time, as t but without frames: the answer is that of the exact flow from t to r, computed
                like :meth:`reference_solution` and without gradients. From ``t_clean`` on; it may be above t.
            condition: ``class_labels``, one integer or (B,) of them, for a model with classes. On a GPU their range
                is not checked, because that would stall the device.

        Returns:
            A tensor of x's shape, dtype and device.

        Raises:
            ConfigurationError: shapes, times or a condition that do not fit.
        """
        if r is not None:
            return two_time_prediction(self, x, t, r, condition)
        return self._predict(self.prediction_type, x, t, condition)

    def denoise(self, x: Tensor, t: float | Tensor, **condition: Any) -> Tensor:
        """E[x₀ | x], the expected clean sample; arguments as for a call."""
        return self._predict("sample", x, t, condition)

    @torch.no_grad()
    def reference_solution(
        self, x: Tensor, t: float | None = None, t_end: float | None = None, **condition: Any
    ) -> Tensor:
        """The solution of the probability-flow ODE from samples, to about 1e-9.

        Args:
            x: noisy samples (B, ...) at time t.
            t: the start time; default the noisiest time.
            t_end: the end time; default the clean end (α = 1, σ = 0), which is cleaner than ``t_min``.
            condition: as for a call.

        Returns:
            A tensor of x's shape and device, in float64 (float32 on MPS).

        Raises:
            ConfigurationError: shapes, times or a condition that do not fit.
            NumericsError: samples that are not finite.
        """
        start = self.path.level(self.path.t_max if t is None else float(t))
        end = CLEAN if t_end is None else self.path.level(float(t_end))
        return self.flow(x, start, end, **condition)

    @torch.no_grad()
    def flow(self, x: Tensor, start: Level, end: Level, **condition: Any) -> Tensor:
        """The solution of the probability-flow ODE between two levels; see :meth:`reference_solution`."""
        device = x.device
        x = x.to("cpu" if device.type == "mps" else device)  # the CPU has float64
        embedding, prior, labels = self._resolve(x, condition)
        wide = x.to(torch.float64)
        u = embedding.coordinates(wide)
        moved = prior.flow(u, _scaled(start, embedding.scale), _scaled(end, embedding.scale), labels)
        solution = embedding.lift(moved)
        if not embedding.complete:
            if start.sigma == 0.0:
                raise ConfigurationError(
                    "the flow cannot start without noise, because the data has no width in some directions",
                    where="t",
                    suggestion="start from a time with σ > 0",
                )
            # off the data's subspace the clean sample is 0: x is noise alone, and scales with σ
            solution = solution + (end.sigma / start.sigma) * (wide - embedding.lift(u))
        return solution.to(device, working_dtype(device))

    @torch.no_grad()
    def sample_data(
        self,
        count: int,
        shape: Sequence[int] | None = None,
        generator: torch.Generator | int | None = None,
        **condition: Any,
    ) -> Tensor:
        """Draw from the data distribution itself.

        Args:
            count: number of samples.
            shape: the shape of one sample; needed where the model allows any.
            generator: a CPU generator, or a seed; default torch's global generator.
            condition: as for a call.

        Returns:
            (count, *shape) in float64 on the CPU.

        Raises:
            ConfigurationError: a missing or wrong shape, or a condition that does not fit.
        """
        chosen = self.shape if shape is None else torch.Size(shape)
        if chosen is None:
            raise ConfigurationError(
                "the model allows samples of any shape", where="shape", suggestion="give the shape of one sample"
            )
        if not isinstance(generator, torch.Generator):
            generator = torch.default_generator if generator is None else torch.Generator().manual_seed(generator)
        like = torch.empty((), dtype=torch.float64, device="cpu").expand(count, *chosen)
        embedding, prior, labels = self._resolve(like, condition)
        z = prior.draw(count, generator, labels).expand(count, embedding.size)
        noise = torch.randn(z.shape, generator=generator, dtype=z.dtype, device="cpu")
        return embedding.lift(embedding.scale * (z + prior.variance(z.device).sqrt() * noise)).contiguous()

    def null_condition(self, condition: Mapping[str, Any]) -> dict[str, Any]:
        """The null condition for a condition: every label becomes ``null_class``.

        Raises:
            ConfigurationError: a condition that the model does not take.
        """
        self._check_keys(condition)
        return {
            key: None if value is None else torch.full_like(tensor_of(value), int(self.null_class or 0))
            for key, value in condition.items()
        }

    def _predict(self, kind: str, x: Tensor, t: float | Tensor, condition: Mapping[str, Any]) -> Tensor:
        if isinstance(t, Tensor) and t.ndim == 2:
            self._resolve(x, condition)  # checks the arguments
            return self._predict_frames(kind, x, t)
        embedding, prior, labels = self._resolve(x, condition)
        dtype = working_dtype(x.device)
        alpha, sigma = self._coefficients(x, t)
        # instead of σ = 0, which gives 0/0 where the data has no width
        sigma = sigma.clamp_min(torch.finfo(dtype).tiny ** 0.25)
        wide = x.to(dtype)
        u = embedding.coordinates(wide)
        variance = embedding.scale**2 * prior.variance(x.device)
        square = alpha * alpha * variance + sigma * sigma
        width = square.sqrt()
        center = embedding.scale * prior.center(u / width, embedding.scale * alpha / width, labels)
        of_x, of_center = _OF_X_AND_CENTER[kind](alpha, sigma, variance)
        prediction = (of_x * u + of_center * center) / square
        if embedding.complete:
            return embedding.lift(prediction).to(x.dtype)
        # off the data's subspace the same formula holds with v = 0 and m = 0
        off = _OF_X_AND_CENTER[kind](alpha, sigma, torch.zeros_like(sigma))[0] / (sigma * sigma)
        outside = off.reshape(-1, *[1] * (x.ndim - 1)) * wide
        return (embedding.lift(prediction - off * u) + outside).to(x.dtype)

    def _predict_frames(self, kind: str, x: Tensor, t: Tensor) -> Tensor:
        """The prediction where each frame has a time of its own, shape (B, T).

        Raises:
            ConfigurationError: the model has no closed form for it.
        """
        raise ConfigurationError(
            f"t has shape {tuple(t.shape)}, and {type(self).__name__} has one noise level a sample",
            where="t",
            suggestion="give one time, or one a sample: shape (B,); GaussianModel takes one a frame, shape (B, T)",
        )

    def _coefficients(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """α and σ, each of shape (1, 1) or (B, 1), on the device of x."""
        device = t.device if isinstance(t, Tensor) else torch.device("cpu")
        times = torch.as_tensor(t, dtype=working_dtype(device), device=device)
        if times.ndim > 1 or times.numel() not in (1, x.shape[0]):
            raise ConfigurationError(
                f"t has shape {tuple(times.shape)} for a batch of {x.shape[0]}",
                where="t",
                suggestion="give one time, or one a sample: shape (B,)",
            )
        both = self.path.alpha_and_sigma(times)
        alpha, sigma = (c.to(x.device, working_dtype(x.device)).reshape(-1, 1) for c in both)
        return alpha, sigma

    def _resolve(self, x: Tensor, condition: Mapping[str, Any]) -> tuple[Embedding, Prior, Tensor | None]:
        """The embedding, the prior and the labels of a call, after checks of its shape, dtype and condition."""
        shape = x.shape[1:]
        if not x.is_floating_point() or x.ndim == 0 or (self.shape is not None and shape != self.shape):
            wanted = "(B, ...)" if self.shape is None else str(("B", *self.shape)).replace("'", "")
            raise ConfigurationError(
                f"got samples of shape {tuple(x.shape)} and {x.dtype}",
                where="x",
                suggestion=f"give a floating-point tensor of shape {wanted}",
            )
        self._check_keys(condition)
        return *self._data(shape), self._labels(condition.get("class_labels"), x)

    def _check_keys(self, condition: Mapping[str, Any]) -> None:
        known = set() if self.num_classes is None else {"class_labels"}
        for key in condition.keys() - known:
            raise ConfigurationError(
                f"{type(self).__name__} takes no condition {key!r}",
                where=key,
                suggestion="pass class_labels only" if known else "pass none: this model has no classes",
            )

    def _labels(self, labels: Any, x: Tensor) -> Tensor | None:
        """Class labels (B,) on the device of x."""
        if labels is None:
            return None
        given = tensor_of(labels)
        limit = int(self.num_classes or 0)
        problem = ""
        if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
            problem = f"labels are {given.dtype}, not integers"
        elif given.ndim > 1 or given.numel() not in (1, x.shape[0]):
            problem = f"labels have shape {tuple(given.shape)} for a batch of {x.shape[0]}"
        elif given.device.type == "cpu" and given.numel() and not (int(given.min()) >= 0 and int(given.max()) <= limit):
            problem = f"labels run from {int(given.min())} to {int(given.max())}"
        if problem:
            raise ConfigurationError(
                problem, where="class_labels", suggestion=f"give B integers 0..{limit - 1}, or {limit} for any class"
            )
        return given.to(x.device, torch.int64).expand(x.shape[0])


def _scaled(level: Level, scale: float) -> Level:
    """The level in the coordinates of the data, where c·α is the factor of the signal."""
    return Level(level.t, scale * level.alpha, level.sigma)
