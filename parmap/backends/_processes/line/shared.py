"""A payload that many workers get: a function that captures a large array, say."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any

from parmap.backends._processes.line import segments as _segments
from parmap.backends._processes.line.segments import Limits, Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from parmap._travel.pack import Pack

_WORD = 8  # bytes


class Shared:
    """A payload written once into one segment, which any number of workers map copy-on-write."""

    def __init__(self, segment: Segment, description: tuple[Any, ...], offsets: Sequence[int], size: int) -> None:
        self.fd = segment.fd
        self.description = description
        self.size = size
        self._offsets = offsets[1:]  # of the buffers
        self._memory: memoryview | None = None

    @classmethod
    def of(cls, pack: Pack) -> Shared | None:
        """Write *pack* into a segment of its own; `None` if it is too small for that, or there is no segment."""
        offsets, size = _segments.layout(pack.stream, pack.buffers)
        if size < Limits.smallest:
            return None
        segment = _segments.create(0, size)
        if segment is None:
            return None
        try:
            _segments.write(segment, [pack.stream, *pack.buffers], offsets)
        except OSError:
            segment.close_fd()
            return None
        return cls(segment, pack.describe(), offsets, size)

    def holds(self, buffers: Sequence[memoryview]) -> bool:
        """Whether these are the buffers of the payload, of which it is known that they have the same sizes."""
        if self._memory is None:
            self._memory = memoryview(mmap.mmap(self.fd, self.size, mmap.MAP_SHARED, mmap.PROT_READ))
        memory = self._memory
        return all(
            _same(memory[offset : offset + buffer.nbytes], buffer)
            for offset, buffer in zip(self._offsets, buffers, strict=True)
        )

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # its own: at the end `os` may be gone
        close(self.fd)


def _same(one: memoryview, other: memoryview) -> bool:
    """Whether two views of bytes are equal; compared in words, which takes an eighth of the time."""
    words = len(one) - len(one) % _WORD
    return one[:words].cast("Q") == other[:words].cast("Q") and one[words:] == other[words:]
