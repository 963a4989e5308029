"""The handle of one task: `Future`, light enough to make a million of them.

A future decodes its value only when asked, in the thread that asks. It has no lock and no condition of its own: what it
costs to make one is most of what a `submit` costs. Its state is written once, by whoever completes it; whoever waits
leaves a callback first and looks at the state afterwards, so that one of the two sees the other.
"""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from collections import deque
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from parmap._results.relay import relay
from parmap._travel.failure import guarded, unloadable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from parmap._results.async_result import AsyncResult
    from parmap._travel.failure import Failure, Voice

R_co = TypeVar("R_co", covariant=True)

_DONE = frozenset({FINISHED, CANCELLED_AND_NOTIFIED})
_condition = threading.Condition()


class Watched:
    """Something that others wait for: callbacks run when it happens, each once."""

    @property
    def happened(self) -> bool:
        """Whether there is nothing to wait for."""
        raise NotImplementedError

    def watch(self, callback: Callable[[], object]) -> bool:
        """Call *callback* when it happens; false, and no call, if it has."""
        watchers = self.__dict__.setdefault("_watchers", deque())
        watchers.append(callback)
        if self.happened:
            try:
                watchers.remove(callback)
            except ValueError:  # it happened in between, and the callback was taken: it runs
                return True
            return False
        return True

    def fire(self) -> None:
        """Run the callbacks that wait."""
        watchers = self.__dict__.get("_watchers")
        while watchers:
            try:
                callback = watchers.popleft()
            except IndexError:  # somebody else takes them too
                return
            callback()


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
    _state = PENDING
    _results: Any = None
    _place = 0
    _failure: Failure | None = None
    voice: Voice = staticmethod(guarded)
    """How its error is told: what stands in for a class of the standard library has another voice."""
    _watched = False
    helper: Any = None
    borrowed: Any = None
    pid = 0

    def __init__(self, lane: Any, args: Any) -> None:
        self.lane = lane
        self.args = args

    # waiting

    def result(self, timeout: float | None = None) -> R_co:
        """The value that the task returned; waits up to *timeout* seconds for it.

        Raises:
            TimeoutError: it is not there yet.
            concurrent.futures.CancelledError: the task was cancelled.
            BaseException: what the task raised.
        """
        if self._state not in _DONE:
            self._wait(timeout)
        failure = self._outcome()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure, self  # a traceback that holds its own exception is freed late
        value: R_co = self.__dict__["_value"]
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the task raised, `None` if it returned; waits up to *timeout* seconds for its end.

        Raises:
            TimeoutError: it has not ended yet.
            concurrent.futures.CancelledError: the task was cancelled.
        """
        if self._state not in _DONE:
            self._wait(timeout)
        return self._outcome()

    def _wait(self, timeout: float | None) -> None:
        helper = self.helper
        if helper is not None and helper.read_for(self, timeout):
            return
        if not self.lane.engine.wait(self, timeout):
            raise TimeoutError

    def _outcome(self) -> BaseException | None:
        """Decode the value, once; return the error if there is one instead."""
        if relay.waiting:  # what was printed before comes first
            relay.drain()
        if self._state == CANCELLED_AND_NOTIFIED:
            raise concurrent.futures.CancelledError
        if self._failure is not None:
            return self._failure.told(self.voice)
        if "_value" not in self.__dict__:
            results = self._results  # read first: another thread may let go of them
            if "_problem" not in self.__dict__ and "_value" not in self.__dict__:
                try:
                    self.__dict__.setdefault("_value", results[self._place])
                except BaseException as error:  # noqa: BLE001 - unpickling runs the user's code; its error is this task's
                    self.__dict__.setdefault("_problem", unloadable(error))
            self._results = None
        problem: BaseException | None = self.__dict__.get("_problem")
        return problem

    def __await__(self) -> Generator[Any, None, R_co]:
        """Wait on an event loop; cancelling the waiter cancels the task."""
        import asyncio

        return asyncio.wrap_future(self).__await__()

    # state

    @property
    def happened(self) -> bool:
        """As `done`."""
        return self._state in _DONE

    def done(self) -> bool:
        """Whether the task has ended, or was cancelled."""
        return self._state in _DONE

    def running(self) -> bool:
        """Whether a worker has the task."""
        return self._state == RUNNING

    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
        return self._state == CANCELLED_AND_NOTIFIED

    def cancel(self) -> bool:
        """Drop the task if it waits, kill its worker if it runs; false if it has ended.

        Other tasks never notice: those that shared the worker run on another one. On threads a running task can't be
        stopped, and the answer is false.
        """
        if self._state in _DONE:
            return self.cancelled()
        stopped: bool = self.lane.engine.cancel_future(self)
        return stopped

    @property
    def async_result(self) -> AsyncResult[R_co]:
        """The same task as `multiprocessing.Pool.apply_async` would show it."""
        from parmap._results.async_result import AsyncResult

        result: AsyncResult[R_co] = self.__dict__.setdefault("_async_result", AsyncResult(self))
        return result

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[R_co]], object]) -> None:
        """Call `fn(future)` when the task ends, in a thread of parmap's; at once if it has ended.

        A callback may submit, wait and raise: what it raises is logged, as `concurrent.futures` does.
        """
        if getattr(fn, "__module__", "") == "asyncio.futures":  # it is awaited
            self.voice = guarded
        if not self.watch(lambda: _callbacks.run(fn, self)):
            _call(fn, self)

    def __reduce__(self) -> Any:
        message = "a Future can't be pickled or copied: it belongs to the process that made it"
        raise TypeError(message)

    @property
    def _state_in_words(self) -> str:
        ended = "finished" if self._failure is None else "failed"
        return {PENDING: "pending", RUNNING: "running", CANCELLED_AND_NOTIFIED: "cancelled"}.get(self._state, ended)

    def __repr__(self) -> str:
        return f"<parmap.Future of {self.lane.name}: {self._state_in_words}>"

    def _repr_html_(self) -> str:
        from parmap._results.display import card

        facts = [("state", self._state_in_words)]
        if self._failure is not None:
            error = self._failure.exception()
            facts.append(("error", f"{type(error).__name__}: {error}"))
        return card("parmap.Future", self.lane.name, facts)

    # completion, by the engine or whoever reads a worker's channel

    def settle(self, results: Any, place: int) -> None:
        """The task returned the value at *place* of *results*."""
        if self._state in _DONE:
            return
        self._results = results
        self._place = place
        self._finish(FINISHED)

    def settle_failure(self, failure: Failure) -> None:
        """The task failed."""
        if self._state in _DONE:
            return
        self._failure = failure
        self._finish(FINISHED)

    def settle_cancelled(self) -> bool:
        """The task was cancelled; false if it had ended."""
        if self._state in _DONE:
            return self.cancelled()
        self._finish(CANCELLED_AND_NOTIFIED)
        return True

    def settle_running(self) -> None:
        """A worker has the task."""
        if self._state == PENDING:
            self._state = RUNNING

    def _finish(self, state: str) -> None:
        self._state = state
        self.args = None
        if "_watchers" in self.__dict__:
            self.fire()
        if self._watched:
            self._tell_waiters()

    # What `concurrent.futures.wait` and `as_completed` touch. One condition serves all futures, since it is reentrant.
    # They are properties, where the base has attributes that would have to be set on each instance.

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        self._watched = True  # from now on the state changes with the condition held, or is looked at after it was
        return _condition

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        waiters: list[Any] = self.__dict__.setdefault("_waiter_list", [])
        return waiters

    @property
    def _result(self) -> Any:  # type: ignore[override]
        return self.__dict__["_value"] if self._state == FINISHED and self._outcome() is None else None

    @property
    def _exception(self) -> BaseException | None:  # type: ignore[override]
        return self._outcome() if self._state == FINISHED else None

    def _tell_waiters(self) -> None:
        with _condition:
            for waiter in self._waiters:
                if self.cancelled():
                    waiter.add_cancelled(self)
                elif self._failure is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)


class _Callbacks:
    """A thread that runs the users' done-callbacks, so that one that waits or is slow holds up nothing else."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Any, Any]] = deque()
        self._ready = threading.Semaphore(0)
        self._idle = threading.Event()
        self._thread: threading.Thread | None = None
        self._turn = threading.RLock()  # callbacks never run at the same time, even if two threads were started

    def run(self, fn: Callable[[Any], object], future: Any) -> None:
        if getattr(fn, "__module__", "") == "asyncio.futures":  # it only wakes its loop: no need for a detour
            _call(fn, future)
            return
        self._queue.append((fn, future))
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._live, name="parmap-callbacks", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter is shutting down: no new threads
                self._thread = None
                self._drain()
                return
        self._ready.release()

    def _live(self) -> None:
        while self._ready.acquire(timeout=1.0):
            self._drain()
        self._thread = None
        self._drain()  # what came in between

    def _drain(self) -> None:
        while self._queue:
            with self._turn:
                try:
                    fn, future = self._queue.popleft()
                except IndexError:
                    return
                _call(fn, future)

    def join(self) -> None:
        """Wait until no callback waits or runs; from the thread itself, return at once."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()


def _call(fn: Callable[[Any], object], future: Any) -> None:
    try:
        fn(future)
    except Exception:  # as concurrent.futures does: the fault of a callback is told, and ends there
        import logging

        logging.getLogger("parmap").exception("exception calling callback for %r", future)
    except BaseException as error:  # noqa: BLE001 - SystemExit and its like must not end a thread for all
        sys.excepthook(type(error), error, error.__traceback__)


_callbacks = _Callbacks()


def notify(fn: Callable[[Any], object], future: Future[Any]) -> None:
    """Call `fn(future)` when it has ended, never in the calling thread, which may hold a lock that *fn* wants."""
    if not future.watch(lambda: _callbacks.run(fn, future)):
        _callbacks.run(fn, future)


def finish_callbacks() -> None:
    """Wait for the callbacks that are due."""
    _callbacks.join()


def forget_callbacks() -> None:
    """Start anew, in a process forked from the one whose thread runs them."""
    global _callbacks, _condition  # noqa: PLW0603 - the old ones may be locked for ever
    _callbacks = _Callbacks()
    _condition = threading.Condition()
