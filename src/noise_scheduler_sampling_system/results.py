"""What a run hands out: its steps, its resumable state, and its result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .errors import FileError
from .files import read_bytes, write_atomic
from .grids import TimeGrid
from .keys import Key, Keys
from .plan import SamplingPlan
from .profiling import Profile
from .run import State

__all__ = ["RunState", "SamplingResult", "SamplingStep"]

_FORMAT = 1


@dataclass(frozen=True)
class RunState:
    """A run stopped between two steps: enough to go on, bit for bit.

    Attributes:
        plan: what is being run.
        state: where it stands.
        keys: (seed, index) of each sample's noise.
        settings: of the pipeline that made it; it can only go on under the same ones.
        memory: what the guidance remembers (the momentum of APG), by name.
        noise: the kind of noise, "independent" or "brownian".
        model: the fingerprint of the model that made it, which is the one to go on with; None: not known.
    """

    plan: SamplingPlan
    state: State
    keys: Sequence[Key]
    settings: dict[str, Any]
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    noise: str = "independent"
    model: str | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state as a safetensors file, whole or not at all."""
        from safetensors.torch import save

        tensors = {
            "x": self.state.x,
            **{f"history.{j}": y for j, y in self.state.history.items()},
            **{f"memory.{name}": kept for name, kept in self.memory.items()},
        }
        about = {
            "format": _FORMAT,
            "row": self.state.row,
            "plan": self.plan.to_dict(),
            "keys": list(self.keys),
            "settings": self.settings,
            "noise": self.noise,
            "model": self.model,
        }
        data = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        write_atomic(path, save(data, metadata={"run": json.dumps(about)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> RunState:
        """Read a state that :meth:`save` wrote.

        Raises:
            FileError: missing, malformed, or of another format.
        """
        from safetensors.torch import load

        data = read_bytes(path)
        try:
            tensors = load(data)
            about = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["run"])
            if about["format"] != _FORMAT:
                raise ValueError(f"format {about['format']}")
            x = tensors.pop("x").to(device)
            parts: dict[str, dict[str, Tensor]] = {"history": {}, "memory": {}}
            for name, tensor in tensors.items():
                kind, _, rest = name.partition(".")
                parts[kind][rest] = tensor.to(device)
            history = {int(j): y for j, y in parts["history"].items()}
            keys = Keys.of((int(seed), int(index)) for seed, index in about["keys"])
            plan = SamplingPlan.from_dict(about["plan"])
            state = State(int(about["row"]), x, history)
            kind = str(about.get("noise", "independent"))  # which older files do not say
            model = None if about.get("model") is None else str(about["model"])
            return cls(plan, state, keys, about["settings"], parts["memory"], kind, model)
        except Exception as error:
            raise FileError(
                "is not a saved run", where=str(path), why=str(error), suggestion="give a file of RunState.save"
            ) from error


@dataclass(frozen=True)
class SamplingStep:
    """One step of a run.

    Attributes:
        index: which step, from 0.
        x: the state after it, shape (B, ...).
        t: the model time at which the step began.
        sigma: the noise level σ of x.
        nfe: model calls so far.
        first_sample: the number of x's first sample in the whole batch, when it is split.
        state: to go on from here.
    """

    index: int
    x: Tensor
    t: float
    sigma: float
    nfe: int
    first_sample: int
    state: RunState
    _clean: Callable[[], Tensor]

    @property
    def pred_original_sample(self) -> Tensor:
        """The clean sample that the step's last model call predicts, clipped; computed when asked for."""
        return self._clean()


@dataclass(frozen=True)
class SamplingResult:
    """A finished run.

    Attributes:
        samples: shape (B, ...).
        keys: (seed, index) of each sample: ``seed=[...]`` of the seeds of index 0, or the one
            common seed, gives them again.
        steps, nfe: steps and model calls made (of the longest batch, where split).
        evaluations: how often a network was evaluated for each sample in these calls: once each without
            guidance, twice with classifier-free guidance (``guidance.evaluations`` tells it beforehand).
        stopped_early: whether ``early_stopping`` ended the run.
        calls_saved: model calls that the plan had left then; 0 where the steps are found on the way.
        profile: with ``profile``, where the time went.
        plan: what was run. Of steps that were found on the way (of the longest batch, where split), the
            plan with just these steps: run again, it needs no failed ones.
        rejected: steps that failed, whose model calls ``nfe`` counts.
        grid: the noise levels that were found on the way, for any sampler to use; None for a run of a plan.
    """

    samples: Tensor
    keys: Sequence[Key]
    steps: int
    nfe: int
    evaluations: int
    stopped_early: bool
    calls_saved: int
    profile: Profile | None
    plan: SamplingPlan
    rejected: int = 0
    grid: TimeGrid | None = None
