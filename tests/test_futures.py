"""Futures: states, cancelling, callbacks; with `concurrent.futures`, `asyncio` and `multiprocessing`."""

from __future__ import annotations

import concurrent.futures
import copy
import inspect
import logging
import multiprocessing
import multiprocessing.pool
import pickle
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest
import tasks
import tasks_in_turn
import tasks_that_hang as hang
from inspection import wait_until_leased

from conftest import wait_until
from parmap import AsyncResult, Future, Pool, TaskTimeoutError, parallel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Script

pytestmark = pytest.mark.usefixtures("pools_stay")


class Asker:
    """A result that does something when it is loaded, where it is told what."""

    when_loaded: list[Callable[[], object]] = []  # noqa: RUF012 - on the class, for those who load it

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return _load_asker, (self.number,)


def _load_asker(number: int) -> Asker:
    while Asker.when_loaded:
        Asker.when_loaded.pop()()
    return Asker(number)


class Gate:
    """A task that runs until it is let go."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self.begun, self.path = folder / "begun", folder / "go"
        self._task = parallel(tasks.touch_and_wait_for, **options)

    def close(self) -> Future[str]:
        """Start the task; returns when it runs."""
        future = self._task.submit(str(self.begun), str(self.path))
        wait_until(self.begun.exists)
        self.begun.unlink()
        return future

    def open(self) -> None:
        """Let it end."""
        self.path.touch()


@pytest.fixture(params=["forkserver", "spawn", "threads"])
def single(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One worker that is not the caller, of each kind."""
    if request.param == "threads":
        return {"workers": 1, "backend": "threads"}
    return {"workers": 1, "backend": "processes", "start_method": request.param}


@pytest.fixture
def gate(single: dict[str, Any], tmp_path: Path) -> Any:
    """Occupies the only worker; opened at the end of the test."""
    gate = Gate(tmp_path, single)
    yield gate
    gate.open()


@pytest.mark.parametrize("who", ["another thread", "a signal handler"])
def test_results_are_asked_for_while_they_are_loaded(who: str) -> None:
    """Whoever asks for the results of a batch while somebody loads them gets all of them."""
    future = parallel(Asker, workers=2).map_async(range(12), chunksize=1)
    wait_until(future.done)
    found: list[list[int]] = []

    def ask() -> None:
        found.append([asker.number for asker in future.result(60)])

    thread = threading.Thread(target=ask)

    def let_it_ask() -> None:
        thread.start()
        thread.join(0.5)  # it has its answer when there is one

    Asker.when_loaded.append(let_it_ask if who == "another thread" else ask)
    ask()
    if who == "another thread":
        thread.join(60)

    assert found == [list(range(12))] * 2


# --- states ---------------------------------------------------------------------------------------


def test_states(gate: Gate) -> None:
    """A future that runs, ends, and is asked again."""
    future = gate.close()

    wait_until(future.running)
    assert not future.done()
    gate.open()
    assert future.result(60) == str(gate.path)
    assert (future.done(), future.running(), future.cancelled(), future.exception()) == (True, False, False, None)


def test_a_future_that_waits(gate: Gate, single: dict[str, Any]) -> None:
    """A task behind another is pending."""
    gate.close()
    waiting = parallel(tasks.square, **single).submit(3)

    assert (waiting.done(), waiting.running(), waiting.cancelled()) == (False, False, False)
    gate.open()
    assert waiting.result(60) == 9


def test_the_same_object_each_time(backend: dict[str, Any]) -> None:
    """A result is decoded once: asking again gives the same object, and so with an exception."""
    good, bad = parallel(tasks.identity, **backend).submit([1]), parallel(tasks.fail, **backend).submit("x")

    assert good.result(60) is good.result()
    assert bad.exception(60) is bad.exception()


def test_repr(backend: dict[str, Any]) -> None:
    """The `repr` names the function and the state."""
    future = parallel(tasks.square, **backend).submit(2)
    future.result(60)

    assert "square" in repr(future)
    assert "finished" in repr(future)


# --- cancelling -----------------------------------------------------------------------------------


def test_cancelling_a_task_that_waits(gate: Gate, single: dict[str, Any]) -> None:
    """It never runs; the one before it and those behind it do."""
    running = gate.close()
    square = parallel(tasks.square, **single)
    before, victim, after = square.submit(1), square.submit(2), square.submit(3)

    assert victim.cancel()
    assert victim.cancelled()
    assert victim.done()
    assert victim.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        victim.result(60)
    with pytest.raises(concurrent.futures.CancelledError):
        victim.exception(60)
    gate.open()
    assert (running.result(60), before.result(60), after.result(60)) == (str(gate.path), 1, 9)


def test_a_cancelled_task_never_runs(gate: Gate, single: dict[str, Any], tmp_path: Path) -> None:
    """What a cancelled task would do is not done."""
    gate.close()
    touch = parallel(tasks.touch, **single)
    futures = [touch.submit(str(tmp_path / f"trace-{number}")) for number in range(10)]
    for future in futures[::2]:
        assert future.cancel()
    gate.open()
    for future in futures[1::2]:
        future.result(60)

    assert sorted(path.name for path in tmp_path.glob("trace-*")) == [f"trace-{number}" for number in range(1, 10, 2)]


def test_cancelling_several_behind_one_that_runs(processes: dict[str, Any], tmp_path: Path) -> None:
    """None of them runs, though they are with the worker already, and however they are cut into chunks."""
    f = parallel(tasks.touch_and_wait_for, **{**processes, "workers": 1})
    ready = str(tmp_path / "ready")
    tasks.touch(ready)
    for number in range(5):
        [f.submit(ready, ready).result(60) for _ in range(100)]  # short ones travel together
        begun, go = tmp_path / f"begun-{number}", tmp_path / f"go-{number}"
        first, gate = f.submit(ready, ready), f.submit(str(begun), str(go))
        futures = [f.submit(str(tmp_path / f"ran-{number}-{n}"), ready) for n in range(40)]
        wait_until(begun.exists)

        assert all(future.cancel() for future in futures[:20])
        tasks.touch(str(go))
        concurrent.futures.wait([first, gate, *futures])
        assert len([path for path in tmp_path.iterdir() if path.name.startswith(f"ran-{number}-")]) == 20


def test_cancelling_behind_one_that_is_being_stopped(processes: dict[str, Any], tmp_path: Path) -> None:
    """While a worker is killed for one task, another that is with it is cancelled: it does not run later."""
    f = parallel(tasks_in_turn.touch_or_hang, timeout=0.2, **{**processes, "workers": 1})
    concurrent.futures.wait([f.submit(str(tmp_path / "short")) for _ in range(200)])
    stuck, *futures = [f.submit(str(tmp_path / name) if name else "") for name in ["", *"abcdef"]]
    wait_until(lambda: stuck.lane.job and any(chunk.doomed for chunk in stuck.lane.job.flight))

    assert all(future.cancel() for future in futures)
    assert isinstance(stuck.exception(60), TaskTimeoutError)
    assert f.submit(str(tmp_path / "last")).result(60) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "short"]


def test_cancelling_a_task_that_runs(processes: dict[str, Any], tmp_path: Path) -> None:
    """Its worker is killed; other tasks, running and waiting, never notice."""
    gate = Gate(tmp_path, processes)
    victim, other = gate.close(), gate.close()
    square = parallel(tasks.square, **processes)
    waiting = [square.submit(x) for x in range(20)]

    assert victim.cancel()
    assert victim.cancelled()
    assert [future.result(60) for future in waiting] == [x * x for x in range(20)]
    assert not other.done()
    gate.open()
    assert other.result(60) == str(gate.path)


def test_cancelling_a_task_among_short_ones(processes: dict[str, Any]) -> None:
    """One that hangs in the midst of short tasks, which ran as one, can be stopped; the others have their results."""
    f = parallel(hang.hang_if_negative, **processes)
    concurrent.futures.wait([f.submit(number) for number in range(1000)])
    futures = [f.submit(-1 if number == 500 else number) for number in range(1000)]
    stuck = futures.pop(500)
    wait_until(futures[-1].done)

    assert stuck.cancel()
    assert [future.result(60) for future in futures] == [number for number in range(1000) if number != 500]


def test_a_thread_can_not_be_cancelled(tmp_path: Path) -> None:
    """A task that runs on a thread can't be stopped: `cancel` says so, and it goes on."""
    gate = Gate(tmp_path, {"workers": 1, "backend": "threads"})
    future = gate.close()

    assert not future.cancel()
    gate.open()
    assert future.result(60) == str(gate.path)


def test_cancelling_what_has_ended(backend: dict[str, Any]) -> None:
    """A task that has ended can't be cancelled."""
    future = parallel(tasks.square, **backend).submit(2)
    future.result(60)

    assert not future.cancel()
    assert future.result() == 4


def test_cancelling_many(processes: dict[str, Any]) -> None:
    """A thousand tasks of which each second is cancelled while they run: each has one outcome, the right one."""
    futures = [parallel(tasks.square, **processes).submit(x) for x in range(1000)]
    cancelled = [future.cancel() for future in futures[::2]]

    assert [future.cancelled() for future in futures[::2]] == cancelled
    assert [future.result(60) for future in futures[1::2]] == [x * x for x in range(1, 1000, 2)]
    for x, future in enumerate(futures):
        assert future.cancelled() or future.result(60) == x * x


@pytest.mark.parametrize("retries", [0, 1], ids=["lent", "scheduled"])
def test_cancelling_what_ends_by_itself(retries: int, tmp_path: Path) -> None:
    """A worker that is to be killed for a task gets no other, even if that task ends before the blow falls."""
    slow = parallel(hang.end_when_terminated, workers=1, retries=retries)
    quick = parallel(tasks.nap, workers=1, retries=retries)
    path = tmp_path / "begun"
    slow.submit("").result(60)
    wait_until_leased(slow)
    cancelled = slow.submit(str(path))
    wait_until(path.exists)
    assert cancelled.cancel()

    futures = [quick.submit(0.2) for _ in range(5)]

    assert [future.result(60) for future in futures] == [0.2] * 5


def test_a_pool_that_ends_while_somebody_looks_at_its_futures(backend: dict[str, Any]) -> None:
    """Whoever is about to wait with `concurrent.futures` is told of the end, though the pool can't wait for that."""
    function = parallel(tasks.nap, **backend)
    future = function.submit(0.1)
    with future._condition:  # as `wait` and `as_completed` do it
        function.shutdown()

    assert concurrent.futures.wait([future], timeout=30).done == {future}


def test_states_of_a_batch() -> None:
    """The future of a batch runs from when a worker has its first item; before that, it is pending."""
    may_go = threading.Event()
    function = parallel(may_go.wait, workers=1, backend="threads")
    first, second = function.map_async([60] * 3), function.map_async([60])
    wait_until(first.running)
    assert not second.running()
    assert "running" in repr(first)
    may_go.set()

    assert second.result(60) == [True]
    assert not second.running()


# --- callbacks ------------------------------------------------------------------------------------


def test_a_callback_before_and_after(gate: Gate) -> None:
    """A callback is called once with the future: when it ends, or at once if it has ended."""
    called: list[tuple[str, Any]] = []
    future = gate.close()
    future.add_done_callback(lambda done: called.append(("before", done)))
    assert called == []
    gate.open()
    future.result(60)
    wait_until(lambda: called)
    future.add_done_callback(lambda done: called.append(("after", done)))

    assert called == [("before", future), ("after", future)]


def test_callbacks_of_errors_and_cancelled_tasks(gate: Gate, single: dict[str, Any]) -> None:
    """They are called too."""
    gate.close()
    called: list[Any] = []
    failed, cancelled = parallel(tasks.fail, **single).submit("x"), parallel(tasks.square, **single).submit(1)
    for future in (failed, cancelled):
        future.add_done_callback(called.append)
    cancelled.cancel()
    gate.open()

    wait_until(lambda: len(called) == 2)
    assert called == [cancelled, failed]


def test_a_callback_that_submits_and_waits(backend: dict[str, Any]) -> None:
    """A callback may submit another task, wait for it, and map."""
    square = parallel(tasks.square, **backend)
    results: list[Any] = []

    def more(done: Any) -> None:
        results.append(square.submit(done.result()).result(60))
        results.append(square.map([done.result()] * 3))

    square.submit(2).add_done_callback(more)

    wait_until(lambda: len(results) == 2)
    assert results == [16, [16, 16, 16]]


def test_a_callback_that_raises(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged; the callbacks behind it are called, and the future has its result."""
    called: list[Any] = []
    future = gate.close()

    def bad(_: Any) -> None:
        raise ValueError("of a callback")

    future.add_done_callback(bad)
    future.add_done_callback(called.append)
    with caplog.at_level(logging.ERROR):
        gate.open()
        wait_until(lambda: called)

    assert future.result(60) == str(gate.path)
    assert "of a callback" in caplog.text
    assert {record.name for record in caplog.records} == {"parmap"}


def test_a_callback_that_leaves(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SystemExit of a callback is told, and keeps no other callback from being called."""
    told: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda _, error, __: told.append(error))
    called: list[Any] = []
    future = gate.close()
    future.add_done_callback(lambda _: sys.exit(3))
    future.add_done_callback(called.append)
    gate.open()
    wait_until(lambda: told and called)

    assert future.result(60) == str(gate.path)
    assert isinstance(told[0], SystemExit)


def test_a_chain_of_callbacks(backend: dict[str, Any]) -> None:
    """Each callback submits the next task with a callback, a hundred deep."""
    square = parallel(tasks.add, **backend)
    ended = threading.Event()

    def step(done: Any) -> None:
        if done.result() >= 1000:
            ended.set()
        else:
            square.submit(done.result()).add_done_callback(step)

    square.submit(0).add_done_callback(step)

    assert ended.wait(60)


# --- concurrent.futures ---------------------------------------------------------------------------


def test_it_is_a_future_of_the_standard_library(backend: dict[str, Any]) -> None:
    """`isinstance` holds."""
    assert isinstance(parallel(tasks.square, **backend).submit(1), concurrent.futures.Future)


def test_wait(backend: dict[str, Any]) -> None:
    """`concurrent.futures.wait` for tasks that succeed, fail, have ended, and for those of another executor."""
    ended = parallel(tasks.square, **backend).submit(1)
    ended.result(60)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        futures = {
            ended,
            *(parallel(tasks.square, **backend).submit(x) for x in range(50)),
            parallel(tasks.fail, **backend).submit("x"),
            parallel(tasks.square, **backend).map_async(range(10)),
            executor.submit(tasks.square, 2),
        }
        done, left = concurrent.futures.wait(futures, timeout=60)

    assert (done, left) == (futures, set())


def test_wait_for_the_first(gate: Gate, single: dict[str, Any]) -> None:
    """`FIRST_COMPLETED`, with one that has been cancelled among those that run and wait."""
    running = gate.close()
    waiting, victim = parallel(tasks.square, **single).submit(1), parallel(tasks.square, **single).submit(2)
    threading.Timer(0.05, victim.cancel).start()
    done, left = concurrent.futures.wait([running, waiting, victim], 60, concurrent.futures.FIRST_COMPLETED)

    assert (done, left) == ({victim}, {running, waiting})
    gate.open()
    assert concurrent.futures.wait([running, waiting, victim], 60).not_done == set()


def test_wait_for_the_first_error(gate: Gate, single: dict[str, Any]) -> None:
    """`FIRST_EXCEPTION` returns when a task fails."""
    running = gate.close()
    failing = parallel(tasks.fail, **single).submit("x")
    gate.open()
    done, _ = concurrent.futures.wait([running, failing], 60, concurrent.futures.FIRST_EXCEPTION)

    assert failing in done


def test_wait_with_a_timeout(gate: Gate) -> None:
    """What has not ended in time is not done."""
    future = gate.close()

    assert concurrent.futures.wait([future], 0.05) == (set(), {future})


def test_as_completed(backend: dict[str, Any]) -> None:
    """`as_completed` gives each future once, whatever its outcome."""
    futures = [parallel(tasks.square, **backend).submit(x) for x in range(100)]
    futures += [parallel(tasks.fail, **backend).submit("x")]

    assert set(concurrent.futures.as_completed(futures, timeout=60)) == set(futures)


def test_as_completed_as_they_complete(gate: Gate, single: dict[str, Any]) -> None:
    """One that was cancelled comes before one that runs."""
    running = gate.close()
    victim = parallel(tasks.square, **single).submit(1)
    completed = concurrent.futures.as_completed([running, victim], timeout=60)
    victim.cancel()

    assert next(completed) is victim
    gate.open()
    assert next(completed) is running


# --- multiprocessing ------------------------------------------------------------------------------


def test_async_result(backend: dict[str, Any]) -> None:
    """`async_result` shows the task as `multiprocessing.Pool.apply_async` does."""
    future = parallel(tasks.square, **backend).submit(3)
    result = future.async_result

    assert isinstance(result, AsyncResult)
    assert isinstance(result, multiprocessing.pool.AsyncResult)
    assert result.get(60) == result.get() == 9
    assert result.ready()
    assert result.successful()


def test_async_result_of_a_failure(backend: dict[str, Any]) -> None:
    """The error is raised by `get`, and `successful` is false."""
    result = parallel(tasks.fail, **backend).submit("x").async_result
    result.wait(60)

    assert not result.successful()
    with pytest.raises(ValueError, match="x"):
        result.get(60)


def test_async_result_that_is_not_ready(gate: Gate) -> None:
    """`get` raises multiprocessing's `TimeoutError`, `successful` a `ValueError`, `wait` just returns."""
    result = gate.close().async_result
    result.wait(0.01)

    assert not result.ready()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.01)
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    gate.open()
    assert result.get(60) == str(gate.path)


def test_async_result_of_a_batch(backend: dict[str, Any]) -> None:
    """Of `map_async` too."""
    assert parallel(tasks.square, **backend).map_async(range(5)).async_result.get(60) == [0, 1, 4, 9, 16]


def test_handles_do_not_pickle(backend: dict[str, Any]) -> None:
    """A future, an `AsyncResult` or a stream belongs to its process: pickling it, or copying it, says so."""
    square = parallel(tasks.square, **backend)
    future = square.submit(3)
    future.result(60)
    with square.imap([3]) as stream:
        for handle in (future, future.async_result, stream):
            for act in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match=r"be pickled.*belongs to the process that made it"):
                    act(handle)


def test_an_interrupt_in_a_callback_that_runs_at_once_is_the_caller_s(backend: dict[str, Any]) -> None:
    """A callback of a future that has ended runs in the calling thread: a Ctrl-C that comes there goes on to it."""
    future = parallel(tasks.square, **backend).submit(3)
    future.result(timeout=30)

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        future.add_done_callback(interrupted)


def test_garbage_that_looks_at_a_future(script: Script) -> None:
    """A future may be looked at from a `__del__` in the midst of another look, as from another thread."""
    done = script.run("""
        import gc, types, parmap

        class Looks:
            def __init__(self, look):
                self.me, self.look = self, look

            def __del__(self):
                self.look()

        for _ in range(100):
            gc.disable()
            full = None
            gc.collect()
            future = parmap.Future(types.SimpleNamespace(line=None), ())
            Looks(future.done)
            full = [{} for _ in range(200)]  # the next dict needs new memory, for which garbage is collected
            gc.set_threshold(1)
            gc.enable()
            future.done()
            gc.set_threshold(700)
        gc.collect()
        """)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("call", ["result", "map", "imap", "apply"])
def test_the_frames_of_a_traceback_have_their_arguments(call: str) -> None:
    """What shows them, as IPython does, finds them all."""
    f = parallel(tasks.fail, workers=1, backend="threads")
    with Pool(1, backend="threads") as pool:
        calls = {
            "result": lambda: f.submit("x").result(60),
            "map": lambda: f.map(["x"]),
            "imap": lambda: list(pool.imap(tasks.fail, ["x"])),
            "apply": lambda: pool.apply(tasks.fail, ("x",)),
        }
        with pytest.raises(ValueError, match="x") as caught:
            calls[call]()

    for frame, _ in traceback.walk_tb(caught.value.__traceback__):
        args, star, keywords, values = inspect.getargvalues(frame)
        assert {*args, *filter(None, (star, keywords))} <= {*values}, frame
