"""`Mark`: what some functions and classes, and all that they reach, were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from parmap._travel.code.by_value import cloud_pickler
from parmap._travel.code.marks.kept import Kept, pattern_of
from parmap._travel.code.special.remade import remake
from parmap._travel.code.special.shared import ways_of_shared
from parmap._travel.stream import PROTOCOL, Stream, has_files, held, plain_pickler, read_with_files

if TYPE_CHECKING:
    from parmap.backends._processes.line.parts import Part

DIGESTED = 16 * 1024
"""Bytes of a stream above which its digest is kept instead."""


class Look:
    """One function or class by value: how its parts are read, and what they were."""

    def __init__(self, thing: ref[Any] | None, read: Callable[[Any], list[Any]], kept: Kept) -> None:
        self._thing = thing
        self._read = read
        self._kept = kept

    def same(self, roots: Any, boxes: list[Any], rest: list[Any]) -> bool:
        """Whether all parts are the same; containers, and what has to be pickled, are added to the lists."""
        thing = roots if self._thing is None else self._thing()
        if thing is None:
            return False
        return self._kept.same(self._read(thing), boxes, rest)


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
                place: Any = lambda thing, places=places: places.get(id(thing))  # noqa: E731
                packer = Packer([*boxes, *things]) if step.is_plain else Packer(boxes, place)
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

    def __init__(self, stream: bytes, buffers: list[memoryview], *, is_plain: bool = False) -> None:
        self.is_plain = is_plain  # pickle could do it alone: all in it that has a name goes by that
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


def _otherwise(thing: Any) -> Any:
    return remake(thing) or thing.__reduce_ex__(PROTOCOL)


class Packer:
    """Pickles what has to be pickled to be compared, with one memo for all: objects that two of them share are seen."""

    def __init__(self, known: Sequence[Any], place: Callable[[Any], int | None] | None = None) -> None:
        """Begin with a memo of what is *known* already; without a *place* by pickle itself, which is much faster."""
        self._written = Stream()
        made = (
            partial(plain_pickler, ways=ways_of_shared(_otherwise))
            if place is None
            else partial(cloud_pickler, fresh=True, place=place)
        )
        self._pickler = made(self._written, self._written.keep)
        each = {id(thing): thing for thing in known}
        self._pickler.memo = {key: (number, thing) for number, (key, thing) in enumerate(each.items())}

    def pack(self, rest: list[Any]) -> tuple[bytes, list[memoryview]]:
        """The stream, and the large buffers, of some objects."""
        try:
            self._pickler.dump(rest)
        finally:
            held()  # nobody is going to read this
        return self._written.take()

    def met(self) -> list[Any]:
        """What may be there twice, of all that was pickled: each function and class is among that."""
        return [thing for _, thing in self._pickler.memo.copy().values()]
