"""What a function does with its copies of what it captures, though it makes sense with the program's own only."""

from __future__ import annotations

import asyncio
import sys
import threading
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from itertools import count, repeat
from pathlib import Path
from queue import Queue
from random import Random, SystemRandom, random
from typing import TYPE_CHECKING, Any, cast

import pytest

from parmap import Executor, Pool, parallel
from parmap._travel.code.needs.slips import warn_of_slips

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Script

pytestmark = pytest.mark.usefixtures("pools_stay")

results: list[Any] = []
groups: defaultdict[int, list[int]] = defaultdict(list)
counts: Counter[str] = Counter()
found: dict[int, Any] = {}
numbers: deque[int] = deque()
seen: set[int] = set()
ordered: OrderedDict[int, int] = OrderedDict()
text = bytearray()
total = best = latest = 0
cache: dict[int, int] = {}
dice = Random(5)
system = SystemRandom()
draw = dice.random
ids = count()
queued: Queue[int] = Queue()
event = threading.Event()


class Stats:
    """Counts, and nothing reads it."""

    all_calls = 0

    def __init__(self) -> None:
        self.calls = 0
        self.found: list[int] = []


stats = Stats()
lock = threading.Lock()
again = threading.RLock()
some = threading.Semaphore(3)
few = asyncio.Semaphore(3)


def slips_of(function: Any, *iterables: Any) -> list[tuple[str, int]]:
    """What is warned of: what is done with what, and how many lines behind the beginning of the function."""
    code = getattr(function, "__func__", getattr(function, "func", function)).__code__
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warn_of_slips(function, iterables)
    assert all(each.category is RuntimeWarning and each.filename == __file__ for each in told)
    texts = [str(each.message).partition(" ")[2].partition(", of which")[0] for each in told]
    return [(text, each.lineno - code.co_firstlineno) for text, each in zip(texts, told, strict=True)]


def append(x: int) -> None:
    results.append(x)


def insert(x: int) -> None:
    results.insert(0, x)


def add_to_group(x: int) -> None:
    groups[x % 2].append(x)


def add_to_set_of_dict(x: int) -> None:
    found.setdefault(x, []).append(x)


def count_up(x: int) -> None:
    counts[str(x)] += 1


def update(x: int) -> None:
    counts.update([str(x)])


def set_item(x: int) -> None:
    found[x] = x, x


def set_slice(x: int) -> None:
    results[x : x + 1] = [x]


def set_nested(x: int) -> None:
    found[x][str(x)] = x


def push(x: int) -> None:
    numbers.appendleft(x)


def add(x: int) -> None:
    seen.add(x)


def set_in_order(x: int) -> None:
    ordered[x] = x


def extend(x: int) -> None:
    text.extend([x])


def add_to_list(x: int) -> None:
    global results  # noqa: PLW0603 - what it is about
    results += [x]


def add_up(x: int) -> None:
    global total  # noqa: PLW0603 - what it is about
    total += x


def set_global(x: int) -> None:
    global latest  # noqa: PLW0603 - what it is about
    latest = x


def add_one(_: int) -> None:
    global total  # noqa: PLW0603 - what it is about
    total = 1 + total


def remove(x: int) -> None:
    results.remove(x)


def put(x: int) -> None:
    queued.put(x)


def signal(_: int) -> None:
    event.set()


def count_in_object(x: int) -> None:
    stats.calls += x


def fill_in_object(x: int) -> None:
    stats.found.append(x)


def count_in_class(x: int) -> None:
    Stats.all_calls += x


def fill_in_comprehension(x: int) -> list[None]:
    return [results.append(y) for y in range(x)]  # type: ignore[func-returns-value]


def fill_in_lambda(x: int) -> Any:
    put: Callable[[], None] = lambda: results.append(x)  # noqa: E731
    return put()


def fill_by_another(x: int) -> int:
    append(x)
    return x


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (append, "results"),
        (insert, "results"),
        (add_to_group, "groups"),
        (add_to_set_of_dict, "found"),
        (count_up, "counts"),
        (update, "counts"),
        (set_item, "found"),
        (set_slice, "results"),
        (set_nested, "found"),
        (push, "numbers"),
        (add, "seen"),
        (set_in_order, "ordered"),
        (extend, "text"),
        (remove, "results"),
        (put, "queued"),
        (signal, "event"),
        (count_in_object, "stats.calls"),
        (fill_in_object, "stats.found"),
        (count_in_class, "Stats.all_calls"),
        (fill_in_comprehension, "results"),
    ],
)
def test_what_is_filled_and_never_read(function: Any, name: str) -> None:
    """A copy is filled, and thrown away."""
    assert slips_of(function) == [(f"changes {name}", 1)]


@pytest.mark.parametrize(
    ("function", "name"), [(add_to_list, "results"), (add_up, "total"), (add_one, "total"), (set_global, "latest")]
)
def test_globals_that_are_set(function: Any, name: str) -> None:
    """So they are set to something else, in the worker."""
    assert slips_of(function) == [(f"changes {name}", 2)]


def test_what_a_lambda_fills() -> None:
    """It is read with the function that it stands in."""
    assert slips_of(fill_in_lambda) == [("changes results", 1)]


def test_what_another_function_fills() -> None:
    """It is in the line that does it."""
    distance = append.__code__.co_firstlineno - fill_by_another.__code__.co_firstlineno
    assert slips_of(fill_by_another) == [("changes results", distance + 1)]


def test_what_a_captured_function_captures() -> None:
    """It is copied with that."""
    made: dict[int, int] = {}
    seen: set[int] = set()

    def keep(x: int) -> None:
        made[x] = x
        seen.add(x)

    def is_known(x: int) -> bool:
        return x in seen

    def work(x: int) -> bool:
        keep(x)
        return is_known(x)

    distance = keep.__code__.co_firstlineno - work.__code__.co_firstlineno
    assert slips_of(work) == [("changes made", distance + 1)]
    assert made == {}


def test_captured_variables() -> None:
    """They are copied like globals."""
    made: list[int] = []
    sum_of_all = 0

    def keep(x: int) -> None:
        nonlocal sum_of_all
        sum_of_all += x
        made.append(x)

    assert sorted(slips_of(keep)) == [("changes made", 3), ("changes sum_of_all", 2)]
    assert (made, sum_of_all) == ([], 0)


def remember(x: int) -> int:
    if x not in cache:
        cache[x] = x * x
    return cache[x]


def begin_once(x: int) -> int:
    global best  # noqa: PLW0603 - what it is about
    if not best:
        best = x
    return best


def count_and_look(x: int) -> int:
    global total  # noqa: PLW0603 - what it is about
    total += x
    return total


def fill_and_give(x: int) -> list[int]:
    results.append(x)
    return results


def read_only(x: int) -> Any:
    return results[x], len(found), [*numbers], x in seen, counts["a"] + 1, 0 < total < 5


def fill_own(x: int) -> list[int]:
    own: list[int] = []

    def put(y: int) -> None:
        own.append(y)

    put(x)
    return own


def append_and_call(x: int) -> int:
    seen.add(x)
    return ask(x)


def ask(x: int) -> bool:
    return x in seen


@pytest.mark.parametrize(
    "function",
    [remember, begin_once, count_and_look, fill_and_give, read_only, fill_own, append_and_call],
)
def test_what_makes_sense_in_a_worker(function: Any) -> None:
    """Caches, what is made once, what is read, what is the function's own."""
    assert slips_of(function) == []


def test_arrays(tmp_path: Path) -> None:
    """One that is filled item by item; in a file, or in shared memory, all see it."""
    numpy = pytest.importorskip("numpy")
    out = numpy.zeros(8).reshape(2, 4)
    shared = numpy.frombuffer(bytearray(64))
    of_file = numpy.memmap(tmp_path / "out", float, "w+", shape=8)

    def put(x: int) -> None:
        out[0, x] = x
        out[x:] += 1

    def put_shared(x: int) -> None:
        shared[x] = x
        of_file[x] = x

    assert slips_of(put) == [("changes out", 1)]
    assert slips_of(put_shared) == slips_of(double, [of_file]) == slips_of(double, [of_file[2:]]) == []


def test_tables() -> None:
    """One that is filled row by row."""
    table = pytest.importorskip("pandas").DataFrame({"a": [0, 0]})

    def put(x: int) -> None:
        table.loc[x, "a"] = x

    assert slips_of(put) == [("changes table", 1)]


def roll(_: int) -> float:
    return dice.random()


def roll_again(_: int) -> float:
    return draw()


def number(_: int) -> int:
    return next(ids)


def roll_default(_: int, by: Random = dice) -> float:
    return by.random()


def roll_seeded(x: int) -> float:
    dice.seed(x)
    return dice.random()


def roll_shared(_: int) -> float:
    return random() + system.random()


def test_generators() -> None:
    """Each copy gives the same, unless a task sets its state."""
    assert slips_of(roll) == [("draws from dice", 1)]
    assert slips_of(roll_again) == [("draws from draw", 1)]
    assert slips_of(number) == [("draws from ids", 1)]
    assert slips_of(roll_default) == [("draws from by", 0)]
    assert slips_of(roll_seeded) == slips_of(roll_shared) == []


def test_generators_of_numpy() -> None:
    """Of each kind."""
    generators = pytest.importorskip("numpy.random")
    new, old = generators.default_rng(3), generators.RandomState(3)

    def play(_: int) -> Any:
        return new.normal(), old.rand(), generators.rand()

    assert sorted(slips_of(play)) == [("draws from new", 1), ("draws from old", 1)]


def test_one_generator_for_all_items() -> None:
    """Each item has a copy, and all draw the same; one for each is well."""

    def play(_: int, by: Any) -> Any:
        return by.random()

    told = [("draws from the generator that is given to all items", 0)]
    assert slips_of(play, range(2), [dice] * 2) == slips_of(play, range(2), repeat(dice)) == told
    assert slips_of(partial(play, by=dice)) == told
    with pytest.warns(RuntimeWarning, match="the generator that is given to all items"):
        assert len({*parallel(workers=2)(play).starmap([(x, dice) for x in range(4)])}) == 1
    assert slips_of(play, range(2), [Random(1), Random(2)]) == slips_of(play, range(2), repeat(3)) == []


def in_turn(x: int) -> int:
    with lock:
        again.acquire()
        return x


async def in_turn_of_loop(x: int) -> int:
    async with few:
        return x


def three(x: int) -> int:
    with some:
        return x


def guard_cache(x: int) -> int:
    with lock:
        if x not in cache:
            cache[x] = x * x
        return cache[x]


def look_at_lock(_: int) -> bool:
    return lock.locked() and isinstance(again, int)


def test_locks() -> None:
    """Each process has its own: they are for its threads, as that of a cache is."""
    assert sorted(slips_of(in_turn)) == [("takes again", 2), ("takes lock", 1)]
    assert slips_of(in_turn_of_loop) == [("takes few", 1)]
    assert slips_of(three) == [("takes some", 1)]
    assert slips_of(guard_cache) == slips_of(look_at_lock) == []


def total_of_row(row: Any) -> None:
    row["total"] = row["a"] + row["b"]


def grow_object(thing: Any) -> None:
    thing.size += 2


def push_to_object(thing: Any) -> None:
    if thing.size:
        thing.parts.append(1)


def double(numbers: Any) -> None:
    numbers[:] = numbers[0] * 2


async def wait_for(row: Any) -> None:
    row["done"] = True


def change_and_give(row: Any) -> Any:
    row["total"] = 1
    return row


def change_and_use(row: Any) -> None:
    row["total"] = 1
    print(row)


def change_and_save(thing: Any) -> None:
    thing.size = 1
    thing.save()


def yield_it(row: Any) -> Iterator[None]:
    yield row.append(1)


def rename(row: Any) -> None:
    row = dict(row)
    row["total"] = 1


def set_anew(numbers: Any) -> None:
    numbers = numbers * 2
    numbers += [1]


def count_down(number: Any) -> None:
    number -= 1


class Narrow:
    """An object with slots."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


class Thing:
    """An object of the program."""

    size = 3

    def __init__(self) -> None:
        self.parts: list[int] = []

    def save(self) -> None:
        """Do anything."""


def test_arguments() -> None:
    """What is done to them is lost, where nothing is done with them."""
    assert slips_of(total_of_row, [{}]) == [("changes row", 1)]
    assert slips_of(grow_object, [Thing()]) == [("changes thing", 1)]
    assert slips_of(push_to_object, (Thing(),)) == [("changes thing", 2)]
    assert slips_of(double, [[1, 2]]) == [("changes numbers", 1)]
    assert slips_of(double_each, [[1, 2]]) == [("changes numbers", 2)]
    assert slips_of(put_in_order, [[2, 1]]) == [("changes numbers", 1)]
    assert slips_of(wait_for, [{}]) == [("changes row", 1)]
    assert slips_of(partial(change_one_of_two, 3), [{}]) == [("changes other", 1)]
    assert slips_of(halve, [[1.0]]) == slips_of(halve, ([1.0],)) == [("changes numbers", 1)]
    assert slips_of(grow_object, [Narrow(3)]) == [("changes thing", 1)]


def test_arguments_that_all_tasks_share() -> None:
    """Each has a copy of what it is to fill."""
    told = [("changes other", 1)]
    assert slips_of(change_one_of_two, [1, 2], repeat({})) == told
    assert slips_of(partial(change_one_of_two, other={}), [1, 2]) == told
    assert slips_of(partial(double, []), []) == [("changes numbers", 1)]
    out: dict[str, int] = {}
    with pytest.warns(RuntimeWarning, match="change_one_of_two changes other"):
        parallel(workers=2)(change_one_of_two).submit(3, out).result(60)
    assert out == {}


def double_each(numbers: Any) -> None:
    for place in range(len(numbers)):
        numbers[place] *= 2


def halve(numbers: Any) -> None:
    numbers *= len(numbers)


def put_in_order(numbers: Any) -> None:
    numbers.sort()


def change_one_of_two(one: int, other: Any) -> None:
    other["a"] = one


@pytest.mark.parametrize(
    ("function", "items"),
    [
        (change_and_give, [{}]),
        (change_and_use, [{}]),
        (change_and_save, [Thing()]),
        (yield_it, [[]]),
        (rename, [{}]),
        (set_anew, [[1]]),
        (count_down, [1]),
        (total_of_row, []),
        (total_of_row, iter([{}])),
        (double, [memoryview(bytearray(4))]),
        (partial(change_one_of_two, {}), [3]),
    ],
)
def test_arguments_that_are_of_use(function: Any, items: Any) -> None:
    """They are given back, or to others; or nobody knows what they are."""
    assert slips_of(function, items) == []


class Study:
    """Keeps what it finds."""

    def __init__(self) -> None:
        self.results: list[int] = []
        self.read: list[int] = []
        self.total = self.calls = 0
        self.dice = dice
        self.lock = None

    def look(self, x: int) -> int:
        self.results.append(x)
        self.total += x
        self.read.append(x)
        return self.known()

    def known(self) -> int:
        return len(self.read)

    def give(self, x: int) -> Study:
        self.results.append(x)
        return self

    def roll(self, _: int) -> float:
        return self.dice.random()

    @parallel(workers=1)
    def keep(self, x: int) -> int:
        """Keep it."""
        self.results.append(x)
        return x


study = Study()


def roll_of_study(x: int) -> float:
    return study.roll(x)


def test_methods() -> None:
    """Attributes that nothing reads which may run, unless the object is given away."""
    assert sorted(slips_of(study.look)) == [("changes self.results", 1), ("changes self.total", 2)]
    assert slips_of(study.give) == []
    assert slips_of(study.roll) == [("draws from self.dice", 1)]
    assert slips_of(roll_of_study) == [("draws from study.dice", 1)]


def test_a_parallel_method() -> None:
    """It is the same by decorator."""
    with pytest.warns(RuntimeWarning, match=r"Study\.keep changes self\.results"):
        assert study.keep.map([1, 2]) == [1, 2]
    assert study.results == []


def calls(function: Callable[[int], Any]) -> dict[str, Callable[[], Any]]:
    """Each way to call a function in a worker."""
    f = parallel(workers=2)(function)

    def in_pool() -> Any:
        with Pool(2) as pool:
            return pool.map(function, [1])

    def in_executor() -> Any:
        with Executor(2) as executor:
            return executor.submit(function, 1).result(60)

    return {
        "map": lambda: f.map([1]),
        "submit": lambda: f.submit(1).result(60),
        "imap": lambda: [*f.imap([1])],
        "map_async": lambda: f.map_async([1]).result(60),
        "Pool": in_pool,
        "Executor": in_executor,
    }


@pytest.mark.parametrize("how", calls(append))
def test_each_way_to_call(how: str) -> None:
    """Whoever calls is told, and gets results."""
    with pytest.warns(RuntimeWarning, match=r"append changes results, of which each worker has a copy .*: return"):
        calls(append)[how]()


def test_filters() -> None:
    """A warning is shown once, is an error, or nothing, as Python's filters say. After an error, calls go on."""
    f = parallel(workers=2)(append)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        f.map([1])
        f.map([1])
        f.submit(1).result(60)
    assert len(told) == 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="changes results"):
            parallel(workers=2)(append).map([1])
        with pytest.raises(RuntimeWarning, match="changes results"):
            parallel(workers=2)(append).submit(1)

    with warnings.catch_warnings(record=True) as told:
        warnings.filterwarnings("ignore", message=".* changes results")
        assert parallel(workers=2)(append).map([1]) == [None]
    assert not told


def test_where_all_is_well() -> None:
    """On threads, and serially, there is one list, as in an only worker. An initializer may have made another."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel(workers=1, backend="threads")(append).map([1])
        parallel(workers=1, backend="serial")(append).map([2])
        assert results == [1, 2]
        parallel(workers=2, initializer=int)(append).map([3])
        parallel(workers=1)(append).map([4])
    results.clear()


PROGRAM = """
from parmap import parallel

found = []

@parallel(workers=2)
def collect(n):
    found.append(n)  # a copy

collect.map(range(4))
print(found)
"""


def test_a_script(script: Script) -> None:
    """The line is shown, once."""
    said = script.run(PROGRAM)
    assert said.stdout == "[]\n"
    assert said.stderr.count("RuntimeWarning: collect changes found, of which each worker has a copy") == 1
    assert "found.append(n)  # a copy" in said.stderr


RIGHT = dict(
    part.split("\n", 1) for part in Path(__file__).with_name("right_programs.txt").read_text().split("\n### ")[1:]
)


@pytest.mark.parametrize("program", RIGHT)
def test_programs_that_are_right(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that is out of sight reads what is changed, or knows of copies: nothing is said."""
    for library in ("numpy", "pandas"):
        if f"import {library}" in RIGHT[program]:
            pytest.importorskip(library)
    path = tmp_path / "program_that_is_right.py"
    path.write_text(RIGHT[program])
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)

    def check(function: Any, *iterables: Any, star: bool = False) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_of_slips(function, iterables, star=star)

    def warned(function: Any) -> None:
        with pytest.warns(RuntimeWarning):
            warn_of_slips(function)

    vars(module).update(check=check, warned=warned)
    spec.loader.exec_module(module)


@pytest.mark.parametrize(
    "code",
    [
        "def f(x):\n" + "".join(f"    v{i} = x + {i} if x else g(x)\n" for i in range(5000)),
        "".join(f"def g{i}(x): return g{(i + 1) % 5000}(x)\n" for i in range(5000)) + "def f(x): return g0(x)",
        "def f(x):\n    match x:\n        case {'a': [b, *c], **d}: return [y for z in c if (y := z)]",
        "async def f(x):\n    async with x as y, x: await y\n    async for z in x: yield z",
        "def f(x):\n    try: del x[0]\n    except* ValueError: raise\n    finally: print(f'{x!r:>{x}}')",
    ],
)
def test_code_of_any_kind(code: str) -> None:
    """It is read, or left, in no time; what it uses may raise whatever is done with it."""

    class Evil(type):
        def __getattribute__(cls, name: str) -> Any:
            raise ValueError(name)

        __eq__ = __hash__ = __getattribute__  # type: ignore[assignment]

    evil = Evil("evil", (), {})
    space: dict[str, Any] = {"__name__": "made", "v": type.__call__(evil), "c": evil}
    exec(f"{code}\ndef h(x):\n    v.a = v[1] = c.append(x)", space)
    items = [space["v"]] * 2
    for name in "fh":
        warn_of_slips(space[name], [items])
        warn_of_slips(partial(space[name], space["v"]), [items])


@pytest.mark.skipif(
    sys.version_info < (3, 14) and not getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="CPython 3.13 without the GIL keeps all code, once there was a thread",
)
def test_nothing_is_kept() -> None:
    """Code that is made at run time is forgotten with its function."""
    import gc
    from weakref import ref

    space: dict[str, Any] = {"found": [], "__name__": "made"}
    exec("def collect(x): found.append(x)", space)
    with pytest.warns(RuntimeWarning, match="collect changes found"):
        warn_of_slips(space["collect"])
    code = ref(cast("Any", space["collect"]).__code__)
    del space
    gc.collect()
    assert code() is None


def test_what_a_signal_handler_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes through, wherever the handler was called; an error of our own doesn't."""
    from signal import SIGALRM, raise_signal
    from signal import signal as handle

    from parmap._travel.code.needs import slips

    def raise_timeout(_number: int, _frame: Any) -> None:
        raise TimeoutError("mine")

    monkeypatch.setattr(slips, "_columns_of", lambda _: raise_signal(SIGALRM) or [])
    before = handle(SIGALRM, raise_timeout)
    try:
        with pytest.raises(TimeoutError, match="mine"):
            warn_of_slips(read_only, [[]], star=True)
    finally:
        handle(SIGALRM, before)
    monkeypatch.setattr(slips, "_columns_of", lambda _: {}[1])
    warn_of_slips(read_only, [[]], star=True)
