"""The public names of the library, for tests that look at each of them."""

from __future__ import annotations

import pkgutil
from typing import Any

import noise_scheduler_sampling_system as library

PACKAGES = sorted(found.name for found in pkgutil.iter_modules(library.__path__) if found.ispkg)
PACKAGES_WITH_NAMES = [name for name in PACKAGES if name != "app"]  # which is run, not imported


def public_names() -> dict[str, Any]:
    """The public things of all subpackages by name."""
    packages = [getattr(library, name) for name in PACKAGES_WITH_NAMES]
    return {name: getattr(package, name) for package in packages for name in package.__all__}
