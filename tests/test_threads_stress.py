"""Threads use one pool in every way at once: nothing may be right only because one of them runs at a time."""

from __future__ import annotations

import concurrent.futures
import ctypes
import itertools
import random
import sys
import threading
import time
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import tasks

from conftest import wait_until
from parmap import Executor, parallel, shutdown
from parmap.backends._processes.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Script

THREADS = 8


class Crowd:
    """Threads that share one pool; `wrong` says what any of them saw that can't be."""

    def __init__(self, backend: str) -> None:
        self.f = parallel(tasks.identity, workers=2, backend=backend)
        self.executor = Executor(2, backend=backend)
        self.wrong: list[str] = []
        self.called: list[int] = []  # callbacks, by the number of their task; `append` is one step
        self.due: list[int] = []
        self._shared: list[Any] = []  # futures that all threads may wait for, or cancel
        self._numbers = threading.local()

    def new(self, size: int) -> range:
        """Numbers that no other task has."""
        first: int = self._numbers.next
        self._numbers.next += size
        return range(first, first + size)

    def submit(self, _: random.Random) -> None:
        """One task, waited for."""
        (number,) = self.new(1)
        assert self.f.submit(number).result(timeout=60) == number

    def map(self, chance: random.Random) -> None:
        """A batch."""
        numbers = self.new(chance.choice([1, 20, 300]))
        assert self.f.map(numbers) == list(numbers)

    def stream(self, chance: random.Random) -> None:
        """A stream, read to its end or closed early."""
        numbers = self.new(50)
        with self.f.imap(numbers) as stream:
            wanted = chance.choice([1, 50])
            assert [value for value, _ in zip(stream, range(wanted), strict=False)] == list(numbers[:wanted])

    def as_completed(self, _: random.Random) -> None:
        """Many tasks, taken as they end: each once."""
        numbers = self.new(30)
        futures = {self.executor.submit(tasks.identity, number): number for number in numbers}
        seen = list(concurrent.futures.as_completed(futures, timeout=60))
        assert Counter(future.result() for future in seen) == Counter(numbers)

    def wait(self, _: random.Random) -> None:
        """Many tasks, waited for together."""
        futures = [self.f.submit(number) for number in self.new(20)]
        done, left = concurrent.futures.wait(futures, timeout=60)
        assert (len(done), len(left)) == (20, 0)

    def cancel(self, _: random.Random) -> None:
        """Tasks that are dropped, each at once or too late."""
        for future, number in [(self.f.submit(number), number) for number in self.new(5)]:
            if future.cancel():
                assert future.cancelled()
            else:
                assert future.result(timeout=60) == number

    def call_back(self, _: random.Random) -> None:
        """Callbacks run once, before their future ends or after."""
        for number in self.new(10):
            self.due.append(number)
            self.f.submit(number).add_done_callback(lambda future: self.called.append(future.result()))

    def share(self, chance: random.Random) -> None:
        """A future that several threads wait for, look at and cancel at once."""
        (number,) = self.new(1)
        self._shared.append((self.f.submit(number), number))
        future, number = chance.choice(self._shared[-4:])
        future.done()
        if chance.random() < 0.3:
            future.cancel()
        try:
            assert future.result(timeout=60) == number
        except concurrent.futures.CancelledError:
            assert future.cancelled()

    def live(self, name: int, until: Callable[[int], bool]) -> None:
        """What one thread does."""
        chance = random.Random(name)
        self._numbers.next = name * 100_000_000
        ways = [
            self.submit,
            self.map,
            self.stream,
            self.as_completed,
            self.wait,
            self.cancel,
            self.call_back,
            self.share,
        ]
        done = 0
        while not until(done) and not self.wrong:
            way = ways[done % len(ways)] if done < len(ways) else chance.choice(ways)
            try:
                way(chance)
            except BaseException as error:
                self.wrong.append(f"{way.__name__}: {error!r}")
            done += 1

    def run(self, until: Callable[[int], bool]) -> None:
        """Let all threads live, and see that all was right."""
        threads = [threading.Thread(target=self.live, args=(name, until), daemon=True) for name in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(1000)
        assert self.wrong == []
        assert not any(thread.is_alive() for thread in threads)
        wait_until(lambda: len(self.called) >= len(self.due))
        assert Counter(self.called) == Counter(self.due)
        self.executor.shutdown()


@pytest.fixture
def impatient() -> Iterator[None]:
    """Let threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("backend", ["processes", "threads"])
def test_eight_threads(backend: str) -> None:
    """Each result is right, each future ends once, and each callback runs once."""
    Crowd(backend).run(lambda done: done >= 60)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("backend", ["processes", "threads"])
def test_eight_threads_for_minutes(backend: str) -> None:
    """The same, long enough to meet what is rare."""
    end = time.monotonic() + 120
    Crowd(backend).run(lambda _: time.monotonic() > end)


@pytest.mark.usefixtures("impatient")
def test_tasks_come_and_go_while_the_engine_looks_after_them() -> None:
    """What is in flight on a quick line changes at any moment: without the GIL, in the midst of any loop."""
    over = threading.Event()
    line = SimpleNamespace(flight=dict.fromkeys(range(3)), drain=lambda: None, send_again=lambda _: True)
    page = SimpleNamespace(position=lambda: SimpleNamespace(number=0))
    worker: Any = SimpleNamespace(quick=line, page=page, _seen=set())

    def come_and_go() -> None:
        for number in itertools.count(3):
            line.flight[number] = None
            line.flight.pop(number - 3)
            if over.is_set():
                return

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(5000):
            Worker.look_after_quick(worker)
    finally:
        over.set()
        thread.join()


def keep_changing(over: threading.Event, few: dict[Any, Any], many: dict[Any, Any], inner: dict[Any, Any]) -> None:
    """Count up in all of them, and put in and take out other things."""
    for count in itertools.count(1):
        few["count"] = many["count"] = inner["list"][0]["count"] = inner["row"][0] = inner["object"].count = count
        for some in (few, many, inner, vars(inner["object"])):
            some[f"more {count}"] = count
            some.pop(f"more {count - 5}", None)
        if over.wait(random.choice([0, 0, 0.001, 0.02])):
            return


def change_while_others_call(until: Callable[[int], bool]) -> None:
    """One thread changes all that a function captures; each call sees all parts as they were at a moment of its own."""
    few: dict[Any, Any] = {"count": 0}
    many: dict[Any, Any] = dict.fromkeys(("count", *range(2000)), 0)
    inner: dict[Any, Any] = {"list": [{"count": 0}], "row": [0] * 2000, "object": SimpleNamespace(count=0)}

    def see(_: object = None) -> tuple[int, ...]:
        return few["count"], many["count"], inner["list"][0]["count"], inner["row"][0], inner["object"].count

    over = threading.Event()
    wrong: list[object] = []

    f = parallel(see, workers=2)
    ways = [lambda: f.map([0, 1]), lambda: [f.submit().result(60)], lambda: list(f.imap(iter([0])))]

    def call(name: int) -> None:
        done = 0
        try:
            while not until(done) and not wrong:
                before, results, after = see(), ways[(name + done) % 3](), see()
                for result in results:
                    assert all(a <= b <= c for a, b, c in zip(before, result, after, strict=True))
                done += 1
        except BaseException as error:
            wrong.append(error)

    changing = threading.Thread(target=keep_changing, args=(over, few, many, inner))
    threads = [threading.Thread(target=call, args=(name,)) for name in range(3)]
    for thread in (changing, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    changing.join()
    assert wrong == []


@pytest.mark.usefixtures("impatient")
def test_a_function_whose_captures_change() -> None:
    """No call sees what was before it."""
    change_while_others_call(lambda done: done >= 30)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("impatient")
def test_a_function_whose_captures_change_for_minutes() -> None:
    """The same, long enough to meet what is rare."""
    end = time.monotonic() + 120
    change_while_others_call(lambda _: time.monotonic() > end)


def test_a_thread_that_is_ended_from_outside() -> None:
    """What another thread raises in an idle worker, as recipes for ending threads do, costs no task."""
    f = parallel(threading.get_ident, backend="threads", workers=1)
    for _ in range(3):
        ended = ctypes.c_ulong(f.submit().result(timeout=20))
        assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ended, ctypes.py_object(SystemExit)) == 1

        assert f.submit().exception(timeout=20) is None


class Own(concurrent.futures.Executor):
    """One of the program's, of which nobody knows that it has threads."""

    def __init__(self) -> None:
        self._threads = concurrent.futures.ThreadPoolExecutor(4)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """As the threads do it."""
        return self._threads.submit(fn, *args, **kwargs)


@pytest.mark.usefixtures("impatient")
def test_many_functions_at_once_in_one_process_of_an_executor() -> None:
    """Each is found by its own tasks, while others come and go."""
    executor = Own()
    functions = [parallel(lambda x, y=number: x + y, backend=executor, workers=4) for number in range(1500)]

    futures = [f.submit(number) for number, f in enumerate(functions)]
    assert [future.result(60) for future in futures] == [2 * number for number in range(1500)]
    shutdown()


def test_a_gil_that_is_there_for_a_moment(script: Script) -> None:
    """A free-threaded Python has one while any thread loads an extension module, as maybe when parmap is imported."""
    run = script.run(
        """
        import sys, sysconfig
        sys._is_gil_enabled = lambda: True
        from parmap._work.threads import HAS_GIL
        print(HAS_GIL is not bool(sysconfig.get_config_var("Py_GIL_DISABLED")))
        """
    )
    assert run.stdout == "True\n", run.stderr
