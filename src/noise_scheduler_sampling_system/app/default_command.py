"""A group of commands one of which needs no name: ``plan heun`` is ``plan show heun``."""

from __future__ import annotations

from typing import Any, final

from typer.core import TyperGroup

__all__ = ["ShowByDefault"]

_DEFAULT = "show"


@final
class ShowByDefault(TyperGroup):
    """Commands of which ``show`` is meant where the first word is not the name of one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = not args or args[0] in self.commands or args[0] in ctx.help_option_names
        parsed: list[str] = super().parse_args(ctx, args if named else [_DEFAULT, *args])
        return parsed
