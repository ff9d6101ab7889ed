"""Multistep samplers: one model call a step; each step also reads earlier predictions.

A new sampler is a subclass of :class:`MultistepSampler` that declares its options. It goes into ode.py, or into sde.py
if it adds noise; :class:`DPMpp2MSampler` is an example. A method with weights of its own overrides
:meth:`MultistepSampler.move` (:class:`IPNDMSampler`), one with another formula writes its own plan
(:class:`AdamsSampler`).
"""

from .adams import AdamsSampler, GradientEstimationSampler, IPNDMSampler, IPNDMvSampler, LMSSampler
from .base import MultistepSampler
from .dpm_v3 import DPMv3Sampler
from .ode import (
    DEISSampler,
    DPM2MSampler,
    DPM3MSampler,
    DPMpp2MSampler,
    DPMpp3MSampler,
    RESMultistepSampler,
    UniPCSampler,
)
from .pndm import PNDMSampler
from .sde import DPMpp2MSDESampler, DPMpp3MSDESampler, ERSDESampler, SASolverSampler

__all__ = [
    "AdamsSampler",
    "DEISSampler",
    "DPM2MSampler",
    "DPM3MSampler",
    "DPMpp2MSDESampler",
    "DPMpp2MSampler",
    "DPMpp3MSDESampler",
    "DPMpp3MSampler",
    "DPMv3Sampler",
    "ERSDESampler",
    "GradientEstimationSampler",
    "IPNDMSampler",
    "IPNDMvSampler",
    "LMSSampler",
    "MultistepSampler",
    "PNDMSampler",
    "RESMultistepSampler",
    "SASolverSampler",
    "UniPCSampler",
]
