"""A pipe that nobody writes to. It ends with the program, however that ends, and with it what workers run.

The template sees to this, too, but may be killed just before the program: Ray does so with all children of a process.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial


class Lifeline:
    """The program's end."""

    def __init__(self) -> None:
        self.fd, self._held = os.pipe()

    def close(self) -> None:
        """Give the descriptors back. Safe to call again."""
        fd, self.fd = self.fd, -1  # first: a process that is forked in between does it too
        if fd >= 0:
            os.close(fd)
            os.close(self._held)


class LifelineEnd:
    """A worker's end. Where the system can't be told to kill (Linux can), it does nothing."""

    def __init__(self, fd: int) -> None:
        self.tighten: Callable[[], object] = bool
        """From now on the end of the program is that of this process, whatever it does then, or does with signals."""
        self.loosen: Callable[[], object] = bool
        """From now on this process may leave in good order: nobody minds that signal."""
        with suppress(OSError, AttributeError):
            # Opened anew: whom it signals, and how, is kept with what all copies of *fd* share.
            end = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)
            set_signal = partial(fcntl.fcntl, end, fcntl.F_SETSIG)
            set_signal(int(signal.SIGURG))
            fcntl.fcntl(end, fcntl.F_SETOWN, -os.getpgrp())  # those that tasks start, too
            fcntl.fcntl(end, fcntl.F_SETFL, os.O_ASYNC)
            self.tighten = partial(set_signal, int(signal.SIGKILL))  # for each task: made to be quick
            self.loosen = partial(set_signal, int(signal.SIGURG))
