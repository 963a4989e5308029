"""What tests of retention hand around: things that can be watched, and functions that capture one."""

from __future__ import annotations

import gc
import time
import weakref
from typing import Any


class Thing:
    """An argument, a result, or what a function captures."""

    def __init__(self, number: int = 0) -> None:
        self.number = number


class UnluckyError(Exception):
    """The error of a task; it holds a thing, as well."""

    def __init__(self, thing: Thing) -> None:
        super().__init__(thing)


class Unsent(Thing):
    """It can't be pickled."""

    def __reduce__(self) -> Any:
        raise UnluckyError(self)


class Unread(Thing):
    """It can't be unpickled."""

    def __reduce__(self) -> Any:
        return float, ("no number",)


def give_unread(_: Thing) -> Thing:
    """A task whose result can't be unpickled."""
    return Unread()


def turn(thing: Thing) -> Thing:
    """A task whose argument and result are things; a negative one fails."""
    if thing.number < 0:
        raise UnluckyError(thing)
    return Thing(-thing.number)


def capture(watched: list[weakref.ref[Any]]) -> Any:
    """A function that travels by value, with a thing that it captures; both are watched."""
    captured = Thing(1)

    def turn_by(thing: Thing) -> Thing:
        if thing.number < 0:
            raise UnluckyError(thing)
        return Thing(-captured.number * thing.number)

    watched += [weakref.ref(captured), weakref.ref(turn_by)]
    return turn_by


_seen: list[weakref.ref[Thing]] = []


def fail_with(how: str) -> Any:
    """Fail while a variable has a thing, and Python does not look for cycles."""
    gc.disable()
    thing = Thing()
    _seen.append(weakref.ref(thing))
    if how == "its result":
        return (each for each in [thing])
    try:
        raise LookupError(how)
    except LookupError as error:
        raise ValueError(how) from error


def left(_: Any) -> int:
    """How many things of such tasks are left in this worker."""
    return sum(ref() is not None for ref in _seen)


class Gate:
    """Tasks that begin one after the other, and end when they may."""

    def __init__(self, folder: Any) -> None:
        self.begun, self.go = folder / "begun", folder / "go"

    def __call__(self, number: int) -> int:
        """A task."""
        self.begun.touch()
        while not self.go.exists():
            time.sleep(0.005)
        return number
