"""The classes of diffusers that no sampler stands for: why, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

__all__ = ["NO_PATH", "NO_TWIN", "Refusal", "refusal_of"]


@final
@dataclass(frozen=True)
class Refusal:
    """Why a class cannot be a :class:`PlanScheduler`.

    Attributes:
        reason: what the class does that no plan can.
        instead: what to do instead.
    """

    reason: str
    instead: str

    @property
    def sentence(self) -> str:
        """Both, in one line."""
        return f"{self.reason}; {self.instead}"


_KEEP = "keep the pipeline's own scheduler"
_OF_TOKENS = Refusal("its states are tokens, not Gaussian", _KEEP)
_OF_STAGES = Refusal(
    "it changes the size of x between its stages, and adds noise of another covariance there",
    f"{_KEEP}; a stage by itself is a flow: FlowMatchEulerDiscreteScheduler with the stage's sigmas",
)

#: Classes without a path here: they cannot be read.
NO_PATH: Final[Mapping[str, Refusal]] = {
    **dict.fromkeys(
        ("AmusedScheduler", "BlockRefinementScheduler", "DiscreteDDIMScheduler", "EntropyBoundScheduler",
         "VQDiffusionScheduler"),
        _OF_TOKENS,
    ),
    "ConsistencyDecoderScheduler": Refusal(
        "it makes two fixed steps inside of a decoder, which calls it by itself", "keep the decoder's own scheduler"
    ),
    "HeliosScheduler": _OF_STAGES,
    "HeliosDMDScheduler": _OF_STAGES,
    "PiflowScheduler": Refusal(
        "its network returns a policy, several predictions for each entry of x, and a step integrates between them",
        f"{_KEEP}; the levels alone are those of FlowMatchEulerDiscreteScheduler",
    ),
    "RFD4ProteinaScheduler": Refusal(
        "its step masks tokens, and rescales the score by a temperature that depends on the time",
        _KEEP,
    ),
    "ScoreSdeVpScheduler": Refusal(
        "it has no step(), and its network returns a score",
        "DiffusionPipeline with beta_schedule='vp' and the sampler 'predictor_corrector'",
    ),
}  # fmt: skip

#: Classes whose settings are read, and whose steps no sampler makes; another sampler replaces them.
NO_TWIN: Final[Mapping[str, Refusal]] = {
    "KarrasVeScheduler": Refusal(
        "its pipeline calls add_noise_to_input and step_correct beside step",
        "from_config(config, method='edm', s_churn=..., timestep_spacing='karras') in a loop of the usual form is the "
        "same algorithm",
    ),
    "RePaintScheduler": Refusal(
        "its step takes the known image and the mask, and its list of times rises and falls",
        "from_config(config, method='ddim', timestep_spacing='leading') samples; "
        "DiffusionPipeline.from_diffusers(pipe).generate(..., image=..., mask_image=...) keeps the known region",
    ),
    "ScoreSdeVeScheduler": Refusal(
        "its pipeline calls step_pred and step_correct, whose step size is a norm of the network's output",
        "with a network of ε = −σ·score, from_config(config, method='predictor_corrector', timestep_spacing='log_snr') "
        "corrects with the step size of average norms",
    ),
}


def refusal_of(class_name: str) -> Refusal:
    """Why a class is refused."""
    return {**NO_PATH, **NO_TWIN}[class_name]
