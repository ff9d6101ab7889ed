"""compare(): samplers at equal numbers of model calls, from the same noise."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..config.keyword_advice import keywords_of, refuse_unknown
from ..config.settings import NoiseSchedulerConfig
from ..guidance.base import Guidance
from ..pipeline.system import COMPARE
from ..running.model_fingerprint import fingerprint
from ..schedules.path import NoisePath
from ..support.argument_checks import checked_count
from ..support.errors import ConfigurationError, shown
from ..support.version import __version__
from .calls import Calls
from .comparison import INTERRUPTED, Cell, Comparison
from .entries import entries_of
from .reference import KINDS, Reference, References
from .runs import COUNTS, Judge, job_of, run_cell
from .subject import INPUTS, Subject, guidance_of

__all__ = ["compare"]

logger = logging.getLogger(__name__)

#: Model calls of a fine run: at least this number, and this factor times the largest budget.
_FINE_CALLS: Final = 128
_FINER: Final = 4


@COMPARE.provide
def compare(
    samplers: Mapping[str, Any] | Iterable[Any],
    model: Any = None,
    *,
    nfe: int | Sequence[int] = (5, 8, 10, 20),
    count: str = "calls",
    shape: Sequence[int] | None = None,
    config: NoiseSchedulerConfig | NoisePath | Mapping[str, Any] | None = None,
    condition: Mapping[str, Any] | None = None,
    null_condition: Mapping[str, Any] | None = None,
    guidance_scale: float | None = None,
    guidance: Guidance | Sequence[Guidance] | None = None,
    seed: int = 0,
    repeats: int = 1,
    reference: str | None = "auto",
    reference_calls: int | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    data: Tensor | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    max_batch_size: int | None = None,
    progress: bool | Callable[[int, int], object] = False,
    **inputs: Any,
) -> Comparison:
    """Run samplers from the same noise at equal numbers of model calls, and measure how far they end from the ODE.

    Each cell runs the largest number of steps within its budget. The error is the root-mean-square difference per
    number to the solution of the probability-flow ODE from pure noise, so that a grid that starts below the noisiest
    level shows what this costs. Samplers that add noise do not follow the ODE: they have no error, and are compared
    by ``features``.

    Ctrl-C after the first cell ends the comparison early: the cells that are finished are returned, the others say
    "interrupted", and ``comparison.interrupted`` is True.

    Args:
        samplers: pipelines, samplers' names (those of other libraries, too), samplers, plans, plan sets, or tables of
            settings as a configuration file has them; a mapping gives them names.
        model: as for :meth:`DiffusionPipeline.sample`, or the name of a model ("digits", "mnist",
            "module:attribute", the folder of a pipeline of diffusers), or a pipeline of diffusers. None: the embedded
            digits, or the entries' own networks where ``DiffusionPipeline.from_diffusers`` made them.
        nfe: the budgets.
        count: what the budgets count: "calls" of the model, or "evaluations" of the network for a sample, of which
            guidance makes several in a call.
        shape: of a batch, (B, ...); default for the digits: (64, 1, 8, 8).
        config: the settings of the samplers that are given by name.
        condition, null_condition, guidance: as for ``sample``.
        guidance_scale: as for ``sample``. The default is 1 (no guidance); for pipelines of diffusers their own, and
            for plans that hold their guidance its scale.
        seed: of the first run's noise.
        repeats: runs of each cell, with seeds ``seed``, ``seed`` + 1, ...
        reference: "exact" (models that know their solution, without guidance), "fine" (a run of ``reference_calls``
            calls, whose own error is stated), "auto" (exact where it can be, else fine), or None for no error.
        reference_calls: model calls of a fine run; default: 128, and at least four times the largest budget.
        features: images (B, ...) ↦ features (B, d), for the Fréchet distance to ``data``. Latents are decoded first.
        data: images of the data, for ``features``.
        device, dtype, max_batch_size: as for ``sample``.
        progress: show a progress bar, or a function of (model calls done, model calls in all).
        inputs: of pipelines of diffusers: ``prompt``, ``negative_prompt``, ``class_labels``, ``height``, ``width``,
            ``num_images_per_prompt``, ``encode_options``.

    Returns:
        The comparison; print it, or ``save`` it as a page, JSON or CSV.

    Raises:
        ConfigurationError: before the first model call, for what no cell could run with. A single cell that cannot
            run says why in ``cell.problem``.
    """
    refuse_unknown([name for name in inputs if name not in INPUTS], [*keywords_of(compare), *INPUTS])
    several = isinstance(nfe, Iterable) and not isinstance(nfe, str | bytes)
    budgets = tuple(dict.fromkeys(checked_count(n, "nfe") for n in (nfe if several else [nfe])))  # type: ignore[union-attr]
    for where, value, allowed in (("count", count, COUNTS), ("reference", reference, (None, *KINDS))):
        if value not in allowed:
            raise ConfigurationError(
                f"got {shown(value)}", where=where, suggestion=f"give one of {', '.join(map(repr, allowed))}"
            )
    if (features is None) != (data is None):
        raise ConfigurationError("features and data go together", where="features", suggestion="give both, or neither")
    repeats = checked_count(repeats, "repeats")
    given = {
        "condition": condition, "null_condition": null_condition, "guidance_scale": guidance_scale,
        "guidance": guidance, "device": device, "dtype": dtype, "max_batch_size": max_batch_size,
    }  # fmt: skip
    run = {name: value for name, value in given.items() if value is not None}
    labels: Any = (condition or {}).get("class_labels")
    subject = Subject.of(model, shape, run, inputs, len(labels) if hasattr(labels, "__len__") else None)
    entries = entries_of(samplers, config, subject)
    if not budgets or not entries:
        raise ConfigurationError(
            "there is nothing to compare", where="nfe" if entries else "samplers", suggestion="give at least one"
        )
    seeds = tuple(range(_checked_seed(seed), seed + repeats))
    fine = _fine_calls(reference_calls, max(budgets))
    judge = None if features is None or data is None else Judge(features, data)
    arguments = {entry.name: subject.arguments(entry.pipeline, entry.scale) for entry in entries}
    jobs = {(e.name, n): job_of(e, n, count, subject, arguments[e.name]) for e in entries for n in budgets}
    cells = {place: Cell(*place, problem=job.problem or INTERRUPTED) for place, job in jobs.items()}
    solutions: dict[str, Reference] = {}
    holding = [entry.name for entry in entries if entry.scale is not None]
    notes = [] if count != "calls" or not holding else [
        f"{', '.join(holding)}: the plans hold guidance, so that equal model calls are not equal evaluations; "
        'count="evaluations" (--evaluations) makes these equal'
    ]  # fmt: skip
    with _reported(progress) as report:
        calls = Calls(report)
        references = References(reference or "auto", fine, seeds, calls, subject)
        measured = [entry for entry in entries if reference is not None and not entry.stochastic]
        calls.total = sum(job.calls for job in jobs.values()) * repeats + references.calls_for(
            [(entry.pipeline.scheduler, arguments[entry.name]) for entry in measured]
        )
        try:
            for entry in entries:
                if entry in measured:
                    made = references.of(entry.pipeline, arguments[entry.name])
                    if isinstance(made, Reference):
                        solutions[entry.name] = made
                    else:
                        notes.append(f"{entry.name} has no reference, so no error. {made}")
                for budget in budgets:
                    place = (entry.name, budget)
                    cells[place] = run_cell(
                        jobs[place], subject, arguments[entry.name], seeds, solutions.get(entry.name), judge, calls
                    )
        except KeyboardInterrupt:
            if all(cell.problem for cell in cells.values()):
                raise
            logger.warning("the comparison was interrupted after %d of %d model calls", calls.done, calls.total)
    common = next((entry for entry in entries if entry.scale is None), entries[0])
    about = _about(arguments[common.name], seeds, count, run) | subject.size
    about |= {"interrupted": True} if any(cell.problem == INTERRUPTED for cell in cells.values()) else {}
    found = Comparison(tuple(entries), budgets, cells, solutions, about, tuple(notes))
    for remark in found.remarks:
        logger.warning("%s", remark)
    return found


def _checked_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigurationError(f"got {shown(seed)}", where="seed", suggestion="give a whole number from 0")
    return seed


def _fine_calls(given: int | None, largest: int) -> int:
    """Model calls of the fine run, which must be finer than what it judges."""
    if given is None:
        return max(_FINE_CALLS, _FINER * largest)
    calls = checked_count(given, "reference_calls")
    if calls < 2 * largest:
        raise ConfigurationError(
            f"got {calls} for budgets of up to {largest}",
            where="reference_calls",
            why="a run that is hardly finer than the others says little about their errors",
            suggestion=f"give at least {2 * largest}, or leave it out: {max(_FINE_CALLS, _FINER * largest)}",
        )
    return calls


@contextmanager
def _reported(progress: bool | Callable[[int, int], object]) -> Any:
    """The function that model calls are reported to; a progress bar for True, nothing for False."""
    if callable(progress) or not progress:
        yield progress or None
        return
    with tqdm(unit="call", smoothing=0.1) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report


def _about(
    arguments: Mapping[str, Any], seeds: tuple[int, ...], count: str, run: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """What ran, as plain data."""
    acting = guidance_of(arguments)
    return {
        "model": fingerprint(arguments["model"]), "shape": list(arguments["shape"]), "seeds": list(seeds),
        "budgets_count": count, "condition": list(arguments.get("condition") or ()) or None,
        "guidance_scale": arguments.get("guidance_scale"), "guidance": ", ".join(map(repr, acting)) or None,
        "device": str(arguments.get("device", "auto")), "dtype": None if "dtype" not in run else str(run["dtype"]),
        "noise_scheduler_sampling_system": __version__, "torch": torch.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
