"""The engine: one thread that owns a scheduler and a backend, and carries what each says to the other.

Nobody else touches the scheduler. Callers leave a note in the inbox, a `deque` whose `append` and `popleft` need no lock,
so that a submit may come from anywhere: another thread, a done-callback, a signal handler, a `__del__` in the middle of
anything. A note is a future to run, or a function to call.
"""

from __future__ import annotations

import heapq
import os
import sys
import threading
import time
from collections import deque
from concurrent.futures import CancelledError
from itertools import count
from typing import TYPE_CHECKING, Any

from parmap._failure import Failure
from parmap._futures import Future, Lane
from parmap._schedule import Scheduler
from parmap.backends.base import Broken, Died, Report
from parmap.errors import PoolClosedError, TaskTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from parmap._futures import Watched
    from parmap._job import Chunk, Job
    from parmap.backends.base import Backend, Event

MERCY = 0.05
"""Seconds that running work of a failed or closed job has to end by itself, which is cheaper than killing its worker."""

SETTLE = 0.002
"""Seconds after which what two processes wrote into shared memory is surely visible to both."""

_HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


class Engine:
    """Runs jobs on a backend."""

    def __init__(self, backend: Backend) -> None:
        """Drive *backend* with the options it was made with."""
        options = backend.options
        self.backend = backend
        self.workers = options.workers
        self.pid = os.getpid()
        self.closed = False
        self._idle_timeout = options.idle_timeout
        self._budget = options.max_tasks_per_child
        self._inbox: deque[Any] = deque()
        self._scheduler = Scheduler(options.workers, backend.cost, _jitter)
        self._timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._tickets = count()
        self._chunks: dict[int, Chunk] = {}
        self._borrowed: set[Hashable] = set()
        self._asleep = False
        self._closing = False
        self._idle_since = time.monotonic()
        self._gone = threading.Event()
        backend.repost = self._inbox.append
        self._thread: threading.Thread | None = None
        if backend.threaded:
            self._thread = threading.Thread(target=self._live, name="parmap-engine", daemon=True)
            self._thread.start()

    # what callers may do, from any thread

    def post(self, note: Any) -> None:
        """Leave a note."""
        self._inbox.append(note)
        if self.closed:
            self._refuse(note)
        # Without the GIL a reader may see its flag and our note in either order: then wake always, which is safe.
        elif self._asleep or not _HAS_GIL:
            self.backend.wake()

    def _refuse(self, note: Any) -> None:
        try:
            self._inbox.remove(note)
        except ValueError:  # the engine saw it before it ended
            return
        message = "the pool is closed"
        raise PoolClosedError(message)

    def add(self, job: Job) -> None:
        """Start a job."""
        self.post(lambda: self._scheduler.add(job))

    def extend(self, job: Job, items: Any, *, last: bool) -> None:
        """Give a job more items; *last*: no more will come."""

        def note() -> None:
            if not job.closed:
                if len(items):
                    job.extend(items)
                job.open_end = job.open_end and not last
                self._scheduler.add(job)

        self.post(note)

    def cancel(self, job: Job, *, kill: bool = True) -> None:
        """End a job without an outcome; without *kill*, what runs goes on to its end."""
        self.post(lambda: self._stop_soon(self._scheduler.cancel(job), kill=kill))

    def cancel_waiting(self) -> None:
        """Cancel what no worker has yet; what runs goes on to its end."""

        def note() -> None:
            for job in list(self._scheduler.jobs):
                if isinstance(job.sink, Lane):
                    for future in [future for piece in job.pending for future in piece.items]:
                        self._cancel_future(future)
                elif job.waiting:
                    self._stop_soon(self._scheduler.cancel(job, Failure(CancelledError())), kill=False)

        self.post(note)

    def cancel_future(self, future: Future[Any]) -> bool:
        """Cancel one task: drop it if it waits, kill its worker if it runs. False if it had ended."""
        if not self.backend.threaded or threading.current_thread() is self._thread:
            return self._cancel_future(future)
        answer: deque[bool] = deque()
        lock = threading.Lock()
        lock.acquire()

        def note() -> None:
            answer.append(self._cancel_future(future))
            lock.release()

        try:
            self.post(note)
        except PoolClosedError:
            return False
        while not lock.acquire(timeout=1.0):
            if self._gone.is_set():  # the engine ended without reading its last notes
                return False
        return answer[0]

    def wait(self, watched: Watched, timeout: float | None = None) -> bool:
        """Wait until something happens to *watched*; false if *timeout* seconds passed first.

        Raises:
            PoolClosedError: the work belongs to the process that this one was forked from.
        """
        if os.getpid() != self.pid:
            message = "this work belongs to the parent process: a process made by os.fork() can't wait for it"
            raise PoolClosedError(message)
        if not self.backend.threaded:
            return self._drive(watched, timeout)
        if threading.current_thread() is self._thread:
            message = "can't wait for parmap while parmap pickles an argument (in __reduce__ or __getstate__)"
            raise RuntimeError(message)
        lock = threading.Lock()
        lock.acquire()
        if not watched.watch(lock.release):
            return True
        if _HAS_GIL:
            return lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        return _patient(lock, watched, timeout)

    def close(self, *, wait: bool, cancel: bool = False) -> None:
        """Finish what was submitted (or, with *cancel*, drop it), then stop the workers and end."""

        def note() -> None:
            self._closing = True
            if cancel:
                self._end_all(PoolClosedError("the pool was shut down"))
            for job in list(self._scheduler.jobs):
                if job.open_end:  # nobody will read on
                    self._scheduler.cancel(job, Failure(PoolClosedError("the pool was shut down")))

        try:
            self.post(note)
        except PoolClosedError:
            pass
        if self._thread is None:
            self._finish()
        elif wait and threading.current_thread() is not self._thread:
            while not self._gone.wait(1.0):
                if not self._thread.is_alive():
                    return

    def abandon(self) -> None:
        """Forget everything, in a process forked from the one that this engine belongs to."""
        self.closed = True
        self.backend.abandon()

    # the engine's thread

    def _live(self) -> None:
        try:
            while not self._is_over:
                self._step(None)
        except BaseException as error:  # noqa: BLE001 - a fault of our own must not leave anybody waiting
            self._end_all(error)
        finally:
            self._finish()

    @property
    def _is_over(self) -> bool:
        return self._closing and self._scheduler.is_idle and not self._inbox and not self.backend.busy

    def _finish(self) -> None:
        self.closed = True
        self._read_inbox()
        self._end_all(PoolClosedError("the pool is closed"))
        try:
            self.backend.close()
            self.backend.finish()
        finally:
            self._gone.set()

    def _drive(self, watched: Watched, timeout: float | None) -> bool:
        """Run the engine in the thread that waits, where it has none of its own."""
        deadline = None if timeout is None else time.monotonic() + timeout
        happened = deque[bool]()
        if not watched.watch(lambda: happened.append(True)):
            return True
        while not happened:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._step(left)
        return True

    def _step(self, limit: float | None) -> None:
        self._read_inbox()
        now = time.monotonic()
        self._ring(now)
        self._dispatch(now)
        timeout = self._timeout(time.monotonic())
        if limit is not None:
            timeout = limit if timeout is None else min(timeout, limit)
        self._asleep = True
        if self._inbox or self._is_over:
            timeout = 0.0
        events = self.backend.wait(timeout)
        self._asleep = False
        for event in events:
            self._handle(event)

    def _read_inbox(self) -> None:
        inbox = self._inbox
        lanes: dict[Lane, list[Any]] = {}
        while inbox:
            note = inbox.popleft()
            if isinstance(note, Future):
                lanes.setdefault(note.lane, []).append(note)
                continue
            self._queue(lanes)
            lanes = {}
            note()
        self._queue(lanes)

    def _queue(self, lanes: dict[Lane, list[Any]]) -> None:
        for lane, futures in lanes.items():
            job = lane.job
            if job is None or job.closed:
                job = lane.job = lane.make_job()
            job.extend(futures)
            self._scheduler.add(job)

    # time

    def _at(self, when: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._tickets), act))

    def _ring(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2](now)
        late = self._scheduler.hostages(now)
        if late is not None:
            self._rescue(late, now)

    def _timeout(self, now: float) -> float | None:
        times = [self._timers[0][0]] if self._timers else []
        other = self._scheduler.next_time()
        if other is not None:
            times.append(other)
        if self._scheduler.slots and self._idle_timeout is not None and not self._closing and self._is_idle:
            when = self._idle_since + self._idle_timeout
            if now >= when:
                self._fall_asleep()
            else:
                times.append(when)
        return max(0.0, min(times) - now) if times else None

    @property
    def _is_idle(self) -> bool:
        if self._scheduler.is_idle and not self.backend.busy:
            return True
        self._idle_since = time.monotonic()
        return False

    def _fall_asleep(self) -> None:
        """Stop the workers; they come back when they are needed."""
        for slot in list(self._scheduler.slots):
            if self.backend.claim(slot):
                self._scheduler.remove_slot(slot)
        if not self._scheduler.slots:
            self.backend.close()

    # from the scheduler to the backend

    def _dispatch(self, now: float) -> None:
        self._start_all(now)
        demand = self._scheduler.demand
        if demand:
            for slot in self.backend.grow(demand):
                self._scheduler.add_slot(slot, self._budget)
            self._start_all(now)
        for slot, state in self._scheduler.slots.items():
            if not state.flight and not state.lent:
                state.lent = self.backend.offer(slot)

    def _start_all(self, now: float) -> None:
        while (chunk := self._scheduler.next(now, self.backend.claim)) is not None:
            self._start(chunk)

    def _start(self, chunk: Chunk) -> None:
        self._chunks[chunk.number] = chunk
        taken = self.backend.start(chunk, chunk.job.sink.mode)
        if taken < len(chunk.items):
            self._scheduler.trim(chunk, taken)
        if chunk.job.timeout is not None:
            self._at(chunk.sent + chunk.job.timeout, lambda now: self._check_time(chunk, now))

    def _check_time(self, chunk: Chunk, now: float) -> None:
        """Kill the worker if its item is over its time; otherwise look again when it would be."""
        if chunk.number not in self._chunks or chunk.doomed or chunk.job.closed:
            return
        timeout = chunk.job.timeout
        assert timeout is not None  # noqa: S101 - only chunks with a limit are watched
        place = self.backend.position(chunk)
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
        self.backend.stop(chunk.slot, dump=dump)

    def _rescue(self, chunk: Chunk, now: float) -> None:
        """Take the items back that wait behind a slow one, though their worker can't be asked.

        The worker notes the item it begins, then reads the limit; here the limit is set, then the note is read, with a
        pause that makes both surely visible: one of the two must see the other.
        """
        place = self.backend.position(chunk)
        limit = place[0] + place[1] if place else 0
        chunk.doomed = True  # not a second time
        self.backend.recall(chunk, limit)

        def confirm(now: float) -> None:
            chunk.doomed = False
            if chunk.number not in self._chunks:
                return
            place = self.backend.position(chunk)
            if place is not None and place[0] + place[1] > limit:  # it went on: no hostages, then
                self.backend.recall(chunk, 1 << 62)
                chunk.sent = now
                return
            self._scheduler.trim(chunk, limit)
            if not limit:
                self._scheduler.release(chunk)
                del self._chunks[chunk.number]

        self._at(now + SETTLE, confirm)

    def _stop_soon(self, chunks: list[Chunk], *, kill: bool = True) -> None:
        """Stop work that nobody waits for any more."""
        for chunk in chunks:
            self.backend.recall(chunk, 0)

        def stop(_: float) -> None:
            for chunk in chunks:
                if chunk.number in self._chunks and not chunk.doomed and self.backend.position(chunk) is not None:
                    chunk.doomed = True
                    self.backend.stop(chunk.slot)

        if chunks and kill and self.backend.kills:
            self._at(time.monotonic() + MERCY, stop)

    def _cancel_future(self, future: Future[Any]) -> bool:
        if future.done():
            return future.cancelled()
        self._read_inbox()
        if future.borrowed is not None:
            slot = future.borrowed
            if not future.settle_cancelled():
                return False
            self.backend.stop(slot)
            return True
        job = future.lane.job
        if job is None:
            return False
        chunk = self._scheduler.find(job, future)
        if chunk is None:
            self._scheduler.drop(job, future)
        elif not self.backend.kills:
            return False
        else:
            self._cancel_running(chunk, chunk.items.index(future))
        return future.settle_cancelled()

    def _cancel_running(self, chunk: Chunk, offset: int) -> None:
        """Stop one task of a chunk: kill the worker if it is in it, keep it from starting if it is not."""
        place = self.backend.position(chunk)
        if chunk.doomed or (place is not None and place[0] > offset):
            return
        if place is not None and place[0] == offset:
            self._doom(chunk, offset, None)
            return
        self.backend.recall(chunk, offset)
        chunk.job.dropped.add(chunk.items[offset])

        def confirm(_: float) -> None:
            place = self.backend.position(chunk)
            if chunk.number in self._chunks and not chunk.doomed and place is not None and place[0] == offset:
                self._doom(chunk, offset, None)

        self._at(time.monotonic() + SETTLE, confirm)

    def _end_all(self, error: BaseException) -> None:
        jobs = {id(job): job for job in self._scheduler.jobs}
        jobs |= {id(chunk.job): chunk.job for chunk in self._chunks.values()}
        jobs |= {id(job): job for job in self._scheduler.waiting_for_retry()}
        for job in jobs.values():
            self._stop_soon(self._scheduler.cancel(job, Failure(error)))

    # from the backend to the scheduler

    def _handle(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, Report):
            self._on_report(event, now)
        elif isinstance(event, Died):
            self._on_death(event, now)
        elif isinstance(event, Broken):
            self._end_all(event.error)
            self._chunks.clear()
            for slot in list(self._scheduler.slots):
                self._scheduler.remove_slot(slot)

    def _on_report(self, report: Report, now: float) -> None:
        chunk = self._chunks.pop(report.number, None)
        if chunk is None:  # its items were taken back
            return
        stop = self._scheduler.finished(chunk, report.done, report.results, report.failures, report.seconds, now)
        self._stop_soon(stop)
        slot = chunk.slot
        if slot in self._scheduler.slots and self._scheduler.is_spent(slot):
            self._scheduler.remove_slot(slot)
            self.backend.retire(slot)

    def _on_death(self, died: Died, now: float) -> None:
        if died.direct is not None:
            died.direct.settle_failure(died.explain(None, 0))
        chunks = self._scheduler.remove_slot(died.slot)
        for chunk in reversed(chunks):
            if self._chunks.pop(chunk.number, None) is None:
                continue
            if chunk is chunks[0]:
                self._charge(chunk, died, now)
            else:
                self._scheduler.put_back(chunk)

    def _charge(self, chunk: Chunk, died: Died, now: float) -> None:
        """Find out which item of a chunk pays for a death."""
        started = died.number == chunk.number and died.index < len(chunk.items)
        offset, length = died.index, min(died.length, len(chunk.items) - died.index)
        if chunk.doomed:
            verdict = chunk.verdict
            if not started or verdict is None or verdict[0] != offset or length != 1:
                self._scheduler.put_back(chunk)  # it had gone on, or ended, before it could be stopped: innocent
                return
            failure = verdict[1]
            if failure is not None:
                _add_stack(failure, died.explain(chunk, offset))
        elif not started:
            failure = died.explain(chunk, 0)
        else:
            failure = died.explain(chunk, offset)
        position = (offset, length) if started else None
        self._stop_soon(self._scheduler.died(chunk, position, failure, now))


def _add_stack(failure: Failure, death: Failure) -> None:
    """Give a timeout the stack that the worker left."""
    error, told = failure.exception(), death.exception()
    error.stack = getattr(told, "stack", "")  # type: ignore[attr-defined]
    for note in getattr(told, "__notes__", ()):
        error.add_note(note)


def _jitter() -> float:
    """Between one half and one and a half, so that retries of many items don't come all at once."""
    import random

    return random.uniform(0.5, 1.5)


def _patient(lock: Any, watched: Watched, timeout: float | None) -> bool:
    """Wait without relying on the order in which other threads see our writes (free-threaded builds)."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while not lock.acquire(timeout=0.02 if deadline is None else max(0.0, min(0.02, deadline - time.monotonic()))):
        if watched.happened:
            return True
        if deadline is not None and time.monotonic() > deadline:
            return False
    return True
