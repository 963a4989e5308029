"""What a program leaves for later, lazy imports and annotations: functions of scripts travel without that."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from test_script_odds import CHECK

if TYPE_CHECKING:
    from conftest import Script

# From 3.14 on, no quotes are needed around what only type checkers see.
ANNOTATED = """
import dataclasses, enum, functools, typing
from typing import NamedTuple, Protocol, TYPE_CHECKING, TypedDict
if TYPE_CHECKING:
    from nowhere import Absent

def plain(x: Absent, *rest: list[Absent]) -> Absent:
    return x
@functools.cache
def cached(x: Absent) -> Absent:
    return x
@functools.singledispatch
def chosen(x) -> Absent:
    return "object"
@chosen.register(int)
def _(x: int) -> Absent:
    return "int"
def decorated(function):
    @functools.wraps(function)
    def wrapper(*args: Absent):
        return function(*args)
    return wrapper
def closure():
    y = 1
    def inner(x: Absent) -> Absent:
        return x + y
    return inner

class Plain:
    x: Absent
    def method(self, x: Absent) -> Absent:
        return x
    @classmethod
    def of_class(cls, x: Absent) -> Absent:
        return cls.__name__
    @functools.cached_property
    def lazy(self) -> Absent:
        return 2
@dataclasses.dataclass
class Node:
    value: int
    next: Node | None = None
    other: Absent = 3
    more: list[Absent] = dataclasses.field(default_factory=list)
@dataclasses.dataclass(slots=True, frozen=True, kw_only=True)
class Slotted:
    x: int
    y: Absent = 3
    z: Slotted | None = None
class Row(NamedTuple):
    x: int
    y: Absent = 2
class Record(TypedDict):
    x: int
    y: Absent
class Closing(Protocol):
    y: Absent
    def close(self) -> Absent: ...
class File(Closing):
    pass
class Color(enum.Enum):
    RED = 1
    y: Absent
    def told(self) -> Absent:
        return self.name
class Failed(Exception):
    y: Absent
    def __init__(self, x: Absent):
        super().__init__(x)
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated at once")
def test_annotations_that_name_what_only_type_checkers_see(script: Script) -> None:
    """Functions and classes with such annotations are sent, both ways, as items as well."""
    done = script.run(
        CHECK
        + ANNOTATED
        + """
check(plain)
check(closure())
check(decorated(plain))
check(lambda x: (plain(x), cached(x), chosen(x), decorated(plain)(x), closure()(x)))
check(lambda x: (Plain().method(x), Plain.of_class(x), Plain().lazy))
check(lambda x: (Node(x, Node(x)), Slotted(x=x, z=Slotted(x=x)), Row(x), Record(x=x), File().close(), Color.RED.told()))
check(lambda x: [getattr(field.type, "__forward_arg__", None) for field in dataclasses.fields(Node)])

same = parallel(lambda x: x, workers=1)
for item in (Node(1, Node(2)), Slotted(x=1), Row(1), Color.RED):
    assert same.map([item] * 9) == [item] * 9, item
def fail(x: Absent):
    raise Failed(x)
try:
    parallel(fail, workers=1).map([1])
except Failed as error:
    assert error.args == (1,)

@parallel(workers=1)
def early(x: Defined) -> Defined:
    return Defined(x)
class Defined(int):
    pass
assert typing.get_type_hints(early)["x"] is Defined
assert early.map([1]) == [1]
"""
    )

    assert done.stderr == ""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated at once")
def test_annotations_that_are_errors(script: Script) -> None:
    """Nobody notices as long as nobody asks for them: what has such is called, here and in tasks."""
    done = script.run(
        CHECK
        + """
def find(x, start: "Node" | None = None) -> int:
    return x
class Node:
    next: "Node" | None = None
    def find(self, x, start: "Node" | None = None):
        return x
    def __repr__(self):
        return "Node"
check(find)
check(lambda x: (find(x), Node().find(x), Node()))
same = parallel(lambda x: x, workers=1)
assert [type(each) for each in same.map([Node()] * 9)] == [Node] * 9
"""
    )

    assert done.stderr == ""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated at once")
def test_forward_references_are_evaluated_in_tasks(script: Script) -> None:
    """What a dataclass has in their place was defined after it, at the top of the script or beside it in a function."""
    done = script.run(
        CHECK
        + """
import dataclasses

@dataclasses.dataclass
class Node:
    next: Later
    more: Later | None
    never: Absent = None
class Later: ...

def types_of(kind):
    found = [field.type for field in dataclasses.fields(kind)]
    return [each.evaluate() for each in found[:2]], found[2].__forward_arg__
def make():
    @dataclasses.dataclass
    class Inner:
        next: Beside
        more: Beside | None
        never: Absent = None
    class Beside: ...
    return lambda x: types_of(Inner)

check(lambda x: types_of(Node))
check(make())
first = dataclasses.fields(Node)[0].type
assert parallel(lambda each: each.evaluate(), workers=1).map([first]) == [Later]
"""
    )

    assert done.stderr == ""


def test_tasks_see_annotations(script: Script) -> None:
    """They are there though the program itself has not asked for them yet, and each change of them is seen."""
    done = script.run(
        CHECK.replace("map(repr, (function(0), *calls.map([0]), calls.submit(0).result()))", "seen(function, calls)")
        + """
import dataclasses, typing

def seen(function, calls):
    there = [*calls.map([0]), calls.submit(0).result()]  # before this process does it
    return map(repr, (function(0), *there))

class Part:
    x: int
@dataclasses.dataclass
class Data:
    x: int
    part: list[Part]
class Row(typing.NamedTuple):
    part: Part
def told(x: int, part: Part) -> Data: ...
check(lambda x: typing.get_type_hints(Data))
check(lambda x: (Part.__annotations__, Row.__annotations__, told.__annotations__))
check(
    lambda x: Part.__annotations__,
    lambda: Part.__annotations__.update(x=bytes),
    lambda: setattr(Part, "__annotations__", {"y": int}),
    lambda: Part.__annotations__.update(y=str),
)
check(
    lambda x: told.__annotations__,
    lambda: told.__annotations__.update(x=bytes),
    lambda: setattr(told, "__annotations__", {"y": int}),
)
"""
    )

    assert done.stderr == ""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated at once")
def test_what_annotations_name_is_defined_later(script: Script) -> None:
    """Until then they are text in workers; then they are what they are here."""
    done = script.run(
        CHECK
        + """
def told(x: Late): ...
def look(_):
    try:
        return told.__annotations__
    except NameError:
        return {"x": "Late"}
check(
    look, lambda: globals().update(Late=int), lambda: told.__annotations__.update(x=bytes)
)
"""
    )

    assert done.stderr == ""


def test_what_annotations_name_in_texts(script: Script) -> None:
    """Libraries that ask for the types of a script's classes and functions find them in tasks, as they are now."""
    done = script.run(
        """
from __future__ import annotations

import dataclasses, datetime, decimal, enum, functools, inspect, typing
from datetime import date as day
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Generic, Literal, NamedTuple, Optional, TypeVar
from parmap import parallel
if TYPE_CHECKING:
    from nowhere import Absent

T = TypeVar("T")
Price = Annotated[Decimal, "in euros"]
words = ["not a type"] * 10
class Kind(enum.Enum):
    BIG = 1
@dataclasses.dataclass
class Item:
    price: Price
    kind: Kind
    bought: datetime.date = dataclasses.field(default_factory=day.today)
@dataclasses.dataclass(slots=True)
class Order(Generic[T]):
    items: list[Item]
    first: Optional["Item"]
    next: Order | None
    word: Literal["words"]
    later: Later
class Later(Order):
    more: dict[str, T]
class Pair(NamedTuple):
    left: Item
    right: "Order"
@typing.runtime_checkable
class Priced(typing.Protocol):
    price: Price
class Plain:
    price = 1
@dataclasses.dataclass
class Unknown:
    what: Absent

def ask(_: day, item: Optional[Item] = None) -> Item:
    try:
        typing.get_type_hints(Unknown)
    except NameError as error:
        unknown = str(error)
    kinds = Order, Later, Pair, Priced, ask
    found = [str(look(kind)) for look in (typing.get_type_hints, evaluated) for kind in kinds]
    return found, unknown, isinstance(Plain(), Priced), local()
def local():
    class Inner:
        item: Item
    return str(typing.get_type_hints(Inner))
@parallel(workers=1)
def are_same(_: int) -> list[bool]:
    found = typing.get_type_hints(Later)
    return [found["items"] == list[Item], found["next"] == Order | None, found["later"] is Later, found["more"] == dict[str, T]]

evaluated = functools.partial(inspect.get_annotations, eval_str=True)
asks = parallel(ask, workers=1)
assert ask(1)[0][3] == "{'price': <class 'decimal.Decimal'>}"
assert asks.map([1]) == [ask(1)]
assert asks.submit(1).result() == ask(1)
assert list(asks.imap(iter([1]))) == [ask(1)]
assert are_same.map([1]) == [[True] * 4]
Price = int
assert ask(1)[0][3] == "{'price': <class 'int'>}"
assert asks.map([1]) == [ask(1)]
assert asks.submit(1).result() == ask(1)
class Absent: ...
def ask_again(_):
    return str(typing.get_type_hints(Unknown))
asked = parallel(ask_again, workers=1)
assert asked.map([1]) == [ask_again(1)]
del Absent
try:
    asked.map([1])
except NameError as error:
    print("gone")
"""
    )

    assert (done.stdout, done.stderr) == ("gone\n", "")


def test_what_annotations_name_beside_types(script: Script) -> None:
    """`KW_ONLY`, an alias of `None`, and what stands in `Annotated`, are found in tasks as classes are, as they are now."""
    done = script.run(
        "from __future__ import annotations"
        + CHECK
        + """
import dataclasses, typing
from dataclasses import KW_ONLY
from typing import Annotated

LIMIT = 3
Nothing = None
unit = ["euros"]
class Below:
    def __init__(self, limit):
        self.limit = limit
    def __repr__(self):
        return f"Below({self.limit})"
def is_even(number):
    return number % 2 == 0
@dataclasses.dataclass
class Order:
    item: int
    _: KW_ONLY
    number: Annotated[int, Below(LIMIT), is_even] = 0
    price: list[typing.Annotated[float, unit]] | None = None
    note: Nothing = None

def ask(x: Annotated[int, unit]):
    hints = typing.get_type_hints(Order, include_extras=True)
    even = hints["number"].__metadata__[1]
    return sorted(hints), hints["_"] is KW_ONLY, hints["number"].__metadata__[0], even(2), hints["price"], str(
        typing.get_type_hints(ask, include_extras=True)
    )
check(ask, lambda: globals().update(LIMIT=4), lambda: unit.append("dollars"))
"""
    )

    assert done.stderr == ""


@pytest.mark.skipif(sys.version_info < (3, 15), reason="no sentinels")
def test_sentinels_in_annotations_that_are_texts(script: Script) -> None:
    """They stand there for what may be missing."""
    done = script.run(
        """
from __future__ import annotations

import typing
from parmap import parallel

MISSING = sentinel("MISSING")
class Order:
    price: int | MISSING

@parallel(workers=1)
def is_found(_):
    return typing.get_type_hints(Order)["price"] == int | MISSING

@parallel(workers=1)
def are_told(_):
    return str(typing.get_type_hints(Order))

assert is_found.map([1]) == [True]
assert are_told.map([1]) == [are_told(1)]
"""
    )

    assert done.stderr == ""


def test_what_a_library_notes_on_a_class(script: Script) -> None:
    """What msgspec has found out of a class, and keeps on it in a form that can't travel, it finds out again."""
    done = script.run(
        """
from parmap import parallel

class Order: ...

@parallel(workers=1)
def kind(order):
    return type(order).__name__, hasattr(Order, "__msgspec_cache__")

assert kind.map([Order()]) == [("Order", False)]
Order.__msgspec_cache__ = (each for each in ())
assert kind.map([Order()]) == [("Order", False)]
assert kind.submit(Order()).result() == ("Order", False)
"""
    )

    assert done.stderr == ""


def test_names_in_annotations_hold_nothing(script: Script) -> None:
    """A class that names itself goes with the functions that need it."""
    done = script.run(
        """
from __future__ import annotations

import dataclasses, gc, typing
from parmap import parallel

@parallel(workers=1)
def count() -> int:
    gc.collect()
    return sum(isinstance(each, type) and each.__name__ == "Node" for each in gc.get_objects())

def once(number: int) -> int:
    @dataclasses.dataclass
    class Node:
        value: int
        next: Node = None
    return parallel(lambda x: len(typing.get_type_hints(Node, None, {"Node": Node})) + Node(x).value, workers=1).map([number])

for number in range(300):  # of which a worker may keep 256
    assert once(number) == [number + 2]
gc.collect()
print(count() < 3, count.submit().result() < 290)
"""
    )

    assert (done.stdout, done.stderr) == ("True True\n", "")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new syntax")
def test_aliases_and_bounds_that_are_evaluated_later(script: Script) -> None:
    """They may name themselves, and what is defined later, or never."""
    done = script.run(
        CHECK
        + """
import typing
type Json = dict[str, Json] | list[Json] | str | None
type Nested[T] = T | list[Nested[T]]
type Call[**P, *Ts] = typing.Callable[P, tuple[*Ts]]
type Absent = Missing
class Node[T: Node]:
    pass
class Other[T: Missing]:
    pass
class Choice[T: (int, Missing)]:
    pass
def walk(x: Json) -> Nested[int]:
    return x
def either[T: Missing](x: T) -> T:
    return x
check(walk)
check(either)
check(lambda x: (Json, Json.__value__, Nested[int], Nested.__value__, Call.__value__, Call.__type_params__))
check(lambda x: Nested.__type_params__[0] is Nested.__value__.__args__[0])
check(lambda x: (Absent, Node[int], Node.__type_params__[0].__bound__, Other[int], Choice[int]))
def value(x):
    try:
        return Absent.__value__
    except NameError as error:
        return error
check(value, lambda: globals().update(Missing=int))
assert parallel(lambda x: x, workers=1).map([Json, 1])[0].__name__ == "Json"
"""
    )

    assert done.stderr == ""


only_lazy = pytest.mark.skipif(sys.version_info < (3, 15), reason="no lazy imports")

MODULES = {
    "beside.py": "level = 1\ndef tell(x): return x, level\n",
    "package/__init__.py": "lazy from package.inner import value\nlazy from . import inner\n",
    "package/by_value.py": "lazy from . import inner, value as v\ndef use(x): return inner.value, v, x\n",
    "package/inner.py": "value = 'inner'\n",
    "package/other.py": "value = 'other'\n",
}


def _write_modules(script: Script) -> None:
    (script.folder / "package").mkdir()
    for name, text in MODULES.items():
        (script.folder / name).write_text(text)


@only_lazy
def test_lazy_imports(script: Script) -> None:
    """Workers import what they use, and the program nothing; what is not there fails where a direct call fails."""
    _write_modules(script)
    done = script.run(
        """
lazy import tomllib
lazy import xml.dom.minidom
lazy import xml.sax.handler
lazy import email.mime.text as text
lazy import absent
lazy import beside
lazy import package.inner
lazy from beside import tell
lazy from plistlib import UID as F
lazy from package import other, value
import sys
from parmap import parallel

def use(x: F, *, kind: tomllib.TOMLDecodeError = None):
    names = tomllib.loads("a = 1"), xml.dom.minidom.Node.__name__, xml.sax.handler.__name__, text.MIMEText.__name__
    return names, beside.level, package.inner.value, tell(x), F(1).data, other.value, value, x and absent.x
class Kind:
    def use(self, x):
        return F(x).data

calls = parallel(use, workers=1)
there = [*calls.map([0]), calls.submit(0).result()]
assert parallel(lambda x: Kind().use(x), workers=1).map([2]) == [2]
for name in ("tomllib", "xml", "plistlib", "beside", "package", "email.mime.text"):
    assert name not in sys.modules, name
assert there == [use(0)] * 2, there
assert calls.map([0]) == [use(0)]
for function in (use, lambda x: calls.submit(x).result()):
    try:
        function(1)
    except ModuleNotFoundError as error:
        assert error.name == "absent"
    else:
        assert not function
"""
    )

    assert done.stderr == ""


@only_lazy
def test_lazy_imports_of_a_package_that_travels(script: Script) -> None:
    """A module of it may have been imported, and be a lazy import of itself still."""
    _write_modules(script)
    done = script.run(
        """
import cloudpickle, package.by_value
from parmap import parallel

cloudpickle.register_pickle_by_value(package)
calls = parallel(package.by_value.use, workers=1)
assert calls.map([1]) == [calls.submit(1).result()] == [package.by_value.use(1)] == calls.map([1])
"""
    )

    assert done.stderr == ""


@only_lazy
def test_what_a_lazy_import_finds_may_change(script: Script) -> None:
    """A call sees what a direct call sees: what the program did to the module, and another value of the name."""
    _write_modules(script)
    done = script.run(
        CHECK
        + """
lazy from beside import level
lazy import tomllib
from sys import modules

same = parallel(lambda x: level, workers=1)
assert same.map([0]) == [1] and same.submit(0).result() == 1
import beside
beside.level = 2
assert same.submit(0).result() == 2 and same.map([0]) == [2]
check(lambda x: level, lambda: globals().update(level=3))
check(lambda x: tomllib.__name__, lambda: globals().update(tomllib=modules["sys"]))
"""
    )

    assert done.stderr == ""


@only_lazy
def test_an_initializer_that_uses_lazy_imports(script: Script) -> None:
    """What it imports so, it has not set: the program may set it later."""
    _write_modules(script)
    done = script.run(
        """
lazy from beside import level
from parmap import parallel

def begin():
    global own
    own = level

@parallel(workers=1, initializer=begin)
def look(x):
    return level, own

assert look.map([0]) == [(1, 1)]
level = 2
assert look.map([0]) == [(2, 1)]
"""
    )

    assert done.stderr == ""


@only_lazy
def test_all_imports_lazy(script: Script) -> None:
    """So can all be, parmap's own among them."""
    _write_modules(script)
    done = script.run(
        """
import sys, beside, json, os.path, concurrent.futures
import collections.abc as abc
from fractions import Fraction as F
from parmap import parallel

def use(x: abc.Sequence):
    return json.dumps(x), F(1, 2), beside.tell(x), os.path.join("a", "b"), concurrent.futures.ALL_COMPLETED

calls = parallel(use, workers=1)
there = [*calls.map([0]), calls.submit(0).result()]
assert there == [use(0)] * 2 == [*calls.map([0]), calls.submit(0).result()]
""",
        args=("-X", "lazy_imports=all"),
    )

    assert done.stderr == ""


@only_lazy
def test_lazy_imports_are_shared_by_workers(script: Script) -> None:
    """What the function names is imported once for all, as if it were imported at once."""
    done = script.run(
        """
lazy import tomllib
lazy from fractions import Fraction
from parmap import parallel

@parallel(workers=2, start_method="forkserver")
def loaded(x):
    import sys
    found = [name in sys.modules for name in ("tomllib", "fractions")]
    return found if x else (tomllib, Fraction)

assert loaded.map([1, 2]) == [[True, True]] * 2
"""
    )

    assert done.stderr == ""
