"""Waiting without a lock that an interrupted waiter might hold: callbacks, left in a `deque`.

Whoever waits leaves a callback first and looks afterwards; what happens is written first, then the callbacks are run.
So one of the two sees the other.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from parmap._work.threads import HAS_GIL

if TYPE_CHECKING:
    from collections.abc import Callable


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

    def wait_by(
        self, let_wait: Callable[[Callable[[float | None], bool], float | None], bool], timeout: float | None
    ) -> bool:
        """Wait until it happens, as *let_wait* wants it; false if *timeout* seconds passed first."""
        lock = threading.Lock()
        lock.acquire()
        if not self.watch(lock.release):
            return True
        try:
            return let_wait(lambda limit: _wait_for(lock, self, limit), timeout)
        finally:
            if not self.happened:  # whoever asks again and again leaves nothing behind
                self.unwatch(lock.release)

    def fire(self) -> None:
        """Run the callbacks that wait; where a signal handler can't interrupt it, or one callback might be lost."""
        watchers = self.__dict__.get("_watchers")
        while watchers:
            try:
                callback = watchers.popleft()
            except IndexError:  # somebody else takes them too
                return
            callback()


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

    def wait(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds for it; false if it has not happened then."""
        return self.wait_by(lambda wait, limit: wait(limit), timeout)


# Where there is no GIL, other threads may see our callback and the end in either order. And a signal that comes in the
# moment before this thread falls asleep, or to another thread, does not wake it; its handler runs when it looks up.
_GLANCE = 0.5 if HAS_GIL else 0.02


def _wait_for(lock: Any, watched: Watched, timeout: float | None) -> bool:
    """Wait until *lock*, which is released when *watched* happens; false if *timeout* seconds have passed first."""
    end = math.inf if timeout is None else time.monotonic() + timeout
    while not lock.acquire(timeout=max(0.0, min(_GLANCE, end - time.monotonic()))):
        if watched.happened:
            return True
        if time.monotonic() > end:
            return False
    return True
