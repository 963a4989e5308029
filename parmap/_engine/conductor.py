"""The conductor: carries what the scheduler decides to the backend, and what the backend tells to the scheduler.

It lives in the engine's thread, and keeps what needs a clock: timeouts, retries, rescues, the end of idle workers.
"""

from __future__ import annotations

import heapq
import time
from itertools import count
from typing import TYPE_CHECKING, Any

from parmap._core.schedule import Scheduler
from parmap._travel.failure import Failure
from parmap._work.page import NO_LIMIT
from parmap.backends.base import Died, Report
from parmap.errors import TaskTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from parmap._core.job import Chunk
    from parmap._engine.lane import Lane
    from parmap._results.futures import Future
    from parmap.backends.base import Backend, Event

MERCY = 0.05
"""Seconds that running work of a failed or closed job has to end by itself: cheaper than killing its worker."""

SETTLE = 0.002
"""Seconds after which what two processes wrote into shared memory is surely visible to both."""


class Conductor:
    """Brings a scheduler and a backend together."""

    def __init__(self, backend: Backend) -> None:
        options = backend.options
        self.scheduler = Scheduler(options.workers, backend.cost, _jitter)
        self._backend = backend
        # Without a thread of its own an engine only moves while somebody waits, who must not sleep until it is idle.
        self._idle_timeout = options.idle_timeout if backend.threaded else None
        self._budget = options.max_tasks_per_child
        self._timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._tickets = count()
        self._chunks: dict[int, Chunk] = {}
        self._idle_since = time.monotonic()

    def queue(self, lanes: dict[Lane, list[Any]]) -> None:
        for lane, futures in lanes.items():
            job = lane.job
            if job is None or job.closed:
                job = lane.job = lane.make_job()
            job.extend(futures)
            self.scheduler.add(job)

    # time

    def _at(self, when: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._tickets), act))

    def ring(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2](now)
        late = self.scheduler.hostages(now)
        if late is not None:
            self._rescue(late, now)

    def timeout(self, now: float) -> float | None:
        times = [self._timers[0][0]] if self._timers else []
        other = self.scheduler.next_time()
        if other is not None:
            times.append(other)
        if (
            not self.scheduler.is_idle or self._backend.lent()
        ):  # what is lent comes back without a word: looked at later
            self._idle_since = now
        if self.scheduler.slots and self._idle_timeout is not None and self.scheduler.is_idle:
            when = self._idle_since + self._idle_timeout
            if now >= when:
                self._fall_asleep()
            else:
                times.append(when)
        return max(0.0, min(times) - now) if times else None

    def _fall_asleep(self) -> None:
        """Stop the workers; they come back when they are needed."""
        for slot in list(self.scheduler.slots):
            if self._backend.claim(slot):
                self.scheduler.remove_slot(slot)
        if not self.scheduler.slots:
            self._backend.close()

    # from the scheduler to the backend

    def dispatch(self, now: float) -> None:
        self._start_all(now)
        demand = self.scheduler.demand
        if demand:
            for slot in self._backend.grow(demand):
                self.scheduler.add_slot(slot, self._budget)
            self._start_all(now)
        for slot, state in self.scheduler.slots.items():
            if not state.flight and not state.lent:
                state.lent = self._backend.offer(slot)

    def _start_all(self, now: float) -> None:
        while (chunk := self.scheduler.next(now, self._backend.claim)) is not None:
            self._start(chunk)

    def _start(self, chunk: Chunk) -> None:
        self._chunks[chunk.number] = chunk
        taken = self._backend.start(chunk, chunk.job.sink.mode)
        if taken < len(chunk.items):
            self.scheduler.trim(chunk, taken)
        if chunk.job.timeout is not None:
            self._at(chunk.sent + chunk.job.timeout, lambda now: self._check_time(chunk, now))

    def _check_time(self, chunk: Chunk, now: float) -> None:
        """Kill the worker if its item is over its time; otherwise look again when it would be."""
        if chunk.number not in self._chunks or chunk.doomed or chunk.job.closed:
            return
        timeout = chunk.job.timeout
        assert timeout is not None  # noqa: S101 - only chunks with a limit are watched
        place = self._backend.position(chunk)
        if place is None:
            self._at(now + timeout, lambda later: self._check_time(chunk, later))
            return
        offset, _, seconds = place
        if seconds < timeout:
            self._at(now + timeout - seconds, lambda later: self._check_time(chunk, later))
            return
        error = TaskTimeoutError(
            f"took longer than timeout={timeout:g} seconds", item=chunk.job.sink.index(chunk, offset), timeout=timeout
        )
        self._doom(chunk, offset, Failure(error, retry=isinstance(error, chunk.job.call.callee.retry_on)), dump=True)

    def _doom(self, chunk: Chunk, offset: int, failure: Failure | None, *, dump: bool = False) -> None:
        chunk.doomed = True
        chunk.verdict = (offset, failure)
        self._stop(chunk.slot, dump=dump)

    def _rescue(self, chunk: Chunk, now: float, pause: float = SETTLE) -> None:
        """Take the items back that wait behind a slow one, though their worker can't be asked.

        The worker notes the item it begins, then reads the limit; here the limit is set, then the note is read, with a
        pause that makes both surely visible: one of the two must see the other. In a block of items that were expected
        to be short it reads no limit: first the block is cut, which takes until the task lets a signal through.
        """
        if chunk.number not in self._chunks or chunk.job.closed:
            return
        chunk.recalled = True  # not a second time: it would keep the chunk behind it from its turn
        place = self._backend.position(chunk)
        if place is not None and not place[1]:  # it is about to report: nothing will run any more, and nothing waits
            return
        if place is not None and place[1] > 1 and pause < MERCY:
            self._backend.cut(chunk)
            self._at(now + pause, lambda later: self._rescue(chunk, later, 2 * pause))
            return
        limit = place[0] + place[1] if place else 0
        self._recall(chunk, limit)

        def confirm(now: float) -> None:
            if chunk.number not in self._chunks or chunk.job.closed:  # a closed job wants all of it back, for good
                return
            place = self._backend.position(chunk)
            if place is not None and not place[1]:  # it came to its end, or to the limit: its report will tell
                return
            if place is not None and place[0] + place[1] > limit:  # it went on: no hostages, then
                self._recall(chunk, NO_LIMIT)
                chunk.recalled = False
                chunk.sent = now
                return
            self.scheduler.trim(chunk, limit)
            if not limit:
                self.scheduler.release(chunk)
                del self._chunks[chunk.number]

        self._at(now + SETTLE, confirm)

    def _recall(self, chunk: Chunk, limit: int) -> None:
        """Let a chunk end before item *limit*, or before one that was cancelled."""
        chunk.limit = limit
        self._backend.recall(chunk, min(limit, chunk.stop))

    def _stop(self, slot: Hashable, *, dump: bool = False) -> None:
        self.scheduler.doom(slot)
        self._backend.stop(slot, dump=dump)

    def stop_soon(self, chunks: list[Chunk], *, kill: bool = True) -> None:
        """Stop work that nobody waits for any more."""
        for chunk in chunks:
            self._backend.recall(chunk, 0)
            self._cut(chunk)

        def stop(_: float) -> None:
            for chunk in chunks:
                if chunk.number in self._chunks and not chunk.doomed and self._backend.position(chunk) is not None:
                    chunk.doomed = True
                    self._stop(chunk.slot)

        if chunks and kill and self._backend.kills:
            self._at(time.monotonic() + MERCY, stop)

    def cancel_future(self, future: Future[Any]) -> bool:
        if future.done():
            return future.cancelled()
        if future.borrowed is not None:
            slot = future.borrowed
            if not future.settle_cancelled():
                return False
            if any(
                task is future for _, task in self._backend.lent()
            ):  # else it ended just now, and the worker is free
                self._stop(slot)
            return True
        job = future.lane.job
        if job is None:
            return False
        chunk = self.scheduler.find(job, future)
        if chunk is None:
            self.scheduler.drop(job, future)
        elif not self._backend.kills:
            return False
        else:
            self._cancel_running(chunk, chunk.items.index(future))
        return future.settle_cancelled()

    def _cancel_running(self, chunk: Chunk, offset: int) -> None:
        """Stop one task of a chunk: kill the worker if it is in it, keep it from starting if it is not."""
        place = self._backend.position(chunk)
        if chunk.doomed or (place is not None and (place[0] > offset or not place[1])):
            return
        if place is not None and place[:2] == (offset, 1):
            self._doom(chunk, offset, None)
            return
        chunk.stop = min(chunk.stop, offset)
        self._recall(chunk, chunk.limit)
        self._cut(chunk)
        chunk.job.dropped.add(chunk.items[offset])

        def confirm(_: float) -> None:
            place = self._backend.position(chunk)
            runs = place is not None and place[0] <= offset < place[0] + place[1]
            if chunk.number in self._chunks and not chunk.doomed and runs:
                self._doom(chunk, offset, None)  # if it was one of several, the others are run again

        # Several short items that run as one are soon done; if not, one of them is not short, and it may be this one.
        together = place is not None and place[1] > 1
        self._at(time.monotonic() + (MERCY if together else SETTLE), confirm)

    def _cut(self, chunk: Chunk) -> None:
        place = self._backend.position(chunk)
        if place is not None and place[1] > 1:
            self._backend.cut(chunk)

    def end_all(self, error: BaseException) -> None:
        jobs = {id(job): job for job in self.scheduler.jobs}
        jobs |= {id(chunk.job): chunk.job for chunk in self._chunks.values()}
        jobs |= {id(job): job for job in self.scheduler.waiting_for_retry()}
        for job in jobs.values():
            self.stop_soon(self.scheduler.cancel(job, Failure(error)))
        for slot, future in self._backend.lent():  # these went past the scheduler
            future.settle_failure(Failure(error))
            self._stop(slot)

    # from the backend to the scheduler

    def handle(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, Report):
            self._on_report(event, now)
        elif isinstance(event, Died):
            self._on_death(event, now)
        else:
            self.end_all(event.error)
            self._chunks.clear()
            for slot in list(self.scheduler.slots):
                self.scheduler.remove_slot(slot)

    def _on_report(self, report: Report, now: float) -> None:
        chunk = self._chunks.pop(report.number, None)
        if chunk is None:  # its items were taken back
            return
        stop = self.scheduler.finished(chunk, report.done, report.results, report.failures, report.seconds, now)
        self.stop_soon(stop)
        slot = chunk.slot
        if slot in self.scheduler.slots and self.scheduler.is_spent(slot):
            self.scheduler.remove_slot(slot)
            self._backend.retire(slot)

    def _on_death(self, died: Died, now: float) -> None:
        # What it was killed for may have ended just before, and something else have begun: that is innocent.
        doomed = self.scheduler.is_doomed(died.slot)
        if died.direct is not None and not died.direct.done():
            if doomed:
                self._backend.repost(died.direct)
            else:
                died.direct.settle_failure(died.explain(None, 0))
        chunks = self.scheduler.remove_slot(died.slot)
        for chunk in reversed(chunks):
            if self._chunks.pop(chunk.number, None) is None:
                continue
            if chunk is chunks[0] and not died.starting and chunk.doomed == doomed:
                self._charge(chunk, died, now)
            else:
                self.scheduler.put_back(chunk)

    def _charge(self, chunk: Chunk, died: Died, now: float) -> None:
        """Find out which item of a chunk pays for a death."""
        started = died.number == chunk.number and died.offset < len(chunk.items)
        offset, length = died.offset, min(died.length, len(chunk.items) - died.offset)
        if chunk.doomed:
            verdict = chunk.verdict
            if not started or verdict is None or verdict[0] != offset or length != 1:
                self.scheduler.put_back(chunk)  # it had gone on, or ended, before it could be stopped: innocent
                return
            failure = verdict[1]
            if failure is not None:
                _add_stack(failure, died.explain(chunk, offset))
        elif not started:
            failure = died.explain(chunk, 0)
        else:
            failure = died.explain(chunk, offset)
        position = (offset, length) if started else None
        self.stop_soon(self.scheduler.died(chunk, position, failure, now))


def _add_stack(failure: Failure, death: Failure) -> None:
    """Give a timeout the stack that the worker left."""
    error, told = failure.exception(), death.exception()
    if isinstance(error, TaskTimeoutError):
        error.stack = getattr(told, "stack", "")
    for note in getattr(told, "__notes__", ()):
        error.add_note(note)


def _jitter() -> float:
    """Between one half and one and a half, so that retries of many items don't come all at once."""
    import random

    return random.uniform(0.5, 1.5)  # noqa: S311 - no secret
