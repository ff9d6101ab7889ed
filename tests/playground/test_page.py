"""The page in a real browser, opened from its folder: every control, at the width of a desk and of a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from browser import chromium, watched
from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    SamplingPlan,
    models,
)
from noise_scheduler_sampling_system.playground import Choice, build
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys

CHOICE = Choice(
    paths=("linear", "flow"), spacings=("kl_optimal", "leading"), most_steps=20, seeds=2,
    samplers=("ddim", "ancestral", "heun", "dpmpp_2m", "unipc"),
)  # fmt: skip
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
#: Both panels have a solution, and no run is under way.
SETTLED = """() => [...document.querySelectorAll('.panel:not([hidden])')].every(panel =>
  panel.classList.contains('failed')
  || (!panel.hasAttribute('aria-busy') && /error [0-9.]/.test(panel.querySelector('.score').textContent)))"""
CURVES = (
    """() => document.querySelectorAll('.curve').length === 2 && document.querySelectorAll('.point').length === 22"""
)
#: Every control, with the name that a screen reader says; and every canvas and drawing.
NAMES = """() => [...document.querySelectorAll(
  'button, select, input, canvas, svg[role], [role=slider], [role=img], pre')]
  .filter(each => each.offsetParent !== null || each instanceof SVGElement)
  .map(each => [each.outerHTML.slice(0, 90), each.getAttribute('aria-label')
    || [...(each.labels ?? [])].map(label => label.textContent).join() || each.textContent.trim()])"""
#: What has the focus, and how that is seen.
FOCUS = """() => {
  const each = document.activeElement, ring = getComputedStyle(each), dot = each.querySelector('circle');
  const name = each === document.body ? null : each.id || each.getAttribute('aria-label') || each.textContent.trim();
  return [name, ring.outlineStyle !== 'none' || (dot !== null && getComputedStyle(dot).strokeWidth === '4px')];
}"""
#: The smallest contrast of a text with what is behind it, and the text.
CONTRAST = """() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const bright = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = rgb => rgb.slice(0, 3).reduce((sum, v, i) => sum + bright(v / 255) * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = each => {
    const found = numbers(getComputedStyle(each).backgroundColor);
    return found.length < 4 || found[3] > 0 ? found : each.parentElement ? paper(each.parentElement) : [255, 255, 255];
  };
  const written = each => [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  const texts = [...document.querySelectorAll('body *')].filter(each => each.offsetParent !== null && written(each));
  return texts.map(each => {
    const [one, two] = [light(numbers(getComputedStyle(each).color)), light(paper(each))].sort((a, b) => b - a);
    return [(one + 0.05) / (two + 0.05), each.textContent.trim().slice(0, 40)];
  }).sort((a, b) => a[0] - b[0])[0];
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page") / "playground"
    build(made, CHOICE)
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def open_page(browser: Any, folder: Path) -> Iterator[Any]:
    contexts, faults = [], []

    def opened(hash_: str = "", size: dict[str, int] = DESK, **more: Any) -> Any:
        context = browser.new_context(viewport=size, **more)
        contexts.append(context)
        page = context.new_page()
        faults.append(watched(page, folder.as_uri()))
        page.goto(f"{folder.as_uri()}/index.html{hash_}")
        page.wait_for_function(SETTLED)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [fault for each in faults for fault in each] == []


def score(page: Any, name: str = "a") -> str:
    return page.inner_text(f"#panel-{name} .score")


def error(page: Any, name: str = "a") -> float:
    return float(re.search(r"error ([\d.]+)", score(page, name))[1])


def settled(page: Any) -> Any:
    page.wait_for_timeout(30)
    page.wait_for_function(SETTLED)
    return page


def expected(sampler: str, steps: int, *, spacing: str = "kl_optimal", path: str = "linear", seed: int = 0) -> float:
    """The median error of the library's own run."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule=path, timestep_spacing=spacing), sampler)
    model, labels = models.DigitsModel(pipeline.scheduler), torch.arange(10)
    samples = pipeline.sample(
        model, (10, 1, 8, 8), steps, condition={"class_labels": labels}, guidance_scale=1.0, seed=seed,
        dtype=torch.float64,
    )  # fmt: skip
    noise = NoiseSource(resolve_keys(seed, None, 10), (1, 8, 8)).initial().double() * pipeline.scheduler.prior_std
    solution = model.reference_solution(noise, class_labels=labels)
    return float((samples - solution).flatten(1).square().mean(1).sqrt().median())


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_it_opens_from_its_folder_and_shows_the_errors_of_the_library(open_page, size):
    page = open_page(size=size)
    assert error(page, "a") == pytest.approx(expected("ddim", 12), rel=6e-3)
    assert error(page, "b") == pytest.approx(expected("dpmpp_2m", 12), rel=6e-3)
    assert score(page).startswith("NFE 12 ·")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], "no sideways scrolling"
    page.wait_for_function(CURVES)
    for each in page.query_selector_all("#panel-a canvas"):
        assert each.evaluate("c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size") > 10


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_every_control_changes_the_run(open_page, size):
    page = open_page(size=size)
    page.select_option("#a-sampler", "heun")
    page.fill("#a-steps", "5")
    assert score(settled(page)).startswith("NFE 9 ·")
    assert error(page) == pytest.approx(expected("heun", 5), rel=6e-3)
    page.select_option("#a-grid", "leading")
    assert error(settled(page)) == pytest.approx(expected("heun", 5, spacing="leading"), rel=6e-3)
    page.select_option("#a-path", "flow")
    assert error(settled(page)) == pytest.approx(expected("heun", 5, spacing="leading", path="flow"), rel=6e-3)
    page.fill("#seed", "1")
    assert error(settled(page)) == pytest.approx(expected("heun", 5, spacing="leading", path="flow", seed=1), rel=6e-3)
    before = error(page)
    page.select_option("#digits", "3")
    assert error(settled(page)) != before
    page.fill("#a-guidance", "4")
    assert "18 evaluations" in score(settled(page))
    page.select_option("#digits", "any")
    assert "evaluations" not in score(settled(page))
    page.select_option("#a-sampler", "ancestral")
    page.fill("#a-options-eta", "0.5")
    assert "adds noise" in settled(page).inner_text("#panel-a .result")
    page.select_option("#view", "one")
    assert page.is_hidden("#panel-b")
    page.select_option("#view", "two")
    assert page.is_visible("#panel-b")
    assert page.locator(".problem:visible, .alert:visible").count() == 0


def test_each_try_says_what_to_look_for(open_page):
    page = open_page()
    for button in page.query_selector_all("#tries button"):
        button.click()
        assert len(page.inner_text("#look")) > 60
        assert page.locator(".alert:visible").count() == 0, button.inner_text()
    settled(page)


def test_the_player_shows_the_run_call_by_call(open_page):
    page = open_page()

    def caption() -> str:
        return page.inner_text("#panel-b figcaption >> nth=0")

    assert caption() == "Samples after 12 model calls"
    last = error(page)
    page.click("#back")
    assert caption() == "Predicted clean samples after 11 of 12 model calls"
    assert "so far" in score(page)
    assert error(page) != last
    page.focus("#call")
    page.keyboard.press("Home")
    assert caption() == "Noise at the start after 0 of 12 model calls"
    page.select_option("#show", "state")
    page.click("#forward")
    assert caption() == "State x after 1 of 12 model calls"
    assert page.locator("#panel-a .heat-cell.now").count() == 2, "the row of the plan that was run"
    page.click("#play")
    assert page.inner_text("#play") == "Pause"
    page.wait_for_function("() => document.getElementById('play').textContent === 'Play'")
    assert caption() == "Samples after 12 model calls"
    assert error(page) == last


def test_a_level_is_dragged_and_moved_by_keys_and_the_error_follows(open_page):
    page = open_page()
    before, plan = error(page, "b"), page.inner_text("#panel-b .heat")
    level = page.locator("#panel-b .level.moves").nth(3)
    level.scroll_into_view_if_needed()
    box = level.locator("circle").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 25, box["y"] + 4, steps=4)
    page.mouse.up()
    dragged = error(settled(page), "b")
    assert dragged != before
    assert page.inner_text("#panel-b .heat") != plan
    assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"

    def place() -> float:
        return float(page.evaluate("document.activeElement.getAttribute('aria-valuenow')"))

    start = place()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowLeft")
    assert place() == pytest.approx(start - 0.6, abs=2e-3)
    assert error(settled(page), "b") != dragged
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Level 6 of 12"
    hash_ = page.evaluate("location.hash")
    again = open_page(hash_)
    assert error(again, "b") == error(page, "b")
    again.click("#panel-b >> text=Levels of the grid")
    assert error(settled(again), "b") == before
    again.select_option("#a-sampler", "unipc")
    assert settled(again).locator("#panel-a .level.moves").count() == 0
    assert "can be moved here" in again.inner_text("#panel-a")


def copied(page: Any, name: str, kind: str) -> str:
    page.select_option(f"#{name}-format", kind)
    page.click(f"#panel-{name} >> role=button[name='Copy setting {name.upper()}']")
    page.wait_for_selector(f"#panel-{name} .copy [role=status]:has-text('copied')")
    return page.evaluate("navigator.clipboard.readText()")


def test_what_is_copied_runs_in_the_library(open_page, tmp_path):
    page = open_page("#b.steps=6&b.levels=-10_-3_-1_0.5_2_6", permissions=["clipboard-read", "clipboard-write"])
    for name in ("a", "b"):
        shown: dict[str, Any] = {}
        exec(copied(page, name, "python"), shown)
        model, x = (
            models.DigitsModel(shown["pipeline"].scheduler),
            NoiseSource(resolve_keys(0, None, 10), (1, 8, 8)).initial(),
        )
        solution = model.reference_solution(
            x.double() * shown["pipeline"].scheduler.prior_std, class_labels=torch.arange(10)
        )
        found = (shown["samples"].double() - solution).flatten(1).square().mean(1).sqrt().median().item()
        assert error(page, name) == pytest.approx(found, rel=6e-3)
    as_yaml = yaml.safe_load(copied(page, "b", "yaml"))
    (tmp_path / "b.yaml").write_text(copied(page, "b", "yaml"))
    (tmp_path / "b.json").write_text(copied(page, "b", "json"))
    for file in ("b.yaml", "b.json"):
        pipeline = AdvancedDiffusionSystem(tmp_path / file).get_pipeline("pipeline")
        assert (pipeline.method, pipeline.config.timestep_spacing) == ("dpmpp_2m", "kl_optimal")
        assert pipeline.sampler_options["guarded"] is False
    assert as_yaml["pipeline"]["sampler_options"] == {"guarded": False}
    plan = SamplingPlan.from_dict(yaml.safe_load(copied(page, "a", "plan")))
    own = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="kl_optimal"), "ddim").plan(12)
    for column in ("time", "alpha", "sigma", "a", "b"):
        np.testing.assert_allclose(getattr(plan, column), getattr(own, column), rtol=1e-9, atol=1e-12)


def test_bad_input_is_told_beside_its_control_and_the_last_run_stays(open_page):
    page = open_page("#digits=4")
    before = score(page)
    for name, bad, told in (
        ("a-steps", "0", "Steps is a whole number from 1 to 20."), ("a-steps", "2.5", "whole number"),
        ("a-steps", "", "whole number"),
        ("a-steps", "21", "to 20"), ("a-guidance", "-1", "Guidance is a number from 0 to 100"),
        ("a-guidance", "", "number"),
        ("seed", "2", "The seed is a whole number from 0 to 1."), ("a-options-eta", "-3", "Eta is a number"),
    ):  # fmt: skip
        good = page.input_value(f"#{name}")
        page.fill(f"#{name}", bad)
        assert told in page.inner_text(f"#{name}-problem")
        assert page.get_attribute(f"#{name}", "aria-invalid") == "true"
        assert score(page) == before
        page.fill(f"#{name}", good)
        assert page.is_hidden(f"#{name}-problem")
    assert score(settled(page)) == before


@pytest.mark.parametrize(
    ("hash_", "told"),
    [
        ("#a.sampler=dpmp_2m", "sampler “dpmp_2m” is unknown here; the nearest names are dpmpp_2m"),
        ("#a.steps=0&seed=-1", "a.steps: steps is a whole number from 1 to 20"),
        ("#a.steps=NaN", "a.steps: steps is a whole number"),
        ("#a.guidance=NaN", "a.guidance: guidance is a number"),
        ("#b.path=<script>alert(1)</script>", "noise path “<script>alert(1)</script>” is unknown"),
        ("#a.steps=8&a.levels=1_2_x_4_5_6_7_8", "rising numbers"),
        ("#a.levels=1_2", "2 levels for 12 steps"),
        ("#a.steps=8&a.levels=-9_-8_-7_-6_-5_-4_-3_400", "rising numbers"),
        ("#a.option.nothing=3", "a.option.nothing: this option cannot be set here"),
        ("#digits=11", "class “11” is unknown"),
        ("#%E0%A4%A&&&==&x=%", "this page has no such setting"),
        ("#view=three&show=all", "view: give one or two"),
    ],
)
def test_an_address_that_is_wrong_is_told_and_the_rest_is_used(open_page, hash_, told):
    page = open_page(hash_ if "digits=" in hash_ else f"{hash_}&digits=4")  # one digit takes a tenth of the time
    assert page.input_value("#digits") == ("each" if "digits=" in hash_ else "4")
    assert told in page.inner_text("#problems")
    assert score(page).startswith("NFE ")


def test_the_address_holds_every_setting(open_page):
    panel = "a.path=flow&a.grid=leading&a.sampler=ancestral&a.steps=7&a.guidance=2&a.option.eta=0.5"
    hash_ = f"#digits=4&seed=1&show=state&{panel}"
    page = open_page(hash_)
    assert page.is_hidden("#problems")
    values = {
        name: page.input_value(f"#{name}") for name in ("digits", "seed", "show", "a-path", "a-grid", "a-sampler")
    }
    assert values == {
        "digits": "4",
        "seed": "1",
        "show": "state",
        "a-path": "flow",
        "a-grid": "leading",
        "a-sampler": "ancestral",
    }
    assert page.input_value("#a-options-eta") == "0.5"
    before = score(page)
    page.fill("#a-guidance", "3")
    assert score(settled(page)) != before
    page.fill("#a-guidance", "2")
    assert score(settled(page)) == before
    assert sorted(page.evaluate("location.hash")[1:].split("&")) == sorted([*hash_[1:].split("&")])
    page.evaluate("location.hash = '#a.steps=3'")
    settled(page)
    assert (page.input_value("#a-steps"), page.input_value("#a-sampler")) == ("3", "ddim")


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_every_control_has_a_name_and_is_reached_by_keys(open_page, size):
    page = open_page(size=size)
    assert [markup for markup, name in page.evaluate(NAMES) if not name.strip()] == []
    seen: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name, visible = page.evaluate(FOCUS)
        if name is None:  # after the last
            break
        seen.append(name)
        assert visible, f"the focus on {name} is not visible"
    shared = {"digits", "seed", "show", "view", "play", "back", "forward", "call"}
    each = {"a-sampler", "a-steps", "a-grid", "a-path", "a-guidance", "b-sampler", "a-format"}
    assert {*shared, *each, "Level 2 of 12", "Copy setting A", "Every number of the plan", "link"} <= set(seen)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids))
    assert page.get_attribute("#panel-a .score", "aria-live") == "polite"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_in_light_and_dark(open_page, scheme):
    page = open_page(color_scheme=scheme, reduced_motion="reduce")
    worst = page.evaluate(CONTRAST)
    assert worst[0] >= 4.5, worst
    assert page.evaluate("[...document.getAnimations()].length") == 0


def test_a_folder_without_its_data_says_so(browser, folder, tmp_path):
    for name in ("index.html", "page.css", "playground.js", "start.js"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector("#problems:visible")
    assert "data/catalog.js cannot be loaded: is the folder complete?" in page.inner_text("#problems")
    page.close()
