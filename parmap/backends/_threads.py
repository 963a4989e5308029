"""Worker threads of this process: nothing is pickled, nothing can be killed; parallel on free-threaded builds."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import ref

from parmap._core.pace import Cost
from parmap._travel.failure import IN_INITIALIZER, note, translate
from parmap._work import place as _place
from parmap._work.page import Note
from parmap._work.per_worker import Worker, here
from parmap._work.settings.arithmetic import choose
from parmap._work.threads import start_thread, undisturbed
from parmap.backends._base import Backend, Broken, Died, Event, Ready, Report, Story, run_here

if TYPE_CHECKING:
    from threading import Thread

    from parmap._calls.options import Options
    from parmap._core.job import Chunk

_GRACE = 5.0  # seconds that an idle thread may take to close what it has made


class Threads(Backend):
    """Runs chunks in threads."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.crew: Callable[[], object] | None = ref(self)
        self.cost: Cost = Cost(aim=0.005, depth=2, most=0.01)
        self._names = count(1)
        self._spare: deque[tuple[int, queue.SimpleQueue[Any], Thread]] = deque()  # wait for their number
        self._is_over = False
        self._queues: dict[Hashable, queue.SimpleQueue[Any]] = {}
        self._threads: dict[Hashable, tuple[int, Thread]] = {}  # each with its number
        self._running: set[int] = set()  # numbers of chunks
        self.announces: bool = options.initializer is not None
        self._beginning: set[Hashable] = set()  # their initializer has not ended, and may never do so
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def expect(self, function: Any, count: int) -> None:  # noqa: ARG002 - the contract
        """Start threads in that of the caller: from 3.12 on, when the program has come to its end, nobody else can."""
        if len(self._threads) < count:
            with suppress(RuntimeError):  # told by `grow`
                undisturbed(lambda: self._start_spare(count))

    def _start_spare(self, count: int) -> None:
        try:
            while len(self._spare) + len(self._threads) < count:
                self._spare.append(self._born())
        finally:
            if self._is_over:  # seen here: who waits for this may be interrupted, and stop the pool meanwhile
                self._drop_spare()

    def _born(self) -> tuple[int, queue.SimpleQueue[Any], Thread]:
        tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        name = next(self._names)
        return name, tasks, start_thread(f"parmap-worker-{name}", self._live, name, tasks)

    def _drop_spare(self) -> None:
        while self._spare:
            with suppress(IndexError):  # another thread was quicker
                self._spare.popleft()[1].put(None)

    def grow(self, count: int) -> list[Hashable]:
        """Start threads."""
        started: list[Hashable] = []
        self._threads = {name: known for name, known in self._threads.items() if known[1].is_alive()}
        for _ in range(count):
            try:
                name, tasks, thread = self._spare.popleft() if self._spare else self._born()
            except RuntimeError as error:
                if not self._queues:  # else those that are there do the work
                    self._events.put(Broken(error))
                break
            index = min({*range(len(self._threads) + 1)} - {taken for taken, _ in self._threads.values()})
            if self.announces:
                self._beginning.add(name)
            tasks.put((index, self._events))
            self._queues[name], self._threads[name] = tasks, (index, thread)
            started.append(name)
        return started

    def _live(self, name: int, tasks: queue.SimpleQueue[Any]) -> None:
        if (begin := tasks.get()) is None:
            return
        index, events = begin
        try:
            self._work(name, index, tasks, events)
        except BaseException as error:  # noqa: BLE001 - raised by another thread, as recipes for ending one do
            events.put(Died(name, 0, 0, 1, Story("the thread was ended from outside", error).tell))

    def _work(self, name: int, index: int, tasks: queue.SimpleQueue[Any], events: queue.SimpleQueue[Any]) -> None:
        here.begin(Worker(index, self.options.workers))
        _place.thread.crew = ref(self)
        is_ready = not self.announces or self._initialize(name, events)
        while (task := tasks.get()) is not None and is_ready:
            try:
                event: Event = run_here(*task)
            except BaseException as error:  # noqa: BLE001 - of an error that lets nobody see it: who waits shall hear of that
                event = Broken(error)
            events.put(event)
            del task, event
            here.keeper.purge()
        here.keeper.close_all()

    def _initialize(self, name: int, events: queue.SimpleQueue[Any]) -> bool:
        assert self.options.initializer is not None  # noqa: S101 - else there is nothing to announce
        problem: BaseException | None = None
        try:
            self.options.initializer(*self.options.initargs)
            choose()
            here.keeper.prepared[self.options.pool_key] = self.options
        except BaseException as error:  # noqa: BLE001 - the user's code; its error fails the call
            problem = translate(error)
            note(problem, IN_INITIALIZER)
        self._beginning.discard(name)
        events.put(Ready(name) if problem is None else Broken(problem))
        return problem is None

    def start(self, chunk: Chunk, mode: str) -> int:
        """Hand a chunk to its thread."""
        chunk.note = Note()
        self._running.add(chunk.number)
        self._queues[chunk.slot].put((chunk, mode))
        chunk.job.sink.started(chunk.items)
        return len(chunk.items)

    def retire(self, slot: Hashable) -> None:
        """Let a thread end."""
        self._threads[slot] = -1, self._threads[slot][1]  # its number is free for the one that takes its place
        self._queues.pop(slot).put(None)

    def wait(self, timeout: float | None) -> list[Event]:
        """Sleep until a thread has something to say."""
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return []
        if isinstance(event, Report):
            self._running.discard(event.number)
        elif isinstance(event, Died):
            self._queues.pop(event.slot, None)
        elif isinstance(event, Broken):  # the next call begins anew
            self.close()
        return [] if event is None else [event]

    def wake(self) -> None:
        """Interrupt `wait`."""
        self._events.put(None)

    def close(self) -> None:
        """Let all threads end; one that runs a task ends after it, and nobody waits for it."""
        self._drop_spare()
        for tasks in self._queues.values():
            tasks.put(None)
        if not self._running:  # what they close may take a moment
            for name, (_, thread) in self._threads.items():
                if name not in self._beginning:
                    thread.join(_GRACE)
        self._queues.clear()
        self._threads.clear()
        self._running.clear()
        self._events = queue.SimpleQueue()  # those that end later have nothing to say

    def finish(self) -> None:
        """Nobody needs threads any more."""
        self._is_over = True
        self._drop_spare()
