"""The prediction type that a model states, compared with the config."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, NamedTuple

from ..config.prediction import PREDICTION_ALIASES, PREDICTION_TYPES, TWO_TIME_TYPES
from ..support.data_files import read_json
from ..support.errors import ConfigurationError
from .model_attributes import attribute

__all__ = ["Statement", "refuse_other_prediction", "refuse_other_statement", "stated_prediction", "unwrapped"]

#: Wrappers around a network that do not change its output.
_PARALLEL = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")
#: Schedulers of diffusers whose ``prediction_type`` does not describe the network's output.
_PRECONDITIONED = ("EDM", "CosineDPM", "ConsistencyDecoder", "CMStochastic")


class Statement(NamedTuple):
    """The prediction type of a model, and the source of the statement."""

    prediction_type: str
    source: str


def unwrapped(model: Any) -> Any:
    """The model inside torch.compile, DataParallel, ``functools.partial`` and its own bound methods."""
    if type(model) is FunctionType and not vars(model):  # the search below takes longer
        return model
    for _ in range(8):
        inner = getattr(model, "module", None) if type(model).__name__ in _PARALLEL else None
        inner = attribute(model, "_orig_mod", inner)
        if isinstance(model, functools.partial):
            inner = model.func
        elif isinstance(model, MethodType) and model.__name__ in ("__call__", "forward"):
            inner = model.__self__
        if inner is None or not callable(inner) or isinstance(getattr(model, "prediction_type", None), str):
            return model
        model = inner
    return model


def stated_prediction(model: Any, *, beside: bool = True) -> Statement | None:
    """The statement of a model: its attribute ``prediction_type``, or that of the scheduler saved beside a network.

    Args:
        model: any model.
        beside: whether the scheduler that diffusers saved beside the network counts.
    """
    inner = unwrapped(model)
    own = attribute(inner, "prediction_type")
    if isinstance(own, str):
        kind = PREDICTION_ALIASES.get(own, own)
        known = kind in (*PREDICTION_TYPES, *TWO_TIME_TYPES)
        return Statement(kind, f"{type(inner).__name__}.prediction_type") if known else None
    place = _origin(inner) if beside else None
    return None if place is None else _of_scheduler_beside(place)


def refuse_other_prediction(
    model: Any, configured: str, *, by: str = "the config", where: str = "prediction_type", beside: bool = True
) -> bool:
    """Raise where a model states another prediction type than the config.

    Args:
        model: any model.
        configured: the prediction type of the config.
        by: the name of the config, for the error.
        where: the place of the error.
        beside: as for :func:`stated_prediction`.

    Returns:
        Whether the model states a type.

    Raises:
        ConfigurationError: the model states another type.
    """
    stated = stated_prediction(model, beside=beside)
    refuse_other_statement(stated, configured, by=by, where=where)
    return stated is not None


def refuse_other_statement(
    stated: Statement | None, configured: str, *, by: str = "the config", where: str = "prediction_type"
) -> None:
    """As :func:`refuse_other_prediction`, for the statement of a model."""
    if stated is not None and stated.prediction_type != configured:
        raise ConfigurationError(
            f"{by} says {configured!r}, and the model predicts {stated.prediction_type!r} ({stated.source})",
            where=where,
            why="the output would be read as another quantity, and the samples would be wrong",
            suggestion=f"say prediction_type={stated.prediction_type!r} there; or, if the model's statement is wrong, "
            f"set model.prediction_type = {configured!r}",
        )


def _origin(model: Any) -> str | None:
    """The folder or name that a network of diffusers was loaded from."""
    config = attribute(model, "config")
    if config is None:
        return None
    place = config.get("_name_or_path") if isinstance(config, Mapping) else getattr(config, "_name_or_path", None)
    return str(place) if isinstance(place, str | os.PathLike) and str(place) else None


@functools.lru_cache(maxsize=64)
def _of_scheduler_beside(place: str) -> Statement | None:
    for file in _scheduler_files(place):
        try:
            config = read_json(file)
        except OSError:  # the base of FileError
            continue
        name = str(config.get("_class_name", "")) if isinstance(config, dict) else ""
        if not name or name.startswith(_PRECONDITIONED):
            return None
        kind = "flow_prediction" if name.startswith("FlowMatch") else config.get("prediction_type")
        kind = "sample" if kind == "original_sample" else kind
        return Statement(kind, f"the {name} beside it, {file}") if kind in PREDICTION_TYPES else None
    return None


def _scheduler_files(place: str) -> list[Path]:
    """The files that may hold the scheduler: in the pipeline's folder or in the hub's cache. Nothing is downloaded."""
    name = Path("scheduler", "scheduler_config.json")
    found = [Path(place, name), Path(place).parent / name]
    hub = sys.modules.get("huggingface_hub")
    if hub is not None and not Path(place).exists():
        try:
            cached = hub.try_to_load_from_cache(place, name.as_posix())
        except Exception:  # not the name of a repository
            cached = None
        found += [Path(cached)] if isinstance(cached, str) else []
    return [file for file in found if file.is_file()]
