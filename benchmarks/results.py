"""The results of a run, looked up by workload and contestant, and written as text."""

from __future__ import annotations

import statistics
from typing import Any

from workloads import Workload

TITLES = {
    "multiprocessing.Pool": "mp.Pool",
    "multiprocessing.Pool (fork)": "mp.Pool (fork)",
    "multiprocessing.Pool (forkserver)": "mp.Pool (forkserver)",
    "concurrent.futures": "futures",
    "dask.distributed": "dask",
}


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

    def rows(self, workloads: tuple[Workload, ...]) -> tuple[Workload, ...]:
        """Those of *workloads* that were run."""
        return tuple(workload for workload in workloads if self.size(workload.key))

    def median(self, key: str, name: str, number: int | None = None) -> float | None:
        """The median over all rounds, or of one.

        `None` if a round failed: a contestant that fails now and then is no winner.
        """
        cells = self.cells(key, name)
        values = [value for cell in cells if number in (None, cell["round"]) for value in cell.get("values", ())]
        failed = any(not cell.get("values") and "skipped" not in cell for cell in cells)
        return statistics.median(values) if values and not failed else None

    def rounds(self, key: str, name: str) -> list[int]:
        """The numbers of the rounds in which there was a result."""
        return [int(cell["round"]) for cell in self.cells(key, name) if cell.get("values")]

    def is_cut(self, key: str, name: str) -> bool:
        """Whether a stream had not come to its end in time."""
        return any(cell.get("items", cell["size"]) < cell["size"] for cell in self.cells(key, name))

    def best_peer(self, workload: Workload) -> tuple[str, float] | None:
        """The peer with the smallest median among those that were measured in most rounds."""
        found = {
            name: value
            for name in workload.peers
            if (value := self.median(workload.key, name)) is not None and not self.is_cut(workload.key, name)
        }
        most = max((len(self.rounds(workload.key, name)) for name in found), default=0)
        lasting = [(value, name) for name, value in found.items() if 2 * len(self.rounds(workload.key, name)) > most]
        return (min(lasting)[1], min(lasting)[0]) if lasting else None

    def size(self, key: str) -> int:
        """The number of items that were run; 0: it was not run."""
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


def quartiles(values: list[float]) -> tuple[float, float] | None:
    """Between which two numbers the middle half of *values* lies; `None` if there are too few to tell."""
    if len(values) < 3:
        return None
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


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
    return f"{value * factor:,.{digits}f} {workload.unit}"


def spread(table: Table, key: str, name: str) -> str:
    """By how much the rounds differ: half the width of their middle half, compared to the median."""
    values = [value for number in table.rounds(key, name) if (value := table.median(key, name, number)) is not None]
    middle = quartiles(values)
    if middle is None or not statistics.median(values):
        return ""
    return f" ±{50 * (middle[1] - middle[0]) / statistics.median(values):.0f} %"
