"""Draws the plots of the documentation from the results."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from contestants import PEERS
from mine import OTHERS, WORK, ratio
from results import Table
from workloads import BY_KEY, DESIGN, REAL, SCRIPTS, Workload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

mpl.use("svg")
mpl.rcParams.update(
    {
        "svg.hashsalt": "parmap",  # the same results make the same file
        "figure.facecolor": "white",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "font.size": 9,
    }
)
COLOURS = {"parmap": "#d1495b", "multiprocessing.Pool": "#30638e"}


def medians(results: dict[str, Any], key: str) -> dict[tuple[str, int], float]:
    """The median of all measurements of a workload, by contestant and size."""
    values: dict[tuple[str, int], list[float]] = {}
    for cell in results["cells"]:
        if cell["workload"] == key:
            values.setdefault((cell["contestant"], cell["size"]), []).extend(cell.get("values", ()))
    return {place: statistics.median(found) for place, found in values.items() if found}


def draw(results: dict[str, Any], docs: Path) -> None:
    """Write all plots into *docs*."""
    _draw_mine(results, docs / "benchmarks-summary.svg")
    _draw_ratios(results, SCRIPTS, "Tasks in a script", docs / "benchmarks-scripts.svg")
    _draw_ratios(results, (*DESIGN, *REAL), "Tasks in a module", docs / "benchmarks-ratios.svg")
    _draw_items(results, docs / "benchmarks-items.svg")
    _draw_memory(results, docs / "benchmarks-memory.svg")
    _draw_workers(results, docs / "benchmarks-workers.svg")
    _draw_payload(results, docs / "benchmarks-payload.svg")


def new_plot(title: str, x: str, y: str, size: tuple[float, float] = (7.0, 3.6)) -> tuple[Any, Any]:
    """An empty plot, and its axes."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def save(figure: Any, path: Path) -> None:
    """Write a plot into a file."""
    from matplotlib import pyplot as plt

    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def _draw_mine(results: dict[str, Any], path: Path) -> None:
    """The chart at the top: narrow, with each kind of work named over its dots, so that a phone shows it as it is."""
    table = Table(results)
    rows = [key for key in reversed(WORK) if table.size(key)]
    figure, axes = new_plot("The same work, in other libraries", "time, as a multiple of parmap's", "", (4.3, 6.4))
    colours = (COLOURS["multiprocessing.Pool"], "#edae49", "#6b9080")
    for (other, marker), colour in zip(zip(OTHERS, "o^s", strict=True), colours, strict=True):
        points = [(found, row) for row, key in enumerate(rows) if (found := ratio(table, key, other)) is not None]
        axes.plot(*zip(*points, strict=True), marker, label=other, color=colour, markersize=6) if points else None
    for row, key in enumerate(rows):
        words = WORK[key].replace("`", "")
        place = {"xycoords": ("axes fraction", "data"), "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.8}}
        axes.annotate(words, (0.005, row + 0.24), fontsize=8, color="#555555", **place)
    axes.axvline(1.0, color=COLOURS["parmap"], linewidth=1.5, label="parmap")
    axes.set_xscale("log")
    axes.set_xticks([0.2, 0.5, 1, 2, 5, 10, 30], ["0.2", "0.5", "1", "2", "5", "10", "30"], minor=False)
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.set_yticks([])
    axes.set_ylim(-0.5, len(rows) - 0.1)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save(figure, path)


def _draw_ratios(results: dict[str, Any], workloads: tuple[Workload, ...], title: str, path: Path) -> None:
    """How much longer each peer takes than parmap, one row of dots for each workload."""
    rows = [
        work
        for work in workloads
        if work.unit != "MB" and ("parmap", _size(results, work.key)) in medians(results, work.key)
    ]
    figure, axes = new_plot(title, "time, as a multiple of parmap's", "", (9.0, 6.0))
    for number, name in enumerate(name for name in PEERS if any(name in work.peers for work in rows)):
        xs, ys = [], []
        for row, workload in enumerate(reversed(rows)):
            found = medians(results, workload.key)
            size = _size(results, workload.key)
            if (name, size) in found:
                xs.append(found[name, size] / max(found["parmap", size], 1e-9))
                ys.append(row + 0.06 * (number - 4))
        axes.plot(xs, ys, "o", label=name, markersize=4.5, alpha=0.85)
    axes.axvline(1.0, color=COLOURS["parmap"], linewidth=1.5)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [workload.title.replace("`", "") for workload in reversed(rows)])
    if rows:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save(figure, path)


def _size(results: dict[str, Any], key: str) -> int:
    return next((int(cell["size"]) for cell in results["cells"] if cell["workload"] == key), 0)


def curve(axes: Any, points: dict[tuple[str, int], float], value: Callable[[int, float], float]) -> None:
    """Draw a line for each name."""
    for name in dict.fromkeys(name for name, _ in points):
        sizes = sorted(size for other, size in points if other == name)
        axes.plot(
            sizes, [value(size, points[name, size]) for size in sizes], "o-", label=name, color=COLOURS.get(name), ms=4
        )
    if points:
        axes.legend(frameon=False)


def _draw_items(results: dict[str, Any], path: Path) -> None:
    figure, axes = new_plot("Cost of an item: `map`, tiny tasks", "items", "time per item (µs)")
    curve(axes, medians(results, "curve items"), lambda size, seconds: seconds / size * 1e6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    save(figure, path)


def _draw_memory(results: dict[str, Any], path: Path) -> None:
    figure, axes = new_plot("Growth of the parent: `imap`, tiny tasks", "items", "growth (MB)")
    reached: dict[tuple[str, int], float] = {}  # by the items that came through in time
    for cell in results["cells"]:
        if cell["workload"] == "curve stream" and "values" in cell:
            reached[cell["contestant"], cell["items"]] = cell["values"][0]
    curve(axes, reached, lambda _, grown: grown / 1e6)
    axes.set_xscale("log")
    save(figure, path)


def _draw_workers(results: dict[str, Any], path: Path) -> None:
    title = f"{BY_KEY['curve workers'].title.capitalize()}, on {results['machine']['cores']} cores"
    figure, axes = new_plot(title, "workers", "seconds")
    work = medians(results, "curve workers")
    curve(axes, {(f"{name}: 4,000 short tasks", size): value for (name, size), value in work.items()}, _as_is)
    starts = {
        (f"{cell['contestant']}: start", cell["size"]): cell["start"]
        for cell in results["cells"]
        if cell["workload"] == "curve workers" and "start" in cell
    }
    curve(axes, starts, _as_is)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    save(figure, path)


def _as_is(_: int, value: float) -> float:
    return value


def _draw_payload(results: dict[str, Any], path: Path) -> None:
    figure, axes = new_plot("One call with a growing argument", "bytes", "seconds")
    points = medians(results, "curve payload")
    curve(axes, points, _as_is)
    sizes = sorted({size for _, size in points})
    speed = results["reference"]["memcpy"]
    axes.plot(sizes, [size / speed for size in sizes], ":", color="grey", label="one copy in memory")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e-5)
    axes.legend(frameon=False)
    save(figure, path)
