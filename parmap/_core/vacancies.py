"""Which workers may take a chunk: found without a look at all of them, of which there may be ten thousand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from parmap._core.states import Slot, State


class Vacancies:
    """The workers without a chunk, and those with fewer than they may hold."""

    def __init__(self) -> None:
        self.idle: OrderedDict[Hashable, Slot] = OrderedDict()
        """Those that have no chunk and are not being killed. Who had one last comes first: its caches are warm."""
        self._behind: OrderedDict[Hashable, Slot] = OrderedDict()  # a chunk may wait there behind another

    def add(self, name: Hashable, slot: Slot) -> None:
        """There is one more worker."""
        self.idle[name] = slot

    def remove(self, name: Hashable) -> None:
        """A worker takes nothing any more."""
        self.idle.pop(name, None)
        self._behind.pop(name, None)

    def changed(self, name: Hashable, slot: Slot, *, more: bool) -> None:
        """A worker has a chunk more, or one less, and may hold *more*."""
        if slot.state is State.DOOMED:
            return
        if not slot.flight:
            self.idle[name] = slot
            self.idle.move_to_end(name, last=False)
        else:
            self.idle.pop(name, None)
        if slot.flight and more:
            self._behind.setdefault(name, slot)
        else:
            self._behind.pop(name, None)

    def find(self, depth: int, now: float, longest: float, unlease: Callable[[Hashable], bool]) -> Hashable:
        """A worker for the next chunk; `None`: there is none.

        One that has a chunk gets another only if that takes less than *longest* seconds, and was not cancelled, or it
        may be killed for that. If not, it won't change its mind before it has given one back, and nobody asks again.
        """
        for name, slot in self.idle.items():
            if slot.budget == 0 or (slot.state is State.LEASED and not unlease(name)):
                continue
            slot.move(State.IDLE if slot.state is State.LEASED else slot.state)
            return name
        while depth > 1 and self._behind:
            name, slot = next(iter(self._behind.items()))
            first = slot.flight[0]
            is_short = first.expected is not None and max(first.expected, now - first.sent) < longest
            if is_short and first.stop and slot.budget != 0:
                self._behind.move_to_end(name)  # next time the others first
                return name
            del self._behind[name]
        return None
