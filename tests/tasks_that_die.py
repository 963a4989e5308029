"""Tasks that end their worker, each in its own way: importable, so that they travel by name."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from typing import Any


def _exhaust_memory() -> None:
    """Ask for more memory than the process may have."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
    try:
        bytearray(1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _by_signal(signum: int) -> None:
    os.kill(os.getpid(), signum)
    time.sleep(60)


WAYS: dict[str, Any] = {
    "exit 3": lambda: os._exit(3),
    "exit 0": lambda: os._exit(0),
    "sys.exit 3": lambda: sys.exit(3),
    "sys.exit": sys.exit,
    "kill": lambda: _by_signal(signal.SIGKILL),
    "terminate": lambda: _by_signal(signal.SIGTERM),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "memory": _exhaust_memory,
}


def perish(how: Any) -> Any:
    """End the worker in the way that *how* names; return any other argument."""
    if how in WAYS:
        WAYS[how]()
    return how


def wait_for(path: str) -> int:
    """Wait until the file *path* is there; returns the process that waited."""
    with open(f"{path}.{os.getpid()}", "w"):
        pass
    while not os.path.exists(path):
        time.sleep(0.001)
    return os.getpid()


def die_the_first_times(path: str, times: int) -> int:
    """Die at the first *times* attempts, counted by the size of the file *path*; then return their number."""
    with open(path, "ab") as file:
        file.write(b".")
    tried = os.path.getsize(path)
    if tried <= times:
        os._exit(7)
    return tried


def big(megabytes: int) -> bytes:
    """A large result."""
    return bytes(megabytes << 20)


def size(data: Any) -> int:
    """The size of a large argument."""
    return len(data)


def init_raises() -> None:
    """An initializer that fails."""
    message = "no database"
    raise LookupError(message)


def init_dies() -> None:
    """An initializer that ends its process."""
    os._exit(9)


def init_prints() -> None:
    """An initializer that writes to the terminal."""
    print("worker is up", flush=True)


def be_the_only_one(path: str) -> None:
    """An initializer that ends all processes but the first, each of which adds a byte to the file *path*."""
    with open(path, "ab") as file:
        file.write(b".")
        file.flush()
        if file.tell() > 1:
            os._exit(9)
