"""A signal that comes while results are taken is never swallowed, and no result is lost or handed out twice."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import signal
import sys
import threading
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import tasks
import tasks_at_fault as bad
from injection import Injector as AnywhereInjector
from inspection import callbacks_end

import parmap
from conftest import wait_until
from parmap import Pool, parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

pytestmark = [
    pytest.mark.usefixtures("pools_stay"),
    pytest.mark.skipif(
        threading.current_thread() is not threading.main_thread(), reason="signals are handled in the main thread"
    ),
]


HOME = os.path.join(os.path.dirname(parmap.__file__), "")
HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


class Interrupted(Exception):
    """What a signal handler of the program's may raise."""


def _interrupt(*_: object) -> None:
    raise Interrupted


@pytest.fixture(params=["Ctrl-C", "a handler that raises"])
def interruption(request: pytest.FixtureRequest) -> Iterator[tuple[int, type[BaseException]]]:
    """A signal, and what it raises here."""
    if request.param == "Ctrl-C":
        yield signal.SIGINT, KeyboardInterrupt
        return
    before = signal.signal(signal.SIGUSR1, _interrupt)
    yield signal.SIGUSR1, Interrupted
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("result", [bad.SignalsWhenLoaded, bad.fails_with_signal], ids=["a result", "an exception"])
def test_an_interruption_while_results_are_decoded(
    processes: dict[str, Any], interruption: tuple[int, type[BaseException]], result: Any
) -> None:
    """It leaves the call, whatever is decoded; what can be asked again gives the result then."""
    signum, kind = interruption
    f = parallel(bad.gives_signal, **processes)
    f.map([(None, 0)])
    item = (result, signum)

    for call in (
        lambda: f.map([item]),
        lambda: f.map([(None, 0), item, (None, 1)], return_exceptions=True),
        lambda: next(f.imap([item])),
        lambda: next(f.imap_unordered([item], return_exceptions=True)),
    ):
        with bad.armed(), pytest.raises(kind):
            call()
    for future in (f.submit(item), f.map_async([item], return_exceptions=True)):
        with bad.armed(), pytest.raises(kind):
            future.exception(60)
        error = future.exception(60)
        assert error is None or type(error) is bad.FailsWithSignal
    assert f.map([(None, 0), (None, 1)]) == [0, 1]


def test_a_stream_goes_on_after_an_interruption(processes: dict[str, Any], interruption: Any) -> None:
    """Results that were being decoded when the signal came are handed out afterwards, each once."""
    signum, kind = interruption
    items = [(None, 0), (None, 1), (bad.SignalsWhenLoaded, signum), (None, 3)]
    for method in ("imap", "imap_unordered"):
        stream = getattr(parallel(bad.gives_signal, **processes), method)(items * 5, chunksize=4)
        got: list[Any] = []
        with bad.armed(), pytest.raises(kind):
            got.extend(stream)
        got.extend(stream)

        assert len(got) == 20
        assert sorted(str(type(one)) for one in got) == sorted([str(int)] * 15 + [str(bad.SignalsWhenLoaded)] * 5)


# --- at every place ---------------------------------------------------------------------------------------------------


class Injector(AnywhereInjector):
    """Looks at the code of parmap only."""

    def __call__(self, frame: FrameType, event: str, more: object) -> Any:
        """Look at the instructions of a function."""
        is_meant = frame.f_code.co_filename.startswith(HOME)
        return super().__call__(frame, event, more) if is_meant else None


def everywhere(signum: int, make: Callable[[], Any]) -> Iterator[Injector]:
    """One for each place to come through while a stream is read, where there are most of them in a few tries."""
    counters = [Injector(signum) for _ in range(5)]
    for counter in counters:
        counter.run(partial(list, make()))
    most = max(counters, key=lambda counter: counter.count)
    assert most.count > 100
    for at, within in most.places():
        yield Injector(signum, at, within)


@pytest.fixture
def handle() -> Iterator[Callable[[Callable[[], object]], object]]:
    """Sets what SIGUSR1 does."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda act: signal.signal(signal.SIGUSR1, lambda *_: act())
    signal.signal(signal.SIGUSR1, before)


NUMBERS = list(range(6))
STREAMS: dict[str, Callable[[Any], Any]] = {
    "imap": lambda f: f.imap(iter(NUMBERS), buffersize=2),
    "imap_unordered": lambda f: f.imap_unordered(iter(NUMBERS), buffersize=2),
    "imap of a list": lambda f: f.imap(NUMBERS, chunksize=4),
}


@pytest.mark.skipif(sys.gettrace() is not None, reason="somebody traces already")
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("backend", ["processes", "threads"])
def test_a_stream_loses_nothing_wherever_it_is_interrupted(name: str, backend: Any) -> None:
    """Whoever catches the Ctrl-C and goes on gets each result once, up to the end or to where the stream was closed."""
    f = parallel(bad.same, workers=2, backend=backend)
    f.map(NUMBERS)
    for injector in everywhere(signal.SIGINT, lambda: STREAMS[name](f)):
        stream = STREAMS[name](f)
        got: list[int] = []
        interrupted = injector.run(lambda stream=stream, got=got: got.extend(stream)) is KeyboardInterrupt
        got.extend(stream)

        assert got == NUMBERS[: len(got)] if name != "imap_unordered" else len(set(got)) == len(got)
        assert interrupted or len(got) == len(NUMBERS)
    assert f.map(NUMBERS) == NUMBERS


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_may_be_used_by_a_signal_handler_at_any_moment(name: str, handle: Callable[[Any], object]) -> None:
    """What the handler takes from the stream and what the program takes are all results, each once."""
    f = parallel(bad.same, workers=2)
    f.map(NUMBERS)
    for injector in everywhere(signal.SIGUSR1, lambda: STREAMS[name](f)):
        stream = STREAMS[name](f)
        got: list[int] = []
        taken: list[int] = []

        def take(stream: Any = stream, taken: list[int] = taken) -> None:
            try:
                taken.append(next(stream))
            except (StopIteration, RuntimeError):  # at the end; while the input is read
                pass

        handle(take)
        injector.run(lambda stream=stream, got=got: got.extend(stream))

        assert sorted(got + taken) == NUMBERS


@pytest.mark.parametrize("by", ["Ctrl-C", "a handler that asks, too"])
def test_a_batch_with_retries_loses_nothing_wherever_it_is_interrupted(
    by: str, handle: Callable[[Any], object]
) -> None:
    """Whoever asks for its results again gets all of them, those too that came later, when they were tried again."""
    seen: set[int] = set()

    def fail_once(number: int) -> int:
        if number in {0, 3} and number not in seen:
            seen.add(number)
            raise ValueError(number)
        return number

    f = parallel(fail_once, workers=1, backend="threads", retries=1, chunksize=6)
    at = 0
    while True:
        at += 1
        seen.clear()
        future = f.map_async(NUMBERS)
        wait_until(future.done)
        handle(future.result)
        injector = Injector(signal.SIGINT if by == "Ctrl-C" else signal.SIGUSR1, (at,))
        injector.run(future.result)

        assert future.result() == NUMBERS
        if injector.count < at:
            break
    assert at > 20


def test_the_end_of_a_batch_is_told_wherever_its_cancelling_is_interrupted() -> None:
    """Either nothing has happened, and it can be cancelled again; or whoever waits for it hears."""
    free = threading.Event()
    f = parallel(lambda _: free.wait(60), workers=1, backend="threads")
    running = f.submit(0)
    at = 0
    while True:
        at += 1
        told: list[Any] = []
        future = f.map_async([1])
        future.add_done_callback(told.append)
        concurrent.futures.wait([future], 0)
        injector = Injector(signal.SIGINT, (at,))
        injector.run(future.cancel)
        if not future.done():
            future.cancel()

        wait_until(lambda told=told: told)  # type: ignore[misc]
        assert told == [future]
        assert concurrent.futures.wait([future], 60).done == {future}
        if injector.count < at:
            break
    assert at > 20
    free.set()
    assert running.result(60)


@pytest.mark.parametrize("wait", [concurrent.futures.wait, concurrent.futures.as_completed])
def test_waiting_is_interrupted_anywhere(wait: Callable[[Any], Any]) -> None:
    """What `concurrent.futures` holds at that moment, maybe for ever, keeps no other call from its end."""
    f = parallel(tasks.square, workers=1, backend="threads")
    counter = AnywhereInjector(signal.SIGINT)
    counter.run(lambda: [*wait([f.submit(1), f.submit(2)])])
    for at, within in counter.places():
        with suppress(RuntimeError):  # of `threading`, at two places of its own
            AnywhereInjector(signal.SIGINT, at, within).run(lambda: [*wait([f.submit(1), f.submit(2)])])

        found: list[Any] = []
        future = f.submit(3)
        other = threading.Thread(target=lambda found=found, future=future: found.extend(wait([future], timeout=30)))
        other.start()
        other.join(60)
        assert found in ([future], [{future}, set()])
    assert counter.count > 50


def test_an_event_whose_lock_is_lost_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may come when `as_completed` has just taken the lock of its event, which is never given back then."""
    events: list[Any] = []
    begin = threading.Event.__init__
    free = threading.Event()
    future = parallel(lambda _: free.wait(60), workers=1, backend="threads").submit(0)
    monkeypatch.setattr(threading.Event, "__init__", lambda event: begin(event) or events.append(event))
    found: list[Any] = []
    other = threading.Thread(target=lambda: found.extend(concurrent.futures.as_completed([future])))
    other.start()
    wait_until(lambda: future._waiters)
    for event in events:
        event._cond.acquire()
    free.set()
    other.join(20)

    assert found == [future]


def test_a_ctrl_c_while_a_thread_of_ours_is_started() -> None:
    """It is not taken for an error of the starting, nor lost."""
    with Pool(1, backend="serial") as pool:

        def call() -> None:
            callbacks_end()
            pool.apply_async(abs, (1,), {}, lambda _: None)

        for _ in range(2):
            counter = AnywhereInjector(signal.SIGINT)
            counter.run(call)
        for at in range(max(1, counter.count - 40), counter.count - 5):
            injector = AnywhereInjector(signal.SIGINT, (at,))
            assert injector.run(call) is KeyboardInterrupt or not injector.where


def test_a_handler_may_wait_for_a_callback_while_one_is_waited_for() -> None:
    """A signal handler uses the pool whose result, which has a callback, the program is waiting for."""
    done: list[Any] = []
    tries = 14  # up to where it sleeps
    with Pool(2, backend="threads") as pool:
        for at in range(1, tries + 1):
            go = threading.Event()
            result = pool.apply_async(go.wait, (60,), {}, done.append)

            def handle(*_: object, go: threading.Event = go) -> None:
                go.set()
                pool.apply_async(abs, (-5,), {}, done.append).wait()

            before = signal.signal(signal.SIGUSR1, handle)
            try:
                AnywhereInjector(signal.SIGUSR1, (at,)).run(result.wait)
            finally:
                signal.signal(signal.SIGUSR1, before)
    assert sorted(done) == [True] * tries + [5] * tries


# --- nothing is kept --------------------------------------------------------------------------------------------------


class Thing:
    """An argument or a result that can be watched."""


def _make(_: Any) -> Thing:
    return Thing()


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("options", [{}, {"chunksize": 10}, {"retries": 1}], ids=str)
def test_a_stream_lets_go_of_what_it_handed_out(backend: dict[str, Any], method: str, options: dict[str, Any]) -> None:
    """A result that the consumer drops is gone, though others of its chunk are not handed out yet."""
    chunksize = {"chunksize": options["chunksize"]} if "chunksize" in options else {}
    others = {name: value for name, value in options.items() if name != "chunksize"}
    stream = getattr(parallel(_make, **others, **backend), method)(range(40), **chunksize)
    seen = []
    for result in stream:
        seen.append(weakref.ref(result))
        del result
        # A thread that had it may be at its next line not yet; without the GIL the collector must come to it.
        wait_until(lambda: (HAS_GIL or gc.collect() >= 0) and not any(ref() is not None for ref in seen))


@pytest.mark.parametrize("how", ["exhausted", "closed"])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_stream_that_is_over_holds_nothing(backend: dict[str, Any], method: str, how: str) -> None:
    """Neither its input nor an argument nor a result is alive, though the stream is."""
    watched: list[Any] = []

    def source() -> Iterator[Thing]:
        for _ in range(30):
            thing = Thing()
            watched.append(weakref.ref(thing))
            yield thing

    items = source()
    watched.append(weakref.ref(items))
    stream = getattr(parallel(_make, **backend), method)(items, buffersize=8)
    del items
    if how == "exhausted":
        watched += [weakref.ref(result) for result in stream]
    else:
        watched.append(weakref.ref(next(stream)))
        stream.close()

    def nothing_is_alive() -> bool:
        gc.collect()
        return not any(ref() is not None for ref in watched)

    wait_until(nothing_is_alive)
    assert list(stream) == []


def test_an_exhausted_stream_says_so(backend: dict[str, Any]) -> None:
    """What is shown of a stream counts the results that were handed out."""
    stream = parallel(bad.same, **backend).imap(range(5))
    next(stream)
    assert "1 results handed out, open" in repr(stream)
    list(stream)
    assert "5 results handed out, closed" in repr(stream)
