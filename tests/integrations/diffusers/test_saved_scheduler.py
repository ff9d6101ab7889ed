"""PlanScheduler saved, loaded, copied and made from the configs of other schedulers."""

from __future__ import annotations

import copy
import pickle
import warnings

import diffusers
import numpy as np
import pytest
import torch

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
)
from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler, read
from noise_scheduler_sampling_system.integrations.diffusers.reading.class_table import READERS
from noise_scheduler_sampling_system.integrations.diffusers.reading.scheduler_fields import possible_classes
from tiny_pipelines import build
from twins import (
    KARRAS,
    TOLERANCE,
    images,
    loop,
    relative,
    scheduler_of,
    shared,
    start,
)


@pytest.mark.parametrize(
    "options",
    [{}, {"method": "dpmpp_2m", "timestep_spacing": "karras", "solver_type": "exact"},
     {"method": "unipc", "timestep_spacing": "beta", "spacing_options": {"a": 0.7}, "order": 2}],
    ids=str,
)  # fmt: skip
def test_saved_with_the_pipeline_and_loaded(options, tmp_path):
    pipe = build("sd", scheduler_of("EulerDiscreteScheduler", **KARRAS))
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, **options)
    expected = images(pipe, "sd")
    pipe.save_pretrained(tmp_path)
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded.scheduler, PlanScheduler)
    np.testing.assert_array_equal(images(loaded, "sd"), expected)
    alone = PlanScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    alone.set_timesteps(5)
    assert alone.plan == pipe.scheduler.plan
    for again in (
        PlanScheduler.from_config(alone.config), PlanScheduler.from_config(alone),
        copy.deepcopy(pipe.scheduler), pickle.loads(pickle.dumps(pipe.scheduler)),
    ):  # fmt: skip
        again.set_timesteps(5)
        assert again.plan == pipe.scheduler.plan


def test_a_copy_keeps_its_timesteps_and_shares_no_state():
    scheduler = shared()
    scheduler.set_timesteps(6)
    x = scheduler.step(start(1), scheduler.timesteps[0], start(1)).prev_sample
    other = copy.deepcopy(scheduler)
    assert torch.equal(other.timesteps, scheduler.timesteps)
    assert torch.equal(loop(other, start(2), None), loop(shared(), start(2), 6))
    scheduler.step(x, scheduler.timesteps[1], x)


def test_a_pickle_of_version_1_3_is_read():
    """There the scheduler was a module of its own, and the pickle held every argument of ``set_timesteps``."""
    scheduler = PlanScheduler.from_config(scheduler_of("DDIMScheduler"), method="dpmpp_2m")
    scheduler.set_timesteps(4)
    request = {"num_inference_steps": 4, "timesteps": None, "sigmas": None, "mu": None}
    cls, config, _, shift = scheduler.__reduce__()[1]
    arguments = pickle.dumps((cls, config, request, shift), protocol=0).replace(b".plan_scheduler\n", b"\n")
    made_by = b"cnoise_scheduler_sampling_system.integrations.diffusers.scheduler\n_again\n"
    again = pickle.loads(made_by + arguments.removesuffix(b".") + b"R.")
    assert type(again) is PlanScheduler
    assert torch.equal(again.timesteps, scheduler.timesteps)
    assert (again.plan.sampler, again.plan.nfe) == ("dpmpp_2m", 4)


def test_choices_are_kept_changed_and_undone():
    ours = PlanScheduler.from_config(scheduler_of("EulerDiscreteScheduler", **KARRAS), method="dpmpp_2m", order=1)
    other = PlanScheduler.from_config(ours.config, timestep_spacing="log_snr")
    other.set_timesteps(5)
    assert (other.plan.sampler, other.plan.options["order"]) == ("dpmpp_2m", 1)
    third = PlanScheduler.from_config(ours.config, method="heun")
    third.set_timesteps(5)
    assert third.plan.sampler == "heun"
    changed = PlanScheduler.from_config(ours.config, use_karras_sigmas=False)
    changed.set_timesteps(5)
    assert changed.timesteps[1] != ours.set_timesteps(5) or changed.timesteps[1] != ours.timesteps[1]
    with pytest.raises(ConfigurationError, match="did you mean 'solver_type'"):
        PlanScheduler.from_config(ours.config, solvertype="exact")


def test_diffusers_reads_our_config_back():
    base = scheduler_of("EulerDiscreteScheduler", **KARRAS)
    ours = PlanScheduler.from_config(base.config, method="dpmpp_2m", timestep_spacing="karras")
    back = diffusers.EulerDiscreteScheduler.from_config(ours.config)
    public = {k: v for k, v in base.config.items() if not k.startswith("_")}
    assert {k: v for k, v in back.config.items() if k in public} == public
    assert diffusers.EulerDiscreteScheduler in ours.compatibles
    assert ours.config.num_train_timesteps == len(ours) == 1000
    assert ours.config.prediction_type == "epsilon"
    assert ours.config.steps_offset == 1


def test_plans_are_given_saved_and_asked_for(tmp_path):
    base = scheduler_of("DDIMScheduler")
    pipeline = DiffusionPipeline(NoiseSchedulerConfig.from_diffusers(base), "dpmpp_2m")
    plans = {4: pipeline.plan(4), 6: pipeline.plan(6)}
    pipe = build("sd", base)
    pipe.scheduler = PlanScheduler.from_config(base, method="dpmpp_2m", timestep_spacing="leading")
    expected = images(pipe, "sd", steps=6)
    for given in (plans, plans[6], plans[6].to_dict(), {"6": plans[6].to_dict()}):
        pipe.scheduler = PlanScheduler.from_plan(given, base.config)
        assert relative(images(pipe, "sd", steps=6), expected) < 1e-6
    pipe.scheduler.save_pretrained(tmp_path)
    pipe.scheduler = PlanScheduler.from_pretrained(tmp_path)
    assert relative(images(pipe, "sd", steps=6), expected) < 1e-6
    assert pipe.scheduler.plan == plans[6]
    with pytest.raises(ConfigurationError, match=r"no plan for 5 steps[\s\S]*\[6\]"):
        pipe.scheduler.set_timesteps(5)
    other = PlanScheduler.from_plan(plans[6], scheduler_of("DDIMScheduler", beta_end=0.02, beta_schedule="linear"))
    with pytest.raises(ConfigurationError, match="are not those of"):
        other.set_timesteps(6)


def test_traced_plans_drop_in():
    base = scheduler_of("EulerDiscreteScheduler")
    from noise_scheduler_sampling_system.plans.tracing.trace import trace

    pipe = build("sd", base)
    expected = images(pipe, "sd", steps=5)
    pipe.scheduler = PlanScheduler.from_plan(trace(base, 5), base)
    assert relative(images(pipe, "sd", steps=5), expected) < TOLERANCE


def test_a_config_without_a_class():
    """One that only one class can have says enough; of several, the method does, or the object."""
    nameless = {k: v for k, v in scheduler_of("EulerDiscreteScheduler").config.items() if k != "_class_name"}
    scheduler = PlanScheduler.from_config(nameless)
    scheduler.set_timesteps(3)
    assert scheduler.plan.sampler == "euler"
    several = dict(scheduler_of("KDPM2DiscreteScheduler").config)
    with pytest.raises(ConfigurationError, match=r"may be that of LMSDiscreteScheduler, KDPM2"):
        PlanScheduler.from_config(several)
    assert PlanScheduler.from_config(several, method="heun").order == 2
    assert PlanScheduler.from_config({**several, "_class_name": "KDPM2DiscreteScheduler"}).order == 2
    with pytest.raises(ConfigurationError, match="does not name its class"):
        PlanScheduler.from_config({"beta_start": 0.1})


def test_a_config_made_of_another_ones_is_that_of_the_class_that_made_it():
    """Made in Python it names no class, and keeps the fields of the other one behind its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schedulers = {}
        for name in READERS:
            short = {"num_train_timesteps": 20} if "num_train_timesteps" in read_fields(name) else {}
            schedulers[name] = scheduler_of(name, bare=True, **short)
        for name, scheduler in schedulers.items():
            for other in schedulers.values():
                config = type(scheduler).from_config(dict(other.config)).config
                assert "_class_name" not in config
                found = possible_classes(config)
                assert name in found, (name, type(other).__name__)
                assert all(read_fields(one) == read_fields(name) for one in found)


def read_fields(name: str) -> set[str]:
    return set(read({"_class_name": name}).fields)


def test_a_config_that_a_pipeline_replaces_is_read_again():
    base = scheduler_of("DDIMScheduler", steps_offset=0)
    scheduler = PlanScheduler.from_config(base)
    scheduler.set_timesteps(5)
    assert scheduler.timesteps.tolist() == [800, 600, 400, 200, 0]
    with pytest.warns(FutureWarning, match="steps_offset"):  # Stable Diffusion sets it to 1
        pipe = build("sd", scheduler)
    images(pipe, "sd")
    assert pipe.scheduler.timesteps.tolist() == [801, 601, 401, 201, 1]
