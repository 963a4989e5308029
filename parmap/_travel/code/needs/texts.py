"""What the text of a module says of its variables: those that it binds but once, to a literal, function or import."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any, NamedTuple

from parmap._travel.code.needs.modules import is_shared
from parmap._travel.code.needs.readings import ATOMS, Steps


class Told(NamedTuple):
    """What a variable is bound to."""

    kind: str
    """`literal`, `function`, or an import from a module of `ours` or of `theirs`; or `class`, or `unknown`."""
    value: Any = None


_UNKNOWN, _FUNCTION, _OURS, _THEIRS = Told("unknown"), Told("function"), Told("ours"), Told("theirs")

_LONGEST = 1000  # parts of a literal
_CONTAINERS = (list, tuple, set, dict)
_LITERAL = (
    *(ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.expr_context),
    *(ast.UnaryOp, ast.BinOp, ast.unaryop, ast.operator),
)
_MAKES = {"__init__", "__new__", "__post_init__"}
_CHANGES = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "remove", "discard", "clear"}


def variables_of(module: ModuleType) -> Iterator[tuple[Steps, Told]]:
    """What is bound but once, at the outer level and in classes: where it is, and what the text says."""
    tree = _tree_of(module.__name__, module.__spec__)
    for name, told in _bound_once([] if tree is None else tree.body).items():
        if told.kind == "class":
            inner = _bound_once(told.value.body)
            yield from ((((name, False), (each, False)), inner[each]) for each in inner if inner[each].kind != "class")
        elif told.kind != "class":
            yield ((name, False),), told


def changes(name: str, spec: Any, variable: str, value: Any) -> bool:
    """Whether a line of the module may change a variable later, as one does that fills a cache."""
    tree = _tree_of(name, spec)
    return tree is None or any(_may_change(node, variable, value) for node in ast.walk(tree))


def is_set_in(module: ModuleType, variable: str, name: str) -> bool:
    """Whether a function there, but for those that make objects, sets *name*, or changes what *variable* is."""
    tree = _tree_of(module.__name__, module.__spec__)
    for function in [] if tree is None else ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)) and function.name not in _MAKES:
            for node in ast.walk(function):
                if _may_change(node, name, None) or _may_change(node, variable, {}):
                    return True
                key = node.slice if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load) else None
                if isinstance(key, ast.Constant) and key.value == name:
                    return True
    return False


def _may_change(node: ast.AST, variable: str, value: Any) -> bool:
    if isinstance(node, ast.Global):
        return variable in node.names
    if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
        return node.attr == variable
    uses = _uses(node) if isinstance(value, _CONTAINERS) else []
    return any(variable in {getattr(use, "id", None), getattr(use, "attr", None)} for use in uses)


def _uses(node: ast.AST) -> list[ast.expr | None]:
    """Containers that may become others here: what is done to them, whom they are given to, other names."""
    match node:
        case ast.Call():
            owner = node.func.value if isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGES else None
            return [owner, *node.args, *(each.value for each in node.keywords)]
        case ast.Subscript(ctx=ast.Store() | ast.Del()):
            return [node.value]
        case ast.Assign() | ast.AnnAssign() | ast.NamedExpr():
            return [node.value]
        case ast.AugAssign():
            return [node.target]
        case _:
            return []


def _tree_of(name: str, spec: Any) -> ast.Module | None:
    with suppress(Exception):  # the loader may be anybody's, the text gone, or another one by now
        tree = ast.parse(spec.loader.get_source(name))
        return tree if isinstance(tree, ast.Module) else None
    return None


def _bound_once(statements: Iterable[ast.stmt]) -> dict[str, Told]:
    found: dict[str, Told] = {}
    for statement in statements:
        for name, told in _bindings(statement):
            found[name] = _UNKNOWN if name in found else told
    return {} if "*" in found else {name: told for name, told in found.items() if told is not _UNKNOWN}


def _bindings(statement: ast.stmt) -> Iterator[tuple[str, Told]]:
    """The names that a statement binds, and to what."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield statement.name, _UNKNOWN if statement.decorator_list else _FUNCTION
        case ast.ClassDef():
            is_plain = not (statement.decorator_list or statement.keywords)
            yield statement.name, Told("class", statement) if is_plain else _UNKNOWN
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            yield name, _literal(value)
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            yield name, _literal(value)
        case ast.Import():
            for each in statement.names:
                yield each.asname or each.name.partition(".")[0], _THEIRS if is_shared(each.name) else _OURS
        case ast.ImportFrom():
            told = _THEIRS if statement.level == 0 and is_shared(str(statement.module)) else _OURS
            yield from ((each.asname or each.name, told) for each in statement.names)
        case _:
            yield from ((name, _UNKNOWN) for name in _names_in(statement))


def _names_in(statement: ast.stmt) -> Iterator[str]:
    """What is bound in a statement with statements in it, if something is so, or in other ways."""
    for node in ast.walk(statement):
        if isinstance(node, ast.alias):
            yield node.asname or node.name.partition(".")[0]
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif getattr(node, "name", None) is not None:
            yield str(getattr(node, "name", None))


def _literal(expression: ast.expr) -> Told:
    """What an expression is that names and calls nothing."""
    parts = [*ast.walk(expression)] if isinstance(expression, _LITERAL) else []
    if 0 < len(parts) < _LONGEST and all(isinstance(each, _LITERAL) for each in parts):
        with suppress(Exception):  # as in the module's own text
            value = eval(compile(ast.Expression(expression), "", "eval"), {})  # noqa: S307 - it names nothing
            if type(value) in ATOMS or (type(value) in _CONTAINERS and value):  # an empty one is there to be filled
                return Told("literal", value)
    return _UNKNOWN
