"""What the tasks are given, where it isn't simply a range."""

from __future__ import annotations

import json
import random
from typing import Any

ARRAY = 32 << 20
BYTES = 16 << 20


def arrays(count: int) -> list[Any]:
    """Arrays of 32 MB."""
    import numpy as np

    return [np.full(ARRAY // 8, float(number)) for number in range(count)]


def array_sizes(count: int) -> list[int]:
    """Sizes of arrays that tasks make."""
    return [ARRAY] * count


def blobs(count: int) -> list[bytes]:
    """Bytes of 16 MB."""
    return [bytes([number % 256]) * BYTES for number in range(count)]


def blob_sizes(count: int) -> list[int]:
    """Sizes of bytes that tasks make."""
    return [BYTES] * count


def strings(count: int) -> list[str]:
    """Short strings."""
    return [f"item number {number}" for number in range(count)]


def skewed(count: int) -> list[float]:
    """Many short items, then a few long ones: 20 of 21, and 1 of 21."""
    return [0.001] * (count - count // 21) + [0.050] * (count // 21)


def milliseconds(_: int) -> list[float]:
    """The items of one short map."""
    return [0.001] * 16


def groups(count: int) -> list[Any]:
    """The groups of a data frame, 500 rows each."""
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


def images(count: int) -> list[Any]:
    """Images of 1 MB."""
    import numpy as np

    random_state = np.random.default_rng(2)
    return [random_state.random((512, 512), dtype=np.float32) for _ in range(count)]


def documents(count: int) -> list[str]:
    """JSON documents of 700 bytes."""
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


def sweep(count: int) -> list[float]:
    """Seconds that the runs of a parameter sweep take."""
    source = random.Random(4)
    return [min(0.2, 0.008 * source.lognormvariate(0, 1)) for _ in range(count)]
