"""Settings: ranges, combinations, files, and what the thresholding fields mean."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import re
import stat
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    BaseNoiseScheduler,
    BaseSampler,
    BetaSchedule,
    ConfigurationError,
    DeviceError,
    DiffusionPipeline,
    FileError,
    ModelOutputError,
    NoiseSamplingError,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    NumericsError,
    OutOfMemoryError,
    SamplerFactory,
    SamplingMethod,
)
from noise_scheduler_sampling_system.config.registries import SAMPLERS, SCHEDULES, SPACINGS
from noise_scheduler_sampling_system.running.clipping import clip_of, dynamic_threshold
from noise_scheduler_sampling_system.support.data_files import read_table, write_table
from noise_scheduler_sampling_system.support.files import write_atomic
from noise_scheduler_sampling_system.support.registry import Registry, did_you_mean
from places import SEED

Config = NoiseSchedulerConfig


@pytest.fixture
def registries():
    """Put the registries back after a test that registers something."""
    kept = [(r, dict(r._entries)) for r in (SCHEDULES, SAMPLERS, SPACINGS)]
    yield
    for registry, entries in kept:
        registry._entries = entries


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


# ------------------------------------------------------------------------------- one config in and out


ENDINGS = ["yaml", "yml", "json"]

configs = st.builds(
    lambda schedule, start, width, betas, T, clip, top, norm, spacing, offset, **rest: Config(
        beta_schedule=schedule,
        beta_start=start,
        beta_end=min(start + width, 0.999),
        **({"trained_betas": betas} if schedule == "custom" else {"num_train_timesteps": T}),
        clip_sample=clip == "clip",
        thresholding=clip == "threshold",
        sample_max_value=top + norm + 1e-3,
        sample_padding_norm=norm,
        timestep_spacing=spacing,
        steps_offset=offset if spacing == "leading" else 0,
        **rest,
    ),
    schedule=st.sampled_from([m.value for m in BetaSchedule]),
    start=st.floats(1e-9, 0.5),
    width=st.floats(0, 0.4),
    betas=st.lists(st.floats(1e-6, 0.999), min_size=2, max_size=9),
    T=st.integers(2, 10**6),
    clip=st.sampled_from(["open", "clip", "threshold"]),
    top=st.floats(0, 1e6),
    norm=st.floats(1e-6, 1e6),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
    offset=st.integers(0, 50),
    prediction_type=st.sampled_from(["epsilon", "sample", "v_prediction"]),
    clip_sample_range=st.floats(1e-9, 1e9),
    dynamic_thresholding_ratio=st.floats(1e-6, 1.0),
    sample_padding_threshold=st.floats(0, 10),
    use_clipped_model_output=st.booleans(),
    variance_type=st.sampled_from(INSIDE["variance_type"]),
)


@settings(max_examples=60, deadline=None)
@given(config=configs, ending=st.sampled_from(ENDINGS))
def test_a_config_comes_back_from_a_file_as_it_was(tmp_path_factory, config, ending):
    path = tmp_path_factory.mktemp("config") / f"config.{ending}"
    config.save(path)
    loaded = Config.load(path)
    assert loaded == config
    assert loaded.to_dict() == config.to_dict()
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_config_file_names_file_and_field_in_its_errors(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("beta_strat: 1e-4\n")
    with pytest.raises(ConfigurationError) as raised:
        Config.load(path)
    assert raised.value.where == f"{path}.beta_strat"
    assert "'beta_start'" in raised.value.suggestion


def test_from_dict_takes_mappings_only():
    for wrong in ([1], None, "beta_start"):
        with pytest.raises(ConfigurationError, match="table of settings"):
            Config.from_dict(wrong, where="here")


# ------------------------------------------------------------------------------- a whole system in and out


def outcome(system: AdvancedDiffusionSystem) -> dict[str, Any]:
    return {
        name: (p.config, p.method, dict(p.sampler.options))
        for name in system.list_pipelines()
        for p in [system.get_pipeline(name)]
    }


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_system_comes_back_from_a_file_as_it_was(tmp_path, ending, registries):
    @NoiseSchedulerFactory.register("flat")
    class Flat(BaseNoiseScheduler):
        def _get_beta_schedule(self):
            return np.full(self.num_train_timesteps, 0.02)

    @SamplerFactory.register("damped")
    class Damped(BaseSampler):
        option_defaults = {"factor": 0.5, "name": "x", "nested": {"a": [1, None]}}

        def step(self, model_output, timestep, sample):
            return sample * self.options["factor"]

    system = AdvancedDiffusionSystem()
    system.create_pipeline("ünïcode / name", Config(beta_schedule="flat"), "damped", factor=0.25)
    custom = Config(beta_schedule="custom", trained_betas=[0.1, 0.5, 0.9], timestep_spacing="trailing")
    system.create_pipeline("betas", custom, "heun")
    system.create_pipeline("noisy_ddpm", None, SamplingMethod.DDIM, eta=np.float64(0.3))
    system.create_pipeline("1e-4", None, "pndm", skip_prk_steps=True)
    system.create_pipeline("1", {"beta_schedule": "cosine"}, "ddpm")
    path = tmp_path / f"system.{ending}"
    system.save_config(path)
    loaded = AdvancedDiffusionSystem(path)
    assert outcome(loaded) == outcome(system)
    assert loaded.get_pipeline("noisy_ddpm").method == "ddim", "what is written wins over the name's ending"
    assert isinstance(loaded.get_pipeline("ünïcode / name").scheduler, Flat)
    for name in system.list_pipelines():
        one, two = (s.get_pipeline(name).sample(lambda x, t: x * 0.1, (1, 2), 2, seed=0) for s in (system, loaded))
        assert torch.equal(one, two)


def test_options_of_a_sampler_with_its_own_constructor_are_saved(tmp_path, registries):
    @SamplerFactory.register("own")
    class Own(BaseSampler):
        def __init__(self, scheduler, strength=1.0):
            super().__init__(scheduler)
            self.strength = strength

        def step(self, model_output, timestep, sample):
            return sample * self.strength

    system = AdvancedDiffusionSystem()
    system.create_pipeline("a", None, "own", strength=0.5)
    system.save_config(tmp_path / "system.yaml")
    assert AdvancedDiffusionSystem(tmp_path / "system.yaml").get_pipeline("a").sampler.strength == 0.5


def test_a_sampler_without_a_name_cannot_be_saved_and_says_how(tmp_path):
    class Nameless(BaseSampler):
        def step(self, model_output, timestep, sample):
            return sample

    system = AdvancedDiffusionSystem()
    system.create_pipeline("a", None, Nameless)
    path = tmp_path / "system.yaml"
    with pytest.raises(ConfigurationError, match="no name to save") as raised:
        system.save_config(path)
    assert "register" in raised.value.suggestion
    assert not path.exists()


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_empty_system_is_a_file_too(tmp_path, ending):
    path = tmp_path / f"system.{ending}"
    AdvancedDiffusionSystem().save_config(path)
    assert AdvancedDiffusionSystem(path).list_pipelines() == []


@pytest.mark.parametrize(
    ("name", "method"),
    [("cosine_ddim", "ddim"), ("heun", "heun"), ("my_ancestral", "ancestral"), ("my-model", "ddim"), ("xddpm", "ddim")],
)
def test_a_pipeline_without_a_method_takes_the_one_in_its_name(tmp_path, caplog, name, method):
    (tmp_path / "c.yaml").write_text(f"{name}: {{}}\n")
    assert AdvancedDiffusionSystem(tmp_path / "c.yaml").get_pipeline(name).method == method
    assert ("does not end in a sampler" in caplog.text) == (not name.endswith(method))


def system_file(tmp_path, text: str, name: str = "c.yaml", encoding: str = "utf-8") -> AdvancedDiffusionSystem:
    (tmp_path / name).write_bytes(text.encode(encoding))
    return AdvancedDiffusionSystem(tmp_path / name)


def test_yaml_as_people_write_it(tmp_path):
    text = """
# shared settings
base_ddim: &base
  beta_start: 1e-4      # plain YAML would read a text
  beta_end: 2E-2
  num_train_timesteps: 1e3
  clip_sample: yes
other_heun:
  <<: *base
  beta_end: 3e-2
"""
    system = system_file(tmp_path, text)
    base, other = (system.get_pipeline(n).config for n in ("base_ddim", "other_heun"))
    assert (base.beta_start, base.beta_end, base.num_train_timesteps, base.clip_sample) == (1e-4, 0.02, 1000, True)
    assert other == base.replace(beta_end=0.03)


@pytest.mark.parametrize("name", ["c.json", "c.yaml"])
def test_a_byte_order_mark_does_no_harm(tmp_path, name):
    assert system_file(tmp_path, '{"a_ddim": {}}', name, "utf-8-sig").list_pipelines() == ["a_ddim"]


@pytest.mark.parametrize(
    ("text", "name", "why"),
    [
        ("a_ddim:\n\tbeta_start: 1\n", "c.yaml", "line 2"),
        ("a_ddim: {\n", "c.yaml", "line"),
        ("a_ddim: !!python/object:os.system {}\n", "c.yaml", "python/object"),
        ("a_ddim:\n  beta_start: 1e-4\n  beta_start: 1e-3\n", "c.yaml", "line 3: the key 'beta_start' is given twice"),
        ("a_ddim: {}\na_ddim: {}\n", "c.yaml", "line 2"),
        ("? [1, 2]\n: 3\n", "c.yaml", "unhashable"),
        ("a: {}\n---\nb: {}\n", "c.yaml", "document"),
        ('{"a_ddim": {},}', "c.json", "line 1"),
        ('{"a_ddim": {}, "a_ddim": {}}', "c.json", "'a_ddim' is given twice"),
        ("", "c.json", "line 1"),
        ("", "c.yaml", "NoneType"),
        ("- a\n- b\n", "c.yaml", "list"),
        ("just text", "c.yaml", "str"),
        ("[1]", "c.json", "list"),
    ],
)
def test_malformed_files_are_named_with_the_reason(tmp_path, text, name, why):
    with pytest.raises(FileError) as raised:
        system_file(tmp_path, text, name)
    assert raised.value.where == str(tmp_path / name)
    assert why in raised.value.why


def test_a_file_in_another_encoding_is_named(tmp_path):
    with pytest.raises(FileError, match="not valid YAML"):
        system_file(tmp_path, "a_ddim: {} # é", encoding="latin-1")


@pytest.mark.parametrize(("path", "part"), [("missing.yaml", "read"), ("c.toml", "format"), (".", "format")])
def test_files_that_cannot_be_read_are_named(tmp_path, path, part):
    with pytest.raises(FileError, match=part) as raised:
        AdvancedDiffusionSystem(tmp_path / path)
    assert raised.value.where == str(tmp_path / path)
    assert raised.value.suggestion


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a_ddim:\n  beta_strat: 0.1\n", "a_ddim.beta_strat"),
        ("a_ddim:\n  beta_start: small\n", "a_ddim.beta_start"),
        ("a_ddim:\n  beta_schedule: nothing\n", "a_ddim.beta_schedule"),
        ("a_ddim:\n  method: ddmi\n", "a_ddim.method"),
        ("a_ddim:\n  sampler_options: {etta: 1}\n", "a_ddim.etta"),
        ("a_ddim:\n  sampler_options: [1]\n", "a_ddim.sampler_options"),
        ("a_ddim:\n  variance_type: fixed_large\n", "a_ddim.variance_type"),
        ("a_ddim:\n", "a_ddim"),
        ("beta_start: 1e-4\n", "beta_start"),
    ],
)
def test_wrong_settings_name_file_pipeline_and_field(tmp_path, text, where):
    with pytest.raises(ConfigurationError) as raised:
        system_file(tmp_path, "good_ddim: {}\n" + text)
    assert raised.value.where == f"{tmp_path / 'c.yaml'}: {where}"
    assert raised.value.suggestion


def test_loading_is_all_or_nothing(tmp_path):
    system = AdvancedDiffusionSystem()
    kept = system.create_pipeline("a_ddim", {"beta_schedule": "cosine"})
    (tmp_path / "c.yaml").write_text("a_ddim: {}\nb_ddim: {beta_start: 7}\n")
    with pytest.raises(ConfigurationError):
        system.load_config(tmp_path / "c.yaml")
    assert system.list_pipelines() == ["a_ddim"]
    assert system.get_pipeline("a_ddim") is kept


# ------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("failing", ["fsync", "replace", "chmod"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    path = tmp_path / "system.yaml"
    AdvancedDiffusionSystem().save_config(path)
    before = path.read_bytes()
    system = AdvancedDiffusionSystem()
    system.create_pipeline("a")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(FileError, match="cannot be written") as raised:
        system.save_config(path)
    assert raised.value.why == "No space left on device"
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["system.yaml"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("place", ["missing/system.yaml", "."])
def test_a_place_that_cannot_be_written_is_named(tmp_path, place):
    with pytest.raises(FileError) as raised:
        AdvancedDiffusionSystem().save_config(tmp_path / place)
    assert raised.value.where == str(tmp_path / place)
    assert os.listdir(tmp_path) == []


def test_written_files_keep_mode_and_links(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    write_table(target, {"a": 1})
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode), "the umask's"
    target.chmod(0o640)
    link.symlink_to(target)
    write_table(link, {"a": 2})
    assert link.is_symlink()
    assert read_table(target) == {"a": 2}
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_value_that_no_file_can_hold_is_refused_before_writing(tmp_path, ending):
    path = tmp_path / f"t.{ending}"
    write_table(path, {"a": 1})
    with pytest.raises(FileError) as raised:
        write_table(path, {"a": torch.zeros(1)})
    assert raised.value.where == str(path)
    assert read_table(path) == {"a": 1}


def test_yaml_and_json_hold_the_same(tmp_path):
    table = {"float": 1e-5, "tuple": (1, 2), "numpy": np.float64(0.1), "text": "1e-4", "none": None, "é": True}
    for ending in ENDINGS:
        write_table(tmp_path / f"t.{ending}", table)
    read = [read_table(tmp_path / f"t.{ending}") for ending in ENDINGS]
    assert read[0] == read[1] == read[2] == {**table, "tuple": [1, 2]}
    assert yaml.safe_load((tmp_path / "t.yaml").read_text()) == read[0], "plain YAML readers see the same"


# ------------------------------------------------------------------------------- errors and names


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ConfigurationError, ValueError), (ModelOutputError, ValueError), (DeviceError, RuntimeError),
        (OutOfMemoryError, MemoryError), (NumericsError, ArithmeticError), (FileError, OSError),
    ],
)  # fmt: skip
def test_errors_carry_their_parts_and_survive_pickling(kind, builtin):
    error = kind("the fact", where="place", why="reason", suggestion="way out")
    assert isinstance(error, NoiseSamplingError)
    assert isinstance(error, builtin)
    assert str(error) == "place: the fact\n  why: reason\n  try: way out"
    assert str(kind("the fact", where="", suggestion="")) == "the fact"
    with pytest.raises(TypeError, match="suggestion"):
        kind("the fact", where="place")  # no error without a way out
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert (again.what, again.where, again.why, again.suggestion) == ("the fact", "place", "reason", "way out")


def test_each_category_has_a_name_of_its_own():
    kinds = NoiseSamplingError.__subclasses__()
    assert {kind.category for kind in kinds} == {
        "configuration", "model output", "device", "memory", "numerics", "file"
    }  # fmt: skip


def test_did_you_mean_gives_the_nearest_or_all():
    assert did_you_mean("ETA", ["eta", "beta"]) == "did you mean 'eta' or 'beta'?"
    assert did_you_mean("zzz", ["b", "a"]) == "one of: a, b"
    assert did_you_mean("zzz", []) == "none is registered"


def test_a_registry_is_a_table_of_names():
    registry: Registry[Any] = Registry("thing")
    assert registry.register("one", 1) == 1
    assert registry.register(SamplingMethod.DDIM, 2) == 2
    assert list(registry) == ["one", "ddim"]
    assert "ddim" in registry
    assert 5 not in registry
    assert registry.get(SamplingMethod.DDIM) == 2
    with pytest.raises(ConfigurationError, match="thing 'two'"):
        registry.get("two")


def test_a_registered_spacing_is_accepted(registries):
    @SPACINGS.register("halving")
    def halving(scheduler, steps):
        return (scheduler.num_train_timesteps - 1) / 2.0 ** np.arange(steps)

    plan = DiffusionPipeline(Config(timestep_spacing="halving"), "euler").plan(4)
    assert plan.time.tolist() == [999.0, 499.5, 249.75, 124.875]
    assert "'halving'" in refusal(timestep_spacing="halvin").suggestion


# ------------------------------------------------------------------------------- clipping and thresholding


def naive_threshold(clean: Tensor, config: Config) -> Tensor:
    """The definition, sample by sample: Imagen's rule, with padding left out and s limited."""
    out = []
    for sample in clean:
        magnitudes = sample.abs()[sample.abs() >= config.sample_padding_threshold]
        s = config.sample_padding_norm
        if magnitudes.numel():
            quantile = torch.quantile(magnitudes, config.dynamic_thresholding_ratio).item()
            s = min(max(quantile, config.sample_padding_norm), config.sample_max_value)
        out.append(sample.clamp(-s, s) / s)
    return torch.stack(out)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(1, 1), (3, 7), (2, 3, 4, 4), (4, 1, 1, 1)]),
    spread=st.floats(0.1, 20),
    ratio=st.floats(0.01, 1.0),
    norm=st.floats(0.05, 2.0),
    room=st.floats(0.01, 10),
    padding=st.sampled_from([0.0, 0.1, 1.0, 1e6]),
)
def test_dynamic_thresholding_is_its_definition(seed, shape, spread, ratio, norm, room, padding):
    config = Config(
        thresholding=True, dynamic_thresholding_ratio=ratio, sample_padding_norm=norm, sample_max_value=norm + room,
        sample_padding_threshold=padding,
    )  # fmt: skip
    clean = spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted = naive_threshold(clean, config)
    got = clip_of(config)(clean.clone())
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    assert got.abs().max() <= 1.0


def test_padding_is_left_out_of_the_quantile():
    """A sample of mostly zeros: with τ = 0 the quantile drowns in them."""
    clean = torch.zeros(1, 100)
    clean[0, :10] = torch.linspace(2, 3, 10)
    kinds = {"ratio": 0.5, "smallest": 1.0, "largest": 10.0}
    assert dynamic_threshold(clean.clone(), **kinds, padding=0.0).max() == 1.0
    assert dynamic_threshold(clean.clone(), **kinds, padding=0.0)[0, 0] == 1.0, "s is the norm: all ten are cut"
    kept = dynamic_threshold(clean.clone(), **kinds, padding=0.5)
    torch.testing.assert_close(kept[0, 0], torch.tensor(2.0 / 2.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_thresholding_in_half_precision_takes_its_quantile_in_full(dtype):
    clean = (3 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))).to(dtype)
    got = dynamic_threshold(clean.clone(), ratio=0.995)
    assert got.dtype == dtype
    wanted = dynamic_threshold(clean.double(), ratio=0.995)
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_clipping_is_a_clamp_to_the_range():
    clean = torch.tensor([[-3.0, -0.5, 0.2, 7.0]])
    assert clip_of(Config(clip_sample=True, clip_sample_range=0.4))(clean.clone()).tolist() == [
        pytest.approx([-0.4, -0.4, 0.2, 0.4])
    ]
    assert clip_of(Config()) is None
