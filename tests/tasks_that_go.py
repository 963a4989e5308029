"""What must be let go when its user does, in a light module: workers import it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from parmap import parallel

if TYPE_CHECKING:
    from collections.abc import Callable


class Model:
    """An object with a method."""

    def run(self, x: int) -> int:
        """Return the argument."""
        return x

    def __call__(self, x: int) -> int:
        """Return the argument."""
        return x

    @parallel(workers=2)
    def decorated(self, x: int) -> int:
        """Return the argument."""
        return x


def closure_over(thing: Any) -> Callable[[int], int]:
    """A function that captures *thing*."""

    def closure(x: int) -> int:
        return x if thing is not None else -x

    return closure


def partial_of(thing: Any) -> Any:
    """A partial that has *thing*."""
    return partial(of_two, thing)


def of_two(_: Any, x: int = 1) -> int:
    """The second."""
    return x
