"""verify_plan(): measure calibrated plans again, and compare with the figures in their provenance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor

from ...config.keyword_advice import keywords_of, refuse_unknown
from ...guidance.base import Guidance
from ...guidance.sequence import checked_sequence
from ...plans.plan import SamplingPlan
from ...plans.plan_set import PlanSet
from ...running.model_adapter import ModelAdapter
from ...running.noise import NoiseSource, calibration_keys
from ...running.placement import device_of, resolve_device
from ...schedules.foreign_levels import refuse_foreign_levels
from ...support.argument_checks import checked_count, checked_dtype
from ...support.errors import ConfigurationError, shown
from ..arguments import in_turn, pipeline_of, refuse_guidance_along_a_run, request_of, scale_of, shape_of
from ..provenance import setting_facts
from ..student import PlanRunner, Student
from ..trajectories import Errors, Trajectories, errors_of, teach
from .elsewhere import best_built_in
from .measurement import Measurement, measured_of, rms_and_median
from .verification import OtherSetting, PlanVerification, Rival, StatedFigure

if TYPE_CHECKING:
    from ...config.settings import NoiseSchedulerConfig
    from ...pipeline.pipeline import DiffusionPipeline
    from ...schedules.path import NoisePath

__all__ = ["verify_plan"]

#: The numbers that a provenance must hold beside its errors and its shape.
_NUMBERS: Final = ("seed", "trajectories", "held_out", "teacher_calls")
#: The settings of a calibration by their keys in the provenance, in words.
_SETTINGS: Final = {
    "model": "model", "schedule": "noise schedule", "shape": "shape", "guidance_scale": "guidance scale",
    "guidance": "guidance", "condition": "condition", "null_condition": "null condition",
}  # fmt: skip
#: The fields of a config that a run of a plan reads, each with the field without which it has no effect. The plan holds
#: its levels, so spacings do not matter; of the schedule the settings above tell, and levels that are none of it.
_FIELDS: Final = {
    "prediction_type": None, "clip_sample": None, "clip_sample_range": "clip_sample", "thresholding": None,
    **dict.fromkeys(
        ("dynamic_thresholding_ratio", "sample_max_value", "sample_padding_norm", "sample_padding_threshold"),
        "thresholding",
    ),
}  # fmt: skip


def verify_plan(
    plan: SamplingPlan | PlanSet,
    model: Callable[..., Any] | None,
    scheduler: DiffusionPipeline | NoisePath | NoiseSchedulerConfig | Mapping[str, Any] | str | None = None,
    *,
    shape: Sequence[int] | None = None,
    condition: Mapping[str, Any] | None = None,
    null_condition: Mapping[str, Any] | None = None,
    guidance_scale: float | None = None,
    guidance: Guidance | Sequence[Guidance] | None = None,
    trajectories: int | None = None,
    teacher_calls: int | None = None,
    seed: int | None = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    max_batch_size: int | None = None,
    **unknown: Any,
) -> Any:
    """Measure a calibrated plan again, and say whether the figures in its provenance hold within their errors.

    The plan runs on noise that the calibration has not seen, and is compared with a fine run from the same noise. The
    settings are those of the provenance. With another model, noise schedule, shape, guidance, condition, prediction
    type, clipping or dtype the result says so. If the provenance has figures of this very change
    (``calibrate(scales=...)``), they are the stated ones. Fewer than 4 trajectories, here or in the calibration, have
    no standard errors, and do not tell whether a figure holds.

    Args:
        plan: a plan of :func:`calibrate`, or a set of them.
        model, scheduler: as for :func:`calibrate`.
        shape: of one sample; default: that of the calibration.
        condition, null_condition: as for ``calibrate``; default: those of the calibration, if they are class labels or
            other whole numbers. The provenance holds only hashes of embeddings.
        guidance_scale, guidance: as for ``calibrate``; default: the scale of the calibration.
        trajectories: the number to measure on; default: that of the held-out trajectories.
        teacher_calls: the model calls of the fine run; default: as in the calibration.
        seed: of the noise; default: the calibration's plus one. The calibration's own seed repeats its held-out noise.
        dtype: of the runs; default: that of the calibration.
        device, max_batch_size: as for ``sample``.

    Returns:
        A :class:`PlanVerification`. For a set, a dictionary with one for each number of model calls.

    Raises:
        ConfigurationError: the plan holds no calibration, a setting that its provenance does not tell is missing, or
            an argument is invalid; raised before the first model call.
        ModelOutputError: as for ``sample``.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline, calibrate, models
        >>> from noise_scheduler_sampling_system.calibration import verify_plan
        >>> pipeline = DiffusionPipeline()
        >>> model = models.DigitsModel(pipeline.scheduler)
        >>> quick = {"trajectories": 16, "teacher_calls": 16, "stages": ("design",)}  # leave it out for real use
        >>> plan = calibrate(model, pipeline, shape=(1, 8, 8), nfe=3, **quick)
        >>> verify_plan(plan, model, pipeline).holds
        True
    """
    refuse_unknown(unknown, keywords_of(verify_plan))
    if not isinstance(plan, SamplingPlan | PlanSet):
        raise ConfigurationError(
            f"got {type(plan).__name__}", where="plan", suggestion="give a SamplingPlan or a PlanSet, e.g. of .load"
        )
    plans: Mapping[int, SamplingPlan] = plan if isinstance(plan, PlanSet) else {plan.nfe: plan}
    pipeline = pipeline_of(model, scheduler)
    told = {
        "shape": shape, "condition": condition, "null_condition": null_condition, "guidance_scale": guidance_scale,
        "guidance": guidance, "trajectories": trajectories, "teacher_calls": teacher_calls, "seed": seed,
        "dtype": dtype,
    }  # fmt: skip
    request = {"device": device, "max_batch_size": max_batch_size}
    settings = {nfe: _Setting.of(each, model, pipeline, told) for nfe, each in plans.items()}
    benches: dict[str, _Bench] = {}  # plans of one calibration share the fine run
    found: dict[int, PlanVerification] = {}
    for nfe, each in plans.items():
        setting = settings[nfe]
        if setting.key not in benches:
            benches[setting.key] = _Bench.of(setting, model, pipeline, request)
        found[nfe] = benches[setting.key].verified(each, setting)
    return found if isinstance(plan, PlanSet) else found[plan.nfe]


@final
@dataclass(frozen=True)
class _Setting:
    """What a plan is measured with.

    Attributes:
        facts: the settings as plain data, by their keys in a provenance.
        changes: those that are others than in the calibration.
        condition, null_condition, scale, guidance: the arguments of the runs.
        first, count: the number of the first trajectory, and how many there are.
        teacher_calls, seed: of the fine run and of the noise.
        dtype: of the runs, or None for that of ``sample``.
        round_timesteps: whether the calibration rounded the model's times.
    """

    facts: Mapping[str, Any]
    changes: tuple[OtherSetting, ...]
    condition: Mapping[str, Any] | None
    null_condition: Mapping[str, Any] | None
    scale: float | None
    guidance: Any
    first: int
    count: int
    teacher_calls: int
    seed: int
    dtype: torch.dtype | None
    round_timesteps: bool

    @property
    def key(self) -> str:
        """A text that is the same for settings with the same fine run."""
        return repr((
            dict(self.facts), self.first, self.count, self.teacher_calls, self.seed, self.dtype, self.round_timesteps
        ))  # fmt: skip

    @classmethod
    def of(cls, plan: SamplingPlan, model: Any, pipeline: PlanRunner, told: Mapping[str, Any]) -> _Setting:
        """Combine the provenance of a plan with the arguments of the call; an argument that is None is as stated.

        Raises:
            ConfigurationError: as for :func:`verify_plan`.
        """
        stated = _calibration_of(plan)
        levels = [plan.level(row) for row in range(len(plan)) if plan.asked[row]]
        refuse_foreign_levels(pipeline.scheduler, levels, "plan")
        shape = shape_of(stated["shape"] if told["shape"] is None else told["shape"])
        condition, null = (
            _rebuilt(stated.get(name), name) if told[name] is None else told[name]
            for name in ("condition", "null_condition")
        )
        guidance, scale = told["guidance"], told["guidance_scale"]
        if guidance is not None:
            refuse_guidance_along_a_run(checked_sequence(guidance), pipeline)
        elif stated.get("guidance") is not None:
            raise ConfigurationError(
                "is missing",
                where="guidance",
                why=f"the plan was calibrated with {stated['guidance']}, which is only text in its provenance",
                suggestion="give guidance=...",
            )
        elif scale is None:
            scale = stated.get("guidance_scale")
        scale = scale_of(scale, condition)
        if plan.scale is not None and (guidance is not None or scale is None or not math.isclose(scale, plan.scale)):
            raise ConfigurationError(
                f"the plan holds guidance of scale {plan.scale:g} and runs at no other",
                where="guidance_scale" if guidance is None else "guidance",
                suggestion="leave it out, or calibrate a plan for the other guidance",
            )
        first = int(stated["trajectories"])
        count = int(stated["held_out"]) if told["trajectories"] is None else told["trajectories"]
        calls = int(stated["teacher_calls"]) if told["teacher_calls"] is None else told["teacher_calls"]
        facts = setting_facts(pipeline, model, shape, condition, null, scale, guidance)
        stated_dtype = _dtype_named(stated.get("dtype"))
        dtype = stated_dtype if told["dtype"] is None else told["dtype"]
        of_model = None if model is None else ModelAdapter(model).dtype
        compared: list[tuple[str, Any, Any]] = [
            *((words, stated[key], facts[key]) for key, words in _SETTINGS.items() if key in stated),
            *_of_config(stated.get("config"), pipeline.config.to_dict()),
            ("dtype", checked_dtype(stated_dtype, of_model), checked_dtype(dtype, of_model)),
        ]
        changes = tuple(
            OtherSetting(words, shown(there), shown(here))
            for words, there, here in compared
            if _plain(there) != _plain(here)
        )
        return cls(
            facts, changes, condition, null, scale, guidance, first, checked_count(count, "trajectories"),
            checked_count(calls, "teacher_calls"), int(stated["seed"]) + 1 if told["seed"] is None else told["seed"],
            dtype, bool(stated.get("round_timesteps")),
        )  # fmt: skip


@final
@dataclass(frozen=True)
class _Bench:
    """A model with the trajectories that plans are measured on.

    Attributes:
        student: the model.
        followed: the trajectories, with the ends of the fine run.
        teacher_error: the estimated error of these ends.
    """

    student: Student
    followed: Trajectories
    teacher_error: float

    @classmethod
    def of(cls, setting: _Setting, model: Any, pipeline: PlanRunner, request: Mapping[str, Any]) -> _Bench:
        """Follow the trajectories of a setting."""
        first, count = setting.first, setting.count
        told = request_of(
            setting.scale, setting.round_timesteps, guidance=setting.guidance, dtype=setting.dtype, **request
        )
        condition = in_turn(setting.condition, first, first + count)
        null = in_turn(setting.null_condition, first, first + count, "null_condition")
        student = Student(pipeline, model, condition, null, told)
        keys = calibration_keys(setting.seed, first + count)[first:]
        shape, place = tuple(setting.facts["shape"]), resolve_device(request["device"], device_of(model))
        noise = NoiseSource(keys, shape, torch.float32, place).initial()
        return cls(student, *teach(student, noise, setting.teacher_calls, first=first))

    def verified(self, plan: SamplingPlan, setting: _Setting) -> PlanVerification:
        """Measure a plan, and compare with its provenance."""
        # without its provenance, which would warn of another scale
        measured = Measurement.of(self._ends(replace(plan, provenance={})), self.followed.solution)
        stated, stated_for, rival_there = _stated(plan, setting, measured)
        figures = [
            StatedFigure("rms", stated.rms, stated.rms_error, measured.rms, measured.rms_error),
            StatedFigure("median", stated.median, stated.median_error, measured.median, measured.median_error),
            StatedFigure("basin_changes", stated.moved, stated.moved_error, measured.moved, measured.moved_error),
        ]
        return PlanVerification(
            plan.nfe, plan.content_hash,
            tuple(each for each in figures if not math.isnan(each.stated) and not math.isnan(each.measured)),
            setting.changes, stated_for, self._rival(plan, rival_there), measured, self.teacher_error,
            setting.teacher_calls, setting.seed,
        )  # fmt: skip

    def _rival(self, plan: SamplingPlan, stated: Errors | None) -> Rival | None:
        name, other = best_built_in(self.student.pipeline.scheduler, plan)
        if other is None or stated is None:
            return None
        return Rival(name, stated, errors_of(self._ends(other), self.followed.solution))

    def _ends(self, plan: SamplingPlan) -> Tensor:
        return self.student.run(plan, self.followed.noise, self.followed.rows)


def _stated(plan: SamplingPlan, setting: _Setting, measured: Measurement) -> tuple[Measurement, str, Errors | None]:
    """The figures that a provenance states for a setting, the change that they are for, and the best built-in errors.

    Provenances of earlier versions hold no standard errors: theirs are then as large as those of the measurement,
    scaled with the number of trajectories.
    """
    provenance, known = plan.provenance, measured_of(plan)
    words = setting.changes[0].name if len(setting.changes) == 1 else ""
    for key in (key for key, word in _SETTINGS.items() if word == words):
        for entry in known.get("guidance" if key == "guidance_scale" else key, ()):
            if isinstance(entry, Mapping) and _plain(entry.get(key)) == _plain(setting.facts[key]):
                there = Measurement.from_dict(entry)
                if there is not None:
                    return there, f"{words} {shown(setting.facts[key])}", rms_and_median(entry.get("built_in"))
    rivals = provenance.get("built_in")
    first = rivals[0] if isinstance(rivals, list | tuple) and rivals else {}
    rival = rms_and_median(first.get("held_out_error") if isinstance(first, Mapping) else None)
    own = Measurement.from_dict(known.get("held_out"))
    if own is None:
        errors = rms_and_median(provenance["held_out_error"])
        assert errors is not None  # checked before
        scale = math.sqrt(measured.trajectories / int(provenance["held_out"]))
        own = Measurement(
            errors.rms, scale * measured.rms_error, errors.median, scale * measured.median_error, math.nan, math.nan,
            int(provenance["held_out"]),
        )  # fmt: skip
    return own, "", rival


def _calibration_of(plan: SamplingPlan) -> Mapping[str, Any]:
    """The provenance of a calibrated plan.

    Raises:
        ConfigurationError: it holds no calibration, or not all of one.
    """
    stated = plan.provenance
    if "before_guidance" in stated:
        raise ConfigurationError(
            f"the plan of {plan.nfe} calls ({plan.sampler}) holds guidance since its calibration",
            where="plan",
            why="the figures of the calibration are those of the plan before it",
            suggestion="verify that plan, or calibrate(evaluations=...) a plan that holds its guidance",
        )
    missing = [] if rms_and_median(stated.get("held_out_error")) is not None else ["held_out_error"]
    missing += [key for key in _NUMBERS if not isinstance(stated.get(key), int) or isinstance(stated.get(key), bool)]
    missing += [] if isinstance(stated.get("shape"), list | tuple) else ["shape"]
    if missing:
        raise ConfigurationError(
            f"the plan of {plan.nfe} calls ({plan.sampler}) holds no calibration in its provenance",
            where="plan",
            why=f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            suggestion="give a plan that calibrate() made, or 'noise-sampling calibrate'; to measure any plan on a "
            "model, use compare",
        )
    return stated


def _rebuilt(stated: Any, name: str) -> Mapping[str, Any] | None:
    """A condition from its description in a provenance.

    Raises:
        ConfigurationError: the description does not tell the numbers.
    """
    if stated is None:
        return None

    def rebuilt(value: Any, where: str) -> Any:
        if isinstance(value, Mapping):
            return {key: rebuilt(each, f"{where}.{key}") for key, each in value.items()}
        try:
            return torch.tensor(value) if isinstance(value, list) else _number(value)
        except (TypeError, ValueError, RuntimeError):
            raise ConfigurationError(
                f"the provenance holds only {shown(value)}",
                where=where,
                suggestion=f"give the {name.replace('_', ' ')} of the calibration (labels or prompts)",
            ) from None

    found: Mapping[str, Any] = rebuilt(stated, name)
    return found


def _number(value: Any) -> Any:
    if isinstance(value, bool | int | float | None):
        return value
    raise TypeError


def _of_config(stated: Any, here: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The settings of two configs that a run of a plan reads: name, stated, here.

    A field counts where both configs switch on what it belongs to. Provenances of earlier versions may lack some.
    """
    for name, switch in _FIELDS.items() if isinstance(stated, Mapping) else ():
        if name in stated and (switch is None or (stated.get(switch) and here[switch])):
            yield name.replace("prediction_type", "prediction type"), stated[name], here[name]


def _dtype_named(stated: Any) -> torch.dtype | None:
    """A dtype from its name in a provenance; None: that of ``sample``."""
    found = getattr(torch, str(stated).removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else None


def _plain(value: Any) -> Any:
    """Plain data in which numbers are equal whatever their type, and tuples are lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
