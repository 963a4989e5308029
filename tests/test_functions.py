"""Any function works: wherever it is defined, whatever kind it is, and its classes keep their identity."""

from __future__ import annotations

import functools
import importlib
import operator
import os
import sys
import textwrap
from dataclasses import dataclass, field
from enum import Enum, IntFlag
from importlib.util import module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING, Any, NamedTuple

import cloudpickle
import pytest
import tasks
from tasks_of_kinds import (
    AddsThree,
    AddsTwo,
    Bigger,
    Holder,
    Scale,
    compiled,
    compiled_later,
    double_later,
    fibonacci,
    fibonacci_cached,
    local_functions,
    plain,
)

from parmap import SerializationError, parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

pytestmark = pytest.mark.usefixtures("pools_stay")

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


def test_recursion_of_a_decorated_function(backend: dict[str, Any]) -> None:
    """A decorated function may call itself in parallel: inside a worker it runs serially."""
    assert fibonacci.options(**backend).map([5, 6, 7]) == [5, 8, 13]


def test_a_cached_function_under_the_decorator(backend: dict[str, Any]) -> None:
    """A function under `lru_cache` under `parallel` runs, though its name means the decorated one."""
    assert fibonacci_cached.options(**backend).map([10, 20]) == [55, 6765]


def test_a_compiled_function_under_the_decorator(backend: dict[str, Any]) -> None:
    """So does a function that Cython has compiled, by itself and captured; an `async def` of its is awaited."""
    options = compiled.options(**backend)
    inner = compiled.__wrapped__

    assert options.map([1, 2]) == [3, 6]
    assert options.submit(3).result(60) == 9
    assert parallel(lambda x: inner(x) + compiled(x), **backend).map([1, 2]) == [6, 12]
    assert parallel(compiled_later, **backend).map([1, 2]) == [3, 6]


def test_a_callable_whose_metaclass_rules(processes: dict[str, Any]) -> None:
    """What the class of a function says of itself by its metaclass is never asked; pickle, which does, is heard."""
    assert parallel(AddsTwo(), **processes).map([1, 2]) == [3, 4]
    assert parallel(AddsTwo(), **processes).submit(3).result(60) == 5
    with pytest.raises(SerializationError, match="unhashable"):
        parallel(AddsThree(), **processes).map([1])
    with pytest.raises(SerializationError, match="unhashable"):
        parallel(AddsThree(), **processes).submit(1).result(60)


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


@pytest.mark.filterwarnings("ignore:.* takes lock")
def test_the_wrapper_of_a_module(processes: dict[str, Any], module: Callable[[str, str], Any]) -> None:
    """What a library wraps around a function uses the library's own lock and context variable, whatever is in that."""
    library = module("module_that_wraps", """
        import functools, threading
        from contextvars import ContextVar

        lock, level = threading.Lock(), ContextVar("level", default=(each for each in ()))

        def on(number):
            def wrap(function):
                @functools.wraps(function)
                def wrapper(x):
                    level.set(number)
                    with lock:
                        return function(x)
                return wrapper
            return wrap

        def look(_):
            return level.get(), lock.locked()
    """)  # fmt: skip

    f = parallel(library.on(3)(lambda x: library.look(x)), **processes)
    assert f.map([1, 2]) == [(3, True)] * 2
    assert f.submit(1).result() == (3, True)


def test_a_module_registered_by_value(processes: dict[str, Any], module: Callable[[str, str], Any]) -> None:
    """A module registered with cloudpickle travels by value: a worker need not have it, and sees its changes."""
    away = module(
        "module_by_value", "factor = 2\nclass Kind:\n    pass\ndef scale(x):\n    return x * factor, Kind()\n"
    )
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


@pytest.fixture
def loaded(tmp_path: Any) -> Iterator[Callable[[str, str], Any]]:
    """Loads a module from a file in a folder that is on no path, as test runners and plug-in loaders do."""
    made: list[str] = []

    def make(name: str, text: str) -> Any:
        file = tmp_path / "away" / f"{name}.py"
        file.parent.mkdir()
        file.write_text(text)
        spec = spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        found = sys.modules[name] = module_from_spec(spec)
        made.append(name)
        spec.loader.exec_module(found)
        return found

    yield make
    for name in made:
        sys.modules.pop(name, None)


def test_a_module_that_is_on_no_path(processes: dict[str, Any], loaded: Callable[[str, str], Any]) -> None:
    """Workers load the same file."""
    away = loaded("module_on_no_path", "def triple(x):\n    return 3 * x\n")

    assert parallel(away.triple, **processes).map([1, 2]) == [3, 6]


def test_a_module_on_no_path_that_fails_elsewhere(loaded: Callable[[str, str], Any]) -> None:
    """A file that can't be run in a worker is an error that says why, each time."""
    text = f"import os\nif os.getpid() != {os.getpid()}:\n    raise LookupError('only here')\ndef one(x): return 1\n"
    one = parallel(loaded("module_that_fails_elsewhere", text).one, workers=1)

    for _ in range(2):
        with pytest.raises(LookupError, match="only here"):
            one.map([1])


def test_a_variable_that_is_not_set_yet(backend: dict[str, Any]) -> None:
    """A function may capture a variable that gets its value later: until then, only reading it is an error."""

    def add(x: int) -> int:
        return x + later if x else 0

    f = parallel(add, **backend)
    assert f.map([0]) == [0]
    with pytest.raises(NameError, match="later"):
        f.map([1])
    later = 2
    assert f.map([1]) == [3]


def test_functions_that_share_a_variable(processes: dict[str, Any]) -> None:
    """What one nested function sets by `nonlocal`, the others see: functions, methods and itself."""
    best = 0

    def consider(x: int) -> None:
        nonlocal best
        best = max(best, x)

    class Record:
        def read(self) -> int:
            return best

    @parallel(**processes)
    def top(numbers: list[int]) -> tuple[int, int]:
        nonlocal best
        best = 0
        for x in numbers:
            consider(x)
        return best, Record().read()

    assert top.map([[1, 3, 2], [5, 4]]) == [(3, 3), (5, 5)]
    assert top.submit([7, 6]).result() == (7, 7)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: Holder().work,
            r"the attribute '\w+' of the object of Holder\.work can't be pickled: .*generator.*per_worker",
        ),
        (Holder, r"the attribute '\w+' of the state of .*Holder.* can't be pickled: .*generator"),
        (
            lambda: functools.partial(plain, key=(number for number in range(3))),
            r"argument 'key' of .*plain.* can't be pickled: .*generator",
        ),
    ],
    ids=["method", "instance", "partial"],
)
def test_what_of_a_callable_cant_travel(make: Callable[[], Any], told: str) -> None:
    """The error says which part of it."""
    with pytest.raises(SerializationError, match=told):
        parallel(make(), workers=1).map([1])


def instances_of_data() -> list[Any]:
    """Each of a class by value that is made for data."""

    @dataclass
    class Plain:
        x: int
        more: list[Any] = field(default_factory=list)

    @dataclass(frozen=True, slots=True)
    class Slotted:
        x: int

    class Pair(NamedTuple):
        x: int
        y: str

    class Words(dict[str, int]):
        note = None

    class Items(list[int]):
        pass

    class Text(str):
        __slots__ = ("x",)

    class Colour(Enum):
        RED = 1

    class Level(IntFlag):
        LOW = 1
        HIGH = 2

    class Making:
        def __init__(self, x: int) -> None:
            self.x = x

        def __reduce__(self) -> tuple[Any, ...]:
            return Making, (self.x,)

    words, text = Words(a=1), Text("text")
    words.note, text.x = [1], 2  # type: ignore[assignment, attr-defined]
    one = Plain(1, [Slotted(2)])
    one.more += [one, Plain]
    several = [[Plain(1), Plain(2)], (one, one)]
    return [
        one,
        Slotted(3),
        Pair(1, "two"),
        words,
        Items([1, 2]),
        text,
        Colour.RED,
        Level.LOW | Level.HIGH,
        Making(4),
        *several,
    ]


def instances_that_say_how() -> list[Any]:
    """Each of a class by value that has its own way of being pickled, or of being asked."""

    class Stateful:
        def __init__(self) -> None:
            self.x = 1

        def __getstate__(self) -> dict[str, int]:
            return {"x": self.x}

    class New:
        def __new__(cls, x: int, *, y: int) -> Self:
            self = super().__new__(cls)
            self.__dict__.update(x=x, y=y)
            return self

        def __getnewargs_ex__(self) -> Any:
            return (7,), {"y": 8}

    class Asking:
        def __init__(self) -> None:
            self.inner = [1]

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    class WrongError(Exception):
        def __init__(self, x: int) -> None:
            super().__init__(f"wrong {x}")
            self.x = x

        def __reduce__(self) -> tuple[Any, ...]:
            return WrongError, (self.x,)

    return [Stateful(), New(5, y=6), Asking(), WrongError(9)]


def told(thing: Any) -> Any:
    """What can be seen of an instance."""
    attributes = getattr(thing, "__dict__", {})
    return type(thing).__qualname__, str(thing).split(" at 0x")[0], {name: str(attributes[name]) for name in attributes}


@pytest.mark.parametrize("place", range(15))
def test_an_instance_again_and_again(processes: dict[str, Any], place: int) -> None:
    """The first is pickled in another way than those that follow: nobody sees that."""
    item = [*instances_of_data(), *instances_that_say_how()][place]
    expected = told(item)
    function = parallel(lambda thing: (told(thing), thing), **processes)
    found = [function.submit(item).result(60) for _ in range(4)]

    assert [seen for seen, _ in found] == [expected] * 4
    assert [told(thing) for _, thing in found] == [expected] * 4
    assert all(type(thing) is type(item) for _, thing in found)


def test_the_class_of_an_argument_changes_between_tasks(processes: dict[str, Any]) -> None:
    """Each task has the class as it was at the call, and two of one task have the same one."""

    class Item:
        level = 0

        def tell(self) -> tuple[int, bool]:
            return self.level, hasattr(self, "new")

    def look(one: Item, two: Item) -> tuple[Any, ...]:
        return one.tell(), type(one) is type(two), one is two

    function = parallel(look, **processes)
    futures = []
    for Item.level in range(6):
        if Item.level == 3:
            Item.new = True  # type: ignore[attr-defined]
        item = Item()
        futures.append(function.submit(item, item if Item.level % 2 else Item()))

    assert [future.result(60) for future in futures] == [((n, n >= 3), True, n % 2 == 1) for n in range(6)]
