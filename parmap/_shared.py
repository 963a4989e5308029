"""A payload that many workers get: a function that captures a large array, say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from parmap import _segments
from parmap._segments import Limits, Segment

if TYPE_CHECKING:
    from parmap._payload import Pack


class Shared:
    """A payload written once into one segment, which any number of workers map copy-on-write."""

    def __init__(self, segment: Segment, description: tuple[Any, ...], size: int) -> None:
        self.fd = segment.fd
        self.description = description
        self.size = size

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
        return cls(segment, pack.describe(), size)

    def __del__(self) -> None:
        os.close(self.fd)
