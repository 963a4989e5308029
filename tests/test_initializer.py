"""What an initializer sets, tasks find: in a script, whose functions travel by value, as in a module."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

import parmap
from conftest import wait_until
from parmap import parallel

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Script

HEAD = """
import functools
import threading
import parmap

table = None
cache = {{}}
words = ["a"]
factor = 1

def remember(value):
    global table
    table = value
    cache["value"] = value
    added()

def added():
    global words
    words = [*words, "b"]

class Loader:
    def load(self, value):
        remember(value)

def found(x):
    return table, cache, words, factor * x

def parallel(function=found, **options):
    return parmap.parallel(function, workers=2, start_method={method!r}, initargs=(5,), **options)

EXPECTED = (5, {{"value": 5}}, ["a", "b"])
"""


@pytest.fixture(params=["forkserver", "spawn"])
def head(request: pytest.FixtureRequest) -> str:
    """The beginning of a program, for each start method."""
    return HEAD.format(method=request.param)


@pytest.mark.parametrize(
    "initializer", ["remember", "functools.partial(remember)", "Loader().load", "lambda x: remember(x)"]
)
def test_globals_that_are_set(script: Script, head: str, initializer: str):
    """Globals that are set, or changed in place, by the initializer or by what it calls, are there in each task."""
    run = script.run(f"""{head}
f = parallel(initializer={initializer})
assert f.map(range(8)) == [(*EXPECTED, x) for x in range(8)]
assert f.submit(3).result() == (*EXPECTED, 3)
assert parallel(lambda x: found(x), initializer={initializer}).map([1]) == [(*EXPECTED, 1)]
""")

    assert run.stderr == ""


def test_other_globals_are_those_of_the_caller(script: Script, head: str):
    """What the initializer does not set is as the caller has it at each call."""
    run = script.run(f"""{head}
f = parallel(initializer=remember)
assert f.map([1]) == [(*EXPECTED, 1)]
factor = 10
assert f.map([1]) == [(*EXPECTED, 10)]
""")

    assert run.stderr == ""


def test_globals_that_a_task_sets_are_its_function_s_own(script: Script, head: str):
    """What a task sets is there for the next task of that function, not for other functions: a deliberate difference."""
    run = script.run(f"""{head}
def count(x):
    global factor
    factor += 1
    return factor

with parmap.Pool(1) as pool:
    assert [pool.apply(count, (0,)) for _ in range(3)] == [2, 3, 4]
    assert pool.apply(found, (1,)) == (None, {{}}, ["a"], 1)
""")

    assert run.stderr == ""


def test_function_among_the_arguments(script: Script, head: str):
    """So it is for functions that are arguments."""
    run = script.run(f"""{head}
def call(function):
    return function(2)

assert parallel(call, initializer=remember).map([found, lambda x: found(x)]) == [(*EXPECTED, 2)] * 2
""")

    assert run.stderr == ""


def test_workers_that_are_replaced(script: Script, head: str):
    """A worker that stands in for another is initialized in the same way."""
    run = script.run(f"""{head}
f = parallel(initializer=remember, max_tasks_per_child=1)
assert f.map(range(6), chunksize=1) == [(*EXPECTED, x) for x in range(6)]
""")

    assert run.stderr == ""


def test_nothing_is_set_in_the_caller(script: Script, head: str):
    """What the initializer sets stays in the workers, though functions come back as results."""
    run = script.run(f"""{head}
parallel(lambda x: found, initializer=remember).map([1])[0](1)
assert found(1) == (None, {{}}, ["a"], 1)
""")

    assert run.stderr == ""


def test_value_that_can_not_be_pickled(script: Script, head: str):
    """What the initializer makes need not travel: a lock, a connection."""
    run = script.run(f"""{head}
def connect(value):
    global table
    table = threading.Lock()

assert parallel(lambda x: type(table).__name__, initializer=connect).map([1, 2]) == ["lock"] * 2
""")

    assert run.stderr == ""


SURROUNDED = """
import decimal, os, sys
from parmap import parallel

def initialize():
    decimal.getcontext().prec = 5
    if {numeric}:
        import numpy
        numpy.seterr(divide="raise")
    os.chdir({place!r})

def look(x):
    if {numeric}:
        import numpy
        assert numpy.geterr()["divide"] == "raise"
        numpy.seterr(divide="ignore")
    try:
        return str(decimal.Decimal(1) / 3), os.path.samefile(".", {place!r})
    finally:
        decimal.getcontext().prec = 2  # a task's own business
        os.chdir("/")

f = parallel(look, workers=2, initializer=initialize, chunksize=1, {option})
for _ in range(2):
    for number, is_there in [*f.map(range(8)), f.submit(3).result()]:
        assert number == "0.33333"
        assert is_there or {is_shared}
    os.chdir("..")
    decimal.getcontext().prec = 7
"""


@pytest.mark.parametrize("option", ['start_method="forkserver"', 'start_method="spawn"', 'backend="threads"'])
def test_surroundings_that_it_chooses(script: Script, option: str, tmp_path: Path):
    """The directory and the arithmetic that it sets are those of each task, whatever the program does."""
    place = tmp_path / "place"
    place.mkdir()
    numeric = find_spec("numpy") is not None
    run = script.run(SURROUNDED.format(place=str(place), option=option, is_shared="threads" in option, numeric=numeric))

    assert run.stderr == ""


ATTRIBUTES = """
import parmap

class Model:
    kind = None
    names = []
    other = 1

    @classmethod
    def load(cls, kind):
        cls.kind = kind
        cls.names.append(kind)

    def read(self):
        return self.kind

class Holder:
    value = None

holder = Holder()
holder.value = holder.other = 1

def helper():
    return helper.value

helper.value = None

def look(x):
    return look.value, helper(), Model().read(), Model.names, holder.value

look.value = None

def remember(value):
    look.value = helper.value = holder.value = value
    Model.load(value)

f = parmap.parallel(look, workers=2, initargs=(5,), initializer={initializer}, {option})
for _ in range(2):
    assert f.map(range(4)) == [{expected}] * 4
    assert f.submit(3).result() == {expected}
    Model.other = holder.other = look.other = 2  # another version is sent
assert (look.value, helper.value, Model.kind, Model.names, holder.value) == (None, None, None, [], 1)
"""


@pytest.mark.parametrize("option", ['start_method="forkserver"', 'start_method="spawn"'])
@pytest.mark.parametrize(
    ("initializer", "expected"),
    [("remember", "(5, 5, 5, [5], 5)"), ("Model.load", "(None, None, 5, [5], 1)")],
    ids=["function", "method"],
)
def test_attributes_that_it_sets(script: Script, option: str, initializer: str, expected: str):
    """What it sets on functions, classes and objects of a script is there in each task, as in the standard pools."""
    run = script.run(ATTRIBUTES.format(option=option, initializer=initializer, expected=expected))

    assert run.stderr == ""


@pytest.mark.parametrize("backend", ["serial", "threads"])
def test_once_where_calls_run_here(backend: str):
    """Serial calls have it called once, whatever their number, and so have calls within tasks; until it succeeds."""
    calls: list[str] = []

    def prepare() -> None:
        calls.append("")
        if len(calls) == 1:
            raise ValueError("not yet")

    f = parmap.parallel(lambda x: x, workers=1, initializer=prepare, backend=backend)
    nested = parmap.parallel(
        lambda x: f.map([x, f.submit(x).result()]), workers=1, initializer=prepare, backend=backend
    )

    with pytest.raises(ValueError, match="not yet"):
        f.map([1])
    f.shutdown()
    assert f.map([1]) == [1]
    assert f.submit(2).result() == 2
    assert nested.map([3, 4]) == [[3, 3], [4, 4]]
    assert len(calls) == 2
    f.shutdown()
    assert f.map([1]) == [1]
    assert len(calls) == 3


def test_once_for_threads_that_call_at_the_same_time():
    """A serial call of another thread waits for the initializer, instead of running without it."""
    begun, goes_on = threading.Event(), threading.Event()
    ready: list[bool] = []

    def prepare() -> None:
        begun.set()
        goes_on.wait(10)
        ready.append(True)

    f = parmap.parallel(lambda _: len(ready), initializer=prepare, backend="serial")
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(f.map, [1])
        assert begun.wait(10)
        second = threads.submit(f.map, [2])
        assert not wait([second], 0.1).done
        goes_on.set()
        assert (first.result(), second.result()) == ([1], [1])


def test_once_in_a_worker(script: Script):
    """Calls within a task run in its worker, where their initializer is called once."""
    run = script.run("""
from parmap import parallel

def prepare():
    print("prepared")

inner = parallel(abs, workers=2, initializer=prepare)
outer = parallel(lambda x: inner.map([x]), workers=1)
print(outer.map([1, 2]), outer.submit(3).result())
""")

    assert (run.stdout, run.stderr) == ("prepared\n[[1], [2]] [3]\n", "")


def test_threads_whose_initializer_has_failed():
    """They end, and those of the next call that succeeds have their numbers."""
    fails = [True]

    def begin() -> None:
        if fails:
            raise ValueError("not yet")

    def who(_: int) -> tuple[int, threading.Thread]:
        return parmap.worker().index, threading.current_thread()

    task = parallel(who, workers=2, backend="threads", initializer=begin)
    for _ in range(3):
        with pytest.raises(ValueError, match="not yet"):
            task.map([0, 1])
    fails.clear()
    results = task.map(range(100))

    assert {index for index, _ in results} <= {0, 1}
    ours = {thread for _, thread in results}
    wait_until(lambda: {each for each in threading.enumerate() if each.name.startswith("parmap-worker")} <= ours)


def test_argument_that_can_not_be_sent():
    """The message names it, and the way out: it is no fault of the initializer."""
    function = parallel(abs, workers=1, initializer=print, initargs=("a", (i for i in "b")))

    with pytest.raises(parmap.SerializationError, match=r"print can't be sent .*: argument 1 of print .*per_worker"):
        function.map([1])
