"""The log-density of samples, by the probability-flow ODE with any deterministic sampler.

A deterministic plan that keeps x₀ is a linear method for dz/dr = x₀ in z = x/σ and r = α/σ. Its rows carry
constant data and noise, so a = σ'/σ and z' = z + Σ_k (b[k]/σ')·x₀[−k]. Along the flow
d log p(z)/dr = −tr(∂x₀/∂z). Hence the same coefficients integrate the density, to the same order. (This is the
instantaneous change of variables of Chen et al. 2018, arXiv 1806.07366, §4; for diffusion models see Song et
al. 2021, arXiv 2011.13456, App. D.2.) The plan runs upwards, from the cleanest level to the noisiest, where the
density is Gaussian. In x̄ = x/α, where dx̄/ds = ε, the same method has a larger error.

The integrand is the trace minus the trace for data of unit variance, d·r/(1 + r²), whose integral
½·d·log(1 + r²) is known. So the singularity towards the clean end takes no steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import torch
from torch import Tensor

from ..grids.time_grid import TimeGrid, make_grid, refuse_other_grid
from ..plans.builder import PlanBuilder
from ..plans.plan import SamplingPlan
from ..running.loop import RowState
from ..running.noise import Seed
from ..samplers.base import BaseSampler
from ..schedules.path import Level, NoisePath
from ..support.errors import ConfigurationError, ModelOutputError
from ..support.registry import did_you_mean
from ..support.values import ByValue
from .row_walk import Rows

if TYPE_CHECKING:
    from ..pipeline.pipeline import DiffusionPipeline

__all__ = ["Likelihood", "log_likelihood"]

#: The first stage of the noise keys of probes; runs have lower stages, so that a probe never equals their noise.
_OWN_STAGES = 1 << 33
#: The least σ/α that stands for a level without signal (a log SNR of −10, as in the "log_snr" spacing).
_NOISIEST = math.exp(5.0)


@final
@dataclass(frozen=True, eq=False)
class Likelihood(ByValue):
    """Log-densities of a batch of samples.

    Attributes:
        log_prob: the natural logarithm of the density of the data smoothed by a Gaussian of standard
            deviation σ/α of ``cleanest``, in the coordinates of the data; shape (B,), float64.
        latent: the samples after the flow, at ``noisiest``, shape (B, ...); their density is taken to be
            Gaussian with variance α² + σ².
        cleanest, noisiest: the levels where the flow starts and ends.
        nfe: model calls. Each has one backward pass for each probe, or for each number of the sample.
    """

    log_prob: Tensor
    latent: Tensor
    cleanest: Level
    noisiest: Level
    nfe: int

    def bits_per_dim(self, bin_width: float = 1.0) -> Tensor:
        """−log₂ of the probability of a bin, per number of a sample; shape (B,).

        Args:
            bin_width: the distance between the values of the data: 2/256 for bytes scaled to [−1, 1]; 1 leaves
                the density as it is.
        """
        size = self.latent[0].numel()
        return -self.log_prob / (size * math.log(2.0)) - math.log2(bin_width)


def log_likelihood(
    pipeline: DiffusionPipeline,
    model: Any,
    x: Tensor,
    num_inference_steps: int = 50,
    *,
    grid: TimeGrid | None = None,
    divergence: Literal["exact", "hutchinson"] = "hutchinson",
    probes: int = 1,
    probe: Literal["rademacher", "gaussian"] = "rademacher",
    add_noise: bool = False,
    seed: Seed | None = None,
    condition: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
) -> Likelihood:
    """The log-density of samples under the model.

    It is the density of x₀ + (σ/α)·ε at the grid's cleanest level, since the model is not defined below it.
    Guidance does not act: a guided field is not the flow of a model's density.

    Args:
        pipeline: noise schedule, spacing and a deterministic sampler of any order.
        model: as for :meth:`DiffusionPipeline.sample`; gradients must flow from its output to its
            input.
        x: samples in data space, shape (B, ...).
        num_inference_steps: N, intervals between the noisiest level of the config's spacing and ``t_min``. If
            the noisiest level has no signal, one of σ/α = 148, or twice that of the next level, replaces it.
        grid: levels instead of N, in either direction; a clean end is left out.
        divergence: "exact", with a backward pass for each number of a sample; or "hutchinson", an unbiased
            estimate (Grathwohl et al. 2019, arXiv 1810.01367), with a backward pass for each probe.
        probes: the number of random vectors to average over; every row draws new ones.
        probe: the distribution of the probes; "rademacher" has the least variance.
        add_noise: whether to add noise of the cleanest level to ``x``. If not, the smoothed density is
            evaluated at ``x`` itself.
        seed: of probes and noise, as for ``sample``.
        condition: as for ``sample``.
        device, dtype: as for ``sample``; default of ``dtype``: the type of ``x``, at least float32.

    Raises:
        ConfigurationError: a sampler that is not deterministic, an unknown option, or what
            ``sample`` refuses.
        ModelOutputError: the output does not depend on the input, or is not finite.
    """
    _check_choice("divergence", divergence, ("exact", "hutchinson"))
    _check_choice("probe", probe, ("rademacher", "gaussian"))
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise ConfigurationError(f"got {probes!r}", where="probes", suggestion="give a whole number ≥ 1")
    upwards = _upwards(pipeline.scheduler, num_inference_steps) if grid is None else _rising(grid)
    plan = _of_clean_samples(pipeline.sampler, upwards)
    rows = Rows.of(
        pipeline, plan.readout(), model, x,
        condition=condition, classifier_free_guidance=False, seed=seed, device=device, dtype=dtype,
    )  # fmt: skip
    level = upwards.levels[0]
    sigma: list[float] = plan.sigma.tolist()
    r: list[float] = (plan.alpha / plan.sigma).tolist()

    def trace(i: int, x: Tensor, clean: Tensor) -> Tensor:
        """tr(∂x₀/∂z) minus the trace for data of unit variance, shape (B,)."""
        known: float = r[i] / (1.0 + r[i] ** 2)
        if divergence == "exact":
            terms = [_inner(e, _pulled(x, clean, e)) for e in _basis(clean)]
            return sigma[i] * torch.stack(terms).sum(0) - known * x[0].numel()
        drawn = [rows.source(i, _OWN_STAGES + 1 + k) for k in range(probes)]
        vectors = drawn if probe == "gaussian" else [torch.where(v < 0, -1.0, 1.0).to(v) for v in drawn]
        terms = [_inner(v, _pulled(x, clean, v)) * sigma[i] - known * _inner(v, v) for v in vectors]
        return torch.stack(terms).mean(0)

    x = level.alpha * rows.start
    if add_noise:
        x = x + level.sigma * rows.source(-1, _OWN_STAGES)
    change = torch.zeros(len(x), dtype=torch.float64, device=_wide(x))
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    for i in range(len(plan)):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            after = rows.after(RowState(i, leaf, {}))
            if i == 0:
                _check_differentiable(leaf, after.output)
            clean = after.x
            kept[i] = clean.detach(), trace(i, leaf, clean)
        x = x * float(plan.a[i])
        for k in range(min(i + 1, plan.b.shape[1])):
            if plan.b[i, k]:
                clean, traced = kept[i - k]
                x.add_(clean, alpha=float(plan.b[i, k]))
                change += traced * float(plan.b[i, k] / sigma[i + 1])
        kept = {j: value for j, value in kept.items() if plan.last_use[j] > i}
    size, width = x[0].numel(), math.hypot(plan.alpha[-1], sigma[-1])
    change += 0.5 * size * math.log((1.0 + r[-1] ** 2) / (1.0 + r[0] ** 2))
    change += size * math.log(sigma[-1] / sigma[0] * level.alpha)  # from x to z there, back to x/α here
    normal = -0.5 * _inner(x, x) / width**2 - size * math.log(width * math.sqrt(2.0 * math.pi))
    return Likelihood(normal + change, x, level, upwards.levels[-1], plan.nfe)


def _upwards(path: NoisePath, steps: int) -> TimeGrid:
    """N intervals of the config's spacing, from the cleanest level upwards.

    A level without signal is replaced, since log p and many samplers have no limit there.
    """
    lowest = {**path.config.spacing_options, "end": "lowest"}
    top, *levels = make_grid(type(path)(path.config.replace(spacing_options=lowest)), steps).levels
    if top.alpha == 0.0:
        top = path.level_at(-2.0 * math.log(max(_NOISIEST, 2.0 * levels[0].noise_to_signal)))
    return TimeGrid((path.level(path.t_min), *levels[-2::-1], top))


def _rising(grid: TimeGrid) -> TimeGrid:
    refuse_other_grid(grid)
    rises = grid.levels[0].noise_to_signal < grid.levels[-1].noise_to_signal
    return grid if rises and grid.levels[0].sigma > 0.0 else grid.reversed()


def _of_clean_samples(sampler: BaseSampler, upwards: TimeGrid) -> SamplingPlan:
    """The sampler's plan as a linear method in x₀.

    Raises:
        ConfigurationError: the plan is not such a method.
    """
    usual, clips = (
        _written(sampler, TimeGrid(upwards.levels[::-1])),
        sampler.config.clip_sample or sampler.config.thresholding,
    )
    if usual.two_times:
        raise ConfigurationError(
            f"the sampler {usual.sampler!r} asks a network of two times",
            where="sampler",
            why="the density changes by the divergence of the field at each time, which such a network gives at r = t",
            suggestion="use 'heun' and lambda x, t, **condition: model(x, t, r=t, **condition)",
        )
    unlike = usual.stochastic or usual.null is not None or usual.nfe < len(usual) or (clips and usual.raw.any())
    if unlike or sampler.options.get("afs", False):
        raise ConfigurationError(
            f"the plan of {usual.sampler!r} is not that of an ODE",
            where="sampler",
            why="it adds noise, or uses several predictions of one call, or starts without the model",
            suggestion="use a deterministic sampler, such as 'heun', with its default options",
        )
    plan = _written(sampler, upwards)
    now = plan.b[:, :1] + plan.raw[:, None]  # where nothing is clipped, the two are the same
    return replace(plan, b=np.concatenate([now, plan.b[:, 1:]], axis=1), raw=0.0 * plan.raw)


def _written(sampler: BaseSampler, grid: TimeGrid) -> SamplingPlan:
    """The sampler's plan on a grid, with clean samples as its history."""
    build = PlanBuilder("sample")
    sampler.write(build, grid)
    return build.build(grid.levels[-1], 1.0, sampler=type(sampler).__name__, order=sampler.order)


def _basis(y: Tensor) -> Iterator[Tensor]:
    """The unit vectors of one sample, each for the whole batch."""
    for e in torch.eye(y[0].numel(), dtype=y.dtype, device=y.device):
        yield e.reshape(1, *y.shape[1:]).expand_as(y)


def _pulled(x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """vᵀ·∂y/∂x."""
    return torch.autograd.grad(y, x, v, retain_graph=True)[0]


def _check_differentiable(x: Tensor, output: Tensor | None) -> None:
    """Raise unless the model's output depends on x. (The clean sample always does, through x itself.)"""
    if output is not None and output.requires_grad:
        (gradient,) = torch.autograd.grad(output.sum(), x, retain_graph=True, allow_unused=True)
        if gradient is not None:
            return
    raise ModelOutputError(
        "no gradient flows from the model's output to its input",
        where="model",
        why="the model runs under torch.no_grad() or inference_mode(), or detaches",
        suggestion="give a differentiable model",
    )


def _inner(u: Tensor, v: Tensor) -> Tensor:
    """The inner product of each sample of u with that of v, in float64, shape (B,)."""
    return (u.to(_wide(u), torch.float64) * v.to(_wide(v), torch.float64)).flatten(1).sum(1)


def _wide(x: Tensor) -> torch.device:
    """The device of x, or the CPU where that device has no float64 (Apple's MPS)."""
    return torch.device("cpu") if x.device.type == "mps" else x.device


def _check_choice(where: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(f"got {value!r}", where=where, suggestion=did_you_mean(value, choices))
