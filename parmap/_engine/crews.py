"""Tasks on threads of this process that wait for threads of this process.

A *crew* is what has such threads: a pool of threads, or an executor of the program's. All of them may be taken by tasks
that wait for others of the same threads, which would then never begin. So no crew waits for itself, nor for one that
waits for it in turn.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

from parmap._work import place as _place

if TYPE_CHECKING:
    from parmap.backends._base import Backend

_awaited: WeakKeyDictionary[object, WeakSet[object]] = WeakKeyDictionary()  # by tasks of which crew, which others
_lock = threading.RLock()


def waits_in_vain(backend: Backend) -> bool:
    """Whether this thread might wait for ever for what is given to *backend*. If not, it may from now on."""
    mine, other = _place.thread.crew(), backend.crew and backend.crew()
    if mine is None or other is None:
        return False
    with _lock:
        reached = [other]
        for each in reached:  # more come while it goes on
            reached += [further for further in _awaited.get(each, ()) if further not in reached]
        if mine in reached:
            return True
        _awaited.setdefault(mine, WeakSet()).add(other)
        return False


def forget() -> None:
    """In a process made by `os.fork()`: another thread, which is not there, may have had the lock."""
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()
