"""The caller's decimal arithmetic (`decimal.getcontext()`), wherever its tasks run."""

from __future__ import annotations

import sys
from _thread import _local as local
from collections.abc import Generator
from contextlib import contextmanager
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


class _Own(local):
    """What the initializer of a thread has chosen for all tasks there."""

    arithmetic: tuple[Any, ...] | None = None


own = _Own()


@contextmanager
def arithmetic(told: tuple[Any, ...] | None) -> Generator[None]:
    """Let the decimal arithmetic of this thread be the caller's; what tasks change of it ends with them."""
    told = own.arithmetic or told
    if told is None:  # the caller has none
        yield
        return
    import decimal

    with decimal.localcontext(made(told)):
        yield
