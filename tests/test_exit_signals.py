"""SIGTERM as services get it, alone or with all their processes; and ends of processes that the program forked."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest
from test_exit import family, is_gone, killed_at_last, read_line

from conftest import wait_until

if TYPE_CHECKING:
    import subprocess

    from conftest import Script

SERVICE = """\
import atexit, signal, sys, threading, time
from pathlib import Path
import parmap

def work(number):
    Path(f"begun-{{number}}").touch()
    time.sleep({seconds})
    Path(f"done-{{number}}").touch()

{handler}
atexit.register(print, "exit handlers run", flush=True)
f = parmap.parallel(work, workers=2, backend={backend!r})
f.map([])
futures = [f.submit(number) for number in range({tasks})]
while not (Path("begun-0").exists() and Path("begun-1").exists()):
    time.sleep(0.01)
# Said when the wait has begun: a signal that comes just before it is seen by Python when it has ended.
threading.Timer(0.2, print, ["ready"], {{"flush": True}}).start()
{wait}
"""

HANDLERS = {
    "exit": "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))",
    "drop": """\
def stop(*_):
    parmap.shutdown(wait=False, cancel_futures=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, stop)""",
    "interrupt": "signal.signal(signal.SIGTERM, signal.default_int_handler)",
    "none": "",
}

WAITS = {
    "result": "futures[0].result()\nfutures[3].result()",
    "sleep": "time.sleep(1000)",
    "map": "f.map([10, 11])",
    "signal.pause": "signal.pause()",
}


def service(
    script: Script, handler: str, wait: str, *, backend: str = "processes", seconds: float = 1000.0, tasks: int = 4
) -> str:
    """The text of a service."""
    return SERVICE.format(handler=HANDLERS[handler], wait=WAITS[wait], backend=backend, seconds=seconds, tasks=tasks)


def terminate(process: subprocess.Popen[str], *, everybody: bool) -> list[psutil.Process]:
    """Send SIGTERM to a service, or to all its processes; returns those."""
    others = family(process)
    for one in [psutil.Process(process.pid), *(others if everybody else [])]:
        with suppress(psutil.NoSuchProcess):  # those before have ended it
            one.send_signal(signal.SIGTERM)
    return others


@pytest.mark.parametrize("everybody", [False, True], ids=["alone", "everybody"])
@pytest.mark.parametrize("wait", WAITS)
def test_a_handler_that_exits(script: Script, wait: str, everybody: bool) -> None:
    """A handler that leaves by sys.exit: the work is finished, exit handlers run, nothing is left."""
    process = script.start(service(script, "exit", wait, seconds=0.5))
    with killed_at_last(process):
        assert read_line(process) == "ready"
        others = terminate(process, everybody=everybody)
        stdout, stderr = process.communicate(timeout=30)

    assert (process.returncode, stdout, stderr) == (7, "exit handlers run\n", "")
    # Of four tasks, all; or all but those that two workers died of, whichever they were at on a busy machine.
    assert len([*script.folder.glob("done-?")]) >= (2 if everybody else 4)
    wait_until(lambda: all(map(is_gone, others)))


@pytest.mark.parametrize("backend", ["processes", "threads"])
def test_a_second_signal_ends_it(script: Script, backend: str) -> None:
    """A handler that leaves by sys.exit, called again while the work is being finished, ends that at once."""
    process = script.start(service(script, "exit", "sleep", backend=backend).replace('"exit handlers run"', '"end"'))
    with killed_at_last(process):
        assert read_line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        # Until it waits at its end there is no outside sign of it, and one signal may not be two: so until it has gone.
        wait_until(lambda: process.poll() is not None or process.send_signal(signal.SIGTERM))
        stdout, stderr = process.communicate(timeout=30)

    assert process.returncode in {7, -signal.SIGTERM}
    assert "Traceback" not in stderr or "SystemExit" in stderr
    assert stdout == "end\n"


@pytest.mark.parametrize("everybody", [False, True], ids=["alone", "everybody"])
def test_a_handler_that_drops_what_waits(script: Script, everybody: bool) -> None:
    """A handler may drop what waits by `shutdown(cancel_futures=True)`, and leave: what runs is finished."""
    # Ten seconds of work: on a busy machine some of it begins before the handler does, or after workers that died.
    process = script.start(service(script, "drop", "result", seconds=0.5, tasks=40))
    with killed_at_last(process):
        assert read_line(process) == "ready"
        terminate(process, everybody=everybody)
        stdout, stderr = process.communicate(timeout=30)

    assert (process.returncode, stdout, stderr) == (7, "exit handlers run\n", "")
    assert not (script.folder / "begun-39").exists()
    assert everybody or (script.folder / "done-0").exists()


@pytest.mark.parametrize("everybody", [False, True], ids=["alone", "everybody"])
@pytest.mark.parametrize("backend", ["processes", "threads"])
def test_a_handler_that_raises(script: Script, backend: str, everybody: bool) -> None:
    """A handler that raises something else ends the work at once, and with it the program."""
    process = script.start(service(script, "interrupt", "sleep", backend=backend))
    with killed_at_last(process):
        assert read_line(process) == "ready"
        if backend == "threads":
            others = []
            process.send_signal(signal.SIGTERM)
        else:
            others = terminate(process, everybody=everybody)
        stdout, stderr = process.communicate(timeout=30)

    assert (process.returncode, stdout) == (-signal.SIGINT, "exit handlers run\n")
    assert stderr.count("Traceback") == 1
    wait_until(lambda: all(map(is_gone, others)))


def test_without_a_handler(script: Script) -> None:
    """Without a handler all processes end at once."""
    process = script.start(service(script, "none", "sleep"))
    with killed_at_last(process):
        assert read_line(process) == "ready"
        others = terminate(process, everybody=True)
        stdout, stderr = process.communicate(timeout=30)

    assert (process.returncode, stdout, stderr) == (-signal.SIGTERM, "", "")
    wait_until(lambda: all(map(is_gone, others)))


CHILDREN = {
    "exits": "sys.exit(3)",
    "fails": "raise RuntimeError('of the child')",
    "leaves": "os._exit(3)",
    "uses parmap": "print(f.map([0.1]), flush=True)\nsys.exit(3)",
    "shuts down": "parmap.shutdown()\nsys.exit(3)",
    "cancels": "f.shutdown(cancel_futures=True)\nsys.exit(3)",
    "ends the executor": "executor.shutdown()\nsys.exit(3)",
    "ends the pool": "pool.terminate()\npool.join()\nsys.exit(3)",
}


@pytest.mark.parametrize("child", CHILDREN.values(), ids=CHILDREN)
def test_a_forked_child_ends_by_itself(script: Script, child: str) -> None:
    """A child of `os.fork()` ends, however it does, without waiting for work of its parent's, or touching it."""
    indented = child.replace("\n", "\n    ")
    done = script.run(f"""\
import os, sys, time
from pathlib import Path
import parmap

f = parmap.parallel(lambda x: time.sleep(x) or x, workers=2)
executor, pool = parmap.Executor(1), parmap.Pool(1)
def wait():
    while not Path("go").exists():
        time.sleep(0.01)
    return 1
futures = [parmap.parallel(wait, workers=2).submit(), f.submit(0.1), executor.submit(wait), pool.apply_async(wait)]
child = os.fork()
if not child:
    {indented}
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
Path("go").touch()
print(status, [getattr(future, "result", getattr(future, "get", None))() for future in futures], flush=True)
pool.close()
""")

    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[-1] == f"{1 if 'raise' in child else 3} [1, 0.1, 1, 1]"
    assert lines[:-1] == (["[0.1]"] if "print" in child else [])
    assert done.stderr.count("Traceback") == ("raise" in child)


NO_WARNINGS = ("-W", "ignore::DeprecationWarning")  # of forks, as Python 3.12 begins to do


@pytest.mark.parametrize("module", ["_engine.engine", "backends._processes.spawning", "backends._processes.staff"])
def test_a_fork_while_the_first_call_imports(script: Script, module: str) -> None:
    """The child has all of what another thread was importing: it has parmap, too."""
    done = script.run(
        f"""
        import os, sys, threading
        from parmap import parallel

        begun, forks = threading.Event(), threading.Event()

        class Finder:
            @staticmethod
            def find_spec(name, *_):
                if name == "parmap.{module}":
                    begun.set()
                    forks.wait()

        f = parallel(abs, workers=1)
        sys.meta_path.insert(0, Finder)
        thread = threading.Thread(target=lambda: print(f.map([-1]), flush=True))
        thread.start()
        begun.wait()
        os.register_at_fork(before=forks.set)
        child = os.fork()
        if not child:
            print(f.map([-2]), flush=True)
            sys.exit(3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        thread.join()
    """,
        args=NO_WARNINGS,
    )

    assert (sorted(done.stdout.split()), done.stderr) == (["3", "[1]", "[2]"], "")


def test_a_fork_that_has_waited_long_for_an_import(script: Script) -> None:
    """An import that takes too long holds no fork up for ever, nor what its child imports."""
    done = script.run(
        """
        import os, threading
        import parmap
        from parmap._work import imports

        imports._LONGEST = 0.1
        f = parmap.parallel(abs, workers=1, backend="threads")
        f.map([-1])
        begun, forked = threading.Event(), threading.Event()

        def be_slow():
            with imports.whole:
                begun.set()
                forked.wait()

        threading.Thread(target=be_slow).start()
        begun.wait()
        child = os.fork()
        if not child:
            print(parmap.backends.Threads.__name__, f.map([-2]), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        forked.set()
    """,
        args=NO_WARNINGS,
    )

    assert (done.stdout, done.stderr) == ("Threads [2]\n", "")


def test_a_fork_while_something_is_made(script: Script) -> None:
    """The child collects garbage, and its threads are taken for nobody else."""
    done = script.run(
        """
        import gc, os, threading
        from parmap import parallel
        from parmap._work.threads import undisturbed

        begun, forked = threading.Event(), threading.Event()

        def fork():
            begun.wait()
            child = os.fork()
            if not child:
                f = parallel(abs, workers=1, backend="threads")
                threads = [threading.Thread(target=lambda: print(f.map([-1]), flush=True)) for _ in range(3)]
                [thread.start() for thread in threads]
                [thread.join() for thread in threads]
                print(gc.isenabled(), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            forked.set()

        threading.Thread(target=fork).start()
        undisturbed(lambda: begun.set() or forked.wait())
    """,
        args=NO_WARNINGS,
    )

    assert (done.stdout.split(), done.stderr) == (["[1]", "[1]", "[1]", "True"], "")


def test_a_signal_that_the_program_waits_for(script: Script) -> None:
    """What its only thread has blocked, to take it by `sigwait`, no thread of ours takes instead."""
    done = script.run("""
        import os, signal
        from multiprocessing.shared_memory import SharedMemory
        from parmap import parallel

        @parallel(workers=2)
        def task(x):
            print("said", x)
            memory = SharedMemory(create=True, size=1)  # for which the program's resource tracker is started
            memory.close()
            memory.unlink()
            return x

        task.map(range(4))
        task.submit(5).result()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
        for signum in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), signum)
            print(signal.sigwait({signum}).name, flush=True)
        print(task.map(range(2)))
    """)

    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if "said" not in line] == ["SIGTERM", "SIGUSR1", "[0, 1]"]


@pytest.mark.parametrize("backend", ["processes", "threads"])
def test_code_of_the_user_hears_signals(script: Script, backend: str) -> None:
    """Tasks, inputs and callbacks are the user's: processes that they start can be terminated."""
    done = script.run(f"""
        import signal
        from parmap import parallel

        mask = lambda *_: signal.pthread_sigmask(signal.SIG_BLOCK, ())
        seen = []
        f = parallel(lambda x: print("said") or mask(), workers=2, backend={backend!r})
        seen += f.map(mask() for _ in range(3))
        future = f.submit(1)
        future.add_done_callback(lambda _: seen.append(mask()))
        seen += f.imap(mask() for _ in range(3))
        f.shutdown()
        print(len(seen), set().union(*seen))
    """)

    assert (done.stdout.splitlines()[-1], done.stderr) == ("7 set()", "")
