"""The API that was asked for: names, signatures, factories, and every code block of the request and of the docs."""

from __future__ import annotations

import inspect
import logging
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import noise_scheduler_sampling_system as package
from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    BaseNoiseScheduler,
    BaseSampler,
    BetaSchedule,
    ConfigurationError,
    CosineNoiseScheduler,
    DDIMSampler,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    SamplerFactory,
    SamplingMethod,
)
from places import ROOT, SEED

SCHEDULE_NAMES = ("linear", "cosine", "quadratic", "sigmoid", "exponential")
SAMPLER_NAMES = ("ddpm", "ddim", "pndm", "ancestral", "euler", "heun")


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of one language in a Markdown file."""
    if not path.exists():
        pytest.fail(f"{path.name} does not exist yet: its code blocks cannot be checked")
    return [code for found, code in fences(path) if found == language]


def fences(path: Path) -> list[tuple[str, str]]:
    """(language, content) of every code block in a Markdown file."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


class Network(nn.Module):
    """Stands in for a trained network of any number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        return self.gain * x


# ------------------------------------------------------------------------------- the request's code blocks


def is_signature(block: str) -> bool:
    return block.lstrip().startswith("def ")


SEED_BLOCKS = blocks(SEED, "python")
YAML_BLOCK = blocks(SEED, "yaml")[0]


def tiny_stable_diffusion(*args: Any, **kwargs: Any) -> SimpleNamespace:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=32,
        attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return SimpleNamespace(unet=unet.eval())


def without_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Diffusers' ``from_pretrained`` gives a tiny network with random weights."""
    import diffusers

    # in place of the real class, whose import takes seconds (transformers); a block calls from_pretrained only
    stand_in = SimpleNamespace(from_pretrained=tiny_stable_diffusion)
    monkeypatch.setitem(vars(diffusers), "StableDiffusionPipeline", stand_in)
    monkeypatch.setattr(diffusers.UNet2DConditionModel, "from_pretrained", lambda *a, **k: tiny_stable_diffusion().unet)


def test_the_request_has_the_blocks_that_the_tests_expect():
    assert len(SEED_BLOCKS) == 8
    assert sum(map(is_signature, SEED_BLOCKS)) == 2
    assert "AdvancedDiffusionSystem" in SEED_BLOCKS[0]
    assert list(yaml.safe_load(YAML_BLOCK)) == ["linear_ddpm", "cosine_ddim"]


def test_every_python_block_of_the_request_runs_as_written(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    without_downloads(monkeypatch)
    (tmp_path / "config.yaml").write_text(YAML_BLOCK)
    AdvancedDiffusionSystem("config.yaml").save_config("config.json")
    names: dict[str, Any] = {"your_model": Network(), "nn": nn, "predicted_noise": torch.zeros(1, 3, 256, 256)}
    results = {}
    with caplog.at_level(logging.WARNING):
        for i, block in enumerate(SEED_BLOCKS):
            if not is_signature(block):
                exec(compile(block, f"seed block {i}", "exec"), names)
                results[i] = names.get("samples")

    assert results[0].shape == (1, 3, 64, 64)
    assert set(names["results"]) == {"cosine_ddim", "linear", "cosine", "quadratic", "sigmoid"}
    assert all(value.shape == (1, 3, 64, 64) for value in names["results"].values())
    assert yaml.safe_load((tmp_path / "current_config.yaml").read_text())["linear_ddpm"]["method"] == "ddpm"
    of_unet, of_custom = 6, 7
    assert results[of_unet].shape == (1, 4, 64, 64)
    assert "encoder_hidden_states" in caplog.text
    assert "zeros" in caplog.text
    assert results[of_custom].shape == (1, 3, 256, 256)
    for i in (0, of_unet, of_custom):
        assert results[i].isfinite().all()
        assert results[i].std() > 0.01
    assert results[of_unet].abs().max() <= 1.0, "clip_sample=True is in force"


@pytest.mark.parametrize(
    ("block", "function"),
    [
        pytest.param(block, function, id=function.__name__)
        for block, function in zip(
            filter(is_signature, SEED_BLOCKS),
            (DiffusionPipeline.sample, AdvancedDiffusionSystem.compare_schedulers),
            strict=True,
        )
    ],
)
def test_signatures_accept_every_call_that_the_request_allows(block, function):
    names: dict[str, Any] = {"annotations": None}
    exec("from __future__ import annotations\n" + block.rstrip() + ": ...", names)
    asked = inspect.signature(names[function.__name__])
    ours = inspect.signature(function)
    wanted = list(asked.parameters.values())
    assert [p.name for p in wanted[:-1]] == [p.name for p in list(ours.parameters.values())[: len(wanted) - 1]]
    for parameter in wanted[:-1]:
        mine = ours.parameters[parameter.name]
        assert mine.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if parameter.default is not parameter.empty:
            assert mine.default == parameter.default
    assert wanted[-1].kind is inspect.Parameter.VAR_KEYWORD
    assert any(p.kind is p.VAR_KEYWORD for p in ours.parameters.values())


@pytest.mark.parametrize("ending", ["yaml", "yml", "json"])
def test_the_requests_configuration_file_loads_and_comes_back(tmp_path, ending):
    source, copy = tmp_path / "config.yaml", tmp_path / f"copy.{ending}"
    source.write_text(YAML_BLOCK)
    system = AdvancedDiffusionSystem(source)
    system.save_config(copy)
    again = AdvancedDiffusionSystem(copy)
    assert again.list_pipelines() == system.list_pipelines() == ["linear_ddpm", "cosine_ddim"]
    for name, fields in yaml.safe_load(YAML_BLOCK).items():
        saved = again.get_pipeline(name).config.to_dict()
        assert {key: saved[key] for key in fields} == fields
        assert again.get_pipeline(name).config == system.get_pipeline(name).config
        assert again.get_pipeline(name).method == name.split("_")[1]


@pytest.mark.parametrize("command", blocks(SEED, "bash"))
def test_the_requests_test_commands_name_files_that_exist(command):
    name = re.fullmatch(r"python -m pytest (\w+\.py) -v", command.strip())
    assert name, command
    assert (ROOT / "tests" / name[1]).exists()


# ------------------------------------------------------------------------------- the code blocks of the docs


def with_tiny_pipelines(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Diffusers' ``from_pretrained`` gives whole pipelines with random weights; the folder has two pictures."""
    import diffusers
    from diffusers.utils import numpy_to_pil

    import tiny_pipelines as tiny

    for name, kind in {"StableDiffusionPipeline": "sd", "DDPMPipeline": "ddpm"}.items():
        monkeypatch.setattr(getattr(diffusers, name), "from_pretrained", lambda *a, kind=kind, **k: tiny.build(kind))
    for name, pixels in {"cat.png": tiny.image(), "mask.png": tiny.mask()}.items():
        numpy_to_pil(pixels.permute(0, 2, 3, 1).numpy())[0].save(folder / name)


#: The pages with Python, in the repository and on the site.
DOCUMENTS = [
    page.relative_to(ROOT).as_posix()
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    if blocks(page, "python")
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_python_block_of_the_docs_runs_and_prints_what_is_shown(
    document, tmp_path, monkeypatch, registries, capsys
):
    monkeypatch.chdir(tmp_path)
    if "StableDiffusionPipeline.from_pretrained(" in (ROOT / document).read_text(encoding="utf-8"):
        with_tiny_pipelines(monkeypatch, tmp_path)
    found = blocks(ROOT / document, "python")
    assert found, f"{document} shows no Python"
    (tmp_path / "config.yaml").write_text(YAML_BLOCK)
    AdvancedDiffusionSystem("config.yaml").save_config("config.json")
    module = ModuleType(f"blocks_of_{Path(document).stem}")  # so that what a block defines can be pickled
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = vars(module)
    names |= {"your_model": Network(), "model": Network(), "nn": nn}
    everything = fences(ROOT / document)
    capsys.readouterr()
    for i, (language, block) in enumerate(everything):
        if language == "python":
            exec(compile(block, f"{document} block {i}", "exec", dont_inherit=True), names)
            shown = everything[i + 1] if i + 1 < len(everything) else ("", "")
            printed = capsys.readouterr().out
            if shown[0] == "text":
                assert printed == shown[1], f"{document} block {i}"
    assert at_the_root() <= AT_THE_ROOT, "the blocks leave their files in the temporary folder"


#: What belongs at the root of the repository.
AT_THE_ROOT = {
    ".ci", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile",
    "README.md", "benchmarks", "constraints.txt", "docs", "examples", "mkdocs.yml", "pyproject.toml", "src",
    "tests", "tools",
}  # fmt: skip


def at_the_root() -> set[str]:
    """Files and folders at the root that git does not ignore, committed or not."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # no git, or a copy of the files without their history
        return set()
    return {name.partition("/")[0] for name in listed.split("\0") if name and (ROOT / name).exists()}


def test_the_root_holds_only_what_belongs_there():
    assert at_the_root() <= AT_THE_ROOT


# ------------------------------------------------------------------------------- names


PROMISED = [
    "AdvancedDiffusionSystem", "DiffusionPipeline", "NoiseSchedulerConfig", "BetaSchedule", "SamplingMethod",
    "NoiseSchedulerFactory", "SamplerFactory", "BaseNoiseScheduler", "BaseSampler", "SamplingPlan",
    *(f"{name.capitalize()}NoiseScheduler" for name in SCHEDULE_NAMES),
    *(f"{name}Sampler" for name in ("DDPM", "DDIM", "PNDM", "Ancestral", "Euler", "Heun")),
]  # fmt: skip


def test_everything_promised_is_importable_from_the_root():
    assert [name for name in PROMISED if not hasattr(package, name)] == []
    assert [name for name in PROMISED if name not in package.__all__] == []
    assert [name for name in package.__all__ if not hasattr(package, name)] == []


def test_version_continues_the_requests_changelog():
    latest = re.findall(r"^### v(\S+)$", SEED.read_text(), re.MULTILINE)[-1]
    assert (latest, package.__version__) == ("1.2.0", "1.3.0")
    assert f'version = "{package.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_importing_pulls_in_nothing_that_only_some_users_need():
    heavy = ["diffusers", "transformers", "matplotlib", "scipy", "sklearn", "typer", "safetensors", "k_diffusion"]
    code = f"import sys, noise_scheduler_sampling_system; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("enum", "values"), [(BetaSchedule, (*SCHEDULE_NAMES, "custom")), (SamplingMethod, SAMPLER_NAMES)]
)
def test_enum_members_are_upper_case_with_lower_case_values(enum, values):
    assert {member.name for member in enum} >= {value.upper() for value in values}
    assert all(member.value == member.name.lower() for member in enum)
    assert enum(values[0]) == values[0], "a member equals its value, so either may be used as a key"


def test_class_hierarchy():
    for name in SCHEDULE_NAMES:
        assert issubclass(getattr(package, f"{name.capitalize()}NoiseScheduler"), BaseNoiseScheduler)
    for name in ("DDPM", "DDIM", "PNDM", "Ancestral", "Euler", "Heun"):
        assert issubclass(getattr(package, f"{name}Sampler"), BaseSampler)


# ------------------------------------------------------------------------------- factories


def test_factories_list_and_make_every_member():
    assert {*SCHEDULE_NAMES, "custom"} <= set(NoiseSchedulerFactory.available())
    assert set(SAMPLER_NAMES) <= set(SamplerFactory.available())
    for name in SCHEDULE_NAMES:
        made = [
            NoiseSchedulerFactory.create(NoiseSchedulerConfig(beta_schedule=name)),
            NoiseSchedulerFactory.create(name),
            NoiseSchedulerFactory.create(BetaSchedule(name)),
            NoiseSchedulerFactory.create({"beta_schedule": name}),
        ]
        assert {type(m).__name__ for m in made} == {f"{name.capitalize()}NoiseScheduler"}
    for name in SAMPLER_NAMES:
        made_samplers = [SamplerFactory.create(name), SamplerFactory.create(SamplingMethod(name))]
        assert {type(m).__name__.lower() for m in made_samplers} == {f"{name}sampler"}


def test_factories_pass_settings_on():
    schedule = NoiseSchedulerFactory.create("cosine", num_train_timesteps=77)
    assert schedule.num_train_timesteps == 77
    assert len(schedule.betas) == 77
    changed = NoiseSchedulerFactory.create(NoiseSchedulerConfig(beta_schedule="sigmoid"), num_train_timesteps=55)
    assert (changed.config.beta_schedule, len(changed.betas)) == ("sigmoid", 55)
    sampler = SamplerFactory.create("ddim", schedule, eta=0.4)
    assert sampler.scheduler is schedule
    assert sampler.options["eta"] == 0.4
    assert isinstance(SamplerFactory.create(DDIMSampler, NoiseSchedulerConfig(beta_schedule="cosine")), DDIMSampler)


@pytest.mark.parametrize(
    ("create", "nearest"),
    [
        (lambda: NoiseSchedulerFactory.create("cosin"), "'cosine'"),
        (lambda: SamplerFactory.create("ancestrl"), "'ancestral'"),
        (lambda: SamplerFactory.create("DDIN"), "'ddim'"),
        (lambda: NoiseSchedulerFactory.create("linear", beta_strat=0.1), "'beta_start'"),
        (lambda: SamplerFactory.create("ddim", etta=1.0), "'eta'"),
        (lambda: SamplerFactory.create(int), "BaseSampler"),
        (lambda: SamplerFactory.create(CosineNoiseScheduler), "BaseSampler"),
    ],
)
def test_factories_name_the_nearest_valid_name(create, nearest):
    with pytest.raises(ConfigurationError) as raised:
        create()
    assert nearest in raised.value.suggestion


def steady(config: NoiseSchedulerConfig) -> Tensor:
    return torch.full((config.num_train_timesteps,), 0.01, dtype=torch.float64)


def test_a_registered_schedule_is_accepted_wherever_a_member_is(registries, tmp_path):
    @NoiseSchedulerFactory.register("steady")
    class Steady(BaseNoiseScheduler):
        def _get_beta_schedule(self):
            return steady(self.config)

    assert "steady" in NoiseSchedulerFactory.available()
    config = NoiseSchedulerConfig(beta_schedule="steady", num_train_timesteps=600)
    assert torch.equal(NoiseSchedulerFactory.create("steady", num_train_timesteps=600).betas, steady(config))
    assert isinstance(NoiseSchedulerFactory.create(config), Steady)
    system = AdvancedDiffusionSystem()
    pipeline = system.create_pipeline("mine", config, "euler")
    first = pipeline.sample(shape=(1, 1, 8, 8), num_inference_steps=5, seed=0)
    system.save_config(tmp_path / "system.yaml")
    again = AdvancedDiffusionSystem(tmp_path / "system.yaml").get_pipeline("mine")
    assert isinstance(again.scheduler, Steady)
    assert torch.equal(first, again.sample(shape=(1, 1, 8, 8), num_inference_steps=5, seed=0))


def test_a_registered_sampler_is_accepted_wherever_a_member_is(registries, tmp_path):
    class Halving(BaseSampler):
        option_defaults = {"factor": 0.5}

        def step(self, model_output, timestep, sample):
            return sample * self.options["factor"]

    assert SamplerFactory.register("halving", Halving) is Halving
    assert isinstance(SamplerFactory.create("halving"), Halving)
    system = AdvancedDiffusionSystem()
    pipeline = system.create_pipeline("mine", NoiseSchedulerConfig(), "halving", factor=0.25)
    noise = torch.ones(2, 3)
    kinds = {"model": lambda x, t: x, "initial_noise": noise, "num_inference_steps": 3}
    assert torch.equal(pipeline.sample(**kinds), noise * 0.25**3)
    system.save_config(tmp_path / "system.json")
    again = AdvancedDiffusionSystem(tmp_path / "system.json").get_pipeline("mine")
    assert torch.equal(again.sample(**kinds), noise * 0.25**3)


def test_a_name_is_taken_once(registries):
    class Mine(BaseSampler):
        def step(self, model_output, timestep, sample):
            return sample

    for factory, name, entry in (
        (SamplerFactory, "ddim", Mine),
        (SamplerFactory, SamplingMethod.HEUN, Mine),
        (NoiseSchedulerFactory, "linear", CosineNoiseScheduler),
    ):
        before = factory.create(name)
        with pytest.raises(ConfigurationError, match="taken"):
            factory.register(name, entry)
        assert type(factory.create(name)) is type(before)


def test_registering_again_the_same_definition_is_allowed_as_notebooks_do_it(registries):
    def cell():
        class Mine(BaseSampler):
            def step(self, model_output, timestep, sample):
                return sample

        return SamplerFactory.register("mine", Mine)

    first, second = cell(), cell()
    assert first is not second
    assert type(SamplerFactory.create("mine")) is second


@pytest.mark.parametrize("entry", [DDIMSampler, "CosineNoiseScheduler", lambda: None, int])
def test_a_schedule_must_be_derived_from_the_base(entry, registries):
    with pytest.raises(ConfigurationError, match="NoisePath"):
        NoiseSchedulerFactory.register("mine", entry)
    with pytest.raises(ConfigurationError, match="NoisePath"):
        NoiseSchedulerFactory.register("mine")(entry)
    assert "mine" not in NoiseSchedulerFactory.available()


def test_an_instance_is_not_a_sampler_class(registries):
    with pytest.raises(ConfigurationError, match="BaseSampler"):
        SamplerFactory.register("mine", SamplerFactory.create("ddim"))


# ------------------------------------------------------------------------------- everything with everything


@pytest.mark.parametrize("method", SAMPLER_NAMES)
@pytest.mark.parametrize("schedule", SCHEDULE_NAMES)
def test_every_sampler_on_every_schedule_draws_digits(schedule, method):
    """Samples lie close to the data: digits in [−1, 1] smoothed by 0.1 a pixel (noise would be at 3 and more)."""
    from noise_scheduler_sampling_system.models import load_digits

    pipeline = AdvancedDiffusionSystem().create_pipeline(
        "any", NoiseSchedulerConfig(beta_schedule=schedule, timestep_spacing="trailing"), method
    )
    samples = pipeline.sample(shape=(6, 1, 8, 8), num_inference_steps=40, seed=5).flatten(1).double()
    digits = load_digits()[0].flatten(1)
    nearest = torch.cdist(samples, digits).min(dim=1).values
    assert nearest.max() < 2.0, nearest
    assert torch.cdist(samples, samples).fill_diagonal_(9).min() > 0.5, "different seeds give different digits"
