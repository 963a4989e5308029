"""Flat items: atoms, and short tuples, lists and dicts of atoms. They travel as one, several times faster than pickled.

Nothing in them can be changed, or shared, unseen, so that nobody can tell whether they travelled one by one.
"""

from __future__ import annotations

import marshal
import sys
from collections.abc import Iterable
from itertools import chain
from typing import Any

from parmap._travel.failure import pass_on
from parmap._travel.stream import LARGE, OUT_OF_BAND

ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None)})
"""Types whose values are immutable and whole: sharing one between two items can't be observed."""

SIZED = frozenset({str, bytes})
"""Atoms that may be large."""

MARSHALLED, TEXT = 2, 3
"""Forms of a stream of flat items; the latter of strings alone."""

_FLOATS = frozenset({float, complex})
_INTEGER, _SIZE = b"i", 5  # with what `marshal` begins an integer of 32 bits, and how long it gets
_HEAD = 5  # bytes before the first
_SAMPLE = 64  # values that are looked at to see whether they are the same again and again
_SHORT = 256  # characters of a string, on average, of which it may be written once for each of its places
_END = "\0"
FEW = 32
"""Values in an item, on average, up to which it pays to look at each: of more, pickle makes short work."""


def encode_integers(items: Any) -> bytes | None:
    """The stream of *items* in the form `MARSHALLED` if all are integers of 32 bits.

    The stream tells: to ask each item for its type takes longer than to write it. Each item begins where the one before
    ends, so if each of these bytes is that of an integer, there was nothing else.
    """
    if not len(items) or type(items[0]) is not int or type(items[-1]) is not int:
        return None
    try:
        stream = marshal.dumps(items, 2)
    except Exception as error:  # noqa: BLE001 - something else is among them, and has its say in what becomes of it
        pass_on(error)
        return None
    whole = len(stream) == _HEAD + _SIZE * len(items) and stream[_HEAD::_SIZE].count(_INTEGER) == len(items)
    return stream if whole else None


def kinds_of(items: Any) -> set[type]:
    """The types of *items*."""
    types = list(map(type, items))
    if types and types.count(types[0]) == len(types):  # most often it is, and counting takes half the time
        return {types[0]}
    return set(types)


# By module: what a program with no use for them has not imported, it has none of.
_CONSTANTS = {
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "pandas": ("Timedelta", "Timestamp"),
    "pathlib": ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"),
    "re": ("Pattern",),
    "uuid": ("UUID",),
    "zoneinfo": ("ZoneInfo",),
}


def is_constant_kind(kind: type) -> bool:
    """Whether nobody can change what is of that class, and all that it may hold is a time zone, as `tzinfo`."""
    module, _, _ = str(kind.__module__).partition(".")
    return kind.__name__ in _CONSTANTS.get(module, ()) and getattr(sys.modules.get(module), kind.__name__, None) is kind


def are_atoms(values: Any) -> bool:
    """Whether all *values* are atoms."""
    try:
        return ATOMS.issuperset(map(type, values))
    except TypeError as error:  # a class without a hash
        pass_on(error)
        return False


def encode(items: Any, kinds: set[type]) -> tuple[int, bytes] | None:
    """The form and the stream of *items*, of these *kinds*; `None` if they are not flat.

    `marshal` must see nothing else: it makes bytes of an array, for one.

    Raises:
        ValueError: more than it can take, such as 2 GiB in one string.
    """
    if kinds <= _FLOATS:
        return MARSHALLED, marshal.dumps(items, 2)  # later versions look up what others have, too, to send it once
    if kinds == {str} and sum(map(len, items)) <= _SHORT * len(items) and not are_repeated(items):
        text = _END.join(items)
        if text.count(_END) == len(items) - 1:
            return TEXT, text.encode("utf-8", "surrogatepass")
    if kinds <= ATOMS:
        return None if SIZED & kinds and _are_large(items) else (MARSHALLED, marshal.dumps(items))
    return (MARSHALLED, marshal.dumps(items)) if len(kinds) == 1 and _hold_atoms(items, *kinds) else None


def decode(form: int, stream: bytes | memoryview) -> list[Any]:
    """The items of a stream."""
    if form == TEXT:
        return str(stream, "utf-8", "surrogatepass").split(_END)
    items: list[Any] = marshal.loads(stream)
    return items


def _hold_atoms(items: Any, kind: type) -> bool:
    """Whether *items* are tuples, lists or dicts of atoms; a list or dict that is there twice would arrive as one."""
    if kind not in {tuple, list, dict} or sum(map(len, items)) > FEW * len(items):
        return False
    if kind is not tuple and len(set(map(id, items))) < len(items):
        return False
    views: list[Any] = [chain.from_iterable]
    if kind is dict:
        views.append(lambda those: chain.from_iterable(map(dict.values, those)))
    return all(are_atoms(view(items)) and not _are_large(view(_sample(items))) for view in views)


def _sample(items: Any) -> Any:
    return items[:: 1 + len(items) // _SAMPLE]


def _are_large(values: Iterable[Any]) -> bool:
    """Whether there are some among *values* that `marshal` would copy several times, and pickle not at all.

    Unless they are the same few again and again, which `marshal` sends once.
    """
    large = [id(value) for value in values if type(value) in SIZED and len(value) >= LARGE]
    return 2 * len(set(large)) > len(large)


def are_repeated(values: Any) -> bool:
    """Whether the same few objects seem to stand there again and again, such as labels."""
    sample = values[:_SAMPLE]
    return 2 * len(set(map(id, sample))) <= len(sample) and len(sample) > 1


def is_small(value: Any) -> bool:
    """Whether a value may travel within a message: an atom, and not a long one."""
    kind = type(value)
    return kind in ATOMS and (kind not in SIZED or len(value) < OUT_OF_BAND)
