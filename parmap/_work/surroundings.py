"""The context of a call, taken when it is made: working directory, environment, `sys.path`, filters, log levels.

A context is a snapshot that never changes. As long as nothing changes in the program, all calls have the same one, so
that whoever must know whether a worker has been told compares two objects by identity.
"""

from __future__ import annotations

import _socket
import logging
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from parmap._travel.failure import pass_on
from parmap._travel.payload import dump_plainly, dump_whole
from parmap._work.settings import libraries
from parmap._work.settings.arithmetic import float_errors, told, told_errors, traits
from parmap._work.threads import HAS_GIL
from parmap.errors import PoolClosedError

_LEVELS = "parmap levels"  # the name under which the root logger's cache keeps them
_LONGEST = 4097  # bytes of a path
_LATEST = 8  # contexts that are remembered: threads may differ in theirs, or a program go back to an earlier one

_modules, _recursion, _digits = sys.modules, sys.getrecursionlimit, sys.get_int_max_str_digits
_timeout = _socket.getdefaulttimeout


class Context:
    """Where a task is: `told` names all that belongs to it, in a form that can be sent."""

    def __init__(self, before: Context | None) -> None:
        """Take it. What is as in the context *before* is shared with it."""
        self.cwd: bytes | None = _cwd()
        # The variables as the system has them, which are quicker to compare; or whatever the program put there.
        self.environ: dict[Any, Any] = dict(getattr(os.environ, "_data", os.environ))
        self.authkey: bytes = _authkey()
        handled = bool(logging.root.handlers)
        self._plain = (
            *(_recursion(), _digits(), _timeout(), [*sys.path], [*sys.argv], [*_filters()], _recorder()),
            *(_levels(), handled),
        )
        recursion, digits, timeout, path, argv, filters, recorder, levels, _ = self._plain
        self.filters: list[Any] = filters
        self.recorder: int = recorder
        self._decimal = decimal = _decimal()  # it must live as long as its traits
        self.decimal: tuple[Any, ...] | None = None if decimal is None else traits(decimal)
        self._errors = float_errors()
        self._libraries = libraries.State()
        self.told: dict[str, Any] = {
            "cwd": os.fsdecode(self.cwd or os.sep),
            "path": _strings(path),
            "argv": _strings(argv),
            "environ": {os.fsdecode(name): os.fsdecode(value) for name, value in self.environ.items()},
            "filters": before.told["filters"] if before and before.filters == filters else _pickled(filters),
            "recorder": self.recorder,
            "levels": (handled, *levels),
            "authkey": bytes(self.authkey),
            "recursion": recursion,
            "digits": digits,
            "timeout": timeout,
            "decimal": None if decimal is None else told(decimal),
            "errors": told_errors(),
            "libraries": before.told["libraries"]
            if before and before._libraries.holds(thoroughly=True)  # noqa: SLF001 - another of this class
            else libraries.tell(),
        }

    def holds(self, *, thoroughly: bool = False) -> bool:
        """Whether all is still as it was. Asked for each task of `submit`: it must take little time."""
        process, decimal = _modules.get("multiprocessing.process"), _modules.get("decimal")
        return (
            self._plain
            == (
                _recursion(),
                _digits(),
                _timeout(),
                sys.path,
                sys.argv,
                _filters(),
                _recorder(),
                logging.root._cache.get(_LEVELS),  # type: ignore[attr-defined]  # noqa: SLF001
                bool(logging.root.handlers),
            )
            and self.environ == getattr(os.environ, "_data", os.environ)
            and (process is None or self.authkey == _authkey())
            and (decimal is None or self.decimal == traits(decimal.getcontext()))
            and ("numpy" not in _modules or self._errors == float_errors())
            and (
                (self._libraries.modules == len(_modules) and not thoroughly)
                or self._libraries.holds(thoroughly=thoroughly)
            )
            and self.cwd == _cwd()
        )

    def since(self, before: Context | None) -> dict[str, Any]:
        """What is not as in the context *before*, by name, in a form that can be sent."""
        if before is None:
            return self.told.copy()
        return {name: value for name, value in self.told.items() if value != before.told[name]}


_latest: list[Context] = []
_known: list[Context | None] = [None]  # the one that was returned last


def current(*, thoroughly: bool = False) -> Context:
    """The context of a call that is made now; the same object as before if nothing has changed.

    *thoroughly*: what takes longer to find out is looked at as well, as is worthwhile for a batch.

    Raises:
        PoolClosedError: the interpreter is shutting down.
    """
    known = _known[0]
    try:
        if known is not None and known.holds(thoroughly=thoroughly):
            return known
    except AttributeError:  # a module is just being imported
        pass
    if sys.is_finalizing():  # from a __del__: the interpreter has taken its modules apart
        raise PoolClosedError("nothing can be started any more: the interpreter is shutting down")
    _levels()  # what it found is asked for below
    for earlier in _latest[:]:
        try:
            if earlier.holds(thoroughly=True):
                _known[0] = earlier
                return earlier
        except AttributeError:
            pass
    _known[0] = context = Context(known)
    _latest.append(context)
    del _latest[:-_LATEST]
    return context


def _without_a_pause() -> Callable[[], bytes | None]:
    """A function that returns the working directory, and keeps the interpreter to itself meanwhile.

    `os.getcwd` lets other threads run: in a loop of `submit` the engine's would, each time, and find a single task.
    """
    try:
        import ctypes

        ask = ctypes.PyDLL(None)["getcwd"]
        buffer, size = ctypes.create_string_buffer(_LONGEST), ctypes.c_size_t(_LONGEST)
    except (ImportError, OSError, AttributeError, TypeError):  # not everywhere is there such a thing
        return _with_a_pause
    ask.restype = ctypes.c_char_p
    return partial(ask, buffer, size)


def _with_a_pause() -> bytes | None:
    try:
        return os.getcwdb()
    except OSError:  # it was removed
        return None


_cwd = _without_a_pause() if HAS_GIL and os.name == "posix" else _with_a_pause


def _levels() -> tuple[int, tuple[tuple[str, int], ...]]:
    """The level that is off for all of this process's loggers, and that of each: workers make no records in vain.

    `logging` empties the cache of the root logger whenever a level is set: as long as our entry is there, it holds.
    """
    root = logging.root
    cache: dict[Any, Any] = getattr(root, "_cache", {})
    if _LEVELS in cache:
        found: tuple[int, tuple[tuple[str, int], ...]] = cache[_LEVELS]
        return found
    manager = root.manager
    named = [(str.__str__(name), int(getattr(each, "level", 0))) for name, each in list(manager.loggerDict.items())]
    named.sort()  # plain names and numbers, which travel: the program may have used an enum
    found = cache[_LEVELS] = int(manager.disable), (("", int(root.level)), *(pair for pair in named if pair[1]))
    return found


def _authkey() -> bytes:
    """What processes of `multiprocessing` know each other by: a task that is given a manager's proxy needs it."""
    process = getattr(_modules.get("multiprocessing.process"), "_current_process", None)
    return b"" if process is None else process.authkey


def _decimal() -> Any:
    """What this thread calculates with, if it does; a copy, to be kept."""
    decimal = _modules.get("decimal")
    return decimal.getcontext().copy() if hasattr(decimal, "getcontext") else None  # type: ignore[union-attr]


def _strings(entries: list[Any]) -> list[str]:
    """The strings of a list, which may be of a class of their own."""
    return [str.__str__(entry) for entry in entries if isinstance(entry, str)]


recorders: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""Who records warnings, by number, where that is a matter of each context of `contextvars`."""


def _recorder_here() -> int:
    here = _warnings._get_context()  # noqa: SLF001 - there is no public way
    if here.log is None:
        return 0
    recorders[id(here)] = here
    return id(here)


# On builds without the GIL, or with an option of the interpreter's, filters are a matter of each context, too.
_warnings: Any = warnings
_of_contexts = bool(getattr(sys.flags, "context_aware_warnings", False))
_filters: Callable[[], list[Any]] = _warnings._get_filters if _of_contexts else partial(getattr, warnings, "filters")  # noqa: SLF001 - as above
_recorder: Callable[[], int] = _recorder_here if _of_contexts else int


@contextmanager
def warning_as(context: Context | None) -> Generator[None]:
    """Let this thread warn of what the one warns of that made a call, in that *context*, and record it there."""
    if not _of_contexts or context is None or (context.filters, context.recorder) == (_filters(), _recorder()):
        yield
        return
    with warnings.catch_warnings():
        here = _warnings._get_context()  # noqa: SLF001 - as above
        here._filters[:] = context.filters  # noqa: SLF001 - as above
        here.log = getattr(recorders.get(context.recorder), "log", None)
        yield


def _pickled(filters: list[Any]) -> list[bytes]:
    """Each filter by itself: a category of the user's may be one that can't travel."""
    found = []
    for each in filters:
        try:
            # A filter may be for `__main__`, which is no reason for cloudpickle; that its category is of there, is one.
            found.append(dump_whole(each) if dump_plainly(each[2]) is None else pickle.dumps(each))
        except Exception as error:  # noqa: BLE001 - the user's class
            pass_on(error)
            continue
    return found
