"""Pools that pile up: of many that idle, those idle longest are stopped; none that is in use, and none for good."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import inspection
import pytest

from conftest import children, wait_until
from parmap import parallel

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 8

VARIANTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "closures as initializer": lambda number: {"initializer": lambda: number, "workers": 1},
    "initargs": lambda number: {"initializer": abs, "initargs": (number,), "workers": 1},
    "initargs without a hash": lambda number: {"initializer": len, "initargs": (memoryview(bytearray(number)),)},
    "env": lambda number: {"env": {"NUMBER": str(number)}, "workers": 1},
    "workers": lambda number: {"workers": 1 + number, "backend": "threads"},
    "executors": lambda number: {"workers": 1, "backend": ThreadPoolExecutor(1, f"of-number-{number}")},
}

USES: dict[str, Callable[[Any], Any]] = {
    "map": lambda function: function.map([-1]),
    "submit": lambda function: function.submit(-1).result(),
    "imap": lambda function: list(function.imap([-1])),
    "map_async": lambda function: function.map_async([-1]).result(),
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_few_pools_idle(variant: Callable[[int], dict[str, Any]]) -> None:
    """Processes, threads and descriptors of pools that nobody uses any more stay few; each starts anew when used."""
    functions = [parallel(abs, **variant(number)) for number in range(MOST + 3)]

    for function in functions:
        assert function.map([-1]) == [1]
    wait_until(lambda: len(inspection.engines()) <= MOST)
    wait_until(lambda: len(children()) <= 2 * MOST)
    assert all(inspection.is_running(function) for function in functions[-MOST:])
    assert functions[0].submit(-1).result() == 1


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_however_they_are_used(use: Callable[[Any], Any]) -> None:
    """They stay few however they are used, and used again."""
    functions = [parallel(abs, workers=1 + number, backend="threads") for number in range(MOST + 3)]

    for _ in range(2):
        assert [use(function) for function in functions] in ([1] * len(functions), [[1]] * len(functions))
        wait_until(lambda: len(inspection.engines()) <= MOST)


def test_pools_that_come_to_rest_together() -> None:
    """Many pools may work at once; when they have no more to do, few stay."""
    go = threading.Event()
    functions = [parallel(lambda _: go.wait(20), workers=1 + number, backend="threads") for number in range(MOST + 4)]
    futures = [function.submit(0) for function in functions]

    assert len(inspection.engines()) == MOST + 4
    go.set()
    assert all(future.result() for future in futures)
    wait_until(lambda: len(inspection.engines()) == MOST)


def test_a_stream_keeps_its_pool() -> None:
    """A pool whose stream is open is not stopped, though nothing runs on it."""
    mine = parallel(abs, workers=1, env={"NUMBER": "mine"})
    stream = mine.imap(iter(range(100)), buffersize=2)
    assert next(stream) == 0

    for number in range(MOST + 2):
        parallel(abs, workers=1 + number, backend="threads").map([1])
    wait_until(lambda: len(inspection.engines()) == MOST + 1)

    assert inspection.is_running(mine)
    assert list(stream) == list(range(1, 100))
    wait_until(lambda: len(inspection.engines()) == MOST)


def test_pools_whose_streams_are_left_together() -> None:
    """Many pools that were kept by streams are few as soon as the streams are closed."""
    functions = [parallel(abs, workers=1 + number, backend="threads") for number in range(MOST + 4)]
    streams = [function.imap(iter(range(100)), buffersize=2) for function in functions]
    assert [next(stream) for stream in streams] == [0] * (MOST + 4)

    assert len(inspection.engines()) == MOST + 4
    for stream in streams:
        stream.close()
    wait_until(lambda: len(inspection.engines()) == MOST)


def test_a_result_nobody_asked_for_yet() -> None:
    """Futures of a pool that was stopped meanwhile have their results, and can be asked for them."""
    future = parallel(pow, workers=1, env={"NUMBER": "mine"}).submit(2, 100)
    arrays = parallel(bytes, workers=1, env={"NUMBER": "mine"}).map_async([10**6, 3])
    wait_until(lambda: future.done() and arrays.done())

    for number in range(MOST + 2):
        parallel(abs, workers=1 + number, backend="threads").map([1])
    wait_until(lambda: not children())

    assert future.result() == 2**100
    assert arrays.result() == [bytes(10**6), bytes(3)]


@pytest.mark.parametrize("kind", ["initializer", "executor"])
def test_what_was_given_is_let_go(kind: str) -> None:
    """An initializer, or an executor, that the program has dropped is not kept for ever by what was once called."""

    def use() -> Any:
        if kind == "initializer":

            def start() -> None: ...

            given: Any = start
            function = parallel(abs, workers=1, backend="threads", initializer=start)
        else:
            given = ThreadPoolExecutor(1)
            function = parallel(abs, workers=1, backend=given)
        assert function.map([-1]) == [1]
        assert function.submit(-1).result() == 1
        return weakref.ref(given)

    given = use()
    for number in range(MOST + 2):
        parallel(abs, workers=1 + number, backend="threads").map([1])

    def is_gone() -> bool:
        gc.collect()
        return given() is None

    wait_until(is_gone)


def test_a_pool_that_is_shut_down_is_let_go() -> None:
    """After its shutdown nothing holds what a pool was made with."""

    def start() -> None: ...

    given = weakref.ref(start)
    function = parallel(abs, workers=1, backend="threads", initializer=start)
    function.map([-1])
    function.submit(-1).result()
    function.shutdown()
    del function, start

    def is_gone() -> bool:
        gc.collect()
        return given() is None

    wait_until(is_gone)


def test_many_threads_and_many_pools() -> None:
    """Threads that use more pools than may idle, in turn, get all their results: none meets a pool that is stopping."""
    functions = [
        parallel(abs, workers=1 + number % 3, backend="threads", idle_timeout=50 + number) for number in range(20)
    ]
    results: list[Any] = []

    def work() -> None:
        for _ in range(20):
            for number, function in enumerate(functions):
                results.append(function.submit(-number).result())
                results.extend(function.map([-number]))
                results.extend(function.imap([-number]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert len(results) == 4 * 20 * 20 * 3
    wait_until(lambda: len(inspection.engines()) <= MOST)


def test_a_call_costs_no_more_while_thousands_go_on() -> None:
    """Beginning one is as much work as when it was the first: nothing looks at all of the others."""
    release = threading.Event()
    wait = parallel(lambda _: release.wait(60), workers=1, backend="threads")
    counted = 0

    def note(*_: object) -> None:
        nonlocal counted
        counted += 1

    def cost(calls: int) -> int:
        """How many functions are called, and left, to begin so many."""
        nonlocal counted
        counted = 0
        sys.setprofile(note)
        try:
            futures.extend([wait.map_async([0]) for _ in range(calls)])
        finally:
            sys.setprofile(None)
        return counted

    futures: list[Any] = [wait.map_async([0])]
    first = cost(200)
    futures.extend([wait.map_async([0]) for _ in range(2000)])
    later = cost(200)
    release.set()

    assert all(future.result(60) == [True] for future in futures)
    assert later < 1.5 * first
