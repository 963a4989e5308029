"""The house: a room knows only the rooms before it, even inside a function; small folders, files and functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import parmap

# The one table of rooms, from the ground up: at run time, a room knows those before it. A module that is no room of its
# own belongs to the folder it lies in.
ROOMS = [
    "errors",
    "_travel",
    "_work",
    "_core",
    "_results",
    "backends",
    "_engine",
    "_calls",
    "executor",
    "pool",
    "joblib",
    "testing",
    "__main__",
    "__init__",
]
MOST_NAMES = 12  # in a folder, besides its `__init__` and `__main__`
MOST_LINES, MOST_LINES_OF_FUNCTION = 400, 50

PACKAGE = Path(parmap.__file__).parent
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


def _floor(module: str) -> float:
    """Return the place of a module's room in the table; ValueError if it is in none."""
    return ROOMS.index(module.partition(".")[0])


def _is_module(name: str) -> bool:
    return name in FILES or f"{name}.__init__" in FILES


def _at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk *tree*, but for what only type checkers read: a joint is typed on both sides."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _at_run_time(node)


def imports_of(module: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and target (without ``parmap.``) of each import of the package in *tree*; ``__init__`` is its root."""
    for node in _at_run_time(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root, _, rest = alias.name.partition(".")
                if root == "parmap":
                    yield node.lineno, rest or "__init__"
        elif isinstance(node, ast.ImportFrom):
            package = ["parmap", *module.split(".")][: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            root, _, rest = base.partition(".")
            if root != "parmap":
                continue
            for alias in node.names:
                inner = f"{rest}.{alias.name}" if rest else alias.name
                yield node.lineno, inner if _is_module(inner) else rest or "__init__"


def _upward(module: str, tree: ast.AST) -> list[str]:
    own = _floor(module)
    return [f"line {line}: {name}" for line, name in imports_of(module, tree) if _floor(name) > own]


def _without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


@pytest.mark.parametrize("module", FILES)
def test_every_module_has_a_room(module: str):
    """A new file lies in one of the rooms of the table above."""
    assert _floor(module) >= 0


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES.values()}), ids=lambda path: path.name)
def test_few_names_in_a_folder(folder: Path):
    """A folder can be read at a glance, and opens with what lives there, its door, and what each file is for."""
    names = [
        path.name
        for path in folder.iterdir()
        if path.name not in {"__init__.py", "__main__.py", "__pycache__", "py.typed"}
    ]

    assert len(names) <= MOST_NAMES
    opening = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    if folder != PACKAGE:
        assert re.search(r"\bdoors?\b", opening)
        assert [name for name in names if f"`{name.removesuffix('.py')}`" not in opening] == []


@pytest.mark.parametrize("module", [module for module in FILES if module != "__init__"])
def test_imports_go_down(module: str):
    """No import goes up into another room, inside functions included."""
    assert _upward(module, ast.parse(FILES[module].read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import parmap.pool",
        "import parmap",
        "from parmap import pool",
        "from parmap import parallel",
        "from parmap.pool import Pool",
        "from parmap.backends import _threads",
        "from .. import pool",
        "from ..pool import Pool",
        "from ..backends._threads import Threads",
        "def f():\n    from parmap import pool",
        "import os, parmap.backends._processes.child.serve as w",
    ],
)
def test_upward_imports_are_seen(code: str):
    """Every form of import is understood."""
    assert _upward("_travel.pack", ast.parse(code)) != []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("_travel.pack", "from parmap import errors"),
        ("_travel.pack", "from parmap._travel.payload import pack"),
        ("_travel.pack", "import os.path\nfrom collections import abc"),
        ("backends._threads", "from parmap.backends._base import Backend"),
        ("backends._threads", "from ._base import Backend"),
        ("backends._threads", "from .._results.futures import Future"),
    ],
)
def test_downward_imports_pass(module: str, code: str):
    """What is below may be imported."""
    assert _upward(module, ast.parse(code)) == []


@pytest.mark.parametrize("module", FILES)
def test_no_grab_bags(module: str):
    """A module is named after what it does."""
    assert not {"utils", "common", "helpers", "misc"} & {part.strip("_") for part in module.split(".")}


@pytest.mark.parametrize("module", FILES)
def test_small_files(module: str):
    """A file can be held in the head."""
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("module", FILES)
def test_small_functions(module: str):
    """So can a function; its docstring does not count."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    large = {each.name: lines for each in functions if (lines := _without_docstring(each)) > MOST_LINES_OF_FUNCTION}

    assert large == {}
