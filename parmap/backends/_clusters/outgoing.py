"""What a client sends besides items, each once: functions, their parts, broadcast values, modules, the initializer."""

from __future__ import annotations

import os
import sys
import time
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from parmap._travel.broadcast import Broadcast
from parmap.backends._base import Backend, Call
from parmap.backends._clusters.site import zipped
from parmap.backends._clusters.wire import SHIPPED, Sent, Setup
from parmap.backends._processes.functions import ClassPack, Functions, InitializerPack

if TYPE_CHECKING:
    from parmap._calls.options import Options
    from parmap._work.run import Rules
    from parmap._work.surroundings import Context

INLINE = 16 * 1024
"""Bytes of a function that go with each chunk; what is larger is sent once."""

_TOLD = (
    *("cwd", "path", "argv", "filters", "recorder", "levels", "authkey", "recursion", "digits", "timeout"),
    *("decimal", "errors", "libraries"),
)
_ABROAD = ("start_method", "max_tasks_per_child", "max_memory_per_child", "preload", "env", "idle_timeout")


class Outgoing(Backend):
    """What pilots are sent besides items."""

    def __init__(self, options: Options, ship: tuple[str, ...], workers: int) -> None:
        super().__init__(options.replace(max_tasks_per_child=None, max_memory_per_child=None, workers=workers))
        self._abroad = {name: getattr(options, name) for name in _ABROAD}
        if options.env is not None:
            self._abroad["env"] = dict(options.env)
        self.pool: str = uuid.uuid4().hex
        self._ship = ship
        self.functions: Functions = Functions(Broadcast)  # which can't be read from the file of this machine
        self._initializer: InitializerPack | None = None
        self._places: dict[int, tuple[Any, Any, float]] = {}  # each since when

    @abstractmethod
    def put(self, content: bytes | memoryview) -> tuple[Any, Any]:
        """Have bytes kept by the cluster: what pilots find them by, and what keeps them as long as it lives.

        Where nobody can keep them, it returns them.
        """

    @abstractmethod
    def tell(self, what: str, *args: Any, then: Callable[[Any], object] | None = None) -> None:
        """Call a function of `pilot` in all processes that have one of this pool; *then* takes each answer, some time.

        Where nobody can be asked it does nothing.
        """

    def prepare(self, function: Any, rules: Rules) -> Call:
        """Pickle a function as it is now, unless it is what it was."""
        return self.functions.prepare(function, rules)

    def close(self) -> None:
        """Forget what was sent."""
        self.tell("close")
        self.pool = uuid.uuid4().hex
        self.lanes.clear()
        self.functions.clear()
        self._initializer = None
        self._places.clear()

    def _setup(self) -> Setup:
        if self._initializer is None:
            self._initializer = self.functions.prepare_initializer(self.options)
        initializer = None if self._initializer is None else self._sent(self._initializer)
        shipped = self._place(SHIPPED, lambda: zipped(self._ship)) if self._ship else None
        return Setup(self.pool, self._abroad, initializer, shipped)

    def _sent(self, pack: ClassPack, name: str = "") -> Sent:
        parts = tuple((part.number, part.kind, self._place(part.number, part.content)) for part in pack.parts)
        factories = tuple(map(self._sent, pack.factories))
        return Sent(pack.number, name, self._place(pack.number, lambda: pack.stream), parts, pack.more, factories)

    def _place(self, number: int, make: Callable[[], bytes | memoryview]) -> Any:
        """What pilots find some bytes by; that may be the bytes themselves."""
        found = self._places.get(number)
        if found is None:
            content = make()
            place, keeper = (bytes(content), None) if len(content) <= INLINE else self.put(content)
            if type(place) is bytes and len(place) > INLINE:  # nobody keeps it yet
                return place
            found = self._places[number] = place, keeper, time.monotonic()
        return found[0]

    def _miss(self, number: int, sent: float) -> None:
        """Something was not found by a chunk *sent* then: it has to be put elsewhere, unless it was meanwhile."""
        if number in self._places and self._places[number][2] <= sent:
            del self._places[number]

    @staticmethod
    def _context(context: Context) -> dict[str, Any]:
        told = {name: context.told[name] for name in _TOLD}
        told["path"] = [entry for entry in told["path"] if not _is_installed(entry)]
        return told

    def _tell_gone(self) -> None:
        """Let the cluster forget what was dropped."""
        self.lanes.purge()
        gone: Iterable[int] = [number for number in self.functions.take_gone() if number in self._places]
        for number in gone:
            del self._places[number]
        if gone:
            self.tell("forget", gone)


def _is_installed(entry: str) -> bool:
    """Whether a part of the path has what is installed, which workers have of their own."""
    return entry.endswith("-packages") or entry.startswith((sys.prefix + os.sep, sys.base_prefix + os.sep))
