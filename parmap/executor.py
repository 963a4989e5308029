"""`Executor`: what `concurrent.futures.ProcessPoolExecutor` is, on parmap's workers."""

from __future__ import annotations

import concurrent.futures
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from parmap._calls.checks import check_buffersize
from parmap._calls.dropin import InTurn, OwnsWorkers, serial_in_tasks
from parmap._results.streams import abandon
from parmap._travel.failure import Voice, as_raised, guarded
from parmap.errors import PoolClosedError, WorkerDiedError

if TYPE_CHECKING:
    from parmap._calls.typed import OwnOptions
    from parmap._results.futures import Future

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class ExecutorWorkerDiedError(WorkerDiedError, BrokenProcessPool):
    """A :class:`WorkerDiedError` that is caught where ``ProcessPoolExecutor`` would raise ``BrokenProcessPool``."""


def _as_raised(error: BaseException) -> BaseException:
    """The voice of an executor: errors as they were raised, deaths as its users know them."""
    if type(error) is WorkerDiedError:
        error.__class__ = ExecutorWorkerDiedError
    return error


def _in_turn(error: BaseException) -> BaseException:
    """The voice of :meth:`Executor.map`, whose errors come up where iterations end."""
    return guarded(_as_raised(error))


@serial_in_tasks
class Executor(OwnsWorkers, concurrent.futures.Executor):
    """Drop-in for `concurrent.futures.ProcessPoolExecutor`: the same methods, arguments and errors.

    A worker that dies breaks the one future it was running, with :class:`WorkerDiedError`; the executor goes on.
    Lambdas, closures and functions of ``__main__`` work. What else is different, and why, is listed in the
    documentation.

    Args:
        max_workers: how many workers; None for :func:`cpu_count`.
        mp_context: of ``multiprocessing.get_context()``; its start method is taken, save that ``"fork"`` is
            ``"forkserver"``.
        initializer: called in each worker when it starts.
        initargs: its arguments.
        max_tasks_per_child: a worker is replaced after so many calls; None for no limit.
        **options: more options of :func:`parallel`.

    Example:
        >>> from parmap import Executor
        >>> with Executor(max_workers=2) as executor:
        ...     executor.submit(pow, 2, 10).result()
        1024
    """

    _when_closed = "cannot schedule new futures after shutdown"
    _when_too_few = "max_workers must be greater than 0"
    _arguments = ("max_workers", "mp_context", "max_tasks_per_child")

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        **options: Unpack[OwnOptions],
    ) -> None:
        given = {"initializer": initializer, "initargs": initargs, "max_tasks_per_child": max_tasks_per_child}
        self._own(max_workers, mp_context, given, options, finish=True, voice=_as_raised)
        retry_on = self._owned.options.retry_on
        if issubclass(ExecutorWorkerDiedError, retry_on) and not issubclass(WorkerDiedError, retry_on):
            # Until an executor tells it, a death is what it is everywhere.
            self._owned.options = self._owned.options.replace(retry_on=(*retry_on, WorkerDiedError))

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Start ``fn(*args, **kwargs)`` in a worker.

        Raises:
            PoolClosedError: the executor was shut down. It is a ``RuntimeError``.
        """
        self._check()
        return self._owned.submit(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[R]:
        """Return an iterator of the results, in order. The error of an item is raised in its turn, and ends it.

        Args:
            fn: the function.
            *iterables: its arguments, taken in step.
            timeout: seconds from now, after which a result that is not there raises ``TimeoutError``.
            chunksize: how many items travel together; None lets parmap choose, by measured time.
            buffersize: how many items to read ahead of the results taken; None reads all at once.
        """
        buffersize = check_buffersize(buffersize) or sys.maxsize
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            self._check()
        except PoolClosedError:
            if next(zip(*iterables, strict=False), None) is not None:
                raise
            return iter(())  # as the original, which is asked for nothing
        stream = self._owned.stream(ExecutorMap, fn, iterables or ((),), chunksize, buffersize=buffersize)
        return stream.begin(self, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; finish what was submitted, then stop the workers.

        Args:
            wait: whether to return only then.
            cancel_futures: cancel what no worker has begun.
        """
        self._owned.refuse()
        if cancel_futures:
            self._cancel_waiting()
        self._owned.close(wait=wait)

    def terminate_workers(self) -> None:
        """Take no more work, cancel what waits, and stop the workers at once: what runs fails as if they had died."""
        self._owned.refuse()
        self._cancel_waiting()
        self._owned.close(cancel=True, told=ExecutorWorkerDiedError("the workers of the executor were stopped"))

    def kill_workers(self) -> None:
        """As :meth:`terminate_workers`."""
        self.terminate_workers()

    @property
    def _max_workers(self) -> int:
        """Read of any executor by who wants to keep it busy: Dask, or parmap where this one is the backend."""
        return self._owned.options.workers

    def __copy__(self) -> Self:
        """Return this executor: a copy that is collected would shut down the workers of both."""
        return self

    def __reduce__(self) -> Any:
        """Refuse to be pickled, as the original does."""
        raise TypeError("an Executor can't be pickled: it belongs to the process that made it")

    def _cancel_waiting(self) -> None:
        if self._owned.engine is not None:
            self._owned.engine.cancel_waiting()

    def __del__(self) -> None:
        """Let the workers of an executor that nobody can reach any more finish, and leave."""
        owned = self.__dict__.get("_owned")
        if owned is not None and not owned.closed:
            owned.close()


class ExecutorMap(InTurn[R_co]):
    """What :meth:`Executor.map` returns. It ends with the first error that it raises; then what waits is cancelled."""

    ends = True
    kills = False
    voice: Voice = staticmethod(_in_turn)
    _executor: Executor | None = None
    _begun = False

    def begin(self, executor: Executor, deadline: float | None) -> ExecutorMap[R_co]:
        """Belong to *executor*, which is not collected as long as its results are wanted."""
        if self._buffersize == sys.maxsize:
            self.read_all()
        if self._input.error is not None:
            try:
                self._input.fail(as_raised)
            finally:
                self.close()
        self._executor = executor
        self._deadline = deadline
        self._when_dropped(_finish, self._engine, self._job, self._input)
        return self

    def _prepare(self) -> bool:
        if not self._begun:
            self._begun = True
            self._when_dropped(abandon, *self._left)
        return super()._prepare()

    def _wait(self, deadline: float | None) -> None:
        try:
            super()._wait(deadline)
        except TimeoutError:
            self.close()
            raise


def _finish(engine: Any, job: Any, source: Any) -> None:
    """What nobody ever asked for is run all the same, as far as it was read."""
    if not source.exhausted:
        with suppress(PoolClosedError):
            engine.extend(job, (), last=True, start=source.count)
