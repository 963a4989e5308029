"""What a function needs besides its arguments, as far as its code tells: globals, captured variables, and modules.

And what it reads of modules of the program's own that workers, which import them, will not find as it is here.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

from parmap._travel.code.by_name import MAIN, is_registered, name_of
from parmap._travel.code.late import LAZY_IMPORT, annotations_of, module_of, names_in_hints
from parmap._travel.text import wrapped_by

_MOST = 200  # functions and classes that are looked through
_PYTHON = os.path.dirname(os.__file__) + os.sep


def globals_of(code: CodeType) -> tuple[str, ...]:
    """The globals that a code, and the code in it, names, in queries too: behind an @ (pandas), as tables (DuckDB)."""
    found = _globals.get(code)  # functions that are made again and again, as lambdas in a loop, share theirs
    if found is None:
        found = _globals[code] = _find_globals(code)
    return found


_globals: WeakKeyDictionary[CodeType, tuple[str, ...]] = WeakKeyDictionary()


def _find_globals(code: CodeType) -> tuple[str, ...]:
    from cloudpickle import cloudpickle

    texts = "\n".join([text for part in codes_in(code) for text in _texts_in(part)])
    named = re.findall(r"@(\w+)", texts)
    if re.search(r"(?i)\bselect\b", texts):
        named += re.findall(r"(?i)\b(?:from|join)\s+(\w+)", texts)
    return tuple(dict.fromkeys([*cloudpickle._extract_code_globals(code), *named]))  # noqa: SLF001 - what it sends


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """A code, and the code in it."""
    yield code
    for each in code.co_consts:
        if type(each) is CodeType:
            yield from codes_in(each)


def _texts_in(code: CodeType) -> Iterator[str]:
    """The strings of a code, without its docstring, whose words mean nothing."""
    is_told = code.co_flags & 0x4000000 if sys.version_info >= (3, 14) else not code.co_name.startswith("<")
    yield from [each for each in code.co_consts[bool(is_told) :] if type(each) is str]


def variables_of(function: FunctionType) -> Iterator[tuple[str, str, Any]]:
    """What a function by value reads besides its arguments: of which kind it is, its name and its value."""
    code = function.__code__
    for name in sorted(globals_of(code)):
        if name in function.__globals__:
            yield "global", name, function.__globals__[name]
    for name, value in captured_by(function).items():
        yield "captured variable", name, value
    given = function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(given) : code.co_argcount]
    for name, value in [*zip(names, given, strict=True), *(function.__kwdefaults__ or {}).items()]:
        yield "default of", name, value


def captured_by(function: FunctionType) -> dict[str, Any]:
    """The variables that a function captures, but for those that are not set yet."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    return {name: cell.cell_contents for name, cell in cells if cell != EMPTY}


EMPTY = CellType()


# --- modules, to be imported before workers start --------------------------------------------------


def modules_needed(function: Any) -> set[str]:
    """Modules that *function* names, and that this program imports, of the standard library or of a distribution.

    Never one of the program's own, nor one that is being edited: at its level may stand a generator of random numbers,
    which all workers would share, a socket, a connection.
    """
    found: set[str] = set()
    seen: set[int] = set()
    waiting = [function]
    while waiting and len(seen) < _MOST:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, ModuleType):
            found.add(thing.__name__)
        elif type(thing) is LAZY_IMPORT:
            found.add(module_of(thing))
        elif isinstance(thing, (FunctionType, BuiltinFunctionType, type)) and name_of(thing) is not None:
            found.add(str(thing.__module__))
        elif isinstance(thing, FunctionType):
            waiting += _named_by(thing)
        elif isinstance(thing, type):
            found.add("cloudpickle")  # which unpickles it
            waiting += [*thing.__bases__, *vars(thing).values()]
        else:
            waiting += _inside(thing)
    return {name for name in found if _is_shared(name)}


def _inside(thing: Any) -> list[Any]:
    """What is in a thing, or makes it what it is."""
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, (MethodType, classmethod, staticmethod)):
        return [thing.__func__, type(getattr(thing, "__self__", None))]
    if (inner := wrapped_by(thing)) is not None:
        return [inner]
    return [type(thing)] if type(thing).__module__ not in {"builtins", "types"} else []


def _named_by(function: FunctionType) -> Iterator[Any]:
    # Not by what cloudpickle tells: the template waits for this, and to import that takes longer.
    names = {name for code in codes_in(function.__code__) for name in code.co_names} | {*names_in_hints(function)}
    yield from (sys.modules[name] for name in names & sys.modules.keys())  # that it imports itself, maybe
    yield from (function.__globals__[name] for name in names & function.__globals__.keys())
    yield from [each for each in annotations_of(function).values() if isinstance(each, type)]
    yield from captured_by(function).values()


def is_pure(name: str) -> bool:
    """Whether a module has no threads of its own: it is of the standard library, or cloudpickle."""
    return name == "cloudpickle" or name.partition(".")[0] in sys.stdlib_module_names


def _is_shared(name: str) -> bool:
    if name == "cloudpickle":  # which this program may not have imported yet
        return True
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if name not in sys.modules:  # it is imported lazily
        from importlib.util import find_spec

        spec = find_spec(name.partition(".")[0])  # which imports nothing
    origin = getattr(spec, "origin", None)
    if name in {"builtins", "__main__"} or not isinstance(origin, str):
        return False
    is_of_python = origin in {"built-in", "frozen"} or origin.startswith(_PYTHON)
    return is_of_python or origin.startswith(_homes())


@functools.cache
def _homes() -> tuple[str, ...]:
    """The folders that distributions are installed in; one that is being edited lies elsewhere."""
    import site
    import sysconfig

    paths = sysconfig.get_paths()
    folders = {paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()}
    return tuple(folder + os.sep for folder in folders)


# --- modules of the program's own, which workers import as their files say -------------------------


class Reading:
    """A variable of a module of the program's own, whose text says what it is."""

    __slots__ = "module", "name", "spec", "value"

    def __init__(self, module: str, spec: Any, name: str, value: Any) -> None:
        self.module = module
        self.spec = spec  # of the module; another one: it was imported again
        self.name = name
        self.value = value  # `_DEFINED`: a function

    @property
    def now(self) -> Any:
        """What the variable is here."""
        return vars(sys.modules[self.module]).get(self.name)

    @property
    def is_current(self) -> bool:
        """Whether it is still the module that was looked at."""
        return getattr(sys.modules.get(self.module), "__spec__", None) is self.spec

    @property
    def differs(self) -> bool:
        """Whether the variable was set to something else since the module was imported."""
        now = self.now
        if self.value is not _DEFINED:
            return type(now) is not type(self.value) or now != self.value
        while (inner := wrapped_by(now)) is not None:
            now = inner
        return not isinstance(now, FunctionType) or now.__globals__ is not vars(sys.modules[self.module])

    @property
    def is_certain(self) -> bool:
        """Whether no function of the module sets it, too, as one does that fills a cache when it is first asked."""
        from dis import get_instructions

        code = _code_of(self.module, self.spec)
        parts = [] if code is None else [each for each in codes_in(code) if self.name in each.co_names]
        steps = {each.opname for part in parts for each in get_instructions(part) if each.argval == self.name}
        return code is not None and not steps & {"STORE_GLOBAL", "DELETE_GLOBAL"}


_DEFINED = object()
_readings: WeakKeyDictionary[FunctionType, list[Reading]] = WeakKeyDictionary()
_constants: WeakKeyDictionary[ModuleType, tuple[Any, dict[str, Reading]]] = WeakKeyDictionary()  # with its spec
_FEW = 16  # modules that are looked through: some milliseconds, while workers start


def set_from_outside(function: FunctionType) -> list[Reading]:
    """Variables that *function*, and what it calls, reads of modules of the program's own, and that were set later.

    They are looked for once, as far as functions call each other. Only where there is no doubt: constants and functions
    that a module's code binds but once.
    """
    known = _readings.get(function)
    if known is None or not all(each.is_current for each in known):
        known = _readings[function] = [*_find_readings(function)]
    found = [each for each in known if each.differs]
    if found and not all(each.is_certain for each in found):
        _readings[function] = [each for each in known if each not in found or each.is_certain]
        found = [each for each in found if each in _readings[function]]
    return found


def _find_readings(function: FunctionType) -> Iterator[Reading]:
    seen: set[int] = set()
    told: set[Reading] = set()
    looked: set[ModuleType] = set()
    waiting: list[Any] = [function]
    while waiting and len(seen) < _MOST:
        thing = waiting.pop()
        is_code = issubclass(
            type(thing), (FunctionType, type)
        )  # what else hangs on a class may be a proxy: it isn't asked
        home = str(getattr(thing, "__module__", "")) if is_code else ""
        if id(thing) in seen or (home in sys.modules and _is_others(home)):
            continue
        seen.add(id(thing))
        if isinstance(thing, FunctionType):
            names = {name for code in codes_in(thing.__code__) for name in code.co_names}
            found = [*(thing.__globals__.get(name) for name in names), *captured_by(thing).values()]
            modules: set[ModuleType] = {each for each in found if _is_own(each)}
            if _is_own(sys.modules.get(home)) and name_of(thing) is not None:
                modules.add(sys.modules[home])  # else what it reads of its module travels with it
            for module in modules:
                looked.add(module)
                if len(looked) > _FEW:
                    return
                known = _constants.get(module)
                spec = vars(module).get("__spec__")
                if known is None or known[0] is not spec:
                    known = _constants[module] = spec, {each.name: each for each in _constants_of(module)}
                new = {known[1][name] for name in names & known[1].keys()} - told
                told |= new
                yield from new
                found += [vars(module).get(name) for name in names]
            waiting += [each for each in found if isinstance(each, (FunctionType, type))]
        elif isinstance(thing, type):
            waiting += vars(thing).values()
        else:
            waiting += _inside(thing)


def _is_own(module: Any) -> TypeGuard[ModuleType]:
    name = vars(module).get("__name__") if type(module) is ModuleType else None
    if type(name) is not str or sys.modules.get(name) is not module or name in MAIN or _is_others(name):
        return False
    has_code = hasattr(getattr(vars(module).get("__spec__"), "loader", None), "get_code")
    return has_code and not is_registered(name)


def _is_others(name: str) -> bool:
    return name.partition(".")[0] == "parmap" or _is_shared(name)


def _constants_of(module: ModuleType) -> Iterator[Reading]:
    """What its code, at the outer level, binds but once: to a constant, or to a function without decorators."""
    from dis import get_instructions

    spec: Any = vars(module)["__spec__"]
    code, value = _code_of(module.__name__, spec), _UNKNOWN
    bound: dict[str, Any] = {}
    for each in () if code is None else get_instructions(code):
        if each.is_jump_target:  # what lies on the stack may be from elsewhere
            value = _UNKNOWN
        if each.opname in {"STORE_NAME", "STORE_GLOBAL", "DELETE_NAME"}:
            bound[each.argval] = _UNKNOWN if each.argval in bound else value
        if each.opname in {"MAKE_FUNCTION", "SET_FUNCTION_ATTRIBUTE"}:
            value = _DEFINED
        elif each.opname != "EXTENDED_ARG":
            value = each.argval if each.opname in _LOADS else _UNKNOWN
        if "IMPORT_STAR" in each.opname + each.argrepr:
            return
    for name, value in bound.items():
        if value is _DEFINED or type(value) in _ATOMS:
            yield Reading(module.__name__, spec, name, value)


def _code_of(name: str, spec: Any) -> CodeType | None:
    with suppress(Exception):  # the loader may be anybody's, its text gone, or another one by now
        code: CodeType | None = spec.loader.get_code(name)
        return code
    return None


_UNKNOWN = object()
_LOADS = frozenset({"LOAD_CONST", "LOAD_SMALL_INT", "LOAD_COMMON_CONSTANT"})  # from 3.14, and 3.15 on
_ATOMS = frozenset({bool, int, float, complex, str, bytes, type(None)})  # that compare with nothing of the user's
