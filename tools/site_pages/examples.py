"""The page of the examples: every program of examples/ with its code."""

from __future__ import annotations

import ast
import re

from .repository import ROOT
from .tables import table

_FOLDER = ROOT / "examples"
_LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".js": "javascript", ".go": "go", ".rs": "rust", ".yaml": "yaml"}


def pages() -> dict[str, str]:
    """The page, in the order of examples/README.md."""
    listed = re.findall(r"\]\((\S+)\)", (_FOLDER / "README.md").read_text(encoding="utf-8"))
    programs = [name for name in dict.fromkeys(listed) if name.endswith(".py")]
    lines = [
        "# Examples\n",
        "Whole programs, one for each task. Each runs by itself in seconds, on a CPU and without a download. A test "
        "runs each. In the repository: `python examples/basic_usage.py`.\n",
        table(
            ["example", "what it shows"], [[f"[{_title(name)}](#{_anchor(name)})", _first(name)] for name in programs]
        ),
    ]
    for name in programs:
        lines.append(f"\n## {_title(name)} {{ #{_anchor(name)} }}\n\n{_first(name)}\n\n{_listing(name)}")
        lines.extend(_listing(other) for other in _beside(name))
    return {"examples.md": "\n".join(lines)}


def _title(name: str) -> str:
    words = (name.split("/")[0] if "/" in name else name.removesuffix(".py")).replace("_", " ")
    return words[0].upper() + words[1:]


def _anchor(name: str) -> str:
    return re.sub(r"\W+", "-", name.removesuffix(".py"))


def _first(name: str) -> str:
    """The first paragraph of the program's docstring."""
    text = ast.get_docstring(ast.parse((_FOLDER / name).read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def _beside(name: str) -> list[str]:
    """The other files of an example that has a folder of its own."""
    if "/" not in name:
        return []
    files = sorted(path for path in (_FOLDER / name).parent.iterdir() if path.suffix in _LANGUAGES)
    return [path.relative_to(_FOLDER).as_posix() for path in files if path != _FOLDER / name]


def _listing(name: str) -> str:
    code = (_FOLDER / name).read_text(encoding="utf-8").rstrip()
    language = _LANGUAGES[(_FOLDER / name).suffix]
    return f'```{{ .{language} title="examples/{name}" }}\n{code}\n```\n'
