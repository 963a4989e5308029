"""Objects that take long to travel, for tests of what reports say about it."""

from __future__ import annotations

import time
from typing import Any


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
