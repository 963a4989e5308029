"""What the soak runs in its workers."""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from typing import Any

import tasks_that_hang

RAISE, DIE, HANG, RETURN = "raise", "die", "hang", "return"


def fate(number: int) -> str:
    """What becomes of an item: 1 % raise, 0.1 % kill their worker, 0.1 % hang."""
    if number % 1000 == 500:
        return DIE
    if number % 1000 == 700:
        return HANG
    return RAISE if number % 100 == 3 else RETURN


def live(number: int) -> int:
    """Meet one's fate."""
    what = fate(number)
    if what == RAISE:
        raise ValueError(number)
    if what == DIE:
        os._exit(3)
    if what == HANG:
        if number % 2000 == 700:
            tasks_that_hang.hold_the_gil()
        time.sleep(3600)
    return -number


# --- large payloads -------------------------------------------------------------------------------


def parcel(number: int, size: int) -> tuple[int, Any, int]:
    """A number, an array of *size* bytes that no other number has, and its checksum."""
    import numpy as np

    seed = hashlib.sha512(number.to_bytes(8)).digest()
    array = np.frombuffer(seed * (size // len(seed) + 1), np.uint8, size).copy()
    return number, array, zlib.adler32(array)


def is_whole(parcel: tuple[int, Any, int], number: int) -> bool:
    """Whether a parcel is the one of that number, unharmed."""
    return parcel[0] == number and zlib.adler32(parcel[1]) == parcel[2]


def reply(received: tuple[int, Any, int]) -> tuple[bool, tuple[int, Any, int]]:
    """Whether a parcel came whole, and another of its size, which overwrites the one that came."""
    number, array, _ = received
    whole = is_whole(received, number)
    array[:] = 0
    return whole, parcel(-number & 0xFFFFFFFF, len(array))
