"""What each worker makes once, on every backend: when it is made, and that it is closed exactly once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import inspect
import io
import multiprocessing
import os
import signal
import sqlite3
import sys
import threading
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from tasks_per_worker import count, counter, noted, noting, place, who

import parmap
from conftest import wait_until
from parmap import parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Script

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only there they have numbers")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file that all workers write into."""
    return tmp_path / "log"


def user(token: Any) -> Callable[[int], tuple[str, int]]:
    """A task that uses a token, and waits a little, so that others have their turn."""

    def use(item: int) -> tuple[str, int]:
        token().append(item)
        time.sleep(0.002)
        return who(), len(token())

    return use


# --- made once -----------------------------------------------------------------------------------------------------


def test_made_once_in_each_worker(backend: dict[str, Any], log: Path) -> None:
    """Whoever runs a task has an object of its own, and all its tasks have the same."""
    function = parallel(user(parmap.per_worker(noting(log))), **backend)

    results = function.map(range(30)) + [function.submit(n).result() for n in range(3)]
    workers = {worker for worker, _ in results}

    assert sorted(noted(log, "open")) == sorted(f"it {worker}" for worker in workers)
    for worker in workers:
        numbers = [number for each, number in results if each == worker]
        assert sorted(numbers) == list(range(1, len(numbers) + 1))


def test_plain_call_has_the_program_s_own(log: Path) -> None:
    """A plain call makes one in the program, which serial calls use, too."""
    function = parallel(user(parmap.per_worker(noting(log))), backend="serial")

    assert [function(0), *function.map([1, 2])] == [(who(), n) for n in (1, 2, 3)]
    assert noted(log, "open") == [f"it {who()}"]


def test_token_of_a_module(processes: dict[str, Any]) -> None:
    """A module's token is the same for the module's functions and for those of a script that use it."""

    def other(item: int) -> tuple[str, int]:
        counter().append(item)
        return who(), len(counter())

    processes["workers"] = 1
    (first,) = parallel(count, **processes).map([1])
    (second,) = parallel(other, **processes).map([1])

    assert (second[0], second[1] - first[1]) == (first[0], 1)


def test_kept_while_functions_come_and_go(processes: dict[str, Any], log: Path) -> None:
    """As long as the program holds the token, workers keep what they made, whichever functions use it."""
    token = parmap.per_worker(noting(log))
    processes["workers"] = 1
    results = [parallel(user(token), **processes).map([n])[0][1] for n in range(5)]
    gc.collect()
    results += [parallel(user(token), **processes).submit(n).result()[1] for n in range(5)]

    assert results == list(range(1, 11))
    assert len(noted(log, "open")) == 1


def test_async_task(backend: dict[str, Any], log: Path) -> None:
    """An `async def` uses it as others do."""
    token = parmap.per_worker(noting(log))

    async def use(item: int) -> int:
        token().append(item)
        return len(token())

    backend["workers"] = 1
    assert parallel(use, **backend).map([1, 2, 3]) == [1, 2, 3]


def test_token_as_argument_and_result(backend: dict[str, Any], log: Path) -> None:
    """A token can be given to a task and come back: it is the program's; its factory goes once to each worker."""
    token = parmap.per_worker(noting(log))
    backend["workers"] = 1

    def use(same: Any, item: int) -> Any:
        same().append(item)
        return same, len(same())

    function = parallel(use, **backend)
    results = function.starmap([(token, 1)] * 4) + [function.submit(token, 2).result() for _ in range(3)]

    assert results == [(token, n) for n in range(1, 8)]
    assert len(noted(log, "open")) == 1


class Counted:
    """Counts how often it is unpickled, in a file that all processes see."""

    def __init__(self, log: Path) -> None:
        self.log = str(log)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        with open(self.log, "a") as log:
            log.write("sent\n")


def test_used_by_an_initializer(backend: dict[str, Any]) -> None:
    """An initializer may use the object, captured or given, before any task does."""
    captured, given = parmap.per_worker(list), parmap.per_worker(list)

    def begin(other: Any) -> None:
        captured().append("begun")
        other().append("too")

    use = parallel(lambda _: (captured(), given()), **backend, initializer=begin, initargs=(given,))

    assert use.map([0]) == [(["begun"], ["too"])]


def test_factory_travels_once(processes: dict[str, Any], log: Path) -> None:
    """However many tasks are given a token, its factory travels once to each worker."""
    captured = Counted(log)
    token = parmap.per_worker(lambda: [captured])
    function = parallel(lambda token, _: len(token()), **{**processes, "workers": 1})

    assert function.starmap([(token, n) for n in range(50)], chunksize=5) == [1] * 50
    assert [function.submit(token, n).result() for n in range(5)] == [1] * 5
    assert log.read_text() == "sent\n"


def test_threads_of_one_worker_share_it(log: Path) -> None:
    """Threads that a task, or the program, starts itself have one object together, made once."""
    token = parmap.per_worker(noting(log))

    def race(_: int) -> int:
        with ThreadPoolExecutor(4) as threads:
            return len({id(made) for made in threads.map(lambda _: token(), range(20))})

    assert [race(0), *parallel(race, workers=1).map([0])] == [1, 1]
    assert len(noted(log, "open")) == 2


def test_nested_use(backend: dict[str, Any], log: Path) -> None:
    """A factory may use another token, and a task that is parallel itself uses its worker's; it is closed first."""
    inner = parmap.per_worker(noting(log, "inner"))

    @contextlib.contextmanager
    def make() -> Iterator[list[int]]:
        used = inner()
        with noting(log, "outer")() as made:
            yield made
        used.append(1)

    outer = parmap.per_worker(make)
    nested = parallel(lambda item: outer().append(item) or len(outer()), workers=2)

    def task(item: int) -> list[int]:
        with parmap.override(backend="serial"):
            return nested.map([item, item])

    backend["workers"] = 1
    assert parallel(task, **backend).map([0, 1]) == [[1, 2], [3, 4]]
    parmap.shutdown()
    if backend["backend"] != "serial":
        assert [line.split()[0] for line in noted(log, "close")] == ["outer", "inner"]


def test_error_of_the_factory(backend: dict[str, Any], tmp_path: Path) -> None:
    """It is the error of the item that needed the object; the next item tries again."""
    flag = str(tmp_path / "flag")

    def make() -> int:
        if not os.path.exists(flag):
            with open(flag, "w"):
                raise ZeroDivisionError(flag)
        return 7

    token = parmap.per_worker(make)
    backend["workers"] = 1
    first, *others = parallel(lambda _: token(), **backend).map(range(4), return_exceptions=True)

    assert (type(first), str(first)) == (ZeroDivisionError, flag)
    assert others == [7, 7, 7]


# --- closed once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["shutdown", "idle", "recycled", "dropped"])
def test_closed_once_by_who_made_it(
    backend: dict[str, Any], log: Path, end: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """However a worker ends, or the program drops the token, the object is closed once, in its process and thread."""
    if backend["backend"] == "serial":
        pytest.skip("the program's own ends with the program")
    more = {"idle": {"idle_timeout": 0.05}, "recycled": {"max_tasks_per_child": 3}}.get(end, {})
    token = parmap.per_worker(noting(log))
    function = parallel(user(token), **backend, **more)
    function.map(range(7), chunksize=1)
    if end == "shutdown":
        parmap.shutdown()
        assert len(noted(log, "close")) == len(noted(log, "open"))
    elif end == "dropped":
        del function, token
        gc.collect()
        other = parallel(user([].copy), **backend)  # workers hear of it when they have something to do
        wait_until(lambda: other.map(range(20)) and len(noted(log, "close")) == len(noted(log, "open")))
    else:
        wait_until(lambda: len(noted(log, "close")) >= (1 if end == "recycled" else len(noted(log, "open"))))
    parmap.shutdown()

    assert sorted(noted(log, "close")) == sorted(noted(log, "open"))
    assert capfd.readouterr().err == ""


def test_made_anew_after_a_pause(backend: dict[str, Any], log: Path) -> None:
    """Workers that come back after an idle pool was stopped make their own."""
    function = parallel(user(parmap.per_worker(noting(log))), **{**backend, "workers": 1}, idle_timeout=0.05)
    function.map([0])
    if backend["backend"] != "serial":
        wait_until(lambda: noted(log, "close"))
        assert function.map([0])[0][1] == 1


def test_made_anew_after_a_death(processes: dict[str, Any], log: Path) -> None:
    """A worker that is killed closes nothing; the one that takes its place makes its own."""
    token = parmap.per_worker(noting(log))

    def use(item: int) -> int:
        token().append(item)
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return len(token())

    results = parallel(use, **{**processes, "workers": 1}).map([0, 1, 2], return_exceptions=True, chunksize=1)
    parmap.shutdown()

    assert [results[0], type(results[1]), results[2]] == [1, parmap.WorkerDiedError, 1]
    assert noted(log, "open")[1:] == noted(log, "close")


def test_what_closing_prints_is_seen(processes: dict[str, Any]) -> None:
    """What a worker prints when it closes something comes out in the program, and so does an error, which harms none."""

    def make() -> Iterator[int]:
        yield 1
        print("closing")

    def fail() -> Iterator[int]:
        yield 2
        raise ValueError("no end")

    good, bad = parmap.per_worker(make), parmap.per_worker(fail)
    # Not `capsys`: what is written just as that is read may be lost, where threads run at the same time.
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        assert parallel(lambda _: good() + bad(), **{**processes, "workers": 1}).map([0]) == [3]
        parmap.shutdown()
        wait_until(lambda: "closing" in out.getvalue() and "ValueError: no end" in err.getvalue())


def test_tokens_anywhere_in_a_script(script: Script) -> None:
    """Factories that use one another and themselves, classes and objects with tokens; closing that prints much."""
    done = script.run(
        """
        import sys
        from parmap import parallel, per_worker, shutdown

        @per_worker
        def inner():
            yield [1]
            print(inner, "x" * 3_000_000)

        outer = per_worker(lambda: (inner(), 2))

        class Item:
            tool = outer

            def __init__(self):
                self.own = outer

            def use(self):
                return self.tool() is self.own() and self.own()[0] is inner()

        use = parallel(Item.use, workers=1)
        print(use.map([Item()] * 3), use.submit(Item()).result(), parallel(Item().use, workers=1).submit().result())
        sys.stdout.flush()
        shutdown()
        """
    )
    first, *others = done.stdout.splitlines()

    assert first == "[True, True, True] True True", done.stderr
    assert others == ["<parmap.PerWorker of inner> " + "x" * 3_000_000]


ENDS = {"": 0, "sys.exit(3)": 3, "raise KeyboardInterrupt": 130}


@pytest.mark.parametrize("chosen", ["start_method='forkserver'", "start_method='spawn'", "backend='threads'"])
def test_closed_when_a_script_ends(script: Script, chosen: str) -> None:
    """However a program ends, whatever was made is closed once, and what that prints is seen."""
    text = """
        import sqlite3, sys
        from parmap import parallel, per_worker

        @per_worker
        def connection():
            made = sqlite3.connect(":memory:")
            print("open\\n", end="")
            yield made
            made.close()  # sqlite refuses it in another thread
            print("close\\n", end="")

        @parallel(workers=2, CHOSEN)
        def double(x):
            return connection().execute("select 2 * ?", (x,)).fetchone()[0]

        print(double.map(range(50)) == [2 * x for x in range(50)], double(1))
        sys.stdout.flush()
        END
    """.replace("CHOSEN", chosen)
    for end, code in ENDS.items():
        done = script.run(text.replace("END", end))
        lines = done.stdout.split("\n")

        assert done.returncode in {code, -signal.SIGINT}, done.stderr
        assert "True 2" in lines
        assert lines.count("close") == lines.count("open") >= 2, done
        assert "sqlite3" not in done.stderr


def test_child_of_the_program_leaves_it_alone(script: Script) -> None:
    """A process that the program forks closes nothing of the program's, and makes its own."""
    done = script.run(
        """
        import os, parmap

        @parmap.per_worker
        def it():
            made = os.getpid()
            yield made
            os.write(1, b"right\\n" if made == os.getpid() else b"wrong\\n")

        it()
        if not os.fork():
            it()
            raise SystemExit
        os.wait()
        """
    )

    assert (done.stdout, done.stderr) == ("right\nright\n", "")


def _executors() -> dict[str, Callable[[], Any]]:
    return {
        "threads": lambda: ThreadPoolExecutor(2),
        "processes": lambda: ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")),
        "parmap": lambda: parmap.Executor(2),
    }


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("kind", _executors())
def test_workers_of_an_executor(kind: str, log: Path) -> None:
    """Threads and processes of an executor are workers, too; what they made is closed when they end."""
    token = parmap.per_worker(noting(log))
    with _executors()[kind]() as executor:
        function = parallel(user(token), workers=2, backend=executor)
        given = parallel(lambda token: (who(), len(token())), backend=executor)
        results = [*function.map(range(30)), given.submit(token).result()]
        assert sorted(noted(log, "open")) == sorted({f"it {worker}" for worker, _ in results})
        parmap.shutdown()
    wait_until(lambda: sorted(noted(log, "close")) == sorted(noted(log, "open")))


# --- bad use -------------------------------------------------------------------------------------------------------


def test_factory_that_can_t_travel() -> None:
    """The error names the factory and what is wrong with it."""
    lock = threading.Lock()
    connection = sqlite3.connect(":memory:")

    def make_it() -> Any:
        return lock, connection

    token = parmap.per_worker(make_it)
    function = parallel(lambda _: token(), workers=1)
    with pytest.raises(
        parmap.SerializationError, match=r"make_it can't be sent to a worker: .*'connection' of .*make_it"
    ):
        function.map([1])
    with pytest.raises(parmap.SerializationError, match=r"make_it can't be sent to a worker"):
        parallel(count, workers=1).map([token])
    connection.close()


def test_what_decorates_a_factory_keeps_its_documentation() -> None:
    """For `help` and for tools."""

    @parmap.per_worker
    def connection() -> int:
        """The connection."""
        return 1

    assert inspect.getdoc(connection) == "The connection."


def test_not_a_factory() -> None:
    """What can't be called, and what is asynchronous, is refused at once."""

    async def make() -> int:
        return 1

    with pytest.raises(TypeError, match=r"a function without arguments"):
        parmap.per_worker(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"make.*plain def"):
        parmap.per_worker(make)


# --- which worker --------------------------------------------------------------------------------------------------


def test_numbers_are_dense_and_stable(backend: dict[str, Any]) -> None:
    """Each worker has one number, from 0 on; serial calls have number 0 of 1, and so has the program."""
    function = parallel(place, **backend)
    known = set(function.map([0.01] * 20)) | {function.submit(0).result()}

    if backend["backend"] == "serial":
        assert known == {(who(), (0, 1))}
    else:
        assert sorted(worker for _, worker in known) == [(n, 2) for n in range(len(known))]
        assert len({name for name, _ in known}) == len(known) == 2
    assert parmap.worker() == (0, 1)
    assert function(0)[1].index == 0


def test_the_next_takes_the_free_number(processes: dict[str, Any]) -> None:
    """A worker that replaces one that died, or was recycled, takes its number."""
    function = parallel(place, **processes, max_tasks_per_child=3)
    assert {worker.index for _, worker in function.map([0.01] * 10)} == {0, 1}

    def task(item: int) -> int:
        if item == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
        return parmap.worker().index

    results = parallel(task, **processes).map(range(10), return_exceptions=True, chunksize=1)
    assert {each for each in results if type(each) is int} == {0, 1}


def test_initializer_knows_the_number(backend: dict[str, Any], log: Path) -> None:
    """An initializer knows which worker it is for."""

    def note() -> None:
        with open(log, "a") as file:
            file.write(f"{parmap.worker().index}\n")

    parallel(place, **backend, initializer=note).map([0.01] * 8)
    numbers = sorted(log.read_text().split())

    assert numbers == (["0"] if backend["backend"] == "serial" else ["0", "1"])


EXECUTORS = {
    "threads": lambda: ThreadPoolExecutor(2),
    "spawn": lambda: ProcessPoolExecutor(2, multiprocessing.get_context("spawn")),
    "fork": lambda: ProcessPoolExecutor(2, multiprocessing.get_context("fork")),
}


@only_linux
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", EXECUTORS)
def test_workers_of_executors_have_numbers(kind: str) -> None:
    """Each has its own, whichever function runs there, and outcomes tell it."""
    with EXECUTORS[kind]() as executor:
        function = parallel(place, backend=executor, workers=2)
        known = set(function.map([0.05] * 12))
        more = [outcome for outcome in function.options(retries=1).outcomes([0.05] * 4) if outcome.ok]

        assert {worker for _, worker in known} <= {(0, 2), (1, 2)}
        assert len({name for name, _ in known}) == len({worker for _, worker in known})
        assert {outcome.value for outcome in more} | known == known or len(known) == 1
        assert all(outcome.worker == outcome.value[1].index for outcome in more)
        with EXECUTORS[kind]() as other:  # which has numbers of its own
            assert {w for _, w in parallel(place, backend=other, workers=2).map([0.05] * 8)} <= {(0, 2), (1, 2)}
    assert parmap.worker() == (0, 1)


@pytest.mark.parametrize("kind", ["ProcessPoolExecutor(2, get_context('spawn'))", "InterpreterPoolExecutor(2)"])
def test_a_worker_of_an_executor_ends_in_silence(script: Script, kind: str) -> None:
    """Even if it has run a parallel function itself: nothing is told of what it takes apart at its end."""
    if not hasattr(concurrent.futures, kind.partition("(")[0]):
        pytest.skip("came with Python 3.14")
    program = """
        from concurrent.futures import *
        from multiprocessing import get_context

        import parmap

        def main():
            made = parmap.per_worker(list)
            def inner(n):
                return len(made()) + n
            def outer(n):
                return parmap.parallel(inner).map([n, n + 1])
            with KIND as executor:
                print(parmap.parallel(outer, backend=executor).map([0, 1]))

        if __name__ == "__main__":
            main()
    """
    done = script.run(program.replace("KIND", kind))

    assert (done.stdout, done.stderr) == ("[[0, 1], [1, 2]]\n", "")


@only_linux
def test_workers_of_loky_have_numbers(script: Script) -> None:
    """Functions of a script too, and other executors in the same program have numbers of their own."""
    pytest.importorskip("joblib")
    done = script.run("""
        import os, time
        import parmap
        from joblib.externals.loky import ProcessPoolExecutor

        if __name__ == "__main__":
            def place(n):
                time.sleep(0.05)
                return os.getpid(), parmap.worker()

            for _ in range(2):
                with ProcessPoolExecutor(2) as executor:
                    known = set(parmap.parallel(place, backend=executor, workers=2).map(range(8)))
                    assert len({pid for pid, _ in known}) == len({worker for _, worker in known}) == len(known)
                    assert {worker for _, worker in known} <= {(0, 2), (1, 2)}
            print("fine")
    """)

    assert done.stdout == "fine\n", done.stderr


@only_linux
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_number_of_a_worker_of_an_executor_that_died() -> None:
    """It is free for those that come after it, in the executor that is made in the place of the broken one."""

    def task(item: int) -> int:
        if item == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
        return parmap.worker().index

    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as executor:
        function = parallel(task, backend=executor, workers=2, chunksize=1)
        results = function.map(range(10), return_exceptions=True)

    assert {each for each in results if type(each) is int} <= {0, 1}
    assert sum(type(each) is int for each in results) >= 8


class Unknown(Executor):
    """An executor of which nothing is known but that it can run what it is given, in another process."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def submit(self, *call: Any) -> Any:  # type: ignore[override]
        """Give it to another one."""
        return self._pool.submit(*call)

    def shutdown(self, *args: Any, **how: Any) -> None:
        """End it."""
        self._pool.shutdown(*args, **how)


def test_workers_of_others_have_no_number() -> None:
    """In a worker that nothing is known of, that is said."""
    with Unknown() as executor, pytest.raises(RuntimeError, match="this worker has no number"):
        parallel(place, backend=executor).map([0])
