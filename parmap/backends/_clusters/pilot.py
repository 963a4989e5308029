"""In a process of the cluster: runs the chunks of a pool on worker processes of its own, and tells what became of them.

So all that holds for worker processes at home holds here: a death costs one item, a time limit kills, and so on. Tasks
run in processes below this one, which runs none of the user's code.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from parmap._core.elastic import ElasticLedger
from parmap._travel.failure import encode
from parmap._travel.pack import Packed
from parmap._work.run import Callee, Rules
from parmap._work.surroundings import Context, current
from parmap._work.threads import start_thread
from parmap.backends._base import Broken, Died, Event, Ready, Report
from parmap.backends._clusters.local import Local
from parmap.backends._clusters.sink import ChunkSink, Said
from parmap.backends._clusters.wire import SHIPPED, Order, Sent, Setup, Told, from_wire, items_of
from parmap.backends._processes.functions import ClassPack, FactoryPack, FunctionCall, Functions, InitializerPack
from parmap.backends._processes.line.parts import Part, shared

KEPT = 1 << 30
"""Bytes of functions that a pilot keeps; of more, those that were not needed for longest are fetched again."""

_NOTED = 1000  # chunks and pools that have been stopped

PAUSE = 0.05
"""Seconds between looks at a chunk that takes longer than it should."""

_ASK = 1.0  # seconds between questions whether a chunk is still wanted

_EMPTY = 600.0  # seconds after which a pilot of which nobody has heard ends: its program may be gone

_pilots: dict[str, Pilot] = {}
_over: dict[tuple[str, int], None] = {}  # chunks of pools that were stopped, and may still come; the number `_ALL`: any
_ALL = -1
_lock = threading.Lock()


def run(
    order: Order, most: int, fetch: Callable[[Any], bytes | memoryview], is_wanted: Callable[[], bool] = lambda: True
) -> Told:
    """Run a chunk on the pilot of its pool, which has up to *most* workers; *fetch* gets what a place stands for.

    What is gone is a `LookupError` of *fetch*. *is_wanted*: asked from time to time, since a program may end without a
    word.
    """
    setup = order.setup
    with _lock:
        if (setup.pool, _ALL) in _over:
            return Told(stopped=True)
        pilot = _pilots.get(setup.pool)
        if pilot is None or pilot.closed:
            pilot = _pilots[setup.pool] = Pilot(setup, most, fetch)
        pilot.most = max(pilot.most, most)
    return pilot.run(order, is_wanted)


def stop(pool: str, numbers: Iterable[int]) -> Told:
    """Let no chunk with one of these numbers go on; what their tasks have said, whose own answers nobody may hear."""
    with _lock:
        _note_over(pool, numbers)
    pilot = _pilots.get(pool)
    return Told() if pilot is None else pilot.stop_soon(numbers)


def parts(pool: str, known: dict[int, list[int]]) -> list[tuple[int, Told]]:
    """What has become of chunks that run still, without the pieces whose starts are known."""
    pilot = _pilots.get(pool)
    return [] if pilot is None else pilot.parts(known)


def forget(pool: str, numbers: Iterable[int]) -> None:
    """Drop what the client has dropped."""
    pilot = _pilots.get(pool)
    if pilot is not None:
        pilot.forget(numbers)


def close(pool: str) -> None:
    """End the pilot of a pool."""
    with _lock:
        _note_over(pool, [_ALL])
        pilot = _pilots.pop(pool, None)
    if pilot is not None:
        pilot.close()


def _note_over(pool: str, numbers: Iterable[int]) -> None:
    _over.update(((pool, number), None) for number in numbers)
    while len(_over) > _NOTED:
        del _over[next(iter(_over))]


class Pilot:
    """Runs the chunks of one pool in this process."""

    def __init__(self, setup: Setup, most: int, fetch: Callable[[Any], bytes | memoryview]) -> None:
        """As `run`."""
        options = SimpleNamespace(**setup.options, workers=most, initializer=None, initargs=())
        options.idle_timeout = _EMPTY if options.idle_timeout is None else options.idle_timeout
        self.closed = False
        self._rest = max(options.idle_timeout, _EMPTY)
        self._used = time.monotonic()
        self._pool = setup.pool
        self.most = most
        self._fetch = fetch
        self._shipped = setup.shipped
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._backend = Local(options)
        self._backend.post = self.post
        self._backend.overhear = self._overhear
        self._ledger = ElasticLedger(self._backend, time.monotonic())
        self._inbox: deque[Callable[[], object]] = deque()
        self._sinks: dict[int, ChunkSink] = {}
        self._said = Said()  # of what belongs to no chunk, or to one that has ended
        # Changed with the lock only: several threads bring chunks.
        self._turn = threading.Lock()
        self._made: OrderedDict[int, ClassPack] = OrderedDict()  # by use: the last is what was needed last
        self._parts: dict[int, Part] = {}
        self._gone: deque[int] = deque()  # numbers of what is to be dropped; by whoever has the turn, or has it next
        self._context: tuple[dict[str, Any], Context] | None = None
        start_thread("parmap-pilot", self._live)

    # in the threads of the cluster

    def run(self, order: Order, is_wanted: Callable[[], bool]) -> Told:
        """Run a chunk; returns when it has ended, was stopped, or isn't wanted any more."""
        sink = ChunkSink(order)
        missing: list[int] = []

        def call_of(origin: Functions, packed: Packed, parts: list[Part]) -> FunctionCall:
            callee = Callee(SimpleNamespace(__qualname__=order.function.name), Rules(()))
            return FunctionCall(origin, packed, parts, callee, None, stable=True)

        try:
            with self._turn:
                call = self._found(order.function, missing, call_of)
                needs = tuple(self._found(each, missing, FactoryPack) for each in order.needs)
                if self._backend.initializer is None and order.setup.initializer is not None:
                    self._backend.initializer = self._found(order.setup.initializer, missing, InitializerPack)
                self._thin_out()
                context = self._context_of(order)
        except LookupError:
            return Told(missing=(SHIPPED,))
        finally:
            self._drop()
        if missing:
            return Told(missing=tuple(missing))
        try:
            items = items_of(from_wire(order.items), needs)
        except BaseException as error:  # noqa: BLE001 - an array may need what is not here
            return Told(broken=encode(error))
        self.post(lambda: self._begin(sink, order, call, items, context))
        if self.closed:  # nobody may look there any more
            sink.end(Told(stopped=True))
        while not sink.ended.wait(_ASK):
            if not is_wanted():
                stop(self._pool, [order.number])
        return sink.told._replace(said=self._said_of(sink))

    def parts(self, known: dict[int, list[int]]) -> list[tuple[int, Told]]:
        """As the function of that name."""
        found = []
        for number, starts in known.items():
            sink = self._sinks.get(number)
            if sink is not None:
                sink.known = starts
                if sink.pieces:
                    found.append((number, Told(sink.pieces, said=self._said_of(sink))))
        return found

    def _said_of(self, sink: ChunkSink) -> list[tuple[str, tuple[Any, ...]]]:
        """What was printed and logged with a chunk: of another it would come too late, or never, with this one."""
        return self._said.take() + sink.said.take()

    def stop_soon(self, numbers: Iterable[int]) -> Told:
        """As the function `stop`."""
        sinks = [sink for sink in map(self._sinks.get, numbers) if sink is not None]
        said = [message for sink in sinks for message in self._said_of(sink)]
        self.post(lambda: self.stop(numbers))
        return Told(said=said)

    def forget(self, numbers: Iterable[int]) -> None:
        """As the function of that name, without waiting: who has the turn may need this very thread, to fetch."""
        self._gone.extend(numbers)
        self._drop()

    def close(self) -> None:
        """Stop all workers."""
        self.closed = True
        self.post(lambda: None)

    def _drop(self) -> None:
        while self._gone and self._turn.acquire(blocking=False):
            try:
                while self._gone:
                    number = self._gone.popleft()
                    self._made.pop(number, None)
                    self._parts.pop(number, None)
            finally:
                self._turn.release()

    def post(self, note: Any) -> None:
        """Leave a note for the pilot's own thread."""
        self._inbox.append(note)
        self._backend.wake()

    def _found(self, sent: Sent, missing: list[int], make: Callable[..., ClassPack]) -> Any:
        """What was sent, as workers get it; what of it can't be found is added to *missing*."""
        if sent.key in self._made:
            self._made.move_to_end(sent.key)
            return self._made[sent.key]
        parts: list[Part] = []
        for number, kind, place in sent.parts:
            try:
                if number not in self._parts:
                    self._parts[number] = self._part(number, kind, place)
                parts.append(self._parts[number])
            except LookupError:
                missing.append(number)
        factories = [self._found(each, missing, FactoryPack) for each in sent.factories]
        try:
            packed = Packed(bytes(self._get(sent.stream)), [])
        except LookupError:
            missing.append(sent.key)
            return None
        if missing:
            return None
        made = self._made[sent.key] = make(self._backend.functions, packed, parts)
        made.more = sent.more
        made.factories += factories
        return made

    def _thin_out(self) -> None:
        """Drop functions where they are too many; their parts, too, which those that are left hold themselves."""
        sizes = {key: each.nbytes for key, each in self._made.items() if type(each) is FunctionCall}
        for key in [*sizes][:-1]:
            if sum(sizes.values()) > KEPT:
                del self._made[key], sizes[key]
                self._parts.clear()

    def _part(self, number: int, kind: str, place: Any) -> Part:
        numbers = self._backend.functions.numbers
        if type(place) is bytes:
            return Part(numbers, kind, memoryview(place), 0, len(place))
        return shared(f"parmap-{self._pool}-{number}", numbers, kind, lambda: memoryview(self._fetch(place)))

    def _get(self, place: Any) -> bytes | memoryview:
        return place if type(place) is bytes else self._fetch(place)

    def _context_of(self, order: Order) -> Context:
        """What tasks see besides their arguments: the caller's, as far as it means something here."""
        if self._context is not None and self._context[0] == order.context:
            return self._context[1]
        context = object.__new__(Context)
        mine = current().told
        context.told = told = mine | order.context
        told["path"] = [*told["path"], *(entry for entry in mine["path"] if entry not in told["path"])]
        if self._shipped is not None:
            told["path"].insert(0, self._unpack(self._shipped))
        if not os.path.isdir(told["cwd"]):
            told["cwd"] = mine["cwd"]
        self._context = order.context, context
        return context

    def _unpack(self, place: Any) -> str:
        """The file of what was shipped."""
        if self._folder is None:
            content = self._get(place)
            self._folder = tempfile.TemporaryDirectory(prefix="parmap-")
            with open(os.path.join(self._folder.name, "shipped.zip"), "wb") as file:
                file.write(content)
        return os.path.join(self._folder.name, "shipped.zip")

    # in the pilot's own

    def _live(self) -> None:
        try:
            while not self.closed:
                self._step()
        finally:
            self.closed = True
            with _lock:
                for pool in [pool for pool, pilot in _pilots.items() if pilot is self]:
                    del _pilots[pool]
            while self._inbox:
                self._inbox.popleft()()
            for sink in list(self._sinks.values()):
                sink.end(Told(stopped=True))
            self._backend.close()
            self._backend.finish()
            if self._folder is not None:
                self._folder.cleanup()

    def _step(self) -> None:
        while self._inbox:
            self._inbox.popleft()()
        now = time.monotonic()
        self._ledger.ring(now)
        if not self._sinks and now >= self._used + self._rest:
            self.closed = True
            return
        self._ledger.employ(min(self.most, max(1, len(self._sinks))))
        limits = [self._give_back(sink, now) for sink in self._sinks.values()]
        self._ledger.dispatch(now)
        timeout = self._ledger.timeout(time.monotonic())
        times = [limit for limit in [timeout, *limits, self._rest] if limit is not None]
        for event in self._backend.wait(0.0 if self._inbox else min(times, default=None)):
            self._handle(event)
        for number in [number for number, sink in self._sinks.items() if sink.ended.is_set()]:
            del self._sinks[number]
            self._used = time.monotonic()

    def _begin(self, sink: ChunkSink, order: Order, call: FunctionCall, items: Any, context: Context) -> None:
        if self.closed or (self._pool, order.number) in _over:
            sink.end(Told(stopped=True))
            return
        self._sinks[order.number] = sink
        self._ledger.scheduler.add(sink.begin(call, order, items, context))

    def _overhear(self, number: int, kind: str, fields: tuple[Any, ...]) -> None:
        """A worker has printed or logged something."""
        sink = self._ledger.sink_of(number)
        (sink.said if isinstance(sink, ChunkSink) and not sink.ended.is_set() else self._said).add(kind, fields)

    def stop(self, numbers: Iterable[int]) -> None:
        """End them."""
        for number in numbers:
            sink = self._sinks.get(number)
            if sink is not None and sink.job is not None:
                sink.end(Told(stopped=True))
                self._ledger.cancel(sink.job, time.monotonic())

    def _give_back(self, sink: ChunkSink, now: float) -> float | None:
        """Let what no worker has be run elsewhere when the time of a chunk is over; returns when to ask again."""
        job = sink.job
        if job is None or job.closed or sink.budget is None:
            return None
        if not job.waiting and all(len(chunk.items) < 2 for chunk in job.flight):  # noqa: PLR2004 - one, which runs
            return None
        left = sink.began + sink.budget - now
        if left > 0:
            return left
        if not sink.has_begun:
            return sink.budget
        sink.give_back(self._ledger.give_back(job, now))
        return PAUSE

    def _handle(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, Report):
            sink = self._ledger.sink_of(event.number)
            if isinstance(sink, ChunkSink):
                sink.report = event
            self._ledger.report(event, now)
        elif isinstance(event, Died):
            self._ledger.died(event, now)
        elif isinstance(event, Ready):
            self._ledger.ready(event.slot)
        elif isinstance(event, Broken):
            self._ledger.lose_all(event.error, now)
