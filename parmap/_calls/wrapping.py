"""What a wrapper of functions needs to know of functions: names, metadata, and how they can be found again."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

from parmap._travel.code.by_name import is_registered
from parmap._travel.code.special.lazy import annotations_of
from parmap._travel.text import innermost


def copy_metadata(wrapper: object, function: Callable[..., Any]) -> None:
    """Do what `functools.update_wrapper` does, without letting attributes of the function hide methods of *wrapper*."""
    source = innermost(function)  # a partial has no name of its own
    functools.update_wrapper(wrapper, source, updated=())  # type: ignore[arg-type]
    if sys.version_info >= (3, 14):  # where update_wrapper hands on what makes them, which an instance doesn't ask
        vars(wrapper)["__annotations__"] = annotations_of(source)
    if isinstance(source, FunctionType):
        kind = type(wrapper)
        vars(wrapper).update((name, value) for name, value in vars(source).items() if not hasattr(kind, name))
        # By these `inspect` knows what is like a function, and tells web frameworks whether it is a coroutine function.
        vars(wrapper).update((name, getattr(source, name)) for name in ("__code__", "__defaults__", "__kwdefaults__"))


def name_of(function: Any) -> str:
    """Return the full name of *function*, or its repr if it has none."""
    source = innermost(function)
    name = getattr(source, "__qualname__", None)
    return f"{source.__module__}.{name}" if name and getattr(source, "__module__", None) else name or repr(function)


def found_by_name(function: Any, *, main: bool = False) -> Any:
    """Return what stands under the name of *function* in its module; None if nothing can be found there.

    Nothing is found in ``__main__``, which another process does not have, nor in a module that cloudpickle was told to
    pickle by value; but with *main*, for processes that are copies of this one.
    """
    module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    found = sys.modules.get(module) if isinstance(module, str) else None
    if found is None or not qualname or not (main or (module != "__main__" and not is_registered(str(module)))):
        return None
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def portable(function: Any, kind: type[Any], *, main: bool = False) -> Any:
    """Return what to pickle for *function*: if a *kind* holds its name, that one, which pickles by name.

    The plain function can't be pickled by name then: pickle finds that the name holds something else.
    """
    if type(function) is functools.partial:
        return functools.partial(portable(function.func, kind, main=main), *function.args, **function.keywords)
    if isinstance(function, FunctionType):
        holder = found_by_name(function, main=main)
        if isinstance(holder, kind) and holder.__wrapped__ is function:
            return holder
    return function
