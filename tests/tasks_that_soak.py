"""What the soak runs in its workers."""

from __future__ import annotations

import os
import time

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
