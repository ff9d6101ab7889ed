"""What the shell completes: names of samplers, schedules, spacings, presets and models."""

from __future__ import annotations

from collections.abc import Iterable

from ..config.registries import PRESETS, SAMPLERS, SCHEDULES, SPACINGS

__all__ = ["models", "presets", "samplers", "samplers_or_files", "schedules", "spacings"]


def samplers(incomplete: str) -> list[str]:
    """Samplers whose name begins so."""
    return _beginning(SAMPLERS, incomplete)


def samplers_or_files(incomplete: str) -> list[str]:
    """Samplers, and files and folders, whose name begins so."""
    from pathlib import Path

    folder = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    files = [f"{each}/" if each.is_dir() else str(each) for each in folder.iterdir()] if folder.is_dir() else []
    return [*_beginning(SAMPLERS, incomplete), *_beginning(files, incomplete)]


def schedules(incomplete: str) -> list[str]:
    """Noise schedules whose name begins so."""
    return _beginning(SCHEDULES, incomplete)


def spacings(incomplete: str) -> list[str]:
    """Spacings whose name begins so."""
    return _beginning(SPACINGS, incomplete)


def presets(incomplete: str) -> list[str]:
    """Presets whose name begins so."""
    return _beginning(PRESETS, incomplete)


def models(incomplete: str) -> list[str]:
    """Embedded models whose name begins so; the shell completes folders by itself."""
    return _beginning(("digits", "mnist"), incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
