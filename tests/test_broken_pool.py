"""Ways to break a pool, found by trying: each costs what it must, and nothing hangs."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import tasks_that_sabotage as bad
from inspection import is_gone, kill, pids_of, ready_pids_of
from tasks import identity, nap, pid, square

import parmap
from conftest import wait_until
from parmap import SerializationError, WorkerDiedError, parallel

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sabotage is for Linux")
SQUARES = [number * number for number in range(20)]
how = pytest.mark.parametrize("method", ["map", "submit"])


def outcome_of(function: Any, method: str, item: Any = 0) -> Any:
    """The result or the error of one item."""
    if method == "map":
        return function.map([item], return_exceptions=True)[0]
    parallel(identity, workers=1).map([0])
    future = function.submit(item)
    return future.exception(timeout=30) or future.result()


def is_well() -> bool:
    """Whether the shared pool does its work."""
    function = parallel(square, workers=1)
    return function.map(range(20)) == SQUARES and function.submit(3).result(timeout=30) == 9


@how
@pytest.mark.parametrize(
    "task",
    [
        bad.write_garbage,
        bad.write_half_a_frame,
        bad.write_a_false_frame,
        bad.shut_the_channel,
        bad.replace_the_channel,
    ],
    ids=lambda task: task.__name__,
)
def test_a_task_that_spoils_the_channel(task: Any, method: str) -> None:
    """Noise in a worker's line costs the item that made it; the worker is replaced."""
    assert isinstance(outcome_of(parallel(task, workers=1), method), WorkerDiedError)
    assert is_well()


@how
def test_a_task_that_kills_the_template(method: str) -> None:
    """The task goes on to its end, and so does the pool."""
    function = parallel(bad.kill_the_template, workers=1)

    assert [outcome_of(function, method) for _ in range(3)] == [1, 1, 1]
    assert is_well()


@how
def test_a_task_that_kills_its_group(method: str) -> None:
    """A worker that kills all of its process group has killed itself only."""
    assert outcome_of(parallel(bad.kill_own_group, workers=1), method).signal == signal.SIGKILL
    assert is_well()


@pytest.mark.parametrize("task", [bad.leave_the_group, bad.block_all_signals], ids=lambda task: task.__name__)
def test_a_task_that_hides_from_signals(task: Any, tmp_path: Path) -> None:
    """A task that can't be reached by its group, or by SIGTERM, is stopped all the same."""
    path = tmp_path / "pid"
    future = parallel(task, workers=1).submit(str(path))
    wait_until(lambda: path.exists() and path.read_text())

    assert future.cancel()
    wait_until(lambda: is_gone(int(path.read_text())))
    assert is_well()


def test_a_task_that_hides_is_stopped_at_its_timeout(tmp_path: Path) -> None:
    """A timeout reaches it, too."""
    function = parallel(bad.leave_the_group, workers=1, timeout=0.2)

    with pytest.raises(parmap.TaskTimeoutError):
        function.map([str(tmp_path / "pid")])


def test_a_task_that_leaves_a_bomb() -> None:
    """A worker that is killed by what a task left behind costs at most the item that it then runs."""
    function = parallel(bad.set_a_bomb, workers=1)
    for _ in range(10):
        worker = function.submit(0).exception(timeout=30) or function.submit(0)
        assert worker

    assert parallel(square, workers=1, retries=3).map(range(20)) == SQUARES


@pytest.mark.parametrize(
    "task", [bad.forget_all_modules, bad.break_pickle, bad.break_streams], ids=lambda task: task.__name__
)
@how
def test_a_task_that_breaks_its_interpreter(task: Any, method: str) -> None:
    """Each item has an outcome, whatever is left of the worker."""
    function = parallel(task, workers=1)

    outcomes = [outcome_of(function, method, number) for number in range(3)]

    assert all(outcome in range(3) or isinstance(outcome, Exception) for outcome in outcomes)
    function.shutdown()
    assert is_well()


@how
def test_an_item_whose_class_has_no_hash(method: str) -> None:
    """Pickle can't send it, whether argument or result: that is its own error."""
    sent = outcome_of(parallel(identity, workers=1), method, bad.OfUnhashableType())
    made = outcome_of(parallel(bad.make_unhashable, workers=1), method, 3)

    assert isinstance(sent, SerializationError)
    assert isinstance(made, SerializationError)
    assert is_well()


def test_items_of_odd_classes_in_every_call() -> None:
    """Nor do they harm their neighbours."""
    function = parallel(identity, workers=2)
    items = [1, bad.OfUnhashableType(), "a", 2]

    for results in (
        function.map(items, return_exceptions=True),
        list(function.imap(iter(items), return_exceptions=True)),
        function.starmap([(item,) for item in items], return_exceptions=True),
    ):
        assert [results[0], *results[2:]] == [1, "a", 2]


@how
def test_an_argument_that_claims_to_be_an_int(method: str) -> None:
    """An object that lies about its class has an outcome."""
    outcome = outcome_of(parallel(identity, workers=1), method, bad.LyingClass())

    assert type(outcome) is bad.LyingClass or isinstance(outcome, SerializationError)


@how
@pytest.mark.parametrize("name", bad.ERRORS)
def test_a_hostile_exception(name: str, method: str) -> None:
    """An exception that takes no notes, can't be changed, or ends the program when asked for its text, is an error."""
    function = parallel(bad.throw, workers=1)
    before = outcome_of(parallel(pid, workers=1), method)

    outcome = outcome_of(function, method, name)

    assert isinstance(outcome, Exception)
    assert not isinstance(outcome, WorkerDiedError)
    assert outcome_of(parallel(pid, workers=1), method) == before


@how
def test_an_argument_without_a_text(method: str) -> None:
    """A failing task whose argument ends the program when it is asked for its text fails with its own error."""
    outcome = outcome_of(parallel(bad.fail_rudely, workers=1), method, bad.Rude())

    assert (type(outcome), str(outcome)) == (ValueError, "rude")
    assert is_well()


@how
def test_a_death_over_an_argument_without_a_text(method: str) -> None:
    """Nor does such an argument hide a death."""
    outcome = outcome_of(parallel(lambda _: os._exit(3), workers=1), method, bad.Rude())

    assert isinstance(outcome, WorkerDiedError)
    assert is_well()


@how
def test_a_hostile_function(method: str) -> None:
    """A callable that can't be hashed or compared, and has any attribute one asks for, runs."""
    function = parallel(bad.HostileFunction(), workers=1)

    assert [outcome_of(function, method, number) for number in range(3)] == [0, 1, 4]


def test_an_input_that_uses_the_pool() -> None:
    """The iterator that feeds a call may use the same pool."""
    function = parallel(square, workers=1)

    def items() -> Any:
        for number in range(20):
            yield function.submit(number).result(timeout=30)
            yield from function.map([number])

    assert function.map(items()) == [number**4 for number in range(20) for _ in range(2)]
    assert list(function.imap(items())) == [number**4 for number in range(20) for _ in range(2)]


def test_an_input_that_stops_the_pool() -> None:
    """An iterator that shuts the pool down in the middle of the call that reads it ends that call, one way or the other."""
    function = parallel(square, workers=1)

    def items() -> Any:
        yield from range(10)
        parmap.shutdown(wait=False)
        yield from range(10)

    for method in (function.map, lambda source: list(function.imap(source))):
        try:
            assert method(items()) == [number * number for number in range(10)] * 2
        except parmap.PoolClosedError:
            pass
        assert is_well()


def test_an_argument_that_uses_the_pool_while_it_is_pickled() -> None:
    """It can't wait for the pool that is waiting for it, and is told so; its neighbours have results."""
    function = parallel(identity, workers=1)
    stuck = parallel(square, workers=1)

    class Waits:
        def __reduce__(self) -> Any:
            return int, (stuck.submit(3).result(),)

    outcomes = function.map([1, Waits(), 2], return_exceptions=True)

    assert (outcomes[0], outcomes[2]) == (1, 2)
    assert outcomes[1] == 9 or isinstance(outcomes[1], Exception)


def test_shutdown_in_the_middle_of_everything() -> None:
    """Pools that are stopped again and again while threads use them lose no work: each call has its result or says why."""
    function = parallel(square, workers=2)
    stop = threading.Event()
    wrong: list[Any] = []

    def work() -> None:
        while not stop.is_set():
            try:
                if function.map(range(20)) != SQUARES or function.submit(3).result(timeout=30) != 9:
                    wrong.append("wrong result")
            except parmap.PoolClosedError:
                pass
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        parmap.shutdown()
    stop.set()
    for thread in threads:
        thread.join(timeout=30)

    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_chaos_with_retries() -> None:
    """Workers that are killed at random moments delay the work, and change no result."""
    function = parallel(square, workers=2, retries=50)
    items = list(range(20_000))
    over = threading.Event()

    def murder() -> None:
        draw = random.Random(1)
        was_ready = False
        dead: set[int] = set()  # the engine may not have heard of it yet
        while not over.wait(draw.uniform(0.001, 0.02)):
            # Where workers start slowly, several in a row would die while they start, and that is an error rightly.
            ready = {*ready_pids_of(function)} - dead
            found = {*pids_of(function)} - dead if was_ready else ready
            for process in draw.sample(sorted(found), min(1, len(found))):
                was_ready = process in ready
                dead.add(process)
                kill(process)

    killer = threading.Thread(target=murder)
    killer.start()
    try:
        results = [function.map(items) for _ in range(3)]
        futures = [function.submit(number) for number in range(500)]
        singles = [future.result(timeout=60) for future in futures]
        streamed = list(function.imap(items))
    finally:
        over.set()
        killer.join()

    assert results == [[number * number for number in items]] * 3
    assert singles == [number * number for number in range(500)]
    assert streamed == [number * number for number in items]


def test_a_storm_of_cancellations() -> None:
    """Futures that are cancelled at any moment are cancelled or have results; no other one is touched."""
    function = parallel(nap, workers=2)
    draw = random.Random(2)
    kept, dropped = [], []
    for number in range(300):
        future = function.submit(0.001)
        (dropped if draw.random() < 0.4 else kept).append(future)
        if number % 3 == 0 and dropped:
            draw.choice(dropped).cancel()
    for future in dropped:
        future.cancel()

    assert [future.result(timeout=60) for future in kept] == [0.001] * len(kept)
    assert all(future.done() for future in dropped)


def test_a_file_size_limit_in_the_worker() -> None:
    """A worker that may not write files sends its large results all the same."""

    def task(length: int) -> bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        return bytes(length)

    assert list(map(len, parallel(task, workers=1).map([1 << 20] * 5))) == [1 << 20] * 5


def test_a_cpu_limit_in_the_worker() -> None:
    """A worker that has used up its processor time dies like any other."""

    def task() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
        while True:
            pass

    error = parallel(task, workers=1).submit().exception(timeout=60)

    assert isinstance(error, WorkerDiedError)
    assert error.signal in (signal.SIGXCPU, signal.SIGKILL)


def test_limits_of_the_program(script: Script) -> None:
    """A program that may not write files, or start processes, is told clearly, or works."""
    script.environment.pop("COVERAGE_PROCESS_CONFIG", None)  # what is measured would be written to a file
    for limit in ("RLIMIT_FSIZE", "RLIMIT_NPROC"):
        done = script.run(f"""
            import resource
            from parmap import ParmapError, parallel
            resource.setrlimit(resource.{limit}, (0, resource.getrlimit(resource.{limit})[1]))
            try:
                print(parallel(abs, workers=2).map([-1, -2]))
            except (ParmapError, OSError) as error:
                print("told:", error)
        """)

        assert done.stdout.startswith(("[1, 2]", "told:")), (limit, done.stderr)
        assert done.stderr == ""


@pytest.mark.parametrize("executable", ["", None, "/nonexistent/python", "/bin/false"])
def test_no_interpreter_to_start(script: Script, executable: str | None) -> None:
    """Where `sys.executable` is of no use, nor is there one beside, the call fails clearly, and does not try for ever."""
    done = script.run(f"""
        import sys
        sys.executable = {executable!r}
        sys.exec_prefix = "/nonexistent"
        from parmap import ParmapError, parallel
        for _ in range(2):
            try:
                parallel(abs, workers=2).map([-1, -2])
            except (ParmapError, OSError) as error:
                print("told")
    """)

    assert (done.stdout, done.stderr) == ("told\ntold\n", "")


def test_an_atexit_callback_that_never_returns(script: Script) -> None:
    """A callback that a task registered can delay the end of its worker, not prevent it."""
    done = script.run("""
        import atexit, time
        from parmap import parallel

        def task(number):
            atexit.register(time.sleep, 600)
            return number

        print(parallel(task, workers=1).map([1]))
    """)

    assert (done.stdout, done.stderr, done.returncode) == ("[1]\n", "", 0)
