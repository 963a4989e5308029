"""The caller's arithmetic, wherever its tasks run: `decimal.getcontext()`, and how numpy takes errors of floats."""

from __future__ import annotations

import sys
from _thread import _local as local
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from operator import attrgetter
from typing import Any

_numbers = attrgetter("prec", "rounding", "Emin", "Emax", "capitals", "clamp")


def traits(context: Any) -> tuple[Any, ...]:
    """What a context of `decimal` says, to be compared as long as it lives: the mapping of traps is its own."""
    return _numbers(context), context.traps


def told(context: Any) -> tuple[Any, ...]:
    """The same, to be sent: see `made`."""
    return (*_numbers(context), [signal.__name__ for signal, is_set in context.traps.items() if is_set])


def made(told: tuple[Any, ...]) -> Any:
    """A context of `decimal`, as it was told."""
    import decimal

    *numbers, traps = told
    make: Any = decimal.Context
    return make(*numbers, [], [getattr(decimal, name) for name in traps])


def chosen(base: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """The arithmetic of this thread, if somebody has chosen another than *base*; `None` is the usual one."""
    decimal: Any = sys.modules.get("decimal")
    if not hasattr(decimal, "getcontext"):  # another thread may just be importing it
        return None
    now = told(decimal.getcontext())
    return None if now == (base or told(decimal.DefaultContext)) else now


def float_errors() -> Any:
    """What is equal as long as nobody changes how numpy takes errors of floats here; `None` without numpy."""
    numpy: Any = sys.modules.get("numpy")
    if not hasattr(numpy, "geterr"):  # another thread may just be importing it
        return None
    # `geterr` takes a microsecond, and is asked for each task of `submit`.
    state: Any = getattr(sys.modules.get("numpy._core.umath"), "_extobj_contextvar", None)
    return numpy.geterr() if state is None else state.get()


USUAL = {"divide": "warn", "invalid": "warn", "over": "warn", "under": "ignore"}


def told_errors() -> dict[str, str] | None:
    """How numpy takes errors of floats in this thread, to be sent; `None` is the usual way.

    What it calls, or writes to, can't be: who has chosen that is warned.
    """
    numpy: Any = sys.modules.get("numpy")
    now = numpy.geterr() if hasattr(numpy, "geterr") else USUAL
    told = {kind: "warn" if way in {"call", "log"} else way for kind, way in now.items()}
    return None if told == USUAL else told


class _Own(local):
    """What the initializer of a thread has chosen for all tasks there."""

    decimal: tuple[Any, ...] | None = None
    errors: dict[str, str] | None = None


own = _Own()


def choose() -> None:
    """An initializer has been called in this thread: what it has chosen holds."""
    own.decimal, own.errors = chosen(None), told_errors()


@contextmanager
def arithmetic(decimal: tuple[Any, ...] | None, errors: dict[str, str] | None) -> Generator[None]:
    """Let the arithmetic of this thread be the caller's, if it has one; what tasks change of it ends with them."""
    decimal, errors = own.decimal or decimal, own.errors or errors
    with _decimal(decimal) if decimal else nullcontext(), _numpy(errors) if errors else nullcontext():
        yield


def _decimal(told: tuple[Any, ...]) -> Any:
    import decimal

    return decimal.localcontext(made(told))


def _numpy(errors: dict[str, str]) -> Any:
    numpy: Any = __import__("numpy")
    return numpy.errstate(**errors)
