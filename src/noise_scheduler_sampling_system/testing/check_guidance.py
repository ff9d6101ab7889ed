"""Guidance held against what the library takes for granted of it, through real runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor

from ..config.prediction import PREDICTION_TYPES
from ..guidance import ClassifierFree, evaluations
from ..guidance.base import Guidance
from ..models.mixture import GaussianMixtureModel
from ..pipeline.pipeline import DiffusionPipeline
from ..schedules.continuous import FlowPath, VPPath
from ..schedules.path import NoisePath
from ..support.errors import ConfigurationError
from .copies import check_copies

__all__ = ["GuidanceReport", "check_guidance"]

_STEPS, _BATCH, _CLASSES = 6, 4, 3
_SHAPE: Final = (_BATCH, 1, 4, 4)
#: A model is told its time in float32, which moves α and σ by about 1e-7 of their size.
_ROUNDING: Final = 1e-5


@final
@dataclass(frozen=True)
class GuidanceReport:
    """What :func:`check_guidance` found.

    Attributes:
        guidance: ``repr`` of it.
        evaluations: of the network for one sample, by step.
        neutral: whether it leaves the prediction as it is where the condition changes nothing.
        change: the root-mean-square change of the samples against a run with the condition alone.
    """

    guidance: str
    evaluations: tuple[int, ...]
    neutral: bool
    change: float

    def __str__(self) -> str:
        neutral = "leaves" if self.neutral else "changes"
        return "\n".join([
            f"{self.guidance}",
            f"  evaluations by step: {', '.join(map(str, self.evaluations))}",
            f"  {neutral} predictions where the condition changes nothing; changes samples by {self.change:.3g}",
        ])  # fmt: skip


def check_guidance(guidance: Guidance | Sequence[Guidance], paths: Sequence[NoisePath] | None = None) -> GuidanceReport:
    """Run guidance on an exact model with classes, on each path and with each prediction type.

    Checked are: the same samples whatever the network predicts (ε, x₀, v or ε − x₀), so that no formula mixes them
    up; each sample as it is alone, so that none depends on the rest of the batch; the evaluations that
    :func:`.guidance.evaluations` counts before the run; finite samples; the same again from a pickle and from a copy.

    Args:
        guidance: one, or several from left to right; what opposes the condition to its absence gets both.
        paths: noise schedules; default: "vp" and "flow".

    Raises:
        ConfigurationError: what does not hold, with the numbers.
    """
    sequence = (guidance,) if isinstance(guidance, Guidance) else tuple(guidance)
    name = type(sequence[0]).__name__ if sequence else "guidance"
    chosen = [VPPath(), FlowPath()] if paths is None else list(paths)
    if not sequence or not chosen:
        raise ConfigurationError("is empty", where="guidance" if chosen else "paths", suggestion="give at least one")
    check_copies(name, sequence)
    counted: tuple[int, ...] = ()
    neutral, change = True, 0.0
    for path in chosen:
        runs = {kind: _Run(path, kind, sequence) for kind in PREDICTION_TYPES}
        samples = {kind: run.samples() for kind, run in runs.items()}
        first = samples["epsilon"]
        if not torch.isfinite(first).all():
            raise _fails(name, f"samples on {path!r} are not finite")
        for kind, other in samples.items():
            off = (other - first).abs().max().item()
            if not off <= _ROUNDING * (1.0 + first.abs().max().item()):
                raise _fails(name, f"on {path!r} a network that predicts {kind!r} gives other samples, by {off:.2g}",
                             "formula.to and formula.of convert between quantities")  # fmt: skip
        run = runs["v_prediction"]
        alone = run.samples(rows=slice(1, 2))
        off = (alone - first[1:2]).abs().max().item()
        if not off <= _ROUNDING * (1.0 + first.abs().max().item()):
            raise _fails(name, f"sample 1 alone differs from sample 1 of a batch by {off:.2g}",
                         "reduce over a sample's own entries, not over the batch")  # fmt: skip
        counted = run.counted()
        plain = _Run(path, "v_prediction", (ClassifierFree(1.0),)).samples()
        change = max(change, (first - plain).square().mean().sqrt().item())
        same = _Run(path, "v_prediction", sequence, opposed=False)
        base = _Run(path, "v_prediction", (ClassifierFree(1.0),), opposed=False)
        neutral &= bool((same.samples() - base.samples()).abs().max().item() <= 1e-6)
    return GuidanceReport(repr(guidance), counted, neutral, change)


def _fails(name: str, what: str, suggestion: str = "mend write()") -> ConfigurationError:
    return ConfigurationError(what, where=name, suggestion=suggestion)


class _Run:
    """Runs of one path and prediction type under a guidance; counts the evaluations of the network."""

    def __init__(self, path: NoisePath, kind: str, sequence: tuple[Guidance, ...], *, opposed: bool = True) -> None:
        typed = path.with_config(path.config.replace(prediction_type=kind))
        self._pipeline = DiffusionPipeline(typed, "ddim")
        self._sequence = sequence
        generator = torch.Generator().manual_seed(0)
        means = torch.randn(_CLASSES, 16, generator=generator, dtype=torch.float64)
        self._exact = GaussianMixtureModel(typed, means, 0.1)
        #: What a class does to the prediction: a direction of its own, in the state's scale.
        self._shift = torch.randn(_CLASSES, 1, 4, 4, generator=generator, dtype=torch.float64) * 0.2 * float(opposed)
        # below pure noise, where every quantity determines every other
        grid = self._pipeline.grid(_STEPS, start=float(typed.time_at(0.95)))
        self._plan = self._pipeline.plan(grid=grid)
        first = grid.levels[0]
        self._start = torch.randn(_SHAPE, generator=generator, dtype=torch.float64) * math.hypot(
            first.alpha, first.sigma
        )
        self.calls, self._rows = 0, _BATCH

    def samples(self, rows: slice = slice(None)) -> Tensor:
        """The samples of some rows of the batch."""
        labels = torch.arange(_BATCH) % _CLASSES
        self.calls = 0
        start = self._start[rows]
        self._rows = len(start)
        samples: Tensor = self._pipeline.sample(
            self._network(), initial_sample=start, plan=self._plan, guidance=self._sequence, dtype=torch.float64,
            condition={"labels": labels[rows]}, null_condition={"labels": torch.full_like(labels[rows], -1)}, seed=0,
        )  # fmt: skip
        return samples

    def counted(self) -> tuple[int, ...]:
        """The evaluations by row that are known before the run.

        Raises:
            ConfigurationError: the run made another number.
        """
        self.samples()
        by_row = evaluations(self._sequence, self._plan)
        if sum(by_row) != self.calls:
            raise _fails(
                type(self._sequence[0]).__name__,
                f"{sum(by_row)} evaluations are known before the run, and it made {self.calls}",
                "write branches whose coefficient is 0 with the number 0, not with a tensor",
            )
        return by_row

    def _network(self) -> Callable[..., Any]:
        path, exact, shift = self._pipeline.scheduler, self._exact, self._shift
        kind = path.config.prediction_type

        def network(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            """The exact model, moved by the class in the quantity x₀, so that every type says the same."""
            self.calls += len(x) // self._rows  # branches are evaluated as one batch
            level = path.level(float(t.flatten()[0]))
            clean = exact.denoise(x.flatten(1), t.double()).reshape(x.shape)
            moved = torch.where(labels.reshape(-1, 1, 1, 1) >= 0, shift[labels.clamp_min(0)], torch.zeros_like(clean))
            return _as(kind, x, clean + moved, level.alpha, level.sigma)

        return network


def _as(kind: str, x: Tensor, clean: Tensor, alpha: float, sigma: float) -> Tensor:
    noise = (x - alpha * clean) / sigma
    made: Tensor = {
        "sample": clean, "epsilon": noise, "v_prediction": alpha * noise - sigma * clean,
        "flow_prediction": noise - clean,
    }[kind]  # fmt: skip
    return made
