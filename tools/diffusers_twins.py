"""Every pipeline class of diffusers' tests: its result with its own scheduler, and with PlanScheduler."""

from __future__ import annotations

import importlib
import inspect
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers_stand_ins import replaceable

from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler

__all__ = ["compare_twins"]

#: The largest difference of two results that agree, in parts of the largest value.
_AGREE = 1e-3


def compare_twins(source: Path, part: str) -> int:
    """Print one line for every pipeline class, and the number of classes with each outcome.

    Args:
        source: the folder of diffusers' sources.
        part: a part of the names of the classes to run; "" for all.
    """
    warnings.simplefilter("ignore")
    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    seen: set[str] = set()
    counts = {
        "agrees": 0,
        "differs": 0,
        "fails": 0,
        "cannot be built": 0,
        "cannot be compared": 0,
        "has no scheduler to replace": 0,
    }
    for case in _cases(source):
        name = case.pipeline_class.__name__
        if name in seen or part.lower() not in name.lower():
            continue
        seen.add(name)
        outcome, note = _compared(case)
        counts[outcome] += 1
        print(f"{name:48} {outcome}{': ' if note else ''}{note}", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return int(counts["differs"] + counts["fails"] > 0)


def _cases(source: Path) -> Iterator[Any]:
    for path in sorted((source / "tests" / "pipelines").rglob("test_*.py")):
        try:
            module = importlib.import_module(".".join(path.relative_to(source).with_suffix("").parts))
        except Exception as error:  # some need libraries that are not installed
            print(f"{path.name:48} cannot be imported: {_short(error)}", flush=True)
            continue
        for value in list(vars(module).values()):
            own = isinstance(value, type) and value.__module__ == module.__name__
            if (
                own
                and hasattr(value, "get_dummy_components")
                and isinstance(getattr(value, "pipeline_class", None), type)
            ):
                yield value


def _compared(case: type[Any]) -> tuple[str, str]:
    """The outcome of one class, and a note."""
    try:
        test = case.__new__(case)
        torch.manual_seed(0)
        components = test.get_dummy_components()
        places = [key for key, value in components.items() if replaceable(type(value))]
        if not places:
            return "has no scheduler to replace", ""
        expected = _run(test, components)
    except Exception as error:
        return "cannot be built", _short(error)
    try:
        ours = {**components, **{key: PlanScheduler.from_config(components[key]) for key in places}}
        result = _run(test, ours)
    except Exception as error:
        return "fails", _short(error) + _where(error)
    if result.shape != expected.shape:
        return "differs", f"shapes {result.shape} and {expected.shape}"
    distance = _distance(result, expected)
    if distance >= _AGREE and _distance(_run(test, components), expected) >= _AGREE:
        return "cannot be compared", "its own two results differ"
    note = f"{distance:.1e} ({type(components[places[0]]).__name__})"
    return ("agrees" if distance < _AGREE else "differs"), note


def _run(test: Any, components: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The first result of a pipeline of these components."""
    pipe = test.pipeline_class(**components)
    pipe.to("cpu")
    pipe.set_progress_bar_config(disable=True)
    parameters = inspect.signature(test.get_dummy_inputs).parameters
    inputs = test.get_dummy_inputs(**({"device": "cpu"} if "device" in parameters else {}))
    torch.manual_seed(0)
    with torch.no_grad():
        output = pipe(**inputs)
    first = output[0] if not hasattr(output, "images") else output.images
    while isinstance(first, list | tuple):
        first = np.stack([np.asarray(f) for f in first]) if not isinstance(first[0], list | tuple) else first[0]
    return np.asarray(first.detach().float().numpy() if torch.is_tensor(first) else first, dtype=np.float64)


def _distance(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float(np.abs(a - b).max() / max(1e-12, np.abs(b).max()))


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:150]


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})"
