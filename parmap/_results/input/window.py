"""How far the input of a stream is read ahead of what was handed out, and how much may wait to be taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parmap._core.job import Job
    from parmap._engine.engine import Engine
    from parmap._results.batch import Batch

MOST_ITEMS = 100_000
MOST_BYTES = 64 << 20
"""The default window: enough items to keep the workers busy, but no more than these, nor more bytes of results."""

_AT_FIRST, EAGERNESS = 256, 10
"""How far is read for who takes little: so many items, and so many times what was taken, in all."""


def read_ahead(buffersize: int | None, workers: int, job: Job, handed_out: int) -> int:
    """How many items may be read that were not handed out."""
    if buffersize is not None:
        return buffersize
    least = 2 * workers
    size = min(max(2 * job.appetite, 2 * least), MOST_ITEMS, (EAGERNESS - 1) * handed_out + _AT_FIRST - 1)
    return max(least, min(size, int(MOST_BYTES / max(job.pace.result_nbytes, 1.0))))


class Room:
    """How much may wait to be taken of a stream: while there is more, nothing begins.

    Results may become large when thousands of items were read, since those before were small.
    """

    def __init__(self, engine: Engine, job: Job, batch: Batch) -> None:
        self._engine = engine
        self._job = job
        self._batch = batch
        self._answered = 0  # the last of the engine's looks that it was told of room after

    def limit(self) -> None:
        """Let so many bytes more wait than wait now; and a few results, however large."""
        self._batch.allow(MOST_BYTES, 2 * self._engine.workers)
        self._job.waits = self._batch.holds_up

    def look(self, *, starves: bool = False) -> None:
        """Have the engine go on if there is room now; or if who wants results has to wait: what is there comes later.

        The engine counts its look, then looks; here there is room first, and then the count is read. So either it sees
        the room, or it is told.
        """
        batch = self._batch
        if starves and batch.is_full():
            self.limit()
        looks = batch.looks
        if batch.has_been_full and looks != self._answered and not batch.is_full():
            self._engine.offer(bool)
            self._answered = looks
