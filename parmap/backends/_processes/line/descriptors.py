"""Descriptors that go over a line, beside some bytes.

The functions of `socket` for that don't heed the flags that they are given.
"""

from __future__ import annotations

import _socket
import os
from array import array
from collections.abc import Iterable

from parmap.backends._processes.line.sockets import NOSIGNAL

_CLOEXEC = int(getattr(_socket, "MSG_CMSG_CLOEXEC", 0))
_ROOM = _socket.CMSG_SPACE(8 * array("i").itemsize) if hasattr(_socket, "CMSG_SPACE") else 0


def send_fds(sock: _socket.socket, content: bytes, fds: Iterable[int]) -> None:
    """Send copies of descriptors, beside some bytes."""
    sock.sendmsg([content], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", fds))], NOSIGNAL)


def recv_fds(sock: _socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Receive up to *size* bytes, and the descriptors beside them, which processes that are started don't get."""
    content, beside, _, _ = sock.recvmsg(size, _ROOM, _CLOEXEC)
    fds = array("i")
    for level, kind, data in beside:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not _CLOEXEC:  # it can't be said when they are received
        for fd in fds:
            os.set_inheritable(fd, False)
    return content, fds.tolist()
