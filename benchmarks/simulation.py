"""parmap's own ledger, driving an engine that exists only here, by a clock that nobody waits for.

The ledger and its scheduler are the real ones. Simulated are the time, the trip to a worker, the workers, and the nodes
that they run on. What the ledger takes of the processor is measured, and the clock goes on by it if that is wanted: so
it shows where a single client can't keep its workers busy.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from parmap._core.elastic import ElasticLedger
from parmap._core.job import Job
from parmap._work.run import Callee
from parmap.backends._base import Capacity, Died, Report

if TYPE_CHECKING:
    from collections.abc import Iterable

    from parmap._core.job import Chunk
    from parmap._travel.failure import Failure
    from parmap.backends._base import Event
    from simulated import Engine

CALL: Any = SimpleNamespace(callee=Callee(None))
"""What the items are given to: nothing is run."""


class Sink:
    """Where outcomes go: counted, and if there are few, one by one."""

    mode = "map"

    def __init__(self, size: int, *, each: bool) -> None:
        self.ended = self.failed = 0
        self.often: bytearray | None = bytearray(size) if each else None
        self.is_over = False

    def load(self, items: Any) -> Any:
        return items

    def started(self, items: Any) -> None:
        pass

    def index(self, chunk: Chunk, offset: int) -> int:
        return chunk.start + offset

    def deliver(self, chunk: Chunk, done: int, _: Any, failures: dict[int, Failure]) -> None:
        self.ended += done
        self.failed += len(failures)
        if self.often is not None:
            for offset in range(done):
                self.often[chunk.start + offset] += 1

    def finish(self, failure: Failure | None, left: Iterable[Any]) -> None:
        self.is_over = True


class Found(NamedTuple):
    """What came of a batch."""

    chunks: int
    seconds: float
    """On the clock of the simulation."""
    client: float
    """Of the processor, for the ledger and its scheduler."""
    useful: float
    """The share of all workers' time that went into items that came to their end."""
    busy: float
    """The share of their time that they ran something, until no item waited any more."""
    ended: int
    failed: int
    sink: Sink


def drive(engine: Engine, size: int, *, charged: bool, more: float = 0.0, each: bool = False) -> Found:
    """Run *size* items to their end; *each*: count each item.

    The clock goes on by *more* seconds for each chunk that is sent, and, if *charged*, by what the ledger takes.
    """
    sink = Sink(size, each=each)
    ledger = ElasticLedger(engine, engine.now)
    job = Job(CALL, sink)
    job.extend(range(size))
    client, chunks = 0.0, 0
    busy: float | None = None
    ledger.scheduler.add(job)
    while not sink.is_over:
        events = engine.wait(None)
        begin = time.thread_time()
        now = engine.now
        for event in events:
            hear(ledger, event, now)
        ledger.ring(now)
        ledger.dispatch(now)
        timeout = ledger.timeout(now)
        taken = time.thread_time() - begin
        client += taken
        taken = (taken if charged else 1e-6) + more * len(engine.sent)  # two looks at a clock differ
        chunks += len(engine.sent)
        engine.send_off(taken)
        engine.go_on(now + taken, deaf=True)
        if busy is None and not job.waiting:
            busy = engine.busy_until_now() / max(engine.now, 1e-9)
        if not sink.is_over:
            engine.go_on(None if timeout is None else now + timeout)
    return Found(
        chunks,
        engine.now,
        client,
        engine.useful / engine.now / engine.size,
        (busy or 0.0) / engine.size,
        sink.ended,
        sink.failed,
        sink,
    )


def hear(ledger: ElasticLedger, event: Event, now: float) -> None:
    """Tell the ledger, as `_engine.engine` does."""
    if isinstance(event, Report):
        ledger.report(event, now)
    elif isinstance(event, Died):
        ledger.died(event, now)
    elif isinstance(event, Capacity):
        ledger.employ(event.workers, event.cost)
    else:
        ledger.lost(event, now)
