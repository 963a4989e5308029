"""Dask as a backend: the client that is there, or a cluster on this machine."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, Any, TypeVar

from parmap.backends.executor import Executors
from parmap.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from parmap._calls.options import Options

R = TypeVar("R")


class Dask(Executors):
    """Runs chunks on the current `distributed.Client`, or on one of its own if there is none."""

    def __init__(self, options: Options) -> None:
        try:
            import distributed
        except ImportError as error:
            message = "the backend 'dask' needs the library distributed"
            raise BackendUnavailableError(message, extra="dask") from error
        self._clients = DaskExecutor(distributed, options.workers)
        super().__init__(options, self._clients)

    def finish(self) -> None:
        """Stop the cluster that we have started."""
        self._clients.stop()


class DaskExecutor(concurrent.futures.Executor):
    """The executor of whichever client is the current one: clients come and go."""

    def __init__(self, distributed: Any, workers: int) -> None:
        self._distributed = distributed
        self._workers = workers
        self._client: Any = None
        self._executor: Any = None
        self._own: Any = None
        self._cluster: Any = None
        self._choose()  # here, so that what is wrong is told to the caller

    def _choose(self) -> None:
        try:
            client = self._distributed.get_client()
        except ValueError:  # there is none
            client = self._start()
        if client is not self._client:
            self._client = client
            self._executor = client.get_executor(pure=False)

    def _start(self) -> Any:
        # Processes that start by themselves: a fork, or multiprocessing's spawn, would need a guard in __main__.
        from distributed.deploy import subprocess

        self.stop()
        self._cluster = subprocess.SubprocessCluster(
            n_workers=self._workers,
            threads_per_worker=1,
            dashboard_address=None,  # pyright: ignore[reportArgumentType] - annotated by its default, a str
        )
        self._own = self._distributed.Client(self._cluster)
        return self._own

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[R]:
        """Start a task on the current client."""
        self._choose()
        future: concurrent.futures.Future[R] = self._executor.submit(fn, *args, **kwargs)
        return future

    def stop(self) -> None:
        """Stop the cluster that we have started."""
        if self._own is not None:
            self._own.close()
            self._cluster.close()
            self._own = None
