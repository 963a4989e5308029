"""Objects whose pickles have words in common, or that refuse to travel so: importable, so that they travel by name."""

from __future__ import annotations

import enum
import gc
import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any


class Colour(enum.Enum):
    """Has members that pickle by their class."""

    RED = "red"
    BLUE = "blue"


@dataclass
class Node:
    """Holds others, and may hold itself."""

    value: Any
    others: list[Any] = field(default_factory=list)


class Counting:
    """Counts what is done to it."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def look(self, x: int) -> int:
        """How often this was called."""
        self.seen.append(x)
        return len(self.seen)


class Refusing:
    """Can't be unpickled."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ValueError("not here")


class Registering(type):
    """A metaclass whose classes pickle in a way of their own."""


class Registered(metaclass=Registering):
    """Arrives as another class each time."""


def make_class() -> type:
    return Registering("Made", (), {})


class Liar:
    """Says that it is a class."""

    @property
    def __class__(self) -> Any:
        """What `isinstance` is told."""
        return type

    def __reduce__(self) -> Any:
        return Liar, ()


def make_changing(x: int) -> Any:
    global _changing  # noqa: PLW0603 - the task's own class, which it keeps
    if _changing is None:
        _changing = type("Changing", (), {})
    _changing.latest = x
    return _changing()


_changing: Any = None


class Once:
    """Can be pickled once, like what hands over a resource."""

    def __init__(self) -> None:
        self.times = 0

    def __getstate__(self) -> dict[str, int]:
        self.times += 1
        if self.times > 1:
            message = "handed over already"
            raise RuntimeError(message)
        return {"times": self.times}


class Tallied:
    """Knows how often it was pickled."""

    def __init__(self) -> None:
        self.times = 0
        self.table = [str(number) for number in range(1000)]

    def __getstate__(self) -> dict[str, list[str]]:
        self.times += 1
        return {"table": self.table}

    def read(self, place: int) -> str:
        return self.table[place]


class OnceLoaded:
    """Can be unpickled once: a resource is handed over in a file, which is gone then."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __setstate__(self, state: dict[str, str]) -> None:
        os.unlink(state["path"])

    def use(self, seconds: float) -> None:
        """Do something for a while."""
        time.sleep(seconds)


def watch_garbage() -> None:
    """Let this worker die when it has a thousand empty lists: of loading them, that is."""

    def look(*_: Any) -> None:
        if sum(type(thing) is list and not thing for thing in gc.get_objects()) > 1000:
            os.kill(os.getpid(), signal.SIGKILL)

    gc.callbacks.append(look)
    gc.set_threshold(500, 0)  # without the GIL, too, it looks after so many, however many things there are


def return_it(x: Any) -> Any:
    return x


class Rebuilt:
    """Names a new class each time it is pickled."""

    def __reduce__(self) -> Any:
        return type("Made", (), {}), ()


def kind_of(x: Any) -> str:
    return type(x).__name__


def make_elsewhere(x: int) -> Any:
    import only_elsewhere  # type: ignore[import-not-found]

    return only_elsewhere.Thing() if x % 20 == 0 else Node(x)
