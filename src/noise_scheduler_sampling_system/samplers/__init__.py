"""Sampling methods: each writes the rows of a plan."""

from .base import BaseSampler, SamplerOutput, SamplerState
from .first_order import AncestralSampler, DDIMSampler, DDPMSampler, EulerSampler
from .heun import HeunSampler
from .pndm import PNDMSampler

__all__ = [
    "AncestralSampler",
    "BaseSampler",
    "DDIMSampler",
    "DDPMSampler",
    "EulerSampler",
    "HeunSampler",
    "PNDMSampler",
    "SamplerOutput",
    "SamplerState",
]
