"""parmap: any function, on all cores, by a decorator.

Example:
    >>> from parmap import parallel
    >>> @parallel
    ... def score(word: str) -> float:
    ...     return sum(map(ord, word)) / len(word)
    >>> score("abc")  # still the plain function, here and now
    98.0
    >>> score.map(["abc", "bcd", "cde"])  # in order, on worker processes
    [98.0, 99.0, 100.0]

Where to look next:

* ``help(parmap.parallel)``: the decorator and its options
* ``help(parmap.ParallelFunction)``: what a parallel function can do, from ``map`` to ``submit``
* ``help(parmap.Future)``: what ``submit`` returns
* ``help(parmap.per_worker)``, ``help(parmap.broadcast)``: what each worker makes once, and what is sent to it once
* ``help(parmap.errors)``: what can go wrong
* ``docs/tutorial.md`` in the source: a first parallel loop, step by step

For those who read the code, the rooms, from the ground up (one knows only those before it; a test holds that):

* ``errors``: the error tree
* ``_travel``: how functions, items, results and exceptions become bytes
* ``_work``: running the items of a chunk, the world a task sees; ``report``: where the time goes
* ``_core``: which item goes where and when, and what becomes of it
* ``_results``: futures, batches and streams, and what tasks print
* ``backends``: ways to run chunks; ``backends._processes``: worker processes
* ``_engine``: the thread that drives core and backend; the registry of pools
* ``_calls``: the decorator, the function object, options; ``journal``: results kept in a file
* ``executor``, ``pool``, ``joblib``: stand-ins for what others know
* ``__main__``: the command line (``_calls.journal.command``)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parmap import errors as errors
    from parmap._calls.decorator import parallel as parallel
    from parmap._calls.function import ParallelFunction as ParallelFunction
    from parmap._calls.journal.keeping import Journal as Journal
    from parmap._calls.options import override as override
    from parmap._results.async_result import AsyncResult as AsyncResult
    from parmap._results.futures import Future as Future
    from parmap._results.outcomes import Outcome as Outcome
    from parmap._results.streams import ResultStream as ResultStream
    from parmap._travel.broadcast import Broadcast as Broadcast
    from parmap._travel.broadcast import broadcast as broadcast
    from parmap._travel.tie import item_of as item_of
    from parmap._work.cpus import cpu_count as cpu_count
    from parmap._work.per_worker import PerWorker as PerWorker
    from parmap._work.per_worker import Worker as Worker
    from parmap._work.per_worker import per_worker as per_worker
    from parmap._work.per_worker import worker as worker
    from parmap._work.report.report import Report as Report
    from parmap._work.report.report import report as report
    from parmap.errors import BackendUnavailableError as BackendUnavailableError
    from parmap.errors import JournalError as JournalError
    from parmap.errors import ParmapError as ParmapError
    from parmap.errors import PoolClosedError as PoolClosedError
    from parmap.errors import RemoteError as RemoteError
    from parmap.errors import SerializationError as SerializationError
    from parmap.errors import TaskTimeoutError as TaskTimeoutError
    from parmap.errors import WorkerDiedError as WorkerDiedError
    from parmap.executor import Executor as Executor
    from parmap.pool import Pool as Pool

__version__ = "0.2.0"

# Where the names are: each is loaded when it is first asked for. The processes that run tasks import this package too,
# and need nothing of it.
_HOMES = {
    "parmap._calls.decorator": "parallel",
    "parmap._calls.function": "ParallelFunction",
    "parmap._calls.journal.keeping": "Journal",
    "parmap._calls.options": "override",
    "parmap._results.async_result": "AsyncResult",
    "parmap._results.futures": "Future",
    "parmap._results.outcomes": "Outcome",
    "parmap._results.streams": "ResultStream",
    "parmap._travel.broadcast": "Broadcast broadcast",
    "parmap._travel.tie": "item_of",
    "parmap._work.cpus": "cpu_count",
    "parmap._work.per_worker": "PerWorker Worker per_worker worker",
    "parmap._work.report.report": "Report report",
    "parmap.errors": "BackendUnavailableError JournalError ParmapError PoolClosedError RemoteError SerializationError "
    "TaskTimeoutError WorkerDiedError",
    "parmap.executor": "Executor",
    "parmap.pool": "Pool",
}
_LAZY = {name: module for module, names in _HOMES.items() for name in names.split()}


def shutdown(wait: bool = True, *, cancel_futures: bool = False) -> None:
    """Finish what was submitted, and stop all pools. A pool starts anew when one of its functions is used again.

    Args:
        wait: whether to return only when all workers have ended.
        cancel_futures: cancel what no worker has begun.

    Raises:
        TypeError: *wait* is a function.

    Example:
        >>> import parmap
        >>> parmap.shutdown()
    """
    import sys

    if callable(wait):
        raise TypeError("parmap.shutdown() stops all pools; that of a function f is stopped by f.shutdown()")
    # No engine, no pools, also where another thread just imports them: nothing to stop, and nothing to import for it.
    stop = getattr(sys.modules.get("parmap._engine.registry"), "shutdown", None)
    if stop is not None:
        stop(None, wait, cancel_futures=cancel_futures)


if not TYPE_CHECKING:  # to type checkers, public is what is imported as itself, and no other name is there
    __all__ = ["__version__", "errors", "shutdown", *_LAZY]  # noqa: PLE0604 - the rest are strings, too
    __all__.sort()

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name == "errors":
            return import_module("parmap.errors")
        try:
            module = _LAZY[name]
        except KeyError:
            here = import_module(__name__)  # where Python looks for a name that is like it
            told = f"module {__name__!r} has no attribute {name!r}"
            if name in {"map", "starmap", "map_async", "starmap_async", "imap", "submit"}:  # some are another parmap's
                told += f": it is a method, parmap.parallel(function).{name}"
            raise AttributeError(told, name=name, obj=here) from None
        try:
            value = getattr(import_module(module), name)
        except AttributeError as error:  # `from parmap import` would say only that the name is not there
            raise ImportError(f"{name} of {__name__} can't be imported: {error}", name=module) from error
        globals()[name] = value  # found at once the next time
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "errors"})
