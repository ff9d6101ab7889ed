"""Which class of diffusers is read in which way, and the classes that cannot be read."""

from __future__ import annotations

from . import class_readers as readers
from . import twins
from .class_readers import edm_reader, flow_reader, multistep_reader, ratio_reader, timestep_reader
from .scheduler_reading import ClassReader
from .twins import no_twin

__all__ = ["NO_PATH", "READERS"]

_SINGLESTEP = (
    "it takes the points in between from its own list, which no sampler here does; 'dpmpp_2s' takes the middle"
)
_INVERSE = "it goes from data to noise; here any sampler does so on a reversed grid"
_REPAINT = "it paints into a known image, which is not a sampler's part here"

#: Every class that has a path here. Of classes with the same fields the better known comes first.
READERS: dict[str, ClassReader] = {
    "DDIMScheduler": timestep_reader(),
    "DDIMParallelScheduler": timestep_reader(),
    "CogVideoXDDIMScheduler": timestep_reader(clips=False),
    "CogVideoXDPMScheduler": timestep_reader(no_twin("its step() takes other arguments"), clips=False),
    "DDPMScheduler": timestep_reader(ends_clean=True),
    "DDPMParallelScheduler": timestep_reader(ends_clean=True),
    "PNDMScheduler": timestep_reader(twins.pndm, level_list="pndm"),
    "LCMScheduler": timestep_reader(twins.lcm, ends_clean=True),
    "TCDScheduler": timestep_reader(clips=False, ends_lowest=True),
    "UnCLIPScheduler": readers.unclip,
    "RePaintScheduler": timestep_reader(no_twin(_REPAINT)),
    "DDIMInverseScheduler": timestep_reader(no_twin(_INVERSE)),
    "EulerDiscreteScheduler": ratio_reader(),
    "EulerAncestralDiscreteScheduler": ratio_reader(),
    "LMSDiscreteScheduler": ratio_reader(),
    "HeunDiscreteScheduler": ratio_reader(stride=2),
    "KDPM2DiscreteScheduler": ratio_reader(stride=2),
    "KDPM2AncestralDiscreteScheduler": ratio_reader(stride=2),
    "DPMSolverSDEScheduler": ratio_reader(stride=2),
    "DPMSolverMultistepScheduler": multistep_reader(twins.multistep, lowers_below=15),
    "DPMSolverMultistepInverseScheduler": multistep_reader(no_twin(_INVERSE)),
    "DPMSolverSinglestepScheduler": multistep_reader(no_twin(_SINGLESTEP)),
    "DEISMultistepScheduler": multistep_reader(twins.deis, ends="lowest", lowers_below=15),
    "UniPCMultistepScheduler": multistep_reader(twins.unipc),
    "SASolverScheduler": multistep_reader(twins.sa_solver, ends="lowest"),
    "EDMEulerScheduler": edm_reader(lambda name, f: ("euler", {})),
    "EDMDPMSolverMultistepScheduler": edm_reader(twins.multistep),
    "CosineDPMSolverMultistepScheduler": edm_reader(twins.cosine_multistep, clock="atan"),
    "FlowMatchEulerDiscreteScheduler": flow_reader(twins.flow_euler),
    "FlowMatchHeunDiscreteScheduler": flow_reader(stride=2),
    "FlowMatchLCMScheduler": flow_reader(),
    "LTXEulerAncestralRFScheduler": flow_reader(no_twin("it splits its step in another way, with less noise")),
    "IPNDMScheduler": readers.ipndm,
    "CMStochasticIterativeScheduler": readers.consistency,
    "DDPMWuerstchenScheduler": readers.wuerstchen,
    "KarrasVeScheduler": readers.karras_ve,
    "ScoreSdeVeScheduler": readers.score_sde_ve,
}

_TOKENS = "its states are tokens, not Gaussian"
#: Every other class of diffusers → why it is not read.
NO_PATH = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "DiscreteDDIMScheduler": _TOKENS,
    "EntropyBoundScheduler": _TOKENS,
    "VQDiffusionScheduler": _TOKENS,
    "ConsistencyDecoderScheduler": "it belongs to one decoder and has a schedule of its own",
    "FlowMapEulerDiscreteScheduler": "its network predicts a whole step, from one time to another",
    "HeliosScheduler": "it changes the size of x between its stages",
    "HeliosDMDScheduler": "it changes the size of x between its stages",
    "MiniMaxH3Scheduler": "its times and network output are of a model of its own",
    "PiflowScheduler": "its network returns a policy, not a prediction",
    "RFD4ProteinaScheduler": "its noise is not that of images: coordinates and latents each have their own path",
    "SCMScheduler": "TrigFlow, x = cos(t)·x₀ + σ_d·sin(t)·ε, is not built in",
}
