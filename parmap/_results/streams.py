"""`ResultStream`: results as they come, in bounded memory."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from parmap._results.batch import Arrival, Undecodable, decode
from parmap._results.relay import relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType
    from typing import Self

    from parmap._core.job import Job
    from parmap._results.batch import Batch, Input

R_co = TypeVar("R_co", covariant=True)

MOST_ITEMS = 100_000
MOST_BYTES = 64 << 20
"""The default window: enough items to keep the workers busy, but no more than these, nor more bytes of results."""

_QUANTUM = 0.001  # seconds of work that are worth a message to the engine


class ResultStream(Generic[R_co]):
    """The results of `imap` or `imap_unordered`: an iterator, and an asynchronous iterator.

    The input is read only `buffersize` items ahead of what was handed out. Leaving the stream's `with` block, calling
    `close`, or dropping the last reference to it cancels what is left.

    Example:
        >>> from itertools import count, islice
        >>> from parmap import parallel
        >>> with parallel(abs, workers=1).imap(count(-2), buffersize=4) as stream:
        ...     list(islice(stream, 3))
        [2, 1, 0]
    """

    goes_on = False
    """Whether the other items are run when one fails, and its error is raised in its turn."""

    kills = True
    """Whether closing the stream stops what runs, or only what waits."""

    _deadline: float | None = None  # when a wait for the next result ends with TimeoutError

    def __init__(
        self,
        engine: Any,
        job: Job,
        batch: Batch,
        source: Input,
        *,
        ordered: bool,
        buffersize: int | None,
        return_exceptions: bool,
    ) -> None:
        """Made by `imap` and `imap_unordered`."""
        self._engine = engine
        self._job = job
        self._batch = batch
        self._input = source
        self._ordered = ordered
        self._buffersize = buffersize
        self._return_exceptions = return_exceptions
        self._yielded = 0
        self._hungry_at = 0  # how many results must have been handed out before there is more to read
        self._result_bytes = 0.0
        self._ready: dict[int, Arrival] = {}
        self._next = 0  # the number of the next item to hand out, where order counts
        self._values: Iterator[Any] = iter(())
        self._closed = False
        self._guard = threading.RLock()  # two threads may share a stream: each item goes to one of them
        self._feed()

    # handing out

    def __iter__(self) -> Self:
        """Iterate: the stream is its own iterator."""
        return self

    def __next__(self) -> R_co:
        """The next result; waits for it."""
        result: R_co
        with self._guard:
            while True:
                for value in self._values:
                    result = self._hand_out(value)
                    return result
                if not self._load():
                    self._wait()

    def _wait(self) -> None:
        left = None if self._deadline is None else self._deadline - time.monotonic()
        try:
            arrived = self._engine.wait(self._batch, left)
        except BaseException:  # Ctrl-C, or a signal handler that raises: stop the work
            self.close()
            raise
        if not arrived:
            raise TimeoutError

    def __aiter__(self) -> AsyncIterator[R_co]:
        """Iterate on an event loop."""
        return self

    async def __anext__(self) -> R_co:
        """The next result; the event loop goes on while it is awaited."""
        import asyncio

        result: R_co
        while True:
            try:
                for value in self._values:
                    result = self._hand_out(value)
                    return result
                if self._load():
                    continue
            except StopIteration:
                raise StopAsyncIteration from None
            loop = asyncio.get_running_loop()
            arrived = loop.create_future()
            if self._engine.backend.threaded:
                if self._batch.watch(lambda: _wake_on(loop, arrived)):  # noqa: B023 - used at once
                    try:
                        await arrived
                    except BaseException:  # the waiter is cancelled: stop the work
                        self.close()
                        raise
            else:
                await asyncio.sleep(0)
                self._engine.wait(self._batch)

    def _hand_out(self, value: Any) -> Any:
        self._next += 1
        self._yielded += 1
        if self._yielded >= self._hungry_at and not self._input.exhausted:
            self._feed()
        if type(value) is Undecodable and not self._return_exceptions:
            raise value
        return value

    def _load(self) -> bool:
        """Make the next values ready to hand out; false if they are not there yet.

        Raises:
            StopIteration: there are none.
            BaseException: the error that ended the batch, or that of the input.
        """
        while True:
            if self._closed:
                raise StopIteration
            if self._batch.failure is not None:
                failure = self._batch.failure
                self.close()
                if relay.waiting:
                    relay.drain()
                raise failure.exception()
            if self._ordered and self._next in self._ready:
                return self._begin(self._ready.pop(self._next))
            arrival = self._batch.next_arrival()
            if arrival is not None:
                self._learn_size(arrival)
                if self._ordered:
                    self._keep(arrival)
                    continue
                return self._begin(arrival)
            if not self._batch.ended:
                return False
            self.close()
            if self._input.error is not None:
                raise self._input.error

    def _begin(self, arrival: Arrival) -> bool:
        self._hungry_at = 0  # what has been learnt may have widened the window
        values = self._decode(arrival)
        if arrival.missing and self._ordered:
            # Hand out what stands before the first item that is missing; that one arrives by itself, then the rest.
            first = min(arrival.missing)
            self._keep(_tail(arrival, first))
            values = values[:first]
        elif arrival.missing:
            values = [value for place, value in enumerate(values) if place not in arrival.missing]
        self._values = iter(values)
        return True

    def _keep(self, arrival: Arrival) -> None:
        """Let an arrival wait for its turn, without the items missing at its front: each arrives there by itself."""
        first = 0
        while first in arrival.missing:
            first += 1
        if first < arrival.done:
            self._ready[arrival.start + first] = _tail(arrival, first) if first else arrival

    @staticmethod
    def _decode(arrival: Arrival) -> list[Any]:
        return decode(arrival)[0]

    def _learn_size(self, arrival: Arrival) -> None:
        nbytes = _nbytes(arrival.results) / arrival.done
        self._result_bytes = nbytes if nbytes > self._result_bytes else 0.5 * (nbytes + self._result_bytes)

    # reading on

    @property
    def _window(self) -> int:
        if self._buffersize is not None:
            return self._buffersize
        least: int = 2 * self._engine.workers
        size = min(max(2 * self._job.appetite, 2 * least), MOST_ITEMS)
        return max(least, min(size, int(MOST_BYTES / max(self._result_bytes, 1.0))))

    def _feed(self) -> None:
        """Read on as far as the window allows, unless it is too little to be worth the trouble."""
        window = self._window
        room = window - (self._input.count - self._yielded)
        worth = max(1, min(window // 2, int(_QUANTUM / (self._job.pace.seconds or 1.0))))
        if room >= worth:
            items = self._input.read(room)
            self._engine.extend(self._job, items, last=self._input.exhausted)
            room = 0
        self._hungry_at = self._yielded + worth - room

    # ending

    def close(self) -> None:
        """Cancel what is left. Safe to call at any time, and again."""
        if not self._closed:
            self._closed = True
            self._input.exhausted = True
            self._values = iter(())
            self._ready.clear()
            if self._batch.meter is not None:
                self._batch.meter.close()
            if not self._batch.ended:
                try:
                    self._engine.cancel(self._job, kill=self.kills)
                except RuntimeError:  # the pool is closed: nothing is left to cancel
                    pass

    def __enter__(self) -> Self:
        """Use as a context manager: leaving the block closes the stream."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        self.close()

    def __del__(self) -> None:
        """Close the stream that nobody reads on."""
        if "_closed" in self.__dict__:
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<parmap.ResultStream: {self._yielded} results handed out, {state}>"

    def _repr_html_(self) -> str:
        from parmap._results.display import card

        state = "closed" if self._closed else "open"
        return card("parmap.ResultStream", "", [("results handed out", self._yielded), ("state", state)])


def _nbytes(results: Any) -> float:
    """The bytes of results; of those that never were pickled, as far as the last of them knows."""
    if type(results) is not list:
        return float(getattr(results, "nbytes", 0))
    try:
        return float(len(results) * sys.getsizeof(results[-1]))
    except Exception:  # noqa: BLE001 - a method of the user's
        return 0.0


def _tail(arrival: Arrival, first: int) -> Arrival:
    """What an arrival holds from place *first* on."""
    return Arrival(
        arrival.start + first,
        arrival.done - first,
        [arrival.results[place] if place not in arrival.missing else None for place in range(first, arrival.done)],
        {place - first: failure for place, failure in arrival.failures.items() if place >= first},
        {place - first for place in arrival.missing if place >= first},
    )


def _wake_on(loop: Any, future: Any) -> None:
    try:
        loop.call_soon_threadsafe(_wake, future)
    except RuntimeError:  # the loop was closed: nobody waits any more
        pass


def _wake(future: Any) -> None:
    if not future.done():
        future.set_result(None)
