"""The command ``doctor``: versions, devices, optional packages, and self-checks."""

from __future__ import annotations

import platform

import typer

from ...support.version import __version__
from ..exit_codes import ExitCode
from ..options import Device
from ..output import Json, Output, Quiet, complain

__all__ = ["doctor"]


def doctor(device: Device = "auto", as_json: Json = False, quiet: Quiet = False) -> None:
    """Say what is installed, which devices there are, and whether runs here are right: errors with their limits.

    The exit code is 5 if a check fails.
    """
    from ..health import checks, devices, versions

    output = Output(as_json, quiet)
    packages, found = versions(), devices()
    output.say(
        f"noise-scheduler-sampling-system {__version__}, Python {platform.python_version()}, {platform.system()}"
    )
    rows = [("package", "version", "needed for")]
    for name, (version, extra) in packages.items():
        missing = f"not installed: pip install 'noise-scheduler-sampling-system[{extra}]'" if extra else "not installed"
        rows.append((name, version or "-", extra or "everything") if version else (name, "-", missing))
    output.table(rows, folds=(2,))
    output.say("")
    rows = [("device", "what it is", "memory")]
    rows += [(d["device"], d["name"], f"{d['memory_gib']} GiB" if d["memory_gib"] else "") for d in found]
    output.table(rows, folds=(1,))
    output.say("")
    results = list(checks(device))
    table = [("self-check", "error", "limit", "result")]
    table += [(c.name, f"{c.measured:.2g}", f"{c.limit:.2g}", "ok" if c.passed else "FAILED") for c in results]
    output.table(table, numbers=(1, 2), folds=(0,))
    output.result({
        "version": __version__, "python": platform.python_version(), "system": platform.platform(),
        "packages": {name: version for name, (version, _) in packages.items()}, "devices": found,
        "checks": [
            {"name": c.name, "error": c.measured, "limit": c.limit, "passed": c.passed, "problem": c.problem}
            for c in results
        ],
    })  # fmt: skip
    failed = [check for check in results if not check.passed]
    for check in failed:
        complain(f"{check.name}: {check.problem or f'{check.measured:.3g} is above {check.limit:.3g}'}", "self-check")
    if failed:
        raise typer.Exit(ExitCode.MODEL)
