"""The engine: one thread that owns a ledger and a backend, and carries what each says to the other.

Nobody else touches the ledger. Callers leave a note in the inbox, a `deque` whose `append` and `popleft` need no
lock, so that a submit may come from anywhere: another thread, a done-callback, a signal handler, a `__del__` in the
middle of anything. A note is a future to run, or a function to call.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, deque
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from parmap._core.elastic import ElasticLedger
from parmap._engine.crews import waits_in_vain
from parmap._engine.lane import Lane
from parmap._results.futures import Future
from parmap._results.unheard import tell_of
from parmap._results.watched import Latch, wait_for
from parmap._travel.failure import Failure, pass_on
from parmap._work.report.watch import Open, started
from parmap._work.threads import start_thread
from parmap.backends._base import Broken, Capacity, Died, Part, Ready, Report
from parmap.errors import PoolClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sized

    from parmap._core.job import Job
    from parmap._results.batch import Batch
    from parmap._results.watched import Watched
    from parmap.backends._base import Backend, Call, Event

_LONGEST = 86_400.0  # seconds to sleep at once: the system refuses a month, which a time limit may well be
_SOON = 0.005  # seconds after which what could not be told is tried again


class Engine:
    """Runs jobs on a backend."""

    def __init__(
        self, backend: Backend, told: Callable[..., bool] = bool, *, key: Hashable = None, finish: bool = True
    ) -> None:
        """Drive *backend* with the options it was made with.

        *told*: called before its thread starts, when it rests, and when it has ended; false: to be told again soon.
        *key*: what it is shared under; `None`: it belongs to somebody. *finish*: whether its work is finished at exit.
        """
        self.backend = backend
        self.key = key
        self.finish = finish
        self.replaced: bool = False  # by another one: it is left to those who use it
        self.calls: OrderedDict[Callable[[], Batch | None], None] = OrderedDict()  # which use it until they end
        self.pid: int = os.getpid()
        self.closed: bool = False
        self.idle_since: float | None = None  # when it came to rest, as its thread saw it; None: it has something to do
        self.latest: Lane | None = None  # of the last submit, where `pools` finds it in no time
        self._told = told
        self._inbox: deque[Any] = deque()
        self.ledger: ElasticLedger = ElasticLedger(backend, time.monotonic())
        self._is_driven = False  # by a thread that waits
        # Which sleep its thread is in, 0 while it is awake. A deque as the inbox is: without the GIL, too, whoever
        # leaves a note and then looks here, and the thread that writes here and then looks for notes, can't miss both.
        self._sleep: deque[int] = deque([0], maxlen=1)
        self._sleeps = count(1)
        self._woken = 0  # the sleep from which it was woken last
        self.closing = False
        self._dropped: BaseException | None = None  # what fails all that is there, and all that still comes
        self._gone = Latch()
        self._thread: threading.Thread | None = None
        if backend.threaded:  # else nobody has notes for it, and it goes at once with the call that it was made for
            backend.post = self.post
            told(self)
            try:
                self._thread = start_thread("parmap-engine", self._live, deaf=backend.deaf)
            except RuntimeError:  # nobody drives it
                self._finish()
                raise

    @property
    def workers(self) -> int:
        """The most that there may be now."""
        return self.ledger.scheduler.workers

    # what callers may do, from any thread

    def post(self, note: Callable[[], object] | Future[Any]) -> None:
        """Leave a note."""
        self._inbox.append(note)
        if self.closed:
            self._refuse(note)
        elif (sleep := self._sleep[0]) and self._woken != sleep:
            self.backend.wake()
            self._woken = sleep  # only now: whoever is interrupted before wakes it twice, not never

    def offer(self, note: Callable[[], object]) -> bool:
        """Leave a note, if there is still somebody to read it."""
        try:
            self.post(note)
        except PoolClosedError:
            return False
        return True

    def try_quickly(self, call: Call, future: Future[Any]) -> bool:
        """Start one task from the calling thread, on a leased worker; false: post it."""
        # Only while the engine sleeps and has nothing to read: so this task overtakes nobody that it knows of.
        if not self._sleep[0] or self._inbox:
            return False
        # If this caller is interrupted half way, somebody must look after its task.
        is_seen_to = self.ledger.is_alert or self.offer(lambda: self.ledger.alert(time.monotonic()))
        return is_seen_to and self.backend.try_quickly(call, future)

    def expect(self, function: Any, count: int = 1) -> None:
        """A function will be called on *count* items: what is still to be started is started while its caller packs."""
        if self.backend.threaded and len(self.ledger.scheduler.slots) < min(count, self.workers):
            self.backend.expect(function, min(count, self.workers))
            self.offer(lambda: self.ledger.warm_up(count, time.monotonic()))

    def listen(self, future: Future[Any]) -> None:
        """Hear the answer to a task on a quick line, since nobody may be reading it."""
        self.offer(lambda: self.backend.listen(future))

    def _refuse(self, note: Callable[[], object] | Future[Any]) -> None:
        try:
            self._inbox.remove(note)
        except ValueError as error:  # the engine saw it before it ended
            pass_on(error)
            return
        _refuse(note)

    def _add(self, job: Job) -> None:
        self.ledger.scheduler.add(job)
        if self._dropped is not None:  # whoever called was on the way when everything was dropped
            self.ledger.cancel(job, time.monotonic(), Failure(self._dropped))

    def extend(self, job: Job, items: Any, *, last: bool, start: int) -> None:
        """Give a job more items, from number *start* on; *last*: no more will come.

        They may be given again: those that it has are left out. What would come before them, and does not, has its
        outcome already.

        Raises:
            PoolClosedError: nobody is there to take them. The job has ended with that, whoever waits for it.
        """
        try:
            self.post(partial(self.take, job, items, last=last, start=start))
        except PoolClosedError as error:
            # Another error, without the traceback: that leads to whoever holds the job.
            end = partial(self.ledger.scheduler.cancel, job, Failure(PoolClosedError(*error.args)))
            if not self._gone.watch(end):  # until then its thread may be at it
                end()
            raise

    def take(self, job: Job, items: Any, *, last: bool, start: int) -> None:
        """As `extend`, by a note: what was left behind that doesn't overtake it."""
        if not job.closed:
            job.read_on(start, items, last=last)
            self._add(job)

    def cancel(self, job: Job, *, kill: bool = True) -> None:
        """End a job without an outcome; without *kill*, what runs goes on to its end."""
        self.offer(lambda: self.ledger.cancel(job, time.monotonic(), kill=kill))
        if not self.backend.threaded and not self._is_driven:  # nobody may wait any more, and so move it
            self._read_inbox()
            self.backend.close()
            for chunk in [*job.flight]:  # which leads back to the job
                self.ledger.scheduler.release(chunk)

    def cancel_waiting(self, owner: object = None) -> None:
        """Cancel what no worker has yet, of *owner* or of all; what runs goes on to its end."""

        def is_meant(job: Job) -> bool:
            return owner is None or job.owner is owner

        def note() -> None:
            scheduler = self.ledger.scheduler
            for job in filter(is_meant, [chunk.job for slot in scheduler.slots.values() for chunk in slot.flight]):
                job.retries = 0  # nobody would wait for another attempt
            for job in filter(is_meant, dict.fromkeys([*scheduler.jobs, *scheduler.delayed.jobs()])):
                if isinstance(job.sink, Lane):
                    for future in scheduler.waiting_items(job):
                        self._cancel_future(future)
                else:
                    self.ledger.cancel_waiting(job, time.monotonic())

        self.offer(note)

    def cancel_future(self, future: Future[Any], *, wait: bool = True) -> bool:
        """Cancel one task: drop it if it waits, kill its worker if it runs. False if it had ended, or no *wait*."""
        if not self.backend.threaded or threading.current_thread() is self._thread:
            return self._cancel_future(future)
        answer: deque[bool] = deque()
        heard = Latch()

        def note() -> None:
            answer.append(self._cancel_future(future))
            heard.set()

        if self.offer(note) and wait:
            while not heard.wait(1.0) and not self._gone.happened:  # it may end without reading its last notes
                pass
        return any(answer)

    def _cancel_future(self, future: Future[Any]) -> bool:
        if future.done():
            return future.cancelled()
        return future.stop(self.ledger) and future.settle_cancelled()

    def wait(self, watched: Watched, timeout: float | None = None) -> bool:
        """Wait until something happens to *watched*; false if *timeout* seconds passed first.

        Raises:
            PoolClosedError: the work belongs to the process that this one was forked from.
        """
        self.check_process()
        if not self.backend.threaded:
            return self._drive(watched, timeout)
        if threading.current_thread() is self._thread:
            raise RuntimeError("can't wait for parmap in its own thread, where __reduce__, __getstate__, __del__ run")
        return wait_for(watched, timeout, self.backend.let_wait)

    def check_process(self) -> None:
        """Raise a PoolClosedError in a process that was forked from its own, where nothing happens to its work."""
        if os.getpid() != self.pid:
            raise PoolClosedError("this work belongs to the parent process: one made by os.fork() can't wait for it")

    def close(
        self, *, wait: bool, cancel: bool = False, told: BaseException | None = None, hurry: bool = False
    ) -> None:
        """Finish what was submitted (or, with *cancel*, drop it), then stop the workers and end.

        What is dropped fails with *told*, which by default is a PoolClosedError. *hurry*: retries wait for nothing.
        """

        def note() -> None:
            self.closing = self.ledger.scheduler.drains = True
            if hurry:
                self.ledger.scheduler.hurry()
            if cancel:
                self._dropped = told or PoolClosedError("the pool was shut down")
                self.ledger.drop_all(self._dropped, time.monotonic())
            for job in list(self.ledger.scheduler.jobs):
                if job.open_end:  # nobody will read on
                    self.ledger.scheduler.cancel(job, Failure(PoolClosedError("the pool was shut down")))

        self.offer(note)
        if self._thread is None:
            self._finish()
        elif wait:
            self.join()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, for up to *timeout* seconds."""
        thread = self._thread
        if thread is None or threading.current_thread() is thread or os.getpid() != self.pid:
            return
        if waits_in_vain(self.backend):  # for the end of a task that waits for this
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        left = 1.0
        while left > 0 and not self._gone.wait(left) and thread.is_alive():
            left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())

    def abandon(self) -> None:
        """Forget everything, in a process forked from the one that this engine belongs to."""
        self.closed = True
        self.backend.abandon()

    # the engine's thread

    def _live(self) -> None:
        self._thread = threading.current_thread()  # also if whoever started it was interrupted in between
        try:
            while not self.closed:
                while not self._is_over:
                    self._step(None)
                self.closed = True
                if self._inbox and not self._dropped:  # somebody came in between: served first, or refused already
                    self.closed = False
        except BaseException as error:  # a fault of our own: nobody is left waiting, and everybody hears of it
            self._dropped = error
            self.ledger.end_all(error, time.monotonic())
            raise
        finally:
            self._finish()

    @property
    def _is_over(self) -> bool:
        if not self.closing or self._inbox:
            return False
        if self._dropped and not self.backend.kills:  # what runs can't be stopped, and nobody waits for it
            return True
        is_over = self.ledger.scheduler.is_over(dropped=self._dropped is not None, patient=not self.finish)
        return is_over and self.ledger.take_back_leases(time.monotonic())

    def _finish(self) -> None:
        self.closed = True
        try:
            self._read_inbox()
            self.ledger.end_all(PoolClosedError("the pool is closed"), time.monotonic())
            self.backend.close()
            self.backend.finish()
        finally:
            self.backend.post = _refuse  # no cycle: what functions captured shall not wait for the garbage collector
            self.latest = self.idle_since = self._dropped = None
            self._told(self)
            self._gone.set()

    def _drive(self, watched: Watched, timeout: float | None) -> bool:
        """Run the engine in the thread that waits, where it has none of its own."""
        deadline = None if timeout is None else time.monotonic() + timeout
        happened = deque[bool]()
        if not watched.watch(notice := partial(happened.append, True)):
            return True
        while not happened:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and not left > 0:
                watched.unwatch(notice)
                return False
            before, self._is_driven = self._is_driven, True
            try:
                self._step(left, happened)
            finally:
                self._is_driven = before
        return True

    def _step(self, limit: float | None, happened: Sized = ()) -> None:
        """Do what there is to do; sleep for *limit* seconds at most, not at all once something has *happened*."""
        self._read_inbox()
        now = time.monotonic()
        self.ledger.ring(now)
        self.ledger.dispatch(now)
        if self.latest is not None and self.latest.function() is None:  # what it captured is nobody's any more
            self.latest = None
        limits = [self.ledger.timeout(time.monotonic()), limit, None if self._rest() else _SOON]
        timeout = min([each for each in limits if each is not None], default=None)
        self._sleep.append(next(self._sleeps))
        if self._inbox or self._is_over or happened:
            timeout = 0.0
        events = deque(self.backend.wait(timeout and min(timeout, _LONGEST)))
        self._sleep.append(0)
        while events:  # none stays in this frame, which the traceback of an error may have
            self._handle(events.popleft())

    def _handle(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, Report):
            self.ledger.report(event, now)
        elif isinstance(event, Died):
            self._queue(self.ledger.died(event, now))
        elif isinstance(event, Ready):
            self.ledger.ready(event.slot)
            if event.since and Open.reports and event.slot in self.ledger.scheduler.slots:
                started(self.backend, self.ledger.scheduler.slots[event.slot], event.since)
        elif isinstance(event, Broken):
            if not self.finish and self.backend.options.initializer and self.ledger.scheduler.is_idle:
                tell_of(event.error)
            self.ledger.lose_all(event.error, now)
        elif isinstance(event, Capacity):
            self.ledger.employ(event.workers, event.cost)
        elif isinstance(event, Part):
            self.ledger.part(event, now)
        else:
            self.ledger.lost(event, now)

    def _rest(self) -> bool:
        """It is about to sleep, with or without work that goes on; false if somebody must be told of that soon."""
        is_idle = self.ledger.scheduler.is_idle and not self.backend.leased()
        self.idle_since = self.ledger.idle_since if is_idle else None
        return not is_idle or self._told(self)

    def _read_inbox(self) -> None:
        notes: list[Any] = []  # futures, and what came behind them
        try:
            while self._inbox:
                notes.append(self._inbox.popleft())
                if not isinstance(notes[-1], Future):
                    self._queue(notes[:-1])
                    del notes[:-1]
                    notes[0]()
                    notes.clear()
            self._queue(notes)
        except BaseException:  # nobody else knows of them: they are read again when all ends
            self._inbox.extendleft(reversed(notes))
            raise

    def _queue(self, futures: list[Future[Any]]) -> None:
        lanes: dict[Lane, list[Future[Any]]] = {}
        for future in futures:
            lanes.setdefault(future.lane, []).append(future)
        for lane, waiting in lanes.items():
            self._add(lane.take(waiting))


def _refuse(_: Any) -> None:
    raise PoolClosedError("the pool is closed")
