"""Where the probability-flow ODE takes the noise: exactly, or by a fine run whose own error is estimated."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

import torch
from torch import Tensor

from ..analysis.solution import error_by_halving, fine_plan
from ..models.exact import ExactModel
from ..pipeline.pipeline import DiffusionPipeline
from ..plans.plan import SamplingPlan
from ..running.noise import NoiseSource, resolve_keys
from ..schedules.path import NoisePath
from ..support.errors import ConfigurationError

__all__ = ["KINDS", "Reference", "References", "root_mean_square"]

KINDS: Final = ("auto", "exact", "fine")
#: Paths that differ in their spacing alone have one solution, so they are compared on this one.
_ANY_SPACING: Final = "kl_optimal"


@final
@dataclass(frozen=True)
class Reference:
    """The solution that errors are measured against, for one path.

    Attributes:
        kind: "exact" (a closed form, to about 1e-9) or "fine" (a run of many calls).
        path: ``repr`` of the noise schedule.
        samples: one tensor (B, ...) for each seed, on the CPU, in float64.
        error: the estimated root-mean-square error per number of the samples themselves.
        nfe: model calls of the fine run; 0 for "exact".
    """

    kind: str
    path: str
    samples: tuple[Tensor, ...]
    error: float
    nfe: int = 0

    def __str__(self) -> str:
        if self.kind == "exact":
            return "exact solution of the probability-flow ODE"
        return f"a run of {self.nfe} model calls (its own error: about {self.error:.1g})"


@final
@dataclass
class References:
    """Makes the reference of each path once.

    Attributes:
        kind: "auto", "exact" or "fine"; "auto" is "exact" where the model knows the solution and no guidance acts.
        calls: model calls of a fine run.
        seeds: one run for each.
        shape: of a batch, (B, ...).
        guided: whether guidance acts on the model's predictions.
        run: further arguments of ``sample``.
    """

    kind: str
    calls: int
    seeds: tuple[int, ...]
    shape: tuple[int, ...]
    guided: bool
    run: Mapping[str, Any]
    _made: list[tuple[NoisePath, Reference]] = field(default_factory=list)

    def of(self, path: NoisePath, model: Callable[..., Any]) -> Reference:
        """The reference of a path; paths that differ in their spacing alone share it.

        Raises:
            ConfigurationError: "exact" for a model without a closed form, or with guidance.
        """
        fine = path.spaced(_ANY_SPACING)
        for known, made in self._made:
            if known == fine:
                return made
        exact = isinstance(model, ExactModel) and not self.guided
        if self.kind == "exact" and not exact:
            raise ConfigurationError(
                "guidance changes the solution" if self.guided else f"{type(model).__name__} has no closed form",
                where="reference",
                suggestion="give reference='fine', or an exact model without guidance",
            )
        reference = self._exact(path, model) if exact and self.kind != "fine" else self._fine(fine, model)
        self._made.append((fine, reference))
        return reference

    def _exact(self, path: NoisePath, model: Any) -> Reference:
        condition = self.run.get("condition") or {}
        device, samples = torch.device("cpu"), []
        for seed in self.seeds:
            source = NoiseSource(resolve_keys(seed, None, self.shape[0]), self.shape[1:], torch.float32, device)
            x = source.initial().double() * path.prior_std
            samples.append(model.reference_solution(x, **condition).cpu().double())
        return Reference("exact", repr(path), tuple(samples), 1e-9)

    def _fine(self, path: NoisePath, model: Callable[..., Any]) -> Reference:
        pipeline = DiffusionPipeline(path, "ddim")  # the plan is given, so that its own sampler does not act
        plans = [fine_plan(path, self.calls), fine_plan(path, max(self.calls // 2, 2))]

        def ends(plan: SamplingPlan, seed: int) -> Tensor:
            x: Tensor = pipeline.sample(model, self.shape, plan=plan, seed=seed, **self.run)
            return x.detach().cpu().double()

        samples = tuple(ends(plans[0], seed) for seed in self.seeds)
        error = error_by_halving(samples[0], ends(plans[1], self.seeds[0]))
        return Reference("fine", repr(path), samples, error, plans[0].nfe)


def root_mean_square(errors: Tensor) -> tuple[float, float]:
    """The root mean square of errors (n,), and its standard error.

    The standard error of the mean square, carried to the root: se = std(e²) / (2·rms·√n).
    """
    square = errors.square()
    rms = square.mean().sqrt().item()
    if len(errors) < 2 or rms == 0.0:
        return rms, math.nan
    return rms, square.std().item() / (2.0 * rms * math.sqrt(len(errors)))
