"""Items that share nothing are pickled as one: nobody can tell."""

from __future__ import annotations

import collections
import concurrent.futures
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import gc
import importlib
import multiprocessing
import pickle
import re
import sys
import uuid
import weakref
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tasks_of_kinds import Plain

from parmap import parallel
from parmap._travel.apart import as_it_is
from parmap._travel.pack import EACH, WHOLE, Pack
from parmap._travel.payload import pack
from parmap.errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Script

MANY = 40


class Slots:
    """The same, smaller."""

    __slots__ = ("first", "others")

    def __init__(self, *values: Any) -> None:
        self.first, self.others = values[:1], list(values[1:])


class Both(Slots):
    """Slots, and a dict beside them."""

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)
        self.more = values


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A dataclass that can't be changed, but for what it holds."""

    values: tuple[Any, ...]

    @classmethod
    def of(cls, *values: Any) -> Record:
        """One that holds values."""
        return cls(values)


class Bare:
    """Which may hold nothing that can be changed."""

    def __init__(self, *values: Any) -> None:
        self.values = values


class Thin:
    """The same, in a slot; and one is as good as another that holds the same."""

    __slots__ = ("values",)

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        return type(other) is Thin and other.values == self.values

    def __hash__(self) -> int:
        return 1


@dataclasses.dataclass(frozen=True)
class Firm:
    """A dataclass that can't be changed, as most are written."""

    values: tuple[Any, ...]

    @classmethod
    def of(cls, *values: Any) -> Firm:
        """One that holds values."""
        return cls(values)


class Row(NamedTuple):
    """A tuple with names."""

    first: Any
    others: Any

    @classmethod
    def of(cls, *values: Any) -> Row:
        """One that holds values."""
        return cls(values[:1], values[1:])


Pair = collections.namedtuple("Pair", "one two")  # noqa: PYI024 - the older way is another way


class Color(enum.Enum):
    """Whose members are there once."""

    RED = 1
    GREEN = (2, "green")


MAKERS: list[Any] = [
    Plain,
    Slots,
    Both,
    Record.of,
    Row.of,
    lambda *values: Pair(values, None),
    lambda *values: list(values),
    lambda *values: values,
    lambda *values: dict(enumerate(values)),
    Bare,
    Thin,
    Firm.of,
]
LEAVES = [
    *(None, 1, True, 2.5, "text", b"bytes", -0.0),
    *(Color.RED, Color.GREEN, decimal.Decimal("1.50"), uuid.UUID(int=7), PurePosixPath("a/b")),
    *(dt.date(2020, 1, 2), dt.timedelta(3), dt.UTC),
    *(dt.datetime(2020, 1, 2, tzinfo=dt.UTC), dt.time(1, 2), dt.date, re.compile("a")),
]


@st.composite
def graphs(draw: st.DrawFn) -> list[Any]:
    """Items; some hold what others hold, too."""
    things: list[Any] = draw(st.lists(st.sampled_from(LEAVES), min_size=3, max_size=6))
    for _ in range(draw(st.integers(0, 5))):
        make = draw(st.sampled_from(MAKERS))
        things.append(make(*[things[place] for place in draw(st.lists(st.integers(0, len(things) - 1), max_size=3))]))
    return [
        things[-1 - draw(st.integers(0, min(4, len(things) - 1)))]
        if draw(st.booleans())
        else draw(st.sampled_from(MAKERS))(number, copy.deepcopy(things[-1]), things[0])
        for number in range(draw(st.integers(8, 20)))
    ]


def parts(thing: Any) -> list[Any]:
    """What a thing holds."""
    if isinstance(thing, dict):
        return [each for entry in thing.items() for each in entry]
    if isinstance(thing, (tuple, list)):
        return list(thing)
    if type(thing) in (Plain, Slots, Both, Record, Bare, Thin, Firm):
        names = [*getattr(thing, "__dict__", ()), *(name for name in ("first", "others", "values"))]
        return [getattr(thing, name, None) for name in dict.fromkeys(names)]
    return []


def exactly(thing: Any, known: dict[int, int]) -> Any:
    """What a thing is, down to types, and which of its parts are the same object: those in *known*."""
    if parts(thing) and not isinstance(thing, tuple):
        if id(thing) in known:
            return known[id(thing)]
        known[id(thing)] = len(known)
    return type(thing), [exactly(part, known) for part in parts(thing)] or repr(thing)


def changeable(thing: Any) -> set[int]:
    """The parts of a thing that can be changed."""
    own: set[int] = set() if isinstance(thing, tuple) or not parts(thing) else {id(thing)}
    return own.union(*map(changeable, parts(thing)))


@given(graphs())
def test_items_arrive_as_they_are(items: list[Any]) -> None:
    """What is the same object within an item stays so, and no two items have one that can be changed."""
    packed, errors = pack(items)
    arrived = Pack.restore(packed.describe(), memoryview(bytes(packed.stream)), packed.buffers).values()

    assert errors == {}
    assert [exactly(item, {}) for item in arrived] == [exactly(item, {}) for item in items]
    each = list(map(changeable, arrived))
    assert sum(map(len, each)) == len(set().union(*each))


@pytest.mark.parametrize("make", MAKERS[:6], ids=["plain", "slots", "both", "dataclass", "tuple", "namedtuple"])
def test_objects_are_pickled_as_one(make: Any) -> None:
    """Those of plain classes."""
    assert pack([make(number, str(number)) for number in range(MANY)])[0].kind == WHOLE


@pytest.mark.parametrize("leaf", LEAVES, ids=repr)
def test_what_can_not_be_changed_may_be_shared(leaf: Any) -> None:
    """Nobody can tell whether it is there once or twice."""
    assert pack([[[leaf], number] for number in range(MANY)])[0].kind == WHOLE


@given(graphs())
def test_what_a_generator_may_keep_and_change_is_seen(items: list[Any]) -> None:
    """What stands for an item is the same, down to types, and nothing that can be changed is in both."""
    known: dict[int, Any] = {}

    pairs = [(item, held) for item in items if (held := as_it_is(item, known)) is not None]

    assert [exactly(held, {}) for _, held in pairs] == [exactly(item, {}) for item, _ in pairs]
    assert not [item for item, held in pairs if changeable(item) & changeable(held)]
    assert not any(changeable(as_it_is(item, {}, copies=False)) for item in items)


@pytest.mark.parametrize("leaf", LEAVES, ids=repr)
def test_what_can_not_be_changed_is_known_to_be_frozen(leaf: Any) -> None:
    """Also in tuples, with names and without."""
    known: dict[int, Any] = {}

    for item in (leaf, (1, leaf), Pair(leaf, None), Row((), leaf)):
        assert as_it_is(item, known) is item
    assert as_it_is((leaf, [leaf]), known) is None


@pytest.mark.parametrize(
    "make",
    [Thin, Record.of, Firm.of, MAKERS[6], MAKERS[8]],
    ids=["thin", "record", "firm", "list", "dict"],
)
def test_what_holds_nothing_that_can_be_changed_is_copied(make: Any) -> None:
    """Objects of plain classes, lists and dicts; but for the first of a class, which is pickled: so its class is.

    Not those that nothing but their identity tells apart: `item_of` gives the very one that failed.
    """
    known: dict[int, Any] = {}
    first, second, third = make(1, Color.RED), make(2, (3, "4")), make(5)

    as_it_is(first, known)
    held = as_it_is(second, known)

    assert held is not second
    assert exactly(held, {}) == exactly(second, {})
    assert as_it_is(third, known, copies=False) is None
    assert [as_it_is(Bare(number), known) for number in range(2)] == [None, None]


def test_a_generator_that_goes_on_changing_what_it_hands_out(processes: dict[str, Any]) -> None:
    """Each item arrives as it was: what can't be changed, and what can, alone and in a tuple or among atoms."""

    def hand_out() -> Iterator[Any]:
        values, record, by_name, bare, thin = [0], Plain(0), {"key": 0}, Bare(), Thin()
        for number in range(MANY):
            values[0] = record.first = by_name["key"] = bare.values = thin.values = number
            yield from (by_name, [by_name], bare, thin, [(number, Color.RED)])
            yield from (Color.RED, (number, dt.date(2020, 1, 2)), Pair(PurePosixPath("a"), number), number, str(number))
            yield from (values, (1, values), Row(dt.UTC, values), Record.of(values), record, None, values)

    def see(item: Any) -> Any:
        return exactly(item, {})

    assert parallel(see, **processes).map(hand_out()) == list(map(see, hand_out()))


def test_a_class_that_a_generator_changes(script: Script) -> None:
    """It is for all items as it was when the first was handed out."""
    done = script.run("""
        from parmap import parallel

        class Thing:
            factor = 0

        def things():
            for number in range(100):
                Thing.factor += 1
                yield Thing()

        print(set(parallel(lambda thing: thing.factor, workers=1).map(things())))
    """)

    assert (done.stdout, done.stderr) == ("{1}\n", "")


@pytest.mark.parametrize("kind", ["f8", "i2", "?", "U3", "M8[s]"])
def test_small_arrays_are_pickled_as_one(kind: str) -> None:
    """Arrays, and numbers out of them; those with fields are not: who changes their names changes the type."""
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.zeros(number, kind) for number in range(MANY)]

    assert pack(arrays)[0].kind == WHOLE
    assert [array.tolist() for array in pack(arrays)[0]] == [array.tolist() for array in arrays]
    assert pack([numpy.zeros(3, [("x", kind)]) for _ in range(MANY)])[0].kind == EACH
    assert pack([numpy.zeros(3, object) for _ in range(MANY)])[0].kind == EACH
    assert pack([numpy.zeros(50_000, "f8") for _ in range(MANY)])[0].kind == EACH
    if kind in "f8 i2 ?":
        assert pack(list(numpy.ones(MANY, kind)))[0].kind == WHOLE


def test_proxies_are_pickled_as_one() -> None:
    """Each that is unpickled calls its manager, so many items with one proxy have it once, as in the standard pools."""
    with multiprocessing.Manager() as manager:
        for proxy in (manager.dict(), manager.Lock(), manager.Queue()):
            packed = pack([(proxy, number) for number in range(MANY)])[0]
            arrived = Pack.restore(packed.describe(), memoryview(bytes(packed.stream)), packed.buffers).values()

            assert len({id(each) for each, _ in arrived}) == 1


class Reduced(Plain):
    """Pickled in its own way."""

    def __reduce__(self) -> Any:
        return Reduced, (*self.first, *self.others)


class Stateful(Plain):
    """Unpickled in its own way."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state, seen=True)


class Chosen(Plain):
    """Gives what it likes."""

    def __getstate__(self) -> Any:
        return {"first": 0, "others": 0}


class Made(Plain):
    """Made in its own way."""

    def __new__(cls, *_values: Any) -> Any:
        return super().__new__(cls)


class Asked(Plain):
    """Answers whoever asks for what it has not."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Ending(Plain):
    """Notices its end."""

    def __del__(self) -> None:
        """Nothing, here."""


class Guarded(Slots):
    """Sees what is set."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)


class Listed(list[Any]):
    """A list with attributes."""

    def __init__(self, *values: Any) -> None:
        super().__init__(values)


@pytest.mark.parametrize("kind", [Reduced, Stateful, Chosen, Made, Asked, Ending, Guarded, Listed])
def test_what_has_ways_of_its_own_is_pickled_each(kind: Any) -> None:
    """The user's code runs for one item after the other, so that each has its own error, and its own time."""
    assert pack([kind(number, str(number)) for number in range(MANY)])[0].kind == EACH


def test_long_and_shared_items_are_pickled_each() -> None:
    """To look at all that they hold would take longer; or they would be one on arrival."""
    shared = [1]
    table = (*range(1000), shared)

    assert pack([[list(range(1000))] for _ in range(MANY)])[0].kind == EACH
    assert pack([[shared] for _ in range(MANY)])[0].kind == EACH
    assert pack([(table, number) for number in range(MANY)])[0].kind == EACH
    assert pack([(table[:number], shared) for number in range(MANY)])[0].kind == EACH
    assert pack([[list(range(1000))] for _ in range(MANY)], single=True)[0].kind == EACH


@pytest.mark.parametrize(
    "table", [tuple(range(1000)), frozenset(range(1000)), (((1,), "a"),) * 1000], ids=["flat", "set", "deep"]
)
def test_a_long_table_that_all_share_is_sent_once(table: Any) -> None:
    """If nothing in it can be changed: nobody can tell that tasks have the same one."""
    packed = pack([(table, number) for number in range(MANY)])[0]

    assert packed.kind == WHOLE
    assert packed.nbytes < 2 * len(pickle.dumps(table))
    assert packed.values() == [(table, number) for number in range(MANY)]


def test_a_graph_that_all_share() -> None:
    """What is in it again and again is looked at once."""
    graph: tuple[Any, ...] = (1,)
    for _ in range(200):
        graph = Pair(graph, (graph, Row(graph, None)))

    assert pack([(graph, number) for number in range(MANY)])[0].kind == WHOLE


ABSENT = """
class Thing:
    def __init__(self, number):
        self.number = number
"""


def test_results_of_a_class_that_is_not_here(tmp_path: Path) -> None:
    """Those that need it fail, each with its error; the others are there."""
    (tmp_path / "only_there.py").write_text(ABSENT)

    def make(number: int) -> Any:
        sys.path.insert(0, str(tmp_path))
        import only_there  # type: ignore[import-not-found]

        sys.path.remove(str(tmp_path))
        return [only_there.Thing(number)] if number % 3 else Plain(number, [number])

    found = parallel(make, workers=1, backend="processes", preload=()).map(range(MANY), return_exceptions=True)

    assert [number for number, each in enumerate(found) if type(each) is Plain] == list(range(0, MANY, 3))
    assert {type(each) for each in found} == {Plain, SerializationError}
    assert all("only_there" in str(each) for each in found if type(each) is not Plain)


OTHERS = {
    "a member that is not there": ("import enum; Thing = enum.Enum('Thing', 'ONE{}')", " TWO", "list(Thing)[-1]"),
    "more values": (
        "import collections; Thing = collections.namedtuple('Thing', 'a{}')",
        " b",
        "Thing(*Thing._fields)",
    ),
    "a slot that is not there": (
        "class Thing: __slots__ = 'a', {}",
        "'b'",
        "[thing := Thing(), setattr(thing, 'b', 1)][0]",
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_results_of_a_class_that_is_another_here(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason: those that can't be loaded fail, each with its error; the others are there."""
    source, more, make_one = OTHERS[what]
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "two_faced.py").write_text(source.format(""))
    monkeypatch.setitem(sys.modules, "two_faced", importlib.import_module("two_faced"))
    (tmp_path / "two_faced.py").write_text(f"{source.format(more)}  # so that it's another size")

    def make(number: int) -> Any:
        thing = eval(make_one, vars(importlib.import_module("two_faced")))
        return [thing] if number % 3 else Plain(number, [number])

    found = parallel(make, workers=1, backend="processes", preload=()).map(range(MANY), return_exceptions=True)

    assert [number for number, each in enumerate(found) if type(each) is Plain] == list(range(0, MANY, 3))
    assert {type(each) for each in found} == {Plain, SerializationError}
    assert len({id(each) for each in found}) == MANY


def test_classes_of_a_script(script: Script) -> None:
    """They go once, and several in one call as well."""
    done = script.run("""
        import dataclasses
        from enum import Enum
        from typing import NamedTuple
        from parmap import parallel

        class Kind(Enum):
            A = 1
            B = 2

        @dataclasses.dataclass
        class Point:
            x: int
            kind: Kind

        @dataclasses.dataclass(slots=True, frozen=True)
        class Other:
            y: int

        class Row(NamedTuple):
            z: list

        @parallel(workers=2)
        def turn(thing):
            if type(thing) is Point:
                return Other(thing.x) if thing.kind is Kind.A else Row([thing.x])
            return Point(thing.y, Kind.B) if type(thing) is Other else thing

        items = [Point(i, Kind(1 + i % 2)) if i % 3 else Other(i) for i in range(200)]
        for _ in range(2):
            once = turn.map(items)
            twice = turn.map(once)
        direct = [turn(item) for item in items]
        assert once == direct and twice == [turn(item) for item in direct]
        assert all(one is not other for one, other in zip(twice, once) if type(one) is Row)
        print("right")
    """)

    assert (done.stdout, done.stderr) == ("right\n", "")


def test_a_result_that_was_taken_is_not_kept() -> None:
    """Not by its neighbours, whose futures were not asked yet."""
    make = parallel(Plain, workers=1)
    futures = [make.submit(number) for number in range(200)]
    concurrent.futures.wait(futures, timeout=60)
    seen = weakref.ref(futures.pop(150).result())
    gc.collect()

    assert seen() is None
    assert futures[150].result().first == (151,)
