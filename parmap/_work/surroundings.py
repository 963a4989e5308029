"""What a task sees besides its arguments, and what workers must be told when it changes in the parent."""

from __future__ import annotations

import os
import sys
from typing import Any

_LEVELS = "parmap levels"  # the name under which the root logger's cache keeps them


def surroundings() -> tuple[Any, ...]:
    """Working directory, module path, command line, levels of loggers, filters of warnings, key of `multiprocessing`.

    Asked for before each task: it is made of what is there, and not to be kept.
    """
    return _cwd(), sys.path, sys.argv, _levels(), _filters(), _authkey()


def kept(now: tuple[Any, ...]) -> tuple[Any, ...]:
    """A copy to compare with later ones."""
    cwd, path, argv, levels, filters, key = now
    return cwd, [*path], [*argv], levels, [*filters], key


def marshallable(now: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same as workers are told it."""
    cwd, path, argv, levels, filters, key = now
    return cwd, [entry for entry in path if type(entry) is str], argv, levels, _pickled(filters), bytes(key)


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return os.sep


def _levels() -> tuple[tuple[str, int], ...]:
    """The levels of this process's loggers, so that workers make no records that nobody wants; empty: no logging yet.

    `logging` empties the cache of the root logger whenever a level is set: as long as our entry is there, it holds.
    """
    logging = sys.modules.get("logging")
    root = getattr(logging, "root", None)
    if root is None:  # or just being imported
        return ()
    try:
        found: tuple[tuple[str, int], ...] = root._cache[_LEVELS]  # noqa: SLF001 - see above
    except (AttributeError, KeyError):
        pass
    else:
        return found
    manager = root.manager
    known = [(name, logger.level) for name, logger in list(manager.loggerDict.items()) if getattr(logger, "level", 0)]
    found = (("", root.level), ("off", manager.disable), *sorted(known))
    if hasattr(root, "_cache"):
        root._cache[_LEVELS] = found  # noqa: SLF001 - see above
    return found


def _filters() -> list[Any]:
    """The filters of this process's warnings, so that workers show, drop and raise the same ones."""
    found: list[Any] = getattr(sys.modules.get("warnings"), "filters", [])
    return found


def _pickled(filters: list[Any]) -> list[bytes]:
    """Each filter by itself: a category of the user's may be one that workers can't have."""
    import pickle

    found = []
    for each in filters:
        try:
            found.append(pickle.dumps(each))
        except Exception:  # noqa: BLE001, S112 - the user's class
            continue
    return found


def _authkey() -> bytes:
    """What processes of `multiprocessing` know each other by: a task that is given a manager's proxy needs it."""
    process = sys.modules.get("multiprocessing.process")
    current = getattr(process, "_current_process", None)  # set when the module is complete
    return b"" if current is None else current.authkey
