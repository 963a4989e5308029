"""The table of executors in the documentation: each of its lines is what a program with such an executor meets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Script

PAGE = Path(__file__).resolve().parent.parent / "docs" / "how-to" / "choose-a-backend.md"

MAKE = {
    "`ProcessPoolExecutor`, forked": (
        "concurrent.futures",
        "ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('fork'))",
    ),
    "`ProcessPoolExecutor`, spawned": (
        "concurrent.futures",
        "ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('spawn'))",
    ),
    "loky": ("joblib.externals.loky", "ProcessPoolExecutor(2)"),
    "`executorlib.SingleNodeExecutor`": ("executorlib", "SingleNodeExecutor(max_workers=2)"),
    "`ThreadPoolExecutor`": ("concurrent.futures", "ThreadPoolExecutor(2)"),
    "`InterpreterPoolExecutor`": ("concurrent.futures", "InterpreterPoolExecutor(2)"),
    "`mpi4py.futures.MPIPoolExecutor`": ("mpi4py.futures", "MPIPoolExecutor(2)"),
    "Dask's `Client.get_executor()`": (
        "distributed",
        "Client(LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)).get_executor()",
    ),
}
"""Where an executor is imported from, and how it is made."""

PROGRAM = """
import json, multiprocessing, os, sys, time
from pathlib import Path
import parmap

def kill(x):
    return os._exit(3) if x == "c" else x

def begin_and_wait(folder):
    Path(folder, "begun").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    return os.getpid()

def told(act):
    try:
        act()
    except ValueError as error:
        return f"refused: {error}"
    return "yes"

def main(executor, folder):
    def on(function, **options):
        return parmap.parallel(function, workers=2, backend=executor, **options)

    offset = 5
    assert on(lambda x: x + offset).map(range(4)) == [5, 6, 7, 8]
    results = on(lambda x: 1 // x).map([1, 0, 2], return_exceptions=True)
    assert (results[0], type(results[1]), results[2]) == (1, ZeroDivisionError, 0), results
    future = on(begin_and_wait).submit(folder)
    while not Path(folder, "begun").exists():
        time.sleep(0.01)
    is_cancelled = future.cancel()
    Path(folder, "go").touch()
    if is_cancelled:
        raise AssertionError("it was running")
    found = {
        "elsewhere": future.result(60) != os.getpid(),
        "timeout": told(lambda: on(kill, timeout=5)),
        "seed": told(lambda: on(lambda x: x, seed=1).map([1])),
        "initializer": told(lambda: on(kill, initializer=print).map([1])),
        "env": told(lambda: on(kill, env={"A": "1"}).map([1])),
    }
    print(json.dumps(found), flush=True)
    outcomes = on(kill).map("abcdef", return_exceptions=True)
    print(json.dumps([type(each).__name__ if isinstance(each, Exception) else each for each in outcomes]), flush=True)
    parmap.shutdown()
"""


def lines_of_the_table() -> dict[str, list[str]]:
    """The table, by the names of executors."""
    lines = PAGE.read_text(encoding="utf-8").partition("## On an executor of yours")[2].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in rows[2:]}


def test_each_line_is_tested():
    """No executor is in the table that no test has tried."""
    assert list(lines_of_the_table()) == list(MAKE)


@pytest.mark.parametrize("name", MAKE)
def test_line(name: str, script: Script):
    """What the table says of an executor is so."""
    library, make = MAKE[name]
    death, timeout, seed, initializer = lines_of_the_table()[name]
    if find_spec(library.partition(".")[0]) is None:
        pytest.skip(f"needs {library}")
    if "Interpreter" in make and sys.version_info < (3, 14):
        pytest.skip("came with Python 3.14")
    scripts = sysconfig.get_path("scripts")  # where MPI is, if pip has installed it
    script.environment["PATH"] = os.pathsep.join([scripts, script.environment["PATH"]])
    script.environment["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "0"
    program = f"""
    if __name__ == "__main__":
        from {library} import *
        with {make} as executor:
            main(executor, {str(script.folder)!r})
    """

    with script.start(PROGRAM + textwrap.dedent(program)) as run:  # of MPI's, all of the process group is killed
        try:
            out, errors = run.communicate(timeout=150)
        except subprocess.TimeoutExpired:
            run.kill()  # or to leave would wait for it
            raise

    told = [json.loads(line) for line in out.splitlines() if line.startswith(("{", "["))]
    assert told, out + errors
    found = {key: str(value).partition(":")[0] for key, value in told[0].items()}
    assert found == {
        "elsewhere": str("Thread" not in name and "Interpreter" not in name),
        "timeout": timeout,
        "seed": seed,
        "initializer": initializer,
        "env": initializer,
    }
    if death == "ends the program":
        assert len(told) == 1
        return
    assert len(told) == 2, errors
    failed = [letter for letter, outcome in zip("abcdef", told[1], strict=True) if outcome != letter]
    assert "c" in failed
    assert told[1][2] == "WorkerDiedError"
    assert failed == ["c"] or death != "fails alone"


def test_a_forked_child_in_a_process_of_an_executor(script: Script) -> None:
    """A task forks, and its child returns like a task: it ends, and does not go on as a worker of the executor."""
    done = script.run("""
        import os
        from concurrent.futures import ProcessPoolExecutor
        from parmap import parallel

        def task(number):
            parent = os.getpid()
            os.fork()
            return number, os.getpid() == parent

        if __name__ == "__main__":
            with ProcessPoolExecutor(2) as executor:
                print(parallel(task, backend=executor).map(range(9)) == [(number, True) for number in range(9)])
    """)

    assert (done.stdout, done.stderr) == ("True\n", "")
