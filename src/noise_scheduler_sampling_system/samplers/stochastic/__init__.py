"""Samplers whose noise is part of the method, in families: stages that share noise, added noise, consistency models.

Ancestral noise is an option of other samplers (``eta``), and multistep samplers with noise are in multistep/sde.py.
"""

from .added_noise import EDMSampler, PredictorCorrectorSampler, RestartSampler
from .consistency import LCMSampler, TCDSampler
from .shared_noise import DPMppSDESampler, SEEDSSampler

__all__ = [
    "DPMppSDESampler",
    "EDMSampler",
    "LCMSampler",
    "PredictorCorrectorSampler",
    "RestartSampler",
    "SEEDSSampler",
    "TCDSampler",
]
