"""The short text of a call in notes and errors: short, at no cost, and never by a `__repr__` of the user's."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import pathlib
import tracemalloc
import uuid
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from parmap import parallel
from parmap._travel.text import describe, shorten

if TYPE_CHECKING:
    from conftest import Script


class Loud:
    """Its text is not to be asked for."""

    def __repr__(self) -> str:
        raise AssertionError

    __str__ = __format__ = __repr__  # type: ignore[assignment]


class Prickly(type):
    """A class of classes that says nothing."""

    def __getattribute__(cls, name: str) -> Any:
        raise AssertionError(name)


class OfPrickly(metaclass=Prickly):
    """One of them."""


class Color(enum.Enum):
    """A choice."""

    RED = Loud()


class Access(enum.Flag):
    """Several choices."""

    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Order:
    """A record."""

    number: int
    parts: Any = ()
    password: str = dataclasses.field(default="hunter2", repr=False)


@dataclasses.dataclass(slots=True)
class Slotted:
    """A record without a dictionary."""

    number: int


@dataclasses.dataclass
class Silent:
    """A record with a text of its own."""

    number: int

    def __repr__(self) -> str:
        raise AssertionError


class Point(NamedTuple):
    """A row."""

    x: int
    y: Any


class SilentPoint(NamedTuple):
    """A row with a text of its own."""

    x: int

    def __repr__(self) -> str:
        raise AssertionError


class Text(str):
    """A string that writes itself otherwise."""

    __slots__ = ()

    def __repr__(self) -> str:
        raise AssertionError


class Zone(dt.tzinfo):
    """A zone of time with a text of its own."""

    __repr__ = Loud.__repr__  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (-1.5, "-1.5"),
        (12345, "12345"),
        (1 << 10_000_000, "<int of 10000001 bits>"),
        ("a'b", '"a\'b"'),
        ("x" * 100, repr("x" * 40) + "…" + repr("x" * 20)),
        (b"\0", "b'\\x00'"),
        ([], "[]"),
        ((1,), "(1,)"),
        ([1, "a", None], "[1, 'a', None]"),
        (range(10**9), "range(0, 1000000000)"),
        (list(range(9)), "[0, 1, 2, 3, ...]"),
        ({3, 1, 2}, "{1, 2, 3}"),
        (set(), "set()"),
        (frozenset({1}), "frozenset({1})"),
        ({"a": [Loud()]}, "{'a': [<Loud>]}"),
        ([[[[[1]]]]], "[[[[...]]]]"),
        (Loud(), "<Loud>"),
        (Loud, "<class Loud>"),
        (OfPrickly(), "<OfPrickly>"),
        (OfPrickly, "<class OfPrickly>"),
        (len, "<function len>"),
        (Color.RED, "Color.RED"),
        (Access.READ, "Access.READ"),
        (Order(3, [Loud()]), "Order(number=3, parts=[<Loud>])"),
        (Slotted(3), "Slotted(number=3)"),
        (Silent(3), "<Silent>"),
        (Point(1, Loud()), "Point(x=1, y=<Loud>)"),
        (SilentPoint(1), "<SilentPoint>"),
        (Text("x"), "<Text>"),
        (dt.date(2020, 1, 2), "datetime.date(2020, 1, 2)"),
        (dt.time(1, tzinfo=dt.UTC), "datetime.time(1, 0, tzinfo=datetime.timezone.utc)"),
        (dt.time(1, tzinfo=Zone()), "<time>"),
        (decimal.Decimal("1.5"), "Decimal('1.5')"),
        (decimal.Decimal("1" * 10_000), "<Decimal>"),
        (pathlib.PurePosixPath("a/b"), "PurePosixPath('a/b')"),
        (uuid.UUID(int=3), "UUID('00000000-0000-0000-0000-000000000003')"),
        (ValueError("secret"), "<ValueError>"),
        (memoryview(b"x"), "<memoryview>"),
    ],
    ids=map(str, count()),
)
def test_texts(value: Any, text: str):
    """What is known is written out; what only its own code could tell is named after its class."""
    assert shorten(value) == text


def test_texts_of_arrays():
    """Arrays and data frames are told by type and shape, numbers of numpy by value."""
    numpy = pytest.importorskip("numpy")

    assert shorten(numpy.zeros((30, 40))) == "<ndarray float64 (30, 40)>"
    assert shorten(numpy.float64(1.5)) == repr(numpy.float64(1.5))
    assert len(shorten(numpy.str_("x" * 1000))) < 50


@pytest.mark.parametrize(
    "value",
    [
        bytes(100 << 20),
        bytearray(100 << 20),
        "x" * (100 << 20),
        [0] * 10_000_000,
        {i: i for i in range(300_000)},
        set(range(300_000)),
        Order(1, ["x" * 1_000_000] * 1000),
        1 << 100_000_000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_texts_cost_nothing(value: Any):
    """However much there is, little is looked at."""
    tracemalloc.start()
    try:
        texts = [shorten(value), describe(shorten, "map", value), describe(shorten, "star", value)]
        texts += [describe(shorten, "call", ((value,) * 1000, {f"k{i}": value for i in range(1000)}))]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert all(len(text) < 5000 for text in texts)
    assert peak < 1_000_000


def test_calls():
    """Arguments are shown as they are given, some of them where there are many."""
    assert describe(pow, "map", (1, 2)) == "pow((1, 2))"
    assert describe(pow, "star", (1, 2)) == "pow(1, 2)"
    assert describe(pow, "star", range(3)) == "pow(*range(0, 3))"
    assert describe(pow, "call", ((1,), {"exp": Loud()})) == "pow(1, exp=<Loud>)"
    assert describe(max, "star", [0] * 100) == f"max({'0, ' * 8}...)"
    assert describe(Loud(), "map", 1) == "Loud(1)"


def test_calls_of_partials():
    """The arguments that a partial has given are shown, too: with them the call can be made again."""
    half = partial(pow, 2)

    assert describe(half, "map", 3) == "pow(2, 3)"
    assert describe(half, "star", (3,)) == "pow(2, 3)"
    assert describe(partial(half, mod=5), "map", 3) == "pow(2, 3, mod=5)"
    assert describe(partial(half, mod=5), "call", ((), {"exp": 3, "mod": 7})) == "pow(2, mod=7, exp=3)"


HANGS = """
import os, parmap

class Model:
    def __repr__(self):
        while True:
            pass

def fail(model):
    raise ValueError("no")

def die(model):
    os._exit(3)

def slow(model):
    import time
    time.sleep(60)

for function, options in [(fail, {}), (fail, {"traceback_locals": True}), (die, {}), (slow, {"timeout": 0.2})]:
    f = parmap.parallel(function, workers=1, **options, **BACKEND)
    for error in f.map([Model()], return_exceptions=True):
        print(type(error).__name__, *(note for note in error.__notes__ if "item" in note))
    error = f.submit(Model()).exception()
    print(type(error).__name__)
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_repr_that_never_returns(script: Script, method: str):
    """It stops neither worker nor program: not for an error, nor a death, nor a timeout, nor for local variables."""
    run = script.run(f"BACKEND = {{'start_method': {method!r}}}\n{HANGS}")

    names = ["ValueError", "ValueError", "WorkerDiedError", "TaskTimeoutError"]
    assert [line.split()[0] for line in run.stdout.splitlines()] == [name for name in names for _ in range(2)]
    assert run.stdout.count("fail(<Model>)") == 2


def test_a_repr_that_raises(backend: dict[str, Any]):
    """The note names the class; the error is the task's."""

    def fail(_: Any) -> None:
        raise KeyError(1)

    (error,) = parallel(fail, **backend).map([Loud()], return_exceptions=True)
    assert isinstance(error, KeyError)
    assert "fail(<Loud>)" in error.__notes__[0]


def test_a_frame_of_pandas():
    """A table is named by its size."""
    pandas = pytest.importorskip("pandas")

    assert shorten(pandas.DataFrame({"a": [1, 2]})) == "<DataFrame (2, 1)>"
