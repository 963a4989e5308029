"""Shared memory for large payloads, and what is large: anonymous files (`memfd`), used again and again.

The pages of a fresh segment cost ten times more than the copy into them, so segments are used again. They have no
names: nothing can leak, nothing needs a clean-up, no resource tracker is involved.

Where there is no `memfd` (not Linux), or no space, `Lender.lend` says so and the payload travels through the socket.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from itertools import count
from typing import Any

from parmap._travel.memory import HAS_MEMORY_FILES, anonymous_file


class Limits:
    """When segments are used; read by both sides, changed only by tests."""

    enabled = HAS_MEMORY_FILES
    smallest = 64 * 1024  # bytes of a payload that goes through a segment
    kept = 256 << 20  # bytes of segments that a lender keeps for use again; a larger payload is handed over for good


class Segment:
    """A piece of shared memory, mapped in this process."""

    def __init__(self, name: int, fd: int, size: int) -> None:
        self.name = name
        self.fd: int = fd
        self.size = size
        self.memory: mmap.mmap | None = None

    def keep_mapped(self) -> list[int]:
        """Map it, and give its descriptor away, if that was not done before.

        Raises:
            OSError: there is no memory, or no descriptor, for that.
        """
        if self.fd < 0:
            return []
        self.memory = mmap.mmap(self.fd, self.size)
        fd, self.fd = self.fd, -1
        return [fd]

    def close_fd(self) -> None:
        """Close the descriptor; the mapping stays."""
        fd, self.fd = self.fd, -1  # first: a process that is forked in between does it too
        if fd >= 0:
            os.close(fd)


def write(segment: Segment, parts: Sequence[Any]) -> None:
    """Copy *parts* into a segment.

    A fresh one is written through its descriptor: the kernel fills pages faster than they fault in, and answers a lack
    of memory with an error instead of a signal.
    """
    if segment.memory is None:
        with open(segment.fd, "wb", closefd=False) as file:
            file.writelines(parts)
        return
    position = 0
    for part in parts:
        end = position + len(part)
        segment.memory[position:end] = part
        position = end


def attach(fd: int, size: int, *, private: bool = False) -> mmap.mmap:
    """Map a segment that came as a descriptor, and close the descriptor. `private`: copy on write."""
    try:
        return mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE if private else mmap.MAP_SHARED)
    finally:
        os.close(fd)


def received(fds: Sequence[int], size: int) -> mmap.mmap | None:
    """What came as a descriptor; `None`: this process may have no more of them, or no more memory."""
    try:
        return attach(fds[0], size)
    except (IndexError, OSError):  # the kernel drops descriptors that don't fit under the limit
        return None


def is_unused(memory: mmap.mmap) -> bool:
    """Whether nobody has a view of *memory*, or of a part of it, as far as the system tells."""
    try:
        memory.resize(len(memory))  # changes nothing, but is refused while there is one
    except (BufferError, SystemError, AttributeError):  # or always, as on macOS
        return False
    return True


class Lender:
    """The segments that this side writes and the other side reads."""

    def __init__(self) -> None:
        self._free: list[Segment] = []
        self._lent: dict[int, Segment] = {}
        self._most = 0  # that were lent at once: more than these are not kept, of whatever size
        self._names = count(1)

    def lend(self, size: int) -> Segment | None:
        """A segment of at least *size* bytes; with a descriptor if the other side has not got it yet.

        `None`: there is none to be had.
        """
        fitting = [segment for segment in self._free if segment.size >= size]
        if fitting:
            best = min(fitting, key=lambda segment: segment.size)
            self._free.remove(best)
        else:
            capacity = 1 << (size - 1).bit_length() if size <= Limits.kept // 2 else size
            made = create(next(self._names), capacity)
            if made is None:
                return None
            best = made
        self._lent[best.name] = best
        self._most = max(self._most, len(self._lent))
        return best

    def take_back(self, name: int) -> list[int]:
        """The other side is done with a segment. Returns those that are dropped for it, which both sides map still."""
        segment = self._lent.pop(name, None)
        if segment is None:
            return []
        self._free.append(segment)
        dropped = []
        while len(self._free) + len(self._lent) > self._most or sum(kept.size for kept in self._free) > Limits.kept:
            dropped.append(self._free.pop(0).name)
        return dropped

    def forget(self, name: int) -> None:
        """The other side keeps a segment for good."""
        self._lent.pop(name, None)

    def clear(self) -> None:
        """Drop all segments."""
        for segment in [*self._free, *self._lent.values()]:
            segment.close_fd()
        self._free.clear()
        self._lent.clear()


def create(name: int, size: int) -> Segment | None:
    """A fresh segment, not mapped yet; `None` where there is no space, no descriptor or no such thing."""
    if not Limits.enabled:
        return None
    try:
        return Segment(name, anonymous_file("parmap", lambda fd: os.ftruncate(fd, size)), size)
    except OSError:
        return None
