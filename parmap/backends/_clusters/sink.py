"""In a process of the cluster: where the outcomes of one chunk go, until the client has them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from parmap._core.job import Chunk, Job
from parmap._results.screen.relay import ROOM
from parmap._travel.failure import Failure, encode
from parmap.backends._clusters.wire import Order, Piece, Told, failure_to_wire, to_wire

if TYPE_CHECKING:
    from parmap._work.surroundings import Context
    from parmap.backends._base import Report
    from parmap.backends._processes.functions import FunctionCall


class Said:
    """What tasks have printed and logged, until the client has it; some of it, where that is very much."""

    def __init__(self) -> None:
        self._messages: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._room = ROOM
        self._is_full = False

    def add(self, kind: str, fields: tuple[Any, ...]) -> None:
        """Take a message, in the pilot's thread."""
        self._room -= len(fields[-1])
        if self._room > 0:
            self._messages.append((kind, fields))
        elif not self._is_full:
            self._is_full = True
            told = "parmap: tasks have printed so much that some of it is left out\n"
            self._messages.append(("print", ("stderr", told)))

    def take(self) -> list[tuple[str, tuple[Any, ...]]]:
        """All since it was taken last; in any thread."""
        self._room, self._is_full = ROOM, False
        found: list[tuple[str, tuple[Any, ...]]] = []
        with suppress(IndexError):  # another thread takes the rest
            found.extend(self._messages.popleft() for _ in range(len(self._messages)))
        return found


class ChunkSink:
    """Where the outcomes of one chunk go; changed by the pilot's thread alone."""

    def __init__(self, order: Order) -> None:
        self.mode = order.mode
        self.ended = threading.Event()
        self.told = Told()
        self.said = Said()
        self.report: Report | None = None  # of the part that is delivered now
        self.known: list[int] = []  # starts of pieces that the client has
        self.began = time.monotonic()
        self.budget = order.budget
        self.job: Job | None = None
        self._numbered = order.start >= 0
        self._base = max(0, order.start)
        self._pieces: list[Piece] = []  # other threads read it, while it grows

    def begin(self, call: FunctionCall, order: Order, items: Any, context: Context) -> Job:
        """Make a job of the chunk."""
        self.job = Job(call, self, pace=call.pace, timeout=order.timeout, context=context, fail_fast=order.stop_early)
        self.job.timed = order.timed
        self.job.read = self._base
        self.job.extend(items)
        return self.job

    @staticmethod
    def load(items: Any) -> Any:
        """The arguments of *items*: they are still packed."""
        return items

    def started(self, items: Any) -> None:
        """A worker has these items."""

    def index(self, chunk: Chunk, offset: int) -> int | None:
        """The number of an item, as the user counts."""
        return chunk.start + offset if self._numbered else None

    def deliver(self, chunk: Chunk, done: int, results: Any, failures: dict[int, Failure]) -> None:
        """Take outcomes."""
        start = chunk.start - self._base
        told = tuple((at, failure_to_wire(each)) for at, each in failures.items())
        wire = None if results is None else to_wire(results, copied=False)
        report, self.report = self.report, None
        times = report.times if report else None
        if times is not None:
            times = times._replace(begin=0, slowest=[(took, start + at, count) for took, at, count in times.slowest])
        self._pieces.append(Piece(start, done, True, wire, told, report.seconds if report else 0.0, times))

    def give_back(self, given: list[tuple[int, int]]) -> None:
        """Let some items be run elsewhere."""
        self._pieces += [Piece(start - self._base, count, has_run=False) for start, count in given]

    @property
    def pieces(self) -> list[Piece]:
        """What has become of its items, as far as that is news; in any thread."""
        return [piece for piece in list(self._pieces) if piece.start not in self.known]

    @property
    def has_begun(self) -> bool:
        """Whether an item has begun."""
        return bool(self._pieces or (self.job is not None and self.job.flight))

    def finish(self, failure: Failure | None, left: Iterable[Any]) -> None:  # noqa: ARG002 - the contract
        """No more will come."""
        is_broken = failure is not None and not any(piece.failures for piece in self._pieces)
        self.end(Told(broken=encode(failure.exception())) if failure and is_broken else Told(self.pieces))

    def end(self, told: Told) -> None:
        """Let the client have it."""
        if not self.ended.is_set():
            self.told = told._replace(inside=time.monotonic() - self.began)
            self.ended.set()
