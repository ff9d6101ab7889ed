"""Samplers whose noise is part of the method, in families: shared noise, added noise, consistency models, policies.

Ancestral noise is an option of other samplers (``eta``), and multistep samplers with noise are in multistep/sde.py.
"""

from .added_noise import EDMSampler, PredictorCorrectorSampler, RestartSampler
from .consistency import LCMSampler, TCDSampler
from .policy import CPSSampler, DanceGRPOSampler, FlowGRPOSampler, PolicySampler, PreciseSampler
from .shared_noise import DPMppSDESampler, SEEDSSampler

__all__ = [
    "CPSSampler",
    "DPMppSDESampler",
    "DanceGRPOSampler",
    "EDMSampler",
    "FlowGRPOSampler",
    "LCMSampler",
    "PolicySampler",
    "PreciseSampler",
    "PredictorCorrectorSampler",
    "RestartSampler",
    "SEEDSSampler",
    "TCDSampler",
]
