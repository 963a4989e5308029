"""The workloads: what is run, how large, and what is to be reached."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, NamedTuple

import tasks

if TYPE_CHECKING:
    from collections.abc import Callable

ARRAY = 32 << 20
CAPTURED = 64 << 20


class Goal(NamedTuple):
    """A number to reach.

    `kind`: "peer": times as fast (or as small) as the best peer; "efficiency": share of the serial loop's time divided
    by the workers; "rate": bytes a second; "below": seconds or bytes.
    """

    kind: str
    number: float


class Workload(NamedTuple):
    """One row of the table."""

    key: str
    title: str
    sizes: tuple[int, int, int]
    """Number of items in a smoke test, a quick run and a full run."""
    goals: tuple[Goal, ...]
    unit: str
    """How a measurement is shown: "tasks/s", "GB/s", "s", "ms", "µs", "MB" or "efficiency"."""
    method: str = "map"
    """What is timed: see `cell.py`."""
    task: Callable[..., Any] = tasks.inc
    items: Callable[[int], Any] = range
    chunked: bool = False
    """Whether libraries without a rule for chunks get the rule of `multiprocessing.Pool`."""
    item_bytes: int = 0
    once: bool = False
    """A repetition would tell nothing new, or take too long."""
    serial: bool = False
    """Whether the serial loop is timed as well."""


def _arrays(count: int) -> list[Any]:
    import numpy as np

    return [np.full(ARRAY // 8, float(number)) for number in range(count)]


def _array_sizes(count: int) -> list[int]:
    return [ARRAY] * count


def _strings(count: int) -> list[str]:
    return [f"item number {number}" for number in range(count)]


def _skewed(count: int) -> list[float]:
    """Many short items, then a few long ones: 20 of 21, and 1 of 21."""
    return [0.001] * (count - count // 21) + [0.050] * (count // 21)


def _groups(count: int) -> list[Any]:
    import numpy as np
    import pandas as pd

    random_state = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "key": np.repeat(np.arange(count), 500),
            "value": random_state.normal(size=count * 500),
            "weight": random_state.uniform(size=count * 500),
        }
    )
    return [group for _, group in frame.groupby("key")]


def _images(count: int) -> list[Any]:
    import numpy as np

    random_state = np.random.default_rng(2)
    return [random_state.random((512, 512), dtype=np.float32) for _ in range(count)]


def _documents(count: int) -> list[str]:
    source = random.Random(3)
    return [
        json.dumps(
            {
                "id": number,
                "entries": [
                    {
                        "name": f"article {source.randrange(1000)}",
                        "price": source.random(),
                        "count": source.randrange(9),
                    }
                    for _ in range(12)
                ],
            }
        )
        for number in range(count)
    ]


def _sweep(count: int) -> list[float]:
    source = random.Random(4)
    return [min(0.2, 0.008 * source.lognormvariate(0, 1)) for _ in range(count)]


def _peer(number: float) -> Goal:
    return Goal("peer", number)


NOT_BEHIND = (_peer(0.95),)
"""Nothing may be more than 5 % slower than the best peer."""

DESIGN = (
    Workload(
        "tiny",
        "`map`, 100,000 tiny tasks",
        (2000, 100_000, 100_000),
        (_peer(1.4),),
        "tasks/s",
        chunked=True,
    ),
    Workload("submit", "10,000 × `submit`, gather", (200, 10_000, 10_000), (_peer(8.0),), "tasks/s", "submit"),
    Workload(
        "round trip",
        "one `submit().result()` round trip",
        (20, 300, 500),
        (_peer(1 / 0.6),),
        "µs",
        "round trip",
    ),
    Workload(
        "short",
        "20,000 tasks of about 50 µs",
        (400, 20_000, 20_000),
        (Goal("efficiency", 0.97), *NOT_BEHIND),
        "efficiency",
        task=tasks.short,
        chunked=True,
        serial=True,
    ),
    Workload(
        "skewed",
        "skewed: 400 × 1 ms, then 20 × 50 ms",
        (42, 420, 420),
        (Goal("efficiency", 0.97), *NOT_BEHIND),
        "efficiency",
        task=tasks.busy,
        items=_skewed,
        serial=True,
    ),
    Workload(
        "arguments",
        "24 arrays of 32 MB as arguments",
        (2, 24, 24),
        (Goal("rate", 6e9), _peer(1.0)),
        "GB/s",
        task=tasks.take_array,
        items=_arrays,
        item_bytes=ARRAY,
    ),
    Workload(
        "results",
        "24 arrays of 32 MB as results",
        (2, 24, 24),
        (Goal("rate", 3.5e9), _peer(2.0)),
        "GB/s",
        task=tasks.make_array,
        items=_array_sizes,
        item_bytes=ARRAY,
    ),
    Workload(
        "closure",
        "closure over a 64 MB array, 2,000 tasks",
        (20, 2000, 2000),
        (_peer(1.0),),
        "s",
        "closure",
        chunked=True,
    ),
    Workload(
        "strings",
        "200,000 short strings to dicts",
        (2000, 200_000, 200_000),
        (_peer(1.3),),
        "× serial",
        task=tasks.to_dict,
        items=_strings,
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

REAL = (
    Workload(
        "pandas",
        "pandas: group-by-apply, 600 groups",
        (10, 300, 600),
        NOT_BEHIND,
        "s",
        task=tasks.group_stats,
        items=_groups,
        serial=True,
    ),
    Workload(
        "images",
        "numpy: filter 48 images of 1 MB",
        (4, 24, 48),
        NOT_BEHIND,
        "s",
        task=tasks.blur,
        items=_images,
        serial=True,
    ),
    Workload(
        "monte carlo",
        "Monte-Carlo: 400 × 10,000 darts",
        (10, 200, 400),
        NOT_BEHIND,
        "s",
        task=tasks.estimate_pi,
        serial=True,
    ),
    Workload(
        "json",
        "parse 20,000 JSON documents of 700 bytes",
        (100, 20_000, 20_000),
        NOT_BEHIND,
        "s",
        task=tasks.parse,
        items=_documents,
        chunked=True,
        serial=True,
    ),
    Workload(
        "sweep",
        "parameter sweep: 80 uneven runs of 1 to 200 ms",
        (5, 40, 80),
        NOT_BEHIND,
        "s",
        task=tasks.busy,
        items=_sweep,
        serial=True,
    ),
)

CURVES = (
    Workload("curve items", "growing number of items", (1000, 100_000, 10_000_000), (), "s", chunked=True, once=True),
    Workload("curve stream", "growing number of items, `imap`", (1000, 100_000, 10_000_000), (), "s", "stream"),
    Workload("curve workers", "growing number of workers", (4, 16, 64), (), "s", "workers", once=True),
    Workload("curve payload", "growing payload", (10_000, 10_000_000, 1 << 30), (), "s", "payload", once=True),
)

BY_KEY = {workload.key: workload for workload in (*DESIGN, *REAL, *CURVES)}
