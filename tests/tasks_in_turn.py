"""Tasks that say when they run, wait for one another, or fail: importable, so that they travel by name."""

from __future__ import annotations

import os
import time
from typing import Any

import tasks
import tasks_that_hang

from parmap import parallel


def begin(item: tuple[str, int]) -> str:
    folder, number = item
    return tasks.touch(f"{folder}/{number}")


def fail_on_three(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x


def fail_or_wait(path: str | None) -> None:
    if path is None:
        raise ValueError("fails first")
    tasks.wait_for(path)


def wait_or_not(path: str | None) -> str | None:
    return None if path is None else tasks.wait_for(path)


def wait_or_touch(path: str | None) -> str | None:
    return path if path in {None, "last"} else tasks.wait_for(path)


def wait_for_second(item: tuple[str, str]) -> str:
    begun, path = item
    return tasks.touch_and_wait_for(begun, path)


def fail_on_odd(x: int) -> int:
    if x % 2:
        raise ValueError(x)
    return x


def fail_or_touch_and_wait(order: tuple[str, str] | None) -> None:
    """With paths: tell that it runs, then wait; with none: fail."""
    if order is None:
        raise ValueError("fails first")
    tasks.touch_and_wait_for(*order)


def fail_or_run(path: str, fails: bool) -> None:
    """Wait until the other runs, then fail; or note the process and run for ever."""
    if fails:
        tasks.wait_for(path)
        raise ValueError("fails second")
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".new", path)
    tasks.wait_for(path + ".never")


def note_and_fail(order: tuple[str, bool]) -> None:
    path, fails = order
    if fails:
        raise ValueError(path)
    tasks.touch(path)


def _wait_for_files(folder: str, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(os.listdir(folder)) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(folder)
        time.sleep(0.005)


def begin_and_wait(item: Any) -> Any:
    """With a path: tell that it runs, then wait until another does."""
    if len(str(item)) > 5:
        tasks.touch(str(item))
        _wait_for_files(os.path.dirname(item), 2)
    return len(str(item))


def touch_or_wait(item: Any) -> Any:
    """With a path: make a file; with a folder and a count: wait until it has so many."""
    if isinstance(item, str):
        return tasks.touch(item)
    _wait_for_files(*item)
    return item[1]


def next_of(values: list[int]) -> int:
    """Raises StopIteration for an empty list."""
    return next(iter(values))


def touch_or_hang(path: str) -> None:
    if path:
        tasks.touch(path)
    else:
        tasks_that_hang.ignore_signals()


def with_progress(x: int) -> list[int]:
    """A call with a bar, inside a task."""
    return parallel(tasks.square, progress=True).map(range(x))


def len_of_first(first: Any, _: Any) -> int:
    return len(first)


def map_inside(x: int) -> list[int]:
    """A task that uses parmap itself."""
    return parallel(tasks.square, workers=2).map(range(x))


def pids_inside(_: Any) -> list[int]:
    """Where the tasks of a task run."""
    return [os.getpid(), *parallel(tasks.pid, workers=2).map(range(5))]


@parallel(workers=2)
def factorial(n: int) -> int:
    """A decorated function that calls itself through its pool."""
    return 1 if n < 2 else n * factorial.map([n - 1])[0]


@parallel(workers=2)
def plain_recursion(n: int) -> int:
    """A decorated function that calls itself as a function."""
    return 0 if n == 0 else 1 + plain_recursion(n - 1)


def end_if(code: int) -> None:
    """End the worker, unless *code* is 0."""
    if code:
        os._exit(code)


def setting() -> str | None:
    """What the environment has."""
    return os.environ.get("RACE")
