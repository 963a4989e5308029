"""Any `concurrent.futures.Executor` as a backend, and Dask through its own."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import tasks

import parmap
from conftest import wait_until
from parmap import BackendUnavailableError, PoolClosedError, SerializationError, WorkerDiedError, parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Script

# The standard executor forks, so that it leaves neither a server nor a tracker behind.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

EXECUTORS: dict[str, Callable[[], Any]] = {
    "threads": lambda: ThreadPoolExecutor(2),
    "processes": lambda: ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")),
    "parmap": lambda: parmap.Executor(2),
}


@pytest.fixture(params=list(EXECUTORS))
def executor(request: pytest.FixtureRequest) -> Iterator[Any]:
    """An executor of each kind."""
    yield from _made(request.param)


@pytest.fixture(params=["processes", "parmap"])
def processes(request: pytest.FixtureRequest) -> Iterator[Any]:
    """An executor that runs processes."""
    yield from _made(request.param)


def _made(name: str) -> Iterator[Any]:
    with EXECUTORS[name]() as executor:
        yield executor
        parmap.shutdown()


def test_map(executor: Any):
    """`map` returns the results in order."""
    assert parallel(tasks.square, workers=2, backend=executor).map(range(1000)) == [x * x for x in range(1000)]


def test_starmap(executor: Any):
    """`starmap` unpacks."""
    assert parallel(pow, workers=2, backend=executor).starmap([(2, 3), (3, 2)]) == [8, 9]


def test_submit(executor: Any):
    """`submit` takes any arguments."""
    f = parallel(tasks.add, workers=2, backend=executor)

    assert [f.submit(x, b=1).result(30) for x in range(5)] == [1, 2, 3, 4, 5]
    assert [future.result(30) for future in [f.submit(x) for x in range(50)]] == list(range(10, 60))


def test_imap(executor: Any):
    """Streams work, endless input included."""
    from itertools import count

    with parallel(tasks.square, workers=2, backend=executor).imap(count()) as stream:
        assert [next(stream) for _ in range(5)] == [0, 1, 4, 9, 16]


def test_lambda(executor: Any):
    """Functions that pickle refuses travel too."""
    offset = 5

    assert parallel(lambda x: x + offset, workers=2, backend=executor).map([1, 2]) == [6, 7]


def test_arrays(executor: Any):
    """Large buffers travel, and can be written to on the other side."""
    data = [bytearray(100_000) for _ in range(3)]

    assert parallel(tasks.set_first, workers=2, backend=executor).map(data) == [100_000] * 3


def test_error(executor: Any):
    """An error of a task arrives as itself, with its note."""
    with pytest.raises(ValueError, match="x") as caught:
        parallel(tasks.fail, workers=2, backend=executor).map(["x"])
    assert "item 0" in caught.value.__notes__[0]


def test_return_exceptions(executor: Any):
    """Errors stand in the place of results, when asked for."""
    results = parallel(tasks.inverse, workers=2, backend=executor).map([1, 0, 2], return_exceptions=True)

    assert results[::2] == [1, 0.5]
    assert isinstance(results[1], ZeroDivisionError)


def test_retries(executor: Any, tmp_path: Any):
    """Retries are the scheduler's, whatever the backend."""
    f = parallel(tasks.fail_once, workers=2, backend=executor, retries=1)

    assert f.map([str(tmp_path / "a"), str(tmp_path / "b")]) == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_argument_that_can_not_travel(processes: Any):
    """An argument that can't be pickled is an error of its item."""
    results = parallel(tasks.identity, workers=2, backend=processes).map(
        [1, threading.Lock(), 3], return_exceptions=True
    )

    assert results[::2] == [1, 3]
    assert isinstance(results[1], SerializationError)
    assert "its arguments can't be sent" in "\n".join(results[1].__notes__)


def test_result_that_can_not_travel(processes: Any):
    """So is a result."""
    results = parallel(lambda x: threading.Lock() if x == 1 else x, workers=2, backend=processes).map(
        [0, 1, 2], return_exceptions=True
    )

    assert results[::2] == [0, 2]
    assert isinstance(results[1], SerializationError)


def test_nothing_is_pickled_on_threads():
    """On threads of this process, objects are shared."""
    thing = object()
    with ThreadPoolExecutor(2) as executor:
        assert parallel(tasks.identity, workers=2, backend=executor).map([thing]) == [thing]
        parmap.shutdown()


def test_cancel(executor: Any, tmp_path: Any):
    """A task that waits can be cancelled; one that runs can't."""
    f = parallel(tasks.touch_and_wait_for, workers=1, backend=executor)
    begun, go = tmp_path / "begun", tmp_path / "go"
    running = f.submit(str(begun), str(go))
    wait_until(begun.exists)
    waiting = [f.submit(str(tmp_path / f"never{i}"), str(go)) for i in range(4)]

    assert waiting[-1].cancel()
    assert not running.cancel()
    go.touch()
    assert running.result(30) == str(go)
    assert not (tmp_path / "never3").exists()


def test_slow_item_runs_once(executor: Any, tmp_path: Any):
    """An item that is far slower than its neighbours runs once, and is waited for."""
    paths = [(str(tmp_path / str(i)), 0.3 if i == 400 else 0.0) for i in range(1000)]
    parallel(tasks.append_and_nap, workers=2, backend=executor).starmap(paths)

    assert {path.stat().st_size for path in tmp_path.iterdir()} == {1}
    assert len(list(tmp_path.iterdir())) == 1000


def test_dead_worker():
    """Where the executor survives a death, only the item whose worker died fails."""
    with parmap.Executor(2) as executor:
        f = parallel(tasks.die, workers=2, backend=executor)
        results = f.map(["a", 3, "b", "c"], return_exceptions=True)
        parmap.shutdown()

    assert [results[0], *results[2:]] == ["a", "b", "c"]
    assert isinstance(results[1], WorkerDiedError)


MADE = {
    "fork": "ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('fork'))",
    "spawn": "ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('spawn'))",
    "loky": "__import__('joblib.externals.loky').externals.loky.ProcessPoolExecutor(2)",  # others import it for nothing
}


@pytest.mark.parametrize("kind", list(MADE))
def test_broken_executor(kind: str, script: Script):
    """Where it does not, another like it is made, and the item that broke it fails alone."""
    run = script.run(
        f"""
        import multiprocessing, os, string
        from concurrent.futures import ProcessPoolExecutor
        import parmap

        def leave(x):
            return os._exit(x) if isinstance(x, int) else x

        if __name__ == "__main__":
            executor = {MADE[kind]}
            letters = [*string.ascii_letters]
            f = parmap.parallel(leave, workers=2, backend=executor)
            for _ in range(2):
                results = f.map([*letters, 3, *letters], return_exceptions=True)
                assert isinstance(results.pop(len(letters)), parmap.WorkerDiedError)
                assert results == letters * 2, results
            parmap.shutdown()
            executor.shutdown()
            print("came to its end")
        """,
    )

    assert run.stdout == "came to its end\n", run.stderr


def test_closed_executor():
    """An executor that was shut down refuses, and so does the call."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()

    with pytest.raises(PoolClosedError):
        parallel(tasks.square, backend=executor).map([1])


def test_executor_is_left_open(executor: Any):
    """`shutdown` ends parmap's part, not the executor."""
    f = parallel(tasks.square, workers=2, backend=executor)
    f.map([1])
    f.shutdown()

    assert executor.submit(tasks.square, 2).result(30) == 4
    assert f.map([3]) == [9]


def test_nested(processes: Any):
    """A parallel function called inside a worker of the executor runs serially there."""
    assert parallel(tasks.nested_pids, workers=2, backend=processes).map([1])[0] == 1


def test_all_workers_of_an_executor():
    """Without `workers`, as many run at once as the executor has."""
    together = threading.Barrier(7)
    with ThreadPoolExecutor(7) as executor:
        parallel(lambda _: together.wait(30), backend=executor).map(range(7))
        parmap.shutdown()


def test_executor_without_a_hash():
    """An executor that is compared by what it holds, such as a dataclass, is one like others."""

    class Odd(ThreadPoolExecutor):
        __hash__ = None  # type: ignore[assignment]

    with Odd(2) as executor:
        assert parallel(tasks.square, backend=executor).map([1, 2]) == [1, 4]
        parmap.shutdown()


def test_classes_that_change(script: Script):
    """A class of the script is as it is at the call, also in a process that was forked when it was not yet so."""
    run = script.run(
        """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        import parmap

        class Point:
            def scale(self):
                return 1

        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
            f = parmap.parallel(lambda point: (point.scale(), Point().scale(), point), backend=executor)
            assert f.map([Point()])[0][:2] == (1, 1)
            Point.scale = lambda self: 2
            found = f.map([Point()])[0]
            assert found[:2] == (2, 2), found
            assert type(found[2]) is Point and found[2].scale() == 2
            parmap.shutdown()
        print("came to its end")
        """
    )
    assert run.stdout == "came to its end\n", run.stderr


@pytest.mark.parametrize(
    "options",
    [{"initializer": tasks.square}, {"max_tasks_per_child": 1}, {"env": {"A": "1"}}, {"preload": ("json",)}],
    ids=lambda options: next(iter(options)),
)
def test_options_that_an_executor_can_not_do(options: Any):
    """What can't be done is refused, not ignored."""
    with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match=f"{next(iter(options))} can't be given"):
        parallel(tasks.square, backend=executor, **options).map([1])


def test_pool_on_an_executor(executor: Any):
    """`Pool` and `Executor` run on one as well."""
    with parmap.Pool(2, backend=executor) as pool:
        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]


# --- dask and ray ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "library"), [("dask", "distributed"), ("ray", "ray")])
def test_library_is_missing(backend: Any, library: str, monkeypatch: pytest.MonkeyPatch):
    """Without its library, a backend says what to install."""
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(BackendUnavailableError, match=rf"parmap-decorators\[{backend}\]"):
        parallel(tasks.square, backend=backend).map([1])


def test_ray(script: Script):
    """With it, a call runs on a cluster of its own, if there is none; a dead worker costs its item."""
    pytest.importorskip("ray")
    folder = tempfile.mkdtemp(prefix="ray-")  # a short name; another test's cluster is not to be found there
    script.environment["RAY_TMPDIR"] = folder
    run = script.run(
        """
        import os
        import parmap

        @parmap.parallel(workers=2, backend="ray")
        def where(x):
            if x < 0:
                raise ValueError(x)
            return x, os.getpid()

        @parmap.parallel(workers=2, backend="ray")
        def leave(x):
            return os._exit(x) if x else x

        found = where.map(range(50))
        assert [x for x, _ in found] == list(range(50))
        assert os.getpid() not in {pid for _, pid in found}
        assert where.submit(3).result(60)[0] == 3
        assert [x for x, _ in where.imap(range(5))] == [0, 1, 2, 3, 4]
        assert isinstance(where.map([1, -1], return_exceptions=True)[1], ValueError)
        assert isinstance(leave.submit(3).exception(60), parmap.WorkerDiedError)
        parmap.shutdown()
        import ray
        assert not ray.is_initialized()
        print("came to its end")
        """,
        timeout=170,
    )

    shutil.rmtree(folder, ignore_errors=True)
    # Ray speaks there, too, maybe on the same line.
    assert ("came to its end" in run.stdout, run.returncode) == (True, 0), run.stdout + run.stderr


@pytest.mark.filterwarnings("ignore")
def test_dask(script: Any):
    """With it, a call runs on the client that is there, or on a cluster of its own."""
    pytest.importorskip("distributed")
    run = script.run(
        """
        import os
        import parmap

        @parmap.parallel(workers=2, backend="dask")
        def where(x):
            return x, os.getpid()

        found = where.map(range(20))
        assert [x for x, _ in found] == list(range(20))
        assert os.getpid() not in {pid for _, pid in found}
        assert where.submit(3).result(60)[0] == 3
        print("done")
        """,
        timeout=120,
    )

    assert run.stdout == "done\n", run.stderr
    assert run.returncode == 0


def test_executor_of_the_caller_s_process_is_not_a_worker(executor: Any):
    """Running on threads of this process does not make it a worker."""
    parallel(tasks.square, workers=2, backend=executor).map([1])

    with parmap.Pool(1) as pool:
        assert pool.apply(tasks.pid) != os.getpid()
