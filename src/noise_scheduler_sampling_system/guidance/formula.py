"""The formula of a run's guidance at one row: linear forms on the branches of a model, and functions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor

from ..config.prediction import conversion
from ..plans.linear_form import Form
from ..support.errors import ConfigurationError, shown
from .scales import Moment

__all__ = ["Branch", "Formula", "TensorAsModel", "TensorFunction"]


@final
class TensorAsModel:
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
