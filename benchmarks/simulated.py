"""An engine of any size that exists only here: a backend whose workers sit through what items would take."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import deque
from heapq import heappop, heappush
from itertools import accumulate, count
from typing import TYPE_CHECKING, NamedTuple

from parmap._calls.options import DEFAULTS, Options
from parmap._core.pace import Cost, cost_on_cluster
from parmap._travel.failure import Failure
from parmap._work.page import NO_LIMIT
from parmap.backends._base import Backend, Capacity, Died, Lost, Report
from parmap.errors import WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from parmap._core.job import Chunk
    from parmap.backends._base import Event

NODE = 32
"""Workers of a node, that fail together."""

DRAWN = 1 << 16
"""Items after which the lengths come again."""


class Kind(NamedTuple):
    """What an engine is like."""

    cost: Callable[[int], Cost]
    """What a backend says of itself, for a number of workers."""
    trip: float
    """Seconds from the client to a worker, and as many back."""
    queue: bool
    """Whether the engine keeps a queue from which all its workers take; else each has its own."""


CLUSTER = Kind(lambda workers: cost_on_cluster(0.002, _slots(workers)), 0.001, queue=True)
"""Dask or Ray, with a millisecond there and one back; its queue has some more chunks than can run."""

PROCESSES = Kind(lambda workers: Cost(aim=0.008 + 0.00025 * workers, depth=2, most=0.04), 0.00003, queue=False)
"""The processes of one machine, each with a line of its own."""


class Lengths:
    """Seconds that each item takes: drawn once, known by their sums, so that a billion of items takes no room."""

    def __init__(self, draw: Callable[[random.Random], float], mean: float, seed: int) -> None:
        generator = random.Random(seed)
        drawn = [draw(generator) for _ in range(DRAWN)]
        scale = mean * DRAWN / sum(drawn)
        self._sums = [0.0, *accumulate(each * scale for each in drawn)]

    def until(self, item: int) -> float:
        """Seconds that all items before this one take, one after another."""
        rounds, rest = divmod(item, DRAWN)
        return rounds * self._sums[-1] + self._sums[rest]

    def reached(self, seconds: float) -> int:
        """The item that runs so many seconds after the first began."""
        rounds = int(seconds / self._sums[-1])
        rest = seconds - rounds * self._sums[-1]
        return rounds * DRAWN + bisect_right(self._sums, rest) - 1


def lognormal(generator: random.Random) -> float:
    """Some are far longer than others: one of a hundred takes six times the mean."""
    return generator.lognormvariate(0.0, 1.0)


def pareto(generator: random.Random) -> float:
    """A few are longer by orders: the longest of ten thousand takes about a hundred and fifty times the mean."""
    return min(generator.paretovariate(1.5), 1000.0)


class Running:
    """A chunk at the engine: on its way, in a queue, or on a worker."""

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.first = chunk.start
        self.taken = len(chunk.items)
        self.limit = NO_LIMIT  # what it was asked to stop before
        self.begun = 0.0
        self.has_ended = False  # which the client does not know yet
        self.worker: Worker | None = None
        self.plan = 0  # the latest of its ends is the one that counts


class Worker:
    """What runs one chunk at a time."""

    def __init__(self) -> None:
        self.running: Running | None = None
        self.waiting: deque[Running] = deque()
        self.is_gone = False


class Engine(Backend):
    """Workers on nodes that may fail, and items that kill the worker that runs them."""

    def __init__(self, kind: Kind, size: int, lengths: Lengths, deadly: frozenset[int] = frozenset()) -> None:
        most = _slots(size) if kind.queue else size
        super().__init__(Options({**DEFAULTS, "workers": most, "idle_timeout": None}))
        self.cost = kind.cost(size)
        self.kind = kind
        self.size = size
        self.lengths = lengths
        self.deadly = deadly
        self.now = 0.0
        self.useful = 0.0  # seconds of the items that came to their end
        self.busy = 0.0  # seconds that workers ran something
        self._busy_now, self._busy_since = 0, 0.0
        self.failed_nodes = 0
        self.sent: list[Chunk] = []  # by the client, since it was asked last
        self.told: list[Event] = []  # what the client can hear
        self.chunks: dict[int, Running] = {}
        self.workers: dict[Hashable, Worker] = {}
        self._queue: deque[Running] = deque()
        self._happens: list[tuple[float, int, Callable[[], None]]] = []
        self._tickets, self._names = count(), count()
        self._nodes: dict[int, list[Worker]] = {}
        self._free: list[Worker] = []
        if kind.queue:
            for node in range(-(-size // NODE)):
                self._add_node(node, min(NODE, size - node * NODE))

    # the contract

    def grow(self, count: int) -> list[Hashable]:
        names: list[Hashable] = [next(self._names) for _ in range(count)]
        if not self.kind.queue:
            self.workers |= {name: Worker() for name in names}
        return names

    def start(self, chunk: Chunk, mode: str) -> int:
        self.sent.append(chunk)
        return len(chunk.items)

    def position(self, chunk: Chunk) -> tuple[int, int, float] | None:
        running = self.chunks.get(chunk.number)
        if running is None or running.worker is None:
            return None
        if self.kind.queue:  # nobody knows from here
            return (0, running.taken, 0.0)
        offset = self._runs(running)
        if running.has_ended or offset >= running.taken:
            return (offset, 0, 0.0)
        return (offset, 1, self.now - running.begun - self._seconds(running, offset))

    def recall(self, chunk: Chunk, limit: int) -> None:
        running = self.chunks.get(chunk.number)
        if running is not None and not self.kind.queue:
            running.limit = limit
            if running.worker is not None and not running.has_ended:
                self._plan(running)

    def wait(self, timeout: float | None) -> list[Event]:
        told, self.told = self.told, []
        return told

    def wake(self) -> None:
        pass

    def close(self) -> None:
        pass

    # time

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Let something happen."""
        heappush(self._happens, (when, next(self._tickets), act))

    def go_on(self, until: float | None, *, deaf: bool = False) -> None:
        """Let happen what does: until then, or, if it is not *deaf*, until the client hears of something."""
        while self._happens:
            when = self._happens[0][0]
            if (until is not None and when > until) or (self.told and not deaf and when > self.now):
                break
            self.now = max(self.now, when)
            heappop(self._happens)[2]()
        if until is not None and (deaf or not self.told):
            self.now = max(self.now, until)

    def _tell(self, event: Event, about: int = 0) -> None:
        """Let the client hear something, a trip from now."""

        def hear() -> None:
            self.chunks.pop(about, None)
            self.told.append(event)

        self.at(self.now + self.kind.trip, hear)

    def _count_busy(self, more: int) -> None:
        self.busy += self._busy_now * (self.now - self._busy_since)
        self._busy_now, self._busy_since = self._busy_now + more, self.now

    def busy_until_now(self) -> float:
        """Seconds that workers ran something, on all of them."""
        self._count_busy(0)
        return self.busy

    # what happens

    def send_off(self, taken: float) -> None:
        """What the client has sent is on its way, or will be, one after the other, within the seconds *taken*."""
        for number, chunk in enumerate(self.sent, 1):
            running = self.chunks[chunk.number] = Running(chunk)
            when = self.now + taken * number / len(self.sent) + self.kind.trip
            self.at(when, lambda running=running: self._arrive(running))  # type: ignore[misc]
        self.sent.clear()

    def _arrive(self, running: Running) -> None:
        if self.kind.queue:
            self._queue.append(running)
            self._take_from_queue()
            return
        worker = self.workers.get(running.chunk.slot)
        if worker is None:  # dead since a moment ago: the client will hear of it
            return
        if worker.running is None:
            self._begin(worker, running)
        else:
            worker.waiting.append(running)

    def _begin(self, worker: Worker, running: Running) -> None:
        self._count_busy(1)
        worker.running, running.worker, running.begun = running, worker, self.now
        self._plan(running)

    def _seconds(self, running: Running, offset: int) -> float:
        lengths = self.lengths
        return lengths.until(running.first + offset) - lengths.until(running.first)

    def _runs(self, running: Running) -> int:
        """The offset of the item that runs now."""
        since = self.lengths.until(running.first) + self.now - running.begun
        return min(running.taken, max(0, self.lengths.reached(since) - running.first))

    def _plan(self, running: Running) -> None:
        """Work out when it comes to its end: of its items, its time or its limit, or to an item that is deadly."""
        done, budget = running.taken, running.chunk.budget
        if budget is not None and self._seconds(running, done) > budget:
            over = self.lengths.reached(self.lengths.until(running.first) + budget) - running.first
            done = min(done, over + 1)  # the item that runs when the time is up is the last one
        done = min(done, max(running.limit, self._runs(running) + 1 if self.now > running.begun else 0))
        deadly = next((item - running.first for item in self._deadly_in(running, done)), None)
        running.plan += 1
        plan, last = running.plan, done if deadly is None else deadly + 1
        end = max(self.now, running.begun + self._seconds(running, last))
        self.at(end, lambda: self._end(running, plan, done, deadly))

    def _deadly_in(self, running: Running, done: int) -> list[int]:
        first = running.first
        if not self.deadly:
            return []
        if len(self.deadly) < done:
            return sorted(item for item in self.deadly if first <= item < first + done)
        return [item for item in range(first, first + done) if item in self.deadly]

    def _end(self, running: Running, plan: int, done: int, deadly: int | None) -> None:
        worker, chunk = running.worker, running.chunk
        if plan != running.plan or worker is None:
            return
        seconds = self._seconds(running, done if deadly is None else deadly)
        self.useful += seconds
        self._count_busy(-1)
        running.has_ended = True
        worker.running = None
        if deadly is None:
            self._tell(Report(chunk.number, done, None, {}, seconds), chunk.number)
        elif self.kind.queue:  # somebody over there sees to it: the item has failed, what is behind it comes back
            failures = {deadly: _death(None, 0)}
            self._tell(Report(chunk.number, deadly + 1, None, failures, seconds), chunk.number)
        else:
            del self.workers[chunk.slot]
            self._tell(Died(chunk.slot, chunk.number, deadly, 1, _death), chunk.number)
            return
        if self.kind.queue:
            self._free.append(worker)
            self._take_from_queue()
        elif worker.waiting:
            self._begin(worker, worker.waiting.popleft())

    def _take_from_queue(self) -> None:
        while self._queue and self._free:
            worker = self._free.pop()
            if not worker.is_gone:
                self._begin(worker, self._queue.popleft())

    # nodes

    def fail_now_and_then(self, lifetime: float, repair: float, seed: int) -> None:
        """From now on each node fails after about *lifetime* seconds, and is there again after *repair*."""
        generator = random.Random(seed)

        def fail(node: int) -> None:
            size = len(self._nodes[node])
            self._fail(node)
            self.at(self.now + repair, lambda: come_back(node, size))

        def come_back(node: int, size: int) -> None:
            self._add_node(node, size)
            self._tell_capacity()
            self._take_from_queue()
            self.at(self.now + generator.expovariate(1 / lifetime), lambda: fail(node))

        for node in list(self._nodes):
            self.at(generator.expovariate(1 / lifetime), lambda node=node: fail(node))  # type: ignore[misc]

    def _add_node(self, node: int, size: int) -> None:
        self._nodes[node] = [Worker() for _ in range(size)]
        self._free += self._nodes[node]

    def _fail(self, node: int) -> None:
        self.failed_nodes += 1
        for worker in self._nodes.pop(node):
            worker.is_gone = True
            running, worker.running = worker.running, None
            if running is not None:
                running.plan += 1
                running.has_ended = True
                self._count_busy(-1)
                self._tell(Lost(running.chunk.number, 0, _death), running.chunk.number)
        self._tell_capacity()

    def _tell_capacity(self) -> None:
        size = sum(map(len, self._nodes.values()))
        self._tell(Capacity(_slots(size), self.cost))


def _slots(size: int) -> int:
    """As many as the client gives chunks to: some more than can run, so that each worker finds the next one there."""
    return size + size // 4 + 1


def _death(_: Chunk | None, __: int) -> Failure:
    return Failure(WorkerDiedError("died"))
