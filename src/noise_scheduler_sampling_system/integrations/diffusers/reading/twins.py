"""The sampler of this library that equals a scheduler class, with its options, or the reason why none does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....config.sampler_aliases import NAMES
from ....support.errors import ConfigurationError
from .scheduler_reading import Fields, Twin

__all__ = [
    "TRACEABLE", "TwinReader", "cogvideox_dpm", "cosine_multistep", "deis", "flow_euler", "inverse_multistep", "lcm",
    "multistep", "named", "no_twin", "pndm", "sa_solver", "unipc",
]  # fmt: skip

#: (class name, fields) → the twin.
TwinReader = Callable[[str, Fields], Twin]

#: Classes that can be traced where no sampler is the same: their ``step`` takes the usual arguments.
TRACEABLE = {
    "DPMSolverSinglestepScheduler", "DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler",
    "UniPCMultistepScheduler", "SASolverScheduler", "LTXEulerAncestralRFScheduler", "CMStochasticIterativeScheduler",
    "DDPMWuerstchenScheduler",
}  # fmt: skip


def named(name: str, f: Fields) -> Twin:
    """The sampler that the table of other libraries' names lists for the class."""
    known = NAMES[name.replace("Inverse", "")]  # the same formula, on a grid from data to noise
    return known.sampler, dict(known.options)


def no_twin(why: str) -> TwinReader:
    """Reads a class that no sampler equals, for this reason."""
    return lambda name, f: why


def multistep(name: str, f: Fields) -> Twin:
    """DPM-Solver and DPM-Solver++, multistep.

    Raises:
        ConfigurationError: an unknown ``solver_order``.
    """
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


def _final(f: Fields) -> dict[str, Any]:
    return {"lower_order_final": bool(f.get("lower_order_final") or f.get("euler_at_final"))}


def inverse_multistep(name: str, f: Fields) -> Twin:
    """The same from data to noise."""
    if str(f["algorithm_type"]).startswith("sde"):
        return f"algorithm_type={f['algorithm_type']!r} has noise of a negative variance from data to noise"
    return multistep(name, f)


def cogvideox_dpm(name: str, f: Fields) -> Twin:
    """CogVideoX's class: the SDE of DPM-Solver++, of order 2."""
    return "dpmpp_2m_sde", {"solver_type": "midpoint", "lower_order_final": True}


def cosine_multistep(name: str, f: Fields) -> Twin:
    """Stable Audio's class, which has one algorithm."""
    return multistep(name, {**f, "algorithm_type": "sde-dpmsolver++"})


def unipc(name: str, f: Fields) -> Twin:
    if f.get("solver_p") is not None:
        return "solver_p, another predictor, is not supported"
    disabled = set(f.get("disable_corrector") or ())
    options = {
        "order": f["solver_order"], "solver_type": f["solver_type"], "predict_x0": bool(f["predict_x0"]),
        "lower_order_final": bool(f["lower_order_final"]),
    }  # fmt: skip
    if disabled:
        # step i is corrected unless i is listed; the sampler has the corrector at every step or at none
        if disabled >= set(range(min(50, max(disabled) + 1))) and len(disabled) > 1:
            return "unipc", {**options, "corrector": False}
        return f"disable_corrector={sorted(disabled)} turns the corrector off at some steps, here it is on or off"
    return "unipc", options


def deis(name: str, f: Fields) -> Twin:
    options = {"order": f["solver_order"], "polynomial": "log_rho", "start": "plain", **_final(f)}
    return ("euler", {}) if f["solver_order"] == 1 else ("deis", options)


def sa_solver(name: str, f: Fields) -> Twin:
    if f.get("tau_func") is not None:
        return "tau_func is a function, which cannot be read; use options tau, tau_start and tau_end of 'sa_solver'"
    if f.get("algorithm_type", "data_prediction") != "data_prediction":
        return "algorithm_type='noise_prediction' has no sampler here"
    total, shift = f["num_train_timesteps"], f["flow_shift"]
    first, last = 801 / total, 201 / total  # the class's default τ is 1 for 200 ≤ t ≤ 800
    if f.get("use_flow_sigmas"):  # there t is the shifted σ, and the option means a share of the schedule
        first, last = (sigma / (shift - (shift - 1.0) * sigma) for sigma in (800.5 / total, 199.5 / total))
    return "sa_solver", {
        "order": f["predictor_order"], "corrector_order": f["corrector_order"], "solver_type": "bh1",
        "corrector": f["corrector_order"] > 0, "lower_order_final": bool(f["lower_order_final"]),
        "tau": 1.0, "tau_start": min(first, 1.0), "tau_end": min(last, 1.0),
    }  # fmt: skip


def pndm(name: str, f: Fields) -> Twin:
    return "pndm", {"skip_prk_steps": bool(f["skip_prk_steps"])}


def lcm(name: str, f: Fields) -> Twin:
    return "lcm", {"timestep_scaling": float(f["timestep_scaling"])}


def flow_euler(name: str, f: Fields) -> Twin:
    return ("lcm", {}) if f.get("stochastic_sampling") else ("euler", {})
