"""Futures on an event loop: awaited, gathered, wrapped, cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import tasks

from conftest import wait_until
from parmap import parallel

if TYPE_CHECKING:
    from pathlib import Path


def test_await(backend: dict[str, Any]) -> None:
    """A future is awaitable, also twice and when it has ended."""

    async def main() -> list[int]:
        future = parallel(tasks.square, **backend).submit(3)
        return [await future, await future]

    assert asyncio.run(main()) == [9, 9]


def test_await_an_error(backend: dict[str, Any]) -> None:
    """Awaiting a task that fails raises its error."""

    async def main() -> None:
        await parallel(tasks.fail, **backend).submit("x")

    with pytest.raises(ValueError, match="x"):
        asyncio.run(main())


def test_await_a_batch(backend: dict[str, Any]) -> None:
    """The future of a batch is awaitable too."""

    async def main() -> list[int]:
        return await parallel(tasks.square, **backend).map_async(range(100))

    assert asyncio.run(main()) == [x * x for x in range(100)]


def test_gather(backend: dict[str, Any]) -> None:
    """`asyncio.gather` takes wrapped futures, errors among them."""
    square, fail = parallel(tasks.square, **backend), parallel(tasks.fail, **backend)

    async def main() -> list[Any]:
        futures = [*(square.submit(x) for x in range(50)), fail.submit("x")]
        return await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)

    *results, error = asyncio.run(main())

    assert results == [x * x for x in range(50)]
    assert isinstance(error, ValueError)


def test_a_task_group(backend: dict[str, Any]) -> None:
    """Coroutines that await futures run in a `TaskGroup`."""
    square = parallel(tasks.square, **backend)

    async def one(x: int) -> int:
        return await square.submit(x)

    async def main() -> list[int]:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(x)) for x in range(50)]
        return [task.result() for task in running]

    assert asyncio.run(main()) == [x * x for x in range(50)]


def test_wrap_future(backend: dict[str, Any]) -> None:
    """`asyncio.wrap_future` takes a future."""

    async def main() -> int:
        return await asyncio.wrap_future(parallel(tasks.square, **backend).submit(4))

    assert asyncio.run(main()) == 16


def test_the_loop_goes_on_while_a_task_runs(processes: dict[str, Any], tmp_path: Path) -> None:
    """Other coroutines run while one awaits: one of them lets the task end."""
    path = str(tmp_path / "go")

    async def main() -> str:
        future = asyncio.ensure_future(asyncio.wrap_future(parallel(tasks.wait_for, **processes).submit(path)))
        await asyncio.sleep(0)
        tasks.touch(path)
        return await future

    assert asyncio.run(main()) == path


@pytest.mark.parametrize("wrapped", [False, True], ids=["await", "wrap_future"])
def test_cancelling_the_waiter_kills_the_task(processes: dict[str, Any], wrapped: bool, tmp_path: Path) -> None:
    """A coroutine that is cancelled while it awaits a future cancels it; its worker serves others."""
    begun, never = tmp_path / "begun", str(tmp_path / "never")
    one = {**processes, "workers": 1}

    async def main() -> Any:
        future = parallel(tasks.touch_and_wait_for, **one).submit(str(begun), never)

        async def waiter() -> None:
            await (asyncio.wrap_future(future) if wrapped else future)

        waiting = asyncio.create_task(waiter())
        while not begun.exists():
            await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return future

    future = asyncio.run(main())

    wait_until(future.cancelled)
    assert parallel(tasks.square, **one).submit(5).result(60) == 25


def test_a_timeout_of_asyncio_kills_the_task(processes: dict[str, Any], tmp_path: Path) -> None:
    """`asyncio.timeout` around an `await` ends the task."""
    one = {**processes, "workers": 1}

    async def main() -> Any:
        future = parallel(tasks.wait_for, **one).submit(str(tmp_path / "never"))
        async with asyncio.timeout(0.05):
            await future

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert parallel(tasks.square, **one).submit(5).result(60) == 25


def test_a_loop_that_ended_before_its_task(processes: dict[str, Any], tmp_path: Path) -> None:
    """A task that ends after the event loop that wrapped it was closed harms nobody."""
    path = str(tmp_path / "go")
    future = parallel(tasks.wait_for, **processes).submit(path)

    async def main() -> None:
        done, _ = await asyncio.wait([asyncio.shield(asyncio.wrap_future(future))], timeout=0.01)
        assert not done

    asyncio.run(main())
    tasks.touch(path)
    if not future.cancelled():  # a loop that closes cancels what it was wrapped for
        wait_until(future.done)

    assert parallel(tasks.square, **processes).submit(5).result(60) == 25
