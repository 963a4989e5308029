"""Recycled shared memory: anonymous files (`memfd`) that carry large payloads between two processes.

The pages of a fresh segment cost ten times more than the copy into them, so segments are used again. They have no
names: nothing can leak, nothing needs a clean-up, no resource tracker is involved. A descriptor lives only until both
sides have mapped the segment.

Where there is no `memfd` (not Linux), or no space, `Lender.lend` says so and the payload travels through the socket.
"""

from __future__ import annotations

import mmap
import os
import time
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

ALIGNMENT = 64
"""Buffers start at multiples of so many bytes, as numpy's own do."""

HUGE = 2 << 20
"""Size of a huge page in bytes; private copies of at least so much have pages of their own."""


class Limits:
    """When segments are used; read by both sides, changed only by tests."""

    enabled = hasattr(os, "memfd_create")
    smallest = 64 * 1024  # bytes of a payload that goes through a segment
    kept = 256 << 20  # bytes of segments that a lender keeps for use again; a larger payload is handed over for good


def layout(stream: Any, buffers: Sequence[memoryview]) -> tuple[list[int], int]:
    """Where each part of a payload goes: the stream, then the buffers, aligned. Returns offsets and the total size."""
    offsets = [0]
    position = len(stream)
    for buffer in buffers:
        position += -position % ALIGNMENT
        offsets.append(position)
        position += buffer.nbytes
    return offsets, position


class Segment:
    """A piece of shared memory, mapped in this process."""

    __slots__ = ("fd", "memory", "name", "size")

    def __init__(self, name: int, fd: int, size: int) -> None:
        self.name = name
        self.fd = fd
        self.size = size
        self.memory: mmap.mmap | None = None

    def close_fd(self) -> None:
        """Close the descriptor; the mapping stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def write(segment: Segment, parts: Sequence[Any], offsets: Sequence[int]) -> None:
    """Copy *parts* into a segment.

    A fresh one is written through its descriptor: the kernel fills pages faster than they fault in, and answers a lack
    of memory with an error instead of a signal.
    """
    if segment.memory is None:
        for part, offset in zip(parts, offsets, strict=True):
            view = memoryview(part)
            done = 0
            while done < len(view):
                done += os.pwrite(segment.fd, view[done:], offset + done)
        return
    for part, offset in zip(parts, offsets, strict=True):
        segment.memory[offset : offset + len(part)] = part


def attach(fd: int, size: int, *, private: bool = False) -> mmap.mmap:
    """Map a segment that came as a descriptor, and close the descriptor. `private`: copy on write."""
    try:
        return mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE if private else mmap.MAP_SHARED)
    finally:
        os.close(fd)


class _Pages:
    """Which pages private copies are made of.

    Huge pages are four times quicker to fill than small ones, unless they have to be fetched from somewhere: a virtual
    machine gives long ranges of free memory back to its host, and takes six times longer than for small ones to get
    them again. So the first piece of each copy is timed.
    """

    piece = 2 * HUGE
    least = 1.0  # bytes a nanosecond: quicker than small pages ever are where huge ones are worth it
    pause = 100_000_000  # nanoseconds for which huge pages, once slow, are left alone

    def __init__(self) -> None:
        self._small_until = 0

    def copy(self, view: memoryview) -> mmap.mmap:
        """A copy of *view* in memory of this process's own."""
        copy = mmap.mmap(-1, view.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        done = 0
        if (begin := time.monotonic_ns()) >= self._small_until and _use_huge_pages(copy, 0, self.piece):
            done = min(self.piece, view.nbytes)
            copy[:done] = view[:done]
            if done < self.least * ((now := time.monotonic_ns()) - begin):
                self._small_until = now + self.pause
            else:
                _use_huge_pages(copy, done, view.nbytes - done)
        copy[done:] = view[done:]
        return copy


def _use_huge_pages(memory: mmap.mmap, start: int, size: int) -> bool:
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None:
        return False
    try:
        memory.madvise(advice, start, size)
    except (OSError, ValueError):  # a kernel without huge pages; nothing is left
        return False
    return True


_pages = _Pages()


def private(view: memoryview) -> memoryview:
    """A copy of *view* in memory of this process's own, writable."""
    return memoryview(bytearray(view) if view.nbytes < HUGE else _pages.copy(view))


class Lender:
    """The segments that this side writes and the other side reads."""

    def __init__(self) -> None:
        self._free: list[Segment] = []
        self._lent: dict[int, Segment] = {}
        self._names = count(1)

    def lend(self, size: int) -> Segment | None:
        """A segment of at least *size* bytes; with a descriptor if the other side has not got it yet.

        `None`: there is none to be had.
        """
        fitting = [segment for segment in self._free if segment.size >= size]
        if fitting:
            best = min(fitting, key=lambda segment: segment.size)
            self._free.remove(best)
            self._lent[best.name] = best
            return best
        capacity = 1 << (size - 1).bit_length() if size <= Limits.kept // 2 else size
        segment = create(next(self._names), capacity)
        if segment is not None:
            self._lent[segment.name] = segment
        return segment

    def sent(self, segment: Segment) -> None:
        """The descriptor is on its way: keep only the mapping."""
        segment.memory = mmap.mmap(segment.fd, segment.size)
        segment.close_fd()

    def take_back(self, name: int) -> list[int]:
        """The other side is done with a segment. Returns those that are dropped for it, which both sides map still."""
        segment = self._lent.pop(name, None)
        if segment is None:
            return []
        self._free.append(segment)
        dropped = []
        while sum(kept.size for kept in self._free) > Limits.kept:
            dropped.append(self._free.pop(0).name)
        return dropped

    def forget(self, name: int) -> None:
        """The other side keeps a segment for good."""
        self._lent.pop(name, None)

    def owns(self, name: int) -> bool:
        """Whether a segment may come back, lent or free."""
        return name in self._lent or any(segment.name == name for segment in self._free)

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
        fd = os.memfd_create("parmap")
    except OSError:
        return None
    try:
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        return None
    return Segment(name, fd, size)
