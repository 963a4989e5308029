"""Numbers for workers that belong to an executor of the program's: threads, and processes of this machine.

Nobody tells such a process which one it is. So each takes the first number that is free, by a name that only one
socket may have: the system gives it back when the process ends, however that comes.
"""

from __future__ import annotations

import concurrent.futures
import os
import socket
import sys
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from parmap._travel.failure import pass_on
from parmap._work.per_worker import Worker
from parmap.backends._broken import kind_of

T = TypeVar("T")

_threads: WeakKeyDictionary[Any, Iterator[int]] = WeakKeyDictionary()
_names: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_seat: list[socket.socket] = []  # of this process


def _of(table: WeakKeyDictionary[Any, T], executor: Any, make: Callable[[], T]) -> tuple[T, int] | None:
    """What belongs to *executor*, and how many workers it may have; `None`: that can't be known."""
    most = getattr(executor, "_max_workers", None)
    try:
        return None if type(most) is not int else (table.setdefault(executor, make()), most)
    except TypeError as error:  # it can't be held weakly, or has no hash
        pass_on(error)
        return None


def numbers_of_threads(executor: concurrent.futures.Executor) -> tuple[Iterator[int], int] | None:
    """Where the threads of *executor* find their numbers: they live as long as it does."""
    return _of(_threads, executor, count)


def name_of_seats(executor: concurrent.futures.Executor) -> tuple[str, int] | None:
    """Under what name the processes of *executor* find theirs; `None`: they may be elsewhere, or can't."""
    is_local = kind_of(executor) is not None and sys.platform == "linux"
    return _of(_names, executor, lambda: os.urandom(12).hex()) if is_local else None


def take_seat(name: str, most: int) -> Worker | None:
    """The number of this process from now on; `None`: none is free, since one that ends has not ended yet."""
    for index in range(most):
        seat = socket.socket(socket.AF_UNIX)
        try:
            seat.bind(f"\0parmap-{name}-{index}")
        except OSError:
            seat.close()
            continue
        _seat.append(seat)
        return Worker(index, most)
    return None
