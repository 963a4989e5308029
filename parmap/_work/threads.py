"""Threads of our own: started, or told why they can't be."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class ShutdownError(RuntimeError):
    """The interpreter is shutting down, and starts no more threads: what is left to do is done by whoever is there."""


def start_thread(name: str, run: Callable[..., object], *args: Any) -> threading.Thread:
    """Start a thread that does not keep the program from ending.

    Raises:
        ShutdownError: it is too late for that.
        RuntimeError: the system refuses one.
    """
    thread = threading.Thread(target=run, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        if sys.is_finalizing() or "shutdown" in str(error):
            raise ShutdownError(*error.args) from error
        message = (
            f"parmap can't start its thread {name!r}, beside the {threading.active_count()} of this process: {error}. "
            "Let some threads end, or raise the limit of threads and processes: `ulimit -u`, or that of the container"
        )
        raise RuntimeError(message) from error
    return thread
