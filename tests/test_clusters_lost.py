"""The end of a cluster, and what it costs to be moved: each test has a cluster of its own, or looks into one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clusters import is_running

from conftest import wait_until

if TYPE_CHECKING:
    from conftest import Script

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(150)]

slow = pytest.mark.cluster
"""Left to `make test-cluster`."""


@pytest.fixture(autouse=True)
def nothing_is_left() -> None:
    """The scripts have processes of their own."""


HEAD = """
    import os, sys, tempfile, threading, time
    from pathlib import Path
    sys.path.insert(0, TESTS)
    import parmap
    from clusters import CLUSTERS

    def slowly(x):
        time.sleep(0.1)
        return x

    def fails_within(seconds, act, future, *words):
        time.sleep(1)
        begin = time.monotonic()
        act()
        error = future.exception(60)
        took = time.monotonic() - begin
        assert isinstance(error, parmap.PoolClosedError), error
        assert all(word in str(error) for word in words), error
        assert took < seconds, took
        print("told", round(took, 1), error)
"""


def run(script: Script, kind: str, text: str, before: str = "") -> str:
    """Run a script with a cluster of its own to its end; *before*: what is done before there is one."""
    import os
    import textwrap

    pytest.importorskip("distributed" if kind == "dask" else "ray")
    head = textwrap.dedent(HEAD).replace("TESTS", repr(os.path.dirname(__file__)))
    body = f"\n{before}\nwith CLUSTERS[{kind!r}](Path(tempfile.mkdtemp())) as cluster:\n" + textwrap.indent(
        textwrap.dedent(text), "    "
    )
    done = script.run(head + body + '\nprint("came to its end")\n', timeout=140)
    assert ("came to its end" in done.stdout, done.returncode) == (True, 0), done.stdout + done.stderr
    return done.stdout


@slow
def test_scheduler_is_killed(script: Script):
    """Whoever waits is told within seconds what is lost; so is the next call, which starts no other cluster."""
    out = run(
        script,
        "dask",
        """
        f = parmap.parallel(slowly, backend="dask")
        assert f.map(range(10)) == list(range(10))
        future = f.map_async(range(2000))
        fails_within(6, cluster.scheduler.kill, future, "tcp://")
        try:
            f.map([1])
        except parmap.PoolClosedError as error:
            print("again", error)
        """,
    )
    assert "again" in out


@slow
def test_client_is_closed(script: Script):
    """So it is with a client that is closed; a new one serves the next call."""
    out = run(
        script,
        "dask",
        """
        from distributed import Client
        address = cluster.address
        f = parmap.parallel(slowly, backend="dask")
        future = f.map_async(range(2000))
        fails_within(6, cluster.client.close, future, "closed")
        try:
            f.map([1])
        except parmap.PoolClosedError as error:
            print("again", error)
        cluster.client = Client(address)
        assert f.map(range(10)) == list(range(10))
        """,
    )
    assert "again" in out


@slow
def test_ray_is_shut_down(script: Script):
    """So it is with Ray; once it is connected again, calls work."""
    out = run(
        script,
        "ray",
        """
        import ray
        f = parmap.parallel(slowly, backend="ray")
        assert f.map(range(10)) == list(range(10))
        future = f.map_async(range(2000))
        fails_within(6, ray.shutdown, future, "Ray")
        try:
            f.map([1])
        except parmap.PoolClosedError as error:
            print("again", error)
        assert not ray.is_initialized()
        ray.init(address=cluster.address, logging_level="ERROR")
        assert f.map(range(10)) == list(range(10))
        """,
    )
    assert "again" in out


@slow
def test_ray_is_started_again(script: Script):
    """A new cluster is not taken for the one before it, though Ray gives the program the same number there."""
    out = run(
        script,
        "ray",
        """
        import ray
        ray.shutdown()
        f = parmap.parallel(slowly, backend="ray")
        for _ in range(2):
            ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
            assert f.map_async(range(10)).result(60) == list(range(10))
            ray.shutdown()
        print("again")
        """,
    )
    assert "again" in out


@slow
def test_a_ray_that_was_started_for_pools(script: Script):
    """Where the program has none, what a pool has started stays as long as any pool is there, and is started again."""
    pytest.importorskip("ray")
    done = script.run(
        """
        import os, time
        import parmap

        def later(path):
            while not os.path.exists(path):
                time.sleep(0.01)
            return os.environ["NUMBER"]

        pools = [parmap.parallel(later, workers=2, backend="ray", env={"NUMBER": str(n)}) for n in range(10)]
        assert pools[0].map([__file__]) == ["0"]
        last = pools[9].submit("now")
        for number in range(1, 9):  # more than may idle: the first, for which there is a Ray, is stopped
            assert pools[number].map([__file__]) == [str(number)]
        pools[0].shutdown()
        open("now", "w").close()
        assert last.result() == "9"

        parmap.shutdown()
        for _ in range(2):
            assert pools[0].map([__file__]) == ["0"]
        print("came to its end")
        """,
        timeout=100,
    )
    assert done.stdout == "came to its end\n", done.stderr


@slow
@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_fork(script: Script, kind: str):
    """A process that was forked is told that it can't use the connection that it has inherited."""
    out = run(
        script,
        kind,
        f"""
        f = parmap.parallel(slowly, backend={kind!r})
        f.map(range(4))
        child = os.fork()
        if child == 0:
            try:
                f.map(range(4))
            except parmap.PoolClosedError as error:
                os._exit(7 if "parent process" in str(error) else 1)
            os._exit(2)
        end = time.monotonic() + 30
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
            time.sleep(0.05)
        if ended == (0, 0):
            os.kill(child, 9)
        print("child", os.waitstatus_to_exitcode(ended[1]))
        assert f.map(range(4)) == list(range(4))
        """,
    )
    assert "child 7" in out


@slow
def test_no_worker(script: Script):
    """Where a Dask cluster has no worker yet, large functions and items wait for one, and make it start some."""
    out = run(
        script,
        "dask",
        """
        from distributed import Client
        from distributed.deploy.subprocess import SubprocessCluster

        captured = bytes(1 << 21)
        with SubprocessCluster(
            worker_class="distributed.Worker", n_workers=0, threads_per_worker=1, dashboard_address=None
        ) as none, Client(none, set_as_default=False) as client:
            none.adapt(minimum=0, maximum=1, interval="200ms")
            f = parmap.parallel(lambda x: len(captured) + len(x), backend=client)
            assert f.map_async([bytes(1 << 21)] * 5).result(100) == [1 << 22] * 5
            parmap.shutdown()
        print("again")
        """,
    )
    assert "again" in out


@slow
def test_stopped_before_it_has_begun(script: Script):
    """What is on its way to Dask when it is cancelled does not run there, and leaves nothing."""
    out = run(
        script,
        "dask",
        """
        import gc, psutil

        marks = tempfile.mkdtemp()
        f = parmap.parallel(lambda x, _: (Path(marks, str(x)).touch(), time.sleep(60)), backend="dask")

        def is_empty():
            tasks = cluster.client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
            below = [each for pid in cluster.pids() for each in psutil.Process(pid).children(recursive=True)]
            try:
                return not tasks and not any("parmap" in " ".join(each.cmdline()) for each in below)
            except psutil.Error:  # one has just ended
                return False

        gc.disable()  # what is not needed any more goes without it
        for size in 1, 1 << 21, 1:
            futures = [f.submit(x, bytes(size)) for x in range(10)]
            assert all(future.cancel() for future in futures)
            del futures
            parmap.shutdown()
            end = time.monotonic() + 20
            while not is_empty():
                assert time.monotonic() < end
                time.sleep(0.1)
        print("empty")
        """,
    )
    assert "empty" in out


@slow
@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_process_that_is_stuck(script: Script, kind: str):
    """A process of the cluster that answers nobody holds up neither the deadline of a call nor `shutdown`."""
    out = run(
        script,
        kind,
        f"""
        import contextlib, psutil, signal

        f = parmap.parallel(slowly, backend={kind!r})
        f.map(range(8))

        def is_actor(process):
            with contextlib.suppress(psutil.Error):  # it has just ended
                return process.name().startswith("ray::Actor")

        below = filter(is_actor, psutil.Process().children(recursive=True))
        stuck = min(cluster.pids() if {kind!r} == "dask" else [each.pid for each in below])
        os.kill(stuck, signal.SIGSTOP)
        call = f.options(deadline=5).map_async(range(200))
        assert isinstance(call.exception(60), parmap.TaskTimeoutError)
        f.options(workers=3, deadline=3).map_async(range(200)).exception(60)  # nor does the making of a pool wait for it
        f.options(deadline=3).map_async([bytes(1 << 21)] * 12).exception(60)  # unless others do it all
        ended = threading.Event()
        threading.Thread(target=lambda: (parmap.shutdown(), ended.set()), daemon=True).start()
        assert ended.wait(60)
        if psutil.pid_exists(stuck):
            os.kill(stuck, signal.SIGCONT)
        print("ended")
        """,
    )
    assert "ended" in out


@slow
def test_asynchronous_client(script: Script):
    """A client of an event loop works there; what would block that loop is refused."""
    out = run(
        script,
        "dask",
        """
        import asyncio
        from distributed import Client

        captured = bytes(1 << 21)

        async def main():
            async with Client(cluster.address, asynchronous=True):
                f = parmap.parallel(lambda x: len(captured) + x, backend="dask")
                assert await f.submit(1) == (1 << 21) + 1
                assert await f.map_async(range(100)) == [(1 << 21) + x for x in range(100)]
                assert [x async for x in f.imap(range(3))] == [(1 << 21) + x for x in range(3)]
                try:
                    f.map([1])
                except RuntimeError as error:
                    print("refused", error)
                parmap.shutdown()

        asyncio.run(asyncio.wait_for(main(), 60))
        """,
    )
    assert "refused" in out


@slow
def test_cluster_that_the_environment_names(script: Script):
    """A job that was submitted to Ray is connected to its cluster, and is not told that another one is started."""
    run(
        script,
        "ray",
        """
        import subprocess
        program = 'import parmap, ray; print(parmap.parallel(abs, backend="ray").map([-1]), len(ray.nodes()))'
        command = [sys.executable, "-c", program]
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
        assert done.stdout.strip() == "[1] 2", done
        assert "is started" not in done.stderr, done
        """,
    )


@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM"])
def test_dask_that_was_started_for_pools(script: Script, tmp_path: Path, number: str):
    """It ends with the program, however that ends, and whatever is running."""
    pytest.importorskip("distributed")
    (tmp_path / "run").mkdir()
    script.run(
        f"""
        import os, signal, sys, time
        from pathlib import Path
        import parmap, psutil

        def run(x):
            Path({str(tmp_path)!r}, "run", str(x)).touch()
            time.sleep(1000)

        futures = [parmap.parallel(run, backend="dask", workers=2).submit(x) for x in range(2)]
        while len(os.listdir({str(tmp_path / "run")!r})) < 2:  # both workers have come
            time.sleep(0.01)
        pids = [process.pid for process in psutil.Process().children(recursive=True)]
        Path({str(tmp_path / "pids")!r}).write_text(" ".join(map(str, pids)))
        os.kill(os.getpid(), signal.{number})
        """,
        timeout=100,
    )
    pids = [*map(int, (tmp_path / "pids").read_text().split())]
    assert len(pids) >= 3  # the scheduler, two workers
    wait_until(lambda: not any(map(is_running, pids)))


@slow
@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_program_is_killed(script: Script, kind: str):
    """What a program that is killed has running on the cluster ends, whatever it does with signals."""
    run(
        script,
        kind,
        """
        import subprocess, textwrap
        from clusters import is_running
        folder = Path(tempfile.mkdtemp())
        program = folder / "program.py"
        program.write_text(textwrap.dedent('''
            import os, signal, sys, time
            from pathlib import Path
            import parmap

            def note_and_hang(x):
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                Path(sys.argv[2], str(os.getpid())).touch()
                sum(range(10**12)) if x else time.sleep(1000)

            if sys.argv[3] == "dask":
                import distributed
                client = distributed.Client(sys.argv[1])
            else:
                import ray
                ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
            parmap.parallel(note_and_hang, backend=sys.argv[3], workers=2).map(range(2))
        '''))
        command = [sys.executable, str(program), cluster.address, str(folder), cluster.name]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while len(list(folder.iterdir())) < 3:
                assert process.poll() is None
                time.sleep(0.05)
            process.kill()
        pids = [int(path.name) for path in folder.iterdir() if path != program]
        end = time.monotonic() + 15
        while any(map(is_running, pids)):
            assert time.monotonic() < end
            time.sleep(0.05)
        """,
    )


@slow
@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_ctrl_c(script: Script, kind: str):
    """Ctrl-C ends what runs on the cluster within a second or so."""
    run(
        script,
        kind,
        """
        import signal
        from clusters import is_running
        folder = Path(tempfile.mkdtemp())

        def note_and_sleep(x):
            (folder / str(x)).write_text(str(os.getpid()))
            time.sleep(100)

        def interrupt():
            while len(list(folder.iterdir())) < 3:
                time.sleep(0.05)
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        try:
            parmap.parallel(note_and_sleep, backend=cluster.name).map(range(3))
        except KeyboardInterrupt:
            begin = time.monotonic()
        pids = [int(path.read_text()) for path in folder.iterdir()]
        while any(map(is_running, pids)):
            assert time.monotonic() < begin + 5
            time.sleep(0.01)
        print("ended after", time.monotonic() - begin)
        """,
    )


@slow
def test_sent_once_dask(script: Script):
    """What a function captures leaves the client once, and comes to each worker once; a second call moves nothing."""
    run(
        script,
        "dask",
        """
        import psutil
        big = bytes(os.urandom(1 << 16)) * 1024
        f = parmap.parallel(lambda x: x + len(big), backend="dask")

        def sent():
            return psutil.net_io_counters(pernic=True)["lo"].bytes_sent

        before = sent()
        assert f.map(range(300)) == [x + len(big) for x in range(300)]
        first = sent()
        assert f.map(range(300)) == [x + len(big) for x in range(300)]
        second = sent()
        print("first", (first - before) >> 20, "MB, then", (second - first) >> 20)
        assert first - before < 4.5 * len(big)  # from the client to one, and from there to two more
        assert second - first < 4 << 20
        """,
    )


@slow
def test_arrays_go_straight_to_workers(script: Script):
    """Large items, and their results, move once each way: not through the scheduler, where the client can reach workers."""
    run(
        script,
        "dask",
        """
        import psutil
        items = [bytearray(os.urandom(1 << 23)) for _ in range(24)]
        f = parmap.parallel(lambda x: x, backend="dask")

        def sent():
            return psutil.net_io_counters(pernic=True)["lo"].bytes_sent

        f.map([0.1] * 12)
        before = sent()
        assert f.map(items) == items
        moved = (sent() - before) / (24 << 23)
        print("moved", moved)
        assert moved < 3  # twice, and what Dask moves between workers
        """,
    )


@slow
def test_sent_once_ray(script: Script):
    """On Ray it lies in the store of each node."""
    run(
        script,
        "ray",
        """
        import psutil
        big = bytes(os.urandom(1 << 16)) * 1024
        f = parmap.parallel(lambda x: x + len(big), backend="ray")

        def sent():
            return psutil.net_io_counters(pernic=True)["lo"].bytes_sent

        before = sent()
        assert f.map(range(300)) == [x + len(big) for x in range(300)]
        first = sent()
        assert f.map(range(300)) == [x + len(big) for x in range(300)]
        second = sent()
        print("first", (first - before) >> 20, "MB, then", (second - first) >> 20)
        assert first - before < 2.5 * len(big)
        assert second - first < 4 << 20
        """,
    )


@slow
@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_ten_thousand_items(script: Script, kind: str):
    """Whatever becomes of workers in a large batch, each item has its outcome; one that kills its own fails alone."""
    run(
        script,
        kind,
        """
        folder = Path(tempfile.mkdtemp())

        def count_or_die(x):
            if x == 7777:
                with open(folder / "deaths", "a") as file:
                    file.write("x")
                os._exit(9)
            time.sleep(0.002)
            return -x

        f = parmap.parallel(count_or_die, backend=cluster.name, retries=1, retry_on=parmap.WorkerDiedError)
        batch = f.map_async(range(10_000), return_exceptions=True)
        time.sleep(3)
        cluster.add()
        cluster.kill(0)
        time.sleep(2)
        cluster.retire()
        results = batch.result(120)
        assert [x for x, result in enumerate(results) if result != -x] == [7777], results
        assert isinstance(results[7777], parmap.WorkerDiedError)
        assert len((folder / "deaths").read_text()) <= 3  # once among others, then alone, and once more
        """,
    )


@slow
@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_item_that_takes_its_node_along(script: Script, kind: str):
    """Whoever ran beside it, in its chunk or on its node, has its result."""
    run(
        script,
        kind,
        """
        import psutil
        log = Path(tempfile.mkdtemp()) / "log"

        def kill_or_not(x):
            time.sleep(0.05)
            if x == 7:
                with open(log, "a") as file:
                    file.write("x")
                above = psutil.Process().parents()
                next(each for each in above if "dask_worker" in " ".join(each.cmdline()) or "ray::" in each.name()).kill()
                time.sleep(60)
            return -x

        def replace():
            while cluster.name == "dask" and not stopped.wait(0.1):
                for worker in list(cluster.workers):
                    if worker.poll() is not None:
                        cluster.workers.remove(worker)
                        cluster.add()

        stopped = threading.Event()
        threading.Thread(target=replace, daemon=True).start()
        f = parmap.parallel(kill_or_not, backend=cluster.name)
        results = f.map(range(60), chunksize=5, return_exceptions=True)
        stopped.set()
        assert [x for x, result in enumerate(results) if result != -x] == [7], results
        assert isinstance(results[7], parmap.WorkerDiedError)
        print(len(log.read_text()), "deaths", repr(results[7]))
        assert len(log.read_text()) <= (8 if cluster.name == "dask" else 3)  # Dask tries each four times
        """,
    )


@slow
@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_census(script: Script, kind: str):
    """The example prints on a cluster what it prints at home."""
    pytest.importorskip("distributed" if kind == "dask" else "ray")
    census = Path(__file__).parent.parent / "examples" / "census.py"
    tables = []
    for backend in ("processes", kind):
        command = [sys.executable, str(census), "--backend", backend, "--package", "email"]
        out = subprocess.run(command, capture_output=True, text=True, timeout=140, env=script.environment, check=False)
        assert out.returncode == 0, out.stderr
        tables.append(out.stdout.partition("plain loop")[0])
    assert "most complex" in tables[0]
    assert tables[0] == tables[1]
