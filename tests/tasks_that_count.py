"""Tasks that leave a mark each time they run: what was run, how often, is seen in a file."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import Counter
from typing import Any, NamedTuple

import parmap


def count(number: int, path: str) -> int:
    """Write the number of the task down; one write behind the last byte is never mixed with another's."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, number.to_bytes(4, "little"))
    finally:
        os.close(file)
    return -number


def runs(path: str) -> Counter[int]:
    """How often each task ran."""
    with open(path, "rb") as file:
        written = file.read()
    return Counter(int.from_bytes(written[at : at + 4], "little") for at in range(0, len(written), 4))


def negate(number: int, path: str, array: Any) -> Any:
    """Count, and give a large result for a large argument."""
    count(number, path)
    return -array


def with_shared(number: int, path: str, shared: Any) -> int:
    """Count, with something that all tasks share."""
    return count(number, path) + int(shared.value[0]) - 7


@parmap.per_worker
def _own() -> list[int]:
    return [1]


def with_own(number: int, path: str) -> int:
    """Count, with something that the worker has made."""
    return count(number, path) * _own()[0]


def count_and_wait(number: int, path: str, late: bool) -> int:
    """Count, and take too long if that is asked for."""
    counted = count(number, path)
    if late:
        time.sleep(60)
    return counted


def count_slowly(number: int, path: str) -> int:
    """Count, and take longer than what runs in blocks."""
    time.sleep(0.0005)
    return count(number, path)


def count_and_talk(number: int, path: str) -> int:
    """Count, and say so in three ways."""
    print(f"counted {number}")
    logging.getLogger("counting").critical("counted %d", number)
    print("no newline", end="")
    return count(number, path)


def begin() -> None:
    """An initializer."""
    logging.getLogger("counting").setLevel(logging.CRITICAL)


def count_and_fork(number: int, path: str) -> int:
    """Count, and fork a process that ends by itself."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return count(number, path)


def count_in_fork(number: int, path: str) -> int:
    """Count, and fork a process that goes on as if it were the worker."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return count(number, path)
    return 0


def count_and_ignore(number: int, path: str) -> None:
    """Count, and go on for as long as possible."""
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGURG, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    count(number, path)
    while True:
        time.sleep(10)


class Calls:
    """A function that notes each of its calls in a file, whatever process makes them."""

    def __init__(self, path: Any) -> None:
        self.path = str(path)
        path.touch()

    def note(self, item: Any) -> None:
        """Note a call."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{item}\n")

    def taken(self) -> list[str]:
        """The calls since this was asked last, sorted."""
        with open(self.path, "r+") as file:
            lines = sorted(file.read().splitlines())
            file.truncate(0)
        return lines


class Point(NamedTuple):
    """A result of a class of the user's."""

    x: int
    y: Any


def point(calls: Calls, x: Any) -> Point:
    """Notes the call; fails with 7."""
    calls.note(x)
    if x == 7:
        raise ValueError(x)
    return Point(x, (x, x))


def divide(number: int) -> float:
    """Always fails."""
    return number / 0
