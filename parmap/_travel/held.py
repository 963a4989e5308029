"""Objects of which only a name is pickled: whoever sends the stream must hold them until it was read."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

_local = threading.local()


def hold(thing: Any) -> None:
    """Say that what this thread is pickling needs *thing* to live."""
    _local.__dict__.setdefault("things", []).append(thing)


def held() -> tuple[Any, ...]:
    """What the streams pickled by this thread since it last asked need."""
    things = _local.__dict__
    return tuple(things.pop("things")) if things else ()


@contextmanager
def held_apart() -> Generator[None]:
    """Let what is pickled meanwhile, in the midst of something else, have needs of its own."""
    outer = held()
    try:
        yield
    finally:
        held()
        if outer:
            _local.things = [*outer]
