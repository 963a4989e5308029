"""`map` and `starmap`: inputs of every kind, order, errors, and results that are never shared by accident."""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict, UserList, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tasks
from inspection import is_gone
from tasks_in_turn import (
    begin_and_wait,
    fail_on_odd,
    fail_or_run,
    fail_or_touch_and_wait,
    fail_or_wait,
    note_and_fail,
    touch_or_wait,
)
from tasks_that_alias import append_to, remember, shared_pair, the_same

from conftest import many, wait_until
from parmap import parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("pools_stay")

INPUTS: dict[str, Callable[[], Any]] = {
    "empty-list": list,
    "empty-generator": lambda: iter(()),
    "empty-range": lambda: range(0),
    "empty-string": str,
    "one": lambda: [5],
    "one-of-a-generator": lambda: iter([5]),
    "tuple": lambda: (1, 2, 3),
    "range": lambda: range(10, -10, -3),
    "long-range": lambda: range(many(30_000)),
    "generator": lambda: (x for x in range(1000)),
    "iterator": lambda: iter([1, 2, 3]),
    "dict": lambda: {"a": 1, "b": 2},
    "dict-keys": lambda: {"a": 1, "b": 2}.keys(),
    "dict-values": lambda: {"a": [1], "b": [2]}.values(),
    "dict-items": lambda: {"a": 1, "b": 2}.items(),
    "ordered-dict": lambda: OrderedDict(a=1, b=2),
    "set": lambda: {1, 2, 3},
    "frozenset": lambda: frozenset("abc"),
    "deque": lambda: deque([1, 2, 3]),
    "user-list": lambda: UserList([1, 2, 3]),
    "string": lambda: "parallel",
    "bytes": lambda: b"parallel",
    "bytearray": lambda: bytearray(b"parallel"),
    "memoryview": lambda: memoryview(b"parallel"),
    "none-and-false": lambda: [None, False, 0, "", ()],
    "nested": lambda: [[1], [], [[2]], (3,), {"a": 4}],
    "old-protocol": lambda: Indexed(),
    "mixed": lambda: [1, "a", None, 2.5, b"c", (1, 2), [3], {4}],
}


class Indexed:
    """Iterable by `__getitem__` alone."""

    def __getitem__(self, index: int) -> int:
        if index > 3:
            raise IndexError
        return index


@pytest.mark.parametrize("kind", INPUTS)
def test_map_takes_any_iterable(backend: dict[str, Any], kind: str) -> None:
    """The results are those of the builtin `map`, in order."""
    assert parallel(tasks.identity, **backend).map(INPUTS[kind]()) == list(INPUTS[kind]())


@pytest.mark.parametrize("kind", INPUTS)
def test_imap_takes_any_iterable(backend: dict[str, Any], kind: str) -> None:
    """So are those of `imap`."""
    assert list(parallel(tasks.identity, **backend).imap(INPUTS[kind]())) == list(INPUTS[kind]())


ARRAYS: dict[str, Any] = {
    "1d": lambda np: np.arange(50),
    "1d-of-floats": lambda np: np.linspace(0, 1, 7),
    "2d": lambda np: np.arange(24).reshape(6, 4),
    "3d": lambda np: np.arange(24.0).reshape(2, 3, 4),
    "objects": lambda np: np.array([1, "a", None, [2]], dtype=object),
    "strings": lambda np: np.array(["a", "bc"]),
    "dates": lambda np: np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[D]"),
    "records": lambda np: np.array([(1, 2.0), (3, 4.0)], dtype=[("a", int), ("b", float)]),
    "not-contiguous": lambda np: np.arange(40).reshape(8, 5)[::2, ::2],
    "fortran": lambda np: np.asfortranarray(np.arange(12).reshape(3, 4)),
    "empty": lambda np: np.array([]),
    "no-rows": lambda np: np.empty((0, 3)),
    "large-rows": lambda np: np.arange(400_000).reshape(4, 100_000),
    "masked": lambda np: np.ma.array([1, 2, 3], mask=[0, 1, 0]),
    "matrix-of-bools": lambda np: np.eye(3, dtype=bool),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_map_takes_arrays(backend: dict[str, Any], kind: str) -> None:
    """Each item of an array is what a loop over it gives: a scalar, or the array of a row."""
    numpy = pytest.importorskip("numpy")
    array = ARRAYS[kind](numpy)
    results = parallel(tasks.identity, **backend).map(array)

    assert [type(result) for result in results] == [type(item) for item in array]
    assert len(results) == len(array)
    for result, item in zip(results, array, strict=True):
        assert getattr(result, "dtype", None) == getattr(item, "dtype", None)
        assert numpy.array_equal(result, item)


def test_an_array_without_dimensions(backend: dict[str, Any]) -> None:
    """An array that can't be iterated fails as in a loop."""
    numpy = pytest.importorskip("numpy")

    with pytest.raises(TypeError, match="0-d"):
        parallel(tasks.identity, **backend).map(numpy.array(5))


def test_not_iterable(backend: dict[str, Any]) -> None:
    """So does anything else that can't be."""
    with pytest.raises(TypeError, match="not iterable"):
        parallel(tasks.identity, **backend).map(5)  # type: ignore[call-overload]


# --- several iterables ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1, 2, 3], [10, 20, 30]),
        ([1, 2, 3], [10]),
        (range(100), itertools.count()),
        (itertools.count(), range(100)),
        ([1, 2], []),
        (range(1000), list(range(999))),
        ((x for x in range(5)), {1: 2, 3: 4}),
    ],
    ids=["equal", "shorter", "infinite", "infinite-first", "empty", "by-one", "generator-and-dict"],
)
def test_several_iterables_end_with_the_shortest(backend: dict[str, Any], first: Any, second: Any) -> None:
    """Iterables are taken in step, up to the end of the shortest."""
    (first, kept), (second, held) = (
        itertools.tee(first) if not hasattr(first, "__len__") else (first, first),
        (itertools.tee(second) if not hasattr(second, "__len__") else (second, second)),
    )

    assert parallel(tasks.add, **backend).map(first, second) == list(map(tasks.add, kept, held))


@pytest.mark.parametrize("items", [range(40), [3], []], ids=["many", "one", "none"])
def test_what_is_repeated_beside_items(backend: dict[str, Any], items: Any) -> None:
    """An endless `repeat` gives the same argument to all calls, in whichever place; one that ends, ends them."""
    add = parallel(tasks.add, **backend)
    expected = [item + 5 for item in items]

    assert add.map(items, itertools.repeat(5)) == expected
    assert add.map(itertools.repeat(5), items) == expected
    assert add.map(iter(items), itertools.repeat(5)) == expected
    assert list(add.imap(items, itertools.repeat(5))) == expected
    assert add.map(items, itertools.repeat(5, 2)) == expected[:2]
    with add.imap(range(1 << 60), itertools.repeat(5)) as results:
        assert [next(results), next(results)] == [5, 6]
    with add.imap(itertools.repeat(1), itertools.repeat(5)) as results:
        assert next(results) == 6


def test_three_iterables(backend: dict[str, Any]) -> None:
    """Three and more too."""
    assert parallel(max, **backend).map([1, 5], [2, 4], [3, 3]) == [3, 5]


def test_several_arrays(backend: dict[str, Any]) -> None:
    """Arrays in step with lists."""
    numpy = pytest.importorskip("numpy")

    assert parallel(tasks.add, **backend).map(numpy.arange(5), [1, 2, 3]) == [1, 3, 5]


def test_starmap(backend: dict[str, Any]) -> None:
    """Each item of `starmap` is the arguments of a call: a tuple, a list, of any length that fits."""
    items = [(1, 2), (3,), [4, 5], (6, 7)]

    assert parallel(tasks.add, **backend).starmap(items) == [3, 13, 9, 13]
    assert parallel(tasks.add, **backend).starmap(iter(items)) == [3, 13, 9, 13]


def test_starmap_of_many(backend: dict[str, Any]) -> None:
    """Many short calls, which run in blocks, keep their order."""
    count = many(5000)
    assert parallel(tasks.add, **backend).starmap((x, x) for x in range(count)) == [2 * x for x in range(count)]


# --- errors ---------------------------------------------------------------------------------------


def failing_generator(count: int) -> Iterator[int]:
    """Gives some items, then raises."""
    yield from range(count)
    raise LookupError("in the input")


@pytest.mark.parametrize("count", [0, 3, 3000])
def test_an_input_that_raises(backend: dict[str, Any], count: int) -> None:
    """The error of an input that raises in the middle is that of the map; the pool goes on."""
    square = parallel(tasks.square, **backend)

    with pytest.raises(LookupError, match="in the input"):
        square.map(failing_generator(many(count) if count > 3 else count))
    assert square.map([3]) == [9]


@pytest.mark.parametrize("make", [list, iter], ids=["list", "generator"])
def test_return_exceptions(backend: dict[str, Any], make: Any) -> None:
    """With `return_exceptions` each error stands in the place of its result."""
    results = parallel(fail_on_odd, **backend).map(make(range(100)), return_exceptions=True)

    assert [result.args[0] if isinstance(result, ValueError) else result for result in results] == list(range(100))
    assert [isinstance(result, ValueError) for result in results] == [False, True] * 50


def test_return_exceptions_of_starmap(backend: dict[str, Any]) -> None:
    """In `starmap` too."""
    results = parallel(divmod, **backend).starmap([(7, 2), (1, 0)], return_exceptions=True)

    assert results[0] == (3, 1)
    assert isinstance(results[1], ZeroDivisionError)


def test_an_exception_that_is_returned_is_a_result(backend: dict[str, Any]) -> None:
    """A task that returns an exception, instead of raising it, has not failed."""
    results = parallel(tasks.identity, **backend).map([ValueError("fine")])

    assert [repr(result) for result in results] == ["ValueError('fine')"]


def test_an_error_is_raised_though_an_earlier_item_runs(processes: dict[str, Any], tmp_path: Path) -> None:
    """The first error that happens is raised at once; the work of the items before it is stopped."""
    never = str(tmp_path / "never")

    with pytest.raises(ValueError, match="fails first"):
        parallel(fail_or_touch_and_wait, **processes, chunksize=1).map([(str(tmp_path / "begun"), never), None])
    assert parallel(tasks.square, **processes).map(range(4)) == [0, 1, 4, 9]


def test_an_error_kills_what_runs(processes: dict[str, Any], tmp_path: Path) -> None:
    """A task that runs when another fails is stopped, with its process."""
    path = tmp_path / "pid"

    with pytest.raises(ValueError, match="fails second"):
        parallel(fail_or_run, **processes).starmap([(str(path), False), (str(path), True)])
    wait_until(lambda: is_gone(int(path.read_text())))


def test_an_error_stops_the_rest(backend: dict[str, Any], tmp_path: Path) -> None:
    """Items that had not started when an item failed are dropped."""
    items = [(str(tmp_path / str(number)), number == 0) for number in range(2000)]

    with pytest.raises(ValueError):
        parallel(note_and_fail, **backend, chunksize=1).map(items)
    assert len(list(tmp_path.iterdir())) < 2000


# --- nothing is shared ----------------------------------------------------------------------------

CHUNKS = [None, 1, 3, 100]


@pytest.mark.parametrize("chunksize", CHUNKS)
def test_arguments_are_not_aliased(processes: dict[str, Any], chunksize: int | None) -> None:
    """A task that mutates its argument does not change that of another item, though both are the same list here."""
    shared: list[int] = []
    results = parallel(append_to, **processes, chunksize=chunksize).map([shared] * 50)

    assert shared == []
    assert results == [[1]] * 50
    assert len({id(result) for result in results}) == 50


@pytest.mark.parametrize("chunksize", CHUNKS)
def test_results_are_not_aliased(processes: dict[str, Any], chunksize: int | None) -> None:
    """An object that a task returns twice arrives as two, however the items were cut into chunks."""
    results = parallel(the_same, **processes, chunksize=chunksize).map(range(50))

    assert len({id(result) for result in results}) == 50


def test_sharing_within_a_result_is_kept(backend: dict[str, Any]) -> None:
    """Within one result, what is the same object stays the same object."""
    results = parallel(shared_pair, **backend).map(range(20))

    assert all(first is second for first, second in results)


def test_a_result_that_grows_later(processes: dict[str, Any]) -> None:
    """With `chunksize=1` a result is what it was when the task returned, though a later task changes the object."""
    one = {**processes, "workers": 1}
    lengths = [len(result) for result in parallel(remember, **one, chunksize=1).map(range(50))]

    assert lengths == list(range(1, 51))


def test_an_input_that_hands_out_one_object_again(processes: dict[str, Any]) -> None:
    """A generator that changes one object and gives it again: each item is as it was when it was given."""

    def rows() -> Iterator[Any]:
        yield 0
        row = [0]
        for number in range(200):
            row[0] = number
            yield row

    assert parallel(tasks.identity, **processes).map(rows()) == [0, *([number] for number in range(200))]


def test_an_input_that_hands_out_one_array_again(processes: dict[str, Any]) -> None:
    """So with a large array."""
    numpy = pytest.importorskip("numpy")

    def frames() -> Iterator[Any]:
        frame = numpy.zeros(20_000)
        for number in range(30):
            frame[:] = number
            yield frame

    results = parallel(tasks.identity, **processes).map(frames())

    assert [(result[0], result[-1]) for result in results] == [(number, number) for number in range(30)]


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 7, 1000])
def test_chunksize(backend: dict[str, Any], chunksize: int) -> None:
    """The chunk size changes nothing but speed."""
    assert parallel(tasks.square, **backend).map(range(50), chunksize=chunksize) == [x * x for x in range(50)]


def test_large_items(backend: dict[str, Any]) -> None:
    """Items of several MB travel both ways."""
    items = [bytes([number]) * 3_000_000 for number in range(6)]

    assert parallel(tasks.repeat, **backend).map(items) == [item * 2 for item in items]


def test_uneven_items(backend: dict[str, Any]) -> None:
    """Slow and fast items come back in order."""
    naps = [0.05 if number % 37 == 0 else 0 for number in range(200)]

    assert parallel(tasks.nap, **backend).map(naps) == naps


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered", "outcomes"])
def test_serially_all_run_in_their_order(method: str) -> None:
    """Whatever is seen of them, what they print or take from a list, comes in the order of the input."""
    run: list[int] = []

    def nap(number: int) -> None:
        run.append(number)
        tasks.nap(0.003 if number % 7 == 3 else 0)

    list(getattr(parallel(nap, backend="serial", workers=3), method)(range(100)))

    assert run == list(range(100))


@pytest.mark.parametrize("chunksize", [None, 1])
def test_a_slow_item_does_not_hold_others_hostage(
    processes: dict[str, Any], chunksize: int | None, tmp_path: Path
) -> None:
    """Items behind a slow one are given to another worker: the slow one ends only when all others have run."""
    count = 40
    paths = [str(tmp_path / f"done-{number}") for number in range(count)]
    items = [*paths[: count // 2], [str(tmp_path), count], *paths[count // 2 :]]

    results = parallel(touch_or_wait, **processes).map(items, chunksize=chunksize)

    assert results == [*paths[: count // 2], count, *paths[count // 2 :]]


def test_a_slow_item_holds_no_other_where_a_worker_is_missing(processes: dict[str, Any], tmp_path: Path) -> None:
    """A pool whose other worker was stopped with the call before starts one for the items behind a slow one."""
    for _ in range(3):
        with pytest.raises(ValueError, match="fails first"):
            parallel(fail_or_wait, **processes).map([str(tmp_path / "never"), None])


@pytest.mark.parametrize("backend", ["processes", "threads"])
@pytest.mark.parametrize("kind", [str, Path], ids=["flat", "pickled"])
def test_slow_items_behind_thousands_of_quick_ones(backend: str, kind: Any, tmp_path: Path) -> None:
    """Slow items where quick ones were expected are shared out, too: these end only when both have begun."""
    slow = [tmp_path / "one", tmp_path / "other"]
    items = [kind("quick")] * many(5000) + [kind(path) for path in slow] + [kind("quick")] * many(5000)

    results = parallel(begin_and_wait, workers=2, backend=backend).map(items)

    assert results == [len(str(item)) for item in items]


@pytest.mark.parametrize("method", ["map", "map_async"])
def test_work_begins_while_a_slow_input_is_read(backend: dict[str, Any], method: str, tmp_path: Path) -> None:
    """Workers have what was read already; where the caller does the work, that is soon enough."""
    if backend.get("backend") == "serial":
        pytest.skip("the caller reads, and then works")

    def pages() -> Iterator[str]:
        for number in range(60):
            yield str(tmp_path / str(number))
            time.sleep(0.005)
        wait_until((tmp_path / "40").exists)
        yield str(tmp_path / "last")

    touch = parallel(tasks.touch, **backend)
    touch.map([str(tmp_path / "warm")])
    results = getattr(touch, method)(pages())

    assert len(results if method == "map" else results.result(60)) == 61


def test_a_slow_input_that_fails_ends_what_it_began(backend: dict[str, Any]) -> None:
    """`map_async` raises its error where the future would have been; the pool goes on."""

    def pages() -> Iterator[int]:
        yield 1
        time.sleep(0.005)
        yield 2
        raise LookupError("no third page")

    square = parallel(tasks.square, **backend)
    with pytest.raises(LookupError, match="no third page"):
        square.map_async(pages())

    assert square.map([3]) == [9]
