"""What a reader asks first: when parmap is faster for their work. A short table, and a chart of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads import BY_KEY

if TYPE_CHECKING:
    from results import Table

WORK = {
    "script tiny": "`map` over many tiny items",
    "script submit": "many single tasks: `submit`",
    "scoring submit": "the same, of a function that uses others, settings and classes",
    "script round trip": "one task, waited for",
    "script short": "items of 50 µs, all alike",
    "script skewed": "items of 1 ms and of 50 ms, mixed",
    "logs": "lines of a log, as a stream",
    "orders": "pydantic models, to a number each",
    "pandas": "groups of a data frame",
    "json": "parsing JSON documents",
    "images": "filtering images in numpy",
    "arguments": "large arrays, as arguments",
    "results": "large arrays, as results",
    "first results": "a script to its first results",
}
"""The workloads that stand for what people do, and what that is in their words."""
OTHERS = {
    "mp.Pool": ("multiprocessing.Pool", "multiprocessing.Pool (fork)", "multiprocessing.Pool (forkserver)"),
    "futures": ("concurrent.futures",),
    "joblib": ("joblib",),
}
"""What most programs use now; of the ways to start, the faster one."""


def ratio(table: Table, key: str, other: str) -> float | None:
    """The time of another library as a multiple of parmap's."""
    mine = table.median(key, "parmap")
    found = [value for name in OTHERS[other] if (value := table.median(key, name)) is not None]
    return min(found) / mine if found and mine else None


def mine(table: Table) -> list[str]:
    """The table: a row for each kind of work, a column for each library."""
    lines = ["| your work | " + " | ".join(OTHERS) + " |", "| --- |" + " --- |" * len(OTHERS)]
    for key, words in WORK.items():
        if table.size(key):
            lines.append(f"| {words} | " + " | ".join(_times(ratio(table, key, other)) for other in OTHERS) + " |")
    return lines


def _times(number: float | None) -> str:
    if number is None:
        return "can't"
    text = f"{number:.0f} ×" if number >= 10 else f"{number:.1f} ×" if number >= 0.995 else f"{number:.2f} ×"
    return f"**{text}**" if number < 0.995 else text


def journey(table: Table) -> str:
    """What it takes to send a short string and get a small dictionary back."""
    seconds = table.median("script strings", "parmap")
    return "–" if seconds is None else f"{seconds / table.size('script strings') * 1e6:.1f} µs an item"


def milliseconds(table: Table, name: str) -> str:
    """From the start of a script to its first results."""
    seconds = table.median("first results", name)
    return "–" if seconds is None else f"{seconds * 1e3:.0f} ms"


assert all(key in BY_KEY for key in WORK)  # noqa: S101 - a workload was renamed, then
