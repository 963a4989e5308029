"""What pickle refuses and a worker can make anew is carried; what it can't is refused by name, with a way out."""

from __future__ import annotations

import os
import queue
import threading
from typing import TYPE_CHECKING, Any

import pytest

from parmap import Executor, Pool, SerializationError, parallel

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Script


def test_of_a_script(script: Script) -> None:
    """Locks, variables of contexts, cached properties, generic functions, enumerations, nested classes."""
    done = script.run("""
        import contextvars, enum, functools, queue, threading, warnings, weakref
        from parmap import parallel

        warnings.filterwarnings("ignore", "hold takes")
        lock, recursive, local = threading.Lock(), threading.RLock(), threading.local()
        event, condition, semaphore = threading.Event(), threading.Condition(), threading.Semaphore(3)
        event.set()
        waiting, simple = queue.Queue(), queue.SimpleQueue()
        variable, empty = contextvars.ContextVar("variable", default=[1]), contextvars.ContextVar("empty")
        cache = weakref.WeakKeyDictionary()
        lock.acquire()

        def hold(_):
            with lock, recursive, condition, semaphore:
                local.x = 1
                waiting.put(1), simple.put(2)
                return waiting.get(), simple.get(), event.is_set(), variable.get(), empty.get(0), len(cache)

        class A:
            lock = threading.Lock()
            def __init__(self): self.count = 0
            @functools.cached_property
            def n(self):
                self.count += 1
                return 5
            @functools.singledispatchmethod
            def kind(self, x): return "object"
            @kind.register
            def _(self, x: int): return "int"
            class Inner:
                class Deep:
                    pass

        @functools.singledispatch
        def g(x):
            "Told."
            return "object"
        @g.register
        def _(x: int): return "int"
        @g.register(list)
        def _(x): return [g(each) for each in x]

        class Planet(enum.Enum):
            EARTH = (5.9, 6.3)
            MARS = (0.6, 3.3)
            def __init__(self, mass, radius):
                self.mass, self.radius = mass, radius
        class Code(int, enum.Enum):
            def __new__(cls, value, label):
                made = int.__new__(cls, value)
                made._value_, made.label = value, label
                return made
            OK = (1, "fine")
        class Flags(enum.Flag):
            A = 1
            B = 2
        class Names(str, enum.Enum):
            X = "x"

        def use(a):
            with A.lock:
                return a.n, a.n, a.count, a.kind(1), a.kind(""), A.Inner.Deep.__qualname__, type(a.inner).__qualname__

        def enums(_):
            return (Planet.MARS.mass, Planet((5.9, 6.3)).radius, Code.OK.label, Code(1), Flags.A | Flags.B, Names("x"),
                    [each.name for each in Planet])

        for workers in (1, 2):
            a = A()
            a.inner = A.Inner.Deep()
            assert parallel(hold, workers=workers).map([0, 1]) == [(1, 2, True, [1], 0, 0)] * 2
            assert parallel(use, workers=workers).map([a]) == [(5, 5, 1, "int", "object", "A.Inner.Deep", "A.Inner.Deep")]
            assert parallel(g, workers=workers).map([1, "a", [1, "b"]]) == ["int", "object", ["int", "object"]]
            assert parallel(lambda x: g.__doc__, workers=workers).submit(1).result() == "Told."
            results = parallel(enums, workers=workers).map([0])[0]
            assert results == enums(0), results
            assert results[3] is Code.OK and results[3].label == "fine" and results[5] is Names.X
            assert parallel(lambda x: (x, x.mass), workers=workers).map([*Planet] * 10)[1] == (Planet.MARS, 0.6)
        g.register(str, lambda x: "str")
        assert parallel(g, workers=2).map([1, "a"]) == ["int", "str"]
        print("fine")
    """)

    assert (done.stdout, done.stderr[-2000:]) == ("fine\n", "")


def test_what_there_is_one_of(script: Script) -> None:
    """Sentinels, and what else is pickled by its name, are the same wherever they are met, there and back."""
    done = script.run(
        """
import enum
import sys
from parmap import parallel

class Unset:
    def __init__(self):
        self.x = 1
    def __bool__(self):
        return False
    def __repr__(self):
        return "unset"
    def __reduce__(self):
        return "UNSET"
class Slotted:
    __slots__ = ("x",)
    def __repr__(self):
        return "slotted"
    def __reduce__(self):
        return "SLOTTED"
@enum.global_enum
class Color(enum.Enum):
    RED = 1
UNSET, SLOTTED = Unset(), Slotted()
SLOTTED.x = 2
every = [UNSET, SLOTTED, Color.RED]
if sys.version_info >= (3, 15):
    MISSING = sentinel("MISSING")
    _other = sentinel("no such name", repr="<other>")
    every += [MISSING, _other]
    text = repr(_other)

@parallel(workers=1)
def look(x, default=every[-1], unset=UNSET):
    return [x is each for each in every], default is every[-1], unset is UNSET, UNSET.x, SLOTTED.x, bool(unset), repr(x)
def ask(x):
    return look(x), x.x if x is UNSET else 0
def same(sent, got):
    return len(sent) == len(got) and all(one is other for one, other in zip(sent, got))

here = [look(each) for each in every]
assert look.map(every) == here
assert [look.submit(each).result() for each in every] == here
back = parallel(lambda place: every[place], workers=1)
assert same(every, back.map(range(len(every))))
echo = parallel(lambda x: x, workers=1)
assert same(every * 9, echo.map(every * 9))
assert same(every * 9, list(echo.imap(iter(every * 9))))
assert same(every, [got["k"][0] for got in echo.map([{"k": (each,)} for each in every])])
UNSET.x = 3
assert look.map(every) == [look(each) for each in every]
assert look.submit(UNSET).result() == look(UNSET)
assert UNSET.x == 3
"""
    )

    assert done.stderr == ""


def test_what_there_is_one_of_is_not_kept(script: Script) -> None:
    """An object that is pickled by its name lives no longer than the program wants it, here and in workers."""
    done = script.run(
        """
import gc
from parmap import parallel

class Single:
    def __init__(self, name):
        self.name = name
    def __reduce__(self):
        return self.name

@parallel(workers=1)
def look(x):
    return x

@parallel(workers=1)
def count():
    gc.collect()
    return sum(type(each) is Single for each in gc.get_objects())

for number in range(20):
    single = Single(f"SINGLE_{number}")
    assert look.map([single])[0] is single
    assert look.submit(single).result() is single
print(count(), count.submit().result() < 3)
"""
    )

    assert (done.stdout, done.stderr) == ("1 True\n", "")


def test_sentinels_of_typing_extensions(script: Script) -> None:
    """They can be sent on any Python."""
    if not hasattr(pytest.importorskip("typing_extensions"), "Sentinel"):
        pytest.skip("no sentinels")
    done = script.run(
        """
from typing_extensions import Sentinel
from parmap import parallel

MISSING = Sentinel("MISSING")

@parallel(workers=1)
def look(x, default=MISSING):
    return x is MISSING, default is MISSING, MISSING

(is_same, by_default, back), = look.map([MISSING])
assert (is_same, by_default, back) == (True, True, MISSING) and back is MISSING
"""
    )

    assert done.stderr == ""


def test_local_of_a_class(script: Script) -> None:
    """What is local to threads, and of a class, as a console of rich has it, has what the caller's thread sees in it."""
    done = script.run("""
        import threading
        from parmap import parallel

        class Style(threading.local):
            def __init__(self, colour="plain"):
                self.colour = colour
                self.lock = threading.Lock()

        class Console:
            def __init__(self):
                self.style = Style("red")

        console = Console()

        def look(_):
            seen = []
            thread = threading.Thread(target=lambda: seen.append(console.style.colour))
            thread.start()
            thread.join()
            with console.style.lock:
                return console.style.colour, *seen

        look = parallel(look, workers=1)
        with console.style.lock:
            print(look.map([0]))
        console.style.colour = "blue"
        print(look.map([0]))
        """)

    assert done.stdout == "[('red', 'plain')]\n[('blue', 'plain')]\n", done.stderr


def test_enumerations_of_functions_and_of_data(script: Script) -> None:
    """Members that are functions, or that a dataclass says the form of, are the same members wherever they come."""
    done = script.run("""
        import dataclasses, enum, functools, operator
        from parmap import parallel

        class Way(enum.Enum):
            ADD = enum.member(lambda a, b: a + b)
            MOST = enum.member(max)
            def __call__(self, *args):
                return self.value(*args)

        class Part(enum.Enum):
            LESS = enum.member(functools.partial(operator.sub, 1))
            MORE = enum.member(functools.partial(operator.add, 1))
            def __call__(self, *args):
                return self.value(*args)

        @dataclasses.dataclass(frozen=True)
        class Size:
            width: int
            height: int = 5

        class Paper(Size, enum.Enum):
            SMALL = 1, 2
            LARGE = (3,)

        @parallel(workers=2)
        def call(way, x):
            return way(x, 3) if isinstance(way, Way) else way(x), way

        @parallel(workers=2)
        def measure(paper):
            return paper.width * paper.height, paper, paper is Paper.LARGE, Paper(Size(1, 2)) is Paper.SMALL

        ways = [*Way, *Part] * 3
        assert call.map(ways, range(12)) == [call(way, x) for way, x in zip(ways, range(12))]
        assert measure.map([*Paper] * 3) == [measure(paper) for paper in Paper] * 3
        assert measure.submit(Paper.LARGE).result() == measure(Paper.LARGE)
    """)

    assert done.stderr == ""


def test_enumerations_with_a_metaclass(script: Script) -> None:
    """The class of an enumeration, which says what is `in` it, say, or that it is abstract, is that of its copies."""
    done = script.run("""
        import abc, enum
        from parmap import parallel

        class Kind(enum.EnumMeta):
            def __contains__(cls, value):
                return value in cls._value2member_map_
            def __getitem__(cls, name):
                return super().__getitem__(name.upper())
            @property
            def names(cls):
                return list(cls.__members__)

        class Colour(enum.Enum, metaclass=Kind):
            RED = 1

        class Base(enum.Enum, metaclass=Kind):
            made = enum.nonmember([])
            def __init_subclass__(cls, **options):
                super().__init_subclass__(**options)
                cls.made.append(cls.__name__)

        class Size(str, Base):
            SMALL = "s"

        class Both(abc.ABCMeta, enum.EnumMeta):
            pass

        class Shape(abc.ABC):
            @abc.abstractmethod
            def area(self): ...

        class Square(Shape, enum.Enum, metaclass=Both):
            UNIT = 1
            def area(self):
                return self.value ** 2

        @parallel(workers=2)
        def look(value):
            found = [value in kind for kind in (Colour, Size)], Colour["red"] is Colour.RED, Colour.names, Size.names
            return value, found, Base.made, Square.UNIT.area(), isinstance(value, Shape), Square.UNIT

        values = [1, "s", 3, Square.UNIT, Colour.RED, Size.SMALL]
        assert look.map(values) == [look(value) for value in values]
        assert type(look.map([1])[0][-1]) is Square and Base.made == ["Size"]
    """)

    assert done.stderr == ""


def test_a_generic_function_that_was_called(script: Script) -> None:
    """What it has found out about classes that it was called with does not travel: they come with the arguments."""
    done = script.run("""
        import functools
        from parmap import parallel

        @functools.singledispatch
        def tell(x):
            return type(x).__name__

        @tell.register
        def _(x: list):
            return [tell(each) for each in x]

        class Own:
            pass

        items = [1, Own(), [Own()]]
        told = [tell(each) for each in items]
        for call in (parallel(workers=2)(tell), parallel(workers=2)(lambda x: tell(x))):
            assert call.map(items) == told
            assert call.submit(Own()).result() == "Own"

        tell.register(Own, lambda x: "mine")
        for call in (parallel(workers=2)(tell), parallel(workers=2)(lambda x: tell(x))):
            assert call.map(items) == ["int", "mine", ["mine"]]
    """)

    assert done.stderr == ""


def test_a_wrapper_that_says_it_is_a_function(script: Script) -> None:
    """One that poses as what it wraps, as decorators of wrapt make it, goes by its name, or as it says, or is refused."""
    script.write(WRAPPED, "wrapped.py")
    done = script.run("""
        import parmap
        import wrapped
        from parmap import parallel

        more = 1

        @wrapped.Wrapper
        def own(x):
            return x + more
        @wrapped.Sent
        def sent(x):
            return x + more if x else sent(1)

        twice = wrapped.twice
        for task in (twice, lambda x: twice(x), sent, lambda x: sent(x)):
            assert parallel(workers=2)(task).map([0, 3]) == [task(0), task(3)], task
        more = 2
        assert parallel(workers=2)(sent).map([0, 3]) == [12, 10]
        for task in (own, lambda x: own(x)):
            try:
                parallel(workers=2)(task).map([1])
            except parmap.SerializationError as error:
                assert "no way to pickle it" in str(error), error
            else:
                raise AssertionError
    """)

    assert done.stderr == ""


WRAPPED = """
import types

class Wrapper:
    def __init__(self, wrapped):
        self.__wrapped__ = wrapped
    __class__ = types.FunctionType
    def __getattr__(self, name):
        return getattr(self.__dict__["__wrapped__"], name)
    def __call__(self, *args):
        return 2 * self.__wrapped__(*args)
    def __reduce_ex__(self, protocol):
        raise NotImplementedError("no way to pickle it")

class Sent(Wrapper):
    def __reduce_ex__(self, protocol):
        return Sent, (self.__wrapped__,)

@Wrapper
def twice(x):
    return x
"""


def test_a_wrapper_that_pickles_by_the_name_of_its_function(script: Script) -> None:
    """What a decorator of a module makes of a function of the script, as those of cachetools do, comes with its parts."""
    script.write(KEPT, "kept.py")
    done = script.run("""
        import kept
        from parmap import parallel

        more = 1

        @kept.Kept
        def add(x):
            return x + more if x else 10 * add(1)

        for more in (1, 2):
            add.results.clear()
            for task in (add, lambda x: add(x)):
                found = parallel(workers=2)(task)
                assert found.map([0, 3]) == [10 * (1 + more), 3 + more] == [found.submit(0).result(), task(3)]
    """)

    assert done.stderr == ""


KEPT = """
import functools
import threading

class Kept:
    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.results, self.lock = {}, threading.Lock()
    def __call__(self, x):
        if x not in self.results:
            found = self.__wrapped__(x)
            with self.lock:
                self.results[x] = found
        return self.results[x]
    def __reduce__(self):
        return self.__qualname__
"""


def test_dataclasses_know_what_is_missing(script: Script) -> None:
    """In a worker too a field without a default is known by `MISSING`: it can be asked, and a subclass made."""
    done = script.run("""
        import dataclasses
        from parmap import parallel

        @dataclasses.dataclass
        class Row:
            name: str
            _: dataclasses.KW_ONLY
            tags: list = dataclasses.field(default_factory=list)

        @parallel(workers=1)
        def look(x):
            @dataclasses.dataclass
            class Longer(Row):
                size: int = 1
            missing = [(each.default is dataclasses.MISSING, each.name) for each in dataclasses.fields(Row)]
            return repr(Longer("a", tags=[x])), missing

        assert look.map([1]) == [look(1)]
    """)

    assert done.stderr == ""


def test_a_dataclass_that_was_brought_back(script: Script) -> None:
    """joblib, among others, gives the class of a result the attributes of its copy, with a `MISSING` of its own."""
    done = script.run("""
        import cloudpickle, dataclasses
        from parmap import parallel

        @dataclasses.dataclass
        class Row:
            name: str
            size: int = dataclasses.field(default=1, kw_only=True)

        @parallel(workers=1)
        def look(row):
            return row, [each.default is dataclasses.MISSING for each in dataclasses.fields(Row)]

        assert cloudpickle.loads(cloudpickle.dumps(Row("a"))) == Row("a")
        assert look.map([Row("a")]) == [(Row("a"), [True, False])]
        assert look.submit(Row("a")).result() == (Row("a"), [True, False])
    """)

    assert done.stderr == ""


def test_enumerations_with_other_names_for_members(script: Script) -> None:
    """Aliases, flags that are made of flags, and none of them."""
    done = script.run("""
        import enum
        from parmap import parallel

        class Level(enum.Enum):
            LOW = 1
            SMALL = 1
            HIGH = 2

        class Mode(enum.IntFlag):
            READ = enum.auto()
            WRITE = enum.auto()
            BOTH = READ | WRITE
            NONE = 0

        class Named(str, enum.Enum):
            A = "a"
            B = "a"

        def look(each):
            assert Level.SMALL is Level.LOW and Level["SMALL"] is Level(1) and Named.B is Named.A
            assert Mode.READ | Mode.WRITE is Mode.BOTH and ~Mode.READ is Mode.WRITE and not Mode.NONE
            assert [list(kind.__members__) for kind in (Level, Mode)] == NAMES
            return each, len(Level), len(Mode)

        NAMES = [list(kind.__members__) for kind in (Level, Mode)]
        every = [Level.SMALL, Level.HIGH, Mode.BOTH, Mode.NONE, Mode.READ, Named.B]
        for method in "forkserver", "spawn":
            f = parallel(look, workers=2, start_method=method)
            for each, (result, *lengths) in zip(every * 2, f.map(every) + [f.submit(each).result() for each in every]):
                assert result is each and lengths == [2, 2], (result, lengths)
    """)

    assert done.stderr == ""


def test_an_enumeration_whose_members_are_made_of_other_data(script: Script) -> None:
    """It is refused by its name, with what to do about it."""
    done = script.run("""
        import enum
        from parmap import SerializationError, parallel

        class Code(bytes, enum.Enum):
            def __new__(cls, value):
                made = bytes.__new__(cls, [value])
                made._value_ = value
                return made
            OK = 1

        for send in (lambda: parallel(lambda _: Code.OK, workers=1).map([0]), lambda: parallel(id, workers=1).map([Code.OK])):
            try:
                send()
            except SerializationError as error:
                assert "the enumeration Code are made of something else" in str(error), error
                print("refused")
    """)

    assert (done.stdout, done.stderr) == ("refused\nrefused\n", "")


def test_formats_and_the_system_s_randomness(script: Script) -> None:
    """A `struct.Struct` and a `random.SystemRandom`, which refuse to be pickled, are made anew; back, too."""
    done = script.run("""
        import random, struct
        from parmap import parallel

        head, chance = struct.Struct("<IQ"), random.SystemRandom()

        def look(form):
            return form.pack(1, 2), head.pack(3, 4), 0 <= chance.random() < 1, form

        for packed, other, is_random, form in [*parallel(look, workers=1).map([head]), look(head)]:
            assert (packed, other, form.format) == (head.pack(1, 2), head.pack(3, 4), head.format) and is_random
    """)

    assert done.stderr == ""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_structures_of_c(script: Script, method: str) -> None:
    """Structures, unions and arrays of a script go there and come back, with their layout; one changed, as it is now."""
    run = script.run(f"""
        import ctypes
        from ctypes import c_char, c_int, c_short, c_uint16
        import parmap

        class Number(ctypes.Union):
            _fields_ = [("whole", c_int), ("raw", c_char * 4)]

        class Point(ctypes.Structure):
            _anonymous_ = ["number"]
            _fields_ = [("number", Number), ("low", c_short, 3), ("high", c_short, 5), ("x", c_int * 2)]

            def total(self):
                return self.whole + self.high + sum(self.x)

        class Named(Point):
            _fields_ = [("name", c_char * 8)]

        Function = ctypes.CFUNCTYPE(c_int, c_int, use_errno=True)

        class Node(ctypes.Structure):
            pass

        Node._fields_ = [("value", c_int), ("next", ctypes.POINTER(Node)), ("call", Function)]

        class Header(ctypes.BigEndianStructure):
            _pack_ = 1
            _layout_ = "ms"
            _fields_ = [("kind", c_char), ("sizes", c_uint16 * 2), ("length", c_int)]

        class Count(c_int):
            pass

        class Row(c_int * 2):
            pass

        Pair = Point * 2

        def look(what):
            chain = Node(1, ctypes.pointer(Node(2, None, Function(lambda x: -x))))
            return what, Pair(what, what)[1].total(), chain.next.contents.call(2)

        look = parmap.parallel(look, workers=1, start_method={method!r})

        def header(what):
            return bytes(what), what.sizes[1], ctypes.sizeof(what)

        given = Named(Number(7), 1, 2, (3, 4), b"name")
        (back, total, value), = look.map([given])
        print(type(back) is Named, back.name, total, value)
        (back, *_), = look.map([Point(Number(1))])
        print(type(back) is Point, back.whole)
        Point.total = lambda self: -1
        print(look.submit(given).result()[1])
        headers = Header(b"a", (1, 2), 3)
        print(parmap.parallel(header, workers=1).map([headers]) == [header(headers)], header(headers)[2])
        print([list(each) for each in parmap.parallel(lambda x: x, workers=1).map([(c_int * 3)(1, 2, 3)])])
        (count, row), = parmap.parallel(lambda x: x, workers=1).map([(Count(1), Row(2, 3))])
        print(type(count) is Count, count.value, type(row) is Row, list(row))
    """)

    assert run.stdout.splitlines() == [
        "True b'name' 16 -2",
        "True 1",
        "-1",
        "True 9",
        "[[1, 2, 3]]",
        "True 1 True [2, 3]",
    ], run.stderr


def test_types_of_a_script(script: Script) -> None:
    """New types, and parameters of types, in annotations and as values; `type` statements where there are any."""
    done = script.run("""
        import dataclasses, sys, typing
        from parmap import parallel

        Key = typing.NewType("Key", int)
        Long = typing.NewType("Long", Key)
        P, T, Ts = typing.ParamSpec("P"), typing.TypeVar("T", bound=Key), typing.TypeVarTuple("Ts")
        Keys = list[Long]
        Call = typing.Callable[P, T]
        Alias = list
        if sys.version_info >= (3, 12):
            exec("type Alias = list[Key]")

        @dataclasses.dataclass
        class Row:
            key: Key
            keys: Keys = dataclasses.field(default_factory=list)

        def look(key: Key, call: Call | None = None, *more: typing.Unpack[Ts]) -> Alias:
            assert Row.__annotations__["key"] is Key and Long.__supertype__ is Key and T.__bound__ is Key
            assert str(Call) == "typing.Callable[~P, ~T]" and P.__module__ == Key.__module__ == "__main__"
            return Row(Key(key)), key, repr(Alias)

        for each in Key(3), Key, Long, P, T, Ts, Keys:
            for row, item, alias in [*parallel(look, workers=1).map([each]), parallel(look, workers=1).submit(each).result()]:
                assert row == Row(each) and item == each and alias == repr(Alias), (row, item, alias)
    """)

    assert done.stderr == ""


REFUSED = {
    "global": ("LINE = socket.socket()\ndef talk(x): return LINE.fileno()", "global 'LINE' of talk"),
    "captured": (
        "def make():\n  line = socket.socket()\n  def talk(x): return line.fileno()\n  return talk\ntalk = make()",
        "captured variable 'line' of make.<locals>.talk",
    ),
    "deep": (
        "LINE = [socket.socket()]\ndef low(): return LINE\ndef talk(x): return low()",
        "global 'LINE' of low",
    ),
    "method": (
        "LINE = socket.socket()\nclass A:\n  def go(self): return LINE\ndef talk(x): return A().go()",
        "global 'LINE' of A.go",
    ),
    "attribute": (
        "class A:\n  line = socket.socket()\ndef talk(x): return A.line",
        "attribute 'line' of A",
    ),
    "partial": (
        "import functools\ndef call(line, x): return x\ntalk = functools.partial(call, socket.socket())",
        "argument 0",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_travel_is_named(script: Script, name: str) -> None:
    """The function, the variable, the reason and what to do instead."""
    code, expected = REFUSED[name]
    done = script.run(
        "import socket\nfrom parmap import SerializationError, parallel\n"
        + code
        + "\nfor call in (lambda f: f.map([1]), lambda f: f.submit(1).result(), lambda f: list(f.imap([1]))):\n"
        + "    try: call(parallel(talk, workers=1))\n    except SerializationError as error: print(error)\n"
    )

    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 3
    for line in done.stdout.splitlines():
        assert expected in line
        assert "per_worker" in line
        assert "socket" in line


def test_a_way_out_for_classes(script: Script) -> None:
    """One with an attribute that can't travel, or that its metaclass does not let be made anew, may be in a module."""
    script.write(
        "class Meta(type):\n"
        "  def __new__(cls, name, bases, variables):\n"
        "    if '__slots__' in variables: raise TypeError('has slots of its own')\n"
        "    return super().__new__(cls, name, bases, {**variables, '__slots__': ()})\n",
        "records.py",
    )
    done = script.run("""
        import records, socket
        from parmap import SerializationError, parallel
        class Row(metaclass=records.Meta): pass
        class Held: line = socket.socket()
        for call in (lambda: parallel(lambda _: Held.line, workers=1).map([1]), lambda: parallel(id, workers=1).map([Row()])):
            try: call()
            except SerializationError as error: print(error)
    """)

    assert done.stderr == ""
    held, row = done.stdout.splitlines()
    assert "attribute 'line' of Held" in held
    assert "the class Row can't be made in a worker (TypeError: has slots of its own)" in row
    assert all("move it into a module" in line or "move the class into a module" in line for line in (held, row))


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock, threading.Event, queue.Queue])
def test_what_threads_share_as_an_argument(make: Callable[[], Any]):
    """A lock, or what is made of locks, is refused as an argument; a manager's is the way out."""
    with pytest.raises(SerializationError, match=r"an Event of a multiprocessing.Manager\(\) can be sent"):
        parallel(id, workers=1).map([make()])


@pytest.mark.parametrize("kind", [Pool, Executor])
def test_a_pool_that_a_method_holds(kind: Any):
    """A method of an object that holds a pool is a task of it; a task that uses the pool has one that runs serially."""

    class Tree:
        def __init__(self, pool: Any) -> None:
            self.pool, self.map = pool, pool.map

        def visit(self, depth: int) -> list[Any]:
            return [os.getpid(), *(self.map(self.visit, [depth - 1]) if depth else ())]

    with kind(1) as pool:
        ((outer, (inner,)),) = pool.map(Tree(pool).visit, [1])
    assert outer == inner != os.getpid()


def test_an_end_of_a_pipe(script: Script) -> None:
    """It would be a number, which in another process means something else, or nothing: it is refused both ways."""
    done = script.run("""
        import multiprocessing
        from parmap import SerializationError, parallel

        here, there = multiprocessing.Pipe()
        ends = [multiprocessing.Pipe()[0] for _ in range(20)]
        for call in (
            lambda: parallel(id, workers=1).map([there]),
            lambda: parallel(len, workers=1).submit([there]).result(),
            lambda: parallel(id, workers=1).map(ends),
            lambda: list(parallel(id, workers=1).imap(iter(ends))),
            lambda: parallel(lambda _: there, workers=1).submit(1).result(),
            lambda: parallel(abs, workers=1, initializer=id, initargs=(there,)).map([1]),
            lambda: parallel(multiprocessing.Pipe, workers=1).submit().result(),
        ):
            try:
                call()
            except SerializationError as error:
                assert "take a Queue of a multiprocessing.Manager(), which can be sent" in str(error), error
            else:
                assert False
        there.send("still there")
        print(here.recv())
    """)

    assert (done.stdout, done.stderr) == ("still there\n", "")


def test_a_lock_as_an_argument_is_refused(processes: dict[str, Any]) -> None:
    """It would lock nobody out."""
    import threading

    with pytest.raises(SerializationError, match="lock"):
        parallel(repr, **processes).map([threading.Lock()])


def test_a_module_that_was_made_by_the_program(script: Script) -> None:
    """Its functions and classes travel by value, and see its variables as they are."""
    done = script.run("""
        import sys, types
        from parmap import parallel
        module = types.ModuleType("only_here")
        exec("factor = 2\\nclass Kind:\\n  pass\\ndef f(x):\\n  return x * factor, Kind()", vars(module))
        sys.modules["only_here"] = module
        (first, kind), = parallel(module.f, workers=1).map([1])
        module.factor = 3
        (second, _) = parallel(module.f, workers=1).submit(1).result()
        print(first, second, type(kind) is module.Kind, parallel(lambda x: module.f(x)[0], workers=1).map([1]))
        del module.__spec__  # so does IPython, where it runs a script once more
        print(parallel(lambda x: module.Kind(), workers=1).map([1])[0].__module__)
    """)

    assert (done.stdout, done.stderr) == ("2 3 True [3]\nonly_here\n", "")


def test_a_module_with_a_class_of_its_own(script: Script) -> None:
    """One that has properties, as Python's documentation makes it, is found by its name."""
    script.write(
        """
        import sys, types

        class Module(types.ModuleType):
            rate = property(lambda self: self.base * 2)

        base = 4
        sys.modules[__name__].__class__ = Module
        """,
        "settings_of_mine.py",
    )
    done = script.run("""
        import settings_of_mine as settings
        from parmap import parallel
        print(parallel(lambda x: x * settings.rate, workers=1).map([1, 2]))
    """)

    assert (done.stdout, done.stderr) == ("[8, 16]\n", "")


def test_a_module_that_workers_can_not_import(script: Script) -> None:
    """The error says what to do: the module may travel by value."""
    done = script.run("""
        import importlib.machinery, importlib.util, sys
        from parmap import parallel
        class Loader:
            def create_module(self, spec): return None
            def exec_module(self, module): exec("def f(x): return x", vars(module))
        spec = importlib.machinery.ModuleSpec("made_up", Loader())
        module = importlib.util.module_from_spec(spec)
        sys.modules["made_up"] = module
        spec.loader.exec_module(module)
        try:
            parallel(module.f, workers=1).map([1])
        except ModuleNotFoundError as error:
            print("register_pickle_by_value" in "".join(error.__notes__), "made_up" in str(error))
        import cloudpickle
        cloudpickle.register_pickle_by_value(module)
        print(parallel(module.f, workers=1).map([1]))
    """)

    assert (done.stdout, done.stderr) == ("True True\n[1]\n", "")


def test_base_in_a_module_that_imports_what_it_is_asked_for(script: Script) -> None:
    """A class that no module has is looked for where its base is; that may fail as it likes."""
    script.write("class Base: pass\ndef __getattr__(name): raise ImportError(name)\n", "lazy_base.py")
    run = script.run("""
        import lazy_base, parmap

        Odd = type("Odd", (lazy_base.Base,), {"__module__": "nowhere"})
        print(parmap.parallel(lambda x: type(Odd()).__name__, workers=1).map([1]))
    """)

    assert (run.stdout, run.stderr) == ("['Odd']\n", "")


def test_what_is_pickled_by_where_it_is_found(script: Script) -> None:
    """What a library's decorator has made of a function or method of the script, and sends by its name, travels."""
    script.write(
        """
            import functools, importlib

            class Cached:  # as cachetools has it
                def __init__(self, function):
                    self.cache = {}
                    functools.update_wrapper(self, function)
                def __call__(self, x):
                    return self.cache.setdefault(x, self.__wrapped__(x))
                def __reduce__(self):
                    return self.__qualname__

            class Curry:  # as toolz has it
                def __init__(self, function, *args):
                    self.function, self.args = function, args
                    functools.update_wrapper(self, function)
                def __call__(self, *args):
                    return self.function(*self.args, *args)
                def __reduce__(self):
                    return find_curry, (f"{self.__module__}:{self.__qualname__}", self.args)

            def find_curry(name, args):
                module, _, name = name.partition(":")
                return Curry(getattr(importlib.import_module(module), name).function, *args)

            class Method:  # as cachetools has it
                def __init__(self, function):
                    self.function = function
                def __set_name__(self, owner, name):
                    self.owner, self.name = owner, name
                def __get__(self, obj, _=None):
                    return functools.partial(self.function, obj)
                def __reduce__(self):
                    return find_method, (self.owner, self.name)

            def find_method(owner, name):
                return owner.__dict__[name]

            class Colour:
                def __init__(self, name):
                    self.name = name
                def __reduce__(self):
                    return getattr, (Colour, self.name)
            Colour.RED = Colour("RED")
        """,
        "kit.py",
    )
    script.write(
        "import kit\nfrom parmap import parallel\n@parallel(workers=1)\n@kit.Cached\ndef half(x):\n    return x / 2\n",
        "tools.py",
    )
    done = script.run(
        """
import kit, tools
from parmap import parallel

@parallel(workers=1)
@kit.Cached
def double(x):
    return FACTOR * x
@kit.Cached
def count(n):
    return n and 1 + count(n - 1)
@kit.Curry
def add(x, y):
    return FACTOR * (x + y)
class Account:
    @kit.Method
    def balance(self, x):
        return FACTOR * x

red = kit.Colour.RED
more = kit.Curry(add.function, 5)
account = Account()
look = parallel(lambda x: (count(x), add(x, 1), more(x), account.balance(x)), workers=1)
for FACTOR in (2, 3):
    assert double.map([1, 2]) == [double(1), double(2)] == [FACTOR, 2 * FACTOR]
    double.__wrapped__.cache.clear()
    assert look.map([1, 2]) == [look(1), look(2)]
    assert look.submit(3).result() == look(3)
call = parallel(lambda f: f(1, 2), workers=1)
assert call.map([add] * 20) == [9] * 20
back = parallel(lambda x: (add, double.__wrapped__), workers=1).map([0])[0]
assert back[0] is add and back[1] is double.__wrapped__
assert parallel(account.balance, workers=1).map([1]) == [3]
assert parallel(lambda x: (red is kit.Colour.RED, x is red, x), workers=1).map([red] * 2) == [(True, True, red)] * 2
assert tools.half.map([1, 2]) == [0.5, 1.0]
""",
    )

    assert done.stderr == ""


def test_what_only_has_the_name_of_the_script_in_it(script: Script) -> None:
    """A logger of the script, and a path, travel as always: a worker has its own logger of that name."""
    done = script.run("""
        import logging
        import pathlib
        from parmap import parallel

        log, part, path = logging.getLogger(__name__), logging.getLogger("__main__.part"), pathlib.Path("__main__.py")

        def same(logger):
            return logger is logging.getLogger(logger.name)

        for call in (parallel(lambda x: (same(x), same(log), same(part), path), workers=1), parallel(same, workers=1)):
            plain = call.__wrapped__
            assert call.map([log, part]) == [plain(log), plain(part)]
            assert call.submit(log).result() == plain(log)
        assert parallel(lambda: (log, path), workers=1).submit().result() == (log, path)
    """)

    assert done.stderr == ""


def test_of_a_class_that_is_asked_for_what_it_lacks(script: Script) -> None:
    """A `__getattr__` is not called before an object has its attributes, which pickle would do: it may want them."""
    done = script.run(
        """
from parmap import parallel

class Proxy:
    def __init__(self, inner):
        self._inner = inner
    def __getattr__(self, name):
        return getattr(self._inner, name)
class Slotted(Proxy):
    __slots__ = ("_inner",)
class Options(dict):
    __getattr__ = dict.__getitem__
class Lenient:
    def __getattr__(self, name):
        return None
class Stateful(Proxy):
    def __setstate__(self, state):
        self.__dict__.update(state, told=True)

proxy, slotted, lenient = Proxy([1]), Slotted([1, 1]), Lenient()
lenient.x = 1
look = parallel(lambda x: (proxy.count(x), slotted.count(x), lenient.x, lenient.y), workers=1)
assert look.map([1, 2]) == [look(1), look(2)] == [(1, 2, 1, None), (0, 0, 1, None)]
proxy.append(1)
assert look.map([1]) == [(2, 2, 1, None)]
count = parallel(lambda x: (x, x.count(1)), workers=1)
for kind in (Proxy, Slotted):
    assert [got.count(2) + number for got, number in count.map([kind([1, 2])] * 20)] == [2] * 20
    assert count.submit(kind([1])).result()[1] == 1
assert parallel(lambda x: x.a, workers=1).map([Options(a=n) for n in range(20)]) == [*range(20)]
assert parallel(lambda x: Options(a=x), workers=1).map([1])[0].a == 1
assert parallel(lambda x: x.told, workers=1).map([Stateful(1)]) == [True]
"""
    )

    assert done.stderr == ""


def test_what_only_says_that_it_is_a_function(script: Script) -> None:
    """A proxy of a function, as the decorators of wrapt make them, travels as what it is, not as what it wraps."""
    script.write(
        """
            import copyreg

            class Wrapper:
                def __init__(self, wrapped, wrapper):
                    self.wrapped, self.wrapper = wrapped, wrapper
                __class__ = property(lambda self: type(self.wrapped))
                __module__ = property(lambda self: self.wrapped.__module__)
                __code__ = property(lambda self: self.wrapped.__code__)
                def __getattr__(self, name):
                    return getattr(self.wrapped, name)
                def __call__(self, *args):
                    return self.wrapper(self.wrapped, *args)

            Wrapper.__module__ = __name__
            copyreg.pickle(Wrapper, lambda thing: (Wrapper, (thing.wrapped, thing.wrapper)))

            def plain(x):
                return x
            named = Wrapper(plain, lambda wrapped, x: wrapped(x) + 1)
        """,
        "kit.py",
    )
    done = script.run(
        """
from kit import Wrapper, named
from parmap import parallel

def f(x):
    return x
wrapped = Wrapper(f, lambda function, x: function(x) + MORE)
for MORE in (1, 2):
    assert parallel(wrapped, workers=1).map([1]) == [1 + MORE]
    assert parallel(lambda x: wrapped(x), workers=1).map([1]) == [1 + MORE]
    assert parallel(lambda g: g(1), workers=1).map([wrapped, f]) == [1 + MORE, 1]
assert parallel(lambda x: named(x), workers=1).map([1]) == [2]
""",
    )

    assert done.stderr == ""


def test_a_decorator_of_wrapt(script: Script) -> None:
    """It refuses to be pickled, and says that it is of a module that isn't there."""
    script.write(
        """
            class FunctionWrapper:
                def __init__(self, wrapped, wrapper, enabled=None):
                    self.__wrapped__, self._self_wrapper, self._self_enabled = wrapped, wrapper, enabled
                __class__ = property(lambda self: type(self.__wrapped__))
                def __getattr__(self, name):
                    return getattr(self.__wrapped__, name)
                def __call__(self, *args):
                    return self._self_wrapper(self.__wrapped__, None, args, {})
                def __reduce_ex__(self, protocol):
                    raise NotImplementedError("object proxy must define __reduce__()")

            FunctionWrapper.__module__ = "_wrappers"
        """,
        "wrapt.py",
    )
    done = script.run("""
        import wrapt
        from parmap import parallel

        def more(wrapped, instance, args, kwargs):
            return wrapped(*args, **kwargs) + MORE
        def f(x):
            return x
        wrapped = wrapt.FunctionWrapper(f, more)
        for MORE in (1, 2):
            assert parallel(wrapped, workers=1).map([1]) == [1 + MORE]
            assert parallel(lambda x: wrapped(x), workers=1).map([1]) == [1 + MORE]
    """)

    assert done.stderr == ""


def test_a_stream_that_stands_for_standard_output(script: Script) -> None:
    """As a notebook has it, and so a logger or a console of a library in a cell: tasks have that of their worker."""
    done = script.run("""
        import sys, threading
        from parmap import parallel

        class Stream:
            def __init__(self, inner):
                self.inner, self.lines, self.lock = inner, [], threading.Thread()
            def write(self, text):
                self.lines.append(text)
            def flush(self):
                pass
            def __reduce__(self):
                raise TypeError("cannot pickle a stream")

        class Logger:
            def __init__(self):
                self.streams = sys.stdout, sys.stderr
            def log(self, *what):
                for stream in self.streams:
                    print(*what, file=stream)

        before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = map(Stream, before)
        logger = Logger()
        f = parallel(lambda x: logger.log("told", x), workers=1)
        f.map([1]), f.submit(2).result()
        parallel(Logger.log, workers=1).starmap([(logger, 3)])
        (out, err), (sys.stdout, sys.stderr) = (sys.stdout, sys.stderr), before
        assert "".join(out.lines) == "".join(err.lines) == "told 1\\ntold 2\\ntold 3\\n", (out.lines, err.lines)
    """)

    assert done.stderr == ""


def test_what_holds_the_streams_that_were_replaced(script: Script) -> None:
    """As a `TestCase` does under `python -m unittest -b`: tasks that use it have their worker's."""
    done = script.run("""
        import contextlib, io, sys
        from parmap import parallel

        class Case:
            def __init__(self):
                self.streams = sys.stdout, sys.stderr
            def check(self, x):
                for stream in self.streams:
                    print("checked", x, file=stream)

        case = Case()
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            parallel(lambda x: case.check(x), workers=1).map([1])
        print(out.getvalue() == err.getvalue() == "checked 1\\n")
    """)

    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_function_of_nanobind(script: Script) -> None:
    """As those of DuckDB and JAX are: it refuses to be pickled, and goes by its name wherever it is met."""
    script.write(
        """
            class nb_func:
                def __init__(self, name):
                    self.__module__, self.__name__, self.__qualname__ = __name__, name, name
                def __call__(self, *args):
                    return args
                def __reduce_ex__(self, protocol):
                    raise TypeError("cannot pickle nanobind.nb_func objects")

            nb_func.__module__ = "nanobind"
            connect = nb_func("connect")
        """,
        "duck.py",
    )
    done = script.run("""
        import duck
        import parmap
        from duck import connect
        from functools import partial
        from parmap import parallel

        connection = parmap.per_worker(duck.connect)
        def ask(function):
            return connection(), connect(1), function is connect, function

        assert parallel(connect, workers=1).map([1]) == [(1,)]
        assert parallel(partial(connect, 2), workers=1).map([1]) == [(2, 1)]
        asked = parallel(ask, workers=1)
        for answer in (*asked.map([connect]), asked.submit(connect).result()):
            assert answer == ((), (1,), True, connect)
    """)

    assert done.stderr == ""


def test_the_headers_of_a_response(script: Script) -> None:
    """As multidict, and so aiohttp, has them, they are a view that refuses to be pickled; its errors hold them, too."""
    (script.folder / "multidict").mkdir()
    script.write("", "multidict/__init__.py")
    script.write(
        """
            class CIMultiDictProxy:
                def __init__(self, inner):
                    self.inner = inner
                def __getitem__(self, name):
                    return self.inner[name]
                def copy(self):
                    return dict(self.inner)
                def __reduce__(self):
                    raise TypeError("can't pickle CIMultiDictProxy objects")

            class ResponseError(Exception):
                def __init__(self, request, *, status):
                    self.request, self.status = request, status
                    super().__init__(request)
                def __str__(self):
                    return f"{self.status}: {self.request['Host']}"
        """,
        "multidict/_multidict.py",
    )
    done = script.run("""
        from multidict._multidict import CIMultiDictProxy, ResponseError
        from parmap import parallel

        def get(host):
            headers = CIMultiDictProxy({"Host": host})
            if host == "none":
                raise ResponseError(headers, status=404)
            return headers

        def name(headers):
            return headers["Host"]

        answers = parallel(get, workers=1).map(["a", "none"], return_exceptions=True)
        assert (name(answers[0]), name(answers[1].request)) == ("a", "none")
        assert type(answers[1]) is ResponseError and (str(answers[1]), answers[1].status) == ("404: none", 404)
        assert parallel(name, workers=1).map([answers[0]]) == ["a"]
    """)

    assert done.stderr == ""


def test_a_class_that_names_a_module_that_is_not_there(script: Script) -> None:
    """It is found where it stands, as `regex.Pattern` is, which says that it is of `_regex`, and can't be taken apart."""
    script.write(
        """
            class Pattern:
                refuses = (x for x in ())
            Pattern.__module__ = "_kit"
        """,
        "kit.py",
    )
    done = script.run("""
        from kit import Pattern
        from parmap import parallel

        def of(pattern: Pattern) -> bool:
            return isinstance(pattern, Pattern)

        pattern = Pattern()
        look = parallel(lambda x: (of(pattern), of(x), x), workers=1)
        assert [got[:2] for got in look.map([pattern, 1] * 10)] == [(True, True), (True, False)] * 10
        assert type(look.map([pattern])[0][2]) is Pattern
    """)

    assert done.stderr == ""


def test_errors_that_are_no_failures(script: Script) -> None:
    """An error is an argument, a result, or a part of one or of another error, whatever its constructor takes."""
    done = script.run("""
        from parmap import parallel

        class Missing(Exception):
            def __init__(self, path, *, tries):
                super().__init__(f"no such file: {path}")
                self.tries = tries

        class Said(Exception):
            __slots__ = ("by",)

            def __init__(self, by):
                super().__init__(f"{by} says no")
                self.by = by

        class Absent(FileNotFoundError):
            def __init__(self, path):
                super().__init__(2, "absent", path)
                self.me = self

        class Outer(Exception):
            pass

        def look(error):
            return [error, str(error), error.args]

        def fail(error):
            raise Outer(error)

        for error, name in [(Missing("a", tries=3), "tries"), (Said("Ada"), "by"), (Absent("b"), "filename")]:
            (result, *told), = parallel(look, workers=2).map([error])
            assert told == [str(error), error.args], told
            assert (type(result), str(result), result.args) == (type(error), str(error), error.args)
            assert getattr(result, name) == getattr(error, name)

            failed, = parallel(fail, workers=2).map([error], return_exceptions=True)
            assert type(failed) is Outer, failed
            assert str(failed.args[0]) == str(error)
        assert result.me is result
    """)

    assert not done.stderr


def test_methods_with_arguments_that_are_given(script: Script) -> None:
    """A class of the script may make methods of others by `functools.partialmethod`."""
    done = script.run("""
        from functools import partialmethod
        from parmap import parallel

        class Lamp:
            def switch(self, on, *, level=1):
                return __class__, on, level

            on = partialmethod(switch, True)
            dimmed = partialmethod(on, level=0.5)
            power = partialmethod(lambda self, a, b: a * b, 2, b=3)

        def look(lamp):
            return lamp.on(), lamp.dimmed(level=2), lamp.power()

        assert parallel(look, workers=2).map([Lamp()]) == [look(Lamp())]
        assert parallel(Lamp().on, workers=2).submit(level=3).result() == Lamp().on(level=3)
    """)

    assert not done.stderr


def test_locks_of_what_is_an_argument_or_a_result(script: Script) -> None:
    """Functions, and instances whose class needs one, take fresh ones along, on an executor's workers and home, too."""
    done = script.run("""
        import contextvars, threading
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context
        from parmap import SerializationError, parallel

        lock = threading.Lock()
        variable = contextvars.ContextVar("variable", default=1)

        def add(x):
            with lock:
                return x + variable.get()

        class Account:
            turn = threading.RLock()

            def __init__(self, amount):
                self.amount = amount

            def add(self, x):
                with self.turn:
                    self.amount = add(self.amount + x)
                return self

        class Refused(Exception):
            turn = threading.Lock()

            def __init__(self, *, account):
                super().__init__("too much")
                self.account = account

        def call(function, x):
            return function(x)

        def refuse(account):
            raise Refused(account=account)

        def main(**options):
            f = parallel(call, **options)
            with lock:
                assert f.starmap([(add, 1), (lambda x: add(x), 2)]) == [2, 3]
            account, = f.starmap([(Account(1).add, 2)])
            assert type(account) is Account and account.amount == 4
            assert account.turn is Account.turn and account.add(1).amount == 6
            error, = parallel(refuse, **options).map([account], return_exceptions=True)
            assert type(error) is Refused and error.account.amount == 6, error
            for item in [lock, Account(lock), (add, lock)]:
                error, = parallel(id, **options).map([item], return_exceptions=True)
                assert type(error) is SerializationError and "Manager" in str(error), error

        if __name__ == "__main__":
            main(workers=2)
            with ProcessPoolExecutor(2, get_context("spawn")) as executor:
                main(backend=executor)
    """)

    assert not done.stderr


def test_a_generic_method_that_was_called(script: Script) -> None:
    """A class with a `functools.singledispatchmethod` can be sent, whatever instances that has been called for."""
    done = script.run("""
        from functools import singledispatchmethod
        from parmap import parallel

        class Equal:
            def __eq__(self, other):
                return vars(self) == vars(other)

        class Shape(Equal):
            def __init__(self, size):
                self.size = size

            def __hash__(self):
                return hash(self.size)

            @singledispatchmethod
            def times(self, factor):
                return "no number"

            @times.register
            def _(self, factor: int):
                return Shape(self.size * factor)

        shape = Shape(2)
        for _ in range(2):
            assert shape.times(2) == Shape(4) and shape.times("2") == "no number"
            assert parallel(lambda s: [s.times(3), s.times(""), Shape], workers=2).map([shape]) == [
                [Shape(6), "no number", Shape]
            ]
            assert parallel(shape.times, workers=2).map([4, ""]) == [Shape(8), "no number"]
    """)

    assert not done.stderr
