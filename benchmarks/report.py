"""Writes `docs/benchmarks.md` from the results."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from contestants import BY_NAME, PEERS
from workloads import BY_KEY, CURVES, DESIGN, NOT_BEHIND, REAL, Goal, Workload

if TYPE_CHECKING:
    from pathlib import Path

TITLES = {"multiprocessing.Pool": "mp.Pool", "concurrent.futures": "futures", "dask.distributed": "dask"}
LEAST_GROWTH = 1e6
"""Bytes: a parent that grows by less is as good as one that doesn't, and no ratio is made of it."""


class Table:
    """The measurements, looked up by workload and contestant."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results
        self.workers = int(results["workers"])
        self._cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for cell in results["cells"]:
            self._cells.setdefault((cell["workload"], cell["contestant"]), []).append(cell)

    def cells(self, key: str, name: str) -> list[dict[str, Any]]:
        """What was measured, in the order of the rounds."""
        return self._cells.get((key, name), [])

    def median(self, key: str, name: str) -> float | None:
        """The median over all rounds; `None` if a round failed: a contestant that fails now and then is no winner."""
        cells = self.cells(key, name)
        values = [value for cell in cells for value in cell.get("values", ())]
        failed = any(not cell.get("values") and "skipped" not in cell for cell in cells)
        return statistics.median(values) if values and not failed else None

    def is_cut(self, key: str, name: str) -> bool:
        """Whether a stream had not come to its end in time."""
        return any(cell.get("items", cell["size"]) < cell["size"] for cell in self.cells(key, name))

    def best_peer(self, workload: Workload) -> tuple[str, float] | None:
        """The peer with the smallest median."""
        found = [
            (value, name)
            for name in PEERS
            if (value := self.median(workload.key, name)) is not None and not self.is_cut(workload.key, name)
        ]
        return (min(found)[1], min(found)[0]) if found else None

    def size(self, key: str) -> int:
        """The number of items that were run."""
        return next((int(cell["size"]) for cell in self.results["cells"] if cell["workload"] == key), 0)

    def failure(self, key: str, name: str) -> str:
        """Why there is no number; empty if there is one."""
        for cell in self.cells(key, name):
            if "timeout" in cell:
                return f"not done after {cell['timeout']:.0f} s"
            for kind in ("crash", "failed", "cannot", "skipped"):
                if kind in cell:
                    return f"{'crashed' if kind == 'crash' else kind}: {cell[kind]}"
        return "" if self.cells(key, name) else "not run"


def shown(table: Table, workload: Workload, value: float) -> str:
    """A measurement in the unit of its row."""
    size = table.size(workload.key)
    if workload.unit == "tasks/s":
        rate = size / value
        return f"{rate / 1e6:.2f} M/s" if rate > 1e6 else f"{rate / 1e3:.1f} k/s"
    if workload.unit == "GB/s":
        return f"{size * workload.item_bytes / value / 1e9:.2f} GB/s"
    if workload.unit in ("efficiency", "× serial"):
        serial = table.median(workload.key, "serial loop")
        workers = table.workers if workload.unit == "efficiency" else 1
        suffix = " ×" if workload.unit == "× serial" else ""
        return "?" if serial is None else f"{serial / workers / value:.2f}{suffix}"
    factor, digits = {"s": (1.0, 3), "ms": (1e3, 1), "µs": (1e6, 0), "MB": (1e-6, 1)}[workload.unit]
    return f"{value * factor:.{digits}f} {workload.unit}"


def reached(table: Table, workload: Workload, goal: Goal) -> tuple[str, str, bool | None]:  # noqa: PLR0911 - by kind
    """A goal in words, what was reached, and whether that is enough (`None`: it can't be told)."""
    value = table.median(workload.key, "parmap")
    size = table.size(workload.key)
    number = goal.number
    if goal.kind == "peer":
        best = table.best_peer(workload)
        words = f"≥ {number:.2g} × the best peer"
        if value is None or best is None:
            return words, "–", None
        return words, f"{best[1] / value:.2f} × {TITLES.get(best[0], best[0])}", best[1] / value >= number
    if value is None:
        return "", "–", None
    if goal.kind == "efficiency":
        serial = table.median(workload.key, "serial loop")
        words = f"efficiency ≥ {number}"
        if serial is None:
            return words, "–", None
        return words, f"{serial / table.workers / value:.3f}", serial / table.workers / value >= number
    if goal.kind == "rate":
        rate = size * workload.item_bytes / value
        return f"≥ {number / 1e9:g} GB/s", f"{rate / 1e9:.2f} GB/s", rate >= number
    factor = 1e3 if workload.unit == "ms" else 1e-6
    cut = ", not all items in time" if table.is_cut(workload.key, "parmap") else ""
    words = f"≤ {number * factor:g} {workload.unit}"
    return words, f"{value * factor:.1f} {workload.unit}{cut}", value <= number and not cut


def goals(table: Table) -> list[str]:
    """The table of goals; where one is missed, it says so."""
    lines = ["| workload | goal | reached | |", "| --- | --- | --- | --- |"]
    for workload in (*DESIGN, *REAL):
        for goal in workload.goals:
            words, result, enough = reached(table, workload, goal)
            verdict = {True: "yes", False: f"**missed** {_missing(table, workload, goal)}", None: "not measured"}[
                enough
            ]
            lines.append(f"| {workload.title} | {words} | {result} | {verdict} |")
    return lines


def _missing(table: Table, workload: Workload, goal: Goal) -> str:
    value = table.median(workload.key, "parmap")
    best = table.best_peer(workload)
    serial = table.median(workload.key, "serial loop")
    if value is None:
        return ""
    ratio = {
        "peer": best[1] / value / goal.number if best else 1.0,
        "efficiency": (serial or value) / table.workers / value / goal.number,
        "rate": table.size(workload.key) * workload.item_bytes / value / goal.number,
        "below": goal.number / value,
    }[goal.kind]
    return f"by {100 * (1 - ratio):.0f} %"


def contest(table: Table, workloads: tuple[Workload, ...]) -> list[str]:
    """Everybody's numbers, each with its ratio to parmap; notes tell why one is missing."""
    names = ["parmap", *(name for name in PEERS if name in table.results["contestants"])]
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
    value = table.median(workload.key, name)
    if value is None:
        note = table.failure(workload.key, name).replace("|", "/").replace("<", "‹").replace(">", "›")
        note = note.replace("*", "∗").replace("_", "\\_")
        if note not in notes:
            notes.append(note)
        return f"– ({notes.index(note) + 1})"
    text = shown(table, workload, value)
    cell = table.cells(workload.key, name)[-1]
    if table.is_cut(workload.key, name):
        text += f" after {cell['items'] / 1e6:.1f} M items in {cell['seconds']:.0f} s"
    if name == "parmap":
        return f"**{text}**"
    mine = table.median(workload.key, "parmap")
    if mine is None or (workload.method == "stream" and min(mine, value) < LEAST_GROWTH):
        return text
    ratio = f"{value / max(mine, 1e-9):.2f}×"
    return f"{text} (**{ratio}**)" if value < mine else f"{text} ({ratio})"


def losses(table: Table) -> list[str]:
    """Where a peer is ahead."""
    lines = []
    for workload in (*DESIGN, *REAL):
        mine, best = table.median(workload.key, "parmap"), table.best_peer(workload)
        if mine is None:
            lines.append(f"* {workload.title}: parmap has no result: {table.failure(workload.key, 'parmap')}.")
        elif best is not None and best[1] < mine and not (workload.method == "stream" and mine < LEAST_GROWTH):
            lines.append(
                f"* {workload.title}: {best[0]} needs {best[1] / mine:.2f} times what parmap does"
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
    for workload in (*DESIGN, *REAL):
        serial, mine = (table.median(workload.key, name) for name in ("serial loop", "parmap"))
        if workload.serial and serial is not None:
            title = f"{workload.title}: serial loop / {table.workers} workers"
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
    from page import PAGE

    table = Table(results)
    machine = results["machine"]
    command = {"bench": "make bench", "bench-quick": "make bench-quick"}.get(results["scale"], "run.py --smoke")
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    others = [name for name in BY_NAME if name not in (*results["absent"], *results["contestants"])]
    absent = f"Not installable here: {', '.join(results['absent'])}. " if results["absent"] else ""
    absent += f"Left out of this run: {', '.join(others)}." if others else ""
    text = PAGE.format(
        warning=""
        if results["scale"] == "bench"
        else f"```{{warning}}\nMade with `{command}`: sizes, contestants or repetitions are cut down.\n```\n",
        command=command,
        processor=machine["processor"],
        cores=machine["cores"],
        memory=machine["memory"],
        system=machine["system"],
        python=machine["python"],
        date=machine["date"],
        workers=results["workers"],
        minutes=f"{results['seconds'] / 60:.1f}",
        versions=versions,
        absent=absent,
        behind=f"{100 * (1 - NOT_BEHIND[0].number):.0f} %",
        goals="\n".join(goals(table)),
        losses="\n".join(losses(table)),
        design="\n".join(contest(table, DESIGN)),
        real="\n".join(contest(table, REAL)),
        physical="\n".join(physical(table)),
        curves="\n".join(curves(table)),
    )
    (docs / "benchmarks.md").write_text(text)
