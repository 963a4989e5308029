"""`imap` and `imap_unordered`: as they come, in bounded memory, and without a trace when they are left early."""

from __future__ import annotations

import asyncio
import gc
import itertools
import operator
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import tasks
from tasks_in_turn import begin, fail_on_three, fail_or_wait, wait_for_second, wait_or_not, wait_or_touch

import parmap
from conftest import wait_until
from parmap import ResultStream, parallel
from parmap._results.input.reader import Reader
from parmap._results.input.source import Input
from parmap._results.order import Order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("pools_stay")

ORDERS = ["imap", "imap_unordered"]


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest) -> str:
    """The name of the method: ordered, and not."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def stream(backend: dict[str, Any], order: str) -> Callable[..., ResultStream[Any]]:
    """Starts a stream: `stream(function, *iterables, **options)`."""
    return lambda function, *iterables, **options: getattr(parallel(function, **backend), order)(*iterables, **options)


@pytest.fixture(params=["forkserver", "spawn", "threads"])
def concurrent(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The backends on which two tasks run at the same time."""
    if request.param == "threads":
        return {"workers": 2, "backend": "threads"}
    return {"workers": 2, "backend": "processes", "start_method": request.param}


@pytest.mark.parametrize("make", [list, iter, tuple], ids=["list", "generator", "tuple"])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 1000])
def test_all_results(stream: Callable[..., Any], order: str, make: Any, count: int) -> None:
    """A stream gives each result once, in order where order was asked for, however long its input."""
    results = list(stream(tasks.square, make(range(count))))

    assert (results if order == "imap" else sorted(results)) == [x * x for x in range(count)]


def test_several_iterables(stream: Callable[..., Any]) -> None:
    """Several iterables are taken in step, up to the end of the shortest."""
    assert sorted(stream(tasks.add, itertools.count(), [10, 20])) == [10, 21]


@pytest.mark.parametrize("columns", [1, 2])
def test_a_range_that_has_no_len(backend: dict[str, Any], order: str, columns: int) -> None:
    """A range of more items than an int of C can count is as good as an endless input, alone or beside others."""
    told: list[Any] = []
    function = parallel(operator.neg if columns == 1 else operator.sub, progress=lambda *count: told.append(count))
    with getattr(function.options(**backend), order)(*[range(10**30)] * columns) as results:
        first = list(itertools.islice(results, 3))

    assert len(first) == 3
    assert {total for _, total, _ in told} == {None}


def test_an_input_that_is_cut_while_it_is_read(stream: Callable[..., Any]) -> None:
    """Of several lists, one may lose items meanwhile: then the stream ends where that one does."""
    one, other = list(range(5000)), list(range(5000))
    results = stream(tasks.add, one, other, buffersize=20)
    next(results)
    other.clear()

    assert len(list(results)) < 100


@pytest.mark.parametrize("buffersize", [None, 1, 3, 1000])
def test_an_infinite_input(stream: Callable[..., Any], buffersize: int | None) -> None:
    """Ten results of an input without an end."""
    with stream(tasks.square, itertools.count(), buffersize=buffersize) as results:
        taken = list(itertools.islice(results, 10))

    assert len(set(taken)) == 10


@pytest.mark.parametrize("given", ["buffersize", "chunksize"])
def test_as_far_as_there_are_numbers(stream: Callable[..., Any], given: str) -> None:
    """A limit that nothing reaches is none."""
    assert sorted(stream(tasks.square, iter([1, 2]), **{given: 10**30})) == [1, 4]


@pytest.mark.parametrize("method", [*ORDERS, "outcomes"])
@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("3", TypeError)])
def test_a_bad_buffersize(method: str, size: Any, error: type[Exception]) -> None:
    """A stream that could never begin, since it may read nothing ahead, is refused at once."""
    with pytest.raises(error, match="buffersize must be an int of at least 1"):
        getattr(parallel(tasks.square, workers=2), method)([1], buffersize=size)


class Meter:
    """Counts what is read from an input."""

    def __init__(self) -> None:
        self.read = 0

    def __call__(self, items: Any) -> Iterator[Any]:
        for item in items:
            self.read += 1
            yield item


@pytest.mark.parametrize("buffersize", [1, 2, 5, 64])
def test_the_window_is_never_exceeded(stream: Callable[..., Any], buffersize: int) -> None:
    """Whenever a result is handed out, the input was read no more than `buffersize` items ahead of it."""
    meter = Meter()
    results = stream(tasks.square, meter(range(300)), buffersize=buffersize)
    ahead = [meter.read]
    for handed_out, _ in enumerate(results, 1):
        ahead.append(meter.read - handed_out)

    assert len(ahead) == 301
    assert max(ahead) <= buffersize


def test_the_window_counts_what_was_handed_out(stream: Callable[..., Any]) -> None:
    """A consumer that stops makes the reading stop, though results are completed."""
    meter = Meter()
    with stream(tasks.square, meter(itertools.count()), buffersize=10) as results:
        for _ in range(5):
            next(results)

        assert meter.read <= 15


def test_the_window_holds_for_lists_too(backend: dict[str, Any], order: str, tmp_path: Path) -> None:
    """A list lies there, but its tasks are started only so far ahead."""
    items = [(str(tmp_path), number) for number in range(200)]
    with getattr(parallel(begin, **backend), order)(items, buffersize=4) as results:
        for handed_out in range(1, 6):
            next(results)

            assert len(list(tmp_path.iterdir())) <= handed_out + 4


def test_little_is_read_for_who_takes_little(stream: Callable[..., Any]) -> None:
    """Without `buffersize`, no more is read than ten times what was taken, and some to begin with."""
    meter = Meter()
    with stream(tasks.square, meter(itertools.count())) as results:
        for taken in range(1, 300):
            next(results)

            assert 0 < meter.read <= 10 * taken + 256


def test_results_are_handed_out_while_a_slow_input_is_read(stream: Callable[..., Any]) -> None:
    """Whoever reads files, rows or pages has the first result soon, not when all that fits was read."""
    read = 0

    def pages() -> Iterator[int]:
        nonlocal read
        while read < 400:
            read += 1
            yield read
            time.sleep(0.02)

    list(stream(tasks.square, [1, 2]))
    results = stream(tasks.square, pages())
    next(results)
    soon = read
    results.close()

    assert soon < 200


def test_no_result_waits_for_more_than_an_item(order: str) -> None:
    """Not for the one after the next: who waits for messages has the answers to those that came before the last."""
    square = parallel(tasks.square, workers=1)
    read = 0

    def messages() -> Iterator[int]:
        nonlocal read
        for read in range(1, 9):
            time.sleep(0.02)
            if read > 1:  # its turn comes after the item before
                square.submit(read).result()
            yield read

    for taken, _ in enumerate(getattr(square, order)(messages()), 1):
        assert read <= taken + 1


def test_a_quick_result_comes_before_the_next_item(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where reading takes long, a moment is left for the task that began before."""
    monkeypatch.setattr("parmap._results.input.source._PATIENCE", 1_000.0)  # however busy the machine is
    read = 0

    def messages() -> Iterator[int]:
        nonlocal read
        for read in range(1, 9):
            time.sleep(0.02)
            yield read

    for taken, _ in enumerate(getattr(parallel(tasks.square, workers=1), order)(messages()), 1):
        assert read == taken


@pytest.mark.parametrize("quick", [1, 2, 10, 300])
def test_an_input_that_becomes_slow(quick: int, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a log that is followed, once what was there is read: who takes results has those of all that came, soon."""
    monkeypatch.setattr("parmap._results.input.source._PATIENCE", 1_000.0)
    read = 0

    def messages() -> Iterator[int]:
        nonlocal read
        for read in range(1, quick + 9):
            if read > quick:
                time.sleep(0.02)
            yield read

    ahead = [read - taken for taken, _ in enumerate(getattr(parallel(tasks.square, workers=1), order)(messages()), 1)]

    assert ahead[quick:] == [0] * 8


def test_results_that_become_large(concurrent: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Thousands of items were read while results were small: nothing begins while too much waits to be taken."""
    monkeypatch.setattr("parmap._results.input.window.MOST_BYTES", 1_000_000)
    log = tmp_path / "log"
    log.touch()

    def task(x: int) -> bytes:
        if x < 2000:
            return b""
        with log.open("ab") as file:
            file.write(b".")
        return b"x" * 20_000

    def have_begun() -> int:
        begun, until = 0, time.monotonic() + 0.3
        while time.monotonic() < until:
            if log.stat().st_size > begun:
                begun, until = log.stat().st_size, time.monotonic() + 0.3
            time.sleep(0.01)
        return begun

    function = parallel(task, **concurrent)
    function.map(range(2000))
    with function.imap(iter(range(12_000))) as stream:
        taken = [len(next(stream)) for _ in range(2001)]
        begun = have_begun()
        taken += map(len, stream)

    assert taken == [*[0] * 2000, *[20_000] * 10_000]
    assert begun < 5000


@pytest.mark.parametrize("loop", [False, True])
def test_large_results_behind_one_that_is_late(
    loop: bool, concurrent: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is to be taken next never waits for what can't be taken before it."""
    monkeypatch.setattr("parmap._results.input.window.MOST_BYTES", 100_000)
    path = tmp_path / "begun"

    def task(x: int) -> bytes:
        if x < 2000:
            return b""
        if x == 2500:
            path.touch()
        wait_until(lambda: x > 2000 or path.exists())
        return b"x" * 20_000

    async def collect() -> list[bytes]:
        return [result async for result in function.imap(range(3000))]

    function = parallel(task, **concurrent)
    function.map(range(2000))
    results = asyncio.run(collect()) if loop else [*function.imap(range(3000))]

    assert [*map(len, results)] == [*[0] * 2000, *[20_000] * 1000]


def test_an_interrupt_just_as_there_is_room_again(concurrent: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever goes on after a Ctrl-C has all results, though nobody was told then that there is room."""
    monkeypatch.setattr("parmap._results.input.window.MOST_BYTES", 100_000)
    load, interrupts = Order.load, 0

    def interrupted(self: Order) -> bool:
        nonlocal interrupts
        was_full = self._batch.is_full()
        has_loaded = load(self)
        if was_full and not self._batch.is_full():
            interrupts += 1
            raise KeyboardInterrupt
        return has_loaded

    def task(x: int) -> bytes:
        return b"x" * (20_000 if x >= 2000 else 0)

    monkeypatch.setattr(Order, "load", interrupted)
    function = parallel(task, **concurrent, chunksize=10)
    function.map(range(2000))
    sizes: list[int] = []
    with function.imap(iter(range(2400))) as stream:
        while len(sizes) < 2400:
            try:
                sizes.append(len(next(stream)))
            except KeyboardInterrupt:
                continue
            if len(sizes) > 2000 and not interrupts:  # where all that has begun is loaded already, one has to go on
                deadline = time.monotonic() + 0.5
                while not stream._batch.is_full() and time.monotonic() < deadline:
                    time.sleep(0.005)

    assert sizes == [*[0] * 2000, *[20_000] * 400]
    assert interrupts


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("backend_name", ["processes", "threads"])
def test_what_has_ended_is_told_before_a_block_of_slow_items_has(
    workers: int, backend_name: str, tmp_path: Path
) -> None:
    """Items that were expected to be short are not looked at one by one; but nor do those that ran wait for hours."""
    log = tmp_path / "log"
    log.touch()

    def task(x: int) -> int:
        if x >= 5000:
            time.sleep(0.01)
            with log.open("ab") as file:
                file.write(b".")
        return x

    function = parallel(task, workers=workers, backend=backend_name)
    function.map(range(4))
    assert function.map(range(5000)) == [*range(5000)]
    had_run = {x: log.stat().st_size for x in function.imap(iter(range(5300)))}

    assert [*had_run] == [*range(5300)]
    assert max(had_run[x] for x in range(5000)) < 150


def test_results_are_handed_out_without_a_look_at_the_input_each(
    order: str, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    """Nothing is read before they are gone, where reading takes long."""
    if pytestconfig.getoption("--one-by-one"):
        pytest.skip("each comes alone")
    looks = []
    read_on = ResultStream._read_on
    monkeypatch.setattr(ResultStream, "_read_on", lambda stream: looks.append(1) or read_on(stream))

    def lines() -> Iterator[int]:
        for number in range(2_000):
            if number % 100 == 0:
                time.sleep(0.003)
            yield number

    stream = getattr(parallel(tasks.square, workers=1, chunksize=50), order)(lines())

    assert sum(stream) == sum(number**2 for number in range(2_000))
    assert len(looks) < 500


def test_the_default_window_is_one_of_bytes(stream: Callable[..., Any]) -> None:
    """Large results are waited for in smaller numbers: with a slow consumer too, memory stays flat."""
    meter = Meter()
    ahead = []
    with stream(bytes, meter(itertools.repeat(4 << 20))) as results:
        for handed_out in range(1, 61):
            next(results)
            ahead.append(meter.read - handed_out)

    assert max(ahead) <= 16


# --- errors ---------------------------------------------------------------------------------------


def failing_generator(count: int) -> Iterator[int]:
    """Gives some items, then raises."""
    yield from range(count)
    raise LookupError("in the input")


@pytest.mark.parametrize("count", [0, 1, 5, 500])
def test_an_input_that_raises(stream: Callable[..., Any], count: int) -> None:
    """The results of the items before it are handed out, then the error of the input is raised, then it is over."""
    results = stream(tasks.square, failing_generator(count))
    got = []
    with pytest.raises(LookupError, match="in the input"):  # noqa: PT012 - it raises while it is iterated
        for result in results:
            got.append(result)  # noqa: PERF402 - what came before the error is asserted on

    assert sorted(got) == [x * x for x in range(count)]
    assert list(results) == []


def test_an_error_ends_the_stream(stream: Callable[..., Any]) -> None:
    """The error of a task is raised, and the stream is over."""
    results = stream(fail_on_three, range(100))
    with pytest.raises(ValueError, match="three"):
        list(results)

    assert list(results) == []


def test_return_exceptions(stream: Callable[..., Any]) -> None:
    """With `return_exceptions` errors are handed out among the results, and the stream goes on."""
    results = list(stream(fail_on_three, iter(range(50)), return_exceptions=True))

    assert len(results) == 50
    assert [str(result) for result in results if isinstance(result, ValueError)] == ["three"]


def test_an_error_is_raised_though_an_earlier_item_runs(processes: dict[str, Any], order: str, tmp_path: Path) -> None:
    """The first error that happens is raised at once, ordered or not."""
    with pytest.raises(ValueError, match="fails first"):
        list(getattr(parallel(fail_or_wait, **processes), order)([str(tmp_path / "never"), None]))


# --- order ----------------------------------------------------------------------------------------


def test_unordered_hands_out_what_is_completed(concurrent: dict[str, Any], tmp_path: Path) -> None:
    """A result is handed out though an earlier item still runs."""
    path = str(tmp_path / "go")
    results = parallel(wait_or_not, **concurrent).imap_unordered([path, None, None, None])

    assert [next(results) for _ in range(3)] == [None] * 3
    tasks.touch(path)
    assert list(results) == [path]


def test_ordered_waits_for_the_first(concurrent: dict[str, Any], tmp_path: Path) -> None:
    """Ordered results wait for their turn."""
    path = str(tmp_path / "go")
    items = [None, path, "last"]
    results = parallel(wait_or_touch, **concurrent).imap(items, chunksize=1)

    assert next(results) is None
    tasks.touch(path)
    assert list(results) == [path, "last"]


# --- leaving early --------------------------------------------------------------------------------


LEAVE: dict[str, Callable[[Any], None]] = {
    "close": lambda held: held.pop().close(),
    "close-twice": lambda held: (held[0].close(), held.pop().close())[0],
    "with": lambda held: held.pop().__exit__(None, None, None),
    "garbage": lambda held: (held.clear(), gc.collect())[0],
}


@pytest.mark.parametrize("how", LEAVE)
def test_a_stream_that_is_left_early(processes: dict[str, Any], order: str, how: str, tmp_path: Path) -> None:
    """Leaving a stream stops its running tasks, drops the others, and leaves the pool usable."""
    begun, never = tmp_path / "begun", str(tmp_path / "never")
    held = [getattr(parallel(wait_for_second, **processes), order)([(str(begun), never)] * 1000)]
    wait_until(begun.exists)
    LEAVE[how](held)

    assert parallel(tasks.square, **processes).map(range(20)) == [x * x for x in range(20)]


def test_a_stream_that_is_left_by_an_exception(processes: dict[str, Any], order: str, tmp_path: Path) -> None:
    """An exception in the body of the loop, within `with`, closes the stream."""
    never = str(tmp_path / "never")
    parmap.shutdown()  # of a pool that knows nothing of the function the first result comes without those behind it

    def use() -> None:
        with getattr(parallel(wait_or_not, **processes), order)(
            [None, *[never] * 100], return_exceptions=True
        ) as results:
            for _ in results:
                raise KeyError

    with pytest.raises(KeyError):
        use()
    assert parallel(tasks.square, **processes).map(range(20)) == [x * x for x in range(20)]


@pytest.mark.parametrize("asks", [next, lambda stream: asyncio.run(anext(stream))], ids=["next", "anext"])
def test_a_serial_task_that_waits_for_its_own_stream(order: str, asks: Callable[[Any], Any]) -> None:
    """It would wait for itself: that is refused, and the stream goes on."""

    def task(x: int) -> int:
        return int(asks(results)) if x == 1 else x

    results = getattr(parallel(task, backend="serial"), order)(range(4), return_exceptions=True)
    zero, refused, *others = results

    assert [zero, *others] == [0, 2, 3]
    assert isinstance(refused, RuntimeError)
    assert "its own tasks" in str(refused)


def test_a_generator_is_let_go(stream: Callable[..., Any]) -> None:
    """A stream that was closed lets its input go, whose `finally` runs."""
    ended = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            ended.set()

    results = stream(tasks.square, items(), buffersize=5)
    next(results)
    results.close()
    del results
    gc.collect()

    assert ended.wait(20)


def test_a_closed_stream_is_empty(stream: Callable[..., Any]) -> None:
    """A closed stream has no more results."""
    results = stream(tasks.square, itertools.count())
    next(results)
    results.close()

    assert list(results) == []


def test_two_streams_at_once(backend: dict[str, Any], order: str) -> None:
    """Two streams are consumed in turn without mixing."""
    start = getattr(parallel(tasks.square, **backend), order)
    one, other = start(range(100), buffersize=3), start(iter(range(100, 200)), buffersize=3)
    pairs = list(zip(one, other, strict=True))

    assert sorted(first for first, _ in pairs) == [x * x for x in range(100)]
    assert sorted(second for _, second in pairs) == [x * x for x in range(100, 200)]


def test_a_stream_of_a_stream(backend: dict[str, Any]) -> None:
    """The results of one stream are the input of the next."""
    square, add = parallel(tasks.square, **backend), parallel(tasks.add, **backend)

    assert list(add.imap(square.imap(range(50)))) == [x * x + 10 for x in range(50)]


def test_two_threads_share_a_stream(stream: Callable[..., Any]) -> None:
    """Each result goes to one of them."""
    results = stream(tasks.square, range(500))
    got: list[list[int]] = [[], []]
    threads = [threading.Thread(target=lambda part=part: part.extend(results)) for part in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(got[0] + got[1]) == [x * x for x in range(500)]


# --- asyncio --------------------------------------------------------------------------------------


def test_async_for(stream: Callable[..., Any]) -> None:
    """A stream is an asynchronous iterator."""

    async def main() -> list[int]:
        return [result async for result in stream(tasks.square, range(100))]

    assert sorted(asyncio.run(main())) == [x * x for x in range(100)]


def test_async_for_raises(stream: Callable[..., Any]) -> None:
    """It raises as the other does: the error of a task, and that of the input."""

    async def main(function: Any, items: Any) -> None:
        async for _ in stream(function, items):
            pass

    with pytest.raises(ValueError, match="three"):
        asyncio.run(main(fail_on_three, range(10)))
    with pytest.raises(LookupError):
        asyncio.run(main(tasks.square, failing_generator(5)))


def test_the_event_loop_goes_on(concurrent: dict[str, Any], tmp_path: Path) -> None:
    """While a result is awaited other coroutines run: one of them lets the task end."""
    path = str(tmp_path / "go")

    async def main() -> list[str]:
        async def release() -> None:
            tasks.touch(path)

        releasing = asyncio.create_task(release())
        results = [result async for result in parallel(tasks.wait_for, **concurrent).imap([path])]
        await releasing
        return results

    assert asyncio.run(main()) == [path]


def test_async_for_that_is_cancelled(processes: dict[str, Any], tmp_path: Path) -> None:
    """A coroutine that is cancelled while it awaits a result ends at once; the pool is usable when the stream is closed."""
    never = str(tmp_path / "never")

    async def main() -> None:
        with parallel(tasks.wait_for, **processes).imap([never] * 10) as results:
            await asyncio.wait_for(anext(results), 0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert parallel(tasks.square, **processes).map(range(4)) == [0, 1, 4, 9]


def test_a_list_that_is_cut_while_it_is_read(backend: dict[str, Any]) -> None:
    """The stream ends where the list does, as the builtin's would."""
    items = list(range(20_000))
    stream = parallel(tasks.square, **backend).imap(items)
    first = next(stream)
    items.clear()

    assert operator.length_hint(stream) >= 0
    rest = list(stream)
    assert [first, *rest] == [x * x for x in range(len(rest) + 1)]


def test_what_a_thread_reads_comes_behind_what_was_read_before() -> None:
    """Also where the engine takes both at once, and the end with them."""
    notes: list[Any] = []
    given: list[tuple[int, list[int], bool]] = []
    engine: Any = SimpleNamespace(
        offer=lambda note: not notes.append(note),
        take=lambda _, items, *, last, start: given.append((start, [*items], last)),
        extend=None,
    )
    source = Input((iter(range(6)),), packs=False)
    source.read(2)
    job: Any = None
    reader = Reader(engine, job, source, 100)
    reader.thread.join(30)
    for note in notes:
        note()

    assert given == [(0, [0, 1, 2, 3, 4, 5], True)]
