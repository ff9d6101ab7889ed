"""What reading a scheduler of diffusers returns: its path, model, sampler with options, and spacing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

from ....config.registries import SAMPLERS
from ....config.settings import NoiseSchedulerConfig
from .pipeline_terms import PipelineTerms

__all__ = ["ClassReader", "Fields", "LevelList", "Reading", "Twin"]

#: The fields of a scheduler, defaults included.
Fields = Mapping[str, Any]
#: (sampler, options), or the reason why no sampler is the same.
Twin = tuple[str, dict[str, Any]] | str
#: How a class lists the levels that it visits; scheduler_levels.py reads each kind.
LevelList = Literal[
    "times", "inverse times", "pndm", "ratios", "ratios, twice", "dpm", "flow", "flow, twice", "flow, inverted",
    "angles", "fractions", "edm", "own",
]  # fmt: skip


@final
@dataclass(frozen=True)
class Reading:
    """A scheduler of diffusers in terms of this library.

    Attributes:
        class_name: diffusers' class.
        fields: every field of that class, defaults included.
        config: path, model and spacing. It also holds ``variance_type`` and ``use_clipped_model_output`` as the
            class's own sampler reads them; :meth:`config_for` removes them for samplers that do not.
        level_list: how the class lists its levels.
        sampler, options: the sampler that equals the class, or None with a :attr:`refusal`.
        lowers_below: the class ignores ``lower_order_final`` in runs of this number of steps or more; None: never.
        departs: whether the class departs from the sampler after its first step, so that its plans are traced.
        terms: what the scheduler does between its pipeline and a plan.
        counts_end: whether the class's N counts the end of the run, so that it calls the model N − 1 times.
        needs_mu: whether the shift depends on the image's size and ``mu`` was not given.
        refusal: why no sampler equals the class.
        traceable: whether the class can be traced although no sampler equals it.
        notes: where the config's spacing differs from that of the class.
    """

    class_name: str
    fields: Fields
    config: NoiseSchedulerConfig
    level_list: LevelList
    sampler: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    lowers_below: int | None = None
    departs: bool = False
    terms: PipelineTerms = field(default_factory=PipelineTerms)
    counts_end: bool = False
    needs_mu: bool = False
    refusal: str = ""
    traceable: bool = False
    notes: tuple[str, ...] = ()

    def config_for(self, sampler: str) -> NoiseSchedulerConfig:
        """The config without the fields that this sampler does not read and would refuse."""
        reads = SAMPLERS.get(sampler).reads
        config, changes = self.config, dict[str, Any]()
        if not config.use_clipped_model_output and "use_clipped_model_output" not in reads:
            changes["use_clipped_model_output"] = True
        if not config.variance_type.startswith("learned") and "variance_type" not in reads:
            changes["variance_type"] = "fixed_small"
        return config.replace(**changes) if any(getattr(config, k) != v for k, v in changes.items()) else config

    def options_for(self, steps: int) -> dict[str, Any]:
        """The sampler's options for a run of N = ``steps``."""
        options = dict(self.options)
        many = self.lowers_below is not None and steps >= self.lowers_below
        if many and "lower_order_final" in options and not self.fields.get("euler_at_final"):
            options["lower_order_final"] = False
        return options


#: Reads a class: (class name, fields, mu) → :class:`Reading`.
ClassReader = Callable[[str, dict[str, Any], float | None], Reading]
