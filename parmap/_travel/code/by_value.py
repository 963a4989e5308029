"""How functions and classes travel: by name where workers can import them, by value where only this process has them.

cloudpickle does the latter. It is taught here what it does not know: the function under a decorator, a function under
`functools.lru_cache`, a class with `__slots__`, and that a class which comes home is left as it is.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
from collections import ChainMap
from types import CodeType, FunctionType, ModuleType
from typing import IO, TYPE_CHECKING, Any, ClassVar, cast

from parmap._travel.code.by_name import by_name, identity, is_only_here, name_of
from parmap._travel.code.classes import class_reduced, home_classes
from parmap._travel.code.remade import remake, remake_fresh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed import SupportsWrite

    from parmap._travel.code.classes import Classes

PROTOCOL = 5

_LRU_CACHE = type(functools.lru_cache(len))

_pickler_class: type[Any] | None = None


def plain_pickler(
    file: SupportsWrite[bytes], keep: Callable[[pickle.PickleBuffer], Any] | None = None
) -> pickle.Pickler:
    """A pickler of the standard library's; *keep* is its `buffer_callback`."""
    return pickle.Pickler(file, PROTOCOL, buffer_callback=keep)


def cloud_pickler(
    file: SupportsWrite[bytes],
    keep: Callable[[pickle.PickleBuffer], Any] | None = None,
    classes: Classes | None = None,
) -> pickle.Pickler:
    """A pickler of cloudpickle's, with what it is taught here; *classes* knows other ways for some classes."""
    pickler: pickle.Pickler = _pickler()(file, PROTOCOL, buffer_callback=keep)
    pickler.classes = classes or home_classes.reduce  # type: ignore[attr-defined]
    return pickler


def function_pickler(
    file: SupportsWrite[bytes],
    keep: Callable[[pickle.PickleBuffer], Any] | None = None,
    apart: dict[int, int] | None = None,
) -> pickle.Pickler:
    """The same for functions and classes, in which locks come fresh.

    Of the objects whose identities are in *apart*, only the number is written.
    """
    kind = _fresh_class(_pickler())
    pickler: pickle.Pickler = (_apart_class(kind) if apart else kind)(file, PROTOCOL, buffer_callback=keep)
    if apart:
        pickler.apart = apart  # type: ignore[attr-defined]
    return pickler


def lean_pickler(
    file: SupportsWrite[bytes],
    keep: Callable[[pickle.PickleBuffer], Any],
    place: Callable[[Any], int | None],
    apart: dict[int, int],
) -> pickle.Pickler:
    """The same for comparing: of functions and classes, only what *place* says is written, if it says something."""
    kind = _lean_class(_fresh_class(_pickler()))
    kind = _apart_class(kind) if apart else kind
    pickler: pickle.Pickler = kind(file, PROTOCOL, buffer_callback=keep)
    pickler.place = place  # type: ignore[attr-defined]
    pickler.apart = apart  # type: ignore[attr-defined]
    return pickler


@functools.cache
def _fresh_class(base: Any) -> Any:
    class FreshPickler(base):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            return remake_fresh(obj) or super().reducer_override(obj)

    return FreshPickler


@functools.cache
def _lean_class(base: Any) -> Any:
    class LeanPickler(base):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if (type(obj) is FunctionType or issubclass(type(obj), type)) and obj is not identity:
                place = self.place(obj)
                if place is not None:
                    return identity, (place,)
            return super().reducer_override(obj)

    return LeanPickler


@functools.cache
def _apart_class(base: Any) -> Any:
    """A pickler class that asks about every object, which takes time."""

    class ApartPickler(base):  # type: ignore[misc]
        def persistent_id(self, obj: Any) -> int | None:
            found: int | None = self.apart.get(id(obj))
            return found

    return ApartPickler


class FunctionUnpickler(pickle.Unpickler):
    """Reads what `function_pickler` has written."""

    def __init__(self, file: IO[bytes], buffers: Iterable[Any], apart: Callable[[int], Any]) -> None:
        super().__init__(file, buffers=buffers)
        self._apart = apart
        self._found: dict[int, Any] = {}

    def persistent_load(self, number: int) -> Any:
        """The object with that number, of which there is one."""
        if number not in self._found:
            self._found[number] = self._apart(number)
        return self._found[number]


def cloud_dumps(item: Any) -> bytes:
    """The stream of a class, or of what a function refers to."""
    with io.BytesIO() as file:
        function_pickler(file).dump(item)
        return file.getvalue()


def _pickler() -> Any:
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
            classes: Classes | None = None

            def reducer_override(self, obj: Any) -> Any:
                reduced = _reduced_otherwise(self, obj)
                return _reduced(obj, super().reducer_override(obj)) if reduced is None else reduced

        _pickler_class = Pickler
    return _pickler_class


def _reduced_otherwise(pickler: Any, thing: Any) -> Any:
    """What cloudpickle would not make of a thing; `None` if it may."""
    kind = type(thing)
    if pickler.classes is not None and issubclass(kind, type):
        reference = pickler.classes(thing)
        if reference is not None:
            return reference
    if kind is FunctionType or kind is _LRU_CACHE:
        name = name_of(thing)
        if name is not None:
            return (by_name, name) if name[2] else NotImplemented
        if kind is _LRU_CACHE:  # which pickle only knows by name
            return _cached, (thing.__wrapped__, thing.cache_parameters())
    remade = remake(thing)
    if remade is None and (kind in _OF_MODULES or isinstance(thing, type)) and is_only_here(thing):
        return _reduced_by_value(pickler, thing)
    return remade


def _reduced_by_value(pickler: Any, thing: Any) -> Any:
    """What cloudpickle would send by a name that only this process knows."""
    from cloudpickle import cloudpickle

    # As cloudpickle has modules that it does not find, and functions and classes of `__main__`.
    if type(thing) is ModuleType:
        variables = {name: value for name, value in vars(thing).items() if name != "__builtins__"}
        return cloudpickle.dynamic_subimport, (thing.__name__, variables)
    if isinstance(thing, type):
        return _reduced(thing, cloudpickle._dynamic_class_reduce(thing))  # noqa: SLF001 - no public way
    return _reduced(thing, pickler._dynamic_function_reduce(thing))  # noqa: SLF001


def _reduced(thing: Any, reduced: Any) -> Any:
    """The same, with setters of ours: *reduced* is what cloudpickle made of a thing."""
    if type(reduced) is not tuple or len(reduced) != _WITH_SETTER:
        return reduced
    if isinstance(thing, type):
        return class_reduced(thing, reduced)
    make, args, state, _, _, fill = reduced
    return make, args, (fill, state), None, None, _fill_function


_OF_MODULES = frozenset({FunctionType, ModuleType})
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


def is_by_value(thing: Any) -> bool:
    """Whether `cloud_pickler` sends a function, a class or a module with all that is in it."""
    from cloudpickle import cloudpickle

    if isinstance(thing, type) and (thing.__module__ == "builtins" or thing in cloudpickle._BUILTIN_TYPE_NAMES):  # noqa: SLF001
        return False
    if type(thing) is FunctionType and name_of(thing) is not None:
        return False
    return is_only_here(thing) or not cloudpickle._should_pickle_by_reference(thing)  # noqa: SLF001 - no public way


def globals_of(code: CodeType) -> tuple[str, ...]:
    """The globals that a code, and the code in it, names."""
    from cloudpickle import cloudpickle

    return tuple(cloudpickle._extract_code_globals(code))  # noqa: SLF001 - what it sends, and no other


class _Reduced:
    def __init__(self, reduced: tuple[Any, ...]) -> None:
        self._reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


def class_dumps(cls: type, classes: Classes | None) -> bytes:
    """The stream of a class that travels by value, or as *classes* say."""
    reduced = (classes or home_classes.reduce or (lambda _: None))(cls)
    return cloud_dumps(cls) if reduced is None else pickle.dumps(_Reduced(reduced), PROTOCOL)


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
