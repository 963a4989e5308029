"""Bytes that many workers get: a large array that a function captures, say."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

from parmap.backends._processes.line import segments as _segments
from parmap.backends._processes.line.segments import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from parmap.backends._processes.line.segments import Segment

_WORD = 8  # bytes


class Shared:
    """Bytes written once into one segment, which any number of workers map copy-on-write."""

    def __init__(self, segment: Segment, size: int) -> None:
        self.fd = segment.fd
        self.size = size
        self._memory: memoryview | None = None

    @classmethod
    def of(cls, content: memoryview) -> Shared | None:
        """Write *content* into a segment of its own; `None` if it is too small for that, or there is no segment."""
        size = content.nbytes
        if not size or size < Limits.smallest:
            return None
        segment = _segments.create(0, size)
        if segment is None:
            return None
        try:
            _segments.write(segment, [content])
        except OSError:
            segment.close_fd()
            return None
        return cls(segment, size)

    def holds(self, content: memoryview) -> bool:
        """Whether these are the bytes; there are as many."""
        if self._memory is None:
            self._memory = memoryview(mmap.mmap(self.fd, self.size, mmap.MAP_SHARED, mmap.PROT_READ))
        return same(self._memory, content)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # its own: at the end `os` may be gone
        close(self.fd)


def same(one: memoryview, other: memoryview) -> bool:
    """Whether two views of bytes are equal; compared in words, which takes an eighth of the time."""
    words = len(one) - len(one) % _WORD
    return one[:words].cast("Q") == other[:words].cast("Q") and one[words:] == other[words:]
