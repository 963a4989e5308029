"""The input of a call, and how it is read so that no event loop is held up.

By whoever wants the results; on an event loop by a task of its own, if the input is asynchronous, or else by a thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import copy_context
from itertools import islice
from math import inf
from operator import length_hint
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from parmap._results.batch import as_sequence
from parmap._results.streams import ResultStream
from parmap._results.watched import give_way, is_cancelled, running_loop
from parmap._travel.failure import Voice, is_foreign
from parmap._travel.flat import are_atoms
from parmap._travel.payload import snapshot
from parmap._travel.vocabulary import Learner
from parmap._work.threads import start_thread
from parmap.errors import ParmapError, PoolClosedError, SerializationError

if TYPE_CHECKING:
    import asyncio

    from parmap._core.job import Job
    from parmap._engine.engine import Engine

R_co = TypeVar("R_co", covariant=True)

PORTION = 0.002
"""Seconds of reading after which workers get what there is."""

_PATIENCE = 0.1  # of the time that an item took to be read: who reads on so much later loses little

_BLOCK = 128  # items between two looks at the clock, at most


class Input:
    """The input of a batch, read piece by piece by the thread that consumes the results."""

    reader: Reader | None = None  # what reads it instead
    error: BaseException | None = None

    def __init__(self, iterables: tuple[Iterable[Any], ...], *, packs: bool, keeps: bool = False) -> None:
        """*keeps*: the items are wanted back as they were given."""
        self.sequence: Any = as_sequence(iterables)
        self._keeps = keeps
        if keeps and self.sequence is not None:
            self.sequence = self.sequence[:]  # the caller may change the list later
        self.exhausted: bool = False
        self.count: int = 0
        self.patience: float = 0.0  # seconds that may pass before the next item is read, if that takes long
        self._packs = packs
        self._items: Iterator[Any] = iter(())
        self._read: list[Any] = []  # what there is already, if the reading was interrupted
        self.unsent: Any = None
        self.learner: Learner = Learner()
        self._atom: type = str  # what the last atom was: the next is likely to be one, too
        if self.sequence is None:
            self._items = iter(iterables[0]) if len(iterables) == 1 else zip(*iterables, strict=False)

    def read(self, size: int, seconds: float = PORTION) -> Any:
        """The next items, at most *size*; sets `exhausted` at the end, and `error` if the input raised one.

        What is no sequence is read for about so many *seconds*: workers shall not wait until all is there.

        They are in `unsent` too, so that whoever is interrupted before they are handed over finds them there.

        Raises:
            BaseException: what a signal handler raised meanwhile: no item is lost.
        """
        if self.sequence is not None:
            items = self.sequence[self.count : self.count + size]
            exhausted = self.count + size >= len(self.sequence)
        else:
            exhausted = self._read_one_by_one(max(0, size - len(self._read)), seconds)
            items = self._read
        count = self.count + len(items)
        self.unsent, self._read, self.count, self.exhausted = items, [], count, exhausted
        return items

    def outgoing(self, unsent: Any) -> Any:
        """What is to be handed over of what was read last: items that end at `count`."""
        return unsent

    def send(self, engine: Engine, job: Job) -> None:
        """Give the engine what was read; it may have that already.

        Raises:
            PoolClosedError: nobody waits for it.
        """
        if (unsent := self.unsent) is not None:  # once: another thread may close the stream meanwhile
            items = self.outgoing(unsent)
            engine.extend(job, items, last=self.exhausted, start=self.count - len(items))
            self.unsent = None

    def _read_one_by_one(self, size: int, seconds: float) -> bool:
        """Read on; true if that was the end."""
        begin, wanted, block = time.monotonic(), size, 1
        self.patience = 0.0
        try:
            while size > 0:
                block = min(block, size)
                if self._take(block) < block:
                    return True
                size -= block
                if (took := time.monotonic() - begin) > seconds:
                    self.patience = _PATIENCE * took / (wanted - size)
                    break
                block = min(2 * block, _BLOCK)
        except BaseException as error:
            foreign = is_foreign(error)
            if not foreign or getattr(self._items, "gi_frame", self) is None:  # a generator that raised is at its end
                self.error = error  # told when what came before it is delivered
            if foreign:
                raise
        return self.error is not None

    def _take(self, count: int) -> int:
        """Read *count* items; says how many there were."""
        items, before = self._read, len(self._read)
        if not self._packs:
            items.extend(islice(self._items, count))
        else:
            for item in islice(self._items, count):
                items.append(item)
                if type(item) is not self._atom:
                    items[-1] = self._as_it_is(item)
        return len(items) - before

    def singly(self, size: int) -> Iterator[Any]:
        """The next items, at most *size*, each when it was read."""
        for item in islice(self._items, size):
            sent = self._as_it_is(item) if self._packs and type(item) is not self._atom else item
            self.count += 1
            yield sent

    @property
    def must_be_read(self) -> bool:
        """Whether reading on may take long, and nobody sees to that."""
        return self.sequence is None and self.reader is None and not self.exhausted

    def left(self) -> int | None:
        """How many items are still to be read; `None` if nobody can tell."""
        if self.exhausted:
            return 0
        if self.sequence is not None:
            return max(0, len(self.sequence) - self.count)  # it may have been cut meanwhile
        left = length_hint(self._items, -1)
        return None if left < 0 else left + len(self._read)

    def fail(self, voice: Voice) -> None:
        """Raise the error of the input, if there is one, as *voice* gives it."""
        if (error := self.__dict__.pop("error", None)) is not None:  # in one step: a signal handler may close this
            try:
                raise voice(error)
            finally:
                del error  # as in `Future.result`

    def stop(self) -> None:
        """Let nobody else read on; from any thread."""
        if self.reader is not None:
            self.reader.stop()

    def let_go(self) -> None:
        """Read no more, and hold nothing of it."""
        self.exhausted = True
        self.stop()
        self._items, self._read, self.unsent, self.error = iter(()), [], None, None
        if self.sequence is not None:
            self.sequence = ()

    def _as_it_is(self, item: Any) -> Any:
        """An item that stays as it is now: a generator may hand out one object again and again, changed each time."""
        if are_atoms(item if type(item) is tuple else (item,)):
            self._atom = str if type(item) is tuple else type(item)
            return item
        try:
            sent = snapshot(item, self.learner, copies=not self._keeps)
        except SerializationError:
            return item  # fails again when its turn comes, as the error of this item
        if self._keeps and sent is not item:
            sent.item = item
        return sent


class Reader:
    """Reads what is no sequence in a thread of its own, while an event loop goes on."""

    def __init__(
        self, engine: Engine, job: Job, source: Input, limit: int = 0, on_end: Callable[[], object] = bool
    ) -> None:
        """Read on, up to item number *limit* and those that are allowed later; call *on_end* after the last."""
        self._engine, self._job, self._on_end = engine, job, on_end
        self._limit, self._stopped = limit, False
        self._news: SimpleQueue[None] = SimpleQueue()  # whoever drops a stream may do so anywhere: this never blocks
        self._run: list[Any] = []  # items that were read one by one, up to that number
        self._first = source.count
        self._collected: deque[tuple[int, list[Any], bool]] = deque()
        self._is_told = False  # that there is something collected
        source.reader = self
        self.thread = start_thread("parmap-input", copy_context().run, self._live, source)

    def allow(self, limit: int) -> None:
        """Items may be read up to number *limit*."""
        if limit > self._limit:
            self._limit = limit
            self._news.put(None)

    def stop(self) -> None:
        """Read no more than the item that is being read."""
        self._stopped = True
        self._news.put(None)

    def _live(self, source: Input) -> None:
        try:
            while not self._stopped:
                if (unsent := source.unsent) is not None:
                    items, source.unsent = source.outgoing(unsent), None
                    self._collect(source.count - len(items), items, last=source.exhausted)
                if source.exhausted:
                    break
                if source.count >= self._limit:
                    self._news.get()
                elif type(source) is Input:
                    self._read_on(source)
                else:
                    source.read(1)
        except BaseException as error:  # noqa: BLE001 - it is told when what came before it is delivered
            source.error, source.exhausted = error, True
            self._collect(source.count, [], last=True)
        self._on_end()

    def _read_on(self, source: Input) -> None:
        """Collect items, each when it was read: nobody knows what the next one waits for."""
        limit, keep = self._limit, self._run.append
        for item in source.singly(limit - source.count):
            keep(item)
            if not self._is_told:
                self._tell()
            if self._stopped:
                return
        if source.count < limit:
            source.exhausted = True
            self._collect(source.count, [], last=True)

    def _collect(self, *piece: Any, last: bool) -> None:
        self._collected.append((*piece, last))
        if not self._is_told:
            self._tell()

    def _tell(self) -> None:
        self._is_told = True
        if not self._engine.offer(self._pass_on):
            self._pass_on()  # by which whoever waits hears that nobody will take it

    def _pass_on(self) -> None:
        """Let what was collected until now travel together; in the engine's thread."""
        self._is_told = False  # first: what is collected from here on is told again, or taken below
        pieces: deque[tuple[int, list[Any], bool]] = deque()
        while self._collected:
            pieces.append(self._collected.popleft())
        if count := len(self._run):  # after those, which come behind it
            pieces.appendleft((self._first, self._run[:count], False))
            del self._run[:count]
            self._first += count
        while pieces:
            start, items, last = pieces.popleft()
            while pieces and pieces[0][0] == start + len(items):
                _, more, last = pieces.popleft()
                items += more
            try:
                self._engine.extend(self._job, items, last=last, start=start)
            except PoolClosedError:
                self._stopped = True


_MANY = 256  # items after which a source that never waits lets others have the loop


def is_asynchronous(iterable: object) -> bool:
    """Whether *iterable* can only be read by `async for`."""
    return isinstance(iterable, AsyncFedStream) or (
        hasattr(iterable, "__aiter__") and not hasattr(iterable, "__iter__")
    )


class AsyncInput(Input):
    """Reads an asynchronous iterable as far as it is allowed to, in a task of its own."""

    _loop: asyncio.AbstractEventLoop
    _room: asyncio.Event
    _news: asyncio.Event

    def __init__(self, iterables: tuple[Any, ...], *, packs: bool, keeps: bool = False) -> None:
        super().__init__((iter(()),), packs=packs, keeps=keeps)
        self._source: AsyncIterable[Any] | None = iterables[0]
        self._collected: list[Any] = []
        self._limit = 0
        self._task: asyncio.Task[None] | None = None

    def left(self) -> int | None:
        """Nobody can tell before the end."""
        return 0 if self.exhausted else None

    def allow(self, limit: int) -> None:
        """Items may be read up to number *limit*."""
        self._limit = limit
        if self._task is not None:
            self._room.set()

    def start(self, engine: Engine, job: Job) -> None:
        """Read on, from now on, on the loop that runs."""
        if self._task is None:
            import asyncio

            self._engine, self._job, self._loop = engine, job, running_loop()
            self._room, self._news = asyncio.Event(), asyncio.Event()
            self._task = self._loop.create_task(self._read_on())

    def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            with suppress(RuntimeError):  # the loop is closed, and has cancelled its tasks
                self._loop.call_soon_threadsafe(task.cancel)

    def let_go(self) -> None:
        self._source = None
        super().let_go()

    def check_loop(self) -> None:
        """See that it may be waited for here.

        Raises:
            RuntimeError: it is read on another event loop.
        """
        import asyncio

        if not self.exhausted and self._loop is not asyncio.get_running_loop():
            raise RuntimeError("the input of this stream is read on another event loop, where it was begun")

    async def wait_for_more(self) -> None:
        """Wait until something was read, or the end was."""
        self._news.clear()
        await self._news.wait()

    async def _read_on(self) -> None:
        source = self._source
        if source is None:
            return
        items: Any = None
        try:
            items = aiter(source)
            while await self._collect(items) and not is_cancelled():  # the source may have caught that
                pass
        except BaseException as error:
            if self._source is None:  # nobody wants more
                raise
            self.error = error  # told when what came before it is delivered
            if isinstance(error, GeneratorExit):  # its loop was closed under it: nothing can be awaited
                items = None
            if isinstance(error, (GeneratorExit, KeyboardInterrupt, SystemExit)):
                raise
        finally:
            self._pass_on()
            self.exhausted = True
            with suppress(PoolClosedError):  # nobody waits for it
                self._engine.extend(self._job, (), last=True, start=self.count)
            self._news.set()
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    async def _collect(self, items: AsyncIterator[Any]) -> bool:
        """Read an item as soon as there is room for it; false at the end."""
        while self.error is None and self.count + len(self._collected) >= self._limit:
            self._room.clear()
            await self._room.wait()
        if self.error is not None:  # what was read can't go on
            return False
        try:
            item = await anext(items)
        except StopAsyncIteration:
            return False
        if not self._collected:  # what comes without waiting travels together
            self._loop.call_soon(self._pass_on)
        self._collected.append(item)
        if len(self._collected) >= _MANY:
            await give_way()
        return True

    def _pass_on(self) -> None:
        if self._collected:
            collected, self._collected = self._collected, []
            self._items = iter(collected)
            self.read(len(collected), inf)  # in whatever time: what is left over would be lost
            try:
                self.send(self._engine, self._job)
            except ParmapError as error:
                self.error = self.error or error
                self._room.set()
            self._news.set()


class AsyncFedStream(ResultStream[R_co]):
    """The results for items that come by `async for`; they go out the same way."""

    _input: AsyncInput

    def __next__(self) -> NoReturn:
        """Refuse: reading the input takes an event loop."""
        raise TypeError("the input is asynchronous: use 'async for'")

    async def __anext__(self) -> R_co:
        """The next result; the event loop goes on while it is awaited."""
        if not self._closed:
            self._input.start(self._engine, self._job)
            if not self._engine.backend.threaded:  # to wait runs what there is; where nothing is, it blocks the loop
                while not self._input.exhausted and self._input.count <= self._handed_out:
                    await self._input.wait_for_more()
        return await super().__anext__()

    async def _wait_on_loop(self) -> None:
        self._input.check_loop()
        await super()._wait_on_loop()

    def _feed(self) -> None:
        self._input.allow(self._handed_out + bool(self._values) + self._window)
