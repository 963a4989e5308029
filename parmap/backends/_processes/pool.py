"""Worker processes, each behind a private channel: a killed worker costs one item and nothing else."""

from __future__ import annotations

import time
from collections import OrderedDict
from itertools import count
from typing import TYPE_CHECKING, Any

from parmap._core.pace import BYTE_CAP, Cost
from parmap._travel.by_value import reference
from parmap._travel.failure import Failure
from parmap._travel.payload import dump, pack
from parmap._work.run import Callee, Rules
from parmap._work.surroundings import current
from parmap.backends._processes.line.channel import ChannelClosedError
from parmap.backends._processes.line.quick import HAS_QUICK_LINES
from parmap.backends._processes.staff import Staff
from parmap.backends._processes.worker import FunctionCall
from parmap.backends.base import Call, Report

if TYPE_CHECKING:
    from collections.abc import Hashable

    from parmap._calls.options import Options
    from parmap._core.job import Chunk
    from parmap._results.futures import Future

_FUNCTIONS = 64  # functions that workers keep


class Processes(Staff):
    """The default backend."""

    kills = True
    packs = True
    leases = HAS_QUICK_LINES

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.cost = Cost(aim=0.008 + 0.00025 * options.workers, depth=2, most=0.04)
        self._keys = count(1)
        self._calls: OrderedDict[Any, FunctionCall] = OrderedDict()

    # functions

    def prepare(self, function: Any, rules: Rules) -> Call:
        """Pickle a function as it is now; one that goes by name, only once."""
        self.context = current()
        try:
            known = self._calls.get((function, rules))
        except Exception:  # noqa: BLE001 - no hash, or one that raises
            known = None
        if known is not None:
            return known
        find, args, by_name = reference(function)
        packed = dump((find, args, rules))
        key = (function, rules) if by_name else (packed.stream, *(buffer.nbytes for buffer in packed.buffers))
        known = self._calls.get(key)
        if known is None or not known.holds(packed.buffers):
            known = self._calls[key] = FunctionCall(Callee(function, rules), next(self._keys), packed, stable=by_name)
            while len(self._calls) > _FUNCTIONS:
                self._calls.popitem(last=False)
        return known

    # chunks

    def start(self, chunk: Chunk, mode: str) -> int:
        """Pickle a chunk and send it."""
        worker = self._workers[chunk.slot]
        call: FunctionCall = chunk.job.call
        items = chunk.job.sink.load(chunk.items)
        try:
            payload, errors = pack(items, BYTE_CAP, chunk.job.learner)
        except Exception as error:  # noqa: BLE001 - user code may raise anything: the first item pays, the rest goes on
            self._events.append(Report(chunk.number, 1, None, {0: Failure(error)}, 0.0))
            return 1
        call.pace.learn_bytes(payload.count, payload.nbytes)
        if errors:
            for index, problem in errors.items():
                problem.item = chunk.job.sink.index(chunk, index)  # type: ignore[attr-defined]  # a SerializationError
            worker.unsent[chunk.number] = errors
        job = chunk.job
        careful = chunk.careful or job.timeout is not None
        stop_early = job.fail_fast and not job.retries
        start = -1 if job.sink.index(chunk, 0) is None else chunk.start
        try:
            self.context = job.context or current()
            worker.sync(call, self.context)
            worker.due += 1
            clear = worker.channel.post(
                "run", chunk.number, call.key, mode, start, chunk.budget, careful, stop_early, pack=payload
            )
            if not clear:
                self.flush_later(worker)
        except ChannelClosedError:  # it is dying: its death will be told, and the chunk goes to another
            pass
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
            worker.page.recall(chunk.number, chunk.place, limit)

    def cut(self, chunk: Chunk) -> None:
        """Send a signal: what runs asks nobody."""
        self._signals.cut(chunk.slot)

    # single tasks that callers give to idle workers

    def lease(self, slot: Hashable) -> bool:
        """Let callers give an idle worker single tasks."""
        return self._leases.open(slot)

    def unlease(self, slot: Hashable) -> bool:
        """Take a worker back; false while it has a task of a caller's."""
        return self._leases.close(slot)

    def look_after_leases(self) -> bool:
        """See to what callers may have left unfinished."""
        return self._leases.look()

    def leased(self) -> list[tuple[Hashable, int, Future[Any]]]:
        """The tasks in flight on quick lines, each with its slot and number."""
        return self._leases.tasks()

    def listen(self, future: Future[Any]) -> None:
        """Hear the answer to a task, since nobody may be reading it."""
        self._leases.listen(future)

    def try_quickly(self, call: Call, future: Future[Any]) -> bool:
        """Start one task from the calling thread, on a leased worker that knows the function; false: there is none."""
        return self._leases.give(call, future)
