"""The speed of parmap on a cluster, beside the ways that Dask and Ray, and joblib on Dask, have of their own.

Usage: on_clusters.py [--quick] [--rounds N] [--engine dask|ray] [--page PAGE]

The clusters are on this machine: a scheduler and three workers of four threads each, over TCP, for Dask; two nodes of
four CPUs for Ray. The contestants take turns on one cluster; between turns each gives back what it holds there, and a
first call, which is not measured, starts it again. Writes docs/speed/clusters.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])

from clusters import CLUSTERS  # noqa: E402 - and this among the tests

import far_tasks as tasks  # noqa: E402 - it lies beside this file
from parmap import parallel, shutdown  # noqa: E402 - whose checkout this is

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = HERE.parent / "docs" / "speed" / "clusters.md"


class Workload(NamedTuple):
    """Something to be done on a cluster."""

    title: str
    task: Callable[..., Any]
    count: int
    make: Callable[[int], list[Any]]
    captured: Any = None
    """What each task needs besides its item."""
    singles: int = 1
    """How many times fewer items those get who take each by itself: they would take minutes."""


BIG = np.ones(8 << 20)
WORKLOADS = (
    Workload("20,000 no-ops, a function's first call", tasks.inc, 20_000, lambda n: list(range(n)), singles=20),
    Workload("20,000 no-ops, its second", tasks.inc, 20_000, lambda n: list(range(n)), singles=20),
    Workload("5,000 × 1 ms, asleep", tasks.sleep, 5000, lambda n: [0.001] * n, singles=5),
    Workload("2,000 × 1 ms, computing", tasks.busy, 2000, lambda n: [0.001] * n, singles=4),
    Workload("200 × 50 ms, asleep", tasks.doze, 200, lambda n: [0.05] * n),
    Workload("24 × 8 MB, in and out", tasks.turn, 24, lambda n: [np.ones(1 << 20) for _ in range(n)]),
    Workload("500 × 1 ms, with 64 MB captured", tasks.look, 500, lambda n: list(range(n)), BIG),
)


class Contestant:
    """A way to have items done on a cluster."""

    name = ""
    takes_singles = False

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster

    def map(self, task: Callable[..., Any], items: list[Any], captured: Any) -> list[Any]:
        """All results in order."""
        raise NotImplementedError

    def rest(self) -> None:
        """Give back what is held on the cluster."""


class Parmap(Contestant):
    name = "parmap"

    def map(self, task: Callable[..., Any], items: list[Any], captured: Any) -> list[Any]:
        function = parallel(task, backend=self.cluster.name)
        return (function if captured is None else function.partial(captured)).map(items)

    def rest(self) -> None:
        shutdown()


class DaskMap(Contestant):
    name = "`Client.map`"
    takes_singles = True

    def map(self, task: Callable[..., Any], items: list[Any], captured: Any) -> list[Any]:
        client = self.cluster.client
        if captured is None:
            return client.gather(client.map(task, items, pure=False))
        there = client.scatter(captured, hash=False)
        return client.gather([client.submit(task, there, item, pure=False) for item in items])


class Joblib(Contestant):
    name = "joblib"

    def map(self, task: Callable[..., Any], items: list[Any], captured: Any) -> list[Any]:
        import joblib

        scatter = {} if captured is None else {"scatter": [captured]}
        with joblib.parallel_config("dask", client=self.cluster.client, **scatter):
            first = () if captured is None else (captured,)
            return joblib.Parallel()(joblib.delayed(task)(*first, item) for item in items)


class RayTasks(Contestant):
    name = "`ray.remote`"
    takes_singles = True

    def map(self, task: Callable[..., Any], items: list[Any], captured: Any) -> list[Any]:
        import ray

        remote = ray.remote(task)
        first = () if captured is None else (ray.put(captured),)
        return ray.get([remote.remote(*first, item) for item in items])


class RayPool(Contestant):
    name = "`ray.util.multiprocessing.Pool`"
    pool: Any = None

    def map(self, task: Callable[..., Any], items: list[Any], captured: Any) -> list[Any]:
        if self.pool is None:
            from ray.util.multiprocessing import Pool

            self.pool = Pool(2 * self.cluster.cpus)
        if captured is None:
            return self.pool.map(task, items)
        import ray

        there = ray.put(captured)
        return self.pool.map(lambda item: task(ray.get(there), item), items)

    def rest(self) -> None:
        if self.pool is not None:
            self.pool.terminate()
            self.pool.join()
            self.pool = None


CONTESTANTS = {"dask": (Parmap, DaskMap, Joblib), "ray": (Parmap, RayTasks, RayPool)}
Times = dict[tuple[str, str], list[tuple[float, float]]]


def processors() -> dict[int, float]:
    """Seconds of processor that this process, and those below it, have used."""
    found = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
        except psutil.Error:
            continue
    return found


def measure(contestant: Contestant, workload: Workload, scale: int) -> tuple[float, float]:
    """Seconds, and microseconds of processor, that an item takes."""
    count = max(4, workload.count // scale // (workload.singles if contestant.takes_singles else 1))
    items = workload.make(count)
    before, begin = processors(), time.perf_counter()
    results = contestant.map(workload.task, items, workload.captured)
    took = time.perf_counter() - begin
    if len(results) != count:
        raise ValueError(results)
    used = sum(max(0.0, now - before.get(pid, 0.0)) for pid, now in processors().items())
    return took / count, used / count * 1e6


def contest(engine: str, rounds: int, scale: int, workloads: tuple[Workload, ...]) -> Times:
    """All contestants in turn, in each round."""
    found: Times = defaultdict(list)
    size = {"workers": 3, "threads": 4} if engine == "dask" else {"cpus": 4}
    with CLUSTERS[engine](Path(tempfile.mkdtemp()), **size) as cluster:
        contestants = [kind(cluster) for kind in CONTESTANTS[engine]]
        for number in range(rounds):
            for contestant in contestants[number % 3 :] + contestants[: number % 3]:
                contestant.map(tasks.sleep, [0.05] * 48, None)
                for workload in workloads:
                    took = measure(contestant, workload, scale)
                    found[workload.title, contestant.name].append(took)
                    print(engine, number, contestant.name, workload.title, f"{1 / took[0]:,.0f}/s", flush=True)
                contestant.rest()
                if engine == "ray":
                    time.sleep(6)  # its CPUs are free some seconds later
    return found


def table(engine: str, found: Times, workloads: tuple[Workload, ...]) -> list[str]:
    """Medians, as Markdown."""
    names = [kind.name for kind in CONTESTANTS[engine]]
    lines = ["| items a second; µs of processor an item | " + " | ".join(names) + " | parmap beside the best other |"]
    lines.append("| --- |" + " --- |" * (len(names) + 1))
    for workload in workloads:
        rates, cells = [], []
        for name in names:
            values = found[workload.title, name]
            rates.append(1 / statistics.median(took for took, _ in values))
            used = statistics.median(used for _, used in values)
            cells.append(f"{rates[-1]:,.0f}; {used:,.0f}" if rates[-1] >= 10 else f"{rates[-1]:.2g}; {used:,.0f}")
        lines.append(f"| {workload.title} | {' | '.join(cells)} | {rates[0] / max(rates[1:]):.1f} × |")
    return lines


HEAD = """\
<!-- Written by benchmarks/on_clusters.py: change that, not this page. -->

# Benchmarks on clusters

parmap beside what the libraries have of their own, on one cluster, in one run. Medians of {rounds} rounds, in which all
take turns. In each cell: items a second, and the microseconds of processor that an item took in all processes
together, those of the client, the scheduler and the workers. Of those that make each item a task of its own
({singles}) fewer items were measured.

All is on one machine of {cores} cores, which client, scheduler and workers share; its load was {load} when this was
measured{busy}. So rates say what the *processor* allows: tasks that sleep cost it nothing, tasks that compute leave
nothing to others. What can be carried over to other clusters are ratios, and the microseconds an item.

{python}, {versions}; {date}. The command: `{before}python benchmarks/on_clusters.py{arguments}`.
"""


def write(page: Path, tables: dict[str, list[str]], arguments: argparse.Namespace, load: float) -> None:
    """Write the page."""
    from importlib.metadata import version

    engines = {"dask": ("distributed", "joblib"), "ray": ("ray",)}
    known = [f"{name} {version(name)}" for engine in tables for name in engines[engine]]
    cores = os.cpu_count() or 1
    text = HEAD.format(
        rounds=arguments.rounds,
        singles=", ".join(kind.name for engine in tables for kind in CONTESTANTS[engine] if kind.takes_singles),
        cores=cores,
        load=f"{load:.0f}",
        busy=", of which these measurements make some" if load <= 2 * cores else ": other programs ran, too",
        python=f"Python {platform.python_version()}",
        versions=", ".join(known),
        date=time.strftime("%Y-%m-%d"),
        before="chrt -r 5 " if os.sched_getscheduler(0) == os.SCHED_RR else "",  # before other programs
        arguments="".join(f" {each}" for each in sys.argv[1:]),
    )
    for engine, lines in tables.items():
        text += f"\n## On {engine.title()}\n\n" + "\n".join(lines) + "\n"
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the items, one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", choices=[*CLUSTERS])
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    scale = 10 if arguments.quick else 1
    arguments.rounds = 1 if arguments.quick else arguments.rounds
    tables, loads = {}, [os.getloadavg()[0]]
    for engine in [arguments.engine] if arguments.engine else CLUSTERS:
        found = contest(engine, arguments.rounds, scale, WORKLOADS)
        loads.append(os.getloadavg()[0])
        tables[engine] = table(engine, found, WORKLOADS)
        print("\n".join(tables[engine]), flush=True)
    write(arguments.page, tables, arguments, statistics.mean(loads))


if __name__ == "__main__":
    main()
