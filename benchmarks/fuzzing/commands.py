"""Command lines: words of valid commands, left out, doubled, replaced and swapped, beside changed files."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, final

import torch
from typer.testing import CliRunner

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.app import command_line
from noise_scheduler_sampling_system.app.exit_codes import ExitCode

from .case import Case, Kind, RefusedInputError

__all__ = ["CommandKind", "network"]

#: Exit codes of a refusal; OTHER is that of an error of another library.
_REFUSED: Final = frozenset(ExitCode) - {ExitCode.DONE, ExitCode.OTHER, ExitCode.INTERRUPTED}
_COMMANDS: Final = (
    "sample --out out.safetensors --model fuzzing.commands:network --shape 2,1,2,2 --steps 3 --seed 1 --method ddim",
    "sample --out out.npz --model fuzzing.commands:network --shape 2,1,2,2 --config system.yaml --pipeline first_ddim",
    "sample --out out.png --model fuzzing.commands:network --shape 2,1,2,2 --plan plan.json --seed 4",
    "plan show ddim --steps 4 --spacing karras --schedule cosine --option eta=1.0",
    "plan show plan.json --all", "plan diff ddim plan.json --steps 4",
    "plan export ddim --out out.json --steps 4 --option eta=0.5", "plan export ddim --out out.json --nfe 2,3",
    "plan export heun --out out.csv --steps 3 --schedule-option shift=3 --schedule flow",
    "config check system.yaml --steps 3", "config new out.yaml --name main", "config convert system.yaml out.json",
    "config schema --out out.json", "samplers", "schedules", "spacings", "presets",
    "generate --output set --model fuzzing.commands:network --shape 1,2,2 --num-samples 4 --batch-size 2 --steps 2",
    "generate --output set --verify", "recommend --model fuzzing.commands:network --shape 1,2,2 --nfe 4 --count 2",
)  # fmt: skip
_WORDS: Final = (
    "", " ", "-", "--", "-1", "0", "1", "1e9", "1e999", "nan", "inf", "9" * 400, "x" * 5000, "1,2,3", ",", "1,,2",
    "2,-1", "0..9", "9..0", "..", "0..999999999999", "a=b", "=", "a==b", "eta=nan", "eta=", "eta=[1", "eta={a: *b}",
    "\u00e9\u4e2d", "\udcff", "a\nb", "%s", "{}", "[red]", "[/]", "${HOME}", "system.yaml", "broken.yaml", "plan.json",
    "missing.json", "folder", "missing/out.json", "out.png", "out.exe", "/dev/null/x", "None", "True", "--help",
    "--steps", "--out", "--seed", "--plan", "--option", "--schedule", "karras", "flow", "v_prediction", "heun",
    "digits", "os:system", "fuzzing.commands:missing", "fuzzing:", ":", "fuzzing.commands:_COMMANDS", "json:loads",
    "1000000000000", "2147483648", "18446744073709551616", "-v",
)  # fmt: skip


def network(x: torch.Tensor, t: Any) -> torch.Tensor:
    """The network of the commands."""
    return 0.5 * x


@final
class CommandKind(Kind):
    """Command lines, run in this process."""

    name = "command"

    def __init__(self) -> None:
        self._plan = DiffusionPipeline(NoiseSchedulerConfig(), "ddim").plan(2)

    def valid(self) -> list[Case]:
        return [self._case(each.split()) for each in _COMMANDS if "--verify" not in each]

    def drawn(self, draw: random.Random) -> Case:
        words = draw.choice(_COMMANDS).split()
        for _ in range(draw.choice([1, 1, 2, 3])):
            at, how = draw.randrange(len(words)), draw.random()
            values = [
                k for k in range(1, len(words)) if words[k - 1].startswith("--") and not words[k].startswith("--")
            ]
            if values and how < 0.5:
                words[draw.choice(values)] = draw.choice(_WORDS)
                continue
            how = draw.random()
            if how < 0.15 and len(words) > 1:
                del words[at]
            elif how < 0.25:
                words.insert(at, words[at])
            elif how < 0.35:
                other = draw.randrange(len(words))
                words[at], words[other] = words[other], words[at]
            elif how < 0.5:
                words.insert(draw.randrange(1, len(words) + 1), draw.choice(_WORDS))
            else:
                words[draw.randrange(min(1, len(words) - 1), len(words))] = draw.choice(_WORDS)
        return self._case(words)

    def _case(self, words: Sequence[str]) -> Case:
        def use(folder: Path) -> None:
            self._plan.save(folder / "plan.json")
            (folder / "system.yaml").write_text("first_ddim: {beta_schedule: cosine}\nsecond_heun: {}\n")
            (folder / "broken.yaml").write_text("a: [1\n")
            (folder / "folder").mkdir()
            result = CliRunner().invoke(command_line.app, list(words))
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                raise result.exception
            if result.exit_code in _REFUSED:
                raise RefusedInputError(f"exit code {int(result.exit_code)}", result.output[-1000:])
            assert result.exit_code == ExitCode.DONE, f"exit code {result.exit_code}: {result.output[-2000:]}"

        return Case({"words.txt": repr(list(words)).encode()}, use, seconds=10.0)
