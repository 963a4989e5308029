"""Functions that came by value, made again in a worker.

cloudpickle could do it, but a worker that has nothing else of it to unpickle need not import it, which takes longer
than to start the worker.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any
from weakref import WeakValueDictionary

initialized: dict[tuple[str, str], dict[str, Any]] = {}
"""What the initializer of this worker has set: globals by module and "", attributes of functions by module and name."""


_named: WeakValueDictionary[str, Any] = WeakValueDictionary()  # what came of the program's `__main__`, by its name


def give_name(thing: Any) -> None:
    """Let a function or class be found in `__main__`, if it is of the program's."""
    if thing.__module__ == "__main__" and "." not in thing.__qualname__:
        _named[thing.__qualname__] = thing


def find_in_main(name: str) -> Any:
    """Where `__main__` of a worker lacks an attribute: what the task's own pickling looks for, as `joblib.dump` does.

    Not that of parmap: what goes home by its name might meet another one there.
    """
    found = _named.get(name)
    asks = str(sys._getframe(1).f_globals.get("__name__"))  # noqa: SLF001 - picklers are in C
    if found is None or asks.startswith("parmap."):
        raise AttributeError(f"module '__main__' has no attribute {name!r}")
    return found


HINTS = "_abc_names_in_hints"
"""An attribute of classes that came by value: what their annotations name in texts, by its name.

Protocols, which say of what they have that their instances have it, pass over what begins so.
"""


class _Main(ModuleType):
    """The `__main__` of a worker, where `get_type_hints` and its like look for what the annotations of a class name."""

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        variables: dict[str, Any] = _variables.__get__(self)
        places = sys._getframe(1).f_locals  # noqa: SLF001 - as above
        asked = next((each for name in _OF_CLASSES if isinstance(each := places.get(name), type)), None)
        return variables if asked is None else variables | dict(vars(asked).get(HINTS, _named))


_variables: Any = vars(ModuleType)["__dict__"]
_OF_CLASSES = ("base", "cls", "obj", "owner")  # what they call it: typing, inspect, msgspec, pydantic, annotationlib


def begin_main() -> None:
    """From now on `__main__` is that of a worker: others find in it what came of the program's."""
    main = sys.modules["__main__"]
    main.__class__, main.__getattr__ = _Main, find_in_main  # type: ignore[method-assign]


class Made:
    """In the place of something: what makes it in the worker."""

    def __init__(self, make: Callable[..., Any], *args: Any, of: object = None) -> None:
        self._reduced = make, args
        self._of = of  # alive as long as its identity is used

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


def make_code(*parts: Any) -> CodeType:
    """Code, which has no name that pickle finds."""
    return CodeType(*parts)


def make_cell() -> CellType:
    """The cell of a captured variable, without content."""
    return CellType()


def fill_cell(cell: CellType, content: tuple[Any]) -> None:
    """Give a captured variable its value, in all functions that share it."""
    (cell.cell_contents,) = content


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
    give_name(function)
    if initialized:
        function.__globals__.update(initialized.get((function.__module__, ""), {}))
        function.__dict__.update(initialized.get((function.__module__, function.__qualname__), {}))
