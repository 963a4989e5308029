"""How workers are stopped, when the ledger says so: terminated, then killed, at once or later; or cut off a block."""

from __future__ import annotations

import heapq
import signal
import time
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

from parmap._work.page import DUMP_SIGNAL
from parmap.backends._processes.launcher import kill_group
from parmap.backends._processes.line.channel import ChannelClosedError

if TYPE_CHECKING:
    from parmap.backends._processes.worker import Worker

DUMP_PAUSE = 0.015
"""Seconds between two looks at what a worker has written of its stack; it is terminated when that is no longer more."""

DUMP_LOOKS = 20
"""Looks after which it is terminated anyway: on a busy machine it may take a while until it runs at all."""

_LOOK = 0  # in the place of a signal

TERM_PAUSE = 0.5
"""Seconds that a terminated worker has before it is killed."""

MUTE_PAUSE = 1.0
"""Seconds after which a worker that has closed its channel, but lives, is killed: it is of no use any more."""


class Signals:
    """What stops the workers of a pool."""

    def __init__(self, workers: Mapping[Hashable, Worker]) -> None:
        """Send to *workers*, as they come and go."""
        self._workers = workers
        self._later: list[tuple[float, Hashable, int]] = []
        self._written: dict[Hashable, list[int]] = {}  # how much of a stack there was, look by look

    def stop(self, slot: Hashable, *, dump: bool) -> None:
        """Terminate a worker, then kill it; *dump*: before that, let it tell where it is."""
        if dump:
            self.send_soon(slot, DUMP_SIGNAL)
            self.send_soon(slot, _LOOK, DUMP_PAUSE)
        else:
            self._end(slot)

    def _look(self, slot: Hashable, worker: Worker) -> None:
        looks = self._written.setdefault(slot, [])
        looks.append(worker.page.written)
        # Sent before it has run, the other signal would be the first that it gets.
        if len(looks) < DUMP_LOOKS and (not looks[-1] or looks[-1:] != looks[-2:-1]):
            self.send_soon(slot, _LOOK, DUMP_PAUSE)
        else:
            self._written.pop(slot, None)
            self._end(slot)

    def _end(self, slot: Hashable) -> None:
        self.send_soon(slot, signal.SIGTERM)
        self.send_soon(slot, signal.SIGKILL, TERM_PAUSE)

    def send_soon(self, slot: Hashable, signum: int, pause: float = 0.0) -> None:
        """Send a signal to a worker after a *pause*, in seconds."""
        heapq.heappush(self._later, (time.monotonic() + pause, slot, signum))
        self.send_due()

    def send_due(self) -> None:
        """Send those whose time has come."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            _, slot, signum = heapq.heappop(self._later)
            worker = self._workers.get(slot)
            if worker is None:
                self._written.pop(slot, None)
            elif signum == _LOOK:
                self._look(slot, worker)
            else:
                self.send(worker, signum)

    @property
    def next_time(self) -> float | None:
        """When there is one to be sent."""
        return self._later[0][0] if self._later else None

    def clear(self) -> None:
        """Forget those that are to be sent."""
        self._later.clear()
        self._written.clear()

    def send(self, worker: Worker, signum: int) -> None:
        """Send one at once, if there is still somebody to get it."""
        try:
            if worker.launcher is not None:
                worker.launcher.kill(worker.name, int(signum))
            elif worker.pid is not None:  # its channel has not ended, so the number still means it
                kill_group(worker.pid, signum)
        except ChannelClosedError:  # the template is gone
            pass
