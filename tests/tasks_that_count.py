"""Tasks that leave a mark each time they run: what was run, how often, is seen in a file."""

from __future__ import annotations

import os
from collections import Counter


def count(number: int, path: str) -> int:
    """Write the number of the task down; one write behind the last byte is never mixed with another's."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, number.to_bytes(4, "little"))
    finally:
        os.close(file)
    return -number


def runs(path: str) -> Counter[int]:
    """How often each task ran."""
    with open(path, "rb") as file:
        written = file.read()
    return Counter(int.from_bytes(written[at : at + 4], "little") for at in range(0, len(written), 4))
