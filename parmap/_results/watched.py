"""Waiting without a lock that an interrupted waiter might hold: callbacks, left in a `deque`.

Whoever waits leaves a callback first and looks afterwards; what happens is written first, then the callbacks are run.
So one of the two sees the other.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from parmap._work.threads import HAS_GIL

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    LetWait: TypeAlias = Callable[[Callable[[float | None], bool], float | None], bool]


class Watched:
    """Something that others wait for: callbacks run when it happens, each once.

    CPython 3.11 makes the dict of an instance when it is first asked for, and may collect garbage in the midst of that:
    if another thread, or a `__del__`, asks too, there are two of the same values, and a later collection crashes. So
    each asks for its own before anybody else knows it.
    """

    @property
    def happened(self) -> bool:
        """Whether there is nothing to wait for."""
        raise NotImplementedError

    def watch(self, callback: Callable[[], object]) -> bool:
        """Call *callback* when it happens; false, and no call, if it has."""
        watchers = self.__dict__.setdefault("_watchers", deque())
        watchers.append(callback)
        return not self.happened or not self.unwatch(callback)

    def unwatch(self, callback: Callable[[], object]) -> bool:
        """Don't call *callback* any more; false if it was taken in between: it runs."""
        try:
            self.__dict__["_watchers"].remove(callback)
        except (ValueError, IndexError):  # a deque that changes meanwhile tells so
            return False
        return True

    def fire(self) -> None:
        """Run the callbacks that wait; where a signal handler can't interrupt it, or one callback might be lost."""
        watchers = self.__dict__.get("_watchers")
        while watchers:
            try:
                callback = watchers.popleft()
            except IndexError:  # somebody else takes them too
                return
            callback()


def refuse(future: object, *_: object) -> NoReturn:
    """Stand in for what sets the end of a future: it comes from its task."""
    from concurrent.futures import InvalidStateError

    raise InvalidStateError(f"{future!r} ends as its task does: it can't be set, but cancelled")


class Latch(Watched):
    """Something that happens once. `threading.Event` has a lock that an interrupted waiter may hold."""

    def __init__(self) -> None:
        self.__dict__  # noqa: B018
        self._is_set = False

    @property
    def happened(self) -> bool:
        """Whether it has."""
        return self._is_set

    def set(self) -> None:
        """Let it happen."""
        self._is_set = True
        self.fire()

    def wait(self, timeout: float | None) -> bool:
        """Wait up to *timeout* seconds for it; false if it has not happened then."""
        return wait_for(self, timeout)


# Where there is no GIL, other threads may see our callback and the end in either order. And a signal that comes in the
# moment before this thread falls asleep, or to another thread, does not wake it; its handler runs when it looks up.
_GLANCE = 0.5 if HAS_GIL else 0.02


def wait_for(watched: Watched, timeout: float | None, let_wait: LetWait = lambda wait, limit: wait(limit)) -> bool:
    """Wait until *watched* happens, as *let_wait* lets one; false if *timeout* seconds have passed first."""
    lock = threading.Lock()
    lock.acquire()
    if not watched.watch(lock.release):
        return True
    try:
        return let_wait(partial(_wait, lock, watched), timeout)
    finally:
        if not watched.happened:  # whoever asks again and again leaves nothing behind
            watched.unwatch(lock.release)


def _wait(lock: Any, watched: Watched, timeout: float | None) -> bool:
    end = math.inf if timeout is None else time.monotonic() + timeout
    while not lock.acquire(timeout=max(0.0, min(end - time.monotonic(), _GLANCE))):
        if watched.happened:
            return True
        if not time.monotonic() <= end:  # nor is there an end that is not a number
            return False
    return True
