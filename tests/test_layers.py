"""The floors: a module imports only from floors below it, even inside a function; small files, small functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import parmap

# The one table of floors, from the ground up.
HOUSE = [
    [
        "errors",
        "_by_value",
        "_checks",
        "_cpus",
        "_display",
        "_environment",
        "_flat",
        "_pace",
        "_page",
        "_place",
        "_poller",
        "_imports",
        "_surroundings",
        "_wrapping",
    ],
    ["_vocabulary"],
    ["_pack"],
    ["_async_result", "_options", "_payload", "_progress", "_seeds", "_segments"],
    ["_copies", "_failure", "_shared"],
    ["_channel"],
    ["_job", "_output", "_relay", "_run"],
    ["_futures", "_schedule", "_worker"],
    ["_batch", "_lane", "_launch", "backends.base"],
    ["_streams", "backends.serial", "backends.threads", "backends.executor", "backends.worker"],
    ["backends.signals", "backends.dask", "backends.ray"],
    ["backends.staff"],
    ["backends.processes", "backends.__init__"],
    ["_async_streams", "_conductor"],
    ["_engine"],
    ["_pools"],
    ["_batches", "_dropin"],
    ["_function", "executor", "pool"],
    ["_methods"],
    ["_decorator"],
    ["joblib"],
    ["__init__"],
]
FLOORS = {module: floor for floor, modules in enumerate(HOUSE) for module in modules}
MOST_LINES, MOST_LINES_OF_FUNCTION = 400, 50

PACKAGE = Path(parmap.__file__).parent
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


def _floor(module: str) -> float:
    """Return the floor of a module of the package, named without ``parmap.``; KeyError if it has none."""
    if module in FLOORS:
        return FLOORS[module]
    return FLOORS[module.partition(".")[0]] if "." in module else FLOORS[module]


def _is_module(name: str) -> bool:
    return name in FILES or f"{name}.__init__" in FILES


def imports_of(module: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and target (without ``parmap.``) of each import of the package in *tree*; ``__init__`` is its root."""
    for node in ast.walk(tree):
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
    return [f"line {line}: {name}" for line, name in imports_of(module, tree) if name != module and _floor(name) >= own]


def _without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


@pytest.mark.parametrize("module", FILES)
def test_every_module_has_a_floor(module: str):
    """A new file is put on a floor, in the table above."""
    assert _floor(module) >= 0


@pytest.mark.parametrize("module", [module for module in FILES if module != "__init__"])
def test_imports_go_down(module: str):
    """No import goes up or sideways, inside functions and for type checkers included."""
    assert _upward(module, ast.parse(FILES[module].read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import parmap.pool",
        "import parmap",
        "from parmap import pool",
        "from parmap import parallel",
        "from parmap.pool import Pool",
        "from parmap.backends import threads",
        "from . import pool",
        "from .pool import Pool",
        "from .backends.threads import Threads",
        "def f():\n    from parmap import pool",
        "if TYPE_CHECKING:\n    from parmap.pool import Pool",
        "import os, parmap._worker as w",
    ],
)
def test_upward_imports_are_seen(code: str):
    """Every form of import is understood."""
    assert _upward("_channel", ast.parse(code)) != []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("_channel", "from parmap import errors"),
        ("_channel", "from parmap._payload import pack"),
        ("_channel", "import os.path\nfrom collections import abc"),
        ("backends.threads", "from parmap.backends.base import Backend"),
        ("backends.threads", "from .base import Backend"),
        ("backends.threads", "from .._futures import Future"),
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
