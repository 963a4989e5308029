"""`Reader`: a thread that reads the input of a call, so that nobody waits for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from operator import itemgetter
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any
from weakref import ref

from parmap._results.input.source import Input
from parmap._work.threads import start_thread
from parmap.errors import PoolClosedError

if TYPE_CHECKING:
    from parmap._core.job import Job
    from parmap._engine.engine import Engine
    from parmap._results.streams import ResultStream


class Reader:
    """Reads what is no sequence in a thread of its own, where it may take as long as it likes."""

    def __init__(
        self, engine: Engine, job: Job, source: Input, limit: int = 0, stream: ResultStream[Any] | None = None
    ) -> None:
        """Read on, up to item number *limit* and those that are allowed later; tell *stream* of the end."""
        self._engine, self._job = engine, job
        self._stream = (lambda: None) if stream is None else ref(stream)  # whoever drops it ends this
        self._limit, self._stopped = limit, False
        self._news: SimpleQueue[None] = SimpleQueue()  # whoever drops a stream may do so anywhere: this never blocks
        self._run: list[Any] = []  # items that were read one by one, up to that number
        self._first = source.count
        self._collected: deque[tuple[int, list[Any], bool]] = deque()
        # Whether the engine is told of these. No flag: that might be seen before what it stands for, without the GIL.
        self._told: deque[None] = deque()
        source.reader = self
        self.thread: Thread = start_thread("parmap-input", copy_context().run, self._live, source)

    def allow(self, limit: int) -> None:
        """Items may be read up to number *limit*."""
        if limit > self._limit:
            self._limit = limit
            self._news.put(None)

    def stop(self) -> None:
        """Read no more than the item that is being read."""
        self._stopped = True
        self._news.put(None)

    def _live(self, source: Input) -> None:
        try:
            while not self._stopped:
                if (unsent := source.unsent) is not None:
                    items, source.unsent = source.outgoing(unsent), None
                    self._collect(source.count - len(items), items, last=source.exhausted)
                if source.exhausted:
                    break
                if source.count >= self._limit:
                    self._news.get()
                elif type(source) is Input:
                    self._read_on(source)
                else:
                    source.read(1)
        except BaseException as error:  # noqa: BLE001 - it is told when what came before it is delivered
            source.error = error
            self._end(source)
        if (stream := self._stream()) is not None:
            stream.has_read()

    def _read_on(self, source: Input) -> None:
        """Collect items, each when it was read: nobody knows what the next one waits for."""
        limit, keep = self._limit, self._run.append
        for item in source.singly(limit - source.count):
            keep(item)
            if not self._told:
                self._tell()
            if self._stopped:
                return
        if source.count < limit:
            self._end(source)

    def _end(self, source: Input) -> None:
        self._collect(source.count, [], last=True)
        source.exhausted = True  # only now: whoever sees it may close the pool, which takes nothing more then

    def _collect(self, *piece: Any, last: bool) -> None:
        self._collected.append((*piece, last))
        if not self._told:
            self._tell()

    def _tell(self) -> None:
        self._told.append(None)
        if not self._engine.offer(partial(self._pass_on, self._engine.take)):
            self._pass_on(self._engine.extend)  # by which whoever waits hears that nobody will take it

    def _pass_on(self, give: Callable[..., None]) -> None:
        """Let what was collected until now travel together; in the engine's thread."""
        self._told.clear()  # first: what is collected from here on is told again, or taken below
        found: list[tuple[int, list[Any], bool]] = []
        while self._collected:
            found.append(self._collected.popleft())
        if count := len(self._run):  # looked at last: the end, if it was found, comes behind all of it
            found.append((self._first, self._run[:count], False))
            del self._run[:count]
            self._first += count
        pieces = deque(sorted(found, key=itemgetter(0)))
        while pieces:
            start, items, last = pieces.popleft()
            while pieces and pieces[0][0] == start + len(items):
                _, more, last = pieces.popleft()
                items += more
            try:
                give(self._job, items, last=last, start=start)
            except PoolClosedError:
                self._stopped = True
