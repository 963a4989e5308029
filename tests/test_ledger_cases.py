"""What the core must do in some situations that are rare, or need thousands of items."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import tasks
from fake_backend import Bench, Recorder, failed
from fake_workers import CALL, FakeBackend, FakeWorker, Task
from inspection import pids_of, wait_until_leased
from test_ledger import Sink

from conftest import wait_until
from parmap import parallel
from parmap._core.elastic import ElasticLedger
from parmap._core.job import Job
from parmap._core.ledger import Ledger
from parmap._core.states import State
from parmap._travel.failure import Failure
from parmap._work.page import NO_LIMIT
from parmap.backends._base import Lost, Part, Report
from parmap.errors import PoolClosedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from parmap._core.job import Chunk


class Cluster(FakeBackend):
    """Chunks that run somewhere else."""

    leases = announces = False

    def start(self, chunk: Chunk, mode: str) -> int:
        """It is sent."""
        return len(chunk.items)

    def position(self, chunk: Chunk) -> Any:
        """All of it may be running."""
        return 0, len(chunk.items), 0.0


class Desk:
    """A ledger of two workers that have started."""

    def __init__(self, workers: int = 2) -> None:
        self.now = 100.0
        self.backend = FakeBackend(workers, None, None, recalls=True)
        self.ledger = Ledger(self.backend, self.now)

    def job(self, size: int, *, singles: bool = False, **options: Any) -> Job:
        """Start a job whose items are known to be short; *singles*: they are tasks of `submit`."""
        job = Job(CALL, Sink(singles=singles), **options)
        job.pace.seconds = 0.001
        job.extend(job.sink.items(size))  # type: ignore[attr-defined]
        self.ledger.scheduler.add(job)
        self.turn()
        for worker in self.backend.workers.values():
            self.backend.get_ready(worker)
        self.turn()
        return job

    def turn(self) -> None:
        """One step of the engine."""
        self.backend.now = self.now
        self.ledger.ring(self.now)
        self.ledger.dispatch(self.now)
        for event in self.backend.wait(None):
            if type(event).__name__ == "Report":
                self.ledger.report(event, self.now)
            else:
                self.ledger.ready(event.slot)

    def wait(self, seconds: float) -> None:
        """Time passes, in which the engine wakes when it wanted to."""
        end = self.now + seconds
        while (timeout := self.ledger.timeout(self.now)) is not None and self.now + timeout <= end:
            self.now += timeout + 1e-6
            self.turn()
        self.now = end

    def do(self, worker: FakeWorker) -> None:
        """Let a worker do its first chunk."""
        while worker.chunks[0].step(1, self.now):
            pass
        self.backend.report(worker, worker.chunks[0].ran, {})
        self.turn()
        self.turn()


def test_many_jobs_of_cancelled_items_are_passed_over() -> None:
    """Thousands of functions whose only task was cancelled while it waited are no trouble."""
    bench = Bench(workers=1, slots=0)
    for number in range(3000):
        job = bench.job([number])
        bench.scheduler.drop(job, number)
    bench.scheduler.add_slot(0)

    assert bench.cut() is None
    assert bench.scheduler.is_idle


def test_a_job_that_ends_does_not_look_at_what_is_left() -> None:
    """What is left of a long input is told lazily: nobody may want it, and it may be a range of a billion."""

    class Indifferent(Recorder):
        def finish(self, failure: Failure | None, left: Iterable[Any]) -> None:
            self.failure, self.first = failure, next(iter(left))

    bench = Bench()
    job = Job("call", Indifferent(), fail_fast=True)
    job.extend(range(10**12))
    bench.scheduler.add(job)
    chunk = bench.cut()
    assert chunk is not None
    bench.finish(chunk, 1, {0: Failure(ValueError())})

    assert job.sink.failure is not None  # type: ignore[attr-defined]
    assert job.closed


def test_the_engine_rests_while_a_closed_job_has_a_slow_item() -> None:
    """Work that nobody wants any more, and that is not killed, is not looked at again and again."""
    desk = Desk()
    job = desk.job(40)
    slow, quick = desk.backend.workers.values()
    slow.chunks[0].step(1, desk.now)
    while quick.chunks:
        desk.do(quick)
    assert len(slow.chunks[0].fates) > 1
    desk.ledger.cancel(job, desk.now, kill=False)
    desk.now += 10.0
    for _ in range(3):
        desk.turn()
        desk.now += 1e-6

    assert desk.ledger.timeout(desk.now) != 0.0


def test_nothing_is_sent_behind_what_was_cancelled() -> None:
    """It would wait until that is known to run, and its worker killed; then later items may have begun, and be slow."""
    desk = Desk(1)
    unwanted = desk.job(1)
    (worker,) = desk.backend.workers.values()
    worker.chunks[0].step(1, desk.now)
    desk.ledger.cancel(unwanted, desk.now)
    wanted = desk.job(1)
    assert len(worker.chunks) == 1

    desk.do(worker)

    assert [chunk.number for chunk in worker.chunks] == [chunk.number for chunk in wanted.flight]


def test_all_that_waits_behind_a_slow_item_is_asked_for_at_once() -> None:
    """Several chunks of one item each may wait there: the engine need not turn once for each of them."""
    desk = Desk()
    job = Job(CALL, Sink(), chunksize=1)
    job.pace.seconds = 0.0001
    job.extend(job.sink.items(16))  # type: ignore[attr-defined]
    desk.ledger.scheduler.add(job)
    desk.turn()
    slow, quick = desk.backend.workers.values()
    slow.chunks[0].step(1, desk.now)
    while quick.chunks:
        desk.do(quick)
    desk.now += 0.1
    desk.ledger.ring(desk.now)

    assert [chunk.limit for chunk in slow.chunks] == [NO_LIMIT, *[0] * 7]


def test_a_worker_that_cannot_be_taken_back_is_looked_after() -> None:
    """A task whose caller was interrupted before it was sent, long after the last look, is found when work waits."""
    desk = Desk(1)
    job = desk.job(1)
    (worker,) = desk.backend.workers.values()
    desk.do(worker)
    assert desk.ledger.scheduler.slots[worker.name].state is State.LEASED

    (future,) = Sink(singles=True).items(1)
    worker.flight[1] = Task(future)
    later = desk.job(2)
    for _ in range(100):
        desk.now += 0.1
        desk.turn()
        if worker.flight and worker.flight[1].state == "sent":
            worker.flight[1].state = "answered"
        while worker.chunks:
            desk.do(worker)

    assert job.closed
    assert later.closed


def test_a_task_that_a_dead_worker_had_not_begun_runs_elsewhere() -> None:
    """Its future gives the result, though the line that it was sent on is closed."""
    f = parallel(tasks.nap, workers=1)
    f.submit(0).result()
    wait_until_leased(f)
    (pid,) = pids_of(f)
    os.kill(pid, signal.SIGSTOP)
    future = f.submit(0.3)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pids_of(f) not in ([], [pid]))

    assert future.result(timeout=20) == 0.3


def test_parts_of_a_chunk():
    """Each item has one outcome, though parts come twice, or of a second run that was cut in another way."""
    ledger = ElasticLedger(Cluster(2, None, None, recalls=False), 100.0)
    job = Job(CALL, Recorder(), chunksize=10)
    job.extend(range(10))
    ledger.scheduler.add(job)
    ledger.dispatch(100.0)
    (chunk,) = job.flight
    for start, length, has_run, failures in [
        (2, 3, True, {}),
        (0, 4, True, {3: failed()}),  # it has ended well already
        (7, 2, False, {}),
        (7, 2, False, {}),
        (6, 4, True, {3: failed()}),  # two of these are to be run elsewhere
    ]:
        ledger.part(Part(chunk.number, start, length, has_run, None, failures), 100.1)
    assert sorted(job.sink.outcomes) == [0, 1, 2, 3, 4, 6, 9]
    assert job.sink.outcomes[9] != "ok"
    assert job.waiting == 2

    ledger.report(Report(chunk.number, 0, None, {}, 0.0), 100.2)
    assert [piece.items for piece in job.pending] == [range(5, 6), range(7, 9)]
    while not job.sink.ended:
        ledger.dispatch(100.3)
        for left in list(job.flight):
            ledger.report(Report(left.number, len(left.items), None, {}, 0.1), 100.4)
    assert len(job.sink.outcomes) == 10


def test_a_deadline_when_parts_have_come():
    """When the deadline passes, what has an outcome already, or waits again, gets no second one."""
    ledger = ElasticLedger(Cluster(2, None, None, recalls=False), 100.0)
    job = Job(CALL, Recorder(), chunksize=10)
    job.extend(range(10))
    ledger.scheduler.add(job)
    ledger.limit(job, 1.0, 100.0)
    ledger.dispatch(100.0)
    (chunk,) = job.flight
    ledger.part(Part(chunk.number, 2, 3, True, None, {}), 100.1)
    ledger.part(Part(chunk.number, 7, 2, False), 100.1)
    ledger.ring(101.0)

    assert job.sink.ended
    assert [number for number, outcome in sorted(job.sink.outcomes.items()) if outcome == "ok"] == [2, 3, 4]
    assert len(job.sink.outcomes) == 10


def test_a_chunk_is_lost_whose_deadline_has_passed():
    """Nobody wants its items any more; but its worker, which goes on, is free for others."""
    ledger = ElasticLedger(Cluster(1, None, None, recalls=False), 100.0)
    late, other = (Job(CALL, Recorder()) for _ in range(2))
    late.extend(range(1))
    ledger.scheduler.add(late)
    ledger.limit(late, 1.0, 100.0)
    ledger.dispatch(100.0)
    (chunk,) = late.flight
    ledger.ring(101.0)
    assert late.sink.ended
    ledger.lost(Lost(chunk.number, 0, lambda *_: failed()), 101.1)
    assert ledger.scheduler.is_idle

    other.extend(range(1))
    ledger.scheduler.add(other)
    ledger.dispatch(101.2)
    assert other.flight


def test_workers_that_are_started_ahead_of_work_stay_for_a_while() -> None:
    """However long nobody has used the pool: `idle_timeout` begins anew."""
    backend = FakeBackend(2, None, 10.0, recalls=True)
    ledger = Ledger(backend, 100.0)
    ledger.warm_up(2, 500.0)

    assert ledger.timeout(500.1) == pytest.approx(9.9)
    assert len(backend.workers) == 2
    assert ledger.timeout(510.0) is None
    assert not backend.workers


def test_a_signal_that_comes_late_frees_the_rest_of_a_block() -> None:
    """A busy worker tells late which item of a block it runs: those behind that one are wanted still."""
    desk = Desk()
    desk.job(400)
    slow, quick = desk.backend.workers.values()
    desk.backend.signals_are_late = True
    slow.chunks[0].step(3, desk.now)
    block = slow.chunks[0].fates[:3]
    for _ in range(1000):
        while quick.chunks:
            desk.do(quick)
        desk.now += 0.001
        desk.turn()
    assert [fate.outcome for fate in block] == [None] * 3

    desk.backend.let_signals_through()
    for _ in range(4000):
        while quick.chunks:
            desk.do(quick)
        desk.now += 0.001
        desk.turn()

    assert [fate.outcome for fate in block] == [None, "ok", "ok"]


@pytest.mark.parametrize("timeout", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("times", [1, 3])
def test_time_in_which_the_program_stands_still_is_not_the_item_s(timeout: float, times: int) -> None:
    """In a container that is paused for an hour, no item becomes an hour older; but each has a limit all the same."""
    desk = Desk(1)
    desk.job(1, timeout=timeout)
    (worker,) = desk.backend.workers.values()
    worker.chunks[0].step(1, desk.now)
    for _ in range(times):
        desk.wait(timeout / 10)
        desk.now += 3600.0
        desk.turn()
    desk.wait(timeout / 10)
    assert not worker.is_doomed

    desk.wait(timeout)
    assert worker.is_doomed


def test_an_item_has_a_limit_in_a_program_that_is_hardly_awake() -> None:
    """The main thread holds the GIL for ten seconds, again and again: later than otherwise, a task that hangs ends."""
    desk = Desk(1)
    desk.job(1, timeout=5.0)
    (worker,) = desk.backend.workers.values()
    worker.chunks[0].step(1, desk.now)
    for _ in range(20):
        desk.now += 10.0
        desk.turn()

    assert worker.is_doomed


def test_time_in_which_the_program_stood_still_is_that_of_one_item() -> None:
    """The next item of the same chunk has its own time, and hardly more."""
    desk = Desk(1)
    desk.job(2, timeout=10.0, chunksize=2)
    (worker,) = desk.backend.workers.values()
    worker.chunks[0].step(1, desk.now)
    desk.now += 3600.0
    desk.turn()
    worker.chunks[0].step(1, desk.now)
    desk.wait(9.0)
    assert not worker.is_doomed

    desk.wait(4.0)
    assert worker.is_doomed


def test_what_has_ended_while_the_program_stood_still_is_in_time() -> None:
    """The deadline has passed, too, when it goes on: reports that lie there are heard first."""
    ledger = ElasticLedger(Cluster(2, None, None, recalls=False), 100.0)
    job = Job(CALL, Recorder(), chunksize=1)
    job.extend(range(3))
    ledger.scheduler.add(job)
    ledger.limit(job, 10.0, 100.0)
    ledger.dispatch(100.0)
    first, _ = job.flight
    ledger.ring(3700.0)
    ledger.report(Report(first.number, 1, None, {}, 1.0), 3700.0)
    wait = ledger.timeout(3700.0)
    assert wait is not None
    ledger.ring(3700.0 + wait + 1e-6)

    assert job.sink.ended
    assert [place for place, outcome in job.sink.outcomes.items() if outcome == "ok"] == [first.start]
    assert len(job.sink.outcomes) == 3


@pytest.mark.parametrize("is_told", [True, False])
def test_what_is_cancelled_while_it_fails_is_not_tried_again(is_told: bool) -> None:
    """Nobody waits for another attempt, and nothing may wait with it, be its failure told just before or after."""
    desk = Desk(1)
    job = desk.job(1, singles=True, retries=1, retry_delay=1e10)
    (worker,) = desk.backend.workers.values()
    first = next(iter(job.left()))
    while worker.chunks[0].step(1, desk.now):
        pass
    if is_told:
        desk.backend.report(worker, 1, {0: failed(retry=True)})
    assert desk.ledger.cancel_item(job, first, desk.now)
    if not is_told:
        desk.backend.report(worker, 1, {0: failed(retry=True)})
    desk.turn()

    assert desk.ledger.scheduler.is_idle
    assert not job.dropped


def test_workers_whose_start_nobody_waits_for() -> None:
    """Work that is dropped ends those that start, too; else a patient pool waits for them, and no other one."""
    backend = FakeBackend(2, None, None, recalls=True)
    ledger = ElasticLedger(backend, 100.0)
    ledger.warm_up(2, 100.0)
    first, second = backend.workers.values()
    over = partial(ledger.scheduler.is_over, dropped=False)

    assert (over(patient=True), over(patient=False)) == (False, True)
    ledger.ready(first.name)
    ledger.drop_all(PoolClosedError(), 100.0)
    assert (first.is_doomed, second.is_doomed) == (False, True)
    ledger.ready(second.name)
    assert over(patient=True)
