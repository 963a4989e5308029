"""`timeout`: exact to the item; whatever the task does, its worker is killed, and nobody else notices."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import tasks
import tasks_that_hang as hang
from inspection import is_gone, let_stand

from conftest import wait_until
from parmap import TaskTimeoutError, override, parallel
from parmap._work.page import DUMP_SIGNAL
from parmap.backends._processes import stopping

if TYPE_CHECKING:
    from conftest import Script

pytestmark = pytest.mark.usefixtures("pools_stay")

LIMIT = 0.5


@pytest.mark.parametrize(
    "task",
    [hang.sleep, hang.spin, hang.hold_the_gil, hang.ignore_signals, hang.exit_again],
    ids=lambda task: task.__name__,
)
def test_any_task_can_be_stopped(processes: dict[str, Any], task: Any):
    """In a system call, in a loop, in C with the GIL held, ignoring signals, catching everything."""
    with pytest.raises(TaskTimeoutError):
        parallel(task, timeout=LIMIT, **processes).map([1])


@pytest.mark.parametrize("task", [hang.sleep, hang.hold_the_gil], ids=lambda task: task.__name__)
def test_a_single_task_can_be_stopped(processes: dict[str, Any], task: Any):
    """So can a task of `submit`; it has no number."""
    error = parallel(task, timeout=LIMIT, **processes).submit().exception(60)

    assert isinstance(error, TaskTimeoutError)
    assert (error.item, error.timeout) == (None, LIMIT)


@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_a_task_that_ends_when_it_is_terminated(processes: dict[str, Any], chunksize: int | None, tmp_path: Any):
    """It is late all the same, also if its worker has begun the next item meanwhile; and it does not run again."""
    logs = [str(tmp_path / str(number)) for number in range(3)]
    f = parallel(hang.until_terminated, timeout=LIMIT, deadline=60, **{**processes, "workers": 1})
    results = f.map(logs, chunksize=chunksize, return_exceptions=True)

    assert [(type(each), getattr(each, "item", None), getattr(each, "timeout", None)) for each in results] == [
        (TaskTimeoutError, number, LIMIT) for number in range(3)
    ]
    assert (tmp_path / "0").read_text() == "begun\n"
    assert type(f.options(deadline=None).submit(logs[0]).exception(60)) is TaskTimeoutError


@pytest.mark.parametrize("chunksize", [None, 1, 50])
def test_it_is_exact_to_the_item(processes: dict[str, Any], chunksize: int | None):
    """In the middle of a chunk, one item pays; those before and behind it have their results."""
    items = [-1 if number in {7, 61} else number for number in range(100)]
    f = parallel(hang.hang_if_negative, timeout=LIMIT, **processes)
    results = f.map(items, chunksize=chunksize, return_exceptions=True)

    failed = {place: result for place, result in enumerate(results) if isinstance(result, Exception)}
    assert {place: (type(error), error.item) for place, error in failed.items()} == {
        7: (TaskTimeoutError, 7),
        61: (TaskTimeoutError, 61),
    }
    assert [result for result in results if isinstance(result, int)] == [item for item in items if item >= 0]


def test_it_is_exact_among_short_tasks(processes: dict[str, Any]):
    """Of a thousand tasks of `submit`, which travel together, one pays."""
    f = parallel(hang.hang_if_negative, timeout=LIMIT, **processes)
    futures = [f.submit(-1 if number == 500 else number) for number in range(1000)]
    errors = {number: future.exception(60) for number, future in enumerate(futures)}

    assert {number: type(error) for number, error in errors.items() if error} == {500: TaskTimeoutError}


def test_results_that_take_long_to_pickle(processes: dict[str, Any], tmp_path: Any):
    """What has run is not run again by a worker that has nothing to do, and has one result."""
    path = tmp_path / "log"
    f = parallel(hang.note_and_return_late, timeout=30, **processes).partial(str(path))
    f.map([-1] * 200)
    path.unlink()

    assert f.map(range(6)) == list(range(6))
    assert sorted(map(int, path.read_text().split())) == list(range(6))


@pytest.mark.parametrize("task", [hang.take, hang.give], ids=lambda task: task.__name__)
def test_pickling_counts_too(processes: dict[str, Any], task: Any):
    """An argument that hangs while it is unpickled, or a result while it is pickled, is of one item."""
    items = [hang.Slow(hangs=number == 3) if task is hang.take else number for number in range(6)]
    results = parallel(task, timeout=LIMIT, **processes).map(items, chunksize=6, return_exceptions=True)

    assert [type(result) for result in results] == [bool, bool, bool, TaskTimeoutError, bool, bool]


def test_it_counts_for_each_item(processes: dict[str, Any]):
    """A chunk may take longer than its items may."""
    f = parallel(tasks.nap, timeout=1.0, **processes)

    assert f.map([0.2] * 16, chunksize=8) == [0.2] * 16


def test_it_tells_item_and_limit(processes: dict[str, Any]):
    """The message names the item and the limit, the notes the call."""
    with pytest.raises(TaskTimeoutError) as caught:
        parallel(hang.hang_if_negative, timeout=LIMIT, **processes).map([1, 2, -3])

    assert (caught.value.item, caught.value.timeout) == (2, LIMIT)
    assert "item 2" in str(caught.value)
    assert "0.5 seconds" in str(caught.value)
    assert any("hang_if_negative(-3)" in note for note in caught.value.__notes__)


def test_it_shows_where_the_task_was_stuck(processes: dict[str, Any]):
    """The stack is that of the task, down to the place."""
    with pytest.raises(TaskTimeoutError) as caught:
        parallel(hang.deep, timeout=LIMIT, **processes).map([5])

    assert "the_place_where_it_hangs" in caught.value.stack
    assert caught.value.stack.count("in deep") == 6


def test_it_shows_nothing_but_the_task(processes: dict[str, Any]):
    """The frames below the task, always the same, are left out."""
    with pytest.raises(TaskTimeoutError) as caught:
        parallel(hang.deep, timeout=LIMIT, **processes).map([0])

    head, *lines = caught.value.stack.splitlines()
    frames = [line for line in lines if line.startswith("  File ")]
    assert "most recent call first" in head
    assert [frame.rpartition(" in ")[2] for frame in frames] == ["the_place_where_it_hangs", "deep"]


def test_it_shows_the_stack_of_c_code(processes: dict[str, Any]):
    """Even of a task that holds the GIL in C."""
    with pytest.raises(TaskTimeoutError) as caught:
        parallel(hang.hold_the_gil, timeout=LIMIT, **processes).map([1])

    assert "hold_the_gil" in caught.value.stack


@pytest.mark.parametrize("begins", [0.0, 0.1, 9.9], ids=["at once", "late", "never"])
def test_it_has_time_to_write_its_stack(begins: float, monkeypatch: pytest.MonkeyPatch):
    """On a busy machine a worker may not run for a while; the signal that ends it would be the first that it gets."""
    now, sent = [1000.0], []

    class Page:
        """Which has the stack in two steps."""

        @property
        def written(self) -> int:
            since = now[0] - 1000.0 - begins
            return 0 if since <= 0 else 100 if since < 0.012 else 200

    signals = stopping.Signals({1: SimpleNamespace(page=Page())})  # type: ignore[dict-item]
    monkeypatch.setattr(signals, "send", lambda _, signum: sent.append((signum, now[0] - 1000.0, Page().written)))
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: now[0]))

    signals.stop(1, dump=True)
    while signals.next_time is not None:
        now[0] = signals.next_time
        signals.send_due()

    assert [signum for signum, *_ in sent] == [DUMP_SIGNAL, signal.SIGTERM, signal.SIGKILL]
    ended, written = sent[1][1:]
    assert written == (200 if begins < 1 else 0)
    assert ended < 0.5


def test_others_never_notice(processes: dict[str, Any], tmp_path: Any):
    """What runs on other workers goes on, in the same process as before."""
    free = tmp_path / "free"
    slow = parallel(tasks.wait_for, **processes).submit(str(free))
    stuck = parallel(hang.sleep, timeout=LIMIT, **processes).submit()
    assert isinstance(stuck.exception(60), TaskTimeoutError)

    assert not slow.done()
    free.touch()
    assert slow.result(60) == str(free)


def test_the_worker_is_replaced(processes: dict[str, Any]):
    """Many timeouts, one after the other: the pool has its workers all the same."""
    f = parallel(hang.hang_if_negative, timeout=0.2, **processes)
    results = f.map([-1] * 6 + [5], return_exceptions=True)

    assert [type(result) for result in results] == [TaskTimeoutError] * 6 + [int]
    assert f.map([1, 2, 3]) == [1, 2, 3]


def test_children_of_the_task_go_with_it(processes: dict[str, Any], tmp_path: Any):
    """A process that the stuck task started is stopped, too."""
    path = tmp_path / "child"
    with pytest.raises(TaskTimeoutError):
        parallel(hang.start_a_child, timeout=2.0, **processes).map([str(path)])

    wait_until(lambda: is_gone(int(path.read_text())))


def test_streams_have_timeouts(processes: dict[str, Any]):
    """A stream hands the error out in its place."""
    stream = parallel(hang.hang_if_negative, timeout=LIMIT, **processes).imap([1, -2, 3], return_exceptions=True)

    assert [type(value).__name__ for value in stream] == ["int", "TaskTimeoutError", "int"]


def test_a_timeout_is_retried(processes: dict[str, Any], tmp_path: Any):
    """It is an Exception like others."""
    f = parallel(hang.hang_once, timeout=LIMIT, retries=1, **processes)

    assert f.map([str(tmp_path / "a"), str(tmp_path / "b")])[0] != os.getpid()


@pytest.mark.parametrize("backend", ["threads", "serial"])
def test_backends_that_can_not_kill_refuse_it(backend: Any):
    """No promise that can't be kept: said when decorating."""
    with pytest.raises(ValueError, match="timeout"):
        parallel(tasks.square, timeout=1, backend=backend)


def test_serial_by_override_does_not_enforce_it():
    """A debugger may stop for as long as it likes."""
    f = parallel(tasks.nap, timeout=0.01)
    with override(backend="serial"):
        assert f.map([0.1]) == [0.1]


def _nested(seconds: float) -> list[float]:
    return parallel(tasks.nap, timeout=0.01).map([seconds])


def test_nested_calls_do_not_enforce_it(processes: dict[str, Any]):
    """Inside a worker a batch is part of its task, and so is its time."""
    assert parallel(_nested, **processes).map([0.1]) == [[0.1]]


def test_a_task_that_waits_for_a_stopped_program_is_not_late(script: Script):
    """Nobody takes what it prints, as after Ctrl-Z: it goes on with the program, and has its time still."""
    running = script.start("""
        import os, signal
        from parmap import parallel
        from parmap._core import ledger

        ledger._BEAT = 0.1  # or the program would have to stand still for longer
        me = os.getpid()

        def talk(number):
            if number:
                os.kill(me, signal.SIGSTOP)
                print("x" * 10_000_000)
            return number

        f = parallel(talk, workers=1, timeout=1.5)
        f.map([0, 0])
        print(f.map([1], return_exceptions=True))
    """)
    let_stand(running.pid, seconds=2.0)
    told, errors = running.communicate(timeout=60)

    assert (told[-5:], errors) == ("\n[1]\n", "")
