"""Lists of names in the documentation are complete."""

from __future__ import annotations

import re
from pathlib import Path

from noise_scheduler_sampling_system import SamplingMethod, guidance
from noise_scheduler_sampling_system.config.registries import SAMPLERS, SCHEDULES
from noise_scheduler_sampling_system.schedules import BaseNoiseScheduler

ROOT = Path(__file__).parents[2]


def missing(page: str, names: list[str]) -> list[str]:
    """The names that a page does not mention in backticks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [name for name in names if f"`{name}`" not in text and f"`{name}(" not in text]


def test_every_sampler_is_a_member_and_is_in_the_tour():
    assert {member.value for member in SamplingMethod} == set(SAMPLERS), "config/choices.py"
    assert missing("docs/tour.md", list(SAMPLERS)) == []
    (stated,) = re.findall(r"(\d+) samplers", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert int(stated) == len(list(SAMPLERS)), "the number of samplers at the top of README.md"


def test_every_schedule_is_in_its_list_of_the_tour_and_in_its_page():
    tour = (ROOT / "docs/tour.md").read_text(encoding="utf-8").split("\n## Schedules and grids")[1]
    listed = re.search(r"- with betas: (.*?);\n- without betas: (.*?)\.\n", tour, re.S)
    assert listed, "docs/tour.md: Schedules and grids has the lists 'with betas' and 'without betas'"
    names = [name for name in SCHEDULES if name != "custom"]  # it is "your own" there
    with_betas = {name for name in names if issubclass(SCHEDULES.get(name), BaseNoiseScheduler)}
    assert set(re.findall(r"`(\w+)`", listed[1])) == with_betas
    assert set(re.findall(r"`(\w+)`", listed[2])) == set(names) - with_betas
    assert missing("docs/paths-and-grids.md", names) == []


def test_every_guidance_is_in_its_page():
    public = {name: getattr(guidance, name) for name in guidance.__all__}
    kinds = [name for name, kind in public.items() if isinstance(kind, type) and issubclass(kind, guidance.Guidance)]
    kinds.remove("Guidance")
    assert missing("docs/guidance.md", kinds) == []


def test_the_rooms_of_the_design_page_are_the_layers_in_order():
    (listed,) = re.findall(r"^layers = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M | re.S)
    layers = re.findall(r'"(\w+)"', listed)
    rows = (ROOT / "docs/design.md").read_text(encoding="utf-8").split("## The rooms")[1].split("\n## ")[0]
    rooms = [line.split("`")[1] for line in rows.splitlines() if line.startswith("| `")]
    assert rooms == layers[::-1]
