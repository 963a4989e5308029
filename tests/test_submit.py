"""`submit`, `map_async` and `starmap_async`: one task or one batch, now or later."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import tasks
from tasks import even_or_fail, everything, first_of

from conftest import many
from parmap import Future, SerializationError, parallel

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("pools_stay")

CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "nothing": ((), {}),
    "one": ((1,), {}),
    "several": ((1, "a", None), {}),
    "keywords": ((), {"a": 1, "b": [2]}),
    "both": (([1], 2), {"c": {"d": 3}}),
    "a-tuple": (((1, 2),), {}),
    "an-empty-tuple": (((),), {}),
    "a-dict": (({"a": 1},), {}),
    "odd-names": ((), {"self": 1, "function": 2, "args": 3, "options": 4, "timeout": 5}),
}


@pytest.mark.parametrize("name", CALLS)
def test_arguments(backend: dict[str, Any], name: str) -> None:
    """Positional and keyword arguments arrive as they were given."""
    args, kwargs = CALLS[name]

    assert parallel(everything, **backend).submit(*args, **kwargs).result(60) == (args, kwargs)


def test_calls_of_both_kinds_in_turn(backend: dict[str, Any]) -> None:
    """Calls with and without keywords of one function don't mix."""
    decorated = parallel(everything, **backend)
    futures = [decorated.submit(x, **({"y": x} if x % 2 else {})) for x in range(200)]

    assert [future.result(60) for future in futures] == [((x,), {"y": x} if x % 2 else {}) for x in range(200)]


def test_a_future(backend: dict[str, Any]) -> None:
    """The result of `submit` is a `Future`."""
    future = parallel(tasks.square, **backend).submit(3)

    assert isinstance(future, Future)
    assert future.result(60) == 9
    assert future.done()
    assert not future.running()
    assert not future.cancelled()


def test_ten_thousand(backend: dict[str, Any]) -> None:
    """Ten thousand submits, of atoms."""
    square = parallel(tasks.square, **backend)
    count = many(10_000)
    futures = [square.submit(x) for x in range(count)]

    assert [future.result(60) for future in futures] == [x * x for x in range(count)]


def test_thousands_of_objects(backend: dict[str, Any]) -> None:
    """Thousands of submits of lists, keywords and errors, waited for in any order."""
    decorated = parallel(even_or_fail, **backend)
    count = many(3000)
    futures = [decorated.submit([x], name=str(x)) for x in range(count)]
    errors = [future.exception(60) for future in reversed(futures)][::-1]

    assert [error is None for error in errors] == [x % 2 == 0 for x in range(count)]
    assert [future.result(60) for future in futures[::2]] == [str(x) for x in range(0, count, 2)]


def test_several_threads(backend: dict[str, Any]) -> None:
    """Eight threads submit and wait at the same time."""
    square = parallel(tasks.square, **backend)
    results: dict[int, list[int]] = {}

    def work(number: int) -> None:
        results[number] = [square.submit(number * 100 + x).result(60) for x in range(100)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert results == {number: [(number * 100 + x) ** 2 for x in range(100)] for number in range(8)}


@pytest.mark.filterwarnings("ignore:turn draws from _turns")
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_tasks_begin_in_the_order_of_their_calls(method: Any) -> None:
    """With one worker, none overtakes one that waits: not even when the caller has just seen the worker get free."""
    turn = parallel(tasks.turn, workers=1, backend="processes", start_method=method)
    futures = []
    for _ in range(1000):
        futures += [turn.submit(), turn.submit()]
        futures[-2].result(60)
    turns = [future.result(60) for future in futures]

    assert turns == sorted(turns)


# --- arguments as they were -----------------------------------------------------------------------


def test_arguments_are_as_they_were_at_the_call(processes: dict[str, Any]) -> None:
    """A list that is changed after `submit` does not change the call, whether a worker was idle or busy."""
    identity = parallel(tasks.identity, **processes)
    items: list[int] = []
    futures = []
    for number in range(200):
        items.append(number)
        futures.append(identity.submit(items))

    assert [len(future.result(60)) for future in futures] == list(range(1, 201))


def test_keyword_arguments_are_as_they_were_at_the_call(processes: dict[str, Any]) -> None:
    """So with keywords."""
    decorated = parallel(everything, **processes)
    items: list[int] = []
    futures = []
    for number in range(100):
        items.append(number)
        futures.append(decorated.submit(items=items))

    assert [len(future.result(60)[1]["items"]) for future in futures] == list(range(1, 101))


def test_a_large_array_is_as_it_was_at_the_call(processes: dict[str, Any]) -> None:
    """So with an array that travels through shared memory."""
    numpy = pytest.importorskip("numpy")
    first = parallel(first_of, **processes)
    array = numpy.zeros(300_000)
    futures = []
    for number in range(8):
        array[:] = number
        futures.append(first.submit(array))

    assert [future.result(60) for future in futures] == [(float(number), float(number)) for number in range(8)]


def test_a_list_given_to_map_async_may_change(backend: dict[str, Any]) -> None:
    """A list that grows or shrinks after `map_async` does not change the batch."""
    items = list(range(1000))
    future = parallel(tasks.square, **backend).map_async(items)
    items.clear()

    assert future.result(60) == [x * x for x in range(1000)]


def test_an_argument_that_can_not_travel(processes: dict[str, Any]) -> None:
    """It fails its own task; `submit` itself does not raise."""
    identity = parallel(tasks.identity, **processes)
    bad, good = identity.submit(threading.Lock()), identity.submit(1)

    with pytest.raises(SerializationError, match="lock"):
        bad.result(60)
    assert good.result(60) == 1


def test_a_wrong_call(backend: dict[str, Any]) -> None:
    """A call with too many arguments fails as the plain call does."""
    with pytest.raises(TypeError, match="positional argument"):
        parallel(tasks.square, **backend).submit(1, 2).result(60)  # type: ignore[call-arg]


# --- batches, later -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 1000])
@pytest.mark.parametrize("make", [list, iter])
def test_map_async(backend: dict[str, Any], make: Any, count: int) -> None:
    """The future of a batch gives all results in order."""
    future = parallel(tasks.square, **backend).map_async(make(range(count)))

    assert isinstance(future, Future)
    assert future.result(60) == [x * x for x in range(count)]
    assert future.done()


def test_map_async_of_several_iterables(backend: dict[str, Any]) -> None:
    """Of several iterables too."""
    assert parallel(tasks.add, **backend).map_async(itertools.count(), [1, 2]).result(60) == [1, 3]


def test_starmap_async(backend: dict[str, Any]) -> None:
    """Of tuples of arguments too."""
    assert parallel(tasks.add, **backend).starmap_async([(1, 2), (3,)]).result(60) == [3, 13]


def test_map_async_that_fails(backend: dict[str, Any]) -> None:
    """The first error of a batch is the error of its future."""
    future = parallel(tasks.fail, **backend).map_async(["x", "x"])

    assert isinstance(future.exception(60), ValueError)
    with pytest.raises(ValueError, match="x"):
        future.result(60)


def test_map_async_with_exceptions_in_place(backend: dict[str, Any]) -> None:
    """Or they stand in their places."""
    results = parallel(divmod, **backend).map_async([7, 1], [2, 0], return_exceptions=True).result(60)

    assert results[0] == (3, 1)
    assert isinstance(results[1], ZeroDivisionError)


def failing_generator() -> Iterator[int]:
    yield 1
    raise LookupError("in the input")


def test_map_async_of_an_input_that_raises(backend: dict[str, Any]) -> None:
    """The input is read at once: its error is raised at once."""
    with pytest.raises(LookupError):
        parallel(tasks.square, **backend).map_async(failing_generator())


def test_cancelling_a_batch(processes: dict[str, Any], tmp_path: Any) -> None:
    """A batch can be cancelled; its running tasks end, and the workers serve others."""
    future = parallel(tasks.wait_for, **processes).map_async([str(tmp_path / "never")] * 100)

    assert future.cancel()
    assert future.cancelled()
    assert parallel(tasks.square, **processes).map(range(10)) == [x * x for x in range(10)]


def test_batches_and_tasks_share_the_workers(backend: dict[str, Any]) -> None:
    """Several batches and tasks at a time, each with its own results."""
    square, add = parallel(tasks.square, **backend), parallel(tasks.add, **backend)
    batches = [square.map_async(range(number, number + 500)) for number in range(5)]
    singles = [add.submit(number) for number in range(50)]

    assert [future.result(60) for future in singles] == [number + 10 for number in range(50)]
    for number, batch in enumerate(batches):
        assert batch.result(60) == [x * x for x in range(number, number + 500)]


def test_a_task_that_takes_long(processes: dict[str, Any], tmp_path: Any) -> None:
    """A short task is not kept behind a long one while another worker is free."""
    path = str(tmp_path / "go")
    long = parallel(tasks.wait_for, **processes).submit(path)
    short = [parallel(tasks.square, **processes).submit(x) for x in range(20)]

    assert [future.result(60) for future in short] == [x * x for x in range(20)]
    assert not long.done()
    tasks.touch(path)
    assert long.result(60) == path


def test_a_timeout_leaves_the_task_running(processes: dict[str, Any], tmp_path: Any) -> None:
    """`result(timeout)` raises `TimeoutError` when the time is over, and can be asked again."""
    path = str(tmp_path / "go")
    future = parallel(tasks.wait_for, **processes).submit(path)
    begin = time.monotonic()
    for timeout in (0, 0.05, -1):
        with pytest.raises(TimeoutError):
            future.result(timeout)
        with pytest.raises(TimeoutError):
            future.exception(timeout)

    assert time.monotonic() - begin < 30
    tasks.touch(path)
    assert future.result(60) == path
