"""`progress=`: a bar of tqdm's, lines in a log file, or a call of the user's function."""

from __future__ import annotations

import asyncio
import fcntl
import io
import itertools
import operator
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from typing import TYPE_CHECKING, Any

import pytest
import tasks
import tasks_in_turn

from conftest import Script, wait_until
from parmap import BackendUnavailableError, parallel

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.usefixtures("pools_stay")


class Calls(list[tuple[int, int | None, int]]):
    """What the callback was told, and in which threads."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[str] = set()

    def __call__(self, done: int, total: int | None, failed: int) -> None:
        self.append((done, total, failed))
        self.threads.add(threading.current_thread().name)


def test_a_callback_counts_items(backend: dict[str, Any]):
    """It is told of all items, whatever the chunks, in the thread that waits."""
    told = Calls()
    parallel(tasks.square, **backend).map(range(1000), progress=told)

    assert told[-1] == (1000, 1000, 0)
    assert told == sorted(told)
    assert told.threads == {threading.current_thread().name}


def test_a_callback_counts_failures(backend: dict[str, Any]):
    """Failed items are done, too, and counted apart."""
    told = Calls()
    parallel(tasks.inverse, progress=told, **backend).map([1, 0, 2, 0], return_exceptions=True)

    assert told[-1] == (4, 4, 2)


def test_retried_items_count_once(processes: dict[str, Any]):
    """What is tried again has not ended."""
    told = Calls()
    f = parallel(tasks.inverse, retries=2, **processes)
    f.map([1, 0, 2], return_exceptions=True, progress=told)

    assert told[-1] == (3, 3, 1)
    assert max(done for done, _, _ in told) == 3


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_streams_tell(backend: dict[str, Any], method: str):
    """Streams tell as their results come; the total is unknown where the input has no length."""
    told = Calls()
    f = parallel(tasks.square, **backend)
    list(getattr(f, method)((number for number in range(100)), progress=told))

    assert told[-1] == (100, None, 0)


@pytest.mark.parametrize("method", ["imap", "imap_unordered", "outcomes"])
def test_streams_over_streams_know_their_total(backend: dict[str, Any], method: str):
    """A stream whose input is another one has as many items as that has still to give, if anybody knows."""
    told = Calls()
    f = parallel(tasks.square, **backend)
    with f.imap(range(100)) as inner:
        assert [next(inner), next(inner)] == [0, 1]
        assert operator.length_hint(inner) == 98
        outer = getattr(f, method)(f.imap(f.imap_unordered(inner)), progress=told)
        assert len(list(outer)) == 98

    assert told[-1] == (98, 98, 0)
    assert (operator.length_hint(inner), operator.length_hint(outer)) == (0, 0)
    with f.imap(number for number in range(9)) as unknown:
        assert operator.length_hint(unknown, -1) == -1


def test_a_total_of_several_inputs(processes: dict[str, Any]):
    """The shortest of those that have a length counts, whatever they are."""
    told = Calls()
    f = parallel(pow, **processes)

    list(f.imap(f.imap(range(7), [1] * 9), itertools.count(), progress=told))
    assert told[-1] == (7, 7, 0)


def test_async_streams_tell(processes: dict[str, Any]):
    """So do streams on an event loop."""
    told = Calls()

    async def consume() -> list[int]:
        return [value async for value in parallel(tasks.square, **processes).imap(range(50), progress=told)]

    assert asyncio.run(consume()) == [number**2 for number in range(50)]
    assert told[-1] == (50, 50, 0)


def test_starmap_tells(backend: dict[str, Any]):
    """All methods do."""
    told = Calls()
    parallel(pow, **backend).starmap([(2, 3), (3, 2)], progress=told)

    assert told[-1] == (2, 2, 0)


def test_map_async_tells(backend: dict[str, Any]):
    """A batch that nobody waits for yet tells, too."""
    told = Calls()
    future = parallel(tasks.square, **backend).map_async(range(100), progress=told)
    wait_until(lambda: told and told[-1] == (100, 100, 0))

    assert future.result()[-1] == 99**2


def test_a_serial_batch_tells_in_its_own_thread():
    """It has told when it is there, by nobody else, who might wait for what a signal handler's caller holds."""
    threads: list[threading.Thread] = []
    parallel(tasks.square, backend="serial").map_async(
        range(3), progress=lambda *_: threads.append(threading.current_thread())
    )

    assert set(threads) == {threading.current_thread()}


def test_a_callback_that_raises_ends_the_call(processes: dict[str, Any]):
    """Its error is the caller's."""

    def refuse(done: int, total: int | None, failed: int) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        parallel(tasks.square, **processes).map(range(100), progress=refuse)


def test_a_log_file_gets_lines(processes: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    """Where stderr is no terminal: few lines, no control characters, the final state among them."""
    parallel(tasks.inverse, progress="work", **processes).map([1, 0, 2, 0], return_exceptions=True)

    text = capsys.readouterr().err
    assert text.endswith("\n")
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "work: 100%" in text.splitlines()[-1]
    assert "4/4" in text.splitlines()[-1]
    assert "failed=2" in text.splitlines()[-1]
    assert len(text.splitlines()) <= 3


@pytest.mark.parametrize("method", ["map", "imap", "outcomes", "map_async"])
def test_no_bar_is_left_of_an_input_that_raises(backend: dict[str, Any], method: str):
    """It would be drawn again and again, beside those of later calls."""
    from tqdm import tqdm

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(getattr(parallel(tasks.square, progress=True, **backend), method)(broken()))

    assert not [*getattr(tqdm, "_instances", ())]


def test_a_log_file_that_nobody_reads(processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """If its pipe is closed, or its disk full, the call goes on: as it does for what tasks print."""

    class Broken(io.StringIO):
        def write(self, *_: str) -> int:
            raise BrokenPipeError

        flush = write  # type: ignore[assignment]

    monkeypatch.setattr(sys, "stderr", Broken())
    f = parallel(tasks.square, progress=True, **processes)

    assert f.map([1, 2]) == list(f.imap([1, 2])) == f.map_async([1, 2]).result(60) == [1, 4]


@pytest.mark.parametrize("problem", [NotImplementedError(), OverflowError(), ValueError()], ids=repr)
def test_an_input_whose_length_can_not_be_told(processes: dict[str, Any], problem: Exception):
    """What its `__len__` raises is no reason not to begin: the total is not known."""

    class Unknown:
        def __len__(self) -> int:
            raise problem

        def __iter__(self) -> Any:
            return iter(range(5))

    told = Calls()
    parallel(tasks.square, progress=told, **processes).map(Unknown())

    assert told[-1] == (5, None, 0)


def test_a_terminal_gets_a_bar(script: Script):
    """In a terminal the bar is drawn in place, named after the function; prints go above it, on lines of their own."""
    path = script.write("""
        from parmap import parallel

        def talkative(x):
            print("task", x)
            return x

        parallel(talkative, workers=2, progress=True).map(range(8))
    """)
    text = _in_terminal(path)

    assert "talkative: 100%" in text
    assert "8/8" in text
    assert {f"task {number}" for number in range(8)} <= _lines(text)


def test_no_bar_is_drawn_over_output(script: Script):
    """Records of loggers, warnings and what has no end of line are lines of their own above the bar."""
    path = script.write("""
        import logging, warnings
        from parmap import parallel

        def talkative(x):
            logging.getLogger("tasks").warning("logged %s", x)
            warnings.warn("warned")
            print("unfinished", x, end="")

        logging.basicConfig(format="%(message)s")
        parallel(talkative, workers=2, progress=True).map(range(8), chunksize=1)
    """)
    lines = _lines(_in_terminal(path))

    assert {f"logged {number}" for number in range(8)} <= lines
    assert {f"unfinished {number}" for number in range(8)} <= lines
    assert any(line.endswith("UserWarning: warned") for line in lines)


def test_output_without_end_that_waits_together(script: Script):
    """What several tasks printed without an end of line does not run together above the bar."""
    path = script.write("""
        from tqdm import tqdm
        from parmap._results.screen.relay import relay

        with tqdm(total=1):
            with relay._turn:  # nobody writes before both wait
                relay.put("print", ("stdout", "one"))
                relay.put("print", ("stdout", "two"))
            relay.drain()
    """)

    assert {"one", "two"} <= _lines(_in_terminal(path))


def _lines(text: str) -> set[str]:
    """What is seen of each line in the end."""
    return {line.rpartition("\r")[2].strip() for line in text.replace("\r\n", "\n").split("\n")}


@pytest.mark.parametrize(
    ("work", "bars"),
    [
        ("for _ in f.imap(f.imap(f.imap(range(30), progress='a'), progress='b'), progress='c'): pass", "a b c"),
        ("for _ in zip(f.imap(range(30), progress='a'), f.imap(range(10), progress='b')): pass", "b a"),
        ("with ThreadPoolExecutor(3) as e: [*e.map(lambda n: f.map(range(n), progress=str(n)), [9, 3, 27])]", "3 9 27"),
        ("[x.result() for x in [f.map_async(range(n), progress=str(n)) for n in [9, 3, 27]]]", "3 9 27"),
    ],
    ids=["nested", "in step", "threads", "later"],
)
def test_several_bars_stay_whole(script: Script, work: str, bars: str):
    """Each has its own line, from its beginning to its end; what is printed meanwhile stands above; nothing is left."""
    path = script.write(f"""
        import time
        from concurrent.futures import ThreadPoolExecutor
        from parmap import parallel

        @parallel(workers=2)
        def f(x):
            time.sleep(0.03)
            if x % 9 == 4:
                print("task", x)
            return x

        {work}
        print("end")
    """)
    lines = [line for line in _screen(_in_terminal(path)) if line]

    shown = [line for line in lines if not line.startswith("task ")]
    assert shown[-1] == "end"
    assert sorted(line.partition(":")[0] for line in shown[:-1]) == sorted(bars.split())
    assert all(re.fullmatch(r"\w+: +\d+%\|.*\| \d+/\d+ \[.* items/s\]", line) for line in shown[:-1]), lines
    assert all(re.fullmatch(r"task \d+", line) for line in lines if line not in shown)


def _screen(text: str) -> list[str]:
    """What is seen in the end, where the cursor moves up and down."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[A|\r|\n|[^\x1b\r\n]+", text):
        if part == "\x1b[A":
            row -= 1
        elif part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        else:
            lines[row] = lines[row].ljust(column)[:column] + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


def test_several_bars_in_a_log_file(script: Script):
    """Bars of calls at the same time, and one inside the loop over another, send no control characters either."""
    done = script.run("""
        from parmap import parallel

        square = parallel(lambda x: x * x, workers=2)
        for number in square.imap(range(3), progress="outer"):
            square.map(range(3), progress=f"inner {number}")
    """)

    assert all(character.isprintable() or character == "\n" for character in done.stderr)
    assert {line.partition(":")[0] for line in done.stderr.splitlines()} == {"outer", "inner 0", "inner 1", "inner 4"}


class CellOutput(io.StringIO):
    """What a notebook puts in the place of stderr: no terminal, yet one where a line can be overwritten."""

    __module__ = "ipykernel.iostream"


def test_a_notebook_without_widgets_gets_a_bar(processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """It moves, as in a terminal, and not a line now and then as in a log file."""
    cell = CellOutput()
    monkeypatch.setattr(sys, "stderr", cell)
    parallel(tasks.square, progress=True, **processes).map(range(10))

    assert cell.getvalue().startswith("\rsquare:   0%")
    assert "100%" in cell.getvalue().rstrip().rpartition("\r")[2]


def _in_terminal(path: str) -> str:
    """What a script writes to a terminal."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen([sys.executable, path], stdin=end, stdout=end, stderr=end)
    os.close(end)
    parts = []
    try:
        while part := os.read(terminal, 1 << 16):
            parts.append(part)
    except OSError:  # how the end of a terminal looks
        pass
    os.close(terminal)
    process.wait(60)
    return b"".join(parts).decode()


def test_nested_calls_are_silent(processes: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    """A batch inside a task is part of that task: one bar, not many."""
    parallel(tasks_in_turn.with_progress, **processes).map([3, 4])

    assert capsys.readouterr().err == ""


def test_without_tqdm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, processes: dict[str, Any]):
    """The bar is an extra."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)

    with pytest.raises(BackendUnavailableError, match=r"pip install .parmap-decorators\[progress\]") as caught:
        parallel(tasks.square, progress=True, **processes).map([1])
    assert isinstance(caught.value, ImportError)


def test_it_costs_nothing_when_off(script: Script):
    """Without the option, tqdm is not imported."""
    done = script.run("""
        import sys
        from parmap import parallel
        parallel(abs, workers=1).map([1])
        print("tqdm" in sys.modules, "parmap._results.screen.progress" in sys.modules)
    """)

    assert done.stdout.split()[0] == "False"
