"""The page as a folder that needs no server: open its index.html."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..config.settings import NoiseSchedulerConfig
from ..grids.time_grid import TimeGrid, make_grid
from ..samplers.factory import SamplerFactory
from ..schedules.factory import NoiseSchedulerFactory
from ..support.errors import ConfigurationError, FileError, NumericsError
from ..support.files import checked_path
from .bundle import bundle, web_file
from .catalog import catalog, digits_data, noise_data, path_entry
from .choice import Choice
from .plan_data import grid_data, kind_of, plan_data

__all__ = ["build", "data_script", "page_files"]

#: The file by which a folder is known as one that :func:`build` made.
_MARK: Final = "playground.js"


def build(
    folder: str | os.PathLike[str],
    choice: Choice | None = None,
    *,
    progress: Callable[[str, float], None] | None = None,
) -> int:
    """Write the page with its plans, whole or not at all; an earlier page in the folder is replaced.

    Args:
        folder: is made; what is in it must be an earlier page.
        choice: what the page offers; default: all that it can, about 12 MB, in one to two minutes.
        progress: is called with the name of each file and the share that is done.

    Returns:
        The number of bytes.

    Raises:
        ConfigurationError: an unknown name in the choice.
        FileError: the folder holds something else, or cannot be written.
    """
    target, chosen = checked_path(folder), choice or Choice()
    _refuse_other_content(target)
    temporary = target.resolve().with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        (temporary / "data").mkdir(parents=True)
        size = 0
        for name, text, share in _files(chosen):
            data = text.encode()
            (temporary / name).write_bytes(data)
            size += len(data)
            if progress is not None:
                progress(name, share)
        _put_in_place(temporary, target)
    except OSError as error:
        raise FileError(
            "cannot be written",
            where=str(target),
            why=error.strerror or str(error),
            suggestion="check that its folder is writable, and that the disk is not full",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return size


def page_files() -> dict[str, str]:
    """The files of the page that do not depend on the plans: HTML, style and script."""
    names = ("index.html", "page.css", "start.js")
    return {**{name: web_file(name) for name in names}, _MARK: bundle()}


def data_script(name: str, data: Any) -> str:
    """Data as a script, which a page that is opened from a file can load."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return f"(globalThis.playgroundData ??= {{}})[{json.dumps(name)}] = {text};\n"


def _files(choice: Choice) -> Iterator[tuple[str, str, float]]:
    """(name, text, share of the work done) of each file."""
    paths = {name: NoiseSchedulerFactory.create(name) for name in choice.paths}
    listed = catalog(
        [path_entry(name, path) for name, path in paths.items()], choice.spacings, choice.samplers,
        live=False, most_steps=choice.most_steps, seeds=choice.seeds,
        model={"name": "digits", "on_server": False, "classes": 10, "guided": True},
    )  # fmt: skip
    yield from ((name, text, 0.0) for name, text in page_files().items())
    yield "data/catalog.js", data_script("catalog", listed), 0.0
    yield "data/digits.js", data_script("digits", digits_data()), 0.0
    keys = [(step, 0) for step in range(choice.most_steps)]
    for seed in range(choice.seeds):
        yield f"data/noise-{seed}.js", data_script(f"noise-{seed}", noise_data(seed, keys)), 0.0
    total = len(choice.paths) * len(choice.spacings) * len(choice.samplers)
    done = 0
    for path, scheduler in paths.items():
        kind = kind_of(scheduler)
        for spacing in choice.spacings:
            grids = _grids(path, spacing, choice.most_steps)
            written = {n: grid_data(g) if isinstance(g, TimeGrid) else {"problem": g} for n, g in grids.items()}
            yield f"data/grid-{path}-{spacing}.js", data_script(f"grid-{path}-{spacing}", written), done / total
            for sampler in choice.samplers:
                name, done = f"plans-{path}-{spacing}-{sampler}", done + 1
                plans = _plans(path, spacing, sampler, kind, grids)
                yield f"data/{name}.js", data_script(name, plans), done / total


def _grids(path: str, spacing: str, most_steps: int) -> dict[str, TimeGrid | str]:
    """The grids of 1 to ``most_steps`` steps by their number; where there is none, the reason."""
    config = NoiseSchedulerConfig(beta_schedule=path, timestep_spacing=spacing)
    scheduler = NoiseSchedulerFactory.create(path, config)

    def made(steps: int) -> TimeGrid | str:
        try:
            return make_grid(scheduler, steps)
        except (ConfigurationError, NumericsError) as error:
            return str(error)

    return {str(steps): made(steps) for steps in range(1, most_steps + 1)}


def _plans(
    path: str, spacing: str, sampler: str, kind: str, grids: Mapping[str, TimeGrid | str]
) -> dict[str, dict[str, Any]]:
    """The plans of a sampler on grids; where there is none, the reason."""
    config = NoiseSchedulerConfig(beta_schedule=path, timestep_spacing=spacing)
    made = SamplerFactory.create(sampler, config)
    if not made.writes_plans:
        made.plan(1)  # raises, and says why
    found: dict[str, dict[str, Any]] = {}
    for steps, grid in grids.items():
        if isinstance(grid, str):
            found[steps] = {"problem": grid}
            continue
        try:
            plan = made.plan(grid=grid)
        except (ConfigurationError, NumericsError) as error:
            found[steps] = {"problem": str(error)}
            continue
        if plan.noise_key[:, 1].max(initial=0) > 0:
            raise ConfigurationError(
                f"{sampler} adds noise of stage {plan.noise_key[:, 1].max()}",
                where="choice.samplers",
                suggestion="leave it out: the page without a server has the noise of stage 0",
            )
        found[steps] = plan_data(plan, kind, grid)
    return found


def _refuse_other_content(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise FileError("is a file", where=str(target), suggestion="name a folder")
    if any(target.iterdir()) and not (target / _MARK).is_file():
        raise FileError(
            "is not empty, and holds no playground", where=str(target), suggestion="name a new or an empty folder"
        )


def _put_in_place(temporary: Path, target: Path) -> None:
    target.resolve().parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        os.replace(temporary, target)
        return
    old = temporary.with_suffix(".old")
    os.replace(target.resolve(), old)
    os.replace(temporary, target.resolve())
    shutil.rmtree(old, ignore_errors=True)
