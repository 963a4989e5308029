"""How workers begin and how they are replaced: initializers, preloaded modules, `max_tasks_per_child`."""

from __future__ import annotations

import collections
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from inspection import is_gone, pids_of
from tasks import pid, square
from tasks_that_die import init_dies, init_raises
from tasks_that_look import variables
from tasks_that_weigh import grow

from conftest import children, wait_until
from parmap import WorkerDiedError, cpu_count, parallel

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Script

needs_sizes = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="nothing tells how large a process is")


def lines(path: Path) -> list[str]:
    """What initializers noted."""
    return path.read_text().split()


def test_env_reaches_workers(processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables in `env` are those of the workers, besides the parent's own, which they may replace."""
    monkeypatch.setenv("PARENTS", "kept")
    monkeypatch.setenv("REPLACED", "before")
    function = parallel(variables, env={"REPLACED": "after", "ADDED": "1"}, **processes)

    assert function.submit("PARENTS", "REPLACED", "ADDED").result(60) == ["kept", "after", "1"]
    assert variables("REPLACED", "ADDED") == ["before", None]


LIBRARIES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"),
    *("POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"),
)


@pytest.mark.parametrize("workers", [1, 1000])
def test_numeric_libraries_share_the_cpus(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers times threads of numeric libraries are no more than the CPUs, and at least one each."""
    for name in LIBRARIES:
        monkeypatch.delenv(name, raising=False)
    expected = str(max(1, cpu_count() // workers))

    assert parallel(variables, workers=workers).submit(*LIBRARIES).result(60) == [expected] * len(LIBRARIES)


def test_numeric_libraries_use_what_the_user_says(processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the user's count, and that of OpenMP for the libraries that have none of their own."""
    for name in LIBRARIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    function = parallel(variables, env={"MKL_NUM_THREADS": "5"}, **processes)

    assert function.submit(*LIBRARIES).result(60) == ["3", "3", "5", *["3"] * (len(LIBRARIES) - 3)]


def test_preloaded_modules_are_there(script: Script, processes: dict[str, Any]) -> None:
    """A module in `preload` is imported before the first task, once for all workers that are forked."""
    script.write("open('imports', 'a').write('x')", "heavy.py")
    done = script.run(f"""
        import parmap

        def is_loaded(_):
            import sys
            return "heavy" in sys.modules

        print(all(parmap.parallel(is_loaded, preload=("heavy",), **{processes!r}).map(range(20), chunksize=1)))
        print(len(open("imports").read()))
    """)
    loaded, imports = done.stdout.split()

    assert (loaded, done.stderr) == ("True", "")
    assert imports == "1" or processes["start_method"] == "spawn"


@pytest.mark.parametrize("size", [1, 3])
def test_workers_are_replaced_after_so_many_tasks(processes: dict[str, Any], size: int) -> None:
    """No worker runs more tasks than `max_tasks_per_child`, and none runs fewer without need."""
    function = parallel(pid, max_tasks_per_child=size, **processes)

    counts = collections.Counter(function.map(range(12)))

    assert max(counts.values()) <= size
    assert len(counts) >= 12 // size


def test_workers_are_replaced_after_so_many_submits() -> None:
    """Tasks of `submit` count too, those that an idle worker takes from the caller included."""
    function = parallel(pid, workers=1, max_tasks_per_child=3)

    counts = collections.Counter(function.submit().result(timeout=60) for _ in range(12))

    assert set(counts.values()) == {3}


def test_a_replaced_worker_leaves() -> None:
    """A worker that has done its tasks ends."""
    function = parallel(pid, workers=1, max_tasks_per_child=1)

    used = function.map(range(5))

    wait_until(lambda: all(map(is_gone, used)))
    wait_until(lambda: not set(pids_of(function)) & set(used))


@pytest.mark.parametrize(
    "limit",
    [{"max_tasks_per_child": 1}, pytest.param({"max_memory_per_child": 1}, marks=needs_sizes)],
    ids=str,
)
def test_a_pool_whose_workers_have_all_left_stops(processes: dict[str, Any], limit: dict[str, int]) -> None:
    """After `idle_timeout` nothing of it is left, also where no worker is there to be stopped."""
    function = parallel(square, **{**processes, "workers": 1, "idle_timeout": 0.1, **limit})

    assert function.map([3]) == [9]

    wait_until(lambda: not children())


def test_a_large_chunk_is_cut_to_what_a_worker_may_run() -> None:
    """`chunksize` does not let a worker run more tasks than it may."""
    function = parallel(pid, workers=2, max_tasks_per_child=2)

    counts = collections.Counter(function.map(range(20), chunksize=10))

    assert max(counts.values()) <= 2


@needs_sizes
@pytest.mark.filterwarnings("ignore:grow changes KEPT")
@pytest.mark.parametrize("way", ["map", "submit"])
def test_a_worker_that_has_grown_is_replaced(processes: dict[str, Any], way: str) -> None:
    """It ends when the chunk has in which it came to take more than `max_memory_per_child`; no result is lost."""
    function = parallel(grow, max_memory_per_child=120 << 20, **{**processes, "workers": 1})

    if way == "map":
        used = function.map([0, 0, 160, 0, 0], chunksize=1)
    else:
        used = [function.submit(size).result(timeout=60) for size in [0, 0, 160, 0, 0]]

    assert used[0] == used[1] == used[2]
    assert used[4] != used[2]  # the one behind it may have been sent to the same worker before
    wait_until(lambda: is_gone(used[2]))


@needs_sizes
def test_workers_that_always_are_too_large() -> None:
    """Each does its chunk all the same, as with `max_tasks_per_child`; what is per worker is closed."""
    used = parallel(pid, workers=2, max_memory_per_child=1).map(range(6), chunksize=1)

    assert len({*used}) >= 3  # each had at most one more waiting


@needs_sizes
@pytest.mark.parametrize("backend", ["threads", "serial"])
def test_memory_is_that_of_worker_processes(backend: Any) -> None:
    """Elsewhere there is nothing to replace: it is refused, in one sentence."""
    with pytest.raises(ValueError, match=r"max_memory_per_child can't be given with backend='.*worker processes"):
        parallel(pid, max_memory_per_child=1 << 30, backend=backend)
    with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match="max_memory_per_child can't be given"):
        parallel(pid, max_memory_per_child=1 << 30, backend=executor)


def test_an_initializer_runs_once_in_each_worker(processes: dict[str, Any], tmp_path: Path) -> None:
    """Each worker runs the initializer once, before its first task."""
    path = tmp_path / "pids"

    def begin(target: str) -> None:
        import os

        with open(target, "a") as file:
            file.write(f"{os.getpid()}\n")

    function = parallel(pid, initializer=begin, initargs=(str(path),), **processes)
    ran = set(function.map(range(50)))

    assert ran <= {int(line) for line in lines(path)}
    assert len(set(lines(path))) == len(lines(path))


@pytest.mark.parametrize("how", ["map", "submit", "imap"])
def test_an_initializer_that_raises_fails_the_call(processes: dict[str, Any], how: str) -> None:
    """The call fails with the initializer's own error, each time, and the pool does not start workers for ever."""
    function = parallel(square, initializer=init_raises, **processes)

    for _ in range(2):
        with pytest.raises(LookupError, match="no database"):
            function.submit(1).result(timeout=60) if how == "submit" else list(getattr(function, how)(range(10)))

    wait_until(lambda: not pids_of(function))


def test_the_error_of_an_initializer_is_not_taken_for_that_of_an_item(backend: dict[str, Any]) -> None:
    """A note says where it comes from."""
    with pytest.raises(LookupError, match="no database") as caught:
        parallel(square, initializer=init_raises, **backend).map([1])

    assert caught.value.__notes__ == ["parmap: in the initializer"]


def test_every_call_of_a_broken_pool_is_told_why() -> None:
    """Many tasks that wait for workers which can't start all fail with the reason."""
    function = parallel(square, workers=2, initializer=init_raises)

    futures = [function.submit(number) for number in range(50)]

    assert {type(future.exception(timeout=60)) for future in futures} == {LookupError}


def test_an_initializer_that_dies_fails_the_call(processes: dict[str, Any]) -> None:
    """Workers that die while they start are replaced a few times; then the call fails and says so."""
    function = parallel(square, initializer=init_dies, **processes)

    for _ in range(2):
        with pytest.raises(WorkerDiedError, match="starting") as caught:
            function.map(range(10))

        assert "exited with code 9 before it had started" in str(caught.value.__cause__)


def test_an_initializer_that_can_not_be_pickled_fails_the_call() -> None:
    """An initializer that can't travel is an error of the call."""
    endless = (n for n in range(3))
    function = parallel(square, workers=1, initializer=lambda: next(endless))

    for _ in range(2):
        with pytest.raises(Exception, match="generator"):
            function.map(range(3))


def test_arguments_of_an_initializer_that_can_not_be_unpickled_fail_the_call() -> None:
    """What goes wrong before the initializer runs is told like what goes wrong in it."""

    class Trap:
        def __reduce__(self) -> Any:
            return int, ("not a number",)

    function = parallel(square, workers=1, initializer=print, initargs=(Trap(),))

    with pytest.raises(ValueError, match="not a number"):
        function.map(range(3))


def test_what_an_initializer_prints_is_seen(script: Script) -> None:
    """An initializer may print; the results are unharmed."""
    done = script.run("""
        import parmap

        def begin():
            print("worker is up")

        if __name__ == "__main__":
            print(parmap.parallel(abs, workers=1, initializer=begin).map([-1, -2]))
    """)

    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == ["[1, 2]", "worker is up"]


def test_an_initializer_that_calls_exit_fails_the_call(backend: dict[str, Any]) -> None:
    """`sys.exit` in an initializer is an error that says so, not a loop of new workers, nor the end of the program."""
    import sys

    function = parallel(square, **backend, initializer=sys.exit, initargs=(4,))

    with pytest.raises(WorkerDiedError) as caught:
        function.map(range(3))

    assert caught.value.exitcode == 4


def test_a_missing_module_to_preload_fails_the_call(processes: dict[str, Any]) -> None:
    """A module in `preload` that can't be imported is named in the error of the call."""
    function = parallel(square, preload=("no_such_module_anywhere",), **processes)

    for _ in range(2):
        with pytest.raises(ImportError, match="no_such_module_anywhere"):
            function.map(range(3))


def test_a_module_to_preload_that_exits_fails_the_call(script: Script, processes: dict[str, Any]) -> None:
    """A module whose import ends the process does not make the call hang."""
    script.write("raise SystemExit(5)", "leaves.py")
    done = script.run(f"""
        import parmap

        try:
            parmap.parallel(abs, preload=("leaves",), **{processes!r}).map([-1, -2])
        except Exception as error:
            print(type(error).__name__, "leaves" in str(error))
    """)

    assert (done.stdout, done.stderr) == ("ImportError True\n", "")


def test_a_module_to_preload_that_kills_fails_the_call(script: Script, processes: dict[str, Any]) -> None:
    """A module whose import kills the process makes the call fail, not hang or start processes for ever."""
    script.write("import os; os._exit(5)", "leaves.py")
    done = script.run(f"""
        import parmap

        try:
            parmap.parallel(abs, preload=("leaves",), **{processes!r}).map([-1, -2])
        except Exception as error:
            print(type(error).__name__)
    """)

    assert (done.stdout, done.stderr) == ("WorkerDiedError\n", "")
