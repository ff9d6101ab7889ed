"""diffusers' and k-diffusion's samplers on our exact models, in float64: for parity tests and comparisons.

Both are run as they are installed. What their networks would return is computed from an exact
denoiser at the very noise level that the sampler believes in, so that neither rounded timesteps
nor float32 tables count against them, and their random numbers are replaced by given ones.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch
from torch import Tensor

from noise_scheduler_sampling_system import BaseNoiseScheduler, TimeGrid
from noise_scheduler_sampling_system.config.prediction import quantity
from noise_scheduler_sampling_system.config.registries import SAMPLERS
from noise_scheduler_sampling_system.models.exact import ExactModel
from noise_scheduler_sampling_system.running.loop import Noise

__all__ = [
    "Denoiser", "denoiser", "diffusers_run", "k_diffusion", "k_diffusion_run", "on_grid", "on_own_grid",
    "published", "scheduler_class",
]  # fmt: skip

#: (x, α, σ) ↦ E[x₀ | x] for x = α·x₀ + σ·ε.
Denoiser = Callable[[Tensor, float, float], Tensor]

#: Modules that k-diffusion imports and its samplers do not need.
_STAND_INS = ("torchvision", "torchvision.transforms", "torchdiffeq")
#: Schedulers whose step is given x/α, and whose network x.
_IN_RATIOS = ("Euler", "EulerAncestral", "Heun", "LMS", "KDPM2", "KDPM2Ancestral", "DPMSolverSDE")
#: Schedulers that take the grid from N + 1 evenly spaced times and ask at all but the last.
_BY_INTERVALS = ("DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "SASolver")


def published(sampler: str) -> dict[str, Any]:
    """Options that make a sampler of ours take the published steps, where the guard of the data's spread would not."""
    return {"guarded": False} if SAMPLERS.get(sampler).guards else {}


def denoiser(model: ExactModel) -> Denoiser:
    """The exact denoiser of a model at any noise level of its path, whatever the scale of x there.

    Raises:
        ValueError: when asked for a level that is not on the path.
    """
    path = model.path

    def denoise(x: Tensor, alpha: float, sigma: float) -> Tensor:
        t = path.time(2.0 * math.log(alpha / sigma)) if alpha > 0.0 else path.t_max
        level = path.level(t)
        if abs(level.alpha * sigma - level.sigma * alpha) > 1e-6 * level.sigma * alpha:
            raise ValueError(f"no level with α = {alpha:g} and σ = {sigma:g} on {path!r}")
        return model.denoise(x * (math.hypot(level.alpha, level.sigma) / math.hypot(alpha, sigma)), t)

    return denoise


@functools.lru_cache(maxsize=1)
def k_diffusion() -> ModuleType:
    """``k_diffusion.sampling`` alone: the package around it imports a training environment."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        raise ImportError("k-diffusion is missing: pip install --no-deps k-diffusion==0.1.1.post1")
    package = ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations or [])
    stand_ins = {"k_diffusion": package, **{name: mock.MagicMock() for name in _STAND_INS}}
    before = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module("k_diffusion.sampling")
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(before)


def k_diffusion_run(
    name: str, denoise: Denoiser, sigmas: Sequence[float] | Tensor, x: Tensor, noise: Noise | None = None,
    **options: Any,
) -> Tensor:  # fmt: skip
    """One of k-diffusion's samplers.

    Args:
        name: what follows ``sample_``, e.g. "dpmpp_2m".
        denoise: the exact denoiser.
        sigmas: σ/α from the first level to the last; 0 is the clean end.
        x: the first state divided by α, x₀ + (σ/α)·ε.
        noise: (step, stage) ↦ unit noise, the stages of a step in the order in which it draws.
        options: the sampler's own, e.g. ``eta``; ``n`` of "dpm_fast", of whose sigmas only the ends count.

    Returns:
        The last state, divided by its α.
    """
    sampling, levels = k_diffusion(), torch.as_tensor(sigmas, dtype=x.dtype)
    source = _Draws(noise, x)

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return denoise(x, 1.0, float(sigma[0]))

    sample = getattr(sampling, f"sample_{name}")
    parameters = inspect.signature(sample).parameters
    if "noise_sampler" in parameters:
        options["noise_sampler"] = source.between
    where: list[Any] = [levels]
    if name == "dpm_fast":  # n calls between two levels
        where = [float(levels[levels > 0].min()), float(levels[0]), options.pop("n")]
    with mock.patch.object(torch, "randn_like", source.next), _default_double():
        return sample(model, x, *where, disable=True, **options)


def on_grid(name: str, grid: TimeGrid, **config: Any) -> Any:
    """A diffusers scheduler that visits exactly the levels of a grid.

    Its training schedule is made of the grid's levels, N or N + 1 of them, so that its own way of
    choosing timesteps has no choice. The ᾱ that it believes in is that of σ/α.

    Args:
        name: the class without ``Scheduler`` and ``Discrete``, e.g. "Euler", "DPMSolverMultistep".
        grid: levels with α > 0; it ends at the clean sample, unless ``_BY_INTERVALS`` has the name.
        config: the scheduler's own settings.

    Raises:
        ValueError: a scheduler that cannot end there.
    """
    ratios = [level.noise_to_signal for level in grid.levels]
    by_intervals = name in _BY_INTERVALS
    if name == "IPNDM":  # its "betas" are σ
        return _prepared(name, grid.steps, trained_betas=[r / math.hypot(1.0, r) for r in ratios], **config)
    if ratios[-1] > 0.0 and not by_intervals:
        raise ValueError(f"{name} ends at the clean sample")
    if by_intervals:
        low = ratios[-1] or 0.5 * ratios[-2]  # a level that is not visited where the run ends at 0
        if name in ("DEISMultistep", "SASolver"):
            if not ratios[-1]:
                raise ValueError(f"{name} does not end at the clean sample")
        else:
            config.setdefault("final_sigmas_type", "sigma_min" if ratios[-1] else "zero")
        if name != "DPMSolverSinglestep":
            config["timestep_spacing"] = "linspace"
        table = [*ratios[:-1], low]
    else:
        table, config["timestep_spacing"] = ratios[:-1], "trailing"
    alpha_bar = 1.0 / (1.0 + np.square(table[::-1]))
    betas = 1.0 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
    return _prepared(name, grid.steps, trained_betas=betas.tolist(), num_train_timesteps=len(betas), **config)


def on_own_grid(name: str, path: BaseNoiseScheduler | None, steps: int, **config: Any) -> Any:
    """A diffusers scheduler with the betas of a path (None: its own schedule), on N steps of its own choice."""
    if path is not None:
        config = {"trained_betas": path.betas.tolist(), "num_train_timesteps": len(path.betas), **config}
    return _prepared(name, steps, **config)


def diffusers_run(
    scheduler: Any, denoise: Denoiser, x: Tensor, noise: Noise | None = None, **step_options: Any
) -> Tensor:
    """diffusers' own loop.

    Args:
        scheduler: one whose timesteps are set: of :func:`on_grid` or :func:`on_own_grid`.
        denoise: the exact denoiser.
        x: the first state α·x₀ + σ·ε, on the straight path for flow-matching schedulers.
        noise: (step, stage) ↦ unit noise. All draws of a step are its stage 0, except that
            DPMSolverSDE's are 0 and 1.
        step_options: for ``step``, e.g. ``eta``.

    Returns:
        The last state in the coordinates of ``x`` (for schedulers that work with x/α: divided by α).
    """
    name, source = short_name(scheduler), _Draws(noise, x)
    calls, order = len(scheduler.timesteps), getattr(scheduler, "order", 1)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # karras grids repeat timesteps, which it would look up
    if name == "DPMSolverSDE":
        scheduler.noise_sampler = source.between
    if name in _IN_RATIOS:
        x = x * float(scheduler.sigmas[0] ** 2 + 1.0) ** 0.5
    module = type(scheduler).__module__
    draw = mock.patch(f"{module}.randn_tensor", source.now, create=True)
    with _double(module), draw, _default_double(), torch.no_grad():
        for i in range(calls):
            t, source.step = scheduler.timesteps[i], i // order
            scheduler.is_scale_input_called = True
            output = _network(scheduler, name, i, t, denoise, x)
            x = scheduler.step(output, t, x, **step_options).prev_sample
    return x


def scheduler_class(name: str) -> type[Any]:
    """diffusers' class of this short name."""
    found: type[Any] | None = getattr(diffusers, f"{name}Scheduler", None)
    return found or getattr(diffusers, f"{name}DiscreteScheduler")


def short_name(scheduler: Any) -> str:
    """The class without ``Scheduler`` and ``Discrete``."""
    return type(scheduler).__name__.removesuffix("Scheduler").removesuffix("Discrete")


def _network(scheduler: Any, name: str, i: int, t: Tensor, denoise: Denoiser, x: Tensor) -> Tensor:
    """What a perfect network of the kind that the scheduler wants returns about its state before call i."""
    config = scheduler.config
    kind = config.get("prediction_type", "flow_prediction" if name.startswith("FlowMatch") else "v_prediction")
    if name.startswith("EDM"):
        sigma = float(scheduler.sigmas[i])
        # affine in the output, which is read off
        offset = scheduler.precondition_outputs(x, torch.zeros_like(x), sigma)
        factor = scheduler.precondition_outputs(x, torch.ones_like(x), sigma) - offset
        return (denoise(x, 1.0, sigma) - offset) / factor
    alpha, sigma = _level(scheduler, name, i, t)
    if name in _IN_RATIOS:
        x = alpha * x
    clean = denoise(x, alpha, sigma)
    of_clean, of_noise = quantity(kind, alpha, sigma)
    return of_clean * clean + of_noise * (x - alpha * clean) / sigma


def _level(scheduler: Any, name: str, i: int, t: Tensor) -> tuple[float, float]:
    """α and σ that the scheduler believes its state to have before call i."""
    if name.startswith("FlowMatch") or scheduler.config.get("use_flow_sigmas"):
        sigma = float(scheduler.sigmas[i])
        return 1.0 - sigma, sigma
    if name == "IPNDM":
        return float(scheduler.alphas[i]), float(scheduler.betas[i])
    if name in _IN_RATIOS:  # it divides by √(1 + σ²)
        alpha = float(scheduler.scale_model_input(torch.ones((), dtype=torch.float64), t))
        return alpha, math.sqrt((1.0 - alpha) * (1.0 + alpha))
    if hasattr(scheduler, "sigmas"):
        ratio = float(scheduler.sigmas[i])
        return 1.0 / math.hypot(1.0, ratio), ratio / math.hypot(1.0, ratio)
    alpha_bar = float(scheduler.alphas_cumprod[int(t)])
    return math.sqrt(alpha_bar), math.sqrt(1.0 - alpha_bar)


def _prepared(name: str, steps: int | None, **config: Any) -> Any:
    """A scheduler in float64 with its timesteps set."""
    cls = scheduler_class(name)
    timesteps = {key: config.pop(key) for key in ("timesteps", "sigmas") if key in config}
    defaults = {"clip_sample": False, "set_alpha_to_one": True}
    accepted = inspect.signature(cls.__init__).parameters
    with _double(cls.__module__), _default_double(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of DPM-Solver without ++, which is to go
        scheduler = cls(**{key: value for key, value in defaults.items() if key in accepted}, **config)
        if timesteps:
            scheduler.set_timesteps(**timesteps)
        else:
            scheduler.set_timesteps(steps)
    return scheduler


class _Draws:
    """Given noise in the order in which a sampler asks for it."""

    def __init__(self, noise: Noise | None, like: Tensor) -> None:
        self._noise = noise or (lambda step, stage: torch.zeros_like(like))
        self._seen: dict[float, int] = {}
        self.step = -1

    def now(self, *_: Any, **__: Any) -> Tensor:
        """That of the current step."""
        return self._noise(self.step, 0)

    def next(self, *_: Any, **__: Any) -> Tensor:
        """That of the next step."""
        self.step += 1
        return self.now()

    def between(self, sigma: Any, sigma_next: Any) -> Tensor:
        """That of a diffusion from σ; the first, second, ... draw from one σ is stage 0, 1, ..."""
        stage = self._seen[float(sigma)] = self._seen.get(float(sigma), -1) + 1
        return self._noise(list(self._seen).index(float(sigma)), stage)


class _Wide:
    """A module (NumPy, PyTorch) in which float32 is float64."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, "float64" if name == "float32" else name)


@contextmanager
def _double(module: str) -> Iterator[None]:
    """While a scheduler's module runs, its float32 is float64."""
    loaded = sys.modules[module]
    wide = {name: _Wide(getattr(loaded, name)) for name in ("np", "torch") if hasattr(loaded, name)}
    with mock.patch.multiple(loaded, **wide) if wide else nullcontext():
        yield


@contextmanager
def _default_double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
