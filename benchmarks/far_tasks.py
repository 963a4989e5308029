"""The tasks of the benchmarks on clusters: a module that is imported there."""

from __future__ import annotations

import time
from typing import Any


def inc(number: int) -> int:
    """Almost nothing: what is measured is the way there and back."""
    return number + 1


def sleep(seconds: float) -> float:
    """Take time, but not that of a processor: as if the workers were on machines of their own."""
    time.sleep(seconds)
    return seconds


def doze(seconds: float) -> float:
    """The same, as another function, of which other times are known."""
    time.sleep(seconds)
    return seconds


def busy(seconds: float) -> float:
    """Keep a core busy for so many seconds."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds


def turn(array: Any) -> Any:
    """Take a large array, and give one back."""
    return array[::-1]


def look(table: Any, place: int) -> float:
    """Use a large thing that all items share, for a millisecond."""
    time.sleep(0.001)
    return float(table[place])
