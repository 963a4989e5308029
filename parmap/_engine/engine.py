"""The engine: one thread that owns a scheduler and a backend, and carries what each says to the other.

Nobody else touches the scheduler. Callers leave a note in the inbox, a `deque` whose `append` and `popleft` need no
lock, so that a submit may come from anywhere: another thread, a done-callback, a signal handler, a `__del__` in the
middle of anything. A note is a future to run, or a function to call.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from parmap._engine.conductor import Conductor
from parmap._engine.lane import Lane
from parmap._results.futures import Future
from parmap._travel.failure import Failure
from parmap.errors import PoolClosedError

if TYPE_CHECKING:
    from parmap._core.job import Job
    from parmap._results.futures import Watched
    from parmap.backends.base import Backend

_HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


class Engine:
    """Runs jobs on a backend."""

    def __init__(self, backend: Backend) -> None:
        """Drive *backend* with the options it was made with."""
        self.backend = backend
        self.workers = backend.options.workers
        self.pid = os.getpid()
        self.closed = False
        self._inbox: deque[Any] = deque()
        self._conductor = Conductor(backend)
        self._asleep = False
        self._closing = False
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

    @property
    def is_at_rest(self) -> bool:
        """Whether its thread sleeps and has nothing to read: whoever now goes past it overtakes nobody it knows of."""
        return self._asleep and not self._inbox

    def _refuse(self, note: Any) -> None:
        try:
            self._inbox.remove(note)
        except ValueError:  # the engine saw it before it ended
            return
        message = "the pool is closed"
        raise PoolClosedError(message)

    def add(self, job: Job) -> None:
        """Start a job."""
        self.post(lambda: self._conductor.scheduler.add(job))

    def extend(self, job: Job, items: Any, *, last: bool, start: int | None = None) -> None:
        """Give a job more items; *last*: no more will come.

        With *start*, the number of the first of them, they may be given again: those that it has are left out.
        """

        def note() -> None:
            if not job.closed:
                known = 0 if start is None else job.read - start
                if len(items) > known:
                    job.extend(items[known:] if known else items)
                job.open_end = job.open_end and not last
                self._conductor.scheduler.add(job)

        self.post(note)

    def cancel(self, job: Job, *, kill: bool = True) -> None:
        """End a job without an outcome; without *kill*, what runs goes on to its end."""
        self.post(lambda: self._conductor.stop_soon(self._conductor.scheduler.cancel(job), kill=kill))

    def cancel_waiting(self) -> None:
        """Cancel what no worker has yet; what runs goes on to its end."""

        def note() -> None:
            for job in list(self._conductor.scheduler.jobs):
                if isinstance(job.sink, Lane):
                    for future in [future for piece in job.pending for future in piece.items]:
                        self._conductor.cancel_future(future)
                elif job.waiting:
                    self._conductor.stop_soon(
                        self._conductor.scheduler.cancel(job, Failure(CancelledError(), own=True)), kill=False
                    )

        self.post(note)

    def cancel_future(self, future: Future[Any]) -> bool:
        """Cancel one task: drop it if it waits, kill its worker if it runs. False if it had ended."""
        if not self.backend.threaded or threading.current_thread() is self._thread:
            return self._conductor.cancel_future(future)
        answer: deque[bool] = deque()
        lock = threading.Lock()
        lock.acquire()

        def note() -> None:
            answer.append(self._conductor.cancel_future(future))
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
            message = "can't wait for parmap in its own thread, where __reduce__, __getstate__ or __del__ may run"
            raise RuntimeError(message)
        lock = threading.Lock()
        lock.acquire()
        if not watched.watch(lock.release):
            return True
        if _HAS_GIL:
            return lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        return _patient(lock, watched, timeout)

    def close(self, *, wait: bool, cancel: bool = False, told: BaseException | None = None) -> None:
        """Finish what was submitted (or, with *cancel*, drop it), then stop the workers and end.

        What is dropped fails with *told*, which by default is a PoolClosedError.
        """

        def note() -> None:
            self._closing = True
            if cancel:
                self._conductor.end_all(told or PoolClosedError("the pool was shut down"))
            for job in list(self._conductor.scheduler.jobs):
                if job.open_end:  # nobody will read on
                    self._conductor.scheduler.cancel(job, Failure(PoolClosedError("the pool was shut down")))

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
        except BaseException as error:  # a fault of our own: nobody is left waiting, and everybody hears of it
            self._conductor.end_all(error)
            raise
        finally:
            self._finish()

    @property
    def _is_over(self) -> bool:
        return self._closing and self._conductor.scheduler.is_idle and not self._inbox and not self.backend.busy

    def _finish(self) -> None:
        self.closed = True
        self._read_inbox()
        self._conductor.end_all(PoolClosedError("the pool is closed"))
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
        self._conductor.ring(now)
        self._conductor.dispatch(now)
        timeout = self._conductor.timeout(time.monotonic())
        if limit is not None:
            timeout = limit if timeout is None else min(timeout, limit)
        self._asleep = True
        if self._inbox or self._is_over:
            timeout = 0.0
        events = self.backend.wait(timeout)
        self._asleep = False
        for event in events:
            self._conductor.handle(event)

    def _read_inbox(self) -> None:
        inbox = self._inbox
        lanes: dict[Lane, list[Any]] = {}
        while inbox:
            note = inbox.popleft()
            if isinstance(note, Future):
                lanes.setdefault(note.lane, []).append(note)
                continue
            self._conductor.queue(lanes)
            lanes = {}
            note()
        self._conductor.queue(lanes)


def _patient(lock: Any, watched: Watched, timeout: float | None) -> bool:
    """Wait without relying on the order in which other threads see our writes (free-threaded builds)."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while not lock.acquire(timeout=0.02 if deadline is None else max(0.0, min(0.02, deadline - time.monotonic()))):
        if watched.happened:
            return True
        if deadline is not None and time.monotonic() > deadline:
            return False
    return True
