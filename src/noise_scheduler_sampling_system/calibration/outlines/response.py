"""How predictions answer to errors of the states at which the network is evaluated, by the noise level."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, final

import numpy as np
import numpy.typing as npt

from .recording import Recording

__all__ = ["Answer", "Response"]

Array = npt.NDArray[np.float64]

#: The distance in log(σ/α) over which measured answers count, and the weight of an assumed one beside a measured one.
_WIDTH: Final = 0.25
_ASSUMED: Final = 0.05


class Answer(NamedTuple):
    """The change of a prediction or of a difference that an error e of the state brings: along·e, and something else.

    Attributes:
        place: log(σ/α).
        along: the factor of e.
        across: the root mean square of what is not along e, over that of e.
    """

    place: float
    along: float
    across: float


@final
@dataclass(frozen=True)
class Response:
    """The answers of the predictions D and of the differences δ at all levels of a recording.

    They are smoothed over what was measured. Before that, and far from it, the answer of a Gaussian is assumed whose
    variance is that of the samples where they vary most: D = α·v/(α²·v + σ²)·x.

    Attributes:
        recording: gives the levels.
        of_predictions, of_differences: the answers that were measured.
    """

    recording: Recording
    of_predictions: tuple[Answer, ...] = ()
    of_differences: tuple[Answer, ...] = ()

    def with_measured(self, predictions: Iterable[Answer], differences: Iterable[Answer]) -> Response:
        """Return the response that knows further answers."""
        return replace(
            self,
            of_predictions=(*self.of_predictions, *predictions),
            of_differences=(*self.of_differences, *differences),
        )

    def smooth(self) -> tuple[Array, Array]:
        """Return the factors along and across at the levels, each of shape (2, K): of predictions, of differences."""
        places, variance = self.recording.places, self.recording.spread
        alphas = self.recording.signals[:-1]
        known = alphas**2 * variance / (alphas**2 * variance + 1.0 - alphas**2)  # the share that is signal
        along = known / np.maximum(alphas, 1e-6)
        assumed = (along, along * (1.1 - known)), (0.0 * along, 0.5 * along * (1.0 - known))
        found = [
            self._smoothed(places, *both)
            for both in zip(assumed, (self.of_predictions, self.of_differences), strict=True)
        ]
        return np.stack([pair[0] for pair in found]), np.stack([pair[1] for pair in found])

    @staticmethod
    def _smoothed(places: Array, assumed: tuple[Array, Array], measured: tuple[Answer, ...]) -> tuple[Array, Array]:
        at = np.array([*places, *(answer.place for answer in measured)])
        weight = np.append(np.full(len(places), _ASSUMED), np.ones(len(measured)))
        near = np.exp(-0.5 * ((places[:, None] - at) / _WIDTH) ** 2) * weight
        near /= near.sum(axis=1, keepdims=True)
        along = near @ np.append(assumed[0], [answer.along for answer in measured])
        across = near @ np.append(assumed[1], [answer.across for answer in measured])
        return along, across
