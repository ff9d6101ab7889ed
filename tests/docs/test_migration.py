"""docs/migration.md: made by its command, and complete."""

from __future__ import annotations

import ast
import re

import migration_table as made
import pytest

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.config.sampler_aliases import NAMES
from noise_scheduler_sampling_system.integrations.diffusers import read
from noise_scheduler_sampling_system.integrations.diffusers.reading.class_table import READERS
from noise_scheduler_sampling_system.integrations.diffusers.reading.refusals import NO_PATH

PAGE = made.OUT.read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of every table row of a section."""
    section = re.split(r"^#+ ", PAGE, flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading + "\n")]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_page_is_what_its_command_writes():
    assert made.written() == PAGE, "run python benchmarks/migration_table.py"
    assert made.written_diffusers() == made.DIFFUSERS.read_text(encoding="utf-8"), "the same"


def test_every_class_of_diffusers_is_read_traced_or_refused_with_the_reason():
    found = {cells[0].strip("`"): cells[1] for cells in rows("Classes of diffusers, with their defaults")}
    for name in made.classes():
        if name in NO_PATH:
            assert found[name] == NO_PATH[name].reason
            continue
        reading = read({"_class_name": name})
        if reading.sampler is not None:
            assert found[name].startswith(f"`{reading.sampler}`")
        else:
            assert found[name] == f"{'traced' if reading.traceable else 'none'}: {reading.refusal}"
    assert set(found) - {"class"} == set(made.classes()) | set(NO_PATH)
    assert set(made.classes()) >= set(READERS)
    tour = (made.OUT.parent / "tour.md").read_text(encoding="utf-8")
    assert f"the settings of {len(READERS)} of its schedulers" in tour


def test_every_notable_setting_is_accepted_by_some_class():
    for subject, settings in made.NOTABLE.items():
        listed = {cells[0].strip("`") for cells in rows(subject)}
        for flags in settings:
            assert any(made.accepted(name, flags) for name in made.known()), flags
            if any(any(made.change(name, flags)) for name in made.known() if made.accepted(name, flags)):
                assert made.shown(flags) in listed


def test_every_name_of_others_is_listed():
    listed = {cells[0].strip("`") for cells in rows("Names of k-diffusion, ComfyUI and others")}
    listed |= {cells[0].strip("`") for cells in rows("Classes of diffusers, with their defaults")}
    assert set(NAMES) <= listed


def test_what_is_listed_can_be_typed():
    """Samplers and settings of the table of classes make a pipeline."""
    for name, sampler, settings, _ in rows("Classes of diffusers, with their defaults")[1 : 1 + len(READERS)]:
        words = re.findall(r"`([^`]*)`", sampler)
        if not settings or not words:
            continue
        fields = read({"_class_name": name.strip("`")}).config_for(words[0]).to_dict()
        config = NoiseSchedulerConfig(**{k: v for k, v in typed(settings.strip("`")).items() if v == fields[k]})
        options = typed(words[1]) if len(words) > 1 else {}
        assert DiffusionPipeline(config, words[0], **options).plan(8).sampler == words[0]


def typed(settings: str) -> dict[str, object]:
    """Keywords of a call as they are written."""
    call = ast.parse(f"f({settings})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg is not None}
