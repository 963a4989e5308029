"""A program that fails: it ends at once, whatever is queued; one that ends as it should finishes its work first."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Script

BACKENDS = {
    "forkserver": "backend='processes', start_method='forkserver'",
    "spawn": "backend='processes', start_method='spawn'",
    "threads": "backend='threads'",
}

# What would run for an hour, on both workers and behind them.
WORK = {
    "submit": "futures = [f.submit(3600) for _ in range(4)]",
    "submit with limits": "futures = [f.options(retries=2, seed=None).submit(3600) for _ in range(4)]",
    "map_async": "futures = [f.map_async([3600] * 10)]",
    "a stream": "stream = f.imap([3600] * 10)",
    "an endless stream": "import itertools\nstream = f.imap(itertools.repeat(3600))",
    "an executor": "executor = parmap.Executor(2, {options})\nfutures = [executor.submit(nap, 3600) for _ in range(4)]",
    "a pool": "pool = parmap.Pool(2, {options})\nresults = [pool.apply_async(nap, (3600,)) for _ in range(4)]",
    "a pool that was shut down": "futures = [f.submit(3600)]\nf.shutdown(wait=False)",
    "a retry that is due in an hour": "g = parmap.parallel(int, workers=2, retries=3, retry_delay=3600)\ng.submit('x')",
}

PROGRAM = """\
import atexit, time
from pathlib import Path
import parmap

def nap(seconds):
    Path("begun").touch()
    time.sleep(seconds)

f = parmap.parallel(nap, workers=2, {options})
f.map([0])
atexit.register(print, "exit handlers run")
{work}
while not Path("begun").exists():
    time.sleep(0.01)
print("buffered")
{end}
"""

FAILURES: dict[str, tuple[str, str]] = {
    "an error": ("raise RuntimeError('mine')", "RuntimeError: mine"),
    "an error in a function": ("def fail():\n    raise LookupError('mine')\nfail()", "LookupError: mine"),
    "an error of a task": ("parmap.parallel(int, workers=1).map(['mine'])", "'mine'"),
    "a group of errors": ("raise ExceptionGroup('mine', [ValueError('one')])", "ValueError: one"),
    "another BaseException": ("raise GeneratorExit('mine')", "GeneratorExit: mine"),
    "an error in asyncio": ("import asyncio\nasync def main(): 1 / 0\nasyncio.run(main())", "ZeroDivisionError"),
}


def check_failed(done: subprocess.CompletedProcess[str], error: str) -> None:
    """A script ended as a program of Python's that fails does."""
    assert done.returncode == 1
    assert error in done.stderr
    assert done.stderr.count("Traceback") - done.stderr.count("direct cause") == 1, done.stderr
    assert "Exception ignored" not in done.stderr
    assert "buffered" in done.stdout
    assert "exit handlers run" in done.stdout


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
@pytest.mark.parametrize("options", BACKENDS.values(), ids=BACKENDS)
def test_an_error_ends_the_program(script: Script, options: str, work: str) -> None:
    """An exception that leaves the main module ends running and queued work at once."""
    program = PROGRAM.format(options=options, work=work.format(options=options), end="raise RuntimeError('mine')")

    check_failed(script.run(program), "RuntimeError: mine")


@pytest.mark.parametrize(("end", "error"), FAILURES.values(), ids=FAILURES)
def test_whatever_the_error(script: Script, end: str, error: str) -> None:
    """It ends whatever exception it was, but for SystemExit."""
    done = script.run(PROGRAM.format(options=BACKENDS["forkserver"], work=WORK["submit"], end=end))

    assert done.returncode == 1
    assert error in done.stderr
    assert "exit handlers run" in done.stdout


@pytest.mark.parametrize("way", ["-c", "-m", "stdin", "a folder"])
def test_however_the_program_is_run(script: Script, way: str) -> None:
    """It ends however the main module came to run."""
    program = PROGRAM.format(options=BACKENDS["threads"], work=WORK["submit"], end="raise RuntimeError('mine')")
    script.write(program, "mine.py")
    script.write(program, "__main__.py")
    how: dict[str, Any] = {
        "-c": {"args": [sys.executable, "-c", textwrap.dedent(program)]},
        "-m": {"args": [sys.executable, "-m", "mine"]},
        "stdin": {"args": [sys.executable], "input": program},
        "a folder": {"args": [sys.executable, str(script.folder)]},
    }

    done = subprocess.run(
        **how[way],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=script.environment,
        cwd=script.folder,
    )

    check_failed(done, "RuntimeError: mine")


def test_a_hook_of_the_program_changes_nothing(script: Script) -> None:
    """It ends when the program shows its errors by a hook of its own."""
    end = "import sys\nsys.excepthook = lambda *_: print('hook', file=sys.stderr)\nraise RuntimeError('mine')"

    done = script.run(PROGRAM.format(options=BACKENDS["forkserver"], work=WORK["submit"], end=end))

    assert (done.returncode, done.stderr) == (1, "hook\n")


@pytest.mark.parametrize("options", BACKENDS.values(), ids=BACKENDS)
def test_those_who_wait_are_told(script: Script, options: str) -> None:
    """Callbacks and daemon threads that wait for work that ends get a PoolClosedError."""
    work = """\
import threading

def wait():
    try:
        f.map([3600] * 4)
    except parmap.PoolClosedError:
        print("thread: closed", flush=True)

def tell(future):
    print(f"callback: {type(future.exception()).__name__}", flush=True)

threads.append(threading.Thread(target=wait, daemon=True))
threads[0].start()
for _ in range(3):
    f.submit(3600).add_done_callback(tell)
"""
    # Registered first, run last: a daemon thread that was told has the time to say so before the interpreter ends.
    last = "import atexit\nthreads = []\natexit.register(lambda: [thread.join(20) for thread in threads])\n"

    done = script.run(last + PROGRAM.format(options=options, work=work, end="raise RuntimeError('mine')"))

    check_failed(done, "RuntimeError: mine")
    assert done.stdout.count("callback: PoolClosedError") == 3
    assert done.stdout.count("thread: closed") == 1


def test_a_live_thread_gets_its_results(script: Script) -> None:
    """What a thread waits for that outlives the main module is finished; then the rest ends."""
    done = script.run("""
        import threading, time
        import parmap

        f = parmap.parallel(lambda x: time.sleep(x) or x, workers=2)
        g = parmap.parallel(lambda x: time.sleep(x) or x, workers=1)
        begun = threading.Event()

        def work():
            first = f.map([0.01] * 20)
            begun.set()
            print(len(first + f.map([0.05] * 20)), sum(f.imap([0.5])), f.submit(0.25).result(), flush=True)

        threading.Thread(target=work).start()
        begun.wait()
        futures = [g.submit(3600) for _ in range(4)]
        raise RuntimeError("mine")
    """)

    assert (done.returncode, done.stdout) == (1, "40 0.5 0.25\n")
    assert done.stderr.count("Traceback") == 1


def test_a_program_that_hangs_in_its_arguments(script: Script) -> None:
    """It ends in spite of an argument whose pickling never returns."""
    done = script.run("""
        import threading
        import parmap

        packing = threading.Event()

        class Argument:
            def __reduce__(self):
                packing.set()
                threading.Event().wait()

        future = parmap.parallel(abs, workers=1).map_async([Argument()])
        packing.wait()
        raise RuntimeError("mine")
    """)

    assert done.returncode == 1
    assert done.stderr.strip().endswith("RuntimeError: mine")


def test_errors_that_did_not_end_the_program(script: Script) -> None:
    """What others noted as the last error, as test runners and consoles do, says nothing about the program's end."""
    done = script.run("""
        import sys, time
        import parmap

        f = parmap.parallel(lambda x: time.sleep(x) or print("ran", flush=True), workers=2)
        futures = [f.submit(0.3) for _ in range(4)]
        def run():
            raise ValueError("not the end")
        try:
            run()
        except ValueError as error:
            kept = error
        for name, value in {"type": type(kept), "value": kept, "exc": kept, "traceback": kept.__traceback__.tb_next}.items():
            setattr(sys, f"last_{name}", value)
        kept.__traceback__ = kept.__traceback__.tb_next
    """)

    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n" * 4, "")


FINISHES: dict[str, tuple[str, tuple[str, ...], int]] = {
    "the end": ("", (), 0),
    "sys.exit": ("import sys\nsys.exit(7)", (), 7),
    "SystemExit in a function": ("def leave():\n    raise SystemExit(3)\nleave()", (), 3),
    "sys.exit after an error": (
        "try: 1 / 0\nexcept ValueError: pass\nexcept ZeroDivisionError: raise SystemExit(4)",
        (),
        4,
    ),
    "exit() of a console": ("exit()", (), 0),
    "-i": ("", ("-i",), 0),
    "-i after an error": ("raise RuntimeError('mine')", ("-i",), 0),
}


@pytest.mark.parametrize(("end", "args", "code"), FINISHES.values(), ids=FINISHES)
def test_other_ends_finish_the_work(script: Script, end: str, args: tuple[str, ...], code: int) -> None:
    """A program that ends otherwise finishes what it has submitted; retries wait for nothing then."""
    path = script.write(f"""\
import time
from pathlib import Path
import parmap

def touch(number):
    time.sleep(0.1)
    Path(f"done-{{number}}").touch()

def fail(_):
    with open("tries", "a") as file:
        file.write("x")
    raise ValueError

f = parmap.parallel(touch, workers=2)
futures = [f.submit(number) for number in range(6)]
g = parmap.parallel(fail, workers=2, retries=3, retry_delay=3600)
futures.append(g.submit(1))
{end}
""")

    done = subprocess.run(
        [sys.executable, *args, path],
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=script.environment,
        cwd=script.folder,
    )

    assert done.returncode == code
    assert len(list(script.folder.glob("done-*"))) == 6
    assert (script.folder / "tries").read_text() == "x" * 4


LEFT = {
    "shut down": "parmap.shutdown(wait=False)",
    "its pool shut down": "f.shutdown(wait=False)",
    "dropped": "del f",
}


@pytest.mark.parametrize("end", LEFT.values(), ids=LEFT)
def test_work_of_a_pool_that_was_let_go(script: Script, end: str) -> None:
    """What was submitted is done before the program ends, though its pool was shut down without waiting."""
    done = script.run(f"""
        import time
        import parmap

        f = parmap.parallel(lambda x: time.sleep(0.2) or print("ran", flush=True), workers=2)
        for number in range(4):
            f.submit(number)
        {end}
    """)

    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n" * 4, "")


@pytest.mark.parametrize("kind", ["ThreadPoolExecutor", "ProcessPoolExecutor"])
def test_work_on_executors_of_the_program(script: Script, kind: str) -> None:
    """What waits for a place on an executor is done too, before that takes no more work."""
    done = script.run(f"""
        import time
        from concurrent.futures import {kind}
        from pathlib import Path
        import parmap

        def touch(number):
            time.sleep(0.05)
            Path(f"done-{{number}}").touch()

        if __name__ == "__main__":
            f = parmap.parallel(touch, workers=2, backend={kind}(2))
            f.map(range(100, 104))  # Python 3.12.1 starts no threads any more when the program has come to its end
            for number in range(12):
                f.submit(number)
    """)

    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(script.folder.glob("done-*"))) == 16
