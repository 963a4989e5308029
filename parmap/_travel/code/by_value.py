"""Functions and classes by value, where only this process has them: cloudpickle, and what it is taught here.

Those that workers can import go `by_name`. cloudpickle does not know: the function under a decorator, a function under
`functools.lru_cache`, a class with `__slots__`, and that a class which comes home is left as it is.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import CellType, CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, cast
from weakref import WeakKeyDictionary

from parmap._travel.code.by_name import (
    by_name,
    identity,
    is_function,
    is_importing,
    is_only_here,
    name_in,
    name_of,
    only_by_name,
)
from parmap._travel.code.classes import Classes, at_home, came_by_value, chosen, class_reduced, tracker_of
from parmap._travel.code.functions import (
    Made,
    begin_main,
    fill_cell,
    fill_function,
    initialized,
    make_cell,
    make_code,
    make_function,
)
from parmap._travel.code.needs.variables import EMPTY, captured_by, codes_in, globals_of
from parmap._travel.code.special.lazy import annotations_of, find_submodule, hints_of, is_found_by, submodules_left
from parmap._travel.code.special.remade import remake, remake_fresh
from parmap._travel.code.special.shared import shared_reduced
from parmap._travel.stream import PROTOCOL
from parmap._travel.text import innermost

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


MADE_BY_CODE = 1 << 9
"""`Py_TPFLAGS_HEAPTYPE`: types without it, such as `int`, are made of C, and live as long as the process."""

_LRU_CACHE = type(functools.lru_cache(len))


def cloud_pickler(
    file: SupportsWrite[bytes],
    keep: Callable[[pickle.PickleBuffer], Any] | None = None,
    *,
    classes: Classes | None = None,
    fresh: bool = False,
    apart: dict[int, int] | None = None,
    place: Callable[[Any], int | None] | None = None,
) -> pickle.Pickler:
    """A pickler of cloudpickle's, with what it is taught here.

    Args:
        file: where the stream goes.
        keep: its `buffer_callback`.
        classes: other ways for some classes.
        fresh: whether locks come fresh: among what functions and classes refer to.
        apart: objects, by their identities, of which only the number is written.
        place: what is written of a function or class, in a stream that is made to be compared; `None`: all of it.
    """
    pickler: Any = _pickler_class()(file, PROTOCOL, buffer_callback=keep)
    pickler.classes, pickler.fresh, pickler.place, pickler.shells = classes, fresh, place, {}
    if apart:
        pickler.persistent_id = lambda thing: apart.get(id(thing))  # which takes time: it is asked for every object
    made: pickle.Pickler = pickler
    return made


def cloud_dumps(item: Any, classes: Classes | None = None, *, fresh: bool = True) -> bytes:
    """The stream of a class, or of what a function refers to; or, if locks don't come *fresh*, of any object."""
    with io.BytesIO() as file:
        cloud_pickler(file, classes=classes, fresh=fresh).dump(item)
        return file.getvalue()


@functools.cache
def _pickler_class() -> Any:
    """The class, made on first use: importing cloudpickle takes longer than starting a worker."""
    import cloudpickle

    script = sys.modules.get("__mp_main__")
    if script is not None and script.__name__ != "__main__":  # which is all that cloudpickle knows workers don't have
        cloudpickle.register_pickle_by_value(script)

    table = cast("Any", cloudpickle.Pickler.dispatch_table)
    reducers = _Reducers(table.maps[0])  # the other one is `copyreg`'s
    reducers[CodeType] = functools.partial(_code_reduced, table[CodeType])
    reducers[ModuleType] = functools.partial(_module_reduced, table[ModuleType])

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table: ClassVar[Any] = reducers

        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is FunctionType and obj.__module__ in _MAKERS:
                return NotImplemented
            reduced = _cell_reduced(self, obj) if type(obj) is CellType else _reduced_otherwise(self, obj)
            if reduced is not None:
                return reduced
            reduced = super().reducer_override(obj)
            is_made = type(reduced) is tuple and len(reduced) == _WITH_SETTER
            return class_reduced(obj, reduced) if is_made and isinstance(obj, type) else reduced

        _dynamic_function_reduce: Any = _function_reduced

    return Pickler


# Of what makes functions there are some in each stream, which go by name.
_MAKERS = frozenset({identity.__module__, make_function.__module__})


class _Reducers(dict[type, Any]):
    """Reducers, and those that programs register: C asks for each object, and this takes a fifth of a `ChainMap`."""

    def __missing__(self, kind: type) -> Any:
        return copyreg.dispatch_table[kind]


def _reduced_otherwise(pickler: Any, thing: Any) -> Any:
    """What cloudpickle would not make of a thing; `None` if it may."""
    kind = type(thing)
    if pickler.place is not None and (kind is FunctionType or issubclass(kind, type)) and thing is not identity:
        place = pickler.place(thing)
        if place is not None:
            return identity, (place,)
    if pickler.classes is not None and issubclass(kind, type):
        reference = pickler.classes(thing)
        if reference is not None:
            return reference
    if is_function(thing) or kind is _LRU_CACHE or issubclass(kind, type):
        name = name_of(thing)
        if name is not None:
            is_plain = name[2] == 0 and name[0] == thing.__module__ and thing.__class__ is kind
            is_plain = is_plain and kind.__module__ != "nanobind" and not is_importing(name[0])
            return NotImplemented if is_plain else (by_name, name)
        if kind is _LRU_CACHE:  # which pickle only knows by name
            function = thing.__wrapped__  # whose attributes it gets when it is made, but for its own
            own = {name: each for name, each in vars(thing).items() if getattr(function, name, thing) is not each}
            del own["__wrapped__"]
            return _cached, (function, thing.cache_parameters()), own or None
    remade = (pickler.fresh and (remake_fresh(thing) or shared_reduced(thing))) or remake(thing)
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
        return class_reduced(thing, cloudpickle._dynamic_class_reduce(thing))  # noqa: SLF001 - no public way
    return _function_reduced(pickler, thing)


def _function_reduced(pickler: Any, function: FunctionType) -> tuple[Any, ...]:
    """How a function by value travels: as cloudpickle has it, with what that does not see."""
    *args, cells = pickler._function_getnewargs(function)  # noqa: SLF001 - the globals that functions share
    if cells:  # cloudpickle would give each function cells of its own: what one sets, no other would see
        cells = tuple([_shell(pickler, cell) for cell in function.__closure__ or ()])
    attributes = {"".join(name): value for name, value in vars(function).items()}
    return make_function, (*args, cells), (attributes, _state_of(function)), None, None, fill_function


def _state_of(function: FunctionType) -> dict[str, Any]:
    from cloudpickle import cloudpickle

    state = {name: getattr(function, name) for name in _OF_FUNCTION}
    # Copies, as cloudpickle makes of them: whether two objects share a name must not change the bytes.
    state |= {name: "".join(getattr(function, name)) for name in ("__name__", "__qualname__")}
    state["__annotations__"] = annotations_of(function)
    if parameters := getattr(function, "__type_params__", ()):
        state["__type_params__"] = parameters
    every = function.__globals__
    variables = hints_of(function) | {name: every[name] for name in globals_of(function.__code__) if name in every}
    # It imports what `package.module` needs, in the code in the code as well.
    names = {name for code in codes_in(function.__code__) for name in code.co_names}
    packages = [*variables.values(), *captured_by(function).values()]
    submodules = cloudpickle._find_imported_submodules(SimpleNamespace(co_names=names), packages)  # noqa: SLF001
    state["_cloudpickle_submodules"] = [
        *submodules,
        *[Made(find_submodule, name) for name in submodules_left(names)],
    ]
    for name, value in variables.items():
        # The wrapper that a library puts around a function must use the lock, or the context, that the library uses.
        if remake_fresh(value) is not None and (known := name_in(str(every.get("__name__")), name, value)) is not None:
            variables[name] = Made(by_name, *known)
    state["__globals__"] = variables
    return state


_OF_FUNCTION = ("__kwdefaults__", "__defaults__", "__module__", "__doc__", "__closure__")


def _shell(pickler: Any, cell: CellType) -> Made:
    """The cell of a captured variable, which functions are made with before it has a value: that may refer to them."""
    shell: Made = pickler.shells.setdefault(id(cell), Made(make_cell, of=cell))
    return shell


def _cell_reduced(pickler: Any, cell: CellType) -> tuple[Any, ...]:
    filled = () if cell == EMPTY else ((cell.cell_contents,), None, None, fill_cell)
    return identity, (_shell(pickler, cell),), *filled


_OF_MODULES = frozenset({FunctionType, ModuleType})
_WITH_SETTER = 6  # parts of what a reducer returns, if the last says how to set the state: a class or function by value


def _code_reduced(reduced: Callable[[CodeType], Any], code: CodeType) -> tuple[Any, ...]:
    """How code travels: as cloudpickle has it, but with the name of its file, which some of its releases leave out."""
    _, args = reduced(code)
    # A copy, as cloudpickle makes of other names: whether two objects share one must not change the bytes.
    return make_code, (*args[:_FILE], "".join(code.co_filename), *args[_FILE + 1 :])


_FILE = 10  # the place of the file among the arguments of `CodeType`


def _module_reduced(reduced: Callable[[ModuleType], Any], module: ModuleType) -> Any:
    make, args = reduced(module)
    return (import_module, args) if len(args) == 1 else (make, args)  # else all that is in it comes along


def _cached(function: Any, parameters: dict[str, Any]) -> Any:
    """A function under `functools.lru_cache`, with an empty cache."""
    return functools.lru_cache(**parameters)(function)


def is_by_value(thing: Any) -> bool:
    """Whether `cloud_pickler` sends a function, a class or a module with all that is in it."""
    from cloudpickle import cloudpickle

    is_class, names = isinstance(thing, type), cloudpickle._BUILTIN_TYPE_NAMES  # noqa: SLF001 - no public way
    if is_class and (not thing.__flags__ & MADE_BY_CODE or thing in names):
        return False
    if (is_class or isinstance(thing, FunctionType)) and name_of(thing) is not None:
        return False
    return is_only_here(thing) or not cloudpickle._should_pickle_by_reference(thing)  # noqa: SLF001 - no public way


# --- classes that go home ---------------------------------------------------------------------------

_homeward: WeakKeyDictionary[type, bytes] | None = None  # in a worker: the streams of classes that came by value


def go_home() -> None:
    """From now on, whatever is sent from here goes home: this is a worker."""
    global _homeward  # noqa: PLW0603 - said once, when the worker begins
    _homeward = WeakKeyDictionary()
    only_by_name()
    begin_main()


def goes_home() -> bool:
    """Whether this is a worker."""
    return _homeward is not None


def home_class(cls: type) -> tuple[Any, ...] | None:
    """How a class goes back to where it came from, as a reducer; `None` if it is no such class."""
    if _homeward is None or not came_by_value(cls):
        return None
    stream = _homeward.get(cls)
    if stream is None:
        try:
            stream = cloud_dumps(cls)
        except Exception:  # noqa: BLE001 - a task has put something into it; it is at home nevertheless
            stream = b""
        _homeward[cls] = stream
    return at_home, (tracker_of(cls), stream)


# --- what an initializer has set for functions by value ----------------------------------------------


def initialize(function: Callable[..., object], args: tuple[Any, ...]) -> None:
    """Call the initializer of a worker; keep what it sets if it came by value.

    That is globals, and attributes of the functions and classes among these.
    """
    plain = innermost(function)
    owner = getattr(plain, "__self__", None)
    plain = getattr(plain, "__func__", plain)
    module = getattr(plain, "__module__", None)
    variables = getattr(plain, "__globals__", {})
    if variables is getattr(sys.modules.get(str(module)), "__dict__", None):  # by name: tasks have the same globals
        function(*args)
        return
    places: dict[Any, Mapping[str, Any]] = {(str(module), ""): variables}
    for thing in (owner, *variables.values()):
        if type(thing) is FunctionType and thing.__module__ == module:
            places[str(module), thing.__qualname__] = vars(thing)
        elif isinstance(thing, type) and came_by_value(thing):
            places[thing] = vars(thing)
    before = {place: _contents(each) for place, each in places.items()}
    function(*args)
    for place, each in places.items():
        kept: Any = chosen if isinstance(place, type) else initialized
        kept[place] = _changes(before[place], each)


def _contents(variables: Mapping[str, Any]) -> dict[str, tuple[Any, bytes | None]]:
    return {name: (value, _content(value)) for name, value in variables.items() if not name.startswith("__")}


def _changes(before: dict[str, tuple[Any, bytes | None]], variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that were set, or changed in place, since."""
    return {
        name: value
        for name, value in variables.items()
        if not name.startswith("__") and (name not in before or _is_changed(*before[name], value))
    }


def _is_changed(before: Any, content: bytes | None, value: Any) -> bool:
    return content != _content(value) if before is value else not is_found_by(before, value)


def _content(value: Any) -> bytes | None:
    """Something that tells whether a value was changed in place; `None` if there is nothing that could."""
    if isinstance(value, (FunctionType, type, ModuleType)):
        return None
    try:
        with io.BytesIO() as file:
            cloud_pickler(file, fresh=True, place=id).dump(value)
            return file.getvalue()
    except Exception:  # noqa: BLE001 - the initializer has made it; or what is in it, pickle does not know
        return None
