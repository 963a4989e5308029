"""Pools are shared: by threads, callbacks, tasks, forks, and functions with the same options."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import tasks
from tasks_in_turn import factorial, map_inside, pids_inside, plain_recursion

import parmap
from conftest import children, wait_until
from parmap import parallel

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Script


def pids(function: Any, count: int = 40) -> set[int]:
    """The workers of a function of `tasks.pid`."""
    return set(function.map(range(count)))


# --- threads, callbacks, tasks --------------------------------------------------------------------


def test_eight_threads_at_once(backend: dict[str, Any]) -> None:
    """Eight threads that map, stream and submit at the same time each get their own results."""
    f = parallel(tasks.square, **backend)
    expected = [x * x for x in range(200)]
    found: list[Any] = []

    def work(number: int) -> None:
        for _ in range(5):
            found.append(f.map(range(200)) == expected)
            found.append(list(f.imap(range(200))) == expected)
            found.append([future.result() for future in [f.submit(x) for x in range(50)]] == expected[:50])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [True] * 120


def test_callback_submits_and_waits(backend: dict[str, Any]) -> None:
    """A done-callback may submit, and wait for what it has submitted."""
    f = parallel(tasks.square, **backend)
    results: list[int] = []
    done = threading.Event()

    def callback(future: Any) -> None:
        results.append(f.submit(future.result()).result(timeout=30))
        results.extend(f.map([1, 2]))
        done.set()

    f.submit(3).add_done_callback(callback)

    assert done.wait(30)
    assert results == [81, 1, 4]


def test_task_that_maps(processes: dict[str, Any]) -> None:
    """A task may map: no deadlock, right results."""
    assert parallel(map_inside, **processes).map([3, 2, 1]) == [[0, 1, 4], [0, 1], [0]]


def test_nested_calls_stay_in_their_worker(processes: dict[str, Any]) -> None:
    """What a task maps runs in the worker of that task: no processes of processes."""
    for worker, *inner in parallel(pids_inside, **processes).map(range(4)):
        assert set(inner) == {worker}


WAYS_TO_CALL: dict[str, Callable[[Any, int], Any]] = {
    "map": lambda f, x: f.map([x])[0],
    "imap": lambda f, x: next(f.imap([x])),
    "submit": lambda f, x: f.submit(x).result(),
    "map_async": lambda f, x: f.map_async([x]).result()[0],
}


@pytest.mark.parametrize("way", WAYS_TO_CALL)
@pytest.mark.parametrize("on", ["threads", "an executor"])
def test_calls_within_tasks_on_threads(way: str, on: str) -> None:
    """A task on a thread that calls for the same threads gets its results, though all of them may wait like it."""
    with ThreadPoolExecutor(2) as executor:
        decorated = parallel(workers=2, backend="threads" if on == "threads" else executor)

        @decorated
        def depth(n: int) -> int:
            return 0 if n == 0 else 1 + WAYS_TO_CALL[way](depth, n - 1)

        assert [future.result(30) for future in [depth.submit(n) for n in (5, 4, 3, 2)]] == [5, 4, 3, 2]
        depth.shutdown()


def test_a_pool_of_threads_within_itself() -> None:
    """A task on the threads of a pool, or of an executor, may use it."""
    with parmap.Pool(1, backend="threads") as pool:
        assert pool.map_async(lambda x: pool.map(abs, [-x]), [1, 2]).get(30) == [[1], [2]]
        assert pool.map_async(lambda x: list(pool.imap(abs, [-x])), [1, 2]).get(30) == [[1], [2]]
        assert pool.apply_async(lambda: pool.apply(abs, (-1,))).get(30) == 1
    with parmap.Executor(1, backend="threads") as executor:
        assert executor.submit(lambda: list(executor.map(abs, [-1]))).result(30) == [1]
        assert executor.submit(lambda: executor.submit(abs, -1).result()).result(30) == 1


def test_pools_of_threads_that_wait_for_each_other() -> None:
    """Tasks of two pools of threads may call each other; one pool within another keeps its threads."""
    together = threading.Barrier(2)
    inner = parallel(lambda _: together.wait(30), workers=2, backend="threads", idle_timeout=50)
    outer = parallel(lambda x: sorted(inner.map([x, x])), workers=1, backend="threads")
    one = parallel(lambda n: n and other.map([n - 1])[0], workers=1, backend="threads", idle_timeout=51)
    other = parallel(lambda n: n and one.map([n - 1])[0], workers=1, backend="threads", idle_timeout=52)

    inner.map([1, 2])
    assert outer.submit(1).result(30) == [0, 1]
    assert [future.result(30) for future in (one.submit(5), other.submit(5), one.submit(4))] == [0, 0, 0]


def test_a_shutdown_in_a_task_on_a_thread() -> None:
    """A task may stop the pool that it runs on: it does not wait for its own end."""
    f = parallel(lambda stop: stop(), workers=1, backend="threads")
    pool = parmap.Pool(1, backend="threads")
    executor = parmap.Executor(1, backend="threads")

    assert f.submit(lambda: f.shutdown() or 1).result(30) == 1
    assert pool.apply_async(lambda: pool.close() or pool.join() or 3).get(30) == 3
    assert executor.submit(lambda: executor.shutdown() or 4).result(30) == 4
    assert f.submit(lambda: parmap.shutdown() or 2).result(30) == 2
    assert f.map([int]) == [0]


def test_recursion_through_the_pool() -> None:
    """A decorated function may map itself."""
    assert factorial.map([1, 5, 10]) == [1, 120, 3628800]
    factorial.shutdown()


def test_plain_recursion() -> None:
    """A decorated function may call itself, in a worker as here."""
    assert plain_recursion.map([0, 3, 50]) == [0, 3, 50]
    assert plain_recursion(4) == 4


def test_decorated_function_called_in_a_task(script: Script) -> None:
    """In a script, a task may call and submit another decorated function."""
    done = script.run("""
        from parmap import parallel

        @parallel(workers=2)
        def inner(x):
            return x + 1

        @parallel(workers=2)
        def outer(x):
            return inner(x), inner.submit(x).result(), list(inner.imap([x]))

        print(outer.map([1, 2]))
    """)

    assert (done.returncode, done.stdout, done.stderr) == (0, "[(2, 2, [2]), (3, 3, [3])]\n", "")


# --- fork -----------------------------------------------------------------------------------------

FORK = """
import os, sys, time
from parmap import parallel

f = parallel(lambda x: x * 2, workers=2, start_method={method!r})
print(f.map([1, 2]), flush=True)
stream = f.imap(range(50))
next(stream)
{before}
pid = os.fork()
if pid == 0:
    {child}
_, status = os.waitpid(pid, 0)
print("child", os.waitstatus_to_exitcode(status), f.map([3]), f.submit(4).result(), list(stream)[-1], flush=True)
"""

CHILDREN = {
    "uses the pool": ("print(f.map([5]), f.submit(6).result(), flush=True); sys.exit(0)", "[10] 12\n"),
    "just exits": ("sys.exit(0)", ""),
    "leaves at once": ("os._exit(0)", ""),
    "shuts down": ("f.shutdown(); sys.exit(0)", ""),
    "drops the stream": ("del stream; sys.exit(0)", ""),
}


@pytest.mark.parametrize(("child", "output"), CHILDREN.values(), ids=CHILDREN)
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_forked_child(script: Script, method: str, child: str, output: str) -> None:
    """A child made by os.fork() may use parmap or just end; its parent's pool goes on."""
    done = script.run(FORK.format(method=method, before="", child=child), args=("-W", "ignore::DeprecationWarning"))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"[2, 4]\n{output}child 0 [6] 8 98\n"


def test_fork_with_work_pending(script: Script) -> None:
    """A child forked in the middle of work does not wait for the work of its parent when it ends."""
    done = script.run(
        FORK.format(method="forkserver", before="pending = [f.submit(x) for x in range(20)]", child="sys.exit(0)"),
        args=("-W", "ignore::DeprecationWarning"),
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("child 0 [6] 8 98\n")


def test_fork_while_another_thread_makes_the_first_call(script: Script) -> None:
    """It waits until that has imported what it needs, logging first: the child would wait for that thread's import."""
    done = script.run(
        """
        import os, signal, sys, threading
        from parmap import parallel

        class Slow:
            def find_spec(self, name, path=None, target=None):
                if name == "logging":
                    reached.set()
                    threading.Event().wait(0.5)  # a fork that waits does so in here

        reached = threading.Event()
        assert "logging" not in sys.modules
        sys.meta_path.insert(0, Slow())
        f = parallel(abs, workers=1)
        other = threading.Thread(target=f.map, args=([-1],))
        other.start()
        reached.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(f.map([-7])[0])
        other.join()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
        args=("-W", "ignore::DeprecationWarning"),
    )

    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr  # where logging may say that it missed the fork


def test_future_of_the_parent_in_the_child(script: Script) -> None:
    """Waiting in a forked child for a task of the parent is an error, never a hang."""
    done = script.run(
        """
        import os, sys, time
        import parmap

        future = parmap.parallel(time.sleep, workers=1).submit(1)
        if os.fork() == 0:
            try:
                future.result()
            except parmap.PoolClosedError:
                print("refused", flush=True)
            os._exit(0)
        os.wait()
        print(future.result())
        """,
        args=("-W", "ignore::DeprecationWarning"),
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "refused\nNone\n", "")


def test_inside_a_multiprocessing_process(script: Script) -> None:
    """A daemonic process of multiprocessing may use parmap."""
    done = script.run("""
        import multiprocessing
        import parmap

        def work():
            print(parmap.parallel(abs, workers=2).map([-1, -2]), flush=True)

        if __name__ == "__main__":
            process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
            process.start()
            process.join()
            print(process.exitcode)
    """)

    assert (done.returncode, done.stdout, done.stderr) == (0, "[1, 2]\n0\n", "")


# --- pools ----------------------------------------------------------------------------------------


def test_same_options_share_a_pool(processes: dict[str, Any]) -> None:
    """Two functions with the same options run on the same workers."""
    one = pids(parallel(tasks.pid, **processes))
    other = pids(parallel(lambda x: tasks.pid(x), **processes))

    assert len(one | other) <= 2


def test_options_of_a_call_do_not_split_pools() -> None:
    """Options that are not about workers leave the pool shared."""
    f = parallel(tasks.pid, workers=1)

    assert pids(f) == pids(f.options(retries=2)) == pids(f.options(timeout=50)) == pids(f.options(chunksize=3))


@pytest.mark.parametrize("other", [{"env": {"A": "1"}}, {"max_tasks_per_child": 1000}, {"idle_timeout": 7}], ids=str)
def test_different_options_do_not_share(other: dict[str, Any]) -> None:
    """Options that are about workers make a pool of their own."""
    f = parallel(tasks.pid, workers=1)

    assert pids(f).isdisjoint(pids(f.options(**other)))


def test_idle_workers_stop_and_come_back(processes: dict[str, Any]) -> None:
    """After `idle_timeout` no process is left, and the next call starts them again."""
    f = parallel(tasks.pid, **processes, idle_timeout=0.1)
    before = pids(f)
    wait_until(lambda: not children())
    after = pids(f)

    assert before.isdisjoint(after)


def test_many_idle_cycles_leave_nothing() -> None:
    """Falling asleep and waking up again and again does not pile up descriptors."""
    f = parallel(tasks.square, workers=1, idle_timeout=0.02)
    f.map([1])
    wait_until(lambda: not children())
    before = psutil.Process().num_fds()
    for _ in range(10):
        f.map([1])
        wait_until(lambda: not children())

    wait_until(lambda: psutil.Process().num_fds() <= before)


def test_shutdown_then_use_again(backend: dict[str, Any]) -> None:
    """After a shutdown the next call makes a new pool."""
    f = parallel(tasks.square, **backend)
    for shut in (f.shutdown, parmap.shutdown, lambda: f.shutdown(wait=False)):
        assert f.map([1, 2]) == [1, 4]
        shut()

    assert f.submit(3).result() == 9


def test_shutdown_finishes_what_was_submitted(backend: dict[str, Any]) -> None:
    """A shutdown that waits returns when all tasks are done."""
    f = parallel(tasks.nap, **backend)
    futures = [f.submit(0.02) for _ in range(10)]

    f.shutdown()

    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [0.02] * 10


def test_shutdown_without_waiting(backend: dict[str, Any]) -> None:
    """A shutdown that does not wait leaves the tasks to end in their own time."""
    f = parallel(tasks.nap, **backend)
    futures = [f.submit(0.02) for _ in range(10)]

    f.shutdown(wait=False)

    assert [future.result(timeout=30) for future in futures] == [0.02] * 10


def test_twenty_pools(script: Script) -> None:
    """Twenty pools, made and closed, leave no descriptor, thread or process."""
    done = script.run(
        """
        import os, threading
        import parmap

        def count():
            return len(os.listdir("/proc/self/fd")), threading.active_count()

        def use(number):
            f = parmap.parallel(abs, workers=1, env={"NUMBER": str(number)})
            assert f.map([-1]) == [1]
            f.shutdown()

        use(-1)
        before = count()
        for number in range(20):
            use(number)
        # The first one's thread may have been on its way out still when it was counted.
        print(all(now <= then for now, then in zip(count(), before)), before, count())
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("no child")
        """,
        timeout=120,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("True")
    assert done.stdout.endswith("no child\n")


# --- from outside ---------------------------------------------------------------------------------


def test_override_is_serial_here() -> None:
    """Under `override(backend="serial")` tasks run in this process, and outside it in workers again."""
    f = parallel(tasks.pid, workers=2)

    with parmap.override(backend="serial"):
        assert pids(f) == {os.getpid()}
        assert f.submit().result() == os.getpid()
    assert os.getpid() not in pids(f)


def test_environment_chooses_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """`PARMAP_BACKEND` wins over the decorator, and is read at each call."""
    f = parallel(tasks.pid, workers=2, backend="processes")

    monkeypatch.setenv("PARMAP_BACKEND", "serial")
    here = pids(f)
    monkeypatch.delenv("PARMAP_BACKEND")

    assert here == {os.getpid()}
    assert os.getpid() not in pids(f)


def test_environment_chooses_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """`PARMAP_WORKERS` sets how many workers there are."""
    monkeypatch.setenv("PARMAP_WORKERS", "1")

    assert len(pids(parallel(tasks.pid, workers=2))) == 1


def test_bad_value_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad `PARMAP_*` value is refused by name when a function is called."""
    monkeypatch.setenv("PARMAP_WORKERS", "many")

    with pytest.raises(ValueError, match="PARMAP_WORKERS"):
        parallel(tasks.square).map([1])
