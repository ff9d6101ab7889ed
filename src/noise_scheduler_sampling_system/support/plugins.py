"""Plug-ins: packages that register noise schedules, samplers, spacings, presets or backbones beside those of this one.

A package names its plug-ins by entry points of the group :data:`GROUP`. Each is a module that registers when it is
imported, or a function that registers when it is called. All are loaded once: when a name is looked up that is not
known, or when names are listed. Until then no plug-in is imported. docs/plugins.md shows how to write one.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import final

from .errors import ConfigurationError, cut

__all__ = [
    "GROUP",
    "VARIABLE",
    "Plugin",
    "installed_plugins",
    "load_plugins",
    "note",
    "owner_of",
    "taken",
    "why_missing",
]

logger = logging.getLogger(__name__)

#: The group of entry points.
GROUP = "noise_scheduler_sampling_system.plugins"
#: The environment variable with the names of the plug-ins to load, separated by commas. Unset: all. Empty: none.
VARIABLE = "NOISE_SAMPLING_PLUGINS"
_LIBRARY = GROUP.partition(".")[0]


@final
@dataclass(frozen=True)
class Plugin:
    """An installed plug-in.

    Attributes:
        name: the name of its entry point.
        package: the distribution that provides it, with its version.
        names: what it registered, as (kind, name): ("sampler", "mine").
        problem: why it could not be loaded; "" if it was. Then nothing that it registered is left.
    """

    name: str
    package: str
    names: tuple[tuple[str, str], ...] = ()
    problem: str = ""

    def __str__(self) -> str:
        return f"the plug-in {self.name!r} of the package {self.package}"


@final
@dataclass
class _Loading:
    """A plug-in while it is loaded: what it has registered so far, with the functions that undo it."""

    plugin: Plugin
    names: dict[tuple[str, str], Callable[[], None]] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def undo(self) -> None:
        for remove in reversed(self.names.values()):
            remove()


@final
class _Loader:
    """Loads all plug-ins once, in the thread that first needs them; the others wait."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._thread = threading.local()
        self._complete = False
        self._loaded: list[_Loading] = []
        self.failed: list[Plugin] = []
        #: Names that two plug-ins register. They stand for neither; the error says why.
        self.disputed: dict[tuple[str, str], str] = {}

    @property
    def current(self) -> _Loading | None:
        """The plug-in that this thread is loading."""
        return getattr(self._thread, "current", None)

    def load(self) -> None:
        if self._complete or self.current is not None:  # a plug-in that looks up a name sees what is there so far
            return
        with self._lock:
            if not self._complete:
                for entry in _entries():
                    self._load(entry)
                self._complete = True

    def _load(self, entry: EntryPoint) -> None:
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "of an unknown name"
        loading = self._thread.current = _Loading(Plugin(entry.name, package))
        try:
            _call(entry.load())
        except (Exception, SystemExit) as error:  # whatever it raises, the names of this library keep working
            loading.undo()
            reason = cut(error.what if isinstance(error, ConfigurationError) else f"{type(error).__name__}: {error}")
            failed = Plugin(entry.name, package, (*loading.names, *loading.refused), reason)
            self.failed.append(failed)
            logger.warning("%s could not be loaded and is left out: %s", failed, reason)
        except BaseException:
            loading.undo()
            raise
        else:
            self._loaded.append(loading)
        finally:
            self._thread.current = None

    def owner(self, kind: str, name: str) -> _Loading | None:
        """The plug-in that registered a name, or None."""
        return next((loading for loading in self._loaded if (kind, name) in loading.names), None)

    def collide(self, kind: str, name: str) -> None:
        """Take a name from the plug-in that has it, because the one that is being loaded registers it, too."""
        loading, owner = self.current, self.owner(kind, name)
        if loading is None:
            return
        loading.refused.append((kind, name))
        if owner is not None:
            owner.names.pop((kind, name))()
            self.disputed[kind, name] = f"both {owner.plugin} and {loading.plugin} register it"

    def installed(self) -> tuple[Plugin, ...]:
        self.load()
        good = [Plugin(each.plugin.name, each.plugin.package, tuple(each.names)) for each in self._loaded]
        return tuple(sorted([*good, *self.failed], key=lambda plugin: (plugin.name, plugin.package)))


def _entries() -> list[EntryPoint]:
    """The entry points to load, in order of their names."""
    try:
        found = list(entry_points(group=GROUP))
    except Exception as error:  # the metadata of some installed package is malformed
        logger.warning("the list of plug-ins could not be read: %s: %s", type(error).__name__, error)
        return []
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        wanted = {name.strip() for name in chosen.split(",")}
        found = [entry for entry in found if entry.name in wanted]
    return sorted(found, key=lambda entry: (entry.name, entry.value))


def _call(loaded: object) -> None:
    """Register: nothing more to do for a module, call a function."""
    if isinstance(loaded, ModuleType):
        return
    if isinstance(loaded, type) or not callable(loaded):
        raise ConfigurationError(
            f"its entry point leads to {loaded!r}, which is neither a module nor a function",
            where=GROUP,
            suggestion="name a module that registers when it is imported, or a function that registers",
        )
    loaded()


_LOADER = _Loader()


def load_plugins() -> None:
    """Load all plug-ins, if this was not done yet. A plug-in that cannot be loaded is named in a warning of the log."""
    _LOADER.load()


def installed_plugins() -> tuple[Plugin, ...]:
    """All plug-ins, loaded, with what each registered or why it could not be loaded."""
    return _LOADER.installed()


def note(kind: str, name: str, undo: Callable[[], None]) -> None:
    """Remember that a name was added to a table, and how to remove it, if a plug-in is being loaded in this thread."""
    if _LOADER.current is not None:
        _LOADER.current.names[kind, name] = undo


def owner_of(kind: str, name: str, entry: object) -> str:
    """Who registered a name, for messages: a plug-in with its package, this library, or a module."""
    owner = _LOADER.owner(kind, name)
    if owner is not None:
        return str(owner.plugin)
    module = str(getattr(entry, "__module__", _LIBRARY))
    return _LIBRARY if module.partition(".")[0] == _LIBRARY else f"the module {module}"


def taken(kind: str, name: str, by: object, owner: str) -> ConfigurationError:
    """The error for a name that stands for something else. A name of another plug-in then stands for neither."""
    _LOADER.collide(kind, name)
    what, suggestion = f"the name {name!r} is taken by {by!r} of {owner}", "register under another name"
    if _LOADER.current is not None:
        what = f"{what}, and {_LOADER.current.plugin} registers it, too"
        suggestion = f"uninstall one of the two, or set {VARIABLE} to the names of the plug-ins to load"
    return ConfigurationError(what, where=f"{kind} registry", suggestion=suggestion)


def why_missing(kind: str, name: str) -> str:
    """What plug-ins have to do with an unknown name: it is disputed, or some could not be loaded; "" if nothing."""
    if (kind, name) in _LOADER.disputed:
        return f"{_LOADER.disputed[kind, name]}; uninstall one of them, or set {VARIABLE} to the plug-ins to load"
    own = [each for each in _LOADER.failed if (kind, name) in each.names or each.name == name]
    return "; ".join(f"{each} could not be loaded: {each.problem}" for each in own or _LOADER.failed)
