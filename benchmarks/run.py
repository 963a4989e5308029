"""Runs the benchmarks, writes their results into a JSON file, and the pages and plots of the documentation from it.

Usage: run.py [--quick | --smoke] [--only WORKLOAD ...] [--output RESULTS] [--docs DIRECTORY]

All contestants take turns within a workload, and all workloads within a round: what disturbs the machine for a while
hits everybody. The first round finds the rivals of each workload, the fastest peers; in the others parmap meets them.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import reference
from contestants import ALL, BY_NAME, is_installed, version_of
from process import HERE, run_python
from workloads import BY_KEY, FORK, FORKSERVER, ROWS, Workload

WORKERS = 2
TASKS_USE = ("cloudpickle", "numpy", "pandas", "pydantic")
ALWAYS = ("parmap", "serial loop")
QUICK = (*ALWAYS, "multiprocessing.Pool", FORK, FORKSERVER, "concurrent.futures")
RIVALS = 2
"""So many peers are measured again after the first round, which makes room for seven rounds."""
NEAR = 1.5
"""Times the fastest peer's time: who needs more in the first round is no rival."""


class Scale(NamedTuple):
    """How large a run is."""

    name: str
    size: int
    """Which of a workload's sizes."""
    budget: float
    """Seconds for everything."""
    rounds: int
    repeat: float
    """Seconds for the repetitions within a cell."""
    limit: float
    """Seconds after which a cell is ended."""
    curves: dict[str, tuple[int, ...]]


SMOKE = Scale(
    "smoke",
    0,
    600.0,
    1,
    0.0,
    15.0,
    {
        "curve items": (1000, 2000),
        "curve stream": (10_000,),
        "curve workers": (1, 2),
        "curve payload": (1, 1000),
    },
)
QUICK_SCALE = Scale(
    "bench-quick",
    1,
    110.0,
    1,
    0.1,
    8.0,
    {
        "curve items": (1000, 10_000, 100_000),
        "curve stream": (10_000, 1_000_000),
        "curve workers": (1, 2, 8),
        "curve payload": (1, 10_000, 10_000_000),
    },
)
FULL = Scale(
    "bench",
    2,
    1020.0,
    7,
    0.25,
    24.0,
    {
        "curve items": (1000, 10_000, 100_000, 1_000_000, 10_000_000),
        "curve stream": (10_000, 100_000, 1_000_000, 10_000_000),
        "curve workers": (1, 2, 4, 8, 16, 32, 64),
        "curve payload": (1, 100, 10_000, 1_000_000, 10_000_000, 100_000_000, 1 << 30),
    },
)
ALONE = ("cold", "idle", "import")
"""What is about the process itself needs one of its own."""
CURVE_CONTESTANTS = ("parmap", "multiprocessing.Pool")


class Bench:
    """A run: what was measured so far, and how much time is left."""

    def __init__(self, scale: Scale, scratch: Path) -> None:
        self.scale = scale
        self.cells: list[dict[str, Any]] = []
        self._scratch = scratch
        self._begin = time.perf_counter()
        self._costs: dict[str, float] = {}  # what a workload took in the round before

    @property
    def left(self) -> float:
        """Seconds that this run may still take."""
        return self.scale.budget - (time.perf_counter() - self._begin)

    def cells_of(self, name: str, wanted: list[tuple[str, int]], number: int) -> None:
        """Measure one contestant at workloads of given sizes, in one process unless it fails."""
        while wanted:
            key, size = wanted[0]
            if self.left < 1.0:
                answers: list[dict[str, Any]] = [{"skipped": "no time was left"}]
            elif BY_KEY[key].method == "import":
                answers = [self._import(name, size)]
            else:
                answers = self._measure(name, wanted)
            for (key, size), answer in zip(wanted, answers, strict=False):
                self.cells.append({"contestant": name, "workload": key, "size": size, "round": number, **answer})
                shown = ", ".join(f"{value:.4g}" for value in answer.get("values", ())) or next(iter(answer.items()))
                print(f"  [{self.left:4.0f} s left] {key:14} {size:>10} {name:22} {shown}", flush=True)
            wanted = wanted[len(answers) :]

    def _measure(self, name: str, wanted: list[tuple[str, int]]) -> list[dict[str, Any]]:
        """The answers to the first of *wanted*, at least one."""
        limit = min(self.scale.limit, self.left)
        arguments = [BY_KEY[wanted[0][0]].script or "cell.py", name, str(WORKERS), str(self.scale.repeat), str(limit)]
        arguments += [f"{key}:{size}" for key, size in wanted]
        answers, failure = run_python(arguments, self._scratch, min(self.left, limit * len(wanted) + 1.0))
        if failure and len(answers) < len(wanted):
            answers.append({"timeout": limit} if failure == "timeout" else {"crash": failure})
        return answers

    def _import(self, name: str, count: int) -> dict[str, Any]:
        begin = time.perf_counter()
        try:
            values = reference.import_times(BY_NAME[name].imports, count, 8 * self.scale.repeat)
        except Exception as error:
            return {"crash": f"{type(error).__name__}: {error}"[:200]}
        return {"values": values, "taken": time.perf_counter() - begin}

    def size(self, workload: Workload) -> int:
        """The number of items of a workload in this run."""
        return workload.sizes[self.scale.size]

    def heavy(self, number: int, names: list[str], workloads: list[Workload]) -> None:
        """Those that take seconds to start run all workloads in one process, but for those about the process itself."""
        for name in names:
            mine = [workload for workload in workloads if self._takes_part(name, workload, number)]
            together = [workload for workload in mine if workload.method not in ALONE]
            self.cells_of(name, [(workload.key, self.size(workload)) for workload in together], number)
            for workload in mine:
                if workload.method in ALONE and number == 1:
                    self.cells_of(name, [(workload.key, self.size(workload))], number)

    def round(self, number: int, names: list[str], workloads: list[Workload]) -> None:
        """All contestants at all workloads, once."""
        for place, workload in enumerate(workloads):
            entrants = [name for name in names if self._takes_part(name, workload, number)]
            if not entrants or self._costs.get(workload.key, 0.0) > self.left - 2.0:
                continue
            turn = (number + place) % len(entrants)
            begin = time.perf_counter()
            for name in entrants[turn:] + entrants[:turn]:
                self.cells_of(name, [(workload.key, self.size(workload))], number)
            self._costs[workload.key] = time.perf_counter() - begin

    def _takes_part(self, name: str, workload: Workload, number: int) -> bool:
        if name not in (*workload.peers, "parmap") and not (name == "serial loop" and workload.serial):
            return False
        if number == 1:
            return True
        if workload.method == "stream":  # it is as long as ten rounds of another
            return False
        # Who failed once is not asked again; without parmap there is nothing to compare.
        if not (self._median(name, workload) and self._median("parmap", workload)):
            return False
        return name in ALWAYS or name in self._rivals_of(workload)

    def _rivals_of(self, workload: Workload) -> list[str]:
        """The peers that were fastest in the first round, and those that a goal names."""
        first = sorted((value, name) for name in workload.peers if (value := self._median(name, workload, 1)))
        near = [name for value, name in first[:RIVALS] if value <= NEAR * first[0][0]]
        return near + [goal.of for goal in workload.goals if goal.kind == "peer"]

    def _median(self, name: str, workload: Workload, number: int | None = None) -> float | None:
        """The median of all rounds, or of one; `None` if one failed, or there was none."""
        cells = [
            cell
            for cell in self.cells
            if (cell["contestant"], cell["workload"]) == (name, workload.key) and number in (None, cell["round"])
        ]
        if not cells or not all("values" in cell for cell in cells):
            return None
        return float(statistics.median(value for cell in cells for value in cell["values"]))

    def curves(self, only: list[str]) -> None:
        """Growing work, for parmap and for the library that everybody has."""
        for key, sizes in self.scale.curves.items():
            if only and key not in only:
                continue
            slow: set[str] = set()
            for size in sizes:
                for name in CURVE_CONTESTANTS:
                    if name not in slow:
                        self.cells_of(name, [(key, size)], 1)
                        if "values" not in self.cells[-1]:
                            slow.add(name)

    @property
    def goes_on(self) -> bool:
        """Whether another round makes sense."""
        return self.left > 2.0 + min(self._costs.values(), default=1e9)


def measure(scale: Scale, scratch: Path, only: list[str]) -> dict[str, Any]:
    """Run everything, or *only* some workloads."""
    present = [kind for kind in ALL if is_installed(kind)]
    absent = [kind.name for kind in ALL if kind not in present]
    names = [kind.name for kind in present if scale is not QUICK_SCALE or kind.name in QUICK]
    workloads = [row for row in ROWS if row.sizes[scale.size] and (not only or row.key in only)]
    light = [name for name in names if not BY_NAME[name].heavy]
    heavy = [name for name in names if name not in light]
    begin = time.perf_counter()
    bench = Bench(scale, scratch)
    versions = {kind.name: version_of(kind.distribution) for kind in present if kind.distribution}
    versions |= {name: version_of(name) for name in TASKS_USE}
    limits = {"pipe": reference.pipe_round_trip(300 if scale is SMOKE else 2000), "memcpy": reference.memory_copy()}
    for number in range(1, scale.rounds + 1):
        if number > 1 and not bench.goes_on:
            break
        print(f"round {number}", flush=True)
        bench.round(number, light, workloads)
        bench.heavy(number, heavy, workloads)
        if number == 1:
            bench.curves(only)
    return {
        "scale": scale.name,
        "workers": WORKERS,
        "seconds": time.perf_counter() - begin,
        "machine": reference.machine(),
        "versions": {name: number for name, number in versions.items() if number},
        "contestants": names,
        "absent": absent,
        "reference": limits,
        "cells": bench.cells,
    }


def command_of(options: argparse.Namespace, scale: Scale) -> str:
    """What somebody has to type to get the same figures."""
    if scale is not SMOKE and not options.only:
        return f"make {scale.name}"
    return shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]])


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="fewer contestants and one round, in less than two minutes")
    how.add_argument(
        "--smoke", action="store_true", help="tiny sizes: whether it runs at all; the numbers mean nothing"
    )
    how.add_argument(
        "--again", action="store_true", help="measure nothing: write the page from the results of the last run"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results.json", help="where the results go")
    parser.add_argument(
        "--docs", type=Path, default=HERE.parent / "docs" / "speed", help="where the page and the plots go"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="WORKLOAD", help=f"some of: {', '.join(BY_KEY)}")
    options = parser.parse_args()
    scale = SMOKE if options.smoke else QUICK_SCALE if options.quick else FULL
    options.docs.mkdir(parents=True, exist_ok=True)
    if options.again:
        results = json.loads(options.output.read_text())
    else:
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as scratch:
            results = {"command": command_of(options, scale), **measure(scale, Path(scratch), options.only)}
        options.output.write_text(json.dumps(results, indent=1))
    from goals import goals
    from plots import draw
    from report import losses, write
    from results import Table

    write(results, options.docs)
    draw(results, options.docs)
    table = Table(results)
    print("\n".join([*goals(table, table.rows(ROWS)), "", "Where parmap loses:", *losses(table)]))
    print(f"done in {results['seconds']:.0f} s: {options.docs / 'benchmarks.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
