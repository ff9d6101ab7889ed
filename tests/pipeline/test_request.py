"""The record of a run's arguments is the signature of the methods that make it."""

import inspect
from dataclasses import fields

import pytest

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline
from noise_scheduler_sampling_system.pipeline.request import Request


@pytest.mark.parametrize("method", [DiffusionPipeline.sample, DiffusionPipeline.stream])
def test_a_request_has_the_arguments_of_the_method_with_their_types_and_defaults(method):
    parameters = [p for p in inspect.signature(method).parameters.values() if p.name not in ("self", "unknown")]
    known = {field.name: field for field in fields(Request)}
    assert {p.name: (p.annotation, p.default) for p in parameters} == {
        p.name: (known[p.name].type, known[p.name].default) for p in parameters
    }


def test_a_request_has_no_further_fields():
    methods = (DiffusionPipeline.sample, DiffusionPipeline.stream)
    assert {field.name for field in fields(Request)} == {
        name for method in methods for name in inspect.signature(method).parameters
    } - {"self", "unknown"}


def test_a_request_checks_each_argument_by_itself():
    for name, value in {
        "guidance_scale": "7", "noise": "pink", "max_batch_size": 0, "early_stopping": -1.0, "callback": 3,
        "progress": "no", "profile": 2, "round_timesteps": None,
    }.items():  # fmt: skip
        with pytest.raises(ConfigurationError) as raised:
            Request(**{name: value})
        assert raised.value.where == name


def test_a_batch_size_beyond_any_batch_means_all_at_once():
    assert Request(max_batch_size=10**9).max_batch_size == 10**9
