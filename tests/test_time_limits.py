"""Time limits of those who wait: they hold whoever else waits, whatever they are, and what was waited for goes on."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import tasks
from inspection import limits_of_waits, wait_until_leased, waiting_for

import parmap
from conftest import wait_until
from parmap import parallel
from parmap._results import watched
from parmap._results.watched import Latch
from parmap.backends._processes.line.quick import HAS_QUICK_LINES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CONCURRENT = ["processes", "threads"]
pytestmark = pytest.mark.usefixtures("pools_stay")

HANDLES: dict[str, Callable[[parmap.Pool, str], tuple[Any, Callable[[Any], Any]]]] = {
    "get": lambda pool, path: ((it := pool.apply_async(tasks.wait_for, (path,))), it.get),
    "get with a callback": lambda pool, path: ((it := pool.apply_async(tasks.wait_for, (path,), {}, repr)), it.get),
    "get of a batch": lambda pool, path: ((it := pool.map_async(tasks.wait_for, [path])), lambda t: it.get(t)[0]),
    "next": lambda pool, path: ((it := pool.imap(tasks.wait_for, [path])), it.next),
    "result": lambda pool, path: ((it := parallel(tasks.wait_for, workers=1).submit(path)), it.result),
    "map_async": lambda pool, path: (
        (it := parallel(tasks.wait_for, workers=1).map_async([path])),
        lambda t: it.result(t)[0],
    ),
}


@pytest.fixture(scope="module", params=CONCURRENT)
def pool(request: pytest.FixtureRequest, pools_stay: None) -> Iterator[parmap.Pool]:
    """A pool of two workers, for all tests: what they wait for ends with them."""
    with parmap.Pool(2, backend=request.param) as pool:
        yield pool


@pytest.mark.parametrize("limit", [0, -1, 1e-300, math.nan, -math.inf])
@pytest.mark.parametrize("name", HANDLES)
def test_a_limit_that_has_passed(pool: parmap.Pool, name: str, limit: float, tmp_path: Path) -> None:
    """What is no time at all, or no number, is over at once; without a limit, or with an endless one, one waits."""
    path = str(tmp_path / "go")
    _, take = HANDLES[name](pool, path)

    with pytest.raises((TimeoutError, multiprocessing.TimeoutError)):
        take(limit)
    tasks.touch(path)
    assert take(1e300) == path


def test_a_limit_of_an_executor_s_map_that_is_no_number(tmp_path: Path) -> None:
    """It has passed, too."""
    path = str(tmp_path / "go")
    with parmap.Executor(1) as executor:
        with pytest.raises(TimeoutError):
            next(executor.map(tasks.wait_for, [path], timeout=math.nan))
        tasks.touch(path)


@pytest.mark.parametrize("name", HANDLES)
def test_who_asks_again_and_again_leaves_nothing(pool: parmap.Pool, name: str, tmp_path: Path) -> None:
    """However often one looks whether a result is there, nothing is kept of it."""
    path = str(tmp_path / "go")
    handle, take = HANDLES[name](pool, path)
    for _ in range(20):
        with suppress(TimeoutError, multiprocessing.TimeoutError):
            take(0)

    assert waiting_for(handle) <= 1  # the pool itself, for a callback
    tasks.touch(path)
    assert take(60) == path


@pytest.mark.skipif(not HAS_QUICK_LINES, reason="callers read no answers themselves on this system")
def test_a_limit_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waited in vain for the answer of a worker does not wait as long again for the engine."""
    path = str(tmp_path / "go")
    task = parallel(tasks.wait_for, workers=1)
    tasks.touch(path)
    task.submit(path).result(60)
    wait_until_leased(task)
    future = task.submit(str(tmp_path / "later"))
    limits = limits_of_waits(task, monkeypatch)

    with pytest.raises(TimeoutError):
        future.result(0.05)
    assert [limit for limit in limits if limit is None or limit > 0] == []
    tasks.touch(str(tmp_path / "later"))
    future.result(60)


def test_time_in_which_the_program_stands_still_is_not_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for seconds, and is stopped for an hour by Ctrl-Z, has them still: what came meanwhile is to be heard."""
    latch, times = Latch(), iter([100.0, 100.0])

    def monotonic() -> float:
        for moment in times:
            return moment
        latch.set()  # by a thread that stood still, too
        return 3700.0

    monkeypatch.setattr(watched, "time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))

    assert latch.wait(10.0)


def test_threads_that_share_a_stream_have_limits_of_their_own(pool: parmap.Pool, tmp_path: Path) -> None:
    """One gives up while another waits on, though something comes in between that is for neither."""
    first, second, third = (str(tmp_path / name) for name in ("first", "second", "third"))
    results = pool.imap(tasks.wait_for, [first, second, third], chunksize=1)
    with ThreadPoolExecutor(1) as other:
        patient = other.submit(results.next)
        wait_until(lambda: waiting_for(results))
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(0.01)
        tasks.touch(second)
        for _ in range(5):
            with pytest.raises(multiprocessing.TimeoutError):
                results.next(0.01)
        tasks.touch(first)
        assert patient.result(60) == first
    assert results.next(60) == second
    tasks.touch(third)
    assert [*results] == [third]


@pytest.mark.parametrize("backend", CONCURRENT)
def test_an_event_loop_goes_on_while_a_thread_waits_for_its_stream(backend: Any, tmp_path: Path) -> None:
    """Who awaits the next result of a stream that a thread waits for holds up nothing else."""
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    stream = parallel(tasks.wait_for, workers=1, backend=backend).imap([first, second])

    async def main() -> Any:
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)  # it begins
        tasks.touch(first)
        tasks.touch(second)
        return await waiting

    with ThreadPoolExecutor(1) as other:
        waits = other.submit(next, stream)
        wait_until(lambda: waiting_for(stream))
        found = [asyncio.run(main()), waits.result(60)]
    assert sorted(found) == [first, second]
