"""What the page may offer: paths, spacings and samplers with their options, and the data of the digits."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from ..config.options import Option, parameters_of
from ..config.registries import SAMPLERS, SCHEDULES, SPACINGS
from ..models.digits import load_digits
from ..running.noise import INITIAL, NoiseSource, resolve_keys
from ..samplers.factory import SamplerFactory
from ..schedules.factory import NoiseSchedulerFactory
from ..schedules.path import NoisePath
from ..support.errors import ConfigurationError
from ..support.version import __version__
from .choice import SAMPLES
from .numbers import packed_bytes, packed_single
from .plan_data import kind_of

__all__ = ["catalog", "digits_data", "noise_data", "path_entry", "samplers_with_plans"]

#: Standard deviation of the smoothing of the digits (``DigitsModel``).
BANDWIDTH = 0.1
#: Spacings of one model or library, which come last in a list.
_NOT_FOR_THE_PAGE = ("custom",)


def catalog(
    paths: Iterable[dict[str, Any]], spacings: Iterable[str], samplers: Iterable[str], **more: Any
) -> dict[str, Any]:
    """The page's catalog.

    Args:
        paths: entries of :func:`path_entry`.
        spacings, samplers: registered names.
        more: further entries: "live", "most_steps", "seeds", "model".
    """
    return {
        "version": __version__,
        "samples": SAMPLES,
        "paths": list(paths),
        "spacings": [_spacing_entry(name) for name in spacings],
        "samplers": [_sampler_entry(name) for name in samplers],
        **more,
    }


def samplers_with_plans() -> list[str]:
    """The samplers for networks of one time that can be compiled without more data than a path."""
    found = []
    for name in sorted(SAMPLERS):
        try:
            plan = SamplerFactory.create(name).plan(4)
        except ConfigurationError:  # it has only step(), or needs statistics of a model
            continue
        if not plan.two_times:  # the page's model has one time
            found.append(name)
    return found


def all_paths() -> list[dict[str, Any]]:
    """An entry for each registered noise schedule."""
    names = [name for name in sorted(SCHEDULES) if name not in _NOT_FOR_THE_PAGE]
    return [path_entry(name, NoiseSchedulerFactory.create(name)) for name in names]


def path_entry(name: str, path: NoisePath) -> dict[str, Any]:
    """A noise schedule: its range of log-SNR, its noisiest level, and the scale of the state there.

    An end of the range without signal or without noise is null.
    """
    first = path.level(path.t_max)
    noisiest, cleanest = (2.0 * level.half_log_snr for level in (first, path.level(path.t_min)))
    return {
        "name": name,
        "about": _first_line(type(path)),
        "kind": kind_of(path),
        "log_snr": [noisiest if math.isfinite(noisiest) else None, cleanest if math.isfinite(cleanest) else None],
        "prior": path.prior_std,
        "first": {"alpha": first.alpha, "sigma": first.sigma},
        "options": _options(path.declared_options),
    }


def _spacing_entry(name: str) -> dict[str, Any]:
    function: Callable[..., Any] = SPACINGS.get(name)
    return {"name": name, "about": _first_line(function), "options": _options(parameters_of(function, 2))}


def _sampler_entry(name: str) -> dict[str, Any]:
    made = SamplerFactory.create(name)
    options = {**made.declared_options, **({"guarded": Option(True)} if made.guards else {})}
    return {
        "name": name,
        "about": _first_line(type(made)),
        "order": made.order,
        "calls": made.calls_per_step,
        "stochastic": made.stochastic,
        "spacing": type(made).spacing,
        "options": _options(options),
    }


def _options(declared: Mapping[str, Option]) -> list[dict[str, Any]]:
    """The options that a page can show: numbers, words, yes or no."""
    kinds = {bool: "flag", int: "whole", float: "number"}
    found = []
    for name, option in declared.items():
        kind = "choice" if option.choices is not None else kinds.get(option.type)
        if kind is None:
            continue
        low, high = (
            next((bound for bound in pair if bound is not None), None)
            for pair in ((option.minimum, option.above), (option.maximum, option.below))
        )
        entry = {"name": name, "kind": kind, "default": option.default, "allowed": option.allowed}
        entry |= {"low": low, "high": high, "choices": None if option.choices is None else list(option.choices)}
        found.append(entry)
    return found


def _first_line(thing: Any) -> str:
    """The first sentence of a docstring, without the markup of code."""
    text = (thing.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(text.split()).replace("``", "")


@functools.cache
def digits_data() -> dict[str, Any]:
    """The digits, 64 numbers 0 to 16 each, sorted by class; and where each class begins."""
    images, labels = load_digits()
    order = torch.sort(labels, stable=True).indices
    pixels = ((images[order] + 1.0) * 8.0).round().to(torch.uint8)
    starts = torch.searchsorted(labels[order], torch.arange(int(labels.max()) + 2))
    return {"pixels": packed_bytes(pixels.numpy()), "starts": starts.tolist(), "bandwidth": BANDWIDTH}


def noise_data(seed: int, keys: Sequence[tuple[int, int]], shape: tuple[int, ...] = (1, 8, 8)) -> dict[str, Any]:
    """The keyed noise of a batch of :data:`SAMPLES`: the initial noise, then that of each (step, stage).

    Args:
        seed: of the batch.
        keys: (step, stage) of the noises.
        shape: of one sample.
    """
    source = NoiseSource(resolve_keys(seed, None, SAMPLES), shape)
    wanted = [INITIAL, *keys]
    drawn = torch.stack([source(step, stage) for step, stage in wanted])
    return {"seed": seed, "keys": [list(key) for key in wanted], "values": packed_single(drawn.numpy())}
