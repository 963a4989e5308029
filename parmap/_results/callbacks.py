"""The thread that runs users' done-callbacks, so that one that waits or is slow holds up nothing else.

It also tells the log of failures that nobody has asked for, once nobody can any more.
"""

from __future__ import annotations

import math
import queue
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from operator import attrgetter
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from parmap._results.watched import Latch
from parmap._travel.failure import guarded, line_of, notes_of, pass_on
from parmap._travel.text import called, innermost
from parmap._work.threads import ShutdownError, start_thread
from parmap.errors import PoolClosedError, WorkerDiedError

if TYPE_CHECKING:
    from parmap._engine.engine import Engine
    from parmap._travel.failure import Failure

_IDLE = 1.0  # seconds without a callback after which the thread ends


class Callbacks:
    """Callbacks in the order in which they became due, one at a time."""

    def __init__(self) -> None:
        # Its `put` may be called by a destructor or a signal handler in the middle of another.
        self._queue: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._never_used = True
        self._turn = threading.RLock()  # callbacks never run at the same time, even if two threads were started

    def run(self, fn: Callable[[Any], object], future: Any) -> None:
        """Have `fn(future)` called soon."""
        if getattr(fn, "__module__", "") == "asyncio.futures":  # it only wakes its loop: no need for a detour
            run_callback(fn, future)
            return
        self._queue.put((fn, future))
        self._never_used = False
        if self._thread is None or not self._thread.is_alive():
            try:
                self._thread = start_thread("parmap-callbacks", self._live)
            except RuntimeError as error:  # those that are due run all the same, here, where they hold up other work
                pass_on(error)
                if not isinstance(error, ShutdownError):
                    import logging

                    logging.getLogger("parmap").exception("done-callbacks have no thread of their own")
                self._drain()

    def _live(self) -> None:
        while self._run_next(_IDLE):
            pass
        self._thread = None
        self._drain()  # what came in between

    def _drain(self) -> None:
        while self._run_next(0):
            pass

    def _run_next(self, timeout: float | None) -> bool:
        with self._turn:  # or a thread that waits for its turn would hold what the one whose turn it is waits for
            try:
                fn, future = self._queue.get(timeout=timeout)
            except queue.Empty:
                return False
            try:
                run_callback(fn, future)
            except BaseException as error:  # noqa: BLE001 - SystemExit and its like must not end a thread for all
                sys.excepthook(type(error), error, error.__traceback__)
        return True

    def wait(self, latch: Latch, timeout: float | None) -> None:
        """Wait up to *timeout* seconds for what a callback lets happen; a callback that waits runs those that come."""
        if not self._turn._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001 - Condition uses it too
            latch.wait(timeout)
            return
        end = math.inf if timeout is None else time.monotonic() + timeout
        while not latch.happened and (left := end - time.monotonic()) > 0:
            self._run_next(None if timeout is None else left)  # nothing but a callback lets it happen

    def join(self, timeout: float | None) -> None:
        """Wait until those that are due have run, up to *timeout* seconds; from the thread itself, return at once."""
        # That there is no thread just now does not mean that there is nothing to do: the last may be at it still.
        if self._never_used or self._turn._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001 - as above
            return
        they_have_run = Latch()
        self.run(lambda _: they_have_run.set(), None)
        they_have_run.wait(timeout)

    def forget(self) -> None:
        """Start anew, in a process forked from the one whose thread runs them."""
        self.__init__()  # type: ignore[misc]  # the old locks may be held for ever


def run_callback(fn: Callable[[Any], object], future: Any) -> None:
    """Call `fn(future)`, and tell what it raises."""
    try:
        fn(future)
    except Exception as error:  # as concurrent.futures does: the fault of a callback is told, and ends there
        pass_on(error)
        import logging

        logging.getLogger("parmap").exception("exception calling callback for %r", future)


callbacks = Callbacks()
"""Those of this process."""


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
