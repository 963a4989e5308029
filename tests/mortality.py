"""Lets processes die at one place of parmap's own code after the other, and looks whether all is well after each.

    python mortality.py CASE WHO WAY HOW FOLDER

WHO dies is a worker, the template, what a task forks, or a worker of a standard executor (`fork`, `spawn`) or of `loky`. Its
WAY is `exit`, `kill`, `crash`, `together` with the template, or `stop`, after which it goes on. HOW is `all` places, or how many at random; behind `again-`
two die, behind `fine-` opcodes are places. It prints what was wrong, and exits with 1 if anything was.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import logging
import os
import random
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

import dying
import tasks_that_count
from dying import FORKED, TEMPLATE, WORKER, Death
from inspection import wait_until_leased

import parmap
from conftest import children, wait_until
from parmap import TaskTimeoutError, WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PATIENCE = 20.0  # seconds for one try
_OPCODES = 6  # in a line, about
ROLES = {"worker": WORKER, "template": TEMPLATE, "forked": FORKED}

Outcomes = list[tuple[int, Any]]


class Bench:
    """The pool, and the calls in which somebody dies."""

    def __init__(self, folder: str, who: int) -> None:
        self.folder = folder
        self.path = os.path.join(folder, "runs")
        open(self.path, "wb").close()
        self.numbers = count(1)
        self.who = who
        self.options: dict[str, Any] = {"workers": 1}
        self.most = 2  # times that a task may run
        self.elsewhere = False  # whether the worker is another library's
        self.factor = 0
        self.journals = count(1)
        self.once = True  # whether no task may run twice
        self.spared = False  # whether no task may fail
        self.cold = False  # whether the call starts its workers
        self.expected: dict[int, type] = {}  # what ends with an error in any case

    def workers(self, number: int, **options: Any) -> None:
        if not self.elsewhere:
            self.options = {"workers": number, **options}

    def f(self, function: Any = tasks_that_count.count, **options: Any) -> Any:
        return parmap.parallel(function, **{**self.options, **options})

    def new(self, size: int = 1) -> list[int]:
        return [next(self.numbers) for _ in range(size)]

    def warm(self) -> None:
        """Let there be a worker that knows the function, and may be used directly."""
        f = self.f()
        (number,) = self.new()
        assert f.submit(number, self.path).result(timeout=PATIENCE) == -number
        if not {"max_tasks_per_child", "backend"} & {*self.options}:
            wait_until_leased(f)

    def by_submit(self, function: Any, numbers: list[int], *more: Any) -> Outcomes:
        return _ended(numbers, [function.submit(number, self.path, *more) for number in numbers])

    def by_map(self, size: int, function: Any = tasks_that_count.count, **how: Any) -> Outcomes:
        numbers = self.new(size)
        f = self.f(function) if not hasattr(function, "map") else function
        return [*zip(numbers, f.partial(path=self.path).map(numbers, return_exceptions=True, **how), strict=True)]

    # the calls: each gives what became of every number

    def submit(self) -> Outcomes:
        return self.by_submit(self.f(), self.new())

    def one_after_the_other(self) -> Outcomes:
        return [outcome for _ in range(3) for outcome in self.submit()]

    def several(self) -> Outcomes:
        self.once = False
        return self.by_submit(self.f(), self.new(8))

    def two_workers(self) -> Outcomes:
        self.once = False
        self.workers(2)
        return self.by_submit(self.f(), self.new(8))

    def map(self) -> Outcomes:
        self.once = False
        return self.by_map(60)

    def map_of_two(self) -> Outcomes:
        self.once = False
        self.workers(2)
        return self.by_map(60)

    def map_one_by_one(self) -> Outcomes:
        return self.by_map(5, chunksize=1)

    def map_in_threes(self) -> Outcomes:
        self.once = False
        return self.by_map(9, chunksize=3)

    def map_of_longer(self) -> Outcomes:
        """Each runs by itself: not in a block."""
        self.once = False
        return self.by_map(6, tasks_that_count.count_slowly, chunksize=3)

    def imap(self) -> Outcomes:
        self.once = False
        numbers = self.new(12)
        stream = self.f().partial(path=self.path).imap(numbers, buffersize=5, return_exceptions=True)
        return [*zip(numbers, stream, strict=True)]

    def imap_unordered(self) -> Outcomes:
        self.once = False
        self.workers(2)
        numbers = self.new(12)
        outcomes = [*self.f().partial(path=self.path).imap_unordered(numbers, buffersize=5, return_exceptions=True)]
        found = [(-outcome if isinstance(outcome, int) else numbers[outcome.item], outcome) for outcome in outcomes]
        return sorted(found, key=lambda each: each[0])

    def outcomes(self) -> Outcomes:
        self.once = False
        numbers = self.new(6)
        ended = [*self.f().partial(path=self.path).outcomes(numbers)]
        return [(numbers[each.index], each.error or each.value) for each in ended]

    def large(self) -> Outcomes:
        self.workers(1, preload=["numpy"])  # else each worker after a dead one would import it
        numbers = self.new(3)
        items = [(number, self.path, _array(number)) for number in numbers]
        outcomes = self.f(tasks_that_count.negate).starmap(items, return_exceptions=True, chunksize=1)
        return [(number, _whole(outcome, number)) for number, outcome in zip(numbers, outcomes, strict=True)]

    def large_submit(self) -> Outcomes:
        self.workers(1, preload=["numpy"])
        outcomes = []
        for number in self.new(2):
            ended = self.by_submit(self.f(tasks_that_count.negate), [number], _array(number))
            outcomes += [(number, _whole(outcome, number)) for _, outcome in ended]
        return outcomes

    def broadcast(self) -> Outcomes:
        if self.factor == 0:
            self.factor = 1
            self.shared = parmap.broadcast(_array(7))
        return self.by_submit(self.f(tasks_that_count.with_shared), self.new(2), self.shared)

    def per_worker(self) -> Outcomes:
        return self.by_submit(self.f(tasks_that_count.with_own), self.new(2))

    def retries(self) -> Outcomes:
        self.once, self.spared = False, True
        return self.by_map(6, self.f(retries=1))

    def timeout(self) -> Outcomes:
        self.once = False
        numbers = self.new(3)
        late = numbers[1]
        self.expected[late] = TaskTimeoutError
        items = [(number, self.path, number == late) for number in numbers]
        return [
            *zip(
                numbers,
                self.f(tasks_that_count.count_and_wait, timeout=0.15).starmap(items, return_exceptions=True),
                strict=True,
            )
        ]

    def cancel(self) -> Outcomes:
        self.once = False
        late, number = self.new(2)
        f = self.f(tasks_that_count.count_and_wait)
        cancelled = f.submit(late, self.path, True)
        other = f.submit(number, self.path, False)
        wait_until(lambda: tasks_that_count.runs(self.path)[late] or cancelled.done(), 5)
        cancelled.cancel()
        assert cancelled.done()
        return _ended([number], [other])

    def chatter(self) -> Outcomes:
        self.once = False
        return self.by_map(4, tasks_that_count.count_and_talk)

    def changes(self) -> Outcomes:
        outcomes: Outcomes = []
        for _ in range(2):
            self.factor += 1
            factor = self.factor

            def scaled(number: int, path: str) -> int:
                return tasks_that_count.count(number, path) * factor  # noqa: B023 - that is the point

            ended = self.by_submit(self.f(scaled), self.new())
            outcomes += [(n, outcome / factor if isinstance(outcome, int) else outcome) for n, outcome in ended]
        return outcomes

    def start(self) -> Outcomes:
        self.once, self.cold = False, True
        return self.by_map(3)

    def start_spawned(self) -> Outcomes:
        self.once, self.cold = False, True
        self.options = {"workers": 1, "start_method": "spawn"}
        return self.by_map(3)

    def initializer(self) -> Outcomes:
        self.once, self.cold = False, True
        self.options = {"workers": 2, "initializer": tasks_that_count.begin}
        return self.by_map(4)

    def replaced(self) -> Outcomes:
        self.options = {"workers": 1, "max_tasks_per_child": 2}
        self.once = False
        return self.by_map(5)

    def journal(self) -> Outcomes:
        self.once = False
        path = os.path.join(self.folder, f"journal-{next(self.journals)}")
        numbers = self.new(5)
        f = self.f().partial(path=self.path)
        first = f.map(numbers, return_exceptions=True, journal=path)
        lost = [number for number, outcome in zip(numbers, first, strict=True) if isinstance(outcome, Exception)]
        before = tasks_that_count.runs(self.path)
        again = f.map(numbers, return_exceptions=True, journal=path)
        after = tasks_that_count.runs(self.path)
        assert lost == [n for n in numbers if after[n] > before[n]] or len(lost) <= 1, (lost, before, after)
        assert all(after[n] == before[n] for n in numbers if n not in lost), "what the journal has was run again"
        return [*zip(numbers, first, strict=True), *zip(numbers, again, strict=True)]

    def shutdown(self) -> Outcomes:
        self.once, self.cold = False, False
        numbers = self.new(4)
        f = self.f()
        futures = [f.submit(number, self.path) for number in numbers]
        f.shutdown()
        return _ended(numbers, futures)

    def forks(self) -> Outcomes:
        return self.by_submit(self.f(tasks_that_count.count_and_fork), self.new(2))

    def returns_twice(self) -> Outcomes:
        self.once = False
        return self.by_map(3, tasks_that_count.count_in_fork)


def _ended(numbers: list[int], futures: Iterable[Any]) -> Outcomes:
    return [
        (n, future.exception(timeout=PATIENCE) or future.result()) for n, future in zip(numbers, futures, strict=True)
    ]


def _numbers(path: str) -> list[int]:
    with open(path, "rb") as file:
        return [number for (number,) in struct.iter_unpack("<i", file.read())]


def _array(number: int) -> Any:
    import numpy as np

    return np.arange(number, number + 40_000)


def _whole(outcome: Any, number: int) -> Any:
    if isinstance(outcome, BaseException):
        return outcome
    import numpy as np

    return -number if np.array_equal(outcome, -_array(number)) else f"another array, of {outcome[0]}"


def _standard(how: str, folder: str, home: str) -> Any:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    what = folder, home, WORKER
    return ProcessPoolExecutor(2, get_context(how), dying.trace, what)


def _loky(folder: str, home: str) -> Any:
    from joblib.externals.loky import ProcessPoolExecutor

    return ProcessPoolExecutor(2, initializer=dying.trace, initargs=(folder, home, WORKER))


KINDS: dict[str, Callable[[str, str], Any]] = {
    "fork": functools.partial(_standard, "fork"),
    "spawn": functools.partial(_standard, "spawn"),
    "loky": _loky,
}

CASES: dict[str, Callable[[Bench], Outcomes]] = {
    name: case
    for name, case in vars(Bench).items()
    if not name.startswith("_") and name not in {"f", "new", "warm", "workers", "by_submit", "by_map"}
}


class Trial:
    """One case of one death."""

    def __init__(self, name: str, who: str, way: str, folder: str) -> None:
        home = os.path.dirname(parmap.__file__)
        self.switch = dying.prepare(folder, home)
        self.name, self.who, self.way = name, ROLES.get(who, WORKER), way
        self.bench = Bench(folder, self.who)
        self.call = functools.partial(CASES[name], self.bench)
        if who in KINDS:
            self.bench.elsewhere, self.bench.most, self.bench.options = True, 4, {"backend": KINDS[who](folder, home)}
        self.faults: list[str] = []
        self.deaths = self.failed = self.idle = 0
        self.times, self.fine = 1, False
        self.is_over = threading.Event()

    def count(self) -> int:
        """How many places there are."""
        total = 0
        for _ in range(3):
            self.prepare()
            self.switch.arm(self.who, 0)
            self.call()
            self.switch.disarm()
            total = self.switch.count
        return total

    def prepare(self) -> None:
        """Begin as every time."""
        self.bench.expected.clear()
        if self.bench.cold:
            parmap.shutdown()
        else:
            self.bench.warm()

    def kill(self, at: int) -> None:
        """Let one die at this place, and see whether all is well."""
        bench, fault, outcomes = self.bench, "", list[tuple[int, Any]]()
        self.prepare()
        faulthandler.dump_traceback_later(PATIENCE + 5, exit=True)
        self.switch.arm(self.who, at, self.way, times=self.times, fine=self.fine)
        try:
            outcomes = self.call()
            time.sleep(0.01)  # what comes after the outcomes is of interest, too
            fault = self.fault(outcomes, self.switch.disarm())
            bench.warm()
        except BaseException as error:
            fault = fault or "".join(traceback.format_exception(error)[-3:])
        dead = self.switch.disarm()
        faulthandler.cancel_dump_traceback_later()
        self.deaths += bool(dead)
        if fault:
            self.faults.append(f"{at}: {'; '.join(death.place for death in dead)}: {fault}")

    def fault(self, outcomes: Outcomes, dead: list[Death]) -> str:
        """What is wrong with the outcomes."""
        bench, runs, failed = self.bench, tasks_that_count.runs(self.bench.path), set()
        most = self.times - 1 + (1 if bench.once and not bench.elsewhere else bench.most)
        if not (dead or bench.expected):
            most = 1
        for place, (number, outcome) in enumerate(outcomes):
            if runs[number] > most:
                return f"{number} ran {runs[number]} times: {outcome!r}"
            kind = bench.expected.get(number)
            if isinstance(outcome, WorkerDiedError):
                failed.add(number)
                if wrong := self.slander(number, place, outcome, dead):
                    return f"{number}: {wrong}: {outcome!r}"
            elif type(outcome) is not kind if kind else outcome != -number:
                return f"{number} has {outcome!r}"
        self.failed += len(failed)
        self.idle += sum(not runs[number] for number in failed)
        may_fail = len(dead) if self.who == WORKER and self.way != "stop" and not bench.spared else 0
        return f"{failed} failed, of {len(dead)} deaths" if len(failed) > may_fail else ""

    def slander(self, number: int, place: int, error: WorkerDiedError, dead: list[Death]) -> str:
        """What is wrong with the death that an item is charged with."""
        bench = self.bench
        if bench.elsewhere:
            return ""
        if error.pid not in {death.pid for death in dead}:
            return f"{error.pid} did not die, but {dead}"
        told = {"exit": (dying.EXIT, None), "together": (None, None)}  # its parent would know
        if (error.exitcode, error.signal) != told.get(self.way, (None, dying.WAYS[self.way])):
            return "it died in another way"
        begun = _numbers(bench.path)[: dead[-1].begun]
        if number in begun[:-1] and bench.options["workers"] == self.times == 1 and not bench.expected:
            return f"{begun[-1]} was running"
        if error.item not in {None, place} and self.name != "journal":
            return f"it names another item than {place}"
        return ""

    def measure(self) -> tuple[int, int]:
        """Descriptors, and maps of shared memory of parmap's, without any pool; an executor's are its own."""
        parmap.shutdown()
        if self.bench.elsewhere:
            return 0, 0
        wait_until(lambda: not children())
        wait_until(lambda: not any(thread.name.startswith("parmap-engine") for thread in threading.enumerate()))
        gc.collect()
        with open("/proc/self/maps") as maps:
            return len(os.listdir("/proc/self/fd")), sum("memfd:parmap" in line for line in maps)

    def look_after_the_stopped(self) -> None:
        """Let them go on: in a thread of its own."""
        while not self.is_over.wait(0.005):
            self.switch.wake()


def choose(how: str, total: int) -> Iterator[int]:
    """The places."""
    if how == "all":
        yield from range(1, total + 10)
        return
    chance = random.Random(1)
    yield from sorted(chance.sample(range(1, total + 1), min(int(how), total)))


def main(name: str, who: str, way: str, how: str, folder: str) -> int:
    """Try one case."""
    logging.basicConfig(level=logging.CRITICAL)
    *more, how = how.split("-")
    trial = Trial(name, who, way, folder)
    trial.fine, trial.times = "fine" in more, 1 + more.count("again")
    threading.Thread(target=trial.look_after_the_stopped, daemon=True).start()
    total, tried = trial.count(), 0
    before = trial.measure()
    for at in choose(how, total * _OPCODES if trial.fine else total):
        trial.kill(at)
        tried += 1
        if len(trial.faults) > 5:
            break
    if (after := trial.measure()) != before:
        trial.faults.append(f"descriptors and segments: {before} before, {after} after")
    trial.is_over.set()
    if trial.bench.elsewhere:
        trial.bench.options["backend"].shutdown()
    print(
        f"{name} {who} {way}: {tried} tries of {total} places, {trial.deaths} deaths, {trial.failed} failed,"
        f" {trial.idle} of them had not begun, {len(trial.faults)} wrong",
        *trial.faults,
        sep="\n",
    )
    return bool(trial.faults)


if __name__ == "__main__":
    status = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
