"""Tasks of which one item, `"culprit"`, goes wrong: importable, so that they travel by name."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import tasks_at_fault as bad


class Source:
    """An iterable whose iterator raises after some items."""

    def __init__(self, count: int, end: str) -> None:
        self.left = count
        self.end = end

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> int:
        if not self.left:
            bad.throw(self.end)
        self.left -= 1
        return self.left


def give_a_generator(x: Any) -> Any:
    return (i for i in range(3)) if x == "culprit" else x


def leave(x: Any) -> Any:
    return os._exit(3) if x == "culprit" else x


def exit_by_sys(x: Any) -> Any:
    return sys.exit(3) if x == "culprit" else x


def kill(x: Any) -> Any:
    return os.kill(os.getpid(), signal.SIGKILL) if x == "culprit" else x


def hang(x: Any) -> Any:
    return bad.time.sleep(600) if x == "culprit" else x


def give_what_breaks(x: Any) -> Any:
    return bad.BadToLoad("exception") if x == "culprit" else x


def take(x: Any) -> Any:
    return x


class LeavesWhenSent:
    """A result that calls `sys.exit`, or the like, when it is pickled."""

    def __init__(self, error: type[BaseException] = SystemExit) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error(3)


def give_what_leaves(x: Any) -> Any:
    return LeavesWhenSent() if x == "culprit" else x


def interrupt(x: Any) -> Any:
    return LeavesWhenSent(KeyboardInterrupt) if x == "culprit" else x
