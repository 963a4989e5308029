"""What is asked for besides results costs: the same work without it and with it.

Usage: costs.py [--quick | --smoke] [--page PAGE]
       costs.py OUTPUT --cell FEATURE with|without SIZE REPEATS

Each measurement is a process of its own; with and without take turns. Writes the table into the page of the
documentation, between its markers.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import parmap
import tasks

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "speed" / "how-fast-and-why.md"
BEGIN, END = "<!-- costs: begin -->", "<!-- costs: end -->"
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
BY_NAME = {feature.name: feature for feature in FEATURES}


def run_cell(output: str, name: str, state: str, size: int, repeats: int) -> None:
    """Measure one feature in one state; writes a list of seconds."""
    work = BY_NAME[name].make(size)[state == "without"]
    work()  # starts the workers
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    part = Path(f"{output}.part")
    part.write_text(json.dumps(seconds))
    part.rename(output)


def measure(scale: int, scratch: Path) -> list[str]:
    """The rows of the table."""
    from process import run_python

    lines = ["| asked for | work | without | with | costs |", "| --- | --- | --- | --- | --- |"]
    for feature in FEATURES:
        size = feature.sizes[scale]
        found: dict[str, list[Any]] = {"with": [], "without": []}
        failure = ""
        for state in ("with", "without") * (1, 2, 4)[scale]:
            arguments = ["costs.py", "--cell", feature.name, state, str(size), str((1, 2, 3)[scale])]
            answers, wrong = run_python(arguments, scratch, 60.0)
            found[state] += answers
            failure = failure or wrong
        begin = f"| {feature.name} | {size:,} × {feature.work}"
        if found["with"] and found["without"]:
            more, less = statistics.median(found["with"]), statistics.median(found["without"])
            lines.append(f"{begin} | {less * 1e3:.1f} ms | {more * 1e3:.1f} ms | {(more / less - 1) * 100:+.1f} % |")
        else:
            lines.append(f"{begin} | | | {failure} |")
        print(lines[-1], flush=True)
    return lines


def main() -> int:
    """Measure one cell, or everything."""
    if "--cell" in sys.argv:
        output, _, name, state, size, repeats = sys.argv[1:]
        run_cell(output, name, state, int(size), int(repeats))
        return 0
    scale = 0 if "--smoke" in sys.argv else 1 if "--quick" in sys.argv else 2
    page = Path(sys.argv[sys.argv.index("--page") + 1]) if "--page" in sys.argv else PAGE
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as scratch:
        lines = measure(scale, Path(scratch))
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(before + "\n".join([BEGIN, "", *lines, "", END]) + rest.partition(END)[2])
    return 0


if __name__ == "__main__":
    sys.exit(main())
