"""One voice for errors: the same fault is told in the same way by every method, on every backend."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import re
import sys
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import pytest
import tasks_at_fault as bad
from tasks_with_a_culprit import (
    LeavesWhenSent,
    Source,
    exit_by_sys,
    give_a_generator,
    give_what_breaks,
    give_what_leaves,
    hang,
    interrupt,
    kill,
    leave,
    take,
)

from parmap import Executor, ParmapError, Pool, SerializationError, WorkerDiedError, errors, parallel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

# The standard executor forks, so that it leaves neither a server nor a tracker behind.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
    pytest.mark.usefixtures("pools_stay"),
]

ENDS: dict[str, type[BaseException]] = {
    "stop": StopIteration,
    "async stop": StopAsyncIteration,
    "generator exit": GeneratorExit,
    "cancelled": concurrent.futures.CancelledError,
    "cancelled in asyncio": asyncio.CancelledError,
    "a kind of stop": bad.MyStop,
}
PLACES: dict[str, Callable[[], Any]] = {
    "forkserver": lambda: {"start_method": "forkserver"},
    "spawn": lambda: {"start_method": "spawn"},
    "threads": lambda: {"backend": "threads"},
    "serial": lambda: {"backend": "serial"},
    "thread executor": lambda: {"backend": concurrent.futures.ThreadPoolExecutor(2)},
    "process executor": lambda: {
        "backend": concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
    },
}


def _place(name: str) -> Iterator[dict[str, Any]]:
    options = PLACES[name]()
    yield {"workers": 2, **options}
    if "executor" in name:
        parallel(abs, workers=2, **options).shutdown()  # not the pools of processes, which the next test needs
        options["backend"].shutdown()


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """The options that choose where tasks run, each in turn."""
    yield from _place(request.param)


@pytest.fixture
def process_executor() -> Iterator[dict[str, Any]]:
    """An executor of the user's that runs processes."""
    yield from _place("process executor")


@pytest.fixture(params=["forkserver", "spawn", "process executor"])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Those of other processes."""
    yield from _place(request.param)


@pytest.fixture(params=list(ENDS))
def end(request: pytest.FixtureRequest) -> str:
    """The name of an exception that means an end to whoever iterates or awaits."""
    return request.param  # type: ignore[no-any-return]


def _by_await(f: Any, items: list[Any]) -> None:
    async def main() -> None:
        for item in items:
            await asyncio.wait_for(f.submit(item), 30)

    asyncio.run(main())


def _by_async_for(f: Any, items: list[Any]) -> None:
    async def main() -> None:
        async for _ in f.imap(items):
            pass

    asyncio.run(main())


def _kept(results: Any) -> None:
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _by_exception(f: Any, items: list[Any]) -> None:
    _kept([f.submit(item).exception(60) for item in items])


METHODS: dict[str, Callable[[Any, list[Any]], object]] = {
    "map": lambda f, items: f.map(items),
    "map, chunk by chunk": lambda f, items: f.map(items, chunksize=2),
    "map, errors in place": lambda f, items: _kept(f.map(items, return_exceptions=True)),
    "starmap": lambda f, items: f.starmap([(item,) for item in items]),
    "imap": lambda f, items: list(f.imap(items)),
    "imap, errors in place": lambda f, items: _kept(f.imap(items, return_exceptions=True)),
    "imap_unordered": lambda f, items: list(f.imap_unordered(iter(items))),
    "imap_unordered, errors in place": lambda f, items: _kept(f.imap_unordered(iter(items), return_exceptions=True)),
    "map_async": lambda f, items: f.map_async(items).result(60),
    "starmap_async": lambda f, items: f.starmap_async([(item,) for item in items]).result(60),
    "submit": lambda f, items: [future.result(60) for future in [f.submit(item) for item in items]],
    "one submit after the other": lambda f, items: [f.submit(item).result(60) for item in items],
    "exception()": _by_exception,
    "get()": lambda f, items: [f.submit(item).async_result.get(60) for item in items],
    "await": _by_await,
    "async for": _by_async_for,
}
BATCHES = [name for name in METHODS if "map" in name]


def told(method: str, function: Any, items: list[Any]) -> BaseException:
    """The exception that a method raises."""
    try:
        METHODS[method](function, items)
    except BaseException as error:
        return error
    raise AssertionError(f"{method} raised nothing")


# --- what means an end ----------------------------------------------------------------------------------------------


def test_an_error_that_means_an_end_ends_nothing(place: dict[str, Any], end: str) -> None:
    """Every method raises a RuntimeError in its place, with the original as cause and the call in a note."""
    f = parallel(bad.throw, **place)
    for method in METHODS:
        error = told(method, f, [0, 1, 2, end, 4])

        assert type(error) is RuntimeError, method
        assert type(error.__cause__) is ENDS[end], method
        assert error.__cause__.args == bad.ERRORS[end]().args
        assert any(repr(end) in note for note in error.__notes__), method
        assert (method not in BATCHES) or any("item 3: " in note for note in error.__notes__), method


def test_it_is_the_same_error_each_time(end: str) -> None:
    """Whoever asks a future twice gets one exception; the task was not cancelled."""
    future = parallel(bad.throw, workers=1).submit(end)

    assert future.exception(60) is future.exception() is future.async_result._future.exception()
    assert not future.cancelled()
    assert not future.cancel()


def test_retry_on_sees_the_original(place: dict[str, Any], end: str, tmp_path: Any) -> None:
    """What a task raised decides whether it gets another attempt."""
    kind = ENDS[end]
    items = [(end, str(tmp_path / f"{number}")) for number in range(3)]

    assert parallel(bad.throw_once, retries=1, retry_on=kind, **place).starmap(items) == [end] * 3
    again = [(end, str(tmp_path / "again"))]
    with pytest.raises(RuntimeError):
        parallel(bad.throw_once, retries=1, retry_on=RuntimeError, **place).starmap(again)


def test_among_many_short_items_it_brings_its_value(place: dict[str, Any]) -> None:
    """In the middle of a block of short items, too, the error keeps its value and its traceback."""
    items: list[Any] = list(range(5000))
    items[4000] = "stop"

    error = parallel(bad.throw, **place).map(items, return_exceptions=True)[4000]

    assert error.__cause__.args == ("x",)
    assert "throw" in "".join(_frames(error.__cause__))


def _frames(error: BaseException) -> Iterator[str]:
    import traceback

    return iter(traceback.format_exception(error))


def test_drop_ins_give_what_the_standard_classes_give(end: str) -> None:
    """`exception()`, `result()` and `get()` of `Executor` and `Pool` give the original; nothing was cancelled."""
    kind = ENDS[end]
    with Executor(1) as executor:
        future = executor.submit(bad.throw, end)
        assert type(future.exception(60)) is kind
        assert not future.cancelled()
        with pytest.raises(kind):
            future.result()
        assert [*concurrent.futures.as_completed([future], timeout=30)] == [future]
    callbacks: list[Any] = []
    with Pool(1) as pool:
        for call in (
            lambda: pool.apply(bad.throw, (end,)),
            lambda: pool.apply_async(bad.throw, (end,), error_callback=callbacks.append).get(60),
            lambda: pool.map(bad.throw, [1, end]),
            lambda: pool.map_async(bad.throw, [1, end], error_callback=callbacks.append).get(60),
            lambda: pool.starmap(bad.throw, [(1,), (end,)]),
        ):
            with pytest.raises(kind):
                call()
    assert [type(error) for error in callbacks] == [kind, kind]


def test_the_streams_of_drop_ins_are_not_ended(end: str) -> None:
    """Where an error is raised by an iterator, the original would end its loop: there it is a RuntimeError."""
    with Executor(1) as executor, pytest.raises(RuntimeError) as caught:
        list(executor.map(bad.throw, [1, end, 2]))
    assert type(caught.value.__cause__) is ENDS[end]
    with Pool(1) as pool:
        for method in (pool.imap, pool.imap_unordered):
            stream = method(bad.throw, [1, end, 2])
            got = []
            for _ in range(3):
                try:
                    got.append(next(stream))
                except RuntimeError as error:
                    got.append(type(error.__cause__))
            assert sorted(got, key=str) == sorted([1, ENDS[end], 2], key=str)
            with pytest.raises(StopIteration):
                next(stream)


@pytest.mark.parametrize("how", ["await", "wrap_future", "run_in_executor"])
def test_a_future_of_a_drop_in_can_be_awaited(end: str, how: str) -> None:
    """A coroutine that awaits gets a RuntimeError, and goes on."""

    async def main(executor: Any) -> BaseException | None:
        loop = asyncio.get_running_loop()
        future: Any
        if how == "run_in_executor":
            future = loop.run_in_executor(executor, bad.throw, end)
        else:
            future = executor.submit(bad.throw, end)
            if how == "wrap_future":
                future = asyncio.wrap_future(future)
        try:
            await asyncio.wait_for(future, 30)
        except RuntimeError as error:
            return error.__cause__
        return None

    with Executor(1) as executor:
        assert type(asyncio.run(main(executor))) is ENDS[end]


def test_joblib_is_told_the_same(end: str) -> None:
    """In a call of joblib's, too, such an error can't be mistaken."""
    joblib = pytest.importorskip("joblib")
    import parmap.joblib  # noqa: F401 - registers the backend

    with joblib.parallel_config("parmap", n_jobs=2), pytest.raises(RuntimeError):
        joblib.Parallel()(joblib.delayed(bad.throw)(item) for item in [1, end, 2])


@pytest.mark.parametrize("end", ["generator exit", "cancelled", "cancelled in asyncio", "async stop"])
def test_an_input_that_raises_it(place: dict[str, Any], end: str) -> None:
    """What the input raises can't end a stream either: what came before it is handed out, then it is told."""
    f = parallel(abs, **place)

    for method in ("imap", "imap_unordered"):
        got = []
        with pytest.raises(RuntimeError) as caught:  # noqa: PT012 - it raises while it is iterated
            for result in getattr(f, method)(Source(5, end)):
                got.append(result)  # noqa: PERF402 - what came before the error is asserted on
        assert sorted(got) == [0, 1, 2, 3, 4]
        assert type(caught.value.__cause__) is ENDS[end]
    for name in ("map", "map_async"):
        with pytest.raises(RuntimeError):
            getattr(f, name)(Source(5, end))


@pytest.mark.parametrize("end", ["generator exit", "cancelled", "cancelled in asyncio"])
def test_an_asynchronous_input_that_raises_it(place: dict[str, Any], end: str) -> None:
    """An input that is read by `async for` is no exception."""

    async def source() -> AsyncIterator[int]:
        for number in range(5):
            yield number
        bad.throw(end)

    async def main() -> list[int]:
        got = []
        with pytest.raises(RuntimeError) as caught:  # noqa: PT012 - as above
            async for result in parallel(abs, **place).imap(source()):
                got.append(result)  # noqa: PERF401 - as above
        assert type(caught.value.__cause__) is ENDS[end]
        return got

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("backend", ["forkserver", "spawn", "threads", "serial"])
def test_an_initializer_that_raises_it(backend: str, end: str) -> None:
    """It fails every call, and ends no stream."""
    methods = ["map", "imap", "imap_unordered", "submit", "await", "async for", "map_async"]
    if backend in {"forkserver", "spawn"}:  # each call starts workers: of an end, some methods; of a method, some ends
        methods = methods[list(ENDS).index(end) % 3 :: 3]
    f = parallel(abs, workers=1, initializer=bad.throw, initargs=(end,), **PLACES[backend]())
    for method in methods:
        error = told(method, f, [1, 2])

        assert type(error) is RuntimeError, method
        assert type(error.__cause__) is ENDS[end], method


@pytest.mark.parametrize("end", ["stop", "generator exit", "cancelled", "cancelled in asyncio"])
def test_a_result_that_raises_it_when_unpickled(elsewhere: dict[str, Any], end: str) -> None:
    """It is the fault of its item, as any error of the unpickling is."""
    f = parallel(bad.returns_what_throws, **elsewhere)
    for method in METHODS:
        error = told(method, f, [0, 1, 2, end, 4])

        assert type(error) is SerializationError, method
        assert type(error.__cause__) is ENDS[end], method


# --- the same fault, the same error ---------------------------------------------------------------------------------


FAULTS: dict[str, tuple[Any, Any, dict[str, Any], type[ParmapError], str]] = {
    "an argument can't be pickled": (take, bad.BadToSend("exception"), {}, SerializationError, "BadToSend"),
    "an argument can't be unpickled": (take, bad.BadToLoad("exception"), {}, SerializationError, "went wrong"),
    "a result can't be pickled": (give_a_generator, "culprit", {}, SerializationError, "generator"),
    "a result can't be unpickled": (give_what_breaks, "culprit", {}, SerializationError, "went wrong"),
    "sys.exit": (exit_by_sys, "culprit", {}, WorkerDiedError, r"sys.exit\(3\)"),
    "sys.exit in a result": (give_what_leaves, "culprit", {}, WorkerDiedError, r"sys.exit\(3\)"),
    "os._exit": (leave, "culprit", {}, WorkerDiedError, "code 3"),
    "a kill": (kill, "culprit", {}, WorkerDiedError, "SIGKILL"),
    "a timeout": (hang, "culprit", {"timeout": 0.5}, errors.TaskTimeoutError, "timeout=0.5"),
}
ON_EXECUTORS = list(FAULTS)[:6]
IN_A_NOTE = ("a result can't be pickled", "os._exit", "sys.exit", "a timeout")
"""Those of which a note tells which call it was, by every method."""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_fault_is_told_the_same_by_each_method(fault: str, start_method: str) -> None:
    """Its class is public, its message the same, its item there, and mostly its call; the rest has its results."""
    methods = list(METHODS)
    if start_method == "spawn":  # its workers take long to start, and many die here: each method, for one of the faults
        methods = methods[list(FAULTS).index(fault) % 4 :: 4]
    _check(fault, {"workers": 2, "start_method": start_method}, methods)


@pytest.mark.parametrize("fault", ON_EXECUTORS)
def test_a_fault_is_told_the_same_on_an_executor(fault: str, process_executor: dict[str, Any]) -> None:
    """So it is on an executor of the user's."""
    _check(fault, process_executor, list(METHODS))


def _check(fault: str, place: dict[str, Any], methods: list[str]) -> None:
    function, culprit, options, kind, text = FAULTS[fault]
    f = parallel(function, **options, **place)
    for method in methods:
        error = told(method, f, [0, 1, culprit, 3])

        assert type(error) is kind, method
        assert isinstance(error, ParmapError)
        assert re.search(text, str(error)), (method, str(error))
        if method in BATCHES or method == "async for":
            assert error.item == 2, method  # type: ignore[attr-defined]
        else:
            assert error.item is None, method  # type: ignore[attr-defined]
        if fault in IN_A_NOTE:
            notes = "\n".join(error.__notes__)
            assert f"{function.__name__}('culprit')" in notes, method
            assert "item 2: " in notes or method not in BATCHES, method
    assert f.map([0, culprit, 1, 2], return_exceptions=True)[2:] == [1, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, BaseException, asyncio.CancelledError])
def test_a_result_that_raises_it_when_pickled(elsewhere: dict[str, Any], error: type[BaseException]) -> None:
    """What ends a program or a coroutine ends neither the worker nor its chunk, but the one item."""
    f = parallel(LeavesWhenSent, **elsewhere)
    found = f.submit(error).exception(60)

    assert type(found) is error or type(found.__cause__) is error
    items: list[Any] = [1] * 20 + ["culprit"] + [2] * 20
    results = parallel(interrupt, **elsewhere).map(items, return_exceptions=True)
    assert type(results[20]) is KeyboardInterrupt
    assert results[:20] + results[21:] == [1] * 20 + [2] * 20


def test_a_result_that_can_not_travel_is_retried(elsewhere: dict[str, Any], tmp_path: Any) -> None:
    """A result that can't be pickled is one more error that `retries` is for, by every method."""
    f = parallel(bad.generator_once, retries=1, **elsewhere)
    for method, call in METHODS.items():
        if "starmap" in method:
            continue
        path = tmp_path / str(abs(hash(method)))
        call(f, [0, 1, str(path), 3])

        assert path.exists(), method


def test_a_retry_of_many_is_in_its_place(elsewhere: dict[str, Any], tmp_path: Any) -> None:
    """The results around one that was retried are in order, those of a stream too."""
    f = parallel(bad.generator_once, retries=1, **elsewhere)
    for method in ("map", "imap"):
        items = [*range(50), str(tmp_path / method), *range(50), str(tmp_path / f"{method} 2"), 7]

        assert list(getattr(f, method)(items, chunksize=20)) == items


# --- what stands in for a class behaves like it ---------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["processes", "threads", "serial"])
def test_sys_exit_in_an_executor_is_a_broken_pool(backend: Any) -> None:
    """A task that calls `sys.exit` is told as a death is, by a class that users of `ProcessPoolExecutor` catch."""
    with Executor(1, backend=backend) as executor:
        future = executor.submit(sys.exit, 3)
        assert isinstance(future.exception(60), BrokenProcessPool)
        assert isinstance(future.exception(), WorkerDiedError)
        with pytest.raises(BrokenProcessPool):
            future.result()
        with pytest.raises(BrokenProcessPool):
            list(executor.map(sys.exit, [3]))


@pytest.mark.parametrize("function", [bad.leave_at_once, sys.exit])
def test_each_death_in_an_executor_is_a_broken_pool(function: Any) -> None:
    """Whichever way the task leaves; `map` says so, too; the class pickles."""
    with Executor(1) as executor:
        found = [executor.submit(function, 3).exception(60)]
        with pytest.raises(BrokenProcessPool) as caught:
            list(executor.map(function, [3]))

    for error in [*found, caught.value]:
        assert isinstance(error, WorkerDiedError)
        assert error.exitcode == 3
        again = bad.pickle.loads(bad.pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))


@pytest.mark.parametrize("how", ["exit", "sys.exit"])
def test_an_executor_retries_broken_pools(how: str, tmp_path: Any) -> None:
    """`retry_on` knows the deaths of an executor by the name that they have there."""
    with Executor(1, retries=1, retry_on=BrokenProcessPool) as executor:
        assert executor.submit(bad.leave_once, how, str(tmp_path / how)).result(60) == how


# --- notes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["drops its notes", "refuses attributes", "keeps no dict"])
def test_an_exception_that_drops_its_notes_names_its_item(place: dict[str, Any], name: str) -> None:
    """Whatever its class does to be pickled, the item is told, once."""
    f = parallel(bad.throw, **place)
    for method in METHODS:
        error = told(method, f, [0, 1, name, 3])

        assert type(error) is type(bad.ERRORS[name]())
        (note,) = error.__notes__
        assert f"throw({name!r})" in note
        assert "item 2: " in note or method not in BATCHES, method
