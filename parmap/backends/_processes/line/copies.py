"""Private copies of what is large, in memory that is used again.

Results are copied out of shared memory as they arrive, so that they are the caller's own; arguments for a cluster
before they leave, since the caller may change them. Fresh memory costs several times as much as the copy into it, in
huge pages half of that: so memory that the caller has dropped takes the next ones. For a second, that is; then it goes
back to the system.
"""

from __future__ import annotations

import mmap
import os
import time
from collections import deque

from parmap._travel.failure import pass_on
from parmap.backends._processes.line.segments import is_unused

LARGE = 2 << 20
"""Bytes from which on copies have pages of their own."""

HOLD = 1.0
"""Seconds after the last copy for which dropped memory is kept."""

_MOST = 64  # pieces of memory that are remembered: more would take longer to look through than they save
_LARGEST = 256 << 20  # bytes of memory that are remembered


class Copies:
    """Makes copies of large views, and remembers the memory they lie in."""

    def __init__(self) -> None:
        # Threads copy at the same time, and collecting garbage may copy in the middle of a copy. So nobody looks at
        # memory that others may take: whoever takes a piece out has it alone.
        self._pieces: deque[mmap.mmap] = deque()
        self._used = 0.0  # when the last copy was made, in seconds of the monotonic clock

    def copy(self, view: memoryview, readonly: bool = False) -> memoryview:
        """A copy of *view*, writable or *readonly*, that nothing else refers to.

        Raises:
            OSError: there is no memory.
            MemoryError: the same.
        """
        if readonly:  # most often bytes, which are the result themselves
            return memoryview(bytes(view))
        if view.nbytes < LARGE:
            return memoryview(bytearray(view))
        piece = self._dropped(view.nbytes) or self._fresh(view.nbytes)
        piece[: view.nbytes] = view
        copy = memoryview(piece)[: view.nbytes]
        if len(piece) <= _LARGEST:
            self._remember(piece)
        return copy

    def forget(self) -> None:
        """Forget all memory; what holds results lives as long as they."""
        self._pieces.clear()

    @property
    def next_time(self) -> float | None:
        """When there is something to `expire`."""
        return self._used + HOLD if self._pieces else None

    def expire(self) -> None:
        """Forget all memory if none was used for a while."""
        if self._pieces and time.monotonic() >= self._used + HOLD:
            self.forget()

    def _fresh(self, size: int) -> mmap.mmap:
        try:
            piece = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:  # there is no more memory: what is kept may be what is missing
            pass_on(error)
            self.forget()
            piece = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            try:
                piece.madvise(mmap.MADV_HUGEPAGE)
            except OSError as error:  # this system has none
                pass_on(error)
        return piece

    def _dropped(self, size: int) -> mmap.mmap | None:
        """Memory that fits and that nobody refers to any more."""
        for _ in range(len(self._pieces)):
            try:
                piece = self._pieces.popleft()
            except IndexError as error:  # others took the rest
                pass_on(error)
                return None
            if size <= len(piece) <= 2 * size and is_unused(piece):
                return piece
            self._pieces.append(piece)
        return None

    def _remember(self, piece: mmap.mmap) -> None:
        self._used = time.monotonic()
        self._pieces.append(piece)
        try:
            while len(self._pieces) > _MOST or sum(map(len, self._pieces)) > _LARGEST:
                self._pieces.popleft()
        except (IndexError, RuntimeError) as error:  # others do the same at this moment
            pass_on(error)


copies = Copies()
"""Those of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=copies.forget)
