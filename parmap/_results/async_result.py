"""`AsyncResult`: a task as `multiprocessing.Pool` shows it. Apart, because `multiprocessing.pool` is slow to import."""

from __future__ import annotations

import concurrent.futures
import multiprocessing.pool
from multiprocessing import TimeoutError as PoolTimeoutError
from typing import Any, Generic, TypeVar

from parmap._travel.failure import pass_on

R_co = TypeVar("R_co", covariant=True)


# Covariant, as `Future` is.
class AsyncResult(multiprocessing.pool.AsyncResult[R_co], Generic[R_co]):  # type: ignore[type-var]
    """What `multiprocessing.Pool.apply_async` returns, on parmap's crash-proof workers.

    Example:
        >>> from parmap import parallel
        >>> parallel(len, workers=1).submit("four").async_result.get(timeout=30)
        4
    """

    owner: object = None
    """What must live as long as this: who waits for a result keeps its pool from being collected."""

    def __init__(self, future: concurrent.futures.Future[R_co]) -> None:
        """Show *future* as an `AsyncResult`."""
        self._future = future

    @property
    def _number_left(self) -> int:
        """Items without an outcome: read of the results of any `map_async` by programs that show how far it is."""
        return self._future.left  # type: ignore[attr-defined,no-any-return]  # one of a batch

    def get(self, timeout: float | None = None) -> R_co:
        """The value, waited for up to *timeout* seconds.

        Raises:
            multiprocessing.TimeoutError: it is not there yet.
            BaseException: what the task raised.
        """
        self.wait(timeout)
        if not self.ready():
            raise PoolTimeoutError
        try:
            return self._future.result()
        finally:
            self = None  # type: ignore[assignment]  # noqa: PLW0642 - as in `Future.result`

    def wait(self, timeout: float | None = None) -> None:
        """Wait up to *timeout* seconds for the task to end."""
        try:
            self._future.exception(timeout)
        except (TimeoutError, concurrent.futures.CancelledError) as error:
            pass_on(error)

    def ready(self) -> bool:
        """Whether the task has ended."""
        return self._future.done()

    def successful(self) -> bool:
        """Whether the task returned.

        Raises:
            ValueError: it has not ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return not self._future.cancelled() and self._future.exception() is None

    def __repr__(self) -> str:
        return f"<parmap.AsyncResult of {self._future!r}>"

    def _repr_html_(self) -> str:
        from parmap._results.screen.display import card

        return card("parmap.AsyncResult", repr(self._future), [("ready", self.ready())])

    def __reduce__(self) -> Any:
        raise TypeError("an AsyncResult can't be pickled: it belongs to the process that made it")
