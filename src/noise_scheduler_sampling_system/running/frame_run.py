"""Runs of frame plans: one fused linear combination a row, with a factor for each frame."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ..config.settings import NoiseSchedulerConfig
from ..plans.frame_plan import FramePlan
from ..support.errors import ConfigurationError
from .bound_plan import BoundPlan, BoundRow, bind_for, scaled_noise
from .loop import Branches, Noise, PlannedRun, RowState

__all__ = ["FrameRun", "bind_frames"]

#: The factors of one row: a tensor for each name, shape (1, ..., T, ..., 1).
Factors = Mapping[Any, Tensor]


@final
@dataclass(frozen=True)
class FrameRun(PlannedRun):
    """A frame plan for one kind of model.

    In a row the frames that move are combined with their own factors. The others are selected from the state before,
    so that they stay the same bit for bit, whatever the model returns for them. A plan whose frames all move together
    is executed with numbers, as an ordinary run.

    Attributes:
        plan: the table.
        bound: its ordinary plans for the kind of model.
    """

    plan: FramePlan
    bound: tuple[BoundPlan, ...]
    _placed: dict[Any, tuple[Factors, ...]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def split(self) -> bool:  # type: ignore[override]
        return self.bound[0].split

    @property
    def branches(self) -> bool:  # type: ignore[override]
        return any(bound.branches for bound in self.bound)

    @functools.cached_property
    def hides(self) -> tuple[str | None, ...]:  # type: ignore[override]
        if self.bound[0].clip is not None or any(own.log_variance is not None for own in self.plan.plans):
            return ("output",) * len(self.plan)
        return tuple(
            "state" if any(row.a == 0.0 for _, row in self._moving(i)) else None for i in range(len(self.plan))
        )

    @functools.cached_property
    def largest_factor(self) -> float:
        return float(np.max([bound.largest_factor for bound in self.bound]))  # NaN stays NaN

    def prior(self, noise: Tensor) -> Tensor:
        if self.plan.lockstep:
            return self.bound[0].prior(noise)
        scales = torch.from_numpy(self.plan.prior_scale).to(_wide(noise))
        return (noise * self._shaped(scales.to(noise.device), noise.ndim)).to(noise.dtype)

    def used(self, state: RowState, answer: Any) -> Any:
        """The answer with 0 for frames that do not move; a network may return anything for clean frames."""
        moves = None if self.plan.lockstep else self._factors(state.x)[state.row].get("moves")
        if moves is None:
            return answer
        if isinstance(answer, Branches):
            return Branches(*(_selected(moves, each) for each in answer))
        return _selected(moves, answer)

    def advance(self, state: RowState, output: Any, noise: Noise) -> RowState:
        if self.plan.lockstep:
            return self.bound[0].advance(state, output, noise)
        i, x, history, _, _ = state
        factors, wide, keep = self._factors(x)[i], _wide(x), self.plan.last_use[i] > i
        total = x * factors["a"]
        y = None
        if self.plan.asked[i]:
            unconditional = output.unconditional if isinstance(output, Branches) else None
            output = output.guided if isinstance(output, Branches) else output
            variance = output.chunk(2, dim=1)[1] if "low" in factors else None
            main = mean = self._mean(output)
            if self.bound[0].clip is not None:
                main = self._clean(factors, x, mean)
                total = _add(total, mean, factors.get("of_output"))
                total = _add(total, main, factors["of_clean"])
            else:
                total = _add(total, main, factors["of_output"])
            if keep:
                y = _add(x * factors["y_x"], main, factors["y_main"]).to(x.dtype)
            if unconditional is not None:
                total = _add(total, self._mean(unconditional), factors.get("of_null"))
        else:
            variance = None
        for kind, *key in [name for name in factors if isinstance(name, tuple)]:
            if kind == "history":
                total = _add(total, history[key[0]], factors[(kind, *key)])
            else:
                drawn = noise(*key)
                if variance is not None:
                    drawn = scaled_noise(drawn.to(wide), variance, (factors["low"], factors["high"]))
                total = _add(total, drawn, factors[(kind, *key)])
        after = total.to(x.dtype)
        if "moves" in factors:
            after = torch.where(factors["moves"], after, x)
        history = {j: past for j, past in history.items() if self.plan.last_use[j] > i}
        if y is not None:
            history[i] = y
        return RowState(i + 1, after, history)

    def clean_sample(self, state: RowState) -> Tensor:
        if self.plan.lockstep:
            return self.bound[0].clean_sample(state)
        last = next((i for i in range(state.row - 1, -1, -1) if self.plan.asked[i]), None)
        if state.evaluated_x is None or (last is not None and state.output is None):
            raise ConfigurationError(
                "the run did not keep its model calls",
                where="clean_sample",
                suggestion="run_rows(inspect=True)",
            )
        x = state.evaluated_x
        factors = self._factors(x)[0 if last is None else last]
        estimate = (x * factors["linear"]).to(x.dtype)
        if last is None or state.output is None:
            return estimate
        output = state.output.guided if isinstance(state.output, Branches) else state.output
        clean = self._clean(factors, x, self._mean(output))
        return torch.where(factors["moves"], clean, estimate) if "moves" in factors else clean

    def _clean(self, factors: Factors, x: Tensor, mean: Tensor) -> Tensor:
        clean = _add(x * factors["clean_x"], mean, factors["clean_output"]).to(x.dtype)
        clip = self.bound[0].clip
        return clean if clip is None else clip(clean)

    def _mean(self, output: Tensor) -> Tensor:
        return output.chunk(2, dim=1)[0] if self.split else output

    def _moving(self, i: int) -> list[tuple[int, BoundRow]]:
        """The frames that move in a row, each with the row of its bound plan."""
        own = zip(self.plan.plan_of.tolist(), self.plan.row_of[i].tolist(), strict=True)
        return [(frame, self.bound[p].rows[r]) for frame, (p, r) in enumerate(own) if r >= 0]

    def _shaped(self, factors: Tensor, ndim: int) -> Tensor:
        """Factors of the frames, shape (..., T), that broadcast against a batch of ``ndim`` dimensions."""
        return factors.reshape(
            *factors.shape[:-1], *[1] * self.plan.frame_dim, -1, *[1] * (ndim - 1 - self.plan.frame_dim)
        )

    def _factors(self, x: Tensor) -> tuple[Factors, ...]:
        """The factors of every row on the device of x, in a type that does not round them; they are moved once."""
        key = (x.device, _wide(x), x.ndim)
        known = self._placed.get(key)
        if known is None:
            table = self._table
            numbers = torch.from_numpy(np.array([values for row in table for values in row.values()]))
            with torch.inference_mode(False):  # it must work outside that mode too
                placed = iter(self._shaped(numbers.to(x.device, _wide(x)), x.ndim).unbind(0))
                rows = [{name: next(placed) for name in row} for row in table]
                for row in rows:
                    row |= {"moves": row["moves"] != 0.0} if "moves" in row else {}
            known = self._placed[key] = tuple(rows)
        return known

    @functools.cached_property
    def _table(self) -> tuple[dict[Any, np.ndarray[Any, Any]], ...]:
        """The factors of every row, each of shape (T,)."""
        number_of_step = self._steps_of_plans
        return tuple(self._row(i, number_of_step) for i in range(len(self.plan)))

    @property
    def _steps_of_plans(self) -> list[dict[int, int]]:
        """For each frame: the step of its own plan ↦ the step in which it is executed."""
        plan = self.plan
        return [
            {int(plan.plans[p].step[own]): int(plan.step[row]) for own, row in enumerate(rows)}
            for p, rows in zip(plan.plan_of.tolist(), plan.rows_of_frames, strict=True)
        ]

    def _row(self, i: int, number_of_step: list[dict[int, int]]) -> dict[Any, np.ndarray[Any, Any]]:
        plan, frames = self.plan, self.plan.frames
        table: dict[Any, np.ndarray[Any, Any]] = {}

        def put(name: Any, frame: int, value: float) -> None:
            if value != 0.0:
                table.setdefault(name, np.zeros(frames))[frame] = value

        always = [
            "a",
            *(["of_output", "of_clean", "clean_x", "clean_output", "y_x", "y_main"] if plan.asked[i] else []),
        ]
        for name in always:
            table[name] = np.zeros(frames)
        alpha, sigma = plan.alpha[i], plan.sigma[i]
        table["linear"] = alpha / (alpha**2 + sigma**2)
        moving = self._moving(i)
        if len(moving) < frames:
            table["moves"] = np.zeros(frames)
        for frame, row in moving:
            rows = plan.rows_of_frames[frame]
            if "moves" in table:
                table["moves"][frame] = 1.0
            put("a", frame, row.a)
            put("of_output", frame, row.of_output)
            put("of_clean", frame, row.of_clean)
            put("of_null", frame, row.of_null)
            if row.asks:
                put("clean_x", frame, row.to_clean.x_factor)
                put("clean_output", frame, row.to_clean.y_factor)
                put("y_x", frame, row.to_y.x_factor)
                put("y_main", frame, row.to_y.y_factor)
            for own, factor in row.history:
                put(("history", rows[own]), frame, factor)
            for step, stage, factor in row.noise:
                put(("noise", number_of_step[frame].get(step, step), stage), frame, factor)
            if row.log_variance is not None:
                for name, bound in zip(("low", "high"), row.log_variance, strict=True):
                    table.setdefault(name, np.zeros(frames))[frame] = bound
        return table


def _wide(x: Tensor) -> torch.dtype:
    """The type of factors and sums: half precision would round a factor to three digits."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _add(total: Tensor, term: Tensor, factor: Tensor | None) -> Tensor:
    """total + factor·term, in the memory of total (in-place)."""
    return total if factor is None else total.addcmul_(term.to(total.dtype), factor)


def _selected(moves: Tensor, output: Tensor) -> Tensor:
    return torch.where(moves, output, torch.zeros((), dtype=output.dtype, device=output.device))


def bind_frames(plan: FramePlan, config: NoiseSchedulerConfig) -> FrameRun:
    """Bind a frame plan to the kind of model that a config describes.

    Raises:
        ConfigurationError: as :func:`~.bound_plan.bind`; or a setting that needs one noise level a sample.
    """
    if config.variance_type.startswith("learned") and plan.frame_dim == 1:
        raise ConfigurationError(
            "a model with a learned variance has its channels in dimension 1, and so have the frames",
            where="variance_type",
            suggestion="put frames into another dimension: frame_dim=2 for (B, C, T, H, W)",
        )
    if config.thresholding and not config.clip_sample and not plan.lockstep:
        raise ConfigurationError(
            "dynamic thresholding takes a quantile of the whole sample, whose frames have different noise levels",
            where="thresholding",
            suggestion="use clip_sample=True, or a grid in which all frames move together",
        )
    return FrameRun(plan, tuple(bind_for(each, config) for each in plan.plans))
