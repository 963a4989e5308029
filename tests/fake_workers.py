"""A backend whose workers exist only in the test: they do what the test says, and as little as real ones could."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from parmap._core.pace import Cost
from parmap._travel.failure import Failure
from parmap._work.page import NO_LIMIT
from parmap._work.run import Callee
from parmap.backends._base import Backend, Broken, Died, Ready, Report
from parmap.errors import WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from parmap._core.job import Chunk
    from parmap.backends._base import Event

CALL: Any = SimpleNamespace(callee=Callee(None))
"""What jobs call: nothing, but its errors may be retried."""


class Fate:
    """What became of an item, which it outlives."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.outcome: Any = None
        self.runs = 0
        self.reruns = 0  # how often it may be run again: after an error, or a death
        self.shall_not_begin = False  # it was cancelled while no worker had it
        self.is_single = False  # the task of a submit, whose first outcome counts
        self.item: Callable[[], Item | None] = lambda: None

    def settle(self, outcome: Any) -> None:
        """It ended; once, but for a task that was cancelled or lost, of which a late end may still be told."""
        assert outcome is not None
        if self.outcome is None:
            self.outcome = outcome
        else:
            assert self.is_single, f"a second outcome: {self.outcome}, then {outcome}"
            assert self.outcome != "ok", f"it had ended well, then came {outcome}"

    def begin(self) -> None:
        """A worker runs it."""
        self.runs += 1
        assert not self.shall_not_begin, "it was cancelled, and begins"
        assert self.runs <= 1 + self.reruns, "it was run twice, for no reason"


class Item:
    """An item, and the future of a single task."""

    lane = SimpleNamespace(make_job=lambda: None)  # nobody reads how its death is explained

    def __init__(self, fate: Fate) -> None:
        self.fate = fate
        fate.item = weakref.ref(self)

    @property
    def happened(self) -> bool:
        """As `Future.happened`."""
        return self.fate.outcome is not None

    def fail(self, failure: Failure) -> None:
        """As `Future.fail`, and `Future.settle_failure`."""
        if not self.happened:
            self.fate.settle(failure)

    settle_failure = fail


class Thing(Item):
    """An item of a batch: what users give may have no hash, and nothing that it can be compared with."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise AssertionError("an item of a batch is compared")


class Task:
    """A single task on a quick line. `state`: recorded (its caller was interrupted), sent, begun or answered."""

    def __init__(self, future: Item) -> None:
        self.future = future
        self.state = "recorded"
        self.owner = ""  # caller or engine, whoever claimed it first
        self.looks = 0


class Running:
    """A chunk that a worker has, as the worker sees it."""

    def __init__(self, chunk: Chunk, taken: int) -> None:
        self.number = chunk.number
        self.fates = [item.fate for item in chunk.items[:taken]]
        self.place: tuple[int, int] | None = None  # offset and number of the items that run
        self.limit = NO_LIMIT
        self.since = 0.0
        self.timeout = chunk.job.timeout

    @property
    def ran(self) -> int:
        """How many of its items have begun."""
        return sum(self.place) if self.place else 0

    def step(self, length: int, now: float) -> bool:
        """Go on to the next items; false if it comes to its end."""
        offset = self.ran
        end = min(len(self.fates), self.limit)
        if offset >= end:
            if self.place:
                self.place = (offset, 0)
            return False
        length = min(length, len(self.fates) - offset)  # a block reads no limit
        for fate in self.fates[offset : offset + length]:
            fate.begin()
        self.place, self.since = (offset, length), now
        return True


class FakeWorker:
    """A worker process."""

    def __init__(self, name: int) -> None:
        self.name = name
        self.is_ready = False
        self.is_doomed = False
        self.is_retired = False
        self.is_open = False
        self.is_heard = False
        self.chunks: list[Running] = []
        self.flight: dict[int, Task] = {}
        self.numbers = 0
        self.budget: int | None = None
        self.reports = 0

    def settle_answers(self) -> None:
        """Somebody reads what was answered."""
        for number, task in list(self.flight.items()):
            if task.state == "answered":
                if not task.future.happened:
                    task.future.fate.settle("ok")
                del self.flight[number]

    def withdraw(self) -> list[tuple[Item, bool]]:
        """Take back the tasks of a dead worker."""
        self.settle_answers()
        flight, self.flight = self.flight, {}
        found = []
        for task in flight.values():
            if not task.future.happened and task.owner in {"", "engine"}:
                task.owner = "engine"
                found.append((task.future, task.state == "begun"))
        return found


class FakeBackend(Backend):
    """Workers that do nothing until they are told."""

    kills = True
    leases = announces = True

    def __init__(
        self, workers: int, budget: int | None, idle_timeout: float | None, *, recalls: bool, memory: int | None = None
    ) -> None:
        options: Any = SimpleNamespace(workers=workers, idle_timeout=idle_timeout)
        options.max_tasks_per_child, options.max_memory_per_child = budget, memory
        super().__init__(options)
        self.cost = Cost(aim=0.005, depth=2, deepest=8, recalls=recalls)
        self.now = 0.0
        self.workers: dict[Hashable, FakeWorker] = {}
        self.events: list[Event] = []
        self.names = 0
        self.starts = "all"  # or "one", "none", "broken": what comes of attempts to start workers
        self.most = NO_LIMIT  # items that fit into a chunk
        self.is_used = False
        self.signals_are_late = False
        self._late: Running | None = None

    def grow(self, count: int) -> list[Hashable]:
        """Start workers, if the test lets it."""
        assert count > 0
        if self.starts == "broken" or (self.starts == "none" and not self.workers):
            self.close()
            self.events.append(Broken(WorkerDiedError("can't be started")))
            return []
        started: list[Hashable] = []
        for _ in range({"all": count, "one": 1, "none": 0}[self.starts]):
            self.names += 1
            worker = self.workers[self.names] = FakeWorker(self.names)
            worker.budget = self.options.max_tasks_per_child
            started.append(self.names)
        return started

    def start(self, chunk: Chunk, mode: str) -> int:
        """Give a chunk to its worker."""
        worker = self.workers.get(chunk.slot)
        if worker is None:  # dead since a moment ago, which will be told
            return len(chunk.items)
        assert not worker.is_doomed
        assert not worker.is_retired
        assert not worker.is_open
        assert len(chunk.items)
        running = Running(chunk, self.most)
        if self.most == 0:  # its first item can't be pickled
            self.events.append(Report(chunk.number, 1, None, {0: Failure(ValueError())}, 0.0))
            chunk.items[0].fate.begin()
            return 1
        worker.chunks.append(running)
        if worker.budget is not None:
            most = [min(len(running.fates), max(running.limit, running.ran)) for running in worker.chunks]
            assert sum(most) <= worker.budget
        return len(running.fates)

    def _running(self, chunk: Chunk) -> Running | None:
        worker = self.workers.get(chunk.slot)
        running = worker.chunks[0] if worker and worker.chunks else None
        return running if running and running.number == chunk.number else None

    def position(self, chunk: Chunk) -> tuple[int, int, float] | None:
        """Where its worker is."""
        for event in self.events:
            if isinstance(event, Report) and event.number == chunk.number:
                return event.done, 0, 0.0
        running = self._running(chunk)
        if running is None or running.place is None:
            return None
        return *running.place, self.now - running.since

    def running(self, chunk: Chunk) -> list[Fate]:
        """The items of a chunk that its worker is at."""
        running = self._running(chunk)
        return running.fates if running else []

    def recall(self, chunk: Chunk, limit: int) -> None:
        """Note the limit."""
        worker = self.workers.get(chunk.slot)
        for running in worker.chunks if worker else []:
            if running.number == chunk.number:
                running.limit = limit

    def cut(self, chunk: Chunk) -> None:
        """Tell which one of a block runs: its first; later, if signals come late."""
        running = self._running(chunk)
        if self.signals_are_late:
            self._late = running
        elif running is not None:
            self._cut(running)

    def let_signals_through(self) -> None:
        """From now on; the last one of those that were late comes now, if its block still runs."""
        self.signals_are_late, late = False, self._late
        if late is not None and any(late in worker.chunks[:1] for worker in self.workers.values()):
            self._cut(late)

    def _cut(self, running: Running) -> None:
        if running.place and running.place[1] > 1:
            for fate in running.fates[running.place[0] + 1 : running.ran]:
                fate.runs -= 1
            running.place = (running.place[0], 1)

    def stop(self, slot: Hashable, *, dump: bool = False) -> None:
        """It will die when the test says so."""
        if dump and slot in self.workers:
            running = self.workers[slot].chunks[0]
            assert self.now - running.since >= (running.timeout or 1e9), "it is stopped before its time is over"
        if slot in self.workers:
            self.workers[slot].is_doomed = True

    def retire(self, slot: Hashable) -> None:
        """It may go."""
        if slot in self.workers:  # or dead since a moment ago
            assert not self.workers[slot].chunks
            self.workers[slot].is_retired = True

    def memory(self, slot: Hashable) -> int:
        """It grows with each report."""
        return self.workers[slot].reports if slot in self.workers else 0

    def lease(self, slot: Hashable) -> bool:
        """Open it to callers."""
        worker = self.workers.get(slot)
        if worker is None:  # dead since a moment ago, which will be told
            return False
        assert worker.is_ready, "callers would have to wait until it has started"
        assert not worker.is_doomed
        assert not worker.is_retired
        assert not worker.is_open
        assert not worker.chunks
        worker.is_open = True
        return True

    def unlease(self, slot: Hashable) -> bool:
        """Take it back."""
        worker = self.workers.get(slot)
        if worker is None:
            return True
        worker.is_open = False
        worker.settle_answers()
        worker.is_heard = bool(worker.flight)
        return not worker.flight

    def look_after_leases(self) -> bool:
        """Send what was recorded two looks ago."""
        busy = False
        for worker in self.workers.values():
            worker.settle_answers()
            for task in worker.flight.values():
                task.looks += 1
                if task.looks > 1 and task.state == "recorded" and task.owner in {"", "engine"}:
                    task.owner, task.state = "engine", "sent"
                worker.is_heard |= task.looks > 1
            busy |= any(task.looks == 1 for task in worker.flight.values())
            worker.is_heard &= bool(worker.flight)
        used, self.is_used = self.is_used, False
        return busy or used

    def leased(self) -> list[Any]:
        """All single tasks in flight."""
        workers = list(self.workers.values())
        return [(worker.name, number, task.future) for worker in workers for number, task in worker.flight.items()]

    def wait(self, timeout: float | None) -> list[Event]:
        """What has happened."""
        events, self.events = self.events, []
        return events

    def wake(self) -> None:
        """Nobody sleeps."""

    def close(self) -> None:
        """Stop all workers."""
        workers = list(self.workers.values())
        self.workers.clear()
        for worker in workers:
            for future, _ in worker.withdraw():
                future.settle_failure(Failure(WorkerDiedError("closed")))

    # what workers do, when the test says so

    def get_ready(self, worker: FakeWorker) -> None:
        """A worker has started."""
        worker.is_ready = True
        self.events.append(Ready(worker.name))

    def report(self, worker: FakeWorker, done: int, failed: dict[int, Failure]) -> None:
        """A worker has done the first items of its first chunk, and gives the others back."""
        running = worker.chunks.pop(0)
        worker.reports += 1
        if worker.budget is not None:
            worker.budget -= done
        for offset, failure in failed.items():
            running.fates[offset].reruns += failure.retry
        self.events.append(Report(running.number, done, None, failed, done * 0.001))

    def die(self, worker: FakeWorker, *, retry: bool) -> None:
        """A worker is dead."""
        del self.workers[worker.name]
        running = worker.chunks[0] if worker.chunks else None
        number, offset, length = 0, 0, 1
        if running and running.place:
            number, (offset, length) = running.number, running.place
            for fate in running.fates[: running.ran]:
                fate.reruns += 1

        def explain(_: Chunk | None, __: int) -> Failure:
            return Failure(WorkerDiedError("died"), retry=retry)

        tasks = tuple(worker.withdraw())
        for future, begun in tasks:
            future.fate.reruns += begun
        self.events.append(Died(worker.name, number, offset, max(1, length), explain, tasks, not worker.is_ready))
