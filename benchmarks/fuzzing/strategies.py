"""Settings, configuration files and bodies of requests that hypothesis makes, field by field."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any, Final, final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from noise_scheduler_sampling_system import AdvancedDiffusionSystem, BetaSchedule, NoiseSchedulerConfig
from noise_scheduler_sampling_system.config.prediction import PREDICTION_TYPES
from noise_scheduler_sampling_system.config.registries import SAMPLERS, SPACINGS
from noise_scheduler_sampling_system.serving.http.body import SampleBody, read_body
from noise_scheduler_sampling_system.serving.http.limits import Limits

from .case import Case, Kind

__all__ = ["StrategyKind", "bodies", "values", "written_settings"]

#: Examples of one run of hypothesis, and the number of runs.
_EXAMPLES, _RUNS = 150, 8
_NAMES: Final = st.sampled_from(
    [*[each.value for each in BetaSchedule], *PREDICTION_TYPES, *sorted(SPACINGS), *sorted(SAMPLERS)]
)
_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.integers(0, 1000) | st.floats() | st.floats(0.0, 1.0)
    | st.text(max_size=20) | _NAMES
)  # fmt: skip


def values() -> st.SearchStrategy[Any]:
    """Any value that JSON can hold, and the names and numbers that settings use."""
    return st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    )


def written_settings() -> st.SearchStrategy[dict[str, Any]]:
    """The settings of one pipeline: known fields with values of any kind, and now and then an unknown one."""
    return _some_of([*NoiseSchedulerConfig.model_fields, "method", "eta"])


def bodies() -> st.SearchStrategy[dict[str, Any]]:
    """Bodies of ``POST /v1/samples``: known fields with values of any kind."""
    return _some_of(list(SampleBody.model_fields))


def _some_of(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names) | st.text(max_size=5), values(), max_size=5)


@functools.cache
def _examples(number: int) -> list[dict[str, Any]]:
    """The examples of one run of hypothesis, of settings in even runs and of bodies in odd ones."""
    found: list[dict[str, Any]] = []

    @seed(number)
    @settings(max_examples=_EXAMPLES, database=None, phases=[Phase.generate], deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(bodies() if number % 2 else written_settings())
    def collect(example: dict[str, Any]) -> None:
        found.append(example)

    collect()
    return found


@final
class StrategyKind(Kind):
    """What hypothesis makes: a config and a configuration file, or a body."""

    name = "hypothesis"

    def valid(self) -> list[Case]:
        return [_settings_case({"beta_schedule": "cosine"}), _body_case({"steps": 3})]

    def drawn(self, draw: random.Random) -> Case:
        number = draw.randrange(_RUNS)
        example = draw.choice(_examples(number))
        return _body_case(example) if number % 2 else _settings_case(example)


def _settings_case(fields: dict[str, Any]) -> Case:
    data = json.dumps({"main_ddim": fields}).encode()

    def use(folder: Path) -> None:
        (folder / "system.json").write_bytes(data)
        system = AdvancedDiffusionSystem(folder / "system.json")
        system.get_pipeline("main_ddim").plan(3)
        system.create_pipeline("other", {k: v for k, v in fields.items() if k != "method"}, "ddim").plan(3)

    return Case({"system.json": data}, use)


def _body_case(body: dict[str, Any]) -> Case:
    data = json.dumps(body).encode()
    return Case({"body.json": data}, lambda folder: read_body(data, Limits()))
