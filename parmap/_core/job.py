"""What the scheduler cuts: a `Job` is a call, its `Piece`s wait, its `Chunk`s travel. Pure data, no policy."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from itertools import chain, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from parmap._core.pace import Pace
from parmap._travel.failure import Failure
from parmap._travel.vocabulary import Learner
from parmap._work.page import NO_LIMIT, Note
from parmap.errors import TaskTimeoutError

if TYPE_CHECKING:
    from parmap._work.report.watch import Passage, Watch
    from parmap._work.surroundings import Context
    from parmap.backends._base import Call, Died, Report


_start_of = attrgetter("start")


class Sink(Protocol):
    """Where the outcomes of a job go."""

    mode: str
    """How the function takes an item: see `_work.run.Callee`."""

    def load(self, items: Any) -> Any:
        """The arguments of *items*, as a sequence."""

    def started(self, items: Any) -> None:
        """A worker has these items."""

    def index(self, chunk: Chunk, offset: int, /) -> int | None:
        """The number of an item, as the user counts; `None` where there is none."""

    def deliver(self, chunk: Chunk, done: int, results: Any, failures: dict[int, Failure]) -> None:
        """Take the outcomes of the first *done* items of *chunk*."""

    def finish(self, failure: Failure | None, left: Iterable[Any]) -> None:
        """All outcomes were delivered, or *failure* ended the job with some items *left*."""


class Piece:
    """Consecutive items that wait; `items` is anything with a length that can be sliced."""

    def __init__(self, start: int, items: Any, *, careful: bool = False, strikes: int = 0, alone: bool = False) -> None:
        self._items = items
        self._taken = 0  # the items before are gone; they are not cut off, which would copy all the others each time
        self.start = start
        self.alone = alone  # a retry: its outcome fills a gap, so it travels by itself
        self.careful = careful
        self.strikes = strikes

    def __len__(self) -> int:
        return len(self._items) - self._taken

    @property
    def items(self) -> Any:
        """The items that wait."""
        return self._items[self._taken :] if self._taken else self._items

    def take(self, size: int) -> Any:
        """Take at most *size* items from the front."""
        if not self._taken and len(self._items) <= size:
            items = self._items
        else:
            items = self._items[self._taken : self._taken + size]
        self._taken += len(items)
        self.start += len(items)
        return items


class Job:
    """One call of `map` and its like, or the stream of all `submit` calls of one function."""

    owner: object = None  # what was called; others may share the pool
    watch: Watch | None = None  # tells the reports that are open
    timed: bool = False  # whether workers tell their times even so: for a report elsewhere
    waiting: int = 0  # items in pending
    read: int = 0  # items ever added
    appetite: int = 1  # items it would like to have waiting
    piles: bool = True  # whether its chunks may wait several on a worker, if they are brief
    closed: bool = False
    end: float | None = None  # when it is late
    late: Callable[[int], BaseException] | None = None  # the error of an item, by its number: nothing begins any more
    waits: Callable[[], bool] = staticmethod(bool)  # whether nothing is to begin: too much waits to be taken

    def __init__(
        self,
        call: Call,
        sink: Sink,
        *,
        pace: Pace | None = None,
        chunksize: int | None = None,
        timeout: float | None = None,
        retries: int = 0,
        retry_delay: float = 0.0,
        fail_fast: bool = False,
        open_end: bool = False,
        context: Context | None = None,
    ) -> None:
        self.call: Call = call
        self.sink: Sink = sink
        self.pace: Pace = pace or Pace()
        self.chunksize: int | None = chunksize
        self.timeout: float | None = timeout
        self.retries: int = retries
        self.retry_delay: float = retry_delay
        self.fail_fast: bool = fail_fast
        self.open_end: bool = open_end
        self.context: Context | None = context  # what its tasks see besides their arguments
        self.learner: Learner = Learner()  # a class is sent as it is when the first of its instances is
        self.pending: deque[Piece] = deque()  # by their numbers
        self.flight: set[Chunk] = set()
        self.delayed: dict[int, tuple[int, Any]] = {}  # the items that wait for a retry, with their numbers
        self.attempts: dict[int, list[Failure]] = {}
        self.dropped: set[Any] = set()  # items taken out of pending, as yet only by name

    def extend(self, items: Any) -> None:
        """Add items behind those that wait."""
        if self.late is None:
            self.pending.append(Piece(self.read, items))
            self.waiting += len(items)
        else:
            self.fail_late(self.read, items)
        self.read += len(items)

    def read_on(self, start: int, items: Any, *, last: bool) -> None:
        """Add items, but for those that it has: they begin with number *start*. *last*: no more will come."""
        known = self.read - start
        if known < 0:  # what would come before them, and does not, has its outcome already
            self.read, known = start, 0
        if len(items) > known:
            self.extend(items[known:] if known else items)
        self.open_end = self.open_end and not last

    def fail_late(self, start: int, items: Any, begun: int = 0) -> None:
        """Fail items without an outcome, of which a worker has *begun* so many: it is too late for them."""
        assert self.late is not None  # noqa: S101 - as said
        failures: dict[int, Failure] = {}
        for offset in range(len(items)):
            error = self.late(start + offset)
            failure = failures[offset] = Failure(error, own=not isinstance(error, TaskTimeoutError))
            failure.earlier, failure.begun = tuple(self.attempts.pop(start + offset, ())), offset < begun
        if self.watch is not None:
            self.watch.failed(len(failures), 0)
        if failures:
            self.sink.deliver(Chunk(self, start, items), len(failures), None, failures)

    def put_back(self, start: int, items: Any, *, careful: bool = False, strikes: int = 0, alone: bool = False) -> None:
        """Let items wait again, in front of all that come after them."""
        if self.late is not None and not self.closed:
            self.fail_late(start, items)
        elif len(items) and not self.closed:
            place = bisect_left(self.pending, start, key=_start_of)
            self.pending.insert(place, Piece(start, items, careful=careful, strikes=strikes, alone=alone))
            self.waiting += len(items)

    def take(self, size: int) -> Chunk | None:
        """Cut a chunk of at most *size* items from the front."""
        while self.pending:
            piece = self.pending[0]
            chunk = Chunk(self, piece.start, (), careful=piece.careful, strikes=piece.strikes, alone=piece.alone)
            items = self._take_from(piece, size)
            worth = size if type(items) is list else size // 2  # with others, a part of an array becomes a list
            joined = False
            while self.pending and len(items) < worth and _continues(self.pending[0], piece):
                items = items if joined else list(items)
                piece = self.pending[0]  # what comes next must go on where this one ends
                items.extend(self._take_from(piece, size - len(items)))  # by `+=` an array would be added to each
                joined = True
            self.waiting -= len(items)
            chunk.items = items
            if self.dropped:
                self._leave_out_dropped(chunk)
            if len(chunk.items):
                return chunk
        return None

    def _take_from(self, piece: Piece, size: int) -> Any:
        items = piece.take(size)
        if not len(piece):
            self.pending.popleft()
        return items

    def _leave_out_dropped(self, chunk: Chunk) -> None:
        """Leave the first run of items that nobody took out; what is behind waits again, so that numbers still hold."""
        items = chunk.items
        first = 0
        while first < len(items) and items[first] in self.dropped:
            self.dropped.discard(items[first])
            first += 1
        last = first
        while last < len(items) and items[last] not in self.dropped:
            last += 1
        chunk.put_back(last, strikes=chunk.strikes)
        chunk.items = items[first:last]
        chunk.start += first

    def deliver(self, chunk: Chunk, done: int, results: Any, failures: dict[int, Failure], missing: set[int]) -> None:
        """Hand over the outcomes of the first *done* items; those that are *missing* come later, each by itself."""
        if not missing:
            self.sink.deliver(chunk, done, results, failures)
            return
        for gap, end in pairwise([-1, *sorted(missing), done]):
            if (first := gap + 1) < end:
                mine = {place - first: failure for place, failure in failures.items() if first <= place < end}
                found = results and Share(results, range(first, end))
                self.sink.deliver(chunk.part(first, end), end - first, found, mine)

    def left(self) -> Iterable[Any]:
        """The items that have no outcome as yet, but for those that wait for a retry: a `range` may be long."""
        return chain(*[piece.items for piece in self.pending], *[chunk.items for chunk in self.flight])

    @property
    def arithmetic(self) -> tuple[tuple[Any, ...] | None, dict[str, str] | None]:
        """The arithmetic that its tasks see: `decimal`'s, and how numpy takes errors of floats."""
        return (None, None) if self.context is None else (self.context.told["decimal"], self.context.told["errors"])

    @property
    def is_done(self) -> bool:
        """Whether nothing waits, nothing runs and nothing can come."""
        return not (self.open_end or self.waiting or self.flight or self.delayed)


def add_stack(failure: Failure, death: Failure) -> None:
    """Give a timeout the stack that the worker left."""
    failure.account = death.account
    error, told = failure.exception(), death.exception()
    if isinstance(error, TaskTimeoutError):
        error.stack = getattr(told, "stack", "")
    for note in getattr(told, "__notes__", ()):
        error.add_note(note)


def too_late(what: str, seconds: float, item: int | None = None) -> TaskTimeoutError:
    """The error of what had not ended when the deadline of its batch passed."""
    message = f"the deadline of the batch, {seconds:g} seconds, passed before {what} had ended"
    return TaskTimeoutError(message, item=item, timeout=seconds)


def _continues(piece: Piece, before: Piece) -> bool:
    """Whether the items of *piece* may travel with those of *before*, which was used up, as one."""
    return (
        not len(before)
        and piece.start == before.start
        and piece.careful == before.careful
        and not (piece.alone or before.alone)
    )


class Chunk:
    """Consecutive tasks that travel together."""

    number: int = 0
    slot: Hashable = None
    sent: float = 0.0  # when it was sent, or came to be the first of its worker
    expected: float | None = None
    budget: float | None = None  # seconds after which it gives back what it has not started
    recalled: bool = False  # it was asked to give back what it has not started
    limit: int = NO_LIMIT  # what it was asked to stop before, for others to take that
    stop: int = NO_LIMIT  # the first of its items that was cancelled
    gone: tuple[tuple[int, int], ...] = ()  # items that it has no more, though it is in flight: from, to
    doomed: bool = False  # its worker is being killed for it
    stood: float = 0.0  # seconds of the item that runs which don't count: this program stood still
    passage: Passage | None = None  # tells reports of it
    note: Note | None = None  # in which a thread of this process says what it is doing
    verdict: tuple[int, Failure | None] | None = None  # the offset it is killed for, and how that item ends

    def __init__(
        self, job: Job, start: int, items: Any, *, careful: bool = False, strikes: int = 0, alone: bool = False
    ) -> None:
        self.job: Job = job
        self.start: int = start
        self.items: Any = items
        self.careful: bool = careful
        self.strikes: int = strikes
        self.alone: bool = alone

    def failures(self, report: Report) -> dict[int, Failure]:
        """What failed, by a report; with it what was late, for it may have ended since as if nothing had happened."""
        offset, failure = self.verdict or (0, None)
        return report.failures if failure is None or offset >= report.done else report.failures | {offset: failure}

    def charged(self, died: Died) -> Died:
        """A death as that of what was late, for something else may have begun since."""
        offset, failure = self.verdict or (0, None)
        return died if failure is None else died._replace(number=self.number, offset=offset, length=1)

    def put_back(self, first: int, end: int | None = None, *, careful: bool = False, strikes: int = 0) -> None:
        """Let the items from *first* to *end* wait again, as what they are."""
        careful = careful or self.careful
        for begin, stop in reversed(self.left(first, len(self.items) if end is None else end)):
            items = self.items[begin:stop]
            self.job.put_back(self.start + begin, items, careful=careful, strikes=strikes, alone=self.alone)

    def part(self, first: int, end: int) -> Chunk:
        """The items from *first* to *end*, which have an outcome of their own."""
        return Chunk(self.job, self.start + first, self.items[first:end], alone=self.alone)

    def left(self, first: int, end: int) -> list[tuple[int, int]]:
        """What it still has of the items from *first* to *end*."""
        left = []
        for begin, stop in sorted(self.gone):
            if first < min(begin, end):
                left.append((first, min(begin, end)))
            first = max(first, stop)
        return [*left, (first, end)] if first < end else left


class Share:
    """The results of some items of several that travelled together."""

    def __init__(self, results: Any, places: range) -> None:
        self._results = results
        self._places = places

    def values(self) -> list[Any]:
        """All of them, decoded."""
        return [self._results[place] for place in self._places]

    def __getitem__(self, place: int) -> Any:
        return self._results[self._places[place]]
