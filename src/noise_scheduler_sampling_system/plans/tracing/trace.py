"""Any linear scheduler as a plan: its own loop is run once on symbols, and the coefficients are read off.

A scheduler treats every entry of a tensor alike. The loop is therefore run on a tensor whose entries are the symbols
x_T, the model's outputs and the noises, each as a unit vector. The states that result are the canonical form of the
plan (:meth:`SamplingPlan.canonical`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch

from ...config.prediction import PREDICTION_TYPES, conversion, row_space
from ...support.errors import ConfigurationError, NumericsError
from ..plan import TRACE, SamplingPlan
from ..plan_rows import Array
from .linearity import RandomTensors, refuse_non_linear
from .model_calls import ModelCall, setting
from .scheduler_loop import LoopRecord, SchedulerLoop

__all__ = ["trace"]

#: The largest error of a traced plan's states, as a fraction of their largest coefficient.
_EXACT: Final = 1e-9
#: Fractions of a row's largest coefficient below which a term may be rounding; the largest fraction is tried first.
_ROUNDING: Final = (1e-6, 1e-8, 1e-10, 1e-12, 0.0)


@TRACE.provide
def trace(scheduler: Any, num_inference_steps: int | None = None, *, begin: int = 0, **options: Any) -> SamplingPlan:
    """The plan of a scheduler of diffusers, or of an object with the same methods.

    Args:
        scheduler: has ``set_timesteps``, ``timesteps`` and ``step``, and may have ``scale_model_input`` and
            ``init_noise_sigma``. It is copied, not changed.
        num_inference_steps: as for its ``set_timesteps``; ``None`` where an option determines the steps.
        begin: the index of the first of its ``timesteps`` that is run, for image-to-image.
        options: keywords of its ``set_timesteps`` ("mu", "sigmas", "timesteps") and of its ``step`` ("eta",
            "s_churn").

    Returns:
        A plan in the path's coordinates, α·x₀ + σ·ε, that ends at the scheduler's last level. Its ``carries`` is
        empty, because tables in single precision carry constants only to 1e-7.

    Raises:
        ConfigurationError: the scheduler is not linear (the message names the setting), needs more than the model's
            output, the time and the state, or does not show its noise levels.
    """
    loop = SchedulerLoop.of(scheduler, num_inference_steps, begin, options)
    if isinstance(getattr(loop.ready, "plan", None), SamplingPlan) and begin == 0:  # a PlanScheduler
        ready: SamplingPlan = loop.ready.plan
        return replace(ready, provenance=loop.origin)
    given = RandomTensors()
    on_random = loop.run(given.first, given.output, given.noise)
    drawn = on_random.drawn
    symbols = torch.eye(1 + len(drawn) + sum(drawn), dtype=torch.float64)[:, None, None, None]
    record = loop.run(symbols[0], symbols[1:].__getitem__, iter(symbols[1 + len(drawn) :]).__next__)
    states = torch.stack(record.states)[:, 0, 0, 0].numpy()
    refuse_non_linear(loop.ready, states, given, on_random.states)
    own = record.calls[0].quantity
    best: SamplingPlan | None = None
    for space in dict.fromkeys((own, *PREDICTION_TYPES)):
        with suppress(ConfigurationError):  # at some level the output does not determine this quantity
            plan = _plan(loop, record, states, space)
            if best is None or _cost(plan) < _cost(best):  # of equals, the one without conversion
                best = plan
        if best is not None and best.history == 0:
            break
    assert best is not None  # the output always determines its own quantity
    return best


def _cost(plan: SamplingPlan) -> tuple[int, int]:
    """The number of predictions that a run holds, and the number of terms that it adds."""
    return plan.history, int(np.count_nonzero(plan.b))


def _plan(loop: SchedulerLoop, record: LoopRecord, states: Array, space: str) -> SamplingPlan:
    """The plan in one space, with the shortest history.

    Args:
        loop: the scheduler.
        record: of its run on symbols.
        states: the coefficients of its states, shape (calls + 1, 1 + calls + noises).
        space: the quantity of the plan's predictions.

    Raises:
        ConfigurationError: at some level the model's output does not determine that quantity.
    """
    calls, count = record.calls, len(record.calls)
    factors = np.array([*(call.state_factor for call in calls), 1.0])
    table = _by_predictions(states, calls, space) * factors[:, None]
    table[:, 0] /= factors[0]
    # a row brings in one noise; each further noise takes a row without a model call
    rows = [(i, k) for i in range(count) for k in range(max(record.drawn[i], 1))]
    calling = [row for row, (_, k) in enumerate(rows) if k == 0]
    drawing = [row for row, (i, _) in enumerate(rows) if record.drawn[i]]
    wide = np.zeros((count + 1, 1 + 2 * len(rows)))
    wide[:, [0, *(1 + row for row in calling), *(1 + len(rows) + row for row in drawing)]] = table
    canonical = np.stack([wide[0], *(wide[i + 1] for i, _ in rows)])
    for row in range(len(rows)):
        canonical[row + 1, 1 + len(rows) + row + 1 :] = 0.0

    order = int(getattr(loop.ready, "order", 1))
    keys, stages = np.full((len(rows), 2), -1), Counter[int]()
    for row in drawing:
        step = rows[row][0] // order
        keys[row] = step, stages[step]
        stages[step] += 1
    path = [*(call.level for call in calls), record.end]
    levels = [path[i] if k == 0 else path[i + 1]._replace(t=path[i].t) for i, k in rows]
    none = np.zeros(len(rows))
    blank = SamplingPlan(
        space=space,
        time=np.array([level.t for level in levels]),
        alpha=np.array([level.alpha for level in [*levels, record.end]]),
        sigma=np.array([level.sigma for level in [*levels, record.end]]),
        step=np.array([i // order for i, _ in rows]),
        a=none, b=none[:, None], raw=none, c=none[:, None],
        noise_key=keys,
        asks=None if len(calling) == len(rows) else np.array([k == 0 for _, k in rows]),
        prior_scale=factors[0] * float(getattr(loop.ready, "init_noise_sigma", 1.0)),
        carries=(),
        sampler=loop.name,
        order=max(order, int(setting(loop.ready, "solver_order") or 1)),
        options=_as_lists(loop.options),
        provenance=loop.origin,
    )  # fmt: skip
    return _simplest(blank, canonical)


def _simplest(blank: SamplingPlan, canonical: Array) -> SamplingPlan:
    """The execution form with the fewest terms that still has this canonical form.

    Raises:
        NumericsError: no execution form has it to the required precision.
    """
    count = len(blank)
    parts = canonical[:, 0], canonical[:, 1 : 1 + count], canonical[:, 1 + count :]
    largest = np.abs(canonical).max(axis=1, keepdims=True)
    for rounding in _ROUNDING:
        plan = blank.with_canonical(*parts, tolerance=rounding)
        again = np.concatenate([part.reshape(count + 1, -1) for part in plan.canonical()], axis=1)
        if (np.abs(again - canonical) <= _EXACT * largest).all():
            return plan
    raise NumericsError(
        "its steps cannot be computed from its states without a loss of digits",
        where=blank.sampler,
        why=f"some state is smaller than its terms by a factor of {_EXACT:g}",
        suggestion="run it in its own loop",
    )


def _by_predictions(states: Array, calls: Sequence[ModelCall], space: str) -> Array:
    """The coefficients of states by predictions in a plan's space, from those by outputs."""
    count = len(calls)
    # output j = share[j]·x̃[j] + factor[j]·y[j], so x̃ = rest + B·(share·x̃ + factor·y), with B strictly lower
    share, factor = np.zeros(count + 1), np.zeros(count)
    for j, (level, quantity, of_path, of_state, of_quantity) in enumerate(calls):
        of_x, of_y = conversion(row_space(space, level.alpha, level.sigma), quantity, level.alpha, level.sigma)
        share[j], factor[j] = of_state + of_quantity * of_x * of_path, of_quantity * of_y
    outputs = np.concatenate([states[:, 1 : 1 + count], np.zeros((count + 1, 1))], axis=1)
    known = states.copy()
    known[:, 1 : 1 + count] *= factor
    system = torch.from_numpy(np.eye(count + 1) - outputs * share)
    solved = torch.linalg.solve_triangular(system, torch.from_numpy(known), upper=False, unitriangular=True)
    result: Array = solved.numpy()
    return result


def _as_lists(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with tensors and arrays as lists."""
    return {k: v.tolist() if hasattr(v, "tolist") else v for k, v in options.items()}
