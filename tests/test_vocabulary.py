"""What items have in common travels once, and nobody notices: each item is as if it had travelled alone."""

from __future__ import annotations

import copyreg
import importlib
import os
import pickle
import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tasks_with_words import (
    Colour,
    Counting,
    Liar,
    Node,
    Once,
    OnceLoaded,
    Rebuilt,
    Refusing,
    Registered,
    Registering,
    Tallied,
    kind_of,
    make_changing,
    make_class,
    make_elsewhere,
    return_it,
    watch_garbage,
)

from conftest import Script
from parmap import SerializationError, WorkerDiedError, parallel
from parmap._travel import vocabulary
from parmap._travel.pack import EACH, Pack
from parmap._travel.payload import dump, pack

pytestmark = pytest.mark.usefixtures("pools_stay")

MANY = 40


# --- as if alone ----------------------------------------------------------------------------------

leaves = st.one_of(
    st.integers(),
    st.text(max_size=5),
    st.fractions(),
    st.sampled_from(Colour),
    st.sampled_from([Node, Colour, Fraction, int, len, dump, os.getcwd, Decimal("1.5"), Path("a/b"), type(None)]),
    st.binary(max_size=20).map(bytearray),
    st.integers(16_000, 17_000).map(bytearray).map(pickle.PickleBuffer).map(bytes),
)
things = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.builds(Node, inner, st.lists(inner, max_size=2))
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)


def knotted(thing: Any, how: str) -> Any:
    """The same thing, tied to itself in some way."""
    if how == "twice":
        return [thing, thing]
    if how == "cycle":
        node = Node(thing)
        node.others.append(node)
        return node
    return thing


def outline(thing: Any, seen: dict[int, int] | None = None) -> Any:
    """What a thing is, and where in it something stands that stood before."""
    seen = {} if seen is None else seen
    if isinstance(thing, (list, dict, bytearray, Node)):
        if id(thing) in seen:
            return seen[id(thing)]
        seen[id(thing)] = len(seen)
    if isinstance(thing, (list, tuple)):
        return type(thing), [outline(part, seen) for part in thing]
    if isinstance(thing, dict):
        return dict, [(key, outline(part, seen)) for key, part in thing.items()]
    if isinstance(thing, Node):
        return Node, outline(thing.value, seen), outline(thing.others, seen)
    return type(thing), thing


def parts(thing: Any) -> set[int]:
    """The identities of all that can be changed in a thing."""
    found: dict[int, Any] = {}
    left = [thing]
    while left:
        part = left.pop()
        if id(part) in found:
            continue
        if isinstance(part, (list, dict, bytearray, Node)):
            found[id(part)] = part
        if isinstance(part, Node):
            left += [part.value, part.others]
        elif isinstance(part, (list, tuple)):
            left += part
        elif isinstance(part, dict):
            left += part.values()
    return set(found)


def travel(packed: Pack) -> Pack:
    """A pack on the other side."""
    return Pack.restore(packed.describe(), memoryview(packed.stream), packed.buffers)


@given(
    st.lists(st.tuples(things, st.sampled_from(["", "twice", "cycle"])), min_size=1, max_size=12),
    st.sampled_from([1, 4]),
    st.booleans(),
)
def test_each_item_is_as_if_it_had_travelled_alone(kinds: Any, times: int, careful: bool) -> None:
    """Whatever items are, and whether some are the same object: each arrives whole, and shares nothing with others."""
    items = [knotted(thing, how) for thing, how in kinds] * times

    packed, errors = pack(items)
    other = travel(packed)
    other.begin(careful=careful)
    arrived = list(other)

    assert errors == {}
    assert [outline(thing) for thing in arrived] == [outline(thing) for thing in items]
    identities = [identity for thing in arrived for identity in parts(thing)]
    assert len(identities) == len(set(identities))
    assert [outline(packed[place]) for place in range(len(items))] == [outline(thing) for thing in items]


@given(
    st.lists(things, min_size=3, max_size=8),
    st.tuples(things, things),
    st.sampled_from(
        [
            lambda thing, common: (common[0], thing),
            lambda thing, common: [common, thing, common],
            lambda thing, common: {"a": thing, "b": common[1], "c": common},
            lambda thing, common: Node(common, [thing, common[0]]),
        ]
    ),
    st.booleans(),
)
def test_what_all_items_hold_is_a_copy_in_each(rest: Any, common: Any, join: Any, careful: bool) -> None:
    """A part that all have arrives as one object in each item, as it was, and shares nothing with those of others."""
    with mock.patch.object(vocabulary, "_MUCH", 0):
        test = test_each_item_is_as_if_it_had_travelled_alone.hypothesis.inner_test  # type: ignore[attr-defined]
        test([(join(thing, common), "") for thing in rest], 4, careful)


def test_what_all_items_hold_travels_once(processes: dict[str, Any]) -> None:
    """A table in each of many tuples, dicts or objects, of arguments and of results, is pickled once for a chunk."""
    table = {key: [str(key)] for key in range(1000)}
    one = len(pickle.dumps(table))

    def change(item: Any) -> Any:
        mine = item.value if isinstance(item, Node) else item["b"] if isinstance(item, dict) else item[0]
        mine[0].append("changed")
        return len(mine[0]), mine

    for items in (
        [(table, x) for x in range(MANY)],
        [[table, x, table[5]] for x in range(MANY)],
        [{"a": x, "b": table} for x in range(MANY)],
        [Node(table, [x]) for x in range(MANY)],
    ):
        packed, errors = pack(items)
        assert errors == {}
        if not isinstance(items[0], Node):  # nobody looks into those
            assert packed.nbytes < 3 * one
        assert {length for length, _ in parallel(change, **processes).map(items)} == {2}
        assert table[0] == ["0"]

    def look_up(x: int) -> Any:
        return table, x

    arrived = parallel(look_up, **processes).map(range(MANY))
    assert len({id(mine) for mine, _ in arrived}) == MANY
    assert all(mine == table for mine, _ in arrived)


@pytest.mark.parametrize("first", [True, False])
def test_what_is_repeated_is_pickled_once_for_a_chunk(processes: dict[str, Any], first: bool) -> None:
    """An endless `repeat` is how a constant goes beside items: they are no less a sequence for it."""
    table = Tallied()

    def read(one: Any, other: Any) -> str:
        return one.read(other) if first else other.read(one)

    columns = (repeat(table), range(MANY)) if first else (range(MANY), repeat(table))
    assert parallel(read, **processes, chunksize=MANY // 4).map(*columns) == [str(number) for number in range(MANY)]
    assert table.times <= 8


def test_what_all_items_hold_is_sent_as_it_is_then(processes: dict[str, Any]) -> None:
    """A table that changes from call to call, and one that a worker can't read, of which each item tells."""
    table = [[0] for _ in range(1000)]

    def first(mine: Any, _: int) -> Any:
        return mine[0][0]

    read = parallel(first, **processes)
    for value in range(3):
        table[0][0] = value
        assert set(read.starmap([(table, x) for x in range(MANY)])) == {value}
        assert set(read.map([table] * MANY, range(MANY))) == {value}

    refusing = [*table, Refusing()]
    outcomes = read.starmap([(refusing, x) for x in range(MANY)], return_exceptions=True)
    assert {(type(outcome), str(outcome.__cause__)) for outcome in outcomes} == {(SerializationError, "not here")}


def test_an_item_of_another_kind_among_those_that_have_something_in_common() -> None:
    """What it holds twice is one object there, too."""
    table = [[x] for x in range(1000)]
    items: list[Any] = [(table, x) for x in range(MANY)]
    items[MANY // 2] = Node(table, [table[0]])
    packed, errors = pack(items)
    node = list(travel(packed))[MANY // 2]

    assert errors == {}
    assert node.value[0] is node.others[0]


def test_names_travel_once() -> None:
    """Many instances of a class take little more than what is in them."""
    one = len(pickle.dumps(Node(0)))
    packed, _ = pack([Node(0)] * 1000)

    assert packed.kind == EACH
    assert packed.nbytes < 1000 * one / 1.5


def test_an_object_that_items_share(processes: dict[str, Any]) -> None:
    """Each task has its own copy, though the class of all came once."""
    counting = Counting()
    look = parallel(Counting.look, **processes)

    assert look.map([counting] * MANY, range(MANY)) == [1] * MANY
    assert look.map((counting for _ in range(MANY)), range(MANY)) == [1] * MANY


def test_functions_and_methods_that_have_a_state(processes: dict[str, Any]) -> None:
    """A closure, or a method of a list, is no name that items could share: each has its own."""
    numbers: list[int] = []

    def add(x: int) -> int:
        numbers.append(x)
        return len(numbers)

    def call(item: tuple[Fraction, Callable[[int], Any]]) -> Any:
        return item[1](7), item[1](7)

    assert parallel(call, **processes).map([(Fraction(1), add)] * MANY) == [(1, 2)] * MANY

    def pop(item: tuple[Fraction, Callable[[], int]]) -> int:
        return item[1]()

    assert parallel(pop, **processes).map([(Fraction(1), [1, 2, 3].pop)] * MANY) == [3] * MANY


def test_a_class_that_pickles_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `copyreg` says about a metaclass holds for each item."""
    made: list[type] = []
    monkeypatch.setattr(sys.modules[__name__], "made", made, raising=False)
    copyreg.pickle(Registering, lambda _: (make_class, ()))  # type: ignore[arg-type]
    try:
        classes = list(pack([(Fraction(1), Registered)] * MANY)[0])
    finally:
        del copyreg.dispatch_table[Registering]  # type: ignore[arg-type]

    assert len({cls for _, cls in classes}) == MANY


def test_an_object_that_says_it_is_a_class() -> None:
    """Mocks and proxies do."""
    arrived = list(pack([Liar()] * MANY)[0])

    assert len(set(map(id, arrived))) == MANY


# --- classes of scripts ---------------------------------------------------------------------------


def test_instances_of_a_script_s_classes(script: Script) -> None:
    """Thousands of them, of several classes, in lists and from generators: quickly, and as what they are."""
    done = script.run("""
        from dataclasses import dataclass
        from fractions import Fraction
        from parmap import parallel

        class Base:
            count = 0

        @dataclass
        class Point(Base):
            x: float
            inner: object = None

        class Other(Base):
            pass

        @parallel(workers=2)
        def visit(point):
            return type(point) is Point, point.count, point, Other() if point.x % 2 else Fraction(1)

        points = [Point(x, Other() if x % 7 == 0 else None) for x in range(3000)]
        for count, items in enumerate([points, iter(points)]):
            Base.count = count
            results = visit.map(items)
            assert all(inside for inside, *_ in results)
            assert {seen for _, seen, *_ in results} == {count}
            assert [point for _, _, point, _ in results if point.x % 7] == [p for p in points if p.x % 7]
            assert {type(point.inner) for *_, point, _ in results} == {type(None), Other}
            assert {type(other) for *_, other in results} == {Other, Fraction}
            mixed = [*points[:20], lambda: 1, *points[20:40], (points[0], lambda: 2)]
            assert len(parallel(lambda x: x, workers=2).map(mixed)) == len(mixed)
    """)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_class_that_changes(processes: dict[str, Any]) -> None:
    """Each call sees a class as it is then, whichever way it took before; and each submitted task, as it was then."""

    class Setting:
        value = 0

    read = parallel(lambda item: item.value, **processes)
    seen = []
    for value in (1, 2, 1):
        Setting.value = value
        if value == 2:
            seen += [set(read.map([Setting()])), {read.submit(Setting()).result(60)}]
        else:
            seen.append(set(read.map([Setting()] * MANY)))
    futures = []
    for value in range(MANY):
        Setting.value = value
        futures.append(read.submit(Setting()))

    assert seen == [{1}, {2}, {2}, {1}]
    assert [future.result(60) for future in futures] == list(range(MANY))


def test_a_class_that_a_worker_made_and_changes() -> None:
    """Its results bring it as it is, however many there are."""
    make = parallel(make_changing, workers=1, backend="processes", chunksize=10)
    make.map(range(10))

    assert {result.latest for result in make.map([11, 12, 13])} == {13}


# --- odd ways of pickling -------------------------------------------------------------------------


@pytest.mark.parametrize("make", [list, iter])
def test_items_are_pickled_once(make: Any, processes: dict[str, Any]) -> None:
    """Nothing is pickled only to look at it."""
    items = [Once() for _ in range(MANY)]

    assert parallel(kind_of, **processes).map(make(items), chunksize=20) == ["Once"] * MANY


def test_items_that_are_given_back_are_loaded_once(tmp_path: Path) -> None:
    """Items that go to another worker, since those before them take longer than expected, were not loaded before."""
    paths = [tmp_path / str(number) for number in range(200)]
    for path in paths:
        path.touch()
    use = parallel(OnceLoaded.use, workers=2, backend="processes")

    assert use.map([OnceLoaded(str(path)) for path in paths], [0.0] * 180 + [0.03] * 20) == [None] * 200
    assert not any(path.exists() for path in paths)


def test_arrays_that_hold_what_is_loaded_once(tmp_path: Path) -> None:
    """Arrays, too, are loaded only where they are used."""
    numpy = pytest.importorskip("numpy")
    paths = [tmp_path / str(number) for number in range(200)]
    for path in paths:
        path.touch()

    def use(array: Any, seconds: float) -> Any:
        time.sleep(seconds)
        return array[0] if isinstance(array[0], int) else "used"

    arrays = [numpy.array([number, None], dtype=object) for number in range(200)]
    arrays += [numpy.array([OnceLoaded(str(path)), None], dtype=object) for path in paths]
    results = parallel(use, workers=2, backend="processes").map(arrays, [0.0002] * 380 + [0.03] * 20)

    assert results == [*range(200), *["used"] * 200]
    assert not any(path.exists() for path in paths)


@pytest.mark.parametrize("options", [{"chunksize": MANY}, {}])
def test_an_item_that_kills_its_worker_while_it_is_loaded(options: Any) -> None:
    """It dies alone, whatever came with it."""
    items = [deque([number]) for number in range(MANY)]
    items[25] = deque([] for _ in range(3000))  # type: ignore[misc]

    def first(item: Any) -> Any:
        time.sleep(0.0003)
        return item[0]

    function = parallel(first, workers=1, backend="processes", initializer=watch_garbage)
    function.map([deque([1])] * 4)
    results = function.map(items, return_exceptions=True, **options)

    assert [place for place, result in enumerate(results) if isinstance(result, WorkerDiedError)] == [25]
    assert results[:25] + results[26:] == [*range(25), *range(26, MANY)]


def test_frames() -> None:
    """Each frame has its own columns, names and values, whatever they share on their way."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"key": [1, 2] * MANY, "name": ["a", "b"] * MANY, "when": pandas.Timestamp(0)})
    frames = [frame.iloc[start : start + 2] for start in range(0, 2 * MANY, 2)]

    def spoil(part: Any) -> Any:
        seen = part.copy(), part.columns.name, part["key"].dtype.name
        part.columns.name = "spoilt"
        part.loc[:, "key"] = -1
        time.sleep(0.0002)
        return *seen, part

    results = parallel(spoil, workers=2, backend="processes").map(frames)

    assert [(name, kind) for _, name, kind, _ in results] == [(None, "int64")] * MANY
    assert all(seen.equals(part) for (seen, *_), part in zip(results, frames, strict=True))
    results[0][3].columns.name = "mine"
    assert {part.columns.name for *_, part in results[1:]} == {"spoilt"}


@pytest.mark.parametrize(
    "fields", [[("x", "i4"), ("y", "f8")], ("i4", {"x": ("i2", 0), "y": ("i2", 2)})], ids=["record", "number"]
)
def test_records(fields: Any) -> None:
    """The names of a record's fields can be changed, so that no two items have the same."""
    numpy = pytest.importorskip("numpy")
    kind = numpy.dtype(fields)

    def rename(array: Any) -> Any:
        before = array.dtype.names
        array.dtype.names = ("a", "b")
        return before, array

    results = parallel(rename, workers=1, backend="processes").map([numpy.zeros(3, kind) for _ in range(MANY)])

    assert {before for before, _ in results} == {("x", "y")}
    results[0][1].dtype.names = ("p", "q")
    assert {array.dtype.names for _, array in results[1:]} == {("a", "b")}


def test_a_module_that_is_loaded_again(module: Any) -> None:
    """Results are of the class that has the name now."""
    thing = module("loaded_again", "pass")
    echo = parallel(return_it, workers=1, backend="processes")
    assert {type(result) for result in echo.map([thing() for _ in range(MANY)])} == {thing}
    importlib.reload(sys.modules["loaded_again"])
    now = sys.modules["loaded_again"].Thing

    assert now is not thing
    assert {type(result) for result in echo.map([now() for _ in range(MANY)])} == {now}


def test_names_without_end() -> None:
    """Items that name ever new classes, or very many, are sent nevertheless."""
    many: list[Any] = [[type(f"Made{number}", (), {}) for number in range(100)] for _ in range(MANY // 4)]
    packed, errors = pack([*many, lambda: 1, *([Rebuilt()] * MANY)])

    assert errors == {}
    assert [type(item).__name__ for item in packed][-MANY - 1 :] == ["function", *(["Made"] * MANY)]


# --- words that fail ------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes modules that do something when anybody but this process imports them."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(name: str, elsewhere: str) -> Any:
        made.append(name)
        text = f"""
            import os
            class Thing:
                pass
            if os.getpid() != {os.getpid()}:
                {elsewhere}
        """
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        __import__(name)
        return sys.modules[name].Thing

    yield make
    for name in made:
        del sys.modules[name]


def among_good_ones(bad: type) -> list[Any]:
    """Bad items at 0 and 30, good ones of several classes between them."""
    items: list[Any] = [each for number in range(MANY // 2) for each in (Fraction(number), Node(number))]
    items[0] = bad()
    items[30] = [bad(), Fraction(1)]
    return items


def among_shared_ones(bad: type) -> list[Any]:
    """The same, but some are there again and again."""
    items: list[Any] = [Fraction(1), Node(1)] * (MANY // 2)
    items[0] = bad()
    items[30] = [items[0], Fraction(1)]
    return items


@pytest.mark.parametrize("among", [among_good_ones, among_shared_ones])
@pytest.mark.parametrize("make", [list, iter])
def test_a_class_that_can_not_be_imported(make: Any, among: Any, module: Any, processes: dict[str, Any]) -> None:
    """It fails the items that have it, each with the error of the import, and no other."""
    items = among(module("fails_elsewhere", "raise RuntimeError('not here')"))
    results = parallel(kind_of, **processes).map(make(items), return_exceptions=True)

    assert [place for place, result in enumerate(results) if isinstance(result, Exception)] == [0, 30]
    assert all("not here" in str(results[place]) for place in (0, 30))
    assert results[1:30] + results[31:] == list(map(kind_of, items[1:30] + items[31:]))


@pytest.mark.parametrize("make", [list, iter])
def test_a_class_of_a_script_that_can_not_be_made(make: Any, script: Script) -> None:
    """It fails the items that have it, and not those of other classes that travel by value."""
    done = script.run(f"""
        import os
        from parmap import parallel
        home = os.getpid()

        class Base:
            def __init_subclass__(cls):
                if os.getpid() != home:
                    raise RuntimeError(cls.__name__)

        class Bad(Base):
            pass

        class Good:
            pass

        items = [Bad(), Good()] + [Good()] * 28 + [Bad(), Good()]
        results = parallel(lambda x: type(x).__name__, workers=1).map({make.__name__}(items), return_exceptions=True)
        print([place for place, result in enumerate(results) if result != "Good"])
    """)

    assert (done.stdout, done.stderr) == ("[0, 30]\n", "")


@pytest.mark.parametrize("make", [list, iter])
@pytest.mark.parametrize("among", [among_good_ones, among_shared_ones])
@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_class_that_ends_the_worker_when_imported(make: Any, among: Any, end: str, module: Any) -> None:
    """The items that have it pay, and no other."""
    items = among(module("ends_elsewhere", end))
    results = parallel(kind_of, workers=2, backend="processes").map(make(items), return_exceptions=True)

    assert [place for place, result in enumerate(results) if isinstance(result, WorkerDiedError)] == [0, 30]
    assert results[1:30] + results[31:] == list(map(kind_of, items[1:30] + items[31:]))


def test_a_result_whose_class_is_not_here(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result that can't be loaded is told as an error; others are there."""
    module("only_elsewhere", "pass")
    visit = parallel(make_elsewhere, workers=1, backend="processes")
    visit.map([0])
    monkeypatch.setitem(sys.modules, "only_elsewhere", None)
    results = visit.map(range(MANY), return_exceptions=True)

    assert [place for place, result in enumerate(results) if isinstance(result, Exception)] == [0, 20]
    assert all(type(results[place]) is Node for place in range(MANY) if place % 20)
