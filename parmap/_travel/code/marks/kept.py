"""What a mark keeps of what it has seen: enough to tell whether it is the same, and nothing of the user's alive."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from operator import is_
from types import MethodType
from typing import TYPE_CHECKING, Any
from weakref import ref

from parmap._travel.failure import pass_on

if TYPE_CHECKING:
    from parmap.backends._processes.line.parts import Part

MANY = 1000
"""A list, dict or set of so many atoms, or more, travels by itself."""


class Rest:
    """In the place of what has to be pickled."""

    @staticmethod
    def same(value: Any, boxes: list[Any], rest: list[Any]) -> bool:  # noqa: ARG004 - as the others
        """Whoever asked pickles it, and compares."""
        rest.append(value)
        return True


class Again:
    """In the place of a box that was met before: `pattern_of` tells whether it is that one."""

    @staticmethod
    def same(value: Any, boxes: list[Any], rest: list[Any]) -> bool:  # noqa: ARG004 - as the others
        """Whoever asked compares patterns."""
        boxes.append(value)
        return True


REST, AGAIN = Rest(), Again()


def _one_by_one(now: tuple[Any, ...], known: tuple[Any, ...]) -> bool:
    return all(map(is_, now, known))


def _in_memory() -> Callable[[tuple[Any, ...], tuple[Any, ...]], bool]:
    """Compares where the objects are, as it stands in the memory of both tuples: in a tenth of the time."""
    try:
        import ctypes

        compare = ctypes.PyDLL(None)["memcmp"]  # by which the interpreter stays with this thread
        compare.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
        start, size = tuple.__basicsize__, ctypes.sizeof(ctypes.c_void_p)

        def same(now: tuple[Any, ...], known: tuple[Any, ...]) -> bool:
            is_as_long = len(now) == len(known)  # if no other thread has changed it since its length was asked
            return is_as_long and not compare(id(now) + start, id(known) + start, len(known) * size)

        one, other = object(), object()
        tried = [same((one, other), each) for each in ((one, other), (one, one), (other, other))]
    except (ImportError, OSError, AttributeError, TypeError) as error:  # not everywhere is there such a thing
        pass_on(error)
    else:
        if tried == [True, False, False]:
            return same
    return _one_by_one


_in_one_go = _in_memory()
_SHORT = 50  # objects that are compared as fast one by one


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

    def same(self, value: Any, boxes: list[Any], rest: list[Any]) -> bool:  # noqa: ARG002 - as the others
        """Whether a container holds the same objects in the same order; it is added to the boxes."""
        boxes.append(value)
        return self.holds(value)

    def holds(self, value: Any) -> bool:
        """Whether a container holds the same objects in the same order."""
        keys, values = self.keys, self.values
        if type(value) is not self.kind or len(value) != len(keys):
            return False
        if len(keys) < _SHORT:
            return all(map(is_, value, keys)) and (values is None or all(map(is_, value.values(), values)))
        return _in_one_go(tuple(value), keys) and (values is None or _in_one_go(tuple(value.values()), values))

    def copy(self) -> Any:
        """The container as it was."""
        return self.kind(self.keys) if self.values is None else dict(zip(self.keys, self.values, strict=True))


class Numbers:
    """The numbers in an array of numpy's."""

    def __init__(self, array: Any) -> None:
        self._kind = type(array)
        self._layout = _layout_of(array)
        self._content: bytes = array.tobytes()

    def same(self, value: Any, boxes: list[Any], rest: list[Any]) -> bool:  # noqa: ARG002 - as the others
        """Whether an array is like that one in all that can be seen of it; it is added to the boxes."""
        boxes.append(value)
        return type(value) is self._kind and _layout_of(value) == self._layout and value.tobytes() == self._content


def _layout_of(array: Any) -> tuple[Any, ...]:
    kind = array.dtype
    return kind.str, kind.isbuiltin, array.shape, array.strides, array.flags.writeable


class Kept:
    """Some values, as a mark keeps them: itself what never changes, for any other one what tells whether it is it.

    It is not if it is another object: what tasks have done to their copies of the one is nothing to the other. Only a
    method is a new object each time that it is asked for.
    """

    def __init__(self, values: list[Any], objects: list[Any]) -> None:
        self._values = tuple(values)
        self._refs = [(place, each) for place, each in enumerate(values) if type(each) is ref]
        self._others = [
            (place, each, *_identity_of(objects[place])) for place, each in enumerate(values) if type(each) in _OTHERS
        ]

    def same(self, values: list[Any], boxes: list[Any], rest: list[Any]) -> bool:
        """Whether *values* are these; containers, and what has to be pickled, are added to the lists."""
        # Asked before each task of `submit`: C settles what it can.
        if len(values) != len(self._values):
            return False
        for place, thing in self._refs:
            value = values[place]
            if value is None or thing() is not value:  # one that is gone is not the same as None
                return False
            values[place] = thing
        for place, known, identity, alive in self._others:
            value = values[place]
            if identity is not None and (id(value) != identity or alive() is None):
                return False
            if not known.same(value, boxes, rest):
                return False
            values[place] = known
        if len(values) < _SHORT:
            return all(map(is_, values, self._values))
        return _in_one_go(tuple(values), self._values)


def _identity_of(thing: Any) -> tuple[int | None, Callable[[], Any]]:
    """Where a thing is, and what gives `None` once it is another one that is there, if that can be told."""
    if type(thing) is MethodType:
        return None, object
    return id(thing), ref(thing) if type(thing).__weakrefoffset__ else object


class Nest:
    """What has other things in it: a container, or a plain object."""

    def __init__(self, kind: ref[type], read: Callable[[Any], list[Any]], kept: Kept) -> None:
        self._kind = kind
        self._read = read
        self._kept = kept

    def same(self, value: Any, boxes: list[Any], rest: list[Any]) -> bool:
        """Whether all that is in it is the same; it, and what is in it, is added to the lists."""
        boxes.append(value)
        return type(value) is self._kind() and self._kept.same(self._read(value), boxes, rest)


_OTHERS = frozenset({Table, Numbers, Nest, Rest, Again})


def pattern_of(boxes: list[Any]) -> tuple[int, ...]:
    """Which of the containers are the same object."""
    if len({*map(id, boxes)}) == len(boxes):
        return ()
    first: dict[int, int] = {}
    return tuple(map(first.setdefault, map(id, boxes), count()))
