"""Marks: a function that travels by value is packed again when anything that it reaches has changed, and only then."""

from __future__ import annotations

import copyreg
import enum
import sys
import textwrap
import types
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inspection import key_of, parts_of
from tasks import wait_for

from parmap import parallel
from parmap._travel.code.marks import kept
from parmap._travel.code.marks.walk import mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Script

pytestmark = pytest.mark.usefixtures("pools_stay")

PROGRAM = """
import abc, array, collections, datetime, decimal, enum, functools, pathlib, re, threading, types, weakref
import parmap
from dataclasses import dataclass, field

number, truth, text, nothing = 1, True, "text", None
numbers = [1, 2, 3]
names = {"a": 1, "b": True}
several = {1, 2}
pair = (1, "two")
nested = {"list": [1, [2]], "more": [numbers]}
table = {i: str(i) for i in range(2000)}
rows = [(i, str(i)) for i in range(1500)]
buffer = bytearray(b"abc")
large = bytearray(100_000)
items = array.array("i", range(20_000))
twins = same = [0]
ordered = collections.OrderedDict(a=1)

class Base:
    level = 1
    def tell(self): return ("base", self.level, number)

class Thing(Base):
    kind = "thing"
    shared = []
    __slots__ = ("x", "y")
    def __init__(self, x, y=()): self.x, self.y = x, y
    def tell(self): return ("thing", self.x, self.y, super().tell(), helper())
    @property
    def prop(self): return ("prop", self.x)
    @classmethod
    def cls(cls): return ("cls", cls.kind)
    @staticmethod
    def static(): return ("static", truth)

@dataclass
class Data:
    x: int
    more: list = field(default_factory=list)

class Colour(enum.Enum):
    RED = 1
    BLUE = 2

class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

class Square(Shape):
    def area(self): return 4

class Duck: pass

thing, data = Thing(1, [2]), Data(3)
thing_again = thing

def helper(a=[1], *, b={"c": 1}): return ("helper", list(a), dict(b), number)
def inner(): return ("inner", text)
@functools.lru_cache
def cached(): return ("cached", 1)
given = functools.partial(lambda x, y: ("given", x, y), 1, y=[2])
bound = thing.tell

def make():
    kept, count = [1], 0
    def closure(change=None):
        nonlocal count, kept
        if change is not None: count, kept = change
        return ("closure", kept, count)
    return closure
closure = make()

class Watcher:
    def __init__(self): self.own = [1]
    def look(self, _=None): return repr(self.own), seen()
watcher = Watcher()

class Model:
    "A plain object, with others in it."
    rate = 1.5
    def __repr__(self): return "a model"
    def __init__(self):
        self.weights, self.names, self.options = [1.0, 2.0], {"a": [1]}, {"deep": {"deeper": (1, [2])}}
        self.parent, self.other = None, numbers
    def tell(self): return (self.rate, sorted(vars(self).items(), key=str), self.other is numbers)
model, stateful = Model(), Model()
ring = [1]
ring.append(ring)
mixed = (1, [2], {"three": 3})
pattern, day, price = re.compile("a+"), datetime.date(2026, 1, 2), decimal.Decimal("1.10")
moment = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)
path = pathlib.Path("some/where")
method, part = model.tell, functools.partial(pow, 2)
handlers = {"inner": lambda: text, "helper": len, "cls": Thing}
chosen_colour, colours = Colour.RED, [Colour.RED, Colour.BLUE]
counts = collections.defaultdict(list, a=[1])
lock = threading.Lock()
guarded = {"lock": lock, "list": [1], "again": numbers}
spoken = types.SimpleNamespace(word="hello", more=[1])
odd = {"static": staticmethod(lambda: number), "weak": weakref.WeakKeyDictionary(), "flag": enum.Flag("F", "A B")(1)}
class Level(enum.IntFlag, boundary=enum.KEEP):
    LOW = 1
class Own(staticmethod): pass
flags = [Level(8), Level(1)]
own = Own(lambda: number)
condition = threading.Condition()
fast = parmap.parallel(lambda x: ("fast", x, number), workers=1)
"""

LOOKS = [
    "(number, truth, text, nothing)", "numbers", "names", "sorted(map(repr, several))", "pair", "nested",
    "(len(table), table.get(7), table.get(-1))", "(rows[3], len(rows))", "(bytes(buffer), large[-1], len(large))",
    "(items[5], items[-1], len(items))", "twins is same", "thing is thing_again", "nested['more'][0] is numbers",
    "ordered", "(thing.tell(), thing.prop, Thing.cls(), Thing.static(), Thing.shared)", "bound()", "helper()",
    "inner()", "cached()", "given()", "closure()", "(data, data.more)", "sorted(vars(inner).items())",
    "(Colour.RED.value, vars(Colour.BLUE).get('note'))", "issubclass(Duck, Shape)", "Square().area()", "extra()",
    "sorted(n for n in vars(Thing) if not n.startswith('__'))", "(inner.__doc__, helper.__name__)",
    "type(thing).__name__", "chosen(3), chosen('3')",
    "model.tell(), model.options['deep'] is model.options.get('twin')", "vars(stateful)", "method(), part(3)",
    "(ring[0], ring[1] is ring, len(ring))", "(mixed, mixed[1] is numbers)", "(pattern, day, price, moment, path)",
    "[(name, str(each)[:9]) for name, each in handlers.items()], handlers['inner']()",
    "(chosen_colour, colours, [each.value for each in colours])", "(counts, counts.default_factory)",
    "guarded['list'], guarded['again'] is numbers, lock is guarded['lock']", "spoken",
    "fast(3), vars(fast).get('note'), repr(fast).split()[-1]", "cached.cache_parameters(), vars(cached).get('note')",
    "(model.parent is not None, model.parent is model)", "own(), odd['static'](), odd['flag'], flags, len(odd['weak'])",
    "type(condition), condition in guarded.values()",
]  # fmt: skip

SEEN = (
    "def seen(*_):\n    found = []\n"
    + "".join(
        f"    try: found.append(repr(({look})))\n    except Exception as error: found.append(type(error).__name__)\n"
        for look in LOOKS
    )
    + "    return found\n"
)

CHANGES = [
    # atoms: another value, one that is equal and something else, the same one again, none
    "number = 2", "number = True", "number = 1.0", "number = 1", "number = -0.0", "number = 0.0", "del number",
    "truth = 1", "truth = True", "text = 'te' + 'xt'", "text = 'other'", "nothing = ...", "pair = (True, 'two')",
    # containers, small and large, at any depth
    "numbers.append(4)", "numbers[0] = True", "numbers[0] = 1", "del numbers[-1]", "numbers = list(numbers)",
    "names['a'] = 1.0", "names['b'] = 1", "names.pop('b', None)", "names = dict(reversed(names.items()))",
    "several.add(True)", "several ^= {1}", "several.add(3)", "nested['list'][1][0] = 9", "nested['list'].append(0)",
    "table[7] = 'seven'", "table[7] = 7", "table[7] = True", "table.pop(7, None)", "table[-1] = 1", "table[-1] = True",
    "rows[3] = (3, 3)", "rows[3] = (3, True)", "rows.pop()", "buffer[0] ^= 1", "large[-1] ^= 1", "large += b'1'",
    "items[5] = -1", "items[5] = 5", "items.append(1)", "ordered['b'] = 2", "ordered.move_to_end('a')",
    # which are the same
    "same = [0]", "same = twins", "twins.append(1)", "thing_again = Thing(1, [2])", "thing_again = thing",
    "nested['more'][0] = list(numbers)", "nested['more'][0] = numbers",
    # objects and classes
    "thing.x = 5", "thing.x = True", "thing.y.append(1)", "thing = Thing(2)", "del thing.y", "thing.y = [True]",
    "Base.level = 2", "Base.level = True", "Thing.kind = 'other'", "Thing.shared.append(1)", "Thing.new = 1",
    "del Thing.new", "Thing.tell = lambda self: ('new', number)", "Thing.prop = property(lambda self: 'new prop')",
    "Thing.static = staticmethod(lambda: text)", "Thing.__init__.__defaults__ = ([7],)", "data.x = 4",
    "data.more.append(1)", "data = Data(True)", "Colour.BLUE.note = 1", "Shape.register(Duck)",
    "Square.area = lambda self: number", "bound = Thing(7).tell", "watcher.own.append(2)", "watcher = Watcher()",
    "thing.__class__ = type('Other', (Thing,), {'__slots__': ()})",
    # functions
    "helper.__defaults__[0].append(2)", "helper.__defaults__ = ([True],)", "helper.__kwdefaults__['b']['c'] = 2",
    "inner.note = [1]", "inner.note.append(True)", "del inner.note", "inner = lambda: ('anew', text)",
    "inner.__code__ = (lambda: 'other code').__code__", "inner.__doc__ = 'told'", "helper.__name__ = 'renamed'",
    "closure((closure()[1] + [1], 5))", "closure((True, 0))", "closure = make()", "extra = lambda: ('extra', number)",
    "del extra", "given.keywords['y'].append(3)",
    "given = functools.partial(lambda x, y: (x, y), True, y=1)", "chosen.register(str, lambda x: ('str', number))",
    "chosen = functools.singledispatch(lambda x: text)",
    # objects, and what is deep in them
    "model.rate = 2", "model.rate = True", "Model.rate = 3", "del model.rate", "model.weights[1] = 5.0",
    "model.weights.append(True)", "model.names['a'].append(2)", "model.names['b'] = []", "model.names.pop('b', None)",
    "model.options['deep']['deeper'][1].append(3)", "model.options['deep']['deeper'] = (True, [2])",
    "model.options['twin'] = model.options['deep']", "model.options['twin'] = dict(model.options['deep'])",
    "model.other = list(numbers)", "model.other = numbers", "model.parent = model", "model.parent = stateful",
    "model.parent = None", "model = Model()", "model.__class__ = Watcher", "model.__dict__ = {'own': [3], **vars(model)}", "Model.tell = lambda self: ('told', number)",
    "odd['static'] = staticmethod(lambda: text)", "odd['flag'] = type(odd['flag'])(2)", "flags[0] = Level(16)",
    "odd['weak'][Thing] = 1", "own = Own(lambda: text)", "guarded['condition'] = condition", "Own.__call__ = lambda _: 5",
    # what is in other things
    "ring[0] = 2", "ring[1] = [1]", "ring.append(0)", "mixed[1].append(3)", "mixed = (1, numbers, {'three': 3})",
    "mixed = (True, [2], {'three': 3})", "mixed[2]['three'] = 3.0", "pattern = re.compile('b+')",
    "pattern = re.compile('a+', re.I)", "day = datetime.date(2026, 1, 3)", "price = decimal.Decimal('1.1')",
    "moment = moment.replace(tzinfo=None)", "path = pathlib.PurePosixPath('some/where')", "method = stateful.tell",
    "part = functools.partial(pow, 3)", "part = functools.partial(pow, True)", "part.note = 1",
    "handlers['inner'] = lambda: number", "handlers['cls'] = Base", "handlers['new'] = inner", "handlers.pop('new', None)",
    "chosen_colour = Colour.BLUE", "colours.reverse()", "colours[0] = Colour.BLUE", "counts['a'].append(2)",
    "counts['b'] = [numbers]", "counts.default_factory = set", "guarded['list'].append(1)", "guarded['again'] = [1, 2, 3]",
    "guarded['lock'] = threading.Lock()", "spoken.word = 'bye'", "spoken.more.append(2)",
    "fast = parmap.parallel(lambda x: ('other', x, text), workers=1)", "fast.note = [1]", "fast.note.append(2)",
    "fast = fast.options(workers=2)", "cached = functools.lru_cache(lambda: ('cached', 2))", "cached.note = [1]",
    "cached = functools.lru_cache(maxsize=3)(cached.__wrapped__)", "cached.__wrapped__.__doc__ = 'new'",
]  # fmt: skip

ROOTS = ["seen", "watcher.look", "functools.partial(seen, 0)", "lambda _: seen()", "Watcher().look", "rooted"]
METHODS: dict[str, Callable[[Any], Any]] = {
    "map": lambda function: function.map([0])[0],
    "submit": lambda function: function.submit(0).result(60),
    "imap": lambda function: next(iter(function.imap([0]))),
    "map_async": lambda function: function.map_async([0]).result(60)[0],
}


@pytest.fixture
def script_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict[str, Any]]]:
    """Makes a fresh `__main__` that has run the program."""

    def make() -> dict[str, Any]:
        module = types.ModuleType("__main__")
        monkeypatch.setitem(sys.modules, "__main__", module)
        exec(textwrap.dedent(PROGRAM) + SEEN + ROOTED, vars(module))
        return vars(module)

    return make


ROOTED = """
@functools.singledispatch
def chosen(x): return "object"
@chosen.register
def _(x: int): return ("int", number)
def root():
    kept = [0]
    def rooted(_=None): return kept, seen()
    return rooted
rooted = root()
"""


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(ROOTS),
    st.lists(st.tuples(st.lists(st.sampled_from(CHANGES), max_size=2), st.sampled_from(sorted(METHODS))), max_size=12),
)
def test_workers_see_what_a_direct_call_sees(
    script_module: Callable[[], dict[str, Any]], root: str, steps: list[tuple[list[str], str]]
) -> None:
    """Whatever changes between two calls, of whichever methods, workers see what the plain function sees."""
    names = script_module()
    function = eval(root, names)
    for changes, method in [([], "map"), *steps]:
        for change in changes:
            try:
                exec(change, names)
            except (NameError, AttributeError, LookupError, TypeError, ValueError):
                pass  # what was to be changed is gone
        if "." in root or "(" in root:
            function = eval(root, names)
        parallel_function = parallel(function, workers=1)

        assert METHODS[method](parallel_function) == function(0), (changes, method)


@pytest.mark.parametrize("root", ROOTS)
def test_what_is_unchanged_is_not_sent_again(script_module: Callable[[], dict[str, Any]], root: str) -> None:
    """A function is sent once, as long as nothing that it reaches has changed."""
    names = script_module()
    function = parallel(eval(root, names), workers=1)
    first = key_of(function)
    function.map([0])

    assert [key_of(function) for _ in range(3)] == [first] * 3


def test_each_change_is_seen(script_module: Callable[[], dict[str, Any]]) -> None:
    """Each kind of change, by itself, right after a call."""
    missed = []
    for change in CHANGES:
        names = script_module()
        before = parallel(names["seen"], workers=1).submit(0).result(60)
        try:
            exec(change, names)
        except (NameError, AttributeError, LookupError, TypeError, ValueError):
            continue
        function = parallel(names["seen"], workers=1)
        now = names["seen"]()
        if [function.submit(0).result(60), *function.map([0])] != [now, now]:
            missed.append((change, before))

    assert missed == []


@pytest.mark.parametrize(
    "change",
    [
        "Model.__getstate__ = lambda self: {'word': 'hidden'}",
        "Model.__reduce__ = lambda self: (dict, ([('word', 'hidden')],))",
        "Model.__reduce_ex__ = lambda self, _: (dict, ([('word', 'hidden')],))",
        "copyreg.pickle(Model, lambda self: (dict, ([('word', 'hidden')],)))",
        "Model.__getnewargs__ = lambda self: (); Model.__new__ = lambda cls: made()",
    ],
)
def test_a_class_is_given_its_own_way_of_pickling(change: str, script_module: Callable[[], dict[str, Any]]) -> None:
    """Between two calls: what workers get of its objects is what pickle makes of them then."""
    names = script_module()
    exec("import copyreg\ndef made():\n    new = object.__new__(Model)\n    new.made = 1\n    return new", names)
    exec("def look(_=None): return str(model if type(model) is dict else sorted(vars(model), key=str))", names)
    function = parallel(names["look"], workers=1)
    before = function.map([0])
    try:
        exec(change, names)
        (after,) = function.map([0])
    finally:
        copyreg.dispatch_table.pop(names["Model"], None)

    assert before == [str(["names", "options", "other", "parent", "weights"])]
    assert any(word in after for word in ("word", "made")), after


def test_what_is_deleted_is_gone_in_workers(script_module: Callable[[], dict[str, Any]]) -> None:
    """A global, an attribute of a class, of a function and of an object, a key: each added, then deleted."""
    names = script_module()
    for change in (
        "extra = len; Thing.new = inner.note = 1; table[-1] = 1; names['new'] = 1",
        "del extra, Thing.new, inner.note, table[-1], names['new'], thing.y",
    ):
        exec(change, names)
        function = parallel(names["seen"], workers=1)

        assert function.map([0]) == [names["seen"]()]
        assert function.submit(0).result(60) == names["seen"]()


def test_queued_tasks_keep_their_version(tmp_path: Path) -> None:
    """A task sees what it saw when it was submitted, also when it is tried again; so does the class of its argument."""
    gate = tmp_path / "gate"
    state = [0]

    class Item:
        level = 0

        def tell(self) -> int:
            return self.level

    def look(item: Item) -> tuple[int, int, int]:
        wait_for(str(gate))
        if not (tmp_path / str(item.level)).exists():
            (tmp_path / str(item.level)).touch()
            raise OSError
        return state[0], item.level, Item().tell()

    futures = []
    for level in range(4):
        state[0] = Item.level = level
        futures.append(parallel(look, workers=1, retries=1, retry_delay=0.01).submit(Item()))
    Item.level = state[0] = 9
    gate.touch()

    assert [future.result(60) for future in futures] == [(level,) * 3 for level in range(4)]


def test_two_functions_with_versions_of_one_class() -> None:
    """Tasks of one that see a class as it is now, among those of another that see it as it was."""

    class Item:
        level = 0

    def old(_: int) -> tuple[int, bool]:
        return Item.level, hasattr(Item, "new")

    def new(_: int) -> tuple[int, bool]:
        return Item.level, hasattr(Item, "new")

    futures = []
    for number in range(6):
        function = parallel(new if number % 2 else old, workers=1)
        Item.level = number % 2
        if number % 2:
            Item.new = True  # type: ignore[attr-defined]
        elif number:
            del Item.new  # type: ignore[attr-defined]
        futures.append(function.submit(number))

    assert [future.result(60) for future in futures] == [(0, False), (1, True)] * 3


def test_what_changed_is_sent_alone() -> None:
    """A function that reads a large table and a counter sends the counter; and what a task did to the table is undone."""
    table = {number: str(number) for number in range(5000)}
    array = bytearray(200_000)
    count = 0

    def look(number: int) -> tuple[int, str, int]:
        found = count, table[number], array[number]
        table[number], array[number] = "spoilt", 1
        return found

    function = parallel(look, workers=1)
    seen = [function.submit(7).result(60)]
    parts = parts_of(function)
    for count in (1, 2):  # noqa: B007 - read by the closure
        seen += function.map([7])

    assert len(parts) == 2
    assert parts_of(function) == parts
    assert seen == [(0, "7", 0), (1, "7", 0), (2, "7", 0)]


class Word(enum.StrEnum):
    """An equal one is another."""

    ONE = "1"


ALIKE: dict[str, tuple[Any, Any]] = {
    "truth": (1, True),
    "float": (1, 1.0),
    "sign": (0.0, -0.0),
    "word": ("1", Word.ONE),
}


@pytest.mark.parametrize("length", [3, 60, 3000])
@pytest.mark.parametrize("way", ["in memory", "one by one"])
@pytest.mark.parametrize("alike", ALIKE)
def test_what_is_equal_is_not_the_same(monkeypatch: pytest.MonkeyPatch, alike: str, way: str, length: int) -> None:
    """In tables of any length, first, last or amid them, and however objects can be compared on a system."""
    if way == "one by one":
        monkeypatch.setattr(kept, "_in_one_go", kept._one_by_one)
    before, after = ALIKE[alike]
    items: list[Any] = [str(number) for number in range(length)]
    names: dict[Any, Any] = dict(zip(range(length), items, strict=True))
    keys: dict[Any, Any] = {(number, ""): None for number in range(length)}

    def task(_: Any) -> str:
        return repr((items, names, keys))

    seen = parallel(task, workers=1)
    for place in (0, length // 2, length - 1):
        items[place] = names[place] = before
        assert seen.submit(0).result(60) == task(0)
        items[place] = after
        assert seen.submit(0).result(60) == task(0)
        names[place] = after
        assert seen.submit(0).result(60) == task(0)
        keys[place, ""] = keys.pop((place, ""))
        assert seen.submit(0).result(60) == task(0)


def test_a_class_is_made_once_in_each_worker(script: Script) -> None:
    """Not with each chunk, nor with each task; and never in the program, when its instances come home."""
    done = script.run("""
        import os, pathlib
        from parmap import parallel
        seen = pathlib.Path("seen")

        class Seen:
            def __init__(self, name):
                self.name = name
            def __setstate__(self, state):
                with seen.open("a") as file:
                    file.write(f"{os.getpid()} {state['name']}\\n")

        class Item:
            marker = Seen("Item")

        class Result:
            marker = Seen("Result")

        def work(item):
            return Result(), isinstance(item, Item)

        function = parallel(work, workers=2, chunksize=5)
        for _ in range(3):
            results = function.map([Item() for _ in range(100)])
            results += [function.submit(Item()).result() for _ in range(20)]
            results += function.imap(Item() for _ in range(100))
            assert {type(result) for result, _ in results} == {Result}
            assert all(same for _, same in results)
        lines = seen.read_text().splitlines()
        print(len(lines) == len(set(lines)) <= 4, not any(line.startswith(f"{os.getpid()} ") for line in lines))
        Result.marker = 2
        assert function.map([Item()])[0][0].marker == 2
    """)

    assert (done.stdout, done.stderr) == ("True True\n", "")


CLASSES = """
import collections, dataclasses, enum, functools
from typing import Annotated, Literal, NamedTuple, Optional

notes = []

class Part:
    level = 1

@dataclasses.dataclass
class Data:
    x: int
    y: list[int] = dataclasses.field(default_factory=list, metadata={"unit": "m", "notes": notes})
    z: Optional[Part] = None

@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: "int" = 1
    y: Annotated[int, notes] = 2

class Row(NamedTuple):
    a: int
    b: dict[str, Part] = {}

Pair = collections.namedtuple("Pair", "a b", defaults=[1])

class Color(enum.Enum):
    RED = 1
    GREEN = 2

class Level(enum.IntFlag):
    LOW = 1
    HIGH = 2

class Lazy:
    hint: Literal["a", "b"] | None = None
    pair = (len, Part)
    @functools.cached_property
    def value(self): return 1
"""

UNSEEN = {
    "Data": [
        "Data.__dataclass_fields__['x'].default = 3",
        "Data.__dataclass_fields__['y'].default_factory = tuple",
        "Data.__dataclass_fields__['y'].repr = False",
        "Data.__dataclass_fields__['x'].type = float",
        "Data.__dataclass_fields__['z'].name = 'other'",
        "Data.__dataclass_fields__['w'] = Data.__dataclass_fields__['x']",
        "del Data.__dataclass_fields__['x']",
        "Data.__dataclass_fields__['x'].metadata = {'unit': 's'}",
        "notes.append(1)",
        "Data.__dataclass_params__.eq = False",
        "Data.__annotations__['x'] = float",
        "Part.level = 2",
        "Part.more = len",
    ],
    "Frozen": ["notes.append(1)", "Frozen.__dataclass_fields__['x'].type = int", "Frozen.__match_args__ = ('y', 'x')"],
    "Row": ["Row.__annotations__['a'] = str", "Part.level = 2", "Row._field_defaults['b'] = 1", "Row.a = Row.b"],
    "Pair": ["Pair.a.__doc__ = 'first'", "Pair._fields = ('a', 'c')", "Pair._field_defaults.clear()"],
    "Color": [
        "Color.RED.note = 1",
        "Color.RED._value_ = 3",
        "Color._member_map_['BLUE'] = Color.RED",
        "del Color._value2member_map_[2]",
        "Color.tell = len",
    ],
    "Level": ["Level.LOW.note = 1", "Level(3)"],
    "Lazy": [
        "Lazy.pair = (len, Color)",
        "Part.level = 2",
        "vars(Lazy)['value'].func = len",
        "vars(Lazy)['value'].__doc__ = 'told'",
        "Lazy.hint = 1",
        "Lazy.__annotations__['hint'] = Literal['a', 'c'] | None",
    ],
}


@pytest.mark.parametrize("name", UNSEEN)
def test_each_change_of_how_a_class_is_described_is_seen(
    script_module: Callable[[], dict[str, Any]], name: str
) -> None:
    """Fields, members, annotations: what is in them is compared, and what is unchanged is the same."""
    missed = []
    for change in UNSEEN[name]:
        names = script_module()
        exec(compile(CLASSES, "classes", "exec", dont_inherit=True), names)  # annotations are no strings in it
        kept, _ = mark([names[name]], lambda _kind, _length: ())
        assert kept.holds([names[name]])
        assert kept.holds([names[name]])
        exec(change, names)
        if kept.holds([names[name]]):
            missed.append(change)

    assert missed == []


OBJECTS = """
import enum
from dataclasses import dataclass

rate = 1
shared = [0]

def helper(): return rate

class Base:
    level = 1

class Part(Base):
    def __init__(self, x): self.x, self.more, self.next = x, [x, {"of": shared}], None
    def tell(self): return self.x, self.more, self.level, helper(), self.next and self.next.x

@dataclass(frozen=True, slots=True)
class Frozen:
    x: int
    part: Part

class Color(enum.Enum):
    RED = 1
    BLUE = [2]

class Place:
    "Pickled by where it stands."
    def __init__(self): self.x = 1
    def __reduce__(self): return getattr, (Place, "HERE")
Place.HERE = Place()

parts = [Part(x) for x in range(100)]
frozen = {str(x): Frozen(x, parts[x]) for x in range(100)}
colors = [(Color.RED, Color.BLUE)] * 100
functions = [helper] * 100
here = Place.HERE
places = {"few": [here], "many": [here] * 100, "inside": Part(here), "frozen": [Frozen(1, here)] * 100}
def made(here):
    def captured(_=None): return here.x
    return captured
captured = made(here)

def look_at_parts(_=None): return [part.tell() for part in parts], parts[3].more[1]["of"] is shared
def look_at_frozen(_=None): return [(key, each.x, each.part.tell()) for key, each in frozen.items()]
def look_at_colors(_=None): return [(one.value, other.value, getattr(one, "note", 0)) for one, other in colors]
def look_at_functions(_=None): return [function() for function in functions]
def look_at_here(_=None): return here.x
def look_at_few(_=None, places=places["few"]): return places[0].x
def look_at_many(_=None, places=places["many"]): return places[7].x
def look_inside(_=None, part=places["inside"]): return part.x.x
def look_deeper(_=None, parts=places["frozen"]): return parts[3].part.x
"""

AMONG_MANY = {
    "look_at_parts": [
        "parts[50].x = True",
        "parts[99].more.append(1)",
        "parts[7].more[1]['of'] = [5]",
        "shared.append(1)",
        "parts[3].next = parts[5]; parts[5].x = 8",
        "parts[1] = parts[2]",
        "parts.reverse()",
        "parts[4].__class__ = type('Other', (Part,), {'level': 3})",
        "Base.level = 2",
        "Part.tell = lambda self: self.x",
        "rate = 2",
        "helper = lambda: 3",
    ],
    "look_at_frozen": [
        "object.__setattr__(frozen['9'], 'x', 0)",
        "parts[9].x = 5",
        "frozen['9'] = frozen['8']",
        "rate = 2",
    ],
    "look_at_colors": ["Color.BLUE.value.append(3)", "Color.RED.note = 1", "colors[3] = (Color.BLUE, Color.RED)"],
    "look_at_functions": ["rate = 2", "functions[1] = lambda: 5", "helper.__code__ = (lambda: 6).__code__"],
    **{
        name: ["Place.HERE.x = 2"]
        for name in ["look_at_here", "look_at_few", "look_at_many", "look_inside", "look_deeper", "captured"]
    },
}


@pytest.mark.parametrize("name", AMONG_MANY)
def test_a_change_of_one_object_among_many(script_module: Callable[[], dict[str, Any]], name: str) -> None:
    """Of a hundred objects of a script's classes one has changed, or its class, or what stands for it in its class."""
    missed = []
    for change in AMONG_MANY[name]:
        names = script_module()
        exec(compile(OBJECTS, "objects", "exec", dont_inherit=True), names)
        function = parallel(names[name], workers=1)
        before = function.map([0]), function.submit(0).result(60)
        exec(change, names)
        after = function.map([0]), function.submit(0).result(60)
        if after != ([names[name]()], names[name]()) or before == after:
            missed.append((change, before, after))

    assert missed == []


@pytest.mark.parametrize("name", ["look_at_parts", "look_at_frozen", "look_at_colors", "look_at_functions"])
def test_many_objects_of_a_script_are_compared_by_pickle_alone(
    script_module: Callable[[], dict[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their classes are known by then: no pickler of Python's sees each object."""
    names = script_module()
    exec(compile(OBJECTS, "objects", "exec", dont_inherit=True), names)
    kept, _ = mark([names[name]], lambda _kind, _length: ())

    monkeypatch.setattr("parmap._travel.code.marks.mark.cloud_pickler", None)
    assert kept.holds([names[name]])
