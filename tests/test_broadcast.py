"""Values that don't change by promise are sent once to each worker."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
from tasks_that_share import Counted, first, shorten_broadcasts_of

import parmap
from conftest import Script
from parmap import parallel

pytestmark = pytest.mark.usefixtures("pools_stay")


def test_captured_value_is_the_same_in_tasks(backend: dict[str, Any]) -> None:
    """A broadcast value that a function captures is there in each task, on every backend."""
    shared = parmap.broadcast({"a": [1, 2], "b": (3,)})
    function = parallel(lambda key: shared.value[key], **backend)

    assert function.map(["a", "b"]) == [[1, 2], (3,)]
    assert function.submit("a").result() == [1, 2]


def test_value_as_an_argument(processes: dict[str, Any]) -> None:
    """A broadcast value can be an argument, even if nobody else holds it by the time it is read."""
    function = parallel(first, **processes)

    assert [function.submit(parmap.broadcast([n, 2 * n]), 1).result() for n in range(4)] == [0, 2, 4, 6]
    assert function.starmap([(parmap.broadcast([n]), 0) for n in range(4)]) == [0, 1, 2, 3]


def test_beside_and_around_what_each_worker_makes(processes: dict[str, Any]) -> None:
    """What `per_worker` returned travels beside a broadcast value, and within one."""
    made = parmap.per_worker(lambda: 40)
    function = parallel(lambda one, other: one() + other.value["made"](), **processes)

    assert function.submit(made, parmap.broadcast({"made": made})).result() == 80
    assert function.map([made], [parmap.broadcast({"made": made})]) == [80]


def test_each_worker_unpickles_it_once(processes: dict[str, Any], tmp_path: Any) -> None:
    """However many calls and tasks use a broadcast value, each worker unpickles it once."""
    log = str(tmp_path / "log")
    shared = parmap.broadcast(Counted(log))
    function = parallel(lambda _: type(shared.value).__name__, **processes)

    assert set(function.map(range(50), chunksize=5)) == {"Counted"}
    for _ in range(10):
        assert function.submit(0).result() == "Counted"
    with open(log) as lines:
        pids = lines.read().split()

    assert len(pids) == len(set(pids)) <= 2


def test_value_that_comes_back_is_the_program_s_own(processes: dict[str, Any]) -> None:
    """A task that returns a broadcast value returns the program's object."""
    shared = parmap.broadcast([1])

    (back,) = parallel(lambda _: shared, **processes).map([0])

    assert back is shared


def test_value_that_a_task_makes(processes: dict[str, Any]) -> None:
    """A task may return a broadcast value of its own, which the program may send on."""
    made = parallel(lambda n: parmap.broadcast([n]), **processes).map(range(3))

    assert [each.value for each in made] == [[0], [1], [2]]
    assert parallel(first, **processes).map(made, [0] * 3) == [0, 1, 2]


def test_a_daemon(script: Script) -> None:
    """A program that has put itself in the background, and lost the process that sent a value first, sends it again."""
    done = script.run("""
        import os
        import parmap

        table = parmap.broadcast([5])
        look = parmap.parallel(lambda n: table.value[0] + n, workers=1)
        assert look.map([1]) == [6]
        parent = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == parent:
            pass
        print(look.map([2]))
    """)

    assert done.stdout == "[7]\n", done.stderr


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("lack", ["no /proc", "another user", "no space"])
@pytest.mark.parametrize("kind", ["forkserver", "spawn", "executor"])
def test_where_no_file_can_be_read(lack: str, kind: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where workers can read no file of the program's, the value is sent to them, with all that it needs."""
    stat, make = os.stat, getattr(os, "memfd_create", None)

    def refuse(path: Any, *args: Any, **how: Any) -> Any:
        if path in {"/proc/self/fd", "parmap-broadcast"}:
            raise OSError(lack)
        return stat(path, *args, **how) if lack == "no /proc" else make(path, *args, **how)  # type: ignore[misc]

    if lack == "no /proc":  # as on macOS
        monkeypatch.setattr(os, "stat", refuse)
    elif lack == "another user":  # than it began as: a server that was started as root
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    elif make is not None:
        monkeypatch.setattr(os, "memfd_create", refuse)
    pool = ProcessPoolExecutor(2, mp_context=get_context("fork")) if kind == "executor" else None
    if pool is not None:
        pool.submit(abs, 0).result()  # its processes are forked before there is a value
    where: dict[str, Any] = {"start_method": kind} if pool is None else {"backend": pool}
    log = str(tmp_path / "log")
    made = parmap.per_worker(lambda: 40)
    shared = parmap.broadcast({"made": made, "large": bytes(200_000), "counted": Counted(log)})
    around = parmap.broadcast([shared])

    def use(other: Any) -> tuple[Any, ...]:
        return shared, len(shared.value["large"]), other.value[0].value["made"](), other.value[0] is shared

    use = parallel(use, workers=2, **where)
    try:
        expected = (shared, 200_000, 40, True)
        assert [use.submit(around).result() for _ in range(4)] == [expected] * 4
        assert use.map([around] * 20, chunksize=3) == [expected] * 20
        assert shared._fd == around._fd == -1
        with open(log) as lines:
            pids = lines.read().split()
        assert len(pids) == len(set(pids)) <= 2
    finally:
        if pool is not None:
            parmap.shutdown()
            pool.shutdown()


def test_arrays_are_shared_and_private(processes: dict[str, Any]) -> None:
    """Arrays in it are writable in a worker, which changes its own copy only."""
    np = pytest.importorskip("numpy")
    shared = parmap.broadcast(np.arange(100_000))

    def change(n: int) -> int:
        shared.value[n] += 1
        return int(shared.value[n])

    results = parallel(change, **processes).map([5, 6])

    assert results == [6, 7]
    assert shared.value[5] == 5


def test_dropped_value_gives_its_memory_back(processes: dict[str, Any]) -> None:
    """A broadcast value that nothing holds has no descriptor any more."""
    before = len(os.listdir("/proc/self/fd"))
    for n in range(20):
        shared = parmap.broadcast([n] * 1000)
        assert parallel(first, **processes).submit(shared, 0).result() == n
    del shared
    parmap.shutdown()
    gc.collect()

    assert len(os.listdir("/proc/self/fd")) <= before


def test_in_a_script(script: Script) -> None:
    """A script's global is sent by name: changed in the program, it is what it was when it was first used."""
    done = script.run(
        """
        from parmap import broadcast, parallel

        table = broadcast({n: str(n) for n in range(1000)})

        @parallel(workers=2)
        def look(n):
            return table.value[n]

        print(look.map([1, 2]), look(3))
        table.value[1] = "changed"
        print(look.map([1]), look(1))
        """
    )

    assert done.stdout.split("\n")[:2] == ["['1', '2'] 3", "['1'] changed"], done.stderr


def test_what_can_t_travel_says_so() -> None:
    """A value that can't be pickled is told when it is first used."""
    shared = parmap.broadcast(n for n in range(3))
    with pytest.raises(parmap.SerializationError, match="generator"):
        parallel(lambda _: shared.value, workers=1).map([1])


def test_value_that_holds_itself() -> None:
    """A broadcast value within itself is an error that says so, at once."""
    parts: list[Any] = []
    whole = parmap.broadcast(parts)
    parts.append(whole)

    with pytest.raises(parmap.SerializationError, match="a broadcast value can't hold itself"):
        parallel(first, workers=1).map([whole], [0])


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="nothing seals files")
def test_a_task_can_t_shorten_what_others_read(processes: dict[str, Any]) -> None:
    """A task that cuts a broadcast value off would end all that look at it: the system refuses."""
    shared = parmap.broadcast(bytes(range(256)) * 4096)
    reads = parallel(lambda place: shared.value[place], **processes)

    assert reads.submit(1).result() == 1
    failures = parallel(shorten_broadcasts_of, **processes).submit(os.getpid()).result()
    assert failures
    assert set(failures) == {"PermissionError"}
    assert reads.map([7, 255]) == [7, 255]


def test_repr() -> None:
    """It tells what it holds, not all of it."""
    assert repr(parmap.broadcast(list(range(1000)))) == "<parmap.Broadcast of a list>"
