"""What goes wrong on the way of one item is that item's error, and nobody else's."""

from __future__ import annotations

import pickle
import signal
from typing import TYPE_CHECKING, Any

import pytest
import tasks_at_fault as bad
from tasks import identity

from parmap import RemoteError, SerializationError, WorkerDiedError, parallel

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("pools_stay")


def by_map(function: Any, items: list[Any]) -> list[Any]:
    return function.map(items, return_exceptions=True)


def by_imap(function: Any, items: list[Any]) -> list[Any]:
    return list(function.imap(items, return_exceptions=True))


def by_submit(function: Any, items: list[Any]) -> list[Any]:
    return [future.exception(timeout=60) or future.result() for future in [function.submit(item) for item in items]]


def one_by_one(function: Any, items: list[Any]) -> list[Any]:
    """Submit each task when the one before has ended: an idle worker takes it from the calling thread."""
    outcomes = []
    for item in items:
        future = function.submit(item)
        outcomes.append(future.exception(timeout=60) or future.result())
    return outcomes


calls = pytest.mark.parametrize("call", [by_map, by_imap, by_submit, one_by_one])
numbers = [1, 2, 3, 4, 5, 6, 7, 8]
ends = pytest.mark.parametrize("how", ["exit", "kill"])


def with_culprit(culprit: Any) -> list[Any]:
    return [*numbers[:5], culprit, *numbers[5:]]


def culprit_of(outcomes: list[Any]) -> Any:
    """The outcome of the culprit; all others must have their results."""
    assert [*outcomes[:5], *outcomes[6:]] == numbers
    return outcomes[5]


def is_death(error: Any, how: str) -> bool:
    return (
        isinstance(error, WorkerDiedError)
        and (error.exitcode, error.signal)
        == {
            "exit": (3, None),
            "kill": (None, signal.SIGKILL),
        }[how]
    )


@calls
def test_an_argument_that_can_not_be_pickled(call: Callable[..., Any], processes: dict[str, Any]) -> None:
    """It fails with SerializationError, which says what could not travel and why."""
    error = culprit_of(call(parallel(identity, **processes), with_culprit(bad.BadToSend("exception"))))

    assert isinstance(error, SerializationError)
    assert "BadToSend" in str(error)
    assert "went wrong" in str(error)
    assert "identity(<BadToSend>): its arguments can't be sent" in "\n".join(error.__notes__)
    assert isinstance(error.__cause__, LookupError)


@calls
def test_an_argument_that_can_not_be_unpickled(call: Callable[..., Any], processes: dict[str, Any]) -> None:
    """It fails with SerializationError, with the error of the unpickling as its cause."""
    error = culprit_of(call(parallel(identity, **processes), with_culprit(bad.BadToLoad("exception"))))

    assert isinstance(error, SerializationError)
    assert "can't be unpickled" in str(error)
    assert isinstance(error.__cause__, LookupError)


@calls
@ends
def test_an_argument_that_ends_the_worker_when_unpickled(call: Callable[..., Any], how: str) -> None:
    """It is charged with the death, like the task that it belongs to."""
    error = culprit_of(call(parallel(identity, workers=2), with_culprit(bad.BadToLoad(how))))

    assert is_death(error, how)


@calls
@ends
def test_a_task_that_ends_the_worker(call: Callable[..., Any], how: str) -> None:
    """It fails with WorkerDiedError."""

    def task(item: Any) -> Any:
        return bad.explode(item) if isinstance(item, str) else item

    assert is_death(culprit_of(call(parallel(task, workers=2), with_culprit(how))), how)


@calls
def test_a_task_that_raises(call: Callable[..., Any], processes: dict[str, Any]) -> None:
    """Its exception arrives as itself."""

    def task(item: Any) -> Any:
        return bad.explode(item) if isinstance(item, str) else item

    error = culprit_of(call(parallel(task, **processes), with_culprit("exception")))

    assert (type(error), str(error)) == (LookupError, "went wrong")


@calls
def test_a_result_that_can_not_be_pickled(call: Callable[..., Any], processes: dict[str, Any]) -> None:
    """It fails with SerializationError; the results beside it arrive."""
    error = culprit_of(call(parallel(bad.make_bad_to_send, **processes), with_culprit("exception")))

    assert isinstance(error, SerializationError)
    assert "BadToSend" in str(error)
    assert "result" in "\n".join(error.__notes__)


@calls
@ends
def test_a_result_that_ends_the_worker_when_pickled(call: Callable[..., Any], how: str) -> None:
    """It is charged with the death, though its task had returned; the items beside it are not."""
    error = culprit_of(call(parallel(bad.make_bad_to_send, workers=2), with_culprit(how)))

    assert is_death(error, how)


def test_a_generator() -> None:
    """What a generator function returns can't travel, as an argument can't: it says what could."""

    def halves(n: int) -> Any:
        yield n / 2

    with pytest.raises(SerializationError, match="'generator' object; make a list of it"):
        parallel(halves, workers=2).map([1])
    with pytest.raises(SerializationError, match="'generator' object; make a list of it"):
        parallel(identity, workers=2).map([halves(1)])


@calls
def test_a_result_that_can_not_be_unpickled(call: Callable[..., Any], processes: dict[str, Any]) -> None:
    """It fails with SerializationError in the parent, and nothing else does."""
    error = culprit_of(call(parallel(bad.make_bad_to_load, **processes), with_culprit("exception")))

    assert isinstance(error, SerializationError)
    assert isinstance(error.__cause__, LookupError)


@pytest.mark.parametrize("culprit", [bad.BadToSend("exception"), bad.BadToLoad("exception")], ids=["send", "load"])
@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered"])
def test_without_return_exceptions_the_error_is_raised(culprit: Any, method: str) -> None:
    """A fault on the way of an argument ends the call, as an error of the task would; the pool goes on."""
    function = parallel(identity, workers=2)

    with pytest.raises(SerializationError):
        list(getattr(function, method)(with_culprit(culprit)))

    assert function.map(numbers) == numbers


@pytest.mark.parametrize("task", [bad.make_bad_to_send, bad.make_bad_to_load], ids=["send", "load"])
@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered"])
def test_a_bad_result_is_raised(task: Any, method: str) -> None:
    """So does a fault on the way of a result."""
    function = parallel(task, workers=2)

    with pytest.raises(SerializationError):
        list(getattr(function, method)(with_culprit("exception")))

    assert function.map(numbers) == numbers


def test_an_item_error_names_the_item() -> None:
    """Errors of the way name the item, as those of deaths do."""
    function = parallel(identity, workers=2)

    sent = function.map(with_culprit(bad.BadToSend("exception")), return_exceptions=True)[5]
    loaded = function.map(with_culprit(bad.BadToLoad("exception")), return_exceptions=True)[5]
    back = parallel(bad.make_bad_to_send, workers=2).map(with_culprit("exception"), return_exceptions=True)[5]
    last = parallel(bad.make_bad_to_load, workers=2).map(with_culprit("exception"), return_exceptions=True)[5]

    assert [error.item for error in (sent, loaded, back, last)] == [5, 5, 5, 5]


def test_a_function_that_can_not_be_pickled_fails_the_call() -> None:
    """A function that can't travel is an error of the call, not of each item."""
    endless = (n for n in range(3))
    function = parallel(lambda item: next(endless) + item, workers=2)

    for method in ("map", "imap", "submit"):
        with pytest.raises(SerializationError, match="generator"):
            getattr(function, method)([1])


@calls
def test_a_function_that_can_not_be_unpickled_fails_each_item(call: Callable[..., Any]) -> None:
    """A function that only fails in the worker fails the items with its error; the worker goes on."""

    class Unloadable:
        def __call__(self, item: Any) -> Any:
            return item

        def __reduce__(self) -> Any:
            return bad.explode, ("exception",)

    outcomes = call(parallel(Unloadable(), workers=2), numbers)

    assert {type(outcome) for outcome in outcomes} <= {LookupError, SerializationError}
    assert parallel(identity, workers=2).map(numbers) == numbers


@calls
@ends
def test_a_function_that_ends_the_worker_when_unpickled(call: Callable[..., Any], how: str) -> None:
    """A function that kills each worker that loads it fails each item, and does not start workers for ever."""

    class Unloadable:
        def __call__(self, item: Any) -> Any:
            return item

        def __reduce__(self) -> Any:
            return bad.explode, (how,)

    outcomes = call(parallel(Unloadable(), workers=2), numbers[:3])

    assert {type(outcome) for outcome in outcomes} == {WorkerDiedError}
    assert parallel(identity, workers=2).map(numbers) == numbers


AS_THEMSELVES = [
    "two arguments",
    "keyword only",
    "bad text",
    "bad repr",
    "group",
    "unicode",
    "os",
    "pickle",
    "timeout",
    "eof",
    "broken pipe",
    "interrupt",
    "memory",
    "recursion",
]


@calls
@pytest.mark.parametrize("name", AS_THEMSELVES)
def test_an_exception_arrives_as_itself(call: Callable[..., Any], name: str) -> None:
    """Whatever a task raises, its class and its attributes arrive."""
    error = culprit_of(call(parallel(bad.throw, workers=2), with_culprit(name)))

    expected = bad.ERRORS[name]()
    assert type(error) is type(expected)
    assert repr(error.args) == repr(expected.args)
    own = ("__notes__", "_parmap_item")  # what comes with it: the call that failed
    assert {key: value for key, value in vars(error).items() if key not in own} == vars(expected)


@calls
@pytest.mark.parametrize("name", ["holds a lock", "not unpickled", "becomes other", "changes its mind"])
def test_an_exception_that_can_not_travel_has_a_stand_in(call: Callable[..., Any], name: str) -> None:
    """Its type and its text, or its remote traceback, arrive."""
    error = culprit_of(call(parallel(bad.throw, workers=2), with_culprit(name)))

    expected = type(bad.ERRORS[name]())
    if type(error) is not expected:  # rebuilt from its parts, it is better than a stand-in
        assert isinstance(error, RemoteError)
        assert expected.__name__ in str(error) + error.traceback


@calls
def test_an_exception_of_a_class_made_on_the_spot(call: Callable[..., Any]) -> None:
    """A class that exists only in the task arrives by value or by its name."""
    error = culprit_of(call(parallel(bad.throw, workers=2), with_culprit("local class")))

    assert "made on the spot" in str(error)


@calls
@pytest.mark.parametrize("task", [bad.cyclic_cause, bad.holds_itself, bad.not_an_exception], ids=lambda f: f.__name__)
def test_odd_exceptions_arrive(call: Callable[..., Any], task: Any) -> None:
    """A cycle of causes, an exception that holds itself, something that is no exception: each is an error."""
    outcomes = call(parallel(task, workers=2), [1, 2, 3])

    assert all(isinstance(outcome, Exception) for outcome in outcomes)


@calls
def test_an_exception_brings_its_story(call: Callable[..., Any]) -> None:
    """Attributes, cause, notes and remote traceback arrive."""

    def task(item: Any) -> Any:
        return bad.with_a_story() if item == "tell" else item

    error = culprit_of(call(parallel(task, workers=2), with_culprit("tell")))

    assert (type(error), error.code, error.reason, error.extra) == (bad.TwoArguments, 404, "missing", [1, 2])
    assert "a note of the task" in error.__notes__
    assert isinstance(error.__cause__, KeyError)
    assert "with_a_story" in str(error.__cause__.__cause__)


@pytest.mark.parametrize("name", ["interrupt", "generator exit", "stop", "two arguments"])
def test_an_exception_among_short_items(name: str) -> None:
    """What a task raises in the middle of a block of short items costs only its own item, wherever it stands."""
    function = parallel(bad.throw, workers=2)
    items: list[Any] = list(range(20_000))
    places = [0, 1, 500, 501, 10_000, 19_999]
    for place in places:
        items[place] = name

    outcomes = function.map(items, return_exceptions=True)

    kind = type(bad.ERRORS[name]())
    # What would end a loop is told as the cause of an error that does not.
    found = [outcomes[place] for place in places]
    raised = [error.__cause__ if type(error) is RuntimeError else error for error in found]
    assert [type(error) for error in raised] == [kind] * len(places)
    assert [item for item in outcomes if type(item) is int] == [item for item in items if type(item) is int]


def test_sys_exit_among_short_items() -> None:
    """`sys.exit` in a task fails that task, with its exit code, and costs no worker."""

    def task(item: int) -> int:
        if item % 1000 == 7:
            raise SystemExit(item)
        return item

    outcomes = parallel(task, workers=2).map(range(10_000), return_exceptions=True)

    errors = {number: outcome for number, outcome in enumerate(outcomes) if type(outcome) is not int}
    assert {number: (type(error), error.exitcode, error.item) for number, error in errors.items()} == {
        number: (WorkerDiedError, number, number) for number in range(7, 10_000, 1000)
    }


def test_a_raised_error_pickles_again() -> None:
    """An error that came from a worker may go on to another process."""
    error = culprit_of(by_map(parallel(bad.throw, workers=2), with_culprit("os")))

    again = pickle.loads(pickle.dumps(error))

    assert (type(again), again.args) == (FileNotFoundError, error.args)
