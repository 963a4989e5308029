"""Programs and systems that leave workers little: no streams, no memory, no descriptors, no processes, no memory files."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from inspection import engine_of, grace, kill, missing_of, template_of, wait_until_leased, workers_of
from tasks import KILL, die, identity

from conftest import children, wait_until
from parmap import WorkerDiedError, cpu_count, parallel
from parmap._core.job import Job
from parmap._core.schedule import Scheduler
from parmap._engine.lane import Lane
from parmap._work import threads
from parmap._work.threads import undisturbed
from parmap.backends._processes import spawning
from parmap.backends._processes.child.quick import QuickEnd
from parmap.backends._processes.line import sockets
from parmap.backends._processes.line.channel import Channel
from parmap.backends._processes.poller import Poller
from parmap.backends._processes.worker import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and at limits of Linux")


def test_where_the_streams_are_closed(script: Script) -> None:
    """Under a daemon, whose streams are closed, no task writes into what parmap holds open when it prints from C."""
    script.environment["PYTHONUNBUFFERED"] = "1"  # or Python, which fails to flush at its end, ends with status 120
    done = script.run("""
        import os, sys
        os.close(1)
        os.close(2)
        import parmap

        def task(_):
            os.system("echo from C; echo from C >&2")
            print("from Python")
            return [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)]

        found = [parmap.parallel(task, workers=1, start_method=method).map([0])[0] for method in ("forkserver", "spawn")]
        open("found", "w").write(str(found))
    """)

    assert done.returncode == 0
    assert (script.folder / "found").read_text() == str([["/dev/null"] * 3] * 2)


def held_open() -> list[int]:
    """Descriptors that the programs get which a task starts."""
    held = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # that of the list itself
            if os.get_inheritable(fd):
                held.append(fd)
    return sorted(held)


def test_a_worker_s_line_is_its_own(processes: dict[str, Any]) -> None:
    """A program that a task starts gets the standard streams only, so that it can't hide the end of its worker."""
    assert parallel(held_open, **processes).submit().result() == [0, 1, 2]


PRELOADED = {
    "children": "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "wakeup": """
import signal, socket
pair = socket.socketpair()
pair[0].setblocking(False)
signal.set_wakeup_fd(pair[0].fileno())
""",
    "mask": "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "stdout": "import sys; sys.stdout.close(); sys.stderr = None",
}


@pytest.mark.parametrize("module", PRELOADED)
def test_a_preloaded_module_that_meddles(script: Script, module: str) -> None:
    """Modules to preload may ignore the end of children, take over signals or close streams; deaths are told still."""
    script.write(PRELOADED[module], f"meddles_with_{module}.py")
    done = script.run(f"""
        import os, signal
        from parmap import parallel

        @parallel(workers=1, preload=["meddles_with_{module}"])
        def task(number):
            if number == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return number

        print([getattr(each, "signal", each) for each in task.map(range(4), return_exceptions=True)])
    """)

    assert (done.stdout, done.stderr) == ("[0, 9, 2, 3]\n", "")


def test_names_and_levels_of_other_types(script: Script) -> None:
    """Log levels and names of loggers may be members of enums, and arguments of the program any object."""
    done = script.run("""
        import enum, logging, pathlib, sys
        from parmap import parallel

        class Level(enum.IntEnum):
            DETAIL = 15

        class Name(str, enum.Enum):
            APP = "app"

        class Text(str):
            pass

        logging.getLogger(Name.APP).setLevel(Level.DETAIL)
        sys.argv = [Text("program"), pathlib.Path("/"), "option"]
        task = parallel(lambda _: (logging.getLogger("app").level, sys.argv), workers=1)
        print(task.map([0]), task.submit(0).result())
    """)

    assert (done.stdout, done.stderr) == ("[(15, ['program', 'option'])] (15, ['program', 'option'])\n", "")


@pytest.mark.skipif(not shutil.which("env"), reason="makes such a variable")
def test_a_variable_without_a_name(script: Script) -> None:
    """A variable of the environment that has no name, which nothing can be started with, stays behind."""
    path = script.write("""
        from parmap import parallel
        print(parallel(abs, workers=1).map([-1]))
    """)
    done = subprocess.run(
        ["env", "=a=b", sys.executable, path], capture_output=True, text=True, env=script.environment, check=False
    )

    assert (done.stdout, done.stderr) == ("[1]\n", "")


def test_memory_that_a_worker_may_not_have(script: Script) -> None:
    """An argument that doesn't fit into a worker whose memory is limited costs its item, which is told why."""
    done = script.run("""
        import resource
        from parmap import parallel

        def limit(more):
            pages = int(open("/proc/self/statm").read().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more,) * 2)

        def size(data):
            return len(data)

        task = parallel(size, workers=1, initializer=limit, initargs=(40 << 20,))
        large = bytes(60 << 20)
        print(task.map([b"1", large, b"22"], return_exceptions=True))
        print(repr(task.submit(large).exception()))
        print(len(parallel(bytes, workers=1, initializer=limit, initargs=(40 << 20,)).submit(25 << 20).result()))
    """)

    told = "OSError('there was no memory, or no descriptor, left to receive a large argument')"
    assert (done.stdout, done.stderr) == (f"[1, {told}, 2]\n{told}\n{25 << 20}\n", "")


def test_a_worker_that_can_not_go_on() -> None:
    """Where a task has spoilt what its worker needs, the error of the item shows where the worker ended."""

    def spoil(_: Any) -> None:
        os.getpid = None  # type: ignore[assignment]

    error = parallel(spoil, workers=1).submit(0).exception()

    assert isinstance(error, WorkerDiedError)
    assert "TypeError: 'NoneType' object is not callable" in error.stack


def test_memory_that_the_program_may_not_have(script: Script) -> None:
    """A result that doesn't fit into the program costs its item; large arguments find another way."""
    done = script.run("""
        import resource
        from parmap import parallel

        make, size = parallel(bytes, workers=1), parallel(lambda data: len(data), workers=1)
        make.map([1])
        large = bytes(80 << 20)
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (50 << 20),) * 2)
        print(make.map([80 << 20], return_exceptions=True))
        print(repr(make.submit(80 << 20).exception()))
        print(size.map([large]), size.submit(large).result(), len(make.submit(1).result()))
    """)

    told = "OSError('there was no memory, or no descriptor, left to receive a large result')"
    size = 80 << 20
    assert (done.stdout, done.stderr) == (f"[{told}]\n{told}\n[{size}] {size} 1\n", "")


def test_a_function_in_parts_without_a_descriptor_left(script: Script) -> None:
    """A function that captures large data reaches its workers where the program may open nothing more."""
    done = script.run("""
        import os, resource
        from parmap import parallel

        parallel(abs, workers=2).map(range(2))
        before = len(os.listdir("/proc/self/fd"))
        for more in range(12):
            large = [bytearray(b"%d" % (more + each)) * 100_000 for each in range(5)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (before + more, 4096))
            print(parallel(lambda _: sum(map(len, large)), workers=2).map(range(2))[0] >= 500_000, end=" ")
    """)

    assert (done.stdout, done.stderr) == ("True " * 12, "")


def test_a_function_with_more_large_parts_than_there_may_be_descriptors(script: Script) -> None:
    """A captured model of hundreds of arrays leaves the program, and its tasks, the descriptors that they need.

    What changes between two calls is sent, and of equal ones a task may change one.
    """
    done = script.run("""
        import os, resource
        from parmap import parallel

        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096))
        model = [bytearray(b"%05d" % (layer // 2)) * 20_000 for layer in range(600)]

        @parallel(workers=2)
        def look(_):
            model[0][0] += 1
            return len(os.listdir("/proc/self/fd")) < 50, bytes(model[0][:2]), bytes(model[1][:2]), len(set(map(bytes, model)))

        for change in b"abc":
            model[1][1] = change
            print(*look.submit(0).result(), len(os.listdir("/proc/self/fd")) < 50)
        print(len(look.map(range(4))), bytes(model[0][:2]))
    """)

    assert done.stderr == ""
    assert done.stdout == "".join(f"True b'10' b'0{change}' 301 True\n" for change in "abc") + "4 b'00'\n"


def test_more_workers_than_the_system_lets_start(script: Script) -> None:
    """Where no more than two processes can be forked, two workers do the work."""
    script.write(
        """
        import errno, os
        fork, left = os.fork, [2]
        def limited():
            if not left[0]:
                raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
            left[0] -= 1
            return fork()
        os.fork = limited
        """,
        "few_processes.py",
    )
    done = script.run("""
        from parmap import parallel
        task = parallel(abs, workers=9, preload=["few_processes"])
        print(sum(task.map(range(-500, 0))), sum(future.result() for future in [task.submit(-1) for _ in range(50)]))
    """)

    assert (done.stdout, done.stderr) == ("125250 50\n", "")


def test_a_system_that_refuses_memory_files(script: Script) -> None:
    """Where a container forbids `memfd_create`, temporary files and the socket do."""
    script.write(
        """
        import errno, os
        def refused(*_):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        os.memfd_create = refused
        """,
        "sitecustomize.py",
    )
    paths = [str(script.folder), *filter(None, [script.environment.get("PYTHONPATH")])]
    script.environment["PYTHONPATH"] = os.pathsep.join(paths)
    done = script.run("""
        import os
        from parmap import parallel
        task = parallel(lambda size: os._exit(3) if size == 1 else bytes(size), workers=2)
        sizes = [1 << 20, 1, 2]
        done = task.map(sizes, return_exceptions=True)
        print([len(each) if type(each) is bytes else each.exitcode for each in done])
    """)

    assert (done.stdout, done.stderr) == ("[1048576, 3, 2]\n", "")


def test_a_frozen_program(script: Script) -> None:
    """A program that is its own interpreter is told so, instead of being started again and again."""
    done = script.run("""
        import sys
        sys.frozen = True
        from parmap import parallel
        try:
            parallel(abs).map([1])
        except Exception as error:
            print(type(error).__name__, error)
        print(parallel(abs, backend="threads").map([-1]))
    """)

    told, threads = done.stdout.splitlines()
    assert told.startswith("WorkerDiedError")
    assert "frozen" in told
    assert (threads, done.stderr) == ("[1]", "")


def test_descriptors_on_their_way_are_limited() -> None:
    """What the system refuses to send for a moment is sent a moment later, and not taken for the end of the line."""

    class Scarce(socket.socket):
        refusals = 2

        def sendmsg(self, *args: Any) -> int:
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.ETOOMANYREFS, "Too many references: cannot splice")
            return super().sendmsg(*args)

    ours, theirs = socket.socketpair()
    sender, receiver = Channel(Scarce(fileno=ours.detach())), Channel(theirs)
    try:
        assert not sender.post("first", 1)
        assert not sender.flush()
        assert sender.flush()
        sender.sock.refusals = 2  # type: ignore[attr-defined]
        sender.send("second", 2)
        assert [message and message.fields for message in (receiver.poll(), receiver.poll())] == [(1,), (2,)]
    finally:
        sender.close()
        receiver.close()


def test_a_template_that_has_much_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are started, though more of them than the line to the template has room for: both ends fill it."""
    plain = spawning.pair

    def narrow() -> Any:
        ends = plain()
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least there is: room for six messages
        return ends

    monkeypatch.setattr(spawning, "pair", narrow)
    function = parallel(abs, workers=30)

    assert function.map_async(range(-60, 0), chunksize=1).result(timeout=60) == [*range(60, 0, -1)]
    function.shutdown()


def test_numbers_of_tasks_that_went_another_way_are_dropped() -> None:
    """A worker does not remember for ever which tasks never came over its quick line; late ones it still takes."""
    import marshal

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line = QuickEnd(theirs.detach())

    def is_run(number: int) -> bool:
        ours.send(marshal.dumps((number, 1, "map", ())))
        return line.receive() is not None

    try:
        assert all(is_run(number) for number in range(2, 20_000, 2))
        assert [is_run(number) for number in (19_997, 19_997, 19_998, 19_999)] == [True, False, False, True]
        assert missing_of(line) < 5_000
    finally:
        ours.close()
        line.sock.close()


def test_a_replaced_worker_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are replaced, and hang in a callback at their exit, are killed as those of a pool that closes."""
    grace(monkeypatch, 0.1)

    def keep_from_ending(number: int) -> int:
        import atexit
        import time

        if number < 4:
            atexit.register(time.sleep, 600)
        return number

    task = parallel(keep_from_ending, workers=1, max_tasks_per_child=1)

    assert task.map(range(5)) == [*range(5)]
    wait_until(lambda: len(children()) <= 3)


def test_a_helper_of_a_task_does_not_hide_a_death(tmp_path: Path) -> None:
    """Though the template is gone, a death is told at once; a process that the task has forked lives on."""

    def die(path: Path) -> None:
        helper = os.fork()
        if not helper:
            import signal

            signal.pause()
        path.write_text(str(helper))
        os.abort()

    task = parallel(lambda call, *args: call(*args), workers=1)
    task.submit(identity, 0).result()
    kill(template_of(task))
    error = task.submit(die, tmp_path / "helper").exception(timeout=30)
    helper = psutil.Process(int((tmp_path / "helper").read_text()))

    assert isinstance(error, WorkerDiedError)
    assert helper.is_running()
    helper.kill()


def test_a_long_path_of_modules(script: Script) -> None:
    """A program may have thousands of folders on its `sys.path`, more than the system takes as one argument."""
    done = script.run("""
        import sys
        from parmap import parallel
        sys.path += [f"/no/such/folder/{number:060}" for number in range(4_000)]
        for method in ("forkserver", "spawn"):
            print(parallel(lambda _: len(sys.path), workers=1, start_method=method).map([0]) == [len(sys.path)])
    """)

    assert (done.stdout, done.stderr) == ("True\nTrue\n", "")


def test_descriptors_above_the_limit_are_closed(script: Script) -> None:
    """What the program has left open for others is not held by workers, though its limit has been lowered since."""
    done = script.run("""
        import os, resource
        from parmap import parallel
        os.dup2(0, 900, inheritable=True)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096))
        for method in ("forkserver", "spawn"):
            print(parallel(lambda _: os.path.exists("/proc/self/fd/900"), workers=1, start_method=method).map([0]))
    """)

    assert (done.stdout, done.stderr) == ("[False]\n[False]\n", "")


def test_files_that_an_interpreter_opens_as_it_begins(script: Script) -> None:
    """What `sitecustomize` opens in each interpreter, such as a log, workers go on writing to."""
    script.write('LOG = open("log.txt", "a", buffering=1)', "sitecustomize.py")
    paths = [str(script.folder), *filter(None, [script.environment.get("PYTHONPATH")])]
    script.environment["PYTHONPATH"] = os.pathsep.join(paths)
    done = script.run("""
        from parmap import parallel
        def write(number):
            import sitecustomize
            sitecustomize.LOG.write(f"{number}\\n")
        for method in ("forkserver", "spawn"):
            parallel(write, workers=2, start_method=method).map(range(10))
    """)

    assert (done.returncode, done.stderr) == (0, "")
    assert sorted((script.folder / "log.txt").read_text().split()) == sorted([*map(str, range(10))] * 2)


class Refusals:
    """Sockets of ours refuse what they are asked for, a number of times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, code: int, times: int) -> None:
        self.left = times
        plain: Any = getattr(sockets.Socket, name)

        def refuse(sock: sockets.Socket, *args: Any) -> Any:
            if self.left:
                self.left -= 1
                raise OSError(code, os.strerror(code))
            return plain(sock, *args)

        monkeypatch.setattr(sockets.Socket, name, refuse, raising=False)


def test_a_task_that_there_is_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single task whose message the system refuses again and again, for want of memory, is sent when there is some."""
    function = parallel(identity, workers=1)
    function.submit(0).result()
    wait_until_leased(function)
    refusals = Refusals(monkeypatch, "send", errno.ENOBUFS, 50)

    assert function.submit(1).result(timeout=30) == 1
    assert not refusals.left


@pytest.mark.parametrize("method", ["map", "submit"])
def test_a_message_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """What may not be sent to a worker goes to another one, for the first has not got all it was told."""
    function = parallel(identity, workers=1, env={"REFUSED": method})
    function.map([0])
    refusals = Refusals(monkeypatch, "sendmsg", errno.EPERM, 1)
    large = bytes(100_000)

    assert getattr(function, {"map": "map_async"}.get(method, method))([large]).result(timeout=30) == [large]
    assert not refusals.left
    function.shutdown()


def test_calls_without_a_descriptor_left(script: Script) -> None:
    """A call that finds no room for its pool, or for a worker, keeps nothing of what it had opened until then."""
    done = script.run("""
        import gc, os, resource
        from parmap import parallel

        task = parallel(abs, workers=1)
        task.map([-1])
        task.shutdown()
        before, limit = len(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)
        failed = 0
        for room in range(16):
            resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1 + room, limit[1]))
            try:
                task.map([-1])
            except Exception as error:
                failed += "Too many open files" in str(error) or "no descriptor" in str(error)
            task.shutdown()
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            gc.collect()
            if (after := len(os.listdir("/proc/self/fd"))) != before:
                print("with room for", room, after - before, "are left")
                before = after
        print(failed > 8, task.map([-1]))
    """)

    assert done.stdout == "True [1]\n", done.stderr


def test_a_template_without_a_descriptor_left(script: Script) -> None:
    """Where a module to preload allows few open files, it is told why no other worker starts."""
    script.write(
        """
        import os, resource
        most = max(map(int, os.listdir("/proc/self/fd"))) - 2  # the first worker's may be there already
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        """,
        "allows_little.py",
    )
    done = script.run("""
        from parmap import WorkerDiedError, parallel
        try:
            parallel(abs, workers=1, preload=["allows_little"], max_tasks_per_child=1).map([-1, -2, -3], chunksize=1)
        except WorkerDiedError as error:
            print(error)
    """)

    assert "can't be started: there was no memory, or no descriptor, left" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_preloaded_module_that_reaps(script: Script, workers: int) -> None:
    """A thread of a module to preload may collect the exit of all children: that one is gone is told still."""
    script.write(
        """
        import os, threading, time
        def reap():
            while True:
                try:
                    os.wait()
                except ChildProcessError:
                    time.sleep(0.001)
        threading.Thread(target=reap, daemon=True).start()
        """,
        "reaps.py",
    )
    done = script.run(f"""
        import os, signal
        from parmap import parallel

        @parallel(workers={workers}, preload=["reaps"])
        def task(number):
            if number == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return number

        found = task.map_async(range(4), return_exceptions=True).result(timeout=60)
        print([each if isinstance(each, int) else type(each).__name__ for each in found])
    """)

    assert done.stdout == "[0, 'WorkerDiedError', 2, 3]\n", done.stderr


def test_a_thread_without_memory_to_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a thread that ends before it has begun, as one for whose first frame there is no memory."""
    import _thread

    monkeypatch.setattr(_thread, "start_new_thread", lambda *_: 1)

    with pytest.raises(MemoryError):
        undisturbed(list)


def test_a_thread_that_ends_when_its_caller_has_waited_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is done while its caller looks whether it is still there has not failed to begin."""
    looks = threading.Event()

    def watch(thing: Any) -> Any:
        held = weakref.ref(thing)

        def find() -> Any:
            looks.set()
            wait_until(lambda: held() is None)

        return find

    monkeypatch.setattr(threads, "ref", watch)

    assert undisturbed(lambda: looks.wait(30))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_that_ends_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that was on its way to a pool which ends, because the system fails it, is told with what."""
    function = parallel(identity, workers=1, env={"ENDED": "1"})
    function.map([0])
    engine = engine_of(function)
    waits, come = threading.Event(), threading.Event()

    def fail(_: float | None) -> Any:
        waits.set()
        come.wait(30)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(engine.backend, "wait", fail)
    engine.backend.wake()
    assert waits.wait(30)
    future = function.map_async([1])
    come.set()

    with pytest.raises(OSError, match="Input/output error"):
        future.result(timeout=30)
    assert function.map([2]) == [2]
    function.shutdown()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("kind", "name"), [(Job, "extend"), (Lane, "take")])
def test_a_call_that_there_is_no_memory_for(monkeypatch: pytest.MonkeyPatch, kind: Any, name: str) -> None:
    """A call or a task that the pool has no memory to take fails with that, and so does what came with it."""
    function = parallel(identity, workers=1, env={"TAKEN": name})
    function.map([0])
    engine = engine_of(function)
    plain, left = getattr(kind, name), [1]

    def refuse(*args: Any) -> Any:
        if left:
            left.pop()
            raise MemoryError
        return plain(*args)

    monkeypatch.setattr(kind, name, refuse)
    calls: list[Any] = []

    def begin() -> None:
        calls.extend([function.submit(1), function.submit(2), function.map_async([3]), function.submit(4)])

    engine.post(begin)  # by its own thread, which takes them together when this has ended

    wait_until(lambda: len(calls) == 4)
    assert {type(call.exception(timeout=30)) for call in calls} == {MemoryError}
    assert function.map([5]) == [5]
    function.shutdown()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("method", ["map_async", "submit"])
@pytest.mark.parametrize("name", ["finished", "died", "_record"])
def test_an_outcome_that_there_is_no_memory_for(monkeypatch: pytest.MonkeyPatch, name: str, method: str) -> None:
    """A call fails with that whose outcomes, or whose worker's death, the pool has no memory to write down."""
    function = parallel(die if name == "died" else identity, workers=1, env={"TOLD": name})
    plain, left = getattr(Scheduler, name), [1]

    def refuse(*args: Any) -> Any:
        if left:
            left.pop()
            raise MemoryError
        return plain(*args)

    monkeypatch.setattr(Scheduler, name, refuse)
    call = getattr(function, method)([KILL] if method == "map_async" else KILL)

    assert type(call.exception(timeout=30)) is MemoryError
    function.shutdown()


def test_a_sandbox_that_does_not_tell_of_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses to say which CPUs there are for this process, all are taken to be."""

    def refuse(*_: Any) -> Any:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", refuse)
    monkeypatch.setattr(os, "process_cpu_count", refuse, raising=False)

    assert cpu_count() >= 1


def test_a_worker_that_can_not_be_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that the system has no room to wait for is told of as one that can't be started, and does not stay."""
    function = parallel(identity, workers=1, env={"HEARD": "1"})
    plain = Poller.add

    def refuse(poller: Poller, fd: int, data: Any) -> None:
        if isinstance(data, Worker):
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(poller, fd, data)

    monkeypatch.setattr(Poller, "add", refuse)
    error = function.submit(1).exception(timeout=30)

    assert isinstance(error, WorkerDiedError)
    assert "can't be started" in str(error)
    monkeypatch.undo()
    assert function.submit(2).result(timeout=30) == 2
    assert len(workers_of(function)) == 1
    function.shutdown()
