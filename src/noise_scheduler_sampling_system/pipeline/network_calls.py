"""How a run calls its networks: with the time of each row, a condition, and the type that the network computes in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..guidance.conditions import unwrapped
from ..guidance.evaluate import Caller
from ..plans.base import Plan
from ..plans.plan import SamplingPlan
from ..running.faults import explained
from ..running.host_copies import sent
from ..running.loop import Model
from ..running.model_adapter import ModelAdapter
from ..running.output_check import Look
from ..running.profiling import Stopwatch

__all__ = ["NetworkCalls", "RowInputs", "ToldTimes", "by_row", "explaining"]

#: How PyTorch says that a real time cannot index a table.
_OF_A_TABLE = ("scalar types: Long, Int", "must be long", "must be integers", "used as indices", "for embedding")


@final
class RowInputs(NamedTuple):
    """What networks are told at the rows of a plan.

    Attributes:
        factors: of the state by row, for networks that take a scaled one; a tensor (M,) in captured runs.
        time_of_row: shape (M,); (M, 2) for networks of two times; (M, T) for T frames with times of their own.
    """

    factors: tuple[float, ...] | Tensor | None
    time_of_row: Tensor

    @property
    def real_times(self) -> bool:
        """Whether times are real numbers; else they are whole numbers of an integer type."""
        return self.time_of_row.is_floating_point()

    def state(self, x: Tensor, row: int, dtype: torch.dtype) -> Tensor:
        """The state as a network of this type takes it."""
        return (x if self.factors is None else x * self.factors[row]).to(dtype)

    def times(self, size: int) -> tuple[Tensor, ...]:
        """The times of a batch, shape (size,), (size, 2) or (size, T), for each row."""
        times = self.time_of_row
        if size == 1:  # nobody reads the whole again, so that each row may be a tensor of its own, and is made faster
            return torch.unsafe_chunk(times, times.shape[0])
        return times.expand(size, *times.shape).unbind(1)


@final
@dataclass(frozen=True, eq=False)
class ToldTimes:
    """The times of plans as networks are told them.

    Attributes:
        plan: of the run; its times are kept.
        integral: whether whole times are passed as integers, where all times of a plan are whole.
        last_timestep: times are rounded to whole timesteps from 0 to this one; None: they are not rounded.
        wide: whether real times are in float64; a network in float64 would see another level if they were rounded.
    """

    plan: Plan
    integral: bool
    last_timestep: int | None
    wide: bool

    def at_rows(self, plan: Plan) -> npt.NDArray[Any]:
        """The time of each row, shape (M,), (M, 2) or (M, T), of int64, float32 or float64."""
        return self._of_run if plan is self.plan else self._made(plan)

    @functools.cached_property
    def _of_run(self) -> npt.NDArray[Any]:
        return self._made(self.plan)

    def _made(self, plan: Plan) -> npt.NDArray[Any]:
        time = plan.time
        if isinstance(plan, SamplingPlan) and plan.to is not None:
            time = np.stack([time, plan.to[:, 0]], axis=1)
        if self.last_timestep is not None:
            # a row without a model call may have no time (NaN)
            return np.rint(np.nan_to_num(time)).clip(0, self.last_timestep).astype(np.int64)
        if self.integral and plan.has_whole_times:
            return time.astype(np.int64)
        return time.astype(np.float64 if self.wide else np.float32)


@final
class NetworkCalls(NamedTuple):
    """What the calls of all networks of a run have in common.

    Attributes:
        model: the model of the run, the one that ``look`` looks at; guidance may bring others.
        dtype, device: of the state.
        told: the times of the rows.
        look: compares the first output with the config; None: the model states its prediction type itself.
    """

    model: ModelAdapter
    dtype: torch.dtype
    device: torch.device
    told: ToldTimes
    look: Look | None

    def caller(self, plan: Plan, batch: int, watch: Stopwatch | None) -> Caller:
        """The function that makes a network under a condition a function of (x, row).

        Args:
            plan: the rows.
            batch: B, the samples of x.
            watch: measures the time inside the networks.
        """

        def caller(adapter: ModelAdapter, condition: Mapping[str, Any], copies: int) -> Model:
            given = unwrapped(condition)
            call = by_row(adapter, plan, lambda network: of_network(network, given, copies))
            if self.look is None or adapter is not self.model:
                return call
            return self.look.around(call, plan.level)

        def of_network(adapter: ModelAdapter, condition: Mapping[str, Any], copies: int) -> Model:
            inputs = self.inputs(plan)  # each network has its own, because one may change its t in-place
            network: Callable[..., Tensor] = adapter.__call__
            network = watch.wrap("model", network) if watch else network
            network = explaining(network) if inputs.real_times else network
            rows = inputs.times(copies * batch)
            wanted = self.dtype_of(adapter)

            # the most frequent case, so the shortest
            if inputs.factors is None and wanted == self.dtype and copies == 1:

                def call(x: Tensor, row: int) -> Tensor:
                    return network(x, rows[row], condition)

            else:

                def call(x: Tensor, row: int) -> Tensor:
                    x = inputs.state(x, row, wanted)
                    return network(x if copies == 1 else torch.cat([x] * copies), rows[row], condition)

            return call

        return caller

    def inputs(self, plan: Plan) -> RowInputs:
        """What networks are told at the rows of a plan."""
        scales = plan.input_scale if isinstance(plan, SamplingPlan) else None
        factors = None if scales is None else tuple(scales.tolist())
        return RowInputs(factors, self.times(plan))

    def dtype_of(self, adapter: ModelAdapter) -> torch.dtype:
        """The type of a network's input."""
        return adapter.dtype or self.dtype

    def times(self, plan: Plan) -> Tensor:
        """The time of each row as the networks are told it, shape (M,), (M, 2) or (M, T)."""
        # a copy, because a network may change its t in-place
        return sent(torch.from_numpy(self.told.at_rows(plan).copy()), self.device)


def by_row(adapter: ModelAdapter, plan: Plan, made: Callable[[ModelAdapter], Model]) -> Model:
    """A model as a function of (x, row); of two networks, each row calls the one of its time, without a look at x.

    Args:
        adapter: the model.
        plan: the rows.
        made: makes the function of one network.
    """
    networks = adapter.of_rows(plan.time)
    if networks is None:
        return made(adapter)
    calls = {id(network): made(network) for network in {id(each): each for each in networks}.values()}
    rows = tuple(calls[id(network)] for network in networks)
    return lambda x, row: rows[row](x, row)


def explaining(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The network for real times, whose error about a real time comes with a note on what to do."""

    def call(x: Tensor, t: Tensor, condition: Mapping[str, Any]) -> Tensor:
        try:
            return network(x, t, condition)
        except (RuntimeError, TypeError, IndexError) as error:
            if any(sign in str(error) for sign in _OF_A_TABLE):
                explained(
                    error,
                    f"t is real here ({float(t.flatten()[0]):g}); for a network with a table of whole timesteps give "
                    "round_timesteps=True, or a spacing of whole timesteps ('leading', 'trailing')",
                )
            raise

    return call
