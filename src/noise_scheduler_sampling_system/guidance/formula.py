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
    """A tensor in place of a model: the condition holds it, so it is split with the batch. It is not an evaluation."""

    def __call__(self, x: Tensor, t: Tensor, *, given: Tensor) -> Tensor:
        return given.to(x.dtype).expand_as(x)


@final
@dataclass(frozen=True, eq=False)
class Branch:
    """A model under a condition: one evaluation.

    Attributes:
        model: the model; None: the run's.
        condition: the condition; None: the run's.
        null: whether the condition is the run's null condition.
    """

    model: Callable[..., Any] | None = None
    condition: Mapping[str, Any] | None = None
    null: bool = False


@final
@dataclass(frozen=True, eq=False)
class TensorFunction:
    """A function of tensors, to be called when a row runs.

    Attributes:
        function: takes the tensors that the forms stand for, in the state's dtype, and returns a tensor.
        forms: the arguments.
        memory: the name of a tensor that the function keeps from call to call, or None. With a name, the function is
            (kept tensor or None, *tensors) ↦ (result, tensor to keep).
        tracks: whether the function differentiates by x. It is then called with gradients enabled and with the keyword
            ``create_graph``.
    """

    function: Callable[..., Any]
    forms: tuple[Form, ...]
    memory: str | None = None
    tracks: bool = False


@final
@dataclass
class Formula:
    """The guided prediction at one row, as linear forms on the predictions of branches.

    Forms stand for network outputs of the run's ``prediction_type``. :meth:`to` and :meth:`of` convert them.

    Attributes:
        moment: the level and the step.
        prediction_type: the type of the network's output.
        value: the prediction so far; at the start the conditional one. A guidance sets it, or calls :meth:`keep`.
        conditional: the prediction under the condition, if there is one.
        unconditional: the prediction under the null condition; in a run without a condition the conditional one.
        opposed: whether the unconditional prediction is a branch of its own.
        branches: all branches so far; :meth:`branch` adds to them.
        position: the place in the sequence of the guidance that writes now.
        functions: the functions so far; :meth:`make` adds to them.
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
        #: Whether the guidance that writes now has set the value, and has read the unconditional prediction.
        self.is_set = self.reads_unconditional = False

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
        self.reads_unconditional = True
        return self._unconditional

    def keep(self) -> None:
        """Leave the value unchanged on purpose."""
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
        """The prediction under another condition, or of another model, whose output may have another type."""
        known = (i for i, b in enumerate(self.branches) if b.model is model and b.condition is condition and not b.null)
        i = next(known, len(self.branches))
        if i == len(self.branches):
            self.branches.append(Branch(model, condition))
        form = Form({("branch", i): 1.0})
        return form if prediction_type is None else self.of(prediction_type, form)

    def to(self, quantity: str, output: Form) -> Form:
        """Convert an output to a quantity: "sample", "epsilon", ..."""
        return self._converted(self.prediction_type, quantity, output)

    def of(self, quantity: str, form: Form) -> Form:
        """Convert a quantity to an output."""
        return self._converted(quantity, self.prediction_type, form)

    def change(self, quantity: str, form: Form) -> Form:
        """How much the output changes when a quantity ("sample", ...) changes by ``form`` and x stays."""
        level = self.moment.level
        return form * conversion(quantity, self.prediction_type, level.alpha, level.sigma).y_factor

    def make(self, function: Callable[..., Any], *forms: Form, memory: str | None = None, tracks: bool = False) -> Form:
        """The result of a function of the tensors that forms stand for; see :class:`TensorFunction`."""
        name = None if memory is None else f"{self.position}.{memory}"
        self.functions.append(TensorFunction(function, forms, name, tracks))
        return Form({("made", len(self.functions) - 1): 1.0})

    def _converted(self, source: str, target: str, form: Form) -> Form:
        if source == target:
            return form
        factors = conversion(source, target, self.moment.level.alpha, self.moment.level.sigma)
        return factors.x_factor * self.x + factors.y_factor * form
