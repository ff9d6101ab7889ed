"""The training objective: the levels, the noise, the target and the weight of a denoising loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from ..config.prediction import prediction_named
from ..config.registries import DENSITIES, NOISES, WEIGHTINGS
from ..running.model_adapter import ModelAdapter
from ..schedules.path import NoisePath
from ..schedules.times import as_times
from ..support.argument_checks import checked_condition, checked_count, checked_flag, checked_number
from ..support.errors import ConfigurationError, shown
from ..support.registry import did_you_mean
from ..support.values import ByValue
from .choice import chosen
from .condition_dropout import null_of, with_dropped
from .coupling import COUPLINGS, coupled_noise, refuse_missing_scipy
from .density import Density, DensityOnPath
from .draws import Draws, Purpose
from .importance import Importance
from .noises import TrainingNoise
from .terminal import TerminalSNR, check_terminal_snr
from .training_batch import TrainingBatch
from .weightings import Weighting, loss_weight

__all__ = ["TrainingObjective"]


@final
@dataclass(frozen=True, eq=False)
class TrainingObjective(ByValue):
    """A denoising loss on a path: what is drawn, what the network should return, and how much each error counts.

    Its attributes are its arguments; names and mappings have become objects.

    The loss is E over levels t of w(t)·‖prediction − target‖², per entry. It is a value: to change it, use
    ``dataclasses.replace``. All random numbers are keyed by (seed, step, sample), as those of samplers are, so batch
    size, device and a restart do not change them.

    Args:
        path: the forward process (``pipeline.scheduler``, ``FlowPath()``).
        prediction_type: what the network returns; None: that of the path's config.
        density: of the levels: a name, ``{"name": "log_normal", "mean": -1.2}``, or a :class:`.Density`.
        weighting: by log SNR: a name, a mapping or a :class:`.Weighting`; None: every squared error of the network's
            own output counts 1.
        over: the density that the loss is an expectation over. None: that of the draws (of "importance", its base).
            Otherwise the draws are importance samples of it: ``weight`` holds the ratio of the densities.
        noise: a name, a mapping or a :class:`.TrainingNoise`.
        input_perturbation: γ: the network sees α·x₀ + σ·(ε + γ·ξ), with more noise ξ, and its target is that of ε
            (Ning et al. 2023, arXiv 2301.11706, with 0.1).
        coupling: "independent", or "optimal": minibatch optimal transport (:func:`.coupled_noise`).
        condition_dropout: the part of the samples whose condition becomes the null condition; 0.1 is usual for
            classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).
        stratified: whether the levels of a batch are spread evenly over the density (Kingma et al. 2021,
            arXiv 2107.00630), which lowers the variance of the loss; each level alone has the same law.
        frame_dim: the dimension of the samples that counts the T frames of times (B, T).

    Raises:
        ConfigurationError: an unknown name, an option out of range, a density without levels on the path; ε as the
            prediction of a schedule with betas whose last timestep has no signal.

    Examples:
        >>> import torch
        >>> from noise_scheduler_sampling_system.schedules import FlowPath
        >>> from noise_scheduler_sampling_system.training import TrainingObjective
        >>> objective = TrainingObjective(FlowPath(), density="logit_normal", weighting="min_snr")
        >>> objective.draw(4, seed=0).shape
        torch.Size([4])
        >>> network = torch.nn.Linear(2, 2)
        >>> objective.loss(lambda x, t: network(x), torch.ones(4, 2), seed=0, step=0).requires_grad
        True
    """

    path: NoisePath
    prediction_type: str | None = None
    density: Density | str | Mapping[str, Any] = "uniform"
    weighting: Weighting | str | Mapping[str, Any] | None = None
    over: Density | str | Mapping[str, Any] | None = None
    noise: TrainingNoise | str | Mapping[str, Any] = "white"
    input_perturbation: float = 0.0
    coupling: str = "independent"
    condition_dropout: float = 0.0
    stratified: bool = True
    frame_dim: int = 1

    def __post_init__(self) -> None:
        density = chosen(DENSITIES, Density, self.density, "density")
        density.on(self.path)  # checks both
        kind = _checked_prediction(self.prediction_type, self.path)
        over = density.base if self.over is None and isinstance(density, Importance) else self.over
        if self.coupling not in COUPLINGS:
            raise ConfigurationError(
                f"got {shown(self.coupling)}", where="coupling", suggestion=did_you_mean(self.coupling, COUPLINGS)
            )
        if self.coupling == "optimal":
            refuse_missing_scipy()
        resolved = {
            "path": self.path.predicting(kind), "prediction_type": kind, "density": density,
            "over": None if over is None else chosen(DENSITIES, Density, over, "over"), "weighting": self._weighting,
            "noise": chosen(NOISES, TrainingNoise, self.noise, "noise"),
            "input_perturbation": checked_number(self.input_perturbation, "input_perturbation", 0.0, 10.0),
            "condition_dropout": checked_number(self.condition_dropout, "condition_dropout", 0.0, 1.0),
            "stratified": checked_flag(self.stratified, "stratified"),
            "frame_dim": checked_count(self.frame_dim, "frame_dim", 16),
        }  # fmt: skip
        for name, value in resolved.items():
            object.__setattr__(self, name, value)
        if self._over is not None:
            self._refuse_uncovered(self._over)

    @functools.cached_property
    def levels(self) -> DensityOnPath:
        """The density of the draws, as one of the path's times."""
        density: Density = chosen(DENSITIES, Density, self.density, "density")
        return density.on(self.path)

    @functools.cached_property
    def _over(self) -> DensityOnPath | None:
        if self.over is None:
            return None
        over: Density = chosen(DENSITIES, Density, self.over, "over")
        return over.on(self.path)

    @property
    def _weighting(self) -> Weighting | None:
        return None if self.weighting is None else chosen(WEIGHTINGS, Weighting, self.weighting, "weighting")

    @property
    def terminal(self) -> TerminalSNR:
        """Whether training reaches the level that a sampler starts from (:func:`.check_terminal_snr`)."""
        return check_terminal_snr(self.path, None, self._weighting)

    def draw(
        self, batch: int, seed: int | None = None, *, step: int = 0, frames: int | None = None, first_index: int = 0,
        whole_batch: int | None = None,
    ) -> Tensor:  # fmt: skip
        """Times from the density, shape (B,), or (B, T) for T frames; float64 on the CPU.

        Args:
            batch: B.
            seed: a whole number; None draws one from PyTorch's global generator.
            step: of the training; each step has its own draws.
            frames: T; each frame has a level of its own.
            first_index: the index of the first sample in the whole batch, where B samples are a part of it (one of
                several GPUs, or of several parts whose gradients are added).
            whole_batch: the size of the whole batch; then each of its samples has a stratum of its own.

        Raises:
            ConfigurationError: numbers out of range.
        """
        return self._times(Draws.of(batch, seed, step, first_index, whole_batch), frames)

    def weight(self, t: float | Tensor) -> Tensor:
        """The weight of the squared error at times, in float64 on the CPU, of their shape."""
        times = torch.as_tensor(t, dtype=torch.float64).cpu()
        log_snr = self.path.log_snr(times)
        alpha, sigma = self.path.alpha_and_sigma(times)
        weight = loss_weight(self._weighting, self.path.config.prediction_type, alpha, sigma, log_snr)
        return weight if self._over is None else weight * self._ratio(times)

    def parts(
        self, x0: Tensor, noise: Tensor, t: float | Tensor, condition: Mapping[str, Any] | None = None,
        *, perturbation: Tensor | None = None,
    ) -> TrainingBatch:  # fmt: skip
        """The parts of a step with noise and times of one's own.

        Args:
            x0: clean samples, shape (B, ...).
            noise: of the same shape.
            t: one time; B times; or (B, T) times, one for each frame.
            condition: keywords of the network, passed on.
            perturbation: γ·ξ, which the network sees in addition and the target does not know.

        Raises:
            ConfigurationError: shapes that do not fit, or a time outside the path.
        """
        times = as_times(x0, noise, t, self.frame_dim)
        if times.ndim == 0:
            times = times.expand(x0.shape[0])
        exact = times.long() if self.path.discrete and _whole(times) else times
        placed = exact.to(x0.device) if not exact.is_floating_point() else _exact_on(x0.device, exact)
        seen = noise if perturbation is None else noise + perturbation
        wide = torch.promote_types(torch.float32, x0.dtype)
        return TrainingBatch(
            noisy=self.path.add_noise(x0, seen, placed, frame_dim=self.frame_dim),
            t=placed if not placed.is_floating_point() else placed.to(wide),
            target=self.path.target(x0, noise, placed, frame_dim=self.frame_dim),
            weight=self.weight(exact).to(x0.device, wide), noise=noise, condition=checked_condition(condition),
            frame_dim=self.frame_dim,
        )  # fmt: skip

    def prepare(
        self, x0: Tensor, condition: Mapping[str, Any] | None = None, *, model: Any = None,
        null_condition: Mapping[str, Any] | None = None, seed: int | None = None, step: int | None = None,
        frames: bool = False, first_index: int = 0, whole_batch: int | None = None,
    ) -> TrainingBatch:  # fmt: skip
        """The parts of a step: draws times and noise, couples them, and drops conditions.

        Args:
            x0: clean samples, shape (B, ...).
            condition: keywords of the network; tensors have one row a sample, or one for all.
            model: the network, whose ``null_condition`` is asked where conditions are dropped.
            null_condition: the entries that stand for "no condition"; None: those of the model, or zeros.
            seed, step: the keys of all draws; a seed needs a step. Without both, PyTorch's global generator.
            frames: whether each frame of ``frame_dim`` has a level of its own.
            first_index, whole_batch: as for :meth:`draw`.

        Raises:
            ConfigurationError: what does not fit together; a seed without a step.
        """
        if not isinstance(x0, Tensor) or x0.ndim < 2 or not x0.is_floating_point():
            raise ConfigurationError(
                f"got {shown(x0)}", where="x0", suggestion="give clean samples as a floating-point tensor (B, ...)"
            )
        if (seed is None) != (step is None):
            raise ConfigurationError(
                f"seed is {seed} and step is {step}",
                where="step" if step is None else "seed",
                why="a seed alone would give every step the same noise, and a step alone has no meaning",
                suggestion="give both, seed=0 and step=the number of the step, or neither",
            )
        draws = Draws.of(len(x0), seed, step or 0, first_index, whole_batch, x0.device, x0.dtype)
        kept = checked_condition(condition)
        if self.condition_dropout and kept:
            dropped = draws.uniform((), Purpose.DROPOUT) < self.condition_dropout
            kept = with_dropped(kept, null_of(model, kept, null_condition), dropped)
        t = self._times(draws, self._frames_of(x0) if frames else None)
        shape = tuple(x0.shape[1:])
        noise = chosen(NOISES, TrainingNoise, self.noise, "noise").draw(draws, shape)
        if self.coupling == "optimal":
            noise = coupled_noise(x0, noise)
        more = self.input_perturbation
        added = more * draws.normal(shape, Purpose.PERTURBATION) if more else None
        return self.parts(x0, noise, t, kept, perturbation=added)

    def loss(
        self, model: Callable[..., Any], x0: Tensor, condition: Mapping[str, Any] | None = None, **keywords: Any
    ) -> Tensor:
        """The loss of a network for a batch, a single value with gradients.

        Args:
            model: any callable (x, t, **condition), as for a pipeline.
            x0, condition: as for :meth:`prepare`.
            keywords: further ones of :meth:`prepare`: ``seed``, ``step``, ``null_condition``, ``frames``, ...

        Raises:
            ConfigurationError: as :meth:`prepare`, or a condition that the model does not take.
            ModelOutputError: an output of another shape than the samples'.
        """
        call = ModelAdapter(model, trains=True)
        call.refuse_call(checked_condition(condition), "condition")
        batch = self.prepare(x0, condition, model=model, **keywords)
        return batch.loss(call(batch.noisy, batch.t, batch.condition))

    def observed(self, batch: TrainingBatch, output: Tensor) -> TrainingObjective:
        """The objective after a step, with the density "importance" moved towards levels of large loss.

        Args:
            batch: of the step.
            output: of the network for it.

        Raises:
            ConfigurationError: the density does not follow the loss.
        """
        density = self.levels.density
        if not isinstance(density, Importance):
            raise ConfigurationError(
                f"{density!r} does not follow the loss", where="density", suggestion='density="importance"'
            )
        t = batch.t.detach().cpu().double()
        losses = (batch.weight * batch.errors(output)).detach().cpu().double() / self._ratio(t)
        y = self.levels.axis.place(t.clamp(self.path.t_clean, self.path.t_max))
        return replace(self, density=density.observed(y, losses, self.levels.axis))

    def _times(self, draws: Draws, frames: int | None) -> Tensor:
        count = None if frames is None else checked_count(frames, "frames")
        return self.levels.times(draws.levels(count, stratified=self.stratified))

    def _frames_of(self, x0: Tensor) -> int:
        if self.frame_dim >= x0.ndim:
            raise ConfigurationError(
                f"samples of shape {tuple(x0.shape)} have no dimension {self.frame_dim}",
                where="frame_dim",
                suggestion="give the dimension that counts frames",
            )
        return x0.shape[self.frame_dim]

    def _ratio(self, t: Tensor) -> Tensor:
        """The density that the loss is over, over that of the draws."""
        if self._over is None:
            return torch.ones_like(t)
        return self._over.log_ratio(self.levels, t).exp()

    def _refuse_uncovered(self, over: DensityOnPath) -> None:
        """Raise where the loss is over levels that are not drawn."""
        u = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
        ratio = over.log_ratio(self.levels, over.times(u))
        if bool(torch.isposinf(ratio).any() | torch.isnan(ratio).any()):
            raise ConfigurationError(
                f"{self.density!r} does not draw some levels of {over.density!r}",
                where="over",
                why="no weight can make up for levels that are never drawn",
                suggestion="draw from a density that reaches all levels of the other",
            )


def _checked_prediction(given: Any, path: NoisePath) -> str:
    """The prediction type of an objective.

    Raises:
        ConfigurationError: an unknown one, or one that a level of the path does not determine.
    """
    kind = prediction_named(path.config.prediction_type if given is None else given)
    if kind == "epsilon" and path.discrete and path.level(path.t_max).alpha == 0.0:
        raise ConfigurationError(
            "the last timestep has no signal, so ε does not determine x₀ there",
            where="prediction_type",
            why="a network would learn to return its input (Lin et al. 2023, arXiv 2305.08891)",
            suggestion="train 'v_prediction' or 'sample', or leave rescale_betas_zero_snr out",
        )
    return kind


def _exact_on(device: torch.device, t: Tensor) -> Tensor:
    """Times in float64, or in float32 on Apple's MPS, which has no float64."""
    return t.to(device, torch.float32 if device.type == "mps" else torch.float64)


def _whole(t: Tensor) -> bool:
    return not t.is_floating_point() or bool((t == t.round()).all())
