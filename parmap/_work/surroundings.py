"""What a task sees besides its arguments: the context of a call, taken when the call is made.

A context is a snapshot that never changes. As long as nothing changes in the program, all calls have the same one, so
that whoever must know whether a worker has been told compares two objects by identity.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIELDS = ("cwd", "path", "argv", "environ", "filters", "levels", "authkey", "recursion", "digits", "decimal")
_LEVELS = "parmap levels"  # the name under which the root logger's cache keeps them
_LATEST = 8  # contexts that are remembered: threads may differ in theirs, or a program go back to an earlier one

_numbers = attrgetter("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
_getcwd, _recursion = os.getcwd, sys.getrecursionlimit
_digits = getattr(sys, "get_int_max_str_digits", lambda: 0)  # not in the first releases of 3.11


class Context:
    """Where a task is: working directory, module path, command line, environment, and what else `_FIELDS` names."""

    __slots__ = ("_arithmetic", "now", "told")

    def __init__(self, now: tuple[Any, ...], before: Context | None) -> None:
        """*now*: what `current` found. What is as in the context *before* is shared with it."""
        self.told: tuple[Any, ...] = tuple(
            before.told[place] if before is not None and before.now[place] == value else tell(value)
            for place, (tell, value) in enumerate(zip(_TELL, now, strict=True))
        )
        # The mapping of traps belongs to its context: it changes with it, and must not outlive it.
        self._arithmetic = None if self.decimal is None else made(self.decimal)
        kept = None if self._arithmetic is None else _traits(self._arithmetic)
        self.now: tuple[Any, ...] = (*(keep(value) for keep, value in zip(_KEEP, now[:-1], strict=True)), kept)

    @property
    def environ(self) -> dict[str, str]:
        """The variables of the environment."""
        found: dict[str, str] = self.told[_FIELDS.index("environ")]
        return found

    @property
    def decimal(self) -> tuple[Any, ...] | None:
        """What `arithmetic` takes."""
        found: tuple[Any, ...] | None = self.told[_FIELDS.index("decimal")]
        return found

    def since(self, before: Context | None) -> dict[str, Any]:
        """What is not as in the context *before*, by name, in a form that can be sent."""
        if before is None:
            return dict(zip(_FIELDS, self.told, strict=True))
        both = zip(_FIELDS, self.told, before.told, strict=True)
        return {name: value for name, value, other in both if value is not other and value != other}


_latest: deque[Context] = deque(maxlen=_LATEST)
_known: list[Context | None] = [None]  # the last that was returned


def current() -> Context:
    """The context of a call that is made now; the same object as before if nothing has changed.

    Taken with each task of `submit`, so made in little time: of the program's own lists, which only `Context` copies.
    """
    modules, environ = sys.modules, os.environ
    decimal, process = modules.get("decimal"), modules.get("multiprocessing.process")
    try:
        cwd = _getcwd()
    except OSError:  # it was removed
        cwd = os.sep
    try:
        levels = modules["logging"].root._cache[_LEVELS]  # noqa: SLF001 - see `_levels`
    except (AttributeError, KeyError):
        levels = _levels()
    now: tuple[Any, ...] = (
        cwd,
        sys.path,
        sys.argv,
        getattr(environ, "_data", environ),  # as the system has it: quicker to compare
        modules["warnings"].filters if "warnings" in modules else (),
        levels,
        b"" if process is None else _authkey(process),
        _recursion(),
        _digits(),
        None if decimal is None else _decimal(decimal),
    )
    known = _known[0]
    return known if known is not None and known.now == now else _other(now)


def _other(now: tuple[Any, ...]) -> Context:
    for known in [*_latest]:
        if known.now == now:
            _known[0] = known
            return known
    _known[0] = context = Context(now, _known[0])
    _latest.append(context)
    return context


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


def _authkey(process: Any) -> bytes:
    """What processes of `multiprocessing` know each other by: a task that is given a manager's proxy needs it."""
    own = getattr(process, "_current_process", None)  # set when the module is complete
    return b"" if own is None else own.authkey


def _decimal(decimal: Any) -> tuple[Any, ...] | None:
    """What the arithmetic of this thread is; `None` while the module is being imported."""
    try:
        context = decimal.getcontext()
    except AttributeError:
        return None
    return _traits(context)


def _traits(context: Any) -> tuple[Any, ...]:
    return _numbers(context), context.traps


# How each of them is kept, to be compared with later ones, and in what form it is sent.


def _same(value: Any) -> Any:
    return value


def _strings(values: list[Any]) -> list[str]:
    return [value for value in values if type(value) is str]


def _decoded(environ: dict[Any, Any]) -> dict[str, str]:
    return {os.fsdecode(name): os.fsdecode(value) for name, value in environ.items()}


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


def _named(decimal: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    if decimal is None:
        return None
    numbers, traps = decimal
    return (*numbers, [signal.__name__ for signal, is_set in traps.items() if is_set])


_Form = tuple[Callable[[Any], Any], ...]
_KEEP: _Form = (_same, list, list, dict, list, _same, _same, _same, _same)
_TELL: _Form = (_same, _strings, _strings, _decoded, _pickled, _same, bytes, _same, _same, _named)


# Decimal arithmetic, wherever tasks run


def made(told: Any) -> Any:
    """A context of `decimal`, as it was told."""
    import decimal

    *numbers, traps = told
    make: Any = decimal.Context
    return make(*numbers, [], [getattr(decimal, name) for name in traps])


@contextmanager
def arithmetic(told: tuple[Any, ...] | None) -> Iterator[None]:
    """Let the decimal arithmetic of this thread be the caller's; what tasks change of it ends with them."""
    if told is None:  # the caller has none
        yield
        return
    import decimal

    with decimal.localcontext(made(told)):
        yield
