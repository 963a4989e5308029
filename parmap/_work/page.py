"""The status page, a small piece of memory in which a worker says what it is doing; behind it, the stack it died with.

So a death or a timeout can be charged to one item. The stack is what `faulthandler` wrote, in the same anonymous file.

Writing it costs a few stores per item and no system call; the parent reads it only when it has a reason to.
"""

from __future__ import annotations

import mmap
import os
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from parmap._travel.memory import anonymous_file

if TYPE_CHECKING:
    from parmap._work.run import Work

_LAST = int(getattr(signal, "SIGRTMAX", 0))  # those that nobody else uses; macOS has none, Windows hardly any signal

DUMP_SIGNAL = _LAST - 1 if _LAST else int(getattr(signal, "SIGUSR2", 0))
"""Makes a worker write the stack of its running task behind its page; handled in C: a stuck task can't block it."""

CUT_SIGNAL = _LAST - 2 if _LAST else int(getattr(signal, "SIGURG", 0))
"""Makes a worker end a block of short items after the one that runs, and say on its page which that is."""

SIZE = 4096
IDLE = 0

NO_LIMIT = 1 << 62

PLACES = 8
"""Chunks that a worker may hold; the remainders of their numbers, divided by this, tell them apart."""

ALL = -1
"""In the place of an offset: the outcomes of all items that ran are ready, and are being sent."""

_NUMBER, _ITEMS, _SINCE = range(3)  # items: the offset in the upper half of the cell, how many in the lower
_LIMITS = 3  # two cells for each of the chunks that a worker may hold: its number, its limit


class Position(NamedTuple):
    """Where a worker is: in chunk `number` (or `IDLE`), at `length` items from `offset` on, since when.

    With a length of 0, all that will run of the chunk has run, and the outcome of the item at `offset` is made ready.
    """

    number: int
    offset: int
    length: int
    since: int
    """Nanoseconds of the system's monotonic clock, which all processes share."""


class Page:
    """A status page, seen from either side."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.work: Any = None  # what runs, on the worker's side
        self._memory = mmap.mmap(fd, SIZE)
        self.cells = memoryview(self._memory).cast("q")

    @classmethod
    def create(cls) -> Page:
        """A fresh page."""
        fd = anonymous_file("parmap-status", lambda fd: os.ftruncate(fd, SIZE), grows=True)
        try:
            return cls(fd)
        except BaseException:  # a mapping takes another descriptor
            os.close(fd)
            raise

    # the worker's side

    def rest(self) -> None:
        """Say: nothing to do."""
        self.cells[_NUMBER] = IDLE

    def enter(self, number: int, index: int, length: int, now: int) -> None:
        """Say: items *index* to *index + length* of chunk *number* begin *now*.

        The time is written first: a reader in between sees an item that began later than it did, never earlier. Which
        items it is takes one store: half of it, left by a worker that died there, would name others.
        """
        cells = self.cells
        cells[_SINCE] = now
        cells[_ITEMS] = index << 32 | length
        cells[_NUMBER] = number

    def cut(self, *_: Any) -> None:
        """End a block after the item that runs: the handler of `CUT_SIGNAL`."""
        if self.work is not None and self.position().length > 1:
            self.work.cut()
            self.enter(self.cells[_NUMBER], self.work.running, 1, time.monotonic_ns())

    def limit(self, number: int) -> int:
        """The item of chunk *number* before which the worker shall stop."""
        cell = _LIMITS + 2 * (number % PLACES)
        return self.cells[cell + 1] if self.cells[cell] == number else NO_LIMIT

    # the parent's side

    def recall(self, number: int, limit: int) -> None:
        """Ask the worker to stop before item *limit* of chunk *number*."""
        cell = _LIMITS + 2 * (number % PLACES)
        self.cells[cell + 1] = limit
        self.cells[cell] = number

    def position(self) -> Position:
        """Where the worker is now."""
        cells = self.cells
        number, items = cells[_NUMBER], cells[_ITEMS]
        return Position(number, items >> 32, items & 0xFFFFFFFF, cells[_SINCE])

    @property
    def written(self) -> int:
        """How many bytes `faulthandler` wrote."""
        return os.fstat(self.fd).st_size - SIZE

    def log(self) -> str:
        """What `faulthandler` wrote."""
        try:
            return os.pread(self.fd, 1 << 16, SIZE).decode(errors="replace")
        except OSError:
            return ""

    def close(self) -> None:
        """Give memory and descriptor back."""
        self.cells.release()
        self._memory.close()
        os.close(self.fd)


class Note:
    """Which items of a chunk run now, and how many may: the status page of a thread."""

    def __init__(self) -> None:
        self.work: Work | None = None
        self._cut: Work | None = None
        self._limit = NO_LIMIT
        self._now: tuple[int, int, int] | None = None

    def enter(self, _: int, index: int, length: int, now: int) -> None:
        """Items *index* and following begin."""
        self._now = (index, length, now)

    def limit(self, _: int) -> int:
        """The items from here on are wanted back."""
        return self._limit

    def recall(self, limit: int) -> None:
        """Ask for the items from *limit* on."""
        self._limit = limit

    def cut(self) -> None:
        """Let no other item begin than the one that runs."""
        work = self.work
        if work is not None:
            work.cut()
            self._cut = work

    def position(self) -> tuple[int, int, float] | None:
        """Offset and number of the items that run now, and for how many seconds; `None`: none does yet."""
        if self._now is None:
            return None
        index, length, since = self._now
        if self._cut is not None:
            index, length = self._cut.running, 1
        return index, length, (time.monotonic_ns() - since) / 1e9
