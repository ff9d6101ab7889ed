"""The run of a plan: the loop, its kernels and noise, the adapter of models, and the results."""

from .brownian import BrownianNoise
from .results import InterruptedRunError, RunState, SamplingResult, SamplingStep

__all__ = ["BrownianNoise", "InterruptedRunError", "RunState", "SamplingResult", "SamplingStep"]
