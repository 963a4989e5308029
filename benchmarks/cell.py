"""One measurement: a contestant, a workload and a size, in a process of its own.

Usage: cell.py OUTPUT CONTESTANT WORKLOAD SIZE WORKERS SECONDS

Writes a JSON object into the file OUTPUT: `values`, each a time in seconds or a size in bytes, and what else there is
to tell. Repeats until SECONDS are used up, at least once, at most nine times.

Warm-up is the same for all: the pool is started, 100 tiny tasks are run, then a part of the workload (a twentieth, at
least two items for each worker).
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tasks
from contestants import BY_NAME, CannotError, Contestant
from workloads import BY_KEY, CAPTURED, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

REPEATS = 9
STREAM_CHUNK = 1000
STREAM_SECONDS = 6.0


def rule(count: int, workers: int) -> int:
    """The size of a chunk, as `multiprocessing.Pool` would choose it."""
    return max(1, -(-count // (4 * workers)))


def timed(work: Callable[[], Any]) -> float:
    """Seconds that *work* takes; its result is freed outside of it."""
    begin = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - begin
    del result
    return seconds


def repeated(work: Callable[[], float], workload: Workload, limit: float) -> list[float]:
    """Measure again and again until time is up."""
    end = time.perf_counter() + limit
    values = [work()]
    while not workload.once and len(values) < REPEATS and time.perf_counter() < end:
        values.append(work())
    return values


class TimeOverError(BaseException):
    """A workload took longer than it may."""


def warm(contestant: Contestant) -> None:
    """Start the pool and make every worker do something."""
    contestant.start_once()
    contestant.map(tasks.inc, list(range(100)), rule(100, contestant.workers))


def measure_map(contestant: Contestant, workload: Workload, size: int, limit: float) -> dict[str, Any]:
    """Time `map`."""
    task = workload.task
    if workload.method == "closure":
        import numpy as np

        task = tasks.capture(np.arange(CAPTURED // 8, dtype=float))
    items = workload.items(size)
    warm(contestant)
    chunk = rule(size, contestant.workers) if workload.chunked else None
    part = items[: max(2 * contestant.workers, size // 20)]
    contestant.map(task, part, rule(len(part), contestant.workers) if workload.chunked else None)
    return {"values": repeated(lambda: timed(lambda: contestant.map(task, items, chunk)), workload, limit)}


def measure_submit(contestant: Contestant, workload: Workload, size: int, limit: float) -> dict[str, Any]:
    """Time many submits, and the gathering of their results."""
    warm(contestant)
    contestant.submit_all(tasks.inc, range(size // 20))
    return {"values": repeated(lambda: timed(lambda: contestant.submit_all(tasks.inc, range(size))), workload, limit)}


def measure_round_trip(contestant: Contestant, _: Workload, size: int, limit: float) -> dict[str, Any]:
    """Time one task at a time."""
    warm(contestant)
    end = time.perf_counter() + max(0.2, 2 * limit)
    values: list[float] = []
    contestant.submit_all(tasks.inc, range(20))
    while len(values) < size and time.perf_counter() < end:
        values.append(timed(lambda: contestant.submit_all(tasks.inc, (1,))))
    return {"values": [statistics.median(values)]}


def measure_cold(contestant: Contestant, _: Workload, size: int, __: float) -> dict[str, Any]:
    """Time from a library that is imported to results from all its workers."""
    exec(type(contestant).imports, {})  # noqa: S102 - the import of the library, as its row says

    def begin() -> list[Any]:
        contestant.start()
        return contestant.map(tasks.inc, list(range(size)))

    return {"values": [timed(begin)]}


def measure_idle(contestant: Contestant, _: Workload, __: int, ___: float) -> dict[str, Any]:
    """The memory of a worker, shared pages counted by the share."""
    warm(contestant)
    pids = set(contestant.map(tasks.where, list(range(8 * contestant.workers))))
    sizes = []
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        sizes += [int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")]
    return {"values": [sum(sizes) / len(sizes)], "workers": len(pids)}


def resident() -> int:
    """Bytes of memory that this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure_stream(contestant: Contestant, _: Workload, size: int, __: float) -> dict[str, Any]:
    """How much this process grows while items stream through; those that take too long are cut off."""
    warm(contestant)
    for _result in contestant.stream(tasks.inc, range(10_000), STREAM_CHUNK):
        pass
    before = most = resident()
    begin = time.perf_counter()
    count = 0
    for count, _result in enumerate(contestant.stream(tasks.inc, range(size), STREAM_CHUNK), 1):
        if count % 5000 == 0:
            most = max(most, resident())
            if time.perf_counter() - begin > STREAM_SECONDS:
                break
    seconds = time.perf_counter() - begin
    return {"values": [float(max(most, resident()) - before)], "items": count, "seconds": seconds}


def measure_workers(contestant: Contestant, _: Workload, size: int, limit: float) -> dict[str, Any]:
    """Time a start with *size* workers, and short tasks on them afterwards."""
    contestant.workers = size

    def begin() -> list[Any]:
        contestant.start()
        return contestant.map(tasks.inc, list(range(10 * size)))

    start = timed(begin)
    again = repeated(lambda: timed(lambda: contestant.map(tasks.short, range(4000))), BY_KEY["short"], limit)
    return {"values": again, "start": start}


def measure_payload(contestant: Contestant, workload: Workload, size: int, limit: float) -> dict[str, Any]:
    """Time a call whose argument has *size* bytes."""
    warm(contestant)
    payload = bytes(size)
    contestant.map(tasks.length, [payload])
    return {
        "values": repeated(
            lambda: timed(lambda: contestant.map(tasks.length, [payload])), workload._replace(once=False), limit
        )
    }


METHODS: dict[str, Callable[[Contestant, Workload, int, float], dict[str, Any]]] = {
    "map": measure_map,
    "closure": measure_map,
    "submit": measure_submit,
    "round trip": measure_round_trip,
    "cold": measure_cold,
    "idle": measure_idle,
    "stream": measure_stream,
    "workers": measure_workers,
    "payload": measure_payload,
}


def measure(contestant: Contestant, key: str, size: int, seconds: float, limit: float) -> dict[str, Any]:
    """Run one workload; what the contestant can't do is an answer, too."""
    workload = BY_KEY[key]
    begin = time.perf_counter()
    answer: dict[str, Any]
    try:
        signal.setitimer(signal.ITIMER_REAL, limit)
        answer = METHODS[workload.method](contestant, workload, size, seconds)
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


def main() -> None:
    """Run the workloads that the command line asks for."""
    output, name, workers, seconds, limit, *wanted = sys.argv[1:]
    signal.signal(signal.SIGALRM, ring)
    contestant = BY_NAME[name](int(workers))
    part = Path(output + ".part")
    answers: list[dict[str, Any]] = []
    for entry in wanted:
        key, size = entry.split(":")
        answers.append(measure(contestant, key, int(size), float(seconds), float(limit)))
        part.write_text(json.dumps(answers))
        if "timeout" in answers[-1]:
            break
    part.rename(output)  # whoever waits for the file finds it whole


if __name__ == "__main__":
    main()
