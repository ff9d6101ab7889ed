"""The loop of a run without its checks: a function of tensors that stay in place, so that it can be captured whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from .bound_plan import BoundPlan
from .host_copies import sent
from .loop import Model, RowState
from .tabled_plan import table_of, with_table

__all__ = ["Buffers", "noise_keys", "run_captured"]


@final
@dataclass(frozen=True)
class Buffers:
    """The inputs of a captured run. Their memory stays; a call writes new values into it.

    Attributes:
        x: the first state, shape (B, ...).
        noises: the noise of each (step, stage) that the plan reads, shape (B, ...); none for a run that draws them.
        times: what the model is told, by row, shape (M,).
        input_scales: factors of the network's input by row, shape (M,); None: 1 everywhere.
        table: the coefficients (:func:`.tabled_plan.table_of`); None: those of the plan, as numbers on the host.
    """

    x: Tensor
    noises: Mapping[tuple[int, int], Tensor]
    times: Tensor
    input_scales: Tensor | None
    table: Tensor | None

    @classmethod
    def of(cls, bound: BoundPlan, x: Tensor, times: Tensor, *, tabled: bool, draws: bool) -> Buffers:
        """Buffers for a plan, with its coefficients and times.

        Args:
            bound: the plan.
            x: a state of the shape, type and device of the run.
            times: by row.
            tabled: whether the coefficients are a tensor, so that plans of the same form can replace them.
            draws: whether the run draws its noise when a row is reached.
        """
        wide = torch.promote_types(x.dtype, torch.float32)
        scales = bound.plan.input_scale
        return cls(
            torch.empty_like(x),
            {} if draws else {key: torch.empty_like(x) for key in noise_keys(bound)},
            times.clone(),
            None if scales is None else sent(torch.from_numpy(scales.copy()), x.device, wide),
            sent(table_of(bound), x.device, wide) if tabled else None,
        )


def noise_keys(bound: BoundPlan) -> Iterable[tuple[int, int]]:
    """The (step, stage) of each noise that a plan reads, in the order of its first use."""
    return dict.fromkeys((step, stage) for row in bound.rows for step, stage, _ in row.noise)


def run_captured(
    bound: BoundPlan, model: Model, buffers: Buffers, noise: Callable[[int, int], Tensor] | None = None
) -> Tensor:
    """The samples, shape (B, ...), of the run that the buffers describe.

    Args:
        bound: the plan; its own coefficients count where the buffers have no table.
        model: (x, row) ↦ the guided output.
        buffers: the inputs.
        noise: draws a noise when its row is reached, instead of those of the buffers.
    """
    if buffers.table is not None:
        bound = with_table(bound, buffers.table)
    draw = (lambda step, stage: buffers.noises[step, stage]) if noise is None else noise
    state, nothing = RowState(0, buffers.x, {}), buffers.x
    for i, row in enumerate(bound.rows):
        output = model(state.x, i) if row.asks else nothing
        state = bound.advance(state, output, draw)
        del output
    return state.x
