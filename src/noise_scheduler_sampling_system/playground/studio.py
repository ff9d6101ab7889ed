"""The work behind the server: plans compiled on the fly, and runs of a model."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Generator, Sequence
from typing import Any, Final, final

import torch
from torch import Tensor

from ..analysis.solution import error_by_halving, fine_plan
from ..config.registries import SPACINGS
from ..integrations.named_models import NamedModel
from ..pipeline.pipeline import DiffusionPipeline
from ..plans.plan import SamplingPlan
from ..running.noise import NoiseSource, resolve_keys
from ..support.errors import ConfigurationError
from .catalog import all_paths, catalog, path_entry, samplers_with_plans
from .choice import SAMPLES
from .numbers import packed_single
from .plan_data import kind_of, plan_data
from .request import MOST_STEPS, PlanRequest, RunRequest

__all__ = ["Studio"]

#: Plans that are kept.
_KEPT: Final = 256
#: Model calls of the run that stands for the solution of a network.
_FINE_CALLS: Final = 60
#: Images of a run of a network, and the most numbers that they may have together.
_IMAGES: Final = 6
_NUMBERS: Final = 1 << 18


@final
class Studio:
    """Compiles plans and runs a model for the page. One run has the model at a time.

    Args:
        named: the model; "digits" runs in the browser, every other one here.
        prompt: texts for a pipeline of diffusers, one an image.
    """

    def __init__(self, named: NamedModel, prompt: Sequence[str] | None = None) -> None:
        if prompt and named.pipe is None:
            raise ConfigurationError(f"{named.name} takes none", where="prompt", suggestion="leave it out")
        self.named = named
        self._prompt = list(prompt) if prompt else None
        self._running = threading.Lock()
        self._compiled = functools.lru_cache(maxsize=_KEPT)(self._compile)

    @property
    def on_server(self) -> bool:
        """Whether runs are made here and not in the browser."""
        return self.named.name != "digits"

    @property
    def count(self) -> int:
        """The samples of a run."""
        if not self.on_server:
            return SAMPLES
        if self._prompt is not None:
            return len(self._prompt)
        return max(1, min(_IMAGES, _NUMBERS // math.prod(self.named.shape or (1,))))

    def catalog(self) -> dict[str, Any]:
        """What the page offers: all that is registered, on the paths that the model knows."""
        made = self.named.pipeline()
        own = path_entry(str(made.config.to_dict()["beta_schedule"]), made.scheduler)
        fixed = self.named.name == "mnist" or self.named.pipe is not None  # trained on one path
        module, _, attribute = self.named.name.partition(":")
        model = {
            "name": self.named.name,
            "on_server": self.on_server,
            "classes": self.named.num_classes,
            "guided": self.named.num_classes is not None or self._prompt is not None,
            "folder": None if self.named.pipe is None else self.named.name,
            "prompt": self._prompt,
            "prediction": self.named.settings.get("prediction_type"),
            "python": {"digits": None, "mnist": "models.mnist_unet()"}.get(self.named.name, attribute or "model"),
            "lines": [f"from {module} import {attribute.split('.')[0]}"] if attribute else [],
        }
        return {
            **catalog(
                [own] if fixed else all_paths(), sorted(SPACINGS), samplers_with_plans(),
                live=True, most_steps=MOST_STEPS, seeds=None, model=model,
            ),
            "samples": self.count,
        }  # fmt: skip

    def plan(self, request: PlanRequest) -> dict[str, Any]:
        """The plan of a setting, as the page reads it.

        Raises:
            NoiseSamplingError: the setting does not work.
        """
        pipeline, plan = self._made(request)
        kind = kind_of(pipeline.scheduler)
        return {"kind": kind, "plan": plan_data(plan, kind)}

    def path(self, request: PlanRequest) -> dict[str, Any]:
        """The noise path of a setting, as the catalog has it.

        Raises:
            NoiseSamplingError: the setting does not work.
        """
        pipeline, _ = self._made(request)
        return path_entry(request.path, pipeline.scheduler)

    def run(self, request: RunRequest) -> Generator[dict[str, Any], None, None]:
        """The states of a run, one for each step, from the noise on.

        Raises:
            NoiseSamplingError: the setting does not work, or the model returned something wrong.
        """
        pipeline, plan = self._made(request.plan)
        with self._running:
            arguments = self._arguments(pipeline, request)
            noise = NoiseSource(resolve_keys(request.seed, None, self.count), tuple(arguments["shape"][1:])).initial()
            start = self._picture(pipeline, noise * plan.prior_scale)
            yield self._frame(0, start, None)
            for step in pipeline.stream(**arguments, plan=plan, seed=request.seed):
                x, clean = (self._picture(pipeline, each) for each in (step.x, step.pred_original_sample))
                yield self._frame(step.nfe, x, clean)

    def solution(self, request: RunRequest) -> dict[str, Any]:
        """The samples of a run of many calls on the setting's path, which stand for the solution.

        Raises:
            NoiseSamplingError: the path does not work, or the model returned something wrong.
        """
        pipeline, _ = self._made(request.plan)
        with self._running:
            arguments = self._arguments(pipeline, request)
            fine, coarse = (
                pipeline.sample(**arguments, plan=fine_plan(pipeline.scheduler, calls), seed=request.seed)
                for calls in (_FINE_CALLS, _FINE_CALLS // 2)
            )
        pictures = self.named.pictures(pipeline, fine).float().cpu()
        return {
            "samples": packed_single(pictures.numpy()),
            "calls": _FINE_CALLS,
            "error": error_by_halving(fine.cpu().double(), coarse.cpu().double()),
        }

    def _made(self, request: PlanRequest) -> tuple[DiffusionPipeline, SamplingPlan]:
        """The pipeline and the plan of a setting."""
        options = tuple(
            tuple(sorted(each.items())) for each in (request.path_options, request.grid_options, request.options)
        )
        try:
            hash(options)
        except TypeError:  # a list or a mapping as a value
            return self._compile(request.path, request.grid, request.sampler, request.steps, request.levels, options)
        return self._compiled(request.path, request.grid, request.sampler, request.steps, request.levels, options)

    def _compile(
        self, path: str, grid: str, sampler: str, steps: int, levels: tuple[float | None, ...] | None, options: Any
    ) -> tuple[DiffusionPipeline, SamplingPlan]:
        of_path, of_grid, of_sampler = (dict(each) for each in options)
        settings = {
            **({} if self.named.pipe is not None else {"beta_schedule": path, "schedule_options": of_path}),
            "timestep_spacing": grid,
            "spacing_options": of_grid,
        }
        pipeline = self.named.pipeline(sampler, settings=settings, options=of_sampler)
        request = PlanRequest(path, grid, sampler, steps, of_path, of_grid, of_sampler, levels, 1.0)
        moved = request.level_grid(pipeline.scheduler)
        return pipeline, pipeline.plan(steps) if moved is None else pipeline.plan(grid=moved)

    def _arguments(self, pipeline: DiffusionPipeline, request: RunRequest) -> dict[str, Any]:
        labels = request.labels(self.named.num_classes, self.count)
        if self.named.pipe is not None and labels is not None:
            raise ConfigurationError("the model takes no classes", where="digits", suggestion="choose any digit")
        return self.named.arguments(
            pipeline, batch=self.count, labels=labels, prompt=self._prompt, guidance_scale=request.plan.guidance
        )

    def _frame(self, calls: int, x: Tensor, clean: Tensor | None) -> dict[str, Any]:
        return {
            "calls": calls,
            "x": packed_single(x.numpy()),
            "clean": None if clean is None else packed_single(clean.numpy()),
            "shape": list(x.shape[1:]),
            "count": len(x),
        }

    @torch.no_grad()
    def _picture(self, pipeline: DiffusionPipeline, samples: Tensor) -> Tensor:
        return self.named.pictures(pipeline, samples).float().cpu()
