"""Waiting for many descriptors at once: one selector that is kept, no polling."""

from __future__ import annotations

import os
import selectors
from contextlib import suppress
from typing import Any

from parmap._travel.failure import pass_on

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class Poller:
    """What the engine's thread sleeps on, and the template. A byte in `wake_fd` makes `wait` return."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_in, self.wake_fd = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self.wake_fd, False)
        self._selector.register(self._wake_in, READ, None)

    def add(self, fd: int, data: Any) -> None:
        """Wait for *fd* to be readable; `wait` returns *data* for it."""
        self._selector.register(fd, READ, data)

    def remove(self, fd: int) -> None:
        """Wait for *fd* no more."""
        with suppress(KeyError, ValueError, OSError):
            self._selector.unregister(fd)

    def want_write(self, fd: int, data: Any, *, on: bool) -> None:
        """Wait for room to write, too, unless *fd* is waited for no more: another event has just closed it."""
        with suppress(KeyError, ValueError):
            self._selector.modify(fd, READ | WRITE if on else READ, data)

    def wait(self, timeout: float | None) -> list[tuple[Any, int]]:
        """The data and events of the descriptors that are ready."""
        ready = []
        for key, events in self._selector.select(timeout):
            if key.fd == self._wake_in:
                self._drain()
            else:
                ready.append((key.data, events))
        return ready

    def _drain(self) -> None:
        try:
            os.read(self._wake_in, 4096)
        except BlockingIOError:
            pass

    def wake(self) -> None:
        """Make `wait` return; from any thread, and from a signal handler."""
        try:
            os.write(self.wake_fd, b"\0")
        except OSError as error:  # full: it will wake anyhow; closed: there is nobody to wake
            pass_on(error)

    def close(self) -> None:
        """Give the descriptors back. Safe to call again."""
        with suppress(OSError):  # a process that was forked has no copy of macOS's
            self._selector.close()
        fds = self.wake_fd, self._wake_in  # in this order: who wakes it at this moment gets no SIGPIPE
        self._wake_in = self.wake_fd = -1  # first: a process that is forked in between does it too
        for fd in fds:
            if fd >= 0:
                os.close(fd)
