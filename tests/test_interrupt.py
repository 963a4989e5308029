"""Ctrl-C: one press, one KeyboardInterrupt, no noise, and a pool that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from test_exit import is_gone, killed_at_last

from conftest import wait_until

if TYPE_CHECKING:
    from conftest import Script

METHODS = ("forkserver", "spawn")

# Each waits for work that would take for ever, and says when the first task has begun.
WAITS = {
    "map": "f.map(range(100))",
    "map of a generator": "f.map(x for x in range(100))",
    "starmap": "f.starmap([(x,) for x in range(100)])",
    "imap": "for _ in f.imap(range(100)): pass",
    "imap_unordered": "for _ in f.imap_unordered(range(100)): pass",
    "submit": "futures = [f.submit(0)]; Path('submitted').touch(); futures[0].result()",
    "submit with a timeout": "futures = [f.submit(0)]; Path('submitted').touch(); futures[0].result(timeout=500)",
    "many submits": (
        "futures = [f.submit(x) for x in range(20)]; Path('submitted').touch(); [future.result() for future in futures]"
    ),
    "map_async": "futures = [f.map_async(range(100))]; Path('submitted').touch(); futures[0].result()",
    "async_result": (  # whose import an interrupt may meet in the midst of an error that is handled there
        "futures = [f.submit(0)]; waiting = futures[0].async_result; Path('submitted').touch(); waiting.get()"
    ),
    "concurrent.futures.wait": (
        "import concurrent.futures; futures = [f.submit(0)]; Path('submitted').touch(); concurrent.futures.wait(futures)"
    ),
}

TASKS = {
    "in python": "while True: time.sleep(0.01)",
    "in C": "sum(range(10**12))",
}

PROGRAM = """\
import time
from pathlib import Path
import parmap

def work(x):
    Path("begun").touch()
    {task}

def double(x):
    return 2 * x

f = parmap.parallel(work, workers=2, start_method={method!r})
g = parmap.parallel(double, workers=2, start_method={method!r})
{before}
print("ready", flush=True)
{body}
"""

CATCH = """\
try:
    {wait}
except KeyboardInterrupt as error:
    print("caught", error.__context__ is None, flush=True)
{after}
print(g.map(range(5)), g.submit(21).result(), flush=True)
"""


def press(script: Script, process: subprocess.Popen[str]) -> None:
    """Interrupt the whole process group of a script once its tasks run, as a terminal does."""
    wait_until((script.folder / "begun").exists)
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("method", METHODS)
def test_one_press_is_one_interrupt(script: Script, method: str, wait: str) -> None:
    """An interrupt in the middle of a call reaches the caller once, and the pool works afterwards."""
    # Who submits and catches the interrupt still has the tasks, on all workers: they are cancelled by hand.
    after = "[future.cancel() for future in futures]" if "futures" in wait else ""
    body = CATCH.format(wait=wait, after=after)
    program = PROGRAM.format(task=TASKS["in python"], method=method, before="", body=body)
    process = script.start(program)
    with killed_at_last(process):
        wait_until(lambda: "futures" not in wait or (script.folder / "submitted").exists())  # what is to be cancelled
        press(script, process)
        stdout, stderr = process.communicate(timeout=40)

    assert (process.returncode, stderr) == (0, "")
    assert stdout == "ready\ncaught True\n[0, 2, 4, 6, 8] 42\n"


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wait", ["f.map(range(100))", "for _ in f.imap(range(100)): pass", "f.submit(0).result()"])
def test_uncaught_interrupt_ends_the_script(script: Script, wait: str, method: str, task: str) -> None:
    """Without an `except`, one traceback is shown, nothing else, and the exit status is that of Ctrl-C."""
    process = script.start(PROGRAM.format(task=task, method=method, before="", body=wait))
    parent = psutil.Process(process.pid)
    with killed_at_last(process):
        wait_until((script.folder / "begun").exists)
        others = parent.children(recursive=True)
        press(script, process)
        begin = time.monotonic()
        _, stderr = process.communicate(timeout=40)

    assert process.returncode == -signal.SIGINT
    assert stderr.count("Traceback") == 1, stderr
    assert stderr.strip().endswith("KeyboardInterrupt")
    assert time.monotonic() - begin < 30
    wait_until(lambda: all(map(is_gone, others)))


@pytest.mark.parametrize("wait", ["f.map(range(100))", "for _ in f.imap(range(100)): pass"])
def test_ctrl_c_at_a_terminal(script: Script, wait: str) -> None:
    """The key itself, at a terminal that the script is in the foreground of."""
    import fcntl
    import pty
    import termios

    master, slave = pty.openpty()
    path = script.write(
        PROGRAM.format(task=TASKS["in C"], method="forkserver", before="", body=CATCH.format(wait=wait, after=""))
    )
    process = subprocess.Popen(
        [sys.executable, path],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=script.environment,
        cwd=script.folder,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads here
    )
    os.close(slave)
    try:
        wait_until((script.folder / "begun").exists)
        os.write(master, b"\x03")
        output = _read_all(master)
        process.wait(timeout=40)
    finally:
        process.kill()
        process.wait()
        os.close(master)

    assert process.returncode == 0, output
    assert output.replace("^C", "").splitlines() == ["ready", "caught True", "[0, 2, 4, 6, 8] 42"]


def _read_all(descriptor: int) -> str:
    """What comes from a terminal until everybody has left it."""
    chunks = []
    while True:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # the last one has left
            break
        if not data:
            break
        chunks.append(data)
    return b"".join(chunks).decode()


def test_warm_pool_survives_several_interrupts(script: Script) -> None:
    """Interrupted again and again, the pool goes on, and nothing piles up."""
    process = script.start(
        PROGRAM.format(
            task='Path(f"begun-{x}").touch()\n    while True: time.sleep(0.01)',
            method="forkserver",
            before="g.map(range(10))",
            body="""\
for number in range(3):
    try:
        f.map([number] * 100)
    except KeyboardInterrupt:
        print("caught", g.map([number]), flush=True)
""",
        )
    )
    with killed_at_last(process):
        for number in range(3):
            wait_until((script.folder / f"begun-{number}").exists)
            os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=40)

    assert (process.returncode, stderr) == (0, "")
    assert stdout == "ready\n" + "".join(f"caught [{2 * number}]\n" for number in range(3))


@pytest.mark.parametrize("backend", ["processes", "threads"])
def test_interrupt_during_exit_ends_pending_work(script: Script, backend: str) -> None:
    """While the script waits at its end for what was submitted, one Ctrl-C ends it, and tells where it was."""
    process = script.start(f"""
        import atexit, time
        from pathlib import Path
        import parmap

        atexit.register(print, "exit handlers run", flush=True)
        f = parmap.parallel(time.sleep, workers=1, backend={backend!r})
        f.submit(1000).add_done_callback(lambda future: print(type(future.exception()).__name__, flush=True))
        f.submit(1000)
        atexit.register(Path("begun").touch)
    """)
    parent = psutil.Process(process.pid)
    with killed_at_last(process):
        wait_until((script.folder / "begun").exists)
        others = parent.children(recursive=True)
        # It is about to wait, if it doesn't yet: of that there is no outside sign.
        wait_until(lambda: parent.status() == psutil.STATUS_SLEEPING)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)

    assert stdout == "PoolClosedError\nexit handlers run\n"
    assert stderr.count("Traceback") == 1
    assert stderr.strip().rstrip(":").endswith("KeyboardInterrupt")  # no colon from 3.15 on
    wait_until(lambda: all(map(is_gone, others)))


def test_interrupt_while_a_thread_is_waited_for(script: Script) -> None:
    """While the script waits for a thread that waits for its work, Ctrl-C ends both."""
    process = script.start("""
        import threading, time
        from pathlib import Path
        import parmap

        f = parmap.parallel(time.sleep, workers=1)
        f.map([0])

        def work():
            try:
                f.map([1000] * 3)
            except parmap.PoolClosedError:
                print("closed", flush=True)

        threading.Thread(target=work).start()
        threading._register_atexit(Path("begun").touch)
    """)
    with killed_at_last(process):
        wait_until((script.folder / "begun").exists)
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)

    assert stdout == "closed\n"
    assert stderr.count("Traceback") == 1


def test_an_interrupted_result_comes_later(script: Script) -> None:
    """A task whose `result()` was interrupted goes on: its result can be asked for again."""
    process = script.start(
        PROGRAM.format(
            task="time.sleep(1); return x",
            method="forkserver",
            before="future = f.submit(5)",
            body="""\
try:
    future.result()
except KeyboardInterrupt:
    print("interrupted", future.cancelled(), flush=True)
print(future.result(), f.map([6]), flush=True)
""",
        )
    )
    with killed_at_last(process):
        press(script, process)
        stdout, stderr = process.communicate(timeout=40)

    assert (process.returncode, stderr) == (0, "")
    assert stdout == "ready\ninterrupted False\n5 [6]\n"


SHUTDOWNS = {
    "of a function": ("f.submit(1)", "f.shutdown()"),
    "of all": ("f.submit(1)", "parmap.shutdown()"),
    "of an executor": ("e = parmap.Executor(1)\ne.submit(work, 1)", "e.shutdown()"),
    "of a block": ("e = parmap.Executor(1)\ne.submit(work, 1)", "with e: pass"),
    "of a pool": ("p = parmap.Pool(1)\np.apply_async(work, (1,))\np.close()", "p.join()"),
}


@pytest.mark.parametrize(("before", "end"), SHUTDOWNS.values(), ids=SHUTDOWNS)
def test_interrupted_shutdown(script: Script, before: str, end: str) -> None:
    """A Ctrl-C while a pool is being shut down is raised; the shutdown can be asked for again, or dropped."""
    body = f"""\
{before}
def end():
    {end}
try:
    end()
except KeyboardInterrupt:
    print("interrupted", flush=True)
Path("go").touch()
end()
print(Path("done").exists(), g.map([1]), flush=True)
"""
    task = 'while not Path("go").exists(): time.sleep(0.01)\n    Path("done").touch()'
    process = script.start(PROGRAM.format(task=task, method="forkserver", before="", body=body))
    with killed_at_last(process):
        press(script, process)
        stdout, stderr = process.communicate(timeout=40)

    assert (process.returncode, stderr) == (0, "")
    assert stdout == "ready\ninterrupted\nTrue [2]\n"


def test_workers_ignore_an_interrupt_of_their_own(script: Script) -> None:
    """SIGINT sent to a worker does nothing: the parent decides."""
    done = script.run("""
        import os, signal
        import parmap

        def interrupt(x):
            os.kill(os.getpid(), signal.SIGINT)
            return x

        print(parmap.parallel(interrupt, workers=2).map(range(4)))
    """)

    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1, 2, 3]\n", "")


def test_interrupt_in_the_first_call_leaves_garbage_collected(script: Script) -> None:
    """Whenever a Ctrl-C comes: here, as soon as the collector is paused."""
    done = script.run("""
        import gc, signal
        import parmap

        pause = gc.disable

        def press():
            pause()
            signal.raise_signal(signal.SIGINT)

        gc.disable = press
        try:
            parmap.parallel(abs, backend="serial").map([1])
        except KeyboardInterrupt:
            print("interrupted", gc.isenabled())
    """)

    assert (done.stdout, done.stderr) == ("interrupted True\n", "")


def test_handler_of_the_user_is_kept(script: Script) -> None:
    """A handler that the user has set is called, and the map goes on if it does not raise."""
    process = script.start(
        PROGRAM.format(
            task="time.sleep(0.2); return x",
            method="forkserver",
            before="import signal\nsignal.signal(signal.SIGINT, lambda *_: print('handled', flush=True))",
            body="print(f.map(range(6)))",
        )
    )
    with killed_at_last(process):
        press(script, process)
        stdout, stderr = process.communicate(timeout=40)

    assert (process.returncode, stderr) == (0, "")
    assert stdout == "ready\nhandled\n[0, 1, 2, 3, 4, 5]\n"


def test_a_task_that_asks_the_terminal(script: Script) -> None:
    """A task whose program asks the terminal for a password gets an error: its worker is not stopped for that."""
    done = script.run("""
        import os, pty, sys

        child, terminal = pty.fork()
        if child:
            told = b""
            try:
                while more := os.read(terminal, 1000):
                    told += more
            except OSError:  # the end, on Linux
                pass
            sys.exit(told.decode().strip())
        import subprocess
        from parmap import parallel

        def ask(_):
            asks = "import sys; open('/dev/tty').read(1)"
            return subprocess.run([sys.executable, "-c", asks], capture_output=True).stderr.splitlines()[-1]

        print(parallel(ask, workers=1).map([0]))
    """)

    assert "Input/output error" in done.stderr


def test_interrupt_while_threads_are_started(script: Script) -> None:
    """The pool is stopped before the last of them is there: it ends, too."""
    done = script.run("""
        import signal, threading, time
        import parmap
        from parmap.backends._threads import Threads

        born, births, may_go_on = Threads._born, [], threading.Event()

        def slowly(self):
            if not may_go_on.is_set():
                signal.raise_signal(signal.SIGINT)
                may_go_on.wait()
            births.append(born(self))
            return births[-1]

        Threads._born = slowly
        f = parmap.parallel(abs, workers=2, backend="threads")
        try:
            f.map(x for x in [-1])
        except KeyboardInterrupt:
            print("interrupted")
        parmap.shutdown()
        may_go_on.set()
        deadline = time.monotonic() + 20
        while len(births) < 2 or any(thread.is_alive() for _, _, thread in births):
            if time.monotonic() > deadline:
                print("left:", threading.enumerate())
                break
            time.sleep(0.01)
        print(f.map([-1]))
    """)

    assert done.stdout.splitlines() == ["interrupted", "[1]"], done.stderr


def test_interrupt_while_a_pool_is_made(script: Script) -> None:
    """The next call has that pool: interrupted ones do not pile up."""
    done = script.run("""
        import signal, threading, time
        import parmap
        from parmap._engine import registry
        from parmap._engine.engine import Engine

        make, made, may_go_on = Engine.__init__, [], threading.Event()

        def slowly(self, *args, **options):
            if not may_go_on.is_set():
                signal.raise_signal(signal.SIGINT)
                may_go_on.wait()
            make(self, *args, **options)
            made.append(self)

        Engine.__init__ = slowly
        f = parmap.parallel(abs, workers=2, backend="threads")
        try:
            f.map([-1])
        except KeyboardInterrupt:
            print("interrupted")
        may_go_on.set()
        deadline = time.monotonic() + 5
        while not registry._shared and time.monotonic() < deadline:
            time.sleep(0.01)
        print(f.map([-1]), len(made))
    """)

    assert done.stdout.splitlines() == ["interrupted", "[1] 1"], done.stderr
