"""The ledger of workers and jobs; who is stopped, or gives items back, and when: time limits, cancelling, idling.

Two rules hold here, and make the whole of it a state machine that a test can drive:

1. Nobody else writes what the ledger knows. Events and the time go in (`report`, `died`, `ready`, `look`, `cancel` …);
   commands come out, as calls of the backend, which does as it is told and decides nothing.
2. It starts no thread, reads no clock and waits for nothing. `now` is always an argument.

Which items make a chunk, for which worker, and what is tried again, is the part of `Scheduler`.
"""

from __future__ import annotations

import heapq
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from parmap._core.job import Chunk, add_stack
from parmap._core.pace import jitter
from parmap._core.schedule import Scheduler
from parmap._core.states import State
from parmap._travel.failure import Failure
from parmap.errors import TaskTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from parmap._core.job import Job
    from parmap._results.futures import Future
    from parmap.backends._base import Backend, Died, Report

MERCY = 0.05
"""Seconds that running work of a failed or closed job has to end by itself: cheaper than killing its worker."""

SETTLE = 0.002
"""Seconds after which what two processes wrote into shared memory is surely visible to both."""

LOOK = 0.03
"""Seconds between looks at leased workers, as long as callers use them."""

_QUIET = 1.0  # seconds without use after which there are no more looks: the next caller wakes the engine first
_BEAT = 2.0  # seconds between looks at an item with a time limit; if one is later by as much, this program stood still
_AT_ONCE = 32  # chunks that are started until the engine listens again: the first of a call tell how large others are


class Ledger:
    """Keeps the books of one pool."""

    def __init__(self, backend: Backend, now: float) -> None:
        options = backend.options
        # Without a thread of its own an engine has one worker: whoever waits, who must not sleep until it is idle.
        self.scheduler: Scheduler = Scheduler(options.workers if backend.threaded else 1, backend.cost, jitter)
        self._backend = backend
        self._idle_timeout = options.idle_timeout if backend.threaded else None
        self._budget, self._lends = options.max_tasks_per_child, backend.leases and options.max_tasks_per_child is None
        self._timers: list[tuple[float, int, Callable[[], Any], Callable[[Any, float], None]]] = []
        self._room = 0
        self._tickets = count()
        self._chunks: dict[int, Chunk] = {}  # those that a worker has
        self.idle_since: float = now
        self._used_at: float = now
        self._next_look: float | None = None
        self._has_more = False  # to start, when the engine has listened

    # time

    def _at(self, when: float, find: Callable[[], Any], act: Callable[[Any, float], None]) -> None:
        """Do something later with what *find* finds, if it is there still. Neither may hold a chunk, nor its items."""
        if len(self._timers) >= self._room:  # a limit may be hours away, and what it was for have ended at once
            self._timers = [timer for timer in self._timers if timer[2]() is not None]
            heapq.heapify(self._timers)
            self._room = 2 * len(self._timers) + 64
        heapq.heappush(self._timers, (when, next(self._tickets), find, act))

    def _at_for(self, chunk: Chunk, when: float, act: Callable[[Chunk, float], None]) -> None:
        """Do something later with a chunk, if a worker has it still."""
        self._at(when, partial(self._chunks.get, chunk.number), act)

    def ring(self, now: float) -> None:
        """Do what is due."""
        while self._timers and self._timers[0][0] <= now:
            _, _, find, act = heapq.heappop(self._timers)
            if (known := find()) is not None:
                act(known, now)
        while (late := self.scheduler.hostages(now)) is not None:
            self._rescue(late, now)
        if self._next_look is not None and now >= self._next_look:
            self._look(now)

    def timeout(self, now: float) -> float | None:
        """Seconds until `ring` or `dispatch` have something to do; `None`: nothing, unless something happens."""
        if self._has_more:
            return 0.0
        times = [self._timers[0][0]] if self._timers else []
        times += [when for when in (self.scheduler.next_time(), self._next_look) if when is not None]
        if not self.scheduler.is_idle or self._backend.leased():
            self.idle_since = now
        if self._idle_timeout is not None and self.scheduler.is_idle:
            when = self.idle_since + self._idle_timeout
            if now < when:
                times.append(when)
            elif self.take_back_leases(now):  # workers come back when they are needed
                for slot in [*self.scheduler.slots]:
                    self.scheduler.remove_slot(slot)
                self._backend.close()
        return max(0.0, min(times) - now) if times else None

    # leases

    def alert(self, now: float) -> None:
        """A caller is about to use a leased worker: look after it in a while."""
        self._used_at = now
        if self._next_look is None:
            self._next_look = now + LOOK

    @property
    def is_alert(self) -> bool:
        """Whether leased workers will be looked at soon."""
        return self._next_look is not None

    def _look(self, now: float) -> None:
        if self._backend.look_after_leases():
            self._used_at = self.idle_since = now
        self._next_look = now + LOOK if now < self._used_at + _QUIET else None

    def _take_back(self, slot: Hashable, now: float) -> bool:
        """Take a leased worker back; false while a caller uses it, who may have been interrupted before that began."""
        taken, state = self._backend.unlease(slot), self.scheduler.slots[slot]
        if not taken and not state.asked_back:
            state.asked_back = True
            self.alert(now)
        return taken

    def take_back_leases(self, now: float) -> bool:
        """Take all leased workers back; false while callers use some."""
        for slot, state in self.scheduler.slots.items():
            if state.state is State.LEASED and self._take_back(slot, now):
                state.move(State.IDLE)
        return not any(slot.state is State.LEASED for slot in self.scheduler.slots.values())

    # from the scheduler to the backend

    def warm_up(self, count: int, now: float) -> None:
        """Have at least *count* workers, or as many as there may be, before there is work for them."""
        self.idle_since = now  # they are to be there for a while
        missing = min(count, self.scheduler.workers) - len(self.scheduler.slots)
        for slot in self._backend.grow(missing) if missing > 0 else ():
            self.scheduler.add_slot(slot, self._budget, is_ready=not self._backend.announces)

    def dispatch(self, now: float) -> None:
        """Start what can be started; let callers have the workers that are left."""
        self._start_all(now)
        if demand := self.scheduler.demand:
            self.warm_up(len(self.scheduler.slots) + demand, now)
            self._start_all(now)
        if self._lends and not self.scheduler.has_work:
            for name, slot in self.scheduler.slots.items():
                if slot.state is State.IDLE and self._backend.lease(name):
                    slot.move(State.LEASED)
                    slot.asked_back = False

    def _start_all(self, now: float) -> None:
        self._has_more = False
        for _ in range(_AT_ONCE):
            if (chunk := self.scheduler.next(now, lambda slot: self._take_back(slot, now))) is None:
                return
            self._chunks[chunk.number] = chunk
            taken = self._backend.start(chunk, chunk.job.sink.mode)
            if taken < len(chunk.items):
                self.scheduler.trim(chunk, taken, chunk.strikes)
            if chunk.job.timeout is not None:
                self._watch_time(chunk, chunk.sent, chunk.job.timeout)
        self._has_more = True

    def _watch_time(self, chunk: Chunk, now: float, left: float) -> None:
        """Look at the time of a chunk's item soon; it has so many seconds *left*."""
        pause = min(left, _BEAT)
        self._at_for(chunk, now + pause, partial(self._check_time, now + pause / 2))

    def _check_time(self, midway: float, chunk: Chunk, now: float) -> None:
        """Kill the worker if its item is over its time, wanted or not; otherwise look again when it would be.

        If this program stood still, from *midway* on, so did the item, or it waited for us to take what it prints.
        """
        if chunk.doomed or (timeout := chunk.job.timeout) is None:
            return
        offset, _, seconds = self._backend.position(chunk) or (-1, 0, 0.0)
        chunk.stood = min(seconds, chunk.stood + (now - midway if now > midway + 2 * _BEAT else 0.0))
        left = timeout - seconds + chunk.stood
        if offset < 0 or left > 0:  # below 0, it has not begun, or is sending what it has done
            self._watch_time(chunk, now, max(left, SETTLE))
            return
        item = chunk.job.sink.index(chunk, offset)
        error = TaskTimeoutError(f"took longer than timeout={timeout:g} seconds", item=item, timeout=timeout)
        self._doom(chunk, offset, Failure(error, retry=chunk.job.call.callee.retries(error)), dump=True)

    def _doom(self, chunk: Chunk, offset: int, failure: Failure | None, *, dump: bool = False) -> None:
        chunk.doomed = True
        chunk.verdict = (offset, failure)
        self._stop(chunk.slot, dump=dump)

    def _stop(self, slot: Hashable, *, dump: bool = False) -> None:
        self.scheduler.doom(slot)
        self._backend.stop(slot, dump=dump)

    # items that wait behind a slow one

    def _rescue(self, chunk: Chunk, now: float, pause: float = SETTLE) -> None:
        """Take the items back that wait behind a slow one, though their worker can't be asked.

        The worker notes the item it begins, then reads the limit; here the limit is set, then the note is read, with a
        pause that makes both surely visible: one of the two must see the other. In a block of items that were expected
        to be short it reads no limit: the block is cut, which takes until the task lets a signal through.
        """
        if chunk.job.closed:
            return
        chunk.recalled = True  # not a second time: it would keep the chunk behind it from its turn
        place = self._backend.position(chunk)
        # It has begun, and is to stay whole; or is about to report: nothing will run any more, and nothing waits.
        if place is not None and (chunk.job.chunksize or not place[1]):
            return
        self._cut(chunk)
        limit = place[0] + place[1] if place else 0
        self._recall(chunk, limit)
        self._at_for(chunk, now + SETTLE, lambda chunk, later: self._confirm(chunk, limit, later, pause))

    def _confirm(self, chunk: Chunk, limit: int, now: float, pause: float) -> None:
        """See whether the worker will stop before item *limit*; if so, the items from there on wait again."""
        if chunk.job.closed:  # a closed job wants all of it back, for good
            return
        place = self._backend.position(chunk)
        if place is not None and not place[1]:  # it came to its end, or to the limit: its report will tell
            return
        if place is not None and place[0] + place[1] > limit:  # it went on: no hostages, then
            self._recall(chunk, len(chunk.items))
            chunk.recalled = False
            chunk.sent = now
            return
        self.scheduler.trim(chunk, limit)
        if place is not None and place[0] + 1 < limit:
            # What is left of a block is wanted, too. If no signal came through, the task holds it up.
            self._at_for(chunk, now + pause, lambda chunk, later: self._rescue(chunk, later, 2 * pause))
        if not limit:
            # Nobody waits for it. But it keeps its place until the worker, which may be slow, has read the
            # limit: a chunk that took the place would write its own there, and these items would run a second time.
            chunk.job.flight.discard(chunk)

    def _recall(self, chunk: Chunk, limit: int) -> None:
        """Let a chunk end before item *limit*, or before one that was cancelled."""
        chunk.limit = limit
        self._backend.recall(chunk, min(limit, chunk.stop))

    # ending what runs

    def stop_soon(self, chunks: list[Chunk], now: float, *, kill: bool = True) -> None:
        """Stop work that nobody waits for any more."""
        for chunk in chunks:
            chunk.stop = 0
            self._backend.recall(chunk, 0)
            self._cut(chunk)
            if kill and self._backend.kills:
                self._at_for(chunk, now + MERCY, self._stop_unless_done)

    def _stop_unless_done(self, chunk: Chunk, _: float) -> None:
        if not chunk.doomed and self._backend.position(chunk) is not None:
            self._doom(chunk, 0, None)

    def cancel(self, job: Job, now: float, failure: Failure | None = None, *, kill: bool = True) -> None:
        """End a job; without *kill*, what runs goes on to its end."""
        self.stop_soon(self.scheduler.cancel(job, failure), now, kill=kill)

    def cancel_item(self, job: Job | None, item: Future[Any], now: float) -> bool:
        """Take one item out of a job, whose worker is killed if it runs; false if it can't be stopped."""
        for slot, _, future in self._backend.leased():
            if future is item:
                self._stop(slot)
                return True
        if job is None:
            return False
        if (chunk := self.scheduler.find(job, item)) is None:
            self.scheduler.drop(job, item)
        elif not self._backend.kills:
            return False
        else:
            self._cancel_running(chunk, chunk.items.index(item), now)
        return True

    def _cancel_running(self, chunk: Chunk, offset: int, now: float) -> None:
        """Stop one task of a chunk: kill the worker if it is in it, keep it from starting if it is not."""
        chunk.job.dropped.add(chunk.items[offset])  # also if it has just ended: were it an error, it would be retried
        place = self._backend.position(chunk)
        if chunk.doomed or (place is not None and (place[0] > offset or not place[1])):
            return
        chunk.stop = min(chunk.stop, offset)
        self._recall(chunk, chunk.limit)
        self._cut(chunk)

        def confirm(chunk: Chunk, _: float) -> None:
            place = self._backend.position(chunk)
            if not chunk.doomed and place is not None and place[0] <= offset < place[0] + place[1]:
                self._doom(chunk, offset, None)  # if it was one of several, the others are run again

        # Several short items that run as one are soon done; if not, one of them is not short, and it may be this one.
        together = place is not None and place[1] > 1
        self._at_for(chunk, now + (MERCY if together else SETTLE), confirm)

    def _cut(self, chunk: Chunk) -> None:
        place = self._backend.position(chunk)
        if place is not None and place[1] > 1:
            self._backend.cut(chunk)

    def end_all(self, error: BaseException, now: float) -> None:
        """Fail all that waits and runs with *error*."""
        for chunk in self._chunks.values():
            chunk.job.flight.add(chunk)  # from which it may be gone: if its end is what can't be written down
        running = [chunk.job for chunk in self._chunks.values()]
        for job in dict.fromkeys([*self.scheduler.jobs, *running, *self.scheduler.delayed.jobs()]):
            self.scheduler.cancel(job, Failure(error))
        self.stop_soon([*self._chunks.values()], now)  # those too that were to go on when their job was cancelled
        for slot, _, future in self._backend.leased():
            future.settle_failure(Failure(error))
            self._stop(slot)

    def lose_all(self, error: BaseException, now: float) -> None:
        """No worker can be had: all fails with *error*."""
        self.end_all(error, now)
        for chunk in self._chunks.values():
            self.scheduler.release(chunk)
        self._chunks.clear()
        for slot in [*self.scheduler.slots]:
            self.scheduler.remove_slot(slot)

    # what happened

    def ready(self, slot: Hashable) -> None:
        """A worker has started."""
        if slot in self.scheduler.slots:
            self.scheduler.slots[slot].be_ready()

    def report(self, report: Report, now: float) -> None:
        """A chunk came back."""
        chunk = self._chunks.get(report.number)
        if chunk is None:  # its items were taken back
            return
        if chunk.passage is not None:
            chunk.passage.back(report, len(chunk.items))
        failures = chunk.failures(report)
        self.stop_soon(self.scheduler.finished(chunk, report.done, report.results, failures, report.seconds, now), now)
        del self._chunks[chunk.number]  # not before: if there is no memory for this, its job ends with all others
        if chunk.slot in self.scheduler.slots and self.scheduler.is_spent(chunk.slot):
            self._retire(chunk.slot)

    def _retire(self, slot: Hashable) -> None:
        """Let a worker go that has nothing to do."""
        self.scheduler.remove_slot(slot)
        self._backend.retire(slot)

    def died(self, died: Died, now: float) -> list[Future[Any]]:
        """A worker is gone; returns the tasks that callers had given it, and that are to be run elsewhere."""
        # What it was killed for may have ended just before, and something else have begun: that is innocent.
        doomed = self.scheduler.is_doomed(died.slot)
        innocent = []
        for future, begun in died.tasks:
            if begun and not doomed:
                future.fail(died.explain(Chunk(future.lane.make_job(), 0, [future]), 0))
            elif not future.happened:
                innocent.append(future)
        chunks = self.scheduler.remove_slot(died.slot)
        for chunk in reversed(chunks):
            if chunk.number not in self._chunks:
                continue
            if chunk is chunks[0] and not died.starting and chunk.doomed == doomed:
                self._charge(chunk, chunk.charged(died), now)
            else:
                self.scheduler.put_back(chunk)
            del self._chunks[chunk.number]
        return innocent

    def _charge(self, chunk: Chunk, died: Died, now: float) -> None:
        """Find out which item of a chunk pays for a death."""
        started = (ran := died.number == chunk.number) and died.offset < len(chunk.items)
        offset, length = died.offset, min(died.length, len(chunk.items) - died.offset)
        if offset < 0:  # all had run: any may be to blame
            offset, length = 0, len(chunk.items)
        verdict = chunk.verdict if started and length == 1 else None
        # All were taken back; or it had gone on, or ended, before it could be stopped.
        is_innocent = not len(chunk.items) or (chunk.doomed and (verdict is None or verdict[0] != offset))
        failure = None if verdict is None or is_innocent else verdict[1]
        if not (chunk.doomed or is_innocent):
            failure = died.explain(chunk, offset if started else 0)
        elif failure is not None:
            add_stack(failure, died.explain(chunk, offset))
        if chunk.passage is not None and (ran or failure):
            how = "deaths" if not chunk.doomed else "timeouts" if failure else "stopped"
            chunk.passage.arrive(None, lost=how)
        if is_innocent:
            self.scheduler.put_back(chunk)
        else:
            self.stop_soon(self.scheduler.died(chunk, (offset, length) if started else None, failure, now), now)
