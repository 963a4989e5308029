"""What never changes, or is the same as long as it is the same object: a mark may compare it by identity.

And what of a function tasks may change, so that another one is not the same, though it is equal.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from opcode import opmap
from types import (
    BuiltinFunctionType,
    CodeType,
    EllipsisType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    NoneType,
    NotImplementedType,
    WrapperDescriptorType,
)
from typing import Any
from weakref import ref

from parmap._travel.code.by_value import MADE_BY_CODE, is_by_value
from parmap._travel.code.needs.variables import captured_by, codes_in, defaults_of
from parmap._travel.code.special.lazy import LAZY_IMPORT, is_of_module
from parmap._travel.failure import pass_on
from parmap._travel.flat import is_constant_kind

ATOMS: frozenset[type] = frozenset(
    {int, float, complex, bool, str, bytes, range, CodeType, NoneType, EllipsisType, NotImplementedType}
    | {getattr(builtins, "sentinel", NoneType)}  # from 3.15 on
)
FROZEN = frozenset({tuple, frozenset})
_SETS = opmap["STORE_DEREF"]

# Of `dataclasses`; each has one instance for each name.
_MARKERS = ("_MISSING_TYPE", "_FIELD_BASE", "_HAS_DEFAULT_FACTORY_CLASS", "_KW_ONLY_TYPE")


def goes_by_name(value: Any, kind: type) -> bool:
    """Whether workers find a value by its name."""
    if kind is BuiltinFunctionType:
        owner = value.__self__
        return type(owner) is ModuleType or (type(owner) is type and not owner.__flags__ & MADE_BY_CODE)
    if kind is ModuleType:
        return not is_by_value(value)
    return kind is getattr(sys.modules.get("logging"), "Logger", None)


def is_constant(value: Any, kind: type) -> bool:
    """Whether it is there once, as long as the process lives, and never changes."""
    if kind is LAZY_IMPORT:
        return is_of_module(value)
    if kind is WrapperDescriptorType or kind is MethodDescriptorType:
        return not value.__objclass__.__flags__ & MADE_BY_CODE
    if is_constant_kind(kind):
        zone = getattr(value, "tzinfo", None)  # which may be of the user's making
        return zone is None or is_constant(zone, type(zone))
    return kind.__module__ == "dataclasses" and kind.__name__ in _MARKERS


def are_frozen(values: Sequence[Any]) -> bool:
    """Whether all are atoms, or tuples or frozen sets of such."""
    kinds = set(map(type, values))
    if kinds <= ATOMS:
        return True
    if not kinds <= ATOMS | FROZEN:
        return False
    inner = [each for each in values if type(each) in FROZEN]
    try:
        return are_frozen(list(chain.from_iterable(inner)))
    except RecursionError:
        return False


def size_of(values: Sequence[Any]) -> int:
    """Bytes that atoms take, and what they are in."""
    size = 8 * len(values) + sum(map(sys.getsizeof, values))
    inner = [each for each in values if type(each) in FROZEN and each]
    return size + size_of(list(chain.from_iterable(inner))) if inner else size


def state_of(function: Any) -> Any:
    """What tasks may change of a function: the object of a method, or the function itself; None if nothing."""
    if type(function) is partial and not any(
        _has_state(each, []) for each in (function.args, *function.keywords.values())
    ):
        return state_of(function.func)
    if type(function) is MethodType:
        return function.__self__ if _has_state(function.__self__, []) else None
    return function if _has_state(function, []) else None


def whose(owner: Any) -> Callable[[], Any]:
    """What gives an object as long as it lives; of one that can't be held weakly, always another."""
    if owner is None:
        return NoneType
    return ref(owner) if type(owner).__weakrefoffset__ else object


def _has_state(value: Any, seen: list[Any]) -> bool:
    """Whether something in a value may be changed, but for globals and what classes and modules have."""
    kind = type(value)
    if kind is MethodType:
        return _has_state(value.__self__, seen)
    if kind is tuple:
        return any(_has_state(each, seen) for each in value)
    if kind is not FunctionType:
        try:
            is_known = issubclass(kind, type) or goes_by_name(value, kind) or is_constant(value, kind)
            return not is_known and not are_frozen((value,))
        except Exception as error:  # noqa: BLE001 - the user's class
            pass_on(error)
            return True
    if any(value is each for each in seen):  # it captures itself
        return False
    inner = *captured_by(value).values(), *defaults_of(value).values()
    return _sets_captured(value.__code__) or _has_state(inner, [*seen, value])


def _sets_captured(code: CodeType) -> bool:
    """Whether a function, or one in it, sets a variable that it captures."""
    for each in codes_in(code) if code.co_freevars else ():
        captured = [*dict.fromkeys((*each.co_varnames, *each.co_cellvars)), *each.co_freevars]
        steps = zip(each.co_code[::2], each.co_code[1::2], strict=True)
        if any(step == _SETS and captured[place] in code.co_freevars for step, place in steps):
            return True
    return False
