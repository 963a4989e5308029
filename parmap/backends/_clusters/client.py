"""The client's side of a pool on a cluster: its chunks, what comes back of them, and how much the cluster can take."""

from __future__ import annotations

import logging
import queue
import time
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from parmap._core.pace import Cost, cost_on_cluster
from parmap._core.schedule import SUSPECT
from parmap._results.screen.relay import relay
from parmap._travel.failure import Failure
from parmap._travel.pack import Pack, Packed
from parmap._travel.text import called
from parmap._work.surroundings import current
from parmap.backends._base import Broken, Capacity, Died, Event, Lost, Part, Report, Story, packed
from parmap.backends._clusters.outgoing import Outgoing
from parmap.backends._clusters.pilot import close as close_here
from parmap.backends._clusters.wire import Order, Told, failure_from_wire, from_wire, to_wire
from parmap.backends._processes.functions import FunctionCall
from parmap.backends._processes.line.copies import copies

if TYPE_CHECKING:
    from parmap._calls.options import Options
    from parmap._core.job import Chunk

PERIOD = 0.5
"""Seconds between looks at the cluster, while it has something to do."""

_ASK = 0.1  # seconds after which a chunk that should have ended is asked for what has become of its items

_PATIENCE = 30.0  # seconds without a worker until the user is told what is missing


class Flight(NamedTuple):
    """A chunk that a pilot has."""

    number: int
    slot: Hashable
    taken: int
    unsent: dict[int, BaseException]
    retries: Callable[[BaseException], bool]
    sent: float
    late: float
    """When it should have ended."""
    known: list[int]
    """The starts of pieces that have come."""
    is_alone: bool
    """Whether nothing was in its way when it was sent."""
    is_suspect: bool
    """Whether it was lost before, and may be why: of such chunks one runs at a time."""
    handle: Any


class Cluster(Outgoing):
    """Runs chunks through pilots, which are wherever the cluster has them."""

    kills = True
    packs = imports = True
    overhead: float
    """Seconds that a chunk takes besides its work; a guess, until it is known."""
    gives_up = ""
    """The name of the library's error of a task that several workers did not survive."""

    def __init__(self, options: Options, ship: tuple[str, ...]) -> None:
        """Ask the cluster, which is there, how large it is."""
        self.most: int = options.workers
        super().__init__(options, ship, self._slots())
        self.cost: Cost = self._cost_now()
        self.flights: dict[int, Flight] = {}
        self.names: Iterator[int] = count(1)
        self._halted: set[int] = set()
        self._held: dict[int, Order] = {}  # suspects that wait for their turn
        self.loss: BaseException | None = None
        """Why there is no cluster any more."""
        self._events: queue.SimpleQueue[Callable[[], list[Event]]] = queue.SimpleQueue()
        self._employed = self.options.workers, self.cost
        self._next_look = 0.0
        self._next_question = 0.0  # when chunks that are late may be asked what has become of their items
        self._heard_at = 0.0
        self._has_warned = False

    def _slots(self) -> int:
        """Some more than can run, so that each worker finds the next chunk there, and whoever adds workers a need."""
        size = self.size()
        return self.most if size >= self.most else min(self.most, size + size // 4 + 1)

    # what each kind of cluster does in its way

    @abstractmethod
    def size(self) -> int:
        """How many chunks can run at once, as far as is known."""

    @abstractmethod
    def look(self) -> None:
        """Find out, without waiting, how large the cluster is, and whether it is there; if it is lost, say so."""

    @abstractmethod
    def send(self, number: int, order: Order) -> Any:
        """Send a chunk to a pilot; what it answers is `hear`d. Returns what `halt` needs."""

    @abstractmethod
    def halt(self, chunks: dict[int, Any]) -> None:
        """Stop chunks that run, or may come to run; their end is `hear`d."""

    def open(self) -> None:
        """It has something to do, until it is closed."""

    @property
    def is_busy(self) -> bool:
        """Whether the cluster is to be looked at from time to time."""
        return bool(self.flights) or self._employed[0] <= 1

    @abstractmethod
    def missing(self) -> str:
        """What to look at where no worker can be had."""

    # the contract

    def grow(self, count: int) -> list[Hashable]:
        """A slot is leave to give the cluster one more chunk."""
        self.open()
        return [next(self.names) for _ in range(count)]

    def start(self, chunk: Chunk, mode: str) -> int:
        """Pickle a chunk and send it. Once it is suspect, each item goes alone."""
        if self.loss is not None:
            self.post_event(Broken(self.loss))
            return len(chunk.items)
        job, call = chunk.job, cast("FunctionCall", chunk.job.call)
        items = job.sink.load(chunk.items[:1] if chunk.careful else chunk.items)
        payload, unsent = packed(chunk, items, single=True)  # pilots load none
        is_alone = len(self.flights) < self.size()
        try:
            order = self._order(chunk, mode, payload, items)
            is_suspect = chunk.strikes >= SUSPECT
            is_held = is_suspect and any(each.is_suspect for each in self.flights.values())
            handle = None if is_held else self.send(chunk.number, order)
            now, late = time.monotonic(), 0.0 if chunk.budget is None else chunk.budget / 2
        except Exception as error:  # noqa: BLE001 - each library has errors of its own for being closed or broken
            self.lose(f"the cluster takes no more work: {error}", error)
            return len(chunk.items)
        self.flights[chunk.number] = Flight(
            *(chunk.number, chunk.slot, payload.count, unsent, call.callee.retries, now, now + max(_ASK, late), []),
            *(is_alone, is_suspect, handle),
        )
        if is_held:
            self._held[chunk.number] = order
        if chunk.passage is not None:
            chunk.passage.gone(payload.nbytes)
        job.sink.started(chunk.items)
        return payload.count

    def _order(self, chunk: Chunk, mode: str, payload: Pack, items: Sequence[Any]) -> Order:
        """What is sent of a chunk: with it goes what its worker may need first."""
        job, call = chunk.job, cast("FunctionCall", chunk.job.call)
        return Order(
            self._setup(),
            self._sent(call, called(call.callee.function)),
            self._context(job.context or current()),
            *(chunk.number, mode, -1 if job.sink.index(chunk, 0) is None else chunk.start, chunk.budget),
            *(job.timeout, job.fail_fast and not job.retries, to_wire(_kept(payload, items), copied=False)),
            tuple(map(self._sent, self.functions.factories(payload.needs))),
            chunk.passage is not None,
        )

    def position(self, chunk: Chunk) -> tuple[int, int, float] | None:
        """All of a chunk may be running. Limits of time are kept where it runs."""
        flight = self.flights.get(chunk.number)
        return None if flight is None else (0, flight.taken, 0.0)

    def stop(self, slot: Hashable, *, dump: bool = False) -> None:  # noqa: ARG002 - the contract
        """Stop what a slot has; the worker process that it runs in is killed."""
        chunks = {number: flight.handle for number, flight in self.flights.items() if flight.slot == slot}
        if chunks:
            self._halted.update(chunks)
            for number in chunks.keys() & self._held.keys():
                del self._held[number], chunks[number]
                self.hear(number, Told(stopped=True))
            self.halt(chunks)
        else:
            self.post_event(Died(slot, 0, 0, 0, Story("it was stopped").tell))

    def wait(self, timeout: float | None) -> list[Event]:
        """Sleep until there is an answer; look at the cluster from time to time."""
        self._tell_gone()
        now = time.monotonic()
        rests = [] if timeout is None else [timeout]
        if copies.next_time is not None:
            rests.append(max(0.0, copies.next_time - now))
        if self.is_busy:
            rests.append(self._ask(now))
        timeout = min(rests, default=None)
        events: list[Event] = []
        try:
            found = self._events.get(timeout=timeout)
            while True:
                events += found()
                found = self._events.get_nowait()
        except queue.Empty:
            pass
        copies.expire()
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + PERIOD
            events += self._look(now)
        return events

    def wake(self) -> None:
        """Interrupt `wait`."""
        self._events.put(list)

    def close(self) -> None:
        """Stop what runs, and all pilots; the cluster stays."""
        if self.flights and self.loss is None:
            self.halt({number: each.handle for number, each in self.flights.items() if number not in self._held})
        close_here(self.pool)  # a worker of the cluster may be a thread of this process, whose client is closed
        super().close()
        self.flights.clear()
        self._held.clear()
        self._halted.clear()

    # for those who implement it

    def post_event(self, event: Event) -> None:
        """Let the engine hear of something; from any thread."""
        self.soon(lambda: [event])

    def soon(self, act: Callable[[], list[Event]]) -> None:
        """Have something done by the engine's thread, that may be an event; from any thread."""
        self._events.put(act)

    def hear(self, number: int, told: Told | BaseException) -> None:
        """A chunk has come back, or is lost; from any thread."""
        self.soon(lambda: self._read(number, told))

    def lose(self, why: str, cause: BaseException | None = None) -> None:
        """There is no cluster any more; from any thread."""
        from parmap.errors import PoolClosedError

        if self.loss is None:
            self.loss = PoolClosedError(why)
            self.loss.__cause__ = cause
        self.post_event(Broken(self.loss))

    # what comes back

    def _ask(self, now: float) -> float:
        """Ask for what has become of chunks that should have ended; returns the seconds until that may be due again."""
        due = [flight for flight in self.flights.values() if flight.taken > 1]
        when = max(min((flight.late for flight in due), default=now + PERIOD), self._next_question)
        if when > now or self.loss is not None:
            return max(0.0, min(PERIOD, when - now))
        late = {flight.number: flight.known for flight in due if flight.late <= now}
        self._next_question = now + 10 * PERIOD  # if the answer is lost
        self.tell("parts", late, then=lambda found: self.soon(lambda: self._hear_parts(found, now)))
        return PERIOD

    def _hear_parts(self, found: list[tuple[int, Told]], asked: float) -> list[Event]:
        now = time.monotonic()
        self._next_question = now + max(_ASK, min(10 * (now - asked), 2 * PERIOD))  # the slower, the less often
        events: list[Event] = []
        for number, told in found:
            say(told)
            if (flight := self.flights.get(number)) is not None:
                events += self._parts_of(flight, told)
        return events

    def _parts_of(self, flight: Flight, told: Told) -> Iterator[Event]:
        for start, length, has_run, wire, failures, seconds, times in told.pieces:
            flight.known.append(start)
            found = {at: failure_from_wire(flight.retries, *each) for at, each in failures}
            found.update((at - start, Failure(each)) for at, each in flight.unsent.items() if 0 <= at - start < length)
            results = None if wire is None else from_wire(wire)
            yield Part(flight.number, start, length, has_run, results, found, seconds, times)

    def _read(self, number: int, told: Told | BaseException) -> list[Event]:
        flight = self.flights.pop(number, None)
        if flight is None:
            return []
        self._heard_at = time.monotonic()
        if flight.is_suspect:
            self._send_suspect()
        if isinstance(told, Told):
            say(told)
        if number in self._halted:
            self._halted.discard(number)
            return [Died(flight.slot, number, 0, flight.taken, Story("it was stopped").tell)]
        if not isinstance(told, Told):
            story = Story(f"the cluster lost the task: {type(told).__name__}: {told}", told)
            return [Lost(number, 0, story.tell, given_up=type(told).__name__ == self.gives_up)]
        if told.broken is not None:
            return [Broken(Failure(encoded=told.broken).exception())]
        if told.stopped or told.missing:
            for each in told.missing:
                self._miss(each, flight.sent)
            return [Lost(number, 0, Story("the cluster lost the function").tell)]
        self._learn(flight, told)
        return [*self._parts_of(flight, told), Report(number, 0, None, {}, 0.0)]

    def _send_suspect(self) -> None:
        """Send the next chunk that waits for its turn, if no other of them is under way."""
        if not self._held or any(each.is_suspect and each.number not in self._held for each in self.flights.values()):
            return
        number = next(iter(self._held))
        try:
            handle = self.send(number, self._held.pop(number))
        except Exception as error:  # noqa: BLE001 - as in `start`
            self.lose(f"the cluster takes no more work: {error}", error)
        else:
            self.flights[number] = self.flights[number]._replace(handle=handle)

    def _learn(self, flight: Flight, told: Told) -> None:
        """Learn what a chunk takes besides its work, if nothing else was in its way."""
        if not flight.is_alone:
            return
        took = max(0.0, self._heard_at - flight.sent - told.inside)
        self.overhead += (0.5 if took < self.overhead else 0.1) * (took - self.overhead)
        cost = self._cost_now()
        if not 0.8 < cost.aim / self.cost.aim < 1.25:  # noqa: PLR2004 - it matters
            self.cost = cost

    def _cost_now(self) -> Cost:
        return cost_on_cluster(self.overhead, self._slots())

    def _look(self, now: float) -> list[Event]:
        self.look()
        if self.loss is not None:
            return []
        if not self.flights:
            self._heard_at = now
        elif now > self._heard_at + _PATIENCE and not self._has_warned and (missing := self.missing()):
            self._has_warned = True
            logging.getLogger("parmap").warning("no worker has been found for %d s: %s", _PATIENCE, missing)
        if self._slots() != self._employed[0]:
            self.cost = self._cost_now()
        employed = self._slots(), self.cost
        if employed == self._employed:
            return []
        self._employed = employed
        return [Capacity(*employed)]


def _kept(payload: Pack, items: Any) -> Pack:
    """A pack whose buffers nobody changes before it is sent; they lie in the caller's arrays, unless kept before."""
    if payload.buffers and not all(type(item) is Packed for item in items):
        payload.buffers = [
            buffer if type(buffer.obj) is bytes else copies.copy(buffer, buffer.readonly) for buffer in payload.buffers
        ]
    return payload


def say(told: Told) -> None:
    """Write what tasks have printed and logged; in any thread."""
    for kind, fields in told.said:
        relay.put(kind, fields)
