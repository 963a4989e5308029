"""The caller's decimal arithmetic (`decimal.getcontext()`), wherever its tasks run."""

from __future__ import annotations

from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

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


@contextmanager
def arithmetic(told: tuple[Any, ...] | None) -> Generator[None]:
    """Let the decimal arithmetic of this thread be the caller's; what tasks change of it ends with them."""
    if told is None:  # the caller has none
        yield
        return
    import decimal

    with decimal.localcontext(made(told)):
        yield
