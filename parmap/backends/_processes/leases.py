"""Leased workers: callers give them single tasks; none is left unfinished, though a Ctrl-C stops its caller."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from parmap.backends._base import Backend
from parmap.backends._processes.line.quick import HAS_QUICK_LINES, QuickLine
from parmap.backends._processes.poller import Poller

if TYPE_CHECKING:
    from parmap._calls.options import Options
    from parmap._results.futures import Future
    from parmap.backends._processes.worker import Worker


class Leases(Backend):
    """What `Processes` does about leased workers. All but `try_quickly` is called by the engine's thread."""

    leases = HAS_QUICK_LINES

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.poller = Poller()
        self._workers: dict[Hashable, Worker] = {}
        self._open: tuple[Worker, ...] = ()  # those that are leased; replaced as a whole: other threads read it
        self._heard: set[QuickLine] = set()  # those whose answers wake the engine's thread
        self._used: list[int] = []  # the last task on each line, when it was last looked at

    def try_quickly(self, call: Any, future: Future[Any]) -> bool:
        """Start one task from the calling thread, on a leased worker that knows the function; false: there is none."""
        for worker in self._open:  # noqa: SIM110 - a Ctrl-C that comes while a generator is closed is swallowed
            if worker.try_quickly(call, future):
                return True
        return False

    def lease(self, slot: Hashable) -> bool:
        """Let callers give an idle worker single tasks; false if it is about to end."""
        worker = self._workers.get(slot)
        if worker is None or worker.silent:
            return False
        worker.quick.is_open = True
        self._open = (*self._open, worker)
        return True

    def unlease(self, slot: Hashable) -> bool:
        """Take a worker back; false while it has a task, whose end will be heard."""
        worker = self._workers.get(slot)
        if worker is None:
            return True
        self._shut(worker)
        worker.quick.drain()
        if not worker.quick.flight:
            return True
        self._listen_to(worker.quick)
        return False

    def _shut(self, worker: Worker) -> None:
        worker.quick.is_open = False
        self._open = tuple(other for other in self._open if other is not worker)

    def leased(self) -> list[tuple[Hashable, int, Future[Any]]]:
        """The tasks in flight on quick lines, each with its slot and number."""
        workers = list(self._workers.values())
        return [(worker.name, *task) for worker in workers for task in list(worker.quick.flight.items())]

    def look_after_leases(self) -> bool:
        """See to what callers may have left unfinished; false if nothing has been in flight since the last time."""
        busy = False
        for worker in list(self._workers.values()):
            quick = worker.quick
            if worker.look_after_quick():
                self._listen_to(quick)  # it takes longer: its end is heard, there is no need to look again
            elif quick.flight:
                busy = True
            else:
                self._stop_listening_to(quick)
        used, self._used = self._used, [worker.quick.used for worker in self._workers.values()]
        return busy or used != self._used

    def listen(self, future: Future[Any]) -> None:
        """Hear the answer to a task, since nobody may be reading it."""
        for worker in self._workers.values():
            if worker.quick is future.line:
                self._hear_line(worker.quick)
                if worker.quick.flight:
                    self._listen_to(worker.quick)

    def _hear_line(self, quick: QuickLine) -> None:
        """Settle what was answered on a line."""
        quick.drain()
        if not quick.flight or quick.has_ended:
            self._stop_listening_to(quick)

    def _listen_to(self, quick: QuickLine) -> None:
        if quick not in self._heard and not quick.has_ended:
            self._heard.add(quick)
            self.poller.add(quick.sock.fileno(), quick)

    def _stop_listening_to(self, quick: QuickLine) -> None:
        if quick in self._heard:
            self._heard.discard(quick)
            self.poller.remove(quick.sock.fileno())
