"""Keywords of other libraries and of other functions: each is answered with what to give, at every door."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
)
from noise_scheduler_sampling_system.calibration import calibrate
from noise_scheduler_sampling_system.config.keyword_advice import keywords_of
from noise_scheduler_sampling_system.config.keyword_table import ELSEWHERE, KEYWORDS
from noise_scheduler_sampling_system.config.registries import SAMPLERS
from noise_scheduler_sampling_system.integrations.diffusers import DiffusersPipeline

CONFIG = NoiseSchedulerConfig()
PIPELINE = DiffusionPipeline(CONFIG)

DOORS: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "sample": (lambda **k: PIPELINE.sample(shape=(1, 1, 8, 8), **k), keywords_of(DiffusionPipeline.sample)),
    "stream": (lambda **k: PIPELINE.stream(shape=(1, 1, 8, 8), **k), keywords_of(DiffusionPipeline.stream)),
    "plan": (PIPELINE.plan, keywords_of(DiffusionPipeline.plan)),
    "grid": (PIPELINE.grid, keywords_of(DiffusionPipeline.grid)),
    "create_pipeline": (
        lambda **k: AdvancedDiffusionSystem().create_pipeline("a", CONFIG, "heun", **k),
        [*keywords_of(AdvancedDiffusionSystem.create_pipeline), "afs"],
    ),
    "config": (NoiseSchedulerConfig, list(NoiseSchedulerConfig.model_fields)),
    "update_config": (DiffusionPipeline(CONFIG).update_config, list(NoiseSchedulerConfig.model_fields)),
    "calibrate": (lambda **k: calibrate(None, shape=(1, 8, 8), nfe=3, **k), keywords_of(calibrate)),
    "pipeline.calibrate": (
        lambda **k: PIPELINE.calibrate(shape=(1, 8, 8), nfe=3, **k),
        [n for n in keywords_of(calibrate, DiffusionPipeline.calibrate) if n != "scheduler"],
    ),
}
FOREIGN = sorted(
    {name for entry in KEYWORDS for name in entry.others} | {n for t in ELSEWHERE.values() for n in t.split()}
)
OWN = sorted(
    set(keywords_of(DiffusionPipeline.sample, DiffusionPipeline.stream, DiffusionPipeline.generate, calibrate))
    | set(NoiseSchedulerConfig.model_fields)
    | {option for name in SAMPLERS for option in SAMPLERS.get(name).option_defaults}
)


def refusal(door: str, name: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        DOORS[door][0](**{name: 1})
    assert raised.value.where == name
    return raised.value.suggestion


@pytest.mark.parametrize("door", DOORS)
def test_names_of_other_libraries_and_of_other_functions_are_all_answered(door):
    """None with a list of all keywords, and none with an error of another kind."""
    for name in dict.fromkeys((*FOREIGN, *OWN)):
        if name not in DOORS[door][1]:
            answer = refusal(door, name)
            assert not answer.startswith(("one of:", "none is")), name


@pytest.mark.parametrize(
    ("name", "sample", "create", "config", "calibration"),
    [  # a word of the answer of each
        ("steps", "num_inference_steps", "sample(...)", "sample(...)", "nfe"),
        ("n_steps", "num_inference_steps", "sample(...)", "sample(...)", "nfe"),
        ("batch_size", "shape=(batch", "sample(...)", "sample(...)", "trajectories"),
        ("num_samples", "shape=(batch", "sample(...)", "sample(...)", "trajectories"),
        ("eta", "'ddim', eta=", "'ddim', eta=", "'ddim', eta=", "'ddim', eta="),
        ("cfg", "guidance_scale", "guidance_scale", "guidance_scale", "guidance_scale"),
        ("cfg_scale", "guidance_scale", "guidance_scale", "guidance_scale", "guidance_scale"),
        ("prompt", "from_diffusers", "from_diffusers", "from_diffusers", "from_diffusers"),
        ("negative_prompt", "from_diffusers", "from_diffusers", "from_diffusers", "from_diffusers"),
        ("prompt_embeds", 'condition={"encoder_hidden_states"', "condition", "condition", "condition={"),
        ("negative_prompt_embeds", "null_condition", "null_condition", "null_condition", "null_condition"),
        ("latents", "initial_noise", "initial_noise", "initial_noise", "initial_noise"),
        ("scheduler", "method=", "method=", "beta_schedule", None),
        ("sampler", "method=", "method=", "method=", "method="),
        ("callback_on_step_end", "callback=", "callback", "callback", "callback"),
        ("output_type", "generate(...)", "generate(...)", "generate(...)", "generate(...)"),
        ("height", "shape=(batch", "shape", "shape", "shape"),
        ("timesteps", None, "timesteps", "num_train_timesteps", "timesteps"),
        ("sigmas", "TimeGrid.from_sigmas", "from_sigmas", "from_sigmas", "from_sigmas"),
        ("use_karras_sigmas", "timestep_spacing", "timestep_spacing", "timestep_spacing", "timestep_spacing"),
        ("beta_schedule", "NoiseSchedulerConfig", "NoiseSchedulerConfig", None, "NoiseSchedulerConfig"),
        ("seed", None, "seed is an argument of sample", "seed is an argument of sample", None),
        ("s_churn", "option of the sampler", "option of the sampler", "option of the sampler", "option of the sampler"),
        ("shift", "schedule_options", "schedule_options", "schedule_options", "schedule_options"),
        ("rho", "spacing_options", "spacing_options", "spacing_options", "spacing_options"),
        ("T", "timesteps", "timesteps", "num_train_timesteps", "timesteps"),
        ("guidence_scale", "'guidance_scale'", None, None, "'guidance_scale'"),
    ],
)  # fmt: skip
def test_what_a_keyword_is_answered_with(name, sample, create, config, calibration):
    doors = {
        "sample": sample, "stream": sample, "create_pipeline": create, "config": config, "calibrate": calibration
    }  # fmt: skip
    for door, word in doors.items():
        if word is not None:
            assert word in refusal(door, name), door


def test_generate_refuses_what_its_pipeline_gives_and_answers_other_names():
    pipeline = DiffusersPipeline(CONFIG)  # without parts: it refuses before it needs them
    for name in ("model", "shape", "condition", "null_condition", "device"):
        with pytest.raises(ConfigurationError, match="comes from the pipeline of diffusers"):
            pipeline.generate("a cat", **{name: 1})
    for name, word in {
        "steps": "num_inference_steps",
        "batch_size": "num_images_per_prompt",
        "clip_skip": "encode",
    }.items():
        with pytest.raises(ConfigurationError) as raised:
            pipeline.generate("a cat", **{name: 1})
        assert word in raised.value.suggestion


def test_a_config_that_is_changed_says_how_to_make_another():
    config = NoiseSchedulerConfig()
    for change in (lambda: setattr(config, "beta_start", 0.1), lambda: setattr(config, "anything", 1)):
        with pytest.raises(ConfigurationError, match=r"config\.replace\(\w+=\.\.\.\)"):
            change()
    with pytest.raises(ConfigurationError, match=r"config\.replace"):
        del config.beta_start
    for made in (config.model_copy, config.copy):
        with pytest.raises(ConfigurationError, match="beta_start"):
            made(update={"beta_start": 5})
        assert made(update={"beta_start": 0.001}) == config.replace(beta_start=0.001)
        assert made() == config
    with pytest.raises(ConfigurationError, match="beta_start"):
        NoiseSchedulerConfig.model_validate({"beta_start": 5})
    for made_anew in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert made_anew == config


METHODS = [name for name, kind in vars(DiffusionPipeline).items() if inspect.isfunction(kind) and name[0] != "_"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_a_pipeline_refuses_an_unknown_keyword(method):
    demanded = {"calibrate": {"nfe": 3, "shape": (1, 8, 8)}}
    with pytest.raises(ConfigurationError) as raised:
        getattr(PIPELINE, method)(**demanded.get(method, {}), steps=4)
    if method != "generate":  # a pipeline without a text encoder refuses the call itself
        assert raised.value.where == "steps"
        assert "num_inference_steps" in raised.value.suggestion or "nfe" in raised.value.suggestion
