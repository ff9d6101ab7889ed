"""Stochastic steps as distributions: mean, standard deviation and log-probability, for reinforcement learning.

A step of a stochastic sampler draws the next state from a Gaussian whose mean is linear in the model's
prediction. Policy gradients need its log-density at a recorded state, as a function of the model's
parameters (DDPO: Black et al. 2024, arXiv 2305.13301, §4.3; DPOK: Fan et al. 2023, arXiv
2305.16381).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from torch import Tensor

from ..plans.plan import SamplingPlan
from ..running.bound_plan import BoundPlan
from ..running.loop import RowState
from ..support.errors import ConfigurationError, shown
from ..support.registry import did_you_mean
from ..support.values import ByValue
from .row_walk import Rows

if TYPE_CHECKING:
    from ..pipeline.pipeline import DiffusionPipeline

__all__ = ["StepDistribution", "checked_plan", "step_distribution", "trajectory_log_probs"]

Reduction = Literal["sum", "mean"]


@final
@dataclass(frozen=True, eq=False)
class StepDistribution(ByValue):
    """The Gaussian from which a step draws the next state; its numbers are independent.

    Attributes:
        mean: shape (B, ...).
        std: a number, or for learned variances a tensor of the mean's shape; 0.0 if the step is deterministic.
    """

    mean: Tensor
    std: Tensor | float

    @property
    def deterministic(self) -> bool:
        """Whether the step draws nothing."""
        return isinstance(self.std, float) and self.std == 0.0

    def sample(self, noise: Tensor) -> Tensor:
        """The next state for unit noise of the mean's shape."""
        return self.mean + self.std * noise

    def log_prob(self, next_x: Tensor, reduction: Reduction = "sum") -> Tensor:
        """The log-density of a next state, shape (B,), in float32 at least.

        Args:
            next_x: shape (B, ...).
            reduction: over the numbers of a sample: "sum" is the log-density; DDPO uses "mean".

        Raises:
            ConfigurationError: a deterministic step, or an unknown reduction.
        """
        std = self._std()
        error = (next_x.to(std) - self.mean.to(std)) / std
        return _reduced(-0.5 * error.square() - std.log() - 0.5 * math.log(2.0 * math.pi), reduction)

    def entropy(self, reduction: Reduction = "sum") -> Tensor:
        """−E[log p], shape (B,), in float32 at least; arguments and errors as for :meth:`log_prob`."""
        each = self._std().log() + 0.5 * math.log(2.0 * math.pi * math.e)
        return _reduced(each.expand(self.mean.shape), reduction)

    def kl(self, reference: StepDistribution, reduction: Reduction = "sum") -> Tensor:
        """KL(this ‖ reference), shape (B,), in float32 at least; of equal std it is ‖mean − reference mean‖²/(2·std²).

        The penalty of Flow-GRPO and DPOK for leaving the reference model, in closed form. Arguments and errors as for
        :meth:`log_prob`.
        """
        ratio = self._std() / reference._std()
        shift = (self.mean - reference.mean).to(ratio) / reference._std()
        each = 0.5 * (ratio.square() - 1.0 + shift.square()) - ratio.log()
        return _reduced(each.expand(self.mean.shape), reduction)

    def _std(self) -> Tensor:
        """The standard deviation as a tensor, in float32 at least."""
        if self.deterministic:
            raise ConfigurationError(
                "the step is deterministic and has no density",
                where="log_prob",
                suggestion="leave out steps of std 0, or use a stochastic sampler, such as 'ddpm'",
            )
        dtype = torch.promote_types(self.mean.dtype, torch.float32)
        return torch.as_tensor(self.std, dtype=dtype, device=self.mean.device)


def _reduced(each: Tensor, reduction: Reduction) -> Tensor:
    if reduction not in ("sum", "mean"):
        raise ConfigurationError(
            f"got {reduction!r}", where="reduction", suggestion=did_you_mean(reduction, ("sum", "mean"))
        )
    flat = each.flatten(1)
    return flat.sum(1) if reduction == "sum" else flat.mean(1)


def step_distribution(bound: BoundPlan, state: RowState, output: Tensor) -> StepDistribution:
    """The distribution of the next state, in a row of a bound plan.

    Args:
        bound: from :func:`~..running.bound_plan.bind`.
        state: the run before the row, with its history.
        output: the model's output for ``state.x``.

    Raises:
        ConfigurationError: the row reads noise of earlier rows, which this state does not determine;
            :func:`trajectory_log_probs` finds that noise in the earlier states.
    """
    if bound.plan.c[state.row, 1:].any():
        raise ConfigurationError(
            f"row {state.row} reads the noise of earlier rows",
            where=f"plan of {bound.plan.sampler!r}",
            suggestion="use trajectory_log_probs, which knows the earlier states",
        )
    mean = bound.advance(state, output, lambda step, stage: torch.zeros_like(state.x)).x
    return StepDistribution(mean, bound.noise_std(state.row, output))


def trajectory_log_probs(
    pipeline: DiffusionPipeline,
    model: Any,
    states: Sequence[Tensor] | Tensor,
    *,
    steps: Sequence[int] | None = None,
    reduction: Reduction = "sum",
    plan: SamplingPlan | None = None,
    **settings: Any,
) -> Tensor:
    """The log-probability of every step of a recorded run, as a function of the model; gradients flow.

    :func:`~.rollouts.rollout` records a run. By hand: ``[start, *(s.x for s in pipeline.stream(model,
    initial_sample=start, plan=plan, ...))]``, where ``start`` is unit noise times ``plan.prior_scale``.

    Args:
        pipeline: of the run, with a stochastic sampler.
        model: the model whose probabilities are computed; it may differ from the one that was run.
        states: the N + 1 states before, between and after the steps, each (B, ...). The computation is in their type,
            float32 at least.
        steps: the steps to compute; default: all. With one step at a time, a backward pass needs the memory of
            one step. If the sampler or the guidance remembers earlier steps, these are run, too.
        reduction: over the numbers of a sample: "sum" or "mean".
        plan: of the run; default: the pipeline's plan of N steps.
        settings: ``guidance_scale``, ``classifier_free_guidance``, ``guidance``, ``condition``, ``null_condition``
            and ``device`` as for :meth:`DiffusionPipeline.sample`.

    Returns:
        Shape (len(steps), B), float32 at least; 0 for a deterministic step, which has no density.

    Raises:
        ConfigurationError: a number of states that does not fit the plan, a step that is not Gaussian (a model
            call on a state that has received noise in the same step), or what ``sample`` refuses.
    """
    plan = pipeline.plan(len(states) - 1) if plan is None else checked_plan(plan)
    wanted = range(plan.steps) if steps is None else steps
    if len(states) != plan.steps + 1 or not all(0 <= step < plan.steps for step in wanted):
        raise ConfigurationError(
            f"got {len(states)} states and steps {list(wanted)} for a plan of {plan.steps} steps",
            where="states",
            suggestion=f"give the {plan.steps + 1} states before, between and after its steps",
        )
    walk = StepWalk(plan, Rows.of(pipeline, plan, model, states[0], **settings))
    found: dict[int, Tensor] = {}
    for step in range(max(wanted, default=-1) + 1):
        if step in wanted or walk.remembers:
            before, after = (states[j].to(walk.rows.start) for j in (step, step + 1))
            drawn = walk.law(step, before)
            walk.note(step, drawn, after)
            if step in wanted:
                found[step] = after.new_zeros(len(after)) if drawn.deterministic else drawn.log_prob(after, reduction)
    return torch.stack([found[step].to(torch.promote_types(found[step].dtype, torch.float32)) for step in wanted])


def checked_plan(plan: Any) -> SamplingPlan:
    """A plan whose steps have probabilities.

    Raises:
        ConfigurationError: something else, or a plan of frames.
    """
    if not isinstance(plan, SamplingPlan):
        raise ConfigurationError(
            f"got {shown(plan)}",
            where="plan",
            suggestion="give a SamplingPlan: steps whose frames have levels of their own have no probabilities here",
        )
    return plan


@final
@dataclass
class StepWalk:
    """A walk along recorded states, step by step, with the history of multistep samplers."""

    plan: SamplingPlan
    rows: Rows
    history: Mapping[int, Tensor] = field(default_factory=dict)
    noises: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    _fresh: tuple[int, ...] = ()

    @functools.cached_property
    def remembers(self) -> bool:
        """Whether any step reads a prediction or a noise of an earlier one."""
        step, tables = self.plan.step, (self.plan.b, self.plan.c)
        reads = ((i, i - k) for table in tables for i, k in zip(*table.nonzero(), strict=True))
        return self.rows.remembers or any(step[j] < step[i] for i, j in reads)

    def law(self, step: int, before: Tensor) -> StepDistribution:
        """The distribution of a step from the recorded state before it, shape (B, ...).

        The noise of earlier steps is known from their recorded states. That of this step counts as 0 in the
        mean; its variance is accumulated.
        """
        plan, fresh = self.plan, list[int]()
        variance: Tensor | float = 0.0
        state = RowState(0, before, self.history)

        def noise(of_step: int, stage: int) -> Tensor:
            if of_step != step and (of_step, stage) not in self.noises:
                raise ConfigurationError(
                    f"step {step} reads one of the noises of step {of_step}",
                    where=f"plan of {plan.sampler!r}",
                    why="the states do not determine the noises of a step that has several",
                    suggestion="use a sampler with one noise a step",
                )
            return self.noises[of_step, stage] if of_step != step else torch.zeros_like(before)

        for i in (plan.step == step).nonzero()[0].tolist():
            if fresh and (plan.asked[i] or any(i - k in fresh for k in plan.c[i, 1:].nonzero()[0] + 1)):
                raise ConfigurationError(
                    f"step {step} evaluates the model at a state that has received noise in this step",
                    where=f"plan of {plan.sampler!r}",
                    why="the next state is then not Gaussian",
                    suggestion="use a sampler whose noise comes last in a step ('ddpm', 'ancestral', 'ddim' with eta)",
                )
            state = self.rows.after(state._replace(row=i), noise)
            variance = variance * float(plan.a[i]) ** 2
            if plan.c[i, 0]:
                fresh.append(i)
                variance = variance + self.rows.bound.noise_std(i, state.output) ** 2
        self.history, self._fresh = state.history, tuple(fresh)
        return StepDistribution(state.x, variance**0.5)

    def note(self, step: int, law: StepDistribution, after: Tensor) -> None:
        """Note the state after a step, which determines the step's noise, for later steps that read it."""
        if len(self._fresh) == 1 and self.plan.c.shape[1] > 1:
            key = self.plan.noise_key[self._fresh[0]].tolist()
            self.noises[key[0], key[1]] = (after - law.mean) / law.std
