"""Sockets of the system.

Whatever stands for `socket.socket` in a program: those of gevent wait where ours must not.
"""

from __future__ import annotations

import _socket
import sys
from contextlib import suppress
from typing import Self

NOSIGNAL = int(getattr(_socket, "MSG_NOSIGNAL", 0))
"""With this flag who writes to a line that has ended is told, also where the program lets SIGPIPE end it."""

MOST = 16 * 1024
"""Bytes of a message on a quick line; what is longer goes over the channel."""

VALUE, PICKLE, FAILURE = 0, 1, 2
"""What an answer there holds."""

_NOSIGPIPE = 0x1022  # the same, on macOS
_ROOM = 256 * 1024  # bytes on their way: of itself, macOS takes 8 KiB


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
    for end in (ours, theirs):
        if end.getsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF) < _ROOM // 2:
            with suppress(OSError):
                end.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, _ROOM)
        if sys.platform == "darwin":
            with suppress(OSError):
                end.setsockopt(_socket.SOL_SOCKET, _NOSIGPIPE, 1)
    return ours, theirs
