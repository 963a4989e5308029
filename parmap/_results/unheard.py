"""Failures that nobody has asked for: told to the log, once nobody can ask any more."""

from __future__ import annotations

from functools import partial
from itertools import count
from operator import attrgetter
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from parmap._results.callbacks import callbacks
from parmap._travel.failure import guarded, line_of, notes_of
from parmap._travel.text import called, innermost
from parmap.errors import PoolClosedError, WorkerDiedError

if TYPE_CHECKING:
    from parmap._engine.engine import Engine
    from parmap._travel.failure import Failure


class _Told:
    """What is known of the failures of a function."""

    def __init__(self) -> None:
        self.is_heard: bool = False  # somebody has seen one: whoever has, knows
        self.kinds: set[str] = set()  # that the log has


_KEYS = {CodeType, BuiltinFunctionType, type}
_told: WeakKeyDictionary[Any, _Told] = WeakKeyDictionary()  # by code, which functions share that are made in a loop


def _known_of(function: Any) -> _Told:
    if issubclass(type(function), MethodType):
        function = function.__func__
    key = function.__code__ if type(function) is FunctionType else function
    if type(key) not in _KEYS:  # its class is the user's
        key = type(key)
    # A metaclass may have a hash that raises: then each pool knows for itself.
    return _told.setdefault(key, _Told()) if type(key) in _KEYS else _Told()


class Origin:
    """Where futures come from: who works for them, and what they are of."""

    def __init__(self, engine: Engine, function: Any) -> None:
        self.engine: Engine = engine
        self.name: str = called(function)
        self._known: _Told = _known_of(innermost(function))

    def hear(self) -> None:
        """Somebody has seen a failure."""
        self._known.is_heard = True

    def lose(self, failure: Failure) -> None:
        """Tell of a failure whose future is gone; in whatever thread the garbage collector runs, amid anything."""
        if not self._known.is_heard:
            tell = partial(callbacks.run, self.tell, failure)
            if not (self.engine.backend.threaded and self.engine.offer(tell)):
                self.tell(failure)

    def tell(self, failure: Failure) -> None:
        """Tell the log of a failure: all of it the first time, in a line when it is another one of the same kind."""
        error = failure.told(guarded)
        if self._known.is_heard or _is_meant(error):
            return
        import logging

        said, kind = f"a task of {self.name} failed, and nobody asked for its result", type(error).__qualname__
        if kind in self._known.kinds:
            call = "".join(f" ({each})" for each in notes_of(error)[-1:])
            logging.getLogger("parmap").error("%s: %s%s", said, line_of(error), call)
        else:
            self._known.kinds.add(kind)
            logging.getLogger("parmap").error(said, exc_info=error)


def _is_meant(error: BaseException) -> bool:
    """Whether a task was ended by somebody who knows: the pool was closed, or all processes were told to end."""
    from signal import SIGINT, SIGTERM

    if isinstance(error, WorkerDiedError):
        return error.exitcode in {None, -SIGINT, -SIGTERM}  # `None`: it is just gone, and nobody is left who knows how
    return isinstance(error, PoolClosedError)


class Unheard:
    """A failure that nobody has asked for yet: it goes with the only future that knows it."""

    __slots__ = ("__weakref__", "_failure", "_origin", "number")

    def __init__(self, failure: Failure, origin: Origin) -> None:
        self._failure: Failure | None = failure
        self._origin: Origin = origin
        self.number: int = next(_numbers)
        _unheard.add(self)

    def hear(self) -> None:
        """Somebody asks for it."""
        self._failure = None
        self._origin.hear()

    def tell(self) -> None:
        """Tell of it, in the end."""
        failure, self._failure = self._failure, None
        if failure is not None:
            self._origin.tell(failure)

    def forget(self) -> None:
        """Nobody shall hear of it."""
        self._failure = None

    def __del__(self) -> None:
        if self._failure is not None:
            self._origin.lose(self._failure)


_unheard: WeakSet[Unheard] = WeakSet()
_numbers = count()


def tell_unheard() -> None:
    """Tell of all failures that nobody has asked for, as the program ends."""
    for each in sorted(_unheard.copy(), key=attrgetter("number")):
        each.tell()


def forget_unheard() -> None:
    """Tell of none: the program fails, with an error of its own; or this process was forked from theirs."""
    for each in _unheard.copy():
        each.forget()


def tell_of(error: BaseException) -> None:
    """Tell the log of workers that can't start, where no call waits that would raise this."""
    import logging

    logging.getLogger("parmap").error("the workers can't start, and no call waits for them", exc_info=error)
