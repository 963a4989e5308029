"""Sockets of the system, whatever stands for `socket.socket` in a program: those of gevent wait where ours must not."""

from __future__ import annotations

import _socket
from typing import Self


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
