"""parmap: any function, on all cores, by a decorator.

General layout, from the floor up (a module imports only from floors below it; a test holds that):

* ``errors``: the error tree; ``_options``: every option, the environment, ``override``
* ``_payload``, ``_segments``, ``_channel``: how functions, arguments and results travel
* ``_schedule``: which item goes when and where; ``_worker``, ``_launch``: the processes that run them
* ``_futures``, ``backends/``, ``pool``: handles, ways to run, the registry of shared pools
* ``_function``, ``_decorator``: what users write
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parmap import errors
    from parmap._async_result import AsyncResult
    from parmap._decorator import parallel
    from parmap._function import ParallelFunction
    from parmap._futures import Future
    from parmap._options import cpu_count, override
    from parmap._streams import ResultStream
    from parmap.errors import (
        BackendUnavailableError,
        ParmapError,
        PoolClosedError,
        RemoteError,
        SerializationError,
        TaskTimeoutError,
        WorkerDiedError,
    )
    from parmap.executor import Executor
    from parmap.pool import Pool

__all__ = [
    "AsyncResult",
    "BackendUnavailableError",
    "Executor",
    "Future",
    "ParallelFunction",
    "ParmapError",
    "Pool",
    "PoolClosedError",
    "RemoteError",
    "ResultStream",
    "SerializationError",
    "TaskTimeoutError",
    "WorkerDiedError",
    "__version__",
    "cpu_count",
    "errors",
    "override",
    "parallel",
    "shutdown",
]

__version__ = "0.1.0"

# Where the names are: each is loaded when it is first asked for. The processes that run tasks import this package too,
# and need nothing of it.
_LAZY = {
    "AsyncResult": "parmap._async_result",
    "BackendUnavailableError": "parmap.errors",
    "Executor": "parmap.executor",
    "Future": "parmap._futures",
    "ParmapError": "parmap.errors",
    "Pool": "parmap.pool",
    "ParallelFunction": "parmap._function",
    "PoolClosedError": "parmap.errors",
    "RemoteError": "parmap.errors",
    "ResultStream": "parmap._streams",
    "SerializationError": "parmap.errors",
    "TaskTimeoutError": "parmap.errors",
    "WorkerDiedError": "parmap.errors",
    "cpu_count": "parmap._cpus",
    "override": "parmap._options",
    "parallel": "parmap._decorator",
}


def shutdown(wait: bool = True) -> None:
    """Stop all pools. A pool starts anew when one of its functions is used again.

    Args:
        wait: whether to return only when all workers have ended.

    Example:
        >>> import parmap
        >>> parmap.shutdown()
    """
    import sys

    # No engine, no pools: nothing to stop, and nothing to import for it.
    pool = sys.modules.get("parmap._pools")
    if pool is not None:
        pool.shutdown(None, wait)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "errors":
        return import_module("parmap.errors")
    try:
        module = _LAZY[name]
    except KeyError:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message, name=name) from None
    value = getattr(import_module(module), name)
    globals()[name] = value  # found at once the next time
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
