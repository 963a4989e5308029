"""Exceptions on their way: as themselves if at all possible, with their story, and never a second error."""

from __future__ import annotations

import marshal
import pickle
import threading
from concurrent.futures import Future
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parmap._travel.failure import Failure, RemoteTraceback, encode, is_foreign, translate, unframed
from parmap._travel.text import describe, shorten
from parmap.errors import RemoteError, SerializationError, WorkerDiedError


def travel(error: BaseException) -> BaseException:
    """What an exception is on the other side."""
    return Failure(encoded=marshal.loads(marshal.dumps(encode(error)))).exception()


def raised(error: BaseException) -> BaseException:
    """The same exception, with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


class TwoArguments(Exception):
    """Its constructor wants what plain pickle does not give it."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.one, self.two = one, two


class KeywordOnly(Exception):
    """Its constructor can't be called with arguments at all."""

    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code


class MakesItsText(Exception):
    """Its constructor makes a text, and takes what plain pickle gives it, which is that text."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no {name}")
        self.name = name


class NoSettings(FileNotFoundError):
    """It has what Python's own class has, by way of a constructor that takes something else."""

    def __init__(self, path: str) -> None:
        super().__init__(2, "no settings", path)
        self.searched = path


class Undecodable(UnicodeDecodeError):
    """Python's own class takes five arguments, this one a single one."""

    def __init__(self, file: str) -> None:
        super().__init__("utf-8", b"abc", 0, 1, "bad")
        self.file = file


class MadeByKeyword(Exception):
    """Even making it, before its constructor runs, takes an argument by name."""

    def __new__(cls, text: str, *, code: int) -> Self:
        """Make one."""
        error = super().__new__(cls, text)
        error.code = code
        return error

    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        self.code: int


class HoldsALock(Exception):
    """It holds what can't be pickled."""

    def __init__(self) -> None:
        import threading

        super().__init__("locked")
        self.lock = threading.Lock()
        self.lock.acquire()


class Places(Exception):
    """Its text is made of something that can't be pickled, unless that is None."""

    def __init__(self, text: str) -> None:
        self.place = (n for n in [text])
        super().__init__(text, self.place)
        self.number = 3

    def __str__(self) -> str:
        return self.args[0] if self.place is None else f"{self.args[0]} at {self.place.gi_frame}"


class Malformed(SyntaxError):
    """A parser's: the place is set beside the arguments, and the log of the parser can't be pickled."""

    def __init__(self, text: str, line: int) -> None:
        super().__init__(text)
        self.lineno, self.code = line, 77
        self.log = (line for line in [text])


class StrRaises(Exception):
    """Its text can't be made."""

    def __str__(self) -> str:
        raise ZeroDivisionError


class LoadRaises(Exception):
    """It pickles, and does not unpickle."""

    def __reduce__(self) -> Any:
        return divmod, (1, 0)


class Liar(Exception):
    """It unpickles as something that is no exception."""

    def __reduce__(self) -> Any:
        return str, ("not an exception",)


# No error has an attribute under a name that its class has: pickle would set that.
NAMES = st.text(min_size=1).filter(lambda name: not hasattr(ValueError, name))


@given(st.lists(st.text() | st.integers() | st.none()), st.dictionaries(NAMES, st.integers()))
def test_round_trip(args: list[Any], attributes: dict[str, int]) -> None:
    """Class, arguments and attributes arrive."""
    error = ValueError(*args)
    error.__dict__.update(attributes)

    arrived = travel(error)

    assert type(arrived) is ValueError
    assert arrived.args == tuple(args)
    assert arrived.__dict__ == attributes


@pytest.mark.parametrize(
    "error",
    [
        *(TwoArguments(1, 2), KeywordOnly(code=3), MakesItsText("n"), StrRaises("x")),
        *(KeyError("k"), OSError(2, "no", "file"), SystemExit(3)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_arrives_as_itself(error: BaseException) -> None:
    """Exceptions whose constructors want something else, too, arrive as themselves."""
    arrived = travel(raised(error))

    assert type(arrived) is type(error)
    assert arrived.args == error.args
    assert {**arrived.__dict__} == {**error.__dict__}


@pytest.mark.parametrize(
    "error", [NoSettings("a.toml"), Undecodable("a.txt"), MadeByKeyword("text", code=7)], ids=lambda e: type(e).__name__
)
def test_what_the_builtin_class_holds_arrives(error: Exception) -> None:
    """An error of a class with its own constructor has its `errno`, its file name and its text, as on this side."""
    back = travel(raised(error))
    names = ("errno", "strerror", "filename", "object", "reason", "searched", "file", "code")

    assert (type(back), str(back)) == (type(error), str(error))
    assert [getattr(back, name, None) for name in names] == [getattr(error, name, None) for name in names]


@pytest.mark.parametrize("kind", [HoldsALock, LoadRaises, Liar])
def test_stand_in(kind: type[Exception]) -> None:
    """One that can't travel is replaced by a stand-in that carries its name, text and traceback."""
    arrived = travel(raised(kind()))

    if type(arrived) is not kind:  # it may have arrived in parts
        assert isinstance(arrived, RemoteError)
        assert arrived.type_name.endswith(kind.__name__)
        assert kind.__name__ in arrived.traceback


def test_what_an_error_holds_and_can_not_travel_is_left_out() -> None:
    """It is caught by its class; it says what it said, where it was, and which attribute is missing."""
    error = Malformed("no end", 3)
    arrived = travel(raised(error))

    assert isinstance(arrived, Malformed)
    assert (str(arrived), arrived.lineno, arrived.code) == (str(error), 3, 77)
    assert not hasattr(arrived, "log")
    assert arrived.__notes__ == ["parmap: without its attribute 'log', which can't be pickled"]


def test_what_an_error_holds_has_fresh_locks() -> None:
    """As of a call of gRPC that failed, or of a future: nobody elsewhere waits for them."""
    future: Future[int] = Future()
    future.set_exception(KeyError("inner"))
    error = ValueError("failed", future)
    error.__dict__["condition"] = threading.Condition()
    arrived = travel(raised(error))

    assert isinstance(arrived, ValueError)
    assert str(arrived.args[1].exception()) == "'inner'"
    with arrived.__dict__["condition"]:
        assert not hasattr(arrived, "__notes__")
    assert travel(raised(HoldsALock())).__dict__["lock"].locked() is False


def test_what_the_text_is_made_of_is_none_where_it_can_not_travel() -> None:
    """An error says at least what it says without it; if it were left out, no text could be made."""
    arrived = travel(raised(Places("no end")))

    assert isinstance(arrived, Places)
    assert (str(arrived), arrived.number, arrived.place, arrived.args) == ("no end", 3, None, ("no end", None))
    assert vars(arrived).keys() == {"number", "place", "__notes__"}
    assert arrived.__notes__ == [
        "parmap: without its attribute 'place', which can't be pickled",
        "parmap: without its attribute 'args[1]', which can't be pickled",
    ]


def test_an_argument_that_can_not_travel_is_none() -> None:
    """An error is caught by its class though it was raised with a response, a cursor or the like."""
    arrived = travel(raised(ValueError("bad response", (n for n in "response"))))

    assert type(arrived) is ValueError
    assert arrived.args == ("bad response", None)
    assert arrived.__notes__ == ["parmap: without its attribute 'args[1]', which can't be pickled"]


class Names(dict[str, Any]):
    """What names stand for where something is evaluated, as libraries have it: it can't be gone through."""

    def __iter__(self) -> Any:
        raise KeyError(0)


class Noteless(Exception):
    """It does not even tell its notes."""

    @property
    def __notes__(self) -> list[str]:
        raise ZeroDivisionError


def _evaluate(what: str) -> None:
    eval(what, {"Noteless": Noteless}, Names())


@pytest.mark.parametrize(
    ("what", "told"),
    [
        # Python looks for what was meant, among the variables of each frame.
        ("nothing", "NameError: name 'nothing' is not defined"),
        ("(_ for _ in [1]).throw(Noteless('text'))", "Noteless: text"),
    ],
)
def test_where_an_error_comes_from_is_told_though_no_traceback_can_be_made(what: str, told: str) -> None:
    """What Python's own `traceback` stumbles over costs its niceties, not the frames and the text."""
    with pytest.raises((NameError, Noteless)) as caught:
        _evaluate(what)

    for text in (str(travel(caught.value).__cause__), str(unframed(caught.value).__cause__)):
        assert "in _evaluate" in text
        assert told in text


class Bare:
    """As little as what is evaluated needs for its variables."""

    def __getitem__(self, name: str) -> Any:
        raise KeyError(name)


def test_an_error_of_what_is_evaluated_belongs_to_whom_it_did() -> None:
    """Its variables may be of a library's own kind, which can't be looked through for what a signal handler has."""
    with pytest.raises(ZeroDivisionError) as caught:
        eval("fail()", {"fail": lambda: 1 // 0}, Bare())

    assert not is_foreign(caught.value)


def test_a_class_of_an_extension_arrives() -> None:
    """A class that C code makes, as some of lxml's and pydantic's, is itself on arrival: no other one may make it."""
    pydantic_core = pytest.importorskip("pydantic_core")

    class Ours(pydantic_core.PydanticCustomError):  # type: ignore[misc, name-defined]
        def __init__(self, *args: str) -> None:
            self.args = args
            self.parts = (part for part in args)

    arrived = travel(raised(Ours("ours", "no such thing")))

    assert (type(arrived), str(arrived)) == (Ours, "no such thing")
    assert arrived.__notes__ == ["parmap: without its attribute 'parts', which can't be pickled"]


def test_causes_and_notes_arrive() -> None:
    """Causes are exceptions on arrival, and notes are kept."""
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            inner.add_note("below")
            raise TwoArguments(1, 2) from inner
    except TwoArguments as outer:
        outer.add_note("above")
        arrived = travel(outer)

    assert arrived.__notes__ == ["above"]
    assert isinstance(arrived.__cause__, KeyError)
    assert arrived.__cause__.__notes__ == ["below"]


def test_traceback_arrives_as_text() -> None:
    """The last cause is the traceback of the worker, as text."""
    arrived = travel(raised(ValueError("here")))

    assert isinstance(arrived.__cause__, RemoteTraceback)
    assert "in raised" in str(arrived.__cause__)
    assert "ValueError: here" in str(arrived.__cause__)


def test_a_long_traceback_is_cut() -> None:
    """An endless recursion tells how it ended, not each of its calls."""

    def even(depth: int) -> None:
        odd(depth + 1)

    def odd(depth: int) -> None:
        if depth > 300:
            raise RecursionError(depth)
        even(depth + 1)

    try:
        even(0)
    except RecursionError as error:
        arrived = travel(ExceptionGroup("several", [error]))

    lines = str(arrived.__cause__).splitlines()
    assert sum("in even" in line or "in odd" in line for line in lines) < 110
    assert "raise RecursionError(depth)" in "".join(lines)


def test_a_long_traceback_has_both_its_ends() -> None:
    """Who began an endless recursion is told, not only how it ended."""

    def count(depth: int) -> None:
        if depth > 300:
            raise RecursionError(depth)
        count(depth + 1)

    def began_it() -> None:
        count(0)

    try:
        began_it()
    except RecursionError as error:
        told = str(travel(error).__cause__)

    assert "in began_it" in told
    assert "raise RecursionError(depth)" in told
    assert told.count("in count") < 110


def test_from_none_stays() -> None:
    """A context that was suppressed stays suppressed."""
    error = ValueError("x")
    error.__suppress_context__ = True

    assert travel(error).__suppress_context__


def test_group() -> None:
    """A group of exceptions arrives with its members."""
    arrived = travel(ExceptionGroup("several", [ValueError(1), TwoArguments(1, 2)]))

    assert isinstance(arrived, ExceptionGroup | RemoteError)


def test_text_of_a_member() -> None:
    """What a member of a group says, and one whose text is never twice the same, arrive too."""
    there = travel(raised(ExceptionGroup("some", [MakesItsText("n"), KeyError(object())])))

    assert isinstance(there, ExceptionGroup)
    assert str(there.exceptions[0]) == "there is no n"
    assert type(there.exceptions[1]) is KeyError


def test_ring_of_causes_ends() -> None:
    """Exceptions that are each other's cause travel, and end."""
    one, two = ValueError(1), ValueError(2)
    one.__cause__, two.__cause__ = two, one

    assert isinstance(travel(one), ValueError)


def test_long_chain_of_causes() -> None:
    """A chain of a thousand causes is cut as objects, and arrives."""
    error = ValueError(0)
    for number in range(1, 200):
        error, below = ValueError(number), error
        error.__cause__ = below

    assert travel(error).args == (199,)


def test_error_arrives_once() -> None:
    """A failure that is asked twice tells the same exception, with its notes once."""
    failure = Failure(encoded=encode(ValueError("x")))
    failure.notes = ("note",)

    assert failure.exception() is failure.exception()
    assert failure.exception().__notes__ == ["note"]


def test_earlier_attempts_are_told() -> None:
    """The failure of the last attempt names those before."""
    failure = Failure(ValueError("last"))
    failure.earlier = (Failure(KeyError("first")), Failure(StrRaises()))

    (note,) = failure.exception().__notes__

    assert "attempt 1: KeyError: 'first'" in note
    assert "attempt 2: StrRaises" in note


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (3, 3), ("text", 1)])
def test_sys_exit_is_a_death(code: Any, expected: int) -> None:
    """A task that calls sys.exit is told as a worker that ended, with its code."""
    died = translate(SystemExit(code))

    assert isinstance(died, WorkerDiedError)
    assert died.exitcode == expected


def test_load_error_is_a_serialization_error() -> None:
    """An argument that can't be unpickled says so, with the cause."""
    from parmap._travel.failure import LoadError

    error = LoadError()
    error.__cause__ = ZeroDivisionError("bomb")

    assert isinstance(translate(error), SerializationError)
    assert "ZeroDivisionError: bomb" in str(translate(error))


@given(st.recursive(st.text() | st.binary() | st.integers(), st.lists, max_leaves=200))
def test_shorten_is_short(value: Any) -> None:
    """However large a value, its text is short."""
    assert len(shorten(value)) <= 201


def test_describe() -> None:
    """A call is written as the user would write it."""
    assert describe(pow, "map", 2) == "pow(2)"
    assert describe(pow, "star", (2, 3)) == "pow(2, 3)"
    assert describe(pow, "call", ((2,), {"exp": 3})) == "pow(2, exp=3)"
    assert describe(pow, "star", 5) == "pow(*5)"


def test_remote_traceback_pickles() -> None:
    """An exception that came from a worker can travel on."""
    arrived = travel(raised(ValueError("x")))

    again = pickle.loads(pickle.dumps(arrived))

    assert again.args == ("x",)
    assert isinstance(travel(arrived), ValueError)


def test_a_group_of_a_local_class() -> None:
    """It arrives as a text that names what was in it."""

    class Several(ExceptionGroup[Exception]):
        def __reduce__(self) -> Any:
            raise TypeError("never")

    class Stuck(ValueError):
        def __reduce__(self) -> Any:
            raise TypeError("never")

    found = travel(Several("two things", [Stuck("first"), KeyError("second")]))

    assert "two things" in str(found)
