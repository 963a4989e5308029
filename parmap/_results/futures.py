"""The handle of one task: `Future`, light enough to make a million of them.

A future decodes its value only when asked, in the thread that asks. It has no lock and no condition of its own: what it
costs to make one is most of what a `submit` costs.

How it ended is written once, by one C-level operation (`dict.setdefault`): whoever comes first has settled it, and no
exception or signal handler can come in between. Who waits leaves a callback first and looks at the end afterwards, so
that one of the two sees the other. These run in the engine's thread, where no signal handler can interrupt
them; what users add as done-callbacks runs in a thread of its own (`callbacks`).
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Generator
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from parmap._results.callbacks import callbacks, run_callback
from parmap._results.screen.relay import relay
from parmap._results.unheard import Unheard
from parmap._results.watched import UNLOCKED, Shown, Waiters, Watched, refuse, try_on, wait_on_loop
from parmap._travel.failure import Failure, Voice, guarded, unloadable
from parmap._travel.tie import Tie

if TYPE_CHECKING:
    from parmap._core.ledger import Ledger
    from parmap._engine.lane import Lane
    from parmap._results.async_result import AsyncResult
    from parmap._work.report.gather import Gathered
    from parmap.backends._processes.line.quick import QuickLine

R_co = TypeVar("R_co", covariant=True)


class End(NamedTuple):
    """How a task ended: with the value at `place` of `results`, a failure, or neither when it was cancelled."""

    results: Any = None
    place: int = 0
    failure: Failure | None = None
    state: str = FINISHED


_CANCELLED = End(state=CANCELLED_AND_NOTIFIED)
_DECODED = End()


# Covariant, unlike its base: who holds one reads from it, and `set_result` is not theirs to call.
class Future(Watched, concurrent.futures.Future[R_co], Generic[R_co]):  # type: ignore[type-var]
    """The result of one task, now or later.

    It is a `concurrent.futures.Future`, accepted by `concurrent.futures.wait`, `as_completed` and
    `asyncio.wrap_future`; it can be awaited; and `async_result` shows it as `multiprocessing.Pool` would.

    Example:
        >>> from parmap import parallel
        >>> future = parallel(len, workers=1).submit("four")
        >>> future.result(timeout=30)
        4
    """

    # What is set on the class costs nothing to set on each of a million instances.
    line: QuickLine | None = None  # the answer comes on it, unless the engine brings it
    measured: tuple[tuple[Gathered, ...], int] | None = None  # who hears of a task that its caller sent, and when
    _begun = False
    _settled: End | Shown | None = None
    _problem: BaseException | None = None
    _unheard: Unheard | None = None
    voice: Voice = staticmethod(guarded)
    """How its error is told: what stands in for a class of the standard library has another voice."""

    if not TYPE_CHECKING:  # to type checkers they are the base's
        set_result = set_exception = set_running_or_notify_cancel = refuse

    def __init__(self, lane: Lane, args: Any) -> None:
        self.__dict__  # noqa: B018 - see Watched
        self.lane = lane
        self.args: Any = args

    # waiting

    def result(self, timeout: float | None = None) -> R_co:
        """The value that the task returned; waits up to *timeout* seconds for it.

        Raises:
            TimeoutError: it is not there yet.
            concurrent.futures.CancelledError: the task was cancelled.
            BaseException: what the task raised.
        """
        failure = self._outcome(self._end or self._wait(timeout))
        if failure is not None:
            try:
                raise failure
            finally:  # a traceback that holds its own exception is freed late
                failure = self = None  # type: ignore[assignment]  # noqa: PLW0642 - IPython shows it, so no `del`
        value: R_co = self.__dict__["_value"]
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the task raised, `None` if it returned; waits up to *timeout* seconds for its end.

        Raises:
            TimeoutError: it has not ended yet.
            concurrent.futures.CancelledError: the task was cancelled.
        """
        return self._outcome(self._end or self._wait(timeout))

    def _wait(self, timeout: float | None) -> End:
        line = self.line
        deadline = None if timeout is None else time.monotonic() + timeout
        if line is None or not line.read_for(self, timeout):
            left = None if deadline is None else deadline - time.monotonic()
            if not self.lane.engine.wait(self, left):
                raise TimeoutError
        end = self._end
        assert end is not None  # noqa: S101 - it was waited for
        return end

    def _outcome(self, end: End) -> BaseException | None:
        """Decode the value, once; return the error if there is one instead."""
        relay.drain()  # what was printed before comes first
        if end.state == CANCELLED_AND_NOTIFIED:
            raise concurrent.futures.CancelledError
        if end.failure is not None:
            if self._unheard is not None:
                self._unheard.hear()
            return end.failure.told(self.voice)
        if "_value" not in self.__dict__ and self._problem is None and end is not _DECODED:
            try:
                self.__dict__.setdefault("_value", end.results[end.place])
            except BaseException as error:  # noqa: BLE001 - unpickling runs the user's code; its error is this task's
                self.__dict__.setdefault("_problem", unloadable(error))
            self._let_go()
        return self._problem

    def _let_go(self) -> None:
        """The value is decoded: what it was decoded from, with the results of other tasks, is not kept for it."""
        shown = self._settled
        where, name = (shown, "end") if type(shown) is Shown else (self, "_settled")
        where.__dict__[name] = _DECODED

    def __await__(self) -> Generator[Any, None, R_co]:
        """Wait on an event loop; cancelling the waiter cancels the task."""
        import asyncio

        self.voice = guarded
        engine = self.lane.engine
        try:
            yield from wait_on_loop(self, engine).__await__()
        except asyncio.CancelledError:
            engine.cancel_future(self, wait=False)  # it may be busy, and the loop has others
            raise
        if self.cancelled():
            raise asyncio.CancelledError
        try:
            return self.result(0)
        finally:
            self = None  # type: ignore[assignment]  # noqa: PLW0642 - as in `result`

    # state

    @property
    def _end(self) -> End | None:
        """How it ended; `None`: it has not."""
        found = self._settled
        return found.end if isinstance(found, Shown) else found

    @property
    def happened(self) -> bool:
        """As `done`."""
        return self._end is not None

    def watch(self, callback: Callable[[], object]) -> bool:
        """Call *callback* when it ends; false, and no call, if it has."""
        if not super().watch(callback):
            return False
        if self.line is not None:  # nobody reads there for those who don't wait
            self.lane.engine.listen(self)
        return True

    def done(self) -> bool:
        """Whether the task has ended, or was cancelled."""
        if self.line is not None and self._end is None:
            self.line.look()
        return self._end is not None

    def running(self) -> bool:
        """Whether a worker has the task."""
        return self._begun and not self.done()

    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
        end = self._end
        return end is not None and end.state == CANCELLED_AND_NOTIFIED

    def cancel(self) -> bool:
        """Drop the task if it waits, kill its worker if it runs; false if it has ended.

        Other tasks never notice: those that shared the worker run on another one. On threads a running task can't be
        stopped, and the answer is false.
        """
        if self.done():
            if self._unheard is not None:  # nobody wants to know
                self._unheard.forget()
            return self.cancelled()
        return self.lane.engine.cancel_future(self)

    def stop(self, ledger: Ledger) -> bool:
        """Take the task out of the ledger, in the engine's thread; false if it can't be stopped."""
        return ledger.cancel_item(self.lane.job, self, time.monotonic())

    @property
    def async_result(self) -> AsyncResult[R_co]:
        """The same task as `multiprocessing.Pool.apply_async` would show it."""
        from parmap._results.async_result import AsyncResult

        return AsyncResult(self)  # a new one each time: held here, the value would wait for the garbage collector

    def add_done_callback(self, fn: Callable[[Future[R_co]], object]) -> None:
        """Call `fn(future)` when the task ends, in a thread of parmap's; at once if it has ended.

        A callback may submit, wait and raise: what it raises is logged, as `concurrent.futures` does.
        """
        module = getattr(fn, "__module__", "")
        if module == "asyncio.futures":  # it is awaited
            self.voice = guarded
        elif module == "asyncio.tasks":  # `asyncio.wait`, which would never wake up
            raise TypeError("asyncio.wait() takes futures of its event loop: give it asyncio.wrap_future(future)")
        if not self.watch(lambda: callbacks.run(fn, self)):
            run_callback(fn, self)

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Future can't be pickled or copied: it belongs to the process that made it; take its result()"
        )

    @property
    def _state_in_words(self) -> str:
        if (end := self._end) is None:
            return "running" if self._begun else "pending"
        ended = "finished" if end.failure is None else "failed"
        return "cancelled" if end.state == CANCELLED_AND_NOTIFIED else ended

    def __repr__(self) -> str:
        return f"<parmap.Future of {self.lane.name}: {self._state_in_words}>"

    def _repr_html_(self) -> str:
        from parmap._results.screen.display import card

        facts = [("state", self._state_in_words)]
        if self._end is not None and self._end.failure is not None:
            error = self._outcome(self._end)
            facts.append(("error", f"{type(error).__name__}: {error}"))
        return card("parmap.Future", self.lane.name, facts)

    # its end, written by the engine or by whoever reads the answer on a line

    def publish(self, end: End) -> bool:
        """Write down how it ended, unless that is known; true if somebody must be told by `tell`.

        Safe at any moment, in any thread: an exception or a signal handler finds it done or not begun.
        """
        found = self.__dict__.setdefault("_settled", end)
        if type(found) is Shown:
            found.__dict__.setdefault("end", end)
        self.args = None
        if end.failure is not None and self._end is end and self.voice is guarded:  # standard classes don't tell
            self._unheard = Unheard(end.failure, self.lane)
        return type(found) is Shown or "_watchers" in self.__dict__

    def tell(self) -> None:
        """Tell whoever waits; in the engine's thread."""
        self.fire()
        shown = self._settled
        if type(shown) is Shown and (end := self._end) is not None:
            way = "cancelled" if end.state == CANCELLED_AND_NOTIFIED else "exception" if end.failure else "result"
            tell = partial(shown.tell, self._waiters, f"add_{way}", self, end.state)
            if not tell():
                try_on(tell)

    def settle(self, results: Any, place: int) -> None:
        """The task returned the value at *place* of *results*."""
        if self.publish(End(results, place)):
            self.tell()

    def fail(self, failure: Failure) -> None:
        """The task failed, with an error of its own."""
        self.settle_failure(self.tied(failure))

    def tied(self, failure: Failure) -> Failure:
        """Tie a failure to the arguments of this task."""
        if self.args is not None:
            failure.tie = Tie(self.args, is_call=True)
        return failure

    def settle_failure(self, failure: Failure) -> None:
        """The task failed, or was dropped."""
        if self.publish(_CANCELLED if failure.own else End(failure=failure)):
            self.tell()

    def settle_cancelled(self) -> bool:
        """The task was cancelled; false if it had ended."""
        if self.publish(_CANCELLED):
            self.tell()
        return self.cancelled()

    def settle_running(self) -> None:
        """A worker has the task."""
        self._begun = True

    # What `concurrent.futures.wait` and `as_completed` touch: they are properties, where the base has attributes that
    # would have to be set on each instance.

    def _read_state(self) -> str:
        found = self._settled
        state = found and found.state
        return state or (RUNNING if self._begun else PENDING)

    def _read_condition(self) -> Any:  # only its lock is used
        if self._settled is None:
            self.__dict__.setdefault("_settled", Shown())
            if self.line is not None:
                self.lane.engine.listen(self)
        found = self._settled
        return found.lock if type(found) is Shown else UNLOCKED

    def _read_waiters(self) -> list[Any]:
        waiters: list[Any] = self.__dict__.setdefault("_waiter_list", Waiters())
        return waiters

    def _read_result(self) -> Any:
        end = self._end
        has_value = end is not None and end.failure is None and self._outcome(end) is None
        return self.__dict__["_value"] if has_value else None

    def _read_exception(self) -> BaseException | None:
        return self._outcome(end) if (end := self._end) is not None and end.state == FINISHED else None

    if not TYPE_CHECKING:  # to type checkers they are the base's attributes: `as_completed` takes nothing else
        _state, _condition, _waiters = map(property, (_read_state, _read_condition, _read_waiters))
        _result, _exception = map(property, (_read_result, _read_exception))


def notify(
    fn: Callable[[Any], object],
    future: Future[Any],
    run: Callable[[Callable[[Any], object], Future[Any]], object] = callbacks.run,
) -> None:
    """Have `fn(future)` *run* when it has ended, never in the calling thread, which may hold a lock that *fn* wants."""
    if not future.watch(lambda: run(fn, future)):
        run(fn, future)
