"""One measurement: a contestant, a workload and a size, in a process of its own.

Usage: cell.py OUTPUT CONTESTANT WORKERS SECONDS LIMIT WORKLOAD:SIZE ...
       SCRIPT  (the same)

The tasks are those of the script that is run; `cell.py` itself has none, and imports them. Writes a list of JSON
objects into the file OUTPUT: `values`, each a time in seconds or a size in bytes, and what else there is to tell.
Repeats until SECONDS are used up, at least once, at most nine times.

Warm-up is the same for all: the pool is started, 100 tiny tasks are run, then a part of the workload (a twentieth, at
least two items for each worker), whose results are compared with those of a plain loop.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tasks
from contestants import BY_NAME, CannotError, Contestant
from workloads import BY_KEY, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

REPEATS = 9
STREAM_CHUNK = 1000
STREAM_SECONDS = 6.0
LINES_CHUNKS = (500, 2000, 8000)
"""The sizes of chunks among which each contestant that chooses none is given its best."""
PAGE = 0.01  # seconds that reading an item of a slow input takes


class TimeOverError(BaseException):
    """A workload took longer than it may."""


class WrongResultError(Exception):
    """A contestant's results are not those of a plain loop."""


class Cell:
    """What is measured."""

    def __init__(
        self, contestant: Contestant, workload: Workload, size: int, seconds: float, place: ModuleType
    ) -> None:
        """*seconds*: for repetitions; *place*: where the tasks are defined."""
        self.contestant = contestant
        self.workload = workload
        self.size = size
        self.seconds = seconds
        self.place = place
        task = getattr(place, workload.task)
        self.task: Callable[[Any], Any] = task(contestant.name) if workload.made else task
        make = workload.items
        self.make_items: Callable[[int], Any] = getattr(place, make) if isinstance(make, str) else make

    def chunk(self, count: int) -> int | None:
        """The size of chunks for so many items; `None`: the library's default."""
        return rule(count, self.contestant.workers) if self.workload.chunked else None

    def part(self, items: Any) -> Any:
        """The items that are run before it counts."""
        return items[: max(2 * self.contestant.workers, len(items) // 20)]

    def check(self, found: list[Any], items: Any) -> None:
        """Compare results with those of a plain loop."""
        if len(found) != len(items):
            raise WrongResultError(f"{len(found)} results of {len(items)} items")
        for result, item in zip(found, items, strict=True):
            expected = self.task(item)
            same = result == expected
            if type(result) is not type(expected) or not (same.all() if hasattr(same, "all") else same):
                raise WrongResultError(f"the result of {item!r:.50} is {result!r:.50}")

    def repeated(self, work: Callable[[], Any], count: int = 0) -> dict[str, Any]:
        """Time the same again and again until time is up; each time there have to be *count* results."""
        end = time.perf_counter() + self.seconds
        values: list[float] = []
        while not values or (not self.workload.once and len(values) < REPEATS and time.perf_counter() < end):
            values.append(timed(work, count))
        return {"values": values}


def rule(count: int, workers: int) -> int:
    """The size of a chunk, as `multiprocessing.Pool` would choose it."""
    return max(1, -(-count // (4 * workers)))


def timed(work: Callable[[], Any], count: int = 0) -> float:
    """Seconds that *work* takes; its results, *count* if that is known, are freed outside of it."""
    begin = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - begin
    if count and len(result) != count:
        raise WrongResultError(f"{len(result)} results of {count} items")
    del result
    return seconds


def warm(contestant: Contestant) -> None:
    """Start the pool and make every worker do something."""
    contestant.start_once()
    contestant.map(tasks.inc, list(range(100)), rule(100, contestant.workers))


def measure_map(cell: Cell) -> dict[str, Any]:
    """Time `map`."""
    contestant, task, items = cell.contestant, cell.task, cell.make_items(cell.size)
    warm(contestant)
    part = cell.part(items)
    cell.check(contestant.map(task, part, cell.chunk(len(part))), part)
    return cell.repeated(lambda: contestant.map(task, items, cell.chunk(cell.size)), cell.size)


def measure_generated(cell: Cell) -> dict[str, Any]:
    """Time `map` over a generator."""
    contestant, task, items = cell.contestant, cell.task, cell.make_items(cell.size)
    warm(contestant)
    part = cell.part(items)
    cell.check(contestant.map(task, iter(part), cell.chunk(len(part))), part)
    return cell.repeated(lambda: contestant.map(task, iter(items), cell.chunk(cell.size)), cell.size)


def measure_slow_input(cell: Cell) -> dict[str, Any]:
    """Time the first result of a stream over an input that takes its time for each item."""
    contestant, task = cell.contestant, cell.task
    warm(contestant)

    def slow() -> Iterator[Any]:
        for item in cell.make_items(cell.size):
            time.sleep(PAGE)
            yield item

    begin = time.perf_counter()
    results = iter(contestant.stream(task, slow(), 1))
    found = [next(results)]
    seconds = time.perf_counter() - begin
    cell.check([*found, *results], cell.make_items(cell.size))
    return {"values": [seconds]}


def measure_submit(cell: Cell) -> dict[str, Any]:
    """Time many submits, and the gathering of their results."""
    contestant, task, items = cell.contestant, cell.task, cell.make_items(cell.size)
    warm(contestant)
    part = cell.part(items)
    cell.check(contestant.submit_all(task, part), part)
    return cell.repeated(lambda: contestant.submit_all(task, items), cell.size)


def measure_round_trip(cell: Cell) -> dict[str, Any]:
    """Time one task at a time."""
    contestant, task, items = cell.contestant, cell.task, cell.make_items(cell.size)
    warm(contestant)
    part = cell.part(items)
    cell.check([contestant.submit_all(task, (item,))[0] for item in part], part)
    end = time.perf_counter() + max(0.2, 2 * cell.seconds)
    values: list[float] = []
    for item in items:
        values.append(timed(lambda item=item: contestant.submit_all(task, (item,)), 1))  # type: ignore[misc]
        if time.perf_counter() > end:
            break
    return {"values": [statistics.median(values)]}


def measure_in_a_row(cell: Cell) -> dict[str, Any]:
    """Time short maps, one after the other."""
    contestant, task, items = cell.contestant, cell.task, cell.make_items(cell.size)
    warm(contestant)
    cell.check(contestant.map(task, items), items)
    return cell.repeated(lambda: [contestant.map(task, items) for _ in range(cell.size)], cell.size)


def measure_lines(cell: Cell) -> dict[str, Any]:
    """Time a stream whose results are used up at once; who chooses no size of chunks has the best of several."""
    contestant, task, items = cell.contestant, cell.task, cell.make_items(cell.size)
    warm(contestant)
    part = cell.part(items)
    cell.check(list(contestant.stream(task, part, LINES_CHUNKS[0])), part)

    def use_up(chunk: int, some: Any) -> range:
        return range(sum(1 for _ in contestant.stream(task, some, chunk)))

    chunk = LINES_CHUNKS[0]
    if not contestant.chooses:
        quarter = items[: len(items) // 4]
        chunk = min(LINES_CHUNKS, key=lambda chunk: timed(lambda: use_up(chunk, quarter), len(quarter)))
    return {**cell.repeated(lambda: use_up(chunk, items), cell.size), "chunk": chunk}


def measure_cold(cell: Cell) -> dict[str, Any]:
    """Time from a library that is imported to results from all its workers."""
    exec(type(cell.contestant).imports, {})  # noqa: S102 - the import of the library, as its row says
    return measure_first(cell)


def measure_first(cell: Cell) -> dict[str, Any]:
    """Time the first map of a program, with what it takes to import the library and start its pool."""
    contestant, task, items = cell.contestant, cell.task, list(cell.make_items(cell.size))
    found: list[Any] = []

    def begin() -> None:
        contestant.start()
        found.extend(contestant.map(task, items))

    values = [timed(begin)]
    cell.check(found, items)
    return {"values": values, "import": getattr(cell.place, "IMPORT", None)}


def pss(pid: int) -> int:
    """Bytes of memory that a process has in use, shared pages counted by the share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def measure_idle(cell: Cell) -> dict[str, Any]:
    """The memory of a worker."""
    warm(cell.contestant)
    pids = set(cell.contestant.map(tasks.where, list(range(8 * cell.contestant.workers))))
    return {"values": [sum(map(pss, pids)) / len(pids)], "workers": len(pids)}


def measure_pool_memory(cell: Cell) -> dict[str, Any]:
    """The memory of all processes that a script's pool has started."""
    import psutil

    contestant, items = cell.contestant, cell.make_items(cell.size)
    contestant.start()
    cell.check(contestant.map(cell.task, items, rule(cell.size, contestant.workers)), items)
    pids = [process.pid for process in psutil.Process().children(recursive=True)]
    return {"values": [float(sum(map(pss, pids)))], "processes": len(pids)}


def resident() -> int:
    """Bytes of memory that this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure_stream(cell: Cell) -> dict[str, Any]:
    """How much this process grows while items stream through; those that take too long are cut off."""
    contestant, task, items = cell.contestant, cell.task, cell.make_items(cell.size)
    warm(contestant)
    part = cell.make_items(10_000)
    cell.check(list(contestant.stream(task, part, STREAM_CHUNK)), part)
    before = most = resident()
    begin = time.perf_counter()
    count = 0
    for count, _result in enumerate(contestant.stream(task, items, STREAM_CHUNK), 1):
        if count % 5000 == 0:
            most = max(most, resident())
            if time.perf_counter() - begin > STREAM_SECONDS:
                break
    seconds = time.perf_counter() - begin
    return {"values": [float(max(most, resident()) - before)], "items": count, "seconds": seconds}


def measure_workers(cell: Cell) -> dict[str, Any]:
    """Time a start with a growing number of workers, and short tasks on them afterwards."""
    contestant, count = cell.contestant, cell.size
    contestant.workers = count

    def begin() -> list[Any]:
        contestant.start()
        return contestant.map(tasks.inc, list(range(10 * count)))

    start = timed(begin)
    return {**cell.repeated(lambda: contestant.map(tasks.short, range(4000)), 4000), "start": start}


def measure_payload(cell: Cell) -> dict[str, Any]:
    """Time a call whose argument is large."""
    contestant, payload = cell.contestant, bytes(cell.size)
    warm(contestant)
    cell.check(contestant.map(cell.task, [payload]), [payload])
    return cell.repeated(lambda: contestant.map(cell.task, [payload]), 1)


METHODS: dict[str, Callable[[Cell], dict[str, Any]]] = {
    "map": measure_map,
    "generated": measure_generated,
    "slow input": measure_slow_input,
    "submit": measure_submit,
    "round trip": measure_round_trip,
    "in a row": measure_in_a_row,
    "lines": measure_lines,
    "cold": measure_cold,
    "first": measure_first,
    "idle": measure_idle,
    "pool memory": measure_pool_memory,
    "stream": measure_stream,
    "workers": measure_workers,
    "payload": measure_payload,
}


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep the machine busy with so many processes."""
    if not count:
        yield
        return
    import subprocess  # not above: a script shall not have imported for parmap what it needs

    command = [sys.executable, "-S", "-c", "while True: pass"]
    processes = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(contestant: Contestant, key: str, size: int, seconds: float, limit: float, place: ModuleType) -> Any:
    """Run one workload; what the contestant can't do is an answer, too."""
    workload = BY_KEY[key]
    begin = time.perf_counter()
    answer: dict[str, Any]
    try:
        signal.setitimer(signal.ITIMER_REAL, limit)
        with neighbours(workload.busy):
            answer = METHODS[workload.method](Cell(contestant, workload, size, seconds, place))
    except CannotError as error:
        answer = {"cannot": str(error)}
    except TimeOverError:
        answer = {"timeout": limit}
    except Exception as error:
        text = " ".join(str(error).split())
        answer = {"failed": f"{type(error).__name__}: {text}"[:200]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {**answer, "taken": time.perf_counter() - begin}


def ring(_: int, __: Any) -> None:
    """End a workload."""
    raise TimeOverError


def main(place: ModuleType) -> None:
    """Run the workloads that the command line asks for, with the tasks of *place*."""
    output, name, workers, seconds, limit, *wanted = sys.argv[1:]
    signal.signal(signal.SIGALRM, ring)
    contestant = BY_NAME[name](int(workers))
    part = Path(output + ".part")
    answers: list[dict[str, Any]] = []
    for entry in wanted:
        key, size = entry.split(":")
        answers.append(measure(contestant, key, int(size), float(seconds), float(limit), place))
        part.write_text(json.dumps(answers))
        if "timeout" in answers[-1]:
            break
    part.rename(output)  # whoever waits for the file finds it whole


if __name__ == "__main__":
    main(tasks)
