"""Tests that take minutes: `make soak`."""

from __future__ import annotations

import itertools
import math
import os
import random
import signal
import threading
from typing import Any, Self

import psutil
import pytest
import tasks
from inspection import kill, pids_of
from tasks_that_soak import DIE, HANG, RAISE, fate, is_whole, live, parcel, reply

from conftest import children, wait_until
from parmap import TaskTimeoutError, WorkerDiedError, parallel, shutdown

pytestmark = pytest.mark.soak


class Killer:
    """Kills a worker from outside every 200 ms, or as often as it is told."""

    def __init__(self, function: Any, pause: float = 0.2) -> None:
        self._pause = pause
        self.count = 0
        self._function = function
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live)

    def _live(self) -> None:
        while not self._over.wait(self._pause):
            victims = pids_of(self._function)
            if victims:
                kill(random.choice(victims))
                self.count += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _is_right(number: int, outcome: Any) -> bool:
    """Whether an item ended as it must, all three attempts considered; the killer may have met the last of them."""
    killed = isinstance(outcome, WorkerDiedError) and outcome.item == number
    what = fate(number)
    if what == RAISE:
        raised = type(outcome) is ValueError and outcome.args == (number,)
        return (raised or (killed and outcome.signal == signal.SIGKILL)) and _attempts(outcome) == 3
    if what == DIE:
        return killed and _attempts(outcome) == 3 and (outcome.exitcode == 3 or outcome.signal == signal.SIGKILL)
    if what == HANG:
        timed_out = isinstance(outcome, TaskTimeoutError) and outcome.item == number
        return (timed_out or (killed and outcome.signal == signal.SIGKILL)) and _attempts(outcome) == 3
    return bool(outcome == -number)


def _attempts(error: BaseException) -> int:
    return 1 + sum(note.count("\nattempt ") for note in getattr(error, "__notes__", ()))


def test_a_dirty_batch(capsys: pytest.CaptureFixture[str]):
    """100,000 items that raise, kill their worker or hang, and a worker killed from outside every 200 ms."""
    f = parallel(live, workers=4, timeout=0.3, retries=2)
    with Killer(f) as killer:
        outcomes = f.map(range(100_000), return_exceptions=True)

    wrong = {n: repr(outcome) for n, outcome in enumerate(outcomes) if not _is_right(n, outcome)}
    with capsys.disabled():
        kinds = [type(outcome).__name__ for outcome in outcomes if isinstance(outcome, Exception)]
        print("\n", {kind: kinds.count(kind) for kind in set(kinds)}, killer.count, "killed from outside")
    assert len(outcomes) == 100_000
    assert wrong == {}
    assert killer.count > 10


def _measure() -> dict[str, float]:
    me = psutil.Process()
    files = _open_files()
    segments = sum(file.startswith("/memfd:parmap (") for file in files)  # a mapped one has a descriptor of its own
    return {
        "descriptors": len(files) - segments,
        "segments": segments,
        "threads": me.num_threads(),
        "processes": len(me.children(recursive=True)),
        "megabytes": me.memory_info().rss / 1e6,
    }


def _open_files() -> list[str]:
    files = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            files.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:  # that of the listing itself
            pass
    return files


@pytest.mark.parametrize("how", ["imap", "imap_unordered", "generator", "submit"])
def test_ten_million_tasks(how: str, capsys: pytest.CaptureFixture[str]):
    """Descriptors, threads, processes and memory of the parent stay as they were after the first tasks."""
    total = 10_000_000
    f = parallel(tasks.identity, workers=2)
    measures = []
    for number, value in enumerate(_results(f, how, total)):
        assert value == number or how == "imap_unordered"
        if number % (total // 10) == total // 20:
            measures.append(_measure())

    with capsys.disabled():
        print("\n", how, measures[0], measures[-1])
    assert measures[-1]["threads"] <= measures[0]["threads"]  # that of a test before may end meanwhile
    assert measures[-1]["processes"] == measures[0]["processes"]
    assert measures[-1]["descriptors"] == measures[0]["descriptors"]
    assert measures[-1]["segments"] <= 2 * 2 * 2  # for each worker and either way, one for each chunk in flight
    assert measures[-1]["megabytes"] - measures[0]["megabytes"] < 20


def _results(f: Any, how: str, total: int) -> Any:
    if how == "submit":
        numbers = iter(range(total))
        while futures := [f.submit(number) for number in itertools.islice(numbers, 10_000)]:
            yield from (future.result() for future in futures)
    elif how == "generator":
        yield from f.imap(number for number in range(total))
    else:
        yield from getattr(f, how)(range(total))


def test_many_pools():
    """Pools that come and go leave nothing behind."""
    before = _measure()
    for round_ in range(200):
        f = parallel(tasks.pid, workers=2, env={"ROUND": str(round_)})
        assert os.getpid() not in f.map(range(4))
        f.shutdown()
    after = _measure()

    assert (after["descriptors"], after["segments"]) == (before["descriptors"], before["segments"])
    assert after["processes"] == before["processes"]
    assert after["megabytes"] - before["megabytes"] < 20


# --- large payloads among deaths ------------------------------------------------------------------

SMALLEST, LARGEST = 10_000, 20_000_000


def _parcels(count: int) -> Any:
    """Parcels of all sizes, as many of ten kilobytes as of ten megabytes."""
    sizes = random.Random(1)
    for number in range(count):
        yield parcel(number, int(math.exp(sizes.uniform(math.log(SMALLEST), math.log(LARGEST)))))


def _outcomes_of_parcels(f: Any, how: str, count: int) -> Any:
    if how == "imap":
        yield from f.imap(_parcels(count), buffersize=16, return_exceptions=True)
        return
    parcels = _parcels(count)
    while futures := [f.submit(parcel) for parcel in itertools.islice(parcels, 16)]:
        for future in futures:
            yield future.exception() or future.result()


def _stop_all() -> None:
    shutdown()
    wait_until(lambda: not children())
    wait_until(lambda: not any(thread.name.startswith("parmap-engine") for thread in threading.enumerate()))


def _memory_files() -> int:
    """How many maps and descriptors of this process are shared memory of parmap's."""
    with open("/proc/self/maps") as maps:
        mapped = sum("memfd:parmap" in line for line in maps)
    return mapped + sum("memfd:parmap" in file for file in _open_files())


@pytest.mark.parametrize(("how", "retries"), [("imap", 20), ("submit", 0)])
def test_large_payloads_among_deaths(how: str, retries: int, capsys: pytest.CaptureFixture[str]):
    """Workers are killed while arrays travel both ways: each task is right or says that its worker died, nothing leaks."""
    count = 10_000
    assert parallel(reply, workers=4).map([parcel(1, SMALLEST)])[0][0]
    _stop_all()
    before, named = _measure(), sorted(os.listdir("/dev/shm"))
    f = parallel(reply, workers=4, retries=retries)
    died = wrong = 0
    peak = 0.0
    with Killer(f, 0.5) as killer:
        for number, outcome in enumerate(_outcomes_of_parcels(f, how, count)):
            if isinstance(outcome, WorkerDiedError):
                died += 1
                assert _attempts(outcome) == retries + 1
            elif isinstance(outcome, Exception) or not (outcome[0] and is_whole(outcome[1], -number & 0xFFFFFFFF)):
                wrong += 1
            if not number % 100:
                peak = max(peak, _measure()["megabytes"])
        del outcome
    assert number == count - 1
    _stop_all()
    after = _measure()

    with capsys.disabled():
        print("\n", how, retries, killer.count, "killed,", died, "died,", f"{peak:.0f} MB at most", before, after)
    assert wrong == 0
    assert died == 0 or not retries
    assert killer.count > 50
    assert (after["descriptors"], _memory_files(), children()) == (before["descriptors"], 0, [])
    assert sorted(os.listdir("/dev/shm")) == named
    assert after["megabytes"] - before["megabytes"] < 100
    assert peak - before["megabytes"] < 1900  # tests before this one leave much, hypothesis above all
