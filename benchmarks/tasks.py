"""The small tasks of the benchmarks: a module that every contestant's workers can import, and a script of its own.

What the script measures are the same tasks, but defined in the script, as users' tasks are.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

CAPTURED = 64 << 20


def inc(number: int) -> int:
    """Almost nothing: what is measured is the way there and back."""
    return number + 1


def square(number: int) -> int:
    """Hardly more."""
    return number * number


def where(_: int) -> int:
    """Tell which process runs this, slowly enough that every worker gets its share."""
    time.sleep(0.01)
    return os.getpid()


def short(number: int) -> int:
    """Compute for about 50 microseconds."""
    total = number
    for step in range(1000):
        total += step * step
    return total


def busy(seconds: float) -> float:
    """Keep a core busy for so many seconds."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds


def take_array(array: Any) -> float:
    """Look at an array that was sent here."""
    return float(array[0] + array[-1])


def make_array(size: int) -> Any:
    """Send an array of *size* bytes back; its pages are touched, but hardly any time goes into filling it."""
    import numpy as np

    return np.ones(size // 8)


def make_bytes(size: int) -> bytes:
    """Send *size* bytes back."""
    return b"x" * size


def capture(array: Any) -> Callable[[int], float]:
    """Make a function that captures *array*."""

    def look_up(index: int) -> float:
        return float(array[index])

    return look_up


def capture_large(_: str) -> Callable[[int], float]:
    """Make a function that captures an array of 64 MB, the same for all contestants."""
    import numpy as np

    return capture(np.arange(CAPTURED // 8, dtype=float))


def to_dict(text: str) -> dict[str, Any]:
    """Make a small dict of a string."""
    return {"text": text, "length": len(text), "upper": text.upper(), "first": text[:1]}


class Point:
    """An ordinary object."""

    def __init__(self, x: float, y: float) -> None:
        self.x = x
        self.y = y


def mirror(point: Point) -> Point:
    """Make another of the same kind."""
    return type(point)(point.y, point.x)


def group_stats(frame: Any) -> dict[str, float]:
    """Do what is given to `groupby(...).apply`: some statistics of one group."""
    value, weight = frame["value"], frame["weight"]
    return {
        "mean": float((value * weight).sum() / weight.sum()),
        "spread": float(value.quantile(0.9) - value.quantile(0.1)),
        "trend": float(value.rolling(10).mean().diff().mean()),
    }


def blur(image: Any) -> Any:
    """Filter an image with a 5 x 5 box and find its edges."""
    import numpy as np

    total = sum(np.roll(image, (down, right), (0, 1)) for down in range(-2, 3) for right in range(-2, 3))
    smooth = total / 25
    edges = np.abs(np.diff(smooth, axis=0, append=0)) + np.abs(np.diff(smooth, axis=1, append=0))
    return edges.astype(np.float32)


def estimate_pi(seed: int) -> int:
    """Throw 10,000 darts; how many hit the circle."""
    draw = random.Random(seed).random
    return sum(draw() ** 2 + draw() ** 2 < 1.0 for _ in range(10_000))


def parse(text: str) -> float:
    """Read a JSON document and add something up."""
    document = json.loads(text)
    return float(sum(entry["price"] * entry["count"] for entry in document["entries"]))


def length(payload: bytes) -> int:
    """Look at bytes that were sent here."""
    return len(payload)


def run_chunk(task: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """Run several items as one task, for libraries that leave the making of chunks to their user."""
    return [task(item) for item in items]


if __name__ == "__main__":
    from cell import main

    main(sys.modules[__name__])
