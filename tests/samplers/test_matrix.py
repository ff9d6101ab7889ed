"""A part of the matrix of paths, spacings, samplers, predictions, steps and types; benchmarks/matrix.py has all."""

from __future__ import annotations

import collections
import random

import pytest
import samplers_table
import torch
from matrix import cells, outcome
from typer.testing import CliRunner

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    SamplerFactory,
)
from noise_scheduler_sampling_system.app.command_line import app
from noise_scheduler_sampling_system.config.choices import SamplingMethod
from noise_scheduler_sampling_system.config.registries import SAMPLERS, SCHEDULES, SPACINGS
from noise_scheduler_sampling_system.config.sampler_aliases import NAMES, resolve


def test_cells_run_or_are_refused_with_a_reason():
    every = list(cells())
    chosen = random.Random(20).sample(every, 1000)
    assert {cell.sampler for cell in chosen} == set(SAMPLERS)
    counts = collections.Counter(outcome(cell).split(":")[0] for cell in chosen)
    assert counts["ran"] > 700
    assert counts["ran"] + counts["refused"] == 1000


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "custom"])
def test_every_schedule_samples_the_digits_with_its_defaults(schedule):
    """With the default spacing of the schedule, and a good sampler, digits come out."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule=schedule), "dpmpp_2m")
    x = pipeline.sample(shape=(16, 1, 8, 8), num_inference_steps=20, seed=0)
    assert 0.65 < float(x.std()) < 0.95
    assert float(x.abs().max()) < 1.8


def test_every_foreign_name_makes_a_plan():
    for name, meant in NAMES.items():
        assert meant.sampler in SAMPLERS, name
        sampler = SamplerFactory.create(name)
        assert SAMPLERS.name_of(type(sampler)) == meant.sampler
        assert all(sampler.options[option] == value for option, value in meant.options.items())
        assert sampler.config.spacing_options == dict(meant.spacing_options)


@pytest.mark.parametrize(
    ("label", "sampler", "spacing"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"), ("dpm++ 2m sde karras", "dpmpp_2m_sde", "karras"),
        ("DPM++ 3M SDE Exponential", "dpmpp_3m_sde", "exponential"), ("Euler a", "ancestral", "leading"),
        ("LMS Karras", "lms", "karras"), ("DPM2 a Karras", "dpm2_ancestral", "karras"),
        ("UniPC", "unipc", "beta57"),
        ("DPMSolverMultistepScheduler", "dpmpp_2m", "leading_dpm"), ("DPM++ 2M KL Optimal", "dpmpp_2m", "kl_optimal"),
        ("LCMScheduler", "lcm", "trailing"), ("k_euler_a", "ancestral", "leading"),
        ("Euler Simple", "euler", "trailing"),
        ("dpmpp-3m", "dpmpp_3m", "beta57"),
        ("Heun", "heun", "leading"), ("DPM++ 2M SGM Uniform", "dpmpp_2m", "sgm_uniform"), ("heun beta", "heun", "beta"),
    ],
)  # fmt: skip
def test_labels_name_a_sampler_and_a_spacing(label, sampler, spacing):
    pipeline = DiffusionPipeline(method=label)
    assert pipeline.plan(6).sampler == sampler
    assert pipeline.sampler.run_spacing == spacing
    assert pipeline.scheduler is pipeline.sampler.scheduler


@pytest.mark.parametrize("name", ["unipc", "UniPC", "UNIPC", "dpm2", "DPM2", "Dpm2"])
def test_case_does_not_change_a_sampler(name):
    assert DiffusionPipeline(method=name).plan(5) == DiffusionPipeline(method=name.lower()).plan(5)


def test_a_label_works_with_a_preset_that_counts_from_one():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig.preset("sdxl"), "DPM++ 2M Karras")
    assert (pipeline.config.timestep_spacing, pipeline.config.steps_offset) == ("karras", 0)
    pipeline.update_config(timestep_spacing="exponential")
    assert pipeline.plan(5).sampler == "dpmpp_2m"
    taken = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="karras"), "DPMSolverMultistepScheduler")
    assert taken.config.timestep_spacing == "karras"


def test_an_inverse_scheduler_is_not_taken_for_a_forward_one():
    with pytest.raises(ConfigurationError, match="backwards"):
        resolve("DDIMInverseScheduler")


def test_systems_with_foreign_names_are_saved(tmp_path):
    system = AdvancedDiffusionSystem()
    system.create_pipeline("a", NoiseSchedulerConfig(), "DPM++ 2M SDE Karras")
    system.create_pipeline("b", NoiseSchedulerConfig.preset("sd3"), "UniPCMultistepScheduler", afs=True)
    system.save_config(tmp_path / "both.yaml")
    again = AdvancedDiffusionSystem(tmp_path / "both.yaml")
    for name in ("a", "b"):
        assert again.get_pipeline(name).plan(6) == system.get_pipeline(name).plan(6)


def test_a_hand_written_loop_reads_the_noise_of_an_earlier_stage():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="karras"), "dpmpp_sde")
    x = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    state, plan = pipeline.sampler.start(3, x), pipeline.plan(3)
    for i in range(4):
        out = pipeline.sampler.step(
            torch.zeros_like(x), plan.time[i], x, state=state, generator=torch.Generator().manual_seed(i)
        )
        x, state = out.prev_sample, out.state
    steps = list(pipeline.stream(lambda x, t: torch.zeros_like(x), (2000, 4), 3, seed=1))
    assert abs(float(x.std() / steps[1].x.std()) - 1.0) < 0.04


def test_cfg_pp_interpolates_by_default():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim_cfg_pp")
    asked = {
        "shape": (2, 1, 8, 8),
        "num_inference_steps": 6,
        "seed": 0,
        "condition": {"class_labels": torch.tensor([3, 7])},
    }
    assert torch.equal(pipeline.sample(**asked), pipeline.sample(**asked, guidance_scale=0.6))
    with pytest.raises(ConfigurationError, match="unconditional"):
        pipeline.sampler.step(torch.zeros(1, 4), 500, torch.zeros(1, 4), next_timestep=400)


def test_a_label_does_not_override_the_config():
    with pytest.raises(ConfigurationError, match="implies the spacing 'karras'"):
        DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="trailing"), "DPM++ 2M Karras")
    kept = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="karras", spacing_options={"rho": 5.0}), "dpm_2")
    assert kept.config.spacing_options == {"rho": 5.0, "discard_penultimate": True}


@pytest.mark.parametrize(("wrong", "near"), [("dpmpp2n", "dpmpp_2m"), ("eular", "euler"), ("unipcc", "unipc")])
def test_unknown_names_get_the_nearest(wrong, near):
    with pytest.raises(ConfigurationError) as caught:
        resolve(wrong)
    assert near in caught.value.suggestion


def test_the_enum_lists_the_built_in_samplers():
    assert {member.value for member in SamplingMethod} <= set(SAMPLERS)
    built_in = {
        name for name in SAMPLERS if SAMPLERS.get(name).__module__.startswith("noise_scheduler_sampling_system.")
    }
    assert {member.value for member in SamplingMethod} == built_in


def test_names_are_not_ambiguous():
    folded = collections.Counter("".join(c for c in name.lower() if c.isalnum()) for name in SAMPLERS)
    assert max(folded.values()) == 1
    assert set(SPACINGS) & set(SAMPLERS) == set()


def test_the_samplers_page_lists_what_is_registered():
    page = samplers_table.OUT.read_text()
    assert [name for name in SAMPLERS if f"`{name}`" not in page] == []
    assert samplers_table.names_section() in page


def test_the_command_line_takes_presets_and_options():
    def lines(*words: str) -> list[str]:
        result = CliRunner().invoke(app, ["plan", *words, "--steps", "4"])
        assert result.exit_code == 0, result.output
        return result.output.splitlines()

    karras = lines("DPM++ 2M Karras", "--preset", "sdxl")
    assert karras[0].startswith("dpmpp_2m")
    assert karras != lines("DPM++ 2M Karras", "--preset", "sdxl", "--spacing-option", "rho=3")
    shifted = lines("euler", "--schedule", "flow", "--schedule-option", "shift=3")
    assert shifted[3].split()[2] == "900"  # 3·¾/(1 + 2·¾) of 1000
