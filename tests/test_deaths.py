"""A worker that dies costs the item it was running, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from inspection import (
    engine_of,
    engines,
    is_gone,
    kill,
    pids_of,
    ready_pids_of,
    state_of,
    template_of,
    wait_until_leased,
    workers_of,
)
from tasks import pid, square
from tasks_that_die import (
    be_the_only_one,
    big,
    die_the_first_times,
    perish,
    size,
    wait_for,
)

import parmap
from conftest import wait_until
from parmap import WorkerDiedError, parallel
from parmap.backends._processes.launcher import Launcher, kill_group
from parmap.backends._processes.line.segments import Limits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Script

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

# What the error says: exit code and signal.
DEATHS = {
    "exit 3": (3, None),
    "exit 0": (0, None),
    "sys.exit 3": (3, None),
    "sys.exit": (0, None),
    "kill": (None, signal.SIGKILL),
    "terminate": (None, signal.SIGTERM),
    "segfault": (None, signal.SIGSEGV),
    "abort": (None, signal.SIGABRT),
}
CULPRIT = 7


def by_map(function: Any, items: list[Any]) -> list[Any]:
    return function.map(items, return_exceptions=True)


def by_imap(function: Any, items: list[Any]) -> list[Any]:
    return list(function.imap(items, return_exceptions=True))


def by_map_async(function: Any, items: list[Any]) -> list[Any]:
    return function.map_async(items, return_exceptions=True).result(timeout=60)


def by_submit(function: Any, items: list[Any]) -> list[Any]:
    return [future.exception(timeout=60) or future.result() for future in [function.submit(item) for item in items]]


def direct(function: Any, items: list[Any]) -> list[Any]:
    """Submit from the calling thread to an idle worker, each task after the one before."""
    outcomes = []
    for item in items:
        function.submit("warm").result(timeout=60)
        wait_until_leased(function)
        future = function.submit(item)
        outcomes.append(future.exception(timeout=60) or future.result())
    return outcomes


calls = pytest.mark.parametrize("call", [by_map, by_imap, by_map_async, by_submit, direct])


@pytest.mark.usefixtures("pools_stay")
@calls
@pytest.mark.parametrize("how", DEATHS)
def test_a_death_costs_one_item(call: Callable[..., list[Any]], how: str) -> None:
    """The item fails with an error that says what happened to whom; the others complete, and the pool goes on."""
    function = parallel(perish, workers=2)
    items: list[Any] = [str(number) for number in range(20)]
    items[CULPRIT] = how

    outcomes = call(function, items)

    error = outcomes[CULPRIT]
    assert isinstance(error, WorkerDiedError)
    assert (error.exitcode, error.signal) == DEATHS[how]
    assert error.item == (None if call in (by_submit, direct) else CULPRIT)
    assert error.pid
    assert error.pid != os.getpid()
    assert f"pid {error.pid}" in str(error)
    assert [*outcomes[:CULPRIT], *outcomes[CULPRIT + 1 :]] == [*items[:CULPRIT], *items[CULPRIT + 1 :]]
    assert function.map(["again"] * 5) == ["again"] * 5


@pytest.mark.usefixtures("pools_stay")
@pytest.mark.parametrize("how", ["exit 3", "kill", "segfault", "sys.exit 3"])
def test_either_start_method_tells_of_deaths(processes: dict[str, Any], how: str) -> None:
    """Forked and spawned workers die in the same way."""
    function = parallel(perish, **processes)

    outcomes = function.map(["a", how, "b"], return_exceptions=True)

    assert (outcomes[0], outcomes[2]) == ("a", "b")
    assert (outcomes[1].item, outcomes[1].exitcode, outcomes[1].signal) == (1, *DEATHS[how])


@pytest.mark.parametrize("call", [by_map, by_submit, direct])
@pytest.mark.parametrize("how", ["segfault", "abort"])
def test_a_crash_shows_its_stack(call: Callable[..., list[Any]], how: str) -> None:
    """A crash in C is told with the Python stack that led to it."""
    error = call(parallel(perish, workers=2), [how])[0]

    assert "perish" in error.stack
    assert "tasks_that_die.py" in error.stack
    assert error.stack in str(error)


def test_a_death_by_exit_has_no_stack() -> None:
    """Where there is no stack to show, there is none."""
    error = by_map(parallel(perish, workers=2), ["exit 3"])[0]

    assert error.stack == ""


@pytest.mark.skipif(sys.platform != "linux", reason="nothing limits memory")
@calls
def test_a_lack_of_memory_is_the_error_of_the_item(call: Callable[..., list[Any]]) -> None:
    """Under a memory limit a task raises MemoryError, which is its own; its worker goes on."""
    outcomes = call(parallel(perish, workers=2), ["a", "memory", "b"])

    assert (outcomes[0], outcomes[2]) == ("a", "b")
    assert type(outcomes[1]) is MemoryError


def test_without_return_exceptions_a_death_is_raised() -> None:
    """The first death ends the call, as any error does; the pool stays."""
    function = parallel(perish, workers=2)

    with pytest.raises(WorkerDiedError, match="SIGKILL") as caught:
        function.map([*"abc", "kill", *"def"])

    assert caught.value.item == 3
    assert function.map("ab") == ["a", "b"]


def test_a_death_in_a_stream_comes_in_its_place() -> None:
    """A stream goes on behind an item whose worker died."""
    outcomes = list(parallel(perish, workers=2).imap_unordered([*"abc", "kill", *"def"], return_exceptions=True))

    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert [type(error) for error in errors] == [WorkerDiedError]
    assert sorted(outcome for outcome in outcomes if isinstance(outcome, str)) == list("abcdef")


def test_many_deaths_each_cost_one_item() -> None:
    """Every third item kills its worker; every other item has its result."""
    items = ["kill" if number % 3 == 0 else str(number) for number in range(60)]

    outcomes = parallel(perish, workers=2).map(items, return_exceptions=True)

    for number, outcome in enumerate(outcomes):
        if number % 3:
            assert outcome == str(number)
        else:
            assert (type(outcome), outcome.item) == (WorkerDiedError, number)


def test_a_death_among_short_items_finds_the_culprit() -> None:
    """Items of a block that a death interrupted are run again one by one."""

    def task(number: int) -> int:
        if number == 4321:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    outcomes = parallel(task, workers=2).map(range(10_000), return_exceptions=True)

    assert (type(outcomes[4321]), outcomes[4321].item) == (WorkerDiedError, 4321)
    assert [*outcomes[:4321], *outcomes[4322:]] == [*range(4321), *range(4322, 10_000)]


def test_a_death_while_idle_costs_nothing(processes: dict[str, Any]) -> None:
    """Workers killed while they have nothing to do are replaced before anybody notices."""
    function = parallel(pid, **processes)
    function.map(range(20))
    before = pids_of(function)
    for process in before:
        kill(process)

    after = [function.submit().result(timeout=60) for _ in range(5)]

    assert not set(after) & set(before)
    assert set(function.map(range(20))) & set(pids_of(function))


def test_a_death_just_before_a_submit_costs_nothing() -> None:
    """A task that is handed to a worker which has just died, unknown to anybody, runs on another."""
    function = parallel(pid, workers=1)
    for _ in range(10):
        before = function.submit().result(timeout=60)
        wait_until_leased(function)
        kill(before)

        assert function.submit().result(timeout=60) != before


# Through a segment it comes at once, which only a stopped worker does not see.
@pytest.mark.parametrize(
    ("segments", "stopped"),
    [(True, True), (False, True), (False, False)],
    ids=["segments-stopped", "socket-stopped", "socket-running"],
)
@pytest.mark.parametrize("how", ["map_async", "submit"])
def test_a_death_while_receiving(segments: bool, stopped: bool, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker killed while a large argument is on its way to it has not begun the task: another one runs it."""
    monkeypatch.setattr(Limits, "enabled", segments)
    function = parallel(size, workers=1)
    function.map([b"warm"])
    wait_until_leased(function)
    (victim,) = pids_of(function)
    data = bytes(100 << 20)
    if stopped:
        os.kill(victim, signal.SIGSTOP)

    future: Any = function.submit(data) if how == "submit" else function.map_async([data])
    if not stopped:
        while not future.done() and all(worker.channel.is_clear for worker in workers_of(function)):
            pass
    kill(victim)

    value = future.exception(timeout=60) or future.result()
    may_have_begun = segments and not stopped  # a descriptor is on its way for too short a time to hit it for sure
    expected = len(data) if how == "submit" else [len(data)]
    assert value == expected or (may_have_begun and isinstance(value, WorkerDiedError))


def test_deaths_that_are_heard_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers killed while large arguments wait to be sent cost nothing, also if nobody listens meanwhile."""
    monkeypatch.setattr(Limits, "enabled", False)
    function = parallel(size, workers=3)
    function.map([b""] * 30, chunksize=1)
    wait_until(lambda: len(ready_pids_of(function)) == 3)
    for worker in pids_of(function):
        os.kill(worker, signal.SIGSTOP)

    class KillsOthers:
        def __reduce__(self) -> Any:  # in the engine's thread
            for worker in workers_of(function):
                if worker.channel.is_clear:
                    os.kill(worker.pid, signal.SIGCONT)
                else:
                    kill(worker.pid)
                    wait_until(lambda: is_gone(worker.pid))  # noqa: B023 - called at once
            return bytes, (3,)

    data = bytes(1 << 20)
    assert function.map([data, data, KillsOthers()], chunksize=1) == [len(data), len(data), 3]


@pytest.mark.parametrize("segments", [True, False], ids=["segments", "socket"])
@pytest.mark.parametrize("how", ["map_async", "submit"])
def test_a_death_while_sending(segments: bool, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker killed while a large result is on its way from it costs that item, or comes too late to cost any."""
    monkeypatch.setattr(Limits, "enabled", segments)
    function = parallel(big, workers=1)
    for attempt in range(6):
        function.map([0])
        wait_until_leased(function)
        (worker,) = workers_of(function)
        future: Any = function.submit(100) if how == "submit" else function.map_async([100], return_exceptions=True)
        received = 1 << (12 + 2 * attempt)
        # Through the socket the parent sees it come; through a segment only the worker's state tells that it is at it.
        while not future.done() and len(worker.channel._inbox) < received and not (segments and state_of(function) > 0):
            pass
        kill(worker.pid)

        outcome = future.exception(timeout=60) or future.result()
        outcome = outcome[0] if isinstance(outcome, list) else outcome
        assert isinstance(outcome, WorkerDiedError) or outcome == bytes(100 << 20)
        assert not isinstance(outcome, WorkerDiedError) or outcome.signal == signal.SIGKILL

    assert function.map([1]) == [bytes(1 << 20)]


def test_all_workers_die_with_a_thousand_tasks_queued(tmp_path: Path) -> None:
    """The running tasks fail, one for each worker; all that were queued run on new workers."""
    gate = tmp_path / "gate"
    function = parallel(wait_for, workers=2)
    futures = [function.submit(str(gate)) for _ in range(1000)]
    wait_until(lambda: len(list(tmp_path.glob("gate.*"))) == 2)
    victims = pids_of(function)
    for process in victims:
        kill(process)
    gate.touch()

    errors = [future.exception(timeout=60) for future in futures]

    died = [error for error in errors if error is not None]
    assert sorted(error.pid for error in died) == sorted(victims)
    assert {error.signal for error in died} == {signal.SIGKILL}


@pytest.mark.parametrize("call", [by_map, by_submit, by_imap])
def test_a_death_is_retried(call: Callable[..., list[Any]], tmp_path: Path) -> None:
    """With `retries` an item whose worker died runs again, on another worker."""
    function = parallel(lambda name: die_the_first_times(name, 2), workers=2, retries=2)
    names = [str(tmp_path / str(number)) for number in range(4)]

    assert call(function, names) == [3, 3, 3, 3]


def test_retries_come_to_an_end() -> None:
    """An item that kills every worker fails in the end, and says how its earlier attempts went."""
    error = parallel(perish, workers=2, retries=2).map(["kill", "a"], return_exceptions=True)[0]

    assert isinstance(error, WorkerDiedError)
    notes = "\n".join(error.__notes__)
    assert "attempt 1" in notes
    assert "attempt 2" in notes
    assert "attempt 3" not in notes


def test_retry_on_may_leave_deaths_out(tmp_path: Path) -> None:
    """A death is retried only where `retry_on` covers it."""
    name = str(tmp_path / "tries")

    error = parallel(die_the_first_times, workers=1, retries=3, retry_on=OSError).submit(name, 1).exception(timeout=60)

    assert isinstance(error, WorkerDiedError)
    assert os.path.getsize(name) == 1


def test_the_death_of_the_template_loses_nothing(processes: dict[str, Any], tmp_path: Path) -> None:
    """Work that runs goes on to its end without the template; what waits runs too, and later calls work."""
    gate = tmp_path / "gate"
    function = parallel(wait_for, **processes)
    futures = [function.submit(str(gate)) for _ in range(20)]
    wait_until(lambda: len(list(tmp_path.glob("gate.*"))) == 2)
    workers = pids_of(function)
    kill(template_of(function))
    later = parallel(square, **processes).map_async(range(10))
    gate.touch()

    assert [future.exception(timeout=60) for future in futures] == [None] * 20
    assert set(workers) & {future.result() for future in futures}
    assert later.result(timeout=60) == [number * number for number in range(10)]
    parmap.shutdown()
    wait_until(lambda: all(map(is_gone, workers)))


def test_the_death_of_an_idle_template_is_not_noticed(processes: dict[str, Any]) -> None:
    """A template that dies while nothing runs costs nothing; no worker of its stays behind."""
    function = parallel(square, **processes)
    for _ in range(3):
        function.map(range(10))
        workers = pids_of(function)
        kill(template_of(function))

        assert function.map(range(10)) == [number * number for number in range(10)]
        assert function.submit(3).result(timeout=60) == 9
        parmap.shutdown()
        wait_until(lambda workers=workers: all(map(is_gone, workers)))


def test_template_and_workers_die_together(tmp_path: Path) -> None:
    """When all processes are killed at once, only the items that ran are lost."""
    gate = tmp_path / "gate"
    function = parallel(wait_for, workers=2)
    futures = [function.submit(str(gate)) for _ in range(50)]
    wait_until(lambda: len(list(tmp_path.glob("gate.*"))) == 2)
    for process in [template_of(function), *pids_of(function)]:
        kill(process)
    gate.touch()

    errors = [future.exception(timeout=60) for future in futures]

    assert [type(error) for error in errors if error is not None] == [WorkerDiedError] * 2


def test_a_worker_that_dies_without_its_template_is_noticed(tmp_path: Path) -> None:
    """The death of a worker that outlived its template fails its item, as any death."""
    gate = tmp_path / "gate"
    function = parallel(wait_for, workers=1)
    future = function.submit(str(gate))
    wait_until(lambda: list(tmp_path.glob("gate.*")))
    (worker,) = workers_of(function)
    kill(template_of(function))
    wait_until(lambda: worker.launcher is None)
    kill(worker.pid)

    error = future.exception(timeout=60)

    assert isinstance(error, WorkerDiedError)
    assert error.pid == worker.pid
    gate.touch()
    assert function.submit(str(gate)).exception(timeout=60) is None


def test_cancelling_works_without_the_template(tmp_path: Path) -> None:
    """A worker that outlived its template can still be stopped."""
    function = parallel(wait_for, workers=1)
    future = function.submit(str(tmp_path / "never"))
    wait_until(lambda: list(tmp_path.glob("never.*")))
    (worker,) = workers_of(function)
    kill(template_of(function))
    wait_until(lambda: worker.launcher is None)

    assert future.cancel()
    wait_until(lambda: is_gone(worker.pid))


def test_the_template_is_found_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that is gone when a worker is asked of it is replaced, before anybody heard of its end."""
    victims = [True]
    start = Launcher.start

    def late(launcher: Launcher, *args: Any) -> None:
        if victims:
            victims.pop()
            kill(launcher.pid)
            wait_until(lambda: is_gone(launcher.pid))
        start(launcher, *args)

    monkeypatch.setattr(Launcher, "start", late)

    assert parallel(square, workers=2).map(range(50)) == [number * number for number in range(50)]


def test_the_template_is_found_dead_when_it_shall_kill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A worker whose initializer hangs is killed with its pool, though the template that was to do it is gone."""
    tell = Launcher.kill

    def late(launcher: Launcher, *args: Any) -> None:
        kill(launcher.pid)
        wait_until(lambda: is_gone(launcher.pid))
        tell(launcher, *args)

    monkeypatch.setattr(Launcher, "kill", late)
    others = engines()
    pool = parmap.Pool(1, wait_for, (str(tmp_path / "never"),))
    pool.apply_async(square, (1,))
    (engine,) = {*engines()} - {*others}
    wait_until(lambda: list(tmp_path.glob("never.*")) and all(each.pid for each in engine.backend._workers.values()))
    (worker,) = engine.backend._workers.values()
    pool.terminate()

    wait_until(lambda: is_gone(worker.pid))


def test_the_template_dies_while_it_starts_workers() -> None:
    """A template killed again and again, at whatever moment of its start, is replaced, and the call completes."""
    function = parallel(square, workers=2)
    for number in range(40):
        future = function.map_async(range(50))
        wait_until(lambda: engine_of(function).backend._launcher is not None or future.done())  # noqa: B023 - called at once
        moment = time.monotonic() + number / 1000  # it is up after some 30 milliseconds
        wait_until(lambda: time.monotonic() > moment)  # noqa: B023 - called at once
        launcher = engine_of(function).backend._launcher
        if launcher is not None:
            kill(launcher.pid)

        assert future.result(timeout=60) == [number * number for number in range(50)]
        if number % 3:
            parmap.shutdown()


def test_a_program_that_broken_pipes_end(script: Script) -> None:
    """Where SIGPIPE ends the program, as behind `| head`, the death of a worker, or of the template, does not."""
    done = script.run("""
        import os, signal
        from parmap import parallel

        signal.signal(signal.SIGPIPE, signal.SIG_DFL)

        @parallel(workers=2)
        def die(number):
            if number % 10 == 7:
                os.kill(os.getppid() if number == 17 else os.getpid(), signal.SIGKILL)
            return number

        for _ in range(3):
            print(len(die.map(range(100), return_exceptions=True)), end=" ")
            futures = [die.submit(number) for number in range(100)]
            print(len([future.exception() for future in futures]), end=" ")
    """)

    assert (done.returncode, done.stdout, done.stderr) == (0, "100 100 " * 3, "")


def test_workers_that_die_at_start_cost_nothing_beside_one_that_works(tmp_path: Path) -> None:
    """A pool that has a worker goes on with it, where no other lives to be ready; what runs is not stopped for that."""
    taken = str(tmp_path / "taken")
    function = parallel(wait_for, workers=3, initializer=be_the_only_one, initargs=(taken,))
    gate = tmp_path / "gate"
    first = function.submit(str(gate))
    wait_until(lambda: list(tmp_path.glob("gate.*")))

    others = [function.submit(str(gate)) for _ in range(20)]
    wait_until(lambda: first.done() or os.path.getsize(taken) > 3)
    gate.touch()

    assert len({future.result(timeout=60) for future in [first, *others]}) == 1
    assert function.map([str(gate)] * 100) == [first.result()] * 100


def test_a_worker_that_dies_as_it_asks_for_the_tracker(script: Script) -> None:
    """Where SIGPIPE ends the program, to answer nobody does not."""
    done = script.run("""
        import signal

        from parmap.backends._processes.line.sockets import pair
        from parmap.backends._processes.worker import lend_tracker

        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        of_worker, of_program = pair()
        of_worker.close()
        lend_tracker((of_program.detach(),))
        print("went on")
    """)

    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


@pytest.mark.parametrize("place", ["in its group", "in another group"])
def test_a_worker_is_terminated_once(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second signal would meet the task that has begun since."""
    program = """
import os, signal
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(0) or os.write(1, b"told\\n"))
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"in all %d\\n" % len(told)) and os._exit(0))
os.write(1, b"\\n")
while True:
    signal.pause()
"""
    group = 0 if place == "in its group" else os.getpgrp()
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, process_group=group
    ) as it:
        assert it.stdout is not None
        hear, send = it.stdout.readline, os.killpg
        assert hear() == "\n"
        if place == "in its group":
            monkeypatch.setattr(os, "killpg", lambda *how: send(*how) or hear())  # whoever sends it is held up
        assert kill_group(it.pid, signal.SIGTERM)
        if place == "in another group":
            hear()
        it.send_signal(signal.SIGUSR1)
        assert it.stdout.read() == "in all 1\n"
    assert not kill_group(it.pid, signal.SIGTERM)
