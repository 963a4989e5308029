"""Ways to run chunks: one file each, behind the contract of `Backend`.

A backend decides nothing: it starts a chunk, stops it, and says how it ended. It may know all rooms below, never the
engine, which drives it. The door is this module: the engine asks it for backends by name.

* `_base`: the contract.
* `_processes`, `_threads`, `_serial`: workers of our own; threads of this process; none.
* `_executor`: any executor of `concurrent.futures`; `_seats`: the numbers of its workers; `_broken`: after a death.
* `_dask`, `_ray`: clusters, by what `_clusters` has for both.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from parmap._work.imports import whole

if TYPE_CHECKING:
    from parmap._core.pace import Cost
    from parmap.backends._base import Backend, run_here
    from parmap.backends._clusters.site import Site
    from parmap.backends._dask import Dask
    from parmap.backends._ray import Ray
    from parmap.backends._threads import Threads

__all__ = ["Backend", "Cost", "Dask", "Ray", "Threads", "run_here"]

ALL = 1 << 20
"""Workers of a cluster where their number is not given: as many as it has."""

_LAZY = {
    **dict.fromkeys(("Backend", "Cost", "run_here"), "_base"),
    "Dask": "_dask",
    "Ray": "_ray",
    "Threads": "_threads",
    "Processes": "_processes.pool",
    "Serial": "_serial",
}


def _load(name: str) -> Any:
    if sys.platform == "win32" and name in {"Processes", "Dask", "Ray"}:
        from parmap.errors import BackendUnavailableError

        raise BackendUnavailableError(
            "worker processes, Dask and Ray need Linux or macOS, for now: on Windows use "
            'backend="threads", or set the environment variable PARMAP_BACKEND=threads'
        )
    if name in _LAZY:
        from importlib import import_module

        with whole:
            return getattr(import_module(f"parmap.backends.{_LAZY[name]}"), name)
    here = sys.modules[__name__]  # where Python looks for a name that is like it
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=here)


if not TYPE_CHECKING:  # to type checkers, no other name is there than those above
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def is_executor(backend: object) -> bool:
    """Tell whether *backend* is a ``concurrent.futures.Executor``, without importing that module."""
    return _is_of(backend, "concurrent.futures._base", "Executor")


def site_of(backend: Any) -> Site | None:
    """The cluster that *backend* means, if it means one."""
    if type(backend) is str:
        return _load(backend.capitalize())() if backend in {"dask", "ray"} else None
    return backend if _is_of(backend, "parmap.backends._clusters.site", "Site") else None


def is_dask_client(backend: object) -> bool:
    """Tell whether *backend* is a ``distributed.Client``, without importing that module."""
    return _is_of(backend, "distributed.client", "Client")


def _is_of(thing: object, module: str, name: str) -> bool:
    """Nothing is of a class that is not here, or not yet: another thread may just be importing the module."""
    return isinstance(thing, getattr(sys.modules.get(module), name, ()))
