"""The world of a worker is the program's: what a task sees besides its arguments, as it was when the call was made."""

from __future__ import annotations

import concurrent.futures
import decimal
import logging
import multiprocessing
import os
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

import inspection
import pytest
from tasks_that_look import divide, divide_and_spoil, third, third_and_spoil, world

import parmap
from conftest import wait_until
from parmap import parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Script

METHODS = ["forkserver", "spawn"]


@pytest.fixture
def change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Change everything that a task sees; afterwards, all is as it was."""
    limits = sys.getrecursionlimit(), sys.get_int_max_str_digits()
    cwd = os.getcwd()

    def change(number: int) -> None:
        folder = tmp_path / str(number)
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
        monkeypatch.setattr(sys, "argv", ["program", str(number)])
        monkeypatch.setenv("MINE", str(number))
        sys.setrecursionlimit(5000 + number)
        sys.set_int_max_str_digits(6000 + number)
        warnings.simplefilter("ignore" if number % 2 else "error")
        logging.getLogger("of the world").setLevel(10 + number)

    with warnings.catch_warnings():
        yield change
    os.chdir(cwd)
    sys.setrecursionlimit(limits[0])
    sys.set_int_max_str_digits(limits[1])
    logging.getLogger("of the world").setLevel(logging.NOTSET)


def test_changes_are_seen(processes: dict[str, Any], change: Callable[[int], None]):
    """Each call finds the program as it is, whatever changed since the workers were started."""
    f = parallel(world, **processes)
    f.map(range(4))
    for number in range(3):
        change(number)
        assert f.map(range(4)) == [world()] * 4
        assert f.submit().result() == world()


def test_a_call_keeps_its_world(processes: dict[str, Any], change: Callable[[int], None], tmp_path: Path):
    """What changes while tasks wait is not theirs: not in the queue, not in a stream, not for a retry."""
    gate = tmp_path / "gate"

    def late(_: int) -> dict[str, Any]:
        import time

        while not gate.exists():
            time.sleep(0.005)
        return world()

    def again(_: int) -> dict[str, Any]:
        late(0)
        if not (found := tmp_path / "again").exists():
            found.touch()
            raise ValueError
        return world()

    f, g = parallel(late, **processes), parallel(again, retries=1, **processes)
    worlds, futures, streams, batches = [], [], [], []
    for number in range(3):
        change(number)
        worlds.append(world())
        futures.append([f.submit(0) for _ in range(5)])
        streams.append(f.imap(range(5)))
        batches.append(f.map_async(range(5)))
    retried = g.submit(0)
    change(3)
    gate.touch()

    assert [[future.result() for future in few] for few in futures] == [[each] * 5 for each in worlds]
    assert [list(stream) for stream in streams] == [[each] * 5 for each in worlds]
    assert [batch.result() for batch in batches] == [[each] * 5 for each in worlds]
    assert retried.result() == worlds[-1]


def test_deletions_follow(processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """What is gone from the environment and from the module path is gone in workers, whenever it was set."""

    def found(_: int) -> tuple[bool, bool, bool]:
        return "EARLY" in os.environ, "LATE" in os.environ, "/nowhere" in sys.path

    monkeypatch.setenv("EARLY", "1")
    f = parallel(found, **processes)
    assert f.map([0]) == [(True, False, False)]
    monkeypatch.setenv("LATE", "1")
    monkeypatch.setattr(sys, "path", [*sys.path, "/nowhere"])
    assert f.map([0]) == [(True, True, True)]
    monkeypatch.delenv("EARLY")
    sys.path.remove("/nowhere")
    assert f.map([0]) == [(False, True, False)]
    monkeypatch.delenv("LATE")
    assert f.map([0]) == [(False, False, False)]


def test_what_tasks_set_stays(processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """A change in the program undoes nothing that a task, or a module it imported, did to other variables."""

    def keep(name: str) -> str | None:
        before = os.environ.get(name)
        os.environ[name] = "kept"
        return before

    f = parallel(keep, **{**processes, "workers": 1})
    assert f.map(["OF_A_TASK"]) == [None]
    monkeypatch.setenv("MINE", "1")
    assert f.map(["OF_A_TASK"]) == ["kept"]


def test_options_win(processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """What `env=` says holds, key by key, and so do the limits of numeric libraries, unless the program has its own."""
    names = ["MINE", "OTHER", "OMP_NUM_THREADS", "MKL_NUM_THREADS"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    f = parallel(os.getenv, env={"MINE": "chosen"}, **processes)
    limit = f.map(["OMP_NUM_THREADS"])[0]
    assert limit is not None
    monkeypatch.setenv("MINE", "late")
    monkeypatch.setenv("OTHER", "late")
    assert f.map(names) == ["chosen", "late", limit, limit]
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.delenv("MINE")
    assert f.map(names) == ["chosen", "late", limit, "7"]


def test_another_mapping_as_environment(processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """A program may put a plain dictionary in the place of `os.environ`."""
    f = parallel(os.getenv, **processes)
    f.map(["MINE"])
    monkeypatch.setattr(os, "environ", {**os.environ, "MINE": "plain"})

    assert f.map(["MINE"]) == ["plain"]


def test_the_initializer_is_in_it(processes: dict[str, Any], change: Callable[[int], None], tmp_path: Path):
    """An initializer finds the world of the call that starts its worker; later workers, that of the latest call."""

    def note() -> None:
        sys.modules["noted"] = world()  # type: ignore[assignment]

    def noted(die: bool) -> Any:
        if die:
            os._exit(1)
        return sys.modules["noted"]

    change(1)
    f = parallel(noted, initializer=note, **{**processes, "workers": 1})
    assert f.map([False]) == [world()]
    change(2)
    with pytest.raises(parmap.WorkerDiedError):
        f.map([True])
    assert f.map([False]) == [world()]


def test_what_the_initializer_says(processes: dict[str, Any], caplog: pytest.LogCaptureFixture):
    """Its log records and warnings come out as those of tasks do."""

    def speak() -> None:
        logging.getLogger("of the world").info("ready")
        warnings.warn("shown", UserWarning, stacklevel=1)

    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.simplefilter("error")
        f = parallel(abs, initializer=speak, **processes)
        with pytest.raises(UserWarning, match="shown"):
            f.map([1])
        f.shutdown()
    assert "ready" in caplog.messages


@pytest.mark.parametrize("method", METHODS)
def test_a_proxy_among_initargs(script: Script, method: str):
    """The key of `multiprocessing` is there when an initializer, or its arguments, connect to a manager."""
    run = script.run(f"""
import multiprocessing
import parmap

def remember(shared):
    global queue
    queue = shared
    queue.put("started")

def put(x):
    queue.put(x)
    return x

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Manager() as manager:
        shared = manager.Queue()
        f = parmap.parallel(put, workers=1, initializer=remember, initargs=(shared,), start_method={method!r})
        assert f.map([1, 2]) == [1, 2]
        with parmap.Executor(1, initializer=remember, initargs=(shared,)) as executor:
            assert executor.submit(put, 3).result() == 3
        print(sorted(str(shared.get()) for _ in range(shared.qsize())))
""")

    assert (run.stdout, run.stderr) == ("['1', '2', '3', 'started', 'started']\n", "")


# context variables


@pytest.mark.parametrize("options", ["", 'backend="threads", '])
def test_variables_stay_with_the_caller(script: Script, options: str):
    """Tasks don't see the variables of a context, nor does a pool keep those of the one that began it."""
    inherits = ("-X", "thread_inherit_context=1") if sys.version_info >= (3, 14) else ()
    run = script.run(
        f"""
import contextvars, gc, weakref
from parmap import parallel

class Value: ...

variable = contextvars.ContextVar("variable", default=None)

@parallel({options}workers=2)
def seen(_):
    return variable.get() is not None

def begin():
    value = Value()
    variable.set(value)
    found = [*seen.map(range(4)), seen.submit(0).result(), *seen.imap(range(4))]
    return any(found), weakref.ref(value)

if __name__ == "__main__":
    is_seen, value = contextvars.copy_context().run(begin)
    gc.collect()
    print(is_seen, value() is None, any(seen.map(range(4))))
""",
        args=inherits,
    )
    assert (run.stdout, run.stderr) == ("False True False\n", "")


# decimal arithmetic


def test_decimal_arithmetic(backend: dict[str, Any]):
    """The precision, rounding and traps of the caller hold in tasks."""
    f = parallel(third, **backend)
    assert f.map(range(4)) == ["0.3333333333333333333333333333"] * 4
    for precision in (5, 9):
        with decimal.localcontext(prec=precision, rounding=decimal.ROUND_UP):
            expected = "0." + "3" * (precision - 1) + "4"
            assert f.map(range(4)) == [expected] * 4
            assert list(f.imap(range(4))) == [expected] * 4
            assert [future.result() for future in [f.submit() for _ in range(4)]] == [expected] * 4
    with decimal.localcontext() as context:
        context.traps[decimal.Inexact] = True
        with pytest.raises(decimal.Inexact):
            f.map(range(4))


def test_decimal_arithmetic_is_undone(backend: dict[str, Any]):
    """What tasks change of it ends with their chunk, and the caller never sees it."""
    with decimal.localcontext(prec=5):
        assert parallel(third_and_spoil, chunksize=1, **backend).map(range(6)) == ["0.33333"] * 6
        assert decimal.getcontext().prec == 5


def test_decimal_arithmetic_of_threads(backend: dict[str, Any]):
    """Each thread has its own, and so have its calls."""
    f = parallel(third, **backend)
    found: dict[int, set[str]] = {}

    def call(precision: int) -> None:
        decimal.setcontext(decimal.Context(prec=precision))  # the one it has may be that of whoever started it
        found[precision] = {*f.map(range(10)), *(f.submit().result() for _ in range(10))}

    threads = [threading.Thread(target=call, args=(precision,)) for precision in (3, 4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == {precision: {"0." + "3" * precision} for precision in (3, 4, 5)}


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_decimal_arithmetic_on_an_executor(kind: str):
    """It travels to the workers of others, and leaves nothing there."""
    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ThreadPoolExecutor(1)
        if kind == "threads"
        else concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor,
        decimal.localcontext(prec=4),
    ):
        assert parallel(third_and_spoil, backend=executor, chunksize=1).map(range(3)) == ["0.3333"] * 3
        assert executor.submit(third).result() == "0.3333333333333333333333333333"


# numpy's errors of floats


def test_errors_of_floats(backend: dict[str, Any]):
    """Whether numpy raises, warns or says nothing is the caller's choice, and what tasks choose ends with their chunk."""
    np = pytest.importorskip("numpy")
    f, spoils = parallel(divide, **backend), parallel(divide_and_spoil, chunksize=1, **backend)
    with np.errstate(divide="raise"):
        assert f.map(range(4)) == ["raised"] * 4
        assert [f.submit().result() for _ in range(2)] == ["raised"] * 2
        assert spoils.map(range(6)) == ["raised"] * 6
        assert np.geterr()["divide"] == "raise"
    with np.errstate(divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert f.map(range(4)) == ["[inf]"] * 4
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        assert f.map(range(4)) == ["[inf]"] * 4


def test_errors_of_floats_on_an_executor():
    """They travel to the workers of others, and leave nothing there."""
    np = pytest.importorskip("numpy")
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        with np.errstate(divide="raise"):
            assert parallel(divide_and_spoil, backend=executor, chunksize=1).map(range(3)) == ["raised"] * 3
        assert executor.submit(divide).result() == "[inf]"


# shared memory of multiprocessing

TRACKED = """
from multiprocessing.shared_memory import SharedMemory
import parmap

def read(name):
    memory = SharedMemory(name=name)
    first = memory.buf[0]
    memory.close()
    return first

def make(_):
    memory = SharedMemory(create=True, size=1000)
    memory.buf[0] = 7
    memory.close()
    return memory.name

def idle(x):
    return x
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("first", ["workers", "memory"])
def test_the_program_s_shared_memory(script: Script, method: str, first: str):
    """It outlives the workers that use it, whether they or it were there first; nobody tells of leaks."""
    run = script.run(f"""{TRACKED}
options = dict(workers=2, start_method={method!r}, max_tasks_per_child=1)
if {first == "workers"}:
    parmap.parallel(idle, **options).map([1, 2])
memory = SharedMemory(create=True, size=1000)
f = parmap.parallel(read, **options)
print(f.map([memory.name] * 6), f.submit(memory.name).result())
f.shutdown()
print(f.map([memory.name]))
memory.close()
memory.unlink()
""")

    assert (run.stdout, run.stderr) == ("[0, 0, 0, 0, 0, 0] 0\n[0]\n", "")


@pytest.mark.parametrize("method", METHODS)
def test_shared_memory_of_a_task(script: Script, method: str):
    """What a task makes outlives its worker; the program may use it, and ends it."""
    run = script.run(f"""{TRACKED}
f = parmap.parallel(make, workers=1, start_method={method!r})
names = f.map([1, 2])
f.shutdown()
for name in names:
    memory = SharedMemory(name=name)
    print(memory.buf[0])
    memory.close()
    memory.unlink()
""")

    assert (run.stdout, run.stderr) == ("7\n7\n", "")


@pytest.mark.parametrize("method", METHODS)
def test_no_tracker_for_nothing(script: Script, method: str):
    """A program that shares no memory has no process for that."""
    run = script.run(f"""
import sys, parmap
parmap.parallel(abs, workers=2, start_method={method!r}).map([-1])
print("multiprocessing.resource_tracker" in sys.modules)
""")

    assert (run.stdout, run.stderr) == ("False\n", "")


# process-wide defaults


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seconds", [0, 0.001, 5])
def test_the_default_timeout_of_sockets(script: Script, method: str, seconds: float):
    """It is for the program's own sockets, and for a task's: nothing of ours waits less, or hangs."""
    run = script.run(
        f"""
import socket, time
import parmap

def default(seconds):
    socket.setdefaulttimeout({seconds})

def f(x):
    time.sleep(0.05)
    default(0)
    return len(x)

default(0)
socket.setdefaulttimeout({seconds})
g = parmap.parallel(f, workers=2, start_method={method!r}, initializer=default, initargs=(1,))
assert g.map([b"x" * 300_000] * 8) == [300_000] * 8
assert [g.submit(b"x").result() for _ in range(5)] == [1] * 5
g.shutdown()
assert g.map([b"x"]) == [1]
print(socket.getdefaulttimeout())
""",
        timeout=30,
    )

    assert (run.stdout, run.stderr) == (f"{float(seconds)}\n", "")


@pytest.mark.parametrize("method", METHODS)
def test_more_than_1024_descriptors(script: Script, method: str):
    """High numbers of descriptors are as good as low ones, to the end."""
    run = script.run(f"""
import os, resource, time
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, most), most))
held = [os.open("/dev/null", 0) for _ in range(1500)]
import parmap
f = parmap.parallel(abs, workers=2, idle_timeout=0.1, timeout=20, start_method={method!r})
print(f.map([-1]), f.submit(-2).result(timeout=20))
time.sleep(0.5)  # the workers leave meanwhile
print(f.submit(-2).result(timeout=20), list(f.imap([-3])))
parmap.shutdown()
""")

    assert (run.stdout, run.stderr) == ("[1] 2\n2 [3]\n", "")


TRUNCATE = """
import os, time
import parmap

def truncate():
    for fd in range(3, 64):
        for size in (0, 1, 1 << 30):
            try:
                os.ftruncate(fd, size)
            except OSError:
                pass
"""


@pytest.mark.parametrize("method", METHODS)
def test_shared_memory_can_t_be_cut(script: Script, method: str):
    """A task that truncates every file it finds brings nobody down: no page, argument, result or function is cut."""
    run = script.run(f"""{TRUNCATE}
big = bytes(300_000)

def f(x):
    truncate()
    return len(x), x, len(big)

g = parmap.parallel(f, workers=2, timeout=20, start_method={method!r})
for _ in range(3):
    assert g.map([bytearray(200_000)] * 4) == [(200_000, bytearray(200_000), 300_000)] * 4
    assert g.submit(bytearray(200_000)).result()[0] == 200_000
print("fine")
""")

    assert (run.stdout, run.stderr) == ("fine\n", "")


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="nothing seals files")
@pytest.mark.parametrize("method", METHODS)
def test_stories_after_a_cut(script: Script, method: str):
    """The status of a worker is told, and its stack grows behind it, though a task has truncated every file."""
    run = script.run(f"""{TRUNCATE}
def f(kind):
    truncate()
    if kind == "hang":
        time.sleep(60)
    os.abort()

g = parmap.parallel(f, workers=1, timeout=0.5, start_method={method!r})
for error in g.map(["hang", "die"], return_exceptions=True):
    print(type(error).__name__, "in f" in error.stack)
""")

    assert run.stdout == "TaskTimeoutError True\nWorkerDiedError True\n"


# threads


@pytest.mark.parametrize("name", ["parmap-engine", "parmap-worker"])
@pytest.mark.parametrize("call", ["map", "submit", "imap", "map_async"])
def test_no_thread_to_be_had(name: str, call: str, monkeypatch: pytest.MonkeyPatch):
    """A call whose threads can't be started is an error that says so, not one that runs here without a word."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith(name):
            message = "can't start new thread"
            raise RuntimeError(message)
        start(thread)

    f = parallel(abs, workers=2, backend="threads")
    calls: dict[str, Callable[[], Any]] = {
        "map": lambda: f.map([-1]),
        "submit": lambda: f.submit(-1).result(),
        "imap": lambda: list(f.imap([-1])),
        "map_async": lambda: f.map_async([-1]).result(),
    }
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match=f"can't start its thread '{name}.*raise the limit"):
        calls[call]()
    monkeypatch.undo()

    def works() -> bool:
        try:
            return calls[call]() in (1, [1])
        except RuntimeError:  # the pool's thread was still starting the other one
            return False

    wait_until(works)


def test_no_thread_for_output(script: Script):
    """What tasks print comes out, and after it the reason why it holds up other work."""
    run = script.run("""
import threading
import parmap
start = threading.Thread.start

def refuse(thread):
    if thread.name == "parmap-output":
        raise RuntimeError("can't start new thread")
    start(thread)

threading.Thread.start = refuse
f = parmap.parallel(print, workers=2)
f.map(["x" * 1000] * 10_000)
""")

    assert run.stdout.split() == ["x" * 1000] * 10_000
    assert run.stderr.count("parmap can't start its thread 'parmap-output'") == 1


def test_no_thread_for_callbacks(
    processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Callbacks run all the same, and the log tells what was tried."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "parmap-callbacks":
            message = "can't start new thread"
            raise RuntimeError(message)
        start(thread)

    called = threading.Event()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    inspection.callbacks_end()
    parallel(abs, **processes).submit(-1).add_done_callback(lambda _: called.set())

    assert called.wait(20)
    assert "can't start its thread 'parmap-callbacks'" in caplog.text


def test_a_breakpoint_says_how_to_debug(processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has no terminal: `breakpoint()` says what to do, unless the user has turned it off or chosen another."""

    def stop(x: int) -> int:
        breakpoint()  # noqa: T100 - what is tested
        return x

    function = parallel(stop, **processes)
    with pytest.raises(RuntimeError, match=r'`with parmap\.override\(backend="serial"\):`'):
        function.map([1])
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    assert function.map([1]) == [1]


def test_modules_that_are_looked_for_before_they_are_imported(script: Script):
    """A task that asks whether `decimal` and `logging` are there, then imports them, has the program's settings."""
    done = script.run("""
        import decimal, logging
        from parmap import parallel

        def task(names):
            from importlib import import_module, util

            found = [import_module(name) for name in names if util.find_spec(name)]
            found[1].getLogger("task").warning("told")
            return found[0].getcontext().prec

        logging.basicConfig(format="%(name)s: %(message)s")
        decimal.getcontext().prec = 5
        print(parallel(task, workers=1).map([("decimal", "logging")]))
    """)

    assert (done.stdout, done.stderr) == ("[5]\n", "task: told\n")
