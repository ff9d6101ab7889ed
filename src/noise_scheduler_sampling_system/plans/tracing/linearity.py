"""The test whether a scheduler is linear: its loop on random tensors against its loop on symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor

from ...support.errors import ConfigurationError
from ..plan_rows import Array
from .model_calls import setting

__all__ = ["RandomTensors", "refuse_non_linear"]

#: The largest error of a linear scheduler's states, as a fraction of the sum of their coefficients.
_LINEAR: Final = 1e-6
#: Settings that make a scheduler non-linear.
_NON_LINEAR: Final = ("clip_sample", "thresholding", "clip_denoised", "use_dynamic_thresholding")


@final
class RandomTensors:
    """Random model outputs and noises for a run, recorded in order.

    Each is a batch of two sizes: small tensors show constants that a step adds, large ones show clipping.

    Attributes:
        first: the first state.
        outputs, noises: those so far.
    """

    sizes: Final = (1.0, 1e4)

    def __init__(self) -> None:
        self._generator = np.random.default_rng(0)  # not torch's, whose functions are replaced during a run
        self.outputs: list[Tensor] = []
        self.noises: list[Tensor] = []
        self.first = self._tensor()

    def output(self, _: int) -> Tensor:
        """The next model output."""
        self.outputs.append(self._tensor())
        return self.outputs[-1]

    def noise(self) -> Tensor:
        """The next noise."""
        self.noises.append(self._tensor())
        return self.noises[-1]

    def _tensor(self) -> Tensor:
        values = self._generator.standard_normal((2, 3, 4, 4)) * np.array(self.sizes)[:, None, None, None]
        return torch.from_numpy(values)


def refuse_non_linear(scheduler: Any, coefficients: Array, given: RandomTensors, states: Sequence[Tensor]) -> None:
    """Raise where a scheduler's states are not the linear combinations that its run on symbols shows.

    Args:
        scheduler: for its name and its settings.
        coefficients: each state by first state, outputs and noises, from the run on symbols.
        given: the tensors of a second run.
        states: of the second run.

    Raises:
        ConfigurationError: a coefficient is not finite, or a state differs.
    """
    name = type(scheduler).__name__
    if not np.isfinite(coefficients).all():
        raise ConfigurationError(
            f"its own result is not finite: state {int(np.argwhere(~np.isfinite(coefficients))[0, 0])} is not",
            where=name,
            why="its formula divides by σ or by the length of an interval, and one is zero",
            suggestion="try another final_sigmas_type or timestep_spacing",
        )
    tensors = torch.stack([given.first, *given.outputs, *given.noises]).numpy()
    for i, state in enumerate(states):
        size = np.abs(coefficients[i]).sum() * np.array(given.sizes)[:, None, None, None]
        error = np.abs(state.numpy() - np.tensordot(coefficients[i], tensors, 1))
        if not (error <= _LINEAR * size).all():  # NaN fails too
            raise _non_linear(scheduler, name, i)


def _non_linear(scheduler: Any, name: str, row: int) -> ConfigurationError:
    culprits = [each for each in _NON_LINEAR if setting(scheduler, each)]
    off = ", ".join(f"{each}=False" for each in culprits)
    return ConfigurationError(
        f"it is not linear: state {row} is not a linear combination of the first state, outputs and noise",
        where=name,
        why=", ".join(f"{each}={setting(scheduler, each)!r}" for each in culprits),
        suggestion=f"trace {name}.from_config(scheduler.config, {off}), and set clip_sample or thresholding in the "
        "config of the pipeline that runs the plan, which clips the same"
        if culprits
        else "run it in its own loop: PlanScheduler and trace are for samplers that are tables of numbers",
    )
