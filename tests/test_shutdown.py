"""Ending pools by hand: what is finished, what is cancelled, and whose it is."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import inspection
import pytest
from tasks_that_hold import Gate

import parmap
from conftest import children, wait_until
from parmap import Executor, PoolClosedError, parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Script

ENDS: dict[str, Callable[[Any, Executor, bool, bool], None]] = {
    "function": lambda f, _, wait, cancel: f.shutdown(wait=wait, cancel_futures=cancel),
    "module": lambda _f, _e, wait, cancel: parmap.shutdown(wait=wait, cancel_futures=cancel),
    "executor": lambda _, e, wait, cancel: e.shutdown(wait=wait, cancel_futures=cancel),
}

BACKENDS: list[dict[str, Any]] = [{"backend": "processes"}, {"backend": "threads"}]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """What holds tasks up."""
    return Gate(tmp_path)


def submitter(kind: str, gate: Gate, options: dict[str, Any]) -> tuple[Any, Executor, Callable[[int], Any]]:
    """A function, an executor, and how to submit to that of them which is shut down."""
    function = parallel(gate, workers=1, **options)
    executor = Executor(1, **options)
    return function, executor, (lambda x: executor.submit(gate, x)) if kind == "executor" else function.submit


@pytest.mark.parametrize("options", BACKENDS, ids=lambda options: options["backend"])
@pytest.mark.parametrize("kind", ENDS)
def test_finish(kind: str, gate: Gate, options: dict[str, Any]) -> None:
    """What was submitted is finished; without waiting, in the background."""
    function, executor, submit = submitter(kind, gate, options)
    futures = [submit(x) for x in range(4)]
    wait_until(gate.begun.exists)

    ENDS[kind](function, executor, False, False)
    assert not any(future.done() for future in futures)
    gate.go.touch()
    ENDS[kind](function, executor, True, False)

    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [0, 1, 2, 3]


@pytest.mark.parametrize("options", BACKENDS, ids=lambda options: options["backend"])
@pytest.mark.parametrize("kind", ENDS)
def test_cancel_futures(kind: str, gate: Gate, options: dict[str, Any]) -> None:
    """What no worker has begun is cancelled; what runs is finished."""
    function, executor, submit = submitter(kind, gate, options)
    futures = [submit(x) for x in range(6)]
    wait_until(gate.begun.exists)

    ENDS[kind](function, executor, False, True)
    wait_until(lambda: sum(future.cancelled() for future in futures) >= 4)
    gate.go.touch()
    ENDS[kind](function, executor, True, False)

    assert futures[0].result() == 0
    assert futures[5].cancelled()
    assert wait(futures, timeout=20).not_done == set()


@pytest.mark.parametrize("options", BACKENDS, ids=lambda options: options["backend"])
def test_cancel_only_ones_own(gate: Gate, options: dict[str, Any]) -> None:
    """A function drops its own tasks; those of others in the same pool run, even of the same function below."""
    mine, same, other = (parallel(function, workers=1, **options) for function in (gate, gate, abs))
    first = mine.submit(0)
    wait_until(gate.begun.exists)
    own = [*(mine.submit(x) for x in range(4)), mine.map_async(range(4)), mine.partial(3).submit()]
    others = [
        *(same.submit(x) for x in range(4)),
        *(other.submit(-x) for x in range(4)),
        same.map_async(range(4)),
        other.map_async([-1, -2]),
        mine.options(retries=1).submit(7),
    ]
    stream = other.imap([-5, -6])

    mine.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: all(future.done() for future in own))
    gate.go.touch()

    assert all(future.cancelled() for future in own)
    assert first.result() == 0
    assert [future.result() for future in others] == [0, 1, 2, 3, 0, 1, 2, 3, [0, 1, 2, 3], [1, 2], 7]
    assert list(stream) == [5, 6]
    assert mine.submit(1).result() == 1


def test_cancel_the_methods_of_an_object(gate: Gate) -> None:
    """What was submitted by a method of any object belongs to the method."""

    class Thing:
        @parallel(workers=1, backend="threads")
        def run(self, number: int) -> int:
            return gate(number)

    first = Thing().run.submit(0)
    wait_until(gate.begun.exists)
    second = Thing().run.submit(1)
    third = Thing.run.submit(Thing(), 2)

    Thing.run.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: second.done() and third.done())
    gate.go.touch()

    assert first.result() == 0
    assert second.cancelled()
    assert third.cancelled()


def test_cancel_what_waits_for_a_retry() -> None:
    """A task that waits for its next try is cancelled: nobody waits an hour for it."""
    tried = threading.Event()

    def fail() -> None:
        tried.set()
        raise ValueError

    function = parallel(fail, workers=1, backend="threads", retries=3, retry_delay=3600)
    future = function.submit()
    batch = function.options(retries=2).starmap_async([()])
    assert tried.wait(20)

    parmap.shutdown(cancel_futures=True)

    assert future.cancelled() or type(future.exception()) is ValueError  # it may just have failed
    assert batch.done()


@pytest.mark.parametrize("limit", [{"timeout": 1.0}, {"deadline": 6.0}], ids=str)
def test_limits_hold_for_what_is_left_to_run(limit: dict[str, float], gate: Gate) -> None:
    """A task that was running when its batch was cancelled has the time that it was given, and no more."""
    function = parallel(gate, workers=1, **limit)  # type: ignore[call-overload]
    batch = function.map_async([1, 2])
    wait_until(gate.begun.exists)

    function.shutdown(cancel_futures=True)

    assert batch.done()
    assert not gate.go.exists()


def test_shutdown_twice_and_before_use() -> None:
    """A shutdown of what was never used, or ended already, does nothing."""
    function = parallel(abs, workers=1)

    function.shutdown()
    function.shutdown(cancel_futures=True)
    parmap.shutdown(cancel_futures=True)

    assert function.map([-1]) == [1]


def test_the_shutdown_of_all_takes_no_function() -> None:
    """It would stop all pools, not that of the function."""
    function: Any = parallel(abs, workers=1)

    with pytest.raises(TypeError, match=r"f\.shutdown\(\)"):
        parmap.shutdown(function)


@pytest.mark.parametrize("options", BACKENDS, ids=lambda options: options["backend"])
def test_a_dropped_executor_finishes(gate: Gate, options: dict[str, Any]) -> None:
    """An executor that nobody holds any more finishes its work, then stops."""
    futures = [Executor(1, **options).submit(gate, x) for x in range(2)]
    executor = Executor(1, **options)
    more = [executor.submit(gate, x) for x in range(3)]
    del executor
    gc.collect()
    gate.go.touch()

    assert [future.result() for future in [*futures, *more]] == [0, 1, 0, 1, 2]
    wait_until(lambda: not inspection.engines() and not children())


@pytest.mark.parametrize("buffersize", [None, 2])
def test_iterators_of_a_dropped_executor(buffersize: int | None) -> None:
    """The iterator of an executor that nobody holds gives all results; then the executor stops."""
    results = Executor(2).map(abs, range(-50, 0), buffersize=buffersize)
    gc.collect()

    assert list(results) == list(range(50, 0, -1))
    del results
    gc.collect()
    wait_until(lambda: not inspection.engines() and not children())


def test_an_iterator_that_was_begun_and_dropped() -> None:
    """An executor and its iterator, both dropped in the middle, stop."""
    results = Executor(2).map(abs, range(-50, 0), buffersize=4)
    assert next(results) == 50
    del results
    gc.collect()

    wait_until(lambda: not inspection.engines() and not children())


def test_dropped_executors_warn_of_nothing(script: Script) -> None:
    """No ResourceWarning for an executor that was not shut down, as with the original."""
    done = script.run(
        """
        from parmap import Executor

        futures = [Executor(1).submit(pow, 2, 3) for _ in range(2)]
        print([future.result() for future in futures], list(Executor(2).map(abs, [-1, 2])))
        kept = Executor(1)
        print(kept.submit(pow, 2, 4).result())
        """,
        args=("-X", "dev"),
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "[8, 8] [1, 2]\n16\n", "")


def test_no_thread_is_left(script: Script) -> None:
    """Nor one that only the module threading believes in, as it does of others' threads that ask which one they are."""
    done = script.run(
        """
        import threading
        import time

        from parmap import Executor, parallel, shutdown

        parallel(abs, workers=1).map([-1])
        parallel(abs, workers=1, backend="threads").submit(-1).result()
        with Executor(1) as executor:
            executor.submit(abs, -1).result()
        shutdown()
        end = time.monotonic() + 20
        while threading.active_count() > 1 and time.monotonic() < end:
            time.sleep(0.01)
        print([thread.name for thread in threading.enumerate()])
        """
    )

    assert (done.stdout, done.stderr) == ("['MainThread']\n", "")


def test_a_pool_stops_threads_without_waiting(gate: Gate) -> None:
    """Workers that can't be stopped are not waited for: what they run is lost, at once."""
    executor = Executor(1, backend="threads")
    running = executor.submit(gate, 0)
    wait_until(gate.begun.exists)

    executor.terminate_workers()
    executor.shutdown()

    assert isinstance(running.exception(), BrokenProcessPool)
    gate.go.touch()


def test_a_stream_over_a_closed_pool() -> None:
    """A stream whose pool is shut down while it waits for its reader tells so when it is read on."""
    function = parallel(abs, workers=1)
    stream = function.imap(iter(range(1000)), buffersize=2)
    assert next(stream) == 0

    function.shutdown()

    with pytest.raises(PoolClosedError):
        list(stream)
    assert function.map([-1]) == [1]


def test_a_stream_whose_pool_ends_while_it_begins() -> None:
    """It says so, and nothing of it is left: neither the stream nor what it was given."""
    function = parallel(abs, workers=1)
    left: list[weakref.ref[Any]] = []

    class Items:
        def __iter__(self) -> Iterator[int]:
            function.shutdown()  # as another thread may, too
            yield -1

    def begin() -> None:
        items = Items()
        left.append(weakref.ref(items))
        function.imap(items)

    with pytest.raises(PoolClosedError):
        begin()

    gc.collect()
    assert [reference() for reference in left] == [None]
