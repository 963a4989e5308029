"""Locks, queues and shared memory of `multiprocessing`, which it gives to no process but those that it starts itself.

The workers of this machine find them all the same: a semaphore by its name, and a pipe, or memory, by the descriptor of
the process that has it, as `/proc` shows it. That process holds them until they were read.
"""

from __future__ import annotations

import os
import stat
from typing import Any
from weakref import WeakValueDictionary

from parmap._travel.stream import PROTOCOL, has_files, hold


class _Held:
    """What may have no hash."""

    def __init__(self, thing: Any) -> None:
        self.thing: Any = thing


SYNCHRONIZING = {f"multiprocessing.{name}" for name in ("queues", "sharedctypes", "synchronize")}
"""The modules of the classes that ask whether a process is being started."""


def synchronizing_reduced(thing: Any) -> tuple[Any, ...] | str:
    """As a reducer: as multiprocessing has it for a process that it starts, if workers of this machine will read it.

    Raises:
        RuntimeError: others will; or its semaphore has no name, as where the context starts processes by "fork".
    """
    import multiprocessing.context as context  # noqa: PLR0402 - it is no name of the package, for type checkers

    before = context.get_spawning_popen()
    try:
        if has_files():
            hold(_Held(thing))
            starting: Any = True
            context.set_spawning_popen(starting)  # they ask no more than whether there is one
        reduced: tuple[Any, ...] | str = thing.__reduce_ex__(PROTOCOL)
    finally:
        context.set_spawning_popen(before)
    return reduced


def is_in_shared_memory(thing: Any) -> bool:
    """Whether a number, an array or a structure of `ctypes` is one that multiprocessing has made."""
    return type(getattr(thing, "_wrapper", None)).__module__ == "multiprocessing.heap"


def ctypes_reduced(thing: Any) -> tuple[Any, ...]:
    """As a reducer: of those, where they lie."""
    import ctypes
    from multiprocessing import sharedctypes

    of = (thing._type_, thing._length_) if isinstance(thing, ctypes.Array) else (type(thing), None)
    return sharedctypes.rebuild_ctype, (of[0], thing._wrapper, of[1])  # type: ignore[attr-defined]  # noqa: SLF001 - as above


def arena_reduced(arena: Any) -> tuple[Any, ...] | None:
    """As a reducer, of the memory that they lie in; `None`: whoever reads it may be elsewhere."""
    place = _place_of(arena, arena.fd)
    return place and (_arena, (arena.size, *place))


def connection_reduced(connection: Any) -> tuple[Any, ...]:
    """As a reducer, of an end of a pipe.

    Raises:
        TypeError: it is one of both directions, a socket; or whoever reads it may be elsewhere.
    """
    place = stat.S_ISFIFO(os.fstat(connection.fileno()).st_mode) and _place_of(connection, connection.fileno())
    if not place:
        raise TypeError("cannot pickle an end of a pipe")
    return _connection, (connection.readable, connection.writable, *place)


def _place_of(thing: Any, descriptor: int) -> tuple[Any, ...] | None:
    """Where its file is to be found."""
    place = f"/proc/{os.getpid()}/fd/{descriptor}"
    if not has_files() or not os.path.exists(place):  # only Linux has such
        return None
    hold(_Held(thing))
    return place, _file_of(descriptor)


def _file_of(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _opened(place: str, file: tuple[int, int], flags: int) -> int:
    descriptor = os.open(place, flags | os.O_CLOEXEC | os.O_NONBLOCK)  # or one would wait for a pipe's other end
    if _file_of(descriptor) != file:
        os.close(descriptor)
        raise FileNotFoundError(f"what was at {place} is closed")
    os.set_blocking(descriptor, True)
    return descriptor


_arenas: WeakValueDictionary[tuple[int, int], Any] = WeakValueDictionary()


def _arena(size: int, place: str, file: tuple[int, int]) -> Any:
    """The memory, mapped once as long as something lies in it; without the descriptor, which nobody would close."""
    from multiprocessing import heap

    found = _arenas.get(file)
    if found is None:
        descriptor = _opened(place, file, os.O_RDWR)
        try:
            _arenas[file] = found = heap.Arena(size, descriptor)
        finally:
            os.close(descriptor)
        found.fd = -1
    return found


def _connection(readable: bool, writable: bool, place: str, file: tuple[int, int]) -> Any:
    from multiprocessing import connection

    descriptor = _opened(place, file, os.O_WRONLY if writable else os.O_RDONLY)
    return connection.Connection(descriptor, readable, writable)
