"""Ray as a backend: the cluster that this process is connected to, or one on this machine."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, Any, TypeVar

from parmap.backends.executor import Executors
from parmap.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from parmap._calls.options import Options

R = TypeVar("R")


class Ray(Executors):
    """Runs chunks as tasks of Ray."""

    def __init__(self, options: Options) -> None:
        try:
            import ray
        except ImportError as error:
            message = "the backend 'ray' needs the library ray"
            raise BackendUnavailableError(message, extra="ray") from error
        super().__init__(options, RayExecutor(ray))
        self._ray: Any = None  # what we have started ourselves
        if not ray.is_initialized():
            import logging

            ray.init(num_cpus=options.workers, include_dashboard=False, logging_level=logging.ERROR)
            self._ray = ray

    def finish(self) -> None:
        """Stop the cluster that we have started."""
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None


class RayExecutor(concurrent.futures.Executor):
    """The executor that Ray does not have."""

    def __init__(self, ray: Any) -> None:
        # Ray would run a task again whose worker died; the scheduler decides that.
        self._call = ray.remote(max_retries=0)(call)

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[R]:
        """Start a task."""
        future: concurrent.futures.Future[R] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()  # nobody tells when it begins: from here on it can't be taken back

        def settle(theirs: concurrent.futures.Future[R]) -> None:
            error = theirs.exception()
            if error is None:
                future.set_result(theirs.result())
            else:
                future.set_exception(error)

        self._call.remote(fn, *args, **kwargs).future().add_done_callback(settle)
        return future


def call(function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """What Ray calls."""
    return function(*args, **kwargs)
