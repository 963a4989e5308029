"""Objects and tasks that take long, for tests of what reports say about it."""

from __future__ import annotations

import os
import time
from typing import Any

from tasks import square
from tasks_that_hang import sleep

from parmap import parallel


class Heavy:
    """Takes its time to be unpickled."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        time.sleep(0.01)
        self.__dict__.update(state)

    def __getstate__(self) -> dict[str, Any]:
        return {"filled": True}


class Unloadable:
    """Can't be unpickled."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    message = "not here"
    raise ValueError(message)


class Stiff:
    """Takes its time to be pickled."""

    def __getstate__(self) -> dict[str, Any]:
        time.sleep(0.01)
        return {}


def look_at(_: Heavy) -> int:
    """Nearly nothing."""
    return 0


def make(_: int) -> Stiff:
    """Nearly nothing, but what comes of it."""
    return Stiff()


def nap_at_seven(number: int) -> int:
    """Slow once."""
    time.sleep(0.2 if number == 7 else 0.001)
    return number


def square_serially(number: int) -> list[int]:
    """Calls in parallel itself."""
    return parallel(square, backend="serial").map([number])


def look_up(table: dict[int, Any], key: int) -> Any:
    """Needs little of something large."""
    return table[key]


def sleep_long(begun: Any) -> None:
    """Says that it has begun, and never ends; unless there is nothing to say it by."""
    if begun is not None:
        begun.touch()
        sleep()


def leave(code: int) -> int:
    """Ends its worker, unless the code is 0."""
    if code:
        os._exit(code)
    return code


KEPT: list[bytes] = []


def grow(megabytes: int) -> int:
    """A task that keeps memory, and tells in which process."""
    KEPT.append(b"x" * (megabytes << 20))
    return os.getpid()
