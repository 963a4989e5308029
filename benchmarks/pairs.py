"""The frame of `ablation` and `costs`: the same work in two ways, in turns, each measurement a process of its own.

What such a script is given:

    SCRIPT [--quick | --smoke] [--page PAGE]
    SCRIPT OUTPUT --cell NAME STATE SIZE REPEATS
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAGE = Path(__file__).resolve().parent.parent / "docs" / "speed" / "how-fast-and-why.md"
BUDGET = 150.0
"""Seconds for all measurements of a script; those that come too late are told as missing."""


class Pair(Protocol):
    """What can be done in two ways."""

    @property
    def name(self) -> str: ...
    @property
    def work(self) -> str:
        """What is done to the items."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Items in a smoke test, a quick run and a full run."""


class Comparison(NamedTuple):
    """A table of pairs, in a page of the documentation."""

    script: str
    pairs: Sequence[Pair]
    states: tuple[str, str]
    prepare: Callable[[Any, str, int], Callable[[], Any]]
    """The work of a pair in one state, with so many items."""
    head: str
    row: Callable[[float, float], str]
    """The last cells of a row, of the seconds in either state."""

    def main(self) -> int:
        """Do what the command line asks for."""
        if "--cell" in sys.argv:
            output, _, name, state, size, repeats = sys.argv[1:]
            pair = next(pair for pair in self.pairs if pair.name == name)
            answer(output, timed(self.prepare(pair, state, int(size)), int(repeats)))
            return 0
        scale, page = asked_for(PAGE)
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as scratch:
            fill(page, self.script.removesuffix(".py"), self._measure(scale, Path(scratch)))
        return 0

    def _measure(self, scale: int, scratch: Path) -> list[str]:
        """The lines of the table."""
        from process import run_python

        end = time.perf_counter() + BUDGET
        lines = [self.head, "| --- | --- | --- | --- | --- |"]
        for pair in self.pairs:
            size = pair.sizes[scale]
            found: dict[str, list[Any]] = {state: [] for state in self.states}
            failure = ""
            for state in self.states * (1, 1, 3)[scale]:
                left = end - time.perf_counter()
                arguments = [self.script, "--cell", pair.name, state, str(size), str((1, 2, 3)[scale])]
                answers, wrong = (
                    run_python(arguments, scratch, min(60.0, left)) if left > 1 else ([], "no time was left")
                )
                found[state] += answers
                failure = failure or wrong
            first, second = (statistics.median(found[state]) if found[state] else None for state in self.states)
            told = f" | | {failure}" if first is None or second is None else self.row(first, second)
            lines.append(f"| {pair.name} | {size:,} × {pair.work} | {told} |")
            print(lines[-1], flush=True)
        return lines


def timed(work: Callable[[], Any], repeats: int) -> list[float]:
    """How many seconds the work took each time; the first time starts the workers, and makes what is used again."""
    work()
    seconds = []
    for _ in repeat(None, repeats):
        begin = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - begin)
        del result
    return seconds


def answer(output: str, values: list[Any]) -> None:
    """Write what was measured: whoever waits for the file finds it whole."""
    part = Path(f"{output}.part")
    part.write_text(json.dumps(values))
    part.rename(output)


def asked_for(page: Path) -> tuple[int, Path]:
    """The scale of a run, from 0 to 2, and the page that its tables go to."""
    scale = 0 if "--smoke" in sys.argv else 1 if "--quick" in sys.argv else 2
    return scale, Path(sys.argv[sys.argv.index("--page") + 1]) if "--page" in sys.argv else page


def fill(page: Path, name: str, lines: list[str]) -> None:
    """Write a table into a page, between its markers."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = page.read_text().partition(begin)
    page.write_text(before + "\n".join([begin, "", *lines, "", end]) + rest.partition(end)[2])
