"""How far the input of a stream is read ahead of what was handed out, and how much may wait to be taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parmap._core.job import Job
    from parmap._results.batch import Batch

MOST_ITEMS = 100_000
MOST_BYTES = 64 << 20
"""The default window: enough items to keep the workers busy, but no more than these, nor more bytes of results."""

_AT_FIRST, EAGERNESS = 256, 10
"""How far is read for who takes little: so many items, and so many times what was taken, in all."""


def window(buffersize: int | None, workers: int, job: Job, handed_out: int) -> int:
    """How many items may be read that were not handed out."""
    if buffersize is not None:
        return buffersize
    least = 2 * workers
    size = min(max(2 * job.appetite, 2 * least), MOST_ITEMS, (EAGERNESS - 1) * handed_out + _AT_FIRST - 1)
    return max(least, min(size, int(MOST_BYTES / max(job.pace.result_nbytes, 1.0))))


def limit(job: Job, batch: Batch, workers: int) -> None:
    """Let nothing of a job begin while so many bytes more than now wait to be taken, but for a few results.

    Results may become large when thousands of items were read, since those before were small.
    """
    batch.allow(MOST_BYTES, 2 * workers)
    job.waits = batch.is_full
