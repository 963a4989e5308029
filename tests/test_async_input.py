"""Input on an event loop: read there if it is asynchronous, or else in a thread; no further than the window allows."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import tasks

from conftest import wait_until
from parmap import PoolClosedError, parallel

pytestmark = pytest.mark.usefixtures("pools_stay")

METHODS = ["imap", "imap_unordered"]


class Source:
    """Endless or not, and counts how far it was read."""

    def __init__(self, count: int = 1 << 60, *, waits: bool = False) -> None:
        self.read = 0
        self.closed = False
        self._count = count
        self._waits = waits

    async def items(self) -> AsyncIterator[int]:
        """0, 1, 2 ..."""
        try:
            while self.read < self._count:
                if self._waits:
                    await asyncio.sleep(0)
                self.read += 1
                yield self.read - 1
        finally:
            self.closed = True


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("waits", [True, False])
def test_all_items_arrive(backend: dict[str, Any], method: str, waits: bool):
    """Whether or not the source waits in between."""

    async def consume() -> list[int]:
        stream = getattr(parallel(tasks.square, **backend), method)(Source(1000, waits=waits).items())
        return [value async for value in stream]

    values = asyncio.run(consume())
    assert (values if method == "imap" else sorted(values)) == [number**2 for number in range(1000)]


class Heavy:
    """Takes its time when it is packed."""

    def __reduce__(self) -> Any:
        time.sleep(0.06)
        return int, (7,)


def test_items_that_take_long_to_be_packed():
    """They all arrive, also where they are read together."""

    async def items() -> AsyncIterator[Any]:
        for _ in range(20):
            yield Heavy()

    async def consume() -> list[int]:
        return [value async for value in parallel(tasks.square, workers=1).imap(items())]

    assert asyncio.run(consume()) == [49] * 20


@pytest.mark.parametrize("given", [ValueError("no items"), 5], ids=["raises", "gives no iterator"])
def test_a_source_that_does_not_even_begin(backend: dict[str, Any], given: Any):
    """What its `__aiter__` raises, or Python of what that returns, ends the stream."""

    class Broken:
        def __aiter__(self) -> Any:
            if isinstance(given, Exception):
                raise given
            return given

    async def consume() -> list[int]:
        return [value async for value in parallel(tasks.square, **backend).imap(Broken())]

    with pytest.raises((ValueError, TypeError), match=r"no items|an async iterator"):
        asyncio.run(asyncio.wait_for(consume(), 30))


@pytest.mark.parametrize("closes", [True, False])
def test_a_stream_that_goes_on_elsewhere(backend: dict[str, Any], closes: bool):
    """Its input is read on the loop where that began: on another, it gives what there is, then says so."""

    async def endless() -> AsyncIterator[int]:
        for number in itertools.count():
            if number > 2:
                await asyncio.sleep(60)
            yield number

    async def begin() -> Any:
        stream = parallel(tasks.square, **backend).imap(endless())
        assert [await anext(stream) for _ in range(2)] == [0, 1]
        return stream

    async def go_on() -> None:
        async for value in stream:
            assert value == 4

    loop = asyncio.new_event_loop()
    stream = loop.run_until_complete(begin())
    (reading,) = asyncio.all_tasks(loop)
    if closes:
        reading.get_coro().close()  # as when it is collected
        loop.close()
    with pytest.raises(RuntimeError, match=r"another event loop|different event loop|loop is closed|GeneratorExit"):
        asyncio.run(asyncio.wait_for(go_on(), 30))
    stream.close()
    if not closes:
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@pytest.mark.parametrize("how", ["blocking", "asynchronous", "map_async"])
def test_the_pool_is_shut_down_before_the_first_item(processes: dict[str, Any], how: str):
    """Whoever waits for results is told, once there is an item that nobody takes."""
    function = parallel(tasks.square, **processes)
    is_down = threading.Event()

    def blocking() -> Iterator[int]:
        is_down.wait(60)
        yield 1

    async def asynchronous() -> AsyncIterator[int]:
        await asyncio.to_thread(is_down.wait, 60)
        yield 1

    async def consume() -> None:
        if how == "map_async":
            results: Any = function.map_async(blocking())
        else:
            results = anext(function.imap(asynchronous() if how == "asynchronous" else blocking()))
        waits = asyncio.ensure_future(results)
        await asyncio.sleep(0)  # it has begun
        await asyncio.to_thread(function.shutdown)
        is_down.set()
        with pytest.raises(PoolClosedError):
            await asyncio.wait_for(waits, 60)

    asyncio.run(consume())


@pytest.mark.parametrize("method", METHODS)
def test_the_window_holds(backend: dict[str, Any], method: str):
    """The source is read only so far ahead of what was handed out."""

    async def consume() -> None:
        source = Source()
        with getattr(parallel(tasks.identity, **backend), method)(source.items(), buffersize=5) as stream:
            taken = 0
            async for _ in stream:
                taken += 1
                await asyncio.sleep(0.001)
                assert source.read <= taken + 5
                if taken == 50:
                    break

    asyncio.run(consume())


@pytest.mark.parametrize("make", [iter, lambda items: Source(len(items)).items()], ids=["thread", "loop"])
def test_a_window_that_nothing_reaches(backend: dict[str, Any], make: Any):
    """As on no loop: a limit of more than any list can hold is none."""

    async def consume() -> list[int]:
        return [value async for value in parallel(tasks.square, **backend).imap(make(range(3)), buffersize=10**30)]

    assert asyncio.run(consume()) == [0, 1, 4]


def test_it_is_lazy(backend: dict[str, Any]):
    """Nothing is read before somebody asks."""

    async def consume() -> int:
        source = Source()
        stream = parallel(tasks.identity, **backend).imap(source.items())
        await asyncio.sleep(0.01)
        stream.close()
        return source.read

    assert asyncio.run(consume()) == 0


def test_closing_the_stream_closes_the_source(backend: dict[str, Any]):
    """Its `finally` runs."""

    async def consume() -> bool:
        source = Source(waits=True)
        with parallel(tasks.identity, **backend).imap(source.items(), buffersize=3) as stream:
            assert await anext(stream) == 0
        while not source.closed:
            await asyncio.sleep(0.001)
        return source.closed

    assert asyncio.run(asyncio.wait_for(consume(), 30))


def test_an_error_of_the_source_comes_in_its_turn(backend: dict[str, Any]):
    """What came before it is handed out first."""

    async def broken() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise LookupError("no more")

    async def consume(values: list[int]) -> None:
        async for value in parallel(tasks.square, **backend).imap(broken()):
            values.append(value)  # noqa: PERF401 - what came before the error counts

    values: list[int] = []
    with pytest.raises(LookupError, match="no more"):
        asyncio.run(consume(values))
    assert values == [1, 4]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
def test_an_error_of_the_source_in_an_eager_task(backend: dict[str, Any]):
    """Where tasks begin before whoever made them goes on, it comes in its turn, too."""

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise LookupError("no more")

    async def consume() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        stream = parallel(tasks.square, **backend).imap(broken())
        assert await anext(stream) == 1
        with pytest.raises(LookupError, match="no more"):
            await anext(stream)

    asyncio.run(consume())


def test_a_source_that_catches_its_cancellation():
    """It is closed all the same, and keeps nobody's loop from ending."""
    is_closed = asyncio.Event()

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in itertools.count():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)
                yield number
        finally:
            is_closed.set()

    async def consume() -> None:
        with parallel(tasks.square, workers=2).imap(numbers()) as stream:
            await anext(stream)
        await is_closed.wait()

    asyncio.run(asyncio.wait_for(consume(), 30))


def test_an_error_of_a_task_ends_it(backend: dict[str, Any]):
    """As with any input."""

    async def consume() -> None:
        async for _ in parallel(tasks.fail, **backend).imap(Source().items()):
            pass

    with pytest.raises(ValueError):
        asyncio.run(consume())


def test_return_exceptions(backend: dict[str, Any]):
    """Errors take the places of results."""

    async def consume() -> list[Any]:
        stream = parallel(tasks.inverse, **backend).imap(Source(3).items(), return_exceptions=True)
        return [value async for value in stream]

    error, *values = asyncio.run(consume())
    assert isinstance(error, ZeroDivisionError)
    assert values == [1, 0.5]


def test_an_empty_source(backend: dict[str, Any]):
    """Nothing comes of nothing."""

    async def consume() -> list[int]:
        return [value async for value in parallel(tasks.square, **backend).imap(Source(0).items())]

    assert asyncio.run(consume()) == []


@pytest.mark.parametrize("method", ["map", "map_async", "imap", "outcomes"])
def test_who_reads_an_asynchronous_source(method: str):
    """One that waits for all results, or takes several iterables, can't: it says who can."""
    f, more = parallel(max, workers=2), ([1],) if method in {"imap", "outcomes"} else ()

    async def numbers() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match=r"asynchronous: only imap, imap_unordered and outcomes .* read it, by itself"):
        getattr(f, method)(*more, numbers())


def test_a_plain_loop_is_refused():
    """Reading the input takes an event loop."""
    stream = parallel(tasks.square, workers=1).imap(Source(1).items())
    with pytest.raises(TypeError, match="async for"):
        next(stream)
    stream.close()


def test_the_loop_goes_on(processes: dict[str, Any]):
    """While the stream waits for input and for results, other tasks of the loop run."""

    async def consume() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.ensure_future(tick())
        assert [v async for v in parallel(tasks.nap, **processes).imap(_naps())] == [0.2] * 4
        ticking.cancel()
        return ticks

    async def _naps() -> AsyncIterator[float]:
        for _ in range(4):
            await asyncio.sleep(0.01)
            yield 0.2

    assert asyncio.run(consume()) > 10


# --- input that is read in a thread, since it may block ---------------------------------------------------------------

THREADED = [{"backend": "processes"}, {"backend": "processes", "start_method": "spawn"}, {"backend": "threads"}]


class Blocking:
    """A generator of numbers that blocks half way until it is let go on, and what is known of it."""

    def __init__(self, *, fails: bool = False) -> None:
        self.is_blocked = threading.Event()
        self.may_go_on = threading.Event()
        self.read = 0
        self._fails = fails

    def items(self) -> Iterator[int]:
        """0, 1, 2; then it blocks; 3, 4, 5."""
        for number in range(6):
            if number == 3:
                self.is_blocked.set()
                assert self.may_go_on.wait(60)
                if self._fails:
                    raise LookupError("no more")
            self.read += 1
            yield number

    async def let_go_on(self) -> None:
        """What else the loop has to do: only if it is not held up, the generator goes on."""
        while not self.is_blocked.is_set():
            await asyncio.sleep(0.001)
        self.may_go_on.set()


def _reading() -> bool:
    return any(thread.name == "parmap-input" for thread in threading.enumerate())


@pytest.mark.parametrize("options", THREADED, ids=str)
@pytest.mark.parametrize("method", [*METHODS, "outcomes"])
@pytest.mark.parametrize("where", ["on the loop", "before"])
def test_a_generator_does_not_hold_up_the_loop(options: dict[str, Any], method: str, where: str):
    """While it blocks, the loop goes on, and what it gave before arrives."""
    source = Blocking()
    make = getattr(parallel(tasks.square, workers=2, **options), method)
    made = make(source.items(), buffersize=2) if where == "before" else None  # of which the first two are read there

    async def consume() -> list[Any]:
        stream = made if made is not None else make(source.items())
        values = [await anext(stream) for _ in range(3)]
        task = asyncio.ensure_future(source.let_go_on())
        values += [value async for value in stream]
        await task
        return values

    values = asyncio.run(consume())
    squares = [getattr(value, "value", value) for value in values]
    assert (sorted(squares) if method == "imap_unordered" else squares) == [0, 1, 4, 9, 16, 25]
    wait_until(lambda: not _reading())


@pytest.mark.parametrize("options", THREADED, ids=str)
def test_a_batch_of_a_generator_does_not_hold_up_the_loop(options: dict[str, Any]):
    """Nor does `map_async`, where the future is made, or where it is awaited."""
    source = Blocking()
    f = parallel(tasks.square, workers=2, **options)

    async def consume() -> list[int]:
        future = f.map_async(source.items())
        values, _ = await asyncio.gather(future, source.let_go_on())
        return values

    assert asyncio.run(consume()) == [0, 1, 4, 9, 16, 25]


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_a_batch_that_is_over_reads_no_more(how: str):
    """A generator without an end is left alone when its batch is cancelled, or has failed."""
    f = parallel(abs if how == "cancelled" else tasks.fail, workers=1)

    async def consume() -> None:
        future = f.map_async(itertools.count())
        if how == "cancelled":
            future.cancel()
        with pytest.raises((asyncio.CancelledError, ValueError)):
            await future

    asyncio.run(consume())
    wait_until(lambda: not _reading())


def test_the_error_of_a_generator_read_in_a_thread():
    """It is raised behind the results of what came before, and by the future of a batch."""
    f = parallel(tasks.square, workers=2)

    async def consume() -> list[int]:
        source = Blocking(fails=True)
        stream = f.imap(source.items())
        values = [await anext(stream) for _ in range(3)]
        await source.let_go_on()
        with pytest.raises(LookupError, match="no more"):
            await anext(stream)
        source.may_go_on.set()
        with pytest.raises(LookupError, match="no more"):
            await f.map_async(source.items())
        return values

    assert asyncio.run(consume()) == [0, 1, 4]


@pytest.mark.parametrize("end", ["close", "drop", "cancel"])
def test_a_stream_ends_while_its_generator_blocks(end: str):
    """At once, however it ends; the thread goes when the generator lets it."""
    source = Blocking()
    f = parallel(tasks.square, workers=2)

    async def consume() -> None:
        stream = f.imap(source.items())
        assert [await anext(stream) for _ in range(3)] == [0, 1, 4]
        if end == "close":
            stream.close()
        elif end == "cancel":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.1)

    asyncio.run(consume())
    assert source.is_blocked.wait(60)
    source.may_go_on.set()
    wait_until(lambda: not _reading())
    assert source.read <= 4


def test_the_window_of_a_generator_holds():
    """It is read only so far ahead of what was taken, by whichever kind of loop; and ends with the loop."""
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            yield number

    async def consume() -> None:
        with parallel(tasks.identity, workers=2).imap(items(), buffersize=5) as stream:
            for taken in range(1, 30):
                await anext(stream)
                await asyncio.sleep(0.001)
                assert len(read) <= taken + 5
            assert next(stream) == 29

    asyncio.run(consume())
    wait_until(lambda: not _reading())


def test_streams_of_streams_on_a_loop(tmp_path: Path):
    """A stream as the input of another one is taken from in the thread, too; with a journal and context variables."""
    name = ContextVar("name", default="nobody")
    f = parallel(tasks.identity, workers=2)
    seen: list[str] = []

    def items() -> Iterator[int]:
        for number in range(300):
            seen.append(name.get())
            yield number

    async def consume() -> list[int]:
        name.set("somebody")
        return [value async for value in f.imap(f.imap(items()), journal=str(tmp_path / "journal"))]

    assert asyncio.run(consume()) == asyncio.run(consume()) == list(range(300))
    assert set(seen) == {"somebody"}


def test_many_items_of_a_generator():
    """Order and number are right, and what comes soon travels together."""

    async def consume() -> list[int]:
        return [value async for value in parallel(abs, workers=2).imap(number for number in range(20_000))]

    assert asyncio.run(consume()) == list(range(20_000))


def test_streams_of_streams_of_an_asynchronous_source(backend: dict[str, Any]):
    """A stream whose input is asynchronous is one itself; the last of them closes the source."""
    f = parallel(tasks.square, **backend)
    source, endless = Source(100), Source()

    async def consume() -> list[int]:
        with f.imap_unordered(f.imap(f.imap(endless.items()))) as stream:
            assert await anext(stream) in {number**8 for number in range(1000)}
        return [value async for value in f.imap(f.imap(source.items()))]

    assert asyncio.run(consume()) == [number**4 for number in range(100)]
    assert source.closed
    assert endless.closed
