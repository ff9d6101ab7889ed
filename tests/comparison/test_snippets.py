"""What is copied from a page makes the very plan that ran: the same hash."""

from __future__ import annotations

import diffusers
import pytest
import torch

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    BaseSampler,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    guidance,
)
from noise_scheduler_sampling_system.comparison import compare
from noise_scheduler_sampling_system.comparison.snippets import as_diffusers, as_python, as_yaml
from noise_scheduler_sampling_system.config.registries import PRESETS, SAMPLERS
from noise_scheduler_sampling_system.samplers import AdaptiveSampler
from tiny_pipelines import build

SHAPE = (1, 4)
PLANNED = [name for name in SAMPLERS if SAMPLERS.get(name).write is not BaseSampler.write]


def zero(x, t, **condition):
    return 0.1 * x


def run(pipelines, nfe=6, model=zero, **arguments):
    return compare(pipelines, model, nfe=nfe, shape=SHAPE, reference=None, **arguments)


def executed(text, **scope):
    exec(text, scope)
    return scope


def plan_of(scope, cell):
    return scope["plan"] if "plan" in scope else scope["pipeline"].plan(cell.steps)


def check(found, tmp_path, yaml=True):
    ran = 0
    for entry in found.entries:
        for budget in found.budgets:
            cell = found.cell(entry.name, budget)
            if cell.problem:
                continue
            scope = executed(as_python(entry, cell, found.about), model=zero, condition={"c": torch.ones(1)})
            assert plan_of(scope, cell).content_hash == cell.plan.content_hash, entry.name
            assert torch.equal(scope["samples"], cell.samples)
            if yaml:
                (tmp_path / "a.yaml").write_text(as_yaml(entry, cell))
                made = AdvancedDiffusionSystem(tmp_path / "a.yaml").get_pipeline("pipeline")
                assert made.plan(cell.steps).content_hash == cell.plan.content_hash
                assert made.config.prediction_type == entry.pipeline.config.prediction_type
            ran += 1
    return ran


def test_every_sampler_is_copied_as_it_ran(tmp_path):
    names = [name for name in SAMPLERS if not issubclass(SAMPLERS.get(name), AdaptiveSampler)]
    found = run({name: name for name in names if "cfg_pp" not in name}, nfe=8)
    assert check(found, tmp_path) > 40


def test_options_and_spacings_are_copied_as_they_ran(tmp_path):
    karras = NoiseSchedulerConfig(timestep_spacing="karras", spacing_options={"rho": 5.0})
    found = run([
        DiffusionPipeline(karras, "unipc", order=2, solver_type="bh1"),
        DiffusionPipeline(NoiseSchedulerConfig(steps_offset=1), "ddim", eta=0.5),
        DiffusionPipeline(None, "DPM++ 2M Karras"),
        DiffusionPipeline(None, "dpm_2"),
        DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="custom", trained_betas=[0.2, 0.3] * 20), "ddim"),
        DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="flow", prediction_type="v_prediction"), "euler"),
        DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="flow", schedule_options={"shift": 3.0}), "heun"),
    ])  # fmt: skip
    assert [cell.problem for cell in found.cells.values() if cell.problem] == []
    assert check(found, tmp_path) == 7


def test_every_preset_is_copied_as_it_ran(tmp_path):
    def named(name):
        return DiffusionPipeline(NoiseSchedulerConfig.preset(name, variance_type="fixed_small"), "dpmpp_2m")

    found = run({name: named(name) for name in PRESETS})
    assert [cell.problem for cell in found.cells.values() if cell.problem] == []
    assert check(found, tmp_path) == len(list(PRESETS))


def test_what_settings_do_not_say_is_copied_as_a_plan(tmp_path):
    weighted = DiffusionPipeline(None, "dpmpp_2m")
    path = NoiseSchedulerFactory.create("cosine")
    path = path.up_to(800.0)
    plan = weighted.plan(5)
    found = run({"a plan": plan, "a cut path": DiffusionPipeline(path, "ddim")})
    assert check(found, tmp_path, yaml=False) == 2
    for entry in found.entries:
        cell = found.cell(entry.name, 6)
        assert as_yaml(entry, cell).startswith("#")
        assert "SamplingPlan.from_dict" in as_python(entry, cell, found.about)


def test_guidance_is_copied(tmp_path):
    condition = {"c": torch.ones(1)}
    assert check(run(["ddim"], condition=condition, guidance_scale=2.0), tmp_path) == 1
    found = run(["ddim"], condition=condition, guidance=[guidance.ClassifierFree(2.0)])
    entry = found.entries[0]
    text = as_python(entry, found.cell(entry.name, 6), found.about)
    scope = executed(
        f"from noise_scheduler_sampling_system.guidance import ClassifierFree\n{text}", model=zero, condition=condition
    )
    assert torch.equal(scope["samples"], found.cell(entry.name, 6).samples)


def test_guidance_that_a_plan_holds_is_copied_with_it(tmp_path):
    condition, plan = {"c": torch.ones(1)}, DiffusionPipeline(None, "unipc").plan(4)
    cached = guidance.CachedGuidance(2.0, calls=(0, 2))
    held = run({"ddim": "ddim", "plan": cached.folded_into(plan)}, condition=condition)
    assert check(held, tmp_path, yaml=False) == 2
    kept = run({"unipc": "unipc"}, nfe=4, condition=condition, guidance=cached)
    assert check(kept, tmp_path, yaml=False) == 1
    for found, name, budget in ((held, "plan", 6), (kept, "unipc", 4)):
        (entry,) = (each for each in found.entries if each.name == name)
        cell = found.cell(name, budget)
        assert as_yaml(entry, cell).startswith("#")
        assert as_diffusers(entry, cell, found.about).startswith("#")


@pytest.mark.parametrize("kind", ["sd", "sd3", "flux"])
def test_pipelines_of_diffusers_are_copied_as_they_ran(kind):
    pipe = build(kind)
    words = {"encode_options": {"max_sequence_length": 16}} if kind == "flux" else {}
    size = {"height": 16, "width": 32} if kind == "flux" else {}
    pipelines = [
        DiffusionPipeline.from_diffusers(pipe, "unipc"),
        DiffusionPipeline.from_diffusers(pipe, "ddim", timestep_spacing="trailing"),
        DiffusionPipeline.from_diffusers(pipe),
    ]
    found = compare(pipelines, nfe=4, prompt="a cat", guidance_scale=2.0, reference=None, **words, **size)
    for entry in found.entries:
        cell = found.cell(entry.name, 4)
        text = as_python(entry, cell, found.about)
        scope = executed(text.replace("generate(prompt", f"generate(prompt, **{words}"), pipe=pipe, prompt="a cat")
        assert "SamplingPlan" not in text
        assert scope["pipeline"].plan(cell.steps, **size).content_hash == cell.plan.content_hash
        drawn = scope["pipeline"].generate(
            "a cat", num_inference_steps=cell.steps, guidance_scale=2.0, seed=0, return_result=True,
            output_type="latent", **words, **size,
        )  # fmt: skip
        assert drawn.plan.content_hash == cell.plan.content_hash
        assert torch.equal(drawn.samples, cell.samples)
        assert scope["images"][0].size == (size.get("width", 16), 16)


def test_code_for_diffusers_evaluates_at_the_same_levels():
    class Pipe:
        """The part of a pipeline of diffusers that is replaced."""

        def __init__(self):
            self.scheduler = diffusers.DDIMScheduler(beta_start=0.0001, clip_sample=False, steps_offset=0)

        def __call__(self, prompt, num_inference_steps):
            self.scheduler.set_timesteps(num_inference_steps)
            return self

        images = ()

    karras = NoiseSchedulerConfig(timestep_spacing="karras", spacing_options={"rho": 5.0})
    found = run(["ddim", "unipc", "dpmpp_2m", DiffusionPipeline(karras, "deis", order=2)])
    for entry in found.entries:
        cell = found.cell(entry.name, 6)
        pipe = executed(as_diffusers(entry, cell, found.about), pipe=Pipe(), prompt="")["pipe"]
        assert pipe.scheduler.timesteps.tolist() == pytest.approx(cell.plan.time.tolist(), abs=1e-4)
    given = run({"given": DiffusionPipeline(None, "unipc").plan(5)})
    pipe = executed(as_diffusers(given.entries[0], given.cell("given", 6), given.about), pipe=Pipe())["pipe"]
    pipe("", 5)
    assert len(pipe.scheduler.timesteps) == 5
