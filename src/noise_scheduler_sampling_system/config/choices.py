"""The names of the built-in noise schedules and samplers, as enumerations."""

from __future__ import annotations

from enum import Enum

__all__ = ["BetaSchedule", "SamplingMethod"]


class BetaSchedule(str, Enum):
    """The noise schedules of the first version. Every registered name is also accepted (``list(SCHEDULES)``).

    Examples:
        >>> from noise_scheduler_sampling_system import BetaSchedule, NoiseSchedulerConfig
        >>> NoiseSchedulerConfig(beta_schedule=BetaSchedule.COSINE) == NoiseSchedulerConfig(beta_schedule="cosine")
        True
    """

    LINEAR = "linear"
    COSINE = "cosine"
    QUADRATIC = "quadratic"
    SIGMOID = "sigmoid"
    EXPONENTIAL = "exponential"
    CUSTOM = "custom"


class SamplingMethod(str, Enum):
    """The built-in samplers; ``docs/samplers.md`` describes each one.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline, SamplingMethod
        >>> DiffusionPipeline(None, SamplingMethod.DDIM).method == "ddim"
        True
    """

    DDPM = "ddpm"
    DDIM = "ddim"
    PNDM = "pndm"
    ANCESTRAL = "ancestral"
    EULER = "euler"
    HEUN = "heun"
    ADAMS = "adams"
    ADAPTIVE = "adaptive"
    BDIA = "bdia"
    BELM = "belm"
    CPS = "cps"
    DANCE_GRPO = "dance_grpo"
    DDIM_CFG_PP = "ddim_cfg_pp"
    DEIS = "deis"
    DPM2 = "dpm2"
    DPM2_ANCESTRAL = "dpm2_ancestral"
    DPM_2M = "dpm_2m"
    DPM_3M = "dpm_3m"
    DPM_3S = "dpm_3s"
    DPM_FAST = "dpm_fast"
    DPM_V3 = "dpm_v3"
    DPMPP_2M = "dpmpp_2m"
    DPMPP_2M_CFG_PP = "dpmpp_2m_cfg_pp"
    DPMPP_2M_SDE = "dpmpp_2m_sde"
    DPMPP_2S = "dpmpp_2s"
    DPMPP_2S_ANCESTRAL = "dpmpp_2s_ancestral"
    DPMPP_3M = "dpmpp_3m"
    DPMPP_3M_SDE = "dpmpp_3m_sde"
    DPMPP_3S = "dpmpp_3s"
    DPMPP_SDE = "dpmpp_sde"
    EDM = "edm"
    ER_SDE = "er_sde"
    EULER_ANCESTRAL_CFG_PP = "euler_ancestral_cfg_pp"
    EXPONENTIAL_RK = "exponential_rk"
    FLOW_GRPO = "flow_grpo"
    FLOW_HEUN = "flow_heun"
    FLOW_MAP = "flow_map"
    GRADIENT_ESTIMATION = "gradient_estimation"
    IPNDM = "ipndm"
    IPNDM_V = "ipndm_v"
    LCM = "lcm"
    LMS = "lms"
    PRECISE = "precise"
    PREDICTOR_CORRECTOR = "predictor_corrector"
    RES_2S = "res_2s"
    RES_3S = "res_3s"
    RES_MULTISTEP = "res_multistep"
    RESTART = "restart"
    RUNGE_KUTTA = "runge_kutta"
    SA_SOLVER = "sa_solver"
    SEEDS = "seeds"
    TCD = "tcd"
    UNIPC = "unipc"
