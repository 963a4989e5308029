"""One call of `map` or its like: its input as a sequence, where its outcomes go, and how they are put in order.

The engine delivers outcomes chunk by chunk to a `Batch`; the thread that wants the results decodes them. The input of a
stream is read (see `input`) only so far ahead of what was handed out, so that neither an infinite input nor a slow
consumer makes anything grow.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import repeat
from operator import length_hint
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from parmap._results.futures import Future
from parmap._results.screen.relay import relay
from parmap._results.unheard import Origin
from parmap._results.watched import Watched
from parmap._travel.failure import Failure, Voice, guarded, is_foreign, pass_on, unloadable
from parmap._travel.tie import Tie

if TYPE_CHECKING:
    from parmap._core.job import Chunk, Job
    from parmap._core.ledger import Ledger
    from parmap._engine.engine import Engine
    from parmap._results.input.source import Input
    from parmap._results.screen.progress import Meter

Decoded: TypeAlias = tuple[list[Any], dict[int, BaseException], dict[int, BaseException]]


class Columns:
    """Several sequences in step: a sequence of tuples that is cut before it is zipped."""

    def __init__(self, columns: tuple[Any, ...]) -> None:
        size = min(map(len, columns))
        self._columns = tuple(column if len(column) == size else column[:size] for column in columns)

    def __len__(self) -> int:
        return min(map(len, self._columns))  # one may have been cut meanwhile

    def __getitem__(self, where: slice) -> Columns:
        return Columns(tuple(column[where] for column in self._columns))

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return zip(*self._columns, strict=False)


class Same:
    """One object so many times: what an endless `itertools.repeat` gives beside something that ends."""

    def __init__(self, thing: Any, size: int) -> None:
        self._thing = thing
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, where: slice) -> Same:
        return Same(self._thing, len(range(self._size)[where]))

    def __iter__(self) -> Iterator[Any]:
        return repeat(self._thing, self._size)


def as_sequence(iterables: tuple[Iterable[Any], ...]) -> Any:
    """The items of *iterables* as something that can be cut, or `None` if they must be read one by one."""
    given: list[Any] = [each if _is_endless(each) else _sliceable(each) for each in iterables]
    sequences = [each for each in given if type(each) is not repeat]
    if not sequences or any(each is None for each in sequences):
        return None
    if len(given) == 1:
        return given[0]
    size = min(map(len, sequences))
    return Columns(tuple(Same(next(each), size) if type(each) is repeat else each for each in given))


def _is_endless(iterable: Any) -> bool:
    """Whether it gives one object for ever: from one that ends, who made it could see what was taken."""
    return type(iterable) is repeat and length_hint(iterable, -1) < 0


_SLICED = frozenset({list, tuple, range, str, bytes})
_FINITE: tuple[Any, ...] = (set, frozenset, dict, deque, type({}.keys()), type({}.values()), type({}.items()))


def _sliceable(iterable: Any) -> Any:
    if type(iterable) in _SLICED:
        return iterable[: sys.maxsize] if type(iterable) is range else iterable  # a longer one has no `len`
    if type(iterable).__module__ == "numpy" and type(iterable).__name__ == "ndarray" and iterable.ndim:
        return list(iterable) if iterable.dtype.hasobject else iterable
    return list(iterable) if isinstance(iterable, _FINITE) else None


class Arrival(NamedTuple):
    """Outcomes of consecutive items."""

    start: int
    done: int
    results: Any
    failures: dict[int, Failure]
    items: Any = ()
    attempts: Mapping[int, int] = {}  # of the items that did not take one, where that is asked for
    nbytes: float = 0.0
    """The bytes of the results, as far as known."""

    def item(self, place: int) -> Any:
        """The item at a place, as it was sent."""
        return next(iter(self.items[place : place + 1]))


class Batch(Watched):
    """The sink of the job of one call."""

    def __init__(self, mode: str, *, fails_late: bool = False) -> None:
        """*fails_late*: the first of the items that failed fails the batch, when all others have run."""
        self.__dict__  # noqa: B018 - see Watched
        self.mode = mode
        self.fails_late = fails_late
        self.first: int = sys.maxsize  # number of the first item that failed
        self._late: Failure | None = None
        self.arrivals: deque[Arrival] = deque()
        self.ended: bool = False
        self.moved: bool = False  # a stream has taken from the arrivals since it last looked for something to hand out
        self.failure: Failure | None = None
        self.problem: BaseException | None = None  # of the first result that can't be unpickled, if it *fails_late*
        self.on_end: Callable[[], object] | None = None
        self.patience = 0  # bytes of results that may wait before whoever wants them is woken
        self._undecoded = 0
        self._most = (math.inf, 0)  # bytes and number of results that may wait to be taken
        self.has_been_full: bool = False
        self.looks: int = 0  # of the engine, whether it is full
        self._came = self._went = (0.0, 0)  # bytes and number that ever came, and were taken; each has one writer
        self.delivered: int = 0  # items that have an outcome
        self.meter: Meter | None = None
        self.told: Callable[[int, int], object] | None = None  # called with the items that have ended, and failed

    @property
    def happened(self) -> bool:
        """Whether something arrived, or nothing more will."""
        return self.ended or self.moved or (bool(self.arrivals) and self._undecoded >= self.patience)

    def allow(self, nbytes: float, count: int) -> None:
        """From now on, so many bytes more than wait now may wait to be taken; and any so few results."""
        self._most = self._came[0] - self._went[0] + nbytes, count

    def holds_up(self) -> bool:
        """Whether nothing more should begin now; asked by the engine."""
        self.looks += 1
        return self.is_full()

    def is_full(self) -> bool:
        """Whether more waits to be taken than may."""
        (came, came_count), (went, went_count), (most, least) = self._came, self._went, self._most
        return came - went > most and came_count - went_count > least

    def hand_out(self, arrival: Arrival) -> None:
        """The results of an arrival are taken now."""
        self._went = _added(self._went, arrival)

    def took(self, arrival: Arrival) -> None:
        """An arrival has left the queue."""
        self._undecoded = 0
        if self.meter is not None:
            self.meter.count(arrival.done, len(arrival.failures))

    def begin(self, engine: Engine, job: Job, source: Input) -> None:
        """Called before anything is read."""

    def let_go(self) -> None:
        """Keep nothing that arrives: nobody wants it any more. Nor an error, whose traceback leads back here."""
        self.arrivals = deque(maxlen=0)
        self.failure = self._late = self.problem = None

    @staticmethod
    def load(items: Any) -> Any:
        """The arguments of *items*."""
        return list(items) if type(items) is Columns else items

    def started(self, items: Any) -> None:
        """A worker has these items."""

    @staticmethod
    def index(chunk: Chunk, offset: int) -> int:
        """The number of an item, from 0."""
        return chunk.start + offset

    def deliver(self, chunk: Chunk, done: int, results: Any, failures: dict[int, Failure]) -> None:
        """Take outcomes from the engine."""
        if failures and self.fails_late and chunk.start + min(failures) < self.first:
            self.first = chunk.start + min(failures)
            self._late = failures[min(failures)]
        nbytes = getattr(results, "nbytes", done * chunk.job.pace.result_nbytes)
        arrival = self.arrival(Arrival(chunk.start, done, results, failures, chunk.items, nbytes=nbytes), chunk)
        self._came = _added(self._came, arrival)
        self.has_been_full = self.has_been_full or self.is_full()
        for place, failed in failures.items():
            failed.tie = Tie(arrival.item(place))
        self.arrivals.append(arrival)
        self.delivered += done
        if self.told is not None:
            self.told(done, len(failures))
        self._undecoded += getattr(results, "nbytes", 0)
        if self._undecoded >= self.patience:
            self.fire()

    def arrival(self, arrival: Arrival, chunk: Chunk) -> Arrival:  # noqa: ARG002 - for those who add something
        """What is kept of the outcomes of a chunk."""
        return arrival

    def decode(self, arrival: Arrival, voice: Voice) -> Decoded:
        """The values of an arrival, the errors of items that failed, and those of results that can't be unpickled.

        `None` stands where there is an error.

        Raises:
            BaseException: what a signal handler raised meanwhile: nothing is lost, the arrival can be decoded again.
        """
        relay.drain()  # what was printed before comes first
        results = arrival.results
        problems: dict[int, BaseException] = {}
        values: list[Any]
        if results is None:
            values = [None] * arrival.done
        elif type(results) is list:
            values = results
            del values[arrival.done :]  # results of items that were taken back
        else:
            values = _decode_all(results, arrival.done) or _decode_each(arrival, problems)
        return values, {place: failure.told(voice) for place, failure in arrival.failures.items()}, problems

    def finish(self, failure: Failure | None, left: Iterable[Any]) -> None:  # noqa: ARG002 - the contract of a sink
        """Nothing more will arrive."""
        self.failure = failure or self._late
        if self.arrivals.maxlen is not None:  # let go, just before
            self.failure = None
        self.ended = True
        self.fire()
        on_end, self.on_end = self.on_end, None  # no cycle: what it holds shall not wait for the garbage collector
        if on_end is not None:
            on_end()


def _added(sums: tuple[float, int], arrival: Arrival) -> tuple[float, int]:
    nbytes, count = sums
    return nbytes + arrival.nbytes, count + (arrival.done if arrival.nbytes else 0)


def _decode_all(results: Any, count: int) -> list[Any] | None:
    try:
        values: list[Any] = results.values()
    except BaseException as error:
        if is_foreign(error):
            raise
        return None  # unpickling runs the user's code: find the one that fails
    if len(values) < count:  # a StopIteration ended it in silence
        return None
    del values[count:]
    return values


def _decode_each(arrival: Arrival, problems: dict[int, BaseException]) -> list[Any]:
    values: list[Any] = [None] * arrival.done
    for place in range(arrival.done):
        if place in arrival.failures:
            continue
        try:
            values[place] = arrival.results[place]
        except BaseException as error:  # noqa: BLE001 - the user's code; this item's own error
            problems[place] = unloadable(error, arrival.start + place)
            Tie(arrival.item(place)).bind(problems[place])
    return values


class Assembly:
    """Puts the arrivals of a finite batch in order."""

    def __init__(self, batch: Batch, *, return_exceptions: bool, voice: Voice = guarded) -> None:
        self._batch = batch
        self._return_exceptions = return_exceptions
        self._voice = voice
        self._first_refused = sys.maxsize  # number of the item
        self._parts: dict[int, list[Any]] = {}  # by the number of the first item
        self._guard = threading.RLock()  # several threads may ask a future: none shall do so while another decodes

    def take(self) -> int:
        """Decode what has arrived; returns how many outcomes that were."""
        count = 0
        arrivals = self._batch.arrivals
        while arrivals:
            try:
                arrival = arrivals[0]  # it stays until it is decoded: a signal handler may ask for all of them now
            except IndexError as gone:  # as one has done just before
                pass_on(gone)
                break
            values, errors, problems = self._batch.decode(arrival, self._voice)
            if problems and not self._return_exceptions:
                first = min(problems)
                self._refuse(arrival.start + first, problems.pop(first))
            for place, error in (errors | problems).items():
                values[place] = error
            # A signal may come between any two lines, and its handler, or whoever asks after it, do this once more.
            self._parts[arrival.start] = values
            count += arrival.done
            if arrivals and arrivals[0] is arrival:
                del arrivals[0]
                self._batch.took(arrival)
            if not self._batch.ended:
                time.sleep(0)  # lets the engine have the interpreter: its workers wait for it, this thread only decodes
        return count

    def _refuse(self, item: int, problem: BaseException) -> None:
        if not self._batch.fails_late:
            try:
                raise problem
            finally:
                del problem  # as in `Future.result`
        if item < self._first_refused:
            self._first_refused, self._batch.problem = item, problem

    def result(self) -> list[Any]:
        """All values in order.

        Raises:
            BaseException: the error that ended the batch.
        """
        batch = self._batch
        if batch.failure is None or batch.fails_late:
            with self._guard:
                self.take()
        if batch.failure is not None and batch.first <= self._first_refused:
            relay.drain()
            self._parts.clear()  # with errors, whose traceback may lead back here
            raise batch.failure.told(self._voice)
        if batch.problem is not None:
            raise batch.problem
        values: list[Any] = []
        for start in sorted(self._parts):
            values += self._parts[start]
        return values

    def __getitem__(self, _: int) -> list[Any]:
        """As the results of a pack: what a `Future` asks for its value."""
        return self.result()


class BatchFuture(Future[Any]):
    """The future of a whole batch."""

    def __init__(self, engine: Any, job: Any, function: Any) -> None:  # no engine where it has ended before it began
        self.lane = Origin(engine, function)  # type: ignore[assignment]  # it has none
        self._job = job
        self.args = None

    @property
    def _begun(self) -> bool:  # type: ignore[override]
        return self._job is not None and bool(self._job.read > self._job.waiting)

    @property
    def left(self) -> int:
        """How many items have no outcome yet."""
        return 0 if self.done() else int(self._job.read - self._job.sink.delivered)

    def stop(self, ledger: Ledger) -> bool:
        """Take the batch out of the ledger, in the engine's thread."""
        self.settle_cancelled()  # first: else the end of the batch would be that of this
        ledger.cancel(self._job, time.monotonic())
        return True
