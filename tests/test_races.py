"""What another thread does in the one moment that it must not: each order is forced, by what waits for it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from inspection import engine_of, wait_until_leased, workers_of
from tasks import identity, wait_for
from tasks_in_turn import end_if, setting

from conftest import wait_until
from parmap import WorkerDiedError, parallel
from parmap._core import ledger as _ledger
from parmap._results.callbacks import Callbacks
from parmap._results.order import Order
from parmap._results.streams import ResultStream
from parmap.backends._processes.line.quick import HAS_QUICK_LINES
from parmap.backends._processes.pool import Processes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Script

needs_quick_lines = pytest.mark.skipif(not HAS_QUICK_LINES, reason="callers send no tasks themselves on this system")


def nothing() -> None:
    """Do nothing."""


def in_a_thread(act: Callable[[], object]) -> None:
    """Have another thread do something, to its end."""
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


class Flight(dict[Any, Any]):
    """The tasks of a quick line; others act just *before* one is recorded, and *after*."""

    def __init__(self, before: Callable[[], object] = nothing, after: Callable[[], object] = nothing) -> None:
        self.before, self.after = before, after

    def __setitem__(self, number: int, future: Any) -> None:
        (before, self.before), (after, self.after) = (self.before, nothing), (self.after, nothing)
        before()
        super().__setitem__(number, future)
        after()


def leased(function: Any, count: int = 1) -> list[Any]:
    """The idle workers of a pool, which callers may use, and which all know the function."""
    engine = engine_of(function)

    def are_there() -> bool:
        function.map([0] * 20)
        return len(engine.backend._open) == count and all(worker.known for worker in engine.backend._open)

    wait_until(are_there)
    wait_until(lambda: engine._sleep[0])
    return list(engine.backend._open)


@needs_quick_lines
def test_a_task_that_one_worker_was_too_busy_for_dies_with_the_next() -> None:
    """It is told: whoever sent it had taken it back from the first."""
    f = parallel(end_if, workers=2, idle_timeout=61)
    first, _ = leased(f, 2)
    first.quick.flight = Flight(before=lambda: engine_of(f).backend._shut(first))
    with pytest.raises(WorkerDiedError, match="code 3"):
        f.submit(3).result(timeout=20)
    f.shutdown()


@needs_quick_lines
def test_another_call_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task has the environment of its own call, though the same worker had another's in between."""
    f = parallel(setting, workers=1)
    monkeypatch.setenv("RACE", "first")
    assert f.submit().result() == "first"
    wait_until_leased(f)
    (worker,) = workers_of(f)

    def interfere() -> None:
        os.environ["RACE"] = "second"
        assert parallel(lambda _: setting(), workers=1).map([0]) == ["second"]
        wait_until_leased(f)

    worker.quick.flight = Flight(before=lambda: in_a_thread(interfere))
    assert f.submit().result() == "first"


def test_a_pool_is_shut_down_just_as_a_task_comes(backend: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool starts anew for it."""
    f = parallel(identity, **backend)
    f.map([0])
    wait_until(lambda: engine_of(f)._sleep[0] or backend["backend"] == "serial")
    times = iter([True])

    def is_alert(_: object) -> bool:
        if next(times, False):
            in_a_thread(f.shutdown)
        return False

    monkeypatch.setattr(_ledger.Ledger, "is_alert", property(is_alert))
    assert f.submit(1).result(timeout=20) == 1


@needs_quick_lines
def test_thousands_of_calls_come_first() -> None:
    """A task is run, though its worker has not waited for its number that long."""
    f = parallel(identity, workers=1)
    (worker,) = leased(f)
    overtaken = []

    def overtake() -> None:
        for _ in range(3000):
            next(worker.quick._numbers)  # as for each task that is too long for the line
        wait_until(lambda: engine_of(f)._sleep[0])
        overtaken.append(f.submit(1).result(timeout=20))

    worker.quick.flight = Flight(before=lambda: in_a_thread(overtake))
    assert f.submit(2).result(timeout=20) == 2
    assert overtaken == [1]


@needs_quick_lines
def test_a_pool_goes_to_sleep_just_as_a_task_comes() -> None:
    """It is run by a new worker."""
    f = parallel(identity, workers=1, idle_timeout=0.05)
    recorded = threading.Event()
    (worker,) = leased(f)
    died = worker.died

    def die(*args: Any) -> Any:
        recorded.wait(20)
        return died(*args)

    worker.died = die
    worker.quick.flight = Flight(
        before=lambda: wait_until(lambda: not worker.quick.is_open),
        after=lambda: (recorded.set(), wait_until(lambda: worker.quick.sock.fileno() < 0)),
    )
    assert f.submit(1).result(timeout=20) == 1


def let_callers_read_first(backend: Any, line: Any) -> None:
    """Have the thread of the engine run late: answers are read when the system looks whether it is to wake for them."""
    wait = backend.poller.wait

    def wait_late(timeout: float | None) -> Any:
        while True:
            ready = wait(timeout)
            if any(source is line for source, _ in ready):
                wait_until(lambda: not line.flight)
            others = [each for each in ready if each[0] is not line]
            if others or not ready:
                return others

    backend.poller.wait = wait_late


@needs_quick_lines
@pytest.mark.parametrize("way", ["map", "shutdown"])
def test_a_caller_reads_the_answer_before_the_engine_hears_of_it(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the worker has it then."""
    monkeypatch.setattr(_ledger, "_QUIET", 0.05)  # the task takes longer than the engine goes on looking
    f = parallel(wait_for, workers=1, idle_timeout=62)
    (tmp_path / "there").touch()
    f.map([str(tmp_path / "there")])
    wait_until_leased(f)
    engine = engine_of(f)
    (worker,) = workers_of(f)
    let_callers_read_first(engine.backend, worker.quick)
    task = f.submit(str(tmp_path / "open"))
    first = threading.Thread(target=task.result)
    first.start()
    second = (
        threading.Thread(target=f.map, args=([str(tmp_path / "there")],))
        if way == "map"
        else threading.Thread(target=f.shutdown)
    )
    second.start()
    wait_until(lambda: worker.quick in engine.backend._heard and not engine.ledger.is_alert)
    (tmp_path / "open").touch()
    first.join(20)
    second.join(20)
    assert not second.is_alive()


def test_another_call_is_prepared_while_a_chunk_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunk has the environment of its own call."""
    f = parallel(lambda _: setting(), workers=1)
    f.map([0])
    monkeypatch.setenv("RACE", "first")
    others: list[Any] = []

    def prepare() -> None:
        os.environ["RACE"] = "second"
        others.append(parallel(lambda: setting(), workers=1).submit())

    def set_context(backend: Any, context: Any) -> None:
        vars(backend)["context"] = context
        if threading.current_thread() is engine_of(f)._thread and not others:
            in_a_thread(prepare)

    get_context = vars(Processes).get("context", property(lambda backend: vars(backend)["context"])).fget
    monkeypatch.setattr(Processes, "context", property(get_context, set_context), raising=False)
    assert f.map([0]) == ["first"]
    assert others[0].result(timeout=20) == "second"


def test_a_closure_changes_while_several_threads_submit_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is submitted later sees what it is then."""
    state = {"count": 0}
    f = parallel(lambda *_: state["count"], workers=1)
    g = parallel(lambda: None, workers=1)
    assert f.submit().result() == 0
    g.submit().result()  # so that the next of f has to be looked for
    backend = engine_of(f).backend
    witness, times = backend.witness, iter([True])

    def change() -> None:
        assert f.submit().result() == 0
        state["count"] = 1
        assert f.map([0]) == [1]

    def witness_late(*args: Any) -> Any:
        if next(times, False):
            in_a_thread(change)
        return witness(*args)

    monkeypatch.setattr(backend, "witness", witness_late)
    assert f.submit().result() == 0  # it was called before
    assert f.submit().result() == 1


class Watched(dict[Any, Any]):
    """What waits for its turn in a stream, which another thread closes as soon as one has looked for it."""

    def __init__(self, close: Callable[[], None]) -> None:
        self.close = close

    def __contains__(self, number: object) -> bool:
        found = super().__contains__(number)
        if found:
            in_a_thread(self.close)
        return found


def test_a_stream_is_closed_by_another_thread_before_a_result_is_decoded(backend: dict[str, Any]) -> None:
    """It has ended, or hands out what it has."""
    stream = parallel(identity, **backend).imap(range(3))
    stream._order.ready = Watched(stream.close)
    assert list(stream) in ([], [0, 1, 2])


def test_a_stream_is_closed_by_another_thread_as_results_are_handed_out(
    backend: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended."""
    stream = parallel(identity, **backend).imap(range(3))

    def close(stream: Any, _: int) -> None:
        in_a_thread(stream.close)

    monkeypatch.setattr(ResultStream, "_hungry_at", property(lambda _: 0, close), raising=False)
    assert list(stream) == []


def test_a_stream_is_closed_by_another_thread_as_what_is_decoded_has_its_turn(
    backend: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended."""
    stream = parallel(identity, **backend).imap(range(3))

    def get(order: Order) -> list[Any]:
        parts: list[Any] = vars(order).get("parts", [])
        if parts:
            in_a_thread(stream.close)
        return parts

    def set_parts(order: Order, parts: list[Any]) -> None:
        vars(order)["parts"] = parts

    monkeypatch.setattr(Order, "parts", property(get, set_parts), raising=False)
    assert list(stream) == []


@pytest.mark.parametrize("journal", [False, True])
def test_a_stream_is_closed_by_another_thread_as_it_reads_on(
    journal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended: what was read is nobody's any more."""
    kept = {"journal": tmp_path / "journal"} if journal else {}
    stream = parallel(identity, workers=2).imap(iter(range(30)), buffersize=2, **kept)
    source = stream._input
    outgoing = source.outgoing

    def close_first(*unsent: Any) -> Any:
        in_a_thread(stream.close)
        return outgoing(*unsent)

    monkeypatch.setattr(source, "outgoing", close_first)
    assert list(stream) in ([], [0], [0, 1])


class Straggler(Callbacks):
    """Gets one callback more just when its thread is about to end for want of any, and waits before it runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []
        self.is_late, self.go = threading.Event(), threading.Event()

    def _run_next(self, timeout: float | None) -> bool:
        has_run = super()._run_next(0)
        if not has_run and timeout and not self.is_late.is_set():
            wait_until(lambda: self._thread is threading.current_thread())
            self._queue.put((lambda _: self.ran.append("late"), None))
        return has_run

    def _drain(self) -> None:
        self.is_late.set()
        self.go.wait(20)
        super()._drain()


def test_the_thread_of_callbacks_ends_just_as_one_comes() -> None:
    """Whoever waits for the callbacks, as the end of the program does, waits for that, too."""
    some = Straggler()
    some.run(lambda _: some.ran.append("first"), None)
    assert some.is_late.wait(20)
    some.join(20)
    some.go.set()
    assert some.ran == ["first", "late"]


@pytest.mark.parametrize(
    ("module", "use"),
    [
        ("asyncio", "list(f.imap([1]))"),
        ("asyncio", "f.map_async(iter([1])).result()"),
        ("concurrent.futures._base", "parallel(abs, workers=1)"),
        ("decimal", "parallel(abs, workers=1, backend='threads', initializer=int).map([1])"),
        ("multiprocessing.spawn", "parallel(abs, workers=1).map([1])"),
        ("multiprocessing.util", "parmap.per_worker(list)()"),
        ("parmap._engine.registry", "parmap.shutdown()"),
    ],
)
def test_another_thread_is_just_importing_a_module(module: str, use: str, script: Script) -> None:
    """A module that is here in part, which parmap itself would not import, is none yet."""
    run = script.run(
        f"""
        import importlib, sys, threading
        import parmap
        from parmap import parallel

        f = parallel(abs, workers=1, backend="threads")
        begun, used = threading.Event(), threading.Event()

        def wait_in_it(frame, *_):
            if frame.f_globals.get("__name__") == {module!r}:
                begun.set(), used.wait()

        def load():
            sys.settrace(wait_in_it)
            importlib.import_module({module!r})

        if {"[1]" in use}:  # what calls need is here
            f.map([1])
        assert {module!r} not in sys.modules
        thread = threading.Thread(target=load)
        thread.start()
        begun.wait()
        try:
            {use}
            print("went well")
        finally:
            used.set(), thread.join()
        """
    )
    assert run.stdout == "went well\n", run.stderr
