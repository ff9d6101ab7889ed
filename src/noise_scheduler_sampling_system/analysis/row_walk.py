"""A plan run row by row, for uses that need more of a row than its next state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor

from ..config.keyword_advice import refuse_unknown
from ..pipeline.prepare import prepare
from ..pipeline.request import Request
from ..plans.plan import SamplingPlan
from ..running.bound_plan import BoundPlan
from ..running.faults import ModelStoppedError
from ..running.loop import Model, Noise, RowState, run_rows
from ..running.noise import NoiseSource
from ..support.errors import ConfigurationError

if TYPE_CHECKING:
    from ..pipeline.pipeline import DiffusionPipeline

__all__ = ["Rows"]

#: The arguments of ``sample`` that a walk takes.
SETTINGS: Final = (
    "guidance_scale", "classifier_free_guidance", "guidance", "condition", "null_condition", "seed", "device", "dtype",
)  # fmt: skip


@final
@dataclass(frozen=True)
class Rows:
    """The rows of a plan with the model that they evaluate, under its condition and guidance.

    Attributes:
        bound: the plan, ready for the model.
        model: (x, row) ↦ guided output.
        source: the noise of the run; it has the keys, shape, type and device of the states.
        start: the first state, as given.
        remembers: whether the guidance keeps something from call to call (momentum, or differences of the branches):
            then a step depends on more than the state and earlier predictions.
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
        **settings: Any,
    ) -> Rows:
        """Prepare the rows, with every check of :meth:`DiffusionPipeline.sample`.

        Args:
            pipeline: of the run.
            plan: its table.
            model: as for ``sample``.
            x: states (B, ...); without ``dtype`` their type is kept, float32 at least.
            settings: those of ``SETTINGS``, as for ``sample``.

        Raises:
            ConfigurationError: as for ``sample``, or a sampler that has only ``step``.
        """
        refuse_unknown(settings.keys() - SETTINGS, SETTINGS)
        dtype = settings.pop("dtype", None) or torch.promote_types(torch.float32, x.dtype)
        request = Request(
            model=model, num_inference_steps=plan.steps, plan=plan, initial_sample=x, dtype=dtype, **settings
        )
        job = prepare(pipeline._setup, request)
        if not isinstance(job.run, BoundPlan):
            raise ConfigurationError(
                f"the sampler {plan.sampler} has only step()", where="sampler", suggestion="use one that writes plans"
            )
        network = job.model_maker({})(job.run, None).model
        functions = (each for row in job.guidance.rows if row is not None for each in row.functions)
        remembers = any(each.memory is not None for each in functions)
        keeps = any(last > row for row, last in enumerate(job.run.plan.last_use_of_delta))
        return cls(job.run, network, job.noise, job.first_state().x, remembers or keeps)

    def after(self, state: RowState, noise: Noise | None = None) -> RowState:
        """The state after one more row, with the input and the output of the model, all checked to be finite."""
        steps = run_rows(self.bound, self.model, state, noise or self.source, inspect=True, check_every_row=True)
        try:
            return next(steps)
        except ModelStoppedError as stopped:
            error = stopped.error
        raise error
