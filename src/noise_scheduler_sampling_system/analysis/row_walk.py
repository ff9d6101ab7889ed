"""A plan walked through row by row, by those who need more of a row than its next state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from ..guidance.base import Guidance
from ..pipeline.request import DEFAULT_SCALE, prepare
from ..plans.plan import SamplingPlan
from ..running.bound_plan import BoundPlan
from ..running.loop import Model, ModelStoppedError, Noise, RowState, run_rows
from ..running.noise import NoiseSource, Seed
from ..support.errors import ConfigurationError

if TYPE_CHECKING:  # which imports what uses this file
    from ..pipeline.pipeline import DiffusionPipeline

__all__ = ["Rows"]


@final
@dataclass(frozen=True)
class Rows:
    """The rows of a plan with the network that they ask: conditioned, guided, checked.

    Attributes:
        bound: the plan, ready for the model.
        model: (x, row) ↦ guided output.
        source: the run's noise; its keys, shape, type and device are those of the states.
        start: the first state, as it was given.
        remembers: whether the guidance keeps something from call to call (momentum), so that its output is
            no function of the state alone.
    """

    bound: BoundPlan
    model: Model
    source: NoiseSource
    start: Tensor
    remembers: bool

    @classmethod
    def of(
        cls,
        pipeline: DiffusionPipeline,
        plan: SamplingPlan,
        model: Any,
        x: Tensor,
        *,
        guidance_scale: float = DEFAULT_SCALE,
        classifier_free_guidance: bool = True,
        guidance: Guidance | Sequence[Guidance] | None = None,
        condition: Mapping[str, Any] | None = None,
        null_condition: Mapping[str, Any] | None = None,
        seed: Seed | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
    ) -> Rows:
        """Check everything that :meth:`DiffusionPipeline.sample` checks, whose arguments these are.

        Args:
            x: states (B, ...); without ``dtype`` their type is kept, float32 at least.

        Raises:
            ConfigurationError: as for ``sample``; a sampler that only has ``step``.
        """
        job = prepare(
            pipeline._setup,
            model=model, shape=None, num_inference_steps=plan.steps,
            scale=guidance_scale, classifier_free=classifier_free_guidance, guidance=guidance,
            condition=condition, null_condition=null_condition, seed=seed, generator=None, initial_noise=None,
            initial_sample=x, timesteps=None, plan=plan, device=device,
            dtype=dtype or torch.promote_types(torch.float32, x.dtype),
        )  # fmt: skip
        if not isinstance(job.run, BoundPlan):
            raise ConfigurationError(
                f"the sampler {plan.sampler} has only step()", where="sampler", suggestion="use one that writes plans"
            )
        start, network = job.by_hand()
        functions = (each for row in job.guided.rows if row is not None for each in row.functions)
        return cls(job.run, network, job.noise, start.x, any(each.memory is not None for each in functions))

    def after(self, state: RowState, noise: Noise | None = None) -> RowState:
        """The state after one more row, with what was asked and answered; everything is checked to be finite."""
        steps = run_rows(self.bound, self.model, state, noise or self.source, inspect=True, check_every_row=True)
        try:
            return next(steps)
        except ModelStoppedError as stopped:
            error = stopped.error
        raise error
