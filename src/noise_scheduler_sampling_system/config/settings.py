"""The settings of a noise schedule, its model and its sampling: one frozen, validated record."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from ..support.data_files import parse_json, read_table, write_table
from ..support.errors import ConfigurationError, cut, shown
from ..support.hooks import Hook
from ..support.mistakes import Mistakes
from ..support.plugins import why_missing
from ..support.registry import Registry, did_you_mean
from .choices import BetaSchedule
from .combinations import (
    check_beta_range,
    check_steps_offset,
    check_threshold_range,
    check_trained_betas,
    evaluated_betas,
    refuse_two_limits,
)
from .options import Options
from .prediction import PREDICTION_ALIASES, PREDICTION_TYPES, TWO_TIME_TYPES
from .pydantic_errors import configuration_error
from .registries import PRESETS, SCHEDULES, SPACINGS, defaults_of_schedule

__all__ = ["SCHEDULE_FIELDS", "NoiseSchedulerConfig"]

#: The fields that define the noise schedule, except its name and its own options.
SCHEDULE_FIELDS = frozenset({
    "num_train_timesteps", "beta_start", "beta_end", "trained_betas", "rescale_betas_zero_snr", "steps_offset",
})  # fmt: skip

#: Reads a scheduler of diffusers; the integration provides it.
FROM_DIFFUSERS: Hook[Callable[[Any, float | None], NoiseSchedulerConfig]] = Hook("NoiseSchedulerConfig.from_diffusers")

VARIANCE_TYPES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")
#: The spacing that suits the sampler (spacing_choice.py): it is in no table.
_AUTO = "auto"


@final
class NoiseSchedulerConfig(BaseModel):
    """Everything that defines a noise schedule and how its samplers read a model.

    Frozen: :meth:`replace` makes a changed copy. An unknown key raises an error that suggests the nearest valid name.

    Attributes:
        num_train_timesteps: T, the number of noise levels the model was trained on; from 2 to 1000000.
        beta_start: β at the first (cleanest) level; above 0 and below 1.
        beta_end: β at the last (noisiest) level; above 0 and below 1. The cosine schedule needs neither.
        beta_schedule: a :class:`BetaSchedule`, its value, or any name of a noise schedule, also
            of one without betas ("edm", "flow", ...).
        schedule_options: the noise schedule's own options by name, e.g. {"shift": 3.0} of "flow".
        trained_betas: the T betas of ``beta_schedule="custom"``: an array, or a function
            β(u) of u = i/(T−1) in [0, 1], which is evaluated at once and kept as numbers.
        rescale_betas_zero_snr: shift and scale √ᾱ so that the last level has no signal
            (Lin et al. 2023, arXiv 2305.08891, Algorithm 1).
        prediction_type: what the model returns: "epsilon" (the noise ε), "sample" (the
            clean x₀), "v_prediction" (v = α·ε − σ·x₀) or "flow_prediction" (ε − x₀). The default of "flow" is
            "flow_prediction", that of "edm" is "sample". A network of two times (x, t, r) predicts one of these for
            the straight step from t to r, "state" (x_r) or "average_velocity" ((x_t − x_r)/(t − r)).
        clip_sample: clip the predicted clean sample to ±``clip_sample_range``. For data
            with that range only. Off by default, because it destroys latents.
        clip_sample_range: the largest absolute value of the data; above 0.
        thresholding: dynamic thresholding of the predicted clean sample (Imagen, Saharia
            et al. 2022, arXiv 2205.11487, §2.3): with s the ``dynamic_thresholding_ratio``
            quantile of |x₀| over one sample, limited to
            [``sample_padding_norm``, ``sample_max_value``], x₀ becomes clamp(x₀, −s, s)/s.
        dynamic_thresholding_ratio: the quantile; from 0 to 1.
        sample_max_value: the largest s; above 0.
        sample_padding_norm: the smallest s (1.0 is Imagen's rule); above 0.
        sample_padding_threshold: τ; entries with |x₀| < τ are padding and are left out of
            the quantile (0.0 leaves none out); at least 0.
        timestep_spacing: which levels a run of N steps visits: "leading", "trailing",
            "linspace", "karras", ... or a registered name. "auto", the default, is the spacing that suits
            the sampler (its ``spacing``). With ``steps_offset`` or ``spacing_options`` it is "leading".
            Schedules without betas have their own default.
        spacing_options: the spacing's own options by name, e.g. {"rho": 5.0} of "karras".
        steps_offset: added to every timestep of the "leading" spacing; at least 0.
        use_clipped_model_output: where the noise direction comes from when clipping or thresholding is on:
            True: from the clipped clean sample (as in guided-diffusion); False: from the raw model output (DDIM
            only; the default of diffusers).
        variance_type: the variance of DDPM's noise: "fixed_small" (the posterior's),
            "fixed_large" (β), their "_log" spellings, "learned" (the model's second half of
            channels is the log-variance) or "learned_range" (it interpolates between the
            two, Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 15).

    Raises:
        ConfigurationError: a value out of range, an unknown key, or fields that cannot work
            together.

    Examples:
        >>> from noise_scheduler_sampling_system import NoiseSchedulerConfig
        >>> config = NoiseSchedulerConfig(beta_schedule="cosine", prediction_type="v_prediction")
        >>> config.replace(timestep_spacing="karras").timestep_spacing
        'karras'
        >>> NoiseSchedulerConfig.preset("sd3").schedule_options["shift"]
        3.0
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_enum_values=False, validate_default=True)

    num_train_timesteps: int = Field(1000, ge=2, le=1_000_000)
    beta_start: float = Field(0.0001, gt=0.0, lt=1.0)
    beta_end: float = Field(0.02, gt=0.0, lt=1.0)
    beta_schedule: BetaSchedule | str = BetaSchedule.LINEAR
    schedule_options: Mapping[str, Any] = Field(default_factory=Options)
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False
    prediction_type: str = "epsilon"
    clip_sample: bool = False
    clip_sample_range: float = Field(1.0, gt=0.0, allow_inf_nan=False)
    thresholding: bool = False
    dynamic_thresholding_ratio: float = Field(0.995, ge=0.0, le=1.0)
    sample_max_value: float = Field(1.0, gt=0.0, allow_inf_nan=False)
    sample_padding_norm: float = Field(1.0, gt=0.0, allow_inf_nan=False)
    sample_padding_threshold: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    timestep_spacing: str = "auto"
    spacing_options: Mapping[str, Any] = Field(default_factory=Options)
    steps_offset: int = Field(0, ge=0)
    use_clipped_model_output: bool = True
    variance_type: str = "fixed_small"

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise configuration_error(error, type(self).model_fields) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise ConfigurationError(
                "a config cannot be changed",
                where=name,
                why="pipelines, plans and threads share it",
                suggestion=f"config.replace({name}=...) makes a copy; pipeline.update_config({name}=...) changes a "
                "pipeline's",
            )
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        raise ConfigurationError(
            "a field of a config cannot be deleted", where=name, suggestion="config.replace(...) makes a copy"
        )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> NoiseSchedulerConfig:
        """A copy, with changes that are checked as :meth:`replace` does."""
        return self.replace(**update) if update else super().model_copy(deep=deep)

    copy = model_copy  # type: ignore[assignment]  # pydantic's does not check the changes

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> NoiseSchedulerConfig:
        """A config from a mapping, as :meth:`from_dict`; a config as it is."""
        return obj if isinstance(obj, cls) else cls.from_dict(obj)

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> NoiseSchedulerConfig:
        """A config from JSON text, as :meth:`from_dict`.

        Raises:
            ConfigurationError: the text is not valid JSON, or a setting in it is wrong.
        """
        try:
            fields = parse_json(json_data if isinstance(json_data, str) else bytes(json_data).decode("utf-8-sig"))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"is not valid JSON: {cut(error)}", where="json_data", suggestion="give the text of one JSON object"
            ) from None
        return cls.from_dict(fields)

    @classmethod
    def model_validate_strings(cls, obj: Any, **options: Any) -> NoiseSchedulerConfig:
        """A config from a mapping of texts, as :meth:`from_dict`, which reads numbers and flags from texts."""
        return cls.from_dict(obj)

    @classmethod
    def preset(cls, name: str, *, tokens: int | None = None, **changes: Any) -> NoiseSchedulerConfig:
        """The settings of a published model, e.g. "sdxl" or "edm-cifar10"; see :mod:`..schedules.presets`.

        Args:
            name: the preset's name or an alias.
            tokens: the length of the sequence that the network makes of an image or video, for models whose levels
                depend on it (FLUX, Qwen-Image, LTX-2, ...): (height/16)·(width/16) for images. Default: that of
                1024×1024, or what the preset says.
            changes: fields to set differently, as in :meth:`replace`.

        Raises:
            ConfigurationError: an unknown preset (the message suggests the nearest ones), or ``tokens`` for a model
                whose levels do not depend on them.
        """
        config = cls(**PRESETS.get(name, "preset").fields_for(tokens))
        return config.replace(**changes) if changes else config

    @classmethod
    def from_diffusers(cls, scheduler: Any, *, mu: float | None = None) -> NoiseSchedulerConfig:
        """The settings of a diffusers scheduler: path, model and spacing.

        ``integrations.diffusers.read(scheduler)`` also returns its sampler with options. Settings that diffusers
        passes to ``step()``, like DDIM's ``use_clipped_model_output``, keep the default of this library.

        Args:
            scheduler: the object, its config, or the dictionary of a ``scheduler_config.json``.
            mu: μ of the shift by resolution, for a scheduler with ``use_dynamic_shifting``.

        Raises:
            ConfigurationError: a scheduler without a path here, a field that has no counterpart, or ``mu`` is missing
                where the shift depends on it.
        """
        return FROM_DIFFUSERS.function(scheduler, mu)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], where: str = "") -> NoiseSchedulerConfig:
        """A config from a mapping, as a file holds it; errors begin with ``where``."""
        if not isinstance(fields, Mapping):
            raise ConfigurationError(
                f"expected a table of settings, got {type(fields).__name__}",
                where=where,
                suggestion="write the settings as key: value lines",
            )
        try:
            return cls(**{str(key): value for key, value in fields.items()})
        except ConfigurationError as error:
            raise error.under(where) from None

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain data: what the YAML and JSON files hold."""
        return self.model_dump(mode="json")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NoiseSchedulerConfig:
        """The config in a YAML or JSON file that holds one, as :meth:`save` writes it.

        Raises:
            FileError: the file is missing or malformed.
            ConfigurationError: a setting in it is wrong.
        """
        return cls.from_dict(read_table(path), where=str(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write every field as YAML or JSON, by the file's ending, whole or not at all.

        Raises:
            FileError: another ending, or a file that cannot be written.
        """
        write_table(path, self.to_dict())

    def replace(self, **changes: Any) -> NoiseSchedulerConfig:
        """A copy with some fields changed, validated as a whole.

        A new schedule has its own defaults: the options and defaults of the old one are dropped.
        """
        kept = {name: getattr(self, name) for name in self.model_fields_set}
        if "beta_schedule" in changes and _names_differ(SCHEDULES, changes["beta_schedule"], self.beta_schedule):
            old = {"schedule_options": self.schedule_options, **defaults_of_schedule(self.beta_schedule)}
            kept = {name: value for name, value in kept.items() if name not in old or value != old[name]}
        if "timestep_spacing" in changes and _names_differ(
            SPACINGS, changes["timestep_spacing"], self.timestep_spacing
        ):
            kept.pop("spacing_options", None)
            if not str(changes["timestep_spacing"]).startswith(("leading", "auto")):
                kept.pop("steps_offset", None)  # of the old spacing
        return type(self)(**{**kept, **changes})

    @field_serializer("beta_schedule", when_used="json")
    def _schedule_name(self, value: BetaSchedule | str) -> str:
        return Registry.key(value)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_schedule(cls, data: Any) -> Any:
        return {**defaults_of_schedule(data.get("beta_schedule")), **data} if isinstance(data, dict) else data

    @field_validator("schedule_options", "spacing_options")
    @classmethod
    def _read_only(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return Options(options)

    @field_serializer("schedule_options", "spacing_options")
    def _plain_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return dict(options)

    @model_validator(mode="before")
    @classmethod
    def _timesteps_of_the_betas(cls, data: Any) -> Any:
        betas: Any = data.get("trained_betas") if isinstance(data, dict) else None
        if np.ndim(betas) == 1 and data.get("num_train_timesteps") is None:
            return {**data, "num_train_timesteps": len(betas)}
        return data

    @field_validator("trained_betas", mode="before")
    @classmethod
    def _betas_as_numbers(cls, betas: Any, info: ValidationInfo) -> Any:
        if callable(betas):
            count = info.data.get("num_train_timesteps")  # missing where its check failed
            return None if count is None else evaluated_betas(betas, count)
        return betas.tolist() if hasattr(betas, "tolist") else betas

    @field_validator("beta_schedule", mode="before")
    @classmethod
    def _known_schedule(cls, value: Any) -> Any:
        name = SCHEDULES.canonical(value)
        if name in BetaSchedule._value2member_map_:
            return BetaSchedule(name)
        SCHEDULES.get(name)
        return name

    @field_validator("prediction_type", "variance_type", "timestep_spacing", mode="before")
    @classmethod
    def _known_name(cls, value: Any, info: Any) -> Any:
        name = _spacing_name(value) if info.field_name == "timestep_spacing" else Registry.key(value)
        if info.field_name == "prediction_type":
            name = PREDICTION_ALIASES.get(name, name)
        predictions = (*PREDICTION_TYPES, *TWO_TIME_TYPES)
        allowed = {"prediction_type": predictions, "variance_type": VARIANCE_TYPES}.get(info.field_name, SPACINGS)
        if (info.field_name, name) != ("timestep_spacing", _AUTO) and name not in allowed:
            raise ConfigurationError(
                f"{shown(value)} is not a {info.field_name}",
                where=info.field_name,
                why=why_missing(SPACINGS.kind, name) if allowed is SPACINGS else "",
                suggestion=allowed.nearest(name) if isinstance(allowed, Registry) else did_you_mean(name, allowed),
            )
        return name

    @model_validator(mode="after")
    def _combinations(self) -> NoiseSchedulerConfig:
        mistakes = Mistakes()
        with mistakes.collected():
            check_beta_range(self.beta_start, self.beta_end)
        with mistakes.collected():
            custom = self.beta_schedule is BetaSchedule.CUSTOM
            check_trained_betas(self.trained_betas, self.num_train_timesteps, custom=custom)
        with mistakes.collected():
            check_steps_offset(self.steps_offset, self.timestep_spacing)
        with mistakes.collected():
            refuse_two_limits(self.clip_sample, self.thresholding)
        with mistakes.collected():
            check_threshold_range(self.sample_padding_norm, self.sample_max_value, thresholding=self.thresholding)
        mistakes.raise_all()
        return self


def _names_differ(registry: Registry[Any], new: Any, old: Any) -> bool:
    """Whether two names stand for different entries."""
    automatic = registry is SPACINGS and _AUTO in (new, old)
    return bool(new != old if automatic else registry.canonical(new) != registry.canonical(old))


def _spacing_name(value: Any) -> str:
    """The name of a spacing, or "auto", which is in no table."""
    return _AUTO if value == _AUTO else SPACINGS.canonical(value)
