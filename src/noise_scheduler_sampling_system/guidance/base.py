"""What a guidance is: a formula on the branches of a model, written once for each level of a plan.

Like a sampler's (builder.py), its mathematics is linear but for a few functions, and it is written on
:class:`~..builder.Form` objects. So coefficients are host numbers that are computed before the run, and
a branch with coefficient 0 is not evaluated.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from ..config.prediction import PREDICTION_ALIASES, PREDICTION_TYPES, conversion
from ..plans.linear_form import Form
from ..schedules.path import Level
from ..support.argument_checks import checked_number
from ..support.errors import ConfigurationError, shown
from ..support.registry import did_you_mean
from ..support.values import ByValue

__all__ = ["Branch", "Formula", "Given", "Guidance", "Moment", "Scale", "TensorFunction", "checked_scale", "scale_at"]


@dataclass(frozen=True)
class Moment:
    """Where a run stands when the model is asked.

    Attributes:
        level: the noise level (t, α, σ).
        step: the interval of the grid, from 0.
        steps: how many there are.
    """

    level: Level
    step: int
    steps: int

    @property
    def sigma(self) -> float:
        """σ/α, the noise level of Karras et al. 2022, on every path; inf without signal."""
        return self.level.noise_to_signal

    @property
    def flow_sigma(self) -> float:
        """σ/(α + σ), the σ of the straight path at the same signal-to-noise ratio; from 0 to 1."""
        return self.level.sigma / (self.level.alpha + self.level.sigma)

    @property
    def fraction(self) -> float:
        """How far along the steps: 0 in the first, 1 in the last."""
        return self.step / (self.steps - 1) if self.steps > 1 else 0.0


#: A number; a function of the moment; or ("linear" | "cosine", start, end) over the fraction of steps.
Scale = float | Callable[[Moment], float] | tuple[str, float, float]

_RAMPS: Mapping[str, Callable[[float], float]] = {
    "linear": lambda fraction: fraction,
    "cosine": lambda fraction: 0.5 - 0.5 * math.cos(math.pi * fraction),
}


def checked_scale(scale: Any, where: str) -> Scale:
    """A scale, as far as it can be checked without a run.

    Raises:
        ConfigurationError: none of the three kinds.
    """
    if callable(scale):
        return scale  # type: ignore[no-any-return]
    if isinstance(scale, tuple | list):
        if len(scale) != 3 or scale[0] not in _RAMPS:
            raise ConfigurationError(
                f"got {scale!r}",
                where=where,
                suggestion='give ("linear" or "cosine", start, end), e.g. ("linear", 1, 7)',
            )
        return (scale[0], checked_number(scale[1], where), checked_number(scale[2], where))
    return checked_number(scale, where)


def scale_at(scale: Scale, moment: Moment, where: str) -> float:
    """The scale at a moment.

    Raises:
        ConfigurationError: a function that returns no finite number there.
    """
    if isinstance(scale, tuple):
        ramp, start, end = scale
        return start + (end - start) * _RAMPS[ramp](moment.fraction)
    return checked_number(scale(moment), f"{where} at step {moment.step}") if callable(scale) else scale


class Given:
    """In place of a model: returns a tensor of its condition, so that it is split with the batch. No evaluation."""

    def __call__(self, x: Tensor, t: Tensor, *, given: Tensor) -> Tensor:
        return given.to(x.dtype).expand_as(x)


@dataclass(frozen=True, eq=False)
class Branch:
    """A model under a condition: one evaluation.

    Attributes:
        model: another model than the run's, or None.
        condition: another condition than the run's, or None.
        null: under the run's null condition.
    """

    model: Callable[..., Any] | None = None
    condition: Mapping[str, Any] | None = None
    null: bool = False


@dataclass(frozen=True, eq=False)
class TensorFunction:
    """A tensor made by a function at run time.

    Attributes:
        function: of the tensors that the forms stand for, in the state's type.
        forms: what it is given.
        memory: the name under which it keeps something from call to call; the function is then
            (kept or None, *tensors) ↦ (result, to keep).
        tracks: it differentiates by x: it is run with gradients, and told ``create_graph``.
    """

    function: Callable[..., Any]
    forms: tuple[Form, ...]
    memory: str | None = None
    tracks: bool = False


@dataclass
class Formula:
    """What the guidance of a run makes of the predictions at one level.

    Every form here stands for a network output of the run's ``prediction_type``, unless said otherwise.

    Attributes:
        moment: the level and the step.
        prediction_type: what the network returns.
        value: the prediction so far; at the start the conditional one. To be set, or kept by :meth:`keep`.
        conditional: the prediction under the condition, or that of a run without one.
        unconditional: the prediction under the null condition; the conditional one where there is no condition.
    """

    moment: Moment
    prediction_type: str
    opposed: bool
    branches: list[Branch]
    position: int = 0
    functions: list[TensorFunction] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.x = Form({("x", 0): 1.0})
        self.conditional = self._value = Form({("branch", 0): 1.0})
        self._unconditional = Form({("branch", 1): 1.0}) if self.opposed else self.conditional
        #: Whether the guidance that writes now has set the value, and asked for the unconditional prediction.
        self.is_set = self.asks_absence = False

    @property
    def value(self) -> Form:
        return self._value

    @value.setter
    def value(self, form: Form) -> None:
        if not isinstance(form, Form):
            raise ConfigurationError(
                f"got {shown(form)}",
                where="formula.value",
                suggestion="set it to a combination of forms; formula.make(function, ...) is for functions",
            )
        self._value, self.is_set = form, True

    @property
    def unconditional(self) -> Form:
        self.asks_absence = True
        return self._unconditional

    def keep(self) -> None:
        """Leave the value as it is, on purpose."""
        self.is_set = True

    @property
    def untouched(self) -> bool:
        """Whether the value is the conditional prediction, as at the start."""
        return {symbol: c for symbol, c in self.value.terms.items() if c} == self.conditional.terms

    def branch(
        self,
        condition: Mapping[str, Any] | None = None,
        *,
        model: Callable[..., Any] | None = None,
        prediction_type: str | None = None,
    ) -> Form:
        """The prediction under another condition, or of another model (which may return another type)."""
        known = (i for i, b in enumerate(self.branches) if b.model is model and b.condition is condition and not b.null)
        i = next(known, len(self.branches))
        if i == len(self.branches):
            self.branches.append(Branch(model, condition))
        form = Form({("branch", i): 1.0})
        return form if prediction_type is None else self.of(prediction_type, form)

    def to(self, quantity: str, output: Form) -> Form:
        """The quantity ("sample", "epsilon", ...) that an output stands for."""
        return self._converted(self.prediction_type, quantity, output)

    def of(self, quantity: str, form: Form) -> Form:
        """The output that stands for a quantity."""
        return self._converted(quantity, self.prediction_type, form)

    def change(self, quantity: str, form: Form) -> Form:
        """By how much the output changes when a quantity changes by this."""
        level = self.moment.level
        return form * conversion(quantity, self.prediction_type, level.alpha, level.sigma).y_factor

    def make(self, function: Callable[..., Any], *forms: Form, memory: str | None = None, tracks: bool = False) -> Form:
        """What a function makes of the tensors that forms stand for; see :class:`TensorFunction`."""
        name = None if memory is None else f"{self.position}.{memory}"
        self.functions.append(TensorFunction(function, forms, name, tracks))
        return Form({("made", len(self.functions) - 1): 1.0})

    def _converted(self, source: str, target: str, form: Form) -> Form:
        if source == target:
            return form
        factors = conversion(source, target, self.moment.level.alpha, self.moment.level.sigma)
        return factors.x_factor * self.x + factors.y_factor * form


class Guidance(ByValue, ABC):
    """One thing to do with the prediction; a sequence of them acts from left to right.

    A subclass is a frozen dataclass that writes its formula.

    Attributes:
        contrasts: whether it opposes the condition to its absence: it needs a condition, and one
            such object in a sequence is enough.
        follows: whether it changes what others did before it, so that it cannot come first.
    """

    contrasts: ClassVar[bool] = False
    follows: ClassVar[bool] = False

    @abstractmethod
    def write(self, formula: Formula) -> None:
        """Set ``formula.value``, from its value so far and from the branches."""

    @property
    def uniform(self) -> bool:
        """Whether it writes the same at every level."""
        return False

    @property
    def conditions(self) -> tuple[Mapping[str, Any], ...]:
        """The conditions that it brings."""
        return ()

    def refuse_shape(self, shape: tuple[int, ...]) -> None:
        """Raise where it cannot act on samples of a shape (B, ...); before the first model call of a run.

        Raises:
            ConfigurationError: it cannot.
        """


def checked_quantity(name: Any, where: str, *more: str) -> str:
    """A prediction type by its own name, or one of the further words.

    Raises:
        ConfigurationError: neither.
    """
    known = (*PREDICTION_TYPES, *more)
    chosen = PREDICTION_ALIASES.get(name, name) if isinstance(name, str) else name
    if chosen not in known:
        raise ConfigurationError(f"got {name!r}", where=where, suggestion=did_you_mean(str(name), known))
    return str(chosen)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """One number a sample, shaped to multiply a batch."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
