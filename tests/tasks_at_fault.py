"""Arguments, results and exceptions that go wrong on their way: importable, so that they travel by name."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any


def explode(how: str) -> Any:
    """Go wrong: by an exception, by leaving the process, or by being killed."""
    if how == "exception":
        message = "went wrong"
        raise LookupError(message)
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    return None


class BadToSend:
    """Goes wrong when it is pickled; without *how* it is a good object."""

    def __init__(self, how: str = "") -> None:
        self.how = how

    def __reduce__(self) -> Any:
        if self.how:
            explode(self.how)
        return BadToSend, ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BadToSend)

    __hash__ = None  # type: ignore[assignment]


class BadToLoad:
    """Goes wrong when it is unpickled."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return explode, (self.how,)


def make_bad_to_send(how: Any) -> Any:
    """Return a result that can't be sent."""
    return BadToSend(how) if isinstance(how, str) else how


def make_bad_to_load(how: Any) -> Any:
    """Return a result that can't be unpickled."""
    return BadToLoad(how) if isinstance(how, str) else how


class TwoArguments(Exception):
    """An exception that pickle can't rebuild: it has two required arguments."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class KeywordOnly(Exception):
    """An exception with a required keyword."""

    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class HoldsLock(Exception):
    """An exception that can't be pickled."""

    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class BadText(Exception):
    """An exception without a text."""

    def __str__(self) -> str:
        message = "no text"
        raise RuntimeError(message)


class BadRepr(Exception):
    """An exception without a repr."""

    def __repr__(self) -> str:
        message = "no repr"
        raise RuntimeError(message)


class NotUnpickled(Exception):
    """An exception that raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return explode, ("exception",)


class BecomesOther(Exception):
    """An exception that unpickles to something that is none."""

    def __reduce__(self) -> Any:
        return int, ("5",)


class ChangesItsMind(Exception):
    """An exception that unpickles in the worker, but not in the process that gets it."""

    def __reduce__(self) -> Any:
        return rebuild_in, (os.getpid(),)


def rebuild_in(process: int) -> Exception:
    """Rebuild an exception only in one process."""
    if os.getpid() != process:
        message = "not here"
        raise LookupError(message)
    return ChangesItsMind("mind")


class Slotted(Exception):
    """An exception with an attribute outside its `__dict__`."""

    __slots__ = ("place",)

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


class MyStop(StopIteration):
    """A kind of `StopIteration`."""


class DropsNotes(Exception):
    """An exception that is pickled without its attributes, and so without its notes."""

    def __reduce__(self) -> Any:
        return DropsNotes, self.args


class Frozen(Exception):
    """An exception that lets nobody set an attribute, as a frozen dataclass does."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class NoState(Exception):
    """An exception that unpickles without the `__dict__` that it had."""

    def __setstate__(self, state: object) -> None:
        """Set nothing."""


def with_a_story() -> None:
    """Raise an exception that has a cause, notes and attributes."""
    try:
        raise KeyError("cause")
    except KeyError as error:
        told = TwoArguments(404, "missing")
        told.extra = [1, 2]  # type: ignore[attr-defined]
        told.add_note("a note of the task")
        raise told from error


ERRORS: dict[str, Any] = {
    "two arguments": lambda: TwoArguments(404, "missing"),
    "keyword only": lambda: KeywordOnly(code=7),
    "holds a lock": HoldsLock,
    "bad text": lambda: BadText("x"),
    "bad repr": lambda: BadRepr("x"),
    "not unpickled": NotUnpickled,
    "becomes other": BecomesOther,
    "changes its mind": ChangesItsMind,
    "slotted": lambda: Slotted("here"),
    "local class": lambda: type("Local", (Exception,), {})("made on the spot"),
    "group": lambda: ExceptionGroup("many", [ValueError(1), TwoArguments(1, "a")]),
    "unicode": lambda: UnicodeDecodeError("utf-8", b"abc", 1, 2, "bad"),
    "os": lambda: FileNotFoundError(2, "no such file", "name"),
    "pickle": lambda: pickle.PicklingError("my own"),
    "timeout": lambda: TimeoutError("my own"),
    "eof": lambda: EOFError("my own"),
    "broken pipe": lambda: BrokenPipeError("my own"),
    "interrupt": KeyboardInterrupt,
    "generator exit": lambda: GeneratorExit("x"),
    "stop": lambda: StopIteration("x"),
    "async stop": lambda: StopAsyncIteration("x"),
    "cancelled": lambda: concurrent.futures.CancelledError("x"),
    "cancelled in asyncio": lambda: import_module("asyncio").CancelledError("x"),  # most workers need no asyncio
    "a kind of stop": lambda: MyStop("x"),
    "drops its notes": lambda: DropsNotes("x"),
    "refuses attributes": lambda: Frozen("x"),
    "keeps no dict": lambda: NoState("x"),
    "memory": lambda: MemoryError("x"),
    "recursion": lambda: RecursionError("x"),
}


def throw(name: Any) -> Any:
    """Raise the error of that name; return anything else."""
    if isinstance(name, str) and name in ERRORS:
        error = ERRORS[name]
        raise error()
    return name


def throw_once(name: str, path: str) -> str:
    """Raise the error of that name if there is no such file yet."""
    if not os.path.exists(path):
        open(path, "w").close()
        throw(name)
    return name


class ThrowsWhenLoaded:
    """Raises an error when it is unpickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return throw, (self.name,)


def returns_what_throws(name: Any) -> Any:
    """Return a result that raises the error of that name where it is unpickled."""
    return ThrowsWhenLoaded(name) if isinstance(name, str) else name


def generator_once(path: Any) -> Any:
    """Return what can't be pickled if there is no such file yet."""
    if isinstance(path, str) and not os.path.exists(path):
        open(path, "w").close()
        return (i for i in range(3))
    return path


def leave_at_once(code: int) -> None:
    """End the worker."""
    os._exit(code)


def leave_once(how: str, path: str) -> str:
    """End the worker if there is no such file yet."""
    if not os.path.exists(path):
        open(path, "w").close()
        os._exit(3) if how == "exit" else sys.exit(3)
    return how


class Armed:
    """Whether what signals when it is unpickled does so, and how often."""

    left = 0


@contextlib.contextmanager
def armed() -> Iterator[None]:
    """Let the next object that can do so send a signal to this process."""
    Armed.left = 1
    try:
        yield
    finally:
        Armed.left = 0


def _signal(make: Any, signum: int) -> Any:
    if Armed.left:
        Armed.left -= 1
        signal.raise_signal(signum)
    return make(signum)


class SignalsWhenLoaded:
    """Sends a signal where it is unpickled, if that is armed."""

    def __init__(self, signum: int) -> None:
        self.signum = signum

    def __reduce__(self) -> Any:
        return _signal, (SignalsWhenLoaded, self.signum)


class FailsWithSignal(Exception):
    """An exception that does so."""

    def __reduce__(self) -> Any:
        return _signal, (FailsWithSignal, self.args[0])


def fails_with_signal(signum: int) -> Any:
    """Raise it."""
    raise FailsWithSignal(signum)


def gives_signal(item: tuple[Any, int]) -> Any:
    """Return what signals when it is unpickled, raise it, or return a number."""
    make, number = item
    return number if make is None else make(number)


def same(x: Any) -> Any:
    """Return the argument."""
    return x


def cyclic_cause(_: Any) -> None:
    """Raise an exception that is its own cause's cause."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def holds_itself(_: Any) -> None:
    """Raise an exception that holds itself."""
    error = ValueError("self")
    error.args = (error,)
    raise error


def not_an_exception(_: Any) -> None:
    """Raise what can't be raised."""
    raise "text"  # type: ignore[misc]  # noqa: B016


class Box:
    """An item that is not an atom, and equal to itself only."""

    def __init__(self, content: Any) -> None:
        self.content = content


def open_box(box: Box) -> int:
    """A task that fails with what is no number."""
    return int(box.content)


def stumble(how: Any) -> Any:
    """A task that ends as its item says."""
    if how == "die":
        os._exit(3)
    if how == "hang":
        time.sleep(600)
    return int(how)


def ten_over(n: int, m: int = 1) -> float:
    """A task of two arguments."""
    return 10 / n / m
