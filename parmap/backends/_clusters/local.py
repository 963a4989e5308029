"""The worker processes of a pilot: they come and go with the chunks that the cluster lets it run."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any

from parmap._results.relay import ROOM
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
        self.said: deque[tuple[str, tuple[Any, ...]]] = deque()  # what tasks have printed and logged
        self._room = ROOM
        self._is_full = False

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
            self._room -= len(message.fields[-1])
            if self._room > 0:
                self.said.append((message.kind, message.fields))
            elif not self._is_full:
                self._is_full = True
                self.said.append(
                    ("print", ("stderr", "parmap: tasks have printed so much that some of it is left out\n"))
                )
        else:
            super()._take_message(worker, message)

    def take_said(self) -> list[tuple[str, tuple[Any, ...]]]:
        """What tasks have printed and logged since; in any thread."""
        self._room, self._is_full = ROOM, False
        return [self.said.popleft() for _ in range(len(self.said))]
