"""The whole core under any interleaving: each item has one outcome, each worker one state, and nothing is kept."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

import pytest
from fake_workers import CALL, FakeBackend, FakeWorker, Fate, Item, Task, Thing
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from parmap._core.job import Job
from parmap._core.ledger import MERCY
from parmap._core.limits import LimitedLedger
from parmap._core.schedule import BRIEF
from parmap._core.states import State
from parmap._travel.failure import Failure
from parmap._work.page import NO_LIMIT, PLACES
from parmap.errors import PoolClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from parmap._core.job import Chunk

WORKERS = 3
SOON = 0.5
"""Seconds within which the core must have done what it has to."""


class Sink:
    """Gives each item its outcome, and complains about what it must never be told."""

    mode = "map"

    def __init__(self, *, singles: bool = False) -> None:
        self.fates: list[Fate] = []
        self.singles = singles
        self.has_ended = False
        self.has_failed = False

    def items(self, count: int) -> list[Item]:
        """New items."""
        new = [Fate(len(self.fates) + number) for number in range(count)]
        self.fates += new
        for fate in new:
            fate.is_single = self.singles
        return [Item(fate) if self.singles else Thing(fate) for fate in new]

    @staticmethod
    def load(items: Any) -> Any:
        """The items."""
        return items

    def started(self, items: Any) -> None:
        """Nothing depends on it."""

    def index(self, chunk: Chunk, offset: int) -> int | None:
        """The number of an item."""
        return None if self.singles else chunk.start + offset

    def deliver(self, chunk: Chunk, done: int, _: Any, failures: dict[int, Failure]) -> None:
        """Settle items."""
        assert not self.has_ended, "an outcome after the end"
        assert done <= len(chunk.items)
        for offset in range(done):
            fate = chunk.items[offset].fate
            if not self.singles:
                assert fate.index == chunk.start + offset, "a number and its item have come apart"
            fate.settle(failures.get(offset) or "ok")

    def finish(self, failure: Failure | None, left: Iterable[Item]) -> None:
        """All are settled, or left over."""
        assert not self.has_ended, "a second end"
        self.has_ended = True
        self.has_failed = failure is not None
        for item in left:
            if not (self.singles and item.happened):
                item.fate.settle(failure or "dropped")
        assert all(fate.outcome for fate in self.fates if not self.singles), "an item was lost"


class Core(RuleBasedStateMachine):
    """Callers submit, cancel, are interrupted; workers start, run, fail, die; time passes."""

    @initialize(
        budget=st.sampled_from([None, None, None, 1, 5]),
        memory=st.sampled_from([None, None, None, 2]),
        idle_timeout=st.sampled_from([None, None, 0.5, 5.0]),
        recalls=st.booleans(),
    )
    def begin(self, budget: int | None, memory: int | None, idle_timeout: float | None, *, recalls: bool) -> None:
        self.backend = FakeBackend(WORKERS, budget, idle_timeout, recalls=recalls, memory=memory)
        self.now = 100.0
        self.ledger = LimitedLedger(self.backend, self.now)
        self.jobs: list[Job] = []
        self.lane = Sink(singles=True)
        self.lane_job: Job | None = None
        self.lane_options: dict[str, Any] = {}
        self.budget = budget
        self.has_been_ended = False
        self.unwanted: dict[int, float] = {}  # chunks whose job was cancelled, and when
        self.last: dict[int, int] = {}  # with the last of the chunks that there were then
        self.cancelled: dict[Fate, float] = {}
        self.held_since: float | None = None
        self.full: dict[Job, int] = {}  # jobs of which nothing is to begin, with the last of the chunks then

    # the engine

    def turn(self) -> None:
        """One step of the engine, and the events that it hears."""
        self.backend.now = self.now
        in_vain = 0
        while in_vain < 5:
            self.ledger.ring(self.now)
            self.ledger.dispatch(self.now)
            timeout = self.ledger.timeout(self.now)
            events = self.backend.wait(timeout)
            for event in events:
                self.hear(event)
            if not events and timeout != 0.0:
                return
            in_vain = 0 if events else in_vain + 1
            self.now += 1e-6  # two looks at the clock differ
            self.backend.now = self.now
        raise AssertionError("the engine turns without rest")

    def hear(self, event: Any) -> None:
        kind = type(event).__name__
        if kind == "Report":
            self.ledger.report(event, self.now)
        elif kind == "Died":
            self.post(self.ledger.died(event, self.now))
        elif kind == "Ready":
            self.ledger.ready(event.slot)
        else:
            self.ledger.lose_all(event.error, self.now)

    def post(self, futures: list[Item]) -> None:
        """Queue single tasks."""
        if not futures:
            return
        if self.lane_job is None or self.lane_job.closed:
            self.lane.has_ended = False
            self.lane_job = Job(CALL, self.lane, **self.lane_options)
            self.jobs.append(self.lane_job)
        self.lane_job.extend(futures)
        self.ledger.scheduler.add(self.lane_job)

    # callers

    @precondition(lambda self: len(self.jobs) < 6)
    @rule(
        size=st.integers(0, 20),
        chunksize=st.none() | st.integers(1, 6),
        retries=st.integers(0, 2),
        retry_delay=st.sampled_from([0.0, 0.5]),
        timeout=st.sampled_from([None, 0.3, 1000.0]),
        fail_fast=st.booleans(),
        open_end=st.booleans(),
        seconds=st.sampled_from([None, 0.001, 0.0001]),
    )
    def add_job(self, size: int, seconds: float | None, **options: Any) -> None:
        job = Job(CALL, Sink(), **options)
        job.pace.seconds = seconds
        self.jobs.append(job)
        if size:
            job.extend(job.sink.items(size))  # type: ignore[attr-defined]
        self.ledger.scheduler.add(job)
        self.turn()

    @precondition(lambda self: any(job.open_end for job in self.jobs))
    @rule(data=st.data(), size=st.integers(0, 10), last=st.booleans())
    def extend(self, data: st.DataObject, size: int, *, last: bool) -> None:
        job = data.draw(st.sampled_from([job for job in self.jobs if job.open_end]))
        if size:
            job.extend(job.sink.items(size))  # type: ignore[attr-defined]
        job.open_end = not last
        self.ledger.scheduler.add(job)
        self.turn()

    @precondition(lambda self: any(not job.closed for job in self.jobs))
    @rule(data=st.data(), kill=st.booleans())
    def cancel_job(self, data: st.DataObject, *, kill: bool) -> None:
        self.cancel(data.draw(st.sampled_from([job for job in self.jobs if not job.closed])), kill=kill)

    def cancel(self, job: Job, *, kill: bool) -> None:
        if kill:
            self.unwanted.update((chunk.number, self.now) for chunk in job.flight)
        self.last.update((chunk.number, max(self.ledger._chunks)) for chunk in job.flight)
        self.ledger.cancel(job, self.now, Failure(PoolClosedError()) if job.sink is self.lane else None, kill=kill)
        self.turn()

    @precondition(lambda self: any(not job.closed and job.sink is not self.lane for job in self.jobs))
    @rule(data=st.data())
    def cancel_waiting(self, data: st.DataObject) -> None:
        """The pool is to finish what runs, and nothing else."""
        job = data.draw(st.sampled_from([job for job in self.jobs if not job.closed and job.sink is not self.lane]))
        waiting = [item.fate for item in self.ledger.scheduler.waiting_items(job)]
        job.retries = 0
        self.ledger.cancel_waiting(job, self.now)
        assert all(fate.outcome for fate in waiting), "what waits is not cancelled"
        self.turn()

    @precondition(lambda self: any(not job.closed and job.sink is not self.lane for job in self.jobs))
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 0.01, 0.3]))
    def set_deadline(self, data: st.DataObject, seconds: float) -> None:
        jobs = [job for job in self.jobs if not job.closed and job.sink is not self.lane]
        self.ledger.limit(data.draw(st.sampled_from(jobs)), seconds, self.now)
        self.turn()

    @precondition(lambda self: any(not job.closed for job in self.jobs))
    @rule(data=st.data())
    def fill_or_empty(self, data: st.DataObject) -> None:
        """Too much waits to be taken of a job, or was taken now."""
        job = data.draw(st.sampled_from([job for job in self.jobs if not job.closed]))
        if job in self.full:
            self.empty(job)
        else:
            self.full[job] = max(self.ledger._chunks, default=0)
            job.waits = lambda: True
        self.turn()

    def empty(self, job: Job) -> None:
        self.full.pop(job, None)
        job.waits = bool

    @invariant()
    def nothing_begins_of_what_is_full(self) -> None:
        if hasattr(self, "ledger"):
            assert all(chunk.number <= last for job, last in self.full.items() for chunk in job.flight)

    @rule(count=st.integers(1, 8), retries=st.sampled_from([0, 0, 2]), timeout=st.sampled_from([None, 0.3]))
    def submit(self, count: int, retries: int, timeout: float | None) -> None:
        self.lane_options = {"retries": retries, "timeout": timeout, "retry_delay": 0.5}
        self.post(self.lane.items(count))
        self.turn()

    @precondition(lambda self: any(worker.is_open and not worker.flight for worker in self.all_workers()))
    @rule(
        data=st.data(),
        until=st.sampled_from(["interrupted", "sent", "begun", "answered"]),
        seen=st.booleans(),
        alert=st.booleans(),
    )
    def submit_quickly(self, data: st.DataObject, until: str, *, seen: bool, alert: bool) -> None:
        """A caller uses a leased worker; it may have looked for one long ago, before the engine took it back."""
        worker = self.draw_worker(data, lambda worker: worker.is_open and not worker.flight)
        if alert:
            self.ledger.alert(self.now)
        (future,) = self.lane.items(1)
        if not seen:
            worker.is_open = self.ledger.take_back_leases(self.now) and False
        worker.numbers += 1
        worker.flight[worker.numbers] = Task(future)
        if until != "interrupted":
            self.go_on_with(worker, worker.numbers)
            if until != "sent" and worker.numbers in worker.flight:
                self.run_quick(worker, worker.numbers, answer=until == "answered")
        self.turn()

    def go_on_with(self, worker: FakeWorker, number: int) -> None:
        task = worker.flight[number]
        if not worker.is_open and task.owner in {"", "caller"}:
            del worker.flight[number]
            self.post([task.future])
            return
        self.backend.is_used = True
        task.state = "sent"

    def tasks(self, *states: str) -> list[tuple[FakeWorker, int]]:
        workers = self.backend.workers.values()
        return [
            (worker, number)
            for worker in workers
            for number, task in worker.flight.items()
            if not states or task.state in states
        ]

    @precondition(lambda self: any(not fate.outcome for fate in self.lane.fates))
    @rule(data=st.data())
    def cancel_item(self, data: st.DataObject) -> None:
        fate = data.draw(st.sampled_from([fate for fate in self.lane.fates if not fate.outcome]))
        item = fate.item()
        assert item is not None, "it has no outcome, and nobody has it"
        job = None if self.lane_job is None or self.lane_job.closed else self.lane_job
        before = {worker for worker in self.all_workers() if worker.is_doomed}
        if self.ledger.cancel_item(job, item, self.now) and not item.happened:
            fate.settle("cancelled")
            self.cancelled[fate] = self.now
            given = [each for worker in self.all_workers() for chunk in worker.chunks for each in chunk.fates]
            given += [worker.flight[number].future.fate for worker, number in self.tasks()]
            fate.shall_not_begin = fate not in given
        for worker in {worker for worker in self.all_workers() if worker.is_doomed} - before:
            own = [task.future.fate for task in worker.flight.values()]
            assert fate in [*own, *(each for chunk in worker.chunks[:1] for each in chunk.fates)], "it is innocent"
        del item
        self.turn()

    @precondition(lambda self: len(self.jobs) > 1 and not self.has_been_ended)
    @rule()
    def end_all(self) -> None:
        """The pool is closed with what it has."""
        self.has_been_ended = True
        self.ledger.end_all(PoolClosedError("closed"), self.now)
        self.turn()

    # workers

    def draw_worker(self, data: st.DataObject, fits: Callable[[FakeWorker], object]) -> FakeWorker:
        return data.draw(st.sampled_from([worker for worker in self.all_workers() if fits(worker)]))

    @rule(
        starts=st.sampled_from(["all", "all", "all", "one", "none", "broken"]),
        most=st.sampled_from([NO_LIMIT, NO_LIMIT, NO_LIMIT, 1, 0]),
        late=st.booleans(),
    )
    def change_the_world(self, starts: str, most: int, *, late: bool) -> None:
        """Workers start or not; chunks have room; one that runs a block learns at once, or later, that it shall end it."""
        self.backend.starts, self.backend.most = starts, most
        if late:
            self.backend.signals_are_late = True
        else:
            self.backend.let_signals_through()

    @precondition(lambda self: any(not worker.is_ready for worker in self.all_workers()))
    @rule(data=st.data())
    def get_ready(self, data: st.DataObject) -> None:
        self.backend.get_ready(self.draw_worker(data, lambda worker: not worker.is_ready))
        self.turn()

    @precondition(lambda self: sum(worker.is_ready for worker in self.all_workers()) < WORKERS)
    @rule()
    def warm_up(self) -> None:
        """All workers start, if they can, and are waited for."""
        self.ledger.warm_up(WORKERS, self.now)
        for worker in self.all_workers():
            if not worker.is_ready:
                self.backend.get_ready(worker)
        self.turn()

    def all_workers(self) -> list[FakeWorker]:
        return list(self.backend.workers.values())

    @precondition(lambda self: any(worker.is_ready and worker.chunks for worker in self.all_workers()))
    @rule(data=st.data(), length=st.sampled_from([1, 1, 3]), steps=st.integers(1, 4), turn=st.booleans())
    def run(self, data: st.DataObject, length: int, steps: int, *, turn: bool) -> None:
        worker = self.draw_worker(data, lambda worker: worker.is_ready and worker.chunks)
        self.backend.now = self.now
        for _ in range(steps):
            if not worker.chunks[0].step(length, self.now):
                break
        if turn:
            self.turn()

    @precondition(lambda self: any(worker.is_ready and worker.chunks for worker in self.all_workers()))
    @rule(data=st.data(), finish=st.booleans(), retry=st.booleans(), turn=st.booleans())
    def report(self, data: st.DataObject, *, finish: bool, retry: bool, turn: bool) -> None:
        """A chunk is done, or its time is up."""
        worker = self.draw_worker(data, lambda worker: worker.is_ready and worker.chunks)
        running = worker.chunks[0]
        while finish and running.step(1, self.now):
            pass
        done = running.ran
        bad = data.draw(st.sets(st.integers(0, done - 1), max_size=2)) if done else set()
        chunk = self.ledger._chunks.get(running.number)
        if chunk is not None and chunk.verdict is not None and chunk.verdict[0] < done:
            running.fates[chunk.verdict[0]].reruns += 1  # it was too late, and has ended all the same
        self.backend.report(worker, done, {offset: Failure(ValueError(), retry=retry) for offset in bad})
        if turn:
            self.turn()

    @precondition(lambda self: not self.ledger.scheduler.is_idle)
    @rule(slow=st.sampled_from([None, None, 0, 1, 2]))
    def do_all(self, slow: int | None) -> None:
        """All workers do what they have, but for one that takes its time."""
        for job in [*self.full]:
            self.empty(job)
        workers = self.all_workers()
        self.let_all_go_on(None if slow is None or slow >= len(workers) else workers[slow])
        self.turn()

    @precondition(lambda self: self.tasks())
    @rule(data=st.data(), answer=st.booleans(), turn=st.booleans())
    def go_on_with_a_task(self, data: st.DataObject, *, answer: bool, turn: bool) -> None:
        """A caller goes on that a handler had interrupted, a worker runs its task, or somebody reads the answer."""
        worker, number = data.draw(st.sampled_from(self.tasks()))
        state = worker.flight[number].state
        if state == "recorded":
            self.go_on_with(worker, number)
        elif state == "answered":
            worker.settle_answers()
        else:
            self.run_quick(worker, number, answer=answer)
        if turn:
            self.turn()

    def run_quick(self, worker: FakeWorker, number: int, *, answer: bool) -> None:
        task = worker.flight[number]
        if task.state == "sent":
            task.state = "begun"
            task.future.fate.begin()
        if answer:
            task.state = "answered"

    @precondition(lambda self: self.backend.workers)
    @rule(data=st.data(), retry=st.booleans(), turn=st.booleans())
    def die(self, data: st.DataObject, *, retry: bool, turn: bool) -> None:
        self.backend.die(self.draw_worker(data, lambda _: True), retry=retry)
        if turn:
            self.turn()

    @precondition(lambda self: self.running_chunks())
    @rule(data=st.data(), length=st.sampled_from([1, 1, 3]))
    def stop_what_runs(self, data: st.DataObject, length: int) -> None:
        """Nobody wants it any more, and it does not end by itself."""
        worker, chunk = data.draw(st.sampled_from(self.running_chunks()))
        self.backend.now = self.now
        worker.chunks[0].step(length, self.now)
        self.cancel(chunk.job, kill=True)
        self.wait(2 * MERCY)
        if worker.is_doomed and self.backend.workers.get(worker.name) is worker:
            self.backend.die(worker, retry=False)
            self.turn()

    def running_chunks(self) -> list[tuple[FakeWorker, Chunk]]:
        first = [worker for worker in self.all_workers() if worker.is_ready and worker.chunks]
        known = [(worker, self.ledger._chunks.get(worker.chunks[0].number)) for worker in first]
        return [(worker, chunk) for worker, chunk in known if chunk is not None and not chunk.job.closed]

    @precondition(lambda self: self.jobs or self.lane.fates)
    @rule(seconds=st.sampled_from([0.001, 0.012, 0.06, 0.3, 2.0]))
    def wait(self, seconds: float) -> None:
        """Time passes, and the engine wakes when it wanted to, and only then."""
        end = self.now + seconds
        self.turn()
        while (timeout := self.ledger.timeout(self.now)) is not None and self.now + timeout <= end:
            self.now += timeout + 1e-6
            self.turn()
        self.now = self.backend.now = max(self.now, end)

    # what must hold at any time

    @invariant()
    def states_fit(self) -> None:
        if not hasattr(self, "ledger"):
            return
        slots = self.ledger.scheduler.slots
        assert len(slots) <= WORKERS
        free = {name for name, slot in slots.items() if not slot.flight and slot.state is not State.DOOMED}
        assert set(self.ledger.scheduler.vacancies.idle) == free
        for name, slot in slots.items():
            worker = self.backend.workers.get(name)
            if slot.state in {State.STARTING, State.IDLE, State.LEASED}:
                assert not slot.flight
            elif slot.state is State.BUSY:
                held = slot.flight
                assert 1 <= len(held) == len({chunk.number % PLACES for chunk in held}) <= PLACES
                assert len(held) <= 2 or sum(chunk.expected or 1.0 for chunk in held[:-1]) < BRIEF
            if worker is None:  # its death is about to be told
                continue
            assert not worker.is_open or slot.state in {State.LEASED, State.DOOMED}
            assert worker.is_doomed == (slot.state is State.DOOMED)
            if slot.state in {State.IDLE, State.LEASED}:
                assert worker.is_ready or self.backend.events

    @invariant()
    def chunks_are_known_once(self) -> None:
        if not hasattr(self, "ledger"):
            return
        flights = [chunk for slot in self.ledger.scheduler.slots.values() for chunk in slot.flight]
        assert len(flights) == len(set(flights))
        assert set(self.ledger._chunks.values()) == set(flights)
        # One of which all was taken back is nobody's any more, but keeps its place until its worker knows.
        own = {chunk for job in self.jobs for chunk in job.flight}
        assert own == {chunk for chunk in flights if len(chunk.items) or chunk in own}

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert len(self.ledger.scheduler.delayed) == sum(len(job.delayed) for job in self.jobs)
        for job in self.jobs:
            assert job.waiting == sum(len(piece) for piece in job.pending)
            assert (starts := [piece.start for piece in job.pending]) == sorted(starts)
            assert not (job.closed and (job.waiting or job.delayed))
            assert (job in self.ledger.scheduler.jobs) == bool(job.waiting)

    @invariant()
    def nothing_is_tried_again_in_vain(self) -> None:
        if not hasattr(self, "ledger"):
            return
        delayed = [item for job in self.jobs for _, items in job.delayed.values() for item in items]
        assert not any(item.fate.outcome for item in delayed), "what was cancelled waits for another attempt"

    @invariant()
    def each_item_is_in_one_place(self) -> None:
        if not hasattr(self, "ledger"):
            return
        places: dict[Fate, int] = {}
        for item in self.items_that_wait_or_run():
            places[item.fate] = places.get(item.fate, 0) + 1
        for sink in [self.lane, *(job.sink for job in self.jobs if job.sink is not self.lane)]:
            for fate in sink.fates:  # type: ignore[attr-defined]
                assert places.get(fate, 0) <= 1, "it is in two places"
                told = self.backend.events  # the death of its worker may be about to be told
                assert fate.outcome or places.get(fate) or told, "it has no outcome, and is nowhere"

    def items_that_wait_or_run(self) -> list[Item]:
        found = [item for job in self.jobs for piece in job.pending for item in piece.items]
        found += [item for job in self.jobs for _, items in job.delayed.values() for item in items]
        found += [item for chunk in self.ledger._chunks.values() for item in chunk.items]
        return found + [task.future for worker in self.backend.workers.values() for task in worker.flight.values()]

    @invariant()
    def what_is_settled_is_let_go(self) -> None:
        if not hasattr(self, "ledger") or self.backend.events:
            return
        for generation in range(3):  # what has just been let go is young: to look at all there is takes 50 ms
            if not self.find_kept():
                return
            gc.collect(generation)
        assert not self.find_kept()

    @invariant()
    def what_shall_not_run_is_stopped(self) -> None:
        """Soon, that is: a block of items that were expected to be short has some time to end by itself."""
        if not hasattr(self, "ledger") or self.backend.events:
            return
        for chunk in self.ledger._chunks.values():
            offset, length, seconds = self.backend.position(chunk) or (0, 0, 0.0)
            if not length or self.ledger.scheduler.is_doomed(chunk.slot) or chunk.slot not in self.backend.workers:
                continue
            late = self.now - SOON
            assert seconds - SOON < (chunk.job.timeout or 1e9), "its time is over, and it runs on"
            assert self.unwanted.get(chunk.number, 1e9) > late, "its job was cancelled, and it runs on"
            fates = self.backend.running(chunk)[offset : offset + length]
            assert all(self.cancelled.get(fate, 1e9) > late for fate in fates), "it was cancelled, and runs on"
        for worker, number in self.tasks("begun"):
            fate = worker.flight[number].future.fate
            assert worker.is_doomed or fate not in self.cancelled, "it was cancelled, and runs on"

    @invariant()
    def nothing_is_sent_behind_what_was_cancelled(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for slot in self.ledger.scheduler.slots.values():
            numbers = [chunk.number for chunk in slot.flight]
            assert not numbers or max(numbers) <= self.last.get(numbers[0], max(numbers)), "its worker may be killed"

    @invariant()
    def nobody_waits_behind_a_slow_item(self) -> None:
        """Not for long, while another worker has nothing to do, or something else."""
        if not hasattr(self, "ledger"):
            return
        if self.backend.events or self.backend.signals_are_late or not self.hostages():
            self.held_since = None
        else:
            self.held_since = self.held_since or self.now
            assert self.now - self.held_since < SOON, "it waits behind a slow one, and a worker has nothing to do"

    def hostages(self) -> list[Item]:
        """The items that wait in the channel of a busy worker though another is idle, or has other work."""
        slots = self.ledger.scheduler.slots.values()
        used = {worker.name for worker, _ in self.tasks()}  # by callers, some of whom were interrupted
        idle = [slot for name, slot in self.ledger.scheduler.slots.items() if name not in used and slot.budget != 0]
        has_idle = any(slot.state in {State.IDLE, State.LEASED} for slot in idle)
        if not (has_idle or self.ledger.scheduler.has_work) or not self.backend.cost.recalls:  # others have their turn
            return []
        found: list[Item] = []
        for slot in slots:
            for place, chunk in enumerate(slot.flight):
                begun = self.backend.position(chunk) or (0, 1 if place == 0 else 0)
                stays = chunk.job.chunksize is not None and sum(begun[:2])  # a size that was asked for is kept
                if not (chunk.job.closed or stays or slot.state is State.DOOMED):
                    found += chunk.items[sum(begun[:2]) :]
        return found

    def find_kept(self) -> list[int]:
        held = {id(item) for item in self.items_that_wait_or_run()}
        # A piece is not cut, which would copy it again and again.
        held |= {id(item) for job in self.jobs for piece in job.pending for item in piece._items}
        held |= {id(item) for job in self.jobs if job.waiting for item in job.dropped}  # it is not looked for
        fates = [fate for job in self.jobs for fate in job.sink.fates]  # type: ignore[attr-defined]
        return [fate.index for fate in fates if fate.outcome and (item := fate.item()) and id(item) not in held]

    # the end

    def teardown(self) -> None:
        """Let everything run to its end: then each item has one outcome, and the pool falls asleep."""
        if not hasattr(self, "ledger") or sys.exception():  # of an error is told as it is
            return
        self.backend.starts, self.backend.most = "all", NO_LIMIT
        self.full.clear()
        self.ledger.scheduler.drains = True
        for job in self.jobs:
            if job.open_end:
                job.open_end = False
                self.ledger.scheduler.add(job)
        for _ in range(500):
            self.turn()
            if self.ledger.scheduler.is_idle and not self.backend.leased():
                break
            self.let_all_go_on()
            self.ledger.take_back_leases(self.now)  # as an engine does that ends
            self.now += 1.0
        assert self.ledger.scheduler.is_idle, "it never ends"
        self.check_all()
        assert all(fate.outcome for job in self.jobs for fate in job.sink.fates)  # type: ignore[attr-defined]
        for _ in range(2):
            self.let_all_go_on()
            self.turn()
            self.now += 10.0
        self.turn()
        if self.backend.options.idle_timeout is not None:
            assert not self.ledger.scheduler.slots
            assert not self.backend.workers
        self.ledger.end_all(PoolClosedError(), self.now)
        self.check_all()

    def let_all_go_on(self, slow: FakeWorker | None = None) -> None:
        for worker in list(self.backend.workers.values()):
            if worker is slow:
                continue
            if worker.is_doomed or worker.is_retired:
                self.backend.die(worker, retry=False)
                continue
            if not worker.is_ready:
                self.backend.get_ready(worker)
            while worker.chunks:
                while worker.chunks[0].step(1, self.now):
                    pass
                self.backend.report(worker, worker.chunks[0].ran, {})
        for worker, number in self.tasks("sent", "begun"):
            if worker is not slow:
                self.run_quick(worker, number, answer=True)

    def check_all(self) -> None:
        self.states_fit()
        self.chunks_are_known_once()
        self.counts_agree()
        self.each_item_is_in_one_place()
        self.what_is_settled_is_let_go()


TestCore = Core.TestCase
TestCore.settings = settings(
    max_examples=400,
    stateful_step_count=50,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)


@pytest.mark.soak
def test_core_for_minutes() -> None:
    """The same, with thousands of stories."""
    run_state_machine_as_test(Core, settings=settings(TestCore.settings, max_examples=10_000))  # type: ignore[no-untyped-call]
