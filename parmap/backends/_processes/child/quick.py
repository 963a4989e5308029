"""The worker's end of the quick line: single small tasks, each run once, however often it was sent."""

from __future__ import annotations

import marshal
import pickle
import socket
import time
from typing import Any, NamedTuple

from parmap._travel.flat import SIZED, is_small
from parmap._travel.payload import dump
from parmap._work.outcome import Outcome, tell_failures
from parmap._work.run import Callee, Terms
from parmap.backends._processes.line.sockets import FAILURE, MOST, NOSIGNAL, PICKLE, VALUE

_LATE = 1_000  # numbers after which one that is missing comes no more


class Task(NamedTuple):
    """One task: `args` are a tuple, or pickled."""

    number: int
    key: int
    mode: str
    args: Any
    timed: bool = False

    def load(self) -> Any:
        """The arguments."""
        return pickle.loads(self.args) if type(self.args) is bytes else self.args


class QuickEnd:
    """Where tasks come from and answers go."""

    def __init__(self, fd: int) -> None:
        self.sock = socket.socket(fileno=fd)
        self.sock.setblocking(False)
        # Numbers come in order, but for those of senders that were interrupted in between.
        self._highest = 0
        self._missing: set[int] = set()

    def receive(self) -> Task | None:
        """The next task; `None` if there is none, or if it was run already.

        Raises:
            EOFError: there will be none.
        """
        try:
            message = self.sock.recv(MOST)
        except BlockingIOError:
            return None
        except OSError as error:  # a task has closed it
            raise EOFError from error
        if not message:
            raise EOFError
        task = Task(*marshal.loads(message))
        return task if self._is_new(task.number) else None

    def _is_new(self, number: int) -> bool:
        if number > self._highest:
            if number > self._highest + 1:  # most are of tasks that went another way, and never come
                self._missing.update(range(self._highest + 1, number))
                if len(self._missing) > 2 * _LATE:
                    self._missing = {each for each in self._missing if each > number - _LATE}
            self._highest = number
            return True
        if number in self._missing:
            self._missing.remove(number)
            return True
        return False

    def answer(self, task: Task, outcome: Outcome, callee: Callee, items: list[Any]) -> bool:
        """Send the outcome of a task; false if it must go over the channel: it is large, or can't be pickled."""
        content: Any
        if outcome.errors:
            kind, content = FAILURE, tell_failures(callee, Terms(task.mode), items, outcome.errors, {})[0][1]
        else:
            kind, content = VALUE, outcome.results[0]
            if not is_small(content):
                if type(content) in SIZED:
                    return False
                try:
                    packed = dump(content)
                except BaseException:  # noqa: BLE001 - told by whoever sends it over the channel
                    return False
                if packed.buffers:
                    return False
                kind, content = PICKLE, packed.stream
        took = outcome.nanoseconds
        times = (time.monotonic_ns() - took, took) if task.timed else ()
        message = marshal.dumps((task.number, kind, content, *times), 2)
        if len(message) > MOST:
            return False
        try:
            self.sock.send(message, NOSIGNAL)
        except OSError:
            return False
        return True
