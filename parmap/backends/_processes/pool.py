"""`Processes`, the default backend: chunks and functions sent to workers; their position, limits and memory.

Each worker is behind a private channel: one that is killed costs one item and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from mmap import PAGESIZE
from typing import TYPE_CHECKING, Any, cast

from parmap._core.pace import Cost
from parmap._travel.pack import Packed
from parmap._travel.stream import read_with_files
from parmap._work.imports import notice_reloads
from parmap._work.page import CUT_SIGNAL, PLACES
from parmap._work.surroundings import current
from parmap.backends._base import Call, Event, packed, terms_of
from parmap.backends._processes.functions import ClassPack, FunctionCall, ItemClasses
from parmap.backends._processes.staff import Staff

if TYPE_CHECKING:
    from parmap._calls.options import Options
    from parmap._core.job import Chunk
    from parmap._travel.code.classes import Classes
    from parmap._work.run import Rules


class Processes(Staff):
    """The default backend."""

    kills = packs = imports = has_files = deaf = announces = True

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.edition = notice_reloads()
        # Nothing more shall wait on a worker that may have grown too large.
        deepest = PLACES if options.max_memory_per_child is None else 0
        self.cost = Cost(aim=0.008 + 0.00025 * options.workers, depth=2, most=0.04, deepest=deepest)

    # functions

    def prepare(self, function: Any, rules: Rules) -> Call:
        """Pickle a function as it is now, unless it is what it was."""
        self.context = current()
        return self.functions.prepare(function, rules)

    def witness(self, function: Any, call: Call) -> Callable[[tuple[Any, ...]], bool] | None:
        """Its mark, if it has one."""
        return self.functions.witness(function, cast("FunctionCall", call))

    def item_classes(self, call: Call) -> Classes:
        """Send each by itself, if it is not part of the function."""
        return ItemClasses(self.functions, cast("FunctionCall", call))

    def wait(self, timeout: float | None) -> list[Event]:
        """Let workers forget what was dropped, then wait."""
        self._tell_gone()
        return super().wait(timeout)

    def _tell_gone(self) -> None:
        self.lanes.purge()
        if gone := self.functions.take_gone():
            for worker in self._workers.values():
                if not worker.forget(gone):
                    self.flush_later(worker)

    def close(self) -> None:
        """Stop all workers; what only they know is not worth keeping."""
        super().close()
        self.lanes.clear()
        self.functions.clear()

    # chunks

    def start(self, chunk: Chunk, mode: str) -> int:
        """Pickle a chunk and send it."""
        worker = self._workers.get(chunk.slot)
        if worker is None:  # dead since a moment ago, which will be told
            return len(chunk.items)
        call = cast("FunctionCall", chunk.job.call)
        items = chunk.job.sink.load(chunk.items)
        terms = terms_of(chunk, mode)
        with read_with_files(self.has_files):
            payload, worker.unsent[chunk.number] = packed(chunk, items, single=terms.careful)
        job = chunk.job
        self._tell_gone()
        self.context = context = job.context or current()  # another thread may set it to its own at once
        worker.sync(call, context, (*_needs(job.learner.classes, items), *self.functions.factories(payload.needs)))
        worker.due += 1
        # One that is dying gets nothing: its death will be told, and the chunk goes to another.
        what = chunk.number, call.number, job.timed or chunk.passage is not None, *terms
        worker.channel.put("run", *what, pack=payload)
        if worker.due > 2:  # noqa: PLR2004 - it has enough to do: this may leave with what else there is for it
            self.unflushed[worker] = None
        elif not worker.channel.flush():
            self.flush_later(worker)
        if chunk.passage is not None:
            chunk.passage.gone(payload.nbytes)
        job.sink.started(chunk.items)
        return payload.count

    def position(self, chunk: Chunk) -> tuple[int, int, float] | None:
        """Ask the status page."""
        worker = self._workers.get(chunk.slot)
        if worker is None:
            return None
        number, index, length, since = worker.page.position()
        if number != chunk.number:
            return None
        return index, length, (time.monotonic_ns() - since) / 1e9

    def recall(self, chunk: Chunk, limit: int) -> None:
        """Write the limit on the status page."""
        worker = self._workers.get(chunk.slot)
        if worker is not None:
            worker.page.recall(chunk.number, limit)

    def memory(self, slot: Hashable) -> int:
        """Ask the system."""
        worker = self._workers.get(slot)
        try:
            with open(f"/proc/{worker and worker.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * PAGESIZE
        except OSError:  # dead since a moment ago, which will be told
            return 0

    def cut(self, chunk: Chunk) -> None:
        """Send a signal: what runs asks nobody."""
        self._signals.send_soon(chunk.slot, CUT_SIGNAL)


def _needs(classes: Classes | None, items: Any) -> list[ClassPack]:
    """The classes that must be there before *items*: those of the job or, where each item comes by itself, of each."""
    if isinstance(classes, ItemClasses):
        return classes.needs
    return [need for item in items if type(item) is Packed for need in item.needs if isinstance(need, ClassPack)]
