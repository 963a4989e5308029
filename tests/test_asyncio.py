"""On an event loop: futures and streams are awaited, wrapped, cancelled; coroutines run in workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
import tasks
from tasks_of_coroutines import be_late, double_later, fail_later, is_first_on_its_loop, sum_of_others

from conftest import wait_until
from parmap import item_of, parallel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from pathlib import Path

    from conftest import Script

    Run = Callable[[Coroutine[Any, Any, Any]], Any]

pytestmark = pytest.mark.usefixtures("pools_stay")


@pytest.fixture(scope="module", autouse=True)
def _what_uvloop_keeps() -> None:
    """Have uvloop open the descriptors that it keeps from its first loop on, before they are counted."""
    if find_spec("uvloop") is not None:
        pytest.importorskip("uvloop").new_event_loop().close()


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on a new event loop, of each kind, as `asyncio.run` does."""
    if request.param == "asyncio":
        return asyncio.run
    factory = pytest.importorskip("uvloop").new_event_loop

    def on_uvloop(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main)

    return on_uvloop


def test_await(run: Run, backend: dict[str, Any]) -> None:
    """A future is awaitable, also twice and when it has ended."""

    async def main() -> list[int]:
        future = parallel(tasks.square, **backend).submit(3)
        return [await future, await future]

    assert run(main()) == [9, 9]


def test_await_an_error(run: Run, backend: dict[str, Any]) -> None:
    """Awaiting a task that fails raises its error."""

    async def main() -> None:
        await parallel(tasks.fail, **backend).submit("x")

    with pytest.raises(ValueError, match="x"):
        run(main())


def test_await_a_batch(run: Run, backend: dict[str, Any]) -> None:
    """The future of a batch is awaitable too."""

    async def main() -> list[int]:
        return await parallel(tasks.square, **backend).map_async(range(100))

    assert run(main()) == [x * x for x in range(100)]


def test_gather(run: Run, backend: dict[str, Any]) -> None:
    """`asyncio.gather` takes wrapped futures, errors among them."""
    square, fail = parallel(tasks.square, **backend), parallel(tasks.fail, **backend)

    async def main() -> list[Any]:
        futures = [*(square.submit(x) for x in range(50)), fail.submit("x")]
        return await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)

    *results, error = run(main())

    assert results == [x * x for x in range(50)]
    assert isinstance(error, ValueError)


def test_a_task_group(run: Run, backend: dict[str, Any]) -> None:
    """Coroutines that await futures run in a `TaskGroup`."""
    square = parallel(tasks.square, **backend)

    async def one(x: int) -> int:
        return await square.submit(x)

    async def main() -> list[int]:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(x)) for x in range(50)]
        return [task.result() for task in running]

    assert run(main()) == [x * x for x in range(50)]


def test_wrap_future(run: Run, backend: dict[str, Any]) -> None:
    """`asyncio.wrap_future` takes a future."""

    async def main() -> int:
        return await asyncio.wrap_future(parallel(tasks.square, **backend).submit(4))

    assert run(main()) == 16


def test_asyncio_wait_says_what_it_takes(run: Run, backend: dict[str, Any]) -> None:
    """`asyncio.wait` would take a future of parmap for one of its loop, and never hear of its end: it is told."""

    async def main() -> None:
        future = parallel(tasks.square, **backend).submit(3)
        with pytest.raises(TypeError, match=r"asyncio\.wrap_future"):
            await asyncio.wait([future])
        assert await future == 9
        done, _ = await asyncio.wait([asyncio.wrap_future(future)])
        assert [each.result() for each in done] == [9]

    run(main())


def test_the_loop_goes_on_while_a_task_runs(run: Run, processes: dict[str, Any], tmp_path: Path) -> None:
    """Other coroutines run while one awaits: one of them lets the task end."""
    path = str(tmp_path / "go")

    async def main() -> str:
        future = asyncio.ensure_future(asyncio.wrap_future(parallel(tasks.wait_for, **processes).submit(path)))
        await asyncio.sleep(0)
        tasks.touch(path)
        return await future

    assert run(main()) == path


@pytest.mark.parametrize("wrapped", [False, True], ids=["await", "wrap_future"])
def test_cancelling_the_waiter_kills_the_task(
    run: Run, processes: dict[str, Any], wrapped: bool, tmp_path: Path
) -> None:
    """A coroutine that is cancelled while it awaits a future cancels it; its worker serves others."""
    begun, never = tmp_path / "begun", str(tmp_path / "never")
    one = {**processes, "workers": 1}

    async def main() -> Any:
        future = parallel(tasks.touch_and_wait_for, **one).submit(str(begun), never)

        async def waiter() -> None:
            await (asyncio.wrap_future(future) if wrapped else future)

        waiting = asyncio.create_task(waiter())
        await asyncio.sleep(0)  # it waits
        while not begun.exists():
            await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return future

    future = run(main())

    wait_until(future.cancelled)
    assert parallel(tasks.square, **one).submit(5).result(60) == 25


def test_a_timeout_of_asyncio_kills_the_task(run: Run, processes: dict[str, Any], tmp_path: Path) -> None:
    """`asyncio.timeout` around an `await` ends the task."""
    one = {**processes, "workers": 1}

    async def main() -> Any:
        future = parallel(tasks.wait_for, **one).submit(str(tmp_path / "never"))
        async with asyncio.timeout(0.05):
            await future

    with pytest.raises(TimeoutError):
        run(main())
    assert parallel(tasks.square, **one).submit(5).result(60) == 25


def test_a_loop_that_ended_before_its_task(run: Run, processes: dict[str, Any], tmp_path: Path) -> None:
    """A task that ends after the event loop that wrapped it was closed harms nobody."""
    path = str(tmp_path / "go")
    future = parallel(tasks.wait_for, **processes).submit(path)

    async def main() -> None:
        done, _ = await asyncio.wait([asyncio.shield(asyncio.wrap_future(future))], timeout=0.01)
        assert not done

    run(main())
    tasks.touch(path)
    if not future.cancelled():  # a loop that closes cancels what it was wrapped for
        wait_until(future.done)

    assert parallel(tasks.square, **processes).submit(5).result(60) == 25


# --- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_async_for(run: Run, backend: dict[str, Any], method: str) -> None:
    """The results of a stream are iterated over as they come."""

    async def main() -> list[int]:
        return [result async for result in getattr(parallel(tasks.square, **backend), method)(range(100))]

    assert sorted(run(main())) == [x * x for x in range(100)]


def test_aclosing(backend: dict[str, Any]):
    """What closes asynchronous generators closes streams, too."""

    async def consume() -> int:
        async with contextlib.aclosing(parallel(tasks.square, **backend).imap(range(100))) as results:
            return await anext(results)

    assert asyncio.run(consume()) == 0


def test_async_with(run: Run, backend: dict[str, Any]) -> None:
    """`async with` closes a stream, as `with` does."""

    async def main() -> tuple[int, list[int]]:
        async with parallel(tasks.square, **backend).imap(range(100)) as results:
            first = await anext(results)
        return first, [result async for result in results]

    assert run(main()) == (0, [])


def test_async_for_raises(run: Run, backend: dict[str, Any]) -> None:
    """The error of an item is raised where the stream is iterated over."""

    async def main() -> None:
        async for _ in parallel(tasks.fail, **backend).imap(["x"]):
            pass

    with pytest.raises(ValueError, match="x"):
        run(main())


def test_cancelling_the_reader_of_a_stream_kills_its_tasks(run: Run, processes: dict[str, Any], tmp_path: Path) -> None:
    """A coroutine that is cancelled while it waits for the next result ends the work, though the stream is held."""
    begun, never = tmp_path / "begun", str(tmp_path / "never")
    one = {**processes, "workers": 1}

    async def main() -> Any:
        stream = parallel(tasks.touch_and_wait_for, **one).imap([str(begun)] * 5, [never] * 5)
        reading = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)  # it waits
        while not begun.exists():
            await asyncio.sleep(0.005)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        return stream

    stream = run(main())

    assert parallel(tasks.square, **one).submit(5).result(30) == 25
    assert list(stream) == []


# --- batches --------------------------------------------------------------------------------------------------------


def test_cancelling_the_waiter_of_a_batch_kills_its_tasks(run: Run, processes: dict[str, Any], tmp_path: Path) -> None:
    """A coroutine that is cancelled while it awaits a batch ends all of it."""
    begun, never = tmp_path / "begun", str(tmp_path / "never")
    one = {**processes, "workers": 1}

    async def main() -> None:
        batch = parallel(tasks.touch_and_wait_for, **one).map_async([str(begun)] * 5, [never] * 5)

        async def waiter() -> None:
            await batch

        waiting = asyncio.create_task(waiter())
        await asyncio.sleep(0)  # it waits
        while not begun.exists():
            await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(main())

    assert parallel(tasks.square, **one).submit(5).result(30) == 25


# --- the loop -------------------------------------------------------------------------------------------------------


def test_the_loop_is_never_blocked(run: Run, tmp_path: Path) -> None:
    """Nothing that is awaited holds up the loop: each task ends only when the loop has done something meanwhile."""
    wait = parallel(tasks.touch_and_wait_for, workers=2)

    async def while_it_runs(name: str, work: Callable[[str, str], Awaitable[list[str]]]) -> None:
        begun, end = str(tmp_path / f"{name} has begun"), str(tmp_path / name)
        running = asyncio.ensure_future(work(begun, end))
        while not os.path.exists(begun) and not running.done():  # noqa: ASYNC240 - in no time
            await asyncio.sleep(0.001)
        tasks.touch(end)
        assert await running == [end]

    async def main() -> None:
        async def submitted(begun: str, end: str) -> list[str]:
            return [await wait.submit(begun, end)]

        async def streamed(begun: str, end: str) -> list[str]:
            return [path async for path in wait.imap([begun], [end])]

        await while_it_runs("submit", submitted)
        await while_it_runs("map_async", lambda begun, end: wait.map_async([begun], [end]))
        await while_it_runs("imap", streamed)

    run(main())


def test_others_have_the_loop_between_results(run: Run, backend: dict[str, Any]) -> None:
    """Results that are all there, each of which takes its time, don't keep the loop from other coroutines."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> list[int]:
        other, seen = asyncio.create_task(others()), []
        async for _ in parallel(tasks.square, **backend).imap(range(10), chunksize=10):
            seen.append(turns)
            time.sleep(0.02)  # noqa: ASYNC251 - the work of the loop
        other.cancel()
        return seen

    seen = run(main())
    assert len(set(seen)) == len(seen) == 10


def test_cancelling_does_not_wait_for_parmap(run: Run, processes: dict[str, Any], tmp_path: Path) -> None:
    """A coroutine is cancelled at once, whatever parmap's thread is at; its task then."""
    may_go_on, was_let = threading.Event(), []

    async def main() -> Any:
        future = parallel(tasks.wait_for, **processes).submit(str(tmp_path / "never"))

        async def waiter() -> None:
            await future

        waiting = asyncio.create_task(waiter())
        await asyncio.sleep(0)
        future.lane.engine.post(lambda: was_let.append(may_go_on.wait(30)))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        may_go_on.set()
        return future

    future = run(main())
    wait_until(future.cancelled)
    assert was_let == [True]


@pytest.mark.parametrize("work", ["f.submit()", "f.map_async([1])", "anext(f.imap([1]))"])
def test_what_the_parent_process_does_is_not_awaited(script: Script, work: str) -> None:
    """In a process made by `os.fork()` it is an error, as with `result()`; what had ended before is there."""
    done = script.run(f"""\
import asyncio, os, time
from pathlib import Path
import parmap

ended = parmap.parallel(abs, workers=1).submit(-9)
ended.result()

@parmap.parallel(workers=1)
def f(_=0):
    while not Path("go").exists():
        time.sleep(0.01)

work = {work}

async def main():
    print(await ended)
    try:
        await asyncio.wait_for(work, 20)
    except parmap.PoolClosedError as error:
        print(error, flush=True)

child = os.fork()
if not child:
    asyncio.run(main())
    os._exit(0)
os.waitpid(child, 0)
Path("go").touch()
""")
    assert "9\nthis work belongs to the parent process" in done.stdout, done.stderr


@pytest.mark.parametrize("call", ["submit", "map_async", "imap", "of an asynchronous source"])
def test_where_no_loop_of_asyncio_runs(backend: dict[str, Any], call: str) -> None:
    """As under Trio: the error says how to wait there."""
    square = parallel(tasks.square, **backend)

    async def numbers() -> AsyncIterator[int]:
        yield 3

    async def main() -> None:
        if call in {"submit", "map_async"}:
            await (square.submit(3) if call == "submit" else square.map_async([3]))
        else:
            await anext(square.imap([3] if call == "imap" else numbers()))

    with pytest.raises(RuntimeError, match=r"trio\.to_thread"):
        main().send(None)


def test_one_loop_after_another(run: Run, backend: dict[str, Any]) -> None:
    """The same function serves each of several event loops."""
    square = parallel(tasks.square, **backend)

    async def main() -> list[int]:
        return [await square.submit(3), *await square.map_async([4]), *[x async for x in square.imap([5])]]

    assert [run(main()) for _ in range(3)] == [[9, 16, 25]] * 3


def test_a_loop_in_another_thread(run: Run, backend: dict[str, Any]) -> None:
    """Loops of several threads may wait at the same time."""
    square = parallel(tasks.square, **backend)

    async def main() -> list[int]:
        return [await square.submit(x) for x in range(20)]

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda _: run(main()), range(2))) == [[x * x for x in range(20)]] * 2


# --- coroutines as tasks --------------------------------------------------------------------------------------------


def test_each_coroutine_has_a_loop_of_its_own(backend: dict[str, Any]) -> None:
    """An `async def` runs in the worker, on an event loop that no other task has used."""
    assert parallel(is_first_on_its_loop, **backend).map(range(10)) == [True] * 10


def test_coroutines_are_awaited_like_any_task(run: Run, backend: dict[str, Any]) -> None:
    """The caller's loop may run where the coroutine runs, too: with the serial backend, in the same thread."""
    later = parallel(double_later, **backend)

    async def main() -> list[int]:
        here = [await later(1), *later.map([2])]
        return [*here, await later.submit(3), *await later.map_async([4]), *[x async for x in later.imap([5])]]

    assert run(main()) == [2, 4, 6, 8, 10]


@pytest.mark.parametrize("ask", ["submit", "map_async"])
def test_await_a_timeout_of_a_tasks_own(run: Run, backend: dict[str, Any], ask: str) -> None:
    """It comes with what it says of the task."""
    late = parallel(be_late, **backend)

    async def main() -> None:
        await (late.submit(7) if ask == "submit" else late.map_async([7]))

    with pytest.raises(TimeoutError, match="7") as caught:
        run(main())

    assert item_of(caught.value) == 7
    assert "be_late(7)" in caught.value.__notes__[0]


def test_an_error_of_a_coroutine_has_no_other_before_it(backend: dict[str, Any]) -> None:
    """What parmap tries before it runs a coroutine is not in the traceback of its error."""
    (error,) = parallel(fail_later, **backend).map([1], return_exceptions=True)

    told = "".join(traceback.format_exception(error))
    assert "ValueError: 1" in told
    assert "During handling" not in told


def test_coroutines_in_coroutines(backend: dict[str, Any]) -> None:
    """A coroutine in a worker may have other coroutines run in parallel, which is in turn there."""
    assert parallel(sum_of_others, **backend).map([1, 2]) == [8, 16]
