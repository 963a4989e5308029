"""Whether functions of a module change what is in it, as one does that fills a cache, or counts: its text tells."""

from __future__ import annotations

import ast
from contextlib import suppress
from functools import lru_cache
from types import ModuleType

_MAKES = {"__init__", "__new__", "__post_init__"}
_CHANGES = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "remove", "discard", "clear"}


def is_set_in(module: ModuleType, variable: str, name: str) -> bool:
    """Whether a function there, but for those that make objects, sets *name*, or changes what *variable* is.

    What stands outside of functions, workers do as well. Where there is no text, nobody knows.
    """
    functions = _functions_of(module)
    return functions is None or any(
        _may_set(node, variable, name)
        for function in functions
        if function.name not in _MAKES
        for node in ast.walk(function)
    )


@lru_cache(maxsize=1)  # the next question is most likely of the same module
def _functions_of(module: ModuleType) -> list[ast.FunctionDef | ast.AsyncFunctionDef] | None:
    tree = None
    with suppress(Exception):  # the loader may be anybody's, the text gone, or another one by now
        tree = ast.parse(module.__spec__.loader.get_source(module.__name__))  # type: ignore[union-attr]
    if tree is None:
        return None
    return [each for each in ast.walk(tree) if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))]


def forget() -> None:
    """Hold no text, and no module, any longer."""
    _functions_of.cache_clear()


def _may_set(node: ast.AST, variable: str, name: str) -> bool:
    found: list[ast.expr] = []  # what may be another one after it
    match node:
        case ast.Global(names=names):
            return variable in names
        case ast.Attribute(attr=attribute, ctx=ast.Store() | ast.Del()):
            return attribute == name
        case ast.Subscript(value=value, slice=key, ctx=ast.Store() | ast.Del()):
            found = [value, key]
        case ast.Call(func=function, args=args, keywords=keywords):  # who is given it may change it
            found = [*args, *(each.value for each in keywords)]
            if isinstance(function, ast.Attribute) and function.attr in _CHANGES:
                found.append(function.value)
        case ast.AugAssign(target=target):
            found = [target]
        case _:
            pass
    return any(
        variable in {getattr(each, "id", None), getattr(each, "attr", None)} or getattr(each, "value", None) == name
        for each in found
    )
