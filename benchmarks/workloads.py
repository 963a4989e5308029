"""The workloads: what is run, how large, and what is to be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import items
from items import ARRAY, BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

FORK, FORKSERVER = "multiprocessing.Pool (fork)", "multiprocessing.Pool (forkserver)"
LIGHT = ("concurrent.futures", "loky", "joblib", "mpire", "pebble", "pathos")
IMPORTED = ("multiprocessing.Pool", *LIGHT, "dask.distributed", "ray")
"""The peers where tasks are imported."""
SCRIPTED = (FORK, FORKSERVER, *LIGHT)
"""The peers where tasks are a script's own."""
FEW = (FORK, FORKSERVER, "concurrent.futures", "loky", "joblib")
"""Those of them that are asked where it takes long."""


class Goal(NamedTuple):
    """A number to reach.

    `kind`: "peer": times as fast (or as small) as the best peer, or as peer `of`; "efficiency": share of the serial
    loop's time divided by the workers; "rate": bytes a second; "below": seconds or bytes; "row": at most so many times
    parmap's own time in row `of`; "import": at most so many seconds more than the import that the script begins with.
    """

    kind: str
    number: float
    of: str = ""


class Workload(NamedTuple):
    """One row of the table."""

    key: str
    title: str
    sizes: tuple[int, int, int]
    """Number of items in a smoke test, a quick run and a full run; 0: it is left out."""
    goals: tuple[Goal, ...]
    unit: str
    """How a measurement is shown: "tasks/s", "GB/s", "s", "ms", "µs", "MB", "efficiency" or "× serial"."""
    method: str = "map"
    """What is timed: see `cell.py`."""
    task: str = "inc"
    """The name of a function in the script, or in `tasks`."""
    items: Callable[[int], Any] | str = range
    """Makes so many items; a name: a function of the script."""
    script: str = ""
    """The script that defines the tasks and is run; empty: tasks are imported."""
    peers: tuple[str, ...] = IMPORTED
    chunked: bool = False
    """Whether libraries without a rule for chunks get the rule of `multiprocessing.Pool`."""
    item_bytes: int = 0
    busy: int = 0
    """How many processes keep the machine busy meanwhile."""
    made: bool = False
    """Whether `task` is a function that makes the task for a contestant."""
    once: bool = False
    """A repetition would tell nothing new, or take too long."""
    serial: bool = False
    """Whether the serial loop is timed as well."""
    looks_up: bool = False
    """Whether tasks read a variable of the script, which some contestants' workers don't see change."""


def _peer(number: float, of: str = "") -> Goal:
    return Goal("peer", number, of)


NOT_BEHIND = (_peer(0.95),)
"""Nothing may be more than 5 % slower than the best peer."""

DESIGN: tuple[Workload, ...] = (
    Workload(
        "tiny",
        "`map`, 100,000 tiny tasks",
        (2000, 100_000, 100_000),
        (_peer(1.4),),
        "tasks/s",
        chunked=True,
    ),
    Workload(
        "submit",
        "10,000 × `submit(x * x)`, gather",
        (200, 10_000, 10_000),
        (_peer(8.0),),
        "tasks/s",
        "submit",
        task="square",
    ),
    Workload(
        "round trip",
        "one `submit().result()` round trip",
        (20, 300, 500),
        (_peer(1 / 0.6),),
        "µs",
        "round trip",
        task="square",
    ),
    Workload(
        "short",
        "20,000 tasks of about 50 µs",
        (400, 20_000, 20_000),
        (Goal("efficiency", 0.97), *NOT_BEHIND),
        "efficiency",
        task="short",
        chunked=True,
        serial=True,
    ),
    Workload(
        "skewed",
        "skewed: 400 × 1 ms, then 20 × 50 ms",
        (42, 420, 420),
        (Goal("efficiency", 0.97), *NOT_BEHIND),
        "efficiency",
        task="busy",
        items=items.skewed,
        serial=True,
    ),
    Workload(
        "arguments",
        "24 arrays of 32 MB as arguments",
        (2, 24, 24),
        (Goal("rate", 6e9), _peer(1.0)),
        "GB/s",
        task="take_array",
        items=items.arrays,
        item_bytes=ARRAY,
    ),
    Workload(
        "results",
        "24 arrays of 32 MB as results",
        (2, 24, 24),
        (Goal("rate", 3.5e9), _peer(2.0)),
        "GB/s",
        task="make_array",
        items=items.array_sizes,
        item_bytes=ARRAY,
    ),
    Workload(
        "closure",
        "closure over a 64 MB array, 2,000 tasks",
        (20, 2000, 2000),
        (_peer(1.0),),
        "s",
        task="capture_large",
        made=True,
        chunked=True,
    ),
    Workload(
        "strings",
        "200,000 short strings to dicts",
        (2000, 200_000, 200_000),
        (_peer(1.3),),
        "× serial",
        task="to_dict",
        items=items.strings,
        chunked=True,
        serial=True,
    ),
    Workload("cold", "cold start to first results", (2, 2, 2), (Goal("below", 0.080),), "ms", "cold", once=True),
    Workload("import", "import, on top of a bare interpreter", (3, 5, 9), (Goal("below", 0.025),), "ms", "import"),
    Workload("idle", "memory of an idle worker (PSS)", (2, 2, 2), (Goal("below", 6e6),), "MB", "idle", once=True),
    Workload(
        "stream",
        "10 million items through `imap`: growth of the parent",
        (20_000, 1_000_000, 10_000_000),
        (Goal("below", 20e6),),
        "MB",
        "stream",
        once=True,
    ),
)

REAL: tuple[Workload, ...] = (
    Workload(
        "pandas",
        "pandas: group-by-apply, 600 groups",
        (10, 300, 600),
        NOT_BEHIND,
        "s",
        task="group_stats",
        items=items.groups,
        serial=True,
    ),
    Workload(
        "images",
        "numpy: filter 48 images of 1 MB",
        (4, 0, 48),
        NOT_BEHIND,
        "s",
        task="blur",
        items=items.images,
        serial=True,
    ),
    Workload(
        "monte carlo",
        "Monte-Carlo: 400 × 10,000 darts",
        (10, 0, 400),
        NOT_BEHIND,
        "s",
        task="estimate_pi",
        serial=True,
    ),
    Workload(
        "json",
        "parse 20,000 JSON documents of 700 bytes",
        (100, 20_000, 20_000),
        NOT_BEHIND,
        "s",
        task="parse",
        items=items.documents,
        chunked=True,
        serial=True,
    ),
    Workload(
        "sweep",
        "parameter sweep: 80 uneven runs of 1 to 200 ms",
        (5, 0, 80),
        NOT_BEHIND,
        "s",
        task="busy",
        items=items.sweep,
        serial=True,
    ),
)

CURVES: tuple[Workload, ...] = (
    Workload("curve items", "growing number of items", (1000, 100_000, 10_000_000), (), "s", chunked=True, once=True),
    Workload("curve stream", "growing number of items, `imap`", (1000, 100_000, 10_000_000), (), "s", "stream"),
    Workload("curve workers", "growing number of workers", (4, 16, 64), (), "s", "workers"),
    Workload("curve payload", "growing payload", (10_000, 10_000_000, 1 << 30), (), "s", "payload", "length"),
)

TWINS = ("tiny", "submit", "round trip", "short", "skewed", "strings")
"""Small tasks: what they cost must not depend on where they are defined."""
SMALL = tuple(
    workload._replace(key=f"script {workload.key}", script="tasks.py", peers=SCRIPTED)
    for workload in DESIGN
    if workload.key in TWINS
)


def _scoring(key: str, title: str, sizes: tuple[int, int, int], unit: str, method: str) -> Workload:
    """A small task that uses much of its script, of which parmap alone sees to it that workers have it as it is."""
    return Workload(
        f"scoring {key}",
        f"{title} a function that uses others, settings and classes",
        sizes,
        NOT_BEHIND,
        unit,
        method,
        "score",
        script="scripts/scoring.py",
        peers=tuple(peer for peer in FEW if peer != "joblib"),
        looks_up=True,
    )


def _bytes(key: str, title: str, method: str, task: str, make: Any, *goals: Goal) -> Workload:
    title = f"24 × 16 MB of `bytes` as {title}"
    goals = (_peer(4.0), *goals)
    sizes = (2, 24 if method == "map" else 0, 24)
    return Workload(
        key, title, sizes, goals, "GB/s", method, task, make, script="tasks.py", peers=FEW, item_bytes=BYTES
    )


def _orders(key: str, title: str, sizes: tuple[int, int, int], kind: str, task: str, busy: int = 0) -> Workload:
    title = title + (", beside four busy processes" if busy else "")
    return Workload(
        key,
        title,
        sizes,
        (_peer(1 / 1.5 if busy else 1.0, FORK),),
        "s",
        task=task,
        items="orders",
        script=f"scripts/{kind}_orders.py",
        peers=(FORK, FORKSERVER) if busy else FEW,
        chunked=True,
        busy=busy,
    )


SCRIPTS: tuple[Workload, ...] = (
    *SMALL,
    Workload(
        "table",
        "a table of 300,000 entries, read task by task",
        (20, 0, 100),
        (Goal("below", 0.015),),
        "µs",
        "round trip",
        "look_up",
        "keys",
        script="scripts/large_table.py",
        peers=(FORK, FORKSERVER, "concurrent.futures", "loky"),
        looks_up=True,
    ),
    Workload(
        "broadcast",
        "the same table, through `parmap.broadcast`",
        (20, 300, 500),
        (_peer(1.0, FORK),),
        "µs",
        "round trip",
        "for_broadcast",
        "keys",
        script="scripts/large_table.py",
        peers=(FORK, FORKSERVER, "concurrent.futures"),
        made=True,
        looks_up=True,
    ),
    _orders("orders", "5,000 pydantic orders → totals", (50, 5000, 5000), "pydantic", "total"),
    _orders("orders busy", "5,000 pydantic orders → totals", (50, 0, 5000), "pydantic", "total", busy=4),
    _orders("dataclasses", "5,000 dataclass orders → totals", (50, 0, 5000), "dataclass", "total"),
    _orders("dataclasses busy", "5,000 dataclass orders → totals", (50, 0, 5000), "dataclass", "total", busy=4),
    _orders(
        "dataclass copies", "5,000 dataclass orders, copied and filtered", (50, 0, 5000), "dataclass", "without_small"
    ),
    _orders("generated", "the same, from a generator", (50, 0, 5000), "dataclass", "without_small")._replace(
        method="generated"
    ),
    Workload(
        "slow input",
        "first result of `imap`, where reading an item takes 10 ms",
        (20, 300, 300),
        (Goal("below", 0.05),),
        "ms",
        "slow input",
        "square",
        script="tasks.py",
        peers=FEW,
        once=True,
    ),
    _orders("copies", "2,000 pydantic orders, copied and filtered", (50, 0, 2000), "pydantic", "without_small"),
    _orders(
        "copies busy", "2,000 pydantic orders, copied and filtered", (50, 0, 2000), "pydantic", "without_small", busy=4
    ),
    Workload(
        "logs",
        "400,000 log lines through `imap`, in order, parsed",
        (4000, 100_000, 400_000),
        (_peer(1.2),),
        "× serial",
        "lines",
        "parse",
        "lines",
        script="scripts/logs.py",
        peers=SCRIPTED,
        serial=True,
    ),
    Workload(
        "in a row",
        "60 maps in a row of 16 × 1 ms",
        (3, 20, 60),
        (Goal("efficiency", 0.9),),
        "efficiency",
        "in a row",
        "busy",
        items.milliseconds,
        script="tasks.py",
        peers=FEW,
        serial=True,
    ),
    _scoring("submit", "10,000 × `submit`:", (200, 2_000, 10_000), "tasks/s", "submit"),
    _scoring("round trip", "one `submit().result()` round trip:", (20, 300, 500), "µs", "round trip"),
    _bytes("bytes there", "arguments", "map", "length", items.blobs),
    _bytes(
        "bytes there, submit", "arguments, `submit`", "submit", "length", items.blobs, Goal("row", 1.2, "bytes there")
    ),
    _bytes("bytes back", "results", "map", "make_bytes", items.blob_sizes),
    _bytes(
        "bytes back, submit",
        "results, `submit`",
        "submit",
        "make_bytes",
        items.blob_sizes,
        Goal("row", 1.2, "bytes back"),
    ),
    Workload(
        "first results",
        "script to first results, with the import",
        (2, 2, 2),
        (_peer(1.0, FORKSERVER),),
        "ms",
        "first",
        "square",
        script="tasks.py",
        peers=SCRIPTED,
        once=True,
    ),
    Workload(
        "first pandas",
        "first map of a function that uses pandas",
        (4, 4, 4),
        (Goal("import", 0.3),),
        "s",
        "first",
        "spread",
        script="scripts/frames.py",
        peers=FEW,
        once=True,
    ),
    Workload(
        "pool memory",
        "memory of an idle pool of two (PSS of all its processes)",
        (100, 100, 100),
        (Goal("below", 16e6),),
        "MB",
        "pool memory",
        script="tasks.py",
        peers=SCRIPTED,
        once=True,
    ),
)

ROWS = (*SCRIPTS, *DESIGN, *REAL)
"""Everything but the curves, in the order of the page."""
BY_KEY = {workload.key: workload for workload in (*ROWS, *CURVES)}
