"""A backend for joblib, and so for scikit-learn: importing this module registers it under the name ``"parmap"``.

It has no engine of its own: joblib's batches are tasks of the pool that functions with the same options share.

Example:
    >>> import joblib
    >>> import parmap.joblib
    >>> with joblib.parallel_config("parmap", n_jobs=2):
    ...     joblib.Parallel()(joblib.delayed(abs)(x) for x in (-1, 2, -3))
    [1, 2, 3]
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from parmap._calls.options import refuse_unknown, resolve
from parmap._engine import pools as _pools
from parmap._results.callbacks import Callbacks
from parmap._results.futures import Future, notify
from parmap.errors import BackendUnavailableError

try:
    import joblib.parallel as _parallel
except ImportError as _missing:
    _message = "the joblib backend 'parmap' needs the library joblib"
    raise BackendUnavailableError(_message, extra="joblib") from _missing

if TYPE_CHECKING:  # joblib has no types: these are of what is used here

    class _Base:
        MAX_NUM_THREADS_VARS: Iterable[str]
        inner_max_num_threads: int | None
        nesting_level: int | None

        def __init__(self, nesting_level: int | None, inner_max_num_threads: int | None) -> None: ...
        def reset_batch_stats(self) -> None: ...
else:

    class _Base(_parallel.AutoBatchingMixin, _parallel.ParallelBackendBase):
        pass


__all__ = ["ParmapBackend"]

# What joblib's `Parallel` hands to each backend, for pools that share arrays through files.
_OF_OTHER_BACKENDS = {"context", "max_nbytes", "mmap_mode", "prefer", "require", "temp_folder", "verbose"}
# The options that say what a worker is. The others speak of single tasks, of which joblib makes batches.
_OF_WORKERS = ("env", "idle_timeout", "initargs", "initializer", "preload", "start_method")


class ParmapBackend(_Base):
    """Runs joblib's batches on parmap's workers.

    A worker that dies fails the call to ``joblib.Parallel`` with :class:`WorkerDiedError`, and the pool goes on; an
    error or Ctrl-C stops what runs. Inside a worker, joblib runs serially. Without ``n_jobs``, all usable CPUs work.

    Args:
        nesting_level: joblib's own: how many ``Parallel`` this one is inside of.
        inner_max_num_threads: threads that numeric libraries may use in each worker; None shares out the CPUs.
        **options: those options of :func:`parallel` that say what a worker is: ``env``, ``idle_timeout``,
            ``initializer`` and ``initargs``, ``preload``, ``start_method``.

    Raises:
        TypeError: another option, or a value of the wrong type.

    Example:
        >>> import joblib
        >>> import parmap.joblib
        >>> with joblib.parallel_config("parmap", preload=("json",)):
        ...     joblib.Parallel(n_jobs=2)(joblib.delayed(pow)(2, x) for x in range(4))
        [1, 2, 4, 8]
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        _check(options)
        self._given = options
        self._unfinished: dict[Future[Any], Any] = {}

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers joblib's *n_jobs* means; 1 where work is done in the calling thread."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        settled = resolve()
        if settled.backend == "serial":
            return 1
        return n_jobs if n_jobs > 0 else max(1, settled.workers + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **given: Any) -> int:
        """Prepare for the calls of *parallel*; returns the number of workers."""
        options = {name: value for name, value in given.items() if name not in _OF_OTHER_BACKENDS}
        _check(options)
        options = {**self._given, **options}
        if self.inner_max_num_threads is not None:
            limits = dict.fromkeys(self.MAX_NUM_THREADS_VARS, str(self.inner_max_num_threads))
            options["env"] = {**limits, **(options.get("env") or {})}
        workers = self.effective_n_jobs(n_jobs)
        # Settled here: later batches are started by another thread, where an `override` of this one does not hold.
        self._options = resolve(options, {"workers": workers})
        self.parallel = parallel
        return workers

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None) -> Future[Any]:
        """Start a batch, and have *callback* called with its future."""
        future = _pools.submit(_call, (func,), {}, self._options)
        self._unfinished[future] = parallel = getattr(callback, "parallel", None)
        # Not in this thread, even if the batch has ended by now: the callback starts the next one.
        notify(partial(self._end, callback), future, partial(_call_apart, parallel))
        return future

    def _end(self, callback: Callable[[Any], object] | None, future: Future[Any]) -> None:
        self._unfinished.pop(future, None)
        if callback is not None:
            callback(future)

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The results of a batch that has ended, or its error."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: ARG002 - the pool stays ready
        """Stop what this backend has started; the workers serve others."""
        for future, parallel in list(self._unfinished.items()):
            if getattr(parallel, "_aborting", True):  # one inside the input of another may share this backend with it
                future.cancel()

    def terminate(self) -> None:
        """Forget the call. The pool is not this backend's: it stops by itself when nobody uses it."""
        self.reset_batch_stats()

    def get_nested_backend(self) -> tuple[Any, None]:
        """What joblib uses inside a worker: the worker."""
        return _parallel.SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None


def _call(batch: Callable[[], Any]) -> Any:
    """Run a batch in a worker, which knows this backend by that."""
    return batch()


_callers: list[Callbacks] = []  # that have nothing to do
_at_work: dict[Any, tuple[Callbacks, int]] = {}  # for which `Parallel`, with how many callbacks to call
_turn = threading.RLock()


def _call_apart(parallel: Any, callback: Callable[[Any], object], future: Future[Any]) -> None:
    """Have a callback called by a thread that only those of the same *parallel* wait for, as for its lock.

    It reads the input of the next batch, where another `Parallel` may wait for callbacks of its own.
    """

    def call(future: Future[Any]) -> None:
        try:
            callback(future)
        finally:
            with _turn:
                caller, count = _at_work.pop(parallel)
                if count > 1:
                    _at_work[parallel] = caller, count - 1
                else:
                    _callers.append(caller)

    with _turn:
        caller, count = _at_work.get(parallel) or (_callers.pop() if _callers else Callbacks(), 0)
        _at_work[parallel] = caller, count + 1
    caller.run(call, future)


def _forget() -> None:
    """In a process made by `os.fork()`: the threads are not there."""
    global _turn  # noqa: PLW0603
    _turn = threading.RLock()
    _callers.clear()
    _at_work.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _check(options: dict[str, Any]) -> None:
    refuse_unknown(options, "joblib's backend 'parmap'", _OF_WORKERS)
    resolve(options)


_parallel.register_parallel_backend("parmap", ParmapBackend)
