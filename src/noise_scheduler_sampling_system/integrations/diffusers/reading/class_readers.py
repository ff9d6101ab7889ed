"""How each family of scheduler classes is read: class name, fields and μ → :class:`Reading`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....config.prediction import Preconditioning
from ....config.registries import SAMPLERS
from ....config.settings import NoiseSchedulerConfig
from ....support.errors import ConfigurationError
from .field_settings import SIGMA_FLAGS, beta_path, flow_path, has_sigma_flag, model_settings, spacing_settings
from .pipeline_terms import Clock, PipelineTerms
from .refusals import refusal_of
from .scheduler_reading import ClassReader, Fields, LevelList, Reading, Twin
from .twins import TRACEABLE, TwinReader, named

__all__ = [
    "consistency", "edm_reader", "flow_reader", "ipndm", "karras_ve", "minimax", "multistep_reader", "ratio_reader",
    "score_sde_ve", "timestep_reader", "trigflow", "unclip", "wuerstchen",
]  # fmt: skip


_PLAIN = PipelineTerms()
_DATA_WARD = "its network is told the share of the signal, and predicts x₀ − ε: turn both round"


def _reading(
    name: str, f: Fields, config: Mapping[str, Any], level_list: LevelList, twin: Twin, **more: Any
) -> Reading:  # fmt: skip
    made = Reading(name, dict(f), NoiseSchedulerConfig(**config), level_list, **more)
    if isinstance(twin, str):
        return replace(made, refusal=twin, traceable=name in TRACEABLE)
    # the class has no guard that keeps the data's spread
    published = {"guarded": False} if SAMPLERS.get(twin[0]).guards else {}
    return replace(made, sampler=twin[0], options={**twin[1], **published})


def timestep_reader(
    twin: TwinReader = named, *, clips: bool = True, ends_clean: bool | None = None, ends_lowest: bool = False,
    level_list: LevelList = "times", terms: PipelineTerms = _PLAIN,
) -> ClassReader:  # fmt: skip
    """Reads classes that list whole timesteps: DDIM and its like.

    Args:
        twin: reads the sampler.
        clips: whether the class clips the clean sample.
        ends_clean: whether its run ends at the clean sample; None: as its field ``set_alpha_to_one`` says.
        ends_lowest: whether its run ends at the path's lowest level in any case.
        level_list: how it lists its levels.
        terms: what it does beside its steps.
    """

    def reader(name: str, f: dict[str, Any], mu: float | None) -> Reading:
        clean = f.get("set_alpha_to_one", True) if ends_clean is None else ends_clean
        spacing, notes = spacing_settings(f, dpm=False, ends_lowest=ends_lowest or not clean)
        model = model_settings(f, clips)
        if "ddim" in name.lower() and (model.get("clip_sample") or model.get("thresholding")):
            model["use_clipped_model_output"] = False  # the default of the class's step()
        config = {**beta_path(f), **model, **spacing}
        return _reading(name, f, config, level_list, twin(name, f), terms=terms, notes=tuple(notes))

    return reader


def ratio_reader(twin: TwinReader = named, *, stride: int = 1) -> ClassReader:
    """Reads classes that keep x/α and list σ/α: Euler and its like.

    Args:
        twin: reads the sampler.
        stride: how many entries of its list belong to one step.
    """

    def reader(name: str, f: dict[str, Any], mu: float | None) -> Reading:
        ends_lowest = f.get("final_sigmas_type", "zero") == "sigma_min"
        spacing, notes = spacing_settings(f, dpm=False, ends_lowest=ends_lowest)
        if f.get("interpolation_type", "linear") != "linear":
            notes.append("interpolation_type='log_linear' is not a spacing here")
        config = {**beta_path(f), **model_settings(f), **spacing}
        level_list: LevelList = "ratios" if stride == 1 else "ratios, twice"
        continuous = f.get("timestep_type") == "continuous" and f["prediction_type"] == "v_prediction"
        terms = PipelineTerms(clock="log" if continuous else None)
        if continuous:
            notes.append("timestep_type='continuous': the network is to be told ¼·ln(σ/α), not the path's time")
        return _reading(name, f, config, level_list, twin(name, f), terms=terms, notes=tuple(notes))

    return reader


def multistep_reader(
    twin: TwinReader, *, ends: str = "final_sigmas_type", lowers_below: int | None = None,
    terms: PipelineTerms = _PLAIN,
) -> ClassReader:  # fmt: skip
    """Reads the DPM-Solver family: x in the path's coordinates, levels by σ/α, or by σ on the straight path.

    Args:
        twin: reads the sampler.
        ends: the field that says where the run ends; "lowest": at the path's lowest level.
        lowers_below: see :class:`Reading`.
        terms: what it does beside its steps.
    """

    def reader(name: str, f: dict[str, Any], mu: float | None) -> Reading:
        lowest = ends == "lowest" or f.get(ends, "zero") == "sigma_min"
        needs_mu, model = False, model_settings(f)
        spacing, notes = spacing_settings(f, dpm=True, ends_lowest=lowest)
        if str(model.get("variance_type")).startswith("fixed"):
            del model["variance_type"]  # this family reads only a learned one, to split it off
        if f.get("use_flow_sigmas"):
            path, needs_mu = flow_path(f, f["flow_shift"], mu, shifts_twice=False)
            flagged = has_sigma_flag(f)
            spacing = {"timestep_spacing": spacing["timestep_spacing"]} if flagged else {}
            notes = [note for note in notes if "lambda" not in note]
            if f.get("shift_terminal") and not flagged:
                path["spacing_options"] = {"shift_terminal": float(f["shift_terminal"])}
            if lowest:
                notes.append("its last step stays at the last level; here the run goes on to the clean sample")
            config = {**model, **path, "prediction_type": f["prediction_type"], **spacing}
        else:
            config = {**beta_path(f), **model, **spacing}
        return _reading(
            name, f, config, "dpm", twin(name, f), lowers_below=lowers_below, departs=_departs(f), needs_mu=needs_mu,
            terms=terms, notes=tuple(notes),
        )  # fmt: skip

    return reader


def _departs(f: Fields) -> bool:
    """Whether the second step of a run of order 3, which is of order 2, has the midpoint's weight; ours is exact."""
    return bool(f.get("solver_order") == 3 and f.get("solver_type") == "midpoint")


def flow_reader(twin: TwinReader = named, *, stride: int = 1, shifts_twice: bool = True) -> ClassReader:
    """Reads flow-matching classes: the straight path, levels by σ.

    Args:
        twin: reads the sampler.
        stride: how many entries of its list belong to one step.
        shifts_twice: whether the class shifts its smallest σ, and then every σ again.
    """

    def reader(name: str, f: dict[str, Any], mu: float | None) -> Reading:
        if f.get("scale_factors"):
            raise ConfigurationError(
                "scale_factors is given", where="scheduler.scale_factors",
                why="it changes the size of x during the run, which no plan does", suggestion="leave it out",
            )  # fmt: skip
        path, needs_mu = flow_path(f, f.get("shift", 1.0), mu, shifts_twice=shifts_twice)
        spacing, notes, terms = "linspace", list[str](), _PLAIN
        options: dict[str, Any] = {}
        for flag, (flagged, given) in SIGMA_FLAGS.items():
            if f.get(flag):
                spacing, options = flagged, dict(given)
        if f.get("shift_terminal") and not has_sigma_flag(f):
            options["shift_terminal"] = float(f["shift_terminal"])
        elif f.get("shift_terminal"):
            notes.append(f"shift_terminal, which moves the ends of {spacing!r}, is not part of the spacing")
        config = {**path, "timestep_spacing": spacing, "spacing_options": options}
        level_list: LevelList = "flow" if stride == 1 else "flow, twice"
        if f.get("invert_sigmas"):
            level_list, terms = "flow, inverted", PipelineTerms("signal", float(f["num_train_timesteps"]), sign=-1.0)
            notes.append(_DATA_WARD)
        return _reading(name, f, config, level_list, twin(name, f), needs_mu=needs_mu, terms=terms, notes=tuple(notes))

    return reader


def edm_reader(twin: TwinReader, clock: Clock = "log") -> ClassReader:
    """Reads classes for EDM's networks, whose conversions the scheduler does.

    Args:
        twin: reads the sampler.
        clock: what the network is told.
    """

    def reader(name: str, f: dict[str, Any], mu: float | None) -> Reading:
        spacing = {"karras": {"rho": float(f["rho"])}, "exponential": {}}[f["sigma_schedule"]]
        prediction = f["prediction_type"]
        if prediction not in ("epsilon", "v_prediction"):
            raise ConfigurationError(
                f"got {prediction!r}",
                where="scheduler.prediction_type",
                suggestion="give 'epsilon' or 'v_prediction'",
            )
        config = {
            "beta_schedule": "edm", "schedule_options": _sigma_range(f), "timestep_spacing": f["sigma_schedule"],
            "spacing_options": {**spacing, **({"end": "lowest"} if f["final_sigmas_type"] == "sigma_min" else {})},
            **{key: value for key, value in model_settings(f).items() if key != "prediction_type"},
        }  # fmt: skip
        sign = 1.0 if prediction == "epsilon" else -1.0
        return _reading(
            name, f, config, "edm", twin(name, f), lowers_below=15, departs=_departs(f),
            terms=PipelineTerms(clock, preconditioning=Preconditioning(float(f["sigma_data"]), sign)),
        )  # fmt: skip

    return reader


def minimax(name: str, f: dict[str, Any], mu: float | None) -> Reading:
    path, _ = flow_path({"num_train_timesteps": 1000}, f["shift"], None, shifts_twice=False)
    path["schedule_options"]["time_scale"] = 1.0
    config = {**path, "timestep_spacing": "linspace"}
    terms = PipelineTerms("signal", sign=-1.0)
    twin = named("FlowMatchEulerDiscreteScheduler", f)
    return _reading(name, f, config, "flow", twin, terms=terms, counts_end=True, notes=(_DATA_WARD,))


def trigflow(name: str, f: dict[str, Any], mu: float | None) -> Reading:
    if f["prediction_type"] != "trigflow":
        raise ConfigurationError(
            f"got {f['prediction_type']!r}", where="scheduler.prediction_type", suggestion="give 'trigflow'"
        )
    scale = float(f["sigma_data"])
    config = {
        "beta_schedule": "trigflow", "prediction_type": "v_prediction", "timestep_spacing": "linspace",
        "num_train_timesteps": f["num_train_timesteps"],
    }  # fmt: skip
    terms = PipelineTerms(state_scale=scale, lists_end=True, unused_noise="silent")
    note = f"its state, and the network's output, are {scale:g} times those of the path"
    notes = () if scale == 1.0 else (note,)
    return _reading(name, f, config, "angles", ("lcm", {}), terms=terms, notes=notes)


def _sigma_range(f: Fields) -> dict[str, float]:
    return {"sigma_min": float(f["sigma_min"]), "sigma_max": float(f["sigma_max"])}


def ipndm(name: str, f: dict[str, Any], mu: float | None) -> Reading:
    if f.get("trained_betas") is not None:
        raise ConfigurationError(
            "trained_betas is given", where="scheduler.trained_betas",
            why="what IPNDMScheduler calls betas are the σ of one run, not a noise schedule", suggestion="leave it out",
        )  # fmt: skip
    note = "its timesteps, (2/π)·asin(sin²(π·t/2)) for even t, are not a spacing here"
    return _reading(name, f, {"beta_schedule": "v_diffusion"}, "own", named(name, f), notes=(note,))


def consistency(name: str, f: dict[str, Any], mu: float | None) -> Reading:
    config: dict[str, Any] = {
        "beta_schedule": "edm", "schedule_options": _sigma_range(f), "spacing_options": {"rho": float(f["rho"])},
        "clip_sample": bool(f["clip_denoised"]),
    }  # fmt: skip
    conversion = Preconditioning(float(f["sigma_data"]), sigma_min=float(f["sigma_min"]))
    terms = PipelineTerms("log_1000", preconditioning=conversion, unused_noise="silent, not alone")
    why = "its noise is √(σ² − σ_min²) where that of 'lcm' is σ; it runs as a traced plan"
    note = "the network is its raw output with the boundary condition"
    return _reading(name, f, config, "edm", why, terms=terms, notes=(note,))


def wuerstchen(name: str, f: dict[str, Any], mu: float | None) -> Reading:
    if f["scaler"] != 1.0:
        raise ConfigurationError(
            f"got {f['scaler']!r}", where="scheduler.scaler", why="the path of another clock is not built in",
            suggestion="use scaler=1.0",
        )  # fmt: skip
    config = {"beta_schedule": "wuerstchen", "schedule_options": {"s": float(f["s"])}}
    why = "its last step leaves out the noise of 'ddpm', and ends at the lowest level; it runs as a traced plan"
    terms = PipelineTerms(lists_end=True, unused_noise="silent")
    return _reading(name, f, config, "fractions", why, terms=terms)


def karras_ve(name: str, f: dict[str, Any], mu: float | None) -> Reading:
    config = {"beta_schedule": "edm", "schedule_options": _sigma_range(f)}
    return _reading(name, f, config, "own", refusal_of(name).sentence)


def score_sde_ve(name: str, f: dict[str, Any], mu: float | None) -> Reading:
    config = {"beta_schedule": "ve", "schedule_options": _sigma_range(f)}
    note = "its networks return the score, −ε/σ: multiply by −σ"
    return _reading(name, f, config, "own", refusal_of(name).sentence, notes=(note,))


def unclip(name: str, f: dict[str, Any], mu: float | None) -> Reading:
    config = {**beta_path(f), **model_settings(f), "timestep_spacing": "linspace"}
    return _reading(name, f, config, "times", named(name, f))
