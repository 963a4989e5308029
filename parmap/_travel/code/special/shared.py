"""What processes share: locks, queues and memory of `multiprocessing`, and arrays and tensors in such memory.

The standard library gives them to no process but those that it starts itself. The workers of this machine find them all
the same: a semaphore by its name, a mapped file by its path, and a pipe, or memory, by the descriptor of the process
that has it, as `/proc` shows it. That process holds them until they were read.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from parmap._travel.stream import MAPPED, PROTOCOL, has_files, hold


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
    is_of_ctypes = type(type(thing)).__module__ == "_ctypes"  # others may be the user's, and must not be asked
    return is_of_ctypes and type(getattr(thing, "_wrapper", None)).__module__ == "multiprocessing.heap"


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


def _file_of(file: int | str) -> tuple[int, int]:
    found = os.stat(file)
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


# --- arrays of numpy's over such memory ----------------------------------------------------------------


def view_reduced(array: Any) -> tuple[Any, ...] | None:
    """As a reducer, of an array that lies in memory which processes share, by its place there; `None`: it does not.

    Programs make one for all processes, over a `RawArray`, the `buf` of a `SharedMemory` or a file that is mapped. What
    a task writes to a copy of it would be lost.
    """
    owner: Any = array.base
    if owner is None or not array.nbytes or not has_files():
        return None
    while isinstance(owner, (memoryview, sys.modules["numpy"].ndarray)):
        owner = owner.obj if isinstance(owner, memoryview) else owner.base
    if is_in_shared_memory(owner):
        found: tuple[Any, ...] | None = (_same, (owner,))
    elif type(owner).__module__ == "mmap":
        found = _mapped(owner)
    else:
        return None
    place = _address_of(array) - _address_of(owner)
    return found and (_view, (*found, place, array.dtype, array.shape, array.strides, array.flags.writeable))


def _address_of(thing: Any) -> int:
    kind: Any = sys.modules["numpy"].ndarray
    array: Any = thing if type(thing) is kind else kind((1,), "u1", thing)
    address: int = array.__array_interface__["data"][0]
    return address


_files: WeakKeyDictionary[Any, tuple[Any, ...]] = WeakKeyDictionary()  # what maps the same, by what maps it here


def _mapped(memory: Any) -> tuple[Any, ...] | None:
    """What maps the same part of the same file, if it has a name still and others see what is written to it."""
    try:
        where = _files.get(memory) or _find_file(memory)
        is_there = where is not None and where[3] == len(memory) and _file_of(where[0]) == where[1]
    except (OSError, ValueError):  # there is no such list; the file is gone
        return None
    if where is None or not is_there:
        return None
    _files[memory] = where
    hold(MAPPED)
    return _mapping, where


def _find_file(memory: Any) -> tuple[Any, ...] | None:
    address = _address_of(memory)
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            span, mode, offset, _, _, *path = line.rstrip("\n").split(maxsplit=5)
            start, end = (int(each, 16) for each in span.split("-"))
            if start <= address < end:
                is_file = path and mode[3] == "s"
                begin = int(offset, 16) + address - start
                return (path[0], _file_of(path[0]), begin, len(memory), mode[1] == "w") if is_file else None
    return None


def _same(thing: Any) -> Any:
    return thing


_mappings: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()


def _mapping(path: str, *which: Any) -> Any:
    """A part of a file, mapped once as long as an array lies in it."""
    import mmap

    file, start, size, writable = which
    found = _mappings.get(which)
    if found is None:
        descriptor = _opened(path, file, os.O_RDWR if writable else os.O_RDONLY)
        try:
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            _mappings[which] = found = mmap.mmap(descriptor, size, access=access, offset=start)
        finally:
            os.close(descriptor)
    return found


def _view(open_it: Callable[..., Any], args: tuple[Any, ...], place: int, *layout: Any) -> Any:
    from numpy import ndarray

    dtype, shape, strides, writeable = layout
    made: Any = ndarray(shape, dtype, open_it(*args), place, strides)
    if not writeable:
        made.flags.writeable = False
    return made


def tensor_reduced(tensor: Any) -> tuple[Any, ...] | None:
    """As a reducer, of a tensor of PyTorch's, if `share_memory_` has put it into such memory; as above."""
    torch = sys.modules["torch"]
    if not has_files() or tensor.device.type != "cpu":  # all others say that they are shared
        return None
    make, args, *_ = tensor.__reduce_ex__(PROTOCOL)
    # Others may have no memory to ask about; and what is shared by a name would be moved, away from who shares it.
    is_dense = make is torch._utils._rebuild_tensor_v2  # noqa: SLF001 - as PyTorch pickles it
    if not (is_dense and tensor.is_shared() and torch.multiprocessing.get_sharing_strategy() == "file_descriptor"):
        return None
    descriptor, size = tensor.untyped_storage()._share_fd_cpu_()
    place = _place_of(tensor, descriptor)
    return place and (_tensor, (size, *place, tensor.dtype, *args[1:]))


def _tensor(size: int, place: str, file: tuple[int, int], dtype: Any, *of: Any) -> Any:
    torch: Any = import_module("torch")
    reductions: Any = import_module("torch.multiprocessing.reductions")  # which knows what is mapped already
    storage = reductions.rebuild_storage_fd(torch.UntypedStorage, _Descriptor(place, file), size)
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)
    return torch._utils._rebuild_tensor_v2(typed, *of)  # noqa: SLF001 - as above


class _Descriptor:
    """As `multiprocessing` sends them: one to open."""

    def __init__(self, place: str, file: tuple[int, int]) -> None:
        self._where = place, file

    def detach(self) -> int:
        return _opened(*self._where, os.O_RDWR)


_SHARED = {("numpy", "ndarray"): view_reduced, ("torch", "Tensor"): tensor_reduced}


def shared_reduced(thing: Any) -> tuple[Any, ...] | None:
    """As a reducer, of an array or a tensor in such memory; `None` of all others."""
    kind = type(thing)
    reduce = _SHARED.get((kind.__module__, kind.__name__))
    return None if reduce is None else reduce(thing)


def ways_of_shared(otherwise: Callable[[Any], Any]) -> dict[type, Callable[[Any], Any]]:
    """Reducers of arrays and tensors, by type, as far as the libraries are there; *otherwise*: of those elsewhere."""
    kinds = [getattr(sys.modules.get(module), name, None) for module, name in _SHARED]
    return {kind: lambda thing: shared_reduced(thing) or otherwise(thing) for kind in kinds if kind is not None}
