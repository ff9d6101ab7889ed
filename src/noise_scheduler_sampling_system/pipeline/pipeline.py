"""A noise schedule and a sampler, ready to generate samples."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, overload

import torch
from torch import Tensor

from ..config.choices import SamplingMethod
from ..config.keyword_advice import keywords_of, refuse_unknown
from ..config.registries import SAMPLERS
from ..config.settings import NoiseSchedulerConfig
from ..grids.frame_grid import FrameGrid
from ..grids.time_grid import TimeGrid, make_grid
from ..guidance.base import Guidance
from ..plans.frame_plan import FramePlan
from ..plans.plan import SamplingPlan
from ..plans.plan_set import PlanSet
from ..running.callbacks import Callback
from ..running.noise import Seed
from ..running.results import RunState, SamplingResult, SamplingStep
from ..samplers.base import BaseSampler
from ..schedules.path import Level, NoisePath
from ..support.drawn import Drawn
from ..support.errors import ConfigurationError
from ..support.hooks import Hook
from ..support.registry import Registry
from ..support.values import ByValue
from .compiled import Setup
from .compiled_run import CompiledRun, compiled_run
from .execute import execute
from .prepare import prepare
from .request import DEFAULT_SCALE, Generators, Request
from .resume import continued
from .stream import steps_of

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Never, Unpack

    from .keyword_types import GenerateKeywords, RunKeywords

__all__ = ["CALIBRATE", "FROM_DIFFUSERS", "PROMPT_KEYWORDS", "DiffusionPipeline"]

#: Makes updates atomic. A lock of the module, since a pipeline with a lock could not be copied or pickled.
_UPDATING = threading.Lock()

#: Makes a pipeline from one of diffusers; the integration provides it.
FROM_DIFFUSERS: Hook[Callable[[Any, Any, Mapping[str, Any]], DiffusionPipeline]] = Hook(
    "DiffusionPipeline.from_diffusers"
)
#: Fits a plan to a model; the package ``calibration`` provides it.
CALIBRATE: Hook[Callable[..., Any]] = Hook("DiffusionPipeline.calibrate")
#: Arguments of ``calibrate`` for pipelines made by ``from_diffusers``.
PROMPT_KEYWORDS: Final = ("prompt", "negative_prompt", "class_labels", "height", "width")


class DiffusionPipeline(ByValue, Drawn):
    """Generates samples: config → noise schedule → grid → sampler → plan → run.

    It holds no state of a run, and is thread-safe.

    Args:
        config: the settings, or a noise schedule; default: :class:`NoiseSchedulerConfig`'s.
        method: a :class:`SamplingMethod`, its value, a registered name, a sampler class, or a
            sampler object.
        sampler_options: the sampler's own options, e.g. ``eta``.

    Raises:
        ConfigurationError: an unknown name or option, or settings that do not go together.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
        >>> pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="cosine"), "dpmpp_2m")
        >>> digits = pipeline.sample(shape=(4, 1, 8, 8), num_inference_steps=10, seed=0)
        >>> tuple(digits.shape)
        (4, 1, 8, 8)
    """

    #: Whether the pipeline has a network of its own, as those made by :meth:`from_diffusers` have.
    has_own_model: ClassVar[bool] = False

    def __init__(
        self,
        config: NoiseSchedulerConfig | NoisePath | None = None,
        method: SamplingMethod | str | type[BaseSampler] | BaseSampler = SamplingMethod.DDIM,
        **sampler_options: Any,
    ) -> None:
        self._setup = Setup.make(config or NoiseSchedulerConfig(), method, sampler_options)
        self._method = method

    def __setstate__(self, state: dict[str, Any]) -> None:
        # version 1.3 kept the parts of a pipeline of diffusers here, and None where there were none
        self.__dict__.update({name: value for name, value in state.items() if (name, value) != ("_borrowed", None)})

    @classmethod
    def from_diffusers(
        cls, pipe: Any, method: SamplingMethod | str | type[BaseSampler] | None = None, **options: Any
    ) -> DiffusionPipeline:
        """A pipeline that runs the network, encoders and decoder of a pipeline of diffusers, for :meth:`generate`.

        It knows Stable Diffusion 1, 2, XL and 3, FLUX.1 and FLUX.2, Qwen-Image, PixArt, DiT, unconditional U-Nets, Wan
        and LTX. Other pipelines use the samplers through ``integrations.diffusers.PlanScheduler``.

        Args:
            pipe: e.g. a ``StableDiffusionPipeline``. Its parts are used in place and not changed.
            method: as for the class. ``None``: the same method as the pipeline's scheduler, at the same levels.
            options: other values for fields of :class:`NoiseSchedulerConfig` ("timestep_spacing"), and
                options of the sampler.

        Raises:
            ConfigurationError: an unknown pipeline or scheduler, or settings that do not go together.
        """
        return FROM_DIFFUSERS.function(pipe, method, options)

    @property
    def scheduler(self) -> NoisePath:
        """The noise schedule."""
        return self._setup.scheduler

    @property
    def run_path(self) -> NoisePath:
        """The noise schedule of a run: ``scheduler``, which FLUX.1's pipelines shift for the size of the images."""
        return self.scheduler

    @property
    def sampler(self) -> BaseSampler:
        """The sampler."""
        return self._setup.sampler

    @property
    def config(self) -> NoiseSchedulerConfig:
        """The settings."""
        return self._setup.scheduler.config

    @property
    def method(self) -> str:
        """The sampler's name: as given, or as registered, or its class's."""
        if isinstance(self._method, str | Enum):
            return Registry.key(self._method)
        return SAMPLERS.name_of(type(self.sampler)) or type(self.sampler).__name__

    @property
    def sampler_options(self) -> dict[str, Any]:
        """The options of the sampler: those given, and the defaults of the others."""
        setup = self._setup
        return {**setup.sampler.options, **setup.options}

    def update_config(self, **changes: Any) -> NoiseSchedulerConfig:
        """Change settings. They are validated together: all of them change, or none and an error is raised."""
        with _UPDATING:
            setup = self._setup.changed(self._method, changes)
            self._setup = setup
        return setup.scheduler.config

    def grid(self, num_inference_steps: int = 50, *, start: float | None = None, **unknown: Never) -> TimeGrid:
        """The noise levels that a run of N steps visits.

        Args:
            num_inference_steps: N, the number of intervals, whatever the start.
            start: the time of the first level, for image-to-image; default: pure noise.

        Raises:
            ConfigurationError: a number of steps that the spacing does not have, or an unknown keyword.
        """
        if unknown:
            refuse_unknown(unknown, keywords_of(DiffusionPipeline.grid))
        setup = self._setup
        if start is None:
            return setup.sampler.grid(num_inference_steps)
        return make_grid(setup.scheduler, num_inference_steps, start=start)

    @overload
    def plan(
        self, num_inference_steps: int = ..., *, timesteps: Sequence[float] | None = ..., grid: TimeGrid | None = ...
    ) -> SamplingPlan: ...  # fmt: skip

    @overload
    def plan(self, num_inference_steps: int = ..., *, grid: FrameGrid) -> FramePlan: ...  # fmt: skip

    def plan(
        self,
        num_inference_steps: int = 50,
        *,
        timesteps: Sequence[float] | None = None,
        grid: TimeGrid | FrameGrid | None = None,
        **unknown: Never,
    ) -> SamplingPlan | FramePlan:
        """The table that a run of N steps (or on given timesteps, on a grid, or on a grid of frames) follows.

        Raises:
            ConfigurationError: the sampler has only ``step`` or cannot run so, or an unknown keyword.
        """
        if unknown:
            refuse_unknown(unknown, keywords_of(DiffusionPipeline.plan))
        sampler = self._setup.sampler
        if not sampler.writes_plans:
            return sampler.plan(num_inference_steps)  # which raises, and says why
        return self._setup.run_on(num_inference_steps, timesteps, grid).plan

    @overload
    def sample(
        self, model: Callable[..., Any] | None = ..., shape: Sequence[int] | None = ..., num_inference_steps: int = ...,
        guidance_scale: float = ..., classifier_free_guidance: bool = ..., *, return_result: Literal[False] = ...,
        **run: Unpack[RunKeywords],
    ) -> Tensor: ...  # fmt: skip

    @overload
    def sample(
        self, model: Callable[..., Any] | None = ..., shape: Sequence[int] | None = ..., num_inference_steps: int = ...,
        guidance_scale: float = ..., classifier_free_guidance: bool = ..., *, return_result: Literal[True],
        **run: Unpack[RunKeywords],
    ) -> SamplingResult: ...  # fmt: skip

    @overload
    def sample(
        self, model: Callable[..., Any] | None = ..., shape: Sequence[int] | None = ..., num_inference_steps: int = ...,
        guidance_scale: float = ..., classifier_free_guidance: bool = ..., *, return_result: bool,
        **run: Unpack[RunKeywords],
    ) -> Tensor | SamplingResult: ...  # fmt: skip

    def sample(
        self,
        model: Callable[..., Any] | None = None,
        shape: Sequence[int] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = DEFAULT_SCALE,
        classifier_free_guidance: bool = True,
        *,
        condition: Mapping[str, Any] | None = None,
        null_condition: Mapping[str, Any] | None = None,
        guidance: Guidance | Sequence[Guidance] | None = None,
        seed: Seed | None = None,
        generator: Generators | None = None,
        first_index: int = 0,
        initial_noise: Tensor | None = None,
        initial_sample: Tensor | None = None,
        start: float | Level | None = None,
        strength: float | None = None,
        timesteps: Sequence[float] | None = None,
        grid: TimeGrid | FrameGrid | None = None,
        plan: SamplingPlan | PlanSet | FramePlan | None = None,
        context: Tensor | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
        noise: str = "independent",
        noise_device: str = "cpu",
        noise_ahead: bool | None = None,
        round_timesteps: bool = False,
        callback: Callback | None = None,
        progress: bool = False,
        early_stopping: float | None = None,
        profile: bool | str | os.PathLike[str] = False,
        max_batch_size: int | None = None,
        differentiable: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        every: int | None = None,
        return_result: bool = False,
        **unknown: Never,
    ) -> Tensor | SamplingResult:
        """Generate samples.

        Args:
            model: any callable (x, t, **condition) with x of shape (B, ...) and t of shape
                (B,): a module, a diffusers network, a function. ``None``: the embedded exact
                model of handwritten digits, for any image shape.
            shape: of the whole batch, (B, ...); optional with ``initial_noise``.
            num_inference_steps: N, intervals of the grid. The run makes ``plan(N).nfe`` model calls.
            guidance_scale: s in u + s·(c − u); it acts only where a condition is given.
            classifier_free_guidance: False evaluates the conditional branch alone.
            guidance: replaces these two: one guidance or several, from left to right, e.g.
                ``[ClassifierFree(7.5), Interval(0.3, 5.0)]``; see :mod:`.guidance`.
            condition: keywords for the model. A tensor has B rows or one; :class:`~.guidance.Unbatched` marks one
                without a batch dimension.
            null_condition: the entries that differ in the unconditional branch. ``None``: the result of the
                model's ``null_condition`` method, or zeros in place of embeddings.
            seed: one whole number for the batch, whose samples are numbered, or one for each sample. Sample i of
                seed s is the same in every batch size and on every device (except with ``adaptive``, where the
                samples of a batch share their steps).
            generator: draws the seed (one, or one for each sample); default: PyTorch's global generator.
            first_index: the number of the batch's first sample among those of the seed: ``shape=(100, ...),
                first_index=500`` are samples 500 to 599, the same as in a batch of all. It needs one seed.
            initial_noise: unit-variance noise of the batch's shape, which replaces that of the seed: a tensor, an
                array or nested lists.
            initial_sample: the state to start from, unscaled. Its noise level is that of ``start`` or
                ``strength``, or the first one of ``timesteps``, the grid or the plan. For image-to-image it is
                ``scheduler.add_noise(image, noise, start)``.
            start: its time, or its level (:func:`start_at`). All N steps go from there to the clean sample.
            strength: replaces ``start``: the share of the schedule from there to the data, in (0, 1].
                ``initial_sample`` is then the image with the noise of ``start_at(scheduler, strength=...).t``.
            timesteps: the times to visit, in place of N times of the config's spacing.
            grid: the levels to visit, where the run also ends: ``pipeline.grid(N, start=t)``,
                ``TimeGrid.from_sigmas(...)``, half of a ``split``. With a :class:`FrameGrid` every frame has its own
                levels, and the model is given t of shape (B, T).
            plan: replaces the sampler's plan. A :class:`PlanSet` gives its plan of ``num_inference_steps`` model
                calls.
            context: the frames that a :class:`FrameGrid` says are known, in order, shape (B or 1, ...) with their
                number in the dimension of frames. They are returned bit for bit.
            device: a device, or "auto": that of the model, else CUDA, then MPS, then the CPU.
            dtype: of the state and the samples; default: float32, or float64 for a model in float64.
            noise: of stochastic samplers: "independent" from step to step, or "brownian": increments of one
                Brownian motion for each sample, the same for every number of steps and every sampler.
            noise_device: "cpu": the numbers of the noise are made on the host, and are the same for every device.
                "cuda": the GPU of the run makes other numbers from the same seeds, at no cost for the host
                (docs/seeds.md); it needs Triton.
            noise_ahead: whether a thread draws the next noise of the host while the model runs; default: on CUDA.
                The numbers stay the same.
            round_timesteps: pass the nearest whole timestep to the model, for networks with a table of
                embeddings; the plan keeps its real times.
            callback: is called with a :class:`SamplingStep` after every step, whose tensors are copies. If it
                returns True or raises StopIteration, the run ends and ``step.x`` is the result (where the batch
                is split, for each part by itself). Its other exceptions are raised unchanged.
            progress: show a progress bar.
            early_stopping: tolerance on the root-mean-square change of a sample's predicted clean sample from
                step to step, once signal outweighs noise. A sample that changes less is done; the run ends when
                all samples are done.
            profile: measure time and memory, for the log and for ``return_result``; a path also writes a
                torch-profiler trace there.
            max_batch_size: the most samples to run at a time. When memory runs out, the batch is halved and
                repeated; the samples stay the same (with ``adaptive``: within its tolerance).
            differentiable: record gradients; default: no gradients.
            checkpoint: a ``.safetensors`` file that is written on the way. If the call fails, the same call goes on
                from it, bit for bit; the exception names it. It is removed when all samples are done.
            every: steps between two writes of the checkpoint, default 10: the most that a failure loses.
            return_result: return a :class:`SamplingResult` in place of the samples alone.

        Returns:
            The samples, shape (B, ...), or a :class:`SamplingResult`.

        Raises:
            ConfigurationError: an argument that cannot work; raised before the first model call.
            ModelOutputError: the model returned a wrong shape, NaN or Inf.
            DeviceError, OutOfMemoryError: the device is not available, or one sample does not fit.
            NumericsError: the result is not finite.
            InterruptedRunError: Ctrl-C, where ``max_batch_size`` splits the batch and a part is done; it is a
                ``KeyboardInterrupt`` that holds the samples of this part.
        """
        if unknown:
            refuse_unknown(unknown, keywords_of(DiffusionPipeline.sample))
        request = Request.of(locals())
        return execute(prepare(self._setup, request, own_model=self.has_own_model), request)

    def compile(
        self,
        model: Callable[..., Any] | None = None,
        shape: Sequence[int] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = DEFAULT_SCALE,
        classifier_free_guidance: bool = True,
        *,
        condition: Mapping[str, Any] | None = None,
        null_condition: Mapping[str, Any] | None = None,
        guidance: Guidance | Sequence[Guidance] | None = None,
        timesteps: Sequence[float] | None = None,
        grid: TimeGrid | None = None,
        plan: SamplingPlan | PlanSet | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
        noise: str = "independent",
        noise_device: str = "cpu",
        round_timesteps: bool = False,
        backend: str = "auto",
        options: Mapping[str, Any] | None = None,
        **unknown: Never,
    ) -> CompiledRun:
        """Prepare a run once, for many calls with other seeds and conditions.

        ``fast = pipeline.compile(model, (1, 3, 64, 64), 20); samples = fast(seed=7)``. The samples are those of
        ``sample`` up to rounding.

        Args:
            backend: "network" compiles the network by ``torch.compile``; "cuda_graph" captures the whole run;
                "unrolled" compiles the whole run; "auto" is "cuda_graph" on CUDA, else "network". See
                :class:`.compiled_run.CompiledRun`.
            options: further arguments of ``torch.compile``, e.g. ``{"mode": "max-autotune"}``.

        The other arguments are those of :meth:`sample`. The condition's values may change from call to call, its
        structure and shapes may not.

        Raises:
            ConfigurationError: an argument that cannot work, or a run that cannot be compiled; the error says why.
        """
        if unknown:
            refuse_unknown(unknown, keywords_of(DiffusionPipeline.compile))
        arguments = locals()
        setup, own = self._setup, self.has_own_model
        request = Request.of(arguments)
        return compiled_run(lambda each: prepare(setup, each, own_model=own), request, backend, options)

    @overload
    def generate(
        self, prompt: str | Sequence[str] | None = ..., *,
        output_type: str = ..., return_result: Literal[True],
        **options: Unpack[GenerateKeywords],
    ) -> SamplingResult: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: str | Sequence[str] | None = ..., *,
        output_type: Literal["pt", "latent"], return_result: Literal[False] = ...,
        **options: Unpack[GenerateKeywords],
    ) -> Tensor: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: str | Sequence[str] | None = ..., *,
        output_type: Literal["np"], return_result: Literal[False] = ...,
        **options: Unpack[GenerateKeywords],
    ) -> npt.NDArray[Any]: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: str | Sequence[str] | None = ..., *,
        output_type: Literal["pil"] = ..., return_result: Literal[False] = ...,
        **options: Unpack[GenerateKeywords],
    ) -> list[Any]: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: str | Sequence[str] | None = ..., *,
        output_type: str = ..., return_result: bool = ...,
        **options: Unpack[GenerateKeywords],
    ) -> Any: ...  # fmt: skip

    def generate(self, prompt: str | Sequence[str] | None = None, **options: Any) -> Any:
        """Images from a prompt, a class or an image, of a pipeline made by :meth:`from_diffusers`.

        Raises:
            ConfigurationError: a pipeline that was made in another way.
        """
        raise ConfigurationError(
            "this pipeline has neither text encoder nor decoder",
            where="generate",
            suggestion="make it by DiffusionPipeline.from_diffusers(pipe), or call sample(model=...)",
        )

    @overload
    def calibrate(
        self, model: Callable[..., Any] | None = ..., *, nfe: int, **settings: Any
    ) -> SamplingPlan: ...  # fmt: skip

    @overload
    def calibrate(
        self, model: Callable[..., Any] | None = ..., *, nfe: Sequence[int], **settings: Any
    ) -> PlanSet: ...  # fmt: skip

    @overload
    def calibrate(
        self, model: Callable[..., Any] | None = ..., *, evaluations: int, **settings: Any
    ) -> SamplingPlan: ...  # fmt: skip

    @overload
    def calibrate(
        self, model: Callable[..., Any] | None = ..., *, evaluations: Sequence[int], **settings: Any
    ) -> PlanSet: ...  # fmt: skip

    def calibrate(
        self,
        model: Callable[..., Any] | None = None,
        *,
        nfe: int | Sequence[int] | None = None,
        evaluations: int | Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
        **settings: Any,
    ) -> SamplingPlan | PlanSet:
        """Fit the best few-step plan for a model on this noise schedule; see :func:`.calibration.calibrate`.

        Args:
            model: as for :meth:`sample`.
            nfe: model calls of the plan; several numbers make a :class:`PlanSet`.
            evaluations: in place of ``nfe``: the evaluations of both branches of guidance, which the plan then holds.
            shape: of one sample, without the batch.
            settings: ``condition``, ``guidance_scale``, ``trajectories``, ``budget_seconds``, ... of ``calibrate``.
                Pipelines made by :meth:`from_diffusers` take prompts here instead of a model and a shape.

        Returns:
            A plan or a :class:`PlanSet`, for ``sample``, ``generate`` or ``PlanScheduler.from_plan``.

        Raises:
            ConfigurationError: a setting that ``calibrate`` does not have, or a value that it refuses.
        """
        self._refuse_unknown_settings(settings)
        for name in PROMPT_KEYWORDS:
            if settings.pop(name, None) is not None:
                raise ConfigurationError(
                    "needs a pipeline made by from_diffusers, and no model argument",
                    where=name,
                    suggestion="give condition={...} and shape=(...) with a model of your own",
                )
        if shape is None:
            raise ConfigurationError(
                "is missing", where="shape", suggestion="give that of one sample, e.g. (3, 64, 64)"
            )
        found: SamplingPlan | PlanSet = CALIBRATE.function(
            model, self, shape=shape, nfe=nfe, evaluations=evaluations, **settings
        )
        return found

    @staticmethod
    def _refuse_unknown_settings(settings: Mapping[str, Any]) -> None:
        """Raise for a setting that no calibration has; the schedule is the pipeline's own."""
        known = [*keywords_of(DiffusionPipeline.calibrate, CALIBRATE.function), *PROMPT_KEYWORDS]
        refuse_unknown([name for name in settings if name not in known or name == "scheduler"], known)

    def stream(
        self,
        model: Callable[..., Any] | None = None,
        shape: Sequence[int] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = DEFAULT_SCALE,
        classifier_free_guidance: bool = True,
        *,
        condition: Mapping[str, Any] | None = None,
        null_condition: Mapping[str, Any] | None = None,
        guidance: Guidance | Sequence[Guidance] | None = None,
        seed: Seed | None = None,
        generator: Generators | None = None,
        first_index: int = 0,
        initial_noise: Tensor | None = None,
        initial_sample: Tensor | None = None,
        start: float | Level | None = None,
        strength: float | None = None,
        timesteps: Sequence[float] | None = None,
        grid: TimeGrid | FrameGrid | None = None,
        plan: SamplingPlan | PlanSet | FramePlan | None = None,
        context: Tensor | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
        noise: str = "independent",
        noise_device: str = "cpu",
        noise_ahead: bool | None = None,
        round_timesteps: bool = False,
        resume: RunState | str | os.PathLike[str] | None = None,
        **unknown: Never,
    ) -> Iterator[SamplingStep]:
        """Generate step by step: an iterator of :class:`SamplingStep`, whose last one has the samples.

        Leaving the loop stops the run. The tensors of a step are copies, without gradients.

        Args:
            resume: a step's ``state``, or the file that it was saved to: the run goes on from there, bit for bit.
                Give the same model, condition and guidance again.

        The other arguments and the errors are those of :meth:`sample`.
        """
        if unknown:
            refuse_unknown(unknown, keywords_of(DiffusionPipeline.stream))
        request, saved = Request.of(locals()), None
        if resume is not None:
            request, saved = continued(self._setup, request)
        return steps_of(prepare(self._setup, request, own_model=self.has_own_model), saved, request.noise_ahead)

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.sampler_options.items())
        return (
            f"{type(self).__name__}({self.method!r}, path={self.scheduler!r}, "
            f"prediction_type={self.config.prediction_type!r}, timestep_spacing={self.sampler.run_spacing!r}{options})"
        )
