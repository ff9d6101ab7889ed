"""The documentation site: it is built without a warning, reads nothing from elsewhere, and draws what its pages say."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import zlib
from html import unescape
from pathlib import Path
from types import FunctionType

import pytest
from site_pages import choice, pages, settings
from site_pages.docstrings import shown
from site_pages.drawings import drawn, mathml, set_aside
from site_pages.flowchart import parsed, svg
from site_pages.links import named
from site_pages.tables import section

import noise_scheduler_sampling_system as package
from noise_scheduler_sampling_system import NoiseSchedulerConfig
from noise_scheduler_sampling_system.config.registries import PRESETS, SAMPLERS, SCHEDULES, SPACINGS
from places import ROOT

#: What a browser loads by itself: scripts, styles, pictures, fonts, frames.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|audio|video|embed)\b[^>]*?\bsrc=[\"']?([^\"'\s>]+)"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|icon|preload|preconnect|prefetch|dns-prefetch))[^>]*?\bhref=[\"']?([^\"'\s>]+)"
    r"|url\([\"']?([^\"')]+)|@import\s+[\"']([^\"']+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it; a warning ends the build."""
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "DOCS_PLAYGROUND": "small"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def html_pages(site: Path) -> list[Path]:
    return [page for page in sorted(site.rglob("*.html")) if "playground" not in page.relative_to(site).parts]


def loaded(text: str) -> set[str]:
    """The addresses that a page or a style sheet makes a browser load."""
    return {unescape(next(filter(None, found))) for found in LOADED.findall(text)}


def test_what_a_browser_loads_is_found():
    page = """<script src="https://a/b.js"></script><link rel="stylesheet" href=//c/d.css><a href="https://e">e</a>
    <style>@import "https://f/g.css"; p { background: url(https://h/i.png) }</style><img alt="" src='j.png'>"""
    assert loaded(page) == {"https://a/b.js", "//c/d.css", "https://f/g.css", "https://h/i.png", "j.png"}


def test_nothing_is_loaded_from_elsewhere(site):
    for file in (*html_pages(site), *site.rglob("*.css")):
        remote = [address for address in loaded(file.read_text("utf-8")) if re.match(r"(?:https?:)?//", address)]
        assert not remote, f"{file.relative_to(site)} loads {remote}"


def test_the_playground_is_in_the_site_and_loads_nothing_from_elsewhere(site):
    page = (site / "playground.html").read_text("utf-8")
    assert 'href="playground/index.html"' in page
    files = [path for path in (site / "playground").rglob("*") if path.suffix in (".html", ".css", ".js")]
    assert files
    for file in files:
        text = file.read_text("utf-8")
        assert not [address for address in loaded(text) if re.match(r"(?:https?:)?//", address)], file
        assert not re.search(r"(?:fetch|import|Worker)\(\s*[\"'`]https?:", text), file


def test_a_link_to_a_page_has_the_name_of_the_page(site):
    assert named("see [a.md](sub/a.md#b), [my words](a.md), [x](y)", [{"T": [{"Page A": "sub/a.md"}]}]) == (
        "see [Page A](sub/a.md#b), [my words](a.md), [x](y)"
    )
    assert "</a>" in (home := (site / "index.html").read_text("utf-8"))
    assert not re.search(r">[\w/]+\.md</a>", home)


def test_every_link_and_file_of_the_site_is_there(site):
    anchors = {page: set(re.findall(r"\bid=[\"']?([^\"'\s>]+)", page.read_text("utf-8"))) for page in html_pages(site)}
    missing = []
    for page in html_pages(site):
        if page.name == "404.html":  # its links begin at the root of a server
            continue
        text = page.read_text("utf-8")
        for target in {*loaded(text), *map(unescape, re.findall(r"<a\b[^>]*?\bhref=\"([^\"]+)\"", text))}:
            path, _, anchor = target.partition("#")
            if re.match(r"\w+:", target) or target.startswith("//"):
                continue
            there = (page.parent / path.partition("?")[0]).resolve() if path else page
            if not there.is_file() or (anchor and there in anchors and anchor not in anchors[there]):
                missing.append(f"{page.relative_to(site)}: {target}")
    assert not missing


def test_every_public_class_and_function_is_in_the_reference(site):
    listed = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    known = {line.split(" ")[0] for line in listed.splitlines()}
    things = [
        getattr(module, name)
        for path in sorted(Path(package.__file__).parent.glob("*/__init__.py"))
        for module in [importlib.import_module(f"{package.__name__}.{path.parent.name}")]
        for name in getattr(module, "__all__", ())
    ]
    names = [f"{each.__module__}.{each.__qualname__}" for each in things if isinstance(each, type | FunctionType)]
    missing = [f"::: {name}" for name in names if name not in known]
    assert not missing, "add these lines to pages of docs/reference"


def test_no_markup_of_docstrings_is_left(site):
    for page in html_pages(site):
        words = re.sub(r"<(?:pre|script)\b.*?</(?:pre|script)>", "", page.read_text("utf-8"), flags=re.S)
        left = re.findall(r".{20}:(?:class|meth|func|mod|attr):.{20}|.{20}``.{20}", words)
        assert not left, f"{page.relative_to(site)}: {left[:3]}"


def test_the_search_index_is_a_script_and_holds_the_pages(site):
    text = (site / "search" / "search_index.js").read_text("utf-8")
    places = {entry["location"].partition("#")[0] for entry in json.loads(text.removeprefix("var __index = "))["docs"]}
    assert {page.relative_to(site).as_posix() for page in html_pages(site)} - {"404.html"} <= places | {""}


def test_every_formula_and_diagram_is_drawn(site):
    sources = {**{p.relative_to(ROOT / "docs").as_posix(): p.read_text("utf-8") for p in (ROOT / "docs").rglob("*.md")}}
    charts = {name: re.findall(r"^```mermaid\n(.*?)^```$", text, re.M | re.S) for name, text in sources.items()}
    assert any(charts.values())
    for name, text in sources.items():
        html = (site / name).with_suffix(".html").read_text("utf-8")
        words = set_aside(text).count("drawninlinex") + set_aside(text).count("drawndisplayx")
        assert html.count("<math ") == words, name
        assert html.count('<div class="flowchart">') == len(charts[name]), name
        assert 'class="mermaid"' not in html
        for chart in charts[name]:
            shown = [unescape(found) for found in re.findall(r"<text [^>]*>(.*?)</text>", html)]
            wanted = [line for label in re.findall(r'\["([^"]*)"\]', chart) for line in label.split("<br/>")]
            assert [line for line in wanted if line not in shown] == []
            assert html.count('class="arrow"') == 2 * chart.count("-->")


def test_generated_pages_are_complete():
    made = pages()
    for registry, page in ((SAMPLERS, "sampler"), (SCHEDULES, "schedule"), (SPACINGS, "spacing")):
        text = made[f"reference/{page}-options.md"]
        assert set(re.findall(r"^## `(\w+)`", text, re.M)) == set(registry)
        for name in registry:
            part = text.split(f"\n## `{name}`")[1].split("\n## ")[0]
            options = getattr(registry.get(name), "declared_options", {})
            assert [option for option in options if f"| `{option}` |" not in part] == [], name
            assert len(part.splitlines()[2]) >= 15, f"{name} says what it is"
            rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| `")]
            assert [row[0] for row in rows if len(row) < 4 or len(row[3]) < 5] == [], f"{name} says what its options do"
    assert {name for name in PRESETS if f"| `{name}` |" not in made["reference/presets.md"]} == set()


def test_every_field_has_type_default_range_and_meaning():
    rows = [line.split(" | ") for line in settings.pages()["reference/settings.md"].splitlines() if line[:3] == "| `"]
    assert [row[0].strip("| `") for row in rows] == list(NoiseSchedulerConfig.model_fields)
    for _, kind, default, allowed, meaning in rows:
        assert kind
        assert default or "none" in kind
        assert allowed or kind in ("true or false", "list of numbers, or none")
        assert len(meaning) > 15
    fields = json.loads(settings.pages()["config.schema.json"])["additionalProperties"]["properties"]
    assert {*NoiseSchedulerConfig.model_fields, "method", "sampler_options"} == set(fields)
    assert fields["beta_start"]["exclusiveMinimum"] == 0.0
    assert all(field["description"] for field in fields.values())


def test_the_measured_table_is_that_of_the_samplers_page():
    rows = [line.strip("| ").split(" | ") for line in choice.measured().splitlines()[2:]]
    page = (ROOT / "docs/samplers.md").read_text("utf-8")
    assert len(rows) > 25
    for name, order, _, *errors in rows:
        line = next(
            line
            for line in page.split("## Error at equal model calls")[1].splitlines()
            if line.startswith(f"| {name} ")
        )
        assert [cell.split()[0] for cell in line.strip("| ").split("|")[1:]] == errors
        assert float(order) > 0.5
    assert choice.PLACE in (ROOT / "docs/choose.md").read_text("utf-8")


def test_a_formula_in_code_is_left_alone():
    page = "a `$x$` and $\\alpha$\n\n```bash\necho $HOME $PATH\n```\n\n$$x = \\frac{1}{2}$$\n\ncosts 5$ or 6$\n"
    html = drawn(set_aside(page))
    assert "`$x$`" in html
    assert "echo $HOME $PATH" in html
    assert mathml(r"\alpha") in html
    assert '<div class="display"><math' in html
    assert "costs 5$ or 6$" in html


def test_a_flowchart_has_its_nodes_in_ranks_and_refuses_what_it_does_not_know():
    chart = parsed('flowchart LR\n a["first<br/>note"] --> b\n b --> c["last & <x>"]\n d --> c\n')
    assert chart.ranks() == [["a"], ["b", "d"], ["c"]]
    assert "last &amp; &lt;x&gt;" in svg('flowchart TB\n a --> c["last & <x>"]\n')
    for wrong in ("graph TD\n a --> b", "flowchart LR\n a -.-> b", "flowchart LR\n a --> b\n b --> a"):
        with pytest.raises(ValueError):
            svg(wrong)


def test_a_docstring_is_shown_with_a_row_for_each_name():
    assert (
        shown("""An :class:`~.a.Thing`.

Options:
    low, high: the ends
        of it.
    way: up.
Then.""")
        == """An `Thing`.

Keyword Args: Options:
    low: the ends
        of it.
    high: the ends
        of it.
    way: up.
Then."""
    )


def test_a_section_of_a_docstring_is_read_name_by_name():
    def documented() -> None:
        """First.

        Options:
            eta, tau: the amount
                of noise.
            order: of the method.

        Raises:
            ValueError: never.
        """

    assert section(documented, "Options") == {
        "eta": "the amount of noise.", "tau": "the amount of noise.", "order": "of the method.",
    }  # fmt: skip
