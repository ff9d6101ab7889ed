"""A diffusers scheduler, or its config, as settings of ours: path, model, sampler with options, spacing.

Read are the fields that the class itself reads: what else a config file carries, the class ignores, and so
does :func:`read`. A field that changes results and cannot be expressed is refused or, where it concerns
nothing but the choice of levels, noted (:attr:`Reading.notes`).
"""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ....config.prediction import Preconditioning
from ....config.registries import SAMPLERS
from ....config.sampler_aliases import NAMES
from ....config.settings import FROM_DIFFUSERS, NoiseSchedulerConfig
from ....support.errors import ConfigurationError
from ....support.registry import did_you_mean

__all__ = [
    "OURS", "SIGMA_FLAGS", "Preconditioning", "Reading", "config_fields", "config_of", "named_by", "read",
    "require_diffusers", "scheduler_class",
]  # fmt: skip

#: Where a config of diffusers keeps what is ours.
OURS = "_plan_scheduler"
Fields = Mapping[str, Any]
#: (sampler, options), or why there is none.
Twin = tuple[str, dict[str, Any]] | str


@dataclass(frozen=True)
class Reading:
    """What a diffusers scheduler is in our terms.

    Attributes:
        class_name: diffusers' class.
        fields: every field of that class, defaults included.
        config: path, model and spacing; with what the class's own sampler reads besides (``variance_type``,
            ``use_clipped_model_output``), which :meth:`config_for` leaves out for other samplers.
        sampler, options: the sampler that the class is, or None and :attr:`refusal`.
        lowers_below: with at least so many steps the class ignores ``lower_order_final``; None: never.
        family: how its levels are written down (see visited.py).
        preconditioning: for EDM networks, whose conversions diffusers leaves to the scheduler.
        clock: what the network is told, where it is not the path's time: "log", ¼·ln(σ/α), or
            "atan", (2/π)·arctan(σ/α).
        needs_mu: whether the shift depends on the image's size, and was not given as ``mu``.
        refusal: why there is no sampler.
        traceable: whether the class can be traced all the same.
        notes: where the config's spacing is not exactly that of the class.
    """

    class_name: str
    fields: Fields
    config: NoiseSchedulerConfig
    family: str
    sampler: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    lowers_below: int | None = None
    preconditioning: Preconditioning | None = None
    clock: str | None = None
    needs_mu: bool = False
    refusal: str = ""
    traceable: bool = False
    notes: tuple[str, ...] = ()

    def config_for(self, sampler: str) -> NoiseSchedulerConfig:
        """The config without the fields that a sampler would refuse for not reading them."""
        reads = SAMPLERS.get(sampler).reads
        config, changes = self.config, dict[str, Any]()
        if not config.use_clipped_model_output and "use_clipped_model_output" not in reads:
            changes["use_clipped_model_output"] = True
        if not config.variance_type.startswith("learned") and "variance_type" not in reads:
            changes["variance_type"] = "fixed_small"
        return config.replace(**changes) if any(getattr(config, k) != v for k, v in changes.items()) else config

    def options_for(self, steps: int) -> dict[str, Any]:
        """The sampler's options for a run of so many steps."""
        options = dict(self.options)
        many = self.lowers_below is not None and steps >= self.lowers_below
        if many and "lower_order_final" in options and not self.fields.get("euler_at_final"):
            options["lower_order_final"] = False
        return options


def read(scheduler: Any, *, mu: float | None = None) -> Reading:
    """Read a diffusers scheduler.

    Args:
        scheduler: a scheduler object, its config, or the dictionary of a ``scheduler_config.json``.
        mu: of the shift by resolution, for flow schedulers with ``use_dynamic_shifting``.

    Raises:
        ConfigurationError: a scheduler without a path here, a field that cannot be honoured, or a config that
            does not say (nor show) which class it is of.
    """
    name, given = _named(scheduler)
    if name not in _KINDS:
        raise ConfigurationError(
            f"diffusers' {name} is not read: {_NO_PATH.get(name, 'it is none that this library knows')}",
            where="scheduler",
            suggestion="use a scheduler of a Gaussian path" if name in _NO_PATH else did_you_mean(name, _KINDS),
        )
    defaults = _defaults(name)
    fields = {key: given.get(key, default) for key, default in defaults.items()}
    return _KINDS[name](name, fields, mu)


@FROM_DIFFUSERS.provide
def config_of(scheduler: Any, mu: float | None = None) -> NoiseSchedulerConfig:
    """``NoiseSchedulerConfig.from_diffusers``."""
    reading = read(scheduler, mu=mu)
    if reading.needs_mu:
        raise ConfigurationError(
            "the shift depends on the image's size (use_dynamic_shifting)",
            where="mu",
            suggestion="give mu=math.log(resolution_shift(tokens)), or set use_dynamic_shifting=False and a shift",
        )
    for note in reading.notes:
        warnings.warn(f"{reading.class_name}: {note}", stacklevel=3)
    return reading.config.replace(use_clipped_model_output=True)


def scheduler_class(name: str) -> type[Any]:
    """diffusers' class of this name."""
    found: type[Any] = getattr(require_diffusers(), name)
    return found


def require_diffusers() -> Any:
    """The library.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ConfigurationError(
            "needs diffusers, which is not installed",
            where="integrations.diffusers",
            why=str(error),
            suggestion="pip install 'noise-scheduler-sampling-system[diffusers]'",
        ) from None
    return diffusers


@functools.lru_cache(maxsize=256)
def _defaults(name: str) -> dict[str, Any]:
    """The fields that a class reads, with their defaults."""
    parameters = inspect.signature(scheduler_class(name).__init__).parameters
    return {
        key: None if p.default is p.empty else p.default
        for key, p in parameters.items()
        if key != "self" and p.kind is not p.VAR_KEYWORD
    }


def config_fields(scheduler: Any) -> dict[str, Any]:
    """The fields of a scheduler or of its config, as they are.

    Raises:
        ConfigurationError: something else.
    """
    plain = isinstance(scheduler, Mapping)
    fields = scheduler if plain else getattr(scheduler, "config", None)
    of_pipeline = "scheduler" in scheduler if plain else hasattr(scheduler, "scheduler")
    if isinstance(scheduler, type) or not isinstance(fields, Mapping) or of_pipeline:
        what = f"the class {scheduler.__name__}" if isinstance(scheduler, type) else f"a {type(scheduler).__name__}"
        raise ConfigurationError(
            "is the config of a pipeline" if plain else f"is {what}, neither a scheduler nor its config",
            where="scheduler",
            suggestion="give pipe.scheduler, or pipe.scheduler.config",
        )
    return dict(fields)


def _named(scheduler: Any) -> tuple[str, dict[str, Any]]:
    """Class and fields of what was given."""
    fields = config_fields(scheduler)
    saved = fields.get(OURS)
    # one of ours, which says whose place it took, unless a class of diffusers has been made of it since
    if isinstance(saved, Mapping) and fields.get("_class_name", "PlanScheduler") == "PlanScheduler":
        return str(saved["scheduler"]), fields
    if not isinstance(scheduler, Mapping):
        return type(scheduler).__name__, fields
    if "_class_name" in fields:
        return str(fields["_class_name"]), fields
    found = named_by(fields)
    if not found:
        raise ConfigurationError(
            "the config names no class, and its fields are those of none",
            where="scheduler._class_name",
            suggestion="give the scheduler itself: from_config(pipe.scheduler, ...)",
        )
    return found[0], fields


@functools.lru_cache(maxsize=256)
def _classes_with(keys: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that such a config may be of, the better known first.

    A class writes down its own fields first, in order; what it took over from the config of another one follows.
    """
    own = {name: tuple(_defaults(name)) for name in _KINDS}
    begun = [name for name, fields in own.items() if fields == keys[: len(fields)]]
    longest = max((len(own[name]) for name in begun), default=0)
    first = tuple(name for name in begun if len(own[name]) == longest)
    return first or tuple(name for name, fields in own.items() if set(fields) == set(keys))


def named_by(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes whose config this may be: one, unless it names none and several have the same fields."""
    if "_class_name" in config or OURS in config:
        return (_named(config)[0],)
    return _classes_with(tuple(key for key in config if not key.startswith("_")))


# paths

_BETAS: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear"},
    "squaredcos_cap_v2": {"beta_schedule": "cosine"},
    "sigmoid": {"beta_schedule": "sigmoid"},
    "exp": {"beta_schedule": "exp"},
    "laplace": {"beta_schedule": "laplace", "schedule_options": {"variant": "diffusers"}},
}


def _beta_path(f: Fields) -> dict[str, Any]:
    path: dict[str, Any] = {"num_train_timesteps": f["num_train_timesteps"]}
    if f.get("trained_betas") is not None:
        betas = f["trained_betas"]
        path |= {"beta_schedule": "custom", "trained_betas": betas, "num_train_timesteps": len(betas)}
    else:
        name = f["beta_schedule"]
        if name not in _BETAS:
            raise ConfigurationError(
                f"got {name!r}", where="scheduler.beta_schedule", suggestion=did_you_mean(name, _BETAS)
            )
        path |= _BETAS[name]
        if name in ("linear", "scaled_linear", "sigmoid"):
            path |= {"beta_start": f["beta_start"], "beta_end": f["beta_end"]}
    if f.get("rescale_betas_zero_snr"):
        path["rescale_betas_zero_snr"] = True
    if f.get("snr_shift_scale", 1.0) != 1.0:
        path["schedule_options"] = {**path.get("schedule_options", {}), "snr_shift": math.sqrt(f["snr_shift_scale"])}
    return path


def _flow_path(f: Fields, shift: float, mu: float | None, twice: bool) -> tuple[dict[str, Any], bool]:
    """The straight path, and whether its shift is still to be told."""
    dynamic = bool(f.get("use_dynamic_shifting"))
    if dynamic and mu is not None:
        shift = math.exp(mu) if f.get("time_shift_type", "exponential") == "exponential" else mu
    elif dynamic:
        shift = 1.0
    total = f["num_train_timesteps"]
    lowest = 1.0 / total if total > 1 else 1e-3  # ACE-Step counts time as σ
    for _ in range(2 if twice and not dynamic else 1):  # diffusers shifts its smallest σ, and then every σ
        lowest = shift * lowest / (1.0 + (shift - 1.0) * lowest)
    options = {"shift": float(shift), "sigma_min": lowest, "time_scale": float(total)}
    path = {"beta_schedule": "flow", "schedule_options": options, "prediction_type": "flow_prediction"}
    return path, dynamic and mu is None


def _model(f: Fields, clips: bool = True) -> dict[str, Any]:
    """What the network returns, and what is done to the predicted clean sample."""
    model: dict[str, Any] = {}
    kind = f.get("prediction_type", "epsilon")
    model["prediction_type"] = {"original_sample": "sample"}.get(kind, kind)
    if f.get("thresholding") and clips:
        model |= {
            "thresholding": True,
            "dynamic_thresholding_ratio": f["dynamic_thresholding_ratio"],
            "sample_max_value": f["sample_max_value"],
            # theirs is clamp(s, 1, sample_max_value), which is the latter where that is below 1
            **({"sample_padding_norm": f["sample_max_value"]} if 0.0 < f["sample_max_value"] < 1.0 else {}),
        }
    elif f.get("clip_sample") and clips:
        model |= {"clip_sample": True, "clip_sample_range": f.get("clip_sample_range", 1.0)}
    if f.get("variance_type"):
        model["variance_type"] = f["variance_type"]
    return model


# spacings

#: Flags that choose levels by σ → (spacing, options).
SIGMA_FLAGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "use_karras_sigmas": ("karras", {}),
    "use_exponential_sigmas": ("exponential", {}),
    "use_beta_sigmas": ("beta", {"of": "sigma"}),
    "use_lu_lambdas": ("log_snr", {}),
}


def _spacing(f: Fields, dpm: bool, lowest: bool) -> tuple[dict[str, Any], list[str]]:
    """Fields of the config, and notes."""
    notes = []
    options: dict[str, Any] = {}
    name = f.get("timestep_spacing", "linspace" if dpm else "leading")
    chosen = next((flag for flag in SIGMA_FLAGS if f.get(flag)), None)
    if chosen is not None:
        if not dpm and name != "trailing":
            notes.append(
                f"{chosen} of this class begins and ends where the {name!r} timesteps do; here, where the schedule does"
            )
        name, options = SIGMA_FLAGS[chosen][0], dict(SIGMA_FLAGS[chosen][1])
    elif dpm:
        name = {"leading": "leading_dpm", "linspace": "sgm_uniform"}.get(name, name)
    if f.get("lambda_min_clipped", -math.inf) > -math.inf:
        notes.append("lambda_min_clipped, which leaves out the noisiest levels, is not part of the spacing")
    for key in ("sigma_min", "sigma_max"):
        if f.get(key) is not None and name in ("karras", "exponential"):
            options[key] = f[key]
    if lowest:
        options["end"] = "lowest"
    spacing: dict[str, Any] = {"timestep_spacing": name}
    if options:
        spacing["spacing_options"] = options
    if f.get("steps_offset") and name in ("leading", "leading_dpm"):
        spacing["steps_offset"] = f["steps_offset"]
    return spacing, notes


# kinds

_Kind = Callable[[str, dict[str, Any], float | None], Reading]


def _of_names(name: str, f: Fields) -> Twin:
    known = NAMES[name]
    return known.sampler, dict(known.options)


def _made(name: str, f: Fields, config: Mapping[str, Any], family: str, twin: Twin, **more: Any) -> Reading:
    made = Reading(name, dict(f), NoiseSchedulerConfig(**config), family, **more)
    if isinstance(twin, str):
        return replace(made, refusal=twin, traceable=name in _TRACEABLE)
    # the class as it is, where its steps widen the data, too
    published = {"guarded": False} if SAMPLERS.get(twin[0]).guards else {}
    return replace(made, sampler=twin[0], options={**twin[1], **published})


def _by_timesteps(
    twin: Callable[[str, Fields], Twin] = _of_names, *, clips: bool = True, clean: bool | None = None,
    lowest: bool = False, family: str = "times",
) -> _Kind:  # fmt: skip
    """Classes that list whole timesteps: DDIM and its like."""

    def kind(name: str, f: dict[str, Any], mu: float | None) -> Reading:
        ends_clean = f.get("set_alpha_to_one", True) if clean is None else clean
        spacing, notes = _spacing(f, dpm=False, lowest=lowest or not ends_clean)
        model = _model(f, clips)
        if "ddim" in name.lower() and (model.get("clip_sample") or model.get("thresholding")):
            model["use_clipped_model_output"] = False  # the default of its step()
        return _made(name, f, {**_beta_path(f), **model, **spacing}, family, twin(name, f), notes=tuple(notes))

    return kind


def _by_ratios(twin: Callable[[str, Fields], Twin] = _of_names, *, stride: int = 1) -> _Kind:
    """Classes that keep x/α and list σ/α: Euler and its like."""

    def kind(name: str, f: dict[str, Any], mu: float | None) -> Reading:
        spacing, notes = _spacing(f, dpm=False, lowest=f.get("final_sigmas_type", "zero") == "sigma_min")
        if f.get("interpolation_type", "linear") != "linear":
            notes.append("interpolation_type='log_linear' is not a spacing here")
        config = {**_beta_path(f), **_model(f), **spacing}
        family = "ratios" if stride == 1 else "ratios, twice"
        continuous = f.get("timestep_type") == "continuous" and f["prediction_type"] == "v_prediction"
        clock = "log" if continuous else None
        if continuous:
            notes.append("timestep_type='continuous': the network is to be told ¼·ln(σ/α), not the path's time")
        return _made(name, f, config, family, twin(name, f), clock=clock, notes=tuple(notes))

    return kind


def _by_dpm(twin: Callable[[str, Fields], Twin], *, ends: str = "final_sigmas_type", below: int | None = None) -> _Kind:
    """The DPM-Solver family: x in its own coordinates, levels by σ/α, or σ on the straight path."""

    def kind(name: str, f: dict[str, Any], mu: float | None) -> Reading:
        lowest = ends == "lowest" or f.get(ends, "zero") == "sigma_min"
        needs_mu, model = False, _model(f)
        spacing, notes = _spacing(f, dpm=True, lowest=lowest)
        if str(model.get("variance_type")).startswith("fixed"):
            del model["variance_type"]  # which matters to this family where it is learned, and is split off
        if f.get("use_flow_sigmas"):
            path, needs_mu = _flow_path(f, f["flow_shift"], mu, twice=False)
            spacing = {"timestep_spacing": spacing["timestep_spacing"]} if _flagged(f) else {}
            notes = [note for note in notes if "lambda" not in note]
            if f.get("shift_terminal"):
                notes.append("shift_terminal, which moves the last level, is not part of the spacing")
            if lowest:
                notes.append("its last step stays at the last level; here the run goes on to the clean sample")
            config = {**model, **path, "prediction_type": f["prediction_type"], **spacing}
        else:
            config = {**_beta_path(f), **model, **spacing}
        return _made(
            name, f, config, "dpm", twin(name, f), lowers_below=below, needs_mu=needs_mu, notes=tuple(notes)
        )  # fmt: skip

    return kind


def _flagged(f: Fields) -> bool:
    return any(f.get(flag) for flag in SIGMA_FLAGS)


def _final(f: Fields) -> dict[str, Any]:
    return {"lower_order_final": bool(f.get("lower_order_final") or f.get("euler_at_final"))}


def _multistep(name: str, f: Fields) -> Twin:
    """DPM-Solver(++), multistep."""
    order, algorithm = f["solver_order"], f.get("algorithm_type", "dpmsolver++")
    if order not in (1, 2, 3):
        raise ConfigurationError(f"got {order!r}", where="scheduler.solver_order", suggestion="give 1, 2 or 3")
    kind = {"midpoint": "midpoint", "heun": "exact"}.get(f["solver_type"], "midpoint")
    if algorithm == "dpmsolver++":
        second, third = "dpmpp_2m", "dpmpp_3m"
    elif algorithm == "dpmsolver":
        second, third = "dpm_2m", "dpm_3m"
    elif algorithm == "sde-dpmsolver++":
        second, third = "dpmpp_2m_sde", "dpmpp_3m_sde"
    else:
        return f"algorithm_type={algorithm!r} has no sampler here; the same SDE on x₀ is 'sde-dpmsolver++'"
    if order == 1:
        return ("ancestral", {"eta": 1.0}) if algorithm.startswith("sde") else ("euler", {})
    if order == 2:
        return second, {"solver_type": kind, **_final(f)}
    if f.get("euler_at_final") and f.get("final_sigmas_type") == "sigma_min":
        return "euler_at_final lowers the last of many steps to order 1, and not the one before it to order 2"
    # the published third order; its second step, of order 2, has the exact weights ("heun")
    return third, {"solver_type": "as_published", "start": "plain", **_final(f)}


def _cosine_multistep(name: str, f: Fields) -> Twin:
    return _multistep(name, {**f, "algorithm_type": "sde-dpmsolver++"})


def _unipc(name: str, f: Fields) -> Twin:
    if f.get("solver_p") is not None:
        return "solver_p, another predictor, is not supported"
    disabled = set(f.get("disable_corrector") or ())
    options = {
        "order": f["solver_order"], "solver_type": f["solver_type"], "predict_x0": bool(f["predict_x0"]),
        "lower_order_final": bool(f["lower_order_final"]),
    }  # fmt: skip
    if disabled:
        # step i is corrected unless i is disabled: all of them, or it is another method
        if disabled >= set(range(min(50, max(disabled) + 1))) and len(disabled) > 1:
            return "unipc", {**options, "corrector": False}
        return f"disable_corrector={sorted(disabled)} turns the corrector off at some steps, here it is on or off"
    return "unipc", options


def _deis(name: str, f: Fields) -> Twin:
    options = {"order": f["solver_order"], "polynomial": "log_rho", "start": "plain", **_final(f)}
    return ("euler", {}) if f["solver_order"] == 1 else ("deis", options)


def _sa_solver(name: str, f: Fields) -> Twin:
    if f.get("tau_func") is not None:
        return "tau_func is a function, which cannot be read; use options tau, tau_start and tau_end of 'sa_solver'"
    if f.get("algorithm_type", "data_prediction") != "data_prediction":
        return "algorithm_type='noise_prediction' has no sampler here"
    total, shift = f["num_train_timesteps"], f["flow_shift"]
    first, last = 801 / total, 201 / total  # its default τ is 1 for 200 ≤ t ≤ 800
    if f.get("use_flow_sigmas"):  # where t is the shifted σ, and the option means a share of the schedule
        first, last = (sigma / (shift - (shift - 1.0) * sigma) for sigma in (800.5 / total, 199.5 / total))
    return "sa_solver", {
        "order": f["predictor_order"], "corrector_order": f["corrector_order"], "solver_type": "bh1",
        "corrector": f["corrector_order"] > 0, "lower_order_final": bool(f["lower_order_final"]),
        "tau": 1.0, "tau_start": min(first, 1.0), "tau_end": min(last, 1.0),
    }  # fmt: skip


def _pndm(name: str, f: Fields) -> Twin:
    return "pndm", {"skip_prk_steps": bool(f["skip_prk_steps"])}


def _lcm(name: str, f: Fields) -> Twin:
    return "lcm", {"timestep_scaling": float(f["timestep_scaling"])}


def _refused(why: str) -> Callable[[str, Fields], Twin]:
    return lambda name, f: why


def _by_flow(twin: Callable[[str, Fields], Twin] = _of_names, *, stride: int = 1) -> _Kind:
    """Flow matching: the straight path by σ."""

    def kind(name: str, f: dict[str, Any], mu: float | None) -> Reading:
        if f.get("invert_sigmas"):
            raise ConfigurationError(
                "invert_sigmas is on", where="scheduler.invert_sigmas",
                why="its time runs from noise at 0 to data at 1, which the straight path here does not",
                suggestion="use invert_sigmas=False with a network that is told the amount of noise",
            )  # fmt: skip
        if f.get("scale_factors"):
            raise ConfigurationError(
                "scale_factors is given", where="scheduler.scale_factors",
                why="it changes the size of x on the way, which no plan does", suggestion="leave it out",
            )  # fmt: skip
        path, needs_mu = _flow_path(f, f.get("shift", 1.0), mu, twice=True)
        name_of, notes = "linspace", []
        options: dict[str, Any] = {}
        for flag, (spacing, given) in SIGMA_FLAGS.items():
            if f.get(flag):
                name_of, options = spacing, dict(given)
        if f.get("shift_terminal"):
            notes.append("shift_terminal, which moves the last level, is not part of the spacing")
        config = {**path, "timestep_spacing": name_of, "spacing_options": options}
        family = "flow" if stride == 1 else "flow, twice"
        return _made(name, f, config, family, twin(name, f), needs_mu=needs_mu, notes=tuple(notes))

    return kind


def _flow_euler(name: str, f: Fields) -> Twin:
    return ("lcm", {}) if f.get("stochastic_sampling") else ("euler", {})


def _by_edm(twin: Callable[[str, Fields], Twin], clock: str = "log") -> _Kind:
    """EDM's σ, with the network's conversions."""

    def kind(name: str, f: dict[str, Any], mu: float | None) -> Reading:
        span = {"sigma_min": float(f["sigma_min"]), "sigma_max": float(f["sigma_max"])}
        spacing = {"karras": {"rho": float(f["rho"])}, "exponential": {}}[f["sigma_schedule"]]
        kind = f["prediction_type"]
        if kind not in ("epsilon", "v_prediction"):
            raise ConfigurationError(
                f"got {kind!r}", where="scheduler.prediction_type", suggestion="give 'epsilon' or 'v_prediction'"
            )
        config = {
            "beta_schedule": "edm", "schedule_options": span, "timestep_spacing": f["sigma_schedule"],
            "spacing_options": {**spacing, **({"end": "lowest"} if f["final_sigmas_type"] == "sigma_min" else {})},
            **{key: value for key, value in _model(f).items() if key != "prediction_type"},
        }  # fmt: skip
        sign = 1.0 if kind == "epsilon" else -1.0
        conversion = Preconditioning(float(f["sigma_data"]), sign)
        return _made(name, f, config, "edm", twin(name, f), lowers_below=15, preconditioning=conversion, clock=clock)

    return kind


def _ipndm(name: str, f: dict[str, Any], mu: float | None) -> Reading:
    if f.get("trained_betas") is not None:
        raise ConfigurationError(
            "trained_betas is given", where="scheduler.trained_betas",
            why="what IPNDMScheduler calls betas are the σ of one run, not a noise schedule", suggestion="leave it out",
        )  # fmt: skip
    config = {"beta_schedule": "v_diffusion"}
    note = "its timesteps, (2/π)·asin(sin²(π·t/2)) for even t, are not a spacing here"
    return _made(name, f, config, "own", _of_names(name, f), notes=(note,))


def _consistency(name: str, f: dict[str, Any], mu: float | None) -> Reading:
    span = {"sigma_min": float(f["sigma_min"]), "sigma_max": float(f["sigma_max"])}
    config: dict[str, Any] = {
        "beta_schedule": "edm", "schedule_options": span, "spacing_options": {"rho": float(f["rho"])},
        "clip_sample": bool(f["clip_denoised"]),
    }  # fmt: skip
    why = "the boundary condition of consistency models is the network's part here: sampler 'lcm', prediction 'sample'"
    return _made(name, f, config, "edm", why, notes=("the network is its raw output with the boundary condition",))


def _wuerstchen(name: str, f: dict[str, Any], mu: float | None) -> Reading:
    if f["scaler"] != 1.0:
        raise ConfigurationError(
            f"got {f['scaler']!r}", where="scheduler.scaler", why="the path of another clock is not built in",
            suggestion="use scaler=1.0",
        )  # fmt: skip
    config = {"beta_schedule": "wuerstchen", "schedule_options": {"s": float(f["s"])}}
    return _made(name, f, config, "own", "its pipelines hand it batches of times, one of which is no model call")


def _karras_ve(name: str, f: dict[str, Any], mu: float | None) -> Reading:
    span = {"sigma_min": float(f["sigma_min"]), "sigma_max": float(f["sigma_max"])}
    config = {"beta_schedule": "edm", "schedule_options": span}
    return _made(name, f, config, "own", "its pipeline adds the noise itself, by add_noise_to_input")


def _score_sde_ve(name: str, f: dict[str, Any], mu: float | None) -> Reading:
    span = {"sigma_min": float(f["sigma_min"]), "sigma_max": float(f["sigma_max"])}
    config = {"beta_schedule": "ve", "schedule_options": span}
    note = "its networks return the score, −ε/σ: multiply by −σ"
    return _made(name, f, config, "own", "its pipeline calls step_pred and step_correct, not step", notes=(note,))


def _unclip(name: str, f: dict[str, Any], mu: float | None) -> Reading:
    config = {**_beta_path(f), **_model(f), "timestep_spacing": "linspace"}
    return _made(name, f, config, "times", _of_names(name, f))


_SINGLE = "it takes the points in between from its own list, which no sampler here does; 'dpmpp_2s' takes the middle"
_INVERSE = "it goes from data to noise; here any sampler does so on a reversed grid"

#: Every class with a path here; of those with the same fields the better known comes first.
_KINDS: dict[str, _Kind] = {
    "DDIMScheduler": _by_timesteps(),
    "DDIMParallelScheduler": _by_timesteps(),
    "CogVideoXDDIMScheduler": _by_timesteps(clips=False),
    "CogVideoXDPMScheduler": _by_timesteps(_refused("its step() takes other arguments"), clips=False),
    "DDPMScheduler": _by_timesteps(clean=True),
    "DDPMParallelScheduler": _by_timesteps(clean=True),
    "PNDMScheduler": _by_timesteps(_pndm, family="pndm"),
    "LCMScheduler": _by_timesteps(_lcm, clean=True),
    "TCDScheduler": _by_timesteps(clips=False, lowest=True),
    "UnCLIPScheduler": _unclip,
    "RePaintScheduler": _by_timesteps(_refused("it paints into a known image, which is not a sampler's part here")),
    "DDIMInverseScheduler": _by_timesteps(_refused(_INVERSE)),
    "EulerDiscreteScheduler": _by_ratios(),
    "EulerAncestralDiscreteScheduler": _by_ratios(),
    "LMSDiscreteScheduler": _by_ratios(),
    "HeunDiscreteScheduler": _by_ratios(stride=2),
    "KDPM2DiscreteScheduler": _by_ratios(stride=2),
    "KDPM2AncestralDiscreteScheduler": _by_ratios(stride=2),
    "DPMSolverSDEScheduler": _by_ratios(stride=2),
    "DPMSolverMultistepScheduler": _by_dpm(_multistep, below=15),
    "DPMSolverMultistepInverseScheduler": _by_dpm(_refused(_INVERSE)),
    "DPMSolverSinglestepScheduler": _by_dpm(_refused(_SINGLE)),
    "DEISMultistepScheduler": _by_dpm(_deis, ends="lowest", below=15),
    "UniPCMultistepScheduler": _by_dpm(_unipc),
    "SASolverScheduler": _by_dpm(_sa_solver, ends="lowest"),
    "EDMEulerScheduler": _by_edm(lambda name, f: ("euler", {})),
    "EDMDPMSolverMultistepScheduler": _by_edm(_multistep),
    "CosineDPMSolverMultistepScheduler": _by_edm(_cosine_multistep, clock="atan"),
    "FlowMatchEulerDiscreteScheduler": _by_flow(_flow_euler),
    "FlowMatchHeunDiscreteScheduler": _by_flow(stride=2),
    "FlowMatchLCMScheduler": _by_flow(),
    "LTXEulerAncestralRFScheduler": _by_flow(_refused("it splits its step in another way, with less noise")),
    "IPNDMScheduler": _ipndm,
    "CMStochasticIterativeScheduler": _consistency,
    "DDPMWuerstchenScheduler": _wuerstchen,
    "KarrasVeScheduler": _karras_ve,
    "ScoreSdeVeScheduler": _score_sde_ve,
}

#: Those whose step is like that of others, so that a plan can be traced where no sampler is the same.
_TRACEABLE = {
    "DPMSolverSinglestepScheduler", "DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler",
    "UniPCMultistepScheduler", "SASolverScheduler", "LTXEulerAncestralRFScheduler",
}  # fmt: skip

_TOKENS = "its states are tokens, not Gaussian"
#: And every other one of diffusers.
_NO_PATH = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "DiscreteDDIMScheduler": _TOKENS,
    "EntropyBoundScheduler": _TOKENS,
    "VQDiffusionScheduler": _TOKENS,
    "ConsistencyDecoderScheduler": "it belongs to one decoder and has a schedule of its own",
    "FlowMapEulerDiscreteScheduler": "its network predicts a whole step, from one time to another",
    "HeliosScheduler": "it changes the size of x between its stages",
    "HeliosDMDScheduler": "it changes the size of x between its stages",
    "MiniMaxH3Scheduler": "its times and network output are of a model of its own",
    "PiflowScheduler": "its network returns a policy, not a prediction",
    "RFD4ProteinaScheduler": "its noise is not that of images: coordinates and latents each have their own path",
    "SCMScheduler": "TrigFlow, x = cos(t)·x₀ + σ_d·sin(t)·ε, is not built in",
}
