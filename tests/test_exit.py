"""The end of the user's program: right exit code, no noise, nothing left, however it comes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import parmap
from conftest import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from conftest import Script

METHODS = ("forkserver", "spawn")

BUSY_IN_C = {
    "sum of a range": "sum(range(10**12))",
    "power of integers": "pow(7, 10**9)",
}

# Both workers are in C code, each in its own task, when this has printed its line.
BUSY = """\
from pathlib import Path
import time
import parmap

def busy(number):
    Path(f"begun-{{number}}").touch()
    {work}

f = parmap.parallel(busy, workers=2, start_method={method!r})
futures = [f.submit(0), f.submit(1)]
while not (Path("begun-0").exists() and Path("begun-1").exists()):
    time.sleep(0.01)
print(parmap.__file__, flush=True)
futures[0].result()
"""


def shared_memory() -> set[str]:
    """The named pieces of shared memory and semaphores of this machine."""
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


def nothing_is_left_of(before: set[str]) -> bool:
    """Whether all that has come to the shared memory since is in use: other programs have some, as Ray for minutes."""
    if not (new := shared_memory() - before):
        return True
    used = ""
    for path in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it has just ended, or is somebody else's
            used += path.read_text(errors="replace")
    return all(f"/dev/shm/{name}" in used for name in new)


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended (one that nobody has waited for yet has ended, too)."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def family(process: subprocess.Popen[str], least: int = 3) -> list[psutil.Process]:
    """The template and the workers of a script, once *least* processes are there."""
    parent = psutil.Process(process.pid)
    wait_until(lambda: len(parent.children(recursive=True)) >= least)
    return parent.children(recursive=True)


@contextmanager
def killed_at_last(process: subprocess.Popen[str]) -> Iterator[None]:
    """Leave no script running, even if the test fails."""
    with process:
        try:
            yield
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line that a script prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


ENDINGS: dict[str, tuple[str, int, str]] = {
    "results pending": ("futures = [f.submit(0.05) for _ in range(10)]", 0, ""),
    "a stream half read": ("stream = f.imap([0.01] * 100)\nnext(stream)", 0, ""),
    "a stream not begun": ("stream = f.imap([0.01] * 20)", 0, ""),
    "a batch pending": ("batch = f.map_async([0.01] * 20)", 0, ""),
    "nothing used": ("", 0, ""),
    "idle workers": ("f.map([0.0] * 10)", 0, ""),
    "sys.exit with work pending": ("f.submit(0.2)\nimport sys\nsys.exit(7)", 7, ""),
    "an exception with work pending": ("f.submit(0.2)\nraise ValueError('mine')", 1, "ValueError: mine"),
    "an exception of a task": ("f.map(['x'])", 1, "TypeError"),
    "an unread error of a task": ("f.submit('x')", 0, "nobody asked for its result"),
    "a dead worker": ("import os\nparmap.parallel(lambda: os._exit(3), workers=2).submit()", 0, "code 3"),
    "global names that hold everything": ("keep = [f, f.submit(0.1), f.imap([0.1] * 3), parmap]", 0, ""),
    "a large closure": ("keep = bytes(10**6)\nparmap.parallel(lambda i: len(keep), workers=2).map([1, 2])", 0, ""),
    "a reference cycle": ("class C: pass\nc = C()\nc.me, c.stream = c, f.imap([0.01] * 50)\nnext(c.stream)", 0, ""),
    "a pool shut down without waiting": ("f.submit(0.1)\nparmap.shutdown()\nf.submit(0.1)", 0, ""),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("end", "code", "error"), ENDINGS.values(), ids=ENDINGS)
def test_exit_is_right_and_quiet(script: Script, method: str, end: str, code: int, error: str) -> None:
    """A script that closes nothing ends with its own exit code, its own words on stderr, and leaves nothing."""
    before = shared_memory()
    program = f"""\
import time
import parmap

def nap(seconds):
    time.sleep(seconds)

f = parmap.parallel(nap, workers=2, start_method={method!r})
{end}
"""

    done = script.run(program)

    assert done.returncode == code, done.stderr
    if error:
        # Our own traceback ends with the error; nothing comes behind it.
        assert error in done.stderr
        assert done.stderr.count("Exception ignored") == 0
        assert "parmap-engine" not in done.stderr
    else:
        assert done.stderr == ""
    wait_until(lambda: nothing_is_left_of(before))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("flags", [("-X", "dev"), ("-W", "error")], ids=" ".join)
def test_exit_is_quiet_with_all_warnings(script: Script, flags: tuple[str, str], method: str) -> None:
    """No process of parmap's leaves a resource unclosed that Python would warn of in development mode."""
    done = script.run(
        f"import parmap\nprint(parmap.parallel(abs, workers=2, start_method={method!r}).map([-1]))", args=flags
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "[1]\n", "")


@pytest.mark.parametrize("method", METHODS)
def test_a_program_that_asks_for_encodings(script: Script, method: str) -> None:
    """Where a file that is opened without an encoding is an error, parmap opens none."""
    script.environment["PYTHONWARNDEFAULTENCODING"] = "1"
    done = script.run(
        f"""
        import json
        from parmap import parallel

        @parallel(workers=2, start_method={method!r})
        def length(value):
            return len(json.dumps(value))

        print(length.map([1, 23]), length.submit(4).result())
        """,
        args=("-W", "error"),
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "[1, 2] 1\n", "")


@pytest.mark.parametrize("option", [*(f"start_method={method!r}" for method in METHODS), "backend='threads'"])
def test_submitted_work_is_finished(script: Script, option: str) -> None:
    """What was submitted before the end of the script is done, as concurrent.futures does it."""
    done = script.run(f"""
        import parmap
        from pathlib import Path

        @parmap.parallel(workers=2, {option})
        def touch(number):
            Path(f"done-{{number}}").touch()

        for number in range(30):
            touch.submit(number)
    """)

    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(script.folder.glob("done-*"))) == 30


def test_callbacks_of_pending_work_run(script: Script) -> None:
    """Done-callbacks of tasks that end during the exit still run."""
    done = script.run("""
        import time
        import parmap

        f = parmap.parallel(lambda x: time.sleep(0.1) or x, workers=2)
        f.submit(5).add_done_callback(lambda future: print("callback", future.result(), flush=True))
    """)

    assert (done.returncode, done.stdout, done.stderr) == (0, "callback 5\n", "")


@pytest.mark.parametrize("method", METHODS)
def test_output_of_workers_is_flushed(script: Script, method: str) -> None:
    """What a task prints without a newline, and without a flush, is not lost when the script ends."""
    done = script.run(f"""
        import parmap

        parmap.parallel(lambda x: print(f"<{{x}}>", end=""), workers=2, start_method={method!r}).map(range(20))
    """)

    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"<{x}>" in done.stdout for x in range(20))


@pytest.mark.parametrize("method", METHODS)
def test_atexit_callbacks_of_workers_run(script: Script, method: str) -> None:
    """A worker that leaves runs the atexit callbacks that tasks have registered."""
    done = script.run(f"""
        import parmap

        def register(_):
            import atexit, pathlib
            atexit.register(pathlib.Path("farewell").touch)

        parmap.parallel(register, workers=1, start_method={method!r}).map([1])
    """)

    assert (done.returncode, done.stderr) == (0, "")
    assert (script.folder / "farewell").exists()


def test_stray_thread_in_a_worker_does_not_hold_the_exit(script: Script) -> None:
    """A non-daemon thread that a task has left behind does not keep its worker, nor the script, alive."""
    done = script.run(
        """
        import parmap

        def leave_thread(_):
            import threading
            threading.Thread(target=threading.Event().wait).start()

        parmap.parallel(leave_thread, workers=2).map(range(4))
        """,
        timeout=30,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_exit_inside_a_function_with_a_live_stream(script: Script) -> None:
    """An exception that leaves a loop over a stream ends the script with that exception alone."""
    done = script.run("""
        import time
        import parmap

        for value in parmap.parallel(lambda x: time.sleep(0.01) or x, workers=2).imap(range(1000)):
            if value == 3:
                raise LookupError("in the loop")
    """)

    assert done.returncode == 1
    assert done.stderr.strip().endswith("LookupError: in the loop")
    assert done.stderr.count("Traceback") == 1


def test_os_exit_leaves_nothing(script: Script) -> None:
    """A script that leaves by os._exit, without any clean-up, takes template and workers along."""
    process = script.start(
        """
        import os, sys, time
        import parmap

        f = parmap.parallel(lambda _: sum(range(10**12)), workers=2)
        futures = [f.submit(0), f.submit(1)]
        print("busy", flush=True)
        sys.stdin.readline()
        os._exit(9)
        """,
        stdin=-1,
    )
    with killed_at_last(process):
        assert read_line(process) == "busy"
        others = family(process)
        _, stderr = process.communicate("go\n", timeout=30)

    assert (process.returncode, stderr) == (9, "")
    wait_until(lambda: all(map(is_gone, others)), 10)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda signum: signum.name)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("busy", BUSY_IN_C.values(), ids=BUSY_IN_C)
def test_killed_parent_leaves_no_orphan(script: Script, busy: str, method: str, signum: signal.Signals) -> None:
    """A parent that is killed while its workers are busy in C code takes them along, though they can't be asked."""
    before = shared_memory()
    process = script.start(BUSY.format(work=busy, method=method))
    with killed_at_last(process):
        assert read_line(process)
        others = family(process)
        process.send_signal(signum)
        _, stderr = process.communicate(timeout=30)

    assert (process.returncode, stderr) == (-signum, "")
    wait_until(lambda: all(map(is_gone, others)), 10)
    wait_until(lambda: nothing_is_left_of(before))


@pytest.mark.skipif(sys.platform != "linux", reason="the system can't be told to kill")
@pytest.mark.parametrize("method", METHODS)
def test_parent_killed_after_the_template_leaves_no_orphan(script: Script, method: str) -> None:
    """Nobody is left to end what runs, and it ends: in C code, with all signals blocked, and what it has started."""
    work = "sub.Popen(['sleep', '1000']); sig.pthread_sigmask(sig.SIG_BLOCK, sig.valid_signals()); sum(range(10**12))"
    process = script.start(BUSY.format(work=f"import signal as sig, subprocess as sub; {work}", method=method))
    with killed_at_last(process):
        assert read_line(process)
        others = family(process, 5)
        (template,) = [
            each for each in others if each.ppid() == process.pid and "template(" in " ".join(each.cmdline())
        ]
        template.kill()
        process.kill()
        process.communicate(timeout=30)

    try:
        wait_until(lambda: all(map(is_gone, others)), 10)
    finally:
        for each in others:
            if not is_gone(each):
                each.kill()


def kill_when_idle(process: subprocess.Popen[str]) -> None:
    """Kill a script's template, and the script, when it says that its worker is idle; wait until all have ended."""
    with killed_at_last(process):
        assert read_line(process) == "idle"
        others = family(process, 2)
        template, worker = sorted(others, key=lambda each: each.ppid() != process.pid)
        wait_until(lambda: worker.status() == psutil.STATUS_SLEEPING)
        template.kill()
        process.kill()
        process.communicate(timeout=30)
    wait_until(lambda: all(map(is_gone, others)), 10)


@pytest.mark.parametrize("method", METHODS)
def test_worker_whose_program_is_gone_leaves_in_good_order(script: Script, method: str) -> None:
    """An idle worker closes what it has when program and template are killed; for that it has a few seconds."""
    process = script.start(f"""
        import signal, time
        from pathlib import Path
        import parmap

        class Closing:
            def __enter__(self): pass
            def __exit__(self, *_):
                Path("closed").touch()
                time.sleep(1000)

        def use(_):
            closing()
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

        closing = parmap.per_worker(Closing)
        use_it = parmap.parallel(use, workers=1, start_method={method!r})
        use_it.map([1])  # kept: a worker that is told to forget it is not idle
        print("idle", flush=True)
        time.sleep(1000)
    """)
    kill_when_idle(process)

    assert (script.folder / "closed").exists()


def test_worker_hears_of_the_end_of_its_program_bit_by_bit(script: Script) -> None:
    """An idle worker leaves in good order, though its line is closed long before the rest of what its program had."""
    process = script.start("""
        import gc, os, resource, time
        from pathlib import Path
        import parmap
        from parmap.backends._processes.line.lifeline import Lifeline

        most = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 10_000)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        make, between = Lifeline.__init__, []

        def make_long_before_the_rest(self):  # Linux closes in the other order
            make(self)
            between.extend(os.pipe() for _ in range(most // 2 - 200))

        Lifeline.__init__ = make_long_before_the_rest

        class Closing:
            def __enter__(self): pass
            def __exit__(self, *_): Path("closed").touch()

        closing = parmap.per_worker(Closing)

        def begin(_):
            closing()
            end, = [each for each in gc.get_objects() if type(each).__name__ == "LifelineEnd"]
            tighten = end.tighten
            end.tighten = lambda: (tighten(), time.sleep(0.5))  # as on a busy machine

        use = parmap.parallel(begin, workers=1)
        use.map([1])
        print("idle", flush=True)
        time.sleep(1000)
    """)
    kill_when_idle(process)

    assert (script.folder / "closed").exists()


def test_killed_parent_takes_the_children_of_tasks_along(script: Script) -> None:
    """A process that a task has started ends with the worker, when the parent is killed."""
    process = script.start("""
        import subprocess
        import parmap

        f = parmap.parallel(lambda _: subprocess.run(["sleep", "1000"]), workers=1)
        future = f.submit(0)
        print("busy", flush=True)
        future.result()
    """)
    with killed_at_last(process):
        assert read_line(process) == "busy"
        others = family(process)
        process.kill()
        process.communicate(timeout=30)

    assert len(others) == 3
    wait_until(lambda: all(map(is_gone, others)), 10)


@pytest.mark.parametrize("method", METHODS)
def test_killed_parent_leaves_no_orphan_without_the_package(script: Script, method: str) -> None:
    """Workers end with a killed parent even when the package has gone from the disk meanwhile, as in an upgrade."""
    package = script.folder / "parmap"
    shutil.copytree(os.path.dirname(parmap.__file__), package)
    process = script.start(BUSY.format(work=BUSY_IN_C["sum of a range"], method=method))
    with killed_at_last(process):
        assert read_line(process) == str(package / "__init__.py")
        others = family(process)
        shutil.rmtree(package)
        process.kill()
        process.communicate(timeout=30)

    wait_until(lambda: all(map(is_gone, others)), 10)


def test_parent_killed_while_workers_start(script: Script) -> None:
    """A parent that is killed right after its first call leaves neither template nor workers."""
    process = script.start("""
        import os, signal
        import parmap

        parmap.parallel(abs, workers=2).map_async(range(100))
        print("started", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    group = process.pid
    with killed_at_last(process):
        process.communicate(timeout=30)

    marked = [p for p in psutil.process_iter() if _session(p) == group]
    wait_until(lambda: all(map(is_gone, marked)), 10)


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except OSError:
        return -1


@pytest.mark.parametrize("method", METHODS)
def test_exit_with_a_worker_that_hangs_at_its_end(script: Script, method: str) -> None:
    """A worker whose atexit callback never returns is killed after a grace; the script ends."""
    done = script.run(f"""
        import parmap

        def register(_):
            import atexit, threading
            atexit.register(threading.Event().wait)

        parmap.parallel(register, workers=1, start_method={method!r}).map([1])
    """)

    assert (done.returncode, done.stderr) == (0, "")


def test_exit_with_a_stopped_worker(script: Script) -> None:
    """An idle worker that somebody has stopped by SIGSTOP does not hold the exit for ever."""
    done = script.run("""
        import os, signal
        import parmap

        f = parmap.parallel(lambda _: os.getpid(), workers=1)
        os.kill(f.map([0])[0], signal.SIGSTOP)
    """)

    assert (done.returncode, done.stderr) == (0, "")


def test_exit_code_of_stdin_and_command(script: Script) -> None:
    """Programs from `python -c` and from stdin end as cleanly as scripts."""
    import subprocess
    import sys

    program = "import parmap; print(parmap.parallel(lambda x: x * 2, workers=2).map([1, 2]))"
    runs: list[dict[str, Any]] = [
        {"args": [sys.executable, "-c", program]},
        {"args": [sys.executable], "input": program},
    ]

    for run in runs:
        done = subprocess.run(**run, capture_output=True, text=True, timeout=60, check=False, env=script.environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, "[2, 4]\n", "")
