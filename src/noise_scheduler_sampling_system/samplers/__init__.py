"""Samplers: each writes the rows of a plan.

first_order.py    DDIM, Euler, ancestral, DDPM
heun.py           Heun
multistep/        one model call a step; earlier predictions are read again
single_step.py    several model calls a step; tableaux.py and schemes.py have their numbers
adaptive.py       step sizes that a tolerance determines
stochastic/       noise that is part of the method
cfg_pp.py         CFG++
reversible.py     steps with an exact inverse
two_times.py      networks of two times
"""

from .adaptive import AdaptiveSampler
from .base import BaseSampler
from .by_hand import SamplerOutput, SamplerState
from .cfg_pp import AncestralCFGppSampler, CFGppSampler, DPMpp2MCFGppSampler
from .factory import SamplerFactory
from .first_order import AncestralSampler, DDIMSampler, DDPMSampler, EulerSampler
from .heun import HeunSampler
from .model_statistics import ModelStatistics
from .multistep import (
    AdamsSampler,
    DEISSampler,
    DPM2MSampler,
    DPM3MSampler,
    DPMpp2MSampler,
    DPMpp2MSDESampler,
    DPMpp3MSampler,
    DPMpp3MSDESampler,
    DPMv3Sampler,
    ERSDESampler,
    GradientEstimationSampler,
    IPNDMSampler,
    IPNDMvSampler,
    LMSSampler,
    MultistepSampler,
    PNDMSampler,
    RESMultistepSampler,
    SASolverSampler,
    UniPCSampler,
)
from .reversible import BDIASampler, BELMSampler
from .single_step import (
    DPM2AncestralSampler,
    DPM2Sampler,
    DPM3SSampler,
    DPMFastSampler,
    DPMpp2SAncestralSampler,
    DPMpp2SSampler,
    DPMpp3SSampler,
    ExponentialRKSampler,
    FlowHeunSampler,
    RES2SSampler,
    RES3SSampler,
    RungeKuttaSampler,
    SingleStepSampler,
)
from .steps import along, from_noise
from .stochastic import (
    CPSSampler,
    DanceGRPOSampler,
    DPMppSDESampler,
    EDMSampler,
    FlowGRPOSampler,
    LCMSampler,
    PolicySampler,
    PreciseSampler,
    PredictorCorrectorSampler,
    RestartSampler,
    SEEDSSampler,
    TCDSampler,
)
from .two_times import FlowMapSampler

__all__ = [
    "AdamsSampler",
    "AdaptiveSampler",
    "AncestralCFGppSampler",
    "AncestralSampler",
    "BDIASampler",
    "BELMSampler",
    "BaseSampler",
    "CFGppSampler",
    "CPSSampler",
    "DDIMSampler",
    "DDPMSampler",
    "DEISSampler",
    "DPM2AncestralSampler",
    "DPM2MSampler",
    "DPM2Sampler",
    "DPM3MSampler",
    "DPM3SSampler",
    "DPMFastSampler",
    "DPMpp2MCFGppSampler",
    "DPMpp2MSDESampler",
    "DPMpp2MSampler",
    "DPMpp2SAncestralSampler",
    "DPMpp2SSampler",
    "DPMpp3MSDESampler",
    "DPMpp3MSampler",
    "DPMpp3SSampler",
    "DPMppSDESampler",
    "DPMv3Sampler",
    "DanceGRPOSampler",
    "EDMSampler",
    "ERSDESampler",
    "EulerSampler",
    "ExponentialRKSampler",
    "FlowGRPOSampler",
    "FlowHeunSampler",
    "FlowMapSampler",
    "GradientEstimationSampler",
    "HeunSampler",
    "IPNDMSampler",
    "IPNDMvSampler",
    "LCMSampler",
    "LMSSampler",
    "ModelStatistics",
    "MultistepSampler",
    "PNDMSampler",
    "PolicySampler",
    "PreciseSampler",
    "PredictorCorrectorSampler",
    "RES2SSampler",
    "RES3SSampler",
    "RESMultistepSampler",
    "RestartSampler",
    "RungeKuttaSampler",
    "SASolverSampler",
    "SEEDSSampler",
    "SamplerFactory",
    "SamplerOutput",
    "SamplerState",
    "SingleStepSampler",
    "TCDSampler",
    "UniPCSampler",
    "along",
    "from_noise",
]
