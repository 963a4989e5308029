"""`Pool`: what `multiprocessing.Pool` is, on parmap's workers."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from multiprocessing import TimeoutError as PoolTimeoutError
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from parmap._calls.dropin import InTurn, OwnsWorkers, serial_in_tasks
from parmap._engine import pools as _pools
from parmap._results.async_result import AsyncResult
from parmap._results.callbacks import callbacks
from parmap._results.futures import Future, notify
from parmap._results.watched import Latch
from parmap._travel.failure import pass_on
from parmap.errors import PoolClosedError

if TYPE_CHECKING:
    from parmap._calls.typed import OwnOptions

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
A = TypeVar("A")

_LONGEST = 5.0  # seconds that a pool may take to begin


@serial_in_tasks
class Pool(OwnsWorkers):
    """Drop-in for `multiprocessing.Pool`: the same methods, arguments and errors, on workers that can't hang it.

    A worker that dies costs the one item it was running, which raises :class:`WorkerDiedError`. Lambdas, closures and
    functions of ``__main__`` work. What else is different, and why, is listed in the documentation.

    Args:
        processes: how many workers; None for :func:`cpu_count`.
        initializer: called in each worker when it starts: together with the pool, where there is one, else when there
            is work for it.
        initargs: its arguments, as they are now.
        maxtasksperchild: a worker is replaced after so many calls; None for no limit.
        context: of ``multiprocessing.get_context()``; its start method is taken, save that ``"fork"`` is
            ``"forkserver"``.
        **options: more options of :func:`parallel`: ``backend="threads"`` makes it a ``ThreadPool``.

    Example:
        >>> from parmap import Pool
        >>> with Pool(2) as pool:
        ...     pool.map(abs, [-1, 2, -3])
        [1, 2, 3]
    """

    _when_closed = "Pool not running"
    _when_too_few = "Number of processes must be at least 1"
    _arguments = ("processes", "maxtasksperchild", "context")

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        **options: Unpack[OwnOptions],
    ) -> None:
        if maxtasksperchild is not None and not _is_count(maxtasksperchild):
            raise ValueError("maxtasksperchild must be a positive int or None")
        given = {"initializer": initializer, "initargs": initargs, "max_tasks_per_child": maxtasksperchild}
        self._own(processes, context, given, options, finish=False)
        self._lock = threading.RLock()  # a callback, a signal handler or a finalizer may close the pool too
        self._streams: set[PoolIterator[Any]] = set()  # whose input has not been read to its end
        if initializer is not None:
            self._begin()

    def _begin(self) -> None:
        """Start the workers: the initializer may be all that they are for, as where it takes tasks from a queue."""
        self.warm_up()
        engine, begun = self._owned.engine, Latch()
        # What it is given is that of now. A module that is just being imported may keep the engine from that.
        if engine is not None and engine.backend.threaded and engine.offer(begun.set):
            begun.wait(_LONGEST)

    @property
    def _processes(self) -> int:
        """Read of any pool by programs that cut their input by the number of workers."""
        return self._owned.options.workers

    @property
    def _state(self) -> str:
        """Read of any pool by programs that make a new one where theirs was closed."""
        return "CLOSE" if self._owned.closed else "RUN"

    # one task

    def apply(self, func: Callable[..., R], args: Iterable[Any] = (), kwds: Mapping[str, Any] | None = None) -> R:
        """Return ``func(*args, **kwds)``, called in a worker; wait for it."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[R], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[R]:
        """Start :meth:`apply`.

        Args:
            func: the function.
            args: its positional arguments.
            kwds: its keyword arguments.
            callback: called with the result, in a thread of parmap's, before the result is ready.
            error_callback: called with the exception instead, if the task failed.

        Raises:
            PoolClosedError: the pool is closed.
        """
        self._check()
        return self._result(self._owned.submit(func, args, kwds or {}), callback, error_callback)

    # all at once

    def map(self, func: Callable[[A], R], iterable: Iterable[A], chunksize: int | None = None) -> list[R]:
        """Return the results of *func* over the items, in order. All items are run; then the first error is raised.

        Args:
            func: the function.
            iterable: its arguments; read to the end before work begins.
            chunksize: how many items travel together; None lets parmap choose, by measured time.
        """
        return self._map(func, iterable, chunksize, star=False)

    def starmap(
        self, func: Callable[..., R], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[R]:
        """As :meth:`map`, where each item is a tuple of arguments."""
        return self._map(func, iterable, chunksize, star=True)

    def _map(self, func: Callable[..., R], iterable: Iterable[Any], chunksize: int | None, *, star: bool) -> list[R]:
        self._check()
        options = self._owned.with_chunksize(chunksize)
        engine = self._owned.engine
        voice = self._owned.voice
        return _pools.map(func, (_read(iterable),), options, star=star, fail_fast=False, voice=voice, engine=engine)

    def map_async(
        self,
        func: Callable[[A], R],
        iterable: Iterable[A],
        chunksize: int | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[R]]:
        """Start :meth:`map`; the callbacks are those of :meth:`apply_async`."""
        self._check()
        future = self._owned.submit_map(func, _read(iterable), chunksize, star=False)
        return self._result(future, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[R]]:
        """Start :meth:`starmap`; the callbacks are those of :meth:`apply_async`."""
        self._check()
        future = self._owned.submit_map(func, _read(iterable), chunksize, star=True)
        return self._result(future, callback, error_callback)

    def _result(self, future: Future[Any], callback: Any, error_callback: Any) -> AsyncResult[Any]:
        has_callbacks = callback is not None or error_callback is not None
        result = _Notified(future, callback, error_callback) if has_callbacks else AsyncResult(future)
        result.owner = self
        return result

    # as they come

    def imap(self, func: Callable[[A], R], iterable: Iterable[A], chunksize: int | None = None) -> PoolIterator[R]:
        """Return an iterator of the results in order, which has ``next(timeout)``. A failed item raises in its turn.

        Args:
            func: the function.
            iterable: its arguments. A generator is read only so far ahead as keeps the workers busy. A thread does
                that, so that it may wait for results to be taken.
            chunksize: how many items travel together; None lets parmap choose, by measured time.
        """
        return self._imap(func, iterable, chunksize, ordered=True)

    def imap_unordered(
        self, func: Callable[[A], R], iterable: Iterable[A], chunksize: int | None = None
    ) -> PoolIterator[R]:
        """As :meth:`imap`, in the order in which the results come."""
        return self._imap(func, iterable, chunksize, ordered=False)

    def _imap(
        self, func: Callable[..., R], iterable: Iterable[Any], chunksize: int | None, *, ordered: bool
    ) -> PoolIterator[R]:
        self._check()
        buffersize = sys.maxsize if hasattr(iterable, "__len__") else None
        stream = self._owned.stream(PoolIterator, func, (iterable,), chunksize, ordered=ordered, buffersize=buffersize)
        stream.enter(self)
        return stream

    # the end

    def close(self) -> None:
        """Take no more tasks. The workers leave when all work is done."""
        with self._lock:
            self._owned.refuse()
            if not self._streams:
                self._owned.close()

    def terminate(self) -> None:
        """Stop the workers at once; what is not finished raises :class:`PoolClosedError`."""
        self._stop_reading()
        self._owned.close(cancel=True, wait=True)

    def join(self) -> None:
        """Wait for the workers to leave, and for the callbacks. First call :meth:`close` or :meth:`terminate`.

        Raises:
            ValueError: the pool is still open.
        """
        if not self._owned.closed:
            raise ValueError("Pool is still running")
        for stream in list(self._streams):
            with suppress(PoolClosedError):  # another thread terminates it meanwhile
                stream.read_all()
        self._owned.close(wait=True)
        callbacks.join(None)

    def __enter__(self) -> Self:
        """Use as a context manager: leaving the block terminates the pool."""
        self._check()
        return self

    def __exit__(self, *_: object) -> None:
        """Terminate the pool."""
        self.terminate()

    def __del__(self) -> None:
        """Stop the workers of a pool that nobody can reach any more, and say that it should have been closed."""
        owned = self.__dict__.get("_owned")
        if owned is None or (owned.closed and not self._streams):
            return
        forgotten = not owned.closed and owned.engine is not None  # or it has no workers
        self._stop_reading()
        owned.close(cancel=True)
        if forgotten and not sys.is_finalizing():
            import warnings

            warnings.warn(f"unclosed running {self!r}", ResourceWarning, stacklevel=2, source=self)

    def __reduce__(self) -> Any:
        """Refuse to be pickled, as the original does."""
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def keep(self, stream: PoolIterator[Any]) -> None:
        """A stream has input to read: it keeps a closed pool from ending."""
        with self._lock:
            self._streams.add(stream)

    def _stop_reading(self) -> None:
        with self._lock:
            while self._streams:
                self._streams.pop().stop_reading()

    def release(self, stream: PoolIterator[Any]) -> None:
        """A stream has read its input."""
        with self._lock:
            if stream in self._streams:
                self._streams.remove(stream)
                if self._owned.closed and not self._streams:
                    self._owned.close()


def _read(iterable: Iterable[Any]) -> Iterable[Any]:
    """The input, read before work begins: an error in it is raised before any task has run."""
    return iterable if hasattr(iterable, "__len__") else list(iterable)


class _Notified(AsyncResult[R]):
    """A result with callbacks: it is ready when they have run."""

    def __init__(self, future: Future[R], callback: Any, error_callback: Any) -> None:
        super().__init__(future)
        self._callback = callback
        self._error_callback = error_callback
        self._told = Latch()
        notify(self._notify, future)

    def _notify(self, future: Future[R]) -> None:
        try:
            error = future.exception()
            if error is not None:
                if self._error_callback is not None:
                    self._error_callback(error)
            elif self._callback is not None:
                self._callback(future.result())
        finally:
            self._told.set()

    def ready(self) -> bool:
        """Whether the task has ended and its callback has run."""
        return self._told.happened

    def wait(self, timeout: float | None = None) -> None:
        """Wait up to *timeout* seconds for the task to end and its callback to have run."""
        callbacks.wait(self._told, timeout)


class PoolIterator(InTurn[R_co]):
    """What :meth:`Pool.imap` returns: an iterator with ``next(timeout)``.

    Dropping it does not stop the work: the pool runs all of it before it ends.
    """

    always_apart = True
    _pool: Pool | None = None

    def enter(self, pool: Pool) -> None:
        """Belong to *pool*."""
        self._pool = pool
        self._when_dropped(None)
        if not self._is_safe:
            pool.keep(self)
            self._release()  # it may be at its end since

    def next(self, timeout: float | None = None) -> R_co:
        """The next result, waited for up to *timeout* seconds.

        Raises:
            multiprocessing.TimeoutError: it is not there yet.
            StopIteration: there are no more.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        result: R_co
        while True:  # as in `ResultStream.__next__`, which tells why not by calling it
            if len(self._values) <= self._low:
                self._wait_for_value(deadline)
            try:
                for result in self._take:
                    return result
            except IndexError as error:
                pass_on(error)

    if TYPE_CHECKING:

        def __next__(self) -> R_co: ...
    else:
        __next__ = next  # noqa: A003 - the method

    def _wait(self, deadline: float | None) -> None:
        try:
            super()._wait(deadline)
        except TimeoutError as error:
            pass_on(error)
            raise PoolTimeoutError from None

    def _feed(self) -> None:
        super()._feed()
        self._release()

    def read_all(self) -> None:
        """Give the engine the rest of the input."""
        reader = self._input.reader
        if reader is None:
            super().read_all()
        else:
            reader.allow(sys.maxsize)
            reader.thread.join()
        self._release()

    def stop_reading(self) -> None:
        """Nobody wants what is left of the input."""
        self._input.stop()

    def has_read(self) -> None:
        """The pool may end."""
        self._release()

    def close(self) -> None:
        """Cancel what is left."""
        super().close()
        self._release()

    def _release(self) -> None:
        if self._pool is not None and self._is_safe:
            self._pool.release(self)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 1
