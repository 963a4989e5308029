"""The contract of a backend: start a chunk, stop it, say how it ended.

A backend decides nothing: which items run where and when, and what becomes of an error, is the scheduler's business.
All methods are called by the engine's thread, except those that calls need: `expect`, `prepare`, `witness`,
`item_classes`, `try_quickly`, `let_wait` and `wake`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from parmap._core.owners import Owners
from parmap._core.pace import BYTE_CAP, Cost, Pace
from parmap._travel.failure import Failure, note, put, translate, unframed
from parmap._travel.pack import EACH, Pack, Packed
from parmap._travel.payload import pack
from parmap._travel.text import call_note
from parmap._work.page import Note
from parmap._work.report.clock import Clock, Times
from parmap._work.run import Callee, Rules, Terms, run
from parmap._work.settings.arithmetic import arithmetic
from parmap._work.surroundings import warning_as
from parmap.errors import WorkerDiedError

if TYPE_CHECKING:
    from weakref import ReferenceType

    from parmap._calls.options import Options
    from parmap._core.job import Chunk
    from parmap._engine.lane import Lane
    from parmap._results.futures import Future
    from parmap._travel.code.classes import Classes
    from parmap._work.outcome import Outcome


AUTO = "auto"
"""What `preload` says by default: what the functions of calls need is imported once for all workers."""


class Call:
    """A function made ready to run: what all chunks of it share."""

    stable = True
    """Whether the function can be prepared once and for all: what it captures can't change unseen."""
    holds = True
    """Whether the function itself is held."""

    def __init__(self, callee: Callee) -> None:
        self.callee = callee
        self.pace: Pace = Pace()


class Report(NamedTuple):
    """A chunk came back: outcomes of its first `done` items; the worker did not start the others."""

    number: int
    done: int
    results: Any
    failures: dict[int, Failure]
    seconds: float
    times: Times | None = None
    """What became of its time, where somebody wants to know."""


class Died(NamedTuple):
    """A worker is gone."""

    slot: Hashable
    number: int
    """The chunk it was in; 0: in none."""
    offset: int
    length: int
    explain: Callable[[Chunk | None, int], Failure]
    """Tells the death of the item at an offset of a chunk."""
    tasks: tuple[tuple[Future[Any], bool], ...] = ()
    """The tasks that callers had given it, and whether it had begun them."""
    starting: bool = False
    """Whether it was not ready to work yet: then no task is to blame."""


class Broken(NamedTuple):
    """No worker can be had: why."""

    error: BaseException


class Ready(NamedTuple):
    """A worker has started."""

    slot: Hashable
    since: int = 0
    """When its start began: nanoseconds of the monotonic clock."""


class Lost(NamedTuple):
    """A chunk is lost, not its worker."""

    number: int
    length: int
    """How many of its items may be the reason; 0: nobody can tell."""
    explain: Callable[[Chunk | None, int], Failure]
    given_up: bool = False
    """Whether that was tried several times, by who gives it up."""


class Part(NamedTuple):
    """Some items of a chunk have come back, while others run."""

    number: int
    start: int
    length: int
    has_run: bool
    """Whether they have outcomes; else no worker has begun them."""
    results: Any = None
    failures: dict[int, Failure] = {}  # noqa: RUF012 - never changed
    seconds: float = 0.0
    times: Times | None = None


class Capacity(NamedTuple):
    """There may be more workers, or fewer, or a chunk costs something else."""

    workers: int
    cost: Cost


Event = Report | Died | Broken | Ready | Lost | Part | Capacity


class Backend(ABC):
    """A way to run chunks."""

    cost: Cost
    kills: bool = False
    """Whether running work can be stopped."""
    packs: bool = False
    """Whether arguments are pickled."""
    imports: bool = False
    """Whether its workers import the program's modules by themselves."""
    has_files: bool = False
    """Whether the files of this machine are there for its workers."""
    leases: bool = False
    """Whether callers may give idle workers single tasks."""
    announces: bool = False
    """Whether its workers are told of when they are `Ready`; else they are at once."""
    threaded: bool = True
    """Whether an engine thread drives it; otherwise whoever waits does."""
    at_work: bool = False
    """Whether a task runs just now in the thread of whoever waits."""
    edition: int | None = None
    """Of the modules that its workers import (see `_work.imports`); `None`: they have those of the program."""
    deaf: bool = False
    """Whether the engine thread leaves signals to the program's own: it starts no process for anybody else."""
    crew: Callable[[], object] | None = None
    """Finds what has the threads of this process that run its tasks, if such run them."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.lanes: Owners[Lane | ReferenceType[Lane]] = Owners()
        """Where the tasks of functions wait that were submitted here."""
        self.post: Callable[[Callable[[], object] | Future[Any]], object]
        """Set by the engine: leaves a note for its thread."""

    def expect(self, function: Any, count: int) -> None:
        """A function will be called soon, on *count* workers: what they need may be made ready. By any thread."""

    def prepare(self, function: Any, rules: Rules) -> Call:
        """Make a function ready to run, as it is now."""
        return Call(Callee(function, rules))

    def witness(self, function: Any, call: Call) -> Callable[[tuple[Any, ...]], bool] | None:  # noqa: ARG002
        """What tells quickly whether a function is still as it was when prepared as *call*, if anything can."""
        return None

    def item_classes(self, call: Call) -> Classes | None:  # noqa: ARG002 - the contract
        """How classes travel that items have and that go by value, where they need not travel with each item."""
        return None

    @abstractmethod
    def grow(self, count: int) -> list[Hashable]:
        """Start up to *count* more workers; returns the names of their slots, which may take chunks at once."""

    @abstractmethod
    def start(self, chunk: Chunk, mode: str) -> int:
        """Start a chunk on its slot; returns how many of its items were taken (at least one)."""

    def position(self, chunk: Chunk) -> tuple[int, int, float] | None:
        """Offset and number of the items of *chunk* that run now, and for how many seconds; `None`: not started."""
        return None if chunk.note is None else chunk.note.position()

    def recall(self, chunk: Chunk, limit: int) -> None:
        """Ask the worker to give back the items of *chunk* from *limit* on, without stopping what runs."""
        if chunk.note is not None:
            chunk.note.recall(limit)

    def cut(self, chunk: Chunk) -> None:
        """Several items of *chunk* run as one: let no other begin, and let `position` tell which one runs, soon."""
        if chunk.note is not None:
            chunk.note.cut()

    def stop(self, slot: Hashable, *, dump: bool = False) -> None:
        """Kill a worker; with `dump`, its stack is written into its log first."""

    def retire(self, slot: Hashable) -> None:
        """Let an idle worker go."""

    def memory(self, slot: Hashable) -> int:  # noqa: ARG002 - the contract
        """Bytes that a worker has in memory; 0: nobody can tell."""
        return 0

    @abstractmethod
    def wait(self, timeout: float | None) -> Iterable[Event]:
        """Wait up to *timeout* seconds for events, or until `wake`."""

    def let_wait(self, wait: Callable[[float | None], bool], timeout: float | None) -> bool:
        """Wait in a thread of the user's, by calling *wait* with seconds until it says true; only asked of clusters."""
        return wait(timeout)

    @abstractmethod
    def wake(self) -> None:
        """Make `wait` return; from any thread."""

    def lease(self, slot: Hashable) -> bool:  # noqa: ARG002 - the contract
        """Let callers give an idle worker single tasks, from now on until `unlease`. False if they can't."""
        return False

    def unlease(self, slot: Hashable) -> bool:  # noqa: ARG002 - the contract
        """Take a worker back; false while it has a task of a caller's, whose end will make `wait` return."""
        return True

    def look_after_leases(self) -> bool:
        """See to what callers may have left unfinished; false if nothing has been in flight since the last time."""
        return False

    def leased(self) -> list[tuple[Hashable, int, Future[Any]]]:
        """The tasks that callers have given to workers, each with its slot and number."""
        return []

    def listen(self, future: Future[Any]) -> None:
        """Hear the answer to a task that a caller has started, since nobody may be reading it."""

    def try_quickly(self, call: Call, future: Future[Any]) -> bool:  # noqa: ARG002 - the contract
        """Start one task from the calling thread, on a leased worker; false: the engine has to do it."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Stop all workers. The backend can be used again afterwards."""

    def finish(self) -> None:
        """Give back everything that `close` leaves for the next use."""

    def abandon(self) -> None:
        """Forget all workers: they belong to the process that this one was forked from."""


class Story:
    """How a worker died, or a chunk was lost."""

    account: tuple[float | None, int | None] = None, None
    """How long the item had run, and on which worker, where that is known."""

    def __init__(self, message: str, cause: BaseException | None = None, **facts: Any) -> None:
        """*facts*: what else the error tells."""
        self._make = partial(WorkerDiedError, message, **facts)
        self._cause = cause

    def tell(self, chunk: Chunk | None, offset: int) -> Failure:
        """The failure of the item at *offset* of *chunk*."""
        error = self._make(item=None if chunk is None else chunk.job.sink.index(chunk, offset))
        error.__cause__ = self._cause
        if chunk is None:
            return Failure(error)
        error.add_note(note_of(chunk, offset))
        failure = Failure(error, retry=chunk.job.call.callee.retries(error))
        failure.account = self.account
        return failure


def note_of(chunk: Chunk, offset: int) -> str:
    """The note that says which call of *chunk* it was that ended here, and not where it ran."""
    sink = chunk.job.sink
    item = sink.load(chunk.items[offset : offset + 1])[0]
    mode = "" if type(item) is Packed else sink.mode  # not to be unpickled here: that may be what ended the worker
    return call_note(chunk.job.call.callee.function, mode, item, sink.index(chunk, offset))


def terms_of(chunk: Chunk, mode: str) -> Terms:
    """How the items of a chunk are to be run."""
    job = chunk.job
    start = -1 if job.sink.index(chunk, 0) is None else chunk.start
    careful = chunk.careful or job.timeout is not None
    return Terms(mode, start, chunk.budget, careful, job.fail_fast and not job.retries)


def packed(chunk: Chunk, items: Any, *, single: bool = False) -> tuple[Pack, dict[int, BaseException]]:
    """The *items* of a chunk as they travel, or as many of them as fit, and the errors of those that can't."""
    job = chunk.job
    try:
        payload, unsent = pack(items, BYTE_CAP, job.learner, single=single)
    except Exception as error:  # noqa: BLE001 - user code may raise anything: the first item pays, the rest goes on
        payload, unsent = Pack(EACH, 1, b"", [0]), dict[int, BaseException]({0: error})
    for index, problem in unsent.items():
        put(unframed(problem), "item", job.sink.index(chunk, index))
        note(problem, note_of(chunk, index) + ": its arguments can't be sent")
    job.call.pace.learn_bytes(payload.count, payload.nbytes)
    return payload, unsent


def failures_of(told: Any, unsent: dict[int, BaseException], done: int) -> dict[int, Failure]:
    """What the first *done* items failed with: as their worker has *told*, or since they could not be sent."""
    found = {index: Failure(encoded=encoded, retry=retry) for index, encoded, retry in told}
    return found | {index: Failure(error) for index, error in unsent.items() if index < done}


def run_here(chunk: Chunk, mode: str, passes: tuple[type[BaseException], ...] = ()) -> Report:
    """Run a chunk in this process; *passes*: what is raised instead of being an outcome."""
    job, note = chunk.job, chunk.note
    clock = None if chunk.passage is None else Clock()
    with arithmetic(*job.arithmetic), warning_as(job.context):
        outcome = run(
            job.call.callee,
            terms_of(chunk, mode),
            job.sink.load(chunk.items),
            len(chunk.items),
            page=clock.page(note or Note()) if clock else note,
            passes=passes,
        )
    try:
        return _report_of(chunk, outcome, None if clock is None else clock.times(outcome, packs=False))
    finally:  # the traceback of an error has this frame, and shall not find the error in it: see `let_go`
        outcome.let_go()
        del chunk, job


def _report_of(chunk: Chunk, outcome: Outcome, times: Times | None) -> Report:
    failures = {}
    for index, error in outcome.errors.items():
        public = translate(error, chunk.job.sink.index(chunk, index))
        failures[index] = Failure(public, retry=chunk.job.call.callee.retries(error, public))
    results = [*outcome.results] if failures else outcome.results  # in this one errors will stand
    return Report(chunk.number, outcome.done, results, failures, outcome.nanoseconds / 1e9, times)
