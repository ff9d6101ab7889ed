"""What the page without a server offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from ..support.argument_checks import checked_count
from ..support.errors import ConfigurationError

__all__ = ["SAMPLES", "Choice"]

#: The digits of a run: sample i of the seed, and digit i where each class is drawn once.
SAMPLES: Final = 10


@final
@dataclass(frozen=True)
class Choice:
    """The plans of a built page: every path with every spacing and every sampler, of 1 to ``most_steps`` steps.

    Attributes:
        paths, spacings, samplers: registered names. The noise of the samplers must have stage 0 alone.
        most_steps: the largest number of steps.
        seeds: seeds 0 to ``seeds`` − 1 are offered.

    Raises:
        ConfigurationError: an empty list, or a number below 1.
    """

    paths: tuple[str, ...] = ("linear", "cosine", "flow", "edm")
    spacings: tuple[str, ...] = ("kl_optimal", "leading", "trailing", "karras", "log_snr")
    samplers: tuple[str, ...] = (
        "ddim", "ancestral", "heun", "pndm", "dpmpp_2m", "dpmpp_3m", "unipc", "deis", "adams", "dpmpp_2m_sde", "er_sde",
    )  # fmt: skip
    most_steps: int = 50
    seeds: int = 10

    def __post_init__(self) -> None:
        for name in ("paths", "spacings", "samplers"):
            if not getattr(self, name):
                raise ConfigurationError("is empty", where=name, suggestion="give at least one name")
        checked_count(self.most_steps, "most_steps")
        checked_count(self.seeds, "seeds")
