"""Functions that never end, each in its own way, run in workers by tests of timeouts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

from parmap._work import place as _place


def sleep(_: Any = None) -> None:
    """Stuck in a system call."""
    time.sleep(3600)


def spin(_: Any = None) -> None:
    """Stuck in a loop of Python."""
    while True:
        pass


def hold_the_gil(_: Any = None) -> None:
    """Stuck in C, with the GIL held: no signal handler of Python's ever runs."""
    re.match(r"(a*)*b", "a" * 60)


def ignore_signals(_: Any = None) -> None:
    """Refuses to be terminated."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(3600)


def exit_again(_: Any = None) -> None:
    """Catches everything and goes on."""
    while True:
        try:
            time.sleep(3600)
        except BaseException:
            continue


def until_terminated(log: str) -> str:
    """Notes that it begins, ends when it is terminated, and returns as if nothing had happened."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _: told.append(signum))
    with open(log, "a", encoding="utf-8") as file:
        file.write("begun\n")
    while not told:
        time.sleep(0.01)
    return log


def start_a_child(path: str) -> None:
    """Stuck with a process of its own."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    with open(path, "w", encoding="utf-8") as file:
        file.write(str(child.pid))
    child.wait()


def deep(levels: int) -> None:
    """Stuck somewhere down in its calls."""
    if levels:
        deep(levels - 1)
    else:
        the_place_where_it_hangs()


def the_place_where_it_hangs() -> None:
    """What the stack must show."""
    time.sleep(3600)


def hang_if_negative(x: int) -> int:
    """Hangs for some."""
    if x < 0:
        time.sleep(3600)
    return x


def hang_once(path: str) -> int:
    """Hangs the first time, and returns the second."""
    try:
        with open(path, "x", encoding="utf-8"):
            pass
    except FileExistsError:
        return os.getpid()
    time.sleep(3600)
    return 0


class Slow:
    """It hangs in workers: when it arrives there, or when it shall leave."""

    def __init__(self, *, hangs: bool) -> None:
        self.hangs = hangs

    def __reduce__(self) -> Any:
        return _pass, (_pass(self.hangs),)


def _pass(hangs: bool) -> bool:
    if hangs and _place.in_worker:
        time.sleep(3600)
    return hangs


def take(slow: bool) -> bool:
    """Returns what it was given."""
    return slow


def give(number: int) -> Any:
    """Returns what hangs on its way, for one number."""
    return Slow(hangs=number == 3)


def end_when_terminated(path: str) -> str:
    """Make a file, if there is a path, then end as a task should when SIGTERM comes, and leave the worker well."""
    if not path:
        return path
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, _: asked.append(signum))
    try:
        with open(path, "w", encoding="utf-8"):
            pass
        deadline = time.monotonic() + 60
        while not asked and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        signal.signal(signal.SIGTERM, before)
    return path


class _Late:
    """Takes its time to leave."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        time.sleep(0.1)
        return int, (self.value,)


def note_and_return_late(path: str, number: int) -> Any:
    """Note each call in a file; what is returned takes long to pickle, but for a negative number."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{number}\n")
    return number if number < 0 else _Late(number)


def die_or_hang(how: str | int) -> None:
    """Ends its worker, or hangs."""
    if how == "die":
        os._exit(3)
    if how == "hang":
        time.sleep(3600)


def fail_if_one(number: int) -> int:
    """Fails for one."""
    if number == 1:
        raise LookupError
    return number
