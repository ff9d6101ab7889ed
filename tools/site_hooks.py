"""What the documentation site has beyond the files of docs/: pages made from the library, drawings, the playground.

mkdocs calls the functions ``on_...`` (see mkdocs.yml). The pages exist in the built site only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from site_pages import choice, drawings, links, pages

from noise_scheduler_sampling_system.playground import Choice, build

#: The folder of the static playground in the site.
_PLAYGROUND = "playground"


def _button(text: str, address: str, kind: str = " md-button--primary") -> str:
    return f'<a class="md-button{kind}" href="{address}">{text}</a>'


#: What stands below the title of a page.
_BUTTONS = {
    "index.md": f"{_button('Start in one minute', 'start.html')} {_button('Playground', 'playground/index.html', '')}",
    "playground.md": _button("Open the playground", f"{_PLAYGROUND}/index.html"),
}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """A page with its formulas and diagrams set aside, measured tables, and links as the site has them."""
    if buttons := _BUTTONS.get(page.file.src_uri):
        markdown = markdown.replace("\n", f"\n\n{buttons}\n", 1)
    markdown = links.named(choice.with_table(markdown).replace("](../CONTRIBUTING.md", "](extending.md"), config.nav)
    return drawings.set_aside(markdown)


def on_page_content(html: str, **_: Any) -> str:
    """The page's HTML with its formulas and diagrams drawn."""
    return drawings.drawn(html)


def on_post_build(config: Any) -> None:
    """Build the static playground into the site."""
    small = Choice(paths=("linear",), spacings=("kl_optimal",), samplers=("ddim", "dpmpp_2m"), most_steps=3, seeds=1)
    build(Path(config.site_dir) / _PLAYGROUND, small if config.extra["playground"] == "small" else None)
