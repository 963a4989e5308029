"""What goes by name: how workers find it by importing, what they can't find so, and what to do about that."""

from __future__ import annotations

import _frozen_importlib
import importlib
import os
import pickle
import sys
from collections.abc import Callable
from operator import attrgetter
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, TypeVar
from weakref import WeakSet


def reference(function: Any) -> tuple[Callable[..., Any], tuple[Any, ...], bool]:
    """How a function travels: what to call in the worker, with which arguments, and whether that goes by name.

    What goes by name never needs to be pickled again: nothing it captures can change under the name.
    """
    if is_function(function) or isinstance(function, type):
        name = name_of(function)
        if name is not None:
            return by_name, name, True
    return identity, (function,), False


def is_function(thing: Any) -> bool:
    """Whether it is one of Python's, or says so, of C, or of a tool's, of whose class there is one for each release."""
    return isinstance(thing, (FunctionType, BuiltinFunctionType)) or _name(type(thing)) in _OF_TOOLS


_name = vars(type)["__name__"].__get__  # of a class, past what its metaclass says of that
_OF_TOOLS = frozenset({"cython_function_or_method", "fused_cython_function", "nb_func", "nb_method"})  # and of nanobind


def identity(thing: Any) -> Any:
    """The same: what stands for itself."""
    return thing


def name_of(function: Any) -> tuple[str, str, int, str | None] | None:
    """How a worker can find *function*, or the like, by importing: module, qualified name, decorators above it, file.

    `None` where it can't: a lambda, a nested function, anything in `__main__`, a module that exists only here.
    """
    module_name = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)  # a type variable's
    if not module_name or not qualname or module_name in MAIN or "<" in qualname:
        return None
    name = name_in(module_name, qualname, function)
    if name is None and isinstance(function, type) and not is_registered(module_name):
        # It says it is of another module, as pytest's `Skipped` does: what it is made of may not. Of that of C there is
        # nothing to ask: then it is of where it stands, as `regex.Pattern` is, which says `_regex`.
        parts = [each for each in vars(function).values() if type(each) is FunctionType]
        others = {str(each.__module__) for each in (*function.__mro__[1:], *parts)} - MAIN
        if module_name == "builtins" or module_name not in sys.modules:
            every = [(name, each) for name, each in list(sys.modules.items()) if type(each) is ModuleType]
            others |= {name for name, each in every if vars(each).get(qualname) is function}
        name = next(filter(None, (name_in(other, qualname, function) for other in others)), None)
    return name


MAIN = frozenset({"__main__", "__mp_main__"})


def name_in(module_name: str, qualname: str, function: Any) -> tuple[str, str, int, str | None] | None:
    """The same, of anything that is known under a name of a module."""
    if module_name in MAIN:
        return None
    module = sys.modules.get(module_name)
    spec = getattr(module, "__spec__", None)
    if spec is None or is_unfinished(module_name) or is_registered(module_name):
        return None
    try:
        found: Any = attrgetter(qualname)(module)
    except (AttributeError, ImportError):  # the latter by a module that imports what it is asked for
        return None
    for depth in range(8):
        if found is function:
            return module_name, qualname, depth, spec.origin if spec.has_location else None
        found = getattr(found, "__wrapped__", None)
        if found is None:
            return None
    return None


RUN_PATH = "<run_path>"
"""What `runpy.run_path` calls the module of a script that it runs, and removes afterwards."""


_PIPES = "multiprocessing.connection"
"""Where the ends of pipes are from, which pickle sends as numbers: in another process they mean something else."""

_RUN_PATH, _ENDS_OF_PIPES = RUN_PATH.encode(), _PIPES.encode()


def is_only_here(thing: Any) -> bool:
    """Whether it is a module that nobody can import, made by the program, or a function or class that is in one."""
    name = getattr(thing, "__name__" if type(thing) is ModuleType else "__module__", None)
    if type(name) is not str or name in MAIN | {"builtins"}:
        return False
    if is_unfinished(name):
        return True
    module, package = sys.modules.get(name), sys.modules.get(name.partition(".")[0])
    return (
        type(module) is ModuleType
        and getattr(module, "__spec__", None) is None
        and (name == RUN_PATH or not getattr(module, "__file__", None))
        and getattr(package, "__spec__", None) is None
    )


def is_unfinished(module_name: str | None) -> bool:
    """Whether the import of a module, or of a package that it is in, was under way when something of it was to travel.

    A worker that imported it would do all over again what the program does there, this call included. It stays so for
    good: or functions that have travelled would not know the classes of what is sent to them later.
    """
    if not _named and module_name and module_name not in _unfinished and is_importing(module_name):
        _unfinished.add(module_name)
    return module_name in _unfinished


def is_importing(module_name: str) -> bool:
    """Whether that is under way: who looks for something there waits for an import, which may wait for who looks."""
    while _importing and module_name:
        if getattr(getattr(sys.modules.get(module_name), "__spec__", None), "_initializing", False):
            return True
        module_name = module_name.rpartition(".")[0]
    return False


def or_by_name(pack: Callable[..., _T], *args: Any) -> _T:
    """Pack something; if what is unfinished can't travel by value, all of that goes by name from now on."""
    try:
        return pack(*args)
    except pickle.PicklingError:
        if not _unfinished:
            raise
    only_by_name()
    return pack(*args)


def only_by_name() -> None:
    """From now on, what is unfinished goes by name."""
    _named.append(True)
    _unfinished.clear()


_T = TypeVar("_T")
_unfinished: set[str] = set()
_named: list[bool] = []
_importing: dict[str, Any] = getattr(_frozen_importlib, "_module_locks", {})  # by name: there are few at a time, if any

guests: WeakSet[type] = WeakSet()
"""Classes that came here by value, though not of the main module: it may be that they can be imported."""


def careful_pickler() -> type[pickle.Pickler] | None:
    """What pickles instead of pickle's own, which imports the module of each class that it meets, where it must not."""
    return _Careful if _importing or _unfinished or guests else None


class _Careful(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, (type, FunctionType)):
            return NotImplemented
        if obj in guests or is_unfinished(obj.__module__):
            raise pickle.PicklingError(f"{obj!r} goes by value")
        name = name_of(obj) if is_importing(obj.__module__) else None
        return NotImplemented if name is None else (by_name, name)


def explain(error: BaseException) -> BaseException:
    """Say what to do where a function, or an argument, needs a module that workers can't import."""
    if isinstance(error, ModuleNotFoundError):
        error.add_note(
            f"parmap: a worker can't import the module {error.name!r}. Where it is on no path that workers have, let "
            "its functions and classes travel by value: cloudpickle.register_pickle_by_value(module); to a "
            f"cluster it can be sent: parmap.backends.Dask(ship=[{error.name!r}]), or Ray(…)"
        )
    return error


def registered() -> frozenset[str] | set[str]:
    """The modules whose functions and classes travel by value because the user said so."""
    # Another thread may be importing it just now: then nobody has said anything yet.
    told = getattr(sys.modules.get("cloudpickle"), "list_registry_pickle_by_value", None)
    return frozenset() if told is None else told()


def by_value_modules() -> frozenset[str] | set[str]:
    """The modules whose functions and classes travel by value, whatever the reason."""
    return registered() | _unfinished if _unfinished else registered()


def is_registered(module_name: str) -> bool:
    """Whether the functions and classes of a module travel by value because the user said so."""
    registry = registered()
    return bool(registry) and any(module_name == name or module_name.startswith(name + ".") for name in registry)


def by_name(module_name: str, qualname: str, depth: int, origin: str | None) -> Any:
    """Find the function that `name_of` described."""
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError:
        # Test runners and plug-in loaders import files that are on no path: load the same file under the same name.
        if origin is None or not os.path.exists(origin):
            raise
        from importlib import util

        spec = util.spec_from_file_location(module_name, origin)
        if spec is None or spec.loader is None:
            raise
        found = util.module_from_spec(spec)
        sys.modules[module_name] = found
        try:
            spec.loader.exec_module(found)
        except BaseException:
            del sys.modules[module_name]
            raise
    found = attrgetter(qualname)(found)
    for _ in range(depth):
        found = found.__wrapped__
    return found


def names_stranger(stream: bytes, start: int = 0) -> bool:
    """Whether a pickle stream may name something that a worker doesn't have; looks at what comes after *start* bytes.

    A user's string may hold such a name too: then cloudpickle is asked for nothing, which costs time only.
    """
    # __mp_main__ too: a process that multiprocessing has spawned calls its script so.
    if stream.rfind(b"_main__", start) >= 0:  # from the right it takes a fifth of the time
        return True
    if RUN_PATH in sys.modules and stream.rfind(_RUN_PATH, start) >= 0:
        return True
    if _PIPES in sys.modules and stream.rfind(_ENDS_OF_PIPES, start) >= 0:
        return True
    names = by_value_modules()
    return bool(names) and any(stream.rfind(name.encode(), start) >= 0 for name in names)


def is_stranger(function: Any) -> bool:
    """Whether a function can only travel by value, though pickle may find it by its name."""
    for each in (function, getattr(function, "__func__", None), getattr(function, "func", None)):
        if isinstance(each, (FunctionType, type)) and (name_of(each) is None or is_only_here(each)):
            return True
    return False
