"""Recorded runs of a stochastic sampler: the rollouts of policy gradients, with states as they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from ..plans.plan import SamplingPlan
from ..running.noise import NoiseSource, resolve_keys
from ..running.noise_keys import Seed
from ..support.argument_checks import checked_dtype, checked_shape
from ..support.errors import ConfigurationError, shown
from ..support.values import ByValue
from .row_walk import Rows
from .step_probabilities import Reduction, StepWalk, checked_plan

if TYPE_CHECKING:
    from ..pipeline.pipeline import DiffusionPipeline

__all__ = ["Rollout", "rollout"]


@final
@dataclass(frozen=True, eq=False)
class Rollout(ByValue):
    """A run as policy gradients need it.

    Attributes:
        plan: of the run.
        states: the N + 1 states, each (B, ...), in the type that they are stored in. The last ones are the samples.
        log_probs: of each step at the stored states, shape (N, B), float32 at least; 0 where nothing is drawn.
        drawn: the steps that draw from a Gaussian: those that a policy gradient can use.
    """

    plan: SamplingPlan
    states: tuple[Tensor, ...]
    log_probs: Tensor
    drawn: tuple[int, ...]

    @property
    def samples(self) -> Tensor:
        """The last states, shape (B, ...)."""
        return self.states[-1]


def rollout(
    pipeline: DiffusionPipeline,
    model: Any,
    shape: Sequence[int],
    num_inference_steps: int = 50,
    *,
    seed: Seed,
    store: torch.dtype | None = None,
    reduction: Reduction = "sum",
    plan: SamplingPlan | None = None,
    **settings: Any,
) -> Rollout:
    """Run a stochastic sampler, and record its states and the log-probabilities of its steps.

    Each state is rounded to the stored type as soon as it is drawn, the run goes on from the rounded state, and the
    log-probabilities are those of the rounded states. So :func:`~.step_probabilities.trajectory_log_probs` of the same
    model gives the same numbers, and the first ratio of a policy gradient is 1. The noise is keyed by seed, sample and
    step: with one seed a sample, the rest of the batch does not change it.

    Args:
        pipeline: of the run, with a stochastic sampler whose steps are Gaussian.
        model: as for :meth:`DiffusionPipeline.sample`. Nothing is recorded for gradients.
        shape: of the states, (B, ...).
        num_inference_steps: N.
        seed: one whole number, or one for each sample.
        store: the type of the recorded states, such as ``torch.bfloat16``; None: the type of the computation.
        reduction: of the log-probabilities over the numbers of a sample: "sum" or "mean".
        plan: of the run; default: the pipeline's plan of N steps.
        settings: as for :func:`~.step_probabilities.trajectory_log_probs`, and ``dtype``, the type of the computation,
            float32 by default.

    Raises:
        ConfigurationError: ``store`` is no floating type, no step draws noise, a step is not Gaussian, or what
            ``sample`` refuses.
    """
    if store is not None and not (isinstance(store, torch.dtype) and store.is_floating_point):
        raise ConfigurationError(
            f"got {shown(store)}", where="store", suggestion="give torch.bfloat16 or torch.float32"
        )
    plan = pipeline.plan(num_inference_steps) if plan is None else checked_plan(plan)
    if not plan.stochastic:
        raise ConfigurationError(
            "no step of this run draws noise",
            where=f"plan of {plan.sampler!r}",
            suggestion="use a stochastic sampler, such as 'flow_grpo', 'cps' or 'ancestral'",
        )
    sizes = checked_shape(shape)
    source = NoiseSource(resolve_keys(seed, None, sizes[0]), sizes[1:], checked_dtype(settings.get("dtype"), None))
    start = source.initial() * plan.prior_scale
    walk = StepWalk(plan, Rows.of(pipeline, plan, model, start.to(store or start.dtype), seed=seed, **settings))
    states, log_probs, drawn = [walk.rows.start.to(store or walk.rows.start)], list[Tensor](), list[int]()
    with torch.no_grad():
        for step in range(plan.steps):
            before = states[-1].to(walk.rows.start)
            law = walk.law(step, before)
            after = (law.mean if law.deterministic else law.sample(walk.rows.source(step, 0))).to(states[0])
            walk.note(step, law, after.to(before))
            states.append(after)
            drawn += [] if law.deterministic else [step]
            log_probs.append(
                before.new_zeros(len(before)) if law.deterministic else law.log_prob(after.to(before), reduction)
            )
    return Rollout(plan, tuple(states), torch.stack(log_probs), tuple(drawn))
