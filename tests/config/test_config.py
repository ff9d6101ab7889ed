"""Settings: ranges, combinations, files, and what the thresholding fields mean."""

from __future__ import annotations

import copy
import math
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from noise_scheduler_sampling_system import (
    BetaSchedule,
    ConfigurationError,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    SamplingMethod,
)
from places import SEED

Config = NoiseSchedulerConfig


def refusal(**fields: Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as raised:
        Config(**fields)
    return raised.value


# ------------------------------------------------------------------------------- fields


def test_the_requests_fields_are_all_there():
    example = yaml.safe_load(re.search(r"```yaml\n(.*?)```", SEED.read_text(), re.DOTALL)[1])
    for fields in example.values():
        assert set(fields) <= set(Config.model_fields)
        assert Config(**fields).to_dict().items() >= fields.items()


INSIDE: dict[str, list[Any]] = {
    "num_train_timesteps": [2, 1_000_000, 1e3, "77"],
    "beta_start": [1e-12, 0.02],
    "beta_end": [0.0001, 0.999999],
    "beta_schedule": [*[*BetaSchedule][:5], "linear", "cosine"],
    "prediction_type": ["epsilon", "sample", "v_prediction", "flow_prediction"],
    "schedule_options": [{}],
    "spacing_options": [{}, {"discard_penultimate": True}],
    "clip_sample": [True, False],
    "clip_sample_range": [1e-6, 1.0, 1e6],
    "thresholding": [False],
    "dynamic_thresholding_ratio": [0.0, 1e-9, 1.0],
    "sample_max_value": [1.0, 1e9],
    "sample_padding_norm": [1e-9, 1.0],
    "sample_padding_threshold": [0.0, 5.0],
    "timestep_spacing": ["leading", "trailing", "linspace"],
    "steps_offset": [0, 1, 999],
    "use_clipped_model_output": [True, False],
    "variance_type": ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"],
    "rescale_betas_zero_snr": [False],
}
OUTSIDE: dict[str, list[Any]] = {
    "num_train_timesteps": [1, 0, -5, 1_000_001, 10.5, "many", None, math.nan],
    "beta_start": [0.0, -1e-4, 1.0, math.nan, math.inf, "small", None],
    "beta_end": [0.0, 1.0, 2, math.nan, "large"],
    "beta_schedule": ["liner", None, 5, SamplingMethod.DDIM],
    "prediction_type": ["epsilom", "score", None, ""],
    "schedule_options": [3, "rho", [1]],
    "spacing_options": [3, "rho", [1]],
    "clip_sample": ["maybe", 2, None],
    "clip_sample_range": [0.0, -1.0, math.inf, math.nan],
    "thresholding": ["sometimes"],
    "dynamic_thresholding_ratio": [-0.01, 1.01, math.nan],
    "sample_max_value": [0.0, -1, math.inf, math.nan],
    "sample_padding_norm": [0.0, -1, math.inf],
    "sample_padding_threshold": [-1e-9, math.inf, math.nan],
    "timestep_spacing": ["leadin", None],
    "steps_offset": [-1, 0.5, "one"],
    "use_clipped_model_output": ["perhaps"],
    "variance_type": ["fixed", None],
    "rescale_betas_zero_snr": ["nearly"],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in INSIDE.items() for v in values])
def test_values_in_range_are_kept(field, value):
    kept = getattr(Config(**{field: value}), field)
    assert kept == (int(value) if isinstance(value, str) and value.isdigit() else value)


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in OUTSIDE.items() for v in values])
def test_values_out_of_range_are_refused_by_name(field, value):
    error = refusal(**{field: value})
    assert error.where == field
    assert error.suggestion


def test_every_field_is_covered_above():
    assert set(INSIDE) == set(OUTSIDE) == set(Config.model_fields) - {"trained_betas"}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("beta_strat", "beta_start"), ("num_timesteps", "num_train_timesteps"), ("Beta_End", "beta_end"),
     ("clipsample", "clip_sample"), ("prediction", "prediction_type")],
)  # fmt: skip
def test_unknown_settings_are_refused_with_the_nearest_name(wrong, right):
    error = refusal(**{wrong: 1})
    assert error.where == wrong
    assert f"'{right}'" in error.suggestion


def test_a_name_like_no_other_lists_them_all():
    error = refusal(xyz=1)
    assert all(name in error.suggestion for name in Config.model_fields)


def test_several_problems_are_counted():
    assert "(and 2 more)" in refusal(beta_start=5, beta_end=5, steps_offset=-1).what


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"beta_start": 0.03}, "beta_start"),
        ({"timestep_spacing": "trailing", "steps_offset": 1}, "steps_offset"),
        ({"clip_sample": True, "thresholding": True, "sample_max_value": 2}, "thresholding"),
        ({"sample_padding_norm": 2.0}, "sample_padding_norm"),
        ({"beta_schedule": "custom"}, "trained_betas"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"beta_schedule": "custom", "trained_betas": [0.1, 0.2], "num_train_timesteps": 3}, "trained_betas"),
    ],
)
def test_settings_that_cannot_work_together_are_refused(fields, where):
    error = refusal(**fields)
    assert error.where == where
    assert error.why or where == "trained_betas"
    assert error.suggestion


@pytest.mark.parametrize(
    "fields",
    [
        {"beta_start": 0.02, "beta_end": 0.02},
        {"rescale_betas_zero_snr": True},  # of ε only the plans that begin without signal are refused
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        {"rescale_betas_zero_snr": True, "prediction_type": "sample"},
        {"thresholding": True, "sample_max_value": 2.0},
        {"beta_schedule": "custom", "trained_betas": [0.1, 1.0], "prediction_type": "v_prediction"},
        {"steps_offset": 1},
    ],
)
def test_settings_that_work_together_are_accepted(fields):
    config = Config(**fields)
    assert NoiseSchedulerFactory.create(config).config is config


def test_thresholding_without_room_warns_at_the_callers_line():
    with pytest.warns(UserWarning, match="plain clipping") as caught:
        Config(thresholding=True)
    assert caught[0].filename == __file__


def test_json_text_is_read_with_errors_of_the_library():
    config = NoiseSchedulerConfig(beta_schedule="flow", schedule_options={"shift": 3.0})
    for text in (config.model_dump_json(), config.model_dump_json().encode()):
        assert NoiseSchedulerConfig.model_validate_json(text) == config
    for text, where in (('{"beta_start": 5}', "beta_start"), ('{"beta_strat": 0.1}', "beta_strat"), ("[1]", ""),
                        ('{"beta_start": 1', "json_data"), (b"\xff", "json_data"), (None, "json_data")):  # fmt: skip
        with pytest.raises(ConfigurationError) as raised:
            NoiseSchedulerConfig.model_validate_json(text)
        assert raised.value.where == where
    texts = NoiseSchedulerConfig.model_validate_strings({"beta_start": "0.01", "clip_sample": "true"})
    assert (texts.beta_start, texts.clip_sample) == (0.01, True)
    with pytest.raises(ConfigurationError, match="beta_start"):
        NoiseSchedulerConfig.model_validate_strings({"beta_start": "five"})


def test_a_config_is_frozen_and_a_value():
    config = Config(beta_schedule="cosine")
    for change in (lambda: setattr(config, "beta_end", 0.5), lambda: delattr(config, "beta_end")):
        with pytest.raises(ConfigurationError, match=r"config\.replace"):
            change()
    assert config.beta_end == 0.02
    same = Config(beta_schedule=BetaSchedule.COSINE)
    assert config == same
    assert hash(config) == hash(same)
    assert config != Config()
    assert copy.deepcopy(config) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_replace_is_all_or_nothing():
    config = Config(beta_schedule="cosine", clip_sample=True)
    changed = config.replace(num_train_timesteps=50, prediction_type="sample")
    assert (changed.num_train_timesteps, changed.prediction_type) == (50, "sample")
    assert (changed.beta_schedule, changed.clip_sample) == (BetaSchedule.COSINE, True)
    assert config == Config(beta_schedule="cosine", clip_sample=True)
    with pytest.raises(ConfigurationError):
        config.replace(thresholding=True, sample_max_value=3.0)  # clip_sample is on
    with pytest.raises(ConfigurationError):
        config.replace(num_train_timestep=50)


# ------------------------------------------------------------------------------- custom betas


BETAS = [0.01, 0.05, 0.2]


@pytest.mark.parametrize(
    "betas",
    [BETAS, tuple(BETAS), np.array(BETAS), torch.tensor(BETAS, dtype=torch.float64),
     torch.tensor(BETAS, dtype=torch.float64, requires_grad=True)],
    ids=["list", "tuple", "array", "tensor", "parameter"],
)  # fmt: skip
def test_custom_betas_as_any_sequence(betas):
    config = Config(beta_schedule="custom", trained_betas=betas)
    assert config.trained_betas == tuple(BETAS)
    assert config.num_train_timesteps == 3
    assert NoiseSchedulerFactory.create(config).betas.tolist() == BETAS
    assert config == Config(beta_schedule="custom", trained_betas=betas, num_train_timesteps=3)


@pytest.mark.parametrize("T", [None, 2, 5, "5"])
def test_custom_betas_as_a_function_of_the_fraction(T):
    fields = {} if T is None else {"num_train_timesteps": T}
    config = Config(beta_schedule="custom", trained_betas=lambda u: 0.01 + 0.1 * u, **fields)
    count = 1000 if T is None else int(T)
    assert config.num_train_timesteps == count
    np.testing.assert_allclose(config.trained_betas, np.linspace(0.01, 0.11, count), rtol=1e-12)


@pytest.mark.parametrize(
    ("betas", "fields", "where"),
    [
        ([0.1], {}, "num_train_timesteps"),
        ([0.1, 0.0], {}, "trained_betas"),
        ([0.1, -0.1], {}, "trained_betas"),
        ([0.1, 1.5], {}, "trained_betas"),
        ([1.0, 0.5], {}, "trained_betas"),
        ([0.1, math.nan], {}, "trained_betas"),
        ("abc", {}, "trained_betas"),
        (0.1, {}, "trained_betas"),
        (torch.tensor(0.1), {}, "trained_betas"),
        (torch.full((2, 2), 0.1), {}, "trained_betas.0"),
        (lambda u: math.inf, {}, "trained_betas"),
        (lambda u: 2 * u, {}, "trained_betas"),
        (lambda u: 0.1, {"num_train_timesteps": 1}, "num_train_timesteps"),
        (lambda u: 0.1, {"num_train_timesteps": "abc"}, "num_train_timesteps"),
    ],
)
def test_custom_betas_that_cannot_be_are_refused(betas, fields, where):
    assert refusal(beta_schedule="custom", trained_betas=betas, **fields).where == where
