"""Any function works: wherever it is defined, whatever kind it is, and its classes keep their identity."""

from __future__ import annotations

import functools
import importlib
import operator
import sys
import textwrap
import types
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
import tasks

from parmap import parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def local_functions() -> dict[str, Callable[[int], Any]]:
    """Functions that no worker could import."""
    offset = 100

    def closure(x: int) -> int:
        return x + offset

    def recursive(n: int) -> int:
        return 1 if n <= 1 else n * recursive(n - 1)

    def even(n: int) -> bool:
        return True if n == 0 else odd(n - 1)

    def odd(n: int) -> bool:
        return False if n == 0 else even(n - 1)

    @functools.wraps(closure)
    def wrapper(x: int) -> int:
        return -closure(x)

    return {
        "lambda": lambda x: x * 3,
        "closure": closure,
        "recursive": recursive,
        "mutually-recursive": even,
        "wrapped": wrapper,
        "cached": functools.lru_cache(lambda x: x + 1),
        "composed": functools.partial(map_twice, lambda x: x + 1),
    }


def map_twice(function: Callable[[int], int], x: int) -> int:
    return function(function(x))


class Scale:
    """A class with every kind of method, and instances that can be called."""

    factor = 10

    def __init__(self, by: int = 1) -> None:
        self.by = by

    def __call__(self, x: int) -> int:
        return x * self.by

    def method(self, x: int) -> int:
        return x + self.by

    @classmethod
    def of_class(cls, x: int) -> int:
        return x * cls.factor

    @staticmethod
    def static(x: int) -> int:
        return -x

    class Inner:
        """A nested one."""

        def __init__(self, x: int) -> None:
            self.x = x

        @staticmethod
        def deep(x: int) -> int:
            return x - 1


class Bigger(Scale):
    factor = 1000


FUNCTIONS: dict[str, Callable[[int], Any]] = {
    **local_functions(),
    "function": tasks.square,
    "builtin": abs,
    "type": str,
    "builtin-method": "abcdefghijk".__getitem__,
    "operator": operator.methodcaller("bit_length"),
    "partial": functools.partial(tasks.add, b=5),
    "partial-of-partial": functools.partial(functools.partial(tasks.add), b=7),
    "bound-method": Scale(4).method,
    "class-method": Scale.of_class,
    "inherited-class-method": Bigger.of_class,
    "static-method": Scale.static,
    "callable-object": Scale(6),
    "nested-static-method": Scale.Inner.deep,
    "unbound": functools.partial(Scale.method, Scale(3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_map_takes_any_callable(backend: dict[str, Any], name: str) -> None:
    """A map gives what the plain loop gives, for every kind of callable."""
    function = FUNCTIONS[name]

    assert parallel(function, **backend).map([1, 2, 3, 4]) == [function(x) for x in [1, 2, 3, 4]]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_submit_takes_any_callable(backend: dict[str, Any], name: str) -> None:
    """So does submit, the first time and when the function is known."""
    function = FUNCTIONS[name]
    decorated = parallel(function, **backend)

    assert [decorated.submit(3).result(60) for _ in range(3)] == [function(3)] * 3


def test_class(backend: dict[str, Any]) -> None:
    """A class can be mapped over its arguments: the results are its instances."""
    results = parallel(Scale, **backend).map([1, 2])

    assert [type(result) for result in results] == [Scale, Scale]
    assert [result.by for result in results] == [1, 2]


def test_nested_class(backend: dict[str, Any]) -> None:
    """A class within a class too."""
    result = parallel(Scale.Inner, **backend).submit(5).result(60)

    assert type(result) is Scale.Inner


@parallel(workers=2)
def fibonacci(n: int) -> int:
    """A decorated function that calls itself in parallel."""
    return n if n < 2 else sum(fibonacci.map([n - 1, n - 2]))


def test_recursion_of_a_decorated_function(backend: dict[str, Any]) -> None:
    """A decorated function may call itself in parallel: inside a worker it runs serially."""
    assert fibonacci.options(**backend).map([5, 6, 7]) == [5, 8, 13]


async def double_later(x: int) -> int:
    return 2 * x


def test_async_def(backend: dict[str, Any]) -> None:
    """The results of an `async def` are what its coroutines return."""
    later = parallel(double_later, **backend)

    assert later.map([1, 2]) == [2, 4]
    assert later.submit(4).result(60) == 8


def test_local_async_def(backend: dict[str, Any]) -> None:
    """A local one too, and it may await."""
    import asyncio

    async def slow(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert parallel(slow, **backend).map([1, 2]) == [2, 3]


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


# --- modules --------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Any]]:
    """Writes a module into a new folder on `sys.path`, and imports it."""
    made: list[str] = []

    def make(name: str, text: str) -> Any:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.syspath_prepend(tmp_path)
        made.append(name)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)


def test_a_module_that_came_after_the_pool(processes: dict[str, Any], module: Callable[[str, str], Any]) -> None:
    """A function is found though its module came onto `sys.path` when the workers were already there."""
    parallel(abs, **processes).map(range(4))
    late = module("module_that_came_late", "def triple(x):\n    return 3 * x\n")

    assert parallel(late.triple, **processes).map([1, 2]) == [3, 6]
    assert parallel(late.triple, **processes).submit(5).result(60) == 15


def test_an_argument_of_a_module_that_came_after_the_pool(
    processes: dict[str, Any], module: Callable[[str, str], Any]
) -> None:
    """So is the class of an argument."""
    echo = parallel(tasks.identity, **processes)
    echo.map(range(4))
    late = module("module_with_a_late_class", "class Late:\n    pass\n")

    assert type(echo.submit(late.Late()).result(60)) is late.Late
    assert [type(item) for item in echo.map([late.Late()])] == [late.Late]


def test_a_module_registered_by_value(processes: dict[str, Any], module: Callable[[str, str], Any]) -> None:
    """A module registered with cloudpickle travels by value: a worker need not have it, and sees its changes."""
    away = module("module_by_value", "factor = 2\nclass Kind:\n    pass\ndef scale(x):\n    return x * factor, Kind()\n")
    sys.path.pop(0)
    cloudpickle.register_pickle_by_value(away)
    try:
        scale = parallel(away.scale, **processes)
        first = scale.map([1])[0]
        away.factor = 5
        second = scale.submit(1).result(60)
    finally:
        cloudpickle.unregister_pickle_by_value(away)

    assert (first[0], second[0]) == (2, 5)
    assert type(first[1]) is type(second[1]) is away.Kind


def test_a_module_without_a_file(processes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of a module that exists in this process only travels by value."""
    made = types.ModuleType("module_from_nowhere")
    exec("def add_one(x):\n    return x + 1\n", made.__dict__)
    monkeypatch.setitem(sys.modules, made.__name__, made)

    assert parallel(made.add_one, **processes).map([1, 2]) == [2, 3]
