"""parmap where one does not expect it: in forks, in other processes, in callbacks, `__del__` and signal handlers."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from inspection import is_gone, kill

from conftest import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Script

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and signals")


def test_a_fork_of_the_program_that_just_exits(script: Script) -> None:
    """A child made by `os.fork()` may leave in any way; the parent's pool is not touched."""
    script.environment["PYTHONWARNINGS"] = "ignore::DeprecationWarning"  # of the fork itself, since 3.12
    done = script.run("""
        import os, sys
        from parmap import parallel
        square = parallel(lambda x: x * x, workers=2)
        print(square.map(range(3)), flush=True)
        for leave in (os._exit, sys.exit):
            child = os.fork()
            if child == 0:
                leave(0)
            assert os.waitpid(child, 0)[1] == 0
        print(square.map(range(3)), square.submit(5).result())
    """)

    assert (done.stdout, done.stderr, done.returncode) == ("[0, 1, 4]\n[0, 1, 4] 25\n", "", 0)


def test_a_fork_of_the_program_that_uses_parmap(script: Script) -> None:
    """The child has a pool of its own, while the parent goes on with its own."""
    script.environment["PYTHONWARNINGS"] = "ignore::DeprecationWarning"  # of the fork itself, since 3.12
    done = script.run("""
        import os
        from parmap import parallel
        square = parallel(lambda x: x * x, workers=2)
        pid = parallel(lambda _: os.getpid(), workers=2)
        before = set(pid.map(range(20)))
        child = os.fork()
        if child == 0:
            assert square.map(range(4)) == [0, 1, 4, 9]
            assert square.submit(5).result() == 25
            assert not set(pid.map(range(20))) & before
            os._exit(7)
        assert square.map(range(100)) == [x * x for x in range(100)]
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), set(pid.map(range(20))) <= before)
    """)

    assert (done.stdout, done.stderr) == ("7 True\n", "")


def test_a_fork_after_a_pool_has_ended(script: Script) -> None:
    """A pool that was closed before the fork does not disturb the child, which forgets the others and makes its own."""
    script.environment["PYTHONWARNINGS"] = "ignore::DeprecationWarning"  # of the fork itself, since 3.12
    run = script.run("""
        import os, parmap

        square = parmap.parallel(lambda x: x * x, workers=2)
        square.map([1])
        with parmap.Pool(1) as ended:
            ended.map(abs, [1])
        child = os.fork()
        if child == 0:
            os._exit(square.map([7])[0])
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """)

    assert (run.stdout, run.stderr) == ("49\n", "")


def test_a_fork_in_the_middle_of_work(script: Script) -> None:
    """A child that is forked while tasks run can't wait for them, and says so; the parent gets its results."""
    script.environment["PYTHONWARNINGS"] = "ignore::DeprecationWarning"  # of the fork itself, since 3.12
    done = script.run("""
        import os, time
        from parmap import parallel, PoolClosedError
        nap = parallel(time.sleep, workers=2)
        future = nap.submit(0.3)
        batch = nap.map_async([0.1] * 5)
        child = os.fork()
        if child == 0:
            for work in (future, batch):
                try:
                    work.result()
                except PoolClosedError:
                    continue
                os._exit(1)
            assert nap.map([0.0]) == [None]
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), future.result(), batch.result())
    """)

    assert (done.stdout, done.stderr) == ("0 None [None, None, None, None, None]\n", "")


def test_nothing_is_imported_in_the_middle_of_work(script: Script) -> None:
    """A child that is forked while a thread imports waits for ever for that module: the engine's imports none."""
    done = script.run("""
        import os, sys, threading, time
        from parmap import parallel, shutdown

        def hear(event, args):
            if event == "import" and threading.current_thread().name == "parmap-engine":
                print(args[0])

        sys.addaudithook(hear)
        for backend in ("processes", "threads"):
            nap = parallel(time.sleep, workers=2, backend=backend)
            nap.submit(0).result()
            nap.map([0] * 5)
            list(nap.imap([0] * 5))
            parallel(lambda x: 1 / x, workers=2, backend=backend).map([0, 1], return_exceptions=True)
        parallel(lambda _: os._exit(3), workers=2).map([0, 1], return_exceptions=True)
        parallel(time.sleep, workers=1, timeout=0.1).map([10], return_exceptions=True)
        shutdown()
    """)

    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_a_fork_from_a_thread_while_others_submit(script: Script) -> None:
    """Forks at any moment of the engine's work harm neither side."""
    script.environment["PYTHONWARNINGS"] = "ignore::DeprecationWarning"  # of the fork itself, since 3.12
    done = script.run("""
        import os, threading
        from parmap import parallel
        square = parallel(lambda x: x * x, workers=2)
        square.map(range(3))  # a fork while another thread imports something for the first time is lost in any program
        stop = threading.Event()
        wrong = []

        def work():
            while not stop.is_set():
                if square.map(range(20)) != [x * x for x in range(20)] or square.submit(3).result() != 9:
                    wrong.append(1)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        codes = []
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if square.map(range(5)) == [0, 1, 4, 9, 16] else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        stop.set()
        for thread in threads:
            thread.join()
        print(codes, wrong)
    """)

    assert (done.stdout, done.stderr) == ("[0, 0, 0, 0, 0] []\n", "")


def test_a_fork_while_a_pool_gives_its_descriptors_back(script: Script) -> None:
    """Whichever was closed last: the child closes none of them again, and begins anew."""
    script.environment["PYTHONWARNINGS"] = "ignore::DeprecationWarning"  # of the fork itself, since 3.12
    done = script.run("""
        import os, threading
        from parmap import parallel
        f = parallel(bytes, workers=1)
        f.map([200_000] * 3)  # large enough for shared memory
        engine, = (thread for thread in threading.enumerate() if thread.name == "parmap-engine")
        close, closed, go_on = os.close, threading.Semaphore(0), threading.Semaphore(0)

        def close_and_wait(fd):
            close(fd)
            if threading.current_thread() is engine:
                closed.release()
                go_on.acquire()

        os.close = close_and_wait
        f.shutdown(wait=False)
        codes = []
        while engine.is_alive():
            if closed.acquire(timeout=0.05):
                child = os.fork()
                if child == 0:
                    os.close = close
                    os._exit(f.map([1]) != [b"\\0"])
                codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                go_on.release()
        print(len(codes) >= 4, set(codes))
    """)

    assert (done.stdout, done.stderr) == ("True {0}\n", "")


def test_a_fork_while_the_first_template_starts(script: Script) -> None:
    """A child that is forked meanwhile, and lives on, keeps nothing alive when the program is killed."""
    script.environment["PYTHONWARNINGS"] = "ignore::DeprecationWarning"  # of the fork itself, since 3.12
    process = script.start("""
        import os, signal, sys, threading, time
        from parmap import parallel

        children = []

        def fork(event, args):
            if event == "os.posix_spawn" and not children:
                children.append(os.fork())
                if not children[0]:
                    time.sleep(100)
                    os._exit(0)

        sys.addaudithook(fork)
        parent = parallel(os.getppid, workers=2).submit().result()
        print(children[0], parent, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert process.stdout is not None
    child, template = map(int, process.stdout.readline().split())
    process.wait(20)
    try:
        wait_until(lambda: is_gone(template))
        assert not is_gone(child)
    finally:
        kill(child)
        process.communicate()


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "plain"])
def test_in_a_process_of_multiprocessing(script: Script, method: str, daemon: bool) -> None:
    """A process of `multiprocessing`, daemonic too, may use parmap, even where its parent does."""
    done = script.run(f"""
        import multiprocessing
        from parmap import parallel

        def square(x):
            return x * x

        def child():
            assert parallel(square, workers=2).map(range(4)) == [0, 1, 4, 9]
            assert parallel(square, workers=2).submit(3).result() == 9

        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            parallel(square, workers=2).map(range(4))
            process = context.Process(target=child, daemon={daemon})
            process.start()
            process.join()
            print(process.exitcode, parallel(square, workers=2).map(range(4)))
    """)

    assert (done.stdout, done.stderr) == ("0 [0, 1, 4, 9]\n", "")


def test_in_workers_of_multiprocessing_pool(script: Script) -> None:
    """Tasks of `multiprocessing.Pool` may use parmap."""
    done = script.run("""
        import multiprocessing
        from parmap import parallel

        def inner(x):
            return sum(parallel(abs, workers=2).map(range(x)))

        if __name__ == "__main__":
            with multiprocessing.get_context("fork").Pool(2) as pool:
                print(pool.map(inner, range(5)))
    """)

    assert (done.stdout, done.stderr) == ("[0, 0, 1, 3, 6]\n", "")


def test_callbacks_that_submit_wait_and_raise(script: Script) -> None:
    """A done-callback may start work and wait for it; one that raises harms nothing but its log."""
    done = script.run("""
        import logging, threading
        from parmap import parallel
        logging.basicConfig(format="%(message)s", level=logging.CRITICAL)
        square = parallel(lambda x: x * x, workers=1)
        told = []
        over = threading.Semaphore(0)

        def wait(future):
            told.append((square.submit(future.result()).result(), square.map([3])))
            over.release()

        def fail(future):
            over.release()
            raise ValueError("a callback")

        def leave(future):
            over.release()
            raise SystemExit(3)

        for callback in (fail, wait, fail, wait):
            square.submit(2).add_done_callback(callback)
        for _ in range(4):
            assert over.acquire(timeout=20)
        print(told, square.map([4]))
    """)

    assert done.stdout == "[(16, [9]), (16, [9])] [16]\n"


def test_from_del_and_weakref_callbacks(script: Script) -> None:
    """Objects may use parmap while they are destroyed, also by the garbage collector and at exit."""
    done = script.run("""
        import gc, time
        from parmap import parallel
        square = parallel(lambda x: x * x, workers=2)
        square.map(range(3))

        class Late:
            def __init__(self):
                self.me = self
            def __del__(self):
                try:
                    told.append(square.submit(3).result())
                except RuntimeError:  # collected in parmap's own thread, or at the very end: it can't wait there
                    told.append(9)

        told = []
        for _ in range(50):
            Late()
            square.submit(1)
        deadline = time.monotonic() + 20
        while len(told) < 50 and time.monotonic() < deadline:
            gc.collect()
        print(told == [9] * 50)
        last = Late()
    """)

    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


def test_from_a_signal_handler(script: Script) -> None:
    """A signal handler may submit, and wait, in the middle of a call that waits too."""
    done = script.run("""
        import os, signal, threading, time
        from parmap import parallel
        square = parallel(lambda x: x * x, workers=2)
        nap = parallel(time.sleep, workers=2)
        told, over = [], []

        def handler(*_):
            told.append(square.submit(4).result(timeout=20))
            told.append(square.map([5]))
            if not over:
                signal.setitimer(signal.ITIMER_REAL, 0.01)  # not before: on a busy machine, handlers would pile up

        signal.signal(signal.SIGALRM, handler)
        square.map(range(10))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        for _ in range(50):
            assert square.map(range(100)) == [x * x for x in range(100)]
            assert square.submit(3).result() == 9
        nap.map([0.05] * 4)
        over.append(True)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(len(told) > 2, all(answer in (16, [25]) for answer in told))
    """)

    assert (done.stdout, done.stderr) == ("True True\n", "")


@pytest.mark.parametrize(
    "module",
    [
        "socket",
        "parmap._engine.registry",
        "parmap.backends._processes.pool",
        "cloudpickle.cloudpickle",
        "dis",
        "opcode",
    ],
)
@pytest.mark.parametrize("what", ["a handler", "a finalizer"])
def test_in_the_middle_of_the_first_call(script: Script, module: str, what: str) -> None:
    """A signal handler and a `__del__` may use parmap while a program's first call imports what it needs."""
    done = script.run(f"""
        import gc, os, signal, sys
        from parmap import parallel
        square = parallel(lambda x: x * x, workers=2)
        told = []

        def use(*_):
            told.append((square.submit(4).result(timeout=20), square.map([5])))

        class Late:
            __del__ = use

        class Finder:
            def find_spec(self, name, *_):
                if name == {module!r}:
                    if {what!r} == "a handler":
                        os.kill(os.getpid(), signal.SIGALRM)
                    else:
                        late = Late()
                        late.me = late
                        gc.set_threshold(1)

        signal.signal(signal.SIGALRM, use)
        sys.meta_path.insert(0, Finder())
        sys.modules.pop({module!r}, None)  # what measures the tests may have it already
        print(square.map([3]))
        gc.collect()
        print(told)
    """)

    assert (done.stdout, done.stderr) == ("[9]\n[(16, [25])]\n", "")


def test_a_signal_handler_that_raises(script: Script) -> None:
    """An exception out of a signal handler leaves the call at once; the pool goes on."""
    done = script.run("""
        import signal, time
        from parmap import parallel
        nap = parallel(time.sleep, workers=2)
        square = parallel(lambda x: x * x, workers=2)

        class Alarm(Exception):
            pass

        def handler(*_):
            raise Alarm

        signal.signal(signal.SIGALRM, handler)
        for wait in (lambda: nap.map([60] * 4), lambda: nap.submit(60).result(), lambda: list(nap.imap([60] * 4))):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            began = time.monotonic()
            try:
                wait()
            except Alarm:
                print(time.monotonic() - began < 20)
        nap.shutdown
        import os
        print(square.options(workers=3).map(range(5)), flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
    """)

    assert (done.stdout, done.stderr) == ("True\nTrue\nTrue\n[0, 1, 4, 9, 16]\n", "")


@pytest.mark.parametrize(
    "call",
    [
        "f.submit(alarming).result()",
        "list(f.imap(iter([alarming, 1])))",
        "list(f.outcomes(iter([(alarming, 1)])))",
        "parallel(lambda x: (alarming, x), workers=2).map([1])",
        "parallel(lambda x, y=alarming: (y, x), workers=2).submit(1).result()",
        "parallel(operator.attrgetter, workers=2).partial(alarming).submit().result()",
    ],
)
def test_a_signal_handler_that_raises_while_something_is_pickled(script: Script, call: str) -> None:
    """It ends the call with its own error, which is not taken for one of the pickling."""
    done = script.run(f"""
        import operator, os, signal
        from parmap import parallel

        class Alarming:
            def __init__(self, *_):
                pass
            def __reduce__(self):
                if self.__dict__.pop("now", None):
                    os.kill(os.getpid(), signal.SIGALRM)
                return Alarming, (1,)

        def handler(*_):
            raise TimeoutError("the program's")

        signal.signal(signal.SIGALRM, handler)
        f = parallel(lambda x: x, workers=2)
        alarming = Alarming()
        alarming.now = True
        try:
            {call}
        except TimeoutError as error:
            print(error, type(error.__cause__))
        print(f.map([1, 2]))
    """)

    assert (done.stdout, done.stderr) == ("the program's <class 'NoneType'>\n[1, 2]\n", "")


@pytest.mark.parametrize(
    "handler",
    [
        "lambda *_: fail()",
        "functools.partial(handle, None)",
        "Handler()",
        "Handler().handle",
        "once",
    ],
)
def test_a_signal_handler_of_any_kind_that_raises(script: Script, handler: str) -> None:
    """What it raises ends the call, also if it has seen to it that it won't be called again."""
    done = script.run(f"""
        import functools, os, signal
        from parmap import parallel

        class Alarming:
            def __reduce__(self):
                os.kill(os.getpid(), signal.SIGALRM)
                return Alarming, ()

        def fail():
            raise OSError("the program's")

        def handle(_, signum, frame):
            fail()

        class Handler:
            def __call__(self, signum, frame):
                fail()

            handle = __call__

        def once(signum, frame):
            signal.signal(signum, signal.SIG_IGN)
            fail()

        signal.signal(signal.SIGALRM, {handler})
        try:
            parallel(lambda x: x, workers=2).submit(Alarming()).result()
        except OSError as error:
            print(error)
    """)

    assert (done.stdout, done.stderr) == ("the program's\n", "")


@pytest.mark.parametrize("backend", ["processes", "threads"])
@pytest.mark.parametrize(
    "call", ["f.map([600])", "list(f.imap([600]))", "f.submit(600).result()", "f.map_async([600]).result(600)"]
)
def test_a_signal_that_another_thread_has_received(script: Script, call: str, backend: str) -> None:
    """Its handler runs soon, though the main thread, which has to run it, waits and was not woken."""
    done = script.run(f"""
        import os, signal, threading, time
        from parmap import parallel

        def handler(*_):
            raise InterruptedError

        def receive():
            while len(os.listdir(".")) < 2:
                time.sleep(0.01)
            signal.pthread_kill(threading.get_ident(), signal.SIGALRM)

        def nap(seconds):
            open("begun", "w").close()
            time.sleep(seconds)

        signal.signal(signal.SIGALRM, handler)
        f = parallel(nap, workers=1, backend={backend!r})
        threading.Thread(target=receive).start()
        try:
            {call}
        except InterruptedError:
            print("interrupted", flush=True)
        os._exit(0)
    """)

    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_while_the_interpreter_exits(script: Script) -> None:
    """Threads and `atexit` callbacks that use parmap while the interpreter exits end with a result or a clear error."""
    done = script.run("""
        import atexit, threading
        from parmap import parallel
        square = parallel(lambda x: x * x, workers=2)

        def late():
            try:
                print(square.map(range(3)))
            except RuntimeError as error:
                print("closed")

        atexit.register(late)
        square.map(range(3))

        def work():
            for _ in range(200):
                square.submit(2).result()

        threading.Thread(target=work).start()
    """)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("[0, 1, 4]\n", "closed\n")


def test_an_executor_made_before_a_fork(script: Script) -> None:
    """A server that forks after its modules have made executors and pools: each process has its own workers."""
    done = script.run(
        """
        import os
        from parmap import Executor, Pool

        unused, used, pool, closed = Executor(1), Executor(1), Pool(1), Executor(1)
        assert used.submit(abs, -1).result() == 1
        closed.shutdown()
        child = os.fork()
        print(unused.submit(abs, -2).result(), list(used.map(abs, [-3])), pool.map(abs, [-4]), flush=True)
        try:
            closed.submit(abs, -5)
        except RuntimeError as error:
            print(error, flush=True)
        for each in (unused, used):
            each.shutdown()
        pool.terminate()
        if child:
            print(os.waitpid(child, 0)[1])
        """
    )

    assert done.stdout.splitlines() == 2 * ["2 [3] [4]", "cannot schedule new futures after shutdown"] + ["0"], done


@pytest.mark.parametrize("kind", ["ThreadPoolExecutor", "ProcessPoolExecutor"])
def test_a_standard_executor_does_not_survive_a_fork(kind: str, script: Script) -> None:
    """Its threads are the parent's: the child is told so, and does not wait for them."""
    done = script.run(
        f"""
        import multiprocessing
        import os
        from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
        from parmap import PoolClosedError, parallel

        if __name__ == "__main__":
            multiprocessing.set_start_method("spawn")
            executor = {kind}(1)
            f = parallel(abs, backend=executor)
            assert f.map([-1]) == [1]
            child = os.fork()
            if child == 0:
                try:
                    f.map([-1])
                except PoolClosedError as error:
                    print("belongs to the parent" in str(error), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            print(f.map([-2]))
        """
    )

    assert done.stdout == "True\n[2]\n", done


def test_where_sockets_wait_for_all(script: Script) -> None:
    """A library may put its own in the place of `socket.socket`, as gevent does: reading waits, whatever the flags."""
    done = script.run("""
        import socket

        class Patient(socket.socket):
            def recvmsg(self, size, room=0, flags=0):
                return super().recvmsg(size, room, flags & ~socket.MSG_DONTWAIT)

        socket.socket = Patient
        from parmap import parallel
        double = parallel(lambda x: 2 * x, workers=2)
        print(double.map(range(5)), double.submit(5).result(), list(double.imap([6])))
    """)

    assert (done.stdout, done.stderr) == ("[0, 2, 4, 6, 8] 10 [12]\n", "")


def test_where_polling_is_taken_away(script: Script) -> None:
    """Under eventlet worker processes can't be had, which is said at once; threads can."""
    done = script.run("""
        import select
        del select.poll
        from parmap import WorkerDiedError, parallel
        for call in (lambda f: f.map([1]), lambda f: f.submit(1).result()):
            try:
                call(parallel(abs))
            except WorkerDiedError as error:
                print("eventlet" in str(error), 'backend="threads"' in str(error))
        print(parallel(abs, backend="threads").map([-1]))
    """)

    assert (done.stdout, done.stderr) == ("True True\nTrue True\n[1]\n", "")


def test_a_task_that_takes_polling_away(script: Script) -> None:
    """A task may patch its worker as eventlet does: what is large is sent still."""
    done = script.run("""
        from parmap import parallel

        @parallel(workers=1)
        def task(number):
            import select
            vars(select).pop("poll", None)
            print("x" * 3_000_000)
            return number

        print(task.map(range(3)))
    """)

    assert done.stdout.splitlines() == ["x" * 3_000_000] * 3 + ["[0, 1, 2]"], done.stderr


def test_under_a_debugger_that_watches_settrace(script: Script) -> None:
    """A debugger as debugpy warns of whoever uses `sys.settrace`: no thread of parmap does that it traces already."""
    done = script.run("""
        import sys, threading
        from parmap import parallel

        met = []

        def warn(trace):
            if sys._getframe(1).f_globals["__name__"] != "threading":
                met.append(trace)

        sys.settrace, sys.gettrace = warn, lambda: len
        threading.settrace(len)
        print(parallel(lambda x: x + 1, workers=1).map([1]), met)
        sys.gettrace = lambda: None
        print(parallel(abs, workers=2, backend="threads").map([-1]), {*met} == {len})
    """)

    assert (done.stdout, done.stderr) == ("[2] []\n[1] True\n", "")


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_in_a_frozen_program(script: Script, method: str) -> None:
    """What PyInstaller makes would only start itself again: a call says so, and threads can be had, by a variable too."""
    done = script.run(f"""
        import os, sys
        sys.frozen = True
        from parmap import WorkerDiedError, parallel
        for call in (lambda f: f.map([1]), lambda f: f.submit(1).result(), lambda f: list(f.imap([1]))):
            try:
                call(parallel(abs, start_method={method!r}))
            except WorkerDiedError as error:
                print("frozen" in str(error), 'backend="threads"' in str(error))
        os.environ["PARMAP_BACKEND"] = "threads"
        print(parallel(abs).map([-1]))
    """)

    assert (done.stdout, done.stderr) == ("True True\n" * 3 + "[1]\n", "")


LESS = """
import _socket, array, errno, mmap, os, selectors, stat, sys, sysconfig

os.environ["_PYTHON_SYSCONFIGDATA_NAME"] = sysconfig._get_sysconfigdata_name()
sys.platform = "darwin"

DONTWAIT, pair, spawn = _socket.MSG_DONTWAIT, _socket.socketpair, os.posix_spawn
PRIORITY = 12  # of a socket, means nothing: here, that it was received
sent = set()  # inodes of sockets


def sockets_of(beside):
    for _, _, data in beside:
        fds = array.array("i", bytes(data))
        yield from (fd for fd in fds if stat.S_ISSOCK(os.fstat(fd).st_mode))


class Socket(_socket.socket):
    __slots__ = ()

    def sendmsg(self, buffers, beside=(), flags=0, *address):  # it waits for room, whatever the flags
        sent.update(os.fstat(fd).st_ino for fd in sockets_of(beside))
        return super().sendmsg(buffers, beside, flags & ~DONTWAIT, *address)

    def recvmsg(self, size, *how):
        data, beside, *more = super().recvmsg(size, *how)
        for fd in sockets_of(beside):
            other = Socket(fileno=fd)
            other.setsockopt(_socket.SOL_SOCKET, PRIORITY, 1)
            other.detach()
        return data, beside, *more

    def close(self):  # what only a message holds is taken for garbage
        if self.fileno() >= 0 and os.fstat(self.fileno()).st_ino in sent:
            if not self.getsockopt(_socket.SOL_SOCKET, PRIORITY):
                self.shutdown(_socket.SHUT_RD)
        super().close()


def socketpair(family=_socket.AF_UNIX, kind=_socket.SOCK_STREAM, proto=0):
    if kind == _socket.SOCK_SEQPACKET:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")
    ends = pair(family, kind, proto)
    for end in ends:
        end.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 4096)
    return ends


def posix_spawn(path, argv, env, *, file_actions=(), **how):
    if any(what == os.POSIX_SPAWN_DUP2 and fd in where for what, fd, *where in file_actions):
        raise OSError(errno.EBADF, "Bad file descriptor")
    return spawn(path, argv, env, file_actions=file_actions, **how)


class Mapping(mmap.mmap):
    def resize(self, size):
        super().resize(len(self))
        raise SystemError("mmap: resizing not available--no mremap()")


class Selector(selectors.PollSelector):
    def __init__(self):
        super().__init__()
        self.pid = os.getpid()

    def close(self):  # a process that was forked has no copy
        if self.pid != os.getpid():
            raise OSError(errno.EBADF, "Bad file descriptor")
        super().close()


_socket.socket, _socket.socketpair, os.posix_spawn, mmap.mmap = Socket, socketpair, posix_spawn, Mapping
selectors.DefaultSelector = Selector

import select, signal, socket

if hasattr(os, "process_cpu_count"):
    os.process_cpu_count = os.cpu_count  # where it has no affinity to ask for

for module, names in {
    os: ("memfd_create", "eventfd", "eventfd_read", "eventfd_write", "pidfd_open", "sched_getaffinity", "waitid"),
    select: ("epoll",),
    signal: ("SIGRTMIN", "SIGRTMAX"),
    _socket: ("MSG_CMSG_CLOEXEC", "MSG_NOSIGNAL", "SO_PEERCRED"),
    socket: ("MSG_CMSG_CLOEXEC", "MSG_NOSIGNAL", "SO_PEERCRED"),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

def check(event, args):  # nor a /proc
    if event == "open" and str(args[0]).startswith("/proc"):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", args[0])


sys.addaudithook(check)
look = os.stat
os.stat = lambda path, *args, **how: check("open", (path,)) or look(path, *args, **how)
"""


@pytest.fixture
def like_macos(script: Script) -> Script:
    """A place to run scripts in, on a system that is like macOS."""
    script.write(LESS, "sitecustomize.py")
    script.environment["PYTHONPATH"] = os.pathsep.join(
        [str(script.folder), *filter(None, [script.environment.get("PYTHONPATH")])]
    )
    return script


@pytest.mark.parametrize("method", [None, "forkserver"])
def test_without_what_only_linux_has(like_macos: Script, method: str | None) -> None:
    """Workers start, tasks of all sizes run, deaths and limits of time cost their item, on a system like macOS."""
    done = like_macos.run(
        f"""
        import os, time

        from parmap import broadcast, parallel

        if __name__ == "__main__":
            table = broadcast(bytes(200_000))

            @parallel(workers=2, timeout=20, start_method={method!r})
            def task(number):
                if number == 3:
                    os._exit(1)
                return bytes(number) + table.value[:1]

            print([type(each).__name__ for each in task.map(range(5), return_exceptions=True)])
            print([len(task.submit(size).result()) for size in (2, 30_000, 3_000_000)])
            print(sum(map(len, task.imap([200_000] * 20))))
            stuck = parallel(time.sleep, workers=1, timeout=0.1, start_method={method!r}).submit(60)
            print(type(stuck.exception()).__name__, sum(future.result() for future in [
                parallel(abs, workers=2, start_method={method!r}).submit(-number) for number in range(200)]))
        """
    )

    assert done.stdout.splitlines() == [
        "['bytes', 'bytes', 'bytes', 'WorkerDiedError', 'bytes']",
        "[3, 30001, 3000001]",
        "4000020",
        "TaskTimeoutError 19900",
    ], done.stderr
    assert done.stderr == ""


def test_large_arguments_wait_for_no_task_on_macos(like_macos: Script) -> None:
    """Large arguments and results pass each other; those that wait for a busy worker keep nobody from the others."""
    done = like_macos.run("""
        import time

        from parmap import parallel

        if __name__ == "__main__":
            print(sum(map(len, parallel(lambda part: part, workers=2).map([bytes(2_000_000)] * 10))))

            @parallel(workers=2, timeout=2)
            def task(part):
                if part[0]:
                    time.sleep(600)
                return len(part)

            parts = [bytes([number < 2]) * 500_000 for number in range(8)]
            print([getattr(each, "timeout", each) for each in task.map(parts, return_exceptions=True)])
    """)

    assert (done.stdout, done.stderr) == (f"20000000\n{[2.0] * 2 + [500_000] * 6}\n", "")


def test_copies_where_mappings_keep_their_size(like_macos: Script) -> None:
    """Private copies of what is large, as of arguments for a cluster, can be made where there is no `mremap`."""
    done = like_macos.run("""
        from parmap.backends._processes.line.copies import LARGE, copies

        for _ in range(3):
            copy = copies.copy(memoryview(bytearray(LARGE)))
            copy[0] = 1
        print(copy[0], copy.nbytes == LARGE)
    """)

    assert (done.stdout, done.stderr) == ("1 True\n", "")


LEAST = """
import asyncio, concurrent.futures.process, multiprocessing.pool, tempfile  # as they are on this system

import _socket, faulthandler, mmap, os, select, signal, socket, sys, time

sys.platform = "win32"
clock, STEP = time.monotonic_ns, 15_625_000  # nanoseconds, before Python 3.13
time.monotonic_ns = lambda: clock() // STEP * STEP
time.monotonic = lambda: time.monotonic_ns() / 1e9

if hasattr(os, "process_cpu_count"):
    os.process_cpu_count = os.cpu_count  # it has no affinity to ask for
sys.modules |= dict.fromkeys(("fcntl", "grp", "pwd", "resource", "termios", "_posixsubprocess"))
kept = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN"}

for module, names in {
    os: "fork register_at_fork posix_spawn posix_spawnp waitid wait WNOHANG killpg getpgrp setpgid setsid getuid geteuid "
    "sysconf pread memfd_create eventfd eventfd_read eventfd_write sched_getaffinity O_NONBLOCK O_ASYNC set_blocking",
    signal: "pthread_sigmask pthread_kill sigwait setitimer alarm siginterrupt "
    + " ".join(name for name in dir(signal) if name.startswith("SIG") and name not in kept),
    select: "poll epoll POLLIN POLLOUT POLLHUP",
    _socket: "AF_UNIX MSG_DONTWAIT MSG_NOSIGNAL MSG_CMSG_CLOEXEC SCM_RIGHTS CMSG_SPACE SO_PEERCRED",
    socket: "AF_UNIX MSG_DONTWAIT MSG_NOSIGNAL MSG_CMSG_CLOEXEC SCM_RIGHTS CMSG_SPACE SO_PEERCRED",
    mmap: "MAP_SHARED MAP_PRIVATE MAP_ANONYMOUS PROT_READ PROT_WRITE",
    faulthandler: "register unregister",
    sys: "abiflags",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""


def test_without_what_windows_lacks(script: Script) -> None:
    """Threads and the serial backend do all that they do elsewhere; who asks for worker processes is told where to go."""
    script.write(LEAST, "sitecustomize.py")
    script.environment["PYTHONPATH"] = os.pathsep.join(
        [str(script.folder), *filter(None, [script.environment.get("PYTHONPATH")])]
    )
    done = script.run(
        """
        import re

        import parmap
        from parmap import BackendUnavailableError, Executor, Pool, broadcast, per_worker, report

        def half(number):
            return table.value / number

        def calls(**how):
            global table
            table, own = broadcast(12), per_worker(list)
            divide = parmap.parallel(half, workers=2, **how)
            yield lambda: divide.map([1, 2])
            yield lambda: divide.submit(3).result()
            yield lambda: [*divide.imap([4])]
            yield lambda: str(divide.map([0, 6], return_exceptions=True, progress=False))
            yield lambda: parmap.parallel(lambda number: len(own()) + number, **how).map([7])
            yield lambda: divide.map([1], journal=f"{how}.journal") + divide.map([1, 2], journal=f"{how}.journal")
            yield lambda: Executor(1, **how).submit(abs, -8).result()
            yield lambda: Pool(1, **how).apply(abs, (-9,))

        told = []
        clusters = [lambda name=name: parmap.parallel(abs, backend=name).map([1]) for name in ("dask", "ray")]
        for call in [*calls(), *clusters]:
            try:
                call()
            except BackendUnavailableError as error:
                told.append('backend="threads"' in str(error) and "PARMAP_BACKEND=threads" in str(error))
        print(told)
        with report():
            for backend in ("threads", "serial"):
                print([call() for call in calls(backend=backend)])
        with report() as found:
            parmap.parallel(abs, backend="threads").map(range(20_000))
        print(int(re.search("chunks ([0-9,]+)", str(found))[1].replace(",", "")) < 2_000)
        """
    )

    zero = "[ZeroDivisionError('division by zero'), 2.0]"
    found = [[12.0, 6.0], 4.0, [3.0], zero, [7], [12.0, 12.0, 6.0], 8, 9]
    assert done.stdout.splitlines() == [str([True] * 10), *[str(found)] * 2, "True"], done.stderr


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_in_a_server_with_an_interpreter_in_it(script: Script, method: str, told: bool) -> None:
    """Its program, which `sys.executable` names under uWSGI, is started by nobody: workers are of a Python beside it.

    Or of the one that `multiprocessing` was told to start.
    """
    done = script.run(f"""
        import os, sys

        python = sys.executable
        os.symlink("/bin/false", "server")
        sys.executable = os.path.abspath("server")
        if {told}:
            import multiprocessing
            sys.exec_prefix = "/nowhere"
            multiprocessing.set_executable(python)
        from parmap import parallel

        print(parallel(lambda x: x + 1, workers=1, start_method={method!r}).map([1]))
    """)

    assert (done.stdout, done.stderr) == ("[2]\n", "")


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_in_a_module_that_is_being_imported(script: Script, tmp_path: Path, method: str) -> None:
    """Its instances are pickled by another thread, which would wait for the import, which waits for the results."""
    (tmp_path / "shop.py").write_text(f"""
from dataclasses import dataclass
from parmap import parallel

@dataclass
class Item:
    price: int

@parallel(workers=2, start_method={method!r})
def double(item):
    return Item(2 * item.price)

items = [Item(1), Item(2)]
calls = [double.map(items), list(double.imap(items)), double.map_async(items).result()]
calls += [[double.submit(item).result() for item in items]]
""")
    script.environment["PYTHONPATH"] = str(tmp_path)
    done = script.run(
        """
        import shop
        print(*[[each.price for each in call] for call in shop.calls], shop.__spec__._initializing)
        """,
        timeout=60,
    )

    assert done.stdout.splitlines()[-1:] == ["[2, 4] [2, 4] [2, 4] [2, 4] False"], done.stderr
