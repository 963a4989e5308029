"""Items that wait behind a slow one are taken back, and run nowhere twice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fake_backend import COST, Recorder, paced

from parmap._core.job import Job
from parmap._core.ledger import Ledger
from parmap._work.page import PLACES
from parmap.backends._base import Backend, Report

if TYPE_CHECKING:
    from collections.abc import Hashable

    from parmap._core.job import Chunk


class Slow(Backend):
    """Two workers; the first is in its first item for ever, and comes to nothing behind it."""

    cost = COST

    def __init__(self) -> None:
        options: Any = SimpleNamespace(
            workers=2, idle_timeout=None, max_tasks_per_child=None, max_memory_per_child=None
        )
        super().__init__(options)
        self.sent: dict[Hashable, list[Chunk]] = {1: [], 2: []}

    def grow(self, count: int) -> list[Hashable]:
        return [1, 2][:count]

    def start(self, chunk: Chunk, mode: str) -> int:
        self.sent[chunk.slot].append(chunk)
        return len(chunk.items)

    def position(self, chunk: Chunk) -> tuple[int, int, float] | None:
        return (0, 1, 60.0) if chunk is self.sent[chunk.slot][0] else None

    def wait(self, timeout: float | None) -> list[Any]:
        return []

    def wake(self) -> None:
        pass

    def close(self) -> None:
        pass


def _go_on(ledger: Ledger, backend: Slow, now: float) -> float:
    """Let the second worker do whatever there is to do; returns the time after that."""
    for _ in range(300):
        ledger.ring(now)
        ledger.dispatch(now)
        for chunk in backend.sent[2]:
            _report(ledger, chunk, now)
        now += 0.01
    return now


def _report(ledger: Ledger, chunk: Chunk, now: float, done: int | None = None) -> None:
    ledger.report(Report(chunk.number, len(chunk.items) if done is None else done, None, {}, 0.001), now)


def _job(ledger: Ledger, count: int) -> Job:
    job = Job("call", Recorder(), pace=paced(0.001))
    job.extend(range(count))
    ledger.scheduler.add(job)
    return job


def test_what_was_taken_back_keeps_its_place() -> None:
    """A worker that may not have seen yet that a chunk was taken back gets no other whose limit would be in its place."""
    backend = Slow()
    ledger = Ledger(backend, 100.0)
    first = _job(ledger, 100)
    now = _go_on(ledger, backend, 100.0)
    slow, behind = backend.sent[1]
    assert not len(behind.items)

    _report(ledger, slow, now)
    now += 0.001
    assert len(first.sink.outcomes) == 100  # type: ignore[attr-defined]  # the recorder's
    second = _job(ledger, 100)
    ledger.dispatch(now)
    held = backend.sent[1][1:]
    assert held[0] is behind
    assert len({chunk.number % PLACES for chunk in held}) == len(held) == 2

    _report(ledger, behind, now, done=0)
    ledger.dispatch(now)
    assert len(backend.sent[1]) == 4
    for chunk in backend.sent[1][2:]:
        _report(ledger, chunk, now)
    _go_on(ledger, backend, now)
    assert len(second.sink.outcomes) == 100  # type: ignore[attr-defined]  # the recorder's
