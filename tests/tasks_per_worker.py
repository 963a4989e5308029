"""What workers make once, of an importable module: tokens that travel by name."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import parmap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def who() -> str:
    """The process and thread that this is."""
    return f"{os.getpid()}-{threading.get_ident()}"


def noting(log: Any, name: str = "it") -> Callable[[], Any]:
    """A factory that writes into a file when it makes something, and when that is closed, with who did it."""
    path = str(log)

    def note(word: str) -> None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{word} {name} {who()}\n")

    @contextlib.contextmanager
    def make() -> Iterator[list[int]]:
        note("open")
        yield []
        note("close")

    return make


def noted(log: Any, word: str) -> list[str]:
    """What was written into it, of that kind."""
    if not os.path.exists(log):
        return []
    with open(log, encoding="utf-8") as file:
        return [line.removeprefix(word + " ").strip() for line in file if line.startswith(word)]


@parmap.per_worker
def counter() -> list[int]:
    """A list for each worker."""
    return []


def count(item: int) -> tuple[str, int]:
    """A task that uses it."""
    counter().append(item)
    return who(), len(counter())


def place(seconds: float) -> tuple[str, parmap.Worker]:
    """A task that tells where it runs."""
    time.sleep(seconds)
    return who(), parmap.worker()
