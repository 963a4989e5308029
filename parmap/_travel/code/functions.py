"""Functions that came by value, made again in a worker.

cloudpickle could do it, but a worker that has nothing else of it to unpickle need not import it, which takes longer
than to start the worker.
"""

from __future__ import annotations

import builtins
import sys
from types import CellType, CodeType, FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

initialized: dict[tuple[str, str], dict[str, Any]] = {}
"""What the initializer of this worker has set: globals by module and "", attributes of functions by module and name."""


def make_code(*parts: Any) -> CodeType:
    """Code, which has no name that pickle finds."""
    return CodeType(*parts)


def make_cell() -> CellType:
    """The cell of a captured variable, without content."""
    return CellType()


def fill_cell(cell: CellType, content: tuple[Any]) -> None:
    """Give a captured variable its value, in all functions that share it."""
    (cell.cell_contents,) = content


def find_module(name: str) -> ModuleType:
    """A module that can be imported."""
    __import__(name)
    return sys.modules[name]


def make_function(
    code: CodeType,
    variables: dict[str, Any],
    name: str | None,
    defaults: tuple[Any, ...] | None,
    cells: tuple[CellType, ...] | None,
) -> FunctionType:
    """A function without its state, which may refer to it."""
    variables["__builtins__"] = vars(builtins)
    return FunctionType(code, variables, name, defaults, cells)


def fill_function(function: FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Give a function its state: those globals that it was sent with, but for what belongs to the worker.

    Each function brings globals of its own, as they are when it is called. What the initializer has set for its module,
    the caller does not have: these stay.
    """
    variables, attributes = state
    function.__dict__.update(variables)
    function.__globals__.update(attributes.pop("__globals__"))
    function.__globals__["__builtins__"] = vars(builtins)
    del attributes["_cloudpickle_submodules"]  # are imported when they are unpickled
    del attributes["__closure__"]  # these cells were filled when they were unpickled
    for name, value in attributes.items():
        setattr(function, name, value)
    if initialized:
        function.__globals__.update(initialized.get((function.__module__, ""), {}))
        function.__dict__.update(initialized.get((function.__module__, function.__qualname__), {}))
