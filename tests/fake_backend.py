"""A backend and a clock that exist only in the test, to drive the scheduler one step at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parmap._core.job import Job
from parmap._core.pace import Cost, Pace
from parmap._core.schedule import Scheduler
from parmap._travel.failure import Failure

if TYPE_CHECKING:
    from parmap._core.job import Chunk

COST = Cost(aim=0.005, depth=2)


class Recorder:
    """A sink that keeps what it is told, and complains about what it must never be told."""

    mode = "map"

    def __init__(self) -> None:
        self.outcomes: dict[int, str | Failure] = {}
        self.order: list[int] = []
        self.failure: Failure | None = None
        self.left: list[Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether the job has told its end."""
        return self.left is not None

    @staticmethod
    def load(items: Any) -> Any:
        """The arguments of items: themselves."""
        return items

    def started(self, items: Any) -> None:
        """Nothing depends on it."""

    @staticmethod
    def index(chunk: Chunk, offset: int) -> int:
        """The number of an item."""
        return chunk.start + offset

    def deliver(self, chunk: Chunk, done: int, results: Any, failures: dict[int, Failure]) -> None:
        """Keep outcomes; each item must have the value of its own number, and no outcome yet."""
        assert not self.ended, "an outcome after the end"
        assert done <= len(chunk.items)
        for offset in range(done):
            index = chunk.start + offset
            assert chunk.items[offset] == index, "a number and its item have come apart"
            assert index not in self.outcomes, "a second outcome"
            self.outcomes[index] = failures.get(offset) or "ok"
            self.order.append(index)

    def finish(self, failure: Failure | None, left: Any) -> None:
        """Keep how it ended."""
        assert not self.ended, "a second end"
        self.failure = failure
        self.left = list(left)


class Bench:
    """A scheduler with a clock that is set by hand, and workers that do as they are told."""

    def __init__(
        self, workers: int = 2, *, cost: Cost = COST, slots: int | None = None, budget: int | None = None
    ) -> None:
        self.now = 100.0
        self.scheduler = Scheduler(workers, cost)
        for slot in range(workers if slots is None else slots):
            self.scheduler.add_slot(slot, budget)

    def job(self, items: Any, **options: Any) -> Job:
        """Start a job over *items*."""
        job = Job("call", Recorder(), **options)
        job.extend(items)
        self.scheduler.add(job)
        return job

    def cut(self) -> Chunk | None:
        """The next chunk."""
        return self.scheduler.next(self.now)

    def cut_all(self) -> list[Chunk]:
        """All chunks that can start now."""
        chunks = []
        while (chunk := self.cut()) is not None:
            chunks.append(chunk)
        return chunks

    def finish(
        self, chunk: Chunk, done: int | None = None, failures: Any = None, *, each: float = 0.001
    ) -> list[Chunk]:
        """A chunk is reported; its items took *each* seconds."""
        done = len(chunk.items) if done is None else done
        self.now += done * each
        return self.scheduler.finished(chunk, done, None, failures or {}, done * each, self.now)


def failed(*, retry: bool = False) -> Failure:
    """A failure."""
    return Failure(ValueError("failed"), retry=retry)


def paced(seconds: float | None, nbytes: float = 0.0) -> Pace:
    """What would be known of a function whose calls take so long, and so many bytes."""
    pace = Pace()
    pace.seconds = seconds
    pace.nbytes = nbytes
    return pace


def sizes(chunks: list[Chunk]) -> list[int]:
    """How many items each chunk has."""
    return [len(chunk.items) for chunk in chunks]
