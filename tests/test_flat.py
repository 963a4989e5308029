"""Flat items travel as one: nobody can tell."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parmap._travel.flat import decode, encode, kinds_of
from parmap._travel.pack import Pack
from parmap._travel.payload import pack

texts = st.text(max_size=4) | st.sampled_from(["", "\0", "a\0b", "\udc80", "é", "label", '"\\{}'])
atoms = st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.binary(max_size=4) | texts
columns = st.sampled_from([st.integers(), texts, st.floats(), st.just("label"), st.booleans(), atoms])


class Text(str):
    """A string with something to say."""

    __slots__ = ()


@st.composite
def rows(draw: st.DrawFn, least: int = 0) -> list[Any]:
    """Rows of one shape, some of them changed a little."""
    keys = draw(st.lists(texts, min_size=1, max_size=4, unique=True))
    kinds = [draw(columns) for _ in keys]
    made: list[Any] = draw(st.lists(st.tuples(*kinds), min_size=max(1, least), max_size=40))
    shape = draw(st.sampled_from([tuple, list, dict]))
    made = [dict(zip(keys, row, strict=True)) for row in made] if shape is dict else [shape(row) for row in made]
    for place in draw(st.lists(st.integers(0, len(made) - 1), max_size=2)):
        change = draw(st.sampled_from(["reverse", "shorten", "twice", "other key"]))
        row = made[place]
        if change == "twice":
            made.append(row)
        elif change == "other key" and shape is dict and keys[0] in row:
            row[Text(keys[0])] = row.pop(keys[0])
        elif shape is dict:
            entries = list(row.items())
            made[place] = dict(entries[::-1] if change == "reverse" else entries[1:])
        else:
            made[place] = row[::-1] if change == "reverse" else row[1:]
    return made


def exactly(thing: Any) -> Any:
    """What a thing is, down to types, the order of keys, and the sign of a zero."""
    if isinstance(thing, dict):
        return dict, [(exactly(key), exactly(value)) for key, value in thing.items()]
    if isinstance(thing, (list, tuple)):
        return type(thing), list(map(exactly, thing))
    return type(thing), repr(thing)


@given(rows() | st.lists(atoms, min_size=1) | st.lists(texts, min_size=1))
def test_items_arrive_as_they_are(items: list[Any]) -> None:
    """Values, types and the order of keys stay; what can be changed is shared by no two items."""
    packed, errors = pack(items)
    arrived = Pack.restore(packed.describe(), memoryview(bytes(packed.stream)), packed.buffers).values()

    assert errors == {}
    assert exactly(arrived) == exactly(items)
    changeable = [id(item) for item in arrived if type(item) in (list, dict)]
    assert len(set(changeable)) == len(changeable)


class Number(int):
    """An integer with something to say."""


class Hostile:
    """What can't be marshalled, and says so in its own way."""

    def __buffer__(self, flags: int) -> memoryview:
        raise SystemExit(flags)

    def __eq__(self, other: object) -> bool:
        return type(other) is Hostile

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Hostile()"


@pytest.mark.parametrize("number", [7, 7.0])
@pytest.mark.parametrize(
    "guest",
    [
        *(
            True,
            None,
            "7",
            2**31 - 1,
            2**31,
            -(2**31),
            -(2**31) - 1,
            2**70,
            float("nan"),
            -0.0,
            7j,
            Number(7),
            (7,),
            [7],
        ),
        *(b"i\7\0\0\0" * 3, b"g" * 13, bytearray(b"i\7\0\0\0"), array("i", [7] * 5), array("d", [7.0] * 9), Hostile()),
    ],
    ids=repr,
)
def test_a_guest_among_numbers(number: float, guest: Any) -> None:
    """Numbers are told by what they become; what looks like them when it is written arrives as what it is, too."""
    items = [number, guest, number, guest, number]

    packed, errors = pack(items)
    arrived = Pack.restore(packed.describe(), memoryview(bytes(packed.stream)), packed.buffers).values()

    assert errors == {}
    assert exactly(arrived) == exactly(items)


@given(rows(least=20), st.integers(0, 19), st.sampled_from([[1], (1,), Text("a"), {1}, bytearray(1)]))
def test_what_is_not_flat(items: list[Any], place: int, thing: Any) -> None:
    """One thing that is no atom, wherever it stands, and none of them is flat."""
    row = items[place]
    if isinstance(row, dict):
        items[place] = {**row, "more": thing}
    else:
        items[place] = type(row)([*row[1:], thing])

    assert encode(items, kinds_of(items)) is None


def test_labels_arrive_as_few_objects() -> None:
    """A million results that are one of three strings don't take the memory of a million strings."""
    labels = ["one", "two", "three"] * 1000
    flat = encode(labels, {str})

    assert flat is not None
    assert len(set(map(id, decode(*flat)))) == 3


def test_large_objects_that_many_items_share_travel_once() -> None:
    """They are one object on arrival, too: else a list that is small here would be large there."""
    text, number = "x" * 1_000_000, 10**100_000

    for items in (
        [text if x % 3 == 0 else str(x) for x in range(300)],
        [number, 1] * 100,
        [(text, x) for x in range(99)],
    ):
        packed, _ = pack(items)
        assert packed.nbytes < 2_000_000
        assert list(packed) == items
