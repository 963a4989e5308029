"""The thread that runs users' done-callbacks, so that one that waits or is slow holds up nothing else."""

from __future__ import annotations

import math
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from parmap._results.watched import Latch
from parmap._travel.failure import pass_on
from parmap._work.threads import ShutdownError, start_thread

if TYPE_CHECKING:
    pass

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
