"""What workers keep under a number until they are told to forget it; and large pieces of functions among that."""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import KeyedRef

from parmap._travel.pack import ALIGNMENT, EACH, Pack
from parmap.backends._processes.line import segments as _segments
from parmap.backends._processes.line.descriptors import recv_fds, send_fds
from parmap.backends._processes.line.segments import Limits

if TYPE_CHECKING:
    from parmap.backends._processes.line.channel import Channel

_PIECE = 64 * 1024  # bytes that are compared at once

PATIENCE = 60.0
"""Seconds for another process to get what is to be shared: it may be stopped, and never end."""


class Numbers:
    """Gives numbers, and knows which are no longer needed."""

    def __init__(self) -> None:
        self._next = count(1)
        self._living: dict[int, KeyedRef[int, Numbered]] = {}
        # Filled by C alone, whoever collects garbage: of a Ctrl-C that came in a callback of ours, nobody would hear.
        self._gone: deque[KeyedRef[int, Numbered]] = deque()

    def take(self, owner: Numbered) -> int:
        """A new number."""
        number = next(self._next)
        self._living[number] = KeyedRef(owner, self._gone.append, number)
        return number

    def take_gone(self) -> list[int]:
        """The numbers of what was dropped since this was called last."""
        gone = []
        while self._gone:
            gone.append(self._gone.popleft().key)
            self._living.pop(gone[-1], None)
        return gone


class Numbered:
    """Something that workers keep under a number."""

    def __init__(self, numbers: Numbers, nbytes: int) -> None:
        self.number: int = numbers.take(self)
        self.nbytes = nbytes


class File(Numbered):
    """A segment that has the bytes of parts, which any number of workers map copy-on-write."""

    def __init__(self, numbers: Numbers, fd: int, nbytes: int) -> None:
        super().__init__(numbers, nbytes)
        self.fd = fd
        self._mapped: memoryview | None = None

    def content(self, start: int, nbytes: int) -> memoryview:
        """Some of its bytes."""
        if self._mapped is None:
            try:
                self._mapped = memoryview(mmap.mmap(self.fd, self.nbytes, mmap.MAP_SHARED, mmap.PROT_READ))
            except OSError:  # no descriptor is left, of which a mapping takes one
                return memoryview(os.pread(self.fd, nbytes, start))
        return self._mapped[start : start + nbytes]

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # its own: at the end `os` may be gone
        close(self.fd)


class Part(Numbered):
    """A large piece of functions: bytes of a `kind`, which is that of a buffer, or of the object they make."""

    def __init__(self, numbers: Numbers, kind: str, content: memoryview | File, start: int, nbytes: int) -> None:
        """*content*: the bytes, of which a copy is kept here, or the file that has them from *start* on."""
        super().__init__(numbers, nbytes)
        self.kind = kind
        self._file = content if isinstance(content, File) else None
        self._start = start
        self._content = memoryview(b"" if isinstance(content, File) else bytes(content))

    def holds(self, content: memoryview) -> bool:
        """Whether it is the same as these bytes."""
        mine = self.content()
        if mine.nbytes != content.nbytes:
            return False
        # Views compare number by number. Bytes do it in a third of that, even with the copy, which stays in the cache.
        starts = range(0, self.nbytes, _PIECE)
        return all(bytes(content[at : at + _PIECE]).startswith(mine[at : at + _PIECE]) for at in starts)

    def content(self) -> memoryview:
        """The bytes."""
        return self._content if self._file is None else self._file.content(self._start, self.nbytes)

    def tell(self, channel: Channel, known: set[int]) -> None:
        """Send it to a worker, and its file, if that is not *known* there."""
        what = "part", self.number, self.kind, self.nbytes
        file = self._file
        if file is not None:
            with suppress(OSError):  # no descriptor is left
                if file.number not in known:
                    channel.post("file", file.number, file.nbytes, fds=(file.fd,))
                    known.add(file.number)
                channel.post(*what, file.number, self._start)
                return
        channel.post(*what, 0, 0, pack=Pack(EACH, 1, self.content(), [self.nbytes]))

    def give(self, other: socket.socket) -> bool:
        """Send the segment to another process; false if there is none."""
        with other:
            if self._file is not None and _is_ours(other):
                send_fds(other, b".", [self._file.fd])
            return self._file is not None


def parts_of(numbers: Numbers, pieces: Sequence[tuple[str, memoryview]]) -> list[Part]:
    """A part of each of some *pieces*, kind and content, all in one file: a process may have few descriptors."""
    places: list[int] = []
    written: list[Any] = []
    size = 0
    for _, content in pieces:
        places.append(-1)
        if content.nbytes >= max(1, Limits.smallest):
            gap = bytes(-size % ALIGNMENT)
            places[-1] = size + len(gap)
            written += (gap, content)
            size = places[-1] + content.nbytes
    segment = _segments.create(0, size) if size else None
    if segment is not None:
        try:
            _segments.write(segment, written)
        except OSError:
            segment.close_fd()
    file = None if segment is None or segment.fd < 0 else File(numbers, segment.fd, size)
    return [
        Part(numbers, kind, content if file is None or place < 0 else file, place, content.nbytes)
        for (kind, content), place in zip(pieces, places, strict=True)
    ]


def shared(name: str, numbers: Numbers, kind: str, fetch: Callable[[], memoryview]) -> Part:
    """A part of what *fetch* gets; the processes of this machine that ask for one *name* at the same time share one."""
    with socket.socket(socket.AF_UNIX) as door:
        try:
            door.bind(f"\0{name}")  # which is no file, and gone with this process
            door.listen()
        except OSError:  # another one is at it, or there are no such names
            with suppress(OSError):
                door.settimeout(PATIENCE)
                door.connect(f"\0{name}")
                if _is_ours(door) and (fds := recv_fds(door, 1)[1]):
                    nbytes = os.fstat(fds[0]).st_size
                    return Part(numbers, kind, File(numbers, fds[0], nbytes), 0, nbytes)
            return parts_of(numbers, [(kind, fetch())])[0]
        part = parts_of(numbers, [(kind, fetch())])[0]
        door.setblocking(False)
        with suppress(OSError):  # nobody else waits
            while part.give(door.accept()[0]):
                pass
        return part


def _is_ours(peer: socket.socket) -> bool:
    """Whether the same user is at the other end: anybody may connect to such names, or have them."""
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.geteuid())
