"""Instances of classes by value, as pickle takes them apart by itself: no pickler of Python's sees each object."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakSet, ref

from parmap._travel.code.classes import Classes
from parmap._travel.code.special.remade import remake
from parmap._travel.stream import PROTOCOL

_MOST = 16  # classes; of more, each pickler would have to be told anew


class Instances:
    """The classes by value whose instances were met, since those that come next are likely to be of the same ones."""

    def __init__(self) -> None:
        self._classes: dict[int, ref[type]] = {}
        self._others: WeakSet[type] = WeakSet()  # whose instances are made in another way

    def meet(self, cls: type) -> None:
        """Remember a class that was met."""
        # What a metaclass of the user's says, two classes may have in common.
        if type(cls).__hash__ is type.__hash__ and type(cls).__eq__ is type.__eq__ and cls not in self._others:
            if len(self._classes) >= _MOST:
                self._classes.clear()
            self._classes[id(cls)] = ref(cls)

    def ways(self, classes: Classes) -> dict[Any, Callable[[Any], tuple[Any, ...]]]:
        """What pickles instances, by class; *classes* says how these travel themselves."""
        reduce = partial(self._reduce, classes)
        return {cls: reduce for known in [*self._classes.values()] if (cls := known()) is not None}

    def _reduce(self, classes: Classes, thing: Any) -> tuple[Any, ...]:
        cls = type(thing)
        found = classes(cls)
        if found is not None and remake(thing) is None:
            make, args, *more = thing.__reduce_ex__(PROTOCOL)
            if make is copyreg.__newobj__ and args[0] is cls:  # type: ignore[attr-defined]
                return new, (*found, *args[1:]), *more
        self._others.add(cls)
        self._classes.pop(id(cls), None)
        raise TypeError(f"not for pickle alone: {cls}")  # cloudpickle is asked then


def new(find: Callable[[Any], Any], what: tuple[Any, ...], *args: Any) -> Any:
    """A new instance of a class that *find* finds."""
    cls = find(*what)
    return cls.__new__(cls, *args)
