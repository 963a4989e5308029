"""Binding under ``@classmethod``, which from Python 3.13 on no longer asks what it wraps to bind itself."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from parmap._calls.function import ParallelFunction

_NAME = "__parmap_class_body__"
_OF_FUNCTION = 0x1  # a flag of code: that of modules and class bodies lacks it


class BindingClassMethod(classmethod):  # type: ignore[type-arg]  # which has no [] in every Python
    """A classmethod whose `map` knows the class: a plain one gives that of the unbound function."""

    def __get__(self, instance: Any, owner: Any = None, /) -> Any:
        cls: Any = type(instance) if owner is None else owner
        function: Any = self.__func__
        return function.__get__(cls, type(cls))

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel with a class that travels by value; what unpickles as the base class would lose the binding."""
        return BindingClassMethod, (self.__func__,)


class _ClassBody:
    """Stands in a class body for a moment: the making of the class calls it, and it takes itself away."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def __set_name__(self, owner: type, name: str) -> None:
        for attribute, value in list(self._body.items()):
            if type(value) is classmethod and isinstance(value.__func__, ParallelFunction):
                binding = BindingClassMethod(value.__func__)
                if vars(owner).get(attribute) is value:
                    type.__setattr__(owner, attribute, binding)
                elif attribute not in vars(owner):  # a `NamedTuple`, which takes its attributes one by one
                    self._body[attribute] = binding
        type.__delattr__(owner, name)
        del self._body


def watch_class_body(frame: FrameType | None) -> None:
    """If *frame* runs the body of a class, or a function that is called there, see to it that class methods in it bind.

    A classmethod can't be seen from the function under it, and nothing tells that function the class either: the class
    tells each attribute its name when it is made, so one more attribute is put there to listen.
    """
    if sys.version_info >= (3, 13):
        while frame is not None and frame.f_code.co_flags & _OF_FUNCTION:  # a decorator of somebody's own, say
            frame = frame.f_back
        names = frame.f_locals if frame is not None and frame.f_locals is not frame.f_globals else {}
        if "__qualname__" in names and "__module__" in names:
            names[_NAME] = _ClassBody(names)
