"""Journals: what is done stays done, whatever ends the program, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
import gc
import io
import itertools
import os
import random
import runpy
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import types
import weakref
from contextlib import closing, nullcontext, redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from injection import Injector
from inspection import file_system_by, kill, limit_journals, pids_of, pretend_file_system
from tasks_that_count import Calls, divide, point

import parmap
from conftest import wait_until
from parmap import Journal, JournalError, SerializationError, item_of, parallel
from parmap._results.batch import Batch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import FrameType

    from conftest import Script


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    """Where calls are noted."""
    return Calls(tmp_path / "calls")


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The path of a journal."""
    return str(tmp_path / "journal.sqlite")


def rows(file: str) -> list[tuple[Any, ...]]:
    """State and value of each item in a journal."""
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("select state, value from items").fetchall()


def made(source: str, name: str = "score") -> Any:
    """A function of a program of which there is only the source."""
    program: dict[str, Any] = {"__name__": "program"}
    exec(source, program)
    return parallel(program[name], backend="serial")


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Run `python -m parmap journal`; returns what it prints."""
    said = io.StringIO()
    monkeypatch.setattr(sys, "argv", ["parmap", "journal", *arguments])
    with redirect_stdout(said), redirect_stderr(said), suppress(SystemExit):
        runpy.run_module("parmap", run_name="__main__")
    return said.getvalue()


# --- what is done isn't done again ------------------------------------------------------------------------------------


def test_what_is_done_is_not_run_again(backend: dict[str, Any], calls: Calls, file: str):
    """Every method gives the same as without a journal, and runs only what no call before has done."""
    call = parallel(point, **backend).partial(calls)
    expected = [point(calls, x) for x in range(6)]
    calls.taken()

    assert call.map(range(4), journal=file) == expected[:4]
    assert calls.taken() == ["0", "1", "2", "3"]
    assert list(call.imap(iter(range(5)), journal=Path(file))) == expected[:5]
    assert calls.taken() == ["4"]
    assert sorted(call.imap_unordered(range(6), journal=Journal(file))) == expected
    assert calls.taken() == ["5"]
    assert [outcome.result() for outcome in call.outcomes(iter(range(6)), journal=file)] == expected
    assert call.map(range(6), journal=file) == expected
    assert calls.taken() == []


def test_what_failed_is_run_again(backend: dict[str, Any], calls: Calls, file: str):
    """An error is raised or returned as without a journal; the next call tries that item again, and no other."""
    call = parallel(point, **backend).partial(calls)

    with pytest.raises(ValueError, match="7"):
        call.map([7], journal=file)
    calls.taken()
    first = call.map(range(10), journal=file, return_exceptions=True)
    assert isinstance(first[7], ValueError)
    assert item_of(first[7]) == 7
    assert calls.taken() == [str(x) for x in range(10)]

    again = list(call.outcomes(range(10), journal=file))

    assert [outcome.index for outcome in again if not outcome.ok] == [7]
    assert calls.taken() == ["7"]
    assert "item 7" in again[7].error.__notes__[0]  # type: ignore[union-attr]


def test_items_that_are_the_same(calls: Calls, file: str):
    """Three of the same are three items: each is run once, and a fourth is run alone."""
    call = parallel(point, workers=2).partial(calls)

    assert len(call.map([1, 1, 2, 1], journal=file)) == 4
    assert calls.taken() == ["1", "1", "1", "2"]
    assert len(call.map([1, 2, 1, 1, 1], journal=file)) == 5
    assert calls.taken() == ["1"]
    assert len(rows(file)) == 5


def test_what_is_missing_here_and_there(calls: Calls, file: str):
    """Where every third item is done already, the others keep their numbers, their order and their seeds."""
    call = parallel(lambda x: (x, random.random()) if x != 50 else 1 / 0, workers=2, seed=1, retries=1)
    at_once = call.map(range(100), return_exceptions=True)
    for x in range(0, 100, 3):
        file_of_one = call.outcomes(range(x + 1), journal=file) if x < 10 else ()
        assert all(outcome.ok for outcome in file_of_one)

    outcomes = list(call.outcomes(range(100), journal=file))
    resumed = call.map(iter(range(100)), journal=file, return_exceptions=True)

    assert [outcome.value for outcome in outcomes] == [None if x == 50 else at_once[x] for x in range(100)]
    assert [each for each in resumed if isinstance(each, tuple)] == [*at_once[:50], *at_once[51:]]
    assert (outcomes[50].attempts, outcomes[50].index) == (2, 50)


def test_items_are_those_of_the_input(calls: Calls, file: str):
    """Outcomes from the journal have the very object that was given, and its seconds."""
    boxes = [[x] for x in range(5)]
    call = parallel(sum, workers=2)
    list(call.outcomes(boxes[:3], journal=file))

    outcomes = list(call.outcomes(iter(boxes), journal=file))

    assert all(outcome.item is box for outcome, box in zip(outcomes, boxes, strict=True))
    assert all(isinstance(outcome.seconds, float) for outcome in outcomes)


def test_large_arrays(calls: Calls, file: str):
    """Large arrays are known again by their content, whatever their layout in memory, and come back whole."""
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.arange(200_000).reshape(400, 500), numpy.ones((300, 300), order="F"), numpy.ones((300, 300))[::2]]
    call = parallel(lambda a: (calls.note(a.shape), a + 1)[1], workers=2)

    for make in (list, iter):
        results = call.map(make(arrays), journal=file)
        assert all((result == array + 1).all() for result, array in zip(results, arrays, strict=True))

    assert len(calls.taken()) == 3
    assert call.map([arrays[0] + 1], journal=file)[0][0, 0] == 2
    assert len(calls.taken()) == 1


def test_the_order_of_a_set_does_not_matter(script: Script, file: str):
    """Items are known again by another process, whose strings have other hashes."""
    text = f"""
        import parmap, sys
        words = [{{"a", "b", "c", str(n)}} for n in range(20)]
        size = parmap.parallel(lambda s: (print(end="x"), len(s))[1], workers=2)
        assert size.map(words, journal={file!r}) == [4] * 20
    """

    assert [script.run(text).stdout for _ in range(2)] == ["x" * 20, ""]


def test_a_stream_that_is_left(calls: Calls, file: str):
    """What a stream has done when it is left half-way is not done again, though its input has no end."""
    call = parallel(point, workers=2).partial(calls)
    with call.imap(itertools.count(10), journal=file, buffersize=5) as stream:
        first = list(itertools.islice(stream, 20))
    done = set(calls.taken())

    with call.imap(itertools.count(10), journal=file, buffersize=5) as stream:
        again = list(itertools.islice(stream, 30))

    assert again[:20] == first
    assert [each.x for each in again] == list(range(10, 40))
    assert set(map(str, range(10, 30))) <= done
    assert not set(map(str, range(10, 30))) & set(calls.taken())


def test_on_an_event_loop(backend: dict[str, Any], calls: Calls, file: str):
    """By `async for`, from an asynchronous input."""
    call = parallel(point, **backend).partial(calls)

    async def source(count: int) -> AsyncIterator[int]:
        for x in range(count):
            yield x

    async def collect(count: int) -> list[int]:
        return [each.x async for each in call.imap(source(count), journal=file)]

    assert asyncio.run(collect(4)) == [0, 1, 2, 3]
    assert asyncio.run(collect(6)) == [0, 1, 2, 3, 4, 5]
    assert calls.taken() == ["0", "1", "2", "3", "4", "5"]


def test_a_journal_that_fails_on_an_event_loop(calls: Calls, file: str):
    """Its error comes behind the results of what was read before, though the asynchronous input has no end."""
    call = parallel(point, workers=2, backend="threads").partial(calls)
    call.map([0], journal=file)

    async def source() -> AsyncIterator[int]:
        for x in itertools.count(1000):
            if x == 1020:
                with closing(sqlite3.connect(file)) as connection:
                    connection.execute("alter table items rename to others")
            yield x
            await asyncio.sleep(0)

    found: list[int] = []

    async def collect() -> None:
        async for each in call.imap(source(), journal=file):
            found.append(each.x)  # noqa: PERF401 - what there was before the error

    with pytest.raises(JournalError):
        asyncio.run(collect())
    assert found == [*range(1000, 1020)]


def test_tuples_of_arguments(calls: Calls, file: str):
    """`starmap` and several iterables mean the same; one tuple as the only argument is something else."""
    call = parallel(lambda *args: (calls.note(len(args)), args)[1], workers=1)

    assert call.starmap([(1, 2)], journal=file) == [(1, 2)]
    assert call.map([1], [2], journal=file) == [(1, 2)]
    assert call.map([(1, 2)], journal=file) == [((1, 2),)]
    assert calls.taken() == ["1", "2"]


def test_within_a_task(file: str):
    """A task may keep a journal itself."""

    def outer(n: int) -> list[int]:
        return parallel(abs).map([-n], journal=file)

    assert parallel(outer, workers=1).map([1, 2, 1]) == [[1], [2], [1]]
    assert len(rows(file)) == 2


def test_classes_of_a_script(script: Script, file: str):
    """A resumed result is of the program's own class; one that no other run could find is refused."""
    text = f"""
        import dataclasses, enum, parmap

        class Color(enum.Enum):
            RED = 1

        @dataclasses.dataclass
        class Car:
            color: Color

        @parmap.parallel(workers=2)
        def paint(n):
            print("painting", flush=True)
            class Local:
                pass
            return Local() if n < 0 else Car(Color.RED)

        (car,) = paint.map([1], journal={file!r})
        assert type(car) is Car and car.color is Color.RED
        (error,) = paint.map([-1], journal={file!r}, return_exceptions=True)
        assert isinstance(error, parmap.SerializationError) and "made in a function" in str(error), error
    """

    first, again = script.run(text), script.run(text)

    assert (first.stdout, first.returncode) == ("painting\n" * 2, 0), first.stderr
    assert (again.stdout, again.returncode) == ("painting\n", 0), again.stderr


# --- what makes another run -------------------------------------------------------------------------------------------

SOURCE = """
threshold = 1
def helper(x):
    return x + threshold
def score(x, factor=2):
    '''What it does.'''
    called.append(x)
    return helper(x) * factor
"""


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.__wrapped__.__globals__.update(threshold=5),
        lambda f: setattr(f.__wrapped__, "__defaults__", (5,)),
        lambda f: f.partial(factor=5),
        lambda f: f.options(seed=5),
    ],
    ids=["global", "default", "partial", "seed"],
)
def test_other_values_are_another_run(file: str, change: Callable[[Any], Any]):
    """Each threshold has its own results, and going back to the first finds them."""
    call, changed = (made(f"called = Calls = type('', (), dict(append=print))\n{SOURCE}") for _ in range(2))
    changed = change(changed) or changed

    first, second = call.map([1, 2], journal=file), changed.map([1, 2], journal=file)

    assert len(rows(file)) == 4
    assert call.map([1, 2], journal=file) == first == [4, 6]
    assert changed.map([1, 2], journal=file) == second
    assert len(rows(file)) == 4


def test_captured_values_are_another_run(file: str):
    """So are values in a closure and in the object of a method; a lock among them is none."""

    class Scorer:
        def __init__(self, by: int) -> None:
            self.by = by

        def score(self, x: int) -> int:
            return x * self.by

    lock = threading.Lock()

    def scaled(by: int) -> Any:
        def scale(x: int) -> int:
            with lock:
                return x * by

        return parallel(scale, backend="threads")

    assert [scaled(by).map([1], journal=file) for by in (1, 2, 1)] == [[1], [2], [1]]
    assert [parallel(Scorer(by).score, workers=1).map([1], journal=file) for by in (1, 2, 1)] == [[1], [2], [1]]
    assert len(rows(file)) == 4


OTHER_CODE = [
    ("return helper(x) * factor", "return helper(x) * factor + 0"),
    ("return x + threshold", "return x - threshold"),
]


@pytest.mark.parametrize(("old", "new"), OTHER_CODE, ids=["function", "what it calls"])
def test_changed_code_is_refused(monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str):
    """The results of code that has changed are not mixed with others; the error says both ways out."""
    source = SOURCE.replace("called.append(x)", "pass")
    call, changed = made(source), made(source.replace(old, new))
    before = call.map([1], journal=file)

    with pytest.raises(JournalError, match=r"the code of program.score .* version='2'.* --accept program.score"):
        changed.map([1, 2], journal=file)
    with pytest.raises(JournalError, match="--accept"):
        changed.imap([1, 2], journal=file)
    anew = changed.map([1], journal=Journal(file, version="2"))
    assert "program.score" in command(monkeypatch, file, "--accept", "program.score")

    assert anew != before or new.endswith("0")
    assert changed.map([1], journal=file) == before
    with pytest.raises(JournalError):
        call.map([1], journal=file)


REACHED = {
    "base class": ("class Base:\n def do(self, x): return x + 1\nclass Mine(Base): pass", "Mine().do(x)"),
    "metaclass": (
        "class Meta(type):\n def __call__(cls, x): return x + 1\nclass Mine(metaclass=Meta): pass",
        "Mine(x)",
    ),
    "setter": (
        "class Mine:\n @property\n def v(self): return self.w\n @v.setter\n def v(self, x): self.w = x + 1",
        "setattr(m := Mine(), 'v', x) or m.v",
    ),
    "wrapper": ("def more(f): return functools.wraps(f)(lambda x: f(x) + 1)\n@more\ndef same(x): return x", "same(x)"),
    "wrapper that is an object": (
        (
            "class More:\n def __init__(self, f): functools.update_wrapper(self, f)\n"
            " def __call__(self, x): return self.__wrapped__(x) + 1\n@More\ndef same(x): return x"
        ),
        "same(x)",
    ),
    "single dispatch": (
        "@functools.singledispatch\ndef do(x): return 0\n@do.register\ndef _(x: int): return x + 1",
        "do(x)",
    ),
    "table of functions": ("def more(x): return x + 1\ntable = {'more': [more]}", "table['more'][0](x)"),
    "set of classes": (
        "class A:\n def do(self, x): return x + 1\nclass B(A): pass\nboth = {A, B}",
        "max(each().do(x) for each in both)",
    ),
    "list of objects": ("class A:\n def do(self, x): return x + 1\nall = [A(), 5, A()]", "all[0].do(x)"),
}


@pytest.mark.parametrize(("has", "call"), REACHED.values(), ids=REACHED)
def test_code_that_is_reached_by_detours_counts(monkeypatch: pytest.MonkeyPatch, file: str, has: str, call: str):
    """So does code of the module that a function reaches otherwise than by a name; what is the same is known again."""
    for more, is_refused in ((1, False), (1, False), (2, True)):
        program: Any = types.ModuleType("program")
        monkeypatch.setitem(sys.modules, "program", program)
        exec(f"import functools\n{has.replace('+ 1', f'+ {more}')}\ndef score(x): return {call}", vars(program))
        with pytest.raises(JournalError, match="the code of") if is_refused else nullcontext():
            assert parallel(program.score, backend="serial").map([1], journal=file) == [2]

    assert len(rows(file)) == 1


def test_slots_of_a_captured_value(file: str):
    """What an object has in slots counts, however these are declared."""

    class Locked:
        __slots__ = "_Locked__content"  # noqa: PLC0205 - as some write it

        def __init__(self, content: Any) -> None:
            self.__content = content, threading.Lock()

        def get(self) -> Any:
            return self.__content[0]

    def adding(of: Locked) -> Any:
        return parallel(lambda number: number + of.get(), backend="serial")

    for base in (1, 1, 2):
        assert adding(Locked(base)).map([10], journal=file) == [10 + base]

    assert len(rows(file)) == 2


def test_comments_are_no_change(file: str):
    """Lines, comments and docstrings may change."""
    source = SOURCE.replace("called.append(x)", "pass")
    call, same = (
        made(source),
        made("# new\n\n" + source.replace("What it", "That which it").replace("pass", "pass # !")),
    )

    call.map([1], journal=file)

    assert same.map([1], journal=file) == [4]
    assert len(rows(file)) == 1


# --- what can't be kept -----------------------------------------------------------------------------------------------


def test_an_item_that_cannot_be_pickled(calls: Calls, file: str):
    """It fails with what to do, others go on; with a key it is done once, like any other."""
    items: list[Any] = [1, threading.Lock(), 2]
    call = parallel(lambda x: calls.note(type(x).__name__), workers=2, backend="threads")

    found = call.map(items, journal=file, return_exceptions=True)

    assert isinstance(found[1], SerializationError)
    assert found[1].item == 1
    assert "key=" in str(found[1])
    assert item_of(found[1]) is items[1]
    assert calls.taken() == ["int", "int"]
    with pytest.raises(SerializationError):
        call.map(items, journal=file)
    keyed = Journal(file, key=lambda x: type(x).__name__)
    assert call.map(items, journal=keyed) == [None] * 3
    assert call.map(items, journal=keyed) == [None] * 3
    assert calls.taken() == ["int", "int", "lock"]


def test_a_result_that_cannot_be_pickled(backend: dict[str, Any], file: str):
    """It fails alone, on every backend, and says which it was."""
    good, bad = parallel(lambda x: threading.Lock() if x else x, **backend).outcomes([0, 1], journal=file)

    assert good.ok
    assert isinstance(bad.error, SerializationError)
    assert bad.error.item == 1
    assert "can't be kept in a journal" in str(bad.error)


@pytest.mark.parametrize("content", [b"some text", b"x" * 5000, b"SQLite"], ids=["short", "long", "beginning"])
def test_a_foreign_file(tmp_path: Path, content: bytes):
    """A file that is something else is told so, and left as it is."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)

    with pytest.raises(JournalError, match=r"not a journal|damaged"):
        parallel(abs, workers=1).map([1], journal=path)

    assert path.read_bytes() == content


def test_a_database_of_another_program(tmp_path: Path):
    """So is a database that is not ours."""
    path = tmp_path / "theirs.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table items (run, key)")
        connection.commit()
    before = path.read_bytes()

    with pytest.raises(JournalError, match="another program"):
        parallel(abs, workers=1).map([1], journal=path)

    assert path.read_bytes() == before


def test_a_newer_journal(file: str):
    """One that a later parmap has written is told so, and left as it is."""
    call = parallel(abs, workers=1)
    call.map([-1], journal=file)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("pragma user_version = 99")
    before = rows(file)

    with pytest.raises(JournalError, match="newer"):
        call.map([-1], journal=file)
    assert rows(file) == before


def test_an_item_that_holds_itself(file: str):
    """It is known again like any other."""
    ring: list[Any] = [1]
    ring.append(ring)
    count = parallel(len, backend="serial")

    assert count.map([ring], journal=file) == [2]
    assert count.map([ring], journal=file) == [2]
    assert len(rows(file)) == 1


def test_an_item_whose_parts_are_shared_again_and_again(monkeypatch: pytest.MonkeyPatch, file: str):
    """Nobody can write out what two lists of two lists of two lists, and so on, would be if they were different ones."""
    monkeypatch.setattr("parmap._calls.journal.digest._MOST", 1 << 20)
    tree: list[Any] = []
    for _ in range(60):
        tree = [tree, tree]
    count = parallel(len, backend="serial")

    assert count.map([tree], journal=file) == [2]
    assert count.map([tree], journal=file) == [2]
    assert len(rows(file)) == 1


def test_methods_of_values_are_told_apart(file: str):
    """A method of a text or a list is another function for another text or list."""
    for text in (", ", "; "):
        assert parallel(text.join, backend="serial").map([["a", "b"]], journal=file) == [f"a{text}b"]

    assert len(rows(file)) == 2


def test_a_broadcast_value_counts_by_what_it_is(file: str):
    """The same value, broadcast once more, is the same; another is another run."""
    for base in (1, 1, 2):
        shared = parmap.broadcast([base])

        def add(number: int, shared: Any = shared) -> int:
            return number + shared.value[0]

        assert parallel(add, backend="serial").map([10], journal=file) == [10 + base]

    assert len(rows(file)) == 2


@pytest.mark.parametrize(
    "make", [lambda base: partial(int, base), lambda base: lambda: base], ids=["partial", "lambda"]
)
def test_what_each_worker_has_counts_by_what_it_is(file: str, make: Callable[[int], Callable[[], int]]):
    """Also within another value, or an item: what the program calls it by is another name each time."""

    def add(item: Any, tools: Any = None) -> int:
        return int(item["number"].value + tools["made"]() + tools["shared"].value[0])

    for base in (1, 1, 2):
        tools = {"shared": parmap.broadcast([base]), "made": parmap.per_worker(make(base))}
        item = {"number": parmap.broadcast(10)}
        assert parallel(add, backend="serial").partial(tools=tools).map([item], journal=file) == [10 + 2 * base]

    assert len(rows(file)) == 2


def test_what_a_captured_value_holds_beside_a_lock(file: str):
    """A value that can't be pickled counts by its parts that can."""
    for base in (1, 1, 2):
        table = {"lock": threading.Lock(), "bases": [threading.Lock(), base]}

        def add(number: int, table: Any = table) -> int:
            return int(number + table["bases"][1])

        assert parallel(add, backend="serial").map([10], journal=file) == [10 + base]

    assert len(rows(file)) == 2


def test_repr_of_a_journal(file: str):
    """It is what makes one."""
    made = Journal(file, version="2")

    assert repr(made) == f"parmap.Journal({file!r}, version='2')"


def test_a_path_that_leads_nowhere(tmp_path: Path):
    """It says what is there, or is not."""
    f = parallel(abs, backend="serial")

    with pytest.raises(JournalError, match="can't be used: it is a folder"):
        f.map([1], journal=tmp_path)
    with pytest.raises(JournalError, match=r"can't be used: there is no folder .*nowhere"):
        f.map([1], journal=tmp_path / "nowhere" / "journal")


def test_a_torn_file(file: str):
    """A journal whose end is missing, or that is overwritten in the middle, is told so, and left as it is."""
    call = parallel(abs, workers=1)
    call.map(range(2000), journal=file)
    whole = Path(file).read_bytes()

    for torn in (whole[:-5000], whole[:4096] + b"\xff" * 8192 + whole[12288:], whole[:60]):
        Path(file).write_bytes(torn)
        with pytest.raises(JournalError, match="damaged"):
            call.map(range(2000), journal=file)
        assert Path(file).read_bytes() == torn


def test_a_result_that_is_too_large(monkeypatch: pytest.MonkeyPatch, file: str):
    """A result larger than SQLite takes fails the call; the file isn't said to be damaged."""
    limit_journals(monkeypatch, 100_000)

    with pytest.raises(JournalError, match="can't be used: string or blob too big"):
        parallel(bytes, workers=1).map([10, 200_000], journal=file)

    assert parallel(bytes, workers=1).map([10, 20], journal=file) == [bytes(10), bytes(20)]


def test_a_place_where_nothing_can_be_written(tmp_path: Path):
    """A folder that isn't there is told as such."""
    with pytest.raises(JournalError, match="nowhere"):
        parallel(abs, workers=1).map([1], journal=tmp_path / "nowhere" / "journal.sqlite")


def test_a_network_file_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str):
    """A journal on a network file system is refused; which that is, the innermost mount tells."""
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda rw\n"
        f"23 22 0:5 / {tmp_path.parent} rw,noatime shared:1 - nfs4 server:/home rw\n"
        f"24 22 0:6 / {tmp_path}/with\\040space rw - fuse.sshfs host: rw\n"
    )

    assert file_system_by(str(table), str(tmp_path)) == "nfs4"
    assert file_system_by(str(table), str(tmp_path / "with space" / "in")) == "fuse.sshfs"
    assert file_system_by(str(table), "/") == "ext4"
    for kind in ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"):
        pretend_file_system(monkeypatch, kind)
        with pytest.raises(JournalError, match=rf"network file system \({kind}\).*local disk"):
            parallel(abs, workers=1).map([1], journal=file)
    assert not Path(file).exists()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Journal(3), "path"),  # type: ignore[arg-type]
        (lambda: Journal("a", key="name"), "key"),  # type: ignore[arg-type]
        (lambda: Journal("a", version=2), "version"),  # type: ignore[arg-type]
        (lambda: parallel(abs).map([1], journal=True), "path"),  # type: ignore[call-overload]
    ],
    ids=["path", "key", "version", "journal"],
)
def test_wrong_arguments(make: Any, what: str):
    """What is no journal is told so."""
    with pytest.raises(TypeError, match=what):
        make()


class TellsInItsTurn(Exception):
    """Its text can be made only when it is the turn of the journal's thread, which then collects garbage."""

    turn = threading.Event()

    def __str__(self) -> str:
        if threading.current_thread().name.startswith("parmap-journal"):
            self.turn.wait(30)
            gc.collect()
        return "its text"


def test_a_stream_that_is_collected_in_the_journal_s_thread(file: str):
    """Nothing of its call is kept until the program ends."""

    def fail(x: int) -> int:
        raise TellsInItsTurn(x)

    function = weakref.ref(fail)
    gc.disable()  # here: it is to happen in that thread
    try:
        stream = parallel(fail, backend="threads", workers=1).imap([1], journal=file, return_exceptions=True)
        assert isinstance(next(stream), TellsInItsTurn)
        ring: list[Any] = [stream]
        ring.append(ring)
        del stream, ring, fail
        TellsInItsTurn.turn.set()
        wait_until(lambda: [thread for thread in threading.enumerate() if thread.name == "parmap-journal"] == [])
    finally:
        gc.enable()
    parmap.shutdown()
    wait_until(lambda: gc.collect() >= 0 and function() is None)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command(monkeypatch: pytest.MonkeyPatch, calls: Calls, file: str):
    """`python -m parmap journal` shows what is done, failed and missing; drops, and gives the room back."""
    call = parallel(point, workers=2).partial(calls)
    call.map([1, 7, 2], journal=Journal(file, version="old"), return_exceptions=True)
    with pytest.raises(ValueError, match="7"):
        parallel(point, workers=1, chunksize=1).partial(calls).map([1, 7, *range(10, 200)], journal=file)

    shown = command(monkeypatch, file)
    assert "version old" in shown
    assert "2 done, 1 failed, 0 missing" in shown
    assert "1 done, 1 failed, 190 missing" in shown
    assert "failed: 7: ValueError: 7\n" in shown
    assert "parmap: item 1: point(<Calls>, 7)" in command(monkeypatch, file, "--failed")

    assert "version old" not in command(monkeypatch, file, "--drop", "1", "--compact")
    assert len(rows(file)) == 2
    assert "nothing of 'nobody'" in command(monkeypatch, file, "--drop", "nobody")
    assert "there is no journal" in command(monkeypatch, file + "x")
    ended = subprocess.run([sys.executable, "-m", "parmap", "journal", file + "x"], timeout=60, check=False)
    assert ended.returncode == 1


def test_the_command_on_an_old_terminal(file: str):
    """What the output has no letters for is told by escapes; so is a number of a run that is none."""
    parallel(divide, backend="serial").map(["日本"], journal=file, return_exceptions=True)
    ask = [sys.executable, "-m", "parmap", "journal", file]

    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run(ask, env=ascii_only, capture_output=True, timeout=60, check=True)
    refused = subprocess.run([*ask, "--drop", "²"], capture_output=True, encoding="utf-8", timeout=60, check=False)

    assert b"failed: '\\u65e5\\u672c'" in shown.stdout
    assert "there is nothing of '²'" in refused.stderr


def test_the_command_before_a_closed_pipe(file: str):
    """What reads the command's output may leave early, as `head` does: that is no error of the journal."""
    parallel(abs, backend="serial").map([1], journal=file)
    reading, writing = os.pipe()
    os.close(reading)
    shown = [sys.executable, "-m", "parmap", "journal", file]
    ended = subprocess.run(shown, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writing)
    assert ended.stderr == b""


def read(name: str) -> str:
    """Fails with one name, which is that of a file that is not UTF-8."""
    if not name.isascii():
        raise ValueError(f"no such thing: {name}")
    return name


def test_an_error_that_tells_of_a_file_with_an_odd_name(monkeypatch: pytest.MonkeyPatch, file: str):
    """What no file can hold as text is written in another way, and takes nothing else with it."""
    names = ["a", os.fsdecode(b"\xff"), "b"]
    results = parallel(read, backend="serial").map(names, journal=file, return_exceptions=True)

    assert isinstance(results[1], ValueError)
    assert sorted(state for state, _ in rows(file)) == [1, 1, 2]
    assert r"no such thing: \udcff" in command(monkeypatch, file, "--failed")


def test_the_command_shows_a_few(monkeypatch: pytest.MonkeyPatch, file: str):
    """Of many failures it shows some, and says how many more there are; all are shown when asked for."""
    parallel(divide, backend="serial").map(range(-60, 0), journal=file, return_exceptions=True)

    assert "more: --failed lists them all" in command(monkeypatch, file)
    assert command(monkeypatch, file, "--failed").count("ZeroDivisionError: ") >= 60


# --- whatever ends the program ----------------------------------------------------------------------------------------

BATCH = """
    import sys, time, parmap

    @parmap.parallel(workers=2)
    def slow(n):
        time.sleep(0.01)
        return n * n, "x" * n

    if __name__ == "__main__":
        print("begun", flush=True)
        items = range({count})
        results = [*slow.{method}({items}, journal={file!r})]
        assert [getattr(each, "value", each) for each in results] == [(n * n, "x" * n) for n in items]
        print("done", flush=True)
"""


def is_complete(file: str, count: int) -> bool:
    """Whether each item is in a journal exactly once."""
    found = rows(file)
    return len(found) == count == len({value for _, value in found}) and {state for state, _ in found} == {1}


def test_kills(script: Script, file: str):
    """A program that is killed again and again gets done, each item once, and all values are right."""
    kill_again_and_again(script, file, kills=10, count=300)


@pytest.mark.parametrize("method", ["imap", "outcomes"])
def test_kills_of_streams(script: Script, file: str, method: str):
    """So does one that takes its results one by one, and reads its items from a generator."""
    kill_again_and_again(script, file, kills=4, count=150, method=method, items="(n for n in items)")


def test_a_kill_while_the_journal_is_made(script: Script, file: str):
    """What SQLite had half written then is undone by the next call, which begins the journal anew."""
    killed = script.run(f"""
        import os, signal, sqlite3

        making = sqlite3.connect({file!r}, isolation_level=None)
        making.execute("pragma cache_size = 1")  # so the first pages are in the file before the last one is made
        making.execute("begin")
        making.execute("create table half (made blob)")
        for _ in range(100):
            making.execute("insert into half values (zeroblob(4000))")
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert killed.returncode == -signal.SIGKILL
    assert os.path.getsize(file)
    assert os.path.getsize(f"{file}-journal")

    assert parallel(abs, backend="serial").map([-1, -2], journal=file) == [1, 2]
    assert len(rows(file)) == 2


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_many_kills(script: Script, file: str):
    """The same with two hundred kills of the program or of one of its workers."""
    kill_again_and_again(script, file, kills=200, count=20_000)


def kill_again_and_again(
    script: Script, file: str, kills: int, count: int, method: str = "map", items: str = "[*items]"
) -> None:
    """Run a batch; kill it, or what it has started, at random moments; then let it come to its end."""
    text = BATCH.format(count=count, file=file, method=method, items=items)
    for _ in range(kills):
        process = script.start(text)
        try:
            assert process.stdout is not None
            process.stdout.readline()
            process.wait(random.uniform(0.0, 1.0))
        except subprocess.TimeoutExpired:
            started = psutil.Process(process.pid).children(recursive=True)
            if started and random.random() < 0.3:
                kill(random.choice(started).pid)
                time.sleep(random.uniform(0.0, 0.1))  # not to wait for something: the moment is a random one
        process.kill()
        process.communicate()

    done = script.run(text, timeout=600)

    assert done.stdout == "begun\ndone\n", done.stderr
    assert is_complete(file, count)


def test_workers_that_are_killed(file: str):
    """Workers that die cost their item; the next call runs these, and no other."""

    def fragile(n: int) -> int:
        import os
        import time

        time.sleep(0.001)
        if n % 50 == 49 and not os.path.exists(f"{file}.{n}"):
            open(f"{file}.{n}", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    call = parallel(fragile, workers=2)
    first = call.map(range(200), journal=file, return_exceptions=True)

    assert sum(isinstance(each, parmap.WorkerDiedError) for each in first) == 4
    assert call.map(range(200), journal=file) == list(range(200))
    assert is_complete(file, 200)
    assert pids_of(call)


def test_a_full_disk(script: Script, file: str):
    """A call whose results no longer fit on the disk fails and says so; what was written before is kept."""
    done = script.run(f"""
        import resource, parmap

        text = parmap.parallel(lambda n: "x" * 1000, workers=1, chunksize=1)
        assert len(text.map([1], journal={file!r})) == 1
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
        try:
            print(len(text.map(range(500), journal={file!r})))
        except parmap.JournalError as error:
            print("told:", error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        print(len(text.map(range(500), journal={file!r})))
    """)

    first, second = done.stdout.splitlines()
    assert first.startswith(f"told: the journal {file}"), done.stderr
    assert (second, len(rows(file))) == ("500", 500)


def test_a_fork_while_a_journal_is_written(script: Script, file: str):
    """A process that the program forks amid a call writes nothing into its journal, whatever it does at its end."""
    done = script.run(f"""
        import os, sys, parmap

        stream = parmap.parallel(lambda n: n * n, workers=1).imap(range(100), journal={file!r})
        first = next(stream)
        child = os.fork()
        if not child:
            stream.close()
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print([first, *stream] == [n * n for n in range(100)])
    """)

    assert done.stdout == "True\n", done.stderr
    assert is_complete(file, 100)


def test_two_programs_at_once(script: Script, file: str):
    """Two programs make the same journal at the same time: both end well, and each item is there once."""
    text = BATCH.format(count=150, file=file, method="map", items="[*items]")
    script.write(text)

    programs = [script.start(text) for _ in range(2)]
    ends = [program.communicate(timeout=60) for program in programs]

    assert [out for out, _ in ends] == ["begun\ndone\n"] * 2, (ends, [program.returncode for program in programs])
    assert is_complete(file, 150)


def test_ctrl_c(script: Script, file: str):
    """What was done before a Ctrl-C is in the journal when the program has ended, to the last item."""
    text = f"""
        import os, time, parmap

        @parmap.parallel(workers=2)
        def slow(n):
            if n == 100 and not os.path.exists({file + ".begun"!r}):
                open({file + ".begun"!r}, "w").close()
                time.sleep(600)
            print("ran", n, flush=True)
            return n

        slow.map(list(range(200)), journal={file!r}, chunksize=1)
    """
    process = script.start(text)
    wait_until(lambda: Path(file + ".begun").exists())
    process.send_signal(signal.SIGINT)
    first, _ = process.communicate(timeout=30)

    again = script.run(text)

    ran = [*first.splitlines(), *again.stdout.splitlines()]
    assert again.returncode == 0, again.stderr
    assert len(rows(file)) == 200
    assert len(again.stdout.splitlines()) < 150
    assert len(ran) <= 204  # what ran just then had no time to be told


@pytest.mark.skipif(sys.gettrace() is not None, reason="somebody traces already")
class Ringing:
    """Its alarm rings when it is looked at for the first time."""

    def __init__(self, *_: object) -> None:
        self.is_set = True

    def __reduce__(self) -> Any:
        if self.is_set:
            self.is_set = False
            signal.raise_signal(signal.SIGALRM)
        return int, ()


@pytest.mark.parametrize(("key", "given"), [(Ringing, ()), (None, (Ringing(),))], ids=["of an item", "of the function"])
def test_a_signal_handler_that_raises_an_error_of_the_system(file: str, key: Any, given: Any):
    """A `TimeoutError` of the program's own alarm is none of the journal's, whatever is done with that meanwhile."""

    def ring(*_: object) -> None:
        raise TimeoutError("alarm")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with pytest.raises(TimeoutError, match=r"^alarm$"):
            parallel(max, backend="serial").partial(*given).map([1], journal=Journal(file, key=key))
    finally:
        signal.signal(signal.SIGALRM, before)


class OnceDecoded(Injector):
    """Counts no place before there are results: until then the path is another one whenever threads take turns."""

    has_come = False

    def __call__(self, frame: FrameType, event: str, more: object) -> Any:
        self.has_come |= frame.f_code is Batch.decode.__code__
        frame.f_trace, frame.f_trace_opcodes = self, True
        return super().__call__(frame, event, more) if self.has_come else self


def test_ctrl_c_while_the_last_results_are_written(file: str):
    """They are written all the same, and neither a thread nor an open file is left."""
    call = parallel(abs, workers=1, backend="threads")
    for number in range(2):
        counter = OnceDecoded(signal.SIGINT)
        counter.run(lambda number=number: call.map([number], journal=file))
    assert counter.count > 50
    for number, at in enumerate(range(1, counter.count), 2):
        OnceDecoded(signal.SIGINT, (at,)).run(lambda number=number: call.map([-number], journal=file))
        wait_until(lambda: not [each for each in threading.enumerate() if each.name == "parmap-journal"])

    assert len(rows(file)) == number + 1


class InJournals(Injector):
    """Interrupts only what opens the file of a journal."""

    def __call__(self, frame: FrameType, event: str, more: object) -> Any:
        is_meant = frame.f_code.co_filename.endswith(("file.py", "keeping.py", "contextlib.py"))
        return super().__call__(frame, event, more) if is_meant else None


@pytest.mark.skipif(sys.gettrace() is not None, reason="somebody traces already")
def test_ctrl_c_while_a_journal_opens(file: str, monkeypatch: pytest.MonkeyPatch):
    """It comes out of the call, and Python has nothing to say of it on the side."""
    aside: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: aside.append(told.exc_type))  # the error holds frames
    call = parallel(abs, workers=1, backend="serial")
    for _ in range(2):  # it is made, and used again
        counter = InJournals(signal.SIGINT)
        counter.run(lambda: call.imap([], journal=file).close())

    for at in range(1, counter.count):
        InJournals(signal.SIGINT, (at,)).run(lambda: call.imap([], journal=file).close())

    gc.collect()
    assert counter.count > 20
    assert not [each for each in aside if each is not ResourceWarning]  # a file just opened is nobody's


def test_a_partial_of_a_partial(file: str):
    """However the arguments are given."""
    call = parallel(partial(partial(pow, 2)), workers=1)

    assert call.map([1, 2], journal=file) == [2, 4]
    assert call.map([1, 2], journal=file) == [2, 4]
    assert len(rows(file)) == 2
