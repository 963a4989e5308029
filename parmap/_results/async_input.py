"""Streams whose input is asynchronous: read on the event loop of whoever consumes the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from parmap._results.batch import Input
from parmap._results.streams import ResultStream
from parmap.errors import ParmapError, PoolClosedError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterable, AsyncIterator

    from parmap._core.job import Job
    from parmap._engine.engine import Engine

R_co = TypeVar("R_co", covariant=True)

_MANY = 256  # items after which a source that never waits lets others have the loop


def is_asynchronous(iterable: object) -> bool:
    """Whether *iterable* can only be read by `async for`."""
    return hasattr(iterable, "__aiter__") and not hasattr(iterable, "__iter__")


class AsyncInput(Input):
    """Reads an asynchronous iterable as far as it is allowed to, in a task of its own."""

    _loop: asyncio.AbstractEventLoop
    _room: asyncio.Event
    _news: asyncio.Event

    def __init__(self, source: AsyncIterable[Any], *, packs: bool, keeps: bool = False) -> None:
        super().__init__((iter(()),), packs=packs, keeps=keeps)
        self._source: AsyncIterable[Any] | None = source
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

            self._engine, self._job = engine, job
            self._room, self._news = asyncio.Event(), asyncio.Event()
            self._loop = asyncio.get_running_loop()
            self._task = self._loop.create_task(self._read_on())

    def stop(self) -> None:
        """Read no more; from any thread."""
        task, self._task = self._task, None
        if task is not None:
            try:
                self._loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:  # the loop is closed, and has cancelled its tasks
                pass

    def let_go(self) -> None:
        """Read no more, and hold nothing of it."""
        super().let_go()
        self.stop()
        self._source = None

    async def wait_for_more(self) -> None:
        """Wait until something was read, or the end was."""
        self._news.clear()
        await self._news.wait()

    async def _read_on(self) -> None:
        if self._source is None:
            return
        items = aiter(self._source)
        try:
            while await self._collect(items):
                pass
        except BaseException as error:
            if self._task is None:  # nobody wants more
                raise
            self.error = error  # told when what came before it is delivered
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
        finally:
            self._pass_on()
            self.exhausted = True
            try:
                self._engine.extend(self._job, (), last=True, start=self.count)
            except PoolClosedError:  # nobody waits for it
                pass
            self._news.set()
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    async def _collect(self, items: AsyncIterator[Any]) -> bool:
        """Read an item as soon as there is room for it; false at the end."""
        while self.count + len(self._collected) >= self._limit:
            self._room.clear()
            await self._room.wait()
        try:
            item = await anext(items)
        except StopAsyncIteration:
            return False
        if not self._collected:  # what comes without waiting travels together
            self._loop.call_soon(self._pass_on)
        self._collected.append(item)
        if len(self._collected) >= _MANY:
            import asyncio

            await asyncio.sleep(0)
        return True

    def _pass_on(self) -> None:
        if self._collected:
            collected, self._collected = self._collected, []
            self._items = iter(collected)
            self.read(len(collected))
            try:
                items = self.outgoing()
                self.unsent = None
                self._engine.extend(self._job, items, last=False, start=self.count - len(items))
            except ParmapError as error:
                self.error = error
            self._news.set()


class AsyncFedStream(ResultStream[R_co]):
    """The results for items that come by `async for`; they go out the same way."""

    _input: AsyncInput

    def __next__(self) -> NoReturn:
        """Refuse: reading the input takes an event loop."""
        message = "the input is asynchronous: use 'async for'"
        raise TypeError(message)

    async def __anext__(self) -> R_co:
        """The next result; the event loop goes on while it is awaited."""
        if not self._closed:
            self._input.start(self._engine, self._job)
            if (
                not self._engine.backend.threaded
            ):  # waiting would run what there is, and block the loop where nothing is
                while not self._input.exhausted and self._input.count <= self._handed_out:
                    await self._input.wait_for_more()
        return await super().__anext__()

    def _feed(self) -> None:
        self._input.allow(self._handed_out + bool(self._values) + self._window)
