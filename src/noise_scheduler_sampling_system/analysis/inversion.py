"""Exact inversion: from a sample to the noise that it comes from, and back to the same sample.

Inverted DDIM is an approximation, because it evaluates the model at other states than the run did. A
reversible sampler (``bdia``, ``belm``) moves by x[i+1] = Q·x[i−1] + g(x[i]). This formula is solved for
x[i−1] exactly, with the same model call. So encoding and decoding together are the identity up to
rounding, for every model, guidance and clipping.

The product of the Q, or of the 1/Q, multiplies rounding errors. From images to noise and back, ``belm``
and ``bdia`` with γ = 1 lose 1e-15 to 1e-12 in float64. In float32 they lose 1e-8 to 1e-6 on
variance-preserving and straight paths, and up to 1e-3 on EDM's. ``bdia`` with γ < 1 loses γ^−N times as
much.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from ..config.prediction import conversion
from ..plans.plan import SamplingPlan
from ..running.kernels import affine
from ..running.loop import RowState
from ..support.errors import ConfigurationError
from ..support.values import ByValue
from .row_walk import Rows

if TYPE_CHECKING:
    from ..pipeline.pipeline import DiffusionPipeline
    from ..samplers.base import BaseSampler

__all__ = ["Ends", "ReversibleRun"]


class Ends(NamedTuple):
    """One end of a reversible run: the two states that determine all other states.

    Attributes:
        x: the state at the end, shape (B, ...).
        beside: the state one level before the end.
    """

    x: Tensor
    beside: Tensor


@final
class ReversibleRun(ByValue):
    """The runs of a reversible sampler in both directions. It holds two states, for any number of steps.

        run = ReversibleRun(DiffusionPipeline(config, "belm"), model, 50)
        latent = run.encode(images)          # latent.x: the noise that the images come from
        same = run.decode(latent).x          # the images, up to rounding

    A second run with another condition edits images. ``decode`` of a single tensor starts like any run
    from noise, with DDIM's first step.

    Args:
        pipeline: of a reversible sampler.
        model: as for :meth:`DiffusionPipeline.sample`; it must return the same output for the same input.
        num_inference_steps: N ≥ 2; the steps are not guarded. Each direction takes N − 1 model calls from two
            states, and N from one.
        plan: replaces the pipeline's plan.
        settings: ``guidance_scale``, ``classifier_free_guidance``, ``guidance``, ``condition``, ``null_condition``,
            ``device`` and ``dtype`` as for ``sample``; default of ``dtype``: the type of the states.

    Raises:
        ConfigurationError: a plan that cannot be undone, or (when called) what ``sample`` refuses.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        model: Any = None,
        num_inference_steps: int = 50,
        *,
        plan: SamplingPlan | None = None,
        **settings: Any,
    ) -> None:
        self._pipeline, self._model, self._settings = pipeline, model, settings
        self.plan = _unguarded(pipeline.sampler).plan(num_inference_steps) if plan is None else plan
        self._back, self._stepwise = _two_step(self.plan)

    @torch.no_grad()
    def decode(self, noise: Tensor | Ends) -> Ends:
        """Run from the noisiest level to the cleanest.

        Args:
            noise: the result of :meth:`encode`, or the state at the first level (unit noise times
                ``plan.prior_scale``), shape (B, ...).

        Returns:
            The samples, and the state one level before.
        """
        rows = self._rows(noise)
        before, x = (
            (rows.start, rows.after(RowState(0, rows.start, {})).x)
            if isinstance(noise, Tensor)
            else (rows.start, noise.beside.to(rows.start))
        )
        for i in range(1, len(self.plan)):
            before, x = x, rows.after(RowState(i, x, {})).x.add_(before, alpha=self._back[i])
        return Ends(x, before)

    @torch.no_grad()
    def encode(self, samples: Tensor | Ends) -> Ends:
        """Run from the cleanest level to the noisiest, by the same formulas solved for the older state.

        Args:
            samples: the result of :meth:`decode`, or images at the last level of the plan, shape (B, ...). The
                state beside images is α·x₀ + σ·ε̂, where ε̂ is the model's prediction for them at the last level
                at which the plan evaluates it. This takes one more model call.

        Returns:
            The state at the first level, and the state beside it.
        """
        rows, last = self._rows(samples), len(self.plan) - 1
        after = rows.start
        x = self._noised(after, last) if isinstance(samples, Tensor) else samples.beside.to(after)
        for i in range(last, 0, -1):
            older = (after - rows.after(RowState(i, x, {})).x).div_(self._back[i])
            after, x = x, older
        return Ends(x, after)

    def _rows(self, given: Tensor | Ends) -> Rows:
        x = given if isinstance(given, Tensor) else given.x
        rows = Rows.of(self._pipeline, self._stepwise, self._model, x, **self._settings)
        if rows.remembers:
            raise ConfigurationError(
                "remembers earlier predictions",
                where="guidance",
                why="on the way back it would remember other predictions",
                suggestion="use guidance without momentum",
            )
        return rows

    def _noised(self, samples: Tensor, i: int) -> Tensor:
        """A DDIM step from the last level up to the level of row i, with the model's prediction at row i."""
        end, to = ((float(self.plan.alpha[j]), float(self.plan.sigma[j])) for j in (i + 1, i))
        scale = to[0] / end[0]
        x = samples * scale
        rows = Rows.of(self._pipeline, self.plan.readout(), self._model, x, **self._settings)
        epsilon = affine(conversion(self.plan.space, "epsilon", *to), x, rows.after(RowState(i, x, {})).x)
        return x + (to[1] - scale * end[1]) * epsilon


def _unguarded(sampler: BaseSampler) -> BaseSampler:
    """The sampler without the guard, since a step that the guard has changed may have no inverse."""
    return type(sampler)(sampler.scheduler, **{**sampler.options, "guarded": False}) if sampler.guarded else sampler


def _two_step(plan: SamplingPlan) -> tuple[list[float], SamplingPlan]:
    """Q of x[i+1] = Q·x[i−1] + g(x[i]) for each row, and the plan of g alone, which has no history.

    A row of a plan is a·x + Σ b[k]·y[i−k]. The row before (marked ⁻) gives x[i−1]. With it the formula has
    a = P + Q/a⁻, b[0] = R and b[k] = −(Q/a⁻)·b⁻[k−1], where g = P·x + R·y.

    Raises:
        ConfigurationError: the rows are not of this form.
    """
    count = len(plan)
    back, a, now = np.zeros(count), plan.a.copy(), plan.b[:, 0]
    width = plan.b.shape[1]
    fits = not (plan.stochastic or plan.raw.any()) and plan.null is None and plan.delta is None and plan.nfe == count
    fits = fits and count > 1 and width > 1 and bool(now.all() and plan.a[:-1].all())
    for i in range(1, count if fits else 0):
        ratio = -plan.b[i, 1] / now[i - 1]
        back[i], a[i] = ratio * plan.a[i - 1], plan.a[i] - ratio
        rest = plan.b[i, 1:] + ratio * plan.b[i - 1, : width - 1]
        fits = fits and ratio != 0.0 and bool(np.abs(rest).max() <= 1e-9 * np.abs(plan.b[i]).max())
    if not fits:
        raise ConfigurationError(
            f"the plan of {plan.sampler!r} in {plan.steps} steps cannot be undone exactly",
            where="sampler",
            why="its rows are not two-step formulas that can be solved in both directions",
            suggestion="use 'belm' (not from zero signal) or 'bdia' (gamma near 1, guarded=False), in 2 steps or more",
        )
    return back.tolist(), replace(plan, a=a, b=now[:, None])
