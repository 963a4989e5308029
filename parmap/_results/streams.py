"""`ResultStream`: results as they come, in bounded memory."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections import deque
from itertools import dropwhile, groupby, repeat, takewhile
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from parmap._results.batch import Arrival, decode
from parmap._results.relay import relay
from parmap._travel.failure import guarded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType
    from typing import Self

    from parmap._core.job import Job
    from parmap._results.batch import Batch, Input
    from parmap._travel.failure import Voice

R_co = TypeVar("R_co", covariant=True)

MOST_ITEMS = 100_000
MOST_BYTES = 64 << 20
"""The default window: enough items to keep the workers busy, but no more than these, nor more bytes of results."""

_QUANTUM = 0.001  # seconds of work that are worth a message to the engine


class Raised:
    """The error of an item, where a value would be."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


_MISSING = object()
"""Stands where an item has no outcome yet: it waits for another attempt."""


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

    ends = True
    """Whether the first error that is raised ends the stream."""

    voice: Voice = staticmethod(guarded)
    """How errors are told."""

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
        self._hungry_at = 0  # how many results must have been handed out before there is more to read
        self._result_bytes = 0.0
        # What has come waits here until it is its turn: as it came, or decoded, if items before it came later.
        self._ready: dict[int, Arrival | list[Any]] = {}
        self._next = 0  # the number of the next item to look for there, where order counts
        self._parts: list[Any] = []  # what is decoded, in order: lists of values, and errors
        self._values: deque[Any] = deque()  # the first of these lists
        self._taken = 0  # values and errors that were ever there, in its place
        self._take = map(deque.popleft, repeat(self._values))
        self._low = 0  # with so many values left there is something else to do than to hand out one
        self._feeding = False
        self._closed = False
        self._guard = threading.RLock()  # two threads may share a stream: each item goes to one of them
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._when_dropped(abandon, engine, job, batch, source, self.kills)
        self._feed()

    # handing out

    def __iter__(self) -> Self:
        """Iterate: the stream is its own iterator."""
        return self

    def __next__(self) -> R_co:
        """The next result; waits for it."""
        result: R_co
        while True:
            if len(self._values) <= self._low:
                self._wait_for_value()
            # A signal may be handled after any call: none may stand between the value that is taken and the return.
            try:
                for result in self._take:
                    return result
            except IndexError:  # another thread, or a signal handler, was faster
                pass

    def _wait_for_value(self) -> None:
        with self._guard:
            while not self._prepare():
                if self._closed:
                    raise StopIteration
                self._wait()

    def _wait(self) -> None:
        if self._feeding:
            message = "a stream can't be waited for by what its input calls, or a signal handler that interrupts that"
            raise RuntimeError(message)
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
        result: R_co
        while True:
            if len(self._values) <= self._low and not self._prepare_guarded():
                if self._closed:
                    raise StopAsyncIteration
                await self._wait_on_loop()
                continue
            try:
                for result in self._take:
                    return result
            except IndexError:
                pass

    def _prepare_guarded(self) -> bool:
        """As `_prepare`; whoever awaits must not take an error for a signal, whatever the voice of the stream."""
        try:
            with self._guard:
                return self._prepare()
        except BaseException as error:
            told = guarded(error)
            if told is error:
                raise
            raise told from error

    async def _wait_on_loop(self) -> None:
        import asyncio

        if not self._engine.backend.threaded:
            await asyncio.sleep(0)
            self._engine.wait(self._batch)
            return
        loop = asyncio.get_running_loop()
        arrived = loop.create_future()
        if self._batch.watch(lambda: _wake_on(loop, arrived)):
            try:
                await arrived
            except BaseException:  # the waiter is cancelled: stop the work
                self.close()
                raise

    def _prepare(self) -> bool:
        """Make a value ready to be handed out, and read on; false if there is none, or none yet.

        An exception may leave this anywhere, and a signal handler may use the stream meanwhile. So whatever takes time
        is done first; then, between two calls, where nothing can come, the state changes if it is still what it was.

        Raises:
            BaseException: the error of an item, the one that ended the batch, or that of the input.
        """
        while not self._values:
            if self._parts:
                self._begin(self._parts[0])
            elif self._closed or not self._load():
                break
        self._read_on()
        return bool(self._values)

    def _begin(self, part: Any) -> None:
        values = deque(() if type(part) is Raised else part)
        count, take = len(values) or 1, map(deque.popleft, repeat(values))
        if self._values or not self._parts or self._parts[0] is not part:
            return
        del self._parts[0]
        self._taken += count
        self._values, self._take = values, take
        if not values:
            self._fail(part.error)

    def _fail(self, error: BaseException) -> None:
        try:
            if self.ends:
                self.close()
            raise error
        finally:
            del error  # a traceback that holds its own exception is freed late

    def _load(self) -> bool:
        """Decode what is the next to be handed out; false if it has not come yet.

        Raises:
            BaseException: the error that ended the batch, or that of the input.
        """
        batch = self._batch
        has_ended = batch.ended  # looked at first: what arrives after that was there before
        if batch.failure is not None:
            self.close()
            if relay.waiting:
                relay.drain()
            raise batch.failure.told(self.voice)
        if self._ordered and self._next in self._ready:
            self._load_in_turn(self._ready[self._next])
        elif batch.arrivals:
            self._receive(batch.arrivals[0])
        elif has_ended:
            self.close()
            if self._input.error is not None:
                raise self.voice(self._input.error)
        else:
            return False
        return True

    def _receive(self, arrival: Arrival) -> None:
        """Take an arrival from the batch; it goes on waiting here, if it is not its turn."""
        self._learn_size(arrival)
        arrivals = self._batch.arrivals
        if self._ordered:
            first = 0  # items missing at its front arrive by themselves
            while first in arrival.missing:
                first += 1
            if arrivals and arrivals[0] is arrival:
                del arrivals[0]
                if first < arrival.done:
                    self._ready[arrival.start + first] = arrival
                self._batch.took(arrival)
            return
        parts = [part for part in self._decode(arrival) if part is not _MISSING]
        if arrivals and arrivals[0] is arrival and not self._parts:
            del arrivals[0]
            self._parts, self._hungry_at = parts, 0  # what has been learnt may have widened the window
            self._batch.took(arrival)

    def _load_in_turn(self, waiting: Arrival | list[Any]) -> None:
        # What stands before the first item that is missing is handed out; that one arrives by itself, then the rest.
        start = self._next
        parts = self._decode(waiting, start - waiting.start) if isinstance(waiting, Arrival) else waiting
        parts, rest = [*takewhile(_is_there, parts)], [*dropwhile(_is_there, parts)]
        missing = len(rest)
        rest = [*dropwhile(lambda part: part is _MISSING, rest)]
        end = start + sum(map(_count, parts))
        behind = end + missing - len(rest)
        if self._next == start and not self._parts and start in self._ready and self._ready[start] is waiting:
            del self._ready[start]
            if rest:
                self._ready[behind] = rest
            self._next, self._parts, self._hungry_at = end, parts, 0

    def _decode(self, arrival: Arrival, first: int = 0) -> list[Any]:
        """What is to be handed out for the items of an arrival from place *first* on: values in lists, and errors."""
        values, errors, problems = decode(arrival, self.voice)
        if first:
            values = values[first:]
        if not (errors or problems or arrival.missing):
            return [values] if values else []
        values = [*values]
        for place, error in (errors | problems).items():
            if place >= first:
                values[place - first] = error if self._return_exceptions else Raised(error)
        for place in arrival.missing:
            if place >= first:
                values[place - first] = _MISSING
        return _in_parts(values)

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

    @property
    def _handed_out(self) -> int:
        return self._taken - len(self._values)

    def _read_on(self) -> None:
        """Read on, if it is time; know when it will be."""
        source = self._input
        is_time = self._handed_out + bool(self._values) >= self._hungry_at
        if is_time and (source.unsent is not None or not source.exhausted):
            self._feed()
        self._low = 0 if source.exhausted else max(0, self._taken + 1 - self._hungry_at)

    def _feed(self) -> None:
        """Read on as far as the window allows, unless it is too little to be worth the trouble."""
        handed_out = self._handed_out + bool(self._values)  # the next is as good as taken
        window = self._window
        room = window - (self._input.count - handed_out)
        worth = max(1, min(window // 2, int(_QUANTUM / (self._job.pace.seconds or 1.0))))
        if room >= worth or self._input.unsent is not None:
            self._send(room)
            room = 0
        self._hungry_at = handed_out + worth - room

    def _send(self, room: int) -> None:
        """Read up to *room* items, and give them to the engine; if that was interrupted, go on there."""
        if self._feeding:  # by a signal handler that uses the stream
            return
        self._feeding = True
        try:
            source = self._input
            if source.unsent is None:
                source.read(room)
            items = source.unsent
            self._engine.extend(self._job, items, last=source.exhausted, start=source.count - len(items))
            source.unsent = None
        finally:
            self._feeding = False

    # ending

    def close(self) -> None:
        """Cancel what is left. Safe to call at any time, and again."""
        if not self._closed:
            self._closed = True
            self._taken -= len(self._values)
            self._values.clear()
            self._parts = []
            self._ready.clear()
        abandon(self._engine, self._job, self._batch, self._input, self.kills)
        self._when_dropped(None)

    def _when_dropped(self, act: Callable[..., object] | None, *args: Any) -> None:
        """Call *act* when nobody has the stream any more.

        By `__del__`, a Ctrl-C that comes just then would be swallowed, even where there is nothing left to do.
        """
        before, self._finalizer = self._finalizer, act and weakref.finalize(self, act, *args)
        if self._finalizer is not None:
            self._finalizer.atexit = False
        if before is not None:
            before.detach()

    def __enter__(self) -> Self:
        """Use as a context manager: leaving the block closes the stream."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<parmap.ResultStream: {self._handed_out} results handed out, {state}>"

    def _repr_html_(self) -> str:
        from parmap._results.display import card

        state = "closed" if self._closed else "open"
        return card("parmap.ResultStream", "", [("results handed out", self._handed_out), ("state", state)])


def abandon(engine: Any, job: Job, batch: Batch, source: Input, kill: bool) -> None:
    """Nobody will take what is left of a stream."""
    source.let_go()
    if batch.meter is not None:
        batch.meter.close()
    if not batch.ended:
        try:
            engine.cancel(job, kill=kill)
        except RuntimeError:  # the pool is closed: nothing is left to cancel
            pass
    batch.let_go()


def _nbytes(results: Any) -> float:
    """The bytes of results; of those that never were pickled, as far as the last of them knows."""
    if type(results) is not list:
        return float(getattr(results, "nbytes", 0))
    try:
        return float(len(results) * sys.getsizeof(results[-1]))
    except Exception:  # noqa: BLE001 - a method of the user's
        return 0.0


def _in_parts(entries: list[Any]) -> list[Any]:
    """The values among *entries* in lists, between what is none."""
    parts: list[Any] = []
    for are_values, group in groupby(entries, lambda entry: not (type(entry) is Raised or entry is _MISSING)):
        found = [*group]
        parts += [found] if are_values else found
    return parts


def _is_there(part: Any) -> bool:
    return part is not _MISSING


def _count(part: Any) -> int:
    return len(part) if type(part) is list else 1


def _wake_on(loop: Any, future: Any) -> None:
    try:
        loop.call_soon_threadsafe(_wake, future)
    except RuntimeError:  # the loop was closed: nobody waits any more
        pass


def _wake(future: Any) -> None:
    if not future.done():
        future.set_result(None)
