"""Tasks, arguments and errors made to break the machinery around them: importable, so that they travel by name."""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
import time
from contextlib import suppress
from typing import Any


def sockets() -> list[int]:
    """The descriptors of this process that are sockets: the worker's channel."""
    found = []
    for fd in range(3, 256):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                found.append(fd)
        except OSError:
            pass
    return found


def write_garbage(_: Any) -> str:
    """Write noise into the worker's channel."""
    for fd in sockets():
        os.write(fd, b"\xff" * 64)
    return "written"


def write_half_a_frame(_: Any) -> str:
    """Promise a terabyte to the parent."""
    for fd in sockets():
        os.write(fd, (4).to_bytes(4, "little") + bytes(4) + (1 << 40).to_bytes(8, "little") + b"abcd")
    return "written"


def write_a_false_frame(_: Any) -> str:
    """What has the form of a message, and no content that makes sense."""
    for fd in sockets():
        os.write(fd, (8).to_bytes(4, "little") + (0x4D415000).to_bytes(4, "little") + bytes(8) + b"\xff" * 8)
    return "written"


def shut_the_channel(_: Any) -> str:
    """Shut the channel down without closing it."""
    for fd in sockets():
        socket.socket(fileno=os.dup(fd)).shutdown(socket.SHUT_RDWR)
    return "shut"


def replace_the_channel(_: Any) -> str:
    """Put something else in the place of the channel."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in sockets():
        os.dup2(null, fd)
    return "replaced"


def kill_the_template(_: Any) -> int:
    """Kill the process that this one was forked from."""
    with suppress(ProcessLookupError):  # the one before has killed it, and it goes right now
        os.kill(os.getppid(), signal.SIGKILL)
    return 1


def kill_own_group(_: Any) -> None:
    """Kill the worker and all it has started."""
    os.killpg(0, signal.SIGKILL)
    time.sleep(60)


def leave_the_group(path: str) -> None:
    """Go where a signal to the worker's process group does not reach, and stay."""
    os.setpgid(0, os.getpgid(os.getppid()))
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)


def block_all_signals(path: str) -> None:
    """Block what can be blocked, and stay."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)


def set_a_bomb(_: Any) -> int:
    """Arrange for the worker to be killed by an alarm when it is idle."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    return os.getpid()


def forget_all_modules(number: int) -> int:
    """Empty `sys.modules`."""
    sys.modules.clear()
    return number


def break_pickle(number: int) -> int:
    """Replace what the worker sends its results with."""
    import pickle

    pickle.dumps = None  # type: ignore[assignment]
    return number


def break_streams(number: int) -> int:
    """Close the standard streams."""
    sys.stdout.close()
    sys.stderr.close()
    return number


class Unhashable(type):
    """A metaclass whose classes have no hash."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(cls, other: object) -> bool:
        return cls is other


class OfUnhashableType(metaclass=Unhashable):
    """An object whose class has no hash."""


def make_unhashable(number: int) -> Any:
    """Return an object whose class has no hash."""
    return OfUnhashableType() if number == 3 else number


class Rude:
    """An object whose text ends the program."""

    def __repr__(self) -> str:
        raise SystemExit(3)


class BadNotes(Exception):
    """An exception that takes no notes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.__notes__ = None


class NoAttributes(Exception):
    """An exception that can't be changed."""

    def __setattr__(self, name: str, value: object) -> None:
        message = "read-only"
        raise AttributeError(message)

    def add_note(self, note: str) -> None:
        """Refuse."""
        message = "read-only"
        raise AttributeError(message)


class RudeText(Exception):
    """An exception whose text ends the program."""

    def __str__(self) -> str:
        raise SystemExit(3)


class RudeReduce(Exception):
    """An exception that ends the program when it is pickled."""

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


class LyingClass:
    """An object that claims to be an int."""

    @property
    def __class__(self) -> Any:
        return int


ERRORS = {"notes": BadNotes, "read-only": NoAttributes, "text": RudeText, "reduce": RudeReduce}


def throw(name: Any) -> Any:
    """Raise the error of that name, or return what has none."""
    if isinstance(name, str):
        raise ERRORS[name]("thrown")
    return name


def fail_rudely(item: Any) -> Any:
    """Fail with an argument that has no text."""
    if isinstance(item, Rude):
        message = "rude"
        raise ValueError(message)  # noqa: TRY004
    return item


class HostileFunction:
    """A callable that can't be hashed or compared and has every attribute."""

    def __call__(self, number: int) -> int:
        return number * number

    def __hash__(self) -> int:
        message = "no hash"
        raise ValueError(message)

    def __eq__(self, other: object) -> bool:
        message = "no comparison"
        raise ValueError(message)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__wrapped__", "__code__", "__func__", "__qualname__"):
            raise AttributeError(name)
        return self


def close_everything(_: Any) -> str:
    """Close all descriptors, the worker's channel among them."""
    os.closerange(0, 4096)
    return "closed"


def close_everything_at_one(number: int) -> int:
    """Close all descriptors, if it is that number."""
    if number == 1:
        os.closerange(0, 4096)
    return number


def nested(depth: int) -> list[Any]:
    """A list in a list, *depth* times."""
    outer: list[Any] = []
    for _ in range(depth):
        outer = [outer]
    return outer
