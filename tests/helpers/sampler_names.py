"""The samplers that loops over all of them take, by name."""

from __future__ import annotations

from noise_scheduler_sampling_system import SamplingMethod

__all__ = ["IN_DIFFUSERS", "NOT_IN_DIFFUSERS", "ONE_TIME", "TWO_TIMES"]

_NAMES = [method.value for method in SamplingMethod]
#: Samplers of networks of two times; another network, clipping, frames and further guidance are refused.
TWO_TIMES = frozenset({"flow_map"})
ONE_TIME = [name for name in _NAMES if name not in TWO_TIMES]
#: Samplers that ask for more than a scheduler of diffusers is given.
NOT_IN_DIFFUSERS = TWO_TIMES | {"adaptive", "ddim_cfg_pp", "dpmpp_2m_cfg_pp", "euler_ancestral_cfg_pp"}
IN_DIFFUSERS = [name for name in _NAMES if name not in NOT_IN_DIFFUSERS]
