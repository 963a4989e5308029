"""The worker processes of a pilot: they come and go with the chunks that the cluster lets it run."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from parmap.backends._processes.functions import InitializerPack
from parmap.backends._processes.line.channel import Message
from parmap.backends._processes.pool import Processes
from parmap.backends._processes.staff import OUTPUT
from parmap.backends._processes.worker import Worker


class Local(Processes):
    """The worker processes of a pilot."""

    leases = announces = False  # those that were parked have started

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        # Chunks come from far away, one for each worker: what is to be shared out evenly is so already.
        self.cost = self.cost._replace(aim=0.05, most=0.1, floor=0.05)
        self.initializer: InitializerPack | None = None
        self._parked: list[Hashable] = []
        self.overhear: Callable[[int, str, tuple[Any, ...]], object] = lambda *_: None
        """Called with what a worker has printed or logged, and which chunk it was running; -1: none."""

    def _initializer(self) -> InitializerPack | None:
        return self.initializer

    def grow(self, count: int) -> list[Hashable]:
        """Those that were parked come first."""
        parked = [slot for slot in self._parked if slot in self._workers]
        self._parked = parked[count:]
        return parked[:count] + (super().grow(count - len(parked)) if count > len(parked) else [])

    def retire(self, slot: Hashable) -> None:
        """It is needed again soon, unless its time is over."""
        if self.options.max_tasks_per_child is None is self.options.max_memory_per_child:
            self._parked.append(slot)
        else:
            super().retire(slot)

    def _take_message(self, worker: Worker, message: Message) -> None:
        if message.kind in OUTPUT:
            self.overhear(next(iter(worker.unsent), -1), message.kind, message.fields)
        else:
            super()._take_message(worker, message)
