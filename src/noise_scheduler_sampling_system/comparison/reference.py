"""Where the probability-flow ODE takes the noise: exactly, or by a fine run whose own error is estimated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias, final

import torch
from torch import Tensor

from ..analysis.solution import each_error, error_by_halving, fine_plan
from ..guidance import CachedGuidance, ClassifierFree, Guidance
from ..models.exact import ExactModel
from ..pipeline.pipeline import DiffusionPipeline
from ..plans.plan import SamplingPlan
from ..running.noise import NoiseSource, resolve_keys
from ..schedules.path import NoisePath
from ..support.errors import ConfigurationError, NoiseSamplingError
from .calls import Calls
from .subject import SHOWN, Subject, guidance_of, with_scale

__all__ = ["KINDS", "Reference", "References", "root_mean_square"]

KINDS: Final = ("auto", "exact", "fine")
#: Paths that differ in their spacing alone have one solution, so they are compared on this one.
_ANY_SPACING: Final = "kl_optimal"

#: What a solution depends on beside the noise: the path, the model's id, and the guidance.
_Solved: TypeAlias = tuple[NoisePath, int, tuple[Guidance, ...]]


@final
@dataclass(frozen=True)
class Reference:
    """The solution that errors are measured against, for one path.

    Attributes:
        kind: "exact" (a closed form, to about 1e-9) or "fine" (a run of many calls).
        path: ``repr`` of the noise schedule.
        samples: one tensor (B, ...) for each seed, on the CPU, in float64.
        error: the estimated root-mean-square error per number of the samples themselves: the median over samples.
        rms: the same as the root mean square over samples, which one sample may rule that ends elsewhere.
        nfe: model calls of the fine run; 0 for "exact".
        pictures: the first samples of the first seed as images in [−1, 1]; None where they are no images.
    """

    kind: str
    path: str
    samples: tuple[Tensor, ...]
    error: float
    rms: float
    nfe: int = 0
    pictures: Tensor | None = None

    def __str__(self) -> str:
        if self.kind == "exact":
            return "exact solution of the probability-flow ODE"
        return (
            f"a run of {self.nfe} model calls (its own error: about {self.error:.1g} in the median, {self.rms:.1g} "
            "root mean square)"
        )


@final
@dataclass
class References:
    """Makes the reference of each path, network and guidance once.

    Attributes:
        kind: "auto", "exact" or "fine"; "auto" is "exact" where the model knows the solution and no guidance acts.
        fine_calls: model calls of a fine run.
        seeds: one run for each.
        calls: counts the model calls of the runs.
        subject: shows the samples.
    """

    kind: str
    fine_calls: int
    seeds: tuple[int, ...]
    calls: Calls
    subject: Subject
    _made: list[tuple[_Solved, Reference | NoiseSamplingError]] = field(default_factory=list)

    def calls_for(self, given: Sequence[tuple[NoisePath, Mapping[str, Any]]]) -> int:
        """The model calls that the references of these paths and arguments of ``sample`` make in all.

        Raises:
            ConfigurationError: "exact" for a model without a closed form, or with guidance.
        """
        fine: list[_Solved] = []
        for path, arguments in given:
            key = self._key(path, arguments)
            if not self._is_exact(arguments) and key not in fine:
                fine.append(key)
        return len(fine) * self._calls_of_one

    @property
    def _calls_of_one(self) -> int:
        return len(self.seeds) * self.fine_calls + max(self.fine_calls // 2, 2)

    def of(self, pipeline: DiffusionPipeline, arguments: Mapping[str, Any]) -> Reference | NoiseSamplingError:
        """The reference of a pipeline's path, or why it has none; paths that differ in their spacing alone share it.

        Args:
            pipeline: has the noise schedule, and the decoder where samples are latents.
            arguments: of ``sample``.
        """
        path, key = pipeline.scheduler, self._key(pipeline.scheduler, arguments)
        for known, made in self._made:
            if known == key:
                return made
        before = self.calls.done
        reference: Reference | NoiseSamplingError
        try:
            found = self._exact(path, arguments) if self._is_exact(arguments) else self._fine(key[0], arguments)
            reference = replace(found, pictures=self.subject.pictures(pipeline, found.samples[0][:SHOWN].float()))
        except NoiseSamplingError as error:  # its entries are compared without an error
            self.calls.finish(before + self._calls_of_one)
            reference = error
        self._made.append((key, reference))
        return reference

    def _key(self, path: NoisePath, arguments: Mapping[str, Any]) -> _Solved:
        """What a solution depends on; exact models of one path are the same."""
        model = 0 if self._is_exact(arguments) else id(arguments["model"])
        return path.spaced(_ANY_SPACING), model, guidance_of(_of_solution(arguments))

    def _is_exact(self, arguments: Mapping[str, Any]) -> bool:
        guided = any(each != ClassifierFree(1.0) for each in guidance_of(arguments))
        exact = isinstance(arguments["model"], ExactModel) and not guided
        if self.kind == "exact" and not exact:
            what = f"{type(arguments['model']).__name__} has no closed form"
            raise ConfigurationError(
                "guidance changes the solution" if guided else what,
                where="reference",
                suggestion="give reference='fine', or an exact model without guidance",
            )
        return exact and self.kind != "fine"

    def _exact(self, path: NoisePath, arguments: Mapping[str, Any]) -> Reference:
        shape, condition = arguments["shape"], arguments.get("condition") or {}
        device, samples = torch.device("cpu"), []
        for seed in self.seeds:
            source = NoiseSource(resolve_keys(seed, None, shape[0]), shape[1:], torch.float32, device)
            x = source.initial().double() * path.prior_std
            samples.append(arguments["model"].reference_solution(x, **condition).cpu().double())
        return Reference("exact", repr(path), tuple(samples), 1e-9, 1e-9)

    def _fine(self, path: NoisePath, arguments: Mapping[str, Any]) -> Reference:
        pipeline = DiffusionPipeline(path, "ddim")  # the plan is given, so that its own sampler does not act
        plans = [fine_plan(path, self.fine_calls), fine_plan(path, max(self.fine_calls // 2, 2))]
        done, arguments = self.calls.done, _of_solution(arguments)

        def ends(plan: SamplingPlan, seed: int) -> Tensor:
            before = self.calls.done
            keywords: dict[str, Any] = {**arguments, **self.calls.callback()}
            x: Tensor = pipeline.sample(plan=plan, seed=seed, **keywords)
            self.calls.finish(before + plan.nfe)
            return x.detach().cpu().double()

        samples = tuple(ends(plans[0], seed) for seed in self.seeds)
        coarse = ends(plans[1], self.seeds[0])
        self.calls.finish(done + self._calls_of_one)
        error = error_by_halving(samples[0], coarse)
        # an eighth of the distance is left where the third-order method converges, see error_by_halving
        rms = root_mean_square(each_error(samples[0], coarse))[0] / 7.0
        return Reference("fine", repr(path), samples, error, rms, plans[0].nfe)


def _of_solution(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of ``sample`` for a solution, which evaluates every difference that CachedGuidance keeps."""
    kept = [each.scale for each in guidance_of(arguments) if isinstance(each, CachedGuidance)]
    return with_scale(arguments, kept[0]) if kept else arguments


def root_mean_square(errors: Tensor) -> tuple[float, float]:
    """The root mean square of errors (n,), and its standard error.

    The standard error of the mean square, carried to the root: se = std(e²) / (2·rms·√n).
    """
    square = errors.square()
    rms = square.mean().sqrt().item()
    if len(errors) < 2 or rms == 0.0:
        return rms, math.nan
    return rms, square.std().item() / (2.0 * rms * math.sqrt(len(errors)))
