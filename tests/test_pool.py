"""`Pool`: what is documented of `multiprocessing.Pool`, run against the standard class and against parmap's."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.pool
import os
import pickle
import queue
import re
import threading
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import tasks
from inspection import second_thread_of_callbacks
from tasks_that_hold import Unread

import parmap
from conftest import children, wait_until
from parmap import PoolClosedError, SerializationError, WorkerDiedError
from parmap.backends import _threads
from parmap.backends._processes import launcher
from parmap.backends._processes.pool import Processes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    MakePool = Callable[..., Any]

# The standard pool forks, so that it leaves neither a server nor a tracker behind.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

STANDARD: dict[str, MakePool] = {
    "standard-processes": multiprocessing.get_context("fork").Pool,
    "standard-threads": multiprocessing.pool.ThreadPool,
}
OURS: dict[str, MakePool] = {
    "parmap-processes": parmap.Pool,
    "parmap-threads": partial(parmap.Pool, backend="threads"),
}
PROCESSES = ["standard-processes", "parmap-processes"]


def _maker(name: str) -> Iterator[MakePool]:
    pools = []

    def make(*args: Any, **options: Any) -> Any:
        pools.append({**STANDARD, **OURS}[name](*args, **options))
        return pools[-1]

    yield make
    while pools:
        pool = pools.pop()
        pool.terminate()
        pool.join()
        del pool
    gc.collect()  # the standard pool gives its pipes back only when it is collected


@pytest.fixture(params=[*STANDARD, *OURS])
def make_pool(request: pytest.FixtureRequest) -> Iterator[MakePool]:
    """The standard classes and parmap's, each in turn."""
    yield from _maker(request.param)


@pytest.fixture(params=PROCESSES)
def make_processes(request: pytest.FixtureRequest) -> Iterator[MakePool]:
    """The two classes that run processes."""
    yield from _maker(request.param)


@pytest.fixture(params=list(OURS))
def make_ours(request: pytest.FixtureRequest) -> Iterator[MakePool]:
    """Parmap's class, where it is meant to differ."""
    yield from _maker(request.param)


# --- calls ----------------------------------------------------------------------------------------------------------


def test_apply(make_pool: MakePool):
    """`apply` calls with positional and keyword arguments and returns the result."""
    assert make_pool(2).apply(tasks.add, (1,), {"b": 2}) == 3


def test_apply_raises(make_pool: MakePool):
    """`apply` raises what the task raised."""
    with pytest.raises(ValueError, match="seven"):
        make_pool(1).apply(tasks.fail, ("seven",))


def test_apply_async(make_pool: MakePool):
    """`apply_async` returns an `AsyncResult`."""
    result = make_pool(2).apply_async(tasks.square, (7,))

    assert isinstance(result, multiprocessing.pool.AsyncResult)
    assert result.get(timeout=30) == 49


def test_map(make_pool: MakePool):
    """`map` returns the results in order."""
    assert make_pool(2).map(tasks.square, range(20)) == [x * x for x in range(20)]


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_map_chunksize(make_pool: MakePool, chunksize: int):
    """`chunksize` changes no result."""
    assert make_pool(2).map(tasks.square, list(range(20)), chunksize=chunksize) == [x * x for x in range(20)]


def test_number_of_processes(make_pool: MakePool):
    """Programs that cut their input by the number of workers read it where the standard pool has it."""
    assert make_pool(2)._processes == 2


def test_map_nothing(make_pool: MakePool):
    """`map` over nothing is an empty list."""
    assert make_pool(1).map(tasks.square, []) == []


def test_map_generator(make_pool: MakePool):
    """`map` takes any iterable."""
    assert make_pool(2).map(tasks.square, (x for x in range(5))) == [0, 1, 4, 9, 16]


def test_map_not_iterable(make_pool: MakePool):
    """`map` over what can't be iterated is a TypeError."""
    with pytest.raises(TypeError):
        make_pool(1).map(tasks.square, 5)


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered"])
def test_asynchronous_input(make_pool: MakePool, method: str):
    """What can only be iterated by ``async for`` is a TypeError, too."""

    async def numbers() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="async_generator"):
        list(getattr(make_pool(1), method)(tasks.square, numbers()))


def test_map_raises(make_pool: MakePool):
    """`map` raises what a task raised."""
    with pytest.raises(ValueError, match="x"):
        make_pool(2).map(tasks.fail, ["x"])


def test_map_runs_all_items_in_spite_of_an_error(make_pool: MakePool, tmp_path: Any):
    """An error in one chunk neither stops nor kills the others: `map` raises it when they have run."""
    paths = [str(tmp_path / "missing" / "x"), *(str(tmp_path / str(i)) for i in range(20))]

    with pytest.raises(FileNotFoundError):
        make_pool(2).map(tasks.touch, paths, chunksize=1)
    assert len(list(tmp_path.iterdir())) == 20


def test_map_input_error(make_pool: MakePool, tmp_path: Any):
    """An error of the input is raised before any task has run."""

    def paths() -> Iterator[str]:
        yield str(tmp_path / "made")
        raise KeyError("input")

    with pytest.raises(KeyError, match="input"):
        make_pool(1).map(tasks.touch, paths())
    assert list(tmp_path.iterdir()) == []


def test_starmap(make_pool: MakePool):
    """`starmap` unpacks each item."""
    assert make_pool(2).starmap(pow, [(2, 3), (3, 2)]) == [8, 9]


def test_starmap_of_any_iterables(make_pool: MakePool):
    """The items of `starmap` are iterables of any kind."""
    assert make_pool(2).starmap(tasks.add, [[1, 2], (3,), range(5, 7)]) == [3, 13, 11]


@pytest.mark.parametrize("way", ["map", "imap", "imap_unordered", "map_async", "starmap"])
def test_a_second_iterable(way: str):
    """It would be the chunk size: what to call instead is told."""
    with parmap.Pool(1) as pool, pytest.raises(TypeError, match=r"pool\.starmap\(function, zip\(xs, ys\)\)"):
        getattr(pool, way)(pow, [1, 2], [3, 4])


def test_starmap_chunksize(make_pool: MakePool):
    """`starmap` takes a chunksize."""
    assert make_pool(2).starmap(pow, [(x, 2) for x in range(9)], 4) == [x * x for x in range(9)]


def test_map_async(make_pool: MakePool):
    """`map_async` returns an `AsyncResult` of the list."""
    assert make_pool(2).map_async(tasks.square, [1, 2, 3]).get(30) == [1, 4, 9]


def test_remote_traceback(make_processes: MakePool):
    """The traceback in the worker is the cause of the error."""
    with pytest.raises(ValueError, match="seven") as caught:
        make_processes(1).apply(tasks.fail, ("seven",))
    assert "in fail" in str(caught.value.__cause__)


def test_map_async_raises(make_pool: MakePool):
    """Its `get` raises what a task raised."""
    with pytest.raises(ValueError, match="1"):
        make_pool(1).map_async(tasks.fail, [1]).get(30)


def test_starmap_async(make_pool: MakePool):
    """`starmap_async` is both."""
    assert make_pool(2).starmap_async(pow, [(2, 3), (3, 2)]).get(30) == [8, 9]


def test_slow_item_runs_once(make_pool: MakePool, tmp_path: Any):
    """An item that is far slower than its neighbours runs once, and is waited for."""
    items = [(str(tmp_path / str(i)), 0.3 if i == 400 else 0.0) for i in range(1000)]
    make_pool(2).starmap(tasks.append_and_nap, items)

    assert [path.stat().st_size for path in tmp_path.iterdir()] == [1] * 1000


# --- streams --------------------------------------------------------------------------------------------------------


def test_imap(make_pool: MakePool):
    """`imap` yields the results in order."""
    assert list(make_pool(2).imap(tasks.square, range(50))) == [x * x for x in range(50)]


def test_imap_chunksize(make_pool: MakePool):
    """`imap` takes a chunksize."""
    assert list(make_pool(2).imap(tasks.square, range(50), chunksize=7)) == [x * x for x in range(50)]


def test_imap_unordered(make_pool: MakePool):
    """`imap_unordered` yields all results, in any order."""
    assert sorted(make_pool(2).imap_unordered(tasks.square, range(50))) == [x * x for x in range(50)]


def test_imap_unordered_order(make_pool: MakePool, tmp_path: Any):
    """`imap_unordered` does not wait for the first item to yield the second."""
    path = str(tmp_path / "go")
    results = make_pool(2).imap_unordered(tasks.wait_or_not, [path, ""])

    assert next(results) == ""
    tasks.touch(path)
    assert next(results) == path


def test_imap_unordered_one_worker(make_pool: MakePool):
    """With one worker, the order is that of the items."""
    assert list(make_pool(1).imap_unordered(tasks.square, range(50))) == [x * x for x in range(50)]


def test_imap_next(make_pool: MakePool):
    """The iterator has a method `next`, which ends as iterators do."""
    results = make_pool(1).imap(tasks.square, [3])

    assert iter(results) is results
    assert results.next(timeout=30) == 9
    with pytest.raises(StopIteration):
        results.next()


def test_imap_next_timeout(make_pool: MakePool, tmp_path: Any):
    """`next(timeout)` raises `multiprocessing.TimeoutError`, and the result can still be had later."""
    path = str(tmp_path / "go")
    results = make_pool(1).imap(tasks.wait_for, [path])

    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=0.01)
    tasks.touch(path)
    assert results.next(timeout=30) == path


def test_imap_error_in_turn(make_pool: MakePool):
    """The error of an item is raised in its turn; the others can be had."""
    results = make_pool(2).imap(tasks.inverse, [1, 0, 2])

    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert next(results) == 0.5


def test_imap_returned_exception(make_pool: MakePool):
    """An exception that a task returns is a result like any other."""
    error = next(make_pool(1).imap(tasks.identity, [ValueError("a value")]))

    assert isinstance(error, ValueError)


def test_map_returned_exception(make_pool: MakePool):
    """So it is in `map`."""
    assert isinstance(make_pool(1).map(tasks.identity, [ValueError("a value")])[0], ValueError)


@pytest.mark.parametrize("items", [range(300), None], ids=["sized", "generator"])
def test_imap_then_close(make_pool: MakePool, items: Any):
    """A pool that is closed goes on with what `imap` was given."""
    pool = make_pool(2)
    results = pool.imap(tasks.square, items or (x for x in range(300)))
    pool.close()

    assert list(results) == [x * x for x in range(300)]
    pool.join()


@pytest.mark.parametrize("generator", [False, True], ids=["sized", "generator"])
def test_imap_nobody_reads(make_pool: MakePool, tmp_path: Any, generator: bool):
    """What `imap` was given is run to the end by `close` and `join`, though nobody looks at the results."""
    pool = make_pool(2)
    paths = [str(tmp_path / str(i)) for i in range(100)]
    pool.imap_unordered(tasks.touch, (path for path in paths) if generator else paths)
    pool.close()
    pool.join()

    assert len(list(tmp_path.iterdir())) == 100


def test_imap_join_then_read(make_pool: MakePool):
    """Results can be read after the pool has ended."""
    pool = make_pool(2)
    results = pool.imap(tasks.square, (x for x in range(100)))
    pool.close()
    pool.join()

    assert list(results) == [x * x for x in range(100)]


@pytest.mark.parametrize("room", [1, 3, 100])
@pytest.mark.parametrize("way", ["imap", "imap_unordered"])
def test_imap_of_what_waits_for_results_to_be_taken(make_pool: MakePool, way: str, room: int):
    """A semaphore that is released for each result may hold up the input."""
    free = threading.Semaphore(room)

    def items() -> Iterator[int]:
        for number in range(300):
            free.acquire()
            yield number

    seen = []
    for result in getattr(make_pool(2), way)(tasks.square, items()):
        seen.append(result)
        free.release()

    assert sorted(seen) == [x * x for x in range(300)]


def test_imap_of_a_queue_that_results_fill(make_pool: MakePool):
    """What is found leads to more to do."""
    waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    waiting.put(3)
    seen = []
    for result in make_pool(2).imap_unordered(tasks.square, iter(waiting.get, None)):
        seen.append(result)
        waiting.put(result + 1 if result < 1000 else None)

    assert seen == [9, 100, 10201]


def test_imap_next_timeout_while_the_input_waits(make_pool: MakePool):
    """`next(timeout)` waits no longer, whatever the input does."""
    free = threading.Event()
    results = make_pool(1).imap(tasks.square, (free.wait(60) and 3 for _ in range(1)))
    try:
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(0.05)
    finally:
        free.set()

    assert results.next(60) == 9


# --- AsyncResult ----------------------------------------------------------------------------------------------------


def test_result_timeout(make_pool: MakePool, tmp_path: Any):
    """`get(timeout)` raises `multiprocessing.TimeoutError`; the result can still be had later."""
    path = str(tmp_path / "go")
    result = make_pool(1).apply_async(tasks.wait_for, (path,))

    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0.01)
    tasks.touch(path)
    assert result.get(timeout=30) == path


def test_result_not_ready(make_pool: MakePool, tmp_path: Any):
    """A result that is not there is not ready, and to ask whether it was successful is a ValueError."""
    path = str(tmp_path / "go")
    result = make_pool(1).apply_async(tasks.wait_for, (path,))

    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    result.wait(0.01)
    assert not result.ready()
    tasks.touch(path)
    result.wait()
    assert result.ready()


def test_result_successful(make_pool: MakePool):
    """`successful` tells whether the task raised."""
    pool = make_pool(1)
    good, bad = pool.apply_async(tasks.square, (1,)), pool.apply_async(tasks.fail, (1,))
    good.wait()
    bad.wait()

    assert good.successful()
    assert not bad.successful()


def test_result_of_map_waits_for_all(make_pool: MakePool, tmp_path: Any):
    """The result of `map_async` is not ready as long as a task runs, though another has failed."""
    path, failed = str(tmp_path / "go"), str(tmp_path / "failed")
    result = make_pool(2).map_async(tasks.fail_or_wait_for, [(failed, ""), ("", path)], chunksize=1)
    wait_until(lambda: os.path.exists(failed))

    assert not result.ready()
    tasks.touch(path)
    with pytest.raises(ValueError, match="failed"):
        result.get(30)


def test_result_of_map_tells_how_many_are_left(make_pool: MakePool, tmp_path: Any):
    """Programs that show how far `map_async` is read a private attribute of its result."""
    path, ready = str(tmp_path / "go"), str(tmp_path / "ready")
    tasks.touch(ready)
    result = make_pool(2).map_async(tasks.wait_for, [ready, path, ready], chunksize=1)

    wait_until(lambda: result._number_left == 1)
    tasks.touch(path)
    result.get(30)
    assert result._number_left == 0


# --- callbacks ------------------------------------------------------------------------------------------------------


def test_callback(make_pool: MakePool):
    """`callback` gets the result, and has run when the result is ready."""
    got: list[Any] = []
    make_pool(1).apply_async(tasks.square, (3,), callback=got.append).wait()

    assert got == [9]


def test_error_callback(make_pool: MakePool):
    """`error_callback` gets the exception; `callback` is not called."""
    got: list[Any] = []
    errors: list[Any] = []
    make_pool(1).apply_async(tasks.fail, ("no",), {}, got.append, errors.append).wait()

    assert got == []
    assert [type(error) for error in errors] == [ValueError]


@pytest.mark.parametrize("method", ["map_async", "starmap_async"])
def test_map_callback(make_pool: MakePool, method: str):
    """`callback` of a batch is called once, with the list."""
    got: list[Any] = []
    items = [(1,), (2,)] if method == "starmap_async" else [1, 2]
    getattr(make_pool(2), method)(tasks.square, items, callback=got.append).wait()

    assert got == [[1, 4]]


def test_map_error_callback(make_pool: MakePool):
    """`error_callback` of a batch is called once, however many items failed."""
    errors: list[Any] = []
    make_pool(2).map_async(tasks.fail, [1, 2, 3], error_callback=errors.append).wait()

    assert [type(error) for error in errors] == [ValueError]


def test_callbacks_run_in_one_other_thread(make_pool: MakePool):
    """Callbacks run in one thread, which is not that of the caller."""
    threads: set[int] = set()
    pool = make_pool(2)
    for x in range(30):
        pool.apply_async(tasks.square, (x,), callback=lambda _: threads.add(threading.get_ident()))
    pool.close()
    pool.join()

    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_join_waits_for_callbacks(make_pool: MakePool):
    """After `close` and `join` all callbacks have run, in the order in which the results came."""
    got: list[int] = []
    pool = make_pool(1)
    for x in range(50):
        pool.apply_async(tasks.identity, (x,), callback=got.append)
    pool.close()
    pool.join()

    assert got == list(range(50))


# --- the life of a pool ---------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Any], Any]] = {
    "apply": lambda pool: pool.apply(tasks.square, (1,)),
    "apply_async": lambda pool: pool.apply_async(tasks.square, (1,)),
    "map": lambda pool: pool.map(tasks.square, [1]),
    "map_async": lambda pool: pool.map_async(tasks.square, [1]),
    "imap": lambda pool: pool.imap(tasks.square, [1]),
    "imap_unordered": lambda pool: pool.imap_unordered(tasks.square, [1]),
    "starmap": lambda pool: pool.starmap(tasks.square, [(1,)]),
    "starmap_async": lambda pool: pool.starmap_async(tasks.square, [(1,)]),
    "with": lambda pool: pool.__enter__(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_closed(make_pool: MakePool, call: str, end: str):
    """A pool that was closed refuses everything with a ValueError."""
    pool = make_pool(1)
    getattr(pool, end)()

    with pytest.raises(ValueError, match="Pool not running"):
        CALLS[call](pool)


def test_close_finishes(make_pool: MakePool):
    """What was submitted before `close` is finished."""
    pool = make_pool(2)
    results = [pool.apply_async(tasks.square, (x,)) for x in range(20)]
    pool.close()
    pool.join()

    assert [result.get(0) for result in results] == [x * x for x in range(20)]


def test_state_that_programs_read(make_pool: MakePool):
    """Programs that make a new pool where theirs was closed look at a private attribute of it."""
    pool = make_pool(1)

    assert pool._state == multiprocessing.pool.RUN
    pool.close()
    assert pool._state == multiprocessing.pool.CLOSE


def test_join_open_pool(make_pool: MakePool):
    """`join` wants the pool to be closed first."""
    with pytest.raises(ValueError, match="still running"):
        make_pool(1).join()


def test_twice(make_pool: MakePool):
    """Closing, terminating and joining again does nothing."""
    pool = make_pool(1)
    for _ in range(2):
        pool.close()
        pool.terminate()
        pool.join()


def test_terminate_while_another_thread_joins(make_ours: MakePool):
    """`join` reads what `imap` was given; that another thread terminates the pool meanwhile is no error of its."""
    pool = make_ours(1)

    def items() -> Iterator[int]:
        yield from range(10_000)  # further than `imap` reads ahead
        terminates = threading.Thread(target=pool.terminate)
        terminates.start()
        terminates.join()

    results = pool.imap(tasks.identity, items())
    pool.close()
    pool.join()

    with pytest.raises(PoolClosedError):
        list(results)


def test_context_manager_terminates(make_processes: MakePool, tmp_path: Any):
    """Leaving the block does not wait for what runs: it is stopped."""
    begun = str(tmp_path / "begun")
    with make_processes(1) as pool:
        pool.apply_async(tasks.touch_and_wait_for, (begun, str(tmp_path / "never")))
        wait_until(lambda: os.path.exists(begun))
    pool.join()

    with pytest.raises(ValueError, match="not running"):
        pool.apply(tasks.square, (1,))


def test_terminate_what_was_sent_directly(make_processes: MakePool, tmp_path: Any):
    """`terminate` stops a task of a function that the worker has run before."""
    pool = make_processes(1)
    begun = str(tmp_path / "begun")
    pool.apply(tasks.touch_and_wait_for, (str(tmp_path / "first"), str(tmp_path)))
    pool.apply_async(tasks.touch_and_wait_for, (begun, str(tmp_path / "never")))
    wait_until(lambda: os.path.exists(begun))

    pool.terminate()
    pool.join()


def test_context_manager_yields_the_pool(make_pool: MakePool):
    """`with` gives the pool itself."""
    pool = make_pool(1)
    with pool as entered:
        assert entered is pool


def test_initializer(make_pool: MakePool):
    """`initializer` runs in each worker, with `initargs`, before its first task."""
    pool = make_pool(1, tasks.remember, ("told",))

    assert pool.apply(tasks.remembered) == "told"


def test_initializer_that_takes_the_tasks(make_pool: MakePool, tmp_path: Path):
    """It begins with the pool, for it may be all that workers do, and they leave when it has ended."""
    begun, go = str(tmp_path / "begun"), str(tmp_path / "go")
    pool = make_pool(1, tasks.touch_and_wait_for, (begun, go))
    wait_until(lambda: os.path.exists(begun))
    pool.close()
    tasks.touch(go)
    pool.join()


def test_initargs_are_those_of_the_beginning():
    """What the program changes later is not what workers begin with, however soon it does."""
    held: dict[str, str] = {}

    def begin(given: dict[str, str]) -> None:
        os.environ["HELD"] = given["HELD"]

    for now in range(5):
        held["HELD"] = str(now)
        with parmap.Pool(1, begin, (held,)) as pool:
            held["HELD"] = "changed"
            assert pool.apply(os.getenv, ("HELD",)) == str(now)


def test_maxtasksperchild(make_processes: MakePool):
    """A worker is replaced after `maxtasksperchild` tasks."""
    pool = make_processes(1, None, (), 2)
    pids = [pool.apply(tasks.pid) for _ in range(6)]

    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] == pids[5]


def test_default_number_of_processes(make_pool: MakePool):
    """Without a number, there are as many workers as CPUs: more than none."""
    assert make_pool().map(tasks.square, [1, 2]) == [1, 4]


@pytest.mark.parametrize("processes", [0, -1])
def test_no_processes(make_pool: MakePool, processes: int):
    """There is at least one worker."""
    with pytest.raises(ValueError, match="at least 1"):
        make_pool(processes)


@pytest.mark.parametrize("limit", [0, -1, "two"])
def test_bad_maxtasksperchild(make_processes: MakePool, limit: Any):
    """`maxtasksperchild` is a positive int."""
    with pytest.raises(ValueError, match="maxtasksperchild must be a positive int or None"):
        make_processes(1, maxtasksperchild=limit)


def test_bad_initializer(make_pool: MakePool):
    """`initializer` must be callable."""
    with pytest.raises(TypeError, match="initializer must be a callable"):
        make_pool(1, initializer=5)


def test_pickling(make_pool: MakePool):
    """A pool can't be pickled."""
    with pytest.raises(NotImplementedError, match="cannot be passed between processes"):
        pickle.dumps(make_pool(1))


def test_unclosed():
    """A pool that is forgotten without being closed says so, when it is collected."""

    def forget() -> None:
        pool = parmap.Pool(1)
        pool.apply(tasks.square, (1,))

    with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031 - warned of by either
        forget()
        gc.collect()


def test_unclosed_without_workers(recwarn: pytest.WarningsRecorder):
    """A pool that has no workers says nothing: a task may have it, for it is in what its function refers to."""
    parmap.Pool(1, backend="serial").apply(tasks.square, (1,))
    gc.collect()

    assert [*recwarn] == []


@pytest.mark.parametrize("backend", ["processes", "threads", "serial"])
def test_unclosed_at_the_end(script: Any, backend: str):
    """A program may end with a pool that it never closed: nothing is said of it."""
    run = script.run(f"from parmap import Pool; pool = Pool(1, backend={backend!r}); print(pool.map(abs, [-1]))")

    assert (run.stdout, run.stderr) == ("[1]\n", "")


def test_result_keeps_the_pool(make_pool: MakePool):
    """A pool whose results are wanted is not collected."""
    result = make_pool(1).apply_async(tasks.square, (2,))
    gc.collect()

    assert result.get(30) == 4


# --- deliberate differences: see docs/explanation/differences.md ----------------------------------------------------


def test_dead_worker():
    """A worker that dies costs its own item; the standard pool waits for it for ever."""
    with parmap.Pool(2) as pool:
        dead = pool.apply_async(tasks.die, (3,))
        with pytest.raises(WorkerDiedError):
            dead.get(30)
        assert pool.map(tasks.square, [1, 2]) == [1, 4]


def test_lambdas_travel(make_ours: MakePool):
    """Functions that the standard pool can't pickle work."""
    assert make_ours(2).map(lambda x: x + 1, [1, 2]) == [2, 3]


def test_initializer_that_raises(make_ours: MakePool):
    """The error of an initializer is raised by the call; the standard pool starts workers for ever."""
    with pytest.raises(ValueError, match="told"):
        make_ours(1, tasks.fail, ("told",)).apply(tasks.square, (1,))


def test_initializer_that_raises_while_nobody_calls(make_ours: MakePool, caplog: pytest.LogCaptureFixture):
    """The log is told, for whoever waits for what the initializer would do."""
    pool = make_ours(2, tasks.fail, ("told",))
    wait_until(lambda: any(record.name == "parmap" for record in caplog.records))

    [record] = caplog.records
    assert "the workers can't start" in record.getMessage()
    assert record.exc_info
    assert isinstance(record.exc_info[1], ValueError)
    with pytest.raises(ValueError, match="told"):
        pool.map(tasks.square, [1])


def test_terminate_while_threads_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`terminate` does not wait for threads whose initializer may never end."""
    monkeypatch.setattr(_threads, "_GRACE", 1000.0)
    begun, go = str(tmp_path / "begun"), str(tmp_path / "go")
    pool = parmap.Pool(1, tasks.touch_and_wait_for, (begun, go), backend="threads")
    wait_until(lambda: os.path.exists(begun))
    pool.terminate()
    pool.join()
    tasks.touch(go)


@pytest.mark.parametrize("leases", [True, False])
@pytest.mark.parametrize("hangs", ["initializer", "preload"])
def test_terminate_while_workers_start(hangs: str, leases: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`terminate` does not wait for workers whose start may never end, and leaves none of their processes behind.

    Nor where callers give no tasks to workers themselves, as on macOS.
    """
    monkeypatch.setattr(launcher, "GRACE", 0.1)
    monkeypatch.setattr(Processes, "leases", leases and Processes.leases)
    monkeypatch.syspath_prepend(tmp_path)
    begun = tmp_path / "begun"
    (tmp_path / "endless.py").write_text(
        f"import tasks\ntasks.touch_and_wait_for({str(begun)!r}, {str(tmp_path / 'never')!r})"
    )
    before = children()
    options: Any = (
        {"initializer": partial(__import__, "endless")} if hangs == "initializer" else {"preload": ["endless"]}
    )
    pool = parmap.Pool(1, **options)
    result = pool.apply_async(tasks.square, (1,))
    wait_until(begun.exists)
    pool.terminate()
    pool.join()

    with pytest.raises(PoolClosedError):
        result.get(30)
    wait_until(lambda: not {*children()} - {*before})


def test_terminated_results(make_ours: MakePool, tmp_path: Any):
    """A result whose pool was terminated raises; in the standard pool it is waited for for ever."""
    pool = make_ours(1)
    begun, path = str(tmp_path / "begun"), str(tmp_path / "go")
    running = pool.apply_async(tasks.touch_and_wait_for, (begun, path))
    waiting = pool.apply_async(tasks.square, (1,))
    wait_until(lambda: os.path.exists(begun))
    pool.terminate()
    tasks.touch(path)

    for result in (running, waiting):
        with pytest.raises(PoolClosedError):
            result.get(30)


def test_terminated_results_tell_their_callbacks(make_ours: MakePool, tmp_path: Any):
    """Their error_callback is called."""
    errors: list[Any] = []
    pool = make_ours(1)
    path = str(tmp_path / "go")
    pool.apply_async(tasks.wait_for, (path,), error_callback=errors.append)
    pool.terminate()
    tasks.touch(path)
    pool.join()

    assert [type(error) for error in errors] == [PoolClosedError]


def test_unsendable_function():
    """A function that can't travel is an error of the result."""
    with parmap.Pool(1) as pool:
        result = pool.apply_async(partial(tasks.identity, threading.Lock()))

        with pytest.raises(SerializationError):
            result.get(30)


def test_bounded_imap(make_ours: MakePool):
    """An endless generator is read only as far as results are taken; the standard pool reads it without end."""
    read = []

    def endless() -> Iterator[int]:
        while True:
            read.append(1)
            yield len(read)

    results = make_ours(1).imap(tasks.square, endless(), chunksize=1)

    assert [next(results) for _ in range(3)] == [1, 4, 9]
    assert len(read) < 1000


@pytest.mark.parametrize("end", ["terminate", "close the stream", "drop the pool"])
def test_nobody_reads_on_for_a_pool_that_has_ended(make_ours: MakePool, end: str):
    """The thread that reads the input ends with the pool, or with the stream."""
    pool = parmap.Pool(1) if end == "drop the pool" else make_ours(1)
    results = pool.imap(tasks.square, count())
    assert [next(results) for _ in range(3)] == [0, 1, 4]

    if end == "terminate":
        pool.terminate()
    elif end == "close the stream":
        results.close()
    else:
        del pool, results
        with pytest.warns(ResourceWarning, match="unclosed"):
            gc.collect()

    wait_until(lambda: not any(thread.name == "parmap-input" for thread in threading.enumerate()))


def test_imap_input_error_in_a_chunk(make_ours: MakePool):
    """The error of an input comes behind all items that were read before it, though they share its chunk."""

    def items() -> Iterator[int]:
        yield from range(7)
        raise ValueError("of the input")

    results = make_ours(2).imap(tasks.square, items(), 4)

    assert [next(results) for _ in range(7)] == [0, 1, 4, 9, 16, 25, 36]
    with pytest.raises(ValueError, match="of the input"):
        next(results)


def test_lowest_error_is_raised(make_ours: MakePool):
    """Of several errors, `map` raises that of the first item; the standard pool that which came first."""
    for _ in range(5):
        with pytest.raises(ValueError, match=r"(?m)^1$"):
            make_ours(2).map(tasks.fail, [1, 2, 3, 4], chunksize=1)


@pytest.mark.parametrize("unread", [0, 2])
def test_lowest_error_may_be_a_result_that_cannot_be_unpickled(unread: int):
    """Then that is raised, though the program finds out last."""

    def task(x: int) -> Any:
        return Unread() if x == unread else tasks.fail(x)

    expected = pytest.raises(ValueError, match=r"(?m)^0$") if unread else pytest.raises(SerializationError)
    with parmap.Pool(2) as pool, expected:
        pool.map(task, range(3), chunksize=1)


@pytest.mark.parametrize("limit", [None, 60])
def test_callback_that_waits_for_another(make_ours: MakePool, limit: float | None):
    """A callback uses a pool whose results have callbacks, too, and waits for one."""
    pool, other = make_ours(1), make_ours(1)
    seen: list[int] = []

    def ask(result: int) -> None:
        seen.append(result)
        other.apply_async(tasks.square, (result,), callback=seen.append).wait(limit)
        seen.append(0)

    pool.apply_async(tasks.square, (2,), callback=ask).get(60)

    assert seen == [4, 16, 0]


def test_callback_that_waits_beside_a_second_thread(make_ours: MakePool):
    """It hears of the other even if two threads for callbacks were started at the same time."""
    pool, other = make_ours(1), make_ours(1)

    def ask(result: int) -> None:
        other.apply_async(tasks.square, (result,), callback=str).wait()

    with second_thread_of_callbacks():
        for _ in range(20):
            assert pool.apply_async(tasks.square, (2,), callback=ask).get(30) == 4


def test_callback_that_waits_in_vain(make_ours: MakePool, tmp_path: Any):
    """It waits no longer than it wants to."""
    pool, other = make_ours(1), make_ours(1)
    path, seen = str(tmp_path / "go"), list[bool]()

    def ask(_: int) -> None:
        result = other.apply_async(tasks.wait_for, (path,), callback=seen.append)
        result.wait(0.01)
        seen.append(result.ready())
        tasks.touch(path)
        result.wait()

    pool.apply_async(tasks.square, (2,), callback=ask).get(60)

    assert seen == [False, path]


def test_callback_that_raises(make_ours: MakePool, caplog: pytest.LogCaptureFixture):
    """A callback that raises is told to the log; the standard pool never gives another result."""
    pool = make_ours(1)
    pool.apply_async(tasks.square, (1,), callback=tasks.fail).wait()

    assert pool.apply(tasks.square, (2,)) == 4
    wait_until(lambda: "exception calling callback" in caplog.text)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_context(method: str):
    """A context gives its start method; nobody is forked."""
    with parmap.Pool(1, context=multiprocessing.get_context(method)) as pool:
        assert pool.apply(tasks.square, (3,)) == 9


def test_bad_context():
    """What is no context is refused."""
    with pytest.raises(TypeError, match="get_context"):
        parmap.Pool(1, context="spawn")


def test_options_of_parallel():
    """A pool takes options of `parallel` too."""
    with parmap.Pool(1, timeout=0.2) as pool, pytest.raises(parmap.TaskTimeoutError):
        pool.apply(tasks.nap, (60,))


def test_own_workers():
    """Two pools share no workers."""
    with parmap.Pool(1) as one, parmap.Pool(1) as other:
        assert one.apply(tasks.pid) != other.apply(tasks.pid)


def test_serial():
    """With `backend="serial"`, tasks run in the caller, and the initializer once."""
    with parmap.Pool(2, tasks.remember, ("here",), backend="serial") as pool:
        assert pool.apply(tasks.pid) == os.getpid()
        assert pool.map_async(tasks.square, [1, 2], callback=lambda _: None).get(30) == [1, 4]
        assert list(pool.imap(tasks.square, [1, 2])) == [1, 4]
        assert pool.apply(tasks.remembered) == "here"


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("taken", [0, 1])
def test_serially_imap_runs_though_nobody_reads(method: str, taken: int):
    """`join` runs what is left, as everywhere; and as in a task that has a pool of its own."""
    run: list[int] = []
    pool = parmap.Pool(2, backend="serial")
    results = getattr(pool, method)(run.append, (number for number in range(300)))
    for _ in range(taken):
        next(results)
    getattr(pool, method)(run.append, [300])
    pool.close()
    pool.join()

    assert sorted(run) == list(range(301))
    assert [None] * (300 - taken) == list(results)


def test_in_a_worker():
    """A pool inside a worker runs serially there."""
    with parmap.Pool(1) as pool:
        assert pool.apply(tasks.pool_in_a_pool) == [1, 4, 9]


def test_lock_as_initarg():
    """A lock that only children of the program could have, in the way it is, is refused, and says so."""
    pool = parmap.Pool(1, tasks.identity, (multiprocessing.get_context("fork").Lock(),))

    with pool, pytest.raises(SerializationError, match="fork context"):
        pool.apply(tasks.square, (1,))


def test_is_no_standard_pool(make_ours: MakePool):
    """It is not an instance of the standard class; its results are."""
    pool = make_ours(1)

    assert not isinstance(pool, multiprocessing.pool.Pool)
    assert isinstance(pool.map_async(tasks.square, [1]), multiprocessing.pool.AsyncResult)


def test_not_closed_at_exit(script: Any):
    """A program that forgets its pool ends, at once, without finishing what it submitted."""
    run = script.run("""
        import time
        import parmap
        pool = parmap.Pool(1)
        pool.apply_async(time.sleep, (600,))
        print("end")
    """)

    assert run.stdout == "end\n"
    assert run.returncode == 0


# --- the examples of the standard library's documentation ------------------------------------------------------------

INTRODUCTION = """
from multiprocessing import Pool

def f(x):
    return x*x

if __name__ == '__main__':
    with Pool(5) as p:
        print(p.map(f, [1, 2, 3]))
"""

WORKERS = """
from multiprocessing import Pool, TimeoutError
import time
import os

def f(x):
    return x*x

if __name__ == '__main__':
    # start 4 worker processes
    with Pool(processes=4) as pool:

        # print "[0, 1, 4,..., 81]"
        print(pool.map(f, range(10)))

        # print same numbers in arbitrary order
        for i in pool.imap_unordered(f, range(10)):
            print(i)

        # evaluate "f(20)" asynchronously
        res = pool.apply_async(f, (20,))      # runs in *only* one process
        print(res.get(timeout=1))             # prints "400"

        # evaluate "os.getpid()" asynchronously
        res = pool.apply_async(os.getpid, ()) # runs in *only* one process
        print(res.get(timeout=1))             # prints the PID of that process

        # launching multiple evaluations asynchronously *may* use more processes
        multiple_results = [pool.apply_async(os.getpid, ()) for i in range(4)]
        print([res.get(timeout=1) for res in multiple_results])

        # make a single worker sleep for 10 seconds
        res = pool.apply_async(time.sleep, (10,))
        try:
            print(res.get(timeout=1))
        except TimeoutError:
            print("We lacked patience and got a multiprocessing.TimeoutError")

        print("For the moment, the pool remains available for more work")

    # exiting the 'with'-block has stopped the pool
    print("Now the pool is closed and no longer available")
"""

REFERENCE = """
from multiprocessing import Pool
import time

def f(x):
    return x*x

if __name__ == '__main__':
    with Pool(processes=4) as pool:         # start 4 worker processes
        result = pool.apply_async(f, (10,)) # evaluate "f(10)" asynchronously in a single process
        print(result.get(timeout=1))        # prints "100" unless your computer is *very* slow

        print(pool.map(f, range(10)))       # prints "[0, 1, 4,..., 81]"

        it = pool.imap(f, range(10))
        print(next(it))                     # prints "0"
        print(next(it))                     # prints "1"
        print(it.next(timeout=1))           # prints "4" unless your computer is *very* slow

        result = pool.apply_async(time.sleep, (10,))
        print(result.get(timeout=1))        # raises multiprocessing.TimeoutError
"""


def _run(script: Any, program: str, *, ours: bool) -> Any:
    """Run a program as it is documented, or with the import replaced; a result may take long on a busy machine."""
    lines = program.splitlines()
    patient = [
        line.replace("timeout=1)", "timeout=30)") if re.search("# prints|for res in", line) else line for line in lines
    ]
    text = "\n".join(patient)
    if ours:
        text = text.replace(
            "from multiprocessing import Pool, TimeoutError",
            "from parmap import Pool\nfrom multiprocessing import TimeoutError",
        ).replace("from multiprocessing import Pool", "from parmap import Pool")
    return script.run(text)


def test_documented_introduction(script: Any):
    """The first example of the documentation runs unchanged but for the import."""
    outputs = [_run(script, INTRODUCTION, ours=ours).stdout for ours in (False, True)]

    assert outputs == ["[1, 4, 9]\n"] * 2


@pytest.mark.parametrize("ours", [False, True], ids=["standard", "parmap"])
def test_documented_workers(script: Any, ours: bool):
    """So does the one of a pool of workers."""
    run = _run(script, WORKERS, ours=ours)
    lines = run.stdout.splitlines()

    assert run.stderr == ""
    assert lines[0] == str([x * x for x in range(10)])
    assert sorted(map(int, lines[1:11])) == [x * x for x in range(10)]
    assert lines[11] == "400"
    assert lines[14:] == [
        "We lacked patience and got a multiprocessing.TimeoutError",
        "For the moment, the pool remains available for more work",
        "Now the pool is closed and no longer available",
    ]


@pytest.mark.parametrize("ours", [False, True], ids=["standard", "parmap"])
def test_documented_reference(script: Any, ours: bool):
    """And the one of the reference, which ends with an error on purpose."""
    run = _run(script, REFERENCE, ours=ours)

    assert run.stdout == f"100\n{[x * x for x in range(10)]}\n0\n1\n4\n"
    assert "multiprocessing.context.TimeoutError" in run.stderr
