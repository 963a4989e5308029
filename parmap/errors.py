"""The error tree: the class of every error that parmap itself raises. What it says is written where it is raised.

::

    ParmapError(Exception)
    ├── TaskTimeoutError          also the builtin TimeoutError
    ├── WorkerDiedError           also concurrent.futures.BrokenExecutor
    ├── SerializationError        also pickle.PicklingError
    ├── RemoteError               stand-in for an exception that could not travel
    ├── PoolClosedError           also RuntimeError and ValueError
    ├── JournalError              also ValueError
    └── BackendUnavailableError   also ImportError

An exception that a task raises arrives as itself; these classes are for what happens to a task from outside. All of
them pickle, with every attribute and note.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from pickle import PicklingError
from typing import Any

__all__ = [
    "BackendUnavailableError",
    "JournalError",
    "ParmapError",
    "PoolClosedError",
    "RemoteError",
    "SerializationError",
    "TaskTimeoutError",
    "WorkerDiedError",
]


class ParmapError(Exception):
    """Base of all errors of parmap.

    Args:
        message: what happened, in one sentence.

    Example:
        >>> from parmap import ParmapError, TaskTimeoutError
        >>> issubclass(TaskTimeoutError, ParmapError)
        True
    """

    message: str

    def __init__(self, message: str = "", /, *details: Any) -> None:
        # One argument only: OSError and ImportError, bases of two subclasses, give meanings of their own to more.
        super().__init__(message)
        self.args: tuple[Any, ...] = (message, *details)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(cls: type[ParmapError], args: tuple[Any, ...]) -> ParmapError:
    error = cls.__new__(cls, *args)
    error.args = args  # OSError.__new__ drops them
    return error


class TaskTimeoutError(ParmapError, TimeoutError):
    """Raised when one item ran longer than ``timeout``: its worker was killed, all other items went on.

    It is also the error of what had not ended when the ``deadline`` of its batch passed.

    Args:
        message: what happened, in one sentence.
        item: index of the item in the batch; None for a single task.
        timeout: the limit, in seconds.
        stack: where the task was stuck, as text; empty if unknown.

    Example:
        >>> from parmap import TaskTimeoutError
        >>> print(TaskTimeoutError("the task took too long", item=3, timeout=1.5))
        the task took too long (item 3, limit 1.5 s)
    """

    def __init__(
        self, message: str = "", item: int | None = None, timeout: float | None = None, stack: str = ""
    ) -> None:
        super().__init__(message, item, timeout, stack)
        self.item = item
        self.timeout = timeout
        self.stack = stack

    def __str__(self) -> str:
        limit = None if self.timeout is None else f"limit {self.timeout:g} s"
        return _text(self.message, (_item(self.item), limit), self.stack, "Where the task was stuck")


class WorkerDiedError(ParmapError, BrokenExecutor):
    """Raised when a worker ended without finishing its task: killed, out of memory, crashed, or left by ``os._exit``.

    Only the item that the worker was running fails; all others are run by other workers. The item is not run again
    unless ``retries`` says so, or nobody can tell it from very short ones that ran in the same moment.

    Args:
        message: what happened, in one sentence.
        item: index of the item in the batch; None for a single task, or if no item was running.
        exitcode: exit code of the worker; None if a signal ended it.
        signal: number of the signal that ended the worker; None if it left by itself.
        pid: process id of the worker.
        stack: the Python stack of the crash, as text; empty if there is none.

    Example:
        >>> from parmap import WorkerDiedError
        >>> print(WorkerDiedError("a worker died", item=7, pid=4242, exitcode=3))
        a worker died (item 7, pid 4242, exit code 3)
    """

    def __init__(
        self,
        message: str = "",
        item: int | None = None,
        exitcode: int | None = None,
        signal: int | None = None,
        pid: int | None = None,
        stack: str = "",
    ) -> None:
        super().__init__(message, item, exitcode, signal, pid, stack)
        self.item = item
        self.exitcode = exitcode
        self.signal = signal
        self.pid = pid
        self.stack = stack

    def __str__(self) -> str:
        pid = None if self.pid is None else f"pid {self.pid}"
        code = None if self.exitcode is None else f"exit code {self.exitcode}"
        facts = (_item(self.item), pid, code, _signal(self.signal))
        return _text(self.message, facts, self.stack, "Stack of the worker")


class SerializationError(ParmapError, PicklingError):
    """Raised when a function, an argument or a result can't be pickled, or can't be unpickled on the other side.

    Args:
        message: what could not travel, and why.
        item: index of the item in the batch; None if it is not about one item.

    Example:
        >>> from parmap import SerializationError
        >>> print(SerializationError("the result is a lock, which can't be pickled", item=0))
        the result is a lock, which can't be pickled (item 0)
    """

    def __init__(self, message: str = "", item: int | None = None) -> None:
        super().__init__(message, item)
        self.item = item

    def __str__(self) -> str:
        return _text(self.message, (_item(self.item),))


class RemoteError(ParmapError):
    """Stands in for an exception of a task that could not be pickled or unpickled.

    Args:
        message: text of the original exception.
        type_name: qualified name of its class.
        traceback: its traceback in the worker, as text.

    Example:
        >>> from parmap import RemoteError
        >>> print(RemoteError("no such row", type_name="db.Missing"))
        db.Missing: no such row
    """

    def __init__(self, message: str = "", type_name: str = "", traceback: str = "") -> None:
        super().__init__(message, type_name, traceback)
        self.type_name = type_name
        self.traceback = traceback

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.type_name, self.message)))


class PoolClosedError(ParmapError, RuntimeError, ValueError):
    """Raised when work is given to a pool or an executor that was closed.

    It is a ``ValueError`` as ``multiprocessing.Pool`` raises, and a ``RuntimeError`` as ``concurrent.futures`` does.

    Args:
        message: what was tried, and on what.

    Example:
        >>> from parmap import PoolClosedError
        >>> issubclass(PoolClosedError, ValueError) and issubclass(PoolClosedError, RuntimeError)
        True
    """


class JournalError(ParmapError, ValueError):
    """Raised when a journal can't be used: another kind of file, a damaged one, or one of a function that has changed.

    Args:
        message: what is wrong with which file, and what to do.

    Example:
        >>> from parmap import JournalError, ParmapError
        >>> issubclass(JournalError, ParmapError)
        True
    """


class BackendUnavailableError(ParmapError, ImportError):
    """Raised when a backend, or the progress bar, needs a library that is not installed, or another system.

    Args:
        message: what is missing.
        extra: the extra of the distribution that brings it, such as ``"dask"``.

    Example:
        >>> from parmap import BackendUnavailableError
        >>> print(BackendUnavailableError("backend 'dask' needs distributed", extra="dask"))
        backend 'dask' needs distributed; install it with: pip install "parmap-decorators[dask]"
    """

    def __init__(self, message: str = "", extra: str | None = None) -> None:
        super().__init__(message, extra)
        self.extra = extra

    def __str__(self) -> str:
        if self.extra is None:
            return self.message
        return f'{self.message}; install it with: pip install "parmap-decorators[{self.extra}]"'

    def __reduce__(self) -> tuple[Any, ...]:
        # ImportError keeps its text in a slot, outside `__dict__`.
        return _rebuild, (type(self), self.args), {**self.__dict__, "msg": self.msg}


def _item(item: int | None) -> str | None:
    return None if item is None else f"item {item}"


def _signal(number: int | None) -> str | None:
    if number is None:
        return None
    name = signal_name(number).removeprefix("signal ")
    hint = ", often the system's answer to too much memory" if name == "SIGKILL" else ""
    return f"signal {name}{hint}"


def signal_name(number: int) -> str:
    """What a signal is called; a real-time one has a number and no name."""
    from signal import Signals

    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def _text(message: str, facts: tuple[str | None, ...], stack: str = "", title: str = "") -> str:
    known = ", ".join(filter(None, facts))
    text = f"{message} ({known})" if known else message
    return f"{text}\n{title}:\n{stack.rstrip()}" if stack else text
