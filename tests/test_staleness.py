"""Never stale: a call sees the function, what it captures and its globals as they are when the call is made."""

from __future__ import annotations

import functools
import os
import sys
import textwrap
import threading
import types
from typing import TYPE_CHECKING, Any

import pytest
import tasks
import tasks_in_turn
from inspection import engine_of
from tasks_that_look import arguments, go_elsewhere, here

from parmap import parallel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("pools_stay")


class Both:
    """Calls a function by `map` and by `submit`, and sees that both give the same."""

    def __init__(self, backend: dict[str, Any]) -> None:
        self.backend = backend

    def __call__(self, function: Callable[[Any], Any], x: Any = 0) -> Any:
        decorated = parallel(function, **self.backend)
        result, other = decorated.map([x])[0], decorated.submit(x).result(60)

        assert result == other
        return result


@pytest.fixture
def call(backend: dict[str, Any]) -> Both:
    """Calls a function in parallel."""
    return Both(backend)


def test_a_captured_variable_that_is_rebound(call: Both) -> None:
    """A closure over a variable that gets other values."""
    seen = []
    for value in (1, "two", None, 1):
        captured = value
        seen.append(call(lambda _: captured))  # noqa: B023 - that is the question

    assert seen == [1, "two", None, 1]


def test_one_closure_whose_variable_is_rebound(call: Both) -> None:
    """One and the same function object, decorated anew or not, whose variable changes."""
    value = 0

    def read(_: int) -> int:
        return value

    seen = []
    for value in range(3):  # noqa: B007 - read by the closure
        seen.append(call(read))  # noqa: PERF401 - the closure reads the variable of this scope

    assert seen == [0, 1, 2]


def test_one_decorated_closure(backend: dict[str, Any]) -> None:
    """The same, decorated once."""
    value = 0

    @parallel(**backend)
    def read(_: int) -> int:
        return value

    seen = []
    for value in range(3):  # noqa: B007 - read by the closure
        seen += [read.map([0])[0], read.submit(0).result(60), next(read.imap([0])), read.map_async([0]).result(60)[0]]

    assert seen == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("make", [list, dict, set, bytearray], ids=lambda kind: kind.__name__)
def test_a_captured_container_that_is_mutated(call: Both, make: Any) -> None:
    """A captured container that is changed in place."""
    captured = make()
    grow: Any = {list: lambda: captured.append(1), dict: lambda: captured.update({len(captured): 1})}.get(
        make, lambda: captured.add(len(captured)) if make is set else captured.append(1)
    )
    seen = []
    for _ in range(3):
        seen.append(call(lambda _: len(captured)))
        grow()

    assert seen == [0, 1, 2]


def test_a_large_captured_array_that_is_mutated(backend: dict[str, Any]) -> None:
    """A captured array of several MB, in shared memory, that is changed in place, also back to what it was."""
    numpy = pytest.importorskip("numpy")
    captured = numpy.zeros(1_000_000)

    @parallel(**backend)
    def total(_: int) -> float:
        return float(captured.sum())

    seen = []
    for value in (0, 1, 0, 2):
        captured[-1] = value
        seen += [*total.map([0, 0]), total.submit(0).result(60)]

    assert seen == [0.0] * 3 + [1.0] * 3 + [0.0] * 3 + [2.0] * 3


def test_a_class_of_a_module_that_was_made_here_within_an_object(backend: dict[str, Any]) -> None:
    """No worker can import it, and nothing in the stream says so: its methods are looked at, too."""
    module = types.ModuleType("made_here_for_a_while")
    exec("class Inner:\n    def tell(self): return 1\n", vars(module))
    sys.modules[module.__name__] = module

    class Outer:
        inner: Any

        def __getstate__(self) -> dict[str, Any]:  # so that nobody but pickle looks into it
            return vars(self).copy()

    outer = Outer()
    outer.inner = module.Inner()

    @parallel(**backend)
    def look(_: int) -> int:
        told: int = outer.inner.tell()
        return told

    try:
        before = look.map([0]), look.submit(0).result(60)
        module.Inner.tell = lambda _: 2
        after = look.map([0]), look.submit(0).result(60)
    finally:
        del sys.modules[module.__name__]

    assert (before, after) == (([1], 1), ([2], 2))


def test_a_small_captured_array_in_any_way_another(backend: dict[str, Any]) -> None:
    """Its numbers, type, shape, order, and whether it can be written to; in an object; one that is there twice."""
    numpy = pytest.importorskip("numpy")
    array = numpy.zeros((2, 3))
    holder = types.SimpleNamespace(array=array, other=array)

    @parallel(**backend)
    def look(_: int) -> tuple[Any, ...]:
        flags = array.flags
        same = holder.array is array, holder.other is holder.array
        return array.tolist(), str(array.dtype), array.shape, flags.writeable, flags.fnc, *same

    def change_one() -> None:
        array[1, 2] = 5

    def become(new: Any) -> Callable[[], None]:
        def change() -> None:
            nonlocal array
            holder.array = array = new

        return change

    changes = [
        *(change_one, become(numpy.zeros((2, 3), order="F")), become(numpy.zeros((3, 2))), become(numpy.zeros(6))),
        *(become(numpy.zeros(6, int)), become(numpy.zeros(6, bool)), lambda: array.setflags(write=False)),
        become(numpy.arange(12)[::2]),
        *(lambda: setattr(holder, "other", holder.array), lambda: setattr(holder, "array", array.copy())),
        *(become(numpy.array([1, "a"], object)), become(numpy.array(["a", "b"])), become(numpy.zeros(3, "i4,f8"))),
    ]
    seen = []
    for change in changes:
        change()
        seen.append((look.map([0]), look.submit(0).result(60), look(0)))

    assert [(batch, one) for batch, one, _ in seen] == [([plain], plain) for *_, plain in seen]


@pytest.mark.parametrize("size", [20_000, 3_000_001])
def test_a_captured_buffer_as_it_was_when_called(processes: dict[str, Any], size: int, tmp_path: Path) -> None:
    """A worker that starts later gets the buffer that the call was made with, whatever became of it meanwhile."""
    numpy = pytest.importorskip("numpy")
    captured = numpy.ones(size, dtype=numpy.uint8)
    gate = tmp_path / "gate"

    def look(number: int) -> int:
        if not number:
            tasks.wait_for(str(gate))
        return int(captured[-1])

    function = parallel(look, **{**processes, "workers": 1, "max_tasks_per_child": 1, "preload": ["numpy"]})
    batch = function.map_async(range(4))
    for new in (2, 1):
        captured[-1] = new
        again = function.map_async([1])
        gate.touch()

        assert again.result(60) == [new]
    assert batch.result(60) == [1] * 4


def test_what_a_task_does_to_a_captured_array_stays_there(processes: dict[str, Any]) -> None:
    """A task that writes into a captured array changes it neither here nor for the tasks of other workers and calls."""
    numpy = pytest.importorskip("numpy")
    captured = numpy.zeros(1_000_000)

    def spoil(_: int) -> float:
        captured[0] += 1
        return float(captured[0])

    def read(_: int) -> float:
        return float(captured[0])

    parallel(spoil, **processes).map(range(4))

    assert captured[0] == 0
    assert parallel(read, **processes).map(range(4)) == [0.0] * 4


def test_a_partial_whose_argument_is_mutated(backend: dict[str, Any]) -> None:
    """The constant argument of `partial` is as it is at the call."""
    given: list[int] = []
    measure = parallel(tasks_in_turn.len_of_first, **backend).partial(given)
    seen = []
    for number in range(3):
        seen += [measure.map([0])[0], measure.submit(0).result(60)]
        given.append(number)

    assert seen == [0, 0, 1, 1, 2, 2]


class Counter:
    """An object with state."""

    def __init__(self) -> None:
        self.state = 0

    def read(self, _: Any) -> int:
        return self.state

    @parallel(workers=2)
    def read_in_parallel(self, _: Any) -> int:
        return self.state

    def __call__(self, _: Any) -> int:
        return self.state


class Account:
    """Another one, with as much on it."""

    inner: Account

    def __init__(self) -> None:
        self.balance = 100

    def draw(self, amount: int) -> int:
        self.balance -= amount
        return self.balance

    __call__ = draw


class Narrow:
    """It can't be held weakly."""

    __slots__ = ("balance",)

    def __init__(self) -> None:
        self.balance = 100

    draw = Account.draw


def draw_of(balance: list[int], amount: int) -> int:
    balance[0] -= amount
    return balance[0]


def closure_that_sets_balance() -> Callable[[int], int]:
    balance = 100

    def draw(amount: int) -> int:
        nonlocal balance
        balance -= amount
        return balance

    return draw


def closure_with_balance() -> Callable[[int], int]:
    balance = [100]
    return lambda amount: draw_of(balance, amount)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Account().draw,
        Account,
        lambda: Narrow().draw,
        closure_with_balance,
        closure_that_sets_balance,
        lambda: functools.partial(draw_of, [100]),
        lambda: functools.partial(Account().draw),
        lambda: functools.wraps(draw_of)(closure_with_balance()),
    ],
    ids=["method", "object", "slots", "closure", "nonlocal", "partial", "partial of a method", "wrapped"],
)
def test_another_one_that_is_equal(backend: dict[str, Any], make: Callable[[], Callable[[int], int]]) -> None:
    """What a task has done to its copy of the one is nothing to the other."""
    options = {**backend, "workers": 1}
    one, other = make(), make()

    assert parallel(one, **options).map([30]) == [70]
    assert parallel(other, **options).map([50]) == [50]
    assert [parallel(make(), **options).submit(10).result(60) for _ in range(3)] == [90] * 3


@pytest.mark.parametrize("where", ["captured", "attribute", "in a list"])
def test_it_is_set_to_another_one_that_is_equal(backend: dict[str, Any], where: str) -> None:
    """The next call sees that, and not what tasks have done to their copies of the one before."""
    options = {**backend, "workers": 1}
    account, holder, accounts = Account(), Account(), [Account()]
    draw = parallel(
        {
            "captured": lambda amount: account.draw(amount),
            "attribute": lambda amount: holder.inner.draw(amount),
            "in a list": lambda amount: accounts[0].draw(amount),
        }[where],
        **options,
    )
    seen = []
    for balance in (100, 100, 60, 100, 100):
        account = holder.inner = accounts[0] = None  # type: ignore[assignment]  # the next one may be where that was
        account = Account()
        account.balance = balance
        holder.inner = accounts[0] = account
        seen += [draw.map([30])[0], draw.submit(30).result(60)]

    assert seen == [70, 40, 70, 40, 30, 0, 70, 40, 70, 40]


def test_an_object_whose_state_changes(call: Both, backend: dict[str, Any]) -> None:
    """A bound method, a decorated method and an object that is called see the state of their object."""
    counter = Counter()
    seen = []
    for state in range(3):
        counter.state = state
        bound = counter.read_in_parallel.options(**backend)
        seen.append((call(counter.read), call(counter), bound.map([0])[0], bound.submit(0).result(60)))

    assert seen == [(state,) * 4 for state in range(3)]


def test_defaults_and_attributes_that_change(call: Both) -> None:
    """Default values, keyword defaults and attributes of a local function."""

    def function(_: int, a: list[int] = [], *, b: list[int] = []) -> Any:  # noqa: B006 - changed on purpose
        return len(a), len(b), function.level  # type: ignore[attr-defined]

    seen = []
    for level in range(3):
        function.level = level  # type: ignore[attr-defined]
        seen.append(call(function))
        function.__defaults__[0].append(1)  # type: ignore[index]
        function.__kwdefaults__["b"].extend([1, 1])

    assert seen == [(0, 0, 0), (1, 2, 1), (2, 4, 2)]


def test_code_that_is_replaced(call: Both) -> None:
    """A local function that gets other code, as a debugger or a reloader does."""

    def function(_: int) -> str:
        return "old"

    def other(_: int) -> str:
        return "new"

    before = call(function)
    function.__code__ = other.__code__

    assert (before, call(function)) == ("old", "new")


# --- globals --------------------------------------------------------------------------------------


@pytest.fixture
def main(backend: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Runs code in a `__main__` that has `call`."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    vars(module)["call"] = Both(backend)

    def run(code: str) -> dict[str, Any]:
        exec(textwrap.dedent(code), vars(module))
        return vars(module)

    return run


GLOBALS = {
    "rebound": "value = 'old'\nsee = lambda _: value\nchange = lambda: globals().update(value='new')",
    "mutated": "value = ['old']\nsee = lambda _: value[-1]\nchange = lambda: value.append('new')",
    "nested": "value = {'a': [['old']]}\nsee = lambda _: value['a'][0][0]\nchange = lambda: value['a'][0].__setitem__(0, 'new')",
    "function": "def inner(): return 'old'\ndef see(_): return inner()\ndef change():\n  global inner\n  inner = lambda: 'new'",
    "deep": "value = 'old'\ndef low(): return value\ndef see(_): return low()\ndef change():\n  global value\n  value = 'new'",
    "object": "class O: pass\no = O()\no.value = 'old'\nsee = lambda _: o.value\nchange = lambda: setattr(o, 'value', 'new')",
    "class": "class O:\n  value = 'old'\nsee = lambda _: O.value\nchange = lambda: setattr(O, 'value', 'new')",
    "method": "class O:\n  def f(self): return 'old'\nsee = lambda _: O().f()\nchange = lambda: setattr(O, 'f', lambda self: 'new')",
    "base": "class B:\n  v = 'old'\nclass O(B): pass\nsee = lambda _: O.v\nchange = lambda: setattr(B, 'v', 'new')",
    "attribute": "from parmap import parallel\n@parallel\ndef see(_): return see.v\nsee.v = 'old'\nchange = lambda: setattr(see, 'v', 'new')",
    "bases": "class A:\n  v = 'old'\nclass B:\n  v = 'new'\nclass O(A): pass\no = O()\nsee = lambda _: o.v\nchange = lambda: setattr(O, '__bases__', (B,))",
    "default": "def see(_, a=['old']): return a[-1]\nchange = lambda: see.__defaults__[0].append('new')",
    "new": "def see(_):\n  try: return value\n  except NameError: return 'old'\nchange = lambda: globals().update(value='new')",
}


@pytest.mark.parametrize("name", GLOBALS)
def test_a_global_that_changes(main: Callable[[str], dict[str, Any]], name: str) -> None:
    """A global of `__main__` that is rebound or changed in place is seen by the next call."""
    names = main(GLOBALS[name] + "\nbefore = call(see)\nchange()\nafter = call(see)\nagain = call(see)")

    assert (names["before"], names["after"], names["again"]) == ("old", "new", "new")


def test_a_large_global_array_that_is_mutated(main: Callable[[str], dict[str, Any]]) -> None:
    """A global array is seen as it is."""
    pytest.importorskip("numpy")
    names = main("""
        import numpy
        data = numpy.zeros((1000, 1000))
        def see(_):
            return float(data.sum())
        seen = []
        for value in range(3):
            data[500, 500] = value
            seen.append(call(see))
    """)

    assert names["seen"] == [0.0, 1.0, 2.0]


# --- the surroundings -----------------------------------------------------------------------------


def test_the_working_directory(call: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task finds the working directory of its caller, also after a change."""
    seen, expected = [call(here)], [os.getcwd()]
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        seen.append(call(here))
        expected.append(str(folder))

    assert seen == expected


def test_a_working_directory_that_is_left_and_removed(call: Both, tmp_path: Path) -> None:
    """Workers that were in it follow their caller to the next one."""
    home, seen = os.getcwd(), []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        os.chdir(folder)
        try:
            seen.append(call(here))
        finally:
            os.chdir(home)
        folder.rmdir()

    assert [*seen, call(here)] == [str(tmp_path / "a"), str(tmp_path / "b"), home]


def test_a_task_that_changes_its_directory(processes: dict[str, Any], tmp_path: Path) -> None:
    """What a task does to its working directory is undone for the next."""
    one = {**processes, "workers": 1}
    parallel(go_elsewhere, **one).submit(str(tmp_path)).result(60)

    assert parallel(here, **one).submit().result(60) == os.getcwd()


def test_a_directory_that_is_gone(processes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller whose working directory was removed can still call."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()

    assert parallel(tasks.square, **processes).map([2, 3]) == [4, 9]


def test_the_command_line(call: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task sees the arguments of the program, as they are."""
    monkeypatch.setattr(sys, "argv", ["prog", "--one"])
    first = call(arguments)
    sys.argv.append("--two")

    assert (first[-1], call(arguments)) == ("--one", ["prog", "--one", "--two"])


def test_another_thread_submits_what_has_just_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two steps of one `submit` the function changes and another thread submits it: the next task sees that."""
    numbers = [1]
    function = parallel(lambda: numbers[-1], workers=1)
    backend = engine_of(function).backend
    prepare = backend.prepare

    def change_in_between(*args: Any) -> Any:
        call = prepare(*args)
        monkeypatch.undo()
        numbers.append(2)
        prepare(*args)
        return call

    monkeypatch.setattr(backend, "prepare", change_in_between)
    function.submit().result()

    assert function.submit().result() == 2


class Meanwhile:
    """Something captured: each time that it is packed, another thread does the next of some *acts*."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        self._acts = [*acts]

    def __reduce__(self) -> Any:
        if self._acts:
            thread = threading.Thread(target=self._acts.pop(0))
            thread.start()
            thread.join()
        return str, ()


def test_another_thread_changes_what_is_just_packed(processes: dict[str, Any]) -> None:
    """A call may see this or not; one that is made when it has been changed back sees that."""
    flags = [False]

    def change() -> None:
        flags[0] = True

    captured = Meanwhile(bool, change)  # it is looked at, and then packed
    f = parallel(lambda _: (captured, flags[0]), **processes)
    first = f.map([0])
    assert flags == [True]
    flags[0] = False

    assert first in ([("", False)], [("", True)])
    assert f.map([0]) == [("", False)]
    assert f.submit(0).result(60) == ("", False)


def test_another_thread_adds_to_a_dict_that_is_just_packed(backend: dict[str, Any]) -> None:
    """That is no reason to refuse the call: the dict is packed again, whether it is captured or an item."""
    table: dict[Any, Any] = {}

    def add() -> None:
        table[len(table)] = None

    f = parallel(lambda given: (sorted(table, key=str), sorted(given, key=str)), **backend)
    for call in (lambda: f.map([table])[0], lambda: f.submit(table).result(60)):
        table["captured"] = Meanwhile(*[add] * 8)

        assert call()[0][-1] == "captured"
        assert f.map([table])[0] == (sorted(table, key=str),) * 2


@pytest.mark.parametrize("size", [10, 2000])
def test_a_dict_that_changes_while_it_is_looked_at(processes: dict[str, Any], size: int) -> None:
    """What other threads may do between any two lines: no key gets the value of another."""
    table = {number: number for number in range(size)}
    f = parallel(lambda _: all(key == value for key, value in table.items()), **processes)

    def change(frame: Any, *_: Any) -> Any:
        if frame.f_globals["__name__"].startswith("parmap._travel.code"):
            del table[min(table)]
            table[max(table) + 1] = max(table) + 1
        return change

    before = sys.gettrace()
    sys.settrace(change)
    try:
        results = f.map([0])
    finally:
        sys.settrace(before)

    assert results == [True]
    assert f.map([0]) == [True]


class Weights:
    """A class with a state that has many small parts."""

    def __init__(self) -> None:
        self.names = [f"weight {number}" for number in range(5000)]


def test_a_large_state_that_changes(backend: dict[str, Any]) -> None:
    """A change anywhere in a large captured object is seen by the next call."""
    weights = Weights()
    f = parallel(lambda place: weights.names[place], **backend)

    assert f.map([4999]) == ["weight 4999"]
    assert f.map([4999]) == ["weight 4999"]
    weights.names[4999] = "another"
    assert f.map([4999]) == ["another"]
