"""Tests that take minutes: `make soak`."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from typing import Any, Self

import psutil
import pytest
import tasks
from inspection import kill, pids_of
from tasks_that_soak import DIE, HANG, RAISE, fate, live

from parmap import TaskTimeoutError, WorkerDiedError, parallel

pytestmark = pytest.mark.soak


class Killer:
    """Kills a worker from outside every 200 ms."""

    def __init__(self, function: Any) -> None:
        self.count = 0
        self._function = function
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live)

    def _live(self) -> None:
        while not self._over.wait(0.2):
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
    """Whether an item ended as it must, all three attempts considered; the killer may have met one that hung."""
    killed = isinstance(outcome, WorkerDiedError) and outcome.item == number
    what = fate(number)
    if what == RAISE:
        return type(outcome) is ValueError and outcome.args == (number,) and _attempts(outcome) == 3
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
    return {
        "descriptors": me.num_fds(),
        "threads": me.num_threads(),
        "processes": len(me.children(recursive=True)),
        "megabytes": me.memory_info().rss / 1e6,
    }


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
    assert (measures[-1]["threads"], measures[-1]["processes"]) == (measures[0]["threads"], measures[0]["processes"])
    # A few segments come and go: there are as many as are in use at once.
    assert measures[-1]["descriptors"] <= measures[0]["descriptors"] + 4
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

    assert (after["descriptors"], after["processes"]) == (before["descriptors"], before["processes"])
    assert after["megabytes"] - before["megabytes"] < 20
