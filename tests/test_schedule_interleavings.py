"""The scheduler under any interleaving: whatever workers do, each item has exactly one outcome and nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fake_backend import Bench, Recorder, failed
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from parmap._core.job import Job

if TYPE_CHECKING:
    from parmap._core.job import Chunk

WORKERS = 3


class Interleavings(RuleBasedStateMachine):
    """Workers report, give back, die and are replaced; callers add, extend, drop and cancel; time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(workers=WORKERS, slots=0)
        self.flight: list[Chunk] = []
        self.jobs: list[Job] = []
        self.dropped: dict[Job, set[int]] = {}
        self.cancelled: set[Job] = set()
        self.given: dict[Any, int] = {}  # tasks that a worker was given and did not hand back
        self.budgets: dict[Any, int | None] = {}
        self.names = 0

    @initialize(size=st.integers(0, 30), chunksize=st.none() | st.integers(2, 10), budget=st.none() | st.integers(1, 8))
    def begin(self, size: int, chunksize: int | None, budget: int | None) -> None:
        self.add_job(size, as_list=True, chunksize=chunksize)
        self.add_worker(budget)
        self.add_worker(None)
        self.cut()

    # callers

    @precondition(lambda self: len(self.jobs) < 4)
    @rule(
        size=st.integers(0, 30),
        as_list=st.booleans(),
        chunksize=st.none() | st.integers(1, 6),
        retries=st.integers(0, 2),
        retry_delay=st.sampled_from([0.0, 0.5]),
        fail_fast=st.booleans(),
        open_end=st.booleans(),
    )
    def add_job(self, size: int, *, as_list: bool, **options: Any) -> None:
        job = Job("call", Recorder(), **options)
        job.extend(list(range(size)) if as_list else range(size))
        self.jobs.append(job)
        self.dropped[job] = set()
        self.bench.scheduler.add(job)

    @precondition(lambda self: any(job.open_end for job in self.jobs))
    @rule(data=st.data(), size=st.integers(0, 10), last=st.booleans())
    def extend(self, data: st.DataObject, size: int, *, last: bool) -> None:
        job = data.draw(st.sampled_from([job for job in self.jobs if job.open_end]))
        if size:
            job.extend(list(range(job.read, job.read + size)))
        job.open_end = not last
        self.bench.scheduler.add(job)

    @precondition(lambda self: any(not job.closed and job.waiting for job in self.jobs))
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from([job for job in self.jobs if not job.closed and job.waiting]))
        waiting = [item for piece in job.pending for item in piece.items if item not in self.dropped[job]]
        if waiting:
            item = data.draw(st.sampled_from(waiting))
            self.dropped[job].add(item)
            self.bench.scheduler.drop(job, item)

    @precondition(lambda self: any(not job.closed for job in self.jobs))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from([job for job in self.jobs if not job.closed]))
        self.cancelled.add(job)
        self.bench.scheduler.cancel(job)

    # workers

    @precondition(lambda self: len(self.bench.scheduler.slots) < WORKERS)
    @rule(budget=st.none() | st.integers(1, 8))
    def add_worker(self, budget: int | None) -> None:
        self.names += 1
        self.budgets[self.names] = budget
        self.given[self.names] = 0
        self.bench.scheduler.add_slot(self.names, budget)

    @rule()
    def cut(self) -> None:
        for chunk in self.bench.cut_all():
            assert len(chunk.items)
            self.given[chunk.slot] += len(chunk.items)
            self.flight.append(chunk)

    def running(self, data: st.DataObject) -> Chunk:
        """A chunk that is the first of its worker: the others wait behind it."""
        firsts = [slot.flight[0] for slot in self.bench.scheduler.slots.values() if slot.flight]
        return data.draw(st.sampled_from(firsts))

    @precondition(lambda self: self.flight)
    @rule(data=st.data(), each=st.sampled_from([1e-6, 1e-3, 0.1]), retry=st.booleans())
    def report(self, data: st.DataObject, each: float, *, retry: bool) -> None:
        chunk = self.running(data)
        size = len(chunk.items)
        done = data.draw(st.integers(0, size))
        bad = data.draw(st.sets(st.integers(0, done - 1), max_size=2)) if done else set()
        self.given[chunk.slot] -= size - done
        self.flight.remove(chunk)
        self.bench.finish(chunk, done, {offset: failed(retry=retry) for offset in bad}, each=each)

    @precondition(lambda self: self.flight)
    @rule(data=st.data(), retry=st.booleans(), started=st.booleans(), cancelled=st.booleans())
    def die(self, data: st.DataObject, *, retry: bool, started: bool, cancelled: bool) -> None:
        chunk = self.running(data)
        position = None
        if started:
            offset = data.draw(st.integers(0, len(chunk.items) - 1))
            position = offset, data.draw(st.just(1) | st.integers(1, len(chunk.items) - offset))
        failure = failed(retry=retry)
        if cancelled and position is not None and position[1] == 1 and not chunk.job.closed:
            failure = None  # type: ignore[assignment]
            self.dropped[chunk.job].add(chunk.items[position[0]])
        chunks = self.bench.scheduler.remove_slot(chunk.slot)
        for held in reversed(chunks):
            self.flight.remove(held)
            if held is chunk:
                self.bench.scheduler.died(held, position, failure, self.bench.now)
            else:
                self.bench.scheduler.put_back(held)

    @precondition(lambda self: self.flight)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        chunk = data.draw(st.sampled_from(self.flight))
        if len(chunk.items) > 1:
            keep = data.draw(st.integers(1, len(chunk.items) - 1))
            self.given[chunk.slot] -= len(chunk.items) - keep
            self.bench.scheduler.trim(chunk, keep)

    @rule(seconds=st.sampled_from([0.001, 0.3, 2.0]))
    def wait(self, seconds: float) -> None:
        self.bench.now += seconds

    # what must hold at any time

    @invariant()
    def budgets_are_kept(self) -> None:
        for name, budget in self.budgets.items():
            assert budget is None or self.given[name] <= budget

    @invariant()
    def counts_agree(self) -> None:
        for job in self.jobs:
            assert job.waiting == sum(len(piece.items) for piece in job.pending)
            assert (starts := [piece.start for piece in job.pending]) == sorted(starts)
            assert job.closed == job.sink.ended  # type: ignore[attr-defined]
            assert (job in self.bench.scheduler.jobs) == bool(job.waiting)

    @invariant()
    def flight_is_known_on_both_sides(self) -> None:
        assert set(self.flight) == {chunk for slot in self.bench.scheduler.slots.values() for chunk in slot.flight}
        assert all(chunk in chunk.job.flight for chunk in self.flight)
        assert all(len(slot.flight) <= 2 for slot in self.bench.scheduler.slots.values())
        free = {name for name, slot in self.bench.scheduler.slots.items() if not slot.flight}
        assert set(self.bench.scheduler.vacancies.idle) == free
        assert not (self.flight and self.bench.scheduler.is_idle)

    @invariant()
    def time_of_a_retry_is_told(self) -> None:
        if any(job.delayed for job in self.jobs):
            assert self.bench.scheduler.next_time() is not None

    def teardown(self) -> None:  # noqa: C901 - one story
        """Let everything run to its end: then each item has had exactly one outcome, or was taken out."""
        for job in self.jobs:
            if job.open_end:
                job.open_end = False
                self.bench.scheduler.add(job)
        for _ in range(2000):
            if self.bench.scheduler.is_idle:
                break
            self.names += 1
            for name in [name for name in self.bench.scheduler.slots if self.bench.scheduler.is_spent(name)]:
                self.bench.scheduler.remove_slot(name)
            if len(self.bench.scheduler.slots) < WORKERS:
                self.bench.scheduler.add_slot(self.names)
            self.bench.now += 10.0
            self.bench.cut_all()
            for slot in list(self.bench.scheduler.slots.values()):
                while slot.flight:
                    self.bench.finish(slot.flight[0], each=0.001)
        assert self.bench.scheduler.is_idle
        for job in self.jobs:
            sink: Any = job.sink
            assert sink.ended
            if job in self.cancelled or sink.failure is not None:
                left = {index for index in sink.left if index not in self.dropped[job]}
                known = set(sink.outcomes) | left | self.dropped[job]
                assert known == set(range(job.read))
            else:
                assert set(sink.outcomes) | self.dropped[job] == set(range(job.read))
                assert not set(sink.outcomes) & self.dropped[job]


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=100, stateful_step_count=60, suppress_health_check=list(HealthCheck))
