"""`Executor`: what is documented of `ProcessPoolExecutor`, run against the standard class and against parmap's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import gc
import multiprocessing
import os
import pickle
import sys
import threading
from concurrent.futures import BrokenExecutor, CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import tasks

import parmap
from conftest import wait_until
from parmap import PoolClosedError, SerializationError, WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    Make = Callable[..., Any]

# The standard executor forks, so that it leaves neither a server nor a tracker behind.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

MAKERS: dict[str, Make] = {
    "standard": partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context("fork")),
    "parmap": parmap.Executor,
}


@pytest.fixture(params=list(MAKERS))
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """The standard class and parmap's, each in turn."""
    executors = []

    def make(*args: Any, **options: Any) -> Any:
        executors.append(MAKERS[request.param](*args, **options))
        return executors[-1]

    yield make
    while executors:
        executors.pop().shutdown(cancel_futures=True)
    gc.collect()


@pytest.fixture
def go(tmp_path: Any) -> Any:
    """A file that tasks wait for."""
    return tmp_path / "go"


def _block(executor: Any, folder: Any, go: Any) -> Any:
    """A task that runs until *go* is there."""
    begun = folder / "begun"
    future = executor.submit(tasks.touch_and_wait_for, str(begun), str(go))
    wait_until(begun.exists)
    return future


# --- submit ---------------------------------------------------------------------------------------------------------


def test_submit(make: Make):
    """`submit` returns a future of the result."""
    future = make(2).submit(tasks.add, 1, b=2)

    assert isinstance(future, concurrent.futures.Future)
    assert future.result(timeout=30) == 3


def test_submit_keywords_of_any_name(make: Make):
    """Keyword arguments of the task may have any name."""
    assert make(1).submit(dict, fn=1, self=2).result(30) == {"fn": 1, "self": 2}


def test_submit_raises(make: Make):
    """The future raises what the task raised."""
    future = make(1).submit(tasks.fail, "seven")

    with pytest.raises(ValueError, match="seven"):
        future.result(30)
    assert isinstance(future.exception(30), ValueError)


def test_result_timeout(make: Make, go: Any):
    """`result(timeout)` raises `TimeoutError`; the result can be had later."""
    future = make(1).submit(tasks.wait_for, str(go))

    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0.01)
    go.touch()
    assert future.result(30) == str(go)


def test_done_callback(make: Make):
    """`add_done_callback` calls with the future."""
    called: list[Any] = []
    future = make(1).submit(tasks.square, 3)
    future.add_done_callback(called.append)
    wait_until(lambda: called)

    assert called == [future]


def test_running(make: Make, tmp_path: Any, go: Any):
    """A future whose task runs says so."""
    future = _block(make(1), tmp_path, go)

    assert future.running()
    assert not future.done()
    go.touch()
    future.result(30)
    assert future.done()


def test_cancel_waiting(make: Make, tmp_path: Any, go: Any):
    """A task that waits can be cancelled."""
    executor = make(1)
    _block(executor, tmp_path, go)
    futures = [executor.submit(tasks.square, x) for x in range(10)]

    assert futures[-1].cancel()
    assert futures[-1].cancelled()
    go.touch()
    with pytest.raises(CancelledError):
        futures[-1].result(30)
    assert futures[0].result(30) == 0


def test_exception_of_success(make: Make):
    """`exception` of a task that returned is None."""
    assert make(1).submit(tasks.square, 3).exception(30) is None


def test_exception_timeout(make: Make, go: Any):
    """`exception(timeout)` raises `TimeoutError` as `result` does."""
    future = make(1).submit(tasks.wait_for, str(go))

    with pytest.raises(TimeoutError):
        future.exception(timeout=0.01)
    go.touch()


def test_cancelled_future(make: Make, tmp_path: Any, go: Any):
    """A future that was cancelled is done, is cancelled again, has no exception, and has told its callbacks."""
    executor = make(1)
    _block(executor, tmp_path, go)
    future = [executor.submit(tasks.square, x) for x in range(10)][-1]
    called: list[Any] = []
    future.add_done_callback(called.append)

    assert future.cancel()
    assert future.cancel()
    assert (future.cancelled(), future.done(), future.running()) == (True, True, False)
    with pytest.raises(CancelledError):
        future.exception(0)
    wait_until(lambda: called == [future])
    go.touch()


def test_cancel_finished(make: Make):
    """A task that has ended can't be cancelled."""
    future = make(1).submit(tasks.square, 3)
    future.result(30)

    assert not future.cancel()
    assert (future.cancelled(), future.done(), future.running()) == (False, True, False)


def test_done_callbacks_in_order(make: Make, go: Any, caplog: pytest.LogCaptureFixture):
    """Callbacks are called in the order in which they were added, in this process; one that raises stops no other."""
    caplog.set_level("CRITICAL", "concurrent.futures")  # what is logged would hold the standard executor
    called: list[Any] = []
    future = make(1).submit(tasks.wait_for, str(go))
    future.add_done_callback(lambda _: called.append(("first", os.getpid())))
    future.add_done_callback(lambda _: 1 // 0)
    future.add_done_callback(lambda _: called.append(("last", os.getpid())))
    go.touch()
    wait_until(lambda: len(called) == 2)

    assert called == [("first", os.getpid()), ("last", os.getpid())]


def test_done_callback_added_late(make: Make):
    """A callback that is added when the task has ended is called at once."""
    called: list[Any] = []
    future = make(1).submit(tasks.square, 3)
    future.result(30)
    future.add_done_callback(called.append)

    assert called == [future]


def test_remote_traceback(make: Make):
    """The traceback in the worker is the cause of the error."""
    error = make(1).submit(tasks.fail, "seven").exception(30)

    assert "in fail" in str(error.__cause__)


# --- map ------------------------------------------------------------------------------------------------------------


def test_map(make: Make):
    """`map` yields the results in order."""
    results = make(2).map(tasks.square, range(20))

    assert iter(results) is results
    assert list(results) == [x * x for x in range(20)]


def test_map_several_iterables(make: Make):
    """Several iterables are taken in step, until the shortest ends."""
    assert list(make(2).map(pow, count(1), [2, 3])) == [1, 8]


def test_map_asynchronous_input(make: Make):
    """What can only be iterated by ``async for`` is a TypeError."""

    async def numbers() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="async_generator"):
        make(1).map(tasks.square, numbers())


def test_map_no_iterable(make: Make):
    """Without iterables there is nothing to do."""
    assert list(make(1).map(tasks.square)) == []


@pytest.mark.parametrize("chunksize", [1, 4, 100])
def test_map_chunksize(make: Make, chunksize: int):
    """`chunksize` changes no result."""
    assert list(make(2).map(tasks.square, range(20), chunksize=chunksize)) == [x * x for x in range(20)]


def test_map_bad_chunksize(make: Make):
    """It is at least 1."""
    with pytest.raises(ValueError, match="chunksize must be"):
        make(1).map(tasks.square, [1], chunksize=0)


def test_map_reads_at_once(make: Make):
    """The input is read by the call, not by the iteration."""
    read = []
    make(1).map(tasks.square, (read.append(x) or x for x in range(100)))

    assert read == list(range(100))


def test_map_input_error(make: Make):
    """An error of the input is raised by the call."""
    with pytest.raises(ZeroDivisionError):
        make(1).map(tasks.square, (1 // x for x in (1, 0)))


def test_map_timeout(make: Make, go: Any):
    """`timeout` counts from the call of `map`."""
    results = make(1).map(tasks.wait_for, [str(go)], timeout=0.05)

    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    go.touch()


def test_map_error_in_turn(make: Make):
    """An error is raised in its turn, and ends the iteration."""
    results = make(2).map(tasks.inverse, [1, 0, 2])

    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_map_runs_though_nobody_reads(make: Make, tmp_path: Any):
    """What `map` was given is run, though nobody takes the results."""
    with make(2) as executor:
        executor.map(tasks.touch, [str(tmp_path / str(i)) for i in range(50)])

    assert len(list(tmp_path.iterdir())) == 50


def test_map_runs_what_is_read_slowly(make: Make, tmp_path: Any):
    """It reads all of its input, also that which takes its time, as a generator that prepares files."""

    def paths() -> Iterator[str]:
        for number in range(50):
            tasks.nap(0.005)
            yield str(tmp_path / str(number))

    with make(2) as executor:
        results = executor.map(tasks.touch, paths())

    assert len(list(tmp_path.iterdir())) == 50
    assert len(list(results)) == 50


def test_map_read_after_shutdown(make: Make):
    """Results can be taken after the executor has ended."""
    with make(2) as executor:
        results = executor.map(tasks.square, range(50))

    assert list(results) == [x * x for x in range(50)]


def test_map_left_early(make: Make, tmp_path: Any, go: Any):
    """Leaving the iteration cancels what waits, and lets what runs end."""
    done = tmp_path / "done"
    with make(1) as executor:
        columns = range(1000), [str(tmp_path / "begun")] * 1000, [str(go)] * 1000
        results = executor.map(tasks.first_then_wait, *columns, chunksize=1)
        next(results)
        wait_until((tmp_path / "begun").exists)
        results.close()
        executor.submit(tasks.square, 2).cancel()  # parmap's answers when what was asked before it is done
        go.touch()
    done.touch()

    assert len([path for path in tmp_path.iterdir() if path.name.startswith("begun.")]) in {1, 2, 3}


def test_map_left_early_with_chunks_of_its_own(tmp_path: Any, go: Any):
    """Leaving the iteration gives back what has not begun of a chunk, whatever its size."""
    columns = range(1000), [str(tmp_path / "begun")] * 1000, [str(go)] * 1000
    with parmap.Executor(1) as executor:
        results = executor.map(tasks.first_then_wait, *columns)
        next(results)
        wait_until((tmp_path / "begun").exists)
        results.close()
        (worker,) = executor._owned.engine.backend._workers.values()
        page = worker.page
        wait_until(lambda: page.position().length == 1 and page.limit(page.position().number) == 0)
        go.touch()

    assert len([path for path in tmp_path.iterdir() if path.name.startswith("begun.")]) in {1, 2, 3}


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_map_bad_buffersize(make: Make, size: Any, error: type[Exception]):
    """`buffersize` is a positive integer."""
    if sys.version_info < (3, 14) and not isinstance(make(1), parmap.Executor):
        pytest.skip("the standard class has it since 3.14")
    with pytest.raises(error, match="buffersize must be"):
        make(1).map(tasks.square, [1], buffersize=size)


def test_map_buffersize(make: Make):
    """With `buffersize`, the input is read only so far ahead of the results taken."""
    if sys.version_info < (3, 14) and not isinstance(make(1), parmap.Executor):
        pytest.skip("the standard class has it since 3.14")
    read: list[int] = []
    results = make(1).map(tasks.square, (read.append(x) or x for x in count()), buffersize=3)

    assert len(read) == 3
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(read) <= 9


# --- shutdown -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call", [lambda e: e.submit(tasks.square, 1), lambda e: e.map(tasks.square, [1])], ids=["submit", "map"]
)
def test_after_shutdown(make: Make, call: Callable[[Any], Any]):
    """After `shutdown`, `submit` and `map` raise RuntimeError."""
    executor = make(1)
    executor.shutdown()

    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        call(executor)


def test_a_map_of_nothing_after_shutdown(make: Make):
    """It asks for nothing, which is given."""
    executor = make(1)
    executor.shutdown()

    assert list(executor.map(tasks.square, [])) == list(executor.map(tasks.square)) == []


def test_shutdown_waits(make: Make):
    """`shutdown` returns when everything is done."""
    executor = make(2)
    futures = [executor.submit(tasks.nap, 0.01) for _ in range(20)]
    executor.shutdown()

    assert all(future.done() for future in futures)


def test_shutdown_without_wait(make: Make, go: Any):
    """`shutdown(wait=False)` returns at once; what was submitted is finished."""
    executor = make(1)
    future = executor.submit(tasks.wait_for, str(go))
    executor.shutdown(wait=False)

    assert not future.done()
    go.touch()
    assert future.result(30) == str(go)


def test_shutdown_twice(make: Make):
    """A second `shutdown` does nothing."""
    executor = make(1)
    executor.shutdown()
    executor.shutdown(wait=True)


def test_cancel_futures(make: Make, tmp_path: Any, go: Any):
    """`cancel_futures` cancels what has not begun; what runs is finished."""
    executor = make(1)
    running = _block(executor, tmp_path, go)
    futures = [executor.submit(tasks.square, x) for x in range(20)]
    executor.shutdown(wait=False, cancel_futures=True)
    wait_until(futures[-1].cancelled)
    go.touch()
    wait_until(lambda: all(future.done() for future in futures))

    assert running.result(30) == str(go)


def test_cancel_futures_and_wait(make: Make, tmp_path: Any, go: Any):
    """With both, `shutdown` returns when what ran has ended and the rest is cancelled."""
    executor = make(1)
    running = _block(executor, tmp_path, go)
    futures = [executor.submit(tasks.square, x) for x in range(20)]
    threading.Timer(0.05, go.touch).start()
    executor.shutdown(wait=True, cancel_futures=True)

    assert running.result(0) == str(go)
    assert all(future.done() for future in futures)
    assert futures[-1].cancelled()


def test_cancel_futures_of_a_map(make: Make, tmp_path: Any, go: Any):
    """Of a `map`, too, `cancel_futures` lets end what runs, whose result is there; only what has not begun is cancelled."""
    executor = make(1)
    results = executor.map(tasks.touch_and_wait_for, [str(tmp_path / str(n)) for n in range(20)], [str(go)] * 20)
    wait_until((tmp_path / "0").exists)
    executor.shutdown(wait=False, cancel_futures=True)
    threading.Timer(0.05, go.touch).start()

    assert next(results) == str(go)
    with pytest.raises(CancelledError):
        list(results)
    assert not (tmp_path / "19").exists()


@pytest.mark.parametrize("name", ["terminate_workers", "kill_workers"])
def test_stop_workers(make: Make, tmp_path: Any, name: str):
    """The workers are stopped at once: what runs is broken, what waits is cancelled, nothing more is taken."""
    executor = make(1)
    if not hasattr(executor, name):
        pytest.skip("the standard class has it since 3.14")
    running = _block(executor, tmp_path, tmp_path / "never")
    waiting = [executor.submit(tasks.square, x) for x in range(20)]
    getattr(executor, name)()

    with pytest.raises(BrokenProcessPool):
        running.result(30)
    with pytest.raises(CancelledError):
        waiting[-1].result(30)
    with pytest.raises(RuntimeError):
        executor.submit(tasks.square, 1)


@pytest.mark.parametrize("is_closed", [False, True])
def test_stop_workers_in_a_map(make: Make, tmp_path: Any, is_closed: bool):
    """They are stopped in what runs for `map` as well, whether its results are still wanted or not."""
    executor = make(1)
    if not hasattr(executor, "kill_workers"):
        pytest.skip("the standard class has it since 3.14")
    results = executor.map(tasks.append_and_nap, [str(tmp_path / "begun")], [3600.0])
    wait_until((tmp_path / "begun").exists)
    if is_closed:
        results.close()  # type: ignore[attr-defined] - a generator, there
    executor.kill_workers()
    executor.shutdown()  # which waits for them, as long as they live

    if not is_closed:
        with pytest.raises(BrokenProcessPool):
            next(results)


@pytest.mark.parametrize("name", ["terminate_workers", "kill_workers"])
def test_stop_no_workers(make: Make, name: str):
    """An executor that was not used, or was shut down, has none to stop."""
    for used in (False, True):
        executor = make(1)
        if not hasattr(executor, name):
            pytest.skip("the standard class has it since 3.14")
        if used:
            executor.submit(tasks.square, 1).result(30)
            executor.shutdown()
        getattr(executor, name)()
        getattr(executor, name)()


def test_context_manager(make: Make):
    """Leaving the block waits for everything."""
    with make(2) as executor:
        future = executor.submit(tasks.nap, 0.05)

    assert future.done()
    with pytest.raises(RuntimeError):
        executor.submit(tasks.square, 1)


def test_forgotten_executor(make: Make):
    """An executor that nobody holds finishes what it was given."""

    def forget() -> Any:
        return MAKERS["parmap"](1).submit(tasks.square, 5)

    future = forget()
    gc.collect()
    assert future.result(30) == 25


def test_pickling(make: Make):
    """An executor belongs to its process."""
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(make(1))


# --- arguments ------------------------------------------------------------------------------------------------------


def test_initializer(make: Make):
    """`initializer` runs in each worker, with `initargs`."""
    assert make(1, initializer=tasks.remember, initargs=("told",)).submit(tasks.remembered).result(30) == "told"


def test_positional_arguments(make: Make):
    """The arguments come in the standard order."""
    if isinstance(make(1), parmap.Executor):
        executor = make(1, multiprocessing.get_context("spawn"), tasks.remember, ("told",))

        assert executor.submit(tasks.remembered).result(30) == "told"


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers(make: Make, workers: int):
    """There is at least one worker."""
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        make(workers)


def test_bad_initializer(make: Make):
    """`initializer` must be callable."""
    with pytest.raises(TypeError, match="initializer must be a callable"):
        make(1, initializer=5)


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-1, ValueError), ("two", TypeError)])
def test_bad_max_tasks_per_child(limit: Any, error: type[Exception]):
    """`max_tasks_per_child` is a positive integer, to both classes."""
    for maker in (partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context("spawn")), parmap.Executor):
        with pytest.raises(error, match="max_tasks_per_child must be"):
            maker(1, max_tasks_per_child=limit)


def test_max_tasks_per_child():
    """A worker is replaced after so many tasks."""
    with parmap.Executor(1, max_tasks_per_child=2) as executor:
        pids = [executor.submit(tasks.pid).result(30) for _ in range(4)]

    assert pids[0] == pids[1] != pids[2] == pids[3]


# --- others that take futures and executors ---------------------------------------------------------------------------


def test_wait(make: Make, go: Any):
    """`concurrent.futures.wait` takes its futures."""
    executor = make(2)
    quick, slow = executor.submit(tasks.square, 2), executor.submit(tasks.wait_for, str(go))
    done, waiting = concurrent.futures.wait([quick, slow], return_when=concurrent.futures.FIRST_COMPLETED, timeout=30)

    assert (done, waiting) == ({quick}, {slow})
    go.touch()
    assert concurrent.futures.wait([quick, slow], timeout=30).not_done == set()


def test_wait_first_exception(make: Make, go: Any):
    """It returns at the first exception, when asked to."""
    executor = make(2)
    slow, bad = executor.submit(tasks.wait_for, str(go)), executor.submit(tasks.fail, 1)
    done, _ = concurrent.futures.wait([slow, bad], return_when=concurrent.futures.FIRST_EXCEPTION, timeout=30)

    assert done == {bad}
    go.touch()


def test_wait_timeout(make: Make, go: Any):
    """`wait` returns what is not done when the time is up."""
    future = make(1).submit(tasks.wait_for, str(go))
    done, not_done = concurrent.futures.wait([future, future], timeout=0.01)

    assert (done, not_done) == (set(), {future})
    go.touch()


def test_as_completed_timeout(make: Make, go: Any):
    """`as_completed` raises `TimeoutError` when the time is up."""
    future = make(1).submit(tasks.wait_for, str(go))

    with pytest.raises(TimeoutError):
        list(concurrent.futures.as_completed([future], timeout=0.01))
    go.touch()


def test_as_completed_of_what_has_ended(make: Make, go: Any):
    """It yields each future once, those that have ended first."""
    executor = make(2)
    ended = executor.submit(tasks.square, 2)
    ended.result(30)
    slow = executor.submit(tasks.wait_for, str(go))
    completed = concurrent.futures.as_completed([slow, ended, ended], timeout=30)

    assert next(completed) is ended
    go.touch()
    assert list(completed) == [slow]


def test_as_completed(make: Make, go: Any):
    """`as_completed` yields them as they end."""
    executor = make(2)
    slow, quick = executor.submit(tasks.wait_for, str(go)), executor.submit(tasks.square, 2)
    ended = concurrent.futures.as_completed([slow, quick], timeout=30)

    assert next(ended) is quick
    go.touch()
    assert next(ended) is slow


def test_wrap_future(make: Make):
    """`asyncio.wrap_future` makes them awaitable."""
    executor = make(1)

    async def main() -> int:
        return await asyncio.wrap_future(executor.submit(tasks.square, 6))

    assert asyncio.run(main()) == 36


def test_run_in_executor(make: Make):
    """`loop.run_in_executor` takes the executor."""
    executor = make(2)

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, tasks.square, x) for x in range(5)))

    assert asyncio.run(main()) == [0, 1, 4, 9, 16]


def test_is_an_executor(make: Make):
    """`isinstance` finds an executor."""
    assert isinstance(make(1), concurrent.futures.Executor)


# --- deaths ---------------------------------------------------------------------------------------------------------


def test_schedulers_of_dask(make: Make):
    """Dask asks an executor how many workers it has, to give it as much to do."""
    scheduler = pytest.importorskip("dask.multiprocessing")
    graph = {"a": (tasks.square, 3), "b": (tasks.add, "a", 1)}

    assert scheduler.get(graph, "b", pool=make(2)) == 10


def test_dead_worker(make: Make):
    """The future of a task whose worker died raises `BrokenProcessPool`."""
    future = make(1).submit(tasks.die, 3)

    with pytest.raises(BrokenProcessPool):
        future.result(30)


# --- deliberate differences: see docs/explanation/differences.md ----------------------------------------------------


def test_dead_worker_breaks_one_future(go: Any):
    """Other futures, and the executor, are not concerned; the standard executor is broken for good."""
    with parmap.Executor(2) as executor:
        other = executor.submit(tasks.wait_for, str(go))
        dead = executor.submit(tasks.die, tasks.KILL)
        error = dead.exception(30)
        go.touch()

        assert isinstance(error, WorkerDiedError)
        assert isinstance(error, BrokenExecutor)
        assert other.result(30) == str(go)
        assert executor.submit(tasks.square, 3).result(30) == 9


def test_dead_worker_in_map():
    """In `map`, the item whose worker died raises in its turn."""
    with parmap.Executor(2) as executor:
        results = executor.map(tasks.die, ["a", 3, "b"], chunksize=1)

        assert next(results) == "a"
        with pytest.raises(BrokenProcessPool):
            next(results)


def test_cancel_running(tmp_path: Any, go: Any):
    """A task that runs can be cancelled: its worker is killed, no other task notices."""
    with parmap.Executor(1) as executor:
        future = _block(executor, tmp_path, go)

        assert future.cancel()
        assert executor.submit(tasks.square, 3).result(30) == 9


def test_copy():
    """A copy of an executor is that executor: when the copy is forgotten, it goes on."""
    with parmap.Executor(1) as executor:
        copied = copy.copy(executor)
        assert copied.submit(tasks.square, 4).result(30) == 16

        del copied
        gc.collect()
        assert executor.submit(tasks.square, 5).result(30) == 25


def test_end_of_a_future_that_is_set(go: Any):
    """The end of a parmap future comes from its task; who sets it is told, and nothing else happens."""
    with parmap.Executor(1) as executor:
        future = executor.submit(tasks.wait_for, str(go))
        for end in (lambda: future.set_result(1), lambda: future.set_exception(ValueError("set"))):
            with pytest.raises(concurrent.futures.InvalidStateError, match="wait_for"):
                end()
        go.touch()

        assert future.result(30) == str(go)
        with pytest.raises(concurrent.futures.InvalidStateError, match="finished"):
            future.set_result(1)


def test_lambdas_travel():
    """Functions that the standard executor can't pickle work."""
    with parmap.Executor(2) as executor:
        assert list(executor.map(lambda x: x + 1, [1, 2])) == [2, 3]


def test_initializer_that_raises():
    """The error of an initializer is raised by the task, and not hidden in a log."""
    executor = parmap.Executor(1, initializer=tasks.fail, initargs=("told",))

    with executor, pytest.raises(ValueError, match="told"):
        executor.submit(tasks.square, 1).result(30)


def test_unsendable_function():
    """A function that can't travel is the task's own error."""
    import threading

    with parmap.Executor(1) as executor:
        future = executor.submit(partial(tasks.identity, threading.Lock()))

        assert isinstance(future.exception(30), SerializationError)


def test_error_after_shutdown_is_parmap_s():
    """What is raised after `shutdown` is a parmap error too."""
    executor = parmap.Executor(1)
    executor.shutdown()

    with pytest.raises(PoolClosedError):
        executor.submit(tasks.square, 1)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_context(method: str):
    """A context gives its start method; nobody is forked."""
    with parmap.Executor(1, multiprocessing.get_context(method)) as executor:
        assert executor.submit(tasks.pid).result(30) != os.getpid()


def test_bad_context():
    """What is no context is refused."""
    with pytest.raises(TypeError, match="get_context"):
        parmap.Executor(1, mp_context="spawn")


def test_max_tasks_per_child_of_a_fork():
    """The context "fork" is "forkserver", so it goes together with `max_tasks_per_child`; the standard class refuses."""
    with parmap.Executor(1, multiprocessing.get_context("fork"), max_tasks_per_child=1) as executor:
        pids = [executor.submit(tasks.pid).result(30) for _ in range(2)]

    assert pids[0] != pids[1]


def test_in_a_worker():
    """An executor inside a worker runs serially there."""
    with parmap.Executor(1) as executor:
        assert executor.submit(tasks.executor_in_an_executor).result(30) == [1, 4, 9]


@pytest.mark.parametrize("backend", ["threads", "serial"])
def test_other_backends(backend: str):
    """An executor runs on any backend."""
    with parmap.Executor(2, backend=backend) as executor:
        assert executor.submit(tasks.pid).result(30) == os.getpid()
        assert list(executor.map(tasks.square, range(5))) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("items", [range(3000), iter(range(3000)), []], ids=["sized", "iterator", "nothing"])
def test_serially_map_runs_though_nobody_reads(items: Any):
    """As everywhere, and as in a task that has an executor of its own."""
    run: list[int] = []
    with parmap.Executor(2, backend="serial") as executor:
        results = executor.map(run.append, items)

    assert run == list(range(len(run)))
    assert [None] * len(run) == list(results)
    assert len(run) == (3000 if items != [] else 0)


def test_finished_at_exit(script: Any):
    """A program that ends finishes what it submitted, as it does with the standard executor."""
    for name in ("concurrent.futures", "parmap"):
        run = script.run(f"""
            import time
            import {name} as module

            def work(x):
                time.sleep(0.3)
                print("worked", x, flush=True)

            if __name__ == "__main__":
                executor = getattr(module, "Executor" if module.__name__ == "parmap" else "ProcessPoolExecutor")(1)
                executor.submit(work, 1)
                executor.submit(work, 2)
        """)

        assert run.stdout.splitlines() == ["worked 1", "worked 2"], run.stderr


# --- the example of the standard library's documentation ------------------------------------------------------------

PRIMES = """
import concurrent.futures
import math

PRIMES = [
    1122725353,
    1125827071,
    1122725353,
    1152800951,
    1157978509,
    1152800953]

def is_prime(n):
    if n < 2:
        return False
    if n == 2:
        return True
    if n % 2 == 0:
        return False

    sqrt_n = int(math.floor(math.sqrt(n)))
    for i in range(3, sqrt_n + 1, 2):
        if n % i == 0:
            return False
    return True

def main():
    with concurrent.futures.ProcessPoolExecutor() as executor:
        for number, prime in zip(PRIMES, executor.map(is_prime, PRIMES)):
            print('%d is prime: %s' % (number, prime))

if __name__ == '__main__':
    main()
"""


def test_documented_example(script: Any):
    """The example of the documentation runs unchanged but for the import; its numbers are smaller here."""
    ours = "import parmap\n" + PRIMES.replace("concurrent.futures.ProcessPoolExecutor", "parmap.Executor")
    outputs = [script.run(program).stdout for program in (PRIMES, ours)]

    assert outputs[0].count("is prime: True") == 5
    assert outputs[0] == outputs[1]
