"""Multistep samplers: one model call a step; each step also reads earlier predictions.

A new sampler of x₀ or ε is a subclass of :class:`MultistepSampler` that declares its options; :class:`DPMpp2MSampler`
is an example. One with weights of its own overrides :meth:`MultistepSampler.move` (:class:`IPNDMSampler`). A sampler of
v or ε − x₀, or with another formula, derives from ``BaseSampler`` and writes its own plan (:class:`AdamsSampler`).

ode.py has the exponential methods, adams.py the Adams-Bashforth methods, and sde.py the methods that add noise.
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
