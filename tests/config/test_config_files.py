"""Configs and whole systems in files, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    BaseNoiseScheduler,
    BaseSampler,
    BetaSchedule,
    ConfigurationError,
    FileError,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    SamplerFactory,
    SamplingMethod,
)
from noise_scheduler_sampling_system.support.data_files import read_table, write_table
from noise_scheduler_sampling_system.support.files import write_atomic

ENDINGS = ["yaml", "yml", "json"]
VARIANCES = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"]

configs = st.builds(
    lambda schedule, start, width, betas, T, clip, top, norm, spacing, offset, **rest: NoiseSchedulerConfig(
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
    variance_type=st.sampled_from(VARIANCES),
)


@settings(max_examples=60, deadline=None)
@given(config=configs, ending=st.sampled_from(ENDINGS))
def test_a_config_comes_back_from_a_file_as_it_was(tmp_path_factory, config, ending):
    path = tmp_path_factory.mktemp("config") / f"config.{ending}"
    config.save(path)
    loaded = NoiseSchedulerConfig.load(path)
    assert loaded == config
    assert loaded.to_dict() == config.to_dict()
    assert NoiseSchedulerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_config_file_names_file_and_field_in_its_errors(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("beta_strat: 1e-4\n")
    with pytest.raises(ConfigurationError) as raised:
        NoiseSchedulerConfig.load(path)
    assert raised.value.where == f"{path}.beta_strat"
    assert "'beta_start'" in raised.value.suggestion


def test_from_dict_takes_mappings_only():
    for wrong in ([1], None, "beta_start"):
        with pytest.raises(ConfigurationError, match="table of settings"):
            NoiseSchedulerConfig.from_dict(wrong, where="here")


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
    system.create_pipeline("ünïcode / name", NoiseSchedulerConfig(beta_schedule="flat"), "damped", factor=0.25)
    custom = NoiseSchedulerConfig(beta_schedule="custom", trained_betas=[0.1, 0.5, 0.9], timestep_spacing="trailing")
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


def test_all_mistakes_of_a_file_are_said_at_once(tmp_path):
    (tmp_path / "c.yaml").write_text("""
a_ddim: {beta_start: 5, beta_schedul: cosine, sampler_options: {eta: -1, etta: 2}}
b_ddim: {clip_sample: true, thresholding: true, beta_start: 0.03}
c: {method: foo, thresholding: maybe}
d: 7
e_ddim: {beta_schedule: cosine}
f_heun: {schedule_options: {shift: 2.0}}
""")
    with pytest.raises(ConfigurationError) as caught:
        AdvancedDiffusionSystem(tmp_path / "c.yaml")
    said = {each.where.removeprefix(f"{tmp_path / 'c.yaml'}: ") for each in caught.value.errors}
    assert said == {
        "a_ddim.beta_start", "a_ddim.beta_schedul", "a_ddim.eta", "a_ddim.etta", "b_ddim.thresholding",
        "b_ddim.beta_start", "c.method", "c.thresholding", "d", "f_heun.schedule_options.shift",
    }  # fmt: skip
    assert str(caught.value).startswith("10 mistakes\n")


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
