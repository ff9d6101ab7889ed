"""Names of samplers elsewhere: diffusers' classes, k-diffusion's and ComfyUI's functions, labels of web interfaces.

A name may stand for a sampler with options and a spacing ("DPM++ 2M SDE Karras"). The tables of docs/migration.md are
made from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, final

from ..support.errors import ConfigurationError, shown
from ..support.plugins import load_plugins, why_missing
from ..support.registry import Registry, folded
from .registries import SAMPLERS, SPACINGS

__all__ = ["NAMES", "Resolved", "add_alias", "resolve"]


@final
@dataclass(frozen=True)
class Resolved:
    """What a name stands for.

    Attributes:
        sampler: the name of the sampler here.
        options: the options that the name implies.
        spacing: the spacing that the name implies, or None.
        spacing_options: the options of that spacing.
        firm: whether another spacing in the config contradicts the name. If not, the spacing of the name applies
            only where the config chooses none.
    """

    sampler: str
    options: Mapping[str, Any] = field(default_factory=dict)
    spacing: str | None = None
    spacing_options: Mapping[str, Any] = field(default_factory=dict)
    firm: bool = False


def _r(
    sampler: str, spacing: str | None = None, spacing_options: Mapping[str, Any] | None = None, **options: Any
) -> Resolved:
    return Resolved(sampler, options, spacing, spacing_options or {})


_DISCARD = {"discard_penultimate": True}
#: Its options are those of k-diffusion.
_DPM_ADAPTIVE = _r("adaptive", tableau="dpm_solver_23", rtol=0.05, atol=0.0078, pcoeff=0.0, icoeff=1.0)

#: A name as its library writes it → what it stands for here.
NAMES: dict[str, Resolved] = {
    # diffusers
    "DDIMScheduler": _r("ddim"),
    "DDIMParallelScheduler": _r("ddim"),
    "CogVideoXDDIMScheduler": _r("ddim"),
    "CogVideoXDPMScheduler": _r("dpmpp_2m_sde"),
    "DDPMScheduler": _r("ddpm"),
    "DDPMParallelScheduler": _r("ddpm"),
    "DDPMWuerstchenScheduler": _r("ddpm"),
    "UnCLIPScheduler": _r("ddpm"),
    "PNDMScheduler": _r("pndm"),
    "EulerDiscreteScheduler": _r("euler"),
    "EulerAncestralDiscreteScheduler": _r("ancestral"),
    "HeunDiscreteScheduler": _r("heun"),
    "KDPM2DiscreteScheduler": _r("dpm2"),
    "KDPM2AncestralDiscreteScheduler": _r("dpm2_ancestral"),
    "LMSDiscreteScheduler": _r("lms", start="plain"),
    "IPNDMScheduler": _r("ipndm"),
    "DEISMultistepScheduler": _r("deis", "leading_dpm", polynomial="log_rho", order=2, lower_order_final=True),
    "DPMSolverMultistepScheduler": _r("dpmpp_2m", "leading_dpm"),
    "EDMDPMSolverMultistepScheduler": _r("dpmpp_2m"),
    "CosineDPMSolverMultistepScheduler": _r("dpmpp_2m_sde"),
    "DPMSolverSinglestepScheduler": _r("dpmpp_2s"),
    "DPMSolverSDEScheduler": _r("dpmpp_sde"),
    "UniPCMultistepScheduler": _r("unipc", "leading_dpm", order=2, lower_order_final=True),
    "SASolverScheduler": _r("sa_solver", "leading_dpm", tau_start=0.8, tau_end=0.2, solver_type="bh1"),
    "EDMEulerScheduler": _r("edm", corrector=False, s_churn=0.0),
    "KarrasVeScheduler": _r("edm"),
    "ScoreSdeVeScheduler": _r("predictor_corrector"),
    "FlowMatchEulerDiscreteScheduler": _r("euler"),
    "FlowMatchHeunDiscreteScheduler": _r("flow_heun"),
    "FlowMatchLCMScheduler": _r("lcm"),
    "FlowMapEulerDiscreteScheduler": _r("euler"),
    "MiniMaxH3Scheduler": _r("euler"),
    "SCMScheduler": _r("lcm"),
    "LCMScheduler": _r("lcm", "trailing", timestep_scaling=10.0),
    "CMStochasticIterativeScheduler": _r("lcm"),
    "TCDScheduler": _r("tcd", "trailing"),
    # k-diffusion and ComfyUI
    "euler_ancestral": _r("ancestral"),
    "euler_a": _r("ancestral"),
    "k_euler": _r("euler"),
    "k_euler_a": _r("ancestral"),
    "k_heun": _r("heun"),
    "k_lms": _r("lms"),
    "k_dpm_2": _r("dpm2"),
    "k_dpm_2_a": _r("dpm2_ancestral"),
    "k_dpmpp_2m": _r("dpmpp_2m"),
    "sample_euler": _r("euler"),
    "sample_euler_ancestral": _r("ancestral"),
    "sample_heun": _r("heun"),
    "sample_dpm_2": _r("dpm2"),
    "sample_dpm_2_ancestral": _r("dpm2_ancestral"),
    "sample_lms": _r("lms", start="plain"),
    "sample_dpm_fast": _r("dpm_fast"),
    "sample_dpm_adaptive": _DPM_ADAPTIVE,
    "sample_dpmpp_2s_ancestral": _r("dpmpp_2s_ancestral"),
    "sample_dpmpp_sde": _r("dpmpp_sde"),
    "sample_dpmpp_2m": _r("dpmpp_2m"),
    "sample_dpmpp_2m_sde": _r("dpmpp_2m_sde"),
    "sample_dpmpp_3m_sde": _r("dpmpp_3m_sde"),
    "dpm_adaptive": _DPM_ADAPTIVE,
    "dpm_2": _r("dpm2", None, _DISCARD),
    "dpm_2_ancestral": _r("dpm2_ancestral", None, _DISCARD),
    "dpmpp_sde_gpu": _r("dpmpp_sde"),
    "dpmpp_2m_sde_gpu": _r("dpmpp_2m_sde"),
    "dpmpp_2m_sde_heun": _r("dpmpp_2m_sde", solver_type="exact"),
    "dpmpp_2m_sde_heun_gpu": _r("dpmpp_2m_sde", solver_type="exact"),
    "dpmpp_3m_sde_gpu": _r("dpmpp_3m_sde"),
    "uni_pc": _r("unipc", None, _DISCARD, solver_type="bh1"),
    "uni_pc_bh2": _r("unipc", None, _DISCARD, solver_type="bh2"),
    "euler_cfg_pp": _r("ddim_cfg_pp"),
    "res_multistep_ancestral": _r("res_multistep", eta=1.0),
    "exp_heun_2_x0": _r("exponential_rk", tableau="heun2"),
    "seeds_2": _r("seeds", stages=2),
    "seeds_3": _r("seeds", stages=3),
    "sa_solver_pece": _r("sa_solver", evaluate_again=True),
    # RES4LYF; its lists begin with a folder, and "_ode" says without noise. Its res_3s, res_3m, dpmpp_3s and methods
    # over sigma are other algorithms than those here (docs/migration.md)
    "res_2m": _r("res_multistep"),
    "res_2m_ode": _r("res_multistep"),
    "multistep/res_2m": _r("res_multistep"),
    "deis_2m": _r("deis", polynomial="rho", order=2),
    "deis_3m": _r("deis", polynomial="rho", order=3),
    "deis_2m_ode": _r("deis", polynomial="rho", order=2),
    "deis_3m_ode": _r("deis", polynomial="rho", order=3),
    "multistep/deis_2m": _r("deis", polynomial="rho", order=2),
    "multistep/deis_3m": _r("deis", polynomial="rho", order=3),
    "res_2s_ode": _r("res_2s"),
    "exponential/res_2s": _r("res_2s"),
    "res_2s_stable": _r("exponential_rk", tableau="heun2"),
    "etdrk2_2s": _r("exponential_rk", tableau="heun2"),
    "res_3s_alt": _r("exponential_rk", tableau="etd3"),
    "res_4s_krogstad": _r("exponential_rk", tableau="krogstad4"),
    "res_4s_cox_matthews": _r("exponential_rk", tableau="cox_matthews4"),
    "res_5s": _r("exponential_rk", tableau="hochbruck_ostermann4"),
    "res_5s_ode": _r("exponential_rk", tableau="hochbruck_ostermann4"),
    "bogacki_shampine": _r("runge_kutta", tableau="bogacki_shampine"),
    "rk4": _r("runge_kutta", tableau="rk4"),
    "flow_match_euler": _r("euler"),
    "flow_match_heun": _r("flow_heun"),
    # reinforcement learning of flow models
    "flow_sde": _r("flow_grpo"),
    "flow_cps": _r("cps"),
    "dance_sde": _r("dance_grpo"),
    "mix_grpo": _r("flow_grpo", window_size=4),
    "flow_grpo_fast": _r("flow_grpo", window_size=2),
    # networks of two times
    "ctm": _r("flow_map"),
    "mean_flow": _r("flow_map"),
    "shortcut": _r("flow_map"),
    # web interfaces
    "Euler a": _r("ancestral"),
    "DPM2 a": _r("dpm2_ancestral"),
    "DPM++ 2S a": _r("dpmpp_2s_ancestral"),
    "DPM++ 2M SDE Heun": _r("dpmpp_2m_sde", solver_type="exact"),
    "PLMS": _r("pndm"),
    "DPM fast": _r("dpm_fast"),
    "DPM adaptive": _DPM_ADAPTIVE,
    "DPM-Solver++": _r("dpmpp_2m"),
    "DPM-Solver": _r("dpm_2m"),
    "DPM-Solver-2": _r("dpm2"),
    "DPM-Solver-3": _r("dpm_3s"),
    "tAB-DEIS": _r("deis"),
    "rhoAB-DEIS": _r("deis", polynomial="rho"),
    "accelerated": _r("gradient_estimation"),
    # SD.Next
    "Euler EDM": _r("edm", corrector=False, s_churn=0.0),
    "Euler FlowMatch": _r("euler"),
    "Heun FlowMatch": _r("flow_heun"),
    "LCM FlowMatch": _r("lcm"),
    "UniPC FlowMatch": _r("unipc", order=2, lower_order_final=True),
    "DPM++ 2M EDM": _r("dpmpp_2m"),
    "DPM++ Cosine": _r("dpmpp_2m_sde"),
    "DPM SDE": _r("dpmpp_sde"),
    "LMSD": _r("lms", start="plain"),
    "KDPM2": _r("dpm2"),
    "KDPM2 a": _r("dpm2_ancestral"),
    "CMSI": _r("lcm"),
}  # fmt: skip

#: What the folded names mean, those of plug-ins included (:meth:`~.SamplerFactory.alias`).
_MEANINGS: Registry[Resolved] = Registry("name of a sampler")
for _name, _meant in {folded(name): meant for name, meant in NAMES.items()}.items():
    SAMPLERS.alias(_name, of=_meant.sampler)
    _MEANINGS.register(_name, _meant)


def add_alias(name: str, meant: Resolved) -> None:
    """Make a name stand for a sampler, with options and a spacing.

    Raises:
        ConfigurationError: the name stands for something else.
    """
    if folded(name) == folded(meant.sampler):
        raise ConfigurationError(
            f"the name {name!r} reads like {meant.sampler!r}, the sampler itself",
            where="name of a sampler",
            suggestion="choose another name for the sampler with options or a spacing",
        )
    if _MEANINGS.entries.get(folded(name)) != meant:
        SAMPLERS.alias(name, of=meant.sampler)
        _MEANINGS.register(folded(name), meant)


def resolve(method: str | Enum) -> Resolved:
    """What a sampler's name stands for.

    Raises:
        ConfigurationError: an unknown name; the message suggests the nearest ones.
    """
    key = Registry.key(method)
    if "inverse" in folded(key) and key not in SAMPLERS.entries:  # its formula is in the table, its direction is not
        raise ConfigurationError(
            f"{key!r} is not a sampler here: any sampler runs backwards on a reversed grid",
            where="method",
            suggestion="sample(grid=pipeline.grid(N).reversed(), initial_sample=image), or ReversibleRun with 'belm'",
        )
    meant = _meaning(key)
    if meant is None:
        load_plugins()
        meant = _meaning(key)
    if meant is not None:
        return meant
    raise ConfigurationError(
        f"there is no sampler {shown(key)}",
        where="method",
        why=why_missing(SAMPLERS.kind, key),
        suggestion=SAMPLERS.nearest(key, NAMES),
    )


def _meaning(key: str) -> Resolved | None:
    """What a name stands for among what is registered so far, or None."""
    if key in SAMPLERS.entries:
        return Resolved(key)
    if key in NAMES:
        return NAMES[key]
    name = folded(key)
    known = {**_MEANINGS.entries} | {folded(sampler): Resolved(sampler) for sampler in SAMPLERS.entries}
    if name in known:
        return known[name]
    # a label may end with a spacing: "DPM++ 2M Karras"
    for ending in sorted(SPACINGS.folded_names(), key=len, reverse=True):
        start = known.get(name.removesuffix(ending)) if name.endswith(ending) else None
        if start is not None:
            spacing = SPACINGS.canonical(ending)
            return Resolved(start.sampler, start.options, spacing, start.spacing_options, firm=True)
    return None
