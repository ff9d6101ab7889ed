"""The page of the command line, from the commands themselves."""

from __future__ import annotations

from typing import Any

from typer.main import get_command

from noise_scheduler_sampling_system.app.command_line import app

from .tables import cell, code, table


def pages() -> dict[str, str]:
    """The page of every command with its arguments and options."""
    lines = [
        "# Command line\n",
        "Everything that most people need is also a command: pictures, samples, comparisons, plans, checks. "
        "`noise-sampling COMMAND --help` prints what this page says.\n",
    ]
    command = get_command(app)
    lines.append(_contents(command))
    _describe(lines, "noise-sampling", command, 2)
    return {"reference/command-line.md": "\n".join(lines) + "\n"}


def _children(command: Any) -> list[tuple[str, Any]]:
    return sorted((name, sub) for name, sub in getattr(command, "commands", {}).items() if not sub.hidden)


def _contents(command: Any) -> str:
    rows = [[f"[`{name}`](#noise-sampling-{name})", cell(_first(sub))] for name, sub in _children(command)]
    return table(["command", "what it does"], rows)


def _first(command: Any) -> str:
    return (command.help or command.short_help or "").split("\n\n")[0]


def _describe(lines: list[str], name: str, command: Any, level: int) -> None:
    context = command.context_class(command, info_name=name)
    heading = f"{'#' * min(level, 4)} `{name}` {{ #{name.replace(' ', '-')} }}"
    text = (command.help or "").replace("\b\n", "").replace("\f", "")
    lines.extend([heading, "", text, "", "```text", command.get_usage(context), "```", ""])
    rows = [_record(parameter, context) for parameter in command.get_params(context)]
    if rows:
        lines.append(table(["argument or option", "meaning"], rows))
    for child, sub in _children(command):
        _describe(lines, f"{name} {child}", sub, level + 1)


def _record(parameter: Any, context: Any) -> list[str]:
    """The cells of an argument or option: how it is written, and what it means with its default."""
    name, meaning = parameter.get_help_record(context) or (parameter.name.upper(), getattr(parameter, "help", "") or "")
    return [code(name), cell(meaning)]
