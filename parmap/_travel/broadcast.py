"""Values that don't change by promise: packed once, sent once to each worker, never looked at again."""

from __future__ import annotations

import marshal
import mmap
import os
import threading
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from parmap._travel.code import by_value
from parmap._travel.memory import anonymous_file
from parmap._travel.pack import ALIGNMENT, Pack, Packed
from parmap._travel.payload import dump, pack
from parmap._travel.stream import held_apart, hold
from parmap.errors import SerializationError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_HEAD = 16  # bytes of the token, before the description
_NOWHERE = 0, -1  # the home of what has no file that workers can read


class Broadcast(Generic[T_co]):
    """A value that workers know: what :func:`broadcast` returns.

    It travels as a few bytes that say where the value lies. It can be captured, passed as an argument, and returned;
    it lives as long as something holds it, in the program and, apart from that, in each worker.
    """

    def __init__(self, value: T_co, token: bytes, home: tuple[int, int] | None = None) -> None:
        """Made by `broadcast`. *home*: process and descriptor of the file that it lies in, once it is packed."""
        self._value = value
        self._token = token
        self._home = home
        self._fd = -1  # this process's own
        self._needs: tuple[Any, ...] = ()  # what workers must have to read it
        self._depth = 0  # of its packing within itself
        self._lock = threading.RLock()  # several threads may send it first; a signal handler, too

    @property
    def value(self) -> T_co:
        """The value: in the program the object itself, in a worker its copy there, the same for all tasks."""
        return self._value

    @property
    def token(self) -> bytes:
        """What tells it from others."""
        return self._token

    @property
    def packed(self) -> Packed:
        """The value as it travels to those that can't read its file."""
        return dump(self._value)

    @property
    def is_sent(self) -> bool:
        """Whether it has to be sent to those that need it, even on this machine."""
        return self._home == _NOWHERE

    def __reduce__(self) -> tuple[Any, ...]:
        with self._lock:
            home = self._home
            if home is None:
                if by_value.goes_home():  # a result: nobody here holds it until it is read
                    return _made, (self._token, self._value)
                self._pack()
            if home is None or self._fd >= 0:  # in a process forked since, this is its own: who made it may have ended
                home = self._home = (os.getpid(), self._fd) if self._fd >= 0 else _NOWHERE
        for each in (self, *self._needs):
            hold(each)
        return _find, (self._token, *home)

    def _pack(self) -> None:
        if self._depth > 1:  # once it may be a signal handler that sends it, too
            raise SerializationError("a broadcast value can't hold itself")
        self._depth += 1
        try:
            with held_apart():
                self._fd, self._needs = _write(self._token, self._value)
        finally:
            self._depth -= 1

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # at the interpreter's end `os` may be gone
        if self.__dict__.get("_fd", -1) >= 0:
            close(self._fd)

    def __repr__(self) -> str:
        return f"<parmap.Broadcast of a {type(self._value).__name__}>"


_known: WeakValueDictionary[bytes, Broadcast[Any]] = WeakValueDictionary()
_arrived: dict[bytes, Callable[[], Any]] = {}  # what loads those that came with what needs them, not by a file


def arrive(token: bytes, load: Callable[[], Any]) -> None:
    """A value has come, which *load* unpickles."""
    _arrived[token] = cache(load)


def forget(token: bytes) -> None:
    """The program has dropped a value."""
    _arrived.pop(token, None)


def broadcast(value: T) -> Broadcast[T]:
    """Send a value once to each worker, and promise that it doesn't change.

    What a function captures, or reads of the globals of a script, is looked at before each call, since it may have
    changed. For a large table that takes time; of a broadcast value only the name travels. Large arrays in it are
    shared by all workers of this machine, which copy what they change.

    Args:
        value: anything that can travel; changes to it after its first use are not seen by workers.

    Raises:
        SerializationError: at its first use, if the value can't be pickled.

    Example:
        >>> import parmap
        >>> table = parmap.broadcast({n: n * n for n in range(1000)})
        >>> @parmap.parallel(workers=2)
        ... def look_up(n: int) -> int:
        ...     return table.value[n]
        >>> look_up.map([3, 4])
        [9, 16]
    """
    token = os.urandom(_HEAD)
    made = _known[token] = Broadcast(value, token)
    return made


def _write(token: bytes, value: Any) -> tuple[int, tuple[Any, ...]]:
    """Pack a value into a file without a name; returns its descriptor, or -1, and what must live as long."""
    packed, _ = pack([dump(value)])
    if not _has_open_files():
        return -1, packed.needs
    description = marshal.dumps(packed.describe())
    head = b"".join((token, len(description).to_bytes(8, "little"), description))

    def write(fd: int) -> None:
        with open(fd, "wb", closefd=False) as file:
            file.writelines((head, bytes(-len(head) % ALIGNMENT), *packed.parts()))

    try:
        return anonymous_file("parmap-broadcast", write, changes=False), packed.needs
    except OSError:  # there is no space, or a limit on it
        return -1, packed.needs


def _has_open_files() -> bool:
    """Whether other processes find what this one has open: on macOS they don't, nor once it has changed its user."""
    try:
        return os.stat("/proc/self/fd").st_uid == os.geteuid()
    except OSError:
        return False


def _made(token: bytes, value: Any) -> Broadcast[Any]:
    """One that a task has made."""
    return _known.setdefault(token, Broadcast(value, token))


def found(token: bytes, load: Callable[[], Any], home: tuple[int, int] = _NOWHERE) -> Broadcast[Any]:
    """The broadcast value of that token, as known here, or as *load* unpickles it."""
    known = _known.get(token)
    return known if known is not None else _known.setdefault(token, Broadcast(load(), token, home))


def _find(token: bytes, pid: int, fd: int) -> Broadcast[Any]:
    return found(token, _arrived.get(token) or partial(_read, token, pid, fd), (pid, fd))


def _read(token: bytes, pid: int, fd: int) -> Any:
    try:
        with open(f"/proc/{pid}/fd/{fd}", "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError) as error:
        raise SerializationError(f"a broadcast value can't be found here: {error}") from error
    view = memoryview(memory)
    if bytes(view[:_HEAD]) != token:  # the descriptor means another file by now
        raise SerializationError("a broadcast value is gone: the program dropped it before a worker had seen it")
    begin = _HEAD + 8
    end = begin + int.from_bytes(view[_HEAD:begin], "little")
    packed = Pack.lying_in(view[end + -end % ALIGNMENT :], marshal.loads(view[begin:end]))
    return packed[0]
