"""Functions that tests run in workers: importable, so that they travel by name."""

from __future__ import annotations

import itertools
import os
import signal
import time
from typing import Any


def square(x: int) -> int:
    """An ordinary task."""
    return x * x


def add(a: int, b: int = 10) -> int:
    """A task of two arguments."""
    return a + b


def identity(x: Any) -> Any:
    """A task that returns its argument."""
    return x


def pid(_: Any = None) -> int:
    """The process that runs the task."""
    return os.getpid()


def nap(seconds: float) -> float:
    """A task that takes its time."""
    time.sleep(seconds)
    return seconds


def die(how: Any) -> Any:
    """A task that ends its worker: by an exit code (int < 0: by a signal), or not at all (anything but an int)."""
    if isinstance(how, int):
        if how < 0:
            os.kill(os.getpid(), -how)
            time.sleep(60)
        os._exit(how)
    return how


def segfault(_: Any = None) -> None:
    """A task that crashes in C."""
    import ctypes

    ctypes.string_at(0)


def abort(_: Any = None) -> None:
    """A task that aborts."""
    os.abort()


def fail(x: Any) -> Any:
    """A task that raises."""
    raise ValueError(x)


KILL = -int(signal.SIGKILL)


_turns = itertools.count()


def turn() -> int:
    """How many times this was called before in the same process."""
    return next(_turns)


def wait_for(path: str) -> str:
    """A task that ends when somebody has made the file *path* (or after a minute, lest it stay for ever)."""
    deadline = time.monotonic() + 60
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.005)
    return path


def touch(path: str) -> str:
    """A task that makes a file."""
    with open(path, "w", encoding="utf-8"):
        return path


def touch_and_wait_for(begun: str, path: str) -> str:
    """A task that tells that it has begun, then waits for a file."""
    touch(begun)
    return wait_for(path)


def inverse(x: float) -> float:
    """A task that fails for zero."""
    return 1 / x


def fail_or_wait_for(which: tuple[str, str]) -> str:
    """A task that tells that it fails and fails, or waits for a file."""
    failed, path = which
    if failed:
        touch(failed)
        raise ValueError("failed")
    return wait_for(path)


_memory: list[Any] = []


def remember(what: Any) -> None:
    """An initializer."""
    _memory[:] = [what]


def remembered() -> Any:
    """What the initializer was told."""
    return _memory[0]


def pool_in_a_pool() -> list[int]:
    """A task that has a pool of its own."""
    import parmap

    with parmap.Pool(2) as pool:
        return pool.map(square, [1, 2, 3])


def executor_in_an_executor() -> list[int]:
    """A task that has an executor of its own."""
    import parmap

    with parmap.Executor(2) as executor:
        return list(executor.map(square, [1, 2, 3]))


def first_then_wait(number: int, begun: str, path: str) -> int:
    """A task that returns at once the first time, and otherwise tells that it has begun and waits."""
    if number:
        touch(begun)
        touch(f"{begun}.{number}")
        wait_for(path)
    return number


def fail_once(path: str) -> str:
    """A task that fails the first time."""
    if not os.path.exists(path):
        touch(path)
        raise OSError(path)
    return path


def append_and_nap(path: str, seconds: float) -> None:
    """A task that counts its runs."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(".")
    time.sleep(seconds)


def nested_pids(_: Any = None) -> int:
    """A task that counts the processes that run a parallel call of its own, besides its own."""
    import parmap

    pids = set(parmap.parallel(pid, workers=2).map(range(20)))
    assert pids == {os.getpid()}
    return len(pids)


def wait_or_not(path: str) -> str:
    """A task that waits for a file, if it is given one."""
    return wait_for(path) if path else path


def set_first(data: bytearray) -> int:
    """A task that writes into its argument."""
    data[0] = 1
    return len(data)


def draw(_: Any = None) -> tuple[float, int]:
    """A task that draws random numbers: its own, and from which process."""
    import random

    return random.random(), os.getpid()


def draw_with_numpy(_: Any = None) -> float:
    """A task that draws from numpy's global generator."""
    import numpy as np

    return float(np.random.random())  # noqa: NPY002 - the generator that is seeded


def draw_in_each_way() -> tuple[float, ...]:
    """Of the standard library, of numpy, of a new generator."""
    import random

    import numpy as np

    return random.random(), draw_with_numpy(), np.random.default_rng().random()


def fail_with_secret(data: Any) -> None:
    """A task that has local variables, and fails by way of another error."""
    password = "hunter2"
    try:
        raise KeyError(len(password))
    except KeyError as error:
        raise ValueError(data) from error


def sums(name: str, count: int) -> list[int]:
    """Call in parallel on the cluster that runs this."""
    from parmap import parallel

    found: list[int] = parallel(lambda x: x + 1, backend=name).map(range(count))  # type: ignore[call-overload]
    return found


def repeat(text: Any, times: int = 2) -> Any:
    return text * times


def everything(*args: Any, **kwargs: Any) -> Any:
    """A task that tells how it was called."""
    return args, kwargs


def even_or_fail(items: list[int], name: str) -> str:
    if items[0] % 2:
        raise ValueError(name)
    return name


def first_of(array: Any) -> tuple[float, float]:
    return float(array[0]), float(array[-1])
