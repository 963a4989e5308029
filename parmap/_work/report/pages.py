"""A report as text for a terminal, as a page for a browser, and as a trace for Perfetto or Chrome."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from textwrap import wrap
from typing import Any

from parmap._work.report.advice import Shares, advice, of_bytes, of_count, of_item, of_time
from parmap._work.report.gather import LOST, PARTS, Bar, Function, Gathered, quantile

_WIDTH = 100
_SHOWN = 5  # slowest items
_QUANTILES = {"half took up to": 0.5, "95 % up to": 0.95, "the longest": 1}


def summary(known: Gathered) -> str:
    """The text."""
    return "\n".join(_lines(known))


def _lines(known: Gathered) -> Iterator[str]:
    if not known.functions:
        yield "parmap report: nothing ran in parallel"
        return
    all_spent = Shares(known)
    yield (
        f"parmap report: {of_count(_items(known), 'item')} in {of_time(all_spent.wall)} on "
        f"{of_count(len(known.workers), 'worker')}; efficiency {100 * all_spent.of('running'):.0f} %, "
        f"ideal would be {of_time(all_spent.ideal)}"
    )
    for each in _functions(known):
        yield f"\n{each.name}"
        facts = ", ".join(f"{name} {value}" for name, value in _facts(each))
        yield from wrap(facts, _WIDTH, initial_indent="  ", subsequent_indent="  ")
        for took, first, number, name in each.slowest[:_SHOWN]:
            yield f"    {of_time(took):>8}  {of_item(first, number)}, {name}"
    yield "\n" + "".join([f"{'worker':24}", *(f"{part:>12}" for part in PARTS)])
    for worker in known.workers.values():
        spent = worker.spent()
        yield "".join(
            [f"{worker.name:24}", *(f"{100 * spent[part] / max(1, spent.total()):>10.0f} %" for part in PARTS)]
        )
    for sentence in advice(known):
        yield ""
        yield from wrap(sentence, _WIDTH, initial_indent="* ", subsequent_indent="  ")


def _functions(known: Gathered) -> list[Function]:
    """The functions, those that took most of the time first."""
    return sorted(known.functions.values(), key=lambda each: -sum(each.sums[part] for part in PARTS))


def _items(known: Gathered) -> int:
    return sum(each.sums["items"] for each in known.functions.values())


def _facts(each: Function) -> list[tuple[str, str]]:
    sums, wall = each.sums, each.spans.total() / 1e9
    return [
        ("items", f"{sums['items']:,}"),
        ("items a second", f"{sums['items'] / max(wall, 1e-9):,.0f}"),
        *((name, of_time(each.took(share))) for name, share in _QUANTILES.items()),
        ("arguments", of_bytes(sums["nbytes"])),
        ("results", of_bytes(sums["result_nbytes"])),
        ("chunks", f"{sums['chunks']:,}"),
        ("usual chunk", of_count(round(quantile(each.sizes, 0.5)), "item")),
        *((name, f"{sums[name]:,}") for name in ("errors", "retries", *LOST)),
    ]


def page(known: Gathered) -> str:
    """The page, in HTML: one file, with nothing to load."""
    template = files("parmap._work.report").joinpath("page.html").read_text(encoding="utf-8")
    data = json.dumps(_data(known), separators=(",", ":"))
    return template.replace("{{data}}", data.replace("<", "\\u003c"))  # it lies in a script, which `</` would end


def _data(known: Gathered) -> dict[str, Any]:
    functions, shares = _functions(known), Shares(known)
    numbers = {each.name: place for place, each in enumerate(functions)}
    return {
        "program": os.path.basename(sys.argv[0] if sys.argv else "") or "a Python session",
        "when": time.strftime("%Y-%m-%d %H:%M", time.localtime(known.began)),
        "tiles": [
            ("time", of_time(shares.wall)),
            ("ideal", of_time(shares.ideal)),
            ("efficiency", f"{100 * shares.of('running'):.0f} %"),
            ("items", f"{_items(known):,}"),
            ("workers", str(len(known.workers))),
        ],
        "advice": advice(known),
        "parts": PARTS,
        "functions": [
            {
                "name": each.name,
                "facts": _facts(each),
                "slowest": [(of_time(took), of_item(*which), name) for took, *which, name in each.slowest],
            }
            for each in functions
        ],
        "workers": [
            {
                "name": worker.name,
                "spent": _micro(worker.spent(), PARTS),
                "bars": [_bar(bar, numbers, known.zero) for bar in worker.bars],
            }
            for worker in known.workers.values()
        ],
    }


def _bar(bar: Bar, numbers: dict[str, int], zero: int) -> list[Any]:
    """Begin, end, function, first item, items, chunks, whether some were lost, and what it was spent on."""
    first, sums = -1 if bar.first is None else bar.first, bar.sums
    begin, end = round((bar.begin - zero) / 1e3), round((bar.end - zero) / 1e3)
    lost = ", ".join(what for what in LOST if sums[what])
    head = [begin, end, numbers.get(bar.name, -1), first, sums["items"], sums["chunks"], lost]
    return head + _micro(sums, PARTS[:-1])


def _micro(spent: Counter[str], parts: tuple[str, ...]) -> list[int]:
    """Microseconds."""
    return [round(spent[part] / 1e3) for part in parts]


def trace(known: Gathered) -> str:
    """The trace, in JSON: under each bar what its time was spent on, one after the other."""
    events: list[dict[str, Any]] = []
    for place, worker in enumerate(known.workers.values()):
        where = {"pid": 1, "tid": place}
        events.append({"ph": "M", **where, "name": "thread_name", "args": {"name": worker.name}})
        for bar in worker.bars:
            begin = (bar.begin - known.zero) / 1e3
            what = {"name": bar.name or PARTS[0], "args": {"first": bar.first, **bar.sums}}
            events.append({"ph": "X", **where, **what, "ts": begin, "dur": (bar.end - bar.begin) / 1e3})
            for part in PARTS[1:-1]:
                if bar.sums[part]:
                    events.append({"ph": "X", **where, "name": part, "ts": begin, "dur": bar.sums[part] / 1e3})
                    begin += bar.sums[part] / 1e3
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events})
