"""Any `concurrent.futures.Executor` as a backend: a chunk is one call of a function that everybody can import."""

from __future__ import annotations

import concurrent.futures
import os
import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from contextlib import nullcontext
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from weakref import ref

from parmap._core.pace import Cost
from parmap._travel.broadcast import found
from parmap._travel.code.by_name import reference
from parmap._travel.code.classes import be_guest
from parmap._travel.payload import dump_call, pack
from parmap._travel.stream import is_sent
from parmap._work import place as _place
from parmap._work.outcome import Outcome, pack_results, tell_failures
from parmap._work.page import Note
from parmap._work.per_worker import Here, PerWorker, Worker, arrive, here
from parmap._work.report.clock import Clock, Times
from parmap._work.run import Callee, Rules, Terms, run
from parmap._work.settings.arithmetic import arithmetic
from parmap.backends._base import (
    Backend,
    Broken,
    Call,
    Capacity,
    Died,
    Event,
    Lost,
    Report,
    Story,
    failures_of,
    packed,
    run_here,
    terms_of,
)
from parmap.backends._broken import is_broken, made_again
from parmap.backends._clusters.wire import Wire, from_wire, to_wire
from parmap.backends._seats import name_of_seats, numbers_of_threads, take_seat
from parmap.errors import PoolClosedError, WorkerDiedError

if TYPE_CHECKING:
    from parmap._calls.options import Options
    from parmap._core.job import Chunk
    from parmap._travel.pack import Packed

_HOME = (os.urandom(8), os.getpid())
"""Which process this is: a fork has another number, an interpreter in the same process other random bytes."""

SEED_REFUSED = "seed sets the global random state, which threads share: use another backend, or a generator per item"

_STANDARD = {"concurrent.futures.thread", "concurrent.futures.process"}  # both have threads that a fork loses
_left_behind: list[Any] = []  # executors that the process had used which this one was forked from

_FUNCTIONS, _BYTES = 32, 32 << 20  # what a worker keeps, at most


class _Broke(NamedTuple):
    """An executor is broken, by one of the chunks that it had."""

    executor: concurrent.futures.Executor
    error: BaseException


class _Flight(NamedTuple):
    """A chunk that the executor has."""

    future: concurrent.futures.Future[Any]
    taken: int
    executor: concurrent.futures.Executor


class ExecutorCall(Call):
    """A function as it travels with each chunk."""

    def __init__(self, callee: Callee, packed: Packed, *, stable: bool) -> None:
        super().__init__(callee)
        self.wire: Wire = to_wire(pack([packed])[0])
        self.needs: tuple[Any, ...] = packed.needs
        self.stable = stable


class Executors(Backend):
    """Runs chunks on an executor, which belongs to the user and is never shut down."""

    def __init__(self, options: Options, executor: concurrent.futures.Executor) -> None:
        super().__init__(options)
        if any(each is executor for each in _left_behind):
            raise PoolClosedError(
                "this executor belongs to the parent process: its threads are not in a process made by os.fork()"
            )
        self.packs: bool = not shares_our_objects(executor)
        self.crew: Callable[[], object] | None = None if self.packs else ref(executor)
        self.cost: Cost = Cost(aim=0.02 if self.packs else 0.005, depth=2, recalls=not self.packs)
        self._executor = executor
        self._own: concurrent.futures.Executor | None = None  # made in the place of one that was broken
        self._is_suspicious = False  # chunks go one by one, until the one is found that breaks it
        self._names = count(1)
        self._chunks: dict[int, _Flight] = {}
        self._events: queue.SimpleQueue[Event | _Broke | None] = queue.SimpleQueue()

    def prepare(self, function: Any, rules: Rules) -> Call:
        """Pickle a function as it is now, where it has to travel."""
        if not self.packs:
            return super().prepare(function, rules)
        return ExecutorCall(Callee(function, rules), dump_call(function, rules), stable=reference(function)[2])

    def grow(self, count: int) -> list[Hashable]:
        """The workers are the executor's: a slot is leave to give it one more chunk."""
        return [next(self._names) for _ in range(count)]

    def start(self, chunk: Chunk, mode: str) -> int:
        """Submit a chunk."""
        unsent: dict[int, BaseException] = {}
        taken = len(chunk.items)
        if self._is_suspicious and not (chunk.careful or chunk.strikes):
            self._is_suspicious = False
            self._events.put(Capacity(self.options.workers, self.cost))
        try:
            if self.packs:
                call = cast("ExecutorCall", chunk.job.call)
                items = chunk.job.sink.load(chunk.items[:1] if chunk.careful else chunk.items)
                payload, unsent = packed(chunk, items)
                taken = payload.count
                factories = _factories((*call.needs, *payload.needs))
                seats, timed = name_of_seats(self._executor), chunk.passage is not None
                what = _HOME, factories, call.wire, to_wire(payload), terms_of(chunk, mode)
                future = self._submit(run_packed, *what, chunk.job.arithmetic, timed, seats)
                if chunk.passage is not None:
                    chunk.passage.gone(payload.nbytes)
            else:
                chunk.note = Note()
                future = self._submit(_run_in_thread, chunk, mode, self._executor)
        except Exception as error:  # noqa: BLE001 - each executor has errors of its own for being closed or broken
            self._events.put(Broken(_refused(error)))
            return taken
        self._chunks[chunk.number] = _Flight(future, taken, self._executor)
        chunk.job.sink.started(chunk.items)
        executor = self._executor

        def tell(future: concurrent.futures.Future[Any]) -> None:
            error = None if future.cancelled() else future.exception()
            broke = isinstance(error, concurrent.futures.BrokenExecutor) and is_broken(executor)
            self._events.put(_Broke(executor, error) if broke else self._tell(chunk, taken, unsent, future))  # type: ignore[arg-type]  # there is an error, then

        future.add_done_callback(tell)
        return taken

    def _submit(self, *call: Any) -> concurrent.futures.Future[Any]:
        try:
            return self._executor.submit(*call)
        except concurrent.futures.BrokenExecutor:
            if not self._make_again():
                raise
        return self._executor.submit(*call)

    def _make_again(self) -> bool:
        """Go on with a new executor, if the one that is broken can be made again."""
        made = made_again(self._executor) if is_broken(self._executor) else None
        if made is None:
            return False
        if self._own is not None:
            self._own.shutdown(wait=False)
        self._executor = self._own = made
        return True

    def _recover(self, broke: _Broke) -> list[Event]:
        """Run what was lost again, one by one if it was more than one item: whoever then breaks the executor pays."""
        lost = {
            number: flight
            for number, flight in self._chunks.items()
            if flight.executor is broke.executor and not _has_result(flight.future)
        }
        if not lost:  # told by another of them before
            return []
        for number in lost:
            del self._chunks[number]
        if broke.executor is self._executor and not self._make_again():
            return [Broken(_refused(broke.error))]
        story = Story(f"the executor lost the task: {type(broke.error).__name__}: {broke.error}", broke.error)
        is_found = len(lost) == 1
        events: list[Event] = [
            Lost(number, flight.taken if is_found or flight.taken > 1 else 0, story.tell)
            for number, flight in sorted(lost.items(), reverse=True)
        ]
        if not is_found:
            self._is_suspicious = True
            events.append(Capacity(1, self.cost._replace(depth=1)))  # one in flight, when all are free
        return events

    def _tell(
        self, chunk: Chunk, taken: int, unsent: dict[int, BaseException], future: concurrent.futures.Future[Any]
    ) -> Event:
        """What became of a chunk; in whatever thread the executor tells it."""
        if future.cancelled():
            return Report(chunk.number, 0, None, {}, 0.0)
        error = future.exception()
        if error is not None:
            story = Story(f"the executor lost the task: {type(error).__name__}: {error}", error)
            return Died(chunk.slot, chunk.number, 0, taken, story.tell)
        if not self.packs:
            report: Report = future.result().pop()
            return report
        done, results, failures, seconds, *times = future.result()
        found = failures_of(failures, unsent, done)
        return Report(chunk.number, done, from_wire(results), found, seconds, Times(*times) if times else None)

    def position(self, chunk: Chunk) -> tuple[int, int, float] | None:
        """Elsewhere than in this process, all of a chunk may be running."""
        if not self.packs:
            return super().position(chunk)
        flight = self._chunks.get(chunk.number)
        has_begun = flight is not None and (flight.future.running() or flight.future.done())
        return (0, len(chunk.items), 0.0) if has_begun else None

    def recall(self, chunk: Chunk, limit: int) -> None:
        """Take a chunk back that has not begun."""
        super().recall(chunk, limit)
        flight = self._chunks.get(chunk.number)
        if flight is not None and limit == 0:
            flight.future.cancel()

    def wait(self, timeout: float | None) -> list[Event]:
        """Sleep until a chunk has ended."""
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return []
        if isinstance(event, _Broke):
            return self._recover(event)
        if isinstance(event, (Report, Died)):
            self._chunks.pop(event.number, None)
        return [] if event is None else [event]

    def wake(self) -> None:
        """Interrupt `wait`."""
        self._events.put(None)

    def abandon(self) -> None:
        """Use an executor of the parent's no more, if it can't be: it would wait for its threads for ever."""
        if any(each.__module__ in _STANDARD for each in type(self._executor).__mro__):
            _left_behind.append(self._executor)

    def close(self) -> None:
        """Take back what has not begun. The executor stays."""
        for flight in list(self._chunks.values()):
            flight.future.cancel()
        self._chunks.clear()

    def finish(self) -> None:
        """End what was made in the place of a broken executor."""
        if self._own is not None:
            self._own.shutdown()
            self._own = None


def _has_result(future: concurrent.futures.Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def shares_our_objects(executor: concurrent.futures.Executor) -> bool:
    """Whether tasks of *executor* run in this interpreter."""
    apart = getattr(concurrent.futures, "InterpreterPoolExecutor", ())
    return isinstance(executor, concurrent.futures.ThreadPoolExecutor) and not isinstance(executor, apart)


def _run_in_thread(chunk: Chunk, mode: str, executor: concurrent.futures.Executor) -> list[Report]:
    """Run a chunk; its report can be taken out of what the thread gives, whose frames are those of its errors."""
    if here.is_of_process:
        _place.thread.crew = ref(executor)
        numbers = numbers_of_threads(executor)
        index, most = (next(numbers[0]), numbers[1]) if numbers else (0, 0)
        here.begin(Worker(index, most) if index < most else None)
    here.keeper.purge()
    return [run_here(chunk, mode)]


def _factories(needs: Iterable[Any]) -> dict[bytes, tuple[bool, Wire]]:
    """The factories of the tokens among *needs*, and of what these need."""
    factories: dict[bytes, tuple[bool, Wire]] = {}
    for token in needs:
        if is_sent(token) and (packed := token.packed) is not None:
            factories |= _factories(packed.needs)
            factories[token.token] = type(token) is PerWorker, to_wire(pack([packed])[0])
    return factories


def _refused(error: BaseException) -> BaseException:
    if isinstance(error, concurrent.futures.BrokenExecutor):
        told: BaseException = WorkerDiedError(f"the executor is broken: {error}")
    else:
        told = PoolClosedError(f"the executor takes no more work: {error}")
    told.__cause__ = error
    return told


# --- in a worker of the executor ------------------------------------------------------------------------------------

_callees: dict[bytes, Callee] = {}
_turn = threading.RLock()  # a worker may have several threads, which share the state that a seed sets


def run_packed(
    home: tuple[bytes, int],
    factories: dict[bytes, tuple[bool, Wire]],
    function: Wire,
    payload: Wire,
    terms: Terms,
    numbers: tuple[tuple[Any, ...] | None, dict[str, str] | None],
    timed: bool,
    seats: tuple[str, int] | None,
) -> tuple[Any, ...]:
    """Run a chunk: how many items were done, their results, their failures, its seconds, its times."""
    is_home = home == (_HOME[0], os.getpid())
    if not is_home and not _place.in_worker:
        _place.in_worker = True
        Here.worker = None
        be_guest()
    if not is_home and Here.worker is None and seats is not None:
        Here.worker = take_seat(*seats)
    begin = time.monotonic()
    clock = Clock() if timed else None
    items = from_wire(payload)
    values: list[Any] = []  # they are here as long as something holds them
    try:
        for token, (makes, wire) in factories.items():
            values.append((arrive if makes else found)(token, lambda wire=wire: from_wire(wire)[0]))  # type: ignore[misc]
        callee = _callee(function)
        if is_home and callee.rules.seed is not None:
            raise ValueError(SEED_REFUSED)  # noqa: TRY301 - told like what else is wrong with the call
    except BaseException as error:  # noqa: BLE001 - importing and unpickling run the user's code
        callee, outcome = Callee(None, Rules(())), Outcome.failed(error, items.count)
    else:
        with arithmetic(*numbers), nullcontext() if callee.rules.seed is None else _turn:
            page = None if is_home else Note()  # with one it is noticed when a task forks
            outcome = run(callee, terms, clock.items(items) if clock else items, items.count, page=page)
    results, unsent = pack_results(outcome.results)
    failures = tell_failures(callee, terms, items, outcome.errors, unsent)
    outcome.let_go()
    unsent.clear()
    times = clock.times(outcome, shared=False) if clock else ()
    return outcome.done, to_wire(results), failures, time.monotonic() - begin, *times


def _callee(wire: Wire) -> Callee:
    key = b"".join((wire.stream, *wire.buffers))
    callee = _callees.get(key)
    if callee is None:
        find, args, rules = from_wire(wire)[0]
        callee = _callees[key] = Callee(find(*args), rules)
        kept = [*_callees]  # in one step: other threads may do the same at this moment
        while len(kept) > _FUNCTIONS or (len(kept) > 1 and sum(map(len, kept)) > _BYTES):
            _callees.pop(kept.pop(0), None)
    return callee
