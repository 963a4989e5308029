"""Dask as a backend: the client that is there, or a cluster on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parmap.backends.executor import Executors
from parmap.errors import BackendUnavailableError

if TYPE_CHECKING:
    from parmap._options import Options


class Dask(Executors):
    """Runs chunks on the current `distributed.Client`, or on one of its own if there is none."""

    def __init__(self, options: Options) -> None:
        try:
            import distributed
        except ImportError as error:
            message = "the backend 'dask' needs the library distributed"
            raise BackendUnavailableError(message, extra="dask") from error
        self._own: Any = None
        try:
            client = distributed.get_client()
        except ValueError:  # there is none
            # Processes that start by themselves: a fork, or multiprocessing's spawn, would need a guard in __main__.
            from distributed.deploy import subprocess

            self._cluster = subprocess.SubprocessCluster(
                n_workers=options.workers,
                threads_per_worker=1,
                dashboard_address=None,  # pyright: ignore[reportArgumentType] - annotated by its default, a str
            )
            client = self._own = distributed.Client(self._cluster)
        super().__init__(options, client.get_executor(pure=False))

    def finish(self) -> None:
        """Stop the cluster that we have started."""
        if self._own is not None:
            self._own.close()
            self._cluster.close()
            self._own = None
