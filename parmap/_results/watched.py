"""Waiting without a lock that an interrupted waiter might hold: callbacks, left in a `deque`.

Whoever waits leaves a callback first and looks afterwards; what happens is written first, then the callbacks are run.
So one of the two sees the other.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from parmap._travel.failure import pass_on
from parmap._work.threads import HAS_GIL, start_thread

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from parmap._engine.engine import Engine
    from parmap._results.futures import End

    LetWait: TypeAlias = Callable[[Callable[[float | None], bool], float | None], bool]


class Watched:
    """Something that others wait for: callbacks run when it happens, each once.

    CPython 3.11 makes the dict of an instance when it is first asked for, and may collect garbage in the midst of that:
    if another thread, or a `__del__`, asks too, there are two of the same values, and a later collection crashes. So
    each asks for its own before anybody else knows it. What may not be there is read as an attribute with a default on
    the class: without the GIL, 3.13's `dict.get` takes a hundred times as long for what another thread has written.
    """

    _watchers: deque[Callable[[], object]] | None = None

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
        while True:
            try:
                self.__dict__["_watchers"].remove(callback)
            except ValueError as error:
                pass_on(error)
                return False
            except IndexError as error:  # others came or went meanwhile: without the GIL, as often as there are threads
                pass_on(error)
            else:
                return True

    def fire(self) -> None:
        """Run the callbacks that wait; where a signal handler can't interrupt it, or one callback might be lost."""
        watchers = self._watchers
        while watchers:
            try:
                callback = watchers.popleft()
            except IndexError as error:  # somebody else takes them too
                pass_on(error)
                return
            callback()


class Shown:
    """A future as `concurrent.futures` sees it, from its first look on: `state` changes only with `lock` held."""

    __slots__ = ("__dict__", "lock", "state")
    end: End | None = None

    def __init__(self) -> None:
        self.__dict__  # noqa: B018 - see Watched
        self.lock = threading.RLock()
        self.state: str | None = None

    def tell(self, waiters: list[Any], way: str, future: Any, state: str) -> bool:
        """Tell *waiters*, in their *way*, that the future has come to its last *state*; false if one is just looking.

        Whoever holds a lock may have been interrupted, for good or by a handler that waits for this thread.
        """
        if not self.lock.acquire(blocking=False):
            return False
        try:
            if self.state is None:
                if any(map(_is_looking, waiters)):
                    return False
                self.state = state
                for waiter in waiters:
                    getattr(waiter, way)(future)
        finally:
            self.lock.release()
        return True


def _is_looking(waiter: Any) -> bool:
    lock = getattr(waiter, "lock", None)
    return lock is not None and bool(lock.locked())


class Waiters(list[Any]):
    """Who of `concurrent.futures` waits for a future. Each is woken by what no interrupted waiter can hold up."""

    def append(self, waiter: Any) -> None:
        """Add one, which does not wait yet."""
        if type(waiter.event) is not _Bell:
            waiter.event = _Bell()
        super().append(waiter)


class _Bell:
    """In the place of a `threading.Event`, which has a lock that an exception may leave taken for ever."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._latch = Latch()

    def set(self) -> None:
        self._latch.set()

    def is_set(self) -> bool:
        return self._latch.happened

    def wait(self, timeout: float | None = None) -> bool:
        return self._latch.wait(timeout)


class _Unlocked:
    """The lock of what does not change any more."""

    def acquire(self, *_: object) -> bool:
        return True

    def release(self, *_: object) -> None:
        pass

    __enter__, __exit__ = acquire, release


UNLOCKED = _Unlocked()

_SOON, _LATER = 0.001, 0.02  # seconds until what was in vain is tried again
_MOST_VAIN = 32  # tries in a row: who holds one lock most likely holds the others
_late: deque[Callable[[], bool]] = deque()
_turn = threading.Lock()


def try_on(act: Callable[[], bool]) -> None:
    """Have *act* called until it is true, in a thread for which nobody waits."""
    _late.append(act)
    if _turn.acquire(blocking=False):
        try:
            start_thread("parmap-late", _try_all)
        except RuntimeError as error:  # there is none: whoever is late next tries again
            _turn.release()
            pass_on(error)


def _try_all() -> None:
    try:
        pause = _SOON
        while _late:
            vain = 0  # tries in a row
            for _ in range(len(_late)):
                act = _late.popleft()
                if act():
                    vain, pause = 0, _SOON
                    continue
                _late.append(act)
                vain += 1
                if vain == _MOST_VAIN:
                    break
            time.sleep(pause)
            pause = min(2 * pause, _LATER)
    finally:
        _turn.release()
    if _late and _turn.acquire(blocking=False):  # one came in between
        _try_all()


def forget_late() -> None:
    """Start anew, in a process forked from one that may have been at it."""
    global _turn  # noqa: PLW0603
    _turn = threading.Lock()
    _late.clear()


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
_LONGEST = 1.0  # seconds of a glance: if it took more, this program stood still, and so did who brings what is awaited


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
    now, left = time.monotonic(), math.inf if timeout is None else timeout
    while not lock.acquire(timeout=max(0.0, min(left, _GLANCE))):
        if watched.happened:
            return True
        before, now = now, time.monotonic()
        left -= min(now - before, _LONGEST)
        if not left > 0:  # nor is there an end that is not a number
            return False
    return True


def on_event_loop() -> bool:
    """Whether an event loop runs in this thread, which must not be held up."""
    find = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)  # documented, and raises nothing
    return find is not None and find() is not None


_TURN = 0.01  # seconds for which one that need not wait may keep an event loop


def running_loop() -> AbstractEventLoop:
    """The event loop that runs in this thread.

    Raises:
        RuntimeError: there is none of asyncio's.
    """
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        away = "under Trio, wait in a thread: await trio.to_thread.run_sync(future.result)"
        raise RuntimeError(f"only a running event loop of asyncio can await this; {away}") from None


async def give_way() -> float:
    """Let others have the event loop; returns when it is their turn again."""
    import asyncio

    running_loop()
    await asyncio.sleep(0)
    return time.monotonic() + _TURN


def is_cancelled() -> bool:
    """Whether the asyncio task that runs was told to end, even if something in it has caught that."""
    import asyncio

    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def wait_on_loop(watched: Watched, engine: Engine) -> None:
    """Wait until *watched* happens, by *engine*, while the event loop goes on."""
    loop = running_loop()
    if watched.happened:
        return
    engine.check_process()
    arrived = loop.create_future()
    if watched.watch(lambda: _wake_on(loop, arrived)):
        await arrived


def _wake_on(loop: AbstractEventLoop, future: Any) -> None:
    """Wake whoever awaits *future* on an event loop; from any thread."""
    try:
        loop.call_soon_threadsafe(_wake, future)
    except RuntimeError:  # the loop was closed: nobody waits any more
        pass


def _wake(future: Any) -> None:
    if not future.done():
        future.set_result(None)
