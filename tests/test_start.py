"""How workers come to know what the first functions need: imported once, before they are forked."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest
from inspection import pids_of

import parmap
from conftest import Script, wait_until
from parmap import parallel
from parmap._travel.code.needs.modules import modules_needed
from parmap.backends._processes import guess
from parmap.backends._processes.line.quick import HAS_QUICK_LINES

NEEDS = """
import csv
import json as j
import threading
from collections import OrderedDict
from fractions import Fraction
import helper_of_mine

class Row:
    def read(self): return csv.reader([])

def by_attribute(x): return j.dumps(x)
def by_name(x): return Fraction(x)
def nested(x): return [Row() for _ in range(x)]
def inside(x):
    import decimal
    return decimal.Decimal(x)
def mine(x): return helper_of_mine.go(x)
"""


def in_script(name: str) -> Any:
    """A function of a script, which lives nowhere else."""
    import decimal  # noqa: F401 - the program has imported it
    import types

    sys.modules["helper_of_mine"] = types.ModuleType("helper_of_mine")
    try:
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(NEEDS, space)
    finally:
        del sys.modules["helper_of_mine"]
    return space[name]


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("by_attribute", {"json"}),
        ("by_name", {"fractions"}),
        ("nested", {"csv"}),
        ("inside", {"decimal"}),
        ("mine", set()),
    ],
)
def test_modules_that_a_function_of_a_script_names(name: str, modules: set[str]) -> None:
    """What its code names is found, in classes and nested code too; modules of the program's own are left out."""
    assert modules_needed(in_script(name)) - {"cloudpickle"} == modules


def test_modules_of_other_callables() -> None:
    """A function by name needs its module; a partial, what it holds; a bound method, its class."""
    assert modules_needed(textwrap.dedent) == {"textwrap"}
    assert modules_needed(functools.partial(textwrap.dedent, "")) == {"textwrap"}
    assert modules_needed(in_script("Row")().read) - {"cloudpickle"} == {"csv"}


def test_what_the_first_function_needs_is_imported_once(script: Script) -> None:
    """The template imports what the code of a script's function names, so that no worker has to."""
    done = script.run(
        """
        import sys, fractions
        from parmap import parallel

        loaded = "fractions" in sys.modules
        def look(x):
            return type(fractions.Fraction(x)).__name__

        class Seen:
            def __reduce__(self):
                return eval, ("'fractions' in __import__('sys').modules",)

        ask = parallel(look, workers=2)
        ask.map([1, 2])
        print(ask.options().map([3]))

        import parmap, os
        def first(seen): return seen
        parmap.shutdown()
        def both(seen, x): return seen, look(x)
        print(parallel(both, workers=1).map([Seen()], [1]))
        """
    )

    assert done.stdout.split("\n")[:2] == ["['Fraction']", "[(True, 'Fraction')]"], done.stderr


def test_a_module_that_starts_a_thread_is_left_to_workers(script: Script, tmp_path: Any) -> None:
    """A distribution that starts a thread when imported is no danger: the template does without it."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "busybody.py").write_text(
        "import threading, time\nt = threading.Thread(target=time.sleep, args=(1000,), daemon=True)\nt.start()\nX = 5\n"
    )
    done = script.run(
        f"""
        import sys
        sys.path.insert(0, {os.fspath(site)!r})
        from parmap._travel.code.needs import modules
        modules._homes = lambda: ({os.fspath(site) + os.sep!r},)
        import busybody
        from parmap import parallel
        f = parallel(lambda n: busybody.X + n, workers=2)
        print(modules.modules_needed(f.__wrapped__) >= {{"busybody"}}, f.map([1, 2, 3]))
        """
    )

    assert done.stdout == "True [6, 7, 8]\n", done.stderr


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="no process is forked here")
def test_the_thread_of_an_allocator_is_no_hindrance(script: Script, tmp_path: Any) -> None:
    """A distribution whose memory jemalloc looks after, as pyarrow and so pandas, is imported once, without a warning."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "arrows.py").write_text(
        "import ctypes, os, threading, time\nPID = os.getpid()\nnamed = threading.Event()\n"
        "def look_after():\n    ctypes.CDLL(None).prctl(15, b'jemalloc_bg_thd')\n    named.set()\n    time.sleep(1000)\n"
        "threading.Thread(target=look_after, daemon=True).start()\nnamed.wait()\n"
    )
    done = script.run(
        f"""
        import os, sys
        sys.path.insert(0, {os.fspath(site)!r})
        from parmap._travel.code.needs import modules
        modules._homes = lambda: ({os.fspath(site) + os.sep!r},)
        import arrows
        from parmap import parallel
        there = parallel(lambda n: (arrows.PID, os.getpid()), workers=2, env={{"OMP_NUM_THREADS": "1"}}).map(range(3))
        print({{pid for pid, _ in there}} & {{os.getpid(), *[pid for _, pid in there]}})
        """,
        args=("-X", "dev"),
    )

    assert (done.stdout, done.stderr) == ("set()\n", "")


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="no process is forked here")
def test_a_call_in_the_midst_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of another thread, whose function needs other modules, does no harm while it is seen what to import."""
    options: dict[str, Any] = {"workers": 1, "env": {"OMP_NUM_THREADS": "2"}}
    is_pure, later = guess.is_pure, []

    def meanwhile(name: str) -> bool:
        if not later:
            thread = threading.Thread(
                target=lambda: later.append(parallel(in_script("by_name"), **options).map_async([2]))
            )
            thread.start()
            thread.join()
        return is_pure(name)

    monkeypatch.setattr(guess, "is_pure", meanwhile)

    assert parallel(in_script("by_attribute"), **options).map([1]) == ["1"]
    assert later[0].result(timeout=60) == [2]


def test_a_local_module_is_not_guessed(script: Script) -> None:
    """A module beside the script is imported by each worker, so that its state is each worker's own."""
    script.write("import random\nTOKEN = random.random()\n", "mine.py")
    done = script.run(
        """
        import mine, os, time
        from parmap import parallel

        def token(_):
            time.sleep(0.1)
            return os.getpid(), mine.TOKEN

        pairs = set(parallel(token, workers=2).map(range(8), chunksize=1))
        print(len(pairs) == len({pid for pid, _ in pairs}) == len({token for _, token in pairs}))
        """
    )

    assert done.stdout == "True\n", done.stderr


def test_a_local_module_with_a_name_of_the_standard_library(script: Script) -> None:
    """Nor is one that hides a module of Python's."""
    script.write("import os\nHOME = os.getpid()\n", "colorsys.py")
    done = script.run(
        """
        import colorsys, os
        from parmap import parallel

        def is_at_home(_):
            return colorsys.HOME == os.getpid()

        print(parallel(is_at_home, workers=2).map(range(2)))
        """
    )

    assert done.stdout == "[True, True]\n", done.stderr


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_module_to_preload_that_makes_calls(script: Script, start_method: str) -> None:
    """What it calls when it is imported runs there: it starts no processes, which would import it and start others."""
    script.write(
        """
        import os
        from parmap import parallel

        is_here = parallel(lambda _: os.getpid(), workers=1).map([0]) == [os.getpid()]
        """,
        "eager.py",
    )
    done = script.run(
        f"""
        from parmap import parallel

        def look(_):
            import eager
            return eager.is_here

        print(parallel(look, workers=1, preload=["eager"], start_method={start_method!r}).map([0]))
        """
    )

    assert done.stdout == "[True]\n", done.stderr


def test_a_value_that_may_not_be_asked_yet(script: Script) -> None:
    """A function may read a lazy object that refuses all questions for now, as a web framework's request or settings."""
    done = script.run(
        """
        from parmap import parallel

        class Lazy:
            def __getattr__(self, name):
                raise RuntimeError("working outside of a request")

        request = Lazy()
        print(parallel(lambda x: x or request, workers=2).map([1, 2]))
        """
    )

    assert done.stdout == "[1, 2]\n", done.stderr


def test_warming_up_starts_all_workers(processes: dict[str, Any]) -> None:
    """`warm_up` returns at once; soon all workers are there, before there is any work."""
    function = parallel(abs, **processes)

    function.warm_up()

    wait_until(lambda: len(pids_of(function)) == 2)
    assert function.map([-1, 2]) == [1, 2]


@pytest.mark.parametrize("options", [{"backend": "threads"}, {"backend": "serial"}], ids=["threads", "serial"])
def test_warming_up_what_needs_none(options: dict[str, Any]) -> None:
    """Where there is nothing to start early, `warm_up` does no harm."""
    function = parallel(abs, workers=2, **options)
    function.warm_up()

    assert function.map([-1, 2]) == [1, 2]


def test_pool_and_executor_warm_up() -> None:
    """A pool and an executor of one's own can be warmed up, too; not when they are closed."""
    with parmap.Pool(2) as pool, parmap.Executor(2) as executor:
        pool.warm_up()
        executor.warm_up()

        assert pool.map(abs, [-1]) == list(executor.map(abs, [-1]))
    with pytest.raises(ValueError, match="not running"):
        pool.warm_up()
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.warm_up()


FIRST_CALL = """
import psutil
from parmap import parallel

@parallel(workers=2, env={"COLOUR": "red"})
def f(x):
    import os
    return x, os.environ["COLOUR"], os.getppid()

def children():
    return [child.pid for child in psutil.Process().children()]

if __name__ == "__main__":
"""


@pytest.mark.parametrize(
    ("call", "templates"),
    [
        ("print(len({each[2] for each in f.map([1, 2])} | set(children())))", "1"),
        ("print(len({f.submit(1).result()[2]} | set(children())))", "1"),
        ("print(f.map([]), f.shutdown(), children())", "[] None []"),
        ("try: f.map(5)\n    except TypeError: print(f.shutdown(), children())", "None []"),
        ("print(f.options(backend='threads', env=None, workers=1).warm_up(), children())", "None []"),
    ],
)
def test_the_first_call_starts_one_template_or_none(script: Script, call: str, templates: str) -> None:
    """It starts before the call is looked at: what turns out not to need it has nothing left of it."""
    done = script.run(FIRST_CALL + f"    {call}\n")
    assert done.stdout.strip() == templates, done.stderr


def test_a_lack_of_descriptors_passes(script: Script) -> None:
    """Where there are too few at the moment of the first import, single tasks go the short way later all the same."""
    done = script.run("""
        import os, resource
        import parmap.backends._processes.line.channel, parmap.errors, parmap._results.futures
        import parmap._work.report.watch

        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        held = []
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            os.close(held.pop())
        import parmap.backends._processes.line.quick as quick
        for each in held:
            os.close(each)
        print(quick.HAS_QUICK_LINES, parmap.parallel(abs, workers=1).submit(-1).result(30))
    """)

    assert done.stdout == f"{HAS_QUICK_LINES} 1\n", done.stderr


def test_serial_calls_where_no_thread_can_be_started(script: Script) -> None:
    """The first call of a program needs none for itself."""
    done = script.run("""
        import _thread, threading

        def refuse(*_, **__):
            raise RuntimeError("can't start new thread")

        _thread.start_new_thread = threading._start_new_thread = threading._start_joinable_thread = refuse

        import parmap

        print(parmap.parallel(abs, backend="serial").map([-1, 2]))
    """)

    assert (done.stdout, done.stderr) == ("[1, 2]\n", "")


def test_a_first_call_in_the_midst_of_an_import(script: Script) -> None:
    """By a signal handler: it does not wait for ever for the module that is being imported."""
    done = script.run(
        """
        import os, signal, sys
        import parmap
        from importlib.machinery import PathFinder

        f = parmap.parallel(abs, backend="serial")
        signal.signal(signal.SIGUSR1, lambda *_: print(f.map([-1])))

        class Finder(PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                if name == "socket":
                    sys.meta_path.remove(cls)
                    os.kill(os.getpid(), signal.SIGUSR1)
                return None

        sys.modules.pop("socket", None)  # what measures the tests may have it already
        sys.meta_path.insert(0, Finder)
        import socket
    """,
        timeout=20,
    )

    assert (done.stdout, done.stderr) == ("[1]\n", "")


@pytest.mark.parametrize("hidden", ["array", "copy"])  # what the engine needs, and what cloudpickle does
@pytest.mark.parametrize("call", ["map([2])", "submit(2).result()"])
def test_a_script_that_hides_a_module_of_python(script: Script, hidden: str, call: str) -> None:
    """It is run again when that is imported, in the midst of its own call: which is told, and hangs nobody."""
    path = script.write(
        f"from parmap import parallel\nprint(parallel(lambda x: x, workers=1).{call})\n", f"{hidden}.py"
    )
    done = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=30, env=script.environment, check=False
    )

    if sys.version_info < (3, 14) or done.returncode:  # later ones import neither so soon: it just works
        assert done.returncode == 1
        told = "of your program has the name of one of Python's modules"
        assert told in done.stderr or (sys.version_info >= (3, 14) and "circular import" in done.stderr)


def test_a_script_beside_a_file_that_hides_a_module_of_python(script: Script) -> None:
    """What fails while `from parmap import` imports is told, not that the name is not there."""
    script.write("", "signal.py")
    done = script.run("from parmap import parallel")

    assert done.returncode == 1
    assert "module 'signal' has no attribute" in done.stderr.splitlines()[-1]


def test_errors_without_importing_them(script: Script) -> None:
    """`parmap.errors` is there for whoever has imported parmap only."""
    done = script.run("import parmap; print(parmap.errors.ParmapError.__name__)")

    assert (done.stdout, done.stderr) == ("ParmapError\n", "")


def test_what_goes_by_name_needs_no_cloudpickle(script: Script) -> None:
    """It takes long to be imported. Most warning filters name `__main__`, which is no reason for it."""
    done = script.run("""
        import sys, warnings
        from parmap import parallel

        warnings.filterwarnings("ignore", category=UserWarning, module="__main__")
        print(parallel(abs, workers=1).map([-1]), "cloudpickle" in sys.modules)
    """)

    assert done.stdout == "[1] False\n", done.stderr


def test_a_worker_has_only_what_it_needs(script: Script) -> None:
    """What it imports is memory of every pool; of threads, each worker that is forked would have pages of its own."""
    done = script.run("""
        import sys
        from parmap import parallel

        needless = {"asyncio", "cloudpickle", "concurrent.futures", "dataclasses", "inspect", "logging", "threading"}

        @parallel(workers=1)
        def imported(_):
            return sorted(needless & set(sys.modules))

        print(imported.map(range(2)), imported.submit(0).result())
    """)

    assert done.stdout == "[[], []] []\n", done.stderr
