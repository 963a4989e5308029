"""What is asked for besides results costs: the same work without it and with it; see `pairs` for how it is run."""

from __future__ import annotations

import sys
import tempfile
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import parmap
import tasks
from pairs import Comparison

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = 2
MILLISECOND = 0.001

Work = tuple["Callable[[], Any]", "Callable[[], Any]"]
"""The same, with and without."""


def _journal(size: int) -> Work:
    busy, items = parmap.parallel(tasks.busy, workers=WORKERS), [MILLISECOND] * size
    folder, numbers = tempfile.mkdtemp(), count()  # which is in the folder that is removed at the end
    return lambda: busy.map(items, journal=f"{folder}/{next(numbers)}.sqlite"), lambda: busy.map(items)


def _report(size: int) -> Work:
    short = parmap.parallel(tasks.short, workers=WORKERS)

    def reported() -> None:
        with parmap.report():
            short.map(range(size))

    return reported, lambda: short.map(range(size))


def _outcomes(size: int) -> Work:
    short = parmap.parallel(tasks.short, workers=WORKERS)
    return lambda: sum(1 for _ in short.outcomes(range(size))), lambda: sum(1 for _ in short.imap(range(size)))


def _per_worker(size: int) -> Work:
    token, table = parmap.per_worker(dict), dict[int, int]()
    asks = parmap.parallel(lambda x: token().get(x, 0), workers=WORKERS)
    knows = parmap.parallel(lambda x: table.get(x, 0), workers=WORKERS)
    return lambda: asks.map(range(size)), lambda: knows.map(range(size))


class Feature(NamedTuple):
    """Something that is asked for besides results."""

    name: str
    work: str
    make: Callable[[int], Work]
    sizes: tuple[int, int, int]
    """Items in a smoke test, a quick run and a full run."""


FEATURES = (
    Feature("`journal=`", "`map`, tasks of 1 ms", _journal, (20, 1000, 4000)),
    Feature("`report()`", "`map`, tasks of about 50 µs", _report, (200, 5000, 20_000)),
    Feature("`outcomes` instead of `imap`", "tasks of about 50 µs", _outcomes, (200, 5000, 20_000)),
    Feature("`per_worker` instead of a global", "`map`, tiny tasks", _per_worker, (1000, 50_000, 200_000)),
)


def prepare(feature: Feature, state: str, size: int) -> Callable[[], Any]:
    """One of the two."""
    return feature.make(size)[state == "without"]


if __name__ == "__main__":
    sys.exit(
        Comparison(
            "costs.py",
            FEATURES,
            ("with", "without"),
            prepare,
            "| asked for | work | without | with | costs |",
            lambda more, less: f"{less * 1e3:.1f} ms | {more * 1e3:.1f} ms | {(more / less - 1) * 100:+.1f} %",
        ).main()
    )
