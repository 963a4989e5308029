"""Writes `docs/speed/benchmarks.md` from the results."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from contestants import BY_NAME, PEERS
from goals import goals
from results import TITLES, Table, shown, spread
from workloads import BY_KEY, CURVES, DESIGN, NOT_BEHIND, REAL, ROWS, SCRIPTS, Workload

if TYPE_CHECKING:
    from pathlib import Path

LEAST_GROWTH = 1e6
"""Bytes: a parent that grows by less is as good as one that doesn't, and no ratio is made of it."""


def contest(table: Table, workloads: tuple[Workload, ...]) -> list[str]:
    """Everybody's numbers, each with its ratio to parmap; notes tell why one is missing."""
    asked = {name for workload in workloads for name in workload.peers}
    names = ["parmap", *(name for name in PEERS if name in asked and name in table.results["contestants"])]
    notes: list[str] = []
    lines = [
        "| workload | " + " | ".join(TITLES.get(name, name) for name in names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for workload in workloads:
        row = [_entry(table, workload, name, notes) for name in names]
        lines.append(f"| {workload.title} | " + " | ".join(row) + " |")
    return [*lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]


def _entry(table: Table, workload: Workload, name: str, notes: list[str]) -> str:
    if name not in (*workload.peers, "parmap"):
        return ""
    value = table.median(workload.key, name)
    if value is None:
        note = table.failure(workload.key, name).replace("|", "/").replace("<", "‹").replace(">", "›")
        note = note.replace("*", "∗").replace("_", "\\_")
        if note not in notes:
            notes.append(note)
        return f"– ({notes.index(note) + 1})"
    text = shown(table, workload, value) + spread(table, workload.key, name)
    cell = table.cells(workload.key, name)[-1]
    if table.is_cut(workload.key, name):
        text += f" after {cell['items'] / 1e6:.1f} M items in {cell['seconds']:.0f} s"
    if cell.get("chunk") and not BY_NAME[name].chooses:
        text += f" in chunks of {cell['chunk']:,}"
    if workload.looks_up and BY_NAME[name].stale:
        text += ", **stale**"
    if name == "parmap":
        return f"**{text}**"
    mine = table.median(workload.key, "parmap")
    if mine is None or (workload.method == "stream" and min(mine, value) < LEAST_GROWTH):
        return text
    ratio = f"{value / max(mine, 1e-9):.2f}×"
    return f"{text} (**{ratio}**)" if value < mine else f"{text} ({ratio})"


def titled(workload: Workload) -> str:
    """A workload's name outside of its table."""
    return f"{workload.title} (script)" if workload.script else workload.title


def losses(table: Table) -> list[str]:
    """Where a peer is ahead."""
    lines = []
    for workload in table.rows(ROWS):
        mine, best = table.median(workload.key, "parmap"), table.best_peer(workload)
        if mine is None:
            lines.append(f"* {titled(workload)}: parmap has no result: {table.failure(workload.key, 'parmap')}.")
        elif best is not None and best[1] < mine and not (workload.method == "stream" and mine < LEAST_GROWTH):
            lines.append(
                f"* {titled(workload)}: {best[0]} needs {best[1] / mine:.2f} times what parmap does"
                f" ({shown(table, workload, best[1])} against {shown(table, workload, mine)})."
            )
    return lines or ["Nowhere, in this run."]


def physical(table: Table) -> list[str]:
    """What the machine allows, and how near parmap comes."""
    limits = table.results["reference"]
    lines = [
        "| limit of the machine | | parmap | |",
        "| --- | --- | --- | --- |",
    ]
    trip = table.median("round trip", "parmap")
    lines.append(_limit("a number, pickled, through a pipe and back", limits["pipe"] * 1e6, trip and trip * 1e6, "µs"))
    for key, way in (("arguments", "there"), ("results", "back")):
        seconds = table.median(key, "parmap")
        rate = seconds and table.size(key) * BY_KEY[key].item_bytes / seconds / 1e9
        lines.append(_limit(f"one copy in memory, by one core ({way})", limits["memcpy"] / 1e9, rate, "GB/s"))
    for workload in table.rows(ROWS):
        serial, mine = (table.median(workload.key, name) for name in ("serial loop", "parmap"))
        if workload.serial and serial is not None:
            title = f"{titled(workload)}: serial loop / {table.workers} workers"
            lines.append(_limit(title, serial / table.workers, mine, "s"))
    return lines


def _limit(title: str, limit: float, mine: float | None, unit: str) -> str:
    if mine is None:
        return f"| {title} | {limit:.3g} {unit} | – | |"
    share = mine / limit if unit == "GB/s" else limit / mine
    return f"| {title} | {limit:.3g} {unit} | {mine:.3g} {unit} | {100 * share:.0f} % |"


def curves(table: Table) -> list[str]:
    """Growing work, in numbers; the plots show the same."""
    lines = ["| | size | contestant | |", "| --- | --- | --- | --- |"]
    for workload in CURVES:
        for cell in table.results["cells"]:
            if cell["workload"] != workload.key:
                continue
            value = statistics.median(cell["values"]) if cell.get("values") else None
            if value is None:
                kind, why = next(
                    (kind, cell[kind]) for kind in ("timeout", "crash", "failed", "cannot", "skipped") if kind in cell
                )
                text = f"not done after {why:.0f} s" if kind == "timeout" else f"{kind}: {why}"
            elif workload.method == "stream":
                text = f"parent grew {value / 1e6:.1f} MB, {cell['seconds'] / cell['items'] * 1e6:.2f} µs an item"
                text += "" if cell["items"] == cell["size"] else f", cut off after {cell['items']:,} items"
            elif workload.method == "workers":
                text = f"started in {cell['start'] * 1e3:.0f} ms, then 4,000 short tasks in {value * 1e3:.0f} ms"
            elif workload.method == "payload":
                text = f"{value * 1e6:,.0f} µs"
            else:
                text = f"{value / cell['size'] * 1e6:.3f} µs an item"
            lines.append(f"| {workload.title} | {cell['size']:,} | {cell['contestant']} | {text} |")
    return lines


def write(results: dict[str, Any], docs: Path) -> None:
    """Write the page into *docs*."""
    from mine import journey, milliseconds, mine
    from page import PAGE

    table = Table(results)
    machine = results["machine"]
    command = results["command"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    others = [name for name in BY_NAME if name not in (*results["absent"], *results["contestants"])]
    absent = f"Not installable here: {', '.join(results['absent'])}. " if results["absent"] else ""
    absent += f"Left out of this run: {', '.join(others)}." if others else ""
    text = PAGE.format(
        warning=""
        if command == "make bench"
        else f"```{{warning}}\nMade with `{command}`: sizes, contestants or repetitions are cut down.\n```\n",
        command=command,
        processor=machine["processor"],
        cores=machine["cores"],
        memory=machine["memory"],
        system=machine["system"],
        python=machine["python"],
        date=machine["date"],
        workers=results["workers"],
        rounds=max(cell["round"] for cell in results["cells"]),
        minutes=f"{results['seconds'] / 60:.1f}",
        versions=versions,
        absent=absent,
        behind=f"{100 * (1 - NOT_BEHIND[0].number):.0f} %",
        script_goals="\n".join(goals(table, table.rows(SCRIPTS))),
        goals="\n".join(goals(table, table.rows((*DESIGN, *REAL)))),
        mine="\n".join(mine(table)),
        journey=journey(table),
        fork=milliseconds(table, "multiprocessing.Pool (fork)"),
        first=milliseconds(table, "parmap"),
        losses="\n".join(losses(table)),
        scripts="\n".join(contest(table, table.rows(SCRIPTS))),
        design="\n".join(contest(table, table.rows(DESIGN))),
        real="\n".join(contest(table, table.rows(REAL))),
        physical="\n".join(physical(table)),
        curves="\n".join(curves(table)),
    )
    (docs / "benchmarks.md").write_text(text)
