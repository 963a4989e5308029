"""Nothing is kept: once a call has ended and the caller has let go, what took part in it is gone."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tasks
from tasks_that_hold import Thing, UnluckyError, Unsent, capture, fail_with, give_unread, left, turn

import parmap
from conftest import wait_until
from parmap import parallel
from parmap._work.threads import HAS_GIL

pytestmark = pytest.mark.usefixtures("pools_stay")

Watched = list[weakref.ref[Any]]

BACKENDS = ("processes", "threads", "serial")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "timeout": {"timeout": 500.0},
    "retries": {"retries": 2},
    "error": {},
    "early": {},
}


def modes(backend: str) -> list[str]:
    """How calls may go."""
    return [mode for mode in OPTIONS if mode != "timeout" or backend == "processes"]  # others can't stop a task


def things(mode: str, watched: Watched) -> list[Thing]:
    """Arguments; in some modes the last but one fails."""
    found = [Thing(number) for number in range(8)]
    if mode in {"error", "retries"}:
        found[-2].number = -1
    watched += map(weakref.ref, found)
    return found


def early(stream: Any) -> list[Thing]:
    """The first result of a stream that is closed then."""
    with stream:
        return [next(stream)]


def given_up(futures: list[Any]) -> list[Thing]:
    """What was there before the rest was cancelled."""
    return [future.result() for future in futures if not future.cancel()]


def broken(items: list[Thing]) -> Iterator[Thing]:
    """An input that ends with an error."""
    yield from items[:4]
    raise UnluckyError(items[4])


def of_function(name: str, function: Callable[..., Any], options: dict[str, Any], mode: str, items: list[Thing]) -> Any:
    """What a method of a parallel function gives."""
    f = parallel(function, **options)
    stops = mode == "early"
    if name == "map":
        return f.map(broken(items) if stops else items)
    if name == "starmap":
        return f.starmap(((item,) for item in broken(items)) if stops else [(item,) for item in items])
    if name in {"imap", "imap_unordered"}:
        stream = getattr(f, name)(items)
        return early(stream) if stops else list(stream)
    if name == "map_async":
        future = f.map_async(items)
        return [result for results in given_up([future]) for result in results] if stops else future.result()
    futures = [f.submit(item) for item in items]
    return given_up(futures) if stops else [future.result() for future in futures]


def of_executor(name: str, function: Callable[..., Any], options: dict[str, Any], mode: str, items: list[Thing]) -> Any:
    """What a method of an executor gives."""
    with parmap.Executor(options.pop("workers"), **options) as executor:
        if name == "map":
            results = executor.map(function, items)
            return next(results) if mode == "early" else list(results)
        futures = [executor.submit(function, item) for item in items]
        return given_up(futures) if mode == "early" else [future.result() for future in futures]


def of_pool(name: str, function: Callable[..., Any], options: dict[str, Any], mode: str, items: list[Thing]) -> Any:
    """What a method of a pool gives."""
    with parmap.Pool(options.pop("workers"), **options) as pool:
        if name == "apply":
            return [pool.apply(function, (item,)) for item in items]
        if name == "map":
            return pool.map(function, broken(items) if mode == "early" else items)
        results = pool.imap(function, items)
        return next(results) if mode == "early" else list(results)


CALLS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(["map", "starmap", "imap", "imap_unordered", "map_async", "submit"], of_function),
    **dict.fromkeys(["Executor.map", "Executor.submit"], of_executor),
    **dict.fromkeys(["Pool.apply", "Pool.map", "Pool.imap"], of_pool),
}


def use(call: str, function: Callable[..., Any], backend: str, mode: str) -> Watched:
    """Make a call, and let go of all; returns what was watched."""
    watched: Watched = []
    items = things(mode, watched)
    options = {"workers": 2, "backend": backend, **OPTIONS[mode]}
    try:
        results = CALLS[call](call.rpartition(".")[2], function, options, mode, items)
    except UnluckyError as error:
        watched.append(weakref.ref(error))
    else:
        assert mode not in {"error", "retries"}
        watched += map(weakref.ref, results if isinstance(results, list) else [results])
    return watched


def alive(watched: Watched) -> list[Any]:
    """What is still there, though garbage was collected."""
    if any(ref() is not None for ref in watched):
        gc.collect()
    return [ref() for ref in watched if ref() is not None]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", CALLS)
def test_arguments_and_results_are_let_go(call: str, backend: str) -> None:
    """No argument, result or error of a call is alive after it, however it ended."""
    for mode in modes(backend):
        watched = use(call, turn, backend, mode)
        assert len(watched) >= 8
        wait_until(lambda mode=mode, watched=watched: not alive(watched))  # type: ignore[misc]


@pytest.mark.filterwarnings("ignore:fail_with changes _seen")
@pytest.mark.parametrize("how", ["itself", "its result"])
def test_failed_tasks_leave_nothing_in_workers(how: str) -> None:
    """What a task had is gone with its error, though Python never looks for cycles there: large arrays make it not do so."""
    with parmap.Executor(1) as executor:
        for options in ({}, {"backend": executor}):
            fail, count = (parallel(function, workers=1, **options) for function in (fail_with, left))
            assert all(fail.submit(how).exception() for _ in range(3))
            assert not any(outcome.ok for outcome in fail.outcomes([how] * 3))
            assert count.submit(None).result() == 0


@pytest.mark.skipif(not HAS_GIL, reason="without the GIL, much waits for the collector in any program")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fails", ["task", "input", "argument", "result"])
@pytest.mark.parametrize("call", ["map", "imap", "map_async", "outcomes", "submit", "return_exceptions", "Pool.map"])
def test_a_failed_call_needs_no_garbage_collector(call: str, backend: str, fails: str) -> None:
    """An error leads to all that its frames have; but nothing there leads to it, so that all ends with it."""
    if backend == "serial" and fails == "task" and (3, 12) <= sys.version_info < (3, 14):
        pytest.skip("in Python 3.12 and 3.13 the frame of a generator that has ended leads to whoever called it")
    function = parallel(give_unread if fails == "result" else turn, workers=1, backend=backend)
    watched: Watched = []

    def run() -> None:
        things = [{"task": Thing(-1), "argument": Unsent()}.get(fails, Thing(number)) for number in range(5)]
        watched.extend(map(weakref.ref, things))
        items = broken(things) if fails == "input" else things
        if call == "submit":
            function.submit(things[0]).result()
        elif call == "return_exceptions":
            function.map(items, return_exceptions=True)
        elif call == "map_async":
            function.map_async(items).result()
        elif call == "Pool.map":
            with parmap.Pool(1, backend=backend) as pool:
                pool.map_async(function.__wrapped__, items).get()
        else:
            list(getattr(function, call)(items))

    gc.disable()
    try:
        for _ in range(3):
            with suppress(UnluckyError, parmap.SerializationError):
                run()
        wait_until(lambda: not any(thing() for thing in watched))
    finally:
        gc.enable()


@pytest.mark.skipif(not HAS_GIL, reason="without the GIL, much waits for the collector in any program")
@pytest.mark.parametrize("call", ["map", "imap", "outcomes"])
def test_a_failed_call_needs_no_garbage_collector_however_threads_take_turns(call: str) -> None:
    """The engine may learn that the batch has failed after its caller has."""
    function = parallel(turn, workers=1)
    watched: Watched = []

    def run() -> None:
        things = [Thing(-1) for _ in range(5)]
        watched.extend(map(weakref.ref, things))
        list(getattr(function, call)(things))

    interval = sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):
            with suppress(UnluckyError):
                run()
        wait_until(lambda: not any(thing() for thing in watched))
    finally:
        sys.setswitchinterval(interval)
        gc.enable()


@pytest.mark.skipif(not HAS_GIL, reason="without the GIL, much waits for the collector in any program")
@pytest.mark.parametrize("fails", [False, True], ids=["early", "failed"])
@pytest.mark.parametrize("backend", [*BACKENDS, "executor"])
def test_a_stream_needs_no_garbage_collector(backend: str, fails: bool) -> None:
    """What it had is gone as soon as it is closed, or a task of it has failed."""
    if backend == "serial" and fails and (3, 12) <= sys.version_info < (3, 14):
        pytest.skip("in Python 3.12 and 3.13 the frame of a generator that has ended leads to whoever called it")
    watched: Watched = []

    def run(options: dict[str, Any]) -> None:
        stream = parallel(turn, **options).imap(things("error" if fails else "plain", watched), return_exceptions=True)
        _ = list(stream) if fails else early(stream)
        stream.close()

    with ThreadPoolExecutor(2) as executor:
        gc.disable()
        try:
            run({"backend": executor} if backend == "executor" else {"backend": backend, "workers": 2})
            wait_until(lambda: not any(thing() for thing in watched))
        finally:
            gc.enable()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_dropped_stream_whose_input_has_failed(backend: str) -> None:
    """Nobody has heard of the error, whose traceback leads to the stream; all of it is gone none the less."""
    watched: Watched = []

    def run() -> None:
        items = things("plain", watched)
        stream = parallel(turn, workers=1, backend=backend).imap(itertools.islice(broken(items), 3, None))
        watched.append(weakref.ref(stream))

    run()

    wait_until(lambda: not alive(watched))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", CALLS)
def test_functions_are_let_go(call: str, backend: str) -> None:
    """No function that travels by value, nor what it captures, is alive after its call."""
    for mode in modes(backend):
        watched: Watched = []
        watched += use(call, capture(watched), backend, mode)
        wait_until(lambda mode=mode, watched=watched: not alive(watched))  # type: ignore[misc]


@pytest.mark.parametrize("call", ["map", "imap", "submit", "map_async"])
def test_descriptors_are_given_back(call: str, tmp_path: Path) -> None:
    """Calls that succeed, fail or are cancelled leave no descriptor behind, though their pool goes on."""
    for mode in OPTIONS:
        use(call, turn, "processes", mode)
    one, other = str(tmp_path / "one"), str(tmp_path / "other")  # both workers are there: one alone can't do this
    parallel(tasks.touch_and_wait_for, workers=2).starmap([(one, other), (other, one)])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        for mode in OPTIONS:
            use(call, turn, "processes", mode)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def grown(act: Callable[[], object]) -> int:
    """By how many objects the program has more when it has done something a few hundred times more."""
    for _ in range(100):
        act()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(500):
        act()
    gc.collect()
    return len(gc.get_objects()) - before


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
def test_time_limits_of_what_has_ended_are_let_go(limit: str) -> None:
    """A service with a limit of hours keeps nothing of a call for hours."""
    f = parallel(tasks.square, workers=1, **{limit: 3600.0})

    assert grown(lambda: f.map([1])) < 400


def test_asking_again_and_again_leaves_nothing(tmp_path: Path) -> None:
    """Who polls a result for a day holds no more memory in the evening."""
    future = parallel(tasks.touch_and_wait_for, workers=1).submit(str(tmp_path / "begun"), str(tmp_path / "go"))

    def ask() -> None:
        with pytest.raises(TimeoutError):
            future.result(0.0)

    assert grown(ask) < 400
    future.cancel()
