"""Files that the library reads: each is changed, read, and what is read is run."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    DiffusionPipeline,
    ModelStatistics,
    NoiseSchedulerConfig,
    PlanSet,
    SamplingPlan,
    calibrate,
)
from noise_scheduler_sampling_system.calibration.checkpoint import Checkpoint
from noise_scheduler_sampling_system.grids import FrameGrid
from noise_scheduler_sampling_system.guidance import CachedGuidance
from noise_scheduler_sampling_system.models import GaussianModel
from noise_scheduler_sampling_system.plans import FramePlan
from noise_scheduler_sampling_system.running.stated_prediction import stated_prediction
from noise_scheduler_sampling_system.support.tensor_files import read_tensors

from .case import Case, Kind
from .mutation import changed

__all__ = [
    "bomb", "calibrations", "checkpoints", "configs", "frame_plans", "plans", "schedulers", "states",
]  # fmt: skip

SHAPE = (2, 4)
_FRAMES = (2, 3, 4)


def model(x: torch.Tensor, t: Any, label: torch.Tensor | None = None) -> torch.Tensor:
    """The network of every run here."""
    return 0.1 * x if label is None else 0.1 * x + label


@final
@dataclass(frozen=True)
class Template:
    """A valid file.

    Attributes:
        name: of the file.
        data: its content.
        use: reads it, and uses what it holds.
        beside: of a safetensors file: the name of the JSON in its metadata.
    """

    name: str
    data: bytes
    use: Callable[[Path], object]
    beside: str | None = None

    @classmethod
    def written(
        cls, name: str, use: Callable[[Path], object], write: Callable[[Path], object], beside: str | None = None
    ) -> Template:
        """The file that a function writes."""
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / name)
            return cls(name, (Path(folder) / name).read_bytes(), use, beside)

    def case(self, data: bytes) -> Case:
        """A file of this name with other content."""

        def use(folder: Path) -> None:
            (folder / self.name).write_bytes(data)
            self.use(folder / self.name)

        return Case({self.name: data}, use)


@final
class FileKind(Kind):
    """Changed files.

    Args:
        name: of the kind.
        templates: the valid files.
        bombs: makes the content of a file that is too much, for a file name; None: no such content is given.
    """

    def __init__(
        self, name: str, templates: Sequence[Template], bombs: Callable[[str, random.Random], bytes] | None = None
    ) -> None:
        self.name, self._templates, self._bombs = name, tuple(templates), bombs

    def valid(self) -> list[Case]:
        return [each.case(each.data) for each in self._templates]

    def drawn(self, draw: random.Random) -> Case:
        template = draw.choice(self._templates)
        if self._bombs is not None and draw.random() < 0.1:
            return template.case(self._bombs(template.name, draw))
        return template.case(changed(template.data, draw, Path(template.name).suffix, template.beside))


def configs() -> Kind:
    """Configuration files."""
    system = AdvancedDiffusionSystem()
    system.create_pipeline("first", NoiseSchedulerConfig(beta_schedule="cosine", timestep_spacing="karras"), "heun")
    system.create_pipeline("second_ddim", {"beta_schedule": "flow", "schedule_options": {"shift": 3.0}}, eta=0.5)
    few = NoiseSchedulerConfig(beta_schedule="custom", trained_betas=[0.01, 0.02, 0.05, 0.1, 0.2, 0.3])
    by_hand = "base: &b {beta_start: 1e-4, clip_sample: on}\nfirst_ddim:\n  <<: *b\n  method: ddim # as usual\n"

    def loaded(path: Path) -> None:
        system = AdvancedDiffusionSystem(path)
        for name in system.list_pipelines():
            str(system.get_pipeline(name))

    made = [
        Template.written(f"{name}.{ending}", use, write)
        for ending in ("yaml", "json")
        for name, use, write in (
            ("system", loaded, system.save_config),
            ("config", NoiseSchedulerConfig.load, few.save),
        )
    ]
    return FileKind("config", [*made, Template("by-hand.yaml", by_hand.encode(), loaded)], bomb)


def bomb(name: str, draw: random.Random) -> bytes:
    """Content whose reading could take time or memory without end: aliases, nesting, lengths, keys, numbers."""
    size = draw.choice([3, 10, 50, 300, 1500, 9000, 60_000])
    many = draw.choice([2, 5, 10, 40])
    if name.endswith(".json"):
        inner = draw.choice(["1", '"x"', "[]", "{}", "NaN", "9" * min(size, 9000)])
        texts = [
            "[" * size, "[" * size + "]" * size, '{"p":' * size + inner + "}" * size,
            '{"p": {' + ",".join(f'"k{i}": {inner}' for i in range(min(size, 20_000))) + "}}",
            '{"p": {"beta_start": [' + ",".join([inner] * min(size, 20_000)) + "]}}",
            '{"p": {"method": "ddim", "method": ' + inner + "}}", '{"p": {"beta_start": -' + "9" * size + "}}",
            '{"p": {"beta_start": 1e' + "9" * min(size, 5000) + "}}", '{"' + "a_" * size + '": {}}',
            "\ufeff" * many + '{"p": {}}', '{"p": "' + "\\u0000" * size + '"}',
        ]  # fmt: skip
        return draw.choice(texts).encode()
    names = [f"a{i}" for i in range(draw.choice([4, 9, 12]))]
    joined = draw.choice([("[1]", "[{}]"), ("{k: 1}", "{{<<: [{}]}}"), ("{k: 1}", "{{a: [{}]}}")])
    lines = [f"{names[0]}: &{names[0]} {joined[0]}"]
    for before, each in itertools.pairwise(names):
        lines.append(f"{each}: &{each} " + joined[1].format(",".join([f"*{before}"] * many)))
    lines.append(f"p: {{beta_start: *{names[-1]}}}")
    texts = [
        "\n".join(lines), "p: " + "[" * size, "p: " + "{a: " * size,
        "\n".join(" " * i + "-" for i in range(size % 2000)),
        "\n".join(" " * i + "a:" for i in range(size % 2000)), "p: &a [*a]", "p: &a {<<: *a}", "p: &a {x: *a}",
        "p: {beta_start: " + ":".join(["59"] * size) + "}", "p: {steps_offset: 0x" + "f" * size + "}",
        "p: {steps_offset: 0b" + "1" * size + "}", "p: {steps_offset: 0" + "7" * size + "}",
        "p: {beta_start: 1e" + "9" * size + "}", "p: {beta_start: " + "9" * size + ".0}",
        "p: {beta_start: " + "_" * size + "1}", "p: {" + "beta_start: 1, " * min(size, 20_000) + "}",
        "p: !!binary " + "A" * size, "p: !!python/object/apply:os.system [touch stranger]",
        "p: !!python/name:os.system", "p: !!omap [a: 1]", "p: !!pairs [a: 1]", "? [a, b]\n: 1\n", "? {a: 1}\n: 1\n",
        "%YAML 9.9\n---\np: {}\n", "p: {}\n" + "---\n" * size, "p: !<tag:" + "x" * size + "> 1", "p: |\n " + "x" * size,
        "p: {beta_start: !!float " + draw.choice(["x", ".", "1e", "''", "[1]", "{}", ".nan", "-.inf"]) + "}",
    ]  # fmt: skip
    return draw.choice(texts).encode()


def plans() -> Kind:
    """Files of plans."""
    pipelines = {
        name: DiffusionPipeline(None, name) for name in ("ddim", "dpmpp_2m", "ancestral", "pndm", "sa_solver", "lcm")
    }
    plans = {name: pipeline.plan(4) for name, pipeline in pipelines.items()}
    plans["folded"] = CachedGuidance(2.5, calls=(0, 2)).folded_into(plans["dpmpp_2m"])
    few = PlanSet({2: pipelines["ddim"].plan(2), 4: plans["ddim"]})
    made = [
        Template.written(f"{name}.{ending}", lambda path: _ran(SamplingPlan.load(path)), plan.save, beside)
        for ending, beside in (("json", None), ("safetensors", "plan"))
        for name, plan in plans.items()
    ]
    several = Template.written("plans.json", lambda path: [_ran(p) for p in PlanSet.load(path).values()], few.save)
    return FileKind("plan", [*made, several], bomb)


def _ran(plan: SamplingPlan) -> None:
    str(plan), repr(plan), plan.content_hash  # what a reader looks at
    guided = {} if plan.scale is None else {"condition": {"label": torch.ones(2, 1)}}
    samples = DiffusionPipeline().sample(model, SHAPE, plan=plan, seed=0, **guided)  # type: ignore[arg-type]
    assert samples.isfinite().all()


def frame_plans() -> Kind:
    """Files of plans of frames."""
    made = []
    for method in ("ddim", "dpmpp_2m", "ancestral"):
        pipeline = DiffusionPipeline(None, method)
        grids = {
            "pyramid": FrameGrid.pyramid(pipeline.grid(4), 3, 1.5),
            "context": FrameGrid.pyramid(pipeline.grid(3), 3, 2, context=[1]),
            "same": FrameGrid.full_sequence(pipeline.grid(3), 3),
        }
        for name, grid in grids.items():
            plan = pipeline.plan(grid=grid)
            made.append(Template.written(f"{method}-{name}.json", _ran_frames, plan.save))
    return FileKind("frame plan", made)


def _ran_frames(path: Path) -> None:
    plan = FramePlan.load(path)
    str(plan), repr(plan)
    context = {"context": torch.zeros(2, len(plan.context), 4)} if plan.context else {}
    samples = DiffusionPipeline().sample(model, _FRAMES, plan=plan, seed=0, **context)  # type: ignore[arg-type]
    assert samples.isfinite().all()


def states() -> Kind:
    """Files of stopped runs."""
    made = []
    for method in ("dpmpp_2m", "ancestral", "heun"):
        pipeline = DiffusionPipeline(None, method)

        def resumed(path: Path, pipeline: DiffusionPipeline = pipeline) -> None:
            for step in pipeline.stream(model, resume=path):
                assert step.x.isfinite().all()

        for at in (1, 3):
            steps = list(pipeline.stream(model, SHAPE, 4, seed=3))
            made.append(Template.written(f"{method}-{at}.safetensors", resumed, steps[at].state.save, "run"))
    return FileKind("state", made)


class _Fails:
    """The network, whose fifth call raises."""

    fingerprint = "a network that fails once"

    def __init__(self, at: int = 0) -> None:
        self._left = at

    def __call__(self, x: torch.Tensor, t: Any) -> torch.Tensor:
        self._left -= 1
        if self._left == 0:
            raise KeyError("the machine broke")
        return 0.1 * x


def checkpoints() -> Kind:
    """Files of ``sample(checkpoint=)``."""
    made = []
    for method, size in (("dpmpp_2m", None), ("ancestral", 1), ("unipc", 2)):
        pipeline = DiffusionPipeline(None, method)

        def run(network: _Fails, path: Path, pipeline: Any = pipeline, size: Any = size) -> None:
            pipeline.sample(network, (3, 4), 6, seed=1, checkpoint=path, every=1, max_batch_size=size)

        def broken(path: Path, run: Callable[..., None] = run) -> None:
            try:
                run(_Fails(5), path)
            except KeyError:
                return

        def continued(path: Path, run: Callable[..., None] = run) -> None:
            run(_Fails(), path)
            assert not path.exists()

        made.append(Template.written(f"{method}.safetensors", continued, broken, "checkpoint"))
    return FileKind("checkpoint", made)


_BUDGET = {"shape": (2,), "nfe": [2], "trajectories": 8, "passes": 2, "teacher_calls": 8, "budget_seconds": 1e5}


def calibrations() -> Kind:
    """Statistics of a model, and checkpoints of calibrations."""

    def statistics(path: Path) -> None:
        DiffusionPipeline(None, "dpm_v3", statistics=str(path)).sample(model, SHAPE, 3, seed=0)

    def calibrated(path: Path) -> None:
        pipeline = DiffusionPipeline()
        calibrate(GaussianModel(pipeline.scheduler), pipeline, checkpoint=path, **_BUDGET)  # type: ignore[arg-type]
        about.update(read_tensors(path, "calibration", load)[1]["about"])

    about: dict[str, Any] = {}  # the settings of the calibration, without which its checkpoint is refused

    def continued(path: Path) -> None:
        found = Checkpoint.open(path, about)
        for nfe in (1, 2, *found.plans, *found.fits):
            found.done(nfe, 1.0)
            found.before(nfe)
        found.teach(found.solution, found.teacher_error)  # type: ignore[arg-type]

    return FileKind("calibration", [
        Template.written("statistics.safetensors", statistics, ModelStatistics.neutral().save, ""),
        Template.written("calibration.safetensors", continued, calibrated, "calibration"),
    ])  # fmt: skip


_SCHEDULER = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "betas": [0.1, 0.2], "clip": None}


def schedulers() -> Kind:
    """Files of schedulers of diffusers beside a network."""

    def beside(path: Path) -> None:
        """A network whose scheduler lies beside it."""
        folder = path.parent / "network"
        (folder / "scheduler").mkdir(parents=True)
        shutil.copyfile(path, folder / "scheduler" / "scheduler_config.json")
        network = torch.nn.Identity()
        network.config = {"_name_or_path": str(folder)}  # type: ignore[assignment]
        stated_prediction(network)

    return FileKind("scheduler", [Template("scheduler_config.json", json.dumps(_SCHEDULER).encode(), beside)], bomb)
