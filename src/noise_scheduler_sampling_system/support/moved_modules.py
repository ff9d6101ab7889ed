"""Names of version 1.3: imports and pickles that use them find modules and classes at their new places.

The names stay for one version.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final, final

__all__ = ["MOVED", "RENAMED", "find_moved_modules"]

_ROOT: Final = __name__.split(".", maxsplit=1)[0]

#: Old name → new name, both below the package's root.
MOVED: Final = {
    "adaptive": "pipeline.adaptive_run",
    "arguments": "support.argument_checks",
    "batching": "running.batching",
    "bind": "running.bound_plan",
    "brownian": "running.brownian",
    "builder": "plans.builder",
    "calibration.baselines": "calibration.search.built_in",
    "calibration.checks": "calibration.arguments",
    "calibration.climb": "calibration.search.starts",
    "calibration.coordinates": "calibration.fit.free_numbers",
    "calibration.gate": "calibration.search.gate",
    "calibration.jacobian": "calibration.fit.fit",
    "calibration.limits": "calibration.budget",
    "calibration.measure": "calibration.trajectories",
    "calibration.record": "calibration.provenance",
    "calibration.refine": "calibration.fit.refine",
    "calibration.robust": "calibration.fit.robust_loss",
    "calibration.spectrum": "calibration.design.spectrum",
    "calibration.starts": "calibration.search.starts",
    "calibration.teacher": "calibration.trajectories",
    "calibration.zolotarev": "calibration.design.zolotarev",
    "callbacks": "running.callbacks",
    "check_sampler": "testing.check_sampler",
    "cli": "app.command_line",
    "clipping": "running.clipping",
    "curves": "support.curves",
    "demo": "app.demo",
    "distribution": "analysis.step_probabilities",
    "early_stopping": "running.early_stopping",
    "ems": "samplers.model_statistics",
    "errors": "support.errors",
    "factory": "samplers.factory",
    "files": "support.files",
    "fingerprint": "running.model_fingerprint",
    "fused": "running.kernels",
    "guidance.guided": "guidance.evaluate",
    "guidance.program": "guidance.compile",
    "guidance.sources": "guidance.directions",
    "image_start": "grids.image_start",
    "integrations.diffusers.backbones": "integrations.diffusers.pipelines.backbones",
    "integrations.diffusers.backbones.base": "integrations.diffusers.pipelines.backbones.base",
    "integrations.diffusers.backbones.transformers": "integrations.diffusers.pipelines.backbones.transformers",
    "integrations.diffusers.backbones.unets": "integrations.diffusers.pipelines.backbones.unets",
    "integrations.diffusers.choice": "integrations.diffusers.scheduler.user_choice",
    "integrations.diffusers.generate": "integrations.diffusers.pipelines.image_generator",
    "integrations.diffusers.handover": "integrations.diffusers.scheduler.unfinished_runs",
    "integrations.diffusers.impulses": "plans.tracing.foreign_arithmetic",
    "integrations.diffusers.levels": "plans.tracing.model_calls",
    "integrations.diffusers.looks": "integrations.diffusers.scheduler.scheduler_attributes",
    "integrations.diffusers.output": "integrations.diffusers.scheduler.step_output",
    "integrations.diffusers.program": "integrations.diffusers.scheduler.call_plan",
    "integrations.diffusers.recipe": "integrations.diffusers.scheduler.plan_compiler",
    "integrations.diffusers.request": "integrations.diffusers.pipelines.image_request",
    "integrations.diffusers.runs": "integrations.diffusers.scheduler.timestep_list",
    "integrations.diffusers.splice": "integrations.diffusers.scheduler.first_order_head",
    "integrations.diffusers.tables": "integrations.diffusers.scheduler.run_registry",
    "integrations.diffusers.tokens": "integrations.diffusers.scheduler.per_token_times",
    "integrations.diffusers.trace": "plans.tracing.trace",
    "integrations.diffusers.visited": "integrations.diffusers.reading.scheduler_levels",
    "integrations.diffusers.words": "integrations.diffusers.scheduler.class_signature",
    "inversion": "analysis.inversion",
    "job": "pipeline.job",
    "keys": "running.noise_keys",
    "keywords": "config.keyword_advice",
    "likelihood": "analysis.likelihood",
    "look": "running.output_check",
    "model": "running.model_adapter",
    "moments": "plans.gaussian_moments",
    "names": "config.sampler_aliases",
    "noise": "running.noise",
    "options": "config.options",
    "plan": "plans.plan",
    "plan_content": "plans.plan_content",
    "prediction": "config.prediction",
    "prepare": "pipeline.prepare",
    "presets": "schedules.presets",
    "profiling": "running.profiling",
    "recommend": "analysis.recommend",
    "registry": "support.registry",
    "results": "running.results",
    "rowwise": "analysis.row_walk",
    "run": "running.loop",
    "samplers.dpm_v3": "samplers.multistep.dpm_v3",
    "samplers.guided": "samplers.cfg_pp",
    "samplers.pndm": "samplers.multistep.pndm",
    "samplers.ranges": "samplers.shared_options",
    "schedules.checks": "schedules.path_checks",
    "setup": "pipeline.compiled",
    "signatures": "pipeline.keyword_types",
    "spacings": "grids.spacings",
    "stated": "running.stated_prediction",
    "stepping": "pipeline.step_only_run",
    "system": "pipeline.system",
    "tables": "support.data_files",
    "tensors": "support.tensor_files",
    "values": "support.values",
}  # fmt: skip


#: Old module name → {old class name → new class name}, for classes that pickles name.
RENAMED: Final = {
    "adaptive": {"AdaptiveCourse": "AdaptiveRun"},
    "bind": {"_Row": "BoundRow"},
    "run": {"State": "RowState"},
    "stepping": {"SteppedSampler": "StepOnlyRun"},
}


@final
class _Finder(MetaPathFinder):
    """Finds a moved module under its old name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        old = fullname.removeprefix(f"{_ROOT}.")
        new = MOVED.get(old)
        if new is None or not fullname.startswith(f"{_ROOT}."):
            return None
        return ModuleSpec(fullname, _Alias(f"{_ROOT}.{new}", RENAMED.get(old, {})))


@final
class _Alias(Loader):
    """Loads a module under a second name: both names then stand for the same module object.

    Args:
        new: the new name of the module.
        renamed: old class name → new class name; the module gets the old names too.
    """

    def __init__(self, new: str, renamed: Mapping[str, str]) -> None:
        self._new, self._renamed = new, renamed

    def exec_module(self, module: ModuleType) -> None:
        found = importlib.import_module(self._new)
        for old, new in self._renamed.items():
            setattr(found, old, getattr(found, new))
        sys.modules[module.__name__] = found  # the import system returns this entry


def find_moved_modules() -> None:
    """Make the old names importable. Calling it again changes nothing.

    Call it where all public names of the root exist: an old module name may also be the name of a function there
    ("recommend"). The import system sets an imported module as an attribute of its package, which would hide the
    function. It does not do so for a module that ``sys.modules`` already holds.
    """
    for old, new in MOVED.items():
        package, _, name = f"{_ROOT}.{old}".rpartition(".")
        public = getattr(sys.modules.get(package), name, None)
        if public is not None and not isinstance(public, ModuleType):
            sys.modules.setdefault(f"{_ROOT}.{old}", importlib.import_module(f"{_ROOT}.{new}"))
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # before the finder of files, which takes an emptied folder for a package
