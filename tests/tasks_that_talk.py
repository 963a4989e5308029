"""Functions that print and log, run in workers by tests."""

from __future__ import annotations

import gc
import io
import os
import sys
import threading
import warnings
from typing import Any


def say(what: Any) -> Any:
    """A task that prints its argument."""
    print("said", what)
    return what


def say_to_both(what: Any) -> Any:
    """A task that prints to both streams."""
    print("out", what)
    print("err", what, file=sys.stderr)
    return what


def say_without_end(what: Any) -> Any:
    """A task that does not end its line."""
    print("part", what, end="")
    return what


def say_and_die(what: Any) -> None:
    """A task that prints and kills its worker."""
    print("last words", what)
    os._exit(3)


def say_bytes(what: bytes) -> None:
    """A task that writes bytes."""
    sys.stdout.buffer.write(what)


def say_in_threads(count: int) -> None:
    """A task whose threads print at the same time."""
    threads = [threading.Thread(target=lambda n=n: sys.stdout.write(f"{n:04}" * 20 + "\n")) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def say_in_a_fork(what: Any) -> None:
    """A task whose forked child prints too."""
    child = os.fork()
    if not child:
        sys.stdout.write(f"child {what}\n")  # at once, since nothing keeps lines of different processes apart
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
    print("parent", what)


def flood(lines: int) -> int:
    """A task that prints much."""
    for _ in range(lines):
        print("x" * 999)
    return lines


def warn_plainly(what: Any) -> None:
    """A task that warns, and leaves it to others what becomes of it."""
    warnings.warn(f"plain {what}", stacklevel=1)


def talk_as_it_is_destroyed(count: int) -> list[int]:
    """A task that leaves objects which print when the garbage collector finds them, whenever that is."""

    class Talker:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            print("gone")

    before = gc.get_threshold()
    gc.set_threshold(50)  # it looks at more places than it would, for as many objects
    try:
        for _ in range(count):
            Talker()
    finally:
        gc.set_threshold(*before)
    left = [Talker() for _ in range(600)]  # found later: maybe while the result is sent
    return list(range(100 * len(left)))


class _Unpicklable:
    def __repr__(self) -> str:
        return "<it>"

    def __reduce__(self) -> Any:
        raise TypeError("never")


def log(level: int, name: str = "tasks") -> None:
    """A task that logs, and imports logging only now."""
    import logging

    extra = {"fine": {1: 2}, "stuck": _Unpicklable()}
    logging.getLogger(name).log(level, "logged %s", level, extra=extra)


def log_an_error() -> None:
    """A task that logs an exception."""
    import logging

    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("tasks").exception("it %s", "failed")


def log_a_strange_error() -> None:
    """A task that logs an exception which stays where it is."""
    import logging

    class Strange(Exception):
        def __reduce__(self) -> Any:
            raise TypeError("never")

        def __init__(self) -> None:
            super().__init__(open(os.devnull, "wb"))  # noqa: SIM115 - it must be open

        def __str__(self) -> str:
            return f"strange {self.args[0].closed}"

    try:
        raise Strange
    except Strange:
        logging.getLogger("tasks").exception("strange")


def is_enabled(level: int) -> bool:
    """Whether a record of this level would be made at all."""
    import logging

    return logging.getLogger("tasks").isEnabledFor(level)


def imported() -> bool:
    """Whether this worker has logging."""
    return "logging" in sys.modules


def log_what_cant_be_shown() -> None:
    """A task that logs a record with something that can neither travel nor be shown."""
    import logging

    class Mute:
        def __reduce__(self) -> Any:
            raise TypeError("never")

        def __repr__(self) -> str:
            raise ValueError("nor this")

    logging.getLogger("tasks").warning("it is there", extra={"mute": Mute()})


def log_nonsense() -> None:
    """A task whose record does not fit its arguments."""
    import logging

    logging.getLogger("tasks").warning("%d of them", "some")


def log_on_a_level_of_its_own() -> None:
    """A task that wants more of its logger than the program does."""
    import logging

    logger = logging.getLogger("tasks.own")
    logger.setLevel(logging.DEBUG)
    logger.debug("a detail")


def log_apart() -> None:
    """A task that logs by a library that keeps its records from the root logger."""
    import logging

    logger = logging.getLogger("tasks.apart")
    logger.propagate = False
    logger.info("logged apart")


def look_at_the_streams() -> list[tuple[bool, int]]:
    """What libraries ask a stream before they write colours to it, or give it to a program."""
    return [(stream.isatty(), stream.fileno()) for stream in (sys.stdout, sys.stderr)]


def replace_the_streams(how: str) -> str:
    """A task that does to `sys.stdout` what scripts do to have another encoding, and worse, and prints a line."""
    if how == "close":
        sys.stdout.close()
    elif how == "detach":
        sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding="utf-8")
    elif how == "wrap":
        sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
    print(how)
    return how
