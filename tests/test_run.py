"""Running the items of a chunk: one by one, in blocks, and up to a limit."""

from __future__ import annotations

import asyncio
import functools
import itertools
import signal
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
import tasks_in_turn
from hypothesis import given
from hypothesis import strategies as st

from parmap import parallel
from parmap._travel.payload import pack
from parmap._work import run as _run
from parmap._work.page import ALL, Page
from parmap._work.run import Callee, Terms, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def page() -> Iterator[Page]:
    """A status page."""
    made = Page.create()
    yield made
    made.close()


def ran(
    function: Callable[..., Any],
    items: Any,
    mode: str = "map",
    *,
    number: int = 0,
    page: Any = None,
    passes: Any = (),
    **terms: Any,
) -> Any:
    """The outcome of a function over items."""
    return run(
        Callee(function),
        Terms(mode, **{"start": 0, **terms}),
        items,
        len(items),
        number=number,
        page=page,
        passes=passes,
    )


def test_results_in_order() -> None:
    """Each item has its result, in its place."""
    outcome = ran(lambda x: x * 2, range(10_000))

    assert outcome.results == [x * 2 for x in range(10_000)]
    assert (outcome.done, outcome.errors) == (10_000, {})


@pytest.mark.parametrize(
    ("mode", "item", "expected"),
    [("map", (1, 2), "((1, 2),) {}"), ("star", (1, 2), "(1, 2) {}"), ("call", ((1,), {"b": 2}), "(1,) {'b': 2}")],
)
def test_modes(mode: str, item: Any, expected: str) -> None:
    """An item is the argument, the arguments, or the arguments with those that have names."""
    outcome = ran(lambda *args, **kwargs: f"{args} {kwargs}", [item] * 100, mode)

    assert outcome.results == [expected] * 100


@given(st.lists(st.sampled_from(["ok", "value", "stop", "exit", "interrupt"]), max_size=300), st.booleans())
def test_errors_inside_blocks(kinds: list[str], packed: bool) -> None:
    """Whatever is raised at whichever place of a block is the outcome of that item, and of no other."""
    errors = {"value": ValueError, "stop": StopIteration, "exit": SystemExit, "interrupt": KeyboardInterrupt}

    def task(kind: str) -> str:
        if kind in errors:
            raise errors[kind]
        return kind

    items = pack([[[kind]] for kind in kinds])[0] if packed else kinds
    outcome = run(Callee(lambda item: task(item[0][0]) if packed else task(item)), Terms("map", 0), items, len(kinds))

    assert outcome.done == len(outcome.results) == len(kinds)
    assert {index: type(error) for index, error in outcome.errors.items()} == {
        index: errors[kind] for index, kind in enumerate(kinds) if kind in errors
    }
    assert [value for value in outcome.results if value is not None] == [kind for kind in kinds if kind == "ok"]


@pytest.mark.parametrize("place", [0, 1, 50, 99])
def test_stop_iteration(place: int) -> None:
    """A StopIteration, which would end a block in silence, is the error of its item; the others have results."""

    def task(x: int) -> int:
        if x == place:
            raise StopIteration
        return x

    outcome = ran(task, range(100))

    assert list(outcome.errors) == [place]
    assert isinstance(outcome.errors[place], StopIteration)
    assert [x for x in outcome.results if x is not None] == [x for x in range(100) if x != place]


def test_argument_that_cannot_be_loaded() -> None:
    """An item that fails to unpickle is told from a task that fails, and costs no other item."""
    packed, _ = pack([[[1]], _Bomb(), [[3]]])

    outcome = run(Callee(lambda item: item), Terms("map", 0), packed, 3)

    assert type(outcome.errors[1]).__name__ == "LoadError"
    assert isinstance(outcome.errors[1].__cause__, ZeroDivisionError)
    assert (outcome.results[0], outcome.results[2]) == ([[1]], [[3]])


def test_decoding_is_part_of_the_work() -> None:
    """Items that take long to decode make small chunks, as those that take long to run."""
    items, _ = pack([_Late()] * 3)
    outcome = run(Callee(type), Terms("map", 0), items, 3)

    assert outcome.done == 3
    assert outcome.nanoseconds >= 3 * _Late.nanoseconds


class _Late:
    nanoseconds = 2_000_000

    def __reduce__(self) -> Any:
        return time.sleep, (self.nanoseconds / 1e9,)


class _Bomb:
    def __reduce__(self) -> Any:
        return divmod, (1, 0)


def test_stop_early_ends_at_the_first_error() -> None:
    """Where an error ends the job, nothing behind it runs."""
    seen: list[int] = []

    def task(x: int) -> None:
        seen.append(x)
        if x == 40:
            raise ValueError

    outcome = ran(task, range(1000), stop_early=True)

    assert outcome.done == 41
    assert seen == list(range(41))


def test_what_passes_is_raised() -> None:
    """Ctrl-C in the caller's own thread is no outcome of a task."""

    def task(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ran(task, [1], passes=(KeyboardInterrupt,))


def test_budget_gives_the_rest_back() -> None:
    """When its time is over, a chunk ends behind the item that runs; the first is always done."""
    outcome = ran(lambda x: time.sleep(0.01) or x, range(1000), budget=0.0)

    assert outcome.done == 1
    assert outcome.results == [0]


def test_budget_is_looked_at_between_blocks() -> None:
    """Quick items too are given back when the time is over."""
    outcome = ran(lambda x: x, range(10**9), budget=0.01)

    assert 1 < outcome.done < 10**9
    assert outcome.results[-1] == outcome.done - 1


@pytest.mark.parametrize("limit", [0, 1, 17, 100, 1000])
def test_limit_of_the_parent(page: Page, limit: int) -> None:
    """The parent can ask for items back: none from the limit on is begun."""
    page.recall(7, limit)
    seen: list[int] = []

    outcome = ran(seen.append, range(100), number=7, page=page)

    assert outcome.done == min(limit, 100)
    assert seen == list(range(min(limit, 100)))


def test_limit_set_while_running(page: Page) -> None:
    """A limit that is set while an item runs holds from the next item on."""

    def task(x: int) -> None:
        if x == 3:
            page.recall(7, 4)

    outcome = ran(task, range(100), number=7, page=page, careful=True)

    assert outcome.done == 4


def test_limit_of_another_chunk_means_nothing(page: Page) -> None:
    """A limit holds for its own chunk alone."""
    page.recall(8, 0)

    assert ran(abs, range(100), number=7, page=page).done == 100


def test_page_says_where_the_worker_is(page: Page) -> None:
    """While an item runs, the page says which, of which chunk."""
    positions = ran(lambda _: page.position(), range(500), number=7, page=page).results

    for index, position in enumerate(positions):
        assert position.number == 7
        assert position[1] <= index < position[1] + position.length


PLACES = [(0, 1), (2, 1), (0, 3), (5, 40), (ALL, 0)]


@pytest.mark.parametrize(("before", "after"), [*itertools.permutations(PLACES, 2)])
def test_page_is_never_half_written(page: Page, before: tuple[int, int], after: tuple[int, int]) -> None:
    """Wherever a worker dies that goes on to other items, its page names either these or those before."""
    seen = set()

    def look(*_: object) -> Any:
        seen.add(page.position()[:3])
        return look

    page.enter(7, *before, 0)
    tracer = sys.gettrace()
    sys.settrace(look)
    page.enter(7, *after, 1)
    sys.settrace(tracer)

    assert seen | {page.position()[:3]} == {(7, *before), (7, *after)}


def test_careful_items_run_one_by_one(page: Page) -> None:
    """When a culprit is sought, or time is limited, the page names each item by itself."""
    positions = ran(lambda _: page.position(), range(200), number=7, page=page, careful=True).results

    assert [position[1:3] for position in positions] == [(index, 1) for index in range(200)]


def test_quick_items_run_in_blocks(page: Page) -> None:
    """Items that take next to nothing share a note on the page, which would cost more than they do."""
    positions = ran(lambda _: page.position(), range(5000), number=7, page=page).results

    assert max(position.length for position in positions) > 10


def test_error_notes_its_call() -> None:
    """An error says which call it came from, and its traceback begins in the task."""

    def task(a: int, b: int) -> float:
        return a / b

    outcome = ran(task, [(1, 1), (1, 0)], "star", start=10)

    (note,) = outcome.errors[1].__notes__
    assert "item 11: " in note
    assert "task(1, 0)" in note
    trace = outcome.errors[1].__traceback__
    assert trace is not None
    assert trace.tb_frame.f_code.co_filename != _run.__file__


def test_a_tuple_for_several_parameters() -> None:
    """An error of the call itself, with a tuple, points to starmap, and back; one that the function raises does not."""

    def add(a: int, b: int = 0) -> int:
        return a + b

    def raises(_: Any) -> None:
        raise TypeError

    (told,) = ran(lambda a, b: a + b, [(1, 2)], "map").errors[0].__notes__
    (silent,) = ran(raises, [(1, 2)], "map").errors[0].__notes__
    (starred,) = ran(add, [(1, 2, 3)], "star").errors[0].__notes__
    (single,) = ran(add, [1], "star").errors[0].__notes__

    assert told.endswith("((1, 2)): to have the tuple taken apart, use starmap")
    assert silent.endswith("raises((1, 2))")
    assert starred.endswith("add(1, 2, 3)")
    assert single.endswith("add(*1): starmap takes tuples of arguments; for one argument, use map")


def test_repr_that_raises_hides_no_error() -> None:
    """An argument whose repr raises costs the note its text, not the item its error."""

    class Bad:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    def task(_: Any) -> None:
        raise LookupError("seen")

    outcome = ran(task, [Bad()])

    assert isinstance(outcome.errors[0], LookupError)


def test_coroutine_function_is_awaited() -> None:
    """An `async def` task runs on an event loop of its own."""

    async def task(x: int) -> int:
        return x + 1

    assert ran(task, [1, 2]).results == [2, 3]


class Pickled(list[Any]):
    """What is decoded when its turn comes."""


def travelling(items: list[Any]) -> Any:
    """Items as a worker has them: lists need no decoding, and deques are decoded some at a time."""
    return items if type(items[0]) is list else pack(items)[0]


@pytest.fixture
def always_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every item counts as short, however busy the machine is; only the first runs alone."""
    monkeypatch.setattr(_run, "_QUICK", 10**12)
    monkeypatch.setattr(_run, "_BLOCK", 10**12)


@pytest.mark.usefixtures("always_blocks")
@pytest.mark.parametrize("way", [list, Pickled, deque])
@pytest.mark.parametrize("place", [1, 2, 15, 16, 17, 500, 999])
def test_cut(page: Page, place: int, way: Any) -> None:
    """A block can be cut while an item runs: that one ends, no other begins, and the page says which it is."""
    told: list[tuple[int, int]] = []

    def task(x: Any) -> Any:
        if list(x) == [place]:
            page.cut()
            told.append(page.position()[1:3])
        return x

    items: Any = [way([x]) for x in range(1000)]

    outcome = run(Callee(task), Terms("map", 0), travelling(items), 1000, number=7, page=page)

    assert outcome.done == place + 1
    assert outcome.results == items[: place + 1]
    assert not outcome.errors
    assert told == [(place, 1)]


@pytest.mark.usefixtures("always_blocks")
@pytest.mark.parametrize("place", [5, 6])
def test_stop_iteration_in_a_block_that_is_cut(page: Page, place: int) -> None:
    """The error of an item that ran is told from the end of a block that was cut."""

    def task(x: int) -> int:
        if x == 6:
            page.cut()
        if x == place:
            raise StopIteration
        return x

    outcome = ran(task, range(50), number=7, page=page)

    assert list(outcome.errors) == [place]
    assert outcome.done == 7


@pytest.mark.parametrize("way", [list, Pickled, deque])
def test_cuts_at_any_moment(page: Page, way: Any) -> None:
    """A signal that comes at whichever moment loses no item and runs none twice."""
    items: Any = [way([x]) for x in range(5000)]
    seen: list[Any] = []
    before = signal.signal(signal.SIGALRM, page.cut)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        while rest := items[len(seen) :]:
            outcome = run(Callee(lambda x: x), Terms("map", 0), travelling(rest), len(rest), number=7, page=page)
            assert not outcome.errors
            seen += outcome.results
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert seen == items


def test_a_stop_among_many_short_items(backend: dict[str, Any]) -> None:
    """A StopIteration is the error of its own item, however many short ones run beside it."""
    f = parallel(tasks_in_turn.next_of, **backend)
    f.map([[1]] * 5000)
    found = f.map([*([[1]] * 3000), [], *([[2]] * 3000)], return_exceptions=True)

    assert found[:3000] == [1] * 3000
    assert isinstance(found[3000], StopIteration | RuntimeError)
    assert found[3001:] == [2] * 3000


def test_coroutines_under_other_things(backend: dict[str, Any]) -> None:
    """A decorator may run them itself, or make one of a plain function; an object may give one when it is called."""

    async def later(x: int) -> int:
        return 2 * x

    @functools.wraps(later)
    def at_once(x: int) -> int:
        return asyncio.run(later(x))

    def plain(x: int) -> int:
        return 2 * x

    @functools.wraps(plain)
    async def wrapped(x: int) -> int:
        return plain(x)

    class Doubling:
        async def __call__(self, x: int) -> int:
            return 2 * x

    async def on_a_loop() -> list[int]:
        return parallel(wrapped, **backend).map([1]) + parallel(at_once, **backend).map([1])

    for function in (at_once, wrapped, Doubling(), functools.partial(Doubling())):
        assert parallel(function, **backend).map([1, 2]) == [2, 4]
    assert asyncio.run(on_a_loop()) == [2, 2]
