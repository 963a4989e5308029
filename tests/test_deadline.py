"""`deadline`: a whole batch ends in time, whatever its items do; what has ended keeps its result."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import tasks
import tasks_that_hang as hang
from inspection import let_stand

from conftest import wait_until
from parmap import Future, Pool, TaskTimeoutError, override, parallel
from parmap.errors import WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from conftest import Script

LIMIT = 0.7
PASSED = r"deadline of the batch, 0\.7 seconds, passed"


def _late(results: list[Any]) -> dict[int, int | None]:
    """The places of what came too late, and the numbers that these errors tell."""
    found = {place: result for place, result in enumerate(results) if isinstance(result, Exception)}
    assert {type(error) for error in found.values()} <= {TaskTimeoutError}
    return {place: error.item for place, error in found.items()}


def warm(function: Any, **options: Any) -> Any:
    """The function with two workers that have started, and a deadline that is long enough for what is short."""
    f = parallel(function, **{"workers": 2, **options})
    f.options(deadline=None).map([0] * 4, chunksize=1)
    return f if "deadline" in options else f.options(deadline=LIMIT)


def call(method: Any, *args: Any, **options: Any) -> list[Any]:
    """All results, whatever the method."""
    called = method(*args, **options)
    return called.result(60) if isinstance(called, Future) else list(called)


@pytest.mark.parametrize("method", ["map", "imap", "map_async"])
def test_it_ends_the_call(processes: dict[str, Any], method: str):
    """By an error that says which limit it was; the workers that hang are stopped, and the pool serves others."""
    f = warm(hang.hang_if_negative, **processes)

    with pytest.raises(TaskTimeoutError, match=PASSED) as caught:
        call(getattr(f, method), [-1, 1, 2, -1, 3])
    assert (caught.value.timeout, caught.value.item) == (LIMIT, None)
    assert f.options(deadline=60).map(range(10)) == list(range(10))


class _SlowToPack:
    def __reduce__(self) -> Any:
        time.sleep(LIMIT)
        return _SlowToPack, ()


def test_it_counts_from_the_call():
    """What the function captures may take long to be packed: that is part of the call."""
    captured = _SlowToPack()
    f = parallel(lambda item: (item, captured)[0], workers=1, deadline=LIMIT)

    with pytest.raises(TaskTimeoutError, match=PASSED):
        f.map([1])


@pytest.mark.parametrize("make", [list, iter], ids=["list", "iterator"])
@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered", "map_async"])
def test_what_has_ended_has_its_result(method: str, make: Any):
    """With errors as results, each item that has none when the time is over is an error, and knows its number."""
    f = warm(hang.hang_if_negative)
    items = [0, 1, *[-1] * 4, 6, 7]
    results = call(getattr(f, method), make(items), return_exceptions=True, chunksize=1)

    if method != "imap_unordered":
        assert results[:2] == [0, 1]
        assert _late(results) == {place: place for place in range(2, 8)}
    assert sorted(result for result in results if isinstance(result, int)) == [0, 1]
    assert {*_late(results).values()} == {*range(2, 8)}


@pytest.mark.parametrize("ordered", [True, False])
def test_outcomes_tell_what_is_to_be_run_again(ordered: bool):
    """All items have an outcome, those too that were never begun, or not even read."""
    f = warm(hang.hang_if_negative)
    items = [0, 1, *[-1] * 1998]
    outcomes = list(f.outcomes(iter(items), ordered=ordered, buffersize=20, chunksize=1))
    outcomes.sort(key=lambda outcome: outcome.index)

    assert [outcome.item for outcome in outcomes] == items
    assert [outcome.item for outcome in outcomes if outcome.ok] == [0, 1]
    assert all(isinstance(outcome.error, TaskTimeoutError) for outcome in outcomes[2:])
    assert sorted(outcome.attempts for outcome in outcomes) == [0] * 1996 + [1] * 4  # of those that hang, two had begun


@pytest.mark.parametrize("backend", ["threads", "serial"])
def test_where_nothing_can_be_stopped(backend: Any):
    """What runs goes on, but nothing else begins, and on threads nobody waits for it."""
    begun: list[int] = []
    free = threading.Event()

    def wait(n: int) -> int:
        begun.append(n)
        if n:
            free.wait(LIMIT + 0.1 if backend == "serial" else 60)
        return n

    try:
        f = parallel(wait, backend=backend, workers=2, deadline=LIMIT, chunksize=1)
        results = f.map([0, 1, 2, 3, 4], return_exceptions=True)
    finally:
        free.set()

    ran = 2 if backend == "serial" else 1  # there, what was begun has ended before anybody looks
    assert results[:ran] == list(range(ran))
    assert list(_late(results)) == list(range(ran, 5))
    assert sorted(begun) == ([0, 1] if backend == "serial" else [0, 1, 2])


@pytest.mark.parametrize("backend", ["processes", "threads"])
def test_a_batch_of_a_pool(backend: Any):
    """Its `get` raises the error, and its callback hears of it."""
    told: list[BaseException] = []
    with Pool(2, backend=backend, deadline=LIMIT) as pool:
        pool.apply(abs, (1,))  # a busy machine may need as long for a worker's start
        result = pool.map_async(time.sleep, [0, LIMIT + 1], error_callback=told.append)
        with pytest.raises(TaskTimeoutError) as caught:
            result.get(60)

    assert told == [caught.value]
    assert caught.value.item == 1


@pytest.mark.parametrize("chunksize", [None, 100])
@pytest.mark.parametrize("method", ["map", "imap", "map_async"])
def test_in_ones_own_thread_nothing_begins_after_it(method: str, chunksize: int | None):
    """Nor does the rest of a chunk whose items were expected to be short."""
    begun: list[int] = []

    def last_past_it(late: int) -> None:
        begun.append(late)
        if late:
            threading.Event().wait(LIMIT + 0.1)

    f = parallel(last_past_it, backend="serial", workers=2, deadline=LIMIT)
    with pytest.raises(TaskTimeoutError, match=PASSED):
        call(getattr(f, method), [0] * 40 + [1] * 8, chunksize=chunksize)
    assert begun == [0] * 40 + [1]


def test_a_call_that_is_in_time(backend: dict[str, Any]):
    """Nothing happens to it, nor to what is called later."""
    f = parallel(tasks.square, **backend)
    expected = [number**2 for number in range(100)]
    f.map(range(100))
    begin = time.monotonic()

    assert f.options(deadline=LIMIT).map(range(100)) == expected
    while time.monotonic() < begin + LIMIT + 0.1:
        assert f.map(range(100)) == expected


@pytest.mark.parametrize("method", ["map", "imap", "map_async", "outcomes"])
def test_nothing_to_do_takes_no_time(backend: dict[str, Any], method: str):
    """A call without items does not sleep until the deadline."""
    results = getattr(parallel(tasks.square, **backend, deadline=3600.0), method)([])

    assert (results.result(timeout=60) if method == "map_async" else list(results)) == []


def test_one_task_has_none():
    """A task of `submit` is no batch: its limit is `timeout`. That is said, in the line that calls."""
    with override(deadline=0.001), pytest.warns(RuntimeWarning, match="a task of submit has no deadline") as told:
        assert parallel(tasks.square, workers=1).submit(3).result() == 9
    assert told[0].filename == __file__


def test_override_and_environment(monkeypatch: pytest.MonkeyPatch):
    """It may be given wherever other options are."""
    f = parallel(hang.hang_if_negative, workers=1)

    with override(deadline=LIMIT), pytest.raises(TaskTimeoutError, match=PASSED):
        f.map([-1])
    monkeypatch.setenv("PARMAP_DEADLINE", str(LIMIT))
    with pytest.raises(TaskTimeoutError, match=PASSED):
        f.map([-1])


@pytest.mark.parametrize(("value", "kind"), [(0, ValueError), (-1.0, ValueError), ("soon", TypeError)])
def test_wrong_values(value: Any, kind: type[Exception]):
    """What is no time is refused when decorating."""
    with pytest.raises(kind, match="deadline must be seconds, more than 0"):
        parallel(tasks.square, deadline=value)


def test_items_that_wait_for_another_attempt():
    """They have the error of the deadline, which tells of the attempts before; nobody waits for their turn."""
    f = warm(hang.fail_if_one, retries=3, retry_delay=600)
    good, late = f.outcomes([0, 1])

    assert good.value == 0
    assert isinstance(late.error, TaskTimeoutError)
    assert late.attempts == 1
    assert "attempt 1: LookupError" in "".join(late.error.__notes__)


def test_a_worker_that_dies_meanwhile():
    """Deaths before the deadline are told as such."""
    f = warm(hang.die_or_hang)
    results = f.map(["die", "hang", "hang"], return_exceptions=True, chunksize=1)

    assert [type(result) for result in results] == [WorkerDiedError, TaskTimeoutError, TaskTimeoutError]


def test_an_endless_input():
    """A stream over it ends by the error; or each further item is one, for as long as somebody takes them."""
    f = parallel(tasks.square, deadline=0.3, workers=2)

    with pytest.raises(TaskTimeoutError):
        for _ in f.imap(count()):
            pass
    for outcome in f.outcomes(count()):
        if not outcome.ok:
            break
    assert isinstance(outcome.error, TaskTimeoutError)


def test_an_input_that_comes_slowly():
    """What is read after the deadline is too late, and is not run."""
    passed = threading.Event()
    threading.Timer(LIMIT + 0.2, passed.set).start()

    def items() -> Iterator[int]:
        yield 1
        passed.wait()
        yield 2

    results = parallel(tasks.square, deadline=LIMIT, workers=2).map(items(), return_exceptions=True)

    assert list(_late(results)) in ([1], [0, 1])  # the first may be read together with the second


def test_on_an_event_loop():
    """Streams that are fed by `async for`, and futures that are awaited, end in time too."""
    f = parallel(hang.hang_if_negative, deadline=LIMIT, workers=2)

    async def items() -> AsyncIterator[int]:
        yield 1
        yield -1
        await asyncio.sleep(600)

    async def consume() -> None:
        with pytest.raises(TaskTimeoutError, match=PASSED):
            async for _ in f.imap(items()):
                pass
        with pytest.raises(TaskTimeoutError, match=PASSED):
            await f.map_async([-1])

    asyncio.run(consume())


def test_a_journal_takes_what_never_began_for_missing(tmp_path: Path):
    """The same call later runs what is missing, and what had begun."""
    file = str(tmp_path / "journal")
    held = tmp_path / "held"
    held.touch()

    def slow(n: int) -> int:
        if n and held.exists():
            hang.sleep()
        return n

    f = warm(slow, chunksize=1)
    first = list(f.outcomes(range(8), journal=file))
    held.unlink()

    assert [outcome.ok for outcome in first] == [True] + [False] * 7
    assert [outcome.attempts for outcome in first] == [1] * 3 + [0] * 5  # one for each worker hangs
    with closing(sqlite3.connect(file)) as kept:
        assert kept.execute("select count(*) from items").fetchone() == (3,)
    assert f.options(deadline=60).map(range(8), journal=file) == list(range(8))


def test_huge_batches():
    """What waits, however much it is, has its error soon."""
    f = parallel(hang.hang_if_negative, deadline=LIMIT, workers=2)
    results = f.map(range(-20_000, 0), return_exceptions=True)

    assert _late(results) == dict(enumerate(range(20_000)))


def test_in_a_script(script: Script):
    """Functions of the program itself; Ctrl-C and the end of the program find nothing of it."""
    done = script.run("""
        import time
        import parmap

        @parmap.parallel(workers=2, deadline=0.5)
        def slow(n):
            time.sleep(600 if n else 0)
            return n

        try:
            slow.map([0, 1, 2])
        except parmap.TaskTimeoutError as error:
            print(error)
        print(slow.options(deadline=600).map([0, 0]))
    """)

    told = "the deadline of the batch, 0.5 seconds, passed before all of it had ended (limit 0.5 s)"
    assert done.stdout.splitlines() == [told, "[0, 0]"], done.stderr


def test_what_ends_while_the_program_stands_still_is_in_time(script: Script):
    """A program that Ctrl-Z stops, and that goes on when the deadline has passed, has the results that lie there."""
    running = script.start("""
        import os, signal
        from parmap import parallel

        me = os.getpid()

        def stop(number):
            if number:
                os.kill(me, signal.SIGSTOP)
            return number

        f = parallel(stop, workers=2)
        f.map([0, 0])
        print(f.options(deadline=2).map([1], return_exceptions=True))
    """)
    let_stand(running.pid, seconds=2.5)

    assert running.communicate(timeout=60) == ("[1]\n", "")


def test_the_tasks_that_were_stopped_are_gone(tmp_path: Path):
    """Processes that they have started, too."""
    import psutil

    path = tmp_path / "pid"
    f = parallel(hang.start_a_child, deadline=2, workers=2)

    assert list(_late(f.map([str(path)], return_exceptions=True))) == [0]
    if path.exists():  # on a slow machine, it had no time to begin
        wait_until(lambda: not psutil.pid_exists(int(path.read_text())))


@pytest.mark.filterwarnings("ignore:seed= and deadline=")
@pytest.mark.parametrize("limit", [3e6, 1e10, 1e300])
@pytest.mark.parametrize("option", ["timeout", "deadline", "idle_timeout"])
def test_limits_beyond_those_of_the_system(backend: dict[str, Any], option: str, limit: float):
    """A limit may be longer than the system can sleep."""
    if option == "timeout" and backend["backend"] in {"threads", "serial"}:
        pytest.skip("refused")
    f = parallel(tasks.square, **backend, **{option: limit})

    assert f.map([1, 2]) == [1, 4]
    assert f.submit(3).result(timeout=limit) == 9
    assert list(f.imap([1, 2])) == [1, 4]
    f.shutdown()


@pytest.mark.parametrize("limit", [3e6, 1e10, 1e300])
def test_a_delay_beyond_that_of_the_system(processes: dict[str, Any], limit: float):
    """An item may have to wait longer for its next attempt than the system can sleep."""
    f = parallel(tasks.inverse, **processes, retries=1, retry_delay=limit)
    future = f.submit(0)

    assert f.map([1]) == [1.0]
    assert future.cancel()
