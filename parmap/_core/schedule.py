"""The scheduler: which items go to which worker, when, and what becomes of them, also when their worker dies.

Pure logic. It starts no thread, reads no clock (`now` is always an argument), does no I/O and knows nothing of
processes: a backend starts the chunks it cuts and says how each ended. Chunk size, order, retries and what happens
after an error are decided here, once, for all backends.

The life of an item: it waits in a `Piece` of its `Job`; `next` cuts it into a `Chunk` for a slot (a worker); then

* `finished` records outcomes of the first items of the chunk and puts the rest back in front;
* `died` charges the death to the item that was running, and puts the others back;
* an error that may be retried waits in `delayed`, without holding a slot.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import chain, count, islice
from math import inf
from typing import TYPE_CHECKING, Any

from parmap._core.delayed import Delayed
from parmap._core.job import Chunk, Job
from parmap._core.states import Slot, State
from parmap._core.vacancies import Vacancies
from parmap._work.page import PLACES

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from parmap._core.pace import Cost
    from parmap._travel.failure import Failure

SHORT = 0.020
"""Seconds: items expected to take less may wait behind others on the same worker."""

BRIEF = 0.001
"""Seconds of work that may wait on a worker in any number of chunks."""

STRIKES = 3
"""Deaths of workers that a chunk may see before it has started, until one of them is charged to its first item."""

_LIGHT = 64 * 1024  # bytes of a chunk
_PATIENCE = 0.25  # seconds for which what has a worker may wait behind a slow item, while others have something to do

SUSPECT = STRIKES - 1
"""Those from which on its items go one by one where nobody can tell whether they had begun."""


class Scheduler:
    """Cuts the items of all jobs into chunks for its slots, in turn."""

    def __init__(self, workers: int, cost: Cost, jitter: Callable[[], float] = lambda: 1.0) -> None:
        self.workers = workers
        self.cost = cost
        self.slots: dict[Hashable, Slot] = {}
        self.jobs: OrderedDict[Job, None] = OrderedDict()  # those with items that wait; there may be many thousands
        self.vacancies: Vacancies = Vacancies()
        self._held = 0  # chunks that workers have
        self._jitter = jitter
        self._hurries = False
        self.drains = False  # whether all that waits is run, whoever takes its outcomes
        self.delayed: Delayed = Delayed()
        self._numbers = count(1)  # a status page says 0 for idle

    # slots

    def add_slot(self, slot: Hashable, budget: int | None = None, *, is_ready: bool = True) -> None:
        """A worker is there to take chunks, at most *budget* tasks in all; it may still be starting."""
        state = self.slots[slot] = Slot(budget, State.IDLE if is_ready else State.STARTING)
        self.vacancies.add(slot, state)

    def remove_slot(self, slot: Hashable) -> list[Chunk]:
        """A worker is gone; the chunks it held are returned, the running one first."""
        gone = self.slots.pop(slot, None)
        self.vacancies.remove(slot)
        self._held -= len(gone.flight) if gone else 0
        return gone.flight if gone else []

    def doom(self, slot: Hashable) -> None:
        """A worker is being killed: it gets nothing more to do."""
        if slot in self.slots:
            self.slots[slot].move(State.DOOMED)
            self.vacancies.remove(slot)

    def is_doomed(self, slot: Hashable) -> bool:
        """Whether a worker is being killed."""
        return slot in self.slots and self.slots[slot].state is State.DOOMED

    def is_spent(self, slot: Hashable) -> bool:
        """Whether a worker has done the tasks of its life."""
        return self.slots[slot].budget == 0 and not self.slots[slot].flight

    @property
    def demand(self) -> int:
        """How many more workers would have something to do at once."""
        room = self.workers - len(self.slots)
        if room <= 0 or not self.has_work:
            return 0
        # A leased worker that could not be taken back has something to do.
        idle = sum(slot.state is not State.LEASED and slot.budget != 0 for slot in self.vacancies.idle.values())
        waiting = sum(islice((job.waiting for job in self.jobs), idle + room))
        return max(0, min(waiting - idle, room))

    @property
    def has_work(self) -> bool:
        """Whether items wait for a worker."""
        return bool(self.jobs)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not (self.jobs or self.delayed or self._held)

    def is_over(self, *, dropped: bool, patient: bool) -> bool:
        """Whether nothing is left to wait for.

        *dropped*: nobody wants what there is; so a worker that starts is not waited for: its initializer may hang.
        *patient*: else it is, though it has no work: the initializers of a `Pool` may be all that it is for.
        """
        if dropped:
            return self.is_idle or not any(
                slot.flight and slot.rest is not State.STARTING for slot in self.slots.values()
            )
        return self.is_idle and not (patient and any(slot.rest is State.STARTING for slot in self.slots.values()))

    # jobs

    def add(self, job: Job) -> None:
        """Start a job, or look again at one that may have other items now, or none any more."""
        if job.is_done and not job.closed:
            job.closed = True
            job.dropped.clear()
            job.sink.finish(None, ())
        if job.waiting:
            self.jobs.setdefault(job)
        else:
            self.jobs.pop(job, None)

    def cancel(self, job: Job, failure: Failure | None = None) -> list[Chunk]:
        """End a job: drop what waits, tell the sink, and return the chunks that still run."""
        if job.closed:
            return []
        left = chain(job.left(), *[items for _, items in self.delayed.take_all(job)])
        job.closed = True
        job.pending.clear()
        job.dropped.clear()
        job.waiting, job.open_end = 0, False
        self.jobs.pop(job, None)
        job.sink.finish(failure, left)
        return list(job.flight)

    def find(self, job: Job, item: Any) -> Chunk | None:
        """The chunk in flight that holds *item*."""
        for chunk in job.flight:
            if item in chunk.items and chunk.left(at := chunk.items.index(item), at + 1):
                return chunk
        return None

    def drop(self, job: Job, item: Any) -> None:
        """Take an item that waits out of *job*."""
        if (index := self.delayed.take(job, item)) is not None:
            job.attempts.pop(index, None)
            self.add(job)
            return
        if job.waiting:  # or it was with a worker that has just died, which will be told
            job.dropped.add(item)

    def waiting_items(self, job: Job) -> list[Any]:
        """The items of *job* that no worker has."""
        return [*chain(*[piece.items for piece in job.pending], *[items for _, items in job.delayed.values()])]

    def hurry(self) -> None:
        """Retry at once, from now on: nobody has the time to wait."""
        self._hurries = True
        self.delayed.hurry()

    # cutting

    def next(self, now: float, unlease: Callable[[Hashable], bool] = lambda _: True) -> Chunk | None:
        """Cut the next chunk and assign it to a slot; `None` if no slot can take one or nothing waits.

        *unlease* takes back a slot that is leased to callers; false if one of them has it.
        """
        self._wake(now)
        longest = max(SHORT, 1.2 * self.cost.most)  # seconds that the first chunk of a worker with two may take
        while (job := next((each for each in self.jobs if self.drains or not each.waits()), None)) is not None:
            name = self.vacancies.find(self.cost.depth, now, longest, unlease)
            if name is None:
                return None
            slot = self.slots[name]
            short = (job.pace.seconds is not None and job.pace.seconds < SHORT) or job.chunksize is not None
            if slot.flight and not short:  # it needs an idle worker: if others took its turn, it might never get one
                return None
            self.jobs.move_to_end(job)
            size = self._size(job, 0 if slot.flight else len(self.vacancies.idle), now)
            chunk = job.take(size if slot.budget is None else min(size, slot.budget))
            if chunk is not None:
                self._assign(chunk, name, now)
            self.add(job)
            if chunk is not None:  # else all that waited in it had been taken out
                return chunk
        return None

    def _assign(self, chunk: Chunk, slot: Hashable, now: float) -> None:
        job = chunk.job
        state = self.slots[slot]
        place = min({*range(PLACES)} - {held.number % PLACES for held in state.flight})
        chunk.number = PLACES * next(self._numbers) + place
        chunk.slot = slot
        chunk.sent = now
        chunk.expected = None if job.pace.seconds is None else job.pace.seconds * len(chunk.items)
        chunk.budget = None if job.chunksize is not None else 2 * max(self.cost.aim, chunk.expected or 0.0)
        if state.budget is not None:
            state.budget -= len(chunk.items)
        state.take(chunk)
        self._held += 1
        self.vacancies.changed(slot, state, more=self._has_room(state))
        job.flight.add(chunk)
        if job.watch is not None:
            chunk.passage = job.watch.leave(chunk, state)

    def _has_room(self, slot: Slot) -> bool:
        """Whether a worker may hold one more chunk: of those that are over in no time several, or it would wait."""
        held = len(slot.flight)
        return held < self.cost.depth or (held < self.cost.deepest and sum(map(_span, slot.flight)) < BRIEF)

    def _size(self, job: Job, idle: int, now: float) -> int:
        """How many items the next chunk of *job* should have, for one of the *idle* workers, if there are any."""
        job.appetite = 2 * self.workers * (job.chunksize or max(1, int(self.cost.aim / (job.pace.seconds or 1.0))))
        if job.chunksize is not None:
            return job.chunksize
        deals = job.pace.is_even and self.cost.recalls
        busy = (slot.left(now) for slot in self.slots.values() if slot.flight) if deals else None
        return job.pace.size(self.cost, job.waiting, self.workers, idle=idle, busy=busy)

    def trim(self, chunk: Chunk, size: int, strikes: int = 0) -> None:
        """Leave only the first *size* items in a chunk; the others, which have seen *strikes*, wait again."""
        over = len(chunk.items) - size
        if over <= 0:
            return
        chunk.put_back(size, strikes=strikes)
        chunk.items = chunk.items[:size]
        slot = self.slots.get(chunk.slot)
        if slot is not None and slot.budget is not None:
            slot.budget += over
        if chunk.job.waiting:
            self.jobs.setdefault(chunk.job)

    def put_back(self, chunk: Chunk) -> None:
        """A chunk did not run, through no fault of its own: its items wait again."""
        self.release(chunk)
        chunk.put_back(0)
        self._record(chunk, 0, None, {}, 0.0)

    def hostages(self, now: float) -> Chunk | None:
        """A chunk that has run far longer than it should: others could take what waits, or have what has ended."""
        return next((chunk for when, chunk in self._holders() if now > when), None)

    def _holders(self) -> Iterator[tuple[float, Chunk]]:
        """Chunks with items that have not begun, each with when it has kept them, or the outcomes of others, too long.

        A block of items that were expected to be short runs to its end, which may be hours away: nobody else may be
        there to take them, but somebody may wait for those that have run.
        """
        busy = self.has_work
        others = self.workers > 1 if busy else bool(self.vacancies.idle) or len(self.slots) < self.workers
        patience = _PATIENCE if busy or not others else 2 * self.cost.aim
        for slot in self.slots.values() if self.cost.recalls else ():
            if (chunk := _holder(slot.flight if others else slot.flight[:1])) is not None:
                yield slot.flight[0].sent + patience, chunk

    # outcomes

    def finished(
        self, chunk: Chunk, done: int, results: Any, failures: dict[int, Failure], seconds: float, now: float
    ) -> list[Chunk]:
        """A worker reported the outcomes of the first *done* items; the rest it gave back.

        Returns the chunks to be stopped because the job has failed.
        """
        job = chunk.job
        self.release(chunk)
        slot = self.slots.get(chunk.slot)
        if slot is not None and slot.flight:
            slot.flight[0].sent = now  # it begins only now
        if done:
            # Where a clock makes steps, of 16 ms on Windows, much takes no time; and that would be no time at all.
            job.pace.learn(done, max(seconds, 1e-9 * done))
            job.pace.learn_results(done, results)
        if done > len(chunk.items):  # it ran items that were taken back: these have their outcome elsewhere
            done = len(chunk.items)
            failures = {offset: failure for offset, failure in failures.items() if offset < done}
        self.trim(chunk, done)
        return self._record(chunk, done, results, failures, now)

    def died(self, chunk: Chunk, position: tuple[int, int] | None, failure: Failure | None, now: float) -> list[Chunk]:
        """The worker of *chunk* died while items `position = (offset, length)` were running; `None`: none was yet.

        With one item running, it ends with *failure* (`None`: it was cancelled). With several, all are run again one
        by one, to find the culprit; in chunks of their own, if that was tried. The other items of the chunk wait again.
        """
        job = chunk.job
        self.release(chunk)
        if position is None:
            strikes = chunk.strikes + 1
            if strikes < STRIKES:
                chunk.put_back(0, strikes=strikes, careful=strikes >= SUSPECT)
                return self._record(chunk, 0, None, {}, now)
            position = (0, 1)
        offset, length = position
        end = offset + length
        chunk.put_back(end)
        if length > 1 and not chunk.careful:
            chunk.put_back(offset, end, careful=True)
        elif length > 1:  # it died of one that had run: each gets a worker of its own
            for index in range(end - 1, offset - 1, -1):
                job.put_back(chunk.start + index, chunk.items[index : index + 1], careful=True, alone=True)
        chunk.put_back(0, offset)
        if failure is None and job.dropped:  # of tasks alone: items of a batch may have no hash
            job.dropped.difference_update(chunk.items[offset:end])
        if length > 1 or failure is None:
            return self._record(chunk, 0, None, {}, now)
        return self._record(chunk.part(offset, end), 1, None, {0: failure}, now)

    def release(self, chunk: Chunk) -> None:
        """A chunk is not in flight any more."""
        slot = self.slots.get(chunk.slot)
        if slot is not None and chunk in slot.flight:
            slot.let_go(chunk)
            self._held -= 1
            self.vacancies.changed(chunk.slot, slot, more=self._has_room(slot))
        chunk.job.flight.discard(chunk)

    def _record(self, chunk: Chunk, done: int, results: Any, failures: dict[int, Failure], now: float) -> list[Chunk]:
        job = chunk.job
        if job.closed:
            return []
        final: dict[int, Failure] = {}
        missing: set[int] = set()
        for offset, failure in failures.items():
            if self._retry(chunk, offset, failure, now):
                missing.add(offset)
            else:
                failure.earlier = tuple(job.attempts.pop(chunk.start + offset, ()))
                final[offset] = failure
        if job.dropped:  # it was too late for some of them
            job.dropped.difference_update(chunk.items[:done])
        if failures and job.watch is not None:
            job.watch.failed(len(final), len(missing))
        if done:
            job.deliver(chunk, done, results, final, missing)
            if chunk.alone and not missing:
                job.attempts.pop(chunk.start, None)
        if final and job.fail_fast:
            return self.cancel(job, final[min(final)])
        self.add(job)
        return []

    def _retry(self, chunk: Chunk, offset: int, failure: Failure, now: float) -> bool:
        job = chunk.job
        index = chunk.start + offset
        earlier = job.attempts.setdefault(index, []) if job.retries else []
        is_wanted = not (job.dropped and chunk.items[offset] in job.dropped)  # it may have been cancelled meanwhile
        if not (failure.retry and is_wanted and len(earlier) < job.retries):
            return False
        delay = 0.0 if self._hurries else job.retry_delay * 2.0 ** min(len(earlier), 64) * self._jitter()
        earlier.append(failure)
        self.delayed.add(now + delay, job, index, chunk.items[offset : offset + 1])
        return True

    def _wake(self, now: float) -> None:
        for job, index, items in self.delayed.take_due(now):
            job.put_back(index, items, careful=True, alone=True)
            self.add(job)

    # time

    def next_time(self) -> float | None:
        """When `next` or `hostages` should be asked again though nothing happened; `None`: no need."""
        return min([*self.delayed.next_time(), *(when for when, _ in self._holders())], default=None)


def _span(chunk: Chunk) -> float:
    """Seconds that a chunk is expected to take; no end of them if it shall not pile up, as one that carries much."""
    pace, count = chunk.job.pace, len(chunk.items)
    piles = chunk.job.piles and count * max(pace.nbytes, pace.result_nbytes) < _LIGHT
    return chunk.expected if chunk.expected is not None and piles else inf


def _holder(flight: list[Chunk]) -> Chunk | None:
    """The first chunk of a worker with items behind the one that runs, which are wanted and were not asked for yet."""
    for place, chunk in enumerate(flight):
        begun = len(chunk.items) if chunk.job.chunksize else 1  # of a size that was asked for, it comes back whole
        if len(chunk.items) > (0 if place else begun) and not (chunk.doomed or chunk.recalled or chunk.job.closed):
            return chunk
    return None
