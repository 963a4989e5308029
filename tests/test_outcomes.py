"""`outcomes`: what became of each item, and `item_of`: which item an error is of."""

from __future__ import annotations

import asyncio
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import tasks
from tasks_at_fault import Box, open_box, stumble, ten_over

import parmap
from parmap import Outcome, TaskTimeoutError, WorkerDiedError, item_of, parallel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from conftest import Script

pytestmark = pytest.mark.usefixtures("pools_stay")


def test_items_are_those_of_the_input(backend: dict[str, Any]):
    """Each outcome has the very object that was given, its place, and its value or its error."""
    call = parallel(open_box, **backend)
    boxes = [Box(content) for content in [*range(40), "no number", 41]]

    for make, ordered in itertools.product([list, iter], [True, False]):
        outcomes = list(call.outcomes(make(boxes), ordered=ordered))

        if not ordered:
            outcomes.sort(key=lambda outcome: outcome.index)
        assert [outcome.index for outcome in outcomes] == list(range(42))
        assert all(outcome.item is box for outcome, box in zip(outcomes, boxes, strict=True))
        assert [outcome.value for outcome in outcomes] == [*range(40), None, 41]
        assert [outcome.item.content for outcome in outcomes if not outcome.ok] == ["no number"]
        assert isinstance(outcomes[40].error, ValueError)


def test_deaths_and_timeouts_are_outcomes(processes: dict[str, Any]):
    """An item that ends its worker, or takes too long, stops nothing: its outcome says so, and how long it had run."""
    call = parallel(stumble, timeout=0.5, **processes)

    good, died, late, bad, last = call.outcomes(["1", "die", "hang", "x", "2"])

    assert good.ok
    assert last.ok
    assert isinstance(died.error, WorkerDiedError)
    assert isinstance(late.error, TaskTimeoutError)
    assert isinstance(bad.error, ValueError)
    assert late.seconds is not None
    assert late.seconds >= 0.5
    assert {outcome.worker for outcome in (good, died, late, bad, last)} <= {0, 1}
    assert bad.seconds is not None


def test_result_raises(backend: dict[str, Any]):
    """`result` gives the value, or raises the error."""
    good, bad = parallel(ten_over, **backend).outcomes([5, 0])

    assert good.result() == 2.0
    with pytest.raises(ZeroDivisionError):
        bad.result()


def test_several_iterables(backend: dict[str, Any]):
    """The item of several iterables is the tuple of theirs."""
    outcomes = list(parallel(ten_over, **backend).outcomes([1, 0, 5], itertools.repeat(2)))

    assert [(outcome.item, outcome.value) for outcome in outcomes] == [((1, 2), 5.0), ((0, 2), None), ((5, 2), 1.0)]


def test_attempts_are_counted(backend: dict[str, Any], tmp_path: Any):
    """An outcome tells how often its item was tried, whether it succeeded in the end or not."""

    def flaky(n: int) -> int:
        with (tmp_path / str(n)).open("a+") as file:
            file.write("x")
            file.seek(0)
            if len(file.read()) <= n:
                raise OSError(n)
        return n

    call = parallel(flaky, retries=2, **backend)

    assert [(outcome.attempts, outcome.ok) for outcome in call.outcomes([0, 1, 2, 3])] == [
        (1, True),
        (2, True),
        (3, True),
        (3, False),
    ]


def test_seconds_are_those_of_the_task(backend: dict[str, Any]):
    """The time is that of the item itself, not that of its neighbours."""
    long, *short = parallel(tasks.nap, **backend).outcomes([0.05] + [0.0] * 20)

    assert long.seconds is not None
    assert long.seconds >= 0.05
    assert min(each.seconds or 0.0 for each in short) < 0.05  # one of them was not held up, however busy the machine is


def test_the_worker_is_told(backend: dict[str, Any]):
    """The worker of an outcome is the one that ran it, by the number that it knows itself by."""
    outcomes = parallel(lambda _: parmap.worker().index, **backend).outcomes(range(50))

    assert all(outcome.worker == outcome.value for outcome in outcomes)


def test_what_cannot_travel_is_an_outcome(processes: dict[str, Any]):
    """An item that can't be pickled fails alone, and so does a result; the item is there all the same."""
    generator = (n for n in range(3))
    first, second, third = parallel(lambda item: (n for n in item) if item == "results" else 1, **processes).outcomes(
        iter(["fine", generator, "results"])
    )

    assert first.ok
    assert isinstance(second.error, parmap.SerializationError)
    assert second.item is generator
    assert isinstance(third.error, parmap.SerializationError)
    assert item_of(third.error) == "results"
    assert third.error.__notes__[-1].endswith("('results'): its result can't be sent")


def test_an_object_handed_out_again_and_again(processes: dict[str, Any]):
    """Each task sees what the object was when it was read, though there is only one."""

    def items() -> Iterator[Box]:
        box = Box(0)
        for box.content in range(5):
            yield box

    assert [outcome.value for outcome in parallel(open_box, **processes).outcomes(items())] == [0, 1, 2, 3, 4]


def test_on_an_event_loop(backend: dict[str, Any]):
    """By `async for`, from an asynchronous input, too."""
    boxes = [Box(n) for n in range(10)]

    async def source() -> AsyncIterator[Box]:
        for box in boxes:
            await asyncio.sleep(0)
            yield box

    async def collect() -> list[Outcome[int]]:
        call = parallel(open_box, **backend)
        return [o async for o in call.outcomes(source())] + [o async for o in call.outcomes(boxes)]

    outcomes = asyncio.run(collect())

    assert all(outcome.item is box for outcome, box in zip(outcomes, boxes * 2, strict=True))


def test_left_early():
    """An endless input, left by `with`, as any stream."""
    with parallel(tasks.square, workers=1).outcomes(itertools.count(), buffersize=4) as stream:
        assert [next(stream).value for _ in range(3)] == [0, 1, 4]


def test_on_an_executor():
    """An executor of the user's tells the same."""
    with ThreadPoolExecutor(2) as executor:
        outcomes = list(parallel(ten_over, backend=executor).outcomes([1, 0]))

    assert [outcome.ok for outcome in outcomes] == [True, False]
    assert outcomes[1].seconds is not None


def test_the_error_of_a_batch_knows_its_item(backend: dict[str, Any]):
    """Whatever method raised or returned it; of an iterator's items, those that workers got may be copies."""
    call, boxes = parallel(open_box, **backend), [Box(1), Box("x"), Box(2)]

    raised = []
    for run in (
        lambda: call.map(boxes),
        lambda: call.starmap([(box,) for box in boxes]),
        lambda: list(call.imap(iter(boxes))),
        lambda: list(call.imap_unordered(boxes)),
        lambda: call.map_async(boxes).result(),
        lambda: call.submit(boxes[1]).result(),
    ):
        with pytest.raises(ValueError, match="invalid literal") as caught:
            run()
        raised.append(caught.value)
    returned = [call.map(boxes, return_exceptions=True)[1], call.submit(boxes[1]).exception()]

    starred = item_of(raised.pop(1))
    assert starred[0] is boxes[1]
    assert {item_of(error) for error in [*raised, *returned] if error is not None} == {boxes[1]}


def test_item_of_a_call():
    """Of a call it is the argument; if there are several, all of them."""
    call = parallel(ten_over, workers=1)

    errors = [call.submit(0), call.submit(0, 2), call.submit(0, m=2)]

    assert [item_of(future.exception(30) or ValueError()) for future in errors] == [0, (0, 2), ((0,), {"m": 2})]


def test_item_of_a_death():
    """A worker that died, a task that took too long, a result that can't be read here: they know their items."""

    class Unreadable:
        """Pickled well, but not to be unpickled."""

        def __reduce__(self) -> Any:
            return int, ("not here",)

    call = parallel(lambda how: Unreadable() if how == "unreadable" else stumble(how), workers=2, timeout=1.0)

    found = call.map(["1", "die", "hang", "unreadable"], return_exceptions=True)

    assert [item_of(error) for error in found if isinstance(error, Exception)] == ["die", "hang", "unreadable"]


def test_an_error_of_nobody():
    """An error that no task had is told apart; so is one that was pickled, since the item stays where it is."""
    error = parallel(int, workers=1).submit("x").exception(30)

    with pytest.raises(LookupError, match="isn't tied to an item"):
        item_of(ValueError())
    with pytest.raises(LookupError, match="isn't tied to an item"):
        item_of(pickle.loads(pickle.dumps(error)))


def test_in_a_script(script: Script):
    """Classes and functions of a script, from a list and from a generator: the items are found again."""
    done = script.run("""
        import parmap

        class Job:
            def __init__(self, n):
                self.n = n

        @parmap.parallel(workers=2)
        def run(job):
            return 6 // job.n

        jobs = [Job(n) for n in (1, 0, 2, 0, 3)]
        bad = [o.item for o in run.outcomes(job for job in jobs) if not o.ok]
        assert bad == [jobs[1], jobs[3]]
        found = run.map((job for job in jobs), return_exceptions=True)
        assert [parmap.item_of(e) for e in found if isinstance(e, Exception)] == bad
        print("done")
    """)

    assert done.stdout == "done\n", done.stderr


def test_within_a_task():
    """A task that asks for outcomes itself runs them serially, and sees the same."""

    def outer(n: int) -> list[tuple[Any, bool]]:
        return [(outcome.item, outcome.ok) for outcome in parallel(ten_over).outcomes([n, 0])]

    assert parallel(outer, workers=1).map([1]) == [[(1, True), (0, False)]]


def test_its_text_is_short():
    """An outcome shows its item and its end, however large they are."""
    good, bad = parallel(lambda text: text * int(text), workers=1).outcomes(["3", "x" * 10_000])

    assert repr(good) == "<parmap.Outcome 0 of '3': '333'>"
    assert "ValueError" in repr(bad)
    assert len(repr(bad)) < 200
