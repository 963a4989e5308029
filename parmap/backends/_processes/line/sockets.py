"""Sockets of the system, and descriptors that go over them.

Whatever stands for `socket.socket` in a program: those of gevent wait where ours must not.
"""

from __future__ import annotations

import _socket
import os
from array import array
from collections.abc import Iterable
from typing import Self

NOSIGNAL = int(getattr(_socket, "MSG_NOSIGNAL", 0))
"""With this flag who writes to a line that has ended is told, also where the program lets SIGPIPE end it."""

_CLOEXEC = int(getattr(_socket, "MSG_CMSG_CLOEXEC", 0))
_ROOM = _socket.CMSG_SPACE(8 * array("i").itemsize) if hasattr(_socket, "CMSG_SPACE") else 0


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


# Those of `socket` don't heed the flags that they are given.


def send_fds(sock: _socket.socket, content: bytes, fds: Iterable[int]) -> None:
    """Send copies of descriptors, beside some bytes."""
    sock.sendmsg([content], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", fds))], NOSIGNAL)


def recv_fds(sock: _socket.socket, size: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """Receive up to *size* bytes, and the descriptors beside them, which processes that are started don't get."""
    content, beside, _, _ = sock.recvmsg(size, _ROOM, flags | _CLOEXEC)
    fds = array("i")
    for level, kind, data in beside:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not _CLOEXEC:  # it can't be said when they are received
        for fd in fds:
            os.set_inheritable(fd, False)
    return content, fds.tolist()
