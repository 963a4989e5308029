"""A pipe that nobody writes to. It ends with the program, however that ends, and with it what workers run.

The template sees to this, too, but may be killed just before the program: Ray does so with all children of a process.
"""

from __future__ import annotations

import fcntl
import os
import signal
from contextlib import suppress


class Lifeline:
    """The program's end."""

    def __init__(self) -> None:
        self.fd, self._held = os.pipe()

    def close(self) -> None:
        """Give the descriptors back. Safe to call again."""
        if self.fd >= 0:
            os.close(self.fd)
            os.close(self._held)
            self.fd = -1


class LifelineEnd:
    """A worker's end. On Linux it kills; elsewhere the system can't be told to, and only who looks knows."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._can_kill = False
        with suppress(OSError, AttributeError):
            # Opened anew: whom it signals, and how, is kept with what all copies of *fd* share.
            self.fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)
            fcntl.fcntl(self.fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(self.fd, fcntl.F_SETOWN, -os.getpgrp())  # those that tasks start, too
            fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_ASYNC)
            self._can_kill = True

    def tighten(self) -> None:
        """From now on the end of the program is that of this process, whatever it does then, or does with signals."""
        if self._can_kill:
            fcntl.fcntl(self.fd, fcntl.F_SETSIG, signal.SIGKILL)

    def loosen(self) -> None:
        """From now on this process may leave in good order: nobody minds that signal."""
        if self._can_kill:
            fcntl.fcntl(self.fd, fcntl.F_SETSIG, signal.SIGURG)
