"""Functions, classes and errors of scripts that few scripts have: they are in workers what they are here."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Script

CHECK = """
from parmap import parallel

def check(function, *changes):
    '''A call says what it says here, also after each change.'''
    for change in (lambda: None, *changes):
        change()
        calls = parallel(function, workers=1)
        here, *there = map(repr, (function(0), *calls.map([0]), calls.submit(0).result()))
        assert there == [here, here], (function, here, there)
"""


def test_what_is_unlike_others(script: Script) -> None:
    """Attributes of cached functions, slots in a set, a metaclass that refuses, odd enumerations, properties and views."""
    done = script.run(
        CHECK
        + """
import array, enum, functools

@functools.cache
def scaled(x):
    return scaled.factor
scaled.factor = 2
scaled.__wrapped__.factor = 1
check(lambda x: (scaled(x), scaled.factor), lambda: (setattr(scaled, "factor", 3), scaled.cache_clear()))

class Slotted:
    __slots__ = {"left", "right"}
    def __init__(self):
        self.left = 1
check(lambda x: (hasattr(Slotted(), "__dict__"), Slotted().left))
assert [each.left for each in parallel(lambda x: x, workers=1).map([Slotted()] * 9)] == [1] * 9
assert parallel(lambda x: Slotted(), workers=1).map([0])[0].left == 1

class Meta(type):
    def __setattr__(cls, name, value):
        raise AttributeError(name)

class Frozen(metaclass=Meta):
    x = 1
def refused(x):
    try:
        Frozen.x = 9
    except AttributeError as error:
        return Frozen.x, error.args
check(refused, lambda: type.__setattr__(Frozen, "x", 2))

class Kind(enum.EnumMeta):
    pass
class Operation(enum.Enum, metaclass=Kind):
    DOUBLE = enum.member(lambda x: 2 * x)
chosen = Operation.DOUBLE
check(lambda x: (chosen is Operation.DOUBLE, chosen.value(3)))

class Computed(property):
    def __init__(self, unit, *args):
        super().__init__(*args)
        self.unit = unit
    def __get__(self, thing, cls=None):
        return self.fget(cls), self.unit, self.__doc__
class Helper(staticmethod):
    pass
class Described:
    name = Computed("m", lambda cls: cls.__name__, None, None, "its doc")
    help = Helper(lambda: 1)
check(lambda x: (Described.name, Described().help()), lambda: setattr(vars(Described)["name"], "unit", "km"))

numbers = array.array("d", [1, 2])
view = memoryview(numbers)
check(lambda x: (view.tolist(), view.readonly), lambda: numbers.__setitem__(0, 3))
assert parallel(lambda view: view[1:], workers=1).map([view])[0].tolist() == [2]
"""
    )

    assert done.stderr == ""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new syntax")
def test_parameters_of_types(script: Script) -> None:
    """Those of functions are there; how they vary is inferred, and what they are by default is known."""
    done = script.run(
        CHECK
        + """
import sys
class Box[T]:
    pass
def first[T](x: T) -> T:
    return x
if sys.version_info >= (3, 13):
    exec("class Pair[T, U = int]: pass")
    check(lambda x: (Pair[str], Pair.__type_params__[1].__default__))
check(lambda x: (Box[int], Box.__type_params__, first.__type_params__))
"""
    )

    assert done.stderr == ""


def test_classes_of_code_without_a_name(script: Script) -> None:
    """What is made by `exec` in bare globals is of no module: changes of it are seen."""
    done = script.run(
        CHECK
        + """
bare = {}
exec("class A:\\n  x = 1\\n  def get(self): return self.x\\ndef look(_): return A.x, A().get()", bare)
check(bare["look"], lambda: setattr(bare["A"], "x", 2), lambda: setattr(bare["A"], "get", lambda self: 3))
"""
    )

    assert done.stderr == ""


def test_classes_that_say_they_are_equal(script: Script) -> None:
    """One can't be told from the other: it is refused, instead of being taken for that."""
    done = script.run("""
        from parmap import parallel, SerializationError

        class Meta(type):
            def __eq__(cls, other):
                return True
            def __hash__(cls):
                return 1

        class First(metaclass=Meta):
            pass
        class Second(metaclass=Meta):
            pass

        for call in (lambda: parallel(lambda x: (First, Second), workers=1).map([0]),
                     lambda: parallel(type, workers=1).map([First(), Second()])):
            try:
                call()
            except SerializationError as error:
                print("Second is equal to another one" in str(error))
    """)

    assert done.stdout == "True\nTrue\n", done.stderr


def test_a_warning_of_its_own(script: Script) -> None:
    """A filter of warnings holds for a category of the script's; folders in `sys.path` may be strings of a kind."""
    done = script.run(
        CHECK
        + """
import sys, warnings

class Odd(UserWarning):
    pass
class Folder(str):
    pass
def warn(x):
    try:
        warnings.warn("odd", Odd)
    except Odd as error:
        return str(error), [each for each in sys.path if each == "/nowhere"]
warnings.simplefilter("error", Odd)
sys.path.append(Folder("/nowhere"))
check(warn)
"""
    )

    assert done.stderr == ""


def test_a_script_that_a_script_runs(script: Script) -> None:
    """`runpy.run_path` gives a script a name that nobody can import."""
    script.write(
        CHECK
        + """
class Point:
    x = 1
class Wrong(Exception):
    pass
def fail(x):
    raise Wrong(x)
check(lambda x: Point.x, lambda: setattr(Point, "x", 2))
assert parallel(lambda point: point.x, workers=1).map([Point()]) == [2]
assert type(parallel(lambda x: Point(), workers=1).map([0])[0]) is Point
try:
    parallel(fail, workers=1).map([0])
except Wrong:
    print("caught", __name__)
""",
        "other.py",
    )

    done = script.run("import runpy; runpy.run_path('other.py')")

    assert (done.stdout, done.stderr) == ("caught <run_path>\n", "")


def test_errors_that_hold_much(script: Script) -> None:
    """An error of the script's with large data is caught by its class; so is a group with a member that can't travel."""
    done = script.run("""
        import threading
        from parmap import parallel

        class Large(Exception):
            def __init__(self, what, data):
                super().__init__(what)
                self.data = data

        class Several(ExceptionGroup):
            pass

        def fail(how):
            if how == "group":
                locked = ValueError("locked")
                locked.lock = threading.Lock()
                raise Several("both", [Large("in it", b"x"), locked])
            raise Large("by itself", bytearray(1_000_000))

        for each in parallel(fail, workers=1).map(["large", "group"], return_exceptions=True):
            print(type(each) in {Large, Several}, len(getattr(each, "data", "")), getattr(each, "exceptions", ())[:1])
    """)

    assert done.stdout == "True 1000000 ()\nTrue 0 (Large('in it'),)\n", done.stderr


def test_errors_that_hide_their_parts(script: Script) -> None:
    """An error whose class has no readable `__dict__` fails its item alone; one in loading the function says where."""
    done = script.run("""
        from parmap import parallel

        class Hidden(Exception):
            @property
            def __dict__(self):
                raise RuntimeError("hidden")

        class Broken:
            def __init__(self):
                self.x = 1
            def __setstate__(self, state):
                raise ValueError("broken")

        def fail(x):
            raise Hidden(x)

        broken = Broken()
        for backend in ("processes", "threads", "serial"):
            print(repr(parallel(fail, workers=1, backend=backend).map([1], return_exceptions=True)))
        try:
            parallel(lambda x: broken, workers=1).map([0])
        except ValueError as error:
            print(error, "can't load the function" in error.__notes__[0], "initializer=" in error.__notes__[0])
    """)

    assert done.stdout == "[Hidden(1)]\n" * 3 + "broken True True\n", done.stderr


def test_errors_that_refuse_what_all_have(script: Script) -> None:
    """An error, or a group, comes as itself, with cause, note and item, whatever its class makes of Python's names."""
    done = script.run("""
        import parmap

        def refuse(error, *_):
            raise RuntimeError("refused")

        NAMES = ("__cause__", "__context__", "__dict__", "__notes__", "__suppress_context__", "__traceback__", "args")
        KINDS = {
            (base, name): type("Odd", (base,), {name: property(refuse, refuse)})
            for base in (Exception, ExceptionGroup)
            for name in (*NAMES, "add_note", "exceptions", "message", "with_traceback", "__getattribute__", "__reduce__")
        }
        KINDS[Exception, "set"] = type("Odd", (Exception,), {"__setattr__": refuse})

        def fail(key):
            error = KINDS[key](1) if key[0] is Exception else KINDS[key]("several", [ValueError(1)])
            raise error from KeyError(1)

        for backend in ("processes", "threads", "serial"):
            f = parmap.parallel(fail, workers=1, backend=backend)
            for key, error in zip(KINDS, f.map(KINDS, return_exceptions=True)):
                assert type(error) is KINDS[key], (backend, key, type(error))
                assert type(BaseException.__cause__.__get__(error)) is KeyError, (backend, key)
                (note,) = vars(BaseException)["__dict__"].__get__(error)["__notes__"]
                assert "fail(" in note, (backend, key, note)
                assert parmap.item_of(error) == key
                single = f.submit(key).exception(60)
                assert type(single) is KINDS[key], (backend, key, type(single))
    """)

    assert done.returncode == 0, done.stderr


def test_classes_that_look_like_enumerations(script: Script) -> None:
    """What an object has by a name of those of enumerations makes it none."""
    done = script.run("""
        from parmap import parallel

        class Map:
            _member_map_ = {"a": 1}
            def __init__(self, x):
                self.x = x

        class Callable(Map):
            def __init__(self, x):
                super().__init__(x)
                self._value_ = print

        def read(thing):
            if thing.x is None:
                raise ValueError(1)
            return thing

        f = parallel(read, workers=1)
        for kind in (Map, Callable):
            print([each.x for each in f.map([kind(1), kind(2)])], f.submit(kind(3)).result(30).x)
            print(f.map([kind(None)], return_exceptions=True)[0].__notes__[0].startswith("parmap: item 0: read("))
    """)

    assert done.stdout == "[1, 2] 3\nTrue\n" * 2, done.stderr


def test_an_error_that_lets_nobody_see_it(script: Script) -> None:
    """Whoever waits hears that something is wrong, and the pool goes on."""
    done = script.run("""
        from parmap import parallel

        class Sealed(Exception):
            def __getattribute__(self, name):
                raise RuntimeError("sealed")

        def check(x):
            if x == 3:
                raise Sealed
            return x

        for backend in ("processes", "threads", "serial"):
            f = parallel(check, workers=2, backend=backend)
            for call in (f.map, lambda items: list(f.imap(items)), lambda items: f.submit(items[-1]).result(30)):
                try:
                    call([1, 2, 3])
                except Exception:
                    print(backend, f.map([1, 2]))
    """)

    assert done.stdout.splitlines() == [f"{name} [1, 2]" for name in ("processes", "threads", "serial") for _ in "123"]


def test_an_error_where_main_is_no_module(script: Script) -> None:
    """A program that has taken itself out of `sys.modules` gets the error of its task, and its death, with the place."""
    done = script.run("""
        import os, sys
        from parmap import WorkerDiedError, parallel

        def fail(x):
            if x == 2:
                os.abort()
            raise ValueError(x)

        f = parallel(fail, workers=1)
        me = sys.modules.pop("__main__")
        for item, kind in ((1, ValueError), (2, WorkerDiedError)):
            try:
                f.map([item])
            except kind as error:
                print(type(error).__name__)
    """)

    assert done.stdout == "ValueError\nWorkerDiedError\n", done.stderr
