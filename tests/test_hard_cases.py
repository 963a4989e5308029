"""Cases that each break at least one of the process pools that are in use today."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import tasks
from inspection import is_gone, kill, pids_of
from tasks import identity, nap, pid, square
from tasks_that_die import size, wait_for
from tasks_that_sabotage import close_everything, close_everything_at_one, nested

import parmap
from conftest import wait_until
from parmap import SerializationError, WorkerDiedError, parallel
from parmap.backends._processes.line.segments import Limits

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Script

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


def test_a_helper_that_outlives_its_worker(tmp_path: Path) -> None:
    """A process that a task leaves behind holds the worker's channel open; the death is noticed all the same."""
    path = tmp_path / "helper"

    def task(_: Any) -> None:
        helper = os.fork()
        if helper == 0:
            os.setsid()
            path.write_text(str(os.getpid()))
            time.sleep(60)
            os._exit(0)
        while not path.exists() or not path.read_text():
            time.sleep(0.001)
        os._exit(4)

    function = parallel(task, workers=1)
    try:
        error = function.submit(0).exception(timeout=30)

        assert isinstance(error, WorkerDiedError)
        assert error.exitcode == 4
    finally:
        kill(int(path.read_text()))


def test_the_children_of_a_task_die_with_its_worker(tmp_path: Path) -> None:
    """A worker that is stopped takes the processes that its task started along."""
    path = tmp_path / "child"

    def task(_: Any) -> None:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        path.write_text(f"{child}\n")
        time.sleep(60)

    future = parallel(task, workers=1).submit(0)
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))

    assert future.cancel()
    wait_until(lambda: is_gone(int(path.read_text())))


@pytest.mark.parametrize("method", ["map", "submit"])
def test_a_forked_child_that_falls_through(method: str) -> None:
    """A task forks, and its child returns like a task: nobody hears from it, and the results stand."""

    def task(number: int) -> tuple[int, bool]:
        parent = os.getpid()
        os.fork()
        return number, os.getpid() == parent

    function = parallel(task, workers=2)

    for _ in range(5):
        if method == "map":
            results = function.map(range(10))
        else:
            results = [future.result(timeout=30) for future in [function.submit(number) for number in range(10)]]
        assert results == [(number, True) for number in range(10)]


@pytest.mark.parametrize("method", ["map", "submit"])
def test_a_forked_child_ends_as_a_program_does(method: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The child of a task that returns, exits or raises has the status for that, and what it printed is seen, once."""

    def task(number: int) -> int:
        print("begun", end="")
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print("child", number)
        if number == 1:
            sys.exit(3)
        return 1 // (2 - number)

    function = parallel(task, workers=1)
    found = function.map(range(3)) if method == "map" else [function.submit(number).result() for number in range(3)]

    assert found == [0, 3, 1]
    out, err = capfd.readouterr()
    assert [out.count(f"child {number}\n") for number in range(3)] == [1, 1, 1]
    assert out.count("begun") == 3
    assert "ZeroDivisionError" in err


@pytest.mark.parametrize("how", ["left", "cancelled"])
def test_items_without_a_hash_that_are_stopped(tmp_path: Path, how: str) -> None:
    """Lists, dicts and arrays are items, too: that one of them is stopped is nobody else's business."""
    begun, never, ours, go = (str(tmp_path / name) for name in ("begun", "never", "ours", "go"))
    wait = parallel(lambda paths: tasks.touch_and_wait_for(*paths), workers=2)
    other = wait.submit([ours, go])
    wait_until(lambda: os.path.exists(ours))

    if how == "left":
        with wait.imap([[begun, never]]):
            wait_until(lambda: os.path.exists(begun))
            pids = pids_of(wait)
    else:
        batch = wait.map_async([[begun, never]])
        wait_until(lambda: os.path.exists(begun))
        pids = pids_of(wait)
        batch.cancel()
    wait_until(lambda: any(map(is_gone, pids)))
    tasks.touch(go)

    assert other.result() == go


@pytest.mark.parametrize("call", ["map", "submit"])
def test_a_task_that_closes_all_descriptors(call: str) -> None:
    """Its worker has lost its line: that costs the item, and the pool goes on."""
    function = parallel(close_everything, workers=2)

    outcome = (
        function.map([0], return_exceptions=True)[0] if call == "map" else function.submit(0).exception(timeout=30)
    )

    assert isinstance(outcome, WorkerDiedError)
    assert parallel(square, workers=2).map(range(10)) == [number * number for number in range(10)]


@pytest.mark.parametrize("options", [{}, {"timeout": 60}, {"chunksize": 20}], ids=str)
def test_the_items_beside_one_that_closes_all_descriptors(options: dict[str, Any]) -> None:
    """The worker dies when it is to report, items later: that costs the item that did it, and no other."""
    results = parallel(close_everything_at_one, workers=2, **options).map(range(20), return_exceptions=True)

    assert [type(result) for result in results] == [int, WorkerDiedError, *[int] * 18]


def test_a_task_that_changes_its_surroundings(tmp_path: Path) -> None:
    """Working directory, signal handlers, recursion limit and output of one task don't hurt the next."""

    def task(number: int) -> str:
        before = os.getcwd()
        os.chdir(tmp_path)
        for signum in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGUSR1):
            signal.signal(signum, signal.SIG_IGN)
        sys.setrecursionlimit(200 + number)
        sys.stdout = sys.stderr = None  # type: ignore[assignment]
        print("nobody hears this")
        return before

    assert set(parallel(task, workers=2).map(range(50), chunksize=1)) == {os.getcwd()}


def test_a_task_that_ignores_termination_can_be_stopped(tmp_path: Path) -> None:
    """A worker that ignores SIGTERM is killed."""
    gate = tmp_path / "gate"

    def task() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        wait_for(str(gate))

    function = parallel(task, workers=1)
    future = function.submit()
    wait_until(lambda: list(tmp_path.glob("gate.*")))
    (worker,) = pids_of(function)

    assert future.cancel()
    wait_until(lambda: is_gone(worker))


def test_a_task_that_leaves_a_thread() -> None:
    """A thread that never ends does not hold its worker when the pool stops."""

    def task(number: int) -> int:
        threading.Thread(target=time.sleep, args=(600,), daemon=False).start()
        return number

    function = parallel(task, workers=2)
    assert function.map(range(4)) == [0, 1, 2, 3]
    workers = pids_of(function)

    parmap.shutdown()

    assert all(map(is_gone, workers))


def test_sigchld_ignored_in_the_parent(script: Script) -> None:
    """The template learns of deaths though its parent ignores SIGCHLD, which `exec` hands on."""
    done = script.run("""
        import os, signal
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        from parmap import parallel

        def task(number):
            if number == 3:
                os._exit(5)
            return number

        outcomes = parallel(task, workers=2).map(range(6), return_exceptions=True)
        print([getattr(outcome, "exitcode", outcome) for outcome in outcomes])
    """)

    assert (done.stdout, done.stderr, done.returncode) == ("[0, 1, 2, 5, 4, 5]\n", "", 0)


def test_a_stopped_worker_does_not_stop_the_others() -> None:
    """While one worker is held by SIGSTOP the other one does all the work that is left."""
    function = parallel(nap, workers=2)
    function.map([0.001] * 20)
    victim = pids_of(function)[0]
    os.kill(victim, signal.SIGSTOP)
    try:
        stream = function.imap_unordered([0.001] * 200, return_exceptions=True)
        results = [next(stream) for _ in range(150)]

        assert results == [0.001] * 150
    finally:
        os.kill(victim, signal.SIGCONT)
    assert len(list(stream)) == 50


def test_many_calls_while_a_worker_is_stopped() -> None:
    """Calls of one task each go past a worker that does not answer."""
    function = parallel(square, workers=2)
    function.map(range(100))
    victim = pids_of(function)[0]
    os.kill(victim, signal.SIGSTOP)
    try:
        futures = [function.submit(number) for number in range(50)]
        wait_until(lambda: sum(future.done() for future in futures) >= 45)
    finally:
        os.kill(victim, signal.SIGCONT)
    assert [future.result(timeout=30) for future in futures] == [number * number for number in range(50)]


@pytest.mark.parametrize("method", ["map", "imap", "submit"])
def test_an_argument_nested_too_deep(method: str) -> None:
    """An argument that can't be pickled for its depth fails its own item; the items beside it have results."""
    function = parallel(size, workers=2)
    items: list[Any] = [[1], nested(100_000), [1, 2, 3]]

    if method == "submit":
        futures = [function.submit(item) for item in items]
        outcomes = [future.exception(timeout=30) or future.result() for future in futures]
    else:
        outcomes = list(getattr(function, method)(items, return_exceptions=True))

    assert (outcomes[0], outcomes[2]) == (1, 3)
    assert isinstance(outcomes[1], SerializationError)
    assert "recursion" in str(outcomes[1])


def test_a_result_nested_too_deep() -> None:
    """So does a result."""
    outcomes = parallel(nested, workers=2).map([1, 100_000, 2], return_exceptions=True)

    assert (outcomes[0], outcomes[2]) == ([[]], [[[]]])
    assert isinstance(outcomes[1], SerializationError)


@pytest.mark.parametrize("segments", [True, False], ids=["segments", "socket"])
@pytest.mark.soak
def test_payloads_above_two_and_four_gigabytes(segments: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that don't fit into 32 bits travel, both ways."""
    monkeypatch.setattr(Limits, "enabled", segments)
    for gigabytes in (2.1, 4.1) if segments else (2.1,):
        length = int(gigabytes * (1 << 30))
        result = parallel(identity, workers=1).submit(bytes(length)).result(timeout=150)

        assert len(result) == length
        del result


def test_a_low_limit_of_descriptors(script: Script) -> None:
    """Under a limit of 64 descriptors calls work, large payloads included, or say clearly why not."""
    done = script.run("""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        from parmap import parallel
        work = parallel(len, workers=4)
        print(sum(work.map(["a" * 100_000] * 200)))
        print(sum(work.submit(bytes(200_000)).result() for _ in range(50)))
        print(sum(map(len, parallel(bytes, workers=4).map([100_000] * 200))))
    """)

    assert (done.stdout, done.stderr) == ("20000000\n10000000\n20000000\n", "")


def test_too_few_descriptors_for_the_workers(script: Script) -> None:
    """Where there are descriptors for some workers only, the work is done by these."""
    done = script.run("""
        import os, resource
        held = [os.open(os.devnull, os.O_RDONLY) for _ in range(32)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        from parmap import parallel
        print(parallel(abs, workers=20).map(range(5)))
        print(sum(parallel(abs, workers=20).map(range(1000))))
    """)

    assert (done.stdout, done.stderr) == ("[0, 1, 2, 3, 4]\n499500\n", "")


@pytest.mark.parametrize("settings", [(False, 65536), (True, 0), (True, 1)], ids=["off", "all", "most"])
def test_payloads_with_and_without_segments(settings: tuple[bool, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether payloads go through segments or through the socket, they arrive the same, in any size."""
    monkeypatch.setattr(Limits, "enabled", settings[0])
    monkeypatch.setattr(Limits, "smallest", settings[1])
    function = parallel(identity, workers=2)
    items: list[Any] = [b"", b"x" * 10, bytearray(1 << 20), ["y" * (1 << 20)], {"k": bytes(5 << 20)}, (), None]

    assert function.map(items) == items
    assert list(function.imap(items)) == items
    assert [function.submit(item).result(timeout=30) for item in items] == items


def test_segments_appear_full(script: Script) -> None:
    """Without room for shared memory payloads go through the socket."""
    done = script.run("""
        from parmap.backends._processes.line import segments
        from parmap import parallel

        def full(*args):
            raise OSError(28, "No space left on device")

        segments.sealed = full
        print(sum(map(len, parallel(bytes, workers=2).map([1 << 20] * 20))))
        print(sum(parallel(len, workers=2).map([bytes(1 << 20)] * 20)))
    """)

    assert (done.stdout, done.stderr) == ("20971520\n20971520\n", "")


def test_a_stream_dropped_with_slow_tasks_behind_it() -> None:
    """Nobody waits for the thousand slow tasks of a stream that is gone, whichever way it went."""
    function = parallel(nap, workers=2)
    began = time.monotonic()

    stream = function.imap([0.0, *[30.0] * 1000], chunksize=1)
    next(stream)
    stream.close()
    stream = function.imap([0.0, *[30.0] * 1000], chunksize=1)
    next(stream)
    del stream
    gc.collect()
    with pytest.raises(ZeroDivisionError), function.imap([0.0, *[30.0] * 1000], chunksize=1) as stream:  # noqa: PT012
        next(stream)
        1 / 0  # noqa: B018 - an error in the loop of the consumer

    assert function.map([0.0, 0.0]) == [0.0, 0.0]
    parmap.shutdown()
    assert time.monotonic() - began < 30


def test_a_stream_in_a_cycle_is_collected() -> None:
    """A stream that only the garbage collector finds is cancelled by it, without harm."""
    function = parallel(nap, workers=2)
    holder: dict[str, Any] = {}
    holder["self"] = holder
    holder["stream"] = function.imap([0.0, *[30.0] * 1000], chunksize=1)
    next(holder["stream"])
    del holder
    gc.collect()

    assert function.map([0.0, 0.0]) == [0.0, 0.0]


def test_the_thread_that_made_the_pool_ends() -> None:
    """A pool outlives the thread that first used it."""
    function = parallel(pid, workers=2)
    thread = threading.Thread(target=lambda: function.map(range(20)))
    thread.start()
    thread.join()
    before = set(pids_of(function))

    assert set(function.map(range(20))) <= before
