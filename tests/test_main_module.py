"""Functions and classes of `__main__`: of a notebook, a script, `python -c`, stdin. No worker ever imports it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import types
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Script

# --- a notebook -----------------------------------------------------------------------------------


class Notebook:
    """Runs cells in a fake `__main__` that has no file."""

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")

    def run(self, cell: str) -> dict[str, Any]:
        """Run a cell; returns the names it can see."""
        exec(compile(textwrap.dedent(cell), "<cell>", "exec"), self.module.__dict__)
        return self.module.__dict__


@pytest.fixture
def notebook(processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """A notebook whose cells find `options`."""
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "__main__", notebook.module)
    notebook.module.__dict__["options"] = processes
    notebook.run("""
        import enum, dataclasses, typing
        from parmap import parallel
    """)
    return notebook


CLASSES = {
    "plain": "class Thing:\n    pass\nthing = Thing()",
    "dataclass": "@dataclasses.dataclass(frozen=True)\nclass Thing:\n    x: int = 1\nthing = Thing(2)",
    "slots": "@dataclasses.dataclass(slots=True)\nclass Thing:\n    x: int = 1\nthing = Thing(2)",
    "no-slots": "class Base:\n    __slots__ = ()\nclass Thing(Base):\n    __slots__ = ('x', '__weakref__')\nthing = Thing()",
    "enum": "class Thing(enum.Enum):\n    A = 1\n    B = 2\nthing = Thing.B",
    "flag": "class Thing(enum.Flag):\n    A = 1\n    B = 2\nthing = Thing.A | Thing.B",
    "namedtuple": "class Thing(typing.NamedTuple):\n    x: int\nthing = Thing(2)",
    "subclass": "class Base:\n    pass\nclass Thing(Base, dict):\n    pass\nthing = Thing(a=1)",
    "exception": "class Thing(Exception):\n    pass\nthing = Thing('x')",
    "generic": "T = typing.TypeVar('T')\nclass Thing(typing.Generic[T]):\n    pass\nthing = Thing[int]()",
}


@pytest.mark.parametrize("kind", CLASSES)
def test_instances_of_main_travel_both_ways(notebook: Notebook, kind: str) -> None:
    """An instance of a class of `__main__` is one in the worker, and comes back as one."""
    names = notebook.run(
        CLASSES[kind]
        + """
@parallel(**options)
def echo(x):
    return x, isinstance(x, Thing), type(x) is Thing, Thing
(same, inside, exactly, cls), again = echo.map([thing, thing])[0], echo.submit(thing).result(60)[0]
"""
    )

    assert type(names["same"]) is type(names["again"]) is names["cls"] is names["Thing"]
    assert names["inside"]
    assert names["exactly"]


def test_enums_of_main_keep_their_identity(notebook: Notebook) -> None:
    """A member of an enum of `__main__` comes back as the member, and is the member in the worker."""
    names = notebook.run("""
        class Colour(enum.Enum):
            RED = 1
            BLUE = 2
        @parallel(**options)
        def other(x):
            return Colour.BLUE if x is Colour.RED else Colour.RED
        results = other.map([Colour.RED, Colour.BLUE])
    """)

    assert names["results"][0] is names["Colour"].BLUE
    assert names["results"][1] is names["Colour"].RED


def test_exceptions_of_main_are_caught_by_their_class(notebook: Notebook) -> None:
    """An exception of a class of `__main__`, with arguments of its own, is caught as that class."""
    names = notebook.run("""
        class Trouble(Exception):
            def __init__(self, item, *, why):
                super().__init__(f"{item}: {why}")
                self.item, self.why = item, why
        @parallel(**options)
        def fail(x):
            raise Trouble(x, why="no")
        caught = []
        for call in (lambda: fail.map([7, 7]), lambda: fail.submit(7).result(60)):
            try:
                call()
            except Trouble as error:
                caught.append(error)
    """)

    assert [(type(error), error.item, error.why) for error in names["caught"]] == [(names["Trouble"], 7, "no")] * 2


def test_a_result_leaves_the_classes_of_main_alone(notebook: Notebook) -> None:
    """A result of a class of `__main__` that comes home late does not undo what was done to the class since."""
    names = notebook.run("""
        factor = 1
        class Point:
            kind = "old"
            def scaled(self):
                return factor
        method = Point.scaled
        @parallel(**options)
        def make(x):
            return Point()
        future = make.submit(0)
        Point.kind = "new"
        point = future.result(60)
        factor = 2
    """)

    assert names["Point"].kind == "new"
    assert names["Point"].scaled is names["method"]
    assert names["point"].scaled() == 2


def test_a_class_made_in_a_task_can_be_sent_back(notebook: Notebook) -> None:
    """A class that a task defines arrives, and is the same class when it travels again."""
    names = notebook.run("""
        @parallel(**options)
        def define(x):
            class Fresh:
                value = x
            return Fresh
        Fresh = define.submit(5).result(60)
        @parallel(**options)
        def use(x):
            return x, x().value
        (back, value), = use.map([Fresh])
    """)

    assert names["back"] is names["Fresh"]
    assert names["value"] == names["Fresh"]().value == 5


def test_a_cell_run_again(notebook: Notebook) -> None:
    """A function of the same name, from a cell that was edited, is the new one at once."""
    results = []
    for number in range(3):
        names = notebook.run(f"""
            @parallel(**options)
            def answer(x):
                return x + {number}
            results = answer.map([10, 20]) + [answer.submit(30).result(60)]
        """)
        results.append(names["results"])

    assert results == [[10, 20, 30], [11, 21, 31], [12, 22, 32]]


def test_a_class_defined_again(notebook: Notebook) -> None:
    """After its cell was run again, a class is the new one in the worker and in the results."""
    cell = """
        class Point:
            version = {number}
            def __init__(self):
                self.made = {number}
        @parallel(**options)
        def make(x):
            return Point(), Point.version
        point, version = make.map([0])[0]
        other, _ = make.submit(0).result(60)
    """
    for number in range(3):
        names = notebook.run(cell.format(number=number))

        assert type(names["point"]) is type(names["other"]) is names["Point"]
        assert names["point"].made == names["version"] == number


def test_functions_of_main_call_each_other(notebook: Notebook) -> None:
    """A function finds the others, and the imports, of its notebook."""
    names = notebook.run("""
        import math
        from tasks import square
        def helper(x):
            return deeper(x) + math.floor(1.5)
        def deeper(x):
            return square(x)
        results = parallel(helper, **options).map([1, 2])
    """)

    assert names["results"] == [2, 5]


def test_results_do_not_make_classes(notebook: Notebook) -> None:
    """A result of a class of `__main__` does not run `__init_subclass__` again: a registry of subclasses stays right."""
    names = notebook.run("""
        registry = []
        class Base:
            def __init_subclass__(cls):
                registry.append(cls.__name__)
        class Point(Base):
            pass
        @parallel(**options)
        def make(x):
            return Point()
        results = make.map(range(5))
    """)

    assert {type(result) for result in names["results"]} == {names["Point"]}
    assert names["registry"] == ["Point"]


def test_a_class_attribute_that_changed(notebook: Notebook) -> None:
    """A class of `__main__` that was changed in place is seen so by the next call."""
    names = notebook.run("""
        class Config:
            level = 1
        @parallel(**options)
        def level(x):
            return Config.level
        seen = level.map([0])
        Config.level = 2
        seen += level.map([0])
        Config.level = 3
        seen += [level.submit(0).result(60)]
    """)

    assert names["seen"] == [1, 2, 3]


REGISTERED = """
import parmap
from registry import Part

class Plugin:
    names = []

    def __init_subclass__(cls, *, tag, **more):
        super().__init_subclass__(**more)
        assert tag not in Plugin.names, "registered twice"
        Plugin.names.append(tag)
        cls.tag = tag

class Kind(type):
    made = []

    def __new__(cls, name, bases, variables, *, size):
        Kind.made.append(size)
        return super().__new__(cls, name, bases, variables)

    def __init__(cls, name, bases, variables, *, size):
        super().__init__(name, bases, variables)
        cls.size = size

class One(Plugin, tag="one"): pass
class Two(One, tag="two"): pass
class Sized(metaclass=Kind, size=3): pass
class Slow(Part, speed=1): pass

@parmap.parallel(workers=2, start_method={method!r})
def look(item):
    seen = [Two.tag, One().tag, Plugin.names, Sized().size, Kind.made, Slow.speed]
    return seen, type(item) in (One, Two, Sized, Slow), item

EXPECTED = ["two", "one", ["one", "two"], 3, [3], 1]
for kind in (One, Two, Sized, Slow):
    for seen, is_known, item in [*look.map([kind(), kind()]), look.submit(kind()).result()]:
        assert seen == EXPECTED and is_known and type(item) is kind, (seen, is_known, item)
assert [*Plugin.names, *Kind.made] == ["one", "two", 3]
"""

REGISTRY = """
class Part:
    def __init_subclass__(cls, *, speed):
        cls.speed = speed
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_classes_that_are_registered_with_arguments(script: Script, method: str) -> None:
    """What runs when a class is made has run at home: in a worker it does not run again, without its arguments."""
    (script.folder / "registry.py").write_text(REGISTRY)

    done = script.run(REGISTERED.format(method=method))

    assert done.stderr == ""


def test_a_cached_function_of_main(notebook: Notebook) -> None:
    """A recursive function under `lru_cache`, and one that uses it, work from `__main__`."""
    names = notebook.run("""
        import functools
        @functools.cache
        def fibonacci(n):
            return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
        @parallel(**options)
        def use(n):
            return fibonacci(n)
        results = use.map([30, 40]) + parallel(fibonacci, **options).map([50])
    """)

    assert names["results"] == [832040, 102334155, 12586269025]


# --- scripts --------------------------------------------------------------------------------------

SCRIPT = """
import dataclasses, enum
from parmap import parallel

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int

class Trouble(Exception):
    pass

offset = 10

def helper(point):
    return Point(point.x + offset)

@parallel(workers=2, start_method={start_method!r})
def move(point):
    if point.x < 0:
        raise Trouble(point)
    return helper(point), Colour.RED

results = move.map([Point(x) for x in range(20)])
assert results == [(Point(x + 10), Colour.RED) for x in range(20)], results
assert type(results[0][0]) is Point
assert results[0][1] is Colour.RED
offset = 20
assert move.submit(Point(1)).result() == (Point(21), Colour.RED)
assert parallel(lambda x: x + offset, workers=2, start_method={start_method!r}).map([1, 2]) == [21, 22]
try:
    move.map([Point(-1)])
except Trouble as trouble:
    assert trouble.args == (Point(-1),)
else:
    raise AssertionError("no Trouble")
print("once")
"""


def _run(how: str, text: str, script: Script) -> subprocess.CompletedProcess[str]:
    if how == "script":
        return script.run(text)
    if how == "exec":
        # As a notebook's kernel does: a program that is not the user's, with a `__main__` made by hand.
        text = f"import sys, types\nmain = sys.modules['__main__'] = types.ModuleType('__main__')\nexec({text!r}, vars(main))"
        return script.run(text)
    arguments = {
        "module": ["-m", "as_module"],
        "package": ["-m", "as_package"],
        "command": ["-c", text],
        "stdin": ["-"],
        "isolated": ["-I", "-c", text],
    }[how]
    script.write(text, "as_module.py")
    (script.folder / "as_package").mkdir()
    script.write(text, "as_package/__main__.py")
    return subprocess.run(
        [sys.executable, *arguments],
        input=text if how == "stdin" else "",
        capture_output=True,
        text=True,
        timeout=60,
        env=script.environment,
        cwd=script.folder,
        check=False,
    )


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
@pytest.mark.parametrize("how", ["script", "exec", "module", "package", "command", "stdin", "isolated"])
def test_a_program_without_a_main_guard(script: Script, how: str, start_method: str) -> None:
    """However a program is run, its functions and classes work in workers, and it runs once, without noise."""
    done = _run(how, SCRIPT.format(start_method=start_method), script)

    assert (done.stdout, done.stderr, done.returncode) == ("once\n", "", 0)


def test_a_task_that_asks_for_a_name_in_main(script: Script):
    """Also from code whose globals have no name: what is not there is not there."""
    done = script.run("""
        from parmap import parallel

        class Known:
            pass

        @parallel(workers=1)
        def ask(text):
            names = {"known": Known()}
            exec("import __main__; found = hasattr(__main__, " + repr(text) + ")", names)
            return names["found"]

        print(ask.map(["nothing", "__name__", "Known"]))
    """)

    assert done.stdout == "[False, True, True]\n", done.stderr


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_task_that_pickles(script: Script, start_method: str) -> None:
    """What a task pickles of the script, it and the program can read, and what the program has pickled, the task can."""
    done = script.run(f"""
        import pickle
        from parmap import parallel

        class Model:
            class Part:
                pass
            def __init__(self, part, function):
                self.part, self.function = part, function

        def double(x):
            return 2 * x

        @parallel(workers=2, start_method={start_method!r})
        def write(x):
            return pickle.dumps(Model(Model.Part(), double)), double

        @parallel(workers=2, start_method={start_method!r})
        def read(stream):
            model = pickle.loads(stream)
            return model.function(3) - double(3), isinstance(model, Model), isinstance(model.part, Model.Part)

        stream, function = write.map([1, 2])[1]
        model = pickle.loads(stream)
        assert type(model) is Model and type(model.part) is Model.Part and model.function is double
        assert function(4) == 8
        assert read.map([stream, pickle.dumps(model)]) == [(0, True, True)] * 2
        class Model(Model):
            pass
        assert type(pickle.loads(write.submit(1).result()[0])) is Model
    """)

    assert done.stderr == ""


def test_submodules_in_nested_code(script: Script) -> None:
    """A function that has `package.module` only in a comprehension, a lambda or a function in it finds the module."""
    done = script.run("""
        import email.mime.text, logging.handlers, xml.etree.ElementTree
        from parmap import parallel

        def comprehended(x):
            return [logging.handlers.DEFAULT_TCP_LOGGING_PORT + x for _ in "ab"]

        def nested(x):
            def inner():
                return (lambda text: xml.etree.ElementTree.fromstring(text).tag)(f"<p{x}/>")
            return inner()

        for f in comprehended, nested:
            assert parallel(f, workers=1).map([1, 2]) == [f(1), f(2)]
    """)

    assert done.stderr == ""


def test_imports_beside_the_script(script: Script) -> None:
    """A worker imports the modules that lie beside the script, and reads its arguments."""
    script.write("def triple(x):\n    return 3 * x\n", "beside.py")
    done = script.run("""
        import sys
        from parmap import parallel
        import beside
        print(parallel(beside.triple, workers=1).map([1]), parallel(lambda x: sys.argv[1:] + beside.triple(x), workers=1).map([[1]]))
    """)

    assert (done.stdout, done.stderr) == ("[3] [[1, 1, 1]]\n", "")


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_classes_that_hold_instances_of_their_own(script: Script, start_method: str) -> None:
    """Constants, registries and tables of a class are there in tasks as they are here: what is in them is found."""
    done = script.run(f"""
        from dataclasses import dataclass
        from parmap import parallel

        @dataclass(frozen=True)
        class Point:
            x: int

        Point.ORIGIN = Point(0)
        Point.NAMES = {{Point.ORIGIN: "origin", Point(1): "one"}}

        @dataclass(frozen=True, slots=True)
        class Coin:
            cents: int

        Coin.ALL = {{Coin(1), Coin(2)}}

        class Equal:
            def __eq__(self, other):
                return vars(self) == vars(other)

        class Item(Equal):
            known = set()

            def __init__(self, name):
                self.name = name
                self.known.add(self)

            def __hash__(self):
                return hash(self.name)

        class Money(int):
            def __new__(cls, amount, unit):
                made = super().__new__(cls, amount)
                made.unit = unit
                return made

            def __getnewargs__(self):
                return int(self), self.unit

        Money.ZERO = Money(0, "EUR")

        class Range:
            def __init__(self, first, last):
                self.ends = first, last

            def __reduce__(self):
                return Range, self.ends

        Range.ALL = Range(0, 9)

        def look(x):
            known = Item("pen") in Item.known, len(Item.known)
            return Point.NAMES.get(Point(x)), Coin(x) in Coin.ALL, known, Money.ZERO.unit, Range.ALL.ends

        Item("pen")
        assert parallel(look, workers=1, start_method={start_method!r}).map([0, 1, 5]) == [look(0), look(1), look(5)]
        items = [Point(1), Coin(1), Item("pen"), Money(1, "EUR"), Range(1, 2)]
        for item, back in zip(items, parallel(lambda item: item, workers=1, start_method={start_method!r}).map(items)):
            assert type(back) is type(item)
        """)

    assert not done.stderr


# --- a module that is being imported ----------------------------------------------------------------


ORDERS = """
    import os
    from dataclasses import dataclass
    from enum import Enum
    from pathlib import Path

    from parmap import Executor, Pool, parallel

    Path(f"imported-by-{os.getpid()}").touch()

    class State(Enum):
        OPEN = 1
        PAID = 2

    @dataclass(frozen=True)
    class Order:
        state: State

    @parallel(workers=1)
    def pay(order):
        assert order.state is State.OPEN
        return Order(State.PAID)

    def settle(order):
        return pay(order)

    opened, paid = Order(State.OPEN), Order(State.PAID)
"""


@pytest.mark.parametrize(
    "call",
    [
        "pay.map([opened])",
        "[pay.submit(opened).result()]",
        "list(pay.imap([opened]))",
        "list(Executor(1).map(settle, [opened]))",
        "Pool(1).map(settle, [opened])",
        "pay.map([opened], journal='journal')",
    ],
)
def test_a_call_while_its_module_is_imported(script: Script, call: str) -> None:
    """It neither waits for the import, which waits for it, nor has workers do the same import, which may never end."""
    body = textwrap.dedent(ORDERS) + f"assert {call} == [paid]\nlater = pay.submit(opened)\n"
    script.write(body, "orders.py")
    done = script.run("""
        import orders
        assert orders.later.result() == orders.paid and orders.pay.map([orders.opened] * 9) == [orders.paid] * 9
    """)

    assert (done.stderr, done.returncode) == ("", 0)
    assert len(list(script.folder.glob("imported-by-*"))) == 1


def test_items_of_a_module_that_is_imported(script: Script) -> None:
    """So it is where the function is of another module, which has been imported, and where a package has its parts."""
    (script.folder / "shop").mkdir()
    script.write(ORDERS, "shop/orders.py")
    script.write("def same(thing):\n    return thing, type(thing)\n", "helpers.py")
    script.write(
        """
        import helpers
        from parmap import parallel
        from shop.orders import opened, paid, pay

        class Thing:
            pass

        (back, kind), = parallel(helpers.same, workers=1).map([Thing()])
        assert type(back) is kind is Thing
        assert pay.map([opened] * 9) == [paid] * 9
        """,
        "shop/__init__.py",
    )
    done = script.run("import shop\nassert shop.pay.map([shop.opened]) == [shop.paid]")

    assert (done.stderr, done.returncode) == ("", 0)
    assert len(list(script.folder.glob("imported-by-*"))) == 1


@pytest.mark.parametrize(
    "body",
    [
        "import socket\nopen_one = socket.socket()\ndef held():\n    return open_one.fileno() >= 0\n",
        "import other\ndef held():\n    return other.helper()\n",
    ],
    ids=["a socket", "a module that holds itself"],
)
def test_a_module_that_is_imported_and_cannot_go_by_value(script: Script, body: str) -> None:
    """Then workers import it, as they do once that is done; nothing waits for the import here, items neither."""
    script.write(
        "import sys\nthis = sys.modules[__name__]\ndef helper():\n    return this.helper is helper\nimport module\n",
        "other.py",
    )
    script.write(
        textwrap.dedent("""
            from parmap import parallel
            class Item:
                pass
            class More(Item):
                pass
            @parallel(workers=1)
            def look(item):
                return held() and isinstance(item, Item), item
        """)
        + body
        + "answers = look.map([More()] * 2)\n",
        "module.py",
    )
    done = script.run("""
        import other, module
        for fine, item in [*module.answers, *module.look.map([module.More()])]:
            assert fine and type(item) is module.More
    """)

    assert (done.stderr, done.returncode) == ("", 0)
