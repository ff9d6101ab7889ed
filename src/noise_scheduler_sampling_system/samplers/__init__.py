"""Sampling methods: each writes the rows of a plan."""

from .base import BaseSampler, SamplerOutput, SamplerState
from .first_order import AncestralSampler, DDIMSampler, DDPMSampler, EulerSampler
from .guided import *  # noqa: F403
from .heun import HeunSampler
from .multistep import *  # noqa: F403
from .pndm import PNDMSampler
from .reversible import BDIASampler, BELMSampler
from .single_step import *  # noqa: F403
from .stochastic import *  # noqa: F403

__all__ = [
    "AncestralSampler",
    "BDIASampler",
    "BELMSampler",
    "BaseSampler",
    "DDIMSampler",
    "DDPMSampler",
    "EulerSampler",
    "HeunSampler",
    "PNDMSampler",
    "SamplerOutput",
    "SamplerState",
]
