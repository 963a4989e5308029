"""What tasks print, log and warn of comes out in the parent, in whole lines, before their results."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tasks_that_talk as talk

import parmap
from conftest import Script, wait_until
from parmap import RemoteError, WorkerDiedError, parallel
from parmap._results.screen import relay as _relay
from parmap.backends._processes.poller import Poller

pytestmark = pytest.mark.usefixtures("pools_stay")


def lines(text: str) -> list[str]:
    """The lines of *text* in order of the alphabet, since workers take turns as they like."""
    return sorted(text.splitlines())


class Blocked(io.StringIO):
    """Standard output that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def write(self, text: str) -> int:
        assert self.goes_on.wait(60)
        return super().write(text)


class Kept(io.TextIOBase):
    """Standard output that keeps all, whichever threads write and read; to look at pytest's own takes it away."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def write(self, text: str) -> int:
        self.parts.append(text)
        return len(text)


@contextlib.contextmanager
def blocked_output():
    """Block standard output."""
    blocked = Blocked()
    try:
        with contextlib.redirect_stdout(blocked):  # not a fixture: pytest puts its own stream in place in between
            yield blocked
    finally:
        blocked.goes_on.set()


# --- print ------------------------------------------------------------------------------------------------------------


def test_prints_arrive(backend: dict[str, Any]):
    """Both streams come out where the parent's own come out."""
    out, err = Kept(), Kept()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        parallel(talk.say_to_both, **backend).map(range(3))

    for kept, name in ((out, "out"), (err, "err")):
        said = "".join(kept.parts)
        if backend["backend"] != "threads":  # each of which writes "out", " ", "0" and the end of the line by itself
            assert lines(said) == [f"{name} 0", f"{name} 1", f"{name} 2"]
        assert sorted(said) == sorted("".join(f"{name} {number}\n" for number in range(3)))


def test_prints_come_before_the_result(processes: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    """When `result()` returns, what the task printed is there; whether or not the engine ran it."""
    f = parallel(talk.say, **processes)
    for number in range(20):
        f.submit(number).result()

        assert capsys.readouterr().out == f"said {number}\n"


def test_prints_come_before_each_item_of_a_stream(processes: dict[str, Any]):
    """A stream hands out no item before its output."""
    kept = Kept()
    with contextlib.redirect_stdout(kept), parallel(talk.say, **processes).imap(range(50), chunksize=1) as stream:
        for number in stream:
            assert f"said {number}\n" in "".join(kept.parts)


def test_prints_come_before_an_error(processes: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    """The last words of a worker that dies are not lost, and come first."""
    with pytest.raises(WorkerDiedError):
        parallel(talk.say_and_die, **processes).map([7])

    assert capsys.readouterr().out == "last words 7\n"


def test_an_unfinished_line_is_not_kept(processes: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    """What a task printed without an end comes out when the task is done, as it is."""
    parallel(talk.say_without_end, **processes).submit(1).result()

    assert capsys.readouterr().out == "part 1"


@pytest.mark.parametrize("how", ["print(x, flush=True)", "print(x) or sys.stdout.flush()"])
def test_what_is_flushed_is_not_kept(processes: dict[str, Any], script: Script, how: str):
    """A line that a task has flushed is flushed by the program, too, whose stream may hold it back: it can be followed."""
    script.environment["PYTHONUNBUFFERED"] = ""
    done = script.run(f"""
        import os, sys
        from parmap import parallel
        parallel(lambda x: {how}, **{processes!r}).map([1, 2])
        os._exit(0)  # flushes nothing
    """)

    assert sorted(done.stdout.split()) == ["1", "2"], done.stderr


def test_bytes_arrive(processes: dict[str, Any], script: Script):
    """`sys.stdout.buffer` is there; what is no text arrives byte for byte where the parent's encoding allows."""
    done = script.run(f"""
        import sys
        from parmap import parallel
        sys.path.insert(0, {sys.path[0]!r})

        def f(data):
            sys.stdout.buffer.write(data)

        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        parallel(f, **{processes!r}).map(["é".encode() + b"\\n"])
    """)

    assert (done.stdout, done.stderr) == ("é\n", "")


def test_what_can_not_be_encoded_is_escaped(processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """A terminal with a small alphabet loses nothing and raises nothing."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", newline="\n"))
    parallel(talk.say, **processes).map(["é"])
    sys.stdout.flush()

    assert raw.getvalue() == b"said \\xe9\n"


def test_lines_of_threads_stay_whole(processes: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    """Threads of a task print at the same time; no line is broken, none is lost."""
    parallel(talk.say_in_threads, **processes).map([20, 20])

    assert lines(capsys.readouterr().out) == sorted(2 * [f"{n:04}" * 20 for n in range(20)])


def test_lines_of_workers_stay_whole(processes: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    """Workers print at the same time; no line is broken, none is lost."""
    parallel(talk.flood, **processes).map([300] * 4)

    assert capsys.readouterr().out.splitlines() == ["x" * 999] * 1200


def test_destructors_may_print(processes: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    """Output in the middle of a message, from a destructor that happens to run there, harms nothing."""
    f = parallel(talk.talk_as_it_is_destroyed, **processes)

    assert f.map([10_000] * 4) == [list(range(60_000))] * 4
    assert set(capsys.readouterr().out.splitlines()) == {"gone"}


def test_a_forked_child_prints_by_itself(processes: dict[str, Any], capfd: pytest.CaptureFixture[str]):
    """A process that a task forks writes to the descriptor, not into its parent's line to us."""
    parmap.shutdown()  # the descriptor is that of the moment in which a worker starts
    parallel(talk.say_in_a_fork, **processes).map([1, 2])

    assert lines(capfd.readouterr().out) == ["child 1", "child 2", "parent 1", "parent 2"]


def test_closed_output_is_no_error(processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """Results come even where nothing can be written."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    results = parallel(talk.say, **processes).map([1, 2])
    monkeypatch.undo()

    assert results == [1, 2]


def test_no_output_at_all_is_no_error(processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """Nor where there is no stream, as under pythonw."""
    monkeypatch.setattr(sys, "stdout", None)
    results = parallel(talk.say, **processes).map([1, 2])
    monkeypatch.undo()

    assert results == [1, 2]


def test_warnings_arrive(script: Script):
    """A warning is shown as ever, on stderr, or where the program has its warnings."""
    run = script.run("""
import logging, sys, warnings
from parmap import parallel
f = parallel(warnings.warn, workers=2)
f.map(["careful"])
logging.basicConfig(stream=sys.stdout)
logging.captureWarnings(True)
f.map(["logged"])
""")

    assert "UserWarning: careful\n" in run.stderr
    assert "logged" not in run.stderr
    assert "UserWarning: logged" in run.stdout


def test_warnings_among_lines(processes: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    """What a task prints before and after it warns comes out, and the warning too."""

    def talk_and_warn(place: int) -> int:
        for _ in range(50):
            print("line")
            warnings.warn("between", stacklevel=1)
        return place

    f = parallel(talk_and_warn, **processes)
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        assert f.map(range(4)) == [0, 1, 2, 3]
    assert [str(each.message) for each in recorded] == ["between"] * 200
    assert capsys.readouterr().out == "line\n" * 200


def test_warnings_that_can_not_be_sent(processes: dict[str, Any]):
    """A warning that can't be pickled is one still, and says the same."""

    def warn(_: int) -> None:
        warnings.warn(UserWarning("held", threading.Lock()), stacklevel=1)

    f = parallel(warn, **processes)
    with pytest.warns(UserWarning, match="held"):
        f.map([0])


def test_warnings_are_recorded(processes: dict[str, Any]):
    """Whoever records warnings has those of tasks, as they are; what a task records is its own."""

    class Ours(UserWarning):
        def __init__(self, what: str, place: int) -> None:
            super().__init__(what)
            self.place = place

    def warn(place: int) -> int:
        warnings.warn(Ours("ours", place), stacklevel=1)
        with warnings.catch_warnings(record=True) as own:
            warnings.warn("own", stacklevel=1)
        return len(own)

    f = parallel(warn, **processes)
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        assert f.map([1, 2]) == [1, 1]
        assert f.submit(3).result() == 1

    assert sorted(each.message.place for each in recorded) == [1, 2, 3]  # type: ignore[union-attr]
    assert {(each.category, each.filename, str(each.message)) for each in recorded} == {(Ours, __file__, "ours")}
    with pytest.warns(Ours, match="ours"):
        f.map([4])


def test_warnings_are_shown_once(processes: dict[str, Any]):
    """What the filters show once, however often it is warned of, is shown once, by whatever worker."""

    def warn(place: int) -> None:
        warnings.warn("again", stacklevel=1)
        warnings.warn(f"of {place}", stacklevel=1)

    f = parallel(warn, **processes, max_tasks_per_child=1)
    found = []
    for action in ("default", "always", "default", "default"):  # a new block warns anew
        with warnings.catch_warnings(record=True) as recorded:
            warnings.simplefilter(action)  # type: ignore[arg-type]  # it is one of those
            f.map([1, 2, 3, 3])
        found.append(sorted(str(each.message) for each in recorded))

    once = ["again", "of 1", "of 2", "of 3"]
    assert found == [once, [*["again"] * 4, "of 1", "of 2", "of 3", "of 3"], once, once]


def test_warnings_are_filtered_as_here(backend: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    """What the program ignores is not shown, what it makes an error is one in the task; also if it does so later."""
    f = parallel(talk.warn_plainly, **backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        f.map([1, 2])
        ignored = capsys.readouterr().err
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="plain")
        with pytest.raises(UserWarning, match="plain 3"):
            f.map([3])

    assert ignored == ""


def test_warnings_are_recorded_as_here(backend: dict[str, Any]):
    """Whoever records warnings has those of tasks, wherever they run, and nobody else has."""
    f = parallel(talk.warn_plainly, **backend)
    found = {}

    def call(name: str) -> None:
        with warnings.catch_warnings(record=True) as recorded:
            warnings.simplefilter("always")
            f.map([name, name])
            f.submit(name).result()
            list(f.imap([name]))
        found[name] = [str(each.message) for each in recorded]

    for name in "ab":
        call(name)
    assert found == {name: [f"plain {name}"] * 4 for name in "ab"}
    if getattr(sys.flags, "context_aware_warnings", False):
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(call, "cdefghij"))
        assert found == {name: [f"plain {name}"] * 4 for name in "abcdefghij"}


@pytest.mark.skipif(sys.version_info < (3, 14), reason="filters are those of the process")
def test_warnings_of_each_context():
    """All this holds where filters are a matter of each context, as they are on builds without the GIL."""
    command = [sys.executable, "-X", "context_aware_warnings=1", "-X", "thread_inherit_context=1", "-m", "pytest"]
    chosen = ["-q", "-p", "no:cacheprovider", "-n", "0", "-k", "(warnings or filter) and not each_context", __file__]
    run = subprocess.run([*command, *chosen], capture_output=True, text=True, timeout=150, check=False)
    assert run.returncode == 0, run.stdout


def test_warnings_of_a_program_without_filters(processes: dict[str, Any]):
    """A program that has reset its filters has what Python itself hides shown, that of tasks too."""
    f = parallel(lambda: len(warnings.filters), **processes)
    with warnings.catch_warnings():
        warnings.resetwarnings()
        assert f.submit().result() == 0


def test_filters_of_unknown_categories_are_left_out(processes: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    """A category that workers can't have does not keep the other filters from them."""

    class Ours(UserWarning):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Ours)
        parallel(talk.warn_plainly, **processes).map([1, 2])

    assert capsys.readouterr().err == ""


def test_filters_import_nothing(processes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A filter for warnings of a library does not have workers import it; once a task does, the filter holds."""
    (tmp_path / "gong.py").write_text("class Gong(UserWarning): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    gong = importlib.import_module("gong")

    def ring(aloud: bool) -> bool:
        was_there = "gong" in sys.modules
        if aloud:
            warnings.warn(importlib.import_module("gong").Gong("rung"), stacklevel=1)
        return was_there

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", gong.Gong)
        f = parallel(ring, **processes)
        assert f.map([False] * 4) == [False] * 4
        with pytest.raises(UserWarning, match="rung"):
            f.map([True])
    del sys.modules["gong"]


# --- much output ------------------------------------------------------------------------------------------------------


def test_much_output_is_bounded(processes: dict[str, Any]):
    """While nothing can be written, chatty workers wait in `print`, and little is kept here; nothing is lost."""
    with blocked_output() as out:
        future = parallel(talk.flood, **processes).submit(20_000)
        wait_until(lambda: _relay.relay.is_full)
        kept = sum(len(fields[-1]) for _, fields in _relay.relay.waiting)
        out.goes_on.set()
        count = future.result(60)

    written = len(out.getvalue())
    assert (count, written) == (20_000, 20_000_000)
    assert kept < 2 * _relay.ROOM


def test_room_that_is_taken_at_once(processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """Whoever tells that there is room may be slow: meanwhile it is gone, and asked for once more."""
    wake = Poller.wake

    def slowly(self: Poller) -> None:
        wake(self)
        if threading.current_thread().name == "parmap-output":
            with contextlib.suppress(pytest.fail.Exception):  # in the end nobody takes it
                wait_until(lambda: _relay.relay.is_full, 0.5)

    with blocked_output() as out:
        future = parallel(talk.flood, **processes).map_async([20_000])
        wait_until(lambda: _relay.relay.is_full)
        monkeypatch.setattr(Poller, "wake", slowly)
        out.goes_on.set()
        assert future.result(60) == [20_000]


def test_quiet_workers_go_on(processes: dict[str, Any]):
    """A chatty task does not hold up what others do."""
    with blocked_output() as out:
        chatty = parallel(talk.flood, **processes).submit(20_000)
        wait_until(lambda: _relay.relay.is_full)
        quiet = [parallel(abs, **processes).submit(number) for number in range(20)]
        wait_until(lambda: all(future.done() for future in quiet))
        was_done = chatty.done()
        out.goes_on.set()

        assert chatty.result(60) == 20_000
    assert not was_done


def test_cancelling_a_chatty_task(processes: dict[str, Any]):
    """A worker that waits in `print` can be stopped."""
    with blocked_output() as out:
        chatty = parallel(talk.flood, **processes).submit(20_000)
        wait_until(lambda: _relay.relay.is_full)

        assert chatty.cancel()
        out.goes_on.set()
        assert parallel(abs, **processes).map([-1, -2]) == [1, 2]


def test_streams_say_what_they_are(processes: dict[str, Any]):
    """Libraries that ask whether they write to a terminal, or for a descriptor, are answered as for plain output."""
    found = parallel(talk.look_at_the_streams, **processes).submit().result()

    assert found == [(os.isatty(1), 1), (os.isatty(2), 2)]


# --- logging ----------------------------------------------------------------------------------------------------------


def test_records_arrive(processes: dict[str, Any], caplog: pytest.LogCaptureFixture):
    """A record comes to the logger of its name, with its level and extras; what can't travel, as text."""
    with caplog.at_level(logging.INFO):
        parallel(talk.log, **processes).submit(logging.INFO).result()

    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == ("tasks", logging.INFO, "logged 20")
    assert record.fine == {1: 2}
    assert record.stuck == "<it>"


def test_tracebacks_of_records_arrive(processes: dict[str, Any], caplog: pytest.LogCaptureFixture):
    """`logger.exception` shows where."""
    parallel(talk.log_an_error, **processes).submit().result()

    (record,) = caplog.records
    assert record.getMessage() == "it failed"
    assert "KeyError: 'lost'" in record.exc_text


def test_exceptions_of_records_arrive(processes: dict[str, Any], caplog: pytest.LogCaptureFixture):
    """Handlers that look at the exception itself have it, even one that can't travel; the text is written once."""
    parallel(talk.log_an_error, **processes).submit().result()
    parallel(talk.log_a_strange_error, **processes).submit().result()

    first, second = (record.exc_info for record in caplog.records)
    assert first is not None
    assert (first[0], repr(first[1])) == (KeyError, "KeyError('lost')")
    assert isinstance(second and second[1], RemoteError)
    assert caplog.text.count("KeyError: 'lost'") == 1


def test_a_record_with_what_cant_be_shown(processes: dict[str, Any], caplog: pytest.LogCaptureFixture):
    """What can neither travel nor tell what it is costs the record nothing else."""
    parallel(talk.log_what_cant_be_shown, **processes).submit().result()

    (record,) = caplog.records
    assert record.getMessage() == "it is there"
    assert "Mute" in record.mute


def test_a_record_that_does_not_fit_its_arguments(capfd: pytest.CaptureFixture[str]):
    """A mistake in a task's logging call is told on standard error, as it is here, and the task goes on."""
    parallel(talk.log_nonsense, workers=1).submit().result()
    parmap.shutdown()

    told = capfd.readouterr().err
    assert "--- Logging error ---" in told
    assert "'%d of them'" in told


def test_levels_of_a_task_do_not_open_the_program_s(caplog: pytest.LogCaptureFixture):
    """A record that only the task wanted is not shown by a program that does not."""
    with caplog.at_level(logging.WARNING):
        parallel(talk.log_on_a_level_of_its_own, workers=1).submit().result()

    assert caplog.records == []


@pytest.mark.parametrize("level", [27, logging.WARNING])
def test_levels_have_the_names_that_the_program_gives_them(
    level: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """A level of its own, or one of `logging` with another name."""
    monkeypatch.setitem(logging._levelToName, level, "notice")
    with caplog.at_level(level):
        parallel(talk.log, workers=1).submit(level).result()

    assert [record.levelname for record in caplog.records] == ["notice"]


def test_a_handler_that_fails(monkeypatch: pytest.MonkeyPatch):
    """An error in a handler of the program's is told, and keeps no result back."""

    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ZeroDivisionError(record.getMessage())

    told: list[str] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, _: told.append(f"{kind.__name__}: {error}"))
    handler = Failing()
    logging.getLogger("tasks").addHandler(handler)
    try:
        assert parallel(talk.log, workers=1).submit(logging.WARNING).result() is None
    finally:
        logging.getLogger("tasks").removeHandler(handler)

    assert told == ["ZeroDivisionError: logged 30"]


def test_records_that_do_not_propagate_arrive(processes: dict[str, Any]):
    """They are for handlers that only the program has, as those of `multiprocessing.log_to_stderr` are."""
    told: list[logging.LogRecord] = []

    class Telling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record)

    logger, handler = logging.getLogger("tasks.apart"), Telling()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        parallel(talk.log_apart, **processes).submit().result()
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)

    assert [record.getMessage() for record in told] == ["logged apart"]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="queues can't be sent")
def test_a_handler_in_a_worker(script: Script):
    """A program that has none shows no record besides, where it would not if the handler were its own."""
    run = script.run("""
import logging
from multiprocessing import get_context
from logging.handlers import QueueHandler
from parmap import parallel

queue = get_context("forkserver").Queue()

def configure(name):
    logging.getLogger(name).addHandler(QueueHandler(queue))

def task(name):
    logging.getLogger(name).warning("of %s", name)

for name in ("", "app"):
    parallel(task, workers=1, initializer=configure, initargs=(name,)).map(["app", "other"])
    print(name, [queue.get().getMessage() for _ in range(1 if name else 2)])
""")

    assert (run.stdout, run.stderr) == (" ['of app', 'of other']\napp ['of app']\n", "of other\n")


@pytest.mark.parametrize("whose", ["worker", "program"])
def test_basic_config_in_a_worker(script: Script, whose: str):
    """It does what it would do in the program: nothing where that has handlers; else these are made and used."""
    run = script.run(f"""
import logging, sys
from parmap import parallel

def configure(whose):
    logging.basicConfig(level=logging.INFO, format=f"{{whose}}: %(message)s", stream=sys.stdout)

def task(_):
    logging.info("told")
    logging.warning("warned")

if {whose == "program"}:
    configure("program")
parallel(task, workers=1, initializer=configure, initargs=("worker",)).map([1])
""")

    assert (run.stdout, run.stderr) == (f"{whose}: told\n{whose}: warned\n", "")


def test_levels_are_the_parents(processes: dict[str, Any]):
    """A record that nobody wants here is not made there; a level set later counts for the next call."""
    f = parallel(talk.is_enabled, **processes)
    logger = logging.getLogger("tasks")
    try:
        logger.setLevel(logging.DEBUG)
        assert f.submit(logging.DEBUG).result() is True
        logger.setLevel(logging.ERROR)
        assert f.submit(logging.WARNING).result() is False
    finally:
        logger.setLevel(logging.NOTSET)
    assert f.submit(logging.WARNING).result() is True


def test_levels_hold_below_a_logger_that_no_task_has_made(processes: dict[str, Any]):
    """As that of an application, which its modules never ask for."""
    f = parallel(lambda name: logging.getLogger(name).getEffectiveLevel(), **processes)
    application = logging.getLogger("application")
    try:
        for level in (logging.DEBUG, logging.ERROR):
            application.setLevel(level)
            assert f.submit("application.deep.module").result() == level
        assert f.submit("application").result() == logging.ERROR
    finally:
        application.setLevel(logging.NOTSET)
    assert f.submit("application.deep.module").result() == logging.root.level


@pytest.mark.parametrize("name", ["off", "handled", "disable", "root"])
def test_levels_of_loggers_whose_name_means_something(processes: dict[str, Any], name: str):
    """A logger called `off` is one like any other."""
    f = parallel(talk.is_enabled, **processes)
    logger = logging.getLogger(name)
    before = logger.level
    try:
        logger.setLevel(logging.CRITICAL)
        assert f.submit(logging.ERROR).result() is (name != "root")
    finally:
        logger.setLevel(before)


@pytest.mark.parametrize("loaded", ["by the function", "in the task"])
def test_a_logger_whose_class_is_a_library_s_own(script: Script, loaded: str):
    """It is made by the library, in workers too, as astropy and absl do it; and has the level of the program."""
    script.write(
        """
            import logging

            class Loud(logging.getLoggerClass()):
                def shout(self, text):
                    self.info(text.upper())

            before = logging.getLoggerClass()
            logging.setLoggerClass(Loud)
            log, inner = logging.getLogger("loud"), logging.getLogger("loud.deep.inner")
            logging.setLoggerClass(before)
        """,
        "loud.py",
    )
    done = script.run(f"""
        import logging
        import loud
        from parmap import parallel

        def shout(x):
            {"pass" if loaded == "by the function" else "import loud"}
            loud.log.shout("one")
            loud.inner.shout("two")

        logging.basicConfig(format="%(name)s %(message)s")
        for level in (logging.INFO, logging.ERROR, logging.DEBUG):
            loud.log.setLevel(level)
            loud.inner.setLevel(logging.INFO)
            parallel(shout, workers=1).map([0])
        loud.inner.setLevel(logging.NOTSET)
        loud.log.setLevel(logging.ERROR)
        parallel(shout, workers=1).map([0])
    """)

    told = "loud ONE", "loud.deep.inner TWO"
    assert done.stderr.splitlines() == [*told, told[1], *told]


def test_workers_start_without_logging(processes: dict[str, Any]):
    """Nothing is imported for those who don't log: workers start fast."""
    parmap.shutdown()
    assert parallel(talk.imported, **processes).submit().result() is False


# --- the end ----------------------------------------------------------------------------------------------------------


def test_nothing_is_lost_at_exit(processes: dict[str, Any], script: Script):
    """What was printed by tasks that nobody waited for is written before the interpreter ends."""
    done = script.run(f"""
        from parmap import parallel

        def f(x):
            for n in range(1000):
                print("line", x, n)

        for x in range(4):
            parallel(f, **{processes!r}).submit(x)
    """)

    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == sorted(f"line {x} {n}" for x in range(4) for n in range(1000))


def test_prints_of_preloaded_modules_come_once(script: Script):
    """What a preloaded module prints is printed by the template, not by each worker again."""
    script.write("print('loading')", "noisy.py")
    done = script.run("""
        from parmap import parallel
        print(parallel(abs, workers=3, preload=("noisy",), start_method="forkserver").map([-1, -2, -3, -4]))
        print(parallel(abs, workers=1, preload=("noisy",), start_method="spawn").map([-1]))
    """)

    assert sorted(done.stdout.splitlines()) == ["[1, 2, 3, 4]", "[1]", "loading", "loading"]


def test_prints_of_guessed_modules_come_once(script: Script):
    """Nor is it printed by each process that a task forks, where nobody has named the module."""
    (script.folder / "site").mkdir()
    script.write("import os\nprint('loading')", "site/noisy.py")
    done = script.run("""
        import os, sys
        sys.path.insert(0, os.path.abspath("site"))
        from parmap._travel.code.needs import modules
        modules._homes = lambda: (os.path.abspath("site") + os.sep,)
        import noisy

        def fork(number):
            child = noisy.os.fork()
            if not child:
                sys.exit()
            os.waitpid(child, 0)
            return number

        print("noisy" in modules.modules_needed(fork))
        from parmap import parallel
        print(parallel(fork, workers=1, env={"OMP_NUM_THREADS": "1"}).map([1, 2, 3]))
    """)

    assert sorted(done.stdout.splitlines()) == ["True", "[1, 2, 3]", "loading", "loading"], done.stderr


def test_an_interactive_prompt_sees_output(script: Script):
    """The output of a task goes to the stream of the moment, as a notebook swaps it."""
    done = script.run("""
        import contextlib, io
        from parmap import parallel

        def f(x):
            print("in the task", x)

        with contextlib.redirect_stdout(io.StringIO()) as captured:
            parallel(f, workers=1).map([1])
        print(repr(captured.getvalue()))
    """)

    assert done.stdout == "'in the task 1\\n'\n"


@pytest.mark.parametrize("how", ["close", "detach", "wrap"])
def test_a_task_may_replace_its_streams(
    processes: dict[str, Any], capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """Whatever a task does to `sys.stdout`, and does again, its worker lives on, and its lines come before its result."""
    f = parallel(talk.replace_the_streams, **{**processes, "workers": 1})

    assert [f.submit(how).result(), *f.map([how, how])] == [how] * 3
    assert capsys.readouterr().out.splitlines() == [how] * 3


def test_a_long_line_in_many_pieces(script: Script):
    """A million pieces that no end of a line follows, as of a bar of dots, take no longer each than a thousand."""
    done = script.run("""
        import sys
        from parmap import parallel

        def dots(count):
            for _ in range(count):
                sys.stdout.write(".")

        parallel(dots, workers=1).map([1_000_000])
    """)

    assert (done.stdout, done.stderr) == ("." * 1_000_000, "")
