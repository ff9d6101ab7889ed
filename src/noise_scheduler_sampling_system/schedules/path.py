"""The forward process x_t = α(t)·x₀ + σ(t)·ε, continuous in t."""

from __future__ import annotations

import copy
import math
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config.options import Option, checked_options, declared_by
from ..config.prediction import SecondLevel, quantity
from ..config.settings import SCHEDULE_FIELDS, NoiseSchedulerConfig
from ..support.drawn import Drawn
from ..support.errors import ConfigurationError
from ..support.registry import did_you_mean
from ..support.values import ByValue
from .level import CLEAN, Level
from .path_checks import check_path, is_foreign
from .times import Time, as_times, double, in_kind, mixed, traced

__all__ = ["CLEAN", "Level", "NoisePath", "Time"]


class _CheckedWhenMade(ABCMeta):
    """Checks a path with formulas from outside this library after its constructor has returned."""

    def __call__(cls, *args: Any, **keywords: Any) -> Any:
        path = super().__call__(*args, **keywords)
        if is_foreign(path):
            check_path(path)
        return path


class NoisePath(ByValue, Drawn, metaclass=_CheckedWhenMade):
    """How data turns into noise: α(t), σ(t) and log SNR = log(α²/σ²), on [``t_min``, ``t_max``].

    The time t is the number that the network is told. A subclass implements the log SNR of a time, the time of a log
    SNR, and α and σ of a log SNR. The slopes of α and σ must be finite at both ends. The formulas must not depend on
    ``t_max``, because :meth:`up_to` lowers it in a copy; only ``_time`` reads it, to clamp.

    Public methods of times take a number, a NumPy array or a tensor, and return the same kind in the same
    floating-point type; for integers, float64 (float32 on MPS). They compute in float64.

    Args:
        config: the settings. Its fields, and the schedule's own options, may also be given as keywords.

    Attributes:
        declared_options: the schedule's own options (``schedule_options`` of the config), each with its default,
            type and range (:class:`~..config.options.Option`). Those of its base classes are added.
        option_defaults: the defaults of these options. A class may write plain values here instead of
            ``declared_options``. It then checks the options itself, with :meth:`option` and :meth:`choice`.
        defaults: config fields that have another default for this schedule.
        reads: the fields of ``SCHEDULE_FIELDS`` that the schedule uses. The others must keep their default.

    Raises:
        ConfigurationError: an unknown option; a field that this schedule would ignore; formulas of a subclass
            outside this library that are wrong (:func:`~.path_checks.check_path`).
    """

    declared_options: ClassVar[Mapping[str, Option]] = {}
    option_defaults: ClassVar[Mapping[str, Any]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    reads: ClassVar[frozenset[str]] = frozenset()
    t_min: float
    t_max: float
    #: The time at which σ would be 0, where the formulas go on below ``t_min``. None: they end at ``t_min``.
    t_origin: float | None = None
    #: Whether the σ that the literature uses on this path is σ itself, not σ/α.
    sigma_is_absolute: bool = False
    #: Whether the model was trained at whole-number times (they are then passed as integers).
    discrete: bool = False

    #: Whether the noisiest levels are left out (``up_to``). Then every spacing begins a run at ``t_max``.
    cut: bool = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.declared_options = declared_by(cls, inherits=True, plain=lambda value: Option(value, kind=object))
        cls.option_defaults = {name: option.default for name, option in cls.declared_options.items()}

    def __init__(self, config: NoiseSchedulerConfig | None = None, **fields: Any) -> None:
        own = {name: fields.pop(name) for name in self.option_defaults if name in fields}
        base = NoiseSchedulerConfig(**self.defaults) if config is None else config
        if own:
            fields["schedule_options"] = {**base.schedule_options, **own}
        self.config = base.replace(**fields) if fields else base
        given = checked_options(
            self.config.schedule_options, self.declared_options, type(self).__name__, "schedule_options."
        )
        self.options: Mapping[str, Any] = {**self.option_defaults, **given}
        for name in SCHEDULE_FIELDS - self.reads:
            if getattr(self.config, name) != type(self.config).model_fields[name].default:
                raise ConfigurationError(
                    f"{type(self).__name__} does not use {name}",
                    where=name,
                    why="the setting would be ignored",
                    suggestion="leave it out" + (f"; its options are {sorted(self.option_defaults)}" if own else ""),
                )

    def __setstate__(self, state: dict[str, Any]) -> None:
        # a path that an earlier version pickled lacks the options that came later
        options = {**self.option_defaults, **state.get("options", {})}
        vars(self).update(state, options=options)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.config.schedule_options.items())
        return f"{type(self).__name__}({options})"

    def spaced(self, spacing: str, options: Mapping[str, Any] | None = None) -> NoisePath:
        """A copy of the path with another spacing in its config."""
        other = copy.copy(self)
        other.config = self.config.replace(timestep_spacing=spacing, spacing_options=dict(options or {}))
        return other

    def option(self, name: str, low: float | None = None, high: float = math.inf) -> float:
        """A real-valued option, strictly between two bounds.

        Args:
            name: the option.
            low: the lower bound; None: −∞ for an option that declares a range, else 0.
            high: the upper bound.

        Raises:
            ConfigurationError: not a number, or out of bounds.
        """
        value = self.options[name]
        if low is None:
            low = -math.inf if self.declared_options[name].has_range else 0.0
        if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
            raise ConfigurationError(
                f"got {value!r}",
                where=f"schedule_options.{name}",
                suggestion=f"give {Option(0.0, above=_bound(low), below=_bound(high)).allowed}",
            )
        return float(value)

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        """An option that is one of several words.

        Raises:
            ConfigurationError: another word.
        """
        value = self.options[name]
        if value not in allowed:
            raise ConfigurationError(
                f"got {value!r}", where=f"schedule_options.{name}", suggestion=did_you_mean(value, allowed)
            )
        return str(value)

    def with_config(self, config: NoiseSchedulerConfig) -> NoisePath:
        """A schedule of this kind with other settings."""
        return type(self)(config)

    @abstractmethod
    def _log_snr(self, t: Tensor) -> Tensor:
        """log(α²/σ²) of float64 times inside the range."""

    @abstractmethod
    def _time(self, log_snr: Tensor) -> Tensor:
        """The inverse of :meth:`_log_snr`, clamped to the range of times."""

    @abstractmethod
    def _alpha_sigma(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ of a log-SNR."""

    def time_at(self, fraction: Time) -> Time:
        """The time at a fraction of the schedule, 0 at clean data and 1 at the noisiest level.

        It is linear in t, unless the schedule is shifted. Spacings that are even in time are even in this fraction.
        """
        origin = self.t_min if self.t_origin is None else self.t_origin
        return origin + (self.t_max - origin) * fraction

    def fraction_at(self, t: float) -> float:
        """The inverse of :meth:`time_at`."""
        origin = self.t_min if self.t_origin is None else self.t_origin
        return (t - origin) / (self.t_max - origin)

    def predicting(self, prediction_type: str) -> NoisePath:
        """A copy of the path for a network of another prediction type."""
        other = copy.copy(self)
        other.config = self.config.replace(prediction_type=prediction_type)
        return other

    @property
    def spacing_shift(self) -> float:
        """The factor by which :meth:`time_at` multiplies σ/α of evenly spaced times; 1 on most paths."""
        return 1.0

    @property
    def time_unit(self) -> float:
        """The path's own unit of time, in the numbers that the network is told.

        The average velocity of a network of two times is (x_t − x_r)/(t − r) in this unit. It is the option
        ``time_scale`` where the path has one, so that time is σ on the straight path; ``num_train_timesteps`` on a
        discrete path; and 1 on all others.
        """
        return float(self.options.get("time_scale", 1.0))

    @property
    def clean_level(self) -> Level | None:
        """The level of clean data at the time that a network of two times is told, or None.

        None: the path reaches clean data at no time. The cleanest level that a network knows is then that of
        ``t_min``.
        """
        t = self.t_clean
        level = Level(t, float(self.alpha(t)), float(self.sigma(t)))
        return level if level.sigma == 0.0 else None

    def second_level(self, now: Level, to: Level) -> SecondLevel:
        """A level as a network of two times is asked for it, at an input of the level ``now``."""
        return SecondLevel(to.t, to.alpha, to.sigma, (now.t - to.t) / self.time_unit)

    def up_to(self, t: float) -> NoisePath:
        """A copy of the path without the levels noisier than this time, for image-to-image.

        Raises:
            ConfigurationError: a time outside the range.
        """
        self._in_range(torch.tensor(float(t), dtype=torch.float64, device="cpu"))
        shorter = copy.copy(self)
        shorter.t_max, shorter.cut = float(t), True
        return shorter

    @property
    def prior_std(self) -> float:
        """Standard deviation of x at the noisiest time for data of unit variance."""
        level = self.level(self.t_max)
        return math.hypot(level.alpha, level.sigma)

    def level_at(self, log_snr: float) -> Level:
        """The noise level with this log SNR. Its α and σ are exact, its time is clamped to the range."""
        wide = torch.tensor(float(log_snr), dtype=torch.float64, device="cpu")
        alpha, sigma = self._alpha_sigma(wide)
        return Level(float(self._time(wide)), float(alpha), float(sigma))

    def field_sigma(self, level: Level) -> float:
        """The σ that the literature uses on this path: σ/α, as in Karras et al. 2022, or σ itself on the straight path.

        The spacings and :meth:`TimeGrid.from_sigmas` use it.
        """
        return level.sigma if self.sigma_is_absolute else level.noise_to_signal

    def level_of_sigma(self, sigma: float) -> Level:
        """The level with this :meth:`field_sigma`; exact to the last bit where α = 1 and on the straight path.

        Raises:
            ConfigurationError: σ ≤ 0, or outside the path.
        """
        bottom, top = self.levels([self.t_min, self.t_max])
        low, high = self.field_sigma(bottom), self.field_sigma(top)
        if sigma == high:  # infinite where there is no signal
            return top
        # published lists of σ have few digits
        if not low * (1 - 1e-4) <= sigma <= high * (1 + 1e-4) or not 0.0 < sigma < math.inf:
            raise ConfigurationError(
                f"σ = {sigma:g} is outside [{low:.6g}, {high:.6g}]",
                where="sigmas",
                why="the model was not trained at such a noise level",
                suggestion="give values inside; the clean end (0) is added by itself",
            )
        t = min(max(self._time_of_sigma(sigma), self.t_min), self.t_max)
        if self.sigma_is_absolute:
            return Level(t, 1.0 - sigma, sigma)
        alpha = float(self._alpha_sigma(torch.tensor(-2.0 * math.log(sigma), dtype=torch.float64, device="cpu"))[0])
        return Level(t, alpha, alpha * sigma)

    def _time_of_sigma(self, sigma: float) -> float:
        """The time of a :meth:`field_sigma`; a subclass overrides it where it has an exact formula."""
        ratio = (sigma / (1.0 - sigma) if sigma < 1.0 else math.inf) if self.sigma_is_absolute else sigma
        return float(self._time(torch.tensor(-2.0 * math.log(ratio), dtype=torch.float64, device="cpu")))

    @property
    def t_clean(self) -> float:
        """The smallest time of the forward process: that of clean data where the path reaches it, else ``t_min``.

        Training may draw times from here on. A run does not go below ``t_min``, where models are not evaluated.
        """
        return self.t_min if self.t_origin is None else min(self.t_min, max(self.t_origin, 0.0))

    def rates(self, t: Time) -> tuple[Time, Time]:
        """dα/dt and dσ/dt; where log SNR is infinite (α = 0 or σ = 0), the rates just inside the range."""
        inside = 1e-9 * (self.t_max - self.t_min)

        def rate(pick: int) -> Time:
            def derivative(u: Tensor) -> Tensor:
                with torch.enable_grad():
                    u = self._in_range(double(u.detach())).clone()
                    log_snr = self._log_snr(u)
                    u = torch.where(torch.isneginf(log_snr), u - inside, u)
                    u = torch.where(torch.isposinf(log_snr), u + inside, u).requires_grad_()
                    value = self._alpha_sigma(self._log_snr(u))[pick]
                    if not value.requires_grad:
                        return torch.zeros_like(u)
                    return torch.autograd.grad(value.sum(), u)[0]

            return in_kind(derivative, t)

        return rate(0), rate(1)

    def log_snr(self, t: Time) -> Time:
        """log(α²/σ²) at time t, from ``t_clean`` to ``t_max``; falls with t.

        Raises:
            ConfigurationError: a time outside the range (not checked for tensors on a GPU,
                where it would stall the device).
        """
        return in_kind(lambda u: self._log_snr(self._forward_times(u)), t)

    def snr(self, t: Time) -> Time:
        """The signal-to-noise ratio α²/σ² at time t, as :meth:`log_snr`; 0 without signal, ∞ without noise."""
        return in_kind(lambda u: self._log_snr(self._forward_times(u)).exp(), t)

    def time(self, log_snr: Time) -> Time:
        """The time with this log-SNR, clamped to [``t_min``, ``t_max``]."""
        return in_kind(lambda u: self._time(double(u)), log_snr)

    def alpha(self, t: Time) -> Time:
        """The signal's factor α(t); times as for ``log_snr``."""
        return in_kind(lambda u: self._alpha_sigma(self._log_snr(self._forward_times(u)))[0], t)

    def sigma(self, t: Time) -> Time:
        """The noise's factor σ(t); times as for ``log_snr``."""
        return in_kind(lambda u: self._alpha_sigma(self._log_snr(self._forward_times(u)))[1], t)

    def alpha_and_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α(t) and σ(t) of floating-point times in one pass, in their type; times as for ``log_snr``."""
        return self._factors(t, t.dtype)

    def level(self, t: float) -> Level:
        """The noise level at time t."""
        return self.levels([t])[0]

    def levels(self, times: npt.ArrayLike) -> list[Level]:
        """The noise levels at several times of a run, shape (N,), from ``t_min`` to ``t_max``.

        Raises:
            ConfigurationError: a time outside the range, or times of another shape.
        """
        t = torch.from_numpy(np.array(times, dtype=np.float64))
        if t.ndim != 1:
            raise ConfigurationError(
                f"got times of shape {tuple(t.shape)}",
                where="times",
                suggestion="give a list of times; alpha and sigma take any shape, and FrameGrid.from_times (N + 1, T)",
            )
        alpha, sigma = self._alpha_sigma(self._log_snr(self._in_range(t)))
        return [Level(*row) for row in zip(t.tolist(), alpha.tolist(), sigma.tolist(), strict=True)]

    def add_noise(self, x0: Tensor, noise: Tensor, t: float | Tensor, *, frame_dim: int = 1) -> Tensor:
        """x_t = α(t)·x₀ + σ(t)·ε, in the type of x₀.

        Args:
            x0: clean samples, shape (B, ...), of a floating-point type.
            noise: unit-variance noise of the same shape.
            t: one time; or B times, one for each sample; or (B, T) times, one for each frame (or token); from
                ``t_clean`` to ``t_max``.
            frame_dim: the dimension of ``x0`` that counts the frames of (B, T) times: 1 for (B, T, ...), 2 for
                (B, C, T, H, W).

        Raises:
            ConfigurationError: shapes or types that do not fit, or a time outside the range.
        """
        return mixed(*self._coefficients(x0, noise, t, frame_dim), x0, noise)

    def target(self, x0: Tensor, noise: Tensor, t: float | Tensor, *, frame_dim: int = 1) -> Tensor:
        """The training target of a network of the config's ``prediction_type`` for ``add_noise(x0, noise, t)``.

        On every path: ε for "epsilon", x₀ for "sample", α·ε − σ·x₀ for "v_prediction" and ε − x₀ for
        "flow_prediction". Arguments as for ``add_noise``. For "epsilon" and "sample" it may return ``noise`` or ``x0``
        itself.
        """
        alpha, sigma = self._coefficients(x0, noise, t, frame_dim)
        kind = self.config.prediction_type
        if kind in ("epsilon", "sample"):
            return noise.to(x0.dtype) if kind == "epsilon" else x0
        return mixed(*quantity(kind, alpha, sigma), x0, noise)

    def velocity(self, x0: Tensor, noise: Tensor, t: float | Tensor, *, frame_dim: int = 1) -> Tensor:
        """The velocity, as the literature defines it on this path; arguments as for ``add_noise``.

        v = α(t)·ε − σ(t)·x₀ (Salimans & Ho 2022, arXiv 2202.00512, §4); on straight paths ε − x₀, the derivative
        of x by σ (Liu et al. 2022, arXiv 2209.03003). It does not depend on the config; ``target`` does.
        """
        alpha, sigma = self._coefficients(x0, noise, t, frame_dim)
        kind = "flow_prediction" if self.sigma_is_absolute else "v_prediction"
        return mixed(*quantity(kind, alpha, sigma), x0, noise)

    def get_velocity(self, x0: Tensor, noise: Tensor, t: float | Tensor, *, frame_dim: int = 1) -> Tensor:
        """:meth:`velocity` under its name in diffusers."""
        return self.velocity(x0, noise, t, frame_dim=frame_dim)

    def _coefficients(self, x0: Tensor, noise: Tensor, t: Any, frame_dim: int) -> tuple[Any, Any]:
        """α and σ at t as factors of x₀ and its noise: numbers, or tensors that broadcast to x₀."""
        times = as_times(x0, noise, t, frame_dim)
        if times.ndim == 0 and times.device.type == "cpu" and not times.requires_grad and not traced():
            alpha, sigma = self._factors(times, torch.float64)
            return alpha.item(), sigma.item()
        shape = [*times.shape[:1], *[1] * (x0.ndim - 1)] if times.ndim else []
        if times.ndim == 2:
            shape[frame_dim] = times.shape[1]
        alpha, sigma = (factor.to(x0.device).reshape(shape) for factor in self._factors(times, x0.dtype))
        return alpha, sigma

    def _factors(self, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """α and σ of times of any type and shape."""
        alpha, sigma = self._alpha_sigma(self._log_snr(self._forward_times(t)))
        return alpha.to(dtype), sigma.to(dtype)

    def _forward_times(self, t: Tensor) -> Tensor:
        """Times of the forward process in float64, with times that rounding put outside the range moved inside."""
        wide = double(t)
        if not t.is_floating_point():
            return self._in_range(wide, self.t_clean)
        slack = torch.finfo(t.dtype).eps if t.dtype != torch.float64 else 0.0
        # a time in float64 may have been rounded to float32 before, as that of pure noise at π/2
        above = max(slack, torch.finfo(torch.float32).eps)
        self._in_range(wide, self.t_clean, slack * self.t_max, above * self.t_max)
        return wide.clamp(self.t_clean, self.t_max)

    def _in_range(self, t: Tensor, low: float | None = None, below: float = 0.0, above: float = 0.0) -> Tensor:
        low, high = self.t_min if low is None else low, self.t_max
        if t.device.type == "cpu" and t.numel() and not traced():
            least, most = (value.item() for value in t.aminmax())
            if not (low - below <= least and most <= high + above):  # NaN fails, too
                bad = most if least >= low - below else least
                raise ConfigurationError(
                    f"time {bad} is outside [{low:g}, {high:g}]",
                    where="t",
                    suggestion="times run from the cleanest level (small t) to the noisiest (large t)",
                )
        return t


def _bound(value: float) -> float | None:
    """A bound of an option; None where it is infinite."""
    return value if math.isfinite(value) else None
