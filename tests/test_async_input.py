"""Asynchronous input of streams: read on the event loop, no further ahead than the window allows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import tasks

from parmap import parallel

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
