"""What pickle refuses, or sends by a name that workers lack, and a worker can make anew.

A lock, and whatever is made of locks, comes fresh: nobody in the worker holds it. A `threading.local`, a `ContextVar`
and a `queue.SimpleQueue` come empty; a local of a class of its own has what it has in the thread that calls. All this
holds for what functions and classes refer to; as an argument of a task, where one might hope that it still locks the
caller out, a lock is refused.
"""

from __future__ import annotations

import _thread
import copyreg
import functools
import gc
import sys
from _contextvars import Context, ContextVar
from collections.abc import Callable
from importlib import import_module
from operator import mul
from types import FunctionType, MethodType, ModuleType, NoneType
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from parmap._travel.code.by_name import MAIN, by_name, name_in, name_of
from parmap._travel.code.special.hints import forward_reduced, hint_reduced
from parmap._travel.code.special.lazy import import_reduced
from parmap._travel.code.special.shared import (
    SYNCHRONIZING,
    arena_reduced,
    connection_reduced,
    ctypes_reduced,
    is_in_shared_memory,
    synchronizing_reduced,
)
from parmap._travel.code.special.singles import parts_of, single_reduced
from parmap._travel.failure import bare_error, fill_error, parts_of_error, pass_on
from parmap._travel.stream import PROTOCOL, reduce_mapped, reduce_tensor
from parmap._travel.text import is_enumeration

_cached_property = functools.cached_property


def remake(thing: Any) -> tuple[Any, ...] | str | None:
    """As a reducer, for what is no function, or `None`; wherever it is met."""
    kind = type(thing)
    module = kind.__module__
    if kind is FunctionType and thing.__code__ is DISPATCHING:
        return _make_dispatch, (), parts_of_dispatch(thing), None, None, _fill_dispatch
    if "_member_map_" in vars(kind) and is_enumeration(kind) and callable(thing._value_):  # `value` is the user's
        return getattr, (kind, thing._name_)
    if module in MAIN and says_how(kind):
        return _of_class(thing, kind)
    reduce = _reducer_of(thing, kind, module)
    if reduce is not None:
        return reduce(thing)
    if (module == "_ctypes" and isinstance(thing, type)) or (kind is type and thing.__module__ == "_ctypes"):
        return _of_ctypes(thing)
    return hint_reduced(thing, kind) if module == "typing" else _of_any(thing, kind)


def _reducer_of(thing: Any, kind: type, module: str) -> Callable[[Any], tuple[Any, ...] | str | None] | None:
    if type(kind) is not type and is_in_shared_memory(thing):
        return ctypes_reduced
    if module in SYNCHRONIZING:
        return synchronizing_reduced
    if issubclass(kind, _DESCRIPTORS):
        return _of_descriptor
    return _of_module if issubclass(kind, ModuleType) else _SIMPLE.get((module, kind.__name__))


def _of_any(thing: Any, kind: type) -> tuple[Any, ...] | str | None:
    """What pickle sends, but maybe so that no worker can make it."""
    if thing is sys.stdout or thing is sys.__stdout__:  # either is held by somebody where a notebook, or a test
        return getattr, (sys, "stdout")  # runner that captures what is written, has replaced the one by the other
    if thing is sys.stderr or thing is sys.__stderr__:
        return getattr, (sys, "stderr")
    if says_how(kind):
        return _of_class(thing, kind)
    if issubclass(kind, BaseException) and FunctionType in (type(kind.__init__), type(kind.__new__)):
        # Pickle would call the user's constructor with what that has made of its own arguments: its text, often.
        *made, held = parts_of_error(thing)
        return bare_error, tuple(made), held, None, None, fill_error
    if asks_too_soon(kind):
        return (*thing.__reduce_ex__(PROTOCOL), _fill_quietly)
    poses = kind is not FunctionType and isinstance(thing, FunctionType)
    return NotImplemented if poses else None  # cloudpickle would send what it wraps


def says_how(kind: Any) -> bool:
    """Whether a class has a way of its own in which its instances are pickled."""
    return FunctionType in (type(kind.__reduce__), type(kind.__reduce_ex__))


_DESCRIPTORS = (property, staticmethod, classmethod)


def _of_descriptor(thing: Any) -> tuple[Any, ...] | None:
    """A property, or the like, of a class of the user's: others cloudpickle knows."""
    kind = type(thing)
    base = next(each for each in _DESCRIPTORS if issubclass(kind, each))
    args = (thing.fget, thing.fset, thing.fdel) if base is property else (thing.__func__,)
    return None if kind is base else (_make_descriptor, (kind, base, args), getattr(thing, "__dict__", None))


def _of_module(thing: Any) -> tuple[Any, ...] | None:
    """One that has given itself a class, for properties, which cloudpickle doesn't know."""
    is_known = type(thing) is ModuleType or sys.modules.get(thing.__name__) is not thing
    return None if is_known else (import_module, (thing.__name__,))


def _make_descriptor(kind: Any, base: Any, args: tuple[Any, ...]) -> Any:
    made = base.__new__(kind, *args)  # which Python 3.15 asks for here, too
    base.__init__(made, *args)  # past what the class may want
    return made


def has_functions(kind: Any) -> bool:
    """Whether it is an enumeration of functions, or the like: its members go by name, for no copy is the same value."""
    return is_enumeration(kind) and any(callable(member._value_) for member in vars(kind)["_member_map_"].values())


def _of_context(thing: Any) -> tuple[Any, ...] | None:
    """A context manager made of a generator: one that has not begun, such as those that decorate a function."""
    return (type(thing), (thing.func, thing.args, thing.kwds)) if hasattr(thing, "func") else None


def _of_pydantic(thing: Any) -> tuple[Any, ...]:
    """What `pydantic.validate_call` makes: without what it was made of, all globals of the script among it."""
    reduced: tuple[Any, ...] = thing.__reduce_ex__(4)
    state = reduced[2]
    if type(state) is tuple and state[1].get("__pydantic_complete__"):
        for name in ("ns_resolver", "config_wrapper"):
            state[1].pop(name, None)
    return reduced


def _of_wrapt(thing: Any) -> tuple[Any, ...]:
    """What a decorator of wrapt has made, which has no way to be pickled."""
    make: Any = type(thing)
    if "Adapter" in make.__name__:
        make = functools.partial(make, adapter=thing._self_adapter)  # noqa: SLF001 - no public name
    return make, (thing.__wrapped__, thing._self_wrapper, thing._self_enabled)  # noqa: SLF001 - as above


def _of_ufunc(thing: Any) -> tuple[Any, ...] | None:
    """One that `numpy.frompyfunc` or `vectorize` has made of a function, whose name says so; numpy knows others."""
    if not thing.__name__.endswith(" (vectorized)"):
        return None
    from numpy import frompyfunc

    function = next(filter(callable, gc.get_referents(thing)))  # no attribute has it
    options = {} if thing.identity is None else {"identity": thing.identity}
    return functools.partial(frompyfunc, **options), (function, thing.nargs - thing.nout, thing.nout)


def _of_partial_method(thing: Any) -> tuple[Any, ...]:
    """What takes its function when it is made, from Python 3.14 on."""
    make: Any = type(thing)
    return functools.partial(make, thing.func, *thing.args, **thing.keywords), ()


def _of_dispatch_method(thing: Any) -> tuple[Any, ...]:
    """Without what Python 3.13 keeps in it: instances that it was called for, of the class that is only being made."""
    state = {name: value for name, value in vars(thing).items() if name not in {"func", "_method_cache"}}
    return type(thing), (thing.func,), state


def _of_view(view: memoryview) -> tuple[Any, ...]:
    """A view of a copy of the same elements, where cloudpickle would have their bytes."""
    content = bytes(view) if view.readonly else bytearray(view)
    made = content, view.format, view.shape if view.ndim != 1 else None
    _make_view(*made)  # refuses what can't be made there either, such as records
    return _make_view, made


def _make_view(content: bytes | bytearray, kind: Any, shape: Any) -> memoryview:
    return memoryview(content).cast(kind) if shape is None else memoryview(content).cast(kind, shape)


def _of_sentinel(thing: Any) -> tuple[Any, ...] | None:
    if name_of(thing) is not None:
        return None
    kind: Any = type(thing)
    make = functools.partial(kind, repr=repr(thing))
    return single_reduced(thing, make, (thing.__name__,), {"__module__": thing.__module__})


def _of_class(thing: Any, kind: type) -> tuple[Any, ...] | str | None:
    """What has a class that says how it is pickled: maybe by where it is found, which no worker has."""
    if kind in copyreg.dispatch_table or issubclass(kind, type):
        return None
    reduced: tuple[Any, ...] | str = thing.__reduce_ex__(PROTOCOL)
    if isinstance(reduced, str):
        name = name_in(str(thing.__module__), reduced, thing)
        if name is not None:
            return (by_name, name) if name[2] else reduced
        if is_enumeration(kind):
            return kind, (thing._value_,)
    elif is_enumeration(kind) or not any(_leads_to(thing, each) for each in reduced[1]):
        return reduced
    return single_reduced(thing, object.__new__, (kind,), parts_of(thing))


def _leads_to(thing: Any, place: Any) -> bool:
    """Whether something is found in a *place*: under a name of the script, as `"__main__:name"`, or in its class."""
    if type(place) is str:
        module, _, name = place.partition(":")  # without a name it is another text, as the name of a logger
        return module in MAIN and all(map(str.isidentifier, name.split(".")))
    is_there = isinstance(place, type) and any(each is thing for each in vars(place).values())
    return is_there and name_of(place) is None


def asks_too_soon(kind: Any) -> bool:
    """Whether its instances, made by pickle and empty still, do not say that they have no `__setstate__`.

    It is a `__getattr__` that fails then, or answers: `return getattr(self._inner, name)` asks itself for `_inner`.
    """
    if issubclass(kind, type) or not _defines(kind, "__getattr__") or _defines(kind, "__setstate__"):
        return False
    found = _asking.get(kind)
    if found is None:
        ways: tuple[Any, ...] = kind.__reduce_ex__, kind.__reduce__
        found = ways == (object.__reduce_ex__, object.__reduce__) and kind not in copyreg.dispatch_table
        if found:
            try:
                found = hasattr(kind.__new__(kind), "__setstate__")
            except Exception as error:  # noqa: BLE001 - the user's code
                pass_on(error)
        _asking[kind] = found
    return found


_asking: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def _defines(kind: Any, name: str) -> bool:
    return any(name in vars(each) for each in kind.__mro__)  # past what its metaclass says


def _fill_quietly(made: Any, state: Any) -> None:
    """Give an object its attributes without asking it for anything."""
    attributes, slots = state if type(state) is tuple else (state, None)
    object.__getattribute__(made, "__dict__").update(attributes or {})
    for name, value in (slots or {}).items():
        object.__setattr__(made, name, value)


_HEADERS = ("MultiDict", "CIMultiDict")  # as aiohttp has them

_SIMPLE: dict[tuple[str, str], Callable[[Any], tuple[Any, ...] | str | None]] = {
    ("annotationlib", "ForwardRef"): forward_reduced,
    ("builtins", "lazy_import"): import_reduced,
    ("builtins", "memoryview"): _of_view,
    ("builtins", "sentinel"): _of_sentinel,
    ("_struct", "Struct"): lambda thing: (type(thing), (thing.format,)),
    ("contextlib", "_AsyncGeneratorContextManager"): _of_context,
    ("contextlib", "_GeneratorContextManager"): _of_context,
    # By name, whichever it is: a class that joblib has brought back from a worker has others, of cloudpickle's making.
    ("dataclasses", "_KW_ONLY_TYPE"): lambda _: (by_name, ("dataclasses", "KW_ONLY", 0, None)),
    ("dataclasses", "_MISSING_TYPE"): lambda _: (by_name, ("dataclasses", "MISSING", 0, None)),
    ("multiprocessing.connection", "Connection"): connection_reduced,
    ("multiprocessing.heap", "Arena"): arena_reduced,
    ("numpy", "ufunc"): _of_ufunc,
    ("functools", "partialmethod"): _of_partial_method,
    ("functools", "singledispatchmethod"): _of_dispatch_method,
    ("functools", "cached_property"): lambda thing: (_make_cached_property, (thing.func, thing.attrname)),
    ("pydantic._internal._validate_call", "ValidateCallWrapper"): _of_pydantic,
    **{("multidict._multidict", f"{name}Proxy"): lambda thing: (type(thing), (thing.copy(),)) for name in _HEADERS},
    ("numpy", "memmap"): reduce_mapped,
    ("torch", "Tensor"): reduce_tensor,
    **{(module, "FunctionWrapper"): _of_wrapt for module in ("_wrappers", "builtins", "wrapt.wrappers")},
    ("wrapt.decorators", "AdapterWrapper"): _of_wrapt,
    ("wrapt.decorators", "_AdapterFunctionWrapper"): _of_wrapt,
    ("random", "SystemRandom"): lambda thing: (type(thing), ()),
    ("typing_extensions", "Sentinel"): _of_sentinel,
    ("typing_extensions", "sentinel"): _of_sentinel,
}
"""Reducers of what refuses to be pickled, or does not say all."""


_OF_PYTHON, _WITH_ERRNO = 4, 8  # flags of a function in C


def _of_ctypes(cls: Any) -> tuple[Any, ...] | None:
    """What makes a class of `ctypes` that has no name of its own; `None` for others."""
    import ctypes

    # Unnamed themselves: the classes of these, each of a kind of its own.
    for base in (ctypes.Structure, ctypes.Union, ctypes.Array, ctypes.c_int):
        if type(base) is cls:
            return type, (base,)
    bases = cls.__bases__
    if bases == (ctypes.Array,) and cls is cls._type_ * cls._length_:
        return mul, (cls._type_, cls._length_)
    if bases == (ctypes._Pointer,) and cls is ctypes.POINTER(cls._type_):  # noqa: SLF001 - no public name
        return ctypes.POINTER, (cls._type_,)
    if bases == (ctypes._CFuncPtr,):  # type: ignore[attr-defined]  # noqa: SLF001 - as above
        make: Any = ctypes.PYFUNCTYPE if cls._flags_ & _OF_PYTHON else ctypes.CFUNCTYPE
        options = {"use_errno": True} if cls._flags_ & _WITH_ERRNO else {}
        return functools.partial(make, **options), (cls._restype_, *cls._argtypes_)
    native, other = ("__ctype_le__", "__ctype_be__")[:: 1 if sys.byteorder == "little" else -1]
    if getattr(cls, other, None) is cls:  # a number with its bytes in the other order
        return getattr, (getattr(cls, native), other)
    return None


def remake_fresh(thing: Any) -> tuple[Any, ...] | None:
    """As a reducer, or `None`: for what comes without its state."""
    kind = type(thing)
    made = fresh_ones().get(kind)
    if made is not None:
        return made, ()
    ways: tuple[Any, ...] = kind.__reduce__, kind.__getstate__
    if issubclass(kind, _thread._local) and ways == _USUAL_WAYS:  # noqa: SLF001 - `threading.local`
        return copyreg.__newobj__, (kind,), dict(vars(thing))  # type: ignore[attr-defined]
    if kind is WeakKeyDictionary or kind is WeakValueDictionary:
        return kind, (dict(thing),)
    if kind is MethodType and thing.__func__.__qualname__ == "InteractiveShell.get_ipython":
        return functools.partial, (NoneType,)  # `None`, as IPython has it where there is no shell
    if kind is ContextVar:
        return functools.partial(ContextVar, thing.name, **_default_of(thing)), ()
    return None


_USUAL_WAYS: tuple[Any, ...] = object.__reduce__, object.__getstate__


@functools.cache
def fresh_ones() -> dict[type, Any]:
    """What makes a fresh one of what comes without any state, by type."""
    import queue
    import threading

    return {
        type(threading.Lock()): threading.Lock,
        type(threading.RLock()): threading.RLock,
        threading.local: threading.local,
        queue.SimpleQueue: queue.SimpleQueue,
    }


def _make_cached_property(function: Any, name: str | None) -> Any:
    made: Any = _cached_property(function)
    made.attrname = name
    return made


def _default_of(variable: Any) -> dict[str, Any]:
    try:
        return {"default": Context().run(variable.get)}
    except LookupError:
        return {}


# --- functools.singledispatch ----------------------------------------------------------------------

_OF_DISPATCH = frozenset({"register", "dispatch", "registry", "_clear_cache", "__wrapped__"})
_single_dispatch: Any = functools.singledispatch
DISPATCHING = _single_dispatch(len).__code__
"""The code of what `functools.singledispatch` makes, which has all else in variables that it captures."""


def parts_of_dispatch(thing: Any) -> list[Any]:
    """What such a function is made of: not what it has found out about the classes that it was called with."""
    kinds = [each for cls, function in thing.registry.items() if cls is not object for each in (cls, function)]
    attributes = {name: value for name, value in vars(thing).items() if name not in _OF_DISPATCH}
    return [thing.registry[object], attributes, *kinds]


def _make_dispatch() -> Any:
    """One that knows no function yet: those that it gets may name it."""

    def nothing() -> None:
        """Is replaced."""

    return _single_dispatch(nothing)


def _fill_dispatch(made: Any, parts: list[Any]) -> None:
    default, attributes, *kinds = parts
    functools.update_wrapper(made, default)
    for kind, function in zip([object, *kinds[::2]], [default, *kinds[1::2]], strict=True):
        made.register(kind, function)
    vars(made).update(attributes)
