"""The contestants: one class each, which runs tasks the way the library's own documentation shows.

Methods take the whole work and a chunk size. It is a hint for those that have no rule of their own: they get the rule
of `multiprocessing.Pool`, where that helps them. `None` means the library's default.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class CannotError(Exception):
    """The library has no such thing."""


class Contestant:
    """A library under test."""

    name = ""
    imports = ""
    """The statement that a program which uses the library begins with; empty: not a library."""
    distribution = ""
    """Whose version is shown; empty: part of Python."""
    heavy = False
    """It takes seconds to start: it is run in the first round, and in others only if it is among the fastest."""
    chooses = False
    """It is never given a chunk size."""
    stale = False
    """Its workers have a script's variables as they were when the workers started."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._started = False

    def start_once(self) -> None:
        """Make the pool, unless it is there."""
        if not self._started:
            self._started = True
            self.start()

    def start(self) -> None:
        """Make the pool."""

    def map(self, task: Callable[[Any], Any], items: Any, chunk: int | None = None) -> list[Any]:
        """All results in order."""
        raise NotImplementedError

    def submit_all(self, task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Submit the items one by one, then gather the results."""
        raise CannotError("it has no call for a single task")

    def stream(self, task: Callable[[Any], Any], items: Iterable[Any], chunk: int) -> Iterator[Any]:
        """The results in order, as they come."""
        raise CannotError("it has no lazy map")


@cache
def _decorated(task: Callable[[Any], Any], workers: int) -> Any:
    """Decorate a task, once, as a program does."""
    from parmap import parallel

    return parallel(task, workers=workers)


@cache
def _remote(task: Callable[..., Any]) -> Any:
    """Make a task Ray's, once, as a program does."""
    import ray

    return ray.remote(task)


class Serial(Contestant):
    """A plain loop in this process."""

    name = "serial loop"
    chooses = True

    def map(self, task: Callable[[Any], Any], items: Any, chunk: int | None = None) -> list[Any]:
        return [task(item) for item in items]

    def stream(self, task: Callable[[Any], Any], items: Iterable[Any], chunk: int) -> Iterator[Any]:
        return map(task, items)


class Parmap(Contestant):
    name = "parmap"
    imports = "import parmap"
    distribution = "parmap-decorators"
    chooses = True

    def _wrap(self, task: Callable[[Any], Any]) -> Any:
        return _decorated(task, self.workers)

    def map(self, task: Callable[[Any], Any], items: Any, chunk: int | None = None) -> list[Any]:
        return list(self._wrap(task).map(items))

    def submit_all(self, task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        function = self._wrap(task)
        return [future.result() for future in [function.submit(item) for item in items]]

    def stream(self, task: Callable[[Any], Any], items: Iterable[Any], chunk: int) -> Iterator[Any]:
        return iter(self._wrap(task).imap(items))


class Multiprocessing(Contestant):
    name = "multiprocessing.Pool"
    imports = "import multiprocessing.pool"
    stale = True
    method: str | None = None
    """How workers are started; `None`: as is the default of this Python."""
    pool: Any

    def start(self) -> None:
        import multiprocessing

        self.pool = multiprocessing.get_context(self.method).Pool(self.workers)

    def map(self, task: Callable[[Any], Any], items: Any, chunk: int | None = None) -> list[Any]:
        return list(self.pool.map(task, items))

    def submit_all(self, task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [result.get() for result in [self.pool.apply_async(task, (item,)) for item in items]]

    def stream(self, task: Callable[[Any], Any], items: Iterable[Any], chunk: int) -> Iterator[Any]:
        return iter(self.pool.imap(task, items, chunk))


class Fork(Multiprocessing):
    name = "multiprocessing.Pool (fork)"
    method = "fork"


class Forkserver(Multiprocessing):
    name = "multiprocessing.Pool (forkserver)"
    method = "forkserver"


class Pathos(Multiprocessing):
    name = "pathos"
    imports = "import pathos.multiprocessing"
    distribution = "pathos"
    stale = False

    def start(self) -> None:
        from pathos.multiprocessing import ProcessPool

        self.pool = ProcessPool(nodes=self.workers)

    def submit_all(self, task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [result.get() for result in [self.pool.apipe(task, item) for item in items]]

    def stream(self, task: Callable[[Any], Any], items: Iterable[Any], chunk: int) -> Iterator[Any]:
        return iter(self.pool.imap(task, items, chunksize=chunk))


class Futures(Contestant):
    name = "concurrent.futures"
    imports = "from concurrent.futures import ProcessPoolExecutor"
    stale = True
    pool: Any

    def start(self) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self.pool = ProcessPoolExecutor(self.workers)

    def map(self, task: Callable[[Any], Any], items: Any, chunk: int | None = None) -> list[Any]:
        return list(self.pool.map(task, items, chunksize=chunk or 1))

    def submit_all(self, task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [future.result() for future in [self.pool.submit(task, item) for item in items]]

    def stream(self, task: Callable[[Any], Any], items: Iterable[Any], chunk: int) -> Iterator[Any]:
        return iter(self.pool.map(task, items, chunksize=chunk))


class Loky(Futures):
    name = "loky"
    imports = "import loky"
    distribution = "loky"
    stale = False

    def start(self) -> None:
        from loky import get_reusable_executor

        self.pool = get_reusable_executor(max_workers=self.workers, timeout=60)


class Joblib(Contestant):
    name = "joblib"
    imports = "import joblib"
    distribution = "joblib"

    def _run(self, task: Callable[[Any], Any], items: Iterable[Any], kind: str, batch: Any = "auto") -> Any:
        from joblib import Parallel, delayed

        return Parallel(n_jobs=self.workers, return_as=kind, batch_size=batch)(delayed(task)(item) for item in items)

    def map(self, task: Callable[[Any], Any], items: Any, chunk: int | None = None) -> list[Any]:
        return list(self._run(task, items, "list"))

    def stream(self, task: Callable[[Any], Any], items: Iterable[Any], chunk: int) -> Iterator[Any]:
        return iter(self._run(task, items, "generator", chunk))


class Mpire(Contestant):
    name = "mpire"
    imports = "import mpire"
    distribution = "mpire"
    stale = True
    pool: Any

    def start(self) -> None:
        mpire: Any = import_module(self.name)
        self.pool = mpire.WorkerPool(self.workers, keep_alive=True)

    def map(self, task: Callable[[Any], Any], items: Any, chunk: int | None = None) -> list[Any]:
        if "<locals>" in task.__qualname__:  # living workers can't be told: new ones inherit it
            mpire: Any = import_module(self.name)
            with mpire.WorkerPool(self.workers) as pool:
                return list(pool.map(task, items, concatenate_numpy_output=False))
        if hasattr(items[0], "columns"):  # it would take a data frame for several arguments
            items = [(item,) for item in items]
        return list(self.pool.map(task, items, concatenate_numpy_output=False))

    def submit_all(self, task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [result.get() for result in [self.pool.apply_async(task, (item,)) for item in items]]

    def stream(self, task: Callable[[Any], Any], items: Iterable[Any], chunk: int) -> Iterator[Any]:
        return iter(self.pool.imap(task, items, iterable_len=len(items), chunk_size=chunk))  # type: ignore[arg-type]


class Pebble(Contestant):
    name = "pebble"
    imports = "import pebble"
    distribution = "pebble"
    stale = True
    pool: Any

    def start(self) -> None:
        from pebble import ProcessPool

        self.pool = ProcessPool(max_workers=self.workers)

    def map(self, task: Callable[[Any], Any], items: Any, chunk: int | None = None) -> list[Any]:
        return list(self.pool.map(task, items, chunksize=chunk or 1).result())

    def submit_all(self, task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [future.result() for future in [self.pool.schedule(task, args=(item,)) for item in items]]

    def stream(self, task: Callable[[Any], Any], items: Iterable[Any], chunk: int) -> Iterator[Any]:
        return iter(self.pool.map(task, items, chunksize=chunk).result())


class Dask(Contestant):
    name = "dask.distributed"
    imports = "import distributed"
    distribution = "distributed"
    heavy = True
    client: Any

    def start(self) -> None:
        distributed: Any = import_module("distributed")
        self.client = distributed.Client(n_workers=self.workers, threads_per_worker=1, dashboard_address=None)

    def map(self, task: Callable[[Any], Any], items: Any, chunk: int | None = None) -> list[Any]:
        if chunk is None:
            return list(self.client.gather(self.client.map(task, items, pure=False)))
        parts = [items[start : start + chunk] for start in range(0, len(items), chunk)]
        done = self.client.gather(self.client.map(tasks.run_chunk, [task] * len(parts), parts, pure=False))
        return [result for part in done for result in part]

    def submit_all(self, task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(self.client.gather([self.client.submit(task, item, pure=False) for item in items]))


class Ray(Contestant):
    name = "ray"
    imports = "import ray"
    distribution = "ray"
    heavy = True

    def start(self) -> None:
        import logging

        import ray

        ray.init(num_cpus=self.workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)

    def map(self, task: Callable[[Any], Any], items: Any, chunk: int | None = None) -> list[Any]:
        if chunk is None:
            return self.submit_all(task, items)
        import ray

        remote = _remote(tasks.run_chunk)
        handle = ray.put(task)
        parts = [items[start : start + chunk] for start in range(0, len(items), chunk)]
        return [result for part in ray.get([remote.remote(handle, part) for part in parts]) for result in part]

    def submit_all(self, task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        import ray

        remote = _remote(task)
        return list(ray.get([remote.remote(item) for item in items]))


ALL: tuple[type[Contestant], ...] = (
    Parmap,
    Multiprocessing,
    Fork,
    Forkserver,
    Futures,
    Loky,
    Joblib,
    Mpire,
    Pebble,
    Pathos,
    Dask,
    Ray,
    Serial,
)
BY_NAME = {kind.name: kind for kind in ALL}
PEERS = [kind.name for kind in ALL if kind not in (Parmap, Serial)]


def is_installed(kind: type[Contestant]) -> bool:
    """Whether the library is in this environment."""
    from importlib.util import find_spec

    return not kind.imports or find_spec(kind.imports.split()[1].partition(".")[0]) is not None


def version_of(distribution: str) -> str:
    """The version of what is installed; empty if it isn't."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
