"""How functions and classes travel: by name where workers can import them, by value where only this process has them.

cloudpickle does the latter. It is taught here what it does not know: the function under a decorator, a function under
`functools.lru_cache`, a class with `__slots__`, and that a class which comes home is left as it is.
"""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import sys
from collections import ChainMap
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, cast
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import SupportsWrite

PROTOCOL = 5

_LRU_CACHE = type(functools.lru_cache(len))

_pickler_class: type[Any] | None = None


def names_stranger(stream: bytes, start: int = 0) -> bool:
    """Whether a pickle stream may name something that a worker doesn't have; looks at what comes after *start* bytes.

    A user's string may hold such a name too: then cloudpickle is asked for nothing, which costs time only.
    """
    names = [b"_main__"]  # __mp_main__ too: a process that multiprocessing has spawned calls its script so
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is not None:
        names += [name.encode() for name in cloudpickle.list_registry_pickle_by_value()]
    return any(stream.rfind(name, start) >= 0 for name in names)  # from the right it takes a fifth of the time


def plain_pickler(
    file: SupportsWrite[bytes], keep: Callable[[pickle.PickleBuffer], Any] | None = None
) -> pickle.Pickler:
    """A pickler of the standard library's; *keep* is its `buffer_callback`."""
    return pickle.Pickler(file, PROTOCOL, buffer_callback=keep)


def cloud_pickler(
    file: SupportsWrite[bytes], keep: Callable[[pickle.PickleBuffer], Any] | None = None
) -> pickle.Pickler:
    """A pickler of cloudpickle's, with what it is taught here."""
    pickler: pickle.Pickler = _pickler()(file, PROTOCOL, buffer_callback=keep)
    return pickler


def cloud_dumps(item: Any) -> bytes:
    """The stream of an object that cloudpickle can pickle."""
    with io.BytesIO() as file:
        cloud_pickler(file).dump(item)
        return file.getvalue()


def _pickler() -> type[Any]:
    """The class, made on first use: importing cloudpickle takes longer than starting a worker."""
    global _pickler_class  # noqa: PLW0603 - a lazily made class
    if _pickler_class is None:
        import cloudpickle

        script = sys.modules.get("__mp_main__")
        if script is not None:  # cloudpickle knows that workers have no __main__, but not by this name
            cloudpickle.register_pickle_by_value(script)

        table = cast("Any", cloudpickle.Pickler.dispatch_table)
        code_reduced = functools.partial(_code_reduced, table[CodeType])

        class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
            dispatch_table: ClassVar[Any] = ChainMap({CodeType: code_reduced}, table)

            def reducer_override(self, obj: Any) -> Any:
                if type(obj) in (FunctionType, _LRU_CACHE):
                    name = name_of(obj)
                    if name is not None and name[2]:
                        return by_name, name
                    if name is None and type(obj) is _LRU_CACHE:  # which pickle only knows by name
                        return _cached, (obj.__wrapped__, obj.cache_parameters())
                reduced = super().reducer_override(obj)
                if type(reduced) is tuple and len(reduced) == _WITH_SETTER:
                    if isinstance(obj, type):
                        return _class_reduced(obj, reduced)
                    make, args, state, _, _, fill = reduced
                    return make, args, (fill, state), None, None, _fill_function
                return reduced

        _pickler_class = Pickler
    return _pickler_class


_WITH_SETTER = 6  # parts of what a reducer returns, if the last says how to set the state: a class or function by value


def _code_reduced(reduced: Callable[[CodeType], Any], code: CodeType) -> tuple[Any, ...]:
    """How code travels: as cloudpickle has it, but with the name of its file, which some of its releases leave out."""
    make, args = reduced(code)
    # A copy, as cloudpickle makes of other names: whether two objects share one must not change the bytes.
    return make, (*args[:_FILE], "".join(code.co_filename), *args[_FILE + 1 :])


_FILE = 10  # the place of the file among the arguments of `CodeType`


def _cached(function: Any, parameters: dict[str, Any]) -> Any:
    """A function under `functools.lru_cache`, with an empty cache."""
    return functools.lru_cache(**parameters)(function)


# --- classes by value -----------------------------------------------------------------------------

_residents: WeakSet[type] = WeakSet()  # classes made in this process that have travelled by value
_guests: WeakSet[type] = WeakSet()  # classes that came here by value


def came_by_value(cls: type) -> bool:
    """Whether a class came here by value: then whoever sent it has it, and won't look at how it is here."""
    return cls in _guests


def _class_reduced(cls: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Change how cloudpickle sends a class: `(make, arguments, state, None, None, fill)`."""
    make, args, state, _, _, fill = reduced
    if cls not in _guests:
        _residents.add(cls)
    slots = vars(cls).get("__slots__")
    # cloudpickle makes the class without its slots; its instances would then come back with a state that does not fit.
    # (A tuple has no room for slots, and NamedTuple refuses even none.)
    if isinstance(slots, (str, tuple, list, dict)) and isinstance(args[3], dict) and not issubclass(cls, tuple):
        args[3].setdefault("__slots__", slots)
    return _find_or_make, (make, args), (fill, state), None, None, _fill


def _find_or_make(make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """The class that is known here under the name cloudpickle gave it, or a new one, still empty.

    cloudpickle would make a new one always, then drop it: each result would run `__init_subclass__` of its bases.
    """
    from cloudpickle import cloudpickle

    known: type | None = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])  # noqa: SLF001 - no public way
    return make(*args) if known is None else known


def _fill(cls: type, state: tuple[Callable[[type, Any], object], Any]) -> None:
    """Give a class that came by value its attributes, unless this is where it was made.

    cloudpickle would set each of them anew: a result that comes home would undo what the user did to the class since,
    and cut its methods off the globals of their module.
    """
    if cls not in _residents:
        _guests.add(cls)
        fill, attributes = state
        fill(cls, attributes)


# --- functions by value, and what an initializer has set for them ----------------------------------

_initialized: dict[str, dict[str, Any]] = {}  # by module: globals that the initializer of this worker has set


def _fill_function(function: FunctionType, state: tuple[Callable[[FunctionType, Any], object], Any]) -> None:
    """Give a function that came by value its globals: those that it was sent with, but for what belongs to the worker.

    Each function brings globals of its own, as they are when it is called. What the initializer has set for its module,
    the caller does not have: these stay.
    """
    fill, attributes = state
    fill(function, attributes)
    if _initialized:
        function.__globals__.update(_initialized.get(function.__module__, {}))


def initialize(function: Callable[..., object], args: tuple[Any, ...]) -> None:
    """Call the initializer of a worker, and keep the globals that it sets if it came by value."""
    plain: Any = function
    while isinstance(plain, functools.partial):
        plain = plain.func
    plain = getattr(plain, "__func__", plain)
    module = getattr(plain, "__module__", None)
    variables = getattr(plain, "__globals__", {})
    if variables is getattr(sys.modules.get(str(module)), "__dict__", None):  # by name: tasks have the same globals
        function(*args)
        return
    before = {name: (value, _content(value)) for name, value in variables.items() if not name.startswith("__")}
    function(*args)
    _initialized[str(module)] = {
        name: value
        for name, value in variables.items()
        if not name.startswith("__")
        and (name not in before or before[name][0] is not value or before[name][1] != _content(value))
    }


def _content(value: Any) -> bytes | None:
    """Something that tells whether a value was changed in place; `None` if there is nothing that could."""
    if isinstance(value, (FunctionType, type, ModuleType)):
        return None
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001 - it was sent by value: what is in it, pickle does not know
        return None


# --- functions by name ----------------------------------------------------------------------------


def reference(function: Any) -> tuple[Callable[..., Any], tuple[Any, ...], bool]:
    """How a function travels: what to call in the worker, with which arguments, and whether that goes by name.

    What goes by name never needs to be pickled again: nothing it captures can change under the name.
    """
    if type(function) in (FunctionType, BuiltinFunctionType) or isinstance(function, type):
        name = name_of(function)
        if name is not None:
            return by_name, name, True
    return _identity, (function,), False


def _identity(function: Any) -> Any:
    return function


def name_of(function: Any) -> tuple[str, str, int, str | None] | None:
    """How a worker can find *function* by importing: module, qualified name, decorators above it, file.

    `None` where it can't: a lambda, a nested function, anything in `__main__`, a module that exists only here.
    """
    module_name = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", None)
    if not module_name or not qualname or module_name in {"__main__", "__mp_main__"} or "<" in qualname:
        return None
    module = sys.modules.get(module_name)
    spec = getattr(module, "__spec__", None)
    if spec is None or _is_by_value(module_name):
        return None
    found: Any = module
    try:
        for part in qualname.split("."):
            found = getattr(found, part)
    except AttributeError:
        return None
    for depth in range(8):
        if found is function:
            return module_name, qualname, depth, spec.origin if spec.has_location else None
        found = getattr(found, "__wrapped__", None)
        if found is None:
            return None
    return None


def _is_by_value(module_name: str) -> bool:
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is None:
        return False
    registry = cloudpickle.list_registry_pickle_by_value()
    return any(module_name == name or module_name.startswith(name + ".") for name in registry)


def by_name(module_name: str, qualname: str, depth: int, origin: str | None) -> Any:
    """Find the function that `name_of` described."""
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError:
        # Test runners and plug-in loaders import files that are on no path: load the same file under the same name.
        if origin is None:
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
    for part in qualname.split("."):
        found = getattr(found, part)
    for _ in range(depth):
        found = found.__wrapped__
    return found
