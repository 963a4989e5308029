"""Interrupts one call wherever CPython could, in turn, and looks whether all is well after each.

    python injection.py CASE SIGNAL[,SIGNAL] HOW FOLDER

CPython looks for signals when a function begins, at backward jumps and after calls: at these places, and no others, in
all Python code that the main thread runs during the call. SIGNAL is SIGINT, which raises KeyboardInterrupt, SIGALRM,
which raises an error that many handlers of errors would take for theirs, or SIGUSR1, whose handler submits a task and
waits for it. HOW is `every` (place), `pairs` (two places of one call, at random), or
`some` (places at random, where each try is dear). It prints what was wrong, and exits with 1 if anything was.
"""

from __future__ import annotations

import _weakrefset
import asyncio
import dis
import faulthandler
import functools
import gc
import os
import random
import signal
import sys
import threading
import time
import weakref
from collections import Counter
from inspect import CORO_CREATED, getcoroutinestate
from itertools import count
from typing import TYPE_CHECKING, Any

import psutil
import tasks_that_count

import parmap
from conftest import children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

PATIENCE = 15.0  # seconds for one try, the pool's answer included
SOME = 10  # tries, where each is dear
DEAF = {"__del__", "__length_hint__"}
"""Functions in which Python itself ignores what is raised, or takes it for its own error: there, a TypeError."""
CALLBACKS = {("finalize.__call__", weakref.__file__), ("WeakSet.__init__.<locals>._remove", _weakrefset.__file__)} | {
    (f"{name}.__init__.<locals>.remove", weakref.__file__) for name in ("WeakKeyDictionary", "WeakValueDictionary")
}
"""Python's own callbacks of weak references, in which it ignores what is raised as well; by name and file."""


@functools.cache
def places(code: CodeType) -> frozenset[int]:
    """Offsets of the instructions before which a signal may be handled.

    What is raised after a call belongs to it: to the `with` or `try` around it, even if the next instruction is behind.
    Such places are left out, since here it would be raised by the next instruction.
    """
    found: set[int] = set()
    blocks = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]

    def block(offset: int) -> Any:
        return next((entry for entry in blocks if entry.start <= offset < entry.end), None)

    before: Any = None
    for one in dis.get_instructions(code):
        looks = before is not None and (before.opname == "RESUME" or before.opname.startswith("CALL"))
        if looks and block(before.offset) == block(one.offset):
            found.add(one.offset)
        before = one
        if one.opname.startswith("JUMP_BACKWARD") and one.opname != "JUMP_BACKWARD_NO_INTERRUPT":
            found.add(one.argval)
    return frozenset(found)


def _is_deaf(frame: FrameType | None) -> bool:
    collecting = [getattr(callback, "__code__", None) for callback in gc.callbacks]  # as that of `hypothesis`
    while frame is not None and frame.f_code.co_filename != __file__:
        code = frame.f_code
        if code.co_name in DEAF or (code.co_qualname, code.co_filename) in CALLBACKS or code in collecting:
            return True
        frame = frame.f_back
    return False


class AlarmError(BlockingIOError, TimeoutError, BrokenPipeError, ValueError, IndexError, TypeError, RuntimeError):
    """What the handler of SIGALRM raises: a TimeoutError as a rule, but who knows. No KeyError: `os.environ` takes all."""


def alarm(*_: object) -> None:
    """End what takes too long."""
    raise AlarmError


class Injector:
    """Sends a signal at some of the places that a call comes through, counted from 1; *within* one function, if told so."""

    def __init__(self, signum: int, at: tuple[int, ...] = (), within: int = 0) -> None:
        self.signum, self.at, self.within = signum, at, within
        self.functions = 0  # that have begun, or gone on
        self.passed: list[int] = []  # of each place, the number of its function
        self.where: list[str] = []

    @property
    def count(self) -> int:
        """How many places it has come through."""
        return len(self.passed)

    def places(self) -> list[tuple[tuple[int], int]]:
        """Each of them: which it is of its function, and the number of the function."""
        seen, found = Counter[int](), []
        for number in self.passed:
            seen[number] += 1
            found.append(((seen[number],), number))
        return found

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        """Look at the instructions of a function that begins or goes on: at no lines, which would take as long again."""
        self.functions += 1
        number = self.functions
        if self.within not in {0, number} or frame.f_code.co_filename == __file__ or _is_deaf(frame):
            return None  # nothing takes as long as looking
        found = places(frame.f_code)

        def look(frame: FrameType, event: str, _: object) -> Any:
            if frame.f_lasti in found and event == "opcode":
                self._pass(frame, number)
            return look

        # The function first: without one, Python 3.13 takes no notice of the wish for instructions.
        frame.f_trace, frame.f_trace_opcodes, frame.f_trace_lines = look, True, False
        return look

    def _pass(self, frame: FrameType, number: int) -> None:
        self.passed.append(number)
        if len(self.passed) in self.at:
            self.where.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
            if len(self.where) == len(self.at):
                sys.settrace(None)
            signal.raise_signal(self.signum)

    def run(self, call: Callable[[], Any]) -> Any:
        """What the call gives; KeyboardInterrupt as a value, also for an alarm."""
        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self)
        try:
            return call()
        except (KeyboardInterrupt, AlarmError):
            return KeyboardInterrupt
        finally:
            sys.settrace(before)


def _unseen(call: Callable[[], Any]) -> Any:
    """What the call gives, which comes through no places."""
    before = sys.gettrace()
    sys.settrace(None)
    try:
        return call()
    finally:
        sys.settrace(before)


class Bench:
    """The pools, and the calls that are interrupted."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, "runs")
        self.numbers = count(1)
        self.asked: dict[int, str] = {}  # tasks of this trial, and the place where their call was interrupted
        self.place = "nowhere"
        self.f = self.parallel(workers=1)
        self.executor = parmap.Executor(1)
        self.pool = parmap.Pool(1)
        self.loop = self.new_loop()
        self.handled: list[int] = []
        self.stream: Any = None
        self.has_run = True  # a call that was not interrupted has run all its tasks

    @staticmethod
    def new_loop() -> Any:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # it complains of tasks that were interrupted
        return loop

    def parallel(self, **options: Any) -> Any:
        return parmap.parallel(tasks_that_count.count, **options)

    def new(self, size: int = 1) -> list[tuple[int, str]]:
        """Arguments of tasks that were never run."""
        numbers = [next(self.numbers) for _ in range(size)]
        self.asked |= dict.fromkeys(numbers, self.place)
        return [(number, self.path) for number in numbers]

    def handle(self, *_: object) -> None:
        """What a signal handler may do."""
        (args,) = self.new()
        self.handled.append(self.f.submit(*args).result(timeout=5) + args[0])

    def works(self) -> None:
        """See whether the pools answer."""
        if self.loop.is_running():  # it was interrupted where it begins, and can't be used any more
            asyncio._set_running_loop(None)
            self.loop._thread_id = None
            self.loop.close()
            self.loop = self.new_loop()
        # What an interrupted run left on the loop, asyncio's own call of `stop` among it, would end the next one.
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()
        one, two, three = self.new(3)
        assert self.f.submit(*one).result(timeout=5) == -one[0]
        assert self.f.starmap([two, three]) == [-two[0], -three[0]]

    # the calls: each gives true if all is right

    def submit(self) -> bool:
        (args,) = self.new()
        return bool(self.f.submit(*args).result() == -args[0])

    def several(self) -> bool:
        tasks = self.new(4)
        futures = [self.f.submit(*args) for args in tasks]
        return [future.result() for future in futures] == [-number for number, _ in tasks]

    def callback(self) -> bool:
        (args,) = self.new()
        future = self.f.submit(*args)
        got = [future.result()]
        future.add_done_callback(lambda future: got.append(future.result()))
        return got == [-args[0]] * 2

    def starmap(self) -> bool:
        tasks = self.new(6)
        return bool(self.f.starmap(tasks) == [-number for number, _ in tasks])

    def imap(self) -> bool:
        numbers = [number for number, _ in self.new(6)]
        stream = self.f.partial(path=self.path).imap(numbers, buffersize=3)
        return list(stream) == [-number for number in numbers]

    def imap_unordered(self) -> bool:
        numbers = [number for number, _ in self.new(6)]
        stream = self.f.partial(path=self.path).imap_unordered(numbers, buffersize=3)
        return sorted(stream) == sorted(-number for number in numbers)

    def execute(self) -> bool:
        (args,) = self.new()
        return self.executor.submit(tasks_that_count.count, *args).result() == -args[0]

    def apply(self) -> bool:
        (args,) = self.new()
        return bool(self.pool.apply(tasks_that_count.count, args) == -args[0])

    def cancel(self) -> bool:
        self.has_run = False
        (args,) = self.new()
        future = self.f.submit(*args)
        return bool(future.cancel() or future.result() == -args[0])

    def _stream(self) -> Any:
        return self.f.partial(path=self.path).imap([number for number, _ in self.new(6)])

    def close(self) -> bool:
        self.has_run = False
        stream = _unseen(self._stream)  # how it begins is seen in `with_stream`
        next(stream)
        stream.close()
        return True

    def with_stream(self) -> bool:
        self.has_run = False
        with self._stream() as stream:
            next(stream)
        return True

    def with_executor(self) -> bool:
        (args,) = self.new()
        with parmap.Executor(1) as executor:
            return executor.submit(tasks_that_count.count, *args).result() == -args[0]

    def with_pool(self) -> bool:
        (args,) = self.new()
        with parmap.Pool(1) as pool:
            return bool(pool.apply(tasks_that_count.count, args) == -args[0])

    def await_(self) -> bool:
        async def main() -> bool:
            (args,) = self.new()
            return bool(await self.f.submit(*args) == -args[0])

        waiting = main()
        try:
            return self.loop.run_until_complete(waiting)
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            if getcoroutinestate(waiting) == CORO_CREATED:
                waiting.close()

    def first_use(self) -> bool:
        """The pool doesn't exist yet."""
        (args,) = self.new()
        return bool(self.parallel(workers=1, env={"FIRST": "1"}).submit(*args).result() == -args[0])

    def shut_down(self) -> bool:
        (args,) = self.new()
        future = self.parallel(workers=1, env={"LAST": "1"}).submit(*args)
        self.parallel(workers=1, env={"LAST": "1"}).shutdown()
        return bool(future.result() == -args[0])


CASES: dict[str, Callable[[Bench], bool]] = {
    "submit": Bench.submit,
    "several": Bench.several,
    "callback": Bench.callback,
    "starmap": Bench.starmap,
    "imap": Bench.imap,
    "imap_unordered": Bench.imap_unordered,
    "execute": Bench.execute,
    "apply": Bench.apply,
    "cancel": Bench.cancel,
    "close": Bench.close,
    "with_stream": Bench.with_stream,
    "await": Bench.await_,
    "with_executor": Bench.with_executor,
    "with_pool": Bench.with_pool,
    "first_use": Bench.first_use,
    "shut_down": Bench.shut_down,
}
DEAR = {"with_executor", "with_pool", "first_use", "shut_down"}
"""Cases that start a pool with each try."""


def measure(bench: Bench) -> tuple[int, int, int]:
    """Descriptors, processes and threads of ours, where each pool has its worker."""
    bench.works()
    threads = sum(thread.name.startswith("parmap-engine") for thread in threading.enumerate())
    return psutil.Process().num_fds(), len(children()), threads


class Trial:
    """One case with one signal."""

    def __init__(self, bench: Bench, name: str, signum: signal.Signals) -> None:
        self.bench, self.signum = bench, signum
        self.is_dear = name in DEAR
        self.call = functools.partial(CASES[name], bench)
        self.faults: list[str] = []
        self.asked: dict[int, str] = {}
        self.tried = self.places = 0

    def run(self, how: str) -> None:
        """Interrupt the call in all tries."""
        self.bench.asked, self.bench.place = self.asked, "nowhere"
        counter = self.count()
        self.places = counter.count
        self.clean()
        before = measure(self.bench)
        for at, within in choose(how, counter):
            self.interrupt(at, within)
            self.tried += 1
            if len(self.faults) > 5:
                break
        self.bench.place = "nowhere"
        if not self.call():
            self.faults.append("afterwards, undisturbed: the call gave something else")
        self.clean()
        self.check_resources(before)

    def count(self) -> Injector:
        """The places that there are: the most of some calls, since who finds its results there comes through fewer."""
        for _ in range(3):
            assert self.call()
        counters = [Injector(self.signum) for _ in range(1 if self.is_dear else 5)]
        for counter in counters:
            assert counter.run(self.call)
        return max(counters, key=lambda counter: counter.count)

    def interrupt(self, at: tuple[int, ...], within: int) -> None:
        """Interrupt the call at these places, and see whether all is well."""
        bench = self.bench
        bench.handled.clear()
        bench.place = f"places {at} of {within or 'the call'}"
        injector = Injector(self.signum, at, within)
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        fault = ""
        try:
            got = injector.run(self.call)
            where = ", ".join(injector.where)
            if self.signum != signal.SIGUSR1 and injector.where and got is not KeyboardInterrupt:
                fault = f"the interrupt was swallowed: {got!r}"
            elif got not in {True, KeyboardInterrupt} or any(bench.handled):
                fault = f"the call gave {got!r}, the handler's {bench.handled}"
            elif self.signum == signal.SIGUSR1 and len(bench.handled) != len(injector.where):
                fault = "the handler was not called"
            bench.works()
        except Exception as error:
            where = ", ".join(injector.where)
            fault = fault or repr(error)
        if fault:
            self.faults.append(f"{where}: {fault}")

    def clean(self) -> None:
        """Stop the pools that the calls began, and the one that is needed again."""
        if self.is_dear:
            parmap.shutdown()
            self.bench.works()

    def check_runs(self) -> None:
        """Each task ran once, or its call was interrupted and it never ran."""
        found = tasks_that_count.runs(self.bench.path)
        for number, place in self.asked.items():
            if found[number] > 1 or (not found[number] and self.signum == signal.SIGUSR1 and self.bench.has_run):
                self.faults.append(f"{place}: a task ran {found[number]} times")

    def check_resources(self, before: tuple[int, int, int]) -> None:
        """Nothing was lost: it may take a moment until the last worker has ended."""
        deadline = time.monotonic() + PATIENCE / 2
        while any(now > then for now, then in zip(measure(self.bench), before, strict=True)):
            if time.monotonic() > deadline:
                self.faults.append(f"descriptors, processes, threads: {before} before, {measure(self.bench)} after")
                return
            time.sleep(0.01)


def choose(how: str, counter: Injector) -> Iterator[tuple[tuple[int, ...], int]]:
    """The places of each try, and the function within which they are counted, or 0 for the whole call."""
    chance, total = random.Random(1), counter.count
    if how in {"every", "all"}:
        yield from counter.places()
    elif how == "pairs":  # the second one may be in what only the first one leads to
        for at in chance.choices(range(1, total + 1), k=4 * SOME):
            yield (at, chance.randint(at + 1, 2 * total)), 0
    else:
        yield from chance.sample(counter.places(), min(SOME, total))


def main(name: str, signal_names: str, how: str, folder: str) -> int:
    """Try one case, with each signal in turn."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    bench = Bench(folder)
    signal.signal(signal.SIGUSR1, bench.handle)
    signal.signal(signal.SIGALRM, alarm)
    bench.works()
    if name == "await":
        DEAF.add("_remove")  # asyncio has sets of weak references
    trials = [Trial(bench, name, signal.Signals[each]) for each in signal_names.split(",")]
    for trial in trials:
        trial.run(how)
    parmap.shutdown()  # all tasks that will ever run have run then
    bench.loop.close()
    faulthandler.cancel_dump_traceback_later()
    for trial in trials:
        trial.check_runs()
        told = f"{name} {trial.signum.name}: {trial.tried} tries of {trial.places} places, {len(trial.faults)} wrong"
        print(told, *trial.faults, sep="\n")
    return 3 if not all(trial.places for trial in trials) else int(any(trial.faults for trial in trials))


if __name__ == "__main__":
    status = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
