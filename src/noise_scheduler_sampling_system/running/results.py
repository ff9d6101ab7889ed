"""The results of a run: its steps, its resumable state, and its samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ..grids.time_grid import TimeGrid
from ..plans.frame_plan import FramePlan
from ..plans.plan import SamplingPlan
from ..support.drawn import Drawn, brief
from ..support.errors import ConfigurationError, shown
from ..support.files import of_file
from ..support.tensor_files import read_tensors, write_tensors
from ..support.values import ByValue
from .device_noise import STREAMS
from .loop import RowState
from .noise_keys import Key, Keys
from .profiling import Profile

__all__ = ["InterruptedRunError", "RunState", "SamplingResult", "SamplingStep"]

_FORMAT = 1


@final
class InterruptedRunError(KeyboardInterrupt):
    """An interrupt (Ctrl-C) of a run whose first samples were done: where ``max_batch_size`` splits a batch.

    Args:
        result: the samples of the parts that were done, (B', ...), with their keys.
    """

    def __init__(self, result: SamplingResult) -> None:
        super().__init__(f"interrupted: {len(result.samples)} samples are done")
        self.result = result

    def __reduce__(self) -> tuple[object, ...]:
        return (InterruptedRunError, (self.result,))


@final
@dataclass(frozen=True, eq=False)
class RunState(ByValue):
    """A run that stopped between two steps, with all that is needed to resume it bit for bit.

    Attributes:
        plan: of the run.
        state: of the run between two rows.
        keys: (seed, index) of each sample's noise.
        settings: of the pipeline that made it; the run can only be resumed with the same settings.
        memory: tensors that the guidance keeps from call to call (the momentum of APG), by name.
        noise: the kind of noise, "independent" or "brownian".
        model: the fingerprint of the model that made it, which the run must be resumed with; None: not known.
        noise_device: where the numbers of its noise are made, "cpu" or "cuda".

    Raises:
        ConfigurationError: the plan does not have the row, the history lacks a prediction that a later row reads, the
            number of keys is not that of samples, or a field is of another type.
    """

    plan: SamplingPlan | FramePlan
    state: RowState
    keys: Sequence[Key]
    settings: dict[str, Any]
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    noise: str = "independent"
    model: str | None = None
    noise_device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", _checked_keys(self.keys))
        for name, what, allowed in _problems(self):
            raise ConfigurationError(what, where=f"RunState.{name}", suggestion=allowed)

    def __repr__(self) -> str:
        return _brief_fields(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state as a safetensors file, whole or not at all."""
        from safetensors.torch import save

        state = self.state
        last = {"asked": state.evaluated_x, "output": state.output} if state.row == len(self.plan) else {}
        keys = Keys.of(self.keys).array.view(np.int64)  # as a tensor, because a batch may be large
        tensors = {
            "x": state.x,
            "keys": torch.from_numpy(keys.copy()),
            **{f"history.{j}": y for j, y in state.history.items()},
            **{f"memory.{name}": kept for name, kept in self.memory.items()},
            **{f"last.{name}": kept for name, kept in last.items() if kept is not None},
        }
        about = {
            "format": _FORMAT,
            "row": state.row,
            "plan": self.plan.to_dict(),
            "settings": self.settings,
            "noise": self.noise,
            "model": self.model,
            "noise_device": self.noise_device,
        }
        data = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        write_tensors(path, "run", about, save, data)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> RunState:
        """Read a state that :meth:`save` wrote, in this version or an earlier one.

        Raises:
            FileError: the file is missing, malformed, was changed since it was saved, has another format, or holds an
                impossible state.
        """
        from safetensors.torch import load

        with of_file(path, "is not a saved run", "give a file of RunState.save"):
            tensors, about = read_tensors(path, "run", load)
            return _from_parts(tensors, about, device)


def _checked_keys(keys: Any) -> Keys:
    """The keys of a batch.

    Raises:
        ConfigurationError: a key is not a pair of whole numbers in range.
    """
    if isinstance(keys, Keys):
        return keys
    pairs: list[Any] = list(keys) if isinstance(keys, Sequence) and not isinstance(keys, str | bytes) else [None]
    for pair in pairs:
        valid = isinstance(pair, list | tuple) and len(pair) == 2
        if not (valid and all(type(n) is int and 0 <= n < 2**64 for n in pair)):
            raise ConfigurationError(
                f"got {shown(pair)}",
                where="RunState.keys",
                suggestion="give (seed, index) of each sample, from 0 to 2⁶⁴ − 1",
            )
    return Keys.of(pairs)


def _problems(run: RunState) -> Iterator[tuple[str, str, str]]:
    """The faults of a state: for each the field, the error, and what is allowed."""
    state = run.state
    if not isinstance(run.plan, SamplingPlan | FramePlan) or not isinstance(state, RowState):
        yield "state", f"got {type(run.plan).__name__} and {type(state).__name__}", "give a SamplingPlan and a RowState"
        return
    row, x, rows = state.row, state.x, len(run.plan)
    if type(row) is not int or not 0 <= row <= rows:
        yield "row", f"got {shown(row)}", f"give a whole number from 0 to {rows}, the rows of the plan"
        return
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 1:
        yield "x", f"got {shown(x)}", "give a floating-point tensor of shape (batch, ...)"
        return
    if len(run.keys) != len(x):
        yield "keys", f"there are {len(run.keys)} for a batch of {len(x)}", "give one for each sample"
    needed = run.plan.kept_at(row)
    known_keys = {*range(row), *needed}
    missing, odd = needed - set(state.history), [j for j in state.history if type(j) is not int or j not in known_keys]
    if missing or odd:
        what = f"of row {min(missing)} is missing" if missing else f"of row {shown(odd[0])} is not read by later rows"
        yield "history", f"the prediction {what}", f"later rows read those of rows {sorted(needed)}"
    for kept in (state.history, run.memory):
        if not isinstance(kept, Mapping):
            yield "memory", f"got {type(kept).__name__}", "give tensors by name"
    known = getattr(state.history, "originals", state.history)  # reading Copies would copy
    for j in needed - missing:
        y = known[j]
        if not isinstance(y, Tensor) or y.shape != x.shape or not y.is_floating_point():
            yield "history", f"the prediction of row {j} is {shown(y)}", f"give a tensor of shape {tuple(x.shape)}"
    if not isinstance(run.settings, Mapping) or not isinstance(run.settings.get("config", {}), Mapping):
        yield "settings", f"got {shown(run.settings)}", "give the settings of the pipeline that made the state"
    if run.noise not in ("independent", "brownian"):
        yield "noise", f"got {shown(run.noise)}", "give 'independent' or 'brownian'"
    if run.noise_device not in STREAMS:
        yield "noise_device", f"got {shown(run.noise_device)}", "give 'cpu' or 'cuda'"
    if run.model is not None and not isinstance(run.model, str):
        yield "model", f"got {shown(run.model)}", "give the fingerprint of a model, or None"


def _keys_from(numbers: Tensor) -> Keys:
    if numbers.dtype != torch.int64 or numbers.ndim != 2 or numbers.shape[1] != 2:
        raise ValueError(f"the keys are {shown(numbers)}")
    return Keys(np.ascontiguousarray(numbers.numpy()).view(np.uint64))


def _from_parts(tensors: dict[str, Tensor], about: Any, device: str | torch.device) -> RunState:
    """A state from the tensors and the data of a file.

    Raises:
        NoiseSamplingError, ValueError: the content is not that of a state.
    """
    if not isinstance(about, dict) or about.get("format") != _FORMAT or "x" not in tensors:
        raise ValueError("it is of another format")
    numbers = tensors.pop("keys", None)
    if numbers is not None:
        about = {**about, "keys": _keys_from(numbers)}
    missing = {"row", "plan", "keys", "settings"} - set(about)
    if missing:
        raise ValueError(f"it has no {', '.join(sorted(missing))}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{shown(name)} holds NaN or Inf")
    parts: dict[str, dict[str, Tensor]] = {"history": {}, "memory": {}, "last": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if name != "x" and (kind not in parts or (kind == "history" and not (rest.isascii() and rest.isdecimal()))):
            raise ValueError(f"it holds a tensor {shown(name)}")
        if name != "x":
            parts[kind][rest] = tensor.to(device)
    history: dict[int, Tensor] = {int(j): y for j, y in parts["history"].items()}
    last = parts["last"]
    state = RowState(about["row"], tensors["x"].to(device), history, last.get("asked"), last.get("output"))
    kind = about.get("noise", "independent")  # older files lack it
    kinds = FramePlan if FramePlan.is_data(about["plan"]) else SamplingPlan
    plan: SamplingPlan | FramePlan = kinds.from_dict(about["plan"])
    made_on = about.get("noise_device", "cpu")
    return RunState(plan, state, about["keys"], about["settings"], parts["memory"], kind, about.get("model"), made_on)


@final
@dataclass(frozen=True)
class _Known:
    """The clean sample of a step that was pickled, which cannot compute it again."""

    clean: Tensor

    def __call__(self) -> Tensor:
        return self.clean


@final
@dataclass(frozen=True, eq=False)
class SamplingStep(ByValue):
    """One step of a run.

    Attributes:
        index: which step, from 0.
        x: the state after the step, shape (B, ...).
        t: the model time at the start of the step; with a level per frame, that of the noisiest frame that moves.
        sigma: the noise level σ of x; with a level per frame, the largest.
        nfe: model calls so far.
        first_sample: the number of x's first sample in the whole batch, which may be split.
        state: for resuming the run after this step.
        white_on_black: as for :class:`SamplingResult`.
    """

    index: int
    x: Tensor
    t: float
    sigma: float
    nfe: int
    first_sample: int
    state: RunState
    _clean: Callable[[], Tensor] = field(compare=False, repr=False)
    white_on_black: bool = field(default=False, compare=False, repr=False)

    @property
    def finished_frames(self) -> tuple[int, ...]:
        """The frames that are finished after this step, in a run with a noise level per frame; else empty."""
        plan = self.state.plan
        return plan.finished(self.state.state.row) if isinstance(plan, FramePlan) else ()

    @property
    def pred_original_sample(self) -> Tensor:
        """The clean sample that the step's last model call predicts, clipped; computed when it is read."""
        return self._clean()

    def __repr__(self) -> str:
        return (
            f"SamplingStep(index={self.index}, t={self.t:g}, sigma={self.sigma:.4g}, nfe={self.nfe}, "
            f"x={brief(self.x)}, first_sample={self.first_sample})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        values = (getattr(self, each.name) for each in fields(self) if each.compare)
        return SamplingStep, (*values, _Known(self.pred_original_sample), self.white_on_black)


@final
@dataclass(frozen=True, eq=False)
class SamplingResult(ByValue, Drawn):
    """A finished run.

    Attributes:
        samples: shape (B, ...).
        keys: (seed, index) of each sample. The common seed, or ``seed=[...]`` with the seeds of index 0, gives the
            same noise again.
        steps, nfe: steps and model calls; if the batch was split, those of the longest part.
        evaluations: evaluations of a network for each sample: one for each call without guidance, two with
            classifier-free guidance (``guidance.evaluations`` returns them before the run).
        stopped_early: whether ``early_stopping`` ended the run.
        calls_saved: model calls that the plan had left then; 0 for a run with adaptive steps.
        profile: the time of each part, with ``profile``.
        plan: of the run. For a run with adaptive steps it is the plan with the steps that succeeded; if the batch was
            split, those of the longest part.
        rejected: steps that failed; ``nfe`` counts their model calls.
        grid: the noise levels of adaptive steps, for any sampler to use; None for a run of a plan.
        white_on_black: whether the model says that its images are white strokes on black, which figures draw dark on
            light.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline
        >>> pipeline = DiffusionPipeline(None, "heun")
        >>> result = pipeline.sample(shape=(2, 1, 8, 8), num_inference_steps=5, seed=7, return_result=True)
        >>> result.steps, result.nfe, list(result.keys)
        (5, 9, [(7, 0), (7, 1)])
    """

    samples: Tensor
    keys: Sequence[Key]
    steps: int
    nfe: int
    evaluations: int
    stopped_early: bool
    calls_saved: int
    profile: Profile | None
    plan: SamplingPlan | FramePlan
    rejected: int = 0
    grid: TimeGrid | None = None
    white_on_black: bool = field(default=False, repr=False)

    def __repr__(self) -> str:
        return _brief_fields(self)


def _brief_fields(value: Any) -> str:
    """The repr of a dataclass, without the numbers of its tensors and without fields that are None."""
    given = ((each.name, getattr(value, each.name)) for each in fields(value) if each.repr)
    return f"{type(value).__name__}({', '.join(f'{name}={brief(v)}' for name, v in given if v is not None)})"
