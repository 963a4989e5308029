"""The decorator: forms, metadata, methods, pickling. What runs in parallel is tested elsewhere."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cloudpickle
import pytest

from conftest import Script
from parmap import ParallelFunction, parallel
from parmap._calls.options import Options
from parmap._engine import pools as _pools


@parallel
def half(x: int, y: int = 1, *, z: int = 0) -> float:
    """Halve."""
    return x / 2 + y * z


@parallel(workers=3, retries=2)
def double(x: int) -> int:
    """Double."""
    return 2 * x


@parallel
def countdown(n: int) -> int:
    """Count down."""
    return 0 if n == 0 else countdown(n - 1)


@parallel
async def fetch(url: str) -> str:
    """Fetch."""
    return url


def plain(x: int) -> int:
    """Do nothing."""
    return x


named_otherwise = parallel(plain)


class Model:
    factor = 10

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset

    @parallel
    def score(self, x: int) -> int:
        """Score."""
        return self.factor * x + self.offset

    @staticmethod
    @parallel
    def parse(text: str) -> int:
        return int(text)

    @classmethod
    @parallel
    def build(cls, x: int) -> tuple[str, int]:
        return cls.__name__, x


class Special(Model):
    factor = 100

    @parallel
    def score(self, x: int) -> int:
        return super().score(x) + 1


Call = tuple[Any, tuple[Any, ...], dict[str, Any], Options]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What reaches the engine, which does not run."""
    seen: list[Call] = []

    def take(function: Any, args: Any, rest: Any, *more: Any, **kwargs: Any) -> str:
        options = more[0] if more else rest
        seen.append((function, args, rest if more else kwargs, options))
        return "taken"

    for name in ("submit", "map", "map_async", "stream"):
        monkeypatch.setattr(_pools, name, take)
    return seen


# --- forms ---


@pytest.mark.parametrize(
    "make",
    [parallel, parallel(), parallel(workers=2), functools.partial(parallel, workers=2)],
    ids=["bare", "called", "with options", "direct"],
)
def test_forms(make: Any):
    """Bare, called, with options and as a function: each gives a function that works as before."""
    wrapped = make(plain)

    assert isinstance(wrapped, ParallelFunction)
    assert wrapped(3) == 3
    assert wrapped.__wrapped__ is plain


def test_factory_is_reusable():
    """One factory decorates many functions."""
    factory = parallel(workers=2)
    first, second = factory(plain), factory(len)

    assert (first.__wrapped__, second.__wrapped__) == (plain, len)
    assert repr(second) == "<parmap.ParallelFunction builtins.len (workers=2)>"


@pytest.mark.parametrize(
    ("function", "args", "result"),
    [
        (lambda x: x + 1, (1,), 2),
        (len, ("abc",), 3),
        (functools.partial(pow, 2), (3,), 8),
        ("abc".upper, (), "ABC"),
        (Model(5).score, (1,), 15),
        (dict, ([("a", 1)],), {"a": 1}),
        (types.SimpleNamespace, (), types.SimpleNamespace()),
        (functools.lru_cache(plain), (3,), 3),
    ],
)
def test_any_callable(function: Any, args: tuple[Any, ...], result: object):
    """Lambdas, builtins, partials, methods, classes and callable objects can be wrapped, and shown."""
    wrapped = parallel(function, workers=2)

    assert wrapped(*args) == result
    assert "workers=2" in repr(wrapped)


def test_class_keeps_our_methods():
    """Attributes of what is wrapped never hide the methods of the wrapper."""

    class Mine:
        def map(self) -> str:
            return "mine"

    def function() -> None: ...

    function.map = "mine"  # type: ignore[attr-defined]
    function.other = "kept"  # type: ignore[attr-defined]
    wrapped: Any = parallel(function)

    assert inspect.ismethod(parallel(Mine).map)
    assert inspect.ismethod(wrapped.map)
    assert wrapped.other == "kept"


def test_wrapping_twice_takes_the_plain_function():
    """A decorated function can be decorated anew: the new options count."""
    again = parallel(double, workers=5)

    assert again.__wrapped__ is double.__wrapped__
    assert repr(again).endswith("double (workers=5)>")


@pytest.mark.parametrize("value", [3, "score", []])
def test_not_a_function(value: Any):
    """What can't be called is refused, with a hint at the usual mistake."""
    with pytest.raises(TypeError, match=r"options by keyword \(workers=4\)"):
        parallel(value)


@pytest.mark.parametrize("kind", [classmethod, staticmethod, property, functools.cached_property])
def test_wrong_order(kind: Any):
    """The wrong order with @classmethod, @staticmethod and properties is refused with the right one."""
    with pytest.raises(TypeError, match=f"put @{kind.__name__} above @parallel"):
        parallel(kind(plain))


# --- the function's twin ---


def test_metadata():
    """Name, documentation, module, signature and annotations are those of the function."""
    assert (half.__name__, half.__qualname__, half.__module__, half.__doc__) == ("half", "half", __name__, "Halve.")
    assert inspect.signature(half) == inspect.signature(half.__wrapped__)
    assert half.__annotations__ == half.__wrapped__.__annotations__


def test_a_coroutine_function_is_one():
    """Who asks whether it is a coroutine function, as web frameworks do, hears what the function itself would say."""

    class Client:
        @parallel
        async def fetch(self, url: str) -> str:
            return url

    for function in (
        fetch,
        Client.fetch,
        Client().fetch,
        fetch.options(workers=5),
        fetch.partial("x"),
        parallel(fetch),
    ):
        assert inspect.iscoroutinefunction(function)
    assert not inspect.iscoroutinefunction(half)
    assert str(inspect.signature(Client().fetch)) == "(url: 'str') -> 'str'"


def test_a_wrapper_of_a_parallel_function_is_what_it_is():
    """Not what it wraps, whose attributes `functools.wraps` hands on to it."""

    @functools.wraps(half)
    async def fetch(x: int) -> int:
        return x

    assert inspect.iscoroutinefunction(parallel(fetch))


def test_plain_call():
    """A call is the plain function's, keywords and errors included."""
    assert half(4, y=2, z=3) == 8.0
    with pytest.raises(TypeError, match="missing"):
        half()  # type: ignore[call-arg]


def test_keywords_of_any_name():
    """Keyword arguments may be called self, function or options."""
    echo = parallel(dict)

    assert echo(self=1, function=2, options=3) == {"self": 1, "function": 2, "options": 3}


def test_recursion():
    """A decorated function may call itself."""
    assert countdown(50) == 0


def test_repr():
    """The repr has the name and the options that were set."""
    assert repr(half) == f"<parmap.ParallelFunction {__name__}.half>"
    assert repr(double) == f"<parmap.ParallelFunction {__name__}.double (workers=3, retries=2)>"


# --- what reaches the engine ---


def test_submit(calls: list[Call]):
    """Submit hands over the plain function, the arguments and the options."""
    double.submit(3)

    function, args, kwargs, options = calls[0]
    assert (function, args, kwargs) == (double.__wrapped__, (3,), {})
    assert (options.workers, options.retries) == (3, 2)


def test_map(calls: list[Call]):
    """Map hands over its iterables and keywords; chunksize and progress are options of that call."""
    half.map([1], [2], return_exceptions=True, chunksize=7, progress="halving")

    function, args, kwargs, options = calls[0]
    assert (function, args, kwargs) == (half.__wrapped__, ([1], [2]), {"return_exceptions": True})
    assert (options.chunksize, options.progress) == (7, "halving")


def test_every_batch_method(calls: list[Call]):
    """Each batch method asks the engine for what it promises."""
    half.starmap([(1, 2)])
    half.imap([1], buffersize=3)
    half.imap_unordered([1])
    half.map_async([1])
    half.starmap_async([(1, 2)])

    results = {"return_exceptions": False}
    stream = {**results, "ordered": True, "buffersize": None}
    assert [kwargs for _, _, kwargs, _ in calls] == [
        {**results, "star": True},
        {**stream, "buffersize": 3},
        {**stream, "ordered": False},
        {"return_exceptions": False},
        {"return_exceptions": False, "star": True},
    ]


def test_bad_chunksize_of_a_call():
    """Options of a call are checked."""
    with pytest.raises(ValueError, match="chunksize must be"):
        half.map([1], chunksize=0)


def test_map_needs_an_iterable():
    """A batch of nothing at all is a mistake."""
    with pytest.raises(TypeError, match="missing"):
        half.map()  # type: ignore[call-overload]


# --- variants ---


def test_options_make_another():
    """options() leaves the function as it is."""
    other = double.options(workers=7)

    assert repr(other) == f"<parmap.ParallelFunction {__name__}.double (workers=7, retries=2)>"
    assert "workers=3" in repr(double)
    assert other(2) == 4


def test_partial():
    """partial() gives arguments and keeps name and options."""
    given = half.partial(4, z=2)

    assert given(3) == 8.0
    assert given.__name__ == "half"
    assert list(inspect.signature(given).parameters) == ["y", "z"]


# --- methods ---


def test_methods_bind(calls: list[Call]):
    """A method is bound to its object, and so is its map."""
    model = Model(3)

    assert model.score(2) == 23
    model.score.map([1])
    assert calls[0][0](2) == 23


def test_binding_makes_a_new_object():
    """Two bound methods never share their object."""
    first, second = Model(1).score, Model(2).score

    assert (first(0), second(0)) == (1, 2)


def test_methods_are_compared_like_plain_ones():
    """By what they are bound to: so what was registered can be found again, as by `atexit.unregister`."""
    model = Model()

    assert model.score == model.score
    assert len({model.score, model.score}) == 1
    assert [model.score].index(model.score) == 0
    assert model.score not in {Model().score, Model.score, model.score.options(workers=1), model.score.__wrapped__}


def test_methods_keep_metadata():
    """A bound method has name, documentation and signature, without self."""
    method = Model().score

    assert (method.__name__, method.__doc__) == ("score", "Score.")
    assert list(inspect.signature(method).parameters) == ["x"]


def test_unbound_method():
    """From the class, the function asks for its object."""
    assert Model.score(Model(1), 2) == 21


def test_inheritance():
    """An overridden method reaches that of the base by super()."""
    assert Special(2).score(1) == 103


def test_static_method(calls: list[Call]):
    """A static method binds to nothing."""
    assert (Model.parse("3"), Model().parse("4")) == (3, 4)

    Model.parse.map(["1"])
    assert calls[0][0]("5") == 5


@pytest.mark.parametrize("owner", [Model, Special, Special()], ids=["class", "subclass", "instance"])
def test_class_method(calls: list[Call], owner: Any):
    """A class method binds to the class it was asked of, and so does its map."""
    name = "Model" if owner is Model else "Special"
    owner.build.map([1])

    assert owner.build(1) == (name, 1)
    assert calls[0][0](1) == (name, 1)
    assert [key for key in vars(Model) if "parmap" in key] == []


def test_class_method_of_a_local_class(calls: list[Call]):
    """Class methods bind in classes made inside functions, with options, and in dataclass-like remakes."""

    class Local:
        @classmethod
        @parallel(workers=2)
        def build(cls, x: int) -> tuple[type, int]:
            return cls, x

    remade: Any = type("Remade", (), {k: v for k, v in vars(Local).items() if k not in {"__dict__", "__weakref__"}})
    Local.build.map([1])
    remade.build.map([1])

    assert calls[0][0](1) == (Local, 1)
    assert calls[1][0](1) == (remade, 1)


def test_class_method_under_a_decorator_of_ones_own(calls: list[Call]):
    """Class methods bind under what a library makes of `parallel`, too."""

    def task(function: Any) -> Any:
        return parallel(function, workers=2)

    class Local:
        @classmethod
        @task
        def build(cls, x: int) -> tuple[type, int]:
            return cls, x

    Local.build.map([1])

    assert calls[0][0](1) == (Local, 1)
    assert vars(Local).keys().isdisjoint({"__parmap_class_body__"})


def test_class_method_of_a_named_tuple(calls: list[Call]):
    """Class methods of a `NamedTuple`, which is made in a way of its own, bind too."""

    class Local(NamedTuple):
        x: int

        @classmethod
        @parallel(workers=2)
        def build(cls, x: int) -> Any:
            return cls(x)

    Local.build.map([1])

    assert calls[0][0](1) == Local(1)
    assert vars(Local).keys().isdisjoint({"__parmap_class_body__"})


# --- pickling and copies ---


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps], ids=["pickle", "cloudpickle"])
@pytest.mark.parametrize("function", [half, double, fetch, Model.score], ids=repr)
def test_pickles_by_name(function: Any, dumps: Any):
    """A decorated function of a module is that very object after pickling."""
    assert pickle.loads(dumps(function)) is function


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps], ids=["pickle", "cloudpickle"])
@pytest.mark.parametrize(
    ("function", "args", "result"),
    [
        (double.options(workers=5), (2,), 4),
        (half.partial(4), (), 2.0),
        (half.partial(4).partial(2).options(workers=5), (), 2.0),
        (Model(3).score, (1,), 13),
        (Model.build, (1,), ("Model", 1)),
        (Special.build, (1,), ("Special", 1)),
        (named_otherwise, (1,), 1),
        (parallel(len, workers=2), ("ab",), 2),
    ],
)
def test_pickles_by_value(function: Any, args: tuple[Any, ...], result: object, dumps: Any):
    """What has no name of its own comes back with its function and its options."""
    back = pickle.loads(dumps(function))

    assert back(*args) == result
    assert repr(back) == repr(function) or "method" in repr(function)
    assert not isinstance(back.__wrapped__, ParallelFunction)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pools_of_multiprocessing(script: Script, method: str):
    """Pools of `multiprocessing`, whose processes have the same script, take decorated functions and methods.

    They load what `pickle` has made of them in the program itself, too.
    """
    done = script.run(
        """
        import multiprocessing, pickle
        from parmap import parallel

        @parallel(workers=2)
        def square(x):
            return x * x

        class Model:
            factor = 3

            @parallel(workers=2)
            def scale(self, x):
                return self.factor * x

        def load(stream):
            return pickle.loads(stream)(5)

        if __name__ == "__main__":
            print(square.map([1, 2]))
            with multiprocessing.get_context("METHOD").Pool(1) as pool:
                print(pool.map(square, [3]), pool.map(Model().scale, [3]), pool.apply(square.partial(4)))
                print(pool.map(load, map(pickle.dumps, [square, Model().scale, square.options(workers=1)])))
            assert pickle.loads(pickle.dumps(square)) is square
        """.replace("METHOD", method)
    )

    assert done.stdout.splitlines() == ["[1, 4]", "[9] [9] 16", "[25, 15, 25]"], done.stderr


def test_a_script_keeps_its_functions(script: Script):
    """What a script pickles, it finds again: its own decorated functions, as plain ones; so do its tasks."""
    done = script.run("""
        import io
        import pickle
        from parmap import parallel

        @parallel(workers=2)
        def square(x):
            return x * x

        class Slow(pickle._Pickler):  # as joblib has one
            pass

        def read(data):
            return pickle.loads(data)(3), pickle.loads(pickle.dumps(square))(4)

        if __name__ == "__main__":
            data = pickle.dumps([square, square.options(workers=1), square.partial(5)])
            same, other, given = pickle.loads(data)
            Slow(file := io.BytesIO()).dump(square)
            print(pickle.loads(file.getvalue()) is same is square, other, given.map([])) or print(given())
            print(parallel(read, workers=1).map([pickle.dumps(square)]))
    """)

    other = "<parmap.ParallelFunction __main__.square (workers=1)>"
    assert done.stdout.splitlines() == [f"True {other} []", "25", "[(9, 16)]"], done.stderr


def test_lambda_pickles_by_value():
    """A lambda travels with cloudpickle."""
    offset = 3
    back = pickle.loads(cloudpickle.dumps(parallel(lambda x: x + offset, workers=2)))

    assert back(1) == 4


def test_main_pickles_by_value(monkeypatch: pytest.MonkeyPatch):
    """A function of ``__main__``, recursive at that, needs no ``__main__`` where it arrives."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    code = "from parmap import parallel\n@parallel(workers=2)\ndef down(n):\n    return 0 if n == 0 else down(n - 1)\n"
    exec(code, vars(main))
    data = cloudpickle.dumps(main.down)
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))

    assert pickle.loads(data)(5) == 0


def test_registered_module_pickles_by_value():
    """A function of a module that cloudpickle is told to pickle by value travels by value."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        data = cloudpickle.dumps(double)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])

    assert pickle.loads(data) is not double
    assert pickle.loads(data)(2) == 4


def test_engines_stay_at_home():
    """An executor and a progress callback don't travel with a function; the other options do."""
    with ThreadPoolExecutor(1) as executor:
        function = parallel(len, backend=executor, progress=print, workers=2)
        back = pickle.loads(pickle.dumps(function))

    assert repr(back) == "<parmap.ParallelFunction builtins.len (workers=2)>"


def test_copies():
    """A copy of a function is the function; a deep copy of a bound method has a copy of its object."""
    model = Model(1)
    method = copy.deepcopy(model.score)
    model.offset = 5

    assert copy.copy(half) is half
    assert copy.deepcopy(half) is half
    assert method(0) == 1
