"""Dask and Ray: what holds for worker processes at home holds on a cluster of several, whoever is lost there."""

from __future__ import annotations

import gc
import importlib
import itertools
import logging
import os
import queue
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import tasks
from clusters import CLUSTERS, is_running
from inspection import drop_while_fetching, known_to, lose_file_of, pilots, puts_of

import parmap
import parmap.backends
from conftest import wait_until
from parmap import TaskTimeoutError, WorkerDiedError, parallel
from parmap.backends._clusters import site
from parmap.backends._clusters.actors import Actors, Task, session_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What the libraries themselves warn of.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(120)]

slow = pytest.mark.cluster
"""Left to `make test-cluster`."""


@pytest.fixture(scope="module", params=["dask", "ray"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of either kind."""
    pytest.importorskip("distributed" if request.param == "dask" else "ray")
    with CLUSTERS[request.param](tmp_path_factory.mktemp(request.param)) as made:
        yield made
        parmap.shutdown()


@pytest.fixture(autouse=True)
def nothing_is_left() -> None:
    """A cluster is left, for the next test."""


def test_map_and_submit(cluster: Any):
    """Results come in order, from other processes, of a function that only this program has."""
    offset = 3
    f = parallel(lambda x: (x + offset, os.getpid()), backend=cluster.name)
    found = f.map(range(500))

    assert [value for value, _ in found] == list(range(3, 503))
    assert os.getpid() not in {pid for _, pid in found}
    assert f.submit(1).result(60)[0] == 4
    assert [value for value, _ in f.imap(range(50))] == list(range(3, 53))


def test_all_of_the_cluster(cluster: Any, tmp_path: Path):
    """Without `workers`, all of its slots are used; with it, no more than that."""
    slots = 6 if cluster.name == "dask" else 4

    def wait_for_others(x: int) -> int:
        time.sleep(0.2)
        return os.getpid()

    f = parallel(wait_for_others, backend=cluster.name)
    f.map(range(slots * 2))  # all are started
    assert len(set(f.map(range(slots * 8)))) == slots

    def be_alone(_: int) -> None:
        (tmp_path / "alone").mkdir()
        time.sleep(0.05)
        (tmp_path / "alone").rmdir()

    parallel(be_alone, backend=cluster.name, workers=1).map(range(6))


def test_item_that_kills_its_worker(cluster: Any, tmp_path: Path):
    """It fails alone, after as many deaths as it may have; each other item has its result."""

    def die(x: int) -> int:
        if x == 137:
            with open(tmp_path / "deaths", "a") as file:
                file.write("x")
            os._exit(9)
        return -x

    results = parallel(die, backend=cluster.name, retries=1, retry_on=WorkerDiedError).map(
        range(1000), return_exceptions=True
    )

    assert isinstance(results[137], WorkerDiedError)
    assert (results[137].item, results[137].exitcode) == (137, 9)
    assert [x for x, result in enumerate(results) if result != -x] == [137]
    assert len((tmp_path / "deaths").read_text()) <= 3  # once among others, then alone, and once more


def test_timeout(cluster: Any):
    """An item that takes too long is killed, and no other; its outcome says how long it took."""
    *_, late = parallel(time.sleep, backend=cluster.name, timeout=0.5).outcomes([0, 100])
    assert isinstance(late.error, TaskTimeoutError)
    assert late.seconds >= 0.5

    results = parallel(lambda x: time.sleep(100 if x == 3 else 0) or x, backend=cluster.name, timeout=1).map(
        range(20), return_exceptions=True
    )

    assert isinstance(results.pop(3), TaskTimeoutError)
    assert results == [x for x in range(20) if x != 3]


def beat(path: str) -> None:
    """Write a sign of life again and again."""
    while True:
        Path(path).write_text(str(os.getpid()))
        time.sleep(0.02)


def pid_in(path: Path) -> int:
    """The process that has written there."""
    wait_until(lambda: path.exists() and path.read_text())
    return int(path.read_text())


@pytest.mark.parametrize("how", ["cancel", "close", "fail"])
def test_running_work_is_stopped(cluster: Any, tmp_path: Path, how: str):
    """What nobody waits for any more ends over there, too."""
    path = tmp_path / "beat"
    if how == "cancel":
        future = parallel(beat, backend=cluster.name).submit(str(path))
        pid = pid_in(path)
        assert future.cancel()
    elif how == "close":
        stream = parallel(beat, backend=cluster.name).imap([str(path)])
        threading.Thread(target=lambda: next(stream, None), daemon=True).start()
        pid = pid_in(path)
        stream.close()
    else:

        def fail_or_beat(x: int) -> None:
            if x:
                beat(str(path))
            while not path.exists():
                time.sleep(0.01)
            raise KeyError(x)

        with pytest.raises(KeyError):
            parallel(fail_or_beat, backend=cluster.name).map([0, 1])
        pid = pid_in(path)
    wait_until(lambda: not is_running(pid), 10)


def wait_for(path: Path) -> None:
    """Wait for what somebody else does."""
    while not path.exists():
        time.sleep(0.01)


def test_results_do_not_wait_for_a_slow_item(cluster: Any, tmp_path: Path, pytestconfig: pytest.Config):
    """What has ended is there, though an item of the same chunk goes on."""
    if pytestconfig.getoption("--one-by-one"):
        pytest.skip("each item is a chunk")

    def end_or_wait(x: int) -> int:
        if x == 5:
            wait_for(tmp_path / "the others are there")
        time.sleep(0.03)
        return x

    stream = parallel(end_or_wait, backend=cluster.name).imap_unordered(range(10), chunksize=10)
    assert [next(stream) for _ in range(5)] == [0, 1, 2, 3, 4]
    (tmp_path / "the others are there").touch()
    assert list(stream) == [5, 6, 7, 8, 9]


def test_item_that_waits_for_one_behind_it(cluster: Any, tmp_path: Path):
    """It does not keep that one from being run, be it of its own chunk."""

    def wait_for_the_next(x: int) -> int:
        if x in {10, 220}:
            wait_for(tmp_path / str(x + 1))
        (tmp_path / str(x)).touch()
        return x

    f = parallel(wait_for_the_next, backend=cluster.name)
    f.map(range(1011, 1041))  # now it is known to be quick
    assert f.map(range(200)) == list(range(200))
    futures = [f.submit(x) for x in range(211, 300)]
    assert [future.result(60) for future in futures] == list(range(211, 300))


class Counted:
    """Counts how often it is pickled and unpickled, in files that all processes see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getstate__(self) -> Any:
        with open(self.folder / "packed", "a") as log:
            log.write(".")
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        with open(self.folder / "unpacked", "a") as log:
            log.write(f"{os.getpid()}\n")

    def name(self, number: int) -> str:
        return f"{self.folder.name} {number}"


@pytest.mark.parametrize("way", ["captured", "map", "imap", "submit"])
def test_broadcast(cluster: Any, tmp_path: Path, way: str):
    """A broadcast value goes once to each worker, to machines that share nothing with this one, however it is given."""
    shared = parmap.broadcast(Counted(tmp_path))
    lose_file_of(shared)
    f = parallel(lambda given, x: given.value.name(x), backend=cluster.name)
    expected = [f"{tmp_path.name} {x}" for x in range(60)]
    if way == "captured":
        assert parallel(lambda x: shared.value.name(x), backend=cluster.name).map(range(60)) == expected
    elif way == "submit":
        futures = [f.submit(shared, x) for x in range(60)]
        assert [future.result(60) for future in futures] == expected
    else:
        assert list(getattr(f, way)([shared] * 60, range(60))) == expected
    unpacked = (tmp_path / "unpacked").read_text().split()

    assert len(unpacked) == len(set(unpacked))
    assert len((tmp_path / "packed").read_text()) <= 2


def test_broadcast_in_an_initializer(cluster: Any):
    """A broadcast value, or what each worker makes once, may be used by an initializer, or be among its arguments."""
    captured, given = parmap.broadcast("captured "), parmap.broadcast("given ")
    lose_file_of(captured)
    lose_file_of(given)
    each = parmap.per_worker(lambda: ["made"])

    def begin(also: Any) -> None:
        os.environ["BEGUN"] = captured.value + also.value + each().pop()

    f = parallel(lambda _: (os.environ["BEGUN"], each()), backend=cluster.name, initializer=begin, initargs=(given,))

    assert f.map([0]) == [("captured given made", [])]


def test_broadcast_that_comes_back(cluster: Any):
    """A task that returns a broadcast value returns the program's object."""
    shared = parmap.broadcast([1])
    lose_file_of(shared)

    assert parallel(lambda x: x, backend=cluster.name).submit(shared).result(60) is shared


def test_tokens_as_arguments(cluster: Any):
    """What each worker makes once can be asked for by a token that is given to a task; its factory goes there once."""
    start = [5]
    token = parmap.per_worker(lambda: list(start))
    f = parallel(lambda same, x: (same()[0] + x, same), backend=cluster.name)

    assert f.starmap([(token, x) for x in range(20)]) == [(5 + x, token) for x in range(20)]
    assert f.submit(token, 1).result(60) == (6, token)


def test_arrays(cluster: Any):
    """Large arrays go there and come back; whoever has one may write to it, and nobody else sees that."""
    np = pytest.importorskip("numpy")

    def count_up(array: Any) -> Any:
        array += 1
        return array[:10], array, bytes(array)

    given = [np.full(200_000, number, dtype=float) for number in range(6)]
    f = parallel(count_up, backend=cluster.name)
    submitted = f.submit(given[0])
    for number, (part, array, content) in enumerate([*f.map(given), submitted.result(60)]):
        before = bytes(array)
        np.multiply(array, 2, out=array)
        assert (array == 2 * (number % 6 + 1)).all()
        assert (part == number % 6 + 1).all()
        assert content == before
    assert [array[0] for array in given] == list(range(6))


def test_captured_arrays(cluster: Any, monkeypatch: pytest.MonkeyPatch):
    """A large capture is sent once, until it changes."""
    np = pytest.importorskip("numpy")
    parmap.shutdown()
    table = np.arange(200_000.0)
    f = parallel(lambda place: (float(table[place]), table.flags.writeable), backend=cluster.name)
    parallel(lambda x: x, backend=cluster.name).map([1])
    sizes = puts_of(f, monkeypatch)

    assert f.map(range(100)) == [(float(place), True) for place in range(100)]
    table[0] = 5
    assert f.map([0]) == [(5.0, True)]
    assert sizes == [table.nbytes] * 2
    parmap.shutdown()


def test_functions_that_come_while_others_go(cluster: Any):
    """A worker that is told to drop a function while it fetches another one goes on."""
    if cluster.name != "dask":
        pytest.skip("whoever fetches something is not who is told")
    parmap.shutdown()
    cluster.client.run(drop_while_fetching)
    for number in range(2):
        content = bytearray(100_000 + number)
        f = parallel(lambda x: x + len(content), backend="dask")  # noqa: B023 - it is called at once
        assert f.map(range(3)) == [100_000 + number + x for x in range(3)]


def test_call_after_a_shutdown(cluster: Any):
    """A call after a shutdown that came while workers were starting gets workers of its own; the cluster is left open."""
    f = parallel(lambda x: -x, backend=cluster.name)
    for _ in range(3):
        assert f.map(range(100)) == [-x for x in range(100)]
        parmap.shutdown()
    if cluster.name == "ray":
        assert importlib.import_module("ray").is_initialized()


def test_large_initial_arguments(cluster: Any):
    """Workers are initialized with what is large, too."""
    content = bytearray(100_000)

    def begin(given: bytearray) -> None:
        os.environ["LENGTH"] = str(len(given))

    f = parallel(lambda _: os.environ["LENGTH"], backend=cluster.name, initializer=begin, initargs=(content,))
    assert f.map([1]) == ["100000"]


def rest(x: int) -> int:
    """One takes longer than others."""
    time.sleep(0.3 if x == 11 else 0.02)
    return x


def test_report(cluster: Any):
    """Reports tell how many tasks ran there, for how long, and which took longest."""
    f = parallel(rest, backend=cluster.name)
    with parmap.report() as report:
        f.map(range(40))
        f.submit(1).result(60)
    known = known_to(report).functions["rest"]

    assert known.sums["items"] == sum(known.spread.values()) == 41
    assert known.sums["running"] >= 1e9
    assert known.slowest[0][1:3] == (11, 1)
    assert known.sums["nbytes"] > 0 < known.sums["result_nbytes"]


@slow
def test_seed(cluster: Any):
    """Random numbers are those that the processes of this machine would draw."""
    import random

    def draw(_: int) -> float:
        return random.random()

    at_home = parallel(draw, workers=2, seed=5).map(range(20))
    parmap.shutdown()

    assert parallel(draw, backend=cluster.name, seed=5).map(range(20)) == at_home


def test_env_and_initializer(cluster: Any):
    """Workers get the environment that was asked for, and are initialized."""
    start = "a value"

    def begin(text: str) -> None:
        os.environ["BEGUN"] = text + start

    f = parallel(
        lambda _: (os.environ["BEGUN"], os.environ["ADDED"]),
        backend=cluster.name,
        env={"ADDED": "more"},
        initializer=begin,
        initargs=("with ",),
    )

    assert set(f.map(range(20))) == {("with a value", "more")}


def test_initializer_that_fails(cluster: Any):
    """Its error is that of the call."""

    def begin() -> None:
        raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        parallel(abs, backend=cluster.name, initializer=begin).map([1])


def test_output(cluster: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    """What tasks print and log comes out here, before their results."""

    def speak(x: int) -> int:
        print("says", x)
        logging.getLogger("far").warning("logs %d", x)
        return x

    assert parallel(speak, backend=cluster.name).map([1, 2]) == [1, 2]
    assert sorted(capsys.readouterr().out.splitlines()) == ["says 1", "says 2"]
    assert sorted(record.getMessage() for record in caplog.records if record.name == "far") == ["logs 1", "logs 2"]


def test_output_of_what_is_stopped(cluster: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """What a task has printed comes out, also if it is cancelled; and that of others beside it, before their results."""
    go = tmp_path / "go"

    def speak(x: int) -> None:
        print("says", x)
        (tmp_path / str(x)).touch()
        while x in {0, 2} or not go.exists():
            time.sleep(0.01)

    f = parallel(speak, backend=cluster.name)
    futures = [f.submit(x) for x in range(4)]
    wait_until(lambda: all((tmp_path / str(x)).exists() for x in range(4)))
    assert all(future.cancel() for future in futures[::2])
    go.touch()
    for future in futures[1::2]:
        future.result(60)
    seen = capsys.readouterr().out
    assert "says 1\n" in seen
    assert "says 3\n" in seen

    def has_come() -> bool:
        nonlocal seen
        f.map(range(10, 22))  # with which comes what was heard too late
        seen += capsys.readouterr().out
        return "says 0\n" in seen and "says 2\n" in seen

    wait_until(has_come)


def test_calls_leave_nothing_with_dask(cluster: Any):
    """Dask forgets no span, and its workers count for each anew: many calls are one."""
    if cluster.name != "dask":
        pytest.skip("Ray has none")

    def spans() -> int:
        return cluster.client.run_on_scheduler(
            lambda dask_scheduler: len(getattr(dask_scheduler.extensions.get("spans"), "spans", ()))
        )

    f = parallel(abs, backend="dask")
    f.map([-1])
    before = spans()
    for _ in range(10):
        assert f.map([-1]) == [1]

    assert spans() == before


def test_ctrl_c_in_a_destructor(cluster: Any, monkeypatch: pytest.MonkeyPatch):
    """The main thread is left no future of Dask's to let go of, while garbage is collected: Ctrl-C would be lost there."""
    if cluster.name != "dask":
        pytest.skip("Ray's are written in C")
    from distributed import Future

    found: list[threading.Thread] = []
    end = Future.release
    monkeypatch.setattr(
        Future, "release", lambda future: (future._cleared or found.append(threading.current_thread()), end(future))
    )
    f = parallel(time.sleep, backend="dask")
    gc.disable()
    future = f.submit(100)
    wait_until(lambda: future.running())
    future.cancel()
    with pytest.raises(TypeError):
        f.map([100, "no number"])
    f.map([0])
    gc.enable()
    gc.collect()

    assert found
    assert threading.main_thread() not in found


def test_ray_in_a_task(cluster: Any):
    """A task that uses Ray finds the cluster that it runs on, whichever was started last on its machine."""
    if cluster.name != "ray":
        pytest.skip("Dask starts none")

    assert parallel(os.getenv, backend="ray").submit("RAY_ADDRESS").result(60) == cluster.address


def test_actors_have_few_threads(cluster: Any):
    """Each of a node's many workers is an actor: a hundred threads for each would be more than many containers allow."""
    if cluster.name != "ray":
        pytest.skip("there are no actors")

    def threads() -> int:
        here = psutil.Process()
        return max(each.num_threads() for each in here.parents() if "Actor" in " ".join(each.cmdline()))

    assert parallel(threads, backend="ray").submit().result(60) < 60


@slow
def test_worker_that_ray_ends_for_want_of_memory(cluster: Any, monkeypatch: pytest.MonkeyPatch):
    """Ray has an error of its own for that; the item fails alone, and whoever comes next gets other workers."""
    if cluster.name != "ray":
        pytest.skip("Dask does not look at the processes of tasks")
    from ray.exceptions import OutOfMemoryError, RayActorError

    def ran(self: Any, task: Any, future: Any) -> None:
        is_dead = isinstance(future.exception(), RayActorError)
        told = SimpleNamespace(exception=lambda: OutOfMemoryError("it was killed"))
        original(self, task, told if is_dead else future)

    def eat(x: int) -> int:
        if x == 7:
            next(each for each in psutil.Process().parents() if "Actor" in " ".join(each.cmdline())).kill()
            time.sleep(60)
        return -x

    original = Actors._ran
    monkeypatch.setattr(Actors, "_ran", ran)
    f = parallel(eat, backend="ray")
    results = f.map(range(40), chunksize=5, return_exceptions=True)

    assert [x for x, result in enumerate(results) if result != -x] == [7]
    assert "it was killed" in str(results[7])
    assert f.options(workers=1).map(range(3)) == [0, -1, -2]


class Brought(Future[Any]):
    """An answer as Ray's client has it: told in the thread that brings all of them."""

    def __init__(self, thread: ThreadPoolExecutor, result: Any) -> None:
        super().__init__()
        self.bring = lambda: thread.submit(self.set_result, result)

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        super().add_done_callback(fn)
        self.bring()


def test_ray_client():
    """Ray's client calls back in the thread that its other calls wait for: nothing is asked of it there."""
    thread, names, heard = ThreadPoolExecutor(1, "brings"), [], queue.SimpleQueue[Any]()

    def method(result: Any) -> Any:
        def ask(*_: Any) -> Any:
            names.append(threading.current_thread().name)
            return SimpleNamespace(future=lambda: Brought(thread, result))

        return SimpleNamespace(remote=ask)

    worker = type("Worker", (), {"__module__": "ray.util.client.runtime_context", "worker_id": b"w"})()

    class Called:
        """An actor of Ray's, as far as it is needed."""

        facts, run = method((sys.version_info[:2], [])), method("ran")

    actor = Called()
    ray: Any = SimpleNamespace(
        is_initialized=lambda: True,
        get_runtime_context=lambda: SimpleNamespace(worker=worker),
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 1}}],
        remote=lambda **_: lambda _: SimpleNamespace(remote=lambda: actor),
    )
    order: Any = None
    actors = Actors(ray, session_of(ray), {"CPU": 1.0})
    for number in range(3):
        actors.give(Task("pool", number, order, lambda *told: heard.put(told)))

    assert [heard.get(timeout=60) for _ in range(3)] == [(number, "ran") for number in range(3)]
    assert len(names) == 4
    assert not any("brings" in name for name in names)


def test_items_of_a_module_of_the_program(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tasks find modules where the program does; what runs them over there need not have the classes of the items."""
    (tmp_path / "spots.py").write_text("import dataclasses\n@dataclasses.dataclass\nclass Spot:\n    x: int\n")
    monkeypatch.syspath_prepend(tmp_path)
    spots = importlib.import_module("spots")
    f = parallel(lambda spot: spot.x, backend=cluster.name)

    for _ in range(3):
        assert f.map([spots.Spot(x) for x in range(40)]) == list(range(40))
    del sys.modules["spots"]


def test_inside_a_task(cluster: Any):
    """A task of the cluster's own may call in parallel, also where all places are taken by such tasks."""
    if cluster.name == "dask":
        futures = cluster.client.map(tasks.sums, ["dask"] * 6, range(6), pure=False)
        found = cluster.client.gather(futures)
    else:
        import ray

        task = ray.remote(tasks.sums)
        found = ray.get([task.remote("ray", number) for number in range(4)], timeout=100)

    assert found == [list(range(1, number + 1)) for number in range(len(found))]


def test_modules_are_shipped(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module that workers lack is sent to them; without that, the error says so."""
    name = f"shipped_to_{cluster.name}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(f"from {name}.inner import double\n")
    (folder / "inner.py").write_text("def double(x):\n    return 2 * x\n")
    with monkeypatch.context() as patched:
        patched.syspath_prepend(str(tmp_path))
        double = importlib.import_module(name).double
    folder.rename(tmp_path / "elsewhere")  # workers are on this machine
    with pytest.raises(ModuleNotFoundError, match=name) as caught:
        parallel(double, backend=cluster.name).map([1])
    assert "ship" in "".join(caught.value.__notes__)

    (tmp_path / "elsewhere").rename(folder)
    backend = {"dask": parmap.backends.Dask, "ray": parmap.backends.Ray}[cluster.name](ship=[name])
    f = parallel(double, backend=backend)
    with monkeypatch.context() as patched:
        patched.syspath_prepend(str(tmp_path))
        zipped = f.submit(1)
        assert zipped.result(60) == 2


def test_workers_that_lack_something(cluster: Any, monkeypatch: pytest.MonkeyPatch):
    """What workers lack is told in one sentence, before anything is run; they can be used once it is there."""
    parmap.shutdown()
    f = parallel(abs, backend=cluster.name)
    room = {"dask": "_dask", "ray": "_clusters.actors"}[cluster.name]
    with monkeypatch.context() as patched:
        patched.setattr(f"parmap.backends.{room}.NEEDED", ("parmap", "what_is_not_there"))
        with pytest.raises(parmap.BackendUnavailableError, match=r"(worker at|node of).* lacks what_is_not_there$"):
            f.map([-1])
    assert f.map([-1]) == [1]

    with pytest.raises(parmap.BackendUnavailableError, match=r"^it runs Python 3\.8, this program 3"):
        site.check("it", ((3, 8), []))


def test_workers_of_one_process(cluster: Any):
    """Dask's workers may be threads of one process: all of them are used."""
    if cluster.name != "dask":
        pytest.skip("Ray's are processes")
    from distributed import Client, LocalCluster

    here = LocalCluster(n_workers=3, threads_per_worker=1, processes=False, dashboard_address=None)
    with here, Client(here, set_as_default=False) as client:
        f = parallel(lambda _: time.sleep(0.05) or os.getpid(), backend=client)
        wait_until(lambda: len(set(f.map(range(12)))) == 3)
        parmap.shutdown()


def test_what_is_no_client(cluster: Any):
    """An address, or a cluster, is told how it becomes a client."""
    if cluster.name != "dask":
        pytest.skip("Ray has no clients")
    with pytest.raises(TypeError, match=r"not 'tcp://.*': try Dask\(distributed\.Client\("):
        parmap.backends.Dask(cluster.address)


def test_client_as_backend(cluster: Any):
    """A client of Dask's can be given itself, or as the current one of this context."""
    if cluster.name != "dask":
        pytest.skip("Ray has no clients")
    from distributed import Client

    assert parallel(abs, backend=cluster.client).map([-1]) == [1]
    with Client(cluster.address, set_as_default=False) as other, other.as_current():
        assert parallel(abs, backend="dask").map([-2]) == [2]
        parmap.shutdown()


@slow
def test_program_that_is_gone(cluster: Any):
    """What a program that has ended without a word has left in the workers ends after a while."""
    if cluster.name != "dask":
        pytest.skip("Ray ends the actors of a program that is gone")
    from distributed import Client

    def found(rest: float) -> set[str]:
        return set().union(*cluster.client.run(pilots, rest).values())

    before = found(0.5)
    with Client(cluster.address, set_as_default=False) as other:
        assert parallel(abs, backend=other, idle_timeout=None).map([-1]) == [1]
    wait_until(lambda: found(600.0) <= before)


def test_resources_that_are_none(cluster: Any):
    """A need of nothing is one that each worker meets; what is no amount is refused at once."""
    kind = {"dask": parmap.backends.Dask, "ray": parmap.backends.Ray}[cluster.name]
    needs = {"dask": {"special": 0}, "ray": {"num_cpus": 0}}[cluster.name]

    def meet(_: int) -> int:
        time.sleep(0.05)
        return os.getpid()

    assert parallel(meet, backend=kind(resources=needs)).map([1])
    f = parallel(meet, backend=kind(resources=needs), workers=5)
    wait_until(lambda: len(set(f.map(range(20)))) == 5)  # of Ray's there are four CPUs
    for amount in (-1, float("nan"), float("inf"), "2", None):
        with pytest.raises(ValueError, match=f"'special' must be a number, 0 or more; got {amount!r}"):
            kind(resources={"special": amount})
    for name in ("", 3):
        with pytest.raises(ValueError, match=f"{name!r} is no name"):
            kind(resources={name: 1})


def test_resources_that_ray_refuses(cluster: Any):
    """They are told with what Ray says of them, and are no loss of the cluster."""
    if cluster.name != "ray":
        pytest.skip("Dask takes any")
    for amount, why in ((1.5, "whole numbers"), (0.00001, "precision")):
        f = parallel(abs, backend=parmap.backends.Ray(resources={"num_gpus": amount}))
        with pytest.raises(parmap.BackendUnavailableError, match=rf"'GPU': {amount}.*: .*{why}"):
            f.map([1])


@slow
def test_resources(cluster: Any):
    """What tasks need is found, when there comes a worker that has it."""
    backend = {"dask": parmap.backends.Dask, "ray": parmap.backends.Ray}[cluster.name](resources={"special": 1})
    future = parallel(abs, backend=backend).map_async([-1, -2])
    assert not future.done()
    cluster.add(special=1)

    assert future.result(100) == [1, 2]
    cluster.kill()


@slow
def test_workers_come(cluster: Any):
    """A worker that joins in the middle of a batch gets its share."""

    def where(x: int) -> int:
        time.sleep(0.1)
        return os.getppid() and int(open(f"/proc/{os.getppid()}/stat").read().split()[3])

    f = parallel(where, backend=cluster.name)
    before = set(f.map(range(60)))
    with f.imap(itertools.count()) as stream:
        cluster.add()

        assert next(found for found in stream if found not in before)


@slow
def test_workers_go(cluster: Any, tmp_path: Path):
    """A worker, or a node, that is killed in the middle of a batch costs nothing."""
    started = tmp_path / "started"

    def slowly(x: int) -> int:
        started.touch()
        time.sleep(0.02)
        return x

    f = parallel(slowly, backend=cluster.name)
    f.map(range(20))
    started.unlink()
    future = f.map_async(range(1500))
    wait_until(started.exists)
    cluster.kill()

    assert future.result(110) == list(range(1500))
    cluster.add()
