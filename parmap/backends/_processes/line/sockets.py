"""Sockets of the system.

Whatever stands for `socket.socket` in a program: those of gevent wait where ours must not.
"""

from __future__ import annotations

import _socket
from typing import Self

NOSIGNAL = int(getattr(_socket, "MSG_NOSIGNAL", 0))
"""With this flag who writes to a line that has ended is told, also where the program lets SIGPIPE end it."""


class Socket(_socket.socket):
    """One end of a line."""

    __slots__ = ("__weakref__",)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pair(kind: int = _socket.SOCK_STREAM) -> tuple[Socket, Socket]:
    """Both ends of a line."""
    ours, theirs = (Socket(fileno=end.detach()) for end in _socket.socketpair(_socket.AF_UNIX, kind))
    return ours, theirs
