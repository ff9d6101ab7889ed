"""Which class of diffusers is read in which way; refusals.py has the classes that cannot be."""

from __future__ import annotations

from . import class_readers as readers
from . import twins
from .class_readers import edm_reader, flow_reader, multistep_reader, ratio_reader, timestep_reader
from .pipeline_terms import PipelineTerms
from .refusals import refusal_of
from .scheduler_reading import ClassReader
from .twins import no_twin

__all__ = ["READERS"]

_SINGLESTEP = (
    "it takes the points in between from its own list, which no sampler here does; 'dpmpp_2s' takes the middle"
)

#: Every class that has a path here. Of classes with the same fields the better known comes first.
READERS: dict[str, ClassReader] = {
    "DDIMScheduler": timestep_reader(),
    "DDIMParallelScheduler": timestep_reader(),
    "CogVideoXDDIMScheduler": timestep_reader(clips=False),
    "CogVideoXDPMScheduler": timestep_reader(
        twins.cogvideox_dpm, clips=False, terms=PipelineTerms(unused_noise="silent, twice")
    ),
    "DDPMScheduler": timestep_reader(ends_clean=True),
    "DDPMParallelScheduler": timestep_reader(ends_clean=True),
    "PNDMScheduler": timestep_reader(twins.pndm, level_list="pndm"),
    "LCMScheduler": timestep_reader(twins.lcm, ends_clean=True),
    "TCDScheduler": timestep_reader(clips=False, ends_lowest=True),
    "UnCLIPScheduler": readers.unclip,
    "RePaintScheduler": timestep_reader(no_twin(refusal_of("RePaintScheduler").sentence)),
    "DDIMInverseScheduler": timestep_reader(level_list="inverse times"),
    "EulerDiscreteScheduler": ratio_reader(),
    "EulerAncestralDiscreteScheduler": ratio_reader(),
    "LMSDiscreteScheduler": ratio_reader(),
    "HeunDiscreteScheduler": ratio_reader(stride=2),
    "KDPM2DiscreteScheduler": ratio_reader(stride=2),
    "KDPM2AncestralDiscreteScheduler": ratio_reader(stride=2),
    "DPMSolverSDEScheduler": ratio_reader(stride=2),
    "DPMSolverMultistepScheduler": multistep_reader(twins.multistep, lowers_below=15),
    "DPMSolverMultistepInverseScheduler": multistep_reader(twins.inverse_multistep, lowers_below=15),
    "DPMSolverSinglestepScheduler": multistep_reader(no_twin(_SINGLESTEP)),
    "DEISMultistepScheduler": multistep_reader(twins.deis, ends="lowest", lowers_below=15),
    "UniPCMultistepScheduler": multistep_reader(twins.unipc),
    "SASolverScheduler": multistep_reader(twins.sa_solver, ends="lowest", terms=PipelineTerms(unused_noise="silent")),
    "EDMEulerScheduler": edm_reader(lambda name, f: ("euler", {})),
    "EDMDPMSolverMultistepScheduler": edm_reader(twins.multistep),
    "CosineDPMSolverMultistepScheduler": edm_reader(twins.cosine_multistep, clock="atan"),
    "FlowMatchEulerDiscreteScheduler": flow_reader(twins.flow_euler),
    "FlowMatchHeunDiscreteScheduler": flow_reader(stride=2),
    "FlowMatchLCMScheduler": flow_reader(),
    "FlowMapEulerDiscreteScheduler": flow_reader(shifts_twice=False),
    "MiniMaxH3Scheduler": readers.minimax,
    "SCMScheduler": readers.trigflow,
    "LTXEulerAncestralRFScheduler": flow_reader(no_twin("it splits its step in another way, with less noise")),
    "IPNDMScheduler": readers.ipndm,
    "CMStochasticIterativeScheduler": readers.consistency,
    "DDPMWuerstchenScheduler": readers.wuerstchen,
    "KarrasVeScheduler": readers.karras_ve,
    "ScoreSdeVeScheduler": readers.score_sde_ve,
}
