"""A file from which a call of ``sample`` goes on after its process, its model or its machine failed.

It holds the state of each part of the batch that was begun; a finished part is a state after the last row. It is
written whole or not at all, every N steps of a part and at its end, and removed when all samples are done.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from ..guidance.evaluate import Memory
from ..running.digests import OTHER_PROCESSOR, digest
from ..running.faults import explained, is_finite
from ..running.loop import Reached, RowState
from ..running.noise_keys import Keys
from ..running.results import RunState
from ..support.argument_checks import checked_count
from ..support.errors import ConfigurationError, FileError, NumericsError
from ..support.files import checked_path, of_file, refuse_missing_folder
from ..support.tensor_files import read_tensors, write_tensors
from .job import Job
from .request import Request

__all__ = ["Checkpoint", "SavedPart"]

logger = logging.getLogger(__name__)

_FORMAT: Final = 1
_EVERY: Final = 10
#: Arguments that change the samples and are not in the plan, the settings or the keys.
_OF_REQUEST: Final = (
    "condition", "null_condition", "guidance", "guidance_scale", "classifier_free_guidance", "initial_noise",
    "initial_sample", "context", "round_timesteps",
)  # fmt: skip
#: What a user calls the parts of an identity.
_WORDS: Final[Mapping[str, str]] = {
    "settings": "config or sampler", "plan": "number of steps or plan", "request": "condition, guidance or start",
    "keys": "seed",
}  # fmt: skip


@final
class SavedPart(NamedTuple):
    """The state of a part of a batch.

    Attributes:
        start: the number of its first sample in the batch.
        row, x, history: of the state.
        memory: what the guidance remembers.
    """

    start: int
    row: int
    x: Tensor
    history: dict[int, Tensor]
    memory: dict[str, Tensor]

    @property
    def stop(self) -> int:
        """The number after its last sample."""
        return self.start + len(self.x)

    def part(self, start: int, stop: int) -> SavedPart:
        """The state of samples start to stop of the batch alone."""
        size, a, b = len(self.x), start - self.start, stop - self.start

        def rows(value: Tensor) -> Tensor:
            return value[a:b] if value.ndim and len(value) == size else value

        history = {row: rows(y) for row, y in self.history.items()}
        return SavedPart(start, self.row, self.x[a:b], history, {name: rows(y) for name, y in self.memory.items()})

    def placed(self, job: Job) -> tuple[RowState, Memory]:
        """The state and the memory on the device of the run, as copies."""
        device = job.noise.device
        history = {row: y.to(device, copy=True) for row, y in self.history.items()}
        state = RowState(self.row, self.x.to(device, copy=True), history)
        return state, {name: y.to(device, copy=True) for name, y in self.memory.items()}


@final
@dataclass
class Checkpoint:
    """The states of a run, in memory and in a file.

    Attributes:
        path: of the file.
        every: steps of a part between two writes.
        identity: what a call must share with the one that began the file.
        keys: of the whole batch.
        parts: disjoint, in any order.
    """

    path: Path
    every: int
    identity: dict[str, Any]
    keys: Keys
    parts: list[SavedPart] = field(default_factory=list)

    @classmethod
    def open(cls, job: Job, request: Request) -> tuple[Job, Checkpoint | None]:
        """The checkpoint of a request, and the job with the noise keys of the run that goes on.

        Raises:
            ConfigurationError: a run that cannot go on, or the file is of another run.
            FileError: the file is malformed, or its folder is missing.
        """
        if request.checkpoint is None:
            if request.every is not None:
                raise ConfigurationError("is given without checkpoint", where="every", suggestion="give a file, too")
            return job, None
        every = _EVERY if request.every is None else checked_count(request.every, "every")
        path = checked_path(request.checkpoint)
        if path.suffix != ".safetensors":
            raise FileError("is not a name for a checkpoint", where=str(path), suggestion="use .safetensors")
        _refuse_unfit(job, request)
        made = cls(path, every, _identity(job, request), job.noise.keys)
        if not path.exists():
            refuse_missing_folder(path)
            return job, made
        stored, keys, parts = _read(path)
        drawn = request.seed is None and request.generator is None and request.initial_noise is None
        other = [_WORDS.get(name, name) for name, value in made.identity.items() if stored.get(name) != value]
        if not (drawn or keys == made.keys):
            other.append(_WORDS["keys"])
        if other:
            raise ConfigurationError(
                f"{path} is of a run with another {', '.join(other)}",
                where="checkpoint",
                suggestion="call sample with the arguments of that run, name another file, or remove this one"
                + (OTHER_PROCESSOR if _WORDS["plan"] in other else ""),
            )
        with of_file(path, "is not a checkpoint of this run", "name another file, or remove this one"):
            for part in parts:
                state = RowState(part.row, part.x, part.history)
                RunState(job.run.plan, state, keys[part.start : part.stop], job.settings)  # which checks it
                if part.x.shape[1:] != job.noise.shape:
                    raise ValueError(f"it holds samples of shape {tuple(part.x.shape[1:])}")
        made.keys, made.parts = keys, parts
        logger.info("%s: going on with the run that it holds", path)
        return replace(job, noise=replace(job.noise, keys=keys)), made

    def begin(self, job: Job) -> SavedPart | None:
        """The saved state of a part of the batch; None: it begins with noise."""
        start, stop = job.first, job.first + job.batch
        for saved in self.parts:
            if saved.start <= start and stop <= saved.stop:
                return saved.part(start, stop)
        return None

    def reached(self, job: Job, reached: Reached, memory: Memory) -> None:
        """Keep the state after a step, if it is due.

        Raises:
            NumericsError: the state is not finite; the file stays as it was.
            FileError: the file cannot be written.
        """
        state, plan = reached.state, reached.run.plan
        if (int(plan.step[state.row - 1]) + 1) % self.every and state.row < len(plan):
            return
        if not is_finite(state.x):
            raise NumericsError(
                "the state is not finite", where=f"plan of {plan.sampler!r}", suggestion="see the second run"
            )
        ended = state.row == len(plan)
        history = {} if ended else {row: _copied(y) for row, y in state.history.items()}
        kept = {} if ended else {name: _copied(y) for name, y in memory.items()}
        new = SavedPart(job.first, state.row, _copied(state.x), history, kept)
        self.parts = [*_outside(self.parts, new.start, new.stop), new]
        if not ended or len(new.x) < len(self.keys):  # otherwise the samples are returned at once
            self._write()

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Tell an exception that leaves the run where to go on; remove the file after success."""
        try:
            yield
        except BaseException as error:
            if self.path.exists():
                note = f"the same call of sample goes on from {self.path}"
                explained(error, note)
                logger.warning("the run stopped; %s", note)
            raise
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        from safetensors.torch import save

        tensors = {"keys": torch.from_numpy(self.keys.array.view(np.int64).copy())}
        for i, part in enumerate(self.parts):
            tensors[f"{i}.x"] = part.x
            tensors |= {f"{i}.history.{row}": y for row, y in part.history.items()}
            tensors |= {f"{i}.memory.{name}": y for name, y in part.memory.items()}
        about = {
            "format": _FORMAT, "identity": self.identity, "parts": [[part.start, part.row] for part in self.parts],
        }  # fmt: skip
        write_tensors(self.path, "checkpoint", about, save, {name: y.contiguous() for name, y in tensors.items()})


def _identity(job: Job, request: Request) -> dict[str, Any]:
    return {
        "plan": job.run.plan.content_hash,
        "settings": digest(job.settings),
        "model": job.fingerprint,
        "noise": job.noise.kind if job.noise.made_on == "cpu" else f"{job.noise.kind} of {job.noise.made_on}",
        "shape": [job.batch, *job.noise.shape],
        "dtype": str(job.noise.dtype),
        "request": digest({name: getattr(request, name) for name in _OF_REQUEST}),
    }


def _refuse_unfit(job: Job, request: Request) -> None:
    """Raise for a run whose state between two steps is not all that it needs to go on."""
    if not job.run.planned:
        raise ConfigurationError(
            "a run with adaptive steps cannot go on from a file",
            where="checkpoint",
            why="the state does not hold the length of the next step",
            suggestion="leave it out, or run the grid that a result of it reports",
        )
    for name in ("early_stopping", "differentiable"):
        if getattr(request, name):
            raise ConfigurationError(
                f"is given beside {name}", where="checkpoint", why="a file does not hold what that remembers",
                suggestion="give one of the two",
            )  # fmt: skip


def _outside(parts: list[SavedPart], start: int, stop: int) -> Iterator[SavedPart]:
    """What parts hold of samples before ``start`` and from ``stop`` on."""
    for part in parts:
        if part.start < start:
            yield part.part(part.start, min(start, part.stop))
        if part.stop > stop:
            yield part.part(max(stop, part.start), part.stop)


def _copied(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)


def _read(path: Path) -> tuple[dict[str, Any], Keys, list[SavedPart]]:
    """The identity, the keys and the parts in a file.

    Raises:
        FileError: it is malformed, was changed, or is of another kind.
    """
    from safetensors.torch import load

    with of_file(path, "is not a checkpoint of sample", "name another file, or remove this one"):
        tensors, about = read_tensors(path, "checkpoint", load)
        if not isinstance(about, dict) or about.get("format") != _FORMAT or not isinstance(about.get("identity"), dict):
            raise ValueError("it is of another format")
        numbers, listed = tensors.pop("keys", None), about.get("parts")
        if numbers is None or numbers.dtype != torch.int64 or numbers.ndim != 2 or numbers.shape[1] != 2:
            raise ValueError("it has no noise keys")
        if not isinstance(listed, list):
            raise ValueError("it has no parts")
        found: list[dict[str, dict[str, Tensor]]] = [{"history": {}, "memory": {}} for _ in listed]
        states: dict[int, Tensor] = {}
        for name, tensor in tensors.items():
            number, kind, rest = [*name.split(".", 2), "", ""][:3]
            if not number.isdecimal() or int(number) >= len(found) or kind not in ("x", "history", "memory"):
                raise ValueError(f"it holds a tensor {name!r}")
            if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
                raise ValueError(f"{name} holds NaN, Inf, or no numbers")
            if kind == "x":
                states[int(number)] = tensor
            else:
                found[int(number)][kind][rest] = tensor
        parts = []
        for i, place in enumerate(listed):
            start, row = place if isinstance(place, list) and len(place) == 2 else (None, None)
            if type(start) is not int or type(row) is not int or start < 0 or row < 0 or i not in states:
                raise ValueError(f"part {i} is not valid")
            history = {int(key): y for key, y in found[i]["history"].items()}
            parts.append(SavedPart(start, row, states[i], history, found[i]["memory"]))
        return about["identity"], Keys(np.ascontiguousarray(numbers.numpy()).view(np.uint64)), parts
