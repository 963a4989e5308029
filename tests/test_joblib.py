"""joblib's `Parallel` on parmap's workers: results, errors, deaths, interrupts, nesting."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tasks
import tasks_of_libraries

import parmap
from conftest import wait_until
from parmap import WorkerDiedError, override, parallel

joblib = pytest.importorskip("joblib")
import parmap.joblib  # noqa: E402 - joblib may be missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Script

delayed = joblib.delayed


@pytest.fixture(params=["forkserver", "spawn"])
def two(request: pytest.FixtureRequest, pools_stay: None) -> Iterator[Any]:
    """`Parallel` with two workers, of either start method; each has imported joblib once for all tests."""
    with joblib.parallel_config("parmap", n_jobs=2, start_method=request.param):
        yield joblib.Parallel


# --- results --------------------------------------------------------------------------------------------------------


def test_results_in_order(two: Any):
    """The results come in order, however joblib makes batches of the tasks."""
    assert two()(delayed(tasks.square)(x) for x in range(3000)) == [x * x for x in range(3000)]


def test_by_name():
    """The backend can be named in the call."""
    assert joblib.Parallel(n_jobs=2, backend="parmap")(delayed(pow)(x, 2) for x in (1, 2, 3)) == [1, 4, 9]


def test_other_processes(two: Any):
    """The tasks run in workers."""
    assert os.getpid() not in two()(delayed(os.getpid)() for _ in range(8))


def test_any_function(two: Any):
    """Lambdas and closures travel, keyword arguments too."""
    offset = 5

    assert two()(delayed(lambda x, factor: factor * x + offset)(x, factor=2) for x in range(3)) == [5, 7, 9]


def test_arrays(two: Any):
    """Arrays travel both ways, and tasks may write to theirs."""
    numpy = pytest.importorskip("numpy")

    def double(array: Any) -> Any:
        array *= 2
        return array

    arrays = [numpy.full(300_000, x) for x in range(4)]
    results = two()(delayed(double)(array) for array in arrays)

    assert all((result == 2 * array).all() for result, array in zip(results, arrays, strict=True))


@pytest.mark.parametrize("form", ["generator", "generator_unordered"])
def test_generators(two: Any, form: str):
    """Results can be taken as they come."""
    assert sorted(two(return_as=form)(delayed(tasks.square)(x) for x in range(50))) == [x * x for x in range(50)]


@pytest.mark.filterwarnings("ignore:.*tasks which were still being processed:UserWarning")
def test_generator_left_early(two: Any, tmp_path: Path):
    """Leaving a generator stops what runs."""
    parmap.shutdown()  # workers whose last tasks were short would get these two as one chunk, which comes back as one
    begun, never = tmp_path / "begun", str(tmp_path / "never")
    results = two(return_as="generator", pre_dispatch="all", batch_size=1)(
        [delayed(tasks.square)(3), delayed(tasks.touch_and_wait_for)(str(begun), never)]
    )

    assert next(results) == 9
    wait_until(begun.exists)
    results.close()
    assert two()(delayed(tasks.square)(x) for x in (1, 2)) == [1, 4]


def test_used_again(two: Any):
    """One `Parallel` can be called several times."""
    with two() as parallel_:
        assert [parallel_(delayed(tasks.square)(x) for x in range(n)) for n in (2, 3)] == [[0, 1], [0, 1, 4]]


def test_from_two_threads():
    """Two threads may each have their own `Parallel`."""
    results: dict[int, list[int]] = {}

    def call(start: int) -> None:
        results[start] = joblib.Parallel(n_jobs=2, backend="parmap")(
            delayed(tasks.square)(x) for x in range(start, start + 200)
        )

    threads = [threading.Thread(target=call, args=(start,)) for start in (0, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == {start: [x * x for x in range(start, start + 200)] for start in (0, 1000)}


# --- failures -------------------------------------------------------------------------------------------------------


def test_error(two: Any):
    """An error of a task is raised as itself."""
    with pytest.raises(ValueError, match="seven"):
        two()(delayed(tasks.fail)(x) for x in ["seven"] * 5)


def test_error_stops_the_rest(two: Any, tmp_path: Path):
    """An error stops what runs, and the pool goes on."""
    begun, never = str(tmp_path / "begun"), str(tmp_path / "never")
    calls = [delayed(tasks.touch_and_wait_for)(begun, never), delayed(tasks.wait_for)(begun), delayed(tasks.fail)("x")]

    with pytest.raises(ValueError, match="x"):
        two(batch_size=1, pre_dispatch="all")(calls)
    assert two()(delayed(tasks.square)(x) for x in (1, 2)) == [1, 4]


def test_dead_worker(two: Any):
    """A worker that dies fails the call, not the pool."""
    with pytest.raises(WorkerDiedError, match="exit code 3"):
        two()(delayed(tasks.die)(how) for how in ["a", 3, "b"])
    assert two()(delayed(tasks.square)(x) for x in (1, 2)) == [1, 4]


def test_timeout(two: Any, tmp_path: Path):
    """Joblib's timeout ends the call and stops what runs."""
    with pytest.raises(multiprocessing.TimeoutError):
        two(timeout=0.05)(delayed(tasks.wait_for)(str(tmp_path / "never")) for _ in range(2))
    assert two()(delayed(tasks.square)(x) for x in (1, 2)) == [1, 4]


def test_argument_that_can_not_travel(two: Any):
    """An argument that can't be pickled fails the call."""
    with pytest.raises(parmap.SerializationError):
        two()(delayed(tasks.identity)(x) for x in [1, threading.Lock()])


def test_interrupt(script: Script):
    """Ctrl-C ends the call at once, and the pool goes on."""
    process = script.start("""
        import time
        from pathlib import Path
        import joblib
        import parmap.joblib

        def work(x):
            Path("begun").touch()
            time.sleep(600)

        with joblib.parallel_config("parmap", n_jobs=2):
            try:
                joblib.Parallel()(joblib.delayed(work)(x) for x in range(10))
            except KeyboardInterrupt:
                print("interrupted")
            print(joblib.Parallel()(joblib.delayed(abs)(x) for x in (-1, -2)))
    """)
    try:
        wait_until((script.folder / "begun").exists)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=40)
    finally:
        process.kill()

    assert (stdout, stderr, process.returncode) == ("interrupted\n[1, 2]\n", "", 0)


# --- workers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inside", [{"n_jobs": 2}, {"n_jobs": 2, "backend": "parmap"}, {"n_jobs": 2, "prefer": "threads"}], ids=str
)
def test_nested(two: Any, inside: dict[str, Any]):
    """`Parallel` inside a worker runs in that worker."""
    for outer, inner in two()(delayed(tasks_of_libraries.joblib_in_joblib)(inside) for _ in range(2)):
        assert inner == {outer}


def test_nested_in_a_script(script: Script):
    """A worker knows the backend by its name, also where nothing in it has imported that."""
    run = script.run("""
        import joblib, os, parmap.joblib

        def inside(_):
            calls = (joblib.delayed(os.getpid)() for _ in range(4))
            return {os.getpid()} == {*joblib.Parallel(2, backend="parmap")(calls)}

        print(joblib.Parallel(2, backend="parmap")(joblib.delayed(inside)(x) for x in range(2)))
    """)

    assert (run.stdout, run.stderr) == ("[True, True]\n", "")


@pytest.mark.parametrize(
    ("inside", "pre_dispatch"), [({"backend": "parmap"}, "2*n_jobs"), ({}, "all")], ids=["its own", "shared"]
)
def test_inside_the_input(two: Any, inside: dict[str, Any], pre_dispatch: str):
    """`Parallel` may make the input of another one, whichever thread reads that, with its own backend or the same."""

    def calls() -> Iterator[Any]:
        for n in range(12):
            yield delayed(tasks.square)(
                sum(joblib.Parallel(n_jobs=2, **inside)(delayed(tasks.square)(x) for x in range(n)))
            )

    found = two(batch_size=1, pre_dispatch=pre_dispatch)(calls())

    assert found == [sum(x * x for x in range(n)) ** 2 for n in range(12)]


def test_results_as_input(two: Any):
    """The results of one `Parallel` may be the input of another, as they come."""
    squares = two(return_as="generator", batch_size=1)(delayed(tasks.square)(x) for x in range(50))

    assert two(batch_size=1)(delayed(tasks.square)(x) for x in squares) == [x**4 for x in range(50)]


def test_one_thread_for_all_that_has_ended(two: Any, tmp_path: Path):
    """Batches that end while the input is read, which lets no callback begin, hold no thread each."""
    threads = 0

    def calls() -> Iterator[Any]:
        nonlocal threads
        for place in range(20):
            yield delayed(Path.touch)(tmp_path / str(place))
        wait_until(lambda: len(list(tmp_path.iterdir())) == 20)
        yield delayed(tasks.square)(2)
        threads = sum(each.name == "parmap-callbacks" for each in threading.enumerate())

    two(batch_size=1, pre_dispatch="all")(calls())

    assert threads <= 2


def test_error_inside_the_input(two: Any, tmp_path: Path):
    """One that makes the input of another may fail, and stops its own tasks only."""
    done = tmp_path / "done"

    def calls() -> Iterator[Any]:
        yield delayed(tasks.wait_for)(str(done))
        yield delayed(tasks.square)(2)
        with pytest.raises(ValueError, match="seven"):
            two(batch_size=1)(delayed(tasks.fail)(x) for x in ["seven"] * 3)
        done.touch()

    assert two(batch_size=1, pre_dispatch="all")(calls())[1:] == [4]


def test_inside_a_parallel_function():
    """So it does in a worker of a decorated function."""
    ((outer, inner),) = parallel(tasks_of_libraries.joblib_in_joblib, workers=2).map(
        [{"n_jobs": 2, "backend": "parmap"}]
    )

    assert inner == {outer}


def test_number_of_workers(monkeypatch: pytest.MonkeyPatch):
    """`n_jobs` means what it means to joblib; without it, all CPUs work."""
    monkeypatch.setenv("PARMAP_WORKERS", "4")
    with joblib.parallel_config("parmap"):
        counts = [joblib.effective_n_jobs(n) for n in (None, -1, -2, -9, 3)]

        assert counts == [4, 4, 3, 1, 3]
        with pytest.raises(ValueError, match="n_jobs == 0"):
            joblib.effective_n_jobs(0)


def test_options_of_workers():
    """The backend takes the options that say what a worker is, in the context or in the call."""
    with joblib.parallel_config("parmap", n_jobs=2, env={"COLOUR": "red"}):
        assert joblib.Parallel()(delayed(os.getenv)("COLOUR") for _ in range(2)) == ["red"] * 2
        assert joblib.Parallel(env={"COLOUR": "blue"})(delayed(os.getenv)("COLOUR") for _ in range(2)) == ["blue"] * 2


def test_threads_of_numeric_libraries():
    """`inner_max_num_threads` sets what they look at."""
    for options in ({}, {"env": None}):
        with joblib.parallel_config("parmap", n_jobs=2, inner_max_num_threads=3, **options):
            assert joblib.Parallel()(delayed(os.getenv)("OMP_NUM_THREADS") for _ in range(2)) == ["3"] * 2


@pytest.mark.parametrize("name", ["retries", "time_out"])
def test_unknown_option(name: str):
    """What the backend does not know is refused, wherever it is given."""
    with pytest.raises(TypeError, match=f"joblib's backend 'parmap' has no option '{name}'"):
        joblib.parallel_config("parmap", **{name: 2})
    with pytest.raises(TypeError, match=f"no option '{name}'"):
        joblib.Parallel(n_jobs=2, backend="parmap", **{name: 2})([delayed(abs)(1)])


def test_bad_option():
    """So is a value of the wrong type, at once."""
    with pytest.raises(TypeError, match="preload"):
        joblib.parallel_config("parmap", preload=5)


def test_override_holds_for_the_whole_call():
    """Options from outside hold for the batches that are started later, too."""
    with override(backend="threads"), joblib.parallel_config("parmap", n_jobs=2):
        assert set(joblib.Parallel(batch_size=1)(delayed(os.getpid)() for _ in range(100))) == {os.getpid()}


def test_serial(monkeypatch: pytest.MonkeyPatch):
    """With the serial backend, everything runs here, however much it is."""
    monkeypatch.setenv("PARMAP_BACKEND", "serial")
    with joblib.parallel_config("parmap", n_jobs=2):
        assert set(joblib.Parallel(batch_size=1)(delayed(os.getpid)() for _ in range(3000))) == {os.getpid()}


# --- the module -----------------------------------------------------------------------------------------------------


def test_without_joblib(script: Script):
    """Without the library, the import says which extra to install."""
    run = script.run("""
        import sys
        sys.modules["joblib"] = None
        try:
            import parmap.joblib
        except ImportError as error:
            print(type(error).__name__, error)
    """)

    assert "BackendUnavailableError" in run.stdout
    assert 'pip install "parmap-decorators[joblib]"' in run.stdout


def test_quiet_end(script: Script):
    """A program ends without a word, warnings as errors included."""
    run = script.run(
        """
        import joblib
        import parmap.joblib
        with joblib.parallel_config("parmap", n_jobs=2):
            print(joblib.Parallel()(joblib.delayed(abs)(x) for x in (-1, -2)))
        """,
        args=("-W", "error"),
    )

    assert (run.stdout, run.stderr, run.returncode) == ("[1, 2]\n", "", 0)
