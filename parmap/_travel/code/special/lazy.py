"""What a program leaves for later: lazy imports (from Python 3.15 on) and annotations (from 3.14 on).

Neither is done before its time only to send a function: it might import much, or name what is not there.
"""

from __future__ import annotations

import builtins
import gc
import sys
import types
from collections.abc import Iterator
from functools import partial
from itertools import chain
from types import FunctionType, ModuleType, NoneType
from typing import Any, Literal
from weakref import WeakKeyDictionary

from parmap._travel.code.by_name import identity
from parmap._travel.failure import pass_on

LAZY_IMPORT: type[Any] = getattr(types, "LazyImportType", type("lazy_import", (), {}))
"""The type of a lazy import that was not made yet; before there were any: one that nothing has."""


def module_of(lazy: Any) -> str:
    """The name of the module that a lazy import will import."""
    name = repr(lazy).split("'")[1]
    return name if is_of_module(lazy) else name.rpartition(".")[0]


def is_of_module(lazy: Any) -> bool:
    """Whether a lazy import is one of a module, which workers know by its name: `from` may find what was changed."""
    return not any(type(part) is LAZY_IMPORT for part in gc.get_referents(lazy))  # which it would be taken from


def import_reduced(lazy: Any) -> tuple[Any, ...]:
    """As a reducer: a lazy import travels as such, unless there is already what it would find."""
    home = module_of(lazy)
    if is_of_module(lazy):
        return make_import, (f"import {home}", home.partition(".")[0])
    attribute = repr(lazy).split("'")[1].rpartition(".")[2]
    found = getattr(sys.modules.get(home), "__dict__", {}).get(attribute, lazy)
    if type(found) is not LAZY_IMPORT:  # the program may have changed it
        return identity, (found,)
    return make_import, (f"from {home} import {attribute}", attribute)


def make_import(statement: str, name: str) -> Any:
    """A lazy import, as the module of the program had it, or the one that was found."""
    variables: dict[str, Any] = {}
    exec(f"lazy {statement}", variables)  # noqa: S102 - there is no other way to make one
    return variables[name]


def is_found_by(lazy: Any, value: Any) -> bool:
    """Whether it was a lazy import, and *value* is what that has found."""
    return type(lazy) is LAZY_IMPORT and module_of(lazy) in sys.modules and lazy.resolve() is value


def submodules_left(names: set[str]) -> list[str]:
    """Lazily imported submodules that *names* may lead to: they are imported with what their package is asked for."""
    left = tuple(getattr(sys, "lazy_modules", ()))
    return sorted([name for name in left if "." in name and names.issuperset(name.split("."))])


def find_submodule(name: str) -> Any:
    """A submodule, if it is one: it may be something else that was imported from a module."""
    try:
        return __import__(name)
    except ImportError:
        return None


# --- annotations -----------------------------------------------------------------------------------

_texts: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()


def are_late(thing: Any) -> bool:
    """Whether the annotations of a function or class can't be evaluated yet, or would import something."""
    annotate = getattr(thing, "__annotate__", None)
    if annotate is None:
        return False
    if _would_import(annotate):
        return True
    try:
        _ = thing.__annotations__
    except Exception as error:  # noqa: BLE001 - the user's code
        pass_on(error)
        return True
    return False


def _would_import(annotate: Any) -> bool:
    names = annotate.__code__.co_names if isinstance(annotate, FunctionType) else ()
    return any(type(annotate.__globals__.get(name)) is LAZY_IMPORT for name in names)


def annotations_of(thing: Any) -> dict[str, Any]:
    """The annotations of a function or class; those that are late as text, as if they had been quoted.

    None, where they can't be told as text either: `"Node" | None` is an error whoever asks, but not of a call.
    """
    if not are_late(thing):
        annotations: dict[str, Any] = getattr(thing, "__annotations__", {})
        return annotations
    annotate = thing.__annotate__
    if annotate not in _texts:  # the same each time: marks compare by identity
        from annotationlib import Format, call_annotate_function  # type: ignore[import-not-found, unused-ignore]

        plain = annotate
        if _would_import(annotate):  # which this does, too, before it takes other globals
            plain = FunctionType(annotate.__code__, {}, closure=annotate.__closure__)
        try:
            _texts[annotate] = call_annotate_function(plain, Format.STRING, owner=thing)
        except Exception as error:  # noqa: BLE001 - the user's code
            pass_on(error)
            _texts[annotate] = {}
    return dict(_texts[annotate])


# --- names in annotations that are texts -----------------------------------------------------------

# Whose classes annotations are made of; `dataclasses` has `KW_ONLY`.
_OF_HINTS = ("annotationlib", "dataclasses", "types", "typing", "typing_extensions")
_KINDS = (type, NoneType, ModuleType, LAZY_IMPORT, getattr(builtins, "sentinel", type))  # the last from 3.15 on


def names_in_hints(thing: Any) -> tuple[str, ...]:
    """What annotations of a function or class name in texts, as all are from `from __future__ import annotations`.

    That is types and modules, `None`, what is not there (yet), and in `Annotated` anything: nothing that only looks so.
    """
    named = partial(_named_in, variables_of(thing))
    return tuple(dict.fromkeys(chain.from_iterable(map(named, annotations_of(thing).values()))))


def hints_of(thing: Any) -> dict[str, Any]:
    """What is there of that."""
    variables = variables_of(thing)
    return {name: variables[name] for name in names_in_hints(thing) if name in variables}


def variables_of(thing: Any) -> dict[str, Any]:
    """The variables of the module of a function or class."""
    if isinstance(thing, FunctionType):
        return thing.__globals__
    found: dict[str, Any] = getattr(sys.modules.get(thing.__module__), "__dict__", {})
    return found


def _is_hint(value: Any) -> bool:
    return isinstance(value, _KINDS) or type(value).__module__ in _OF_HINTS


def _named_in(variables: dict[str, Any], hint: Any) -> Iterator[str]:
    if type(hint) is str:
        try:
            code = compile(hint, "<annotation>", "eval")
        except (SyntaxError, ValueError):  # it is no type, as `Literal` has it
            return
        takes_all = "Annotated" in code.co_names
        yield from [n for n in code.co_names if takes_all or n not in variables or _is_hint(variables[n])]
        yield from chain.from_iterable(_named_in(variables, each) for each in code.co_consts if type(each) is str)
    elif type(hint).__module__ in _OF_HINTS and getattr(hint, "__origin__", None) is not Literal:
        parts = getattr(hint, "__args__", None) or (getattr(hint, "__forward_arg__", None),)
        yield from chain.from_iterable(_named_in(variables, part) for part in parts)
