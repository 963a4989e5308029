"""What workers keep under a number until they are told to forget it; and large pieces of functions among that."""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING
from weakref import KeyedRef

from parmap._travel.pack import EACH, Pack
from parmap.backends._processes.line import segments as _segments
from parmap.backends._processes.line.descriptors import recv_fds, send_fds
from parmap.backends._processes.line.segments import Limits

if TYPE_CHECKING:
    from parmap.backends._processes.line.channel import Channel

_WORD = 8  # bytes

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


class Part(Numbered):
    """A large piece of functions: bytes of a `kind`, which is that of a buffer, or of the object they make.

    They are written once into one segment, which any number of workers map copy-on-write; or else they are kept here.
    """

    def __init__(self, numbers: Numbers, kind: str, content: memoryview | int) -> None:
        """*content*: the bytes, or the descriptor of a segment that has them."""
        super().__init__(numbers, os.fstat(content).st_size if isinstance(content, int) else content.nbytes)
        self.kind = kind
        self._content: memoryview | None = None
        if isinstance(content, int):
            self._fd = content
            return
        segment = _segments.create(0, self.nbytes) if self.nbytes >= max(1, Limits.smallest) else None
        if segment is not None:
            try:
                _segments.write(segment, [content])
            except OSError:
                segment.close_fd()
        self._fd = -1 if segment is None else segment.fd
        if self._fd < 0:
            self._content = memoryview(bytes(content))

    def holds(self, content: memoryview) -> bool:
        """Whether it is the same as these bytes."""
        if content.nbytes != self.nbytes:
            return False
        mine = self.content()
        # Compared in words, which takes an eighth of the time.
        words = self.nbytes - self.nbytes % _WORD
        same = mine[:words].cast("Q") == content[:words].cast("Q")
        return same and mine[words:] == content[words:]

    def content(self) -> memoryview:
        """The bytes."""
        if self._content is None:
            try:
                self._content = memoryview(mmap.mmap(self._fd, self.nbytes, mmap.MAP_SHARED, mmap.PROT_READ))
            except OSError:  # no descriptor is left, of which a mapping takes one
                with open(self._fd, "rb", closefd=False) as file:
                    file.seek(0)
                    return memoryview(file.read())
        return self._content

    def tell(self, channel: Channel, _: set[int]) -> None:
        """Send it to a worker."""
        what = "part", self.number, self.kind, self.nbytes
        if self._fd >= 0:
            with suppress(OSError):  # no descriptor is left
                channel.post(*what, fds=(self._fd,))
                return
        channel.post(*what, pack=Pack(EACH, 1, self.content(), [self.nbytes]))

    def give(self, other: socket.socket) -> bool:
        """Send the segment to another process; false if there is none."""
        with other:
            if self._fd >= 0 and _is_ours(other):
                send_fds(other, b".", [self._fd])
            return self._fd >= 0

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # its own: at the end `os` may be gone
        if self.__dict__.get("_fd", -1) >= 0:
            close(self._fd)


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
                    return Part(numbers, kind, fds[0])
            return Part(numbers, kind, fetch())
        part = Part(numbers, kind, fetch())
        door.setblocking(False)
        with suppress(OSError):  # nobody else waits
            while part.give(door.accept()[0]):
                pass
        return part


def _is_ours(peer: socket.socket) -> bool:
    """Whether the same user is at the other end: anybody may connect to such names, or have them."""
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.geteuid())
