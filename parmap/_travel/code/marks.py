"""Marks: whether a function that travels by value is still what it was when it was packed, answered without packing.

A mark looks at all that a function can reach: its code, defaults, attributes and annotations, what its cells hold, the
globals that its code and the code in it name, and the same of the functions and classes by value among these. What
travels by name (importable functions and classes, modules) is the same as long as it is the same object: what is
in it, workers know by its name.

The rule: *unchanged* is said only where it is proven. *Changed* may be wrong, and costs a pack.

* Atoms are compared by identity, since `1 == True` and `0.0 == -0.0`. The mark holds those it compares with.
* Lists, dicts and sets of atoms are compared entry by entry with a copy that holds the atoms, not the container.
* Anything else is pickled, without the functions and classes in it, and the streams are compared; arrays, and what else
  goes beside a stream, with the copy that was sent.

A mark holds no function, class, module, container or object of the user's: of those it knows weak references. What it
holds has a bound; beyond it streams are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress, count
from operator import is_, is_not
from typing import TYPE_CHECKING, Any
from weakref import ref

from parmap._travel.code.by_value import cloud_pickler
from parmap._travel.stream import Stream, has_files, held, read_with_files

if TYPE_CHECKING:
    from parmap.backends._processes.line.parts import Part

MANY = 1000
"""A list, dict or set of so many atoms, or more, travels by itself."""

DIGESTED = 16 * 1024
"""Bytes of a stream above which its digest is kept instead."""

REST = object()
"""In the place of what has to be pickled. In that of a function, class or module, which is not held, stands a `ref`."""


class Table:
    """Atoms in a list, dict or set: what they were."""

    def __init__(self, kind: Any, keys: tuple[Any, ...], values: tuple[Any, ...] | None, nbytes: int) -> None:
        self.kind = kind
        self.keys = keys
        self.values = values
        self.nbytes = nbytes
        self.part: Part | None = None  # what it was sent as

    @property
    def is_large(self) -> bool:
        """Whether it travels by itself."""
        return len(self.keys) >= MANY

    def same(self, value: Any) -> bool:
        """Whether a container holds the same objects in the same order."""
        if type(value) is not self.kind or len(value) != len(self.keys) or not all(map(is_, value, self.keys)):
            return False
        return self.values is None or all(map(is_, value.values(), self.values))

    def copy(self) -> Any:
        """The container as it was."""
        return self.kind(self.keys) if self.values is None else dict(zip(self.keys, self.values, strict=True))


class Look:
    """One function or class by value: how its parts are read, and what they were."""

    def __init__(self, thing: ref[Any] | None, read: Callable[[Any], list[Any]], kept: list[Any]) -> None:
        self._thing = thing
        self._read = read
        self._kept = kept

    def same(self, roots: Any, boxes: list[Any], rest: list[Any]) -> bool:
        """Whether all parts are the same; containers, and what has to be pickled, are added to the lists."""
        thing = roots if self._thing is None else self._thing()
        if thing is None:
            return False
        values = self._read(thing)
        kept = self._kept
        # The first is asked before each task of `submit`, and settles it for functions that reach little.
        if not any(map(is_not, values, kept)) or len(values) != len(kept):
            return len(values) == len(kept)
        for value, known in compress(zip(values, kept, strict=True), map(is_not, values, kept)):
            kind = type(known)
            if kind is ref:
                if value is None or known() is not value:  # one that is gone is not the same as None
                    return False
            elif kind is Table:
                if not known.same(value):
                    return False
                boxes.append(value)
            elif known is REST:
                rest.append(value)
            else:
                return False
        return True


class Mark:
    """What some objects, and all that they reach, were."""

    def __init__(
        self, steps: list[Look | Round], places: list[ref[Any]], pattern: tuple[int, ...], nbytes: int
    ) -> None:
        self._steps = steps
        self._places = places
        self._pattern = pattern
        self._has_files = has_files()
        self.nbytes = nbytes
        self.classes: frozenset[str] = frozenset()  # those among what is reached, by the names that cloudpickle has

    def holds(self, roots: Sequence[Any]) -> bool:
        """Whether *roots* are the objects that it was made of, and nothing in them has changed."""
        try:
            return self._holds(roots)
        except Exception:  # noqa: BLE001 - another thread changes it just now, or the user's code failed: who packs, sees
            return False

    def _holds(self, roots: Sequence[Any]) -> bool:
        boxes: list[Any] = []
        rest: list[Any] = []
        packer: Packer | None = None
        for step in self._steps:
            if isinstance(step, Look):
                if not step.same(roots, boxes, rest):
                    return False
                continue
            if packer is None:
                things = [thing() for thing in self._places]  # alive as long as their identities are used
                places = {id(thing): place for place, thing in enumerate(things)}
                packer = Packer(boxes, lambda thing, places=places: places.get(id(thing)))  # type: ignore[misc]
            with read_with_files(self._has_files):  # as when it was made
                packed = packer.pack(rest)
            if not step.same(*packed):
                return False
            rest = []
        return pattern_of(boxes) == self._pattern

    def bind(self, parts: Sequence[Part]) -> bool:
        """Compare with what was sent from now on: *parts* have the large buffers. False if one is not among them."""
        return all(step.bind(parts) for step in self._steps if type(step) is Round)


class Round:
    """What was pickled: the stream, or its digest, and the buffers beside it."""

    def __init__(self, stream: bytes, buffers: list[memoryview]) -> None:
        self._stream = _digest(stream)
        self._buffers = buffers
        self._copies: list[Part] = []

    def bind(self, parts: Sequence[Part]) -> bool:
        buffers, self._buffers = self._buffers, []
        for buffer in buffers:
            copy = next((part for part in parts if part.nbytes == buffer.nbytes and part.holds(buffer)), None)
            if copy is None:
                return False
            self._copies.append(copy)
        return True

    def same(self, stream: bytes, buffers: list[memoryview]) -> bool:
        if len(buffers) != len(self._copies) or _digest(stream) != self._stream:
            return False
        return all(
            copy.nbytes == buffer.nbytes and copy.holds(buffer)
            for copy, buffer in zip(self._copies, buffers, strict=True)
        )


def _digest(stream: bytes) -> bytes:
    if len(stream) <= DIGESTED:
        return stream
    from hashlib import blake2b

    return blake2b(stream).digest()


class Packer:
    """Pickles what has to be pickled to be compared, with one memo for all: objects that two of them share are seen."""

    def __init__(self, boxes: list[Any], place: Callable[[Any], int | None]) -> None:
        self._written = Stream()
        # To ask about each object takes longer than to pickle what is small once more.
        self._small = [box for box in boxes if len(box) < MANY]
        self._large = [box for box in boxes if len(box) >= MANY]  # alive as long as their identities are used
        apart = {id(box): number for number, box in reversed(list(enumerate(self._large)))}
        self._pickler = cloud_pickler(self._written, self._written.keep, fresh=True, apart=apart, place=place)

    def pack(self, rest: list[Any]) -> tuple[bytes, list[memoryview]]:
        """The stream, and the large buffers, of some objects."""
        small, self._small = self._small, []
        self._pickler.dump((rest, small) if small else rest)
        held()  # nobody is going to read this
        return self._written.take()


def pattern_of(boxes: list[Any]) -> tuple[int, ...]:
    """Which of the containers are the same object."""
    if len(boxes) < 2:  # noqa: PLR2004 - one is the same as no other
        return ()
    first: dict[int, int] = {}
    return tuple(map(first.setdefault, map(id, boxes), count()))
