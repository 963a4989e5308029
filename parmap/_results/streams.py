"""`ResultStream`: results as they come, in bounded memory; how far ahead of them the input is read."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import repeat
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from parmap._results.input.reader import Reader
from parmap._results.input.window import EAGERNESS, MOST_ITEMS, Room, read_ahead
from parmap._results.order import Order, Raised
from parmap._results.screen.relay import relay
from parmap._results.watched import give_way, on_event_loop, wait_on_loop
from parmap._travel.failure import Voice, guarded, pass_on

if TYPE_CHECKING:
    from parmap._core.job import Job
    from parmap._engine.engine import Engine
    from parmap._results.batch import Batch
    from parmap._results.input.source import Input

R_co = TypeVar("R_co", covariant=True)

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

    ends = True
    """Whether the first error that is raised ends the stream."""

    voice: Voice = staticmethod(guarded)
    """How errors are told."""

    kills = True
    """Whether closing the stream stops what runs, or only what waits."""

    always_apart = False
    """Whether a thread reads the input on no event loop, too: then it may wait for results to be taken."""

    _deadline: float | None = None  # when waiting for results ends with TimeoutError
    _turn_ends: float = 0.0  # when others shall have the event loop, though there may be results

    def __init__(
        self,
        engine: Engine,
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
        self._buffersize = buffersize
        self._order = Order(batch, self.voice, ordered=ordered, return_exceptions=return_exceptions)
        self._hungry_at = 0  # how many results must have been handed out before there is more to read
        self._values: deque[Any] = deque()  # to be handed out
        self._taken = 0  # values and errors that were ever there, in its place
        self._take = map(deque.popleft, repeat(self._values))
        self._low = 0  # with so many values left there is something else to do than to hand out one
        self._feeding = False
        self._closed = False
        self._guard = threading.RLock()  # two threads may share a stream: each item goes to one of them
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._when_dropped(abandon, *self._left)
        self._room = Room(engine, job, batch)
        if buffersize is None and not self.always_apart:
            self._room.limit()
        if self.always_apart or on_event_loop():
            self._read_apart()
        self._feed()

    # handing out

    def __iter__(self) -> Self:
        """Iterate: the stream is its own iterator."""
        return self

    def __length_hint__(self) -> int:
        """How many results are to come, where the input tells: a stream over this one knows its total by that."""
        left = 0 if self._closed else self._input.left()
        waiting = 0 if self._closed else self._input.count - self._handed_out
        return NotImplemented if left is None else left + waiting

    def __next__(self) -> R_co:
        """The next result; waits for it."""
        result: R_co
        while True:
            if len(self._values) <= self._low:
                self._wait_for_value(self._deadline)
            # A signal may be handled after any call: none may stand between the value that is taken and the return.
            try:
                for result in self._take:
                    return result
            except IndexError as error:  # another thread, or a signal handler, was faster
                pass_on(error)

    def _wait_for_value(self, deadline: float | None) -> None:
        while True:
            with self._guard:
                if self._prepare():
                    return
                if self._closed:
                    raise StopIteration
                if not self._engine.backend.threaded:  # who waits does the work
                    self._wait(deadline)
                    continue
            self._wait(deadline)  # while others, who may wait for less long, see what there is for them

    def _wait(self, deadline: float | None) -> None:
        try:
            self._room.look(starves=True)
            arrived = self._engine.wait(self._batch, None if deadline is None else deadline - time.monotonic())
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
        if time.monotonic() > self._turn_ends:
            self._turn_ends = await self._or_close(give_way())
        while True:
            if len(self._values) <= self._low and not self._prepare_guarded():
                if self._closed:
                    raise StopAsyncIteration
                await self._wait_on_loop()
                continue
            try:
                for result in self._take:
                    return result
            except IndexError as error:
                pass_on(error)

    def _prepare_guarded(self) -> bool:
        """As `_prepare`; whoever awaits must not take an error for a signal, whatever the voice of the stream."""
        try:
            with self._guard:
                self._read_apart()
                return self._prepare()
        except BaseException as error:
            told = guarded(error)
            if told is error:
                raise
            raise told from error

    async def _wait_on_loop(self) -> None:
        self._room.look(starves=True)
        threaded = self._engine.backend.threaded
        await self._or_close(wait_on_loop(self._batch, self._engine) if threaded else give_way())
        if not threaded:
            self._engine.wait(self._batch)

    async def _or_close(self, waiting: Awaitable[Any]) -> Any:
        try:
            return await waiting
        except BaseException:  # the waiter is cancelled: stop the work
            self.close()
            raise

    def _prepare(self) -> bool:
        """Make a value ready to be handed out, and read on; false if there is none, or none yet.

        Raises:
            BaseException: the error of an item, the one that ended the batch, or that of the input.
        """
        order = self._order
        while not self._values:
            if parts := order.parts:
                self._begin(parts[0])
            elif self._closed or not self._load():
                break
        self._read_on()
        if not (self._values or self._closed) and (self._feeding or self._engine.backend.at_work):
            raise RuntimeError(
                "a stream can't be waited for by its input, its own tasks (serial), or a signal handler during these"
            )
        return bool(self._values)

    def _begin(self, part: Any) -> None:
        values = deque(() if type(part) is Raised else part)
        count, take = len(values), map(deque.popleft, repeat(values))
        parts = self._order.parts
        if self._values or not parts or parts[0] is not part:
            return
        del parts[0]
        self._taken += count or 1
        self._values, self._take = values, take
        self._hungry_at = 0  # what has been learnt may have widened the window
        if not count:  # they may be gone already, if another thread has closed this
            if self.ends:
                self.close()
            try:
                raise part.error
            finally:
                part = None  # as in `Future.result`

    def _load(self) -> bool:
        """Decode what is the next to be handed out; false if it has not come yet.

        Raises:
            BaseException: the error that ended the batch, or that of the input.
        """
        batch = self._batch
        has_ended = batch.ended  # looked at first: what arrives after that was there before
        batch.moved = False  # a signal handler that uses the stream from here on may leave something: then don't wait
        if (failure := batch.failure) is not None:
            self.close()
            relay.drain()
            try:
                raise failure.told(self.voice)
            finally:
                failure = None  # as in `Future.result`
        order = self._order
        if order.load():
            self._room.look()
            return True
        if has_ended:
            if self._values or order.parts or batch.arrivals or order.next in order.ready:
                return True  # a signal handler has used the stream meanwhile, and left something
            try:
                self._input.fail(self.voice)
            finally:
                self.close()
        return False

    # reading on

    @property
    def _window(self) -> int:
        return read_ahead(self._buffersize, self._engine.workers, self._job, self._handed_out)

    @property
    def _handed_out(self) -> int:
        return self._taken - len(self._values)

    def _read_on(self) -> None:
        """Read on, if it is time; know when it will be."""
        source = self._input
        is_time = self._handed_out + bool(self._values) >= self._hungry_at
        is_late = self._values and source.patience and not source.reader  # for an item that takes long to be read
        if is_time and not is_late and (source.unsent is not None or not source.exhausted):
            self._feed()
        self._low = 0 if is_late or source.exhausted else max(0, self._taken + 1 - self._hungry_at)

    def _feed(self) -> None:
        """Read on as far as the window allows, unless it is too little to be worth the trouble."""
        handed_out, window = self._handed_out + bool(self._values), self._window  # the next is as good as taken
        if self._input.reader is not None:
            self._input.reader.allow(handed_out + window)
            self._hungry_at = handed_out + max(1, window // 4)
            return
        if self._feeding:  # a signal handler has interrupted it, and uses the stream
            return
        self._feeding = True
        try:
            self._input.send(self._engine, self._job)  # what was read already, if that was interrupted
            few = self._buffersize is None and EAGERNESS * handed_out < MOST_ITEMS
            room = window - (self._input.count - handed_out)
            worth = max(1, min(window // 2, int(_QUANTUM / (self._job.pace.seconds or 1.0))))
            reads = room >= worth
            while reads and room > 0 and not self._input.exhausted and not self._has_come():
                self._input.read(room)
                self._input.send(self._engine, self._job)
                room = window - (self._input.count - handed_out)
                reads = not self._values and self._engine.backend.threaded
            # As long as little was taken, each that is taken makes room for several.
            left = (worth - room) // EAGERNESS if few else worth - room
            self._hungry_at = handed_out + max(1, left)
        finally:
            self._feeding = False

    def _has_come(self) -> bool:
        """Whether a result is the next to be taken, now or in the moment well spent before an item that takes long."""
        if self._values or self._input.count == self._handed_out or not self._engine.backend.threaded:
            return False
        patience = self._input.patience
        if patience > (self._job.pace.seconds or 0.0):
            return self._engine.wait(self._batch, patience)
        return self._batch.happened

    def _read_apart(self) -> None:
        """From now on, read what is no sequence in a thread, where it may block while an event loop goes on."""
        is_fit = self._input.must_be_read and (self.always_apart or type(self) is ResultStream)
        if is_fit and self._engine.backend.threaded:
            self._batch.on_end = Reader(self._engine, self._job, self._input, stream=self).stop

    def has_read(self) -> None:
        """A thread has read the last of the input."""

    # ending

    def close(self) -> None:
        """Cancel what is left. Safe to call at any time, and again."""
        if not self._closed:
            self._closed = True
            self._taken -= len(self._values)
            self._values.clear()
            self._order.clear()
        abandon(*self._left)
        self._when_dropped(None)

    @property
    def _left(self) -> tuple[Any, ...]:
        """What to `abandon`. The input may hold an error whose traceback leads here: this must not hold the input."""
        return self._engine, self._job, self._batch, weakref.ref(self._input), self.kills

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

    def __exit__(self, *_: object) -> None:
        """Close the stream."""
        self.close()

    async def __aenter__(self) -> Self:
        """Use as an asynchronous context manager: as `with`."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the stream."""
        self.close()

    async def aclose(self) -> None:
        """As :meth:`close`, for what closes asynchronous generators: `contextlib.aclosing`."""
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a stream can't be pickled or copied: it belongs to the process that made it; make a list of its results"
        )

    def __repr__(self) -> str:
        return f"<parmap.ResultStream: {self._handed_out} results handed out, {'closed' if self._closed else 'open'}>"

    def _repr_html_(self) -> str:
        from parmap._results.screen.display import card

        facts = {"results handed out": self._handed_out, "state": "closed" if self._closed else "open"}
        return card("parmap.ResultStream", "", facts.items())


def abandon(engine: Engine, job: Job, batch: Batch, find_source: Callable[[], Input | None], kill: bool) -> None:
    """Nobody will take what is left of a stream."""
    if (source := find_source()) is not None:
        source.let_go()
    if batch.meter is not None:
        batch.meter.close()
    if not batch.ended:
        engine.cancel(job, kill=kill)
    batch.let_go()
