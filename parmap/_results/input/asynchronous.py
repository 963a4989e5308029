"""`AsyncInput`: what can only be read by `async for`, by a task of its own; and the stream of its results."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from parmap._results.input.source import Input
from parmap._results.streams import ResultStream
from parmap._results.watched import give_way, is_cancelled, running_loop
from parmap.errors import ParmapError, PoolClosedError

if TYPE_CHECKING:
    import asyncio

    from parmap._core.job import Job
    from parmap._engine.engine import Engine

R_co = TypeVar("R_co", covariant=True)

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
