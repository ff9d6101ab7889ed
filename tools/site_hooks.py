"""Pages that the documentation site makes from other sources: its start from README.md, and more.

mkdocs calls ``on_files`` (see mkdocs.yml); the pages exist in the built site only.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files
from typer.main import get_command

from noise_scheduler_sampling_system import NoiseSchedulerConfig
from noise_scheduler_sampling_system.app.command_line import app

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {
        "index.md": _moved((ROOT / "README.md").read_text()),
        "extending.md": _moved((ROOT / "CONTRIBUTING.md").read_text()),
        "reference/command-line.md": _command_line(),
        "config.schema.json": json.dumps(NoiseSchedulerConfig.model_json_schema(), indent=2) + "\n",
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page of docs/, with its links to CONTRIBUTING.md as the site has that page."""
    return markdown.replace("](../CONTRIBUTING.md", "](extending.md")


def _moved(text: str) -> str:
    """A page of the repository's root with links as they are from docs/."""
    text = text.replace("](docs/", "](").replace("(CONTRIBUTING.md", "(extending.md").replace("(README.md", "(index.md")
    return re.sub(r"\]\((LICENSE|CHANGELOG\.md|(?:benchmarks|examples|src|tests)/[^)]*)\)", "]", text)


def _command_line() -> str:
    """Every command with its arguments and options."""
    lines = ["# Command line", "", "`noise-sampling COMMAND --help` prints the same."]

    def describe(name: str, command: Any) -> None:
        context = click.Context(command, info_name=name)
        lines.extend(["", f"## `{name}`", "", command.help or "", "", "```text", command.get_usage(context), "```", ""])
        rows = [record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))]
        if rows:
            lines.extend(["| option | meaning |", "| ------ | ------- |"])
            lines.extend(f"| `{option}` | {meaning.replace('|', '/')} |" for option, meaning in rows)
        for child, sub in sorted(getattr(command, "commands", {}).items()):
            describe(f"{name} {child}", sub)

    describe("noise-sampling", get_command(app))
    return "\n".join(lines) + "\n"


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Remove the one script that the theme would load from elsewhere: it only serves browsers without workers."""
    return re.sub(r'<script src="https://unpkg\.com/[^>]*></script>', "", output)
