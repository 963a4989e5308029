"""Drives parmap's ledger against simulated engines of 8 to 10,000 workers: who is kept busy, and what the client takes.

Usage: simulate.py [--quick | --smoke] [--page PAGE]

Writes the tables into the page of the documentation, between their markers, and draws the plots beside it.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pairs import asked_for, fill
from simulated import CLUSTER, PROCESSES, Engine, Kind, Lengths, lognormal, pareto
from simulation import Found, drive

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

PAGE = Path(__file__).resolve().parent.parent / "docs" / "speed" / "simulation.md"
LENGTHS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
TOLD = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Those of the lengths that are in a table."""
BATCHES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Seconds that the items of a batch take, one after another."""
SEED = 1


class Setting(NamedTuple):
    """An engine."""

    name: str
    kind: Kind
    size: int
    more: float = 0.0
    """Seconds that a chunk costs the client besides."""


HERE = Setting("8 processes here", PROCESSES, 8)
SETTINGS = (
    HERE,
    *(Setting(f"cluster of {size:,}", CLUSTER, size) for size in (10, 100, 1000, 10_000)),
    *(Setting(f"cluster of {size:,}, and 0.5 ms a chunk", CLUSTER, size, 0.0005) for size in (100, 1000, 10_000)),
)
Curves = dict[tuple[str, float], Found]


def items_for(setting: Setting, length: float, scale: int) -> int:
    """Enough for each worker to run for about five seconds, and to have five items."""
    seconds = (0.01, 0.5, 5.0)[scale]
    return max(5 * setting.size, int(setting.size * seconds / length))


def run(setting: Setting, length: float, scale: int, draw: Callable[[Random], float] = lognormal) -> Found:
    """One batch; the clock goes on by what the ledger takes."""
    gc.collect()
    gc.freeze()  # what other batches left is not looked through again
    engine = Engine(setting.kind, setting.size, Lengths(draw, length, SEED))
    return drive(engine, items_for(setting, length, scale), charged=True, more=setting.more)


def measure(scale: int) -> Curves:
    """All engines with items of all lengths."""
    found: Curves = {}
    for setting in SETTINGS if scale else SETTINGS[:3]:
        for length in LENGTHS if scale == 2 else TOLD:
            found[setting.name, length] = each = run(setting, length, scale)
            print(f"{setting.name}, {told(length)}: {each.busy:.0%} busy, {each.chunks:,} chunks", flush=True)
    return found


def told(seconds: float) -> str:
    """A time, as it is read."""
    if seconds >= 1:
        return f"{seconds:g} s"
    return f"{seconds * 1e3:g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def table_of_workers(found: Curves) -> list[str]:
    """How many workers are kept busy."""
    lines = [f"| items of | {' | '.join(told(length) for length in TOLD)} |", f"| --- |{' --- |' * len(TOLD)}"]
    for setting in SETTINGS:
        if (setting.name, TOLD[0]) in found:
            cells = [f"{found[setting.name, length].busy * setting.size:,.0f}" for length in TOLD]
            lines.append(f"| {setting.name} | {' | '.join(cells)} |")
    return lines


def pays_from(setting: Setting) -> str:
    """The smallest batch of items of 1 ms that a cluster ends before the processes of this machine do."""
    for work in BATCHES:
        here, there = (
            drive(
                Engine(each.kind, each.size, Lengths(lognormal, 0.001, SEED)),
                round(work / 0.001),
                charged=True,
                more=each.more,
            )
            for each in (HERE, setting)
        )
        if there.seconds < here.seconds:
            return f"{told(work)} of work"
    return "never"


def table_of_clients(found: Curves) -> list[str]:
    """What the client takes, and where it is at its end."""
    titles = (
        "engine",
        "is sooner done than 8 processes here from",
        "of the client, a chunk",
        "chunks a second, at most",
        "items of 1 ms a second, at most",
        "memory, a worker",
    )
    lines = [f"| {' | '.join(titles)} |", "| --- | --- | --- | --- | --- | --- |"]
    for setting in SETTINGS:
        if (setting.name, TOLD[0]) not in found:
            continue
        each = found[setting.name, 1e-3]
        cost = each.client / each.chunks
        ends = 1 / (cost + setting.more)
        lines.append(
            f"| {setting.name} | {'' if setting is HERE else pays_from(setting)} "
            f"| {cost * 1e6:.0f} µs | {ends:,.0f} | {round(ends * each.ended / each.chunks, -4):,.0f} "
            f"| {memory(setting) / 1024:.1f} kB |"
        )
        print(lines[-1], flush=True)
    return lines


def memory(setting: Setting) -> float:
    """Bytes of the core, for each worker, when all have something to do."""
    gc.collect()
    tracemalloc.start()
    engine = Engine(setting.kind, setting.size, Lengths(lognormal, 10.0, SEED))
    kept: list[float] = []

    def look() -> None:
        core = tracemalloc.Filter(inclusive=True, filename_pattern="*/parmap/_core/*")
        kept.append(sum(each.size for each in tracemalloc.take_snapshot().filter_traces([core]).traces))

    engine.at(5.0, look)
    drive(engine, 3 * setting.size, charged=False)
    tracemalloc.stop()
    return kept[0] / setting.size


def table_of_failures(scale: int) -> list[str]:
    """Other lengths, nodes that fail, and items that kill."""
    size, length = (100 if scale == 0 else 1000), 0.05
    items = size * (40, 200, 1000)[scale]
    lines = [
        "| lengths | nodes fail | items that kill | nodes lost | busy | useful | ended | failed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for draw in (lognormal, pareto):
        for lifetime, deadly in ((None, 0), (60.0, 0), (60.0, 20)):
            kill = frozenset(range(7, items, items // 20)[:deadly])
            engine = Engine(CLUSTER, size, Lengths(draw, length, SEED), kill)
            if lifetime is not None:
                engine.fail_now_and_then(lifetime, 5.0, SEED)
            each = drive(engine, items, charged=True, each=True)
            if set(each.sink.often or ()) != {1}:
                raise AssertionError("an item has no outcome, or two")
            fail = "" if lifetime is None else f"after {told(lifetime)}, for 5 s"
            lines.append(
                f"| {draw.__name__} | {fail} | {deadly or ''} | {engine.failed_nodes} "
                f"| {each.busy:.0%} | {each.useful:.0%} | {each.ended:,} | {each.failed} |"
            )
            print(lines[-1], flush=True)
    return lines


def draw_plots(found: Curves, folder: Path) -> None:
    """Workers kept busy, and items a second, against the length of the items."""
    from plots import curve, new_plot, save

    sizes = {setting.name: setting.size for setting in SETTINGS}
    busy = {(name, length): each.busy * sizes[name] for (name, length), each in found.items()}
    for file, title, values in (
        ("workers", "Workers that are kept busy", busy),
        ("items", "Items a second", {(name, length): count / length for (name, length), count in busy.items()}),
    ):
        figure, axes = new_plot(
            f"{title}: simulated engines, one client", "seconds an item takes", title.lower(), (7.0, 4.2)
        )
        curve(axes, values, lambda _, value: value)  # type: ignore[arg-type]  # where others have sizes, these have seconds
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.get_legend().remove()  # below, where no line runs
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        save(figure, folder / f"simulation-{file}.svg")


def main() -> int:
    """Simulate, write and draw."""
    scale, page = asked_for(PAGE)
    found = measure(scale)
    fill(page, "workers", table_of_workers(found))
    fill(page, "clients", table_of_clients(found))
    fill(page, "failures", table_of_failures(scale))
    draw_plots(found, page.parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
